"""The confidence sequence: its formula, its error under looks after every pair, and its speed."""

from math import inf, pi, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmbench.adjustment import max_t_paired
from kvmbench.comparison import sequence
from kvmbench.comparison.sequence import MIXTURE, decided_after, interval, looks
from kvmbench.comparison.verdicts import compare
from kvmbench.results import Boot, Result, Run
from kvmbench.stats import signed_rank_interval
from kvmbench.tests.results_maker import EIGHT, of_runs, series, sides, table
from kvmbench.units import Side

PAIRS = 100
TABLE = 160  # 8 rows at 5 %


def evidence(diffs, mu):
    """Return E(mu) by integration over the effect and the scale, from its definition.

    The mixture over delta = mean / sd is normal with variance 1 / c, the scale has density 1 / sd:
    the ratio of the marginal densities with and without the effect. The scale is integrated by
    hand, sd**-(n+1) exp(-Q / (2 sd**2)), and delta on a grid.
    """
    y = np.asarray(diffs) - mu
    n = len(y)
    scales = np.exp(np.linspace(-12, 12, 2401)) * sqrt((y**2).mean())
    effects = np.linspace(-60, 60, 4801)
    prior = np.exp(-(effects**2) * MIXTURE / 2) * sqrt(MIXTURE / (2 * pi))
    squares, total = (y**2).sum(), y.sum()

    def marginal(delta):
        power = -(squares - 2 * delta * scales * total + n * (delta * scales) ** 2) / 2
        return float(np.sum(np.exp(power / scales**2 - n * np.log(scales / scales[1200]))))

    with_effect = np.array([marginal(delta) for delta in effects])
    return float((with_effect * prior).sum() * (effects[1] - effects[0]) / marginal(0.0))


@pytest.mark.parametrize("mu", [0.0, 0.7, -1.5])
def test_the_formula_is_the_mixture(mu):
    """At mu, rows / p is E: integrated over effect and scale, without the closed form."""
    diffs = [1.1, 0.3, 2.0, 0.9, 1.6]
    away = np.asarray(diffs) - mu
    p = sequence.adjusted_p(away, 0.0)
    wanted = evidence(diffs, mu)
    if wanted > 1:
        assert 1 / p == pytest.approx(wanted, rel=1e-3)
    else:
        assert p == 1


def test_one_difference_has_no_evidence():
    assert looks([5.0], rows=8).halves[0] == inf
    assert interval([5.0, 5.1]) is None
    assert sequence.adjusted_p([5.0]) == 1


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30),
    st.floats(0.5, 0.999),
    st.integers(1, 40),
)
def test_the_interval_inverts_the_p(diffs, confidence, rows):
    found = interval(diffs, confidence=confidence, rows=rows)
    if found is None or not found[0] < found[1]:
        return
    for end in found:
        shifted = np.asarray(diffs) - end
        if abs(np.mean(shifted)) < 1e-9 * max(1, np.ptp(diffs)):
            continue
        assert sequence.adjusted_p(shifted, rows=rows) == pytest.approx(1 - confidence, rel=1e-3)


def test_looks_are_the_intervals_of_each_beginning():
    diffs = np.random.default_rng(3).normal(1, 2, 12)
    found = looks(diffs, rows=4)
    for n in range(1, 13):
        own = interval(diffs[:n], rows=4)
        mean, half = found.means[n - 1], found.halves[n - 1]
        assert (own is None) == (half == inf)
        if own:
            assert own == pytest.approx((mean - half, mean + half))


def test_equal_differences_decide_after_five_pairs_and_a_quantum_takes_more():
    """r = c / (n + c); S = 0 is bounded where (160 / sqrt(r))**(2 / n) r < 1: from n = 5 on."""
    for n in range(1, 9):
        ratio = MIXTURE / (n + MIXTURE)
        bounded = (TABLE / sqrt(ratio)) ** (2 / n) * ratio < 1
        assert bounded == (n >= 5)
        assert (interval([3.0] * n, rows=8) is not None) == bounded
    assert interval([3.0] * 5, rows=8) == (3, 3)
    low, high = interval([3.0] * 5, rows=8, quantum=1.0)
    assert low < 2.5
    assert high > 3.5


