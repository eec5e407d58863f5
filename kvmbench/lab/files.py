"""Files of the lab: a user's, read within a bound, and folders that a killed process leaves.

`kernel`, `run`, `image`, `emulator` and `debian` use them.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvmbench.atomic import locked, read_bounded
from kvmbench.errors import LabError

__all__ = ["LARGEST", "content", "regular", "scratch"]

LARGEST = 100e6  # bytes of a kernel or module


def content(path: Path, most: float = LARGEST) -> bytes:
    """Return the content of a regular file of at most `most` bytes. Raises LabError."""
    try:
        return read_bounded(regular(path), most, LabError)
    except OSError as error:
        raise LabError(f"{path}: {error.strerror or error}") from None


def regular(path: Path) -> Path:
    """Return the path of a regular file; the lab reads a file more than once. Raises LabError."""
    if path.exists() and not path.is_file():
        raise LabError(f"{path}: is no regular file")
    return path


@contextmanager
def scratch(top: Path, prefix: str) -> Iterator[Path]:
    """Yield a new folder below `top`, its name after `prefix`, and remove it after the block.

    Each folder is locked as long as its process lives. Those that are not are removed first.
    """
    top.mkdir(parents=True, exist_ok=True)
    with locked(top / prefix):  # until the new folder has its lock, no other process looks at it
        for left in top.glob(f"{glob.escape(prefix)}*"):
            if (lock := _lock(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=top))
        lock = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """Return a handle that holds the lock of a folder; None where another one does.

    The lock is on a file in it: `kvmbench.atomic.locked` takes that of a folder itself.
    """
    try:
        handle = os.open(folder / "in-use", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    except OSError:  # no folder, or not ours
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
