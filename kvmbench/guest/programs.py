"""Guest programs: a loop around a body, timed by the guest itself, and the bodies to choose from.

kvmbench.workloads makes the built-in workloads of them; a user's workload brings its own body.
Operands that do not change are loaded before the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvmbench.guest import image
from kvmbench.guest.assembler import R12, R13, R14, R15, RAX, RBX, RCX, RDI, RDX, RSI, Code
from kvmbench.guest.image import Target

__all__ = ["HALT_CYCLES", "Part", "Program"]

Part = Callable[[Code, Target], None]
"""Writes the instructions of a part of a program for a target."""

REGISTERS = {"rax": RAX, "rbx": RBX, "rcx": RCX, "rdx": RDX, "rsi": RSI}


def nothing(code: Code, target: Target) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A loop whose `body` is measured.

    The loop keeps R12 and R13 for itself; the body may change every other register. `setup` runs
    before the loop and may set RAX, RBX, RCX, RDX and RSI for it. A second vCPU runs `other`
    meanwhile, until the host stops it. `cpl` is 0 or 3.
    """

    body: Part
    setup: Part = nothing
    other: Part | None = None
    cpl: int = 0
    interrupts: bool = False  # whether the loop runs with interrupts enabled

    def assemble(self, origin: int, target: Target) -> bytes:
        """Return the code: RDI has the number of iterations, `RESULT` gets the cycles."""
        code = Code(origin)
        code.mov(R12, RDI)
        self.setup(code, target)
        if self.interrupts:
            code.sti()
        code.mov(R14, RAX)
        code.mov(R15, RDX)
        code.read_tsc()
        code.mov(R13, RAX)
        code.mov(RAX, R14)
        code.mov(RDX, R15)
        code.label("loop")
        self.body(code, target)
        code.dec(R12)
        code.jnz("loop")
        code.read_tsc()
        code.sub(RAX, R13)
        code.mov_imm(RBX, image.RESULT)
        code.store(RBX, RAX)
        if self.interrupts:
            code.cli()
        code.stop()
        return code.finish()

    def assemble_other(self, origin: int, target: Target) -> bytes:
        """Return the second vCPU's code; empty for a program of one vCPU."""
        code = Code(origin)
        if self.other:
            self.other(code, target)
        return code.finish()


def registers(**values: int) -> Part:
    """Set registers by name, for a body that needs them and does not change them."""

    def setup(code: Code, _: Target) -> None:
        for name, value in values.items():
            code.mov_imm(REGISTERS[name], value)

    return setup


def op(name: str, *operands: int) -> Part:
    """Execute one instruction of `Code`, by its method's name."""
    return lambda code, _: getattr(code, name)(*operands)


def wrmsr(msr: int, *values: int) -> Part:
    """Load an MSR with each value in turn."""

    def body(code: Code, _: Target) -> None:
        for value in values:
            code.wrmsr_imm(msr, value)

    return body


def cpuid(code: Code, _: Target) -> None:
    code.xor32(RAX, RAX)
    code.cpuid()


def hypercall(code: Code, target: Target) -> None:
    code.xor32(RAX, RAX)  # no hypercall has this number
    (code.vmmcall if target.vendor == "svm" else code.vmcall)()


def toggle_wp(code: Code, _: Target) -> None:
    for value in (0x80000001, 0x80010001):  # PE and PG; and WP
        code.mov_imm(RAX, value)
        code.mov_to_cr(0, RAX)


def toggle_pge(code: Code, _: Target) -> None:
    for value in (image.CR4 ^ 0x80, image.CR4):
        code.mov_imm(RAX, value)
        code.mov_to_cr(4, RAX)


# The reload of TR: LTR at CPL 0 causes no VM exit by default, so a guest can execute and time it


def make_available(code: Code, _: Target) -> None:
    """Store the type of the TSS descriptor that LTR accepts; RBX has the type's address."""
    code.store_imm8(RBX, image.TSS_AVAILABLE)


def reload_tr(code: Code, target: Target) -> None:
    """Make the TSS descriptor available and execute LTR, which makes it busy again."""
    make_available(code, target)
    code.ltr(RSI)


def reload_tr_before_wrmsr(code: Code, target: Target) -> None:
    reload_tr(code, target)
    wrmsr(image.KERNEL_GS_BASE, 0)(code, target)


TR = {"rbx": image.TSS_TYPE, "rsi": image.TSS_SELECTOR}  # the operands of the two


