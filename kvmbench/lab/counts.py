"""The snapshots that the emulator writes, and the figures per iteration that they give.

`kvmbench.lab.run` makes results of them. A figure is the difference of a long and a short round
divided by the difference of their iterations, so that entering and leaving a round cancel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from statistics import median
from typing import NamedTuple

from kvmbench.errors import LabError
from kvmbench.lab.histories import HISTORY
from kvmbench.lab.inside import SECTION
from kvmbench.live.worker import mark_tag

__all__ = ["EXACT", "Mark", "Rounds", "Row", "exact", "label_of", "marks", "parse", "rows"]

EXACT = 0.005
"""Counts per iteration that differ by less are the same: a tick of the host kernel now and then."""

NAMES = {
    "ltr": "LTR", "lgdt": "LGDT", "exits": "exits", "entries": "entries",
    "vmread": "VMREAD", "vmwrite": "VMWRITE", "vmload": "VMLOAD", "vmsave": "VMSAVE",
    "returns_to_user": "returns to user mode", "instructions": "instructions",
    "instructions_kernel": "instructions, host kernel",
    "instructions_user": "instructions, host user mode",
    "instructions_guest": "instructions, guest",
}  # fmt: skip
MSRS = {
    0xE7: "MPERF", 0xE8: "APERF",
    0x10: "TSC", 0x1B: "APIC_BASE", 0x38F: "PERF_GLOBAL_CTRL", 0x6E0: "TSC_DEADLINE",
    0xC0000080: "EFER", 0xC0000081: "STAR", 0xC0000082: "LSTAR", 0xC0000083: "CSTAR",
    0xC0000084: "SYSCALL_MASK", 0xC0000100: "FS_BASE", 0xC0000101: "GS_BASE",
    0xC0000102: "KERNEL_GS_BASE", 0xC0000103: "TSC_AUX", 0x48: "SPEC_CTRL", 0x49: "PRED_CMD",
    0x174: "SYSENTER_CS", 0x175: "SYSENTER_ESP", 0x176: "SYSENTER_EIP", 0xDA0: "XSS",
    0x830: "X2APIC_ICR", 0x80B: "X2APIC_EOI", 0x838: "X2APIC_TMICT",
}  # fmt: skip
REASONS = {
    "vmx": {
        0: "exception", 1: "external interrupt", 7: "interrupt window", 10: "CPUID", 12: "HLT",
        18: "VMCALL", 28: "CR access", 30: "I/O", 31: "RDMSR", 32: "WRMSR", 48: "EPT violation",
        49: "EPT misconfiguration", 52: "preemption timer",
    },
    "svm": {
        0x60: "external interrupt", 0x64: "virtual interrupt", 0x72: "CPUID", 0x78: "HLT",
        0x7B: "I/O", 0x7C: "MSR", 0x81: "VMMCALL", 0x400: "nested page fault",
    },
}  # fmt: skip


class Snapshot(NamedTuple):
    """All counts at one marker."""

    tag: int
    value: int
    counts: Mapping[str, int]


class Mark(NamedTuple):
    """The counts at the end of a segment of a history."""

    switches: int  # context switches of the machine
    ltr: int
    exits: int


@dataclass(frozen=True, slots=True)
class Rounds:
    """What each round of a section counted, by workload and whether it held a bitmap."""

    by_row: dict[tuple[int, bool], list[dict[str, int]]]


@dataclass(slots=True)
class Row:
    """One workload under one kernel: figures per iteration, one per pair of rounds."""

    workload: str
    bitmap: bool
    values: dict[str, list[float]] = field(default_factory=dict)  # count -> per pair, in order
    runs: list[int] = field(default_factory=list)  # the number of pairs of each run
    tr_limits: tuple[int, int] | None = None  # hidden limit in host user mode: least, greatest

    def by_run(self, name: str) -> list[list[float]]:
        """Return a count's values per run."""
        values = iter(self.values[name])
        return [list(islice(values, size)) for size in self.runs]

    def figure(self, name: str) -> float:
        """Return a count per iteration: the median; 0 for what was never counted."""
        found = self.values.get(name)
        return median(found) if found else 0.0


def exact(value: float) -> float:
    """Return a count per iteration, as the integer that it is within EXACT of where it is one."""
    near = round(value)
    return float(near) if abs(value - near) <= EXACT else round(value, 3)


