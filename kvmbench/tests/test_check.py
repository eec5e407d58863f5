"""The checker against a brute-force search in plain Python, known mutants, and its own replays.

test_promela.py holds it against SPIN.
"""

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import kvmbench
from kvmbench import Policy, load_policies, policies
from kvmbench.checker.explorer import Explorer, syncs_first
from kvmbench.checker.mutations import mutations
from kvmbench.checker.replay import Refused, Stepper, machine_operations
from kvmbench.checker.verdict import EXTRA_EVENTS, check, default_memory
from kvmbench.cli.main import main
from kvmbench.model import CONDITIONS, HOOKS, STEPS, Op
from kvmbench.tests import brute, mutants

BUILT_IN = list(policies().values())


def by_name(policy):
    return policy.name


def small(policy, sizes, **options):
    return check(policy, cpus=sizes[0], tasks=sizes[1], ports=sizes[2], **options)


# The states themselves


@pytest.mark.parametrize("policy", BUILT_IN, ids=by_name)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 1, 2), (2, 1, 1), (1, 2, 1)])
def test_states_are_those_of_brute_force(policy, sizes):
    verdict = small(policy, sizes, symmetry=False)
    found = brute.explore(policy, sizes)
    assert verdict.verdict == "safe"
    assert (None, verdict.states, verdict.transitions, verdict.depth, True) == found[:5]
    named = small(policy, sizes)
    assert named.states == brute.orbits(policy, found.seen, sizes[0], sizes[1])
    assert named.verdict == "safe"
    # The last states to be found may be such that differ in what cannot matter.
    assert named.depth < verdict.depth if syncs_first(policy) else named.depth == verdict.depth


def test_states_of_two_cpus_and_two_tasks_are_those_of_brute_force():
    policy, sizes = policies()["eager"], (2, 2, 1)
    found = brute.explore(policy, sizes)
    named, unnamed = (small(policy, sizes, symmetry=s) for s in (True, False))
    assert (unnamed.states, unnamed.transitions, unnamed.depth) == found[1:4]
    assert named.states == brute.orbits(policy, found.seen, 2, 2)


def to_user(*steps, **hooks):
    return replace(policies()["exit-to-user"], exit_to_user=(steps,), name="p", **hooks)


@pytest.mark.parametrize(
    ("policy", "first"),
    [
        (to_user("sync_map if tif", "validate_base if tif"), True),
        (to_user("sync_map", "validate_base if tif"), True),
        (to_user("sync_map if tif", "validate_base"), False),
        (to_user("sync_map if tif", "clear_tif", "validate_base if tif"), False),
        (to_user("validate_base if tif", "sync_map if tif"), False),
        (to_user("sync_map", "validate_base", ioperm=("edit_map", "load_map")), False),
        (to_user("sync_map", "validate_base", task_exit=("wipe_own",)), False),
        # No one is there to sync for where the CPU was idle.
        (to_user("sync_map", switch=(("sync_map", "validate_base"),)), False),
        (to_user("sync_map", ioperm=("edit_map", "sync_map", "validate_base")), False),
        (to_user("sync_map", ioperm=("edit_map", ("sync_map", "validate_base"))), True),
        *((policy, policy.name == "exit-to-user") for policy in BUILT_IN),
    ],
)
def test_what_is_synced_before_it_is_seen(policy, first):
    assert syncs_first(policy) == first


def test_hidden_maps_change_no_verdict_and_no_length():
    """Every mutant of the policy that hides maps, those that may not be reduced among them."""
    for policy in mutations(policies()["exit-to-user"]).values():
        verdict, whole = (small(policy, (2, 2, 1), symmetry=s) for s in (True, False))
        assert verdict.verdict == whole.verdict
        bad, other = verdict.counterexample, whole.counterexample
        assert bad is None or len(bad.events) == len(other.events)
        assert verdict.unreachable_steps == whole.unreachable_steps
        assert bad is not None or [w.step for w in verdict.wasted_reloads] == [
            w.step for w in whole.wasted_reloads
        ]


