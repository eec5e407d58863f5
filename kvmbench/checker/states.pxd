# The states of the explorer: its records, and a state packed into one to five 64-bit words.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from kvmbench._steps cimport KB_HOOKS, KbStep

cdef enum:                        # sizes that a packed state has room for
    CPUS = 3
    TASKS = 6
    PORTS = 4
    WORDS = 5                     # 64-bit words, at most
    ORDERS = 6                    # of CPUS
    STEPS_ROOM = KB_HOOKS * 64    # of all hooks
    GROUPS = 3                    # of tasks that share a map
    BATCH = 1024                  # successors that are looked up together
    BLOCK = 64                    # states that a worker takes at a time
    EFFECTS = 1 << 14             # events whose effects a worker remembers
    EVENTS_ROOM = CPUS * 40       # enabled in a state: schedule 7, ioperm 8, fork 10, others 7

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
    FORK                          # arg = the child, here and below
    FORK_FAILS
    IOPL                          # arg = whether to level 3
    EXEC

cdef enum:
    NOBODY = 7
    HELD_ZERO = 0                 # the map in the TSS has sequence number 0
    HELD_NONE                     # a number that no task has any more
    HELD_TASK                     # HELD_TASK + t: that of task t's map
    HOLDERS = 7 << 2              # the bits of a task's word that name CPUs: `holders`,
    LABEL = 31                    # and `cpu` too
    OLD = 1 << 5                  # of a CPU's word

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

