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
from kvmbench.units import Figures

if TYPE_CHECKING:
    from kvmbench.comparison.verdicts import Comparison, Row

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
    code: str, rows: Sequence[Row], words: str, among: Sequence[Row] = ()
) -> Iterator[Caveat]:
    """Yield a caveat of `rows`, if any, with their names for {}: of many rows the first few."""
    names = tuple(row.workload for row in rows)
    listed = ", ".join(names)
    if len(names) > NAMED:
        listed = f"{len(names)} rows ({', '.join(names[:3])} ...)"
    if len(names) == len(among):
        listed = "Every row"
    if names:
        yield Caveat(code, names, words.replace("{}", listed, 1))


def _remarks(comparison: Comparison) -> Iterator[Caveat]:
    """Yield the files' own remarks, and the rows that one side lacks or that vary."""
    notes: dict[str, list[str]] = {}  # note -> the sides that have it
    marks: dict[tuple[tuple[str, ...], str], list[str]] = {}  # rows and their mark -> the sides
    for side in comparison.sides:
        for note in dict.fromkeys(side.result.notes):
            notes.setdefault(note, []).append(side.label)
        marked: dict[str, list[str]] = {}
        for key, cells in side.cells.items():
            for mark in dict.fromkeys(mark for cell in cells for mark in cell.series.marks):
                marked.setdefault(mark, []).append(key.name)
        for mark, names in marked.items():
            marks.setdefault((tuple(names), mark), []).append(side.label)
    for note, labels in notes.items():
        yield Caveat("note", (), f"{', '.join(labels)}: {note}")
    for why in dict.fromkeys(row.missing for row in comparison.rows if row.missing):
        names = [row.workload for row in comparison.rows if row.missing == why]
        yield Caveat("missing", tuple(names), f"{why}: {', '.join(names)}.")
    words = "{}: called exact, but the figure differs between runs. The table has the median."
    yield from _about("varies", [row for row in comparison.rows if row.varies], words)
    for (rows, mark), labels in marks.items():
        yield Caveat("mark", rows, f"{', '.join(rows)} ({', '.join(labels)}): {mark}.")


