"""The result of a scenario, two policies compared on it, and a sweep of one parameter.

`Scenario.run`, `Scenario.compare` and `Scenario.sweep` return them; `kvmbench scenario` prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, sqrt
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvmbench._core import Machine
from kvmbench.errors import IncompatibleError
from kvmbench.model import MODEL_VERSION, Policy, Profile
from kvmbench.report import Document, Record, Reported
from kvmbench.scenario.document import host_document, point_record, sweep_document

if TYPE_CHECKING:
    from kvmbench.scenario.scenario import Scenario

__all__ = ["Comparison", "ScenarioResult", "Sweep", "Worth", "worth"]


@dataclass(frozen=True, slots=True, repr=False)
class ScenarioResult(Reported):
    """A host after its seconds under one policy: exact sums over its CPUs.

    `str` prints a table; `records()` is one row.
    """

    scenario: Scenario
    policy: Policy
    profile: Profile
    vendor: str
    seed: int
    cycles: dict[str, int]  # by cause, a key of CAUSES; they sum to the CPUs' clocks
    counts: dict[str, int]  # counters of docs/model.md, section 7, that count no cycles
    costs: dict[int, int]  # cycles -> number of VM exits whose EXIT takes them, rising
    useful: tuple[int, ...]  # cycles of guest and work on each CPU
    acted: tuple[int, ...]  # cycles of the policy's steps, TR and map, on each CPU
    clocks: tuple[int, ...]  # cycles of each CPU since its start
    operations: int
    machine: Machine | None = None  # at the end of the run, where `keep_machine` asks for it
    model_version: str = MODEL_VERSION

    def __repr__(self) -> str:
        name = f"{self.scenario.name} under {self.policy.name}"
        return f"<ScenarioResult {name}: {self.operations:,} operations>"

    def document(self) -> Document:
        """Return the table of the host's time and rates as a document."""
        return host_document([self])

    def record(self) -> Record:
        """Return the row of `records()`, without the work of making the table."""
        return point_record([self])

    @property
    def total(self) -> int:
        """All CPUs' clocks, in cycles."""
        return sum(self.cycles.values())

    def share(self, cause: str) -> float:
        """Return the share of CPU time of a key of CAUSES, 0 to 1."""
        return self.cycles[cause] / self.total

    def rate(self, counter: str) -> float:
        """Return a counter per simulated second, for the whole host."""
        return self.counts[counter] * self.scenario.clock_hz * self.scenario.cpus / self.total

    def percentile(self, percent: str) -> int | None:
        """Return the least cycles that `percent` of the EXITs did not exceed; None without any."""
        least = ceil(Fraction(percent) * sum(self.costs.values()) / 100)
        seen = 0
        for cost, n in self.costs.items():
            seen += n
            if seen >= least:
                return cost
        return None


class Worth(NamedTuple):
    """The worth of a change of policy to a host; None if no CPU did any work."""

    percent: float | None  # of CPU time that the same work no longer needs
    error: float | None  # standard error of `percent`; None on fewer than two CPUs

    @property
    def cores(self) -> float | None:
        """The same as cores of 1,000."""
        return None if self.percent is None else 10 * self.percent


def worth(before: ScenarioResult, after: ScenarioResult) -> Worth:
    """Return the CPU time that `after` saves of the time that the work of `before` took.

    docs/scenario.md, "The worth of a change", has the definition and its reason.
    """
    columns = (before.useful, before.acted, after.useful, after.acted)
    values = np.array([*columns, before.clocks], np.float64)

    def saved(sums: NDArray[np.float64]) -> float | None:
        useful_0, acted_0, useful_1, acted_1, clocks = sums.tolist()
        return 100 * (acted_0 - useful_0 * acted_1 / useful_1) / clocks if useful_1 else None

    sums = values.sum(axis=1)
    percent = saved(sums)
    # The jackknife: how the figure changes when each of the CPUs is left out in turn.
    found = [saved(sums - column) for column in values.T] if values.shape[1] > 1 else [None]
    without = [value for value in found if value is not None]
    n = len(without)
    if percent is None or n < len(found):
        return Worth(percent, None)
    mean = sum(without) / n
    return Worth(percent, sqrt((n - 1) / n * sum((value - mean) ** 2 for value in without)))


@dataclass(frozen=True, slots=True, repr=False)
class Comparison(Reported):
    """A scenario under two policies. It prints as `kvmbench scenario` does.

    Raises IncompatibleError for results of different scenarios, cost profiles or vendors.
    """

    before: ScenarioResult
    after: ScenarioResult

    def __post_init__(self) -> None:
        for what in ("scenario", "profile", "vendor"):
            if getattr(self.before, what) != getattr(self.after, what):
                raise IncompatibleError(f"before and after have different {what}s")

    def __repr__(self) -> str:
        percent = self.worth.percent
        worth = "unknown" if percent is None else f"{percent:+.4f} % of CPU time"
        names = f"{self.before.policy.name} -> {self.after.policy.name}"
        return f"<Comparison {names} on {self.before.scenario.name}: {worth}>"

    @property
    def worth(self) -> Worth:
        """The worth of the change to the host."""
        return worth(self.before, self.after)

    def document(self) -> Document:
        """Return the document that `kvmbench scenario` prints."""
        return host_document([self.before, self.after], self.worth)

    def record(self) -> Record:
        """Return the row of `records()`, without the work of making the table."""
        return point_record([self.before, self.after], self.worth)


@dataclass(frozen=True, slots=True, repr=False)
class Sweep(Reported):
    """Comparisons at several values of a parameter. It prints as `--vary` does."""

    parameter: str
    values: tuple[float, ...]
    comparisons: tuple[Comparison, ...]

    def __repr__(self) -> str:
        name = self.comparisons[0].before.scenario.name
        return f"<Sweep of {self.parameter} on {name}: {len(self.values)} values>"

    def document(self) -> Document:
        """Return the document that `kvmbench scenario --vary` prints."""
        return sweep_document(self)
