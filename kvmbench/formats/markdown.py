"""Markdown: a table of workloads by configurations, each cell a median and its number of runs.

Lost: everything but the median of the runs' medians and how many runs there are.
"""

from __future__ import annotations

from kvmbench.formats.rows import rows
from kvmbench.report import Column, Document, Note, Table, write
from kvmbench.report.figures import figure
from kvmbench.results import Result

__all__ = ["encode"]


def encode(result: Result) -> bytes:
    """Return the result's medians as a Markdown table with a note."""
    found = rows(result)
    cells = {
        (row.first.workload, row.first.configuration): f"{figure(row.centre)} (n={len(row.runs)})"
        for row in found
    }
    units: dict[str, dict[str, None]] = {}
    for row in found:
        units.setdefault(row.first.workload, {})[row.first.unit] = None
    configurations = result.configurations()
    table = Table(
        [
            *(Column("workload", "key"), Column("unit", "word")),
            *(Column(name or "median") for name in configurations),
        ],
        [
            (name, ", ".join(units[name]), *(cells.get((name, c), "-") for c in configurations))
            for name in result.workloads()
        ],
    )
    note = Note("Medians of the runs' medians; n is the number of runs.")
    return write(Document("", [table, note]), "markdown").encode()
