"""The command `kvmbench`, which loads the file of a subcommand on its first use."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click
from click.exceptions import NoArgsIsHelpError

from kvmbench.cli.common import Group
from kvmbench.cli.help import ABOUT, COMMANDS, help_text
from kvmbench.cli.progress import note
from kvmbench.errors import KvmbenchError

TOO_MUCH: dict[type[Exception], str] = {
    RecursionError: "the input is nested too deeply",
    MemoryError: "the work takes more memory than this machine has: try fewer or smaller inputs",
    OverflowError: "a number of the input is too large",
}
"""The exceptions of inputs beyond Python's limits, and the line that a user sees."""


def _unnamed() -> str:
    """Return the words for the file of an OSError that has none."""
    try:
        os.getcwd()
    except OSError:
        return "the current folder"
    return "stdout"


class Commands(Group):
    """A group that imports its commands on first use, so that --help stays quick."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run, and report an error in one line."""
        words = sys.argv[1:] if args is None else list(args)
        standalone = extra.pop("standalone_mode", True)
        extra |= dict(obj=words, standalone_mode=False)
        if not standalone:
            return super().main(words, *rest, **extra)
        code = 1
        try:
            code = super().main(words, *rest, **extra)
        except NoArgsIsHelpError as error:
            error.show()
            code = error.exit_code
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            note(error.format_message(), context.command_path if context else "kvmbench")
            code = error.exit_code
        except KvmbenchError as error:
            note(str(error))
        except click.Abort:
            note("stopped")
            code = 130
        except tuple(TOO_MUCH) as error:
            note(next(words for kind, words in TOO_MUCH.items() if isinstance(error, kind)))
        except OSError as error:  # click ends quietly where stdout was closed
            note(f"{error.filename or _unnamed()}: {error.strerror or error}")
            # The rest of the buffer has no reader; else Python complains at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(code)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = import_module(f"kvmbench.cli.{COMMANDS[cmd_name][0]}").command
        return found

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(help_text())


@click.command(
    cls=Commands,
    help=ABOUT,
    context_settings=dict(
        auto_envvar_prefix="KVMBENCH", help_option_names=["-h", "--help"], show_default=True
    ),
)
@click.version_option(
    None, "-V", "--version", package_name="kvmbench", message="kvmbench %(version)s",
    allow_from_autoenv=False,
)  # fmt: skip
def main(**_: Any) -> None:
    """Never called: the group runs the subcommand."""
