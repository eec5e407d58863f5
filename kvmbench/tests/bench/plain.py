"""The plain C program that the core is timed against: built when a benchmark first wants it."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from dataclasses import astuple
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvmbench.arrays import COUNTERS_DTYPE
from kvmbench.model import Profile
from kvmbench.scenario import sampling
from kvmbench.scenario._host import TYPES
from kvmbench.scenario.scenario import Scenario
from kvmbench.scenario.simulation import task_rows


class _Kind(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("cycles", "user_cycles", "overlap")),
        *((name, ctypes.c_uint8) for name in ("exits", "user")),
    )


@cache
def library() -> ctypes.CDLL:
    """Compile plain.c with `cc -O3` and load it; a machine without a compiler cannot compare."""
    source = Path(__file__).with_name("plain.c")
    target = Path(tempfile.mkdtemp(prefix="kvmbench-plain-")) / "plain.so"
    command = ["cc", "-std=c11", "-O3", "-shared", "-fPIC", "-o", str(target), str(source)]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(target))
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    loaded.plain_new.restype = pointer
    loaded.plain_new.argtypes = [ctypes.c_int, ctypes.c_int, pointer, ctypes.c_int, pointer]
    loaded.plain_run.restype = size
    loaded.plain_run.argtypes = [pointer, pointer, size, pointer]
    loaded.plain_scenario.argtypes = [pointer, pointer, pointer, *[ctypes.c_uint64] * 6]
    for name in ("counters", "cycles"):
        getattr(loaded, f"plain_{name}").argtypes = [pointer, pointer]
    for name in ("reset", "free"):
        getattr(loaded, f"plain_{name}").argtypes = [pointer]
    for name in ("plain_port_check", "plain_port_table"):
        getattr(loaded, name).argtypes = [
            ctypes.c_uint32, ctypes.c_uint16, pointer, pointer, pointer, pointer, size
        ]  # fmt: skip
    return loaded


class _Group(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("mean", "run", "sleep")),
        *((name, ctypes.c_void_p) for name in ("quantiles", "mix")),
        ("mix_count", ctypes.c_uint32),
        ("type", ctypes.c_uint8),
    )


class PlainHost:
    """A scenario's tables and times, as plain_scenario takes them."""

    def __init__(self, scenario: Scenario, profile: Profile, seed: int) -> None:
        self.tasks = task_rows(scenario)
        self.kept: list[NDArray[Any]] = []
        self.groups = (_Group * len(scenario.tasks))()
        self.seed = seed
        epoch = scenario.cycles(scenario.epoch_us)
        self.times = (
            *(scenario.cycles(scenario.timeslice_us), epoch),
            scenario.cycles(scenario.seconds * 10**6),
            *(round(Fraction(scenario.migrations) * epoch), scenario.clock_hz),
        )
        for group, tasks in zip(self.groups, scenario.tasks, strict=True):
            times = (tasks.guest_us or tasks.work_us or 0, tasks.run_us, tasks.sleep_us)
            group.mean, group.run, group.sleep = map(scenario.cycles, times)
            table = sampling.FIXED if tasks.times == "fixed" else sampling.exponential()
            group.quantiles = self._keep(np.array(table, np.uint32))
            kinds = [profile.kind_index(name) for name in tasks.mix]
            choices = sampling.alias_table([*tasks.mix.values()]) if kinds else []
            rows = [(t, kinds[i], kinds[alias]) for i, (t, alias) in enumerate(choices)]
            group.mix = self._keep(np.array(rows, "u4, u2, u2"))
            group.mix_count = len(kinds)
            group.type = TYPES.index(tasks.type)

    def _keep(self, array: NDArray[Any]) -> int:
        self.kept.append(array)
        return array.ctypes.data


class PlainMachine:
    """The C machine: `deferred` on VMX; `run`, `counters`, `reset` as `Machine` has them."""

    def __init__(self, cpus: int, tasks: int, profile: Profile) -> None:
        costs = np.array(astuple(profile.costs), np.uint64)
        kinds = (_Kind * len(profile.kinds))(
            *(_Kind(k.cycles, k.user_cycles, k.overlap, k.exits, k.user) for k in profile.kinds)
        )
        self.cpus = cpus
        self.at = library().plain_new(cpus, tasks, costs.ctypes.data, len(kinds), kinds)
        if not self.at:
            raise MemoryError("plain_new")

    def __del__(self) -> None:
        library().plain_free(self.at)

    def run(self, ops: NDArray[np.void]) -> NDArray[np.uint8]:
        results = np.zeros(len(ops), np.uint8)
        done = library().plain_run(self.at, ops.ctypes.data, len(ops), results.ctypes.data)
        if done < 0:
            raise ValueError(f"operation {-1 - done}")
        return results

    def scenario(self, host: PlainHost) -> None:
        """Simulate `host`; the machine is at its start."""
        status = library().plain_scenario(
            self.at, host.groups, host.tasks.ctypes.data, *host.times, host.seed
        )
        if status:
            raise MemoryError("plain_scenario")

    def reset(self) -> None:
        library().plain_reset(self.at)

    @property
    def counters(self) -> NDArray[np.void]:
        found = np.zeros(self.cpus, COUNTERS_DTYPE)
        library().plain_counters(self.at, found.ctypes.data)
        return found


def port_check(
    tr_limit: int,
    io_base: int,
    tss_map: NDArray[np.uint8],
    ports: NDArray[np.uint16],
    widths: NDArray[np.uint8],
) -> NDArray[Any]:
    """The C loop, called as kvmbench.port_check is."""
    return _checks("plain_port_check", tr_limit, io_base, tss_map, ports, widths)


def port_table(
    tr_limit: int,
    io_base: int,
    tss_map: NDArray[np.uint8],
    ports: NDArray[np.uint16],
    widths: NDArray[np.uint8],
) -> NDArray[Any]:
    """The C loop over a table of 64 KiB, called likewise."""
    return _checks("plain_port_table", tr_limit, io_base, tss_map, ports, widths)


def _checks(
    name: str,
    tr_limit: int,
    io_base: int,
    tss_map: NDArray[np.uint8],
    ports: NDArray[np.uint16],
    widths: NDArray[np.uint8],
) -> NDArray[Any]:
    out = np.empty(ports.shape, np.bool_)
    addresses = [array.ctypes.data for array in (tss_map, ports, widths, out)]
    getattr(library(), name)(tr_limit, io_base, *addresses, ports.size)
    return out
