"""Hosts and models: the facts in which two sides differ, and the rows that must not move."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import nan
from typing import TYPE_CHECKING

from kvmbench.results import Host
from kvmbench.units import Cell, Side, listed

if TYPE_CHECKING:
    from kvmbench.comparison.verdicts import Comparison

__all__ = [
    "Difference",
    "differences",
    "host_facts",
    "is_control",
    "is_lightweight",
    "states_policy",
]
__all__ += ["unknown_hosts"]

FREE_WORDS = ("BOOT_IMAGE=", "initrd=", "root=")  # of a command line: they name the kernel's files


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact in which before and the after `to` differ.

    `expected` is of the facts that a comparison is about, such as the kernel.
    """

    what: str
    before: str
    after: str
    to: str
    expected: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.before} -> {self.after}"


def differences(comparison: Comparison) -> list[Difference]:
    """Return the facts, other than the figures, in which the two sides differ.

    Of measured figures, the facts of the hosts: kernel and build (expected), CPU, microcode,
    mitigations, command line, KVM's module and parameters, governor, SMT, TSC frequency. A fact
    that one side alone knows is a difference. Of simulated figures, the model's version, the cost
    profile and the vendor (expected); their hosts do not matter.
    """
    sides = comparison.sides
    to = sides[1].label
    found: list[Difference] = []
    if any(row.kind == "noisy" for row in comparison.rows):
        facts = [_facts(side) for side in sides]
        for what in dict.fromkeys((*facts[0], *facts[1])):
            before, after = (side.get(what, "not known") for side in facts)
            if before != after:
                found.append(Difference(what, before, after, to, what in ("kernel", "build")))
    if any(row.kind == "exact" for row in comparison.rows):
        for what in ("model_version", "profile", "vendor"):
            before, after = (_of_runs(side, what) for side in sides)
            if before != after:
                found.append(Difference(what.replace("_", " "), before, after, to, expected=True))
    return found


def unknown_hosts(comparison: Comparison) -> bool:
    """Return whether the rows are measured and neither side knows its host."""
    noisy = any(row.kind == "noisy" for row in comparison.rows)
    return noisy and not any(_facts(side) for side in comparison.sides)


def _of_runs(side: Side, what: str) -> str:
    found = {getattr(run, what) or "not stated" for run in side.runs.values()}
    return ", ".join(sorted(found))


def _facts(side: Side) -> dict[str, str]:
    """Return the facts of a side's hosts in words; several where its boots differ."""
    found = listed(fact for host in side.hosts for fact in host_facts(host).items())
    return {what: " | ".join(sorted(values)) for what, values in found.items()}


def host_facts(host: Host) -> dict[str, str]:
    """Return the facts of a host that comparisons compare, in words."""
    found = {name: getattr(host, name) for name in ("kernel", "build", "cpu", "microcode")}
    found |= {f"mitigation of {name}": value for name, value in host.mitigations.items()}
    if host.cmdline is not None:
        words = [word for word in host.cmdline.split() if not word.startswith(FREE_WORDS)]
        found["command line"] = " ".join(words) or "empty"
    found["KVM module"] = host.kvm
    found |= host.kvm_parameters
    found |= {"governor": host.governor, "SMT": host.smt}
    found["TSC frequency"] = f"{host.tsc_hz:,} Hz" if host.tsc_hz else None
    return {what: value for what, value in found.items() if value}


def is_control(sides: tuple[Side, Side], cells: tuple[Sequence[Cell], Sequence[Cell]]) -> bool:
    """Return whether the model predicts no reload of TR in any cell of a row, on either side."""

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


def states_policy(sides: tuple[Side, Side]) -> bool:
    """Return whether each side says how its kernel reloads TR: that is then the subject."""
    return all(
        any(
            c.series.policy or c.series.reloads is not None
            for cs in side.cells.values()
            for c in cs
        )
        for side in sides
    )


def is_lightweight(exits: Sequence[str]) -> bool:
    """Return whether all of these exit kinds are known and none returns to userspace."""
    user = _returns_to_userspace()
    return all(kind in user and not user[kind] for kind in exits)


@cache
def _returns_to_userspace() -> dict[str, bool]:
    from kvmbench.catalog import profiles

    return {kind.name: kind.user for profile in profiles().values() for kind in profile.kinds}


@cache
def _lightweight() -> set[str]:
    """Return the names of the workloads whose iterations have lightweight exits only."""
    from kvmbench.workloads import workloads

    return {name for name, workload in workloads().items() if is_lightweight(workload.exits)}


def _reloads_every_exit(host: Host) -> bool:
    """Return whether the host's KVM may execute LTR after every VM exit, lightweight or not.

    On AMD it did so up to Linux 6.4 (svm_vcpu_run, arch/x86/kvm/svm/svm.c; commit 0d3518d2f8c3
    removed it in 6.5).
    """
    if host.kvm != "kvm_amd":
        return False
    version = re.match(r"(\d+)\.(\d+)", host.kernel or "")
    return version is None or (int(version[1]), int(version[2])) < (6, 5)
