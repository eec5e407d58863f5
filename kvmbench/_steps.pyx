"""The machine's operations in C: no Python object, no GIL (docs/model.md; records: _steps.pxd).

An EXIT from a state met before is one look-up. The effect of an EXIT depends on few bits of its
CPU and task (`_state`), so the first one from each state is interpreted, step by step of the
policy, and its effect is kept as a KbTransition; later ones make the transition: store the state
after, add the cycles, count one more of it. The counters are derived from those counts when they
are read. An EXIT with an effect that no transition holds (it moved a bitmap, changed a task) is
interpreted each time, and so is every other operation.
"""
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.string cimport memcpy, memset

from kvmbench._ports cimport KB_MAP_BYTES, KB_PORTS, kb_port_check

# Why no clock wraps. A cost is below 2**32, a step costs at most 130 of them (a bitmap has 128
# lines), and an operation at most 5 hooks of 64 steps and 6 costs more: below 2**48. One that
# begins at CLOCK_LIMIT or below ends below 2**62 + 2**48, and RUN_MAX of them that begin at
# CLOCK_NEAR or below end below 2**61 + 2**60, so that none of them begins above CLOCK_LIMIT.
cdef extern from *:
    """
    #define CLOCK_LIMIT (UINT64_C(1) << 62)
    #define CLOCK_NEAR (UINT64_C(1) << 61)
    """
    const uint64_t CLOCK_LIMIT    # cycles; on a CPU whose clock is above it no operation begins
    const uint64_t CLOCK_NEAR     # cycles; above it, no EXITs are counted together

cdef enum:
    RUN_MAX = 4096                # equal EXITs counted together
    SPARE_MAX = 16                # free maps kept for the next task that wants one
    N_COUNTERS = sizeof(KbCounters) >> 3  # u64 each; a division has checks in the debug build

cdef enum:                        # needs of an operation
    ANY = 0
    A_TASK                        # runs on its CPU
    IN_USERSPACE                  # and is not inside KVM_RUN

cdef uint8_t NO_MAP[KB_MAP_BYTES + 1]     # of a task without a map: every port denied
memset(NO_MAP, 0xff, sizeof(NO_MAP))

cdef struct Frame:                # one operation under way
    KbCpu* cpu
    KbCounters* n                 # the CPU's
    KbTask* current
    KbTask* next                  # SWITCH; FORK: the child
    uint64_t spent                # cycles so far
    uint64_t overlap              # cycles that an LTR here waits for
    int32_t first, count          # IOPERM: ports
    uint32_t max_before           # IOPERM: current's max before the latest edit
    uint8_t edited                # IOPERM: there was an edit
    uint8_t had_no_map            # IOPERM: when the system call began
    uint8_t on                    # IOPERM: grants
    uint8_t sched                 # this put is a switch's
    uint8_t lasting               # something changed that KbTr does not hold


# -- I/O bitmaps ---------------------------------------------------------------------------------

cdef void* _pop_spare(KbMachine* m) noexcept nogil:
    cdef void* map = m.spare
    m.spare = (<void**>map)[0]
    m.n_spare -= 1
    return map


cdef void _push_spare(KbMachine* m, void* map) noexcept nogil:
    if m.n_spare >= SPARE_MAX:
        PyMem_RawFree(map)
        return
    (<void**>map)[0] = m.spare
    m.spare = map
    m.n_spare += 1


cdef int _fill_spare(KbMachine* m) noexcept nogil:
    """Have a map ready for each of the two tasks of an operation, so that no step can fail."""
    cdef void* map
    while m.n_spare < 2:
        map = PyMem_RawMalloc(KB_MAP_BYTES + 8)
        if map == NULL:
            return KB_NO_MEMORY
        _push_spare(m, map)
    return KB_OK


cdef inline uint32_t* _tasks_of(uint8_t* map) noexcept nogil:
    """Return where a map keeps the number of its tasks: after its bytes and their end."""
    return <uint32_t*>(map + KB_MAP_BYTES + 4)


cdef void _alloc_map(KbMachine* m, KbTask* task) noexcept nogil:
    # One byte more, all ones: a port check of the last byte reads it.
    task.map = <uint8_t*>_pop_spare(m)
    memset(task.map, 0xff, KB_MAP_BYTES + 1)
    _tasks_of(task.map)[0] = 1
    task.has_map = 1


cdef void _drop_map(KbMachine* m, KbTask* task) noexcept nogil:
    if task.has_map:
        _tasks_of(task.map)[0] -= 1
        if _tasks_of(task.map)[0] == 0:
            _push_spare(m, task.map)
    task.map = &NO_MAP[0]
    task.has_map = 0
    task.empty = 1
    task.max = 0
    task.seq = 0


