"""The jobs that the benchmarks time: fixed inputs, the same on every machine."""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

from kvmbench.arrays import OP_DTYPE
from kvmbench.model import Op, Profile

CPUS, TASKS = 64, 256


def equal_exits(n: int, kind: int) -> NDArray[np.void]:
    """Return `n` EXITs of one kind on CPU 0, after the SWITCH to task 0 that they need."""
    ops = np.zeros(n + 1, OP_DTYPE)
    ops["a"] = kind
    ops[0] = (Op.SWITCH, 0, 0, 0, 0, 0)
    return ops


def mix(n: int, profile: Profile, seed: int = 2017) -> NDArray[np.void]:
    """Return `n` operations on 64 CPUs and 256 tasks, 64 SWITCHes first.

    90 % EXIT over all kinds of the profile, 6 % IO, 3.5 % SWITCH, 0.5 % IOPERM of 1 to 8 ports
    below 0x400; each on a CPU drawn again, and every one of them can be done.
    """
    rng = random.Random(seed)
    user = [kind.user for kind in profile.kinds]
    task_on = list(range(CPUS))
    waiting = list(range(CPUS, TASKS))
    in_run = [False] * TASKS
    ops = np.zeros(n, OP_DTYPE)
    ops[:CPUS] = [(Op.SWITCH, 0, cpu, cpu, 0, 0) for cpu in range(CPUS)]
    for i in range(CPUS, n):
        cpu = rng.randrange(CPUS)
        drawn = rng.random()
        if drawn < 0.9:
            kind = rng.randrange(len(user))
            in_run[task_on[cpu]] = not user[kind]
            ops[i] = (Op.EXIT, 0, cpu, kind, 0, 0)
        elif drawn < 0.935:
            at = rng.randrange(len(waiting))
            waiting[at], task_on[cpu] = task_on[cpu], waiting[at]
            ops[i] = (Op.SWITCH, 0, cpu, task_on[cpu], 0, 0)
        else:
            while in_run[task_on[cpu]]:  # a task inside KVM_RUN does neither
                cpu = (cpu + 1) % CPUS
            port = rng.randrange(0x400 - 8)
            if drawn < 0.995:
                ops[i] = (Op.IO, rng.choice((1, 2, 4)), cpu, port, 0, 0)
            else:
                ops[i] = (Op.IOPERM, rng.randrange(2), cpu, port, rng.randint(1, 8), 0)
    return ops


def checks(n: int, seed: int = 2017) -> tuple[NDArray[np.uint8], ...]:
    """Return a TSS map with half of the ports denied, and `n` random ports and widths."""
    rng = np.random.default_rng(seed)
    tss_map = rng.integers(0, 256, 8193, dtype=np.uint8)
    tss_map[-1] = 0xFF
    ports = rng.integers(0, 65536, n, dtype=np.uint16)
    widths = rng.choice(np.array([1, 2, 4], np.uint8), n)
    return tss_map, ports, widths
