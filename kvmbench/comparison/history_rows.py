"""The parts of a history, as its text, its JSON and its gate have them."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from kvmbench.results import Number

__all__ = ["LEAST", "Point", "Row", "Step"]

LEAST = 14  # results, of fewer no step has p below steps.LEVEL


class Point(Struct, frozen=True, kw_only=True):
    """One result of the history."""

    name: str  # of its file, or the label by which the history is in order
    time: str | None  # ISO 8601, of its first run
    labels: dict[str, str]  # that all its boots share


class Step(Struct, frozen=True, kw_only=True):
    """A change of a row's level, at the first result with the new one."""

    at: int  # index of that result among the points
    first: int  # the 95 % interval of `at`
    last: int
    before: Number  # median of the results since the step before this one
    after: Number  # median of the results until the next step
    shift: Number  # after less before: Hodges and Lehmann's of noisy figures
    interval: tuple[float, float] | None  # of the shift, at 95 %; None of exact figures
    percent: float | None  # the shift in percent of before
    verdict: Literal["faster", "slower", "changed"]  # changed: exact figures
    changed: list[str]  # facts of the host or of the model that changed with it


class Row(Struct, frozen=True, kw_only=True):
    """One row of the history, and of its JSON."""

    name: str  # `workload/configuration/group`, each where there are several
    unit: str
    kind: Literal["exact", "noisy"]
    better: Literal["lower", "higher"]
    values: list[Number | None]  # one per point: the median of its boots or runs
    steps: list[Step]
    spread: float | None  # standard deviation of the results about their levels
    autocorrelation: float  # lag 1, of the results about their levels
    doubt: bool  # neighbouring results depend on each other, so steps may be none
    varies: bool  # an exact figure that differs between the runs of one result

    @property
    def known(self) -> list[int]:
        """The points with a figure of this row."""
        return [at for at, value in enumerate(self.values) if value is not None]

    def level(self, low: int, high: int) -> list[Number]:
        """Return the figures of the points from `low` to before `high`."""
        return [value for value in self.values[low:high] if value is not None]

    def worse(self, shift: Number) -> Number:
        """Return a shift, positive where it is for the worse."""
        return shift if self.better == "lower" else -shift
