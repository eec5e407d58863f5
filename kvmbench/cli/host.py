"""`kvmbench host`: is this host fit to measure?"""

from __future__ import annotations

import click


@click.command("host")
@click.option(
    "--format", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="json has the facts too that go into every result.",
)  # fmt: skip
def command(format: str) -> None:
    """Say whether this host is fit to measure: each fact, what it does to a figure, what helps.

    Exits with 1 where nothing can be measured.

    \b
    Examples:
      kvmbench host --format json
    """
    from kvmbench.live import document as live_tables
    from kvmbench.live.fitness import findings
    from kvmbench.live.host import host

    facts = host()
    found = list(findings(facts))
    click.echo(live_tables.render_host(facts, found, format), nl=False)
    if any(finding.level == "bad" for finding in found):
        raise click.exceptions.Exit(1)
