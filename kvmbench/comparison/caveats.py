"""Caveats: what speaks against the verdicts of a comparison, with a code, the rows and words.

The documents print the words (of data/caveats.toml), the JSON has all three.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from kvmbench import stats
from kvmbench.comparison.fleet import clock_words, mixed
from kvmbench.results import Run
from kvmbench.stats import CONFIDENCE
from kvmbench.units import Figures, listed

if TYPE_CHECKING:
    from kvmbench.comparison.rows import Row
    from kvmbench.comparison.verdicts import Comparison

__all__ = ["OF_VALUES", "Caveat", "caveats", "least_units"]

OF_VALUES = ("one-unit", "few-units", "unconfirmed", "drift", "order-lost", "two-groups")
"""The codes of the caveats that an A/A test prints: those that the values alone give."""

UNLIKE = 3.0  # ratio of standard deviations: max-T then has 12 % false alarms at 5 %
LEAST_FOR_SPREADS = 6  # units per side: of fewer the ratio says little
DRIFT_LEVEL = 0.05  # over all rows and sides of a comparison
NAMED = 10  # rows, in a sentence
LEAST_OF_DRIFT = 4  # units in which a drift can be looked for


@dataclass(frozen=True, slots=True)
class Caveat:
    """A reason to doubt `rows` (all rows where it names none), and what to do about it."""

    code: str
    rows: tuple[str, ...]
    words: str


def caveats(comparison: Comparison) -> list[Caveat]:
    """Return the reasons to doubt the verdicts of a comparison, in the order of the text."""
    checks = (_remarks, _controls, _undecided, _design, _fleet, _drift, _groups, _intervals)
    return [caveat for check in checks for caveat in check(comparison)]


def least_units(paired: bool, confidence: float = CONFIDENCE) -> int:
    """Return the least number of units per side, or of blocks, that has an interval at all."""
    for n in range(2, 100):
        ranks = range(1, n + 1)
        if (
            stats.signed_rank_interval(ranks, confidence)
            if paired
            else stats.mann_whitney_interval(ranks, ranks, confidence)
        ):
            return n
    raise ValueError(f"confidence {confidence}: no 99 units have an interval")


@cache
def _words() -> dict[str, str]:
    text = files("kvmbench").joinpath("data", "caveats.toml").read_text(encoding="utf-8")
    return {code: words.strip() for code, words in tomllib.loads(text).items()}


def _caveat(code: str, names: Sequence[str] = (), named: str = "", **fields: object) -> Caveat:
    """Return the caveat with its words, or the words of code `named`, and the fields in them."""
    words = _words()[named or code].format(**{"rows": ", ".join(names)} | fields)
    return Caveat(code, tuple(names), words)


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
    named = "named-" if comparison.named_controls else ""
    differ = [
        row for row in comparison.rows
        if row.control and row.verdict == "no-verdict" and row.percent
        and abs(row.shift or 0) > row.quantum
    ]  # fmt: skip
    if comparison.moved:
        yield from _about("controls-moved", comparison.moved, named=f"{named}controls-moved")
    elif differ:
        worst = max(differ, key=lambda row: abs(row.percent or 0))
        size = f"by up to {worst.percent:+.1f} % ({worst.workload})"
        rows = [row.workload for row in differ]
        yield from _about("controls-differ", rows, named=f"{named}controls-differ", size=size)


def _undecided(comparison: Comparison) -> Iterator[Caveat]:
    """Yield the rows without a verdict, with the least that would decide them."""
    noisy = len(_names(comparison, lambda row: row.kind == "noisy" and row.shift is not None))
    paired, confidence = comparison.replicates.paired, comparison.confidence
    level = comparison.replicates.level
    single = _names(comparison, lambda row: row.verdict == "no-verdict")
    yield from _about("one-unit", single, noisy, level=level)
    few = _names(comparison, lambda row: row.verdict == "inconclusive" and row.interval is None)
    if few:
        yield from _about(
            "few-units", few, noisy, level=level, confidence=f"{100 * confidence:.4g}",
            least=str(least_units(paired, confidence)), per_side="" if paired else " per side",
        )  # fmt: skip
    table = f"the {comparison.tested} rows together" if comparison.tested > 1 else "the row"
    if comparison.comparisons > 1:
        table += f" in {comparison.comparisons} comparisons"
    yield from _about(
        "unconfirmed", _names(comparison, _unconfirmed), level=level, table=table,
        family=comparison.family, alpha=f"{1 - confidence:.2g}",
    )  # fmt: skip


def _unconfirmed(row: Row) -> bool:
    return row.verdict == "inconclusive" and row.beyond(row.margin or 0.0)


def _design(comparison: Comparison) -> Iterator[Caveat]:
    """Yield the faults of the measurement's design, where it decided a row."""
    replicates, sides = comparison.replicates, comparison.sides
    decided = any(
        row.verdict in ("faster", "slower", "same") for row in comparison.rows if row.p is not None
    )
    boots = [side.result.boots[side.boots[0]].id for side in sides]
    if decided and replicates.level == "run" and all(boots) and boots[0] != boots[1]:
        yield _caveat("one-boot")
    if decided and not replicates.paired and _in_sequence(comparison):
        yield _caveat("sequence")
    if left_out := replicates.left_out:
        blocks = f"{replicates.level}{'s' if len(left_out) > 1 else ''} {', '.join(left_out)}"
        yield _caveat("incomplete-blocks", blocks=blocks)


