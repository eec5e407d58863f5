"""Steps in a sequence of results: rank CUSUM, permutations and binary segmentation.

Numbers in, numbers out, as in `kvmbench.stats`. `kvmbench.comparison.history` uses them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvmbench.stats import Array, sample

__all__ = ["LEAST", "LEVEL", "change", "place_interval", "segments"]

LEVEL = 0.001  # p below which a sequence has a step
LEAST = 3  # results of a level that is left again
DRAWS = 9_999  # random orders, of which fewer than LEVEL may reach the observed score
COUNTED = 20  # results in the shorter part, up to which its rank sums are counted exactly
SURE = 10  # times below the level, where the sum over the parts of their p is p enough
DENSE, RATIO = 16, 1.15  # lengths of inner segments: every one up to DENSE, then each by RATIO
CHUNK = 1 << 16  # scores in one intermediate array, 512 KiB: larger ones leave the cache
RESAMPLES = 400  # of the interval of a place
ROUNDS = 10  # in which a place and its two levels are fitted to each other

Ranks = NDArray[np.int64]


def change(
    values: ArrayLike, *, inner: bool = False, level: float = LEVEL, seed: int = 1
) -> tuple[tuple[int, ...], float]:
    """Return the places in a sequence where its level changes most, and the p of no change.

    A place is the index of the first value at the new level: one that splits the sequence, or, for
    an `inner` segment of LEAST values or more that differs from the values before and after it,
    two. The score of a part is that of its rank sum, as a normal deviate; the CUSUM's peak is the
    largest score of all parts. `p` is the share of random orders of the same values with a score as
    large (DRAWS of them, from PCG64(seed)'s raw numbers, whose stream numpy guarantees); the draws
    end as soon as p is certain to be above `level`, and p is then a coarser estimate. Where the sum
    of the parts' p-values (Bonferroni's bound) is far below `level`, it is p, without draws. No
    place and p = 1 where the values are too few or all the same.

    p is valid for values that any order could have: independent, of any distribution, with ties.
    """
    x = sample(values)
    n = len(x)
    starts, lengths = _parts(n, inner)
    ranks = _doubled_midranks(x[None])
    if not len(lengths) or (ranks == ranks[0, 0]).all():
        return (), 1.0
    scores = _scores(ranks, starts, lengths)[0]
    best = int(scores.argmax())
    place = int(starts[best]), int(starts[best] + lengths[best])
    found = place if inner else place[1:]
    bound = 2 * len(lengths) * NormalDist().cdf(-float(scores[best]))
    if bound < level / SURE:
        return found, bound
    generator = np.random.PCG64(seed)
    most = int(level * (DRAWS + 1))  # with as many that reach it, p is not below the level
    reached = drawn = 0
    while drawn < DRAWS and reached < most:
        lines = max(1, min(DRAWS - drawn, CHUNK // (n + len(lengths)), 100 + 4 * drawn))
        orders = generator.random_raw(lines * n).reshape(lines, n).argsort(axis=1)
        peaks = _scores(ranks[0][orders], starts, lengths).max(axis=1)
        reached += int((peaks >= scores[best] - 1e-9).sum())
        drawn += lines
    return found, (reached + 1) / (drawn + 1)


def segments(values: ArrayLike, *, level: float = LEVEL, seed: int = 1) -> list[int]:
    """Return the places at which the level of a sequence changes, in order.

    Binary segmentation: the sequence is split at its change while p < `level`, and each part in its
    turn; where no split is found, an inner segment is looked for, which finds a step and its
    return. Ranks find that a sequence has a step, and blur its place: so each place is moved to the
    one between its neighbours that fits best, with the least sum of distances from the medians of
    the levels before and after. A place whose own p is not below `level` is dropped.
    """
    x = sample(values)
    found: list[int] = []
    parts = [(0, len(x))]
    while parts:
        low, high = parts.pop()
        for inner in (False, True):
            places, p = change(x[low:high], inner=inner, level=level, seed=seed)
            if p < level:
                cuts = _moved(x, [low, *(low + place for place in places), high])
                found += cuts
                parts += pairwise((low, *cuts, high))
                break
    places_ = sorted(found)
    while places_:
        places_ = _moved(x, [0, *places_, len(x)])
        bounds = [0, *places_, len(x)]
        p_of = {
            place: change(x[low:high], level=level, seed=seed)[1]
            for low, place, high in zip(bounds, places_, bounds[2:], strict=False)
        }
        weakest = max(places_, key=p_of.__getitem__)
        if p_of[weakest] < level:
            break
        places_.remove(weakest)
    return places_


def _moved(x: Array, bounds: Sequence[int]) -> list[int]:
    """Return the inner `bounds`, each moved to its best place between its neighbours."""
    moved = list(bounds)
    for number in range(1, len(bounds) - 1):
        low, place, high = moved[number - 1 : number + 2]
        for _ in range(ROUNDS):
            levels = float(np.median(x[low:place])), float(np.median(x[place:high]))
            better = low + int(_best_places(x[None, low:high], *levels)[0])
            if better == place:
                break
            place = better
        moved[number] = place
    return moved[1:-1]


def _best_places(lines: Array, before: float, after: float) -> NDArray[np.intp]:
    """Return the place in each line with the least sum of distances from two levels."""
    costs = np.cumsum(np.abs(lines - before) - np.abs(lines - after), axis=1)
    places: NDArray[np.intp] = costs[:, :-1].argmin(axis=1) + 1
    return places


def place_interval(
    before: ArrayLike, after: ArrayLike, *, confidence: float = 0.95, seed: int = 1
) -> tuple[int, int]:
    """Return the first and the last place that the step between two levels may have.

    A place counts from the observed one, which is 0. The values of both levels are drawn again from
    themselves (with replacement, RESAMPLES times), and the place of the step is found again; the
    interval has the central share `confidence` of the distances.
    """
    x, y = sample(before), sample(after)
    generator = np.random.PCG64(seed)

    def drawn(part: Array) -> Array:
        raw = generator.random_raw(RESAMPLES * len(part)).reshape(RESAMPLES, len(part))
        found: Array = part[(raw % np.uint64(len(part))).astype(np.intp)]
        return found

    lines = np.concatenate([drawn(x), drawn(y)], axis=1)
    off = np.sort(_best_places(lines, float(np.median(x)), float(np.median(y)))) - len(x)
    out = int((1 - confidence) / 2 * RESAMPLES)
    return min(0, -int(off[-1 - out])), max(0, -int(off[out]))


# Scores


def _parts(n: int, inner: bool) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the starts and lengths of the parts that are looked at."""
    if not inner:
        return np.zeros(max(n - 1, 0), np.intp), np.arange(1, n)
    lengths = list(_lengths(n))
    starts = [np.arange(1, n - length) for length in lengths]
    sizes = [len(part) for part in starts]
    if not lengths:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    return np.concatenate(starts), np.repeat(np.array(lengths, np.intp), sizes)


