"""A virtual machine on KVM's ioctls (linux/kvm.h): its vCPUs, memory and counters.

kvmbench.live.machine makes it and kvmbench.live.worker measures with it. Linux on x86-64 only.
"""

import os
import struct

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strerror

from kvmbench.errors import KvmError

cdef extern from "<linux/kvm.h>":
    struct kvm_run:
        pass
    struct kvm_regs:
        uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, rip, rflags
        uint64_t r8, r9, r10, r11, r12, r13, r14, r15
    struct kvm_segment:
        uint64_t base
        uint32_t limit
        uint16_t selector
        uint8_t type, present, dpl, db, s, l, g, avl, unusable
    struct kvm_dtable:
        uint64_t base
        uint16_t limit
    struct kvm_sregs:
        kvm_segment cs, ds, es, fs, gs, ss, tr, ldt
        kvm_dtable gdt, idt
        uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base
    struct kvm_userspace_memory_region:
        uint32_t slot, flags
        uint64_t guest_phys_addr, memory_size, userspace_addr
    struct kvm_pit_config:
        uint32_t flags
    struct kvm_mp_state:
        uint32_t mp_state
    struct kvm_lapic_state:
        char regs[1024]
    struct kvm_vcpu_events:
        uint32_t flags
    struct kvm_enable_cap:
        uint32_t cap
        uint64_t args[4]
    struct kvm_cpuid_entry2:
        uint32_t function, index, flags, eax, ebx, ecx, edx
    struct kvm_msr_entry:
        uint32_t index
        uint64_t data
    struct kvm_ioeventfd:
        uint64_t datamatch, addr
        uint32_t len
        int fd
        uint32_t flags
    enum:
        KVM_GET_API_VERSION, KVM_CREATE_VM, KVM_CHECK_EXTENSION, KVM_GET_VCPU_MMAP_SIZE
        KVM_GET_SUPPORTED_CPUID, KVM_SET_CPUID2, KVM_CREATE_VCPU, KVM_SET_USER_MEMORY_REGION
        KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2, KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR
        KVM_ENABLE_CAP, KVM_IOEVENTFD, KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS
        KVM_GET_MSRS, KVM_SET_MSRS, KVM_SET_MP_STATE, KVM_GET_LAPIC, KVM_SET_LAPIC
        KVM_SET_VCPU_EVENTS, KVM_GET_TSC_KHZ, KVM_GET_STATS_FD
        KVM_CAP_IRQCHIP, KVM_CAP_PIT2, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_IOEVENTFD_ANY_LENGTH
        KVM_CAP_TSC_DEADLINE_TIMER, KVM_CAP_BINARY_STATS_FD, KVM_CAP_DISABLE_QUIRKS2
        KVM_X86_QUIRK_FIX_HYPERCALL_INSN, KVM_MP_STATE_RUNNABLE
        KVM_IOEVENTFD_FLAG_DATAMATCH, KVM_IOEVENTFD_FLAG_PIO
        KVM_EXIT_UNKNOWN, KVM_EXIT_EXCEPTION, KVM_EXIT_HLT, KVM_EXIT_SHUTDOWN
        KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_SYSTEM_EVENT

cdef extern from "kvm_run.h":
    ctypedef struct kb_outcome:
        int reason, error
        uint16_t port
        uint32_t value
        uint64_t io, mmio, tsc_in, tsc_out
    ctypedef struct kb_act:
        int what, fd
        uint32_t first, count
        int on
    ctypedef void* timer_t
    enum:
        KB_STOPPED, KB_KICKED, KB_SIGNALLED, KB_FAILED, KB_LOST
        KB_GIVE, KB_TAKE, KB_IOPERM, KB_IN
        MADV_DONTFORK, PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_SHARED, MAP_ANONYMOUS
    void* MAP_FAILED
    void kb_run(int fd, kvm_run* run, uint16_t stop, const kb_act* acts, int n,
                kb_outcome* outcome) noexcept nogil
    int kb_do(const kb_act* acts, int n) noexcept nogil
    int kb_in(uint16_t port, int width) noexcept nogil
    void kb_settle(int fd, kvm_run* run) noexcept nogil
    void kb_clear_kick(kvm_run* run) noexcept nogil
    int kb_take_signal(int* was_blocked) noexcept nogil
    void kb_give_signal_back(int was_blocked) noexcept nogil
    int c_ioperm "ioperm"(unsigned long first, unsigned long count, int on) noexcept nogil
    uint64_t kb_syscalls(int calls) noexcept nogil
    int kb_thread() noexcept nogil
    int kb_arm(timer_t* timer, double seconds) noexcept nogil
    int kb_kick(int thread) noexcept nogil
    int ioctl(int fd, unsigned long request, ...) noexcept nogil
    int timer_delete(timer_t timer) noexcept nogil
    int close(int fd) noexcept nogil
    ssize_t pread(int fd, void* buffer, size_t count, size_t offset) noexcept nogil
    void* mmap(void* at, size_t size, int protect, int flags, int fd, size_t offset) noexcept nogil
    int munmap(void* at, size_t size) noexcept nogil
    int madvise(void* at, size_t size, int advice) noexcept nogil

