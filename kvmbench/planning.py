"""Promises: the smallest shift that a comparison calls, and the units that a claim needs.

Comparisons and summaries use them. Each is found by simulation of normal units, with the table's
multiple-comparison correction, so that it holds of a verdict in the table and not of a row by
itself. The random stream is fixed: the same arguments give the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import comb, inf, log, sqrt
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kvmbench import stats, student
from kvmbench.adjustment import CHUNK, LIKE, PRIOR, moderated
from kvmbench.stats import CONFIDENCE, POWER, Array

__all__ = ["MARGIN", "Correction", "detectable", "units_for_shift", "units_within"]

Correction = Literal["max-t", "holm", "welch-holm", "sequence"]

MARGIN = 0.005  # of before, where none is asked for; one quantum where that is more
TABLES = 480  # simulated, of up to eight rows; of more rows fewer
ARRANGEMENTS = 240  # of labels or signs
LARGE = 40  # units per side, beyond which the answer goes with the square root of their number
MOVED = 2  # rows that move in turn
STEPS = 9  # of the bisection for a shift: to 1/512 of twelve standard errors
COUNTS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 28, LARGE)  # units that are simulated for a wish
MOST = 100_000  # units
SMALL = 20  # units, up to which the reach of an interval is simulated


def detectable(
    spreads: Sequence[float],
    units: tuple[int, int],
    *,
    paired: bool = False,
    correction: Correction = "max-t",
    confidence: float = CONFIDENCE,
    power: float = POWER,
    comparisons: int = 1,
    known: Sequence[float] = (),
) -> list[float | None]:
    """Return for each row the shift beyond the margin that is called with probability `power`.

    The table has rows with these `spreads` [R], as shares of the rows' centres: the standard
    deviation of a unit, `units` of them before and after; of a difference where they are `paired`.
    One row moves, the others do not, and all are independent. The verdict needs the row's interval
    and its adjusted p. `known` [R] are standard deviations of the shifts from another source, such
    as boots. None where no shift is called, such as of 3 v 3 runs.
    """
    if not spreads:
        return []
    level = (1 - confidence) / comparisons
    scale = sqrt(max(1.0, min(units) / LARGE))
    n, m = (min(round(count / scale**2), 3 * LARGE) for count in units)
    if min(n, m) < 2:
        return [None] * len(spreads)
    if known:
        least = _by_means(np.array(spreads), n, m, paired, level / len(spreads), np.array(known))
        found = np.quantile(least, power, axis=0, method="higher")
        return [float(shift) for shift in found]
    like = _alike(spreads) if correction == "max-t" else np.eye(len(spreads), dtype=bool)
    reaches = []
    for row, spread in enumerate(spreads):
        pooled = bool(like[row].sum() > 1)
        reach = _reach(n, m, len(spreads), paired, correction, confidence, level, power, pooled)
        if pooled and spread:  # the other rows' median is in this row's denominator
            freedom = n - 1 if paired else n + m - 2
            middle = float(np.median(np.array(spreads)[like[row]])) / spread
            reach *= sqrt((freedom + PRIOR * middle**2) / (freedom + PRIOR))
        reaches.append(reach * spread / scale if reach < inf else None)
    return reaches


def _alike(spreads: Sequence[float]) -> NDArray[np.bool_]:
    """Return [R, R]: which rows share in each other's denominator."""
    logs = np.log(np.maximum(spreads, 1e-300))
    found: NDArray[np.bool_] = np.abs(logs[:, None] - logs) <= LIKE
    return found


@cache
def _reach(
    n: int,
    m: int,
    rows: int,
    paired: bool,
    correction: Correction,
    confidence: float,
    level: float,
    power: float,
    pooled: bool,
) -> float:
    """Return the shift, in spreads, that a table of rows of one spread calls; infinity for none."""
    if correction == "welch-holm":
        ones = np.ones(rows)
        least = _by_means(ones, n, m, paired, level / rows, 0 * ones)
    elif correction == "holm":
        least = _by_ranks(rows, n, m, paired, level / rows)
    else:
        single = _by_ranks(rows, n, m, paired, 1 - confidence)
        least = _by_max_t(rows, n, m, paired, level, pooled, single)
    return float(np.quantile(least, power, method="higher"))


