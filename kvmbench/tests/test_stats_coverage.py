"""How often intervals cover and tests err: exact levels by counting, the rest by simulation.

The simulations are seeded; their bounds are 4 standard errors wide or wider.
"""

from itertools import combinations, product
from math import comb

import numpy as np
import pytest

from kvmbench import adjustment as family
from kvmbench import stats

SIZES = range(4, 21)
TRIALS = 1000

# The probability of covering that the exact intervals at 95 % have for any continuous values;
# it jumps since only so many orders exist. The sign test of the median's jumps most: its
# interval covers above .98 at n = 7 8 11 14 and 19.
MEDIAN_ABOVE = {7: 0.9844, 8: 0.9922, 11: 0.9883, 14: 0.9871, 19: 0.9808}


def draw(shape, kind, seed):
    rng = np.random.Generator(np.random.PCG64(seed))
    if kind == "skewed":
        return rng.exponential(size=shape)
    return rng.normal(size=shape)


def covers(interval, value=0.0):
    return interval[0] <= value <= interval[1]


@pytest.mark.parametrize("n", [4, 5])
def test_the_level_of_mann_whitney_by_enumeration(n):
    """All C(2n, n) orders are equally likely, so counting them gives the coverage itself."""
    orders = list(combinations(range(2 * n), n))
    hits = sum(
        covers(stats.mann_whitney_interval(order, sorted(set(range(2 * n)) - set(order))))
        for order in orders
    )
    assert hits / len(orders) == pytest.approx({4: 0.9714, 5: 0.9683}[n], abs=1e-4)


@pytest.mark.parametrize(("n", "wanted"), [(6, 0.9688), (7, 0.9531), (8, 0.9609)])
def test_the_level_of_the_signed_rank_by_enumeration(n, wanted):
    signs = list(product([1, -1], repeat=n))
    hits = sum(covers(stats.signed_rank_interval(np.arange(1, n + 1) * s)) for s in signs)
    assert hits / len(signs) == pytest.approx(wanted, abs=1e-4)


def test_exact_levels_lie_between_95_and_98():
    """From the null distributions that test_stats holds to SciPy's and to enumeration."""
    for n in SIZES:
        below = stats._rank_sum_null(n, n).cumsum()
        k = stats.rank_sum_order(n, n, 0.95)
        assert 0.95 <= 1 - 2 * below[k - 1] <= 0.98
        assert 1 - 2 * below[k] < 0.95
    for n in range(6, 21):
        below = stats._signed_sums(np.arange(1, n + 1)).cumsum()
        k = stats.signed_rank_order(n, 0.95)
        assert 0.95 <= 1 - 2 * below[k - 1] <= 0.98
        assert 1 - 2 * below[k] < 0.95
        k = int(stats.median_interval(range(1, n + 1))[0])
        exact = 1 - 2 * sum(comb(n, i) for i in range(k)) / 2**n
        assert 0.95 <= exact <= 0.98 or exact == pytest.approx(MEDIAN_ABOVE[n], abs=1e-4)
        assert 1 - 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n < 0.95


@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_intervals_of_two_samples_cover(kind):
    for n in SIZES:
        x, y = draw((TRIALS, n), kind, n), draw((TRIALS, n), kind, 100 + n) + 3
        hits = [covers(stats.mann_whitney_interval(*pair), 3) for pair in zip(x, y, strict=True)]
        assert 0.93 <= np.mean(hits) <= 0.99, n  # a standard error is .007


def test_intervals_of_paired_differences_cover():
    for n in range(6, 21):
        for x in (draw((TRIALS, n), "normal", n), draw((TRIALS, 2, n), "skewed", n)):
            d = x if x.ndim == 2 else x[:, 1] - x[:, 0]  # differences of like values: symmetric
            hits = [covers(stats.signed_rank_interval(line)) for line in d]
            assert 0.93 <= np.mean(hits) <= 0.99, n


@pytest.mark.parametrize(("kind", "center"), [("normal", 0.0), ("skewed", np.log(2))])
def test_intervals_of_the_median_cover(kind, center):
    for n in range(6, 21):
        hits = [covers(stats.median_interval(x), center) for x in draw((TRIALS, n), kind, n)]
        assert 0.93 <= np.mean(hits) <= (0.9999 if n in MEDIAN_ABOVE else 0.99), n


def test_rounded_values_cover_at_least_as_often():
    """Ties widen: both samples rounded to whole steps of about their spread."""
    x, y = (np.rint(draw((TRIALS, 8), "normal", seed)) for seed in (1, 2))
    hits = [covers(stats.mann_whitney_interval(*pair)) for pair in zip(x, y, strict=True)]
    assert np.mean(hits) >= 0.95


# The whole table


