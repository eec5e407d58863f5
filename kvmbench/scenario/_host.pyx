"""A whole host in C: run queues, timeslices and random guests over the machine's operations.

docs/scenario.md is the specification; scenario.py drives it. Each worker thread has a separate
KbMachine over the same CPUs and tasks, so that a transition that one of them adds changes nothing
shared; one worker at a time has a CPU, and workers meet at the end of each epoch.
"""
cimport cython
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport (
    INT32_MAX, UINT64_MAX, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t,
)
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport usleep

from kvmbench._core cimport Machine, zeroed
from kvmbench._steps cimport (
    KB_ADVANCE, KB_EXIT, KB_IO, KB_IOPERM, KB_NO_MEMORY, KB_OK, KB_STATES, KB_SWITCH,
    KB_TIMES_STRIDE, KB_TRANSITIONS, KbCounters, KbCpu, KbMachine, KbOp, KbTransition, kb_advance,
    kb_exit, kb_flush, kb_free_spare, kb_io, kb_ioperm, kb_known, kb_switch, kb_times,
)
from kvmbench.scenario._philox cimport GOLDEN, philox_block

import numpy as np

from kvmbench.arrays import OP_DTYPE, integer
from kvmbench.scenario.sampling import alias_table, quantiles

__all__ = ["TYPES", "Host", "philox"]

TYPES = ("vcpu", "plain", "io")   # Group.type, in the order of the enum below

cdef enum:
    VCPU = 0                      # runs a guest, which exits
    PLAIN = 1                     # works
    IO = 2                        # works, and accesses a port now and then

cdef enum:
    DRAWS = 64                    # drawn at once, so that blocks of Philox overlap
    SPINS = 1000                  # at a barrier, before the thread gives up its core
    NONE = -1                     # no task; no guest run under way
    STOPPED = 1000                # a KbStatus of this file: the history has max_ops operations

cdef extern from *:
    """
    #if defined(__x86_64__) || defined(__i386__)
    #define PAUSE() __builtin_ia32_pause()
    #else
    #define PAUSE() ((void)0)
    #endif
    #define RARE(condition) __builtin_expect(condition, 0)
    #define FETCH_ADD(at, n) __atomic_fetch_add(at, n, __ATOMIC_ACQ_REL)
    #define LOAD(at) __atomic_load_n(at, __ATOMIC_ACQUIRE)
    #define STORE(at, value) __atomic_store_n(at, value, __ATOMIC_RELEASE)
    """
    void PAUSE() noexcept nogil
    bint RARE(bint condition) noexcept nogil
    int64_t FETCH_ADD(int64_t* at, int64_t n) noexcept nogil
    int64_t LOAD(int64_t* at) noexcept nogil
    void STORE(int64_t* at, int64_t value) noexcept nogil

cdef struct Choice:               # of an exit kind: an entry of an alias table
    uint32_t threshold            # of 2**32; below it `kind`, else `alias`
    uint16_t kind, alias

cdef struct Group:                # tasks that behave alike
    uint64_t mean                 # cycles a guest run takes, or an io task works between accesses
    uint64_t run, sleep           # cycles it runs before it sleeps, and sleeps; sleep 0: never
    const uint32_t* quantiles     # [1024] of the times, in 2**-20 of their mean
    const Choice* mix             # [n_mix] exit kinds
    uint32_t n_mix
    uint8_t type

cdef struct Actor:                # a task; 64 bytes, so that no two threads write to one line
    const Group* group
    uint64_t left                 # cycles of the run under way
    uint64_t burst                # cycles still to run before it sleeps
    uint64_t wake                 # clock of its CPU, while it sleeps
    int32_t kind                  # exit kind that ends the run under way, NONE: none under way
    int32_t next                  # the next task in its CPU's queue or among the sleepers
    int32_t port                  # for `io`
    int32_t _unused[5]

cdef struct Lane:                 # a CPU's share of the host
    uint64_t draws[DRAWS]
    uint64_t block                # Philox's counter: blocks drawn
    uint64_t slice_end            # clock
    uint64_t guest_outside        # cycles of guest runs that the machine counted as work
    uint64_t operations
    uint32_t at                   # next of `draws`
    int32_t head, tail            # of the run queue
    int32_t length
    int32_t sleepers              # the first to wake
    int32_t _unused[3]

cdef struct Cursor:               # a worker's own CPUs, those not yet simulated in this epoch
    int64_t next, end, first
    int64_t _unused[5]