cdef void _edit_map(KbTask* task, uint32_t first, uint32_t count, bint on) noexcept nogil:
    """Grant or revoke ports, and find `max` and `empty` again."""
    cdef uint32_t last = first + count - 1
    cdef uint32_t head = first >> 3, tail = last >> 3
    cdef uint8_t head_bits = <uint8_t>(0xff << (first & 7))
    cdef uint8_t tail_bits = <uint8_t>(0xff >> (7 - (last & 7)))
    cdef uint8_t fill = 0x00 if on else 0xff
    cdef const uint64_t* words = <const uint64_t*>task.map
    cdef uint32_t n = task.max >> 3
    if head == tail:
        head_bits &= tail_bits
        tail_bits = head_bits
    task.map[head] = (task.map[head] & ~head_bits) | (fill & head_bits)
    task.map[tail] = (task.map[tail] & ~tail_bits) | (fill & tail_bits)
    if tail > head + 1:
        memset(task.map + head + 1, fill, tail - head - 1)
    if on:
        n = max(n if not task.empty else 0, (last >> 6) + 1)
    else:
        while n > 0 and words[n - 1] == <uint64_t>-1:
            n -= 1
    task.empty = n == 0
    task.max = 8 * max(n, 1)


cdef void _share_map(KbMachine* m, const KbTask* task, KbTask* child) noexcept nogil:
    if task.has_map and child.map != task.map:
        _drop_map(m, child)
        _tasks_of(task.map)[0] += 1
        child.map = task.map
        child.has_map = 1
        child.max = task.max
        child.empty = task.empty
        child.seq = task.seq


cdef void _dup_map(KbMachine* m, const KbTask* task, KbTask* child) noexcept nogil:
    """Give `child` a copy of the map of `task`, under a new number."""
    _drop_map(m, child)
    _alloc_map(m, child)
    memcpy(child.map, task.map, KB_MAP_BYTES)
    m.sequence += 1
    child.seq = m.sequence
    child.max = task.max
    child.empty = task.empty


# -- Steps of a policy ---------------------------------------------------------------------------

cdef inline uint8_t _conditions(const Frame* f) noexcept nogil:
    return (f.current.tif | f.next.tif << 1 | f.had_no_map << 2 | f.on << 3 | f.current.empty << 4
            | f.cpu.tr.limit_stale << 5 | f.sched << 6 | f.current.iopl3 << 7)


cdef inline void _spend(Frame* f, uint64_t* cause, uint64_t cycles) noexcept nogil:
    cause[0] += cycles
    f.spent += cycles


cdef void _ltr(KbMachine* m, Frame* f) noexcept nogil:
    if f.cpu.tr.tss_busy:
        f.n.faults += 1
        return
    f.cpu.tr.tr_limit = KB_LIMIT_FULL
    f.cpu.tr.tss_busy = 1
    f.n.reloads += 1
    _spend(f, &f.n.c_tr, m.costs.ltr + f.overlap)


cdef void _reload(KbMachine* m, Frame* f) noexcept nogil:
    f.cpu.tr.tss_busy = 0
    _spend(f, &f.n.c_tr, m.costs.gdt_write)
    _ltr(m, f)
    f.cpu.tr.limit_stale = 0


cdef inline void _need_map(Frame* f, const KbTask* task) noexcept nogil:
    """Count a null where a kernel would follow the pointer to a map that is not there."""
    f.n.nulls += task.tif & (not task.has_map)


cdef void _copy(KbMachine* m, Frame* f, const KbTask* task, uint32_t n) noexcept nogil:
    f.lasting = 1
    if n == 0:
        return
    memcpy(f.cpu.tss_map, task.map, n)
    f.n.map_copies += 1
    f.n.bytes_copied += n
    _spend(f, &f.n.c_map, m.costs.copy_base + m.costs.copy_line * ((n + 63) >> 6))


cdef void _wipe(KbMachine* m, Frame* f, uint32_t n) noexcept nogil:
    if n == 0:
        return
    f.lasting = 1
    memset(f.cpu.tss_map, 0xff, n)
    f.n.map_wipes += 1
    _spend(f, &f.n.c_map, m.costs.wipe_base + m.costs.wipe_line * ((n + 63) >> 6))


cdef void _set_tif(Frame* f, uint8_t tif) noexcept nogil:
    f.lasting |= f.current.tif ^ tif
    f.current.tif = tif


cdef void _sync_map(KbMachine* m, Frame* f) noexcept nogil:
    _need_map(f, f.current)
    _spend(f, &f.n.c_map, m.costs.test)
    if f.cpu.map_seq != f.current.seq:
        _copy(m, f, f.current, max(f.cpu.map_max, f.current.max))
        f.cpu.map_max = f.current.max
        f.cpu.map_seq = f.current.seq


cdef void _request(KbMachine* m, Frame* f) noexcept nogil:
    """Apply the ioperm() request to current's map."""
    cdef int32_t i
    if not f.current.has_map:
        _alloc_map(m, f.current)
    f.max_before = f.current.max
    f.edited = 1
    f.lasting = 1
    _edit_map(f.current, f.first, f.count, f.on)
    m.sequence += 1
    f.current.seq = m.sequence
    if _tasks_of(f.current.map)[0] > 1:
        for i in range(m.n_tasks):      # edited in place: the map of them all
            if m.tasks[i].map == f.current.map:
                m.tasks[i].max = f.current.max
                m.tasks[i].empty = f.current.empty
                m.tasks[i].seq = f.current.seq


cdef void _copy_whole(KbMachine* m, Frame* f) noexcept nogil:
    """Charge for a map copied from task to task."""
    f.lasting = 1
    _spend(f, &f.n.c_map, m.costs.copy_base + m.costs.copy_line * (KB_MAP_BYTES >> 6))


