"""Files written whole or not at all: aside, synced to the disk, then renamed."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["locked", "replace_file"]


def replace_file(path: str | Path, content: bytes) -> None:
    """Make `content` that of the file `path`.

    A kill or a crash at any point leaves the old file or the new one. A link stays one, the mode
    of a file that is there is kept, and a device or a pipe is written to. Raises OSError.
    """
    target = Path(path)
    if str(path).endswith(os.sep):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if target.exists() and not target.is_file():
        target.write_bytes(content)
        return
    target = target.resolve()
    handle, aside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, _permissions(target))
        os.replace(aside, target)
    except BaseException:
        os.unlink(aside)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else the rename itself may be lost
    except OSError:
        pass  # some file systems cannot sync a folder
    finally:
        os.close(folder)


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold a lock for reading `path`, changing what was read and writing it back.

    The lock is on the folder: the file itself is another one after each rename. It ends with the
    process, however that ends. Raises OSError.
    """
    folder = os.open(Path(path).resolve().parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _permissions(target: Path) -> int:
    """Return the mode of the file that is there, or of any new one."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
