"""The states that a policy can reach, breadth first, in C: docs/check.md defines a state.

`verdict.check` runs it. A state is two to four 64-bit words. One array holds all states in the
order of their discovery, so that it is the queue too; a second one holds each state's
predecessor. A hash table finds known states: open addressing, one 64-bit slot per
state, which holds 32 bits of its hash and its number. A state's place in the table is the upper
bits of those 32, so that a table twice as large is filled from the old one in order.
"""
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from kvmbench._steps cimport (
    DO_ALLOC_MAP, DO_CLEAR_STALE, DO_CLEAR_TIF, DO_COPY_MAP, DO_DROP_MAP, DO_EDIT_MAP,
    DO_INVALIDATE_BASE, DO_LOAD_MAP, DO_LTR, DO_MARK_AVAILABLE, DO_MARK_STALE, DO_REFRESH,
    DO_RELOAD, DO_SET_TIF, DO_STOP, DO_SYNC_MAP, DO_VALIDATE_BASE, DO_WIPE_MAP, DO_WIPE_OWN,
    HOOK_EXIT_TO_USER, HOOK_IOPERM, HOOK_SWITCH, HOOK_TASK_EXIT, HOOK_VCPU_PUT, HOOK_VM_EXIT,
    KB_HOOKS, KbStep,
)

from itertools import permutations

from kvmbench.errors import unknown_name
from kvmbench.model import HOOKS, HOOK_STEPS_MAX

__all__ = ["BAD", "CPUS_MAX", "EVENTS", "EXTRA_EVENTS", "PORTS_MAX", "STATES_MAX", "TASKS_MAX",
           "Explorer", "syncs_first"]

cdef enum:                        # sizes that a packed state has room for
    CPUS = 3
    TASKS = 6
    PORTS = 4
    WORDS = 4                     # 64-bit words, at most
    ORDERS = 6                    # of CPUS
    STEPS_ROOM = 6 * 64           # of all hooks
    BATCH = 1024                  # successors that are looked up together
    EVENTS_ROOM = CPUS * 24       # enabled in one state: schedule 7, ioperm 8, others 4

cdef enum Place:                  # where a task stands
    RETURNING = 0                 # in the kernel, with nothing left but exit_to_user
    USER
    IN_RUN                        # inside KVM_RUN; the CPU says whether the guest is loaded
    IN_CALL                       # IN_CALL + k: before entry k of ioperm, vcpu_put, task_exit

cdef enum Code:                   # events, in the order of EVENTS
    SCHEDULE = 0                  # arg = the next task, NOBODY for none
    TO_USER
    KVM_RUN
    ENTER
    VM_EXIT
    LEAVE
    RETURN
    IOPERM                        # arg = 2 * port + grants
    CONTINUE
    TASK_EXIT

cdef enum:
    NOBODY = 7
    HELD_ZERO = 0                 # the map in the TSS has sequence number 0
    HELD_NONE                     # a number that no task has any more
    HELD_TASK                     # HELD_TASK + t: that of task t's map

cdef enum Bad:                    # in the order of BAD
    FINE = 0
    LEAK
    DENIAL
    FAULT
    NULL_MAP                      # a step follows the pointer to a map that is not there

cdef enum:                        # parts of the request that a later entry may read
    READS_PORT = 1
    READS_ON = 2
    READS_FIRST = 4
    READS_BEFORE = 8

cdef enum Ended:
    RUNNING = 0
    ALL_SEEN
    FOUND_BAD
    STATES_LIMIT
    MEMORY_LIMIT
    NO_MEMORY

EVENTS = ("schedule", "to_user", "kvm_run", "enter", "vm_exit", "leave", "return", "ioperm",
          "continue", "task_exit")
BAD = (None, "leak", "denial", "fault", "null")
EXTRA_EVENTS = ("exit-preemption",)
CPUS_MAX, TASKS_MAX, PORTS_MAX = CPUS, TASKS, PORTS
STATES_MAX = 2**32 - 2            # a state's number has 32 bits

cdef extern from *:
    """
    typedef struct {               /* 16 bits of a state; a CPU names no task */
      uint16_t full : 1,           /* the TR limit takes the whole bitmap in */
        busy : 1,                  /* the TSS descriptor is of the busy type */
        stale : 1,                 /* the policy's note that the limit may be short */
        valid : 1,                 /* io_bitmap_base points at the bitmap */
        loaded : 1,                /* a guest is */
        old : 1,                   /* of the TSS's bitmap: its number is no task's any more */
        map : 4,                   /* bit p: the TSS's bitmap lets port p through */
        map_max : 3;               /* words that the last sync copied */
    } Cpu;
    typedef struct {               /* 32 bits of a state; the lowest five, the label, name CPUs */
      uint32_t cpu : 2,            /* 0 where it runs nowhere, else 1 + CPU */
        holders : 3,               /* bit c: CPU c's TSS has its map under its present number */
        tif : 1, has_map : 1,
        numbered : 1,              /* the map's sequence number is not 0 */
        map : 4,                   /* bit p: the task's own map lets port p through */
        edited : 1,                /* since there is a map */
        place : 8,                 /* Place */
        port : 2, on : 1,          /* ioperm()'s request, */
        first : 1,                 /* whether there was no map when it began, */
        before : 3,                /* and 1 + _max before the edit, 0 where none came yet */
        owns : 4;                  /* bit p: the latest ioperm() of port p, if any, granted it */
    } Task;
    #define PREFETCH(address) __builtin_prefetch(address)
    """
    ctypedef struct Cpu:
        uint16_t full, busy, stale, valid, loaded, old, map, map_max
    ctypedef struct Task:
        uint32_t cpu, holders, tif, has_map, numbered, map, edited, place, port, on, first, before
        uint32_t owns
    void PREFETCH(const void* address) noexcept nogil

