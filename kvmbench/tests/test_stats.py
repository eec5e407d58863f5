"""kvmbench.stats against enumeration, SciPy, values by hand and the laws of its estimators."""

import math
import tracemalloc
from itertools import combinations, pairwise, permutations, product
from statistics import NormalDist, median, stdev

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st

from kvmbench import adjustment as family
from kvmbench import stats

TIED = [
    ([1, 2, 2, 3], [2, 3, 3, 4, 4]),
    ([5, 5, 5], [5, 5, 6]),
    ([0, 1, 1, 1, 9], [1, 1]),
    ([3, 3], [3, 3, 3]),
    ([2.5, 2.5, -1, 0], [0, 0, 7, 2.5, 2.5]),
    ([1], [2, 2, 3, 1, 1, 0]),
]


@pytest.fixture
def rng():
    return np.random.Generator(np.random.PCG64(2024))


def midranks(values):
    return [sum(o < v for o in values) + (sum(o == v for o in values) + 1) / 2 for v in values]


def both_tails(everything, seen):
    low = sum(value <= seen for value in everything) / len(everything)
    high = sum(value >= seen for value in everything) / len(everything)
    return min(1.0, 2 * min(low, high))


def plain_mann_whitney(before, after):
    ranks = midranks([*before, *after])
    n = len(before)
    return both_tails([sum(c) for c in combinations(ranks, n)], sum(ranks[:n]))


def plain_signed_rank(diffs):
    """Pratt: zeros are ranked and then left out."""
    ranks = midranks([abs(d) for d in diffs])
    kept = [(rank, d > 0) for rank, d in zip(ranks, diffs, strict=True) if d]
    signs = product([0, 1], repeat=len(kept))
    sums = [sum(s * rank for s, (rank, _) in zip(sign, kept, strict=True)) for sign in signs]
    return both_tails(sums, sum(rank for rank, positive in kept if positive))


# p by enumeration and by SciPy


@pytest.mark.parametrize(("before", "after"), TIED)
def test_mann_whitney_p_with_ties_is_the_enumeration(before, after):
    assert stats.mann_whitney_p(before, after) == pytest.approx(plain_mann_whitney(before, after))
    assert stats.mann_whitney_p(after, before) == pytest.approx(plain_mann_whitney(before, after))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 6), (3, 3), (4, 7), (10, 10), (20, 31), (70, 70)])
def test_mann_whitney_p_without_ties_is_scipys(rng, n, m):
    scipy = pytest.importorskip("scipy.stats")
    for shift in (0, 0.7, 2):
        before, after = rng.normal(size=n), rng.normal(shift, size=m)
        wanted = scipy.mannwhitneyu(before, after, method="exact").pvalue
        assert stats.mann_whitney_p(before, after) == pytest.approx(wanted, rel=1e-9)


def test_smallest_p():
    for n in range(1, 9):
        wanted = min(1, 2 / math.comb(2 * n, n))
        assert stats.mann_whitney_p(range(n), range(10, 10 + n)) == pytest.approx(wanted)
        assert stats.signed_rank_p(range(1, n + 1)) == pytest.approx(2 / 2**n)


@pytest.mark.parametrize(
    "diffs",
    [[1, 1, 2, -3, 3], [0, 0, 1, -2, 5, 5], [0, 0, 0], [-1, -1, -1, -1, -1, -1], [0, 1], [2, -2]],
)
def test_signed_rank_p_with_ties_and_zeros_is_the_enumeration(diffs):
    assert stats.signed_rank_p(diffs) == pytest.approx(plain_signed_rank(diffs))


@pytest.mark.parametrize("n", [1, 5, 6, 12, 33, 50])
def test_signed_rank_p_without_ties_is_scipys(rng, n):
    scipy = pytest.importorskip("scipy.stats")
    for shift in (0, 0.4, 1):
        d = rng.normal(shift, size=n)
        wanted = scipy.wilcoxon(d, method="exact").pvalue
        assert stats.signed_rank_p(d) == pytest.approx(wanted, rel=1e-9)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=5),
    st.lists(st.integers(0, 4), min_size=1, max_size=4),
)
def test_p_of_any_small_integers(before, after):
    assert stats.mann_whitney_p(before, after) == pytest.approx(plain_mann_whitney(before, after))
    diffs = [v - 2 for v in before]
    assert stats.signed_rank_p(diffs) == pytest.approx(plain_signed_rank(diffs))


def test_large_samples_take_scipys_normal_approximation(rng):
    scipy = pytest.importorskip("scipy.stats")
    for decimals in (9, 1):  # the second has ties
        before = rng.normal(size=90).round(decimals)
        after = rng.normal(0.3, size=80).round(decimals)
        wanted = scipy.mannwhitneyu(before, after, method="asymptotic").pvalue
        assert stats.mann_whitney_p(before, after) == pytest.approx(wanted, rel=1e-9)
        d = rng.normal(0.1, size=stats.EXACT_BLOCKS + 50).round(decimals)
        d[d == 0] = 0.1
        wanted = scipy.wilcoxon(d, method="asymptotic", correction=True).pvalue
        assert stats.signed_rank_p(d) == pytest.approx(wanted, rel=1e-9)


