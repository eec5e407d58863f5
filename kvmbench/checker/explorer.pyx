"""The states that a policy can reach, breadth first, in C: docs/check.md defines a state.

`verdict.check` runs it. A state is one to five 64-bit words (states.pxd;
the events are in acts.pxd). One array per thread holds the states that it found in the
order of their discovery, so that it is the queue too; a second one holds each state's
predecessor. A hash table finds known states: open addressing, one 64-bit slot per
state, which holds 32 bits of its hash and its number. A state's place in the table is the upper
bits of those 32, so that a table twice as large is filled from the old one in order.
"""
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from kvmbench._steps cimport HOOK_TASK_EXIT, HOOK_VCPU_PUT, KB_HOOKS, KbStep
from kvmbench.checker.acts cimport apply, enabled, first_place, follow
from kvmbench.checker.states cimport (
    ALL_SEEN, BATCH, BLOCK, CPUS, DENIAL, EVENTS_ROOM, FINE, FORK, FORK_FAILS, FOR_STATES,
    FOR_TABLE, FOUND_BAD, HELD_TASK, HELD_ZERO, IN_CALL, IOPERM, IOPL, LEAK, MEMORY_LIMIT, NOBODY,
    NOT, NO_MEMORY, PORTS, PREFETCH, READS_BEFORE, READS_FIRST, READS_ON, READS_PORT,
    RUNNING, SCHEDULE, STATES_LIMIT, STEPS_ROOM, TASKS, WORDS, Cpu, Event, Space, Store, Task,
    Team, Waste, World, kb_copy, kb_drop_barrier, kb_fetch_add, kb_fill, kb_load, kb_make_barrier,
    kb_raise, kb_raised, kb_same, kb_use_huge_pages, kb_wait, max_of, pack, unpack,
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
STATES_MAX = 2**32 - 2            # a state's number has 32 bits, and a slot 1 + that
cdef uint64_t NUMBERS = STATES_MAX

# -- Exploring -----------------------------------------------------------------------------------

cdef inline uint32_t _hash(const uint64_t* state, int words) noexcept nogil:
    cdef uint64_t h = 0
    cdef int i
    for i in range(words):
        h = (h ^ state[i]) * <uint64_t>0x9E3779B97F4A7C15
        h ^= h >> 29
    h *= <uint64_t>0xBF58476D1CE4E5B9
    return <uint32_t>(h >> 32)


cdef inline const uint64_t* _state(const Space* s, uint64_t number) noexcept nogil:
    return &s.stores[number & s.second].states[(number >> s.second) * s.words]


cdef uint64_t _total(const Team* t) noexcept nogil:
    """Return how many states there are."""
    return t.stores[0].n + t.stores[1].n


cdef bint _afford(Team* t, uint64_t more) noexcept nogil:
    if t.memory + more > t.max_memory:
        t.ended = MEMORY_LIMIT
        return False
    return True


cdef bint _grow_table(Team* t) noexcept nogil:
    """Make a table twice as large; `_refill` puts the old one's slots there."""
    cdef int bits = t.workers[0].bits + 1
    cdef int i
    cdef uint64_t* table
    if not _afford(t, <uint64_t>8 << bits):
        return False
    table = <uint64_t*>PyMem_RawCalloc(<size_t>1 << bits, 8)
    if table == NULL:
        t.ended = NO_MEMORY
        return False
    kb_use_huge_pages(table, <size_t>8 << bits)
    t.old = t.workers[0].table
    t.memory += <uint64_t>4 << bits
    for i in range(2):
        t.workers[i].table, t.workers[i].bits = table, bits
    return True


cdef bint _grow_store(Team* t, Store* store) noexcept nogil:
    cdef int words = t.workers[0].words
    cdef uint64_t room = store.room + (store.room >> 1)
    cdef uint64_t more = (room - store.room) * (8 * words + 4)
    cdef void* states
    cdef void* parents
    if not _afford(t, more):
        return False
    states = PyMem_RawRealloc(store.states, room * 8 * words)
    if states != NULL:
        store.states = <uint64_t*>states
        kb_use_huge_pages(states, room * 8 * words)
        parents = PyMem_RawRealloc(store.parents, room * 4)
        if parents != NULL:
            store.parents = <uint32_t*>parents
            t.memory += more
            store.room = room
            return True
    t.ended = NO_MEMORY
    return False


cdef inline uint64_t _first_slot(const Space* s, uint32_t hash) noexcept nogil:
    return (<uint64_t>hash << 32) >> (64 - s.bits)


cdef inline uint64_t _find(const Space* s, uint64_t* slot, const uint64_t* state, uint32_t hash,
                           bint compare) noexcept nogil:
    """Go from a slot on to that of a state, or to a free one; return its content, loaded once.

    Loaded again, it may be another state's. Without `compare`, go to the first slot that may be
    the state's: none before it ever will.
    """
    cdef uint64_t mask = (<uint64_t>1 << s.bits) - 1
    cdef uint64_t entry = kb_load(&s.table[slot[0]])
    while entry:
        if entry >> 32 == hash:
            if not compare or kb_same(_state(s, <uint32_t>entry - 1), state, s.words):
                break
        slot[0] = (slot[0] + 1) & mask
        entry = kb_load(&s.table[slot[0]])
    return entry


cdef void _look_up(Space* s) noexcept nogil:
    """Look the rest of the batch up in order and append its new states, as long as there is room.

    Each cache line was asked for one pass before it is read: the table's when the successor was
    made, the known state's in a first pass here.
    """
    cdef Store* store = &s.stores[s.number]
    cdef uint64_t n = store.n     # the other worker reads this cache line at each look-up
    cdef uint64_t entry, number
    cdef int i
    for i in range(s.looked_up, s.n_batch):
        s.batch_slot[i] = _first_slot(s, s.batch_hash[i])
        entry = _find(s, &s.batch_slot[i], s.batch[i], s.batch_hash[i], False)
        if entry:
            PREFETCH(_state(s, <uint32_t>entry - 1))
    while s.looked_up < s.n_batch:
        i = s.looked_up
        if _find(s, &s.batch_slot[i], s.batch[i], s.batch_hash[i], True) == 0:
            if n >= store.most:
                s.waits = FOR_STATES
                break
            number = n << s.second | s.number
            kb_copy(&store.states[n * s.words], s.batch[i], s.words)
            store.parents[n] = s.batch_from[i]
            if not kb_fill(&s.table[s.batch_slot[i]],
                           <uint64_t>s.batch_hash[i] << 32 | (number + 1)):
                continue                # the other worker was faster, perhaps with this state
            n += 1
            if n == store.slots:
                s.looked_up += 1
                s.waits = FOR_TABLE
                break
        s.looked_up += 1
    store.n = n
    if not s.waits:
        s.n_batch = s.looked_up = 0


cdef void _expand(Space* s) noexcept nogil:
    """Put the successors of the state `done` into the batch."""
    cdef World w
    cdef World after
    cdef Event events[EVENTS_ROOM]
    cdef Event event
    cdef int n, i, k, port
    cdef uint8_t bad
    memset(&w, 0, sizeof(World))
    unpack(s, _state(s, s.done), &w)
    n = enabled(s, &w, events)
    for i in range(n):
        event = events[i]
        k = s.n_batch
        if s.more:
            after = w
            bad = apply(s, &after, event, &port)
            pack(s, &after, s.batch[k])
        else:
            bad = follow(s, &w, event, &port, s.batch[k])
        s.transitions += 1
        if bad:
            s.bad = bad
            s.bad_from = <uint32_t>s.done
            s.bad_event = event
            return
        s.batch_from[k] = <uint32_t>s.done
        s.batch_hash[k] = _hash(s.batch[k], s.words)
        PREFETCH(&s.table[_first_slot(s, s.batch_hash[k])])
        s.n_batch = k + 1


# -- Workers -------------------------------------------------------------------------------------
# One or two, each a thread. They search in rounds: each takes blocks of the level's states, from
# its store first, and looks their successors up. The table is shared, without a lock: a worker
# writes a state to its own store, which others do not read there yet, and then fills the free
# slot. If the other one has just filled it, it looks again. Between rounds one worker alone
# makes room, since a larger table or store may have another address, and begins the next level.

cdef bint _take_block(Space* s) noexcept nogil:
    """Take the level's next states; return whether there were any."""
    cdef Store* store
    cdef uint64_t begin
    cdef int k, number
    for k in range(1 + s.second):
        number = s.number ^ k
        store = &s.stores[number]
        begin = kb_fetch_add(&store.cursor, BLOCK)
        if begin < store.end:
            s.done = begin << s.second | number
            s.block_end = min(begin + BLOCK, store.end) << s.second | number
            return True
    return False


cdef void _search(Team* t, Space* s) noexcept nogil:
    """Search until the level ends, the worker has no room, or the other one says to pause."""
    s.waits = NOT
    while not kb_raised(&t.pause):
        # A batch ends with its level, so that all states of the next one are known then.
        while s.n_batch <= s.batch_most and (s.done < s.block_end or _take_block(s)):
            _expand(s)
            if s.bad:
                kb_raise(&t.pause)
                return
            s.done += 1 + s.second
        if s.n_batch == 0:
            return
        _look_up(s)
        if s.waits:
            kb_raise(&t.pause)


cdef void _make_room(Team* t) noexcept nogil:
    """Give the workers what they wait for, or end the search at a limit."""
    cdef Space* s
    cdef Store* store
    cdef int number, second = t.workers[0].second
    for number in range(2):
        s, store = &t.workers[number], &t.stores[number]
        if s.waits == FOR_STATES:
            if _total(t) >= t.max_states or store.n >= NUMBERS >> second:
                t.ended = STATES_LIMIT
            elif store.n == store.room:
                _grow_store(t, store)
        elif s.waits == FOR_TABLE and _total(t) >> (s.bits - 2) >= <uint64_t>(3 - second):
            _grow_table(t)
        if t.ended:
            return


cdef void _share_room(Team* t) noexcept nogil:
    """Divide the states and the slots that are left among the workers."""
    cdef Space* s = &t.workers[0]
    cdef Store* store
    cdef uint64_t total = _total(t)
    cdef uint64_t states = t.max_states - min(total, t.max_states)
    cdef uint64_t slots = (<uint64_t>3 << (s.bits - 2)) - total
    cdef int number
    for number in range(1 + s.second):
        store = &t.stores[number]
        store.most = min(store.room, store.n + ((states + s.second) >> s.second))
        store.most = min(store.most, NUMBERS >> s.second)
        store.slots = store.n + ((slots + s.second) >> s.second)


cdef void _begin_level(Team* t) noexcept nogil:
    cdef int number
    if t.stores[0].level_end == t.stores[0].n and t.stores[1].level_end == t.stores[1].n:
        t.ended = ALL_SEEN
        return
    for number in range(2):
        t.workers[number].depth += 1
        t.stores[number].level_end = t.stores[number].n


cdef void _begin_round(Team* t, const uint64_t* goals) noexcept nogil:
    """End the search or prepare a round of it; stop at `goals`, states of the stores."""
    cdef Store* store
    cdef int number
    cdef bint level_done = True, goals_met = True
    if t.workers[0].bad or t.workers[1].bad:
        t.ended = FOUND_BAD
    elif t.pause:
        _make_room(t)
    else:
        for number in range(2):
            store = &t.stores[number]
            store.cursor = store.end
            level_done &= store.end == store.level_end
        if level_done:
            _begin_level(t)
        for number in range(2):
            store = &t.stores[number]
            store.end = min(store.level_end, max(store.end, goals[number]))
            goals_met &= store.cursor == store.end
    if not t.ended:
        _share_room(t)
    t.stop = t.ended or (goals_met and not t.pause)
    t.pause = 0


cdef void _refill(Team* t, int number) noexcept nogil:
    """Put a worker's part of the old table's slots into the new one.

    All workers do, since most of the time goes into the first touch of the new pages.
    """
    cdef const Space* s = &t.workers[0]
    cdef uint64_t mask = (<uint64_t>1 << s.bits) - 1
    cdef uint64_t part = <uint64_t>1 << (s.bits - 1 - s.second)
    cdef uint64_t i, at
    for i in range(number * part, (number + 1) * part):
        if t.old[i]:
            at = _first_slot(s, t.old[i] >> 32)
            while kb_load(&s.table[at]) or not kb_fill(&s.table[at], t.old[i]):
                at = (at + 1) & mask


cdef inline void _meet(Team* t) noexcept nogil:
    if t.workers[0].second:
        kb_wait(&t.barrier)


cdef void _work(Team* t, int number, const uint64_t* goals) noexcept nogil:
    """Do a worker's part until the search ends or meets its goals."""
    while not t.stop:
        _search(t, &t.workers[number])
        _meet(t)
        if number == 0:
            _begin_round(t, goals)
        _meet(t)
        if t.old != NULL:
            _refill(t, number)
            _meet(t)
            if number == 0:             # the other one looks at `old` after the next meeting
                PyMem_RawFree(t.old)
                t.old = NULL


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
    cdef Team* team
    cdef Space* s                 # the first worker's
    cdef readonly object policy
    cdef bint running             # explore() is under way, without the GIL

    def __cinit__(self):
        self.team = <Team*>PyMem_RawCalloc(1, sizeof(Team))
        if self.team == NULL or kb_make_barrier(&self.team.barrier):
            PyMem_RawFree(self.team)
            self.team = NULL
            raise MemoryError("no memory for an explorer")
        self.s = &self.team.workers[0]

    def __init__(self, policy, cpus, tasks, ports, *, symmetry=True, whole_calls=False,
                 events=(), jobs=1, max_states=STATES_MAX, max_memory=2**63):
        cdef Team* t = self.team
        cdef Space* s = self.s
        cdef Store* store
        cdef int number
        if s.table != NULL:
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
        t.max_states, t.max_memory = max_states, max_memory
        self._compile()
        self._orders()
        s.second, s.stores, s.bits = jobs - 1, t.stores, 13
        s.table = <uint64_t*>PyMem_RawCalloc(<size_t>1 << s.bits, 8)
        t.memory = <uint64_t>8 << s.bits
        for number in range(jobs):
            store = &t.stores[number]
            store.room = 1 << 12
            store.states = <uint64_t*>PyMem_RawMalloc(store.room * 8 * s.words)
            store.parents = <uint32_t*>PyMem_RawMalloc(store.room * 4)
            if store.states == NULL or store.parents == NULL or s.table == NULL:
                raise MemoryError("no memory for states")
            t.memory += store.room * (8 * s.words + 4)
        self._start()
        t.workers[1] = s[0]
        t.workers[1].number = 1
        _share_room(t)

    def __dealloc__(self):
        cdef int number
        if self.team != NULL:
            PyMem_RawFree(self.s.table)
            for number in range(2):
                PyMem_RawFree(self.team.stores[number].states)
                PyMem_RawFree(self.team.stores[number].parents)
            kb_drop_barrier(&self.team.barrier)
            PyMem_RawFree(self.team)

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
        pack(s, &w, s.stores.states)
        s.stores.parents[0] = 0
        s.stores.n = s.stores.level_end = 1
        cdef uint32_t hash = _hash(s.stores.states, s.words)
        s.table[_first_slot(s, hash)] = <uint64_t>hash << 32 | 1

    def explore(self, states):
        """Find the successors of up to `states` states more; return the search's end.

        None while it goes on; "all" states are seen, "bad" was found, or the limit "max_states",
        "max_memory" or "memory" (none is left) was met. The GIL is released.
        """
        cdef Team* t = self.team
        cdef uint64_t goals[2]
        cdef int number
        self._claim()
        self.running = True
        t.stop = t.ended != RUNNING
        for number in range(2):
            goals[number] = t.stores[number].end + (<uint64_t>states >> self.s.second)
        second = None
        if self.s.second:
            second = Thread(target=self._second, args=(goals,), name="kvmbench check")
            second.start()
        with nogil:
            _work(t, 0, goals)
        if second is not None:
            second.join()
            self._merge()
        self.running = False
        return (None, "all", "bad", "max_states", "max_memory", "memory")[t.ended]

    def _second(self, goals):
        """Do the second worker's part; explore() starts a thread for it."""
        cdef uint64_t both[2]
        both[0], both[1] = goals
        with nogil:
            _work(self.team, 1, both)

    cdef _merge(self):
        """Let the first worker have the second one's findings too."""
        cdef Space* first = self.s
        cdef Space* second = &self.team.workers[1]
        cdef Waste* waste
        cdef int i
        first.transitions += second.transitions
        second.transitions = 0
        if second.bad and (not first.bad or second.bad_from < first.bad_from):
            first.bad, first.bad_from = second.bad, second.bad_from
            first.bad_event = second.bad_event
        for i in range(STEPS_ROOM):
            waste = &second.waste[i]
            first.taken[i] |= second.taken[i]
            if waste.seen and (not first.waste[i].seen or waste.depth < first.waste[i].depth):
                first.waste[i] = waste[0]

    cdef _claim(self):
        if self.running:
            raise RuntimeError("this Explorer is searching in another thread")

    @property
    def states(self):
        return min(_total(self.team), self.team.max_states)

    @property
    def queued(self):
        cdef Store* stores = self.team.stores
        return (_total(self.team) - min(stores[0].cursor, stores[0].end)
                - min(stores[1].cursor, stores[1].end))

    @property
    def transitions(self):
        return self.s.transitions

    @property
    def depth(self):
        """Events of the longest of the shortest histories so far."""
        return self.s.depth + (self.team.ended == FOUND_BAD)

    @property
    def memory(self):
        """Bytes of states, parents and table."""
        return self.team.memory

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
        if self.team.ended != FOUND_BAD:
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
            number = s.stores[number & s.second].parents[number >> s.second]
        memset(&w, 0, sizeof(World))
        unpack(s, _state(s, last), &w)
        last_bad = apply(s, &w, last_event, &port)
        pack(s, &w, goal)
        unpack(s, s.stores.states, &w)
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
                            and kb_same(packed, goal, s.words)):
                        break
                elif not bad and kb_same(packed, _state(s, number), s.words):
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
