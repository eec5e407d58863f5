"""`kvmbench host`: is this host fit to measure?"""

from __future__ import annotations

import click

from kvmbench.cli.output import emit, output_options
from kvmbench.report import FORMS


@click.command("host")
@output_options(*FORMS)
def command(format: str | None, output: str | None) -> None:
    """Report whether this host is fit to measure: each fact, its effect on figures, the remedy.

    JSON has the facts of the host too, which each result keeps. Exits with 1 where kvmbench can
    measure nothing.

    \b
    Examples:
      kvmbench host --format json
    """
    from kvmbench.live.document import host_document
    from kvmbench.live.fitness import findings
    from kvmbench.live.host import host

    facts = host()
    found = list(findings(facts))
    emit(host_document(facts, found), format, output)
    if any(finding.level == "bad" for finding in found):
        raise click.exceptions.Exit(1)