cdef enum Waits:                  # the reason why a worker ends its round before its level ends
    NOT = 0
    FOR_TABLE                     # its share of the free slots is used up
    FOR_STATES                    # a new state has no room

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
        map_max : 3,               /* words that the last sync copied */
        all : 1,                   /* io_bitmap_base points at the map of all ports */
        iopl : 1;                  /* the hardware's level in user mode is 3 */
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
    typedef struct {               /* 4 bits of a state, where fork or iopl is explored */
      uint8_t iopl : 1,            /* its level is 3 */
        owns : 1,                  /* its latest iopl() asked for that */
        group : 2;                 /* 1 to GROUPS where it shares its map: with that group */
    } More;
    static const uint8_t N_NAMINGS[4] = {1, 1, 2, 6};    /* of so many groups */
    static const uint8_t NAMINGS[6][4] = {               /* n groups: the first of them */
      {0, 1, 2, 3}, {0, 2, 1, 3}, {0, 1, 3, 2}, {0, 2, 3, 1}, {0, 3, 1, 2}, {0, 3, 2, 1}};
    #include <pthread.h>
    #include <sys/mman.h>
    /* Look-ups are at random addresses, and each of another page of 4 KiB misses the TLB. */
    static inline void kb_use_huge_pages(void *at, size_t bytes) {
    #ifdef MADV_HUGEPAGE
      uintptr_t begin = ((uintptr_t)at + 4095) & ~(uintptr_t)4095;
      uintptr_t end = ((uintptr_t)at + bytes) & ~(uintptr_t)4095;
      if (bytes >= 4 << 20)        /* less is in few pages, and of the heap */
        (void)madvise((void *)begin, end - begin, MADV_HUGEPAGE);
    #endif
    }
    #define kb_fetch_add(at, n) __atomic_fetch_add(at, n, __ATOMIC_RELAXED)
    /* A slot's state is written before the slot is, and read after it. */
    #define kb_load(at) __atomic_load_n(at, __ATOMIC_ACQUIRE)
    static inline int kb_fill(uint64_t *slot, uint64_t entry) {
      uint64_t is_free = 0;
      return __atomic_compare_exchange_n(slot, &is_free, entry, 0, __ATOMIC_ACQ_REL,
                                         __ATOMIC_ACQUIRE);
    }
    #define kb_raise(flag) __atomic_store_n(flag, 1, __ATOMIC_RELAXED)
    #define kb_raised(flag) __atomic_load_n(flag, __ATOMIC_RELAXED)
    typedef struct {               /* of two threads; not every system has pthread_barrier_t */
      pthread_mutex_t lock;
      pthread_cond_t turned;
      int waiting;
      unsigned turn;
    } KbBarrier;
    static inline int kb_make_barrier(KbBarrier *b) {
      return pthread_mutex_init(&b->lock, NULL) || pthread_cond_init(&b->turned, NULL);
    }
    static inline void kb_drop_barrier(KbBarrier *b) {
      pthread_cond_destroy(&b->turned);
      pthread_mutex_destroy(&b->lock);
    }
    static inline void kb_wait(KbBarrier *b) {
      pthread_mutex_lock(&b->lock);
      unsigned turn = b->turn;
      if (++b->waiting == 2) {
        b->waiting = 0;
        b->turn++;
        pthread_cond_broadcast(&b->turned);
      }
      while (turn == b->turn)
        pthread_cond_wait(&b->turned, &b->lock);
      pthread_mutex_unlock(&b->lock);
    }
    #define PREFETCH(address) __builtin_prefetch(address)
    /* Of so few words, and not known to the compiler: libc's functions take longer. */
    static inline void kb_copy(uint64_t *to, const uint64_t *from, int words) {
      switch (words) {
        case 5: to[4] = from[4];                /* fall through */
        case 4: to[3] = from[3];                /* fall through */
        case 3: to[2] = from[2];                /* fall through */
        case 2: to[1] = from[1];                /* fall through */
        default: to[0] = from[0];
      }
    }
    static inline int kb_same(const uint64_t *a, const uint64_t *b, int words) {
      uint64_t differ = a[0] ^ b[0];
      switch (words) {
        case 5: differ |= a[4] ^ b[4];          /* fall through */
        case 4: differ |= a[3] ^ b[3];          /* fall through */
        case 3: differ |= a[2] ^ b[2];          /* fall through */
        case 2: differ |= a[1] ^ b[1];
      }
      return differ == 0;
    }
    """
    ctypedef struct Cpu:
        uint16_t full, busy, stale, valid, loaded, old, map, map_max, all, iopl
    ctypedef struct Task:
        uint32_t cpu, holders, tif, has_map, numbered, map, edited, place, port, on, first, before
        uint32_t owns
    ctypedef struct More:
        uint8_t iopl, owns, group
    const uint8_t N_NAMINGS[4]
    const uint8_t NAMINGS[6][4]
    void PREFETCH(const void* address) noexcept nogil
    void kb_copy(uint64_t* to, const uint64_t* words, int n) noexcept nogil
    bint kb_same(const uint64_t* a, const uint64_t* b, int words) noexcept nogil
    ctypedef struct KbBarrier:
        pass
    uint64_t kb_fetch_add(uint64_t* at, uint64_t n) noexcept nogil
    void kb_use_huge_pages(void* at, size_t bytes) noexcept nogil
    uint64_t kb_load(const uint64_t* at) noexcept nogil
    bint kb_fill(uint64_t* slot, uint64_t entry) noexcept nogil
    void kb_raise(int* flag) noexcept nogil
    bint kb_raised(const int* flag) noexcept nogil
    void kb_wait(KbBarrier* barrier) noexcept nogil
    int kb_make_barrier(KbBarrier* barrier) noexcept nogil
    void kb_drop_barrier(KbBarrier* barrier) noexcept nogil

cdef struct World:                # an unpacked state; its `holders` and `old` are out of date
    Cpu cpus[CPUS]
    Task tasks[TASKS]
    More more[TASKS]
    uint8_t task[CPUS]            # that runs there, NOBODY where idle
    uint8_t held[CPUS]            # HELD_*: whose sequence number the TSS's bitmap has
    uint8_t renumbered            # an event took a map's number away: no TSS holds it any more

cdef struct Effect:               # of an event on what it changes, without names
    uint64_t key                  # the event and each input of its effect
    uint32_t task                 # current's word; its `cpu` is 0 if it was switched out, else 1
    uint16_t cpu                  # the CPU's word
    uint8_t held                  # its `held`, where current is task 0
    uint8_t renumbered            # current's map

cdef struct Event:
    uint8_t code                  # Code
    uint8_t cpu
    uint8_t arg

cdef struct Frame:                # one hook under way
    World* w
    Cpu* cpu
    Task* current                 # a record of zeros where `current_number` is NOBODY
    Task* next                    # of a switch, the same; of a fork, the child
    More* more                    # current's
    More* next_more
    uint8_t current_number, next_number
    Event event
    uint8_t sched
    uint8_t switching             # the hook is `switch`
    uint8_t bad

cdef struct Waste:                # a step's first reload that found the limit full
    uint32_t state                # from this state
    uint32_t depth                # events to that
    Event event                   # by this event
    uint8_t seen                  # whether there was one

cdef struct Store:                # the states that one worker found, in that order
    uint64_t* states              # [room, words]
    uint32_t* parents             # [room] numbers
    uint64_t room, n              # states
    uint64_t most, slots          # `n` at which the worker waits FOR_STATES, FOR_TABLE
    uint64_t cursor, end          # the next state without successors, and a round's end
    uint64_t level_end            # the first state of the next depth

cdef struct Space:                # a policy, and a worker's part of the search
    int n_cpus, n_tasks, n_ports, words
    bint symmetry
    bint whole                    # no task is preempted where Machine has no operation for it
    bint forks, iopls             # these events are explored
    bint more                     # a state has what they need
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
    uint8_t relabel[ORDERS][32]   # label, see pack -> label
    Store* stores                 # [1 + second]
    int second                    # 1 with two workers: state i of store k has number 2 * i + k
    int number                    # the worker's
    uint64_t* table               # [1 << bits] hash << 32 | number + 1, 0 where free
    int bits
    uint64_t done, block_end      # the state that is expanded, and the end of its block: numbers
    uint64_t transitions
    uint32_t depth                # events to the state `done`
    uint32_t bad_from             # state
    Event bad_event
    uint8_t bad                   # Bad
    int waits                     # Waits
    # successors; those from `looked_up` on are not looked up yet
    int n_batch, looked_up
    int batch_most                # where those of one state more may not fit
    uint64_t batch[BATCH][WORDS]
    uint32_t batch_from[BATCH]
    uint32_t batch_hash[BATCH]
    uint64_t batch_slot[BATCH]    # where a look-up begins
    # Last, so that no cache line has what the two workers write and read all the time.
    Effect effects[EFFECTS]       # the latest one at each place

cdef struct Team:                 # a search
    Space workers[2]
    Store stores[2]
    KbBarrier barrier
    uint64_t* old                 # the table before it grew, until the new one has its slots
    uint64_t memory, max_memory   # bytes
    uint64_t max_states
    int ended                     # Ended
    int pause                     # some worker waits, or found a violation
    bint stop

# -- Packed states -------------------------------------------------------------------------------
# The tasks' words, then the CPUs'. Only a task's label names CPUs, so that words can be sorted.

cdef inline uint8_t max_of(const Task* t) noexcept nogil:
    """Return the words of a task's map: one at least once edited, even where no port is open."""
    cdef uint8_t n = t.edited
    while t.map >> n:
        n += 1
    return n


