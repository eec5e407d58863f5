"""A recording: its VM exits by reason, with their times, returns and puts.

`kvmbench trace show` prints it; `replay` and the scenario of a recording read it the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kvmbench.errors import ResultError
from kvmbench.formats import exit_mix
from kvmbench.report import Document, Reported
from kvmbench.traces._history import History, bucket_value
from kvmbench.traces._reader import Reader
from kvmbench.traces.document import recording_document
from kvmbench.traces.events import Count, Kind, TaskCount
from kvmbench.traces.source import Text, open_text

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Progress", "Reason", "Recording", "Task", "read_events", "read_recording"]

SNIFFED = 16  # pieces of text in which the first event of KVM decides how exits are told
Progress = Callable[[str, float | None], None]
Histories = Callable[[Reader, bool, bool], History]


@dataclass(frozen=True, slots=True)
class Task:
    """A vCPU's thread, or another task that holds an I/O bitmap."""

    pid: int | None
    comm: str
    vcpu: int | None  # its number in its VM
    is_vcpu: bool
    bitmap: bool
    exits: int
    returned: int
    puts: int
    guest_ns: int
    run_ns: int  # on a CPU

    @property
    def label(self) -> str:
        """The task in words: `CPU 0/KVM-6660 vcpu 0`."""
        name = f"{self.comm or '?'}-{'?' if self.pid is None else self.pid}"
        return name if self.vcpu is None else f"{name} vcpu {self.vcpu}"


@dataclass(frozen=True, slots=True)
class Reason:
    """The exits of one reason, in all or of one vCPU.

    `reason` is empty for returns and puts whose exit is not recorded. `p50_ns` and `p99_ns` are to
    1 part in 256, and None where no exit has a recorded entry.
    """

    reason: str
    task: Task | None
    exits: int
    nested: int  # of them, from L2
    returned: int  # to userspace
    put_return: int  # vcpu_put() by return
    put_sched: int  # by being scheduled out
    paired: int  # exits whose next entry is recorded
    host_ns: int  # of those, from exit to entry
    unpaired: int
    p50_ns: int | None
    p99_ns: int | None


@dataclass(frozen=True, slots=True, repr=False)
class Recording(Reported):
    """The exits of a recording. It prints as `kvmbench trace show` does."""

    source: str
    seconds: float  # from the first event to the last
    cpus: tuple[int, ...]  # the CPUs that the recording names
    reasons: tuple[Reason, ...]  # by exits, falling; per vCPU where `by_vcpu`
    tasks: tuple[Task, ...]
    lines: int
    events: int
    unread: Mapping[str, int]  # lines that are not read, by kind
    inferred: bool  # no kvm_exit: other events tell of exits
    has_entries: bool
    has_switches: bool
    lost: int
    lost_marks: int
    dropped_exits: int  # exits without a recorded entry
    dropped_runs: int  # guest runs without a recorded end
    counts: Mapping[str, int] = field(default_factory=dict)  # of rarer things, by name
    by_vcpu: bool = False
    program: str = ""  # that counted the exits: a report, without an order of events

    def __repr__(self) -> str:
        return f"<Recording {self.source}: {self.exits:,} exits in {self.seconds:g} s>"

    @property
    def exits(self) -> int:
        """The recorded exits."""
        return sum(reason.exits for reason in self.reasons)

    @property
    def put_return(self) -> int:
        """The puts by return to userspace."""
        return sum(reason.put_return for reason in self.reasons)

    @property
    def put_sched(self) -> int:
        """The puts by being scheduled out."""
        return sum(reason.put_sched for reason in self.reasons)

    @property
    def vcpus(self) -> tuple[Task, ...]:
        """The vCPUs' threads."""
        return tuple(task for task in self.tasks if task.is_vcpu)

    def document(self) -> Document:
        """Return the document that `kvmbench trace show` prints."""
        return recording_document(self)


