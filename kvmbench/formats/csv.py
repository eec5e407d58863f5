"""CSV: one line per value, with the numbers of its boot, run and iteration, counted from 0.

Lost: the facts of hosts and runs, and those of rows other than unit, kind and direction. Read:
tables with these columns, in any order, of which `workload` and `value` are required; and the table
that `run` prints, whose exact figures are the configurations `before` and `after`. Commas, tabs or
semicolons separate the cells; blank lines and comments (#) may stand above. A row has one unit,
kind and direction in the whole file, and an empty cell has its row's. Without a boot's number each
block is a boot. Values are in the order of the file, whatever their iterations.
"""

from __future__ import annotations

import csv
import io
import re
from math import isfinite
from typing import Any, get_args

from msgspec import convert

from kvmbench.errors import ResultError, brief, cut, listed
from kvmbench.report.escape import csv_cell, visible
from kvmbench.results import Boot, Number, Result, Run, Series, check_growth

__all__ = ["COLUMNS", "decode", "encode"]

COLUMNS = (
    *("boot", "block", "run", "workload", "configuration"),
    *("unit", "kind", "better", "order", "stopping", "iteration", "value"),
)
SIMULATED = frozenset({"workload", "before", "after", "reloads_before", "reloads_after"})
TABLE = (
    "a table that `measure`, `show` or `compare` prints, without the runs: keep the result as JSON "
    "(-o FILE.json or --save NAME) or as convert's CSV (kvmbench convert FILE.json FILE.csv)"
)
FACTS = ("unit", "kind", "better", "order", "stopping")  # of rows, then of the whole result
CHOICES = {
    **{column: get_args(Series.__annotations__[column]) for column in ("kind", "better")},
    **{column: get_args(Result.__annotations__[column]) for column in ("order", "stopping")},
}
"""A column's words, one of which a cell of it holds unless it is empty."""

