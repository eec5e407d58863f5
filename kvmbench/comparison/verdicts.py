"""Verdicts: the shift of each row from before to after, its interval, its p and its verdict.

`kvmbench.compare` is here; docs/statistics.md has the reasons for each method.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite, nan
from statistics import median
from typing import Any, Literal

import numpy as np
from msgspec.structs import replace

from kvmbench.comparison import sequence
from kvmbench.comparison.caveats import caveats, doubt_codes, doubts
from kvmbench.comparison.fleet import prepared
from kvmbench.comparison.hosts import is_control, states_policy
from kvmbench.comparison.rows import VERDICTS, Margin, Row
from kvmbench.comparison.shifts import BootSpread, Method, Pair, adjusted, measured, promised
from kvmbench.comparison.sides import Source, compared_sides
from kvmbench.errors import IncompatibleError, brief, cut, unknown_name
from kvmbench.planning import MARGIN, Correction
from kvmbench.report import Document, Reported
from kvmbench.report.figures import plural
from kvmbench.stats import CONFIDENCE
from kvmbench.units import Cell, Figures, Key, Replicates, Side

__all__ = ["Comparison", "alone", "compare"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Comparison(Reported):
    """A before and an after, row by row; `str` is the text that the command prints."""

    replicates: Replicates
    rows: tuple[Row, ...]
    figures: Mapping[str, Pair]  # row -> one figure per unit of replication, before and after
    confidence: float
    correction: Correction = "max-t"
    comparisons: int = 1  # of afters with one before; p is adjusted for all of them
    tested: int = 0  # rows whose p are adjusted together
    table: tuple[Row, ...] = ()  # the rows with those that are not asked for
    named_controls: bool = False  # the user named the controls, and TR is not why they stay
    margin: Margin | None = None  # None: the default
    detect: Margin | None = None
    boots: BootSpread | None = None  # the deviation of boots that widens the intervals
    accepted: tuple[str, ...] = ()  # codes of the doubts that the user accepts, `all` for any

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
    correction: Correction | None = None,
    primary: Sequence[str] = (),
    controls: Sequence[str] | Literal["tr"] | None = None,
    detect: Margin | str | None = None,
    comparisons: int = 1,
    rows: Sequence[str] = (),
    accept_doubt: Sequence[str] = (),
    boot_sd: BootSpread | Side | str | None = None,
    pair_by: str | None = None,
    group_by: str | None = None,
    unit: str | None = None,
) -> Comparison:
    """Compare two results row by row.

    `before` and `after` are paths, names of published tables (both with `#CONFIGURATION` where
    one of several is meant), results or sides; `before` alone must have two configurations.
    `margin` is the largest shift that does not matter: a share of before (`"1%"`) or a number in
    the row's unit (`"20"`); by default the larger of 0.5 % and one quantum of the clock.
    `correction` is the multiple-comparison correction, by default max-t, or `sequence` for results
    that were measured until decided. `primary` names the rows that were chosen before the
    measurement (patterns as a shell's): their p-values are adjusted among themselves, those of the
    others over the whole table. `controls` names the rows that must not move, `"tr"`
    those for which the model predicts no reload of TR on either side; these are the default where
    both sides state their policy, and else there are no controls, as with `()`. `detect` is a shift
    for which the number of runs is wanted. `comparisons` is the number of afters that are compared
    with one before. `rows` names the rows to return, by default all; the others count in the
    correction as before. `accept_doubt` has codes of doubts, or `"all"`: these caveats then put no
    row in doubt. `boot_sd` is the standard deviation from boot to boot where each side is one boot,
    a share (`"0.4%"`) or a side with several boots of one kernel.
    `pair_by` pairs the boots by `host`, `block` or another label, `group_by` splits the rows by
    one, or by a fact of the host such as `cpu`; with `unit` `ns`, measured cycles become
    nanoseconds by each host's TSC frequency.

    Raises IncompatibleError where a row has another unit, kind or direction on either side, or the
    sides have different configurations; ResultError for a file that is no result, or a figure
    beyond 1e100; ValueError for a pattern or a configuration that names nothing, or a margin that
    is none; and OSError.
    """
    margin, detect = (Margin.parse(m) if isinstance(m, str) else m for m in (margin, detect))
    if isinstance(boot_sd, Side):
        boot_sd = BootSpread.of(boot_sd)
    boots = BootSpread.parse(boot_sd) if isinstance(boot_sd, str) else boot_sd
    first_side, second_side = compared_sides([before] if after is None else [before, after])
    replicates = prepared(first_side, second_side, pair_by=pair_by, group_by=group_by, unit=unit)
    if correction is None:
        looked = any(side.result.stopping == "decided" for side in replicates.sides)
        correction = "sequence" if looked else "max-t"
    if correction == "sequence" and boots:
        raise ValueError(
            "the confidence sequence takes no deviation of boots: compare pairs of boots"
        )
    named = () if controls is None or isinstance(controls, str) else controls
    by_model = controls == "tr" or (controls is None and states_policy(replicates.sides))
    figures, found = _described(replicates, (*primary, *named, *rows), by_model)
    method = Method.of(replicates, found, confidence, correction, boots)
    for number, row in enumerate(found):
        more: dict[str, Any] = {
            "primary": not primary or _matches(row.workload, primary),
            "control": row.control if by_model else _matches(row.workload, named),
        }
        if row.missing is None:
            more |= _moved(row, figures[row.workload], method, margin)
        found[number] = replace(row, **more)
    if method.correction == "sequence":
        found = sequence.judged(found, figures, confidence, comparisons)
    able = [row for row in found if row.interval is not None and row.by != "sequence"]
    first = [row for row in able if row.primary]
    families = [able, first] if len(first) < len(able) else [able]
    more_of: dict[str, dict[str, Any]] = {}
    for family in families:
        margins = [row.margin or 0.0 for row in family]
        p = adjusted(family, figures, method, margins)
        quanta = [row.quantum for row in family]
        zero = p if quanta == margins else adjusted(family, figures, method, quanta)
        promises = promised(family, method, comparisons, detect)
        for row in family:
            name = row.workload
            more_of[name] = promises.get(name, {}) | {
                "p": min(1.0, comparisons * p[name]), "p_zero": min(1.0, comparisons * zero[name]),
            }  # fmt: skip
    for number, row in enumerate(found):
        row = replace(row, **more_of.get(row.workload, {}))
        found[number] = replace(row, verdict=_verdict(row, confidence))
    accepted = _accepted(accept_doubt)
    comparison = Comparison(
        replicates=replicates, figures=figures, confidence=confidence, comparisons=comparisons,
        correction=method.correction, tested=sum(row.p is not None for row in found),
        rows=tuple(found), table=tuple(found), margin=margin, named_controls=bool(named),
        detect=detect, accepted=accepted, boots=method.boots,
    )  # fmt: skip
    doubted = [c for c in caveats(comparison) if not {c.code, "all"} & set(accepted)]
    marked = (
        replace(row, doubts=doubts(doubted, row.workload)) if row.kind == "noisy" else row
        for row in found
        if not rows or _matches(row.workload, rows)
    )
    return dataclasses.replace(comparison, rows=tuple(marked))


def _accepted(codes: Sequence[str]) -> tuple[str, ...]:
    """Return the codes of doubts; ValueError for a code that is none."""
    known = ["all", *doubt_codes()]
    for code in codes:
        if code not in known:
            raise ValueError(unknown_name("doubt", code, known))
    return tuple(dict.fromkeys(codes))


def alone(side: Side, *, confidence: float = CONFIDENCE, rows: Sequence[str] = ()) -> Comparison:
    """Return the rows of a side without a before, for bounds on its figures.

    Raises ValueError for a pattern of `rows` that names none.
    """
    replicates = Replicates(side, side)
    figures, found = _described(replicates, rows, by_model=True)
    chosen = [row for row in found if not rows or _matches(row.workload, rows)]
    lone = tuple(replace(row, from_="", before=None) for row in chosen)
    return Comparison(replicates=replicates, rows=lone, figures=figures, confidence=confidence)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether one of the patterns, as a shell's, fits a name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _described(
    replicates: Replicates, patterns: Sequence[str], by_model: bool
) -> tuple[dict[str, Pair], list[Row]]:
    """Return the figures of each row, and the rows without their statistics.

    `by_model`: the rows for which the model predicts no reload of TR are controls.
    Raises ValueError for one of the patterns that fits no row.
    """
    keys = replicates.keys()
    names = [key.name for key in keys]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(unknown_name("row", pattern, names))
    figures = {key.name: replicates.figures(key) for key in keys}
    return figures, [_row(key, replicates, figures[key.name], by_model) for key in keys]


def _row(key: Key, replicates: Replicates, figures: Pair, by_model: bool) -> Row:
    cells = replicates.cells(key)
    first = (cells[0] or cells[1])[0].series
    for _, _, series in (*cells[0], *cells[1]):
        for what in ("unit", "kind", "better"):
            one, other = getattr(first, what), getattr(series, what)
            if one != other:
                raise IncompatibleError(
                    f"{cut(key.name)}: {what} is {brief(one)} on one side, "
                    f"{brief(other)} on the other"
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
        after=centres[1], units=units, missing=missing, new=not cells[0],
        control=by_model and is_control(replicates.sides, cells),
        varies=first.kind == "exact" and any(_varies(side) for side in cells),
        quantum=max((c.series.quantum or 0.0 for side in cells for c in side), default=0.0),
    )  # fmt: skip


def _centre(figures: Figures, cells: Sequence[Cell]) -> float:
    """Return the median of a side's units; an exact figure as it is, also beyond 2**53."""
    if cells[0].series.kind == "exact" and not _varies(cells):
        return cells[0].series.values[0]
    return _plain(median(figures.tolist()))


def _varies(cells: Sequence[Cell]) -> bool:
    return len({value for cell in cells for value in cell.series.values}) > 1


def _plain(value: float) -> float:
    """Return an integer as one: exact cycles are printed whole."""
    return int(value) if float(value).is_integer() else float(value)


def _moved(row: Row, figures: Pair, method: Method, margin: Margin | None) -> dict[str, Any]:
    """Return the shift of a row that both sides have, and its margin and interval."""
    assert row.before is not None
    assert row.after is not None
    if row.kind == "exact":
        shift = _plain(row.after - row.before)
        return {"shift": shift, "percent": _percent(shift, row.before)}
    allowed = margin.of(row.before) if margin else max(MARGIN * abs(row.before), row.quantum)
    found = measured(row, figures, method)
    found["shift"] = _plain(found["shift"])
    return found | {"percent": _percent(found["shift"], row.before), "margin": allowed}


def _percent(shift: float, before: float) -> float | None:
    percent = 100 * shift / abs(before) if before else nan
    return percent if isfinite(percent) else None


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
    alpha = 1 - confidence + 1e-12
    if row.p is not None and row.p <= alpha and row.beyond(row.margin):
        return "slower" if low > 0 else "faster"
    if row.p_zero is not None and row.p_zero <= alpha and row.beyond(row.quantum):
        return "slightly slower" if low > 0 else "slightly faster"
    within = -row.margin <= low and high <= row.margin
    return "within margin" if within else "inconclusive"