cdef struct World:                # an unpacked state; its `holders` and `old` are out of date
    Cpu cpus[CPUS]
    Task tasks[TASKS]
    uint8_t task[CPUS]            # that runs there, NOBODY where idle
    uint8_t held[CPUS]            # HELD_*: whose sequence number the TSS's bitmap has

cdef struct Event:
    uint8_t code                  # Code
    uint8_t cpu
    uint8_t arg

cdef struct Frame:                # one hook under way
    World* w
    Cpu* cpu
    Task* current                 # a record of zeros where `current_number` is NOBODY
    Task* next                    # switch only, the same
    uint8_t current_number, next_number
    Event event
    uint8_t sched
    uint8_t bad

cdef struct Waste:                # a step's first reload that found the limit full
    uint32_t state                # from this state
    Event event                   # by this event
    uint8_t seen                  # whether there was one

cdef struct Space:
    int n_cpus, n_tasks, n_ports, words
    bint symmetry
    bint whole                    # no task is preempted where Machine has no operation for it
    bint exit_preempts            # a task is preempted between the entries of task_exit
    uint8_t valid_at_start
    bint sync_first               # every validate_base follows a sync: syncs_first
    KbStep steps[STEPS_ROOM]      # all hooks, one after the other
    int hook[KB_HOOKS + 1]        # steps[hook[h]:hook[h + 1]] is hook h
    int entry[KB_HOOKS][64 + 1]   # steps[entry[h][k]:entry[h][k + 1]] is top-level entry k
    int n_entries[KB_HOOKS]
    uint8_t reads[64 + 1]         # READS_*: of entry k of ioperm and those after it
    uint8_t taken[STEPS_ROOM]     # some history takes the step
    Waste waste[STEPS_ROOM]
    int n_orders                  # of CPUs
    uint8_t order[ORDERS][CPUS]   # new place -> old CPU
    uint8_t relabel[ORDERS][32]   # label, see _pack -> label
    uint64_t* states              # [room, words]
    uint32_t* parents             # [room]
    uint64_t room, n              # states
    uint64_t* table               # [1 << bits] hash << 32 | number + 1, 0 where free
    int bits
    uint64_t memory, max_memory   # bytes
    uint64_t max_states
    uint64_t done                 # states whose successors are known
    uint64_t level_end            # the first state of the next depth
    uint64_t transitions
    uint32_t depth                # events to the state `done`
    int ended                     # Ended
    uint32_t bad_from             # state
    Event bad_event
    uint8_t bad                   # Bad
    # successors that are not looked up yet
    uint64_t batch[BATCH][WORDS]
    uint32_t batch_from[BATCH]
    uint32_t batch_hash[BATCH]
    int n_batch

# -- Packed states -------------------------------------------------------------------------------
# The tasks' words, then the CPUs'. Only a task's label names CPUs, so that words can be sorted.

cdef inline uint8_t _max(const Task* t) noexcept nogil:
    """Return the words of a task's map: one at least once edited, even where no port is open."""
    cdef uint8_t n = t.edited
    while t.map >> n:
        n += 1
    return n


cdef void _unpack(const Space* s, const uint64_t* state, World* w) noexcept nogil:
    cdef const Task* t
    cdef int i, c
    memcpy(w.tasks, state, s.n_tasks * sizeof(Task))
    memcpy(w.cpus, <const uint32_t*>state + s.n_tasks, s.n_cpus * sizeof(Cpu))
    for c in range(s.n_cpus):
        w.task[c] = NOBODY
        w.held[c] = HELD_NONE if w.cpus[c].old else HELD_ZERO
    for i in range(s.n_tasks):
        t = &w.tasks[i]
        if t.cpu:
            w.task[t.cpu - 1] = i
        for c in range(s.n_cpus):
            if t.holders >> c & 1:
                w.held[c] = HELD_TASK + i


cdef void _sort(uint32_t* words, int n) noexcept nogil:
    cdef int i, j
    cdef uint32_t word
    for i in range(1, n):
        word = words[i]
        j = i
        while j > 0 and words[j - 1] > word:
            words[j] = words[j - 1]
            j -= 1
        words[j] = word


