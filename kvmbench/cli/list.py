"""`kvmbench list`: the names that the other commands take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kvmbench.cli.common import HOMES, known
from kvmbench.cli.options import results_dir_option
from kvmbench.cli.output import emit, output_options
from kvmbench.cli.progress import note
from kvmbench.cli.store import saved_results
from kvmbench.report import FORMS

if TYPE_CHECKING:
    from kvmbench.results import Result


@click.command("list")
@click.argument("what", type=click.Choice([*HOMES, "results"]))
@results_dir_option
@output_options(*FORMS)
def command(what: str, results_dir: str, format: str | None, output: str | None) -> None:
    """List the names of a kind, each with a description.

    \b
    Examples:
      kvmbench list policies
      kvmbench list published
      kvmbench list results
    """
    from kvmbench import formats
    from kvmbench.report import Document, Facts, Record

    pairs: list[tuple[str, str]] = []
    for name, path in saved_results(results_dir).items() if what == "results" else ():
        try:
            pairs.append((name, _about(formats.load(path))))
        except (OSError, ValueError) as error:
            pairs.append((name, f"cannot be read: {error}"))
    for name, thing in known(what).items() if what != "results" else ():
        dated = f"{thing.date}: {thing.title}" if what == "published" else thing.about
        pairs.append((name, dated))
    if not pairs:
        note(f"no {what} in {results_dir}: `kvmbench run --save NAME` keeps one")
        return
    records: list[Record] = [{"name": name, "about": about} for name, about in pairs]
    emit(Document("", [Facts(pairs)], records, records), format, output)


def _about(result: Result) -> str:
    from kvmbench.report.figures import plural

    runs = [run for _, run in result.runs()]
    times = sorted(run.time for run in runs if run.time)
    configurations = ", ".join(filter(None, result.configurations()))
    rows = ", ".join(filter(None, (plural(len(result.workloads()), "workload"), configurations)))
    counts = f"{plural(len(runs), 'run')} in {plural(len(result.boots), 'boot')}"
    return "; ".join((rows, counts, *sorted({r.engine for r in runs if r.engine}), *times[-1:]))
