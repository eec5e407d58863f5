"""History: the figures of many results in order, and the steps in them.

`kvmbench history` is the command; `kvmbench.comparison.steps` has the statistics.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace

from kvmbench import stats
from kvmbench.comparison import steps as found_steps
from kvmbench.comparison.fleet import load_all
from kvmbench.comparison.history_rows import LEAST, Point, Row, Step
from kvmbench.comparison.hosts import host_facts
from kvmbench.errors import IncompatibleError, ResultError, listed, unknown_name
from kvmbench.labels import label_of
from kvmbench.report import Document, Reported
from kvmbench.results import Boot, Number, Result, Run, Series
from kvmbench.stats import CONFIDENCE
from kvmbench.units import LARGEST

__all__ = ["History", "history"]

DEPENDENT = 0.005  # p of the autocorrelation, below which a row's steps are in doubt
MODEL = ("model_version", "profile", "vendor")  # of a run: they change an exact figure

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class History(Reported):
    """Results in order, and the steps of each row; `str` is the text that the command prints."""

    order: str  # time, commit or a label
    points: tuple[Point, ...]
    rows: tuple[Row, ...]
    left_out: tuple[str, ...] = ()  # results without the time or the label of the order

    def document(self) -> Document:
        """Return the document that `kvmbench history` prints."""
        from kvmbench.comparison.history_document import document

        return document(self)

    def __repr__(self) -> str:
        steps = sum(len(row.steps) for row in self.rows)
        return f"<History: {len(self.points)} results, {len(self.rows)} rows, {steps} steps>"


class _Sample(NamedTuple):
    """One series with the things that decide its point and its row."""

    point: str
    boot: Boot
    part: int  # number of the boot, so that its runs count once
    run: Run
    series: Series


def history(
    results: Iterable[str | Path | tuple[str, Result]],
    *,
    rows: Sequence[str] = (),
    order: str = "time",
    group_by: str = "host",
    last: int | None = None,
    progress: Progress | None = None,
) -> History:
    """Return the history of results: pairs of a name and a result, or paths of files and folders.

    `order` is `time` (of the first run), `commit` (by the label `commit_time`; one point per
    commit) or another label (one point per value, numbers in it as numbers). `rows` are patterns,
    as a shell's. `group_by` splits a row by a label or a fact of the host, where measured results
    have several: figures of different hosts are no one history. `last` keeps the newest points.

    Results without the time or the label are left out. Raises ResultError where all are, and for a
    figure beyond 1e100; IncompatibleError for a row with another unit, kind or direction in a later
    result, and ValueError for a pattern that names no row.
    """
    left_out: dict[str, None] = {}
    samples = list(_samples(_named(results), order, left_out))
    points = _points(samples, order, left_out)
    if not points:
        if not left_out:
            raise ResultError("no results: a history needs files, or results kept with --save")
        raise ResultError(_lacking(order, list(left_out)))
    if last is not None:
        points = dict(list(points.items())[-last:])
    samples = [sample for sample in samples if sample.point in points]
    place = {name: number for number, name in enumerate(points)}
    found: dict[str, list[_Sample]] = {}
    for name, sample in zip(_row_names(samples, group_by), samples, strict=True):
        found.setdefault(name, []).append(sample)
    for pattern in rows:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise ValueError(unknown_name("row", pattern, found))
    chosen = {
        name: cells for name, cells in found.items()
        if not rows or any(fnmatchcase(name, pattern) for pattern in rows)
    }  # fmt: skip
    made = []
    for number, (name, cells) in enumerate(chosen.items()):
        if progress:
            progress(name, number / len(chosen))
        made.append(_row(name, cells, place))
    return History(
        order=order, points=tuple(points.values()), rows=tuple(made), left_out=tuple(left_out)
    )  # fmt: skip


def _named(results: Iterable[str | Path | tuple[str, Result]]) -> Iterable[tuple[str, Result]]:
    for found in results:
        if isinstance(found, tuple):
            yield found
        else:
            yield from ((name, result) for name, _, result in load_all([str(found)])[0])


def _lacking(order: str, names: Sequence[str]) -> str:
    name = names[0]
    if order == "time":
        return (
            f"no result has a time ({listed(names)}): keep measurements with --save, or put the "
            "results in order by a label, --order LABEL"
        )
    return (
        f"{name}: no label {order!r}: `kvmbench save {name} NEW --label {order}=VALUE` sets it, "
        "--order time needs none"
    )


def _samples(
    results: Iterable[tuple[str, Result]], order: str, left_out: dict[str, None]
) -> Iterable[_Sample]:
    part = 0
    for name, result in results:
        commits: dict[str, set[str]] = {}
        for boot in result.boots:
            own, commit = boot.labels.get("result", name), boot.labels.get("commit", "")
            commits.setdefault(own, set()).add(commit)
        for boot in result.boots:
            part += 1
            if order == "time":
                point = own = boot.labels.get("result", name)
                if len(commits[own]) > 1:
                    point += f"@{boot.labels.get('commit', '')}"
            elif not (point := label_of(boot, order)):
                left_out[name] = None
                continue
            for run in boot.runs:
                for series in run.series:
                    yield _Sample(point, boot, part, run, series)


def _points(samples: Sequence[_Sample], order: str, left_out: dict[str, None]) -> dict[str, Point]:
    """Return the points in order, by name."""
    cells: dict[str, list[_Sample]] = {}
    for sample in samples:
        cells.setdefault(sample.point, []).append(sample)
    points, times, committed = [], {}, {}
    for name, found in cells.items():
        labels = dict(found[0].boot.labels)
        for cell in found:
            labels = {k: v for k, v in labels.items() if cell.boot.labels.get(k) == v}
        time = min((time for cell in found if (time := _time(cell.run.time))), default=None)
        times[name], committed[name] = time, _time(labels.get("commit_time"))
        said = time.isoformat(timespec="seconds") if time else None
        points.append(Point(name=name, time=said, labels=labels))
    keys: Mapping[str, Any] = times
    if order == "commit" and None not in committed.values():
        keys = committed
    elif order not in ("time", "commit"):
        keys = {name: _natural(name) for name in times}
    left_out.update((name, None) for name, key in keys.items() if key is None)
    able = [point for point in points if keys[point.name] is not None]
    return {point.name: point for point in sorted(able, key=lambda point: keys[point.name])}


def _time(text: str | None) -> datetime | None:
    """Return a time in UTC; one without a zone is local."""
    try:
        return datetime.fromisoformat(text or "").astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _natural(text: str) -> list[tuple[bool, int, str]]:
    """Return a key by which 6.9 comes before 6.10, and 6.10-rc1 before 6.10."""
    key = [
        (part.isdigit(), int(part) if part.isdigit() else 0, "" if part == "-rc" else f" {part}")
        for part in re.split(r"(\d+|-rc)", text)
        if part
    ]
    return [*key, (False, 0, " ")]


def _row_names(samples: Sequence[_Sample], group_by: str) -> list[str]:
    """Return the row of each sample: configuration and group stand where there are several."""
    configurations = {sample.series.configuration for sample in samples}
    noisy = [sample for sample in samples if sample.series.kind == "noisy"]
    groups = {label_of(sample.boot, group_by) for sample in noisy} - {""}
    names = []
    for _, boot, _, _, series in samples:
        split = series.kind == "noisy" and len(groups) > 1
        parts = [
            series.workload,
            series.configuration if len(configurations) > 1 else "",
            label_of(boot, group_by) if split else "",
        ]
        names.append("/".join(filter(None, parts)))
    return names


def _row(name: str, cells: Sequence[_Sample], place: Mapping[str, int]) -> Row:
    first = cells[0].series
    of_point: dict[int, dict[int, list[float]]] = {}
    exact: dict[int, set[Number]] = {}
    origin: dict[int, _Sample] = {}
    for cell in cells:
        for what in ("unit", "kind", "better"):
            one, other = getattr(first, what), getattr(cell.series, what)
            if one != other:
                raise IncompatibleError(
                    f"{name}: {what} is {one!r} in {cells[0].point}, {other!r} in {cell.point}"
                )
        values = cell.series.values
        if max(values) > LARGEST or min(values) < -LARGEST:
            raise ResultError(f"{name}: a figure beyond {LARGEST:g} cannot be computed with")
        at = place[cell.point]
        origin.setdefault(at, cell)
        of_point.setdefault(at, {}).setdefault(cell.part, []).append(float(median(values)))
        if first.kind == "exact":
            exact.setdefault(at, set()).update(values)
    figures: list[Number | None] = [None] * len(place)
    for at, boots in of_point.items():
        if len(exact.get(at, ())) == 1:
            (figures[at],) = exact[at]
        else:
            figures[at] = median(median(runs) for runs in boots.values())
    row = Row(
        name=name, unit=first.unit, kind=first.kind, better=first.better, values=figures, steps=[],
        spread=None, autocorrelation=0.0, doubt=False,
        varies=any(len(values) > 1 for values in exact.values()),
    )  # fmt: skip
    return (_exact if first.kind == "exact" else _noisy)(row, origin)


def _exact(row: Row, origin: Mapping[int, _Sample]) -> Row:
    """Return the row with its steps: every result that differs from the one before."""
    steps = []
    for before, at in pairwise(row.known):
        old, new = row.values[before], row.values[at]
        assert old is not None
        assert new is not None
        if old != new:
            steps.append(
                Step(
                    at=at, first=at, last=at, before=old, after=new, shift=new - old, interval=None,
                    percent=_percent(new - old, old), verdict="changed",
                    changed=_changed(origin[before], origin[at]),
                )
            )  # fmt: skip
    return replace(row, steps=steps)


def _noisy(row: Row, origin: Mapping[int, _Sample]) -> Row:
    """Return the row with its steps by rank CUSUM, and the spread about its levels."""
    known = row.known
    x = np.array([row.values[at] for at in known], dtype=np.float64)
    places = found_steps.segments(x) if len(x) >= LEAST else []
    levels = [x[low:high] for low, high in pairwise((0, *places, len(x)))]
    steps = []
    for place, before, after in zip(places, levels, levels[1:], strict=False):
        shift = stats.hodges_lehmann(before, after)
        low, high = found_steps.place_interval(before, after)
        centre = float(np.median(before))
        worse = row.worse(shift) > 0
        steps.append(
            Step(
                at=known[place], first=known[place + low], last=known[place + high],
                before=centre, after=float(np.median(after)), shift=shift,
                interval=stats.mann_whitney_interval(before, after, CONFIDENCE),
                percent=_percent(shift, centre), verdict="slower" if worse else "faster",
                changed=_changed(origin[known[place - 1]], origin[known[place]]),
            )
        )  # fmt: skip
    spread = None
    if len(x) > len(levels):
        squares = sum(float(((level - level.mean()) ** 2).sum()) for level in levels)
        spread = (squares / (len(x) - len(levels))) ** 0.5
    lag, p = 0.0, 1.0
    if len(x):
        lag, p = stats.autocorrelation(np.concatenate([x - np.median(x) for x in levels]))
    return replace(row, steps=steps, spread=spread, autocorrelation=lag, doubt=p < DEPENDENT)


def _percent(shift: Number, before: Number) -> float | None:
    return 100 * shift / abs(before) if before else None


def _changed(before: _Sample, after: _Sample) -> list[str]:
    """Return the facts that changed between two results, other than the kernel and its build."""
    if after.series.kind == "exact":
        old, new = ({w: getattr(s.run, w) for w in MODEL} for s in (before, after))
    else:
        old, new = (dict[str, Any](host_facts(s.boot.host)) for s in (before, after))
        old["host"], new["host"] = (s.boot.labels.get("host") for s in (before, after))
    return [
        f"{what.replace('_', ' ')}: {old[what]} -> {new[what]}"
        for what in old
        if what not in ("kernel", "build")
        and old[what] and new.get(what) and old[what] != new[what]
    ]  # fmt: skip
