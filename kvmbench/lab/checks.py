"""Checks of a kernel on the emulated machine: a guest's port accesses, and a process's own.

`kvmbench lab check-io` and `kvmbench lab check-ioperm` call it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kvmbench.errors import LabError
from kvmbench.lab.emulator import Emulator
from kvmbench.lab.ioperm import Try
from kvmbench.lab.kernel import Kernel, Vendor
from kvmbench.lab.run import Plan, Progress, boot

__all__ = ["check_io", "check_ioperm"]


def check_io(kernel: Kernel, vendor: Vendor, plan: Plan, emulator: Emulator,
             progress: Progress | None = None) -> dict[str, Any]:  # fmt: skip
    """Boot a kernel, hold the port check against a guest there, and return the outcome."""
    report = boot(kernel, vendor, (), plan, emulator, None, progress or (lambda *_: None))
    if report.check_io is None:
        raise LabError(f"{kernel.label}: the machine ended without an answer")
    return report.check_io


def check_ioperm(kernel: Kernel, vendor: Vendor, plan: Plan, emulator: Emulator,
                 progress: Progress | None = None) -> list[Try]:  # fmt: skip
    """Boot a kernel, let processes there try a port, and return the kernel's answers."""
    wanted = replace(plan, check_ioperm=True)
    report = boot(kernel, vendor, (), wanted, emulator, None, progress or (lambda *_: None))
    if report.tries is None:
        raise LabError(f"{kernel.label}: the machine ended without an answer")
    return report.tries
