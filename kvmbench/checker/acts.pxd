# The steps of a policy and the events of docs/check.md, on an unpacked state.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from kvmbench._steps cimport (
    DO_ALLOC_MAP, DO_CLEAR_IOPL, DO_CLEAR_STALE, DO_CLEAR_TIF, DO_CLEAR_CHILD_TIF, DO_COPY_MAP,
    DO_DROP_CHILD_MAP, DO_DROP_MAP, DO_DUP_MAP, DO_EDIT_MAP, DO_INHERIT_IOPL, DO_INVALIDATE_BASE,
    DO_LOAD_IOPL, DO_LOAD_MAP, DO_LTR, DO_MARK_AVAILABLE, DO_MARK_STALE, DO_REFRESH, DO_RELOAD,
    DO_SET_CHILD_TIF, DO_SET_IOPL, DO_SET_TIF, DO_SHARE_MAP, DO_STOP, DO_SYNC_MAP, DO_UNSHARE_MAP,
    DO_VALIDATE_ALL, DO_VALIDATE_BASE, DO_WIPE_MAP, DO_WIPE_OWN,
    HOOK_EXEC, HOOK_EXIT_TO_USER, HOOK_FORK, HOOK_FORK_FAILED, HOOK_IOPERM, HOOK_IOPL, HOOK_SWITCH,
    HOOK_TASK_EXIT, HOOK_VCPU_PUT, HOOK_VM_EXIT, KbStep,
)
from kvmbench.checker.states cimport (
    CONTINUE, CPUS, DENIAL, ENTER, EXEC, FAULT, FINE, FORK, FORK_FAILS, GROUPS, HELD_NONE,
    HELD_TASK, HELD_ZERO, HOLDERS, IN_CALL, IN_RUN, IOPERM, IOPL, KVM_RUN, LABEL, LEAK, LEAVE,
    NOBODY, NULL_MAP, OLD, PORTS, READS_BEFORE, READS_FIRST, READS_ON, READS_PORT, RETURN,
    RETURNING, SCHEDULE, TASKS, TASK_EXIT, TO_USER, USER, VM_EXIT, Cpu, Effect, Event, Frame, More,
    Space, Task, Waste, World, cpu_word, max_of, represent,
)

# -- Steps of a policy ---------------------------------------------------------------------------

cdef inline uint8_t _conditions(const Frame* f) noexcept nogil:
    return (f.current.tif | f.next.tif << 1 | f.current.first << 2 | f.current.on << 3
            | (f.current.map == 0) << 4 | f.cpu.stale << 5 | f.sched << 6 | f.more.iopl << 7)


cdef inline void _copy(Cpu* cpu, int map, int words) noexcept nogil:
    cdef int mask = (1 << words) - 1
    cpu.map = (cpu.map & ~mask) | (map & mask)


cdef inline void _fail(Frame* f, uint8_t bad) noexcept nogil:
    if f.bad == FINE:
        f.bad = bad


cdef inline void _need_map(Frame* f, const Task* t) noexcept nogil:
    if t.tif and not t.has_map:
        _fail(f, NULL_MAP)


cdef inline void _ltr(Space* s, Frame* f, int step) noexcept nogil:
    if f.cpu.busy:
        _fail(f, FAULT)
        return
    if f.cpu.full and not s.waste[step].seen:
        s.waste[step] = Waste(state=<uint32_t>s.done, depth=s.depth, event=f.event, seen=1)
    f.cpu.full = 1
    f.cpu.busy = 1


cdef inline void _reload(Space* s, Frame* f, int step) noexcept nogil:
    f.cpu.busy = 0
    _ltr(s, f, step)
    f.cpu.stale = 0


cdef inline bint _holds(const World* w, int cpu, int task) noexcept nogil:
    """Return whether a TSS holds the map of a task, its own or its group's, by its number."""
    cdef int held = w.held[cpu] - HELD_TASK
    return held == task or (held >= 0 and w.more[task].group
                            and w.more[held].group == w.more[task].group)


cdef inline bint _leave_group(World* w, int task) noexcept nogil:
    """Let a task share its map no more; return whether it did. The others keep its number."""
    cdef int group = w.more[task].group
    cdef int i, other = NOBODY, n = 0
    if group == 0:
        return False
    w.more[task].group = 0
    for i in range(TASKS):
        if w.more[i].group == group:
            other = i
            n += 1
    for i in range(CPUS):
        if w.held[i] == HELD_TASK + task:
            w.held[i] = HELD_TASK + other
    if n == 1:
        w.more[other].group = 0
    return True