cdef void _unshare_map(KbMachine* m, Frame* f) noexcept nogil:
    cdef KbTask other
    if f.current.has_map and _tasks_of(f.current.map)[0] > 1:
        other = f.current[0]
        _dup_map(m, &other, f.current)
        _copy_whole(m, f)


cdef void _step_of_child(KbMachine* m, Frame* f, uint8_t action) noexcept nogil:
    if action == DO_SHARE_MAP:
        _share_map(m, f.current, f.next)
    elif action == DO_DUP_MAP:
        if f.current.has_map:
            _dup_map(m, f.current, f.next)
            _copy_whole(m, f)
    elif action == DO_SET_CHILD_TIF:
        f.next.tif = 1
    elif action == DO_CLEAR_CHILD_TIF:
        f.next.tif = 0
    elif action == DO_DROP_CHILD_MAP:
        _drop_map(m, f.next)
    elif action == DO_INHERIT_IOPL:
        f.next.iopl3 = f.current.iopl3


cdef void _hook(KbMachine* m, Frame* f, int hook) noexcept nogil:
    """Take the steps of a hook. One whose task is idle does nothing and costs nothing."""
    cdef const KbStep* step
    cdef bint idle = f.current == &m.idle
    cdef uint32_t i
    cdef uint8_t action
    for i in range(m.hook[hook], m.hook[hook + 1]):
        step = &m.steps[i]
        if step.look and (_conditions(f) & step.look) != step.want:
            continue
        action = step.action
        if action == DO_RELOAD:
            _reload(m, f)
        elif action == DO_MARK_STALE:
            f.cpu.tr.limit_stale = 1
            f.n.marks += 1
            _spend(f, &f.n.c_tr, m.costs.mark)
        elif action == DO_REFRESH:
            _spend(f, &f.n.c_tr, m.costs.test)
            if f.cpu.tr.limit_stale:
                _reload(m, f)
        elif action == DO_COPY_MAP:
            if f.next != &m.idle:
                _need_map(f, f.next)
                _copy(m, f, f.next, max(f.current.max if f.current.tif else 0, f.next.max))
        elif action == DO_MARK_AVAILABLE:
            f.cpu.tr.tss_busy = 0
            _spend(f, &f.n.c_tr, m.costs.gdt_write)
        elif action == DO_LTR:
            _ltr(m, f)
        elif action == DO_CLEAR_STALE:
            f.cpu.tr.limit_stale = 0
        elif action == DO_VALIDATE_BASE:
            f.cpu.tr.io_base = KB_BASE_VALID
            _spend(f, &f.n.c_map, m.costs.mark)
        elif action == DO_INVALIDATE_BASE:
            f.cpu.tr.io_base = KB_BASE_INVALID
            _spend(f, &f.n.c_map, m.costs.mark)
        elif action == DO_VALIDATE_ALL:
            f.cpu.tr.io_base = KB_BASE_ALL
            _spend(f, &f.n.c_map, m.costs.mark)
        elif action == DO_LOAD_IOPL:
            f.cpu.tr.iopl3 = f.next.iopl3 if hook == HOOK_SWITCH else f.current.iopl3
        elif action == DO_STOP:
            return
        elif idle:
            continue
        elif action == DO_WIPE_MAP or action == DO_WIPE_OWN:
            _wipe(m, f, f.current.max)
        elif action == DO_SYNC_MAP:
            _sync_map(m, f)
        elif action == DO_LOAD_MAP:
            _need_map(f, f.current)
            _copy(m, f, f.current,
                  max(f.max_before if f.edited else f.current.max, f.current.max))
        elif action == DO_SET_TIF:
            _set_tif(f, 1)
        elif action == DO_CLEAR_TIF:
            _set_tif(f, 0)
        elif action == DO_ALLOC_MAP:
            if not f.current.has_map:
                f.lasting = 1
                _alloc_map(m, f.current)
        elif action == DO_EDIT_MAP:
            _request(m, f)
        elif action == DO_DROP_MAP:
            f.lasting |= f.current.has_map
            _drop_map(m, f.current)
        elif action == DO_SET_IOPL or action == DO_CLEAR_IOPL:
            f.lasting |= f.current.iopl3 ^ (action == DO_SET_IOPL)
            f.current.iopl3 = action == DO_SET_IOPL
        elif action == DO_UNSHARE_MAP:
            _unshare_map(m, f)
        else:
            _step_of_child(m, f, action)


# -- Operations ----------------------------------------------------------------------------------

cdef uint32_t _state(const KbCpu* c) noexcept nogil:
    """Return the state that determines an EXIT's effect, as an index below KB_STATES.

    Without in_run, which every EXIT sets, and the maps' lengths, which only matter to steps that
    make an EXIT `lasting`.
    """
    cdef const KbTask* t = c.current
    cdef uint32_t map = (1 if t.max == 0 else 2 + (not t.empty)) if t.has_map else 0
    return (c.tr.guest_loaded | (c.tr.tr_limit == KB_LIMIT_FULL) << 1 | c.tr.tss_busy << 2
            | c.tr.limit_stale << 3 | (c.tr.io_base == KB_BASE_VALID) << 4 | t.tif << 5
            | (c.map_seq == t.seq) << 6 | map << 7 | (c.tr.io_base == KB_BASE_ALL) << 9
            | c.tr.iopl3 << 10 | t.iopl3 << 11)


