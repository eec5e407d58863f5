"""A kernel booted on the emulated machine, the job done there, and its counts made a result.

`kvmbench lab run` calls `measure`, `kvmbench.lab.checks` calls `boot`.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec

from kvmbench.errors import LabError
from kvmbench.lab import image
from kvmbench.lab.counts import EXACT, Mark, Row, exact, marks, parse, rows
from kvmbench.lab.debian import cache_folder
from kvmbench.lab.emulator import Emulator
from kvmbench.lab.files import content, scratch
from kvmbench.lab.inside import InnerJob
from kvmbench.lab.ioperm import Try
from kvmbench.lab.kernel import Kernel, Vendor, policy_of
from kvmbench.live.engine import STOPPED
from kvmbench.results import Boot, Host, Result, Run, Series
from kvmbench.workloads import LARGEST, Workload

__all__ = ["BITMAP", "DIFFERS", "Counted", "Plan", "Progress", "Report", "boot", "differs"]
__all__ += ["measure", "result_of"]

BITMAP = "+bitmap"  # ends the configuration of rows whose thread holds an I/O bitmap
MEMORY = 768  # MiB
CMDLINE = (
    "console=ttyS0 loglevel=3 panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable "
    "cryptomgr.notests audit=0 lsm= kvm.halt_poll_ns=0 rdinit=/bin/python3 PYTHONPATH=/site "
    "PYTHONHASHSEED=0 {append} -- -m kvmbench.lab.inside"
)
RESTARTED, CANNOT = 71, 70  # exit statuses of instrument.cc
TAIL = 8192  # bytes of a console that are kept
POLL = 0.1  # seconds

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is counted, and for how long at most. Raises ValueError for what cannot be."""

    ioperm: Literal["off", "on", "both"] = "off"
    runs: int = 1  # fresh processes with a fresh virtual machine, for each length of round
    rounds: int = 3  # pairs of a short and a long round in each
    iterations: tuple[int, int] = (500, 1500)
    check_io: int = 0  # cases of the port check
    check_ioperm: bool = False
    seed: int = 0
    histories: tuple[str, ...] = ()  # the seed of each history of `kvmbench lab differ`
    operations: int = 0  # of a history
    live: bool = False  # run `kvmbench host` and `kvmbench measure --ioperm both` there
    record: bool = False  # record the kernel's events of the workloads instead of counting them
    boot_limit: float = 600.0  # seconds until the machine's first word
    silence_limit: float = 600.0  # seconds between two words
    limit: float = 3600.0  # seconds for one kernel

    def __post_init__(self) -> None:
        short, long = self.iterations
        if not 0 < short < long:
            raise ValueError(f"iterations are {short} and {long}, not two, the second larger")
        for name in ("runs", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, not 1 or more")


@dataclass(slots=True, kw_only=True)
class Report:
    """What one boot said and counted."""

    vendor: Vendor
    results: list[Result] = field(default_factory=list)
    check_io: dict[str, Any] | None = None
    tries: list[Try] | None = None  # of check_ioperm
    rows: list[Row] = field(default_factory=list)
    live: tuple[Host, list[dict[str, str]], Result] | None = None  # facts, findings, measurement
    answers: dict[int, bytes] = field(default_factory=dict)  # of each history
    marks: dict[int, Mark] = field(default_factory=dict)  # of histories and recordings, by tag
    recorded: str = ""  # the text of the kernel's trace file
    seconds: float = 0.0  # from the emulator's start to its end


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What one kernel did, per iteration."""

    kernel: Kernel
    vendor: Vendor
    policy: str | None  # that it follows; None for no reload at all
    stated: bool  # the user stated the policy
    rows: tuple[Row, ...]
    reloads: dict[tuple[str, bool], float]  # by workload and bitmap, where they can be simulated
    counters: dict[tuple[str, bool], dict[str, float]]  # KVM's own, per iteration of a long round
    skipped: dict[str, str]
    host: Host
    boot_id: str
    seconds: float


def measure(
    kernels: Sequence[tuple[Kernel, Vendor]],
    workloads: Sequence[Workload],
    plan: Plan,
    emulator: Emulator,
    *,
    policy: str | None = None,
    workload_file: str | None = None,
    progress: Progress | None = None,
    left: list[str] | None = None,
) -> list[Counted]:
    """Boot each kernel, measure the workloads there, and return the counts, in order.

    `policy` states the policy of the kernels that do not state another one, `none` for no reload
    at all; by default it is looked up by a kernel's release. Raises LabError where a kernel does
    not do its job. With a list `left`, the counts of the kernels that had finished are returned
    then, and on Ctrl-C, and the list gets a note about the others.
    """
    chosen = []
    for kernel, vendor in kernels:
        stated = kernel.policy or policy
        chosen.append(None if stated == "none" else stated or policy_of(kernel.release, vendor))
    shares = [0.0] * len(kernels)
    stop = threading.Event()

    def one(number: int) -> Counted:
        kernel, vendor = kernels[number]

        def report(words: str, share: float) -> None:
            shares[number] = share
            if progress is not None:
                progress(f"{kernel.label}: {words}", sum(shares) / len(shares))

        done = boot(kernel, vendor, workloads, plan, emulator, workload_file, report, stop)
        stated = (kernel.policy or policy) is not None
        return _counted(kernel, done, chosen[number], stated, workloads, plan)

    image.python_image(cache_folder() / "images")  # once, not by each boot
    workers = max(1, min(len(kernels), len(os.sched_getaffinity(0))))
    with ThreadPoolExecutor(max_workers=workers) as pool:
        futures = [pool.submit(one, number) for number in range(len(kernels))]
        try:
            return [future.result() for future in futures]
        except (KeyboardInterrupt, LabError) as error:
            done = [f.result() for f in futures if f.done() and f.exception() is None]
            if left is None or not done:
                raise
            share = f"{len(kernels) - len(done)} of {len(kernels)} kernels"
            stopped = isinstance(error, KeyboardInterrupt)
            left.append(f"{STOPPED}: without {share}." if stopped else f"{share} failed: {error}.")
            return done
        finally:  # of an error or Ctrl-C: the other machines end too
            stop.set()
            for future in futures:
                future.cancel()


def boot(
    kernel: Kernel,
    vendor: Vendor,
    workloads: Sequence[Workload],
    plan: Plan,
    emulator: Emulator,
    workload_file: str | None,
    progress: Progress,
    stop: threading.Event | None = None,
) -> Report:
    """Boot `kernel` on an emulated CPU of `vendor`, and return what it said and counted.

    Raises LabError, in one line, where it panics, has no KVM for this vendor, or takes too long;
    the console's end is then in a file that the line names. `stop` ends the machine.
    """
    job = InnerJob(
        workloads=[workload.name for workload in workloads],
        workload_files=["/workloads.py"] if workload_file else [],
        ioperm=plan.ioperm, runs=plan.runs, rounds=plan.rounds, iterations=list(plan.iterations),
        check_io=plan.check_io, check_ioperm=plan.check_ioperm, seed=plan.seed,
        histories=list(plan.histories), operations=plan.operations, live=plan.live,
        record=plan.record,
    )  # fmt: skip
    extra = [("job.json", 0o100644, json.dumps(job).encode())]
    for number, (name, module) in enumerate(kernel.module_files(vendor)):
        extra.append((f"modules/{number:02}-{name}.ko", 0o100644, module))
    if workload_file:
        extra.append(("workloads.py", 0o100644, content(Path(workload_file), LARGEST)))
    python = image.python_image(cache_folder() / "images", numpy=bool(plan.check_io))
    with scratch(cache_folder() / "boots", "boot-") as folder:
        try:
            files = image.boot_files(
                folder, content(kernel.image), python, image.cpio(extra),
                CMDLINE.format(append=kernel.append), MEMORY << 20,
            )  # fmt: skip
        except LabError as error:
            raise LabError(f"{kernel.label}: {error}") from None
        command = emulator.command(folder, vendor, MEMORY, files.sector)
        environment = os.environ | {
            "BXSHARE": str(emulator.folder),  # Bochs of this build crashes without it
            "KVMBENCH_LAB_LOAD": "".join(f"{at:x} {path}\n" for at, path in files.items()),
            "KVMBENCH_LAB_COUNTS": str(folder / "counts"),
            "KVMBENCH_LAB_DATA": str(folder / "data"),
        }
        begun = time.monotonic()
        with (folder / "out").open("wb") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env=environment, cwd=folder, process_group=0,
            )  # fmt: skip
        # Whatever happens to this process, the emulator ends.
        with suppress(ProcessLookupError):
            bound = int(plan.limit) + 1
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (bound, bound))
        report = Report(vendor=vendor)
        try:
            ended = _listen(process, folder / "data", report, job, plan, progress, stop)
        except LabError as error:
            raise _with_console(kernel, error, folder) from None
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        if not ended:
            raise _with_console(kernel, _why(process.returncode, folder), folder)
        report.seconds = time.monotonic() - begun
        if plan.histories or plan.record:
            with (folder / "counts").open() as lines:
                report.marks = marks(lines)
        elif workloads:
            text = (folder / "counts").read_text() if (folder / "counts").exists() else ""
            report.rows = rows(parse(text), job["workloads"])
    return report


def _listen(
    process: subprocess.Popen[bytes],
    data: Path,
    report: Report,
    job: InnerJob,
    plan: Plan,
    progress: Progress,
    stop: threading.Event | None,
) -> bool:
    """Take what the machine says until it ends; return whether it came to its end.

    Raises LabError where it says that it failed, or says nothing for too long.
    """
    begun = heard = time.monotonic()
    offset, said, modules = 0, 0, []
    steps = plan.check_io // 100  # as check_io reports its progress
    steps += 2 * plan.runs * len(job["workloads"]) * (plan.rounds + 1)
    steps *= 2 if plan.ioperm == "both" else 1
    steps = max(steps, 1)
    progress("boots", 0.0)
    while True:
        running = process.poll() is None
        lines = b""
        if data.exists():
            with data.open("rb") as file:
                file.seek(offset)
                lines = file.read()
            lines = lines[: lines.rfind(b"\n") + 1]
            offset += len(lines)
        now = time.monotonic()
        for line in lines.splitlines():
            heard = now
            match json.loads(line):
                case ["begin", release]:
                    progress(f"{release} is up", 0.1)
                case ["module", name, why]:
                    modules.append(f"{name}: {why}")
                case ["kvm", False]:
                    cause = f" ({'; '.join(modules)})" if modules else ""
                    raise LabError(f"no /dev/kvm on an emulated {report.vendor} CPU{cause}")
                case ["at", name]:
                    said += 1
                    progress(str(name), 0.1 + 0.9 * min(said / steps, 1))
                case ["result", _, _, _, result]:
                    report.results.append(msgspec.convert(result, Result))
                case ["check_io", found]:
                    report.check_io = found
                case ["tries", found]:
                    report.tries = found
                case ["live", facts, findings, result]:
                    measured = msgspec.convert(result, Result)
                    report.live = msgspec.convert(facts, Host), findings, measured
                case ["answers", number, found]:
                    report.answers[number] = bytes.fromhex(found)
                    done = len(report.answers)
                    progress(f"history {done}", 0.1 + 0.9 * done / len(plan.histories))
                case ["recorded", text]:
                    report.recorded += text
                case ["failed", why, *_]:
                    raise LabError(str(why))
                case ["end"]:
                    return True
        if not running:
            return False
        limit = plan.silence_limit if offset else plan.boot_limit
        if now - heard > limit:
            doing = "said nothing" if offset else "did not come up"
            raise LabError(f"{doing} for {limit:.0f} s")
        if stop is not None and stop.is_set():
            raise LabError("stopped")
        if now - begun > plan.limit:
            raise LabError(f"not done after {plan.limit:.0f} s")
        time.sleep(POLL)


def _why(status: int, folder: Path) -> LabError:
    console = _read(folder / "console.log")
    panic = re.search(r"Kernel panic - not syncing: (.*)", console)
    if panic:
        return LabError(f"the kernel panicked: {panic[1].strip()}")
    if status == RESTARTED:
        return LabError("the kernel restarted the machine before its work was done")
    said = re.findall(r"^(?:kvmbench: .*|\[.*?\] .*)$", _read(folder / "out"), re.MULTILINE)
    return LabError(f"the emulator ended with {status}: {said[0] if said else 'no reason given'}")


def _with_console(kernel: Kernel, error: LabError, folder: Path) -> LabError:
    """Return the error with the name of the file that has the end of the console."""
    name = re.sub(r"[^\w.+-]", "_", kernel.label)
    kept = cache_folder() / f"console-{name}.log"
    kept.write_text(_read(folder / "console.log")[-TAIL:])
    return LabError(f"{kernel.label}: {error}; its console: {kept}")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _counted(
    kernel: Kernel,
    report: Report,
    policy: str | None,
    stated: bool,
    workloads: Iterable[Workload],
    plan: Plan,
) -> Counted:
    if not report.results:
        raise LabError(f"{kernel.label}: the machine ended without a result")
    counters: dict[tuple[str, bool], dict[str, float]] = {}
    skipped: dict[str, str] = {}
    for result in report.results[1::2]:  # of the long rounds
        for _, run, series in result.series():
            bitmap = plan.ioperm == "on" or series.configuration == "bitmap"
            counters[series.workload, bitmap] = {
                n: float(value) for n, value in series.counts.items() if n != "iterations"
            }
            skipped |= run.skipped
    last = report.results[-1].boots[0]
    return Counted(
        kernel=kernel, vendor=report.vendor, policy=policy, stated=stated,
        rows=tuple(report.rows),
        reloads=_simulated(workloads, policy, report.vendor, plan.ioperm),
        counters=counters, skipped=skipped, host=last.host, boot_id=last.id,
        seconds=report.seconds,
    )  # fmt: skip


def _simulated(
    workloads: Iterable[Workload], policy: str | None, vendor: Vendor, ioperm: str
) -> dict[tuple[str, bool], float]:
    """Return the reloads per iteration that the model gives, of what it has exit kinds for."""
    from kvmbench.catalog import policies, profiles
    from kvmbench.simulation.simulate import missing_kinds, simulate

    profile = profiles()["patch-2017"]
    able = [w for w in workloads if not missing_kinds(w, profile)]
    sides = {"off": (False,), "on": (True,), "both": (False, True)}[ioperm]
    if policy is None:
        return {(w.name, bitmap): 0.0 for w in able for bitmap in sides}
    chosen = policies()[policy]
    found = {}
    for bitmap in sides if able else ():
        simulated = simulate(
            able, chosen, chosen, profile, iterations=100, ioperm="on" if bitmap else "off",
            vendor=vendor,
        )  # fmt: skip
        for row in simulated.rows:
            found[row.workload, bitmap] = float(row.before.reloads)
    return found


def result_of(
    counted: Sequence[Counted], *, command: Sequence[str] = (), time: str = "",
    notes: Sequence[str] = (),
) -> Result:  # fmt: skip
    """Return the counts as a result: one boot per kernel, one configuration each.

    A row's instructions are noisy; each count is a separate row, `cpuid:ltr`, and exact. Runs with
    rows of both configurations of a kernel are pairs.
    """
    boots = []
    for one in counted:
        both = {row.bitmap for row in one.rows} == {False, True}
        number = max((len(row.runs) for row in one.rows), default=0)
        runs = [
            Run(
                block=index + 1 if both else None, time=time or None, engine="lab",
                command=list(command), vendor=one.vendor, series=list(_series(one, index)),
                skipped=one.skipped,
            )
            for index in range(number)
        ]  # fmt: skip
        boots.append(Boot(id=one.boot_id, host=one.host, runs=runs))
    return Result(
        tool=f"kvmbench {version('kvmbench')}",
        notes=[
            "Counted on an emulated machine (Bochs), outside the kernel; instructions are no "
            "cycles.",
            *notes,
        ],
        boots=boots,
    )


def _series(one: Counted, index: int) -> Iterator[Series]:
    """Yield the instructions of each row in one run; in the first run, the counts too."""
    for row in one.rows:
        if index >= len(row.runs):
            continue
        configuration = one.kernel.label + (BITMAP if row.bitmap else "")
        key = (row.workload, row.bitmap)
        own: dict[str, int | float] = {
            name: exact(row.figure(name))
            for name in row.values
            if exact(row.figure(name)) or name == "exits"
        }
        if row.tr_limits:
            own["tr_limit_least"], own["tr_limit_greatest"] = row.tr_limits
        own |= {f"kvm_{name}": n for name, n in one.counters.get(key, {}).items()}
        yield Series(
            workload=row.workload, configuration=configuration, unit="instructions", kind="noisy",
            values=list(row.by_run("instructions")[index]), counts=own,
        )  # fmt: skip
        for name in () if index else row.values:
            if name.startswith("instructions") or (name != "ltr" and not own.get(name)):
                continue
            is_ltr = name == "ltr"
            yield Series(
                workload=f"{row.workload}:{name}", configuration=configuration, unit="count",
                kind="exact", values=[exact(row.figure(name))], quantum=EXACT, policy=one.policy,
                reloads=one.reloads.get(key) if is_ltr else None,
                marks=[DIFFERS] if is_ltr and differs(one, row) else [],
            )  # fmt: skip


DIFFERS = "the kernel's LTRs are not the reloads of the policy"


def differs(counted: Counted, row: Row) -> bool:
    """Return whether the counted LTRs are other than the simulated reloads."""
    simulated = counted.reloads.get((row.workload, row.bitmap))
    return simulated is not None and abs(row.figure("ltr") - simulated) > EXACT
