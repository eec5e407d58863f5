"""Controls: the rows that a change to TR's reload cannot move. The verdicts use them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from math import nan

from kvmbench.catalog import profiles
from kvmbench.results import Host
from kvmbench.units import Cell, Side
from kvmbench.workloads import workloads

__all__ = ["is_control", "is_lightweight"]


def is_control(sides: tuple[Side, Side], cells: tuple[Sequence[Cell], Sequence[Cell]]) -> bool:
    """Say whether the model predicts no reload of TR in any cell of a row, on either side."""

    def predicted(side: Side, cell: Cell) -> float:
        if cell.series.reloads is not None:
            return cell.series.reloads
        if _reloads_every_exit(side.result.boots[cell.boot].host):
            return nan
        return 0.0 if cell.series.workload in _lightweight() else nan

    return all(
        found and all(predicted(side, cell) == 0 for cell in found)
        for side, found in zip(sides, cells, strict=True)
    )


def is_lightweight(exits: Sequence[str]) -> bool:
    """Say whether all of these exit kinds are known and none returns to userspace."""
    user = _returns_to_userspace()
    return all(kind in user and not user[kind] for kind in exits)


@cache
def _returns_to_userspace() -> dict[str, bool]:
    return {kind.name: kind.user for profile in profiles().values() for kind in profile.kinds}


@cache
def _lightweight() -> frozenset[str]:
    """Return the names of the workloads whose iterations have lightweight exits only."""
    return frozenset(
        name for name, workload in workloads().items() if is_lightweight(workload.exits)
    )


def _reloads_every_exit(host: Host) -> bool:
    """Say whether the host's KVM may execute LTR after every VM exit, lightweight or not.

    On AMD it did so up to Linux 6.4 (svm_vcpu_run, arch/x86/kvm/svm/svm.c; commit 0d3518d2f8c3
    removed it in 6.5).
    """
    if host.kvm != "kvm_amd":
        return False
    version = re.match(r"(\d+)\.(\d+)", host.kernel or "")
    return version is None or (int(version[1]), int(version[2])) < (6, 5)
