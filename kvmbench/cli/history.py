"""`kvmbench history`: which commit changed which row, over many results."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from kvmbench.cli.common import Whole, complete, load_many, result_names
from kvmbench.cli.compare import MARGIN, end_gated, usage
from kvmbench.cli.options import results_dir_option, together
from kvmbench.cli.output import emit, output_options
from kvmbench.cli.progress import Progress, note
from kvmbench.cli.store import RESULT_ENDINGS, saved_results
from kvmbench.errors import listed

if TYPE_CHECKING:
    from kvmbench.comparison.rows import Margin


@click.command("history")
@click.argument(
    "names", nargs=-1, metavar="[ROW|FILE|FOLDER]...", shell_complete=complete(result_names)
)
@together(
    results_dir_option,
    click.option(
        "--order", default="time", metavar="time|commit|LABEL",
        help="Order of the results: by time, by commit_time, or by a label, 6.9 before 6.10.",
    ),
    click.option(
        "--group-by", default="host", metavar="host|cpu|LABEL",
        help="Measured figures with several of these have separate rows.",
    ),
    click.option("--last", type=Whole(1), metavar="N", help="Only the newest N results."),
    click.option(
        "--fail-on-step", type=MARGIN, metavar="SHARE|NUMBER",
        help="Fail where a step for the worse of more than 1% or 20 is still there.",
    ),
    click.option(
        "--since", metavar="COMMIT|RESULT|DATE", help="--fail-on-step counts steps from here on."
    ),
    click.option(
        "--fail-inconclusive", is_flag=True, help="Fail where a gated row is inconclusive."
    ),
    output_options("text", "markdown", "csv", "json", "html", "otava", "openmetrics"),
)  # fmt: skip
def command(
    names: tuple[str, ...], results_dir: str, order: str, group_by: str, last: int | None,
    fail_on_step: Margin | None, since: str | None, fail_inconclusive: bool, format: str | None,
    output: str | None,
) -> None:  # fmt: skip
    """Find the steps in the figures of many results: which commit changed which row, by how much.

    By default the results are those kept in the results folder. A FILE or FOLDER is read instead
    where one is named, also one that `kvmbench collect` wrote. ROW is a pattern of rows. Exact
    figures step wherever they change; of measured ones, a step stands out from the noise with
    p < 0.001, which needs 14 results or more. Formats: otava is CSV for Apache Otava, openmetrics
    is for Prometheus.

    \b
    Examples:
      kvmbench history
      kvmbench history 'inl_*' --order commit
      kvmbench history nightly/ --last 60 --fail-on-step 1%
      kvmbench history fleet.json --format otava -o history.csv

    Exit codes: 0 done, 1 failed, 2 usage, 3 a step for the worse, 4 inconclusive (with
    --fail-inconclusive), 5 incompatible.
    """
    if fail_on_step is None and (fail_inconclusive or since):
        raise click.UsageError("--since and --fail-inconclusive need --fail-on-step")
    from kvmbench.comparison.history import history
    from kvmbench.comparison.history_document import document, left_out
    from kvmbench.comparison.history_gate import gate, since_place

    paths = [name for name in names if _is_source(name)]
    rows = [name for name in names if not _is_source(name)]
    with usage(), Progress() as show:
        if not paths:
            paths = [str(path) for path in saved_results(results_dir).values()]
            if not paths:
                unknown = f"{listed(rows)}: no such file or folder, and " if rows else ""
                raise click.UsageError(
                    f"{unknown}{results_dir} holds no results: keep some with --save, or name files"
                )
        results, passed = load_many(paths, show)
        found = history(
            [(name, result) for name, _, result in results],
            rows=rows,
            order=order,
            group_by=group_by,
            last=last,
            progress=show,
        )
        judged = gate(found, fail_on_step, since_place(found, since)) if fail_on_step else None
    for words in passed:
        note(words, "kvmbench history")
    if format == "otava" and (gaps := left_out(found)):
        note(f"left out, as some results lack them: {', '.join(gaps)}", "kvmbench history")
    emit(document(found, judged), format, output)
    if judged is not None:
        end_gated(judged, fail_inconclusive, format, output)


def _is_source(name: str) -> bool:
    """Return whether an argument names a file or folder, and not rows."""
    return os.path.exists(name) or name.endswith((*RESULT_ENDINGS, os.sep))
