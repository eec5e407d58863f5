"""`kvmbench convert`: a result file in another format."""

from __future__ import annotations

import click

from kvmbench.cli.common import (
    complete,
    load_result,
    result_names,
    results_dir_option,
    write_out,
)
from kvmbench.errors import ResultError
from kvmbench.formats import WRITABLE

ENDINGS = {".csv": "csv", ".md": "markdown", ".xml": "junit"}
"""Ends of a file's name that leave no doubt about its format."""


@click.command("convert")
@click.argument("source", metavar="IN", shell_complete=complete(result_names))
@click.argument("target", metavar="OUT", type=click.Path(allow_dash=True))
@click.option(
    "--to",
    type=click.Choice(list(WRITABLE)),
    help="Format of OUT; may be left out where OUT ends in .csv, .md or .xml.",
)
@results_dir_option
def command(source: str, target: str, to: str | None, results_dir: str) -> None:
    """Write the result IN to the file OUT, or to stdout where OUT is -.

    IN is a file of any format that kvmbench reads, known by its content: its own, what vmexit of
    kvm-unit-tests prints, JSON of pytest-benchmark or pyperf, Go benchmark text; or the name of a
    result kept in the results folder, or of a published table. A figure that OUT's format has no
    room for is an error; words that it has no room for are left out.

    \b
    Examples:
      kvmbench convert vmexit.log vmexit.json --to kvmbench
      kvmbench convert ipiv-2022 - --to go
      kvmbench convert before.json before.csv
    """
    to = to or next((form for end, form in ENDINGS.items() if target.endswith(end)), None)
    if to is None:
        known = ", ".join(WRITABLE)
        raise click.UsageError(f"{target} does not say its format; give --to, one of {known}")
    result = load_result(source, results_dir)

    from kvmbench import formats

    try:
        content = formats.dump(result, to)
    except ResultError as error:
        raise click.ClickException(str(error)) from None
    write_out(content, None if target == "-" else target)
