"""The built-in workloads, one declaration each, named as in kvm-unit-tests' x86/vmexit.c.

Every command that takes a workload's name finds it here. A user adds workloads with a Python file
that assigns a list to `WORKLOADS`, or with a package whose entry points in the group
`kvmbench.workloads` name a Workload or a list of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kvmbench.atomic import read_bounded
from kvmbench.errors import FileError, brief, cut, named
from kvmbench.guest import image
from kvmbench.guest import programs as guest
from kvmbench.guest.assembler import RAX, RBX
from kvmbench.guest.programs import Part, Program, op, registers, self_ipi, wrmsr
from kvmbench.model import Op, Operation, Workload

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["BUILT_IN", "DEFERRAL", "LARGEST", "LIVE_ONLY", "Workload", "load_workloads"]
__all__ += ["merge", "select", "workloads"]

ENTRY_POINTS = "kvmbench.workloads"
LARGEST = 10e6  # bytes of a Python file that is run


def _row(
    name: str,
    about: str,
    body: Part,
    setup: Part = guest.nothing,
    *,
    needs: tuple[str, ...] = (),
    waits: bool = False,
    faults: tuple[tuple[str, str], ...] = (),
    rows: tuple[str, ...] | None = None,
    native: bool = False,
    exits: tuple[str, ...] = (),
    userspace: tuple[Operation, ...] = (),
    others: tuple[tuple[int, int] | None, ...] = (),
    **program: Any,
) -> Workload:
    """Return a built-in workload. By default vmexit.c has a row of its name.

    vmexit.c puts the name of QEMU's device and a colon before some rows.
    """
    loop = Program(body=body, setup=setup, interrupts=waits, **program)
    rows = (name.split(":")[-1],) if rows is None else rows
    return Workload(name, about, exits, loop, needs, waits, faults, rows, native, userspace, others)


def _event(name: str, about: str, address: int) -> Workload:
    """Return a row of QEMU's pci-testdev: a byte written to a port, or else to memory."""
    value = {at: value for at, _, value in image.EVENTS}.get(address) or 0xCE
    if address < 0x10000:
        return _row(name, about, op("out8"), registers(rdx=address, rax=value))
    return _row(name, about, op("store8", RBX, RAX), registers(rbx=address, rax=value))


def _tr(name: str, about: str, body: Part) -> Workload:
    """Return a row of the reload of TR, inside the guest."""
    return _row(name, about, body, registers(**guest.TR), rows=(), native=True)


OVERLAPS = (50, 100, 200, 400)  # cycles of work in front of LTR

NO_HYPERCALL = (
    "with KVM's patching of hypercalls off, its instruction emulator answers one with #UD "
    "(emulator_fix_hypercall), so code that KVM emulates here cannot make one"
)

BUILT_IN = (
    _row("cpuid", "CPUID, which always exits", guest.cpuid),
    _row("vmcall", "VMCALL, the hypercall of VMX; on an AMD CPU VMMCALL is measured",
         guest.hypercall, faults=(("#UD", NO_HYPERCALL),)),
    _row("mov_from_cr8", "MOV from CR8: the TPR shadow answers, no exit",
         op("mov_from_cr", RAX, 8)),
    _row("mov_to_cr8", "MOV to CR8: the TPR shadow takes it, no exit", op("mov_to_cr", 8, RAX),
         registers(rax=0)),
    _row("inl_from_pmtimer", "IN of the ACPI PM timer, whose device is in userspace",
         op("in32"), registers(rdx=0x608)),
    _row("inl_from_qemu", "IN from port 0x1234, which returns to userspace", op("in32"),
         registers(rdx=0x1234)),
    _row("inl_from_kernel", "IN from port 0x4d0, the PIC in the kernel, emulated", op("in8"),
         registers(rdx=0x4D0)),
    _row("outl_to_kernel", "OUT to port 0x4d0, the PIC in the kernel", op("out8"),
         registers(rdx=0x4D0, rax=0)),
)  # fmt: skip
"""The eight of the patch (Linux b7ffc44d5b2e), in its order."""

_RETURNS: dict[str, Any] = {
    "body": op("in32"), "setup": registers(rdx=0x1234), "exits": ("inl_from_qemu",), "rows": (),
}  # fmt: skip
_THERE, _BACK = Operation(Op.SWITCH, 1), Operation(Op.SWITCH, 0)
_HELD = (0x378, 3)  # ports, as `--ioperm on` has them; the vCPU's thread asks for others

DEFERRAL = (
    _row("handover_plain",
         "IN to userspace; the CPU goes to a task without an I/O bitmap, and back", **_RETURNS,
         userspace=(_THERE, _BACK), others=(None,)),
    _row("handover_bitmap",
         "IN to userspace; the CPU goes to a task with an I/O bitmap, which does IN, and back",
         **_RETURNS, userspace=(_THERE, Operation(Op.IO, _HELD[0], arg=1), _BACK), others=(_HELD,),
         needs=("ioperm",)),
    _row("ioperm_after_exit",
         "IN to userspace; the thread gets a port by ioperm(), does IN, and gives it up",
         **_RETURNS, needs=("ioperm",),
         userspace=(Operation(Op.IOPERM, 0x3BC, 3, 1), Operation(Op.IO, 0x3BC, arg=1),
                    Operation(Op.IOPERM, 0x3BC, 3, 0))),
)  # fmt: skip
"""The deferral of the reload: after the exit another task has the CPU, or ioperm() is called.

No command takes them by default."""