cdef void _pack(const Space* s, const World* w, uint64_t* state) noexcept nogil:
    """Pack a state; under symmetry, the representative of those that differ in names alone.

    Under symmetry it also clears a TSS's map that the policy syncs before a task sees it.
    """
    cdef uint32_t tasks[2 * WORDS]
    cdef uint32_t best[2 * WORDS]
    cdef uint32_t tried[2 * WORDS]
    cdef uint16_t cpus[CPUS]
    cdef uint16_t sorted_cpus[CPUS]
    cdef Cpu cpu
    cdef int i, k
    cdef bint have = False, ordered
    memset(tasks, 0, sizeof(tasks))
    memcpy(tasks, w.tasks, s.n_tasks * sizeof(Task))
    for i in range(s.n_tasks):
        tasks[i] &= ~<uint32_t>(7 << 2)       # the holders
    for i in range(s.n_cpus):
        cpu = w.cpus[i]
        cpu.old = w.held[i] == HELD_NONE
        memcpy(&cpus[i], &cpu, sizeof(Cpu))
        if s.symmetry and s.sync_first and not cpu.valid:
            cpus[i] &= 31                     # up to `loaded`
        elif w.held[i] >= HELD_TASK:
            tasks[w.held[i] - HELD_TASK] |= 4 << i
    memcpy(sorted_cpus, cpus, sizeof(cpus))
    if s.symmetry:
        # The CPUs' words in rising order; where two are equal, more than one order does that, and
        # the tasks' words decide.
        for k in range(s.n_orders):
            ordered = True
            for i in range(1, s.n_cpus):
                ordered &= cpus[s.order[k][i - 1]] <= cpus[s.order[k][i]]
            if not ordered:
                continue
            for i in range(s.n_tasks):
                tried[i] = (tasks[i] & ~<uint32_t>31) | s.relabel[k][tasks[i] & 31]
            _sort(tried, s.n_tasks)
            i = 0
            while have and i < s.n_tasks and tried[i] == best[i]:
                i += 1
            if have and (i == s.n_tasks or tried[i] > best[i]):
                continue
            have = True
            memcpy(best, tried, sizeof(best))
            for i in range(s.n_cpus):
                sorted_cpus[i] = cpus[s.order[k][i]]
        memcpy(tasks, best, s.n_tasks * 4)
    memset(&tasks[s.n_tasks], 0, sizeof(tasks) - s.n_tasks * 4)
    memcpy(&tasks[s.n_tasks], sorted_cpus, s.n_cpus * 2)
    memcpy(state, tasks, s.words * 8)


# -- Steps of a policy ---------------------------------------------------------------------------

cdef inline uint8_t _conditions(const Frame* f) noexcept nogil:
    return (f.current.tif | f.next.tif << 1 | f.current.first << 2 | f.current.on << 3
            | (f.current.map == 0) << 4 | f.cpu.stale << 5 | f.sched << 6)


cdef inline void _copy(Cpu* cpu, int map, int words) noexcept nogil:
    cdef int mask = (1 << words) - 1
    cpu.map = (cpu.map & ~mask) | (map & mask)


cdef inline void _fail(Frame* f, uint8_t bad) noexcept nogil:
    if f.bad == FINE:
        f.bad = bad


cdef inline void _need_map(Frame* f, const Task* t) noexcept nogil:
    if t.tif and not t.has_map:
        _fail(f, NULL_MAP)


cdef void _ltr(Space* s, Frame* f, int step) noexcept nogil:
    if f.cpu.busy:
        _fail(f, FAULT)
        return
    if f.cpu.full and not s.waste[step].seen:
        s.waste[step] = Waste(state=<uint32_t>s.done, event=f.event, seen=1)
    f.cpu.full = 1
    f.cpu.busy = 1


cdef void _reload(Space* s, Frame* f, int step) noexcept nogil:
    f.cpu.busy = 0
    _ltr(s, f, step)
    f.cpu.stale = 0


cdef void _renumber(Frame* f, bint numbered) noexcept nogil:
    """Give current's map a new sequence number, or 0: no TSS holds it any more."""
    cdef int i
    if f.current.numbered:
        for i in range(CPUS):
            if f.w.held[i] == HELD_TASK + f.current_number:
                f.w.held[i] = HELD_NONE
    f.current.numbered = numbered


cdef void _edit_map(Frame* f) noexcept nogil:
    cdef Task* t = f.current
    t.before = _max(t) + 1
    t.has_map = t.edited = 1
    t.map = (t.map & ~(1 << t.port)) | t.on << t.port
    _renumber(f, True)


cdef void _drop_map(Frame* f) noexcept nogil:
    f.current.has_map = f.current.map = f.current.edited = 0
    _renumber(f, False)


cdef void _sync_map(Frame* f) noexcept nogil:
    cdef uint8_t held = HELD_TASK + f.current_number if f.current.numbered else HELD_ZERO
    cdef uint8_t words = _max(f.current)
    _need_map(f, f.current)
    if f.w.held[f.event.cpu] != held:
        _copy(f.cpu, f.current.map, max(f.cpu.map_max, words))
        f.cpu.map_max = words
        f.w.held[f.event.cpu] = held


cdef bint _steps(Space* s, Frame* f, int begin, int end) noexcept nogil:
    """Take some steps of a hook; return whether `stop` ended it."""
    cdef const KbStep* step
    cdef Task* t = f.current
    cdef bint idle = f.current_number == NOBODY
    cdef uint8_t action
    cdef int i
    for i in range(begin, end):
        step = &s.steps[i]
        if step.look and (_conditions(f) & step.look) != step.want:
            continue
        s.taken[i] = 1
        action = step.action
        if action == DO_RELOAD:
            _reload(s, f, i)
        elif action == DO_MARK_STALE:
            f.cpu.stale = 1
        elif action == DO_REFRESH:
            if f.cpu.stale:
                _reload(s, f, i)
        elif action == DO_COPY_MAP:
            if f.next_number != NOBODY:
                _need_map(f, f.next)
                _copy(f.cpu, f.next.map, max(_max(t) if t.tif else 0, _max(f.next)))
        elif action == DO_MARK_AVAILABLE:
            f.cpu.busy = 0
        elif action == DO_LTR:
            _ltr(s, f, i)
        elif action == DO_CLEAR_STALE:
            f.cpu.stale = 0
        elif action == DO_VALIDATE_BASE:
            f.cpu.valid = 1
        elif action == DO_INVALIDATE_BASE:
            f.cpu.valid = 0
        elif action == DO_STOP:
            return True
        elif idle:
            continue
        elif action == DO_WIPE_MAP or action == DO_WIPE_OWN:
            _copy(f.cpu, 0, _max(t))
        elif action == DO_SYNC_MAP:
            _sync_map(f)
        elif action == DO_LOAD_MAP:
            _need_map(f, t)
            _copy(f.cpu, t.map, max(t.before - 1 if t.before else 0, _max(t)))
        elif action == DO_SET_TIF:
            t.tif = 1
        elif action == DO_CLEAR_TIF:
            t.tif = 0
        elif action == DO_ALLOC_MAP:
            t.has_map = 1
        elif action == DO_EDIT_MAP:
            _edit_map(f)
        elif action == DO_DROP_MAP:
            _drop_map(f)
    return False


