"""The workloads, one declaration each, named as in kvm-unit-tests' x86/vmexit.c.

A user adds workloads with a Python file that assigns a list to `WORKLOADS`, or with a package
whose entry points in the group `kvmbench.workloads` name a Workload or a list of them.
"""

from __future__ import annotations

import runpy
import sys
import traceback
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from kvmbench.errors import FileError

if TYPE_CHECKING:
    from kvmbench.guest.programs import Program

__all__ = ["BUILT_IN", "LIVE_ONLY", "Workload", "load_workloads", "merge", "workloads"]

ENTRY_POINTS = "kvmbench.workloads"


@dataclass(frozen=True, slots=True)
class Workload:
    """A loop whose iteration is measured: its name, and the exit kinds of one iteration in order.

    `exits` names kinds of the profile for the simulation, or is empty where the one kind has the
    workload's name. `guest` is the code for /dev/kvm, a name of
    `kvmbench.guest.programs.PROGRAMS` or a `Program`, or None where there is none; `needs` are
    names of `kvmbench.live.machine.NEEDS`, without which it is skipped there.

    Raises TypeError or ValueError for a name that is no string or is empty.
    """

    name: str
    about: str = ""
    exits: tuple[str, ...] = ()
    guest: str | Program | None = None
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.exits, str) or not isinstance(self.exits, Iterable):
            raise TypeError(f"exits of {self.name!r} is {self.exits!r}, not a tuple of names")
        object.__setattr__(self, "exits", tuple(self.exits) or (self.name,))
        for name in (self.name, *self.exits):
            if not isinstance(name, str):
                raise TypeError(f"{name!r} is not the name of a workload or an exit kind")
            if not name or not name.isprintable():
                raise ValueError(f"name {name!r} is empty or not printable")
        if " " in self.name:
            raise ValueError(f"name {self.name!r} has a space in it")


def _measured(name: str, about: str, *needs: str) -> Workload:
    """A workload whose guest code has its name."""
    return Workload(name, about, guest=name, needs=needs)


BUILT_IN = (
    _measured("cpuid", "CPUID, which always exits"),
    _measured("vmcall", "VMCALL, the hypercall of VMX; on an AMD CPU VMMCALL is measured"),
    _measured("mov_from_cr8", "MOV from CR8: the TPR shadow answers, no exit"),
    _measured("mov_to_cr8", "MOV to CR8: the TPR shadow takes it, no exit"),
    _measured("inl_from_pmtimer", "IN of the ACPI PM timer, a device in userspace"),
    _measured("inl_from_qemu", "IN from port 0x1234, which nobody answers: userspace"),
    _measured("inl_from_kernel", "IN from port 0x4d0, the PIC in the kernel, emulated"),
    _measured("outl_to_kernel", "OUT to port 0x4d0, the PIC in the kernel"),
)
"""The eight of the patch (Linux b7ffc44d5b2e), in its order."""

