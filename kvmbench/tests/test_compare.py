"""Comparisons: what is compared with what, how surely, and in which words."""

import json
import re
import tomllib
from itertools import product
from math import comb
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import binom, mannwhitneyu

import kvmbench
from kvmbench.catalog import published
from kvmbench.cli.main import main
from kvmbench.comparison.caveats import caveats, doubt_codes
from kvmbench.comparison.document import document
from kvmbench.comparison.hosts import differences, is_lightweight, unknown_hosts
from kvmbench.comparison.rows import Margin
from kvmbench.comparison.verdicts import compare
from kvmbench.errors import IncompatibleError
from kvmbench.formats import from_published
from kvmbench.planning import detectable, units_for_shift, units_within
from kvmbench.report import write
from kvmbench.results import Boot, Host, Result, Run
from kvmbench.tests.results_maker import (
    EIGHT,
    of_boots,
    of_runs,
    row,
    series,
    sides,
    table,
)  # fmt: skip
from kvmbench.units import Replicates, Side

PACKAGE = Path(kvmbench.__file__).parent


def one(before, after, **options):
    """Return the only row of a comparison of two results."""
    (found,) = compare(*sides(before, after), **options).rows
    return found


def said(before, after, **options):
    return words(compare(*sides(before, after), **options))


def words(comparison):
    """Return the words of a comparison's caveats."""
    return " ".join(caveat.words for caveat in caveats(comparison))


def codes(comparison):
    """Return the codes of a comparison's caveats."""
    return [caveat.code for caveat in caveats(comparison)]


def text_of(comparison):
    """Return the text of a comparison on one line."""
    return " ".join(str(comparison).split())


# What one unit is


def test_iterations_are_never_pooled():
    # 1000 iterations, but four runs per side: what counts is four medians.
    before = of_runs(*({"cpuid": [x] * 499 + [9999] * 501} for x in (9, 9, 9, 9)))
    after = of_runs(*({"cpuid": [x, x, 5000]} for x in (1, 2, 3, 4)))
    found = one(before, after)
    assert found.units == (4, 4)
    assert found.before == 9999
    assert found.after == 2.5


def test_a_boot_is_the_median_of_its_runs():
    runs = [{"cpuid": x} for x in (100, 101, 900)]
    before = of_boots(("a", None, runs), ("b", None, [{"cpuid": 200}]))
    after = of_boots(("c", None, runs[:1]))
    comparison = compare(*sides(before, after))
    assert comparison.replicates.level == "boot"
    (found,) = comparison.rows
    assert (found.units, found.before, found.after) == ((2, 1), (101 + 200) / 2, 100)
    assert found.verdict == "no-verdict"


def test_blocks_pair_by_number_and_not_by_order():
    # Block b is worth 1000 b on both sides, and the after is 10 more, whatever the order.
    def boots(order, more, name):
        return of_boots(
            *((f"{name}{b}{i}", b, [{"w": 1000 * b + more + i}]) for b in order for i in (0, 1))
        )

    comparison = compare(*sides(boots(range(1, 7), 0, "x"), boots((4, 2, 6, 1, 5, 3), 10, "y")))
    (found,) = comparison.rows
    assert comparison.replicates.level == "block"
    assert found.units == (6, 6)
    assert found.shift == 10
    assert found.interval == (10, 10)


