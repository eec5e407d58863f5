"""Files: read within a bound, and written whole or not at all: aside, synced, then renamed."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = [
    *("locked", "memory_left", "read_bounded", "replace_file", "replaced_file", "try_replace"),
]

NO_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOTSUP)  # NFS has none on a folder

STALE = 3600.0  # seconds after which an aside file is one that a kill left over
BLOCK = 1 << 20  # bytes


def read_bounded(path: str | Path, most: float, error: type[Exception]) -> bytes:
    """Return the content of a file, a pipe or a device of at most `most` bytes.

    Raises `error`, in one line, where it is longer or memory cannot hold it; OSError where it
    cannot be read. A regular file that is too long is not read at all.
    """
    file = Path(path)
    too_long = error(f"{path}: larger than {_size(most)}, the most that is read")
    if file.is_file() and file.stat().st_size > most:
        raise too_long
    data = bytearray()
    try:
        with file.open("rb") as stream:
            while block := stream.read(BLOCK):
                data += block
                if len(data) > most:  # a pipe or a device may have no end
                    raise too_long
        return bytes(data)
    except MemoryError:
        raise error(f"{path}: larger than this machine's memory allows") from None


def _size(number: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def memory_left() -> float:
    """Return the bytes of memory that this process may still take; infinity where unknown.

    The least of MemAvailable and of what the limits of its cgroups, version 2, leave.
    """
    left = [float("inf")]
    if found := re.search(r"MemAvailable:\s+(\d+) kB", _text("/proc/meminfo")):
        left.append(int(found[1]) * 1024)
    if own := re.search(r"^0::/(.*)$", _text("/proc/self/cgroup"), re.MULTILINE):
        root = Path("/sys/fs/cgroup")
        folder = root / own[1]
        for place in (folder, *folder.parents):
            limit, used = (_text(place / f"memory.{what}").strip() for what in ("max", "current"))
            if limit.isdigit() and used.isdigit():
                left.append(max(int(limit) - int(used), 0))
            if place == root:
                break
    return min(left)


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


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
    with replaced_file(target) as file, _about(path):
        file.write(content)


@contextmanager
def replaced_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file aside that becomes the file `path` when the block ends, as `replace_file` does.

    A block that raises leaves the old file. Raises OSError.
    """
    import tempfile

    with _about(path):
        target = Path(path).resolve()
        _sweep(target)
        handle, aside = tempfile.mkstemp(dir=target.parent, prefix=_aside(target))
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            with _about(path):
                file.flush()
                os.fsync(file.fileno())
        with _about(path), locked(target):  # another process may be changing what it has read
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


def try_replace(path: str | Path) -> None:
    """Raise OSError where `replace_file` could not make the file, as far as can be known before.

    Folders on the way to it that are not there yet can be made.
    """
    import tempfile

    with _about(path):
        target = Path(path).resolve()
        folder = next(place for place in target.parents if place.exists())
        (folder / target.name).exists()  # the name may be too long
        with tempfile.TemporaryFile(dir=folder):
            pass


@contextmanager
def _about(path: str | Path) -> Iterator[None]:
    """Give an OSError of the block the name that the caller knows."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _aside(target: Path) -> str:
    """Return how the names of a file's aside files begin: ours alone, and short for any name."""
    return f".kvmbench-aside-{zlib.crc32(os.fsencode(target.name)):08x}-"


def _sweep(target: Path) -> None:
    """Remove the aside files of `target` that a killed process left over."""
    for left in target.parent.glob(f"{_aside(target)}????????"):
        try:
            if time.time() - left.lstat().st_mtime > STALE:
                left.unlink()
        except OSError:
            pass  # another process has just removed it, or it is not ours


_held = threading.local()  # the folders that this thread has locked


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold a lock for reading `path`, changing what was read and writing it back.

    The lock is on the folder: the file itself is another one after each rename. A thread may take
    it again while it holds it. It ends with the process, however that ends. A file system without
    such locks gives none. Raises OSError.
    """
    place = Path(path).resolve().parent
    mine: set[Path] = _held.__dict__.setdefault("folders", set())
    if place in mine:
        yield
        return
    folder = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        mine.add(place)
        yield
    finally:
        mine.discard(place)
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_UN)  # a process forked meanwhile has the handle too
        os.close(folder)


def _permissions(target: Path) -> int:
    """Return the mode of the file that is there, or of any new one."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