@pytest.mark.parametrize(
    ("means", "halves", "after"),
    [
        ([5, 5, 5], [inf, 3, 3], 2),  # beyond from the second on
        ([5, 5, 5], [inf, 3, 4.5], None),  # and no longer
        ([0, 0, 0.2], [inf, 2, 0.5], 3),  # within
        ([1, 1, 1], [0.1, 0.1, 0.1], None),  # at the margin
        ([9, 9], [1, 1], 1),
    ],
)
def test_decided_after(means, halves, after):
    found = sequence.Looks(np.array(means, float), np.array(halves, float))
    assert decided_after(found, 1.0) == after


def draws(kind, shape, rng):
    """Return differences of deviation about 1, symmetric about 0."""
    match kind:
        case "normal":
            return rng.normal(size=shape)
        case "t3":
            return rng.standard_t(3, shape) / sqrt(3)
        case "bimodal":  # 30 % of runs in a slow state, on either side
            slow = (rng.random((2, *shape)) < 0.3).astype(float)
            return (slow[0] - slow[1]) * 2 + rng.normal(size=shape) / 3
        case "drift":  # which the drawn order gives either sign
            steady = np.linspace(0.5, 1.5, shape[1])[None, :, None]
            return rng.normal(size=shape) + steady * rng.choice([-1, 1], (shape[0], shape[1], 1))


def paths(diffs, rows):
    """Return the means and the half widths after each pair of many tables at once [..., pairs]."""
    n = np.arange(1, diffs.shape[1] + 1)[None, :, None]
    means = diffs.cumsum(axis=1) / n
    squares = np.maximum((diffs**2).cumsum(axis=1) - n * means**2, 0)
    halves = sequence._halves(n.astype(float), squares, rows / 0.05)
    return means, halves


@pytest.mark.parametrize("kind", ["normal", "t3", "bimodal", "drift"])
def test_error_under_a_look_after_every_pair(kind):
    """Of 1,000 tables of eight rows that did not move, at most 5 % ever have one that did.

    Looked at after each of 100 pairs. 5 % of 1,000 has a standard error of 0.7.
    """
    diffs = draws(kind, (1000, PAIRS, 8), np.random.default_rng(1))
    means, halves = paths(diffs, 8)
    assert (np.abs(means) > halves).any(axis=(1, 2)).mean() <= 0.05


def test_an_ordinary_interval_does_not_bear_looks():
    """The same looks at a t interval, whose error is 5 % at one look: several times as many."""
    diffs = draws("normal", (400, PAIRS, 1), np.random.default_rng(1))
    n = np.arange(1, PAIRS + 1)[None, :, None]
    means = diffs.cumsum(axis=1) / n
    sd = np.sqrt(((diffs**2).cumsum(axis=1) - n * means**2) / np.maximum(n - 1, 1))
    out = (np.abs(means) > 2.1 * sd / np.sqrt(n))[:, 9:]
    assert out.any(axis=(1, 2)).mean() > 0.2


