"""The machine's operations in C: no Python object, no GIL (docs/model.md; records: _steps.pxd).

An EXIT from a state met before is one look-up. What an EXIT does depends on few bits of its CPU
and task (`_state`), so the first one from each state is interpreted, step by step of the policy,
and what it did is remembered as a KbMove; later ones take the move: store the state after, add
the cycles, count the move. The counters are derived from those counts when they are read. An
EXIT that did what a move cannot hold (moved a bitmap, changed a task) is interpreted each time,
and so is every other operation.
"""
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.string cimport memcpy, memset

cdef enum:
    # Costs are below 2**32, a step costs at most 130 of them and an operation runs at most five
    # hooks of 64 steps: far below 2**50, so that 4,096 operations from below CLOCK_NEAR cannot
    # wrap, and only operations from above CLOCK_NEAR can pass CLOCK_LIMIT.
    RUN_MAX = 4096
    SPARE_MAX = 16                # free maps kept for the next task that wants one
    CHECKS_MANY = 1 << 15         # port checks from which on a table of all answers pays
    CHECKS_BLOCK = 2048           # port checks whose arrays fit the first cache

cdef extern from *:
    """
    #define CLOCK_LIMIT (UINT64_C(1) << 63)
    #define CLOCK_NEAR (UINT64_C(1) << 62)
    """
    const uint64_t CLOCK_LIMIT    # cycles; no clock passes it
    const uint64_t CLOCK_NEAR     # cycles; above it, an operation may have to be undone

cdef uint8_t NO_MAP[KB_MAP_BYTES + 1]     # what a task without a map has: every port denied
memset(NO_MAP, 0xff, sizeof(NO_MAP))

cdef struct Frame:                # one operation under way
    KbCpu* cpu
    KbCounters* n                 # the CPU's
    KbTask* current
    KbTask* next                  # SWITCH only
    uint64_t spent                # cycles so far
    uint64_t overlap              # cycles that an LTR here waits for
    int32_t first, count          # IOPERM: ports
    uint32_t max_before           # IOPERM: current's max before the latest edit
    uint8_t edited                # IOPERM: there was an edit
    uint8_t had_no_map            # IOPERM: when the system call began
    uint8_t on                    # IOPERM: grants
    uint8_t sched                 # this put is a switch's
    uint8_t lasting               # something changed that KbTr does not hold

cdef struct Undo:                 # what an operation near the clock's limit may have to give back
    KbCpu cpu
    KbCounters counted
    KbTask current, next
    uint64_t sequence
    uint8_t tss_map[KB_TSS_MAP_BYTES]
    uint8_t current_map[KB_MAP_BYTES]
    uint8_t next_map[KB_MAP_BYTES]


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


cdef void _alloc_map(KbMachine* m, KbTask* task) noexcept nogil:
    # One byte more, all ones: a port check of the last byte reads it.
    task.map = <uint8_t*>_pop_spare(m)
    memset(task.map, 0xff, KB_MAP_BYTES + 1)
    task.has_map = 1


cdef void _drop_map(KbMachine* m, KbTask* task) noexcept nogil:
    if task.has_map:
        _push_spare(m, task.map)
    task.map = &NO_MAP[0]
    task.has_map = 0
    task.empty = 1
    task.max = 0
    task.seq = 0


cdef void _edit_map(KbTask* task, uint32_t first, uint32_t count, bint on) noexcept nogil:
    """Grant or revoke ports, and find `max` and `empty` anew."""
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


# -- Steps of a policy ---------------------------------------------------------------------------

cdef inline uint8_t _conditions(const Frame* f) noexcept nogil:
    return (f.current.tif | f.next.tif << 1 | f.had_no_map << 2 | f.on << 3 | f.current.empty << 4
            | f.cpu.tr.limit_stale << 5 | f.sched << 6)


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
    _spend(f, &f.n.c_map, m.costs.test)
    if f.cpu.map_seq != f.current.seq:
        _copy(m, f, f.current, max(f.cpu.map_max, f.current.max))
        f.cpu.map_max = f.current.max
        f.cpu.map_seq = f.current.seq