cdef uint32_t _known(KbMachine* m, const KbCpu* c) noexcept nogil:
    """Return the index of the first transition from this state, with a new row where it has none.

    0 where no row is left, and where the CPU is idle: row 0 has no transition.
    """
    cdef uint32_t* first = &m.known[_state(c)]
    if c.task < 0:
        return 0
    if first[0] == 0 and m.n_known <= KB_TRANSITIONS:
        first[0] = m.n_known * m.n_kinds
        m.n_known += 1
    return first[0]


cdef inline int _refusal(const KbMachine* m, int64_t cpu, int needs) noexcept nogil:
    """Return why no operation with these needs can begin on `cpu`, KB_OK where one can."""
    cdef const KbCpu* c = &m.cpus[cpu]
    if cpu < 0 or cpu >= m.n_cpus:
        return KB_BAD_CPU
    if c.cycles > CLOCK_LIMIT:
        return KB_CLOCK
    if needs >= A_TASK and c.task < 0:
        return KB_IDLE
    if needs == IN_USERSPACE and c.current.in_run:
        return KB_IN_RUN
    return KB_OK


cdef int _begin(KbMachine* m, Frame* f, int64_t cpu, KbTask* next) noexcept nogil:
    """Set up an operation that may take steps, whose conditions hold. Nothing has changed yet."""
    if m.allocates and m.n_spare < 2 and _fill_spare(m) != KB_OK:
        return KB_NO_MEMORY
    memset(f, 0, sizeof(Frame))
    f.cpu = &m.cpus[cpu]
    f.n = &m.counted[cpu]
    f.current = f.cpu.current
    f.next = next
    return KB_OK


cdef void _commit(KbMachine* m, Frame* f, uint64_t* cycles) noexcept nogil:
    f.cpu.cycles += f.spent
    f.cpu.tr.known = _known(m, f.cpu)
    cycles[0] = f.spent


cdef void _vm_exit(KbMachine* m, Frame* f) noexcept nogil:
    f.n.exits += 1
    if m.vmx:
        f.cpu.tr.tr_limit = KB_LIMIT_MIN
    _hook(m, f, HOOK_VM_EXIT)


cdef void _put(KbMachine* m, Frame* f) noexcept nogil:
    if f.cpu.tr.guest_loaded:
        f.cpu.tr.guest_loaded = 0
        f.n.puts += 1
        _spend(f, &f.n.c_host, m.costs.host_restore)
        _hook(m, f, HOOK_VCPU_PUT)


cdef void _interrupt_guest(KbMachine* m, Frame* f) noexcept nogil:
    """Take the interrupt that brings a switch about while a guest is loaded, and put the vCPU."""
    if f.cpu.tr.guest_loaded:
        _spend(f, &f.n.c_exit, m.costs.irq_exit)
        _vm_exit(m, f)
        f.sched = 1
        _put(m, f)
        f.sched = 0


cdef void _switch(KbMachine* m, Frame* f, int32_t cpu, int32_t task) noexcept nogil:
    _hook(m, f, HOOK_SWITCH)
    f.current.on_cpu = -1
    f.cpu.task = task
    f.cpu.current = f.current = f.next
    f.n.switches += 1
    _spend(f, &f.n.c_switch, m.costs.switch_)
    if task >= 0:
        if f.current.last_cpu != -1 and f.current.last_cpu != cpu:
            f.n.migrations += 1
            _spend(f, &f.n.c_switch, m.costs.migrate)
        f.current.last_cpu = cpu
        f.current.on_cpu = cpu
        if not f.current.in_run:
            _hook(m, f, HOOK_EXIT_TO_USER)


cdef int kb_switch(KbMachine* m, int64_t cpu, int64_t task, uint64_t* cycles) noexcept nogil:
    cdef Frame f
    cdef KbTask* next
    cdef int status = _refusal(m, cpu, ANY)
    if status != KB_OK:
        return status
    if task < -1 or task >= m.n_tasks:
        return KB_BAD_TASK
    next = &m.tasks[task] if task >= 0 else &m.idle
    if m.cpus[cpu].task == task:
        cycles[0] = 0
        return KB_OK
    if next.on_cpu >= 0:
        return KB_RUNS_ELSEWHERE
    if _begin(m, &f, cpu, next) != KB_OK:
        return KB_NO_MEMORY
    f.overlap = m.costs.switch_overlap
    _interrupt_guest(m, &f)
    _switch(m, &f, <int32_t>cpu, <int32_t>task)
    _commit(m, &f, cycles)
    return KB_OK


cdef void _renew(KbMachine* m, KbTask* task) noexcept nogil:
    """Make it a new task, whatever the policy left."""
    task.tif = 0
    task.iopl3 = 0
    task.last_cpu = -1
    _drop_map(m, task)


