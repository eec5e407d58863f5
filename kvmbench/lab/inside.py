"""The program of the emulated machine: load KVM, measure what the job says, hand the results out.

`kvmbench.lab.image` makes it the machine's first process; `kvmbench.lab.run` reads its lines.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from kvmbench.workloads import Workload

__all__ = ["END", "SECTION", "WRITE", "InnerJob", "main"]

WRITE, END = 2, 3  # marks of instrument.cc
SECTION = 1 << 41  # a mark from here on begins a section, whose number is added to it
JOB = Path("/job.json")
MODULES = Path("/modules")
MOUNTS = (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp"))
TRACING = Path("/sys/kernel/tracing")
EVENTS = ("kvm", "sched/sched_switch", "syscalls/sys_enter_ioperm", "syscalls/sys_exit_ioperm")
BUFFER = 32 << 10  # kB of the kernel's ring: a round of 500 iterations takes some hundred kB
CHUNK = 1 << 20  # characters
LIVE_SECONDS = 3.0  # of the machine's clock, 100 million instructions each
HOUR = 3600.0  # seconds of the machine's clock, which bounds nothing: the emulator's time does


class InnerJob(TypedDict):
    """What the machine is to do."""

    workloads: list[str]
    workload_files: list[str]
    ioperm: str  # off, on or both
    runs: int
    rounds: int
    iterations: list[int]  # of a short and of a long round
    check_io: int  # cases; 0 for none
    check_ioperm: bool
    seed: int
    histories: list[str]  # the seed of each
    operations: int  # of a history
    live: bool  # run the commands `host` and `measure --ioperm both`
    record: bool  # record the kernel's events of the workloads instead of counting them


def main() -> None:
    """Do the job of /job.json and end the emulator."""
    status = 1
    try:
        _mount()
        job: InnerJob = json.loads(JOB.read_text())
        say("begin", os.uname().release)
        for module in sorted(MODULES.glob("*.ko")):
            _load(module)
        say("kvm", Path("/dev/kvm").exists())
        _do(job)
        status = 0
    except BaseException as error:  # noqa: BLE001, no other process reports it
        say("failed", str(error) or type(error).__name__, traceback.format_exc())
    finally:
        say("end")
        mark(END, status)


def mark(what: int, first: int = 0, second: int = 0) -> None:
    """Execute the marker of instrument.cc."""
    from kvmbench.live._kvm import mark as marker

    marker(what, first, second)


def say(*words: object) -> None:
    """Hand one line of JSON out of the machine."""
    line = json.dumps(words).encode() + b"\n"
    buffer = ctypes.create_string_buffer(line, len(line))
    mark(WRITE, ctypes.addressof(buffer), len(line))


def _mount() -> None:
    for kind, where in MOUNTS:
        os.makedirs(where, exist_ok=True)
        _mount_one(kind, where)
    for name in ("TMPDIR", "HOME"):
        os.environ[name] = "/tmp"


def _mount_one(kind: str, where: str) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.mount(kind.encode(), where.encode(), kind.encode(), 0, None):
        number = ctypes.get_errno()
        if not os.path.ismount(where):
            raise OSError(number, os.strerror(number), f"mount of {where}")


def _load(module: Path) -> None:
    """Load a kernel module; one whose hardware is not there says so in its error."""
    library = ctypes.CDLL(None, use_errno=True)
    image = module.read_bytes()
    parameters = {"kvm": b"halt_poll_ns=0"}.get(module.stem.partition("-")[2], b"")
    if library.syscall(175, image, ctypes.c_size_t(len(image)), parameters):  # init_module
        number = ctypes.get_errno()
        say("module", module.stem.partition("-")[2], os.strerror(number))


def _do(job: InnerJob) -> None:
    begun = time.monotonic()
    if job["record"]:
        _record(job)
    elif job["workloads"]:
        _measure(job)
    if job["check_io"]:
        _check_io(job["check_io"], job["seed"])
    if job["check_ioperm"]:
        from kvmbench.lab.ioperm import tries

        say("tries", tries())
    for number, seed in enumerate(job["histories"]):
        from kvmbench.lab.actors import play
        from kvmbench.lab.histories import draw

        answers = play(number, draw(seed, job["operations"]))
        say("answers", number, bytes(answers).hex())
    if job["live"]:
        _live()
    say("took", time.monotonic() - begun)


def _workloads(job: InnerJob) -> list[Workload]:
    from kvmbench.workloads import load_workloads, merge, workloads

    known = dict(workloads())
    for file in job["workload_files"]:
        known = merge(known, load_workloads(file), file)
    return [known[name] for name in job["workloads"]]


def _measure(job: InnerJob) -> None:
    import msgspec

    from kvmbench.live.engine import Plan, measure

    chosen = _workloads(job)
    section = 0
    for number in range(job["runs"]):
        for iterations in job["iterations"]:
            mark(SECTION + section)
            ioperm: Any = job["ioperm"]
            plan = Plan(
                runs=1, rounds=job["rounds"], iterations=iterations, ioperm=ioperm,
                seconds=HOUR, seed=job["seed"] + section,
            )  # fmt: skip
            result = measure(chosen, plan, progress=lambda name, _: say("at", name))
            say("result", section, number, iterations, msgspec.to_builtins(result))
            section += 1


def _record(job: InnerJob) -> None:
    """Record what the kernel's tracepoints say of one round of each workload, between two marks."""
    from kvmbench.lab.histories import HISTORY
    from kvmbench.live.engine import Plan, measure

    _mount_one("tracefs", str(TRACING))
    for event in EVENTS:
        (TRACING / "events" / event / "enable").write_text("1")
    switch = TRACING / "tracing_on"
    switch.write_text("0")
    (TRACING / "buffer_size_kb").write_text(str(BUFFER))
    (TRACING / "trace").write_text("")
    ioperm: Any = job["ioperm"]
    plan = Plan(
        runs=1, rounds=1, iterations=job["iterations"][0], ioperm=ioperm, seconds=HOUR,
        seed=job["seed"],
    )  # fmt: skip
    chosen = _workloads(job)
    mark(HISTORY)
    switch.write_text("1")
    measure(chosen, plan, progress=lambda name, _: say("at", name))
    switch.write_text("0")
    mark(HISTORY + 1)
    with (TRACING / "trace").open(errors="replace") as lines:
        while chunk := lines.read(CHUNK):
            say("recorded", chunk)


def _check_io(cases: int, seed: int) -> None:
    from dataclasses import asdict

    from kvmbench.live.io_check import check_io

    check = check_io(cases, seed=seed, progress=lambda name, _: say("at", name))
    say("check_io", asdict(check) | {"disagreements": [str(d) for d in check.disagreements]})


def _live() -> None:
    """Do as on a host: look whether it is fit, and measure the patch's rows both ways."""
    from dataclasses import asdict

    import msgspec

    from kvmbench.live.engine import Plan, measure
    from kvmbench.live.fitness import findings
    from kvmbench.live.host import host
    from kvmbench.workloads import BUILT_IN

    facts = host()
    found = [asdict(finding) for finding in findings(facts)]
    plan = Plan(runs=2, rounds=3, seconds=LIVE_SECONDS, ioperm="both")
    result = measure(BUILT_IN, plan, progress=lambda name, _: say("at", name))
    say("live", msgspec.to_builtins(facts), found, msgspec.to_builtins(result))


if __name__ == "__main__":
    sys.path.insert(0, "/site")
    main()
