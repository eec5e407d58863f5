"""Measurements on /dev/kvm, this host, and the test of the port check, as documents.

The commands `measure`, `host` and `check-io` print them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from statistics import fmean, median
from typing import TYPE_CHECKING

from msgspec import to_builtins

from kvmbench.catalog import Published, PublishedRow
from kvmbench.errors import ResultError
from kvmbench.live.engine import BITMAP, CONTROL, NO_BITMAP
from kvmbench.pictures import run_marks
from kvmbench.report import (
    Block,
    Cell,
    Code,
    Column,
    Document,
    Facts,
    Heading,
    Items,
    Note,
    Record,
    Table,
    Tone,
)
from kvmbench.report.figures import plural
from kvmbench.report.plots import Axis, Dot, Dots
from kvmbench.results import Result, Series, builtins
from kvmbench.stats import median_interval, pseudo_median, signed_rank_interval
from kvmbench.units import Side

if TYPE_CHECKING:
    from kvmbench.live.fitness import Finding
    from kvmbench.live.io_check import IoCheck
    from kvmbench.results import Host

__all__ = [
    "Cost",
    "LiveRow",
    "cost_table",
    "costs",
    "document",
    "host_document",
    "io_document",
    "live_rows",
]

EMPTY = {0: "empty", 3: "empty_cpl3"}  # the loop alone, by CPL
MARKED = 0.5  # emulations per iteration, from which a row has a mark
NONE = 0.05  # exits per iteration, up to which a row has no exit
SHOWN = 0.0005  # of a counter per iteration, from which --explain shows it
SETTINGS = {"iterations", "cpl"}  # of a row, among its counts
NO_EXIT = "KVM counted no exit"
EMULATED = "KVM emulated instructions of the loop"
NET = "net: less the empty loop at the same CPL"
COST = (
    "cost: the extra cycles of a thread that holds an I/O bitmap, for each vcpu_put() and each "
    "return to userspace. It is not the cost of LTR: since Linux 4.12 the reload has two LGDTs "
    "around it, and since 5.5 each return to userspace of such a thread updates the bitmap. net: "
    "less the extra cycles of the control, a bare system call, for each return to userspace."
)
TONES: dict[str, tuple[str, Tone]] = {
    "good": ("", ""),
    "mind": ("? ", "doubt"),
    "bad": ("! ", "bad"),
}

Interval = tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRow:
    """One workload under one configuration; TSC cycles per iteration."""

    workload: str
    configuration: str
    runs: int
    median: float  # of the runs' medians
    interval: Interval  # of it, at 95 %; None for fewer than six runs
    net: float | None  # less the empty loop at the same CPL; None without that loop
    exits: float | None  # per iteration, as KVM counted them; None without KVM's counters
    marks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of an I/O bitmap to a workload, in cycles per iteration; medians of paired runs."""

    workload: str
    without: float
    with_bitmap: float
    cost: float  # pseudo-median of the pairs' differences
    interval: Interval  # of `cost`, at 95 %; None for fewer than six pairs
    net: float | None  # less the control, for each return to userspace; None for the control
    net_interval: Interval


def _listed(result: Result) -> dict[tuple[str, str], list[Series]]:
    """Return the series of each workload and configuration, in the order of the file."""
    found: dict[tuple[str, str], list[Series]] = {}
    for _, _, series in result.series():
        found.setdefault((series.workload, series.configuration), []).append(series)
    return found


def _mean(listed: list[Series], name: str) -> float | None:
    """Return the mean of a count over the runs; None where no run has KVM's counters."""
    if not any("exits" in series.counts for series in listed):
        return None
    return float(f"{fmean(series.counts.get(name, 0) for series in listed):.4g}")


