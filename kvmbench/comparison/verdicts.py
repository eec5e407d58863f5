"""Verdicts: the shift of each row from before to after, its interval, its p and its verdict.

`kvmbench.compare` is here; docs/statistics.md has the reasons for each method.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite, nan
from typing import Any, Literal

import numpy as np
from msgspec.structs import replace

from kvmbench import stats
from kvmbench.comparison.adjustment import holm, max_t_independent, max_t_paired
from kvmbench.comparison.fleet import prepared
from kvmbench.comparison.hosts import is_control
from kvmbench.comparison.rows import VERDICTS, Margin, Row
from kvmbench.comparison.sides import Source, compared_sides
from kvmbench.errors import IncompatibleError, unknown_name
from kvmbench.report import Document, Reported
from kvmbench.report.figures import plural
from kvmbench.stats import CONFIDENCE, POWER, QUANTA
from kvmbench.units import Cell, Figures, Key, Replicates, Side

__all__ = ["Comparison", "Family", "alone", "compare"]

MARGIN = 0.01  # of before, where none is asked for

Pair = tuple[Figures, Figures]
Family = Literal["max-t", "holm"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Comparison(Reported):
    """A before and an after, row by row; `str` is the text that the command prints."""

    replicates: Replicates
    rows: tuple[Row, ...]
    figures: Mapping[str, Pair]  # row -> one figure per unit of replication, before and after
    confidence: float
    family: Family = "max-t"
    comparisons: int = 1  # of afters with one before; p is adjusted for all of them
    tested: int = 0  # rows whose p are adjusted together
    moved: tuple[str, ...] = ()  # controls that moved, also those that are not among `rows`
    named_controls: bool = False  # the user named the controls, and TR is not why they stay
    margin: Margin | None = None  # None: the default
    detect: Margin | None = None

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
        parts = [plural(len(self.rows), "row")]
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
    rows: Sequence[str] = (),
    pair_by: str | None = None,
    group_by: str | None = None,
    unit: str | None = None,
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
    `rows` names the rows to return, by default all; the others count in the correction as before.
    `pair_by` pairs the boots by `host`, `block` or another label, `group_by` splits the rows by
    one, or by a fact of the host such as `cpu`; with `unit` `ns`, measured cycles become
    nanoseconds by each host's TSC frequency.

    Raises IncompatibleError where a row has another unit, kind or direction on either side, or the
    sides have different configurations; ResultError for a file that is no result, or a figure
    beyond 1e100; ValueError for a pattern or a configuration that names nothing, or a margin that
    is none; and OSError.
    """
    margin, detect = (Margin.parse(m) if isinstance(m, str) else m for m in (margin, detect))
    first_side, second_side = compared_sides([before] if after is None else [before, after])
    replicates = prepared(first_side, second_side, pair_by=pair_by, group_by=group_by, unit=unit)
    figures, found = _described(replicates, (*primary, *(controls or ()), *rows))
    for number, row in enumerate(found):
        more: dict[str, Any] = {"primary": not primary or _matches(row.workload, primary)}
        if controls is not None:
            more["control"] = _matches(row.workload, controls)
        if row.missing is None:
            more |= _measured(
                row, figures[row.workload], replicates.paired, confidence, margin, detect
            )
        found[number] = replace(row, **more)
    able = [row for row in found if row.interval is not None]
    first = [row for row in able if row.primary]
    p = _family(able, figures, replicates.paired, family)
    if len(first) < len(able):
        p |= _family(first, figures, replicates.paired, family)
    for number, row in enumerate(found):
        if row.workload in p:
            row = replace(row, p=min(1.0, comparisons * p[row.workload]))
        found[number] = replace(row, verdict=_verdict(row, confidence))
    moved = tuple(r.workload for r in found if r.control and r.verdict in ("faster", "slower"))
    return Comparison(
        replicates=replicates, figures=figures, confidence=confidence, family=family,
        comparisons=comparisons, tested=len(p), moved=moved,
        named_controls=controls is not None, margin=margin, detect=detect,
        rows=tuple(
            replace(row, marked=bool(moved) and row.kind == "noisy" and row.verdict is not None)
            for row in found
            if not rows or _matches(row.workload, rows)
        ),
    )  # fmt: skip


def alone(side: Side, *, confidence: float = CONFIDENCE, rows: Sequence[str] = ()) -> Comparison:
    """Return the rows of a side without a before, for bounds on its figures.

    Raises ValueError for a pattern of `rows` that names none.
    """
    replicates = Replicates(side, side)
    figures, found = _described(replicates, rows)
    chosen = [row for row in found if not rows or _matches(row.workload, rows)]
    lone = tuple(replace(row, from_="", before=None) for row in chosen)
    return Comparison(replicates=replicates, rows=lone, figures=figures, confidence=confidence)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether one of the patterns, as a shell's, fits a name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _described(
    replicates: Replicates, patterns: Sequence[str]
) -> tuple[dict[str, Pair], list[Row]]:
    """Return the figures of each row, and the rows without their statistics.

    Raises ValueError for one of the patterns that fits no row.
    """
    keys = replicates.keys()
    names = [key.name for key in keys]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(unknown_name("row", pattern, names))
    figures = {key.name: replicates.figures(key) for key in keys}
    return figures, [_row(key, replicates, figures[key.name]) for key in keys]