cdef struct Cost:                 # an entry of Worker.costs
    uint64_t cycles, count        # count 0: free

cdef struct Worker:
    KbMachine m
    Cost* costs                   # [n_costs], hashed: interpreted EXITs by their cost
    uint64_t n_costs, used

cdef struct Shared:               # by all workers
    KbMachine* m
    Lane* lanes                   # [n_cpus]
    Group* groups
    Actor* actors                 # [n_tasks]
    Worker* workers               # [n_workers]
    Cursor* cursors               # [n_workers]
    int64_t n_workers
    uint64_t seed, timeslice, epoch, end      # cycles, but for the seed
    uint64_t now                  # clock at which the epoch ends
    uint64_t migrations, hz       # migrations in `hz` epochs
    uint64_t due                  # of those, towards the next one
    uint64_t draws                # from the host's own stream
    int64_t arrived, phase        # of the barrier
    int64_t stop                  # KbStatus, the reason to stop early; -1: a caller's stop()
    int64_t pause                 # CLOCK_MONOTONIC in ns at which `work` returns; 0: at the end
    KbOp* ops                     # [max_ops] the history, where one is wanted
    int64_t n_ops, max_ops


# -- Random numbers ------------------------------------------------------------------------------

def philox(counter, key):
    """Return the block of Philox4x64-10 for four words of counter and two of key, as a list."""
    cdef uint64_t[4] at = [int(word) for word in counter]
    cdef uint64_t[4] found
    cdef uint64_t k0, k1
    k0, k1 = key
    philox_block(at, k0, k1, found)
    return list(found)


cdef void _refill(Shared* s, Lane* lane, uint64_t stream) noexcept nogil:
    cdef uint64_t[4] counter = [0, 0, 0, 0]
    cdef int i
    for i in range(0, DRAWS, 4):
        lane.block += 1
        counter[0] = lane.block
        philox_block(counter, s.seed, stream, &lane.draws[i])
    lane.at = 0


cdef inline uint64_t _draw(Shared* s, Lane* lane, int64_t cpu) noexcept nogil:
    if RARE(lane.at == DRAWS):      # keeps the compiler from putting a refill into each loop
        _refill(s, lane, cpu)
    lane.at += 1
    return lane.draws[lane.at - 1]


cdef inline uint64_t _time(const Group* group, uint64_t mean, uint64_t bits) noexcept nogil:
    """Make the upper 30 bits a time, rounded up with the probability of the part cut off."""
    return (mean * group.quantiles[bits >> 54] + (bits >> 34 & (1 << 20) - 1)) >> 20


cdef inline int32_t _choose(const Group* group, uint64_t bits) noexcept nogil:
    """Make the lower 32 bits an exit kind."""
    cdef uint64_t x = <uint64_t><uint32_t>bits * group.n_mix
    cdef Choice choice = group.mix[x >> 32]
    return choice.kind if <uint32_t>x < choice.threshold else choice.alias


cdef uint64_t _below(Shared* s, uint64_t n) noexcept nogil:
    """Draw from the host's own stream a number below n, which is below 2**32."""
    cdef uint64_t[4] counter = [(s.draws >> 2) + 1, 0, 0, 0]
    cdef uint64_t[4] block
    philox_block(counter, s.seed, UINT64_MAX, block)
    s.draws += 1
    return (block[(s.draws - 1) & 3] >> 32) * n >> 32


# -- Operations: done on the machine, and written down where a history is wanted ------------------

cdef inline int _note(Shared* s, Lane* lane, int code, int arg, int64_t cpu, int64_t a,
                      int64_t b) noexcept nogil:
    if s.ops != NULL and s.n_ops == s.max_ops:
        return STOPPED
    lane.operations += 1
    if s.ops == NULL:
        return KB_OK
    s.ops[s.n_ops] = KbOp(code=<uint8_t>code, arg=<uint8_t>arg, cpu=<uint16_t>cpu,
                          a=<int32_t>a, b=<int32_t>b, c=0)
    s.n_ops += 1
    return KB_OK


cdef int _advance(Shared* s, Worker* w, int64_t cpu, uint64_t cycles) noexcept nogil:
    cdef KbCpu* c = &w.m.cpus[cpu]
    cdef uint64_t spent
    cdef int status = _note(s, &s.lanes[cpu], KB_ADVANCE, 0, cpu, cycles, 0)
    if status != KB_OK:
        return status
    if c.task >= 0 and s.actors[c.task].group.type == VCPU and not c.current.in_run:
        s.lanes[cpu].guest_outside += cycles
    return kb_advance(&w.m, cpu, cycles, &spent)


