"""A plan of boots: two kernels in pairs, the order in each pair drawn at random.

A comparison takes the difference of each pair. Where nothing changed, the drawn order gives that
difference either sign with equal chance, whatever the host drifts, so the sign-flip test is exact
(docs/statistics.md). Settings that change at run time alternate within a boot. `kvmbench plan`
writes plans and does their steps.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from kvmbench import results
from kvmbench.atomic import locked, replace_file
from kvmbench.errors import ResultError, WrongKernelError, brief, cut
from kvmbench.results import Boot, Host, Result, Stopping

__all__ = ["SCHEMAS", "Kernel", "Plan", "Step", "Until", "due", "look_until", "looked"]
__all__ += ["make", "read", "record", "restored", "results_file", "switch", "write"]

SCHEMA = "kvmbench.plan/1"

Side = Literal[0, 1]
ORDERS: tuple[tuple[Side, Side], ...] = ((0, 1), (1, 0))
PARAMETER = re.compile(r"(kvm|kvm_intel|kvm_amd|kvm_pvm)\.[a-z0-9_]+")
MODULES = Path("/sys/module")
VALUE = re.compile(r"[\w.:,-]{1,64}")


Pattern = Annotated[str, Meta(max_length=500)]


class Kernel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the two kernels: its command line's words, its settings, the file of its results."""

    label: str
    release: str  # uname -r
    words: list[str] = field(default_factory=list)  # its command line must have them
    settings: dict[str, str] = field(default_factory=dict)  # KVM's parameters, `kvm.NAME`: value
    results: str  # the name of a file in the plan's folder

    def __post_init__(self) -> None:
        for name, value in self.settings.items():
            if not PARAMETER.fullmatch(name) or not VALUE.fullmatch(value):
                raise ValueError(
                    f"setting {brief(f'{name}={value}')} is not MODULE.PARAMETER=VALUE of kvm, "
                    "kvm_intel, kvm_amd or kvm_pvm"
                )
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
        if missing:
            return f"its command line lacks {' '.join(missing)}"
        for name, value in self.settings.items():
            if (found := host.kvm_parameters.get(name)) != value:
                return f"{name} is {found or 'not there'}"
        return None

    def __str__(self) -> str:
        settings = [f"{name}={value}" for name, value in self.settings.items()]
        words = f" with {' '.join((*self.words, *settings))}" if self.words or settings else ""
        name = "" if self.label == self.release else f" ({self.label})"
        return f"{self.release}{words}{name}"


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One boot; `boot` and `time` are None until its step is done."""

    block: Annotated[int, Meta(ge=1)]
    side: Side
    boot: str | None = None  # /proc/sys/kernel/random/boot_id
    time: str | None = None  # ISO 8601, at the step's end


class Until(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rule that ends a plan early: its rows are looked at after each pair until decided.

    `rows` are patterns, by default every row.
    """

    rows: Annotated[list[Pattern], Meta(max_length=100)] = field(default_factory=list)
    margin: Pattern | None = None  # as `compare --margin`
    most: Annotated[int, Meta(ge=2, le=1000)]  # pairs
    decided: bool = False  # the steps that were left are dropped


class Plan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two kernels, the arguments of `kvmbench measure`, and the boots in order."""

    schema: str = SCHEMA
    seed: int
    kernels: tuple[Kernel, Kernel]
    arguments: list[str]
    steps: Annotated[list[Step], Meta(min_length=1)]
    within_boot: bool = False  # the settings alternate without a reboot
    until: Until | None = None

    def next(self) -> int | None:
        """Return the number of the next step, from 0; None where all are done."""
        return next((n for n, step in enumerate(self.steps) if step.boot is None), None)

    def kernel(self, number: int) -> Kernel:
        """Return the kernel of a step."""
        return self.kernels[self.steps[number].side]

    @property
    def done(self) -> int:
        """The number of blocks with all their steps done."""
        return len(
            {step.block for step in self.steps} - {s.block for s in self.steps if not s.boot}
        )

    @property
    def between(self) -> bool:
        """Whether the next step begins a block, or none is left."""
        number = self.next()
        return not number or self.steps[number].block != self.steps[number - 1].block


def make(
    kernels: tuple[Kernel, Kernel],
    pairs: int,
    seed: int,
    arguments: Sequence[str] = (),
    *,
    within_boot: bool = False,
) -> Plan:
    """Return a plan of `pairs` pairs of boots, their orders drawn from `seed`.

    With `within_boot` the two differ in settings alone, and their steps need no reboot. Raises
    ValueError where the two kernels are the same, or share a label.
    """
    one, other = kernels
    same = one.release == other.release and sorted(one.words) == sorted(other.words)
    if within_boot and not same:
        raise ValueError("within a boot, the release and the command line's words must be the same")
    if within_boot and (one.settings.keys() != other.settings.keys() or not one.settings):
        raise ValueError(
            "within a boot, --before-set and --after-set must name the same parameters, one or more"
        )
    if same and one.settings == other.settings:
        raise ValueError(
            f"both kernels are {one.release}: name a word of a command line with --before-word "
            "or --after-word, or a setting with --before-set and --after-set"
        )
    if one.label == other.label:
        raise ValueError(f"both kernels are called {brief(one.label)}: name them, LABEL=RELEASE")
    return Plan(
        seed=seed, kernels=kernels, arguments=list(arguments), within_boot=within_boot,
        steps=[step for pair in range(1, pairs + 1) for step in _pair(seed, pair)],
    )  # fmt: skip


def _pair(seed: int, number: int) -> list[Step]:
    """Return the steps of a pair, from 1: its order is the seed's coin of that number."""
    draw = random.Random(seed)
    coins = [draw.getrandbits(1) for _ in range(number)]
    return [Step(block=number, side=side) for side in ORDERS[coins[-1]]]


