"""JSON of Google Benchmark (--benchmark_out_format=json), read: each repetition is a run.

A value is the real time per iteration, in the file's unit; the CPU time is among the `counts`. Of
a file with aggregates only, the medians, or else the means, are read, with a mark. A benchmark
that failed is skipped. The reader passes over lines above the JSON, which the program prints to
stderr. (src/json_reporter.cc at github.com/google/benchmark.)
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from kvmbench.errors import ResultError
from kvmbench.formats.rows import as_runs
from kvmbench.results import Boot, Host, Number, Result, Series, decode_json

__all__ = ["decode"]


class _Benchmark(Struct):
    name: Annotated[str, Meta(min_length=1)]
    run_name: str = ""
    run_type: str = "iteration"
    aggregate_name: str = ""
    aggregate_unit: str = "time"
    real_time: Number | None = None
    cpu_time: Number | None = None
    time_unit: str = "ns"
    label: str = ""
    error_occurred: bool = False
    error_message: str = ""
    skipped: bool = False
    skip_message: str = ""

    @property
    def aggregate(self) -> str:
        """The kind of an aggregate, which old files give in the name only."""
        last = self.name.rpartition("_")[2]
        old = last if last in ("mean", "median", "stddev", "cv", "BigO", "RMS") else ""
        return self.aggregate_name or old


class _File(Struct):
    benchmarks: Annotated[list[_Benchmark], Meta(min_length=1)]
    context: dict[str, Any] = field(default_factory=dict)


START = re.compile(rb'^\{\s*"context"\s*:', re.MULTILINE)
"""Where the JSON begins; stderr in the same file puts the host's description above it."""

_decoder = msgspec.json.Decoder(_File)


def decode(data: bytes, name: str) -> Result:
    """Return the result in a file of Google Benchmark. Raises ResultError."""
    head = START.search(data)
    file = decode_json(_decoder, data[head.start() :] if head else data, name)
    failed = [entry for entry in file.benchmarks if entry.error_occurred or entry.skipped]
    ran = [entry for entry in file.benchmarks if not (entry.error_occurred or entry.skipped)]
    timed = [entry for entry in ran if entry.real_time is not None]
    chosen: list[_Benchmark] = []
    for wanted in ("", "median", "mean"):
        chosen = chosen or [entry for entry in timed if entry.aggregate == wanted]
    if not chosen:
        raise ResultError(f"{name}: $.benchmarks: no real_time of a benchmark that ran")
    date = file.context.get("date")
    time = date if isinstance(date, str) else None
    runs = as_runs(map(_series, chosen), "google-benchmark", len(data), name, time)
    for entry in failed:
        why = entry.error_message or entry.skip_message or "failed"
        runs[0].skipped[entry.run_name or entry.name] = why
    names = ("host_name", "executable", "num_cpus", "mhz_per_cpu", "library_build_type")
    facts = {key: str(file.context[key]) for key in names if key in file.context}
    return Result(boots=[Boot(host=Host(facts=facts), runs=runs)])


def _series(entry: _Benchmark) -> Series:
    marks = [f"the {entry.aggregate} of repetitions"] if entry.aggregate else []
    assert entry.real_time is not None  # as chosen
    return Series(
        workload=entry.run_name or entry.name.removesuffix(f"_{entry.aggregate}"),
        unit="seconds" if entry.time_unit == "s" else entry.time_unit,
        kind="noisy",
        values=[entry.real_time],
        counts={} if entry.cpu_time is None else {"cpu_time": entry.cpu_time},
        marks=[*marks, entry.label] if entry.label else marks,
    )
