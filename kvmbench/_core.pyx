"""`Machine`: arrays and arguments in, exact cycles out; its operations are in _steps.

For Python programs and every simulation of this package; `cimport kvmbench` gives it to Cython.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.long cimport PyLong_CheckExact
from cpython.number cimport PyNumber_Index
from libc.stdint cimport (
    INT64_MAX, INT64_MIN, int32_t, int64_t, uint8_t, uint32_t, uint64_t, uintptr_t,
)
from libc.string cimport memcpy, memset
cimport cython

from kvmbench._ports cimport KB_MAP_BYTES, KB_TSS_MAP_BYTES, checked
from kvmbench._steps cimport (
    DO_ALLOC_MAP, DO_DUP_MAP, DO_EDIT_MAP, DO_UNSHARE_MAP, KB_ADVANCE, KB_BAD_CHILD, KB_BAD_CODE,
    KB_BAD_CPU, KB_BAD_CYCLES, KB_BAD_KIND, KB_BAD_LEVEL, KB_BAD_PORT, KB_BAD_RANGE, KB_BAD_TASK,
    KB_BAD_WIDTH, KB_BASE_ALL, KB_BASE_INVALID, KB_BASE_VALID, KB_CLOCK, KB_EXEC, KB_EXIT, KB_FORK,
    KB_HOOKS, KB_IDLE, KB_IN_RUN, KB_IO, KB_IOPERM, KB_IOPL, KB_LIMIT_FULL, KB_LIMIT_MIN,
    KB_MAP_STRIDE, KB_NOT_NEW, KB_NO_MEMORY, KB_OK, KB_RUNS_ELSEWHERE, KB_STATES, KB_SWITCH,
    KB_TASK_EXIT, KB_TIMES_STRIDE, KB_TRANSITIONS,
    KbCounters, KbCpu, KbKind, KbMachine, KbOp, KbStep, KbTask, KbTransition, kb_copy, kb_counter,
    kb_counters,
    kb_do, kb_free_maps, kb_map_of, kb_repeat_exit, kb_restore_map, kb_run, kb_share_map, kb_start,
)

cdef extern from "Python.h":
    int64_t PyLong_AsLongLongAndOverflow(object, int* overflow) except? -1

import inspect
from dataclasses import fields
from functools import lru_cache
from operator import attrgetter

import numpy as np

from kvmbench.arrays import (
    COUNTERS, COUNTERS_DTYPE, check_state, cycles_array, integer, named, operations, pairs,
    read_only, record_dtype, sound,
)
from kvmbench.catalog import policies, profiles
from kvmbench.errors import OperationError, unknown_name
from kvmbench.model import HOOKS, Costs, Op, Policy, Profile

__all__ = ["Machine"]

_CPU_DTYPE = record_dtype({
    "cycles": ("u8", <size_t>&(<KbCpu*>NULL).cycles),
    "tr_limit": ("u4", <size_t>&(<KbCpu*>NULL).tr.tr_limit),
    "tss_busy": ("u1", <size_t>&(<KbCpu*>NULL).tr.tss_busy),
    "io_base": ("u2", <size_t>&(<KbCpu*>NULL).tr.io_base),
    "limit_stale": ("u1", <size_t>&(<KbCpu*>NULL).tr.limit_stale),
    "guest_loaded": ("u1", <size_t>&(<KbCpu*>NULL).tr.guest_loaded),
    "task": ("i4", <size_t>&(<KbCpu*>NULL).task),
    "map_max": ("u4", <size_t>&(<KbCpu*>NULL).map_max),
    "map_seq": ("u8", <size_t>&(<KbCpu*>NULL).map_seq),
    "iopl3": ("u1", <size_t>&(<KbCpu*>NULL).tr.iopl3),
}, sizeof(KbCpu))
_TASK_DTYPE = record_dtype({
    "tif": ("u1", <size_t>&(<KbTask*>NULL).tif),
    "has_map": ("u1", <size_t>&(<KbTask*>NULL).has_map),
    "max": ("u4", <size_t>&(<KbTask*>NULL).max),
    "seq": ("u8", <size_t>&(<KbTask*>NULL).seq),
    "last_cpu": ("i4", <size_t>&(<KbTask*>NULL).last_cpu),
    "in_run": ("u1", <size_t>&(<KbTask*>NULL).in_run),
    "iopl3": ("u1", <size_t>&(<KbTask*>NULL).iopl3),
}, sizeof(KbTask))


cdef uint8_t ALL_PORTS[KB_TSS_MAP_BYTES]    # the TSS's second map, all zero, and its end
memset(ALL_PORTS, 0, KB_MAP_BYTES)
ALL_PORTS[KB_MAP_BYTES] = 0xff

ALLOCATING = {DO_ALLOC_MAP, DO_EDIT_MAP, DO_DUP_MAP, DO_UNSHARE_MAP}    # steps that take a new map

# Of each operation, by its code: the names of the fields `a`, `b` and `arg` in its method, None
# for one that it does not have.
cdef tuple _ARGUMENTS = (
    ("kind", None, None), ("task", None, None), ("first", "count", "on"), ("port", None, "width"),
    (None, None, None), ("cycles", None, None), ("child", None, "fails"), ("level", None, None),
    (None, None, None),
)

# Of each status: the condition that does not hold, with the fields of the operation.
_REASONS = {
    KB_BAD_CODE: "code is {code}, not in 0 to {last_code}",
    KB_BAD_CPU: "cpu is {cpu}, not in 0 to {last_cpu}",
    KB_BAD_KIND: "kind is {a}, not in 0 to {last_kind}",
    KB_BAD_TASK: "task is {a}, not in -1 to {last_task}",
    KB_BAD_PORT: "port is {a}, not in 0 to 65535",
    KB_BAD_WIDTH: "width is {arg}, not 1, 2 or 4",
    KB_BAD_CYCLES: "cycles is {a}, not in 0 to 2147483647",
    KB_BAD_RANGE: "first is {a}, count {b}: not 1 or more of ports 0 to 65535",
    KB_IDLE: "cpu {cpu} is idle",
    KB_IN_RUN: "the task on cpu {cpu} is inside KVM_RUN",
    KB_RUNS_ELSEWHERE: "task {a} runs on cpu {elsewhere}",
    KB_BAD_CHILD: "child is {a}, not in 0 to {last_task}",
    KB_NOT_NEW: "task {a} is not new: it runs, or has TIF, a map, level 3 or a KVM_RUN",
    KB_BAD_LEVEL: "level is {a}, not in 0 to 3",
    KB_CLOCK: "the clock of cpu {cpu} is above 2**62 cycles",
}


cdef dict _COUNTER_INDEX = {name: number for number, name in enumerate(COUNTERS)}
_costs_of = attrgetter(*(entry.name for entry in fields(Costs)))


@lru_cache(256)     # parsing a policy's steps takes longer than all else that a Machine needs
def _compiled(policy):
    return [[step.compiled() for step in policy.steps(hook)] for hook in HOOKS]


cdef _exact_int(str name, value):   # not in _clamped, so that an int's way is short
    try:
        return PyNumber_Index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, not an integer") from None


cdef inline int64_t _clamped(str name, value) except? -1:
    """Take any integer; one that no C integer holds becomes one that no check lets through."""
    cdef int overflow
    if not PyLong_CheckExact(value):
        value = _exact_int(name, value)
    number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow == 0:
        return number
    return INT64_MAX if overflow > 0 else INT64_MIN


cdef zeroed(size_t size, void** at):
    """Return an array of `size` zeroed bytes that begins a cache line, its address in `at`."""
    raw = np.zeros(size + 64, np.uint8)
    cdef Py_buffer view
    PyObject_GetBuffer(raw, &view, PyBUF_SIMPLE)    # a memoryview takes longer than zeros()
    PyBuffer_Release(&view)
    cdef size_t skip = -<size_t>view.buf & 63
    at[0] = <uint8_t*>view.buf + skip
    return raw[skip:skip + size]


@cython.no_gc_clear     # __dealloc__ reads the task records, which _owned keeps
cdef class Machine:
    """CPUs, tasks, a policy and a profile; every operation charges exact cycles to its CPU.

    Parameters: `cpus`, 1 to 65,536; `tasks`, 0 to 2**31 - 1; `policy` and `profile`, by built-in
    name or as objects; `vendor`, `"vmx"` (a VM exit cuts the TR limit) or `"svm"`.

    Raises ValueError or TypeError that name the argument, MemoryError. One thread at a time may
    use a Machine: a call made while `run` is under way in another raises RuntimeError. Machines
    share nothing, so different ones run in parallel. A Machine pickles with its whole state.
    """

    # Cython makes none for a class.
    __signature__ = inspect.signature(lambda cpus, tasks, policy, profile, vendor="vmx": None)

    def __init__(self, cpus, tasks, policy, profile, vendor="vmx"):
        cdef KbMachine* m = &self.m
        if self._owned is not None:
            raise TypeError("a Machine is made once")
        n_cpus = integer("cpus", cpus, 1, 1 << 16)
        n_tasks = integer("tasks", tasks, 0, (1 << 31) - 1)
        self.policy = named("policy", policy, Policy, policies)
        self.profile = named("profile", profile, Profile, profiles)
        if vendor not in ("vmx", "svm"):
            raise ValueError(f"vendor is {vendor!r}, not 'vmx' or 'svm'")
        self.vendor = vendor
        n_kinds = len(self.profile.kinds)
        self._kind_index = {kind.name: i for i, kind in enumerate(self.profile.kinds)}
        self._owned = ()
        m.vmx = vendor == "vmx"
        self._compile_policy()
        for i, cost in enumerate(_costs_of(self.profile.costs)):
            (<uint64_t*>&m.costs)[<int>i] = cost
        m.kinds = <KbKind*>self._array("kinds", n_kinds, sizeof(KbKind))
        for i, kind in enumerate(self.profile.kinds):
            m.kinds[<int>i] = KbKind(
                cycles=kind.cycles, user_cycles=kind.user_cycles, overlap=kind.overlap,
                exits=kind.exits, user=kind.user)
        m.known = <uint32_t*>self._array("known", KB_STATES, sizeof(uint32_t))
        m.transitions = <KbTransition*>self._array(
            "transitions", (KB_TRANSITIONS + 1) * n_kinds, sizeof(KbTransition))
        m.effects = <KbCounters*>self._array("effects", KB_TRANSITIONS, sizeof(KbCounters))
        m.times = <uint64_t*>self._array("times", n_cpus * KB_TIMES_STRIDE, sizeof(uint64_t))
        m.n_known = m.n_transitions = 1
        m.counted = <KbCounters*>self._array("counted", n_cpus, sizeof(KbCounters))
        m.tss_maps = <uint8_t*>self._array("tss_map", n_cpus * KB_MAP_STRIDE, 1)
        m.cpus = <KbCpu*>self._array("cpus", n_cpus, sizeof(KbCpu))
        m.tasks = <KbTask*>self._array("tasks", n_tasks, sizeof(KbTask))
        m.n_cpus, m.n_tasks, m.n_kinds = n_cpus, n_tasks, n_kinds
        self._start()

    def __dealloc__(self):
        kb_free_maps(&self.m)

    cdef void* _array(self, str name, Py_ssize_t n, size_t itemsize) except NULL:
        """Return the address of `n` zeroed records on a cache line's border, owned by self."""
        cdef void* at
        self._owned += ((name, zeroed(n * itemsize, &at)),)
        return at

    cdef _compile_policy(self):
        cdef KbMachine* m = &self.m
        cdef int i = 0
        hooks = _compiled(self.policy)
        m.steps = <KbStep*>self._array("steps", sum(map(len, hooks)), sizeof(KbStep))
        for number, hook in enumerate(hooks):
            m.hook[<int>number] = i
            for action, look, want in hook:
                m.steps[i] = KbStep(action=action, look=look, want=want)
                m.allocates |= action in ALLOCATING
                i += 1
        m.hook[KB_HOOKS] = i

    cdef _start(self):
        invalid = self.policy.io_base_at_start == "invalid"
        kb_start(&self.m, KB_BASE_INVALID if invalid else KB_BASE_VALID)

    cdef int _claim(self) except -1:
        # After every argument is looked at: that may run Python, and so other threads.
        if self.running:
            raise RuntimeError("this Machine is running in another thread")
        return 0

    # Operations

    def run(self, ops, cycles_out=None):
        """Do the operations in order; return the result of each.

        `ops` is an array of OP_DTYPE (n,), or what numpy makes one of; `cycles_out`, uint64
        (n,), contiguous and writable, receives the cycles that each charged. Returns uint8
        (n,): for an IO 1 where it was allowed, else 0. The GIL is released.

        Raises OperationError at the first operation whose condition does not hold, or whose CPU's
        clock stands above 2**62 cycles (48 years at 3 GHz): those before it are done, and their
        entries of `cycles_out` are set. TypeError or ValueError for other arrays, before anything
        is done.
        """
        ops = operations(ops)
        cdef int64_t n = ops.shape[0], done
        cdef int status = KB_OK
        cdef uint64_t[::1] spent
        cdef uint64_t* spent_at = NULL
        if cycles_out is not None:
            spent = cycles_array(cycles_out, n)
            spent_at = &spent[0] if n else NULL
        results = np.zeros(n, np.uint8)
        self._claim()
        if n == 0:
            return results
        cdef const uint8_t[::1] ops_at = ops.view(np.uint8)
        cdef uint8_t[::1] results_at = results
        self.running = True
        with nogil:
            done = kb_run(&self.m, <const KbOp*>&ops_at[0], n, &results_at[0], spent_at, &status)
        self.running = False
        if status != KB_OK:
            op = dict(zip(ops.dtype.names, ops[done].tolist()))
            raise self._refused(status, op, done)
        return results

    cdef uint64_t _one(self, int code, cpu, a, b, arg, uint8_t* result) except? -1:
        """Do one operation; return the cycles charged."""
        cdef uint64_t cycles = 0
        cdef uint8_t unused
        cdef int64_t c, i, j, k
        cdef tuple names = _ARGUMENTS[code]
        c, i = _clamped("cpu", cpu), _clamped(names[0], a)
        j = _clamped(names[1], b) if names[1] is not None else 0
        k = _clamped(names[2], arg) if names[2] is not None else 0
        self._claim()
        status = kb_do(&self.m, code, c, i, j, k, result if result != NULL else &unused, &cycles)
        if status != KB_OK:
            raise self._refused(status, {"cpu": cpu, "a": a, "b": b, "arg": arg}, 0)
        return cycles

    def exit(self, cpu, kind):
        """Do an EXIT of `kind`, an index or a name; return the cycles charged."""
        return self._one(KB_EXIT, cpu, self._kind(kind), 0, 0, NULL)

    def switch(self, cpu, task):
        """Switch `cpu` to `task`, -1 for idle; return the cycles charged."""
        return self._one(KB_SWITCH, cpu, task, 0, 0, NULL)

    def ioperm(self, cpu, first, count, on=True):
        """Let the task on `cpu` call ioperm(first, count, on); return the cycles charged."""
        return self._one(KB_IOPERM, cpu, first, count, bool(on), NULL)

    def io(self, cpu, port, width):
        """Let the task on `cpu` access `port`, `width` bytes wide; return (allowed, cycles)."""
        cdef uint8_t allowed
        cycles = self._one(KB_IO, cpu, port, 0, width, &allowed)
        return allowed != 0, cycles

    def task_exit(self, cpu):
        """End the task on `cpu`, which then idles; return the cycles charged."""
        return self._one(KB_TASK_EXIT, cpu, 0, 0, 0, NULL)

    def fork(self, cpu, child, fails=False):
        """Let the task on `cpu` fork `child`, a task as at the start; return the cycles charged.

        With `fails`, fork() fails after the policy's hook `fork`, and `child` is new again.
        """
        return self._one(KB_FORK, cpu, child, 0, bool(fails), NULL)

    def iopl(self, cpu, level):
        """Let the task on `cpu` call iopl(level), 0 to 3; return the cycles charged."""
        return self._one(KB_IOPL, cpu, level, 0, 0, NULL)

    def exec(self, cpu):
        """Let the task on `cpu` execute another program; return the cycles charged."""
        return self._one(KB_EXEC, cpu, 0, 0, 0, NULL)

    def advance(self, cpu, cycles):
        """Let `cycles`, 0 to 2**31 - 1, pass on `cpu`; return them."""
        return self._one(KB_ADVANCE, cpu, cycles, 0, 0, NULL)

    def repeat_exit(self, cpu, kind, n):
        """Do exactly `n` EXITs of `kind`, 0 to 2**63 - 1; return the cycles charged.

        Without a loop over n: an EXIT's effect depends on finitely many bits, so the states soon
        recur, and whole rounds of them are added at once. Every field and counter ends as after
        `n` calls of `exit`, from any state. Raises OperationError as `exit` does, its index the
        number of EXITs done.
        """
        cdef int64_t times = integer("n", n, 0, INT64_MAX)
        cdef int64_t c = _clamped("cpu", cpu), k, done = 0
        cdef int status
        cdef uint64_t before
        kind = self._kind(kind)
        k = _clamped("kind", kind)
        self._claim()
        if c < 0 or c >= self.m.n_cpus:
            raise self._refused(KB_BAD_CPU, {"cpu": cpu}, 0)
        before = self.m.cpus[c].cycles
        self.running = True
        with nogil:
            status = kb_repeat_exit(&self.m, c, k, times, &done)
        self.running = False
        if status != KB_OK:
            raise self._refused(status, {"cpu": cpu, "a": kind}, done)
        return self.m.cpus[c].cycles - before

    # State

    @property
    def cpu(self):
        """State of each CPU: a read-only view, structured, (cpus,); docs/model.md, section 2."""
        return read_only(dict(self._owned)["cpus"].view(_CPU_DTYPE))

    @property
    def tss_map(self):
        """I/O bitmap in each CPU's TSS: a read-only view, uint8 (cpus, 8193); 1 denies."""
        rows = dict(self._owned)["tss_map"].reshape(-1, KB_MAP_STRIDE)
        return read_only(rows[:, :KB_TSS_MAP_BYTES])

    @property
    def task(self):
        """State of each task: a read-only view, structured, (tasks,); docs/model.md, section 2."""
        return read_only(dict(self._owned)["tasks"].view(_TASK_DTYPE))

    def task_map(self, task):
        """Return a copy of a task's I/O bitmap, uint8 (8192,), 1 denies; None where it has none."""
        cdef int64_t i = integer("task", task, 0, self.m.n_tasks - 1)
        self._claim()               # a map may be given up while run() is under way
        return self._task_map(i)

    cdef _task_map(self, int64_t task):
        if not self.m.tasks[task].has_map:
            return None
        return np.array(<uint8_t[:KB_MAP_BYTES]>self.m.tasks[task].map)

    @property
    def counters(self):
        """All counters of each CPU: a new array, structured uint64 (cpus,), section 7."""
        self._claim()
        return self._counters()

    cdef _counters(self):
        cdef int64_t cpu
        found = np.empty(self.m.n_cpus, COUNTERS_DTYPE)
        cdef uint8_t[::1] at = found.view(np.uint8)
        for cpu in range(self.m.n_cpus):
            kb_counters(&self.m, cpu, <KbCounters*>&at[cpu * sizeof(KbCounters)])
        return found

    def cycles(self, cpu):
        """Return the clock of `cpu`, in cycles."""
        cdef int64_t i = self._index(cpu)
        self._claim()
        return self.m.cpus[i].cycles

    def count(self, cpu, counter):
        """Return a counter of `cpu` by its name, as `"reloads"`: docs/model.md, section 7."""
        cdef int64_t i = self._index(cpu)
        number = _COUNTER_INDEX.get(counter)
        if number is None:
            raise ValueError(unknown_name("counter", counter, COUNTERS))
        self._claim()
        return kb_counter(&self.m, i, number)

    def io_allowed(self, cpu, ports, widths):
        """Say which accesses the hardware of `cpu` would allow now: `port_check` of its state."""
        cdef int64_t i = integer("cpu", cpu, 0, self.m.n_cpus - 1)
        cdef const KbCpu* c = &self.m.cpus[i]
        ports, widths = pairs(ports, widths)
        self._claim()
        limit, base = c.tr.tr_limit, c.tr.io_base
        cdef const uint8_t* map = c.tss_map
        if base == KB_BASE_ALL:
            base, map = KB_BASE_VALID, &ALL_PORTS[0]
        return checked(limit, base, map, ports, widths, c.tr.iopl3)

    def copy(self):
        """Return a separate Machine in the same state."""
        cdef Machine other = Machine(
            self.m.n_cpus, self.m.n_tasks, self.policy, self.profile, self.vendor)
        self._claim()
        if kb_copy(&other.m, &self.m) != KB_OK:
            raise MemoryError("no memory for a task's I/O bitmap")
        return other

    @property
    def address(self):
        """Address of the KbMachine, for kb_ functions called by pointer (numba, ctypes).

        It is valid as long as this Machine is. The caller keeps other threads away from the
        Machine.
        """
        return <uintptr_t>&self.m

    def __reduce__(self):
        cdef KbMachine* m = &self.m
        self._claim()
        self.running = True         # what follows may let other threads run
        try:
            # Rows that hold a bitmap only; the transitions are found again.
            used = np.flatnonzero((self.tss_map != 0xff).any(axis=1)).tolist()
            with_map = np.flatnonzero(self.task["has_map"]).tolist()
            state = {
                "cpu": self.cpu.copy(), "task": self.task.copy(), "counters": self._counters(),
                "tss_maps": {cpu: self.tss_map[cpu].copy() for cpu in used},
                "task_maps": {task: self._task_map(task) for task in with_map},
                "shared": {task: kb_map_of(m, task) for task in with_map
                           if kb_map_of(m, task) != task},
                "sequence": m.sequence,
            }
        finally:
            self.running = False
        return _restored, (m.n_cpus, m.n_tasks, self.policy, self.profile, self.vendor, state)

    cdef _restore(self, dict state):
        cdef KbMachine* m = &self.m
        cdef const uint8_t[::1] map
        cdef const uint64_t[::1] counts
        cdef int32_t i
        flag, size = (0, 1), range(KB_MAP_BYTES + 1)
        check_state(state, {
            "cpu": (_CPU_DTYPE, m.n_cpus), "task": (_TASK_DTYPE, m.n_tasks),
            "counters": (COUNTERS_DTYPE, m.n_cpus),
        }, {
            "cpu": {
                "cycles": range(2**63 + 1), "tr_limit": (KB_LIMIT_MIN, KB_LIMIT_FULL),
                "io_base": (KB_BASE_VALID, KB_BASE_INVALID, KB_BASE_ALL), "iopl3": flag,
                "task": range(-1, m.n_tasks),
                "map_max": size, "tss_busy": flag, "limit_stale": flag, "guest_loaded": flag,
            },
            "task": {"tif": flag, "has_map": flag, "in_run": flag, "max": size, "iopl3": flag,
                     "last_cpu": range(-1, m.n_cpus)},
        })
        counts = state["counters"].view(np.uint64)
        dict(self._owned)["cpus"].view(_CPU_DTYPE)[:] = state["cpu"]
        dict(self._owned)["tasks"].view(_TASK_DTYPE)[:] = state["task"]
        m.sequence = state["sequence"]
        memcpy(m.counted, &counts[0], m.n_cpus * sizeof(KbCounters))
        for i in range(m.n_tasks):
            m.tasks[i].has_map = 0          # until it has one again
        for number, found in state["task_maps"].items():
            if number in state["shared"]:
                continue
            map = found
            if kb_restore_map(m, number, &map[0]) != KB_OK:
                raise MemoryError("no memory for a task's I/O bitmap")
        for number, first in state["shared"].items():
            kb_share_map(m, first, number)
        for number, found in state["tss_maps"].items():
            map = found
            i = number
            memcpy(m.cpus[i].tss_map, &map[0], KB_TSS_MAP_BYTES)
        for i in range(m.n_cpus):
            if m.cpus[i].task >= 0:
                m.cpus[i].current = &m.tasks[m.cpus[i].task]
                m.cpus[i].current.on_cpu = i

    def reset(self):
        """Go back to the state at the start; views stay valid."""
        self._claim()
        self._start()

    def __repr__(self):
        return (f"Machine({self.m.n_cpus}, {self.m.n_tasks}, {self.policy.name!r}, "
                f"{self.profile.name!r}, vendor={self.vendor!r})")

    cdef int64_t _index(self, cpu) except -1:
        """Return a CPU's index. Raises TypeError or ValueError where it is none."""
        cdef int64_t i = _clamped("cpu", cpu)
        if i < 0 or i >= self.m.n_cpus:
            integer("cpu", cpu, 0, self.m.n_cpus - 1)
        return i

    cdef _kind(self, kind):
        if not isinstance(kind, str):
            return kind
        found = self._kind_index.get(kind)
        if found is None:
            raise ValueError(unknown_name("exit kind", kind, self._kind_index))
        return found

    cdef _refused(self, int status, dict op, index):
        """Return the exception of a status: it names the argument, its value and its range.

        `op` has the operation's fields by their names in OP_DTYPE, as far as it uses them.
        """
        if status == KB_NO_MEMORY:
            return MemoryError("no memory for a task's I/O bitmap")
        if status == KB_RUNS_ELSEWHERE:
            # The operation may have been changed since it was checked.
            known = 0 <= op["a"] < self.m.n_tasks
            op["elsewhere"] = self.m.tasks[<int64_t>op["a"]].on_cpu if known else "?"
        return OperationError(_REASONS[status].format(
            **op, last_code=max(Op), last_cpu=self.m.n_cpus - 1, last_kind=self.m.n_kinds - 1,
            last_task=self.m.n_tasks - 1), index)


def _restored(cpus, tasks, policy, profile, vendor, state):
    """Return the Machine that a pickle holds. Raises ValueError for one that is damaged."""
    cdef Machine machine
    with sound("Machine"):
        machine = Machine(cpus, tasks, policy, profile, vendor)
        machine._restore(state)
    return machine
