"""A result by rows, for formats that have one entry per workload and configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from kvmbench.errors import ResultError
from kvmbench.results import Number, Result, Series

__all__ = ["Row", "check_labels", "rows"]


@dataclass(slots=True)
class Row:
    """A workload under a configuration, and its series in order, one per run.

    Each comes with the numbers of its boot and of its run in the whole result, from 0.
    """

    first: Series
    runs: list[tuple[int, int, Series]]

    @property
    def label(self) -> str:
        """The row's name: `workload/configuration`, or the workload where there is only one."""
        return "/".join(filter(None, (self.first.workload, self.first.configuration)))

    @property
    def medians(self) -> list[Number]:
        """The median of each run, in order."""
        return [median(series.values) for _, _, series in self.runs]

    @property
    def centre(self) -> Number:
        """The median of the runs' medians."""
        return median(self.medians)


def rows(result: Result) -> list[Row]:
    """Return the rows of a result, in the order of their first use."""
    found: dict[tuple[str, str], Row] = {}
    number = 0
    for b, boot in enumerate(result.boots):
        for run in boot.runs:
            for series in run.series:
                row = found.setdefault((series.workload, series.configuration), Row(series, []))
                row.runs.append((b, number, series))
            number += 1
    return list(found.values())


def check_labels(found: Sequence[Row], form: str) -> None:
    """Raise ResultError where two rows would have one name."""
    seen = set()
    for row in found:
        if row.label in seen:
            raise ResultError(f"{form}: two rows would have the name {row.label!r}")
        seen.add(row.label)