def live_rows(result: Result) -> list[LiveRow]:
    """Return a row for each workload and configuration, in the order of the file."""
    found = _listed(result)
    medians = {key: [median(s.values) for s in listed] for key, listed in found.items()}
    rows = []
    for (workload, configuration), listed in found.items():
        own = medians[workload, configuration]
        empty = medians.get((EMPTY.get(int(listed[0].counts.get("cpl", 0)), ""), configuration))
        if workload in (*EMPTY.values(), CONTROL):
            empty = None
        exits, emulated = _mean(listed, "exits"), _mean(listed, "insn_emulation")
        marks = [mark for series in listed for mark in series.marks]
        if emulated is not None and emulated >= MARKED:
            marks.insert(0, EMULATED)
        if exits is not None and exits <= NONE and workload not in EMPTY.values():
            marks.insert(0, NO_EXIT)
        rows.append(
            LiveRow(
                workload=workload, configuration=configuration, runs=len(own), median=median(own),
                interval=median_interval(own), exits=exits, marks=tuple(dict.fromkeys(marks)),
                net=median(own) - median(empty) if empty else None,
            )
        )  # fmt: skip
    return rows


def costs(result: Result) -> list[Cost]:
    """Return a row for each workload that was measured with and without an I/O bitmap.

    A pair is a run without and the run with a bitmap next to it.
    """
    sides: list[dict[int, dict[str, Series]]] = [{}, {}]
    for side, name in zip(sides, (NO_BITMAP, BITMAP), strict=True):
        for _, run in result.runs():
            if found := {s.workload: s for s in run.series if s.configuration == name}:
                side[len(side) if run.block is None else run.block] = found
    pairs = [(own, sides[1][number]) for number, own in sides[0].items() if number in sides[1]]

    def differences(workload: str) -> list[float]:
        return [
            median(after[workload].values) - median(before[workload].values)
            for before, after in pairs
            if workload in before and workload in after
        ]

    controls = differences(CONTROL)
    rows = []
    for workload in dict.fromkeys(chain(*sides[0].values())):
        if not (paired := differences(workload)):
            continue
        first, second = (
            [run[workload] for run in side.values() if workload in run] for side in sides
        )
        net = None
        if workload != CONTROL and len(controls) == len(paired):
            returns = fmean(series.counts.get("answered", 0) for series in first)
            net = [d - returns * c for d, c in zip(paired, controls, strict=True)]
        rows.append(
            Cost(
                workload=workload, without=median(median(s.values) for s in first),
                with_bitmap=median(median(s.values) for s in second), cost=pseudo_median(paired),
                interval=signed_rank_interval(paired), net=pseudo_median(net) if net else None,
                net_interval=signed_rank_interval(net) if net else None,
            )
        )  # fmt: skip
    return rows


def cost_table(result: Result, name: str) -> Published:
    """Return the cost of an I/O bitmap as a table, next to which a simulation can be set.

    Raises ResultError for a result without the two configurations.
    """
    if not (found := costs(result)):
        raise ResultError(f"{name}: is no result of `kvmbench measure --ioperm both`")
    sides = ((NO_BITMAP, "without"), (BITMAP, "with_bitmap"))
    return Published(
        name=name, title="the cost of an I/O bitmap", change="io-bitmap", date="",
        hardware=result.boots[0].host.cpu or "", source="", note="", unit="cycles",
        better="lower", configurations=(NO_BITMAP, BITMAP), policies={}, basis="measured",
        rows=tuple(
            PublishedRow(row.workload, side, getattr(row, value))
            for row in found
            for side, value in sides
        ),
    )  # fmt: skip


def document(result: Result, *, explain: bool = False) -> Document:
    """Return the document of a measurement; JSON is the result itself, with the table's rows.

    With `explain` it shows the counters of each row, such as `host_state_reload`.
    """
    rows, compared = live_rows(result), costs(result)
    blocks = [_cost_table(compared), Note(COST)] if compared else _table(rows)
    blocks += [_cost_dots(compared)] if compared else [_dots(rows)]
    blocks += run_marks([Side(name, result, name) for name in result.configurations()])
    blocks += _counters(result) if explain else ()
    measured = set(result.workloads())
    skipped = {n: why for _, run in result.runs() for n, why in run.skipped.items()}
    if lines := [f"{name}: {why}" for name, why in skipped.items() if name not in measured]:
        blocks += [Heading("Not measured:"), Items(lines)]
    blocks += map(Note, result.notes)
    records = [_record(row) for row in compared or rows]
    return Document(_title(result), blocks, records, builtins(result, records))


