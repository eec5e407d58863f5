"""One result as a document: the centre of each row, how sure it is, and what its runs can detect.

`str(result)` and the command `show` use it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kvmbench import planning, stats
from kvmbench.pictures import run_marks
from kvmbench.report import Block, Column, Document, Facts, Note, Record, Table
from kvmbench.report.figures import figure, some
from kvmbench.report.plots import SHAPES
from kvmbench.stats import CONFIDENCE, POWER
from kvmbench.units import Cell, Figures, Key, Replicates, Side, listed

if TYPE_CHECKING:
    from kvmbench.results import Result

__all__ = ["document", "rows"]


def document(result: Result, label: str = "") -> Document:
    """Return where a result is from, and a line per row; `label` names a result without a name.

    Of measured rows: the median of the units (boots, or else runs), its interval between order
    statistics, the units' standard deviation, and the minimum detectable effect of a comparison of
    two such results; of exact rows the figure. The records are unrounded. Raises ResultError for a
    figure beyond 1e100.
    """
    side = Side(label, result)
    blocks, records = rows(side) if side.cells else ([], [])
    notes = [f"{some(names)}: {mark}." for mark, names in side.marks().items()]
    skipped = {name: why for _, run in result.runs() for name, why in run.skipped.items()}
    reasons = listed((why, name) for name, why in skipped.items())
    notes += [f"Skipped: {some(names)}: {why}." for why, names in reasons.items()]
    blocks = [Facts(_facts(side)), *blocks, *map(Note, notes), *_marks(side)]
    return Document("", blocks, records)


def _marks(side: Side) -> Sequence[Block]:
    if len(side.configurations) > SHAPES:
        return run_marks([side])
    return run_marks([Side(name, side.result, name) for name in side.configurations])


def rows(side: Side, names: Sequence[str] = ()) -> tuple[list[Block], list[Record]]:
    """Return the table of a side's rows, or of those named, with its note, and them unrounded."""
    replicates = Replicates(side, side)
    level = replicates.level
    records = []
    for key, cells in side.cells.items():
        figures = replicates.figures(key)[0]
        records.append(_record(key, cells[0], figures[np.isfinite(figures)]))
    _add_detectable(records, [cells[0].series.quantum or 0.0 for cells in side.cells.values()])
    if names:
        records = [record for record in records if record["workload"] in names]
    columns = [
        Column("row", "key"), Column("unit", "word"), Column(f"{level}s"), Column("median"),
        Column(f"{100 * CONFIDENCE:g} % interval"), Column("spread", unit="%"),
        Column("MDE", unit="%"),
    ]  # fmt: skip
    lines = [_cells(record) for record in records]
    if all(record["spread"] is None for record in records):
        return [Table(columns[:4], [line[:4] for line in lines])], records
    note = (
        "MDE: the minimum detectable effect of the verdict faster or slower in a comparison of "
        f"these rows with another result of as many {level}s and this spread, at "
        f"{100 * POWER:.0f} % power."
    )
    return [Table(columns, lines), Note(note)], records


def _facts(side: Side) -> list[tuple[str, str]]:
    result = side.result
    host = result.boots[0].host
    runs = [run for _, run in result.runs()]
    times = sorted(run.time for run in runs if run.time)
    lost = ", order in time lost" if result.order == "lost" else ""
    facts = {
        "result": result.name or side.label,
        "from": result.source,
        "engine": _distinct(run.engine for run in runs),
        "cost profile": _distinct(run.profile for run in runs),
        "taken": " to ".join(dict.fromkeys((*times[:1], *times[-1:]))),
        "boots, runs": f"{len(result.boots)}, {len(runs)}{lost}",
        "kernel": _distinct(boot.host.kernel for boot in result.boots),
        "CPU": host.cpu or host.facts.get("hardware"),
        "KVM": host.kvm,
    }
    found = [(name, value) for name, value in facts.items() if value]
    return [*found, *(("note", note) for note in result.notes if note.strip())]


def _distinct(values: Iterable[str | None]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))


def _record(key: Key, cell: Cell, figures: Figures) -> Record:
    series = cell.series
    record: Record = {
        "workload": key.name, "unit": series.unit, "kind": series.kind, "units": len(figures),
        "median": float(np.median(figures)) if len(figures) else None,
        "low": None, "high": None, "spread": None, "detectable": None,
    }  # fmt: skip
    if series.kind == "exact" or not len(figures):
        return record
    if interval := stats.median_interval(figures, CONFIDENCE):
        record |= {"low": interval[0], "high": interval[1]}
    if len(figures) > 1:
        record["spread"] = stats.spread(figures)
    return record


def _add_detectable(records: Sequence[Record], quanta: Sequence[float]) -> None:
    """Add to the measured rows what a comparison of all of them calls, with the default margin."""
    noisy = [
        (record, quantum)
        for record, quantum in zip(records, quanta, strict=True)
        if record["spread"] is not None and record["median"]
    ]
    if noisy:
        count = Counter(record["units"] for record, _ in noisy).most_common(1)[0][0]
        spreads = [record["spread"] / abs(record["median"]) for record, _ in noisy]
        found = planning.detectable(spreads, (count, count))
        for (record, quantum), least in zip(noisy, found, strict=True):
            if least is not None:
                size = abs(record["median"])
                beyond = max(least * size, quantum)
                record["detectable"] = max(planning.MARGIN * size, quantum) + beyond


def _cells(record: Record) -> list[str]:
    interval = "exact" if record["kind"] == "exact" else "-"
    if record["low"] is not None:
        interval = f"[{figure(record['low'])}, {figure(record['high'])}]"
    median = record["median"]
    shares = [
        f"{100 * record[name] / abs(median):.2f}" if record[name] is not None and median else "-"
        for name in ("spread", "detectable")
    ]
    centre = "-" if median is None else figure(median)
    name = record["workload"].removesuffix(f" {record['unit']}")  # of rows of several units
    return [name, record["unit"], str(record["units"]), centre, interval, *shares]
