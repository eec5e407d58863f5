"""Variance components: how far boots, runs and iterations differ, and the size of a plan from it.

`compare --explain` prints the components; `plan new --pilot` chooses boots and runs by them, after
Kalibera and Jones, "Rigorous benchmarking in reasonable time" (ISMM 2013).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from math import floor, sqrt
from statistics import fmean, median
from typing import TYPE_CHECKING, TypedDict

from kvmbench import planning
from kvmbench.errors import ResultError
from kvmbench.report import Block, Column, Heading, Note, Table
from kvmbench.results import Result
from kvmbench.units import Key, Side

if TYPE_CHECKING:
    from kvmbench.comparison.verdicts import Comparison

__all__ = ["LEAST_PAIRS", "Components", "Size", "VarianceDocument", "components", "nested"]
__all__ += ["run_seconds", "size", "variance", "variance_blocks"]

LEAST_PAIRS = 6  # of fewer no sign-flip test reaches 5 %
MOST_RUNS = 100  # per boot

Boots = list[list[float]]  # the runs' medians per boot


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """Standard deviations of one row, in its unit; None where the result cannot show one.

    `run` is that of runs' medians within a boot, with the error that the iterations leave in them;
    `boot` is that of boots less the part of the runs, or with it where a boot has one run.
    """

    boot: float | None
    run: float | None
    within: float | None  # of the values within a run


def components(sides: Sequence[Side], key: Key) -> Components:
    """Return the components of a row, pooled over sides, whose shift is no variance."""
    boots = [_boots(side, key) for side in sides]
    boot, run = nested(boots)
    squares = values = 0.0
    for cell in (cell for side in sides for cell in side.cells.get(key, ())):
        centre = fmean(cell.series.values)
        squares += sum((value - centre) ** 2 for value in cell.series.values)
        values += len(cell.series.values) - 1
    return Components(boot=boot, run=run, within=sqrt(squares / values) if values else None)


def _boots(side: Side, key: Key) -> Boots:
    """Return the medians of a row's runs in each boot; the parts of one boot are together."""
    found: dict[str, list[float]] = {}
    for cell in side.cells.get(key, ()):
        name = side.result.boots[cell.boot].id or str(cell.boot)
        found.setdefault(name, []).append(float(median(cell.series.values)))
    return list(found.values())


def nested(sides: Iterable[Boots]) -> tuple[float | None, float | None]:
    """Return the standard deviations between boots and between the runs of a boot.

    By the analysis of variance of a nested design, with the coefficient of unequal numbers of runs
    (Searle, Casella and McCulloch, Variance Components, 1992, section 3.6); 0 for a negative
    estimate. None for one boot per side, and for one run per boot.
    """
    within = between = coefficient = 0.0
    runs_free = boots_free = 0
    for boots in sides:
        numbers = [len(runs) for runs in boots]
        total = sum(numbers)
        if not total:
            continue
        centre = fmean(value for runs in boots for value in runs)
        for runs in boots:
            within += sum((value - fmean(runs)) ** 2 for value in runs)
            between += len(runs) * (fmean(runs) - centre) ** 2
        runs_free += total - len(boots)
        boots_free += len(boots) - 1
        coefficient += total - sum(number**2 for number in numbers) / total
    run = sqrt(within / runs_free) if runs_free else None
    if not boots_free:
        return None, run
    variance = between / boots_free - (run or 0.0) ** 2
    return sqrt(max(variance, 0.0) / (coefficient / boots_free)), run


# In a comparison


class VarianceDocument(TypedDict):
    """The standard deviations of a row in percent of before, pooled over the sides.

    None where the sides cannot show one.
    """

    workload: str
    to: str
    between_boots: float | None
    between_runs: float | None
    within_runs: float | None


def variance(comparison: Comparison) -> Iterator[VarianceDocument]:
    """Yield the components of each measured row of a comparison."""
    keys = {key.name: key for side in comparison.sides for key in side.cells}
    for row in comparison.rows:
        if row.kind != "noisy" or row.missing is not None or not row.before:
            continue
        found = components(comparison.sides, keys[row.workload])
        shares = [
            None if sd is None else 100 * sd / abs(row.before)
            for sd in (found.boot, found.run, found.within)
        ]
        yield {
            "workload": row.workload, "to": row.to, "between_boots": shares[0],
            "between_runs": shares[1], "within_runs": shares[2],
        }  # fmt: skip