cdef inline void unpack(const Space* s, const uint64_t* state, World* w) noexcept nogil:
    cdef const Task* t
    cdef int i, c
    memcpy(w.tasks, state, s.n_tasks * sizeof(Task))
    memcpy(w.cpus, <const uint32_t*>state + s.n_tasks, s.n_cpus * sizeof(Cpu))
    for c in range(s.n_cpus):
        w.task[c] = NOBODY
        w.held[c] = HELD_NONE if w.cpus[c].old else HELD_ZERO
    if s.more:
        _unpack_more(s, state, w)
    for i in range(s.n_tasks):
        t = &w.tasks[i]
        if t.cpu:
            w.task[t.cpu - 1] = i
        for c in range(s.n_cpus):
            if t.holders >> c & 1:
                w.held[c] = HELD_TASK + i


cdef inline void _unpack_more(const Space* s, const uint64_t* state, World* w) noexcept nogil:
    cdef const uint16_t* at = <const uint16_t*>state + 2 * s.n_tasks + s.n_cpus
    cdef uint8_t bits
    cdef int i
    for i in range(s.n_tasks):
        bits = at[i >> 2] >> 4 * (i & 3) & 15
        memcpy(&w.more[i], &bits, 1)


ctypedef fused Word:              # of a task: without and with its further bits
    uint32_t
    uint64_t


