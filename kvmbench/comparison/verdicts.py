"""Verdicts: the shift of each row from before to after, its interval, its p and its verdict.

`kvmbench.compare` is here; docs/statistics.md has the reasons for each method.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import isfinite, nan
from typing import Literal

import numpy as np

from kvmbench import stats
from kvmbench.comparison.adjustment import holm, max_t_independent, max_t_paired
from kvmbench.comparison.controls import is_control
from kvmbench.comparison.sides import Source, compared_sides
from kvmbench.errors import IncompatibleError, unknown_name
from kvmbench.report import Document, Reported
from kvmbench.stats import CONFIDENCE, POWER, QUANTA
from kvmbench.units import Cell, Figures, Key, Replicates, Side

__all__ = ["VERDICTS", "Comparison", "Family", "Margin", "Row", "compare"]

VERDICTS = (
    *("faster", "slower", "same", "inconclusive"),  # of noisy figures
    *("changed", "unchanged"),  # of exact ones
    "no-verdict",  # of noisy figures with one unit on one side
)
MARGIN = 0.01  # of before, where none is asked for
LARGEST = 1e100  # figure that is compared

Pair = tuple[Figures, Figures]
Family = Literal["max-t", "holm"]


@dataclass(frozen=True, slots=True)
class Margin:
    """The largest shift that does not matter: a share of before, or in the row's unit.

    Raises ValueError for text that is neither `1%` nor `20`, and for what is negative.
    """

    value: float
    relative: bool = True

    @classmethod
    def parse(cls, text: str) -> Margin:
        """Return the margin that `1%` or `20` says."""
        number = text.strip().removesuffix("%")
        try:
            value = float(number)
        except ValueError:
            value = nan
        if not 0 <= value < float("inf"):
            raise ValueError(f"{text!r} is neither a share such as 1% nor a number such as 20")
        return cls(value / 100, True) if text.strip().endswith("%") else cls(value, False)

    def of(self, centre: float) -> float:
        """Return the margin in the unit of a row whose centre before is `centre`."""
        return self.value * abs(centre) if self.relative else self.value

    def __str__(self) -> str:
        return f"{100 * self.value:g} %" if self.relative else f"{self.value:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a comparison. Figures are in `unit`, per iteration of the workload."""

    workload: str  # `workload/configuration` where the sides have several
    unit: str
    kind: Literal["exact", "noisy"]
    better: Literal["lower", "higher"]
    before: float | None  # centre: the median of the units; None where the side has no such row
    after: float | None
    units: tuple[int, int]  # boots or runs per side; blocks twice where they are paired
    control: bool  # it must not move: as asked for, or no reload of TR is predicted on either side
    primary: bool  # chosen before the measurement
    missing: str | None = None  # the side without the row, and why
    varies: bool = False  # an exact figure that differs between the runs of one side
    quantum: float = 0.0  # the step of the clock or of the print-out
    margin: float = 0.0  # the largest shift that does not matter
    shift: float | None = None  # after less before: Hodges-Lehmann, or the blocks' pseudo-median
    interval: tuple[float, float] | None = None  # of the shift; None where the units are too few
    p: float | None = None  # adjusted over the family, of a shift within the margin
    spread: float | None = None  # standard deviation of a unit, or of a block's difference
    detectable: float | None = None  # smallest shift that such a comparison detects at POWER
    wanted: int | None = None  # units per side, or blocks, that detect the margin or `detect`
    verdict: str | None = None  # one of VERDICTS; None where a side has no such row
    marked: bool = False  # a control moved, so something else than the change did

    @property
    def percent(self) -> float | None:
        """The shift in percent of before; None where that has no meaning."""
        if self.shift is None or not self.before:
            return None
        percent = 100 * self.shift / abs(self.before)
        return percent if isfinite(percent) else None

    @property
    def worse(self) -> float | None:
        """The shift, positive where after is worse."""
        return self.shift if self.shift is None or self.better == "lower" else -self.shift

    @property
    def worse_interval(self) -> tuple[float, float] | None:
        """The interval of `worse`."""
        if self.interval is None or self.better == "lower":
            return self.interval
        return -self.interval[1], -self.interval[0]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Comparison(Reported):
    """A before and an after, row by row; `str` is the text that the command prints."""

    replicates: Replicates
    rows: tuple[Row, ...]
    figures: Mapping[str, Pair]  # row -> one figure per unit of replication, before and after
    confidence: float
    family: Family
    comparisons: int  # of afters with one before; p is adjusted for all of them
    named_controls: bool  # the user named the controls, and TR is not why they must not move
    margin: Margin | None  # None: the default
    detect: Margin | None

    @property
    def sides(self) -> tuple[Side, Side]:
        """Before and after."""
        return self.replicates.sides

    def document(self) -> Document:
        """Return the document that `kvmbench compare` prints."""
        from kvmbench.comparison.document import document

        return document([self])

    def __repr__(self) -> str:
        found = Counter(row.verdict or "missing" for row in self.rows)
        parts = [f"{len(self.rows)} row{'' if len(self.rows) == 1 else 's'}"]
        parts += [f"{found[name]} {name}" for name in (*VERDICTS, "missing") if found[name]]
        before, after = (side.label for side in self.sides)
        return f"<Comparison {before} -> {after}: {', '.join(parts)}>"


