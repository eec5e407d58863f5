"""`kvmbench self-test`: what a comparison says of runs of one thing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from kvmbench.cli.common import complete, result_names, results_dir_option, write_out
from kvmbench.cli.compare import chosen_side, family_option, margin_option

if TYPE_CHECKING:
    from kvmbench.comparison.verdicts import Margin


@click.command("self-test")
@click.argument("name", metavar="FILE|NAME", shell_complete=complete(result_names))
@results_dir_option
@margin_option
@family_option
@click.option(
    "--format", type=click.Choice(["text", "markdown", "json"]), default="text", show_default=True
)
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", help="Write there instead of to stdout."
)
def command(
    name: str,
    results_dir: str,
    margin: Margin | None,
    family: Literal["max-t", "holm"],
    format: str,
    output: str | None,
) -> None:
    """Compare the runs of a result with each other, as if they were a before and an after.

    They are taken apart as they were made: the first half against the second, every other one,
    and in turns of ABBA; by boot where there are several. Nothing changed between the parts, so
    every "faster" or "slower" is a false alarm, and the intervals are the noise of this host.

    \b
    Examples:
      kvmbench self-test main
      kvmbench self-test before.json --margin 0.5%
    """
    from kvmbench.comparison import document as compare_tables
    from kvmbench.comparison import self_test

    side = chosen_side(name, results_dir)
    try:
        splits = self_test.self_test(side, margin=margin, family=family)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    write_out(compare_tables.render_splits(side.label, splits, format), output)
