"""The points of a design computed, each a line of JSON.

`engines` calls a `Runner` in each of its processes; the lines are the same in all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from kvmbench.checker.verdict import check
from kvmbench.errors import KvmbenchError, SweepError
from kvmbench.model import MODEL_VERSION, Policy
from kvmbench.report import Record
from kvmbench.scenario.result import Comparison, ScenarioResult
from kvmbench.simulation.simulate import simulate
from kvmbench.sweeps.design import (
    DEFAULTS,
    VERSION,
    Design,
    Value,
    design_of,
    own_values,
    with_value,
)
from kvmbench.sweeps.document import HEAD, TEXTS

__all__ = ["Runner", "again"]

MADE = 256  # things with other values that a runner keeps
MILLION = 1_000_000


class Runner:
    """Computes points of a design in the calling thread; quickest in their order.

    `max_memory` bounds each check, in bytes; None is `check`'s default.
    """

    def __init__(self, design: Design, max_memory: int | None = None) -> None:
        if design.version != VERSION:
            raise SweepError(
                f"this process has kvmbench {VERSION}, and the design is of "
                f"kvmbench {design.version}: install the same version everywhere"
            )
        self.design = design
        self.max_memory = max_memory
        self._number = -1  # of the row below, and its result under `before`
        self._row: Mapping[str, Value] = {}
        self._before: ScenarioResult | None = None
        self._things: Mapping[str, Any] = {}
        others = [name for name in design.axes if name not in DEFAULTS[design.job]]
        first = design.row(0)
        self._owned = {  # profile and scenario: the axes that are values of theirs
            name: [key for key in others if key in own_values(first[name])]
            for name in ("profile", "scenario") if name in first
        }  # fmt: skip
        self._made: dict[tuple[object, ...], Any] = {}

    def chunk(self, points: Iterable[int]) -> tuple[list[tuple[int, bytes]], float]:
        """Return (point, line) of each of some points, and the seconds of CPU that they took."""
        begun = time.thread_time()
        found = [(point, self.line(point)) for point in points]
        return found, time.thread_time() - begun

    def line(self, point: int) -> bytes:
        """Return the line of a point. Raises SweepError that names the point and its values."""
        design = self.design
        number, at = divmod(point, len(design.policies))
        policy = design.policies[at]
        if number != self._number:  # the policies of a row share its things and the run of `before`
            self._number, self._row = number, design.row(number)
            self._things, self._before = {}, None
        row = self._row
        shown = {name: getattr(value, "name", value) for name, value in row.items()}
        try:
            things = self._things = self._things or self._things_of(row)
            if design.job == "scenario" and self._before is None:
                self._before = _run(things, design.before)
            figures = _figures(design, things, policy, self._before, self.max_memory)
        except (KvmbenchError, ValueError, MemoryError) as error:
            place = ", ".join(f"{name} {value}" for name, value in shown.items())
            said = str(error) or "no memory left"
            raise SweepError(f"point {point} ({place}, {policy.name}): {said}") from None
        head = (design.id, point, design.n_points, design.version, MODEL_VERSION, design.job)
        record = dict(zip(HEAD, head, strict=True)) | shown | {"policy": policy.name} | figures
        return msgspec.json.encode(record | design.texts(row, policy)) + b"\n"

    def _things_of(self, row: Mapping[str, Value]) -> Mapping[str, Any]:
        """Return a row with the values of its figures and parameters put into its things."""
        things: dict[str, Any] = dict(row)
        for name, own in self._owned.items():
            changes = {key: row[key] for key in own}
            key = (id(row[name]), *changes.items())
            if key not in self._made:
                if len(self._made) > MADE:
                    self._made.clear()
                self._made[key] = with_value(row[name], changes) if changes else row[name]
            things[name] = self._made[key]
        return things


def _run(things: Mapping[str, Any], policy: Policy | None) -> ScenarioResult:
    result: ScenarioResult = things["scenario"].run(
        policy, things["profile"], vendor=things["vendor"], keep_machine=False
    )
    return result


def _figures(
    design: Design, things: Mapping[str, Any], policy: Policy, before: ScenarioResult | None,
    max_memory: int | None = None,
) -> Record:  # fmt: skip
    """Return the figures of a point: columns of the job, in an order that never changes.

    Raises ValueError as the job does, and SweepError for a check that `max_memory` ended: its
    figures would depend on the machine.
    """
    jobs: Mapping[str, Callable[..., Record]] = {
        "scenario": _scenario, "workload": _workload, "check": _check,
    }  # fmt: skip
    return jobs[design.job](design, things, policy, before, max_memory)


def _scenario(
    design: Design, things: Mapping[str, Any], policy: Policy, before: ScenarioResult | None, _: Any
) -> Record:
    assert before is not None
    after = before if policy == before.policy else _run(things, policy)
    record = Comparison(before, after).record()
    for name in ("scenario", "profile", "vendor", "policy_before", "policy_after"):
        del record[name]
    useful, acted = sum(after.useful), sum(after.acted)
    percent, error, cores = (record.pop(n) for n in ("percent", "error", "cores_per_1000"))
    first = {
        "before": before.policy.name, "worth": percent, "worth_error": error,
        "cores_per_1000": cores, "cycles": MILLION * acted / useful if useful else None,
    }  # fmt: skip
    return first | record


def _workload(design: Design, things: Mapping[str, Any], policy: Policy, *_: Any) -> Record:
    assert design.before is not None
    done = simulate(
        [things["workload"]], design.before, policy, things["profile"],
        iterations=design.iterations, ioperm=things["ioperm"], vendor=things["vendor"],
    )  # fmt: skip
    (record,) = done.records()
    del record["workload"]
    before, after = record.pop("before"), record.pop("after")
    first = {
        "before": design.before.name, "iterations": design.iterations, "cycles": after,
        "cycles_before": before,
    }  # fmt: skip
    return first | record


def _check(
    design: Design, things: Mapping[str, Any], policy: Policy, _: Any, max_memory: int | None
) -> Record:
    sizes = {name: things[name] for name in ("cpus", "tasks", "ports")}
    found = check(policy, **sizes, max_states=design.max_states, max_memory=max_memory)
    if found.stopped:
        raise KeyboardInterrupt
    if found.reason and "states" not in found.reason:
        raise SweepError(
            f"{found.reason} at {found.states:,} states: use fewer processes, so that each has "
            "more, or set max_states in the design"
        )
    bad = found.counterexample
    return {
        "max_states": design.max_states, "verdict": found.verdict,
        "violation": bad.violation if bad else None,
        "events": len(bad.events) if bad else None, "states": found.states,
        "transitions": found.transitions, "depth": found.depth,
        "wasted_reloads": len(found.wasted_reloads),
        "unreachable_steps": len(found.unreachable_steps),
    }  # fmt: skip


def again(record: Mapping[str, Any]) -> Record:
    """Compute the figures of a point's line again, from that line alone.

    Raises SweepError where the line is of another version of kvmbench.
    """
    made: Record = msgspec.json.decode(Runner(design_of(record)).line(0))
    return {name: value for name, value in made.items() if name not in (*HEAD, *TEXTS)}