def test_the_end_of_a_map_in_three_entries_leaks():
    """exit-to-user drops an empty map in one region; with entries it can be preempted between.

    A task without TIF then leaves a valid base to the next one, which has its ports.
    """
    policy = policies()["exit-to-user"]
    parts = ("drop_map if empty", "clear_tif if empty", "invalidate_base if empty")
    verdict = check(replace(policy, name="apart", ioperm=(*policy.ioperm[:4], *parts)), tasks=2)
    assert (verdict.counterexample.violation, len(verdict.counterexample.events)) == ("leak", 20)
    assert [event.event for event in verdict.counterexample.events[-2:]] == ["schedule", "to_user"]
    assert verdict.replay().startswith("replayed")
    off = ("drop_map if empty", ("clear_tif if empty", "invalidate_base if empty"))
    safe = replace(policy, name="one region", ioperm=(*policy.ioperm[:4], *off))
    assert check(safe, tasks=2).verdict == "safe"


EXIT = ("exit-preemption",)
CALL = ("stop if first and not on", "alloc_map", "set_tif", "edit_map")
END = ("clear_tif if empty", "drop_map if empty", "invalidate_base if empty")
APART = ("drop_map", "clear_tif", ("invalidate_base",))


@pytest.mark.parametrize(
    ("base", "hooks", "without", "found"),
    [
        # TIF outlives the map (8b68e978718f cured this kind in 2025).
        ("exit-to-user", {"ioperm": (*CALL, END[1:])}, ("null", 16), ("null", 16)),
        # Preempted between the two, the task has TIF and no map to copy.
        ("eager", {"ioperm": ("set_tif if first", "alloc_map", ("edit_map", "load_map"))},
         ("null", 6), ("null", 6)),
        ("exit-to-user", {"ioperm": (*CALL, END[1], END[0], END[2:]), "task_exit": APART},
         ("leak", 20), ("leak", 16)),
        ("exit-to-user", {"task_exit": APART}, None, ("leak", 14)),
        ("exit-to-user", {"task_exit": ("drop_map", ("clear_tif", "invalidate_base"))}, None, None),
    ],
)  # fmt: skip
def test_tif_without_map_and_a_preempted_end(base, hooks, without, found):
    policy = replace(policies()[base], name="p", **hooks)
    for events, expected in (((), without), (EXIT, found)):
        verdict = check(policy, tasks=2, ports=1, events=events)
        bad = verdict.counterexample
        assert (bad and (bad.violation, len(bad.events))) == expected
        assert verdict.events == events
        assert bad is None or verdict.replay().startswith("replayed")


@pytest.mark.parametrize("policy", BUILT_IN, ids=by_name)
def test_built_in_policies_are_safe_where_the_end_is_preempted(policy):
    found = brute.explore(policy, (1, 2, 1), extra=EXIT)
    verdict = small(policy, (1, 2, 1), symmetry=False, events=EXIT)
    assert (None, verdict.states, verdict.transitions, verdict.depth, True) == found[:5]
    assert small(policy, (1, 2, 1), events=EXIT).states == brute.orbits(policy, found.seen, 1, 2)
    assert verdict.states > small(policy, (1, 2, 1), symmetry=False).states


@pytest.mark.parametrize("events", [("fork",), ("iopl",)], ids=str)
@pytest.mark.parametrize("name", ["eager", "exit-to-user"])
def test_states_with_fork_or_iopl_are_those_of_brute_force(name, events):
    policy, sizes = policies()[name], (1, 2, 1) if events == ("fork",) else (1, 1, 1)
    found = brute.explore(policy, sizes, extra=events)
    verdict = small(policy, sizes, symmetry=False, events=events)
    assert (None, verdict.states, verdict.transitions, verdict.depth, True) == found[:5]
    assert small(policy, sizes, events=events).states == brute.orbits(
        policy, found.seen, *sizes[:2]
    )
    assert verdict.unreachable_steps == ()


TO_USER = policies()["exit-to-user"]
IN_PLACE = ("stop if first and not on", "alloc_map", *TO_USER.ioperm[2:])
OTHER_EVENTS = [  # what is wrong, in hooks; events; the violation and its length
    ({"ioperm": IN_PLACE}, ("fork",), ("denial", 18)),
    ({"fork": (("share_map if tif", "inherit_iopl"),)}, ("fork",), ("denial", 12)),
    ({"fork": (("set_child_tif if tif",),)}, ("fork",), ("null", 12)),
    ({"fork_failed": (("drop_map", "clear_tif", "invalidate_base"),)}, ("fork",), ("denial", 11)),
    ({"switch": ()}, ("iopl",), ("leak", 6)),
    ({"exec": ()}, ("iopl",), ("leak", 6)),
    ({"iopl": (("set_iopl if on", "set_tif if on", "clear_iopl if not on"),)}, ("iopl",),
     ("null", 6)),
    ({"fork": (("share_map if tif", "set_child_tif if tif"),)}, ("fork", "iopl"), ("null", 7)),
]  # fmt: skip


