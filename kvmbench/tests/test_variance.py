"""Variance components by hand and by simulation, and the plans that follow from them."""

from math import sqrt

import numpy as np
import pytest

from kvmbench.adjustment import max_t_paired
from kvmbench.comparison.variance import Components, components, nested, run_seconds, size
from kvmbench.comparison.verdicts import compare
from kvmbench.errors import ResultError
from kvmbench.results import Boot, Result
from kvmbench.stats import signed_rank_interval
from kvmbench.tests.results_maker import of_boots, of_runs, sides
from kvmbench.units import Key, Side


def test_components_by_hand():
    """Boots (1, 3), (5, 7), (9, 11): within 2; means 2, 6, 10 of 2 runs: 32; (32 - 2) / 2 = 15."""
    assert nested([[[1, 3], [5, 7], [9, 11]]]) == pytest.approx((sqrt(15), sqrt(2)))


def test_unequal_numbers_of_runs():
    """Boots (0, 2), (4, 6, 8): within 10 / 3; between 1.6 * 12.5 = 30 of 1; n0 = 5 - 13/5 = 2.4."""
    boot, run = nested([[[0, 2], [4, 6, 8]]])
    assert run == pytest.approx(sqrt(10 / 3))
    assert boot == pytest.approx(sqrt((30 - 10 / 3) / 2.4))


def test_the_shift_between_sides_is_no_variance():
    one = [[1.0, 3.0], [5.0, 7.0]]
    moved = [[value + 100 for value in runs] for runs in one]
    assert nested([one, moved]) == pytest.approx(nested([one]))


@pytest.mark.parametrize(
    ("boots", "wanted"),
    [
        ([[1.0, 3.0]], (None, sqrt(2))),  # one boot
        ([[1.0], [3.0]], (sqrt(2), None)),  # one run per boot: the two together
        ([[1.0]], (None, None)),
        ([[1.0, 3.0], [1.0, 3.0]], (0.0, sqrt(2))),  # a negative estimate is 0
        ([], (None, None)),
    ],
)
def test_components_that_cannot_be_seen(boots, wanted):
    assert nested([boots]) == pytest.approx(wanted)


def simulated(boots=400, runs=4, values=30, *, boot=0.4, run=0.3, within=0.5, seed=1):
    """Return a result in percent of 1000, with known deviations."""
    rng = np.random.default_rng(seed)
    figures = (
        rng.normal(0, boot, (boots, 1, 1))
        + rng.normal(0, run, (boots, runs, 1))
        + rng.normal(0, within, (boots, runs, values))
    )
    return of_boots(
        *(
            (str(n), None, [{"w": values} for values in 1000 * (1 + own / 100)])
            for n, own in enumerate(figures)
        )
    )


def test_components_are_those_that_were_simulated():
    """A run's median of 30 normal values has the error 1.253 * 0.5 / sqrt(30) = 0.114 in it."""
    found = components([Side("w", simulated())], Key("w", ""))
    assert found.boot / 10 == pytest.approx(0.4, rel=0.1)
    assert found.run / 10 == pytest.approx(sqrt(0.3**2 + 0.114**2), rel=0.05)
    assert found.within / 10 == pytest.approx(0.5, rel=0.02)


def test_the_parts_of_one_boot_are_one():
    boot = ("a", 1, [{"w": 1.0}]), ("a", 2, [{"w": 3.0}])
    found = components([Side("w", of_boots(*boot))], Key("w", ""))
    assert found == Components(boot=None, run=sqrt(2), within=None)


def test_explain_has_the_components():
    before, after = simulated(6, seed=1), simulated(6, seed=2)
    found = compare(*sides(before, after))
    from kvmbench.comparison.document import document

    explained = document([found], explain=True)
    (entry,) = explained.data["variance"]
    both = components(found.sides, Key("w", ""))
    assert entry["between_boots"] == pytest.approx(100 * both.boot / found.rows[0].before)
    assert entry["within_runs"] == pytest.approx(0.5, rel=0.05)
    assert "variance" not in document([found]).data
    from kvmbench.report import write

    text = " ".join(write(explained, "text").split())
    assert "Variance components" in text
    assert "between boots" in text
    assert "One run per boot" not in text
    single = [simulated(6, runs=1, seed=seed) for seed in (1, 2)]
    single = document([compare(*sides(*single))], explain=True)
    assert single.data["variance"][0]["between_runs"] is None
    assert "One run per boot: the part of the runs is in that of boots." in " ".join(
        write(single, "text").split()
    )
    lone = document(
        [compare(*sides(*(simulated(1, runs=4, seed=n) for n in (1, 2))))], explain=True
    )
    assert lone.data["variance"][0]["between_boots"] is None
    assert "One boot per side shows nothing of the boots." in " ".join(write(lone, "text").split())


# The size of a plan


