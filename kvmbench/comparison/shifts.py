"""Shifts: how far each noisy row moved, its interval, and the p of a table, by ranks or by means.

`kvmbench.comparison.verdicts` makes the verdicts of them; docs/statistics.md has the reasons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, sqrt
from statistics import median
from typing import Any

import numpy as np

from kvmbench import planning, stats, student
from kvmbench.adjustment import holm, max_t_independent, max_t_paired
from kvmbench.comparison.rows import Margin, Row
from kvmbench.errors import ResultError
from kvmbench.planning import Correction
from kvmbench.units import Figures, Replicates, Side

__all__ = ["BootSpread", "Method", "Pair", "adjusted", "least_units", "measured", "promised"]

Pair = tuple[Figures, Figures]


@dataclass(frozen=True, slots=True)
class BootSpread:
    """The standard deviation from boot to boot of one kernel, as a share of a row's figure."""

    source: str  # "0.4 %", or the label of the result that has the boots
    rows: Mapping[str, float] = field(default_factory=dict)
    other: float = 0.0  # of the rows that are not among `rows`
    freedom: float = inf

    @classmethod
    def parse(cls, text: str) -> BootSpread:
        """Return the deviation that `0.4%` says. Raises ValueError."""
        share = Margin.parse(text)
        if not share.relative or not share.value:
            raise ValueError(f"{text!r} is not a share of the figures such as 0.4%")
        return cls(str(share), other=share.value)

    @classmethod
    def of(cls, side: Side) -> BootSpread:
        """Return the deviation of a result's boots. Raises ResultError for fewer than three."""
        replicates = Replicates(side, side)
        count = len(side.boots)
        if count < 3 or replicates.level == "run":
            raise ResultError(
                f"{side.label}: {count} boot{'s' * (count != 1)}, expected 3 or more of one kernel"
            )
        rows = {}
        for key in side.cells:
            figures = present(replicates.figures(key)[0])
            if len(figures) > 1 and (centre := float(np.median(figures))):
                rows[key.name] = stats.spread(figures) / abs(centre)
        return cls(side.label, rows, median(rows.values()) if rows else 0.0, count - 1)

    def variance(self, row: Row) -> float:
        """Return the variance that a boot per side adds to a row's shift, in its unit squared."""
        return 2 * (self.rows.get(row.workload, self.other) * (row.before or 0.0)) ** 2


@dataclass(frozen=True, slots=True)
class Method:
    """How a table is tested: by exact ranks and permutations, or by means and Student's t."""

    paired: bool
    confidence: float
    correction: Correction
    boots: BootSpread | None = None

    @classmethod
    def of(
        cls,
        replicates: Replicates,
        rows: Sequence[Row],
        confidence: float,
        correction: Correction,
        boots: BootSpread | None,
    ) -> Method:
        """Return the method that was asked for, or t where it can decide nothing.

        Ranks of few boots or blocks have no interval; a known deviation of boots has no rank.
        """
        if correction == "sequence":  # kvmbench.comparison.sequence has its intervals and its p
            return cls(replicates.paired, confidence, correction)
        noisy = [min(row.units) for row in rows if row.kind == "noisy" and row.missing is None]
        few = max(noisy, default=0) < least_units(replicates.paired, confidence)
        boots = boots if replicates.level == "run" and not _one_boot(replicates) else None
        if boots or (few and replicates.level != "run"):
            correction = "welch-holm"
        return cls(replicates.paired, confidence, correction, boots)

    @property
    def by_means(self) -> bool:
        """Whether shifts and intervals are of means, with Student's t."""
        return self.correction == "welch-holm"

    def shift(self, row: Row, figures: Pair) -> student.Shift:
        """Return a row's shift of means."""
        if self.paired:
            return student.mean_shift_paired(present(figures[1] - figures[0]), quantum=row.quantum)
        before, after = map(present, figures)
        known = self.boots.variance(row) if self.boots else 0.0
        freedom = self.boots.freedom if self.boots else inf
        return student.mean_shift(before, after, quantum=row.quantum, known=known, freedom=freedom)


def _one_boot(replicates: Replicates) -> bool:
    """Return whether all figures of both sides are known to come from one boot."""
    ids = {side.result.boots[number].id for side in replicates.sides for number in side.boots}
    return len(ids) == 1 and "" not in ids


def least_units(paired: bool, confidence: float) -> int:
    """Return the least number of units per side, or of blocks, with an interval of ranks."""
    for n in range(2, 100):
        order = (
            stats.signed_rank_order(n, confidence)
            if paired
            else stats.rank_sum_order(n, n, confidence)
        )
        if order:
            return n
    raise ValueError(f"confidence {confidence}: no 99 units have an interval")