cdef inline void _sort(Word* words, int n) noexcept nogil:
    """Sort a few words without a branch that depends on them: each would be mispredicted."""
    cdef int i, j
    cdef Word low, high
    for i in range(1, n):
        for j in range(i, 0, -1):
            low, high = words[j - 1], words[j]
            words[j - 1] = low if low < high else high
            words[j] = high if low < high else low


cdef inline int _number_groups(const World* w, int n_tasks, uint8_t* number) noexcept nogil:
    """Number the groups in the order of their first tasks; return how many there are."""
    cdef int i, n = 0
    memset(number, 0, GROUPS + 1)
    for i in range(n_tasks):
        if w.more[i].group and number[w.more[i].group] == 0:
            n += 1
            number[w.more[i].group] = n
    return n


cdef inline void _pack_more(const Space* s, const World* w, const uint32_t* tasks,
                            const uint16_t* cpus, uint64_t* state) noexcept nogil:
    """Pack a state with fork or iopl: a task's word and its further bits are sorted as one.

    Groups have no names: without symmetry they are numbered in the order of their first tasks,
    with it as makes the state smallest.
    """
    cdef uint64_t best[TASKS]
    cdef uint64_t tried[TASKS]
    cdef uint16_t packed[4 * WORDS]
    cdef uint16_t sorted_cpus[CPUS]
    cdef uint8_t number[GROUPS + 1]
    cdef uint8_t bits
    cdef More more
    cdef int i, k, g, n_groups = _number_groups(w, s.n_tasks, number)
    cdef int n_orders = s.n_orders if s.symmetry else 1
    cdef int n_namings = N_NAMINGS[n_groups] if s.symmetry else 1
    cdef bint have = False, ordered
    memcpy(sorted_cpus, cpus, sizeof(sorted_cpus))
    for k in range(n_orders):
        ordered = True
        for i in range(1, s.n_cpus):
            ordered &= not s.symmetry or cpus[s.order[k][i - 1]] <= cpus[s.order[k][i]]
        if not ordered:
            continue
        for g in range(n_namings):
            for i in range(s.n_tasks):
                more = w.more[i]
                more.group = NAMINGS[g][number[more.group]]
                memcpy(&bits, &more, 1)
                tried[i] = tasks[i]
                if s.symmetry:
                    tried[i] = (tasks[i] & ~<uint32_t>31) | s.relabel[k][tasks[i] & 31]
                tried[i] |= <uint64_t>bits << 32
            if s.symmetry:
                _sort(tried, s.n_tasks)
            i = 0
            while have and i < s.n_tasks and tried[i] == best[i]:
                i += 1
            if have and (i == s.n_tasks or tried[i] > best[i]):
                continue
            have = True
            memcpy(best, tried, sizeof(best))
            if s.symmetry:
                for i in range(s.n_cpus):
                    sorted_cpus[i] = cpus[s.order[k][i]]
    memset(packed, 0, sizeof(packed))
    for i in range(s.n_tasks):
        (<uint32_t*>packed)[i] = <uint32_t>best[i]
    memcpy(&packed[2 * s.n_tasks], sorted_cpus, s.n_cpus * 2)
    for i in range(s.n_tasks):
        packed[2 * s.n_tasks + s.n_cpus + (i >> 2)] |= <uint16_t>(best[i] >> 32) << 4 * (i & 3)
    memcpy(state, packed, s.words * 8)