cdef void _request(KbMachine* m, Frame* f) noexcept nogil:
    """Apply the ioperm() request to current's map."""
    if not f.current.has_map:
        _alloc_map(m, f.current)
    f.max_before = f.current.max
    f.edited = 1
    f.lasting = 1
    _edit_map(f.current, f.first, f.count, f.on)
    m.sequence += 1
    f.current.seq = m.sequence


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
        elif action == DO_STOP:
            return
        elif idle:
            continue
        elif action == DO_WIPE_MAP or action == DO_WIPE_OWN:
            _wipe(m, f, f.current.max)
        elif action == DO_SYNC_MAP:
            _sync_map(m, f)
        elif action == DO_LOAD_MAP:
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


# -- Operations ----------------------------------------------------------------------------------

cdef uint32_t _state(const KbCpu* c) noexcept nogil:
    """Return all that an EXIT's course depends on, as an index below KB_STATES.

    Not in it: in_run, which every EXIT sets, and how long the maps are, which only matters to
    steps that make an EXIT `lasting`.
    """
    cdef const KbTask* t = c.current
    cdef uint32_t map = (1 if t.max == 0 else 2 + (not t.empty)) if t.has_map else 0
    return (c.tr.guest_loaded | (c.tr.tr_limit == KB_LIMIT_FULL) << 1 | c.tr.tss_busy << 2
            | c.tr.limit_stale << 3 | (c.tr.io_base == KB_BASE_VALID) << 4 | t.tif << 5
            | (c.map_seq == t.seq) << 6 | map << 7)


cdef uint32_t _known(KbMachine* m, const KbCpu* c) noexcept nogil:
    """Return the index of the first move from this state, made room for if need be.

    0 where there is no room, and where the CPU is idle: row 0 has no move.
    """
    cdef uint32_t* first = &m.known[_state(c)]
    if c.task < 0:
        return 0
    if first[0] == 0 and m.n_known <= KB_MOVES:
        first[0] = m.n_known * m.n_kinds
        m.n_known += 1
    return first[0]


cdef int _begin(KbMachine* m, Frame* f, int64_t cpu, KbTask* next, Undo** undo) noexcept nogil:
    """Set up an operation that may take steps, whose conditions hold. Nothing has changed yet."""
    cdef Undo* saved = NULL
    cdef KbCpu* c = &m.cpus[cpu]
    if m.allocates and m.n_spare < 2 and _fill_spare(m) != KB_OK:
        return KB_NO_MEMORY
    memset(f, 0, sizeof(Frame))
    f.cpu = c
    f.n = &m.counted[cpu]
    f.current = c.current
    f.next = next
    if c.cycles > CLOCK_NEAR:
        saved = <Undo*>PyMem_RawMalloc(sizeof(Undo))
        if saved == NULL:
            return KB_NO_MEMORY
        saved.cpu = c[0]
        saved.counted = f.n[0]
        saved.current = c.current[0]
        saved.next = next[0]
        saved.sequence = m.sequence
        memcpy(saved.tss_map, c.tss_map, KB_TSS_MAP_BYTES)
        memcpy(saved.current_map, c.current.map, KB_MAP_BYTES)
        memcpy(saved.next_map, next.map, KB_MAP_BYTES)
    undo[0] = saved
    return KB_OK


cdef void _give_back(KbMachine* m, KbTask* task, const KbTask* was,
                     const uint8_t* map) noexcept nogil:
    cdef KbTask old = was[0]
    if old.has_map:
        old.map = task.map if task.has_map else <uint8_t*>_pop_spare(m)
        memcpy(old.map, map, KB_MAP_BYTES)
        old.map[KB_MAP_BYTES] = 0xff
    elif task.has_map:
        _push_spare(m, task.map)
    task[0] = old


