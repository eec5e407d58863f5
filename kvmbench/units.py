"""Units of replication: one figure per unit, for each row of two results.

The unit is the highest level with more than one fresh start: a block of boots of both kernels, or
a boot, or a run. Iterations within a run are reduced to their median, runs within a boot to
theirs: a test of the pooled iterations finds differences between a thing and itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import nan
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from kvmbench.errors import IncompatibleError, ResultError
from kvmbench.labels import label_of

if TYPE_CHECKING:
    from kvmbench.results import Boot, Host, Result, Run, Series

__all__ = ["Cell", "Figures", "Key", "Level", "Replicates", "Side", "listed"]

Figures = npt.NDArray[np.float64]  # [units], NaN where a unit has none
Level = str  # block, boot or run; or the label by which boots are paired, such as host
LARGEST = 1e100  # value that figures are made of
Pair = tuple[str, int]  # a host and its block, or a label and 0


K = TypeVar("K")


def listed(pairs: Iterable[tuple[K, str]]) -> dict[K, list[str]]:
    """Return the different words of each key, keys and words in the order of their first use."""
    found: dict[K, dict[str, None]] = {}
    for key, words in pairs:
        found.setdefault(key, {})[words] = None
    return {key: list(words) for key, words in found.items()}


class Key(NamedTuple):
    """The key of a row; `configuration` is empty where a side has only one."""

    workload: str
    configuration: str

    @property
    def name(self) -> str:
        return "/".join(filter(None, self))


class Cell(NamedTuple):
    """A series with the number of its boot and that of its run in the file."""

    boot: int
    run: int
    series: Series


@dataclass(frozen=True)
class Side:
    """One result, or one configuration of it, under the name that a table gives it."""

    label: str
    result: Result
    configuration: str | None = None  # only this one; None for every one of the result

    @cached_property
    def configurations(self) -> list[str]:
        """The configurations of this side, in order."""
        found = self.result.configurations()
        return found if self.configuration is None else [self.configuration]

    @cached_property
    def boot_numbers(self) -> list[int]:
        """The number that each boot of the file counts as: the parts of one boot share theirs."""
        known: dict[tuple[str, int | None], int] = {}
        return [
            known.setdefault((boot.id, boot.block), number) if boot.id else number
            for number, boot in enumerate(self.result.boots)
        ]

    @cached_property
    def cells(self) -> dict[Key, list[Cell]]:
        """The series of each row, in the order of the file."""
        only = len(self.configurations) == 1
        found: dict[Key, list[Cell]] = {}
        run_number = -1
        for boot_number, boot in zip(self.boot_numbers, self.result.boots, strict=True):
            for run in boot.runs:
                run_number += 1
                for series in run.series:
                    if series.configuration in self.configurations:
                        key = Key(series.workload, "" if only else series.configuration)
                        cell = Cell(boot_number, run_number, series)
                        found.setdefault(key, []).append(cell)
        return found

    def marks(self) -> dict[str, list[str]]:
        """Return the names of the rows that carry each mark."""
        return listed(
            (mark, key.name)
            for key, cells in self.cells.items()
            for cell in cells
            for mark in cell.series.marks
        )

    @cached_property
    def boots(self) -> list[int]:
        """The numbers of the boots with series of this side."""
        return sorted({cell.boot for cells in self.cells.values() for cell in cells})

    @cached_property
    def hosts(self) -> list[Host]:
        """The hosts of this side's runs, in order; a boot in parts has several."""
        boots = [n for n, boot in enumerate(self.result.boots) for _ in boot.runs]
        used = dict.fromkeys(boots[run] for run in self.runs)
        return [self.result.boots[n].host for n in used]

    @cached_property
    def runs(self) -> dict[int, Run]:
        """The runs with series of this side, by number."""
        used = {cell.run for cells in self.cells.values() for cell in cells}
        return {n: run for n, (_, run) in enumerate(self.result.runs()) if n in used}


