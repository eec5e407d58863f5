"""A simulator's loop in numba that steps the machine by function pointer, without Python.

pip install kvmbench numba
python numba_loop.py
"""

import ctypes

import numba
import numpy as np
from numba.extending import get_cython_function_address

from kvmbench import Machine

# int kb_exit(KbMachine*, int64 cpu, int64 kind, uint64* cycles); 0 is KB_OK. _steps.pxd has all.
EXIT = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
)
kb_exit = EXIT(get_cython_function_address("kvmbench._steps", "kb_exit"))


@numba.njit(nogil=True)
def exits(machine, cpu, kinds, n, seed):
    """Exit `n` times with a kind drawn from `kinds`; return the cycles charged, -1 if refused."""
    state = np.uint64(seed)
    cost = np.zeros(1, np.uint64)
    total = np.uint64(0)
    for _ in range(n):
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        kind = kinds[(state >> np.uint64(33)) % np.uint64(len(kinds))]
        if kb_exit(machine, cpu, kind, cost.ctypes.data) != 0:
            return -1
        total += cost[0]
    return np.int64(total)


def run(n=1_000_000):
    """Return a Machine after `n` random exits on CPU 0, and the cycles that the loop added up."""
    machine = Machine(1, 1, "deferred", "patch-2017")
    machine.switch(0, 0)
    kinds = np.arange(len(machine.profile.kinds))
    # The address is valid as long as `machine` lives.
    return machine, exits(machine.address, 0, kinds, n, 2017)


def main():
    machine, total = run()
    counters = machine.counters[0]
    print(f"{counters['exits']} exits, {counters['puts']} puts, {total} cycles")


if __name__ == "__main__":
    main()
