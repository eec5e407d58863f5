"""`kvmbench convert`: result files, as one, in another format."""

from __future__ import annotations

from functools import reduce

import click

from kvmbench.cli.common import FilePath, complete, load_result, result_names
from kvmbench.cli.options import results_dir_option
from kvmbench.cli.output import write_out
from kvmbench.formats import WRITABLE
from kvmbench.results import merge


@click.command("convert")
@click.argument(
    "sources", metavar="IN...", nargs=-1, required=True, shell_complete=complete(result_names)
)
@click.argument("target", metavar="OUT", type=FilePath(allow_dash=True))
@click.option(
    "--to", type=click.Choice(list(WRITABLE)),
    help="Format of OUT; the default goes by OUT's ending: .json, .csv, .md or .xml.",
)  # fmt: skip
@results_dir_option
def command(sources: tuple[str, ...], target: str, to: str | None, results_dir: str) -> None:
    """Write the results IN, one after another, to the file OUT, or to stdout where OUT is -.

    IN is a file of any format that kvmbench reads, known by its content: its own JSON or CSV, the
    output of kvm-unit-tests' vmexit, JSON of pytest-benchmark, pyperf, hyperfine or Google
    Benchmark, Go benchmark text; a folder or a glob of such files; - for stdin; or the name of a
    result kept in the results folder, or of a published table. A figure that OUT's format cannot
    hold is an error; remarks that it cannot hold are left out.

    \b
    Examples:
      kvmbench convert vmexit.log vmexit.json
      kvmbench convert ipiv-2022 - --to go
      kvmbench convert boot1.log boot2.log boot3.log all.json
      kvmbench convert before.json before.csv
    """
    from kvmbench import formats

    try:
        to = to or formats.form_of(target)
    except ValueError as error:
        raise click.UsageError(f"{error} with --to") from None
    result = reduce(merge, [load_result(source, results_dir) for source in sources])
    write_out(formats.dump(result, to), target)
