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

from kvmbench.catalog import FileError

__all__ = ["BUILT_IN", "Workload", "load_workloads", "merge", "workloads"]

ENTRY_POINTS = "kvmbench.workloads"


@dataclass(frozen=True, slots=True)
class Workload:
    """A loop whose iteration is measured: its name, and the exit kinds of one iteration in order.

    `exits` names kinds of the profile, or is empty where the one kind has the workload's name.
    Raises TypeError or ValueError for a name that is no string or is empty.
    """

    name: str
    about: str = ""
    exits: tuple[str, ...] = ()

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


BUILT_IN = (
    Workload("cpuid", "CPUID, which always exits"),
    Workload("vmcall", "VMCALL, the hypercall of VMX"),
    Workload("mov_from_cr8", "MOV from CR8: the TPR shadow answers, no exit"),
    Workload("mov_to_cr8", "MOV to CR8: the TPR shadow takes it, no exit"),
    Workload("inl_from_pmtimer", "IN of the ACPI PM timer, a device in userspace"),
    Workload("inl_from_qemu", "IN from port 0x1234, which nobody answers: userspace"),
    Workload("inl_from_kernel", "IN from port 0x4d0, the PIC in the kernel, emulated"),
    Workload("outl_to_kernel", "OUT to port 0x4d0, the PIC in the kernel"),
)
"""The eight of the patch (Linux b7ffc44d5b2e), in its order."""


def workloads() -> Mapping[str, Workload]:
    """Return the built-in workloads by name, then those of installed packages.

    Raises FileError where an entry point cannot be loaded or names a workload that is there.
    """
    found = {workload.name: workload for workload in BUILT_IN}
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