@pytest.mark.parametrize(("hooks", "events", "expected"), OTHER_EVENTS)
def test_wrong_forks_and_levels_are_found(hooks, events, expected):
    verdict = check(replace(TO_USER, name="p", **hooks), tasks=2, ports=1, events=events)
    bad = verdict.counterexample
    assert (bad.violation, len(bad.events)) == expected
    assert verdict.replay().startswith("replayed")


@pytest.mark.parametrize("policy", BUILT_IN, ids=by_name)
def test_built_in_policies_are_safe_with_every_event(policy):
    verdict = check(policy, tasks=2, ports=1, events=EXTRA_EVENTS)
    assert (verdict.verdict, verdict.unreachable_steps) == ("safe", ())


def test_unknown_events_are_refused():
    with pytest.raises(ValueError, match="unknown event 'forks'; did you mean 'fork'"):
        check("eager", events=("forks",))


def words(hook, table):
    return st.sampled_from(sorted(name for name, hooks in table.items() if hook in hooks))


@st.composite
def steps(draw, hook):
    terms = draw(st.lists(st.tuples(st.sampled_from(["", "not "]), words(hook, CONDITIONS)),
                          max_size=2))  # fmt: skip
    condition = " and ".join(negated + name for negated, name in terms)
    return draw(words(hook, STEPS)) + (f" if {condition}" if condition else "")


@st.composite
def random_policies(draw):
    """Return any policy of up to four steps a hook, or a built-in one with a hook of its kind."""
    hooks = {}
    base = draw(st.sampled_from([None, *BUILT_IN]))
    changed = HOOKS if base is None else [draw(st.sampled_from(HOOKS))]
    for hook in changed:
        step = steps(hook)
        entries = st.one_of(step, st.lists(step, max_size=3).map(tuple))
        hooks[hook] = tuple(draw(st.lists(entries, max_size=3)))
    start = draw(st.sampled_from(["valid", "invalid"]))
    if base is not None:
        return replace(base, name="random", **hooks)
    return Policy("random", **hooks, io_base_at_start=start)


def test_a_level_from_another_hook_than_iopls_is_part_of_the_state():
    """Found among random policies: without the event iopl, a put that gives level 3 leaks."""
    policy = replace(policies()["eager"], name="giver", vcpu_put=("set_iopl",),
                     exit_to_user=(("load_iopl",),))  # fmt: skip
    for symmetry in (True, False):
        bad = small(policy, (1, 2, 1), symmetry=symmetry).counterexample
        assert (bad.violation, len(bad.events)) == ("leak", brute.explore(policy, (1, 2, 1)).depth)


def test_a_task_that_leaves_late_is_no_history_of_machine():
    """Found among random policies: task 0's switch away is done with the next one's return."""
    policy = replace(policies()["eager"], name="marker", vm_exit=(("set_tif",),),
                     exit_to_user=(("load_iopl",),))  # fmt: skip
    assert small(policy, (2, 2, 1)).replay().startswith("replayed")


@settings(max_examples=60, deadline=None)
@given(
    random_policies(), st.sampled_from([(1, 2, 1), (2, 2, 1), (1, 1, 3), (2, 1, 2), (1, 3, 1)]),
    st.sampled_from([(), ("fork",), ("iopl",), EXTRA_EVENTS]),
)  # fmt: skip
def test_any_policy_has_brute_forces_verdict(policy, sizes, events):
    found = brute.explore(policy, sizes, most=400, extra=events)
    verdicts = [
        small(policy, sizes, symmetry=s, max_states=200_000, events=events) for s in (True, False)
    ]
    for verdict in verdicts:
        if found.bad is not None:
            assert len(verdict.counterexample.events) == found.depth
            assert verdict.replay().startswith("replayed")
        elif found.whole:
            assert verdict.verdict == "safe"
        else:
            bad = verdict.counterexample
            assert bad is None or len(bad.events) > found.depth
    if found.whole and found.bad is None:
        states = (brute.orbits(policy, found.seen, *sizes[:2]), found.states)
        assert (verdicts[0].states, verdicts[1].states) == states
        assert verdicts[1].transitions == found.transitions


# Verdicts


