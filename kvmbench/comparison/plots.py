"""The plots of comparisons, A/A tests and histories, which `document` and its kin put in place."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from kvmbench.comparison.rows import Row
from kvmbench.comparison.tables import TONES, percent_of
from kvmbench.pictures import run_marks
from kvmbench.report.document import Plot, Tone
from kvmbench.report.plots import Axis, Dot, Dots, Level, Marks, Panel, Place

if TYPE_CHECKING:
    from kvmbench.comparison.history import History
    from kvmbench.comparison.verdicts import Comparison

__all__ = ["history_marks", "shift_dots", "unit_marks"]

MANY = 30  # rows, above which a picture leaves out the unchanged ones of exact figures
SHIFTS = (
    "Each row's shift in percent of before: the open circle at 0 is before, the filled one is "
    "after, with the {confidence:.4g} % interval of the shift. A row moved for sure where its "
    "interval has left the margin. A figure without an interval is exact, or its runs are too few."
)
PAIRED = (
    "Each mark is the difference within one pair, after less before. The line is no difference, "
    "the band is the margin."
)
HISTORY = (
    "A mark is a result, from left to right in the order of {order}. A thick line is a level, a "
    "dashed line a change point, with the first result after it and the size of the step."
)


def shift_dots(
    rows: Sequence[Row], confidence: float, title: str = "What moved, and how surely",
    *, several: bool = False, explained: bool = True,
) -> list[Plot]:  # fmt: skip
    """Return the shifts of rows in percent of before; none where no row has such a shift.

    Without `explained`, it follows a plot that says how to read it.
    """
    dots = []
    still = [row.workload for row in rows if row.verdict == "unchanged"]
    crowded = len(rows) > MANY and len(still) < len(rows)
    for row in rows:
        if row.percent is None or not row.before or (crowded and row.workload in still):
            continue
        share = 100 / abs(row.before)
        interval = row.interval and (row.interval[0] * share, row.interval[1] * share)
        tone: Tone = "doubt" if row.said.endswith("?") else TONES.get(row.verdict, "")
        dots.append(
            Dot(
                row.workload,
                row.percent,
                interval,
                start=0.0,
                margin=None if row.margin is None else row.margin * share,
                words=f"{percent_of(row)} %  {row.said}",
                tone=tone,
                side=row.to if several else "",
            )
        )
    if not dots:
        return []
    about = [SHIFTS.format(confidence=100 * confidence)] if explained else []
    if left := len(rows) - len(dots):
        which = "are unchanged or have no percentage" if crowded else "have no percentage"
        about.append(f"{left} of {len(rows)} rows {which}, and are in the table only.")
    return [
        Dots(
            title=title,
            about=" ".join(about),
            axis=Axis("shift", "% of before"),
            dots=dots,
            start=rows[0].from_ or "before",
            end="after" if several else rows[0].to,
            reference=0.0,
        )
    ]


def unit_marks(comparisons: Sequence[Comparison], rows: Sequence[Row]) -> list[Plot]:
    """Return every run of the sides, and the differences of paired units."""
    names = list(dict.fromkeys(row.workload for row in rows if row.kind == "noisy"))
    if not names:
        return []
    first = comparisons[0]
    sides = [first.sides[0], *(comparison.sides[1] for comparison in comparisons)]
    plots: list[Plot] = list(run_marks(sides, names))
    for comparison in comparisons:
        own = [row for row in comparison.rows if row.workload in names and row.shift is not None]
        if comparison.replicates.paired and own:
            plots.append(_differences(comparison, own, several=len(comparisons) > 1))
    return plots


def _differences(comparison: Comparison, rows: Sequence[Row], *, several: bool) -> Marks:
    panels = []
    for row in rows:
        before, after = comparison.figures[row.workload]
        values = [value if isfinite(value) else None for value in (after - before).tolist()]
        panels.append(Panel(row.workload, row.unit, values, margin=row.margin))
    count = max(len(panel.values) for panel in panels)
    unit = {"block": "block of boots", "run": "run"}.get(comparison.replicates.level)
    unit = unit or comparison.replicates.level
    side = f", {comparison.sides[1].label}" if several else ""
    return Marks(
        title=f"Differences of pairs, one per {unit}{side}",
        about=PAIRED,
        series=["difference"],
        places=[Place(0, str(n)) for n in range(1, count + 1)],
        panels=panels,
        reference=0.0,
    )


def history_marks(history: History, labels: Sequence[str]) -> list[Plot]:
    """Return each row's figures over the results, which `labels` name, with its change points."""
    if len(history.points) < 2 or not history.rows:
        return []
    end = len(history.points)
    panels = []
    for row in history.rows:
        starts = [0, *(step.at for step in row.steps)]
        levels = []
        for number, start in enumerate(starts if row.steps else ()):
            step = row.steps[max(number - 1, 0)]
            last = starts[number + 1] - 1 if number + 1 < len(starts) else end - 1
            words = ""
            if number:
                percent = "" if step.percent is None else f" {step.percent:+.2f} %"
                words = f"{labels[step.at]}{percent} {step.verdict}{'?' if row.doubt else ''}"
            value = step.after if number else step.before
            levels.append(Level(start, max(last, start), float(value), words))
        panels.append(Panel(row.name, row.unit, row.values, levels))
    return [
        Marks(
            title="Each row over the results",
            about=HISTORY.format(order=history.order),
            series=[""],
            places=[Place(0, label) for label in labels],
            panels=panels,
            joined=True,
        )
    ]
