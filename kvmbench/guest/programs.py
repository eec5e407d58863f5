"""The guest code of the workloads: a loop around each body, timed by the guest itself."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kvmbench.guest.machine import (
    ANSWER,
    ANSWER_VECTOR,
    BALL,
    COUNT,
    CPL3_PORT,
    GATE_VECTOR,
    KERNEL_GS_BASE,
    MMIO,
    PORTIO,
    PRED_CMD,
    R12,
    R13,
    R14,
    R15,
    RAX,
    RBX,
    RCX,
    RDI,
    RDX,
    RESULT,
    RSI,
    SPEC_CTRL,
    TSC_ADJUST,
    TSC_DEADLINE,
    TSX_CTRL,
    X2APIC_ICR,
    X2APIC_SELF_IPI,
    XAPIC,
    Code,
    Machine,
)

__all__ = ["BALL_STATE", "EVENTS", "HALT_CYCLES", "PROGRAMS", "Part", "Program"]

Part = Callable[[Code, Machine], None]
REGISTERS = {"rax": RAX, "rbx": RBX, "rcx": RCX, "rdx": RDX, "rsi": RSI}


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A loop whose `body` is measured.

    The loop keeps R12 and R13 for itself; the body may change every other register. `setup` runs
    before the loop and may set RAX, RBX, RCX, RDX and RSI for it. `other` is what a second
    vCPU runs meanwhile, until it is kicked.
    """

    body: Part
    setup: Part = lambda code, machine: None
    other: Part | None = None
    cpl: int = 0
    interrupts: bool = False  # whether the loop runs with interrupts on

    def assemble(self, origin: int, machine: Machine) -> bytes:
        """Return the code: RDI has the number of iterations, `RESULT` gets the cycles."""
        code = Code(origin)
        code.mov(R12, RDI)
        self.setup(code, machine)
        if self.interrupts:
            code.sti()
        code.mov(R14, RAX)
        code.mov(R15, RDX)
        code.read_tsc()
        code.mov(R13, RAX)
        code.mov(RAX, R14)
        code.mov(RDX, R15)
        code.label("loop")
        self.body(code, machine)
        code.dec(R12)
        code.jnz("loop")
        code.read_tsc()
        code.sub(RAX, R13)
        code.mov_imm(RBX, RESULT)
        code.store(RBX, RAX)
        if self.interrupts:
            code.cli()
        code.stop()
        return code.finish()

    def assemble_other(self, origin: int, machine: Machine) -> bytes:
        """Return the second vCPU's code; empty where there is none."""
        code = Code(origin)
        if self.other:
            self.other(code, machine)
        return code.finish()


def _nothing(code: Code, machine: Machine) -> None:
    pass


def _cpuid(code: Code, _: Machine) -> None:
    code.xor32(RAX, RAX)
    code.cpuid()


def _hypercall(code: Code, machine: Machine) -> None:
    code.xor32(RAX, RAX)  # a hypercall that there is none of
    (code.vmmcall if machine.vendor == "svm" else code.vmcall)()


def _plain(name: str) -> Part:
    return lambda code, _: getattr(code, name)()


def _registers(**values: int) -> Part:
    """Set registers by name: what a body needs and does not change itself."""

    def setup(code: Code, _: Machine) -> None:
        for name, value in values.items():
            code.mov_imm(REGISTERS[name], value)

    return setup


def _wrmsr(msr: int, *values: int) -> Part:
    def body(code: Code, _: Machine) -> None:
        for value in values:
            code.wrmsr_imm(msr, value)

    return body


def _self_ipi(code: Code, machine: Machine) -> None:
    """Ask the local APIC for an interrupt on this CPU, by the shorthand in its ICR."""
    shorthand = 0x40000 | 0x4000 | GATE_VECTOR  # to itself, asserted, fixed
    if machine.x2apic:
        code.wrmsr_imm(X2APIC_ICR, shorthand)
    else:
        code.mov_imm(RBX, XAPIC)
        code.store_imm32(RBX, shorthand, 0x300)


def _x2apic_self_ipi(code: Code, _: Machine) -> None:
    code.wrmsr_imm(X2APIC_SELF_IPI, GATE_VECTOR)


def _set_tpr(code: Code, value: int) -> None:
    code.mov_imm(RAX, value)
    code.mov_to_cr(8, RAX)


def _ipi_row(send: Part, *, tpr: bool, then: tuple[str, ...]) -> Program:
    """One of the self_ipi rows: the interrupt is held off by IF or the TPR, then let in."""

    def body(code: Code, machine: Machine) -> None:
        if "sti" in then:
            code.cli()
        if tpr:
            _set_tpr(code, 0x0F)
        send(code, machine)
        if tpr:
            _set_tpr(code, 0)
        for name in then:
            getattr(code, name)()

    return Program(body=body, interrupts=True)


