"""The scenario of a recording: its CPUs, tasks, exit mix and time slices as a TOML file.

`kvmbench trace scenario` writes it, so that what-ifs start from a real host.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kvmbench.catalog import find_profile
from kvmbench.errors import ResultError
from kvmbench.model import Profile
from kvmbench.scenario.scenario import TIME_MAX, Scenario, Tasks
from kvmbench.traces._history import History
from kvmbench.traces._reader import Reader
from kvmbench.traces.events import PlainCount, TaskCount
from kvmbench.traces.recording import Progress, Recording, read_events
from kvmbench.traces.replay import Kinds, clock_of

__all__ = ["recorded_scenario", "scenario_toml"]

TIMESLICE_US = 3000  # where no task is preempted: sched_min_granularity of servers


def recorded_scenario(
    source: str | Path, profile: str | Path | Profile = "patch-2017", *,
    clock_hz: int | None = None, kinds: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> tuple[Scenario, Recording]:  # fmt: skip
    """Return the scenario of a recording, and the recording.

    The exits become exit kinds of the profile as in a replay. Raises as `replay_recording`, and
    ResultError for a recording without a guest run or too short to have rates.
    """
    found_kinds = Kinds(find_profile(profile), kinds)
    hz = clock_of(found_kinds.profile, clock_hz)
    mix: dict[str, int] = {}

    def history(reader: Reader, infer: bool, switches: bool) -> History:
        return History(reader.names, infer=infer, switches=switches, hz=hz, kind=found_kinds.index)

    names = [kind.name for kind in found_kinds.extended().kinds]

    def take(ready: History) -> None:
        _count(ready, names, mix)

    recording, found = read_events(source, history, take, progress)
    mix.pop(names[-1], None)  # entries are no exits
    return _scenario(recording, found, mix, hz), recording


def _count(history: History, names: list[str], mix: dict[str, int]) -> None:
    ops, _ = history.take()
    exits = ops["a"][ops["code"] == 0]
    for kind, count in enumerate(np.bincount(exits, minlength=len(names)).tolist()):
        if count:
            mix[names[kind]] = mix.get(names[kind], 0) + count


def _scenario(recording: Recording, history: History, mix: Mapping[str, int], hz: int) -> Scenario:
    name = recording.source
    tasks = history.task_counts()
    vcpus = [task for task in tasks.values() if task["is_vcpu"]]
    others = [task for task in tasks.values() if not task["is_vcpu"]]
    total = recording.seconds * 1e6  # us
    guest = sum(task["guest_ns"] for task in vcpus) / 1e3
    if not mix or not guest or not total:
        raise ResultError(
            f"{name}: no guest run with a recorded entry and exit: record kvm:kvm_entry and "
            "kvm:kvm_exit"
        )
    ran = sum(task["run_ns"] for task in vcpus) / 1e3
    bursts = sum(task["sleeps"] for task in vcpus)
    groups = [
        Tasks(
            name="vm", type="vcpu", count=len(vcpus), mix=mix,
            guest_us=_rounded(guest / sum(mix.values())),
            **_bursts(guest, len(vcpus) * total - ran, bursts),
        )
    ]  # fmt: skip
    if held := sum(task["bitmap"] for task in vcpus):
        groups[0] = replace(groups[0], ioperm=held == len(vcpus))
    plain = history.plain
    if plain["run_ns"]:
        groups.append(_plain_group("others", [plain], plain["tasks"], total))
    if others:
        holders = _plain_group("bitmap-holders", others, len(others), total)
        groups.append(replace(holders, ioperm=True))
    slices = sum(task["slices_ns"] for task in tasks.values()) + plain["slices_ns"]
    preemptions = sum(task["preemptions"] for task in tasks.values()) + plain["preemptions"]
    timeslice = slices / preemptions / 1e3 if preemptions else TIMESLICE_US
    migrations = sum(task["migrations"] for task in tasks.values()) + plain["migrations"]
    longest = TIME_MAX / hz * 1e6
    try:
        return Scenario(
            name="recorded", about=f"as recorded: {recording.source}"[:500],
            cpus=max(len(recording.cpus), 1), clock_hz=hz, seconds=_rounded(recording.seconds),
            timeslice_us=_rounded(min(max(timeslice, 1.0), longest)),
            migrations=_rounded(migrations / recording.seconds), tasks=tuple(groups),
        )  # fmt: skip
    except ValueError as error:
        raise ResultError(f"{name}: no scenario: {error}") from None


def _plain_group(
    name: str, tasks: Sequence[TaskCount | PlainCount], count: int, total: float
) -> Tasks:
    ran = sum(task["run_ns"] for task in tasks) / 1e3
    bursts = sum(task["sleeps"] for task in tasks)
    return Tasks(name=name, type="plain", count=count, **_bursts(ran, count * total - ran, bursts))


def _bursts(ran: float, slept: float, bursts: int) -> dict[str, Any]:
    """Return mean bursts and sleeps, in us, whose shares are those recorded; none without sleep."""
    if not bursts or ran <= 0 or slept <= 0:
        return {}
    return {"run_us": _rounded(ran / bursts), "sleep_us": _rounded(slept / bursts)}


def _rounded(value: float) -> float:
    """Return a figure to six digits: more would promise a precision that no recording has."""
    return float(f"{value:.6g}")


def scenario_toml(scenario: Scenario, recording: Recording, profile: str) -> str:
    """Return the TOML file of a recorded scenario, with the origin of its figures."""

    def pair(name: str, value: object) -> str:
        return f"{name} = {json.dumps(value, ensure_ascii=True)}"

    lines = [
        pair("name", scenario.name),
        pair("about", scenario.about),
        "",
        f"# Means of {recording.exits:,} VM exits in {recording.seconds:.4g} s. The exit kinds are "
        "those of the cost",
        f"# profile {json.dumps(profile)}; sleeps include the wait for a CPU.",
        *(pair(n, getattr(scenario, n)) for n in ("cpus", "clock_hz", "seconds", "timeslice_us")),
        pair("migrations", scenario.migrations),
    ]
    for group in scenario.tasks:
        lines += ["", "[[tasks]]", *(pair(n, getattr(group, n)) for n in ("name", "type", "count"))]
        lines += [
            pair(n, getattr(group, n))
            for n in ("guest_us", "run_us", "sleep_us")
            if getattr(group, n)
        ]
        if group.ioperm:
            lines.append(pair("ioperm", True))
        if group.mix:
            lines += ["[tasks.mix]", *(f"{json.dumps(k)} = {v}" for k, v in group.mix.items())]
    return "\n".join(lines) + "\n"
