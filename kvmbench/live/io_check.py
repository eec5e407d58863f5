"""The port check, checked against a guest's own IN and OUT at CPL 3.

`kvmbench check-io` prints the outcome.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from kvmbench._ports import port_check
from kvmbench.errors import LiveError
from kvmbench.guest import image
from kvmbench.guest.assembler import RDX, RSI, Code
from kvmbench.live.host import host
from kvmbench.live.machine import GP, NO_BUSY_TSS, accepts_busy_tss, exception, explain, make
from kvmbench.results import Host

if TYPE_CHECKING:
    from kvmbench.live._kvm import Vm

__all__ = ["Access", "Case", "IoCheck", "check_io", "draw", "judge"]

TSS = 0x100000  # another TSS, with room for any base and the whole map after it
TSS_ROOM = 0x14000
MAP_BYTES = 8193
HARDWARE_TSS = 104  # bytes; a smaller limit denies all, and exceptions have no stack
TIMEOUT = 5.0  # seconds, for two instructions and a fault
FRESH = 500  # cases after which the whole TSS gets new random bytes
UD = 6  # vector of the exception
IOPL = 3 << 12  # of RFLAGS
SHOWN = 10  # disagreements that are kept

Programs = dict[tuple[int, bool], int]  # width and direction -> address


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One access at CPL 3, with the limit, base and bytes that decide about it."""

    limit: int  # of TR, bytes less one
    base: int  # of the I/O bitmap in the TSS, bytes
    port: int
    width: int  # bytes
    out: bool
    word: int  # the two bytes of the map, unless fields of the TSS overlap them
    iopl: int = 0  # EFLAGS.IOPL: at 3 the processor looks at no map

    @property
    def offset(self) -> int:
        """The offset in the TSS of the first of the two bytes that the processor reads."""
        return self.base + self.port // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One access as `port_check` and the judge decide it."""

    number: int
    access: Access
    word: int  # the two bytes of the map
    expected: bool
    found: bool

    def __str__(self) -> str:
        a, words = self.access, {True: "allowed", False: "denied"}
        what = f"{'OUT' if a.out else 'IN'} of {a.width} byte{'s' * (a.width > 1)} at {a.port:#x}"
        return (
            f"case {self.number}: {what}, {f'IOPL {a.iopl}, ' * bool(a.iopl)}TR limit "
            f"{a.limit:#x}, bitmap at {a.base:#x}, "
            f"bytes {self.word & 0xFF:#04x} {self.word >> 8:#04x}: port_check says "
            f"{words[self.expected]}, it was {words[self.found]}"
        )


@dataclass(slots=True, kw_only=True)
class IoCheck:
    """The outcome of a check."""

    judge: str
    emulated: bool  # the judge is, or may be, software
    cases: int = 0
    allowed: int = 0  # of the cases that agree
    apart: int = 0  # cases with only the first byte inside the limit
    apart_allowed: int = 0  # of these, allowed by a judge that is, or may be, software
    levels: int = 0  # cases at IOPL 3
    levels_denied: int = 0  # of these, denied by software that takes IOPL from its guest
    disagreeing: int = 0
    disagreements: list[Case] = field(default_factory=list)  # the first SHOWN

    @property
    def agreeing(self) -> int:
        """The number of cases in which the judge and `port_check` agree."""
        return self.cases - self.apart_allowed - self.levels_denied - self.disagreeing


def judge(facts: Host) -> tuple[str, bool]:
    """Return the judge of a guest's access at CPL 3, and whether it may be software."""
    if facts.kvm == "kvm_pvm":
        return (
            "KVM's instruction emulator: this is PVM, where an access at CPL 3 faults in the "
            "processor and KVM decides",
            True,
        )
    name = {"kvm_intel": "VMX", "kvm_amd": "SVM"}.get(facts.kvm or "")
    if name is None:
        return "this /dev/kvm, whose module kvmbench does not know", True
    if facts.facts.get("hypervisor") == "yes":
        return f"the processor ({name}), or the hypervisor that CPUID shows in its stead", True
    return f"the processor ({name}; CPUID shows no hypervisor)", False


def draw(random_: random.Random) -> Access:
    """Return a random access; many are at an edge of the rule, and one of ten has an IOPL."""
    width, port = random_.choice((1, 2, 4)), image.STOP
    while image.STOP - 4 < port < image.STOP + 4:  # a write there would end the guest's program
        port = random_.choice(
            (random_.randrange(0x10000), random_.randrange(0x200), 0x10000 - random_.randint(1, 9))
        )
    base = random_.choice((HARDWARE_TSS, random_.randrange(0x10000), random_.randrange(0x100)))
    offset = base + port // 8
    near = offset + random_.randint(-2, 3)
    usual = base + MAP_BYTES - 1
    limit = random_.choice((near, near, usual, random_.randrange(0x12000), HARDWARE_TSS - 1))
    limit = min(max(limit, HARDWARE_TSS - 1), TSS_ROOM - 1)
    word = random_.getrandbits(16)
    if random_.random() < 0.7:
        word &= ~(((1 << width) - 1) << port % 8)
    out = random_.random() < 0.5
    iopl = random_.choice((1, 2, 3, 3)) if random_.random() < 0.1 else 0
    return Access(limit=limit, base=base, port=port, width=width, out=out, word=word, iopl=iopl)


