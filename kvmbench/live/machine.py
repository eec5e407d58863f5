"""The virtual machine that all workloads share, and what this host's KVM offers it.

The engine, the worker and the port check make their guests here; fitness reports the offer.
"""

from __future__ import annotations

import errno
import grp
import os
import platform
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvmbench.errors import LiveError
from kvmbench.guest import image
from kvmbench.guest.assembler import Code
from kvmbench.live.host import cpu_flags, loaded_vendor

if TYPE_CHECKING:
    from kvmbench.live._kvm import Outcome, Vm

__all__ = ["GP", "IOPERM_REMEDIES", "NEEDS", "NOT_VMX", "NO_BUSY_TSS", "Offer", "accepts_busy_tss"]
__all__ += ["cpus_allowed", "exception", "explain", "held_bitmap_error", "ioperm_reason", "make"]
__all__ += ["missing", "offer", "start", "why_not"]

APIC_BASE, APIC_X2APIC = 0x1B, 1 << 10
ARCH_CAPABILITIES, HAS_TSX_CTRL = 0x10A, 1 << 7
GP = 13  # vector of the exception
SECONDS = 5.0  # for code of a few instructions


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The properties of a guest on this host."""

    module: str | None  # kvm_intel, kvm_amd, kvm_pvm
    hypercall: str  # vmx or svm: whose instruction the CPU has
    capabilities: Mapping[str, int]
    quirk_off: bool
    cpuid: Mapping[tuple[int, int], tuple[int, int, int, int]]
    tsx_ctrl: bool
    cpus: tuple[int, ...]  # host CPUs that this process may use
    no_ioperm: str = ""  # the reason for which no thread here can hold an I/O bitmap
    busy_tss: bool = True  # see `accepts_busy_tss`

    def has(self, leaf: int, register: int, bit: int) -> bool:
        """Return whether a bit of the guest's CPUID is set; registers are EAX 0 to EDX 3."""
        return bool(self.cpuid.get((leaf, 0), (0, 0, 0, 0))[register] >> bit & 1)

    @property
    def target(self) -> image.Target:
        """The target that guest code is assembled for."""
        return image.Target(vendor=self.hypercall)


NO_BUSY_TSS = (
    "every port is denied at CPL 3, whatever the guest's I/O bitmap says: this judge accepts no "
    "busy TSS. QEMU's emulation requires TSS type 9 (available) in TR, where VMX requires 11 (busy)"
)

NEEDS: Mapping[str, tuple[Callable[[Offer], bool], str]] = {
    "spec_ctrl": (lambda o: o.has(7, 3, 26), "this KVM offers no SPEC_CTRL (CPUID 7, EDX 26)"),
    "ibpb": (
        lambda o: o.has(7, 3, 26) or o.has(0x80000008, 1, 12),
        "this KVM offers no IBPB (CPUID 7, EDX 26; 0x80000008, EBX 12)",
    ),
    "tsx_ctrl": (lambda o: o.tsx_ctrl, "this KVM offers no TSX_CTRL (ARCH_CAPABILITIES 7)"),
    "second_cpu": (
        lambda o: len(o.cpus) > 1,
        "a second vCPU would share the one CPU that this process may use",
    ),
    "ioperm": (lambda o: not o.no_ioperm, "{offer.no_ioperm}"),
    "cpl3": (lambda o: o.busy_tss, NO_BUSY_TSS),  # of each program at CPL 3: it ends with an OUT
}
"""What a workload may need: a test of the offer, and the reason for skipping the workload."""


def missing(needs: tuple[str, ...], offer: Offer) -> str | None:
    """Return the reason for skipping a workload with these `needs`, or None."""
    for name in needs:
        if name not in NEEDS:
            return f"needs {name!r}, which is none of {', '.join(NEEDS)}"
        able, words = NEEDS[name]
        if not able(offer):
            return words.format(offer=offer)
    return None


def cpus_allowed() -> tuple[int, ...]:
    """Return the host CPUs that this process may use, in order."""
    return tuple(sorted(os.sched_getaffinity(0)))


