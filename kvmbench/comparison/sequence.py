"""The confidence sequence: intervals of pairs that hold however often one looks at them.

An ordinary interval holds at one number of pairs, chosen before. This one holds at every number
together, so a measurement may be looked at after each pair and end when its rows are decided
(Lai 1976; Wang and Ramdas 2024). `compare` uses it with the correction `sequence`; `plan run`,
`measure` and `lab run` end by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import ArrayLike

from kvmbench.comparison.rows import Row
from kvmbench.errors import unknown_name
from kvmbench.report.figures import plural
from kvmbench.stats import Array, Interval, sample
from kvmbench.units import Figures

if TYPE_CHECKING:
    from kvmbench.comparison.verdicts import Comparison

__all__ = ["MIXTURE", "Looks", "adjusted_p", "decided_after", "interval", "judged", "looks"]
__all__ += ["pairs_to_know", "said", "undecided"]

MIXTURE = 0.2
"""The prior's weight in pairs: from 0.1 to 0.5 the numbers of pairs differ by one or two."""

MOST = 10_000  # pairs that `pairs_to_know` looks as far as


class Looks(NamedTuple):
    """The means and the half widths of the intervals after 1, 2, ... differences, [n] each."""

    means: Array
    halves: Array  # infinite where the differences are too few


def looks(
    diffs: ArrayLike, *, confidence: float = 0.95, rows: int = 1, quantum: float = 0.0
) -> Looks:
    """Return the interval of the mean difference after each of the differences, in their order.

    With probability `confidence` or more, all intervals of all `rows` of a table hold the means at
    once (Bonferroni), for normal differences. The scale is unknown and free: the mixture is that
    of Student's t, scale-invariant and 1 after one difference, hence a test martingale:

        E(mu) = sqrt(c/(n+c)) * ((S + n (x - mu)**2) / (S + c/(n+c) n (x - mu)**2))**(n/2)

    with the mean x of n differences and their sum of squares S about it. The interval holds the
    mu of E(mu) < rows / (1 - confidence). `quantum` is the step that the figures were rounded to:
    S is at least that of two roundings. Raises ValueError as `kvmbench.stats`.
    """
    numbers, means, squares = _sums(diffs, quantum)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: expected a number between 0 and 1")
    return Looks(means, _halves(numbers, squares, max(rows, 1) / (1 - confidence)))


def interval(
    diffs: ArrayLike, *, confidence: float = 0.95, rows: int = 1, quantum: float = 0.0
) -> Interval | None:
    """Return the interval after the last difference; None where they are too few for one."""
    means, halves = looks(diffs, confidence=confidence, rows=rows, quantum=quantum)
    mean, half = float(means[-1]), float(halves[-1])
    return None if half == inf else (mean - half, mean + half)


def adjusted_p(
    diffs: ArrayLike, margin: float = 0.0, *, rows: int = 1, quantum: float = 0.0
) -> float:
    """Return the p of a mean difference within the margin, adjusted for a table of `rows`.

    It is rows / E at the nearer end of the margin, at most 1: valid at any number of differences,
    also at one that they chose.
    """
    numbers, means, squares = _sums(diffs, quantum)
    n, mean, square = float(numbers[-1]), float(means[-1]), float(squares[-1])
    away = n * max(abs(mean) - margin, 0.0) ** 2
    if not away:
        return 1.0
    ratio = MIXTURE / (n + MIXTURE)
    growth = np.log((square + away) / (square + ratio * away))
    return min(1.0, max(rows, 1) * float(np.exp(-(np.log(ratio) + n * growth) / 2)))


def decided_after(found: Looks, margin: float) -> int | None:
    """Return the number of differences from which on the row was decided; None where it is not.

    A row is decided where its interval is wholly beyond the margin or wholly within.
    """
    far, halves = np.abs(found.means), found.halves
    decided = (far - halves > margin) | (far + halves <= margin)
    if not decided[-1]:
        return None
    undecided = np.flatnonzero(~decided)
    return int(undecided[-1]) + 2 if len(undecided) else 1


def pairs_to_know(
    spread: float, distance: float, *, confidence: float = 0.95, rows: int = 1
) -> int | None:
    """Return the number of pairs whose interval reaches no further than `distance` to each side.

    `spread` is the standard deviation of a difference, in the unit of `distance`. About half of
    all measurements need fewer. None where that takes over 10,000 pairs.
    """
    numbers = np.arange(1.0, MOST + 1)
    halves = _halves(numbers, (numbers - 1) * spread**2, max(rows, 1) / (1 - confidence))
    near = np.flatnonzero(halves <= distance)
    return int(near[0]) + 1 if len(near) else None


