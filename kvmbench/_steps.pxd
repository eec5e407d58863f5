# The machine's records and operations, for `cimport`; docs/model.md is their specification.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kvmbench._ports cimport KB_MAP_BYTES, KB_PORTS, kb_port_check

cdef enum:
    KB_API = 3                    # add 1 when a record or a signature below changes

cdef enum:                        # layout of Linux 4.11 to 5.4, used for every policy
    KB_LIMIT_FULL = 0x206f        # TR limit after LTR: hardware TSS, I/O bitmap, terminator
    KB_LIMIT_MIN = 0x67           # TR limit after a VM exit on VMX: hardware TSS alone
    KB_BASE_VALID = 0x68          # io_bitmap_base: the bitmap follows the hardware TSS
    KB_BASE_INVALID = 0x2070      # io_bitmap_base past the full limit: every port denied
    KB_BASE_ALL = 0x2078          # io_bitmap_base of a second map, all zero: every port allowed

cdef enum KbStatus:               # result of an operation's function
    KB_OK = 0
    KB_BAD_CODE                   # no such operation
    KB_BAD_CPU                    # cpu is not in [0, n_cpus)
    KB_BAD_KIND                   # exit kind is not in [0, n_kinds)
    KB_BAD_TASK                   # task is not in [-1, n_tasks)
    KB_BAD_RANGE                  # ioperm() of ports that are not in [0, 65536), or of none
    KB_BAD_PORT                   # port is not in [0, 65536)
    KB_BAD_WIDTH                  # width is not 1, 2 or 4
    KB_BAD_CYCLES                 # cycles is not in [0, 2**31)
    KB_IDLE                       # the CPU runs no task
    KB_IN_RUN                     # the task is inside KVM_RUN
    KB_RUNS_ELSEWHERE             # the task runs on another CPU
    KB_CLOCK                      # the CPU's clock is above 2**62 cycles
    KB_NO_MEMORY                  # no memory for a task's I/O bitmap
    KB_BAD_CHILD                  # child is not in [0, n_tasks)
    KB_NOT_NEW                    # the child runs, or is not as at the start
    KB_BAD_LEVEL                  # level is not in [0, 3]

cdef enum:                        # hooks, in the order of model.HOOKS
    HOOK_VM_EXIT = 0
    HOOK_VCPU_PUT
    HOOK_SWITCH
    HOOK_IOPERM
    HOOK_EXIT_TO_USER
    HOOK_TASK_EXIT
    HOOK_FORK
    HOOK_FORK_FAILED
    HOOK_IOPL
    HOOK_EXEC

cdef enum:                        # KbStep.action, in the order of model.STEPS
    DO_MARK_AVAILABLE = 0
    DO_LTR
    DO_CLEAR_STALE
    DO_RELOAD
    DO_MARK_STALE
    DO_REFRESH
    DO_SET_TIF
    DO_CLEAR_TIF
    DO_ALLOC_MAP
    DO_EDIT_MAP
    DO_LOAD_MAP
    DO_COPY_MAP
    DO_WIPE_MAP
    DO_WIPE_OWN
    DO_SYNC_MAP
    DO_VALIDATE_BASE
    DO_INVALIDATE_BASE
    DO_DROP_MAP
    DO_STOP
    DO_SHARE_MAP
    DO_DUP_MAP
    DO_SET_CHILD_TIF
    DO_CLEAR_CHILD_TIF
    DO_DROP_CHILD_MAP
    DO_INHERIT_IOPL
    DO_UNSHARE_MAP
    DO_SET_IOPL
    DO_CLEAR_IOPL
    DO_LOAD_IOPL
    DO_VALIDATE_ALL

cdef enum KbCode:                 # KbOp.code, as kvmbench.model.Op
    KB_EXIT = 0
    KB_SWITCH = 1
    KB_IOPERM = 2
    KB_IO = 3
    KB_TASK_EXIT = 4
    KB_ADVANCE = 5
    KB_FORK = 6
    KB_IOPL = 7
    KB_EXEC = 8

cdef struct KbOp:                 # OP_DTYPE, 16 bytes
    uint8_t code
    uint8_t arg                   # IOPERM: grants; IO: width, bytes; FORK: fails
    uint16_t cpu
    int32_t a                     # kind, task, first port, port, cycles or level, as in model.Op
    int32_t b                     # IOPERM: count
    int32_t c

cdef struct KbCosts:              # cycles, each below 2**32
    uint64_t irq_exit, host_save, host_restore, gdt_write, ltr, mark, test, switch_, migrate
    uint64_t switch_overlap, ioperm, io, gp_fault, copy_base, copy_line, wipe_base, wipe_line

cdef struct KbKind:
    uint64_t cycles, user_cycles, overlap     # cycles, each below 2**32
    uint8_t exits, user