def test_exact_and_normal_meet_on_the_safe_side(monkeypatch):
    """The comment at EXACT_PAIRS says how far apart they are."""
    before = np.arange(71.0)
    after = before + 13.6  # p about .05
    exact, interval = (
        stats.mann_whitney_p(before, after),
        stats.mann_whitney_interval(before, after),
    )
    monkeypatch.setattr(stats, "EXACT_PAIRS", 100)
    assert 1 <= stats.mann_whitney_p(before, after) / exact < 1.01
    assert stats.mann_whitney_interval(before, after) == pytest.approx(interval, abs=1)
    d = np.arange(-150, 250) + 0.5
    exact, interval = stats.signed_rank_p(d - 35), stats.signed_rank_interval(d)
    median_interval = stats.median_interval(d)
    monkeypatch.setattr(stats, "EXACT_BLOCKS", 100)
    assert 1 <= stats.signed_rank_p(d - 35) / exact < 1.01
    assert stats.signed_rank_interval(d) == pytest.approx(interval, abs=0.5)
    assert stats.median_interval(d) == pytest.approx(median_interval, abs=1)


# Intervals: what the test does not reject


def plain_interval(p, points):
    """Return the span of the shifts that a test keeps at 5 %, tried between all `points`."""
    points = sorted(set(points))
    between = [(a + b) / 2 for a, b in pairwise(points)]
    kept = [i for i, shift in enumerate(between) if p(shift) > 0.05]
    if p(points[0] - 1) > 0.05 or p(points[-1] + 1) > 0.05:
        return None  # no shift is far enough
    return points[kept[0]], points[kept[-1] + 1]


@pytest.mark.parametrize(("n", "m"), [(3, 3), (4, 4), (3, 5), (2, 9), (6, 5)])
def test_mann_whitney_interval_inverts_the_test(rng, n, m):
    before, after = rng.normal(size=n), rng.normal(1, size=m)
    wanted = plain_interval(
        lambda shift: plain_mann_whitney(before, after - shift),
        [a - b for a in after for b in before],
    )
    assert stats.mann_whitney_interval(before, after) == (wanted and pytest.approx(wanted))


@pytest.mark.parametrize("n", [401, 450])
def test_signed_rank_interval_of_many_differences_inverts_scipys_exact_test(rng, n):
    """Beyond EXACT_BLOCKS the ends are three Walsh averages of 80,000 off at most."""
    d = rng.normal(1, size=n)
    i, j = np.triu_indices(n)
    averages = np.sort((d[i] + d[j]) / 2)

    def p(below):
        """Return SciPy's p of a shift between the averages below - 1 and below, from 0."""
        shift = averages[below - 1 : below + 1].mean()
        return scipy.stats.wilcoxon(d - shift, method="exact").pvalue

    low, high = np.searchsorted(averages, stats.signed_rank_interval(d))
    assert p(low - 2) <= 0.05 < p(low + 4)
    assert p(high + 3) <= 0.05 < p(high - 3)


@pytest.mark.parametrize("n", [5, 6, 7, 9])
def test_signed_rank_interval_inverts_the_test(rng, n):
    d = rng.normal(1, size=n)
    wanted = plain_interval(
        lambda shift: plain_signed_rank(d - shift),
        [(d[i] + d[j]) / 2 for i in range(n) for j in range(i, n)],
    )
    assert stats.signed_rank_interval(d) == (wanted and pytest.approx(wanted))


def test_where_no_interval_reaches_the_confidence():
    assert stats.mann_whitney_interval([1, 2, 3], [4, 5, 6]) is None
    assert stats.mann_whitney_interval([1, 2, 3], [4, 5, 6], 0.9) == (1, 5)
    assert stats.mann_whitney_interval([1, 2, 3, 4], [5, 6, 7, 8]) == (1, 7)
    assert stats.signed_rank_interval(range(5)) is None
    assert stats.signed_rank_interval(range(5), 0.9375) == (0, 4)
    assert stats.signed_rank_interval(range(6)) == (0, 5)
    assert stats.median_interval(range(5)) is None
    assert stats.median_interval(range(6)) == (0, 5)
    assert stats.median_interval([7.0]) is None


def test_median_interval_is_the_binomials():
    # By tables of the sign test (Conover 1999, A3): n = 10 has 2nd to 9th, n = 20 6th to 15th.
    assert stats.median_interval(range(1, 11)) == (2, 9)
    assert stats.median_interval(range(1, 21)) == (6, 15)


