"""CSV: one line per value, with the numbers of its boot, run and iteration, counted from 0.

Lost: the facts of hosts and runs, and those of rows other than unit, kind and direction. Read:
tables with these columns, in any order, of which `workload` and `value` are required; and the table
that `run` prints, whose exact figures are the configurations `before` and `after`.
"""

from __future__ import annotations

import csv
import io
import re

from msgspec import ValidationError, convert

from kvmbench.errors import ResultError, brief, cut
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
PER_VALUE, PER_SERIES = 60, 2500  # bytes of memory that they take, at most


def decode(data: bytes, name: str) -> Result:
    """Return the result in CSV. Raises ResultError with the line that is malformed."""
    lines = csv.DictReader(io.StringIO(data.decode(errors="replace"), newline=""))
    boots: dict[str, Boot] = {}
    runs: dict[tuple[str, str], Run] = {}
    rows: dict[tuple[str, ...], Series] = {}
    lost = decided = False
    try:
        columns = set(lines.fieldnames or ())
        simulated = columns >= SIMULATED
        if not (simulated or {"workload", "value"} <= columns <= set(COLUMNS)):
            table = "workload" in columns and columns & {"median", "verdict"}
            expected = f"columns {brief(lines.fieldnames)}, expected {', '.join(COLUMNS)}"
            raise ResultError(TABLE if table else expected)
        sides = {"before": "before", "after": "after"} if simulated else {"value": ""}
        for count, line in enumerate(lines, 1):
            if None in line:
                raise ResultError("more cells than columns")
            cells = {key: (cell or "").removeprefix("'") for key, cell in line.items()}
            lost = lost or cells.get("order") == "lost"
            decided = decided or cells.get("stopping") == "decided"
            place = (cells.get("boot", ""), cells.get("run", ""))
            if place not in runs:
                runs[place] = Run(series=[])
                if place[0] not in boots:
                    boots[place[0]] = Boot(block=_block(cells.get("block", "")), runs=[])
                boots[place[0]].runs.append(runs[place])
            for column, side in sides.items():
                value = _number(cells[column])
                configuration = side or cells.get("configuration", "")
                key = (*place, cells["workload"], configuration)
                if series := rows.get(key):
                    series.values.append(value)
                    continue
                stated = {key: cells[key] for key in ("unit", "kind", "better") if cells.get(key)}
                stated = {"kind": "exact" if simulated else "noisy"} | stated
                names = {"workload": cells["workload"], "configuration": configuration}
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
    except (csv.Error, ValueError, ValidationError) as error:
        raise ResultError(f"{name}: line {lines.line_num}: {cut(str(error), 300)}") from None


def _block(cell: str) -> int | None:
    block = int(cell) if cell else None
    if block is not None and not 0 <= block < 2**62:
        raise ValueError(f"block {brief(cell)}, expected 0 or more")
    return block


def _number(cell: str) -> Number:
    if re.fullmatch(r"-?\d{1,18}", cell, re.ASCII):
        return int(cell)
    if len(cell) > 40:
        raise ResultError(f"{brief(cell)}: expected a number")
    return float(cell)


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
