"""False alarms, power and promises of a comparison, next to other tools' rules on the same data.

`make statistics` prints the tables and writes them into docs/statistics.md; the test suite runs a
few cells. Each cell has a fixed seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import structs
from scipy import stats as scipy

from kvmbench.comparison.gates import gate
from kvmbench.comparison.verdicts import Comparison, compare
from kvmbench.planning import MARGIN, detectable
from kvmbench.results import Boot, Result, Run, Series
from kvmbench.units import Side

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"
MARKS = "<!-- made by make statistics -->\n", "<!-- end -->\n"
MOVED = ("faster", "slower", "slightly faster", "slightly slower")
ITERATIONS, WITHIN = 30, 0.003  # of a run, and their deviation


@dataclass(frozen=True)
class Design:
    """How two kernels are measured, and the noise: shares of a row's figure."""

    name: str
    n: int
    m: int
    rows: int = 8
    sd: float = 0.005  # of a run
    ratio: float = 1.0  # of after's deviation to before's
    slow: float = 0.0  # share of runs that are 3 % slower
    drift: float = 0.0  # over the session
    memory: float = 0.0  # from one run of the session to the next
    boot_sd: float = 0.0
    order: str = "turn"  # turn: ABAB; first: AAABBB; unknown: AAABBB without times
    # one: of both sides; each: one per side; every: each unit is a boot; blocks of ABBA; pairs of
    # a drawn order
    boots: str = "one"
    looks: int = 0  # from so many pairs on, after each, by the sequence; 0: one look, at the end
    shift: float = 0.0  # of the first row


DESIGNS = [
    Design("independent, 4 v 4", 4, 4),
    Design("6 v 6", 6, 6),
    Design("10 v 10", 10, 10),
    Design("20 v 20", 20, 20),
    Design("bimodal, 30 % of runs +3 %, 10 v 10", 10, 10, slow=0.3),
    Design("40 rows, 10 v 10", 10, 10, rows=40),
    Design("spreads 1 : 3, 6 v 6", 6, 6, ratio=3),
    Design("spreads 1 : 3, 10 v 10", 10, 10, ratio=3),
    Design("spreads 3 : 1, 5 v 20", 5, 20, sd=0.015, ratio=1 / 3),
    Design("drift 1 %, AAABBB, 10 v 10", 10, 10, drift=0.01, order="first"),
    Design("drift 1 %, AAABBB without times", 10, 10, drift=0.01, order="unknown"),
    Design("drift 2 %, ABAB, 10 v 10", 10, 10, drift=0.02),
    Design("memory 0.7, AAABBB without times", 10, 10, memory=0.7, order="unknown"),
    Design("one boot per side, boot sd 0.3 %", 10, 10, boot_sd=0.003, boots="each"),
    Design("runs 0.3 %, boot sd 1 %", 10, 10, sd=0.003, boot_sd=0.01, boots="each"),
    Design("3 boots v 3, boot sd 0.5 %", 3, 3, boots="every"),
    Design("4 boots v 4, boot sd 0.5 %", 4, 4, boots="every"),
    Design("6 ABBA blocks, drift 1 %", 6, 6, drift=0.01, boots="blocks"),
    Design("12 ABBA blocks, drift 1 %", 12, 12, drift=0.01, boots="blocks"),
    Design("8 pairs, drift 2 %", 8, 8, drift=0.02, boots="pairs"),
    Design("8 pairs, memory 0.9", 8, 8, memory=0.9, boots="pairs"),
    Design("3 to 24 pairs, a look after each", 24, 24, boots="pairs", looks=3),
    Design("the same, drift 2 %", 24, 24, drift=0.02, boots="pairs", looks=3),
]

Sample = tuple[np.ndarray, np.ndarray]  # iterations [units, rows, ITERATIONS]; the unit's side


def drawn(design: Design, rng: np.random.Generator) -> Sample:
    """Return the iterations of a session and the side of each of its units, in order of time."""
    rows = design.rows
    side = sides_in_time(design, rng)
    noise = rng.normal(size=(len(side), rows))
    for unit in range(1, len(side)):
        memory = design.memory
        noise[unit] = memory * noise[unit - 1] + np.sqrt(1 - memory**2) * noise[unit]
    figures = 1 + noise * np.where(side == 1, design.ratio, 1.0)[:, None] * design.sd
    figures += 0.03 * (rng.random((len(side), rows)) < design.slow)
    figures += design.drift * np.linspace(0, 1, len(side))[:, None]
    if design.boots == "each":
        figures += rng.normal(0, design.boot_sd, (2, rows))[side]
    figures[side == 1, 0] *= 1 + design.shift
    within = 1 + WITHIN * rng.normal(size=(len(side), rows, ITERATIONS))
    return np.geomspace(1000, 8000, rows)[:, None] * figures[:, :, None] * within, side


