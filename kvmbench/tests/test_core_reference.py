"""The core against the reference: the same random histories, every field and integer equal."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvmbench import Machine, OperationError
from kvmbench.arrays import OP_DTYPE
from kvmbench.model import ExitKind, Op
from kvmbench.tests import histories
from kvmbench.tests.histories import History, core_state, reference_state

# 250 + 4 x 2 x 10 machines of 800 operations: 264,000 operations a test run.
OPERATIONS = 800
SEEDS = st.integers(0, 2**32)
QUIET = dict(deadline=None, suppress_health_check=list(HealthCheck))


def replay(machine, history):
    """Run a history, going on after each refused operation; return results and cycles."""
    n = len(history.ops)
    results, cycles = np.zeros(n, np.uint8), np.zeros(n, np.uint64)
    at = 0
    for stop in (*np.flatnonzero(history.refused), n):
        if stop < n:
            # The whole rest stops at the operation that the reference refuses ...
            probe = machine.copy()
            with pytest.raises(OperationError) as caught:
                probe.run(history.ops[at:], cycles_out=np.zeros(n - at, np.uint64))
            assert caught.value.index == stop - at
        # ... and leaves the machine as the operations before it do.
        results[at:stop] = machine.run(history.ops[at:stop], cycles_out=cycles[at:stop])
        if stop < n:
            assert core_state(probe) == core_state(machine)
        at = stop + 1
    return results, cycles


def check(cpus, tasks, policy, profile, vendor, seed, n=OPERATIONS):
    model = histories.reference(cpus, tasks, policy, profile, vendor)
    history = History(model, len(profile.kinds), seed, n)
    machine = Machine(cpus, tasks, policy, profile, vendor)
    results, cycles = replay(machine, history)
    assert results.tolist() == history.results.tolist()
    assert cycles.tolist() == history.cycles.tolist()
    assert core_state(machine) == reference_state(model)
    counters = machine.counters
    causes = sum(counters[name] for name in counters.dtype.names if name.startswith("c_"))
    assert causes.tolist() == machine.cpu["cycles"].tolist()
    return machine


@settings(max_examples=150, **QUIET)
@given(
    cpus=st.integers(1, 3),
    tasks=st.integers(1, 4),
    policy=histories.POLICIES,
    profile=histories.profiles(),
    vendor=histories.VENDORS,
    seed=st.integers(0, 2**32),
)
def test_random_policies(cpus, tasks, policy, profile, vendor, seed):
    check(cpus, tasks, policy, profile, vendor, seed)


@pytest.mark.parametrize("vendor", ["vmx", "svm"])
@pytest.mark.parametrize("policy", ["eager", "deferred", "exit-to-user", "every-exit"])
@settings(max_examples=10, **QUIET)
@given(profile=histories.profiles(), seed=st.integers(0, 2**32))
def test_built_in_policies(policy, vendor, profile, seed):
    machine = check(2, 3, histories.policies()[policy], profile, vendor, seed)
    for fault in ("leaks", "denials", "faults"):
        assert machine.counters[fault].tolist() == [0, 0]


@settings(max_examples=100, **QUIET)
@given(
    policy=histories.POLICIES,
    profile=histories.profiles(),
    vendor=histories.VENDORS,
    seed=st.integers(0, 2**32),
    kind=st.integers(0, 4),
    n=st.integers(0, 300),
)
def test_repeat_exit(policy, profile, vendor, seed, kind, n):
    """From any state, n EXITs at once are n EXITs one by one."""
    kind %= len(profile.kinds)
    model = histories.reference(2, 3, policy, profile, vendor)
    history = History(model, len(profile.kinds), seed, 40)
    machine = Machine(2, 3, policy, profile, vendor)
    replay(machine, history)
    stepped = machine.copy()
    if model.cpus[0].task < 0:
        model.step(Op.SWITCH, 0, 0, next(i for i in range(3) if i != model.cpus[1].task), 0, 0)
        machine.switch(0, model.cpus[0].task)
        stepped.switch(0, model.cpus[0].task)
    spent = sum(model.step(Op.EXIT, 0, 0, kind, 0, 0)[1] for _ in range(n))
    ops = np.zeros(n, OP_DTYPE)
    ops["a"] = kind
    stepped.run(ops)
    assert machine.repeat_exit(0, kind, n) == spent
    assert core_state(machine) == reference_state(model) == core_state(stepped)


SHORT = st.one_of(st.integers(0, 2**36), st.integers(0, 2**33), st.integers(0, 9999))


def near_the_limit(policy, profile, seed, short):
    """Return a machine and its reference in any state, CPU 0 at `short` cycles below 2**62 or more.

    And the profile, whose last kind did most of that: it only costs.
    """
    wind = ExitKind("wind", 2**32 - 1, exits=False)
    profile = replace(profile, kinds=(*profile.kinds, wind))
    kind = len(profile.kinds) - 1
    model = histories.reference(2, 3, policy, profile, "vmx")
    machine = Machine(2, 3, policy, profile)
    replay(machine, History(model, len(profile.kinds) - 1, seed, 30))
    clock = model.cpus[0]
    ops = [(Op.EXIT, 0, 0, kind, 0, 0)]
    if clock.task < 0:
        task = next(i for i in range(3) if i != model.cpus[1].task)
        ops.insert(0, (Op.SWITCH, 0, 0, task, 0, 0))
    for op in ops:
        model.step(*op)
        machine.run([op])
    # EXITs of that kind change nothing more, so the reference adds them up.
    times = (2**62 - short - clock.cycles) // wind.cycles
    clock.cycles += times * wind.cycles
    clock.counters["c_exit"] += times * wind.cycles
    machine.repeat_exit(0, kind, times)
    rest = max(2**62 - short - clock.cycles, 0)
    while rest > 0:
        op = (Op.ADVANCE, 0, 0, min(rest, 2**31 - 1), 0, 0)
        rest -= model.step(*op)[1]
        machine.run([op])
    return machine, model, profile


@settings(max_examples=80, **QUIET)
@given(policy=histories.POLICIES, profile=histories.profiles(), seed=SEEDS, short=SHORT)
def test_clock_limit(policy, profile, seed, short):
    """Up to 2**62 cycles an operation is done whole, above not at all."""
    machine, model, profile = near_the_limit(policy, profile, seed, short)
    history = History(model, len(profile.kinds), seed + 1, 60)
    results, cycles = replay(machine, history)
    assert results.tolist() == history.results.tolist()
    assert cycles.tolist() == history.cycles.tolist()
    assert core_state(machine) == reference_state(model)


@settings(max_examples=80, **QUIET)
@given(
    policy=histories.POLICIES,
    profile=histories.profiles(),
    seed=SEEDS,
    short=SHORT,
    kind=st.integers(0, 5),
    n=st.integers(1, 100),
)
def test_repeat_exit_at_the_clock_limit(policy, profile, seed, short, kind, n):
    """It stops at the EXIT that would be the first to begin above 2**62, as do EXITs in a run()."""
    machine, model, profile = near_the_limit(policy, profile, seed, short)
    kind %= len(profile.kinds)
    ops = np.zeros(n, OP_DTYPE)
    ops["a"] = kind
    batch = machine.copy()
    done = 0
    while done < n and model.cpus[0].cycles <= 2**62:
        model.step(Op.EXIT, 0, 0, kind, 0, 0)
        done += 1
    for call in (lambda: machine.repeat_exit(0, kind, n), lambda: batch.run(ops)):
        if done == n:
            call()
        else:
            with pytest.raises(OperationError, match="is above 2") as caught:
                call()
            assert caught.value.index == done
    assert core_state(machine) == core_state(batch) == reference_state(model)
