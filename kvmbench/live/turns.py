"""Tasks that share a CPU with the vCPU's thread and take turns with it between two exits.

kvmbench.live.worker starts them for a workload with operations in userspace.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from kvmbench.errors import LiveError
from kvmbench.model import Op

if TYPE_CHECKING:
    from kvmbench.live._kvm import _Act as Act

__all__ = ["Turns", "acts"]


def acts(userspace: Iterable[Sequence[int]], tasks: int) -> list[list[Act]]:
    """Return the acts of each task in an iteration, the vCPU's thread first.

    A task waits at its own pipe, whose number is the task's: SWITCH is a byte for the next one.
    """
    found: list[list[Act]] = [[] for _ in range(tasks)]
    current = 0
    for op, a, b, arg in userspace:
        if op == Op.SWITCH and a != current:
            found[current].append(("give", a))
            found[a].append(("take", a))
            current = a
        elif op == Op.IOPERM:
            found[current].append(("ioperm", a, b, bool(arg)))
        elif op == Op.IO:
            found[current].append(("in", a, arg))
    return found


class Turns:
    """The other tasks of a workload, each a process that waits for its turn.

    `acts` are those of the vCPU's thread. A task ends with the process that started it. Raises
    LiveError where a task cannot hold its ports.
    """

    def __init__(
        self, userspace: Sequence[Sequence[int]], others: Sequence[Sequence[int] | None]
    ) -> None:
        pipes = [os.pipe() for _ in range(1 + len(others))]
        listed = [_with_pipes(one, pipes) for one in acts(userspace, len(pipes))]
        self.pids: list[int] = []
        self.acts = listed[0]
        ready, say = os.pipe()
        for ports, own in zip(others, listed[1:], strict=True):
            if pid := os.fork():
                self.pids.append(pid)
            else:
                _other(ports, own, say)
        # Where one end of a pipe closes, the task at its other end ends.
        self.kept = {number for name, number, *_ in self.acts if name in ("give", "take")}
        for fd in {end for pipe in pipes for end in pipe} - self.kept | {say}:
            os.close(fd)
        errors = b""
        while len(errors) < len(self.pids) and (some := os.read(ready, 64)):
            errors += some
        os.close(ready)
        if failed := next(filter(None, errors), 0):
            self.end()
            raise LiveError(f"ioperm() of another task: {os.strerror(failed)}")

    def explain(self, error: OSError) -> str:
        """Return the meaning of an act's error."""
        if error.errno == errno.EACCES:
            return "the kernel denied a port that the vCPU's thread holds"
        if error.errno != errno.EPIPE:
            return f"{error.filename or 'an act'}: {error.strerror}"
        for pid in self.pids:
            with suppress(ChildProcessError):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended and os.waitstatus_to_exitcode(status) == errno.EACCES:
                    return "the kernel denied a port that another task holds"
        return "another task of the row ended"

    def end(self) -> None:
        """End the tasks."""
        for pid in self.pids:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        for fd in self.kept:
            os.close(fd)
        self.pids, self.kept = [], set()


def _with_pipes(listed: Sequence[Act], pipes: Sequence[tuple[int, int]]) -> list[Act]:
    """Return acts whose pipes are descriptors: the end to read for "take", else to write."""
    ends = {"take": 0, "give": 1}
    return [
        (name, pipes[numbers[0]][ends[name]]) if name in ends else (name, *numbers)  # type: ignore[misc]
        for name, *numbers in listed
    ]


def _other(ports: Sequence[int] | None, own: Sequence[Act], say: int) -> None:
    """Be one of the other tasks: hold its ports, then do its acts until a pipe closes."""
    from kvmbench.live._kvm import act, ioperm

    failed = errno.EIO
    try:
        kept = {say, *(number for name, number, *_ in own if name in ("give", "take"))}
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd not in kept:
                with suppress(OSError):
                    os.close(fd)
        failed = ioperm(ports[0], ports[1], True) if ports else 0
        os.write(say, bytes([failed]))
        os.close(say)
        if not failed:
            failed = act(own)
    finally:
        os._exit(failed)
