"""`kvmbench measure`: workloads measured on this host, through /dev/kvm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from kvmbench.cli.common import command_line, known_workloads, pick
from kvmbench.cli.options import keep_options, keeper, together, workload_options
from kvmbench.cli.output import emit, output_options
from kvmbench.cli.progress import Progress
from kvmbench.cli.store import keep_recent

if TYPE_CHECKING:
    from kvmbench.results import Result


measuring_options = together(
    workload_options,
    click.option(
        "--cpu", type=click.IntRange(0), metavar="N", help="This host's CPU for the vCPU's thread."
    ),
    click.option(
        "--runs",
        type=click.IntRange(1, 1000),
        default=8,
        show_default=True,
        help="Fresh processes, each with a fresh virtual machine, per configuration.",
    ),
    click.option("--fast", is_flag=True, help="Measure for ten seconds instead of a minute."),
)
"""The workloads and options of a measurement, which `measured` takes."""


@click.command("measure")
@measuring_options
@output_options("text", "markdown", "csv", "json")
@keep_options
def command(
    format: str | None,
    output: str | None,
    save: str | None,
    append: bool,
    replace: bool,
    results_dir: str,
    **chosen: Any,
) -> None:
    """Measure each WORKLOAD on this host and print the table; all that the host can by default.

    kvmbench keeps the last 20 results without being asked: `last` is the newest, `last~1` the one
    before. JSON is the result itself, which `kvmbench compare` reads.

    \b
    Examples:
      kvmbench measure
      kvmbench measure --fast --save main
      kvmbench measure --ioperm both inl_from_qemu cpuid
      kvmbench show last
      kvmbench compare main last
      kvmbench save last patched

    Exit codes: 0 done, 1 failed, 2 usage, 130 stopped by Ctrl-C; kvmbench then prints and keeps
    the finished runs.
    """
    keep = keeper(save, "kvm", append=append, replace=replace, results_dir=results_dir)
    result = measured(**chosen)

    from kvmbench.live.document import document

    try:
        keep(result)
    finally:  # a full disk must not take the table too
        emit(document(result), format, output)
    leave_stopped(result)


def measured(
    names: tuple[str, ...],
    workload_file: str | None,
    cpu: int | None,
    runs: int,
    fast: bool,
    ioperm: Literal["off", "on", "both"],
) -> Result:
    """Measure, and keep the result as `last`; `kvmbench plan run` measures through it too."""
    known = known_workloads(workload_file)
    names = names or tuple(name for name, found in known.items() if found.guest is not None)
    workloads = [pick("workload", name, known) for name in names]

    from kvmbench.errors import LiveError
    from kvmbench.live.engine import measure

    try:
        with Progress() as show:
            result = measure(
                workloads, runs=runs, fast=fast, ioperm=ioperm, cpu=cpu, progress=show,
                command=command_line(),
            )  # fmt: skip
    except LiveError as error:
        raise click.ClickException(str(error)) from None
    keep_recent(result)
    return result


def leave_stopped(result: Result) -> None:
    """End the command as Ctrl-C does where it stopped the measurement."""
    from kvmbench.live.engine import STOPPED

    if any(note.startswith(STOPPED) for note in result.notes):
        raise click.Abort
