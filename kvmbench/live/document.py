"""What was measured on /dev/kvm, as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins

from kvmbench.live.engine import BITMAP, CONTROL, NO_BITMAP
from kvmbench.report.plain import Table, fact, fill, markdown, text
from kvmbench.results import Result, Series
from kvmbench.stats import median_interval, pseudo_median, signed_rank_interval

if TYPE_CHECKING:
    from kvmbench.live.fitness import Finding
    from kvmbench.live.io_check import IoCheck
    from kvmbench.results import Host

__all__ = [
    "LIVE_FORMATS",
    "Cost",
    "LiveRow",
    "costs",
    "live_rows",
    "render_io_check",
    "render_live",
]

LIVE_FORMATS = ("text", "markdown", "csv", "json")
EMPTY = {0: "empty", 3: "empty_cpl3"}
MARKED = 0.5  # an iteration, from which a count is a mark
NONE = 0.05  # exits an iteration, up to which there are none


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRow:
    """One workload under one configuration; cycles of the TSC, an iteration."""

    workload: str
    configuration: str
    runs: int
    median: float  # of the runs' medians
    interval: tuple[float, float] | None  # of it, at 95 %; None for fewer than six runs
    net: float | None  # of the empty loop at the same CPL; None where that was not measured
    exits: float | None  # an iteration, as KVM counted them; None where it does not count
    marks: tuple[str, ...]


def live_rows(result: Result) -> list[LiveRow]:
    """Return a row for each workload and configuration, in the order of the file."""
    found: dict[tuple[str, str], list[Series]] = {}
    for _, _, series in result.series():
        found.setdefault((series.workload, series.configuration), []).append(series)
    medians = {key: [median(s.values) for s in listed] for key, listed in found.items()}
    rows = []
    for (workload, configuration), listed in found.items():
        own = medians[workload, configuration]
        cpl = int(listed[0].counts.get("cpl", 0))
        empty = medians.get((EMPTY.get(cpl, ""), configuration))
        is_empty = workload in EMPTY.values()
        exits = _mean(listed, "exits")
        rows.append(
            LiveRow(
                workload=workload,
                configuration=configuration,
                runs=len(own),
                median=median(own),
                interval=median_interval(own),
                net=None
                if empty is None or is_empty or workload == CONTROL
                else median(own) - median(empty),
                exits=exits,
                marks=tuple(_marks(listed, exits, is_empty)),
            )
        )
    return rows


def _mean(listed: list[Series], name: str) -> float | None:
    """Return the mean of a count over the runs; None where no run has counters of KVM."""
    if not any("exits" in series.counts for series in listed):
        return None
    return fmean(series.counts.get(name, 0) for series in listed)


def _marks(listed: list[Series], exits: float | None, is_empty: bool) -> list[str]:
    """Return what a reader must know of a row, in the words of LEGEND or of the file."""
    marks = []
    if exits is not None and exits <= NONE and not is_empty:
        marks.append(NO_EXIT)
    emulated = _mean(listed, "insn_emulation")
    if emulated is not None and emulated >= MARKED:
        marks.append(EMULATED)
    return marks + list(dict.fromkeys(mark for series in listed for mark in series.marks))


NO_EXIT = "KVM counted no exit"
EMULATED = "KVM emulated instructions of the loop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What holding an I/O bitmap costs a workload, cycles an iteration; medians of paired runs."""

    workload: str
    without: float
    with_bitmap: float
    cost: float  # pseudo-median of the pairs' differences
    interval: tuple[float, float] | None  # of `cost`, at 95 %; None for fewer than six pairs
    net: float | None  # of the control, for each return to userspace; None for the control
    net_interval: tuple[float, float] | None


def costs(result: Result) -> list[Cost]:
    """Return a row for each workload that was measured with and without an I/O bitmap.

    The runs are taken in pairs, in the order of time: a run without and the run with a bitmap
    beside it.
    """
    sides = [_by_run(result, name) for name in (NO_BITMAP, BITMAP)]
    controls = _differences(sides, CONTROL)
    rows = []
    for workload in dict.fromkeys(name for run in sides[0] for name in run):
        differences = _differences(sides, workload)
        if not differences:
            continue
        first, second = ([run[workload] for run in side if workload in run] for side in sides)
        net = None
        if workload != CONTROL and len(controls) == len(differences):
            returns = fmean(series.counts.get("answered", 0) for series in first)
            net = [d - returns * c for d, c in zip(differences, controls, strict=True)]
        rows.append(
            Cost(
                workload=workload,
                without=median(median(s.values) for s in first),
                with_bitmap=median(median(s.values) for s in second),
                cost=pseudo_median(differences),
                interval=signed_rank_interval(differences),
                net=pseudo_median(net) if net else None,
                net_interval=signed_rank_interval(net) if net else None,
            )
        )
    return rows


