"""The documents of recordings and replays, and their JSON, "kvmbench.trace/1".

The results' `document`, `kvmbench trace show` and `trace run` make them; `kvmbench schema trace`
prints `SCHEMAS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

from kvmbench.causes import CAUSES, WRONG
from kvmbench.pictures import time_bars
from kvmbench.report import Block, Column, Document, Heading, Items, Note, Record, Table
from kvmbench.report.plots import Axis, Bar, Bars

if TYPE_CHECKING:
    from kvmbench.traces.recording import Reason, Recording, Task
    from kvmbench.traces.replay import Replay

__all__ = ["SCHEMAS", "TraceDocument", "recording_document", "replay_document"]

BARS = 40  # reasons in a picture
TASKS_SHOWN = 20  # of a replay, in a table
NOT_RECORDED = "(exit not recorded)"


class ReasonEntry(TypedDict):
    """The exits of a reason; `task` is None for those of all vCPUs, times are in nanoseconds."""

    reason: str
    task: str | None
    exits: int
    share: float | None
    per_second: float | None
    nested: int
    host_ns: int
    host_ns_p50: int | None
    host_ns_p99: int | None
    paired: int
    unpaired: int
    returned: int
    put_return: int
    put_sched: int


class RecordingEntry(TypedDict):
    """A recording: its size, and the things that its reader left out."""

    source: str
    seconds: float
    cpus: list[int]
    vcpus: int
    exits: int
    puts: int
    lines: int
    events: int
    inferred: bool
    lost_events: int
    dropped_exits: int
    dropped_guest_runs: int
    unread: dict[str, int]


class TaskEntry(TypedDict):
    """A task of a replay; `worth` is the cycles that it saves under the second policy."""

    task: str
    bitmap: bool
    exits: int
    returned: int
    puts: int
    worth: int


class SideEntry(TypedDict):
    """The replay under one policy: cycles by cause, and counts of the whole recording."""

    policy: str
    cycles: dict[str, int]
    exits: int
    puts: int
    reloads: int
    leaks: int
    denials: int
    faults: int
    nulls: int


class ReplayEntry(TypedDict):
    """A recording replayed under two policies; `worth` is in cycles and in % of CPU time."""

    profile: str
    vendor: str
    clock_hz: int
    cpu_cycles: int
    operations: int
    before: SideEntry
    after: SideEntry
    worth: int
    worth_percent: float | None
    worth_of_others: int
    tasks: list[TaskEntry]
    kinds: dict[str, str]
    assumptions: list[str]


class TraceDocument(TypedDict):
    """The JSON of `kvmbench trace show`, and of `trace run`, which has a `replay`."""

    schema: Literal["kvmbench.trace/1"]
    recording: RecordingEntry
    reasons: list[ReasonEntry]
    replay: ReplayEntry | None


SCHEMAS = {"trace": TraceDocument}
"""The JSON documents of recordings by kind."""


def recording_document(recording: Recording) -> Document:
    """Return the document of a recording: a row per exit reason, and what was left out."""
    entries = _entries(recording)
    blocks: list[Block] = [_table(recording), *_exit_bars(recording), *_remarks(recording)]
    data = _data(recording, entries, None)
    records: list[Record] = [dict(entry) for entry in entries]
    return Document(f"{recording.source}: {_size(recording)}", blocks, records, data)


def replay_document(replay: Replay, *, explain: bool = False) -> Document:
    """Return the document of a replay; with `explain`, its assumptions and the kinds of exits."""
    recording = replay.recording
    names = " -> ".join(side.policy for side in (replay.before, replay.after))
    vendor = "" if replay.vendor == "vmx" else f", {replay.vendor}"
    title = f"{names}, {recording.source} replayed: {_size(recording)}, cost profile "
    title += f"{replay.profile}{vendor}"
    columns = [Column("figure", "key"), Column("unit", "word")]
    columns += [Column(name) for name in ("before", "after", "change")]
    blocks: list[Block] = [Table(columns, list(_replay_rows(replay))), Note(_worth(replay))]
    blocks += _cycle_bars(replay)
    worthy = sorted(replay.worths, key=lambda item: -abs(item[1]))
    if len(worthy) > 1:
        blocks += [Heading("Worth per task:"), _task_table(replay, worthy[:TASKS_SHOWN])]
        if more := worthy[TASKS_SHOWN:]:
            rest = sum(worth for _, worth in more)
            blocks.append(Note(f"{_many(len(more), 'more task')}: {rest:+,} cycles."))
        if others := replay.worth_of_others:
            blocks.append(Note(f"All other tasks: {others:+,} cycles."))
    blocks += _remarks(recording)
    if explain:
        kinds = [(reason, kind) for reason, kind in replay.kinds.items()]
        blocks += [
            Heading("Exits and the exit kinds whose costs they have:"),
            Table([Column("exit", "key"), Column("exit kind", "word")], kinds),
            Heading("Assumptions:"), Items(replay.assumptions),
        ]  # fmt: skip
    entry = _replay_entry(replay)
    records: list[Record] = [dict(task) for task in entry["tasks"]]
    return Document(title, blocks, records, _data(recording, _entries(recording), entry))


def _size(recording: Recording) -> str:
    facts = [_many(recording.exits, "VM exit")]
    if recording.seconds or not recording.program:
        facts[0] += f" in {recording.seconds:.4g}\xa0s"
    if recording.program:
        return facts[0]
    if recording.cpus:
        facts.append(_many(len(recording.cpus), "CPU"))
    facts.append(_many(len(recording.vcpus), "vCPU"))
    return ", ".join(facts)


def _many(count: int, noun: str, plural: str = "") -> str:
    """Return a count with separators, and its noun."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def _entries(recording: Recording) -> list[ReasonEntry]:
    exits, seconds = recording.exits, recording.seconds
    return [
        {
            "reason": reason.reason or NOT_RECORDED,
            "task": reason.task.label if reason.task else None,
            "exits": reason.exits,
            "share": reason.exits / exits if exits else None,
            "per_second": reason.exits / seconds if seconds else None,
            "nested": reason.nested,
            "host_ns": reason.host_ns,
            "host_ns_p50": reason.p50_ns,
            "host_ns_p99": reason.p99_ns,
            "paired": reason.paired,
            "unpaired": reason.unpaired,
            "returned": reason.returned,
            "put_return": reason.put_return,
            "put_sched": reason.put_sched,
        }
        for reason in recording.reasons
    ]


