"""The before/after table, against sums by hand and the published one."""

from dataclasses import fields, replace

import pytest

from kvmbench import Costs, ExitKind, Policy, Profile, Provenance, Workload
from kvmbench.catalog import policies, profiles, published
from kvmbench.causes import OF_EXITS
from kvmbench.model import MODEL_VERSION
from kvmbench.simulation.against import against
from kvmbench.simulation.simulate import missing_kinds, simulate
from kvmbench.workloads import BUILT_IN

HEAVY = ("inl_from_pmtimer", "inl_from_qemu")
AFTER = {  # the After column of Linux b7ffc44d5b2e
    "cpuid": 1291,
    "vmcall": 1181,
    "mov_from_cr8": 11,
    "mov_to_cr8": 16,
    "inl_from_pmtimer": 6457,
    "inl_from_qemu": 6209,
    "inl_from_kernel": 2339,
    "outl_to_kernel": 1391,
}
LIGHT = {name: cycles for name, cycles in AFTER.items() if name not in HEAVY}


def table(before="eager", after="deferred", profile="patch-2017", names=AFTER, **options):
    """Simulate built-in workloads by name; return the rows by name."""
    chosen = [workload for workload in BUILT_IN if workload.name in names]
    known = policies()
    options = dict(iterations=5) | options
    result = simulate(chosen, known[before], known[after], profiles()[profile], **options)
    return {row.workload: row for row in result.rows}


def cycles(rows):
    return {name: (row.before.cycles, row.after.cycles) for name, row in rows.items()}


@pytest.mark.parametrize(
    ("profile", "heavy"),
    [
        ("patch-2017", {"inl_from_pmtimer": (6937, 6457), "inl_from_qemu": (6689, 6209)}),
        ("patch-2017-replay", {"inl_from_pmtimer": (6770, 6457), "inl_from_qemu": (6856, 6209)}),
    ],
)
def test_the_patchs_table(profile, heavy):
    rows = table(profile=profile)
    assert list(rows) == list(AFTER)
    assert cycles(rows) == {name: (after, after) for name, after in LIGHT.items()} | heavy
    for name, row in rows.items():
        assert (row.before.reloads, row.after.reloads) == ((1, 0) if name in HEAVY else (0, 0))
        assert row.change == row.after.cycles - row.before.cycles
        assert row.percent == pytest.approx(100 * row.change / row.before.cycles)
        assert row.lightweight == (name not in HEAVY)
        numbers = [row.change, *row.before.segments.values(), row.after.cycles, row.after.reloads]
        assert all(type(number) is int for number in numbers)


def test_segments():
    assert list(OF_EXITS) == ["exit", "user", "host", "tr", "map"]
    row = table()["inl_from_pmtimer"]
    common = dict(exit=2339, user=3516, host=250 + 350, map=0)
    assert row.before.segments == common | dict(tr=20 + 462)
    assert row.after.segments == common | dict(tr=2)
    row = table()["cpuid"]
    assert row.before.segments == dict(exit=1291, user=0, host=0, tr=0, map=0)


# In patch-2017: a reload gdt_write + ltr, a mark 2, a test 2.
RELOAD = 20 + 462
SYNCED = 2 + 2 + 2  # exit-to-user with a bitmap: sync_map's test, validate_base, refresh's test
EACH_EXIT = {  # each VM exit pays a reload
    name: after + (0 if name.startswith("mov") else RELOAD) for name, after in LIGHT.items()
}


