"""Caveats: what speaks against the verdicts of a comparison, with a code, the rows and words.

The documents print the words (of data/caveats.toml), the JSON has all three.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kvmbench import stats
from kvmbench.comparison.design import (
    UNLIKE,
    Order,
    correlates,
    course,
    drifts,
    one_boot,
    unconfirmed_spreads,
)
from kvmbench.comparison.fleet import clock_words, mixed
from kvmbench.comparison.shifts import least_units
from kvmbench.report.figures import NAMED, some
from kvmbench.tomlfile import DATA
from kvmbench.units import Figures, listed

if TYPE_CHECKING:
    from kvmbench.comparison.rows import Row
    from kvmbench.comparison.verdicts import Comparison

__all__ = ["OF_VALUES", "Caveat", "caveats", "doubt_codes", "doubts"]

OF_VALUES = ("one-unit", "few-units", "unconfirmed", "normal-units", "two-groups")
"""The codes of the caveats that an A/A test prints: those that the values alone give."""


@dataclass(frozen=True, slots=True)
class Caveat:
    """A remark on `rows` (on all rows where it names none), and what to do about it.

    `doubt` names what it puts in doubt, if anything: the whole table or these rows.
    """

    code: str
    rows: tuple[str, ...]
    words: str
    doubt: Literal["", "table", "rows"] = ""


def caveats(comparison: Comparison) -> list[Caveat]:
    """Return the reasons to doubt the verdicts of a comparison, in the order of the text."""
    checks = (_remarks, _controls, _undecided, _design, _fleet, _groups, _intervals)
    return [caveat for check in checks for caveat in check(comparison)]


@cache
def _entries() -> dict[str, dict[str, Any]]:
    text = (DATA / "caveats.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def doubt_codes() -> list[str]:
    """Return the codes of the caveats that put rows in doubt."""
    return [code for code, entry in _entries().items() if entry.get("doubt")]


def doubts(found: Sequence[Caveat], row: str) -> tuple[str, ...]:
    """Return the codes of the caveats that put a row in doubt."""
    codes = (c.code for c in found if c.doubt == "table" or (c.doubt and row in c.rows))
    return tuple(dict.fromkeys(codes))


def _caveat(
    code: str, names: Sequence[str] = (), *, which: str = "words", **fields: object
) -> Caveat:
    """Return the caveat with its words, and the fields in them."""
    entry = _entries()[code]
    words = entry[which].strip().format(**{"rows": some(names)} | fields)
    return Caveat(code, tuple(names), words, entry.get("doubt", ""))


def _about(code: str, names: Sequence[str], among: int = 0, **fields: str) -> Iterator[Caveat]:
    """Yield a caveat of rows, if any: of many rows, or of all `among`, it does not name each."""
    if len(names) == among:
        fields["rows"] = "Every row"
    elif len(names) > NAMED:
        fields["rows"] = f"{len(names)} rows ({', '.join(names[:3])} ...)"
    if names:
        yield _caveat(code, names, **fields)


def _names(comparison: Comparison, which: Callable[[Row], object]) -> list[str]:
    return [row.workload for row in comparison.rows if which(row)]


def _remarks(comparison: Comparison) -> Iterator[Caveat]:
    """Yield the files' own remarks, and the rows that one side lacks or that vary."""
    sides = comparison.sides
    notes = [(note, s.label) for s in sides for note in s.result.notes if note.strip()]
    for note, labels in listed(notes).items():
        yield _caveat("note", sides=", ".join(labels), note=note)
    missing = [(row.missing, row.workload) for row in comparison.rows if row.missing]
    for why, names in listed(missing).items():
        yield _caveat("missing", names, why=why)
    yield from _about("varies", _names(comparison, lambda row: row.varies))
    marks = [((tuple(names), mark), s.label) for s in sides for mark, names in s.marks().items()]
    for (rows, mark), labels in listed(marks).items():
        yield _caveat("mark", rows, sides=", ".join(labels), mark=mark)


def _controls(comparison: Comparison) -> Iterator[Caveat]:
    which = "named" if comparison.named_controls else "words"
    controls = [row for row in comparison.table if row.control and row.kind == "noisy"]
    moved = [row.workload for row in controls if _beyond(row)]
    differ = [
        row for row in controls
        if row.verdict == "no-verdict" and row.percent and abs(row.shift or 0) > row.quantum
    ]  # fmt: skip
    if moved:
        yield from _about("controls-moved", moved, which=which)
    elif differ:
        worst = max(differ, key=lambda row: abs(row.percent or 0))
        size = f"by up to {worst.percent:+.1f} % ({worst.workload})"
        rows = [row.workload for row in differ]
        yield from _about("controls-differ", rows, which=which, size=size)


def _beyond(row: Row) -> bool:
    """Return whether a row moved, and perhaps by more than its margin."""
    if row.verdict in ("slightly faster", "slightly slower") and row.interval:
        return max(map(abs, row.interval)) > (row.margin or 0.0)
    return row.verdict in ("faster", "slower")


