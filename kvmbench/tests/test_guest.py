"""Guest code as Capstone reads it, and the tables as the SDM lays them out."""

import struct
from itertools import pairwise

import pytest
from capstone import CS_ARCH_X86, CS_MODE_64, Cs
from hypothesis import given
from hypothesis import strategies as st

from kvmbench.guest import assembler
from kvmbench.guest import image as guest
from kvmbench.guest.assembler import (
    R8,
    R12,
    R13,
    R15,
    RAX,
    RBP,
    RBX,
    RCX,
    RDI,
    RDX,
    RSI,
    RSP,
    Code,
)
from kvmbench.guest.image import Target
from kvmbench.workloads import BUILT_IN, LIVE_ONLY

PROGRAMS = {workload.name: workload.guest for workload in (*BUILT_IN, *LIVE_ONLY)}

ORIGIN = 0x60000
INTEL = Target(vendor="vmx")
AMD = Target(vendor="svm")
NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))


def disassemble(code, origin=ORIGIN):
    """Return `mnemonic operands` of each instruction; all bytes must belong to one."""
    found = list(Cs(CS_ARCH_X86, CS_MODE_64).disasm(code, origin))
    assert sum(instruction.size for instruction in found) == len(code)
    return [f"{instruction.mnemonic} {instruction.op_str}".strip() for instruction in found]


def assembled(write):
    code = Code(ORIGIN)
    write(code)
    return disassemble(code.finish())


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda c: c.mov_imm(RAX, 5), "mov eax, 5"),
        (lambda c: c.mov_imm(R15, 0xFFFFFFFF), "mov r15d, 0xffffffff"),
        (lambda c: c.mov_imm(RBX, 1 << 32), "movabs rbx, 0x100000000"),
        (lambda c: c.mov_imm(R8, 1 << 63), "movabs r8, 0x8000000000000000"),
        (lambda c: c.mov(R12, RDI), "mov r12, rdi"),
        (lambda c: c.mov(RAX, R13), "mov rax, r13"),
        (lambda c: c.load(RAX, RSP), "mov rax, qword ptr [rsp]"),
        (lambda c: c.load(R8, R12, 8), "mov r8, qword ptr [r12 + 8]"),
        (lambda c: c.load32(RCX, RBX, 4), "mov ecx, dword ptr [rbx + 4]"),
        (lambda c: c.store(RBX, RAX), "mov qword ptr [rbx], rax"),
        (lambda c: c.store32(RBX, RAX, -4), "mov dword ptr [rbx - 4], eax"),
        (lambda c: c.store8(RBX, RAX, 1), "mov byte ptr [rbx + 1], al"),
        (lambda c: c.store_imm32(RBX, 7, 0x300), "mov dword ptr [rbx + 0x300], 7"),
        (lambda c: c.push(RAX), "push rax"),
        (lambda c: c.push(R12), "push r12"),
        (lambda c: c.push_imm(0xB0), "push 0xb0"),
        (lambda c: c.pop(RDX), "pop rdx"),
        (lambda c: c.pop(R13), "pop r13"),
        (lambda c: c.xor32(RAX, RAX), "xor eax, eax"),
        (lambda c: c.or_(RAX, RDX), "or rax, rdx"),
        (lambda c: c.sub(RAX, R13), "sub rax, r13"),
        (lambda c: c.cmp(RAX, RSI), "cmp rax, rsi"),
        (lambda c: c.add_imm(RSI, 2000), "add rsi, 0x7d0"),
        (lambda c: c.shl(RDX, 32), "shl rdx, 0x20"),
        (lambda c: c.shr(RDX, 32), "shr rdx, 0x20"),
        (lambda c: c.dec(R12), "dec r12"),
        (lambda c: c.inc_mem32(RBX), "inc dword ptr [rbx]"),
        (lambda c: c.cmp_mem32(RBX, 0), "cmp dword ptr [rbx], 0"),
        (lambda c: c.mov_from_cr(RAX, 8), "mov rax, cr8"),
        (lambda c: c.mov_to_cr(8, RAX), "mov cr8, rax"),
        (lambda c: c.mov_to_cr(0, RAX), "mov cr0, rax"),
        (lambda c: c.mov_to_cr(4, RBP), "mov cr4, rbp"),
        (lambda c: c.mov_to_dr(7, RAX), "mov dr7, rax"),
        *(
            (lambda c, name=name: getattr(c, name)(), text)
            for name, text in {
                **{n: n for n in ("nop", "pause", "cpuid", "vmcall", "vmmcall", "wbinvd", "invd")},
                **{n: n for n in ("hlt", "ud2", "sti", "cli", "lfence", "rdtsc", "rdmsr", "wrmsr")},
                "iretq": "iretq",
                "in8": "in al, dx",
                "in16": "in ax, dx",
                "in32": "in eax, dx",
                "out8": "out dx, al",
                "out16": "out dx, ax",
                "out32": "out dx, eax",
            }.items()
        ),
    ],
)
def test_an_instruction(write, text):
    assert assembled(write) == [text]