def test_estimates_by_hand():
    assert stats.hodges_lehmann([1, 2, 4], [10, 20]) == 12.5  # 6 8 9 | 16 18 19
    assert stats.pseudo_median([1, 2, 10]) == 3.75  # 1 1.5 2 | 5.5 6 10
    assert stats.spread([1, 2, 4]) == pytest.approx(stdev([1, 2, 4]))
    assert stats.spread([1e9 + 0.25, 1e9 + 0.5]) == pytest.approx(0.25 / math.sqrt(2))
    assert stats.pooled_spread([1, 3], [10, 10, 13]) == pytest.approx(math.sqrt((2 + 6) / 3))
    assert stats.pooled_spread([1], [10, 12]) == pytest.approx(math.sqrt(2))
    assert family.holm([0.01, 0.04, 0.03, 1.0]) == pytest.approx([0.04, 0.09, 0.09, 1])


# Laws

VALUES = st.lists(st.integers(-1000, 1000), min_size=4, max_size=9)


@given(VALUES, VALUES, st.integers(-500, 500), st.sampled_from([0.25, 2, 8]), st.randoms())
def test_laws_of_two_samples(before, after, shift, factor, random):
    estimate = stats.hodges_lehmann(before, after)
    low, high = stats.mann_whitney_interval(before, after)
    p = stats.mann_whitney_p(before, after)
    assert low <= estimate <= high
    moved = [v + shift for v in after]
    assert stats.hodges_lehmann(before, moved) == estimate + shift
    assert stats.mann_whitney_interval(before, moved) == (low + shift, high + shift)
    assert stats.hodges_lehmann(after, before) == -estimate
    assert stats.mann_whitney_interval(after, before) == (-high, -low)
    assert stats.mann_whitney_p(after, before) == pytest.approx(p)
    before, after = [v * factor for v in before], [v * factor for v in after]
    random.shuffle(before)
    random.shuffle(after)
    assert stats.hodges_lehmann(before, after) == estimate * factor
    assert stats.mann_whitney_interval(before, after) == (low * factor, high * factor)
    assert stats.mann_whitney_p(before, after) == pytest.approx(p)


@given(st.lists(st.integers(-1000, 1000), min_size=6, max_size=12), st.randoms())
def test_laws_of_paired_differences(diffs, random):
    estimate = stats.pseudo_median(diffs)
    low, high = stats.signed_rank_interval(diffs)
    p = stats.signed_rank_p(diffs)
    assert low <= estimate <= high
    random.shuffle(diffs)
    assert stats.pseudo_median([d + 7 for d in diffs]) == estimate + 7
    assert stats.pseudo_median([-d / 4 for d in diffs]) == -estimate / 4
    assert stats.signed_rank_interval([-d for d in diffs]) == (-high, -low)
    assert stats.signed_rank_p([-d / 4 for d in diffs]) == pytest.approx(p)
    low, high = stats.median_interval(diffs)
    assert low <= median(diffs) <= high


@given(VALUES, VALUES)
def test_without_ties_interval_and_p_agree(before, after):
    differences = {a - b for a in after for b in before}
    assume(len(set(before + after)) == len(before + after) and 0 not in differences)
    low, high = stats.mann_whitney_interval(before, after)
    assert (low > 0 or high < 0) == (stats.mann_whitney_p(before, after) <= 0.05)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_by_its_definition(p):
    ranked = sorted(range(len(p)), key=lambda i: p[i])
    wanted, largest = {}, 0.0
    for step, i in enumerate(ranked):
        largest = max(largest, p[i] * (len(p) - step))
        wanted[i] = min(1.0, largest)
    assert family.holm(p) == pytest.approx([wanted[i] for i in range(len(p))])


# max-T


def plain_t(first, second):
    first = [v for v in first if not math.isnan(v)]
    second = [v for v in second if not math.isnan(v)]
    if len(first) < 2 or len(second) < 2:
        return 0.0
    distance = abs(sum(first) / len(first) - sum(second) / len(second))
    error = math.sqrt(stdev(first) ** 2 / len(first) + stdev(second) ** 2 / len(second))
    return distance / error if error else math.inf if distance else 0.0


def plain_step_down(observed, everything):
    """Westfall and Young's definition: each row against the maxima of the rows not above it."""
    order = sorted(range(len(observed)), key=lambda r: -observed[r])
    wanted, largest = {}, 0.0
    for step, row in enumerate(order):
        rest = order[step:]
        maxima = [max(t[r] for r in rest) for t in everything]
        reached = sum(m >= observed[row] * (1 - 1e-9) for m in maxima)
        largest = max(largest, reached / len(everything))
        wanted[row] = largest
    return [wanted[r] for r in range(len(observed))]


def plain_max_t(before, after):
    both = np.concatenate([before, after])
    n, runs = len(before), range(len(both))
    everything = [
        [
            plain_t(both[list(chosen), r], both[[i for i in runs if i not in chosen], r])
            for r in range(both.shape[1])
        ]
        for chosen in combinations(runs, n)
    ]
    return plain_step_down(everything[0], everything)


