"""The facts of the hosts and of the model in which the sides of a comparison differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvmbench.results import Host
from kvmbench.units import Side

if TYPE_CHECKING:
    from kvmbench.comparison.verdicts import Comparison

__all__ = ["Difference", "differences", "unknown_hosts"]

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
    """Say whether the rows are measured and neither side knows its host."""
    noisy = any(row.kind == "noisy" for row in comparison.rows)
    return noisy and not any(_facts(side) for side in comparison.sides)


def _of_runs(side: Side, what: str) -> str:
    found = {getattr(run, what) or "not stated" for run in side.runs.values()}
    return ", ".join(sorted(found))


def _facts(side: Side) -> dict[str, str]:
    """Return the facts of a side's hosts in words; several where its boots differ."""
    found: dict[str, list[str]] = {}
    for host in side.hosts:
        for what, value in _words(host).items():
            found.setdefault(what, []).append(value)
    return {what: " | ".join(sorted(set(values))) for what, values in found.items()}


def _words(host: Host) -> dict[str, str]:
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
