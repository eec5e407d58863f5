"""The gate of a history: steps for the worse that are still there. `kvmbench history` uses it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from kvmbench import stats
from kvmbench.comparison.gates import Finding, Found, Gate
from kvmbench.comparison.history_rows import LEAST, Row
from kvmbench.comparison.rows import Margin
from kvmbench.errors import unknown_name
from kvmbench.report.figures import figure, plural, share
from kvmbench.stats import CONFIDENCE

if TYPE_CHECKING:
    from kvmbench.comparison.history import History

__all__ = ["gate", "since_place"]

GRAVITY = ("ok", "inconclusive", "regression")


def since_place(history: History, since: str | None) -> int:
    """Return the index of the first point that `since` names: a commit, a name, or a date.

    Raises ValueError where it names no point.
    """
    if not since:
        return 0
    for place, point in enumerate(history.points):
        commit = point.labels.get("commit", "")
        if since == point.name or (len(since) >= 7 and commit.startswith(since)):
            return place
    if since[:4].isdigit() and history.order == "time":
        for place, point in enumerate(history.points):
            if point.time and point.time[: len(since)] >= since:
                return place
    names = [point.labels.get("commit") or point.name for point in history.points]
    raise ValueError(unknown_name("result", since, names))


def gate(history: History, limit: Margin, since: int = 0) -> Gate:
    """Check that no row has become worse by more than `limit` in a step from point `since` on.

    A step counts while it is still there: the level of today is compared with the one before the
    step. A noisy row fails where the whole interval of that shift is beyond the limit, and is
    inconclusive where a part of it is, where the results are too few for any step, and where they
    depend on each other.
    """
    return Gate(
        tuple(Finding(row.name, "", *_judged(history, row, limit, since)) for row in history.rows)
    )


def _judged(history: History, row: Row, limit: Margin, since: int) -> Found:
    known = row.known
    if row.kind == "noisy" and len(known) < LEAST:
        few = f"{plural(len(known), 'result')} of {row.name}"
        return "inconclusive", f"{few} cannot show a step: {LEAST} or more can"
    found: Found = ("ok", f"{row.name} has no step for the worse")
    bounds = [0, *(step.at for step in row.steps), len(history.points)]
    for step, (low, high) in zip(row.steps, pairwise(bounds), strict=False):
        if step.last < since:
            continue
        before, now = row.level(low, high), row.level(bounds[-2], bounds[-1])
        judged = _compared(row, before, now, limit)
        if judged is None:
            continue
        status, words = judged
        point = history.points[step.at]
        where = point.labels.get("commit", "")[:12] or point.name
        if GRAVITY.index(status) > GRAVITY.index(found[0]):
            found = status, f"{row.name} is {words} than before {where}, the limit is {limit}"
    if row.doubt and found[0] == "regression":
        return "inconclusive", f"{found[1]}; neighbouring results depend on each other"
    return found


def _compared(
    row: Row, before: list[int | float], now: list[int | float], limit: Margin
) -> Found | None:
    """Return the status of the level of today against another; None where it is no worse."""
    if row.kind == "exact":
        old, shift = before[-1], row.worse(now[-1] - before[-1])
        ends = (shift, shift)
    else:
        old = float(sorted(before)[len(before) // 2])
        shift = row.worse(stats.hodges_lehmann(before, now))
        interval = stats.mann_whitney_interval(before, now, CONFIDENCE)
        if interval is None:
            ends = (float("-inf"), float("inf"))
        else:
            ends = interval if row.better == "lower" else (-interval[1], -interval[0])
    if shift <= 0:
        return None
    percent = f" ({share(100 * shift / abs(old))} %)" if old else ""
    said = f"{figure(shift)} {row.unit}{percent} worse"
    allowed = limit.of(old)
    if ends[0] > allowed:
        return "regression", said
    return ("inconclusive" if ends[1] > allowed else "ok"), said
