"""A against A: split in time, and never at random."""

import numpy as np
import pytest

from kvmbench.catalog import published
from kvmbench.comparison.rows import Margin
from kvmbench.comparison.self_test import self_test
from kvmbench.formats import from_published
from kvmbench.results import Result
from kvmbench.tests.results_maker import EIGHT, of_boots, of_runs, row, series, table
from kvmbench.units import Side


def parts(result, **options):
    """Return the figures of either part of each split of a result of one row."""
    found = []
    for split in self_test(Side("x", result), **options).splits:
        (figures,) = split.comparison.figures.values()
        found.append(tuple(side.tolist() for side in figures))
    return found


def test_runs_are_taken_apart_in_the_order_of_time():
    assert parts(row("w", range(8))) == [
        ([0, 1, 2, 3], [4, 5, 6, 7]),
        ([0, 2, 4, 6], [1, 3, 5, 7]),
        ([0, 3, 4, 7], [1, 2, 5, 6]),
    ]


def test_an_odd_number_leaves_the_parts_unequal_by_one():
    assert parts(row("w", range(5))) == [
        ([0, 1], [2, 3, 4]),
        ([0, 2, 4], [1, 3]),
        ([0, 3, 4], [1, 2]),
    ]


def test_several_boots_are_taken_apart_whole():
    boots = [(str(n), None, [{"w": 10 * n}, {"w": 10 * n + 2}]) for n in range(4)]
    assert parts(of_boots(*boots))[0] == ([1, 11], [21, 31])


def test_blocks_of_a_plan_are_not_pairs_here():
    boots = [(str(n), n // 2, [{"w": n}]) for n in range(8)]
    found = self_test(Side("x", of_boots(*boots)))
    assert {split.comparison.replicates.level for split in found.splits} == {"boot"}


def test_nothing_is_doubts_for_a_control_that_moved():
    """Every split of cpuid, a control elsewhere, is judged by itself."""
    found = self_test(Side("x", row("cpuid", [1000, 1001, 1002, 1003, 2000, 2001, 2002, 2003])))
    assert found.splits[0].false_alarms == ["cpuid"]
    assert "?" not in str(found)
    assert repr(found) == "<SelfTest x: false alarms in 1 of 3 splits>"


def test_one_configuration_of_a_file():
    """The published runs of a configuration, split by their own numbers."""
    name = published()["ipiv-2022"]
    second = name.configurations[1]
    (line,) = (r for r in name.rows if r.configuration == second)
    side = Side("x", from_published(name), second)
    (figures,) = self_test(side).splits[0].comparison.figures.values()
    assert figures[0].tolist() == list(line.values[:10])
    assert figures[1].tolist() == list(line.values[10:])
    with pytest.raises(ValueError, match="choose one, FILE#NAME"):
        self_test(Side("x", from_published(name)))


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (row("w", [1, 2, 3]), "3 runs, expected 4 or more"),
        (
            of_boots(*((str(n), None, [{"w": 1}] * 9) for n in range(3))),
            "3 boots, expected 4",
        ),
        (row("w", [1] * 9, kind="exact"), "exact figures have no noise"),
        (Result(boots=row("w", range(9)).boots, order="lost"), "order of its runs is lost"),
        (from_published(published()["kauer-cpuid-2024"]), "order of its runs is lost"),
    ],
)
def test_what_cannot_be_taken_apart(result, words):
    with pytest.raises(ValueError, match=words):
        self_test(Side("x", result))


def test_a_drift_raises_alarms_in_halves_and_not_in_turn():
    rng = np.random.default_rng(1)
    drift = np.linspace(0, 0.1, 16)[:, None]
    result = table(1000 * (1 + drift + rng.normal(0, 0.001, (16, 8))))
    found = self_test(Side("x", result))
    halves, abab, abba = found.splits
    assert halves.false_alarms == list(EIGHT)
    # Every other one lags by one step of 0.67 %; ABBA by none.
    assert abba.false_alarms == []
    assert abs(abba.comparison.rows[0].shift) < abs(abab.comparison.rows[0].shift)
    text = str(found)
    assert "False alarms in 1 of 3 splits" in text
    assert f"False alarm: {', '.join(EIGHT)}." in " ".join(text.split())


