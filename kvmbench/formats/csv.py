"""CSV: one line per value, with the numbers of its boot, run and iteration, counted from 0.

Lost: the facts of hosts and runs, and those of rows other than unit, kind and direction. Read:
tables with these columns, in any order, of which `workload` and `value` are required; and the table
that `run` prints, whose exact figures are the configurations `before` and `after`. Commas, tabs or
semicolons separate the cells. A row has one unit, kind and direction in the whole file.
"""

from __future__ import annotations

import csv
import io
import re
from math import isfinite
from typing import get_args

from msgspec import ValidationError, convert

from kvmbench.errors import ResultError, brief, cut, listed
from kvmbench.report.escape import csv_cell
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
CHOICES = {
    **{column: get_args(Series.__annotations__[column]) for column in ("kind", "better")},
    **{column: get_args(Result.__annotations__[column]) for column in ("order", "stopping")},
}
"""A column's words, one of which a cell of it holds unless it is empty."""

NUMBER = re.compile(r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*", re.ASCII)
PER_VALUE, PER_SERIES = 60, 2500  # bytes of memory that they take, at most


def decode(data: bytes, name: str) -> Result:
    """Return the result in CSV. Raises ResultError with the line that is malformed."""
    start = data[: data.find(b"\n") + 1] or data
    delimiter = max((",", "\t", ";"), key=lambda sign: start.count(sign.encode()))
    text = io.StringIO(data.decode(errors="replace"), newline="")
    lines = csv.DictReader(text, delimiter=delimiter)
    boots: dict[str, Boot] = {}
    runs: dict[tuple[str, str], Run] = {}
    rows: dict[tuple[str, ...], Series] = {}
    known: dict[tuple[str, str], tuple[int, dict[str, str]]] = {}  # row: its first line, its kind
    last: dict[tuple[str, ...], int] = {}  # the iteration of a series' last value
    lost = decided = False
    try:
        simulated = _read_header(lines)
        sides = {"before": "before", "after": "after"} if simulated else {"value": ""}
        usual = {"kind": "exact" if simulated else "noisy", "better": "lower"}
        for count, line in enumerate(lines, 1):
            if None in line:
                raise ResultError("more cells than columns")
            cells = {key: (cell or "").removeprefix("'") for key, cell in line.items()}
            stated = {key: _choice(key, cells[key]) for key in CHOICES if cells.get(key)}
            lost |= stated.pop("order", "") == "lost"
            decided |= stated.pop("stopping", "") == "decided"
            stated = usual | stated | {"unit": cells.get("unit") or "cycles"}
            place = (cells.get("boot", ""), cells.get("run", ""))
            block = _whole("block", cells.get("block", ""))
            boot = boots.setdefault(place[0], Boot(block=block, runs=[]))
            if block != boot.block:
                raise ResultError(f"column block: {block}, where boot {place[0]} has {boot.block}")
            if place not in runs:
                runs[place] = Run(series=[])
                boot.runs.append(runs[place])
            iteration = _whole("iteration", cells.get("iteration", ""))
            for column, side in sides.items():
                value = _number(column, cells[column])
                row = (cells["workload"], side or cells.get("configuration", ""))
                if not row[0]:
                    raise ResultError("column workload: empty, expected a name")
                first, before = known.setdefault(row, (lines.line_num, stated))
                for what, said in before.items():
                    if stated[what] != said:
                        then = f"where line {first} has {brief(said)} for {cut(row[0])}"
                        raise ResultError(f"column {what}: {brief(stated[what])}, {then}")
                key = (*place, *row)
                if iteration is not None and iteration <= last.get(key, -1):
                    said = f"column iteration: {iteration} after {last[key]}"
                    raise ResultError(f"{said}, expected ascending numbers within a run")
                if iteration is not None:
                    last[key] = iteration
                if series := rows.get(key):
                    series.values.append(value)
                    continue
                names = {"workload": row[0], "configuration": row[1]}
                rows[key] = convert({**names, **stated, "values": [value]}, Series)
                runs[place].series.append(rows[key])
            taken = PER_VALUE * count * len(sides) + PER_SERIES * len(rows)
            check_growth(taken, len(data), "too long")
        if not boots:
            raise ResultError("no value below the columns")
        return Result(
            order="lost" if lost else "time", stopping="decided" if decided else "size",
            boots=list(boots.values()),
        )  # fmt: skip
    except (csv.Error, ResultError, ValidationError) as error:
        raise ResultError(f"{name}: line {lines.line_num}: {cut(str(error), 300)}") from None


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


def _choice(column: str, cell: str) -> str:
    if cell not in CHOICES[column]:
        raise ResultError(
            f"column {column}: {brief(cell)}, expected {' or '.join(CHOICES[column])}"
        )
    return cell


def _whole(column: str, cell: str) -> int | None:
    """Return the number of a block or an iteration, None of an empty cell."""
    if not cell:
        return None
    if re.fullmatch(r"\d{1,19}", cell, re.ASCII) and (number := int(cell)) <= 2**62:
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
    return f"'{name}" if name.startswith("'") else csv_cell(name)
