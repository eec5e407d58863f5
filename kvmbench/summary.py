"""One result as a table: the centre of each row, how sure it is, and what its runs could show."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from kvmbench import stats
from kvmbench.report.plain import Table, fact, figure, fill, text
from kvmbench.results import Result
from kvmbench.stats import CONFIDENCE, POWER, QUANTA
from kvmbench.units import Cell, Key, Replicates, Side

__all__ = ["render_result", "render_rows"]

WIDE = 80  # columns of a terminal


def render_result(label: str, result: Result) -> str:
    """Return what a result holds: where it is from, and a line a row.

    Of measured rows: the median of the units (boots, or else runs), its interval between order
    statistics, their standard deviation, and the shift that a comparison of two such results
    would see; of exact ones the figure.
    """
    side = Side(label, result)
    parts = [_head(side), render_rows(side)]
    marks: dict[str, list[str]] = {}
    for key, cells in side.cells.items():
        for mark in dict.fromkeys(mark for cell in cells for mark in cell.series.marks):
            marks.setdefault(mark, []).append(key.name)
    parts += [fill(f"{', '.join(names)}: {mark}.") for mark, names in marks.items()]
    skipped = {name: why for _, run in result.runs() for name, why in run.skipped.items()}
    parts += [fill(f"Skipped: {name}: {why}.") for name, why in skipped.items()]
    return "\n".join(parts)


def render_rows(side: Side) -> str:
    """Return the table of a side's rows, and what its last column means."""
    replicates = Replicates(side, side)
    lines = []
    for key, cells in side.cells.items():
        figures = replicates.figures(key)[0]
        lines.append(_line(key, cells, figures[np.isfinite(figures)]))
    headings = ("row", "unit", f"{replicates.level}s", "median")
    if all(line[2] in "01" or line[-1] == "exact" for line in lines):
        return text(Table(headings, [line[:4] for line in lines], names=2), WIDE)
    more = (f"{100 * CONFIDENCE:g} % interval", "spread", "detects")
    table = text(Table((*headings, *more), lines, names=2), WIDE)
    return f"{table}\n" + fill(
        "detects: the smallest shift that a comparison with another result of as many "
        f"{replicates.level}s and this spread would see, {100 * POWER:.0f} times of 100."
    )


def _head(side: Side) -> str:
    result = side.result
    host = result.boots[0].host
    runs = [run for _, run in result.runs()]
    times = sorted(run.time for run in runs if run.time)
    facts = {
        "result": result.name or side.label,
        "from": result.source,
        "engine": _distinct(run.engine for run in runs),
        "profile": _distinct(run.profile for run in runs),
        "taken": times[0] if len(set(times)) == 1 else " to ".join((*times[:1], *times[-1:])),
        "boots, runs": f"{len(result.boots)}, {len(runs)}"
        + (", order in time lost" if result.order == "lost" else ""),
        "kernel": _distinct(boot.host.kernel for boot in result.boots),
        "CPU": host.cpu or host.facts.get("hardware"),
        "KVM": host.kvm,
    }
    lines = [fact(name, value, 13) for name, value in facts.items() if value]
    return "".join((*lines, *(fact("note", note, 13) for note in result.notes)))


def _distinct(values: Iterable[str | None]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))


def _line(key: Key, cells: list[Cell], figures: np.ndarray) -> tuple[str, ...]:
    series = cells[0].series
    if not len(figures):
        return (key.name, series.unit, "0", "-", "-", "-", "-")
    centre = float(np.median(figures))
    if series.kind == "exact":
        return (key.name, series.unit, str(len(figures)), figure(centre), "-", "-", "exact")
    interval = stats.median_interval(figures, CONFIDENCE)
    shown = "-" if interval is None else "[{}, {}]".format(*(figure(end) for end in interval))
    share, detects = "-", "-"
    if len(figures) > 1:
        deviation = stats.spread(figures)
        share = _share(deviation, centre)
        least = stats.minimum_detectable(deviation, len(figures), len(figures))
        if least is not None:
            detects = _share(max(least, QUANTA * (series.quantum or 0.0)), centre)
    return (key.name, series.unit, str(len(figures)), figure(centre), shown, share, detects)


def _share(value: float, centre: float) -> str:
    return f"{100 * value / abs(centre):.2f}%" if centre else "-"