def _arm_deadline(code: Code, ahead: int) -> None:
    code.rdtsc()
    if ahead:
        code.shl(RDX, 32)
        code.or_(RAX, RDX)
        code.add_imm(RAX, ahead)
        code.mov(RDX, RAX)
        code.shr(RDX, 32)
    code.mov_imm(RCX, TSC_DEADLINE)
    code.wrmsr()


def _deadline_now(code: Code, _: Machine) -> None:
    _arm_deadline(code, 0)
    code.nop()


def _deadline_spin(code: Code, _: Machine) -> None:
    """Wait for another count, not from 0: the host reads how many interrupts a round had."""
    code.mov_imm(RBX, COUNT)
    code.load32(RSI, RBX)
    _arm_deadline(code, 3000)
    waiting = f"waiting at {code.here:#x}"
    code.label(waiting)
    code.load32(RAX, RBX)
    code.cmp(RAX, RSI)
    code.jz(waiting)


def _halt(code: Code, _: Machine) -> None:
    code.cli()
    _arm_deadline(code, HALT_CYCLES)
    code.sti()
    code.hlt()


HALT_CYCLES = 20_000  # of the TSC, from arming the timer to its deadline


def _ask_other(code: Code, machine: Machine) -> None:
    """Interrupt the second vCPU and wait until its handler has run."""
    code.mov_imm(RBX, ANSWER)
    code.store_imm32(RBX, 0)
    if machine.x2apic:
        code.wrmsr_imm(X2APIC_ICR, 1 << 32 | 0x4000 | ANSWER_VECTOR)
    else:
        code.mov_imm(RSI, XAPIC)
        code.store_imm32(RSI, 1 << 24, 0x310)
        code.store_imm32(RSI, 0x4000 | ANSWER_VECTOR, 0x300)
    waiting = f"waiting at {code.here:#x}"
    code.label(waiting)
    code.pause()
    code.cmp_mem32(RBX, 0)
    code.jz(waiting)


def _ask_halted(code: Code, machine: Machine) -> None:
    """The same, and 2,000 cycles in which the second vCPU can halt."""
    _ask_other(code, machine)
    code.read_tsc()
    code.mov(RSI, RAX)
    code.add_imm(RSI, 2000)
    spinning = f"spinning at {code.here:#x}"
    code.label(spinning)
    code.read_tsc()
    code.cmp(RAX, RSI)
    code.jb(spinning)


def _wait_in_hlt(code: Code, _: Machine) -> None:
    code.label("again")
    code.sti()
    code.hlt()
    code.jmp("again")


BALL_STATE = struct.pack("<ii56x", 1, 0) + bytes(64)  # the first vCPU's move
"""What `guest.BALL` holds before ple_round_robin."""


def _play_ball(me: int) -> Part:
    """Wait with PAUSE for the other's move, then move: each vCPU has {moved, seen}."""

    def body(code: Code, _: Machine) -> None:
        code.mov_imm(RBX, BALL + 64 * me)
        code.load32(RCX, RBX, 4)
        waiting = f"waiting at {code.here:#x}"
        code.label(waiting)
        code.pause()
        code.load32(RAX, RBX)
        code.cmp(RAX, RCX)
        code.jz(waiting)
        code.store32(RBX, RAX, 4)
        code.mov_imm(RBX, BALL + 64 * (1 - me))
        code.inc_mem32(RBX)

    return body


def _play_on(code: Code, machine: Machine) -> None:
    code.label("again")
    _play_ball(1)(code, machine)
    code.jmp("again")


def _toggle_wp(code: Code, _: Machine) -> None:
    for value in (0x80000001, 0x80010001):  # PE and PG; and WP
        code.mov_imm(RAX, value)
        code.mov_to_cr(0, RAX)


def _toggle_pge(code: Code, machine: Machine) -> None:
    for value in (machine.cr4 ^ 0x80, machine.cr4):
        code.mov_imm(RAX, value)
        code.mov_to_cr(4, RAX)


def _store8(code: Code, _: Machine) -> None:
    code.store8(RBX, RAX)


def _load32(code: Code, _: Machine) -> None:
    code.load32(RAX, RBX)


EVENTS = (  # name of the row, address, whether a port, and the value that the event wants
    ("mmio-no-eventfd:pci-mem", MMIO + 0x1000, False, None),
    ("mmio-wildcard-eventfd:pci-mem", MMIO + 0x2000, False, None),
    ("mmio-datamatch-eventfd:pci-mem", MMIO + 0x3000, False, 0xFA),
    ("portio-no-eventfd:pci-io", PORTIO + 0, True, None),
    ("portio-wildcard-eventfd:pci-io", PORTIO + 1, True, None),
    ("portio-datamatch-eventfd:pci-io", PORTIO + 2, True, 0xFA),
)
"""The rows of QEMU's pci-testdev: writes of one byte, with its value 0xFA where one is matched."""


