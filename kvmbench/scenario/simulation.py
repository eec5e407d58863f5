"""The simulation of a scenario: set up its host, run it by threads, sum it up.

`Scenario` calls it; docs/scenario.md defines which operations a host runs in which order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvmbench._core import Machine
from kvmbench.arrays import COUNTERS, read_only
from kvmbench.catalog import find_policy, find_profile
from kvmbench.causes import CAUSES
from kvmbench.errors import brief
from kvmbench.model import Policy, Profile
from kvmbench.scenario._host import Host
from kvmbench.scenario.result import ScenarioResult

if TYPE_CHECKING:
    from kvmbench.scenario.scenario import Scenario, Tasks

__all__ = ["AnyPolicy", "AnyProfile", "Progress", "Vendor", "host_of", "in_threads", "part"]
__all__ += ["result_of", "simulate", "task_rows"]

GOLDEN = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: multiples spread evenly
PERIOD = 0.05  # seconds between two looks at Ctrl-C and calls of `progress`
Progress = Callable[[float], None]
AnyPolicy = str | Path | Policy  # a built-in name, a TOML file, or the thing itself
AnyProfile = str | Path | Profile
Vendor = Literal["vmx", "svm"]


def part(progress: Progress | None, done: int, parts: int) -> Progress | None:
    """Return the progress function of one of several equal parts of the work."""
    return None if progress is None else lambda share: progress((done + share) / parts)


class _Layout(NamedTuple):
    """A scenario in cycles and rows: what its hosts have in common."""

    groups: tuple[tuple[int, int, int], ...]  # of each: between exits or accesses, run, sleep
    tasks: NDArray[np.int64]  # as `task_rows` has them
    timeslice: int
    epoch: int
    end: int
    migrations: int  # in `hz` epochs


def host_of(
    scenario: Scenario, policy: AnyPolicy, profile: AnyProfile, vendor: Vendor,
    seed: int | None, workers: int,
) -> Host:  # fmt: skip
    """Return a host at its start, to be run by `workers` threads; raises as `Scenario.run`."""
    profile, policy = find_profile(profile), find_policy(policy)
    layout = _layout(scenario)
    groups = [
        (group.type, *cycles, group.times == "fixed",
         [(_kind(group, name, profile), weight) for name, weight in group.mix.items()])
        for group, cycles in zip(scenario.tasks, layout.groups, strict=True)
    ]  # fmt: skip
    return Host(
        Machine(scenario.cpus, len(layout.tasks), policy, profile, vendor), groups, layout.tasks,
        timeslice=layout.timeslice, epoch=layout.epoch, end=layout.end,
        migrations=layout.migrations, hz=scenario.clock_hz,
        seed=scenario.seed if seed is None else seed, workers=workers,
    )  # fmt: skip


@lru_cache(4)  # of a million tasks each, at most: 128 MB
def _layout(scenario: Scenario) -> _Layout:
    groups = []
    for group in scenario.tasks:
        mean = group.guest_us if group.type == "vcpu" else group.work_us
        between, run, sleep = map(scenario.cycles, (mean or 0, group.run_us, group.sleep_us))
        groups.append((between or 1, run, sleep))
    epoch = scenario.cycles(scenario.epoch_us)
    return _Layout(
        tuple(groups), read_only(task_rows(scenario)), scenario.cycles(scenario.timeslice_us),
        epoch, scenario.cycles(scenario.seconds * 10**6),
        round(Fraction(scenario.migrations) * epoch),
    )  # fmt: skip


def task_rows(scenario: Scenario) -> NDArray[np.int64]:
    """Return (group, CPU, first port, ports) of each task; 0 ports: no I/O bitmap."""
    rows = np.zeros((scenario.n_tasks, 4), np.int64)
    share = int(Fraction(scenario.ioperm_share) * 2**64)
    task = others = 0
    for number, group in enumerate(scenario.tasks):
        for i in range(group.count):
            holds = group.ioperm or group.type == "io"
            if not holds:
                # Spread by the golden ratio: evenly, whatever the number of CPUs, and a
                # larger share keeps the holders of a smaller one.
                holds = others * GOLDEN % 2**64 < share
                others += 1
            first = group.port + group.ports * i if holds else 0
            rows[task] = (number, task % scenario.cpus, first, group.ports if holds else 0)
            task += 1
    return rows


def _kind(group: Tasks, name: str, profile: Profile) -> int:
    try:
        return profile.kind_index(name)
    except ValueError:
        raise ValueError(
            f"task group {brief(group.name)} needs exit kind {brief(name)}, "
            f"which profile {brief(profile.name)} does not have"
        ) from None


def simulate(host: Host, workers: int, progress: Progress | None) -> None:
    """Run a host to its end by threads, which have ended when this returns or raises.

    A single worker is this thread: a thread costs more than a small host does.
    """
    host.begin()
    if workers == 1:
        try:
            while host.work(0, PERIOD):
                if progress is not None:
                    progress(host.share_done)
        finally:
            host.finish()
        if progress is not None:
            progress(1)
        return
    threads = [threading.Thread(target=host.work, args=(i,)) for i in range(workers)]
    started = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
        for thread in threads:
            while thread.is_alive():  # joined in steps, so that Ctrl-C is seen
                thread.join(PERIOD)
                if progress is not None:
                    progress(host.share_done)
    except BaseException:
        host.stop()
        raise
    finally:
        for thread in started:
            thread.join()
        host.finish()
    if progress is not None:
        progress(1)


def in_threads(
    runs: Sequence[Callable[[Progress | None], ScenarioResult]], threads: int,
    progress: Progress | None,
) -> list[ScenarioResult]:  # fmt: skip
    """Do several runs, each with a progress function, in threads; return their results in order.

    The first exception, or Ctrl-C, ends all of them. A single thread is this one.
    """
    if threads == 1:
        return [run(part(progress, i, len(runs))) for i, run in enumerate(runs)]
    shares = [0.0] * len(runs)
    stopped = threading.Event()

    def report(number: int, share: float) -> None:
        shares[number] = share
        if stopped.is_set():
            raise InterruptedError

    with ThreadPoolExecutor(threads) as pool:
        try:
            futures = [pool.submit(run, partial(report, i)) for i, run in enumerate(runs)]
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, PERIOD, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                if progress is not None:
                    progress(sum(shares) / len(runs))
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def result_of(scenario: Scenario, host: Host, seed: int, keep_machine: bool) -> ScenarioResult:
    """Return the sums over the CPUs of a host that has run to its end, with its machine if kept."""
    machine = host.machine
    counters = machine.counters
    table = counters.view(np.uint64).reshape(scenario.cpus, -1)
    outside = sum(host.guest_outside.tolist())
    sums = dict(zip(COUNTERS, table.sum(axis=0).tolist(), strict=True))
    cycles = {cause: sums[name] for cause, (name, _) in CAUSES.items()}
    # The machine counts a vCPU thread's time outside KVM_RUN as work; here it is the guest's.
    cycles["guest"] += outside
    cycles["work"] -= outside
    return ScenarioResult(
        scenario=scenario, policy=machine.policy, profile=machine.profile, vendor=machine.vendor,
        seed=seed, cycles=cycles, costs=host.costs, counts={name: sums[name] for name in _COUNTS},
        useful=tuple((counters["c_guest"] + counters["c_work"]).tolist()),
        acted=tuple((counters["c_tr"] + counters["c_map"]).tolist()),
        clocks=tuple(machine.cpu["cycles"].tolist()), operations=host.operations,
        machine=machine if keep_machine else None,
    )  # fmt: skip


_COUNTS = tuple(name for name in COUNTERS if not name.startswith("c_"))
