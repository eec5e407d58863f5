"""`kvmbench check-io`: port_check compared with real guests."""

from __future__ import annotations

import click

from kvmbench.cli.common import Whole
from kvmbench.cli.output import emit, output_options
from kvmbench.cli.progress import Progress


@click.command("check-io")
@click.option("--cases", type=Whole(1, 10**9), default=10_000, help="Random accesses to try.")
@click.option("--seed", type=int, default=0, help="Of the random accesses.")
@output_options("text", "markdown", "json", "html")
def command(cases: int, seed: int, format: str | None, output: str | None) -> None:
    """Compare port_check with the IN and OUT of a guest at CPL 3, on this host's /dev/kvm.

    Each case has a random port, width, TR limit and I/O bitmap; the guest tries the access, which
    succeeds or raises #GP. Exits with 1 where an access disagrees with port_check.

    \b
    Examples:
      kvmbench check-io --cases 1000
    """
    from kvmbench.live.document import io_document
    from kvmbench.live.io_check import check_io

    with Progress() as show:
        found = check_io(cases, seed=seed, progress=show)
    emit(io_document(found), format, output)
    if found.disagreeing:
        raise click.exceptions.Exit(1)