cdef void _hook(Space* s, Frame* f, int hook) noexcept nogil:
    _steps(s, f, s.hook[hook], s.hook[hook + 1])


# -- Events --------------------------------------------------------------------------------------

cdef void _vm_exit(Space* s, Frame* f) noexcept nogil:
    f.cpu.full = 0
    _hook(s, f, HOOK_VM_EXIT)


cdef void _interrupt(Space* s, Frame* f) noexcept nogil:
    """Take the interrupt that causes a switch while a guest is loaded, with vcpu_put()."""
    if f.cpu.loaded:
        _vm_exit(s, f)
        f.cpu.loaded = 0
        f.sched = 1
        _hook(s, f, HOOK_VCPU_PUT)
        f.sched = 0


cdef void _switch(Space* s, Frame* f) noexcept nogil:
    _hook(s, f, HOOK_SWITCH)
    if f.current_number != NOBODY:
        f.current.cpu = 0
        if f.current.place == USER:
            f.current.place = RETURNING
    f.w.task[f.event.cpu] = f.next_number
    if f.next_number != NOBODY:
        f.next.cpu = 1 + f.event.cpu


cdef void _end_task(Space* s, Frame* f) noexcept nogil:
    """Make the task a new one, whatever the policy left, and switch to none."""
    f.current.tif = f.current.owns = 0
    _drop_map(f)
    f.current.place = RETURNING
    _switch(s, f)


cdef inline int _first_place(const Space* s, int hook) noexcept nogil:
    """Return the place before entry 0 of a hook that may be preempted between its entries."""
    return (IN_CALL + (s.n_entries[HOOK_IOPERM] if hook != HOOK_IOPERM else 0)
            + (s.n_entries[HOOK_VCPU_PUT] if hook == HOOK_TASK_EXIT else 0))


cdef void _entry(Space* s, Frame* f, int hook, int entry) noexcept nogil:
    """Take a top-level entry of ioperm, vcpu_put or task_exit; a preemption may follow it."""
    cdef Task* t = f.current
    cdef bint stopped = entry < s.n_entries[hook] and _steps(
        s, f, s.entry[hook][entry], s.entry[hook][entry + 1])
    cdef uint8_t reads = 0
    if not stopped and entry + 1 < s.n_entries[hook]:
        t.place = _first_place(s, hook) + entry + 1
        reads = s.reads[entry + 1] if hook == HOOK_IOPERM else 0
    elif hook == HOOK_TASK_EXIT:
        _end_task(s, f)
    else:
        t.place = RETURNING
    if hook == HOOK_IOPERM:
        # Parts that no later entry reads must not distinguish states.
        t.port = t.port if reads & READS_PORT else 0
        t.on = t.on if reads & READS_ON else 0
        t.first = t.first if reads & READS_FIRST else 0
        t.before = t.before if reads & READS_BEFORE else 0


cdef void _continue(Space* s, Frame* f) noexcept nogil:
    """Take the entry that the task stands before."""
    cdef int place = f.current.place
    cdef int hook = HOOK_TASK_EXIT
    if place < _first_place(s, HOOK_VCPU_PUT):
        hook = HOOK_IOPERM
    elif place < _first_place(s, HOOK_TASK_EXIT):
        hook = HOOK_VCPU_PUT
    _entry(s, f, hook, place - _first_place(s, hook))


cdef uint8_t _port_check(const Space* s, const Cpu* cpu, const Task* t, int* port) noexcept nogil:
    """Compare the hardware's answer with the ports that the task owns, port by port."""
    cdef int allowed = cpu.map if cpu.full and cpu.valid else 0
    cdef int i
    for i in range(s.n_ports):
        if (allowed ^ t.owns) >> i & 1:
            port[0] = i
            return LEAK if allowed >> i & 1 else DENIAL
    return FINE


