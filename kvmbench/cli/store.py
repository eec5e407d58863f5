"""Results by name: those in the results folder, and the last measurements of this user.

`run`, `measure` and `save` write them; each command that takes a result's name reads them.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kvmbench.cli.progress import note

if TYPE_CHECKING:
    from kvmbench.results import Result

RESULT_ENDINGS = (".json", ".toml", ".txt", ".log", ".csv", ".md", ".xml")
LAST, KEPT = "last", 20  # the name of the newest measurement; how many the state folder keeps
RECENT = "????????T??????.*-*.json"  # their files; another file there is not kvmbench's to remove


def saved_results(results_dir: str) -> dict[str, Path]:
    """Return the files of the folder's results by name; none where there is no such folder."""
    found = sorted(Path(results_dir).glob("*.json"))
    return {path.stem: path for path in found if path.is_file()}  # a FIFO would never end


def recent_results() -> dict[str, Path]:
    """Return the files of the last measurements by name: `last`, then `last~1`, the one before."""
    try:
        files = sorted(_state_folder().glob(RECENT), reverse=True)[:KEPT]
    except (OSError, RuntimeError):
        return {}
    return {f"{LAST}~{n}" if n else LAST: file for n, file in enumerate(files)}


def named_results(results_dir: str) -> dict[str, Path]:
    """Return the file of each name that stands for a result."""
    return saved_results(results_dir) | recent_results()


def _state_folder() -> Path:
    """Return the folder of the last measurements (XDG base directories); it may not exist.

    Raises RuntimeError where the user has no home folder.
    """
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local/state") / "kvmbench"


def is_last() -> bool:
    """Return whether `last` is a measurement of this process."""
    file = recent_results().get(LAST)
    return file is not None and file.stem.endswith(f"-{os.getpid()}")


def keep_recent(result: Result) -> None:
    """Keep a measurement as `last`; a folder that cannot be written is a warning, no failure."""
    from kvmbench import results

    try:
        folder = _state_folder()
        folder.mkdir(parents=True, exist_ok=True)
        results.write(folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{os.getpid()}.json", result)
        for old in sorted(folder.glob(RECENT), reverse=True)[KEPT:]:
            old.unlink(missing_ok=True)
    except (OSError, RuntimeError, ValueError) as error:
        note(f"not kept as {LAST!r}: {error}")
