"""Comparisons and A/A tests as documents: tables, notes, records, and the JSON's types.

`str(comparison)` and the commands `compare` and `self-test` use them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

from msgspec import to_builtins

from kvmbench import summary
from kvmbench.comparison import sequence
from kvmbench.comparison.caveats import OF_VALUES, Caveat, caveats
from kvmbench.comparison.hosts import Difference, differences
from kvmbench.comparison.plots import shift_dots, unit_marks
from kvmbench.comparison.rows import VERDICTS, Row
from kvmbench.comparison.tables import explained_table, main_table, per_iteration, unit_of
from kvmbench.comparison.variance import VarianceDocument, variance, variance_blocks
from kvmbench.planning import MARGIN
from kvmbench.report import Block, Document, Heading, Items, Note, Record
from kvmbench.report.figures import plural, some
from kvmbench.report.figures import share_range as _range
from kvmbench.stats import POWER

if TYPE_CHECKING:
    from kvmbench.comparison.gates import Gate
    from kvmbench.comparison.self_test import SelfTest
    from kvmbench.comparison.verdicts import Comparison

__all__ = ["SCHEMAS", "ComparisonDocument", "SelfTestDocument", "document", "self_test_document"]

DEFAULT_MARGIN = f"the larger of {100 * MARGIN:g} % and one quantum of the clock"
FEW = 8  # units, of which the spread is known to a third or worse
CHANGED = ("slower", "slightly slower", "faster", "slightly faster", "changed")

Sort = Literal["name", "shift", "verdict"]


# The JSON


class GateDocument(TypedDict):
    """The outcome of a gate."""

    status: str
    lines: list[str]


class _Compared(TypedDict):
    labels: list[str]
    level: str
    confidence: float
    power: float
    correction: str
    boot_sd: str | None
    differences: list[Difference]
    caveats: list[Caveat]
    accepted_doubts: list[str]
    rows: list[Row]
    variance: NotRequired[list[VarianceDocument]]
    gate: NotRequired[GateDocument]


class ComparisonDocument(_Compared):
    """The JSON of `kvmbench compare`."""

    schema: Literal["kvmbench.comparison/1"]


class SplitDocument(_Compared):
    """One split of an A/A test: the comparison of its two parts."""

    name: str
    false_alarms: list[str]
    undecided: list[str]


class SelfTestDocument(TypedDict):
    """The JSON of `kvmbench self-test`."""

    schema: Literal["kvmbench.self-test/1"]
    label: str
    drift: dict[str, float] | None
    splits: list[SplitDocument]


SCHEMAS = {"comparison": ComparisonDocument, "self-test": SelfTestDocument}
"""The JSON documents of this folder by kind; the schema's name is `kvmbench.KIND/1`."""


def _compared(comparisons: Sequence[Comparison], rows: Sequence[Row]) -> _Compared:
    first = comparisons[0]
    labels = [first.sides[0].label, *(c.sides[1].label for c in comparisons)]
    return {
        "labels": labels[1:] if _alone(first) else labels,
        "level": first.replicates.level,
        "confidence": first.confidence,
        "power": POWER,
        "correction": first.correction,
        "boot_sd": first.boots.source if first.boots else None,
        "differences": [found for c in comparisons for found in differences(c)],
        "caveats": list(dict.fromkeys(found for c in comparisons for found in caveats(c))),
        "accepted_doubts": list(first.accepted),
        "rows": list(rows),
    }


def _records(rows: Sequence[Row]) -> list[Record]:
    records = []
    for record in to_builtins(rows):
        low, high = record.pop("interval") or (None, None)
        before, after = record.pop("units")
        record["doubts"] = " ".join(record["doubts"])
        more = {"low": low, "high": high, "units_before": before, "units_after": after}
        records.append(record | more)
    return records


