"""`kvmbench collect`: the results of many hosts, or of many days, as one file."""

from __future__ import annotations

import click

from kvmbench.cli.common import load_many
from kvmbench.cli.options import label_option
from kvmbench.cli.output import emit, output_options
from kvmbench.cli.progress import Progress, note
from kvmbench.report import FORMS


@click.command("collect")
@click.argument("paths", nargs=-1, required=True, metavar="FILE|FOLDER...")
@click.option(
    "--labels-from", metavar="PATTERN",
    help="Labels in the files' paths, such as {host}/{commit}.json.",
)  # fmt: skip
@label_option
@output_options(*FORMS)
def command(
    paths: tuple[str, ...], labels_from: str | None, label: dict[str, str], format: str | None,
    output: str | None,
) -> None:  # fmt: skip
    """Write results to one file, each boot with its labels, and print the hosts that it has.

    Files are of any format that kvmbench reads; a folder is searched with its subfolders. The label
    `result` keeps the name of each file. Labels of --labels-from and --label are for boots that
    lack them. A run that is there twice is kept once. JSON is the result itself, which `compare`
    and `history` read.

    \b
    Examples:
      kvmbench collect node1.json node2.json -o fleet.json
      kvmbench collect nightly/ --labels-from '{host}/{commit}.json' -o fleet.json
      kvmbench compare before.json fleet.json --pair-by host
    """
    from kvmbench.cli.compare import usage
    from kvmbench.comparison.fleet import collect, path_labels
    from kvmbench.comparison.fleet_document import document
    from kvmbench.labels import labelled

    with usage(), Progress() as show:
        results, passed = load_many(paths, show)
        found = []
        for name, path, result in results:
            own = path_labels(labels_from, path) if labels_from else {}
            found.append((name, labelled(result, own | label, defaults=True)))
        result, twice = collect(found)
    for words in passed:
        note(words, "kvmbench collect")
    if twice:
        note(f"{twice} runs are in several files and were kept once", "kvmbench collect")
    made = document(result)
    emit(made, format, output)
