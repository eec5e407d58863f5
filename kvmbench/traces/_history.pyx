"""The history of a recording: events become counts per exit reason, and operations of a machine.

recording.py and replay.py feed it; docs/trace.md has the rules by which it pairs events.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from kvmbench._steps cimport (
    KB_ADVANCE, KB_EXIT, KB_IOPERM, KB_SWITCH, KB_TASK_EXIT, KbOp,
)
from kvmbench.traces._events cimport (
    CPUID, ENTRY, EXIT, FPU, IOPERM, IOPERM_END, LOST, MMIO, MSR, NESTED, NESTED_EXIT,
    PIO, SWITCH, USER, Event,
)

import numpy as np

from kvmbench.arrays import OP_DTYPE
from kvmbench.errors import ResultError
from kvmbench.traces.events import EVENT_DTYPE

__all__ = ["CPUS_MAX", "HISTOGRAM", "TASKS_MAX", "History", "bucket_value"]

CPUS_MAX = 1024
TASKS_MAX = 65536
HISTOGRAM = 5120                  # buckets: exact to 255 ns, then to 1 part in 256

cdef enum:
    C_CPUS = 1024                 # the same for C
    C_TASKS = 65536
    C_BUCKETS = 5120
    OPS = 65536                   # operations after which `feed` returns
    ENTRY_KEY = 1 << 30           # of History.kind_of, for entries
    NONE = -1                     # idle; no task
    UNKNOWN = -2                  # a CPU without a task that is known

cdef enum:                        # events.RUNNABLE ..., and a switch that no event tells
    RUNNABLE = 0
    ASLEEP = 1
    DEAD = 2
    UNSEEN = 3

cdef enum:                        # Task.state
    OUTSIDE = 0                   # not inside KVM_RUN, as far as is known
    GUEST = 1                     # entered
    HOST = 2                      # an exit is being handled
    INSIDE = 3                    # inside KVM_RUN; the exit is not known, or has been acted on

cdef int64_t GAP = 3600 * <int64_t>1000000000     # ns; no run on a CPU lasts longer

cdef struct Cell:                 # one exit reason, of one vCPU where they are separate
    uint64_t exits
    uint64_t nested               # of L2
    uint64_t returned             # to userspace
    uint64_t put_return           # vcpu_put() by return
    uint64_t put_sched            # by being scheduled out
    uint64_t paired               # exits whose next entry is known
    uint64_t host_ns              # of those, from exit to entry
    uint64_t least_ns, most_ns
    uint64_t unpaired
    uint32_t* histogram           # [C_BUCKETS] of host times
    int32_t task
    uint16_t reason

cdef struct Task:
    int64_t pid                   # below -1: a task without a pid, one per CPU
    int64_t since                 # ns, of the last entry
    int64_t opened                # ns, of the exit that waits for its entry
    int64_t began                 # ns, when it last began to run
    int64_t port, ports           # of an ioperm() under way
    uint64_t guest_ns, run_ns
    uint64_t by_switch            # exits that the interrupt of a SWITCH stands for
    uint64_t exits, returned, puts, sleeps, preemptions, slices_ns, migrations
    int32_t cpu                   # index of the CPU it runs on; NONE
    int32_t last_cpu
    int32_t vcpu
    int32_t cell                  # of the last exit
    uint16_t comm
    uint16_t reason
    uint8_t state
    uint8_t open                  # the exit waits for its entry
    uint8_t acted                 # the exit is in the operations already
    uint8_t loaded                # guest state is in the CPU: the next put reloads
    uint8_t in_run                # the machine's in_run
    uint8_t is_vcpu
    uint8_t writes                # direction of the port access: 0, 1, or 2 for unknown
    uint8_t nested                # the open exit counts as one of L2
    uint8_t unloaded              # kvm_fpu unload came last
    uint8_t completing            # the next read completes the userspace exit before it
    uint8_t bitmap                # 1: to be granted, 2: holds one
    uint8_t asking                # an ioperm() under way: 1 grants, 2 revokes

cdef struct Cpu:
    int64_t id                    # the recording's number
    int64_t last                  # ns, until which its time is accounted; -1: unknown
    int32_t task                  # index, NONE or UNKNOWN
    uint64_t lost                 # events


cdef inline int bucket(uint64_t ns) noexcept:
    cdef int shift = 0
    while ns >> shift > 255:
        shift += 1
    cdef int found = shift * 128 + <int>(ns >> shift)
    return found if found < C_BUCKETS else C_BUCKETS - 1


def bucket_value(int64_t number):
    """Return the middle of a bucket of a histogram of host times, in ns."""
    if number < 256:
        return number
    cdef int64_t shift = number // 128 - 1
    return ((number - 128 * shift) << shift) + ((<int64_t>1 << shift) >> 1)


cdef class History:
    """The state of all CPUs and tasks of a recording, and what has been counted."""

    cdef list names               # the reader's
    cdef dict task_of, cpu_of, cell_of, kind_of
    cdef object kind, holds       # callables; see __init__
    cdef Task* tasks
    cdef Cell* cells
    cdef Cpu cpus[C_CPUS]
    cdef Py_ssize_t n_tasks, n_cells, n_cpus, cells_room, tasks_room, hand
    cdef KbOp* ops
    cdef int32_t* owners
    cdef Py_ssize_t n_ops, ops_room
    cdef uint64_t hz
    cdef bint by_vcpu, infer, switches
    cdef uint16_t unnamed
    cdef Py_ssize_t names_seen
    cdef readonly int64_t first, last                # ns, of the first and the last event
    cdef readonly uint64_t idle_ns, work_ns, guest_ns
    cdef readonly uint64_t lost_marks, lost          # marks of lost events; events they count
    cdef readonly uint64_t guest_runs                # of which both ends are known
    cdef readonly uint64_t dropped                   # guest runs without a known end
    cdef readonly uint64_t empty_returns             # to userspace without an entry
    cdef readonly uint64_t late_returns              # to userspace after a put
    cdef readonly uint64_t gaps, unseen, strange, nested_events
    cdef readonly uint64_t ioperms, ioperms_left
    cdef uint64_t plain_tasks, plain_run_ns, plain_sleeps, plain_preemptions, plain_slices_ns
    cdef uint64_t plain_migrations

    def __cinit__(self):
        self.tasks_room, self.cells_room, self.ops_room = 256, 64, OPS
        self.tasks = <Task*>PyMem_Calloc(self.tasks_room, sizeof(Task))
        self.cells = <Cell*>PyMem_Calloc(self.cells_room, sizeof(Cell))
        self.ops = <KbOp*>PyMem_Calloc(self.ops_room, sizeof(KbOp))
        self.owners = <int32_t*>PyMem_Calloc(self.ops_room, sizeof(int32_t))
        if not (self.tasks and self.cells and self.ops and self.owners):
            raise MemoryError("no memory left for the history of a recording")
        self.first = self.last = -1

    def __init__(
        self, list names not None, *, bint infer, bint switches, bint by_vcpu=False,
        uint64_t hz=0, kind=None, holds=None,
    ):
        """Start with no event.

        `names` are the reader's. `infer`: the recording has no kvm_exit, so other events tell of
        exits. `switches`: it has sched_switch. With `hz`, cycles per second up to 1e10, events
        become operations; `kind(reason, user, writes)` is the exit kind of an exit, where `writes`
        is 0, 1 or None, and kind(None, False, None) that of an entry. `holds(pid, comm)` says
        whether a task holds an I/O bitmap from the start.
        """
        self.names = names
        self.infer, self.switches, self.by_vcpu = infer, switches, by_vcpu
        self.hz, self.kind, self.holds = hz, kind, holds
        self.task_of, self.cpu_of, self.cell_of, self.kind_of = {}, {}, {}, {}

    def __dealloc__(self):
        for i in range(self.n_cells):
            PyMem_Free(self.cells[i].histogram)
        PyMem_Free(self.tasks)
        PyMem_Free(self.cells)
        PyMem_Free(self.ops)
        PyMem_Free(self.owners)

    def feed(self, events not None, Py_ssize_t start=0):
        """Take events, EVENT_DTYPE, from `start` on, and return the index of the next to take.

        Where events become operations, it stops as soon as `take` has many of them.

        Raises ResultError for a recording of more CPUs or tasks than a machine here has.
        """
        cdef Py_ssize_t i, n
        cdef const unsigned char[::1] raw
        if events.dtype != EVENT_DTYPE or events.ndim != 1:
            raise TypeError("events is not an array of EVENT_DTYPE, (n,)")
        n = len(events)
        if not 0 <= start <= n:
            raise ValueError(f"start is {start}, not in 0 to {n}")
        for i in range(self.names_seen, len(self.names)):
            if self.names[i] == "<...>":
                self.unnamed = i
        self.names_seen = len(self.names)
        raw = events.view("u1") if n else np.zeros(1, "u1")
        cdef const Event* event = <const Event*>&raw[0]
        for i in range(start, n):
            if self.n_ops >= OPS - 1024:
                return i
            self.take_event(&event[i])
        return n

    def take(self):
        """Return the operations since the last call, OP_DTYPE, and the task of each, int32."""
        cdef Py_ssize_t n = self.n_ops
        self.n_ops = 0
        if n == 0:
            return np.zeros(0, OP_DTYPE), np.zeros(0, np.int32)
        return (
            np.frombuffer(PyBytes_FromStringAndSize(<char*>self.ops, n * sizeof(KbOp)), OP_DTYPE),
            np.frombuffer(PyBytes_FromStringAndSize(<char*>self.owners, 4 * n), np.int32),
        )

    def end(self):
        """Close what is open: the recording is over."""
        cdef Task* task
        for i in range(self.n_tasks):
            task = &self.tasks[i]
            self.finish_ioperm(i, 0)
            if task.open:
                self.drop(i)
            self.act(i, False)
            if task.cpu >= 0 and task.began >= 0 and self.last > task.began:
                task.run_ns += self.last - task.began
            if not (task.is_vcpu or task.bitmap):
                self.add_plain(task)
        for i in range(self.n_cpus):
            if self.cpus[i].last >= 0:
                self.spend(i, self.last)

    # Tables

    cdef int32_t cpu(self, const Event* event) except? -1:
        """Return the index of the event's CPU; a task whose CPUs are not recorded has its own."""
        cdef int64_t id = event.cpu if event.cpu >= 0 else -2 - <int64_t>event.pid
        found = self.cpu_of.get(id)
        if found is not None:
            return found
        if self.n_cpus == C_CPUS:
            raise ResultError(f"more than {C_CPUS:,} CPUs: no machine here has as many")
        cdef Cpu* cpu = &self.cpus[self.n_cpus]
        cpu.id, cpu.last, cpu.task = id, -1, UNKNOWN
        self.cpu_of[id] = self.n_cpus
        self.n_cpus += 1
        return <int32_t>(self.n_cpus - 1)

    cdef int32_t task(self, int64_t pid, uint16_t comm) except? -1:
        """Return the index of a task, which may be new; NONE for the idle task."""
        cdef int32_t index
        cdef Task* task
        if pid == 0:
            return NONE
        found = self.task_of.get(pid)
        if found is None:
            index = self.new_task(pid)
            self.task_of[pid] = index
        else:
            index = found
        task = &self.tasks[index]
        if task.comm != comm and comm != 0 and comm != self.unnamed:
            task.comm = comm
            if self.holds is not None and not task.bitmap:
                task.bitmap = bool(self.holds(pid, self.names[comm]))
        return index

    cdef int32_t new_task(self, int64_t pid) except? -1:
        cdef Py_ssize_t index = self.n_tasks
        cdef Task* task
        if index == C_TASKS:  # the place of a task that is neither a vCPU nor running
            for _ in range(C_TASKS):
                self.hand = (self.hand + 1) % C_TASKS
                task = &self.tasks[self.hand]
                if not task.is_vcpu and task.cpu < 0 and not task.bitmap and not task.in_run:
                    break
            else:
                raise ResultError(f"more than {C_TASKS:,} vCPUs and running tasks at a time")
            index = self.hand
            del self.task_of[task.pid]
            self.add_plain(task)
        elif index == self.tasks_room:
            task = <Task*>PyMem_Realloc(self.tasks, 2 * index * sizeof(Task))
            if task == NULL:
                raise MemoryError("no memory left for the tasks of a recording")
            self.tasks, self.tasks_room = task, 2 * index
        self.n_tasks += index == self.n_tasks
        task = &self.tasks[index]
        memset(task, 0, sizeof(Task))
        task.pid, task.cpu, task.last_cpu, task.vcpu, task.cell = pid, NONE, NONE, -1, -1
        task.began = -1
        if self.holds is not None:
            task.bitmap = bool(self.holds(pid, ""))
        return <int32_t>index

    cdef int add_plain(self, const Task* task) noexcept:
        """Add a task that is no vCPU to the sums of those."""
        self.plain_tasks += 1
        self.plain_run_ns += task.run_ns
        self.plain_sleeps += task.sleeps
        self.plain_preemptions += task.preemptions
        self.plain_slices_ns += task.slices_ns
        self.plain_migrations += task.migrations
        return 0

    cdef Cell* cell(self, int32_t index, uint16_t reason) except NULL:
        cdef int64_t key = reason if not self.by_vcpu else (<int64_t>index + 1) << 16 | reason
        cdef Cell* moved
        found = self.cell_of.get(key)
        if found is None:
            found = self.n_cells
            if self.n_cells == self.cells_room:
                moved = <Cell*>PyMem_Realloc(self.cells, 2 * self.cells_room * sizeof(Cell))
                if moved == NULL:
                    raise MemoryError("no memory left for the exit reasons of a recording")
                self.cells = moved
                self.cells_room *= 2
            memset(&self.cells[self.n_cells], 0, sizeof(Cell))
            self.cells[self.n_cells].task = index if self.by_vcpu else NONE
            self.cells[self.n_cells].reason = reason
            self.cell_of[key] = found
            self.n_cells += 1
        return &self.cells[<Py_ssize_t>found]

    # Operations

    cdef int op(self, int code, Py_ssize_t cpu, int32_t a, int32_t b, int arg,
                int32_t owner) except -1:
        cdef KbOp* moved
        cdef int32_t* owners
        if not self.hz:
            return 0
        if self.n_ops == self.ops_room:
            moved = <KbOp*>PyMem_Realloc(self.ops, 2 * self.ops_room * sizeof(KbOp))
            if moved == NULL:
                raise MemoryError("no memory left for operations")
            self.ops = moved
            owners = <int32_t*>PyMem_Realloc(self.owners, 2 * self.ops_room * sizeof(int32_t))
            if owners == NULL:
                raise MemoryError("no memory left for operations")
            self.owners = owners
            self.ops_room *= 2
        self.ops[self.n_ops] = KbOp(
            code=<uint8_t>code, arg=<uint8_t>arg, cpu=<uint16_t>cpu, a=a, b=b, c=0
        )
        self.owners[self.n_ops] = owner
        self.n_ops += 1
        return 0

    cdef int advance(self, Py_ssize_t cpu, uint64_t ns, int32_t owner) except -1:
        # hz is at most 1e10, so that neither product wraps.
        cdef uint64_t cycles = ns // 1000000000 * self.hz
        cycles += ns % 1000000000 * self.hz // 1000000000
        while cycles > 0:
            self.op(KB_ADVANCE, cpu, <int32_t>min(cycles, <uint64_t>0x7fffffff), 0, 0, owner)
            cycles -= min(cycles, <uint64_t>0x7fffffff)
        return 0

    cdef int exit_op(self, int32_t index, uint16_t reason, bint user) except -1:
        """Write the EXIT of an exit."""
        cdef Task* task = &self.tasks[index]
        task.in_run = not user
        if not self.hz:
            return 0
        cdef int key = (reason << 3) | (task.writes << 1) | user
        found = self.kind_of.get(key)
        if found is None:
            writes = None if task.writes == 2 else bool(task.writes)
            found = self.kind_of[key] = self.kind(self.names[reason], user, writes)
        return self.op(KB_EXIT, task.cpu, found, 0, 0, index)

    cdef int load(self, int32_t index) except -1:
        """Load the guest's state, as the first entry since a put does."""
        cdef Task* task = &self.tasks[index]
        if task.loaded:
            return 0
        task.loaded = task.in_run = True
        if not self.hz:
            return 0
        found = self.kind_of.get(ENTRY_KEY)
        if found is None:
            found = self.kind_of[ENTRY_KEY] = self.kind(None, False, None)
        return self.op(KB_EXIT, task.cpu, found, 0, 0, index)

    cdef int act(self, int32_t index, bint user) except -1:
        """Write the EXIT that waits to know where it goes, if one does."""
        cdef Task* task = &self.tasks[index]
        if task.state == HOST and not task.acted and task.cpu >= 0:
            self.exit_op(index, task.reason, user)
        task.acted = True
        return 0

    cdef int drop(self, int32_t index) except -1:
        """Give up the wait of an exit for its entry."""
        self.cells[self.tasks[index].cell].unpaired += 1
        self.tasks[index].open = False
        return 0

    cdef int spend(self, Py_ssize_t c, int64_t time) except -1:
        """Account the time of a CPU that runs no vCPU up to `time`."""
        cdef Cpu* cpu = &self.cpus[c]
        cdef uint64_t ns
        if 0 <= cpu.last < time and cpu.task != UNKNOWN:
            ns = time - cpu.last
            if time - cpu.last > GAP:
                self.gaps += 1
            elif cpu.task == NONE:
                self.idle_ns += ns
                self.advance(c, ns, NONE)
            elif not self.tasks[cpu.task].is_vcpu:
                self.work_ns += ns
                self.advance(c, ns, cpu.task)
        cpu.last = max(cpu.last, time)
        return 0

    cdef int guest_run(self, int32_t index, int64_t time) except -1:
        """Account the guest run that ends at `time`."""
        cdef Task* task = &self.tasks[index]
        if time < task.since or time - task.since > GAP:
            self.gaps += 1
            return 0
        task.guest_ns += time - task.since
        self.guest_ns += time - task.since
        self.guest_runs += 1
        return self.advance(task.cpu, time - task.since, index)

    cdef int change(self, Py_ssize_t c, int32_t next, int64_t time, int how) except -1:
        """Switch a CPU from its task to `next`; `how` says how the former ends."""
        cdef Cpu* cpu = &self.cpus[c]
        cdef int32_t prev = cpu.task
        cdef Task* task
        cdef Cell* cell
        cdef int32_t owner
        if prev == next:
            return 0
        if next >= 0 and self.tasks[next].cpu >= 0:  # its switch to this CPU is not recorded
            self.change(self.tasks[next].cpu, NONE, time, UNSEEN)
        self.spend(c, time)
        owner = next
        if prev >= 0:
            task = &self.tasks[prev]
            self.unseen += how == UNSEEN
            if task.loaded or next < 0:
                owner = prev
            if task.state == GUEST and not self.infer:
                self.guest_run(prev, time)
            if self.infer:
                self.act(prev, False)
            if task.loaded:
                task.loaded = False
                task.puts += 1
                cell = self.cell(prev, task.reason if task.state == HOST and not self.infer else 0)
                cell.put_sched += 1
                task.by_switch += task.state == HOST and not task.acted
                task.acted = True
            if task.state != OUTSIDE and task.state != HOST:
                task.state = INSIDE
            if task.began >= 0 and time > task.began:
                task.run_ns += time - task.began
                if how == RUNNABLE:
                    task.slices_ns += time - task.began
            task.preemptions += how == RUNNABLE
            task.sleeps += how == ASLEEP or how == DEAD
            task.cpu = NONE
            if how == DEAD:
                self.op(KB_TASK_EXIT, c, 0, 0, 0, prev)
                task.in_run, task.state = False, OUTSIDE
                task.bitmap = 1 if task.bitmap == 1 else 0
                if task.open:
                    self.drop(prev)
        if next >= 0 or (prev != UNKNOWN and how != DEAD):
            self.op(KB_SWITCH, c, next, 0, 0, owner)
        cpu.task = next
        if next >= 0:
            task = &self.tasks[next]
            task.cpu, task.began = <int32_t>c, time
            task.migrations += task.last_cpu >= 0 and task.last_cpu != c
            task.last_cpu = <int32_t>c
            self.grant(next)
        return 0

    cdef int grant(self, int32_t index) except -1:
        """Give a task the I/O bitmap that it is assumed to hold, once it can have one."""
        cdef Task* task = &self.tasks[index]
        if task.bitmap == 1 and not task.in_run and task.cpu >= 0:
            task.bitmap = 2
            self.op(KB_IOPERM, task.cpu, 0x378, 3, 1, index)
        return 0

    # Events

    cdef int take_event(self, const Event* event) except -1:
        cdef int32_t c, index
        cdef int64_t pid = event.pid if event.pid >= 0 else -2 - <int64_t>event.cpu
        cdef Task* task
        if event.kind == LOST:
            return self.lose(event)
        if self.first < 0 or event.time < self.first:
            self.first = event.time
        if event.time > self.last:
            self.last = event.time
        c = self.cpu(event)
        if event.kind == SWITCH:
            return self.take_switch(c, event)
        index = self.task(pid, event.comm)
        if index < 0:
            self.strange += 1
            return 0
        if self.cpus[c].task != index:
            self.change(c, index, event.time, UNSEEN)
        if event.kind == IOPERM or event.kind == IOPERM_END:
            return self.take_ioperm(index, event)
        task = &self.tasks[index]
        if task.bitmap == 1:
            self.grant(index)
        if not task.is_vcpu:
            self.spend(c, event.time)
            task.is_vcpu = True
        if event.vcpu >= 0:
            task.vcpu = event.vcpu
        if task.asking:
            self.finish_ioperm(index, 0)
        if event.kind == ENTRY:
            return self.entry(index, event.time)
        if event.kind == EXIT:
            self.infer = False
            return self.exit(index, event.time, event.reason, event.a)
        if event.kind == USER:
            return self.user(index, event)
        if event.kind == FPU:
            return self.fpu(c, index, event)
        if event.kind == NESTED_EXIT and not self.infer:
            if task.open and not task.nested:
                task.nested = True
                self.cells[task.cell].nested += 1
            return 0
        if event.kind == NESTED:
            self.nested_events += 1
            return 0
        if not self.infer:
            if event.kind == PIO and task.state == HOST and not task.acted:
                task.writes = event.flag
            return 0
        if event.flag == 0 and task.completing and (event.kind == PIO or event.kind == MMIO):
            task.completing = False
            return self.entry(index, event.time)
        if event.kind == NESTED_EXIT:
            self.inferred(index, event.reason)
            self.cells[task.cell].nested += 1
            return 0
        # The names of events.FIRST_NAMES, from 2 on.
        return self.inferred(
            index,
            2 if event.kind == CPUID else 3 if event.kind == MSR else 4 if event.kind == PIO
            else 5 if event.kind == MMIO else 6,
            event.flag if event.kind == PIO else 2,
        )

    cdef int entry(self, int32_t index, int64_t time) except -1:
        cdef Task* task = &self.tasks[index]
        cdef Cell* cell
        cdef uint64_t ns
        if task.unloaded:
            self.reloaded(index, time)
        if task.open:
            task.open = False
            cell = &self.cells[task.cell]
            if time >= task.opened:
                ns = time - task.opened
                cell.least_ns = min(cell.least_ns, ns) if cell.paired else ns
                cell.most_ns = max(cell.most_ns, ns)
                cell.paired += 1
                cell.host_ns += ns
                if cell.histogram == NULL:
                    cell.histogram = <uint32_t*>PyMem_Calloc(C_BUCKETS, sizeof(uint32_t))
                    if cell.histogram == NULL:
                        raise MemoryError("no memory left for a histogram")
                cell.histogram[bucket(ns)] += 1
            else:
                cell.unpaired += 1
        if task.state == GUEST and not self.infer:
            self.dropped += 1
        self.act(index, False)
        self.load(index)
        task.state = GUEST
        task.since = time
        return 0

    cdef int exit(self, int32_t index, int64_t time, uint16_t reason, int64_t info) except -1:
        cdef Task* task = &self.tasks[index]
        cdef Cell* cell
        if task.open:
            self.drop(index)
        if task.state == GUEST:
            self.guest_run(index, time)
        self.act(index, False)
        self.load(index)
        cell = self.cell(index, reason)
        cell.exits += 1
        task.exits += 1
        task.cell = <int32_t>(cell - self.cells)
        task.reason, task.state, task.open, task.opened = reason, HOST, True, time
        task.acted = task.nested = task.unloaded = False
        name = self.names[reason]
        # VMX has bit 3 of the qualification set for IN, SVM bit 0; kvm_pio says it too.
        task.writes = 2
        if name == "IO_INSTRUCTION":
            task.writes = not info & 8
        elif name == "io":
            task.writes = not info & 1
        return 0

    cdef int inferred(self, int32_t index, uint16_t reason, uint8_t writes=2) except -1:
        """Count an exit that another event tells of; the time of neither end is known."""
        cdef Task* task = &self.tasks[index]
        cdef Cell* cell
        self.act(index, False)
        self.load(index)
        cell = self.cell(index, reason)
        cell.exits += 1
        task.exits += 1
        task.cell = <int32_t>(cell - self.cells)
        task.reason, task.state, task.writes = reason, HOST, writes
        task.acted = task.completing = False
        return 0

    cdef int user(self, int32_t index, const Event* event) except -1:
        cdef Task* task = &self.tasks[index]
        cdef Cell* cell
        cdef bint failed
        task.unloaded = False
        if self.infer and (task.state != HOST or task.acted):
            name = self.names[event.reason]
            failed = name == "restart" or name == "error"
            if not (failed and task.state == OUTSIDE):
                self.inferred(
                    index, 4 if event.a == 2 and not failed
                    else 5 if event.a == 6 and not failed else event.reason,
                    0 if event.a == 2 and not failed else 2,
                )
        task.completing = self.infer and (event.a == 2 or event.a == 6)
        if task.state == OUTSIDE:
            self.empty_returns += 1
            return 0
        if task.state == HOST:
            cell = &self.cells[task.cell]
        else:  # its exit is not recorded
            cell = self.cell(index, 0)
            task.reason, task.writes = 0, 2
            if task.state == GUEST:
                self.dropped += 1
        cell.returned += 1
        task.returned += 1
        if task.loaded:
            cell.put_return += 1
            task.puts += 1
            self.exit_op(index, task.reason, True)
        else:
            self.late_returns += 1
        task.loaded = False
        task.acted = True
        task.state = OUTSIDE
        return 0

    cdef int fpu(self, int32_t c, int32_t index, const Event* event) except -1:
        cdef Task* task = &self.tasks[index]
        if self.switches or self.infer:
            return 0
        if event.flag:
            if task.unloaded:
                self.reloaded(index, event.time)
        elif task.state == HOST or task.state == INSIDE:
            task.unloaded = task.loaded
        return 0

    cdef int reloaded(self, int32_t index, int64_t time) except -1:
        """Act on kvm_fpu's unload and load without a return between them: a switch out and in."""
        cdef Task* task = &self.tasks[index]
        cdef int32_t c = task.cpu
        task.unloaded = False
        self.change(c, NONE, time, UNSEEN)
        return self.change(c, index, time, UNSEEN)

    cdef int take_switch(self, int32_t c, const Event* event) except -1:
        cdef int32_t prev, next
        cdef Cpu* cpu = &self.cpus[c]
        next = self.task(event.b, event.reason)
        prev = self.task(event.a, event.comm if event.a == event.pid else 0)
        if cpu.task == UNKNOWN:
            if prev >= 0 and self.tasks[prev].cpu >= 0:
                self.change(self.tasks[prev].cpu, NONE, event.time, UNSEEN)
        elif cpu.task != prev:
            self.change(c, prev, event.time, UNSEEN)
        if cpu.task >= 0 and self.tasks[cpu.task].asking and event.flag == DEAD:
            self.finish_ioperm(cpu.task, -1)
        return self.change(c, next, event.time, event.flag)

    cdef int take_ioperm(self, int32_t index, const Event* event) except -1:
        cdef Task* task = &self.tasks[index]
        if event.kind == IOPERM_END:
            return self.finish_ioperm(index, event.a)
        self.finish_ioperm(index, 0)
        task.asking = 1 if event.flag else 2
        task.port, task.ports = event.a, event.b
        return 0

    cdef int finish_ioperm(self, int32_t index, int64_t result) except -1:
        """End an ioperm() that is under way; a call whose end is not recorded succeeded."""
        cdef Task* task = &self.tasks[index]
        cdef int asking = task.asking
        task.asking = 0
        if not asking or result != 0:
            return 0
        if not (0 <= task.port < 65536 and 1 <= task.ports <= 65536 - task.port):
            return 0  # the kernel refuses it too
        if task.in_run or task.cpu < 0:
            self.ioperms_left += 1
            return 0
        self.ioperms += 1
        task.bitmap = 2
        return self.op(
            KB_IOPERM, task.cpu, <int32_t>task.port, <int32_t>task.ports, asking == 1, index
        )

    cdef int lose(self, const Event* event) except -1:
        """Forget what events lost on a CPU could have changed."""
        cdef int32_t c, index
        self.lost_marks += 1
        self.lost += max(event.a, 0)
        if event.cpu < 0 and event.pid < 0:
            return 0
        c = self.cpu(event)
        self.cpus[c].lost += max(event.a, 0)
        self.cpus[c].last = -1
        index = self.cpus[c].task
        if index < 0:
            self.cpus[c].task = UNKNOWN
            return 0
        cdef Task* task = &self.tasks[index]
        if task.open:
            self.drop(index)
        self.dropped += task.state == GUEST and not self.infer
        self.act(index, False)
        if task.state != OUTSIDE:
            task.state = INSIDE
        task.asking = task.unloaded = task.completing = False
        task.began = -1
        return 0

    # What was counted

    @property
    def inferring(self):
        """Whether exits are inferred from other events."""
        return bool(self.infer)

    @property
    def cpu_ids(self):
        """The numbers of the CPUs that the recording names, in order of their first event."""
        return [self.cpus[i].id for i in range(self.n_cpus) if self.cpus[i].id >= 0]

    @property
    def n_machine_cpus(self):
        """The number of CPUs of the operations: a task without a recorded CPU has its own."""
        return self.n_cpus

    def counts(self):
        """Return a dict per exit reason, and per task where they are separate.

        `histogram` is an array of uint32, (HISTOGRAM,), or None. The reason "" stands for puts and
        returns without a recorded exit.
        """
        found = []
        cdef Cell* cell
        for i in range(self.n_cells):
            cell = &self.cells[i]
            histogram = None
            if cell.histogram:
                histogram = np.frombuffer(
                    PyBytes_FromStringAndSize(<char*>cell.histogram, 4 * C_BUCKETS), np.uint32
                )
            found.append(dict(
                task=cell.task, reason=self.names[cell.reason], exits=cell.exits,
                nested=cell.nested, returned=cell.returned, put_return=cell.put_return,
                put_sched=cell.put_sched, paired=cell.paired, host_ns=cell.host_ns,
                least_ns=cell.least_ns, most_ns=cell.most_ns, unpaired=cell.unpaired,
                histogram=histogram,
            ))
        return found

    def task_counts(self):
        """Return a dict per vCPU and per task that holds an I/O bitmap, by the task's index."""
        found = {}
        cdef Task* task
        for i in range(self.n_tasks):
            task = &self.tasks[i]
            if not (task.is_vcpu or task.bitmap):
                continue
            found[i] = dict(
                pid=task.pid if task.pid >= 0 else None, comm=self.names[task.comm],
                vcpu=task.vcpu if task.vcpu >= 0 else None, is_vcpu=bool(task.is_vcpu),
                bitmap=task.bitmap == 2, exits=task.exits, returned=task.returned, puts=task.puts,
                by_switch=task.by_switch, guest_ns=task.guest_ns, run_ns=task.run_ns,
                sleeps=task.sleeps, preemptions=task.preemptions, slices_ns=task.slices_ns,
                migrations=task.migrations,
            )
        return found

    @property
    def plain(self):
        """The sums over the tasks that are neither, after `end`, as a dict with their number."""
        return dict(
            tasks=self.plain_tasks, run_ns=self.plain_run_ns, sleeps=self.plain_sleeps,
            preemptions=self.plain_preemptions, slices_ns=self.plain_slices_ns,
            migrations=self.plain_migrations,
        )
