"""The guest's memory: its addresses, tables and interrupt handlers, and the devices around it.

The guest has no operating system. It starts in long mode at an address that the host chooses, sees
its memory at equal linear and physical addresses, and ends with a write to the port `STOP`.
live/ fills a virtual machine with it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from kvmbench.guest.assembler import RAX, RBX, RCX, RDX, RSP, STOP, Code

__all__ = ["BALL_STATE", "EVENTS", "MEMORY", "STOP", "TABLES", "Target", "boot", "contents"]
__all__ += ["handlers", "io_bitmap", "tss"]

MEMORY = 1 << 21  # bytes of guest memory: one large page
CR4 = 0x6A0  # as the host sets it: OSXMMEXCPT, OSFXSR, PGE, PAE

# Addresses in guest memory; the names of the tables are those of the SDM, volume 3.
GDT, IDT, PML4 = 0x1000, 0x2000, 0x4000
TSS, TSS_ROOM = 0x10000, 0x10000
STACKS = (0x30000, 0x34000)  # tops of the vCPUs' stacks at CPL 0
RSP0, USER_STACK = 0x38000, 0x3C000  # of an interrupt at CPL 3, and of CPL 3
DATA, DATA_ROOM = 0x40000, 0x1000
HANDLERS, CODE, OTHER_CODE = 0x50000, 0x60000, 0x68000

TSS_SELECTOR, TSS_BUSY, TSS_AVAILABLE = 0x28, 0x8B, 0x89  # present; SDM volume 3, section 3.5
TSS_TYPE = GDT + TSS_SELECTOR + 5  # address of the byte with the TSS descriptor's type

RESULT = DATA  # u64: TSC cycles around the loop
COUNT = DATA + 0x40  # u32: interrupts taken
ANSWER = DATA + 0x80  # u32: the second vCPU has answered
BALL = DATA + 0x100  # {moved, seen} of each vCPU, a cache line each
BALL_STATE = struct.pack("<ii56x", 1, 0) + bytes(64)  # the first vCPU moves first

GATE_VECTOR, ANSWER_VECTOR = 0xB0, 0xB1
CPL3_PORT = 0x1238
MMIO = 0xD0000000  # no memory is there
PORTIO = 0xC000
MATCHED = 0xFA  # the byte that an event with a value wants

EVENTS = (
    (MMIO + 0x2000, False, None), (MMIO + 0x3000, False, MATCHED),
    (PORTIO + 1, True, None), (PORTIO + 2, True, MATCHED),
)  # fmt: skip
"""The ioeventfds of QEMU's pci-testdev: address, whether a port, the byte wanted (None: any)."""