cdef int _commit(KbMachine* m, Frame* f, Undo* undo, uint64_t* cycles) noexcept nogil:
    """Charge the operation; where that would take the clock past its limit, undo it."""
    cdef int status = KB_OK
    cdef KbTask* current
    if f.cpu.cycles + f.spent > CLOCK_LIMIT:
        current = undo.cpu.current
        _give_back(m, current, &undo.current, undo.current_map)
        if f.next != current:
            _give_back(m, f.next, &undo.next, undo.next_map)
        memcpy(f.cpu.tss_map, undo.tss_map, KB_TSS_MAP_BYTES)
        f.cpu[0] = undo.cpu
        f.n[0] = undo.counted
        m.sequence = undo.sequence
        status = KB_CLOCK
    else:
        f.cpu.cycles += f.spent
        f.cpu.tr.known = _known(m, f.cpu)
        cycles[0] = f.spent
    if undo != NULL:
        PyMem_RawFree(undo)
    return status


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
    cdef Undo* undo
    cdef KbTask* next
    if cpu < 0 or cpu >= m.n_cpus:
        return KB_BAD_CPU
    if task < -1 or task >= m.n_tasks:
        return KB_BAD_TASK
    next = &m.tasks[task] if task >= 0 else &m.idle
    if m.cpus[cpu].task == task:
        cycles[0] = 0
        return KB_OK
    if next.on_cpu >= 0:
        return KB_RUNS_ELSEWHERE
    if _begin(m, &f, cpu, next, &undo) != KB_OK:
        return KB_NO_MEMORY
    f.overlap = m.costs.switch_overlap
    _interrupt_guest(m, &f)
    _switch(m, &f, <int32_t>cpu, <int32_t>task)
    return _commit(m, &f, undo, cycles)


cdef int kb_task_exit(KbMachine* m, int64_t cpu, uint64_t* cycles) noexcept nogil:
    cdef Frame f
    cdef Undo* undo
    if cpu < 0 or cpu >= m.n_cpus:
        return KB_BAD_CPU
    if m.cpus[cpu].task < 0:
        return KB_IDLE
    if _begin(m, &f, cpu, &m.idle, &undo) != KB_OK:
        return KB_NO_MEMORY
    f.overlap = m.costs.switch_overlap
    _interrupt_guest(m, &f)
    f.current.in_run = 0
    _hook(m, &f, HOOK_TASK_EXIT)
    f.current.tif = 0
    f.current.last_cpu = -1
    _drop_map(m, f.current)
    _switch(m, &f, <int32_t>cpu, -1)
    return _commit(m, &f, undo, cycles)


cdef int kb_ioperm(KbMachine* m, int64_t cpu, int64_t first, int64_t count, bint on,
                   uint64_t* cycles) noexcept nogil:
    cdef Frame f
    cdef Undo* undo
    if cpu < 0 or cpu >= m.n_cpus:
        return KB_BAD_CPU
    if first < 0 or count < 1 or first > 65535 or count > 65536 or first + count > 65536:
        return KB_BAD_RANGE
    if m.cpus[cpu].task < 0:
        return KB_IDLE
    if m.cpus[cpu].current.in_run:
        return KB_IN_RUN
    if _begin(m, &f, cpu, &m.idle, &undo) != KB_OK:
        return KB_NO_MEMORY
    f.first = <int32_t>first
    f.count = <int32_t>count
    f.on = on
    f.had_no_map = not f.current.has_map
    _spend(&f, &f.n.c_call, m.costs.ioperm)
    _hook(m, &f, HOOK_IOPERM)
    f.had_no_map = f.on = 0
    _hook(m, &f, HOOK_EXIT_TO_USER)
    return _commit(m, &f, undo, cycles)


