"""Verdicts of the checker as text, Markdown and JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from kvmbench.checker.verdict import Bad, Event, Verdict, task_name
from kvmbench.report.plain import WIDTH, Table, markdown, text

__all__ = ["FORMATS", "render", "render_mutations"]

FORMATS = ("text", "markdown", "json")
UNSHOWN = ("place", "task")  # columns that an event's own words say


def render(verdicts: Sequence[Verdict], form: str, replays: Sequence[str | None] = ()) -> str:
    """Return verdicts in one of FORMATS; `replays` has a line for each, or none."""
    said = list(replays) or [None] * len(verdicts)
    if form == "json":
        both = zip(verdicts, said, strict=True)
        return json.dumps({"checks": [_document(v, r) for v, r in both]}, indent=2) + "\n"
    parts = [*_title(verdicts), _table(verdicts, form)]
    for verdict, line in zip(verdicts, said, strict=True):
        if verdict.bad is not None:
            story = _story(verdict, verdict.bad)
            parts.append(f"```\n{story}```\n" if form == "markdown" else story)
        if line is not None:
            parts.append(_fill(line))
    parts += map(_fill, _notes(verdicts))
    return "\n".join(parts)


def render_mutations(original: Verdict, mutants: Sequence[tuple[str, Verdict]], form: str) -> str:
    """Return what became of each mutant of a policy, survivors last, in one of FORMATS."""
    if form == "json":
        entries = [{"mutation": what, **_document(verdict, None)} for what, verdict in mutants]
        document = {"original": _document(original, None), "mutants": entries}
        return json.dumps(document, indent=2) + "\n"
    rows = []
    for what, verdict in sorted(mutants, key=lambda pair: _rank(pair[1])):
        events = str(len(verdict.bad.events)) if verdict.bad else "-"
        rows.append((what, _outcome(verdict), events, f"{verdict.states:,}"))
    write = markdown if form == "markdown" else _wide
    table = Table(("mutation", "verdict", "events", "states"), rows, 2)
    found = [verdict for _, verdict in mutants]
    killed = sum(v.verdict == "unsafe" for v in found)
    open_ = sum(v.verdict == "undecided" for v in found)
    survived = len(found) - killed - open_
    undecided = f", {open_} not decided" if open_ else ""
    line = f"{len(found)} mutants: {killed} unsafe, {survived} survive{undecided}."
    return "\n".join((*_title([original]), write(table), _fill(line)))


def _rank(verdict: Verdict) -> int:
    return ("unsafe", "undecided", "safe").index(verdict.verdict)


def _outcome(verdict: Verdict) -> str:
    if verdict.bad is not None:
        return verdict.bad.what
    return "survives" if verdict.verdict == "safe" else "not decided"


def _wide(table: Table) -> str:
    """Return a table whose first column, a policy's own steps, is not to be cut."""
    width = max(len(row[0]) for row in (table.headings, *table.rows))
    others = Table(table.headings[1:], [row[1:] for row in table.rows], 1)
    lines = text(others).splitlines()
    names = [table.headings[0], *(row[0] for row in table.rows)]
    return "".join(f"{n:{width}}  {line}\n" for n, line in zip(names, lines, strict=True))