@pytest.mark.parametrize("policy", BUILT_IN, ids=by_name)
def test_built_in_policies_are_safe(policy):
    verdict = check(policy, tasks=2)
    assert (verdict.verdict, verdict.counterexample, verdict.reason) == ("safe", None, None)
    assert (verdict.wasted_reloads, verdict.unreachable_steps) == ((), ())


@pytest.mark.parametrize("policy", BUILT_IN, ids=by_name)
def test_built_in_policies_are_safe_at_the_commands_size(policy):
    """Two threads lose no state to each other in a table that both fill."""
    one, two = (check(policy, jobs=jobs) for jobs in (1, 2))
    assert one.verdict == two.verdict == "safe"
    assert 4e5 < one.states < 4e6
    assert (two.states, two.transitions, two.depth) == (one.states, one.transitions, one.depth)


@pytest.mark.parametrize(("policy", "what", "plain"), mutants.UNSAFE, ids=lambda p: str(p)[:40])
def test_known_mutants_are_found(policy, what, plain):
    verdict, unnamed = (check(policy, tasks=2, symmetry=s) for s in (True, False))
    assert verdict.verdict == unnamed.verdict == "unsafe"
    assert len(verdict.counterexample.events) == len(unnamed.counterexample.events)
    assert what is None or verdict.counterexample.violation == what
    # Only a preemption inside the kernel shows some: then Machine has no history of theirs.
    assert ("Machine counts" in verdict.replay() or "but counts" in verdict.replay()) == plain


@pytest.mark.parametrize("policy", mutants.HARMLESS, ids=by_name)
def test_harmless_mutants_are_safe(policy):
    assert check(policy, tasks=2).verdict == "safe"


def test_the_shortest_history_of_the_first_version_by_hand():
    """ioperm(), KVM_RUN, an exit to userspace, an access: nothing else need happen."""
    verdict = check(mutants.UNSAFE[3][0])
    codes = [event.event for event in verdict.counterexample.events]
    call = ["ioperm", *["continue"] * 4, "to_user"]
    assert codes == ["schedule", "to_user", *call, "kvm_run", "enter", "leave", "to_user"]
    assert {(event.cpu, event.task) for event in verdict.counterexample.events} == {(0, "A")}
    bad = verdict.counterexample
    assert (bad.port, bad.owned, bad.allowed) == (0, True, False)
    last = bad.events[-2]
    assert last.text == "vcpu_put: mark_stale"
    assert list(last.changes.items())[:3] == [
        ("limit", ("full", "min")), ("stale", ("0", "1")), ("guest", ("1", "0")),
    ]  # fmt: skip
    assert verdict.history[-1][1]["cpus"][0]["limit"] == "min"


def test_ports_in_words_of_their_own_matter():
    """A switch that copies as much as the next map needs, and not what the previous one opened.

    With one port all maps are as long; with two, the second stays open.
    """
    short = ("clear_tif if prev.tif and next.tif", "copy_map if next.tif",
             "set_tif if next.tif and not empty", policies()["eager"].switch[0][1])  # fmt: skip
    policy = replace(
        policies()["eager"], name="short copy", switch=(short,),
        ioperm=(("set_tif", "edit_map", "load_map"),),
    )  # fmt: skip
    assert check(policy, tasks=2, ports=1).verdict == "safe"
    verdict = check(policy, tasks=2, ports=2)
    assert (verdict.counterexample.violation, verdict.counterexample.port) == ("leak", 1)
    assert "Machine has no operations for it, but counts the leak" in verdict.replay()


def test_users_example_is_checked_and_run(request):
    here = request.config.rootpath / "examples" / "mine"
    if not here.exists():
        pytest.skip("an installed package has no examples")
    found = {**load_policies(here / "lazy.toml"), **load_policies(here / "unsafe.toml")}
    verdicts = {name: check(policy, tasks=2).verdict for name, policy in found.items()}
    assert verdicts == {"lazy": "safe", "first-version": "unsafe", "late-tif": "unsafe"}


# Costs


def test_wasted_reloads_and_steps_never_taken():
    policy = replace(
        policies()["eager"], exit_to_user=(("reload", "clear_stale if stale"),), name="twice"
    )
    verdict = check(policy, tasks=2)
    assert verdict.verdict == "safe"
    (wasted,) = verdict.wasted_reloads
    assert wasted.step == "exit_to_user: reload"
    assert [event.event for event in wasted.events] == ["schedule", "to_user"]
    assert verdict.unreachable_steps == ("exit_to_user: clear_stale if stale",)


