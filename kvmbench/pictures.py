"""Plots that several subjects have: every run in the order of time, and where the cycles go.

Their documents use them; `kvmbench.report.plots` has the kinds of plots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from kvmbench.causes import CAUSES, OF_STEPS
from kvmbench.report.plots import Axis, Bar, Bars, Group, Marks, Number, Panel, Place

if TYPE_CHECKING:
    from kvmbench.units import Side

__all__ = ["cause_bars", "run_marks", "time_bars"]

SPREAD = (
    "At the right of each panel, a line for each figure shows how they are distributed; the long "
    "line is the median."
)


def cause_bars(
    title: str, axis: Axis, sides: Sequence[tuple[str, str, Mapping[str, Number]]], about: str = ""
) -> list[Bars]:
    """Return a bar for each (label, side, figures by cause); none where every figure is 0."""
    names = [name for name in CAUSES if any(figures.get(name) for _, _, figures in sides)]
    if not names:
        return []
    bars = [
        Bar(label, side, [figures.get(name, 0) for name in names]) for label, side, figures in sides
    ]
    labels = [CAUSES[name].label for name in names]
    looks = [list(CAUSES).index(name) for name in names]
    return [Bars(title=title, about=about, axis=axis, parts=labels, bars=bars, looks=looks)]


def time_bars(
    title: str, axis: Axis, sides: Sequence[tuple[str, str, Mapping[str, Number]]], about: str
) -> list[Bars]:
    """Return the bars of all causes, and those of the policies' own steps, which are small."""
    own = [(label, side, {c: figures[c] for c in OF_STEPS}) for label, side, figures in sides]
    about_own = "Only the steps of the policies: TR and map."
    return [
        *cause_bars(title, axis, sides, about),
        *cause_bars("The policies' own part of it", axis, own, about_own),
    ]


class _Run(NamedTuple):
    """A run of a side: its number in the file, and the number of its boot."""

    side: int
    number: int
    boot: int
    block: int | None
    time: datetime | None


def run_marks(sides: Sequence[Side], names: Sequence[str] = ()) -> list[Marks]:
    """Return a panel for each measured row, with the median of every run; none without such rows.

    The runs are in the order of time where every one has its time, else those of each side in the
    order of its file. `names` are the rows, by default those of all sides.
    """
    from statistics import median

    found: dict[str, dict[tuple[int, int], float]] = {}
    units: dict[str, str] = {}
    for number, side in enumerate(sides):
        for key, cells in side.cells.items():
            if (names and key.name not in names) or all(c.series.kind == "exact" for c in cells):
                continue
            units[key.name] = cells[0].series.unit
            for cell in cells:
                figure = float(median(cell.series.values))
                found.setdefault(key.name, {})[number, cell.run] = figure
    runs = [run for number, side in enumerate(sides) for run in _runs(number, side)]
    if not found or len(runs) < 2:
        return []
    timed = all(run.time for run in runs)
    if timed:
        runs.sort(key=lambda run: (run.time, run.side) if run.time else ())
    order = names or list(found)
    panels = [
        Panel(
            _without(name, units[name]),
            units[name],
            [found[name].get((run.side, run.number)) for run in runs],
        )
        for name in order
        if name in found
    ]
    groups, what = _groups(sides, runs, timed)
    lost = any(side.result.order == "lost" for side in sides)
    said = "in the order of time" if timed else "in the order of each file"
    said += ", in which the order of time is lost" if lost else ""
    return [
        Marks(
            title="Every run",
            about=f"A mark is a run, from left to right {said}{what}. {SPREAD}",
            series=[side.label for side in sides],
            places=[Place(run.side, str(n)) for n, run in enumerate(runs, 1)],
            panels=panels,
            groups=groups,
        )
    ]


def _without(name: str, unit: str) -> str:
    """Return a row's name without its unit, which rows of several units have at their end."""
    return name.removesuffix(f" {unit}")


def _runs(number: int, side: Side) -> list[_Run]:
    places = [
        (boot_number, boot)
        for boot_number, boot in zip(side.boot_numbers, side.result.boots, strict=True)
        for _ in boot.runs
    ]
    return [
        _Run(number, n, places[n][0], places[n][1].block, _when(run.time))
        for n, run in side.runs.items()
    ]


def _when(text: str | None) -> datetime | None:
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.astimezone()


def _groups(sides: Sequence[Side], runs: Sequence[_Run], timed: bool) -> tuple[list[Group], str]:
    """Return neighbours of one block, boot or side, and the words that say which of them."""
    several = len({(run.side, run.boot) for run in runs}) > len(sides)
    if timed and all(run.block is not None for run in runs):
        keys, what = [(0, run.block or 0) for run in runs], "; a band is a block of boots"
    elif several:
        keys, what = [(run.side, run.boot) for run in runs], "; a band is a boot"
    elif not timed and len(sides) > 1:
        keys, what = [(run.side, -1) for run in runs], ""
    else:
        return [], ""
    groups: list[Group] = []
    for n, key in enumerate(keys):
        if n and key == keys[n - 1]:
            groups[-1] = groups[-1]._replace(last=n)
            continue
        side, boot = key
        name = sides[side].label if boot == -1 else str(boot if "block" in what else boot + 1)
        groups.append(Group(n, n, name))
    return groups, what
