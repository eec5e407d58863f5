"""Markdown: a table of workloads by configurations, each cell a median and its number of runs.

Lost: everything but the median of the runs' medians and how many runs there are.
"""

from __future__ import annotations

from collections.abc import Iterable

from kvmbench.formats.rows import rows
from kvmbench.report.plain import Table, figure, markdown
from kvmbench.results import Result

__all__ = ["encode"]


def encode(result: Result) -> bytes:
    """Return the result's medians as a Markdown table, and below it what is to be known."""
    found = rows(result)
    cells = {
        (row.first.workload, row.first.configuration): f"{figure(row.centre)} (n={len(row.runs)})"
        for row in found
    }
    units: dict[str, dict[str, None]] = {}
    for row in found:
        units.setdefault(row.first.workload, {})[row.first.unit] = None
    configurations = result.configurations()
    lines = [
        (name, ", ".join(units[name]), *(cells.get((name, c), "-") for c in configurations))
        for name in result.workloads()
    ]
    headings = ("workload", "unit", *(name or "median" for name in configurations))
    table = Table(_in_lines(headings), [_in_lines(line) for line in lines], names=2)
    return (markdown(table) + "\nMedians of the runs' medians; n is the number of runs.\n").encode()


def _in_lines(cells: Iterable[str]) -> list[str]:
    """Return the cells with no line break in any of them."""
    return [" ".join(cell.split()) for cell in cells]
