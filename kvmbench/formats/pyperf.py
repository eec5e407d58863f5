"""JSON of pyperf, file format 1.0: benchmarks of runs of values, as here.

Read: a run of pyperf is one process, so it is one run; warm-ups are left out, and so are runs
that calibrate, which have no values. A value is the mean of `loops` times `inner_loops`, which a
mark says. Written: every value of every run. pyperf's unit is second, byte or integer, lower is
better, and a value is more than 0: other results are refused; cycles are integers whose unit
stands in the metadata. Lost: boots' hosts but for kernel and CPU where all boots agree, counts,
reloads, quantum, marks, and what was skipped. (pyperf/_bench.py and _metadata.py.)
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from kvmbench.errors import ResultError, brief
from kvmbench.formats.rows import Row, check_labels, rows
from kvmbench.results import Boot, Host, Number, Result, Run, Series, decode_json

__all__ = ["decode", "encode"]

UNITS = {"seconds": "second", "bytes": "byte", "integer": "integer", "cycles": "integer"}
"""Unit of a series -> pyperf's."""

MEAN = "each value is the mean of {} loops"
VERSION = "1.0"


class _Run(Struct, kw_only=True):
    values: list[Number] = []
    metadata: dict[str, Any] = field(default_factory=dict)


class _Benchmark(Struct, kw_only=True):
    runs: Annotated[list[_Run], Meta(min_length=1)]
    metadata: dict[str, Any] = field(default_factory=dict)


class _File(Struct, kw_only=True):
    version: Any = None
    benchmarks: Annotated[list[_Benchmark], Meta(min_length=1)]
    metadata: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(_File)


def decode(data: bytes, name: str) -> Result:
    """Return the result in a file of pyperf. Raises ResultError."""
    file = decode_json(_decoder, data, name)
    if file.version != VERSION:
        raise ResultError(f"{name}: $.version: {brief(file.version)}, expected {VERSION!r}")
    common = file.metadata or {}
    runs: dict[Any, tuple[Any, Run]] = {}
    for b, benchmark in enumerate(file.benchmarks):
        for r, found in enumerate(benchmark.runs):
            if not found.values:
                continue
            metadata = {**common, **benchmark.metadata, **found.metadata}
            # Ours says which run of which boot it was; rows of one run come together again.
            number = metadata.get("kvmbench_run")
            key = number if isinstance(number, int) else (b, r)
            time = _string(metadata, "kvmbench_time") or _string(metadata, "date")
            run = Run(time=time, engine="pyperf", series=[])
            taken = runs.setdefault(key, (_boot_key(metadata), run))[1].series
            taken.append(_series(metadata, found.values, f"{name}: $.benchmarks[{b}].metadata"))
    if not runs:
        raise ResultError(f"{name}: $.benchmarks: no run has values, only calibration")
    if all(isinstance(key, int) for key in runs):
        runs = dict(sorted(runs.items()))
    boots: dict[Any, list[Run]] = {}
    for boot, run in runs.values():
        boots.setdefault(boot, []).append(run)
    names = ("hostname", "platform", "python_version", "perf_version", "cpu_config", "cpu_affinity")
    host = Host(
        cpu=_string(common, "cpu_model_name"),
        kernel=_string(common, "kvmbench_kernel"),
        facts={fact: value for fact in names if (value := _string(common, fact))},
    )
    return Result(
        name=_string(common, "kvmbench_name") or "",
        source=_string(common, "kvmbench_source") or "",
        order="lost" if common.get("kvmbench_order") == "lost" else "time",
        boots=[
            Boot(id=identity, block=block, host=host, runs=found)
            for (_, block, identity), found in boots.items()
        ],
    )