def _junit(rows: Sequence[Row], gate: Gate | None) -> str:
    """Return one test case per row: a failure where the gate fails it, else a pass or a skip."""
    import json

    from kvmbench.formats.junit import Case, document

    said: dict[tuple[str, str], dict[str, str]] = {}
    for finding in gate.findings if gate else ():
        said.setdefault((finding.workload, finding.to), {}).setdefault(
            finding.status, finding.words
        )
    cases = []
    for row in rows:
        entry = to_builtins(row)
        found = said.get((row.workload, row.to), {})
        failed = found.get("regression")
        cases.append(
            Case(
                name=entry.pop("workload"),
                classname=" -> ".join(filter(None, (row.from_, row.to))),
                failure=failed,
                properties={
                    key: value if isinstance(value, str) else json.dumps(value)
                    for key, value in entry.items()
                    if value is not None
                },
                skipped=None if failed else found.get("inconclusive", row.missing),
            )
        )
    return document("kvmbench compare", cases).decode()


# The documents


def document(
    comparisons: Sequence[Comparison],
    *,
    explain: bool = False,
    gate: Gate | None = None,
    only_changed: bool = False,
    sort: Sort | None = None,
) -> Document:
    """Return the document of comparisons of one before with one or more afters.

    `explain` adds what the spread of each row allows to see; `gate` the outcome of a gate. With
    `only_changed` it has the rows that are faster, slower or changed, and a count of the others.
    `sort` orders the rows by name, by shift (the worst first) or by verdict.
    """
    blocks: list[Block] = []
    for comparison in comparisons:
        if found := differences(comparison):
            labels = " and ".join(side.label for side in comparison.sides)
            blocks += [Note(f"{labels} differ in:"), Items([str(entry) for entry in found])]
    rows = [row for comparison in comparisons for row in comparison.rows]
    unit = unit_of([row for row in rows if row.missing is None] or rows)
    rows = _sorted(rows, sort) if sort else rows
    others = Counter(row.verdict for row in rows if row.verdict not in (*CHANGED, None))
    rows = [row for row in rows if row.verdict in CHANGED] if only_changed else rows
    first = comparisons[0]
    shown = _sorted([row for row in rows if row.missing is None])
    if _alone(first):
        blocks += summary.rows(first.sides[1], [row.workload for row in rows])[0]
    elif shown:
        several = len(comparisons) > 1
        blocks += shift_dots(shown, first.confidence, several=several)
        blocks.append(main_table(shown, unit, first.confidence, several=several))
    if only_changed and others:
        counts = ", ".join(f"{others[name]} {name}" for name in VERDICTS if others[name])
        blocks.append(Note(f"Rows that did not change: {counts}."))
    compared = _compared(comparisons, rows)
    blocks += dict.fromkeys(_notes(comparisons, compared["caveats"]))
    if explain and any(row.spread is not None for row in shown):
        level = first.replicates.level
        table = explained_table(shown, level, several=len(comparisons) > 1)
        blocks += [Heading("Spread and minimum detectable effect (MDE)"), table]
    blocks += [] if _alone(first) else unit_marks(comparisons, shown)
    spreads = [found for c in comparisons for found in variance(c)] if explain else []
    blocks += variance_blocks(spreads, several=len(comparisons) > 1)
    data: dict[str, Any] = {"schema": "kvmbench.comparison/1", **compared}
    if spreads:
        data["variance"] = spreads
    if gate is not None:
        data["gate"] = {"status": gate.status, "lines": gate.lines}
        blocks += [Items(gate.lines[:-1])] if gate.lines[1:] else []
        blocks.append(Note(gate.lines[-1]))
    forms = {"junit": lambda: _junit(rows, gate)}
    fields = [key for record in _records(first.rows[:1]) for key in record]
    title, records = _title(comparisons, unit), _records(rows)
    return Document(title, blocks, records, to_builtins(data), forms, fields)


def _alone(comparison: Comparison) -> bool:
    """Return whether a comparison has no before: bounds of a gate need none."""
    return not any(row.from_ for row in comparison.rows)