NUMBER = re.compile(r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*", re.ASCII)
HEADER = re.compile(
    # Possessive: else each of a million blank lines or commas keeps 300 bytes to go back to.
    rb"((?:[ \t]*(?:#[^\n]*|sep=.)?\r?\n)*+)"  # blank lines, comments, Excel's line
    rb'(?:(?![ "]*workload[ "]*[,;\t\r\n])[ "]*(?:\w+[ "]*)?[,;\t])*+'
    rb'[ "]*workload[ "]*[,;\t\r\n]',
    re.IGNORECASE,
)
"""The first line of a table with a column `workload`, and in a group the lines above it."""

Facts = dict[str, str]

PER_VALUE, PER_SERIES = 60, 2500  # bytes of memory that they take, at most


def decode(data: bytes, name: str) -> Result:
    """Return the result in CSV. Raises ResultError with the line that is malformed."""
    header = HEADER.match(data)
    above = header.end(1) if header else 0
    first, data = data.count(b"\n", 0, above), data[above:]
    start = data[: data.find(b"\n") + 1] or data
    delimiter = max((",", "\t", ";"), key=lambda sign: start.count(sign.encode()))
    text = io.StringIO(data.decode(errors="replace"), newline="")
    lines = csv.DictReader(text, delimiter=delimiter, skipinitialspace=True)
    try:
        reader = _Reader(simulated=_read_header(lines))
        for count, line in enumerate(lines, 1):
            if None in line:
                raise ResultError("more cells than columns")
            cells = {key: _bare(cell or "") for key, cell in line.items()}
            reader.read(cells, first + lines.line_num)
            taken = PER_VALUE * count * len(reader.sides) + PER_SERIES * len(reader.rows)
            check_growth(taken, len(data), "the table")
        return reader.result()
    except (csv.Error, ResultError) as error:
        raise ResultError(
            f"{name}: line {first + lines.line_num}: {cut(str(error), 300)}"
        ) from None


class _Reader:
    """The boots, runs and series of a table."""

    def __init__(self, simulated: bool) -> None:
        self.sides = {"before": "before", "after": "after"} if simulated else {"value": ""}
        kind = "exact" if simulated else "noisy"
        self.usual = {"unit": "cycles", "kind": kind, "better": "lower"}
        self.boots: dict[str | int | None, Boot] = {}  # by name, else by block
        self.runs: dict[tuple[str | int | None, str], Run] = {}
        self.rows: dict[tuple[Any, ...], Series] = {}  # by boot, run, workload, configuration
        self.known: dict[tuple[str, str], tuple[int, Facts]] = {}  # with a row's first line
        self.facts: dict[tuple[str, ...], Facts] = {}  # stated by cells, in the order of FACTS

    def read(self, cells: dict[str, str], number: int) -> None:
        """Read the line of that number."""
        facts = self._facts(cells)
        block = _whole("block", cells.get("block", ""))
        place = (cells.get("boot") or block, cells.get("run", ""))
        run = self._run(place, block)
        _whole("iteration", cells.get("iteration", ""))
        for column, side in self.sides.items():
            value = _number(column, cells[column])
            row = (cells["workload"], side or cells.get("configuration", ""))
            known = self._known(row, facts, number)
            key = (*place, *row)
            if series := self.rows.get(key):
                series.values.append(value)
                continue
            names = {"workload": row[0], "configuration": row[1]}
            self.rows[key] = convert({**names, **known, "values": [value]}, Series)
            run.series.append(self.rows[key])

    def _facts(self, cells: dict[str, str]) -> Facts:
        words = tuple(cells.get(column, "") for column in FACTS)
        if words not in self.facts:
            given = {column: cell for column, cell in zip(FACTS, words, strict=True) if cell}
            for column, known in CHOICES.items():
                if given.get(column, known[0]) not in known:
                    said = f"{brief(given[column])}, expected {' or '.join(known)}"
                    raise ResultError(f"column {column}: {said}")
            self.facts[words] = {key: given[key] for key in self.usual if key in given}
        return self.facts[words]

    def _run(self, place: tuple[str | int | None, str], block: int | None) -> Run:
        boot = self.boots.get(place[0]) or Boot(block=block, runs=[])
        if block not in (boot.block, None):
            has = "none" if boot.block is None else boot.block
            raise ResultError(f"column block: {block}, where boot {brief(place[0])} has {has}")
        if place not in self.runs:
            self.boots[place[0]] = boot
            self.runs[place] = Run(series=[])
            boot.runs.append(self.runs[place])
        return self.runs[place]

    def _known(self, row: tuple[str, str], facts: Facts, number: int) -> Facts:
        """Return a row's facts.

        Raises ResultError for a row without a name, or where a line states others than its first.
        """
        if not row[0]:
            raise ResultError("column workload: empty, expected a name")
        if row not in self.known:
            self.known[row] = number, self.usual | facts
        first, known = self.known[row]
        for column, said in facts.items():
            if known[column] != said:
                then = f"where line {first} has {brief(known[column])} for {cut(row[0])}"
                raise ResultError(f"column {column}: {brief(said)}, {then}")
        return known

    def result(self) -> Result:
        """Return the result. Raises ResultError where there was no line."""
        if not self.boots:
            raise ResultError("no value below the columns")
        said = {word for words in self.facts for word in words[3:]}
        return Result(
            order="lost" if "lost" in said else "time",
            stopping="decided" if "decided" in said else "size",
            boots=list(self.boots.values()),
        )


def _read_header(lines: csv.DictReader[str]) -> bool:
    """Check the columns; return whether they are those of the table that `run` prints."""
    names = [column.strip(' "').lower() for column in lines.fieldnames or ()]
    lines.fieldnames = names
    columns = set(names)
    simulated = columns >= SIMULATED
    if not (simulated or {"workload", "value"} <= columns <= set(COLUMNS)):
        table = "workload" in columns and columns & {"median", "verdict"}
        raise ResultError(TABLE if table else f"columns {brief(names)}, expected {listed(COLUMNS)}")
    for column in columns:
        if names.count(column) > 1:
            raise ResultError(f"column {brief(column)} comes twice")
    return simulated


def _bare(cell: str) -> str:
    """Return the text of a cell: after an apostrophe, which `encode` writes, as it stands."""
    return cell[1:] if cell.startswith("'") else cell.strip()


def _whole(column: str, cell: str) -> int | None:
    """Return the number of a block or an iteration, also of 0.0; None of an empty cell."""
    if not cell:
        return None
    found = re.fullmatch(r"(\d{1,19})(?:\.0{0,9})?", cell, re.ASCII)
    if found and (number := int(found[1])) <= 2**62:
        return number
    raise ResultError(f"column {column}: {brief(cell)}, expected a whole number, 0 or more")


def _number(column: str, cell: str) -> Number:
    if len(cell) <= 40 and NUMBER.fullmatch(cell):
        number = float(cell)
        if isfinite(number):
            return int(cell) if cell.strip("-").isdigit() else number
    raise ResultError(f"column {column}: {brief(cell)}, expected a finite number such as 1313")


def encode(result: Result) -> bytes:
    """Return the result as CSV, UTF-8."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for b, boot in enumerate(result.boots):
        block = "" if boot.block is None else boot.block
        for r, run in enumerate(boot.runs):
            for row in run.series:
                names = (row.workload, row.configuration, row.unit, row.kind, row.better)
                cells = (b, block, r, *map(_cell, names), result.order, result.stopping)
                writer.writerows((*cells, i, value) for i, value in enumerate(row.values))
    return out.getvalue().encode()


def _cell(name: str) -> object:
    """Return a cell that no spreadsheet takes for a formula, and that is read back."""
    quote = name.startswith("'") or name != name.strip()
    return "'" + visible(name, keep="\n") if quote else csv_cell(name)
