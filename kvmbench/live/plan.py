"""A plan of boots: two kernels in turn, block by block, so that a drift of the host cancels.

Each block boots one kernel, the other one twice, and the first again (ABBA), or the reverse
(BAAB), drawn at random. A comparison pairs within the blocks: a steady drift during a block
changes both sides alike (docs/statistics.md). `kvmbench plan` writes plans and does their steps.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from kvmbench import results
from kvmbench.atomic import locked, replace_file
from kvmbench.errors import ResultError, WrongKernelError, brief, cut
from kvmbench.results import Boot, Host, Result

__all__ = ["SCHEMAS", "Kernel", "Plan", "Step", "due", "make", "read", "record", "write"]

SCHEMA = "kvmbench.plan/1"

Side = Literal[0, 1]
ORDERS: tuple[tuple[Side, ...], ...] = ((0, 1, 1, 0), (1, 0, 0, 1))


class Kernel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the two kernels, with the words of its command line and the file of its results."""

    label: str
    release: str  # uname -r
    words: list[str] = field(default_factory=list)  # its command line must have them
    results: str  # the name of a file in the plan's folder

    def __post_init__(self) -> None:
        name = self.results
        plain = name.isprintable() and not name.startswith(".") and os.sep not in name
        if not plain or not name.endswith(".json"):
            raise ValueError(
                f"results is {brief(name)}, not the name of a .json file in the plan's folder"
            )

    def mismatch(self, host: Host) -> str | None:
        """Return how the running kernel differs from this one; None where it is this one."""
        if host.kernel != self.release:
            return f"the running kernel is {host.kernel or 'not known'}"
        words = (host.cmdline or "").split()
        missing = [word for word in self.words if word not in words]
        return f"its command line lacks {' '.join(missing)}" if missing else None

    def __str__(self) -> str:
        words = f" with {' '.join(self.words)}" if self.words else ""
        name = "" if self.label == self.release else f" ({self.label})"
        return f"{self.release}{words}{name}"


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One boot; `boot` and `time` are None until its step is done."""

    block: Annotated[int, Meta(ge=1)]
    side: Side
    boot: str | None = None  # /proc/sys/kernel/random/boot_id
    time: str | None = None  # ISO 8601, at the step's end


class Plan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two kernels, the arguments of `kvmbench measure`, and the boots in order."""

    schema: str = SCHEMA
    seed: int
    kernels: tuple[Kernel, Kernel]
    arguments: list[str]
    steps: Annotated[list[Step], Meta(min_length=1)]

    def next(self) -> int | None:
        """Return the number of the next step, from 0; None where all are done."""
        return next((n for n, step in enumerate(self.steps) if step.boot is None), None)

    def kernel(self, number: int) -> Kernel:
        """Return the kernel of a step."""
        return self.kernels[self.steps[number].side]


def make(
    kernels: tuple[Kernel, Kernel], blocks: int, seed: int, arguments: Sequence[str] = ()
) -> Plan:
    """Return a plan of `blocks` blocks of four boots, their orders drawn from `seed`.

    Raises ValueError where the two kernels are the same, or share a label.
    """
    one, other = kernels
    if one.release == other.release and sorted(one.words) == sorted(other.words):
        raise ValueError(
            f"both kernels are {one.release}: name a word of a command line with --before-word "
            "or --after-word"
        )
    if one.label == other.label:
        raise ValueError(f"both kernels are called {brief(one.label)}: name them, LABEL=RELEASE")
    draw = random.Random(seed)
    steps = [
        Step(block=block, side=side)
        for block in range(1, blocks + 1)
        for side in ORDERS[draw.getrandbits(1)]
    ]
    return Plan(seed=seed, kernels=kernels, arguments=list(arguments), steps=steps)


def due(plan: Plan, host: Host, boot_id: str) -> int:
    """Return the number of the step that this boot is for.

    Raises WrongKernelError where another kernel runs, or this boot did a step already.
    """
    number = plan.next()
    assert number is not None
    kernel, other = plan.kernel(number), plan.kernels[1 - plan.steps[number].side]
    where = f"step {number + 1} of {len(plan.steps)} is for {cut(str(kernel), 120)}"
    if mismatch := kernel.mismatch(host):
        raise WrongKernelError(f"{where}, and {cut(mismatch, 120)}: boot it")
    extra = [word for word in other.words if word not in kernel.words]
    if other.release == kernel.release and extra and other.mismatch(host) is None:
        raise WrongKernelError(
            f"{where}, and the command line has {cut(' '.join(extra), 120)}: boot without"
        )
    done = [n for n, step in enumerate(plan.steps) if step.boot == boot_id]
    if done:
        raise WrongKernelError(f"{where}, and this boot was step {done[0] + 1}'s: reboot into it")
    return number


def record(path: str | Path, number: int, boot: Boot, time: str) -> Plan:
    """Keep the boot of step `number`, first in its side's results, then in the plan.

    After a kill between the two, the next call finds the boot in the results and only marks the
    step. Returns the new plan. Raises ResultError and OSError.
    """
    with locked(path):
        plan = read(path)
        kernel, step = plan.kernel(number), plan.steps[number]
        file = Path(path).parent / kernel.results
        if file.is_symlink():  # which could lead out of the folder
            raise ResultError(f"{file}: is a link, and a plan keeps its results in its own folder")
        boot = msgspec.structs.replace(boot, block=step.block)
        old = results.read(file) if file.exists() else None
        if not (old and any((b.id, b.block) == (boot.id, boot.block) for b in old.boots)):
            new = Result(name=kernel.label, boots=[boot])
            results.write(file, results.merge(old, new) if old else new)
        steps = list(plan.steps)
        steps[number] = msgspec.structs.replace(step, boot=boot.id, time=time)
        plan = msgspec.structs.replace(plan, steps=steps)
        write(path, plan)
        return plan


def read(path: str | Path) -> Plan:
    """Return the plan in a file. Raises ResultError, one line with the place, and OSError."""
    plan = results.decode_json(_decoder, results.read_bytes(path), str(path))
    if plan.schema != SCHEMA:
        raise ResultError(f"{path}: $.schema: {brief(plan.schema)}, expected {SCHEMA!r}")
    if len({Path(path).name, *(kernel.results for kernel in plan.kernels)}) < 3:
        raise ResultError(f"{path}: $.kernels: the plan and its two results must be three files")
    return plan


def write(path: str | Path, plan: Plan) -> None:
    """Make a file of `plan`, whole or not at all. Raises OSError."""
    replace_file(path, msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")


_decoder = msgspec.json.Decoder(Plan)
SCHEMAS = {"plan": Plan}
"""The JSON document of this module by kind."""
