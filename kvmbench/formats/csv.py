"""CSV: one line per value, with the numbers of its boot, run and iteration, counted from 0.

Lost: the facts of hosts, runs and rows other than unit and kind.
"""

from __future__ import annotations

import csv
import io

from kvmbench.results import Result

__all__ = ["COLUMNS", "encode"]

COLUMNS = (
    *("boot", "block", "run", "workload", "configuration"),
    *("unit", "kind", "iteration", "value"),
)


def encode(result: Result) -> bytes:
    """Return the result as CSV, UTF-8."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for b, boot in enumerate(result.boots):
        block = "" if boot.block is None else boot.block
        for r, run in enumerate(boot.runs):
            for row in run.series:
                names = (b, block, r, row.workload, row.configuration, row.unit, row.kind)
                writer.writerows((*names, i, value) for i, value in enumerate(row.values))
    return out.getvalue().encode()
