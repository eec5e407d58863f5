"""`kvmbench save`: a result under another name."""

from __future__ import annotations

import click

from kvmbench.cli.common import complete, load_result, result_names
from kvmbench.cli.options import keeper, update_options


@click.command("save")
@click.argument("name", metavar="NAME|FILE", shell_complete=complete(result_names))
@click.argument("new", metavar="NEW")
@update_options
def command(name: str, new: str, append: bool, replace: bool, results_dir: str) -> None:
    """Keep a result as NEW in the results folder: the last measurement, or any file.

    \b
    Examples:
      kvmbench save last main
      kvmbench save logs/vmexit.log old
      kvmbench save last main --append
    """
    result = load_result(name, results_dir)
    engines = {run.engine for _, run in result.runs() if run.engine}
    keeper(new, engines, append=append, replace=replace, results_dir=results_dir)(result)