def _lengths(n: int) -> Iterator[int]:
    length = LEAST
    while length <= n - 2:
        yield length
        length = length + 1 if length < DENSE else int(length * RATIO) + 1


def _scores(ranks: Ranks, starts: NDArray[np.intp], lengths: NDArray[np.intp]) -> Array:
    """Return the scores [lines, parts] of sequences of doubled ranks [lines, n]."""
    n = ranks.shape[1]
    sums = np.zeros((len(ranks), n + 1), np.int64)
    np.cumsum(ranks, axis=1, out=sums[:, 1:])
    others = n - lengths
    # Twice Mann and Kendall's count of pairs, the smaller of the two directions'.
    pairs = sums[:, starts + lengths] - sums[:, starts] - lengths * (lengths + 1)
    pairs = np.minimum(pairs, 2 * lengths * others - pairs)
    deviations = np.sqrt(lengths * others * (n + 1) / 12)
    scores: Array = np.maximum(lengths * others - pairs - 1, 0) / 2 / deviations
    shorter = np.minimum(lengths, others)
    counted = shorter <= COUNTED
    scores[:, counted] = _counted(n)[shorter[counted], (pairs[:, counted] + 1) // 2]
    return scores


@cache
def _counted(n: int) -> Array:
    """Return [k, u]: the normal deviate that is as rare as U <= u, k of n values against the rest.

    A normal approximation would give a short part at the end no score that stands out: its ranks
    are bounded.
    """
    most = min(COUNTED, n // 2)
    ways = np.zeros((most + 1, most * n + 1))
    ways[0, 0] = 1.0
    for rank in range(n):
        ways[1:, rank:] += ways[:-1, : ways.shape[1] - rank].copy()
    table = np.zeros((most + 1, most * (n - most) // 2 + n + 2))
    normal = NormalDist()
    for k in range(1, most + 1):
        null = ways[k, k * (k - 1) // 2 :]
        tails = np.cumsum(null / null.sum())[: k * (n - k) // 2 + 1]
        table[k, : len(tails)] = [-normal.inv_cdf(p) if p < 0.5 else 0.0 for p in tails.tolist()]
    return table


def _doubled_midranks(lines: Array) -> Ranks:
    """Return twice the midrank of each value in its line."""
    order = lines.argsort(axis=1, kind="stable")
    ordered = np.take_along_axis(lines, order, axis=1)
    n = lines.shape[1]
    new = np.ones(lines.shape, bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    place = np.broadcast_to(np.arange(n), lines.shape)
    first = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    ends = np.ones(lines.shape, bool)
    ends[:, :-1] = new[:, 1:]
    last = np.minimum.accumulate(np.where(ends, place, n)[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(lines.shape, np.int64)
    np.put_along_axis(ranks, order, first + last + 2, axis=1)
    return ranks