def _fleet(comparison: Comparison) -> Iterator[Caveat]:
    """Yield the differences of the hosts within a side, and cycles of several lengths."""
    replicates = comparison.replicates
    rows, clocks = clock_words(replicates)
    yield from _about("clocks-differ", rows, found=clocks)
    if not replicates.paired:
        facts = [("; ".join(mixed(side)), side.label) for side in comparison.sides]
        for found, labels in listed(pair for pair in facts if pair[0]).items():
            yield _caveat("mixed-hosts", sides=" and ".join(labels), found=found)


def _in_sequence(comparison: Comparison) -> bool:
    times = [[_when(run) for run in side.runs.values()] for side in comparison.sides]
    first, second = ([time for time in found if time] for found in times)
    if min(len(first), len(second)) < 2 or len(first) + len(second) < sum(map(len, times)):
        return False
    return max(first) < min(second) or max(second) < min(first)


def _when(run: Run) -> datetime | None:
    try:
        time = datetime.fromisoformat(run.time or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.astimezone()


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


def _drift(comparison: Comparison) -> Iterator[Caveat]:
    if comparison.replicates.paired:
        return  # blocks cancel it
    noisy = [row for row in comparison.rows if row.kind == "noisy"]
    lost = [
        (side.label, max((row.units[n] for row in noisy), default=0))
        for n, side in enumerate(comparison.sides)
        if side.result.order == "lost"
    ]

    def look(row: Row, figures: Figures) -> str | None:
        if len(figures) < LEAST_OF_DRIFT:
            return None
        slope, p = stats.drift(figures)
        if p * 2 * len(noisy) > DRIFT_LEVEL or not slope:
            return None
        share = f", {100 * slope / abs(centre):+.2f} %" if (centre := np.median(figures)) else ""
        return f"by {slope:+.3g} {row.unit}{share}"

    for label, caveat in _each_side("drift", comparison, look):
        if label not in dict(lost):
            yield caveat
    if blind := [label for label, units in lost if units >= LEAST_OF_DRIFT]:
        level = comparison.replicates.level
        yield _caveat("order-lost", level=level, sides=", ".join(blind))


def _groups(comparison: Comparison) -> Iterator[Caveat]:
    def look(_: Row, figures: Figures) -> str | None:
        groups = stats.two_groups(figures)
        return f"near {groups[0]:.6g} and {groups[1]:.6g}" if groups else None

    yield from (caveat for _, caveat in _each_side("two-groups", comparison, look))


def _intervals(comparison: Comparison) -> Iterator[Caveat]:
    """Yield the rows with a correction that is too lenient, and those with a known sign alone."""

    def unlike(row: Row) -> bool:
        if row.verdict not in ("faster", "slower") or min(row.units) < LEAST_FOR_SPREADS:
            return False
        sides = comparison.figures[row.workload]
        low, high = sorted(stats.spread(figures[np.isfinite(figures)]) for figures in sides)
        return high > UNLIKE * low

    if not comparison.replicates.paired and comparison.family == "max-t":
        yield from _about("unequal-spreads", _names(comparison, unlike), ratio=f"{UNLIKE:g}")
    rows = _names(
        comparison,
        lambda row: row.verdict == "inconclusive" and row.beyond(0) and not _unconfirmed(row),
    )
    yield from _about("sign-only", rows)