def read_recording(
    source: str | Path, *, by_vcpu: bool = False, progress: Progress | None = None
) -> Recording:
    """Return the recording of a file, or of stdin as `-`.

    The content tells whether it is text of perf script, trace-cmd report, tracefs' trace or
    trace_pipe, a trace.dat or a perf.data. `progress` is called with the name and the share that is
    read. A report of perf kvm stat, kvmexit or bpftrace has its exits alone.
    Raises ResultError where it is none of these or holds no event of KVM; OSError.
    """

    def history(reader: Reader, infer: bool, switches: bool) -> History:
        return History(reader.names, infer=infer, switches=switches, by_vcpu=by_vcpu)

    with open_text(source) as text:
        if exit_mix.matches(text.first):
            return _of_mix(text, by_vcpu)
        read = _read(text, history, None, progress)
    return _recording_of(text.name, *read, by_vcpu)


def read_events(
    source: str | Path, make: Histories, take: Callable[[History], None],
    progress: Progress | None = None,
) -> tuple[Recording, History]:  # fmt: skip
    """Read a recording to its end; return it with the history that `make` returned.

    `take` is called whenever the history has operations to take from it. Raises ResultError as
    `read_recording`, and for a report of counts; OSError.
    """
    with open_text(source) as text:
        if exit_mix.matches(text.first):
            raise ResultError(f"{text.name}: a report of counts, without the order that this needs")
        read = _read(text, make, take, progress)
    # After the text is closed: where another program printed it, its error goes first.
    recording = _recording_of(text.name, *read, False)
    _, history, _ = read
    assert history is not None
    take(history)
    return recording, history


def _read(
    text: Text, make: Histories, take: Callable[[History], None] | None, progress: Progress | None
) -> tuple[Reader, History | None, NDArray[np.int64]]:
    """Return the reader and the history of a whole text, and its numbers of events by kind."""
    reader, history, kinds = Reader(), None, np.zeros(len(Kind), np.int64)
    for history, events in _batches(text, reader, make, progress):
        kinds += np.bincount(events["kind"], minlength=len(Kind))
        at = 0
        while at < len(events):
            at = history.feed(events, at)
            if take is not None:
                take(history)
    return reader, history, kinds


def _of_mix(text: Text, by_vcpu: bool) -> Recording:
    """Return the exits of a report of another program, summed over its tables."""
    data = b"".join(text.pieces())
    found = exit_mix.mixes(data, text.name)
    program = found[0].program
    if by_vcpu:
        raise ResultError(f"{text.name}: a report of {program}: it has no vCPUs")
    total = exit_mix.Mix(program)
    for mix in found:
        for reason, exits in mix.exits.items():
            total.add(reason, exits, mix.mean_us.get(reason))
    seconds = [mix.seconds for mix in found]
    reasons = [
        Reason(
            reason=reason, task=None, exits=exits, nested=0, returned=0, put_return=0,
            put_sched=0, paired=exits if reason in total.mean_us else 0,
            host_ns=round(exits * total.mean_us.get(reason, 0) * 1000), unpaired=0,
            p50_ns=None, p99_ns=None,
        )
        for reason, exits in total.exits.items()
    ]  # fmt: skip
    reasons.sort(key=lambda reason: (-reason.exits, reason.reason))
    return Recording(
        source=text.name, seconds=sum(s or 0 for s in seconds) if all(seconds) else 0.0, cpus=(),
        reasons=tuple(reasons), tasks=(), lines=data.count(b"\n"), events=0, unread={},
        inferred=False, has_entries=True, has_switches=True, lost=0, lost_marks=0,
        dropped_exits=0, dropped_runs=0, program=program,
    )  # fmt: skip


def _batches(
    text: Text, reader: Reader, make: Histories, progress: Progress | None
) -> Iterator[tuple[History, NDArray[np.void]]]:
    """Yield the events of a text in batches, with the history that `make` returns for them."""
    history: History | None = None
    waiting: list[NDArray[np.void]] = []
    pieces = text.pieces()
    last = False
    while not last:
        piece = next(pieces, b"")
        last = not piece
        events = reader.feed(piece, last)
        waiting.append(events)
        if history is None and (last or len(waiting) == SNIFFED or _has_kvm(events)):
            kinds = set(np.concatenate([batch["kind"] for batch in waiting]).tolist())
            history = make(reader, Kind.EXIT not in kinds, Kind.SWITCH in kinds)
        if history is not None:
            for batch in waiting:
                yield history, batch
            waiting = []
        if progress is not None:
            progress(text.name, text.share)


