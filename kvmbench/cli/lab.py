"""`kvmbench lab`: real kernels on an emulated machine, their work counted."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

import click

from kvmbench.cli.common import (
    Progress,
    check_save,
    command_line,
    now,
    pick,
    read,
    results_dir_option,
    save_result,
)
from kvmbench.cli.output import emit, output_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmbench.lab.emulator import Emulator
    from kvmbench.lab.kernel import Kernel, Vendor
    from kvmbench.workloads import Workload

DEFAULT = ("cpuid", "vmcall", "mov_from_cr8", "mov_to_cr8", "inl_from_pmtimer", "inl_from_qemu",
           "inl_from_kernel", "outl_to_kernel")  # fmt: skip


@click.group("lab")
def command() -> None:
    """Boot real kernels on an emulated CPU and count what each VM exit makes them do.

    No /dev/kvm, no root and no virtualization hardware is needed. Instructions and counts are
    exact or nearly so; they are no cycles.

    \b
    Examples:
      kvmbench lab doctor
      kvmbench lab run --kernel debian:6.1 --kernel debian:6.12
      kvmbench lab run --kernel before=bzImage.old --kernel after=bzImage.new cpuid
      kvmbench lab run --kernel debian:6.1 --ioperm both --save lab
      kvmbench lab check-io --cases 1000 --cpu svm
    """


def _cpu_option(function: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--cpu",
        type=click.Choice(["auto", "vmx", "svm"]),
        default="auto",
        show_default=True,
        help="Emulated CPU; auto takes VMX where the kernel has kvm-intel.",
    )(function)


@command.command("run")
@click.argument("names", nargs=-1, metavar="[WORKLOAD]...")
@click.option(
    "--kernel",
    "kernels",
    multiple=True,
    required=True,
    metavar="[LABEL=]KERNEL",
    help="bzImage[,modules=FOLDER] or debian:RELEASE; each is a column.",
)
@_cpu_option
@click.option(
    "--ioperm",
    type=click.Choice(["off", "on", "both"]),
    default="off",
    show_default=True,
    help="Whether the vCPU's thread holds an I/O bitmap; both shows the two.",
)
@click.option(
    "--policy",
    metavar="POLICY",
    help="Policy that the kernels follow, or none; looked up by release.",
)
@click.option(
    "--workload-file", type=click.Path(), metavar="FILE", help="Python with more workloads."
)
@click.option("--runs", type=click.IntRange(1, 100), default=2, show_default=True,
              help="Fresh processes for each length of round.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True,
              help="Pairs of a short and a long round in each run.")  # fmt: skip
@click.option("--iterations", type=click.IntRange(1, 10**7), default=500, show_default=True,
              help="Iterations of a short round; a long one has three times as many.")  # fmt: skip
@click.option("--explain", is_flag=True, help="Show all counts, and KVM's own counters.")
@click.option("--timeout", type=click.IntRange(1), default=3600, show_default=True,
              help="Seconds for one kernel at most.")  # fmt: skip
@output_options("text", "markdown", "csv", "json")
@click.option("--save", metavar="NAME", help="Keep the result as NAME, for `kvmbench compare`.")
@click.option("--append", is_flag=True, help="Add the runs to the result that is kept as NAME.")
@click.option("--replace", is_flag=True, help="Replace the runs that are kept as NAME.")
@results_dir_option
def run(
    names: tuple[str, ...],
    kernels: tuple[str, ...],
    cpu: str,
    ioperm: Literal["off", "on", "both"],
    policy: str | None,
    workload_file: str | None,
    runs: int,
    rounds: int,
    iterations: int,
    explain: bool,
    timeout: int,
    format: str | None,
    output: str | None,
    save: str | None,
    append: bool,
    replace: bool,
    results_dir: str,
) -> None:
    """Count what each WORKLOAD makes each kernel do; the eight of the patch by default."""
    from kvmbench.lab.document import document
    from kvmbench.lab.run import Plan, measure, result_of

    check_save(save, append, replace, results_dir, "lab")
    workloads = _workloads(names, workload_file)
    if policy is not None and policy != "none":
        from kvmbench.catalog import policies

        pick("policy", policy, policies())
    plan = Plan(
        ioperm=ioperm, runs=runs, rounds=rounds, iterations=(iterations, 3 * iterations),
        limit=timeout,
    )  # fmt: skip
    show = Progress()
    with _Failures():
        emulator = _emulator()
        found = [_kernel(text, cpu) for text in kernels]
        labels = [kernel.label for kernel, _ in found]
        if len(set(labels)) < len(labels):
            raise click.UsageError("two kernels have the same label: name them LABEL=KERNEL")
        try:
            counted = measure(
                found, workloads, plan, emulator, policy=policy, workload_file=workload_file,
                progress=show,
            )  # fmt: skip
        finally:
            show.clear()
    result = result_of(counted, command=command_line(), time=now())
    if save is not None:
        save_result(save, results_dir, result, append)
    emit(document(counted, result, explain=explain), format, output)


@command.command("check-io")
@click.option("--kernel", "kernel_", default="debian:6.12", show_default=True,
              metavar="KERNEL", help="bzImage[,modules=FOLDER] or debian:RELEASE.")  # fmt: skip
@_cpu_option
@click.option("--cases", type=click.IntRange(1, 10**6), default=1000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@output_options("text", "markdown", "csv", "json")
def check_io(
    kernel_: str, cpu: str, cases: int, seed: int, format: str | None, output: str | None
) -> None:
    """Hold the port check against accesses of a guest on the emulated CPU.

    The exit code is 1 where any access was decided otherwise.
    """
    from kvmbench.lab import run as lab
    from kvmbench.lab.document import io_document

    show = Progress()
    with _Failures():
        emulator = _emulator()
        kernel, vendor = _kernel(kernel_, cpu)
        try:
            found = lab.check_io(
                kernel, vendor, lab.Plan(check_io=cases, seed=seed), emulator, show
            )
        finally:
            show.clear()
    emit(io_document(kernel.label, vendor, found), format, output)
    if found["disagreeing"]:
        click.get_current_context().exit(1)


@command.command("build")
@click.option("--source", type=click.Path(), metavar="TARBALL", help="Source of Bochs 3.0.")
def build(source: str | None) -> None:
    """Build the emulator into the user's cache; by default from Debian's source package."""
    from kvmbench.lab import emulator

    with _Failures():
        made = emulator.build(source, _say)
    click.echo(f"{made.program}")


@command.command("doctor")
@output_options("text", "markdown", "csv", "json")
def doctor(format: str | None, output: str | None) -> None:
    """Say what is built and fetched, what is missing, and the command for it.

    The exit code is 1 where `lab run` would not work.
    """
    from kvmbench.lab.doctor import findings, findings_document

    found = findings()
    emit(findings_document(found), format, output)
    if not all(finding.good for finding in found):
        click.get_current_context().exit(1)


def _workloads(names: tuple[str, ...], path: str | None) -> list[Workload]:
    from kvmbench.workloads import load_workloads, merge, workloads

    known = dict(workloads())
    try:
        if path:
            known = merge(known, read(load_workloads, path), path)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    chosen = [pick("workload", name, known) for name in dict.fromkeys(names or DEFAULT)]
    return [workload for workload in chosen if workload.guest is not None] or chosen


def _kernel(text: str, cpu: str) -> tuple[Kernel, Vendor]:
    from kvmbench.lab.kernel import kernel

    if text.partition("=")[2].startswith("debian:") or text.startswith("debian:"):
        _say(f"fetching {text}")
    found = kernel(text)
    able = found.vendors()
    if cpu == "auto":
        if not able:
            raise click.ClickException(f"{found.label}: no kvm-intel and no kvm-amd among modules")
        return found, able[0]
    vendor: Vendor = "vmx" if cpu == "vmx" else "svm"
    return found, vendor


def _emulator() -> Emulator:
    """Return the emulator, built on first use."""
    from kvmbench.lab import emulator

    return emulator.find() or emulator.build(report=_say)


def _say(words: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"kvmbench: {words}", err=True)


class _Failures:
    """Turn what the lab cannot do into one line."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: Any) -> None:
        from kvmbench.errors import FileError, KvmbenchError

        if isinstance(error, KvmbenchError | FileError | OSError):
            raise click.ClickException(str(error)) from None
