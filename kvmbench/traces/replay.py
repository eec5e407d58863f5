"""A recording replayed: its exits, returns, switches and ioperm calls as operations of a machine.

`kvmbench trace run` prints it. Both policies run the same operations, so that the difference is
the policy's; docs/trace.md says how an event becomes an operation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kvmbench._core import Machine
from kvmbench.arrays import integer
from kvmbench.catalog import find_policy, find_profile
from kvmbench.causes import CAUSES, WRONG
from kvmbench.errors import ResultError, unknown_name
from kvmbench.model import ExitKind, Policy, Profile
from kvmbench.report import Document, Reported
from kvmbench.traces._history import CPUS_MAX, TASKS_MAX, History
from kvmbench.traces._reader import Reader
from kvmbench.traces.document import replay_document
from kvmbench.traces.recording import Progress, Recording, Task, read_events

__all__ = ["CLOCK_HZ", "Kinds", "Replay", "Side", "clock_of", "replay_recording"]

CLOCK_HZ = 2_600_000_000  # where the cost profile states no clock: base clock of servers of 2017
CLOCK_MAX = 10**10
ENTRY = ExitKind("(guest entry)", 0, exits=False)  # loads the guest's state and costs nothing more

_NAMED = {  # a reason without its prefix, in upper case: the exit kinds of in-kernel handling
    "CPUID": ("cpuid",),
    "KVM_CPUID": ("cpuid",),
    "VMCALL": ("vmcall",),
    "VMMCALL": ("vmcall",),
    "HYPERCALL": ("vmcall",),
    "KVM_HYPERCALL": ("vmcall",),
}
_PORT = ("IO_INSTRUCTION", "IO", "IOIO", "KVM_PIO")
_KERNEL = ("outl_to_kernel", "vmcall", "cpuid")  # the first of these that the profile has
_USER = ("inl_from_qemu", "inl_from_pmtimer")
_ARM = ("TRAP", "IRQ", "SERROR", "DABT_LOW", "IABT_LOW", "WFX", "SYS64", "HVC64", "SMC64")


@dataclass(frozen=True, slots=True)
class Side:
    """A replay under one policy: cycles by cause, and counters of docs/model.md, section 7."""

    policy: str
    cycles: Mapping[str, int]  # by cause, a key of CAUSES
    exits: int
    puts: int
    reloads: int
    leaks: int
    denials: int
    faults: int
    nulls: int

    @property
    def acted(self) -> int:
        """The cycles of the policy's own steps: TR and map."""
        return self.cycles["tr"] + self.cycles["map"]


@dataclass(frozen=True, slots=True, repr=False)
class Replay(Reported):
    """A recording under two policies. It prints as `kvmbench trace run` does.

    `worths` are the cycles that each task saves under the second policy.
    """

    recording: Recording
    profile: str
    vendor: Literal["vmx", "svm"]
    clock_hz: int
    operations: int
    before: Side
    after: Side
    worths: tuple[tuple[Task, int], ...]
    kinds: Mapping[str, str]  # an exit in words -> the exit kind whose costs it has
    assumptions: tuple[str, ...] = field(default_factory=tuple)

    def __repr__(self) -> str:
        names = f"{self.before.policy} -> {self.after.policy}"
        return f"<Replay {names} of {self.recording.source}: {self.worth:+,} cycles>"

    @property
    def worth(self) -> int:
        """The cycles that the same history no longer needs."""
        return sum(self.before.cycles.values()) - sum(self.after.cycles.values())

    @property
    def worth_of_others(self) -> int:
        """The worth to tasks that are neither a vCPU's thread nor hold an I/O bitmap."""
        return self.worth - sum(worth for _, worth in self.worths)

    @property
    def cpu_cycles(self) -> int:
        """The CPU time of the recording, in cycles: its seconds times its CPUs."""
        return round(self.recording.seconds * self.clock_hz * len(self.recording.cpus))

    @property
    def worth_percent(self) -> float | None:
        """The worth in percent of the CPU time of the recording; None where that is unknown."""
        return 100 * self.worth / self.cpu_cycles if self.cpu_cycles else None

    def document(self, *, explain: bool = False) -> Document:
        """Return the document that `kvmbench trace run` prints."""
        return replay_document(self, explain=explain)


