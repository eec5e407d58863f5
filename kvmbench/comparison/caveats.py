"""Caveats: what speaks against the verdicts of a comparison, with a code, the rows and words.

The documents print the words, the JSON has all three, and gates read the codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from kvmbench import stats
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
    checks = (_remarks, _controls, _undecided, _design, _drift, _groups, _intervals)
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


def _about(
    code: str, names: Sequence[str], words: str, among: Sequence[Row] = ()
) -> Iterator[Caveat]:
    """Yield a caveat of rows, if any, with their names for {}: of many rows the first few."""
    said = ", ".join(names)
    if len(names) > NAMED:
        said = f"{len(names)} rows ({', '.join(names[:3])} ...)"
    if len(names) == len(among):
        said = "Every row"
    if names:
        yield Caveat(code, tuple(names), words.replace("{}", said, 1))


def _names(comparison: Comparison, which: Callable[[Row], object]) -> list[str]:
    return [row.workload for row in comparison.rows if which(row)]


def _remarks(comparison: Comparison) -> Iterator[Caveat]:
    """Yield the files' own remarks, and the rows that one side lacks or that vary."""
    notes = [(note, s.label) for s in comparison.sides for note in s.result.notes if note.strip()]
    for note, labels in listed(notes).items():
        yield Caveat("note", (), f"{', '.join(labels)}: {note}")
    missing = [(row.missing, row.workload) for row in comparison.rows if row.missing]
    for why, names in listed(missing).items():
        yield Caveat("missing", tuple(names), f"{why}: {', '.join(names)}.")
    words = "{}: called exact, but the figure differs between runs. The table has the median."
    yield from _about("varies", _names(comparison, lambda row: row.varies), words)
    marks = [
        ((tuple(names), mark), side.label)
        for side in comparison.sides
        for mark, names in side.marks().items()
    ]
    for (rows, mark), labels in listed(marks).items():
        yield Caveat("mark", rows, f"{', '.join(rows)} ({', '.join(labels)}): {mark}.")


def _controls(comparison: Comparison) -> Iterator[Caveat]:
    named = comparison.named_controls
    if comparison.moved:
        words = "Verdicts with ? are in doubt: {} moved, "
        words += "named as a control" if named else "where the model predicts no reload of TR"
        words += ". What moved the controls can move every row."
        if not named:
            words += " If the change is not about the reload of TR, use --no-controls."
        yield from _about("controls-moved", comparison.moved, words)
        return
    differ = [
        row for row in comparison.rows
        if row.control and row.verdict == "no-verdict" and row.percent
        and abs(row.shift or 0) > row.quantum
    ]  # fmt: skip
    if differ:
        worst = max(differ, key=lambda row: abs(row.percent or 0))
        size = f"by up to {worst.percent:+.1f} % ({worst.workload})"
        words = f"Named as controls, {{}} differ {size}."
        if not named:
            words = (
                f"The model predicts no reload of TR in {{}}, and they differ {size}. A change to "
                "the reload of TR does not explain differences of that size here."
            )
        yield from _about("controls-differ", [row.workload for row in differ], words)