def tables(trials, runs, rows, kind, correlation, seed):
    """Return [trials, runs, rows] null values; rows share a part of their noise."""
    common = draw((trials, runs, 1), kind, seed)
    own = draw((trials, runs, rows), kind, seed + 1)
    return np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own


def error_rate(p_of, null):
    return np.mean([min(p_of(table)) <= 0.05 for table in null])


@pytest.mark.parametrize("correlation", [0, 0.5, 0.95])
@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_false_alarms_in_a_table_of_independent_runs(kind, correlation):
    null = tables(800, 10, 8, kind, correlation, 11)
    rate = error_rate(lambda t: family.max_t_independent(t[:5], t[5:], [0] * 8), null)
    assert 0.02 <= rate <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 800)


@pytest.mark.parametrize("correlation", [0, 0.95])
def test_false_alarms_in_a_table_of_blocks(correlation):
    null = tables(1500, 7, 8, "normal", correlation, 13)
    rate = error_rate(lambda t: family.max_t_paired(t, [0] * 8), null)
    assert 0.02 <= rate <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 1500)


def test_false_alarms_beside_rows_that_did_change():
    """Strong control: two rows changed, and the six others err no more often for it."""
    null = tables(800, 10, 8, "normal", 0.5, 17)
    null[:, 5:, :2] += 30
    rate = error_rate(lambda t: family.max_t_independent(t[:5], t[5:], [0] * 8)[2:], null)
    assert 0.02 <= rate <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 800)


def test_false_alarms_where_every_shift_is_the_margin():
    """The worst case of |shift| <= margin; the far side is out of reach, so about half of 5 %."""
    null = tables(800, 10, 8, "normal", 0, 19)
    null[:, 5:] += np.where(np.arange(8) % 2, 20, -20)
    rate = error_rate(lambda t: family.max_t_independent(t[:5], t[5:], [20] * 8), null)
    assert rate <= 0.05
    null = tables(1500, 7, 8, "normal", 0, 23) + np.where(np.arange(8) % 2, 20, -20)
    rate = error_rate(lambda t: family.max_t_paired(t, [20] * 8), null)
    assert rate <= 0.05


def test_power_grows_with_shift_and_runs_and_is_above_holms():
    def found(runs, shift):
        values = tables(200, 2 * runs, 8, "normal", 0.5, 29)
        values[:, runs:, 0] += shift
        return np.mean(
            [family.max_t_independent(t[:runs], t[runs:], [0] * 8)[0] <= 0.05 for t in values]
        )

    def by_holm(runs, shift):
        values = tables(200, 2 * runs, 8, "normal", 0.5, 29)
        values[:, runs:, 0] += shift
        each = [
            [stats.mann_whitney_p(x, y) for x, y in zip(t[:runs].T, t[runs:].T, strict=True)]
            for t in values
        ]
        return np.mean([family.holm(p)[0] <= 0.05 for p in each])

    assert found(6, 1.5) < found(6, 3) < found(6, 6)
    assert found(4, 3) < found(6, 3)
    assert found(5, 4) > by_holm(5, 4)
    assert by_holm(4, 100) == 0  # 8 * 2 / C(8, 4) = .23, whatever the shift
    assert found(4, 100) == 1


# Drift and groups


def test_drift_false_alarms():
    alarms = [stats.drift(x)[1] <= 0.05 for x in draw((TRIALS, 12), "skewed", 6)]
    assert 0.02 <= np.mean(alarms) <= 0.075


@pytest.mark.parametrize("n", [6, 7, 8, 9, 12, 15, 20, 100])
def test_one_group_is_not_called_two(n):
    rng = np.random.Generator(np.random.PCG64(n))
    trials = 800
    for x in (
        rng.normal(size=(trials, n)),
        rng.uniform(size=(trials, n)),
        rng.exponential(size=(trials, n)),
        rng.laplace(size=(trials, n)),
        rng.integers(0, 2, size=(trials, n)),
        rng.integers(0, 4, size=(trials, n)),
        rng.integers(0, 30, size=(trials, n)),
        np.rint(rng.normal(size=(trials, n))),
    ):
        # at a rate of 1 %, 20 of 800 would be 4.3 standard errors away
        assert sum(stats.two_groups(line) is not None for line in x) < 20


@pytest.mark.parametrize(("n", "apart", "least"), [(10, 8, 0.55), (10, 12, 0.94), (16, 8, 0.85)])
def test_two_groups_are_found(n, apart, least):
    x = draw((500, n), "normal", 31)
    x[:, n // 2 :] += apart
    found = [stats.two_groups(line) for line in x]
    assert np.mean([groups is not None for groups in found]) >= least
    centers = np.array([groups for groups in found if groups])
    assert np.abs(centers - [0, apart]).mean() < 0.5
