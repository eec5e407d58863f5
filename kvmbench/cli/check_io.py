"""`kvmbench check-io`: port_check held against real guests."""

from __future__ import annotations

import click

from kvmbench.cli.common import Progress


@click.command("check-io")
@click.option(
    "--cases",
    type=click.IntRange(1, 10**9),
    default=10_000,
    show_default=True,
    help="Random accesses to try.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random accesses.")
def command(cases: int, seed: int) -> None:
    """Hold port_check against the IN and OUT of a guest at CPL 3, on this host's /dev/kvm.

    Each case has a random port, width, TR limit and I/O bitmap; the guest tries the access, and is
    let or gets #GP. Exits with 1 where one is decided otherwise than port_check says.

    \b
    Examples:
      kvmbench check-io --cases 1000
    """
    from kvmbench.errors import LiveError
    from kvmbench.live import document as live_tables
    from kvmbench.live.io_check import check_io

    show = Progress()
    try:
        found = check_io(cases, seed=seed, progress=show)
    except LiveError as error:
        raise click.ClickException(str(error)) from None
    finally:
        show.clear()
    click.echo(live_tables.render_io_check(found), nl=False)
    if found.disagreeing:
        raise click.exceptions.Exit(1)
