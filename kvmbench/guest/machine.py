"""What a guest is made of: 64-bit code from a small assembler, and the tables a CPU wants.

The guest has no operating system. It starts in long mode where the host puts it, sees all of its
memory at the same linear and physical addresses, and ends by writing to the port `STOP`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = [
    "MEMORY",
    "STOP",
    "TABLES",
    "Code",
    "Machine",
    "boot",
    "handlers",
    "image",
    "io_bitmap",
    "tss",
]

MEMORY = 1 << 21  # bytes of guest memory: one large page
STOP = 0x5F0  # port: done. The next one: an exception, with its vector

# Where things are in guest memory; the names of the tables are those of the SDM, volume 3.
GDT, IDT, PML4 = 0x1000, 0x2000, 0x4000
TSS, TSS_ROOM = 0x10000, 0x10000
STACKS = (0x30000, 0x34000)  # tops, of each vCPU at CPL 0
RSP0, USER_STACK = 0x38000, 0x3C000  # where CPL 3 enters CPL 0, and its own
DATA = 0x40000
HANDLERS, CODE = 0x50000, 0x60000

RESULT = DATA  # u64: cycles of the TSC around the loop
COUNT = DATA + 0x40  # u32: interrupts taken
ANSWER = DATA + 0x80  # u32: the other vCPU was here
BALL = DATA + 0x100  # two counters of each vCPU, a cache line each

GATE_VECTOR, ANSWER_VECTOR = 0xB0, 0xB1
CPL3_PORT = 0x1238
MMIO = 0xD0000000  # no memory is there
PORTIO = 0xC000

X2APIC_TPR, X2APIC_EOI, X2APIC_SVR = 0x808, 0x80B, 0x80F
X2APIC_ICR, X2APIC_LVTT, X2APIC_SELF_IPI = 0x830, 0x832, 0x83F
XAPIC = 0xFEE00000
TSC_DEADLINE, TSC_ADJUST, KERNEL_GS_BASE = 0x6E0, 0x3B, 0xC0000102
SPEC_CTRL, PRED_CMD, TSX_CTRL = 0x48, 0x49, 0x122

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 = range(16)


class Code:
    """Machine code for 64-bit mode at the address `origin`, an instruction a call.

    Registers are RAX to R15, always all 64 bits of them unless a name says otherwise. Raises
    ValueError where a value does not fit its field, and for a label that is nowhere.
    """

    def __init__(self, origin: int) -> None:
        self.origin = origin
        self._bytes = bytearray()
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []  # offset of a rel32, and where it goes

    @property
    def here(self) -> int:
        """The address of the next instruction."""
        return self.origin + len(self._bytes)

    def finish(self) -> bytes:
        """Return the code with its jumps filled in."""
        code = bytearray(self._bytes)
        for at, name in self._jumps:
            if name not in self._labels:
                raise ValueError(f"no label {name!r}")
            distance = self._labels[name] - (self.origin + at + 4)
            code[at : at + 4] = struct.pack("<i", distance)
        return bytes(code)

    def label(self, name: str) -> None:
        if name in self._labels:
            raise ValueError(f"label {name!r} is there already")
        self._labels[name] = self.here

    def __getattr__(self, name: str) -> Callable[[], None]:
        """Return an instruction that has no operand, by its name."""
        try:
            code = PLAIN[name]
        except KeyError:
            raise AttributeError(f"no instruction {name!r}") from None
        return lambda: self._emit(*code)

    # moves

    def mov_imm(self, to: int, value: int) -> None:
        """mov r64, imm; in the short form that clears the upper half where that is enough."""
        if 0 <= value < 1 << 32:
            self._emit(*self._rex(b=to, wide=False), 0xB8 + (to & 7), *struct.pack("<I", value))
        else:
            self._emit(*self._rex(b=to), 0xB8 + (to & 7), *_field("<Q", value))

    def mov(self, to: int, source: int) -> None:
        self._register_form(0x89, source, to)

    def load(self, to: int, base: int, offset: int = 0) -> None:
        self._memory_form(0x8B, to, base, offset)

    def load32(self, to: int, base: int, offset: int = 0) -> None:
        self._memory_form(0x8B, to, base, offset, wide=False)

    def store(self, base: int, source: int, offset: int = 0) -> None:
        self._memory_form(0x89, source, base, offset)

    def store32(self, base: int, source: int, offset: int = 0) -> None:
        self._memory_form(0x89, source, base, offset, wide=False)

    def store8(self, base: int, source: int, offset: int = 0) -> None:
        """mov m8, r8; of RAX, RCX, RDX and RBX only."""
        if source > RBX:
            raise ValueError(f"register {source} has no byte form here")
        self._memory_form(0x88, source, base, offset, wide=False)

    def store_imm32(self, base: int, value: int, offset: int = 0) -> None:
        self._memory_form(0xC7, 0, base, offset, wide=False)
        self._emit(*_field("<i", value))

    def push(self, source: int) -> None:
        self._emit(*self._rex(b=source, wide=False), 0x50 + (source & 7))

    def push_imm(self, value: int) -> None:
        """push imm32, sign-extended to 64 bits."""
        self._emit(0x68, *_field("<i", value))

    def pop(self, to: int) -> None:
        self._emit(*self._rex(b=to, wide=False), 0x58 + (to & 7))

    # arithmetic

    def xor32(self, to: int, source: int) -> None:
        self._register_form(0x31, source, to, wide=False)

    def or_(self, to: int, source: int) -> None:
        self._register_form(0x09, source, to)

    def sub(self, to: int, source: int) -> None:
        self._register_form(0x29, source, to)

    def cmp(self, one: int, other: int) -> None:
        self._register_form(0x39, other, one)

    def add_imm(self, to: int, value: int) -> None:
        self._register_form(0x81, 0, to)
        self._emit(*_field("<i", value))

    def shl(self, to: int, places: int) -> None:
        self._register_form(0xC1, 4, to)
        self._emit(*_field("<B", places))

    def shr(self, to: int, places: int) -> None:
        self._register_form(0xC1, 5, to)
        self._emit(*_field("<B", places))

    def dec(self, to: int) -> None:
        self._register_form(0xFF, 1, to)

    def inc_mem32(self, base: int, offset: int = 0) -> None:
        self._memory_form(0xFF, 0, base, offset, wide=False)

    def cmp_mem32(self, base: int, value: int, offset: int = 0) -> None:
        self._memory_form(0x81, 7, base, offset, wide=False)
        self._emit(*_field("<i", value))

    # jumps

    def jmp(self, name: str) -> None:
        self._jump(name, 0xE9)

    def jz(self, name: str) -> None:
        self._jump(name, 0x0F, 0x84)

    def jnz(self, name: str) -> None:
        self._jump(name, 0x0F, 0x85)

    def jb(self, name: str) -> None:
        self._jump(name, 0x0F, 0x82)

    # the machine

    def mov_from_cr(self, to: int, number: int) -> None:
        self._emit(*self._rex(r=number, b=to, wide=False), 0x0F, 0x20, _modrm(number, to))

    def mov_to_cr(self, number: int, source: int) -> None:
        self._emit(*self._rex(r=number, b=source, wide=False), 0x0F, 0x22, _modrm(number, source))

    def mov_to_dr(self, number: int, source: int) -> None:
        self._emit(*self._rex(r=number, b=source, wide=False), 0x0F, 0x23, _modrm(number, source))

    # composed

    def wrmsr_imm(self, msr: int, value: int) -> None:
        """Load an MSR; RAX, RCX and RDX are lost."""
        self.mov_imm(RCX, msr)
        self.mov_imm(RAX, value & 0xFFFFFFFF)
        self.mov_imm(RDX, value >> 32)
        self.wrmsr()

    def read_tsc(self) -> None:
        """RAX := the TSC, read when all before is done; RDX is lost."""
        self.lfence()
        self.rdtsc()
        self.shl(RDX, 32)
        self.or_(RAX, RDX)

    def stop(self) -> None:
        """Leave to the host, for good."""
        self.mov_imm(RDX, STOP)
        self.out8()
        self.label(f"stopped at {self.here:#x}")
        self.jmp(f"stopped at {self.here:#x}")

    # encodings: SDM volume 2, chapter 2

    def _emit(self, *code: int) -> None:
        self._bytes += bytes(code)

    @staticmethod
    def _rex(*, r: int = 0, b: int = 0, wide: bool = True) -> tuple[int, ...]:
        prefix = 0x40 | wide << 3 | (r > 7) << 2 | (b > 7)
        return (prefix,) if prefix != 0x40 else ()

    def _register_form(self, opcode: int, reg: int, rm: int, wide: bool = True) -> None:
        self._emit(*self._rex(r=reg, b=rm, wide=wide), opcode, _modrm(reg, rm))

    def _memory_form(
        self, opcode: int, reg: int, base: int, offset: int, wide: bool = True
    ) -> None:
        """[base + disp32]; RSP and R12 as a base need a SIB byte."""
        self._emit(*self._rex(r=reg, b=base, wide=wide), opcode, 0x80 | _modrm(reg, base) & 0x3F)
        if base & 7 == RSP:
            self._emit(0x24)
        self._emit(*_field("<i", offset))

    def _jump(self, name: str, *opcode: int) -> None:
        self._emit(*opcode, 0, 0, 0, 0)
        self._jumps.append((len(self._bytes) - 4, name))


def _modrm(reg: int, rm: int) -> int:
    return 0xC0 | (reg & 7) << 3 | rm & 7


def _field(form: str, value: int) -> bytes:
    try:
        return struct.pack(form, value)
    except struct.error:
        raise ValueError(f"{value:#x} does not fit a field of {form[1:]!r}") from None


PLAIN: Mapping[str, bytes] = MappingProxyType(
    {
        "nop": b"\x90",
        "pause": b"\xf3\x90",
        "cpuid": b"\x0f\xa2",
        "vmcall": b"\x0f\x01\xc1",
        "vmmcall": b"\x0f\x01\xd9",
        "wbinvd": b"\x0f\x09",
        "invd": b"\x0f\x08",
        "hlt": b"\xf4",
        "ud2": b"\x0f\x0b",
        "sti": b"\xfb",
        "cli": b"\xfa",
        "lfence": b"\x0f\xae\xe8",
        "rdtsc": b"\x0f\x31",
        "rdmsr": b"\x0f\x32",
        "wrmsr": b"\x0f\x30",
        "iretq": b"\x48\xcf",
        "in8": b"\xec",  # AL from port DX, and so on
        "in16": b"\x66\xed",
        "in32": b"\xed",
        "out8": b"\xee",
        "out16": b"\x66\xef",
        "out32": b"\xef",
    }
)
"""Instructions without an operand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the guest's code must know of the machine that it runs on."""

    vendor: str  # vmx or svm: which hypercall
    x2apic: bool
    cr4: int = 0x6A0  # as the host set it


