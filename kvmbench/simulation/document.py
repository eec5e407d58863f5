"""A simulation as a document, and in the form of the patch's changelog."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from kvmbench.causes import CAUSES
from kvmbench.pictures import cause_bars
from kvmbench.report import Block, Column, Document, Heading, Note, Record, Table
from kvmbench.report.figures import count, signed
from kvmbench.report.plots import Axis

if TYPE_CHECKING:
    from kvmbench.catalog import Published
    from kvmbench.results import Result
    from kvmbench.simulation.against import Residual
    from kvmbench.simulation.simulate import Row, Simulation

__all__ = ["document"]

LIGHTWEIGHT = (
    "Rows whose exits the kernel handles itself, and rows without an exit, do not move: the "
    "kernel reloads TR in vcpu_put() only, on the way to userspace or when it schedules the "
    "vCPU's thread out."
)
INTERVAL = "The interval is that of the profile's measured costs of a reload, all low or all high."
AT_EXIT = "Lightweight exits move only because {} acts at every VM exit."
FITTED = (
    "fitted: a cost of this row was chosen to meet a published table, so the row is no evidence "
    "for the model."
)

WORKLOAD = Column("workload", "key")
SIDES = tuple(Column(name, unit="cycles") for name in ("before", "after", "change"))


def document(
    simulation: Simulation,
    *,
    explain: bool,
    published: Published | None,
    result: Result | Callable[[], Result] | None,
) -> Document:
    """Return the document of a simulation, with the options of `Simulation.document`."""
    residuals: list[Residual] = []
    if published:
        from kvmbench.simulation.against import against

        residuals = against(simulation, published)
    blocks: list[Block] = [_main(simulation.rows), *map(Note, _footnotes(simulation))]
    blocks += _bars(simulation)
    if explain:
        blocks += [Heading("Where the cycles go:"), _causes(simulation.rows)]
    if published:
        blocks += [
            Heading(f"Change as predicted, and as {published.basis} in {published.name}:"),
            _residuals(residuals, published.basis),
            Note(
                f"The residual is the part of the {published.basis} change that the model leaves "
                "over."
            ),
        ]
        if any(row.fitted for row in residuals):
            blocks.append(Note(FITTED))
    records = _records(simulation, residuals)

    def data() -> object:
        from kvmbench.results import builtins

        found = result() if callable(result) else result
        return builtins(found or simulation.result(), records)

    forms = {"kut": lambda: _kut(simulation.rows)}
    return Document(
        _title(simulation), blocks, records, data if callable(result) else data(), forms
    )


def _title(simulation: Simulation) -> str:
    before, after = (policy.name for policy in simulation.policies)
    compared = {
        "off": f"{before} -> {after}",
        "on": f"{before} -> {after}, the vCPU's thread holding an I/O bitmap",
        "both": f"{after}, the vCPU's thread without -> with an I/O bitmap",
    }[simulation.ioperm]
    vendor = "" if simulation.vendor == "vmx" else f", {simulation.vendor}"
    return (
        f"{compared}: simulated cycles/iteration, cost profile {simulation.profile.name}{vendor}, "
        f"{simulation.iterations:,} iterations"
    )


def _footnotes(simulation: Simulation) -> Iterator[str]:
    if any(row.interval for row in simulation.rows):
        yield INTERVAL
    if any(row.lightweight for row in simulation.rows):
        at_exit = " and ".join({p.name: None for p in simulation.policies if p.vm_exit})
        yield AT_EXIT.format(at_exit) if at_exit else LIGHTWEIGHT


def _main(rows: Sequence[Row]) -> Table:
    columns = [WORKLOAD, *SIDES, Column("change", unit="%"), Column("TR reloads")]
    cells: list[list[str]] = [
        [
            row.workload, count(row.before.cycles), count(row.after.cycles), signed(row.change),
            signed(None if row.percent is None else float(row.percent)),
            f"{count(row.before.reloads)} -> {count(row.after.reloads)}",
        ]
        for row in rows
    ]  # fmt: skip
    if any(row.interval for row in rows):
        columns.insert(4, Column("interval", unit="cycles"))
        for row, line in zip(rows, cells, strict=True):
            line.insert(4, "..".join(map(signed, dict.fromkeys(row.interval or ()))))
    return Table(columns, cells)


def _causes(rows: Sequence[Row]) -> Table:
    """Return a line for each cause that has cycles on either side, and their sum."""
    columns = (WORKLOAD, Column("where", "word"), *SIDES)
    cells = []
    for row in rows:
        found = {
            CAUSES[name].label: (before, row.after.segments[name])
            for name, before in row.before.segments.items()
            if before or row.after.segments[name]
        }
        if len(found) != 1:
            found["sum"] = (row.before.cycles, row.after.cycles)
        for label, (before, after) in found.items():
            cells.append((row.workload, label, count(before), count(after), signed(after - before)))
    return Table(columns, cells, grouped=True)


def _bars(simulation: Simulation) -> Sequence[Block]:
    names = [policy.name for policy in simulation.policies]
    if simulation.ioperm == "both":
        names = ["no I/O bitmap", "I/O bitmap"]
    sides = [
        (row.workload, name, cell.segments)
        for row in simulation.rows
        for name, cell in zip(names, (row.before, row.after), strict=True)
    ]
    about = "The cycles of one iteration, before and after, with their sum."
    return cause_bars(
        "The cycles of each workload by cause", Axis("cycles/iteration"), sides, about
    )


def _residuals(residuals: Sequence[Residual], basis: str) -> Table:
    figures = (Column(name, unit="cycles") for name in ("predicted", basis, "residual"))
    columns = (WORKLOAD, *figures, Column("basis", "word"))
    cells = []
    for row in residuals:
        words = map(signed, (row.predicted, row.published, row.residual))
        cells.append((row.workload, *words, "fitted" if row.fitted else ""))
    return Table(columns, cells)


def _records(simulation: Simulation, residuals: Sequence[Residual]) -> list[Record]:
    by_name = {row.workload: row for row in residuals}
    before, after = (policy.name for policy in simulation.policies)
    bitmaps = ("off", "on") if simulation.ioperm == "both" else (simulation.ioperm,) * 2
    sides = {"policy_before": before, "policy_after": after}
    sides |= {"ioperm_before": bitmaps[0], "ioperm_after": bitmaps[1]}
    records = []
    for row in simulation.rows:
        record: Record = {
            "workload": row.workload, "before": row.before.cycles, "after": row.after.cycles,
            "change": row.change, "percent": row.percent,
            "reloads_before": row.before.reloads, "reloads_after": row.after.reloads,
        } | sides  # fmt: skip
        if row.interval:
            record["change_low"], record["change_high"] = row.interval
        for side, cell in (("before", row.before), ("after", row.after)):
            record |= {f"{name}_{side}": cycles for name, cycles in cell.segments.items()}
        if found := by_name.get(row.workload):
            record |= dict(
                published_change=found.published, residual=found.residual, fitted=found.fitted
            )
        records.append(record)
    return records


def _kut(rows: Sequence[Row]) -> str:
    """Return the table in the form of the patch's changelog."""
    before = [f"{row.workload} {count(row.before.cycles)}" for row in rows]
    after = [f"{row.workload} {count(row.after.cycles)}" for row in rows]
    return "\n".join(("Before:", *before, "After:", *after)) + "\n"
