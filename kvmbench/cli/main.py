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
from kvmbench.cli.progress import note
from kvmbench.errors import KvmbenchError

COMMANDS = {  # name: (file of kvmbench/cli, its line in --help)
    "run": ("run", "Simulate workloads under two policies."),
    "measure": ("measure", "Measure workloads on this host, through /dev/kvm."),
    "profile": ("profile", "Make a cost profile from measured rows."),
    "scenario": ("scenario", "Simulate a whole host under two policies."),
    "sweep": ("sweep", "Simulate many points: policies, costs, hosts, seeds."),
    "trace": ("trace", "Read recorded VM exits: count, replay, make a scenario."),
    "check": ("check", "Explore every interleaving of a policy: is it safe?"),
    "compare": ("compare", "Compare results, row by row, with a verdict."),
    "history": ("history", "Find which commit changed which row, over many results."),
    "collect": ("collect", "Write the results of many hosts, or of many days, to one file."),
    "self-test": ("self_test", "Compare a result with itself: the A/A test of a host."),
    "plan": ("plan", "Measure two kernels in turn, across reboots."),
    "host": ("host", "Report whether this host is fit to measure, with remedies."),
    "check-io": ("check_io", "Compare the port check with guests on /dev/kvm."),
    "lab": ("lab", "Boot real kernels on an emulated CPU and count their work per VM exit."),
    "list": ("list", "List workloads, policies, cost profiles, results and other names."),
    "show": ("show", "Print the thing of a name, or a file."),
    "save": ("save", "Keep the last measurement, or any result, under a name."),
    "convert": ("convert", "Write a result file in another format."),
    "schema": ("schema", "Print the JSON Schema of the JSON that kvmbench writes."),
    "completion": ("completion", "Print the shell's completion script."),
}

TOO_MUCH: dict[type[Exception], str] = {
    RecursionError: "the input is nested too deeply",
    MemoryError: "the work takes more memory than this machine has: try fewer or smaller inputs",
    OverflowError: "a number of the input is too large",
}
"""The exceptions of inputs beyond Python's limits, and the line that a user sees."""


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
        except OSError as error:  # stdout; click ends quietly where it was closed
            note(f"stdout: {error.strerror or error}")
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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])


@click.command(
    cls=Commands,
    context_settings=dict(
        auto_envvar_prefix="KVMBENCH", help_option_names=["-h", "--help"], show_default=True
    ),
)
@click.version_option(
    None, "-V", "--version", package_name="kvmbench", message="kvmbench %(version)s",
    allow_from_autoenv=False,
)  # fmt: skip
def main(**_: Any) -> None:
    """Benchmark KVM's VM exits: simulated, measured, compared, checked.

    \b
    Examples:
      kvmbench run                               the table of the 2017 TR patch
      kvmbench run --explain inl_from_qemu       where its cycles go
      kvmbench run --before every-exit           the changelog's literal sentence
      kvmbench run --against patch-2017          predicted and published changes
      kvmbench measure                           measured on this host
      kvmbench scenario oversubscribed           the worth of the patch to a host
      kvmbench sweep design.toml -o p.jsonl      many points, on all cores
      kvmbench check deferred                    every interleaving: is it safe
      kvmbench compare before.json after.json    which rows moved, how surely
      kvmbench list policies
      kvmbench show deferred

    The environment can set each option: KVMBENCH_RUN_AFTER sets --after of `run`. Exit codes:
    0 done, 1 failed, 2 usage, 130 stopped by Ctrl-C; `compare` and `check` have more.
    """