def boot(machine: Machine) -> bytes:
    """Return what each vCPU runs once: it turns the local APIC and its timer's deadline on."""
    code = Code(CODE)
    lvtt = 0x40000 | GATE_VECTOR  # TSC-deadline mode
    if machine.x2apic:
        code.wrmsr_imm(X2APIC_SVR, 0x1FF)
        code.wrmsr_imm(X2APIC_LVTT, lvtt)
    else:
        code.mov_imm(RBX, XAPIC)
        code.store_imm32(RBX, 0x1FF, 0xF0)
        code.store_imm32(RBX, lvtt, 0x320)
    code.stop()
    return code.finish()


def handlers(machine: Machine) -> tuple[bytes, list[int]]:
    """Return the code of the interrupt handlers, and the address of that of each vector.

    An exception goes to the host, by port STOP + 1, with RSP at: vector, error code (0 where the
    CPU pushes none), RIP, CS, RFLAGS, RSP, SS.
    """
    code = Code(HANDLERS)
    addresses = []
    for vector in range(32):
        addresses.append(code.here)
        if vector not in (8, 10, 11, 12, 13, 14, 17, 21, 29, 30):  # these push an error code
            code.push_imm(0)
        code.push_imm(vector)
        code.jmp("exception")
    for vector in range(32, 256):
        addresses.append(code.here)
        if vector in (GATE_VECTOR, ANSWER_VECTOR):
            _interrupt(code, machine, COUNT if vector == GATE_VECTOR else ANSWER)
        else:
            code.push_imm(0)
            code.push_imm(vector)
            code.jmp("exception")
    code.label("exception")
    code.load(RAX, RSP)
    code.mov_imm(RDX, STOP + 1)
    code.out8()
    code.label("for ever")
    code.jmp("for ever")
    return code.finish(), addresses