def plain_max_t_paired(diffs):
    def t(d):
        d = d[~np.isnan(d)]
        error = stdev(d) / math.sqrt(len(d))
        mean = abs(sum(d)) / len(d)
        return mean / error if error else math.inf if mean else 0.0

    everything = [
        [t(np.array(signs) * column) for column in diffs.T]
        for signs in product([1, -1], repeat=len(diffs))
    ]
    return plain_step_down(everything[0], everything)


def plain_moderated(columns, spread_of, freedom, like, prior):
    """Return the moderated squared errors of one arrangement, from the definition."""
    own = [spread_of(column) for column in columns]
    found = []
    for row, error in enumerate(own):
        peers = sorted(own[r] for r in range(len(own)) if like[row][r])
        middle = (peers[(len(peers) - 1) // 2] + peers[len(peers) // 2]) / 2
        alone = len(peers) == 1
        found.append(error if alone else (freedom * error + prior * middle) / (freedom + prior))
    return found


def test_max_t_is_moderated_by_the_rows_alike():
    """Two rows alike, one of a hundredth of their spread, which stays as it is without others."""
    rng = np.random.Generator(np.random.PCG64(1))
    n, centres = 4, [1000.0, 2000.0, 50.0]
    both = np.array(centres) * (1 + rng.normal(size=(2 * n, 3)) * [0.01, 0.012, 0.0001])
    both[n:] *= [1.02, 1, 1.0001]
    like = [[True, True, False], [True, True, False], [False, False, True]]

    def t(chosen):
        parts = [both[list(chosen)], both[[i for i in range(2 * n) if i not in chosen]]]
        columns = [[part[:, r] / centres[r] for part in parts] for r in range(3)]

        def error(column):
            return sum(stdev(part) ** 2 / n for part in column)

        errors = plain_moderated(columns, error, 2 * n - 2, like, family.PRIOR)
        return [
            abs(float(x.mean() - y.mean())) / math.sqrt(e)
            for (x, y), e in zip(columns, errors, strict=True)
        ]

    everything = [t(chosen) for chosen in combinations(range(2 * n), n)]
    wanted = plain_step_down(everything[0], everything)
    found = family.max_t_independent(both[:n], both[n:], [0] * 3, centres)
    assert found == pytest.approx(wanted)
    assert found != pytest.approx(family.max_t_independent(both[:n], both[n:], [0] * 3))
    alone = family.max_t_independent(both[:n, 2:], both[n:, 2:], [0], centres[2:])
    assert alone == family.max_t_independent(both[:n, 2:], both[n:, 2:], [0])


@given(
    st.lists(st.lists(st.floats(0, 1e6) | st.just(math.nan), min_size=4, max_size=4), min_size=1)
)
def test_medians_leave_out_what_is_not_known(rows):
    known = [[value for value in row if not math.isnan(value)] for row in rows]
    wanted = [median(row) if row else 0 for row in known]
    assert family._medians(np.array(rows)).tolist() == wanted


def test_paired_max_t_is_moderated_by_the_rows_alike(rng):
    n, centres = 6, [1000.0, 1.0, 300.0]
    diffs = rng.normal([1, 0.2, 0], 1, size=(n, 3)) * [10, 0.012, 3]

    def t(signs):
        columns = [diffs[:, r] * signs / centres[r] for r in range(3)]
        like = [[True] * 3] * 3
        errors = plain_moderated(columns, lambda c: stdev(c) ** 2 / n, n - 1, like, family.PRIOR)
        return [abs(float(c.mean())) / math.sqrt(e) for c, e in zip(columns, errors, strict=True)]

    everything = [t(np.array(signs)) for signs in product([1, -1], repeat=n)]
    wanted = plain_step_down(everything[0], everything)
    assert family.max_t_paired(diffs, [0] * 3, centres) == pytest.approx(wanted)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (3, 5), (5, 4)])
@pytest.mark.parametrize("digits", [6, 0])  # with and without ties
def test_max_t_independent_is_the_definition(rng, n, m, digits):
    before = rng.normal(size=(n, 5)).round(digits)
    after = (rng.normal([0, 1, 2, 4, 8], size=(m, 5))).round(digits)
    before[0, 1] = after[1, 3] = math.nan
    wanted = plain_max_t(before, after)
    assert family.max_t_independent(before, after, [0] * 5) == pytest.approx(wanted)


@pytest.mark.parametrize("digits", [6, 0])
def test_max_t_paired_is_the_definition(rng, digits):
    diffs = (rng.normal([0, 0.5, 1, 2, 4], size=(7, 5))).round(digits)
    diffs[2, 3] = math.nan
    assert family.max_t_paired(diffs, [0] * 5) == pytest.approx(plain_max_t_paired(diffs))


