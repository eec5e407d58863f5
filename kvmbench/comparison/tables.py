"""The tables of a comparison: rows with their scaled figures, and what explains them.

`kvmbench.comparison.document` puts them into documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log10
from typing import NamedTuple

from kvmbench.comparison.rows import Row
from kvmbench.report import Cell, Column, Table, Tone

__all__ = ["TONES", "explained_table", "main_table", "per_iteration", "percent_of", "unit_of"]

DIGITS = 6  # of a figure, where the interval would have more
SCALES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
SECONDS = ("s", "sec", "second", "seconds", "sec/op")
TONES: dict[str | None, Tone] = {
    **dict.fromkeys(("faster", "slightly faster"), "good"),
    **dict.fromkeys(("slower", "slightly slower"), "bad"),
    "changed": "mark",
}


def per_iteration(unit: str) -> str:
    return unit if "/" in unit else f"{unit or 'figures'}/iteration"


def unit_of(rows: Sequence[Row]) -> str:
    """Return the unit that all rows are printed in; empty where they have several."""
    units = {_scale(row).unit for row in rows}
    return units.pop() if len(units) == 1 else ""


class _Scale(NamedTuple):
    """How the figures of a row are printed: divided by `by`, in `unit`, to `places` places."""

    by: float
    unit: str
    places: int

    def __call__(self, value: float | None, sign: bool = False) -> str:
        return "-" if value is None else _fixed(value / self.by, self.places, sign)


def _fixed(value: float, places: int, sign: bool) -> str:
    """Return a figure to `places` places; one that rounds to 0 has no sign."""
    words = f"{value:{'+' if sign else ''}.{places}f}"
    return words if words.strip("+-0.") else words.lstrip("+-")


def _scale(row: Row) -> _Scale:
    by, unit = 1.0, row.unit
    figures = [value for value in (row.before, row.after) if value is not None]
    size = max(map(abs, figures), default=0)
    if row.unit in SECONDS and figures:
        by, unit = next((scale for scale in SCALES if size >= scale[0]), SCALES[-1])
    elif row.kind == "noisy" and size and not 1e-3 <= size < 1e9:
        power = max(3 * floor(log10(size) / 3), -300)
        by, unit = 10.0**power, f"1e{power} {unit}"
    shown = [value / by for value in (*figures, row.shift) if value is not None]
    if all(float(value).is_integer() for value in shown):
        return _Scale(by, unit, 0)
    size = max(map(abs, shown))
    half = size / 100  # three to four figures where no interval says more
    if row.interval is not None and row.interval[0] < row.interval[1]:
        half = (row.interval[1] - row.interval[0]) / 2 / by
    if not half or not size:
        return _Scale(by, unit, 0)
    most = max(DIGITS - 1 - floor(log10(size)), 0)
    return _Scale(by, unit, min(max(1 - floor(log10(half)), 0), most))


def main_table(
    rows: Sequence[Row], unit: str, confidence: float, *, several: bool = False
) -> Table:
    """Return the table of rows, `several` afters of each one below the other.

    It has a column of units where there is no one `unit`.
    """
    noisy = any(row.kind == "noisy" for row in rows)
    interval = f"{100 * confidence:.4g} % interval" if noisy else "interval"
    columns = [
        Column("workload", "key"),
        *([] if unit else [Column("unit", "word")]),
        *([Column("side", "key")] if several else []),
        *map(Column, ("before", "after", "shift", interval, "%")),
        Column("verdict", "word"),
    ]
    lines: list[list[str | Cell]] = []
    for row in rows:
        scale = _scale(row)
        lines.append(
            [
                row.workload,
                *([] if unit else [scale.unit]),
                *([row.to] if several else []),
                *(scale(row.before), scale(row.after), scale(row.shift, sign=True)),
                *(_interval(row, scale), percent_of(row), _verdict(row)),
            ]
        )
    return Table(columns, lines, grouped=several)


def _interval(row: Row, scale: _Scale) -> str:
    if row.kind == "exact":
        return "exact"
    if row.interval is None:
        return "-"
    return "[{}, {}]".format(*(scale(end, sign=True) for end in row.interval))


def percent_of(row: Row) -> str:
    """Return a row's shift in percent of before, as its table has it."""
    if row.percent is None:
        return "-"
    return _fixed(row.percent, 1 if abs(row.percent) >= 1 or not row.shift else 2, sign=True)


def _verdict(row: Row) -> Cell:
    if row.said.endswith("?"):
        return Cell(row.said, "doubt", row.doubts)
    return Cell(row.said, TONES.get(row.verdict, ""))


def explained_table(rows: Sequence[Row], level: str, *, several: bool) -> Table:
    def percent(value: float | None, row: Row) -> str:
        return f"{100 * value / abs(row.before):.2f}" if value is not None and row.before else "-"

    columns = [
        Column("workload", "key"),
        *([Column("side", "key")] if several else []),
        Column(f"{level}s"),
        *(Column(name, unit="%") for name in ("spread", "MDE", "margin")),
        *(Column(f"{level}s for within"), *map(Column, ("p, margin", "p, 0"))),
    ]
    lines = [
        [
            row.workload,
            *([row.to] if several else []),
            ", ".join(map(str, dict.fromkeys(row.units))),
            *(percent(value, row) for value in (row.spread, row.detectable, row.margin)),
            "-" if row.wanted_within is None else str(row.wanted_within),
            *("-" if p is None else f"{p:.2g}" for p in (row.p, row.p_zero)),
        ]
        for row in rows
        if row.spread is not None
    ]
    return Table(columns, lines)
