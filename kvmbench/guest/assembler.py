"""A small assembler for 64-bit x86 code: one method call per instruction.

The guest programs and the guest's memory image are written with it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partialmethod

__all__ = ["PLAIN", "STOP", "Code"]

STOP = 0x5F0  # port: done. The next port: an exception, with its vector

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 = range(16)

PLAIN = {
    "nop": b"\x90", "pause": b"\xf3\x90", "cpuid": b"\x0f\xa2", "vmcall": b"\x0f\x01\xc1",
    "vmmcall": b"\x0f\x01\xd9", "wbinvd": b"\x0f\x09", "invd": b"\x0f\x08", "hlt": b"\xf4",
    "ud2": b"\x0f\x0b", "sti": b"\xfb", "cli": b"\xfa", "lfence": b"\x0f\xae\xe8",
    "rdtsc": b"\x0f\x31", "rdmsr": b"\x0f\x32", "wrmsr": b"\x0f\x30", "iretq": b"\x48\xcf",
    "in8": b"\xec", "in16": b"\x66\xed", "in32": b"\xed",  # AL from port DX, and so on
    "out8": b"\xee", "out16": b"\x66\xef", "out32": b"\xef",
}  # fmt: skip
"""Instructions without an operand."""


class Code:
    """Machine code for 64-bit mode at the address `origin`.

    Registers are RAX to R15, always all 64 bits unless a method's name has another size. Raises
    ValueError for a value that does not fit its field, and for a label that does not exist.
    """

    def __init__(self, origin: int) -> None:
        self.origin = origin
        self._bytes = bytearray()
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []  # offset of a rel32, and its label

    @property
    def here(self) -> int:
        """The address of the next instruction."""
        return self.origin + len(self._bytes)

    def finish(self) -> bytes:
        """Return the code with the distances of its jumps."""
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

    def local_label(self, name: str) -> str:
        """Set a label that is unique to this address, and return it."""
        label = f"{name} at {self.here:#x}"
        self.label(label)
        return label

    def __getattr__(self, name: str) -> Callable[[], None]:
        """Return the instruction of this name, which has no operand."""
        if name not in PLAIN:
            raise AttributeError(f"no instruction {name!r}")
        return lambda: self._emit(*PLAIN[name])

    # forms: of the operands of several instructions

    def _two(self, opcode: int, wide: bool, to: int, source: int) -> None:
        """The form `r64, r64`, or `r32, r32` unless `wide`."""
        self._register_form(opcode, source, to, wide)

    def _shift(self, extension: int, to: int, places: int) -> None:
        self._register_form(0xC1, extension, to)
        self._emit(*_field("<B", places))

    def _jump(self, opcode: bytes, label: str) -> None:
        self._emit(*opcode, 0, 0, 0, 0)
        self._jumps.append((len(self._bytes) - 4, label))

    def _special(self, opcode: int, number: int, register: int) -> None:
        """A MOV between the control or debug register `number` and `register`."""
        prefix = self._rex(r=number, b=register, wide=False)
        self._emit(*prefix, 0x0F, opcode, _modrm(number, register))

    def _load(self, wide: bool, to: int, base: int, offset: int = 0) -> None:
        self._memory_form(0x8B, to, base, offset, wide)

    def _store(self, wide: bool, base: int, source: int, offset: int = 0) -> None:
        self._memory_form(0x89, source, base, offset, wide)

    # moves

    mov = partialmethod(_two, 0x89, True)
    load = partialmethod(_load, True)
    load32 = partialmethod(_load, False)
    store = partialmethod(_store, True)
    store32 = partialmethod(_store, False)

    def mov_imm(self, to: int, value: int) -> None:
        """mov r64, imm; a value of 32 bits in the short form, which clears the upper half."""
        if 0 <= value < 1 << 32:
            self._emit(*self._rex(b=to, wide=False), 0xB8 + (to & 7), *struct.pack("<I", value))
        else:
            self._emit(*self._rex(b=to), 0xB8 + (to & 7), *_field("<Q", value))

    def store8(self, base: int, source: int, offset: int = 0) -> None:
        """mov m8, r8; of RAX, RCX, RDX and RBX only."""
        if source > RBX:
            raise ValueError(f"register {source} has no byte form here")
        self._memory_form(0x88, source, base, offset, wide=False)

    def store_imm32(self, base: int, value: int, offset: int = 0) -> None:
        self._memory_form(0xC7, 0, base, offset, wide=False)
        self._emit(*_field("<i", value))

    def store_imm8(self, base: int, value: int, offset: int = 0) -> None:
        self._memory_form(0xC6, 0, base, offset, wide=False)
        self._emit(*_field("<B", value))

    def push(self, source: int) -> None:
        self._emit(*self._rex(b=source, wide=False), 0x50 + (source & 7))

    def push_imm(self, value: int) -> None:
        """push imm32, sign-extended to 64 bits."""
        self._emit(0x68, *_field("<i", value))

    def pop(self, to: int) -> None:
        self._emit(*self._rex(b=to, wide=False), 0x58 + (to & 7))

    mov_to_cr = partialmethod(_special, 0x22)
    mov_to_dr = partialmethod(_special, 0x23)

    def mov_from_cr(self, to: int, number: int) -> None:
        self._special(0x20, number, to)

    def ltr(self, selector: int) -> None:
        """ltr r16: load TR with the selector in a register."""
        self._emit(*self._rex(b=selector, wide=False), 0x0F, 0x00, _modrm(3, selector))

    # arithmetic

    xor32 = partialmethod(_two, 0x31, False)
    or_ = partialmethod(_two, 0x09, True)
    sub = partialmethod(_two, 0x29, True)
    cmp = partialmethod(_two, 0x39, True)
    shl = partialmethod(_shift, 4)
    shr = partialmethod(_shift, 5)

    def imul(self, to: int, source: int) -> None:
        self._emit(*self._rex(r=to, b=source), 0x0F, 0xAF, _modrm(to, source))

    def add_imm(self, to: int, value: int) -> None:
        self._register_form(0x81, 0, to)
        self._emit(*_field("<i", value))

    def dec(self, to: int) -> None:
        self._register_form(0xFF, 1, to)

    def inc_mem32(self, base: int) -> None:
        self._memory_form(0xFF, 0, base, 0, wide=False)

    def cmp_mem32(self, base: int, value: int) -> None:
        self._memory_form(0x81, 7, base, 0, wide=False)
        self._emit(*_field("<i", value))

    jmp = partialmethod(_jump, b"\xe9")
    jz = partialmethod(_jump, b"\x0f\x84")
    jnz = partialmethod(_jump, b"\x0f\x85")
    jb = partialmethod(_jump, b"\x0f\x82")

    # sequences

    def wrmsr_imm(self, msr: int, value: int) -> None:
        """Load an MSR; RAX, RCX and RDX change."""
        self.mov_imm(RCX, msr)
        self.mov_imm(RAX, value & 0xFFFFFFFF)
        self.mov_imm(RDX, value >> 32)
        self.wrmsr()

    def read_tsc(self) -> None:
        """RAX := the TSC, read after all earlier instructions completed; RDX changes."""
        self.lfence()
        self.rdtsc()
        self.shl(RDX, 32)
        self.or_(RAX, RDX)

    def stop(self, port: int = STOP) -> None:
        """Leave to the host for good."""
        self.mov_imm(RDX, port)
        self.out8()
        self.jmp(self.local_label("stopped"))

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


def _modrm(reg: int, rm: int) -> int:
    return 0xC0 | (reg & 7) << 3 | rm & 7


def _field(form: str, value: int) -> bytes:
    try:
        return struct.pack(form, value)
    except struct.error:
        raise ValueError(f"{value:#x} does not fit a field of {form[1:]!r}") from None
