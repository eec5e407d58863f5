"""The declarations: what they take, what they refuse, and what they say then."""

import re
from dataclasses import FrozenInstanceError, astuple, fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmbench import catalog, profiles
from kvmbench.arrays import COUNTERS
from kvmbench.errors import unknown_name
from kvmbench.model import (
    BASES,
    CONDITIONS,
    HOOK_STEPS_MAX,
    HOOKS,
    STEPS,
    Costs,
    ExitKind,
    Op,
    Policy,
    Profile,
    Provenance,
    Step,
)
from kvmbench.tests import histories, reference

COST_NAMES = [entry.name for entry in fields(Costs)]
ZERO = dict.fromkeys(COST_NAMES, 0)
COSTS = Costs(**ZERO)
CPUID = ExitKind("cpuid", 1)
MEASURED = Provenance("measured", "a run on 2020-02-20")


def test_tables_are_the_references():
    assert list(STEPS.items()) == list(reference.STEPS.items())
    assert dict(CONDITIONS) == reference.CONDITIONS
    assert HOOKS == reference.HOOKS
    assert COUNTERS == reference.COUNTERS
    assert tuple(COST_NAMES) == reference.COSTS
    assert [(op.name, int(op)) for op in Op] == [
        (name, getattr(reference, name))
        for name in (
            *("EXIT", "SWITCH", "IOPERM", "IO", "TASK_EXIT", "ADVANCE", "FORK", "IOPL", "EXEC"),
        )
    ]


# Policies

WORDS = st.sampled_from([*STEPS, *CONDITIONS, "if", "if", "and", "and", "not", "not", "relod", ""])
TERMS = st.lists(
    st.tuples(
        st.sampled_from(["", "not ", "not not ", " "]), st.sampled_from([*CONDITIONS, "on "])
    ),
    max_size=3,
).map(lambda terms: " and ".join(before + name for before, name in terms))
TEXTS = st.one_of(
    st.sampled_from(HOOKS).flatmap(histories.steps),
    st.lists(WORDS, max_size=6).map(" ".join),
    st.tuples(st.sampled_from([*STEPS]), TERMS).map(" if ".join),
    st.tuples(st.sampled_from(HOOKS).flatmap(histories.steps), st.sampled_from([" ", "\t", "\n "]))
    .map(lambda parts: parts[0].replace(" ", parts[1]))
    .map(lambda text: f" {text} "),
    st.text(max_size=6),
)
NONSENSE = st.sampled_from([None, 5, b"ltr", b"", ["ltr", 5], [["ltr"]], {"ltr"}, {}, {"ltr": 1}])
ENTRIES = st.one_of(TEXTS, TEXTS, st.lists(TEXTS, max_size=2), st.tuples(TEXTS), NONSENSE)


@st.composite
def fitting(draw):
    """Hooks of steps that mostly fit them, so that many of these policies are good."""
    hook = draw(st.sampled_from(HOOKS))
    steps = draw(st.lists(histories.steps(hook), max_size=3))
    odd = draw(st.one_of(st.just([]), st.just([]), st.lists(ENTRIES, max_size=1)))
    return {hook: steps + odd}


SALADS = st.one_of(
    fitting(),
    st.dictionaries(
        st.sampled_from(HOOKS), st.one_of(st.lists(ENTRIES, max_size=2), NONSENSE), max_size=2
    ),
)


@settings(max_examples=200, deadline=None)
@given(hooks=SALADS, base=st.sampled_from(["valid", "valid", "invalid", "vlaid", None, ["valid"]]))
def test_policies_are_taken_as_by_the_reference(hooks, base):
    try:
        policy = Policy("salad", **hooks, io_base_at_start=base)
    except (TypeError, ValueError):
        assert reference.policy_error(hooks, base) is not None
        return
    assert reference.policy_error(hooks, base) is None
    parsed = reference._parse_policy(hooks, base)
    for hook in HOOKS:
        assert [(s.action, s.when) for s in policy.steps(hook)] == [
            (s.name, tuple(map(tuple, s.conditions))) for s in parsed[hook]
        ]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("step", STEPS)
