"""CSV: one line per value, with the numbers of its boot, run and iteration, counted from 0.

Lost: the facts of hosts and runs, and those of rows other than unit, kind and direction. Read:
tables with these columns, in any order, of which `workload` and `value` are required.
"""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from msgspec import ValidationError, convert

from kvmbench.errors import ResultError, brief
from kvmbench.report.escape import csv_cell
from kvmbench.results import Boot, Number, Result, Run, Series, check_growth

__all__ = ["COLUMNS", "decode", "encode"]

COLUMNS = (
    *("boot", "block", "run", "workload", "configuration"),
    *("unit", "kind", "better", "order", "iteration", "value"),
)
PER_VALUE, PER_SERIES = 60, 2500  # bytes of memory that they take, at most


def decode(data: bytes, name: str) -> Result:
    """Return the result in CSV. Raises ResultError with the line that is malformed."""
    reader = csv.DictReader(io.StringIO(data.decode(errors="replace"), newline=""))
    boots: dict[str, dict[str, dict[tuple[str, str], dict[str, Any]]]] = {}
    blocks: dict[str, str] = {}
    lost, made = False, 0
    try:
        unknown = set(reader.fieldnames or ()) - set(COLUMNS)
        if unknown or not {"workload", "value"}.issubset(reader.fieldnames or ()):
            raise ResultError(f"columns {brief(reader.fieldnames)}, expected {', '.join(COLUMNS)}")
        for count, line in enumerate(reader, 1):
            if None in line:
                raise ResultError("more cells than columns")
            cells = {key: (cell or "").removeprefix("'") for key, cell in line.items()}
            boot, run = cells.get("boot", ""), cells.get("run", "")
            blocks.setdefault(boot, cells.get("block", ""))
            lost = lost or cells.get("order") == "lost"
            row = (cells["workload"], cells.get("configuration", ""))
            rows = boots.setdefault(boot, {}).setdefault(run, {})
            given = {key: cells.get(key) for key in ("unit", "kind", "better") if cells.get(key)}
            series = rows.setdefault(row, {"kind": "noisy", **given, "values": []})
            made += not series["values"]
            check_growth(PER_VALUE * count + PER_SERIES * made, len(data), "too long")
            series["values"].append(_number(cells["value"]))
        return Result(
            order="lost" if lost else "time",
            boots=[
                Boot(
                    block=_block(blocks[boot]),
                    runs=[
                        Run(
                            series=[
                                convert({"workload": w, "configuration": c, **more}, Series)
                                for (w, c), more in rows.items()
                            ]
                        )
                        for rows in runs.values()
                    ],
                )
                for boot, runs in boots.items()
            ],
        )
    except (csv.Error, ValueError, ValidationError) as error:
        raise ResultError(f"{name}: line {reader.line_num}: {error}") from None


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
                cells = (b, block, r, *map(_cell, names), result.order)
                writer.writerows((*cells, i, value) for i, value in enumerate(row.values))
    return out.getvalue().encode()


def _cell(name: str) -> object:
    """Return a cell that no spreadsheet takes for a formula, and that is read back."""
    return f"'{name}" if name.startswith("'") else csv_cell(name)
