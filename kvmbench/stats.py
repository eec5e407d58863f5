"""Estimators, exact intervals and exact tests: numbers in, numbers out.

A value here is one run's value, as a rule the median of the run's iterations: runs are what was
repeated independently, and iterations of one run are not independent samples. Pooling them makes
false alarms (Kalibera & Jones, "Rigorous benchmarking in reasonable time", ISMM 2013).

Every function takes sequences or arrays of finite floats in any one unit and returns floats in
that unit. Each raises ValueError for an empty sample, a value that is not finite, or a confidence
or power outside (0, 1). Nothing here draws from global random state: the same arguments give the
same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain, combinations
from math import ceil, comb, erfc, floor, sqrt
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "drift",
    "hodges_lehmann",
    "holm",
    "mann_whitney_interval",
    "mann_whitney_p",
    "max_t_independent",
    "max_t_paired",
    "median_interval",
    "minimum_detectable",
    "pooled_spread",
    "pseudo_median",
    "runs_needed",
    "signed_rank_interval",
    "signed_rank_p",
    "spread",
    "two_groups",
]

Array: TypeAlias = NDArray[np.float64]
Interval: TypeAlias = tuple[float, float]

# Up to these sizes the null distributions are counted exactly, in 1 s at most. Beyond them the
# normal approximation with continuity and tie correction is used: at 101 v 100 its tail
# probability of .025 is right to 0.2 %.
EXACT_PAIRS = 10_000  # n * m
EXACT_BLOCKS = 400  # paired differences
EXACT_STEPS = 200  # values in a sequence

# The gap, in standard deviations within the groups, that one normal sample in 1000 of this size
# exceeds (100,000 samples each); from 13 values on it is below the 4 that is always asked for.
GAPS = {6: 15.0, 7: 10.8, 8: 8.7, 9: 7.4, 10: 6.1, 11: 5.0, 12: 4.6}

EXHAUSTIVE_LABELS = 50_000  # arrangements of labels tried in full
EXHAUSTIVE_SIGNS = 15  # blocks whose 2**N signs are tried in full
CHUNK = 1 << 20  # numbers in one intermediate array, 8 MiB

# Probabilities are sums of a few hundred floats: equal ones may differ in the last bits.
SAME = 1 + 1e-9


# Two independent samples


def hodges_lehmann(before: ArrayLike, after: ArrayLike) -> float:
    """Return the Hodges-Lehmann shift: the median of all after[j] - before[i]."""
    return float(np.median(_differences(before, after)))


def mann_whitney_interval(
    before: ArrayLike, after: ArrayLike, confidence: float = 0.95
) -> Interval | None:
    """Return the interval of the shift that inverts the exact Mann-Whitney test.

    Its ends are the k-th smallest and k-th largest after[j] - before[i], with the largest k that
    keeps the coverage at `confidence` or above; None when there is none: 3 v 3 runs reach 90 % at
    most. With ties it covers at least as often (the ends belong to it).
    """
    differences = np.sort(_differences(before, after))
    k = _rank_sum_order(np.size(before), np.size(after), confidence)
    return (float(differences[k - 1]), float(differences[-k])) if k else None


def mann_whitney_p(before: ArrayLike, after: ArrayLike) -> float:
    """Return the two-sided p of the exact Mann-Whitney test: twice the smaller tail, at most 1.

    Ties get midranks and the distribution over all arrangements of these very midranks.
    """
    x, y = _sample(before), _sample(after)
    if len(x) > len(y):  # fewer ranks to add up
        x, y = y, x
    n, m = len(x), len(y)
    ranks, sizes = _doubled_midranks(np.concatenate([x, y]))
    total = int(ranks[:n].sum())
    if n * m > EXACT_PAIRS:
        size = n + m
        ties = float((sizes**3 - sizes).sum()) / (size * (size - 1))
        variance = n * m / 12 * (size + 1 - ties)
        # In units of ranks; a doubled midrank moves in steps of 1/2 at least, so 1/2 is safe.
        return _normal_p(abs(total / 2 - n * (size + 1) / 2), variance)
    return _both_tails(_rank_sums(ranks, n), total)


# Paired differences


def pseudo_median(diffs: ArrayLike) -> float:
    """Return the Hodges-Lehmann centre: the median of all (d[i] + d[j]) / 2 with i <= j."""
    return float(np.median(_walsh(_sample(diffs))))


def signed_rank_interval(diffs: ArrayLike, confidence: float = 0.95) -> Interval | None:
    """Return the interval of the centre that inverts Wilcoxon's exact signed-rank test.

    Its ends are the k-th smallest and k-th largest Walsh average, k as large as `confidence`
    allows; None when there is none: five differences reach 93.75 % at most. It assumes that the
    differences are spread symmetrically, as the difference of two like samples is.
    """
    d = _sample(diffs)
    k = _signed_rank_order(len(d), confidence)
    averages = np.sort(_walsh(d))
    return (float(averages[k - 1]), float(averages[-k])) if k else None


def signed_rank_p(diffs: ArrayLike) -> float:
    """Return the two-sided p of Wilcoxon's exact signed-rank test.

    Ties get midranks. Zeros are ranked with the others and then left out (Pratt 1959). The
    distribution is that over all signs of the ranks that are left; all zeros give 1.
    """
    d = _sample(diffs)
    ranks = _doubled_midranks(np.abs(d))[0]
    positive, ranks = int(ranks[d > 0].sum()), ranks[d != 0]
    if len(d) > EXACT_BLOCKS:
        return _normal_p(abs(positive - ranks.sum() / 2) / 2, float((ranks**2).sum()) / 16)
    return _both_tails(_signed_sums(ranks), positive)


# Many rows at once


def holm(p: Sequence[float]) -> list[float]:
    """Return p adjusted for the whole list by Holm's step-down (1979), valid for any dependence."""
    values = _sample(p)
    order = np.argsort(values, kind="stable")
    steps = np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * steps), 1.0)
    return [float(value) for value in adjusted]


