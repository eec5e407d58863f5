"""A policy's verdict: every interleaving of a small machine explored (docs/check.md).

`kvmbench.check` is `check` here; the command prints the verdicts that it returns.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kvmbench.catalog import find_policy
from kvmbench.checker.explorer import CPUS_MAX, PORTS_MAX, STATES_MAX, TASKS_MAX, Explorer
from kvmbench.checker.history import Event, State, events
from kvmbench.model import Policy
from kvmbench.report import Document, Reported

__all__ = [
    "CPUS_MAX",
    "PORTS_MAX",
    "STATES_MAX",
    "TASKS_MAX",
    "Counterexample",
    "Explorer",
    "Verdict",
    "Wasted",
    "check",
    "default_memory",
]

AT_ONCE = 100_000  # states between two looks at Ctrl-C and progress: a fraction of a second
MEMORY = 8 * 10**9  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterexample:
    """A shortest history that ends in a violation: "leak", "denial" or "fault".

    `port` is None for a fault, else `owned` says whether the task has the port and `allowed`
    whether the hardware lets the access through. `start` is the state before the first event.
    """

    violation: Literal["leak", "denial", "fault"]
    port: int | None
    owned: bool | None
    allowed: bool | None
    start: State
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Wasted:
    """A step that reloads although the limit is full, and a shortest history that ends so."""

    step: str
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Verdict(Reported):
    """The verdict on a policy, on a machine of so many CPUs, tasks and ports.

    `verdict` is "safe" (every state seen, no violation), "unsafe" or "undecided" (`reason` says
    what ended the search). `depth` is the number of events that reach the last state, `seconds`
    are of wall-clock time, `memory` is in bytes. `wasted_reloads` (they find the limit full) and
    `unreachable_steps` (no history takes them) are costs, not faults, of the states that were
    seen. `replayed` says how a replay confirmed the counterexample, and `mutants` are the
    verdicts on the policy's mutants by mutation; both are empty unless asked for.

    `str` prints as `kvmbench check` does; `records()` has a row per verdict.
    """

    policy: Policy
    cpus: int
    tasks: int
    ports: int
    symmetry: bool
    verdict: Literal["safe", "unsafe", "undecided"]
    reason: str
    states: int
    transitions: int
    depth: int
    seconds: float
    memory: int
    counterexample: Counterexample | None
    wasted_reloads: tuple[Wasted, ...]
    unreachable_steps: tuple[str, ...]
    replayed: str = ""
    mutants: Mapping[str, Verdict] = field(default_factory=dict)

    def __repr__(self) -> str:
        found = f"{self.states:,} states"
        if bad := self.counterexample:
            found = f"{bad.violation} after {len(bad.events)} events"
        return f"<Verdict {self.policy.name}: {self.verdict}, {found}>"

    def document(self) -> Document:
        """Return the document that `kvmbench check` prints."""
        from kvmbench.checker.document import document

        return document([self])

    @property
    def stopped(self) -> bool:
        """Whether Ctrl-C ended the search, or that of a mutant."""
        return "Ctrl-C" in self.reason or any(v.stopped for v in self.mutants.values())

    def replay(self) -> str:
        """Replay the counterexample without the explorer; return in a line how it was confirmed.

        It goes through `replay.Stepper`, state by state, and through `Machine` if operations do
        the same; if not, the shortest history that has operations goes there instead.

        Raises ValueError without a counterexample, and RuntimeError if a replay shows something
        else: then the explorer is wrong, or the replay is.
        """
        bad = self.counterexample
        if bad is None:
            raise ValueError(f"{self.policy.name} is {self.verdict}: it has no counterexample")
        shown = f"replayed: the stepper shows the {bad.violation}"
        if self._confirmed(bad):
            return f"{shown}, and Machine counts it"
        shown += "; Machine has no operations for it"
        plain = check(
            self.policy, cpus=self.cpus, tasks=self.tasks, ports=self.ports, whole_calls=True,
            max_states=max(self.states, 10**6),
        ).counterexample  # fmt: skip
        if plain is None or not self._confirmed(plain):
            return shown
        return (
            f"{shown}, but counts the {plain.violation} of the shortest history without "
            f"preemption in the kernel, {len(plain.events)} events"
        )

    def _confirmed(self, bad: Counterexample) -> bool:
        """Replay a history; return whether Machine has operations for it."""
        from kvmbench.checker import replay  # it needs the core, and so numpy

        sizes = (self.cpus, self.tasks, self.ports)
        found = (bad.violation, bad.port)
        codes = [(event.code, event.cpu, event.argument) for event in bad.events]
        states = [event.state for event in bad.events]
        history = [(None, bad.start), *zip(codes, states, strict=True)]
        differs = replay.stepper_shows(self.policy, sizes, history, found)
        if differs is not None:
            raise RuntimeError(f"{self.policy.name}: the replay differs: {differs}")
        shown = replay.machine_shows(self.policy, sizes, codes, found)
        if shown is False:
            raise RuntimeError(f"{self.policy.name}: Machine does not show the {bad.violation}")
        return shown is not None


def default_memory() -> int:
    """Return the bytes that a search may take by default: 8 GB, or 3/4 of a smaller machine's."""
    return min(MEMORY, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4)


