"""Results by name: those in the results folder, and the last measurements of this user.

`run`, `measure` and `save` write them; each command that takes a result's name reads them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kvmbench.results import Result

RESULT_ENDINGS = (".json", ".toml", ".txt", ".log", ".csv", ".md", ".xml")
LAST, KEPT = "last", 20  # the name of the newest measurement; how many the state folder keeps


def saved_results(results_dir: str) -> dict[str, Path]:
    """Return the files of the folder's results by name; none where there is no such folder."""
    return {path.stem: path for path in sorted(Path(results_dir).glob("*.json"))}


def recent_results() -> dict[str, Path]:
    """Return the files of the last measurements by name: `last`, then `last~1`, the one before."""
    try:
        files = sorted(_state_folder().glob("*.json"), reverse=True)[:KEPT]
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


def keep_recent(result: Result) -> None:
    """Keep a measurement as `last`; a folder that cannot be written is a warning, no failure."""
    from kvmbench import results

    try:
        folder = _state_folder()
        folder.mkdir(parents=True, exist_ok=True)
        results.write(folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{os.getpid()}.json", result)
        for old in sorted(folder.glob("*.json"), reverse=True)[KEPT:]:
            old.unlink(missing_ok=True)
    except (OSError, RuntimeError, ValueError) as error:
        click.echo(f"kvmbench: not kept as {LAST!r}: {error}", err=True)


def keeping(
    name: str, results_dir: str, engines: Set[str], *, append: bool, replace: bool
) -> Callable[[Result], None]:
    """Return the function that keeps a result as `name` in `results_dir`.

    Refuses before the work a name or a file that could not take a result of `engines` after it.
    """
    from kvmbench import results

    if (
        not name.strip() or not name.isprintable() or name == LAST
        or name.startswith((".", f"{LAST}~"))
        or name.endswith(RESULT_ENDINGS) or any(sign in name for sign in (os.sep, "=", "#"))
    ):  # fmt: skip
        raise click.UsageError(
            f"{name!r} cannot name a result: expected a name without /, = and #, other than "
            f"{LAST}, which becomes {results_dir}/NAME.json; --results-dir chooses the folder"
        )
    file = Path(results_dir) / f"{name}.json"
    if file.exists() and not replace:
        try:
            old = results.read(file)
        except OSError as error:
            raise click.UsageError(f"{file}: {error.strerror or error}") from None
        except ValueError as error:
            raise click.ClickException(str(error)) from None
        if not append and any(series.kind == "noisy" for _, _, series in old.series()):
            raise click.UsageError(
                f"{file} holds measured runs: --append adds to them, --replace replaces them"
            )
        # A comparison can use no file that holds both simulated and measured runs.
        others = {run.engine for _, run in old.runs() if run.engine} - engines
        if append and others:
            raise click.UsageError(
                f"{file} holds runs of {', '.join(sorted(others))}, and these are of "
                f"{', '.join(sorted(engines))}: choose another NAME"
            )

    def keep(result: Result) -> None:
        import msgspec

        named = msgspec.structs.replace(result, name=name)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            (results.append if append else results.write)(file, named)
        except OSError as error:
            raise click.ClickException(f"{file}: {error.strerror or error}") from None
        except ValueError as error:
            raise click.ClickException(str(error)) from None

    return keep