def max_t_independent(
    before: ArrayLike,
    after: ArrayLike,
    margins: ArrayLike,
    *,
    draws: int = 20_000,
    seed: int = 1,
) -> list[float]:
    """Return for each row of a table the p of |shift| <= margin, adjusted for the whole table.

    `before` [n, R] and `after` [m, R] have a line for each run and a column for each row of the
    table; NaN where a run has no value. `margins` [R], 0 or more, are in the columns' units.

    Westfall and Young's step-down max-T (1993): the runs' labels are permuted, jointly for all
    columns, which keeps the columns' dependence. The statistic is Welch's t, |difference of
    means| / standard error, with 0/0 = 0 and x/0 = infinity; it is 0 where a side has fewer than
    two values. `after` is first moved toward `before` by the margin, but not past it; so p is 1
    where the observed difference of means is within the margin. All C(n+m, n) arrangements are
    tried when they are at most 50,000; else `draws` random ones, and p = (reached + 1) / (draws +
    1). The draws are ranks of PCG64(seed)'s raw 64-bit numbers, whose stream numpy guarantees.

    The family-wise error holds where the runs are exchangeable between the sides in the columns
    that did not change: independent, with the same spread.
    """
    x, y = _table(before, "before"), _table(after, "after")
    n, m = len(x), len(y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"before has {x.shape[1]} columns, after {y.shape[1]}: expected the same")
    margin = _margins(margins, x.shape[1])
    both = np.concatenate([x, y])
    if not both.shape[1]:
        return []
    both -= _column(np.median, both)
    shift = _column(np.mean, both[n:]) - _column(np.mean, both[:n])
    both[n:] -= np.clip(shift, -margin, margin)
    values, valid = _exact_steps(both)
    first = np.zeros((1, n + m))
    first[0, :n] = 1.0

    def statistic(labels: Array) -> Array:
        count, sums, squares = (labels @ part for part in (valid, values, values**2))
        others = [part.sum(axis=0) for part in (valid, values, values**2)]
        left = _mean_and_error(count, sums, squares)
        right = _mean_and_error(others[0] - count, others[1] - sums, others[2] - squares)
        t = _ratio(np.abs(left[0] - right[0]), np.sqrt(left[1] + right[1]))
        t[(count < 2) | (others[0] - count < 2)] = 0.0
        return t

    arrangements = comb(n + m, n)
    exhaustive = arrangements <= EXHAUSTIVE_LABELS
    size = _chunk_size(n + m, both.shape[1])
    labels = (
        _all_labels(n, m, arrangements, size)
        if exhaustive
        else _random_labels(n, m, _draws(draws), seed, size)
    )
    return _step_down(statistic, first, labels, exhaustive, within=np.abs(shift) <= margin)


