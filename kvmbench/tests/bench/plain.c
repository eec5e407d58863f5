/*
 * plain.c - the machine model (docs/model.md), written directly in C.
 *
 * This is the yardstick that the Cython core is timed against: what a C programmer would write who
 * needs one policy only. The policy `deferred` on vendor `vmx` is hard-coded as plain functions,
 * where the core interprets policies as data. It computes the same counters and results.
 *
 * Build:  cc -O3 -shared -fPIC -o plain.so plain.c        (C11, no libraries)
 *
 * The benchmarks build it and load it with ctypes; the plain_* functions at the end are the
 * interface. Section numbers in the comments are those of docs/model.md.
 */
#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    TR_LIMIT_FULL = 0x206f,
    TR_LIMIT_MIN = 0x67,
    IO_BASE_VALID = 0x68,
    PORTS = 65536,
    MAP_BYTES = PORTS / 8,
    MAP_SIZE = MAP_BYTES + 1, /* with the terminator, a byte that is always 0xff */
    IDLE = -1,
    NOWHERE = -1,
    REFUSED = -1,
};

/*
 * A clock must not pass 2^63. No operation costs as much as 2^54 (costs are below 2^32 and the
 * longest copy has 129 lines), so refusing every operation of a CPU whose clock is within 2^54 of
 * the end is safe. It is coarser than the model, which refuses only the operation that would pass:
 * the yardstick's simplification.
 */
#define CLOCK_END ((UINT64_C(1) << 63) - (UINT64_C(1) << 54))

enum op_code { OP_EXIT, OP_SWITCH, OP_IOPERM, OP_IO, OP_TASK_EXIT, OP_ADVANCE };

/*
 * EXIT: a kind; SWITCH: a task; IOPERM: a first, b count, arg on; IO: a port, arg width;
 * ADVANCE: a cycles; TASK_EXIT: nothing.
 */
struct op {
    uint8_t code, arg;
    uint16_t cpu;
    int32_t a, b, c;
};

struct kind {
    uint64_t cycles, user_cycles, overlap;
    uint8_t exits, user;
};

struct costs {
    uint64_t irq_exit, host_save, host_restore, gdt_write, ltr, mark, test;
    uint64_t switch_, migrate, switch_overlap, ioperm, io, gp_fault;
    uint64_t copy_base, copy_line, wipe_base, wipe_line;
};

/* Section 7. From c_exit on: the cycles by cause, whose sum is the CPU's clock. */
struct counters {
    uint64_t exits, user_exits, host_saves, puts, reloads, marks, faults, switches, migrations;
    uint64_t map_copies, bytes_copied, map_wipes, io_allowed, io_denied, leaks, denials;
    uint64_t c_exit, c_user, c_host, c_tr, c_map, c_switch, c_call, c_io, c_guest, c_work, c_idle;
    uint64_t nulls; /* none: the maps of `deferred` are there when they are copied */
};

enum { COSTS = 17, COUNTERS = 28 };

static_assert(sizeof(struct op) == 16, "struct op is the caller's 16-byte record");
static_assert(sizeof(struct costs) == COSTS * sizeof(uint64_t), "17 costs");
static_assert(sizeof(struct counters) == COUNTERS * sizeof(uint64_t), "28 counters");

struct cpu {
    uint64_t cycles;
    uint64_t map_seq; /* map_seq and map_max belong to sync_map, which `deferred` never does */
    uint32_t map_max;
    uint32_t tr_limit;
    int32_t task;
    uint16_t io_base;
    uint8_t tss_busy;
    uint8_t limit_stale;
    uint8_t guest_loaded;
    uint8_t *tss_map; /* MAP_SIZE bytes, kept apart so that the small fields stay together */
    struct counters n;
};

struct task {
    uint8_t *map; /* MAP_SIZE bytes, terminated as tss_map is, or NULL */
    uint64_t seq;
    uint32_t max;
    int32_t last_cpu;
    int32_t running_on; /* CPU or NOWHERE */
    uint8_t tif;
    uint8_t in_run;
};