def _record(row: LiveRow | Cost) -> Record:
    """Return a row as a flat dict: an interval as its two ends, the marks as one string."""
    record: Record = {}
    for name, value in asdict(row).items():
        if name.endswith("interval"):
            before = name.removesuffix("interval")
            record[f"{before}low"], record[f"{before}high"] = value or (None, None)
        else:
            record[name] = "; ".join(value) if name == "marks" else value
    return record


def _title(result: Result) -> str:
    runs = [run for _, run in result.runs()]
    rounds = [len(series.values) for run in runs for series in run.series]
    low, high = min(rounds), max(rounds)
    each = f"{low} to {high} rounds" if low != high else plural(low, "round")
    sides = set(result.configurations()) >= {NO_BITMAP, BITMAP}
    number = f"{plural(len(runs) // 2, 'run')} per side" if sides else plural(len(runs), "run")
    kernel = result.boots[0].host.kernel or "?"
    return f"/dev/kvm on {kernel}: per iteration, median of {number} of {each}, 95 % interval"


def _cycles(cycles: float | None) -> str:
    """Return whole cycles from 100 on, else tenths."""
    if cycles is None:
        return "-"
    return f"{cycles:.0f}" if abs(cycles) >= 100 else f"{cycles:.1f}"


def _range(interval: Interval) -> str:
    return "-" if interval is None else f"{_cycles(interval[0])}..{_cycles(interval[1])}"


def _in_cycles(*headings: str) -> list[Column]:
    return [Column(heading, unit="cycles") for heading in headings]


def _table(rows: list[LiveRow]) -> list[Block]:
    """Return the table and its legend: a letter for each mark, and the meaning of net."""
    marks = dict.fromkeys(mark for row in rows for mark in row.marks)
    letters = {mark: chr(ord("a") + n) for n, mark in enumerate(marks)}
    columns = [Column("workload", "key"), Column("", "word")]
    columns += [*_in_cycles("median", "interval", "net"), Column("exits")]
    cells = [
        (
            row.workload, Cell("".join(sorted(letters[mark] for mark in row.marks)), "mark"),
            _cycles(row.median), _range(row.interval), _cycles(row.net),
            "-" if row.exits is None else f"{row.exits:.2f}",
        )
        for row in rows
    ]  # fmt: skip
    legend = [f"{letter}: {mark}" for mark, letter in letters.items()]
    legend += [NET] if any(row.net is not None for row in rows) else []
    return [Table(columns, cells), *([Items(legend)] if legend else [])]


def _cost_table(compared: list[Cost]) -> Block:
    columns = _in_cycles("no bitmap", "bitmap", "cost", "interval", "net", "interval")
    cells = [
        (
            cost.workload, *map(_cycles, (cost.without, cost.with_bitmap, cost.cost)),
            _range(cost.interval), _cycles(cost.net), _range(cost.net_interval),
        )
        for cost in compared
    ]  # fmt: skip
    return Table([Column("workload", "key"), *columns], cells)


def _dots(rows: list[LiveRow]) -> Block:
    several = len({row.configuration for row in rows}) > 1
    dots = [
        Dot(row.workload, row.median, row.interval, words=_cycles(row.median),
            side=row.configuration if several else "")
        for row in rows
    ]  # fmt: skip
    return Dots(
        title="Cycles of each workload",
        about="The median of the runs' medians, with its 95 % interval.",
        axis=Axis("cycles/iteration", log=True),
        dots=dots,
        end="median",
    )


def _cost_dots(compared: list[Cost]) -> Block:
    dots = []
    for row in compared:
        dots.append(Dot(row.workload, row.cost, row.interval, side="cost"))
        if row.net is not None:
            dots.append(Dot(row.workload, row.net, row.net_interval, side="net"))
    return Dots(
        title="Cost of an I/O bitmap",
        about="Extra cycles of a thread that holds one, with the 95 % interval. An interval that "
        "holds 0 shows no cost.",
        axis=Axis("cost", "cycles/iteration"),
        dots=dots,
        reference=0.0,
    )


