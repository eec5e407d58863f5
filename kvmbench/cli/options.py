"""The options that several commands share, each declared once."""

from __future__ import annotations

import os
from collections.abc import Callable, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvmbench.cli.common import FilePath, Whole, complete, policy_names, read, typed
from kvmbench.cli.output import try_file
from kvmbench.cli.progress import naming
from kvmbench.cli.store import LAST, RESULT_ENDINGS

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
    "--results-dir", default="results", type=FilePath(file_okay=False), metavar="FOLDER",
    help="Folder of the results that have names.",
)  # fmt: skip

policy_file_option = click.option(
    "--policy-file", type=FilePath(), metavar="FILE", help="TOML with your own policies."
)


def _policy_option(name: str, default: str, column: str) -> Decorator:
    return click.option(
        name, default=default, metavar="POLICY", shell_complete=complete(policy_names),
        help=f"Policy of the {column} column.",
    )  # fmt: skip


machine_options = together(
    _policy_option("--before", "eager", "first"),
    _policy_option("--after", "deferred", "second"),
    policy_file_option,
    click.option(
        "--profile", default="patch-2017", metavar="NAME|FILE",
        shell_complete=complete("profiles"), help="Cost profile of the machine.",
    ),
    click.option(
        "--vendor", type=click.Choice(["vmx", "svm"]), default="vmx",
        help="On vmx a VM exit cuts the TR limit.",
    ),
)  # fmt: skip
"""The machine to simulate, under two policies."""

SIZES = {"cpus": (2, 3), "tasks": (3, 6), "ports": (2, 4)}  # default, most
size_options = together(
    *(
        click.option(f"--{name}", type=Whole(1, most), default=default)
        for name, (default, most) in SIZES.items()
    )
)
"""The machine to explore."""

workload_options = together(
    click.argument(
        "names", nargs=-1, metavar="[WORKLOAD]...", shell_complete=complete("workloads")
    ),
    click.option(
        "--workload-file", type=FilePath(), metavar="FILE",
        help="Python with your own workloads; kvmbench runs it.",
    ),
    click.option(
        "--ioperm", type=click.Choice(["off", "on", "both"]), default="off",
        help="Whether the vCPU's thread holds an I/O bitmap; both compares without and with.",
    ),
)  # fmt: skip

update_options = together(
    click.option("--append", is_flag=True, help="Add the runs to the result of that name."),
    click.option("--replace", is_flag=True, help="Replace the measured runs of that name."),
    results_dir_option,
)


def _labels(ctx: click.Context, _: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        from kvmbench.labels import parse_labels

        try:
            found |= parse_labels(text)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param_hint="--label") from None
    return found


label_option = click.option(
    "--label", multiple=True, metavar="KEY=VALUE", callback=_labels,
    help="Label the result, as in commit=abc1234,branch=main; KEY= removes one.",
)  # fmt: skip

keep_options = together(
    click.option("--save", metavar="NAME", help="Keep the result as NAME, for `kvmbench compare`."),
    update_options,
)


def keeper(
    save: str | None, engines: Set[str], *, append: bool, replace: bool, results_dir: str
) -> Callable[[Result], None]:
    """Return the function that keeps a result as `keep_options` say; without --save, nothing.

    Refuses before the work a name, a folder or a file that could not take a result of `engines`.
    """
    if save is None:
        for option in ("append", "replace", "results_dir"):
            if typed(option):
                raise click.UsageError(f"--{option.replace('_', '-')} needs --save NAME")
        return lambda result: None
    if append and replace:
        if typed("append") == typed("replace"):
            raise click.UsageError("--append and --replace exclude each other")
        append, replace = typed("append"), typed("replace")
    if (
        not save.strip() or not save.isprintable() or save == LAST
        or save.startswith((".", f"{LAST}~"))
        or save.endswith(RESULT_ENDINGS) or any(sign in save for sign in (os.sep, "=", "#"))
    ):  # fmt: skip
        raise click.UsageError(
            f"{save!r} cannot name a result: expected a name without /, = and #, other than "
            f"{LAST}, which becomes {results_dir}/NAME.json; --results-dir chooses the folder"
        )
    file = Path(results_dir) / f"{save}.json"
    try_file(file)
    if file.exists() and not replace:
        _check_kept(file, engines, append)
    name = save

    def keep(result: Result) -> None:
        import msgspec

        from kvmbench import results

        named = msgspec.structs.replace(result, name=name)
        with naming(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            if append:
                results.append(file, named)
            else:
                results.write(file, named, over_measured=replace)

    return keep


def _check_kept(file: Path, engines: Set[str], append: bool) -> None:
    """Refuse a file whose measured runs would be lost, or whose runs are of other engines."""
    from kvmbench import results

    old = read(results.read, str(file))
    if not append and results.is_measured(old):
        raise click.UsageError(
            f"{file} holds measured runs: --append adds to them, --replace replaces them"
        )
    if append:
        try:
            results.check_engines(file, old, engines)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