cdef int _switch(Shared* s, Worker* w, int64_t cpu, int32_t task) noexcept nogil:
    cdef uint64_t spent
    cdef int status = _note(s, &s.lanes[cpu], KB_SWITCH, 0, cpu, task, 0)
    if status == KB_OK:
        status = kb_switch(&w.m, cpu, task, &spent)
        s.lanes[cpu].slice_end = w.m.cpus[cpu].cycles + s.timeslice
    return status


cdef int _exit(Shared* s, Worker* w, int64_t cpu, int32_t kind) noexcept nogil:
    cdef uint64_t spent
    cdef int status = _note(s, &s.lanes[cpu], KB_EXIT, 0, cpu, kind, 0)
    if status == KB_OK:
        status = kb_exit(&w.m, cpu, kind, &spent)
    if status == KB_OK and w.m.kinds[kind].exits:
        status = _count_cost(w, spent, 1)
    return status


cdef int _io(Shared* s, Worker* w, int64_t cpu, int32_t port) noexcept nogil:
    cdef uint64_t spent
    cdef uint8_t allowed
    cdef int status = _note(s, &s.lanes[cpu], KB_IO, 1, cpu, port, 0)
    return kb_io(&w.m, cpu, port, 1, &allowed, &spent) if status == KB_OK else status


cdef int _count_cost(Worker* w, uint64_t cycles, uint64_t count) noexcept nogil:
    """Count an EXIT that was interpreted; the others are counted by transition."""
    cdef Cost* old
    cdef uint64_t at, i, n
    if 2 * w.used >= w.n_costs:
        old, n = w.costs, w.n_costs
        w.costs = <Cost*>PyMem_RawRealloc(NULL, 2 * n * sizeof(Cost))
        if w.costs == NULL:
            w.costs = old
            return KB_NO_MEMORY
        memset(w.costs, 0, 2 * n * sizeof(Cost))
        w.n_costs = 2 * n
        w.used = 0
        for i in range(n):
            if old[i].count:
                _count_cost(w, old[i].cycles, old[i].count)
        PyMem_RawFree(old)
    at = cycles * GOLDEN >> 32
    while True:
        at &= w.n_costs - 1
        if w.costs[at].count == 0:
            w.costs[at].cycles = cycles
            w.used += 1
        if w.costs[at].cycles == cycles:
            w.costs[at].count += count
            return KB_OK
        at += 1


# -- A task, until its slice or its burst ends -------------------------------------------

cdef void _make_transitions(Shared* s, Worker* w, Actor* actor, int64_t cpu,
                            uint64_t stop) noexcept nogil:
    """Do the guest's runs and EXITs as long as each EXIT is a known transition and the run fits.

    As kb_advance and kb_exit would, but the CPU is stored at the end only: an EXIT costs a
    look-up, a sum and a count. What comes next is left in the actor.
    """
    cdef Lane* lane = &s.lanes[cpu]
    cdef KbCpu* c = &w.m.cpus[cpu]
    cdef const Group* group = actor.group
    cdef const KbTransition* transitions = w.m.transitions
    cdef const KbTransition* transition
    cdef KbTransition start             # as if one had led to where the CPU is
    cdef const KbTransition* last = &start
    cdef uint64_t* times = c.times
    cdef uint64_t clock = c.cycles, burst = actor.burst, run = actor.left
    cdef uint64_t guest, outside = 0, n = 0, bits
    cdef int32_t kind = actor.kind
    kb_known(&w.m, cpu)
    start.after = c.tr
    start.in_run = c.current.in_run
    if kind == NONE:
        bits = _draw(s, lane, cpu)
        run, kind = _time(group, group.mean, bits), _choose(group, bits)
    while True:
        transition = &transitions[last.after.known + kind]
        if run > stop - clock or run > burst or transition.number == 0:
            break
        clock += run + transition.cycles
        burst -= run
        outside += run & (<uint64_t>last.in_run - 1)
        times[transition.number] += 1
        last = transition
        n += 2
        kind = NONE
        if clock >= stop or burst == 0:
            break
        bits = _draw(s, lane, cpu)
        run, kind = _time(group, group.mean, bits), _choose(group, bits)
    guest = actor.burst - burst
    actor.left, actor.kind, actor.burst = run, kind, burst
    lane.operations += n
    lane.guest_outside += outside
    w.m.counted[cpu].c_guest += guest - outside
    w.m.counted[cpu].c_work += outside
    c.cycles = clock
    c.tr = last.after
    c.current.in_run = last.in_run


