"""Gates: limits on the rows of a comparison, for a CI job. The command `compare` uses them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite
from typing import Literal

import numpy as np
from msgspec.structs import replace

from kvmbench import stats
from kvmbench.comparison.design import careful_interval
from kvmbench.comparison.rows import Margin, Row
from kvmbench.comparison.verdicts import Comparison
from kvmbench.errors import brief, unknown_name
from kvmbench.report.figures import plural, share, some
from kvmbench.units import listed

__all__ = ["Finding", "Gate", "Limit", "gate"]

VARIES = "is not the same in every run"

Status = Literal["ok", "regression", "inconclusive"]
GRAVE: tuple[Status, ...] = ("regression", "inconclusive")  # the gravest first
WORDS = {"ok": "passed", "regression": "failed", "inconclusive": "inconclusive"}
Found = tuple[Status, str]


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
            raise ValueError(f"{brief(text)} is not ROW:LIMIT with {what}") from None
        return cls(pattern, at_most=value) if limit[0] == "<" else cls(pattern, at_least=value)


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one limit for one row."""

    workload: str
    to: str  # the label of the side that is judged
    status: Status
    words: str
    missing: str = ""  # why the row cannot be compared


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
        """One line per row that is not ok, one for those that lack the same side, and the sum."""
        lines = listed(
            (f"{WORDS[found.status]}: {{}}: {found.missing}", found.workload)
            if found.missing
            else (f"{WORDS[found.status]}: {found.words}", "")
            for found in self.findings
            if found.missing or found.status != "ok"
        )
        said = [line.replace("{}", some(names), 1) for line, names in lines.items()]
        counts = Counter(finding.status for finding in self.findings)
        parts = [f"{counts[status]} {WORDS[status]}" for status in GRAVE if counts[status]]
        of = f"{', '.join(parts)} of " if parts else ""
        return (*said, f"Gate {WORDS[self.status]}: {of}{plural(len(self.findings), 'check')}.")


def gate(comparisons: Sequence[Comparison], limits: Sequence[Limit], any_row: bool) -> Gate:
    """Check comparisons against `limits`, and with `any_row` that no row is slower.

    A noisy row fails where its whole interval is beyond a limit, and passes where all of it is
    within; otherwise, and where it is in doubt, it is inconclusive. A bound is about after alone:
    no doubt about the comparison touches it. A row that after lacks fails; one that before lacks
    passes, and a bound on after holds for it too. Raises ValueError for a limit whose pattern names
    no row, or that is no bound where there is no before.
    """
    rows = [(row, comparison) for comparison in comparisons for row in comparison.rows]
    names = list(dict.fromkeys(row.workload for row, _ in rows))
    for limit in limits:
        if not any(fnmatchcase(name, limit.pattern) for name in names):
            raise ValueError(unknown_name("row", limit.pattern, names))
    findings = []
    for row, comparison in rows:
        checks: list[Limit | None] = [*limits, *([None] if any_row else [])]
        for check in checks:
            if check is None or fnmatchcase(row.workload, check.pattern):
                bound = check is not None and check.worse is None
                missing = "" if bound and row.after is not None else row.missing or ""
                missing = missing[:1].lower() + missing[1:]
                if missing:
                    found: Found = "ok" if row.new else "regression", f"{row.workload}: {missing}"
                elif check is None:
                    found = _any(row)
                elif bound:
                    found = _bounded(row, check, comparison)
                else:
                    found = _held(row, check, comparison)
                if row.doubts and not bound and not missing:
                    found = "inconclusive", f"{found[1]}, in doubt: {', '.join(row.doubts)}"
                findings.append(Finding(row.workload, row.to, *found, missing))
    return Gate(tuple(findings))


def _judged(low: float, high: float, most: float, said: str) -> Found:
    return "regression" if low > most else "ok" if high <= most else "inconclusive", said


def _held(row: Row, limit: Limit, comparison: Comparison) -> Found:
    assert limit.worse is not None
    allowed = limit.worse.of(row.before or 0.0)
    said = f"{row.workload} is {_worse(row)}, the limit is {limit.worse}"
    if row.varies:
        return "regression", f"{said}, and {VARIES}"
    if row.kind == "exact":
        return _judged(row.worse or 0.0, row.worse or 0.0, allowed, said)
    row = replace(row, interval=careful_interval(comparison, row))
    if row.worse_interval is None:
        return "inconclusive", f"{said}, and {_why(row.units)}"
    return _judged(*row.worse_interval, allowed, f"{said}, the interval {_span(row)}")


def _bounded(row: Row, limit: Limit, comparison: Comparison) -> Found:
    """Check the figure of after, not its shift, against the limit."""
    figures = comparison.figures[row.workload][1]
    figures = figures[np.isfinite(figures)]
    bound, sign = (limit.at_most, 1) if limit.at_most is not None else (limit.at_least, -1)
    assert bound is not None
    assert row.after is not None
    word = "at most" if sign > 0 else "at least"
    said = f"{row.workload} is {_figure(row.after)} {row.unit}, expected {word} {_figure(bound)}"
    if row.varies:
        return "regression", f"{said}, and {VARIES}"
    if row.kind == "exact":
        return _judged(sign * row.after, sign * row.after, sign * bound, said)
    interval = stats.median_interval(figures, comparison.confidence)
    if interval is None:
        return "inconclusive", f"{said}, and {_why([len(figures)])}"
    said += f", the interval [{_figure(interval[0])}, {_figure(interval[1])}]"
    low, high = sorted(sign * end for end in interval)
    return _judged(low, high, sign * bound, said)


def _any(row: Row) -> Found:
    if row.kind == "exact":
        said = f"{row.workload} is {row.verdict}, {_worse(row)}"
        if row.varies:
            return "regression", f"{said}, and {VARIES}"
        return _judged(row.worse or 0.0, row.worse or 0.0, 0.0, said)
    said = f"{row.workload} is {row.verdict}, its shift {_worse(row) if row.worse else 0}"
    if row.verdict == "slower":
        return "regression", f"{said}, the interval {_span(row)}"
    small = row.verdict == "slightly slower" and (row.worse_interval or (0, 0))[1] <= (
        row.margin or 0.0
    )
    undecided = row.verdict in ("slightly slower", "inconclusive", "no-verdict") and not small
    return "inconclusive" if undecided else "ok", said


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


def _why(units: Sequence[int]) -> str:
    return "one run has no spread" if min(units) < 2 else "the runs are too few for an interval"
