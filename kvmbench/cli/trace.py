"""`kvmbench trace`: recorded exits of a real host, shown, replayed, and made a scenario."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from kvmbench.cli.common import (
    FilePath,
    Group,
    Whole,
    chosen,
    chosen_policies,
    complete,
    unreadable,
)
from kvmbench.cli.options import machine_options, together
from kvmbench.cli.output import emit, output_options, write_out
from kvmbench.cli.progress import Progress, note
from kvmbench.report import FORMS


@click.group("trace", cls=Group)
def command() -> None:
    """Read recorded VM exits: count them, replay them under two policies, or make a scenario.

    FILE is text of `perf script`, `trace-cmd report`, or tracefs' trace or trace_pipe, a trace.dat
    or a perf.data; - is stdin. The content tells which.

    \b
    Examples:
      perf record -a -e 'kvm:*,sched:sched_switch' -- sleep 10
      kvmbench trace show perf.data
      kvmbench trace run perf.data --after exit-to-user
      kvmbench trace scenario perf.data -o host.toml
    """


file_argument = click.argument("source", metavar="FILE", type=FilePath(allow_dash=True))


def _pairs(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for value in values:
        reason, sign, kind = value.rpartition("=")
        if not sign or not reason or not kind:
            raise click.BadParameter(f"{value}: expected REASON=KIND or REASON/user=KIND")
        found[reason] = kind
    return found


cost_options = together(
    click.option(
        "--clock-hz", type=Whole(1_000_000, 10**10), metavar="HZ",
        show_default="the cost profile's, else 2,600,000,000",
        help="Cycles per second of the recorded CPUs.",
    ),
    click.option(
        "--map", multiple=True, metavar="REASON[/user]=KIND", callback=_pairs,
        help="Exit kind whose costs an exit reason has; may be repeated.",
    ),
)  # fmt: skip


@contextmanager
def _reading(source: str) -> Iterator[Progress]:
    """Show progress, and turn the errors of reading into one line."""
    with Progress() as show:
        try:
            yield show
        except OSError as error:
            raise unreadable(source, error) from None
        except ValueError as error:
            raise click.ClickException(str(error)) from None


@command.command("show")
@file_argument
@click.option("--by", type=click.Choice(["reason", "vcpu"]), default="reason", help="Rows.")
@output_options(*FORMS)
def show(source: str, by: str, format: str | None, output: str | None) -> None:
    """Print a recording's exits by reason: rates, host times, returns to userspace and puts.

    Host time is the time between an exit and the next entry of the vCPU, to 1 part in 256. A put,
    by return or by a switch, is the place where `eager` reloads TR. Lines that are not read are
    counted by kind.

    \b
    Examples:
      kvmbench trace show perf.data --by vcpu
      trace-cmd report | kvmbench trace show -
      timeout 10 cat /sys/kernel/tracing/trace_pipe | kvmbench trace show - -o exits.json
    """
    from kvmbench.traces.recording import read_recording

    with _reading(source) as progress:
        recording = read_recording(source, by_vcpu=by == "vcpu", progress=progress)
    emit(recording.document(), format, output)


@command.command("run")
@file_argument
@machine_options
@cost_options
@click.option(
    "--bitmap", multiple=True, metavar="PID|COMM",
    help="A task that holds an I/O bitmap from the start, or a pattern of names; may be repeated.",
)  # fmt: skip
@click.option("--explain", is_flag=True, help="Show the assumptions, and each exit's kind.")
@output_options(*FORMS)
def run(
    source: str, before: str, after: str, policy_file: str | None, profile: str,
    map: dict[str, str], bitmap: tuple[str, ...], explain: bool, format: str | None,
    output: str | None, **options: Any,
) -> None:  # fmt: skip
    """Replay a recording under two policies: cycles by cause, and the worth of the change.

    The recorded order of exits, returns to userspace, task switches and ioperm() calls becomes
    operations of the simulated machine; both policies run the same ones. --explain names the
    assumptions.

    \b
    Examples:
      kvmbench trace run perf.data
      kvmbench trace run perf.data --bitmap Xorg --after exit-to-user --explain
      kvmbench trace run perf.data --profile mine.toml --clock-hz 3400000000
    """
    from kvmbench.traces.replay import replay_recording

    costs = chosen("profiles", profile)
    policies = chosen_policies(before, after, policy_file)
    with _reading(source) as progress:
        replay = replay_recording(
            source, *policies, costs, bitmaps=bitmap, kinds=map, progress=progress, **options
        )
    emit(replay.document(explain=explain), format, output)


@command.command("scenario")
@file_argument
@click.option(
    "--profile", default="patch-2017", metavar="NAME|FILE",
    shell_complete=complete("profiles"), help="Cost profile that has the exit kinds.",
)  # fmt: skip
@cost_options
@click.option("-o", "--output", type=FilePath(), metavar="FILE", help="Write to FILE.")
def scenario(
    source: str, profile: str, map: dict[str, str], output: str | None, clock_hz: int | None
) -> None:
    """Write the host of a recording as a scenario: its tasks, exit mix and time slices.

    \b
    Examples:
      kvmbench trace scenario perf.data -o host.toml
      kvmbench scenario ./host.toml --vary vm.count=1:40:4
    """
    from kvmbench.traces.host import recorded_scenario, scenario_toml

    costs = chosen("profiles", profile)
    with _reading(source) as progress:
        found, recording = recorded_scenario(
            source, costs, clock_hz=clock_hz, kinds=map, progress=progress
        )
    write_out(scenario_toml(found, recording, costs.name), output)
    if output not in (None, "-"):
        path = output if Path(str(output)).is_absolute() else f"./{output}"
        note(f"written: `kvmbench scenario {path}` simulates it")