def test_abba_cancels_a_linear_drift_and_sequence_does_not():
    """Kernels alike, 5 cycles more each boot: the blocks' differences are 0."""
    sequence = [side for block in range(6) for side in ("ABBA" if block % 2 else "BAAB")]
    boots = {"A": [], "B": []}
    for number, side in enumerate(sequence):
        boots[side].append((str(number), number // 4 + 1, [{"w": 1000 + 5 * number}]))
    found = one(of_boots(*boots["A"]), of_boots(*boots["B"]))
    assert found.shift == 0
    assert found.verdict == "within margin"


@pytest.mark.parametrize(
    ("first", "second", "left_out"),
    [
        ([1, 1, 2, 2], [1, 1, 2], [2]),
        ([1, 1, 2], [1, 1, 2], [2]),  # AB of an interrupted block cancels nothing
        ([1, 1, 2, 2], [1, 1], [2]),
        ([1, 2, 3], [1, 2, 3], []),  # blocks of AB throughout
        ([1, 2], [2, 3], [1, 3]),
    ],
)
def test_incomplete_blocks_are_left_out_and_said(first, second, left_out):
    def side(blocks, name):
        return of_boots(*((f"{name}{n}", b, [{"w": 100 + n}]) for n, b in enumerate(blocks)))

    comparison = compare(*sides(side(first, "x"), side(second, "y")))
    assert comparison.replicates.left_out == list(map(str, left_out))
    text = words(comparison)
    assert ("Left out as incomplete" in text) == bool(left_out)
    for block in left_out:
        assert str(block) in text


def test_no_complete_block_is_no_missing_row():
    before = of_boots(("a", 1, [{"w": 1}]))
    after = of_boots(("b", 1, [{"w": 1}]), ("c", 1, [{"w": 1}]))
    found = one(before, after)
    assert found.verdict is None
    assert "no complete block" in found.missing


def test_a_row_that_one_boot_of_a_block_lacks_lacks_the_block():
    """Its other boot alone would bring the drift within the block into the difference."""
    before, after = [], []
    for b in range(1, 8):
        lines = [{"w": 100.0, "v": 1.0}, {"w": 100.0, "v": 1.0}]
        before += [(f"x{b}{i}", b, [line]) for i, line in enumerate(lines)]
        lines = [{"w": 100.0, "v": 1.0}, {"w": 300.0, "v": 1.0}]
        if b == 7:
            del lines[0]["w"]
        after += [(f"y{b}{i}", b, [line]) for i, line in enumerate(lines)]
    rows = compare(*sides(of_boots(*before), of_boots(*after))).rows
    assert {r.workload: r.units for r in rows} == {"w": (6, 6), "v": (7, 7)}
    assert rows[0].interval == (100, 100)


def test_parts_of_one_boot_are_one_boot():
    """Somebody tunes the governor between runs: the file has two entries of one boot."""
    parts = [
        Boot(id="a", host=Host(governor=g), runs=list(of_runs({"w": x}).boots[0].runs))
        for g, x in (("powersave", 1), ("performance", 2), ("powersave", 3), ("performance", 4))
    ]
    side = Side("x", Result(boots=parts))
    assert side.boots == [0]
    replicates = Replicates(side, Side("y", row("w", [1, 2, 3, 4])))
    assert replicates.level == "run"
    found = differences(compare(side, Side("y", row("w", [1, 2, 3, 4]))))
    assert [str(entry) for entry in found] == ["governor: performance | powersave -> not known"]


def test_configurations_of_one_file_use_their_own_runs():
    """B's run was skipped and is in another boot: A's boots, hosts and reasons are its own."""
    a = [Run(series=[series("w", x, configuration="A")]) for x in (1, 2, 3, 4)]
    b = [
        Run(series=[series("w", x, configuration="B")], skipped={"v": "only in B"}) for x in (5, 6)
    ]
    a[0] = Run(series=[*a[0].series, series("v", 1, configuration="A")])
    result = Result(
        boots=[
            Boot(id="1", host=Host(microcode="0x1"), runs=a),
            Boot(id="2", host=Host(microcode="0x2"), runs=b),
        ]
    )
    first, second = Side("A", result, "A"), Side("B", result, "B")
    assert (first.boots, second.boots) == ([0], [1])
    assert list(second.runs) == [4, 5]
    comparison = compare(first, second)
    assert [str(d) for d in differences(comparison)] == ["microcode: 0x1 -> 0x2"]
    rows = {r.workload: r for r in comparison.rows}
    assert rows["v"].missing == "Not in B (only in B)"
    assert rows["w"].units == (4, 2)
    a_reason = Run(series=[series("w", 1, configuration="A")], skipped={"v": "only in A"})
    other = Result(boots=[Boot(runs=[a_reason, *b]), Boot(runs=a)])
    found = compare(Side("A", other, "A"), Side("B", other, "B"))
    assert next(r for r in found.rows if r.workload == "v").missing == "Not in B (only in B)"
    reverse = compare(second, Side("A", result, "A"))
    assert next(r for r in reverse.rows if r.workload == "v").missing == "Not in B (only in B)"


def test_several_configurations_are_rows_of_their_own():
    def result(x):
        return of_runs([series("w", x, configuration="A"), series("w", x + 1, configuration="B")])

    comparison = compare(*sides(result(1), result(3)))
    assert [(r.workload, r.before, r.after) for r in comparison.rows] == [
        ("w/A", 1, 3),
        ("w/B", 2, 4),
    ]
    with pytest.raises(IncompatibleError, match="choose one"):
        compare(*sides(result(1), row("w", [1])))


def test_no_figures_are_refused():
    with pytest.raises(IncompatibleError, match="after has no figures"):
        compare(*sides(row("w", [1]), of_runs([])))


@pytest.mark.parametrize(
    "more",
    [{"unit": "ns"}, {"kind": "exact"}, {"better": "higher"}],
    ids=lambda more: next(iter(more)),
)
def test_what_cannot_be_compared(more):
    with pytest.raises(IncompatibleError, match=f"w: {next(iter(more))} is"):
        compare(*sides(row("w", [1, 2]), row("w", [1, 2], **more)))


def test_missing_rows_are_said_with_the_reason():
    before = of_runs({"a": 1, "b": 2})
    after = Result(
        boots=[Boot(runs=[Run(series=[series("a", 1), series("c", 1)], skipped={"b": "no PMU"})])]
    )
    comparison = compare(*sides(before, after))
    assert [(r.workload, r.verdict, r.missing) for r in comparison.rows] == [
        ("a", "no-verdict", None),
        ("b", None, "Not in after (no PMU)"),
        ("c", None, "Not in before"),
    ]
    text = words(comparison)
    assert "Not in after (no PMU): b." in text
    assert "Not in before: c." in text


# Figures and verdicts


def test_ipiv_2022_against_scipy_and_by_hand():
    """20 runs per side as published: the interval holds the shifts that SciPy's test accepts."""
    name = published()["ipiv-2022"]
    result = from_published(name)
    before, after = (
        np.array(next(r.values for r in name.rows if r.configuration == c), float)
        for c in name.configurations[:2]
    )
    comparison = compare(*(Side(c, result, c) for c in name.configurations[:2]))
    (found,) = comparison.rows
    assert (found.verdict, found.units) == ("faster", (20, 20))
    differences = np.sort(np.subtract.outer(after, before).ravel())
    assert found.shift == np.median(differences)
    low, high = found.interval

    def accepted(shift):
        return mannwhitneyu(after - shift, before, method="exact").pvalue > 0.05

    # Steps of 1/2 are never a tie of whole cycles.
    assert accepted(low + 0.5)
    assert accepted(high - 0.5)
    assert not accepted(low - 0.5)
    assert not accepted(high + 0.5)
    assert found.percent == pytest.approx(100 * found.shift / np.median(before))


@pytest.mark.parametrize("name", ["patch-2017", "no-pmu-vmcall-2020"])
def test_one_run_a_side_is_no_verdict(name):
    result = from_published(published()[name])
    first, second = published()[name].configurations[:2]
    comparison = compare(Side("a", result, first), Side("b", result, second))
    present = [r for r in comparison.rows if not r.missing]
    assert present
    assert {r.verdict for r in present} == {"no-verdict"}
    for found in present:
        assert found.shift == found.after - found.before
        assert found.interval is None
    assert "one run on a side" in words(comparison)


def test_kauer_2024_minimum_detectable_effect():
    """100 values: what 50 against 50 of them would see, by Lehmann's formula."""
    (line,) = published()["kauer-cpuid-2024"].rows
    values = np.array(line.values)
    sd = values.std(ddof=1)
    (found,) = detectable([sd], (50, 50))
    by_hand = (1.959964 + 0.841621) * sd * (2 / 50) ** 0.5 / (3 / np.pi) ** 0.5
    by_hand *= (100 / 98) ** 0.5  # the deviation is estimated, with 98 degrees of freedom
    assert found == pytest.approx(by_hand, rel=0.08)


def test_one_against_many_is_no_verdict_with_the_difference():
    """40 runs against one even have an interval; it may be any run of its kind."""
    found = one(row("w", [100]), row("w", range(200, 240)))
    assert (found.verdict, found.interval, found.shift) == ("no-verdict", None, 119.5)


def test_three_against_three_cannot_be_decided():
    """Of 20 arrangements the best has p = 2/20."""
    before, after = row("w", [100, 101, 102]), row("w", [200, 201, 202])
    assert one(before, after).verdict == "inconclusive"
    assert "too few runs for an interval at 95 %. Measure 4 runs per side or more." in said(
        before, after
    )
    assert one(before, after, confidence=0.9).verdict == "slower"


def test_better_higher_turns_faster_and_slower():
    low, high = [100, 101, 102, 103], [200, 201, 202, 203]
    for better, verdicts in (("lower", ("slower", "faster")), ("higher", ("faster", "slower"))):
        lows, highs = (row("w", x, better=better) for x in (low, high))
        assert (one(lows, highs).verdict, one(highs, lows).verdict) == verdicts


def test_exact_figures():
    exact = {"kind": "exact"}
    assert one(row("w", [5], **exact), row("w", [5], **exact)).verdict == "unchanged"
    assert one(row("w", [5], **exact), row("w", [6], **exact)).verdict == "changed"
    huge = one(row("w", [2**53], **exact), row("w", [2**53 + 1], **exact))
    assert (huge.verdict, huge.shift, huge.after) == ("changed", 1, 2**53 + 1)
    before, after = row("w", [5, 5, 5], **exact), row("w", [5, 5, 6], **exact)
    varied = one(before, after)
    assert (varied.verdict, varied.varies, varied.shift) == ("changed", True, 0)
    assert "w: called exact, but the figure differs between runs" in said(before, after)
    # Over the iterations of one run, too.
    assert one(row("w", [5], **exact), of_runs([series("w", 5, 6, 5, **exact)])).varies


@pytest.mark.parametrize(
    ("margin", "quantum", "expected"),
    [
        (None, None, 5.0),  # 0.5 % of 1000
        (None, 4.0, 5.0),
        (None, 6.0, 6.0),  # two rounded figures differ by one quantum from rounding
        (Margin.parse("2%"), 20.0, 20.0),
        (Margin.parse("3"), 20.0, 3.0),
        (Margin.parse("0"), 20.0, 0.0),
        (Margin.parse("0%"), None, 0.0),
    ],
)
def test_margin(margin, quantum, expected):
    before = row("w", [1000] * 4, quantum=quantum)
    assert one(before, before, margin=margin).margin == expected


@pytest.mark.parametrize("text", ["", "%", "-1", "-1%", "nan", "inf%", "1%%", "a", "1e999"])
def test_no_margin(text):
    with pytest.raises(ValueError, match="is neither a share"):
        Margin.parse(text)


@pytest.mark.parametrize(
    ("shift", "margin", "verdict"),
    [
        (10, "10", "slightly slower"),  # the ends belong to the margin
        (-10, "10", "slightly faster"),
        (10, "9", "slower"),
        (-10, "9", "faster"),
        (0, "0", "within margin"),
        (2, "10", "within margin"),  # one quantum
        (3, "10", "slightly slower"),
        (10, "1%", "slightly slower"),
        (11, "1%", "slower"),
    ],
)
def test_verdict_at_the_margin(shift, margin, verdict):
    """No spread: the interval is the shift."""
    before, after = (row("w", [x] * 6, quantum=2.0) for x in (1000, 1000 + shift))
    found = one(before, after, margin=Margin.parse(margin))
    assert found.interval == (shift, shift)
    assert found.verdict == verdict


def test_the_whole_interval_must_be_beyond_the_margin():
    """The test of the means is sure; the sixth smallest of the 36 differences is only 5."""
    after = [1005, *[1100] * 5]
    found = one(row("w", [1000] * 6), row("w", after), margin=Margin(10, False))
    assert found.p < 0.05
    assert found.interval == (5, 100)
    assert found.verdict == "slightly slower"


def blocks(count, shift, rows=8, changed=8):
    """Return ABBA results of `count` blocks whose rows differ a little from block to block."""
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 1, (count, rows))
    before, after = [], []
    for b in range(count):
        for i in (0, 1):
            lines = dict.fromkeys(EIGHT[:rows], 1000.0)
            before.append((f"x{b}{i}", b, [lines]))
            moved = {
                n: 1000.0 + (shift if r < changed else 0) + noise[b, r]
                for r, n in enumerate(EIGHT[:rows])
            }
            after.append((f"y{b}{i}", b, [moved]))
    return of_boots(*before), of_boots(*after)


@pytest.mark.parametrize(
    ("count", "family", "verdict"),
    [
        (5, "max-t", "faster"),  # 2/32 is above 5 %: no interval of ranks, so Student's t
        (6, "max-t", "faster"),  # 2/64 over all rows at once
        (6, "holm", "inconclusive"),  # 8 * 2/64
        (8, "holm", "inconclusive"),  # 8 * 2/256 = 1/16
        (9, "holm", "faster"),  # 8 * 2/512 = 1/32
    ],
)
def test_max_t_decides_with_six_blocks_and_holm_with_nine(count, family, verdict):
    rows = compare(*sides(*blocks(count, -100)), correction=family).rows
    assert {r.verdict for r in rows} == {verdict}
    if count == 5:
        assert {r.by for r in rows} == {"means"}
    elif family == "max-t":
        assert max(r.p for r in rows) == pytest.approx(2 / 2**count)
    else:
        assert min(r.p for r in rows) == pytest.approx(min(1, 8 * 2 / 2**count))


def test_rank_tests_decide_the_independent_table():
    """4 v 4 runs, 8 rows: max-T's best p is 2/70; Holm's 8 * 2/70."""
    rng = np.random.default_rng(2)
    before, after = rng.normal(1000, 1, (4, 8)), rng.normal(900, 1, (4, 8))
    rows = compare(*sides(table(before), table(after))).rows
    assert {r.verdict for r in rows} == {"faster"}
    assert min(r.p for r in rows) == pytest.approx(2 / comb(8, 4))
    comparison = compare(*sides(table(before), table(after)), correction="holm")
    assert {r.verdict for r in comparison.rows} == {"inconclusive"}
    assert "8 rows together does not confirm it" in words(comparison)


def test_primary_rows_are_a_family_of_their_own():
    """8 Holm rows with 6 blocks cannot be decided; one that was to be decided beforehand can."""
    found = compare(*sides(*blocks(6, -100)), correction="holm", primary=["inl_from_qemu"]).rows
    for entry in found:
        assert entry.primary == (entry.workload == "inl_from_qemu")
        assert entry.verdict == ("faster" if entry.primary else "inconclusive")
        assert entry.p == pytest.approx((1 if entry.primary else 8) * 2 / 64)
    text = text_of(compare(*sides(*blocks(6, -100)), primary=["inl_from_*"]))
    rows = "inl_from_pmtimer, inl_from_qemu, inl_from_kernel"
    assert f"Primary rows, adjusted among themselves: {rows}." in text
    with pytest.raises(ValueError, match="unknown row 'inl_from_quemu'"):
        compare(*sides(*blocks(6, -100)), primary=["inl_from_quemu"])


@pytest.mark.parametrize("paired", [False, True])
def test_holm_of_a_row_within_the_margin(paired):
    """Its p is 1, however sure its shift of 5 is; the other row's is doubled, for two rows."""
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.1, (8, 2))
    before = 1000 + 0 * noise
    after = 1000 + noise + [5.0, 100.0]
    if paired:
        lines = [{"a": x, "b": y} for x, y in before.tolist()]
        moved = [{"a": x, "b": y} for x, y in after.tolist()]
        results = (
            of_boots(*((f"{name}{n}", n, [line]) for n, line in enumerate(found)))
            for name, found in (("x", lines), ("y", moved))
        )
        least = 2 / 2**8
    else:
        results = (table(before, "ab"), table(after, "ab"))
        least = 2 / comb(16, 8)
    near, far = compare(*sides(*results), correction="holm", margin="10").rows
    assert near.p == 1
    assert near.verdict == "slightly slower"
    assert near.p_zero == pytest.approx(2 * least)
    assert far.p == pytest.approx(2 * least)


