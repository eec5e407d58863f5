"""A history as a document: tables of steps and rows, records, the JSON's type and the exports."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

from msgspec import to_builtins

from kvmbench.comparison.document import GateDocument
from kvmbench.comparison.history_rows import LEAST, Point, Row, Step
from kvmbench.comparison.plots import history_marks
from kvmbench.comparison.steps import LEVEL
from kvmbench.errors import ResultError
from kvmbench.formats import openmetrics, otava
from kvmbench.report import Block, Cell, Column, Document, Heading, Items, Note, Record, Table, Tone
from kvmbench.report.figures import figure, plural, some
from kvmbench.stats import CONFIDENCE

if TYPE_CHECKING:
    from kvmbench.comparison.gates import Gate
    from kvmbench.comparison.history import History
    from kvmbench.results import Number

__all__ = ["SCHEMAS", "HistoryDocument", "document", "left_out"]

SHORT = 12  # characters of a commit
TONES: dict[str, Tone] = {"faster": "good", "slower": "bad", "changed": "mark"}


class HistoryDocument(TypedDict):
    """The JSON of `kvmbench history`."""

    schema: Literal["kvmbench.history/1"]
    order: str
    level: float  # p of a step is below
    confidence: float  # of the intervals
    points: list[Point]
    rows: list[Row]
    left_out: list[str]  # results without the time or the label of the order
    gate: NotRequired[GateDocument]


SCHEMAS = {"history": HistoryDocument}
"""The JSON document of this module by kind."""


def document(history: History, gate: Gate | None = None) -> Document:
    """Return the document of a history, with the outcome of a gate."""
    found = sorted(
        ((step, row) for row in history.rows for step in row.steps), key=lambda pair: pair[0].at
    )
    blocks: list[Block] = []
    if found:
        blocks.append(_steps(history, found))
        blocks += [Note(words) for words in _notes(history, found)]
    blocks += history_marks(history, [_label(point) for point in history.points])
    blocks += [Heading("Rows"), _rows(history)]
    blocks += [Note(words) for words in _row_notes(history)]
    data: HistoryDocument = {
        "schema": "kvmbench.history/1", "order": history.order, "level": LEVEL,
        "confidence": CONFIDENCE, "points": list(history.points), "rows": list(history.rows),
        "left_out": list(history.left_out),
    }  # fmt: skip
    if gate is not None:
        data["gate"] = {"status": gate.status, "lines": list(gate.lines)}
        blocks += [Items(gate.lines[:-1])] if gate.lines[1:] else []
        blocks.append(Note(gate.lines[-1]))
    records = [_record(history, step, row) for step, row in found]
    forms = {"otava": lambda: _otava(history), "openmetrics": lambda: _openmetrics(history)}
    return Document(_title(history, len(found)), blocks, records, to_builtins(data), forms)


def left_out(history: History) -> list[str]:
    """Return the rows that the export for Otava leaves out: they lack a figure in some result."""
    return [row.name for row in history.rows if None in row.values]


def _title(history: History, steps: int) -> str:
    points = history.points
    ends = " to ".join(dict.fromkeys(_label(point) for point in (points[0], points[-1])))
    stepped = sum(bool(row.steps) for row in history.rows)
    rows = f" in {stepped} of {len(history.rows)} rows" if steps and len(history.rows) > 1 else ""
    many = plural(steps, "step") if steps else "No step"
    return (
        f"{many}{rows} over {plural(len(points), 'result')} in the order of {history.order}, {ends}"
    )


def _label(point: Point) -> str:
    commit = point.labels.get("commit", "")
    dirty = "-dirty" if commit.endswith("-dirty") else ""
    return commit.removesuffix("-dirty")[:SHORT] + dirty if commit else point.name


def _steps(history: History, found: Sequence[tuple[Step, Row]]) -> Table:
    dated = any(history.points[step.at].time for step, _ in found)
    units = {row.unit for _, row in found}
    columns = [
        Column("from", "key"),
        *([Column("date", "key")] if dated else []),
        Column("row", "key"),
        *([Column("unit", "word")] if len(units) > 1 else []),
        *map(Column, ("before", "after", "%", f"{100 * CONFIDENCE:g} % interval")),
        Column("", "word"),
    ]
    lines: list[list[str | Cell]] = []
    for step, row in found:
        point = history.points[step.at]
        tone: Tone = "doubt" if row.doubt else TONES[step.verdict]
        lines.append(
            [
                _label(point),
                *([(point.time or "-")[:10]] if dated else []),
                row.name,
                *([row.unit] if len(units) > 1 else []),
                *(figure(step.before), figure(step.after), _percent(step.percent)),
                _interval(step),
                Cell(step.verdict + ("?" if row.doubt else ""), tone),
            ]
        )
    return Table(columns, lines, grouped=True)


def _percent(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:+.2f}"


def _shares(step: Step) -> tuple[float, float] | None:
    """Return the interval of a step in percent of before."""
    if step.interval is None or not step.before:
        return None
    low, high = (100 * end / abs(step.before) for end in step.interval)
    return low, high


def _interval(step: Step) -> str:
    if step.verdict == "changed":
        return "exact"
    shares = _shares(step)
    return f"[{shares[0]:+.2f}, {shares[1]:+.2f}]" if shares else "-"


def _notes(history: History, found: Sequence[tuple[Step, Row]]) -> list[str]:
    notes = []
    wide = {
        f"{row.name}: the step at {_label(history.points[step.at])} may be at any result from "
        f"{_label(history.points[step.first])} to {_label(history.points[step.last])}."
        for step, row in found
        if step.first < step.last
    }
    notes += sorted(wide)
    seen: dict[tuple[int, str], list[str]] = {}
    for step, row in found:
        for fact in step.changed:
            seen.setdefault((step.at, fact), []).append(row.name)
    for (at, fact), names in seen.items():
        notes.append(
            f"With {_label(history.points[at])} more than the commit changed: {fact} "
            f"({some(names)})."
        )
    return notes


def _rows(history: History) -> Table:
    units = {row.unit for row in history.rows}
    columns = [
        Column("row", "key"),
        *([Column("unit", "word")] if len(units) > 1 else []),
        *map(Column, ("results", "steps", "first", "last")),
        Column("spread", unit="%"),
    ]
    lines = []
    for row in history.rows:
        figures = row.level(0, len(row.values))
        share = "exact" if row.kind == "exact" else "-"
        if row.spread is not None and figures[-1]:
            share = f"{100 * row.spread / abs(figures[-1]):.2f}"
        lines.append(
            [
                row.name,
                *([row.unit] if len(units) > 1 else []),
                *(str(len(figures)), str(len(row.steps)), figure(figures[0]), figure(figures[-1])),
                share,
            ]
        )
    unit = f"{units.pop()}" if len(units) == 1 else ""
    if unit:
        columns[0] = Column(f"row ({unit})", "key")
    return Table(columns, lines)


def _row_notes(history: History) -> list[str]:
    notes = []
    if lacking := history.left_out:
        what = "time" if history.order == "time" else f"label {history.order!r}"
        notes.append(f"Results without the {what} are left out: {_these(lacking, 0)}.")
    noisy = [row for row in history.rows if row.kind == "noisy"]
    few = [row.name for row in noisy if len(row.known) < LEAST]
    if few:
        notes.append(
            f"{_these(few, len(history.rows))}: too few results to show a step: measured figures "
            f"need {LEAST} or more."
        )
    doubtful = [row.name for row in noisy if row.doubt]
    if doubtful:
        notes.append(
            f"{_these(doubtful, len(history.rows))}: neighbouring results are alike (a wave, or a "
            "slow drift of the host), so a step may be none. Compare the two commits with "
            "`kvmbench plan new`."
        )
    if varying := [row.name for row in history.rows if row.varies]:
        notes.append(
            f"{_these(varying, len(history.rows))}: called exact, but the figure differs between "
            "the runs of one result. The history has the median."
        )
    return notes


def _these(names: Sequence[str], of: int) -> str:
    if len(names) == of > 1:
        return "Every row"
    return some(names)


def _record(history: History, step: Step, row: Row) -> Record:
    """Return one step as a flat dict."""
    point = history.points[step.at]
    low, high = step.interval or (None, None)
    return {
        "row": row.name, "unit": row.unit, "kind": row.kind, "better": row.better,
        "at": point.name, "commit": point.labels.get("commit"), "time": point.time,
        "first": history.points[step.first].name, "last": history.points[step.last].name,
        "before": step.before, "after": step.after, "shift": step.shift, "low": low, "high": high,
        "percent": step.percent, "verdict": step.verdict, "doubt": row.doubt,
        "changed": "; ".join(step.changed),
    }  # fmt: skip


# Exports


def _otava(history: History) -> str:
    points = history.points
    columns = {row.name: row.values for row in history.rows}
    commits = [point.labels.get("commit") or point.name for point in points]
    return otava.document([point.time for point in points], commits, columns)


def _openmetrics(history: History) -> str:
    def seconds(point: Point) -> float:
        if point.time is None:
            raise ResultError(f"{point.name}: OpenMetrics needs the time, and its runs have none")
        return datetime.fromisoformat(point.time).timestamp()

    def labels(row: Row) -> dict[str, str]:
        return {"row": row.name, "unit": row.unit}

    figures = [
        openmetrics.Sample(labels(row), value, seconds(point))
        for row in history.rows
        for point, value in zip(history.points, row.values, strict=True)
        if value is not None
    ]
    steps = [
        openmetrics.Sample(
            labels(row) | {"commit": point.labels.get("commit") or point.name},
            _ratio(step.after, step.before), seconds(point),
        )
        for row in history.rows
        for step in row.steps
        if step.before
        for point in [history.points[step.at]]
    ]  # fmt: skip
    families = [openmetrics.Family("kvmbench_figure", "Median of a result, in its unit.", figures)]
    if steps:
        words = "Level after a step by that before it."
        families.append(openmetrics.Family("kvmbench_step_ratio", words, steps))
    return openmetrics.document(families)


def _ratio(after: Number, before: Number) -> float:
    return after / before