def test_all_plain_instructions_are_tested():
    tested = {"nop", "pause", "cpuid", "vmcall", "vmmcall", "wbinvd", "invd", "hlt", "sti", "cli"}
    tested |= {"ud2", "lfence", "rdtsc", "rdmsr", "wrmsr", "iretq", "in8", "in16", "in32"}
    assert tested | {"out8", "out16", "out32"} == set(assembler.PLAIN)


REGISTER = st.integers(0, 15)


@given(to=REGISTER, base=REGISTER, offset=st.integers(-(2**31), 2**31 - 1))
def test_memory_operands(to, base, offset):
    (text,) = assembled(lambda c: c.load(to, base, offset))
    sign = "-" if offset < 0 else "+"
    size = f"{abs(offset):#x}" if abs(offset) > 9 else str(abs(offset))
    where = f"{NAMES[base]} {sign} {size}" if offset else NAMES[base]
    assert text == f"mov {NAMES[to]}, qword ptr [{where}]"


@given(to=REGISTER, value=st.integers(0, 2**64 - 1))
def test_constants(to, value):
    (instruction,) = Cs(CS_ARCH_X86, CS_MODE_64).disasm(
        _constant(to, value), ORIGIN
    )  # of which a shorter one clears the upper half
    text = int(instruction.op_str.split(", ")[1], 0)
    assert text == value


def _constant(to, value):
    code = Code(ORIGIN)
    code.mov_imm(to, value)
    return code.finish()


def test_jumps():
    def write(code):
        code.label("back")
        code.nop()
        code.jz("on")
        code.jnz("back")
        code.jb("back")
        code.label("on")
        code.jmp("back")

    assert assembled(write) == [
        *("nop", "je 0x60013", "jne 0x60000", "jb 0x60000", "jmp 0x60000"),
    ]


@pytest.mark.parametrize(
    ("write", "error", "message"),
    [
        (lambda c: c.jmp("nowhere"), ValueError, "no label 'nowhere'"),
        (lambda c: (c.label("a"), c.label("a")), ValueError, "label 'a' is there already"),
        (lambda c: c.load(RAX, RBX, 1 << 31), ValueError, "0x80000000 does not fit"),
        (lambda c: c.mov_imm(RAX, -1), ValueError, "does not fit"),
        (lambda c: c.mov_imm(RAX, 1 << 64), ValueError, "does not fit"),
        (lambda c: c.store8(RBX, RSI), ValueError, "no byte form"),
        (lambda c: c.sysenter(), AttributeError, "no instruction 'sysenter'"),
    ],
)
def test_code_rejects(write, error, message):
    with pytest.raises(error, match=message):
        assembled(write)


# Programs

PROLOGUE = ["lfence", "rdtsc", "shl rdx, 0x20", "or rax, rdx"]