@pytest.mark.parametrize(("sd", "pairs"), [(0.3, 6), (0.5, 9), (1.0, 19)])
def test_pairs_that_a_shift_of_two_percent_takes(sd, pairs):
    """In a table of eight rows, margin 1 %: the median of 1,000 measurements, within one or two.

    The number that is announced is where the mean and the spread are the true ones.
    """
    diffs = 2 + sd * draws("normal", (1000, PAIRS, 1), np.random.default_rng(2))
    means, halves = paths(diffs, 8)
    decided = (means - halves > 1)[:, :, 0]
    assert decided.any(axis=1).all()
    assert abs(np.median(decided.argmax(axis=1) + 1) - pairs) <= max(1, pairs // 10)
    assert 0 <= sequence.pairs_to_know(sd, 1.0, rows=8) - pairs <= 2


@pytest.mark.parametrize("mixture", [0.02, 2.0])
def test_the_mixture_is_near_the_best(monkeypatch, mixture):
    """A tenth or ten times of it takes more pairs over small and large effects together."""

    def total():
        return sum(sequence.pairs_to_know(sd, 1.0, rows=8) for sd in (0.15, 0.3, 0.5, 1.0))

    own = total()
    monkeypatch.setattr(sequence, "MIXTURE", mixture)
    assert total() > own


def test_no_number_of_pairs_is_enough():
    assert sequence.pairs_to_know(1.0, 0.001) is None
    with pytest.raises(ValueError, match="confidence 1"):
        looks([1.0, 2.0], confidence=1.0)
    with pytest.raises(ValueError, match="empty sample"):
        looks([])


# In a comparison


def tables(pairs, shift=2.0, sd=0.5, seed=5, rows=EIGHT):
    """Return the results of two kernels in pairs, in percent: the first row moves by `shift`."""
    rng = np.random.default_rng(seed)
    found = []
    for side in (0, 1):
        figures = 1000 * (1 + rng.normal(0, sd / sqrt(2) / 100, (pairs, len(rows))))
        figures[:, 0] *= 1 + side * shift / 100
        boots = [
            Boot(id=f"{side}{n}", block=n + 1, runs=list(table([line], rows).boots[0].runs))
            for n, line in enumerate(figures)
        ]
        found.append(Result(boots=boots))
    return found


def test_a_comparison_by_the_sequence():
    found = compare(*sides(*tables(16)), correction="sequence", margin="1%", controls=())
    first = found.rows[0]
    assert (first.verdict, first.units) == ("slower", (16, 16))
    before, after = found.figures["cpuid"]
    assert first.shift == pytest.approx(float(np.mean(after - before)))
    assert first.interval == pytest.approx(interval(after - before, rows=8))
    assert 5 <= first.after_units <= 16
    assert first.detectable is None
    text = " ".join(str(found).split())
    assert (
        "Confidence sequence: the intervals of the 8 rows hold together, however often one looks"
        in text
    )
    assert "8 of 8 rows decided after" in text
    assert "of 16 pairs." in text


def test_a_result_that_was_measured_until_decided_is_compared_so():
    from msgspec.structs import replace

    before, after = tables(10)
    assert compare(*sides(before, after)).correction == "max-t"
    looked = replace(after, stopping="decided")
    assert compare(*sides(before, looked)).correction == "sequence"
    assert compare(*sides(before, looked), correction="max-t").correction == "max-t"


def test_undecided_rows():
    found = compare(*sides(*tables(3)), correction="sequence", margin="1%", controls=())
    assert sequence.undecided(found.rows) == list(EIGHT)
    assert sequence.undecided(found.rows, ["cpuid", "vm*"]) == ["cpuid", "vmcall"]
    with pytest.raises(ValueError, match="unknown row 'cpu'"):
        sequence.undecided(found.rows, ["cpu"])
    other = compare(*sides(of_runs({"a": 1.0}), of_runs({"b": 1.0})), correction="sequence")
    with pytest.raises(ValueError, match="none of the rows was measured on both sides"):
        sequence.undecided(other.rows)
    assert "After 3 pairs no row is decided. A row that did not move takes about " in " ".join(
        str(found).split()
    )


def test_pairs_without_a_row_are_left_out_and_counted():
    """The second pair lacks the row: one row is decided after four, of five pairs."""
    before, after = (
        Result(
            boots=[
                Boot(
                    id=f"{side}{n}", block=n + 1,
                    runs=[Run(series=[series("w" if n != 1 or side else "v", value)])],
                )
                for n in range(7)
            ]
        )
        for side, value in ((0, 1000.0), (1, 1050.0))
    )  # fmt: skip
    row = next(
        r for r in compare(*sides(before, after), correction="sequence").rows if r.workload == "w"
    )
    assert (row.units, row.interval, row.after_units) == ((6, 6), (50, 50), 5)


def test_runs_of_two_boots_pair_by_their_number():
    before = of_runs(*({"w": 1000.0 + n} for n in range(9)), boot_id="a")
    after = of_runs(*({"w": 1050.0 + n} for n in range(6)), boot_id="b")
    (row,) = compare(*sides(before, after), correction="sequence").rows
    assert (row.units, row.shift, row.after_units) == ((6, 6), 50, 4)


def test_rows_without_a_common_pair_are_undecided():
    """Before has w in its first run, after in its second: no pair has both."""
    before = of_runs({"w": 1.0, "v": 1.0}, {"v": 1.0}, {"w": 1.0, "v": 1.0}, {"v": 1.0})
    after = of_runs({"v": 1.0}, {"w": 1.0, "v": 1.0}, {"v": 1.0}, {"w": 1.0, "v": 1.0})
    found = compare(*sides(before, after), correction="sequence")
    verdicts = {row.workload: (row.verdict, row.interval) for row in found.rows}
    assert verdicts["w"] == ("inconclusive", None)
    assert sequence.undecided(found.rows) == ["w"]  # v is, after four equal pairs


def test_other_corrections_of_such_a_result_are_in_doubt():
    from msgspec.structs import replace

    before, after = tables(10)
    after = replace(after, stopping="decided")
    found = compare(*sides(before, after), correction="max-t")
    assert all("looked" in row.doubts for row in found.rows)
    assert "use --correction sequence" in " ".join(str(found).split())
    assert not any("looked" in row.doubts for row in compare(*sides(before, after)).rows)
    with pytest.raises(ValueError, match="takes no deviation of boots"):
        compare(*sides(before, after), boot_sd="0.4%")


def test_too_few_pairs_say_so():
    found = compare(*sides(*tables(3)), correction="sequence")
    assert "too few pairs for an interval of the confidence sequence" in " ".join(
        str(found).split()
    )


def alternating(pairs, boot_id="a", configurations=("no", "yes")):
    """Return a result of two configurations that alternate in one boot."""
    runs = [
        Run(block=n + 1, series=[series("w", 1000.0 + (10 + n) * side, configuration=name)])
        for n in range(pairs)
        for side, name in enumerate(configurations)
    ]
    return Result(boots=[Boot(id=boot_id, runs=runs)])


def test_configurations_that_alternate_in_a_boot_are_pairs():
    result = alternating(6)
    found = compare(result)
    assert (found.replicates.level, found.replicates.paired) == ("run", True)
    assert (found.rows[0].units, found.rows[0].interval) == ((6, 6), (10, 15))
    assert "6 runs, each on both sides" in " ".join(str(found).split())
    other = Side("other", alternating(6, boot_id="b"), "yes")
    assert not compare(Side("no", result, "no"), other).replicates.paired  # of another boot


def test_pairs_that_are_appended_are_other_pairs(tmp_path):
    from kvmbench import results

    path = tmp_path / "r.json"
    for _ in range(2):
        results.append(path, alternating(3))
    kept = results.read(path)
    assert [run.block for _, run in kept.runs()] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert compare(kept).rows[0].units == (6, 6)
    results.append(path, alternating(4, boot_id="b"))
    found = compare(results.read(path)).replicates
    assert (found.level, found.paired) == ("boot", True)


# Pairs of boots against blocks


def boots_in_turn(rng, boots, size, *, shift=0.0, drift=0.0, walk=0.0):
    """Return the differences of a plan, in percent: [blocks, 8 rows], the first row moved.

    Boots differ by 0.4 %; blocks of two are AB or BA, of four ABBA or BAAB, drawn.
    """
    figures = rng.normal(0, 0.4, (boots, 8)) + drift * np.linspace(0, 1, boots)[:, None]
    figures += walk * np.cumsum(rng.normal(size=boots))[:, None]
    blocks = figures.reshape(-1, size, 8)
    sides = np.array([0, 1] if size == 2 else [0, 1, 1, 0])
    orders = np.where(rng.random((len(blocks), 1)) < 0.5, sides, 1 - sides)[:, :, None]
    diffs = (blocks * (2 * orders - 1)).sum(axis=1) / (size / 2)
    diffs[:, 0] += shift
    return diffs


def called(diffs, margin):
    """Return whether each row has the verdict faster or slower: max-T and the interval agree."""
    p = max_t_paired(diffs, [margin] * 8, [100.0] * 8)
    intervals = [signed_rank_interval(column) for column in diffs.T]
    return [
        value <= 0.05 and found is not None and (found[0] > margin or found[1] < -margin)
        for value, found in zip(p, intervals, strict=True)
    ]


def test_sixteen_boots_in_pairs_do_what_took_twenty_four_in_blocks():
    """+2 % in one of eight rows, margin 1 %. The sizes are those of docs/statistics.md."""
    rng = np.random.default_rng(1)

    def power(boots, size):
        return np.mean([called(boots_in_turn(rng, boots, size, shift=2), 1)[0] for _ in range(100)])

    pairs, blocks = power(16, 2), power(24, 4)
    assert pairs >= 0.79
    assert pairs >= blocks - 0.1  # whose difference has a standard error of 0.04
    assert power(16, 4) == 0
    assert power(24, 2) >= 0.95


@pytest.mark.parametrize("host", [{}, {"drift": 2.0}, {"walk": 0.4}])
def test_false_tables_of_pairs(host):
    """At margin 0, where nothing moved: 5 % of 300 tables have a standard error of 1.3."""
    rng = np.random.default_rng(1)
    found = [any(called(boots_in_turn(rng, 16, 2, **host), 0)) for _ in range(300)]
    assert np.mean(found) <= 0.06
