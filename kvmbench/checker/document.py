"""The document of the checker's verdicts, and its JSON, "kvmbench.check/1".

`Verdict.document` and `kvmbench check` make it; `kvmbench schema check` prints `SCHEMAS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Literal, TypedDict

from msgspec import UNSET, UnsetType, to_builtins

from kvmbench.checker.explorer import BAD, EXTRA_EVENTS
from kvmbench.checker.history import CPU_COLUMNS, Counterexample, Event, Explored
from kvmbench.checker.itf import itf
from kvmbench.errors import listed
from kvmbench.report import Block, Cell, Column, Document, Heading, Note, Record, Table, Tone
from kvmbench.report.figures import plural

if TYPE_CHECKING:
    from kvmbench.checker.verdict import Verdict

__all__ = ["SCHEMAS", "CheckDocument", "document", "sizes", "story"]

UNSHOWN = ("place", "task")  # columns that an event's text implies
TONES: dict[str, Tone] = {"safe": "good", "unsafe": "bad", "undecided": "doubt"}


@dataclass(frozen=True, kw_only=True)
class VerdictEntry(Explored):
    """A verdict; `policy` is a mutation's name in `mutants`, which --mutations adds."""

    policy: str
    replay: str | None
    mutants: list[VerdictEntry] | UnsetType = UNSET


class CheckDocument(TypedDict):
    """The JSON of `kvmbench check`."""

    schema: Literal["kvmbench.check/1"]
    verdicts: list[VerdictEntry]


SCHEMAS = {"check": CheckDocument}
"""The JSON documents of the checker by kind."""


def document(verdicts: Sequence[Verdict], *, brief: bool = False) -> Document:
    """Return the document of one or more verdicts on machines of one size.

    `brief`: without the kinds of violation and the content of the search.
    """
    blocks, records = [_table(verdicts)], []
    if not brief:
        blocks += [_kinds(verdicts), Note(_contents(verdicts[0]))]
    for verdict in verdicts:
        blocks += story(verdict)
        blocks += _mutants(verdict) if verdict.mutants else ()
        records.append(_record(verdict))
        for name, mutant in verdict.mutants.items():
            records.append(_record(mutant) | {"policy": verdict.policy.name, "mutation": name})
    data = {"schema": "kvmbench.check/1", "verdicts": [_entry(verdict) for verdict in verdicts]}
    v = verdicts[0]
    title = f"every interleaving: {sizes(v)}{'' if v.symmetry else ', no symmetry'}"
    forms = {}
    if bad := [v for v in verdicts if v.counterexample]:
        forms["itf"] = partial(_itf, bad[0])
    return Document(title, blocks, records, data, forms=forms)


def sizes(v: Verdict) -> str:
    """Return the size of the machine that was explored, in words."""
    return f"{plural(v.cpus, 'CPU')}, {plural(v.tasks, 'task')}, {plural(v.ports, 'port')}"


def _itf(v: Verdict) -> str:
    assert v.counterexample is not None
    return itf(v.policy.name, v.counterexample.violation, v.history)


def _word(v: Verdict) -> Cell:
    return Cell("not decided" if v.verdict == "undecided" else v.verdict, TONES[v.verdict])


def _table(verdicts: Sequence[Verdict]) -> Block:
    columns = [
        Column("policy", "key"), Column("verdict", "word"), Column("states"),
        Column("transitions"), Column("depth", unit="events"), Column("time", unit="s"),
    ]  # fmt: skip
    rows = [
        (v.policy.name, _word(v), f"{v.states:,}", f"{v.transitions:,}", str(v.depth),
         f"{v.seconds:.1f}")
        for v in verdicts
    ]  # fmt: skip
    return Table(columns, rows)


def _kinds(verdicts: Sequence[Verdict]) -> Block:
    """Return which violations a search met: it ends at the first one."""
    kinds = [kind for kind in BAD if kind]
    columns = [Column("policy", "key"), *(Column(kind, "word") for kind in kinds)]
    columns.append(Column("preemption points"))
    rows: list[tuple[str | Cell, ...]] = []
    for v in verdicts:
        row = dict.fromkeys(kinds, "none" if v.verdict == "safe" else "-")
        cells: list[str | Cell] = [row[kind] for kind in kinds]
        if bad := v.counterexample:
            cells[kinds.index(bad.violation)] = Cell(f"{len(bad.events)} events", "bad")
        rows.append((v.policy.name, *cells, str(v.preemption_points)))
    return Table(columns, rows)


def _contents(v: Verdict) -> str:
    """Return the events that a search contained, and those that it left out."""
    asked = f", with {listed(v.events)}" if v.events else ""
    left_out = [name for name in EXTRA_EVENTS if name not in v.events]
    rest = f"; left out: {listed(left_out)} (--events)" if left_out else ""
    return (
        f"Explored: switches, KVM_RUN, ioperm() and exits of tasks in every order{asked}; a "
        f"preemption point is a place in the kernel where the scheduler may take a task out{rest}."
    )