def held_bitmap_error() -> int:
    """Return 0 where a thread can hold an I/O bitmap, else the number of ioperm()'s error."""
    from concurrent.futures import ThreadPoolExecutor

    from kvmbench.live._kvm import ioperm

    # A thread that ends: before 5.5 the kernel keeps a bitmap whose ports were all revoked.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ioperm, 0x378, 3, True).result()


def ioperm_reason(number: int) -> str:
    """Return the reason of ioperm()'s error, by its number; "" for 0."""
    if not number:
        return ""
    remedy = IOPERM_REMEDIES.get(number)
    words = f"it needs {remedy}" if remedy else os.strerror(number)
    return f"ioperm(): {errno.errorcode.get(number, str(number))}: {words}"


IOPERM_REMEDIES: Mapping[int, str] = {
    errno.ENOSYS: "a kernel with CONFIG_X86_IOPL_IOPERM",
    errno.EPERM: "CAP_SYS_RAWIO, without lockdown",
}
"""The requirement of ioperm() that each error number says is missing."""


NOT_VMX = (
    "This is not VMX: no reload of TR depends on an I/O bitmap here. On SVM, Linux before 6.5 "
    "reloads TR after every VM exit, with or without a bitmap; from 6.5 on it never does. A "
    "thread that holds a bitmap pays for the bitmap's update at each return to userspace."
)
"""The meaning of a measurement with an I/O bitmap on another CPU than VMX."""


