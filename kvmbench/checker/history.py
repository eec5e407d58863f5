"""A history of the explorer in words, and the findings that hold histories.

`verdict` makes them; `document` prints them and writes them as JSON, under the same names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from kvmbench.model import Policy

__all__ = ["Counterexample", "Event", "Explored", "RawEvent", "State", "Wasted", "events"]
__all__ += ["CPU_COLUMNS", "task_name"]

CPU_COLUMNS = ("limit", "stale", "busy", "base", "guest", "tss", "map_max", "map_of", "task")
"""The columns of a CPU in the states of `Explorer.path`; the others are a task's."""

State = Mapping[str, Sequence[Mapping[str, Any]]]
RawEvent = tuple[str, int, Any]  # code, CPU, argument (docs/check.md, "Events")


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a history, as JSON has it.

    `event` is its code (docs/check.md, "Events"), `text` is for people. `task` is the letter of
    the task that the event is about, None where the CPU goes idle. `changes` are the columns that
    the event changed, with their values before and after it.
    """

    cpu: int
    task: str | None
    event: str
    text: str
    changes: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterexample:
    """A shortest history that ends in a violation.

    `port` is None for a fault and a null, else `owned` tells whether the task has the port and
    `allowed` whether the hardware lets the access through.
    """

    violation: Literal["leak", "denial", "fault", "null"]
    port: int | None
    owned: bool | None
    allowed: bool | None
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Wasted:
    """A step that reloads although the limit is full, and a shortest history that ends so."""

    step: str
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explored:
    """The fields of a verdict that its JSON has under the same names.

    `events` are those that were explored on request (`EXTRA_EVENTS`), `preemption_points` the
    places in the policy's hooks where a task may be preempted.
    """

    cpus: int
    tasks: int
    ports: int
    symmetry: bool
    events: tuple[str, ...]
    preemption_points: int
    verdict: Literal["safe", "unsafe", "undecided"]
    reason: str | None
    states: int
    transitions: int
    depth: int
    seconds: float
    memory_bytes: int
    counterexample: Counterexample | None
    wasted_reloads: tuple[Wasted, ...]
    unreachable_steps: tuple[str, ...]


def task_name(task: int | None) -> str:
    """Return the letter of a task: A, B ...; `-` for none."""
    return "-" if task is None else chr(ord("A") + task)


def events(policy: Policy, history: Sequence[tuple[RawEvent | None, State]]) -> tuple[Event, ...]:
    """Return the events of a history of `Explorer.path`, whose first entry is the start."""
    found = []
    for (_, before), (event, after) in pairwise(history):
        assert event is not None  # only the start has none
        code, cpu, argument = event
        current = before["cpus"][cpu]["task"]
        task = argument if code == "schedule" else current
        place = "" if current is None else before["tasks"][current]["place"]
        text = _text(policy, code, argument, current, place)
        changes = _changes(before, after, cpu, task)
        found.append(Event(cpu, None if task is None else task_name(task), code, text, changes))
    return tuple(found)


def _text(policy: Policy, code: str, argument: Any, current: int | None, place: str) -> str:
    if code == "schedule":
        out = [] if current is None else [f"{task_name(current)} out"]
        into = [] if argument is None else [f"{task_name(argument)} in"]
        return f"switch: {', '.join(out + into)}"
    if code in ("fork", "fork_fails"):
        return f"fork: {task_name(argument)}" + (", fails" if code == "fork_fails" else "")
    if code in ("iopl", "exec"):
        return f"iopl({argument})" if code == "iopl" else "exec"
    if code == "ioperm":
        port, on = argument
        return f"ioperm(port {port}, {'on' if on else 'off'})"
    if code in ("continue", "leave"):
        call, _, number = place.partition("+")
        hook = {"ioperm": "ioperm", "exit": "task_exit"}.get(call, "vcpu_put")
        regions = [region for region in policy.regions(hook) if region]
        entry = int(number) if code == "continue" else 0
        steps = ", ".join(map(str, regions[entry])) if entry < len(regions) else "no step"
        return f"{hook}: {steps}"
    return {
        "to_user": "to user mode", "kvm_run": "calls KVM_RUN", "enter": "enters the guest",
        "vm_exit": "VM exit and entry", "return": "leaves KVM_RUN, no guest entered",
        "task_exit": "exits",
    }[code]  # fmt: skip


def _changes(before: State, after: State, cpu: int, task: int | None) -> dict[str, tuple[str, str]]:
    """Return the changed columns; those of another CPU or task than the event's bear its name."""
    found = {}
    for kind, mine in (("cpus", cpu), ("tasks", task)):
        for number, (old, new) in enumerate(zip(before[kind], after[kind], strict=True)):
            prefix = f"CPU {number} " if kind == "cpus" else f"{task_name(number)} "
            for column, value in old.items():
                if value != new[column]:
                    label = column if number == mine else prefix + column
                    found[label] = (_shown(column, value), _shown(column, new[column]))
    return found


def _shown(column: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if value is None:
        return "-"
    if column == "shares":
        return "{" + ",".join(map(task_name, value)) + "}"
    if isinstance(value, tuple):
        return "{" + ",".join(map(str, value)) + "}"
    if column in ("task", "map_of") and isinstance(value, int):
        return task_name(value)
    return str(value)
