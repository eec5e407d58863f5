"""`kvmbench run`: workloads simulated under two policies, as a table."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

import click

from kvmbench.cli.common import (
    Whole,
    chosen,
    chosen_policies,
    chosen_workloads,
    command_line,
    complete,
    known_workloads,
    load_result,
    now,
    typed,
)
from kvmbench.cli.options import (
    keep_options,
    keeper,
    label_option,
    machine_options,
    workload_options,
)
from kvmbench.cli.output import emit, output_options
from kvmbench.cli.progress import Progress, note
from kvmbench.errors import brief

if TYPE_CHECKING:
    from kvmbench.catalog import Published
    from kvmbench.model import Profile
    from kvmbench.results import Result
    from kvmbench.simulation.simulate import Simulation
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


def _table_names(_: click.Context) -> Iterable[str]:
    from kvmbench.catalog import published

    return [table.name for table in published().values() if table.change == "tr-reload"]


@click.command("run", cls=Run)
@workload_options
@machine_options
@click.option(
    "--iterations", type=Whole(1, 10**12), default=1_000_000,
    help="Iterations of each workload, after one warm-up iteration.",
)  # fmt: skip
@click.option(
    "--closed-form", is_flag=True, help="Add equal iterations up instead of stepping each."
)
@click.option("--explain", is_flag=True, help="Show where the cycles of each figure go.")
@click.option(
    "--against", metavar="NAME|FILE", shell_complete=complete(_table_names),
    help="Compare the predicted changes with a published table's, or with --ioperm both a "
    "result's of `kvmbench measure --ioperm both`.",
)  # fmt: skip
@label_option
@output_options("text", "kut", "markdown", "csv", "json", "html")
@keep_options
def command(
    names: tuple[str, ...], workload_file: str | None, ioperm: str, before: str, after: str,
    policy_file: str | None, profile: str, vendor: Literal["vmx", "svm"], iterations: int,
    closed_form: bool, explain: bool, against: str | None, label: dict[str, str],
    format: str | None, output: str | None, save: str | None, **kept: Any,
) -> None:  # fmt: skip
    """Simulate each WORKLOAD under two policies and print the table; all of them by default.

    A WORKLOAD is a name or a pattern. A --policy-file with one policy sets --after, one with two
    sets --before and --after. The format kut is the patch's own. JSON is the result itself, which
    `kvmbench compare` reads.

    \b
    Examples:
      kvmbench run
      kvmbench run 'inl_*' --explain
      kvmbench run --before every-exit --against patch-2017
      kvmbench run --after exit-to-user --ioperm both
      kvmbench run --policy-file mine.toml -o mine.json
      kvmbench run --save sim
    """
    if format == "kut" and ((explain and typed("explain")) or (against and typed("against"))):
        raise click.UsageError("--format kut has no room for --explain or --against")
    if ioperm == "both" and typed("before"):
        raise click.UsageError("--ioperm both compares --after with itself: leave out --before")
    keep = keeper(save, {"sim"}, **kept)
    costs = chosen("profiles", profile)
    policies = chosen_policies(before, after, policy_file)
    workloads = _workloads(names, workload_file, costs)
    table = _published(against, ioperm, kept["results_dir"])

    from kvmbench.simulation.simulate import simulate

    try:
        if table:
            from kvmbench.simulation.against import check_against

            check_against(table, (workload.name for workload in workloads), ioperm)
        with Progress() as show:
            simulation = simulate(
                workloads, *policies, costs, iterations=iterations, ioperm=ioperm,
                vendor=vendor, closed_form=closed_form, progress=show,
            )  # fmt: skip
        result = cache(partial(_result, simulation, label))  # --save and JSON have one time
        document = simulation.document(explain=explain, against=table, result=result)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    try:
        if save is not None:
            keep(result())
    finally:  # a full disk must not take the table too
        emit(document, format, output)


def _result(simulation: Simulation, label: dict[str, str]) -> Result:
    """Return the result of a simulation on this host; only JSON and --save need it."""
    from kvmbench import __version__
    from kvmbench.labels import commit_labels, labelled
    from kvmbench.live.host import boot_id, host

    result = simulation.result(
        time=now(), command=command_line(), boot=boot_id(), host=host(),
        tool=f"kvmbench {__version__}",
    )  # fmt: skip
    return labelled(result, commit_labels() | label)


def _published(name: str | None, ioperm: str, results_dir: str) -> Published | None:
    """Return the table that --against names; with --ioperm both it may be a measured result."""
    from kvmbench.catalog import published

    if name is None:
        return None
    if ioperm != "both" or name in published() or name.endswith(".toml"):
        found: Published = chosen("published", name)
        return found
    from kvmbench.live.document import cost_table

    return cost_table(load_result(name, results_dir), name)


def _workloads(names: tuple[str, ...], path: str | None, profile: Profile) -> list[Workload]:
    from kvmbench.simulation.simulate import missing_kinds
    from kvmbench.workloads import DEFERRAL, LIVE_ONLY

    def able(workload: Workload) -> bool:
        return not missing_kinds(workload, profile)

    known = known_workloads(path)
    if not any(map(able, known.values())):
        raise click.ClickException(
            f"cost profile {brief(profile.name)} has the costs of no workload"
        )
    found = chosen_workloads(names, known, able)
    found = found or [w for w in known.values() if able(w) and not w.userspace]
    for workload in found if names else ():
        if workload in LIVE_ONLY and not able(workload):
            raise click.ClickException(
                f"cost profile {brief(profile.name)} has no costs for {workload.name}: "
                f"`kvmbench measure {workload.name}` measures it"
            )
    for workload in () if names else known.values():
        if workload not in (*DEFERRAL, *LIVE_ONLY) and (
            missing := missing_kinds(workload, profile)
        ):
            why = f"cost profile {profile.name} has no exit kind {missing[0]}"
            note(f"left out {workload.name}: {why}")
    return found
