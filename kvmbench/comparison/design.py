"""Faults of a measurement's design, which put its verdicts in doubt: boots, order, drift, spreads.

`kvmbench.comparison.caveats` has their words.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from math import exp, log, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kvmbench import stats, student
from kvmbench.adjustment import holm
from kvmbench.comparison.shifts import present
from kvmbench.results import Run
from kvmbench.stats import Interval
from kvmbench.units import Figures

if TYPE_CHECKING:
    from kvmbench.comparison.rows import Row
    from kvmbench.comparison.verdicts import Comparison
    from kvmbench.units import Side

__all__ = ["UNLIKE", "Course", "Order", "careful_interval", "correlates", "course", "drifts"]
__all__ += ["one_boot", "unconfirmed_spreads"]

LEVEL = 0.05  # of false alarms of drift, and of autocorrelation, in a comparison
UNLIKE = 2.0  # ratio of standard deviations; at 3 max-T has up to 19 % false alarms at 5 %


def one_boot(comparison: Comparison) -> bool | None:
    """Return whether the sides are one boot each, and different ones; None if it is not known."""
    if comparison.replicates.level != "run":
        return False
    ids = [{side.result.boots[number].id for number in side.boots} for side in comparison.sides]
    return None if "" in ids[0] | ids[1] else ids[0] != ids[1]


class Order:
    """The order in time of the runs of both sides."""

    def __init__(self, comparison: Comparison) -> None:
        times = [[_when(run) for run in side.runs.values()] for side in comparison.sides]
        self._times = [[time for time in found if time] for found in times]
        self.known = all(self._times) and sum(map(len, self._times)) == sum(map(len, times))

    @property
    def one_side_first(self) -> bool:
        """Whether one side was measured wholly before the other, two runs or more each."""
        first, second = self._times
        if not self.known or min(len(first), len(second)) < 2:
            return False
        return max(first) < min(second) or max(second) < min(first)

    @cached_property
    def in_turn(self) -> bool:
        """Whether the sides alternate: their mean places differ by one, or by a tenth of all."""
        if not self.known:
            return False
        both = sorted((time, side) for side, found in enumerate(self._times) for time in found)
        places = [[n for n, (_, of) in enumerate(both) if of == side] for side in (0, 1)]
        apart = abs(float(np.mean(places[0])) - float(np.mean(places[1])))
        return apart <= max(1.0, len(both) / 10)


def _when(run: Run) -> datetime | None:
    try:
        time = datetime.fromisoformat(run.time or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.astimezone()


class Course(NamedTuple):
    """What the rows of one side have in common from unit to unit, in the order of time."""

    units: int
    slope: float  # per unit, as a share of the rows' centres
    drift: float  # two-sided p of Mann and Kendall's test
    rise: float  # the same as a normal deviate, positive where the rows rise
    lag: float  # autocorrelation from one unit to the next
    correlated: float  # its one-sided p

    @property
    def blind(self) -> bool:
        """Whether no order of so few units could count as a drift."""
        return self.units < 5  # 2 / 4! = 8 %, 2 / 5! = 1.7 %


def course(side: Side, figures: Sequence[Figures]) -> Course | None:
    """Return the course of the mean of a side's noisy rows, each standardized; None without order.

    `figures` has an array [units] for each row. One row may drift by chance, or by its spread show
    none; what a host does to all of them shows in the mean.
    """
    rows = [row for row in figures if len(present(row)) > 1 and np.ptp(present(row))]
    if side.result.order == "lost" or not rows:
        return None
    table = np.array(rows)
    centres = np.nanmedian(table, axis=1)[:, None]
    spreads = np.nanstd(table, axis=1)[:, None]
    used = np.isfinite(table).any(axis=0)
    means = np.nanmean((table - centres)[:, used] / spreads, axis=0)
    shares = (table - centres)[:, used] / np.where(centres, np.abs(centres), np.nan)
    slope = stats.drift(present(np.nanmedian(shares, axis=0)))[0] if centres.all() else 0.0
    lag, correlated = stats.autocorrelation(means)
    rising, p = stats.drift(means)
    rise = float(np.copysign(NormalDist().inv_cdf(1 - p / 2), rising)) if p < 1 else 0.0
    return Course(len(means), slope, p, rise, lag, correlated)


def drifts(courses: Sequence[Course]) -> bool:
    """Return whether a side drifts, or both do in one direction: that is 5 % of false alarms."""
    if len(courses) < 2:
        return any(found.drift <= LEVEL for found in courses)
    both = abs(sum(found.rise for found in courses)) / sqrt(len(courses))
    least = min((found.drift for found in courses), default=1.0)
    return 2 * (1 - NormalDist().cdf(both)) <= LEVEL / 2 or least <= LEVEL / 4


def correlates(courses: Sequence[Course]) -> bool:
    """Return whether the units of a side, or of both, resemble the ones before them."""
    if len(courses) < 2:
        return any(found.correlated <= LEVEL for found in courses)
    deviates = [NormalDist().inv_cdf(1 - min(found.correlated, 0.999)) for found in courses]
    both = 1 - NormalDist().cdf(sum(deviates) / sqrt(len(courses)))
    least = min((found.correlated for found in courses), default=1.0)
    return both <= LEVEL / 2 or least <= LEVEL / 4


def _ratio(comparison: Comparison, row: Row) -> float | None:
    """Return the ratio of a row's standard deviations, after's to before's; None without any."""
    sides = [present(figures) for figures in comparison.figures[row.workload]]
    if min(map(len, sides)) < 2:
        return None
    step = row.quantum / 12**0.5
    before, after = (max(stats.spread(side), step) for side in sides)
    return after / before if before and after else None