def _row(key: Key, replicates: Replicates, figures: Pair) -> Row:
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
    centres = [
        _centre(found, side) if len(found) else None
        for found, side in zip(present, cells, strict=True)
    ]
    missing = None
    for side, found in zip(replicates.sides, present, strict=True):
        if not len(found) and key in side.cells:
            missing = f"In no complete block of {side.label}"
        elif not len(found):
            skips = (
                run.skipped.get(key.workload)
                for number, (_, run) in enumerate(side.result.runs())
                if number in side.runs or not run.series
            )
            why = next(filter(None, skips), None)
            missing = f"Not in {side.label}" + (f" ({why})" if why else "")
    units = (len(present[0]), len(present[1]))
    if replicates.paired and missing is None:
        count = int(np.isfinite(figures[1] - figures[0]).sum())
        units = (count, count)
        missing = None if count else "In no complete block of both sides"
    return Row(
        workload=key.name, unit=first.unit, kind=first.kind, better=first.better,
        from_=replicates.sides[0].label, to=replicates.sides[1].label, before=centres[0],
        after=centres[1], units=units, control=is_control(replicates.sides, cells),
        missing=missing, new=not cells[0],
        varies=first.kind == "exact" and any(_varies(side) for side in cells),
        quantum=max((c.series.quantum or 0.0 for side in cells for c in side), default=0.0),
    )  # fmt: skip


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


def _measured(
    row: Row,
    figures: Pair,
    paired: bool,
    confidence: float,
    margin: Margin | None,
    detect: Margin | None,
) -> dict[str, Any]:
    """Return the fields of a row on both sides: shift, interval, minimum detectable effect."""
    assert row.before is not None
    assert row.after is not None
    if row.kind == "exact":
        shift = _plain(row.after - row.before)
        return {"shift": shift, "percent": _percent(shift, row.before)}
    allowed = max(Margin(MARGIN).of(row.before), QUANTA * row.quantum)
    if margin:
        allowed = margin.of(row.before)
    if paired:
        differences = figures[1] - figures[0]
        differences = differences[np.isfinite(differences)]
        shift = stats.pseudo_median(differences)
        interval = stats.signed_rank_interval(differences, confidence)
        spread = stats.spread(differences) if len(differences) > 1 else None
    else:
        before, after = (found[np.isfinite(found)] for found in figures)
        shift = stats.hodges_lehmann(before, after)
        single = min(row.units) < 2  # the one may be any run of its kind: no interval
        interval = None if single else stats.mann_whitney_interval(before, after, confidence)
        spread = None if single else stats.pooled_spread(before, after)
    detectable = wanted = None
    if spread is not None:
        wish = detect.of(row.before) if detect else allowed
        count, other = row.units
        detectable = stats.minimum_detectable(
            spread, count, None if paired else other, confidence=confidence, power=POWER
        )
        if detectable is not None:  # where every run has the same figure, the steps are the limit
            detectable = max(detectable, QUANTA * row.quantum)
        wanted = stats.runs_needed(spread, wish, paired=paired, confidence=confidence, power=POWER)
    shift = _plain(shift)
    return {
        "shift": shift, "percent": _percent(shift, row.before), "interval": interval,
        "margin": allowed, "spread": spread, "detectable": detectable, "wanted": wanted,
    }  # fmt: skip


def _percent(shift: float, before: float) -> float | None:
    percent = 100 * shift / abs(before) if before else nan
    return percent if isfinite(percent) else None


def _family(
    rows: Sequence[Row], figures: Mapping[str, Pair], paired: bool, family: Family
) -> dict[str, float]:
    """Return the adjusted p-value of each row, of the hypothesis |shift| <= margin."""
    if not rows:
        return {}
    names = [row.workload for row in rows]
    margins = [row.margin or 0.0 for row in rows]
    before, after = (np.column_stack([figures[name][side] for name in names]) for side in (0, 1))
    if family == "max-t":
        if paired:
            p = max_t_paired(_present(after - before), margins)
        else:
            p = max_t_independent(_present(before), _present(after), margins)
        return dict(zip(names, p, strict=True))
    single = []
    for row, margin, first, second in zip(rows, margins, before.T, after.T, strict=True):
        shift = row.shift or 0.0
        if abs(shift) <= margin:
            single.append(1.0)
            continue
        moved = second - np.copysign(margin, shift)
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
    if row.worse_interval is None or row.margin is None:
        return "inconclusive"
    low, high = row.worse_interval
    if -row.margin <= low and high <= row.margin:
        return "same"
    if row.p is not None and row.p <= 1 - confidence + 1e-12 and row.beyond(row.margin):
        return "slower" if low > 0 else "faster"
    return "inconclusive"
