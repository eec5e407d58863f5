"""The public bugs that the checker must find, each as a policy, and its mended form.

data/known.toml holds them. `kvmbench check --known` prints the table; the tests hold that each is
found, and that its mended form is safe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, TypedDict

from kvmbench.catalog import policies
from kvmbench.checker.document import sizes, story
from kvmbench.checker.explorer import EXTRA_EVENTS, Explorer
from kvmbench.checker.verdict import Verdict, check
from kvmbench.errors import unknown_name
from kvmbench.model import HOOKS, Policy
from kvmbench.report import Block, Cell, Column, Document, Heading, Note, Record, Table
from kvmbench.tomlfile import DATA, Source, declared

__all__ = [
    "SCHEMAS",
    "Known",
    "KnownDocument",
    "KnownVerdict",
    "check_known",
    "document",
    "known",
    "unmodeled",
]

SIZES: Mapping[str, Any] = {"cpus": 2, "tasks": 2, "ports": 1}  # where every bug of the table shows
UNMODELED = "unmodeled"
CHANGED = (*HOOKS, "io_base_at_start")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A public bug: its number in the table, year, commit or advisory, and two sentences.

    `policy` is the kernel's with the bug, `mended` without it; `events` are those of
    `EXTRA_EVENTS` that the search needs.
    """

    number: int
    year: int
    reference: str
    mechanism: str
    policy: Policy
    mended: Policy
    events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KnownVerdict:
    """A public bug with the checker's verdicts on it and on its mended form."""

    known: Known
    verdict: Verdict
    mended: Verdict = field(repr=False)


class KnownBug(TypedDict):
    """A bug in the JSON: `events` are separated by commas, `length` is a shortest history's."""

    number: int
    bug: str
    year: int
    reference: str
    mechanism: str
    events: str
    verdict: Literal["safe", "unsafe", "undecided"]
    violation: Literal["leak", "denial", "fault", "null"] | None
    length: int | None
    mended: Literal["safe", "unsafe", "undecided"]


class KnownDocument(TypedDict):
    """The JSON of `kvmbench check --known`."""

    schema: Literal["kvmbench.known/1"]
    bugs: list[KnownBug]


SCHEMAS = {"known": KnownDocument}
"""The JSON document of the public bugs by kind."""


@cache
def known() -> Mapping[str, Known]:
    """Return the public bugs by name, in order of age."""
    source = _source()
    return MappingProxyType({n: _known(source, n) for n in source.data if n != UNMODELED})


@cache
def unmodeled() -> Mapping[int, str]:
    """Return the reasons why other public bugs are no policies, by number."""
    source = _source()
    stated = source.strings((UNMODELED,), [*source.data[UNMODELED].values()])
    return MappingProxyType(dict(zip(map(int, source.data[UNMODELED]), stated, strict=True)))


def _source() -> Source:
    return Source(DATA / "known.toml")


def _known(source: Source, name: str) -> Known:
    required = {"number": int, "year": int, "reference": str, "mechanism": str, "policy": str}
    table = source.table((name,), {**required, "wrong": dict}, {"mended": dict, "events": list})
    events = source.strings((name, "events"), table.get("events", []))
    for event in events:
        if event not in EXTRA_EVENTS:
            raise source.error((name, "events"), unknown_name("event", event, EXTRA_EVENTS))
    if table["policy"] not in policies():
        reason = unknown_name("policy", table["policy"], policies())
        raise source.error((name, "policy"), reason)
    base = policies()[table["policy"]]

    def changed(key: str, own: str) -> Policy:
        hooks = (
            source.table((name, key), {}, dict.fromkeys(CHANGED, object)) if key in table else {}
        )
        with declared(source, (name, key), CHANGED):
            return replace(base, name=own, about="", **hooks)

    return Known(
        **{key: table[key] for key in ("number", "year", "reference", "mechanism")},
        policy=changed("wrong", name), mended=changed("mended", f"{name}, mended"), events=events,
    )  # fmt: skip


def check_known(
    progress: Callable[[Explorer], None] | None = None, **options: Any
) -> list[KnownVerdict]:
    """Check each public bug and its mended form; return them until Ctrl-C stops one.

    `options` are those of `check`; the machine has 2 CPUs, 2 tasks and 1 port.
    """
    found = []
    for bug in known().values():
        verdicts = [
            check(policy, events=bug.events, progress=progress, **SIZES, **options)
            for policy in (bug.policy, bug.mended)
        ]
        found.append(KnownVerdict(bug, *verdicts))
        if any(verdict.stopped for verdict in verdicts):
            break
    return found


def document(found: Sequence[KnownVerdict]) -> Document:
    """Return the document that `kvmbench check --known` prints."""
    columns = [
        Column("no."), Column("bug", "key"), Column("year"), Column("found", "word"),
        Column("events"), Column("mended", "word"), Column("time", unit="s"),
    ]  # fmt: skip
    rows: list[tuple[str | Cell, ...]] = []
    blocks: list[Block] = []
    records: list[Record] = []
    for one in found:
        bad = one.verdict.counterexample
        rows.append(
            (
                str(one.known.number), one.verdict.policy.name, str(one.known.year),
                Cell(bad.violation, "good") if bad else Cell(one.verdict.verdict, "bad"),
                str(len(bad.events)) if bad else "-",
                Cell(one.mended.verdict, "good" if one.mended.verdict == "safe" else "bad"),
                f"{one.verdict.seconds + one.mended.seconds:.1f}",
            )
        )  # fmt: skip
        blocks.append(Heading(f"{one.verdict.policy.name} ({one.known.reference})"))
        blocks.append(Note(one.known.mechanism))
        blocks += story(one.verdict, heading=False)
        records.append(
            {
                "number": one.known.number, "bug": one.verdict.policy.name,
                "year": one.known.year, "reference": one.known.reference,
                "mechanism": one.known.mechanism, "events": ",".join(one.known.events),
                "verdict": one.verdict.verdict, "violation": bad.violation if bad else None,
                "length": len(bad.events) if bad else None, "mended": one.mended.verdict,
            }
        )  # fmt: skip
    blocks.append(Heading("No policy states these"))
    blocks += [Note(f"{number}: {reason}") for number, reason in unmodeled().items()]
    first = Table(columns, rows)
    data = {"schema": "kvmbench.known/1", "bugs": records}
    title = f"public bugs as policies: {sizes(found[0].verdict)}"
    return Document(title, [first, *blocks], records, data)