def test_mixed_rows():
    """The exact row is neither an alarm nor undecided."""
    result = of_runs(*([series("w", x), series("e", 5, kind="exact")] for x in range(1000, 1008)))
    for split in self_test(Side("x", result)).splits:
        assert "e" not in (*split.false_alarms, *split.undecided)


def test_the_reach_of_the_noise_is_said_row_by_row():
    """4 against 4: the interval is from the least to the largest difference."""
    quiet = [1000, 1001, 1002, 1003, 1004, 1005, 1006, 1010]  # 1010 - 1000 in the halves: 1 %
    loud = [1000, 1100, 1200, 1300, 1400, 1500, 1600, 1700]  # 700 of the first half's 1150
    both = of_runs(*({"quiet": x, "loud": y} for x, y in zip(quiet, loud, strict=True)))
    for result, words in (
        (both, "reach 1 % (quiet) to 61 % (loud). With as many runs per side as here, a shift "
         "within that of its row may be noise."),
        (row("loud", loud), "reach 61 %. With as many runs per side as here, a shift within that "
         "may be noise."),
    ):  # fmt: skip
        found = self_test(Side("x", result), correction="holm")
        assert words in " ".join(str(found).split())


def test_null_data_raise_few_alarms():
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(20):
        result = table(1000 * (1 + rng.normal(0, 0.005, (12, 8))))
        alarms += sum(
            bool(s.false_alarms) for s in self_test(Side("x", result), correction="holm").splits
        )
    assert alarms <= 3


def test_seven_runs_are_judged_at_the_confidence_that_they_can_have():
    """3 against 4: the most extreme of C(7, 3) = 35 orders, either way, has p = 2/35."""
    found = self_test(Side("x", row("w", [100, 101, 102, 200, 201, 202, 203])))
    splits = found.splits
    assert {split.comparison.confidence for split in splits} == {1 - 2 / 35}
    assert [split.false_alarms for split in splits] == [["w"], [], []]
    assert "94.29 % interval" in str(found)
    (first, *_) = self_test(Side("x", row("w", range(8)))).splits
    assert first.comparison.confidence == 0.95


# Drift, before any split


def drifting(n, share, seed):
    """Return n runs of eight rows that rise by `share` in all, at a noise of 0.5 %."""
    rng = np.random.default_rng(seed)
    rise = share * np.linspace(0, 1, n)[:, None]
    return Side("x", table(1000 * (1 + rise + 0.005 * rng.normal(size=(n, 8)))))


@pytest.mark.parametrize("n", [8, 10])
def test_a_drift_over_all_runs_is_found_before_the_split(n):
    """A drift of 2 % in eight or ten runs, whose halves are too few to show one."""
    for seed in range(10):
        found = self_test(drifting(n, 0.02, seed))
        assert found.words.startswith(f"Drift over all {n} runs: the rows move together"), seed
        assert found.words in " ".join(str(found).split())


def test_a_quiet_result_shows_no_drift():
    quiet = sum("No drift over all 12 runs" in self_test(drifting(12, 0, seed)).words
                for seed in range(40))  # fmt: skip
    assert quiet >= 32  # 5 % of false alarms, twice


def test_the_test_says_where_it_could_see_nothing():
    four = self_test(drifting(4, 0.02, 1))
    assert "So few runs could not have shown a drift: take 5 or more." in four.words
    holm = self_test(drifting(4, 0, 1), correction="holm", margin=Margin(0))
    text = " ".join(str(holm).split())
    assert "No split decides any row, so that it could have seen nothing: take more runs." in text