def test_steps_in_their_hooks(hook, step):
    if hook in STEPS[step]:
        assert Policy("one", **{hook: [step]}).steps(hook) == ((step, ()),)
    else:
        with pytest.raises(ValueError, match=rf"{hook}: '{step}': step '{step}' makes sense in"):
            Policy("one", **{hook: [step]})


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("wanted", [True, False])
def test_conditions_in_their_hooks(hook, condition, wanted):
    text = f"stop if {'' if wanted else 'not '}{condition}"
    if hook in CONDITIONS[condition]:
        assert Policy("one", **{hook: [text]}).steps(hook) == (("stop", ((condition, wanted),)),)
    else:
        with pytest.raises(ValueError, match=f"condition '{condition}' makes sense in"):
            Policy("one", **{hook: [text]})


@pytest.mark.parametrize(
    ("hook", "entries", "message"),
    [
        ("vcpu_put", ["relod"], "vcpu_put: 'relod': unknown step 'relod'; did you mean 'reload'?"),
        (
            "vcpu_put",
            ["reload", ["ltr", "mark_stael if tif"]],
            "vcpu_put: 'mark_stael if tif': unknown step 'mark_stael'; did you mean 'mark_stale'?",
        ),
        (
            "vcpu_put",
            ["reload if tiff"],
            "vcpu_put: 'reload if tiff': unknown condition 'tiff'; did you mean 'tif'?",
        ),
        (
            "switch",
            [["copy_map if next.tif and not prv.tif"]],
            "switch: 'copy_map if next.tif and not prv.tif': unknown condition 'prv.tif'; "
            "did you mean 'prev.tif'?",
        ),
        (
            "switch",
            ["copy_map when next.tif"],
            "switch: 'copy_map when next.tif': expected 'if' after the step, found 'when'",
        ),
        (
            "vm_exit",
            ["copy_map"],
            "vm_exit: 'copy_map': step 'copy_map' makes sense in switch only",
        ),
        (
            "vm_exit",
            ["ltr if sched"],
            "vm_exit: 'ltr if sched': condition 'sched' makes sense in vcpu_put only",
        ),
        ("switch", ["refresh if"], "switch: 'refresh if': unknown condition ''; known: tif,"),
        ("switch", [""], "switch: '': unknown step ''; known: mark_available,"),
        ("switch", ["refresh if tif or on"], "unknown condition 'tif or on'"),
        ("switch", ["refresh if tif and"], "unknown condition 'tif and'; did you mean"),
        ("switch", ["refresh if and tif"], "unknown condition 'and tif'"),
        ("switch", ["refresh if not not tif"], "unknown condition 'not tif'"),
        ("switch", ["refresh if Tif"], "unknown condition 'Tif'; did you mean 'tif'?"),
        ("ioperm", "reload", "ioperm is 'reload', not a list of steps"),
        ("ioperm", None, "ioperm is None, not a list of steps"),
        ("ioperm", [5], "ioperm: 5 is neither a step nor a list of steps"),
        ("ioperm", [["ltr", ["ltr"]]], "ioperm: ['ltr', ['ltr']] is neither a step nor a list"),
        ("ioperm", ["stop"] * (HOOK_STEPS_MAX + 1), "ioperm has more than 64 steps"),
        ("ioperm", [["stop"] * 33] * 2, "ioperm has more than 64 steps"),
    ],
)
def test_policy_says_what_is_wrong(hook, entries, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        Policy("wrong", **{hook: entries})


@pytest.mark.parametrize("value", ["vlid", "", None, 0, 0x68, ["valid"]])
def test_policy_rejects_io_base(value):
    message = f"io_base_at_start is {value!r}, not 'valid' or 'invalid'"
    with pytest.raises(ValueError, match=re.escape(message)):
        Policy("wrong", io_base_at_start=value)


def test_policy_rejects_an_unknown_hook():
    with pytest.raises(TypeError, match="vcpu_load"):
        Policy("wrong", vcpu_load=["reload"])


def test_policy_keeps_regions():
    policy = Policy(
        "mixed",
        switch=[["copy_map  if next.tif", "refresh if next.tif and not stale"], "wipe_map"],
        ioperm=[[]],
    )
    copy = Step("copy_map", (("next.tif", True),))
    refresh = Step("refresh", (("next.tif", True), ("stale", False)))
    wipe = Step("wipe_map", ())
    assert policy.regions("switch") == ((copy, refresh), (wipe,))
    assert policy.steps("switch") == (copy, refresh, wipe)
    assert list(map(str, policy.steps("switch"))) == [
        *("copy_map if next.tif", "refresh if next.tif and not stale", "wipe_map")
    ]
    assert (policy.regions("ioperm"), policy.steps("ioperm")) == (((),), ())
    assert policy.steps("vm_exit") == ()
    assert len(Policy("long", vm_exit=["stop"] * 64).steps("vm_exit")) == 64


def test_policy_is_a_value():
    steps = ["reload"]
    policy = Policy("mine", vcpu_put=[steps], switch=("refresh",))
    steps.append("stop")
    same = Policy("mine", vcpu_put=(("reload",),), switch=["refresh"])
    assert policy == same
    assert hash(policy) == hash(same)
    assert policy != Policy("mine", vcpu_put=["reload"], switch=["refresh"])  # not a region


# Costs, kinds, profiles

BAD_CYCLES = [
    (-1, ValueError, "is -1, not in 0 to 4294967295"),
    (2**32, ValueError, "is 4294967296, not in 0 to 4294967295"),
    (10**30, ValueError, "not in 0 to 4294967295"),
    (1.0, TypeError, "is 1.0, not an integer"),
    (np.float64(1), TypeError, "not an integer"),
    ("1", TypeError, "is '1', not an integer"),
    (None, TypeError, "is None, not an integer"),
    (True, TypeError, "is True, not an integer"),
]


@pytest.mark.parametrize(("value", "error", "message"), BAD_CYCLES)
@pytest.mark.parametrize("name", COST_NAMES)
def test_costs_reject(name, value, error, message):
    with pytest.raises(error, match=rf"^costs\.{name} .*{message}"):
        Costs(**ZERO | {name: value})


@pytest.mark.parametrize(("value", "error", "message"), BAD_CYCLES)
@pytest.mark.parametrize("name", ["cycles", "user_cycles", "overlap"])
def test_kind_rejects_cycles(name, value, error, message):
    with pytest.raises(error, match=rf"^kinds\.cpuid\.{name} .*{message}"):
        ExitKind("cpuid", **dict(cycles=1) | {name: value})


@pytest.mark.parametrize("value", [0, 2**32 - 1, np.uint32(2**32 - 1), np.int8(7)])
def test_cycles_become_ints(value):
    costs = Costs(**dict.fromkeys(COST_NAMES, value))
    kind = ExitKind("cpuid", value, value, value)
    for found in (*astuple(costs), kind.cycles, kind.user_cycles, kind.overlap):
        assert (type(found), found) == (int, int(value))


def test_costs_are_all_needed():
    for name in COST_NAMES:
        with pytest.raises(TypeError, match=name):
            Costs(**{other: 0 for other in COST_NAMES if other != name})


BAD_NAMES = ["", " cpuid", "cpuid\n", "a\nb", "\x00", 5, None, b"cpuid"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names(name):
    for what, make in (
        ("exit kind", lambda: ExitKind(name, 1)),
        ("profile", lambda: Profile(name, COSTS, ())),
        ("policy", lambda: Policy(name)),
    ):
        message = re.escape(f"{what} name is {name!r}, not a printable, non-empty string")
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (dict(exits=1), TypeError, "kinds.cpuid.exits is 1, not true or false"),
        (dict(user="yes"), TypeError, "kinds.cpuid.user is 'yes', not true or false"),
        (dict(user=None), TypeError, "kinds.cpuid.user is None, not true or false"),
        (dict(user=True, exits=False), ValueError, "kinds.cpuid: user needs exits"),
    ],
)
def test_kind_rejects_flags(flags, error, message):
    with pytest.raises(error, match=re.escape(message)):
        ExitKind("cpuid", 1, **flags)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (dict(costs=ZERO), TypeError, "costs is {"),
        (dict(costs=None), TypeError, "costs is None, not Costs"),
        (dict(kinds=["cpuid"]), TypeError, "kinds holds 'cpuid', not an ExitKind"),
        (dict(kinds=[CPUID, CPUID]), ValueError, "kinds: two are named 'cpuid'"),
        (dict(kinds=[ExitKind(str(i), 1) for i in range(2**16 + 1)]), ValueError, "65537 entries"),
        (dict(tsc_hz=0), ValueError, "tsc_hz is 0, not in 1 to 1000000000000"),
        (dict(tsc_hz=2.5e9), TypeError, "tsc_hz is 2500000000.0, not an integer"),
        (
            dict(provenance={"costs.lrt": MEASURED}),
            ValueError,
            "unknown figure in provenance: 'costs.lrt'; did you mean 'costs.ltr'?",
        ),
        (dict(provenance={"kinds.vmcall.cycles": MEASURED}), ValueError, "unknown figure"),
        (
            dict(provenance={"costs.ltr": "measured"}),
            TypeError,
            "provenance of costs.ltr is 'measured', not a Provenance",
        ),
    ],
)
def test_profile_rejects(changed, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Profile(**dict(name="mine", costs=COSTS, kinds=[CPUID]) | changed)


def test_profile():
    kinds = [CPUID, ExitKind("inl", 2, 3, 4, user=True)]
    origins = {"costs.ltr": MEASURED}
    profile = Profile("mine", Costs(**ZERO | dict(ltr=9)), kinds, np.int64(10**9), origins)
    kinds.clear()
    origins.clear()
    assert [kind.name for kind in profile.kinds] == ["cpuid", "inl"]
    assert (type(profile.tsc_hz), profile.tsc_hz) == (int, 10**9)
    assert profile.figures() == {
        **{f"costs.{name}": 9 if name == "ltr" else 0 for name in COST_NAMES},
        "kinds.cpuid.cycles": 1,
        "kinds.cpuid.user_cycles": 0,
        "kinds.cpuid.overlap": 0,
        "kinds.inl.cycles": 2,
        "kinds.inl.user_cycles": 3,
        "kinds.inl.overlap": 4,
    }
    assert profile.origin("costs.ltr") == MEASURED
    assert profile.origin("costs.mark").basis == "assumed"
    assert (profile.kind_index("cpuid"), profile.kind_index("inl")) == (0, 1)
    with pytest.raises(ValueError, match="unknown exit kind 'cpud'; did you mean 'cpuid'"):
        profile.kind_index("cpud")
    assert hash(profile) == hash(Profile("mine", profile.costs, profile.kinds, 10**9))
    with pytest.raises(TypeError):
        profile.provenance["costs.mark"] = MEASURED


@pytest.mark.parametrize(
    ("basis", "source", "message"),
    [
        ("mesured", "me", "unknown basis 'mesured'; did you mean 'measured'?"),
        (None, "me", "unknown basis None"),
        ("measured", "", "source is empty"),
        ("measured", " \n", "source is empty"),
        ("measured", None, "source is empty"),
    ],
)
def test_provenance_rejects(basis, source, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Provenance(basis, source)


def test_bases():
    assert {Provenance(basis, "me").basis for basis in BASES} == {
        *("published", "measured", "fitted", "assumed")
    }


@pytest.mark.parametrize(
    "record", [COSTS, CPUID, MEASURED, Profile("mine", COSTS, ()), Policy("mine")]
)
def test_frozen(record):
    for entry in fields(record):
        with pytest.raises(FrozenInstanceError):
            setattr(record, entry.name, getattr(record, entry.name))


@pytest.mark.parametrize("table", [STEPS, CONDITIONS, catalog.policies(), catalog.profiles()])
def test_tables_are_read_only(table):
    with pytest.raises(TypeError):
        table["mine"] = None


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("aple", ["apple", "pear"], "unknown fruit 'aple'; did you mean 'apple'?"),
        ("zzz", ["apple", "pear"], "unknown fruit 'zzz'; known: apple, pear"),
        ("zzz", [], "unknown fruit 'zzz'; known: none"),
        (5, ["apple"], "unknown fruit 5; known: apple"),
    ],
)
def test_unknown_name(name, known, message):
    assert unknown_name("fruit", name, iter(known)) == message


def test_with_costs_gives_each_changed_figure_its_own_source():
    base = profiles()["patch-2017"]
    mine = base.with_costs(
        {"kinds.cpuid.cycles": 1250},
        ltr=900,
        source="rdtsc on my desk",
        basis="measured",
        name="me",
    )
    assert mine.name == "me"
    changed = {"costs.ltr": 900, "kinds.cpuid.cycles": 1250}
    assert mine.figures() == base.figures() | changed
    for figure in base.figures():
        own = Provenance("measured", "rdtsc on my desk")
        assert mine.origin(figure) == (own if figure in changed else base.origin(figure))
    assert base.origin("costs.ltr").basis != "measured"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(ltrr=1, source="s"), "unknown figure 'costs.ltrr'; did you mean 'costs.ltr'"),
        (dict(ltr=-1, source="s"), "costs.ltr is -1, not in 0"),
        (dict(ltr=1, source=" "), "source is empty"),
        (dict(ltr=1, source="s", basis="guessed"), "unknown basis 'guessed'"),
        (dict(figures={"kinds.cpu.cycles": 1}, source="s"), "unknown figure 'kinds.cpu.cycles'"),
    ],
)
def test_with_costs_refuses(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        profiles()["patch-2017"].with_costs(**options)