def _interrupt(code: Code, machine: Machine, counter: int) -> None:
    saved = (RAX, RBX, RCX, RDX)
    for register in saved:
        code.push(register)
    code.mov_imm(RBX, counter)
    code.inc_mem32(RBX)
    if machine.x2apic:
        code.wrmsr_imm(X2APIC_EOI, 0)
    else:
        code.mov_imm(RBX, XAPIC)
        code.store_imm32(RBX, 0, 0xB0)
    for register in reversed(saved):
        code.pop(register)
    code.iretq()


def gdt() -> bytes:
    """Return: null, code and data of CPL 0 (0x08, 0x10), data and code of CPL 3 (0x1b, 0x23),
    and the TSS (0x28)."""
    flat = 0x00CF_0000_0000_FFFF
    long_code = flat & ~(1 << 54) | 1 << 53
    descriptors = [
        0,
        long_code | 0x9B << 40,
        flat | 0x93 << 40,
        flat | 0xF3 << 40,
        long_code | 0xFB << 40,
    ]
    limit = TSS_ROOM - 1
    low = limit & 0xFFFF | (TSS & 0xFFFFFF) << 16 | 0x8B << 40 | (limit >> 16) << 48
    return struct.pack("<7Q", *descriptors, low, TSS >> 32)


def idt(addresses: list[int]) -> bytes:
    """Return interrupt gates of CPL 0 to the handlers at `addresses`."""
    gates = (
        struct.pack("<HHBBHII", at & 0xFFFF, 0x08, 0, 0x8E, at >> 16 & 0xFFFF, at >> 32, 0)
        for at in addresses
    )
    return b"".join(gates)