cdef inline void _drop_map_of(World* w, int task) noexcept nogil:
    cdef Task* t = &w.tasks[task]
    cdef int i
    if not _leave_group(w, task) and t.numbered:
        w.renumbered = 1
        for i in range(CPUS):
            if w.held[i] == HELD_TASK + task:
                w.held[i] = HELD_NONE
    t.has_map = t.map = t.edited = t.numbered = 0


cdef inline void _give_map(Frame* f, bint shared) noexcept nogil:
    """Give the child current's map, or a copy of it under a new number."""
    cdef World* w = f.w
    cdef int i
    cdef bint used[GROUPS + 1]
    if not f.current.has_map or (shared and f.more.group and f.more.group == f.next_more.group):
        return
    _drop_map_of(w, f.next_number)
    f.next.has_map = 1
    f.next.map = f.current.map
    f.next.edited = f.current.edited
    f.next.numbered = f.current.numbered if shared else 1
    if not shared:
        return
    if f.more.group == 0:
        memset(used, 0, sizeof(used))
        for i in range(TASKS):
            used[w.more[i].group] = True
        f.more.group = 1
        while used[f.more.group]:
            f.more.group += 1
    f.next_more.group = f.more.group


cdef inline void _renumber(Frame* f, bint numbered) noexcept nogil:
    """Give current's map a new sequence number, or 0: no TSS holds it any more."""
    cdef int i
    if f.current.numbered:
        f.w.renumbered = 1
        for i in range(CPUS):
            if _holds(f.w, i, f.current_number):
                f.w.held[i] = HELD_NONE
    f.current.numbered = numbered


cdef inline void _edit_map(Frame* f) noexcept nogil:
    cdef Task* t = f.current
    cdef int i
    t.before = max_of(t) + 1
    t.has_map = t.edited = 1
    t.map = (t.map & ~(1 << t.port)) | t.on << t.port
    _renumber(f, True)
    if f.more.group:
        for i in range(TASKS):          # edited in place: the map of them all
            if f.w.more[i].group == f.more.group:
                f.w.tasks[i].map = t.map
                f.w.tasks[i].edited = f.w.tasks[i].numbered = 1


cdef inline void _drop_map(Frame* f) noexcept nogil:
    _drop_map_of(f.w, f.current_number)


cdef inline void _sync_map(Frame* f) noexcept nogil:
    cdef uint8_t held = HELD_TASK + f.current_number if f.current.numbered else HELD_ZERO
    cdef bint holds
    cdef uint8_t words = max_of(f.current)
    _need_map(f, f.current)
    holds = f.w.held[f.event.cpu] == HELD_ZERO
    if f.current.numbered:
        holds = _holds(f.w, f.event.cpu, f.current_number)
    if not holds:
        _copy(f.cpu, f.current.map, max(f.cpu.map_max, words))
        f.cpu.map_max = words
        f.w.held[f.event.cpu] = held


cdef inline void _step_more(Frame* f, uint8_t action) noexcept nogil:
    """Take a step of fork or iopl."""
    if action == DO_UNSHARE_MAP:
        if _leave_group(f.w, f.current_number):
            f.current.numbered = 1      # and no TSS holds the copy yet
    elif action == DO_SET_IOPL or action == DO_CLEAR_IOPL:
        f.more.iopl = action == DO_SET_IOPL
    elif action == DO_SHARE_MAP or action == DO_DUP_MAP:
        _give_map(f, action == DO_SHARE_MAP)
    elif action == DO_SET_CHILD_TIF or action == DO_CLEAR_CHILD_TIF:
        f.next.tif = action == DO_SET_CHILD_TIF
    elif action == DO_DROP_CHILD_MAP:
        _drop_map_of(f.w, f.next_number)
    elif action == DO_INHERIT_IOPL:
        f.next_more.iopl = f.more.iopl


