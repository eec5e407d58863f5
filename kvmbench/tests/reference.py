"""A slow, plain reference for the machine model, docs/model.md.

It follows that page sentence by sentence and shares no code with the simulation core, so that
the tests can compare the two on any input. Where both could be written in a clever way, this
one is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

HOOKS = (
    "vm_exit", "vcpu_put", "switch", "ioperm", "exit_to_user", "task_exit",
    "fork", "fork_failed", "iopl", "exec",
)  # fmt: skip

COUNTERS = (
    "exits", "user_exits", "host_saves", "puts", "reloads", "marks", "faults", "switches",
    "migrations", "map_copies", "bytes_copied", "map_wipes", "io_allowed", "io_denied", "leaks",
    "denials",
    "c_exit", "c_user", "c_host", "c_tr", "c_map", "c_switch", "c_call", "c_io", "c_guest",
    "c_work", "c_idle",
    "nulls",
)  # fmt: skip

COSTS = (
    "irq_exit", "host_save", "host_restore", "gdt_write", "ltr", "mark", "test", "switch",
    "migrate", "switch_overlap", "ioperm", "io", "gp_fault", "copy_base", "copy_line",
    "wipe_base", "wipe_line",
)  # fmt: skip

EXIT, SWITCH, IOPERM, IO, TASK_EXIT, ADVANCE, FORK, IOPL, EXEC = range(9)

FULL, MIN = 0x206F, 0x67
VALID, INVALID, ALL = 0x68, 0x2070, 0x2078
IDLE = -1
PORTS = 65536
MAP_BYTES = PORTS // 8
NO_PORTS = b"\xff" * MAP_BYTES
LINE = 64
CLOCK_LIMIT = 2**62

ANY_HOOK = frozenset(HOOKS)
SWITCH_ONLY = frozenset({"switch"})
IOPERM_ONLY = frozenset({"ioperm"})
PUT_ONLY = frozenset({"vcpu_put"})
FORK_ONLY = frozenset({"fork", "fork_failed"})
REQUEST_ONLY = frozenset({"ioperm", "iopl"})

STEPS = {
    "mark_available": ANY_HOOK,
    "ltr": ANY_HOOK,
    "clear_stale": ANY_HOOK,
    "reload": ANY_HOOK,
    "mark_stale": ANY_HOOK,
    "refresh": ANY_HOOK,
    "set_tif": ANY_HOOK,
    "clear_tif": ANY_HOOK,
    "alloc_map": ANY_HOOK,
    "edit_map": IOPERM_ONLY,
    "load_map": IOPERM_ONLY,
    "copy_map": SWITCH_ONLY,
    "wipe_map": SWITCH_ONLY,
    "wipe_own": ANY_HOOK,
    "sync_map": ANY_HOOK,
    "validate_base": ANY_HOOK,
    "invalidate_base": ANY_HOOK,
    "drop_map": ANY_HOOK,
    "stop": ANY_HOOK,
    "share_map": FORK_ONLY,
    "dup_map": FORK_ONLY,
    "set_child_tif": FORK_ONLY,
    "clear_child_tif": FORK_ONLY,
    "drop_child_map": FORK_ONLY,
    "inherit_iopl": FORK_ONLY,
    "unshare_map": ANY_HOOK,
    "set_iopl": ANY_HOOK,
    "clear_iopl": ANY_HOOK,
    "load_iopl": ANY_HOOK,
    "validate_all": ANY_HOOK,
}

CONDITIONS = {
    "tif": ANY_HOOK,
    "prev.tif": SWITCH_ONLY,
    "next.tif": SWITCH_ONLY,
    "first": IOPERM_ONLY,
    "on": REQUEST_ONLY,
    "empty": ANY_HOOK,
    "stale": ANY_HOOK,
    "sched": PUT_ONLY,
    "child.tif": FORK_ONLY,
    "iopl": ANY_HOOK,
}


class Refused(Exception):
    """An operation broke its condition; the machine is as it was before."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BadPolicy(Exception):
    """A policy, or a part of it, that the page does not allow."""


class Condition(NamedTuple):
    word: str
    wanted: bool


class Step(NamedTuple):
    name: str
    conditions: tuple[Condition, ...]


class Kind(NamedTuple):
    name: str
    cycles: int
    user_cycles: int
    overlap: int
    exits: bool
    user: bool