class Replicates:
    """The units of replication of a before and an after, and each unit's figure of a row.

    Raises IncompatibleError for a side without figures, and for sides with several configurations
    that are not the same ones.
    """

    def __init__(self, before: Side, after: Side, pair_by: str | None = None) -> None:
        """Make the units: pairs by `block`, `host` or another label, where `pair_by` names one.

        Without it, boots with block numbers are paired by block. Raises ValueError where the sides
        have no such pair.
        """
        self.sides = (before, after)
        self._check_configurations()
        self._pair_of = [_pairs(side, pair_by or "block") for side in self.sides]
        self.left_out: list[str] = []  # pairs that one side has not, or not all boots of
        self.level: Level = "run"
        self.paired = False  # unit i of one side belongs to unit i of the other
        self._pairs_of_boots = False  # and is made of boots that a block or a label pairs
        first, second = (list(found.values()) for found in self._pair_of)
        common = set(first) & set(second) - {None}
        if common and (pair_by or None not in (*first, *second)):
            self.level, self.paired, self._pairs_of_boots = pair_by or "block", True, True
            pairs = self._whole_pairs(first, second)
            self._numbers: list[list[Any]] = [pairs, pairs]
        elif pair_by:
            raise ValueError(
                f"no {pair_by} is on both sides: `kvmbench save FILE NEW --label {pair_by}=VALUE` "
                "sets it"
            )
        elif alternating := _alternating(self.sides):
            self.level, self._numbers = alternating
            self.paired = True
        elif any(len(side.boots) > 1 for side in self.sides):
            self.level = "boot"
            self._numbers = [side.boots for side in self.sides]
        else:
            self._numbers = [list(side.runs) for side in self.sides]

    def paired_boots(self) -> list[tuple[list[Boot], list[Boot]]]:
        """Return the boots of before and of after in each pair; none where no boots are paired."""
        return [
            (self._boots(0, pair), self._boots(1, pair))
            for pair in (self._numbers[0] if self._pairs_of_boots else ())
        ]

    def _boots(self, side: int, pair: Pair) -> list[Boot]:
        boots = self.sides[side].result.boots
        return [boots[number] for number, own in self._pair_of[side].items() if own == pair]

    def keys(self) -> list[Key]:
        """Return the rows of either side, in the order of before, then of after."""
        return list(dict.fromkeys(key for side in self.sides for key in side.cells))

    def cells(self, key: Key) -> tuple[list[Cell], list[Cell]]:
        """Return the series of a row, of before and of after."""
        before, after = (side.cells.get(key, []) for side in self.sides)
        return before, after

    def figures(self, key: Key) -> tuple[Figures, Figures]:
        """Return one figure per unit of either side, in the order of the file or of the blocks.

        Two arrays [units], in the row's unit, with NaN for a unit without the row. Raises
        ResultError for a value beyond 1e100, whose squares and sums are no floats.
        """
        sides = self.cells(key)
        for series in (cell.series for cells in sides for cell in cells):
            if max(series.values) > LARGEST or min(series.values) < -LARGEST:
                raise ResultError(
                    f"{key.name}: a figure beyond {LARGEST:g} cannot be computed with"
                )
        before, after = (self._side(number, cells) for number, cells in enumerate(sides))
        return before, after

    def _side(self, side: int, cells: Sequence[Cell]) -> Figures:
        runs: dict[int, list[float]] = {}
        for cell in cells:
            number = cell.run if self.level == "run" else cell.boot
            runs.setdefault(number, []).append(float(median(cell.series.values)))
        units = {number: median(values) for number, values in runs.items()}
        if self._pairs_of_boots:
            boots: dict[Pair | None, list[float]] = {}
            for boot, pair in self._pair_of[side].items():
                boots.setdefault(pair, []).append(units.get(boot, nan))
            if self.level == "block":
                # The mean, so that ABBA cancels a drift within the block; of all its boots, for
                # without one of them nothing cancels.
                return np.array([fmean(boots[pair]) for pair in self._numbers[side]])
            return np.array([_median(boots[pair]) for pair in self._numbers[side]])
        return np.array([units.get(number, nan) for number in self._numbers[side]])

    def _whole_pairs(self, first: list[Pair | None], second: list[Pair | None]) -> list[Pair]:
        """Return the complete pairs: of blocks, others do not cancel a drift.

        A complete block has as many boots of either side, and as many as the largest such block; a
        pair by a label has boots of both sides.
        """
        known = sorted({pair for pair in (*first, *second) if pair is not None})
        if self.level == "block":
            even = [pair for pair in known if first.count(pair) == second.count(pair)]
            most = max(map(first.count, even), default=0)
            whole = [pair for pair in even if first.count(pair) == most]
        else:
            whole = [pair for pair in known if pair in first and pair in second]
        self.left_out = [_said(pair) for pair in known if pair not in whole]
        return whole

    def _check_configurations(self) -> None:
        for side in self.sides:
            if not side.cells:
                raise IncompatibleError(f"{side.label} has no figures")
        before, after = (side.configurations for side in self.sides)
        if len(before) == len(after) == 1:
            return
        if min(len(before), len(after)) > 1 and set(before) & set(after):
            return
        side = self.sides[0] if len(before) > 1 else self.sides[1]
        names = ", ".join(repr(name) for name in side.configurations)
        raise IncompatibleError(
            f"{side.label} has the configurations {names}: choose one, FILE#NAME"
        )


def _pairs(side: Side, by: str) -> dict[int, Pair | None]:
    """Return the pair that each boot of a side belongs to; None where it belongs to none."""
    boots = {number: side.result.boots[number] for number in side.boots}
    if by != "block":
        values = {number: label_of(boot, by) for number, boot in boots.items()}
        return {number: (value, 0) if value else None for number, value in values.items()}
    # Every host counts its own blocks.
    hosts = {number: boot.labels.get("host", "") for number, boot in boots.items()}
    several = all(hosts.values()) and len(set(hosts.values())) > 1
    return {
        number: None if boot.block is None else (hosts[number] if several else "", boot.block)
        for number, boot in boots.items()
    }


def _said(pair: Pair) -> str:
    value, block = pair
    return f"{block} of {value}" if value and block else value or str(block)


def _median(values: Sequence[float]) -> float:
    """Return the median of those boots of a pair that have the row; NaN where none has."""
    known = [value for value in values if value == value]
    return float(median(known)) if known else nan


def _alternating(sides: tuple[Side, Side]) -> tuple[Level, list[list[int]]] | None:
    """Return the numbers of the runs of each side that alternated in one boot, pair by pair.

    Such runs have the same block in the same boot, one of each side; of several boots, the boots.
    None where a run of either side did not alternate.
    """
    found: list[dict[tuple[str, int], tuple[int, int]]] = []
    for side in sides:
        places = [
            (boot.id or str(number), number)
            for number, boot in zip(side.boot_numbers, side.result.boots, strict=True)
            for _ in boot.runs
        ]
        pairs: dict[tuple[str, int], tuple[int, int]] = {}
        for run_number, run in side.runs.items():
            boot, number = places[run_number]
            if run.block is None or (boot, run.block) in pairs:
                return None
            pairs[boot, run.block] = number, run_number
        found.append(pairs)
    common = [pair for pair in found[0] if pair in found[1]]
    if not common:
        return None
    several = len({boot for boot, _ in common}) > 1
    numbers = [
        list(dict.fromkeys(pairs[pair][0 if several else 1] for pair in common)) for pairs in found
    ]
    return ("boot" if several else "run"), numbers
