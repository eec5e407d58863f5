# cython: language_level=3
"""A simulator compiled against kvmbench: its loop runs without the GIL."""
from libc.stdint cimport int64_t, uint64_t

from kvmbench cimport (
    KB_OK, KbCounters, KbMachine, Machine, kb_advance, kb_allowed, kb_check_api, kb_counters,
    kb_cycles, kb_exit, kb_switch,
)

kb_check_api()      # ImportError where kvmbench was built with other records


cdef int _timeslice(KbMachine* m, int64_t cpu, int64_t task, int64_t kinds, uint64_t length,
                    uint64_t* random) noexcept nogil:
    """Switch `cpu` to `task` and let it run and exit for `length` cycles."""
    cdef uint64_t end = kb_cycles(m, cpu) + length
    cdef uint64_t cycles
    cdef int status = kb_switch(m, cpu, task, &cycles)
    while status == KB_OK and kb_cycles(m, cpu) < end:
        random[0] = random[0] * <uint64_t>6364136223846793005 + <uint64_t>1442695040888963407
        status = kb_advance(m, cpu, random[0] >> 50, &cycles)
        if status == KB_OK:
            status = kb_exit(m, cpu, (random[0] >> 33) % <uint64_t>kinds, &cycles)
    return status


def round_robin(Machine machine, int tasks, int slices, uint64_t length, uint64_t seed):
    """Run `slices` timeslices on CPU 0, tasks in turn; return how many exits and cycles it took.

    Raises RuntimeError with the status of an operation that the machine refused.
    """
    cdef KbMachine* m = &machine.m
    cdef KbCounters counters
    cdef int64_t kinds = m.n_kinds
    cdef int status = KB_OK, i
    with nogil:
        for i in range(slices):
            status = _timeslice(m, 0, i % tasks, kinds, length, &seed)
            if status != KB_OK:
                break
        kb_counters(m, 0, &counters)
    if status != KB_OK:
        raise RuntimeError(f"kvmbench status {status}")
    return counters.exits, kb_cycles(m, 0), kb_allowed(m, 0, 0x80, 1)
