"""A replay of a counterexample without the explorer: through `Machine`, and through `Stepper`.

`Verdict.replay` uses both, and the tests explore small machines with `Stepper`, slow and plain
Python. It follows docs/check.md and docs/model.md and shares no code with the explorer: it keeps
sequence numbers as they are, ports as the kernel numbers them and limits in bytes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any

from kvmbench._core import Machine
from kvmbench.checker.history import RawEvent, State
from kvmbench.model import HOOKS, Costs, ExitKind, Op, Policy, Profile, Step

__all__ = ["Refused", "Stepper", "machine_operations", "machine_shows", "stepper_shows"]

Sizes = tuple[int, int, int]  # CPUs, tasks, ports
Bad = tuple[str, int | None]  # violation, port

FULL, MIN = 0x206F, 0x67  # TR limits, docs/model.md, section 2
VALID, INVALID, ALL = 0x68, 0x2070, 0x2078
BASES = {VALID: "valid", INVALID: "invalid", ALL: "all"}
APART = 64  # from one port of the check to the next: each has its own 64-bit word
COUNTER = {"leak": "leaks", "denial": "denials", "fault": "faults", "null": "nulls"}
BEFORE = {  # event: the places of a task to which it can happen
    **dict.fromkeys(("enter", "return", "vm_exit", "leave"), ("KVM_RUN",)),
    **dict.fromkeys(("kvm_run", "ioperm", "fork", "fork_fails", "iopl", "exec"), ("user",)),
    "to_user": ("returning",),
    "continue": ("call",),
    "task_exit": ("returning", "user", "KVM_RUN"),
}
PLACES = {"ioperm": "ioperm", "vcpu_put": "put", "task_exit": "exit"}  # of a hook's entries
LOADED = {"enter": False, "return": False, "vm_exit": True, "leave": True}  # whether a guest is


class Refused(ValueError):
    """An event that is impossible in the present state; the state is unchanged."""


@dataclass(slots=True)
class Cpu:
    tr_limit: int = FULL
    busy: bool = True
    io_base: int = VALID
    tss: frozenset[int] = frozenset()  # ports that the TSS's map lets through
    stale: bool = False
    guest: bool = False
    task: int | None = None
    map_max: int = 0  # bytes
    map_seq: int = 0
    iopl: int = 0  # EFLAGS.IOPL in user mode


@dataclass(slots=True)
class Call:
    """A hook that a task takes, one entry at a time or whole, with the request of its call."""

    hook: str
    entry: int = 0
    port: int = 0
    on: bool = False
    first: bool = False
    max_before: int | None = None  # bytes, once there was an edit


@dataclass(slots=True)
class Task:
    place: str = "returning"  # "user", "returning" to it, "KVM_RUN" or "call"
    call: Call | None = None
    tif: bool = False
    map: frozenset[int] | None = None  # ports that the task's own map lets through
    owns: frozenset[int] = frozenset()  # ports whose latest ioperm() granted them
    max: int = 0  # bytes
    seq: int = 0
    map_id: int = 0  # of the map; tasks that share it have the same
    iopl: int = 0
    owns_iopl: int = 0  # what the latest iopl() asked for


@dataclass(slots=True)
class Stepper:
    """The machine of docs/check.md, one event at a time.

    `do` raises Refused for an impossible event. `bad` is None, or the first violation:
    ("leak", port), ("denial", port), ("fault", None) or ("null", None). Ports count from 0 and
    stand for the kernel's ports 0, 64, 128 ... `events` are those of docs/check.md that are
    explored on request.
    """

    policy: Policy
    n_cpus: int
    n_tasks: int
    n_ports: int
    events: tuple[str, ...] = ()
    cpus: list[Cpu] = field(init=False)
    tasks: list[Task] = field(init=False)
    sequence: int = 0
    maps: int = 0  # that were made so far
    bad: Bad | None = None
    hooks: dict[str, tuple[tuple[Step, ...], ...]] = field(init=False)
    hook: str = ""  # that is taken whole just now

    def __post_init__(self) -> None:
        base = VALID if self.policy.io_base_at_start == "valid" else INVALID
        self.cpus = [Cpu(io_base=base) for _ in range(self.n_cpus)]
        self.tasks = [Task() for _ in range(self.n_tasks)]
        self.hooks = {n: tuple(r for r in self.policy.regions(n) if r) for n in HOOKS}

    def copy(self) -> Stepper:
        """Return a stepper of the same state."""
        other = copy.copy(self)
        other.cpus = [copy.copy(cpu) for cpu in self.cpus]
        other.tasks = [copy.copy(task) for task in self.tasks]
        for task in other.tasks:
            task.call = copy.copy(task.call)
        return other

    # Events

    def do(self, code: str, number: int, arg: Any = None) -> None:
        """Let one event happen on a CPU."""
        cpu = self.cpus[number]
        if code == "schedule":
            if arg == cpu.task or (arg is not None and any(c.task == arg for c in self.cpus)):
                raise Refused("the task runs already")
            self._interrupt(cpu)
            self._switch(cpu, arg)
            return
        if cpu.task is None:
            raise Refused("the CPU is idle")
        task = self.tasks[cpu.task]
        if task.place not in BEFORE[code] or cpu.guest != LOADED.get(code, cpu.guest):
            raise Refused("the event cannot happen here")
        match code:
            case "to_user":
                self._hook("exit_to_user", cpu, task)
                task.place = "user"
                self._look(cpu, task)
            case "kvm_run":
                task.place = "KVM_RUN"
            case "enter":
                cpu.guest = True
            case "vm_exit":
                self._vm_exit(cpu, task)
            case "leave":
                self._vm_exit(cpu, task)
                cpu.guest = False
                task.place, task.call = "call", Call("vcpu_put")
                self._entry(cpu, task)
            case "return":
                task.place = "returning"
            case "ioperm":
                port, on = APART * arg[0], arg[1]
                task.owns = task.owns | {port} if on else task.owns - {port}
                task.place = "returning"
                if self.hooks["ioperm"]:
                    call = Call("ioperm", port=port, on=on, first=task.map is None)
                    task.place, task.call = "call", call
            case "continue":
                self._entry(cpu, task)
            case "task_exit":
                self._interrupt(cpu)
                task.owns, task.owns_iopl = frozenset(), 0
                task.call = Call("task_exit")
                task.place = "call"
                if "exit-preemption" not in self.events or not self.hooks["task_exit"]:
                    self._hook("task_exit", cpu, task)
                    self._end_task(cpu)

            case "fork" | "fork_fails":
                self._fork(cpu, task, arg, code == "fork_fails")
            case "iopl" | "exec":
                task.call = Call(code, on=arg == 3)
                self._hook(code, cpu, task)
                task.owns_iopl = arg or 0
                task.place, task.call = "returning", None

    def _fork(self, cpu: Cpu, task: Task, number: int, fails: bool) -> None:
        if self.tasks[number] != Task() or any(c.task == number for c in self.cpus):
            raise Refused("the child is not as at the start")
        child = self.tasks[number]
        self._hook("fork", cpu, task, child)
        if fails:
            self._hook("fork_failed", cpu, task, child)
            self.tasks[number] = Task()
        else:
            child.owns, child.owns_iopl = task.owns, task.owns_iopl
        task.place = "returning"

    def _end_task(self, cpu: Cpu) -> None:
        assert cpu.task is not None
        self.tasks[cpu.task] = Task()
        self._switch(cpu, None)

    def _interrupt(self, cpu: Cpu) -> None:
        if cpu.guest:
            task = self._task(cpu.task)
            self._vm_exit(cpu, task)
            cpu.guest = False
            self._hook("vcpu_put", cpu, task, sched=True)

    def _task(self, number: int | None) -> Task | None:
        return None if number is None else self.tasks[number]

    def _switch(self, cpu: Cpu, number: int | None) -> None:
        prev = self._task(cpu.task)
        self._hook("switch", cpu, prev, self._task(number))
        if prev is not None and prev.place == "user":
            prev.place = "returning"
        cpu.task = number

    def _vm_exit(self, cpu: Cpu, task: Task | None) -> None:
        cpu.tr_limit = MIN
        self._hook("vm_exit", cpu, task)

    def _entry(self, cpu: Cpu, task: Task) -> None:
        call = task.call
        assert call is not None
        entries = self.hooks[call.hook]
        stopped = bool(entries) and self._steps(entries[call.entry], cpu, task)
        call.entry += 1
        if not stopped and call.entry < len(entries):
            return
        if call.hook == "task_exit":
            self._end_task(cpu)
        else:
            task.place, task.call = "returning", None

    def _look(self, cpu: Cpu, task: Task) -> None:
        """Compare the hardware's answer with the ports that the task owns."""
        for port in range(self.n_ports):
            real = APART * port
            if cpu.io_base == ALL:
                allowed = cpu.tr_limit == FULL
            else:
                inside = cpu.io_base + real // 8 + 1 <= cpu.tr_limit
                allowed = inside and real in cpu.tss
            allowed = allowed or cpu.iopl == 3
            owned = real in task.owns or task.owns_iopl == 3
            if allowed != owned and self.bad is None:
                self.bad = ("leak" if allowed else "denial", port)

    # Steps

    def _hook(
        self, name: str, cpu: Cpu, task: Task | None, following: Task | None = None,
        sched: bool = False,
    ) -> None:  # fmt: skip
        self.hook = name
        self._steps(chain(*self.hooks[name]), cpu, task, following, sched)
        self.hook = ""

    def _steps(
        self, steps: Iterable[Step], cpu: Cpu, task: Task | None, following: Task | None = None,
        sched: bool = False,
    ) -> bool:  # fmt: skip
        """Take the steps of one entry, or of a hook; return whether `stop` ended them."""
        for step in steps:
            if all(_holds(n, cpu, task, following, sched) == v for n, v in step.when):
                if step.action == "stop":
                    return True
                self._take(step.action, cpu, task, following)
        return False

    def _take(self, action: str, cpu: Cpu, task: Task | None, following: Task | None) -> None:
        match action:
            case "mark_available":
                cpu.busy = False
            case "ltr":
                self._ltr(cpu)
            case "reload" | "refresh":
                if action == "reload" or cpu.stale:
                    cpu.busy = False
                    self._ltr(cpu)
                    cpu.stale = False
            case "mark_stale" | "clear_stale":
                cpu.stale = action == "mark_stale"
            case "validate_base" | "invalidate_base" | "validate_all":
                bases = {"validate_base": VALID, "invalidate_base": INVALID, "validate_all": ALL}
                cpu.io_base = bases[action]
            case "load_iopl":
                user = following if self.hook == "switch" else task
                cpu.iopl = 0 if user is None else user.iopl
            case "copy_map":
                if following is not None:
                    self._need_map(following)
                    old = task.max if task is not None and task.tif else 0
                    _copy(cpu, following.map, max(old, following.max))
            case _:
                if task is not None and self.hook in ("fork", "fork_failed"):
                    assert following is not None
                    if self._take_of_child(action, task, following):
                        return
                if task is not None:
                    self._take_of_task(action, cpu, task)

    def _take_of_child(self, action: str, task: Task, child: Task) -> bool:
        """Take a step that changes the child of a fork; return whether it is one."""
        match action:
            case "share_map":
                if task.map is not None:
                    child.map, child.max, child.seq = task.map, task.max, task.seq
                    child.map_id = task.map_id
            case "dup_map":
                self._copy_to(child, task)
            case "drop_child_map":
                _drop(child)
            case "set_child_tif" | "clear_child_tif":
                child.tif = action == "set_child_tif"
            case "inherit_iopl":
                child.iopl = task.iopl
            case _:
                return False
        return True

    def _copy_to(self, receiver: Task, task: Task) -> None:
        if task.map is not None:
            receiver.map, receiver.max = task.map, task.max
            self._number(receiver)

    def _number(self, task: Task) -> None:
        """Make the map of a task a separate one with a new number."""
        self.maps += 1
        self.sequence += 1
        task.map_id, task.seq = self.maps, self.sequence

    def _take_of_task(self, action: str, cpu: Cpu, task: Task) -> None:
        call = task.call
        match action:
            case "set_tif" | "clear_tif":
                task.tif = action == "set_tif"
            case "alloc_map":
                if task.map is None:
                    self.maps += 1
                    task.map, task.map_id = frozenset(), self.maps
            case "unshare_map":
                others = (t for t in self.tasks if t is not task and t.map is not None)
                if task.map is not None and any(t.map_id == task.map_id for t in others):
                    self._copy_to(task, task)
            case "set_iopl" | "clear_iopl":
                task.iopl = 3 if action == "set_iopl" else 0
            case "edit_map":
                assert call is not None
                call.max_before = task.max
                self._edit(task, call)
            case "load_map":
                assert call is not None
                self._need_map(task)
                _copy(cpu, task.map, max(call.max_before or 0, task.max))
            case "wipe_map" | "wipe_own":
                _copy(cpu, None, task.max)
            case "sync_map":
                self._need_map(task)
                if cpu.map_seq != task.seq:
                    _copy(cpu, task.map, max(cpu.map_max, task.max))
                    cpu.map_max, cpu.map_seq = task.max, task.seq
            case "drop_map":
                _drop(task)
            case _:
                raise AssertionError(action)

    def _edit(self, task: Task, call: Call) -> None:
        """Apply the ioperm() request to a task's map, in place: for each that shares it."""
        if task.map is None:
            self.maps += 1
            task.map, task.map_id = frozenset(), self.maps
        ports = task.map | {call.port} if call.on else task.map - {call.port}
        self.sequence += 1
        for sharer in self.tasks:
            if sharer.map is not None and sharer.map_id == task.map_id:
                sharer.map, sharer.seq = ports, self.sequence
                sharer.max = 8 * (1 + max(ports) // 64) if ports else 8

    def _need_map(self, task: Task) -> None:
        if task.tif and task.map is None:
            self.bad = self.bad or ("null", None)

    def _ltr(self, cpu: Cpu) -> None:
        if cpu.busy:
            self.bad = self.bad or ("fault", None)
        else:
            cpu.tr_limit, cpu.busy = FULL, True

    def readable(self) -> State:
        """Return the state in the explorer's words, `Explorer.path`."""
        owners: dict[int, int] = {}
        for number, task in enumerate(self.tasks):
            owners[task.seq] = number  # of tasks that share a map, the last
        cpus = [
            {
                "limit": "full" if cpu.tr_limit == FULL else "min",
                "stale": cpu.stale,
                "busy": cpu.busy,
                "base": BASES[cpu.io_base],
                "guest": cpu.guest,
                "tss": _numbers(cpu.tss),
                "map_max": cpu.map_max // 8,
                "map_of": owners.get(cpu.map_seq, "old") if cpu.map_seq else "none",
                "task": cpu.task,
            }
            for cpu in self.cpus
        ]
        tasks = [
            {
                "place": _place(task),
                "tif": task.tif,
                "map": None if task.map is None else _numbers(task.map),
                "max": task.max // 8,
                "owns": _numbers(task.owns),
            }
            for task in self.tasks
        ]
        if "iopl" in self.events:
            for row, cpu in zip(cpus, self.cpus, strict=True):
                row["iopl"] = cpu.iopl
            for row, task in zip(tasks, self.tasks, strict=True):
                row["iopl"], row["owns_iopl"] = task.iopl, task.owns_iopl
        if "fork" in self.events:
            for number, row in enumerate(tasks):
                row["shares"] = self._sharers(number)
        return {"cpus": cpus, "tasks": tasks}

    def _sharers(self, number: int) -> tuple[int, ...]:
        own = self.tasks[number]
        return tuple(
            i for i, task in enumerate(self.tasks)
            if i != number and own.map is not None and task.map is not None
            and task.map_id == own.map_id
        )  # fmt: skip


def _drop(task: Task) -> None:
    task.map, task.max, task.seq, task.map_id = None, 0, 0, 0


def _numbers(ports: frozenset[int]) -> tuple[int, ...]:
    return tuple(sorted(port // APART for port in ports))


def _place(task: Task) -> str:
    if task.call is None:
        return task.place
    return f"{PLACES[task.call.hook]}+{task.call.entry}"


def _holds(name: str, cpu: Cpu, task: Task | None, following: Task | None, sched: bool) -> bool:
    match name:
        case "tif" | "prev.tif":
            return task is not None and task.tif
        case "next.tif" | "child.tif":
            return following is not None and following.tif
        case "iopl":
            return task is not None and task.iopl == 3
        case "empty":
            return task is None or not task.map
        case "stale":
            return cpu.stale
        case "sched":
            return sched
    assert task is not None
    assert task.call is not None
    return {"first": task.call.first, "on": task.call.on}[name]


def _copy(cpu: Cpu, ports: frozenset[int] | None, n: int) -> None:
    """Make the first `n` bytes of the TSS's map those of a map; None lets no port through."""
    new = {port for port in ports or () if port // 8 < n}
    cpu.tss = frozenset({port for port in cpu.tss if port // 8 >= n} | new)


# Replays


def stepper_shows(
    policy: Policy, sizes: Sizes, history: Sequence[tuple[RawEvent | None, State]], bad: Bad,
    extra: tuple[str, ...] = (),
) -> str | None:  # fmt: skip
    """Replay a history of `Explorer.path`; return the first difference, None without any.

    Every state must be the explorer's, and the only violation `bad`, at the last event. `extra`
    are the `events` of the Stepper.
    """
    stepper = Stepper(policy, *sizes, extra)
    for number, (event, state) in enumerate(history):
        if event is not None:
            if stepper.bad is not None:
                return f"event {number - 1} brings about {stepper.bad[0]} already"
            try:
                stepper.do(*event)
            except Refused:
                return f"event {number}, {event[0]} on CPU {event[1]}, cannot happen"
        if stepper.readable() != state:
            return f"the state after event {number} differs"
    return None if stepper.bad == bad else f"the history ends in {stepper.bad}, not in {bad}"


STAY, LIGHT, HEAVY = 0, 1, 2  # exit kinds of the replay's profile
KINDS = (ExitKind("stay", 0, exits=False), ExitKind("light", 0), ExitKind("heavy", 0, user=True))


def machine_operations(
    policy: Policy, sizes: Sizes, events: Sequence[RawEvent], extra: tuple[str, ...] = ()
) -> list[tuple[int, ...]] | None:
    """Return a history as operations of `Machine`; None if Machine has none for it.

    An operation is several events in a row on its CPU. Machine has none for a task that is
    preempted inside a system call, at its end or on its way back to user mode, nor for a KVM_RUN
    that returns before it enters the guest, nor for a task that another CPU takes before the next
    one on its own CPU is in user mode.
    """
    stepper = Stepper(policy, *sizes, extra)
    ops: list[tuple[int, ...]] = []
    # CPU -> an operation without its last event yet; None for one that is among `ops` already
    pending: dict[int, tuple[int, ...] | None] = {}
    leaving: dict[int, int | None] = {}  # CPU -> the task that a pending SWITCH takes from it
    for code, cpu, arg in events:
        before = stepper.cpus[cpu].task
        if code in ("schedule", "task_exit", "return") and (cpu in pending or code == "return"):
            return None
        stepper.do(code, cpu, arg)
        match code:
            case "schedule":
                if arg is not None and arg in leaving.values():
                    return None
                op = (Op.SWITCH, 0, cpu, -1 if arg is None else arg, 0, 0)
                place = "KVM_RUN" if arg is None else stepper.tasks[arg].place
                if place == "KVM_RUN":
                    ops.append(op)
                elif place == "returning":
                    pending[cpu], leaving[cpu] = op, before
                else:
                    return None
            case "kvm_run":
                pending[cpu] = (Op.EXIT, 0, cpu, STAY, 0, 0)
            case "enter":
                pending.pop(cpu, None)
                ops.append((Op.EXIT, 0, cpu, STAY, 0, 0))
            case "vm_exit":
                ops.append((Op.EXIT, 0, cpu, LIGHT, 0, 0))
            case "leave":
                pending[cpu] = (Op.EXIT, 0, cpu, HEAVY, 0, 0)
            case "ioperm":
                pending[cpu] = (Op.IOPERM, int(arg[1]), cpu, APART * arg[0], 1, 0)
            case "fork" | "fork_fails":
                # At once, for the child may run elsewhere before its parent is in user mode.
                ops.append((Op.FORK, int(code == "fork_fails"), cpu, arg, 0, 0))
                pending[cpu] = None
            case "iopl":
                pending[cpu] = (Op.IOPL, 0, cpu, arg, 0, 0)
            case "exec":
                pending[cpu] = (Op.EXEC, 0, cpu, 0, 0, 0)
            case "task_exit":
                pending[cpu] = (Op.TASK_EXIT, 0, cpu, 0, 0, 0)
        user = code == "to_user" and cpu in pending
        ended = code in ("task_exit", "continue") and stepper.cpus[cpu].task is None
        if user or ended:
            leaving.pop(cpu, None)
            if done := pending.pop(cpu):
                ops.append(done)
    # The rest is of CPUs other than the last event's, or ends in a fault before its last event.
    last = events[-1][1] if events else 0
    unfinished = pending.get(last)
    return [*ops, unfinished] if unfinished else ops


def machine_shows(
    policy: Policy, sizes: Sizes, events: Sequence[RawEvent], bad: Bad,
    extra: tuple[str, ...] = (),
) -> bool | None:  # fmt: skip
    """Run a history through `Machine`, with the port access that it ends in.

    Returns whether the counter of leaks, denials, faults or nulls counts it, and nothing before
    it; None if Machine has no operations for the history, or attributes other ports to the task.
    """
    ops = machine_operations(policy, sizes, events, extra)
    if ops is None:
        return None
    costs = Costs(**{entry.name: 0 for entry in fields(Costs)})
    machine = Machine(sizes[0], sizes[1], policy, Profile("replay", costs, KINDS))
    machine.run(ops)

    def counted() -> int:
        return int(machine.counters[COUNTER[bad[0]]].sum())

    if bad[1] is None:
        return counted() >= 1
    end = Stepper(policy, *sizes, extra)
    for event in events:
        end.do(*event)
    task = end.tasks[end.cpus[events[-1][1]].task or 0]
    if task.owns != (task.map or frozenset()) or task.owns_iopl != task.iopl:
        return None  # Machine goes by the task's map, which differs from its requests
    before = counted()
    machine.io(events[-1][1], APART * bad[1], 1)
    return not before and counted() == 1