def test_more_comparisons_adjust_p():
    parts = sides(*blocks(6, -100))
    single, twice = (compare(*parts, comparisons=n).rows for n in (1, 2))
    for one_, two in zip(single, twice, strict=True):
        assert two.p == pytest.approx(2 * one_.p)
        assert (one_.verdict, two.verdict) == ("faster", "inconclusive")  # 4/64


def test_no_number_that_json_has_not():
    for low, high in ((0, 0), (5e-324, 1e99), (-1e99, 1e99), (1e-300, -1e-300), (-5, 5)):
        for count, kind in product((1, 2, 4), ("exact", "noisy")):
            comparison = compare(
                *sides(row("w", [low] * count, kind=kind), row("w", [high] * count, kind=kind))
            )
            for form in ("json", "text", "csv", "markdown", "junit"):
                text = write(document([comparison], explain=True), form)
                assert "inf" not in text.lower()
                assert "nan" not in text.lower()
            json.loads(write(comparison.document(), "json"), parse_constant=pytest.fail)
    for kind in ("exact", "noisy"):
        with pytest.raises(ValueError, match="w: a figure beyond 1e"):
            compare(*sides(row("w", [-1.7e308], kind=kind), row("w", [1.7e308], kind=kind)))


def test_a_zero_centre_has_no_percent():
    found = one(row("w", [0] * 4), row("w", [3] * 4))
    assert (found.percent, found.margin, found.verdict) == (None, 0, "slower")