def test_runs_per_boot_after_kalibera_and_jones():
    """sqrt(180 / 5) * 0.6 / 0.4 = 9 runs; a pair takes 2 * (180 + 45) = 450 s: 32 in four hours."""
    side = Side("pilot", simulated(60, runs=6, values=1, boot=0.4, run=0.6, seed=4))
    spreads = components([side], Key("w", ""))
    wanted = round(6 * spreads.run / spreads.boot)
    found = size(side, budget=4 * 3600, boot_seconds=180, run_seconds=5, boot_sd=None)
    assert wanted in range(7, 12)
    assert found.runs == wanted
    pair = 2 * (180 + 5 * found.runs)
    assert found.pairs == 4 * 3600 // pair
    assert found.seconds == found.pairs * pair <= 4 * 3600


def test_the_size_is_the_best_of_all():
    """No other number of runs within the budget has a smaller deviation of the mean difference."""
    side = Side("pilot", simulated(60, runs=6, values=1, boot=0.3, run=0.5, seed=4))
    spreads = components([side], Key("w", ""))
    found = size(side, budget=40 * 3600, boot_seconds=120, run_seconds=6, boot_sd=None)

    def error(runs):
        pairs = 40 * 3600 / (2 * (120 + 6 * runs))
        return sqrt(2 * (spreads.boot**2 + spreads.run**2 / runs) / pairs)

    assert error(found.runs) <= min(error(runs) for runs in range(1, 60)) * 1.001


def test_the_expected_effect_is_called_in_four_of_five():
    """Simulated plans of that size, in percent, one of eight rows moved by the effect.

    The verdict needs the max-T p of the margin and the interval beyond it: 75 to 85 % have both.
    """
    rows = [f"w{n}" for n in range(8)]
    rng = np.random.default_rng(8)
    boots = rng.normal(0, 0.3, (300, 1, 8)) + rng.normal(0, 0.5, (300, 4, 8))
    pilot = of_boots(
        *(
            (str(n), None, [dict(zip(rows, 1000 + 10 * line, strict=True)) for line in own])
            for n, own in enumerate(boots)
        )
    )
    found = size(Side("p", pilot), budget=7200, boot_seconds=180, run_seconds=6, boot_sd=None)
    effect = 100 * found.detectable["w0"]
    seen = []
    for _ in range(300):
        own = rng.normal(0, 0.3, (found.pairs, 2, 8))
        own += rng.normal(0, 0.5 / sqrt(found.runs), own.shape)
        diffs = own[:, 1] - own[:, 0]
        diffs[:, 0] += effect
        p = max_t_paired(diffs, [0.5] * 8, [100.0] * 8)[0]
        seen.append(p <= 0.05 and signed_rank_interval(diffs[:, 0])[0] > 0.5)
    assert 0.75 <= np.mean(seen) <= 0.87  # the pilot knows the deviations to about 4 %


def test_a_budget_of_few_runs_and_boots_alike():
    side = Side("pilot", simulated(6, runs=3, values=1))
    found = size(side, budget=12 * 185, boot_seconds=180, run_seconds=5, boot_sd=None)
    assert (found.pairs, found.runs) == (6, 1)
    with pytest.raises(
        ResultError, match=r"fewer than 6 pairs of boots.*: 37 minutes are the least"
    ):
        size(side, budget=12 * 185 - 1, boot_seconds=180, run_seconds=5, boot_sd=None)


def test_pilots_that_show_too_little():
    options = dict(budget=4 * 3600, boot_seconds=180, run_seconds=5)
    one = Side("one", of_runs(*({"w": value} for value in (1000.0, 1003.0, 998.0))))
    with pytest.raises(ResultError, match=r"one: has one boot, .* or state --boot-sd"):
        size(one, boot_sd=None, **options)
    assert size(one, boot_sd=0.004, **options).runs >= 1
    single = Side("single", of_boots(("a", None, [{"w": 1.0}]), ("b", None, [{"w": 2.0}])))
    with pytest.raises(ResultError, match="single: has one run per boot"):
        size(single, boot_sd=None, **options)
    with pytest.raises(ResultError, match="holds no measured row"):
        size(Side("none", of_runs({"w": 0.0}, {"w": 0.0})), boot_sd=None, **options)


def test_seconds_of_a_run():
    times = ["2026-01-01T00:00:00+00:00", "2026-01-01T00:00:06+00:00", "2026-01-01T00:00:12+00:00"]
    runs = of_runs({"w": 1.0}, {"w": 1.0}, {"w": 1.0}, times=times).boots[0].runs
    assert run_seconds(Result(boots=[Boot(runs=runs), Boot(runs=runs[:1])])) == 6
    assert run_seconds(of_runs({"w": 1.0}, {"w": 1.0})) is None
    mixed = of_runs({"w": 1.0}, {"w": 1.0}, times=[times[0], "2026-01-01T00:00:06"])
    assert run_seconds(mixed) is None