cdef int kb_io(KbMachine* m, int64_t cpu, int64_t port, int64_t width, uint8_t* allowed,
               uint64_t* cycles) noexcept nogil:
    cdef KbCpu* c
    cdef KbCounters* n
    cdef uint64_t cost
    cdef bint granted, entitled
    if cpu < 0 or cpu >= m.n_cpus:
        return KB_BAD_CPU
    if port < 0 or port > 65535:
        return KB_BAD_PORT
    if width != 1 and width != 2 and width != 4:
        return KB_BAD_WIDTH
    c = &m.cpus[cpu]
    if c.task < 0:
        return KB_IDLE
    if c.current.in_run:
        return KB_IN_RUN
    granted = kb_port_check(c.tr.tr_limit, c.tr.io_base, c.tss_map, <uint32_t>port, <uint32_t>width)
    # A task's own bits under a limit and a base that deny nothing; ports past 65535 hit the ones
    # behind its map.
    entitled = kb_port_check(<uint32_t>-1, 0, c.current.map, <uint32_t>port, <uint32_t>width)
    cost = m.costs.io if granted else m.costs.gp_fault
    if c.cycles + cost > CLOCK_LIMIT:
        return KB_CLOCK
    n = &m.counted[cpu]
    c.cycles += cost
    n.c_io += cost
    n.io_allowed += granted
    n.io_denied += not granted
    n.leaks += granted and not entitled
    n.denials += entitled and not granted
    allowed[0] = granted
    cycles[0] = cost
    return KB_OK


cdef int kb_advance(KbMachine* m, int64_t cpu, int64_t cycles_, uint64_t* cycles) noexcept nogil:
    cdef KbCpu* c
    cdef KbCounters* n
    if cpu < 0 or cpu >= m.n_cpus:
        return KB_BAD_CPU
    if cycles_ < 0 or cycles_ >= <int64_t>1 << 31:
        return KB_BAD_CYCLES
    c = &m.cpus[cpu]
    if c.cycles + <uint64_t>cycles_ > CLOCK_LIMIT:
        return KB_CLOCK
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