def present(figures: Figures) -> Figures:
    """Return the figures that are there."""
    found: Figures = figures[np.isfinite(figures)]
    return found


def measured(row: Row, figures: Pair, method: Method) -> dict[str, Any]:
    """Return shift, interval and spread of a noisy row that both sides have."""
    if method.by_means and min(row.units) > 1:
        mean = method.shift(row, figures)
        found: dict[str, Any] = {
            "shift": mean.difference, "interval": mean.interval(method.confidence), "by": "means",
        }  # fmt: skip
    elif method.paired:
        differences = present(figures[1] - figures[0])
        found = {
            "shift": stats.pseudo_median(differences),
            "interval": stats.signed_rank_interval(differences, method.confidence),
        }
    else:
        before, after = map(present, figures)
        found = {"shift": stats.hodges_lehmann(before, after)}
        if min(row.units) > 1:  # a single run may be any one of its kind
            found["interval"] = stats.mann_whitney_interval(before, after, method.confidence)
    if min(row.units) > 1:
        if method.paired:
            found["spread"] = stats.spread(present(figures[1] - figures[0]))
        else:
            found["spread"] = stats.pooled_spread(*map(present, figures))
    return found


def adjusted(
    rows: Sequence[Row], figures: Mapping[str, Pair], method: Method, margins: Sequence[float]
) -> dict[str, float]:
    """Return the adjusted p-value of each row, of the hypothesis |shift| <= its margin."""
    if not rows:
        return {}
    names = [row.workload for row in rows]
    before, after = (np.column_stack([figures[name][side] for name in names]) for side in (0, 1))
    if method.correction == "max-t":
        centres = [row.before or 0.0 for row in rows]
        if method.paired:
            p = max_t_paired(_used(after - before), margins, centres)
        else:
            p = max_t_independent(_used(before), _used(after), margins, centres)
        return dict(zip(names, p, strict=True))
    single = [
        _single(row, figures[row.workload], method, margin)
        for row, margin in zip(rows, margins, strict=True)
    ]
    return dict(zip(names, holm(single), strict=True))


def _single(row: Row, figures: Pair, method: Method, margin: float) -> float:
    """Return the p of a row by itself."""
    if method.by_means:
        return method.shift(row, figures).p(margin)
    shift = row.shift or 0.0
    if abs(shift) <= margin:
        return 1.0
    moved = figures[1] - np.copysign(margin, shift)
    if method.paired:
        return stats.signed_rank_p(present(moved - figures[0]))
    return stats.mann_whitney_p(present(figures[0]), present(moved))


def _used(figures: Figures) -> Figures:
    """Return the units that have a row at all: other units have no label to permute."""
    found: Figures = figures[np.isfinite(figures).any(axis=1)]
    return found


def promised(
    rows: Sequence[Row], method: Method, comparisons: int, detect: Margin | None
) -> dict[str, dict[str, Any]]:
    """Return for each tested row its minimum detectable effect, and the units that a claim needs.

    Each holds of a verdict in the table of these rows, so that it has the table's correction.
    """
    known = [row for row in rows if row.spread is not None and row.before and isfinite(row.before)]
    if not known:
        return {}
    spreads = [(row.spread or 0.0) / abs(row.before or 1) for row in known]
    units = Counter(row.units for row in known).most_common(1)[0][0]
    boots = [sqrt(method.boots.variance(row)) / abs(row.before or 1) for row in known] if (
        method.boots
    ) else []  # fmt: skip
    options: dict[str, Any] = {
        "paired": method.paired, "correction": method.correction,
        "confidence": method.confidence, "comparisons": comparisons,
    }  # fmt: skip
    found: dict[str, dict[str, Any]] = {}
    for row, least in zip(known, planning.detectable(spreads, units, known=boots, **options),
                          strict=True):  # fmt: skip
        more = found[row.workload] = {}
        margin = row.margin or 0.0
        if least is not None:  # where every run has the same figure, the steps are the limit
            more["detectable"] = margin + max(least * abs(row.before or 0.0), row.quantum)
        if not boots:
            more["wanted_within"] = planning.units_within(
                row.spread or 0.0, margin, paired=method.paired, confidence=method.confidence
            )
    if detect and not boots:
        beyond = [(detect.of(row.before or 0) - (row.margin or 0)) / abs(row.before or 1)
                  for row in known]  # fmt: skip
        for row, count in zip(known, planning.units_for_shift(spreads, beyond, **options),
                              strict=True):  # fmt: skip
            found[row.workload]["wanted_shift"] = count
    return found