struct machine {
    int cpu_count, task_count, kind_count;
    uint64_t sequence;
    struct costs cost;
    struct cpu *cpus;
    struct task *tasks;
    struct kind *kinds;
    uint8_t *tss_maps;
};

static const struct task new_task = {.last_cpu = NOWHERE, .running_on = NOWHERE};

static inline uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* The task with this index, NULL for IDLE. */
static inline struct task *task_at(const struct machine *m, int32_t index)
{
    return index == IDLE ? NULL : &m->tasks[index];
}

static inline bool has_tif(const struct task *t)
{
    return t && t->tif;
}

static inline void charge(struct cpu *c, uint64_t *cause, uint64_t cost)
{
    *cause += cost;
    c->cycles += cost;
}

/* Section 3: the port check. */

/* Are all `width` bits from bit `port` of the map zero? The bits past the last port are set. */
static inline bool bits_clear(const uint8_t *map, uint32_t port, uint32_t width)
{
    uint32_t word = map[port / 8] | (uint32_t)map[port / 8 + 1] << 8;
    uint32_t mask = (1u << width) - 1;

    return !(word >> (port & 7) & mask);
}

static inline bool port_allowed(uint32_t tr_limit, uint16_t io_base, const uint8_t *tss_map,
                                uint32_t port, uint32_t width)
{
    uint32_t offset = io_base + port / 8;

    return offset + 1 <= tr_limit && bits_clear(tss_map, port, width);
}

/* Section 5: the steps that `deferred` uses. */

static void mark_available(const struct machine *m, struct cpu *c)
{
    c->tss_busy = 0;
    charge(c, &c->n.c_tr, m->cost.gdt_write);
}

static void load_tr(const struct machine *m, struct cpu *c, uint64_t overlap)
{
    if (c->tss_busy) {
        c->n.faults++;
        return;
    }
    c->tr_limit = TR_LIMIT_FULL;
    c->tss_busy = 1;
    c->n.reloads++;
    charge(c, &c->n.c_tr, m->cost.ltr + overlap);
}

static void reload(const struct machine *m, struct cpu *c, uint64_t overlap)
{
    mark_available(m, c);
    load_tr(m, c, overlap);
    c->limit_stale = 0;
}

static void mark_stale(const struct machine *m, struct cpu *c)
{
    c->limit_stale = 1;
    c->n.marks++;
    charge(c, &c->n.c_tr, m->cost.mark);
}

static void refresh(const struct machine *m, struct cpu *c, uint64_t overlap)
{
    charge(c, &c->n.c_tr, m->cost.test);
    if (c->limit_stale)
        reload(m, c, overlap);
}

static inline uint64_t by_lines(uint64_t base, uint64_t line, uint32_t bytes)
{
    return base + line * ((bytes + 63) / 64);
}

/* tss_map[:bytes] = map */
static void copy_to_tss(const struct machine *m, struct cpu *c, const uint8_t *map, uint32_t bytes)
{
    if (!bytes)
        return;
    memcpy(c->tss_map, map, bytes);
    c->n.map_copies++;
    c->n.bytes_copied += bytes;
    charge(c, &c->n.c_map, by_lines(m->cost.copy_base, m->cost.copy_line, bytes));
}

/* tss_map[:bytes] = 0xff */
static void wipe_tss(const struct machine *m, struct cpu *c, uint32_t bytes)
{
    if (!bytes)
        return;
    memset(c->tss_map, 0xff, bytes);
    c->n.map_wipes++;
    charge(c, &c->n.c_map, by_lines(m->cost.wipe_base, m->cost.wipe_line, bytes));
}

static uint8_t *new_map(void)
{
    uint8_t *map = malloc(MAP_SIZE);

    if (map)
        memset(map, 0xff, MAP_SIZE);
    return map;
}

static inline void edit_byte(uint8_t *byte, uint8_t mask, bool on)
{
    if (on)
        *byte &= (uint8_t)~mask;
    else
        *byte |= mask;
}