def _controls(comparison: Comparison) -> Iterator[Caveat]:
    named = comparison.named_controls
    rows = [row for row in comparison.rows if row.control and row.kind == "noisy"]
    if moved := [row for row in rows if row.verdict in ("faster", "slower")]:
        words = "Verdicts with ? are in doubt: {} moved, "
        words += "named as a control" if named else "where the model predicts no reload of TR"
        words += ". What moved the controls can move every row."
        if not named:
            words += " If the change is not about the reload of TR, use --no-controls."
        yield from _about("controls-moved", moved, words)
        return
    differ = [
        row for row in rows
        if row.verdict == "no-verdict" and row.percent and abs(row.shift or 0) > row.quantum
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
        yield from _about("controls-differ", differ, words)


def _undecided(comparison: Comparison) -> Iterator[Caveat]:
    """Yield the rows without a verdict, with the least that would decide them."""
    noisy = [row for row in comparison.rows if row.kind == "noisy" and row.shift is not None]
    open_ = [row for row in noisy if row.verdict == "inconclusive"]
    paired, level = comparison.replicates.paired, comparison.replicates.level
    words = (
        f"{{}}: one {level} on a side has no spread to compare a difference with, so there is no "
        f"verdict. Measure several {level}s per side."
    )
    yield from _about("one-unit", [r for r in noisy if r.verdict == "no-verdict"], words, noisy)
    if few := [row for row in open_ if row.interval is None]:
        words = (
            f"{{}}: too few {level}s for an interval at {100 * comparison.confidence:.4g} %. "
            f"Measure {least_units(paired, comparison.confidence)} {level}s"
            f"{'' if paired else ' per side'} or more."
        )
        yield from _about("few-units", few, words, noisy)
    number = sum(row.p is not None for row in comparison.rows)
    table = f"the {number} rows together" if number > 1 else "the row"
    if comparison.comparisons > 1:
        table += f" in {comparison.comparisons} comparisons"
    words = (
        f"{{}}: the interval is beyond the margin, but the test of {table} does not confirm it "
        f"({comparison.family}: adjusted p above {1 - comparison.confidence:.2g}). Measure more "
        f"{level}s."
    )
    yield from _about("unconfirmed", [row for row in open_ if _beyond(row, row.margin)], words)


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
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the label of each side in which `look` finds something, and its words by row."""
    for number, side in enumerate(comparison.sides):
        found = {}
        for row in comparison.rows:
            figures = comparison.figures[row.workload][number]
            figures = figures[np.isfinite(figures)]
            if row.kind == "noisy" and len(figures) and (words := look(row, figures)):
                found[row.workload] = words
        if found:
            yield side.label, found


def _joined(found: dict[str, str]) -> str:
    return "; ".join(f"{name} {words}" for name, words in found.items())


def _drift(comparison: Comparison) -> Iterator[Caveat]:
    if comparison.replicates.paired:
        return  # blocks cancel it
    tests = 2 * max(1, sum(row.kind == "noisy" for row in comparison.rows))
    lost = {side.label for side in comparison.sides if side.result.order == "lost"}
    level = comparison.replicates.level

    def look(row: Row, figures: Figures) -> str | None:
        if len(figures) < LEAST_OF_DRIFT:
            return None
        slope, p = stats.drift(figures)
        if p * tests > DRIFT_LEVEL or not slope:
            return None
        share = f", {100 * slope / abs(centre):+.2f} %" if (centre := np.median(figures)) else ""
        return f"by {slope:+.3g} {row.unit}{share}"

    for label, found in _each_side(comparison, look):
        if label not in lost:
            words = (
                f"Drift: from {level} to {level} of {label} moves {_joined(found)}. Unless the "
                "sides were measured in turn, it is in the shift and not in the interval."
            )
            yield Caveat("drift", tuple(found), words)
    rows = [row for row in comparison.rows if row.kind == "noisy"]
    blind = [
        side.label for n, side in enumerate(comparison.sides)
        if side.label in lost and max((row.units[n] for row in rows), default=0) >= LEAST_OF_DRIFT
    ]  # fmt: skip
    if blind:
        words = f"The order of the {level}s is lost ({', '.join(blind)}): no drift can be seen."
        yield Caveat("order-lost", (), words)


def _groups(comparison: Comparison) -> Iterator[Caveat]:
    def look(row: Row, figures: Figures) -> str | None:
        groups = stats.two_groups(figures)
        return f"near {groups[0]:.6g} and {groups[1]:.6g}" if groups else None

    for label, found in _each_side(comparison, look):
        words = (
            f"Two groups of {comparison.replicates.level}s in {label}: {_joined(found)}. The host "
            "was in one of two states, and a centre between them is that of neither. Find the two "
            "states before you believe the shift."
        )
        yield Caveat("two-groups", tuple(found), words)


def _intervals(comparison: Comparison) -> Iterator[Caveat]:
    """Yield the rows with a correction that is too lenient, and those with a known sign alone."""
    unlike = []
    for row in comparison.rows:
        if row.verdict in ("faster", "slower") and min(row.units) >= LEAST_FOR_SPREADS:
            sides = comparison.figures[row.workload]
            low, high = sorted(stats.spread(figures[np.isfinite(figures)]) for figures in sides)
            if high > UNLIKE * low:
                unlike.append(row)
    if not comparison.replicates.paired and comparison.family == "max-t":
        words = (
            f"{{}}: one side spreads more than {UNLIKE:g} times as much as the other. There max-t "
            "gives too many false alarms; --family holm gives fewer."
        )
        yield from _about("unequal-spreads", unlike, words)
    open_ = [row for row in comparison.rows if row.verdict == "inconclusive"]
    rows = [row for row in open_ if _beyond(row, 0) and not _beyond(row, row.margin)]
    words = "{}: the interval is to one side of 0, but a part of it is within the margin."
    yield from _about("sign-only", rows, words)


def _beyond(row: Row, limit: float) -> bool:
    """Say whether the whole interval is more than `limit` to one side of 0."""
    return row.interval is not None and (row.interval[0] > limit or row.interval[1] < -limit)
