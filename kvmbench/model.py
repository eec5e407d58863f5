"""The declarations: operations, costs, exit kinds, profiles, policies, workloads.

Every subject reads them; docs/model.md says how the machine acts on them.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from kvmbench.errors import brief, cut, unknown_name

__all__ = [
    "BASES",
    "CONDITIONS",
    "HOOKS",
    "MODEL_VERSION",
    "STEPS",
    "Costs",
    "ExitKind",
    "GuestProgram",
    "Op",
    "Operation",
    "Policy",
    "Profile",
    "Provenance",
    "Step",
    "Workload",
]

MODEL_VERSION = "1"
"""Changes when the same input gives other integers (docs/model.md)."""

COST_MAX = 2**32 - 1  # cycles; so that no operation's sum comes near the clock's 2**63


class Op(IntEnum):
    """The operations of a machine, as `OP_DTYPE`'s `code` (docs/model.md, section 6)."""

    EXIT = 0  # a = exit kind
    SWITCH = 1  # a = task, -1 = idle
    IOPERM = 2  # a = first port, b = count, arg = 1 grants, 0 revokes
    IO = 3  # a = port, arg = width in bytes
    TASK_EXIT = 4
    ADVANCE = 5  # a = cycles
    FORK = 6  # a = child, arg = 1: it fails after copy_thread()
    IOPL = 7  # a = level
    EXEC = 8


class Operation(NamedTuple):
    """One operation, without its CPU; `Op` has the meaning of `a`, `b` and `arg` per code."""

    op: Op
    a: int = 0
    b: int = 0
    arg: int = 0

    def __str__(self) -> str:
        """Return the operation in words: `SWITCH 1`, `IOPERM 0x3bc 3 on`, `IO 0x378 1`."""
        words: dict[Op, tuple[object, ...]] = {
            Op.IOPERM: (f"{self.a:#x}", self.b, "on" if self.arg else "off"),
            Op.IO: (f"{self.a:#x}", self.arg),
            Op.TASK_EXIT: (),
            Op.FORK: (self.a, "fails") if self.arg else (self.a,),
            Op.EXEC: (),
        }
        return " ".join(map(str, (self.op.name, *words.get(self.op, (self.a,)))))

    def row(self, cpu: int = 0) -> tuple[int, int, int, int, int, int]:
        """Return the operation as a row of OP_DTYPE."""
        return self.op, self.arg, cpu, self.a, self.b, 0


def _set_int(record: object, field_name: str, what: str, low: int, high: int) -> None:
    """Make a field of a frozen record a checked int; numpy's integers are integers too."""
    value = getattr(record, field_name)
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{what} is {brief(value)}, not an integer")
    value = operator.index(value)
    if not low <= value <= high:
        raise ValueError(f"{what} is {brief(value)}, not in {low} to {high}")
    object.__setattr__(record, field_name, value)


def _check_name(what: str, name: object) -> None:
    if not isinstance(name, str) or not name or name != name.strip() or not name.isprintable():
        raise ValueError(f"{what} name is {brief(name)}, not a printable, non-empty string")


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """The costs of the kernel's own steps, in cycles, each 0 to 2**32 - 1.

    Raises TypeError for a value that is no integer, ValueError for one out of range.
    """

    irq_exit: int  # exit, handler and no re-entry of the interrupt that brings a switch about
    host_save: int  # saving host state before the first entry
    host_restore: int  # the put, without TR
    gdt_write: int  # the store that makes the GDT's TSS descriptor available again
    ltr: int  # LTR where it overlaps nothing
    mark: int  # one per-CPU store: limit_stale, or io_bitmap_base
    test: int  # one per-CPU load and branch
    switch: int  # context switch
    migrate: int  # more, where the next task ran on another CPU
    switch_overlap: int  # work in flight that an LTR inside a switch waits for
    ioperm: int  # the system call, without its map work
    io: int  # IN or OUT that the port check lets through
    gp_fault: int  # IN or OUT that ends in #GP(0), fault included
    copy_base: int  # copying an I/O bitmap: fixed part
    copy_line: int  # and per started 64 bytes
    wipe_base: int  # filling an I/O bitmap with ones: fixed part
    wipe_line: int  # and per started 64 bytes

    def __post_init__(self) -> None:
        for entry in fields(self):
            _set_int(self, entry.name, f"costs.{entry.name}", 0, COST_MAX)


