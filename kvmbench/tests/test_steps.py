"""Steps in a sequence: the CUSUM's score and p by brute force, places, levels, error rates."""

from functools import cache
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm, rankdata

from kvmbench.comparison import steps
from kvmbench.comparison.steps import LEVEL, change, place_interval, segments
from kvmbench.tests.step_rates import delay, rates, returned

# One core function: score and p


@cache
def rarity(n, k, total):
    """Return the normal deviate of a rank sum of k of n, counted over all choices."""
    sums = np.array([sum(chosen) for chosen in combinations(range(1, n + 1), k)])
    tail = min(np.mean(sums <= total), np.mean(sums >= total))
    return max(0.0, norm.isf(tail))


def slow_peak(ranks, inner=False):
    """Return the largest score of all parts of an order of ranks, and the first part with it."""
    n = len(ranks)
    best, place = -1.0, None
    for low in range(n):
        for high in range(low + 1, n + 1):
            inside = low > 0 and high < n and high - low >= steps.LEAST
            if not (inside if inner else low == 0 and high < n):
                continue
            score = rarity(n, high - low, sum(ranks[low:high]))
            if score > best + 1e-9:
                best, place = score, (low, high) if inner else (high,)
    return best, place


@pytest.mark.parametrize("inner", [False, True])
def test_the_place_and_the_p_are_those_of_all_orders(inner):
    values = [3.0, 1.0, 2.0, 9.0, 8.0, 10.0, 4.0]
    best, place = slow_peak([3, 1, 2, 6, 5, 7, 4], inner)
    peaks = [slow_peak(order, inner)[0] for order in permutations(range(1, 8))]
    exact = np.mean([peak >= best - 1e-9 for peak in peaks])
    found, p = change(values, inner=inner, level=1.0)
    assert found == place
    assert p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / steps.DRAWS) + 1e-4)


def test_a_sure_p_is_the_parts_sum():
    """20 below 20: the best part has p 1 / C(40, 20) one way, and 39 parts share it."""
    values = np.r_[np.arange(20.0), 100 + np.arange(20.0)]
    places, p = change(values)
    assert places == (20,)
    tail = mannwhitneyu(values[:20], values[20:], alternative="less", method="exact").pvalue
    assert p == pytest.approx(2 * 39 * tail, rel=1e-6)


@given(st.lists(st.sampled_from([0.0, 1.0, 2.5, 2.5, -3.0, 7.0]), min_size=1, max_size=12))
def test_midranks_are_scipys(values):
    line = np.array([values, values[::-1]])
    assert (steps._doubled_midranks(line) == [2 * rankdata(x) for x in line]).all()


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0, 5.0], [1.0] * 40])
def test_values_that_cannot_change(values):
    assert change(values) == ((), 1.0)
    assert change(values, inner=True) == ((), 1.0)
    assert segments(values) == []


def test_the_same_arguments_give_the_same_answer():
    values = np.random.default_rng(3).normal(0, 1, 30)
    assert change(values) == change(values)
    assert change(values, level=1.0)[1] != change(values, level=1.0, seed=2)[1]


def test_draws_end_early_where_p_is_above_the_level():
    """The p of noise has few draws, so it is a multiple of a small fraction."""
    values = np.random.default_rng(3).normal(0, 1, 30)
    coarse, fine = change(values)[1], change(values, level=1.0)[1]
    assert coarse == pytest.approx(fine, abs=0.12)
    assert min(coarse, fine) > LEVEL


def test_errors():
    with pytest.raises(ValueError, match="empty sample"):
        change([])
    with pytest.raises(ValueError, match="finite"):
        segments([1.0, float("nan")])


# Places and levels


def levels(*parts, sd=0.1, seed=1):
    """Return values at levels, each (level, count), with noise."""
    rng = np.random.default_rng(seed)
    return np.concatenate([level + rng.normal(0, sd, count) for level, count in parts])


@pytest.mark.parametrize(
    ("parts", "places"),
    [
        ([(0, 30), (2, 30)], [30]),
        ([(0, 20), (2, 20), (4, 20)], [20, 40]),
        ([(0, 20), (2, 20), (0, 20)], [20, 40]),  # a step and its return: no split stands out
        ([(0, 26), (2, 8), (0, 26)], [26, 34]),
        ([(0, 56), (2, 4)], [56]),  # a normal approximation of the ranks would not see it
        ([(0, 60)], []),
        ([(0, 30), (50, 1), (0, 29)], []),  # an outlier is no level
        ([(0, 30), (50, 2), (0, 28)], []),
        ([(0, 7), (2, 7)], [7]),
        ([(0, 6), (2, 7)], []),  # too few
    ],
)
def test_planted_steps(parts, places):
    assert segments(levels(*parts)) == places


def test_a_place_is_moved_to_the_best_fit():
    """By ranks alone the place of a clear step is early or late in one history of five."""
    for seed in range(20):
        assert 10 in segments(levels((0, 10), (2, 50), seed=seed))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40),
    st.floats(0.1, 10),
    st.floats(-1e3, 1e3),
)
def test_segments_are_inside_and_do_not_depend_on_the_unit(values, scale, offset):
    found = segments(values)
    assert found == sorted(set(found))
    assert all(0 < place < len(values) for place in found)
    mirrored = segments([-value for value in values])
    assert mirrored == found


def test_place_interval():
    before, after = levels((0, 30)), levels((2, 30), seed=2)
    assert place_interval(before, after) == (0, 0)
    first, last = place_interval(levels((0, 30), sd=1), levels((1, 30), sd=1, seed=2))
    assert first < 0 < last
    assert (first, last) != (-30, 30)


# Error rates: docs/history.md has 1,000 histories of each


@pytest.mark.parametrize("kind", ["normal", "t3", "outliers", "rounded"])
def test_steps_of_two_percent_are_found_and_quiet_histories_have_none(kind):
    """At 0.4 %: 2 % found within 2 results in 95 % or more, alarms in quiet ones 5 % or fewer."""
    found, others, _, _ = rates(kind, 0.4, 2, 60)
    assert found >= 0.95
    assert others <= 0.05
    assert rates(kind, 0.4, 0, 100, seed=2)[0] <= 0.05


def test_a_step_of_one_percent():
    found, _, _, covered = rates("normal", 0.3, 1, 40)
    assert found >= 0.9
    assert covered >= 0.85 * found


def test_a_step_that_is_undone_is_found():
    assert returned(0.3, 12, 2, 20) >= 0.9


def test_a_large_step_shows_after_a_few_results():
    median, most = delay(0.3, 2, 30, 8)
    assert 2 <= median <= 5
    assert most <= 8
