"""A whole host under a policy: run queues of vCPU threads and other tasks, in simulated seconds.

docs/scenario.md says what is simulated, and what a change of policy is worth to such a host.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from math import isfinite, sqrt
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvmbench._core import Machine
from kvmbench.arrays import named
from kvmbench.catalog import policies, profiles
from kvmbench.causes import CAUSES
from kvmbench.errors import unknown_name
from kvmbench.model import MODEL_VERSION, Policy, Profile
from kvmbench.scenario._host import TYPES, Host
from kvmbench.tomlfile import Source, declared

__all__ = [
    "PERCENTILES",
    "Scenario",
    "ScenarioResult",
    "Tasks",
    "Worth",
    "load_scenario",
    "scenarios",
    "worth",
]

PERCENTILES = ("50", "99", "99.9")  # of an EXIT's cycles

US = 10**6
TIME_MAX = 2**31 - 1  # cycles of a timeslice or an epoch: one ADVANCE holds it
MEAN_MAX = 2**40  # cycles
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: multiples spread evenly
Progress = Callable[[float], None]


def _set_number(record: object, name: str, low: float, high: float) -> None:
    value = getattr(record, name)
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} is {value!r}, not a number")
    if not isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} is {value}, not in {low} to {high}")
    object.__setattr__(record, name, value.item() if isinstance(value, np.generic) else value)


def _set_integer(record: object, name: str, low: int, high: int) -> None:
    _set_number(record, name, low, high)
    value = getattr(record, name)
    if value != int(value):
        raise ValueError(f"{name} is {value}, not an integer")
    object.__setattr__(record, name, int(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Tasks of a host that behave alike; times are means, in microseconds.

    `type` is `vcpu` (a guest that runs `guest_us` between exits of `mix`, exit kind -> weight),
    `plain` (works) or `io` (works `work_us` between accesses of a port of its own). A task runs
    `run_us` in all, then sleeps `sleep_us`; 0 means that it never sleeps. `times` are
    `exponential` or `fixed`. With `ioperm`, and always where the type is `io`, each task holds an
    I/O bitmap with `ports` ports of its own, the group's first at `port`.

    Raises TypeError or ValueError that begin with the field's name.
    """

    name: str
    type: str
    count: int
    guest_us: float | None = None
    mix: Mapping[str, float] = field(default_factory=dict, hash=False)
    work_us: float | None = None
    run_us: float = 0
    sleep_us: float = 0
    times: str = "exponential"
    ioperm: bool = False
    port: int = 0x378
    ports: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isprintable() or not self.name:
            raise ValueError(f"name is {self.name!r}, not a printable, non-empty string")
        for what, known in (("type", TYPES), ("times", ("exponential", "fixed"))):
            if getattr(self, what) not in known:
                raise ValueError(f"{what} {unknown_name(what, getattr(self, what), known)}")
        if not isinstance(self.ioperm, bool):
            raise TypeError(f"ioperm is {self.ioperm!r}, not true or false")
        _set_integer(self, "count", 0, 2**20)
        _set_integer(self, "port", 0, 65535)
        _set_integer(self, "ports", 1, 65536)
        _set_number(self, "run_us", 0, 1e9)
        _set_number(self, "sleep_us", 0, 1e9)
        if bool(self.run_us) != bool(self.sleep_us):
            raise ValueError("run_us and sleep_us go together: both above 0, or neither")
        for what, type_ in (("guest_us", "vcpu"), ("work_us", "io")):
            if self.type == type_:
                if getattr(self, what) is None:
                    raise ValueError(f"{what} is missing, which type {type_} needs")
                _set_number(self, what, 0, 1e9)
            elif getattr(self, what) is not None:
                raise ValueError(f"{what} is for type {type_}, not {self.type}")
        self._check_mix()

    def _check_mix(self) -> None:
        if not isinstance(self.mix, Mapping):
            raise TypeError(f"mix is {self.mix!r}, not a table of weights")
        for kind, weight in self.mix.items():
            good = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            if not good or not isfinite(weight) or weight < 0:
                raise ValueError(f"mix: weight of {kind!r} is {weight!r}, not a number from 0 on")
        if (self.type == "vcpu") != any(self.mix.values()):
            needs = "needs a weight above 0" if self.type == "vcpu" else f"not for {self.type}"
            raise ValueError(f"mix {needs}")
        object.__setattr__(self, "mix", MappingProxyType(dict(self.mix)))

    def __reduce__(self) -> tuple[Any, ...]:  # a MappingProxyType does not pickle
        values = {f.name: getattr(self, f.name) for f in fields(self)} | {"mix": dict(self.mix)}
        return _tasks, (values,)