def test_one_row_of_max_t_is_scipys_permutation_test(rng):
    scipy = pytest.importorskip("scipy.stats")

    def t(x, y, axis):
        error = np.var(x, ddof=1, axis=axis) / 5 + np.var(y, ddof=1, axis=axis) / 6
        return np.abs(np.mean(x, axis=axis) - np.mean(y, axis=axis)) / np.sqrt(error)

    for shift in (0, 1, 2):
        before, after = rng.normal(size=5), rng.normal(shift, size=6)
        wanted = scipy.permutation_test(
            (before, after), t, n_resamples=np.inf, alternative="greater", vectorized=True
        ).pvalue
        found = family.max_t_independent(before[:, None], after[:, None], [0])
        assert found == [pytest.approx(wanted)]


def test_random_arrangements_come_near_all_of_them(rng, monkeypatch):
    before, after = rng.normal(size=(7, 4)), rng.normal([0, 1, 2, 4], size=(7, 4))
    everything = family.max_t_independent(before, after, [0] * 4)
    paired = family.max_t_paired((after - before)[:, :3], [0] * 3)
    monkeypatch.setattr(family, "EXHAUSTIVE_LABELS", 1)
    monkeypatch.setattr(family, "EXHAUSTIVE_SIGNS", 1)
    drawn = family.max_t_independent(before, after, [0] * 4)
    assert drawn == pytest.approx(everything, abs=0.015)
    assert family.max_t_paired((after - before)[:, :3], [0] * 3) == pytest.approx(paired, abs=0.015)
    assert family.max_t_independent(before, after, [0] * 4) == drawn
    assert family.max_t_independent(before, after, [0] * 4, seed=2) != drawn
    few = family.max_t_independent(before, after + 1000, [0] * 4, draws=99)
    assert few == [pytest.approx(1 / 100)] * 4


def test_the_draws_are_pinned():
    """The stream of PCG64 is guaranteed by numpy (NEP 19), so these figures hold everywhere."""
    before = np.arange(12.0)[:, None] ** 2
    (p,) = family.max_t_independent(before, before + 30, [0.0], draws=999)
    assert p * 1000 == pytest.approx(98)
    diffs = np.arange(-5.0, 15.0)[:, None]
    (p,) = family.max_t_paired(diffs, [0.0], draws=999)
    assert p * 1000 == pytest.approx(6)


def test_chunks_change_nothing(rng, monkeypatch):
    before, after = rng.normal(size=(10, 4)), rng.normal([0, 1, 2, 4], size=(10, 4))
    whole = [
        family.max_t_independent(before[:6], after[:6], [0] * 4),
        family.max_t_independent(before, after, [0] * 4, draws=500),
        family.max_t_paired(after - before, [0] * 4),
        family.max_t_paired(np.concatenate([after, before]), [0] * 4, draws=500),
    ]
    monkeypatch.setattr(family, "CHUNK", 333)
    assert whole == [
        family.max_t_independent(before[:6], after[:6], [0] * 4),
        family.max_t_independent(before, after, [0] * 4, draws=500),
        family.max_t_paired(after - before, [0] * 4),
        family.max_t_paired(np.concatenate([after, before]), [0] * 4, draws=500),
    ]


def blocks_that_stand_out():
    """6 blocks, 8 rows: the first three changed by far more than their spread, five did not."""
    diffs = np.random.Generator(np.random.PCG64(5)).normal(size=(9, 8))
    diffs[:, :3] -= 1000
    return diffs


def test_six_blocks_decide_a_table_of_eight_rows_and_holm_cannot():
    nine = blocks_that_stand_out()
    six = nine[:6]
    p = family.max_t_paired(six, [0] * 8)
    assert p[:3] == [2 / 64] * 3
    assert min(p[3:]) > 0.05
    assert min(family.holm([stats.signed_rank_p(d) for d in six.T])) == pytest.approx(8 * 2 / 64)
    eight = family.holm([stats.signed_rank_p(d) for d in nine[:8].T])
    assert min(eight) == pytest.approx(8 * 2 / 256)  # .0625
    assert max(family.holm([stats.signed_rank_p(d) for d in nine.T])[:3]) < 0.05


def test_margins():
    diffs = blocks_that_stand_out()[:6]
    means = diffs.mean(axis=0)
    p = family.max_t_paired(diffs, np.abs(means))  # on the margin is within it
    assert p == [1.0] * 8
    assert family.max_t_paired(diffs, [900, 1100, 0, *[5] * 5]) == [2 / 64, 1, 2 / 64, *[1] * 5]
    before = np.zeros((6, 8))
    p = family.max_t_independent(before, diffs, [900, 1100, 0, *[5] * 5])
    assert p == [2 / 924, 1, 2 / 924, *[1] * 5]
    p = family.max_t_independent(diffs, before, [900, 1100, 0, *[5] * 5])
    assert p == [2 / 924, 1, 2 / 924, *[1] * 5]


def test_p_is_1_within_the_margin_whatever_the_rounding():
    # Less its mean of 2/3 the sum is not quite 0, and it is 0 for signs that pair equal values.
    diffs = np.array([[1.0], [1], [1], [1], [0], [0]])
    assert family.max_t_paired(diffs, [1]) == [1]


