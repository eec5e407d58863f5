"""Kernels booted again and again until the rows are decided; `kvmbench lab run` calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from msgspec import structs

from kvmbench import results
from kvmbench.errors import LabError
from kvmbench.lab.counts import Row
from kvmbench.lab.emulator import Emulator
from kvmbench.lab.kernel import Kernel, Vendor
from kvmbench.lab.run import Counted, Plan, Progress, measure, result_of
from kvmbench.live.engine import STOPPED
from kvmbench.results import Result
from kvmbench.workloads import Workload

__all__ = ["measure_until"]


def measure_until(
    kernels: Sequence[tuple[Kernel, Vendor]],
    workloads: Sequence[Workload],
    plan: Plan,
    emulator: Emulator,
    decided: Callable[[Result], bool],
    *,
    most: int,
    command: Sequence[str] = (),
    time: str = "",
    progress: Progress | None = None,
    **more: Any,
) -> tuple[list[Counted], Result]:
    """Boot each kernel once per block, until `decided` returns true of the result so far.

    Returns the counts of each kernel over all its boots, and the result, whose boots have the
    number of their block. `decided` is asked from the second block on, `most` blocks are the end.
    `more` are the other arguments of `measure`. Ctrl-C after the first block ends it too, with a
    note that begins with STOPPED, and so does a failure, with a note. Raises LabError as `measure`.
    """
    blocks: list[list[Counted]] = []
    whole: Result | None = None
    for number in range(1, most + 1):

        def show(words: str, share: float, number: int = number) -> None:
            if progress is not None:
                progress(f"block {number} of {most} at most: {words}", (number - 1 + share) / most)

        own = replace(plan, seed=plan.seed + number - 1)
        try:
            blocks.append(measure(kernels, workloads, own, emulator, progress=show, **more))
        except (KeyboardInterrupt, LabError) as error:
            if whole is None:
                raise
            note = f"{STOPPED} in block {number}."
            if isinstance(error, LabError):
                note = f"1 of {number} blocks failed: {error}."
            whole = structs.replace(whole, notes=[*whole.notes, note])
            break
        fresh = _in_block(result_of(blocks[-1], command=command, time=time), number)
        whole = results.merge(whole, fresh) if whole else fresh
        if number > 1 and decided(whole):
            break
    assert whole is not None
    return [_together(boots) for boots in zip(*blocks, strict=True)], whole


def _in_block(result: Result, block: int) -> Result:
    """Return a result whose boots are of a block; later blocks repeat no exact count."""
    boots = []
    for boot in result.boots:
        runs = [
            structs.replace(run, series=[s for s in run.series if block == 1 or s.kind == "noisy"])
            for run in boot.runs
        ]
        boots.append(structs.replace(boot, block=block, runs=runs))
    return structs.replace(result, boots=boots, stopping="decided")


def _together(boots: Sequence[Counted]) -> Counted:
    """Return the counts of one kernel's boots as if one boot had made them all."""
    rows: dict[tuple[str, bool], Row] = {}
    for row in (row for boot in boots for row in boot.rows):
        whole = rows.setdefault((row.workload, row.bitmap), Row(row.workload, row.bitmap))
        whole.runs += row.runs
        for name, values in row.values.items():
            whole.values.setdefault(name, []).extend(values)
        limits = [*(whole.tr_limits or ()), *(row.tr_limits or ())]
        whole.tr_limits = (min(limits), max(limits)) if limits else None
    seconds = sum(boot.seconds for boot in boots)
    return replace(boots[0], rows=tuple(rows.values()), seconds=seconds)