cdef int kb_task_exit(KbMachine* m, int64_t cpu, uint64_t* cycles) noexcept nogil:
    cdef Frame f
    cdef int status = _refusal(m, cpu, A_TASK)
    if status != KB_OK:
        return status
    if _begin(m, &f, cpu, &m.idle) != KB_OK:
        return KB_NO_MEMORY
    f.overlap = m.costs.switch_overlap
    _interrupt_guest(m, &f)
    f.current.in_run = 0
    _hook(m, &f, HOOK_TASK_EXIT)
    _renew(m, f.current)
    _switch(m, &f, <int32_t>cpu, -1)
    _commit(m, &f, cycles)
    return KB_OK


cdef int kb_ioperm(KbMachine* m, int64_t cpu, int64_t first, int64_t count, bint on,
                   uint64_t* cycles) noexcept nogil:
    cdef Frame f
    cdef int status = _refusal(m, cpu, IN_USERSPACE)
    if status != KB_OK:
        return status
    if first < 0 or count < 1 or first > 65535 or count > 65536 or first + count > 65536:
        return KB_BAD_RANGE
    if _begin(m, &f, cpu, &m.idle) != KB_OK:
        return KB_NO_MEMORY
    f.first = <int32_t>first
    f.count = <int32_t>count
    f.on = on
    f.had_no_map = not f.current.has_map
    _spend(&f, &f.n.c_call, m.costs.ioperm)
    _hook(m, &f, HOOK_IOPERM)
    f.had_no_map = f.on = 0
    _hook(m, &f, HOOK_EXIT_TO_USER)
    _commit(m, &f, cycles)
    return KB_OK


cdef int kb_fork(KbMachine* m, int64_t cpu, int64_t child, bint fails,
                 uint64_t* cycles) noexcept nogil:
    cdef Frame f
    cdef KbTask* born
    cdef int status = _refusal(m, cpu, IN_USERSPACE)
    if status != KB_OK:
        return status
    if child < 0 or child >= m.n_tasks:
        return KB_BAD_CHILD
    born = &m.tasks[child]
    if born.on_cpu >= 0 or born.tif or born.has_map or born.in_run or born.iopl3:
        return KB_NOT_NEW
    if _begin(m, &f, cpu, born) != KB_OK:
        return KB_NO_MEMORY
    born.last_cpu = -1
    _hook(m, &f, HOOK_FORK)
    if fails:
        _hook(m, &f, HOOK_FORK_FAILED)
        _renew(m, born)
    f.next = &m.idle
    _hook(m, &f, HOOK_EXIT_TO_USER)
    _commit(m, &f, cycles)
    return KB_OK


cdef int kb_iopl(KbMachine* m, int64_t cpu, int64_t level, uint64_t* cycles) noexcept nogil:
    if level < 0 or level > 3:
        return KB_BAD_LEVEL
    return _call(m, cpu, HOOK_IOPL, level == 3, cycles)


cdef int kb_exec(KbMachine* m, int64_t cpu, uint64_t* cycles) noexcept nogil:
    return _call(m, cpu, HOOK_EXEC, False, cycles)


cdef int _call(KbMachine* m, int64_t cpu, int hook, bint on, uint64_t* cycles) noexcept nogil:
    """Do a system call that is one hook."""
    cdef Frame f
    cdef int status = _refusal(m, cpu, IN_USERSPACE)
    if status != KB_OK:
        return status
    if _begin(m, &f, cpu, &m.idle) != KB_OK:
        return KB_NO_MEMORY
    f.on = on
    _hook(m, &f, hook)
    f.on = 0
    _hook(m, &f, HOOK_EXIT_TO_USER)
    _commit(m, &f, cycles)
    return KB_OK


cdef int kb_io(KbMachine* m, int64_t cpu, int64_t port, int64_t width, uint8_t* allowed,
               uint64_t* cycles) noexcept nogil:
    cdef KbCpu* c
    cdef KbCounters* n
    cdef bint granted, entitled
    cdef int status = _refusal(m, cpu, IN_USERSPACE)
    if status != KB_OK:
        return status
    if port < 0 or port > 65535:
        return KB_BAD_PORT
    if width != 1 and width != 2 and width != 4:
        return KB_BAD_WIDTH
    c = &m.cpus[cpu]
    n = &m.counted[cpu]
    granted = kb_allowed(m, cpu, <uint32_t>port, <uint32_t>width)
    # A task's own bits under a limit and a base that deny nothing; ports past 65535 hit the ones
    # that follow its map.
    entitled = (kb_port_check(<uint32_t>-1, 0, c.current.map, <uint32_t>port, <uint32_t>width)
                or (c.current.iopl3 and port + width <= KB_PORTS))
    cycles[0] = m.costs.io if granted else m.costs.gp_fault
    c.cycles += cycles[0]
    n.c_io += cycles[0]
    n.io_allowed += granted
    n.io_denied += not granted
    # At level 3 an access past port 65535 is allowed or not, as the hardware pleases.
    n.leaks += granted and not entitled and not c.current.iopl3
    n.denials += entitled and not granted
    allowed[0] = granted
    return KB_OK


