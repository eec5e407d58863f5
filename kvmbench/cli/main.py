"""The command `kvmbench`. Each subcommand's file is loaded when it is asked for."""

from __future__ import annotations

import difflib
import os
import sys
from importlib import import_module
from typing import Any

import click
from click.exceptions import NoArgsIsHelpError

COMMANDS = {  # name: (file of kvmbench/cli, what --help says of it)
    "run": ("run", "Simulate workloads under two policies, or measure them on /dev/kvm."),
    "scenario": ("scenario", "Simulate a whole host under two policies."),
    "check": ("check", "Explore every interleaving of a policy: is it safe?"),
    "compare": ("compare", "Compare results, row by row, with a verdict."),
    "self-test": ("self_test", "Compare a result with itself, taken apart in time."),
    "plan": ("plan", "Plan measurements of two kernels in turn, across reboots."),
    "host": ("host", "Say whether this host is fit to measure, and what would help."),
    "check-io": ("check_io", "Hold the port check against guests on /dev/kvm."),
    "list": ("list", "List workloads, policies, profiles, results or what else has names."),
    "show": ("show", "Print what is behind a name, or in a file."),
    "convert": ("convert", "Write a result file in another format."),
    "schema": ("schema", "Print the JSON Schema of result files."),
    "completion": ("completion", "Print the shell's completion script."),
}


class Commands(click.Group):
    """A group whose commands are imported on first use, so that --help stays quick."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run, and say in one line what is wrong."""
        extra.setdefault("obj", list(args[0] if args and args[0] else sys.argv[1:]))
        if not extra.pop("standalone_mode", True):
            return super().main(*args, **extra, standalone_mode=False)  # type: ignore[call-overload]
        try:
            code = super().main(*args, **extra, standalone_mode=False)  # type: ignore[call-overload]
        except NoArgsIsHelpError as error:
            error.show()
            code = error.exit_code
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            name = context.command_path if context else "kvmbench"
            message = " ".join(error.format_message().splitlines()).replace("\t", "")
            click.echo(f"{name}: {message}", err=True)
            code = error.exit_code
        except click.Abort:
            click.echo("kvmbench: stopped", err=True)
            code = 130
        except OSError as error:  # stdout; click ends quietly where it was closed
            click.echo(f"kvmbench: stdout: {error.strerror or error}", err=True)
            # What is left in the buffer has nowhere to go; else Python complains at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        sys.exit(code)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"kvmbench.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        if args[0] not in COMMANDS and near:
            ctx.fail(f"no command {args[0]!r}; did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"kvmbench {version('kvmbench')}")
        ctx.exit()


@click.command(
    cls=Commands,
    context_settings={"auto_envvar_prefix": "KVMBENCH", "help_option_names": ["-h", "--help"]},
)
@click.option(
    "-V", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version,
    allow_from_autoenv=False,
    help="Show the version and exit.",
)  # fmt: skip
def main(**_: Any) -> None:
    """Benchmark KVM's VM exits: simulated, measured, compared, checked.

    \b
    Examples:
      kvmbench run                               the table of the 2017 TR patch
      kvmbench run --explain inl_from_qemu       where its cycles go
      kvmbench run --before every-exit           the changelog's literal sentence
      kvmbench run --against patch-2017          predicted beside published
      kvmbench run --engine kvm                  measured on this host
      kvmbench scenario oversubscribed           what the patch is worth to a host
      kvmbench check deferred                    every interleaving: is it safe
      kvmbench compare before.json after.json    which rows moved, how surely
      kvmbench list policies
      kvmbench show deferred

    Every option can be set in the environment: --after of `run` is KVMBENCH_RUN_AFTER. Exit codes:
    0 done, 1 failed, 2 usage; `compare` and `check` have more, which their --help names.
    """
