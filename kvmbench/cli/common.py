"""Names and files as arguments: the things that they name, and their completion in a shell."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from kvmbench.cli.store import RESULT_ENDINGS, named_results
from kvmbench.errors import brief, listed, unknown_name

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from kvmbench.model import Policy
    from kvmbench.results import Result
    from kvmbench.workloads import Workload

T = TypeVar("T")

HOMES = {  # kind: the module with the function of that name
    "workloads": "workloads",
    "scenarios": "scenario.scenario",
    **dict.fromkeys(("policies", "profiles", "published"), "catalog"),
}
BROKEN = (errno.EIO, errno.EINVAL, errno.ENXIO)  # of a file that is there and named rightly
ONE_OF = {  # kind: one of them, and the function that loads a user's
    "scenarios": ("scenario", "load_scenario"),
    "profiles": ("cost profile", "load_profile"),
    "published": ("published table", "load_published"),
}


class Group(click.Group):
    """A group of commands that suggests the nearest name for an unknown one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            ctx.fail(f"no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)


class _Ranged(click.ParamType):  # type: ignore[type-arg]
    """A number whose refusal names what was expected, whatever the value is."""

    form = ""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = super().convert(value, param, ctx)
            if number == number:  # a range of click holds NaN
                return number
        except click.BadParameter:
            pass
        ends: dict[str, Any] = dict(self.to_info_dict())
        most = "any" if ends["max"] is None else ends["max"]
        form = self.form.format(ends["min"], most).replace("to any", "or more")
        raise click.BadParameter(f"{brief(value)} is not {form}", ctx, param)


class Whole(_Ranged, click.IntRange):
    """A whole number in a range."""

    form = "a whole number of {} to {}"


class Between(_Ranged, click.FloatRange):
    """A number in a range."""

    form = "a number between {} and {}"


class FilePath(click.Path):
    """A path that is not empty, as that of a variable without a value would be."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            raise click.BadParameter("empty, expected a path", ctx, param)
        return super().convert(value, param, ctx)


def typed(name: str) -> bool:
    """Return whether the user typed this option: its value is no default and no variable's."""
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE


def is_file(name: str) -> bool:
    """Return whether a NAME|FILE argument is a file's: it has a separator or a known ending."""
    return os.sep in name or name.endswith((".toml", ".py"))


def is_result_file(name: str) -> bool:
    """Return whether an argument is the file of a result: so says its name, or it is one."""
    there = os.path.exists(name) and not os.path.isdir(name)  # a pipe is a file, too
    return os.sep in name or name.endswith(RESULT_ENDINGS) or there


def pick(kind: str, name: str, known: Mapping[str, T]) -> T:
    """Return the thing of that name; a usage error suggests the nearest name."""
    if name not in known:
        raise click.UsageError(unknown_name(kind, name, known))
    return known[name]


def read(load: Callable[[str], T], path: str) -> T:
    """Load a user's file; one that is not there or not to be read is a usage error."""
    try:
        return load(path)
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: object, error: OSError) -> click.ClickException:
    """Return the exception for a file: a usage error unless the file fails while it is read."""
    kind = click.ClickException if error.errno in BROKEN else click.UsageError
    return kind(f"{path}: {error.strerror or error}")


def known(kind: str) -> Mapping[str, Any]:
    """Return the things of a kind by name. Raises ValueError where the package's data is broken."""
    found: Mapping[str, Any] = getattr(import_module(f"kvmbench.{HOMES[kind]}"), kind)()
    return found


def chosen(kind: str, name: str) -> Any:
    """Return the thing of a kind of ONE_OF that has that name, or is in that file."""
    one, load = ONE_OF[kind]
    if is_file(name):
        return read(getattr(import_module(f"kvmbench.{HOMES[kind]}"), load), name)
    return pick(one, name, known(kind))


def load_result(name: str, results_dir: str) -> Result:
    """Return the result in a file, kept under a name, measured last, or published."""
    from kvmbench import formats

    if is_result_file(name) or name == "-":
        return read(formats.load, name)
    kept = named_results(results_dir)
    if name in kept:
        return read(formats.load, str(kept[name]))
    from kvmbench.catalog import published

    tables = published()
    if name in tables:
        return formats.from_published(tables[name])
    if formats.is_many(name):  # stdin, a folder, a glob
        return read(formats.load, name)
    names = [*(each for each in kept if "~" not in each), *tables]  # last~1, last~2, ... are many
    raise click.UsageError(unknown_name("file or result", name, names))


