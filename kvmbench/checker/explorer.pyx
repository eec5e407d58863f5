"""The states that a policy can reach, breadth first, in C: docs/check.md defines a state.

`verdict.check` runs it. A state is two to five 64-bit words (states.pxd;
the events are in acts.pxd). One array holds all states in the
order of their discovery, so that it is the queue too; a second one holds each state's
predecessor. A hash table finds known states: open addressing, one 64-bit slot per
state, which holds 32 bits of its hash and its number. A state's place in the table is the upper
bits of those 32, so that a table twice as large is filled from the old one in order.
"""
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from kvmbench._steps cimport HOOK_TASK_EXIT, HOOK_VCPU_PUT, KB_HOOKS, KbStep
from kvmbench.checker.acts cimport apply, enabled, first_place
from kvmbench.checker.states cimport (
    ALL_SEEN, BATCH, BLOCK, BUFFER, CPUS, DENIAL, EVENTS_ROOM, FINE, FORK, FORK_FAILS, FOUND_BAD,
    HELD_TASK, HELD_ZERO, IN_CALL, IOPERM, IOPL, LEAK, MEMORY_LIMIT, NOBODY, NO_MEMORY, PORTS,
    PREFETCH, READS_BEFORE, READS_FIRST, READS_ON, READS_PORT, RUNNING, SCHEDULE, STATES_LIMIT,
    STEPS_ROOM, TASKS, WORDS, Buffer, Cpu, Event, Space, Task, Team, Worker, World, kb_drop_barrier,
    kb_fetch_add, kb_make_barrier, kb_wait, max_of, pack, unpack,
)

from itertools import permutations
from threading import Thread

from kvmbench.errors import unknown_name
from kvmbench.model import HOOKS, HOOK_STEPS_MAX

__all__ = ["BAD", "CPUS_MAX", "EVENTS", "EXTRA_EVENTS", "PORTS_MAX", "STATES_MAX", "TASKS_MAX",
           "Explorer", "syncs_first"]

EVENTS = ("schedule", "to_user", "kvm_run", "enter", "vm_exit", "leave", "return", "ioperm",
          "continue", "task_exit", "fork", "fork_fails", "iopl", "exec")
BAD = (None, "leak", "denial", "fault", "null")
EXTRA_EVENTS = ("fork", "iopl", "exit-preemption")
CPUS_MAX, TASKS_MAX, PORTS_MAX = CPUS, TASKS, PORTS
STATES_MAX = 2**32 - 2            # a state's number has 32 bits

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
    unpack(s, &s.states[s.done * s.words], &w)
    n = enabled(s, &w, events)
    for i in range(n):
        event = events[i]
        after = w
        bad = apply(s, &after, event, &port)
        s.transitions += 1
        if bad:
            s.bad = bad
            s.bad_from = <uint32_t>s.done
            s.bad_event = event
            s.ended = FOUND_BAD
            return
        k = s.n_batch
        pack(s, &after, s.batch[k])
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
        while s.done < s.level_end and s.done < end and s.n_batch <= s.batch_most:
            _expand(s)
            if s.ended:
                return
            s.done += 1
        _look_up(s)


# -- Two cores -----------------------------------------------------------------------------------
# Each of two workers has half of the table, by the lowest bit of a hash, and a Space with the
# fields that its part of a search changes. They take turns of two phases: in the first they find
# the successors of the level's next states, in the second each looks up those of its half.

cdef void _expand_blocks(Team* t, int number) noexcept nogil:
    """Find successors until the level ends or the room for them does."""
    cdef Worker* w = &t.workers[number]
    cdef Space* s = &w.space
    cdef uint64_t begin, end
    cdef Buffer* buffer
    cdef int i
    w.left[0].n = w.left[1].n = 0
    while (w.left[0].n <= BUFFER - BLOCK * EVENTS_ROOM
           and w.left[1].n <= BUFFER - BLOCK * EVENTS_ROOM and not s.ended):
        begin = kb_fetch_add(&t.cursor, BLOCK)
        if begin >= t.end:
            return
        end = min(begin + BLOCK, t.end)
        s.done = begin
        while s.done < end and not s.ended:
            s.n_batch = 0
            _expand(s)
            for i in range(s.n_batch):
                buffer = &w.left[s.batch_hash[i] & 1]
                memcpy(&buffer.states[<uint64_t>buffer.n * s.words], s.batch[i], 8 * s.words)
                buffer.froms[buffer.n] = s.batch_from[i]
                buffer.hashes[buffer.n] = s.batch_hash[i]
                buffer.n += 1
            s.done += 1