def _unlike(comparison: Comparison) -> dict[str, float]:
    """Return the ratio of the rows in which, or in whose table, the sides spread unlike."""
    if comparison.replicates.paired:
        return {}
    ratios = {
        row.workload: ratio
        for row in comparison.table
        if row.kind == "noisy" and row.shift is not None and (ratio := _ratio(comparison, row))
    }
    if not ratios:
        return {}
    common = exp(float(np.mean([log(ratio) for ratio in ratios.values()])))
    if max(common, 1 / common) >= UNLIKE:
        return ratios
    return {name: ratio for name, ratio in ratios.items() if max(ratio, 1 / ratio) >= UNLIKE}


def unconfirmed_spreads(comparison: Comparison) -> list[str]:
    """Return the moved rows of unlike spreads that Welch's t with Holm does not confirm.

    Permutations and ranks suppose that both sides spread alike; Welch's t does not.
    """
    unlike = _unlike(comparison)
    rows = [row for row in comparison.table if row.interval is not None]
    if not unlike or comparison.correction == "welch-holm":
        return []
    found = []
    for words, margins in (
        (("faster", "slower"), [row.margin or 0.0 for row in rows]),
        (("slightly faster", "slightly slower"), [row.quantum for row in rows]),
    ):
        if not any(row.verdict in words and row.workload in unlike for row in rows):
            continue
        single = [
            _welch(comparison, row).p(margin) for row, margin in zip(rows, margins, strict=True)
        ]
        for row, p in zip(rows, holm(single), strict=True):
            doubtful = p * comparison.comparisons > 1 - comparison.confidence
            if row.verdict in words and row.workload in unlike and doubtful:
                found.append(row.workload)
    return found


def careful_interval(comparison: Comparison, row: Row) -> Interval | None:
    """Return a row's interval, joined with Welch's where its sides spread unlike."""
    if row.interval is None or row.workload not in _unlike(comparison):
        return row.interval
    low, high = _welch(comparison, row).interval(comparison.confidence)
    return min(low, row.interval[0]), max(high, row.interval[1])


def _welch(comparison: Comparison, row: Row) -> student.Shift:
    before, after = map(present, comparison.figures[row.workload])
    return student.mean_shift(before, after, quantum=row.quantum)
