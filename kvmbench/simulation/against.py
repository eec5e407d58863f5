"""A simulation next to a published table: predicted changes, published ones, residuals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvmbench.errors import brief, cut

if TYPE_CHECKING:
    from kvmbench.catalog import Published
    from kvmbench.model import Profile
    from kvmbench.simulation.simulate import Number, Row, Simulation

__all__ = ["Residual", "against", "check_against"]


@dataclass(frozen=True, slots=True)
class Residual:
    """The predicted and the published change of one row, in cycles."""

    workload: str
    predicted: Number
    published: Number
    fitted: bool  # the prediction rests on a figure that was fitted to a published table

    @property
    def residual(self) -> Number:
        """Published less predicted: the part that the model does not explain."""
        return self.published - self.predicted


def check_against(published: Published, names: Iterable[str], ioperm: str) -> None:
    """Raise ValueError where `published` is not comparable with the simulated workloads `names`.

    It must compare two kernels before and after the change of TR's reload, or with `ioperm` both
    threads without and with an I/O bitmap, in cycles, and have one of the rows.
    """
    if published.change not in ("tr-reload", "io-bitmap"):
        raise ValueError(f"{brief(published.name)} is about another change: {cut(published.title)}")
    if ioperm == "both" and published.change != "io-bitmap":
        raise ValueError(f"{brief(published.name)} compares two kernels, not a thread's I/O bitmap")
    if ioperm != "both" and published.change == "io-bitmap":
        words = "compares threads without and with an I/O bitmap, as --ioperm both does"
        raise ValueError(f"{brief(published.name)} {words}")
    if published.unit != "cycles" or len(published.configurations) != 2:
        raise ValueError(f"{brief(published.name)} is not a before and an after in cycles")
    if not any(_published_change(published, name) is not None for name in names):
        raise ValueError(f"{brief(published.name)} has none of these workloads")


def against(simulation: Simulation, published: Published) -> list[Residual]:
    """Return a residual for each row that both have. Raises ValueError as `check_against`."""
    check_against(published, (row.workload for row in simulation.rows), simulation.ioperm)
    found = []
    for row in simulation.rows:
        change = _published_change(published, row.workload)
        if change is not None:
            fitted = _is_fitted(row, simulation.profile)
            found.append(Residual(row.workload, row.change, change, fitted))
    return found


def _published_change(published: Published, name: str) -> Number | None:
    before, after = (published.value(name, column) for column in published.configurations)
    return None if before is None or after is None else after - before


def _is_fitted(row: Row, profile: Profile) -> bool:
    """Return whether the row's change rests on a fitted figure: a reload's, or a kind's overlap."""
    if row.before.segments["tr"] == row.after.segments["tr"]:
        return False
    figures = [f"kinds.{kind.name}.overlap" for kind in row.exits]
    figures += [f"costs.{name}" for name in ("gdt_write", "ltr", "mark")]
    return any(profile.origin(figure).basis == "fitted" for figure in figures)