def max_t_paired(
    diffs: ArrayLike, margins: ArrayLike, *, draws: int = 20_000, seed: int = 1
) -> list[float]:
    """Return for each row of a table the p of |shift| <= margin, adjusted for the whole table.

    `diffs` [N, R] has a line for each block and a column for each row of the table; NaN where a
    block has no value. As max_t_independent, but a block's differences change sign together, and
    the statistic is |mean| / standard error. All 2**N signs are tried up to 15 blocks. It needs
    6 blocks for p < 0.05, whatever R is, where the changed rows stand out of their spread.

    The family-wise error holds where the differences of the columns that did not change are
    symmetric about 0, as those of balanced blocks (ABBA) are.
    """
    table = _table(diffs, "diffs")
    margin = _margins(margins, table.shape[1])
    if not table.shape[1]:
        return []
    shift = _column(np.mean, table)
    values, valid = _exact_steps(table - np.clip(shift, -margin, margin))
    count = valid.sum(axis=0)
    squares = (values**2).sum(axis=0)

    def statistic(signs: Array) -> Array:
        mean, error = _mean_and_error(count, signs @ values, squares)
        t = _ratio(np.abs(mean), np.sqrt(error))
        t[:, count < 2] = 0.0
        return t

    n = len(table)
    exhaustive = n <= EXHAUSTIVE_SIGNS
    size = _chunk_size(n, table.shape[1])
    signs = _all_signs(n, size) if exhaustive else _random_signs(n, _draws(draws), seed, size)
    return _step_down(statistic, np.ones((1, n)), signs, exhaustive, np.abs(shift) <= margin)


# One sample


def median_interval(values: ArrayLike, confidence: float = 0.95) -> Interval | None:
    """Return the interval of the median between two order statistics (sign test inverted).

    None when no interval reaches `confidence`: at 95 % with fewer than six values.
    """
    x = np.sort(_sample(values))
    n = len(x)
    tail, k = 0, 0
    if n > EXACT_BLOCKS:
        k = floor(n / 2 - _z(confidence) * sqrt(n) / 2 + 0.5)
    else:
        limit = _tail(confidence) * 2**n
        while (tail := tail + comb(n, k)) <= limit:
            k += 1
    return (float(x[k - 1]), float(x[-k])) if k else None


def spread(values: ArrayLike) -> float:
    """Return the sample standard deviation (n - 1); ValueError for fewer than two values."""
    x = _sample(values)
    if len(x) < 2:
        raise ValueError("one value has no spread: expected two or more")
    return float(np.std(x - x[0], ddof=1))


def pooled_spread(before: ArrayLike, after: ArrayLike) -> float:
    """Return the standard deviation within the two samples, of n + m - 2 degrees of freedom."""
    x, y = _sample(before), _sample(after)
    if len(x) + len(y) < 3:
        raise ValueError("1 v 1 values have no spread: expected two or more on a side")
    squares = sum(float(np.var(part - part[0])) * len(part) for part in (x, y))
    return sqrt(squares / (len(x) + len(y) - 2))