LIVE_ONLY = (
    _row("empty", "the loop alone, at CPL 0, which every row at CPL 0 includes", guest.nothing,
         rows=()),
    _row("empty_cpl3", "the loop alone, at CPL 3", guest.nothing, rows=(), cpl=3),
    _row("inb_cpl3", "IN at CPL 3 that the guest's I/O bitmap allows: returns to userspace",
         op("in8"), registers(rdx=image.CPL3_PORT), rows=(), cpl=3),
    _row("mmio_read", "a load where no memory is: returns to userspace", op("load32", RAX, RBX),
         registers(rbx=image.MMIO), rows=()),
    _row("hlt", "HLT until a timer fires, 20,000 cycles ahead, which the figure includes",
         guest.halt, waits=True, rows=()),
    _tr("gdt_write", "the store that makes the TSS descriptor available, without LTR",
        guest.make_available),
    _tr("ltr", "the same store and LTR: a reload of TR", guest.reload_tr),
    _tr("wrmsr_gs_then_ltr", "a reload of TR and then WRMSR to KERNEL_GS_BASE, as in vcpu_put()",
        guest.reload_tr_before_wrmsr),
    *(
        _tr(f"{prefix}work_{cycles}", f"{what}{cycles} cycles of independent work",
            guest.work(cycles, *then))
        for cycles in OVERLAPS
        for prefix, what, then in (
            ("", "", ()),
            ("ltr_after_", "a reload of TR after ", (guest.reload_tr,)),
        )
    ),
    _row("mov_to_cr2", "MOV to CR2, which serializes and does not exit", op("mov_to_cr", 2, RAX),
         registers(rax=0), rows=(), native=True),
    _row("wbinvd", "WBINVD", op("wbinvd")),
    _row("invd", "INVD", op("invd")),
    _row("mov_dr", "MOV to DR7", op("mov_to_dr", 7, RAX), registers(rax=0x400)),
    _row("tscdeadline_immed", "a deadline of now written to the TSC-deadline timer",
         guest.deadline_now, waits=True),
    _row("tscdeadline", "a deadline 3,000 cycles ahead, and spinning until it has fired",
         guest.deadline_spin, waits=True),
    *(
        _row(f"{prefix}self_ipi_{name}", f"an IPI to itself by {what}, {how}",
             self_ipi(send, *then, tpr=tpr), waits=True)
        for prefix, what, send in (
            ("", "the ICR", guest.icr_self_ipi),
            ("x2apic_", "x2APIC's self-IPI MSR", guest.x2apic_self_ipi),
        )
        for name, tpr, then, how in (
            ("sti_nop", False, ("sti", "nop"), "let in by STI"),
            ("sti_hlt", False, ("sti", "hlt"), "let in by STI and HLT"),
            ("tpr", True, ("nop",), "let in by the TPR"),
            ("tpr_sti_nop", True, ("sti", "nop"), "let in by the TPR, then STI"),
            ("tpr_sti_hlt", True, ("sti", "hlt"), "let in by the TPR, then STI and HLT"),
        )
    ),
    _row("ipi", "an IPI to a second vCPU, until its handler has answered", guest.ask_other,
         other=guest.wait_in_hlt, needs=("second_cpu",)),
    _row("ipi_halt", "the same with 2,000 cycles in which the second vCPU halts",
         guest.ask_halted, other=guest.wait_in_hlt, needs=("second_cpu",),
         rows=("ipi_halt", "ipi+halt")),
    _row("ple_round_robin", "two vCPUs in turn, each waiting with PAUSE", guest.play_ball(0),
         other=guest.play_on, needs=("second_cpu",),
         rows=("ple_round_robin", "ple-round-robin")),
    _row("wr_kernel_gs_base", "WRMSR to KERNEL_GS_BASE", wrmsr(image.KERNEL_GS_BASE, 0)),
    _row("wr_tsx_ctrl_msr", "WRMSR to TSX_CTRL", wrmsr(image.TSX_CTRL, 0), needs=("tsx_ctrl",)),
    _row("wr_ibrs_msr", "WRMSR to SPEC_CTRL twice: IBRS on and off",
         wrmsr(image.SPEC_CTRL, 1, 0), needs=("spec_ctrl",)),
    _row("wr_ibpb_msr", "WRMSR to PRED_CMD: IBPB", wrmsr(image.PRED_CMD, 1), needs=("ibpb",)),
    _row("wr_tsc_adjust_msr", "WRMSR to TSC_ADJUST", wrmsr(image.TSC_ADJUST, 0)),
    _row("rd_tsc_adjust_msr", "RDMSR of TSC_ADJUST", op("rdmsr"),
         registers(rcx=image.TSC_ADJUST)),
    _row("toggle_cr0_wp", "MOV to CR0 twice: WP off and on", guest.toggle_wp),
    _row("toggle_cr4_pge", "MOV to CR4 twice: PGE off and on", guest.toggle_pge),
    _event("mmio-no-eventfd:pci-mem", "a store to a device's memory: returns to userspace",
         image.MMIO + 0x1000),
    _event("mmio-wildcard-eventfd:pci-mem", "a store that an ioeventfd takes", image.MMIO + 0x2000),
    _event("mmio-datamatch-eventfd:pci-mem", "a store of the value that an ioeventfd wants",
         image.MMIO + 0x3000),
    _event("portio-no-eventfd:pci-io", "OUT to a device's port: returns to userspace",
         image.PORTIO),
    _event("portio-wildcard-eventfd:pci-io", "OUT that an ioeventfd takes", image.PORTIO + 1),
    _event("portio-datamatch-eventfd:pci-io", "OUT of the value that an ioeventfd wants",
         image.PORTIO + 2),
)  # fmt: skip
"""The others of kvm-unit-tests' x86/vmexit.c, and rows of kvmbench. No built-in cost profile
has their costs, so kvmbench simulates them only with a user's profile that has."""