def page_tables() -> bytes:
    """Return PML4, PDPT and four page directories: 4 GiB mapped to itself, for CPL 0 and 3."""
    pml4 = [PML4 + 0x1000 | 7] + [0] * 511
    pdpt = [PML4 + 0x2000 + 0x1000 * gib | 7 for gib in range(4)] + [0] * 508
    directories = [page << 21 | 0x87 for page in range(4 * 512)]  # of 2 MiB each
    return struct.pack(f"<{6 * 512}Q", *pml4, *pdpt, *directories)


def tss(bitmap: bytes = b"", base: int = 104) -> bytes:
    """Return a 64-bit TSS with an I/O bitmap at the offset `base`."""
    found = bytearray(TSS_ROOM)
    struct.pack_into("<Q", found, 4, RSP0)
    struct.pack_into("<H", found, 102, base)
    found[base : base + len(bitmap)] = bitmap
    return bytes(found[:TSS_ROOM])


def io_bitmap(*ports: int) -> bytes:
    """Return a bitmap that allows byte accesses to `ports` alone, with its terminator."""
    found = bytearray(b"\xff" * 8193)
    for port in ports:
        found[port >> 3] &= ~(1 << (port & 7)) & 0xFF
    return bytes(found)


TABLES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"gdt": (GDT, 7 * 8 - 1), "idt": (IDT, 256 * 16 - 1), "tss": (TSS, 104 + 8192)}
)
"""Address and limit of what `Vm.start` loads."""


def image(machine: Machine) -> dict[int, bytes]:
    """Return what guest memory holds before any program: address -> content."""
    code, addresses = handlers(machine)
    return {
        GDT: gdt(),
        IDT: idt(addresses),
        PML4: page_tables(),
        TSS: tss(io_bitmap(CPL3_PORT, STOP, STOP + 1)),
        DATA: bytes(0x1000),
        HANDLERS: code,
    }
