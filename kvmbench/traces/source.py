"""The text of a recording, from a file, stdin, or the program that reads a binary one.

recording.py reads it piece by piece, so that the memory that it takes does not grow.
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from kvmbench.errors import ResultError

__all__ = ["PIECE", "Text", "open_text"]

PIECE = 1 << 20  # bytes

_READERS = {  # of binary recordings: (first bytes, its name, the command before the file's name)
    b"\x17\x08\x44tracing": ("trace.dat of trace-cmd", ("trace-cmd", "report", "-t", "-i")),
    b"PERFILE2": (
        "perf.data",
        ("perf", "script", "--show-lost-events", "-F", "comm,tid,cpu,time,event,trace", "-i"),
    ),
}
_PACKED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_MAGIC = 10  # bytes


class Text:
    """A recording's text: its name, its first piece, and an iterator over all pieces."""

    def __init__(self, name: str, stream: IO[bytes], size: int | None) -> None:
        self.name = name
        self._stream = stream
        self._size = size  # bytes of the text where it is known
        self._done = 0
        self.first = self._read()

    def pieces(self) -> Iterator[bytes]:
        """Return an iterator over the pieces; each but the last has PIECE bytes."""
        piece = self.first
        while piece:
            self._done += len(piece)
            yield piece
            piece = self._read()

    @property
    def share(self) -> float | None:
        """The share of the text that `pieces` has returned, 0 to 1; None where unknown."""
        return min(self._done / self._size, 1.0) if self._size else None

    def _read(self) -> bytes:
        try:
            return self._stream.read(PIECE)
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError) as error:
            raise ResultError(f"{self.name}: damaged: {error}") from None


@contextmanager
def open_text(source: str | Path) -> Iterator[Text]:
    """Open a recording; `-` is stdin. A context in which its text can be read.

    gzip and xz are unpacked; of a trace.dat and a perf.data, trace-cmd and perf print the text.
    Raises ResultError for a binary file of no known kind, and where that program is not installed
    or fails; OSError for a file that cannot be read.
    """
    name = "stdin" if str(source) == "-" else str(source)
    if name == "stdin":
        if sys.stdin is None:
            raise ResultError("stdin: closed")
        start = _peek(sys.stdin.buffer)
        _refuse_binary(start, name)
        yield Text(name, sys.stdin.buffer, None)
        return
    with open(source, "rb") as file:
        start = _peek(file)
        for magic, (what, command) in _READERS.items():
            if start.startswith(magic):
                with _printed(name, what, command) as text:
                    yield text
                return
        for magic, unpack in _PACKED.items():
            if start.startswith(magic):
                with unpack(file) as unpacked:
                    yield Text(name, unpacked, None)
                return
        _refuse_binary(start, name)
        regular = Path(source).is_file()
        yield Text(name, file, os.fstat(file.fileno()).st_size if regular else None)


def _peek(stream: IO[bytes]) -> bytes:
    peek = getattr(stream, "peek", None)
    return bytes(peek(_MAGIC)[:_MAGIC]) if peek else b""


def _refuse_binary(start: bytes, name: str) -> None:
    for magic, (what, command) in _READERS.items():
        if start.startswith(magic):
            line = " ".join(command).removesuffix(" -i")
            raise ResultError(f"{name}: a {what}: give its file's name, or pipe `{line}` in")
    if start.startswith(tuple(_PACKED)):
        raise ResultError(f"{name}: packed: give its file's name, or unpack it")
    if b"\0" in start:
        raise ResultError(
            f"{name}: a binary file, neither a trace.dat nor a perf.data; kvmbench reads the text "
            "of perf script, trace-cmd report and tracefs"
        )


@contextmanager
def _printed(name: str, what: str, command: tuple[str, ...]) -> Iterator[Text]:
    program = command[0]
    line = f"{' '.join(command)} {name}"
    if shutil.which(program) is None:
        raise ResultError(
            f"{name}: a {what}, and {program} is not installed: run `{line} | kvmbench trace "
            "show -` where it is"
        )
    path = os.path.abspath(name)  # a name that begins with - is no option
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*command, path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            pipesize=PIECE,  # so that it goes on while a piece is read
        )  # fmt: skip
        finished = False
        assert process.stdout is not None
        try:
            yield Text(name, process.stdout, None)
            finished = True
        finally:
            process.stdout.close()
            if not finished:
                process.terminate()
            process.wait()
        if process.returncode not in (0, -13):
            errors.seek(0)
            said = errors.read(4000).decode(errors="replace").strip().splitlines()
            why = said[-1] if said else f"exit code {process.returncode}"
            raise ResultError(f"{name}: `{line}` failed: {why}")