def _sorted(rows: Sequence[Row], sort: Sort | None = None) -> list[Row]:
    """Return rows in the order asked for, the afters of one row together."""

    def key(row: Row) -> Any:
        if sort == "shift":
            return (row.shift is None, -(row.worse or 0.0) / abs(row.before or 1))
        return [*VERDICTS, None].index(row.verdict) if sort == "verdict" else row.workload

    order: dict[str, Any] = {}
    for number, row in enumerate(rows):
        place = (key(row) if sort else 0, number)
        order[row.workload] = min(order.get(row.workload, place), place)
    return sorted(rows, key=lambda row: order[row.workload])


def self_test_document(test: SelfTest) -> Document:
    """Return the document of an A/A test: each split's table, and how far the noise reaches."""
    blocks: list[Block] = [Note(test.words)]
    splits: list[SplitDocument] = []
    records: list[Record] = []
    reach: dict[str, float] = {}  # row -> the farthest end of all its intervals, of before
    for split in test.splits:
        comparison, alarms, undecided = split.comparison, split.false_alarms, split.undecided
        content = _compared([comparison], comparison.rows)
        splits.append(
            {"name": split.name, "false_alarms": alarms, "undecided": undecided, **content}
        )
        records += [{"split": split.name, **record} for record in _records(comparison.rows)]
        said = [found.words for found in content["caveats"] if found.code in OF_VALUES]
        end = f"; {plural(len(undecided), 'row')} undecided." if undecided else "."
        said.append(f"{'False alarm: ' if alarms else 'No false alarm'}{', '.join(alarms)}{end}")
        shown = [row for row in comparison.rows if row.missing is None]
        unit = unit_of(shown)
        heading = Heading(f"{split.name}, {per_iteration(unit)}")
        first = split is test.splits[0]
        blocks += [heading, *shift_dots(shown, comparison.confidence, "Shifts", explained=first)]
        blocks += [main_table(shown, unit, comparison.confidence), *map(Note, said)]
        for row in shown:
            if row.interval is not None and row.before:
                farthest = max(map(abs, row.interval)) / abs(row.before)
                reach[row.workload] = max(reach.get(row.workload, 0.0), farthest)
    level, confidence = comparison.replicates.level, comparison.confidence
    if found := sorted((part, row) for row, part in reach.items() if part):
        blocks.append(
            Note(
                f"The intervals reach {_range(found)}. With as many {level}s per side as here, a "
                f"shift within that {'of its row ' if len(found) > 1 else ''}may be noise."
            )
        )
    blocks += unit_marks([test.splits[0].comparison], test.splits[0].comparison.rows)
    alarmed = sum(bool(split.false_alarms) for split in test.splits)
    words = (
        f"False alarms in {alarmed} of {len(test.splits)} splits. At {100 * confidence:.4g} % one "
        f"split in {1 / (1 - confidence):.0f} may have one."
    )
    if not any(len(split.undecided) < len(split.comparison.rows) for split in test.splits):
        words = f"No split decides any row, so that it could have seen nothing: take more {level}s."
    drift = test.course._asdict() if test.course else None
    data = {"schema": "kvmbench.self-test/1", "label": test.label, "drift": drift, "splits": splits}
    title = f"A/A test of {test.label}: nothing changed, so each row that moved is a false alarm"
    return Document(title, [*blocks, Note(words)], records, to_builtins(data))


def _title(comparisons: Sequence[Comparison], unit: str) -> str:
    first = comparisons[0]
    if _alone(first):
        return ""
    afters = ", ".join(comparison.sides[1].label for comparison in comparisons)
    parts = [f"{first.sides[0].label} -> {afters}: {per_iteration(unit)}"]
    counts = [_replicates(comparison) for comparison in comparisons]
    if any(counts):
        parts.append(" or ".join(dict.fromkeys(filter(None, counts))))
        parts.append(f"margin {first.margin or DEFAULT_MARGIN}")
    return ", ".join(parts)