def _by_run(result: Result, configuration: str) -> list[dict[str, Series]]:
    """Return the series of each run of a configuration by workload."""
    runs = ([s for s in run.series if s.configuration == configuration] for _, run in result.runs())
    return [{series.workload: series for series in listed} for listed in runs if listed]


def _differences(sides: list[list[dict[str, Series]]], workload: str) -> list[float]:
    """Return bitmap less no bitmap, for each pair of runs that both have the workload."""
    return [
        median(after[workload].values) - median(before[workload].values)
        for before, after in zip(*sides, strict=False)
        if workload in before and workload in after
    ]


def render_live(result: Result, form: str) -> str:
    """Return what was measured in one of LIVE_FORMATS, with a newline at its end."""
    rows = live_rows(result)
    compared = costs(result)
    if form == "json":
        return json.dumps(_document(result, rows, compared), indent=2) + "\n"
    if form == "csv":
        return _csv(rows)
    write = markdown if form == "markdown" else _text
    parts = [fill(_title(result), WIDTH)]
    if compared:
        parts += [write(_cost_table(compared)), fill(COST, WIDTH)]
    else:
        table, legend = _table(rows)
        parts.append(write(table))
        if legend:
            parts.append("".join(fill(line, WIDTH, "  ") for line in legend))
    if skipped := _skipped(result):
        parts.append("Not measured:\n" + "".join(_hanging(*entry) for entry in skipped.items()))
    parts += [fill(note, WIDTH) for note in result.notes]
    return "\n".join(parts)


WIDTH = 80
COST = (
    "cost: what a thread that holds an I/O bitmap pays more, at each put of the vCPU and at each "
    "return to userspace. It is not the cost of LTR: since Linux 4.12 the reload has two LGDTs "
    "around it, and since 5.5 each return to userspace of such a thread updates the bitmap. net: "
    "less what the control, a bare system call, pays more, for each return to userspace."
)


def _text(table: Table) -> str:
    return text(table, WIDTH)


def _title(result: Result) -> str:
    runs = [run for _, run in result.runs()]
    rounds = [len(series.values) for run in runs for series in run.series]
    low, high = min(rounds), max(rounds)
    each = f"{low} to {high} rounds" if low != high else _number(low, "round")
    sides = set(result.configurations()) >= {NO_BITMAP, BITMAP}
    taken = f"{_number(len(runs) // 2, 'run')} a side" if sides else _number(len(runs), "run")
    kernel = result.boots[0].host.kernel or "?"
    return (
        f"/dev/kvm on {kernel}: cycles of the TSC an iteration, median of {taken} of {each}, "
        "interval at 95 %"
    )