def label_of(name: str, vendor: str) -> str:
    """Return the label of a count: `WRMSR KERNEL_GS_BASE`, `exit CPUID`."""
    if name.startswith(("wrmsr_", "rdmsr_")):
        number = int(name[6:], 16)
        return f"{name[:5].upper()} {MSRS.get(number, f'{number:#x}')}"
    if name.startswith("exit_"):
        number = int(name.removeprefix("exit_"), 16)
        return f"exit {REASONS.get(vendor, {}).get(number, f'{number:#x}')}"
    if name.startswith("cr"):
        return f"{name[:3].upper()} writes"
    return NAMES.get(name, name)


def parse(text: str) -> list[Rounds]:
    """Return the sections of a file of snapshots, in order.

    Raises LabError for a line that is no snapshot; a last line that was cut off is left out.
    """
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    sections: list[Rounds] = []
    begun: Snapshot | None = None
    for number, line in enumerate(lines, 1):
        found = _snapshot(line, number)
        if found.tag >= HISTORY:
            continue
        if found.tag >= SECTION:
            sections.append(Rounds({}))
            begun = None
        elif not found.tag & 1:
            begun = found
        elif begun is not None and sections and begun.tag == found.tag - 1:
            _add(sections[-1], begun, found)
            begun = None
    return sections


def marks(lines: Iterable[str]) -> dict[int, Mark]:
    """Return the counts at the marks of histories, by tag. Raises LabError as `parse`."""
    found = {}
    for number, line in enumerate(lines, 1):
        if line.endswith("\n") and int(line.split(" ", 1)[0]) >= HISTORY:
            tag, value, counts = _snapshot(line, number)
            found[tag] = Mark(value, counts["ltr"], counts["exits"])
    return found


def _snapshot(line: str, number: int) -> Snapshot:
    try:
        tag, value, *pairs = line.split()
        counts = {name: int(count) for name, _, count in (p.partition("=") for p in pairs)}
        return Snapshot(int(tag), int(value), counts)
    except ValueError:
        raise LabError(f"line {number} of the emulator's counts is none: {line[:40]!r}") from None


def _add(section: Rounds, begin: Snapshot, end: Snapshot) -> None:
    moved = {name: count - begin.counts.get(name, 0) for name, count in end.counts.items()}
    for name in ("tr_low", "tr_high"):  # not sums, but seen since the begin
        if name in end.counts:
            moved[name] = end.counts[name]
    moved["iterations"] = begin.value
    key = (begin.tag & ~0b10, bool(begin.tag & 0b10))
    section.by_row.setdefault(key, []).append(moved)


def rows(sections: Iterable[Rounds], workloads: Iterable[str]) -> list[Row]:
    """Return the rows of one kernel: sections come in pairs, a short and a long one.

    The first round of a section warms up and is left out where there are others. Raises LabError
    where a pair is not of two numbers of iterations.
    """
    listed = list(sections)
    found: dict[tuple[str, bool], Row] = {}
    for name in workloads:
        for bitmap in (False, True):
            key = (mark_tag(name, False), bitmap)
            for short, long in zip(listed[::2], listed[1::2], strict=False):
                first, second = (_rounds(section, key) for section in (short, long))
                if first and second:
                    row = found.setdefault((name, bitmap), Row(name, bitmap))
                    _pairs(row, first, second)
    return list(found.values())


def _rounds(section: Rounds, key: tuple[int, bool]) -> list[dict[str, int]]:
    rounds = section.by_row.get(key, [])
    return rounds[1:] if len(rounds) > 1 else rounds


def _pairs(row: Row, short: list[dict[str, int]], long: list[dict[str, int]]) -> None:
    row.runs.append(min(len(short), len(long)))
    for less, more in zip(short, long, strict=False):
        between = more["iterations"] - less["iterations"]
        if between <= 0:
            raise LabError(f"{row.workload}: a long round is no longer than a short one")
        for name in dict.fromkeys((*less, *more)):
            if name in ("iterations", "tr_low", "tr_high"):
                continue
            each = (more.get(name, 0) - less.get(name, 0)) / between
            row.values.setdefault(name, []).append(each)
        limits = [r[n] for r in (less, more) for n in ("tr_low", "tr_high") if n in r]
        if limits:
            old = row.tr_limits or (min(limits), max(limits))
            row.tr_limits = min(old[0], *limits), max(old[1], *limits)