def _has_kvm(events: NDArray[np.void]) -> bool:
    return bool((events["kind"] <= Kind.NESTED).any())


def _recording_of(
    name: str, reader: Reader, history: History | None, kinds: NDArray[np.int64], by_vcpu: bool
) -> Recording:
    """Return the recording that `_read` has read. Raises ResultError where none is KVM's event."""
    if history is None or not kinds[: Kind.NESTED + 1].any():
        raise ResultError(f"{name}: {_nothing(reader, kinds)}")
    history.end()
    tasks = history.task_counts()
    made = {index: _task(count) for index, count in tasks.items()}
    reasons = [_reason(count, made.get(count["task"])) for count in history.counts()]
    reasons.sort(key=lambda reason: (-reason.exits, reason.reason))
    if by_vcpu:
        order = sorted(made.values(), key=lambda task: (-task.exits, task.label))
        place = {task: number for number, task in enumerate(order)}
        reasons.sort(key=lambda reason: place[reason.task] if reason.task else -1)
    rare = ("empty_returns", "late_returns", "gaps", "unseen", "strange", "nested_events")
    return Recording(
        source=name,
        seconds=max(history.last - history.first, 0) / 1e9,
        cpus=tuple(sorted(history.cpu_ids)),
        reasons=tuple(reasons),
        tasks=tuple(made.values()),
        lines=reader.lines,
        events=int(sum(kinds)),
        unread=dict(sorted(reader.unread.items(), key=lambda item: (-item[1], item[0]))),
        inferred=history.inferring,
        has_entries=bool(kinds[Kind.ENTRY]),
        has_switches=bool(kinds[Kind.SWITCH]),
        lost=history.lost,
        lost_marks=history.lost_marks,
        dropped_exits=sum(reason.unpaired for reason in reasons),
        dropped_runs=history.dropped,
        counts={name: getattr(history, name) for name in (*rare, "ioperms", "ioperms_left")},
        by_vcpu=by_vcpu,
    )


def _nothing(reader: Reader, kinds: Sequence[int] | NDArray[np.int64]) -> str:
    if not reader.lines:
        return "is empty"
    if not sum(kinds):
        return (
            f"no event in {reader.lines:,} lines; kvmbench reads the text of perf script, "
            "trace-cmd report and tracefs' trace and trace_pipe"
        )
    return (
        f"no event of KVM in {reader.lines:,} lines: record with "
        "`perf record -a -e 'kvm:*,sched:sched_switch'`"
    )


def _task(count: TaskCount) -> Task:
    wanted: Any = {name: count[name] for name in Task.__slots__}  # type: ignore[literal-required]
    return Task(**wanted)


def _reason(count: Count, task: Task | None) -> Reason:
    return Reason(
        reason=count["reason"], task=task, exits=count["exits"], nested=count["nested"],
        returned=count["returned"], put_return=count["put_return"], put_sched=count["put_sched"],
        paired=count["paired"], host_ns=count["host_ns"], unpaired=count["unpaired"],
        p50_ns=_percentile(count, 50), p99_ns=_percentile(count, 99),
    )  # fmt: skip


def _percentile(count: Count, percent: int) -> int | None:
    """Return the least time that `percent` of the times do not exceed, in ns, by its bucket."""
    histogram = count["histogram"]
    if histogram is None:
        return None
    sums = np.cumsum(histogram, dtype=np.int64)
    rank = -(-int(sums[-1]) * percent // 100)
    value = bucket_value(int(np.searchsorted(sums, max(rank, 1))))
    return min(max(value, count["least_ns"]), count["most_ns"])
