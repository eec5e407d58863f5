"""Random histories of a machine's operations, and the part that each process has in one.

`kvmbench.lab.differ` draws and judges them; `kvmbench.lab.actors` does them on a real kernel.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from kvmbench.model import Op, Operation

__all__ = ["ALLOWED", "DENIED", "HISTORY", "KINDS", "TASKS", "Call", "Life", "Segment", "draw"]
__all__ += ["parts", "tag"]

HISTORY = 1 << 42  # a mark from here on is of a history
ALLOWED, DENIED = 1, 2  # answers to an IO
TASKS = 4
KINDS = ("cpuid", "inl_from_kernel", "mov_from_cr8", "inl_from_qemu")
"""Exit kinds: two that the kernel handles, one without an exit, one that returns to userspace."""
USER = KINDS.index("inl_from_qemu")
WINDOWS = (range(0x2000, 0x2010), range(0xFFF0, 0x10000))
"""Ports without a device: in the middle of the map, and at its end."""
LARGEST = 16  # ports of one ioperm(), mostly
IN_GUEST = (Op.EXIT, Op.EXIT, Op.EXIT, Op.SWITCH)
OUTSIDE = (
    *[Op.EXIT] * 22, *[Op.SWITCH] * 20, *[Op.IOPERM] * 14, *[Op.IO] * 43, Op.TASK_EXIT
)  # fmt: skip

Call = tuple[str | int, ...]
"""A call of a process: a word of `parts`, and numbers."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The operations between two moments at which the current task is outside the guest."""

    start: int  # index of the first operation
    stop: int  # and of the first one after it
    switches: int  # that a kernel does for them


@dataclass(slots=True)
class Life:
    """The part of one process: a task of the model from its first SWITCH to its TASK_EXIT."""

    task: int
    calls: list[Call] = field(default_factory=list)
    guest: list[Call] = field(default_factory=list)  # of its guest's whole program


def draw(seed: str, operations: int, tasks: int = TASKS) -> list[Operation]:
    """Return a history of about `operations` operations on one CPU, all of them possible.

    The same seed gives the same history. A SWITCH goes from one task directly to another one, and
    from inside a guest to a task that is outside; a TASK_EXIT is one of a task outside its guest.
    """
    source = random.Random(seed)
    found: list[Operation] = [Operation(Op.SWITCH, source.randrange(tasks))]
    current, inside, loaded = found[0].a, set[int](), False
    held: list[set[int]] = [set() for _ in range(tasks)]  # ports
    while len(found) < operations or current in inside:
        others = [task for task in range(tasks) if task != current]
        if current in inside:
            ready = [task for task in others if task not in inside]
            op = source.choice(IN_GUEST) if loaded and ready else Op.EXIT
            if len(found) >= operations:
                op = Op.EXIT
            others = ready
        else:
            op = source.choice(OUTSIDE)
        if op == Op.EXIT:
            kind = source.randrange(len(KINDS)) if len(found) < operations else USER
            found.append(Operation(op, kind))
            loaded = kind != USER
            (inside.add if loaded else inside.discard)(current)
        elif op == Op.IOPERM:
            found.append(_ioperm(source))
            _, first, count, on = found[-1]
            own, ports = held[current], range(first, first + count)
            held[current] = own.union(ports) if on else own.difference(ports)
        elif op == Op.IO:
            own = held[current] if source.random() < 0.6 else set()
            port = source.choice(sorted(own)) if own else _port(source)
            found.append(Operation(op, port, arg=source.choice((1, 2, 4))))
        else:
            if op == Op.TASK_EXIT:
                found.append(Operation(op))
                held[current] = set()
            current, loaded = source.choice(others), False
            found.append(Operation(Op.SWITCH, current))
    return found


def _port(source: random.Random) -> int:
    return source.choice(source.choice(WINDOWS))


def _ioperm(source: random.Random) -> Operation:
    if source.random() < 0.05:  # all of them, or none at all
        return Operation(Op.IOPERM, 0, 0x10000, 0)
    first = _port(source)
    count = min(source.randint(1, LARGEST), 0x10000 - first)
    return Operation(Op.IOPERM, first, count, int(source.random() < 0.75))


def parts(history: Sequence[Operation]) -> tuple[list[Life], list[Segment]]:
    """Return each process's part, in the order in which they come to be current, and the segments.

    Segments begin after the first operation, which makes a task current. The calls of a process
    outside its guest, and the instructions of its guest:

    - ("take",): wait until another process gives the CPU.
    - ("park", life): that process was interrupted inside its guest; it waits for "resume".
    - ("give", life), ("resume", life): give the CPU to a process outside its guest, or inside.
    - ("run",): run the guest up to its next ("user",).
    - ("ioperm", first, count, on), and ("port_in", port, width, index of the operation).
    - ("mark", number): the begin of the first segment is 0, then the end of each.
    - ("exit",), and ("end",) for the last call of all.
    - ("kind", exit kind), ("user",) and ("give", life) in the guest.
    """
    found = [Life(history[0].a)]
    found[0].calls += [("take",), ("mark", 0)]
    of_task, inside = {history[0].a: 0}, set[int]()  # both by task
    cut: list[Segment] = []
    current, start, switches = history[0].a, 1, 0
    mine, exited = found[0], False
    for index, (op, a, b, arg) in enumerate(history[1:], 1):
        if op == Op.EXIT:
            if current not in inside:
                mine.calls.append(("run",))
            mine.guest.append(("user",) if a == USER else ("kind", a))
            (inside.discard if a == USER else inside.add)(current)
        elif op == Op.IOPERM:
            mine.calls.append(("ioperm", a, b, arg))
        elif op == Op.IO:
            mine.calls.append(("port_in", a, arg, index))
        elif op == Op.TASK_EXIT:
            exited = True
        else:
            switches += 1
            if a not in of_task:
                of_task[a] = len(found)
                found.append(Life(a))
            if current in inside:
                mine.guest.append(("give", of_task[a]))
            else:
                mine.calls.append(("resume" if a in inside else "give", of_task[a]))
            before, current = (current, of_task[current]), a
            if exited:
                mine.calls.append(("exit",))
                del of_task[before[0]]
            elif before[0] not in inside:
                mine.calls.append(("take",))
            mine, exited = found[of_task[a]], False
            if a not in inside:
                mine.calls += [("take",)] if not mine.calls else []
                mine.calls += [("park", before[1])] if before[0] in inside else []
        if not exited and current not in inside:
            cut.append(Segment(start, index + 1, switches))
            start, switches = index + 1, 0
            mine.calls.append(("mark", len(cut)))
    mine.calls.append(("end",))
    return found, cut


def tag(number: int, segment: int) -> int:
    """Return the mark at the end of a segment of a history; 0 is the first one's begin."""
    return HISTORY + (number << 20) + segment