def _undecided(comparison: Comparison) -> Iterator[Caveat]:
    """Yield the rows without a verdict, with the least that would decide them."""
    noisy = len(_names(comparison, lambda row: row.kind == "noisy" and row.shift is not None))
    paired, confidence = comparison.replicates.paired, comparison.confidence
    level = comparison.replicates.level
    single = _names(comparison, lambda row: row.verdict == "no-verdict")
    yield from _about("one-unit", single, noisy, level=level)
    few = _names(comparison, lambda row: row.verdict == "inconclusive" and row.interval is None)
    if few and comparison.correction == "sequence":
        yield from _about("few-pairs", few, noisy)
    elif few:
        yield from _about(
            "few-units", few, noisy, level=level, confidence=f"{100 * confidence:.4g}",
            least=str(least_units(paired, confidence)), per_side="" if paired else " per side",
        )  # fmt: skip
    table = f"the {comparison.tested} rows together" if comparison.tested > 1 else "the row"
    if comparison.comparisons > 1:
        table += f" in {comparison.comparisons} comparisons"
    yield from _about(
        "unconfirmed", _names(comparison, _unconfirmed), level=level, table=table,
        correction=comparison.correction, alpha=f"{1 - confidence:.2g}",
    )  # fmt: skip


def _unconfirmed(row: Row) -> bool:
    return row.verdict == "inconclusive" and row.beyond(row.quantum)


def _design(comparison: Comparison) -> Iterator[Caveat]:
    """Yield the faults of the measurement's design."""
    replicates = comparison.replicates
    looked = any(side.result.stopping == "decided" for side in comparison.sides)
    if looked and comparison.correction != "sequence":
        yield _caveat("looked", correction=comparison.correction)
    if left_out := replicates.left_out:
        blocks = f"{replicates.level}{'s' if len(left_out) > 1 else ''} {', '.join(left_out)}"
        yield _caveat("incomplete-blocks", blocks=blocks)
    noisy = [row for row in comparison.table if row.kind == "noisy" and row.interval is not None]
    if not noisy:
        return
    means = [row.workload for row in comparison.rows if row.by == "means"]
    if comparison.boots:
        yield _caveat("boots-widen", means, sd=comparison.boots.source)
    elif means:
        yield from _about("normal-units", means, len(comparison.rows), level=replicates.level)
    boots, order = one_boot(comparison), Order(comparison)
    if boots and not comparison.boots:
        yield _caveat("one-boot")
    if replicates.paired:
        return  # pairs cancel what the order does
    if order.one_side_first:
        yield _caveat("one-side-first")
    unknown = {
        "boots": "whether the sides are different boots",
        "times": "whether one side was measured first",
    }
    if boots is not None or comparison.boots:
        del unknown["boots"]
    if order.known:
        del unknown["times"]
    if unknown:
        what, hidden = " and ".join(unknown), " and ".join(unknown.values())
        yield _caveat("design-unknown", what=what, hidden=hidden)
    if not order.in_turn:
        yield from _courses(comparison, noisy)
    rows = set(unconfirmed_spreads(comparison))
    shown = [row.workload for row in comparison.rows if row.workload in rows]
    yield from _about("unequal-spreads", shown, ratio=f"{UNLIKE:g}")


def _fleet(comparison: Comparison) -> Iterator[Caveat]:
    """Yield the differences of the hosts within a side, and cycles of several lengths."""
    replicates = comparison.replicates
    rows, clocks = clock_words(replicates)
    yield from _about("clocks-differ", rows, found=clocks)
    if not replicates.paired:
        facts = [("; ".join(mixed(side)), side.label) for side in comparison.sides]
        for found, labels in listed(pair for pair in facts if pair[0]).items():
            yield _caveat("mixed-hosts", sides=" and ".join(labels), found=found)


def _courses(comparison: Comparison, noisy: Sequence[Row]) -> Iterator[Caveat]:
    level = comparison.replicates.level
    found = {
        side.label: known
        for number, side in enumerate(comparison.sides)
        if (known := course(side, [comparison.figures[row.workload][number] for row in noisy]))
    }
    if drifts(list(found.values())):
        slopes = (f"{100 * seen.slope:+.2g} % in {label}" for label, seen in found.items())
        yield _caveat("drift", level=level, slopes=" and ".join(slopes))
    elif correlates(list(found.values())):
        lags = (f"{seen.lag:.2f} in {label}" for label, seen in found.items())
        yield _caveat("autocorrelation", level=level, lags=" and ".join(lags))
    lost = [side.label for side in comparison.sides if side.result.order == "lost"]
    if lost:
        yield _caveat("order-lost", level=level, sides=", ".join(lost))


def _each_side(
    code: str, comparison: Comparison, look: Callable[[Row, Figures], str | None]
) -> Iterator[tuple[str, Caveat]]:
    """Yield the label of each side in which `look` finds something, and the caveat of it."""
    for number, side in enumerate(comparison.sides):
        found = {}
        for row in comparison.rows:
            figures = comparison.figures[row.workload][number]
            figures = figures[np.isfinite(figures)]
            if row.kind == "noisy" and len(figures) and (words := look(row, figures)):
                found[row.workload] = words
        if found:
            joined = "; ".join(f"{name} {words}" for name, words in found.items())
            level = comparison.replicates.level
            yield (
                side.label,
                _caveat(code, list(found), level=level, label=side.label, found=joined),
            )


def _groups(comparison: Comparison) -> Iterator[Caveat]:
    def look(_: Row, figures: Figures) -> str | None:
        groups = stats.two_groups(figures)
        return f"near {groups[0]:.6g} and {groups[1]:.6g}" if groups else None

    yield from (caveat for _, caveat in _each_side("two-groups", comparison, look))


def _intervals(comparison: Comparison) -> Iterator[Caveat]:
    within = _names(comparison, lambda row: row.verdict == "within margin")
    if len(within) > 1:
        alpha = f"{50 * (1 - comparison.confidence):.2g}"
        yield _caveat("each-row", within, count=len(within), alpha=alpha)