def _table(recording: Recording) -> Table:
    nested = any(reason.nested for reason in recording.reasons)
    columns = [Column("exit reason", "key"), Column("exits"), Column("share", unit="%")]
    columns += [Column("rate", unit="1/s")]
    columns += [Column("host p50", unit="us"), Column("p99", unit="us"), Column("total", unit="ms")]
    columns += [Column("to user"), Column("put by", unit="return"), Column("put by", unit="switch")]
    if recording.program:  # a report has no percentiles and no puts
        columns = [*columns[:4], columns[6]]
    if nested:
        columns.insert(2, Column("of L2"))
    if recording.by_vcpu:
        columns.insert(0, Column("vCPU", "key"))
    rows = []
    for reason in recording.reasons:
        cells = _cells(recording, [reason])
        if reason.paired:
            cells[3] = _figure(reason.p50_ns, 1e3)
            cells[4] = _figure(reason.p99_ns, 1e3)
        row = [reason.reason or NOT_RECORDED, *cells]
        if nested:
            row.insert(2, f"{reason.nested:,}")
        if recording.by_vcpu:
            row.insert(0, reason.task.label if reason.task else "-")
        rows.append(row)
    if len(rows) > 1:
        row = ["all", *_cells(recording, recording.reasons)]
        if nested:
            row.insert(2, f"{sum(reason.nested for reason in recording.reasons):,}")
        if recording.by_vcpu:
            row.insert(0, "all")
        rows.append(row)
    if recording.program:
        rows = [[*row[:4], row[6]] for row in rows]
    return Table(columns, rows, grouped=recording.by_vcpu)


def _cells(recording: Recording, reasons: Iterable[Reason]) -> list[str]:
    """Return the cells of a row without its names and percentiles."""
    rows = list(reasons)
    exits = sum(reason.exits for reason in rows)
    paired = sum(reason.paired for reason in rows)
    share = f"{100 * exits / recording.exits:.2f}" if recording.exits else "-"
    rate = f"{exits / recording.seconds:,.0f}" if recording.seconds else "-"
    total = f"{sum(reason.host_ns for reason in rows) / 1e6:,.3f}" if paired else "-"
    puts = [
        f"{sum(getattr(reason, what) for reason in rows):,}"
        for what in ("returned", "put_return", "put_sched")
    ]
    return [f"{exits:,}", share, rate, "-", "-", total, *puts]


def _figure(value: int | None, scale: float) -> str:
    return "-" if value is None else f"{value / scale:,.3g}" if value < 1e5 else (
        f"{value / scale:,.0f}"
    )  # fmt: skip


