"""`kvmbench run`: workloads under two policies, as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import click

from kvmbench.cli.common import (
    Progress,
    check_save,
    chosen_costs,
    command_line,
    complete,
    is_file,
    known_policies,
    machine_options,
    now,
    pick,
    read,
    results_dir_option,
    save_result,
    write_out,
)

if TYPE_CHECKING:
    from kvmbench.model import Profile
    from kvmbench.results import Result
    from kvmbench.simulation.simulate import Simulation
    from kvmbench.workloads import Workload


def _published_names(_: click.Context) -> Iterable[str]:
    from kvmbench.catalog import published

    return [table.name for table in published().values() if table.change == "tr-reload"]


def _workload_names(ctx: click.Context) -> Iterable[str]:
    from kvmbench.workloads import load_workloads, workloads

    path = ctx.params.get("workload_file")
    return [*workloads(), *(w.name for w in (load_workloads(path) if path else ()))]


@click.command("run")
@click.argument(
    "names", nargs=-1, metavar="[WORKLOAD]...", shell_complete=complete(_workload_names)
)
@click.option(
    "--engine",
    type=click.Choice(["sim", "kvm"]),
    default="sim",
    show_default=True,
    help="Simulate two policies, or measure this host through /dev/kvm.",
)
@machine_options
@click.option(
    "--workload-file", type=click.Path(), metavar="FILE", help="Python with more workloads."
)
@click.option(
    "--iterations",
    type=click.IntRange(1, 10**12),
    default=1_000_000,
    show_default=True,
    help="Iterations of each workload behind one warm-up iteration.",
)
@click.option(
    "--closed-form", is_flag=True, help="Add equal iterations up instead of stepping each."
)
@click.option(
    "--ioperm",
    type=click.Choice(["off", "on", "both"]),
    default="off",
    show_default=True,
    help="Does the vCPU's thread hold an I/O bitmap; both compares the two (sim: under --after).",
)
@click.option("--cpu", type=click.IntRange(0), help="kvm: the host's CPU for the vCPU's thread.")
@click.option(
    "--runs",
    type=click.IntRange(1, 1000),
    default=8,
    show_default=True,
    help="kvm: fresh processes with a fresh virtual machine.",
)
@click.option("--fast", is_flag=True, help="kvm: 10 seconds instead of a minute.")
@click.option("--explain", is_flag=True, help="Show where the cycles of each figure go.")
@click.option(
    "--against",
    metavar="NAME|FILE",
    shell_complete=complete(_published_names),
    help="Set the predicted changes beside a published table's.",
)
@click.option(
    "--format",
    type=click.Choice(["text", "kut", "markdown", "csv", "json"]),
    default="text",
    show_default=True,
    help="kut is the patch's own form.",
)
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", help="Write there instead of to stdout."
)
@click.option("--save", metavar="NAME", help="Keep the result as NAME, for `kvmbench compare`.")
@click.option("--append", is_flag=True, help="Add the run to the result that is kept as NAME.")
@click.option("--replace", is_flag=True, help="Replace measured runs that are kept as NAME.")
@results_dir_option
@click.option(
    "--plan", type=click.Path(), metavar="FILE", help="Do the step of a plan that this boot is for."
)
def command(
    output: str | None,
    save: str | None,
    append: bool,
    replace: bool,
    results_dir: str,
    plan: str | None,
    **chosen: Any,
) -> None:
    """Simulate each WORKLOAD under two policies and print the table; all of them by default.

    With --engine kvm, measure each of them, and some more, through this host's /dev/kvm instead.

    \b
    Examples:
      kvmbench run
      kvmbench run inl_from_qemu --explain
      kvmbench run --before every-exit --against patch-2017
      kvmbench run --after exit-to-user --ioperm both
      kvmbench run --policy-file mine.toml --after mine --format json -o mine.json
      kvmbench run --save sim
      kvmbench run --engine kvm --fast
      kvmbench run --engine kvm --ioperm both inl_from_qemu cpuid
    """
    if plan is not None:
        from kvmbench.cli.plan import run_step

        _refuse_more_than_plan()
        run_step(plan)
        return
    check_save(save, append, replace, results_dir, chosen["engine"])
    text, result = measured(**chosen)
    if save is not None:
        save_result(save, results_dir, result, append)
    write_out(text, output)
    if chosen["engine"] == "kvm":
        from kvmbench.live.engine import STOPPED

        if any(note.startswith(STOPPED) for note in result.notes):
            click.get_current_context().exit(130)  # kept and printed, but not what was asked for


def _refuse_more_than_plan() -> None:
    """Refuse options that would be ignored: a plan's steps are alike."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name != "plan" and source == click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{parameter.opts[0] if isinstance(parameter, click.Option) else 'WORKLOAD'} "
                "beside --plan: a plan's steps all take the options that the plan was made with"
            )


