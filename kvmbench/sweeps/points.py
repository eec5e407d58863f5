"""The file of a sweep's points: lines of JSON, appended, resumed after a kill, joined, read.

`engines.sweep` writes it; `load_points` reads it for `kvmbench sweep show`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import msgspec

from kvmbench.atomic import replaced_file
from kvmbench.errors import ResultError
from kvmbench.report import Document, Record, Reported
from kvmbench.sweeps.design import Design
from kvmbench.sweeps.document import show_document

__all__ = ["Points", "PointsFile", "join_points", "load_points"]

BEGIN = re.compile(rb'\{"design":"([0-9a-f]{16})","point":(\d{1,9}),"points":(\d{1,9}),')
START = b'{"design":"'
LINE_MAX = 10_000_000  # bytes


class _Line(NamedTuple):
    """A point's line in a file."""

    offset: int  # bytes before it
    length: int
    of: tuple[str, int]  # the design's hash and number of points
    point: int
    record: Record


def _lines(path: str | Path, of: tuple[str, int] | None = None) -> Iterator[_Line]:
    """Yield the lines of a file of points, without a last one that a kill tore.

    Raises ResultError with the line's number where it is damaged, no point, or of another design
    than `of` (by default the first line's); OSError.
    """
    offset = number = 0
    with open(path, "rb") as stream:
        while (line := stream.readline(LINE_MAX)) and not _torn(line):
            number += 1
            begin = BEGIN.match(line)
            if not begin:
                said = "is no point of a sweep: choose another file, or remove this one"
                raise ResultError(f"{path}:{number}: {said}")
            mine, point = (begin[1].decode(), int(begin[3])), int(begin[2])
            of = of or mine
            if mine != of:
                said = "a point of another design, or of another version of kvmbench"
                raise ResultError(f"{path}:{number}: {said}: choose another file, or remove it")
            try:
                record = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                record = None
            if record is None or not line.endswith(b"}\n") or point >= of[1]:
                said = "a damaged line: remove it, and the sweep computes its point again"
                raise ResultError(f"{path}:{number}: {said}")
            yield _Line(offset, len(line), of, point, record)
            offset += len(line)


def _torn(line: bytes) -> bool:
    """Return whether a line is the beginning of a point's, or the zeros of a crash."""
    if line.endswith(b"\n"):
        return False
    return line.startswith(START) or START.startswith(line) or not line.strip(b"\0")


class PointsFile:
    """The file of a design's points, open to append; points that it has already are kept.

    A line that a kill or a full disk tore is dropped. `points` are those that the file will
    have: all of the design, or a slice. Another process that writes the file is refused.

    Raises ResultError for a file of another design, OSError.
    """

    def __init__(self, path: str | Path, design: Design, points: Sequence[int]) -> None:
        self.path = Path(path)
        self.design = design
        self.points = points
        self._offsets = array("q", [-1]) * design.n_points  # of each point's line; -1: none yet
        self._lengths = array("q", [0]) * design.n_points
        self.done = 0
        """The number of points that the file has."""
        self._sorted = True  # and each point is there once
        self._is_new = not self.path.exists()
        self._last = -1  # the point of the last line
        self._file: BinaryIO = os.fdopen(
            os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b", buffering=0
        )
        try:
            if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                raise ResultError(f"{path}: is no regular file, which a sweep can resume")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise  # no lock there: a file system without them
                raise ResultError(f"{path}: another sweep is writing it") from None
            self._read()
        except BaseException:
            self._file.close()
            raise

    def _read(self) -> None:
        """Find the points that the file has, and cut what follows its last whole line."""
        self._end = 0
        for line in _lines(self.path, (self.design.id, self.design.n_points)):
            self._add(line.point, line.offset, line.length)
            self._end = line.offset + line.length
        os.ftruncate(self._file.fileno(), self._end)

    def _add(self, point: int, offset: int, length: int) -> None:
        self._sorted = self._sorted and point > self._last
        self._last = point
        if self._offsets[point] < 0:
            self._offsets[point], self._lengths[point] = offset, length
            self.done += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._is_new and self._end == 0 and kind is not None:
            self.path.unlink(missing_ok=True)
        self._file.close()

    @property
    def total(self) -> int:
        """The number of points that the file will have."""
        return len(self.points)

    def missing(self) -> Sequence[int]:
        """Return the points that the file lacks."""
        if not self.done:
            return self.points
        return [point for point in self.points if self._offsets[point] < 0]

    def append(self, lines: Iterable[tuple[int, bytes]]) -> None:
        """Add the lines of points that the file lacks; they are there when this returns."""
        new = [(point, line) for point, line in lines if self._offsets[point] < 0]
        data = memoryview(b"".join(line for _, line in new))
        self._file.seek(self._end)
        while data:  # a full disk raises OSError, and the next sweep drops the torn line
            data = data[self._file.write(data) or 0 :]
        for point, line in new:
            self._add(point, self._end, len(line))
            self._end += len(line)

    def finish(self) -> None:
        """Put the points in the order of the design, and the file on the disk."""
        if not self._sorted:
            with replaced_file(self.path) as aside:
                for offset, length in zip(self._offsets, self._lengths, strict=True):
                    if offset >= 0:
                        self._file.seek(offset)
                        aside.write(self._file.read(length))
        else:
            os.fsync(self._file.fileno())