def test_a_row_within_its_margin_is_moved_to_no_shift_and_not_past_it(rng):
    before, after = rng.normal(size=(5, 2)), rng.normal([2, 1], size=(5, 2))
    centred = after - [0, after[:, 1].mean() - before[:, 1].mean()]
    p = family.max_t_independent(before, after, [0, 50])
    assert p == family.max_t_independent(before, centred, [0, 0])
    d = after - before
    p = family.max_t_paired(d, [0, 50])
    assert p == family.max_t_paired(d - [0, d[:, 1].mean()], [0, 0])


def test_a_large_common_part_loses_nothing(rng):
    before, after = rng.integers(-99, 99, size=(2, 5, 3)) / 64 + [[[0.0]], [[1]]]
    found = family.max_t_independent(before + 2**36, after + 2**36, [0] * 3)
    assert found == family.max_t_independent(before, after, [0] * 3)


def test_a_margin_is_a_shift_toward_before(rng):
    before, after = rng.normal(size=(5, 2)), rng.normal([3, -3], size=(5, 2))
    found = family.max_t_independent(before, after, [0.5, 0.25])
    moved = family.max_t_independent(before, after - [0.5, -0.25], [0, 0])
    assert found == moved
    found = family.max_t_paired(after, [0.5, 0.25])
    assert found == family.max_t_paired(after - [0.5, -0.25], [0, 0])


def test_rows_without_spread():
    before = np.array([[5.0, 0.1, 7.0, 0.1]] * 6)
    after = np.array([[5.0, 0.3, 7.0, 0.1]] * 6)
    assert family.max_t_independent(before, after, [0] * 4) == [1, 2 / 924, 1, 1]
    assert family.max_t_paired(after - before, [0] * 4) == [1, 2 / 64, 1, 1]
    after[:, 2] += 3.3
    assert family.max_t_independent(before, after, [0, 0.3, 3, 0]) == [1, 1, 2 / 924, 1]


def test_equal_arrangements_count_where_the_spread_is_tiny(rng):
    """Sides exchanged is as extreme; rounding would lose it where shift / spread is 1e5."""
    before = 2000 + rng.normal(size=(6, 1)) * 0.01
    after = 3000 + rng.normal(size=(6, 1)) * 0.01
    assert family.max_t_independent(before, after, [0]) == [2 / 924]
    assert family.max_t_independent(before / 7, after / 7, [0]) == [2 / 924]
    assert family.max_t_paired((after - before) / 3, [0]) == [2 / 64]


def test_columns_with_missing_values():
    nan = math.nan
    before = np.array([[1, nan, 1, nan], [2, nan, 2, nan], [3, nan, 3, nan], [4, 5, nan, nan]])
    after = before + 100
    p = family.max_t_independent(before, after, [0] * 4)
    assert p[1] == p[3] == 1
    # In the third column the two runs without a value may change sides: 2 * 2 arrangements. It
    # stands out more than the first, which therefore cannot have less.
    assert p[0] == p[2] == pytest.approx(4 / 70)
    assert family.max_t_independent(before[:, :1], after[:, :1], [0]) == [pytest.approx(2 / 70)]
    assert family.max_t_paired(after, [0] * 4)[3] == 1
    weak = np.array([[1.0], [-2], [3], [1]])
    lone = np.array([[9.0], [nan], [nan], [nan]])  # says nothing, so it takes nothing
    assert (
        family.max_t_paired(np.hstack([weak, lone]), [0, 0])[0] == family.max_t_paired(weak, [0])[0]
    )
    assert family.max_t_independent(np.zeros((3, 0)), np.zeros((3, 0)), []) == []
    assert family.max_t_paired(np.zeros((3, 0)), []) == []


@given(
    st.integers(0, 2**32),
    st.sampled_from([(3, 3), (4, 5), (6, 2)]),
    st.sampled_from([0.25, 2, 1024]),
)
def test_laws_of_max_t(seed, sizes, factor):
    rng = np.random.Generator(np.random.PCG64(seed))
    before, after = (rng.integers(-9, 9, size=(k, 4)).astype(float) for k in sizes)
    margins = rng.integers(0, 3, size=4)
    p = family.max_t_independent(before, after, margins)
    assert all(1 / math.comb(sum(sizes), sizes[0]) <= value <= 1 for value in p)
    columns, left, right = rng.permutation(4), rng.permutation(sizes[0]), rng.permutation(sizes[1])
    again = family.max_t_independent(
        before[left][:, columns] * factor + 96,
        after[right][:, columns] * factor + 96,
        margins[columns] * factor,
    )
    assert again == pytest.approx([p[c] for c in columns])
    assert family.max_t_independent(after, before, margins) == pytest.approx(p)
    if before.shape == after.shape:  # a wider margin never makes a row stand out more
        widths = [family.max_t_independent(before[:, :1], after[:, :1], [w])[0] for w in (0, 1, 3)]
        assert widths == sorted(widths)
    p = family.max_t_paired(before, margins)
    assert family.max_t_paired(-before[left] * factor, margins * factor) == pytest.approx(p)


