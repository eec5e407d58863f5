"""`kvmbench sweep`: many points, computed by the cores of this host or by a cluster."""

from __future__ import annotations

import os
import re
import shlex
from typing import Any

import click

from kvmbench.cli.common import (
    FilePath,
    Group,
    Whole,
    chosen,
    command_line,
    complete,
    known_policies,
    pick,
    policy_names,
    read,
)
from kvmbench.cli.options import policy_file_option, size_options, together
from kvmbench.cli.output import emit, output_options
from kvmbench.cli.progress import Progress, naming, note
from kvmbench.report import FORMS

GOAL = re.compile(r"(min|max) +(\S+)")


class _Sweeps(Group):
    """A group whose command is `run` where the first word is no command's name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args.insert(0, "run")
        return super().parse_args(ctx, args)


@click.group("sweep", cls=_Sweeps)
def command() -> None:
    """Compute the points of a design: each policy on each host, cost profile and seed.

    `kvmbench sweep DESIGN` is `kvmbench sweep run DESIGN`. docs/sweep.md describes a design.

    \b
    Examples:
      kvmbench sweep design.toml -o points.jsonl
      kvmbench sweep design.toml -o points.jsonl --scheduler tcp://head:8786
      kvmbench sweep design.toml -o part-3.jsonl --slice 3/16
      kvmbench sweep join part-*.jsonl -o points.jsonl
      kvmbench sweep show points.jsonl --x costs.ltr --y worth --by policy
      kvmbench sweep --find 'min cycles' --where safe --base deferred
      kvmbench sweep --find 'min cycles' --mutations 2 --points found/
    """


def _slice(ctx: click.Context, _: click.Parameter, text: str | None) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text or "1/1")
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise click.BadParameter(f"{text!r} is not K/N, 1/N to N/N", ctx, param_hint="--slice")
    return int(found[1]), int(found[2])


def _goal(ctx: click.Context, _: click.Parameter, text: str | None) -> str | None:
    if text is not None and not GOAL.fullmatch(text.strip()):
        said = f"{text!r}: expected min or max, and a column: 'min cycles'"
        raise click.BadParameter(said, ctx, param_hint="--find")
    return text


engine_options = together(
    click.option(
        "--processes", type=Whole(1, 4096), show_default="one per core",
        help="Processes that compute.",
    ),
    click.option(
        "--scheduler", metavar="ADDRESS|local",
        help="Compute on the workers of this Dask scheduler; local starts them here.",
    ),
)  # fmt: skip


@command.command("run")
@click.argument("design", required=False, metavar="DESIGN", type=FilePath())
@click.option("-o", "--output", type=FilePath(dir_okay=False), metavar="FILE",
              help="File of the points, .jsonl; those that it has are kept.")  # fmt: skip
@engine_options
@click.option("--slice", metavar="K/N", callback=_slice, help="Compute part K of N.")
@click.option("--find", metavar="'min COLUMN'", callback=_goal,
              help="Instead of DESIGN: rank the mutants of --base by a figure.")  # fmt: skip
@click.option("--where", type=click.Choice(["safe"]),
              help="With --find: only mutants that every interleaving finds safe.")  # fmt: skip
@click.option("--base", multiple=True, metavar="POLICY", shell_complete=complete(policy_names),
              default=["deferred"], help="With --find: a policy to mutate.")  # fmt: skip
@policy_file_option
@click.option("--mutations", type=Whole(1, 2), default=1,
              help="With --find: mutations one after the other.")  # fmt: skip
@size_options
@click.option("--points", metavar="DIR", type=FilePath(file_okay=False),
              help="With --find: folder that keeps the points, to go on after a kill.")  # fmt: skip
@click.option("--scenario", default="ioperm-desktop", metavar="NAME|FILE",
              shell_complete=complete("scenarios"), help="With --find: the host.")  # fmt: skip
@click.option("--profile", default="patch-2017", metavar="NAME|FILE",
              shell_complete=complete("profiles"), help="With --find: the costs.")  # fmt: skip
@click.option("--format", type=click.Choice(FORMS), show_default="text, or by FILE's ending",
              help="With --find: form of the output.")  # fmt: skip
def run(
    design: str | None, output: str | None, processes: int | None, scheduler: str | None,
    slice: tuple[int, int], find: str | None, **search: Any,
) -> None:  # fmt: skip
    """Compute the points of DESIGN, a TOML file, into FILE, a line of JSON each.

    The finished file is the same for any engine. The same command goes on after Ctrl-C, a kill or
    a crash. With --find there is no DESIGN: kvmbench simulates each mutant of a policy, checks
    those that cost less or are simpler on a machine of --cpus, --tasks and --ports, and prints the
    best.
    """
    # A process with one thread can fork its workers; nothing here does linear algebra.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from kvmbench.sweeps.engines import sweep

    engine: dict[str, Any] = dict(processes=processes, scheduler=scheduler)
    if find is not None:
        if design is not None:
            raise click.UsageError("--find and DESIGN exclude each other")
        _find(find, engine, output, **search)
        return
    if design is None or output is None:
        raise click.UsageError("expected DESIGN and -o FILE, or --find")
    from kvmbench.sweeps.design import load_design

    made = read(load_design, design)
    points = 0, 0
    try:
        with Progress() as show, naming(output):

            def report(done: int, total: int) -> None:
                nonlocal points
                points = done, total
                show(f"point {done:,} of {total:,}", done / total)

            sweep(made, output, **engine, slice=slice, progress=report)
    except KeyboardInterrupt:
        words = shlex.join(command_line())
        note(f"{points[0]:,} of {points[1]:,} points are in {output}; go on with: {words}")
        raise click.Abort from None
    except ValueError as error:
        if isinstance(error, click.ClickException):
            raise
        raise click.ClickException(str(error)) from None
    if points[1]:
        note(f"{points[1]:,} points are in {output}")
    else:
        note(f"{output} had all of its points")


def _find(
    goal: str, engine: dict[str, Any], output: str | None, *, base: tuple[str, ...],
    policy_file: str | None, scenario: str, profile: str, where: str | None, mutations: int,
    points: str | None, format: str | None, **sizes: Any,
) -> None:  # fmt: skip
    from kvmbench.sweeps.search import find

    known = known_policies(policy_file)
    bases = [pick("policy", name, known) for name in base]
    host, costs = chosen("scenarios", scenario), chosen("profiles", profile)
    try:
        with Progress() as show, naming(points or "--find"):
            found = find(
                bases, host, costs, goal=goal, safe=where is not None, mutations=mutations,
                points=points, progress=show, **engine, **sizes,
            )  # fmt: skip
    except KeyboardInterrupt:
        if points is not None:
            note(f"the points are in {points}; go on with: {shlex.join(command_line())}")
        raise click.Abort from None
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    emit(found.document(), format, output)


@command.command("join")
@click.argument("parts", nargs=-1, required=True, metavar="FILE...", type=FilePath())
@click.option("-o", "--output", required=True, type=FilePath(dir_okay=False), metavar="FILE",
              help="File of all points.")  # fmt: skip
def join(parts: tuple[str, ...], output: str) -> None:
    """Join the files of all slices into the file that one sweep would have written.

    \b
    Examples:
      kvmbench sweep join part-*.jsonl -o points.jsonl
    """
    from kvmbench.sweeps.points import join_points

    with naming(" ".join(parts)):
        total = join_points(parts, output)
    note(f"{total:,} points are in {output}")


def _pairs(ctx: click.Context, _: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in texts:
        column, sign, value = text.partition("=")
        if not sign or not column:
            raise click.BadParameter(f"{text!r} is not COLUMN=VALUE", ctx, param_hint="--where")
        found[column] = value
    return found


@command.command("show")
@click.argument("points", metavar="FILE", type=FilePath())
@click.option("--x", metavar="COLUMN", help="Axis of the table's rows.")
@click.option("--y", metavar="COLUMN", show_default="worth or cycles", help="Figure of the cells.")
@click.option("--by", metavar="COLUMN", help="Axis of the table's columns.")
@click.option("--where", multiple=True, metavar="COLUMN=VALUE", callback=_pairs,
              help="Only the points with this value; may be repeated.")  # fmt: skip
@output_options(*FORMS)
def show(
    points: str, x: str | None, y: str | None, by: str | None, where: dict[str, str],
    format: str | None, output: str | None,
) -> None:  # fmt: skip
    """Print the axes and figures of a file of points, or a figure over one of its axes.

    Without --x, CSV has a row per point, without the TOML of its policies, profile and scenario.

    \b
    Examples:
      kvmbench sweep show points.jsonl
      kvmbench sweep show points.jsonl --x costs.ltr --y worth --by policy
      kvmbench sweep show points.jsonl --x seed --y cycles --where policy=deferred
      kvmbench sweep show points.jsonl -o points.csv
    """
    from kvmbench.sweeps.points import load_points

    found = read(load_points, points)
    try:
        document = found.document(x, y, by, where)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    emit(document, format, output)