cdef uint8_t _apply(Space* s, World* w, Event event, int* port) noexcept nogil:
    """Let an enabled event happen; return its violation, if any."""
    cdef Frame f
    cdef Task idle
    memset(&idle, 0, sizeof(Task))
    f.w = w
    f.cpu = &w.cpus[event.cpu]
    f.current_number = w.task[event.cpu]
    f.next_number = event.arg if event.code == SCHEDULE else NOBODY
    f.current = &w.tasks[f.current_number] if f.current_number != NOBODY else &idle
    f.next = &w.tasks[f.next_number] if f.next_number != NOBODY else &idle
    f.event = event
    f.sched = f.bad = 0
    if event.code == SCHEDULE:
        _interrupt(s, &f)
        _switch(s, &f)
    elif event.code == TO_USER:
        _hook(s, &f, HOOK_EXIT_TO_USER)
        f.current.place = USER
        if not f.bad:
            return _port_check(s, f.cpu, f.current, port)
    elif event.code == KVM_RUN:
        f.current.place = IN_RUN
    elif event.code == ENTER:
        f.cpu.loaded = 1
    elif event.code == VM_EXIT:
        _vm_exit(s, &f)
    elif event.code == LEAVE:
        _vm_exit(s, &f)
        f.cpu.loaded = 0
        _entry(s, &f, HOOK_VCPU_PUT, 0)
    elif event.code == RETURN:
        f.current.place = RETURNING
    elif event.code == IOPERM:
        f.current.place = IN_CALL if s.n_entries[HOOK_IOPERM] else RETURNING
        f.current.owns = (f.current.owns & ~(1 << (event.arg >> 1))
                          | (event.arg & 1) << (event.arg >> 1))
        f.current.port = event.arg >> 1 if s.reads[0] & READS_PORT else 0
        f.current.on = event.arg & 1 if s.reads[0] & READS_ON else 0
        f.current.first = not f.current.has_map if s.reads[0] & READS_FIRST else 0
    elif event.code == CONTINUE:
        _continue(s, &f)
    else:  # TASK_EXIT
        _interrupt(s, &f)
        if s.exit_preempts and s.n_entries[HOOK_TASK_EXIT]:
            f.current.owns = 0      # it does not come back to user mode
            f.current.place = _first_place(s, HOOK_TASK_EXIT)
        else:
            _hook(s, &f, HOOK_TASK_EXIT)
            _end_task(s, &f)
    return f.bad


cdef inline void _add(Event* events, int* n, int code, int cpu, int arg) noexcept nogil:
    events[n[0]] = Event(code=<uint8_t>code, cpu=<uint8_t>cpu, arg=<uint8_t>arg)
    n[0] += 1


cdef int _enabled(const Space* s, const World* w, Event* events) noexcept nogil:
    """List the events that can happen; of tasks that are equal in all but name, one's."""
    cdef int n = 0, c, t, i, arg
    cdef uint8_t current, place
    cdef bint twin
    for c in range(s.n_cpus):
        current = w.task[c]
        place = w.tasks[current].place if current != NOBODY else USER
        if s.whole and (place == RETURNING or place >= IN_CALL
                        or (place == IN_RUN and not w.cpus[c].loaded)):
            _add(events, &n, TO_USER if place == RETURNING else ENTER if place == IN_RUN
                 else CONTINUE, c, 0)
            continue
        for t in range(s.n_tasks):
            if w.tasks[t].cpu:
                continue
            twin = False
            if s.symmetry and not w.tasks[t].numbered:
                for i in range(t):
                    twin |= not memcmp(&w.tasks[i], &w.tasks[t], sizeof(Task))
            if not twin:
                _add(events, &n, SCHEDULE, c, t)
        if current == NOBODY:
            continue
        _add(events, &n, SCHEDULE, c, NOBODY)
        if place >= IN_CALL:
            _add(events, &n, CONTINUE, c, 0)
            continue
        if place == USER:
            _add(events, &n, KVM_RUN, c, 0)
            for arg in range(2 * s.n_ports):
                _add(events, &n, IOPERM, c, arg)
        elif place == RETURNING:
            _add(events, &n, TO_USER, c, 0)
        else:
            _add(events, &n, VM_EXIT if w.cpus[c].loaded else ENTER, c, 0)
            _add(events, &n, LEAVE if w.cpus[c].loaded else RETURN, c, 0)
        _add(events, &n, TASK_EXIT, c, 0)
    return n


# -- Exploring -----------------------------------------------------------------------------------

cdef inline uint32_t _hash(const uint64_t* state, int words) noexcept nogil:
    cdef uint64_t h = 0
    cdef int i
    for i in range(words):
        h = (h ^ state[i]) * <uint64_t>0x9E3779B97F4A7C15
        h ^= h >> 29
    h *= <uint64_t>0xBF58476D1CE4E5B9
    return <uint32_t>(h >> 32)


cdef bint _afford(Space* s, uint64_t more) noexcept nogil:
    if s.memory + more > s.max_memory:
        s.ended = MEMORY_LIMIT
        return False
    return True


cdef bint _grow_table(Space* s) noexcept nogil:
    cdef int bits = s.bits + 1
    cdef uint64_t mask = (<uint64_t>1 << bits) - 1
    cdef uint64_t i, at
    cdef uint64_t* table
    if not _afford(s, <uint64_t>8 << bits):
        return False
    table = <uint64_t*>PyMem_RawCalloc(<size_t>1 << bits, 8)
    if table == NULL:
        s.ended = NO_MEMORY
        return False
    for i in range(<uint64_t>1 << s.bits):
        if s.table[i]:
            at = s.table[i] >> 32 << 32 >> (64 - bits)
            while table[at]:
                at = (at + 1) & mask
            table[at] = s.table[i]
    PyMem_RawFree(s.table)
    s.table = table
    s.memory += <uint64_t>4 << bits
    s.bits = bits
    return True