cdef int kb_advance(KbMachine* m, int64_t cpu, int64_t cycles_, uint64_t* cycles) noexcept nogil:
    cdef KbCpu* c
    cdef KbCounters* n
    cdef int status = _refusal(m, cpu, ANY)
    if status != KB_OK:
        return status
    if cycles_ < 0 or cycles_ >= <int64_t>1 << 31:
        return KB_BAD_CYCLES
    c = &m.cpus[cpu]
    n = &m.counted[cpu]
    if c.task < 0:
        n.c_idle += cycles_
    elif c.current.in_run:
        n.c_guest += cycles_
    else:
        n.c_work += cycles_
    c.cycles += cycles_
    cycles[0] = cycles_
    return KB_OK


# -- EXIT: transitions ---------------------------------------------------------------------------

cdef void _interpret_exit(KbMachine* m, Frame* f, const KbKind* kind) noexcept nogil:
    f.overlap = kind.overlap
    f.current.in_run = 1
    if not f.cpu.tr.guest_loaded:
        f.cpu.tr.guest_loaded = 1
        f.n.host_saves += 1
        _spend(f, &f.n.c_host, m.costs.host_save)
    _spend(f, &f.n.c_exit, kind.cycles)
    if kind.exits:
        _vm_exit(m, f)
    if kind.user:
        f.n.user_exits += 1
        _put(m, f)
        f.current.in_run = 0
        _hook(m, f, HOOK_EXIT_TO_USER)
        _spend(f, &f.n.c_user, kind.user_cycles)


cdef int _learn_exit(KbMachine* m, int64_t cpu, int64_t kind, uint64_t* cycles) noexcept nogil:
    """Interpret an EXIT, and keep its effect where a transition can hold it."""
    cdef Frame f
    cdef uint32_t known = m.cpus[cpu].tr.known
    cdef KbCounters before = m.counted[cpu]
    cdef KbTransition* transition
    cdef uint64_t* effect
    cdef int i
    if _begin(m, &f, cpu, &m.idle) != KB_OK:
        return KB_NO_MEMORY
    _interpret_exit(m, &f, &m.kinds[kind])
    _commit(m, &f, cycles)
    transition = &m.transitions[known + kind]
    if (known != 0 and transition.number == 0 and not f.lasting
            and m.n_transitions < KB_TRANSITIONS):
        transition.after = f.cpu.tr
        transition.cycles = f.spent
        transition.in_run = f.current.in_run
        effect = <uint64_t*>&m.effects[m.n_transitions]
        for i in range(N_COUNTERS):
            effect[i] = (<uint64_t*>f.n)[i] - (<uint64_t*>&before)[i]
        transition.number = m.n_transitions
        m.n_transitions += 1
    return KB_OK


cdef inline void _make(KbCpu* c, const KbTransition* transition, uint64_t times) noexcept nogil:
    c.cycles += times * transition.cycles
    c.tr = transition.after
    c.current.in_run = transition.in_run
    c.times[transition.number] += times


cdef int kb_exit(KbMachine* m, int64_t cpu, int64_t kind, uint64_t* cycles) noexcept nogil:
    cdef const KbTransition* transition
    cdef int status = _refusal(m, cpu, A_TASK)
    if status != KB_OK:
        return status
    if kind < 0 or kind >= m.n_kinds:
        return KB_BAD_KIND
    transition = &m.transitions[m.cpus[cpu].tr.known + kind]
    if transition.number == 0:
        return _learn_exit(m, cpu, kind, cycles)
    _make(&m.cpus[cpu], transition, 1)
    cycles[0] = transition.cycles
    return KB_OK


cdef uint32_t kb_known(KbMachine* m, int64_t cpu) noexcept nogil:
    cdef KbCpu* c = &m.cpus[cpu]
    if c.tr.known == 0:
        c.tr.known = _known(m, c)
    return c.tr.known


cdef void kb_flush(KbMachine* m, int64_t cpu) noexcept nogil:
    cdef KbCounters sums
    kb_counters(m, cpu, &sums)
    m.counted[cpu] = sums
    memset(kb_times(m, cpu), 0, KB_TRANSITIONS * sizeof(uint64_t))
    m.cpus[cpu].tr.known = 0


cdef uint64_t kb_counter(const KbMachine* m, int64_t cpu, int counter) noexcept nogil:
    cdef const uint64_t* times = kb_times(m, cpu)
    cdef uint64_t sum = (<const uint64_t*>&m.counted[cpu])[counter]
    cdef uint32_t number
    for number in range(1, m.n_transitions):
        sum += times[number] * (<const uint64_t*>&m.effects[number])[counter]
    return sum


cdef void kb_counters(const KbMachine* m, int64_t cpu, KbCounters* out) noexcept nogil:
    cdef int i
    for i in range(N_COUNTERS):
        (<uint64_t*>out)[i] = kb_counter(m, cpu, i)


# -- The whole machine ---------------------------------------------------------------------------

cdef void kb_free_maps(KbMachine* m) noexcept nogil:
    cdef int32_t i
    if m.tasks != NULL:
        for i in range(m.n_tasks):
            if m.tasks[i].has_map:
                _tasks_of(m.tasks[i].map)[0] -= 1
                if _tasks_of(m.tasks[i].map)[0] == 0:
                    PyMem_RawFree(m.tasks[i].map)
    kb_free_spare(m)


cdef void kb_free_spare(KbMachine* m) noexcept nogil:
    while m.spare != NULL:
        PyMem_RawFree(_pop_spare(m))