def _counters(result: Result) -> list[Block]:
    """Return KVM's counters per iteration, and kvmbench's two, as means over the runs."""
    rows = []
    for (workload, configuration), listed in _listed(result).items():
        for name in sorted({name for series in listed for name in series.counts} - SETTINGS):
            mean = fmean(series.counts.get(name, 0) for series in listed)
            if mean >= SHOWN or name == "exits":
                rows.append((workload, configuration, name, f"{mean:.3f}"))
    if not rows:
        return [Note("This KVM has no counters (KVM_GET_STATS_FD, Linux 5.14).")]
    keys = [Column(heading, "key") for heading in ("workload", "", "counter")]
    table = Table([*keys, Column("per iteration")], rows, grouped=True)
    return [Heading("Counters from 0.001 per iteration on, means over the runs:"), table]


def io_document(found: IoCheck) -> Document:
    """Return the document of a test of the port check."""
    denied = found.agreeing - found.allowed
    counts = f"{found.allowed:,} allowed, {denied:,} denied"
    blocks: list[Block] = [Note(f"{found.agreeing:,} agree with port_check: {counts}.")]
    if found.apart:
        words = (
            f"In {found.apart:,} the first of the two bytes that the SDM requires is the last "
            "inside TR's limit. "
        )
        if found.apart_allowed:
            words += (
                f"{found.apart_allowed:,} of them were allowed, which port_check and the SDM deny: "
                "KVM's instruction emulator requires only the first byte inside the limit "
                "(emulator_io_port_access_allowed). kvmbench counts them separately."
            )
        else:
            words += "All of them were denied, as the SDM says."
        blocks.append(Note(words))
    if found.levels_denied:
        blocks.append(
            Note(
                f"{found.levels_denied:,} of {found.levels:,} at IOPL 3 were denied as at IOPL 0: "
                "this judge takes IOPL from its guest. kvmbench counts them separately."
            )
        )
    if found.disagreeing:
        shown = len(found.disagreements)
        first = f"; the first {shown}" if shown < found.disagreeing else ""
        blocks.append(Heading(f"{found.disagreeing:,} disagree with port_check{first}:"))
        blocks.append(Items([str(one) for one in found.disagreements]))
    else:
        blocks.append(Note("None disagrees."))
    title = f"{found.cases:,} accesses at CPL 3, decided by {found.judge}"
    return Document(title, blocks, data={"schema": "kvmbench.check-io/1"} | asdict(found))


def host_document(facts: Host, found: Sequence[Finding]) -> Document:
    """Return the document of a host: the facts, their effect on a figure, the remedies."""
    cpu = ", microcode ".join(filter(None, (facts.cpu, facts.microcode)))
    kernel = " ".join(filter(None, (facts.kernel, facts.build)))
    rows = []
    for one in found:
        sign, tone = TONES[one.level]
        rows.append((Cell(sign + one.name, tone), ": ".join(filter(None, (one.value, one.effect)))))
    columns = (Column("fact", "key"), Column("value, and its effect on figures", "word"))
    blocks: list[Block] = [Facts([("kernel", kernel), ("CPU", cpu)]), Table(columns, rows)]
    if remedies := [f"{one.name}: {one.remedy}" for one in found if one.remedy]:
        blocks += [Heading("Remedies:"), Code("\n".join(remedies))]
    closing = "Fit to measure."
    if any(one.level == "bad" for one in found):
        closing = "Nothing can be measured here."
    elif minded := sum(one.level == "mind" for one in found):
        closing = f"Fit to measure, with {plural(minded, 'fact')} to mind, marked ?."
    records = [asdict(one) for one in found]
    data = {"schema": "kvmbench.host/1", "findings": records, "host": to_builtins(facts)}
    return Document("This host", [*blocks, Note(closing)], records, data)