def compare(
    before: Source,
    after: Source | None = None,
    *,
    confidence: float = CONFIDENCE,
    margin: Margin | str | None = None,
    family: Family = "max-t",
    primary: Sequence[str] = (),
    controls: Sequence[str] | None = None,
    detect: Margin | str | None = None,
    comparisons: int = 1,
) -> Comparison:
    """Compare two results row by row.

    `before` and `after` are paths, names of published tables (both with `#CONFIGURATION` where
    one of several is meant), results or sides; `before` alone must have two configurations.
    `margin` is the largest shift that does not matter:
    a share of before (`"1%"`) or a number in the row's unit (`"20"`); by default the larger of 1 %
    and two quanta of the clock. `family` is the multiple-comparison correction. `primary` names the
    rows that were chosen before the measurement (patterns as a shell's): their p-values are
    adjusted among themselves, those of the others over the whole table. `controls` names the rows
    that must not move; by default those for which the model predicts no reload of TR on either
    side, and none with `()`. `detect` is the shift for which the number of runs is wanted, by
    default the margin. `comparisons` is the number of afters that are compared with one before.

    Raises IncompatibleError where a row has another unit, kind or direction on either side, or the
    sides have different configurations; ResultError for a file that is no result; ValueError for a
    pattern or a configuration that names nothing, a margin that is none, or a figure beyond 1e100;
    and OSError.
    """
    margin, detect = (Margin.parse(m) if isinstance(m, str) else m for m in (margin, detect))
    replicates = Replicates(*compared_sides([before] if after is None else [before, after]))
    keys = replicates.keys()
    names = [key.name for key in keys]
    for pattern in (*primary, *(controls or ())):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(unknown_name("row", pattern, names))
    figures = {key.name: replicates.figures(key) for key in keys}
    _check_size(names, figures)
    rows = []
    for key in keys:
        row = _described(key, replicates, figures[key.name])
        if controls is not None:
            row = replace(row, control=_matches(key.name, controls))
        if primary:
            row = replace(row, primary=_matches(key.name, primary))
        rows.append(
            _measured(row, figures[key.name], replicates.paired, confidence, margin, detect)
        )
    rows = _adjusted(rows, figures, replicates.paired, family, comparisons)
    rows = [replace(row, verdict=_verdict(row, confidence)) for row in rows]
    if any(row.control and row.verdict in ("faster", "slower") for row in rows):
        rows = [
            replace(row, marked=row.kind == "noisy" and row.verdict is not None) for row in rows
        ]
    return Comparison(
        replicates=replicates, rows=tuple(rows), figures=figures, confidence=confidence,
        family=family, comparisons=comparisons, named_controls=controls is not None,
        margin=margin, detect=detect,
    )  # fmt: skip


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _described(key: Key, replicates: Replicates, figures: Pair) -> Row:
    """Return the row without its statistics; say why a side does not have it."""
    cells = replicates.cells(key)
    first = (cells[0] or cells[1])[0].series
    for _, _, series in (*cells[0], *cells[1]):
        for what in ("unit", "kind", "better"):
            one, other = getattr(first, what), getattr(series, what)
            if one != other:
                raise IncompatibleError(
                    f"{key.name}: {what} is {one!r} on one side, {other!r} on the other"
                )
    present = [found[np.isfinite(found)] for found in figures]
    before, after = (
        _centre(found, side) if len(found) else None
        for found, side in zip(present, cells, strict=True)
    )
    missing = None
    for side, found in zip(replicates.sides, present, strict=True):
        if not len(found):
            skips = (
                run.skipped.get(key.workload)
                for number, (_, run) in enumerate(side.result.runs())
                if number in side.runs or not run.series
            )
            why = next(filter(None, skips), None)
            missing = f"Not in {side.label}" + (f" ({why})" if why else "")
            if key in side.cells:
                missing = f"In no complete block of {side.label}"
    return Row(
        workload=key.name,
        unit=first.unit,
        kind=first.kind,
        better=first.better,
        before=before,
        after=after,
        units=(len(present[0]), len(present[1])),
        control=is_control(replicates.sides, cells),
        primary=True,
        missing=missing,
        varies=first.kind == "exact" and any(_varies(side) for side in cells),
        quantum=max((c.series.quantum or 0.0 for side in cells for c in side), default=0.0),
    )


def _centre(figures: Figures, cells: Sequence[Cell]) -> float:
    """Return the median of a side's units; an exact figure as it is, also beyond 2**53."""
    if cells[0].series.kind == "exact" and not _varies(cells):
        return cells[0].series.values[0]
    return _plain(np.median(figures))


def _varies(cells: Sequence[Cell]) -> bool:
    return len({value for cell in cells for value in cell.series.values}) > 1


def _plain(value: float) -> float:
    """Return an integer as one: exact cycles are printed whole."""
    return int(value) if float(value).is_integer() else float(value)


