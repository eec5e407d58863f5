"""`kvmbench run --engine kvm`: the workloads measured on this host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import click

from kvmbench.cli.common import Progress, command_line

if TYPE_CHECKING:
    from kvmbench.results import Result
    from kvmbench.workloads import Workload

__all__ = ["measured"]


def measured(
    workloads: Sequence[Workload],
    *,
    form: str,
    cpu: int | None,
    runs: int,
    fast: bool,
    ioperm: Literal["off", "on", "both"],
) -> tuple[str, Result]:
    """Return what was measured and its table; a ClickException where nothing can be."""
    from kvmbench.errors import LiveError
    from kvmbench.live import document as live_tables
    from kvmbench.live.engine import measure

    if form not in live_tables.LIVE_FORMATS:
        raise click.UsageError(f"--format {form} is of --engine sim only")
    show = Progress()
    try:
        result = measure(
            workloads, runs=runs, fast=fast, ioperm=ioperm, cpu=cpu, progress=show,
            command=command_line(),
        )  # fmt: skip
    except LiveError as error:
        raise click.ClickException(str(error)) from None
    finally:
        show.clear()
    return live_tables.render_live(result, form), result