def drift(values: ArrayLike) -> tuple[float, float]:
    """Return (Theil-Sen slope per step, two-sided p of Mann-Kendall's test) of a sequence.

    The p is exact, with ties too: it is that over all orders of these very values (up to 200
    values; beyond, the normal approximation with continuity and tie correction). It is 1 for a
    sequence that cannot drift: fewer than two values, or all the same.
    """
    x = _sample(values)
    n = len(x)
    i, j = np.triu_indices(n, 1)
    if not len(i):
        return 0.0, 1.0
    rises = x[j] - x[i]
    slope = float(np.median(rises / (j - i)))
    sizes = _doubled_midranks(x)[1]
    if n > EXACT_STEPS:
        score = abs(float(np.sign(rises).sum()))
        variance = (n * (n - 1) * (2 * n + 5) - (sizes * (sizes - 1) * (2 * sizes + 5)).sum()) / 18
        # Without ties the score moves in steps of 2, so half a step is 1.
        return slope, _normal_p(score, float(variance), half_step=1.0)
    # The falling pairs of a random order of t1 equal values, t2 equal values ...: values of the
    # first kind against the second, then both against the third: Mann-Whitney counts that add up.
    null = np.ones(1)
    for already, more in zip(np.cumsum(sizes), sizes[1:], strict=False):
        null = np.convolve(null, _rank_sum_null(int(already), int(more)))
    return slope, _both_tails(null, int((rises < 0).sum()))


def two_groups(values: ArrayLike) -> tuple[float, float] | None:
    """Return the centres (medians) of two clearly separate groups of values, else None.

    Each has two values at least and a fifth of them all, and the gap between them is wider than
    in all but one of 1000 normal samples of that size. None for fewer than six values.
    """
    x = np.sort(_sample(values))
    n = len(x)
    best: tuple[float, int] = (0.0, 0)
    steps = np.diff(x)
    if n < 6 or not steps.any():
        return None
    quantum = steps[steps > 0].min()
    least = max(2, ceil(n / 5))
    for k in range(least, n - least + 1):
        low, high = x[:k], x[k:]
        within = (np.var(low) * k + np.var(high) * (n - k)) / (n - 2) + quantum**2 / 12
        best = max(best, (float(steps[k - 1] / np.sqrt(within)), k))
    if best[0] < GAPS.get(n, 4.0):
        return None
    k = best[1]
    return float(np.median(x[:k])), float(np.median(x[k:]))


# Planning


def minimum_detectable(
    spread: float,
    n: int,
    m: int | None = None,
    *,
    confidence: float = 0.95,
    power: float = 0.8,
) -> float | None:
    """Return the smallest shift that the exact interval tells from 0 with probability `power`.

    `spread` is the standard deviation between runs, n v m of them; without `m`, of n paired
    differences. None where the exact test cannot reach the level at all (3 v 3 runs, 5 pairs).

    It is for normal values and one row. In small samples (n m <= 400, or 30 pairs) it is the
    `power` quantile of the interval's upper end over 10,000 samples of shift 0, good to about
    2 %; beyond, (z[1 - a/2] + z[power]) * sd * sqrt(1/n + 1/m) / sqrt(3/pi), which is Lehmann's
    large-sample formula and is far too bright for small ones: 6 pairs have power .46 at its word.
    """
    reach = _reach(n, m, confidence, power)
    return None if reach is None else reach * _positive("spread", spread)


def runs_needed(
    spread: float,
    shift: float,
    *,
    paired: bool = False,
    confidence: float = 0.95,
    power: float = 0.8,
) -> int | None:
    """Return how many runs on each side, or `paired` differences, see `shift`.

    None for shift 0, or one that would need above 10**8 runs. The inverse of minimum_detectable,
    never below the smallest number at which the exact test can reach the level.
    """
    sides = 1 if paired else 2
    size = abs(shift)
    sd = _positive("spread", spread)
    if not size or sd / size > 1e4:
        return None
    # The formula asks for too few in small samples and for the right number in large ones.
    asked = sides * (_large_sample(confidence, power) * sd / size) ** 2
    n = max(1, ceil(asked / SAME))
    while True:
        reach = _reach(n, None if paired else n, confidence, power)
        if reach is not None and reach * sd <= size * SAME:
            return n
        n += 1


