"""A recording of a kernel's own tracepoints, with the emulator's counts of the same time.

`kvmbench lab record` writes it; `kvmbench trace` reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvmbench.errors import LabError
from kvmbench.lab.emulator import Emulator
from kvmbench.lab.histories import HISTORY
from kvmbench.lab.kernel import Kernel, Vendor
from kvmbench.lab.run import Plan, Progress, boot
from kvmbench.report import Column, Document, Note, Table
from kvmbench.workloads import Workload

__all__ = ["Recorded", "record"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """The text of a kernel's trace file, and what the emulator counted meanwhile."""

    kernel: str
    text: str
    exits: int
    ltr: int

    def document(self) -> Document:
        """Return the counts, and the command that reads the recording."""
        lines = sum(not line.startswith("#") for line in self.text.splitlines())
        figures = {"events": lines, "VM exits, counted": self.exits, "LTR, counted": self.ltr}
        columns = [Column("figure", "key"), Column("value")]
        note = Note("The counts are the emulator's, of the time that the recording covers.")
        record = {"kernel": self.kernel, "events": lines, "exits": self.exits, "ltr": self.ltr}
        table = Table(columns, [(name, f"{value:,}") for name, value in figures.items()])
        return Document(f"Recorded in {self.kernel}", [table, note], [record])


def record(
    kernel: Kernel,
    vendor: Vendor,
    workloads: Sequence[Workload],
    plan: Plan,
    emulator: Emulator,
    workload_file: str | None = None,
    progress: Progress | None = None,
) -> Recorded:
    """Boot a kernel and record its events while the workloads run there, one round each.

    `plan` has `record`; its shorter iterations count. Raises LabError where the kernel has no
    tracepoints.
    """
    report = boot(
        kernel, vendor, workloads, plan, emulator, workload_file, progress or (lambda *_: None)
    )
    if not report.recorded or not {HISTORY, HISTORY + 1} <= report.marks.keys():
        raise LabError(f"{kernel.label}: the machine ended without a recording")
    begin, end = report.marks[HISTORY], report.marks[HISTORY + 1]
    return Recorded(kernel.label, report.recorded, end.exits - begin.exits, end.ltr - begin.ltr)