def why_not() -> str | None:
    """Return one line: why this host cannot measure, and the remedy; None where it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"measuring needs Linux on x86-64, this is {sys.platform} on {platform.machine()}"
    try:
        import kvmbench.live._kvm  # noqa: F401
    except ImportError:
        return (
            "kvmbench.live._kvm was not built: it needs a C compiler and the kernel's headers "
            "(linux/kvm.h; package linux-libc-dev or kernel-headers) when kvmbench is installed"
        )
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return device_remedy(error.errno or 0)
    return None


def device_remedy(number: int, path: str = "/dev/kvm") -> str:
    """Return the error of opening /dev/kvm, by its number, with the remedy."""
    if number == errno.ENOENT:
        flags = cpu_flags()
        if flags & {"vmx", "svm"}:
            module = "kvm_intel" if "vmx" in flags else "kvm_amd"
            return f"there is no {path}: sudo modprobe {module}"
        nested = "nested settings of the hypervisor around this machine"
        return (
            f"there is no {path} and the CPU shows neither VMX nor SVM: turn virtualization on "
            f"in the {nested if 'hypervisor' in flags else 'firmware'}"
        )
    if number in (errno.EACCES, errno.EPERM):
        return f"{path}: {os.strerror(number)}: {_rights(path)}"
    return f"{path}: {os.strerror(number)}"


def _rights(path: str) -> str:
    """Return the command that gives this user the device."""
    user = os.environ.get("USER") or str(os.getuid())
    with suppress(OSError, KeyError):
        status = os.stat(path)
        if status.st_gid and status.st_mode & 0o060 == 0o060:
            group = grp.getgrgid(status.st_gid).gr_name
            return f"sudo usermod -aG {group} {user}, then log in again"
    return f"sudo setfacl -m u:{user}:rw {path}"


def _open(cpus: int = 1) -> Vm:
    """Return a new virtual machine. Raises LiveError where KVM makes none."""
    if words := why_not():
        raise LiveError(words)
    from kvmbench.live._kvm import Vm

    try:
        return Vm(cpus=cpus, memory=image.MEMORY)
    except OSError as error:
        raise LiveError(f"/dev/kvm: {error.filename}: {error.strerror}") from None


def make(cpus: int = 2) -> Vm:
    """Return the Vm that measures every workload of a run, its local APICs enabled.

    Raises LiveError where KVM makes none or the guest does not start.
    """
    vm = _open(cpus)
    try:
        for address, content in image.contents().items():
            vm.write(address, content)
        vm.write(image.CODE, image.boot())
        for cpu in range(cpus):
            vm.set_msr(cpu, APIC_BASE, (vm.get_msr(cpu, APIC_BASE) or 0) | APIC_X2APIC)
            start(vm, cpu)
            outcome = vm.run(cpu, stop=image.STOP, timeout=SECONDS)
            if (outcome["reason"], outcome["port"]) != ("stopped", image.STOP):
                raise LiveError(f"the guest does not start: {explain(vm, cpu, outcome)}")
            vm.keep_lapic(cpu)
        for address, port, data in image.EVENTS:
            # As QEMU's pci-testdev has it. With EPT KVM does not emulate a store to an event of
            # any size (KVM_FAST_MMIO_BUS in handle_ept_misconfig, vmx.c).
            vm.ioeventfd(address, 0 if not port and data is None else 1, pio=port, data=data)
    except BaseException:
        vm.close()
        raise
    return vm


def start(vm: Vm, cpu: int, *, rip: int = image.CODE, cpl: int = 0, iterations: int = 0) -> None:
    """Put a vCPU at the beginning of a program."""
    rsp = image.USER_STACK if cpl else image.STACKS[cpu]
    vm.start(cpu, rip=rip, rsp=rsp, cr3=image.PML4, cpl=cpl, rdi=iterations, **image.TABLES)


def explain(vm: Vm, cpu: int, outcome: Outcome) -> str:
    """Return the exception, or the other end, of a guest that did not complete its program."""
    if outcome["reason"] != "stopped":
        return f"an end by {outcome['reason']}"
    if outcome["port"] != image.STOP + 1:
        return "its own stop"
    rip = vm.registers(cpu)["rip"]
    if not image.HANDLERS <= rip < image.CODE:
        return f"its own OUT, at {rip:#x}, to the port by which its handlers report an exception"
    try:
        vector, error, rip = exception(vm, cpu)
    except IndexError:
        return "an exception with its stack lost"
    return f"{EXCEPTIONS.get(vector, f'exception {vector}')} (error code {error:#x}) at {rip:#x}"


def exception(vm: Vm, cpu: int) -> tuple[int, int, int]:
    """Return vector, error code and RIP that the guest's handler left on the stack.

    Raises IndexError for a stack outside the guest's memory.
    """
    frame = vm.read(vm.registers(cpu)["rsp"], 24)
    vector, error, rip = (int.from_bytes(frame[i : i + 8], "little") for i in (0, 8, 16))
    return vector, error, rip


EXCEPTIONS = {
    0: "#DE", 1: "#DB", 2: "NMI", 3: "#BP", 6: "#UD", 7: "#NM", 8: "#DF", 10: "#TS", 11: "#NP",
    12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 18: "#MC", 19: "#XM",
}  # fmt: skip


def accepts_busy_tss(vm: Vm) -> bool:
    """Return whether a guest at CPL 3 reaches a port that its I/O bitmap allows; uses vCPU 0.

    TR has a busy TSS, as LTR leaves it. The processor, or what emulates it, judges the access.
    """
    code = Code(image.CODE)
    code.stop()
    vm.write(image.CODE, code.finish())
    start(vm, 0, cpl=3)
    outcome = vm.run(0, stop=image.STOP, timeout=SECONDS)
    faulted = (outcome["reason"], outcome["port"]) == ("stopped", image.STOP + 1)
    return not faulted or exception(vm, 0)[0] != GP


def offer() -> Offer:
    """Return the properties of a guest here. Raises LiveError where this host cannot measure."""
    with make(cpus=1) as vm:
        cpuid = vm.cpuid()
        _, ebx, ecx, edx = cpuid.get((0, 0), (0, 0, 0, 0))
        maker = b"".join(word.to_bytes(4, "little") for word in (ebx, edx, ecx))
        return Offer(
            module=loaded_vendor(), capabilities=dict(vm.capabilities), quirk_off=vm.quirk_off,
            hypercall="svm" if maker in (b"AuthenticAMD", b"HygonGenuine") else "vmx",
            tsx_ctrl=bool((vm.get_msr(0, ARCH_CAPABILITIES) or 0) & HAS_TSX_CTRL),
            cpuid=cpuid, cpus=cpus_allowed(), no_ioperm=ioperm_reason(held_bitmap_error()),
            busy_tss=accepts_busy_tss(vm),
        )  # fmt: skip