def _event_rows() -> dict[str, Program]:
    return {
        name: Program(body=_plain("out8"), setup=_registers(rdx=address, rax=data or 0xCE))
        if port
        else Program(body=_store8, setup=_registers(rbx=address, rax=data or 0xCE))
        for name, address, port, data in EVENTS
    }


NOP, HLT = ("sti", "nop"), ("sti", "hlt")

PROGRAMS: Mapping[str, Program] = MappingProxyType(
    {
        "empty": Program(body=_nothing),
        "empty_cpl3": Program(body=_nothing, cpl=3),
        "cpuid": Program(body=_cpuid),
        "vmcall": Program(body=_hypercall),
        "wbinvd": Program(body=_plain("wbinvd")),
        "invd": Program(body=_plain("invd")),
        "mov_from_cr8": Program(body=lambda code, _: code.mov_from_cr(RAX, 8)),
        "mov_to_cr8": Program(body=lambda code, _: code.mov_to_cr(8, RAX), setup=_registers(rax=0)),
        "inl_from_pmtimer": Program(body=_plain("in32"), setup=_registers(rdx=0x608)),
        "inl_from_qemu": Program(body=_plain("in32"), setup=_registers(rdx=0x1234)),
        "inl_from_kernel": Program(body=_plain("in8"), setup=_registers(rdx=0x4D0)),
        "outl_to_kernel": Program(body=_plain("out8"), setup=_registers(rdx=0x4D0, rax=0)),
        "inb_cpl3": Program(body=_plain("in8"), setup=_registers(rdx=CPL3_PORT), cpl=3),
        "mov_dr": Program(body=lambda code, _: code.mov_to_dr(7, RAX), setup=_registers(rax=0x400)),
        "hlt": Program(body=_halt, interrupts=True),
        "mmio_read": Program(body=_load32, setup=_registers(rbx=MMIO)),
        "tscdeadline_immed": Program(body=_deadline_now, interrupts=True),
        "tscdeadline": Program(body=_deadline_spin, interrupts=True),
        "self_ipi_sti_nop": _ipi_row(_self_ipi, tpr=False, then=NOP),
        "self_ipi_sti_hlt": _ipi_row(_self_ipi, tpr=False, then=HLT),
        "self_ipi_tpr": _ipi_row(_self_ipi, tpr=True, then=("nop",)),
        "self_ipi_tpr_sti_nop": _ipi_row(_self_ipi, tpr=True, then=NOP),
        "self_ipi_tpr_sti_hlt": _ipi_row(_self_ipi, tpr=True, then=HLT),
        "x2apic_self_ipi_sti_nop": _ipi_row(_x2apic_self_ipi, tpr=False, then=NOP),
        "x2apic_self_ipi_sti_hlt": _ipi_row(_x2apic_self_ipi, tpr=False, then=HLT),
        "x2apic_self_ipi_tpr": _ipi_row(_x2apic_self_ipi, tpr=True, then=("nop",)),
        "x2apic_self_ipi_tpr_sti_nop": _ipi_row(_x2apic_self_ipi, tpr=True, then=NOP),
        "x2apic_self_ipi_tpr_sti_hlt": _ipi_row(_x2apic_self_ipi, tpr=True, then=HLT),
        "ipi": Program(body=_ask_other, other=_wait_in_hlt),
        "ipi_halt": Program(body=_ask_halted, other=_wait_in_hlt),
        "ple_round_robin": Program(body=_play_ball(0), other=_play_on),
        "wr_kernel_gs_base": Program(body=_wrmsr(KERNEL_GS_BASE, 0)),
        "wr_tsx_ctrl_msr": Program(body=_wrmsr(TSX_CTRL, 0)),
        "wr_ibrs_msr": Program(body=_wrmsr(SPEC_CTRL, 1, 0)),
        "wr_ibpb_msr": Program(body=_wrmsr(PRED_CMD, 1)),
        "wr_tsc_adjust_msr": Program(body=_wrmsr(TSC_ADJUST, 0)),
        "rd_tsc_adjust_msr": Program(body=_plain("rdmsr"), setup=_registers(rcx=TSC_ADJUST)),
        "toggle_cr0_wp": Program(body=_toggle_wp),
        "toggle_cr4_pge": Program(body=_toggle_pge),
        **_event_rows(),
    }
)
"""The guest code of each workload. Where kvm-unit-tests' x86/vmexit.c has one, it does the same;
operands that do not change are loaded before the loop."""
