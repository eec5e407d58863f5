"""`kvmbench run`: workloads simulated under two policies, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from kvmbench.cli.common import (
    chosen_policies,
    chosen_profile,
    command_line,
    complete,
    is_file,
    known_workloads,
    now,
    pick,
    published_names,
    read,
    typed,
)
from kvmbench.cli.options import keep_options, keeper, machine_options, workload_options
from kvmbench.cli.output import emit, output_options
from kvmbench.cli.progress import Progress

if TYPE_CHECKING:
    from kvmbench.catalog import Published
    from kvmbench.model import Profile
    from kvmbench.workloads import Workload

MEASURES = "`kvmbench run` simulates; `kvmbench measure` measures this host"
MOVED = dict.fromkeys(("--engine", "--cpu", "--runs", "--fast"), MEASURES)
MOVED["--plan"] = "`kvmbench plan run FILE` does the step of a plan"


class Run(click.Command):
    """A command that names the new home of an option that it once had."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if home := MOVED.get(error.option_name):
                raise click.UsageError(f"no option {error.option_name}: {home}", ctx) from None
            raise


@click.command("run", cls=Run)
@workload_options
@machine_options
@click.option(
    "--iterations",
    type=click.IntRange(1, 10**12),
    default=1_000_000,
    show_default=True,
    help="Iterations of each workload, after one warm-up iteration.",
)
@click.option(
    "--closed-form", is_flag=True, help="Add equal iterations up instead of stepping each."
)
@click.option("--explain", is_flag=True, help="Show where the cycles of each figure go.")
@click.option(
    "--against",
    metavar="NAME|FILE",
    shell_complete=complete(published_names),
    help="Compare the predicted changes with those of a published table.",
)
@output_options("text", "kut", "markdown", "csv", "json")
@keep_options
def command(
    names: tuple[str, ...],
    workload_file: str | None,
    ioperm: str,
    before: str,
    after: str,
    policy_file: str | None,
    profile: str,
    vendor: Literal["vmx", "svm"],
    iterations: int,
    closed_form: bool,
    explain: bool,
    against: str | None,
    format: str | None,
    output: str | None,
    save: str | None,
    append: bool,
    replace: bool,
    results_dir: str,
) -> None:
    """Simulate each WORKLOAD under two policies and print the table; all of them by default.

    A --policy-file with one policy sets --after, one with two sets --before and --after. The
    format kut is the patch's own. JSON is the result itself, which `kvmbench compare` reads.

    \b
    Examples:
      kvmbench run
      kvmbench run inl_from_qemu --explain
      kvmbench run --before every-exit --against patch-2017
      kvmbench run --after exit-to-user --ioperm both
      kvmbench run --policy-file mine.toml -o mine.json
      kvmbench run --save sim
    """
    if format == "kut" and ((explain and typed("explain")) or (against and typed("against"))):
        raise click.UsageError("--format kut has no room for --explain or --against")
    if ioperm == "both" and typed("before"):
        raise click.UsageError("--ioperm both compares --after with itself: leave out --before")
    keep = keeper(save, "sim", append=append, replace=replace, results_dir=results_dir)
    costs = chosen_profile(profile)
    policies = chosen_policies(before, after, policy_file)
    workloads = _workloads(names, workload_file, costs)
    table = _published(against)

    from importlib.metadata import version

    from kvmbench.live.host import boot_id, host
    from kvmbench.simulation.against import check_against
    from kvmbench.simulation.simulate import simulate

    try:
        if table:
            check_against(table, (workload.name for workload in workloads), ioperm)
        with Progress() as show:
            simulation = simulate(
                workloads, *policies, costs, iterations=iterations, ioperm=ioperm,
                vendor=vendor, closed_form=closed_form, progress=show,
            )  # fmt: skip
        result = simulation.result(
            time=now(), command=command_line(), boot=boot_id(), host=host(),
            tool=f"kvmbench {version('kvmbench')}",
        )  # fmt: skip
        document = simulation.document(explain=explain, against=table, result=result)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    keep(result)
    emit(document, format, output)


def _published(name: str | None) -> Published | None:
    from kvmbench.catalog import load_published, published

    if name is None:
        return None
    if is_file(name):
        return read(load_published, name)
    return pick("published table", name, published())


def _workloads(names: tuple[str, ...], path: str | None, profile: Profile) -> list[Workload]:
    from kvmbench.simulation.simulate import missing_kinds
    from kvmbench.workloads import LIVE_ONLY

    known = known_workloads(path)
    if names:
        named = [pick("workload", name, known) for name in names]
        for workload in named:
            if workload in LIVE_ONLY and missing_kinds(workload, profile):
                raise click.ClickException(
                    f"cost profile {profile.name!r} has no costs for {workload.name}: "
                    f"`kvmbench measure {workload.name}` measures it"
                )
        return named
    able = [found for found in known.values() if not missing_kinds(found, profile)]
    if not able:
        raise click.ClickException(f"cost profile {profile.name!r} has the costs of no workload")
    for workload in known.values():
        if workload not in LIVE_ONLY and (missing := missing_kinds(workload, profile)):
            why = f"cost profile {profile.name} has no exit kind {missing[0]}"
            click.echo(f"kvmbench: left out {workload.name}: {why}", err=True)
    return able
