"""Go benchmark text, as `go test -bench` prints it and benchstat takes it.

A line is one run's value: `Benchmark<name> <iterations> <value> <unit> ...`. Lines of one name
are its runs. `Unit cycles better=lower assume=exact` says direction and kind of a unit; lines
`key: value` hold for what follows, and where a key takes several values in a file, they are the
configurations. A name with several units is one workload each, `name unit`. What is none of
these is passed over. (golang.org/x/perf/benchfmt, reader.go and units.go.)

Written: the median of each run, its number of iterations as the count, workload and configuration
as parts of the name, `/workload=cpuid/configuration=eager`, in which a space, `/`, `%` and a `-`
before digits at the end (GOMAXPROCS to Go) become `%20` and the like. Lost: the iterations, which
row belongs to which run or boot where runs differ in their rows, hosts but for kernel and CPU,
counts and marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal
from urllib.parse import quote, unquote

from kvmbench.errors import ResultError
from kvmbench.formats.rows import rows
from kvmbench.results import Boot, Host, Result, Run, Series, check

__all__ = ["decode", "encode"]

OWN = "Kvmbench/workload="
ABOUT = ("result", "source", "order")  # what our own text says of the result as a whole
HIGHER = frozenset({"MB/s", "B/s"})  # the units of which Go says so by itself

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_KEY = re.compile(r"([^\W\dA-Z_][^\sA-Z:]*):(?:[ \t]+(.*))?")


@dataclass(frozen=True, slots=True)
class _Value:
    """One measurement."""

    name: str
    unit: str
    value: int | float
    config: dict[str, str]


def decode(data: bytes, name: str) -> Result:
    """Return the result in Go benchmark text.

    Raises ResultError, with the line, for a malformed result or unit, or for no result at all.
    """
    units: dict[tuple[str, str], str] = {}
    values: list[_Value] = []
    config: dict[str, str] = {}
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        try:
            if line.startswith("Benchmark"):
                values += _values(line, config)
            elif line.split(None, 1)[:1] == ["Unit"]:
                _unit(line, units)
            elif (found := _KEY.fullmatch(line)) and found[1].islower():
                config = {**config, found[1]: (found[2] or "").strip()}
        except ResultError as error:
            raise ResultError(f"{name}: line {number}: {error}") from None
    if not values:
        raise ResultError(f"{name}: no line such as `BenchmarkExit 100000 1313 cycles`")
    ours = values[0].name.startswith(OWN)
    about = _steady(values)
    result = Result(
        name=about.get("result", "") if ours else "",
        source=about.get("source", "") if ours else "",
        order="lost" if ours and any(v.config.get("order") == "lost" for v in values) else "time",
        boots=[Boot(host=_host(about, ours), runs=list(_runs(values, units, ours)))],
    )
    check(result, name)
    return result


def _values(line: str, config: dict[str, str]) -> Iterator[_Value]:
    name, *fields = line.removeprefix("Benchmark").split() or [""]
    if not fields:
        return  # `go test -v` prints the name on a separate line first
    if not re.fullmatch(r"\d{1,19}", fields[0], re.ASCII):
        raise ResultError(f"{fields[0]!r}: expected a whole number of iterations")
    if len(fields) < 3 or len(fields) % 2 == 0:
        raise ResultError("expected a value and its unit after the number of iterations")
    for value, unit in zip(fields[1::2], fields[2::2], strict=True):
        if not _NUMBER.fullmatch(value) or len(value) > 400:
            raise ResultError(f"{value[:40]!r}: expected a finite number")
        whole = re.fullmatch(r"-?\d{1,15}", value)
        yield _Value(name, unit, int(value) if whole else float(value), config)


def _unit(line: str, units: dict[tuple[str, str], str]) -> None:
    _, *fields = line.split()
    if not fields:
        raise ResultError("expected a unit")
    for entry in fields[1:]:
        key, equals, value = entry.partition("=")
        if not key or not equals:
            raise ResultError(f"{entry!r}: expected key=value")
        if units.setdefault((fields[0], key), value) != value:
            raise ResultError(f"{key} of {fields[0]} was {units[fields[0], key]!r} before")


def _steady(values: list[_Value]) -> dict[str, str]:
    """Return the configuration's facts that do not change."""
    return {
        key: said
        for key, said in values[0].config.items()
        if said and all(value.config.get(key) == said for value in values)
    }