@cache
def _reach(n: int, m: int | None, confidence: float, power: float) -> float | None:
    """Return the minimum detectable shift in standard deviations."""
    if not 0 < power < 1:
        raise ValueError(f"power {power}: expected a number between 0 and 1")
    if min(n, n if m is None else m) < 1:
        raise ValueError("no runs: expected one or more on each side")
    paired = m is None
    k = _signed_rank_order(n, confidence) if m is None else _rank_sum_order(n, m, confidence)
    if not k:
        return None
    if (n > 30) if m is None else (n * m > 400):
        return _large_sample(confidence, power) * sqrt(1 / n + (0 if m is None else 1 / m))
    # Moving a sample moves its interval, so the shift is seen that exceeds the upper end at 0.
    normal = _normals(10_000, n + (m or 0))
    if paired:
        i, j = np.triu_indices(n)
        points = (normal[:, i] + normal[:, j]) / 2
    else:
        points = (normal[:, None, :n] - normal[:, n:, None]).reshape(len(normal), -1)
    last = points.shape[1] - k
    return float(np.quantile(np.partition(points, last, axis=1)[:, last], power))


def _large_sample(confidence: float, power: float) -> float:
    """Return (z + z) / sqrt(3/pi): 3/pi is the rank tests' efficiency for normal values."""
    return (_z(confidence) + NormalDist().inv_cdf(power)) / sqrt(3 / np.pi)


def _normals(lines: int, columns: int) -> Array:
    """Return standard normal numbers by Box and Muller from PCG64's raw stream."""
    u = _uniforms(lines * columns * 2, 1)
    half = lines * columns
    found: Array = np.sqrt(-2 * np.log(u[:half])) * np.cos(2 * np.pi * u[half:])
    return found.reshape(lines, columns)


def _uniforms(count: int, seed: int) -> Array:
    raw = np.random.PCG64(seed).random_raw(count)
    return np.asarray(((raw >> np.uint64(11)) + 0.5) * 2.0**-53, dtype=np.float64)


# Null distributions


def _rank_sum_order(n: int, m: int, confidence: float) -> int:
    """Return the k of mann_whitney_interval; 0 when no interval reaches `confidence`."""
    if n * m > EXACT_PAIRS:
        deviation = sqrt(n * m * (n + m + 1) / 12)
        return max(0, floor(n * m / 2 - _z(confidence) * deviation + 0.5))
    return _order(_rank_sum_null(n, m), confidence)


def _signed_rank_order(n: int, confidence: float) -> int:
    """Return the k of signed_rank_interval; 0 when no interval reaches `confidence`."""
    if n > EXACT_BLOCKS:
        deviation = sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return max(0, floor(n * (n + 1) / 4 - _z(confidence) * deviation + 0.5))
    return _order(_signed_sums(np.arange(1, n + 1)), confidence)


def _order(null: Array, confidence: float) -> int:
    """Return the largest k with P(statistic < k) within one tail."""
    return int(np.searchsorted(np.cumsum(null), _tail(confidence), side="right"))


