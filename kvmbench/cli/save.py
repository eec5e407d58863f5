"""`kvmbench save`: a result under another name."""

from __future__ import annotations

import click

from kvmbench.cli.common import complete, load_result, result_names
from kvmbench.cli.options import keeper, label_option, update_options


@click.command("save")
@click.argument("name", metavar="NAME|FILE", shell_complete=complete(result_names))
@click.argument("new", metavar="NEW")
@label_option
@update_options
def command(
    name: str, new: str, label: dict[str, str], append: bool, replace: bool, results_dir: str
) -> None:
    """Keep a result as NEW in the results folder: the last measurement, or any file.

    \b
    Examples:
      kvmbench save last main
      kvmbench save logs/vmexit.log old
      kvmbench save last main --append
      kvmbench save last main --label commit=abc1234,host=node1
    """
    from kvmbench.labels import labelled
    from kvmbench.results import engines

    result = labelled(load_result(name, results_dir), label)
    keeper(new, engines(result), append=append, replace=replace, results_dir=results_dir)(result)