def due(plan: Plan, host: Host, boot_id: str) -> int:
    """Return the number of the step that this boot is for.

    Raises WrongKernelError where another kernel runs, or this boot did a step already.
    """
    number = plan.next()
    assert number is not None
    kernel, other = plan.kernel(number), plan.kernels[1 - plan.steps[number].side]
    where = f"step {number + 1} of {len(plan.steps)} is for {cut(str(kernel), 120)}"
    if mismatch := kernel.mismatch(host):
        how = "set" if plan.within_boot else "boot"
        raise WrongKernelError(f"{where}, and {cut(mismatch, 120)}: {how} it")
    extra = [word for word in other.words if word not in kernel.words]
    if other.release == kernel.release and extra and other.mismatch(host) is None:
        raise WrongKernelError(
            f"{where}, and the command line has {cut(' '.join(extra), 120)}: boot without"
        )
    done = [n for n, step in enumerate(plan.steps) if step.boot == boot_id]
    if done and not plan.within_boot:
        raise WrongKernelError(f"{where}, and this boot was step {done[0] + 1}'s: reboot into it")
    return number


def look_until(path: str | Path, until: Until) -> Plan:
    """Keep the rule that ends the plan in its file, and return the new plan.

    Raises ResultError for a plan of blocks other than pairs, and as `read`.
    """
    with locked(path):
        plan = read(path)
        if max(Counter(step.block for step in plan.steps).values()) > 2:
            raise ResultError(f"{path}: $.steps: --until decided needs pairs, and these are ABBA")
        if plan.until is not None and plan.until.decided:
            return plan
        plan = msgspec.structs.replace(plan, until=until)
        write(path, plan)
        return plan


def looked(path: str | Path, decided: bool) -> Plan:
    """Keep the outcome of a look after a pair in the plan's file, and return the new plan.

    Where the rows are decided, or the rule allows no more pairs, the steps that are left are
    dropped; else a pair is added where none is left. Raises as `read`.
    """
    with locked(path):
        plan = read(path)
        assert plan.until is not None
        steps = list(plan.steps)
        until = msgspec.structs.replace(plan.until, decided=decided)
        if decided or plan.done >= until.most:
            steps = [step for step in steps if step.boot is not None]
        elif plan.next() is None:
            steps += _pair(plan.seed, steps[-1].block + 1)
        plan = msgspec.structs.replace(plan, steps=steps, until=until)
        write(path, plan)
        return plan


def switch(settings: dict[str, str]) -> None:
    """Give parameters of KVM's modules these values, where they have others. Raises OSError."""
    for name, value in settings.items():
        if (file := _parameter(name)).read_text().strip() != value:
            file.write_text(f"{value}\n")


@contextmanager
def restored(plan: Plan) -> Iterator[None]:
    """Give the parameters of a plan's settings the values again that they have now.

    Raises OSError.
    """
    now = {name: _parameter(name).read_text().strip() for name in plan.kernels[0].settings}
    try:
        yield
    finally:
        switch(now)


def _parameter(name: str) -> Path:
    module, _, parameter = name.partition(".")
    return MODULES / module / "parameters" / parameter


def results_file(path: str | Path, kernel: Kernel) -> Path:
    """Return the file of a kernel's results; it may not exist. Raises ResultError."""
    file = Path(path).parent / kernel.results
    if file.is_symlink():  # which could lead out of the folder
        raise ResultError(f"{file}: is a link, and a plan keeps its results in its own folder")
    if file.exists() and not file.is_file():  # a FIFO would never end
        raise ResultError(f"{file}: is no regular file")
    return file


def record(path: str | Path, number: int, boot: Boot, time: str) -> Plan:
    """Keep the boot of step `number`, first in its side's results, then in the plan.

    After a kill between the two, the next call finds the boot in the results and only marks the
    step. Returns the new plan. Raises ResultError and OSError.
    """
    with locked(path):
        plan = read(path)
        kernel, step = plan.kernel(number), plan.steps[number]
        file = results_file(path, kernel)
        boot = msgspec.structs.replace(boot, block=step.block)
        old = results.read(file) if file.exists() else None
        if not (old and any((b.id, b.block) == (boot.id, boot.block) for b in old.boots)):
            stopping: Stopping = "decided" if plan.until else "size"
            new = Result(name=kernel.label, stopping=stopping, boots=[boot])
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
