"""JSON of pytest-benchmark.

Read: a benchmark's `data` are the iterations of one run, the session; without `data` (a file of
--benchmark-save) its median is the run's one value. Seconds, unless `extra_info` says `unit`; it
may say `kind` and `better` too. The workload is the benchmark's full name.

Written: a row with one run has that run's values as `data`. A row with several has the runs'
medians, since what compares such files takes `data` for independent values, which iterations of a
run are not; `extra_info.kvmbench` says which, so that they are read back as runs. Lost: the
iterations of several runs, boots, hosts but for the first one's kernel and CPU, counts and marks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean, median, quantiles, stdev
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta, Struct, field

from kvmbench.formats.rows import Row, as_runs, check_labels, rows
from kvmbench.results import Boot, Host, Number, Result, Series, decode_json

__all__ = ["decode", "encode"]

MEDIAN_ONLY = "the median of {} rounds, which the file does not have"


class _Ours(Struct, kw_only=True):
    """What this module writes to `extra_info.kvmbench`."""

    workload: Annotated[str, Meta(min_length=1)]
    configuration: str = ""
    data: Literal["iterations", "runs"] = "iterations"


class _About(Struct, kw_only=True):
    """What this module writes to `kvmbench` of the whole file."""

    name: str = ""
    source: str = ""
    order: Literal["time", "lost"] = "time"


class _Extra(Struct, kw_only=True):
    unit: Any = None
    kind: Any = None
    better: Any = None
    kvmbench: _Ours | None = None


class _Stats(Struct, kw_only=True):
    median: Number
    rounds: int = 0
    data: list[Number] | None = None


class _Benchmark(Struct, kw_only=True):
    name: Annotated[str, Meta(min_length=1)]
    fullname: str | None = None
    stats: _Stats
    extra_info: _Extra | None = None


class _File(Struct, kw_only=True):
    benchmarks: Annotated[list[_Benchmark], Meta(min_length=1)]
    machine_info: dict[str, Any] | None = None
    commit_info: dict[str, Any] | None = None
    datetime: str | None = None
    kvmbench: _About = field(default_factory=_About)


_decoder = msgspec.json.Decoder(_File)


def decode(data: bytes, name: str) -> Result:
    """Return the result in a file of pytest-benchmark. Raises ResultError."""
    file = decode_json(_decoder, data, name)
    series = (series for benchmark in file.benchmarks for series in _column(benchmark))
    runs = as_runs(series, "pytest-benchmark", len(data), name, file.datetime)
    about = file.kvmbench
    return Result(
        name=about.name,
        source=about.source,
        order=about.order,
        boots=[Boot(host=_host(file), runs=runs)],
    )


def _column(benchmark: _Benchmark) -> Iterator[Series]:
    """Yield the series of a benchmark, one per run."""
    extra = benchmark.extra_info or _Extra()
    ours = extra.kvmbench
    values = benchmark.stats.data
    marks = []
    if not values:
        values = [benchmark.stats.median]
        marks.append(MEDIAN_ONLY.format(benchmark.stats.rounds))
    for run in ([value] for value in values) if ours and ours.data == "runs" else (values,):
        yield Series(
            workload=ours.workload if ours else benchmark.fullname or benchmark.name,
            configuration=ours.configuration if ours else "",
            unit=extra.unit if extra.unit and isinstance(extra.unit, str) else "seconds",
            kind="exact" if extra.kind == "exact" else "noisy",
            better="higher" if extra.better == "higher" else "lower",
            values=run,
            marks=marks,
        )


def _host(file: _File) -> Host:
    machine, commit = file.machine_info or {}, file.commit_info or {}
    cpu = machine.get("cpu")
    said = {
        "kernel": machine.get("release"),
        "cpu": cpu.get("brand_raw") if isinstance(cpu, dict) else None,
        "node": machine.get("node"),
        "python": machine.get("python_version"),
        "commit": commit.get("id"),
    }
    facts = {key: value for key, value in said.items() if isinstance(value, str)}
    return Host(kernel=facts.pop("kernel", None), cpu=facts.pop("cpu", None), facts=facts)


def encode(result: Result) -> bytes:
    """Return a file of pytest-benchmark. Raises ResultError where two rows would have one name."""
    found = rows(result)
    check_labels(found, "pytest-benchmark")
    host = result.boots[0].host
    document = {
        "machine_info": {"release": host.kernel, "cpu": {"brand_raw": host.cpu}},
        "commit_info": {},
        "benchmarks": [_benchmark(row) for row in found],
        "datetime": next((run.time for _, run in result.runs()), None),
        "version": "5.3.1",
        "kvmbench": {"name": result.name, "source": result.source, "order": result.order},
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def _benchmark(row: Row) -> dict[str, Any]:
    first, label, several = row.first, row.label, len(row.runs) > 1
    ours = {
        "workload": first.workload,
        "configuration": first.configuration,
        "data": "runs" if several else "iterations",
    }
    extra = {} if first.unit == "seconds" else {"unit": first.unit}
    extra |= {"kind": first.kind, "better": first.better}
    return {
        "group": first.configuration or None,
        "name": label,
        "fullname": f"kvmbench::{label}",
        "params": None,
        "param": None,
        "extra_info": {**extra, "kvmbench": ours},
        "stats": _stats(row.medians if several else first.values),
    }


def _stats(data: Sequence[Number]) -> dict[str, Any]:
    """Return the statistics that pytest-benchmark writes (its stats.py)."""
    centre = mean(data)
    spread = stdev(data) if len(data) > 1 else 0
    quarters = quantiles(data, n=4, method="inclusive") if len(data) > 1 else [data[0]] * 3
    q1, q3 = cast("tuple[float, float]", (quarters[0], quarters[2]))
    far = sum(abs(value - centre) > spread for value in data)
    beyond = sum(not q1 - 1.5 * (q3 - q1) <= value <= q3 + 1.5 * (q3 - q1) for value in data)
    return {
        "min": min(data),
        "max": max(data),
        "mean": centre,
        "stddev": spread,
        "rounds": len(data),
        "median": median(data),
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": beyond,
        "stddev_outliers": far,
        "outliers": f"{far};{beyond}",
        "ops": 1 / centre if centre else 0,
        "total": sum(data),
        "iterations": 1,
        "data": data,
    }
