"""Processes on one CPU that do a history's operations: real exits, switches, ioperm() and IN.

`kvmbench.lab.inside` calls `play` in the emulated machine; `kvmbench.lab.histories` has the parts.
"""

from __future__ import annotations

import gc
import mmap
import os
import select
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from kvmbench.errors import LiveError
from kvmbench.guest import image
from kvmbench.guest.assembler import RDX, Code
from kvmbench.guest.programs import Program
from kvmbench.lab.histories import ALLOWED, DENIED, KINDS, Life, parts, tag
from kvmbench.model import Operation
from kvmbench.workloads import BUILT_IN

__all__ = ["play"]

PARKED, GUEST, OUTSIDE = 1, 2, 3
"""Real-time priorities: the guest's thread is interrupted by a process that waits outside."""
GIVE_PORT = 0x3000  # an OUT of the guest to it plus a life's number wakes that life
PATIENCE = 60.0  # seconds of the machine's clock for one history
THROTTLE = Path("/proc/sys/kernel/sched_rt_runtime_us")


def play(number: int, history: Sequence[Operation]) -> list[int]:
    """Do a history and return the answer to each IO: ALLOWED or DENIED, by operation, else 0.

    At the end of each segment the current process executes the lab's marker with the number of
    the machine's context switches so far. Raises LiveError where a process fails.
    """
    with suppress(FileNotFoundError):  # a kernel without sysctls
        THROTTLE.write_text("-1")  # real-time processes may have the CPU all the time
    # Loaded once, not by each process.
    import kvmbench.live._kvm
    import kvmbench.live.machine  # noqa: F401

    found, _ = parts(history)
    with _Stage(number, len(found), len(history)) as stage:
        gc.freeze()  # else a collection in a process copies the pages that it shares
        for at, life in enumerate(found):
            stage.start(at, life, _program(life))
        stage.settle()
        os.eventfd_write(stage.events[0], 1)
        stage.wait("the history")
        return list(stage.answers[: len(history)])


class _Stage:
    """The memory that the processes share, the events that they wait for, and their ends."""

    def __init__(self, number: int, lives: int, operations: int) -> None:
        self.number = number
        self.events = [os.eventfd(0) for _ in range(lives)]
        self.answers = mmap.mmap(-1, operations + mmap.PAGESIZE)
        self.pids: list[int] = []
        self.shared_pids = mmap.mmap(-1, 8 * lives + mmap.PAGESIZE)
        self.said, self.say = os.pipe()
        self.chld = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no parent wakes at an exit

    def __enter__(self) -> _Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):  # until all have ended
            while True:
                os.wait()
        signal.signal(signal.SIGCHLD, self.chld)
        for fd in (*self.events, self.said, self.say):
            os.close(fd)

    def start(self, at: int, life: Life, program: bytes) -> None:
        """Fork the process of a life, and wait until its guest is ready to run."""
        if pid := self.fork(lambda: _Process(self, at, life, program).live()):
            self.shared_pids[8 * at : 8 * at + 8] = pid.to_bytes(8, "little")
            self.wait(f"process {at}")

    def fork(self, work: Callable[[], None]) -> int:
        """Let a new process do `work`; return its id. It reports an exception and ends."""
        pid = os.fork()
        if pid:
            self.pids.append(pid)
            return pid
        try:
            work()
        except BaseException as error:  # noqa: BLE001, the parent reports it
            os.write(self.say, f"{type(error).__name__}: {error}\n".encode())
        os._exit(0)

    def settle(self) -> None:
        """Leave the CPU as the model begins: a full limit of TR, and nothing stale."""

        def hold() -> None:
            from kvmbench.live._kvm import ioperm

            if number := ioperm(image.CPL3_PORT, 1, True):
                raise LiveError(f"ioperm(): {os.strerror(number)}")
            os.write(self.say, b"\n")

        self.fork(hold)
        self.wait("ioperm()")

    def wait(self, what: str) -> None:
        """Wait for a process to say that it is done."""
        if not select.select([self.said], [], [], PATIENCE)[0]:
            raise LiveError(f"{what} did not end within {PATIENCE:.0f} s")
        if words := os.read(self.said, 4096).decode().strip():
            raise LiveError(f"{what}: {words}")

    def pid(self, life: int) -> int:
        return int.from_bytes(self.shared_pids[8 * life : 8 * life + 8], "little")


