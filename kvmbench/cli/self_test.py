"""`kvmbench self-test`: an A/A test of one result."""

from __future__ import annotations

from typing import Any

import click

from kvmbench.cli.common import complete, result_names
from kvmbench.cli.compare import chosen_sides, correction_option, margin_option
from kvmbench.cli.options import results_dir_option
from kvmbench.cli.output import emit, output_options
from kvmbench.report import FORMS


@click.command("self-test")
@click.argument("name", metavar="FILE|NAME", shell_complete=complete(result_names))
@results_dir_option
@margin_option
@correction_option
@output_options(*FORMS)
def command(
    name: str, results_dir: str, format: str | None, output: str | None, **options: Any
) -> None:
    """A/A test: compare the runs of a result with each other, as a before and an after.

    The runs (the boots, where there are several) are split in the order of time: the first half
    against the second, every other one, and alternating as ABBA. Nothing changed between the
    parts, so every "faster" or "slower" is a false alarm, and the intervals are the noise of this
    host.

    \b
    Examples:
      kvmbench self-test main
      kvmbench self-test before.json --margin 0.5%
    """
    from kvmbench.comparison.self_test import self_test

    (side,) = chosen_sides([name], results_dir)
    emit(self_test(side, **options).document(), format, output)