# Two threads


@pytest.mark.parametrize("events", [(), EXTRA_EVENTS], ids=str)
@pytest.mark.parametrize("policy", BUILT_IN, ids=by_name)
def test_two_threads_see_the_same_states(policy, events):
    one, two = (small(policy, (2, 2, 1), events=events, jobs=jobs) for jobs in (1, 2))
    for name in ("verdict", "states", "transitions", "depth", "unreachable_steps"):
        assert getattr(one, name) == getattr(two, name)
    assert [w.step for w in one.wasted_reloads] == [w.step for w in two.wasted_reloads]


@pytest.mark.parametrize(("policy", "what", "plain"), mutants.UNSAFE, ids=lambda p: str(p)[:40])
def test_two_threads_find_histories_as_short(policy, what, plain):
    one, two = (check(policy, tasks=2, jobs=jobs) for jobs in (1, 2))
    assert len(two.counterexample.events) == len(one.counterexample.events)
    assert two.replay().startswith("replayed")


def test_two_threads_keep_to_limits():
    verdict = check("deferred", max_states=5000, jobs=2)
    assert (verdict.verdict, verdict.states) == ("undecided", 5000)
    verdict = check("deferred", max_memory=3 * 10**6, jobs=2)
    assert (verdict.verdict, verdict.reason) == ("undecided", "limit of 0.003 GB")
    with pytest.raises(ValueError, match="jobs is 3, not in 1 to 2"):
        check("eager", jobs=3)


# Limits


def test_limits_end_undecided():
    deferred = policies()["deferred"]
    verdict = check(deferred, max_states=5000)
    assert (verdict.verdict, verdict.states) == ("undecided", 5000)
    assert verdict.reason == "limit of 5,000 states"
    verdict = check(deferred, max_memory=10**6)
    assert (verdict.verdict, verdict.reason) == ("undecided", "limit of 0.001 GB")
    assert verdict.memory_bytes <= 10**6


def test_a_limit_that_is_just_enough_decides():
    eager = policies()["eager"]
    states = check(eager, tasks=1).states
    assert check(eager, tasks=1, max_states=states).verdict == "safe"
    assert check(eager, tasks=1, max_states=states - 1).verdict == "undecided"


def test_interrupt_ends_undecided():
    def stop(explorer):
        raise KeyboardInterrupt

    verdict = check(policies()["deferred"], progress=stop)
    assert (verdict.verdict, verdict.reason) == ("undecided", "stopped by Ctrl-C or a signal")
    assert 0 < verdict.states < 10**6


def test_progress_is_told():
    seen = []
    verdict = check(policies()["eager"], progress=lambda e: seen.append((e.states, e.queued)))
    assert len(seen) > 1
    assert seen[-1] == (verdict.states, 0)
    assert [states for states, _ in seen] == sorted(states for states, _ in seen)


def test_no_memory_is_undecided():
    if "asan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("AddressSanitizer needs an address space without limit")
    program = (
        "from kvmbench import policies; from kvmbench.checker.verdict import check\n"
        "print(check(policies()['exit-to-user'], symmetry=False).reason)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 * 10**8, 4 * 10**8)),
    )  # fmt: skip
    assert done.stdout.strip() == "no memory left", done.stderr


def test_nothing_is_left_allocated():
    tracemalloc.start()
    try:
        check(policies()["deferred"], tasks=2)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5):
            check(policies()["deferred"], tasks=2)
        assert tracemalloc.get_traced_memory()[0] - before < 50_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpus": 0}, "cpus is 0, not in 1 to 3"),
        ({"cpus": 4}, "cpus is 4, not in 1 to 3"),
        ({"tasks": 7}, "tasks is 7, not in 1 to 6"),
        ({"ports": 5}, "ports is 5, not in 1 to 4"),
        ({"max_states": 0}, "max_states is 0, not in 1 to 4294967294"),
        ({"max_memory": -1}, "max_memory is -1"),
    ],
)
def test_sizes_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        check(policies()["eager"], **options)


def test_the_largest_machine_begins():
    verdict = check(policies()["exit-to-user"], cpus=3, tasks=6, ports=4, max_states=20_000)
    assert (verdict.verdict, verdict.states) == ("undecided", 20_000)
    unnamed = check(
        policies()["deferred"], cpus=3, tasks=6, ports=4, symmetry=False, max_states=20_000
    )
    assert unnamed.verdict == "undecided"