def sides_in_time(design: Design, rng: np.random.Generator) -> np.ndarray:
    """Return which side each unit of the session is of."""
    n, m = design.n, design.m
    if design.boots == "blocks":
        return np.array([0, 1, 1, 0] * n)
    if design.boots == "pairs":
        return np.array([(first, 1 - first) for first in rng.integers(0, 2, n)]).ravel()
    if design.order == "turn":
        ranks = [((place + 0.5) / count, side) for side, count in enumerate((n, m))
                 for place in range(count)]  # fmt: skip
        return np.array([side for _, side in sorted(ranks)])
    return np.array([0] * n + [1] * m)


def results(design: Design, sample: Sample) -> list[Side]:
    """Return the runs as the two results that a user would compare."""
    iterations, side_of = sample
    per_block = {"blocks": 2, "pairs": 1}.get(design.boots)  # boots of a side
    found = []
    for side, label in enumerate(("before", "after")):
        runs = [
            Run(
                time=None
                if design.order == "unknown"
                else f"2026-01-01T{place // 60:02}:{place % 60:02}:00",
                series=[
                    Series(workload=f"w{row}", kind="noisy", values=[float(value)])
                    for row, value in enumerate(np.median(iterations[place], axis=1))
                ],
            )
            for place in np.flatnonzero(side_of == side)
        ]
        if per_block or design.boots == "every":
            boots = [
                Boot(id=f"{label}{at}", block=at // per_block if per_block else None, runs=[run])
                for at, run in enumerate(runs)
            ]
        else:
            name = label if design.boots == "each" else "one"
            boots = [Boot(id="" if design.order == "unknown" else name, runs=runs)]
        found.append(Side(label, Result(boots=boots)))
    return found


def compared(design: Design, sample: Sample, **options) -> list[Comparison]:
    """Return the comparison that a user makes of a session, or one for each look."""
    sides = results(design, sample)
    if not design.looks:
        return [compare(*sides, **options)]
    return [
        compare(
            *(Side(side.label, structs.replace(side.result, boots=side.result.boots[:pairs]))
              for side in sides),
            correction="sequence",
        )
        for pairs in range(design.looks, design.n + 1)
    ]  # fmt: skip


# Other tools' rules: whether one row has moved


def benchstat(x: np.ndarray, y: np.ndarray) -> bool:
    """Mann-Whitney of one value per process, 5 %."""
    x, y = np.median(x, axis=1), np.median(y, axis=1)
    return bool(scipy.mannwhitneyu(x, y, method="exact").pvalue < 0.05)


def hyperfine(x: np.ndarray, y: np.ndarray) -> bool:
    """Welch's t of one value per process, 5 % (scripts/welch_ttest.py)."""
    return bool(scipy.ttest_ind(x.mean(axis=1), y.mean(axis=1), equal_var=False).pvalue < 0.05)


def pyperf(x: np.ndarray, y: np.ndarray) -> bool:
    """Student's pooled t of all iterations, 95 % two-sided (pyperf._utils.is_significant)."""
    return bool(scipy.ttest_ind(x.ravel(), y.ravel()).pvalue < 0.05)


def criterion(x: np.ndarray, y: np.ndarray, resamples: int = 400) -> bool:
    """Bootstrap of Welch's t of the pooled iterations, 5 %, without the noise threshold."""
    x, y = x.ravel(), y.ravel()
    both = np.concatenate([x, y])
    rng = np.random.default_rng(1)
    drawn = both[rng.integers(0, len(both), (resamples, len(both)))]

    def t(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        error = a.var(axis=-1, ddof=1) / a.shape[-1] + b.var(axis=-1, ddof=1) / b.shape[-1]
        return np.abs(a.mean(axis=-1) - b.mean(axis=-1)) / np.sqrt(error)

    return bool((t(drawn[:, : len(x)], drawn[:, len(x) :]) >= t(x, y)).mean() < 0.05)


RULES: dict[str, Callable[[np.ndarray, np.ndarray], bool]] = {
    "benchstat": benchstat, "hyperfine": hyperfine, "pyperf": pyperf, "criterion": criterion,
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """Shares of the tables in which something moved, nothing having changed but `shift`."""

    any: float  # a verdict that a row moved, in doubt or not
    sure: float  # one that is not in doubt
    beyond: float  # faster or slower, not in doubt
    fails: float  # --fail-on-any ends with exit code 3
    found: float  # the first row is faster or slower, in doubt or not
    doubts: tuple[str, ...]  # codes that more than half of the tables carry
    others: tuple[float, ...] = ()  # RULES


def cell(design: Design, tables: int, *, others: bool = False, seed: int = 1, **options) -> Cell:
    """Return the shares of `tables` simulated tables of a design."""
    rng = np.random.default_rng([seed, design.n, design.m, design.rows, len(design.name)])
    counts = np.zeros(5)
    codes: list[str] = []
    rules = np.zeros(len(RULES))
    for _ in range(tables):
        sample = drawn(design, rng)
        looks = compared(design, sample, **options)
        rows = [row for look in looks for row in look.rows]
        moved = [row for row in rows if row.verdict in MOVED
                 and not (design.shift and row.workload == "w0")]  # fmt: skip
        sure = [row for row in moved if not row.doubts]
        counts += (
            bool(moved), bool(sure), any(row.verdict in ("faster", "slower") for row in sure),
            any(gate([look], (), True).status == "regression" for look in looks),
            looks[-1].rows[0].verdict in ("faster", "slower"),
        )  # fmt: skip
        codes += {code for row in rows for code in row.doubts}
        if others:
            before, after = (sample[0][sample[1] == side] for side in (0, 1))
            pairs = [(before[:, row], after[:, row]) for row in range(design.rows)]
            rules += [any(rule(*pair) for pair in pairs) for rule in RULES.values()]
    common = sorted(code for code in set(codes) if codes.count(code) > tables / 2)
    return Cell(*(counts / tables).tolist(), tuple(common), tuple((rules / tables).tolist()))


# The tables: a heading, and lines of cells, made one by one


def null_table(tables: int) -> Iterator[tuple[str, ...]]:
    yield ("nothing changed", "moved", "not in doubt", "gate fails", *RULES, "doubts")
    for design in DESIGNS:
        found = cell(design, tables, others=True)
        shares = (found.any, found.sure, found.fails, *found.others)
        yield (design.name, *map(percent, shares), ", ".join(found.doubts) or "-")


def power_table(tables: int) -> Iterator[tuple[str, ...]]:
    corrections = ("max-t", "holm", "welch-holm")
    yield ("one of 8 rows +2 %, noise 0.5 %", *corrections)
    for n in (4, 6, 10, 20):
        design = Design(f"{n} v {n}", n, n, shift=0.02)
        powers = [cell(design, tables, correction=how).found for how in corrections]
        yield (design.name, *map(percent, powers))


def plan_table(tables: int) -> Iterator[tuple[str, ...]]:
    yield ("boots that differ by 0.4 %, one of 8 rows +2 %, margin 1 %", "ABBA", "pairs")
    for boots in (12, 16, 24):
        n, m = boots // 4, boots // 2
        designs = [Design(f"{boots} blocks", n, n, sd=0.004, boots="blocks", shift=0.02),
                   Design(f"{boots} pairs", m, m, sd=0.004, boots="pairs", shift=0.02)]  # fmt: skip
        yield (str(boots), *(percent(cell(d, tables, margin="1%").found) for d in designs))


def promise_table(tables: int) -> Iterator[tuple[str, ...]]:
    yield ("noise 0.5 %, 8 rows", "promised at 80 %", "called")
    for n in (4, 6, 8, 10, 20):
        least = detectable([0.005] * 8, (n, n))[0]
        assert least is not None
        moved = Design(f"promise {n}", n, n, sd=noise_of_runs(0.005), shift=MARGIN + least)
        found = cell(moved, tables).found
        yield (f"{n} v {n}", f"{100 * (MARGIN + least):.2f} %", f"{percent(found)} %")


def percent(share: float) -> str:
    return f"{100 * share:.0f}"


def markdown(lines: Iterator[tuple[str, ...]]) -> str:
    """Return a table, whose lines are printed as they come."""
    made: list[str] = []
    for line in lines:
        made.append(f"| {' | '.join(line)} |")
        print(made[-1], flush=True)
        if len(made) == 1:
            made.append(f"| :-- |{' --: |' * (len(line) - 1)}")
    return "\n".join(made) + "\n"


def noise_of_runs(total: float) -> float:
    """Return the deviation of runs, with which medians of their iterations have `total`."""
    return float(np.sqrt(total**2 - np.pi / 2 * WITHIN**2 / ITERATIONS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=400, help="simulated tables of each cell")
    parser.add_argument("--write", action="store_true", help=f"write them into {PAGE.name}")
    options = parser.parse_args()
    made = (null_table, power_table, plan_table, promise_table)
    parts = [markdown(table(options.tables)) for table in made]
    if options.write:
        page = PAGE.read_text()
        before, _, rest = page.partition(MARKS[0])
        _, _, after = rest.partition(MARKS[1])
        note = f"In percent of {options.tables} tables.\n"
        PAGE.write_text(
            before + MARKS[0] + "\n" + "\n".join([note, *parts]) + "\n" + MARKS[1] + after
        )


if __name__ == "__main__":
    main()