def _remarks(recording: Recording) -> Iterator[Block]:
    """Yield the puts in words, the limits of the recording, and the lines that were not read."""
    if recording.program:
        clock = "" if recording.seconds else " It does not say for how long it counted."
        yield Note(f"A report of {recording.program}: it has no returns and no puts.{clock}")
        return
    puts = recording.put_return + recording.put_sched
    rate = f", {puts / recording.seconds:,.0f} per second" if recording.seconds else ""
    yield Note(
        f"{_many(puts, 'vcpu_put()')}{rate}: {recording.put_return:,} by return to userspace, "
        f"{recording.put_sched:,} by being scheduled out. Each reloads TR under eager."
    )
    said = list(_limits(recording))
    if said:
        yield Heading("Limits of this recording:")
        yield Items(said)
    if recording.unread:
        total = sum(recording.unread.values())
        yield Heading(f"Not read, {total:,} of {recording.lines:,} lines:")
        rows = [(kind, f"{count:,}") for kind, count in recording.unread.items()]
        yield Table([Column("event or line", "key"), Column("lines")], rows)


def _limits(recording: Recording) -> Iterator[str]:
    counts: Mapping[str, int] = recording.counts
    if recording.inferred:
        yield (
            "It has no kvm_exit: exits are inferred from kvm_cpuid, kvm_msr, kvm_pio, kvm_mmio, "
            "kvm_hypercall, kvm_nested_vmexit and kvm_userspace_exit. Exits without such an "
            "event, interrupts above all, are missing, and so are host times."
        )
    elif not recording.has_entries:
        yield "It has no kvm_entry: host and guest times are unknown."
    if not recording.has_switches:
        yield (
            "It has no sched_switch: puts by being scheduled out are counted only where other "
            "events tell of them. Record -e sched:sched_switch too."
        )
    if recording.lost_marks:
        lost = _many(recording.lost, "event") if recording.lost else "events"
        yield f"The tracer lost {lost}, {_many(recording.lost_marks, 'time')}."
    if recording.dropped_exits and recording.has_entries:
        yield (
            f"{_many(recording.dropped_exits, 'exit')} without a recorded entry: counted, but "
            "not in the host times."
        )
    if recording.dropped_runs:
        yield f"{_many(recording.dropped_runs, 'guest run')} without a recorded exit: dropped."
    if counts["unseen"]:
        yield (
            f"{_many(counts['unseen'], 'switch', 'switches')} between tasks not recorded: other "
            "events tell of them."
        )
    if counts["late_returns"]:
        yield (
            f"{_many(counts['late_returns'], 'return')} to userspace after the vCPU had been "
            "scheduled out: no second put."
        )
    if counts["empty_returns"]:
        yield f"{_many(counts['empty_returns'], 'return')} to userspace without an entry: no put."
    if counts["gaps"]:
        yield f"{_many(counts['gaps'], 'time')} out of order or above an hour: dropped."
    if counts["strange"]:
        yield f"{_many(counts['strange'], 'event')} of KVM in the idle task: dropped."
    if any(reason.nested for reason in recording.reasons):
        yield (
            "Exits of L2: Linux up to 4.19 also puts and loads the vCPU at each change between "
            "L1 and L2, which no event records."
        )


def _data(
    recording: Recording, reasons: list[ReasonEntry], replay: ReplayEntry | None
) -> TraceDocument:
    return {
        "schema": "kvmbench.trace/1",
        "recording": {
            "source": recording.source,
            "seconds": recording.seconds,
            "cpus": list(recording.cpus),
            "vcpus": len(recording.vcpus),
            "exits": recording.exits,
            "puts": recording.put_return + recording.put_sched,
            "lines": recording.lines,
            "events": recording.events,
            "inferred": recording.inferred,
            "lost_events": recording.lost,
            "dropped_exits": recording.dropped_exits,
            "dropped_guest_runs": recording.dropped_runs,
            "unread": dict(recording.unread),
        },
        "reasons": reasons,
        "replay": replay,
    }


