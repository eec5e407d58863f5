"""A cost profile from measured rows: the prices of a CPU's VM exits and of its reload of TR.

`kvmbench profile new` writes it; `kvmbench run --profile` simulates with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from statistics import fmean, median
from typing import NamedTuple

from kvmbench.catalog import profiles
from kvmbench.errors import ResultError, brief
from kvmbench.live.document import COST, EMPTY, costs
from kvmbench.live.engine import BITMAP, CONTROL, LEFT, NO_BITMAP
from kvmbench.model import ExitKind, Profile, Provenance
from kvmbench.report import Block, Column, Document, Heading, Items, Note, Table
from kvmbench.report.figures import count, plural
from kvmbench.results import Result, Series
from kvmbench.stats import median_interval
from kvmbench.workloads import OVERLAPS, Workload, workloads

__all__ = ["Costing", "costing"]

BASE = "patch-2017"  # the profile whose figures stand in for those that no row gives
TR_ROWS = ("gdt_write", "ltr")
WITHIN = 0.05  # exits and returns per iteration that are an integer within this count as it
REMEDY = "kvmbench measure empty gdt_write ltr wrmsr_gs_then_ltr wr_kernel_gs_base '*work*' cpuid"


class Figure(NamedTuple):
    """A measured cost, in cycles: the median over the runs and its 95 % interval."""

    value: float
    interval: tuple[float, float] | None  # None for fewer than six runs
    runs: int

    @property
    def cost(self) -> int:
        return max(0, round(self.value))

    @property
    def ends(self) -> tuple[int, int] | None:
        """The interval in whole cycles, outwards, around `cost`."""
        if self.interval is None:
            return None
        low, high = self.interval
        return min(max(0, floor(low)), self.cost), max(ceil(high), self.cost)


@dataclass(frozen=True, slots=True)
class Costing:
    """A measured cost profile, and the facts that it leaves out or assumes."""

    profile: Profile
    place: str  # where and when its rows were measured: the end of each measured figure's source
    left_out: Mapping[str, str]  # measured row -> why it is no exit kind of the profile
    remarks: tuple[str, ...]

    def document(self) -> Document:
        """Return each measured figure with its interval and source, and the assumed ones."""
        measured, assumed = [], dict[str, list[str]]()
        for figure, value in self.profile.figures().items():
            origin = self.profile.origin(figure)
            if origin.basis == "measured":
                ends = origin.interval
                interval = "-" if ends is None else f"{count(ends[0])}..{count(ends[1])}"
                words = origin.source.removesuffix(self.place)
                measured.append((figure, count(value), interval, words))
            else:
                words = f"{count(value)}: {origin.source}" if value else origin.source
                assumed.setdefault(words, []).append(figure)
        figures = [Column(name, unit="cycles") for name in ("cost", "95 % interval")]
        columns = [Column("figure", "key"), *figures, Column("source", "word")]
        blocks: list[Block] = [Table(columns, measured)]
        blocks += [Note(f"The rows were measured{self.place}.")] if self.place else []
        blocks += [Heading("Assumed, because no measurement here tells them from the others:")]
        blocks += [Items([f"{', '.join(names)}: {words}" for words, names in assumed.items()])]
        if self.left_out:
            blocks += [Heading("Rows that are no exit kind of the profile:")]
            blocks += [Items([f"{name}: {why}" for name, why in self.left_out.items()])]
        blocks += map(Note, self.remarks)
        records = [
            {"figure": figure, "cycles": value, "basis": self.profile.origin(figure).basis}
            for figure, value in self.profile.figures().items()
        ]
        return Document(f"Cost profile {self.profile.name}", blocks, records)


class _Rows:
    """The rows of one configuration: a median per run, so that differences pair by run."""

    def __init__(self, result: Result, configuration: str) -> None:
        self.series: dict[str, list[Series]] = {}
        self.medians: list[dict[str, float]] = []
        for _, run in result.runs():
            own = {
                series.workload: series
                for series in run.series
                if series.configuration == configuration and series.values and _is_time(series)
            }
            if own:
                self.medians.append({name: median(s.values) for name, s in own.items()})
            for name, series in own.items():
                self.series.setdefault(name, []).append(series)

    def count(self, name: str, *counters: str) -> float | None:
        """Return the mean of the first counter that the row has; None where it has none."""
        for counter in counters:
            found = [s.counts[counter] for s in self.series[name] if counter in s.counts]
            if found:
                return fmean(found)
        return None

    def figure(self, plus: Sequence[str], minus: Sequence[str]) -> Figure | None:
        """Return rows less other rows, of the runs that have them all; None without such a run."""
        values = [
            sum(run[name] for name in plus) - sum(run[name] for name in minus)
            for run in self.medians
            if all(name in run for name in (*plus, *minus))
        ]
        if not values:
            return None
        return Figure(median(values), median_interval(values), len(values))


def _is_time(series: Series) -> bool:
    return series.unit in ("cycles", "instructions") and ":" not in series.workload


def costing(result: Result, name: str, configuration: str | None = None) -> Costing:
    """Return the cost profile `name` that the rows of a measured result give.

    The result needs the rows `empty`, `gdt_write` and `ltr`, measured where the CPU executes the
    guest's CPL 0 itself. Every other row at CPL 0 that makes no or one exit per iteration becomes
    an exit kind. `configuration` names those of a result that has several; of the two of `--ioperm
    both` the one without a bitmap counts.

    A row that returns to userspace has its kernel part assumed as that of `inl_from_kernel`, and
    host_save, host_restore and the costs without a row as in the profile `patch-2017`.

    Raises ResultError where a row is missing, LTR left the guest or was emulated, or the kernel
    is one whose exits hold a reload; ValueError for a name that no profile can have.
    """
    known = result.configurations()
    if configuration is None:
        configuration = NO_BITMAP if BITMAP in known else "".join(known[:1])
        if len(known) > 1 and configuration != NO_BITMAP:
            names = ", ".join(map(brief, known))
            raise ResultError(f"several configurations: name one, as in RESULT#{known[0]}: {names}")
    rows = _Rows(result, configuration)
    _check(result, rows)
    figures: dict[str, int] = {}
    origins: dict[str, Provenance] = {}
    place = _place(result)
    base = profiles()[BASE]
    left_out: dict[str, str] = {}

    def state(path: str, figure: Figure, words: str) -> int:
        source = f"{words}; median of {plural(figure.runs, 'run')}{place}"
        origins[path] = Provenance("measured", source, figure.ends)
        figures[path] = figure.cost
        return figure.cost

    gdt_write = rows.figure(["gdt_write"], ["empty"])
    ltr = rows.figure(["ltr"], ["gdt_write"])
    assert gdt_write
    assert ltr
    state("costs.gdt_write", gdt_write, "gdt_write less empty")
    state("costs.ltr", ltr, "ltr less gdt_write")
    overlap, remarks = _overlap(rows)
    kinds = []
    for workload in rows.series:
        kind = _kind(workload, rows, base, left_out)
        if kind is None:
            continue
        net = rows.figure([workload], ["empty"])
        assert net
        path = f"kinds.{workload}"
        if kind.user:
            kind = _to_user(kind, net, rows, base, left_out)
            if kind is None:
                continue
            words = f"{workload} less empty and the assumed parts of its way to userspace"
            spare = net.cost - kind.user_cycles
            rest = Figure(kind.user_cycles, _less(net.interval, spare), net.runs)
            state(f"{path}.user_cycles", rest, words)
            if overlap is not None:
                figure, words = overlap
                kind = replace(kind, overlap=state(f"{path}.overlap", figure, words))
        else:
            kind = replace(kind, cycles=state(f"{path}.cycles", net, f"{workload} less empty"))
        kinds.append(kind)
    if "kinds.cpuid.cycles" in figures:
        figures["costs.irq_exit"] = figures["kinds.cpuid.cycles"]
        origins["costs.irq_exit"] = Provenance("assumed", "an exit that the kernel handles: cpuid")
    of_costs = {p.removeprefix("costs."): n for p, n in figures.items() if p.startswith("costs.")}
    profile = Profile(
        name, replace(base.costs, **of_costs), tuple(kinds),
        tsc_hz=_hz(result) or None, about=f"measured{place}",
    )  # fmt: skip
    for path in profile.figures():
        if path not in origins:
            origins[path] = _assumed(path, profile, base)
    remarks += _bitmap(result, profile)
    if "instructions" in {s.unit for listed in rows.series.values() for s in listed}:
        remarks.append("These figures are instructions, not cycles: they test the way, no CPU.")
    return Costing(replace(profile, provenance=origins), place, left_out, tuple(remarks))


def _check(result: Result, rows: _Rows) -> None:
    """Raise ResultError where the rows are no prices of this CPU."""
    if missing := [name for name in (EMPTY[0], *TR_ROWS) if name not in rows.series]:
        raise ResultError(f"no row {missing[0]}: measure it: {REMEDY}")
    for name in TR_ROWS:
        if any(LEFT in series.marks for series in rows.series[name]):
            raise ResultError(
                f"row {name} left the guest or was emulated (KVM here is "
                f"{result.boots[0].host.kvm or 'unknown'}): it is no price of LTR. Measure where "
                "the CPU executes the guest's CPL 0 itself: kvm_intel or kvm_amd, without "
                "descriptor-table exiting"
            )
    for boot in result.boots:
        release = re.match(r"(\d+)\.(\d+)", boot.host.kernel or "")
        svm = boot.host.kvm == "kvm_amd" or any(run.vendor == "svm" for run in boot.runs)
        if release and (int(release[1]), int(release[2])) < ((6, 5) if svm else (4, 11)):
            limit = "6.5 each exit on SVM" if svm else "4.11 each vcpu_put()"
            raise ResultError(f"{boot.host.kernel}: before Linux {limit} reloads TR: measure later")


def _kind(workload: str, rows: _Rows, base: Profile, left_out: dict[str, str]) -> ExitKind | None:
    """Return the exit kind of a row, still without its cycles; None where it is none."""
    known = workloads().get(workload)
    own = {*TR_ROWS, *EMPTY.values(), CONTROL}
    if workload in own or (known is not None and known.native):
        return None  # a price of the reload, or a yardstick
    why = _unfit(known, rows.series[workload])
    exits = rows.count(workload, "exits")
    returns = rows.count(workload, "answered", "returns_to_user") or 0.0
    if not why and exits is None:
        declared = next((kind for kind in base.kinds if kind.name == workload), None)
        if declared is not None:
            return declared
        why = "this KVM has no counters, so its exits are unknown"
    if not why and exits is not None:
        if min(abs(exits), abs(exits - 1)) > WITHIN:
            why = f"it makes {exits:.2f} exits per iteration, not one"
        elif min(abs(returns), abs(returns - 1)) > WITHIN:
            why = f"it returns to userspace {returns:.2f} times per iteration, not once"
    if why:
        left_out[workload] = why
        return None
    exited = bool(exits and exits > 0.5)
    return ExitKind(workload, 0, exits=exited, user=exited and returns > 0.5)


def _unfit(known: Workload | None, listed: Sequence[Series]) -> str:
    if known is not None and known.waits_for_interrupt:
        return "its figure holds an interrupt"
    if known is not None and "second_cpu" in known.needs:
        return "its figure holds a second vCPU"
    if any(series.counts.get("cpl") for series in listed):
        return "it runs at CPL 3"
    return ""


def _to_user(
    kind: ExitKind, net: Figure, rows: _Rows, base: Profile, left_out: dict[str, str]
) -> ExitKind | None:
    """Return a kind that returns to userspace: vcpu_put() marks TR stale, the rest is its own."""
    put = base.costs.host_save + base.costs.host_restore + base.costs.mark
    inside = rows.figure(["inl_from_kernel"], ["empty"])
    room = net.cost - put
    if room < 0:
        left_out[kind.name] = (
            f"its {count(net.cost)} cycles are fewer than the {count(put)} assumed for vcpu_put() "
            "and the next entry"
        )
        return None
    cycles = min(room, inside.cost if inside else 0)
    return replace(kind, cycles=cycles, user_cycles=room - cycles)


def _less(interval: tuple[float, float] | None, cycles: int) -> tuple[float, float] | None:
    return None if interval is None else (interval[0] - cycles, interval[1] - cycles)


def _overlap(rows: _Rows) -> tuple[tuple[Figure, str] | None, list[str]]:
    """Return the overlap that vcpu_put() exposes, with its source, and remarks on overlaps."""
    remarks = []
    waited = rows.figure(["wrmsr_gs_then_ltr", "empty"], ["wr_kernel_gs_base", "ltr"])
    found = None
    if waited is not None:
        words = "wrmsr_gs_then_ltr less wr_kernel_gs_base and the reload alone"
        found = waited, words
        if waited.value < 0:
            remarks.append(
                f"In front of a WRMSR, as in vcpu_put(), the reload costs {-waited.value:.0f} "
                "cycles less than alone: the predicted savings are too large by as much."
            )
    for cycles in reversed(OVERLAPS):
        after = rows.figure([f"ltr_after_work_{cycles}", "empty"], [f"work_{cycles}", "ltr"])
        if after is not None:
            remarks.append(
                f"LTR waited for {max(after.value, 0):.0f} of {cycles} cycles of independent work "
                "in front of it. costs.switch_overlap is that of a switch, which no row measures."
            )
            break
    return found, remarks


def _assumed(path: str, profile: Profile, base: Profile) -> Provenance:
    """Return the origin of a figure without a measured row."""
    record, _, entry = path.rpartition(".")
    if record == "costs":
        origin = base.origin(path)
        return Provenance("assumed", f"as in {BASE}: {origin.source}")
    kind = profile.kinds[profile.kind_index(record.removeprefix("kinds."))]
    if entry == "overlap":
        why = "0: no row measured what LTR waits for"
        return Provenance("assumed", why if kind.user else "0: vcpu_put() does not follow")
    if entry == "user_cycles":
        return Provenance("assumed", "0: it does not return to userspace")
    return Provenance("assumed", "the kernel's part costs what inl_from_kernel costs, at most")


def _bitmap(result: Result, profile: Profile) -> list[str]:
    """Return the remark on the measured cost of an I/O bitmap; none without `--ioperm both`."""
    if BITMAP not in result.configurations():
        return []
    user = {kind.name for kind in profile.kinds if kind.user}
    found = [
        f"{row.workload} {row.cost:.0f}"
        + (f" ({row.interval[0]:.0f}..{row.interval[1]:.0f})" if row.interval else "")
        for row in costs(result)
        if row.workload in user
    ]
    words = "Measured extra cycles of a thread that holds an I/O bitmap: "
    return [words + ", ".join(found) + ". " + COST.partition(". ")[2]] if found else []


def _place(result: Result) -> str:
    """Return where and when the rows were measured, as the end of a sentence."""
    boot = result.boots[0]
    times = [run.time for _, run in result.runs() if run.time]
    emulated = any(run.engine == "lab" for _, run in result.runs())
    cpu = f"an emulated {boot.host.cpu}, in instructions" if emulated else boot.host.cpu
    facts = [cpu, f"Linux {boot.host.kernel}" if boot.host.kernel else None]
    facts += [min(times)[:10] if times else None]
    known = ", ".join(fact for fact in facts if fact)
    return f" on {known}" if known else ""


def _hz(result: Result) -> int:
    found = {boot.host.tsc_hz for boot in result.boots if boot.host.tsc_hz}
    return found.pop() if len(found) == 1 else 0
