"""`kvmbench run --engine kvm`: the workloads measured on this host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import SystemRandom
from typing import TYPE_CHECKING, Literal

import click

from kvmbench.cli.common import Progress, command_line

if TYPE_CHECKING:
    from kvmbench.results import Result
    from kvmbench.workloads import Workload

__all__ = ["measured"]

FAST_ROUNDS, FAST_SECONDS = 5, 7.0  # as many runs, for the sake of the interval


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
    from kvmbench.live.engine import Plan, measure

    if form not in live_tables.LIVE_FORMATS:
        raise click.UsageError(f"--format {form} is of --engine sim only")
    show = Progress()
    try:
        seed = SystemRandom().getrandbits(32)  # the rounds' order is another in each file
        plan = Plan(runs=runs, cpu=cpu, ioperm=ioperm, seed=seed)
        if fast:
            plan = replace(plan, rounds=FAST_ROUNDS, seconds=FAST_SECONDS)
        if runs > Plan().runs:  # more of them take longer, and are no worse
            plan = replace(plan, seconds=plan.seconds * runs / Plan().runs)
        result = measure(workloads, plan, progress=show, command=command_line())
    except LiveError as error:
        raise click.ClickException(str(error)) from None
    finally:
        show.clear()
    return live_tables.render_live(result, form), result