cdef inline void _step(Space* s, Frame* f, int number) noexcept nogil:
    """Take a step, whatever its condition."""
    cdef Task* t = f.current
    cdef uint8_t action = s.steps[number].action
    if action == DO_RELOAD:
        _reload(s, f, number)
    elif action == DO_MARK_STALE:
        f.cpu.stale = 1
    elif action == DO_REFRESH:
        if f.cpu.stale:
            _reload(s, f, number)
    elif action == DO_COPY_MAP:
        if f.next_number != NOBODY:
            _need_map(f, f.next)
            _copy(f.cpu, f.next.map, max(max_of(t) if t.tif else 0, max_of(f.next)))
    elif action == DO_MARK_AVAILABLE:
        f.cpu.busy = 0
    elif action == DO_LTR:
        _ltr(s, f, number)
    elif action == DO_CLEAR_STALE:
        f.cpu.stale = 0
    elif action == DO_VALIDATE_BASE:
        f.cpu.valid = 1
        f.cpu.all = 0
    elif action == DO_INVALIDATE_BASE:
        f.cpu.valid = f.cpu.all = 0
    elif action == DO_VALIDATE_ALL:
        f.cpu.valid = 0
        f.cpu.all = 1
    elif action == DO_LOAD_IOPL:
        f.cpu.iopl = f.next_more.iopl if f.switching else f.more.iopl
    elif f.current_number == NOBODY:
        return
    elif action == DO_WIPE_MAP or action == DO_WIPE_OWN:
        _copy(f.cpu, 0, max_of(t))
    elif action == DO_SYNC_MAP:
        _sync_map(f)
    elif action == DO_LOAD_MAP:
        _need_map(f, t)
        _copy(f.cpu, t.map, max(t.before - 1 if t.before else 0, max_of(t)))
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
    else:
        _step_more(f, action)


cdef inline bint _steps(Space* s, Frame* f, int begin, int end) noexcept nogil:
    """Take some steps of a hook; return whether `stop` ended it."""
    cdef const KbStep* step
    cdef uint8_t conditions = _conditions(f)
    cdef int i
    for i in range(begin, end):
        step = &s.steps[i]
        if (conditions & step.look) != step.want:
            continue
        s.taken[i] = 1
        if step.action == DO_STOP:
            return True
        _step(s, f, i)
        conditions = _conditions(f)
    return False


cdef inline void _hook(Space* s, Frame* f, int hook) noexcept nogil:
    _steps(s, f, s.hook[hook], s.hook[hook + 1])


# -- Events --------------------------------------------------------------------------------------

cdef inline void _vm_exit(Space* s, Frame* f) noexcept nogil:
    f.cpu.full = 0
    _hook(s, f, HOOK_VM_EXIT)


cdef inline void _interrupt(Space* s, Frame* f) noexcept nogil:
    """Take the interrupt that causes a switch while a guest is loaded, with vcpu_put()."""
    if f.cpu.loaded:
        _vm_exit(s, f)
        f.cpu.loaded = 0
        f.sched = 1
        _hook(s, f, HOOK_VCPU_PUT)
        f.sched = 0


cdef inline void _switch(Space* s, Frame* f) noexcept nogil:
    f.switching = 1
    _hook(s, f, HOOK_SWITCH)
    f.switching = 0
    if f.current_number != NOBODY:
        f.current.cpu = 0
        if f.current.place == USER:
            f.current.place = RETURNING
    f.w.task[f.event.cpu] = f.next_number
    if f.next_number != NOBODY:
        f.next.cpu = 1 + f.event.cpu


cdef inline void _end_task(Space* s, Frame* f) noexcept nogil:
    """Make the task a new one, whatever the policy left, and switch to none."""
    f.current.tif = f.current.owns = 0
    f.more.iopl = f.more.owns = 0
    _drop_map(f)
    f.current.place = RETURNING
    _switch(s, f)


cdef inline int first_place(const Space* s, int hook) noexcept nogil:
    """Return the place before entry 0 of a hook that may be preempted between its entries."""
    return (IN_CALL + (s.n_entries[HOOK_IOPERM] if hook != HOOK_IOPERM else 0)
            + (s.n_entries[HOOK_VCPU_PUT] if hook == HOOK_TASK_EXIT else 0))


cdef inline void _entry(Space* s, Frame* f, int hook, int entry) noexcept nogil:
    """Take a top-level entry of ioperm, vcpu_put or task_exit; a preemption may follow it."""
    cdef Task* t = f.current
    cdef bint stopped = entry < s.n_entries[hook] and _steps(
        s, f, s.entry[hook][entry], s.entry[hook][entry + 1])
    cdef uint8_t reads = 0
    if not stopped and entry + 1 < s.n_entries[hook]:
        t.place = first_place(s, hook) + entry + 1
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


cdef inline void _continue(Space* s, Frame* f) noexcept nogil:
    """Take the entry that the task stands before."""
    cdef int place = f.current.place
    cdef int hook = HOOK_TASK_EXIT
    if place < first_place(s, HOOK_VCPU_PUT):
        hook = HOOK_IOPERM
    elif place < first_place(s, HOOK_TASK_EXIT):
        hook = HOOK_VCPU_PUT
    _entry(s, f, hook, place - first_place(s, hook))


