"""The exact figures of tests in a committed file: a `kvmbench.result/1`, one series per test.

The pytest plugin reads and writes it. The file holds no time, host or command, so that writing it
again without a change gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kvmbench.errors import ResultError
from kvmbench.results import Boot, Result, Run, Series, encode, read, write

__all__ = ["Figure", "difference", "read_baseline", "result", "rows", "write_baseline"]

NOTE = "Written by pytest --cycles-update: a workload is a test."

Number = int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """The exact cycles of one test, round by round, and their causes.

    `segments` has cycles, `reloads` counts LTRs; each list has one entry per round. A clock that
    is no Machine has neither, and no policy.
    """

    cycles: list[int]
    segments: dict[str, list[int]] = field(default_factory=dict)
    reloads: list[int] | None = None
    policy: str | None = None
    profile: str | None = None
    vendor: str | None = None
    model_version: str


class _Row(NamedTuple):
    """A test's series, and its run."""

    series: Series
    run: Run


def result(figures: Mapping[str, Figure]) -> Result:
    """Return the figures, by the test's id, as the result that a baseline is.

    Tests are sorted; those of one profile, vendor and model version are one run.
    """
    runs: dict[tuple[str, str, str], list[str]] = {}
    for name in sorted(figures):
        figure = figures[name]
        key = (figure.profile or "", figure.vendor or "", figure.model_version)
        runs.setdefault(key, []).append(name)
    made = [
        Run(
            engine="sim", model_version=version, profile=profile or None, vendor=vendor or None,
            series=[_series(name, figures[name]) for name in names],
        )
        for (profile, vendor, version), names in sorted(runs.items())
    ]  # fmt: skip
    return Result(notes=[NOTE], boots=[Boot(runs=made)])


def _series(name: str, figure: Figure) -> Series:
    return Series(
        workload=name, kind="exact", values=list(figure.cycles), policy=figure.policy,
        reloads=None if figure.reloads is None else _each(figure.reloads),
        counts={name: _each(spent) for name, spent in figure.segments.items() if any(spent)},
    )  # fmt: skip


def _each(counts: Sequence[int]) -> Number:
    """Return the mean of the rounds: an integer wherever it is one."""
    total, rounds = sum(counts), len(counts)
    return total // rounds if total % rounds == 0 else total / rounds


def read_baseline(path: Path) -> Result:
    """Return the baseline in a file.

    Raises ResultError where the file is no result, has a figure that is not exact integer cycles,
    or has a test twice; OSError where it cannot be read.
    """
    found = read(path)
    seen = set()
    for b, boot in enumerate(found.boots):
        for r, run in enumerate(boot.runs):
            for s, series in enumerate(run.series):
                place = f"{path}: $.boots[{b}].runs[{r}].series[{s}]"
                if (series.kind, series.unit) != ("exact", "cycles"):
                    wrong = f"{series.kind} {series.unit}, where a baseline has exact cycles"
                    raise ResultError(f"{place}: {wrong}")
                for v, value in enumerate(series.values):
                    if not isinstance(value, int):
                        raise ResultError(f"{place}.values[{v}]: {value} is not an integer")
                if series.workload in seen:
                    raise ResultError(f"{place}: {series.workload} is in this file already")
                seen.add(series.workload)
    return found


def write_baseline(path: Path, new: Result) -> bool:
    """Make `path` the baseline `new`, whole or not at all; return whether its bytes changed.

    Raises ResultError where the figures make no result, OSError where the file cannot be written.
    """
    if path.exists() and path.read_bytes() == encode(new):
        return False
    write(path, new)
    return True


def rows(baseline: Result) -> dict[str, _Row]:
    """Return each test's row by its id, in the order of the file."""
    return {series.workload: _Row(series, run) for _, run, series in baseline.series()}


def difference(old: _Row, new: _Row) -> str:
    """Return the changes of a test's exact figures in one line; empty without a change."""
    return "; ".join(_differences(old, new))


def _differences(old: _Row, new: _Row) -> Iterator[str]:
    before, after = old.series.values, new.series.values
    if len(before) != len(after):
        yield f"{len(before)} -> {len(after)} rounds"
    for number, (a, b) in enumerate(zip(before, after, strict=False), 1):
        if a != b:
            which = f"round {number}: " if len(before) > 1 else ""
            percent = f", {100 * (b - a) / a:+.4f}%" if a else ""
            yield f"{which}{a} -> {b} ({b - a:+}{percent})"
    for name in dict.fromkeys((*old.series.counts, *new.series.counts)):
        a, b = (row.series.counts.get(name, 0) for row in (old, new))
        if a != b:
            yield f"{name} {a} -> {b}"
    for was, now in zip(_facts(old), _facts(new), strict=True):
        if was != now:
            yield f"{was} -> {now.partition(' ')[2]}"


def _facts(row: _Row) -> tuple[str, ...]:
    """Return a row's other facts in words; the count comes back from the file as a float."""
    reloads = row.series.reloads
    count = "none" if reloads is None else repr(float(reloads)).removesuffix(".0")
    facts = {"policy": row.series.policy, "profile": row.run.profile, "vendor": row.run.vendor}
    return (f"reloads {count}", *(f"{name} {fact or 'none'}" for name, fact in facts.items()))