API_VERSION = 12  # of KVM, and fixed (Documentation/virt/kvm/api.rst, 4.1)

REQUIRED = {  # Linux 4.13 has all of them
    "irqchip": KVM_CAP_IRQCHIP,
    "pit": KVM_CAP_PIT2,
    "immediate_exit": KVM_CAP_IMMEDIATE_EXIT,
    "ioeventfd_any_length": KVM_CAP_IOEVENTFD_ANY_LENGTH,
    "tsc_deadline": KVM_CAP_TSC_DEADLINE_TIMER,
}
OPTIONAL = {"stats_fd": KVM_CAP_BINARY_STATS_FD, "disable_quirks2": KVM_CAP_DISABLE_QUIRKS2}

REASONS = {
    KB_STOPPED: "stopped",
    KB_KICKED: "kicked",
    KVM_EXIT_UNKNOWN: "an exit that KVM does not know",
    KVM_EXIT_EXCEPTION: "an exception",
    KVM_EXIT_HLT: "HLT",
    KVM_EXIT_SHUTDOWN: "a triple fault",
    KVM_EXIT_FAIL_ENTRY: "a failed VM entry",
    KVM_EXIT_INTERNAL_ERROR: "an internal error of KVM",
    KVM_EXIT_SYSTEM_EVENT: "a system event",
}

cdef enum:
    CPUS = 2
    ACTS = 64  # at most, of a list
    CPUID_MAX = 256  # entries (KVM_MAX_CPUID_ENTRIES)

cdef struct Cpuid:
    uint32_t nent
    uint32_t padding
    kvm_cpuid_entry2 entries[CPUID_MAX]

cdef struct OneMsr:
    uint32_t nmsrs
    uint32_t padding
    kvm_msr_entry entry


cdef int _check(int result, str what) except -1:
    if result < 0:
        raise KvmError(errno, strerror(errno).decode(), what)
    return result


cdef int _ask(int fd, unsigned long request, unsigned long argument) noexcept:
    """Call ioctl with the GIL released: to make or end a machine KVM waits for all CPUs."""
    cdef int result
    with nogil:
        result = ioctl(fd, request, argument)
    return result


cdef int _do(int fd, unsigned long request, const void* argument, str what) except -1:
    return _check(_ask(fd, request, <unsigned long>argument), what)


cdef void _shut(int* fd) noexcept nogil:
    if fd[0] >= 0:
        close(fd[0])
    fd[0] = -1


cdef OneMsr _one_msr(uint32_t index, uint64_t value) noexcept:
    cdef OneMsr one
    memset(&one, 0, sizeof(one))
    one.nmsrs, one.entry.index, one.entry.data = 1, index, value
    return one