cdef void _place_rows(KbMachine* m, int64_t cpu) noexcept nogil:
    m.cpus[cpu].times = kb_times(m, cpu)
    m.cpus[cpu].tss_map = m.tss_maps + cpu * KB_MAP_STRIDE


cdef void kb_start(KbMachine* m, uint16_t io_base) noexcept nogil:
    cdef KbTask task = KbTask(map=&NO_MAP[0], seq=0, max=0, last_cpu=-1, on_cpu=-1, tif=0,
                              has_map=0, in_run=0, empty=1, iopl3=0)
    cdef KbCpu* c
    cdef int32_t i
    kb_free_maps(m)
    for i in range(m.n_tasks):
        m.tasks[i] = task
    m.idle = task
    m.sequence = 0
    memset(m.cpus, 0, m.n_cpus * sizeof(KbCpu))
    memset(m.counted, 0, m.n_cpus * sizeof(KbCounters))
    memset(m.times, 0, <size_t>m.n_cpus * KB_TIMES_STRIDE * sizeof(uint64_t))
    memset(m.tss_maps, 0xff, <size_t>m.n_cpus * KB_MAP_STRIDE)
    for i in range(m.n_cpus):
        c = &m.cpus[i]
        _place_rows(m, i)
        c.tr.tr_limit = KB_LIMIT_FULL
        c.tr.io_base = io_base
        c.tr.tss_busy = 1           # LTR at boot made it so
        c.task = -1
        c.current = &m.idle


cdef int kb_restore_map(KbMachine* m, int32_t task, const uint8_t* map) noexcept nogil:
    cdef KbTask* t = &m.tasks[task]
    cdef int32_t i
    if _fill_spare(m) != KB_OK:
        return KB_NO_MEMORY
    _alloc_map(m, t)
    memcpy(t.map, map, KB_MAP_BYTES)
    for i in range(KB_MAP_BYTES):
        t.empty &= map[i] == 0xff
    return KB_OK


cdef int32_t kb_map_of(const KbMachine* m, int32_t task) noexcept nogil:
    cdef int32_t i
    if m.tasks[task].has_map and _tasks_of(m.tasks[task].map)[0] > 1:
        for i in range(task):
            if m.tasks[i].map == m.tasks[task].map:
                return i
    return task


cdef void kb_share_map(KbMachine* m, int32_t task, int32_t other) noexcept nogil:
    _share_map(m, &m.tasks[task], &m.tasks[other])


cdef int kb_copy(KbMachine* m, const KbMachine* old) noexcept nogil:
    cdef uint8_t* map
    cdef KbCpu* c
    cdef int32_t i, k
    m.sequence = old.sequence
    m.n_known = old.n_known
    m.n_transitions = old.n_transitions
    memcpy(m.known, old.known, KB_STATES * sizeof(uint32_t))
    memcpy(m.transitions, old.transitions, <size_t>m.n_known * m.n_kinds * sizeof(KbTransition))
    memcpy(m.effects, old.effects, m.n_transitions * sizeof(KbCounters))
    memcpy(m.times, old.times, <size_t>m.n_cpus * KB_TIMES_STRIDE * sizeof(uint64_t))
    memcpy(m.tss_maps, old.tss_maps, <size_t>m.n_cpus * KB_MAP_STRIDE)
    memcpy(m.counted, old.counted, m.n_cpus * sizeof(KbCounters))
    for i in range(m.n_tasks):
        k = kb_map_of(old, i)
        if k < i:
            _share_map(m, &m.tasks[k], &m.tasks[i])
        elif old.tasks[i].has_map and kb_restore_map(m, i, old.tasks[i].map) != KB_OK:
            return KB_NO_MEMORY
        map = m.tasks[i].map
        m.tasks[i] = old.tasks[i]
        m.tasks[i].map = map
    for i in range(m.n_cpus):
        c = &m.cpus[i]
        c[0] = old.cpus[i]
        c.current = &m.tasks[c.task] if c.task >= 0 else &m.idle
        _place_rows(m, i)
    return KB_OK


# -- Many operations -----------------------------------------------------------------------------

cdef int kb_do(KbMachine* m, int64_t code, int64_t cpu, int64_t a, int64_t b, int64_t arg,
               uint8_t* result, uint64_t* cycles) noexcept nogil:
    if code == KB_EXIT:
        return kb_exit(m, cpu, a, cycles)
    if code == KB_SWITCH:
        return kb_switch(m, cpu, a, cycles)
    if code == KB_IOPERM:
        return kb_ioperm(m, cpu, a, b, arg != 0, cycles)
    if code == KB_IO:
        return kb_io(m, cpu, a, arg, result, cycles)
    if code == KB_TASK_EXIT:
        return kb_task_exit(m, cpu, cycles)
    if code == KB_ADVANCE:
        return kb_advance(m, cpu, a, cycles)
    if code == KB_FORK:
        return kb_fork(m, cpu, a, arg != 0, cycles)
    if code == KB_IOPL:
        return kb_iopl(m, cpu, a, cycles)
    if code == KB_EXEC:
        return kb_exec(m, cpu, cycles)
    return KB_BAD_CODE