@pytest.mark.parametrize(
    ("after", "ioperm", "pmtimer", "tr", "map"),
    [
        ("deferred", "off", (6457 - 2 + RELOAD, 6457), (RELOAD, 2), (0, 0)),
        ("deferred", "on", (6457 - 2 + RELOAD,) * 2, (RELOAD, RELOAD), (0, 0)),
        ("deferred", "both", (6457, 6457 - 2 + RELOAD), (2, RELOAD), (0, 0)),
        ("exit-to-user", "off", (6457 - 2 + RELOAD, 6457), (RELOAD, 2), (0, 0)),
        (
            *("exit-to-user", "on"),
            (6457 - 2 + RELOAD, 6457 - 2 + RELOAD + SYNCED),
            *((RELOAD, RELOAD + 2), (0, 2 + 2)),
        ),
        (
            *("exit-to-user", "both"),
            (6457, 6457 - 2 + RELOAD + SYNCED),
            *((2, RELOAD + 2), (0, 2 + 2)),
        ),
    ],
)
def test_ioperm(after, ioperm, pmtimer, tr, map):
    rows = table(after=after, ioperm=ioperm)
    row = rows["inl_from_pmtimer"]
    assert (row.before.cycles, row.after.cycles) == pmtimer
    assert (row.before.segments["tr"], row.after.segments["tr"]) == tr
    assert (row.before.segments["map"], row.after.segments["map"]) == map
    assert (row.before.reloads, row.after.reloads) == tuple(int(c >= RELOAD) for c in tr)
    qemu = rows["inl_from_qemu"]
    less = 3516 - 3268
    assert (qemu.before.cycles + less, qemu.after.cycles + less) == pmtimer
    assert {n: c for n, c in cycles(rows).items() if n in LIGHT} == {
        name: (after, after) for name, after in LIGHT.items()
    }


@pytest.mark.parametrize("vendor", ["vmx", "svm"])
def test_every_exit_pays_at_each_exit(vendor):
    rows = table(before="every-exit", vendor=vendor)
    heavy = {"inl_from_pmtimer": (6937, 6457), "inl_from_qemu": (6689, 6209)}
    assert cycles(rows) == {name: (EACH_EXIT[name], LIGHT[name]) for name in LIGHT} | heavy
    assert [rows[name].before.reloads for name in AFTER] == [1, 1, 0, 0, 1, 1, 1, 1]


# Every cost another digit, so that a sum shows what went into it.
COSTS = dict.fromkeys((entry.name for entry in fields(Costs)), 7 * 10**8)
COSTS |= dict(host_save=10, host_restore=20, gdt_write=100, ltr=200, mark=3, test=5)
KINDS = (
    ExitKind("heavy", 10_000, 50_000, overlap=40_000, user=True),
    ExitKind("light", 1_000),
    ExitKind("none", 9, exits=False),
)
MADE_UP = Profile("made-up", Costs(**COSTS), KINDS)
NOTHING = Policy("nothing")


def cells(workload, before, after=NOTHING, profile=MADE_UP, **options):
    options = dict(iterations=5) | options
    return simulate([workload], before, after, profile, **options).rows[0]


@pytest.mark.parametrize(
    ("policy", "ioperm", "total", "tr", "map"),
    [
        ("eager", "off", 60_030 + 40_300, 40_300, 0),
        ("deferred", "off", 60_030 + 3, 3, 0),
        ("deferred", "on", 60_030 + 40_300, 40_300, 0),
        ("exit-to-user", "on", 60_030 + 40_300 + 5 + 5 + 3, 40_300 + 5, 5 + 3),
        ("every-exit", "off", 60_030 + 40_300, 40_300, 0),
    ],
)
def test_made_up_costs(policy, ioperm, total, tr, map):
    row = cells(Workload("heavy"), policies()[policy], ioperm=ioperm)
    assert row.before.cycles == total
    assert row.before.segments == dict(exit=10_000, user=50_000, host=30, tr=tr, map=map)


@pytest.mark.parametrize(
    ("exits", "total"),
    [
        # A put, and a save at the next entry, once an iteration.
        (("heavy", "light"), 60_000 + 1_000 + 30 + 40_300),
        (("light", "heavy", "none"), 1_000 + 60_000 + 9 + 30 + 40_300),
        (("heavy", "heavy"), 2 * (60_000 + 30 + 40_300)),
        (("light", "light", "none"), 2 * 1_000 + 9),  # the save is in the warm-up
    ],
)
def test_several_exits_per_iteration(exits, total):
    row = cells(Workload("mixed", exits=exits), policies()["eager"], iterations=70_000)
    assert row.before.cycles == total
    assert row.lightweight == ("heavy" not in exits)
    assert [kind.name for kind in row.exits] == list(exits)


