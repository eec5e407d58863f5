"""`kvmbench measure`: workloads measured on this host, through /dev/kvm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import click

from kvmbench.cli.common import (
    Whole,
    chosen_workloads,
    command_line,
    complete,
    known_workloads,
    result_names,
    typed,
)
from kvmbench.cli.options import (
    keep_options,
    keeper,
    label_option,
    together,
    workload_options,
)
from kvmbench.cli.output import emit, output_options
from kvmbench.cli.progress import Progress, Unbroken, note
from kvmbench.cli.store import LAST, is_last, keep_recent
from kvmbench.cli.until import MOST, Look, check_until, until_options
from kvmbench.errors import KvmbenchError
from kvmbench.report import FORMS

if TYPE_CHECKING:
    from kvmbench.model import Workload
    from kvmbench.results import Result
    from kvmbench.units import Side


measuring_options = together(
    workload_options,
    click.option(
        "--cpu", type=Whole(0), metavar="N", help="This host's CPU for the vCPU's thread."
    ),
    click.option(
        "--runs", type=Whole(1, 1000), default=8,
        help="Fresh processes, each with a fresh virtual machine, per configuration.",
    ),
    label_option,
    click.option("--fast", is_flag=True, help="Measure for ten seconds instead of a minute."),
    click.option(
        "--keep-going", is_flag=True, help="Exit with 0 although runs ended early, where some did."
    ),
)  # fmt: skip
"""The workloads and options of a measurement, which `measured` and `leave` take."""


@click.command("measure")
@measuring_options
@click.option("--explain", is_flag=True, help="Show KVM's counters per iteration.")
@until_options
@click.option(
    "--against",
    metavar="FILE",
    shell_complete=complete(result_names),
    help="Result that the rows are compared with, with --until decided.",
)
@output_options(*FORMS)
@keep_options
def command(
    explain: bool, keep_going: bool, until: str | None, rows: tuple[str, ...], max: int | None,
    margin: str | None, against: str | None, format: str | None, output: str | None,
    save: str | None, append: bool, replace: bool, results_dir: str, **chosen: Any,
) -> None:  # fmt: skip
    """Measure each WORKLOAD on this host and print the table; by default every one that it can run.

    A WORKLOAD is a name or a pattern. kvmbench keeps the last 20 results without being asked:
    `last` is the newest, `last~1` the one before. JSON is the result itself, which `kvmbench
    compare` reads.

    With --until decided kvmbench looks at the rows after each run, against FILE's run of the same
    number or with --ioperm both against the other run of the pair, and ends where they are decided,
    after --max runs at most (by default FILE's number, or 64). The intervals hold however often it
    looks.

    \b
    Examples:
      kvmbench measure
      kvmbench measure --fast --save main
      kvmbench measure --ioperm both 'inl_*' cpuid
      kvmbench measure --until decided --against main 'inl_*'
      kvmbench show last
      kvmbench compare main last
      kvmbench save last patched

    Exit codes: 0 done, 1 failed or fewer runs than asked for, 2 usage, 130 stopped by Ctrl-C.
    kvmbench always prints and keeps the finished runs.
    """
    check_until(until, rows, max, margin)
    look = None
    if until is not None:
        if typed("runs"):
            raise click.UsageError("--until decided takes --max and no --runs")
        before = _before(against, chosen["ioperm"], results_dir)
        look = Look(rows=rows, margin=margin, before=before)
        chosen["runs"] = max or MOST
        if before is not None:
            chosen["runs"] = min(chosen["runs"], len(before.runs))
    elif against is not None:
        raise click.UsageError("--against needs --until decided")
    keep = keeper(save, {"kvm"}, append=append, replace=replace, results_dir=results_dir)
    with measured(**chosen, decided=look) as result:
        from kvmbench.live.document import document

        found = document(result, explain=explain)
        try:
            keep(result)
        except (click.ClickException, KvmbenchError):
            if is_last():
                said = f"the runs are kept as {LAST!r}: `kvmbench save {LAST} NAME` keeps them"
                note(f"{said} by name")
            raise
        finally:  # a full disk must not take the table too
            emit(look.added(found, result) if look else found, format, output)
        leave(result, keep_going)
    if look is not None:
        look.check()


def _before(against: str | None, ioperm: str, results_dir: str) -> Side | None:
    """Return the side that the rows are looked at against; None for the other run of a pair."""
    if (against is None) == (ioperm != "both"):
        raise click.UsageError(
            "--until decided needs either --against FILE or --ioperm both, to compare with"
        )
    if against is None:
        return None
    from kvmbench.cli.compare import chosen_sides

    (before,) = chosen_sides([against], results_dir)
    if len(before.boots) > 1 or len(before.configurations) > 1:
        raise click.UsageError(
            f"--against {against}: expected one boot and one configuration, whose runs pair with "
            "the runs of this boot; `kvmbench plan new` compares boots"
        )
    return before


def measurable(workload: Workload) -> bool:
    """Return whether a workload has a guest to measure it in."""
    return workload.guest is not None


@contextmanager
def measured(
    names: tuple[str, ...], workload_file: str | None, cpu: int | None, runs: int, fast: bool,
    ioperm: Literal["off", "on", "both"], label: dict[str, str],
    decided: Callable[[Result], bool] | None = None,
) -> Iterator[Result]:  # fmt: skip
    """Measure, keep the result as `last`, and let Ctrl-C wait while the block prints it.

    `kvmbench plan run` measures through it too.
    """
    from kvmbench.labels import labelled, measured_labels
    from kvmbench.live.engine import measure

    known = known_workloads(workload_file)
    workloads = chosen_workloads(names, known, measurable)
    workloads = workloads or [w for w in known.values() if w.guest is not None and not w.userspace]
    with Unbroken() as unbroken:
        with Progress() as show:
            result = measure(
                workloads, runs=runs, fast=fast, ioperm=ioperm, cpu=cpu, progress=show,
                command=command_line(), decided=decided,
            )  # fmt: skip
            unbroken.begin()
        result = labelled(result, measured_labels(result.boots[0].host.kernel) | label)
        keep_recent(result)
        yield result


def leave(result: Result, keep_going: bool | None) -> None:
    """End the command where Ctrl-C stopped the measurement, or runs ended early.

    None for `keep_going` where the command has no such option.
    """
    from kvmbench.live.engine import STOPPED, shortfall

    if any(note.startswith(STOPPED) for note in result.notes):
        raise click.Abort
    if (short := shortfall(result)) and not keep_going:
        hint = "" if keep_going is None else " --keep-going accepts such a result."
        raise click.ClickException(f"{short}{hint}")
