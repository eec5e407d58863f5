"""Workloads measured through /dev/kvm: runs in fresh processes, rounds in them, into a Result."""

from __future__ import annotations

import errno
import json
import os
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from kvmbench.errors import LiveError
from kvmbench.guest import machine as guest
from kvmbench.guest.programs import PROGRAMS, Program
from kvmbench.live.host import boot_id, host
from kvmbench.live.machine import Offer, missing, offer
from kvmbench.live.worker import CODE_OF_OTHER, Job, Task
from kvmbench.results import Boot, Result, Run, Series
from kvmbench.workloads import Workload

__all__ = ["BITMAP", "CONTROL", "NO_BITMAP", "Plan", "held_bitmap_error", "measure", "stolen"]

NO_BITMAP, BITMAP = "no bitmap", "bitmap"  # configurations of a result with --ioperm both
SHARED = 0.02  # of a run's time, from which it is said that others ran
CONTROL = "syscall"  # the control's row: a bare system call of the vCPU's thread
TIMEOUT = 1.0  # seconds above what a round should take, after which it is hung
STOPPED = "Stopped by Ctrl-C"  # how the note of an unfinished result begins
GIVEN_UP = 2  # runs in which a workload may hang
START = 0.35  # seconds to start a process with its machine, here on a slow one
SILENT = 30.0  # seconds after which a process that says nothing is ended

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured. Raises ValueError for what cannot be.

    `seconds` is what all of it should take, at most about; a round takes what that leaves, and
    never less than SHORTEST.
    """

    runs: int = 8  # fresh processes, of each configuration; a self-test halves them
    rounds: int = 10  # values of each workload in a run
    seconds: float = 45.0
    cpu: int | None = None  # of the host, for the vCPU's thread; None for a guess
    ioperm: Literal["off", "on", "both"] = "off"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("runs", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, not 1 or more")
        if not 0 < self.seconds < 1e6:
            raise ValueError(f"seconds is {self.seconds}, not above 0")
        if self.ioperm not in ("off", "on", "both"):
            raise ValueError(f"ioperm is {self.ioperm!r}, not one of off, on, both")

    def round_seconds(self, workloads: int) -> float:
        """Return what one round of one workload should take."""
        runs = self.runs * (2 if self.ioperm == "both" else 1)
        rounds = runs * (self.rounds + 1) + 2  # a warm-up in each, and the calibration
        return max(SHORTEST, (self.seconds - runs * START) / (rounds * max(workloads, 1)))


SHORTEST = 1e-3  # seconds of a round: below, entering and leaving it are seen


@dataclass(slots=True)
class _Row:
    """A workload on its way through the runs."""

    workload: Workload
    task: Task
    hung: int = 0
    why: str | None = None  # it is left out of the runs to come


@dataclass(slots=True)
class _Taken:
    """The rounds of one workload in one run."""

    values: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    iterations: int = 0
    disagreeing: int = 0  # rounds whose two clocks do not
    lost: str | None = None


def measure(
    workloads: Iterable[Workload],
    plan: Plan,
    *,
    progress: Progress | None = None,
    command: Sequence[str] = (),
) -> Result:
    """Measure each workload that this host can run, and return the values with the host's facts.

    A run is a fresh process with a fresh virtual machine; its rounds go over the workloads in
    random order. What is skipped, hung or stopped by an exception is named in `Run.skipped`.
    `progress` is called with what is under way and the share that is done; `command` is kept as
    what was called. On KeyboardInterrupt
    the rounds so far are returned, and the result's notes say so.

    Raises LiveError where nothing can be measured: no extension, no /dev/kvm, no CPU of that
    number, no ioperm(), a guest that does not start, or none of the workloads to be had.
    """
    offered = offer()
    cpu, other_cpu = _cpus(offered, plan.cpu)
    rows, skipped = _rows(workloads, offered)
    if not rows:
        listed = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise LiveError(f"nothing to measure: {listed or 'no workload was asked for'}")
    configurations = _configurations(plan)
    if plan.ioperm != "off":
        _check_ioperm()
    seconds = plan.round_seconds(len(rows))
    draw = random.Random(plan.seed)
    runs: list[Run] = []
    notes = _notes(offered, cpu, other_cpu, plan)
    ticks, waits = stolen(cpu), list[float]()
    begun = time.monotonic()
    for number, configuration in enumerate(configurations):
        job = Job(
            machine=asdict(offered.machine),
            cpu=cpu,
            other_cpu=other_cpu,
            tasks=[row.task for row in rows if row.why is None],
            rounds=plan.rounds,
            limit=0,
            seconds=seconds,
            timeout=TIMEOUT + 10 * seconds,
            seed=draw.getrandbits(32),
            ioperm=configuration == BITMAP,
            control=plan.ioperm == "both",
        )

        left = begun + plan.seconds - time.monotonic()
        job["limit"] = max(left / (len(configurations) - number), 0)

        def report(name: str, share: float, done: int = number) -> None:
            if progress is not None:
                progress(name, (done + share) / len(configurations))

        side = configuration if plan.ioperm == "both" else ""
        where = f"{STOPPED} in run {number + 1} of {len(configurations)}."
        try:
            run, (seconds_waited, of), stopped = _run(job, rows, side, list(command), report)
        except KeyboardInterrupt:  # before it had a process: the runs so far are kept
            notes.append(where)
            break
        run.skipped.update(skipped)
        run.skipped.update({row.workload.name: row.why for row in rows if row.why is not None})
        waits.append(seconds_waited / of if of else 0.0)
        if run.series:
            runs.append(run)
        if stopped:
            notes.append(where)
            break
    if not runs:
        why = "; ".join(f"{r.workload.name}: {r.why}" for r in rows if r.why) or "stopped"
        raise LiveError(f"nothing was measured: {why}")
    if max(waits) >= SHARED:
        share = sum(waits) / len(waits)
        notes.append(
            f"Other tasks ran on the vCPU's CPU for {share:.0%} of the time, up to "
            f"{max(waits):.0%} in one run. The figures hold that time too."
        )
    notes += _steal_note(ticks, stolen(cpu))
    return Result(
        tool=f"kvmbench {version('kvmbench')}",
        notes=notes,
        boots=[Boot(id=boot_id(), host=host(), runs=runs)],
    )


def _rows(workloads: Iterable[Workload], offered: Offer) -> tuple[list[_Row], dict[str, str]]:
    """Return what can be measured, assembled, and why the others cannot."""
    rows, skipped = [], {}
    for workload in workloads:
        program = workload.guest
        if isinstance(program, str):
            program = PROGRAMS.get(program)
            if program is None:
                skipped[workload.name] = f"there is no guest code {workload.guest!r}"
                continue
        if not isinstance(program, Program):
            skipped[workload.name] = "it has no guest code, only exits to simulate"
            continue
        if why := missing(workload.needs, offered):
            skipped[workload.name] = why
            continue
        machine = offered.machine
        rows.append(
            _Row(
                workload,
                Task(
                    name=workload.name,
                    code=program.assemble(guest.CODE, machine).hex(),
                    other=program.assemble_other(CODE_OF_OTHER, machine).hex(),
                    cpl=program.cpl,
                    iterations=0,
                ),
            )
        )
    return rows, skipped


def _cpus(offered: Offer, wanted: int | None) -> tuple[int, int | None]:
    """Return the host CPUs of the two vCPUs' threads.

    The guess is an isolated CPU where there is one, else the last: interrupts tend to the first.
    """
    allowed = offered.cpus
    if wanted is not None and wanted not in allowed:
        listed = ", ".join(map(str, allowed))
        raise LiveError(f"CPU {wanted} is not one that this process may use: {listed}")
    if wanted is None:
        isolated = _listed(host().facts.get("isolated_cpus", ""))
        wanted = next((cpu for cpu in allowed if cpu in isolated), allowed[-1])
    others = [cpu for cpu in allowed if cpu != wanted]
    threads = _siblings(wanted)
    # A sibling shares the core's units: it comes last.
    others.sort(key=lambda cpu: (cpu in threads, cpu))
    return wanted, others[0] if others else None


def _siblings(cpu: int) -> set[int]:
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return _listed(path.read_text())
    except OSError:
        return set()


def _listed(text: str) -> set[int]:
    """Return the numbers of a kernel's list, `0-2,5`."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _configurations(plan: Plan) -> list[str]:
    """Return whether each run in order holds an I/O bitmap: both sides in blocks of ABBA."""
    if plan.ioperm != "both":
        return [BITMAP if plan.ioperm == "on" else NO_BITMAP] * plan.runs
    pairs = ([NO_BITMAP, BITMAP], [BITMAP, NO_BITMAP])
    return [name for block in range(plan.runs) for name in pairs[block % 2]]