def units_for_shift(
    spreads: Sequence[float],
    beyond: Sequence[float],
    *,
    paired: bool = False,
    correction: Correction = "max-t",
    confidence: float = CONFIDENCE,
    power: float = POWER,
    comparisons: int = 1,
) -> list[int | None]:
    """Return for each row the units per side, or pairs, that call a shift `beyond` the margin.

    The inverse of `detectable`, by interpolation between the numbers that it simulates. None for a
    shift that is not beyond the margin, and where more than 100,000 units are needed.
    """
    reach: dict[int, list[float | None]] = {}

    def at(count: int) -> list[float | None]:
        if count not in reach:
            reach[count] = detectable(
                spreads, (count, count), paired=paired, correction=correction,
                confidence=confidence, power=power, comparisons=comparisons,
            )  # fmt: skip
        return reach[count]

    found: list[int | None] = []
    for row, (spread, shift) in enumerate(zip(spreads, beyond, strict=True)):
        if shift <= 0 or spread / shift > sqrt(MOST):
            found.append(None)
            continue
        low, high = 0, len(COUNTS) - 1
        if not _within(at(LARGE)[row], shift):
            last = at(LARGE)[row] or inf
            needed = LARGE * (last / shift) ** 2
            found.append(int(needed) + 1 if needed <= MOST else None)
            continue
        while low < high:  # the first of COUNTS that is enough
            middle = (low + high) // 2
            low, high = (low, middle) if _within(at(COUNTS[middle])[row], shift) else (
                middle + 1, high,
            )  # fmt: skip
        enough, fewer = COUNTS[high], COUNTS[max(high - 1, 0)]
        below = at(fewer)[row] if high else None
        if below is None or enough - fewer < 2:
            found.append(enough)
            continue
        # Between two numbers the shift goes with a power of the number.
        slope = log(below / (at(enough)[row] or shift)) / log(enough / fewer)
        found.append(min(enough, int(fewer * (below / shift) ** (1 / slope) + 1 - 1e-9)))
    return found


def _within(reach: float | None, shift: float) -> bool:
    return reach is not None and reach <= shift


def units_within(
    spread: float,
    margin: float,
    *,
    paired: bool = False,
    confidence: float = CONFIDENCE,
    power: float = POWER,
) -> int | None:
    """Return the units per side, or pairs, whose interval is within the margin where none moved.

    For one row, with probability `power`. None where more than 100,000 are needed.
    """
    if not spread:
        spread = margin / 1e6 or 1e-300
    if not margin or spread / margin > sqrt(MOST):
        return None
    # The large-sample number is too small by a few units, so the search begins below it.
    z = -NormalDist().inv_cdf((1 - confidence) / 2) + NormalDist().inv_cdf((1 + power) / 2)
    large = (1 if paired else 2) * (z * spread / margin) ** 2 * np.pi / 3
    count = max(2, int(large) - 1)
    while (reach := _farthest(count, paired, confidence, power)) is None or reach * spread > margin:
        count += 1
    return count


@cache
def _farthest(n: int, paired: bool, confidence: float, power: float) -> float | None:
    """Return the reach of the interval either way at shift 0, which `power` of all stay within."""
    order = (
        stats.signed_rank_order(n, confidence) if paired else stats.rank_sum_order(n, n, confidence)
    )
    if not order:
        return None
    if n > SMALL:
        total = n if paired else 2 * n
        error = sqrt((1 if paired else 2) / n * total / (total - 2) * np.pi / 3)
        z = -NormalDist().inv_cdf((1 - confidence) / 2) + NormalDist().inv_cdf((1 + power) / 2)
        return z * error
    low, high = _ends(_normals(4_000, 1, n if paired else 2 * n)[:, 0], paired, order, n)
    return float(np.quantile(np.maximum(-low, high), power))


# The least shift of each simulated table, by method: [tables, R]


def _by_ranks(rows: int, n: int, m: int, paired: bool, level: float) -> Array:
    """Return the least shift, in spreads, at which the exact interval of 1 - `level` excludes 0."""
    order = stats.signed_rank_order(n, 1 - level) if paired else (
        stats.rank_sum_order(n, m, 1 - level)
    )  # fmt: skip
    tables = _tables(rows)
    if not order:
        return np.full((tables, rows), inf)
    values = _normals(tables, rows, n if paired else n + m)
    low, _ = _ends(values.reshape(tables * rows, -1), paired, order, n)
    return -low.reshape(tables, rows)