@pytest.mark.parametrize("target", [INTEL, AMD], ids=["intel", "amd"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_a_timed_loop(name, target):
    text = disassemble(PROGRAMS[name].assemble(ORIGIN, target))
    assert text[0] == "mov r12, rdi"
    first = text.index("mov r13, rax")
    assert text[first - 4 : first] == PROLOGUE
    assert text[first + 1 : first + 3] == ["mov rax, r14", "mov rdx, r15"]
    end = text.index("dec r12")
    found = list(
        Cs(CS_ARCH_X86, CS_MODE_64).disasm(PROGRAMS[name].assemble(ORIGIN, target), ORIGIN)
    )
    assert text[end + 1] == f"jne {found[first + 3].address:#x}"  # to the body's first instruction
    assert text[end + 2 : end + 6] == PROLOGUE
    assert text[end + 6 : end + 9] == [
        "sub rax, r13",
        f"mov ebx, {guest.RESULT:#x}",
        "mov qword ptr [rbx], rax",
    ]
    assert text[-3:-1] == [f"mov edx, {guest.STOP:#x}", "out dx, al"]
    body = text[first + 3 : end]
    written = [line.split()[1].rstrip(",") for line in body if line.startswith("mov r1")]
    assert not {"r12", "r13"} & set(written)


BODIES = {  # name of the row: what its loop must be, in Intel's syntax
    "empty": [],
    "empty_cpl3": [],
    "cpuid": ["xor eax, eax", "cpuid"],
    "vmcall": ["xor eax, eax", "vmcall"],
    "wbinvd": ["wbinvd"],
    "invd": ["invd"],
    "mov_from_cr8": ["mov rax, cr8"],
    "mov_to_cr8": ["mov cr8, rax"],
    "inl_from_pmtimer": ["in eax, dx"],
    "inl_from_qemu": ["in eax, dx"],
    "inl_from_kernel": ["in al, dx"],
    "outl_to_kernel": ["out dx, al"],
    "inb_cpl3": ["in al, dx"],
    "mov_dr": ["mov dr7, rax"],
    "mmio_read": ["mov eax, dword ptr [rbx]"],
    "mmio-no-eventfd:pci-mem": ["mov byte ptr [rbx], al"],
    "portio-datamatch-eventfd:pci-io": ["out dx, al"],
    "rd_tsc_adjust_msr": ["rdmsr"],
    "wr_kernel_gs_base": ["mov ecx, 0xc0000102", "mov eax, 0", "mov edx, 0", "wrmsr"],
    "wr_ibpb_msr": ["mov ecx, 0x49", "mov eax, 1", "mov edx, 0", "wrmsr"],
    "toggle_cr0_wp": [
        *("mov eax, 0x80000001", "mov cr0, rax", "mov eax, 0x80010001", "mov cr0, rax"),
    ],
    "toggle_cr4_pge": ["mov eax, 0x620", "mov cr4, rax", "mov eax, 0x6a0", "mov cr4, rax"],
    "x2apic_self_ipi_sti_nop": [
        *("cli", "mov ecx, 0x83f", "mov eax, 0xb0", "mov edx, 0", "wrmsr", "sti", "nop"),
    ],
    "self_ipi_tpr": [
        *("mov eax, 0xf", "mov cr8, rax"),
        *("mov ecx, 0x830", "mov eax, 0x440b0", "mov edx, 0", "wrmsr"),
        *("mov eax, 0", "mov cr8, rax", "nop"),
    ],
    # The type of the TSS descriptor, in the GDT at 0x1000 with selector 0x28: 9 is available.
    "gdt_write": ["mov byte ptr [rbx], 0x89"],
    "ltr": ["mov byte ptr [rbx], 0x89", "ltr si"],
    "wrmsr_gs_then_ltr": [
        *("mov byte ptr [rbx], 0x89", "ltr si"),
        *("mov ecx, 0xc0000102", "mov eax, 0", "mov edx, 0", "wrmsr"),
    ],
    "work_100": ["mov eax, 3", *["imul rax, rax"] * 33],  # a latency of 3 cycles each
    "ltr_after_work_50": [
        *("mov eax, 3", *["imul rax, rax"] * 17, "mov byte ptr [rbx], 0x89", "ltr si"),
    ],
    "mov_to_cr2": ["mov cr2, rax"],
    "tscdeadline_immed": ["rdtsc", "mov ecx, 0x6e0", "wrmsr", "nop"],
}
SETUPS = {  # and what stands before it
    "inl_from_pmtimer": "mov edx, 0x608",
    "inl_from_qemu": "mov edx, 0x1234",
    "inl_from_kernel": "mov edx, 0x4d0",
    "outl_to_kernel": "mov edx, 0x4d0",
    "inb_cpl3": "mov edx, 0x1238",
    "mov_dr": "mov eax, 0x400",
    "mmio_read": "mov ebx, 0xd0000000",
    "portio-datamatch-eventfd:pci-io": "mov eax, 0xfa",
    "rd_tsc_adjust_msr": "mov ecx, 0x3b",
    "gdt_write": "mov ebx, 0x102d",
    "ltr": "mov esi, 0x28",
    "ltr_after_work_50": "mov ebx, 0x102d",
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies(name):
    text = disassemble(PROGRAMS[name].assemble(ORIGIN, INTEL))
    first, end = text.index("mov r13, rax") + 3, text.index("dec r12")
    assert text[first:end] == BODIES[name]
    if name in SETUPS:
        assert SETUPS[name] in text[:first]


def test_the_hypercall_is_the_vendors():
    assert "vmmcall" in disassemble(PROGRAMS["vmcall"].assemble(ORIGIN, AMD))
    assert "vmcall" in disassemble(PROGRAMS["vmcall"].assemble(ORIGIN, INTEL))


@pytest.mark.parametrize("name", [n for n, p in PROGRAMS.items() if p.other])
def test_the_second_vcpus_code_never_ends(name):
    code = PROGRAMS[name].assemble_other(ORIGIN, INTEL)
    assert disassemble(code)[-1] == f"jmp {ORIGIN:#x}"


def test_programs_fit_where_they_are_put():
    for program in PROGRAMS.values():
        assert guest.CODE + len(program.assemble(ORIGIN, INTEL)) <= guest.OTHER_CODE
    code, _ = guest.handlers()
    assert guest.HANDLERS + len(code) <= guest.CODE


# Tables, read as the SDM (volume 3, chapters 3 to 8) lays them out


def test_handlers_push_the_vector_and_an_error_code():
    code, addresses = guest.handlers()
    pushing = {8, 10, 11, 12, 13, 14, 17, 21, 29, 30}  # SDM volume 3, table 7-1; AMD: 29, 30
    assert len(addresses) == 256
    for vector, address in enumerate(addresses):
        stub = list(Cs(CS_ARCH_X86, CS_MODE_64).disasm(code[address - guest.HANDLERS :], address))
        text = [f"{i.mnemonic} {i.op_str}" for i in stub[:3]]
        if vector in (0xB0, 0xB1):
            assert text[0] == "push rax"
            continue
        words = [] if vector in pushing else ["push 0"]
        number = str(vector) if vector < 10 else f"{vector:#x}"
        assert text[: len(words) + 1] == [*words, f"push {number}"]
        assert stub[len(words) + 1].mnemonic == "jmp"


def test_interrupt_handlers_leave_all_registers_as_they_were():
    code, addresses = guest.handlers()
    for vector, counter in ((0xB0, guest.COUNT), (0xB1, guest.ANSWER)):
        stub = list(
            Cs(CS_ARCH_X86, CS_MODE_64).disasm(
                code[addresses[vector] - guest.HANDLERS :], addresses[vector]
            )
        )
        text = [f"{i.mnemonic} {i.op_str}".strip() for i in stub]
        text = text[: text.index("iretq") + 1]
        pushed = [line.split()[1] for line in text if line.startswith("push")]
        popped = [line.split()[1] for line in text if line.startswith("pop")]
        assert popped == pushed[::-1]
        changed = {"rax", "rbx", "rcx", "rdx"}
        assert changed == set(pushed)
        assert f"mov ebx, {counter:#x}" in text
        assert text[-6:-1] == ["wrmsr", *(f"pop {name}" for name in popped)]


def test_gdt():
    entries = struct.unpack("<7Q", guest.gdt())
    assert entries[0] == 0
    for index, access, flags in ((1, 0x9B, 0xA), (2, 0x93, 0xC), (3, 0xF3, 0xC), (4, 0xFB, 0xA)):
        assert entries[index] >> 40 & 0xFF == access
        assert entries[index] >> 52 & 0xF == flags  # G, D/B, L: code is 64-bit, data 32-bit
        assert entries[index] & 0xFFFF == 0xFFFF
    base = entries[5] >> 16 & 0xFFFFFF | entries[5] >> 56 << 24 | (entries[6] & 0xFFFFFFFF) << 32
    limit = entries[5] & 0xFFFF | (entries[5] >> 48 & 0xF) << 16
    assert (base, limit, entries[5] >> 40 & 0xFF) == (guest.TSS, guest.TSS_ROOM - 1, 0x8B)
    assert guest.TABLES["gdt"] == (guest.GDT, len(guest.gdt()) - 1)


def test_idt():
    _, addresses = guest.handlers()
    content = guest.idt(addresses)
    assert guest.TABLES["idt"] == (guest.IDT, len(content) - 1)
    for vector, address in enumerate(addresses):
        low, selector, ist, kind, middle, high, zero = struct.unpack_from(
            "<HHBBHII", content, 16 * vector
        )
        assert (low | middle << 16 | high << 32, selector, ist) == (address, 8, 0)
        assert (kind, zero) == (0x8E, 0)  # present, DPL 0, interrupt gate


@given(st.integers(0, 2**32 - 1))
def test_page_tables_map_each_address_to_itself(address):
    content = guest.page_tables()

    def entry(table, index):
        return struct.unpack_from("<Q", content, table - guest.PML4 + 8 * index)[0]

    table = guest.PML4
    for shift in (39, 30):
        found = entry(table, address >> shift & 511)
        assert found & 7 == 7  # present, writable, for CPL 3 too
        table = found & ~0xFFF
    page = entry(table, address >> 21 & 511)
    assert page & 0x87 == 0x87  # and a page of 2 MiB
    assert (page & ~0x1FFFFF) | address & 0x1FFFFF == address


@given(st.sets(st.integers(0, 0xFFFF), max_size=6), st.integers(0, 0xFFFF))
def test_io_bitmap(ports, port):
    bitmap = guest.io_bitmap(*ports)
    memory = guest.tss(bitmap)
    assert struct.unpack_from("<H", memory, 102)[0] == 104
    assert struct.unpack_from("<Q", memory, 4)[0] == guest.RSP0
    base, limit = guest.TABLES["tss"]
    assert (base, limit) == (guest.TSS, 104 + len(bitmap) - 1)
    assert bool(bitmap[port >> 3] >> (port & 7) & 1) == (port not in ports)


def test_memory_is_not_laid_out_over_itself():
    content = guest.contents()
    assert guest.BALL + len(guest.BALL_STATE) <= guest.DATA + 0x1000
    spans = sorted((at, at + len(data)) for at, data in content.items())
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    assert spans[-1][1] <= guest.CODE
    for top in (*guest.STACKS, guest.RSP0, guest.USER_STACK):
        assert not any(begin < top and top - 0x1000 < end for begin, end in spans)
    assert guest.USER_STACK <= guest.DATA
    assert guest.OTHER_CODE + 0x8000 <= guest.MEMORY