def _host(about: dict[str, str], ours: bool) -> Host:
    left_out = {"kernel", "cpu", *(ABOUT if ours else ())}
    facts = {key: said for key, said in about.items() if key not in left_out}
    return Host(kernel=about.get("kernel"), cpu=about.get("cpu"), facts=facts)


def _runs(values: list[_Value], units: dict[tuple[str, str], str], ours: bool) -> Iterator[Run]:
    steady = _steady(values)
    keys = dict.fromkeys(key for value in values for key in value.config)
    changing = [key for key in keys if key not in steady and not (ours and key == "order")]
    several: dict[str, set[str]] = {}
    for value in values:
        several.setdefault(value.name, set()).add(value.unit)
    columns: dict[tuple[str, str, str], list[Series]] = {}
    for value in values:
        workload, configuration = _names(value.name)
        if len(several[value.name]) > 1:
            workload += f" {value.unit}"
        said = [f"{key}={value.config[key]}" for key in changing if value.config.get(key)]
        configuration = " ".join(filter(None, (configuration, *said)))
        default = "higher" if value.unit in HIGHER else "lower"
        better: Literal["lower", "higher"] = "lower"
        if units.get((value.unit, "better"), default) == "higher":
            better = "higher"
        series = Series(
            workload=workload,
            configuration=configuration,
            unit=value.unit,
            kind="exact" if units.get((value.unit, "assume")) == "exact" else "noisy",
            better=better,
            values=[value.value],
        )
        columns.setdefault((workload, configuration, value.unit), []).append(series)
    for line in zip_longest(*columns.values()):
        yield Run(engine="go", series=[series for series in line if series])


def _names(name: str) -> tuple[str, str]:
    """Return the workload and the configuration that a name stands for."""
    if name.startswith(OWN):
        workload, _, configuration = name.removeprefix(OWN).partition("/configuration=")
        return unquote(workload), unquote(configuration)
    return name or "Benchmark", ""


def encode(result: Result) -> bytes:
    """Return the result as Go benchmark text, UTF-8.

    Raises ResultError where a unit has a space in it, or is exact in one row and noisy in another
    or better lower and higher, of which the text has one a unit.
    """
    found = rows(result)
    units: dict[str, tuple[str, str]] = {}
    for row in found:
        first = row.first
        if not first.unit or any(c.isspace() or not c.isprintable() for c in first.unit):
            raise ResultError(f"go: unit {first.unit!r} has a space in it")
        what = (first.better, "exact" if first.kind == "exact" else "nothing")
        if units.setdefault(first.unit, what) != what:
            raise ResultError(
                f"go: {first.unit} are {first.kind} and better {first.better} in "
                f"{first.workload} but not in all rows; the text says both once a unit"
            )
    lines = [f"Unit {unit} better={low} assume={exact}" for unit, (low, exact) in units.items()]
    host = result.boots[0].host
    said = {"result": result.name, "source": result.source}
    if result.order == "lost":
        said["order"] = "lost"
    if all(boot.host == host for boot in result.boots):
        said |= {"kernel": host.kernel or "", "cpu": host.cpu or ""}
    lines += [f"{key}: {' '.join(words.split())}" for key, words in said.items() if words.strip()]
    for row in found:
        name = f"Benchmark{OWN}{_escaped(row.first.workload)}"
        if row.first.configuration:
            name += f"/configuration={_escaped(row.first.configuration)}"
        for value, (_, _, series) in zip(row.medians, row.runs, strict=True):
            lines.append(f"{name}\t{len(series.values)}\t{value!r} {series.unit}")
    return ("\n".join(lines) + "\n").encode()


def _escaped(name: str) -> str:
    """Return a name without what Go would read into it."""
    plain = quote(name, safe="!$&'()*+,.:;<=>?@[]^_`{|}~")
    return re.sub(r"-(?=\d+$)", "%2D", plain)