def workloads() -> Mapping[str, Workload]:
    """Return the built-in workloads by name, then those of installed packages.

    Raises FileError for an entry point that does not load or whose workload has a known name.
    """
    found = {workload.name: workload for workload in (*BUILT_IN, *DEFERRAL, *LIVE_ONLY)}
    for entry in _entry_points():
        origin = f"entry point {entry.name} = {entry.value}"
        try:
            listed = _listed(entry.load(), origin)
        except FileError:
            raise
        except Exception as error:  # noqa: BLE001  (a package may raise anything)
            raise FileError(f"{origin}: {_in_one_line(error)}") from None
        found = merge(found, listed, origin)
    return MappingProxyType(found)


def _entry_points() -> list[EntryPoint]:
    """Return the installed entry points of our group by name; where no package has one, quickly."""
    files = (file for folder in sys.path for file in Path(folder).glob("*.*-info/entry_points.txt"))
    if not any(ENTRY_POINTS.encode() in file.read_bytes() for file in files):
        return []  # the import of importlib.metadata takes longer than the files
    from importlib.metadata import entry_points

    return sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name)


def select(chosen: Iterable[str | Workload] | str | Workload | None = None) -> list[Workload]:
    """Return the workloads of names and objects, one or several; None stands for all of them.

    A workload that is there twice is returned once. Raises ValueError for an unknown name, with
    the nearest one, and for two workloads of one name; TypeError for other objects; FileError as
    `workloads`.
    """
    known = workloads()
    listed = [chosen] if isinstance(chosen, str | Workload) else chosen
    found: dict[str, Workload] = {}
    for one in known if listed is None else listed:
        workload = named("workload", one, Workload, lambda: known)
        if found.setdefault(workload.name, workload) != workload:
            raise ValueError(f"two workloads are named {brief(workload.name)}")
    return list(found.values())


def load_workloads(path: str | Path) -> list[Workload]:
    """Run a Python file and return the list that it assigns to `WORKLOADS`.

    Raises FileError, with the line, for a file that fails or assigns no such list; OSError.
    """
    path = Path(path)
    try:
        compile(read_bounded(path, LARGEST, FileError), str(path), "exec")
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        raise FileError(f"{path}{line}: not Python: {cut(error.msg, 200)}") from None
    except FileError:
        raise
    except (ValueError, RecursionError, MemoryError) as error:  # a zero byte, or deep nesting
        raise FileError(f"{path}: not Python: {str(error) or 'nested too deeply'}") from None
    import runpy
    import traceback

    try:
        with redirect_stdout(sys.stderr):  # stdout is for the table
            names = runpy.run_path(str(path))
        if "WORKLOADS" not in names:
            raise FileError(f"{path}: assigns nothing to WORKLOADS, a list of kvmbench.Workload")
        return _listed(names["WORKLOADS"], f"{path}: WORKLOADS")
    except FileError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f":{f.lineno}" for f in reversed(frames) if f.filename == str(path)), "")
        raise FileError(f"{path}{line}: {_in_one_line(error)}") from None


def _in_one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}"[:300].split())


def _listed(value: object, origin: str) -> list[Workload]:
    listed = [value] if isinstance(value, Workload) else value
    if not isinstance(listed, Iterable) or isinstance(listed, str):
        raise FileError(f"{origin} is {brief(value)}, not a list of kvmbench.Workload")
    found = list(listed)
    for workload in found:
        if not isinstance(workload, Workload):
            raise FileError(f"{origin} holds {brief(workload)}, not a kvmbench.Workload")
    return found


def merge(
    known: Mapping[str, Workload], more: Iterable[Workload], origin: str
) -> dict[str, Workload]:
    """Return `known` and `more` by name. Raises FileError for a name that both have."""
    merged = dict(known)
    for workload in more:
        if workload.name in merged:
            raise FileError(f"{origin}: there is a workload {brief(workload.name)} already")
        merged[workload.name] = workload
    return merged
