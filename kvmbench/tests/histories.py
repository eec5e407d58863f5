"""Random machines and random histories of operations, for the core and the reference alike."""

from __future__ import annotations

import random
from dataclasses import astuple, fields, replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
from numpy.typing import NDArray

from kvmbench.arrays import COUNTERS, OP_DTYPE
from kvmbench.catalog import policies
from kvmbench.model import CONDITIONS, HOOKS, STEPS, Costs, ExitKind, Op, Policy, Profile
from kvmbench.tests.reference import Reference, Refused

CYCLES = st.one_of(st.integers(0, 9), st.integers(0, 5000), st.integers(0, 2**32 - 1))
COSTS = st.builds(Costs, **{entry.name: CYCLES for entry in fields(Costs)})
FLAGS = st.sampled_from([(False, False), (True, False), (True, True), (True, True)])


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    flags = draw(st.lists(FLAGS, min_size=1, max_size=5))
    kinds = [
        ExitKind(f"kind{i}", *(draw(CYCLES) for _ in range(3)), exits=exits, user=user)
        for i, (exits, user) in enumerate(flags)
    ]
    return Profile("random", draw(COSTS), tuple(kinds))


@st.composite
def steps(draw: st.DrawFn, hook: str) -> str:
    action = draw(st.sampled_from([name for name, hooks in STEPS.items() if hook in hooks]))
    known = [name for name, hooks in CONDITIONS.items() if hook in hooks]
    terms = draw(st.lists(st.tuples(st.sampled_from(known), st.booleans()), max_size=2))
    if not terms:
        return action
    return f"{action} if " + " and ".join(n if wanted else f"not {n}" for n, wanted in terms)


@st.composite
def random_policies(draw: st.DrawFn) -> Policy:
    hooks = {}
    for hook in HOOKS:
        entry = st.one_of(steps(hook), st.lists(steps(hook), max_size=3))
        hooks[hook] = draw(st.lists(entry, max_size=4))
    return Policy("random", **hooks, io_base_at_start=draw(st.sampled_from(["valid", "invalid"])))


@st.composite
def mutated_policies(draw: st.DrawFn) -> Policy:
    """A built-in policy with one step left out, and one more somewhere: close to what is real."""
    base = policies()[draw(st.sampled_from(sorted(policies())))]
    hooks = {hook: [str(step) for step in base.steps(hook)] for hook in HOOKS}
    for hook in draw(st.lists(st.sampled_from([h for h in HOOKS if hooks[h]]), max_size=1)):
        del hooks[hook][draw(st.integers(0, len(hooks[hook]) - 1))]
    for hook in draw(st.lists(st.sampled_from(HOOKS), max_size=2)):
        hooks[hook].insert(draw(st.integers(0, len(hooks[hook]))), draw(steps(hook)))
    return Policy("mutated", **hooks, io_base_at_start=base.io_base_at_start)


BUILT_IN = st.sampled_from(sorted(policies())).map(lambda name: policies()[name])
# A task that keeps its map and loses TIF, which no built-in policy leaves so.
FORGETFUL = replace(policies()["eager"], name="forgetful", vm_exit=("clear_tif",))
POLICIES = st.one_of(BUILT_IN, random_policies(), mutated_policies(), st.just(FORGETFUL))
VENDORS = st.sampled_from(["vmx", "svm"])


def reference(cpus: int, tasks: int, policy: Policy, profile: Profile, vendor: str) -> Reference:
    """Return the reference of the machine that `Machine` makes of the same arguments."""
    costs = dict(zip((entry.name for entry in fields(Costs)), astuple(profile.costs), strict=True))
    kinds = [{f.name: getattr(kind, f.name) for f in fields(kind)} for kind in profile.kinds]
    hooks = {hook: getattr(policy, hook) for hook in HOOKS}
    return Reference(cpus, tasks, hooks, costs, kinds, vendor, policy.io_base_at_start)


CALLS = (Op.IOPERM, Op.IO, Op.FORK, Op.IOPL, Op.EXEC)  # of a task in userspace