def _series(metadata: dict[str, Any], values: list[Number], place: str) -> Series:
    title = _string(metadata, "name")
    if not title:
        raise ResultError(f"{place}: the benchmark has no name")
    unit = metadata.get("unit", "second")
    if unit not in UNITS.values():
        known = ", ".join(dict.fromkeys(UNITS.values()))
        raise ResultError(f"{place}.unit: {brief(unit)}, expected {known}")
    loops = 1
    for key in ("loops", "inner_loops"):
        if isinstance(metadata.get(key), int):
            loops *= metadata[key]
    own = {theirs: unit for unit, theirs in reversed(UNITS.items())}[unit]
    return Series(
        workload=_string(metadata, "kvmbench_workload") or title,
        configuration=_string(metadata, "kvmbench_configuration") or "",
        unit=_string(metadata, "kvmbench_unit") or own,
        kind="exact" if metadata.get("kvmbench_kind") == "exact" else "noisy",
        values=values,
        marks=[MEAN.format(loops)] if loops > 1 else [],
    )


def _boot_key(metadata: dict[str, Any]) -> tuple[int, int | None, str]:
    number, block = metadata.get("kvmbench_boot"), metadata.get("kvmbench_block")
    return (
        number if isinstance(number, int) else 0,
        block if isinstance(block, int) and 0 <= block < 2**62 else None,
        _string(metadata, "kvmbench_boot_id") or "",
    )


def _string(metadata: dict[str, Any], key: str) -> str | None:
    value = metadata.get(key)
    return value if isinstance(value, str) else None


def encode(result: Result) -> bytes:
    """Return a file of pyperf.

    Raises ResultError for a unit that pyperf does not have, a value that is not more than 0, a
    direction other than lower, a name that is more than one line, or two rows of one name.
    """
    found = rows(result)
    check_labels(found, "pyperf")
    hosts = [boot.host for boot in result.boots]
    common: dict[str, str | int | None] = {
        "kvmbench_name": result.name,
        "kvmbench_source": result.source,
        "kvmbench_order": "lost" if result.order == "lost" else None,
    }
    if all(host == hosts[0] for host in hosts):
        common |= {"cpu_model_name": hosts[0].cpu, "kvmbench_kernel": hosts[0].kernel}
    of_boot = [
        {"kvmbench_boot": b, "kvmbench_block": boot.block, "kvmbench_boot_id": boot.id}
        for b, boot in enumerate(result.boots)
    ]
    times = [run.time for _, run in result.runs()]
    benchmarks = []
    for row in found:
        runs = [
            (series, {"kvmbench_run": number, **of_boot[b], "kvmbench_time": times[number]})
            for b, number, series in row.runs
        ]
        benchmarks.append(
            {
                "metadata": _metadata(_about(row)),
                "runs": [{"values": s.values, "metadata": _metadata(more)} for s, more in runs],
            }
        )
    document = {"version": VERSION, "metadata": _metadata(common), "benchmarks": benchmarks}
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def _about(row: Row) -> dict[str, str | int | None]:
    """Return the metadata of a row that pyperf can hold; raise ResultError for another."""
    first = row.first
    what = f"pyperf: {brief(row.label)}"
    if first.unit not in UNITS:
        raise ResultError(
            f"{what}: pyperf has no unit {brief(first.unit)}; it has {', '.join(UNITS)}"
        )
    if first.better != "lower":
        raise ResultError(f"{what}: higher is better, and pyperf takes lower for better")
    if wrong := [value for _, _, series in row.runs for value in series.values if value <= 0]:
        raise ResultError(f"{what}: {wrong[0]}, and pyperf takes values above 0 only")
    names = (row.label, first.workload, first.configuration, first.unit)
    if any(name != " ".join(name.split()) for name in names):
        raise ResultError(f"{what}: pyperf takes names of one line without spaces around them")
    return {
        "name": row.label,
        "unit": UNITS[first.unit],
        "kvmbench_workload": first.workload,
        "kvmbench_configuration": first.configuration,
        "kvmbench_unit": first.unit,
        "kvmbench_kind": first.kind,
    }


def _metadata(entries: dict[str, Any]) -> dict[str, str | int]:
    """Return metadata as pyperf takes them: strings of one line, none of them empty."""
    lines = {
        key: " ".join(value.split()) if isinstance(value, str) else value
        for key, value in entries.items()
    }
    return {key: value for key, value in lines.items() if value is not None and value != ""}