def check(
    policy: str | Path | Policy,
    *,
    cpus: int = 2,
    tasks: int = 3,
    ports: int = 2,
    symmetry: bool = True,
    whole_calls: bool = False,
    max_states: int = STATES_MAX,
    max_memory: int | None = None,
    replay: bool = False,
    mutations: bool = False,
    progress: Callable[[Explorer], None] | None = None,
) -> Verdict:
    """Explore every interleaving of `policy` on a machine of that size; return the verdict.

    Parameters
    ----------
    policy
        A `Policy`, the name of a built-in one, or a TOML file that holds one policy.
    cpus, tasks, ports
        The machine: 1 to 3 CPUs, 1 to 6 tasks, 1 to 4 ports.
    symmetry
        Merge states that differ only in the names of tasks and CPUs, or in maps that no task
        sees (docs/check.md, section 3).
    whole_calls
        Leave out histories that preempt a task inside the kernel, so that "safe" says less: the
        rest are operations of `Machine`.
    max_states, max_memory
        Limits in states and bytes, `default_memory()` for None. Beyond them the verdict is
        "undecided".
    replay
        Replay a counterexample without the explorer, `Verdict.replay`.
    mutations
        Check each mutant of the policy too, `Verdict.mutants`.
    progress
        Called several times a second with the explorer: its `policy`, `states`, `queued` and
        `memory`.

    Ctrl-C ends the search as a limit does, with the verdict "undecided". No signal handler is
    installed, and any thread may call.

    Raises ValueError for a size out of range, an unknown name or a file of several policies,
    FileError for a file that is no policy, OSError if it cannot be read, MemoryError if the
    search has no room to begin, RuntimeError if a replay shows something else.
    """
    policy = find_policy(policy)
    options: dict[str, Any] = {
        "cpus": cpus, "tasks": tasks, "ports": ports, "symmetry": symmetry,
        "whole_calls": whole_calls, "max_states": max_states,
        "max_memory": default_memory() if max_memory is None else max_memory,
    }  # fmt: skip
    verdict = _explored(policy, options, progress)
    if replay and verdict.counterexample:
        verdict = replace(verdict, replayed=verdict.replay())
    if not mutations:
        return verdict
    from kvmbench.checker.mutations import mutations as mutants_of

    found: dict[str, Verdict] = {}
    verdict = replace(verdict, mutants=found)
    for name, mutant in mutants_of(policy).items():
        if verdict.stopped:
            break
        found[name] = _explored(mutant, options, progress)
    return verdict


def _explored(
    policy: Policy, options: Mapping[str, Any], progress: Callable[[Explorer], None] | None
) -> Verdict:
    begun = time.perf_counter()
    explorer = Explorer(policy, **options)
    ended: str | None = None
    try:
        while ended is None:
            ended = explorer.explore(AT_ONCE)
            if progress is not None:
                progress(explorer)
    except KeyboardInterrupt:
        ended = "stopped"
    reason = {
        "stopped": "stopped by Ctrl-C",
        "max_states": f"limit of {options['max_states']:,} states",
        "max_memory": f"limit of {options['max_memory'] / 1e9:g} GB",
        "memory": "no memory left",
    }.get(ended, "")
    verdicts: dict[str, Literal["safe", "unsafe"]] = {"all": "safe", "bad": "unsafe"}
    return Verdict(
        policy=policy, cpus=options["cpus"], tasks=options["tasks"], ports=options["ports"],
        symmetry=options["symmetry"], verdict=verdicts.get(ended, "undecided"), reason=reason,
        states=explorer.states, transitions=explorer.transitions, depth=explorer.depth,
        seconds=time.perf_counter() - begun, memory=explorer.memory,
        counterexample=_counterexample(explorer) if ended == "bad" else None,
        wasted_reloads=tuple(
            Wasted(_step(policy, hook, index), events(policy, history))
            for hook, index, history in explorer.wasted()
        ),
        unreachable_steps=tuple(_step(policy, *step) for step in explorer.never_taken()),
    )  # fmt: skip


def _step(policy: Policy, hook: str, index: int) -> str:
    return f"{hook}: {policy.steps(hook)[index]}"


def _counterexample(explorer: Explorer) -> Counterexample:
    history, violation, port = explorer.path()
    allowed = None if port is None else violation == "leak"
    return Counterexample(
        violation=violation, port=port, owned=None if allowed is None else not allowed,
        allowed=allowed, start=history[0][1], events=events(explorer.policy, history),
    )  # fmt: skip