def _tasks(values: dict[str, Any]) -> Tasks:
    return Tasks(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A host: CPUs, a clock, tasks, and how long to simulate (docs/scenario.md).

    `seconds` are simulated on CPUs of `clock_hz` cycles a second; `timeslice_us` and `epoch_us`
    are below 2**31 cycles each. `migrations` a second move queued tasks between CPUs at the ends
    of epochs. `ioperm_share`, 0 to 1, is the share of the other tasks that hold an I/O bitmap
    besides those whose group says so. `seed`, 0 to 2**64 - 1, is the default of `run`.

    Raises TypeError or ValueError that begin with the field's name.
    """

    name: str
    cpus: int
    clock_hz: int
    seconds: float
    timeslice_us: float
    tasks: tuple[Tasks, ...]
    migrations: float = 0
    epoch_us: float = 10_000
    ioperm_share: float = 0
    seed: int = 1
    about: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isprintable() or not self.name:
            raise ValueError(f"name is {self.name!r}, not a printable, non-empty string")
        object.__setattr__(self, "tasks", tuple(self.tasks))
        _set_integer(self, "cpus", 1, 2**16)
        _set_integer(self, "clock_hz", 1, 10**12)
        _set_number(self, "seconds", 0, 1e9)
        _set_number(self, "timeslice_us", 0, 1e9)
        _set_number(self, "epoch_us", 0, 1e9)
        _set_number(self, "migrations", 0, 1e6)
        _set_number(self, "ioperm_share", 0, 1)
        _set_integer(self, "seed", 0, 2**64 - 1)
        for what in ("timeslice_us", "epoch_us"):
            self._check_cycles(what, getattr(self, what), TIME_MAX)
        self._check_cycles("seconds", self.seconds * US, 2**61)
        names = [group.name for group in self.tasks]
        for group in self.tasks:
            if names.count(group.name) > 1:
                raise ValueError(f"tasks: two groups are named {group.name!r}")
            for what in ("guest_us", "work_us", "run_us", "sleep_us"):
                if getattr(group, what):
                    said = f"tasks: {group.name}.{what}"
                    self._check_cycles(said, getattr(group, what), MEAN_MAX)
            if getattr(group, "guest_us" if group.type == "vcpu" else "work_us") == 0:
                raise ValueError(f"tasks: {group.name}: no time between exits or accesses")
            holds = group.ioperm or group.type == "io" or self.ioperm_share > 0
            if holds and group.port + group.ports * group.count > 65536:
                raise ValueError(f"tasks: {group.name}: its tasks' ports go past port 65535")

    def _check_cycles(self, what: str, us: float, high: int) -> None:
        if not 1 <= self.cycles(us) <= high:
            raise ValueError(f"{what} is {self.cycles(us)} cycles, not in 1 to {high}")

    def cycles(self, us: float) -> int:
        """Return microseconds in cycles of the host's clock."""
        return round(Fraction(us) * self.clock_hz / US)

    def parameters(self) -> list[str]:
        """Return the names that `with_value` takes: `cpus`, `vm.guest_us` ..."""
        own = [f.name for f in fields(self) if f.name not in ("name", "tasks", "about")]
        for group in self.tasks:
            own += [
                f"{group.name}.{f.name}"
                for f in fields(group)
                if isinstance(getattr(group, f.name), (int, float)) and f.name != "ioperm"
            ]
        return own

    def with_value(self, parameter: str, value: float) -> Scenario:
        """Return the scenario with another value of one of `parameters`.

        Raises ValueError for an unknown one and for a value out of its range.
        """
        if parameter not in self.parameters():
            raise ValueError(unknown_name("parameter", parameter, self.parameters()))
        group, _, name = parameter.rpartition(".")
        changes: dict[str, Any] = {name: value}
        if not group:
            return replace(self, **changes)
        changed = [replace(g, **changes) if g.name == group else g for g in self.tasks]
        return replace(self, tasks=tuple(changed))

    # Simulation

    def run(
        self,
        policy: str | Policy,
        profile: str | Profile = "patch-2017",
        *,
        threads: int = 1,
        seed: int | None = None,
        vendor: Literal["vmx", "svm"] = "vmx",
        progress: Progress | None = None,
    ) -> ScenarioResult:
        """Simulate the host; the result is the same for any number of threads.

        `progress` is called now and then with the share that is done. Raises ValueError where
        the profile lacks an exit kind of the mix.
        """
        if not 1 <= threads <= 256:
            raise ValueError(f"threads is {threads}, not in 1 to 256")
        host = self._host(policy, profile, vendor, seed, min(threads, self.cpus))
        _simulate(host, min(threads, self.cpus), progress)
        return _result(self, host, self.seed if seed is None else seed)

    def ops(
        self,
        n: int,
        policy: str | Policy,
        profile: str | Profile = "patch-2017",
        *,
        seed: int | None = None,
        vendor: Literal["vmx", "svm"] = "vmx",
    ) -> NDArray[np.void]:
        """Return the first `n` operations of the host's history, or all, as OP_DTYPE.

        Epoch by epoch, CPU by CPU: a new machine of `cpus` and `n_tasks` that runs them ends as
        the simulated one does after them.
        """
        if n < 0:
            raise ValueError(f"n is {n}, not 0 or more")
        return self._host(policy, profile, vendor, seed, 1).record(n)

    @property
    def n_tasks(self) -> int:
        """How many tasks the host has."""
        return sum(group.count for group in self.tasks)

    def _host(
        self,
        policy: str | Policy,
        profile: str | Profile,
        vendor: Literal["vmx", "svm"],
        seed: int | None,
        workers: int,
    ) -> Host:
        profile = named("profile", profile, Profile, profiles)
        policy = named("policy", policy, Policy, policies)
        groups = []
        for group in self.tasks:
            mean = group.guest_us if group.type == "vcpu" else group.work_us
            between, run, sleep = (
                self.cycles(us) for us in (mean or 0, group.run_us, group.sleep_us)
            )
            mix = [(_kind(group, name, profile), weight) for name, weight in group.mix.items()]
            groups.append((group.type, between or 1, run, sleep, group.times == "fixed", mix))
        epoch = self.cycles(self.epoch_us)
        return Host(
            Machine(self.cpus, self.n_tasks, policy, profile, vendor),
            groups,
            self._task_rows(),
            timeslice=self.cycles(self.timeslice_us),
            epoch=epoch,
            end=self.cycles(self.seconds * US),
            migrations=round(Fraction(self.migrations) * epoch),
            hz=self.clock_hz,
            seed=self.seed if seed is None else seed,
            workers=workers,
        )

    def _task_rows(self) -> NDArray[np.int64]:
        """Return (group, CPU, first port, ports) of each task; 0 ports: no I/O bitmap."""
        rows = np.zeros((self.n_tasks, 4), np.int64)
        share = int(Fraction(self.ioperm_share) * 2**64)
        task = others = 0
        for number, group in enumerate(self.tasks):
            for i in range(group.count):
                holds = group.ioperm or group.type == "io"
                if not holds:
                    # Spread by the golden ratio: evenly, whatever the number of CPUs, and a
                    # larger share keeps the holders of a smaller one.
                    holds = others * GOLDEN % 2**64 < share
                    others += 1
                first = group.port + group.ports * i if holds else 0
                rows[task] = (number, task % self.cpus, first, group.ports if holds else 0)
                task += 1
        return rows


def _kind(group: Tasks, name: str, profile: Profile) -> int:
    try:
        return profile.kind_index(name)
    except ValueError:
        raise ValueError(
            f"task group {group.name!r} needs exit kind {name!r}, "
            f"which profile {profile.name!r} does not have"
        ) from None


def _simulate(host: Host, workers: int, progress: Progress | None) -> None:
    host.begin()
    threads = [threading.Thread(target=host.work, args=(i,)) for i in range(workers)]
    started = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
        for thread in threads:
            while thread.is_alive():  # joined in steps, so that Ctrl-C is seen
                thread.join(0.05)
                if progress is not None:
                    progress(host.share_done)
    except BaseException:
        host.stop()
        raise
    finally:
        for thread in started:
            thread.join()
        host.finish()


# Results


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """A host after its seconds under one policy: exact sums over its CPUs."""

    scenario: Scenario
    policy: Policy
    profile: Profile
    vendor: str
    seed: int
    cycles: dict[str, int]  # by cause, a key of CAUSES; they sum to the CPUs' clocks
    counts: dict[str, int]  # counters of docs/model.md, section 7, that count no cycles
    costs: dict[int, int]  # cycles -> how many EXITs that exit cost that, cheapest first
    useful: tuple[int, ...]  # cycles of guest and work on each CPU
    acted: tuple[int, ...]  # cycles of the policy's steps, TR and map, on each CPU
    operations: int
    machine: Machine
    model_version: str = MODEL_VERSION

    @property
    def total(self) -> int:
        """All CPUs' clocks, in cycles."""
        return sum(self.cycles.values())

    def share(self, cause: str) -> float:
        """Return the share of CPU time of a key of CAUSES, 0 to 1."""
        return self.cycles[cause] / self.total

    def rate(self, counter: str) -> float:
        """Return a counter per simulated second, for the whole host."""
        return self.counts[counter] * self.scenario.clock_hz * self.scenario.cpus / self.total

    def percentile(self, percent: str) -> int | None:
        """Return the least cycles that `percent` of the EXITs did not exceed; None of none."""
        total = sum(self.costs.values())
        seen = 0
        for cost, n in self.costs.items():
            seen += n
            if 100 * seen >= Fraction(percent) * total:
                return cost
        return None


def _result(scenario: Scenario, host: Host, seed: int) -> ScenarioResult:
    machine = host.machine
    counters = machine.counters
    outside = host.guest_outside
    sums = {name: int(counters[name].sum()) for name in counters.dtype.names or ()}
    cycles = {cause: sums[name] for cause, (name, _) in CAUSES.items()}
    # The machine counts as work what a vCPU's thread does outside KVM_RUN; here it is the guest.
    cycles["guest"] += int(outside.sum())
    cycles["work"] -= int(outside.sum())
    return ScenarioResult(
        scenario=scenario,
        policy=machine.policy,
        profile=machine.profile,
        vendor=machine.vendor,
        seed=seed,
        cycles=cycles,
        counts={name: n for name, n in sums.items() if not name.startswith("c_")},
        costs=host.costs,
        useful=tuple((counters["c_guest"] + counters["c_work"]).tolist()),
        acted=tuple((counters["c_tr"] + counters["c_map"]).tolist()),
        operations=host.operations,
        machine=machine,
    )


class Worth(NamedTuple):
    """What a change of policy is worth to a host; None where no CPU did any work."""

    percent: float | None  # of CPU time that the same work no longer needs
    error: float | None  # standard error of `percent`; None on fewer than two CPUs

    @property
    def cores(self) -> float | None:
        """Return it as cores of 1,000."""
        return None if self.percent is None else 10 * self.percent


def worth(before: ScenarioResult, after: ScenarioResult) -> Worth:
    """Return what `after` saves of the CPU time that the work done in `before` took.

    docs/scenario.md, "What a change is worth", has the definition and its reason.
    """
    columns = (before.useful, before.acted, after.useful, after.acted)
    values = np.array([*columns, before.machine.cpu["cycles"]], np.float64)

    def saved(sums: NDArray[np.float64]) -> float | None:
        useful_0, acted_0, useful_1, acted_1, clocks = sums.tolist()
        return 100 * (acted_0 - useful_0 * acted_1 / useful_1) / clocks if useful_1 else None

    sums = values.sum(axis=1)
    percent = saved(sums)
    # The jackknife: how the figure changes when each of the CPUs is left out in turn.
    found = [saved(sums - column) for column in values.T] if values.shape[1] > 1 else [None]
    without = [value for value in found if value is not None]
    n = len(without)
    if percent is None or n < len(found):
        return Worth(percent, None)
    mean = sum(without) / n
    return Worth(percent, sqrt((n - 1) / n * sum((value - mean) ** 2 for value in without)))


# Files

_SCENARIO = [f.name for f in fields(Scenario) if f.name not in ("name", "tasks")]
_TASKS = [f.name for f in fields(Tasks) if f.name not in ("name", "type", "count")]


def load_scenario(path: str | Path) -> Scenario:
    """Return the scenario of a TOML file.

    Raises FileError, one line with the file, the line and the key; OSError where the file cannot
    be read.
    """
    return _scenario(Source(Path(path)))


def scenarios() -> Mapping[str, Scenario]:
    """Return the built-in scenarios by name."""
    return _built_in()


def _scenario(source: Source) -> Scenario:
    # Figures are left to Scenario and Tasks, which name the figure, its value and its range.
    required = {"name": str, "tasks": list}
    optional = {**dict.fromkeys(_SCENARIO, object), "about": str}
    top = source.table((), required, optional)
    for name in ("cpus", "clock_hz", "seconds", "timeslice_us"):
        if name not in top:
            raise source.error((), f"{name!r} is missing")
    groups = []
    for number in range(1, len(top["tasks"]) + 1):
        keys = ("tasks", number)
        needed = {"name": str, "type": str, "count": object}
        table = source.table(keys, needed, {**dict.fromkeys(_TASKS, object), "mix": dict})
        with declared(source, keys, {*_TASKS, "type", "count", "name"}):
            groups.append(Tasks(**table))
    with declared(source, (), {*_SCENARIO, "name"}):
        return Scenario(**{**top, "tasks": tuple(groups)})


def _files() -> Iterator[Traversable]:
    found = files("kvmbench").joinpath("data", "scenarios").iterdir()
    yield from sorted((f for f in found if f.name.endswith(".toml")), key=lambda f: f.name)


@cache
def _built_in() -> Mapping[str, Scenario]:
    found = [_scenario(Source(path)) for path in _files()]
    return MappingProxyType({scenario.name: scenario for scenario in found})