cdef void _insert(Team* t, int number) noexcept nogil:
    """Look up the successors of a worker's half, and append the new ones."""
    cdef Space* s = &t.workers[number].space
    cdef const Buffer* buffer
    cdef const uint64_t* state
    cdef uint64_t at, new
    cdef int from_worker, i, k, end
    for from_worker in range(2):
        buffer = &t.workers[from_worker].left[number]
        i = 0
        while i < buffer.n:
            end = min(i + BATCH, buffer.n)
            for k in range(i, end):
                PREFETCH(&s.table[(<uint64_t>buffer.hashes[k] << 32) >> (64 - s.bits)])
            for k in range(i, end):
                at = _find(s, &buffer.states[<uint64_t>k * s.words], buffer.hashes[k], False)
                if s.table[at]:
                    PREFETCH(_known(s, at))
            for k in range(i, end):
                state = &buffer.states[<uint64_t>k * s.words]
                at = _find(s, state, buffer.hashes[k], True)
                if s.table[at]:
                    continue
                new = kb_fetch_add(&t.n, 1)
                if new >= s.max_states:
                    s.ended = STATES_LIMIT
                    return
                memcpy(&s.states[new * s.words], state, 8 * s.words)
                s.parents[new] = buffer.froms[k]
                s.table[at] = <uint64_t>buffer.hashes[k] << 32 | (new + 1)
                s.n += 1                # in this half
            i = end


cdef void _prepare(Space* s, Team* t) noexcept nogil:
    """Make room for every successor that was found, and for its slot: no worker waits for it."""
    cdef uint64_t found = 0, half
    cdef Worker* w
    cdef int number
    s.n = t.n
    for number in range(2):
        half = t.workers[0].left[number].n + t.workers[1].left[number].n
        found += half
        w = &t.workers[number]
        w.space.memory, w.space.max_memory = s.memory, s.max_memory
        while (w.space.n + half) >> (w.space.bits - 2) >= 3 and not s.ended:
            if not _grow_table(&w.space):
                s.ended = w.space.ended
            s.memory = w.space.memory
    while s.n + found > s.room and not s.ended:
        _grow_states(s)
    for number in range(2):
        w = &t.workers[number]
        w.space.states, w.space.parents = s.states, s.parents


cdef void _conclude(Space* s, Team* t, uint64_t goal) noexcept nogil:
    """Take the workers' findings over; go on to the next level, and end the search at its end."""
    cdef Space* found
    cdef int number
    for number in range(2):
        found = &t.workers[number].space
        s.transitions += found.transitions
        found.transitions = 0
        if found.ended == FOUND_BAD:
            if s.ended != FOUND_BAD or found.bad_from < s.bad_from:
                s.bad, s.bad_from, s.bad_event = found.bad, found.bad_from, found.bad_event
            s.ended = FOUND_BAD
        elif found.ended and not s.ended:
            s.ended = found.ended
    s.n = min(t.n, s.max_states)
    s.done = min(t.cursor, t.end)
    t.cursor = s.done
    if not s.ended and s.done == s.level_end:
        if s.done == s.n:
            s.ended = ALL_SEEN
        else:
            s.depth += 1
            s.level_end = s.n
    t.end = s.level_end
    t.stop = s.ended or s.done >= goal