# The put reloads where the one before marked, and the other way round; tif carries the old mark.
ALTERNATING = Policy(
    "alternating",
    vcpu_put=("clear_tif", "set_tif if stale", "reload if tif", "mark_stale if not tif"),
)


@pytest.mark.parametrize(
    ("iterations", "reloads", "marks"), [(1, 1, 0), (2, 1, 1), (3, 2, 1), (70_001, 35_001, 35_000)]
)
def test_period_that_does_not_divide(iterations, reloads, marks):
    # The warm-up marks, so that the first iteration reloads: 40,300 and 3 cycles.
    cell = cells(Workload("heavy"), ALTERNATING, iterations=iterations).before
    total = reloads * 40_300 + marks * 3
    assert cell.reloads == pytest.approx(reloads / iterations)
    assert cell.segments["tr"] == pytest.approx(total / iterations)
    assert cell.cycles == pytest.approx(60_030 + total / iterations)
    assert sum(cell.segments.values()) == pytest.approx(cell.cycles)
    whole = total % iterations == 0
    assert isinstance(cell.cycles, int) == whole
    assert isinstance(cell.reloads, int) == (reloads % iterations == 0)
    assert type(cell.segments["exit"]) is int


def test_period_that_comes_out_even():
    even = Profile("even", Costs(**COSTS | dict(mark=2)), KINDS)  # (40,300 + 2) / 2 = 20,151
    cell = cells(Workload("heavy"), ALTERNATING, profile=even, iterations=10).before
    assert cell.cycles == 60_030 + 20_151
    assert type(cell.cycles) is int
    assert cell.reloads == 0.5