def variance_blocks(found: Sequence[VarianceDocument], *, several: bool) -> list[Block]:
    """Return the table of the components, `several` afters of each row below each other."""
    if not found:
        return []
    columns = [
        Column("workload", "key"),
        *([Column("side", "key")] if several else []),
        *(Column(name, unit="%") for name in ("between boots", "between runs", "within runs")),
    ]
    lines = [
        [
            entry["workload"],
            *([entry["to"]] if several else []),
            *(
                "-" if value is None else f"{value:.2f}"
                for value in (entry["between_boots"], entry["between_runs"], entry["within_runs"])
            ),
        ]
        for entry in found
    ]
    note = (
        "Standard deviations: of boots less the part of their runs, of runs' medians in a boot, "
        "and of the values in a run."
    )
    if all(entry["between_runs"] is None for entry in found):
        note += " One run per boot: the part of the runs is in that of boots."
    if all(entry["between_boots"] is None for entry in found):
        note += " One boot per side shows nothing of the boots."
    return [Heading("Variance components"), Table(columns, lines), Note(note)]


# The size of a plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The pairs of boots and the runs per boot of a plan, and its expected result."""

    pairs: int
    runs: int
    seconds: float  # of the whole plan
    # The minimum detectable effect of a verdict on each row, as a share of its median, with the
    # default margin; without the rows on which so few pairs give no verdict at that power.
    detectable: Mapping[str, float]


def run_seconds(result: Result) -> float | None:
    """Return the median time from one run's beginning to the next one's in a boot, in seconds.

    None where the runs have no times.
    """
    steps: list[float] = []
    for boot in result.boots:
        try:
            times = [datetime.fromisoformat(run.time or "") for run in boot.runs]
            steps += [(later - first).total_seconds() for first, later in pairwise(times)]
        except (TypeError, ValueError):  # no time, or some with a zone and some without
            return None
    return median(steps) if steps and median(steps) > 0 else None


def size(
    side: Side, *, budget: float, boot_seconds: float, run_seconds: float, boot_sd: float | None
) -> Size:
    """Return the size of a plan that detects the least in `budget` seconds, from a pilot's spreads.

    The runs per boot are sqrt(boot_seconds / run_seconds) * sd of runs / sd of boots, the rows'
    variances as shares of their medians summed; the budget then gives the pairs. `boot_sd` is the
    deviation between boots as a share, where the pilot has one boot. Raises ResultError for a pilot
    without the spreads, and for a budget below LEAST_PAIRS pairs.
    """
    spreads: dict[str, tuple[float, float]] = {}
    for key, cells in side.cells.items():
        centre = abs(median(median(cell.series.values) for cell in cells))
        if cells[0].series.kind == "exact" or not centre:
            continue
        found = components([side], key)
        boot = boot_sd if boot_sd is not None else (
            None if found.boot is None else found.boot / centre
        )  # fmt: skip
        if boot is None or found.run is None:
            one, between = ("boot", "boots") if boot is None else ("run per boot", "runs of a boot")
            stated = ", or state --boot-sd" if boot is None else ""
            raise ResultError(
                f"{side.label}: has one {one}, which shows no difference between {between}: "
                f"measure a pilot of three or more{stated}"
            )
        spreads[key.name] = boot, found.run / centre
    if not spreads:
        raise ResultError(f"{side.label}: holds no measured row")
    boots = sqrt(sum(boot**2 for boot, _ in spreads.values()))
    each = sqrt(sum(run**2 for _, run in spreads.values()))
    affordable = (budget / (2 * LEAST_PAIRS) - boot_seconds) / run_seconds
    if affordable < 1:
        least = 2 * LEAST_PAIRS * (boot_seconds + run_seconds)
        raise ResultError(
            f"the budget holds fewer than {LEAST_PAIRS} pairs of boots, which no verdict comes "
            f"from: {least / 60:.0f} minutes are the least"
        )
    wanted = sqrt(boot_seconds / run_seconds) * each / boots if boots else MOST_RUNS
    runs = max(1, min(round(wanted), floor(affordable), MOST_RUNS))
    pair = 2 * (boot_seconds + runs * run_seconds)
    pairs = min(floor(budget / pair), 1000)
    deviations = [sqrt(2 * (boot**2 + run**2 / runs)) for boot, run in spreads.values()]
    shifts = planning.detectable(deviations, (pairs, pairs), paired=True)
    detectable = {
        name: planning.MARGIN + shift
        for name, shift in zip(spreads, shifts, strict=True)
        if shift is not None
    }
    return Size(pairs=pairs, runs=runs, seconds=pairs * pair, detectable=detectable)