cdef struct KbTr:                 # state that an EXIT changes on its CPU; 16 bytes, one store
    uint32_t tr_limit             # bytes; KB_LIMIT_FULL or KB_LIMIT_MIN
    uint16_t io_base              # bytes; KB_BASE_VALID, KB_BASE_INVALID or KB_BASE_ALL
    uint8_t tss_busy              # the GDT's TSS descriptor is of the busy type
    uint8_t limit_stale           # the patch's __tss_limit_invalid
    uint8_t guest_loaded          # from the first entry until the put
    uint8_t iopl3                 # EFLAGS.IOPL in user mode is 3: no bitmap is looked at
    uint8_t _unused[2]
    uint32_t known                # index of this state's first KbTransition; 0: not looked up

cdef struct KbTask:               # 40 bytes
    # [KB_MAP_BYTES + 1], a set bit denies; all ones without has_map. Tasks that share a map have
    # the same address here.
    uint8_t* map
    uint64_t seq                  # of the map
    uint32_t max                  # bytes of the map that may hold a zero bit
    int32_t last_cpu              # -1: ran nowhere yet
    int32_t on_cpu                # where it runs, -1 = nowhere
    uint8_t tif                   # TIF_IO_BITMAP
    uint8_t has_map
    uint8_t in_run                # inside KVM_RUN
    uint8_t empty                 # no bit of the map is zero; 1 where there is no map
    uint8_t iopl3                 # I/O privilege level 3

cdef struct KbCpu:                # 64 bytes, one cache line
    uint64_t cycles               # this CPU's clock
    KbTr tr
    uint64_t map_seq              # sequence of the map that tss_map holds
    KbTask* current               # never NULL: the idle record where task is -1
    uint8_t* tss_map              # [KB_TSS_MAP_BYTES], a set bit denies
    int32_t task                  # -1 = idle
    uint32_t map_max              # bytes that the last sync copied
    uint64_t* times               # kb_times() of the machine that uses the CPU

cdef struct KbCounters:           # docs/model.md, section 7, in its order
    uint64_t exits, user_exits, host_saves, puts, reloads, marks, faults, switches, migrations
    uint64_t map_copies, bytes_copied, map_wipes, io_allowed, io_denied, leaks, denials
    uint64_t c_exit, c_user, c_host, c_tr, c_map, c_switch, c_call, c_io, c_guest, c_work, c_idle
    uint64_t nulls

cdef struct KbTransition:         # effect of one EXIT from one state of CPU and task
    KbTr after
    uint64_t cycles               # its cost
    uint32_t number               # row of KbMachine.effects; 0: not known
    uint8_t in_run                # of the task, after it

cdef struct KbStep:               # one step of a policy, compiled
    uint8_t action                # DO_*
    uint8_t look                  # conditions to look at, as bits
    uint8_t want                  # and their values where the step is taken

cdef enum:
    KB_TRANSITIONS = 128          # that a machine remembers; later ones are interpreted
    KB_STATES = 4096              # states that differ in the effect of some EXIT
    KB_HOOKS = 10

cdef enum:
    # From one CPU's row to the next: an odd number of cache lines. With a power of two, the same
    # places of all rows would share few of the cache's sets: 1.2 times the time of a mixed run.
    KB_TIMES_STRIDE = KB_TRANSITIONS + 8    # counts
    KB_MAP_STRIDE = KB_MAP_BYTES + 64       # bytes

cdef struct KbMachine:            # borrowed: the Machine that holds this struct owns the memory
    int32_t n_cpus, n_tasks, n_kinds
    uint8_t vmx                   # a VM exit cuts the TR limit
    uint8_t allocates             # the policy has a step that makes maps
    KbCosts costs
    KbKind* kinds                 # [n_kinds]
    KbStep* steps                 # all hooks in a row
    uint32_t hook[11]             # steps[hook[h]:hook[h + 1]] is hook h, in model.HOOKS' order
    KbCpu* cpus                   # [n_cpus]
    KbTask* tasks                 # [n_tasks]
    KbCounters* counted           # [n_cpus] what was counted step by step; see kb_counters
    KbTask idle
    uint64_t sequence             # of the latest edit of any map
    void* spare                   # free maps, a list through their first bytes
    int32_t n_spare
    uint32_t* known               # [KB_STATES] index of the state's first KbTransition, 0: none yet
    KbTransition* transitions     # [KB_TRANSITIONS + 1, n_kinds]; row 0 stays empty
    KbCounters* effects           # [KB_TRANSITIONS] what each transition adds to the counters
    uint64_t* times               # [n_cpus, KB_TIMES_STRIDE] of each transition on each CPU
    uint8_t* tss_maps             # [n_cpus, KB_MAP_STRIDE]
    uint32_t n_known, n_transitions     # rows in use, row 0 included

