"""Random histories on a real kernel, each answer and reload compared with a Machine's.

`kvmbench lab differ` prints the outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from kvmbench._core import Machine
from kvmbench.catalog import policies, profiles
from kvmbench.errors import LabError
from kvmbench.lab.counts import Mark
from kvmbench.lab.emulator import Emulator
from kvmbench.lab.histories import ALLOWED, DENIED, KINDS, TASKS, draw, parts, tag
from kvmbench.lab.kernel import Kernel, Vendor, policy_of
from kvmbench.lab.run import Plan, Progress, boot
from kvmbench.model import Op, Operation, Policy, Profile
from kvmbench.report import Cell, Column, Document, Items, Table, Tone

__all__ = ["Differ", "Judged", "Played", "controls", "differ", "document", "judge", "play"]

HISTORY_OPERATIONS = 1000  # of one history: its processes and their guests fit into the machine
SHOWN = 3  # differences that are kept
NO_RELOAD = "no reload"


@dataclass(frozen=True, slots=True)
class Played:
    """A history that a kernel did."""

    history: Sequence[Operation]
    answers: Sequence[int]  # by operation: ALLOWED or DENIED of an IO, else 0
    marks: Sequence[Mark]  # at the first segment's begin and each one's end


@dataclass(slots=True)
class Judged:
    """Histories as a kernel did them, compared with a policy's."""

    policy: str
    accesses: int = 0
    allowed: int = 0  # by the kernel
    other_answers: int = 0  # than the machine's
    segments: int = 0
    left_out: int = 0  # segments with more switches than the history has, or more exits
    reloads: int = 0  # LTRs of the kernel in the segments that are compared
    other_reloads: int = 0  # segments with another number than the machine's
    first: list[str] = field(default_factory=list)  # differences

    @property
    def agrees(self) -> bool:
        """Whether no answer and no segment differs, and not all segments were left out."""
        return not self.other_answers and not self.other_reloads and self.left_out < self.segments


@dataclass(frozen=True, slots=True)
class Differ:
    """A kernel's histories judged by its policy, and by others as a control."""

    kernel: str
    vendor: Vendor
    seed: int
    operations: int
    judged: Judged
    controls: tuple[Judged, ...]


