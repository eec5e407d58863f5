"""A/A tests: a result's runs split in two and compared, as if they were a before and an after.

The splits are halves and alternations in the order of time, never random: a random split hides a
drift, the commonest reason for two measurements of one thing to differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

from msgspec.structs import replace

from kvmbench.comparison.design import Course, correlates, course, drifts
from kvmbench.comparison.verdicts import Comparison, compare
from kvmbench.errors import ResultError
from kvmbench.report import Document, Reported
from kvmbench.results import Result
from kvmbench.stats import CONFIDENCE
from kvmbench.units import Replicates, Side

__all__ = ["SelfTest", "Split", "self_test"]

SPLITS = (  # name, labels, and whether unit i of n is in the first part
    ("first half of the {} against the second", ("first", "last"), lambda i, n: i < n // 2),
    ("every other of the {}, ABAB", ("odd", "even"), lambda i, _: i % 2 == 0),
    ("the {} in turn, ABBA", ("outer", "inner"), lambda i, _: i % 4 in (0, 3)),
)


@dataclass(frozen=True, slots=True)
class Split:
    """One way to split the runs, and the comparison of the two parts."""

    name: str
    comparison: Comparison

    @property
    def false_alarms(self) -> list[str]:
        """The rows with a verdict that they moved, though nothing changed."""
        return self._rows("faster", "slightly faster", "slightly slower", "slower")

    @property
    def undecided(self) -> list[str]:
        """The rows without a verdict."""
        return self._rows("inconclusive", "no-verdict")

    def _rows(self, *verdicts: str) -> list[str]:
        return [row.workload for row in self.comparison.rows if row.verdict in verdicts]


@dataclass(frozen=True, slots=True, repr=False)
class SelfTest(Reported):
    """The splits of one result; `str` is the text that the command prints."""

    label: str
    splits: tuple[Split, ...]
    course: Course | None  # of all units, before any split; None without a row that varies

    @property
    def words(self) -> str:
        """What the whole result shows of drift, and whether it could have shown any."""
        level, course = self.splits[0].comparison.replicates.level, self.course
        if course is None or course.blind:
            return f"So few {level}s could not have shown a drift: take 5 or more."
        if drifts([course]):
            return (
                f"Drift over all {course.units} {level}s: the rows move together, by "
                f"{100 * course.slope:+.2g} % from {level} to {level} (p {course.drift:.2g}). "
                "Compare only sides that are measured in turn."
            )
        if correlates([course]):
            return (
                f"A {level} resembles the one before it (autocorrelation {course.lag:.2f}, p "
                f"{course.correlated:.2g}). Compare only sides that are measured in turn."
            )
        return f"No drift over all {course.units} {level}s (p {course.drift:.2g})."

    def document(self) -> Document:
        """Return the document that `kvmbench self-test` prints."""
        from kvmbench.comparison.document import self_test_document

        return self_test_document(self)

    def __repr__(self) -> str:
        alarms = sum(bool(split.false_alarms) for split in self.splits)
        return f"<SelfTest {self.label}: false alarms in {alarms} of {len(self.splits)} splits>"


def self_test(side: Side, **options: Any) -> SelfTest:
    """Compare a side with itself, split by boot where there are several, else by run.

    `options` are those of `compare`. The confidence is lowered to the largest that so few units
    can have, such as 94.3 % of 3 against 4. No row is a control, as nothing changed in any. A drift
    is looked for in all units before the splits: halves of ten have too few to show one.

    Raises ResultError where the order of the runs is lost, for fewer than four units, and for exact
    figures.
    """
    if side.result.order == "lost":
        raise ResultError(
            f"{side.label}: the order of its runs is lost, so they cannot be split in time, and "
            "random halves would hide a drift"
        )
    if all(cell.series.kind == "exact" for cells in side.cells.values() for cell in cells):
        raise ResultError(f"{side.label}: exact figures have no noise to test")
    by_boot = len(side.boots) > 1
    what = "boots" if by_boot else "runs"
    units = side.boots if by_boot else list(side.runs)
    if len(side.configurations) > 1 and any(
        len({cell.boot if by_boot else cell.run for cell in cells}) < len(units)
        for cells in side.cells.values()
    ):
        names = ", ".join(repr(name) for name in side.configurations)
        raise ResultError(
            f"{side.label} has the configurations {names}, and not all in each of its {what}: "
            "choose one, FILE#NAME"
        )
    if len(units) < 4:
        raise ResultError(f"{side.label}: {len(units)} {what}, expected 4 or more")
    attainable = 1 - 2 / comb(len(units), len(units) // 2)
    confidence = min(options.get("confidence", CONFIDENCE), attainable)
    options |= {"controls": (), "confidence": confidence, "accept_doubt": ("all",)}
    noisy = [key for key, cells in side.cells.items() if cells[0].series.kind == "noisy"]
    alone = Side(side.label, _part(side, units, by_boot), side.configuration)
    replicates = Replicates(alone, alone)
    whole = course(side, [replicates.figures(key)[0] for key in noisy])
    splits = []
    for name, labels, in_first in SPLITS:
        first = [unit for n, unit in enumerate(units) if in_first(n, len(units))]
        last = [unit for n, unit in enumerate(units) if not in_first(n, len(units))]
        sides = (
            Side(f"{label} {what}", _part(side, part, by_boot), side.configuration)
            for label, part in zip(labels, (first, last), strict=True)
        )
        splits.append(Split(name.format(what), compare(*sides, **options)))
    return SelfTest(side.label, tuple(splits), whole)


def _part(side: Side, units: Sequence[int], by_boot: bool) -> Result:
    """Return the result with these boots or runs only; numbers as the side's."""
    chosen = set(units)
    boots = []
    run_number = 0
    for number, boot in zip(side.boot_numbers, side.result.boots, strict=True):
        numbered = enumerate(boot.runs, run_number)
        run_number += len(boot.runs)
        runs = [run for n, run in numbered if (number if by_boot else n) in chosen]
        if runs:
            # Blocks paired two kernels; the parts of one are not pairs.
            boots.append(replace(boot, runs=runs, block=None))
    return replace(side.result, boots=boots, notes=[], stopping="size")