@dataclass(frozen=True, slots=True)
class ExitKind:
    """One kind of VM exit: its cycles, and whether it leaves the guest and the kernel.

    `cycles` (guest instruction, exit, handler, re-entry), `user_cycles` (ioctl return, userspace
    device, ioctl) and `overlap` (work in flight that an LTR here waits for) are cycles, 0 to
    2**32 - 1. `exits`: the instruction causes a VM exit; `user`: the exit goes on to userspace.

    Raises TypeError or ValueError, naming the field; ValueError for `user` without `exits`.
    """

    name: str
    cycles: int
    user_cycles: int = 0
    overlap: int = 0
    exits: bool = True
    user: bool = False

    def __post_init__(self) -> None:
        _check_name("exit kind", self.name)
        for what in ("cycles", "user_cycles", "overlap"):
            _set_int(self, what, f"kinds.{cut(self.name)}.{what}", 0, COST_MAX)
        for what, value in (("exits", self.exits), ("user", self.user)):
            if not isinstance(value, bool):
                raise TypeError(
                    f"kinds.{cut(self.name)}.{what} is {brief(value)}, not true or false"
                )
        if self.user and not self.exits:
            raise ValueError(
                f"kinds.{cut(self.name)}: user needs exits: a VM exit leads to userspace"
            )


