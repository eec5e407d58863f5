"""Workloads measured through /dev/kvm: runs in fresh processes, their rounds in a Result.

`measure` is the Python entry point; `kvmbench measure` and a plan's steps call it.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import fmean
from typing import Literal

from kvmbench import workloads as catalog
from kvmbench.errors import LiveError
from kvmbench.guest import image
from kvmbench.live.host import Ticks, boot_id, cpu_list, host, siblings, stolen, stolen_share
from kvmbench.live.machine import NOT_VMX, Offer, missing, offer
from kvmbench.live.process import Process
from kvmbench.live.worker import Job, Task
from kvmbench.model import Workload
from kvmbench.results import Boot, Host, Result, Run, Series

__all__ = ["BITMAP", "CONTROL", "NO_BITMAP", "STOPPED", "Ioperm", "Plan", "measure", "shortfall"]

NO_BITMAP, BITMAP = "no bitmap", "bitmap"  # configurations of a result with --ioperm both
CONTROL = "syscall"  # the control's row: a bare system call of the vCPU's thread
RUNS = 8  # unless the caller chooses
SHORTEST = 1e-3  # seconds of a round; a shorter one shows its entry and exit
START = 0.35  # seconds to start a process with its machine, on a slow host
TIMEOUT = 1.0  # seconds beyond its expected time after which a round is hung
GIVEN_UP = 2  # runs in which a workload may hang
STOPPED = "Stopped by Ctrl-C or a signal"  # how the note of an unfinished result begins

SHARED = 0.02  # of a run's time: other tasks' share from which a note reports it
STOLEN = 0.005  # of the CPU's time: the hypervisor's share from which a note reports it
FEW = 20  # iterations of a round; the entry and exit of a shorter one show in the figure
UNTOUCHED = 0.01  # exits per iteration of a loop without any: a host's timer tick now and then
ENTERING = 1e6  # cycles of a round that may pass before its loop and after it
INTERRUPTED = 0.9  # interrupts per iteration of a workload that waits for one each

LEFT = "left the guest or was emulated: no price of its instructions on a CPU"  # a mark

Ioperm = Literal["off", "on", "both"]
Progress = Callable[[str, float], None]
Decided = Callable[[Result], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The size of a measurement. Raises ValueError for a size that is out of range.

    `seconds` is the time for all of it. A round takes its share of that time, and never less than
    SHORTEST.
    """

    runs: int = RUNS  # fresh processes per configuration
    rounds: int = 10  # values of each workload in a run
    seconds: float = 45.0
    cpu: int | None = None  # of the host, for the vCPU's thread; None for kvmbench's choice
    ioperm: Ioperm = "off"
    seed: int = 0
    iterations: int = 0  # of each round; 0 where kvmbench calibrates them

    def __post_init__(self) -> None:
        for name in ("runs", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, not 1 or more")
        if not 0 < self.seconds < 1e6:
            raise ValueError(f"seconds is {self.seconds}, not above 0")
        if self.ioperm not in ("off", "on", "both"):
            raise ValueError(f"ioperm is {self.ioperm!r}, not one of off, on, both")

    @classmethod
    def choose(
        cls, *, runs: int = RUNS, fast: bool = False, ioperm: Ioperm = "off",
        cpu: int | None = None, seed: int | None = None,
    ) -> Plan:  # fmt: skip
        """Return the plan for a user's choices; without a `seed` the order of rounds is random.

        A fast measurement has as many runs, for the sake of the interval, and fewer and shorter
        rounds. More runs than RUNS take more time, so that their rounds are as long.
        """
        rounds, seconds = (5, 7.0) if fast else (10, 45.0)
        seconds *= max(1.0, runs / RUNS)
        seed = random.SystemRandom().getrandbits(32) if seed is None else seed
        return cls(runs=runs, rounds=rounds, seconds=seconds, cpu=cpu, ioperm=ioperm, seed=seed)

    def round_seconds(self, workloads: int) -> float:
        """Return the time for one round of one of `workloads` workloads, in seconds."""
        runs = self.runs * (2 if self.ioperm == "both" else 1)
        rounds = runs * (self.rounds + 1) + 4  # a warm-up per run, and the calibration
        return max(SHORTEST, (self.seconds - runs * START) / (rounds * max(workloads, 1)))

    def configurations(self) -> list[str]:
        """Return the configuration of each run in order; of two, in pairs whose order is drawn."""
        if self.ioperm != "both":
            return [BITMAP if self.ioperm == "on" else NO_BITMAP] * self.runs
        draw = random.Random(f"pairs {self.seed}")
        pairs = ([NO_BITMAP, BITMAP], [BITMAP, NO_BITMAP])
        return [name for _ in range(self.runs) for name in pairs[draw.getrandbits(1)]]


@dataclass(slots=True)
class _Row:
    """A workload during the measurement."""

    workload: Workload
    task: Task
    hung: int = 0
    why: str | None = None  # the reason for leaving it out of the next runs


@dataclass(slots=True)
class _Rounds:
    """The rounds of one workload in one run."""

    values: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    iterations: int = 0
    disagreeing: int = 0  # rounds whose two clocks disagree
    lost: str | None = None

    def add(self, iterations: int, cycles: int, in_host: int, counts: dict[str, int]) -> None:
        self.values.append(cycles / iterations)
        self.iterations += iterations
        # A round has a few instructions outside the loop, so the host's figure is the larger one.
        self.disagreeing += not 0.9 * in_host - ENTERING < cycles <= 1.001 * in_host
        self.counts.update(counts)


@dataclass(slots=True)
class _Run:
    """One run, which has its rounds so far whenever Ctrl-C comes."""

    configuration: str
    block: int | None = None  # of the pair, from 1, where two configurations alternate
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    rounds: dict[str, _Rounds] = field(default_factory=dict)
    control: _Rounds = field(default_factory=_Rounds)
    waited: float | None = None  # share of its rounds' time in which other tasks had the CPU
    skipped: dict[str, str] = field(default_factory=dict)
    end: str | None = None  # the failure that ended it

    def series(self, rows: dict[str, _Row], both: bool) -> list[Series]:
        name = self.configuration if both else ""
        found = [_series(rows[w], name, taken) for w, taken in self.rounds.items() if taken.values]
        if control := self.control.values:
            found.append(Series(workload=CONTROL, configuration=name, kind="noisy", values=control))
        return found


@dataclass(slots=True, kw_only=True)
class _Measurement:
    """The runs of a plan, and the facts of their host."""

    plan: Plan
    offered: Offer
    rows: dict[str, _Row]
    skipped: dict[str, str]
    cpu: int
    other_cpu: int | None
    progress: Progress | None
    decided: Decided | None = None
    runs: list[_Run] = field(default_factory=list)

    def take(self, facts: Host) -> None:
        """Do the runs, of two configurations in pairs, until the plan ends or they are decided.

        Raises LiveError where the first one cannot begin.
        """
        plan, draw, begun = self.plan, random.Random(self.plan.seed), time.monotonic()
        seconds = plan.round_seconds(len(self.rows))
        configurations = plan.configurations()
        unit = 2 if plan.ioperm == "both" else 1
        for number, configuration in enumerate(configurations):
            if self.decided and number >= 2 * unit and number % unit == 0:
                kept = self._kept([])
                boot = Boot(id=boot_id(), host=facts, runs=kept)
                if kept and self.decided(Result(boots=[boot])):
                    break
            left = begun + plan.seconds - time.monotonic()
            job = Job(
                cpu=self.cpu, other_cpu=self.other_cpu,
                tasks=[row.task for row in self.rows.values() if row.why is None],
                rounds=plan.rounds, limit=max(left / (len(configurations) - number), 0),
                seconds=seconds, timeout=TIMEOUT + 10 * seconds, seed=draw.getrandbits(32),
                ioperm=configuration == BITMAP, control=plan.ioperm == "both",
            )  # fmt: skip
            run = _Run(configuration, block=number // 2 + 1 if unit == 2 else None)
            self.runs.append(run)
            try:
                self._do(job, run)
            except LiveError as error:
                if number == 0:
                    raise
                run.end = f"failed: {error}"
            run.skipped.update({name: row.why for name, row in self.rows.items() if row.why})

    def _do(self, job: Job, run: _Run) -> None:
        """Do one run in a process. Raises LiveError where it cannot begin."""
        expected, done, ended = len(job["tasks"]) * (job["rounds"] + 1), 0, False
        where, total = len(self.runs), len(self.plan.configurations())
        process = Process(job)
        try:
            for words in process.lines():
                match words:
                    case ["begin", name]:
                        if self.progress is not None:
                            share = where - 1 + min(done / max(expected, 1), 1)
                            self.progress(f"run {where} of {total}: {name}", share / total)
                        process.doing = name
                    case ["ready", name, iterations]:
                        self.rows[name].task["iterations"] = iterations
                        run.rounds[name] = _Rounds()
                        done += 1
                    case ["round", name, *figures]:
                        run.rounds[name].add(*figures)
                        done += 1
                    case ["control", calls, cycles]:
                        run.control.add(calls, cycles, cycles, {})
                    case ["waited", seconds, of]:
                        run.waited = seconds / of if of else 0.0
                    case ["lost", name, why, hung]:
                        self._lose(run, name, why, hung)
                    case ["failed", why]:
                        raise LiveError(why)
                    case ["end"]:
                        ended = True
        finally:
            status = process.end()
        if process.interrupted:
            raise KeyboardInterrupt
        if not ended:
            run.end = f"ended with {status}"
            if process.doing:
                self._lose(run, process.doing, f"ended the process with {status}", True)
            elif status.startswith("signal"):  # another process sent it: the next run may be better
                run.end += " before any workload"
            else:
                raise LiveError(f"the measuring process ended with {status} before it began")

    def _lose(self, run: _Run, name: str, why: str, hung: bool) -> None:
        """Note the reason that a workload did not complete; only a hung one is tried again."""
        row, taken = self.rows[name], run.rounds.get(name)
        why = ": ".join([why, *(words for fault, words in row.workload.faults if fault in why)])
        row.hung += 1
        if not hung or row.hung >= GIVEN_UP:
            row.why = why
        if taken is not None:
            taken.lost = why
        if taken is None or not taken.values:
            run.skipped[name] = why

    def _kept(self, command: list[str]) -> list[Run]:
        """Return the runs so far that have a round."""
        both = self.plan.ioperm == "both"
        return [
            Run(
                block=run.block, time=run.time, engine="kvm", command=command, series=series,
                skipped=self.skipped | run.skipped,
            )
            for run in self.runs
            if (series := run.series(self.rows, both))
        ]  # fmt: skip

    def result(self, command: list[str], facts: Host, ticks: Ticks | None, stopped: bool) -> Result:
        """Return the result of the runs so far. Raises LiveError where none has a round."""
        total = len(self.plan.configurations())
        kept = self._kept(command)
        if not stopped:
            for run in self.runs:
                if not run.series(self.rows, False):
                    run.end = run.end or "measured nothing"
        counted = Counter(run.end for run in self.runs if run.end)
        ends = [f"{number} of {total} runs {end}" for end, number in counted.items()]
        if not kept:
            whys = [f"{name}: {row.why}" for name, row in self.rows.items() if row.why]
            raise LiveError(f"nothing was measured: {'; '.join(whys or ends)}")
        notes = _notes(self.offered, self.cpu, self.other_cpu, self.plan)
        if stopped:
            notes.append(f"{STOPPED} in run {len(self.runs)} of {total}.")
        notes += [f"{end}." for end in ends]
        waits = [run.waited for run in self.runs if run.waited is not None]
        if max(waits, default=0) >= SHARED:
            notes.append(
                f"Other tasks ran on the vCPU's CPU for {fmean(waits):.0%} of the time, up to "
                f"{max(waits):.0%} in one run. The figures include that time."
            )
        notes += _steal_note(ticks, stolen(self.cpu))
        boot = Boot(id=boot_id(), host=facts, runs=kept)
        return Result(
            tool=f"kvmbench {version('kvmbench')}", notes=notes, boots=[boot],
            stopping="decided" if self.decided else "size",
        )  # fmt: skip


def measure(
    workloads: str | Workload | Iterable[str | Workload] | None = None, plan: Plan | None = None,
    *, runs: int = RUNS, fast: bool = False, ioperm: Ioperm = "off", cpu: int | None = None,
    seed: int | None = None, progress: Progress | None = None, decided: Decided | None = None,
    command: Sequence[str] = (),
) -> Result:  # fmt: skip
    """Measure workloads on this host and return their cycles per iteration with the host's facts.

    A run is a fresh process with a fresh virtual machine; its rounds visit the workloads in random
    order. `Run.skipped` has the reason for each workload without a figure.

    Parameters:

    - `workloads`: names or Workload objects, one or several; by default every one with guest code
      and without operations in userspace.
    - `plan`: the size of the measurement, instead of the next five.
    - `runs`: fresh processes per configuration, 1 or more.
    - `fast`: 10 seconds instead of a minute.
    - `ioperm`: the vCPU's thread holds an I/O bitmap: "off", "on", or "both" to compare the two.
    - `cpu`: the host's CPU for the vCPU's thread; by default an isolated one, else the last.
    - `seed`: of the order of rounds; by default random.
    - `progress`: a function of a text (the run and the workload) and the share done, 0 to 1.
    - `decided`: a function of the result so far, called after each run, or each pair of "both",
      from the second on; the measurement ends where it returns true, and `stopping` says so.
    - `command`: the words of a command line, kept in the result.

    KeyboardInterrupt ends the measurement: the result has the rounds so far and a note that
    begins with STOPPED. Without any round the KeyboardInterrupt goes on to the caller. `shortfall`
    reports runs that died. Signal handlers and the signal mask stay as they are, in any thread.

    Raises LiveError where this host measures nothing (no extension, no /dev/kvm, no such CPU, no
    ioperm(), a guest that does not start, none of the workloads can run), ValueError for an
    unknown name or a choice out of range, TypeError for a plan together with other choices.
    """
    if plan is None:
        plan = Plan.choose(runs=runs, fast=fast, ioperm=ioperm, cpu=cpu, seed=seed)
    elif (runs, fast, ioperm, cpu, seed) != (RUNS, False, "off", None, None):
        raise TypeError("measure() takes either a plan or runs, fast, ioperm, cpu and seed")
    chosen = catalog.select(workloads)
    if workloads is None:
        chosen = [w for w in chosen if w.guest is not None and not w.userspace]
    offered, facts = offer(), host()
    cpu, other_cpu = _cpus(offered, facts, plan.cpu)
    rows, skipped = _rows(chosen, offered, plan.iterations)
    if not rows:
        listed = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise LiveError(f"nothing to measure: {listed or 'no workload was asked for'}")
    if plan.ioperm != "off" and offered.no_ioperm:
        raise LiveError(
            f"{offered.no_ioperm}; so no thread here can hold an I/O bitmap, and there is no cost "
            "of holding one to measure"
        )
    work = _Measurement(
        plan=plan, offered=offered, rows=rows, skipped=skipped, cpu=cpu, other_cpu=other_cpu,
        progress=progress, decided=decided,
    )  # fmt: skip
    ticks, stopped = stolen(cpu), False
    try:
        work.take(facts)
    except KeyboardInterrupt:
        stopped = True
        if not any(taken.values for run in work.runs for taken in run.rounds.values()):
            raise
    while True:
        try:
            return work.result(list(command), facts, ticks, stopped)
        except KeyboardInterrupt:  # pressed again: the result is not lost
            stopped = True


def shortfall(result: Result) -> str | None:
    """Return the notes of runs, of the lab's kernels or of blocks that ended early or failed.

    None where all are there.
    """
    early = re.compile(r"\d+ of \d+ (runs|kernels|blocks) ")
    return " ".join(filter(early.match, result.notes)) or None


def _rows(
    workloads: Iterable[Workload], offered: Offer, iterations: int
) -> tuple[dict[str, _Row], dict[str, str]]:
    """Return the workloads that can run, assembled, and the reason for skipping each other one."""
    rows, skipped = {}, {}
    for workload in workloads:
        program = workload.guest
        if isinstance(program, str):
            shared = catalog.workloads().get(program)
            program = shared.guest if shared else program
        if isinstance(program, str):
            skipped[workload.name] = f"there is no guest code {program!r}"
        elif program is None:
            skipped[workload.name] = "it has no guest code, only exits to simulate"
        elif why := missing((*workload.needs, *(("cpl3",) if program.cpl else ())), offered):
            skipped[workload.name] = why
        else:
            task = Task(
                name=workload.name, cpl=program.cpl, iterations=iterations,
                code=program.assemble(image.CODE, offered.target).hex(),
                other=program.assemble_other(image.OTHER_CODE, offered.target).hex(),
                userspace=list(workload.userspace), others=list(workload.others),
            )  # fmt: skip
            rows[workload.name] = _Row(workload, task)
    return rows, skipped


def _cpus(offered: Offer, facts: Host, wanted: int | None) -> tuple[int, int | None]:
    """Return the host CPUs of the two vCPUs' threads.

    The default is an isolated CPU, else the last one: interrupts tend to the first. The second
    thread goes to another core if possible, because siblings share a core's units.
    """
    allowed = offered.cpus
    if wanted is not None and wanted not in allowed:
        listed = ", ".join(map(str, allowed))
        raise LiveError(f"CPU {wanted} is not one that this process may use: {listed}")
    if wanted is None:
        isolated = cpu_list(facts.facts.get("isolated_cpus", ""))
        wanted = next((cpu for cpu in allowed if cpu in isolated), allowed[-1])
    threads = siblings(wanted)
    others = sorted((cpu in threads, cpu) for cpu in allowed if cpu != wanted)
    return wanted, others[0][1] if others else None


def _series(row: _Row, configuration: str, taken: _Rounds) -> Series:
    counts: dict[str, int | float] = {
        name: float(f"{number / taken.iterations:.4g}") for name, number in taken.counts.items()
    }
    counts["iterations"] = row.task["iterations"]
    if row.task["cpl"]:
        counts["cpl"] = row.task["cpl"]
    left = _left(counts)
    return Series(
        workload=row.workload.name, configuration=configuration, kind="noisy", values=taken.values,
        # A loop that never leaves the guest never reloads TR, under any policy.
        reloads=0.0 if left is False else None, counts=counts,
        marks=list(_marks(row.workload, taken, counts)),
    )  # fmt: skip


def _left(counts: dict[str, int | float]) -> bool | None:
    """Return whether iterations left the guest or were emulated; None where KVM does not count."""
    if "exits" not in counts:
        return None
    return max(counts["exits"], counts.get("insn_emulation", 0)) >= UNTOUCHED


def _marks(workload: Workload, taken: _Rounds, counts: dict[str, int | float]) -> Iterator[str]:
    if counts["iterations"] < FEW:
        yield f"fewer than {FEW} iterations per round, which enters and leaves the guest once"
    if taken.lost:
        yield f"not all of its rounds: {taken.lost}"
    if 2 * taken.disagreeing > len(taken.values):
        yield "the guest's TSC and the host's do not agree"
    if workload.native and _left(counts):
        yield LEFT
    if workload.waits_for_interrupt and counts.get("interrupts", 0) < INTERRUPTED:
        yield "not every iteration was interrupted: KVM delivers some interrupts late"


def _notes(offered: Offer, cpu: int, other_cpu: int | None, plan: Plan) -> list[str]:
    threads = f"vCPU threads on CPU {cpu}" + (f" and {other_cpu}" if other_cpu is not None else "")
    notes = [f"Measured on /dev/kvm ({offered.module or 'no vendor module known'}); {threads}."]
    if plan.ioperm == "on":
        notes.append("The vCPU's thread held an I/O bitmap.")
    if plan.ioperm != "off" and offered.module != "kvm_intel":
        notes.append(NOT_VMX)
    if offered.module == "kvm_pvm":
        notes.append(
            "This KVM is PVM: it runs guests without VMX or SVM, CPL 0 in KVM's instruction "
            "emulator and CPL 3 natively. A row at CPL 0 is the cost of emulating its "
            "instructions, not of a VM exit."
        )
    return notes


def _steal_note(before: Ticks | None, after: Ticks | None) -> list[str]:
    share = stolen_share(before, after) or 0
    words = f"The hypervisor around this host took {share:.1%} of the CPU's time meanwhile (steal)."
    return [words] if share >= STOLEN else []
