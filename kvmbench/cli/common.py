"""What the commands share: names and files as arguments, completion, output."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from kvmbench.model import Policy, Profile
    from kvmbench.results import Result

T = TypeVar("T")
RESULT_ENDINGS = (".json", ".toml", ".txt", ".log", ".csv", ".md", ".xml")


def is_file(name: str) -> bool:
    """Say whether a NAME|FILE argument is a file's: it has a separator or a known ending."""
    return os.sep in name or name.endswith((".toml", ".py"))


def pick(what: str, name: str, known: Mapping[str, T]) -> T:
    """Return what `name` stands for; a usage error suggests the nearest name."""
    from kvmbench.errors import unknown_name

    if name not in known:
        raise click.UsageError(unknown_name(what, name, known))
    return known[name]


def read(load: Callable[[str], T], path: str) -> T:
    """Load a user's file; what is wrong with it becomes one line."""
    try:
        return load(path)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise click.ClickException(str(error)) from None


results_dir_option = click.option(
    "--results-dir",
    default="results",
    show_default=True,
    type=click.Path(file_okay=False),
    metavar="FOLDER",
    help="Where results are kept by name.",
)


def saved_results(results_dir: str) -> dict[str, Path]:
    """Return the files of the folder's results by name; none where there is no such folder."""
    return {path.stem: path for path in sorted(Path(results_dir).glob("*.json"))}


def load_result(name: str, results_dir: str) -> Result:
    """Return the result in a file, kept under a name in `results_dir`, or published."""
    from kvmbench import catalog, formats
    from kvmbench.errors import unknown_name

    known = os.path.exists(name) and not os.path.isdir(name)
    if os.sep in name or name.endswith(RESULT_ENDINGS) or known:
        return read(formats.load, name)
    saved = saved_results(results_dir)
    if name in saved:
        return read(formats.load, str(saved[name]))
    try:
        tables = catalog.published()
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    if name in tables:
        return formats.from_published(tables[name])
    raise click.UsageError(unknown_name("file or result", name, [*saved, *tables]))


def _result_file(name: str, results_dir: str) -> Path:
    """Return the file of the result that is kept as `name`; a usage error where it is no name."""
    if (
        not name.strip() or not name.isprintable() or name.startswith(".")
        or name.endswith(RESULT_ENDINGS) or any(sign in name for sign in (os.sep, "=", "#"))
    ):  # fmt: skip
        raise click.UsageError(
            f"--save {name!r}: expected a name without /, = and #, which is kept as "
            f"{results_dir}/NAME.json; --results-dir chooses the folder"
        )
    return Path(results_dir) / f"{name}.json"


def check_save(
    name: str | None, append: bool, replace: bool, results_dir: str, engine: str
) -> None:
    """Refuse before the work what could not be kept after it."""
    if name is None:
        if append or replace:
            raise click.UsageError(f"--{'append' if append else 'replace'} needs --save NAME")
        return
    if append and replace:
        raise click.UsageError("--append and --replace exclude each other")
    file = _result_file(name, results_dir)
    if not file.exists() or replace:
        return
    from kvmbench import results

    old = read(results.read, str(file))
    if not append and any(series.kind == "noisy" for _, _, series in old.series()):
        raise click.UsageError(
            f"{file} holds measured runs: --append adds to them, --replace replaces them"
        )
    # One file with both could be compared with neither.
    others = {run.engine for _, run in old.runs() if run.engine} - {engine}
    if append and others:
        raise click.UsageError(
            f"{file} holds runs of {', '.join(sorted(others))}, and these are of {engine}: "
            "--save them as another NAME"
        )


def save_result(name: str, results_dir: str, result: Result, append: bool) -> None:
    """Keep `result` as `name`, or add it to what is kept so."""
    import msgspec

    from kvmbench import results

    file = _result_file(name, results_dir)
    named = msgspec.structs.replace(result, name=name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        (results.append if append else results.write)(file, named)
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror or error}") from None
    except ValueError as error:
        raise click.ClickException(str(error)) from None


def now() -> str:
    """Return the time as results keep it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command_line() -> list[str]:
    """Return the words that this command was called with."""
    return ["kvmbench", *(click.get_current_context().find_root().obj or ())]


def result_names(ctx: click.Context) -> Iterable[str]:
    """Return what completes a result's name."""
    from kvmbench.catalog import published

    return [*saved_results(ctx.params.get("results_dir") or "results"), *published()]


def complete(
    names: Callable[[click.Context], Iterable[str]],
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Return a click completer of `names`; files are completed too where one is begun."""

    def completer(ctx: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
        if is_file(begun):
            return [CompletionItem(begun, type="file")]
        try:
            return [CompletionItem(name) for name in names(ctx) if name.startswith(begun)]
        except (OSError, ValueError):
            return []  # a broken package is for the command to report, not for the shell

    return completer


def write_out(content: str | bytes, path: str | None) -> None:
    """Print `content`, or make it that of a file: whole, or not at all."""
    if path is None:
        click.echo(content, nl=False)
        return
    from kvmbench.atomic import replace_file

    try:
        replace_file(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror or error}") from None


def policy_names(ctx: click.Context) -> Iterable[str]:
    """Return what completes a policy's name."""
    from kvmbench.catalog import load_policies, policies

    path = ctx.params.get("policy_file")
    return [*policies(), *(load_policies(path) if path else ())]


def profile_names(_: click.Context) -> Iterable[str]:
    """Return what completes a profile's name."""
    from kvmbench.catalog import profiles

    return profiles()


def chosen_costs(name: str) -> Profile:
    """Return the profile of that name or file."""
    from kvmbench.catalog import load_profile, profiles

    return read(load_profile, name) if is_file(name) else pick("profile", name, profiles())


def known_policies(path: str | None) -> dict[str, Policy]:
    """Return the built-in policies and a file's."""
    from kvmbench.catalog import load_policies, policies

    known = dict(policies())
    for name, policy in (read(load_policies, path) if path else {}).items():
        if name in known:
            raise click.ClickException(f"{path}: {name!r} is a built-in policy's name")
        known[name] = policy
    return known


class Progress:
    """A line on stderr, where that is a terminal and the work takes longer than a second."""

    def __init__(self) -> None:
        self.next = time.monotonic() + 1 if sys.stderr.isatty() else float("inf")
        self.shown = False

    def __call__(self, name: str, share: float) -> None:
        now = time.monotonic()
        if now >= self.next:
            click.echo(f"\r\033[K{name} {share:4.0%}", nl=False, err=True)
            self.shown, self.next = True, now + 0.1

    def clear(self) -> None:
        if self.shown:
            click.echo("\r\033[K", nl=False, err=True)


def machine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what is simulated: two policies on one machine."""
    options = (
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
        click.option(
            "--policy-file", type=click.Path(), metavar="FILE", help="TOML with more policies."
        ),
        click.option(
            "--profile",
            default="patch-2017",
            show_default=True,
            metavar="NAME|FILE",
            shell_complete=complete(profile_names),
            help="Costs of the machine.",
        ),
        click.option(
            "--vendor",
            type=click.Choice(["vmx", "svm"]),
            default="vmx",
            show_default=True,
            help="On vmx a VM exit cuts the TR limit.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command