def _title(verdicts: Sequence[Verdict]) -> Iterator[str]:
    if verdicts:
        v = verdicts[0]
        names = "" if v.symmetry else ", no symmetry"
        sizes = f"{_many(v.cpus, 'CPU')}, {_many(v.tasks, 'task')}, {_many(v.ports, 'port')}"
        yield _fill(f"every interleaving: {sizes}{names}")


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _fill(words: str) -> str:
    return textwrap.fill(words, WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def _table(verdicts: Sequence[Verdict], form: str) -> str:
    rows = [
        (
            v.policy.name,
            "not decided" if v.verdict == "undecided" else v.verdict,
            f"{v.states:,}",
            f"{v.transitions:,}",
            str(v.depth),
            f"{v.seconds:.1f}",
        )
        for v in verdicts
    ]
    headings = ("policy", "verdict", "states", "transitions", "depth", "seconds")
    return {"text": text, "markdown": markdown}[form](Table(headings, rows, 2))


def _story(verdict: Verdict, bad: Bad) -> str:
    """Return a counterexample: one line an event, and what it comes to."""
    lines = [f"{verdict.policy.name}: {bad.what} after {len(bad.events)} events"]
    width = max(len(event.says) for event in bad.events)
    for number, event in enumerate(bad.events, 1):
        who = "-" if event.task is None else task_name(event.task)
        head = f"{number:3}  CPU {event.cpu}  {who}  "
        lines += _event_lines(head, event, min(width, 26))
    lines += textwrap.wrap(_end(bad), WIDTH, break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def _event_lines(head: str, event: Event, width: int) -> list[str]:
    changes = [
        f"{column}\xa0{old}\xa0->\xa0{new}"
        for column, old, new in event.changes
        if column.rpartition(" ")[2] not in UNSHOWN
    ]
    column = len(head) + width + 2
    said = textwrap.wrap(event.says, WIDTH - len(head), break_on_hyphens=False)
    indent = " " * len(head)
    lines = [head + said[0], *(indent + more for more in said[1:])]
    if changes:
        what = ", ".join(changes).replace(" ->", "\xa0->")
        wrapped = textwrap.wrap(what, WIDTH - column, break_on_hyphens=False)
        if len(lines[-1]) + 2 <= column:
            lines[-1] = f"{lines[-1]:{column}}{wrapped[0]}"
            wrapped = wrapped[1:]
        lines += [" " * column + more for more in wrapped]
    return [line.replace("\xa0", " ") for line in lines]


def _end(bad: Bad) -> str:
    event = bad.events[-1]
    if bad.port is None or event.task is None:
        return f"fault: CPU {event.cpu} executes LTR while the TSS descriptor is busy: #GP"
    owns = "owns" if bad.owned else "does not own"
    allows = "allows" if bad.allowed else "denies"
    return (
        f"{bad.what}: {task_name(event.task)}, in user mode on CPU {event.cpu}, {owns} port "
        f"{bad.port}; the hardware {allows} it"
    )


def _notes(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for v in verdicts:
        if v.verdict == "undecided":
            states = f"{v.states:,} states explored, none bad"
            yield f"{v.policy.name}: not decided: {states} ({v.reason})."
        if v.verdict != "safe":
            continue
        for wasted in v.wasted:
            after = _many(len(wasted.events), "event")
            yield (
                f"{v.policy.name}: cost: {wasted.step!r} reloads where the limit is full, for "
                f"the first time after {after}: {_brief(wasted.events)}."
            )
        for step in v.never:
            yield f"{v.policy.name}: cost: no history takes {step!r}."


def _brief(events: Sequence[Event]) -> str:
    said = []
    for event in events:
        who = "-" if event.task is None else task_name(event.task)
        said.append(f"CPU\xa0{event.cpu} {who} {event.says}")
    return "; ".join(said)


def _event(event: Event) -> dict[str, Any]:
    return {
        "cpu": event.cpu,
        "task": None if event.task is None else task_name(event.task),
        "event": event.code,
        "says": event.says,
        "changes": {column: [old, new] for column, old, new in event.changes},
    }


def _document(v: Verdict, said: str | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "policy": v.policy.name,
        "cpus": v.cpus,
        "tasks": v.tasks,
        "ports": v.ports,
        "symmetry": v.symmetry,
        "verdict": v.verdict,
        "reason": v.reason or None,
        "states": v.states,
        "transitions": v.transitions,
        "depth": v.depth,
        "seconds": v.seconds,
        "memory_bytes": v.memory,
        "counterexample": None,
        "replay": said,
        "wasted_reloads": [
            {"step": w.step, "events": [_event(event) for event in w.events]} for w in v.wasted
        ],
        "steps_never_taken": list(v.never),
    }
    if v.bad is not None:
        document["counterexample"] = {
            "what": v.bad.what,
            "port": v.bad.port,
            "owned": v.bad.owned,
            "allowed": v.bad.allowed,
            "events": [_event(event) for event in v.bad.events],
        }
    return document