cdef bint _grow_states(Space* s) noexcept nogil:
    cdef uint64_t room = s.room + (s.room >> 1)
    cdef uint64_t more = (room - s.room) * (8 * s.words + 4)
    cdef void* states
    cdef void* parents
    if not _afford(s, more):
        return False
    states = PyMem_RawRealloc(s.states, room * 8 * s.words)
    if states != NULL:
        s.states = <uint64_t*>states
        parents = PyMem_RawRealloc(s.parents, room * 4)
        if parents != NULL:
            s.parents = <uint32_t*>parents
            s.memory += more
            s.room = room
            return True
    s.ended = NO_MEMORY
    return False


cdef inline const uint64_t* _known(const Space* s, uint64_t at) noexcept nogil:
    """Return the state of a slot that is not free."""
    return &s.states[<uint64_t>(<uint32_t>s.table[at] - 1) * s.words]


cdef inline uint64_t _find(const Space* s, const uint64_t* state, uint32_t hash,
                           bint compare) noexcept nogil:
    """Return the slot of a state in the table, or the free slot that it belongs in."""
    cdef uint64_t mask = (<uint64_t>1 << s.bits) - 1
    cdef uint64_t at = (<uint64_t>hash << 32) >> (64 - s.bits)
    while s.table[at]:
        if s.table[at] >> 32 == hash:
            if not compare or not memcmp(_known(s, at), state, 8 * s.words):
                break
        at = (at + 1) & mask
    return at


cdef void _look_up(Space* s) noexcept nogil:
    """Look the batch up in order and append its new states.

    Each cache line was asked for one pass before it is read: the table's when the successor was
    made, the known state's in a first pass here.
    """
    cdef uint64_t at
    cdef int i
    for i in range(s.n_batch):
        at = _find(s, s.batch[i], s.batch_hash[i], False)
        if s.table[at]:
            PREFETCH(_known(s, at))
    for i in range(s.n_batch):
        at = _find(s, s.batch[i], s.batch_hash[i], True)
        if s.table[at]:
            continue
        if s.n >= s.max_states:
            s.ended = STATES_LIMIT
            break
        if s.n == s.room and not _grow_states(s):
            break
        memcpy(&s.states[s.n * s.words], s.batch[i], 8 * s.words)
        s.parents[s.n] = s.batch_from[i]
        s.n += 1
        s.table[at] = <uint64_t>s.batch_hash[i] << 32 | s.n
        if s.n >> (s.bits - 2) == 3 and not _grow_table(s):
            break
    s.n_batch = 0


cdef void _expand(Space* s) noexcept nogil:
    """Put the successors of the next state into the batch."""
    cdef World w
    cdef World after
    cdef Event events[EVENTS_ROOM]
    cdef Event event
    cdef int n, i, k, port
    cdef uint8_t bad
    memset(&w, 0, sizeof(World))
    _unpack(s, &s.states[s.done * s.words], &w)
    n = _enabled(s, &w, events)
    for i in range(n):
        event = events[i]
        after = w
        bad = _apply(s, &after, event, &port)
        s.transitions += 1
        if bad:
            s.bad = bad
            s.bad_from = <uint32_t>s.done
            s.bad_event = event
            s.ended = FOUND_BAD
            return
        k = s.n_batch
        _pack(s, &after, s.batch[k])
        s.batch_from[k] = <uint32_t>s.done
        s.batch_hash[k] = _hash(s.batch[k], s.words)
        PREFETCH(&s.table[(<uint64_t>s.batch_hash[k] << 32) >> (64 - s.bits)])
        s.n_batch = k + 1


cdef void _explore(Space* s, uint64_t states) noexcept nogil:
    """Find the successors of so many states more, at the end of the space of fewer."""
    cdef uint64_t end = s.done + states
    while not s.ended and s.done < end:
        if s.done == s.level_end:
            # A batch ends with its level, so here all states of the next one are known.
            if s.done == s.n:
                s.ended = ALL_SEEN
                return
            s.depth += 1
            s.level_end = s.n
        while s.done < s.level_end and s.done < end and s.n_batch <= BATCH - EVENTS_ROOM:
            _expand(s)
            if s.ended:
                return
            s.done += 1
        _look_up(s)


# -- For Python ----------------------------------------------------------------------------------

def syncs_first(policy):
    """Return whether a TSS's map under an invalid base cannot change a future.

    True if only sync_map writes the map, directly before each validate_base and for an existing
    task (a switch may have none): docs/check.md, section 3, proves it.
    """
    for hook in HOOKS:
        for region in policy.regions(hook):
            before = None
            for step in region:
                if step.action in ("load_map", "copy_map", "wipe_map", "wipe_own"):
                    return False
                if step.action == "validate_base" and (
                    hook == "switch" or before is None or before.action != "sync_map"
                    or not set(before.when) <= set(step.when)
                ):
                    return False
                before = step
    return True