# Laws, by simulation (seeded)


def simulated(rng, n, shift=0.0, rows=8):
    """Return a table of medians of 5 iterations: run sd 0.5 %, within 0.3 %."""
    runs = rng.normal(1, 0.005, (n, rows, 1)) + rng.normal(0, 0.003, (n, rows, 5))
    return table(1000 * (1 + shift) * np.median(runs, axis=2), EIGHT[:rows])


@pytest.mark.parametrize(("n", "tables"), [(4, 200), (6, 100), (10, 40)])
def test_false_alarms_of_null_tables(n, tables):
    """At margin 0, of the tables at most 5 %, and noise that one such test in 1000 exceeds."""
    rng = np.random.default_rng(n)
    alarms = 0
    for _ in range(tables):
        rows = compare(
            *sides(simulated(rng, n), simulated(rng, n)), margin=Margin(0), controls=()
        ).rows
        alarms += any(r.verdict in ("faster", "slower") for r in rows)
    assert alarms <= binom.isf(0.001, tables, 0.05)


def test_no_false_alarm_beyond_the_margin_and_power_for_five_percent():
    rng = np.random.default_rng(3)
    seen = 0
    for _ in range(20):
        before = simulated(rng, 6)
        null = compare(*sides(before, simulated(rng, 6))).rows
        assert not [r for r in null if r.verdict in ("faster", "slower")]
        moved = compare(*sides(before, simulated(rng, 6, -0.05)), controls=()).rows
        seen += sum(r.verdict == "faster" for r in moved)
        assert not [r for r in moved if r.verdict in ("slower", "slightly slower", "within margin")]
    assert seen >= 0.95 * 20 * 8


