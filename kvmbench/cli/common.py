"""What the commands share: names and files as arguments, completion, output."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import click
from click.shell_completion import CompletionItem

T = TypeVar("T")


def is_file(name: str) -> bool:
    """Say whether a NAME|FILE argument is a file's: it has a separator or a known ending."""
    return os.sep in name or name.endswith((".toml", ".py"))


def pick(what: str, name: str, known: Mapping[str, T]) -> T:
    """Return what `name` stands for; a usage error suggests the nearest name."""
    from kvmbench.model import unknown_name

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


def write_out(text: str, path: str | None) -> None:
    """Print `text`, or make it the content of a file: whole, or not at all."""
    if path is None:
        click.echo(text, nl=False)
        return
    target = Path(path)
    aside = None
    try:
        if path.endswith(os.sep):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if target.exists() and not target.is_file():  # a device or a pipe cannot be replaced
            target.write_text(text, encoding="utf-8")
            return
        target = target.resolve()  # a link stays one
        handle, aside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, _permissions(target))
        os.replace(aside, target)
        aside = None
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror or error}") from None
    finally:
        if aside is not None:
            os.unlink(aside)


def _permissions(target: Path) -> int:
    """Return the mode of the file that is there, or of any new one."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
