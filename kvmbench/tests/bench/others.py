"""Other ways to the same answers, as somebody without kvmbench would write them."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit
def _numba_loop(
    last: int,
    tss_map: NDArray[np.uint8],
    ports: NDArray[np.uint16],
    widths: NDArray[np.uint8],
    out: NDArray[np.bool_],
) -> None:
    for i in range(len(ports)):
        byte = ports[i] >> 3
        word = np.uint32(tss_map[byte]) | np.uint32(tss_map[byte + 1]) << np.uint32(8)
        bits = ((np.uint32(1) << widths[i]) - np.uint32(1)) << np.uint32(ports[i] & 7)
        out[i] = byte <= last and (word & bits) == 0


def numba_check(
    limit: int, base: int, tss_map: NDArray[Any], ports: NDArray[Any], widths: NDArray[Any]
) -> NDArray[np.bool_]:
    out = np.empty(ports.shape, np.bool_)
    _numba_loop(limit - base - 1, tss_map, ports, widths, out)
    return out


def numpy_check(
    limit: int, base: int, tss_map: NDArray[Any], ports: NDArray[Any], widths: NDArray[Any]
) -> NDArray[np.bool_]:
    words = tss_map[:-1] | tss_map[1:].astype(np.uint16) << 8
    byte = ports >> 3
    bits = ((1 << widths.astype(np.uint16)) - 1) << (ports & 7)
    return (byte <= limit - base - 1) & (words[byte] & bits == 0)


def _allowed(limit: int, base: int, tss_map: NDArray[Any]) -> dict[int, NDArray[np.bool_]]:
    ports = np.arange(65536, dtype=np.uint16)
    return {
        width: numpy_check(limit, base, tss_map, ports, np.full(65536, width, np.uint8))
        for width in (1, 2, 4)
    }


def bitarray_check(
    limit: int, base: int, tss_map: NDArray[Any], ports: NDArray[Any], widths: NDArray[Any]
) -> NDArray[np.bool_]:
    from bitarray import bitarray

    out = np.empty(ports.shape, np.bool_)
    for width, allowed in _allowed(limit, base, tss_map).items():
        bits = bitarray(allowed.tolist())
        here = widths == width
        chosen = bits[ports[here].tolist()]
        out[here] = np.frombuffer(chosen.unpack(), np.bool_)
    return out


def pyroaring_check(
    limit: int, base: int, tss_map: NDArray[Any], ports: NDArray[Any], widths: NDArray[Any]
) -> NDArray[np.bool_]:
    from pyroaring import BitMap

    sets = {
        width: BitMap(np.flatnonzero(allowed).astype(np.uint32))
        for width, allowed in _allowed(limit, base, tss_map).items()
    }
    pairs = zip(ports.tolist(), widths.tolist(), strict=True)
    return np.fromiter((port in sets[width] for port, width in pairs), np.bool_, len(ports))


# `n` userspace exits under `deferred`, in cycles: host state saved, the exit, the put, userspace.


def simpy_exits(n: int, costs: Any, kind: Any) -> int:
    """One event a segment."""
    import simpy

    def guest(env: Any) -> Any:
        for _ in range(n):
            yield env.timeout(costs.host_save)
            yield env.timeout(kind.cycles)
            yield env.timeout(costs.host_restore)
            yield env.timeout(costs.mark)
            yield env.timeout(kind.user_cycles)

    env = simpy.Environment()
    env.process(guest(env))
    env.run()
    return int(env.now)


class PlainVcpu:
    """A vCPU in plain Python, with the counters that this kind of exit moves."""

    def __init__(self, costs: Any) -> None:
        self.costs = costs
        self.cycles = self.exits = self.puts = self.marks = 0
        self.loaded = self.stale = False

    def exit(self, kind: Any) -> None:
        if not self.loaded:
            self.loaded = True
            self.cycles += self.costs.host_save
        self.exits += 1
        self.cycles += kind.cycles
        if kind.user:
            self.loaded = False
            self.puts += 1
            self.marks += 1
            self.stale = True
            self.cycles += self.costs.host_restore + self.costs.mark + kind.user_cycles


def python_exits(n: int, costs: Any, kind: Any) -> int:
    vcpu = PlainVcpu(costs)
    for _ in range(n):
        vcpu.exit(kind)
    return vcpu.cycles


@numba.njit
def _numba_exits(
    kinds: Any, save: int, cycles: Any, restore: int, mark: int, user_cycles: Any
) -> Any:
    counters = np.zeros(4, np.uint64)
    loaded = False
    for kind in kinds:
        if not loaded:
            loaded = True
            counters[0] += save
        counters[0] += cycles[kind]
        counters[1] += 1
        if user_cycles[kind]:
            loaded = False
            counters[2] += 1
            counters[3] += 1
            counters[0] += restore + mark + user_cycles[kind]
    return counters[0]


def numba_exits(n: int, costs: Any, kind: Any) -> int:
    cycles, user_cycles = (np.array([c], np.uint64) for c in (kind.cycles, kind.user_cycles))
    kinds = np.zeros(n, np.uint8)
    save, restore, mark = costs.host_save, costs.host_restore, costs.mark
    return int(_numba_exits(kinds, save, cycles, restore, mark, user_cycles))


def machine_exits(n: int, costs: Any, kind: Any) -> int:
    """kvmbench, one call of Python an exit."""
    from kvmbench import Machine

    machine = Machine(1, 1, "deferred", "patch-2017")
    machine.switch(0, 0)
    return sum(machine.exit(0, kind.name) for _ in range(n))


EXITS = {
    "SimPy, an event a segment": (20_000, simpy_exits),
    "plain Python class": (200_000, python_exits),
    "kvmbench, Machine.exit": (200_000, machine_exits),
    "numba, this kind alone": (10_000_000, numba_exits),
}