cdef int _go_on(Shared* s, Worker* w, Actor* actor, int64_t cpu, uint64_t stop) noexcept nogil:
    """Let a task run until `stop` or the end of its burst."""
    cdef KbCpu* c = &w.m.cpus[cpu]
    cdef const Group* group = actor.group
    cdef uint64_t bits, room
    cdef int status = KB_OK
    while c.cycles < stop and actor.burst > 0 and status == KB_OK:
        if group.type == VCPU and s.ops == NULL:
            _make_transitions(s, w, actor, cpu, stop)
            if actor.kind == NONE:
                return KB_OK
        elif actor.kind == NONE:
            actor.kind = 0
            actor.left = UINT64_MAX     # a plain task only works
            if group.type != PLAIN:
                bits = _draw(s, &s.lanes[cpu], cpu)
                actor.left = _time(group, group.mean, bits)
                actor.kind = _choose(group, bits) if group.type == VCPU else 0
        room = min(stop - c.cycles, actor.burst)
        if actor.left > room:
            actor.left -= room
            actor.burst -= room
            return _advance(s, w, cpu, room)
        status = _advance(s, w, cpu, actor.left)
        if status == KB_OK:
            actor.burst -= actor.left
            if group.type == VCPU:
                status = _exit(s, w, cpu, actor.kind)
            else:
                status = _io(s, w, cpu, actor.port)
            actor.kind = NONE
    return status


# -- A CPU's queue ---------------------------------------------------------------------------------

cdef void _push(Shared* s, Lane* lane, int32_t task) noexcept nogil:
    s.actors[task].next = NONE
    if lane.head == NONE:
        lane.head = task
    else:
        s.actors[lane.tail].next = task
    lane.tail = task
    lane.length += 1


cdef int32_t _pop(Shared* s, Lane* lane) noexcept nogil:
    cdef int32_t task = lane.head
    if task != NONE:
        lane.head = s.actors[task].next
        lane.length -= 1
    return task


cdef void _wake(Shared* s, Lane* lane, uint64_t clock) noexcept nogil:
    """Queue the sleepers whose time has come, in the order in which it came."""
    cdef int32_t task
    while lane.sleepers != NONE and s.actors[lane.sleepers].wake <= clock:
        task = lane.sleepers
        lane.sleepers = s.actors[task].next
        _push(s, lane, task)


cdef void _sleep(Shared* s, Lane* lane, int32_t task, int64_t cpu, uint64_t clock) noexcept nogil:
    cdef Actor* actor = &s.actors[task]
    cdef const Group* group = actor.group
    cdef int32_t* at = &lane.sleepers
    actor.wake = clock + _time(group, group.sleep, _draw(s, lane, cpu))
    actor.burst = _time(group, group.run, _draw(s, lane, cpu))
    while at[0] != NONE and s.actors[at[0]].wake <= actor.wake:
        at = &s.actors[at[0]].next
    actor.next = at[0]
    at[0] = task


cdef int _run_cpu(Shared* s, Worker* w, int64_t cpu, uint64_t end) noexcept nogil:
    """Run a CPU until its clock is at `end` or past it, by as much as its last operation takes."""
    cdef Lane* lane = &s.lanes[cpu]
    cdef KbCpu* c = &w.m.cpus[cpu]
    cdef Actor* actor
    cdef uint64_t until
    cdef int32_t task
    cdef int status = KB_OK
    while c.cycles < end and status == KB_OK and LOAD(&s.stop) == 0:
        task = c.task
        if task == NONE:
            _wake(s, lane, c.cycles)
            if lane.head != NONE:
                status = _switch(s, w, cpu, _pop(s, lane))
                continue
            until = end
            if lane.sleepers != NONE:
                until = min(end, s.actors[lane.sleepers].wake)
            status = _advance(s, w, cpu, until - c.cycles)
            continue
        if c.cycles >= lane.slice_end:
            _wake(s, lane, c.cycles)
            if lane.head != NONE:
                _push(s, lane, task)
                status = _switch(s, w, cpu, _pop(s, lane))
            else:
                lane.slice_end = c.cycles + s.timeslice
            continue
        actor = &s.actors[task]
        status = _go_on(s, w, actor, cpu, min(lane.slice_end, end))
        if actor.burst == 0 and status == KB_OK:
            _sleep(s, lane, task, cpu, c.cycles)
            _wake(s, lane, c.cycles)
            task = _pop(s, lane)
            if task != c.task:      # it may wake at once
                status = _switch(s, w, cpu, task)
    return status