def test_within_margin_is_seldom_said_of_a_shift_at_the_margin():
    """A true shift of the margin: `within margin` is wrong, and at most 2.5 % of the verdicts."""
    rng = np.random.default_rng(8)
    wrong = 0
    for _ in range(50):
        rows = compare(
            *sides(simulated(rng, 10), simulated(rng, 10, 0.01)),
            margin=Margin(0.01),
            correction="holm",
        ).rows
        wrong += sum(r.verdict == "within margin" for r in rows)
    assert wrong <= 20  # of 400; P(above 20 at 2.5 %) is .1 %


def test_words_of_drift_and_groups_on_null_data():
    """Of 120 null comparisons at most 6 and noise say either; both are seen where they are."""
    rng = np.random.default_rng(4)
    drifts = groups = 0
    for number in range(120):
        n = (6, 8, 10, 20)[number % 4]
        text = said(simulated(rng, n), simulated(rng, n), correction="holm")
        drifts += "Drift" in text
        groups += "Two groups" in text
    assert drifts <= 14
    assert groups <= 10


# Caveats: said when true, and only then


def test_every_caveat_has_its_words_and_its_place_in_the_docs():
    words = tomllib.loads((PACKAGE / "data/caveats.toml").read_text())
    source = (PACKAGE / "comparison/caveats.py").read_text()
    used = set(re.findall(r'(?:_caveat|_about|_each_side)\(\s*"([-a-z]+)"', source))
    codes = set(words)
    assert used == codes
    assert {entry.get("doubt", "rows") for entry in words.values()} == {"table", "rows"}
    assert doubt_codes() == [code for code in words if "doubt" in words[code]]
    pages = PACKAGE.parent / "docs/statistics.md"
    if pages.exists():  # an installed package has none
        assert codes <= set(re.findall(r"`([-a-z]+)`", pages.read_text()))


def test_drift_is_said():
    rising = [1000 + 3 * i for i in range(12)]
    flat = [1000, 1002, 999, 1001, 1000, 1003, 1001, 998, 1002, 1000, 999, 1001]
    text = said(row("w", rising), row("w", flat))
    assert "from run to run the rows move together, by +0.3 % in before and" in text
    assert "Drift" not in said(row("w", flat), row("w", flat[::-1]))


def test_a_lost_order_is_said_of_that_side_only():
    rising = [1000 + 3 * i for i in range(12)]
    before, after = row("w", rising), row("w", rising)
    lost = Result(boots=before.boots, order="lost")
    text = said(lost, after)
    assert "The order of the runs is lost (before): no drift can be seen." in text
    assert "the rows move together, by +0.3 % in after." in text
    exact = Result(boots=row("w", [5] * 9, kind="exact").boots, order="lost")
    assert "order" not in said(exact, exact)


def test_two_groups_are_said():
    two = [1000, 1001, 1002, 1003, 1200, 1201, 1202, 1203.5, 1000.5, 1203]
    assert "Two groups of runs in after: w near" in said(row("w", range(1000, 1010)), row("w", two))
    assert "Two groups" not in said(*(row("w", range(1000, 1010)),) * 2)


