"""`kvmbench profile`: cost profiles from measured rows."""

from __future__ import annotations

import click

from kvmbench.cli.common import FilePath, Group, complete, load_result, result_names
from kvmbench.cli.options import results_dir_option
from kvmbench.cli.output import emit, write_out


@click.group("profile", cls=Group)
def command() -> None:
    """Make a cost profile of this CPU, for `kvmbench run --profile`.

    \b
    Examples:
      kvmbench measure --save mine               the rows of LTR are among them
      kvmbench profile new mine -o cpu.toml     a cost profile from them
      kvmbench run --profile cpu.toml           the patch's table for this CPU
    """


@command.command("new")
@click.argument("result", metavar="RESULT", shell_complete=complete(result_names))
@click.option(
    "-o", "--output", type=FilePath(dir_okay=False), metavar="FILE",
    help="Write the profile to FILE and print its figures, instead of the profile.",
)  # fmt: skip
@click.option("--name", metavar="NAME", help="Name of the profile.  [default: the result's name]")
@results_dir_option
def new(result: str, output: str | None, name: str | None, results_dir: str) -> None:
    """Make a cost profile from the rows of RESULT.

    FILE#CONFIGURATION is one configuration of a result, such as a kernel of `kvmbench lab run`.
    RESULT needs the rows empty, gdt_write and ltr, measured where the CPU executes the guest's
    CPL 0 itself. Each figure has its interval and its source; the command lists the figures that
    no measurement here can distinguish, which stay assumed.
    """
    from kvmbench.catalog import profile_toml
    from kvmbench.comparison.sides import load_sides
    from kvmbench.errors import ResultError
    from kvmbench.live.costs import costing

    try:
        (side,) = load_sides([result], lambda file: load_result(file, results_dir))
        found = costing(side.result, name or side.result.name or side.label, side.configuration)
    except ResultError:
        raise  # of the file, no usage
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    write_out(profile_toml(found.profile), output)
    if output not in (None, "-"):
        emit(found.document(), None, None)