def test_default_memory_is_less_than_there_is():
    assert 0 < default_memory() <= 8 * 10**9


# Called from a program


def test_check_takes_a_name_a_policy_or_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[mine]\nvcpu_put = [["reload"]]\n')
    eager = policies()["eager"]
    for policy, name in [("eager", "eager"), (eager, "eager"), (path, "mine"), (str(path), "mine")]:
        assert kvmbench.check(policy, tasks=1, ports=1).policy.name == name
    with pytest.raises(ValueError, match="unknown policy 'eger'; did you mean 'eager'"):
        kvmbench.check("eger")
    with pytest.raises(TypeError, match="policy is 3, not a Policy, a built-in name or a path"):
        kvmbench.check(3)
    with pytest.raises(FileNotFoundError):
        kvmbench.check("none/mine.toml")
    path.write_text("[one]\n[two]\n")
    with pytest.raises(ValueError, match=r"has 2 policies \(one, two\): choose one, such as"):
        kvmbench.check(path)


def test_a_verdict_prints_as_the_command():
    safe, unsafe = (check(p, tasks=2) for p in (policies()["eager"], mutants.UNSAFE[3][0]))
    assert repr(safe) == f"<Verdict eager: safe, {safe.states:,} states>"
    assert repr(unsafe) == "<Verdict first version: unsafe, denial after 12 events>"
    done = CliRunner().invoke(main, ["check", "eager", "--tasks", "2"])
    # The time differs from run to run.
    without = [re.sub(r" +\d+\.\d$", "", t.rstrip(), flags=re.M) for t in (str(safe), done.stdout)]
    assert without[0] == without[1]
    (record,) = unsafe.records()
    assert (record["policy"], record["violation"], record["events"]) == (
        "first version", "denial", 12,
    )  # fmt: skip
    assert "<td>denial" not in safe._repr_html_()
    assert "first version: denial after 12 events" in unsafe._repr_html_()
    confirmed = check(mutants.UNSAFE[3][0], tasks=2, replay=True)
    assert str(confirmed) == f"{unsafe}\n\n{confirmed.replayed}".replace(
        f"{unsafe.seconds:.1f}", f"{confirmed.seconds:.1f}"
    )


def test_mutants_are_verdicts():
    verdict = check("eager", tasks=2, ports=1, mutations=True)
    assert list(verdict.mutants) == list(mutations(policies()["eager"]))
    mutant = verdict.mutants["ioperm: without 'edit_map'"]
    assert (mutant.verdict, mutant.counterexample.violation) == ("unsafe", "denial")
    assert check("eager", tasks=2, ports=1).mutants == {}
    assert len(verdict.records()) == 1 + len(verdict.mutants)


def test_ctrl_c_ends_the_mutants_too():
    calls = []

    def stop(explorer):
        calls.append(explorer.policy.name)
        if len(calls) == 3:
            raise KeyboardInterrupt

    verdict = check("eager", tasks=2, ports=1, mutations=True, progress=stop)
    assert len(verdict.mutants) == 2
    assert verdict.stopped
    assert not verdict.reason


def test_signals_stay_as_they_were():
    def handler(*_):
        raise AssertionError

    old = signal.signal(signal.SIGINT, handler)
    try:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        check("deferred", tasks=2, replay=True, progress=lambda _: None)
        assert signal.getsignal(signal.SIGINT) is handler
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    finally:
        signal.signal(signal.SIGINT, old)


def test_any_thread_may_check():
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda name: check(name, tasks=2), policies()))
    assert [v.states for v in found] == [check(name, tasks=2).states for name in policies()]


# Replays and mutations


def test_stepper_refuses_what_cannot_happen():
    stepper = Stepper(policies()["eager"], 1, 1, 1)
    for event in [("to_user", 0), ("schedule", 0, None)]:
        with pytest.raises(Refused):
            stepper.do(*event)
    stepper.do("schedule", 0, 0)
    for code in ("kvm_run", "enter", "vm_exit", "leave", "return", "continue"):
        with pytest.raises(Refused):
            stepper.do(code, 0)


