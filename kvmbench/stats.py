"""Estimators, exact intervals and exact tests: numbers in, numbers out.

A value is one run's, as a rule the median of its iterations: runs are what was repeated
independently, and pooled iterations make false alarms (Kalibera & Jones, "Rigorous benchmarking in
reasonable time", ISMM 2013).

Every function takes sequences or arrays of finite floats in any one unit and returns floats in
that unit. Each raises ValueError for an empty sample, a value that is not finite, or a confidence
or power outside (0, 1). The same arguments give the same answer: no global random state is used.
Memory grows with the number of values, not with that of their pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import ceil, comb, erfc, floor, sqrt
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["CONFIDENCE", "POWER", "Interval", "autocorrelation", "drift", "hodges_lehmann"]
__all__ += ["mann_whitney_interval", "mann_whitney_p", "median_interval", "pooled_spread"]
__all__ += [
    "pseudo_median",
    "rank_sum_order",
    "sample",
    "signed_rank_interval",
    "signed_rank_order",
]
__all__ += ["signed_rank_p", "spread", "two_groups"]

Array: TypeAlias = NDArray[np.float64]
Interval: TypeAlias = tuple[float, float]

# Up to these sizes the null distributions are counted exactly, in 0.3 s at most. Beyond them the
# normal approximation with continuity and tie correction is used, which errs on the safe side:
# at 71 v 71 it makes a p of .05 0.4 % larger, and one of .001 10 % larger.
EXACT_PAIRS = 5_000  # n * m
EXACT_BLOCKS = 400  # paired differences
EXACT_STEPS = 200  # values in a sequence
SORTED_PAIRS = 4_000_000  # pairs that are sorted in memory; of more, each rank is looked for
SHUFFLES = 2_000  # random orders of a sequence
ALL_SLOPES = 2_000  # values in a sequence with the slopes of all pairs
ALL_ORDERS = 2_000  # values in a sequence with the products of all pairs, in random orders

CONFIDENCE = 0.95
POWER = 0.8  # of the minimum detectable effect
SAME = 1 + 1e-9  # sums of a few hundred floats: equal probabilities may differ in the last bits


# Two independent samples


def hodges_lehmann(before: ArrayLike, after: ArrayLike) -> float:
    """Return the Hodges-Lehmann shift: the median of all after[j] - before[i]."""
    return _middle(*_differences(before, after))


def mann_whitney_interval(
    before: ArrayLike, after: ArrayLike, confidence: float = 0.95
) -> Interval | None:
    """Return the interval of the shift that inverts the exact Mann-Whitney test.

    Its ends are the k-th smallest and k-th largest after[j] - before[i], with the largest k that
    keeps the coverage at `confidence` or above; None where no k does: 3 v 3 runs reach 90 % at
    most. With ties it covers at least as often (the ends belong to it).
    """
    x, y = _differences(before, after)
    return _ends(x, y, rank_sum_order(len(x), len(y), confidence))


def mann_whitney_p(before: ArrayLike, after: ArrayLike) -> float:
    """Return the two-sided p of the exact Mann-Whitney test: twice the smaller tail, at most 1.

    Ties get midranks and the distribution over all arrangements of these very midranks.
    """
    x, y = sorted((sample(before), sample(after)), key=len)  # fewer ranks to add up
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
    return _middle(sample(diffs)) / 2


def signed_rank_interval(diffs: ArrayLike, confidence: float = 0.95) -> Interval | None:
    """Return the interval of the centre that inverts Wilcoxon's exact signed-rank test.

    Its ends are the k-th smallest and k-th largest Walsh average, k as large as `confidence`
    allows; None where no k does: five differences reach 93.75 % at most. It assumes that the
    differences are spread symmetrically, as the difference of two like samples is.
    """
    d = sample(diffs)
    ends = _ends(d, None, signed_rank_order(len(d), confidence))
    return (ends[0] / 2, ends[1] / 2) if ends else None


def signed_rank_p(diffs: ArrayLike) -> float:
    """Return the two-sided p of Wilcoxon's exact signed-rank test.

    Ties get midranks. Zeros are ranked with the others and then left out (Pratt 1959). The
    distribution is that over all signs of the ranks that are left; all zeros give 1.
    """
    d = sample(diffs)
    ranks = _doubled_midranks(np.abs(d))[0]
    positive, ranks = int(ranks[d > 0].sum()), ranks[d != 0]
    if len(d) > EXACT_BLOCKS:
        return _normal_p(abs(positive - ranks.sum() / 2) / 2, float((ranks**2).sum()) / 16)
    return _both_tails(_signed_sums(ranks), positive)


# One sample


def median_interval(values: ArrayLike, confidence: float = 0.95) -> Interval | None:
    """Return the interval of the median between two order statistics (sign test inverted).

    None when no interval reaches `confidence`: at 95 % with fewer than six values.
    """
    x = np.sort(sample(values))
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
    x = sample(values)
    if len(x) < 2:
        raise ValueError("one value has no spread: expected two or more")
    return float(np.std(x - x[0], ddof=1))


def pooled_spread(before: ArrayLike, after: ArrayLike) -> float:
    """Return the standard deviation within the two samples, of n + m - 2 degrees of freedom."""
    x, y = sample(before), sample(after)
    if len(x) + len(y) < 3:
        raise ValueError("1 v 1 values have no spread: expected two or more on a side")
    squares = sum(float(np.var(part - part[0])) * len(part) for part in (x, y))
    return sqrt(squares / (len(x) + len(y) - 2))


def drift(values: ArrayLike) -> tuple[float, float]:
    """Return (Theil-Sen slope per step, two-sided p of Mann-Kendall's test) of a sequence.

    The p is exact, with ties too: it is that over all orders of these very values (up to 200
    values; beyond, the normal approximation with continuity and tie correction). It is 1 for a
    sequence that cannot drift: fewer than two values, or all the same. Of more than 2,000 values
    the slope is the median over the pairs half a sequence apart (Theil's incomplete method, 1950).
    """
    x = sample(values)
    n = len(x)
    if n < 2:
        return 0.0, 1.0
    sizes = _doubled_midranks(x)[1]
    if n > ALL_SLOPES:
        half = n // 2
        slope = float(np.median((x[-half:] - x[:half]) / (n - half)))
        score = float(sum(np.sign(x[k + 1 :] - x[k]).sum() for k in range(n)))
    else:
        i, j = np.triu_indices(n, 1)
        rises = x[j] - x[i]
        slope, score = float(np.median(rises / (j - i))), float(np.sign(rises).sum())
    if n > EXACT_STEPS:
        variance = (n * (n - 1) * (2 * n + 5) - (sizes * (sizes - 1) * (2 * sizes + 5)).sum()) / 18
        # Without ties the score moves in steps of 2, so half a step is 1.
        return slope, _normal_p(abs(score), float(variance), half_step=1.0)
    # The falling pairs of a random order of t1 equal values, t2 equal values ...: values of the
    # first kind against the second, then both against the third: Mann-Whitney counts that add up.
    null = np.ones(1)
    for already, more in zip(np.cumsum(sizes), sizes[1:], strict=False):
        null = np.convolve(null, _rank_sum_null(int(already), int(more)))
    return slope, _both_tails(null, int((rises < 0).sum()))


def autocorrelation(values: ArrayLike) -> tuple[float, float]:
    """Return (lag-1 autocorrelation, p of one that is 0 or less) of a sequence, or of several.

    `values` [n] or [n, sequences]: each sequence is standardized, and all count alike. The p is
    that over 2,000 random orders of these very values, from a fixed seed; of more than 2,000 values
    the normal approximation with the mean and the variance over all orders. It is 1 for what cannot
    have any: fewer than four values, or all the same.
    """
    x = np.asarray(values, dtype=np.float64).reshape(len(np.asarray(values)), -1)
    centred = x - x.mean(axis=0)
    squares = (centred**2).sum(axis=0)
    if len(x) < 4 or not squares.any():
        return 0.0, 1.0
    centred = centred[:, squares > 0] / np.sqrt(squares[squares > 0])
    centred /= sqrt(centred.shape[1])
    if len(x) > ALL_ORDERS:
        return _autocorrelation_of_many(centred)
    products = centred @ centred.T
    seen = float(np.diagonal(products, 1).sum())
    keys = np.random.PCG64(1).random_raw(SHUFFLES * len(x)).reshape(SHUFFLES, len(x))
    order = np.argsort(keys, axis=1, kind="stable")
    reached = int((products[order[:, :-1], order[:, 1:]].sum(axis=1) >= seen - 1e-12).sum())
    return seen, (reached + 1) / (SHUFFLES + 1)


def _autocorrelation_of_many(centred: Array) -> tuple[float, float]:
    """Return the same of sequences too long for the products of all pairs of their values.

    The sum of n - 1 neighbouring products has over all orders the mean -1 / n, and a variance from
    those of one pair, of two pairs that share a value and of two that do not (Wald and Wolfowitz,
    "An exact test for randomness", 1943). Each sequence's values add up to 0, and so do the
    products of one value with all, which leaves sums of squares.
    """
    n = len(centred)
    seen = float((centred[:-1] * centred[1:]).sum())
    own = float(((centred**2).sum(axis=1) ** 2).sum())  # products of a value with itself, squared
    same = float(((centred.T @ centred) ** 2).sum()) - own
    shared = own - same
    apart = 1 - 2 * same - 4 * shared
    variance = same / n + (2 * shared + apart) / (n * (n - 1)) - 1 / n**2
    p = 0.5 * erfc((seen + 1 / n) / sqrt(2 * variance))
    return seen, max(p, 1 / (SHUFFLES + 1))  # the least that random orders can say


def two_groups(values: ArrayLike) -> tuple[float, float] | None:
    """Return the medians of two clearly separate groups of values, low and high; None for one.

    The sorted values are cut in two, each part with at least three and a quarter of all: a slow
    run or two is not a second mode. The cut taken has the largest D = (difference of the parts'
    means) / sqrt(variance within the parts, n - 2, + q**2 / 12), q being the smallest step between
    different values, which stands for the clock's. There are two groups when D > 4.2 + 36 / n.
    docs/statistics.md has the limit's false alarms and its power.
    """
    x = np.sort(sample(values))
    n = len(x)
    steps = np.diff(x)
    if n < 6 or not steps.any():
        return None
    quantum = steps[steps > 0].min()
    least = max(3, ceil(n / 4))
    low = np.arange(least, n - least + 1)  # values below the cut
    centred = x - x.mean()
    below = np.cumsum(centred)[low - 1]  # above the cut the sum is -below
    squares = (centred**2).sum() - below**2 * n / (low * (n - low))
    within = np.maximum(squares, 0) / (n - 2) + quantum**2 / 12
    apart = -below * n / (low * (n - low)) / np.sqrt(within)
    if apart.max() <= 4.2 + 36 / n:
        return None
    cut = int(low[apart.argmax()])
    return float(np.median(x[:cut])), float(np.median(x[cut:]))


# Pairs: the differences of two samples, and the sums within one (twice the Walsh averages)


def _differences(before: ArrayLike, after: ArrayLike) -> tuple[Array, Array]:
    return np.sort(sample(after)), np.sort(-sample(before))


def _middle(x: Array, y: Array | None = None) -> float:
    number = len(x) * (len(x) + 1) // 2 if y is None else len(x) * len(y)
    low, high = _ranked(x, y, [(number - 1) // 2, number // 2])
    return (low + high) / 2


def _ends(x: Array, y: Array | None, k: int) -> Interval | None:
    """Return the k-th smallest and the k-th largest sum; None for k = 0."""
    if not k:
        return None
    number = len(x) * (len(x) + 1) // 2 if y is None else len(x) * len(y)
    low, high = _ranked(x, y, [k - 1, number - k])
    return low, high


def _ranked(x: Array, y: Array | None, ranks: Sequence[int]) -> list[float]:
    """Return the sums x[i] + y[j] of these ranks, 0 first; without y those of x, i <= j."""
    other = x if y is None else y
    if len(x) * len(other) <= SORTED_PAIRS:
        sums = np.add.outer(x, other)
        flat = np.sort(sums[np.triu_indices(len(x))] if y is None else sums.ravel())
        return [float(value) for value in flat[list(ranks)]]
    x = np.sort(x)

    def number(limit: float) -> int:
        """Return how many sums are `limit` or less, by bisection for each value of the other."""
        low, high = np.zeros(len(other), np.intp), np.full(len(other), len(x))
        while (open_ := low < high).any():
            middle = (low + high) // 2
            within = x[np.minimum(middle, len(x) - 1)] + other <= limit
            low = np.where(open_ & within, middle + 1, low)
            high = np.where(open_ & ~within, middle, high)
        pairs = int(low.sum())
        return (pairs + int((x + x <= limit).sum())) // 2 if y is None else pairs

    found = []
    for rank in ranks:  # bisect the floats themselves, as whole numbers in their order
        low, high = _code(x.min() + other.min()), _code(x.max() + other.max())
        while low < high:
            middle = (low + high) // 2
            if number(_decode(middle)) > rank:
                high = middle
            else:
                low = middle + 1
        found.append(_decode(low))
    return found


def _code(value: float) -> int:
    """Return the place of a float in the order of all floats; 0 of 0."""
    magnitude = int(np.float64(abs(value)).view(np.int64))
    return -magnitude if value < 0 else magnitude


def _decode(code: int) -> float:
    value = float(np.int64(abs(code)).view(np.float64))
    return -value if code < 0 else value


# Null distributions


def rank_sum_order(n: int, m: int, confidence: float) -> int:
    """Return the k of mann_whitney_interval; 0 when no interval reaches `confidence`."""
    if n * m > EXACT_PAIRS:
        deviation = sqrt(n * m * (n + m + 1) / 12)
        return max(0, floor(n * m / 2 - _z(confidence) * deviation + 0.5))
    return _order(_rank_sum_null(n, m), confidence)


def signed_rank_order(n: int, confidence: float) -> int:
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


# Arguments


def sample(values: ArrayLike) -> Array:
    """Return the values as an array; ValueError where they are none, or not finite."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1:
        raise ValueError(f"a sample of {x.ndim} dimensions: expected 1")
    if not len(x):
        raise ValueError("an empty sample: expected one value or more")
    if not np.isfinite(x).all():
        raise ValueError(f"a sample with {x[~np.isfinite(x)][0]}: expected finite numbers")
    return x


def _positive(name: str, value: float) -> float:
    if not (value >= 0 and np.isfinite(value)):
        raise ValueError(f"{name} {value}: expected a finite number, 0 or more")
    return float(value)


def _doubled_midranks(values: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return twice the midrank of each value, and how many values are equal at each rank."""
    _, place, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return (2 * np.cumsum(sizes) - sizes + 1)[place], sizes