cdef inline uint8_t _port_check(const Space* s, const Cpu* cpu, const Task* t, const More* more,
                                int* port) noexcept nogil:
    """Compare the hardware's answer with the ports that the task owns, port by port."""
    cdef int allowed = cpu.map if cpu.full and cpu.valid else 0
    cdef int owned = t.owns
    cdef int i
    if cpu.iopl or (cpu.full and cpu.all):
        allowed = (1 << PORTS) - 1
    if more.owns:
        owned = (1 << PORTS) - 1
    for i in range(s.n_ports):
        if (allowed ^ owned) >> i & 1:
            port[0] = i
            return LEAK if allowed >> i & 1 else DENIAL
    return FINE


cdef inline void _call(Space* s, Frame* f) noexcept nogil:
    """Do a system call that is not preempted: fork, iopl or exec."""
    cdef Task* t = f.current
    if f.event.code == IOPL:
        t.on = f.event.arg
        _hook(s, f, HOOK_IOPL)
        t.on = 0
        f.more.owns = f.event.arg
    elif f.event.code == EXEC:
        _hook(s, f, HOOK_EXEC)
        f.more.owns = 0
    else:
        _hook(s, f, HOOK_FORK)
        if f.event.code == FORK:
            f.next.owns = t.owns
            f.next_more.owns = f.more.owns
        else:
            _hook(s, f, HOOK_FORK_FAILED)
            f.next.tif = f.next_more.iopl = 0
            _drop_map_of(f.w, f.next_number)
    t.place = RETURNING


cdef inline uint8_t apply(Space* s, World* w, Event event, int* port) noexcept nogil:
    """Let an enabled event happen; return its violation, if any."""
    cdef Frame f
    cdef Task idle
    cdef More idle_more
    memset(&idle, 0, sizeof(Task))
    memset(&idle_more, 0, sizeof(More))
    f.w = w
    f.cpu = &w.cpus[event.cpu]
    f.current_number = w.task[event.cpu]
    f.next_number = NOBODY
    if event.code == SCHEDULE or event.code == FORK or event.code == FORK_FAILS:
        f.next_number = event.arg
    f.current = &w.tasks[f.current_number] if f.current_number != NOBODY else &idle
    f.next = &w.tasks[f.next_number] if f.next_number != NOBODY else &idle
    f.more = &w.more[f.current_number] if f.current_number != NOBODY else &idle_more
    f.next_more = &w.more[f.next_number] if f.next_number != NOBODY else &idle_more
    f.event = event
    f.sched = f.switching = f.bad = 0
    if event.code == SCHEDULE:
        _interrupt(s, &f)
        _switch(s, &f)
    elif event.code == TO_USER:
        _hook(s, &f, HOOK_EXIT_TO_USER)
        f.current.place = USER
        if not f.bad:
            return _port_check(s, f.cpu, f.current, f.more, port)
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
    elif event.code > TASK_EXIT:
        _call(s, &f)
    else:  # TASK_EXIT
        _interrupt(s, &f)
        if s.exit_preempts and s.n_entries[HOOK_TASK_EXIT]:
            f.current.owns = f.more.owns = 0    # it does not come back to user mode
            f.current.place = first_place(s, HOOK_TASK_EXIT)
        else:
            _hook(s, &f, HOOK_TASK_EXIT)
            _end_task(s, &f)
    return f.bad


# An event's effect depends on its CPU, its task and, in a switch, the map of the next one. Of
# these there are few, so that almost every effect is one that the worker remembers; with fork or
# iopl other tasks matter too, and every event is taken step by step.

cdef inline uint64_t _key(const World* w, Event event) noexcept nogil:
    """Return the event and each input of its effect, without names; never 0."""
    cdef uint8_t current = w.task[event.cpu]
    cdef uint8_t held = w.held[event.cpu]
    cdef uint64_t key = 1 << 3 | (current == NOBODY) << 2
    cdef uint32_t task
    cdef uint16_t cpu
    memcpy(&cpu, &w.cpus[event.cpu], sizeof(Cpu))
    key |= held if held < HELD_TASK else HELD_TASK + (held != HELD_TASK + current)
    key = key << 4 | event.code
    if event.code == SCHEDULE:                # of the next task: from `tif` to `edited`
        task = 0
        if event.arg != NOBODY:
            memcpy(&task, &w.tasks[event.arg], sizeof(Task))
        key = key << 9 | (task >> 5 & 255) << 1 | (event.arg != NOBODY)
    else:
        key = key << 9 | event.arg
    task = 0
    if current != NOBODY:
        memcpy(&task, &w.tasks[current], sizeof(Task))
    return key << 43 | <uint64_t>(task >> 5) << 16 | cpu


