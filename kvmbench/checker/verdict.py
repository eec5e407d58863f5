"""A policy's verdict: every interleaving of a small machine explored (docs/check.md).

`kvmbench.check` is `check` here; the command prints the verdicts that it returns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kvmbench.atomic import memory_left
from kvmbench.catalog import find_policy
from kvmbench.checker.document import document
from kvmbench.checker.explorer import (
    CPUS_MAX,
    EXTRA_EVENTS,
    PORTS_MAX,
    STATES_MAX,
    TASKS_MAX,
    Explorer,
)
from kvmbench.checker.history import Counterexample, Explored, RawEvent, State, Wasted, events
from kvmbench.errors import unknown_name
from kvmbench.model import HOOKS, Policy
from kvmbench.report import Document, Reported

__all__ = [
    "CPUS_MAX",
    "EXTRA_EVENTS",
    "PORTS_MAX",
    "STATES_MAX",
    "TASKS_MAX",
    "Counterexample",
    "Explorer",
]
__all__ += ["Verdict", "Wasted", "check", "default_memory"]

AT_ONCE = 100_000  # states between two looks at Ctrl-C and progress: a fraction of a second
MEMORY = 8 * 10**9  # bytes
STOPPED = "stopped by Ctrl-C or a signal"
SHAPE = ("cpus", "tasks", "ports", "symmetry", "events")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Verdict(Explored, Reported):
    """The verdict on a policy, on a machine of so many CPUs, tasks and ports.

    `verdict` is "safe" (every state seen, no violation), "unsafe" or "undecided"; only then
    `reason` names the limit that ended the search. `depth` is the number of events that reach the
    last state, `seconds` are of wall-clock time. `wasted_reloads` (they find the limit full) and
    `unreachable_steps` (no history takes them) are costs, not faults, of the states that were
    seen. `history` is that of the counterexample as `Explorer.path` returns it. `replayed` tells
    how a replay confirmed it, and `mutants` are the verdicts on the policy's mutants by mutation;
    both are empty unless the caller asks for them.

    `str` prints as `kvmbench check` does; `records()` has a row per verdict.
    """

    policy: Policy
    history: Sequence[tuple[RawEvent | None, State]] = ()
    replayed: str | None = None
    mutants: Mapping[str, Verdict] = field(default_factory=dict)

    def __repr__(self) -> str:
        found = f"{self.states:,} states"
        if bad := self.counterexample:
            found = f"{bad.violation} after {len(bad.events)} events"
        return f"<Verdict {self.policy.name}: {self.verdict}, {found}>"

    def document(self) -> Document:
        """Return the document that `kvmbench check` prints."""
        return document([self])

    @property
    def stopped(self) -> bool:
        """Whether Ctrl-C ended the search, or that of a mutant."""
        return self.reason == STOPPED or any(v.stopped for v in self.mutants.values())

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
            events=self.events, max_states=max(self.states, 10**6),
        )  # fmt: skip
        shorter = plain.counterexample
        if shorter is None or not plain._confirmed(shorter):
            return shown
        return (
            f"{shown}, but counts the {shorter.violation} of the shortest history without "
            f"preemption in the kernel, {len(shorter.events)} events"
        )

    def _confirmed(self, bad: Counterexample) -> bool:
        """Replay the history; return whether Machine has operations for it."""
        from kvmbench.checker import replay  # it needs the core, and so numpy

        sizes, found = (self.cpus, self.tasks, self.ports), (bad.violation, bad.port)
        differs = replay.stepper_shows(self.policy, sizes, self.history, found, self.events)
        if differs is not None:
            raise RuntimeError(f"{self.policy.name}: the replay differs: {differs}")
        events = [event for event, _ in self.history if event is not None]
        shown = replay.machine_shows(self.policy, sizes, events, found, self.events)
        if shown is False:
            raise RuntimeError(f"{self.policy.name}: Machine does not show the {bad.violation}")
        return shown is not None


def default_memory() -> int:
    """Return the bytes that a search takes at most by default: 8 GB, or 3/4 of what is left."""
    return min(MEMORY, int(min(memory_left(), 4 * MEMORY) * 3 / 4))


def check(
    policy: str | Path | Policy, *, cpus: int = 2, tasks: int = 3, ports: int = 2,
    symmetry: bool = True, whole_calls: bool = False, events: Iterable[str] = (), jobs: int = 1,
    max_states: int = STATES_MAX, max_memory: int | None = None, replay: bool = False,
    mutations: bool = False, progress: Callable[[Explorer], None] | None = None,
) -> Verdict:  # fmt: skip
    """Explore every interleaving of `policy` on a machine of that size; return the verdict.

    `policy` is a `Policy`, the name of a built-in one, or a TOML file that holds one policy. The
    machine has 1 to 3 `cpus`, 1 to 6 `tasks` and 1 to 4 `ports`. With `symmetry` the search
    merges states that differ only in the names of tasks and CPUs, or in maps that no task sees
    (docs/check.md, section 3). With `whole_calls` it leaves out histories that preempt a task
    inside the kernel, so that "safe" says less: the rest are operations of `Machine`. `events`
    are those of `EXTRA_EVENTS` that the search explores too. With 2 `jobs` it uses two threads:
    same verdict and states, and a counterexample of the same length.

    Beyond `max_states`, or `max_memory` in bytes (`default_memory()` for None), the verdict is
    "undecided". With `replay`, a counterexample is replayed without the explorer,
    `Verdict.replay`; with `mutations`, each mutant of the policy is checked too,
    `Verdict.mutants`. The search calls `progress` several times a second with the explorer: its
    `policy`, `states`, `queued` and `memory`.

    Ctrl-C ends the search as a limit does, with the verdict "undecided". The search installs no
    signal handler, and any thread may call.

    Raises ValueError for a size out of range, an unknown name, a file of several policies,
    FileError for a file that is no policy, OSError if it cannot be read, MemoryError if the
    search has no room to begin, RuntimeError if a replay shows something else.
    """
    policy = find_policy(policy)
    options: dict[str, Any] = dict(
        cpus=cpus, tasks=tasks, ports=ports, symmetry=symmetry, whole_calls=whole_calls,
        events=_known_events(events), jobs=jobs, max_states=max_states,
        max_memory=default_memory() if max_memory is None else max_memory,
    )  # fmt: skip
    verdict = _explored(policy, options, progress)
    if replay and verdict.counterexample:
        verdict = replace(verdict, replayed=verdict.replay())
    if not mutations:
        return verdict
    from kvmbench.checker.mutations import mutations as mutants_of

    found: dict[str, Verdict] = {}
    verdict = replace(verdict, mutants=found)
    for name, mutant in mutants_of(policy, options["events"]).items():
        if verdict.stopped:
            break
        found[name] = _explored(mutant, options, progress)
    return verdict


def _known_events(events: Iterable[str]) -> tuple[str, ...]:
    """Return some of EXTRA_EVENTS in its order; raises ValueError for another name."""
    asked = {events} if isinstance(events, str) else set(events)
    for name in asked - set(EXTRA_EVENTS):
        raise ValueError(unknown_name("event", name, EXTRA_EVENTS))
    return tuple(name for name in EXTRA_EVENTS if name in asked)


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
    limits = {
        "stopped": STOPPED,
        "max_states": f"limit of {options['max_states']:,} states",
        "max_memory": f"limit of {options['max_memory'] / 1e9:g} GB",
        "memory": "no memory left",
    }
    verdicts: dict[str, Literal["safe", "unsafe"]] = {"all": "safe", "bad": "unsafe"}
    history: Sequence[tuple[RawEvent | None, State]] = ()
    bad = None
    if ended == "bad":
        history, violation, port = explorer.path()
        allowed = None if port is None else violation == "leak"
        bad = Counterexample(
            violation=violation, port=port, owned=None if allowed is None else not allowed,
            allowed=allowed, events=events(policy, history),
        )  # fmt: skip
    return Verdict(
        **{name: options[name] for name in SHAPE}, history=history, counterexample=bad,
        policy=policy, verdict=verdicts.get(ended, "undecided"), reason=limits.get(ended),
        states=explorer.states, transitions=explorer.transitions, depth=explorer.depth,
        preemption_points=_preemption_points(policy, options),
        seconds=time.perf_counter() - begun, memory_bytes=explorer.memory,
        wasted_reloads=tuple(
            Wasted(_step(policy, hook, index), events(policy, history))
            for hook, index, history in explorer.wasted()
        ),
        unreachable_steps=tuple(_step(policy, *step) for step in explorer.never_taken()),
    )  # fmt: skip


def _preemption_points(policy: Policy, options: Mapping[str, Any]) -> int:
    """Return how many places between the entries of hooks a preemption may come at."""
    entries = {hook: sum(map(bool, policy.regions(hook))) for hook in HOOKS}
    found = entries["ioperm"] + max(0, entries["vcpu_put"] - 1)
    found += entries["task_exit"] if "exit-preemption" in options["events"] else 0
    return 0 if options["whole_calls"] else found


def _step(policy: Policy, hook: str, index: int) -> str:
    return f"{hook}: {policy.steps(hook)[index]}"