class _Process:
    """One life, in its own process with its own virtual machine."""

    def __init__(self, stage: _Stage, at: int, life: Life, program: bytes) -> None:
        from kvmbench.live.machine import make, start

        self.stage, self.at, self.life = stage, at, life
        self.vm = make(cpus=1)
        for other in {call[1] for call in life.guest if call[0] == "give"}:
            number = int(other)
            self.vm.ioeventfd(GIVE_PORT + number, 1, pio=True, event=stage.events[number])
        self.vm.write(image.CODE, program)
        start(self.vm, 0)
        self.stat = os.open("/proc/stat", os.O_RDONLY)

    def live(self) -> None:
        """Do the calls, from the first moment at which another process gives the CPU."""
        _priority(0, OUTSIDE)
        os.write(self.stage.say, b"\n")
        for word, *numbers in self.life.calls:
            getattr(self, str(word))(*numbers)

    def take(self) -> None:
        os.eventfd_read(self.stage.events[self.at])

    def give(self, life: int) -> None:
        os.eventfd_write(self.stage.events[life], 1)

    def park(self, life: int) -> None:
        _priority(self.stage.pid(life), PARKED)

    def resume(self, life: int) -> None:
        _priority(self.stage.pid(life), GUEST)

    def run(self) -> None:
        _priority(0, GUEST)
        outcome = self.vm.run(0, stop=image.STOP, timeout=1e5)
        _priority(0, OUTSIDE)
        if (outcome["reason"], outcome["port"]) != ("stopped", image.STOP):
            from kvmbench.live.machine import explain

            why = explain(self.vm, 0, outcome)
            raise LiveError(f"the guest of process {self.at} ran into {why}")

    def ioperm(self, first: int, count: int, on: int) -> None:
        from kvmbench.live._kvm import ioperm

        if number := ioperm(first, count, bool(on)):
            raise LiveError(f"ioperm(): {os.strerror(number)}")

    def port_in(self, port: int, width: int, index: int) -> None:
        from kvmbench.live._kvm import port_in

        self.stage.answers[index] = ALLOWED if port_in(port, width) else DENIED

    def mark(self, segment: int) -> None:
        from kvmbench.live._kvm import mark

        text = os.pread(self.stat, 1 << 16, 0)
        switches = int(text[text.index(b"\nctxt ") + 6 :].split(b"\n", 1)[0])
        mark(tag(self.stage.number, segment), switches)

    def exit(self) -> None:
        os._exit(0)

    def end(self) -> None:
        os.write(self.stage.say, b"\n")
        signal.pause()


def _priority(pid: int, priority: int) -> None:
    os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(priority))


def _program(life: Life) -> bytes:
    """Return the guest's code: the instruction of each exit in turn."""
    programs = {workload.name: workload.guest for workload in BUILT_IN}
    code, target = Code(image.CODE), image.Target(vendor="vmx")
    for word, *numbers in life.guest:
        if word == "kind":
            program = programs[KINDS[int(numbers[0])]]
            assert isinstance(program, Program)
            program.setup(code, target)
            program.body(code, target)
        elif word == "give":
            code.mov_imm(RDX, GIVE_PORT + int(numbers[0]))
            code.out8()
        else:
            code.mov_imm(RDX, image.STOP)
            code.out8()
    code.hlt()  # interrupted at the end of the history, it has no other process to give the CPU to
    return code.finish()