cdef inline void _lay_out(const Space* s, const uint32_t* tasks, const uint16_t* cpus,
                          uint64_t* state) noexcept nogil:
    """Put the words of a state together; `state` has room for WORDS, whose rest becomes 0."""
    cdef int i, at
    memset(state, 0, WORDS * 8)
    for i in range(s.n_tasks):
        state[i >> 1] |= <uint64_t>tasks[i] << 32 * (i & 1)
    for i in range(s.n_cpus):
        at = 2 * s.n_tasks + i
        state[at >> 2] |= <uint64_t>cpus[i] << 16 * (at & 3)


cdef inline void represent(const Space* s, const uint32_t* tasks, const uint16_t* cpus,
                           uint64_t* state) noexcept nogil:
    """Put the words of a state together, under symmetry of the one that stands for its orbit.

    That one has the CPUs' words in rising order; where two are equal, more than one order does
    that, and the tasks' words decide.
    """
    cdef uint32_t room[2][TASKS]
    cdef uint32_t* tried = room[0]
    cdef uint32_t* best = room[1]
    cdef uint16_t sorted_cpus[CPUS]
    cdef const uint8_t* order
    cdef int i, k, best_order = -1
    if not s.symmetry:
        _lay_out(s, tasks, cpus, state)
        return
    for k in range(s.n_orders):
        order = s.order[k]
        if s.n_cpus > 1 and (cpus[order[0]] > cpus[order[1]]
                             or (s.n_cpus > 2 and cpus[order[1]] > cpus[order[2]])):
            continue
        for i in range(s.n_tasks):
            tried[i] = (tasks[i] & ~<uint32_t>LABEL) | s.relabel[k][tasks[i] & LABEL]
        _sort(tried, s.n_tasks)
        i = 0
        while best_order >= 0 and i < s.n_tasks and tried[i] == best[i]:
            i += 1
        if best_order < 0 or (i < s.n_tasks and tried[i] < best[i]):
            best_order = k
            best, tried = tried, best
    for i in range(s.n_cpus):
        sorted_cpus[i] = cpus[s.order[best_order][i]]
    _lay_out(s, best, sorted_cpus, state)


cdef inline uint16_t cpu_word(const Space* s, const World* w, int i, uint8_t* held) noexcept nogil:
    """Return a CPU's word, and whose map its TSS holds; neither of a map that is hidden.

    Under symmetry that is one that the policy syncs before a task sees it.
    """
    cdef uint16_t word
    memcpy(&word, &w.cpus[i], sizeof(Cpu))
    if s.symmetry and s.sync_first and not w.cpus[i].valid:
        held[0] = HELD_ZERO
        return word & (31 | 3 << 13)          # up to `loaded`, and the last two
    held[0] = w.held[i]
    return word & ~OLD | OLD * (held[0] == HELD_NONE)


cdef inline void pack(const Space* s, const World* w, uint64_t* state) noexcept nogil:
    """Pack a state; under symmetry, the representative of those that differ in names alone."""
    cdef uint32_t tasks[TASKS]
    cdef uint16_t cpus[CPUS]
    cdef uint8_t held
    cdef int i, k
    for i in range(s.n_tasks):
        memcpy(&tasks[i], &w.tasks[i], sizeof(Task))
        tasks[i] &= ~<uint32_t>HOLDERS
    for i in range(s.n_cpus):
        cpus[i] = cpu_word(s, w, i, &held)
        if held >= HELD_TASK:
            tasks[held - HELD_TASK] |= 4 << i
            if s.more and w.more[held - HELD_TASK].group:
                for k in range(s.n_tasks):
                    if w.more[k].group == w.more[held - HELD_TASK].group:
                        tasks[k] |= 4 << i
    if s.more:
        _pack_more(s, w, tasks, cpus, state)
    else:
        represent(s, tasks, cpus, state)