def story(v: Verdict, *, heading: bool = True) -> Iterator[Block]:
    """Return a counterexample with its replay, or the costs of a safe policy."""
    name = v.policy.name
    if bad := v.counterexample:
        columns = [
            Column("no."), Column("CPU"), Column("task", "key"), Column("event", "word"),
            Column("changes", "word"),
        ]  # fmt: skip
        rows = [
            (str(number), str(event.cpu), event.task or "-", event.text, _changes(event))
            for number, event in enumerate(bad.events, 1)
        ]
        if heading:
            yield Heading(f"{name}: {bad.violation} after {len(bad.events)} events")
        yield Table(columns, rows, wide=_states(bad))
        yield Note(_end(bad))
        if v.replayed:
            yield Note(v.replayed)
    elif v.verdict == "undecided":
        yield Note(f"{name}: not decided: {v.states:,} states explored, no violation ({v.reason}).")
    else:
        for wasted in v.wasted_reloads:
            brief = "; ".join(f"CPU\xa0{e.cpu} {e.task or '-'} {e.text}" for e in wasted.events)
            yield Note(
                f"{name}: cost: {wasted.step!r} reloads although the limit is full, first after "
                f"{plural(len(wasted.events), 'event')}: {brief}."
            )
        for step in v.unreachable_steps:
            yield Note(f"{name}: cost: no history takes {step!r}.")


def _states(bad: Counterexample) -> Table:
    """Return the state after each event, in columns of CPUs and tasks; changed cells stand out."""
    changes = [dict(_placed(event)) for event in bad.events]
    names = sorted({name for found in changes for name in found})
    state: dict[tuple[str, str], str] = {}  # before the first event
    for found in reversed(changes):
        state |= {name: old for name, (old, _) in found.items()}
    columns = [Column("no.", "key"), Column("CPU"), Column("task"), Column("event", "word")]
    columns += [Column(name, unit=place) for place, name in names]
    start: list[str | Cell] = ["0", "-", "-", "at the start", *(state[name] for name in names)]
    rows = [start]
    for number, (event, found) in enumerate(zip(bad.events, changes, strict=True), 1):
        state |= {name: new for name, (_, new) in found.items()}
        cells = [
            Cell(f"{found[n][0]} -> {found[n][1]}", "mark") if n in found else Cell(state[n])
            for n in names
        ]
        rows.append([str(number), str(event.cpu), event.task or "-", event.text, *cells])
    return Table(columns, rows)


def _placed(event: Event) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Yield the changes of an event by place, `CPU 0` or `A`, and column."""
    for label, change in event.changes.items():
        place, _, column = label.rpartition(" ")
        if column in UNSHOWN:
            continue
        mine = f"CPU {event.cpu}" if column in CPU_COLUMNS else f"task {event.task}"
        other = place if place.startswith("CPU") else f"task {place}"
        yield (other if place else mine, column), change


def _changes(event: Event) -> str:
    return ", ".join(
        f"{column}\xa0{old}\xa0->\xa0{new}"
        for column, (old, new) in event.changes.items()
        if column.rpartition(" ")[2] not in UNSHOWN
    )


def _end(bad: Counterexample) -> str:
    event = bad.events[-1]
    if bad.violation == "null":
        return f"null: a step on CPU {event.cpu} needs the I/O bitmap of a task with TIF and no map"
    if bad.port is None:
        return f"fault: CPU {event.cpu} executes LTR while the TSS descriptor is busy: #GP"
    return (
        f"{bad.violation}: {event.task or '-'}, in user mode on CPU {event.cpu}, "
        f"{'owns' if bad.owned else 'does not own'} port {bad.port}; "
        f"the hardware {'allows' if bad.allowed else 'denies'} it"
    )


def _mutants(original: Verdict) -> Iterator[Block]:
    """Return the mutants of a policy: the unsafe ones first, survivors last."""
    columns = [
        Column("mutation", "key"), Column("verdict", "word"), Column("events"), Column("states"),
    ]  # fmt: skip
    rows: list[tuple[str | Cell, ...]] = []
    counts = dict.fromkeys(("unsafe", "undecided", "safe"), 0)
    for verdict in sorted(original.mutants.values(), key=lambda v: list(counts).index(v.verdict)):
        counts[verdict.verdict] += 1
        cell, events = Cell("survives", "mark"), "-"
        if bad := verdict.counterexample:
            cell, events = Cell(bad.violation), str(len(bad.events))
        elif verdict.verdict == "undecided":
            cell = _word(verdict)
        rows.append((verdict.policy.name, cell, events, f"{verdict.states:,}"))
    yield Table(columns, rows)
    open_ = f", {counts['undecided']} not decided" if counts["undecided"] else ""
    survivors = f"{counts['unsafe']} unsafe, {counts['safe']} survive{open_}"
    yield Note(f"{original.policy.name}: {plural(len(rows), 'mutant')}: {survivors}.")


def _record(v: Verdict) -> Record:
    return {
        "policy": v.policy.name, "cpus": v.cpus, "tasks": v.tasks, "ports": v.ports,
        "verdict": v.verdict,
        "violation": v.counterexample.violation if v.counterexample else None,
        "events": len(v.counterexample.events) if v.counterexample else None,
        "states": v.states, "transitions": v.transitions, "depth": v.depth, "seconds": v.seconds,
    }  # fmt: skip


def _entry(v: Verdict) -> Record:
    """Return the content of a `VerdictEntry`, the policy first."""
    shared = {entry.name: getattr(v, entry.name) for entry in fields(Explored)}
    found = {"policy": v.policy.name, **shared, "replay": v.replayed}
    if v.mutants:
        found["mutants"] = [_entry(mutant) for mutant in v.mutants.values()]
    return to_builtins(found)  # type: ignore[no-any-return]
