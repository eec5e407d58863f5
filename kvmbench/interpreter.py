"""Other processes of Python: the one place that says how this package starts them.

`kvmbench.live.process`, `kvmbench.lab.image` and `kvmbench.sweeps.engines` do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["environment", "interpreter", "isolated", "python"]


def environment() -> dict[str, str]:
    """Return the environment of a Python that another package starts, off the current folder."""
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(_elsewhere, path))}


@contextmanager
def isolated() -> Iterator[None]:
    """Have it in this process's environment, which the Pythons started meanwhile inherit."""
    before, ours = dict(os.environ), environment()
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def interpreter() -> Path:
    """Return the file of the Python that runs this process, without links."""
    return Path(sys.executable).resolve()


def python(program: str, *words: str, packages: bool = False) -> list[str]:
    """Return the command that runs a program of Python with `words` in its sys.argv.

    It finds the standard library first and this kvmbench second; with `packages`, third what this
    process finds. Python itself looks into neither the current folder nor PYTHONPATH, where
    another user's json.py would run as the user of this process.
    """
    folders = [str(Path(__file__).parents[1])]
    begin = f"import sys; sys.path += {folders}"
    if packages:
        folders += [p for p in sys.path if p not in folders and _elsewhere(p)]
        # Packages installed for editing are found by what `site` runs.
        begin = f"import sys; sys.path += {folders}; import site; site.main()"
    return [sys.executable, "-I", "-S", "-c", f"{begin}\n{program}", *words]


def _elsewhere(folder: str) -> bool:
    """Return whether an entry of sys.path is there, and is not the current folder."""
    try:
        return os.path.isabs(folder) and not os.path.samefile(folder, ".")
    except OSError:
        return False