@dataclass
class Cpu:
    cycles: int = 0
    tr_limit: int = FULL
    tss_busy: int = 1
    io_base: int = VALID
    tss_map: bytearray = field(default_factory=lambda: bytearray(NO_PORTS + b"\xff"))
    limit_stale: int = 0
    guest_loaded: int = 0
    task: int = IDLE
    map_max: int = 0
    map_seq: int = 0
    iopl: int = 0
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))


@dataclass
class Task:
    tif: int = 0
    map: bytearray | None = None
    max: int = 0
    seq: int = 0
    last_cpu: int = -1
    in_run: int = 0
    iopl: int = 0


@dataclass
class HookRun:
    """What the steps of one run of a hook can see besides the CPU and its current task."""

    overlap: int
    next: Task | None = None
    child: Task | None = None
    sched: bool = False
    ports: range = range(0)
    on: bool = False
    first: bool = False
    max_before_edit: int | None = None


# Policies


def policy_error(hooks: Mapping[str, Sequence[Any]], io_base_at_start: str = "valid") -> str | None:
    """None if the page allows the policy, else why it does not."""
    try:
        _parse_policy(hooks, io_base_at_start)
    except BadPolicy as error:
        return str(error)
    return None


def _parse_policy(
    hooks: Mapping[str, Sequence[Any]], io_base_at_start: str
) -> dict[str, list[Step]]:
    if io_base_at_start not in ("valid", "invalid"):
        raise BadPolicy(f"io_base_at_start is {io_base_at_start!r}")
    for hook in hooks:
        if hook not in HOOKS:
            raise BadPolicy(f"unknown hook {hook!r}")
    return {
        hook: [_parse_step(hook, text) for text in _flat(hook, hooks.get(hook, ()))]
        for hook in HOOKS
    }


def _flat(hook: str, entries: Sequence[Any]) -> Iterator[str]:
    # Preemption matters to the checker only, so a region is no more than its steps here.
    for entry in _sequence(hook, entries):
        for text in [entry] if isinstance(entry, str) else _sequence(hook, entry):
            if not isinstance(text, str):
                raise BadPolicy(f"{hook}: {text!r} is not a step")
            yield text


def _sequence(hook: str, value: object) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise BadPolicy(f"{hook}: {value!r} is not a list of steps")
    return value


def _parse_step(hook: str, text: str) -> Step:
    words = text.split()
    if not words:
        raise BadPolicy(f"{hook}: a step without a word")
    name, rest = words[0], words[1:]
    _check_word(hook, "step", name, STEPS)
    if not rest:
        return Step(name, ())
    if rest[0] != "if":
        raise BadPolicy(f"{hook}: {rest[0]!r} where 'if' belongs in {text!r}")
    conditions = " ".join(rest[1:]).split(" and ")
    return Step(name, tuple(_parse_condition(hook, text) for text in conditions))


def _parse_condition(hook: str, text: str) -> Condition:
    wanted = not text.startswith("not ")
    word = text if wanted else text.removeprefix("not ")
    _check_word(hook, "condition", word, CONDITIONS)
    return Condition(word, wanted)


def _check_word(hook: str, what: str, word: str, known: Mapping[str, frozenset[str]]) -> None:
    if word not in known:
        raise BadPolicy(f"{hook}: unknown {what} {word!r}")
    if hook not in known[word]:
        raise BadPolicy(f"{hook}: the {what} {word!r} has no meaning in this hook")


# I/O bitmaps. Bit `port` of a map is bit `port` of the little-endian number its bytes make.


def _map_bytes(task: Task) -> bytes:
    return NO_PORTS if task.map is None else bytes(task.map)


def _zero_bits(task: Task) -> int:
    """The ports the task may use, as a number with their bits set."""
    return int.from_bytes(_map_bytes(task), "little") ^ int.from_bytes(NO_PORTS, "little")


def _edited(bitmap: bytes, ports: range, on: bool) -> bytearray:
    mask = ((1 << len(ports)) - 1) << ports.start
    bits = int.from_bytes(bitmap, "little")
    bits = bits & ~mask if on else bits | mask
    return bytearray(bits.to_bytes(MAP_BYTES, "little"))