# Files read


class Points(Reported):
    """The points of a file, read when they are asked for. It prints as `kvmbench sweep show` does.

    `rows` has a record per point, in the order of the design, each once, with the texts that make
    the point again; `records()` leaves those out. A last line that is torn is left out.

    Raises ResultError with the line, and OSError, where the file is read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def rows(self) -> Sequence[Record]:
        """A flat dict per point."""
        return self._read[0]

    @property
    def total(self) -> int:
        """The number of points of the whole design."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[Sequence[Record], int]:
        return _read_points(self.path)

    def __repr__(self) -> str:
        return f"<Points {self.path.name}: {len(self.rows):,} of {self.total:,}>"

    def document(
        self, x: str | None = None, y: str | None = None, by: str | None = None,
        where: Mapping[str, str] | None = None,
    ) -> Document:  # fmt: skip
        """Return the axes and figures, or with `x` the table of `y` over it, a column per `by`.

        `where` keeps the points whose columns have these values, as text. Raises ValueError for
        an unknown column, and for a `y` that is no number.
        """
        return show_document(self.path.name, self.rows, self.total, x, y, by, where or {})


def load_points(path: str | Path) -> Points:
    """Return the points of a file that `sweep` wrote, complete or not.

    Raises ResultError with the line of a file that is none; OSError.
    """
    points = Points(path)
    _ = points.rows
    return points


def _read_points(path: Path) -> tuple[Sequence[Record], int]:
    found: dict[int, Record] = {}
    total = 0
    for line in _lines(path):
        found.setdefault(line.point, line.record)
        total = line.of[1]
    if not found:
        raise ResultError(f"{path}: is empty, expected points of a sweep")
    return [found[point] for point in sorted(found)], total


def join_points(paths: Sequence[str | Path], output: str | Path) -> int:
    """Join the files of slices into one file in the order of the design; return its points.

    The file is that of one sweep without slices. Raises ResultError where the files are of several
    designs, or lack points; OSError.
    """
    places: dict[int, tuple[int, int, int]] = {}  # point -> file, offset, bytes
    of: tuple[str, int] | None = None
    for i, path in enumerate(paths):
        end = 0
        for line in _lines(path, of):
            of, end = line.of, line.offset + line.length
            places.setdefault(line.point, (i, line.offset, line.length))
        if end != os.path.getsize(path):
            raise ResultError(f"{path}: its last line is torn: let the sweep of that slice finish")
    total = of[1] if of else 0
    if len(places) != total or not of:
        lacks = next((point for point in range(total) if point not in places), 0)
        raise ResultError(
            f"{len(places):,} of {total:,} points are in these files; point {lacks} is in none: "
            "name the files of all slices, and let each slice finish"
        )
    streams = [open(path, "rb") for path in paths]  # noqa: SIM115
    try:
        with replaced_file(output) as aside:
            for point in range(total):
                i, offset, length = places[point]
                streams[i].seek(offset)
                aside.write(streams[i].read(length))
    finally:
        for opened in streams:
            opened.close()
    return total