X2APIC_EOI, X2APIC_SVR = 0x80B, 0x80F
X2APIC_ICR, X2APIC_LVTT, X2APIC_SELF_IPI = 0x830, 0x832, 0x83F
TSC_DEADLINE, TSC_ADJUST, KERNEL_GS_BASE = 0x6E0, 0x3B, 0xC0000102
SPEC_CTRL, PRED_CMD, TSX_CTRL = 0x48, 0x49, 0x122


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The properties of a virtual machine that guest code is assembled for."""

    vendor: str  # vmx or svm: which hypercall


def boot() -> bytes:
    """Return the code that each vCPU runs once: it enables the local APIC and its timer."""
    code = Code(CODE)
    code.wrmsr_imm(X2APIC_SVR, 0x1FF)
    code.wrmsr_imm(X2APIC_LVTT, 0x40000 | GATE_VECTOR)  # TSC-deadline mode
    code.stop()
    return code.finish()


def handlers() -> tuple[bytes, list[int]]:
    """Return the code of the interrupt handlers, and the address of each vector's handler.

    An exception goes to the host by port STOP + 1, with RSP at: vector, error code (0 where the
    CPU pushes none), RIP, CS, RFLAGS, RSP, SS.
    """
    code = Code(HANDLERS)
    addresses = []
    for vector in range(256):
        addresses.append(code.here)
        if vector in (GATE_VECTOR, ANSWER_VECTOR):
            _interrupt(code, COUNT if vector == GATE_VECTOR else ANSWER)
            continue
        if vector not in (8, 10, 11, 12, 13, 14, 17, 21, 29, 30):  # these push an error code
            code.push_imm(0)
        code.push_imm(vector)
        code.jmp("exception")
    code.label("exception")
    code.load(RAX, RSP)
    code.stop(STOP + 1)
    return code.finish(), addresses


def _interrupt(code: Code, counter: int) -> None:
    saved = (RAX, RBX, RCX, RDX)
    for register in saved:
        code.push(register)
    code.mov_imm(RBX, counter)
    code.inc_mem32(RBX)
    code.wrmsr_imm(X2APIC_EOI, 0)
    for register in reversed(saved):
        code.pop(register)
    code.iretq()


def gdt() -> bytes:
    """Return the GDT: null, code and data of CPL 0 (0x08, 0x10), data and code of CPL 3 (0x1b,
    0x23), and the TSS (0x28)."""
    flat = 0x00CF_0000_0000_FFFF
    long_code = flat & ~(1 << 54) | 1 << 53
    limit = TSS_ROOM - 1
    low = limit & 0xFFFF | (TSS & 0xFFFFFF) << 16 | TSS_BUSY << 40 | (limit >> 16) << 48
    return struct.pack(
        "<7Q", 0, long_code | 0x9B << 40, flat | 0x93 << 40, flat | 0xF3 << 40,
        long_code | 0xFB << 40, low, TSS >> 32,
    )  # fmt: skip


def idt(addresses: list[int]) -> bytes:
    """Return interrupt gates of CPL 0 to the handlers at `addresses`."""
    form = struct.Struct("<HHBBHII")
    fields = ((at & 0xFFFF, 0x08, 0, 0x8E, at >> 16 & 0xFFFF, at >> 32, 0) for at in addresses)
    return b"".join(form.pack(*gate) for gate in fields)


def page_tables() -> bytes:
    """Return PML4, PDPT and four page directories: 4 GiB mapped to itself, for CPL 0 and 3."""
    pml4 = [PML4 + 0x1000 | 7] + [0] * 511
    pdpt = [PML4 + 0x2000 + 0x1000 * gib | 7 for gib in range(4)] + [0] * 508
    directories = [page << 21 | 0x87 for page in range(4 * 512)]  # of 2 MiB each
    return struct.pack(f"<{6 * 512}Q", *pml4, *pdpt, *directories)


def tss(bitmap: bytes) -> bytes:
    """Return a 64-bit TSS with an I/O bitmap right after its fields."""
    fields = struct.pack("<4xQ90xH", RSP0, 104)
    return (fields + bitmap).ljust(TSS_ROOM, b"\0")


def io_bitmap(*ports: int) -> bytes:
    """Return a bitmap that allows byte accesses to `ports` alone, with its terminator."""
    found = bytearray(b"\xff" * 8193)
    for port in ports:
        found[port >> 3] &= ~(1 << (port & 7)) & 0xFF
    return bytes(found)


TABLES: dict[str, Any] = {
    "gdt": (GDT, 7 * 8 - 1), "idt": (IDT, 256 * 16 - 1), "tss": (TSS, 104 + 8192),
}  # fmt: skip
"""Address and limit of the tables that `Vm.start` loads."""


@cache
def contents() -> Mapping[int, bytes]:
    """Return the content of guest memory before any program: address -> bytes."""
    code, addresses = handlers()
    return MappingProxyType({
        GDT: gdt(),
        IDT: idt(addresses),
        PML4: page_tables(),
        TSS: tss(io_bitmap(CPL3_PORT, STOP, STOP + 1)),
        DATA: bytes(DATA_ROOM),
        HANDLERS: code,
    })  # fmt: skip