def load_many(
    paths: Iterable[str], progress: Callable[[str, float], None]
) -> tuple[list[tuple[str, str, Result]], list[str]]:
    """Return name, path and result of files and folders, and a line for each file passed over."""
    from kvmbench.comparison.fleet import load_all

    try:
        return load_all(list(paths), progress)
    except OSError as error:
        raise unreadable(error.filename or paths, error) from None


def now() -> str:
    """Return the time as results keep it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command_line() -> list[str]:
    """Return the words that this command was called with, as Unicode that a result can hold."""
    words = ["kvmbench", *(click.get_current_context().find_root().obj or ())]
    return [word.encode(errors="backslashreplace").decode() for word in words]


def known_policies(path: str | None) -> dict[str, Policy]:
    """Return the built-in policies and a file's."""
    from kvmbench.catalog import load_policies, policies

    own = read(load_policies, path) if path else {}
    for name in own:
        if name in policies():
            raise click.ClickException(f"{path}: {brief(name)} is a built-in policy's name")
    return {**policies(), **own}


def chosen_policies(before: str, after: str, path: str | None) -> tuple[Policy, Policy]:
    """Return the two policies that --before, --after and --policy-file choose.

    A file's only policy is the after, unless an option names it; two are before and after in
    their order, unless an option names a policy. The user names two of more.
    """
    from kvmbench.catalog import policies

    known = known_policies(path)
    own = [name for name in known if name not in policies()]
    source = click.get_current_context().get_parameter_source
    named = [name for name in ("before", "after") if source(name) is not ParameterSource.DEFAULT]
    if len(own) == 1 and "after" not in named and before not in own:
        after = own[0]
    elif len(own) == 2 and not named:
        before, after = own
    if typed("policy_file") and not {before, after} & set(own):
        raise click.UsageError(
            f"{path}: --before or --after must name one of its policies: {listed(own)}"
        )
    return pick("policy", before, known), pick("policy", after, known)


def chosen_workloads(
    names: Iterable[str], known: Mapping[str, Workload], able: Callable[[Workload], bool]
) -> list[Workload]:
    """Return the workloads of names and patterns (`inl_*`), each once.

    A pattern stands for the `able` workloads that it matches, and a usage error for none.
    """
    found: dict[str, Workload] = {}
    for name in names:
        if name in known or not set(name) & set("*?["):
            found[name] = pick("workload", name, known)
            continue
        matched = {n: w for n, w in known.items() if fnmatchcase(n, name) and able(w)}
        if not matched:
            raise click.UsageError(f"{brief(name)} matches no workload; known: {listed(known)}")
        found |= matched
    return list(found.values())


def known_workloads(path: str | None) -> dict[str, Workload]:
    """Return the built-in and installed workloads, and a file's."""
    from kvmbench.workloads import load_workloads, merge, workloads

    known = dict(workloads())
    return merge(known, read(load_workloads, path), path) if path else known


Names = Callable[[click.Context], Iterable[str]]
Completer = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def complete(names: Names | str) -> Completer:
    """Return a click completer of names, or of a kind's; where a path begins, of files."""

    def completer(ctx: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        if is_file(begun):
            return [CompletionItem(begun, type="file")]
        try:
            found = known(names) if isinstance(names, str) else names(ctx)
            return [CompletionItem(name) for name in found if name.startswith(begun)]
        except (OSError, ValueError, click.ClickException):
            return []  # the command reports a broken package, the shell must not

    return completer


def result_names(ctx: click.Context) -> Iterable[str]:
    """Return the names that complete a result's."""
    from kvmbench.catalog import published

    return [*named_results(ctx.params.get("results_dir") or "results"), *published()]


def policy_names(ctx: click.Context) -> Iterable[str]:
    """Return the names that complete a policy's."""
    return known_policies(ctx.params.get("policy_file"))