def _undecided(comparison: Comparison) -> Iterator[Caveat]:
    """Yield the rows without a verdict, with the least that would decide them."""
    noisy = [row for row in comparison.rows if row.kind == "noisy" and row.shift is not None]
    paired, level = comparison.replicates.paired, comparison.replicates.level
    single = _names(comparison, lambda row: row.verdict == "no-verdict")
    words = (
        f"{{}}: one {level} on a side has no spread to compare a difference with, so there is no "
        f"verdict. Measure several {level}s per side."
    )
    yield from _about("one-unit", single, words, noisy)
    few = _names(comparison, lambda row: row.verdict == "inconclusive" and row.interval is None)
    if few:
        words = (
            f"{{}}: too few {level}s for an interval at {100 * comparison.confidence:.4g} %. "
            f"Measure {least_units(paired, comparison.confidence)} {level}s"
            f"{'' if paired else ' per side'} or more."
        )
        yield from _about("few-units", few, words, noisy)
    table = f"the {comparison.tested} rows together" if comparison.tested > 1 else "the row"
    if comparison.comparisons > 1:
        table += f" in {comparison.comparisons} comparisons"
    words = (
        f"{{}}: the interval is beyond the margin, but the test of {table} does not confirm it "
        f"({comparison.family}: adjusted p above {1 - comparison.confidence:.2g}). Measure more "
        f"{level}s."
    )
    yield from _about("unconfirmed", _names(comparison, _unconfirmed), words)


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
        words = (
            "Each side is one boot. Boots of one kernel differ among themselves, and that "
            "difference is in the shift and not in the interval. Compare several boots per side "
            "(kvmbench plan new)."
        )
        yield Caveat("one-boot", (), words)
    if decided and not replicates.paired and _in_sequence(comparison):
        words = (
            "One side was measured wholly before the other. A drift of the host over that time is "
            "in the shift and not in the interval. Alternate the sides (kvmbench plan new)."
        )
        yield Caveat("sequence", (), words)
    if left_out := replicates.left_out:
        numbers = ", ".join(map(str, left_out))
        words = f"Left out as incomplete: block{'s' if len(left_out) > 1 else ''} {numbers}."
        yield Caveat("incomplete-blocks", (), words)


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
    comparison: Comparison, look: Callable[[Row, Figures], str | None]
) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Yield the label of each side in which `look` finds something, its rows, and the words."""
    for number, side in enumerate(comparison.sides):
        found = {}
        for row in comparison.rows:
            figures = comparison.figures[row.workload][number]
            figures = figures[np.isfinite(figures)]
            if row.kind == "noisy" and len(figures) and (words := look(row, figures)):
                found[row.workload] = words
        if found:
            joined = "; ".join(f"{name} {words}" for name, words in found.items())
            yield side.label, tuple(found), joined


def _drift(comparison: Comparison) -> Iterator[Caveat]:
    if comparison.replicates.paired:
        return  # blocks cancel it
    noisy = [row for row in comparison.rows if row.kind == "noisy"]
    lost = [
        (side.label, max((row.units[n] for row in noisy), default=0))
        for n, side in enumerate(comparison.sides)
        if side.result.order == "lost"
    ]
    level = comparison.replicates.level

    def look(row: Row, figures: Figures) -> str | None:
        if len(figures) < LEAST_OF_DRIFT:
            return None
        slope, p = stats.drift(figures)
        if p * 2 * len(noisy) > DRIFT_LEVEL or not slope:
            return None
        share = f", {100 * slope / abs(centre):+.2f} %" if (centre := np.median(figures)) else ""
        return f"by {slope:+.3g} {row.unit}{share}"

    for label, rows, found in _each_side(comparison, look):
        if label not in dict(lost):
            words = (
                f"Drift: from {level} to {level} of {label} moves {found}. Unless the "
                "sides were measured in turn, it is in the shift and not in the interval."
            )
            yield Caveat("drift", rows, words)
    if blind := [label for label, units in lost if units >= LEAST_OF_DRIFT]:
        words = f"The order of the {level}s is lost ({', '.join(blind)}): no drift can be seen."
        yield Caveat("order-lost", (), words)


def _groups(comparison: Comparison) -> Iterator[Caveat]:
    def look(_: Row, figures: Figures) -> str | None:
        groups = stats.two_groups(figures)
        return f"near {groups[0]:.6g} and {groups[1]:.6g}" if groups else None

    for label, rows, found in _each_side(comparison, look):
        words = (
            f"Two groups of {comparison.replicates.level}s in {label}: {found}. The host "
            "was in one of two states, and a centre between them is that of neither. Find the two "
            "states before you believe the shift."
        )
        yield Caveat("two-groups", rows, words)


def _intervals(comparison: Comparison) -> Iterator[Caveat]:
    """Yield the rows with a correction that is too lenient, and those with a known sign alone."""

    def unlike(row: Row) -> bool:
        if row.verdict not in ("faster", "slower") or min(row.units) < LEAST_FOR_SPREADS:
            return False
        sides = comparison.figures[row.workload]
        low, high = sorted(stats.spread(figures[np.isfinite(figures)]) for figures in sides)
        return high > UNLIKE * low

    if not comparison.replicates.paired and comparison.family == "max-t":
        words = (
            f"{{}}: one side spreads more than {UNLIKE:g} times as much as the other. There max-t "
            "gives too many false alarms; --family holm gives fewer."
        )
        yield from _about("unequal-spreads", _names(comparison, unlike), words)
    words = "{}: the interval is to one side of 0, but a part of it is within the margin."
    rows = _names(
        comparison,
        lambda row: row.verdict == "inconclusive" and row.beyond(0) and not _unconfirmed(row),
    )
    yield from _about("sign-only", rows, words)
