"""One run: a fresh process with a fresh virtual machine that measures a job.

kvmbench.live.process starts it. It reads the job as a line of JSON from stdin and writes one line
for each round, so that a crash loses no round before it. It imports kvmbench and the standard
library only.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
import zlib
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

from kvmbench.errors import LiveError
from kvmbench.guest import image
from kvmbench.live.machine import explain, make, start
from kvmbench.live.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvmbench.live._kvm import Outcome
    from kvmbench.model import Operation

__all__ = ["Job", "Task", "main", "mark_tag"]

ROUNDS_MIN = 3  # values of a run, below which its median is one of two
CHANGE = 8  # calibration multiplies the iterations by at most this
CONTROL_CALLS = 2000  # system calls in a round of the control


class Task(TypedDict):
    """One workload of a run."""

    name: str
    code: str  # hex
    other: str  # hex, of the second vCPU; empty for one vCPU
    cpl: int
    iterations: int  # of a round; 0 for a calibration
    userspace: NotRequired[list[Operation]]  # of an iteration, lists of numbers in JSON
    others: NotRequired[list[tuple[int, int] | None]]  # ports that each other task holds


class Job(TypedDict):
    """A run."""

    cpu: int  # of the host, for the first vCPU
    other_cpu: int | None  # for the second
    tasks: list[Task]
    rounds: int
    limit: float  # seconds after which no round begins, except the first ROUNDS_MIN
    seconds: float  # of a round
    timeout: float  # after which a round is hung
    seed: int
    ioperm: bool  # the vCPU's thread holds an I/O bitmap
    control: bool  # measure a bare system call too


class Lost(Exception):
    """A round that did not complete; `hung` where it made no progress."""

    def __init__(self, words: str, hung: bool = False) -> None:
        super().__init__(words)
        self.hung = hung


class Round(NamedTuple):
    """The figures of one round."""

    cycles: int  # of the guest's TSC, around the loop
    host: int  # of the host's TSC, from the first entry to the last exit
    counts: dict[str, int]


class Runner:
    """The virtual machine of a run."""

    def __init__(self, job: Job, turns: Mapping[str, Turns] = MappingProxyType({})) -> None:
        self.job, self.turns = job, turns
        self.vm = make()
        self.tsc_hz = (self.vm.tsc_khz() or 1_000_000) * 1000

    def lose(self, task: Task, lost: Lost) -> None:
        """Report the loss and make a new machine: the state of one that hung is unknown."""
        say("lost", task["name"], str(lost), lost.hung)
        self.vm.close()
        self.vm = make()

    def round(self, task: Task, iterations: int) -> Round:
        """Measure `iterations` of a workload. Raises Lost."""
        from kvmbench.live._kvm import mark

        vm = self.vm
        vm.write(image.DATA, bytes(image.DATA_ROOM))
        vm.write(image.BALL, image.BALL_STATE)
        vm.write(image.CODE, bytes.fromhex(task["code"]))
        start(vm, 0, cpl=task["cpl"], iterations=iterations)
        before = vm.counters(0)
        tag = mark_tag(task["name"], self.job["ioperm"])
        mark(tag, iterations)
        outcome = self._with_other(task) if task["other"] else self._alone(task)
        mark(tag + 1, iterations)
        after = vm.counters(0)
        if outcome["reason"] == "kicked":
            raise Lost(f"hung: {iterations} iterations did not end", hung=True)
        if (outcome["reason"], outcome["port"]) != ("stopped", image.STOP):
            raise Lost(f"the guest ran into {explain(vm, 0, outcome)}")
        counts = {name: after[name] - before[name] for name in after}
        counts["answered"] = outcome["io"] + outcome["mmio"]
        counts["interrupts"] = int.from_bytes(vm.read(image.COUNT, 4), "little")
        if not (cycles := int.from_bytes(vm.read(image.RESULT, 8), "little")):
            raise Lost("the guest stopped by itself before its loop ended")
        # A count of no exit stays: a KVM that counts none has no entry.
        moved = {name: n for name, n in counts.items() if n or name == "exits"}
        return Round(cycles, outcome["tsc"], moved)

    def _alone(self, task: Task) -> Outcome:
        turns = self.turns.get(task["name"])
        acts = turns.acts if turns else ()
        try:
            return self.vm.run(0, stop=image.STOP, timeout=self.job["timeout"], acts=acts)
        except OSError as error:
            if turns is None:
                raise
            raise Lost(turns.explain(error)) from None

    def _with_other(self, task: Task) -> Outcome:
        """Run with the second vCPU in another thread, on another CPU."""
        vm, failed = self.vm, []
        vm.write(image.OTHER_CODE, bytes.fromhex(task["other"]))
        start(vm, 1, rip=image.OTHER_CODE)

        def other() -> None:
            try:
                if self.job["other_cpu"] is not None:
                    os.sched_setaffinity(0, {self.job["other_cpu"]})
                outcome = vm.run(1, stop=image.STOP, timeout=self.job["timeout"] + 1)
                if outcome["reason"] != "kicked":
                    failed.append(explain(vm, 1, outcome))
            except OSError as error:
                failed.append(str(error))

        thread = threading.Thread(target=other, daemon=True)
        thread.start()
        try:
            outcome = vm.run(0, stop=image.STOP, timeout=self.job["timeout"])
        finally:
            while thread.is_alive():
                vm.kick(1)
                thread.join(0.005)
        if failed:
            raise Lost(f"the second vCPU ran into {failed[0]}")
        return outcome

    def calibrate(self, task: Task) -> int:
        """Return the iterations that fill a round. Raises Lost.

        They follow from the difference of two lengths, each the faster of two rounds or more, so
        that neither a cold round nor the entry into the guest decides.
        """
        goal, iterations = self.job["seconds"] * self.tsc_hz, 1
        first = took = min(self.round(task, 1).host for _ in range(3))
        while took - first < goal / 2:
            wanted = int(iterations * goal / took)
            iterations = max(2 * iterations, min(CHANGE * iterations, wanted))
            took = min(self.round(task, iterations).host for _ in range(2))
        return max(1, round((iterations - 1) * goal / (took - first)))


def mark_tag(name: str, ioperm: bool) -> int:
    """Return the even number that marks the begin of a workload's rounds; their end is one more.

    An emulator of `kvmbench lab` counts between the two marks.
    """
    return (1 << 40) | zlib.crc32(name.encode()) << 2 | ioperm << 1


def say(*words: object) -> None:
    """Write one line. Raises BrokenPipeError where the engine is gone."""
    print(json.dumps(words), flush=True)


def begin(name: str) -> None:
    """Announce a round and wait until the engine sleeps. Raises BrokenPipeError as `say`."""
    say("begin", name)
    if not sys.stdin.readline():
        raise BrokenPipeError
    os.sched_yield()  # on a host of one CPU the engine goes to sleep first


def run(job: Job) -> None:
    """Measure the job, and write a line for each round."""
    from kvmbench.live._kvm import ioperm, syscall_cycles

    begun = time.monotonic()
    os.sched_setaffinity(0, {job["cpu"]})
    # Before this thread holds an I/O bitmap, which a fork would inherit.
    turns = {
        task["name"]: Turns(task["userspace"], task["others"])
        for task in job["tasks"]
        if task.get("userspace")
    }
    if job["ioperm"] and (number := ioperm(0x378, 3, True)):
        raise LiveError(f"ioperm(): {os.strerror(number)}")
    runner = Runner(job, turns)
    alive: dict[str, tuple[Task, int]] = {}
    for task in job["tasks"]:
        begin(task["name"])
        try:
            iterations = task["iterations"] or runner.calibrate(task)
            runner.round(task, iterations)  # caches, the EPT and KVM's own warm up
        except Lost as lost:
            runner.lose(task, lost)
            continue
        alive[task["name"]] = task, iterations
        say("ready", task["name"], iterations)
    draw = random.Random(job["seed"])
    delayed = measured = 0.0
    for number in range(job["rounds"]):
        if number >= ROUNDS_MIN and time.monotonic() - begun > job["limit"]:
            break
        order = list(alive)
        draw.shuffle(order)
        for name in order:
            task, iterations = alive[name]
            begin(name)
            before, at = waited(), time.monotonic()
            try:
                taken = runner.round(task, iterations)
            except Lost as lost:
                runner.lose(task, lost)
                del alive[name]
                continue
            delayed += waited() - before
            measured += time.monotonic() - at
            say("round", name, iterations, *taken)
        say("waited", delayed, measured)
        if job["control"]:
            say("control", CONTROL_CALLS, syscall_cycles(CONTROL_CALLS))
    say("end")
    runner.vm.close()
    for one in turns.values():
        one.end()


def waited() -> float:
    """Return the seconds for which this thread was ready to run and others ran instead."""
    try:
        with open("/proc/thread-self/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0  # a kernel without CONFIG_SCHED_INFO


def main() -> None:
    """Run the job on stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the engine ends this process
    try:
        if not (line := sys.stdin.readline()):
            raise BrokenPipeError
        run(json.loads(line))
    except BrokenPipeError:
        os._exit(1)  # the engine is gone; Python's own exit would print an error
    except LiveError as error:
        say("failed", str(error))
    except OSError as error:
        say("failed", f"{error.filename or 'KVM'}: {error.strerror or error}")