# -- Epochs ----------------------------------------------------------------------------------------

cdef void _migrate(Shared* s) noexcept nogil:
    """Move one of all queued tasks, each as likely, to the queue of one of the other CPUs."""
    cdef int64_t cpu, to, queued = 0, at
    cdef int32_t task
    cdef int32_t before = NONE
    cdef Lane* lane
    for cpu in range(s.m.n_cpus):
        queued += s.lanes[cpu].length
    if queued == 0 or s.m.n_cpus == 1:
        return
    at = _below(s, queued)
    to = _below(s, s.m.n_cpus - 1)
    cpu = 0
    while at >= s.lanes[cpu].length:
        at -= s.lanes[cpu].length
        cpu += 1
    lane = &s.lanes[cpu]
    task = lane.head
    while at > 0:
        before = task
        task = s.actors[task].next
        at -= 1
    if before == NONE:
        lane.head = s.actors[task].next
    else:
        s.actors[before].next = s.actors[task].next
    if lane.tail == task:
        lane.tail = before
    lane.length -= 1
    _push(s, &s.lanes[to + (to >= cpu)], task)


cdef bint _next_epoch(Shared* s) noexcept nogil:
    """Begin an epoch, with the migrations that are due; returns 0 where none is left."""
    cdef int64_t i
    if s.stop or s.now == s.end:
        return 0
    if s.now > 0:
        s.due += s.migrations
    while s.due >= s.hz and LOAD(&s.stop) == 0:
        s.due -= s.hz
        _migrate(s)
    s.now += min(s.epoch, s.end - s.now)
    for i in range(s.n_workers):
        s.cursors[i].next = s.cursors[i].first
    return 1


cdef bint _meet(Shared* s) noexcept nogil:
    """Wait for the other workers; the last to come begins the next epoch. Returns 0 at the end."""
    cdef int64_t phase = LOAD(&s.phase), spins = 0
    if FETCH_ADD(&s.arrived, 1) == s.n_workers - 1:
        s.arrived = 0
        STORE(&s.phase, phase + 1 if _next_epoch(s) else -1)
    else:
        while LOAD(&s.phase) == phase:
            if LOAD(&s.stop):       # not every worker may be on its way here
                return 0
            spins += 1
            if spins < SPINS:
                PAUSE()
            else:
                usleep(20)
    return LOAD(&s.phase) >= 0


cdef void _claim(Worker* w, int64_t cpu) noexcept nogil:
    cdef KbCpu* c = &w.m.cpus[cpu]
    c.times = kb_times(&w.m, cpu)
    c.tr.known = 0
    if c.task < 0:
        c.current = &w.m.idle


cdef int64_t _now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1_000_000_000 + t.tv_nsec


cdef bint _work(Shared* s, int64_t id) noexcept nogil:
    """Simulate CPUs, the worker's own first and then what others have left, until the end.

    Returns 1 after a CPU where the time to pause has come; another call goes on there.
    """
    cdef Worker* w = &s.workers[id]
    cdef Cursor* cursor
    cdef int64_t i, cpu
    cdef int status
    while True:
        for i in range(s.n_workers):
            cursor = &s.cursors[(id + i) % s.n_workers]
            while LOAD(&s.stop) == 0:
                cpu = FETCH_ADD(&cursor.next, 1)
                if cpu >= cursor.end:
                    break
                _claim(w, cpu)
                status = _run_cpu(s, w, cpu, s.now)
                if status != KB_OK:
                    STORE(&s.stop, status)
                if s.pause and _now() >= s.pause:
                    return 1
        if not _meet(s):
            return 0


cdef int64_t _within(str name, int64_t value, int64_t high) except -1:
    if not 0 <= value <= high:
        integer(name, value, 0, high)   # raises
    return value


