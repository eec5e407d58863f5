"""Workloads under two policies, simulated: the before/after table, in exact cycles.

`kvmbench run` prints it; other programs call `kvmbench.simulate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from kvmbench._core import Machine
from kvmbench.arrays import OP_DTYPE, named
from kvmbench.catalog import policies, profiles
from kvmbench.causes import CAUSES, OF_EXITS, OF_USERSPACE
from kvmbench.errors import brief, listed
from kvmbench.model import MODEL_VERSION, ExitKind, Op, Operation, Policy, Profile
from kvmbench.report import Document, Reported
from kvmbench.simulation.document import document as simulation_document
from kvmbench.workloads import Workload
from kvmbench.workloads import workloads as known_workloads

if TYPE_CHECKING:
    from kvmbench.catalog import Published
    from kvmbench.results import Host, Result

__all__ = ["Cell", "Row", "Simulation", "missing_kinds", "simulate"]

IOPERM = ("off", "on", "both")
IOPERM_PORTS = (0x378, 3)  # a parallel port: what a vCPU thread with an I/O bitmap holds here
CHUNK = 1 << 16  # operations per call of the core, so that Ctrl-C and progress are prompt
BOUND_ITERATIONS = 1000  # at the ends of intervals: more show the same steady state

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
    # Of the change, in cycles, from the intervals of the profile's measured costs of TR.
    interval: tuple[Number, Number] | None = None

    @property
    def change(self) -> Number:
        """Cycles per iteration, after less before."""
        return self.after.cycles - self.before.cycles

    @property
    def lightweight(self) -> bool:
        """Whether no exit returns to userspace, so that no iteration calls vcpu_put()."""
        return not any(kind.user for kind in self.exits)

    @property
    def percent(self) -> float | None:
        """The change in percent of before; None where before is 0."""
        return 100 * self.change / self.before.cycles if self.before.cycles else None


@dataclass(frozen=True, slots=True, repr=False)
class Simulation(Reported):
    """A simulation: its inputs, and a row per workload. It prints as `kvmbench run` does."""

    profile: Profile
    policies: tuple[Policy, Policy]  # before and after; the same twice where ioperm is both
    ioperm: str  # the vCPU's thread holds an I/O bitmap: off, on, or both: only in the after
    vendor: Literal["vmx", "svm"]
    iterations: int
    rows: tuple[Row, ...]
    model_version: str = MODEL_VERSION

    def __repr__(self) -> str:
        before, after = (policy.name for policy in self.policies)
        return f"<Simulation {before} -> {after}: {len(self.rows)} rows>"

    def document(
        self, *, explain: bool = False, against: Published | None = None,
        result: Result | Callable[[], Result] | None = None,
    ) -> Document:  # fmt: skip
        """Return the document: the table, and where `explain` the causes of each row's cycles.

        `against` adds the changes that a published table has, and raises ValueError as
        `check_against`; `result` is the result that JSON gives, or makes it; `self.result()` by
        default.
        """
        return simulation_document(self, explain=explain, published=against, result=result)

    def result(
        self, *, time: str | None = None, command: Sequence[str] = (), boot: str = "",
        host: Host | None = None, tool: str = "",
    ) -> Result:  # fmt: skip
        """Return the simulation as a result of one run, one series per workload and policy.

        A configuration is a policy, and `POLICY+bitmap` where the vCPU's thread holds an I/O
        bitmap; two columns that are the same one are one series. `time` is ISO 8601.
        """
        from kvmbench.results import Boot, Host, Result, Run, Series  # msgspec: not for the table

        bitmaps = {"off": (False, False), "on": (True, True), "both": (False, True)}[self.ioperm]
        series = {}
        for row in self.rows:
            sides = zip(self.policies, bitmaps, (row.before, row.after), strict=True)
            for policy, bitmap, cell in sides:
                configuration = policy.name + ("+bitmap" if bitmap else "")
                series[row.workload, configuration] = Series(
                    workload=row.workload, configuration=configuration, kind="exact",
                    values=[cell.cycles], policy=policy.name, reloads=cell.reloads,
                    counts=dict(cell.segments),
                )  # fmt: skip
        run = Run(
            time=time, engine="sim", command=list(command), model_version=self.model_version,
            profile=self.profile.name, vendor=self.vendor, series=list(series.values()),
        )  # fmt: skip
        return Result(tool=tool, boots=[Boot(id=boot, host=host or Host(), runs=[run])])


def missing_kinds(workload: Workload, profile: Profile) -> list[str]:
    """Return the exit kinds that a workload needs and a profile does not have."""
    known = {kind.name for kind in profile.kinds}
    return [name for name in workload.exits if name not in known]


def simulate(
    workloads: Iterable[str | Workload] | None = None, before: str | Policy = "eager",
    after: str | Policy = "deferred", profile: str | Profile = "patch-2017", *,
    iterations: int = 1_000_000, ioperm: str = "off", vendor: Literal["vmx", "svm"] = "vmx",
    closed_form: bool = False, progress: Progress | None = None,
) -> Simulation:  # fmt: skip
    """Simulate each workload twice and return the rows in order.

    Workloads, policies and the cost profile are built-in names or objects; without workloads, all
    built-in ones that are loops of exits alone and that the profile has costs for. `ioperm` says
    whether the vCPU's thread holds an I/O bitmap: `off`, `on`, or `both`, which compares the two
    under `after`. Each cell is the steady state: one warm-up iteration, then `iterations` (1 or
    more), every one stepped through the core unless `closed_form`, which takes workloads of one
    exit per iteration. `progress` is called with the workload's name and the share of it that is
    done. Where the profile's costs of TR have intervals, each row's change has one, with all of
    them at their lower or upper ends.

    Raises ValueError for an unknown name, for a workload whose exit kinds the profile does not
    have, and for one that has no closed form; TypeError for other objects.
    """
    before, after = (named("policy", policy, Policy, policies) for policy in (before, after))
    profile = named("profile", profile, Profile, profiles)
    if workloads is None:
        known = known_workloads().values()
        chosen = [w for w in known if not missing_kinds(w, profile) and not w.userspace]
    else:
        chosen = [named("workload", found, Workload, known_workloads) for found in workloads]
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}, not 1 or more")
    if ioperm not in IOPERM:
        raise ValueError(f"ioperm is {brief(ioperm)}, not one of {', '.join(IOPERM)}")
    for workload in chosen:
        if missing := missing_kinds(workload, profile):
            names = listed(map(repr, missing))
            raise ValueError(
                f"workload {brief(workload.name)} needs exit kind {names}, "
                f"which profile {brief(profile.name)} does not have"
            )
        if closed_form and workload.userspace:
            name = brief(workload.name)
            raise ValueError(f"workload {name} has operations in userspace: no closed form")
        if closed_form and (exits := len(workload.exits)) > 1:
            said = f"workload {brief(workload.name)} has {exits} exits per iteration"
            raise ValueError(f"{said}: no closed form")
    columns = ((before, ioperm == "on"), (after, ioperm != "off"))
    if ioperm == "both":
        columns = ((after, False), (after, True))
    rows = []
    for workload in chosen:
        cells = []
        for number, (policy, bitmap) in enumerate(columns):
            machine = Machine(1, 1 + len(workload.others), policy, profile, vendor)
            for task, ports in enumerate(workload.others, 1):
                if ports:
                    machine.switch(0, task)
                    machine.ioperm(0, *ports)
            machine.switch(0, 0)
            if bitmap:
                machine.ioperm(0, *IOPERM_PORTS)

            def report(share: float, name: str = workload.name, done: int = number) -> None:
                if progress is not None:
                    progress(name, (done + share) / 2)

            cells.append(_cell(machine, workload, iterations, closed_form, report))
        kinds = tuple(profile.kinds[profile.kind_index(name)] for name in workload.exits)
        rows.append(Row(workload.name, kinds, cells[0], cells[1]))
    if bounds := _bounds(profile):
        fewer = min(iterations, BOUND_ITERATIONS)
        ends = [
            simulate(chosen, before, after, bound, iterations=fewer, ioperm=ioperm, vendor=vendor)
            for bound in bounds
        ]
        rows = [
            _between(row, [end.rows[number].change for end in ends])
            for number, row in enumerate(rows)
        ]
    compared = (columns[0][0], columns[1][0])
    return Simulation(profile, compared, ioperm, vendor, iterations, tuple(rows))


def _bounds(profile: Profile) -> list[Profile]:
    """Return the profile with its measured costs of TR at their lower ends, and at their upper.

    The costs of TR alone decide a change; where none has an interval, there are no bounds.
    """
    costs = {f"costs.{name}" for name in ("gdt_write", "ltr", "mark", "test")}
    ends = {
        figure: origin.interval
        for figure, origin in profile.provenance.items()
        if origin.interval and (figure in costs or figure.endswith("overlap"))
    }
    return [
        profile.with_costs({name: pair[end] for name, pair in ends.items()}, source="an interval")
        for end in ((0, 1) if ends else ())
    ]


def _between(row: Row, changes: Sequence[Number]) -> Row:
    return replace(row, interval=(min(changes), max(changes)))


def _cell(
    machine: Machine, workload: Workload, iterations: int, closed_form: bool,
    report: Callable[[float], None],
) -> Cell:  # fmt: skip
    kinds = [machine.profile.kind_index(name) for name in workload.exits]
    operations = (*(Operation(Op.EXIT, kind) for kind in kinds), *workload.userspace)
    each_has = len(operations)
    chunk = max(1, CHUNK // each_has)
    iteration = np.array([operation.row() for operation in operations], OP_DTYPE)
    ops = np.tile(iteration, min(iterations, chunk))
    machine.run(ops[:each_has])
    start, clock = machine.counters[0], int(machine.cpu["cycles"][0])
    if closed_form:
        machine.repeat_exit(0, kinds[0], iterations)
    else:
        for done in range(0, iterations, chunk):
            todo = min(chunk, iterations - done)
            machine.run(ops[: todo * each_has])
            report((done + todo) / iterations)
    end = machine.counters[0]

    def each(total: int) -> Number:
        return total // iterations if total % iterations == 0 else total / iterations

    def more(counter: str) -> int:
        return int(end[counter]) - int(start[counter])

    cycles = int(machine.cpu["cycles"][0]) - clock
    causes = (*OF_EXITS, *OF_USERSPACE) if workload.userspace else OF_EXITS
    spent = {name: more(CAUSES[name].counter) for name in causes}
    if sum(spent.values()) != cycles:
        raise AssertionError(f"{workload.name}: {spent} do not sum to {cycles}")
    segments = {name: each(total) for name, total in spent.items()}
    return Cell(each(cycles), each(more("reloads")), segments)