class Kinds:
    """The exit kind of a profile whose costs a recorded exit has, and which ones were asked for."""

    def __init__(self, profile: Profile, chosen: Mapping[str, str] | None = None) -> None:
        """Take the user's own choices: `REASON` or `REASON/user` -> exit kind.

        Raises ValueError for an exit kind that the profile does not have, one that does not fit,
        and a profile without a kind for either way.
        """
        self.profile = profile
        self.used: dict[str, str] = {}
        self._known = {kind.name: kind for kind in profile.kinds if kind.exits}
        self._chosen = dict(chosen or {})
        self._default = {False: self._first(_KERNEL, False), True: self._first(_USER, True)}
        for reason, name in self._chosen.items():
            kind = profile.kinds[profile.kind_index(name)]
            user = reason.endswith("/user")
            if kind.user != user or not kind.exits:
                way = "returns to userspace" if user else "the kernel handles"
                raise ValueError(f"{reason}={name}: expected an exit kind that {way}")

    def _first(self, names: Iterable[str], user: bool) -> str:
        fitting = [kind.name for kind in self._known.values() if kind.user == user]
        for name in (*names, *fitting):
            if name in fitting:
                return name
        way = "returns to userspace" if user else "the kernel handles"
        raise ValueError(f"cost profile {self.profile.name!r} has no exit kind that {way}")

    def name(self, reason: str, user: bool, writes: bool | None) -> str:
        """Return the exit kind of an exit; `writes` is the direction of a port access."""
        plain = reason.upper().removeprefix("EXIT_").removeprefix("REASON_")
        for key in (reason, plain):
            if chosen := self._chosen.get(f"{key}/user" if user else key):
                return chosen
        names: tuple[str, ...] = () if user else _NAMED.get(plain, ())
        if plain in _PORT and not user:
            names = ("outl_to_kernel",) if writes is not False else ("inl_from_kernel",)
        for name in names:
            if name in self._known and not self._known[name].user:
                return name
        return self._default[user]

    def index(self, reason: str | None, user: bool, writes: bool | None) -> int:
        """Return the index in `extended` of an exit's kind; without a reason, that of an entry."""
        if reason is None:
            return len(self.profile.kinds)
        name = self.name(reason, user, writes)
        words = reason or "(exit not recorded)"
        if writes is not None:
            words += " OUT" if writes else " IN"
        self.used[f"{words}, {'to userspace' if user else 'in the kernel'}"] = name
        return self.profile.kind_index(name)

    def extended(self) -> Profile:
        """Return the profile with the kind of an entry as its last one."""
        return replace(self.profile, kinds=(*self.profile.kinds, ENTRY))


def clock_of(profile: Profile, clock_hz: int | None) -> int:
    """Return the clock that is given, or the profile's, or CLOCK_HZ.

    Raises ValueError for one that is given out of range.
    """
    if clock_hz is None:
        return min(profile.tsc_hz or CLOCK_HZ, CLOCK_MAX)
    return integer("clock_hz", clock_hz, 1_000_000, CLOCK_MAX)


class _Holders:
    """The tasks that hold an I/O bitmap from the start, by pid or by a pattern of their name."""

    def __init__(self, wanted: Iterable[str]) -> None:
        self.wanted = list(wanted)
        self.matched: set[str] = set()
        self.seen: dict[str, None] = {}

    def __call__(self, pid: int, comm: str) -> bool:
        if comm and len(self.seen) < 1000:
            self.seen[comm] = None
        found = {w for w in self.wanted if w == str(pid) or (comm and fnmatchcase(comm, w))}
        self.matched |= found
        return bool(found)

    def check(self, name: str) -> None:
        """Raise ResultError where a task that the user names is not in the recording."""
        for wanted in self.wanted:
            if wanted not in self.matched:
                what = f"{name}: no task of the recording is"
                raise ResultError(unknown_name(what, wanted, self.seen).replace("unknown ", "", 1))


