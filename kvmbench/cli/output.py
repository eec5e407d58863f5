"""Where a command's document goes: stdout or a file, in which form, how wide, in colour or not."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from kvmbench.cli.common import FilePath
from kvmbench.cli.progress import naming
from kvmbench.report import ENDINGS, FORMS, WIDTH, Document, write

__all__ = ["emit", "output_options", "try_file", "write_out"]


def try_file(path: str | Path) -> None:
    """Refuse, before the work, a file that cannot be made."""
    from kvmbench.atomic import try_replace

    with naming(path):
        try_replace(path)


def _tried(ctx: click.Context, _: click.Parameter, output: str | None) -> str | None:
    if output not in (None, "-") and not ctx.resilient_parsing:
        target = Path(output)
        with naming(output):
            if target.is_dir() or output.endswith(os.sep):
                raise click.ClickException(f"{output}: Is a directory")
            if target.exists() and not target.is_file():
                return output  # a device or a pipe
            if not target.parent.exists():
                raise click.ClickException(f"{output}: No such file or directory")
        try_file(target)
    return output


def output_options(*forms: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add `--format`, one of `forms`, and `--output` to a command.

    The form is None where the user chose none; `emit` then goes by the file's ending.
    """

    format_option = click.option(
        "--format", type=click.Choice(forms), show_default="text, or by FILE's ending",
        help="Form of the output.",
    )  # fmt: skip
    output_option = click.option(
        "-o", "--output", type=FilePath(), metavar="FILE", callback=_tried,
        help="Write to FILE instead of stdout; its ending chooses the format.",
    )  # fmt: skip
    return lambda command: format_option(output_option(command))


def emit(document: Document, form: str | None, output: str | None) -> None:
    """Write a document to stdout, or make it that of a file: whole, or not at all."""
    if form is None:
        form = ENDINGS.get(Path(output or "").suffix, "text")
        form = form if form in (*FORMS, *document.forms) else "text"
    width, color = (WIDTH, False) if output else _terminal()
    write_out(write(document, form, width=width, color=color), output, instead=True)


def write_out(content: str | bytes, output: str | None, *, instead: bool = False) -> None:
    """Print `content`, or make it that of a file: whole, or not at all.

    With `instead` it is printed where the file cannot be written, so that it is not lost.
    """
    if output is None or output == "-":
        click.echo(content, nl=False, color=True)  # `content` is in colour only where it may be
        return
    from kvmbench.atomic import replace_file

    try:
        replace_file(output, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        if instead:
            click.echo(content, nl=False)
        reason = f"{error.strerror or error}{': printed instead' if instead else ''}"
        raise click.ClickException(f"{output}: {reason}") from None


def _terminal() -> tuple[int, bool]:
    """Return the columns of stdout and whether to colour it.

    NO_COLOR, CLICOLOR_FORCE and TERM=dumb are honoured (no-color.org, bixense.com/clicolors).
    """
    wide = sys.stdout is not None and sys.stdout.isatty()
    width = WIDTH
    if wide:
        import shutil

        width = shutil.get_terminal_size((WIDTH, 24)).columns
    if os.environ.get("NO_COLOR"):
        return width, False
    forced = os.environ.get("CLICOLOR_FORCE", "0") not in ("", "0")
    return width, forced or (wide and os.environ.get("TERM") != "dumb")