cdef void _work(Space* s, Team* t, int number, uint64_t goal) noexcept nogil:
    """Do a worker's part until the search ends or `goal` states are done."""
    cdef bint found
    while not t.stop:
        _expand_blocks(t, number)
        kb_wait(&t.barrier)
        # A violation ends the search before what was found with it is looked up.
        found = (t.workers[0].space.ended or t.workers[1].space.ended)
        if number == 0 and not found:
            _prepare(s, t)
        kb_wait(&t.barrier)
        if not found and not s.ended:
            _insert(t, number)
        kb_wait(&t.barrier)
        if number == 0:
            _conclude(s, t, goal)
        kb_wait(&t.barrier)


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
    `jobs`, 1 or 2 threads: with 2 a search finds the same states, and a violation of the same
    depth; `max_states`; `max_memory`, bytes of states, table and parents. Raises ValueError for a
    number out of range, MemoryError without room to begin. One thread at a time may use an
    Explorer: RuntimeError else.
    """
    cdef Space* s
    cdef readonly object policy
    cdef Team* team               # NULL for one thread
    cdef bint running             # explore() is under way, without the GIL

    def __cinit__(self):
        self.s = <Space*>PyMem_RawCalloc(1, sizeof(Space))
        if self.s == NULL:
            raise MemoryError("no memory for an explorer")

    def __init__(self, policy, cpus, tasks, ports, *, symmetry=True, whole_calls=False,
                 events=(), jobs=1, max_states=STATES_MAX, max_memory=2**63):
        cdef Space* s = self.s
        if s.states != NULL:
            raise TypeError("an Explorer is made once")
        sizes = (("cpus", cpus, CPUS), ("tasks", tasks, TASKS), ("ports", ports, PORTS),
                 ("jobs", jobs, 2), ("max_states", max_states, STATES_MAX),
                 ("max_memory", max_memory, 2**63))
        for name, value, top in sizes:
            if not 1 <= value <= top:
                raise ValueError(f"{name} is {value}, not in 1 to {top}")
        self.policy = policy
        s.n_cpus, s.n_tasks, s.n_ports = cpus, tasks, ports
        s.symmetry = symmetry
        s.whole = whole_calls
        for name in events:
            if name not in EXTRA_EVENTS:
                raise ValueError(unknown_name("event", name, EXTRA_EVENTS))
        s.exit_preempts = "exit-preemption" in events
        s.forks, s.iopls = "fork" in events, "iopl" in events
        # A level of 3 comes from this step alone, which a policy may have in any hook.
        s.more = s.forks or s.iopls or any(
            step.action == "set_iopl" for hook in HOOKS if hook not in self._left_out()
            for step in policy.steps(hook))
        s.batch_most = BATCH - (EVENTS_ROOM if s.more else CPUS * 24)
        # In units of 16 bits: two per task, one per CPU, a quarter more per task.
        s.words = (2 * s.n_tasks + s.n_cpus + (s.n_tasks + 3) // 4 * s.more + 3) // 4
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
        if jobs == 2:
            self._form_team()

    cdef _form_team(self):
        """Halve the table, which holds the first state alone, and make the workers' room."""
        cdef Space* s = self.s
        cdef Team* t
        cdef Worker* w
        cdef Buffer* buffer
        cdef uint32_t hash = _hash(s.states, s.words)
        cdef int number, half
        t = self.team = <Team*>PyMem_RawCalloc(1, sizeof(Team))
        if t == NULL or kb_make_barrier(&t.barrier):
            raise MemoryError("no memory for a second thread")
        t.n, t.end = s.n, s.level_end
        for number in range(2):
            w = &t.workers[number]
            w.space = s[0]
            w.space.n = hash & 1 == number
            w.space.table = <uint64_t*>PyMem_RawCalloc(<size_t>1 << s.bits, 8)
            for half in range(2):
                buffer = &w.left[half]
                buffer.states = <uint64_t*>PyMem_RawMalloc(<size_t>BUFFER * 8 * s.words)
                buffer.froms = <uint32_t*>PyMem_RawMalloc(<size_t>BUFFER * 4)
                buffer.hashes = <uint32_t*>PyMem_RawMalloc(<size_t>BUFFER * 4)
                if buffer.states == NULL or buffer.froms == NULL or buffer.hashes == NULL:
                    raise MemoryError("no memory for a second thread")
            if w.space.table == NULL:
                raise MemoryError("no memory for a second thread")
            s.memory += (<uint64_t>8 << s.bits) + 2 * <uint64_t>BUFFER * (8 * s.words + 8)
        w = &t.workers[hash & 1]
        w.space.table[_find(&w.space, s.states, hash, True)] = <uint64_t>hash << 32 | 1

    def __dealloc__(self):
        cdef int number, half
        if self.team != NULL:
            for number in range(2):
                PyMem_RawFree(self.team.workers[number].space.table)
                for half in range(2):
                    PyMem_RawFree(self.team.workers[number].left[half].states)
                    PyMem_RawFree(self.team.workers[number].left[half].froms)
                    PyMem_RawFree(self.team.workers[number].left[half].hashes)
            kb_drop_barrier(&self.team.barrier)
            PyMem_RawFree(self.team)
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
        pack(s, &w, s.states)
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
        if self.team != NULL:
            self._explore_together(n)
        else:
            with nogil:
                _explore(self.s, n)
        self.running = False
        return (None, "all", "bad", "max_states", "max_memory", "memory")[self.s.ended]

    cdef _explore_together(self, uint64_t states):
        cdef Space* s = self.s
        cdef Team* t = self.team
        cdef uint64_t goal = s.done + states
        cdef int i, number
        t.stop = s.ended != RUNNING
        second = Thread(target=self._second, args=(goal,), name="kvmbench check")
        second.start()
        with nogil:
            _work(s, t, 0, goal)
        second.join()
        for number in range(2):
            for i in range(STEPS_ROOM):
                s.taken[i] |= t.workers[number].space.taken[i]
                if t.workers[number].space.waste[i].seen and (
                        not s.waste[i].seen
                        or t.workers[number].space.waste[i].state < s.waste[i].state):
                    s.waste[i] = t.workers[number].space.waste[i]

    def _second(self, goal):
        """Do the second worker's part; explore() starts a thread for it."""
        cdef uint64_t n = goal
        with nogil:
            _work(self.s, self.team, 1, n)

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

    def _left_out(self):
        """Return the hooks of the events that are not explored."""
        left_out = set() if self.s.forks else {"fork", "fork_failed"}
        return left_out if self.s.iopls else left_out | {"iopl", "exec"}

    def never_taken(self):
        """Return (hook, index among its steps) of each step that no history so far takes.

        Without the steps that only events take that are not explored.
        """
        return [
            (hook, index) for i, (hook, index) in self._places()
            if not self.s.taken[<int>i] and hook not in self._left_out()
            and (self.s.iopls or ("iopl", True) not in self.policy.steps(hook)[index].when)
        ]

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
        unpack(s, &s.states[<uint64_t>last * s.words], &w)
        last_bad = apply(s, &w, last_event, &port)
        pack(s, &w, goal)
        unpack(s, s.states, &w)
        history = [(None, self._readable(&w))]
        for known in reversed(chain):
            if known is not None:
                number = known
            s.symmetry = False          # every event, not one of each kind
            n = enabled(s, &w, events)
            s.symmetry = symmetry
            for i in range(n):
                after = w
                bad = apply(s, &after, events[i], &port)
                pack(s, &after, packed)
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
        elif event.code == FORK or event.code == FORK_FAILS:
            arg = event.arg
        elif event.code == IOPL:
            arg = 3 if event.arg else 0
        return EVENTS[event.code], event.cpu, arg

    cdef _readable(self, const World* w):
        """Return a state as {"cpus": [{...}], "tasks": [{...}]}; docs/check.md has the fields."""
        cdef int i
        cdef const Cpu* c
        cdef const Task* t
        cpus, tasks = [], []
        for i in range(self.s.n_cpus):
            c = &w.cpus[i]
            found = {
                "limit": "full" if c.full else "min", "stale": bool(c.stale),
                "busy": bool(c.busy), "base": "valid" if c.valid else "all" if c.all else "invalid",
                "guest": bool(c.loaded), "tss": _ports(c.map), "map_max": c.map_max,
                "map_of": self._owner(w, w.held[i]),
                "task": None if w.task[i] == NOBODY else w.task[i],
            }
            if self.s.iopls:
                found["iopl"] = 3 if c.iopl else 0
            cpus.append(found)
        for i in range(self.s.n_tasks):
            t = &w.tasks[i]
            found = {
                "place": self._place(t.place), "tif": bool(t.tif),
                "map": _ports(t.map) if t.has_map else None, "max": max_of(t),
                "owns": _ports(t.owns),
            }
            if self.s.iopls:
                found["iopl"] = 3 if w.more[i].iopl else 0
                found["owns_iopl"] = 3 if w.more[i].owns else 0
            if self.s.forks:
                found["shares"] = self._sharers(w, i)
            tasks.append(found)
        return {"cpus": cpus, "tasks": tasks}

    cdef _owner(self, const World* w, uint8_t held):
        """Return whose map a TSS holds by its number; of tasks that share it, the last."""
        if held < HELD_TASK:
            return "none" if held == HELD_ZERO else "old"
        return max((held - HELD_TASK,) + self._sharers(w, held - HELD_TASK))

    cdef _sharers(self, const World* w, int task):
        """Return the other tasks of a task's map."""
        cdef int i
        return tuple([i for i in range(self.s.n_tasks) if i != task and w.more[task].group
                      and w.more[i].group == w.more[task].group])

    cdef _place(self, uint8_t place):
        cdef int put = first_place(self.s, HOOK_VCPU_PUT)
        cdef int end = first_place(self.s, HOOK_TASK_EXIT)
        if place < IN_CALL:
            return ("returning", "user", "KVM_RUN")[place]
        if place < put:
            return f"ioperm+{place - IN_CALL}"
        return f"put+{place - put}" if place < end else f"exit+{place - end}"


def _ports(map):
    return tuple([port for port in range(PORTS) if map >> port & 1])


assert STEPS_ROOM == len(HOOKS) * HOOK_STEPS_MAX