# Each does one operation, or nothing unless it returns KB_OK. `cycles` receives its cost.
cdef int kb_exit(KbMachine* m, int64_t cpu, int64_t kind, uint64_t* cycles) noexcept nogil
cdef int kb_switch(KbMachine* m, int64_t cpu, int64_t task, uint64_t* cycles) noexcept nogil
cdef int kb_ioperm(KbMachine* m, int64_t cpu, int64_t first, int64_t count, bint on,
                   uint64_t* cycles) noexcept nogil
cdef int kb_io(KbMachine* m, int64_t cpu, int64_t port, int64_t width, uint8_t* allowed,
               uint64_t* cycles) noexcept nogil
cdef int kb_task_exit(KbMachine* m, int64_t cpu, uint64_t* cycles) noexcept nogil
cdef int kb_fork(KbMachine* m, int64_t cpu, int64_t child, bint fails,
                 uint64_t* cycles) noexcept nogil
cdef int kb_iopl(KbMachine* m, int64_t cpu, int64_t level, uint64_t* cycles) noexcept nogil
cdef int kb_exec(KbMachine* m, int64_t cpu, uint64_t* cycles) noexcept nogil
cdef int kb_advance(KbMachine* m, int64_t cpu, int64_t cycles_, uint64_t* cycles) noexcept nogil
# The one of these that `code` names, with the fields of a KbOp; IO alone writes `result`.
cdef int kb_do(KbMachine* m, int64_t code, int64_t cpu, int64_t a, int64_t b, int64_t arg,
               uint8_t* result, uint64_t* cycles) noexcept nogil
# As many operations as can be done, in order; returns how many, and why the next one was not.
cdef int64_t kb_run(KbMachine* m, const KbOp* ops, int64_t n, uint8_t* results,
                    uint64_t* cycles_out, int* status) noexcept nogil
# Exactly n EXITs without a loop over n; `done` receives how many could be done.
cdef int kb_repeat_exit(KbMachine* m, int64_t cpu, int64_t kind, int64_t n,
                        int64_t* done) noexcept nogil
# The state at the start; m's arrays are there, its policy and profile compiled.
cdef void kb_start(KbMachine* m, uint16_t io_base) noexcept nogil
# The state of `old`, which has as many CPUs, tasks and kinds; m is at its start.
cdef int kb_copy(KbMachine* m, const KbMachine* old) noexcept nogil
# Give a task that has no map this one, [KB_MAP_BYTES].
cdef int kb_restore_map(KbMachine* m, int32_t task, const uint8_t* map) noexcept nogil
# Let a task that has no map share that of `task`.
cdef void kb_share_map(KbMachine* m, int32_t task, int32_t other) noexcept nogil
# The first task that shares the map of `task`: itself where no earlier one does.
cdef int32_t kb_map_of(const KbMachine* m, int32_t task) noexcept nogil
# All maps' memory; the records stay as they are, for views that outlive the machine.
cdef void kb_free_maps(KbMachine* m) noexcept nogil
# A count of a CPU, by its place in KbCounters, and all of them; those of its transitions included.
cdef uint64_t kb_counter(const KbMachine* m, int64_t cpu, int counter) noexcept nogil
cdef void kb_counters(const KbMachine* m, int64_t cpu, KbCounters* out) noexcept nogil
# For other loops over EXITs, and for several machines that share CPUs and tasks: each has its own
# `known`, `transitions`, `effects`, `times` and `spare`, and one thread at a time uses a CPU.
# The index of the first KbTransition from the CPU's state, now in tr.known; 0: no room for it.
cdef uint32_t kb_known(KbMachine* m, int64_t cpu) noexcept nogil
# Add the effects of the CPU's transitions to `counted`, and forget its state's index: another
# machine may use the CPU next.
cdef void kb_flush(KbMachine* m, int64_t cpu) noexcept nogil
# Free the memory of the maps that no task has.
cdef void kb_free_spare(KbMachine* m) noexcept nogil

cdef inline uint64_t* kb_times(const KbMachine* m, int64_t cpu) noexcept nogil:
    """Return how often `cpu` made each transition, [KB_TRANSITIONS]."""
    return m.times + cpu * KB_TIMES_STRIDE

# -- For callers ----------------------------------------------------------------------------------

cdef int kb_api() noexcept nogil            # KB_API of the kvmbench that runs
cdef uint64_t kb_layout() noexcept nogil    # kb_layout_here() of the kvmbench that runs

cdef struct KbRecords:            # every record that a caller compiles in, itself or inside another
    KbMachine m                   # with KbCosts and KbTask
    KbCpu cpu                     # with KbTr
    KbCounters n
    KbTransition transition
    KbKind kind
    KbStep step
    KbOp op