@cython.no_gc_clear     # __dealloc__ reads the workers' records, which _owned keeps
cdef class Host:
    """CPUs with run queues, and tasks that behave as their groups say, on a Machine at its start.

    Parameters: `groups`, each (type of TYPES, mean, run, sleep, fixed, mix) with cycles below
    2**40, a mean from 1, and a mix of (exit kind, weight), more than one weight above 0 or the
    other types' empty one; `tasks`, int64 (tasks, 4), each its group, CPU, first port and number
    of ports to ask for (0: it holds no I/O bitmap); `timeslice` and `epoch`, 1 to 2**31 - 1
    cycles, `end`, 1 to 2**61 cycles; `migrations` in `hz` epochs; `seed`, 0 to 2**64 - 1.

    `work` and `record` can be called once between them. Raises TypeError or ValueError.
    """

    cdef Shared s
    cdef readonly Machine machine
    cdef tuple _owned             # (name, array), as in Machine
    cdef dict _costs
    cdef bint _begun

    def __init__(self, Machine machine not None, groups, tasks, *, timeslice, epoch, end,
                 migrations, hz, seed, workers=1):
        cdef Shared* s = &self.s
        cdef KbMachine* m = &machine.m
        cdef int64_t i
        if self._owned is not None:
            raise TypeError("a Host is made once")
        self._owned = ()
        self.machine = machine
        s.m = m
        s.timeslice = integer("timeslice", timeslice, 1, INT32_MAX)
        s.epoch = integer("epoch", epoch, 1, INT32_MAX)
        s.end = integer("end", end, 1, 1 << 61)
        s.migrations = integer("migrations", migrations, 0, 1 << 60)
        s.hz = integer("hz", hz, 1, 1 << 60)
        s.seed = integer("seed", seed, 0, UINT64_MAX)
        s.n_workers = integer("workers", workers, 1, 4096)
        s.lanes = <Lane*>self._array("lanes", m.n_cpus, sizeof(Lane))
        for i in range(m.n_cpus):
            if m.cpus[i].cycles:
                raise ValueError("the machine is not at its start")
            s.lanes[i].at = DRAWS
            s.lanes[i].head = s.lanes[i].tail = s.lanes[i].sleepers = NONE
        self._lay_out_groups(list(groups))
        self._lay_out_tasks(tasks, len(groups))
        self._make_workers()

    def __dealloc__(self):
        cdef int64_t i
        if self.s.workers != NULL:
            for i in range(self.s.n_workers):
                PyMem_RawFree(self.s.workers[i].costs)
                kb_free_spare(&self.s.workers[i].m)

    cdef void* _array(self, str name, Py_ssize_t n, size_t itemsize) except NULL:
        """Return the address of `n` zeroed records on a cache line's border, owned by self."""
        cdef void* at
        self._owned += ((name, zeroed(n * itemsize, &at)),)
        return at

    cdef _lay_out_groups(self, list groups):
        cdef Group* made = <Group*>self._array("groups", len(groups), sizeof(Group))
        cdef Choice* mix
        cdef const uint32_t[::1] table
        cdef int64_t i, j
        self.s.groups = made
        for i, (type_, mean, run, sleep, fixed, kinds) in enumerate(groups):
            made[i].type = TYPES.index(type_)
            made[i].mean = integer("mean", mean, 1, 1 << 40)
            made[i].sleep = integer("sleep", sleep, 0, 1 << 40)
            made[i].run = integer("run", run, 1 if sleep else 0, 1 << 40)
            table = quantiles(fixed)
            self._owned += ((f"quantiles {i}", table),)
            made[i].quantiles = &table[0]
            if (type_ == "vcpu") != (len(kinds) > 0):
                raise ValueError("a mix of exit kinds is for vcpu, which needs one")
            mix = <Choice*>self._array(f"mix {i}", len(kinds), sizeof(Choice))
            entries = alias_table([weight for _, weight in kinds]) if kinds else ()
            for j, (threshold, alias) in enumerate(entries):
                mix[j].threshold = threshold
                mix[j].kind = integer("kind", kinds[j][0], 0, self.s.m.n_kinds - 1)
                mix[j].alias = kinds[alias][0]
            made[i].mix = mix
            made[i].n_mix = len(kinds)

    cdef _lay_out_tasks(self, tasks, n_groups):
        """Queue each task on its CPU, before its first burst."""
        cdef Shared* s = &self.s
        cdef Actor* actor
        cdef const int64_t[:, ::1] rows = np.ascontiguousarray(tasks, np.int64)
        cdef int64_t i, group, cpu
        cdef uint64_t bits
        if (rows.shape[0], rows.shape[1]) != (s.m.n_tasks, 4):
            raise ValueError(f"tasks has shape {tasks.shape}, not ({s.m.n_tasks}, 4)")
        self._owned += (("tasks", rows),)
        s.actors = <Actor*>self._array("actors", s.m.n_tasks, sizeof(Actor))
        for i in range(s.m.n_tasks):
            actor = &s.actors[i]
            group = _within("group", rows[i, 0], n_groups - 1)
            cpu = _within("cpu", rows[i, 1], s.m.n_cpus - 1)
            actor.port = <int32_t>_within("port", rows[i, 2], 65535)
            _within("ports", rows[i, 3], 65536 - actor.port)
            actor.group = &s.groups[group]
            actor.kind = NONE
            actor.burst = <uint64_t>1 << 63
            if actor.group.sleep:
                bits = _draw(s, &s.lanes[cpu], cpu)
                actor.burst = _time(actor.group, actor.group.run, bits)
            _push(s, &s.lanes[cpu], <int32_t>i)

    cdef _make_workers(self):
        """Give each worker a machine over the same CPUs and tasks, the first one `machine`'s."""
        cdef Shared* s = &self.s
        cdef KbMachine* m = s.m
        cdef Worker* w
        cdef int64_t i
        s.cursors = <Cursor*>self._array("cursors", s.n_workers, sizeof(Cursor))
        s.workers = <Worker*>self._array("workers", s.n_workers, sizeof(Worker))
        for i in range(s.n_workers):
            s.cursors[i].first = s.cursors[i].next = m.n_cpus * i // s.n_workers
            s.cursors[i].end = m.n_cpus * (i + 1) // s.n_workers
            w = &s.workers[i]
            w.m = m[0]
            w.m.spare = NULL
            w.m.n_spare = 0
            if i > 0:
                self._separate(&w.m, i)
            w.n_costs = 64
            w.costs = <Cost*>PyMem_RawRealloc(NULL, w.n_costs * sizeof(Cost))
            if w.costs == NULL:
                raise MemoryError("no memory for the costs of EXITs")
            memset(w.costs, 0, w.n_costs * sizeof(Cost))

    cdef _separate(self, KbMachine* m, i):
        """Give a copy of the machine its own transitions and times, none yet."""
        m.n_known = m.n_transitions = 1
        m.known = <uint32_t*>self._array(f"known {i}", KB_STATES, sizeof(uint32_t))
        m.transitions = <KbTransition*>self._array(
            f"transitions {i}", (KB_TRANSITIONS + 1) * m.n_kinds, sizeof(KbTransition))
        m.effects = <KbCounters*>self._array(f"effects {i}", KB_TRANSITIONS, sizeof(KbCounters))
        m.times = <uint64_t*>self._array(
            f"times {i}", m.n_cpus * KB_TIMES_STRIDE, sizeof(uint64_t))

    cdef int _hand_out_ports(self) except -1:
        """Let each task that holds an I/O bitmap ask for its ports, one task after the other.

        Before the first epoch: each request takes a number from the machine's one sequence.
        """
        cdef Shared* s = &self.s
        cdef Worker* w = &s.workers[0]
        cdef const int64_t[:, ::1] rows = dict(self._owned)["tasks"]
        cdef uint64_t spent
        cdef int64_t i, cpu
        cdef int status
        for i in range(s.m.n_tasks):
            if rows[i, 3] == 0:
                continue
            cpu = rows[i, 1]
            _claim(w, cpu)
            status = _switch(s, w, cpu, <int32_t>i)
            if status == KB_OK:
                status = _note(s, &s.lanes[cpu], KB_IOPERM, 1, cpu, rows[i, 2], rows[i, 3])
            if status == KB_OK:
                status = kb_ioperm(&w.m, cpu, rows[i, 2], rows[i, 3], True, &spent)
            if status == KB_OK:
                status = _switch(s, w, cpu, NONE)
            if status != KB_OK:
                s.stop = status
                return status
        return 0

    def begin(self):
        """Hand out the I/O ports; then let each worker's thread call `work`."""
        if self._begun:
            raise RuntimeError("this Host has run")
        self._begun = self.machine.running = True
        self._hand_out_ports()
        for i in range(1, self.s.n_workers):
            self.s.workers[<int64_t>i].m.sequence = self.s.workers[0].m.sequence
        if not _next_epoch(&self.s):
            self.s.phase = -1

    def work(self, int64_t worker, double seconds=0.0):
        """Simulate to the end, or until `stop`; returns when all workers do. Releases the GIL.

        A host of one worker returns True after about so many `seconds`, if they are above 0 and
        time is left to simulate: a caller looks at signals, and calls again.
        """
        cdef bint paused = False
        if not 0 <= worker < self.s.n_workers:
            raise ValueError(f"worker is {worker}, not in 0 to {self.s.n_workers - 1}")
        if seconds > 0 and self.s.n_workers > 1:
            raise ValueError("a host of several workers has no pause")
        if self.s.phase >= 0:
            self.s.pause = _now() + <int64_t>(min(seconds, 1e9) * 1e9) if seconds > 0 else 0
            with nogil:
                paused = _work(&self.s, worker)
        return paused

    def stop(self):
        """Let the workers return soon, in the middle of an epoch."""
        STORE(&self.s.stop, -1)

    def finish(self):
        """Bring the machine's records up to date when all workers have returned."""
        cdef Shared* s = &self.s
        cdef int64_t i, cpu
        self._count_costs()
        for cpu in range(s.m.n_cpus):
            for i in range(s.n_workers):
                kb_flush(&s.workers[i].m, cpu)
            s.m.cpus[cpu].times = kb_times(s.m, cpu)
            if s.m.cpus[cpu].task < 0:
                s.m.cpus[cpu].current = &s.m.idle
        s.m.sequence = s.workers[0].m.sequence
        s.m.n_known, s.m.n_transitions = s.workers[0].m.n_known, s.workers[0].m.n_transitions
        self.machine.running = False
        if s.stop == KB_NO_MEMORY:
            raise MemoryError("no memory for a task's I/O bitmap, or for the costs of EXITs")

    cdef _count_costs(self):
        """Sum up the EXITs by their cost, before `finish` clears the times of the transitions."""
        cdef Shared* s = &self.s
        cdef const KbTransition* transition
        cdef Worker* w
        cdef int64_t i, cpu, at
        cdef uint64_t times
        costs = {}
        for i in range(s.n_workers):
            w = &s.workers[i]
            for at in range(<int64_t>w.m.n_known * w.m.n_kinds):
                transition = &w.m.transitions[at]
                if transition.number == 0 or not w.m.kinds[at % w.m.n_kinds].exits:
                    continue
                times = 0
                for cpu in range(s.m.n_cpus):
                    times += kb_times(&w.m, cpu)[transition.number]
                costs[transition.cycles] = costs.get(transition.cycles, 0) + times
            for at in range(<int64_t>w.n_costs):
                if w.costs[at].count:
                    cycles = w.costs[at].cycles
                    costs[cycles] = costs.get(cycles, 0) + w.costs[at].count
        self._costs = {cost: n for cost, n in sorted(costs.items()) if n}

    def record(self, int64_t n):
        """Do the first `n` operations one by one; return them as OP_DTYPE, (n,), or all.

        CPU by CPU within an epoch, as one thread would.
        """
        ops = np.zeros(max(n, 1), OP_DTYPE)
        cdef uint8_t[::1] at = ops.view(np.uint8)
        self.s.ops = <KbOp*>&at[0]
        self.s.max_ops = n
        self.begin()
        self.work(0)
        self.finish()
        return ops[:self.s.n_ops]

    @property
    def costs(self):
        """The number of VM exits by the cycles of their EXIT, after `finish`: {cycles: count}."""
        return self._costs

    @property
    def guest_outside(self):
        """Cycles of guest runs on each CPU that the machine counted as work: uint64, (cpus,)."""
        cdef uint64_t[::1] found = np.empty(self.s.m.n_cpus, np.uint64)
        cdef int64_t i
        for i in range(self.s.m.n_cpus):
            found[i] = self.s.lanes[i].guest_outside
        return np.asarray(found)

    @property
    def operations(self):
        """The number of operations done."""
        cdef uint64_t found = 0
        cdef int64_t i
        for i in range(self.s.m.n_cpus):
            found += self.s.lanes[i].operations
        return found

    @property
    def share_done(self):
        """The share of the time that is simulated, 0 to 1."""
        cdef Shared* s = &self.s
        cdef int64_t i, done = 0
        for i in range(s.n_workers):
            done += min(s.cursors[i].next, s.cursors[i].end) - s.cursors[i].first
        before = s.now - min(s.epoch, s.now)
        return min(1.0, (before + s.epoch * (done / s.m.n_cpus)) / s.end)
