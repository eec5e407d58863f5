"""Many rows at once: p-values adjusted for a table as a whole.

Numbers in, numbers out, as in `kvmbench.stats`, which has the tests of single rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import chain, combinations
from math import ceil, comb, log
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvmbench.stats import SAME, Array, sample

__all__ = ["PRIOR", "holm", "max_t_independent", "max_t_paired", "moderated"]

PRIOR = 3  # degrees of freedom of the median spread in each denominator; docs/statistics.md
LIKE = log(4)  # rows whose spreads are within this factor know something of each other's

EXHAUSTIVE_LABELS = 50_000  # arrangements of labels tried in full
EXHAUSTIVE_SIGNS = 15  # blocks whose 2**N signs are tried in full
CHUNK = 1 << 15  # numbers in one intermediate array: 256 KiB, which a second-level cache holds
KEPT = 256  # chunks of random labels or signs, a byte for each number


def holm(p: Sequence[float]) -> list[float]:
    """Return p adjusted for the whole list by Holm's step-down (1979), valid for any dependence."""
    values = sample(p)
    order = np.argsort(values, kind="stable")
    steps = np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * steps), 1.0)
    return [float(value) for value in adjusted]


def max_t_independent(
    before: ArrayLike,
    after: ArrayLike,
    margins: ArrayLike,
    centres: ArrayLike | None = None,
    *,
    draws: int = 20_000,
    seed: int = 1,
) -> list[float]:
    """Return for each row of a table the p of |shift| <= margin, adjusted for the whole table.

    `before` [n, R] and `after` [m, R] have a line for each run and a column for each row of the
    table; NaN where a run has no value. `margins` [R], 0 or more, are in the columns' units.

    Westfall and Young's step-down max-T (1993): the runs' labels are permuted, jointly for all
    columns, which keeps the columns' dependence. The statistic is Welch's t, with
    0/0 = 0 and x/0 = infinity; it is 0 where a side has fewer than two values. With `centres` [R],
    the figures in whose shares the columns' spreads are comparable, its denominator is moderated
    (see `moderated`). `after` is first moved toward `before` by the margin, but not past it; so p
    is 1 where the observed difference of means is within the margin. All C(n+m, n) arrangements are
    tried up to 50,000; else `draws` random ones, by ranks of PCG64(seed)'s raw numbers, whose
    stream numpy guarantees, and p = (reached + 1) / (draws + 1).

    The family-wise error holds where the columns that did not change are independent, with the same
    spread and as many NaN on either side.
    """
    x, y = _table(before, "before"), _table(after, "after")
    n, runs = len(x), len(x) + len(y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"before has {x.shape[1]} columns, after {y.shape[1]}: expected the same")
    margin = _margins(margins, x.shape[1])
    both = np.concatenate([x, y])
    both -= _column(np.median, both)
    shift = _column(np.mean, both[n:]) - _column(np.mean, both[:n])
    both[n:] -= np.clip(shift, -margin, margin)
    values, valid, step = _exact_steps(both)
    unit, like = _comparable(np.where(valid > 0, values, np.nan), step, centres)
    # A column for all, where none lacks a value.
    parts = (valid[:, :1] if valid.all() else valid, values, values**2)
    sums = [part.sum(axis=0) for part in parts]

    def statistic(labels: Array) -> Array:
        first = [labels @ part for part in parts]
        second = [total - part for total, part in zip(sums, first, strict=True)]
        left, right = _mean_and_error(*first), _mean_and_error(*second)
        known = (first[0] >= 2) & (second[0] >= 2)
        error = moderated((left[1] + right[1]) * unit**2, known, valid.sum(axis=0) - 2, like)
        return np.where(known, _ratio(np.abs(left[0] - right[0]) * unit, np.sqrt(error)), 0.0)

    number = comb(runs, n)
    observed = np.where(np.arange(runs) < n, 1.0, 0.0)
    every = _all_labels(runs, n, number) if number <= EXHAUSTIVE_LABELS else None
    if every is not None and runs == 2 * n:
        # The statistic is the same where the sides change places, which the second half does.
        every = every[: number // 2]
    drawn = partial(_drawn_labels, runs, n, seed)
    return _step_down(statistic, observed, every, drawn, draws, np.abs(shift) <= margin)


def max_t_paired(
    diffs: ArrayLike,
    margins: ArrayLike,
    centres: ArrayLike | None = None,
    *,
    draws: int = 20_000,
    seed: int = 1,
) -> list[float]:
    """Return for each row of a table the p of |shift| <= margin, adjusted for the whole table.

    `diffs` [N, R] has a line for each block and a column for each row of the table; NaN where a
    block has no value. As max_t_independent, but a block's differences change sign together, and
    the statistic is |mean| / standard error, moderated too with `centres`. All 2**N signs are tried
    up to 15 blocks. The family-wise error holds where the differences of the columns that did not
    change are symmetric about 0.
    """
    table = _table(diffs, "diffs")
    n = len(table)
    margin = _margins(margins, table.shape[1])
    shift = _column(np.mean, table)
    values, valid, step = _exact_steps(table - np.clip(shift, -margin, margin))
    unit, like = _comparable(np.where(valid > 0, np.abs(values), np.nan), step, centres)
    count, squares = valid.sum(axis=0), (values**2).sum(axis=0)

    def statistic(signs: Array) -> Array:
        mean, error = _mean_and_error(count, signs @ values, squares)
        known = np.broadcast_to(count >= 2, mean.shape)
        error = moderated(error * unit**2, known, count - 1, like)
        return np.where(known, _ratio(np.abs(mean) * unit, np.sqrt(error)), 0.0)

    every: NDArray[Any] | None = None
    if n <= EXHAUSTIVE_SIGNS:
        # The statistic is the same where all signs change, so one of each two stands for both.
        every = np.where(np.arange(1 << (n - 1))[:, None] >> np.arange(n) & 1, -1.0, 1.0)
    drawn = partial(_drawn_signs, n, seed)
    return _step_down(statistic, np.ones(n), every, drawn, draws, np.abs(shift) <= margin)


def moderated(
    error: Array, known: NDArray[np.bool_], freedom: Array, like: NDArray[np.bool_]
) -> Array:
    """Return squared standard errors [A, R], each drawn toward the median of the rows like it.

    The errors are in shares of the rows' centres. A row's error has weight `freedom` [R], the
    median PRIOR: with few units a row's deviation is poorly known, and the other rows know more
    (Smyth 2004; after Tusher, Tibshirani and Chu 2001, any denominator keeps a permutation test).
    `like` [R, R] says which rows have a spread of the same order.
    """
    found = error.copy()
    masked = error if known.all() else np.where(known, error, np.nan)
    sets: dict[bytes, list[int]] = {}  # of rows that are like the same ones
    for row, line in enumerate(like):
        sets.setdefault(line.tobytes(), []).append(row)
    for rows in sets.values():
        chosen = like[rows[0]]
        if chosen.sum() > 1:
            middle = _medians(masked[:, chosen])[:, None]
            weight = np.maximum(freedom[rows], 0)
            found[:, rows] = (weight * error[:, rows] + PRIOR * middle) / (weight + PRIOR)
    return found


def _medians(cells: Array) -> Array:
    """Return the median of each line without its NaN, in a third of numpy's time; 0 of none."""
    known = cells.shape[1] - np.isnan(cells).sum(axis=1, keepdims=True)
    middle = np.hstack([(known - 1) // 2, known // 2])
    found = np.take_along_axis(np.sort(cells, axis=1), middle, axis=1).mean(axis=1)
    return np.where(known[:, 0] > 0, found, 0.0)


def _comparable(
    table: Array, step: Array, centres: ArrayLike | None
) -> tuple[Array, NDArray[np.bool_]]:
    """Return each column's step as a share of its centre, and [R, R] which columns are alike.

    Alike are spreads of the same order, whatever the labels or signs: the spread is here that of
    the shortest interval with half of a column's values, which a shift of one side leaves of the
    same order. Without centres no column knows of another one.
    """
    if centres is None:
        return np.ones_like(step), np.eye(len(step), dtype=bool)
    size = np.abs(np.asarray(centres, dtype=np.float64))
    unit = np.divide(step, size, out=np.ones_like(step), where=size > 1e-200)
    scales = np.zeros(len(step))
    for number, column in enumerate(table.T):
        x = np.sort(column[~np.isnan(column)])
        count = max(2, ceil(len(x) / 2))
        if len(x) >= count:
            scales[number] = (x[count - 1 :] - x[: len(x) - count + 1]).min() * unit[number]
    logs = np.log(np.maximum(scales, 1e-300))
    return unit, np.abs(logs[:, None] - logs) <= LIKE


# Permutations


def _step_down(
    statistic: Callable[[Array], Array],
    observed: Array,
    every: NDArray[Any] | None,
    drawn: Callable[[int, int], NDArray[Any]],
    draws: int,
    within: NDArray[np.bool_],
) -> list[float]:
    """Return Westfall and Young's step-down max-T p of each column (1993, algorithm 4.1).

    `every` has all arrangements, one a line; without it `drawn(start, lines)` returns random ones.
    """
    if draws < 1:
        raise ValueError(f"draws {draws}: expected 1 or more")
    if within.all():
        return [1.0] * len(within)
    t = statistic(observed[None])[0]
    t[within] = 0.0
    order = np.argsort(-t, kind="stable")
    reached = np.zeros(len(t), dtype=np.int64)
    total = draws if every is None else len(every)
    size = max(1, CHUNK // max(len(observed), len(t)))
    for start in range(0, total, size):
        lines = min(size, total - start)
        some = drawn(start, lines) if every is None else every[start : start + size]
        chunk = some.astype(np.float64)
        # Each row competes with itself and the rows that stand out less than it.
        largest = np.maximum.accumulate(statistic(chunk)[:, order[::-1]], axis=1)[:, ::-1]
        reached += (largest >= t[order] / SAME).sum(axis=0)
    if every is None:  # the observed arrangement is one of those that could have been drawn
        reached, total = reached + 1, total + 1
    p = np.empty(len(t))
    p[order] = np.maximum.accumulate(reached / total)
    return [float(value) for value in p]


def _raw(runs: int, seed: int, start: int, lines: int) -> NDArray[np.uint64]:
    """Return lines `start` and on of PCG64(seed)'s raw numbers, `runs` in a line."""
    generator = np.random.PCG64(seed).advance(start * runs)
    return generator.random_raw(lines * runs).reshape(lines, runs)


@lru_cache(maxsize=KEPT)
def _drawn_labels(runs: int, n: int, seed: int, start: int, lines: int) -> NDArray[np.int8]:
    """Return random labels with 1 for the n runs of the lowest keys."""
    raw = _raw(runs, seed, start, lines)
    return (raw <= np.partition(raw, n - 1, axis=1)[:, n - 1 : n]).astype(np.int8)


@lru_cache(maxsize=KEPT)
def _drawn_signs(n: int, seed: int, start: int, lines: int) -> NDArray[np.int8]:
    return np.where(_raw(n, seed, start, lines) >> np.uint64(63), -1, 1).astype(np.int8)


@lru_cache(maxsize=8)
def _all_labels(runs: int, n: int, number: int) -> NDArray[np.int8]:
    """Return the `number` ways to choose n of the runs: lines with 1 for the chosen ones."""
    flat = np.fromiter(
        chain.from_iterable(combinations(range(runs), n)), dtype=np.intp, count=number * n
    )
    labels = np.zeros((number, runs), dtype=np.int8)
    np.put_along_axis(labels, flat.reshape(number, n), 1, axis=1)
    return labels


def _exact_steps(table: Array) -> tuple[Array, Array, Array]:
    """Return (values, valid, step): each column in whole steps, 0 where it has no value.

    A step is a power of two, about 1e-7 of the column's range for 12 runs. So every sum, also of
    squares, is a whole number below 2**53 and has no rounding: arrangements with equal sums
    compare equal, whatever the order in which a machine adds.
    """
    valid = ~np.isnan(table)
    values = np.where(valid, table, 0.0)
    largest = np.abs(values).max(axis=0)
    exponent = np.frexp(largest)[1]  # largest < 2**exponent
    power = 26 - len(table).bit_length() - exponent
    return np.rint(np.ldexp(values, power)), valid.astype(np.float64), np.ldexp(1.0, -power)


def _mean_and_error(count: Array, sums: Array, squares: Array) -> tuple[Array, Array]:
    """Return the mean and its squared standard error; of no use where count < 2."""
    n = np.maximum(count, 2)
    return sums / n, (n * squares - sums**2) / (n * n * (n - 1))


def _ratio(distance: Array, error: Array) -> Array:
    """Return distance / error with 0/0 = 0 and x/0 = infinity."""
    t = np.where(distance > 0, np.inf, 0.0)
    return np.divide(distance, error, out=t, where=error > 0)


# Arguments


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


def _column(estimate: Callable[[Array], np.floating[Any]], table: Array) -> Array:
    """Return an estimate of each column's values; 0 where it has none."""
    columns = [column[~np.isnan(column)] for column in table.T]
    return np.array([float(estimate(x)) if len(x) else 0.0 for x in columns])