cdef class Explorer:
    """The states that a policy can reach, and the first bad event among the shortest histories.

    Parameters: `policy`, a `Policy`; `cpus`, 1 to CPUS_MAX, `tasks`, 1 to TASKS_MAX, `ports`, 1
    to PORTS_MAX; `symmetry`, whether to merge states that differ in the names of tasks and CPUs,
    or in a TSS's map that is synced before a task sees it (docs/check.md, section 3);
    `whole_calls`, whether to preempt a task in user mode and in the guest alone; `events`, those
    of EXTRA_EVENTS to explore too;
    `max_states`; `max_memory`, bytes of states, table and parents. Raises ValueError for a
    number out of range, MemoryError without room to begin. One thread at a time may use an
    Explorer: RuntimeError else.
    """
    cdef Space* s
    cdef readonly object policy
    cdef bint running             # explore() is under way, without the GIL

    def __cinit__(self):
        self.s = <Space*>PyMem_RawCalloc(1, sizeof(Space))
        if self.s == NULL:
            raise MemoryError("no memory for an explorer")

    def __init__(self, policy, cpus, tasks, ports, *, symmetry=True, whole_calls=False,
                 events=(), max_states=STATES_MAX, max_memory=2**63):
        cdef Space* s = self.s
        if s.states != NULL:
            raise TypeError("an Explorer is made once")
        sizes = (("cpus", cpus, CPUS), ("tasks", tasks, TASKS), ("ports", ports, PORTS),
                 ("max_states", max_states, STATES_MAX), ("max_memory", max_memory, 2**63))
        for name, value, top in sizes:
            if not 1 <= value <= top:
                raise ValueError(f"{name} is {value}, not in 1 to {top}")
        self.policy = policy
        s.n_cpus, s.n_tasks, s.n_ports = cpus, tasks, ports
        s.words = (2 * s.n_tasks + s.n_cpus + 3) // 4
        s.symmetry = symmetry
        s.whole = whole_calls
        for name in events:
            if name not in EXTRA_EVENTS:
                raise ValueError(unknown_name("event", name, EXTRA_EVENTS))
        s.exit_preempts = "exit-preemption" in events
        s.max_states, s.max_memory = max_states, max_memory
        self._compile()
        self._orders()
        s.room, s.bits = 1 << 12, 13
        s.states = <uint64_t*>PyMem_RawMalloc(s.room * 8 * s.words)
        s.parents = <uint32_t*>PyMem_RawMalloc(s.room * 4)
        s.table = <uint64_t*>PyMem_RawCalloc(<size_t>1 << s.bits, 8)
        if s.states == NULL or s.parents == NULL or s.table == NULL:
            raise MemoryError("no memory for states")
        s.memory = s.room * (8 * s.words + 4) + (<uint64_t>8 << s.bits)
        self._start()

    def __dealloc__(self):
        if self.s != NULL:
            PyMem_RawFree(self.s.states)
            PyMem_RawFree(self.s.parents)
            PyMem_RawFree(self.s.table)
            PyMem_RawFree(self.s)

    cdef _compile(self):
        cdef Space* s = self.s
        cdef int i = 0, h, k
        for h, hook in enumerate(HOOKS):
            regions = [region for region in self.policy.regions(hook) if region]
            s.hook[h], s.n_entries[h] = i, len(regions)
            for k, region in enumerate(regions):
                s.entry[h][k] = i
                for step in region:
                    action, look, want = step.compiled()
                    s.steps[i] = KbStep(action=action, look=look, want=want)
                    i += 1
            s.entry[h][s.n_entries[h]] = i
        s.hook[KB_HOOKS] = i
        s.sync_first = syncs_first(self.policy)
        s.valid_at_start = self.policy.io_base_at_start == "valid"
        reads = 0
        readers = {"edit_map": READS_PORT | READS_ON, "load_map": READS_BEFORE, "on": READS_ON,
                   "first": READS_FIRST}
        regions = [region for region in self.policy.regions("ioperm") if region]
        for k in range(len(regions) - 1, -1, -1):
            for step in regions[k]:
                for word in (step.action, *(name for name, _ in step.when)):
                    reads |= readers.get(word, 0)
            s.reads[k] = reads

    cdef _orders(self):
        cdef Space* s = self.s
        cdef int k, label, new
        s.n_orders = 0
        for order in permutations(range(s.n_cpus)):
            k = s.n_orders
            for new in range(s.n_cpus):
                s.order[k][new] = order[new]
            for label in range(32):
                cpu, held = label & 3, label >> 2
                there = 1 + order.index(cpu - 1) if 1 <= cpu <= s.n_cpus else cpu
                for new in range(s.n_cpus):
                    there |= (held >> order[new] & 1) << (2 + new)
                s.relabel[k][label] = there
            s.n_orders += 1

    cdef _start(self):
        cdef Space* s = self.s
        cdef World w
        cdef int i
        memset(&w, 0, sizeof(World))
        for i in range(s.n_cpus):
            w.cpus[i].full = w.cpus[i].busy = 1
            w.cpus[i].valid = s.valid_at_start
            w.task[i] = NOBODY
        _pack(s, &w, s.states)
        s.parents[0] = 0
        s.n = s.level_end = 1
        cdef uint32_t hash = _hash(s.states, s.words)
        s.table[_find(s, s.states, hash, True)] = <uint64_t>hash << 32 | 1

    def explore(self, states):
        """Find the successors of up to `states` states more; return the search's end.

        None while it goes on; "all" states are seen, "bad" was found, or the limit "max_states",
        "max_memory" or "memory" (none is left) was met. The GIL is released.
        """
        cdef uint64_t n = states
        self._claim()
        self.running = True
        with nogil:
            _explore(self.s, n)
        self.running = False
        return (None, "all", "bad", "max_states", "max_memory", "memory")[self.s.ended]

    cdef _claim(self):
        if self.running:
            raise RuntimeError("this Explorer is searching in another thread")

    @property
    def states(self):
        return self.s.n

    @property
    def queued(self):
        return self.s.n - self.s.done

    @property
    def transitions(self):
        return self.s.transitions

    @property
    def depth(self):
        """Events of the longest of the shortest histories so far."""
        return self.s.depth + (self.s.ended == FOUND_BAD)

    @property
    def memory(self):
        """Bytes of states, parents and table."""
        return self.s.memory

    def never_taken(self):
        """Return (hook, index among its steps) of each step that no history so far takes."""
        return [place for i, place in self._places() if not self.s.taken[<int>i]]

    def wasted(self):
        """Return (hook, index, history) of each step that reloaded where the limit was full.

        The history is a shortest one that ends in such an event, as in `path`.
        """
        return [
            (hook, index, self._path(self.s.waste[<int>i].state, self.s.waste[<int>i].event)[0])
            for i, (hook, index) in self._places() if self.s.waste[<int>i].seen
        ]

    def _places(self):
        return enumerate((hook, i) for hook in HOOKS for i in range(len(self.policy.steps(hook))))

    def path(self):
        """Return (a shortest history that ends in a violation, the violation, its port).

        A history is [(event, state), ...]: the state is what the event leaves, as a dict
        (`_readable`), the event (code, cpu, argument), or None at the start. Names of tasks and
        CPUs are the same all along it. Raises ValueError where nothing bad was found.
        """
        if self.s.ended != FOUND_BAD:
            raise ValueError("nothing bad was found")
        return self._path(self.s.bad_from, self.s.bad_event)

    cdef _path(self, uint32_t last, Event last_event):
        """Return a history from the start to a stored state and through one event more.

        Stored states have no names, and the history keeps those of the start: it takes the event
        that leads, in other names, to the next state of the chain of parents.
        """
        cdef Space* s = self.s
        cdef World w
        cdef World after
        cdef Event events[EVENTS_ROOM]
        cdef uint64_t packed[WORDS]
        cdef uint64_t goal[WORDS]
        cdef uint64_t number = last
        cdef int n, i, port = -1
        cdef uint8_t bad = FINE, last_bad
        cdef bint symmetry = s.symmetry
        self._claim()
        chain = [None]
        while number:
            chain.append(number)
            number = s.parents[number]
        memset(&w, 0, sizeof(World))
        _unpack(s, &s.states[<uint64_t>last * s.words], &w)
        last_bad = _apply(s, &w, last_event, &port)
        _pack(s, &w, goal)
        _unpack(s, s.states, &w)
        history = [(None, self._readable(&w))]
        for known in reversed(chain):
            if known is not None:
                number = known
            s.symmetry = False          # every event, not one of each kind
            n = _enabled(s, &w, events)
            s.symmetry = symmetry
            for i in range(n):
                after = w
                bad = _apply(s, &after, events[i], &port)
                _pack(s, &after, packed)
                if known is None:
                    if (bad == last_bad and events[i].code == last_event.code
                            and not memcmp(packed, goal, 8 * s.words)):
                        break
                elif not bad and not memcmp(packed, &s.states[number * s.words], 8 * s.words):
                    break
            else:
                raise AssertionError("a stored state does not follow from its parent")
            history.append((self._event(events[i]), self._readable(&after)))
            w = after
        return history, BAD[bad], port if bad == LEAK or bad == DENIAL else None

    cdef _event(self, Event event):
        arg = None
        if event.code == SCHEDULE:
            arg = None if event.arg == NOBODY else event.arg
        elif event.code == IOPERM:
            arg = (event.arg >> 1, bool(event.arg & 1))
        return EVENTS[event.code], event.cpu, arg

    cdef _readable(self, const World* w):
        """Return a state as {"cpus": [{...}], "tasks": [{...}]}; docs/check.md has the fields."""
        cdef int i
        cdef const Cpu* c
        cdef const Task* t
        cpus, tasks = [], []
        for i in range(self.s.n_cpus):
            c = &w.cpus[i]
            cpus.append({
                "limit": "full" if c.full else "min", "stale": bool(c.stale),
                "busy": bool(c.busy), "base": "valid" if c.valid else "invalid",
                "guest": bool(c.loaded), "tss": _ports(c.map), "map_max": c.map_max,
                "map_of": {HELD_ZERO: "none", HELD_NONE: "old"}.get(w.held[i],
                                                                    w.held[i] - HELD_TASK),
                "task": None if w.task[i] == NOBODY else w.task[i],
            })
        for i in range(self.s.n_tasks):
            t = &w.tasks[i]
            tasks.append({
                "place": self._place(t.place), "tif": bool(t.tif),
                "map": _ports(t.map) if t.has_map else None, "max": _max(t),
                "owns": _ports(t.owns),
            })
        return {"cpus": cpus, "tasks": tasks}

    cdef _place(self, uint8_t place):
        cdef int put = _first_place(self.s, HOOK_VCPU_PUT)
        cdef int end = _first_place(self.s, HOOK_TASK_EXIT)
        if place < IN_CALL:
            return ("returning", "user", "KVM_RUN")[place]
        if place < put:
            return f"ioperm+{place - IN_CALL}"
        return f"put+{place - put}" if place < end else f"exit+{place - end}"


def _ports(map):
    return tuple([port for port in range(PORTS) if map >> port & 1])


assert STEPS_ROOM == len(HOOKS) * HOOK_STEPS_MAX
