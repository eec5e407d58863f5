/* The loop around KVM_RUN, the signal that stops it, and two system calls: _kvm.pyx in C. */
#ifndef KVMBENCH_KVM_RUN_H
#define KVMBENCH_KVM_RUN_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include <x86intrin.h>
#include <linux/kvm.h>

/* Missing from older headers; the numbers are the kernel's ABI. */
#ifndef KVM_CAP_BINARY_STATS_FD
#define KVM_CAP_BINARY_STATS_FD 203
#endif
#ifndef KVM_GET_STATS_FD
#define KVM_GET_STATS_FD _IO(KVMIO, 0xce)
#endif
#ifndef KVM_CAP_DISABLE_QUIRKS2
#define KVM_CAP_DISABLE_QUIRKS2 213
#endif
#ifndef KVM_X86_QUIRK_FIX_HYPERCALL_INSN
#define KVM_X86_QUIRK_FIX_HYPERCALL_INSN (1 << 5)
#endif
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

/* The kvm_run of the vCPU that this thread runs, else NULL. */
static __thread struct kvm_run *volatile kb_running;
static __thread volatile sig_atomic_t kb_kicked;

static void kb_on_kick(int number)
{
    (void)number;
    kb_kicked = 1;
    /* A kick just before the ioctl would be lost without this. */
    if (kb_running)
        kb_running->immediate_exit = 1;
}

static int kb_signal(void) { return SIGRTMAX - 3; }

static sigset_t kb_signals(void)
{
    sigset_t ours;
    sigemptyset(&ours);
    sigaddset(&ours, kb_signal());
    return ours;
}

/* Take the signal for a run of this thread: install the handler, without SA_RESTART, and unblock.
 *
 * A mask is inherited: with the signal blocked by a caller, no kick would arrive. -1 where another
 * handler has the signal. The GIL guards the two variables.
 */
static int kb_runs;                  /* that have the handler */
static struct sigaction kb_before;   /* the action before the first of them */

static int kb_take_signal(int *was_blocked)
{
    struct sigaction action = {.sa_handler = kb_on_kick};
    sigset_t ours = kb_signals(), mask;
    if (!kb_runs) {
        if (sigaction(kb_signal(), NULL, &kb_before))
            return -1;
        if (kb_before.sa_handler != SIG_DFL && kb_before.sa_handler != SIG_IGN) {
            errno = EBUSY;
            return -1;
        }
        if (sigaction(kb_signal(), &action, NULL))
            return -1;
    }
    kb_runs++;
    pthread_sigmask(SIG_UNBLOCK, &ours, &mask);
    *was_blocked = sigismember(&mask, kb_signal());
    return 0;
}

/* Restore mask and handler. No kick is pending: the last one was sent before this thread's last
 * system call (timer_delete), on whose return the kernel delivered it.
 */
static void kb_give_signal_back(int was_blocked)
{
    sigset_t ours = kb_signals();
    if (was_blocked)
        pthread_sigmask(SIG_BLOCK, &ours, NULL);
    if (!--kb_runs)
        sigaction(kb_signal(), &kb_before, NULL);
}

static int kb_thread(void) { return (int)syscall(SYS_gettid); }

/* Kick this thread after `seconds`, then every 50 ms in case a kick comes too early. */
static int kb_arm(timer_t *timer, double seconds)
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = kb_signal()};
    struct itimerspec when = {.it_value.tv_sec = (time_t)seconds, .it_interval.tv_nsec = 50000000};
    event.sigev_notify_thread_id = kb_thread();
    when.it_value.tv_nsec = (long)((seconds - (double)when.it_value.tv_sec) * 999999998) + 1;
    if (timer_create(CLOCK_MONOTONIC, &event, timer))
        return -1;
    if (timer_settime(*timer, 0, &when, NULL)) {
        timer_delete(*timer);
        return -1;
    }
    return 0;
}

typedef struct {
    int reason;           /* KVM_EXIT_*, or one of KB_* */
    int error;            /* errno of KB_FAILED */
    uint16_t port;        /* of the OUT that stopped it */
    uint32_t value;       /* of that OUT */
    uint64_t io, mmio;    /* exits that kb_run answered */
    uint64_t tsc_in;      /* before the first KVM_RUN */
    uint64_t tsc_out;     /* after the last one */
} kb_outcome;

enum { KB_STOPPED = 1000, KB_KICKED, KB_SIGNALLED, KB_FAILED, KB_LOST };

/* An operation of a task outside the guest; the others wait in KB_TAKE meanwhile. */
typedef struct {
    int what;             /* KB_GIVE ... */
    int fd;               /* of KB_GIVE and KB_TAKE: a pipe's end */
    uint32_t first;       /* port */
    uint32_t count;       /* of ports; of KB_IN the width in bytes */
    int on;
} kb_act;

enum { KB_GIVE, KB_TAKE, KB_IOPERM, KB_IN };