static void edit_bits(uint8_t *map, uint32_t first, uint32_t count, bool on)
{
    uint32_t last = first + count - 1;
    uint8_t *head = map + first / 8, *tail = map + last / 8;
    uint8_t head_mask = (uint8_t)(0xff << (first & 7));
    uint8_t tail_mask = (uint8_t)(0xff >> (7 - (last & 7)));

    if (head == tail) {
        edit_byte(head, head_mask & tail_mask, on);
        return;
    }
    edit_byte(head, head_mask, on);
    memset(head + 1, on ? 0 : 0xff, (size_t)(tail - head - 1));
    edit_byte(tail, tail_mask, on);
}

static inline bool word_full(const uint8_t *map, uint32_t index)
{
    uint64_t word;

    memcpy(&word, map + index * sizeof(word), sizeof(word));
    return word == UINT64_MAX;
}

static void edit_map(struct machine *m, struct task *t, uint32_t first, uint32_t count, bool on)
{
    /* No word after the old max, or after a grant's last word, can have a zero bit. */
    uint32_t words = max_u32(t->max / 8, on ? (first + count - 1) / 64 + 1 : 1);

    edit_bits(t->map, first, count, on);
    while (words > 1 && word_full(t->map, words - 1))
        words--;
    t->max = 8 * words;
    t->seq = ++m->sequence;
}

/* Section 5: the hooks of `deferred`. vm_exit and exit_to_user are empty. */

static void hook_vcpu_put(const struct machine *m, struct cpu *c, uint64_t overlap)
{
    if (has_tif(task_at(m, c->task)))
        reload(m, c, overlap);
    else
        mark_stale(m, c);
}

static void hook_switch(const struct machine *m, struct cpu *c, const struct task *prev,
                        const struct task *next)
{
    if (has_tif(next)) {
        copy_to_tss(m, c, next->map, max_u32(has_tif(prev) ? prev->max : 0, next->max));
        refresh(m, c, m->cost.switch_overlap);
    } else if (has_tif(prev)) {
        wipe_tss(m, c, prev->max);
    }
}

/* The caller has given the task its map; `had_map` says whether it had one before the call. */
static void hook_ioperm(struct machine *m, struct cpu *c, struct task *t, bool had_map,
                        uint32_t first, uint32_t count, bool on)
{
    uint32_t old_max = t->max;

    if (!had_map) {
        t->tif = 1;
        refresh(m, c, 0);
    }
    edit_map(m, t, first, count, on);
    copy_to_tss(m, c, t->map, max_u32(old_max, t->max));
}

static void hook_task_exit(const struct machine *m, struct cpu *c, struct task *t)
{
    t->tif = 0;
    wipe_tss(m, c, t->max);
    free(t->map);
    t->map = NULL;
    t->max = 0;
    t->seq = 0;
}

/* Section 6: the operations. Each checks its conditions first and returns its result or REFUSED. */

static void put(const struct machine *m, struct cpu *c, uint64_t overlap)
{
    c->guest_loaded = 0;
    c->n.puts++;
    charge(c, &c->n.c_host, m->cost.host_restore);
    hook_vcpu_put(m, c, overlap);
}

/* If a guest is loaded, the interrupt that takes the CPU away from it. */
static void interrupt_guest(const struct machine *m, struct cpu *c)
{
    if (!c->guest_loaded)
        return;
    c->n.exits++;
    charge(c, &c->n.c_exit, m->cost.irq_exit);
    c->tr_limit = TR_LIMIT_MIN;
    put(m, c, m->cost.switch_overlap);
}

static void switch_tasks(const struct machine *m, struct cpu *c, int32_t cpu, int32_t to)
{
    struct task *prev = task_at(m, c->task), *next = task_at(m, to);

    hook_switch(m, c, prev, next);
    c->task = to;
    c->n.switches++;
    charge(c, &c->n.c_switch, m->cost.switch_);
    if (prev)
        prev->running_on = NOWHERE;
    if (next) {
        if (next->last_cpu != NOWHERE && next->last_cpu != cpu) {
            c->n.migrations++;
            charge(c, &c->n.c_switch, m->cost.migrate);
        }
        next->last_cpu = cpu;
        next->running_on = cpu;
    }
}