def held_bitmap_error() -> int:
    """Return 0 where a thread can hold an I/O bitmap, else the number of ioperm()'s error."""
    from kvmbench.live._kvm import ioperm

    found: list[int] = []
    # In a thread of its own: before 5.5 the kernel keeps a bitmap that was given back.
    thread = threading.Thread(target=lambda: found.append(ioperm(0x378, 3, True)))
    thread.start()
    thread.join()
    return found[0]


def _check_ioperm() -> None:
    """Raise LiveError where a thread cannot hold an I/O bitmap."""
    if number := held_bitmap_error():
        name = errno.errorcode.get(number, str(number))
        why = {
            errno.ENOSYS: "this kernel was built without it (CONFIG_X86_IOPL_IOPERM)",
            errno.EPERM: "it needs CAP_SYS_RAWIO, and no lockdown",
        }
        raise LiveError(
            f"ioperm(): {name}: {why.get(number, os.strerror(number))}; so no thread here can hold "
            "an I/O bitmap, and there is no cost of holding one to measure"
        )


def _run(
    job: Job, rows: Sequence[_Row], configuration: str, command: list[str], report: Progress
) -> tuple[Run, tuple[float, float], bool]:
    """Return one run, the seconds that its thread waited and of how many, and if Ctrl-C came."""
    by_name = {row.workload.name: row for row in rows}
    taken: dict[str, _Taken] = {}
    control = _Taken()
    expected = len(job["tasks"]) * (job["rounds"] + 1)
    when, done, ended = datetime.now(UTC), 0, False
    waited = (0.0, 0.0)
    process = _Process(job)
    stopped = False
    try:
        for words in process.lines():
            match words:
                case ["begin", name]:
                    report(name, min(done / max(expected, 1), 1))
                    process.doing = name
                case ["ready", name, iterations]:
                    by_name[name].task["iterations"] = iterations
                    taken[name] = _Taken()
                    done += 1
                case ["round", name, iterations, cycles, in_host, counts]:
                    _add(taken[name], iterations, cycles, in_host, counts)
                    done += 1
                case ["control", calls, cycles]:
                    _add(control, calls, cycles, cycles, {})
                case ["waited", seconds, of]:
                    waited = (seconds, of)
                case ["lost", name, why, hung]:
                    _lose(by_name[name], taken.get(name), why, hung)
                case ["failed", why]:
                    raise LiveError(why)
                case ["end"]:
                    ended = True
    except KeyboardInterrupt:
        stopped = True
    finally:
        status = process.end()
    stopped = stopped or process.interrupted
    if not ended and not stopped:
        row = by_name.get(process.doing)
        if row is None:
            raise LiveError(f"the measuring process ended with {status} before it began")
        _lose(row, taken.get(row.workload.name), f"ended the process with {status}", True)
    series = [
        _series(row, configuration, taken[name])
        for name, row in by_name.items()
        if name in taken and taken[name].values
    ]
    if control.values:
        series.append(_control(configuration, control))
    skipped = {name: t.lost for name, t in taken.items() if t.lost and not t.values}
    run = Run(
        time=when.isoformat(timespec="seconds"),
        engine="kvm",
        command=command,
        series=series,
        skipped=skipped,
    )
    return run, waited, stopped