def _sums(diffs: ArrayLike, quantum: float) -> tuple[Array, Array, Array]:
    """Return 1, 2, ... n, the means and the sums of squares about them of the first 1, 2, ..."""
    values = sample(diffs)
    numbers = np.arange(1.0, len(values) + 1)
    centred = values - values[0]  # so that no square is large against the spread
    means = np.cumsum(centred) / numbers
    squares = np.cumsum(centred**2) - numbers * means**2
    least = (numbers - 1) * quantum**2 / 6
    return numbers, means + values[0], np.maximum(squares, least)


def _halves(numbers: Array, squares: Array, limit: float) -> Array:
    """Return the distance from the mean at which E reaches `limit`; infinite where it does not."""
    ratio = MIXTURE / (numbers + MIXTURE)
    growth = (limit / np.sqrt(ratio)) ** (2 / numbers)
    bound = growth * ratio < 1  # else E stays below the limit however far mu is
    rest = np.where(bound, 1 - growth * ratio, 1.0)
    return np.where(bound, np.sqrt(squares * (growth - 1) / (numbers * rest)), inf)


# Rows of a comparison


def judged(
    rows: Sequence[Row],
    figures: Mapping[str, tuple[Figures, Figures]],
    confidence: float,
    comparisons: int = 1,
) -> list[Row]:
    """Return `rows` with the intervals and the p of the confidence sequence, of measured figures.

    A unit of before and the unit of after with its number are a pair; units that one side has
    more are left out. The intervals of all rows hold together, in all `comparisons`.
    """
    tested = [row for row in rows if row.kind == "noisy" and row.missing is None]
    return [
        _judged(row, figures[row.workload], confidence, len(tested) * comparisons)
        if row in tested
        else row
        for row in rows
    ]


def _judged(row: Row, sides: tuple[Figures, Figures], confidence: float, rows: int) -> Row:
    pairs = min(map(len, sides))
    diffs = sides[1][:pairs] - sides[0][:pairs]
    numbers = np.flatnonzero(np.isfinite(diffs))
    diffs = diffs[numbers]
    if not len(diffs):
        return replace(row, interval=None, by="sequence")
    margin = row.margin or 0.0
    found = looks(diffs, confidence=confidence, rows=rows, quantum=row.quantum)
    mean, half = float(found.means[-1]), float(found.halves[-1])
    p, zero = (
        adjusted_p(diffs, limit, rows=rows, quantum=row.quantum) for limit in (margin, row.quantum)
    )
    after = decided_after(found, margin)
    spread = float(np.std(diffs, ddof=1)) if len(diffs) > 1 else None
    percent = 100 * mean / abs(row.before) if row.before else inf
    return replace(
        row, shift=mean, percent=percent if abs(percent) < inf else None,
        units=(len(diffs), len(diffs)), spread=spread, by="sequence", p=p, p_zero=zero,
        interval=None if half == inf else (mean - half, mean + half),
        after_units=None if after is None else int(numbers[after - 1]) + 1,
    )  # fmt: skip


def undecided(rows: Sequence[Row], patterns: Sequence[str] = ()) -> list[str]:
    """Return the names of the measured rows that are not decided, of `patterns` or of all.

    Raises ValueError for a pattern that fits no row, and where no such row is on both sides.
    """
    names = [row.workload for row in rows]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(unknown_name("row", pattern, names))
    asked = [
        row
        for row in rows
        if row.kind == "noisy"
        and row.missing is None
        and (not patterns or any(fnmatchcase(row.workload, pattern) for pattern in patterns))
    ]
    if not asked:
        raise ValueError("nothing to decide: none of the rows was measured on both sides")
    return [row.workload for row in asked if row.after_units is None]


def said(comparison: Comparison) -> str:
    """Return the note of a comparison by the confidence sequence: its terms, and its pairs."""
    rows = [row for row in comparison.rows if row.p is not None]
    tested, confidence = comparison.tested * comparison.comparisons, comparison.confidence
    pairs = plural(max((row.units[0] for row in rows), default=0), "pair")
    hold = (
        f"the intervals of the {tested} rows hold together" if tested > 1 else "its interval holds"
    )
    words = f"Confidence sequence: {hold}, however often one looks, for normal differences."
    if after := [row.after_units for row in rows if row.after_units is not None]:
        many = f"{len(after)} of {plural(len(rows), 'row')} decided" if len(rows) > 1 else "Decided"
        words += f" {many} after {_range(after)} of {pairs}."
    else:
        words += f" After {pairs} no row is decided."
    still = [
        pairs_to_know(row.spread, row.margin, confidence=confidence, rows=tested)
        for row in rows
        if row.after_units is None and row.spread and row.margin
    ]
    if known := [count for count in still if count is not None]:
        words += f" A row that did not move takes about {_range(known)} pairs."
    return words


def _range(counts: Sequence[int]) -> str:
    return " to ".join(dict.fromkeys(f"{count:,}" for count in (min(counts), max(counts))))
