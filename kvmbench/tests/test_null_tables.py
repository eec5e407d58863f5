"""False alarms of whole tables, in every design that carries no doubt and in those that do.

Few tables of each cell of kvmbench.tests.null_tables, which `make statistics` runs in full.
"""

import numpy as np
import pytest
from scipy.stats import binom

from kvmbench.comparison.verdicts import compare
from kvmbench.tests import null_tables
from kvmbench.tests.null_tables import DESIGNS, Design, cell, results
from kvmbench.tests.results_maker import of_runs, sides

QUICK = {10: 12, 20: 8, 24: 4}  # tables of a cell with so many units per side; else 20


def quick(design):
    return 6 if design.rows > 8 else QUICK.get(max(design.n, design.m), 20)


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_false_tables(design):
    """Without a doubt at most 6 %, and no build fails, whatever the design."""
    tables = quick(design)
    found = cell(design, tables, seed=2)
    assert found.fails * tables <= binom.isf(0.001, tables, 0.05)
    if design.order != "unknown":  # a side wholly first without a time of it: a note
        assert found.sure * tables <= binom.isf(0.001, tables, 0.06)
    if (design.drift and design.order == "first") or design.boots == "each":
        assert found.sure == 0
        assert found.doubts


def test_the_rules_of_other_tools_are_theirs():
    """By hand: 4 v 4 values apart have a Mann-Whitney p of 2/70; pooled, a t of iterations."""
    x = np.array([[1.0, 1.1], [1.2, 1.3], [1.4, 1.5], [1.6, 1.7]])
    assert null_tables.benchstat(x, x + 1)
    assert not null_tables.benchstat(x[:3], x[:3] + 1)  # 2/20
    assert null_tables.hyperfine(x, x + 1)
    assert not null_tables.hyperfine(x, x + 0.1)
    assert null_tables.pyperf(x, x + 0.3)
    assert not null_tables.hyperfine(x, x + 0.3)
    assert null_tables.criterion(x, x + 1)
    assert not null_tables.criterion(x, x + 0.01)


SEED_EFFECTS = {"vmcall": -0.012, "outl_to_kernel": -0.008}


def test_the_effects_of_the_patch_are_called_in_the_right_words():
    """vmcall -1.2 % and outl_to_kernel -0.8 %, at a noise of 0.3 %, 8 v 8 runs, in turn."""
    rng = np.random.default_rng(12)
    names = ("cpuid", "vmcall", "inl_from_kernel", "outl_to_kernel", "ipi", "self_ipi", "a", "b")
    words = {name: [] for name in names}
    for _ in range(24):
        parts = []
        for side in (0, 1):
            figures = 1000 * (1 + 0.003 * rng.normal(size=(8, 8)))
            for name, shift in SEED_EFFECTS.items():
                figures[:, names.index(name)] *= 1 + side * shift
            times = [f"2026-01-01T00:{2 * run + side:02}:00" for run in range(8)]
            lines = (dict(zip(names, line, strict=True)) for line in figures.tolist())
            parts.append(of_runs(*lines, times=times, boot_id="one"))
        for row in compare(*sides(*parts)).rows:
            words[row.workload].append(row.said)
    assert words["vmcall"].count("faster") >= 19
    assert words["vmcall"].count("slightly faster") + words["vmcall"].count("faster") == 24
    assert words["outl_to_kernel"].count("slightly faster") >= 15
    still = [word for name in names if name not in SEED_EFFECTS for word in words[name]]
    assert set(still) <= {"within margin", "inconclusive", "slightly faster", "slightly slower"}


def test_an_interval_with_the_boots_covers_and_lifts_the_doubt():
    """One boot per side, boots that differ by 0.6 %: stated, 95 % of the intervals hold 0."""
    design = Design("boots", 8, 8, sd=0.003, boot_sd=0.006, boots="each")
    rng = np.random.default_rng(4)
    held, wide, false = [], [], 0
    for _ in range(40):
        parts = results(design, null_tables.drawn(design, rng))
        plain, stated = compare(*parts), compare(*parts, boot_sd="0.6%")
        assert all("one-boot" in row.doubts for row in plain.rows)
        assert not any("one-boot" in row.doubts for row in stated.rows)
        assert stated.correction == "welch-holm"
        held += [row.interval[0] <= 0 <= row.interval[1] for row in stated.rows]
        wide += [row.interval[0] <= 0 <= row.interval[1] for row in plain.rows]
        false += any(row.verdict in null_tables.MOVED for row in stated.rows)
    assert 0.92 <= np.mean(held) <= 0.98
    assert np.mean(wide) < 0.6
    assert false <= binom.isf(0.001, 40, 0.05)


def test_the_deviation_of_boots_is_taken_from_a_result():
    design = Design("boots", 30, 30, boots="every")
    pilot, _ = results(design, null_tables.drawn(design, np.random.default_rng(6)))
    one = Design("one", 8, 8, boot_sd=0.005, boots="each")
    parts = results(one, null_tables.drawn(one, np.random.default_rng(7)))
    comparison = compare(*parts, boot_sd=pilot)
    assert comparison.boots.source == "before"
    assert comparison.boots.freedom == 29
    assert comparison.boots.rows["w0"] == pytest.approx(0.005, rel=0.35)
    wide, plain = comparison.rows[0].interval, compare(*parts).rows[0].interval
    assert wide[1] - wide[0] > 2 * (plain[1] - plain[0])
    with pytest.raises(ValueError, match="1 boot, expected 3 or more"):
        compare(*parts, boot_sd=parts[0])


def test_three_boots_decide_by_students_t():
    """+10 % at a noise of 0.3 %: slower, with the supposition in words; ranks cannot."""
    design = Design("three", 3, 3, sd=0.003, boots="every", shift=0.1)
    parts = results(design, null_tables.drawn(design, np.random.default_rng(8)))
    comparison = compare(*parts)
    first, *others = comparison.rows
    assert (first.verdict, first.by, first.doubts) == ("slower", "means", ())
    assert {row.verdict for row in others} <= {"inconclusive", "within margin"}
    assert "supposes normal boots" in str(comparison)