def _number(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _figure(cycles: float | None) -> str:
    """Return whole cycles from 100 on, else tenths."""
    if cycles is None:
        return "-"
    return f"{cycles:.0f}" if abs(cycles) >= 100 else f"{cycles:.1f}"


def _range(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{_figure(interval[0])}..{_figure(interval[1])}"


def _table(rows: list[LiveRow]) -> tuple[Table, list[str]]:
    """Return the table and what its letters mean."""
    letters: dict[str, str] = {}
    cells = []
    for row in rows:
        for mark in row.marks:
            letters.setdefault(mark, chr(ord("a") + len(letters)))
        cells.append(
            (
                row.workload,
                "".join(sorted(letters[mark] for mark in row.marks)),
                _figure(row.median),
                _range(row.interval),
                _figure(row.net),
                "-" if row.exits is None else f"{row.exits:.2f}",
            )
        )
    headings = ("workload", "", "cycles", "interval", "net", "exits")
    legend = [f"{letter}: {mark}" for mark, letter in letters.items()]
    if any(row.net is not None for row in rows):
        legend.append("net: less the empty loop at the same CPL")
    return Table(headings, cells, names=2), legend


def _cost_table(compared: list[Cost]) -> Table:
    cells = [
        (
            cost.workload,
            _figure(cost.without),
            _figure(cost.with_bitmap),
            _figure(cost.cost),
            _range(cost.interval),
            _figure(cost.net),
            _range(cost.net_interval),
        )
        for cost in compared
    ]
    headings = ("workload", "no bitmap", "bitmap", "cost", "interval", "net", "interval")
    return Table(headings, cells)


def _skipped(result: Result) -> dict[str, str]:
    """Return the workloads that no run measured, with the reason of the last one."""
    measured = set(result.workloads())
    return {
        name: why
        for _, run in result.runs()
        for name, why in run.skipped.items()
        if name not in measured
    }


def _hanging(name: str, words: str) -> str:
    return (
        textwrap.fill(f"{name}: {words}", WIDTH, initial_indent="  ", subsequent_indent="      ")
        + "\n"
    )


def render_io_check(found: IoCheck) -> str:
    """Return what a check of the port check came to, with a newline at its end."""
    denied = found.agreeing - found.allowed
    parts = [
        fill(f"{found.cases:,} accesses at CPL 3, decided by {found.judge}.", WIDTH),
        fill(
            f"{found.agreeing:,} as port_check says: {found.allowed:,} allowed, {denied:,} denied.",
            WIDTH,
        ),
    ]
    if found.apart:
        words = (
            f"In {found.apart:,} the first of the two bytes that the SDM wants is the last inside "
            "TR's limit. "
        )
        if found.apart_allowed:
            words += (
                f"{found.apart_allowed:,} of them were allowed, which port_check and the SDM deny: "
                "KVM's instruction emulator wants only the first byte inside the limit "
                "(emulator_io_port_access_allowed). They are counted apart, as neither."
            )
        else:
            words += "All of them were denied, as the SDM has it."
        parts.append(fill(words, WIDTH))
    if found.disagreeing:
        lines = "".join(fill(str(one), WIDTH, "  ") for one in found.disagreements)
        shown = len(found.disagreements)
        first = f", the first {shown}" if shown < found.disagreeing else ""
        parts.append(f"{found.disagreeing:,} decided otherwise{first}:\n{lines}")
    else:
        parts.append("None was decided otherwise.\n")
    return "".join(parts)


def render_host(facts: Host, found: Sequence[Finding], form: str) -> str:
    """Return the host's facts and what they mean for a figure, as text or json."""
    if form == "json":
        document = {"findings": [asdict(one) for one in found], "host": to_builtins(facts)}
        return json.dumps(document, indent=2) + "\n"
    cpu = ", microcode ".join(filter(None, (facts.cpu, facts.microcode)))
    lines = [fact("kernel", " ".join(filter(None, (facts.kernel, facts.build))), 14)]
    lines += [fact("CPU", cpu, 14), "\n"]
    for one in found:
        words = [one.value, *filter(None, (one.effect,))]
        lines.append(fact(f"{SIGNS[one.level]} {one.name}", ": ".join(words), 24))
        if one.remedy:
            lines.append(f"{'':24}-> {one.remedy}\n")  # whole, to be copied
    minded = sum(one.level == "mind" for one in found)
    bad = [one for one in found if one.level == "bad"]
    closing = (
        "Nothing can be measured here."
        if bad
        else f"Can be measured on; {_number(minded, 'thing')} to mind, marked ?."
        if minded
        else "Fit to measure on."
    )
    return "".join(lines) + "\n" + closing + "\n"


SIGNS = {"good": " ", "mind": "?", "bad": "!"}


def _document(result: Result, rows: list[LiveRow], compared: list[Cost]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "engine": "kvm",
        "unit": "cycles",
        "kernel": result.boots[0].host.kernel,
        "notes": result.notes,
        "skipped": _skipped(result),
        "rows": [asdict(row) for row in rows],
    }
    if compared:
        document["cost_of_bitmap"] = [asdict(cost) for cost in compared]
    return document


def _csv(rows: list[LiveRow]) -> str:
    out = io.StringIO()
    names = ("workload", "configuration", "runs", "median", "low", "high", "net", "exits", "marks")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        low, high = row.interval or ("", "")
        net, exits = ("" if v is None else v for v in (row.net, row.exits))
        marks = "; ".join(row.marks)
        writer.writerow(
            (row.workload, row.configuration, row.runs, row.median, low, high, net, exits, marks)
        )
    return out.getvalue()