HOURS = [f"2026-01-01T{hour:02}:00:00+00:00" for hour in range(24)]


def timed(values, times, **more):
    return of_runs(*({"w": x} for x in values), times=times, **more)


def test_sides_one_after_the_other_are_said():
    low, high = [100, 101, 102, 103], [200, 201, 202, 203]
    text = "One side was measured wholly before the other"
    assert text in said(timed(low, HOURS[:4]), timed(high, HOURS[4:8]))
    assert text in said(timed(low, HOURS[4:8]), timed(high, HOURS[:4]))
    assert text not in said(timed(low, HOURS[:8:2]), timed(high, HOURS[1:8:2]))
    assert text not in said(timed(low, None), timed(high, None))
    # The same hour in another zone is later: 03:30 at -02:00 is 05:30 at 0.
    late = [f"2026-01-01T0{hour}:30:00-02:00" for hour in range(4)]
    assert text in said(timed(low, HOURS[:2] * 2), timed(high, late))
    # No row has an interval, so that no verdict is in doubt.
    assert text not in said(timed(low[:2], HOURS[:2]), timed(high[:2], HOURS[4:6]))


def test_one_boot_a_side_is_said():
    low, high = [100, 101, 102, 103], [200, 201, 202, 203]
    text = "Each side is one boot"
    first, second, same = (
        timed(x, None, boot_id=name) for x, name in ((low, "a"), (high, "b"), (high, "a"))
    )
    assert text in said(first, second)
    assert text not in said(first, same)
    assert text not in said(timed(low, None), timed(high, None))  # not known


def test_marks_and_notes_are_said_once():
    before = of_runs(
        *([series("a", x, marks=["TCG"]), series("b", x, marks=["TCG"])] for x in (1, 2)),
        notes=["a log of a TCG run"],
    )
    text = said(before, before)
    assert text.count("TCG.") == 1
    assert "a, b (before, after): TCG." in text
    assert text.count("a log of a TCG run") == 1
    assert "before, after: a log of a TCG run" in text
    other = of_runs(*([series("b", x, marks=["TCG"])] for x in (1, 2)))
    text = said(before, other)
    assert "a, b (before): TCG. b (after): TCG." in text
    assert "before: a log of a TCG run" in text


# Controls


def control_table(moved, **more):
    rng = np.random.default_rng(6)
    figures = rng.normal(1000, 1, (6, 2)) + np.array([moved, -100])
    return of_runs(
        *([series("mine", x, **more), series("inl_from_qemu", y)] for x, y in figures.tolist())
    )


@pytest.mark.parametrize(
    ("more", "control"),
    [({"reloads": 0.0}, True), ({"reloads": 1.0}, False), ({}, False)],
)
def test_a_control_that_moves_marks_every_noisy_verdict(more, control):
    comparison = compare(*sides(control_table(0, **more), control_table(100, **more)))
    assert [r.control for r in comparison.rows] == [control, False]
    assert [r.doubts for r in comparison.rows] == [("controls-moved",) * control] * 2
    assert ("controls-moved" in codes(comparison)) == control
    assert ("Verdicts with ? are in doubt: mine moved" in words(comparison)) == control
    assert ("slower?" in str(comparison)) == control
    quiet = compare(*sides(control_table(0, **more), control_table(0, **more)))
    assert not any(r.doubts for r in quiet.rows)


def test_nothing_is_said_of_tr_where_the_controls_were_named():
    comparison = compare(*sides(control_table(0), control_table(100)), controls=["mine"])
    text = text_of(comparison).partition("Controls")[2]
    assert text.startswith(", as named: mine.")
    assert "Verdicts with ? are in doubt: mine moved, named as a control." in text
    single = compare(*sides(row("mine", [1000]), row("mine", [1100])), controls=["mine"])
    assert "Named as controls, mine differ by up to +10.0 % (mine)." in words(single)
    for found in (text, words(single)):
        assert "TR" not in found


@pytest.mark.parametrize(
    ("kvm", "kernel", "control"),
    [
        ("kvm_amd", "6.4.16-generic", False),
        ("kvm_amd", "5.15.0", False),
        ("kvm_amd", None, False),
        ("kvm_amd", "6.5.0-rc1", True),
        ("kvm_amd", "6.12", True),
        ("kvm_intel", "4.9.0", True),
        (None, None, True),
    ],
)
def test_light_rows_are_controls_but_where_amd_reloads_at_every_exit(kvm, kernel, control):
    """commit 0d3518d2f8c3, of Linux 6.5, took LTR out of svm_vcpu_run."""
    old = of_runs({"cpuid": 1000}, host=Host(kvm=kvm, kernel=kernel))
    new = of_runs({"cpuid": 1000}, host=Host(kvm=kvm, kernel="6.12.0"))
    assert one(old, new, controls="tr").control == control
    assert one(new, old, controls="tr").control == control


def test_rows_are_controls_by_themselves_only_where_both_sides_state_a_policy():
    plain, stated = of_runs({"cpuid": 1000}), of_runs([series("cpuid", 1000, policy="eager")])
    assert one(stated, stated).control
    assert not one(plain, stated).control
    assert not one(stated, plain).control
    assert one(plain, plain, controls="tr").control
    assert not one(stated, stated, controls=()).control