# Drift, groups, planning


def plain_drift(values):
    def score(x):
        return sum((x[i] < x[j]) - (x[i] > x[j]) for i, j in combinations(range(len(x)), 2))

    return both_tails([score(order) for order in permutations(values)], score(values))


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3, 4],
        [1, 3, 2, 5, 4, 6],
        [1, 1, 2, 2, 3],
        [2, 2, 2, 1],
        [0, 0, 1, 1, 1, 0, 2],
        [4, 3],
    ],
)
def test_drift_p_is_the_enumeration(values):
    assert stats.drift(values)[1] == pytest.approx(plain_drift(values))


@given(st.lists(st.integers(0, 4), min_size=2, max_size=6))
def test_drift_p_of_any_small_integers(values):
    assert stats.drift(values)[1] == pytest.approx(plain_drift(values))


@pytest.mark.parametrize("n", [3, 10, 30, 150])
def test_drift_is_scipys(rng, n):
    scipy = pytest.importorskip("scipy.stats")
    x = rng.normal(size=n) + np.linspace(0, 1, n)
    slope, p = stats.drift(x)
    assert slope == pytest.approx(scipy.theilslopes(x).slope)
    assert p == pytest.approx(scipy.kendalltau(range(n), x, method="exact").pvalue, rel=1e-9)


def test_drift_of_long_sequences_is_the_normal_approximation(rng, monkeypatch):
    x = (rng.normal(size=180) + np.linspace(0, 0.4, 180)).round(1)
    exact = stats.drift(x)
    monkeypatch.setattr(stats, "EXACT_STEPS", 10)
    assert stats.drift(x)[0] == exact[0]
    assert stats.drift(x)[1] == pytest.approx(exact[1], rel=0.03)
    # By hand: score 6, variance 4 * 3 * 13 / 18, half a step of the score 1.
    wanted = 2 * (1 - NormalDist().cdf((6 - 1) / math.sqrt(26 / 3)))
    monkeypatch.setattr(stats, "EXACT_STEPS", 3)
    assert stats.drift([1, 2, 3, 4])[1] == pytest.approx(wanted)


def test_drift_by_hand():
    assert stats.drift([5.0]) == (0.0, 1.0)
    assert stats.drift([5, 5, 5, 5]) == (0.0, 1.0)
    assert stats.drift([1, 3, 5, 7]) == (2.0, pytest.approx(2 / 24))
    assert stats.drift([0, 1, 100, 3])[0] == 1.0  # of -97 1 1 1 50 99


def test_two_groups():
    assert stats.two_groups([10, 11, 12, 200, 201, 203]) == (11, 201)
    assert stats.two_groups([10, 11, 12, 10, 12, 11, 200, 201]) is None  # two slow runs
    assert stats.two_groups([10, 11, 12, 13, 14, 15]) is None
    assert stats.two_groups([16] * 5 + [17] * 5) is None  # one step of the clock
    assert stats.two_groups([1300] * 5 + [1350] * 4 + [1351]) == (1300, 1350)
    assert stats.two_groups([7] * 10) is None
    assert stats.two_groups([10, 200]) is None


def test_autocorrelation_is_the_enumeration():
    """By hand, of 1 2 3 4: products .75 - .25 + .75 = 1.25 of 5, in 2 of the 24 orders."""
    lag, p = stats.autocorrelation([1, 2, 3, 4])
    assert lag == pytest.approx(0.25)
    assert p == pytest.approx(2 / 24, abs=0.02)
    assert stats.autocorrelation([4, 1, 3, 2])[0] < 0
    assert stats.autocorrelation([1, 2, 3]) == stats.autocorrelation([5] * 9) == (0.0, 1.0)


@pytest.mark.parametrize("sequences", [1, 3])
def test_autocorrelation_of_many_values_has_the_moments_of_all_orders(sequences, monkeypatch):
    """The p of seven values, by a normal law with the mean and the variance of all 5,040 orders."""
    monkeypatch.setattr(stats, "ALL_ORDERS", 6)
    x = np.random.default_rng(3).exponential(size=(7, sequences))
    unit = (x - x.mean(axis=0)) / x.std(axis=0)
    sums = np.array([
        (unit[order[:-1], :] * unit[order[1:], :]).sum() / (7 * sequences)
        for order in map(list, permutations(range(7)))
    ])  # fmt: skip
    lag, p = stats.autocorrelation(x)
    assert lag == pytest.approx(sums[0])  # the identity comes first
    assert p == pytest.approx(1 - NormalDist(sums.mean(), sums.std()).cdf(sums[0]))


