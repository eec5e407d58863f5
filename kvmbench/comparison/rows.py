"""Rows of a comparison, with their verdicts, as the text, the JSON and the gates have them."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import Literal

from msgspec import Struct

from kvmbench.errors import brief

__all__ = ["CLAIMS", "VERDICTS", "Margin", "Row"]

CLAIMS = {  # of noisy figures, with the line that the help has
    "faster": "better by more than the margin",
    "slightly faster": "better, but not surely by more than the margin",
    "slightly slower": "worse, but not surely by more than the margin",
    "slower": "worse by more than the margin",
    "within margin": "the whole interval is inside the margin, and 0 is not excluded",
}
VERDICTS = (
    *("slower", "slightly slower", "faster", "slightly faster", "within margin"),
    "inconclusive",  # of noisy figures
    *("changed", "unchanged"),  # of exact ones
    "no-verdict",  # of noisy figures with one unit on one side
)


@dataclass(frozen=True, slots=True)
class Margin:
    """The largest shift that does not matter: a share of before, or in the row's unit.

    Raises ValueError for text that is neither `1%` nor `20`, and for what is negative.
    """

    value: float
    relative: bool = True

    @classmethod
    def parse(cls, text: str) -> Margin:
        """Return the margin that `1%` or `20` says."""
        number = text.strip().removesuffix("%")
        try:
            value = float(number)
        except ValueError:
            value = nan
        if not 0 <= value < float("inf"):
            raise ValueError(f"{brief(text)} is neither a share such as 1% nor a number such as 20")
        return cls(value / 100, True) if text.strip().endswith("%") else cls(value, False)

    def of(self, centre: float) -> float:
        """Return the margin in the unit of a row whose centre before is `centre`."""
        return self.value * abs(centre) if self.relative else self.value

    def __str__(self) -> str:
        return f"{100 * self.value:g} %" if self.relative else f"{self.value:g}"


NAMES = {"from_": "from", "p": "p_adjusted", "p_zero": "p_adjusted_of_zero"}


class Row(Struct, frozen=True, kw_only=True, rename=NAMES):
    """One row of a comparison, and of its JSON. Figures are in `unit`, per iteration."""

    workload: str  # `workload/configuration` where the sides have several
    unit: str
    kind: Literal["exact", "noisy"]
    better: Literal["lower", "higher"]
    from_: str  # the labels of the sides
    to: str
    before: int | float | None  # centre: the median of the units; None where the side has no row
    after: int | float | None
    shift: int | float | None = None  # after less before: Hodges-Lehmann's, or the pseudo-median
    interval: tuple[float, float] | None = None  # of the shift; None where the units are too few
    percent: float | None = None  # the shift in percent of before, where that has a meaning
    verdict: str | None = None  # one of VERDICTS; None where a side has no such row
    doubts: tuple[str, ...] = ()  # codes of the caveats that put the row in doubt, not accepted
    margin: float | None = None  # the largest shift that does not matter; None of exact figures
    p: float | None = None  # adjusted over the family, of a shift within the margin
    p_zero: float | None = None  # the same of no shift at all
    units: tuple[int, int]  # boots or runs per side; blocks twice where they are paired
    spread: float | None = None  # standard deviation of a unit, or of a block's difference
    # The interval; those of means and of a sequence suppose normal units.
    by: Literal["ranks", "means", "sequence"] = "ranks"
    detectable: float | None = (
        None  # smallest shift that this table calls faster or slower at POWER
    )
    wanted_within: int | None = None  # units per side, or blocks, for `within margin` at POWER
    wanted_shift: int | None = None  # the same for faster or slower where it moved by `detect`
    control: bool  # it must not move: as asked for, or no reload of TR is predicted on either side
    primary: bool = True  # chosen before the measurement
    missing: str | None = None  # the side without the row, and why
    new: bool = False  # the after has the row, and the before has not
    varies: bool = False  # an exact figure that differs between the runs of one side
    quantum: float = 0.0  # the step of the clock or of the print-out
    after_units: int | None = None  # units after which a confidence sequence decided the row

    @property
    def said(self) -> str:
        """The verdict as every form shows it: a claim in doubt has a question mark."""
        doubtful = "?" if self.doubts and self.verdict in CLAIMS else ""
        return f"{self.verdict or '-'}{doubtful}"

    @property
    def worse(self) -> float | None:
        """The shift, positive where after is worse."""
        return self.shift if self.shift is None or self.better == "lower" else -self.shift

    @property
    def worse_interval(self) -> tuple[float, float] | None:
        """The interval of `worse`."""
        if self.interval is None or self.better == "lower":
            return self.interval
        return -self.interval[1], -self.interval[0]

    def beyond(self, limit: float) -> bool:
        """Return whether the whole interval is more than `limit` to one side of 0."""
        return self.interval is not None and (self.interval[0] > limit or self.interval[1] < -limit)