cdef inline uint64_t kb_layout_here() noexcept nogil:
    """Return a number made of the place of each field, by its name, and of the records' sizes."""
    cdef KbRecords r
    cdef KbMachine* m = &r.m
    cdef KbCosts* p = &m.costs
    cdef KbTask* t = &m.idle
    cdef KbCpu* c = &r.cpu
    cdef KbTr* tr = &c.tr
    cdef KbCounters* n = &r.n
    cdef KbTransition* x = &r.transition
    cdef KbKind* k = &r.kind
    cdef KbStep* s = &r.step
    cdef KbOp* o = &r.op
    cdef void* places[109]
    places[:] = [
        &m.n_cpus, &m.n_tasks, &m.n_kinds, &m.vmx, &m.allocates, &m.kinds, &m.steps, &m.hook,
        &m.cpus, &m.tasks, &m.counted, &m.sequence, &m.spare, &m.n_spare, &m.known,
        &m.transitions, &m.effects, &m.times, &m.tss_maps, &m.n_known, &m.n_transitions,
        &p.irq_exit, &p.host_save, &p.host_restore, &p.gdt_write, &p.ltr, &p.mark, &p.test,
        &p.switch_, &p.migrate, &p.switch_overlap, &p.ioperm, &p.io, &p.gp_fault, &p.copy_base,
        &p.copy_line, &p.wipe_base, &p.wipe_line,
        &t.map, &t.seq, &t.max, &t.last_cpu, &t.on_cpu, &t.tif, &t.has_map, &t.in_run, &t.empty,
        &t.iopl3,
        &c.cycles, &c.map_seq, &c.current, &c.tss_map, &c.task, &c.map_max, &c.times,
        &tr.tr_limit, &tr.io_base, &tr.tss_busy, &tr.limit_stale, &tr.guest_loaded, &tr.iopl3,
        &tr.known,
        &n.exits, &n.user_exits, &n.host_saves, &n.puts, &n.reloads, &n.marks, &n.faults,
        &n.switches, &n.migrations, &n.map_copies, &n.bytes_copied, &n.map_wipes, &n.io_allowed,
        &n.io_denied, &n.leaks, &n.denials, &n.c_exit, &n.c_user, &n.c_host, &n.c_tr, &n.c_map,
        &n.c_switch, &n.c_call, &n.c_io, &n.c_guest, &n.c_work, &n.c_idle, &n.nulls,
        &x.after, &x.cycles, &x.number, &x.in_run,
        &k.cycles, &k.user_cycles, &k.overlap, &k.exits, &k.user,
        &s.action, &s.look, &s.want, &o.code, &o.arg, &o.cpu, &o.a, &o.b, &o.c, &r + 1,
    ]
    cdef uint64_t mixed = 0
    cdef int i
    for i in range(109):
        mixed = mixed * 1000003 + <uint64_t>(<char*>places[i] - <char*>&r)
    return mixed

cdef inline int kb_check_api() except -1:
    """Raise ImportError unless caller and kvmbench were compiled to the same API and layout."""
    if kb_api() != KB_API:
        raise ImportError(f"compiled for kvmbench C API {KB_API}, found {kb_api()}: rebuild")
    if kb_layout() != kb_layout_here():
        raise ImportError("compiled for other records than kvmbench's: rebuild")
    return 0

cdef inline uint64_t kb_cycles(const KbMachine* m, int64_t cpu) noexcept nogil:
    """Return the clock of a CPU, in cycles. `cpu` is not checked, here and below."""
    return m.cpus[cpu].cycles

cdef inline int32_t kb_task_on(const KbMachine* m, int64_t cpu) noexcept nogil:
    """Return the task that runs on a CPU, -1 for none."""
    return m.cpus[cpu].task

cdef inline bint kb_in_guest(const KbMachine* m, int64_t cpu) noexcept nogil:
    """Return whether a guest is loaded on a CPU: entered, and not put since."""
    return m.cpus[cpu].tr.guest_loaded

cdef inline bint kb_allowed(const KbMachine* m, int64_t cpu, uint32_t port,
                            uint32_t width) noexcept nogil:
    """Return the port check of a CPU as it stands, without cost or counter."""
    cdef const KbCpu* c = &m.cpus[cpu]
    # The second map has its terminator too: an access past port 65535 reads a one.
    if c.tr.io_base == KB_BASE_ALL:
        return c.tr.iopl3 or (c.tr.tr_limit == KB_LIMIT_FULL and port + width <= KB_PORTS)
    return c.tr.iopl3 or kb_port_check(c.tr.tr_limit, c.tr.io_base, c.tss_map, port, width)