def _check_size(names: Sequence[str], figures: Mapping[str, Pair]) -> None:
    """Refuse figures whose squares overflow."""
    for name in names:
        if any(np.abs(side[np.isfinite(side)]).max(initial=0) > LARGEST for side in figures[name]):
            raise ValueError(f"{name}: a figure beyond {LARGEST:g} cannot be compared")


def _measured(
    row: Row,
    figures: Pair,
    paired: bool,
    confidence: float,
    margin: Margin | None,
    detect: Margin | None,
) -> Row:
    """Return the row with its shift, its interval, and its minimum detectable effect."""
    if row.before is None or row.after is None:
        return row
    if row.kind == "exact":
        return replace(row, shift=_plain(row.after - row.before))
    allowed = (
        margin.of(row.before)
        if margin
        else max(Margin(MARGIN).of(row.before), QUANTA * row.quantum)
    )
    wish = detect.of(row.before) if detect else allowed
    before, after = (found[np.isfinite(found)] for found in figures)
    if paired:
        differences = _differences(figures)
        differences = differences[np.isfinite(differences)]
        count = len(differences)
        row = replace(row, units=(count, count))
        if not count:
            return replace(row, margin=allowed, missing="In no complete block of both sides")
        shift = stats.pseudo_median(differences)
        interval = stats.signed_rank_interval(differences, confidence)
        spread = stats.spread(differences) if count > 1 else None
    else:
        shift = stats.hodges_lehmann(before, after)
        single = min(row.units) < 2  # the one may be any run of its kind: no interval
        interval = None if single else stats.mann_whitney_interval(before, after, confidence)
        spread = None if single else stats.pooled_spread(before, after)
    detectable = wanted = None
    if spread is not None:
        count, other = row.units
        detectable = stats.minimum_detectable(
            spread, count, None if paired else other, confidence=confidence, power=POWER
        )
        if detectable is not None:  # where every run has the same figure, the steps are the limit
            detectable = max(detectable, QUANTA * row.quantum)
        wanted = stats.runs_needed(spread, wish, paired=paired, confidence=confidence, power=POWER)
    return replace(
        row, margin=allowed, shift=_plain(shift), interval=interval, spread=spread,
        detectable=detectable, wanted=wanted,
    )  # fmt: skip


def _differences(figures: Pair) -> Figures:
    difference: Figures = figures[1] - figures[0]
    return difference


def _adjusted(
    rows: list[Row],
    figures: Mapping[str, Pair],
    paired: bool,
    family: Family,
    comparisons: int,
) -> list[Row]:
    """Return the rows with their p-values: the primary ones' adjusted among themselves."""
    able = [row for row in rows if row.interval is not None]
    p = _family(able, figures, paired, family)
    primary = [row for row in able if row.primary]
    if len(primary) < len(able):
        p |= _family(primary, figures, paired, family)
    return [
        replace(row, p=min(1.0, comparisons * p[row.workload])) if row.workload in p else row
        for row in rows
    ]


def _family(
    rows: Sequence[Row],
    figures: Mapping[str, Pair],
    paired: bool,
    family: Family,
) -> dict[str, float]:
    """Return the adjusted p-value of each row, of the hypothesis |shift| <= margin."""
    if not rows:
        return {}
    names = [row.workload for row in rows]
    margins = [row.margin for row in rows]
    before, after = (np.column_stack([figures[name][side] for name in names]) for side in (0, 1))
    if family == "max-t":
        if paired:
            p = max_t_paired(_present(after - before), margins)
        else:
            p = max_t_independent(_present(before), _present(after), margins)
        return dict(zip(names, p, strict=True))
    single = []
    for number, row in enumerate(rows):
        shift = row.shift or 0.0
        if abs(shift) <= row.margin:
            single.append(1.0)
            continue
        moved = after[:, number] - np.copysign(row.margin, shift)
        first = before[:, number]
        if paired:
            differences = moved - first
            single.append(stats.signed_rank_p(differences[np.isfinite(differences)]))
        else:
            single.append(
                stats.mann_whitney_p(first[np.isfinite(first)], moved[np.isfinite(moved)])
            )
    return dict(zip(names, holm(single), strict=True))


def _present(figures: Figures) -> Figures:
    """Return the units that have a row at all: other units have no label to permute."""
    found: Figures = figures[np.isfinite(figures).any(axis=1)]
    return found


def _verdict(row: Row, confidence: float) -> str | None:
    """Return one of VERDICTS; None for a row that one side has not."""
    if row.shift is None:
        return None
    if row.kind == "exact":
        return "changed" if row.shift or row.varies else "unchanged"
    if min(row.units) < 2:
        return "no-verdict"
    if row.worse_interval is None:
        return "inconclusive"
    low, high = row.worse_interval
    if -row.margin <= low and high <= row.margin:
        return "same"
    if row.p is not None and row.p <= 1 - confidence + 1e-12:
        if low > row.margin:
            return "slower"
        if high < -row.margin:
            return "faster"
    return "inconclusive"