def draw_op(rng: random.Random, model: Reference, n_kinds: int) -> tuple[int, ...]:
    """Return an operation that mostly can be done; now and then one that surely cannot."""
    cpu = rng.randrange(len(model.cpus))
    if rng.random() < 0.02:
        wild = (-(2**31), -1, 0, 3, 65535, 65536, 2**31 - 1)
        return (
            rng.choice((*Op, *Op, 9, 255)),
            rng.choice((0, 1, 2, 3, 4, 255)),
            rng.choice((cpu, cpu, cpu, len(model.cpus), 65535)),
            *(rng.choice(wild) for _ in range(3)),
        )
    task = model.cpus[cpu].task
    code = rng.choices(
        (Op.EXIT, Op.SWITCH, Op.IOPERM, Op.IO, Op.TASK_EXIT, Op.ADVANCE, Op.FORK, Op.IOPL, Op.EXEC),
        (40, 12, 10, 20, 1, 4, 4, 2, 1),
    )[0]
    if task < 0 and rng.random() < 0.9:
        code = Op.SWITCH
    elif code in CALLS and model.tasks[task].in_run and rng.random() < 0.9:
        code = Op.EXIT
    # Few ports, so that tasks meet; the first, the last and both sides of a map's words too.
    port = rng.choice((0, 7, 60, 63, 64, 65, 1000, 65528, 65535, rng.randrange(65536)))
    if code == Op.EXIT:
        return (code, 0, cpu, rng.randrange(n_kinds), 0, 0)
    if code == Op.SWITCH:
        return (code, 0, cpu, rng.randrange(-1, len(model.tasks)), 0, 0)
    if code == Op.IOPERM:
        count = min(rng.choice((1, 1, 2, 8, 64, 200, 65536)), 65536 - port)
        return (code, rng.randrange(2), cpu, port, count, 0)
    if code == Op.IO:
        return (code, rng.choice((1, 1, 2, 4)), cpu, port, 0, 0)
    if code == Op.FORK:
        return (code, rng.randrange(2), cpu, rng.randrange(len(model.tasks) or 1), 0, 0)
    if code == Op.IOPL:
        return (code, 0, cpu, rng.choice((0, 3, 3)), 0, 0)
    return (code, 0, cpu, rng.randrange(1000) if code == Op.ADVANCE else 0, 0, 0)


class History:
    """`n` operations, and what the reference says of each: its result, its cycles, or neither."""

    def __init__(self, model: Reference, n_kinds: int, seed: int, n: int) -> None:
        rng = random.Random(seed)
        self.ops = np.zeros(n, OP_DTYPE)
        self.results = np.zeros(n, np.uint8)
        self.cycles = np.zeros(n, np.uint64)
        self.refused = np.zeros(n, np.bool_)
        op: tuple[int, ...] = ()
        for i in range(n):
            # Runs of equal operations take a separate path in the core.
            if not op or rng.random() < 0.6:
                op = draw_op(rng, model, n_kinds)
            self.ops[i] = op
            try:
                self.results[i], self.cycles[i] = model.step(*op)
            except Refused:
                self.refused[i] = True


def reference_state(model: Reference) -> dict[str, Any]:
    """Return the reference's whole state, in the words of `core_state`."""
    return {
        "cpu": [
            (
                *(c.cycles, c.tr_limit, c.tss_busy, c.io_base, c.limit_stale, c.guest_loaded),
                *(c.task, c.map_max, c.map_seq, c.iopl == 3),
            )
            for c in model.cpus
        ],
        "task": [
            (t.tif, int(t.map is not None), t.max, t.seq, t.last_cpu, t.in_run, t.iopl == 3)
            for t in model.tasks
        ],
        "counters": [tuple(c.counters[name] for name in COUNTERS) for c in model.cpus],
        "tss_map": [bytes(c.tss_map) for c in model.cpus],
        "task_map": [None if t.map is None else bytes(t.map) for t in model.tasks],
    }


def core_state(machine: Any) -> dict[str, Any]:
    """Return the whole state of a Machine."""
    maps: list[NDArray[np.uint8] | None] = [machine.task_map(i) for i in range(len(machine.task))]
    return {
        "cpu": machine.cpu.tolist(),
        "task": machine.task.tolist(),
        "counters": machine.counters.tolist(),
        "tss_map": [row.tobytes() for row in machine.tss_map],
        "task_map": [None if found is None else found.tobytes() for found in maps],
    }