static int op_exit(struct machine *m, struct cpu *c, const struct op *op)
{
    struct task *t = task_at(m, c->task);
    const struct kind *kind;

    if (!t || op->a < 0 || op->a >= m->kind_count)
        return REFUSED;

    kind = &m->kinds[op->a];
    t->in_run = 1;
    if (!c->guest_loaded) {
        c->guest_loaded = 1;
        c->n.host_saves++;
        charge(c, &c->n.c_host, m->cost.host_save);
    }
    charge(c, &c->n.c_exit, kind->cycles);
    if (kind->exits) {
        c->n.exits++;
        c->tr_limit = TR_LIMIT_MIN;
    }
    if (kind->user) {
        put(m, c, kind->overlap);
        t->in_run = 0;
        c->n.user_exits++;
        charge(c, &c->n.c_user, kind->user_cycles);
    }
    return 0;
}

static int op_switch(struct machine *m, struct cpu *c, const struct op *op)
{
    if (op->a < IDLE || op->a >= m->task_count)
        return REFUSED;
    if (op->a == c->task)
        return 0;
    if (op->a != IDLE && m->tasks[op->a].running_on != NOWHERE)
        return REFUSED;

    interrupt_guest(m, c);
    switch_tasks(m, c, op->cpu, op->a);
    return 0;
}

static int op_ioperm(struct machine *m, struct cpu *c, const struct op *op)
{
    struct task *t = task_at(m, c->task);
    bool had_map;

    if (!t || t->in_run)
        return REFUSED;
    if (op->a < 0 || op->b < 1 || op->b > PORTS - op->a)
        return REFUSED;
    had_map = t->map != NULL;
    if (!had_map && !(t->map = new_map()))
        return REFUSED;

    charge(c, &c->n.c_call, m->cost.ioperm);
    hook_ioperm(m, c, t, had_map, (uint32_t)op->a, (uint32_t)op->b, op->arg != 0);
    return 0;
}

static int op_io(struct machine *m, struct cpu *c, const struct op *op)
{
    struct task *t = task_at(m, c->task);
    uint32_t port = (uint32_t)op->a, width = op->arg;
    bool allowed, entitled;

    if (!t || t->in_run)
        return REFUSED;
    if (op->a < 0 || op->a >= PORTS || (width != 1 && width != 2 && width != 4))
        return REFUSED;

    allowed = port_allowed(c->tr_limit, c->io_base, c->tss_map, port, width);
    /* The terminator denies what would reach past port 65535. */
    entitled = t->map && bits_clear(t->map, port, width);
    if (allowed) {
        c->n.io_allowed++;
        c->n.leaks += !entitled;
        charge(c, &c->n.c_io, m->cost.io);
    } else {
        c->n.io_denied++;
        c->n.denials += entitled;
        charge(c, &c->n.c_io, m->cost.gp_fault);
    }
    return allowed;
}

static int op_task_exit(struct machine *m, struct cpu *c, const struct op *op)
{
    struct task *t = task_at(m, c->task);

    if (!t)
        return REFUSED;

    interrupt_guest(m, c);
    t->in_run = 0;
    hook_task_exit(m, c, t);
    t->last_cpu = NOWHERE;
    switch_tasks(m, c, op->cpu, IDLE);
    return 0;
}

static int op_advance(struct machine *m, struct cpu *c, const struct op *op)
{
    const struct task *t = task_at(m, c->task);

    if (op->a < 0)
        return REFUSED;

    if (!t)
        charge(c, &c->n.c_idle, (uint64_t)op->a);
    else if (t->in_run)
        charge(c, &c->n.c_guest, (uint64_t)op->a);
    else
        charge(c, &c->n.c_work, (uint64_t)op->a);
    return 0;
}

