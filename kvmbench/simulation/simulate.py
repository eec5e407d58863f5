"""Workloads under two policies, simulated: the before/after table, in exact cycles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kvmbench._core import Machine
from kvmbench.arrays import OP_DTYPE
from kvmbench.catalog import Published
from kvmbench.model import MODEL_VERSION, ExitKind, Op, Policy, Profile
from kvmbench.results import Run, Series
from kvmbench.workloads import Workload

__all__ = [
    "SEGMENTS",
    "Cell",
    "Residual",
    "Result",
    "Row",
    "against",
    "check_against",
    "missing_kinds",
    "recorded",
    "simulate",
]

SEGMENTS = {"exit": "c_exit", "user": "c_user", "host": "c_host", "tr": "c_tr", "map": "c_map"}
"""Where the cycles of an iteration go, and the counter that has them."""

IOPERM = ("off", "on", "both")
IOPERM_PORTS = (0x378, 3)  # a parallel port: what a vCPU thread with an I/O bitmap holds here
CHUNK = 1 << 16  # operations per call of the core, so that Ctrl-C and progress are prompt

Number = int | float
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload under one policy: per iteration, in the steady state.

    `cycles` and `segments` are cycles, `reloads` counts LTRs. They are integers unless the
    policy's states alternate with a period that does not divide the iterations.
    """

    cycles: Number
    reloads: Number
    segments: dict[str, Number]


@dataclass(frozen=True, slots=True)
class Row:
    """One workload, before and after."""

    workload: str
    exits: tuple[ExitKind, ...]  # of one iteration
    before: Cell
    after: Cell

    @property
    def change(self) -> Number:
        """Cycles per iteration, after less before."""
        return self.after.cycles - self.before.cycles

    @property
    def light(self) -> bool:
        """Whether no iteration ever leaves the kernel, so that the vCPU is never put."""
        return not any(kind.user for kind in self.exits)

    @property
    def percent(self) -> float | None:
        """The change in percent of before; None where before is 0."""
        return 100 * self.change / self.before.cycles if self.before.cycles else None


@dataclass(frozen=True, slots=True)
class Result:
    """What was simulated and what came out."""

    profile: Profile
    policies: tuple[Policy, Policy]  # before and after; the same twice where ioperm is both
    ioperm: str  # does the vCPU's thread hold an I/O bitmap: off, on, or both: before not, after so
    vendor: Literal["vmx", "svm"]
    iterations: int
    rows: tuple[Row, ...]
    model_version: str = MODEL_VERSION


@dataclass(frozen=True, slots=True)
class Residual:
    """One row's predicted change beside the published one, in cycles."""

    workload: str
    predicted: Number
    published: Number
    fitted: bool  # the prediction rests on a figure that was fitted to a published table

    @property
    def residual(self) -> Number:
        """Published less predicted: what the model does not explain."""
        return self.published - self.predicted


def missing_kinds(workload: Workload, profile: Profile) -> list[str]:
    """Return the exit kinds that a workload needs and a profile does not have."""
    known = {kind.name for kind in profile.kinds}
    return [name for name in workload.exits if name not in known]