def work(cycles: int, *then: Part) -> Part:
    """Start a chain of multiplications that takes `cycles`, then execute the parts `then`.

    IMUL has a latency of 3 cycles on Intel's cores since Nehalem and on AMD's since Zen. Nothing
    after a chain depends on it, so only a serializing instruction waits for its end.
    """

    def body(code: Code, target: Target) -> None:
        code.mov_imm(RAX, 3)
        for _ in range(round(cycles / 3)):
            code.imul(RAX, RAX)
        for part in then:
            part(code, target)

    return body


# Interrupts


# To itself, asserted, fixed.
icr_self_ipi = wrmsr(image.X2APIC_ICR, 0x40000 | 0x4000 | image.GATE_VECTOR)
x2apic_self_ipi = wrmsr(image.X2APIC_SELF_IPI, image.GATE_VECTOR)


def self_ipi(send: Part, *then: str, tpr: bool = False) -> Part:
    """Block interrupts by IF (where `then` has STI) or the TPR, `send` one, let it in."""

    def body(code: Code, target: Target) -> None:
        if "sti" in then:
            code.cli()
        if tpr:
            code.mov_imm(RAX, 0x0F)
            code.mov_to_cr(8, RAX)
        send(code, target)
        if tpr:
            code.mov_imm(RAX, 0)
            code.mov_to_cr(8, RAX)
        for name in then:
            op(name)(code, target)

    return body


def _arm_deadline(code: Code, ahead: int = 0) -> None:
    code.rdtsc()
    if ahead:
        code.shl(RDX, 32)
        code.or_(RAX, RDX)
        code.add_imm(RAX, ahead)
        code.mov(RDX, RAX)
        code.shr(RDX, 32)
    code.mov_imm(RCX, image.TSC_DEADLINE)
    code.wrmsr()


def deadline_now(code: Code, _: Target) -> None:
    _arm_deadline(code)
    code.nop()


def deadline_spin(code: Code, _: Target) -> None:
    """Arm the timer and spin until the count of interrupts, which the host reads, has changed."""
    code.mov_imm(RBX, image.COUNT)
    code.load32(RSI, RBX)
    _arm_deadline(code, 3000)
    waiting = code.local_label("waiting")
    code.load32(RAX, RBX)
    code.cmp(RAX, RSI)
    code.jz(waiting)


HALT_CYCLES = 20_000  # of the TSC, from arming the timer to its deadline


def halt(code: Code, _: Target) -> None:
    code.cli()
    _arm_deadline(code, HALT_CYCLES)
    code.sti()
    code.hlt()


# Two vCPUs


def ask_other(code: Code, _: Target) -> None:
    """Interrupt the second vCPU and wait until its handler has run."""
    code.mov_imm(RBX, image.ANSWER)
    code.store_imm32(RBX, 0)
    code.wrmsr_imm(image.X2APIC_ICR, 1 << 32 | 0x4000 | image.ANSWER_VECTOR)
    waiting = code.local_label("waiting")
    code.pause()
    code.cmp_mem32(RBX, 0)
    code.jz(waiting)


def ask_halted(code: Code, target: Target) -> None:
    """The same, then 2,000 cycles in which the second vCPU can halt."""
    ask_other(code, target)
    code.read_tsc()
    code.mov(RSI, RAX)
    code.add_imm(RSI, 2000)
    spinning = code.local_label("spinning")
    code.read_tsc()
    code.cmp(RAX, RSI)
    code.jb(spinning)


def wait_in_hlt(code: Code, _: Target) -> None:
    again = code.local_label("again")
    code.sti()
    code.hlt()
    code.jmp(again)


def play_ball(me: int) -> Part:
    """Wait with PAUSE for the other vCPU's move, then move."""

    def body(code: Code, _: Target) -> None:
        code.mov_imm(RBX, image.BALL + 64 * me)
        code.load32(RCX, RBX, 4)
        waiting = code.local_label("waiting")
        code.pause()
        code.load32(RAX, RBX)
        code.cmp(RAX, RCX)
        code.jz(waiting)
        code.store32(RBX, RAX, 4)
        code.mov_imm(RBX, image.BALL + 64 * (1 - me))
        code.inc_mem32(RBX)

    return body


def play_on(code: Code, target: Target) -> None:
    again = code.local_label("again")
    play_ball(1)(code, target)
    code.jmp(again)