static int run_op(struct machine *m, const struct op *op)
{
    struct cpu *c;

    if (op->cpu >= m->cpu_count)
        return REFUSED;
    c = &m->cpus[op->cpu];
    if (c->cycles > CLOCK_END)
        return REFUSED;

    switch (op->code) {
    case OP_EXIT:
        return op_exit(m, c, op);
    case OP_SWITCH:
        return op_switch(m, c, op);
    case OP_IOPERM:
        return op_ioperm(m, c, op);
    case OP_IO:
        return op_io(m, c, op);
    case OP_TASK_EXIT:
        return op_task_exit(m, c, op);
    case OP_ADVANCE:
        return op_advance(m, c, op);
    default:
        return REFUSED;
    }
}

/*
 * A whole host (docs/scenario.md): run queues, timeslices and random guests. One thread; no history
 * of operations and no costs of single exits, which the core keeps besides.
 */

enum task_type { VCPU, PLAIN, IO };

struct choice {
    uint32_t threshold;
    uint16_t kind, alias;
};

struct group {
    uint64_t mean, run, sleep;
    const uint32_t *quantiles;
    const struct choice *mix;
    uint32_t mix_count;
    uint8_t type;
};

struct actor {
    const struct group *group;
    uint64_t left, burst, wake;
    struct actor *next;
    int32_t kind; /* NOWHERE: no run under way */
    int32_t port;
};

struct lane {
    uint64_t draws[4], drawn; /* drawn: how many numbers of the stream are used */
    uint64_t slice_end;
    struct actor *head, *tail, *sleepers;
    int64_t length;
};

struct host {
    struct machine *m;
    struct lane *lanes;
    struct actor *actors;
    uint64_t seed, timeslice, host_drawn;
};