# -- EXIT: moves ---------------------------------------------------------------------------------

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
    """Interpret an EXIT, and remember what it did where a move can hold it."""
    cdef Frame f
    cdef Undo* undo
    cdef KbCpu* c = &m.cpus[cpu]
    cdef uint32_t known = c.tr.known
    cdef KbCounters before = m.counted[cpu]
    cdef KbMove* move
    cdef uint64_t* effect
    cdef size_t i
    if _begin(m, &f, cpu, &m.idle, &undo) != KB_OK:
        return KB_NO_MEMORY
    _interpret_exit(m, &f, &m.kinds[kind])
    if _commit(m, &f, undo, cycles) != KB_OK:
        return KB_CLOCK
    move = &m.moves[known + kind]
    if known != 0 and move.number == 0 and not f.lasting and m.n_moves < KB_MOVES:
        move.after = c.tr
        move.cycles = f.spent
        move.in_run = c.current.in_run
        effect = <uint64_t*>&m.effects[m.n_moves]
        for i in range(sizeof(KbCounters) // sizeof(uint64_t)):
            effect[i] = (<uint64_t*>f.n)[i] - (<uint64_t*>&before)[i]
        move.number = m.n_moves
        m.n_moves += 1
    return KB_OK


cdef inline void _take(KbCpu* c, const KbMove* move, uint64_t times) noexcept nogil:
    c.cycles += times * move.cycles
    c.tr = move.after
    c.current.in_run = move.in_run
    c.taken[move.number] += times


cdef int kb_exit(KbMachine* m, int64_t cpu, int64_t kind, uint64_t* cycles) noexcept nogil:
    cdef KbCpu* c
    cdef const KbMove* move
    if cpu < 0 or cpu >= m.n_cpus:
        return KB_BAD_CPU
    if kind < 0 or kind >= m.n_kinds:
        return KB_BAD_KIND
    c = &m.cpus[cpu]
    if c.task < 0:
        return KB_IDLE
    move = &m.moves[c.tr.known + kind]
    if move.number == 0 or c.cycles > CLOCK_NEAR:
        return _learn_exit(m, cpu, kind, cycles)
    _take(c, move, 1)
    cycles[0] = move.cycles
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
    memset(m.cpus[cpu].taken, 0, KB_MOVES * sizeof(uint64_t))
    m.cpus[cpu].tr.known = 0


cdef void kb_counters(const KbMachine* m, int64_t cpu, KbCounters* out) noexcept nogil:
    """What was counted step by step, and what the moves that the CPU took add to it."""
    cdef uint64_t* sums = <uint64_t*>out
    cdef uint64_t times
    cdef uint32_t number
    cdef size_t i
    out[0] = m.counted[cpu]
    for number in range(1, m.n_moves):
        times = m.cpus[cpu].taken[number]
        if times:
            for i in range(sizeof(KbCounters) // sizeof(uint64_t)):
                sums[i] += times * (<const uint64_t*>&m.effects[number])[i]


# -- The whole machine ---------------------------------------------------------------------------

cdef void kb_free_maps(KbMachine* m) noexcept nogil:
    cdef int32_t i
    if m.tasks != NULL:
        for i in range(m.n_tasks):
            if m.tasks[i].has_map:
                PyMem_RawFree(m.tasks[i].map)
    kb_free_spare(m)


cdef void kb_free_spare(KbMachine* m) noexcept nogil:
    while m.spare != NULL:
        PyMem_RawFree(_pop_spare(m))


cdef void kb_start(KbMachine* m, uint16_t io_base) noexcept nogil:
    cdef KbTask task = KbTask(map=&NO_MAP[0], seq=0, max=0, last_cpu=-1, on_cpu=-1, tif=0,
                              has_map=0, in_run=0, empty=1)
    cdef KbTr tr
    cdef KbCpu* c
    cdef int32_t i
    kb_free_maps(m)
    for i in range(m.n_tasks):
        m.tasks[i] = task
    m.idle = task
    m.sequence = 0
    memset(&tr, 0, sizeof(tr))
    tr.tr_limit = KB_LIMIT_FULL
    tr.io_base = io_base
    tr.tss_busy = 1                 # LTR at boot made it so
    for i in range(m.n_cpus):
        c = &m.cpus[i]
        c.cycles = 0
        c.tr = tr
        c.map_seq = 0
        c.map_max = 0
        c.task = -1
        c.current = &m.idle
        memset(c.tss_map, 0xff, KB_TSS_MAP_BYTES)
        memset(c.taken, 0, KB_MOVES * sizeof(uint64_t))
    memset(m.counted, 0, m.n_cpus * sizeof(KbCounters))


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


cdef int kb_copy(KbMachine* m, const KbMachine* old) noexcept nogil:
    cdef uint8_t* map
    cdef KbTask* task
    cdef KbCpu* c
    cdef const KbCpu* from_
    cdef int32_t i
    m.sequence = old.sequence
    m.n_known = old.n_known
    m.n_moves = old.n_moves
    memcpy(m.known, old.known, KB_STATES * sizeof(uint32_t))
    memcpy(m.moves, old.moves, <size_t>m.n_known * m.n_kinds * sizeof(KbMove))
    memcpy(m.effects, old.effects, m.n_moves * sizeof(KbCounters))
    memcpy(m.counted, old.counted, m.n_cpus * sizeof(KbCounters))
    for i in range(m.n_tasks):
        task = &m.tasks[i]
        if old.tasks[i].has_map:
            if _fill_spare(m) != KB_OK:
                return KB_NO_MEMORY
            _alloc_map(m, task)
            memcpy(task.map, old.tasks[i].map, KB_MAP_BYTES)
        map = task.map
        task[0] = old.tasks[i]
        task.map = map
    for i in range(m.n_cpus):
        c = &m.cpus[i]
        from_ = &old.cpus[i]
        c.cycles = from_.cycles
        c.tr = from_.tr
        c.map_seq = from_.map_seq
        c.map_max = from_.map_max
        c.task = from_.task
        c.current = &m.tasks[c.task] if c.task >= 0 else &m.idle
        memcpy(c.tss_map, from_.tss_map, KB_TSS_MAP_BYTES)
        memcpy(c.taken, from_.taken, KB_MOVES * sizeof(uint64_t))
    return KB_OK


# -- Many operations -----------------------------------------------------------------------------

cdef int _do(KbMachine* m, const KbOp* op, uint8_t* result, uint64_t* cycles) noexcept nogil:
    if op.code == KB_EXIT:
        return kb_exit(m, op.cpu, op.a, cycles)
    if op.code == KB_SWITCH:
        return kb_switch(m, op.cpu, op.a, cycles)
    if op.code == KB_IOPERM:
        return kb_ioperm(m, op.cpu, op.a, op.b, op.arg != 0, cycles)
    if op.code == KB_IO:
        return kb_io(m, op.cpu, op.a, op.arg, result, cycles)
    if op.code == KB_TASK_EXIT:
        return kb_task_exit(m, op.cpu, cycles)
    if op.code == KB_ADVANCE:
        return kb_advance(m, op.cpu, op.a, cycles)
    return KB_BAD_CODE


cdef inline uint64_t _head(const KbOp* op) noexcept nogil:
    """All of an EXIT's operation: code, arg, cpu and a."""
    cdef uint64_t head
    memcpy(&head, op, sizeof(head))
    return head


cdef int64_t kb_run(KbMachine* m, const KbOp* ops, int64_t n, uint8_t* results,
                    uint64_t* cycles_out, int* status) noexcept nogil:
    cdef int64_t i = 0, end, last
    cdef uint64_t cycles
    cdef KbCpu* c
    cdef const KbOp* op
    cdef const KbMove* move
    status[0] = KB_OK
    while i < n:
        op = &ops[i]
        if op.code == KB_EXIT and op.cpu < m.n_cpus and 0 <= op.a < m.n_kinds:
            c = &m.cpus[op.cpu]
            move = &m.moves[c.tr.known + op.a]
            if move.number != 0 and c.cycles <= CLOCK_NEAR:
                end = i + 1
                # Equal EXITs from a state that they do not change: the next store to this CPU
                # would wait for the one before, so count them first and store once.
                if end < n and _head(&ops[end]) == _head(op) and move.after.known == c.tr.known:
                    last = min(n, i + RUN_MAX)
                    end += 1
                    while end < last and _head(&ops[end]) == _head(op):
                        end += 1
                _take(c, move, end - i)
                if cycles_out != NULL:
                    while i < end:
                        cycles_out[i] = move.cycles
                        i += 1
                i = end
                continue
        status[0] = _do(m, op, &results[i], &cycles)
        if status[0] != KB_OK:
            return i
        if cycles_out != NULL:
            cycles_out[i] = cycles
        i += 1
    return n


cdef int kb_repeat_exit(KbMachine* m, int64_t cpu, int64_t kind, int64_t n,
                      int64_t* done) noexcept nogil:
    # Brent's cycle search: the state is compared with one kept at a power of two. A bitmap's
    # bytes need no comparing: within an EXIT they are only overwritten with what the task's
    # state says, so after one whole round another changes nothing.
    cdef KbCpu* c = &m.cpus[cpu]
    cdef KbCpu kept = c[0]
    cdef KbTask kept_task = c.current[0]
    cdef KbCounters before, after
    cdef uint64_t cycles, round_cycles
    cdef int64_t at = 0, power = 1, length, rounds
    cdef size_t i
    cdef int status
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
                rounds = min(rounds, <int64_t>((CLOCK_LIMIT - c.cycles) // round_cycles))
            kb_counters(m, cpu, &after)
            for i in range(sizeof(KbCounters) // sizeof(uint64_t)):
                (<uint64_t*>&m.counted[cpu])[i] += rounds * (
                    (<uint64_t*>&after)[i] - (<uint64_t*>&before)[i])
            c.cycles += rounds * round_cycles
            done[0] += rounds * length
            power = 0               # what is left is less than a round, or more than the clock
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
            and a.tr.guest_loaded == b.tr.guest_loaded
            and a.map_seq == b.map_seq and a.map_max == b.map_max)


cdef bint _same_task(const KbTask* a, const KbTask* b) noexcept nogil:
    return (a.seq == b.seq and a.max == b.max and a.tif == b.tif and a.has_map == b.has_map
            and a.in_run == b.in_run and a.empty == b.empty)


cdef bint kb_port_checks(uint32_t tr_limit, uint16_t io_base, const uint8_t* tss_map,
                         const uint16_t* ports, const uint8_t* widths, uint8_t* allowed,
                         int64_t n) noexcept nogil:
    # Bit 0, 1 and 2 of a port's answer say that 1, 2 and 4 bytes may be accessed there: the width
    # itself is the mask. Block by block, so that the look-ups, which no vector instruction does,
    # are apart from what becomes vector instructions, and all of it stays in the first cache.
    cdef uint8_t* answers = NULL
    cdef uint32_t port
    cdef int64_t at = 0, part
    cdef bint good = True
    if n >= CHECKS_MANY:
        answers = <uint8_t*>PyMem_RawMalloc(KB_PORTS)
    if answers != NULL:
        for port in range(<uint32_t>KB_PORTS):
            answers[port] = (kb_port_check(tr_limit, io_base, tss_map, port, 1)
                             | kb_port_check(tr_limit, io_base, tss_map, port, 2) << 1
                             | kb_port_check(tr_limit, io_base, tss_map, port, 4) << 2)
    while good and at < n:
        part = min(n - at, <int64_t>CHECKS_BLOCK)
        good = _all_widths(&widths[at], part)
        if good and answers != NULL:
            _look_up(answers, &ports[at], &widths[at], &allowed[at], part)
        elif good:
            _check(tr_limit, io_base, tss_map, &ports[at], &widths[at], &allowed[at], part)
        at += part
    if answers != NULL:
        PyMem_RawFree(answers)
    return good


cdef bint _all_widths(const uint8_t* widths, int64_t n) noexcept nogil:
    cdef uint8_t odd = 0
    cdef int64_t i
    for i in range(n):
        odd |= (widths[i] != 1) & (widths[i] != 2) & (widths[i] != 4)
    return not odd


cdef void _check(uint32_t tr_limit, uint16_t io_base, const uint8_t* tss_map,
                 const uint16_t* ports, const uint8_t* widths, uint8_t* allowed,
                 int64_t n) noexcept nogil:
    cdef int64_t i
    for i in range(n):
        allowed[i] = kb_port_check(tr_limit, io_base, tss_map, ports[i], widths[i])


cdef void _look_up(const uint8_t* answers, const uint16_t* ports, const uint8_t* widths,
                   uint8_t* allowed, int64_t n) noexcept nogil:
    # Four loads, then four stores: a store could change `answers`, for all the compiler knows.
    cdef uint8_t a, b, c, d
    cdef int64_t i = 0
    while i + 4 <= n:
        a = answers[ports[i]]
        b = answers[ports[i + 1]]
        c = answers[ports[i + 2]]
        d = answers[ports[i + 3]]
        allowed[i] = a
        allowed[i + 1] = b
        allowed[i + 2] = c
        allowed[i + 3] = d
        i += 4
    while i < n:
        allowed[i] = answers[ports[i]]
        i += 1
    for i in range(n):
        allowed[i] = (allowed[i] & widths[i]) != 0


cdef int kb_api() noexcept nogil:
    return KB_API


cdef uint64_t kb_layout() noexcept nogil:
    return kb_layout_here()