def test_autocorrelation_of_20_000_values_is_found():
    rng = np.random.default_rng(5)
    noise = rng.normal(size=20_000)
    noise -= noise.mean()
    assert stats.autocorrelation(noise)[1] > 0.005
    noise[1:] += 0.1 * noise[:-1]
    lag, p = stats.autocorrelation(noise)
    assert lag == pytest.approx(0.1, abs=0.03)
    assert p == 1 / 2001  # the least that 2,000 orders can say


# Large samples


@pytest.mark.parametrize("n", [401, 450])
def test_the_signed_rank_interval_of_many_differences_is_the_exact_one_nearly(n):
    """Beyond 400 the normal approximation: its k is the exact one but for a handful of ranks.

    The exact k is counted here: the signed sums of the ranks 1 ... n, each sign by coin.
    """
    null = np.zeros(n * (n + 1) // 2 + 1)
    null[0] = 1.0
    for rank in range(1, n + 1):
        null[rank:] += null[: len(null) - rank].copy()
        null /= 2
    exact = int(np.searchsorted(np.cumsum(null), 0.025, side="right"))
    deviation = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)  # of the sum
    assert abs(stats.signed_rank_order(n, 0.95) - exact) < 0.002 * deviation
    # 1 ... n: the k-th smallest Walsh average of a line is found by counting them.
    low, high = stats.signed_rank_interval(range(1, n + 1), 0.95)
    averages = sorted((i + j) / 2 for i in range(1, n + 1) for j in range(i, n + 1))
    assert averages[exact - 20] <= low <= averages[exact + 20]
    assert low + high == n + 1


@pytest.mark.parametrize("scale", [1.0, 0.0, 1e-300, 1e200])
@pytest.mark.parametrize("whole", [False, True])
def test_ranks_of_many_pairs_are_those_of_the_sorted_pairs(monkeypatch, scale, whole):
    rng = np.random.default_rng(11)
    before, after = rng.normal(0, 3, 90) * scale, rng.normal(1, 4, 71) * scale
    if whole:
        before, after = np.rint(before), np.rint(after)
    differences = np.sort(np.subtract.outer(after, before).ravel())
    i, j = np.triu_indices(90)
    averages = np.sort((before[i] + before[j]) / 2)
    small = stats.mann_whitney_interval(before, after), stats.signed_rank_interval(before)
    monkeypatch.setattr(stats, "SORTED_PAIRS", 0)
    assert stats.hodges_lehmann(before, after) == np.median(differences)
    assert stats.pseudo_median(before) == np.median(averages)
    assert (
        stats.mann_whitney_interval(before, after), stats.signed_rank_interval(before)
    ) == small  # fmt: skip
    assert set(small[0]) <= set(differences)


def test_large_samples_take_little_memory():
    """20,000 v 20,000: the pairs alone would be 3 GB."""
    rng = np.random.default_rng(12)
    before, after = rng.normal(1000, 3, 20_000), rng.normal(1001, 3, 20_000)
    tracemalloc.start()
    shift = stats.hodges_lehmann(before, after)
    low, high = stats.mann_whitney_interval(before, after)
    slope, p = stats.drift(before + np.arange(20_000) * 1e-4)
    stats.autocorrelation(np.column_stack([before, after]))
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert low < shift < high
    assert shift == pytest.approx(1, abs=0.1)  # 3 deviations of sqrt(2/20,000) * 3
    assert slope == pytest.approx(1e-4, rel=0.1)
    assert p < 1e-9


# Bad arguments


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.hodges_lehmann([], [1]), "empty sample"),
        (lambda: stats.hodges_lehmann([1], [math.nan]), "a sample with nan: expected finite"),
        (lambda: stats.pseudo_median([math.inf]), "a sample with inf"),
        (lambda: stats.spread([[1, 2]]), "2 dimensions: expected 1"),
        (lambda: stats.spread([1]), "one value has no spread"),
        (lambda: stats.pooled_spread([1], [2]), "1 v 1 values have no spread"),
        (lambda: stats.median_interval([1, 2], 1.0), "confidence 1.0"),
        (lambda: stats.mann_whitney_interval([1, 2], [3], 95), "confidence 95"),
        (lambda: family.max_t_paired([1, 2], [0]), r"diffs of shape \(2,\)"),
        (lambda: family.max_t_paired(np.zeros((0, 2)), [0, 0]), r"diffs of shape \(0, 2\)"),
        (lambda: family.max_t_paired([[math.inf]], [0]), "diffs has an infinite value"),
        (lambda: family.max_t_paired([[1], [2]], [-1]), "a margin is negative"),
        (
            lambda: family.max_t_paired([[1], [2]], [0, 0]),
            r"margins of shape \(2,\): expected \(1,",
        ),
        (lambda: family.max_t_paired([[1]] * 16, [0], draws=0), "draws 0: expected 1"),
        (lambda: family.max_t_independent([[1]], [[1, 2]], [0]), "before has 1 columns, after 2"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
