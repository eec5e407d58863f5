"""A policy's verdict: every interleaving of a small machine explored (docs/check.md)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kvmbench.checker.explorer import CPUS_MAX, PORTS_MAX, STATES_MAX, TASKS_MAX, Explorer
from kvmbench.model import Policy

__all__ = [
    "CPUS_MAX",
    "PORTS_MAX",
    "STATES_MAX",
    "TASKS_MAX",
    "Bad",
    "Event",
    "Explorer",
    "Verdict",
    "Wasted",
    "check",
    "default_memory",
    "replay",
    "task_name",
]

AT_ONCE = 100_000  # states between two looks at Ctrl-C and progress: a fraction of a second
MEMORY = 8 * 10**9  # bytes

State = Mapping[str, Sequence[Mapping[str, Any]]]
Change = tuple[str, str, str]  # column, before, after


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a history: what happened where, in words, and what it changed.

    `code` and `argument` are the explorer's (docs/check.md, "Events"); `task` is the task that
    the event is about, None where the CPU goes idle. `changes` are (column, before, after), and
    `state` is the whole state behind the event.
    """

    code: str
    cpu: int
    argument: Any
    task: int | None
    says: str
    changes: tuple[Change, ...]
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """A shortest history that ends in a leak, a denial or a fault.

    `port` is None for a fault, else `owned` says whether the task has the port and `allowed`
    whether the hardware lets the access through. `start` is the state before the first event.
    """

    what: str
    port: int | None
    owned: bool | None
    allowed: bool | None
    start: State
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Wasted:
    """A step that reloads where the limit is full, and a shortest history that ends so."""

    step: str
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found out about a policy on a machine of so many CPUs, tasks and ports.

    `verdict` is "safe" (every state seen, none bad), "unsafe" or "undecided" (`reason` says what
    ended the search). `depth` is the number of events that reach the last state, `seconds` of
    wall-clock time, `memory` in bytes. `wasted` and `never` are costs, not faults: reloads that
    found the limit full, and steps that no history takes; both are of the states that were seen.
    """

    policy: Policy
    cpus: int
    tasks: int
    ports: int
    symmetry: bool
    verdict: str
    reason: str
    states: int
    transitions: int
    depth: int
    seconds: float
    memory: int
    bad: Bad | None
    wasted: tuple[Wasted, ...]
    never: tuple[str, ...]


def task_name(task: int) -> str:
    """Return the letter of a task: A, B ..."""
    return chr(ord("A") + task)


def default_memory() -> int:
    """Return the bytes that a search may take unless told otherwise: 8 GB, on smaller machines
    three quarters of what there is."""
    return min(MEMORY, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4)


def check(
    policy: Policy,
    *,
    cpus: int = 2,
    tasks: int = 3,
    ports: int = 2,
    symmetry: bool = True,
    whole_calls: bool = False,
    max_states: int = STATES_MAX,
    max_memory: int | None = None,
    progress: Callable[[Explorer], None] | None = None,
) -> Verdict:
    """Explore every interleaving of `policy` on a machine of that size.

    `symmetry` takes states for one that differ in what cannot matter: the names of tasks and
    CPUs, and maps that nobody sees (docs/check.md, section 3). `whole_calls`
    leaves out histories in which a task is preempted inside the kernel, so that "safe" says less:
    what is left are operations of `Machine`. `max_memory` is
    in bytes, `default_memory()` where None. `progress` is called several times a second. Ctrl-C
    ends the search, as a limit does: undecided.

    Raises ValueError for a size out of range, MemoryError where there is no room to begin.
    """
    begun = time.perf_counter()
    explorer = Explorer(
        policy, cpus, tasks, ports, symmetry=symmetry, whole_calls=whole_calls,
        max_states=max_states,
        max_memory=default_memory() if max_memory is None else max_memory,
    )  # fmt: skip
    ended: str | None = None
    try:
        while ended is None:
            ended = explorer.explore(AT_ONCE)
            if progress is not None:
                progress(explorer)
    except KeyboardInterrupt:
        ended = ended or "stopped"
    reason = {
        "stopped": "stopped by Ctrl-C",
        "max_states": f"limit of {max_states:,} states",
        "max_memory": f"limit of {explorer.max_memory / 1e9:g} GB",
        "memory": "no memory left",
    }.get(ended, "")
    seconds = time.perf_counter() - begun
    return Verdict(
        policy=policy, cpus=cpus, tasks=tasks, ports=ports, symmetry=symmetry,
        verdict={"all": "safe", "bad": "unsafe"}.get(ended, "undecided"), reason=reason,
        states=explorer.states, transitions=explorer.transitions, depth=explorer.depth,
        seconds=seconds, memory=explorer.memory,
        bad=_bad(explorer) if ended == "bad" else None,
        wasted=tuple(
            Wasted(_step(policy, hook, index), _events(policy, history))
            for hook, index, history in explorer.wasted()
        ),
        never=tuple(_step(policy, hook, index) for hook, index in explorer.never_taken()),
    )  # fmt: skip


def replay(verdict: Verdict) -> str:
    """Replay an unsafe verdict's history, and say in a line or two how it was confirmed.

    It goes through `replay.Stepper`, state by state, and through `Machine` where there are
    operations that do the same; where there are none, the shortest history that has them goes
    there instead, if one is found. Raises RuntimeError where a replay shows something else: the
    explorer is wrong then, or the replay is.
    """
    if verdict.bad is None:
        raise ValueError(f"{verdict.policy.name} is {verdict.verdict}: there is no counterexample")
    bad = verdict.bad
    by_machine = _replayed(verdict, bad)
    if by_machine:
        return f"replayed: the stepper shows the {bad.what}, and Machine counts it"
    plain = check(
        verdict.policy, cpus=verdict.cpus, tasks=verdict.tasks, ports=verdict.ports,
        whole_calls=True, max_states=max(verdict.states, 10**6),
    ).bad  # fmt: skip
    said = f"replayed: the stepper shows the {bad.what}; Machine has no operations for it"
    if plain is None or not _replayed(verdict, plain):
        return said
    return (
        f"{said}, but counts the {plain.what} of the shortest history without preemption in the "
        f"kernel, {len(plain.events)} events"
    )


def _replayed(verdict: Verdict, bad: Bad) -> bool:
    """Replay a history; return whether Machine has operations for it."""
    from kvmbench.checker import replay as stepping  # it needs the core, and so numpy

    sizes = (verdict.cpus, verdict.tasks, verdict.ports)
    found = (bad.what, bad.port)
    events = [(event.code, event.cpu, event.argument) for event in bad.events]
    states = [event.state for event in bad.events]
    history = [(None, bad.start), *zip(events, states, strict=True)]
    differs = stepping.stepper_shows(verdict.policy, sizes, history, found)
    if differs is not None:
        raise RuntimeError(f"{verdict.policy.name}: the replay differs: {differs}")
    shown = stepping.machine_shows(verdict.policy, sizes, events, found)
    if shown is False:
        raise RuntimeError(f"{verdict.policy.name}: Machine does not show the {bad.what}")
    return shown is not None


def _step(policy: Policy, hook: str, index: int) -> str:
    return f"{hook}: {policy.steps(hook)[index]}"


def _bad(explorer: Explorer) -> Bad:
    history, what, port = explorer.path()
    events = _events(explorer.policy, history)
    allowed = None if port is None else what == "leak"
    return Bad(
        what=what, port=port, owned=None if allowed is None else not allowed, allowed=allowed,
        start=history[0][1], events=events,
    )  # fmt: skip


def _events(policy: Policy, history: Sequence[tuple[Any, State]]) -> tuple[Event, ...]:
    found = []
    for (_, before), (event, after) in pairwise(history):
        code, cpu, argument = event
        current = before["cpus"][cpu]["task"]
        task = argument if code == "schedule" else current
        place = "" if current is None else before["tasks"][current]["place"]
        says = _says(policy, code, argument, current, place)
        changes = _changes(before, after, cpu, task)
        found.append(Event(code, cpu, argument, task, says, changes, after))
    return tuple(found)


def _says(policy: Policy, code: str, argument: Any, current: int | None, place: str) -> str:
    if code == "schedule":
        out = "" if current is None else f"{task_name(current)} out"
        came = "" if argument is None else f"{task_name(argument)} in"
        return f"switch: {', '.join(part for part in (out, came) if part)}"
    if code == "ioperm":
        port, on = argument
        return f"ioperm(port {port}, {'on' if on else 'off'})"
    if code in ("continue", "leave"):
        hook, _, number = place.partition("+")
        hook = "ioperm" if hook == "ioperm" else "vcpu_put"
        regions = [region for region in policy.regions(hook) if region]
        entry = int(number) if code == "continue" else 0
        steps = ", ".join(map(str, regions[entry])) if entry < len(regions) else "no step"
        return f"{'ioperm' if hook == 'ioperm' else 'put'}: {steps}"
    return {
        "to_user": "to user mode",
        "kvm_run": "calls KVM_RUN",
        "enter": "enters the guest",
        "vm_exit": "VM exit and entry",
        "return": "leaves KVM_RUN, no guest entered",
        "task_exit": "exits",
    }[code]


def _changes(before: State, after: State, cpu: int, task: int | None) -> tuple[Change, ...]:
    """Return what changed; a column of another CPU or task than the event's has its name."""
    found = []
    for kind, mine, names in (("cpus", cpu, "CPU {}"), ("tasks", task, "{}")):
        for number, (old, new) in enumerate(zip(before[kind], after[kind], strict=True)):
            name = names.format(number if kind == "cpus" else task_name(number))
            for column, value in old.items():
                if value != new[column]:
                    label = column if number == mine else f"{name} {column}"
                    found.append((label, _shown(column, value), _shown(column, new[column])))
    return tuple(found)


def _shown(column: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return "{" + ",".join(map(str, value)) + "}"
    if column in ("task", "map_of") and isinstance(value, int):
        return task_name(value)
    return str(value)