def simulate(
    workloads: Iterable[Workload],
    before: Policy,
    after: Policy,
    profile: Profile,
    *,
    iterations: int = 1_000_000,
    ioperm: str = "off",
    vendor: Literal["vmx", "svm"] = "vmx",
    closed_form: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Simulate each workload twice and return the rows in order.

    `ioperm` says whether the vCPU's thread holds an I/O bitmap: `off`, `on`, or `both`, which
    compares the two under `after`. Each cell is the steady state: one warm-up iteration, then
    `iterations` (1 or more), every one stepped through the core unless `closed_form`, which
    takes workloads of one exit an iteration. `progress` is called with the workload's name and
    the share of it that is done.

    Raises ValueError for a workload whose exit kinds the profile does not have, and for one that
    has no closed form.
    """
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}, not 1 or more")
    if ioperm not in IOPERM:
        raise ValueError(f"ioperm is {ioperm!r}, not one of {', '.join(IOPERM)}")
    workloads = list(workloads)
    for workload in workloads:
        _check(workload, profile, closed_form)
    if ioperm == "both":
        columns = ((after, False), (after, True))
    else:
        columns = ((before, ioperm == "on"), (after, ioperm == "on"))
    rows = []
    for workload in workloads:
        cells = []
        for number, (policy, bitmap) in enumerate(columns):
            machine = Machine(1, 1, policy, profile, vendor)
            machine.switch(0, 0)
            if bitmap:
                machine.ioperm(0, *IOPERM_PORTS)

            def report(share: float, name: str = workload.name, done: int = number) -> None:
                if progress is not None:
                    progress(name, (done + share) / 2)

            cells.append(_cell(machine, workload, iterations, closed_form, report))
        exits = tuple(profile.kinds[profile.kind_index(name)] for name in workload.exits)
        rows.append(Row(workload.name, exits, *cells))
    return Result(
        profile=profile,
        policies=(columns[0][0], columns[1][0]),
        ioperm=ioperm,
        vendor=vendor,
        iterations=iterations,
        rows=tuple(rows),
    )


def _check(workload: Workload, profile: Profile, closed_form: bool) -> None:
    if missing := missing_kinds(workload, profile):
        names = ", ".join(repr(name) for name in missing)
        raise ValueError(
            f"workload {workload.name!r} needs exit kind {names}, "
            f"which profile {profile.name!r} does not have"
        )
    if closed_form and len(workload.exits) > 1:
        count = len(workload.exits)
        raise ValueError(
            f"workload {workload.name!r} has {count} exits an iteration: no closed form"
        )


def _cell(
    machine: Machine,
    workload: Workload,
    iterations: int,
    closed_form: bool,
    report: Callable[[float], None],
) -> Cell:
    kinds = [machine.profile.kind_index(name) for name in workload.exits]
    chunk = max(1, CHUNK // len(kinds))
    ops = np.zeros(min(iterations, chunk) * len(kinds), OP_DTYPE)
    ops["code"] = Op.EXIT
    ops["a"] = np.tile(kinds, min(iterations, chunk))
    machine.run(ops[: len(kinds)])
    start, clock = machine.counters[0], int(machine.cpu["cycles"][0])
    if closed_form:
        machine.repeat_exit(0, kinds[0], iterations)
    else:
        for done in range(0, iterations, chunk):
            todo = min(chunk, iterations - done)
            machine.run(ops[: todo * len(kinds)])
            report((done + todo) / iterations)
    end = machine.counters[0]

    def each(total: int) -> Number:
        return total // iterations if total % iterations == 0 else total / iterations

    cycles = int(machine.cpu["cycles"][0]) - clock
    spent = {name: int(end[field]) - int(start[field]) for name, field in SEGMENTS.items()}
    if sum(spent.values()) != cycles:
        raise AssertionError(f"{workload.name}: {spent} do not sum to {cycles}")
    return Cell(
        each(cycles),
        each(int(end["reloads"]) - int(start["reloads"])),
        {name: each(total) for name, total in spent.items()},
    )


def recorded(result: Result, *, time: str | None = None, command: Sequence[str] = ()) -> Run:
    """Return the simulation as a run of a result file, one series a workload and policy.

    A configuration is a policy, and `POLICY+bitmap` where the vCPU's thread holds an I/O bitmap;
    two columns that are the same one are one series. `time` is ISO 8601.
    """
    bitmaps = {"off": (False, False), "on": (True, True), "both": (False, True)}[result.ioperm]
    series = {}
    for row in result.rows:
        for policy, bitmap, cell in zip(
            result.policies, bitmaps, (row.before, row.after), strict=True
        ):
            configuration = policy.name + ("+bitmap" if bitmap else "")
            series[row.workload, configuration] = Series(
                workload=row.workload,
                configuration=configuration,
                kind="exact",
                values=[cell.cycles],
                policy=policy.name,
                reloads=cell.reloads,
                counts=dict(cell.segments),
            )
    return Run(
        time=time,
        engine="sim",
        command=list(command),
        model_version=result.model_version,
        profile=result.profile.name,
        vendor=result.vendor,
        series=list(series.values()),
    )


def check_against(published: Published, names: Iterable[str], ioperm: str) -> None:
    """Raise ValueError where `published` cannot stand beside a simulation of the workloads `names`.

    It must be about TR's reload, in cycles, a before and an after, and have one of the rows; and
    it compares kernels, so a simulation with `ioperm` both does not.
    """
    if published.change != "tr-reload":
        raise ValueError(f"{published.name!r} is about another change: {published.title}")
    if ioperm == "both":
        raise ValueError(f"{published.name!r} compares two kernels, not a thread's I/O bitmap")
    if published.unit != "cycles" or len(published.configurations) != 2:
        raise ValueError(f"{published.name!r} is not a before and an after in cycles")
    if not any(_published_change(published, name) is not None for name in names):
        raise ValueError(f"{published.name!r} has none of these workloads")


def against(result: Result, published: Published) -> list[Residual]:
    """Set the predicted changes beside the published ones, for the rows that both have.

    Raises ValueError as `check_against`.
    """
    check_against(published, (row.workload for row in result.rows), result.ioperm)
    found = []
    for row in result.rows:
        change = _published_change(published, row.workload)
        if change is not None:
            fitted = _is_fitted(row, result.profile)
            found.append(Residual(row.workload, row.change, change, fitted))
    return found


def _published_change(published: Published, name: str) -> Number | None:
    before, after = (published.value(name, column) for column in published.configurations)
    return None if before is None or after is None else after - before


def _is_fitted(row: Row, profile: Profile) -> bool:
    """Say whether the row's change rests on a fitted figure: a reload's, or a kind's overlap."""
    if row.before.segments["tr"] == row.after.segments["tr"]:
        return False
    figures = [f"kinds.{kind.name}.overlap" for kind in row.exits]
    figures += [f"costs.{name}" for name in ("gdt_write", "ltr", "mark")]
    return any(profile.origin(figure).basis == "fitted" for figure in figures)
