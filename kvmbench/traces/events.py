"""Events of a recording, and the counts of its history.

The reader of lines makes events, the history counts them; docs/trace.md lists the ones it takes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

__all__ = ["ASLEEP", "DEAD", "EVENT_DTYPE", "FIRST_NAMES", "RUNNABLE", "Count", "Kind"]
__all__ += ["PlainCount", "TaskCount"]


class Kind(IntEnum):
    """The kinds of events, as `EVENT_DTYPE`'s `kind`; `a`, `b` and `flag` depend on it."""

    ENTRY = 0  # kvm_entry
    EXIT = 1  # kvm_exit: a, b = info1, info2
    USER = 2  # kvm_userspace_exit: a = its number; `reason` is KVM_EXIT_IO, restart, error ...
    PIO = 3  # kvm_pio: a = port, b = size in bytes; flag = 1 writes
    MMIO = 4  # kvm_mmio: a = address; flag = 0 read, 1 write, 2 unsatisfied read
    MSR = 5  # kvm_msr: a = index; flag = 1 writes
    CPUID = 6  # kvm_cpuid: a = function
    HYPERCALL = 7  # kvm_hypercall
    FPU = 8  # kvm_fpu: flag = 1 loads
    NESTED_EXIT = 9  # kvm_nested_vmexit: an exit of L2
    NESTED = 10  # the other kvm_nested_ events
    SWITCH = 11  # sched_switch: a, b = pids of prev and next; flag = state of prev, see below
    IOPERM = 12  # sys_enter_ioperm: a = first port, b = count; flag = 1 grants
    IOPERM_END = 13  # sys_exit_ioperm: a = its result
    LOST = 14  # the tracer lost events on a CPU: a = how many, -1 where it does not say


RUNNABLE, ASLEEP, DEAD = range(3)
"""The state of prev in a SWITCH: preempted, sleeping, or gone for good."""

FIRST_NAMES = (
    *("", "(other)"),  # no name, and the names after the first 60,000
    *("kvm_cpuid", "kvm_msr", "kvm_pio", "kvm_mmio", "kvm_hypercall"),
)
"""The names that every reader has first; the latter ones are the reasons of inferred exits."""

EVENT_DTYPE = np.dtype(
    [
        *(("time", "i8"), ("a", "i8"), ("b", "i8"), ("pid", "i4"), ("cpu", "i4"), ("vcpu", "i4")),
        *(("comm", "u2"), ("reason", "u2"), ("kind", "u1"), ("flag", "u1"), ("more", "u2")),
        ("end", "u4"),
    ]
)
"""One event, 48 bytes.

`time` is in nanoseconds; `pid`, `cpu` and `vcpu` are -1 where the line has none; `comm` (of the
task that ran) and `reason` (of a SWITCH: the name of next) are indices of `Reader.names`; `more`
and `end` are 0.
"""


class Count(TypedDict):
    """The exits of a reason: of all tasks, where `task` is -1, or of one."""

    task: int
    reason: str
    exits: int
    nested: int
    returned: int
    put_return: int
    put_sched: int
    paired: int
    host_ns: int
    least_ns: int
    most_ns: int
    unpaired: int
    histogram: NDArray[np.uint32] | None


class TaskCount(TypedDict):
    """A vCPU's thread, or a task that holds an I/O bitmap."""

    pid: int | None
    comm: str
    vcpu: int | None
    is_vcpu: bool
    bitmap: bool
    exits: int
    returned: int
    puts: int
    by_switch: int
    guest_ns: int
    run_ns: int
    sleeps: int
    preemptions: int
    slices_ns: int
    migrations: int


class PlainCount(TypedDict):
    """The sums over the other tasks."""

    tasks: int
    run_ns: int
    sleeps: int
    preemptions: int
    slices_ns: int
    migrations: int