def _add(taken: _Taken, iterations: int, cycles: int, in_host: int, counts: dict[str, int]) -> None:
    taken.values.append(cycles / iterations)
    taken.iterations += iterations
    # A round has a few instructions outside the loop, so the host's figure is the larger one.
    if not 0.9 * in_host - ENTERING < cycles <= 1.001 * in_host:
        taken.disagreeing += 1
    for name, number in counts.items():
        taken.counts[name] = taken.counts.get(name, 0) + number


def _lose(row: _Row, taken: _Taken | None, why: str, hung: bool) -> None:
    """Note why a workload did not come to its end; what happens every time is not tried again."""
    if row.workload.guest == "vmcall" and "#UD" in why:
        why += HYPERCALL
    row.hung += 1
    if not hung or row.hung >= GIVEN_UP:
        row.why = why
    if taken is not None:
        taken.lost = why


def _series(row: _Row, configuration: str, taken: _Taken) -> Series:
    counts: dict[str, int | float] = {
        name: _each(number, taken.iterations) for name, number in taken.counts.items()
    }
    counts["iterations"] = row.task["iterations"]
    if row.task["cpl"]:
        counts["cpl"] = row.task["cpl"]
    exits, emulated = counts.get("exits"), counts.get("insn_emulation", 0)
    untouched = exits is not None and exits < UNTOUCHED and emulated < UNTOUCHED
    return Series(
        workload=row.workload.name,
        configuration=configuration,
        kind="noisy",
        values=taken.values,
        # What never leaves the guest never reloads TR, under any policy.
        reloads=0.0 if untouched else None,
        counts=counts,
        marks=list(_marks(row, taken, counts)),
    )