LIVE_ONLY = (
    _measured("empty", "the loop alone, at CPL 0: what every row holds besides its own"),
    _measured("empty_cpl3", "the loop alone, at CPL 3"),
    _measured("inb_cpl3", "IN at CPL 3, which the guest's I/O bitmap allows: userspace"),
    _measured("mmio_read", "a load where no memory is: userspace"),
    _measured("hlt", "HLT until a timer fires, 20,000 cycles ahead; they are in the figure",
              "tsc_deadline"),
    _measured("wbinvd", "WBINVD"),
    _measured("invd", "INVD"),
    _measured("mov_dr", "MOV to DR7"),
    _measured("tscdeadline_immed", "a deadline of now written to the TSC-deadline timer",
              "tsc_deadline"),
    _measured("tscdeadline", "a deadline 3,000 cycles ahead, and spinning until it has fired",
              "tsc_deadline"),
    _measured("self_ipi_sti_nop", "an IPI to itself by the ICR, let in by STI"),
    _measured("self_ipi_sti_hlt", "an IPI to itself by the ICR, let in by STI and HLT"),
    _measured("self_ipi_tpr", "an IPI to itself by the ICR, let in by the TPR"),
    _measured("self_ipi_tpr_sti_nop", "the same, held off by IF too, let in by STI"),
    _measured("self_ipi_tpr_sti_hlt", "the same, held off by IF too, let in by STI and HLT"),
    _measured("x2apic_self_ipi_sti_nop", "an IPI by x2APIC's self-IPI MSR, let in by STI",
              "x2apic"),
    _measured("x2apic_self_ipi_sti_hlt", "an IPI by x2APIC's self-IPI MSR, let in by STI and HLT",
              "x2apic"),
    _measured("x2apic_self_ipi_tpr", "an IPI by x2APIC's self-IPI MSR, let in by the TPR",
              "x2apic"),
    _measured("x2apic_self_ipi_tpr_sti_nop", "the same, held off by IF too, let in by STI",
              "x2apic"),
    _measured("x2apic_self_ipi_tpr_sti_hlt", "the same, held off by IF too, let in by STI and HLT",
              "x2apic"),
    _measured("ipi", "an IPI to a second vCPU, until its handler has answered", "second_cpu"),
    _measured("ipi_halt", "the same with 2,000 cycles in which the second vCPU halts",
              "second_cpu"),
    _measured("ple_round_robin", "two vCPUs in turn, each waiting with PAUSE", "second_cpu"),
    _measured("wr_kernel_gs_base", "WRMSR to KERNEL_GS_BASE"),
    _measured("wr_tsx_ctrl_msr", "WRMSR to TSX_CTRL", "tsx_ctrl"),
    _measured("wr_ibrs_msr", "WRMSR to SPEC_CTRL twice: IBRS on and off", "spec_ctrl"),
    _measured("wr_ibpb_msr", "WRMSR to PRED_CMD: IBPB", "ibpb"),
    _measured("wr_tsc_adjust_msr", "WRMSR to TSC_ADJUST", "tsc_adjust"),
    _measured("rd_tsc_adjust_msr", "RDMSR of TSC_ADJUST", "tsc_adjust"),
    _measured("toggle_cr0_wp", "MOV to CR0 twice: WP off and on"),
    _measured("toggle_cr4_pge", "MOV to CR4 twice: PGE off and on"),
    _measured("mmio-no-eventfd:pci-mem", "a store to a device's memory: userspace"),
    _measured("mmio-wildcard-eventfd:pci-mem", "a store that an ioeventfd takes", "ioeventfd"),
    _measured("mmio-datamatch-eventfd:pci-mem", "a store of the value that an ioeventfd wants",
              "ioeventfd"),
    _measured("portio-no-eventfd:pci-io", "OUT to a device's port: userspace"),
    _measured("portio-wildcard-eventfd:pci-io", "OUT that an ioeventfd takes", "ioeventfd"),
    _measured("portio-datamatch-eventfd:pci-io", "OUT of the value that an ioeventfd wants",
              "ioeventfd"),
)  # fmt: skip
"""The others of kvm-unit-tests' x86/vmexit.c, by its names, and some of our own. No profile here
has costs for them, so they are simulated only where a profile of the user's has."""


def workloads() -> Mapping[str, Workload]:
    """Return the built-in workloads by name, then those of installed packages.

    Raises FileError where an entry point cannot be loaded or names a workload that is there.
    """
    found = {workload.name: workload for workload in (*BUILT_IN, *LIVE_ONLY)}
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        origin = f"entry point {entry.name} = {entry.value}"
        try:
            listed = _listed(entry.load(), origin)
        except FileError:
            raise
        except Exception as error:  # noqa: BLE001  (whatever somebody's package raises)
            raise FileError(f"{origin}: {_in_one_line(error)}") from None
        found = merge(found, listed, origin)
    return MappingProxyType(found)


def load_workloads(path: str | Path) -> list[Workload]:
    """Run a Python file and return the list that it assigns to `WORKLOADS`.

    Raises FileError, with the line, for a file that cannot be run or does not do so; OSError.
    """
    path = Path(path)
    try:
        compile(path.read_bytes(), str(path), "exec")
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        raise FileError(f"{path}{line}: not Python: {error.msg}") from None
    except ValueError as error:
        raise FileError(f"{path}: not Python: {error}") from None
    try:
        with redirect_stdout(sys.stderr):  # stdout is the table's
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
    return " ".join(f"{type(error).__name__}: {error}".split())


def _listed(value: object, origin: str) -> list[Workload]:
    listed = [value] if isinstance(value, Workload) else value
    if not isinstance(listed, Iterable) or isinstance(listed, str):
        raise FileError(f"{origin} is {value!r}, not a list of kvmbench.Workload")
    found = list(listed)
    for workload in found:
        if not isinstance(workload, Workload):
            raise FileError(f"{origin} holds {workload!r}, not a kvmbench.Workload")
    return found


def merge(
    known: Mapping[str, Workload], more: Iterable[Workload], origin: str
) -> dict[str, Workload]:
    """Return `known` and `more` by name; raises FileError where a name is taken."""
    merged = dict(known)
    for workload in more:
        if workload.name in merged:
            raise FileError(f"{origin}: there is a workload {workload.name!r} already")
        merged[workload.name] = workload
    return merged
