"""JSON of hyperfine (--export-json), read: each of a command's `times` is a run, in seconds.

The parameters of a command are its configuration; a command that failed has a mark. A file without
`times` has the median only. (src/benchmark/benchmark_result.rs at github.com/sharkdp/hyperfine.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from kvmbench.errors import ResultError
from kvmbench.formats.rows import as_runs
from kvmbench.results import Boot, Number, Result, Series, decode_json

__all__ = ["decode"]


class _Command(Struct):
    command: Annotated[str, Meta(min_length=1)]
    times: list[Number] | None = None
    median: Number | None = None
    mean: Number | None = None
    exit_codes: list[int | None] | None = None
    parameters: dict[str, str | Number] | None = None


class _File(Struct):
    results: Annotated[list[_Command], Meta(min_length=1)]


_decoder = msgspec.json.Decoder(_File)


def decode(data: bytes, name: str) -> Result:
    """Return the result in a file of hyperfine. Raises ResultError."""
    commands = decode_json(_decoder, data, name).results
    for number, command in enumerate(commands):
        if not command.times and command.median is None and command.mean is None:
            raise ResultError(f"{name}: $.results[{number}]: neither times, median nor mean")
    found = (series for command in commands for series in _series(command))
    return Result(boots=[Boot(runs=as_runs(found, "hyperfine", len(data), name))])


def _series(command: _Command) -> Iterator[Series]:
    parameters = (command.parameters or {}).items()
    failed = sum(code != 0 for code in command.exit_codes or ())
    marks = [f"{failed} of its runs failed"] if failed else []
    centre = "mean" if command.median is None else "median"
    if not command.times:
        marks.append(f"the {centre} of runs that the file does not have")
    for value in command.times or [getattr(command, centre)]:
        yield Series(
            workload=command.command,
            configuration=" ".join(f"{key}={said}" for key, said in parameters),
            unit="seconds",
            kind="noisy",
            values=[value],
            marks=marks,
        )
