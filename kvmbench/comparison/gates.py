"""Gates: limits on the rows of a comparison, for a CI job. The command `compare` uses them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite
from typing import Literal

import numpy as np

from kvmbench import stats
from kvmbench.comparison.verdicts import Comparison, Margin, Row
from kvmbench.errors import unknown_name
from kvmbench.report.figures import share

__all__ = ["Finding", "Gate", "Limit", "gate"]

VARIES = "is not the same in every run"

Status = Literal["ok", "regression", "inconclusive"]
GRAVE: tuple[Status, ...] = ("regression", "inconclusive")  # the gravest first


@dataclass(frozen=True, slots=True)
class Limit:
    """How much worse the rows of a pattern may be, or a bound on their figures."""

    pattern: str  # of rows, as a shell's
    worse: Margin | None = None  # than before
    at_most: float | None = None  # of after, in the row's unit
    at_least: float | None = None

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Return the limit that `ROW:2%`, `ROW:40`, `ROW:<=6500` or `ROW:>=100` says.

        Raises ValueError.
        """
        pattern, _, limit = text.rpartition(":")
        limit = limit.strip()
        try:
            if not pattern:
                raise ValueError
            if limit[:2] not in ("<=", ">="):
                return cls(pattern, Margin.parse(limit))
            value = float(limit[2:])
            if not isfinite(value):
                raise ValueError
        except ValueError:
            what = "a limit such as 2%, 40, <=6500 or >=100"
            raise ValueError(f"{text!r} is not ROW:LIMIT with {what}") from None
        return cls(pattern, at_most=value) if limit[0] == "<" else cls(pattern, at_least=value)


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one limit for one row."""

    workload: str
    to: str  # the label of the side that is judged
    status: Status
    words: str


@dataclass(frozen=True, slots=True)
class Gate:
    """The findings of a gate."""

    findings: tuple[Finding, ...]

    @property
    def status(self) -> Status:
        """The gravest of the findings'."""
        found = {finding.status for finding in self.findings}
        return next((status for status in GRAVE if status in found), "ok")

    @property
    def lines(self) -> tuple[str, ...]:
        """One line per row that is not ok, and the sum."""
        words = {"ok": "passed", "regression": "failed", "inconclusive": "inconclusive"}
        bad = [finding for finding in self.findings if finding.status != "ok"]
        said = tuple(f"{words[finding.status]}: {finding.words}" for finding in bad)
        number = f"{len(self.findings)} check{'' if len(self.findings) == 1 else 's'}"
        counts = Counter(finding.status for finding in bad)
        parts = [f"{counts[status]} {words[status]}" for status in GRAVE if counts[status]]
        of = f"{', '.join(parts)} of " if parts else ""
        return (*dict.fromkeys(said), f"Gate {words[self.status]}: {of}{number}.")


def gate(comparisons: Sequence[Comparison], limits: Sequence[Limit], any_row: bool) -> Gate:
    """Check comparisons against `limits`, and with `any_row` that no row is slower.

    A noisy row fails where its whole interval is beyond a limit, and passes where all of it is
    within; otherwise it is inconclusive. A row that one side lacks fails. Raises ValueError for a
    limit whose pattern names no row.
    """
    findings = []
    names = list(dict.fromkeys(row.workload for c in comparisons for row in c.rows))
    for limit in limits:
        if not any(fnmatchcase(name, limit.pattern) for name in names):
            raise ValueError(unknown_name("row", limit.pattern, names))
    for comparison in comparisons:
        to = comparison.sides[1].label
        for row in comparison.rows:
            for limit in limits:
                if fnmatchcase(row.workload, limit.pattern):
                    status, words = _held(row, limit, comparison)
                    findings.append(Finding(row.workload, to, status, words))
            if any_row:
                status, words = _any(row)
                findings.append(Finding(row.workload, to, status, words))
    return Gate(tuple(findings))


Found = tuple[Status, str]


def _held(row: Row, limit: Limit, comparison: Comparison) -> Found:
    if row.missing or row.shift is None:
        return _absent(row)
    if limit.worse is None:
        return _bounded(row, limit, comparison)
    allowed = limit.worse.of(row.before or 0.0)
    said = f"{row.workload} is {_worse(row)}, the limit is {limit.worse}"
    if row.kind == "exact":
        worse = row.worse or 0.0
        if row.varies:
            return "regression", f"{said}, and {VARIES}"
        return ("regression" if worse > allowed else "ok"), said
    if row.worse_interval is None:
        return "inconclusive", f"{said}, and {_why(row)}"
    low, high = row.worse_interval
    said += f", the interval {_span(row)}"
    return "regression" if low > allowed else "ok" if high <= allowed else "inconclusive", said


def _bounded(row: Row, limit: Limit, comparison: Comparison) -> Found:
    """Check the figure of after, not its shift, against the limit."""
    figures = comparison.figures[row.workload][1]
    figures = figures[np.isfinite(figures)]
    bound, sign = (limit.at_most, 1) if limit.at_most is not None else (limit.at_least, -1)
    assert bound is not None
    assert row.after is not None
    word = "at most" if sign > 0 else "at least"
    said = f"{row.workload} is {_figure(row.after)} {row.unit}, to be {word} {_figure(bound)}"
    if row.varies:
        return "regression", f"{said}, and {VARIES}"
    if row.kind == "exact":
        low = high = sign * row.after
    else:
        interval = stats.median_interval(figures, comparison.confidence)
        if interval is None:
            return "inconclusive", f"{said}, and {_why(row)}"
        said += f", the interval [{_figure(interval[0])}, {_figure(interval[1])}]"
        low, high = sorted(sign * end for end in interval)
    bound *= sign
    return "regression" if low > bound else "ok" if high <= bound else "inconclusive", said


def _absent(row: Row) -> Found:
    missing = row.missing or ""
    return "regression", f"{row.workload}: {missing[:1].lower()}{missing[1:]}"


def _any(row: Row) -> Found:
    if row.missing or row.shift is None:
        return _absent(row)
    said = f"{row.workload} is {row.verdict}, {_worse(row)}"
    if row.kind == "noisy":
        said = f"{row.workload} is {row.verdict}, its shift {_worse(row) if row.worse else 0}"
    if row.kind == "exact":
        if row.varies:
            return "regression", f"{said}, and {VARIES}"
        return "regression" if (row.worse or 0.0) > 0 else "ok", said
    if row.verdict == "slower":
        return "regression", f"{said}, the interval {_span(row)}"
    if row.verdict in ("inconclusive", "no-verdict"):
        return "inconclusive", said
    return "ok", said


def _worse(row: Row) -> str:
    worse = row.worse or 0.0
    percent = "" if row.percent is None else f" ({share(abs(row.percent))} %)"
    return (
        f"{_figure(abs(worse))} {row.unit}{percent} {'worse' if worse > 0 else 'better'}"
        if worse
        else "as before"
    )


def _span(row: Row) -> str:
    low, high = row.worse_interval or (0.0, 0.0)
    return f"of how much worse is [{_figure(low)}, {_figure(high)}]"


def _figure(value: float) -> str:
    """Return a figure to six digits, with all of its whole part: limits are often a step away."""
    if not abs(value) < 1e15:
        return f"{value:.6g}"
    if float(value).is_integer():
        return str(int(value))
    return f"{value:.6g}" if abs(value) < 1e5 else f"{value:.1f}"


def _why(row: Row) -> str:
    return "one run has no spread" if min(row.units) < 2 else "the runs are too few for an interval"
