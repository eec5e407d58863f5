"""The options that several commands share, each declared once."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import TYPE_CHECKING, Any

import click

from kvmbench.cli.common import complete, policy_names, profile_names, typed, workload_names
from kvmbench.cli.store import keeping

if TYPE_CHECKING:
    from kvmbench.results import Result

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]


def together(*options: Decorator) -> Decorator:
    """Return one decorator that adds `options` in their order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


results_dir_option = click.option(
    "--results-dir",
    default="results",
    show_default=True,
    type=click.Path(file_okay=False),
    metavar="FOLDER",
    help="Folder of the results that have names.",
)

policy_file_option = click.option(
    "--policy-file", type=click.Path(), metavar="FILE", help="TOML with your own policies."
)

machine_options = together(
    click.option(
        "--before",
        default="eager",
        show_default=True,
        metavar="POLICY",
        shell_complete=complete(policy_names),
        help="Policy of the first column.",
    ),
    click.option(
        "--after",
        default="deferred",
        show_default=True,
        metavar="POLICY",
        shell_complete=complete(policy_names),
        help="Policy of the second column.",
    ),
    policy_file_option,
    click.option(
        "--profile",
        default="patch-2017",
        show_default=True,
        metavar="NAME|FILE",
        shell_complete=complete(profile_names),
        help="Cost profile of the machine.",
    ),
    click.option(
        "--vendor",
        type=click.Choice(["vmx", "svm"]),
        default="vmx",
        show_default=True,
        help="On vmx a VM exit cuts the TR limit.",
    ),
)
"""The machine to simulate, under two policies."""

workload_options = together(
    click.argument(
        "names", nargs=-1, metavar="[WORKLOAD]...", shell_complete=complete(workload_names)
    ),
    click.option(
        "--workload-file",
        type=click.Path(),
        metavar="FILE",
        help="Python with your own workloads.",
    ),
    click.option(
        "--ioperm",
        type=click.Choice(["off", "on", "both"]),
        default="off",
        show_default=True,
        help="Whether the vCPU's thread holds an I/O bitmap; both compares without and with.",
    ),
)

update_options = together(
    click.option("--append", is_flag=True, help="Add the runs to the result of that name."),
    click.option("--replace", is_flag=True, help="Replace the measured runs of that name."),
    results_dir_option,
)

keep_options = together(
    click.option("--save", metavar="NAME", help="Keep the result as NAME, for `kvmbench compare`."),
    update_options,
)


def keeper(
    save: str | None, engine: str, *, append: bool, replace: bool, results_dir: str
) -> Callable[[Result], None]:
    """Return the function that keeps the result as `keep_options` say; without --save, nothing."""
    if save is None:
        for name in ("append", "replace", "results_dir"):
            if typed(name):
                raise click.UsageError(f"--{name.replace('_', '-')} needs --save NAME")
        return lambda result: None
    return updater(save, {engine}, append=append, replace=replace, results_dir=results_dir)


def updater(
    name: str, engines: Set[str], *, append: bool, replace: bool, results_dir: str
) -> Callable[[Result], None]:
    """Return the function that keeps a result of `engines` as `name`, as `update_options` say."""
    if append and replace:
        if typed("append") == typed("replace"):
            raise click.UsageError("--append and --replace exclude each other")
        append, replace = typed("append"), typed("replace")
    return keeping(name, results_dir, engines, append=append, replace=replace)