static void philox(uint64_t block, uint64_t k0, uint64_t k1, uint64_t out[4])
{
    uint64_t c0 = block, c1 = 0, c2 = 0, c3 = 0;

    for (int i = 0; i < 10; i++) {
        unsigned __int128 p = (unsigned __int128)UINT64_C(0xD2E7470EE14C6C93) * c0;
        unsigned __int128 q = (unsigned __int128)UINT64_C(0xCA5A826395121157) * c2;

        c0 = (uint64_t)(q >> 64) ^ c1 ^ k0;
        c1 = (uint64_t)q;
        c2 = (uint64_t)(p >> 64) ^ c3 ^ k1;
        c3 = (uint64_t)p;
        k0 += UINT64_C(0x9E3779B97F4A7C15);
        k1 += UINT64_C(0xBB67AE8584CAA73B);
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

static inline uint64_t draw(struct host *h, struct lane *l)
{
    if (l->drawn % 4 == 0)
        philox(l->drawn / 4 + 1, h->seed, (uint64_t)(l - h->lanes), l->draws);
    return l->draws[l->drawn++ % 4];
}

static uint64_t draw_below(struct host *h, uint64_t n)
{
    uint64_t block[4];

    philox(h->host_drawn / 4 + 1, h->seed, UINT64_MAX, block);
    return (block[h->host_drawn++ % 4] >> 32) * n >> 32;
}

static inline uint64_t drawn_time(const struct group *g, uint64_t mean, uint64_t bits)
{
    return (mean * g->quantiles[bits >> 54] + (bits >> 34 & 0xfffff)) >> 20;
}

static inline int32_t drawn_kind(const struct group *g, uint64_t bits)
{
    uint64_t x = (bits & 0xffffffff) * g->mix_count;
    const struct choice *choice = &g->mix[x >> 32];

    return (uint32_t)x < choice->threshold ? choice->kind : choice->alias;
}

static void push(struct lane *l, struct actor *a)
{
    a->next = NULL;
    if (l->head)
        l->tail->next = a;
    else
        l->head = a;
    l->tail = a;
    l->length++;
}

static struct actor *pop(struct lane *l)
{
    struct actor *a = l->head;

    if (a) {
        l->head = a->next;
        l->length--;
    }
    return a;
}

static void wake_up(struct lane *l, uint64_t clock)
{
    while (l->sleepers && l->sleepers->wake <= clock) {
        struct actor *a = l->sleepers;

        l->sleepers = a->next;
        push(l, a);
    }
}

static void fall_asleep(struct host *h, struct lane *l, struct actor *a, uint64_t clock)
{
    struct actor **at = &l->sleepers;

    a->wake = clock + drawn_time(a->group, a->group->sleep, draw(h, l));
    a->burst = drawn_time(a->group, a->group->run, draw(h, l));
    while (*at && (*at)->wake <= a->wake)
        at = &(*at)->next;
    a->next = *at;
    *at = a;
}

static void switch_to(struct host *h, uint16_t cpu, const struct actor *a)
{
    struct op op = {.cpu = cpu, .a = a ? (int32_t)(a - h->actors) : IDLE};

    op_switch(h->m, &h->m->cpus[cpu], &op);
    h->lanes[cpu].slice_end = h->m->cpus[cpu].cycles + h->timeslice;
}

static inline void pass(struct host *h, struct cpu *c, uint64_t cycles)
{
    op_advance(h->m, c, &(struct op){.a = (int32_t)cycles});
}

static void act(struct host *h, struct lane *l, struct cpu *c, struct actor *a, uint64_t stop)
{
    const struct group *g = a->group;

    while (c->cycles < stop && a->burst > 0) {
        uint64_t room = stop - c->cycles < a->burst ? stop - c->cycles : a->burst;

        if (g->type == PLAIN) {
            a->left = room + 1;
        } else if (a->kind == NOWHERE) {
            uint64_t bits = draw(h, l);

            a->left = drawn_time(g, g->mean, bits);
            a->kind = g->type == VCPU ? drawn_kind(g, bits) : 0;
        }
        if (a->left > room) {
            a->left -= room;
            a->burst -= room;
            pass(h, c, room);
            return;
        }
        a->burst -= a->left;
        pass(h, c, a->left);
        if (g->type == VCPU)
            op_exit(h->m, c, &(struct op){.a = a->kind});
        else
            op_io(h->m, c, &(struct op){.a = a->port, .arg = 1});
        a->kind = NOWHERE;
    }
}

static void run_cpu(struct host *h, uint16_t cpu, uint64_t end)
{
    struct lane *l = &h->lanes[cpu];
    struct cpu *c = &h->m->cpus[cpu];

    while (c->cycles < end) {
        struct actor *a = c->task == IDLE ? NULL : &h->actors[c->task], *next;

        if (!a) {
            wake_up(l, c->cycles);
            if (l->head)
                switch_to(h, cpu, pop(l));
            else if (l->sleepers && l->sleepers->wake < end)
                pass(h, c, l->sleepers->wake - c->cycles);
            else
                pass(h, c, end - c->cycles);
        } else if (c->cycles >= l->slice_end) {
            wake_up(l, c->cycles);
            if (l->head) {
                push(l, a);
                switch_to(h, cpu, pop(l));
            } else {
                l->slice_end = c->cycles + h->timeslice;
            }
        } else {
            act(h, l, c, a, l->slice_end < end ? l->slice_end : end);
            if (a->burst == 0) {
                fall_asleep(h, l, a, c->cycles);
                wake_up(l, c->cycles);
                next = pop(l);
                if (next != a)
                    switch_to(h, cpu, next);
            }
        }
    }
}

static void migrate(struct host *h)
{
    int64_t cpus = h->m->cpu_count, cpu = 0, to, at, queued = 0;
    struct actor *a, *before = NULL;
    struct lane *l;

    for (int64_t i = 0; i < cpus; i++)
        queued += h->lanes[i].length;
    if (!queued || cpus == 1)
        return;
    at = (int64_t)draw_below(h, (uint64_t)queued);
    to = (int64_t)draw_below(h, (uint64_t)cpus - 1);
    for (; at >= h->lanes[cpu].length; cpu++)
        at -= h->lanes[cpu].length;
    l = &h->lanes[cpu];
    for (a = l->head; at > 0; at--) {
        before = a;
        a = a->next;
    }
    if (before)
        before->next = a->next;
    else
        l->head = a->next;
    if (l->tail == a)
        l->tail = before;
    l->length--;
    push(&h->lanes[to + (to >= cpu)], a);
}

/* The interface. */

int plain_scenario(struct machine *m, const struct group *groups, const int64_t *tasks,
                   uint64_t timeslice, uint64_t epoch, uint64_t end, uint64_t migrations,
                   uint64_t hz, uint64_t seed);

struct machine *plain_new(int cpus, int tasks, const uint64_t *costs, int kinds,
                          const struct kind *kind_table);
int64_t plain_run(struct machine *m, const struct op *ops, int64_t n, uint8_t *results);
void plain_counters(const struct machine *m, uint64_t *out);
void plain_cycles(const struct machine *m, uint64_t *out);
void plain_reset(struct machine *m);
void plain_free(struct machine *m);
void plain_port_check(uint32_t tr_limit, uint16_t io_base, const uint8_t *tss_map,
                      const uint16_t *ports, const uint8_t *widths, uint8_t *out, int64_t n);
void plain_port_table(uint32_t tr_limit, uint16_t io_base, const uint8_t *tss_map,
                      const uint16_t *ports, const uint8_t *widths, uint8_t *out, int64_t n);

static bool parameters_valid(int cpus, int tasks, const uint64_t *costs, int kinds,
                             const struct kind *kind_table)
{
    if (cpus < 1 || cpus > UINT16_MAX + 1 || tasks < 0 || kinds < 0)
        return false;
    for (int i = 0; i < COSTS; i++)
        if (costs[i] > UINT32_MAX)
            return false;
    for (int i = 0; i < kinds; i++) {
        const struct kind *k = &kind_table[i];

        if (k->cycles > UINT32_MAX || k->user_cycles > UINT32_MAX || k->overlap > UINT32_MAX)
            return false;
        if (k->user && !k->exits)
            return false;
    }
    return true;
}

/* A machine at its start, or NULL: a parameter out of range, or no memory. */
struct machine *plain_new(int cpus, int tasks, const uint64_t *costs, int kinds,
                          const struct kind *kind_table)
{
    struct machine *m;

    if (!parameters_valid(cpus, tasks, costs, kinds, kind_table))
        return NULL;
    m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    m->cpus = calloc((size_t)cpus, sizeof(*m->cpus));
    m->tss_maps = malloc((size_t)cpus * MAP_SIZE);
    m->tasks = calloc((size_t)tasks + 1, sizeof(*m->tasks)); /* + 1: never an empty request */
    m->kinds = calloc((size_t)kinds + 1, sizeof(*m->kinds));
    if (!m->cpus || !m->tss_maps || !m->tasks || !m->kinds) {
        plain_free(m);
        return NULL;
    }
    m->cpu_count = cpus;
    m->task_count = tasks;
    m->kind_count = kinds;
    memcpy(&m->cost, costs, sizeof(m->cost));
    if (kinds)
        memcpy(m->kinds, kind_table, (size_t)kinds * sizeof(*m->kinds));
    plain_reset(m);
    return m;
}

/* Back to the start, counters too. */
void plain_reset(struct machine *m)
{
    m->sequence = 0;
    memset(m->tss_maps, 0xff, (size_t)m->cpu_count * MAP_SIZE);
    for (int i = 0; i < m->cpu_count; i++)
        m->cpus[i] = (struct cpu){
            .tr_limit = TR_LIMIT_FULL,
            .tss_busy = 1,
            .io_base = IO_BASE_VALID,
            .task = IDLE,
            .tss_map = m->tss_maps + (size_t)i * MAP_SIZE,
        };
    for (int i = 0; i < m->task_count; i++) {
        free(m->tasks[i].map);
        m->tasks[i] = new_task;
    }
}

void plain_free(struct machine *m)
{
    if (!m)
        return;
    for (int i = 0; i < m->task_count; i++)
        free(m->tasks[i].map);
    free(m->tss_maps);
    free(m->cpus);
    free(m->tasks);
    free(m->kinds);
    free(m);
}

/*
 * Run n operations. Returns n, or -1 - i where operation i was refused: those before it have been
 * done, it has had no effect. results[i] is 1 or 0 for an IO, 0 for any other operation.
 */
int64_t plain_run(struct machine *m, const struct op *ops, int64_t n, uint8_t *results)
{
    for (int64_t i = 0; i < n; i++) {
        int result = run_op(m, &ops[i]);

        if (result == REFUSED)
            return -1 - i;
        results[i] = (uint8_t)result;
    }
    return n;
}

/* out: COUNTERS values per CPU, in the order of section 7 */
void plain_counters(const struct machine *m, uint64_t *out)
{
    for (int i = 0; i < m->cpu_count; i++)
        memcpy(out + (size_t)i * COUNTERS, &m->cpus[i].n, sizeof(struct counters));
}

void plain_cycles(const struct machine *m, uint64_t *out)
{
    for (int i = 0; i < m->cpu_count; i++)
        out[i] = m->cpus[i].cycles;
}

/* Section 3's check, for n pairs of port and width (1, 2 or 4) against one state. */
void plain_port_check(uint32_t tr_limit, uint16_t io_base, const uint8_t *tss_map,
                      const uint16_t *ports, const uint8_t *widths, uint8_t *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = port_allowed(tr_limit, io_base, tss_map, ports[i], widths[i]);
}

/* The same checks through a table of 64 KiB: bit 0, 1, 2 of a port's byte allow 1, 2, 4 bytes. */
void plain_port_table(uint32_t tr_limit, uint16_t io_base, const uint8_t *tss_map,
                      const uint16_t *ports, const uint8_t *widths, uint8_t *out, int64_t n)
{
    static uint8_t table[65536];

    for (unsigned port = 0; port < 65536; port++)
        table[port] = port_allowed(tr_limit, io_base, tss_map, port, 1) |
                      port_allowed(tr_limit, io_base, tss_map, port, 2) << 1 |
                      port_allowed(tr_limit, io_base, tss_map, port, 4) << 2;
    for (int64_t i = 0; i < n; i++)
        out[i] = (table[ports[i]] & widths[i]) != 0;
}

/*
 * Simulate a host on a machine at its start. tasks: group, CPU, first port and ports of each, as
 * kvmbench.scenario lays them out. Returns 0, or -1: no memory.
 */
int plain_scenario(struct machine *m, const struct group *groups, const int64_t *tasks,
                   uint64_t timeslice, uint64_t epoch, uint64_t end, uint64_t migrations,
                   uint64_t hz, uint64_t seed)
{
    struct host h = {.m = m, .seed = seed, .timeslice = timeslice};
    uint64_t due = 0;

    h.lanes = calloc((size_t)m->cpu_count, sizeof(*h.lanes));
    h.actors = calloc((size_t)m->task_count + 1, sizeof(*h.actors));
    if (!h.lanes || !h.actors) {
        free(h.lanes);
        free(h.actors);
        return -1;
    }
    for (int i = 0; i < m->task_count; i++) {
        struct actor *a = &h.actors[i];
        struct lane *l = &h.lanes[tasks[4 * i + 1]];

        *a = (struct actor){.group = &groups[tasks[4 * i]], .kind = NOWHERE};
        a->port = (int32_t)tasks[4 * i + 2];
        a->burst = UINT64_C(1) << 63;
        if (a->group->sleep)
            a->burst = drawn_time(a->group, a->group->run, draw(&h, l));
        push(l, a);
    }
    for (int i = 0; i < m->task_count; i++) {
        const int64_t *row = &tasks[4 * i];
        uint16_t cpu = (uint16_t)row[1];

        if (row[3]) {
            switch_to(&h, cpu, &h.actors[i]);
            op_ioperm(m, &m->cpus[cpu],
                      &(struct op){.a = (int32_t)row[2], .b = (int32_t)row[3], .arg = 1});
            switch_to(&h, cpu, NULL);
        }
    }
    for (uint64_t now = 0; now < end;) {
        if (now > 0)
            for (due += migrations; due >= hz; due -= hz)
                migrate(&h);
        now = end - now < epoch ? end : now + epoch;
        for (int cpu = 0; cpu < m->cpu_count; cpu++)
            run_cpu(&h, (uint16_t)cpu, now);
    }
    free(h.lanes);
    free(h.actors);
    return 0;
}