def test_a_reload_on_one_side_is_no_control():
    before, after = control_table(0, reloads=1.0), control_table(100, reloads=0.0)
    assert not any(r.control for r in compare(*sides(before, after)).rows)


@pytest.mark.parametrize(
    ("exits", "lightweight"),
    [
        (["cpuid"], True),
        (["cpuid", "vmcall"], True),
        (["cpuid", "inl_from_qemu"], False),  # the second returns to userspace
        (["inl_from_qemu", "cpuid"], False),
        (["cpuid", "nothing-of-the-kind"], False),  # where it is handled is not known
    ],
)
def test_lightweight_is_every_exit_of_an_iteration(exits, lightweight):
    assert is_lightweight(exits) == lightweight


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("side", [0, 1])
def test_one_run_with_a_reload_is_no_control(at, side):
    """A row is a control where no run of either side reloads TR, not where one of them does not."""
    values = [1000.0, 1001.0, 1002.0, 1003.0]
    quiet = of_runs(*([series("mine", x, reloads=0.0)] for x in values))
    mixed = of_runs(*([series("mine", x, reloads=float(n == at))] for n, x in enumerate(values)))
    assert one(quiet, quiet).control
    assert not one(*((quiet, mixed), (mixed, quiet))[side]).control


def test_light_workloads_are_controls_by_name():
    rng = np.random.default_rng(1)
    figures = rng.normal(1000, 1, (4, 8))
    rows = compare(*sides(table(figures), table(figures)), controls="tr").rows
    heavy = {r.workload for r in rows if not r.control}
    assert heavy == {"inl_from_pmtimer", "inl_from_qemu"}  # the two that leave the kernel


def test_controls_by_choice():
    before, after = control_table(0), control_table(100)
    chosen = compare(*sides(before, after), controls=["mi*"]).rows
    assert [r.doubts for r in chosen] == [("controls-moved",)] * 2
    none = compare(
        *sides(control_table(0, reloads=0.0), control_table(100, reloads=0.0)), controls=()
    )
    assert not any(r.doubts or r.control for r in none.rows)


def test_exact_verdicts_are_not_marked():
    def both(x):
        return of_runs(
            *(
                [series("c", x + i, reloads=0.0), series("e", 7, kind="exact", unit="exits")]
                for i in range(6)
            )
        )

    rows = compare(*sides(both(1000), both(1200))).rows
    assert [r.said for r in rows] == ["slower?", "unchanged"]
    assert rows[1].doubts == ()


def test_single_runs_of_controls_that_differ_are_said():
    """The 2017 table: three to four percent on rows that no reload explains."""
    result = from_published(published()["patch-2017"])
    comparison = compare(Side("Before", result, "Before"), Side("After", result, "After"))
    text = words(comparison)
    assert "by up to -3.9 % (inl_from_kernel)" in text
    # 17 -> 16 is one step of what was printed.
    assert "mov_to_cr8" not in text.partition("by up to")[0]


# Hosts


def test_host_differences():
    def side(**facts):
        return of_runs({"w": 1}, host=Host(**facts))

    def found(before, after):
        return differences(compare(*sides(before, after)))

    assert found(side(kernel="6.1"), side(kernel="6.1")) == []
    (kernel,) = found(side(kernel="6.1"), side(kernel="6.2"))
    assert kernel.expected
    for name, one_, other in (
        ("microcode", "0x1", "0x2"), ("cpu", "a", "b"), ("governor", "powersave", "performance"),
        ("smt", "on", "off"), ("tsc_hz", 1, 2), ("mitigations", {"l1tf": "a"}, {"l1tf": "b"}),
        ("kvm_parameters", {"kvm_intel.ept": "Y"}, {"kvm_intel.ept": "N"}), ("cmdline", "a", "a b"),
        ("kvm", "kvm_intel", "kvm_amd"),
    ):  # fmt: skip
        (difference,) = found(side(**{name: one_}), side(**{name: other}))
        assert not difference.expected, name
        (unknown,) = found(side(**{name: one_}), side())
        assert "not known" in str(unknown)
    image = side(cmdline="BOOT_IMAGE=/a initrd=/b root=/c quiet")
    assert found(image, side(cmdline="BOOT_IMAGE=/x initrd=/y root=/z quiet")) == []
    assert unknown_hosts(compare(*sides(side(), side())))
    assert not unknown_hosts(compare(*sides(side(smt="on"), side(smt="on"))))


def test_hosts_of_simulations_are_no_matter():
    def side(version, **facts):
        exact = of_runs([series("w", 1, kind="exact")], host=Host(**facts))
        run = Run(series=exact.boots[0].runs[0].series, engine="sim", model_version=version)
        return Result(boots=[Boot(host=Host(**facts), runs=[run])])

    assert differences(compare(*sides(side("1", smt="on"), side("1", smt="off")))) == []
    found = differences(compare(*sides(side("1"), side("2"))))
    assert [str(d) for d in found] == ["model version: 1 -> 2"]


def test_the_order_of_boots_is_no_difference_of_hosts():
    def side(*microcodes):
        runs = list(of_runs({"w": 1}).boots[0].runs)
        return Result(boots=[Boot(host=Host(microcode=m), runs=runs) for m in microcodes])

    assert differences(compare(*sides(side("0x1", "0x2"), side("0x2", "0x1")))) == []


# Sums that a reader does by hand


