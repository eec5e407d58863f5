"""The kinds of plots that a document can hold: bars, dots, marks, curves and heat maps, as data.

Subjects make them, `kvmbench.report.svg` draws them. Each has its figures as a table, which HTML
puts below the picture; None is a figure that is not known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kvmbench.report.document import Cell, Column, Plot, Table, Tone
from kvmbench.report.figures import figure

__all__ = ["Axis", "Bar", "Bars", "Curve", "Curves", "Dot", "Dots", "Group", "HeatMap", "Level"]
__all__ += ["SHAPES", "Marks", "Panel", "Place", "Point"]

SHAPES = 5
"""Series of marks or curves whose shapes differ."""

Number = int | float


class Axis(NamedTuple):
    """An axis: its name, its unit, and whether equal ratios are equal lengths."""

    label: str
    unit: str = ""
    log: bool = False


class Bar(NamedTuple):
    """A bar: `parts` has one figure, 0 or more, for each part of the plot.

    Neighbours with the same `label` are one group, whose `side` tells them from each other.
    """

    label: str
    side: str
    parts: Sequence[Number]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars(Plot):
    """Stacked bars on one axis from 0, such as the cycles of each workload before and after.

    `looks` numbers the colour and pattern of each part, where several plots share their parts.
    """

    axis: Axis
    parts: Sequence[str]
    bars: Sequence[Bar]
    looks: Sequence[int] = ()

    def table(self) -> Table:
        sides = any(bar.side for bar in self.bars)
        several = len(self.parts) > 1
        columns = [
            Column("row", "key"),
            *([Column("side", "key")] if sides else []),
            *(Column(part, unit=self.axis.unit) for part in self.parts),
            *([Column("sum", unit=self.axis.unit)] if several else []),
        ]
        rows = [
            [
                bar.label,
                *([bar.side] if sides else []),
                *map(figure, bar.parts),
                *([figure(sum(bar.parts))] if several else []),
            ]
            for bar in self.bars
        ]
        return Table(columns, rows)


class Dot(NamedTuple):
    """A row of `Dots`: a figure with its interval, where it began, and a margin around that.

    `words` stand at the end of the row, in the colour of `tone`.
    """

    label: str
    value: float | None
    interval: tuple[float, float] | None = None
    start: float | None = None
    margin: float | None = None
    words: str = ""
    tone: Tone = ""
    side: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dots(Plot):
    """Rows of figures on one axis, each with its interval; `reference` is a line through all.

    `start` and `end` name a row's two dots, where rows have a start.
    """

    axis: Axis
    dots: Sequence[Dot]
    start: str = "before"
    end: str = "after"
    reference: float | None = None

    def table(self) -> Table:
        unit = self.axis.unit
        rows = [(dot, self._cells(dot)) for dot in self.dots]
        columns = (  # of these, the ones that have content
            Column("row", "key"), Column("side", "key"), Column(self.start, unit=unit),
            Column("margin", unit=unit), Column(self.axis.label, unit=unit),
            Column("interval", unit=unit), Column("", "word"),
        )  # fmt: skip
        used = [n for n, _ in enumerate(columns) if n in (0, 4) or any(c[n] for _, c in rows)]
        cells: list[list[str | Cell]] = []
        for dot, words in rows:
            cells.append([words[n] or "-" for n in used])
            if len(columns) - 1 in used:
                cells[-1][-1] = Cell(dot.words, dot.tone)
        return Table([columns[n] for n in used], cells)

    @staticmethod
    def _cells(dot: Dot) -> tuple[str, ...]:
        """Return the words of a row in every column, empty where it has none."""
        known = ("" if v is None else figure(v) for v in (dot.start, dot.margin, dot.value))
        interval = "" if dot.interval is None else _range(dot.interval)
        return (dot.label, dot.side, *known, interval, dot.words)


class Place(NamedTuple):
    """A place on the axis of `Marks`: the number of its series, and its name, such as a run's."""

    series: int
    name: str


class Group(NamedTuple):
    """Places that belong together, such as the runs of a boot: from `first` to `last`."""

    first: int
    last: int
    name: str