def _max_of(task: Task) -> int:
    zeros = _zero_bits(task)
    if zeros == 0:
        return 8
    last_zero = zeros.bit_length() - 1
    return 8 * (1 + last_zero // 64)


def port_allowed(cpu: Cpu, port: int, width: int) -> bool:
    """The hardware's check."""
    if cpu.iopl == 3:
        return True
    if cpu.io_base == ALL:  # the second map has a terminator, too
        return cpu.tr_limit == FULL and port + width <= PORTS
    offset = cpu.io_base + port // 8
    if offset + 1 > cpu.tr_limit:
        return False
    word = cpu.tss_map[port // 8] | cpu.tss_map[port // 8 + 1] << 8
    return all(not word >> (port & 7) + i & 1 for i in range(width))


def port_entitled(task: Task, port: int, width: int) -> bool:
    """What a correct policy makes the hardware's check answer."""
    if task.iopl == 3 and port + width <= PORTS:
        return True
    if task.map is None or port + width > PORTS:
        return False
    return all(not task.map[p // 8] >> p % 8 & 1 for p in range(port, port + width))


# The machine


class Reference:
    """The machine of the model, one operation at a time."""

    def __init__(
        self,
        cpus: int,
        tasks: int,
        hooks: Mapping[str, Sequence[Any]],
        costs: Mapping[str, int],
        kinds: Sequence[Mapping[str, Any]],
        vendor: str = "vmx",
        io_base_at_start: str = "valid",
    ) -> None:
        error = policy_error(hooks, io_base_at_start)
        if error is not None:
            raise ValueError(error)
        if vendor not in ("vmx", "svm"):
            raise ValueError(f"unknown vendor {vendor!r}")
        self.hooks = _parse_policy(hooks, io_base_at_start)
        self.costs = {name: int(costs[name]) for name in COSTS}
        self.kinds = [
            Kind(
                str(kind["name"]),
                int(kind["cycles"]),
                int(kind["user_cycles"]),
                int(kind["overlap"]),
                bool(kind["exits"]),
                bool(kind["user"]),
            )
            for kind in kinds
        ]
        for kind in self.kinds:
            if kind.user and not kind.exits:
                raise ValueError(f"kind {kind.name!r} returns to userspace without an exit")
        self.vendor = vendor
        io_base = VALID if io_base_at_start == "valid" else INVALID
        self.cpus = [Cpu(io_base=io_base) for _ in range(cpus)]
        self.tasks = [Task() for _ in range(tasks)]
        self.sequence = 0
        self._in_switch = False  # the hook under way is `switch`

    def step(self, code: int, arg: int, cpu: int, a: int, b: int, c: int) -> tuple[int, int]:
        """Run one operation: its result and the cycles it cost its CPU."""
        if not 0 <= cpu < len(self.cpus):
            raise Refused("cpu out of range")
        if self.cpus[cpu].cycles > CLOCK_LIMIT:
            raise Refused("clock above 2^62")
        before = self.cpus[cpu].cycles
        result = self._perform(code, arg, cpu, a, b)
        return result, self.cpus[cpu].cycles - before

    def _perform(self, code: int, arg: int, cpu: int, a: int, b: int) -> int:
        if code == EXIT:
            self._exit(cpu, a)
        elif code == SWITCH:
            self._switch(cpu, a)
        elif code == IOPERM:
            self._ioperm(cpu, a, b, on=arg != 0)
        elif code == IO:
            return self._io(cpu, a, arg)
        elif code == TASK_EXIT:
            self._task_exit(cpu)
        elif code == ADVANCE:
            self._advance(cpu, a)
        elif code == FORK:
            self._fork(cpu, a, fails=arg != 0)
        elif code == IOPL:
            self._iopl(cpu, a)
        elif code == EXEC:
            self._in_userspace(self.cpus[cpu])
            self._system_call("exec", cpu, on=False)
        else:
            raise Refused("unknown operation")
        return 0

    # Operations: every refusal comes before the first effect.

    def _exit(self, index: int, kind_index: int) -> None:
        cpu = self.cpus[index]
        if not 0 <= kind_index < len(self.kinds):
            raise Refused("kind out of range")
        task = self._running(cpu)
        kind = self.kinds[kind_index]

        task.in_run = 1
        if not cpu.guest_loaded:
            cpu.guest_loaded = 1
            _count(cpu, "host_saves")
            _charge(cpu, "c_host", self.costs["host_save"])
        _charge(cpu, "c_exit", kind.cycles)
        if kind.exits:
            self._vm_exit(cpu, kind.overlap)
        if kind.user:
            _count(cpu, "user_exits")
            self._put(cpu, kind.overlap, sched=False)
            task.in_run = 0
            self._hook("exit_to_user", cpu, HookRun(kind.overlap))
            _charge(cpu, "c_user", kind.user_cycles)

    def _switch(self, index: int, next_index: int) -> None:
        cpu = self.cpus[index]
        if not -1 <= next_index < len(self.tasks):
            raise Refused("task out of range")
        if next_index == cpu.task:
            return
        if next_index != IDLE and any(other.task == next_index for other in self.cpus):
            raise Refused("task runs on another cpu")

        self._interrupt(cpu)
        self._switch_to(index, next_index)

    def _ioperm(self, index: int, first: int, count: int, on: bool) -> None:
        cpu = self.cpus[index]
        task = self._in_userspace(cpu)
        if first < 0 or count < 1 or first + count > PORTS:
            raise Refused("ports out of range")

        _charge(cpu, "c_call", self.costs["ioperm"])
        ports = range(first, first + count)
        request = HookRun(overlap=0, ports=ports, on=on, first=task.map is None)
        self._hook("ioperm", cpu, request)
        self._hook("exit_to_user", cpu, HookRun(overlap=0))

    def _io(self, index: int, port: int, width: int) -> int:
        cpu = self.cpus[index]
        task = self._in_userspace(cpu)
        if not 0 <= port < PORTS:
            raise Refused("port out of range")
        if width not in (1, 2, 4):
            raise Refused("width is not 1, 2 or 4")

        allowed = port_allowed(cpu, port, width)
        entitled = port_entitled(task, port, width)
        _count(cpu, "io_allowed" if allowed else "io_denied")
        _charge(cpu, "c_io", self.costs["io" if allowed else "gp_fault"])
        if allowed and not entitled and task.iopl != 3:
            _count(cpu, "leaks")
        if entitled and not allowed:
            _count(cpu, "denials")
        return int(allowed)

    def _task_exit(self, index: int) -> None:
        cpu = self.cpus[index]
        task = self._running(cpu)

        self._interrupt(cpu)
        task.in_run = 0
        self._hook("task_exit", cpu, HookRun(self.costs["switch_overlap"]))
        _make_new(task)
        self._switch_to(index, IDLE)

    def _fork(self, index: int, child_index: int, fails: bool) -> None:
        cpu = self.cpus[index]
        self._in_userspace(cpu)
        if not 0 <= child_index < len(self.tasks):
            raise Refused("child out of range")
        child = self.tasks[child_index]
        if any(other.task == child_index for other in self.cpus):
            raise Refused("child runs")
        if child.tif or child.map is not None or child.in_run or child.iopl:
            raise Refused("child is not new")

        child.last_cpu = -1
        self._hook("fork", cpu, HookRun(overlap=0, child=child))
        if fails:
            self._hook("fork_failed", cpu, HookRun(overlap=0, child=child))
            _make_new(child)
        self._hook("exit_to_user", cpu, HookRun(overlap=0))

    def _iopl(self, index: int, level: int) -> None:
        self._in_userspace(self.cpus[index])
        if not 0 <= level <= 3:
            raise Refused("level out of range")
        self._system_call("iopl", index, on=level == 3)

    def _system_call(self, hook: str, index: int, on: bool) -> None:
        cpu = self.cpus[index]
        self._hook(hook, cpu, HookRun(overlap=0, on=on))
        self._hook("exit_to_user", cpu, HookRun(overlap=0))

    def _advance(self, index: int, cycles: int) -> None:
        cpu = self.cpus[index]
        if not 0 <= cycles < 2**31:
            raise Refused("cycles out of range")
        task = self._current(cpu)
        if task is None:
            _charge(cpu, "c_idle", cycles)
        elif task.in_run:
            _charge(cpu, "c_guest", cycles)
        else:
            _charge(cpu, "c_work", cycles)

    # Parts of operations

    def _current(self, cpu: Cpu) -> Task | None:
        return None if cpu.task == IDLE else self.tasks[cpu.task]

    def _running(self, cpu: Cpu) -> Task:
        task = self._current(cpu)
        if task is None:
            raise Refused("cpu is idle")
        return task

    def _in_userspace(self, cpu: Cpu) -> Task:
        task = self._running(cpu)
        if task.in_run:
            raise Refused("task is inside KVM_RUN")
        return task

    def _vm_exit(self, cpu: Cpu, overlap: int) -> None:
        _count(cpu, "exits")
        if self.vendor == "vmx":
            cpu.tr_limit = MIN
        self._hook("vm_exit", cpu, HookRun(overlap))

    def _put(self, cpu: Cpu, overlap: int, sched: bool) -> None:
        if not cpu.guest_loaded:
            return
        cpu.guest_loaded = 0
        _count(cpu, "puts")
        _charge(cpu, "c_host", self.costs["host_restore"])
        self._hook("vcpu_put", cpu, HookRun(overlap, sched=sched))

    def _interrupt(self, cpu: Cpu) -> None:
        """The interrupt that takes the CPU from a guest, and the put that follows."""
        if not cpu.guest_loaded:
            return
        overlap = self.costs["switch_overlap"]
        _charge(cpu, "c_exit", self.costs["irq_exit"])
        self._vm_exit(cpu, overlap)
        self._put(cpu, overlap, sched=True)

    def _switch_to(self, index: int, next_index: int) -> None:
        cpu = self.cpus[index]
        overlap = self.costs["switch_overlap"]
        task = None if next_index == IDLE else self.tasks[next_index]
        self._hook("switch", cpu, HookRun(overlap, next=task))
        cpu.task = next_index
        _count(cpu, "switches")
        _charge(cpu, "c_switch", self.costs["switch"])
        if task is None:
            return
        if task.last_cpu not in (-1, index):
            _count(cpu, "migrations")
            _charge(cpu, "c_switch", self.costs["migrate"])
        task.last_cpu = index
        if not task.in_run:
            self._hook("exit_to_user", cpu, HookRun(overlap))

    # Hooks

    def _hook(self, name: str, cpu: Cpu, run: HookRun) -> None:
        self._in_switch = name == "switch"
        for step in self.hooks[name]:
            if all(self._holds(word, cpu, run) == wanted for word, wanted in step.conditions):
                if step.name == "stop":
                    return
                self._do(step.name, cpu, run)

    def _holds(self, word: str, cpu: Cpu, run: HookRun) -> bool:
        current = self._current(cpu)
        if word in ("tif", "prev.tif"):  # prev is still the current task in the switch hook
            return _has_tif(current)
        if word == "next.tif":
            return _has_tif(run.next)
        if word == "child.tif":
            return _has_tif(run.child)
        if word == "iopl":
            return current is not None and current.iopl == 3
        if word == "first":
            return run.first
        if word == "on":
            return run.on
        if word == "empty":
            return current is None or _zero_bits(current) == 0
        if word == "stale":
            return cpu.limit_stale == 1
        if word == "sched":
            return run.sched
        raise AssertionError(word)

    def _do(self, name: str, cpu: Cpu, run: HookRun) -> None:
        if name == "mark_available":
            self._mark_available(cpu)
        elif name == "ltr":
            self._ltr(cpu, run)
        elif name == "clear_stale":
            cpu.limit_stale = 0
        elif name == "reload":
            self._reload(cpu, run)
        elif name == "mark_stale":
            cpu.limit_stale = 1
            _count(cpu, "marks")
            _charge(cpu, "c_tr", self.costs["mark"])
        elif name == "refresh":
            _charge(cpu, "c_tr", self.costs["test"])
            if cpu.limit_stale:
                self._reload(cpu, run)
        elif name == "validate_base":
            cpu.io_base = VALID
            _charge(cpu, "c_map", self.costs["mark"])
        elif name == "invalidate_base":
            cpu.io_base = INVALID
            _charge(cpu, "c_map", self.costs["mark"])
        elif name == "validate_all":
            cpu.io_base = ALL
            _charge(cpu, "c_map", self.costs["mark"])
        elif name == "load_iopl":
            task = run.next if self._in_switch else self._current(cpu)
            cpu.iopl = 0 if task is None else task.iopl
        elif name == "copy_map":
            if run.next is not None:
                _count_null(cpu, run.next)
                prev = self._current(cpu)
                old = prev.max if prev is not None and prev.tif else 0
                self._copy(cpu, run.next, max(old, run.next.max))
        else:
            task = self._current(cpu)
            if task is not None:
                self._do_with_task(name, cpu, task, run)

    def _do_with_task(self, name: str, cpu: Cpu, task: Task, run: HookRun) -> None:
        """The steps that need a current task."""
        if name == "set_tif":
            task.tif = 1
        elif name == "clear_tif":
            task.tif = 0
        elif name == "alloc_map":
            _alloc_map(task)
        elif name == "edit_map":
            run.max_before_edit = task.max
            old_map = task.map
            task.map = _edited(_map_bytes(task), run.ports, run.on)
            task.max = _max_of(task)
            self.sequence += 1
            task.seq = self.sequence
            for other in self.tasks:  # a shared map is edited for each that shares it
                if old_map is not None and other.map is old_map:
                    other.map, other.max, other.seq = task.map, task.max, task.seq
        elif name == "unshare_map":
            if any(other is not task and other.map is task.map for other in self.tasks):
                self._copy_whole(cpu, task, task)
        elif name == "set_iopl":
            task.iopl = 3
        elif name == "clear_iopl":
            task.iopl = 0
        elif name == "load_map":
            _count_null(cpu, task)
            old = task.max if run.max_before_edit is None else run.max_before_edit
            self._copy(cpu, task, max(old, task.max))
        elif name in ("wipe_map", "wipe_own"):  # prev is the current task in the switch hook
            self._wipe(cpu, task.max)
        elif name == "sync_map":
            _count_null(cpu, task)
            _charge(cpu, "c_map", self.costs["test"])
            if cpu.map_seq != task.seq:
                self._copy(cpu, task, max(cpu.map_max, task.max))
                cpu.map_max = task.max
                cpu.map_seq = task.seq
        elif name == "drop_map":
            _drop_map(task)
        else:
            assert run.child is not None, name
            self._do_with_child(name, cpu, task, run.child)

    def _do_with_child(self, name: str, cpu: Cpu, task: Task, child: Task) -> None:
        """The steps of a fork."""
        if name == "share_map":
            if task.map is not None:
                child.map, child.max, child.seq = task.map, task.max, task.seq
        elif name == "dup_map":
            self._copy_whole(cpu, task, child)
        elif name == "set_child_tif":
            child.tif = 1
        elif name == "clear_child_tif":
            child.tif = 0
        elif name == "drop_child_map":
            _drop_map(child)
        elif name == "inherit_iopl":
            child.iopl = task.iopl
        else:
            raise AssertionError(name)

    # Steps and parts of steps

    def _mark_available(self, cpu: Cpu) -> None:
        cpu.tss_busy = 0
        _charge(cpu, "c_tr", self.costs["gdt_write"])

    def _ltr(self, cpu: Cpu, run: HookRun) -> None:
        if cpu.tss_busy:
            _count(cpu, "faults")
            return
        cpu.tr_limit = FULL
        cpu.tss_busy = 1
        _count(cpu, "reloads")
        _charge(cpu, "c_tr", self.costs["ltr"] + run.overlap)

    def _reload(self, cpu: Cpu, run: HookRun) -> None:
        self._mark_available(cpu)
        self._ltr(cpu, run)
        cpu.limit_stale = 0

    def _copy(self, cpu: Cpu, task: Task, n: int) -> None:
        if n == 0:
            return
        cpu.tss_map[:n] = _map_bytes(task)[:n]
        _count(cpu, "map_copies")
        _count(cpu, "bytes_copied", n)
        _charge(cpu, "c_map", self.costs["copy_base"] + self.costs["copy_line"] * _lines(n))

    def _copy_whole(self, cpu: Cpu, task: Task, receiver: Task) -> None:
        """Give a task a copy of a task's map, under a new number."""
        if task.map is None:
            return
        receiver.map, receiver.max = bytearray(task.map), task.max
        self.sequence += 1
        receiver.seq = self.sequence
        lines = _lines(MAP_BYTES)
        _charge(cpu, "c_map", self.costs["copy_base"] + self.costs["copy_line"] * lines)

    def _wipe(self, cpu: Cpu, n: int) -> None:
        if n == 0:
            return
        cpu.tss_map[:n] = NO_PORTS[:n]
        _count(cpu, "map_wipes")
        _charge(cpu, "c_map", self.costs["wipe_base"] + self.costs["wipe_line"] * _lines(n))


def _has_tif(task: Task | None) -> bool:
    return task is not None and task.tif == 1


def _count_null(cpu: Cpu, task: Task) -> None:
    if task.tif and task.map is None:
        _count(cpu, "nulls")


def _drop_map(task: Task) -> None:
    task.map = None
    task.max = 0
    task.seq = 0


def _make_new(task: Task) -> None:
    """Whatever the policy left: the task is a new one from here on."""
    task.tif = 0
    task.iopl = 0
    task.last_cpu = -1
    _drop_map(task)


def _alloc_map(task: Task) -> None:
    if task.map is None:
        task.map = bytearray(NO_PORTS)


def _lines(n: int) -> int:
    return (n + LINE - 1) // LINE


def _count(cpu: Cpu, counter: str, amount: int = 1) -> None:
    cpu.counters[counter] += amount


def _charge(cpu: Cpu, cause: str, cycles: int) -> None:
    cpu.cycles += cycles
    cpu.counters[cause] += cycles