cdef inline uint64_t _head(const KbOp* op) noexcept nogil:
    """Return the first 8 bytes, which are a whole EXIT: code, arg, cpu and a."""
    cdef uint64_t head
    memcpy(&head, op, sizeof(head))
    return head


cdef extern from *:
    """
    #define kb_forget_memory() __asm__ __volatile__("" ::: "memory")
    """
    void kb_forget_memory() noexcept nogil


cdef inline KbOp _taken(const KbOp* op) noexcept nogil:
    """Return a copy that the compiler cannot read again from where it came."""
    cdef KbOp copy = op[0]
    kb_forget_memory()
    return copy


cdef int64_t kb_run(KbMachine* m, const KbOp* ops, int64_t n, uint8_t* results,
                    uint64_t* cycles_out, int* status) noexcept nogil:
    cdef int64_t i = 0, end, last
    cdef uint64_t cycles
    cdef KbCpu* c
    cdef KbOp op
    cdef uint64_t head
    cdef const KbTransition* transition
    status[0] = KB_OK
    while i < n:
        # Another thread or process may change `ops` meanwhile: the copy is checked and done.
        op = _taken(&ops[i])
        if op.code == KB_EXIT and op.cpu < m.n_cpus and 0 <= op.a < m.n_kinds:
            c = &m.cpus[op.cpu]
            transition = &m.transitions[c.tr.known + op.a]
            if transition.number != 0 and c.cycles <= CLOCK_NEAR:
                end = i + 1
                # Equal EXITs from a state that they do not change: the next store to this CPU
                # would wait for the one before, so count them first and store once.
                head = _head(&op)
                if (end < n and _head(&ops[end]) == head
                        and transition.after.known == c.tr.known):
                    last = min(n, i + RUN_MAX)
                    end += 1
                    while end < last and _head(&ops[end]) == head:
                        end += 1
                _make(c, transition, end - i)
                if cycles_out != NULL:
                    while i < end:
                        cycles_out[i] = transition.cycles
                        i += 1
                i = end
                continue
        status[0] = kb_do(m, op.code, op.cpu, op.a, op.b, op.arg, &results[i], &cycles)
        if status[0] != KB_OK:
            return i
        if cycles_out != NULL:
            cycles_out[i] = cycles
        i += 1
    return n


cdef int kb_repeat_exit(KbMachine* m, int64_t cpu, int64_t kind, int64_t n,
                        int64_t* done) noexcept nogil:
    # Brent's cycle search: the state is compared with one kept at a power of two. A bitmap's
    # bytes need no comparing: within an EXIT they are only overwritten as the task's state says,
    # so after one whole round another changes nothing.
    cdef KbCpu* c = &m.cpus[cpu]
    cdef KbCpu kept
    cdef KbTask kept_task
    cdef KbCounters before, after
    cdef uint64_t cycles, round_cycles
    cdef int64_t at = 0, power = 1, length, rounds
    cdef int i
    cdef int status
    if cpu < 0 or cpu >= m.n_cpus:
        return KB_BAD_CPU
    kept = c[0]
    kept_task = c.current[0]
    kb_counters(m, cpu, &before)
    while done[0] < n:
        status = kb_exit(m, cpu, kind, &cycles)
        if status != KB_OK:
            return status
        done[0] += 1
        length = done[0] - at
        if power > 0 and _same(c, &kept) and _same_task(c.current, &kept_task):
            round_cycles = c.cycles - kept.cycles
            rounds = (n - done[0]) // length
            if round_cycles > 0:
                # Rounds that end at CLOCK_LIMIT or below: each of their EXITs may begin.
                rounds = min(rounds, <int64_t>(
                    (CLOCK_LIMIT - min(c.cycles, CLOCK_LIMIT)) // round_cycles))
            kb_counters(m, cpu, &after)
            for i in range(N_COUNTERS):
                (<uint64_t*>&m.counted[cpu])[i] += rounds * (
                    (<uint64_t*>&after)[i] - (<uint64_t*>&before)[i])
            c.cycles += rounds * round_cycles
            done[0] += rounds * length
            power = 0               # less than a round is left, of the EXITs or of the clock
        if length == power:
            at = done[0]
            power *= 2
            kept = c[0]
            kept_task = c.current[0]
            kb_counters(m, cpu, &before)
    return KB_OK


cdef bint _same(const KbCpu* a, const KbCpu* b) noexcept nogil:
    return (a.tr.tr_limit == b.tr.tr_limit and a.tr.io_base == b.tr.io_base
            and a.tr.tss_busy == b.tr.tss_busy and a.tr.limit_stale == b.tr.limit_stale
            and a.tr.guest_loaded == b.tr.guest_loaded and a.tr.iopl3 == b.tr.iopl3
            and a.map_seq == b.map_seq and a.map_max == b.map_max)


cdef bint _same_task(const KbTask* a, const KbTask* b) noexcept nogil:
    return (a.seq == b.seq and a.max == b.max and a.tif == b.tif and a.has_map == b.has_map
            and a.in_run == b.in_run and a.empty == b.empty and a.iopl3 == b.iopl3)


cdef int kb_api() noexcept nogil:
    return KB_API


cdef uint64_t kb_layout() noexcept nogil:
    return kb_layout_here()