def check_io(
    cases: int, *, seed: int = 0, progress: Callable[[str, float], None] | None = None
) -> IoCheck:
    """Let a guest try `cases` random accesses and compare each with `port_check`.

    The SDM requires both bytes of the map inside the limit, KVM's instruction emulator only the
    first (emulator_io_port_access_allowed in arch/x86/kvm/emulate.c). `apart_allowed` counts the
    accesses that a judge which may be software allows for that reason; they are no disagreements.
    Nor are `levels_denied`: PVM runs its guest without the IOPL that the guest has.

    Raises LiveError where this host runs no guest and where the judge denies every port,
    ValueError for fewer cases than one.
    """
    if cases < 1:
        raise ValueError(f"cases is {cases}, not 1 or more")
    by, emulated = judge(host())
    found = IoCheck(judge=by, emulated=emulated)
    random_, memory = random.Random(seed), bytearray()
    with make(cpus=1) as vm:
        if not accepts_busy_tss(vm):
            raise LiveError(f"kvmbench cannot check port_check with {by}: {NO_BUSY_TSS}")
        programs = _install(vm)
        for number in range(cases):
            if number % FRESH == 0:
                memory = bytearray(random_.randbytes(TSS_ROOM))
                vm.write(TSS, memory)
            _compare(vm, programs, number, draw(random_), memory, found)
            if progress is not None and number % 100 == 0:
                progress("check-io", number / cases)
    return found


def _install(vm: Vm) -> Programs:
    """Write the six programs; return their addresses by width and direction."""
    code, found = Code(image.CODE), {}
    for width, out in product((1, 2, 4), (False, True)):
        found[width, out] = code.here
        code.mov(RDX, RSI)
        getattr(code, f"{'out' if out else 'in'}{8 * width}")()
        code.ud2()  # ends the program: the bitmap may deny the OUT to STOP
    vm.write(image.CODE, code.finish())
    return found


def _compare(
    vm: Vm, programs: Programs, number: int, access: Access, memory: bytearray, found: IoCheck
) -> None:
    """Try an access and count it; its bytes of the map and the TSS's fields go into `memory`."""
    fields = ((access.offset, 2, access.word), (4, 8, image.RSP0), (102, 2, access.base))
    for at, size, value in fields:
        memory[at : at + size] = value.to_bytes(size, "little")
    for at, size, _ in fields:  # one may lie over another
        vm.write(TSS + at, bytes(memory[at : at + size]))
    tss_map = np.frombuffer(memory, np.uint8, MAP_BYTES, access.base)
    # By the SDM, and by a judge that requires only the first byte inside the limit.
    expected, first_only = (
        bool(port_check(limit, access.base, tss_map, access.port, access.width, access.iopl))
        for limit in (access.limit, access.limit + 1)
    )
    word = int.from_bytes(memory[access.offset : access.offset + 2], "little")
    allowed = _try(vm, programs[access.width, access.out], access)
    case = Case(number=number, access=access, word=word, expected=expected, found=allowed)
    apart = access.offset == access.limit and access.iopl != 3
    no_level = access.iopl == 3 and found.emulated and not vm.registers(0)["rflags"] & IOPL
    found.cases += 1
    found.levels += access.iopl == 3
    found.apart += apart
    if case.found == expected:
        found.allowed += expected
    elif found.emulated and apart and case.found == first_only:
        found.apart_allowed += 1
    elif no_level and not port_check(
        access.limit, access.base, tss_map, access.port, access.width, 0
    ):
        found.levels_denied += 1
    else:
        found.disagreeing += 1
        if len(found.disagreements) < SHOWN:
            found.disagreements.append(case)


def _try(vm: Vm, rip: int, access: Access) -> bool:
    """Return True for an access that was done, False for #GP(0)."""
    tables = image.TABLES | {"tss": (TSS, access.limit)}
    vm.start(0, rip=rip, rsp=image.USER_STACK, cr3=image.PML4, cpl=3, rsi=access.port,
             iopl=access.iopl, **tables)  # fmt: skip
    outcome = vm.run(0, stop=image.STOP, timeout=TIMEOUT)
    if (outcome["reason"], outcome["port"]) == ("stopped", image.STOP + 1):
        vector, error, at = exception(vm, 0)
        length = 4 if access.width == 2 else 3  # of `mov rdx, rsi`, and a prefix of 16-bit I/O
        if vector == UD and at == rip + length + 1:
            return True
        if vector == GP and error == 0 and at == rip + 3:
            return False
    raise LiveError(f"{access}: the guest ran into {explain(vm, 0, outcome)}")
