"""Scenarios under two policies as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from kvmbench.causes import CAUSES
from kvmbench.report.plain import WIDTH, Table, count, markdown, text
from kvmbench.scenario.scenario import PERCENTILES, ScenarioResult, Worth, worth

__all__ = ["FORMATS", "Point", "render"]

FORMATS = ("text", "markdown", "csv", "json")
RATES = {"exits": "VM exits", "reloads": "TR reloads", "switches": "switches"}
GONE = 20  # a gain is gone where less than the largest one over this is left
EVER = ("leaks", "denials", "faults")  # a correct policy has none


class Point(NamedTuple):
    """A scenario under two policies, with the value of the parameter that varies, if one does."""

    value: float | None
    before: ScenarioResult
    after: ScenarioResult

    @property
    def worth(self) -> Worth:
        return worth(self.before, self.after)


def render(points: Sequence[Point], form: str, parameter: str | None = None) -> str:
    """Return one point, or a curve of points over `parameter`, in one of FORMATS."""
    if form == "json":
        return json.dumps(_document(points, parameter), indent=2) + "\n"
    if form == "csv":
        return _csv(_flat(point, parameter) for point in points)
    write = {"text": text, "markdown": markdown}[form]
    parts = [_fill(_title(points[0], parameter))]
    if parameter is None:
        parts += [write(_main(points[0])), _fill(_worth(points[0].worth))]
    else:
        parts += [write(_curve(points, parameter)), _fill(_where_gone(points, parameter))]
    return "\n".join(parts)


def _fill(words: str) -> str:
    return textwrap.fill(words, WIDTH).replace("\xa0", " ") + "\n"


def _title(point: Point, parameter: str | None) -> str:
    before, after = point.before, point.after
    scenario = before.scenario
    vendor = "" if before.vendor == "vmx" else f", {before.vendor}"
    facts = [
        f"{scenario.cpus} CPUs" if parameter != "cpus" else "",
        f"{scenario.n_tasks} tasks" if not (parameter or "").endswith(".count") else "",
        f"{scenario.seconds:g}\xa0s" if parameter != "seconds" else "",
        f"profile {before.profile.name}{vendor}",
        f"seed {before.seed}" if parameter != "seed" else "",
    ]
    what = f"{before.policy.name} -> {after.policy.name}, simulated host {scenario.name}"
    return f"{what}: {', '.join(fact for fact in facts if fact)}"


def _percent(share: float) -> str:
    return f"{100 * share:.3f}%"


def _main(point: Point) -> Table:
    both = (point.before, point.after)
    rows: list[tuple[str, ...]] = []
    for cause, (_, label) in CAUSES.items():
        old, new = (result.share(cause) for result in both)
        if old or new:
            rows.append((label, _percent(old), _percent(new), f"{100 * (new - old):+.3f}"))
    for name, label in RATES.items():
        old, new = (round(result.rate(name)) for result in both)
        rows.append((f"{label}/s", f"{old:,}", f"{new:,}", f"{new - old:+,}"))
    for percent in PERCENTILES:
        costs = [result.percentile(percent) for result in both]
        change = "-" if None in costs else f"{(costs[1] or 0) - (costs[0] or 0):+,}"
        rows.append((f"exit p{percent}, cycles", *(count(cost) for cost in costs), change))
    for name in EVER:
        found = [result.counts[name] for result in both]
        rows.append((name, *map(str, found), f"{found[1] - found[0]:+}"))
    rows = [(*row[:-1], "0" if not row[-1].strip("+-0.") else row[-1]) for row in rows]
    return Table(("share of CPU time", "before", "after", "change"), rows)


def _gain(found: Worth) -> str:
    if found.percent is None:
        return "-"
    error = "" if found.error is None else f" +- {found.error:.4f}"
    return f"{found.percent:+.4f}{error}"


def _worth(found: Worth) -> str:
    if found.percent is None or found.cores is None:
        return "Worth: unknown, as no CPU did any work."
    error = "" if found.error is None else f"\xa0+-\xa0{10 * found.error:.3f}"
    return (
        f"Worth: {_gain(found)}\xa0% of CPU time for the same work, "
        f"{found.cores:+.3f}{error} cores of 1,000."
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _curve(points: Sequence[Point], parameter: str) -> Table:
    rows = [
        (
            _number(point.value),
            f"{point.before.rate('switches'):.0f}",
            f"{point.before.rate('reloads'):.0f} -> {point.after.rate('reloads'):.0f}",
            _gain(point.worth),
            "gone" if gone else "",
        )
        for point, gone in zip(points, _gone(points), strict=True)
    ]
    headings = (parameter, "switches/s", "TR reloads/s", "% of CPU time", "gain")
    return Table(headings, rows)


def _gone(points: Sequence[Point]) -> list[bool]:
    """Say at which points nothing, or next to nothing, is left of the curve's largest gain."""
    gains = [point.worth.percent or 0 for point in points]
    return [gain <= max(0, *gains) / GONE for gain in gains]


def _where_gone(points: Sequence[Point], parameter: str) -> str:
    gone = _gone(points)
    if not any(gone):
        return "The gain does not disappear at any of these points."
    if all(gone):
        return "There is no gain at any of these points."
    places = ", ".join(_number(p.value) for p, is_gone in zip(points, gone, strict=True) if is_gone)
    return (
        f"The gain is gone, less than 1/{GONE} of the largest here is left, "
        f"at {parameter} {places}."
    )


def _side(result: ScenarioResult) -> dict[str, Any]:
    return {
        "policy": result.policy.name,
        "share": {cause: result.share(cause) for cause in CAUSES},
        "per_second": {name: result.rate(name) for name in RATES},
        "exit_cycles": {f"p{percent}": result.percentile(percent) for percent in PERCENTILES},
        **{name: result.counts[name] for name in EVER},
        "operations": result.operations,
    }


def _gains(found: Worth) -> dict[str, Any]:
    return {"percent": found.percent, "error": found.error, "cores_per_1000": found.cores}


def _document(points: Sequence[Point], parameter: str | None) -> dict[str, Any]:
    first = points[0].before
    document: dict[str, Any] = {
        "engine": "sim",
        "model_version": first.model_version,
        "scenario": first.scenario.name,
        "profile": first.profile.name,
        "vendor": first.vendor,
    }
    entries = [
        {
            "cpus": point.before.scenario.cpus,
            "seconds": point.before.scenario.seconds,
            "seed": point.before.seed,
            "before": _side(point.before),
            "after": _side(point.after),
            "worth": _gains(point.worth),
        }
        for point in points
    ]
    if parameter is None:
        return document | entries[0]
    curve = [{"value": point.value, **e} for point, e in zip(points, entries, strict=True)]
    return document | {"parameter": parameter, "points": curve}


def _flat(point: Point, parameter: str | None) -> dict[str, Any]:
    line: dict[str, Any] = {"scenario": point.before.scenario.name}
    if parameter is not None:
        line[parameter] = point.value
    for side, result in (("before", point.before), ("after", point.after)):
        for key, value in _side(result).items():
            if isinstance(value, dict):
                line |= {f"{key}_{name}_{side}": figure for name, figure in value.items()}
            else:
                line[f"{key}_{side}"] = value
    return line | _gains(point.worth)


def _csv(lines: Iterable[dict[str, Any]]) -> str:
    found = list(lines)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(found[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return out.getvalue()