def _replicates(comparison: Comparison) -> str:
    level = comparison.replicates.level
    rows = [row for row in comparison.rows if row.kind == "noisy" and row.shift is not None]
    counts = sorted({count for row in rows for count in row.units})
    if not counts:
        return ""
    least = f"{counts[0]} to " if len(counts) > 1 else ""
    units = f"{least}{plural(counts[-1], level)}"
    if level == "block":
        pairs = len(comparison.sides[0].boots) <= counts[-1]  # and not ABBA
        return f"{least}{plural(counts[-1], 'pair')} of boots" if pairs else (
            f"{units} of alternating boots"
        )  # fmt: skip
    return f"{units}, each on both sides" if comparison.replicates.paired else f"{units} per side"


def _notes(comparisons: Sequence[Comparison], found: Sequence[Caveat]) -> Iterator[Note]:
    """Yield the notes; one that puts rows in doubt has the name that their verdicts refer to."""
    yield from map(Note, _remarks(comparisons))
    for caveat in found:
        yield Note(caveat.words, caveat.code if caveat.doubt else "")


def _remarks(comparisons: Sequence[Comparison]) -> Iterator[str]:
    rows = [row for comparison in comparisons for row in comparison.rows]
    if not all(row.primary for row in rows):
        primary = dict.fromkeys(row.workload for row in rows if row.primary)
        yield f"Primary rows, adjusted among themselves: {some(primary)}."
    controls = dict.fromkeys(row.workload for row in rows if row.control and row.p is not None)
    if controls:
        named = any(comparison.named_controls for comparison in comparisons)
        why = "as named" if named else "which a change to the reload of TR cannot move"
        yield f"Controls, {why}: {some(controls)}."
    for comparison in comparisons:
        if comparison.correction == "sequence" and comparison.tested:
            yield sequence.said(comparison)
    for comparison in comparisons:
        begin = f"{comparison.sides[1].label}: the" if len(comparisons) > 1 else "The"
        if words := " ".join(_promises(comparison)):
            yield f"{begin} {words}" if words[0].islower() else words
    if accepted := comparisons[0].accepted:
        yield f"Doubts accepted (--accept-doubt): {', '.join(accepted)}."


def _promises(comparison: Comparison) -> Iterator[str]:
    """Yield sentences about the shifts that the table calls, and the units that it wants."""
    rows = [row for row in comparison.rows if row.detectable is not None and row.before]
    shares = sorted(((row.detectable or 0) / abs(row.before or 1), row.workload) for row in rows)
    replicates, power = comparison.replicates, f"{100 * POWER:.0f} % power"
    units = f"{replicates.level}s{'' if replicates.paired else ' per side'}"
    table = f"this table of {plural(comparison.tested, 'row')}"
    if shares:
        yield (
            f"minimum detectable effect of the verdict faster or slower in {table}, at {power}: "
            f"{_range(shares)}."
        )
        if (least := min(min(row.units) for row in rows)) < FEW:
            low, high = _spread_known(least - 1 if replicates.paired else 2 * least - 2)
            yield (
                f"{least} {units} know their spread poorly: the true effect is {low:.1f} to "
                f"{high:.1f} times that beyond the margin."
            )
    within = [row.wanted_within for row in comparison.rows if row.wanted_within is not None]
    if within:
        yield f"For within margin, where a row did not move: {_counts(within)} {units} ({power})."
    if comparison.detect and (
        shift := [row.wanted_shift for row in comparison.rows if row.wanted_shift is not None]
    ):
        yield (
            f"For the verdict on a shift of {comparison.detect} in {table}: {_counts(shift)} "
            f"{units} ({power})."
        )


def _counts(counts: Sequence[int]) -> str:
    return " to ".join(dict.fromkeys(f"{count:,}" for count in (min(counts), max(counts))))


def _spread_known(freedom: int) -> tuple[float, float]:
    """Return the 95 % interval of a deviation, as shares of its estimate of so many degrees.

    The quantiles of chi-squared are Wilson and Hilferty's (1931).
    """
    z = sqrt(2 / (9 * freedom)) * 1.96
    low, high = (max(1 - 2 / (9 * freedom) + end, 0.05) ** 1.5 for end in (z, -z))
    return 1 / low, 1 / high