BASES = ("published", "measured", "fitted", "assumed")


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where one figure comes from: its basis (one of `BASES`) and its source, in words.

    `interval` has the ends of a measured figure's 95 % interval, in cycles, where it is known.
    Raises ValueError for another basis, an empty source and an interval that is not two ascending
    integers from 0 on.
    """

    basis: str
    source: str
    interval: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.basis not in BASES:
            raise ValueError(unknown_name("basis", self.basis, BASES))
        if not isinstance(self.source, str) or not self.source.strip():
            raise ValueError("source is empty: name the origin of the figure")
        if self.interval is not None:
            ends = tuple(self.interval)
            whole = all(isinstance(end, int) and not isinstance(end, bool) for end in ends)
            if len(ends) != 2 or not whole or not 0 <= ends[0] <= ends[1] <= COST_MAX:
                words = f"interval is {brief(self.interval)}, not two ascending integers from 0 on"
                raise ValueError(words)
            object.__setattr__(self, "interval", ends)


KINDS_MAX = 2**16
UNSTATED = Provenance("assumed", "not stated by the author of the profile")


@dataclass(frozen=True, slots=True)
class Profile:
    """The costs of one machine: global ones, exit kinds, and where each figure comes from.

    `tsc_hz` is the clock in cycles per second, or None where it is not known. `provenance` maps
    figures, written as `costs.ltr` or `kinds.cpuid.cycles`, to `Provenance`; a figure that is
    not named there counts as assumed.

    Raises TypeError or ValueError, naming the field: kinds that share a name, a figure in
    `provenance` that the profile does not have.
    """

    name: str
    costs: Costs
    kinds: tuple[ExitKind, ...]
    tsc_hz: int | None = None
    provenance: Mapping[str, Provenance] = field(default_factory=dict, hash=False)
    about: str = ""

    def __post_init__(self) -> None:
        _check_name("profile", self.name)
        if not isinstance(self.costs, Costs):
            raise TypeError(f"costs is {brief(self.costs)}, not Costs")
        object.__setattr__(self, "kinds", tuple(self.kinds))
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))
        if len(self.kinds) > KINDS_MAX:
            raise ValueError(f"kinds has {len(self.kinds)} entries, not 0 to {KINDS_MAX}")
        for kind in self.kinds:
            if not isinstance(kind, ExitKind):
                raise TypeError(f"kinds holds {brief(kind)}, not an ExitKind")
        names = Counter(kind.name for kind in self.kinds)
        if len(names) != len(self.kinds):
            raise ValueError(f"kinds: two are named {brief(names.most_common(1)[0][0])}")
        if self.tsc_hz is not None:
            _set_int(self, "tsc_hz", "tsc_hz", 1, 10**12)
        figures = self.figures()
        for figure, origin in self.provenance.items():
            if figure not in figures:
                raise ValueError(unknown_name("figure in provenance:", figure, figures))
            if not isinstance(origin, Provenance):
                raise TypeError(f"provenance of {figure} is {brief(origin)}, not a Provenance")

    def __reduce__(self) -> tuple[Any, ...]:  # a MappingProxyType does not pickle
        values = (self.name, self.costs, self.kinds, self.tsc_hz, dict(self.provenance), self.about)
        return type(self), values

    def figures(self) -> dict[str, int]:
        """Return every figure by its path, in cycles: `costs.ltr`, `kinds.cpuid.cycles` ..."""
        found = {f"costs.{f.name}": int(getattr(self.costs, f.name)) for f in fields(self.costs)}
        for kind in self.kinds:
            for what in ("cycles", "user_cycles", "overlap"):
                found[f"kinds.{kind.name}.{what}"] = getattr(kind, what)
        return found

    def with_costs(
        self, figures: Mapping[str, int] = MappingProxyType({}), *, source: str,
        basis: str = "assumed", name: str | None = None, **costs: int,
    ) -> Profile:  # fmt: skip
        """Return a profile with other figures, whose provenance is `basis` and `source`.

        `costs` are fields of `Costs`, `figures` any figures by path (`kinds.cpuid.cycles`), in
        cycles. The other figures keep their origin.

        Raises ValueError for a figure that the profile does not have, for a basis that is none of
        `BASES` and for an empty source; TypeError and ValueError as `Costs` and `ExitKind`.
        """
        stated = {**figures, **{f"costs.{cost}": value for cost, value in costs.items()}}
        known = self.figures()
        changed: dict[str, dict[str, Any]] = {}  # a record's path -> its stated fields
        for figure, value in stated.items():
            if figure not in known:
                raise ValueError(unknown_name("figure", figure, known))
            record, _, entry = figure.rpartition(".")
            changed.setdefault(record, {})[entry] = value
        return replace(
            self,
            name=name or self.name,
            costs=replace(self.costs, **changed.get("costs", {})),
            kinds=tuple(replace(k, **changed.get(f"kinds.{k.name}", {})) for k in self.kinds),
            provenance={**self.provenance, **dict.fromkeys(stated, Provenance(basis, source))},
        )

    def origin(self, figure: str) -> Provenance:
        """Return the provenance of `figure`; assumed where the profile states none."""
        return self.provenance.get(figure, UNSTATED)

    def kind_index(self, name: str) -> int:
        """Return the index of the exit kind `name`; raises ValueError with the nearest name."""
        for index, kind in enumerate(self.kinds):
            if kind.name == name:
                return index
        raise ValueError(unknown_name("exit kind", name, (kind.name for kind in self.kinds)))


HOOKS = (
    *("vm_exit", "vcpu_put", "switch", "ioperm", "exit_to_user", "task_exit"),
    *("fork", "fork_failed", "iopl", "exec"),
)
_ANYWHERE = frozenset(HOOKS)
_SWITCH = frozenset({"switch"})  # the only hook that has a prev and a next
_IOPERM = frozenset({"ioperm"})  # the only hook that edits a map
_FORK = frozenset({"fork", "fork_failed"})  # the only hooks that have a child
_CHILD = (
    *("share_map", "dup_map", "set_child_tif", "clear_child_tif", "drop_child_map"),
    "inherit_iopl",
)

_ONLY = dict.fromkeys(("edit_map", "load_map"), _IOPERM)
_ONLY |= dict.fromkeys(("copy_map", "wipe_map"), _SWITCH)
_ONLY |= dict.fromkeys(_CHILD, _FORK)

STEPS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        name: _ONLY.get(name, _ANYWHERE)
        for name in (
            *("mark_available", "ltr", "clear_stale", "reload", "mark_stale", "refresh"),
            *("set_tif", "clear_tif", "alloc_map", "edit_map", "load_map", "copy_map"),
            *("wipe_map", "wipe_own", "sync_map", "validate_base", "invalidate_base"),
            *("drop_map", "stop", *_CHILD, "unshare_map", "set_iopl", "clear_iopl", "load_iopl"),
            "validate_all",
        )
    }
)
"""Each step that a policy may take, in the order of the C core, with its hooks."""

_CONDITIONS = {  # name: (the hooks in which it makes sense, its bit in the C core and checker)
    "tif": (_ANYWHERE, 1),
    "prev.tif": (_SWITCH, 1),  # in the switch hook `current` is prev
    "next.tif": (_SWITCH, 2),
    "first": (_IOPERM, 4),
    "on": (_IOPERM | {"iopl"}, 8),
    "empty": (_ANYWHERE, 16),
    "stale": (_ANYWHERE, 32),
    "sched": (frozenset({"vcpu_put"}), 64),
    "child.tif": (_FORK, 2),  # these hooks have no next
    "iopl": (_ANYWHERE, 128),
}

CONDITIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {name: hooks for name, (hooks, _) in _CONDITIONS.items()}
)
"""Each condition, which `not` may precede, and the hooks in which it makes sense."""


class Step(NamedTuple):
    """One step of a policy, parsed."""

    action: str  # a key of STEPS
    when: tuple[tuple[str, bool], ...]  # (key of CONDITIONS, the value it must have)

    @classmethod
    def parse(cls, text: object, hook: str) -> Step:
        """Parse `STEP if COND and not COND`; raises ValueError with the word that is wrong."""
        if not isinstance(text, str):
            raise TypeError(f"{hook}: {brief(text)} is not a step such as 'reload if tif'")
        words = text.split()
        if len(words) > 1 and words[1] != "if":
            raise ValueError(
                f"{hook}: {brief(text)}: expected 'if' after the step, found {brief(words[1])}"
            )
        action = words[0] if words else ""
        _check_word("step", action, STEPS, hook, text)
        when = []
        for term in " ".join(words[2:]).split(" and ") if len(words) > 1 else ():
            wanted = not term.startswith("not ")
            name = term.removeprefix("not ")
            _check_word("condition", name, CONDITIONS, hook, text)
            when.append((name, wanted))
        return cls(action, tuple(when))

    def compiled(self) -> tuple[int, int, int]:
        """Return (index in STEPS, bits to look at, what they must be) for the C of `_steps`.

        A step that contradicts itself wants a bit at which it does not look.
        """
        look = want = 0
        for name, value in self.when:
            bit = _CONDITIONS[name][1]
            if look & bit and bool(want & bit) != value:
                return list(STEPS).index(self.action), bit, bit ^ 0xFF
            look |= bit
            want |= bit if value else 0
        return list(STEPS).index(self.action), look, want

    def __str__(self) -> str:
        terms = " and ".join(name if wanted else f"not {name}" for name, wanted in self.when)
        return f"{self.action} if {terms}" if terms else self.action


def _check_word(
    what: str, word: str, table: Mapping[str, frozenset[str]], hook: str, text: str
) -> None:
    if word not in table:
        raise ValueError(f"{hook}: {brief(text)}: {unknown_name(what, word, table)}")
    if hook not in table[word]:
        places = ", ".join(sorted(table[word]))
        raise ValueError(f"{hook}: {brief(text)}: {what} {word!r} makes sense in {places} only")


Entries = tuple[str | tuple[str, ...], ...]

HOOK_STEPS_MAX = 64  # steps in one hook; bounds what one operation can cost


@dataclass(frozen=True, slots=True)
class Policy:
    """The kernel's handling of TR and the I/O bitmap at each of its hooks, as data.

    A hook is a sequence of entries; an entry is a step, `"refresh if next.tif"`, or a sequence
    of steps that runs with preemption off. `io_base_at_start` is `"valid"` or `"invalid"`.
    docs/model.md, section 5, has the steps, the conditions and where each makes sense.

    Raises ValueError or TypeError with the hook, the entry and the word that is wrong.
    """

    name: str
    vm_exit: Entries = ()
    vcpu_put: Entries = ()
    switch: Entries = ()
    ioperm: Entries = ()
    exit_to_user: Entries = ()
    task_exit: Entries = ()
    fork: Entries = ()
    fork_failed: Entries = ()
    iopl: Entries = ()
    exec: Entries = ()
    io_base_at_start: str = "valid"
    about: str = ""

    def __post_init__(self) -> None:
        _check_name("policy", self.name)
        for hook in HOOKS:
            entries = getattr(self, hook)
            if isinstance(entries, str) or not isinstance(entries, Sequence):
                raise TypeError(f"{hook} is {brief(entries)}, not a list of steps")
            frozen = tuple(e if isinstance(e, str) else _region(hook, e) for e in entries)
            object.__setattr__(self, hook, frozen)
            if len(self.steps(hook)) > HOOK_STEPS_MAX:
                raise ValueError(f"{hook} has more than {HOOK_STEPS_MAX} steps")
        if (base := self.io_base_at_start) not in ("valid", "invalid"):
            raise ValueError(f"io_base_at_start is {brief(base)}, not 'valid' or 'invalid'")

    def regions(self, hook: str) -> tuple[tuple[Step, ...], ...]:
        """Return the entries of `hook`, parsed; a step outside a list is a region by itself."""
        entries = ((e,) if isinstance(e, str) else e for e in getattr(self, hook))
        return tuple(tuple(Step.parse(text, hook) for text in entry) for entry in entries)

    def steps(self, hook: str) -> tuple[Step, ...]:
        """Return the steps of `hook` in order, whether preemption is off around them or not."""
        return tuple(step for region in self.regions(hook) for step in region)


def _region(hook: str, entry: object) -> tuple[str, ...]:
    if not isinstance(entry, Sequence) or not all(isinstance(text, str) for text in entry):
        raise TypeError(f"{hook}: {brief(entry)} is neither a step nor a list of steps")
    return tuple(entry)


class GuestProgram(Protocol):
    """Guest code for /dev/kvm, as kvmbench.guest.programs.Program has it."""

    @property
    def cpl(self) -> int: ...

    def assemble(self, origin: int, target: Any) -> bytes: ...

    def assemble_other(self, origin: int, target: Any) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Workload:
    """A loop whose iteration is simulated or measured.

    `exits` are the exit kinds of one iteration in order, names of the profile's kinds; empty, it is
    the one kind with the workload's name. The other fields are for the measurement:

    - `guest`: the loop's code, a `kvmbench.guest.programs.Program`; the name of the workload
      whose code it shares; or None for a workload that is only simulated.
    - `needs`: names of `kvmbench.live.machine.NEEDS`, without which the workload is skipped.
    - `waits_for_interrupt`: each iteration takes an interrupt; kvmbench marks a row whose
      iterations did not all take one.
    - `native`: no iteration leaves the guest on a CPU that executes CPL 0 itself; kvmbench marks a
      row that left, whose figure is the price of something else.
    - `faults`: pairs of an exception, such as "#UD", and a sentence that explains it here.
    - `vmexit_rows`: the names of its row in the output of kvm-unit-tests' x86/vmexit.

    `userspace` are the operations that tasks do outside the guest after the exits of an iteration,
    from the vCPU's thread, task 0, back to it: SWITCH, IOPERM and IO. `others` has an entry for
    each task from 1 on: the first port and the number of ports that it holds, or None. Measured,
    the guest's iteration returns to userspace once.

    Raises TypeError or ValueError for a name that is no string, is empty, is not printable or has
    a space, for `exits` that are no sequence of names, for a `guest` that is no program, and for
    an operation of `userspace` that is impossible there.
    """

    name: str
    about: str = ""
    exits: tuple[str, ...] = ()
    guest: GuestProgram | str | None = None
    needs: tuple[str, ...] = ()
    waits_for_interrupt: bool = False
    faults: tuple[tuple[str, str], ...] = ()
    vmexit_rows: tuple[str, ...] = ()
    native: bool = False
    userspace: tuple[Operation, ...] = ()
    others: tuple[tuple[int, int] | None, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.exits, str) or not isinstance(self.exits, Iterable):
            raise TypeError(
                f"exits of {brief(self.name)} is {brief(self.exits)}, not a tuple of names"
            )
        object.__setattr__(self, "exits", tuple(self.exits) or (self.name,))
        for name in (self.name, *self.exits):
            if not isinstance(name, str):
                raise TypeError(f"{brief(name)} is not the name of a workload or an exit kind")
            if not name or not name.isprintable():
                raise ValueError(f"name {brief(name)} is empty or not printable")
        if " " in self.name:
            raise ValueError(f"name {brief(self.name)} has a space in it")
        if not (self.guest is None or isinstance(self.guest, str) or hasattr(self.guest, "cpl")):
            raise TypeError(f"guest of {brief(self.name)} is {brief(self.guest)}, not a Program")
        object.__setattr__(self, "userspace", tuple(Operation(*one) for one in self.userspace))
        object.__setattr__(self, "others", tuple(self.others))
        task = 0
        for one in self.userspace:
            task = one.a if one.op == Op.SWITCH else task
            if one.op not in (Op.SWITCH, Op.IOPERM, Op.IO) or not 0 <= task <= len(self.others):
                raise ValueError(f"userspace of {self.name!r}: {one} is impossible there")
        if task:
            raise ValueError(f"userspace of {self.name!r} ends with task {task}, not with SWITCH 0")