def histories(operations: int, seed: int) -> list[str]:
    """Return the seeds of the histories that have `operations` operations together."""
    return [f"{seed}-{number}" for number in range(-(-operations // HISTORY_OPERATIONS))]


def differ(
    kernel: Kernel, vendor: Vendor, operations: int, seed: int, emulator: Emulator, *,
    policy: Policy | None = None, no_reload: bool = False, limit: float = 3600.0,
    progress: Progress | None = None,
) -> Differ:  # fmt: skip
    """Boot a kernel, let processes there do random histories, and judge them.

    `policy` is the one that the kernel follows, by default that of its release; `no_reload` stands
    for none. Raises LabError where the kernel does not do its job.
    """
    if policy is None and not no_reload:
        name = policy_of(kernel.release, vendor)
        policy = None if name is None else policies()[name]
    played = play(kernel, vendor, operations, seed, emulator, limit, progress)
    own = judge(played, policy, vendor)
    others = tuple(judge(played, other, vendor) for other in controls(policy, vendor))
    done = sum(len(one.history) for one in played)
    return Differ(kernel.label, vendor, seed, done, own, others)


def play(
    kernel: Kernel, vendor: Vendor, operations: int, seed: int, emulator: Emulator,
    limit: float = 3600.0, progress: Progress | None = None,
) -> list[Played]:  # fmt: skip
    """Boot a kernel and return the histories that processes did there."""
    seeds = histories(operations, seed)
    size = min(operations, HISTORY_OPERATIONS)
    plan = Plan(histories=tuple(seeds), operations=size, limit=limit)
    report = boot(kernel, vendor, (), plan, emulator, None, progress or (lambda *_: None))
    played = []
    for number, one in enumerate(seeds):
        history = draw(one, size)
        marks = [
            report.marks.get(tag(number, segment)) for segment in range(len(parts(history)[1]) + 1)
        ]
        known = [mark for mark in marks if mark is not None]
        answers = report.answers.get(number, b"")
        if len(known) < len(marks) or len(answers) < len(history):
            raise LabError(f"{kernel.label}: history {one} has no end")
        played.append(Played(history, list(answers), known))
    return played


def controls(policy: Policy | None, vendor: Vendor) -> list[Policy]:
    """Return policies that a kernel of `policy` does not follow: the others, and it unmarked."""
    found = [other for other in policies().values() if policy is None or other != policy]
    if policy is not None and any("mark_stale" in str(step) for step in policy.steps("vcpu_put")):
        kept = [
            tuple(str(step) for step in region if step.action != "mark_stale")
            for region in policy.regions("vcpu_put")
        ]
        found.append(replace(policy, name=f"{policy.name} without its mark", vcpu_put=tuple(kept)))
    return found


def judge(played: Sequence[Played], policy: Policy | None, vendor: Vendor) -> Judged:
    """Compare histories, as a kernel did them, with those of `policy`; None reloads nothing.

    A segment is left out where the machine switched tasks, or where the policy reloads at exits
    left guests, another number of times than the history has it.
    """
    found = Judged(policy.name if policy else NO_RELOAD)
    chosen = policy or replace(policies()["exit-to-user"], name=NO_RELOAD, vcpu_put=())
    for number, one in enumerate(played):
        machine = Machine(1, TASKS, chosen, _profile(), vendor)
        rows = [operation.row() for operation in one.history]
        machine.run(rows[:1])
        before, exits = 0, 0
        for segment, (cut, begin, end) in enumerate(
            zip(parts(one.history)[1], one.marks, one.marks[1:], strict=False), 1
        ):
            answers = machine.run(rows[cut.start : cut.stop])
            for index, answer in enumerate(answers.tolist(), cut.start):
                if one.history[index].op == Op.IO:
                    _answer(found, number, index, one, ALLOWED if answer else DENIED)
            reloads, exited = machine.count(0, "reloads"), machine.count(0, "exits")
            found.segments += 1
            counted = end.ltr - begin.ltr
            more = end.switches - begin.switches != cut.switches
            if more or (chosen.vm_exit and end.exits - begin.exits != exited - exits):
                found.left_out += 1
            else:
                found.reloads += counted
                if counted != reloads - before:
                    found.other_reloads += 1
                    _note(
                        found,
                        f"history {number}, segment {segment}, operations {cut.start} to "
                        f"{cut.stop - 1}: {counted} LTRs, not {reloads - before}",
                    )
            before, exits = reloads, exited
    return found


def _profile() -> Profile:
    """Return a profile whose kinds are those of the histories; its costs do not matter."""
    base = profiles()["patch-2017"]
    kinds = tuple(base.kinds[base.kind_index(name)] for name in KINDS)
    return replace(base, kinds=kinds, provenance={})


def _answer(found: Judged, number: int, index: int, one: Played, wanted: int) -> None:
    found.accesses += 1
    found.allowed += one.answers[index] == ALLOWED
    if one.answers[index] != wanted:
        found.other_answers += 1
        words = {ALLOWED: "allowed", DENIED: "denied", 0: "not done"}
        _, port, _, width = one.history[index]
        _note(
            found,
            f"history {number}, operation {index}: IN of {width} at {port:#x} was "
            f"{words[one.answers[index]]}, not {words[wanted]}",
        )


def _note(found: Judged, words: str) -> None:
    if len(found.first) < SHOWN:
        found.first.append(words)


def document(found: Differ) -> Document:
    """Return the document of `kvmbench lab differ`."""
    own = found.judged
    columns = (
        Column("policy", "key"), Column("other answers"), Column("segments"),
        Column("other LTRs"), Column("left out"), Column("", "word"),
    )  # fmt: skip
    rows = [_row(own, own=True), *(_row(one, own=False) for one in found.controls)]
    notes = [
        f"{found.operations:,} operations with seed {found.seed}; {own.accesses:,} IN at CPL 3, of "
        f"which the kernel allowed {own.allowed:,}; {own.reloads:,} LTRs in the segments that are "
        "compared.",
        "A segment is the operations between two moments outside the guest. One is left out where "
        "the kernel switched tasks by itself, which may reload TR too.",
        "The first policy is the kernel's. The others are the control: the same histories must "
        "tell them from it.",
        *own.first,
    ]
    records = [asdict(one) | {"agrees": one.agrees} for one in (own, *found.controls)]
    flat = [{k: v for k, v in record.items() if k != "first"} for record in records]
    return Document(
        title=f"Random histories on {found.kernel}, {found.vendor}, compared with the model",
        blocks=[Table(columns, rows), Items(notes)],
        records=flat,
        data={
            "schema": "kvmbench.lab-differ/1", "kernel": found.kernel, "vendor": found.vendor,
            "seed": found.seed, "operations": found.operations, "policies": records,
        },
    )  # fmt: skip


def _row(one: Judged, *, own: bool) -> list[str | Cell]:
    figures = (one.other_answers, one.segments, one.other_reloads, one.left_out)
    tones: dict[bool, Tone] = {True: "good", False: "bad"}
    word = "agrees" if one.agrees else "differs"
    return [one.policy, *(f"{n:,}" for n in figures), Cell(word, tones[one.agrees == own])]