@pytest.mark.parametrize("iterations", [1, 2, 3, 7, 1000, 65_535, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("before", [*policies().values(), ALTERNATING], ids=lambda p: p.name)
@pytest.mark.parametrize("ioperm", ["off", "on", "both"])
def test_stepped_equals_closed_form(before, iterations, ioperm):
    options = dict(iterations=iterations, ioperm=ioperm)
    for kind in KINDS:
        workload = Workload(kind.name)
        stepped = cells(workload, before, before, **options)
        assert stepped == cells(workload, before, before, closed_form=True, **options)


def test_closed_form_of_many():
    rows = table(closed_form=True, iterations=10**12)
    assert cycles(rows)["inl_from_qemu"] == (6689, 6209)


def test_result():
    known = policies()
    arguments = (BUILT_IN[:2], known["eager"], known["deferred"], MADE_UP)
    profile = profiles()["patch-2017"]
    result = simulate(*arguments[:3], profile, iterations=3, ioperm="on", vendor="svm")
    assert [row.workload for row in result.rows] == ["cpuid", "vmcall"]
    assert [policy.name for policy in result.policies] == ["eager", "deferred"]
    assert (result.iterations, result.ioperm, result.vendor) == (3, "on", "svm")
    assert result.profile is profile
    assert result.model_version == MODEL_VERSION
    both = simulate(*arguments[:3], profile, iterations=3, ioperm="both")
    assert [policy.name for policy in both.policies] == ["deferred", "deferred"]


DEFERRAL = ["handover_plain", "handover_bitmap", "ioperm_after_exit"]


@pytest.mark.parametrize(
    ("policy", "vendor", "reloads"),
    [  # deferred and later: as counted on stock kernels 5.10 and 7.2, kvm_intel under Bochs
        ("eager", "vmx", [1, 1, 1]),
        ("deferred", "vmx", [0, 1, 1]),
        ("exit-to-user", "vmx", [0, 1, 1]),
        ("every-exit", "svm", [1, 1, 1]),
        ("exit-to-user", "svm", [0, 1, 1]),
    ],
)
def test_the_rows_about_the_deferral(policy, vendor, reloads):
    found = simulate(DEFERRAL, policy, policy, vendor=vendor, iterations=100)
    assert [row.after.reloads for row in found.rows] == reloads
    plain = simulate(["inl_from_qemu"], policy, policy, vendor=vendor, iterations=100).rows[0]
    switch = profiles()["patch-2017"].costs.switch
    assert found.rows[0].after.cycles == plain.after.cycles + 2 * switch
    assert found.rows[0].after.segments["switch"] == 2 * switch
    assert [row.after.segments["io"] > 0 for row in found.rows] == [False, True, True]
    assert set(plain.after.segments) == set(OF_EXITS)


def test_a_vcpu_thread_that_holds_a_bitmap_hands_over():
    """Its own put reloads; the other task then finds the limit full."""
    found = simulate(DEFERRAL, after="exit-to-user", ioperm="both", iterations=100)
    assert [(r.before.reloads, r.after.reloads) for r in found.rows] == [(0, 1), (1, 1), (1, 1)]


def test_operations_in_userspace_have_no_closed_form():
    with pytest.raises(ValueError, match="'handover_plain' has operations in userspace"):
        simulate(["handover_plain"], closed_form=True)


def test_the_rows_about_the_deferral_are_asked_for():
    assert [row.workload for row in simulate(iterations=1).rows] == [w.name for w in BUILT_IN]


def test_percent_of_nothing():
    free = Profile("free", Costs(**dict.fromkeys(COSTS, 0)), (ExitKind("free", 0),))
    row = cells(Workload("free"), NOTHING, profile=free)
    assert (row.before.cycles, row.change, row.percent) == (0, 0, None)


def test_progress():
    calls = []
    names = ["cpuid", "inl_from_qemu"]
    table(names=names, iterations=200_000, progress=lambda *call: calls.append(call))
    assert list(dict.fromkeys(name for name, _ in calls)) == names
    for wanted in names:
        shares = [share for name, share in calls if name == wanted]
        assert len(shares) > 2
        assert shares == sorted(shares)
        assert all(0 <= share <= 1 for share in shares)


def test_missing_kinds():
    assert missing_kinds(Workload("light"), MADE_UP) == []
    assert missing_kinds(Workload("x", exits=("y", "light", "z")), MADE_UP) == ["y", "z"]
    assert missing_kinds(Workload("x"), MADE_UP) == ["x"]


TWICE = Workload("twice", exits=("light", "light"))


@pytest.mark.parametrize(
    ("workload", "options", "message"),
    [
        (Workload("x", exits=("y", "z")), {}, "'x' needs exit kind 'y', 'z'.*'made-up'"),
        (Workload("light"), dict(iterations=0), "iterations is 0, not 1 or more"),
        (Workload("light"), dict(iterations=-1), "iterations is -1"),
        (TWICE, dict(closed_form=True), "'twice' has 2 exits per iteration: no closed form"),
        (Workload("light"), dict(vendor="amd"), "amd"),
        (Workload("light"), dict(ioperm="maybe"), "ioperm is 'maybe'"),
    ],
)
def test_simulate_rejects(workload, options, message):
    with pytest.raises(ValueError, match=message):
        cells(workload, NOTHING, **options)


def test_simulate_refuses_before_it_works():
    calls = []
    chosen = [Workload("light"), Workload("x")]
    with pytest.raises(ValueError, match="'x' needs exit kind 'x'"):
        simulate(chosen, NOTHING, NOTHING, MADE_UP, progress=lambda *call: calls.append(call))
    assert calls == []


def result_of(before="eager", profile="patch-2017", **options):
    known = policies()
    profile = profiles()[profile] if isinstance(profile, str) else profile
    arguments = (known[before], known["deferred"], profile)
    return simulate(BUILT_IN, *arguments, **dict(iterations=5) | options)


# Published: before and after of the commit message, by hand.
PUBLISHED = {
    "cpuid": 1291 - 1313,
    "vmcall": 1181 - 1195,
    "mov_from_cr8": 0,
    "mov_to_cr8": 16 - 17,
    "inl_from_pmtimer": -313,
    "inl_from_qemu": -647,
    "inl_from_kernel": 2339 - 2435,
    "outl_to_kernel": 1391 - 1402,
}


@pytest.mark.parametrize(
    ("before", "profile", "predicted", "fitted"),
    [
        ("eager", "patch-2017", dict.fromkeys(HEAVY, -480), HEAVY),
        ("eager", "patch-2017-replay", dict(inl_from_pmtimer=-313, inl_from_qemu=-647), HEAVY),
        (
            *("every-exit", "patch-2017"),
            {n: LIGHT[n] - EACH_EXIT[n] for n in LIGHT} | dict.fromkeys(HEAVY, -480),
            {n for n in AFTER if not n.startswith("mov")},
        ),
        ("deferred", "patch-2017", {}, ()),
    ],
)
def test_against(before, profile, predicted, fitted):
    found = against(result_of(before, profile), published()["patch-2017"])
    assert [row.workload for row in found] == list(AFTER)
    assert {row.workload: row.published for row in found} == PUBLISHED
    assert {row.workload: row.predicted for row in found} == dict.fromkeys(AFTER, 0) | predicted
    for row in found:
        assert row.residual == PUBLISHED[row.workload] - predicted.get(row.workload, 0)
        assert row.fitted == (row.workload in fitted)


@pytest.mark.parametrize(
    ("figure", "basis", "fitted"),
    [
        ("costs.ltr", "fitted", HEAVY),
        ("costs.mark", "fitted", HEAVY),
        ("kinds.inl_from_qemu.overlap", "fitted", HEAVY[1:]),
        ("kinds.inl_from_qemu.cycles", "fitted", ()),  # the same before and after
        ("costs.ltr", "measured", ()),
    ],
)
def test_fitted_rests_on_the_figure(figure, basis, fitted):
    old = profiles()["patch-2017"]
    origin = {figure: Provenance(basis, "by hand")}
    profile = Profile("bare", old.costs, old.kinds, provenance=origin)
    found = against(result_of(profile=profile), published()["patch-2017"])
    assert tuple(row.workload for row in found if row.fitted) == tuple(fitted)


def test_against_the_rows_that_both_have():
    known = policies()
    arguments = (known["eager"], known["deferred"])
    chosen = [Workload("mine", exits=("cpuid",)), BUILT_IN[5]]
    result = simulate(chosen, *arguments, profiles()["patch-2017"], iterations=2)
    found = against(result, published()["patch-2017"])
    assert [(row.workload, row.residual) for row in found] == [("inl_from_qemu", -647 + 480)]


@pytest.mark.parametrize(
    ("name", "message"), [(n, "another change") for n in published() if n != "patch-2017"]
)
def test_against_refuses_another_change(name, message):
    with pytest.raises(ValueError, match=f"'{name}' is about {message}"):
        against(result_of(), published()[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(change="pio-tests", title="Other"), "'patch-2017' is about another change: Other"),
        (dict(unit="ns"), "'patch-2017' is not a before and an after in cycles"),
        (dict(configurations=("Before",)), "'patch-2017' is not a before and an after in cycles"),
        (dict(configurations=("Before", "Now")), "'patch-2017' has none of these workloads"),
        (dict(rows=()), "'patch-2017' has none of these workloads"),
    ],
)
def test_against_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        against(result_of(), replace(published()["patch-2017"], **changes))


def test_against_refuses_bitmaps():
    with pytest.raises(ValueError, match="bitmap"):
        against(result_of(ioperm="both"), published()["patch-2017"])