cdef inline uint8_t _note_effect(Space* s, const World* w, Event event, int* port,
                                 Effect* effect) noexcept nogil:
    """Take an event step by step and note its effect; return its violation, if any."""
    cdef World after = w[0]
    cdef uint8_t current = w.task[event.cpu]
    cdef uint8_t bad, held
    after.renumbered = 0
    bad = apply(s, &after, event, port)
    effect.renumbered = after.renumbered
    effect.cpu = cpu_word(s, &after, event.cpu, &held)
    if held >= HELD_TASK:
        held = HELD_TASK + (held != HELD_TASK + current)
    effect.held = held
    if current != NOBODY:
        memcpy(&effect.task, &after.tasks[current], sizeof(Task))
        effect.task = effect.task & ~<uint32_t>LABEL | (after.task[event.cpu] == current)
    return bad


cdef inline uint8_t follow(Space* s, const World* w, Event event, int* port,
                           uint64_t* state) noexcept nogil:
    """Pack the state after an event as `apply` and `pack` do; return the violation, if any."""
    cdef uint64_t key = _key(w, event)
    cdef Effect* effect = &s.effects[key * <uint64_t>0x9E3779B97F4A7C15 >> 50]
    cdef uint32_t tasks[TASKS]
    cdef uint16_t cpus[CPUS]
    cdef uint8_t current = w.task[event.cpu]
    cdef uint8_t bad
    cdef int i
    if effect.key != key:
        effect.key = 0
        bad = _note_effect(s, w, event, port, effect)
        if bad:
            return bad
        effect.key = key
    memcpy(tasks, w.tasks, sizeof(tasks))
    memcpy(cpus, w.cpus, sizeof(cpus))
    if effect.renumbered:
        for i in range(s.n_cpus):
            cpus[i] |= OLD * (tasks[current] >> 2 + i & 1)
    if effect.held <= HELD_TASK:              # another task's map is there no more
        for i in range(s.n_tasks):
            tasks[i] &= ~<uint32_t>(4 << event.cpu)
    cpus[event.cpu] = effect.cpu
    if current != NOBODY:
        tasks[current] = (effect.task & ~<uint32_t>LABEL | (1 + event.cpu) * (effect.task & 1)
                          | (0 if effect.renumbered else tasks[current] & HOLDERS)
                          | (effect.held == HELD_TASK) * 4 << event.cpu)
    if event.code == SCHEDULE and event.arg != NOBODY:
        tasks[event.arg] |= 1 + event.cpu
    represent(s, tasks, cpus, state)
    return FINE


cdef inline void _add(Event* events, int* n, int code, int cpu, int arg) noexcept nogil:
    events[n[0]] = Event(code=<uint8_t>code, cpu=<uint8_t>cpu, arg=<uint8_t>arg)
    n[0] += 1


cdef inline int _add_forks(const Space* s, const World* w, Event* events, int n,
                           int cpu) noexcept nogil:
    """Add a fork of each task that is as at the start and runs nowhere; of equal ones, one's."""
    cdef Task new_task
    cdef More new_more
    cdef int t
    memset(&new_task, 0, sizeof(Task))
    memset(&new_more, 0, sizeof(More))
    for t in range(s.n_tasks):
        if not (memcmp(&w.tasks[t], &new_task, sizeof(Task))
                or memcmp(&w.more[t], &new_more, sizeof(More))):
            _add(events, &n, FORK, cpu, t)
            _add(events, &n, FORK_FAILS, cpu, t)
            if s.symmetry:
                break
    return n


cdef inline int enabled(const Space* s, const World* w, Event* events) noexcept nogil:
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
                    twin |= not (memcmp(&w.tasks[i], &w.tasks[t], sizeof(Task))
                                 or memcmp(&w.more[i], &w.more[t], sizeof(More)))
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
            if s.forks:
                n = _add_forks(s, w, events, n, c)
            if s.iopls:
                for arg in range(2):
                    _add(events, &n, IOPL, c, arg)
                _add(events, &n, EXEC, c, 0)
        elif place == RETURNING:
            _add(events, &n, TO_USER, c, 0)
        else:
            _add(events, &n, VM_EXIT if w.cpus[c].loaded else ENTER, c, 0)
            _add(events, &n, LEAVE if w.cpus[c].loaded else RETURN, c, 0)
        _add(events, &n, TASK_EXIT, c, 0)
    return n