def _exit_bars(recording: Recording) -> Iterator[Block]:
    """Yield the exits by reason, and the host's time where it is known; the most first."""
    reasons = sorted(recording.reasons, key=lambda reason: -reason.exits)[:BARS]
    more = len(recording.reasons) - len(reasons)
    rest = f" The table has {more} more." if more else ""

    def bar(reason: Reason, *parts: float) -> Bar:
        task = reason.task.label if reason.task else ""
        return Bar(reason.reason or NOT_RECORDED, task, parts)

    axis = Axis("exits")
    puts = [(r.exits - r.put_return - r.put_sched, r.put_return, r.put_sched) for r in reasons]
    if recording.program or any(min(parts) < 0 for parts in puts):
        bars, parts = [bar(reason, reason.exits) for reason in reasons], ["exits"]
    else:
        bars = [bar(reason, *own) for reason, own in zip(reasons, puts, strict=True)]
        parts = ["without a put", "put by return", "put by switch"]
    about = "VM exits of each reason, by the vcpu_put() that came after them." + rest
    if reasons:
        yield Bars(title="Exits by reason", about=about, axis=axis, parts=parts, bars=bars)
    timed = [reason for reason in reasons if reason.paired]
    if timed:
        yield Bars(
            title="Where the host's time goes",
            about="Time between an exit and the vCPU's next entry, summed." + rest,
            axis=Axis("host time", "ms"),
            parts=["host"],
            bars=[bar(reason, reason.host_ns / 1e6) for reason in timed],
        )


# Replays


def _cycle_bars(replay: Replay) -> Sequence[Block]:
    sides = [("recording", side.policy, side.cycles) for side in (replay.before, replay.after)]
    about = "The cycles of the recording by cause."
    return time_bars("Where the cycles go", Axis("cycles"), sides, about)


def _replay_rows(replay: Replay) -> Iterator[list[str]]:
    sides = (replay.before, replay.after)
    for cause, (_, label) in CAUSES.items():
        cycles = [side.cycles[cause] for side in sides]
        if any(cycles):
            yield _row(label, "cycles", cycles, ",")
    if replay.cpu_cycles:
        shares = [100 * side.acted / replay.cpu_cycles for side in sides]
        yield _row("TR and map", "% of CPU time", shares, ".4f")
    for label, what in (("VM exits", "exits"), ("puts", "puts"), ("TR reloads", "reloads")):
        found = [getattr(side, what) for side in sides]
        yield _row(label, "count", found, ",")
        if what == "reloads" and replay.recording.seconds:
            yield _row(label, "1/s", [n / replay.recording.seconds for n in found], ",.1f")
    for what in WRONG:
        if any(getattr(side, what) for side in sides):
            yield _row(what, "count", [getattr(side, what) for side in sides], ",")


def _row(label: str, unit: str, values: Sequence[float], form: str) -> list[str]:
    change = format(values[1] - values[0], f"+{form}")
    return [label, unit, *(format(value, form) for value in values),
            change if change.strip("+-0.,") else "0"]  # fmt: skip


def _worth(replay: Replay) -> str:
    said = f"Worth to this recording: {replay.worth:+,} cycles"
    percent = replay.worth_percent
    if percent is None:
        return f"{said}."
    return f"{said}, {percent:+.4f} % of the CPU time recorded, {10 * percent:+.3f} cores of 1,000."


def _task_table(replay: Replay, worths: Iterable[tuple[Task, int]]) -> Table:
    columns = [Column("task", "key"), Column("exits"), Column("puts"), Column("bitmap", "word")]
    columns.append(Column("worth", unit="cycles"))
    if replay.recording.seconds:
        columns.append(Column("worth", unit="cycles/s"))
    rows = []
    for task, worth in worths:
        row = [task.label, f"{task.exits:,}", f"{task.puts:,}", "yes" if task.bitmap else ""]
        row.append(f"{worth:+,}" if worth else "0")
        if replay.recording.seconds:
            row.append(f"{worth / replay.recording.seconds:+,.0f}" if worth else "0")
        rows.append(row)
    return Table(columns, rows)


def _replay_entry(replay: Replay) -> ReplayEntry:
    sides: list[SideEntry] = [
        {
            "policy": side.policy,
            "cycles": dict(side.cycles),
            "exits": side.exits,
            "puts": side.puts,
            "reloads": side.reloads,
            "leaks": side.leaks,
            "denials": side.denials,
            "faults": side.faults,
            "nulls": side.nulls,
        }
        for side in (replay.before, replay.after)
    ]
    return {
        "profile": replay.profile,
        "vendor": replay.vendor,
        "clock_hz": replay.clock_hz,
        "cpu_cycles": replay.cpu_cycles,
        "operations": replay.operations,
        "before": sides[0],
        "after": sides[1],
        "worth": replay.worth,
        "worth_percent": replay.worth_percent,
        "worth_of_others": replay.worth_of_others,
        "tasks": [
            {
                "task": task.label,
                "bitmap": task.bitmap,
                "exits": task.exits,
                "returned": task.returned,
                "puts": task.puts,
                "worth": worth,
            }
            for task, worth in replay.worths
        ],
        "kinds": dict(replay.kinds),
        "assumptions": list(replay.assumptions),
    }