def _by_means(spreads: Array, n: int, m: int, paired: bool, level: float, known: Array) -> Array:
    """Return the least shift at which the t interval of 1 - `level` excludes 0."""
    rows = len(spreads)
    tables = _tables(rows)
    values = _normals(tables, rows, n if paired else n + m) * spreads[:, None]
    parts = [values] if paired else [values[:, :, :n], values[:, :, n:]]
    errors = [part.var(axis=2, ddof=1) / part.shape[2] for part in parts]
    variance = np.maximum(sum(errors) + known**2, 1e-300)
    weight = sum(
        (error / np.where(variance > 0, variance, 1.0)) ** 2 / (part.shape[2] - 1)
        for error, part in zip(errors, parts, strict=True)
    )
    grid = np.geomspace(0.5, 1e9, 200)
    quantiles = [student.quantile(level, float(freedom)) for freedom in grid]
    wanted = np.interp(-np.log(np.maximum(weight, 1e-9)), np.log(grid), quantiles)
    noise = _normals(tables, rows, 1)[:, :, 0] * known
    mean = parts[-1].mean(axis=2) - (0 if paired else parts[0].mean(axis=2))
    found: Array = wanted * np.sqrt(variance) - mean - noise
    return found


def _by_max_t(
    rows: int, n: int, m: int, paired: bool, level: float, pooled: bool, single: Array
) -> Array:
    """Return the least shift of a row that max-T of the table and `single` call: [tables, few].

    A few rows move in turn, alone, and stand for all.
    """
    values = _normals(_tables(rows), rows, n if paired else n + m).transpose(0, 2, 1)
    arranged = _signs(n) if paired else _labels(n, m)

    def moving(values: Array) -> Moving:
        return _paired(values, arranged) if paired else _independent(values, n, arranged)

    # The other rows have shifts within the margin, which the test takes away.
    centred = values.copy()
    for part in [centred] if paired else [centred[:, :n], centred[:, n:]]:
        part -= part.mean(axis=1, keepdims=True)
    freedom = np.full(rows, float(n - 1 if paired else n + m - 2))
    every = np.full((rows, rows), True) if pooled else np.eye(rows, dtype=bool)
    weight = freedom[0] / (freedom[0] + PRIOR) if pooled and rows > 1 else 1.0
    few = min(rows, MOVED)
    others, rest = np.empty((2, few, len(values), len(arranged)))
    observed = np.empty((len(values), rows))  # errors
    size = max(1, CHUNK // (len(arranged) * rows))
    for start in range(0, len(values), size):
        chunk = slice(start, start + size)
        still, error = moving(centred[chunk])()
        flat = error.reshape(-1, rows)
        drawn = moderated(flat, np.ones(flat.shape, dtype=bool), freedom, every)
        drawn = drawn.reshape(error.shape)
        t = still / np.sqrt(np.maximum(drawn, 1e-300))
        for row in range(few):
            others[row, chunk] = np.delete(t, row, axis=2).max(axis=2, initial=0.0)
            # A row's shift changes its own error, and hardly the median of the rows like it.
            rest[row, chunk] = drawn[:, :, row] - weight * error[:, :, row]
        observed[chunk] = error[:, 0]
    far = 12 * sqrt(float(observed.mean()))
    moved = moving(values[:, :, :few])
    found = []
    for row in range(few):

        def called(shift: Array, row: int = row) -> Any:
            distance, own = moved(shift[:, None], row)
            mine = distance / np.sqrt(np.maximum(weight * own + rest[row], 1e-300))
            reached = np.maximum(mine, others[row]) >= mine[:, :1] * (1 - 1e-9)
            return reached.mean(axis=1) <= level

        low, high = np.zeros(len(values)), np.full(len(values), far)
        ever = called(high)
        for _ in range(STEPS):
            middle = (low + high) / 2
            enough = called(middle)
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        found.append(np.maximum(np.where(ever, high, inf), single[:, row]))
    return np.column_stack(found)


Moving = Callable[..., tuple[Array, Array]]


def _independent(values: Array, n: int, labels: Array) -> Moving:
    """Return a function of a shift of one row: |difference of means| and its squared error.

    Both are [tables, arrangements], and [tables, arrangements, R] without a shift. The first
    arrangement is the observed one.
    """
    units = labels.shape[1]
    sizes = (n, units - n)
    parts = []
    for chosen in (labels, 1 - labels):
        moved = chosen[:, n:]  # units of after that this arrangement has in the part
        parts.append(
            (chosen @ values, chosen @ values**2, moved @ values[:, n:], moved.sum(axis=1))
        )

    def at(shift: Array | float = 0.0, row: int | None = None) -> tuple[Array, Array]:
        means, error = [], 0.0
        for size, (sums, squares, after, moved) in zip(sizes, parts, strict=True):
            total, square = sums, squares
            if row is not None:
                total = sums[:, :, row] + shift * moved
                square = squares[:, :, row] + 2 * shift * after[:, :, row] + shift**2 * moved
            means.append(total / size)
            error = error + np.maximum(size * square - total**2, 0) / (size * size * (size - 1))
        return np.abs(means[0] - means[1]), np.asarray(error)

    return at


def _paired(values: Array, signs: Array) -> Moving:
    """As `_independent`, of differences that change their signs."""
    n = signs.shape[1]
    sums, both, squares, plain = (
        signs @ values, signs.sum(axis=1), (values**2).sum(axis=1), values.sum(axis=1)
    )  # fmt: skip

    def at(shift: Array | float = 0.0, row: int | None = None) -> tuple[Array, Array]:
        total, square = sums, squares[:, None, :]
        if row is not None:
            total = sums[:, :, row] + shift * both
            square = squares[:, [row]] + 2 * shift * plain[:, [row]] + shift**2 * n
        return np.abs(total) / n, np.maximum(n * square - total**2, 0) / (n * n * (n - 1))

    return at


# Arrangements and random numbers


def _labels(n: int, m: int) -> Array:
    """Return lines with 1 for the n units of before, the observed line first."""
    first = np.where(np.arange(n + m) < n, 1.0, 0.0)
    count = min(comb(n + m, n), ARRANGEMENTS)
    keys = np.random.PCG64(2).random_raw((ARRANGEMENTS - 1) * (n + m)).reshape(-1, n + m)
    drawn = (keys.argsort(axis=1, kind="stable").argsort(axis=1) < n).astype(np.float64)
    if count < ARRANGEMENTS:
        from itertools import combinations

        drawn = np.zeros((count, n + m))
        for line, chosen in enumerate(combinations(range(n + m), n)):
            drawn[line, list(chosen)] = 1.0
        return drawn  # the first combination is 0 ... n - 1
    return np.vstack([first, drawn])


def _signs(n: int) -> Array:
    if 1 << n <= ARRANGEMENTS:
        return np.where(np.arange(1 << n)[:, None] >> np.arange(n) & 1, -1.0, 1.0)
    raw = np.random.PCG64(2).random_raw((ARRANGEMENTS - 1) * n).reshape(-1, n)
    return np.vstack([np.ones(n), np.where(raw >> np.uint64(63), -1.0, 1.0)])


def _tables(rows: int) -> int:
    return max(100, min(TABLES, TABLES * 8 // rows))


@cache
def _normals(tables: int, rows: int, units: int) -> Array:
    """Return standard normal numbers by Box and Muller from PCG64's raw stream."""
    raw = np.random.PCG64(1).random_raw(tables * rows * units * 2)
    u, v = np.asarray(((raw >> np.uint64(11)) + 0.5) * 2.0**-53).reshape(2, tables, rows, units)
    found: Array = np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)
    return found


def _ends(values: Array, paired: bool, order: int, n: int) -> tuple[Array, Array]:
    """Return the ends of the exact interval of the shift, of each line of values."""
    if paired:
        i, j = np.triu_indices(n)
        points = (values[:, i] + values[:, j]) / 2
    else:
        points = (values[:, None, n:] - values[:, :n, None]).reshape(len(values), -1)
    last = points.shape[1] - order
    parted = np.partition(points, [order - 1, last], axis=1)
    return parted[:, order - 1], parted[:, last]
