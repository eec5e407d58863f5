"""A result by rows: a workload under a configuration, and its series in each run.

Writers take the rows of a result; readers of formats without runs build runs from series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from kvmbench.errors import ResultError, brief
from kvmbench.results import Number, Result, Run, Series, check_growth

__all__ = ["PER_SERIES", "Row", "as_runs", "check_labels", "rows"]

PER_SERIES = 850  # bytes of memory that a series of one value takes with its run, at most


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
    for number, (b, run) in enumerate((b, r) for b, boot in enumerate(result.boots)
                                      for r in boot.runs):  # fmt: skip
        for series in run.series:
            row = found.setdefault((series.workload, series.configuration), Row(series, []))
            row.runs.append((b, number, series))
    return list(found.values())


def as_runs(
    found: Iterable[Series], engine: str, size: int, name: str, time: str | None = None
) -> list[Run]:
    """Return runs of series that have only an order: the n-th of a row belongs to the n-th run.

    `size` and `name` are the file's. Raises ResultError where they would take too much memory.
    """
    seen: Counter[tuple[str, str]] = Counter()
    runs: list[Run] = []
    for count, series in enumerate(found):
        check_growth(PER_SERIES * count, size, name)
        key = (series.workload, series.configuration)
        if seen[key] == len(runs):
            runs.append(Run(engine=engine, time=time, series=[]))
        runs[seen[key]].series.append(series)
        seen[key] += 1
    return runs


def check_labels(found: Sequence[Row], form: str) -> None:
    """Raise ResultError where two rows would have one name."""
    for label, count in Counter(row.label for row in found).items():
        if count > 1:
            raise ResultError(f"{form}: two rows would have the name {brief(label)}")