SIM_ONLY = (
    *("before", "after", "policy_file", "profile", "vendor", "iterations", "closed_form"),
    *("explain", "against"),
)
KVM_ONLY = ("cpu", "runs", "fast")


def measured(engine: str, **chosen: Any) -> tuple[str, Result]:
    """Return the table of a run with these options of the command, and its result."""
    defaults = {option.name: option.default for option in command.params}
    for name in SIM_ONLY if engine == "kvm" else KVM_ONLY:
        value = chosen[name]
        if value is not None and value is not False and value != defaults[name]:
            other = "sim" if engine == "kvm" else "kvm"
            option = name.replace("_", "-")
            raise click.UsageError(f"--{option} is of --engine {other}, not of --engine {engine}")
    if engine == "sim":
        return _simulated(**chosen)
    from kvmbench.cli.run_live import measured as live

    workloads = _known(chosen["workload_file"])
    names = chosen["names"] or tuple(name for name, w in workloads.items() if w.guest is not None)
    return live(
        [pick("workload", name, workloads) for name in names],
        form=chosen["format"], cpu=chosen["cpu"], runs=chosen["runs"], fast=chosen["fast"],
        ioperm=chosen["ioperm"],
    )  # fmt: skip


def _simulated(
    names: tuple[str, ...],
    before: str,
    after: str,
    policy_file: str | None,
    workload_file: str | None,
    profile: str,
    vendor: Literal["vmx", "svm"],
    iterations: int,
    closed_form: bool,
    ioperm: str,
    explain: bool,
    against: str | None,
    format: str,
    **_: object,
) -> tuple[str, Result]:
    """Return the table of a run with these options of the command, and its result."""
    if format == "kut" and (explain or against):
        raise click.UsageError("--format kut has no room for --explain or --against")
    chosen_profile = chosen_costs(profile)
    known = known_policies(policy_file)
    chosen = (pick("policy", before, known), pick("policy", after, known))
    workloads = _workloads(names, workload_file, chosen_profile)

    from kvmbench.catalog import load_published, published
    from kvmbench.report import write
    from kvmbench.simulation import simulate
    from kvmbench.simulation.against import check_against

    table = None
    if against is not None:
        named = is_file(against)
        table = read(load_published, against) if named else None
        table = table or pick("published table", against, published())
    show = Progress()
    try:
        if table:
            check_against(table, (workload.name for workload in workloads), ioperm)
        simulation = simulate.simulate(
            workloads, *chosen, chosen_profile, iterations=iterations, ioperm=ioperm,
            vendor=vendor, closed_form=closed_form, progress=show,
        )  # fmt: skip
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    finally:
        show.clear()
    result = _kept(simulation)
    document = simulation.document(explain=explain, against=table, result=result)
    return write(document, format), result


def _kept(simulation: Simulation) -> Result:
    """Return the simulation as a result of this boot."""
    from importlib.metadata import version

    from kvmbench.live.host import boot_id, host

    return simulation.result(
        time=now(), command=command_line(), boot=boot_id(), host=host(),
        tool=f"kvmbench {version('kvmbench')}",
    )  # fmt: skip


def _workloads(names: tuple[str, ...], path: str | None, profile: Profile) -> list[Workload]:
    from kvmbench.simulation.simulate import missing_kinds
    from kvmbench.workloads import LIVE_ONLY

    known = _known(path)
    if names:
        named = [pick("workload", name, known) for name in names]
        for workload in named:
            if workload in LIVE_ONLY and missing_kinds(workload, profile):
                what = f"profile {profile.name!r} has no costs for {workload.name}"
                raise click.ClickException(f"{what}: measure it, with --engine kvm")
        return named
    able = [found for found in known.values() if not missing_kinds(found, profile)]
    if not able:
        raise click.ClickException(f"profile {profile.name!r} has exit kinds of no workload")
    for workload in known.values():
        if workload in LIVE_ONLY:
            continue
        if missing := missing_kinds(workload, profile):
            what = f"profile {profile.name} has no exit kind {missing[0]}"
            click.echo(f"kvmbench: {workload.name} left out: {what}", err=True)
    return able


def _known(path: str | None) -> dict[str, Workload]:
    """Return the workloads that there are, and a file's."""
    from kvmbench.workloads import load_workloads, merge, workloads

    try:
        known = dict(workloads())
        return merge(known, read(load_workloads, path), path) if path else known
    except ValueError as error:
        raise click.ClickException(str(error)) from None