def test_machine_operations_by_hand():
    policy = policies()["eager"]
    events = [
        ("schedule", 1, 0), ("to_user", 1, None), ("ioperm", 1, (1, True)),
        *[("continue", 1, None)] * 3, ("to_user", 1, None), ("kvm_run", 1, None),
        ("enter", 1, None), ("vm_exit", 1, None), ("leave", 1, None), ("to_user", 1, None),
        ("task_exit", 1, None),
    ]  # fmt: skip
    ops = machine_operations(policy, (2, 1, 2), events)
    assert ops == [
        (Op.SWITCH, 0, 1, 0, 0, 0),
        (Op.IOPERM, 1, 1, 64, 1, 0),
        (Op.EXIT, 0, 1, 0, 0, 0),
        (Op.EXIT, 0, 1, 1, 0, 0),
        (Op.EXIT, 0, 1, 2, 0, 0),
        (Op.TASK_EXIT, 0, 1, 0, 0, 0),
    ]
    assert machine_operations(policy, (2, 1, 2), [*events[:3], ("schedule", 1, None)]) is None


def test_a_wrong_history_is_told_from_a_right_one():
    verdict = check(mutants.UNSAFE[0][0], tasks=2)
    bad = verdict.counterexample
    history = list(verdict.history)
    for change in (history[:-1], [*history[:5], *history[6:]]):
        with pytest.raises(RuntimeError, match="the replay differs"):
            replace(verdict, history=change).replay()
    with pytest.raises(RuntimeError, match=r"the replay differs: the history ends in"):
        replace(verdict, counterexample=replace(bad, violation="leak")).replay()
    with pytest.raises(ValueError, match="eager is safe"):
        check(policies()["eager"], tasks=1).replay()


def test_one_thread_at_a_time():
    explorer = Explorer(policies()["deferred"], 2, 3, 2)
    thread = threading.Thread(target=explorer.explore, args=(10**6,))
    thread.start()
    while explorer.transitions == 0:
        assert thread.is_alive()
    with pytest.raises(RuntimeError, match="searching in another thread"):
        explorer.explore(1)
    thread.join()
    while explorer.explore(10**6) is None:
        pass
    assert explorer.states == 1_955_944  # SPIN's 22,144,364 without symmetry


def test_explorer_is_made_once_and_has_no_path_without_a_find():
    explorer = Explorer(policies()["eager"], 1, 1, 1)
    with pytest.raises(TypeError, match="made once"):
        explorer.__init__(policies()["eager"], 1, 1, 1)
    with pytest.raises(ValueError, match="nothing bad"):
        explorer.path()


def test_mutations_by_hand():
    policy = Policy("p", ioperm=("alloc_map", ("set_tif if first", "edit_map")), switch=("reload",))
    found = mutations(policy)
    assert {what: mutant.ioperm for what, mutant in found.items() if "ioperm" in what} == {
        "ioperm: without 'alloc_map'": (("set_tif if first", "edit_map"),),
        "ioperm: 'alloc_map' after 'set_tif if first'": (
            ("set_tif if first",), ("alloc_map", "edit_map"),
        ),
        "ioperm: 'alloc_map' last": (("set_tif if first", "edit_map"), ("alloc_map",)),
        "ioperm: without 'set_tif if first'": (("alloc_map",), ("edit_map",)),
        "ioperm: 'set_tif if first' after 'edit_map'": (
            ("alloc_map",), ("edit_map", "set_tif if first"),
        ),
        "ioperm: 'set_tif if first' first": (("set_tif if first",), ("alloc_map",), ("edit_map",)),
        "ioperm: 'set_tif if first' last": (("alloc_map",), ("edit_map",), ("set_tif if first",)),
        "ioperm: 'set_tif if first' before its list": (
            ("alloc_map",), ("set_tif if first",), ("edit_map",),
        ),
        "ioperm: 'set_tif if first' even if not 'first'": (("alloc_map",), ("set_tif", "edit_map")),
        "ioperm: without 'edit_map'": (("alloc_map",), ("set_tif if first",)),
        "ioperm: 'edit_map' first": (("edit_map",), ("alloc_map",), ("set_tif if first",)),
    }  # fmt: skip
    assert [what for what in found if "switch" in what] == ["switch: without 'reload'"]


def test_mutants_of_a_step_that_is_there_twice_are_all_kept():
    policy = Policy("p", vcpu_put=("reload", "mark_stale", "reload"))
    bodies = {mutant.vcpu_put for mutant in mutations(policy).values()}
    assert {(("mark_stale",), ("reload",)), (("reload",), ("mark_stale",))} <= bodies
    assert all(name == mutant.name for name, mutant in mutations(policy).items())