@cache
def _rank_sum_null(n: int, m: int) -> Array:
    """Return the probabilities of Mann-Whitney's U = 0 ... n m, samples of n and m, no ties."""
    n, m = min(n, m), max(n, m)
    return _rank_sums(np.arange(n + m), n)[n * (n - 1) // 2 :]


def _rank_sums(ranks: NDArray[np.int64], n: int) -> Array:
    """Return the probability that n of the `ranks`, all choices alike, sum to 0, 1, ..."""
    largest = int(np.sort(ranks)[len(ranks) - n :].sum())
    # [k, s]: the ways to choose k of the ranks so far with sum s. At most C(200, 100) = 9e58, and
    # all terms are positive: each count is right to 1e-13 of itself.
    ways = np.zeros((n + 1, largest + 1))
    ways[0, 0] = 1.0
    for rank in ranks.tolist():
        ways[1:, rank:] += ways[:-1, : largest + 1 - rank]
    null: Array = ways[n] / ways[n].sum()
    return null


def _signed_sums(ranks: NDArray[np.int64]) -> Array:
    """Return the probability that the ranks of positive sign, signs by coin, sum to 0, 1, ..."""
    null = np.zeros(int(ranks.sum()) + 1)
    null[0] = 1.0
    for rank in ranks.tolist():
        null[rank:] += null[: len(null) - rank].copy()
        null /= 2
    return null


def _both_tails(null: Array, at: int) -> float:
    return min(1.0, 2 * min(float(null[: at + 1].sum()), float(null[at:].sum())))


def _normal_p(distance: float, variance: float, half_step: float = 0.5) -> float:
    """Return the two-sided p of a statistic this far from its mean, corrected for continuity."""
    if variance <= 0:
        return 1.0
    return erfc(max(0.0, distance - half_step) / sqrt(2 * variance))


def _tail(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: expected a number between 0 and 1")
    return (1 - confidence) / 2 * SAME


def _z(confidence: float) -> float:
    return -NormalDist().inv_cdf(_tail(confidence))


# Permutations


def _step_down(
    statistic: Callable[[Array], Array],
    observed: Array,
    arrangements: Iterator[Array],
    exhaustive: bool,
    within: NDArray[np.bool_],
) -> list[float]:
    """Return Westfall and Young's step-down max-T p of each column (1993, algorithm 4.1)."""
    t = statistic(observed)[0]
    t[within] = 0.0
    order = np.argsort(-t, kind="stable")
    reached, total = np.zeros(len(t), dtype=np.int64), 0
    for chunk in arrangements:
        # Each row competes with itself and the rows that stand out less than it.
        largest = np.maximum.accumulate(statistic(chunk)[:, order[::-1]], axis=1)[:, ::-1]
        reached += (largest >= t[order] / SAME).sum(axis=0)
        total += len(chunk)
    if not exhaustive:  # the observed arrangement is one of those that could have been drawn
        reached, total = reached + 1, total + 1
    p = np.empty(len(t))
    p[order] = np.maximum.accumulate(reached / total)
    return [float(value) for value in p]


def _exact_steps(table: Array) -> tuple[Array, Array]:
    """Return (values, valid): each column in whole steps, 0 where it has no value.

    A step is a power of two, about 1e-7 of the column's range for 12 runs. So every sum, also of
    squares, is a whole number below 2**53 and has no rounding: arrangements with equal sums
    compare equal, whatever the order in which a machine adds.
    """
    valid = ~np.isnan(table)
    values = np.where(valid, table, 0.0)
    largest = np.abs(values).max(axis=0)
    exponent = np.frexp(largest)[1]  # largest < 2**exponent
    bits = 26 - len(table).bit_length()
    return np.rint(np.ldexp(values, bits - exponent)), valid.astype(np.float64)


def _mean_and_error(count: Array, sums: Array, squares: Array) -> tuple[Array, Array]:
    """Return the mean and its squared standard error; of no use where count < 2."""
    n = np.maximum(count, 2)
    return sums / n, (n * squares - sums**2) / (n * n * (n - 1))


def _ratio(distance: Array, error: Array) -> Array:
    """Return distance / error with 0/0 = 0 and x/0 = infinity."""
    t = np.where(distance > 0, np.inf, 0.0)
    return np.divide(distance, error, out=t, where=error > 0)


def _all_labels(n: int, m: int, arrangements: int, size: int) -> Iterator[Array]:
    chosen = combinations(range(n + m), n)
    flat = np.fromiter(chain.from_iterable(chosen), dtype=np.intp, count=arrangements * n)
    return _labels(flat.reshape(arrangements, n), n + m, size)


def _random_labels(n: int, m: int, draws: int, seed: int, size: int) -> Iterator[Array]:
    generator = np.random.PCG64(seed)
    for start in range(0, draws, size):
        lines = min(size, draws - start)
        keys = generator.random_raw(lines * (n + m)).reshape(lines, n + m)
        yield from _labels(np.argsort(keys, axis=1, kind="stable")[:, :n], n + m, size)


def _labels(chosen: NDArray[np.intp], runs: int, size: int) -> Iterator[Array]:
    """Yield [size, runs] arrays with 1 where a run is of the first side."""
    for start in range(0, len(chosen), size):
        part = chosen[start : start + size]
        labels = np.zeros((len(part), runs))
        np.put_along_axis(labels, part, 1.0, axis=1)
        yield labels


def _all_signs(n: int, size: int) -> Iterator[Array]:
    for start in range(0, 1 << n, size):
        code = np.arange(start, min(start + size, 1 << n))[:, None]
        yield np.where(code >> np.arange(n) & 1, -1.0, 1.0)


def _random_signs(n: int, draws: int, seed: int, size: int) -> Iterator[Array]:
    generator = np.random.PCG64(seed)
    for start in range(0, draws, size):
        lines = min(size, draws - start)
        raw = generator.random_raw(lines * n).reshape(lines, n)
        yield np.where(raw >> np.uint64(63), -1.0, 1.0)


def _chunk_size(runs: int, columns: int) -> int:
    return max(1, CHUNK // max(runs, columns))


def _draws(draws: int) -> int:
    if draws < 1:
        raise ValueError(f"draws {draws}: expected 1 or more")
    return draws


# Arguments


def _sample(values: ArrayLike) -> Array:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1:
        raise ValueError(f"a sample of {x.ndim} dimensions: expected 1")
    if not len(x):
        raise ValueError("an empty sample: expected one value or more")
    if not np.isfinite(x).all():
        raise ValueError(f"a sample with {x[~np.isfinite(x)][0]}: expected finite numbers")
    return x


def _table(values: ArrayLike, name: str) -> Array:
    table = np.array(values, dtype=np.float64)
    if table.ndim != 2 or not len(table):
        raise ValueError(f"{name} of shape {table.shape}: expected [runs, rows] and a run or more")
    if np.isinf(table).any():
        raise ValueError(f"{name} has an infinite value: expected finite numbers, or NaN for none")
    return table


def _margins(margins: ArrayLike, columns: int) -> Array:
    margin = np.asarray(margins, dtype=np.float64)
    if margin.shape != (columns,):
        raise ValueError(f"margins of shape {margin.shape}: expected ({columns},)")
    if not (np.isfinite(margin) & (margin >= 0)).all():
        raise ValueError("a margin is negative or not finite: expected 0 or more")
    return margin


def _positive(name: str, value: float) -> float:
    if not (value >= 0 and np.isfinite(value)):
        raise ValueError(f"{name} {value}: expected a finite number, 0 or more")
    return float(value)


def _column(estimate: Callable[[Array], np.floating[Any]], table: Array) -> Array:
    """Return an estimate of each column's values; 0 where it has none."""
    columns = [column[~np.isnan(column)] for column in table.T]
    return np.array([float(estimate(x)) if len(x) else 0.0 for x in columns])


def _differences(before: ArrayLike, after: ArrayLike) -> Array:
    return np.subtract.outer(_sample(after), _sample(before)).ravel()


def _walsh(d: Array) -> Array:
    i, j = np.triu_indices(len(d))
    return (d[i] + d[j]) / 2


def _doubled_midranks(values: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return twice the midrank of each value, and how many values are equal at each rank."""
    _, place, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return (2 * np.cumsum(sizes) - sizes + 1)[place], sizes
