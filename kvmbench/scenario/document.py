"""The documents of simulated hosts, and their JSON, "kvmbench.scenario/1".

The results' `document` and `kvmbench scenario` make them; `kvmbench schema scenario` prints
`SCHEMAS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

from kvmbench.causes import CAUSES, WRONG
from kvmbench.pictures import time_bars
from kvmbench.report import Block, Column, Document, Note, Record, Table
from kvmbench.report.plots import Axis, Curve, Curves, Point

if TYPE_CHECKING:
    from kvmbench.scenario.result import ScenarioResult, Sweep, Worth

__all__ = ["SCHEMAS", "ScenarioDocument", "host_document", "point_record", "sweep_document"]

PERCENTILES = ("50", "99", "99.9")  # of an EXIT's cycles
RATES = {"exits": "VM exits", "reloads": "TR reloads", "switches": "switches"}
GONE = 20  # a gain is gone at less than the largest one divided by this


class SideEntry(TypedDict):
    """A host under one policy: shares of CPU time 0 to 1, and counts of the whole run."""

    policy: str
    share: dict[str, float]
    per_second: dict[str, float]
    exit_cycles: dict[str, int | None]
    leaks: int
    denials: int
    faults: int
    nulls: int
    operations: int


class WorthEntry(TypedDict):
    """The worth of the change: `percent` of CPU time, its standard `error`, and in cores."""

    percent: float | None
    error: float | None
    cores_per_1000: float | None


class PointEntry(TypedDict):
    """A scenario at one `value` of the parameter; a result of one policy has no `after`."""

    value: float | None
    cpus: int
    seconds: float
    seed: int
    before: SideEntry
    after: SideEntry | None
    worth: WorthEntry | None


class ScenarioDocument(TypedDict):
    """The JSON of `kvmbench scenario`: one point, or one per value of --vary."""

    schema: Literal["kvmbench.scenario/1"]
    engine: Literal["sim"]
    model_version: str
    scenario: str
    profile: str
    vendor: str
    parameter: str | None
    points: list[PointEntry]


SCHEMAS = {"scenario": ScenarioDocument}
"""The JSON documents of scenarios by kind."""


def host_document(results: Sequence[ScenarioResult], worth: Worth | None = None) -> Document:
    """Return the document of a scenario under one policy, or under two with their worth."""
    compared = ("before", "after", "change") if worth else (results[0].policy.name,)
    columns = [Column("figure", "key"), Column("unit", "word"), *map(Column, compared)]
    blocks: list[Block] = [Table(columns, list(_rows(results)))]
    if worth:
        blocks.append(Note(_said(worth)))
    blocks += _bars(results)
    return _document([(results, worth)], blocks)


def sweep_document(sweep: Sweep) -> Document:
    """Return the document of a sweep: its curve, and the points that lose the gain."""
    columns = [
        Column(sweep.parameter, "key"), Column("switches", unit="1/s"),
        *(Column(side, unit="reloads/s") for side in ("before", "after")),
        Column("worth", unit="% of CPU time"), Column("gain", "word"),
    ]  # fmt: skip
    gains = [point.worth.percent or 0 for point in sweep.comparisons]
    gone = [gain <= max(0, *gains) / GONE for gain in gains]
    rows = [
        (
            f"{value:.6g}", f"{point.before.rate('switches'):,.0f}",
            *(f"{side.rate('reloads'):,.0f}" for side in (point.before, point.after)),
            _gain(point.worth), "gone" if lost else "",
        )
        for value, point, lost in zip(sweep.values, sweep.comparisons, gone, strict=True)
    ]  # fmt: skip
    places = ", ".join(row[0] for row in rows if row[-1])
    left = f"less than 1/{GONE} of the largest here is left"
    said = f"The gain is gone, {left}, at {sweep.parameter} {places}."
    if not any(gone):
        said = "The gain does not disappear at any of these points."
    elif all(gone):
        said = "There is no gain at any of these points."
    points = [((point.before, point.after), point.worth) for point in sweep.comparisons]
    blocks = [*_plots(sweep, gone), Table(columns, rows), Note(said)]
    return _document(points, blocks, sweep.parameter, sweep.values)


def _plots(sweep: Sweep, gone: Sequence[bool]) -> list[Block]:
    """Return the curves of the worth, with the ends of the gain, and of the reloads."""
    order = sorted(range(len(sweep.values)), key=lambda n: sweep.values[n])
    at = [sweep.values[n] for n in order]
    points = [sweep.comparisons[n] for n in order]
    lost = [gone[n] for n in order]
    worths = [point.worth for point in points]
    ends = [
        Point(x, worth.percent, "the gain is gone")
        for n, (x, worth) in enumerate(zip(at, worths, strict=True))
        if worth.percent is not None and lost[n] and not all(lost[max(n - 1, 0) : n + 2])
    ]
    sides = [points[0].before.policy.name, points[0].after.policy.name]
    rates = [[getattr(p, side).rate("reloads") for p in points] for side in ("before", "after")]
    x = Axis(sweep.parameter)
    return [
        Curves(
            title=f"Worth of the change over {sweep.parameter}",
            about="CPU time that the change saves for the same work; the band is the standard "
            "error. A ring marks the point where the gain ends.",
            x=x,
            y=Axis("worth", "% of CPU time"),
            at=at,
            curves=[Curve("worth", [w.percent for w in worths], [w.error for w in worths])],
            points=ends,
            reference=0.0,
        ),
        Curves(
            title=f"TR reloads over {sweep.parameter}",
            about="Reloads of the whole host per second under each policy.",
            x=x,
            y=Axis("TR reloads", "1/s"),
            at=at,
            curves=[Curve(name, own) for name, own in zip(sides, rates, strict=True)],
        ),
    ]


def _bars(results: Sequence[ScenarioResult]) -> Sequence[Block]:
    sides = [("host", r.policy.name, {c: 100 * r.share(c) for c in CAUSES}) for r in results]
    about = "The time of all CPUs by cause."
    return time_bars("Where the CPU time goes", Axis("% of CPU time"), sides, about)


def point_record(results: Sequence[ScenarioResult], worth: Worth | None = None) -> Record:
    """Return one result as a flat dict, or two with their worth: the row that CSV has."""
    return _record(_shared(results), None, _point(None, results, worth))


def _rows(results: Sequence[ScenarioResult]) -> Iterator[list[str]]:
    """Return a row per figure, with a column per result, and the change of two."""
    for cause, (_, label) in CAUSES.items():
        if any(result.cycles[cause] for result in results):
            shares = [100 * result.share(cause) for result in results]
            yield _row(label, "% of CPU time", shares, ".3f")
    for name, label in RATES.items():
        yield _row(label, "1/s", [round(result.rate(name)) for result in results], ",")
    for percent in PERCENTILES:
        costs = [result.percentile(percent) for result in results]
        yield _row(f"EXIT p{percent}", "cycles", costs, ",")
    for name in WRONG:
        yield _row(name, "count", [result.counts[name] for result in results], ",")


def _row(label: str, unit: str, values: Sequence[float | None], form: str) -> list[str]:
    known = [value for value in values if value is not None]
    cells = ["-" if value is None else f"{value:{form}}" for value in values]
    if len(values) > 1:
        change = format(known[1] - known[0], f"+{form}") if len(known) > 1 else "-"
        cells.append("0" if known and not change.strip("+-0.") else change)
    return [label, unit, *cells]


def _gain(found: Worth) -> str:
    if found.percent is None:
        return "-"
    error = "" if found.error is None else f" +- {found.error:.4f}"
    return f"{found.percent:+.4f}{error}"


def _said(found: Worth) -> str:
    if found.percent is None or found.cores is None:
        return "Worth: unknown, as no CPU did any work."
    error = "" if found.error is None else f"\xa0+-\xa0{10 * found.error:.3f}"
    return (
        f"Worth: {_gain(found)} % of CPU time for the same work, "
        f"{found.cores:+.3f}{error} cores of 1,000."
    )


def _document(
    points: Sequence[tuple[Sequence[ScenarioResult], Worth | None]],
    blocks: Sequence[Block],
    parameter: str | None = None,
    values: Sequence[float | None] = (None,),
) -> Document:
    """Return the document with its records and data, a point per value of the parameter."""
    results = points[0][0]
    first = results[0]
    shared = _shared(results)
    entries = [_point(value, *point) for value, point in zip(values, points, strict=True)]
    head = dict(schema="kvmbench.scenario/1", engine="sim", model_version=first.model_version)
    data = {**head, **shared, "parameter": parameter, "points": entries}
    records = [_record(shared, parameter, entry) for entry in entries]
    return Document(_title(results, parameter), blocks, records, data)


def _shared(results: Sequence[ScenarioResult]) -> Record:
    first = results[0]
    return dict(scenario=first.scenario.name, profile=first.profile.name, vendor=first.vendor)


def _title(results: Sequence[ScenarioResult], parameter: str | None) -> str:
    first = results[0]
    scenario = first.scenario
    facts = [
        f"{scenario.cpus} CPUs" if parameter != "cpus" else "",
        f"{scenario.n_tasks} tasks" if not (parameter or "").endswith(".count") else "",
        f"{scenario.seconds:g}\xa0s" if parameter != "seconds" else "",
        f"cost profile {first.profile.name}",
        "" if first.vendor == "vmx" else first.vendor,
        f"seed {first.seed}" if parameter != "seed" else "",
    ]
    names = " -> ".join(result.policy.name for result in results)
    return f"{names}, simulated host {scenario.name}: {', '.join(filter(None, facts))}"


def _point(value: float | None, results: Sequence[ScenarioResult], worth: Worth | None) -> Record:
    """Return the content of a `PointEntry`."""
    before, *after = results
    return {
        "value": value, "cpus": before.scenario.cpus, "seconds": before.scenario.seconds,
        "seed": before.seed, "before": _side(before), "after": _side(after[0]) if after else None,
        "worth": worth and {**worth._asdict(), "cores_per_1000": worth.cores},
    }  # fmt: skip


def _side(result: ScenarioResult) -> Record:
    """Return the content of a `SideEntry`."""
    return {
        "policy": result.policy.name,
        "share": {cause: result.share(cause) for cause in CAUSES},
        "per_second": {name: result.rate(name) for name in RATES},
        "exit_cycles": {f"p{percent}": result.percentile(percent) for percent in PERCENTILES},
        **{name: result.counts[name] for name in WRONG},
        "operations": result.operations,
    }


def _record(shared: Record, parameter: str | None, point: Record) -> Record:
    """Return a point as a flat dict."""
    record = shared | ({parameter: point["value"]} if parameter else {})
    record |= {name: point[name] for name in ("cpus", "seconds", "seed")}
    for side in ("before", "after") if point["after"] else ("before",):
        suffix = f"_{side}" if point["after"] else ""
        for key, value in point[side].items():
            flat = {key: value}
            if isinstance(value, dict):
                flat = {f"{key}_{name}": figure for name, figure in value.items()}
            record |= {f"{name}{suffix}": figure for name, figure in flat.items()}
    return record | (point["worth"] or {})