def replay_recording(
    source: str | Path, before: str | Policy = "eager", after: str | Policy = "deferred",
    profile: str | Path | Profile = "patch-2017", *, vendor: Literal["vmx", "svm"] = "vmx",
    clock_hz: int | None = None, bitmaps: Iterable[str] = (),
    kinds: Mapping[str, str] | None = None, progress: Progress | None = None,
) -> Replay:  # fmt: skip
    """Replay the recording of a file, or of stdin as `-`, under two policies.

    Policies and cost profile are objects, built-in names or TOML files. `clock_hz` is the clock of
    the recorded CPUs, by default the profile's, else CLOCK_HZ. `bitmaps` are pids and patterns of
    names of the tasks that hold an I/O bitmap from the start; `kinds` maps `REASON` (exits that
    the kernel handles) or `REASON/user` to exit kinds of the profile.

    Raises ValueError as `Kinds`, ResultError as `read_recording` and for a task of `bitmaps` that
    the recording does not have, FileError and OSError for files.
    """
    policies = (find_policy(before), find_policy(after))
    found_kinds = Kinds(find_profile(profile), kinds)
    hz = clock_of(found_kinds.profile, clock_hz)
    machines = [
        Machine(CPUS_MAX, TASKS_MAX, policy, found_kinds.extended(), vendor) for policy in policies
    ]
    holders = _Holders(bitmaps)
    worths = np.zeros(TASKS_MAX + 1, np.int64)  # of idle, then of each task
    operations = 0

    def history(reader: Reader, infer: bool, switches: bool) -> History:
        return History(
            reader.names, infer=infer, switches=switches, hz=hz, kind=found_kinds.index,
            holds=holders if holders.wanted else None,
        )  # fmt: skip

    def run(ready: History) -> None:
        nonlocal operations
        ops, owners = ready.take()
        spent = [np.empty(len(ops), np.uint64) for _ in machines]
        for machine, cycles in zip(machines, spent, strict=True):
            machine.run(ops, cycles_out=cycles)
        saved = spent[0].astype(np.int64) - spent[1].astype(np.int64)
        np.add.at(worths, owners + 1, saved)
        operations += len(ops)

    recording, found = read_events(source, history, run, progress)
    holders.check(recording.source)
    if {r.reason.upper() for r in recording.reasons if r.reason} & set(_ARM):
        raise ResultError(f"{recording.source}: exits of arm64, which has no TR to reload")
    tasks = dict(zip(found.task_counts(), recording.tasks, strict=True))
    return Replay(
        recording=recording,
        profile=found_kinds.profile.name,
        vendor=vendor,
        clock_hz=hz,
        operations=operations,
        before=_side(machines[0]),
        after=_side(machines[1]),
        worths=tuple((task, int(worths[index + 1])) for index, task in tasks.items()),
        kinds=dict(sorted(found_kinds.used.items())),
        assumptions=tuple(_assumptions(recording, found_kinds.profile, hz, clock_hz, holders)),
    )


def _side(machine: Machine) -> Side:
    counters: NDArray[np.void] = machine.counters
    names = counters.dtype.names or ()
    sums = {name: int(counters[name].sum()) for name in names}
    return Side(
        policy=machine.policy.name,
        cycles={cause: sums[counter] for cause, (counter, _) in CAUSES.items()},
        **{n: sums[n] for n in ("exits", "puts", "reloads", *WRONG)},
    )


def _assumptions(
    recording: Recording, profile: Profile, hz: int, clock_hz: int | None, holders: _Holders
) -> Iterable[str]:
    counts = recording.counts
    yield (
        f"Costs are those of the cost profile {profile.name}, not of the recorded CPU; the "
        "recorded host times are not used."
    )
    origin = "as given" if clock_hz else "the cost profile's" if profile.tsc_hz else "assumed"
    yield f"The recorded CPUs run at {hz:,} cycles per second ({origin})."
    yield (
        "Guest, work and idle cycles are the recorded times. Time of a vCPU's thread in the kernel "
        "and in userspace is that of the cost profile."
    )
    yield (
        "An exit after which the thread is scheduled out before the next entry is the SWITCH's "
        "interrupt: it has the cycles irq_exit."
    )
    held = sum(task.bitmap for task in recording.tasks)
    if holders.wanted:
        yield f"Tasks {', '.join(holders.wanted)} hold an I/O bitmap of ports 0x378 to 0x37a."
    yield (
        f"{counts['ioperms']:,} ioperm() calls are recorded; {held:,} tasks hold an I/O bitmap. "
        "A bitmap from before the recording is unknown: --bitmap PID|COMM assumes one."
    )
    if counts["ioperms_left"]:
        yield f"{counts['ioperms_left']:,} ioperm() calls of a vCPU's thread are left out."
    if counts["late_returns"]:
        yield (
            f"{counts['late_returns']:,} returns to userspace after the vCPU had been scheduled "
            "out cost nothing here."
        )
    yield "The recording's order is the order of the operations; equal time stamps keep it."
    if any(r.reason.islower() and not r.reason.startswith("kvm_") for r in recording.reasons):
        yield "The exit reasons are SVM's: --vendor svm is their machine."
