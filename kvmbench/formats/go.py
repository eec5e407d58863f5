"""Go benchmark text, as `go test -bench` prints it and benchstat takes it; and `go test -json`.

A line is one run's value: `Benchmark<name> <iterations> <value> <unit> ...`. Lines of one name
are its runs. `Unit cycles better=lower assume=exact` gives a unit's direction and kind; lines
`key: value` hold for the lines that follow, and where a key takes several values in a file, they
are the configurations. A name with several units is one workload each, `name unit`. A malformed
line is passed over with a note, another text in silence. (golang.org/x/perf/benchfmt, reader.go.)

Written: the median of each run, its number of iterations as the count, workload and configuration
as parts of the name, `/workload=cpuid/configuration=eager`, in which a space, `/`, `%` and a `-`
before digits at the end (GOMAXPROCS to Go) become `%20` and the like. Lost: the iterations, which
row belongs to which run or boot where runs differ in their rows, hosts but for kernel and CPU,
counts and marks.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from math import inf
from typing import NamedTuple
from urllib.parse import quote, unquote

import msgspec

from kvmbench.errors import ResultError, brief, cut
from kvmbench.formats import SNIFF
from kvmbench.formats.rows import PER_SERIES, as_runs, rows
from kvmbench.results import (
    GREATEST,
    LONGEST,
    SMALLEST,
    Boot,
    Host,
    Result,
    Series,
    check_growth,
)

__all__ = ["decode", "encode"]

OWN = "Kvmbench/workload="
ABOUT = ("result", "source", "order")  # the keys of kvmbench's text about the result as a whole
HIGHER = frozenset({"MB/s", "B/s"})  # the units of which Go itself knows the direction
HEADINGS = (
    "headings part no configurations in Go's text: put each part into a file, or a line such as "
    "`patch: without` above it"
)
LONGEST_LINE = 20_000  # characters
MOST_KEYS = 50  # keys that take several values in a file

EVENT = re.compile(rb'^[ \t]*\{[^\n]{0,500}"Action"\s*:', re.MULTILINE)
"""A line of `go test -json`; go prints others above, such as `go: downloading x`."""

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_HEADING = re.compile(
    r"\W*(?:\w+[ -]+){0,2}(?:before|after)(?:[ -]+\w+){0,3}[\s:*=#-]*", re.IGNORECASE
)
_KEY = re.compile(r"([^\W\dA-Z_][^\sA-Z:]*):(?:[ \t]+(.*))?")


class _Value(NamedTuple):
    """One measurement; `version` counts the changes of keys before it."""

    name: str
    unit: str
    value: int | float
    version: int


class _Event(msgspec.Struct):
    """A line of `go test -json` (cmd/test2json)."""

    Action: str = ""
    Package: str = ""
    Output: str = ""


_event = msgspec.json.Decoder(_Event)


def decode(data: bytes, name: str) -> Result:
    """Return the result in Go benchmark text.

    Raises ResultError where no line holds a result, or the file is beyond a limit.
    """
    text = data.decode(errors="replace")
    reader = _Reader()
    if EVENT.search(data[:SNIFF]):
        text = _printed(text, reader)
    for number, line in enumerate(io.StringIO(text, "\n"), 1):
        reader.attempt(reader.read, number, line)
        check_growth(PER_SERIES * len(reader.values), len(data), name)
    notes = reader.notes
    if not reader.values:
        said = f"; {notes[0]}" if notes else ""
        raise ResultError(f"{name}: no line such as `BenchmarkExit 100000 1313 cycles`{said}")
    if reader.malformed > 3:
        notes.append(f"{reader.malformed - 3} more malformed lines passed over")
    if len(reader.headings) > 1:
        notes.append(f"{', '.join(reader.headings)}: {HEADINGS}")
    return reader.result(len(data), name)


def _printed(text: str, reader: _Reader) -> str:
    """Return the text that tests printed, package by package, from `go test -json`."""
    output: dict[str, list[str]] = {}

    def read(line: str) -> None:
        try:
            event = _event.decode(line)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise ResultError("no event of go test -json") from None
        if event.Action == "output":
            output.setdefault(event.Package, []).append(event.Output)

    for number, line in enumerate(io.StringIO(text, "\n"), 1):
        if line.lstrip().startswith("{"):
            reader.attempt(read, number, line)
    return "\n".join("".join(parts) for parts in output.values())


class _Reader:
    """The values, units and keys of a text."""

    def __init__(self) -> None:
        self.values: list[_Value] = []
        self.units: dict[tuple[str, str], str] = {}
        self.changes: list[tuple[str, str]] = []
        self.shared: dict[str, str] = {}  # one object per name
        self.notes: list[str] = []  # of the first malformed lines
        self.malformed = 0
        self.headings: dict[str, None] = {}  # that say before or after

    def attempt(self, read: Callable[[str], None], number: int, line: str) -> None:
        """Read a line; pass over a malformed one with a note."""
        line = line.rstrip("\r\n")
        try:
            read(line)
        except ResultError as error:
            self.malformed += 1
            if self.malformed <= 3:
                said = f"line {number}, {brief(line.strip())}, passed over: {error}"
                self.notes.append(said)

    def read(self, line: str) -> None:
        if len(line) > LONGEST_LINE:
            raise ResultError(f"over {LONGEST_LINE} characters")
        if line.startswith("Benchmark"):
            self.values += list(self._values(line))
        elif line.startswith("Unit") and line.split(None, 1)[0] == "Unit":
            self._unit(line)
        elif (found := _KEY.fullmatch(line)) and found[1].islower():
            key, said = self._name(found[1]), self._name((found[2] or "").strip())
            self.changes.append((key, said))
        if line[:9] != "Benchmark" and len(line) < 80 and _HEADING.fullmatch(line):
            self.headings[brief(line.strip())] = None

    def _name(self, words: str) -> str:
        if len(words) > LONGEST:
            raise ResultError(f"over {LONGEST} characters in a name")
        return self.shared.setdefault(words, words)

    def _values(self, line: str) -> Iterator[_Value]:
        name, *fields = re.split(r"\s+", line.removeprefix("Benchmark").rstrip())
        if not fields:
            return  # `go test -v` prints the name on a separate line first
        if not re.fullmatch(r"[-+]?\d{1,19}", fields[0], re.ASCII):
            raise ResultError(f"{brief(fields[0])}: expected a whole number of iterations")
        if len(fields) < 3 or len(fields) % 2 == 0:
            raise ResultError("expected a value and its unit after the number of iterations")
        name = self._name(name)
        for value, unit in zip(fields[1::2], fields[2::2], strict=True):
            number = float(value) if _NUMBER.fullmatch(value) else inf
            if not (SMALLEST <= abs(number) <= GREATEST or number == 0):
                limits = f"0 or of {SMALLEST:g} to {GREATEST:g}"
                raise ResultError(f"{brief(value)}: expected a finite number, {limits}")
            whole = re.fullmatch(r"-?\d{1,15}", value)
            yield _Value(name, self._name(unit), int(value) if whole else number, len(self.changes))

    def _unit(self, line: str) -> None:
        _, *fields = line.split()
        if not fields:
            raise ResultError("expected a unit")
        for entry in fields[1:]:
            key, equals, value = entry.partition("=")
            if not key or not equals:
                raise ResultError(f"{brief(entry)}: expected key=value")
            if self.units.setdefault((fields[0], key), value) != value:
                raise ResultError(
                    f"{cut(key)} of {cut(fields[0])} was {brief(self.units[fields[0], key])} before"
                )

    def result(self, size: int, name: str) -> Result:
        """Return the result; `size` is that of the file, for the limit on memory."""
        steady, changing = self._keys(name)
        ours = self.values[0].name.startswith(OWN)
        lost = ours and ("order", "lost") in self.changes
        own = {key: steady.pop(key, "") for key in ABOUT if ours}
        if ours:
            changing.pop("order", None)
        host = Host(kernel=steady.pop("kernel", None), cpu=steady.pop("cpu", None), facts=steady)
        runs = as_runs(self._series(changing, size, name), "go", size, name)
        return Result(
            name=own.get("result", ""),
            source=own.get("source", ""),
            order="lost" if lost else "time",
            notes=self.notes,
            boots=[Boot(host=host, runs=runs)],
        )

    def _with_keys(self) -> Iterator[tuple[_Value, dict[str, str], list[str]]]:
        """Yield each value with the keys that hold for it, and those set since the one before."""
        config: dict[str, str] = {}
        at = 0
        for value in self.values:
            changes = self.changes[at : value.version]
            config.update(changes)
            at = value.version
            yield value, config, [key for key, _ in changes]

    def _keys(self, name: str) -> tuple[dict[str, str], dict[str, None]]:
        """Return the keys that hold for all values, and those that change between them."""
        steady: dict[str, str] | None = None
        changing: set[str] = set()
        for _, config, touched in self._with_keys():
            steady = dict(config) if steady is None else steady
            changing.update(key for key in touched if steady.get(key) != config[key])
            if len(changing) > MOST_KEYS:
                raise ResultError(f"{name}: more than {MOST_KEYS} keys that change")
        kept = {key: said for key, said in (steady or {}).items() if said and key not in changing}
        return kept, {key: None for key in config if key in changing}

    def _series(self, changing: dict[str, None], size: int, name: str) -> Iterator[Series]:
        units: dict[str, set[str]] = {}
        for value in self.values:
            units.setdefault(value.name, set()).add(value.unit)
        names = {one: _names(one) for one in units}
        suffix, taken = "", PER_SERIES * len(self.values)
        for value, config, touched in self._with_keys():
            if touched:
                suffix = " ".join(f"{key}={config[key]}" for key in changing if config.get(key))
            workload, configuration = names[value.name]
            if len(units[value.name]) > 1:
                workload += f" {value.unit}"
            configuration = " ".join(filter(None, (configuration, suffix)))
            taken += len(workload) + len(configuration)
            check_growth(taken, size, name)
            default = "higher" if value.unit in HIGHER else "lower"
            higher = self.units.get((value.unit, "better"), default) == "higher"
            exact = self.units.get((value.unit, "assume")) == "exact"
            yield Series(
                workload=self.shared.setdefault(workload, workload),
                configuration=self.shared.setdefault(configuration, configuration),
                unit=value.unit,
                kind="exact" if exact else "noisy",
                better="higher" if higher else "lower",
                values=[value.value],
            )


def _names(name: str) -> tuple[str, str]:
    """Return the workload and the configuration that a name stands for."""
    if name.startswith(OWN):
        workload, _, configuration = name.removeprefix(OWN).partition("/configuration=")
        return unquote(workload) or name, unquote(configuration)
    return name or "Benchmark", ""


def encode(result: Result) -> bytes:
    """Return the result as Go benchmark text, UTF-8.

    Raises ResultError where a unit has a space in it, or has two kinds or directions in two rows.
    """
    found = rows(result)
    units: dict[str, tuple[str, str]] = {}
    for first in (row.first for row in found):
        if not first.unit or any(c.isspace() or not c.isprintable() for c in first.unit):
            raise ResultError(f"go: unit {brief(first.unit)} has a space in it")
        what = (first.better, "exact" if first.kind == "exact" else "nothing")
        if units.setdefault(first.unit, what) != what:
            raise ResultError(
                f"go: {cut(first.unit)} are {first.kind} and better {first.better} in "
                f"{cut(first.workload)} but not in all rows; the text gives both once per unit"
            )
    lines = [f"Unit {unit} better={low} assume={exact}" for unit, (low, exact) in units.items()]
    host = result.boots[0].host
    order = "lost" if result.order == "lost" else ""
    said = {"result": result.name, "source": result.source, "order": order}
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
