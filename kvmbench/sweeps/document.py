"""The documents of a sweep's points: its axes and figures, or one figure over an axis.

`points.Points` and `kvmbench sweep show` make them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

from kvmbench.errors import brief, unknown_name
from kvmbench.report import Block, Column, Document, Facts, Note, Record, Table
from kvmbench.report.figures import figure, plural
from kvmbench.report.plots import SHAPES, Axis, Curve, Curves, HeatMap

__all__ = ["HEAD", "SCHEMAS", "TEXTS", "Means", "SweepDocument", "means", "show_document"]

HEAD = ("design", "point", "points", "kvmbench", "model_version", "job")
"""The columns that each point begins with."""

TEXTS = ("policy_text", "before_text", "profile_text", "scenario_text")
"""The columns with declarations as TOML, which each point ends with; tables leave them out."""

AXES_END = "policy"  # the last axis; figures follow it
LISTED = 12  # values of an axis in the summary
COLUMNS_MAX = 12  # curves in the table of text
CURVES_MAX = 20  # curves that are drawn


class SweepDocument(TypedDict):
    """The JSON of `kvmbench sweep show`, and of --find.

    It has `points`, a row each; with --x `curves`, a row per cell of the table; or `policies`.
    """

    schema: Literal["kvmbench.sweep/1"]
    kvmbench: str
    points: NotRequired[list[Record]]
    x: NotRequired[str]
    y: NotRequired[str]
    by: NotRequired[str | None]
    curves: NotRequired[list[Record]]
    goal: NotRequired[str]
    policies: NotRequired[list[Record]]


SCHEMAS = {"sweep": SweepDocument}
"""The JSON documents of sweeps by kind."""


class Means(NamedTuple):
    """A figure over an axis: the mean of y at each x, over `counts` points, in the order of x."""

    label: str
    x: Sequence[Any]
    y: Sequence[float | None]
    counts: Sequence[int]


def show_document(
    name: str, rows: Sequence[Record], total: int, x: str | None, y: str | None, by: str | None,
    where: Mapping[str, str],
) -> Document:  # fmt: skip
    """Return the document of `Points.document`."""
    columns = [key for key in (rows[0] if rows else ()) if key not in TEXTS]
    for key in filter(None, (x, y, by, *where)):
        if key not in columns:
            raise ValueError(unknown_name("column", key, columns))
    kept = [row for row in rows if all(_text(row[key]) == value for key, value in where.items())]
    if not kept:
        given = ", ".join(f"{key}={value}" for key, value in where.items())
        raise ValueError(f"no point has {given}")
    lacks = "" if len(rows) == total else f" of {total:,}: the sweep has not finished"
    title = f"{name}, {plural(len(kept), 'point')}{lacks}"
    if where:
        title += f" with {', '.join(f'{key} {value}' for key, value in where.items())}"
    head = {"schema": "kvmbench.sweep/1", "kvmbench": kept[0]["kvmbench"]}
    if x is None:
        if y is not None or by is not None:
            raise ValueError("--y and --by need --x")
        flat = [{key: row[key] for key in columns if key in row} for row in kept]
        return Document(title, _summary(kept, columns), flat, head | {"points": flat})
    y = y or ("worth" if "worth" in columns else "cycles")
    found = means(kept, x, y, by)
    varied = [
        key for key in columns[len(HEAD) : columns.index(AXES_END) + 1]
        if key not in (x, by) and len({_text(row[key]) for row in kept}) > 1
    ]  # fmt: skip
    blocks: list[Block] = [*_plots(found, x, y, by), *_tables(found, x, y, by)]
    most = max(max(curve.counts) for curve in found)
    if varied and most > 1:
        blocks.append(
            Note(f"Each figure is the mean of up to {most} points, which differ in "
                 f"{', '.join(varied)}; --where COLUMN=VALUE keeps some.")
        )  # fmt: skip
    records = [
        {x: value, **({by: curve.label} if by else {}), y: mean, "points": n}
        for curve in found
        for value, mean, n in zip(curve.x, curve.y, curve.counts, strict=True)
        if n
    ]
    said = f"{title}: {y} over {x}" + (f", by {by}" if by else "")
    return Document(said, blocks, records, head | {"x": x, "y": y, "by": by, "curves": records})


def means(rows: Sequence[Record], x: str, y: str, by: str | None) -> list[Means]:
    """Return the means per value of `by`: the figures of the table, the curves and the heat map.

    All have the same x, rising where they are numbers, else in their first order. A y is
    None where no point is. Raises ValueError where a y is no number.
    """
    cells: dict[tuple[Any, Any], list[float]] = {}
    for row in rows:
        value = row[y]
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"{y} is {brief(value)}, not a number: choose another column")
        cells.setdefault((row[by] if by else y, row[x]), []).extend(
            [] if value is None else [value]
        )
    places = _ordered(key[1] for key in cells)
    return [
        Means(
            _text(label), places,
            [fmean(found) if (found := cells.get((label, at))) else None for at in places],
            [len(cells.get((label, at), ())) for at in places],
        )
        for label in _ordered(key[0] for key in cells)
    ]  # fmt: skip


def _plots(found: Sequence[Means], x: str, y: str, by: str | None) -> Iterator[Block]:
    """Yield curves over an x of numbers, and a heat map where by has several values, too."""
    at = found[0].x
    said = f"{y} over {x}" + (f" by {by}" if by else "")
    if len(at) > 1 and all(isinstance(value, (int, float)) for value in at):
        # Each has at least one figure, and few enough have a shape and a colour each.
        drawn = [curve for curve in found if any(value is not None for value in curve.y)]
        for first in range(0, min(len(drawn), CURVES_MAX), SHAPES):
            some = drawn[first : first + SHAPES]
            yield Curves(
                title=said, x=Axis(x, _unit(x)), y=Axis(y, _unit(y)), at=at,
                curves=[Curve(curve.label if by else "", curve.y) for curve in some],
            )  # fmt: skip
    if by and len(at) > 1 and len(found) > 1:
        yield HeatMap(
            title=said, x=Axis(x, _unit(x)), y=Axis(by, _unit(by)), z=Axis(y, _unit(y)),
            xs=[_text(value) for value in at], ys=[curve.label for curve in found],
            values=[curve.y for curve in found],
        )  # fmt: skip


def _unit(column: str) -> str:
    if column.startswith(("costs.", "kinds.", "exit_cycles")):
        return "cycles"
    if column.endswith("_us"):
        return "us"
    if column.startswith("per_second"):
        return "1/s"
    return {"worth": "% of CPU time", "seconds": "s", "clock_hz": "Hz"}.get(column, "")


def _ordered(values: Any) -> list[Any]:
    found = list(dict.fromkeys(values))
    numbers = all(isinstance(value, (int, float)) for value in found)
    return sorted(found) if numbers else found


def _text(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _tables(found: Sequence[Means], x: str, y: str, by: str | None) -> list[Block]:
    blocks: list[Block] = []
    for at in range(0, len(found), COLUMNS_MAX):
        some = found[at : at + COLUMNS_MAX]
        columns = [Column(x, "key"), *(Column(curve.label, unit=y if by else "") for curve in some)]
        cells = [
            [_text(value), *("-" if c.y[i] is None else _figure(c.y[i]) for c in some)]
            for i, value in enumerate(some[0].x)
        ]
        blocks.append(Table(columns, cells))
    return blocks


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return figure(value) if isinstance(value, int) or abs(value) >= 1e-3 else f"{value:.3g}"


def _summary(rows: Sequence[Record], columns: Sequence[str]) -> list[Block]:
    end = columns.index(AXES_END) + 1
    first = rows[0]
    facts = Facts(
        [
            ("job", str(first["job"])),
            ("kvmbench", f"{first['kvmbench']}, model {first['model_version']}"),
            ("design", str(first["design"])),
        ]
    )
    axes = []
    for key in columns[len(HEAD) : end]:
        values = _ordered(row[key] for row in rows)
        words = ", ".join(map(_text, values[:LISTED]))
        if len(values) > LISTED:
            words = f"{_text(values[0])} to {_text(values[-1])}"
        axes.append([key, str(len(values)), words])
    figures = []
    for key in columns[end:]:
        values = [row.get(key) for row in rows]
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if numbers and len({*numbers}) > 1:
            figures.append([key, *map(_figure, (min(numbers), median(numbers), max(numbers)))])
        elif not numbers and len({*map(_text, values)}) > 1:
            counts = [f"{values.count(v)} {_text(v)}" for v in _ordered(values)]
            figures.append([key, ", ".join(counts[:3]), "", ""])
    blocks: list[Block] = [
        facts,
        Table([Column("axis", "key"), Column("n"), Column("values", "word")], axes),
    ]
    if figures:
        heads = [Column("figure", "key"), Column("least"), Column("median"), Column("most")]
        blocks.append(Table(heads, figures))
    blocks.append(Note("--x COLUMN --y COLUMN --by COLUMN prints a figure over an axis."))
    return blocks