UNTOUCHED = 0.01  # exits an iteration: a timer tick of the host now and then


def _each(number: int, iterations: int) -> float:
    return float(f"{number / iterations:.4g}")


def _marks(row: _Row, taken: _Taken, counts: dict[str, int | float]) -> Iterator[str]:
    if taken.lost:
        yield f"not all of its rounds: {taken.lost}"
    if 2 * taken.disagreeing > len(taken.values):
        yield "the guest's TSC and the host's do not agree"
    wanted = row.workload.name.startswith(("self_ipi", "x2apic_self_ipi", "tscdeadline", "hlt"))
    if wanted and counts.get("interrupts", 0) < INTERRUPTS:
        yield "not every iteration was interrupted: KVM delivers some interrupts late"


ENTERING = 1e6  # cycles of a round that may pass before its loop and after it
INTERRUPTS = 0.9  # an iteration, of rows that are about one each


def _control(configuration: str, taken: _Taken) -> Series:
    return Series(workload=CONTROL, configuration=configuration, kind="noisy", values=taken.values)


def _notes(offered: Offer, cpu: int, other_cpu: int | None, plan: Plan) -> list[str]:
    threads = f"vCPU threads on CPU {cpu}" + (f" and {other_cpu}" if other_cpu is not None else "")
    notes = [f"Measured on /dev/kvm ({offered.module or 'no vendor module known'}); {threads}."]
    if plan.ioperm == "on":
        notes.append("The vCPU's thread held an I/O bitmap.")
    if plan.ioperm != "off" and offered.module != "kvm_intel":
        notes.append(
            "This is not VMX: no VM exit cuts TR's limit here and nothing reloads it for a thread "
            "that holds an I/O bitmap. What such a thread pays is the bitmap's update at each "
            "return to userspace."
        )
    if offered.module == "kvm_pvm":
        notes.append(
            "This KVM is PVM: it runs guests without VMX or SVM, CPL 0 in KVM's instruction "
            "emulator and CPL 3 natively. A row at CPL 0 is the cost of emulating its "
            "instructions, not of a VM exit."
        )
    return notes


def stolen(cpu: int, root: str | Path = "/") -> tuple[int, int] | None:
    """Return ticks of the CPU that the hypervisor around this host took, and all ticks."""
    try:
        lines = (Path(root) / "proc/stat").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, *ticks = line.split()
        if name == f"cpu{cpu}" and len(ticks) >= 8:
            return int(ticks[7]), sum(map(int, ticks[:8]))
    return None


def _steal_note(before: tuple[int, int] | None, after: tuple[int, int] | None) -> list[str]:
    if before is None or after is None or after[1] <= before[1]:
        return []
    share = (after[0] - before[0]) / (after[1] - before[1])
    if share < 0.005:
        return []
    return [
        f"The hypervisor around this host took {share:.1%} of the CPU's time meanwhile (steal)."
    ]


class _Process:
    """A run's process, and the lines that it writes."""

    def __init__(self, job: Job) -> None:
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self.doing = ""
        self.interrupted = False  # a Ctrl-C came while it ended
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kvmbench.live.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            process_group=0,  # a Ctrl-C at the terminal is ours alone
        )
        self.queue: queue.Queue[str | None] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        assert self.process.stdin is not None
        try:
            with self.process.stdin as pipe:
                json.dump(job, pipe)
        except BrokenPipeError:
            pass  # it is dead already, which `lines` finds out

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.queue.put(line)
        self.queue.put(None)

    def lines(self) -> Iterator[list[Any]]:
        """Yield what the process says until it ends, or says nothing for too long."""
        while True:
            try:
                line = self.queue.get(timeout=SILENT)
            except queue.Empty:
                return
            if line is None:
                return
            yield json.loads(line)

    def end(self) -> str:
        """Wait for the end, or bring it about; return how it ended."""
        for patience, then in ((GRACE, self.process.kill), (KILLED, None)):
            try:
                status = self.process.wait(timeout=patience)
                break
            except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
                self.interrupted |= isinstance(error, KeyboardInterrupt)
                if then is None:  # its thread is in the kernel and no signal reaches it
                    return "nothing: it cannot be killed"
                then()
        self.reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return f"signal {-status}" if status < 0 else f"status {status}"


HYPERCALL = (
    ": with KVM's patching of hypercalls off, its instruction emulator answers one with #UD "
    "(emulator_fix_hypercall), so what is emulated here cannot make one"
)
GRACE, KILLED = 0.5, 10.0  # seconds that a process has to end by itself, and once killed