@pytest.mark.parametrize("quantum", [None, 0.25, 3.0])
def test_a_shift_within_a_quantum_of_the_margin_is_not_detectable(quantum):
    """Every run has the same figure: its spread is 0, and the steps of the clock are the limit."""
    found = one(row("w", [1000] * 6, quantum=quantum), row("w", [1000] * 6, quantum=quantum))
    assert found.spread == 0
    assert found.detectable == 5 + (quantum or 0)
    (record,) = row("w", [1000] * 6, quantum=quantum).records()
    assert record["detectable"] == 5 + (quantum or 0)
    wide = one(row("w", range(1000, 1060, 10), quantum=quantum), row("w", range(1000, 1060, 10)))
    assert wide.detectable > 20  # the spread is the limit


def test_what_is_detectable():
    """10 v 10, sd 0.5 %: .66 % by the t test beyond the margin, a little more by ranks."""
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, 10)
    x = 1000 + 5 * (x - x.mean()) / x.std(ddof=1)
    found = one(row("w", x), row("w", x), detect=Margin(0.01))
    assert found.spread == pytest.approx(5)
    assert 5 + 6.3 < found.detectable < 5 + 7.5
    assert found.wanted_shift == units_for_shift([0.005], [0.005])[0]
    assert 16 <= found.wanted_shift <= 20  # twice (1.96 + 0.84)^2 is 15.7, by ranks more
    assert found.wanted_within == units_within(5, found.margin)
    assert 20 <= found.wanted_within <= 26  # twice (1.96 + 1.28)^2 is 21.0, by ranks more


# The public names


def named(comparison):
    """Return the rows of a comparison without the labels of its sides."""
    return [msgspec.structs.replace(row, from_="", to="") for row in comparison.rows]


def test_compare_takes_names_paths_and_objects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(9)
    results = [table(rng.normal(1000, 1, (6, 8))), table(rng.normal(1000, 1, (6, 8)) + [50] * 8)]
    for name, result in zip(("a.json", "b.json"), results, strict=True):
        kvmbench.save(result, name)
    found = kvmbench.compare("a.json", "b.json", controls=())
    assert repr(found) == "<Comparison a -> b: 8 rows, 8 slower>"
    again = kvmbench.compare(Path("a.json"), results[1], controls=())
    assert named(again) == named(found)
    objects = kvmbench.compare(*results, controls=())
    assert [side.label for side in objects.sides] == ["before", "after"]
    assert named(objects) == named(found)
    assert objects.rows == kvmbench.compare(*sides(*results), controls=()).rows
    wide = kvmbench.compare("a.json", "b.json", margin="10%")
    assert wide.rows[0].verdict == "slightly slower"
    assert kvmbench.compare("a.json", "b.json", margin=Margin(0.1)).rows == wide.rows


def test_compare_takes_published_tables_and_configurations():
    first, second = published()["ipiv-2022"].configurations[:2]
    found = kvmbench.compare(f"ipiv-2022#{first}", f"ipiv-2022#{second}")
    assert repr(found) == f"<Comparison {first} -> {second}: 1 row, 1 faster>"
    assert repr(kvmbench.compare("patch-2017")) == (
        "<Comparison Before -> After: 8 rows, 8 no-verdict>"
    )
    for arguments, words in (
        (["ipiv-2022"], "alone has 4 configurations"),
        (["ipiv-2022#nothing", "patch-2017"], "unknown configuration 'nothing'"),
        (["ipiv-2021"], "did you mean 'ipiv-2022'"),
        ([of_runs([])], "holds no figures"),
    ):
        with pytest.raises(ValueError, match=words):
            kvmbench.compare(*arguments)
    with pytest.raises(ValueError, match="neither a share"):
        kvmbench.compare("patch-2017", margin="lots")


def test_a_comparison_prints_as_the_command_does():
    found = kvmbench.compare("patch-2017")
    done = CliRunner().invoke(main, ["compare", "patch-2017"])
    assert f"{found}\n" == done.stdout
    records = found.records()
    assert [record["workload"] for record in records] == list(EIGHT)
    assert records[0]["before"] - records[0]["after"] == 1313 - 1291
    assert "<td>inl_from_qemu</td><td>6856</td><td>6209</td><td>-647</td>" in found._repr_html_()


def test_a_result_prints_as_show_does(tmp_path):
    result = kvmbench.load("ipiv-2022")
    assert repr(result) == "<Result ipiv-2022: 4 rows, 80 runs in 1 boot>"
    kvmbench.save(result, tmp_path / "a.json")
    done = CliRunner().invoke(main, ["show", str(tmp_path / "a.json")])
    assert f"{result}\n" == done.stdout
    records = {record["workload"]: record for record in result.records()}
    for line in published()["ipiv-2022"].rows:
        record = records[f"ipi/{line.configuration}"]
        assert record["median"] == np.median(line.values)
        # The 6th and the 15th of 20: the binomial tail of 5 and fewer heads is 2.07 %.
        assert [record["low"], record["high"]] == [sorted(line.values)[n] for n in (5, 14)]
        assert record["spread"] == pytest.approx(np.std(line.values, ddof=1))
    # Its JSON is the result.
    done = CliRunner().invoke(main, ["show", str(tmp_path / "a.json"), "--format", "json"])
    (tmp_path / "b.json").write_text(done.stdout)
    again = kvmbench.load(tmp_path / "b.json")
    assert msgspec.structs.replace(again, rows=[]) == result
    assert again.rows == result.records()