class Level(NamedTuple):
    """A level of a panel from place `first` to `last`, and the words at its beginning."""

    first: int
    last: int
    value: float
    words: str = ""


class Panel(NamedTuple):
    """A row of `Marks`: one figure for each place, None where the place has none."""

    label: str
    unit: str
    values: Sequence[Number | None]
    levels: Sequence[Level] = ()
    margin: float | None = None  # the band around the reference
    words: str = ""
    tone: Tone = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks(Plot):
    """Figures as marks at places in their order, such as runs in time: a panel for each row.

    Each panel shows at its right how each series is distributed, with its median; with `joined`,
    the marks are joined by lines instead. `reference` is a line through every panel.
    """

    series: Sequence[str]
    places: Sequence[Place]
    panels: Sequence[Panel]
    groups: Sequence[Group] = ()
    reference: float | None = None
    joined: bool = False

    def table(self) -> Table:
        several = len(self.series) > 1
        units = len({panel.unit for panel in self.panels}) > 1
        columns = [Column("row", "key")]
        if units:
            columns.append(Column("unit", "word"))
        for place in self.places:
            columns.append(Column(place.name, unit=self.series[place.series] if several else ""))
        rows = [
            [
                panel.label,
                *([panel.unit] if units else []),
                *("" if value is None else figure(value) for value in panel.values),
            ]
            for panel in self.panels
        ]
        return Table(columns, rows)


class Point(NamedTuple):
    """A point of a plot of curves that a label names, such as the one where a gain ends."""

    x: float
    y: float
    label: str


class Curve(NamedTuple):
    """A curve: one figure per x, None where it has none, and the standard error of each."""

    name: str
    values: Sequence[float | None]
    errors: Sequence[float | None] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves(Plot):
    """Curves over one parameter. `at` are the values of x, rising; `reference` is a line at a y."""

    x: Axis
    y: Axis
    at: Sequence[float]
    curves: Sequence[Curve]
    points: Sequence[Point] = ()
    reference: float | None = None

    def table(self) -> Table:
        columns = [Column(self.x.label, "key", self.x.unit)]
        for curve in self.curves:
            columns.append(Column(curve.name or self.y.label, unit=self.y.unit))
            if curve.errors:
                columns.append(Column("error", unit=self.y.unit))
        columns += [Column("", "word")] if self.points else []
        rows = []
        for n, x in enumerate(self.at):
            row = [f"{x:.6g}"]
            for curve in self.curves:
                row.append(_known(curve.values[n]))
                row += [_known(curve.errors[n])] if curve.errors else []
            if self.points:
                row.append(", ".join(point.label for point in self.points if point.x == x))
            rows.append(row)
        for point in self.points:
            if point.x not in self.at:  # between two of them
                others = [""] * (len(columns) - 2)
                rows.append([f"{point.x:.6g}", *others, point.label])
        return Table(columns, rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap(Plot):
    """A figure for each pair of two parameters; `values` is [ys, xs], `z` the figure's axis.

    A negative figure has another colour, and its sign. `marked` are (y, x) places that stand out,
    for the reason that `mark` says.
    """

    x: Axis
    y: Axis
    z: Axis
    xs: Sequence[str]
    ys: Sequence[str]
    values: Sequence[Sequence[float | None]]
    marked: frozenset[tuple[int, int]] = frozenset()
    mark: str = ""

    def table(self) -> Table:
        columns = [Column(f"{self.y.label} \\ {self.x.label}", "key"), *map(Column, self.xs)]
        rows: list[list[str | Cell]] = [
            [
                name,
                *(
                    Cell(_known(value), "mark" if (y, x) in self.marked else "")
                    for x, value in enumerate(line)
                ),
            ]
            for y, (name, line) in enumerate(zip(self.ys, self.values, strict=True))
        ]
        return Table(columns, rows)


def _known(value: float | None) -> str:
    return "-" if value is None else figure(value)


def _range(interval: tuple[float, float]) -> str:
    return f"[{figure(interval[0])}, {figure(interval[1])}]"