cdef class Vm:
    """A virtual machine with an interrupt chip and a timer in the kernel, as QEMU makes it.

    `cpus` is the number of vCPUs and `memory` the bytes of RAM from guest address 0 on. Raises
    FileNotFoundError, PermissionError or another OSError where /dev/kvm cannot be opened, KvmError
    (an OSError) where KVM refuses, ValueError for sizes that are not whole pages.

    A vCPU belongs to one thread at a time. `close`, or the end of a `with` block, frees all
    memory and descriptors.
    """

    cdef int kvm, vm
    cdef readonly int cpus
    cdef uint8_t* ram
    cdef size_t ram_size, run_size
    cdef int vcpu[CPUS]
    cdef int stats_fd[CPUS]
    cdef kvm_run* running[CPUS]
    cdef int thread[CPUS]      # that is inside run(), or 0
    cdef kvm_sregs reset_state[CPUS]
    cdef kvm_lapic_state lapic[CPUS]
    cdef bint has_lapic[CPUS]
    cdef readonly dict capabilities
    cdef readonly bint quirk_off    # the hypercall is executed as it is written
    cdef dict layouts

    def __cinit__(self):
        cdef int i
        self.kvm = self.vm = -1
        for i in range(CPUS):
            self.vcpu[i] = self.stats_fd[i] = -1
        self.layouts = {}

    def __init__(self, *, int cpus=1, size_t memory=1 << 21):
        if not 1 <= cpus <= CPUS:
            raise ValueError(f"cpus is {cpus}, not 1 to {CPUS}")
        if memory == 0 or memory % 4096:
            raise ValueError(f"memory is {memory} bytes, not whole pages of 4096")
        if self.kvm >= 0:
            raise ValueError("this Vm is set up already")
        try:
            self._set_up(cpus, memory)
        except BaseException:
            self.close()
            raise

    cdef int _set_up(self, int cpus, size_t memory) except -1:
        cdef kvm_userspace_memory_region region
        cdef kvm_pit_config pit
        cdef kvm_enable_cap cap
        cdef uint64_t identity = 0xfffbc000
        cdef void* at
        cdef int i
        self.kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        version = _ask(self.kvm, KVM_GET_API_VERSION, 0)
        if version != API_VERSION:
            raise KvmError(0, f"is {version}, expected {API_VERSION}", "KVM_GET_API_VERSION")
        self.vm = _ask(self.kvm, KVM_CREATE_VM, 0)
        while self.vm < 0 and errno == EINTR:
            PyErr_CheckSignals()
            self.vm = _ask(self.kvm, KVM_CREATE_VM, 0)
        _check(self.vm, "KVM_CREATE_VM")
        self.capabilities = {
            name: max(0, _ask(self.vm, KVM_CHECK_EXTENSION, number))
            for name, number in (REQUIRED | OPTIONAL).items()
        }
        for name in REQUIRED:
            if not self.capabilities[name]:
                raise KvmError(0, "this KVM does not have it", f"capability {name}")
        # Intel without unrestricted guest needs room for these; elsewhere they do no harm.
        _do(self.vm, KVM_SET_IDENTITY_MAP_ADDR, &identity, "KVM_SET_IDENTITY_MAP_ADDR")
        _check(_ask(self.vm, KVM_SET_TSS_ADDR, identity + 0x1000), "KVM_SET_TSS_ADDR")
        # A program has the hypercall of the host's vendor; KVM's patching would change the row.
        if self.capabilities["disable_quirks2"] & KVM_X86_QUIRK_FIX_HYPERCALL_INSN:
            memset(&cap, 0, sizeof(cap))
            cap.cap = KVM_CAP_DISABLE_QUIRKS2
            cap.args[0] = KVM_X86_QUIRK_FIX_HYPERCALL_INSN
            self.quirk_off = _ask(self.vm, KVM_ENABLE_CAP, <unsigned long>&cap) == 0
        _check(_ask(self.vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP")
        memset(&pit, 0, sizeof(pit))
        _do(self.vm, KVM_CREATE_PIT2, &pit, "KVM_CREATE_PIT2")

        at = mmap(NULL, memory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if at == MAP_FAILED:
            raise KvmError(errno, strerror(errno).decode(), "mmap of guest memory")
        self.ram, self.ram_size = <uint8_t*>at, memory
        madvise(at, memory, MADV_DONTFORK)  # a fork would make the guest's next stores fault
        region = kvm_userspace_memory_region(
            slot=0, flags=0, guest_phys_addr=0, memory_size=memory, userspace_addr=<uint64_t>at)
        _do(self.vm, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION")
        self.run_size = _check(_ask(self.kvm, KVM_GET_VCPU_MMAP_SIZE, 0),
                               "KVM_GET_VCPU_MMAP_SIZE")
        self.cpus = cpus
        for i in range(cpus):
            self._add_vcpu(i)
        return 0

    cdef int _add_vcpu(self, int cpu) except -1:
        cdef Cpuid cpuid
        cdef kvm_cpuid_entry2* entry
        cdef void* at
        cdef uint32_t i
        self.vcpu[cpu] = _check(_ask(self.vm, KVM_CREATE_VCPU, cpu), "KVM_CREATE_VCPU")
        at = mmap(NULL, self.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, self.vcpu[cpu], 0)
        if at == MAP_FAILED:
            raise KvmError(errno, strerror(errno).decode(), "mmap of kvm_run")
        self.running[cpu] = <kvm_run*>at
        self._supported(&cpuid)
        for i in range(cpuid.nent):
            entry = &cpuid.entries[i]
            if entry.function == 1:
                entry.ebx = (entry.ebx & 0xffffff) | <uint32_t>cpu << 24
                entry.ecx |= 1 << 24  # the TSC-deadline timer: KVM leaves this bit to userspace
            elif entry.function in (0xb, 0x1f):
                entry.edx = cpu
        _do(self.vcpu[cpu], KVM_SET_CPUID2, &cpuid, "KVM_SET_CPUID2")
        _do(self.vcpu[cpu], KVM_GET_SREGS, &self.reset_state[cpu], "KVM_GET_SREGS")
        if self.capabilities["stats_fd"]:
            self.stats_fd[cpu] = _check(_ask(self.vcpu[cpu], KVM_GET_STATS_FD, 0),
                                        "KVM_GET_STATS_FD")
            self.layouts[cpu] = _stats_layout(self.stats_fd[cpu])
        return 0

    cdef int _supported(self, Cpuid* cpuid) except -1:
        memset(cpuid, 0, sizeof(Cpuid))
        cpuid.nent = CPUID_MAX
        return _do(self.kvm, KVM_GET_SUPPORTED_CPUID, cpuid, "KVM_GET_SUPPORTED_CPUID")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __dealloc__(self):
        with nogil:
            self._free()

    def close(self):
        """Free memory and descriptors; a second call does nothing.

        Raises ValueError while a thread is in `run`.
        """
        cdef int i
        for i in range(CPUS):
            if self.thread[i]:
                raise ValueError(f"vCPU {i} is running")
        with nogil:
            self._free()

    cdef void _free(self) noexcept nogil:
        cdef int i
        for i in range(CPUS):
            if self.running[i] != NULL:
                munmap(self.running[i], self.run_size)
                self.running[i] = NULL
            _shut(&self.stats_fd[i])
            _shut(&self.vcpu[i])
        _shut(&self.vm)
        _shut(&self.kvm)
        if self.ram != NULL:  # after the descriptors: the kernel reads it through the VM
            munmap(self.ram, self.ram_size)
            self.ram = NULL

    cdef int _cpu(self, int cpu) except -1:
        if not 0 <= cpu < self.cpus or self.vcpu[cpu] < 0:
            if self.vm < 0:
                raise ValueError("this Vm is closed")
            raise IndexError(f"vCPU {cpu} is not one of {self.cpus}")
        return cpu

    cdef int _range(self, size_t address, size_t size) except -1:
        if self.ram == NULL:
            raise ValueError("this Vm is closed")
        if address > self.ram_size or size > self.ram_size - address:
            raise IndexError(f"{size} bytes at {address:#x} are not all in guest memory")
        return 0

    def write(self, size_t address, const uint8_t[::1] content not None):
        """Copy `content` into guest memory. Raises IndexError where it does not fit."""
        self._range(address, content.shape[0])
        if content.shape[0]:
            memcpy(self.ram + address, &content[0], content.shape[0])

    def read(self, size_t address, size_t size):
        """Return `size` bytes of guest memory. Raises IndexError where they are not all there."""
        self._range(address, size)
        return PyBytes_FromStringAndSize(<char*>self.ram + address, size)

    def cpuid(self):
        """Return the CPUID that KVM supports: (leaf, subleaf) -> (eax, ebx, ecx, edx)."""
        cdef Cpuid cpuid
        cdef uint32_t i
        if self.kvm < 0:
            raise ValueError("this Vm is closed")
        self._supported(&cpuid)
        return {
            (cpuid.entries[i].function, cpuid.entries[i].index): (
                cpuid.entries[i].eax, cpuid.entries[i].ebx,
                cpuid.entries[i].ecx, cpuid.entries[i].edx,
            )
            for i in range(cpuid.nent)
        }

    def tsc_khz(self, int cpu=0):
        """Return the frequency of the vCPU's TSC in kHz as KVM knows it, or None."""
        cdef int khz = _ask(self.vcpu[self._cpu(cpu)], KVM_GET_TSC_KHZ, 0)
        return khz if khz > 0 else None

    def get_msr(self, int cpu, uint32_t index):
        """Return an MSR of the vCPU, or None where KVM does not have it."""
        cdef OneMsr one = _one_msr(index, 0)
        done = _do(self.vcpu[self._cpu(cpu)], KVM_GET_MSRS, &one, "KVM_GET_MSRS")
        return one.entry.data if done else None

    def set_msr(self, int cpu, uint32_t index, uint64_t value):
        """Set an MSR of the vCPU and return whether KVM accepted the value."""
        cdef OneMsr one = _one_msr(index, value)
        return _do(self.vcpu[self._cpu(cpu)], KVM_SET_MSRS, &one, "KVM_SET_MSRS") == 1

    def ioeventfd(self, uint64_t address, uint32_t size, *, bint pio, data=None, event=None):
        """Let a write of `size` bytes to a port or an address raise an event in the kernel.

        A `size` of 0 matches a write of any size. `data` is the value to match, or None for any.
        `event` is the descriptor of an eventfd, by default one that no thread reads.
        """
        cdef kvm_ioeventfd request
        if self.vm < 0:
            raise ValueError("this Vm is closed")
        memset(&request, 0, sizeof(request))
        request.addr, request.len = address, size
        if pio:
            request.flags |= KVM_IOEVENTFD_FLAG_PIO
        if data is not None:
            request.datamatch = data
            request.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH
        request.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) if event is None else event
        try:
            _do(self.vm, KVM_IOEVENTFD, &request, "KVM_IOEVENTFD")
        finally:
            if event is None:
                close(request.fd)  # KVM holds the event (eventfd_ctx_fdget) until the machine ends

    def keep_lapic(self, int cpu):
        """Save the state of the vCPU's local APIC, which `start` restores."""
        cdef int fd = self.vcpu[self._cpu(cpu)]
        _do(fd, KVM_GET_LAPIC, &self.lapic[cpu], "KVM_GET_LAPIC")
        self.has_lapic[cpu] = True

    def start(self, int cpu, *, uint64_t rip, uint64_t rsp, uint64_t cr3, gdt, idt, tss,
              int cpl=0, uint64_t rsi=0, uint64_t rdi=0, uint64_t iopl=0):
        """Put the vCPU at `rip` in long mode with CPL 0 or 3, without its earlier state.

        `gdt`, `idt` and `tss` are (address, limit) of the tables; kvmbench.guest.image has the
        selectors; `iopl`, 0 to 3, is that of RFLAGS. Raises ValueError for another CPL or IOPL.
        """
        cdef kvm_sregs state
        cdef kvm_regs regs
        cdef kvm_mp_state runnable
        cdef kvm_segment code, data
        cdef kvm_vcpu_events events
        cdef uint64_t apic_base
        cdef int fd = self.vcpu[self._cpu(cpu)]
        if cpl not in (0, 3):
            raise ValueError(f"cpl is {cpl}, not 0 or 3")
        if iopl > 3:
            raise ValueError(f"iopl is {iopl}, not 0 to 3")
        kb_settle(fd, self.running[cpu])
        _do(fd, KVM_GET_SREGS, &state, "KVM_GET_SREGS")
        apic_base = state.apic_base
        runnable.mp_state = KVM_MP_STATE_RUNNABLE
        _do(fd, KVM_SET_MP_STATE, &runnable, "KVM_SET_MP_STATE")
        state = self.reset_state[cpu]
        memset(&code, 0, sizeof(code))
        code.limit, code.type, code.present, code.s, code.l, code.g = 0xffffffff, 11, 1, 1, 1, 1
        code.selector, code.dpl = (0x08, 0) if cpl == 0 else (0x23, 3)
        data = code
        data.type, data.l, data.db = 3, 0, 1
        data.selector = 0x10 if cpl == 0 else 0x1b
        state.cs = code
        state.ss = state.ds = state.es = state.fs = state.gs = data
        memset(&state.tr, 0, sizeof(kvm_segment))
        state.tr.base, state.tr.limit = tss
        state.tr.selector, state.tr.type, state.tr.present = 0x28, 11, 1
        memset(&state.ldt, 0, sizeof(kvm_segment))
        state.ldt.unusable, state.ldt.type = 1, 2
        state.gdt.base, state.gdt.limit = gdt
        state.idt.base, state.idt.limit = idt
        state.cr0 = 0x80010033  # PG, WP, NE, ET, MP, PE
        state.cr3 = cr3
        state.cr4 = 0x6a0  # OSXMMEXCPT, OSFXSR, PGE, PAE
        state.efer = 0xd00  # NXE, LMA, LME
        state.cr8 = 0
        state.apic_base = apic_base
        _do(fd, KVM_SET_SREGS, &state, "KVM_SET_SREGS")
        # No interrupt, exception or timer of an earlier program may reach the next one.
        memset(&events, 0, sizeof(events))
        _do(fd, KVM_SET_VCPU_EVENTS, &events, "KVM_SET_VCPU_EVENTS")
        if self.has_lapic[cpu]:
            self.set_msr(cpu, 0x6e0, 0)  # IA32_TSC_DEADLINE
            _do(fd, KVM_SET_LAPIC, &self.lapic[cpu], "KVM_SET_LAPIC")
        memset(&regs, 0, sizeof(regs))
        regs.rip, regs.rsp, regs.rflags, regs.rsi, regs.rdi = rip, rsp, 2 | iopl << 12, rsi, rdi
        _do(fd, KVM_SET_REGS, &regs, "KVM_SET_REGS")

    def registers(self, int cpu):
        """Return the general registers, rip, rflags and cr2 by name."""
        cdef kvm_regs regs
        cdef kvm_sregs state
        cdef int fd = self.vcpu[self._cpu(cpu)]
        _do(fd, KVM_GET_REGS, &regs, "KVM_GET_REGS")
        _do(fd, KVM_GET_SREGS, &state, "KVM_GET_SREGS")
        found = dict(regs)
        found["cr2"] = state.cr2
        return found

    def run(self, int cpu, *, uint16_t stop, double timeout, acts=()):
        """Run the vCPU until it writes to a port in [stop, stop + 4), and return the outcome.

        `run` answers the accesses that KVM forwards to userspace, reads with all ones, each after
        it has done `acts`, as `act` takes them. The dict has `reason` (`stopped`; `kicked` after
        `timeout` seconds or by `kick`; else KVM's exit reason), the `port` and the `value` written
        there, the numbers of `io` and `mmio` exits answered, and the host's `tsc`
        cycles from the first entry to the last exit.

        SIGRTMAX-3 stops the guest: during the call it has a handler, and is unblocked in this
        thread; afterwards handler and mask are as before. Raises KvmError where KVM_RUN fails or
        another handler has that signal, ValueError for a vCPU that another thread runs, and the
        exception of a Python signal handler.
        """
        cdef kb_outcome outcome
        cdef timer_t timer
        cdef int was_blocked
        cdef int fd = self.vcpu[self._cpu(cpu)]
        cdef kb_act listed[ACTS]
        cdef int n = _acts(acts, listed)
        if not 0 < timeout < 1e6:
            raise ValueError(f"timeout is {timeout} seconds, not above 0")
        if self.thread[cpu]:
            raise ValueError(f"vCPU {cpu} is running already")
        memset(&outcome, 0, sizeof(outcome))
        kb_clear_kick(self.running[cpu])
        if kb_take_signal(&was_blocked):
            words = "another handler has the signal that stops a guest"
            raise KvmError(errno, words, "SIGRTMAX-3")
        if kb_arm(&timer, timeout):
            kb_give_signal_back(was_blocked)
            raise KvmError(errno, strerror(errno).decode(), "timer_create")
        self.thread[cpu] = kb_thread()
        try:
            while True:
                with nogil:
                    kb_run(fd, self.running[cpu], stop, listed, n, &outcome)
                if outcome.reason != KB_SIGNALLED:
                    break
                PyErr_CheckSignals()
        finally:
            self.thread[cpu] = 0  # so that `kick` sends no more
            timer_delete(timer)
            kb_give_signal_back(was_blocked)
            kb_clear_kick(self.running[cpu])
        if outcome.reason == KB_FAILED:
            raise KvmError(outcome.error, strerror(outcome.error).decode(), "KVM_RUN")
        if outcome.reason == KB_LOST:
            raise KvmError(outcome.error, strerror(outcome.error).decode(), "an act")
        return {
            "reason": REASONS.get(outcome.reason, f"exit reason {outcome.reason}"),
            "port": outcome.port,
            "value": outcome.value,
            "io": outcome.io,
            "mmio": outcome.mmio,
            "tsc": outcome.tsc_out - outcome.tsc_in,
        }

    def kick(self, int cpu):
        """Stop the thread that is in `run` for the vCPU; return False without such a thread."""
        self._cpu(cpu)
        return self.thread[cpu] != 0 and kb_kick(self.thread[cpu]) == 0

    def counters(self, int cpu):
        """Return KVM's cumulative counters of the vCPU by name; empty on a KVM without them."""
        cdef uint64_t value
        found = {}
        for name, at in self.layouts.get(self._cpu(cpu), {}).items():
            if pread(self.stats_fd[cpu], &value, 8, at) == 8:
                found[name] = value
        return found


cdef dict _stats_layout(int fd):
    """Return the offsets of the single cumulative counters in a stats descriptor, by name."""
    # struct kvm_stats_header and kvm_stats_desc (Documentation/virt/kvm/api.rst, 4.133)
    _, name_size, count, _, at, data = struct.unpack("<6I", os.pread(fd, 24, 0))
    entries = struct.iter_unpack(f"<IhHII{name_size}s", os.pread(fd, count * (16 + name_size), at))
    # Type 0 in the low bits is cumulative, unit 0 above them a plain count.
    return {
        name.partition(b"\0")[0].decode(): data + offset
        for flags, _, size, offset, _, name in entries
        if flags & 0xff == 0 and size == 1
    }


ACT_KINDS = {"give": KB_GIVE, "take": KB_TAKE, "ioperm": KB_IOPERM, "in": KB_IN}


cdef int _acts(acts, kb_act* listed) except -1:
    if len(acts) > ACTS:
        raise ValueError(f"{len(acts)} acts are more than {ACTS}")
    cdef int n = 0
    for name, *numbers in acts:
        memset(&listed[n], 0, sizeof(kb_act))
        listed[n].what = ACT_KINDS[name]
        if name in ("give", "take"):
            listed[n].fd, = numbers
        elif name == "in":
            listed[n].first, listed[n].count = numbers
        else:
            listed[n].first, listed[n].count, listed[n].on = numbers
        n += 1
    return n


def act(acts):
    """Do a list of acts over and over until one of them cannot be done; return its error's number.

    An act is ("give", fd) or ("take", fd), which write a byte to a pipe and read one; ("ioperm",
    first, count, on); or ("in", port, width), IN at CPL 3. The number is EPIPE where the pipe's
    other end is closed and EACCES where the kernel answers IN with SIGSEGV.
    """
    cdef kb_act listed[ACTS]
    cdef int n = _acts(acts, listed)
    with nogil:
        while kb_do(listed, n) == 0:
            pass
    return errno


def port_in(uint16_t port, int width):
    """Execute IN of 1, 2 or 4 bytes at CPL 3; return whether it was not answered with SIGSEGV."""
    if width not in (1, 2, 4):
        raise ValueError(f"width is {width}, not 1, 2 or 4")
    return kb_in(port, width) == 1


def ioperm(unsigned long first, unsigned long count, bint on):
    """Call ioperm() for this thread; return 0 or the error's number."""
    return 0 if c_ioperm(first, count, on) == 0 else errno


def syscall_cycles(int calls):
    """Return the cycles of the TSC that `calls` calls of getppid() take, past the C library."""
    cdef uint64_t cycles
    with nogil:
        cycles = kb_syscalls(calls)
    return cycles


cdef extern from *:
    """
    /* A NOP with a displacement that means something to an emulator (kvmbench/lab/instrument.cc).
       The three arguments stand in RDI, RSI and RDX. */
    static void kb_mark(uint64_t what, uint64_t first, uint64_t second)
    {
        __asm__ volatile(
            ".byte 0x0f, 0x1f, 0x84, 0x00, 0x62, 0x6d, 0x76, 0x6b"
            : : "D"(what), "S"(first), "d"(second) : "memory");
    }
    """
    void kb_mark(uint64_t what, uint64_t first, uint64_t second) noexcept nogil


def mark(uint64_t what, uint64_t first=0, uint64_t second=0):
    """Execute a NOP that tells an emulator of `kvmbench lab` about the three; else do nothing."""
    kb_mark(what, first, second)