/* IN at CPL 3, which the kernel may answer with SIGSEGV: then 0, else 1. */
static __thread volatile int kb_in_bytes;    /* of the instruction under way, or 0 */
static __thread volatile int kb_denied;

static void kb_on_fault(int number, siginfo_t *info, void *context)
{
    (void)info;
    if (!kb_in_bytes) {
        signal(number, SIG_DFL);
        return;
    }
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += kb_in_bytes;
    kb_denied = 1;
}

static int kb_in(uint16_t port, int width)
{
    struct sigaction action = {.sa_sigaction = kb_on_fault, .sa_flags = SA_SIGINFO}, before;
    uint32_t value = 0;
    sigaction(SIGSEGV, &action, &before);
    kb_denied = 0;
    kb_in_bytes = width == 2 ? 2 : 1;
    if (width == 1)
        __asm__ volatile("inb %%dx, %%al" : "+a"(value) : "d"(port) : "memory");
    else if (width == 2)
        __asm__ volatile("inw %%dx, %%ax" : "+a"(value) : "d"(port) : "memory");
    else
        __asm__ volatile("inl %%dx, %%eax" : "+a"(value) : "d"(port) : "memory");
    kb_in_bytes = 0;
    sigaction(SIGSEGV, &before, NULL);
    return !kb_denied;
}

/* Do `acts` in order; -1 with errno where one fails, EPIPE where the other task is gone. */
static int kb_do(const kb_act *acts, int n)
{
    char byte = 0;
    for (const kb_act *act = acts; act < acts + n; act++) {
        ssize_t moved = 1;
        if (act->what == KB_IN) {
            if (!kb_in((uint16_t)act->first, (int)act->count)) {
                errno = EACCES;
                return -1;
            }
        } else if (act->what == KB_IOPERM) {
            if (ioperm(act->first, act->count, act->on))
                return -1;
        } else {
            do
                moved = act->what == KB_GIVE ? write(act->fd, &byte, 1) : read(act->fd, &byte, 1);
            while (moved < 0 && errno == EINTR && !kb_kicked);
            if (moved == 0)
                errno = EPIPE;
            if (moved != 1)
                return -1;
        }
    }
    return 0;
}

/* Run a vCPU until an OUT to a port in [stop, stop + 4), a kick, or an exit without an answer.
 *
 * A port or an address without a device reads as all ones, as on a bus, after the thread has done
 * the `n` acts. `outcome` adds up, so that a run can continue after Python has handled its signals.
 */
static void kb_run(int fd, struct kvm_run *run, uint16_t stop, const kb_act *acts, int n,
                   kb_outcome *outcome)
{
    uint8_t *data;
    kb_running = run;
    if (!outcome->tsc_in)
        outcome->tsc_in = __rdtsc();
    for (;;) {
        if (kb_kicked) {
            outcome->reason = KB_KICKED;
            break;
        }
        if (ioctl(fd, KVM_RUN, 0) < 0) {
            if (errno == EINTR || errno == EAGAIN) {
                if (kb_kicked)
                    continue;
                outcome->reason = KB_SIGNALLED;
                break;
            }
            outcome->error = errno;
            outcome->reason = KB_FAILED;
            break;
        }
        if (run->exit_reason == KVM_EXIT_IO) {
            data = (uint8_t *)run + run->io.data_offset;
            if (run->io.direction == KVM_EXIT_IO_IN) {
                memset(data, 0xff, (size_t)run->io.size * run->io.count);
            } else if ((uint16_t)(run->io.port - stop) < 4) {
                outcome->port = run->io.port;
                outcome->value = 0;
                memcpy(&outcome->value, data, run->io.size <= 4 ? run->io.size : 4);
                outcome->reason = KB_STOPPED;
                break;
            }
            outcome->io++;
        } else if (run->exit_reason == KVM_EXIT_MMIO) {
            if (!run->mmio.is_write)
                memset(run->mmio.data, 0xff, sizeof run->mmio.data);
            outcome->mmio++;
        } else {
            outcome->reason = (int)run->exit_reason;
            break;
        }
        if (n && kb_do(acts, n) && !kb_kicked) {
            outcome->error = errno;
            outcome->reason = KB_LOST;
            break;
        }
    }
    outcome->tsc_out = __rdtsc();
    kb_running = NULL;
}

/* Let KVM finish the access that a run stopped at, without entering the guest. */
static void kb_settle(int fd, struct kvm_run *run)
{
    run->immediate_exit = 1;
    (void)ioctl(fd, KVM_RUN, 0);
    run->immediate_exit = 0;
}

static void kb_clear_kick(struct kvm_run *run)
{
    kb_kicked = 0;
    run->immediate_exit = 0;
}

static uint64_t kb_syscalls(int calls)
{
    uint64_t begin = __rdtsc();
    for (int i = 0; i < calls; i++)
        (void)syscall(SYS_getppid);
    return __rdtsc() - begin;
}

static int kb_kick(int thread)
{
    return (int)syscall(SYS_tgkill, getpid(), thread, kb_signal());
}

#endif
