"""`kvmbench lab`: real kernels on an emulated machine, their work counted."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

import click

from kvmbench.cli.common import (
    FilePath,
    Group,
    Whole,
    chosen_workloads,
    command_line,
    complete,
    known_policies,
    known_workloads,
    now,
    pick,
    policy_names,
)
from kvmbench.cli.measure import leave
from kvmbench.cli.options import (
    keep_options,
    keeper,
    label_option,
    policy_file_option,
    together,
    workload_options,
)
from kvmbench.cli.output import emit, output_options, write_out
from kvmbench.cli.progress import Progress, Unbroken
from kvmbench.cli.store import keep_recent
from kvmbench.cli.until import MOST, Look, check_until, until_options
from kvmbench.report import FORMS

if TYPE_CHECKING:
    from kvmbench.lab.emulator import Emulator
    from kvmbench.lab.kernel import Kernel, Vendor

DEFAULT = ("cpuid", "vmcall", "mov_from_cr8", "mov_to_cr8", "inl_from_pmtimer", "inl_from_qemu",
           "inl_from_kernel", "outl_to_kernel")  # fmt: skip


@click.group("lab", cls=Group)
def command() -> None:
    """Boot real kernels on an emulated CPU and count their work per VM exit.

    It needs no /dev/kvm, no root and no virtualization hardware. The counts are those of the
    kernel's own instructions; they are no cycles.

    \b
    Examples:
      kvmbench lab doctor
      kvmbench lab run --kernel debian:6.1 --kernel debian:6.12
      kvmbench lab run --kernel before=old/bzImage --kernel after=bzImage cpuid
      kvmbench lab run --kernel debian:6.1 --ioperm both --save lab
      kvmbench lab check-io --cases 1000 --cpu svm
      kvmbench lab differ --operations 10000 --seed 1
    """


_cpu_option = click.option(
    "--cpu",
    type=click.Choice(["auto", "vmx", "svm"]),
    default="auto",
    show_default=True,
    help="Emulated CPU; auto takes VMX for a kernel that has kvm-intel.",
)

_timeout_option = click.option(
    "--timeout",
    type=Whole(1),
    default=3600,
    show_default=True,
    help="Seconds per kernel at most.",
)

_plan_options = together(
    click.option(
        "--runs",
        type=Whole(1, 100),
        default=1,
        show_default=True,
        help="Fresh processes per length of round.",
    ),
    click.option(
        "--rounds",
        type=Whole(1, 1000),
        default=3,
        show_default=True,
        help="Pairs of a short and a long round per run.",
    ),
    click.option(
        "--iterations",
        type=Whole(1, 10**7),
        default=500,
        show_default=True,
        help="Iterations of a short round; a long one has three times as many.",
    ),
    _timeout_option,
)


@command.command("run")
@workload_options
@click.option(
    "--kernel",
    multiple=True,
    required=True,
    metavar="[LABEL=]KERNEL",
    help="bzImage[,modules=FOLDER] or debian:RELEASE, then [,append=KERNEL PARAMETERS] and "
    "[,policy=POLICY]; each is a column.",
)
@_cpu_option
@click.option(
    "--policy",
    metavar="POLICY",
    shell_complete=complete(policy_names),
    help="Policy of the kernels, or none for no reload; by default kvmbench looks it up.",
)
@_plan_options
@until_options
@click.option("--explain", is_flag=True, help="Show all counts, and KVM's own counters.")
@label_option
@output_options(*FORMS)
@keep_options
def run(
    names: tuple[str, ...],
    workload_file: str | None,
    ioperm: Literal["off", "on", "both"],
    kernel: tuple[str, ...],
    cpu: str,
    policy: str | None,
    runs: int,
    rounds: int,
    iterations: int,
    timeout: int,
    until: str | None,
    rows: tuple[str, ...],
    max: int | None,
    margin: str | None,
    explain: bool,
    label: dict[str, str],
    format: str | None,
    output: str | None,
    save: str | None,
    append: bool,
    replace: bool,
    results_dir: str,
) -> None:
    """Count each kernel's work per iteration of each WORKLOAD; the patch's eight by default.

    With --until decided kvmbench boots the kernels again, until the instructions of every row are
    decided between the first kernel and each other one, --max times at most (by default 64).
    """
    from kvmbench.lab.document import document
    from kvmbench.lab.repeat import measure_until
    from kvmbench.lab.run import Plan, measure, result_of
    from kvmbench.labels import commit_labels, labelled

    check_until(until, rows, max, margin)
    if until is not None and len(kernel) < 2 and ioperm != "both":
        raise click.UsageError("--until decided needs two kernels or --ioperm both, to compare")
    keep = keeper(save, {"lab"}, append=append, replace=replace, results_dir=results_dir)
    known = known_workloads(workload_file)
    workloads = chosen_workloads(names or DEFAULT, known, lambda found: found.guest is not None)
    _check_policy(policy)
    plan = Plan(
        ioperm=ioperm, runs=runs, rounds=rounds, iterations=(iterations, 3 * iterations),
        limit=timeout,
    )  # fmt: skip
    look = Look(rows=rows, margin=margin)
    with Unbroken() as unbroken:
        with _Failures(), Progress() as show:
            emulator = _emulator()
            found = [_kernel(text, cpu) for text in kernel]
            if len({one.label for one, _ in found}) < len(found):
                raise click.UsageError("two kernels have the same label: name them LABEL=KERNEL")
            more: dict[str, Any] = dict(policy=policy, workload_file=workload_file, progress=show)
            whole: dict[str, Any] = dict(command=command_line(), time=now())
            if until is None:
                left: list[str] = []
                counted = measure(found, workloads, plan, emulator, left=left, **more)
                unbroken.begin()
                result = result_of(counted, notes=left, **whole)
            else:
                counted, result = measure_until(
                    found, workloads, plan, emulator, look, most=max or MOST, **whole, **more
                )
                unbroken.begin()
        result = labelled(result, commit_labels() | label)
        keep_recent(result)
        table = document(counted, result, explain=explain)
        try:
            keep(result)
        finally:  # a full disk must not take the table too
            emit(table if until is None else look.added(table, result), format, output)
        leave(result, keep_going=None)
    look.check()


_kernel_option = click.option(
    "--kernel",
    default="debian:6.12",
    show_default=True,
    metavar="KERNEL",
    help="bzImage[,modules=FOLDER] or debian:RELEASE.",
)


@command.command("check-io")
@_kernel_option
@_cpu_option
@click.option("--cases", type=Whole(1, 10**6), default=1000, show_default=True, help="Accesses.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random accesses.")
@output_options(*FORMS)
def check_io(
    kernel: str, cpu: str, cases: int, seed: int, format: str | None, output: str | None
) -> None:
    """Compare the port check with accesses of a guest on the emulated CPU.

    Exit code 1 where the two differ.
    """
    from kvmbench.lab import checks
    from kvmbench.lab.document import io_document
    from kvmbench.lab.run import Plan

    with _Failures(), Progress() as show:
        emulator = _emulator()
        chosen, vendor = _kernel(kernel, cpu)
        plan = Plan(check_io=cases, seed=seed)
        found = checks.check_io(chosen, vendor, plan, emulator, show)
    emit(io_document(chosen.label, vendor, found), format, output)
    if found["disagreeing"]:
        click.get_current_context().exit(1)


@command.command("check-ioperm")
@click.option(
    "--kernel",
    multiple=True,
    required=True,
    metavar="[LABEL=]KERNEL",
    help="As for `kvmbench lab run`; each is a column.",
)
@_cpu_option
@output_options(*FORMS)
def check_ioperm(kernel: tuple[str, ...], cpu: str, format: str | None, output: str | None) -> None:
    """Let a process do IN at CPL 3 with and without ioperm() and a KVM_RUN before it.

    Exit code 1 where a kernel denies a port that the process holds, or allows another one.
    """
    from kvmbench.lab import checks
    from kvmbench.lab.document import ioperm_document
    from kvmbench.lab.run import Plan

    with _Failures(), Progress() as show:
        emulator = _emulator()
        found = [_kernel(text, cpu) for text in kernel]
        tries = [checks.check_ioperm(one, vendor, Plan(), emulator, show) for one, vendor in found]
    answers = [(one, vendor, t) for (one, vendor), t in zip(found, tries, strict=True)]
    emit(ioperm_document(answers), format, output)
    if any(t["allowed"] != t["ioperm"] for listed in tries for t in listed):
        click.get_current_context().exit(1)


@command.command("record")
@workload_options
@_kernel_option
@_cpu_option
@click.option(
    "--iterations", type=Whole(1, 5000), default=200, show_default=True,
    help="Iterations of each workload's round.",
)  # fmt: skip
@_timeout_option
@click.option(
    "-o", "--output", type=FilePath(dir_okay=False), metavar="FILE",
    help="Write the recording to FILE and print the counts, instead of the recording.",
)  # fmt: skip
def record(
    names: tuple[str, ...], workload_file: str | None, ioperm: Literal["off", "on", "both"],
    kernel: str, cpu: str, iterations: int, timeout: int, output: str | None,
) -> None:  # fmt: skip
    """Record a kernel's tracepoints while each WORKLOAD runs; the patch's eight by default.

    The recording is that of tracefs: kvm:*, sched_switch and ioperm(). `kvmbench trace` reads it.
    """
    from kvmbench.lab.record import record
    from kvmbench.lab.run import Plan

    known = known_workloads(workload_file)
    workloads = chosen_workloads(names or DEFAULT, known, lambda found: found.guest is not None)
    plan = Plan(record=True, ioperm=ioperm, iterations=(iterations, 3 * iterations), limit=timeout)
    with _Failures(), Progress() as show:
        emulator = _emulator()
        chosen, vendor = _kernel(kernel, cpu)
        found = record(chosen, vendor, workloads, plan, emulator, workload_file, show)
    write_out(found.text, output)
    if output not in (None, "-"):
        emit(found.document(), None, None)


@command.command("differ")
@_kernel_option
@_cpu_option
@click.option(
    "--operations", type=Whole(10, 10**6), default=10_000, show_default=True,
    help="Operations of all histories together.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random histories.")
@click.option(
    "--policy", metavar="POLICY", shell_complete=complete(policy_names),
    help="Policy of the kernel, or none for no reload; by default kvmbench looks it up.",
)  # fmt: skip
@policy_file_option
@_timeout_option
@output_options(*FORMS)
def differ(
    kernel: str, cpu: str, operations: int, seed: int, policy: str | None,
    policy_file: str | None, timeout: int, format: str | None, output: str | None,
) -> None:  # fmt: skip
    """Let processes do random exits, switches, ioperm() and IN; compare them with the model.

    Each answer to an IN, and the LTRs between two moments outside the guest, must be those of the
    kernel's policy. Exit code 1 where one is not.
    """
    from kvmbench.lab.differ import differ, document

    none = policy == "none"
    own = None if policy is None or none else pick("policy", policy, known_policies(policy_file))
    with _Failures(), Progress() as show:
        emulator = _emulator()
        chosen, vendor = _kernel(kernel, cpu)
        found = differ(
            chosen, vendor, operations, seed, emulator, policy=own, no_reload=none, limit=timeout,
            progress=show,
        )  # fmt: skip
    emit(document(found), format, output)
    if not found.judged.agrees:
        click.get_current_context().exit(1)


@command.command("build")
@click.option("--source", type=FilePath(), metavar="TARBALL", help="Source of Bochs 3.0.")
def build(source: str | None) -> None:
    """Build the emulator into the user's cache; by default from Debian's source package."""
    from kvmbench.lab import emulator

    with _Failures():
        made = emulator.build(source, _say)
    click.echo(f"{made.program}")


@command.command("doctor")
@output_options(*FORMS)
def doctor(format: str | None, output: str | None) -> None:
    """Report the parts that the lab has and lacks, each with the command that helps.

    Exit code 1 where `kvmbench lab run` lacks a part.
    """
    from kvmbench.lab.doctor import findings, findings_document

    found = findings()
    emit(findings_document(found), format, output)
    if not all(finding.good for finding in found):
        click.get_current_context().exit(1)


def _kernel(text: str, cpu: str) -> tuple[Kernel, Vendor]:
    from kvmbench.lab.kernel import kernel

    if "debian:" in text:
        _say(f"fetching {text}")
    found = kernel(text)
    _check_policy(found.policy)
    able = found.vendors()
    if cpu == "auto":
        if not able:
            raise click.ClickException(
                f"{found.label}: neither kvm-intel nor kvm-amd is among its modules"
            )
        return found, able[0]
    vendor: Vendor = "vmx" if cpu == "vmx" else "svm"
    return found, vendor


def _check_policy(name: str | None) -> None:
    from kvmbench.catalog import policies

    if name is not None and name != "none":
        pick("policy", name, policies())


def _emulator() -> Emulator:
    """Return the emulator, built on first use."""
    from kvmbench.lab import emulator

    return emulator.find() or emulator.build(report=_say)


def _say(words: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"kvmbench: {words}", err=True)


class _Failures:
    """A context that turns the lab's exceptions into one line."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: Any) -> None:
        from kvmbench.errors import KvmbenchError

        if isinstance(error, KvmbenchError | OSError):
            raise click.ClickException(str(error)) from None
