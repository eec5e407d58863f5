"""A scenario: a whole host's CPUs, clock and groups of tasks, declared or read from TOML.

`kvmbench.Scenario` and `kvmbench.load_scenario` are these; docs/scenario.md explains the fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache, partial
from pathlib import Path
from sys import float_info
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvmbench.catalog import built_in, quoted
from kvmbench.errors import brief, unknown_name
from kvmbench.scenario import simulation
from kvmbench.scenario._host import TYPES
from kvmbench.scenario.result import Comparison, ScenarioResult, Sweep
from kvmbench.scenario.simulation import AnyPolicy, AnyProfile, Progress, Vendor
from kvmbench.tomlfile import Schema, Source, declared

__all__ = ["Scenario", "Tasks", "load_scenario", "scenario_toml", "scenarios"]

US = 10**6
TIME_MAX = 2**31 - 1  # cycles of a timeslice or an epoch: one ADVANCE holds it
MEAN_MAX = 2**40  # cycles
TASKS_MAX = 2**20
NAME_MAX = 100  # characters


def _check_threads(threads: int) -> None:
    if not 1 <= threads <= 256:
        raise ValueError(f"threads is {threads}, not in 1 to 256")


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= NAME_MAX or not name.isprintable():
        raise ValueError(f"name is {brief(name)}, not 1 to {NAME_MAX} printable characters")


def _set_number(record: object, name: str, low: float, high: float, *, whole: bool = False) -> None:
    """Check a field of a frozen record, and make it a number of Python's."""
    value = getattr(record, name)
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {brief(value)}, not a number")
    if not low <= value <= high:  # NaN is in no range
        raise ValueError(f"{name} is {brief(value)}, not in {low} to {high}")
    if whole and value != int(value):
        raise ValueError(f"{name} is {brief(value)}, not an integer")
    object.__setattr__(record, name, int(value) if whole else value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Tasks of a host that behave alike; times are means, in microseconds.

    `type` is `vcpu` (a guest that runs `guest_us` between exits of `mix`, exit kind -> weight),
    `plain` (works) or `io` (works `work_us` between accesses of the task's port). A task runs
    `run_us` in all, then sleeps `sleep_us`; 0 means that it never sleeps. `times` are
    `exponential` or `fixed`. With `ioperm`, and always where the type is `io`, each task holds an
    I/O bitmap with its own `ports` ports, the group's first at `port`.

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
        _check_name(self.name)
        for what, known in (("type", TYPES), ("times", ("exponential", "fixed"))):
            if getattr(self, what) not in known:
                raise ValueError(f"{what} {unknown_name(what, getattr(self, what), known)}")
        if not isinstance(self.ioperm, bool):
            raise TypeError(f"ioperm is {brief(self.ioperm)}, not true or false")
        for what, low, high in (("count", 0, TASKS_MAX), ("port", 0, 65535), ("ports", 1, 65536)):
            _set_number(self, what, low, high, whole=True)
        for what in ("run_us", "sleep_us"):
            _set_number(self, what, 0, 1e9)
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
            raise TypeError(f"mix is {brief(self.mix)}, not a table of weights")
        for kind, weight in self.mix.items():
            number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            if not number or not 0 <= weight <= float_info.max:
                found = f"mix: weight of {brief(kind)} is {brief(weight)}"
                raise ValueError(f"{found}, not a finite number from 0 on")
        if (self.type == "vcpu") != any(self.mix.values()):
            needs = "needs a weight above 0" if self.type == "vcpu" else f"not for {self.type}"
            raise ValueError(f"mix {needs}")
        object.__setattr__(self, "mix", MappingProxyType(dict(self.mix)))

    def __reduce__(self) -> tuple[Any, ...]:  # a MappingProxyType does not pickle
        values = {f.name: getattr(self, f.name) for f in fields(self)} | {"mix": dict(self.mix)}
        return partial(Tasks, **values), ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A host: CPUs, a clock, tasks, and how long to simulate (docs/scenario.md).

    `seconds` are simulated on CPUs of `clock_hz` cycles per second; `timeslice_us` and `epoch_us`
    are below 2**31 cycles each. `migrations` per second move queued tasks between CPUs at the ends
    of epochs. `ioperm_share`, 0 to 1, is the share of the other tasks that hold an I/O bitmap
    in addition to groups with `ioperm`. `seed`, 0 to 2**64 - 1, is the default of `run`.

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
        _check_name(self.name)
        object.__setattr__(self, "tasks", tuple(self.tasks))
        _set_number(self, "cpus", 1, 2**16, whole=True)
        _set_number(self, "clock_hz", 1, 10**12, whole=True)
        _set_number(self, "seed", 0, 2**64 - 1, whole=True)
        for what, high in (("seconds", 1e9), ("timeslice_us", 1e9), ("epoch_us", 1e9),
                           ("migrations", 1e6), ("ioperm_share", 1)):  # fmt: skip
            _set_number(self, what, 0, high)
        for what in ("timeslice_us", "epoch_us"):
            self._check_cycles(what, getattr(self, what), TIME_MAX)
        self._check_cycles("seconds", self.seconds * US, 2**61)
        if self.n_tasks > TASKS_MAX:
            raise ValueError(f"tasks: {self.n_tasks:,} in all, more than {TASKS_MAX:,}")
        seen = set()
        for group in self.tasks:
            if group.name in seen:
                raise ValueError(f"tasks: two groups are named {brief(group.name)}")
            seen.add(group.name)
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
            raise ValueError(f"{what} is {brief(self.cycles(us))} cycles, not in 1 to {high}")

    def cycles(self, us: float) -> int:
        """Return microseconds in cycles of the host's clock."""
        top, bottom = us.as_integer_ratio()
        number, rest = divmod(top * self.clock_hz, bottom * US)
        # To the nearest, and to the even one of two: round() of a Fraction, without making one.
        half = 2 * rest - bottom * US
        return number + (half > 0 or (half == 0 and number % 2 == 1))

    def parameters(self) -> list[str]:
        """Return the names that `with_value` takes: `cpus`, `vm.guest_us` ..."""
        own = [f.name for f in fields(self) if f.name not in ("name", "tasks", "about")]
        groups = [(group, f.name) for group in self.tasks for f in fields(group)]
        numbers = [
            f"{group.name}.{name}"
            for group, name in groups
            if isinstance(getattr(group, name), (int, float)) and name != "ioperm"
        ]
        return own + numbers

    def with_value(self, parameter: str, value: float) -> Scenario:
        """Return the scenario with another value of one of `parameters`.

        Raises ValueError for an unknown one and for a value out of its range.
        """
        return self.with_values({parameter: value})

    def with_values(self, values: Mapping[str, float]) -> Scenario:
        """Return the scenario with other values of some of `parameters`, all at once.

        Raises as `with_value`.
        """
        known = self.parameters()
        changes: dict[str, dict[str, Any]] = {}  # of the scenario, "", and of each group
        for parameter, value in values.items():
            if parameter not in known:
                raise ValueError(unknown_name("parameter", parameter, known))
            group, _, name = parameter.rpartition(".")
            changes.setdefault(group, {})[name] = value
        own = changes.pop("", {})
        tasks = tuple(replace(g, **changes[g.name]) if g.name in changes else g for g in self.tasks)
        return replace(self, **own, tasks=tasks)

    @property
    def n_tasks(self) -> int:
        """The number of tasks of all groups."""
        return sum(group.count for group in self.tasks)

    def run(
        self, policy: AnyPolicy, profile: AnyProfile = "patch-2017", *, threads: int = 1,
        seed: int | None = None, vendor: Vendor = "vmx", progress: Progress | None = None,
        keep_machine: bool = True,
    ) -> ScenarioResult:  # fmt: skip
        """Simulate the host under one policy; the result prints as a table.

        Policy and cost profile are objects, built-in names or TOML files. The result is the same
        for any number of `threads`, 1 to 256; one is the calling thread. `seed` replaces the
        scenario's. `progress` is called several times a second with the share that is done, 0 to
        1; an exception in it, or Ctrl-C, ends the simulation. Without `keep_machine` the result's
        `machine` is None, and the result takes kilobytes; `compare` and `sweep` keep none.

        Raises ValueError for an unknown name, or a profile that lacks an exit kind of a mix;
        FileError and OSError for files.
        """
        _check_threads(threads)
        workers = min(threads, self.cpus)
        host = simulation.host_of(self, policy, profile, vendor, seed, workers)
        simulation.simulate(host, workers, progress)
        used = self.seed if seed is None else seed
        return simulation.result_of(self, host, used, keep_machine)

    def compare(
        self, before: AnyPolicy = "eager", after: AnyPolicy = "deferred",
        profile: AnyProfile = "patch-2017", *, threads: int = 1, seed: int | None = None,
        vendor: Vendor = "vmx", progress: Progress | None = None,
    ) -> Comparison:  # fmt: skip
        """Simulate the host under two policies, as `kvmbench scenario` does; see `run`."""
        first, second = (
            self.run(policy, profile, threads=threads, seed=seed, vendor=vendor,
                     progress=simulation.part(progress, i, 2), keep_machine=False)
            for i, policy in enumerate((before, after))
        )  # fmt: skip
        return Comparison(first, second)

    def sweep(
        self, parameter: str, values: Iterable[float], before: AnyPolicy = "eager",
        after: AnyPolicy = "deferred", profile: AnyProfile = "patch-2017", *, threads: int = 1,
        seed: int | None = None, vendor: Vendor = "vmx", progress: Progress | None = None,
    ) -> Sweep:  # fmt: skip
        """Compare two policies at each value of one of `parameters`, as --vary does; see `run`.

        The `threads` share out the runs of the curve; a run has several only where threads are
        more than runs.

        Raises ValueError for no value, an unknown parameter or a value out of its range, before
        it simulates.
        """
        points = [(value, self.with_value(parameter, value)) for value in values]
        if not points:
            raise ValueError("values is empty")
        _check_threads(threads)
        parts = min(threads, 2 * len(points))

        def run(host: Scenario, policy: AnyPolicy, progress: Progress | None) -> ScenarioResult:
            return host.run(policy, profile, threads=threads // parts, seed=seed, vendor=vendor,
                            progress=progress, keep_machine=False)  # fmt: skip

        runs = [partial(run, host, policy) for _, host in points for policy in (before, after)]
        done = simulation.in_threads(runs, parts, progress)
        found = map(Comparison, done[::2], done[1::2])
        return Sweep(parameter, tuple(value for value, _ in points), tuple(found))

    def ops(
        self, n: int, policy: AnyPolicy, profile: AnyProfile = "patch-2017", *,
        seed: int | None = None, vendor: Vendor = "vmx",
    ) -> NDArray[np.void]:  # fmt: skip
        """Return the first `n` operations of the host's history, or all, as OP_DTYPE, (n,).

        Epoch by epoch, CPU by CPU: a new machine of `cpus` and `n_tasks` that runs them ends as
        the simulated one does after them. Raises as `run`, and ValueError for a negative `n`.
        """
        if n < 0:
            raise ValueError(f"n is {n}, not 0 or more")
        return simulation.host_of(self, policy, profile, vendor, seed, 1).record(n)


# Files


def load_scenario(source: str | Path, data: bytes | None = None) -> Scenario:
    """Return the built-in scenario of a name, or the scenario of a TOML file.

    `data` is the file's content where it was read already. Raises FileError, one line with the
    file, the line and the key; OSError for a file that cannot be read.
    """
    if data is None and source in scenarios():
        return scenarios()[str(source)]
    return _scenario(Source(Path(source), data))


@cache
def scenarios() -> Mapping[str, Scenario]:
    """Return the built-in scenarios by name."""
    return built_in("scenarios", _scenario)


def scenario_toml(scenario: Scenario) -> str:
    """Return a scenario as the TOML that `load_scenario` reads."""
    lines = _declaration(scenario)
    for group in scenario.tasks:
        lines += ["", "[[tasks]]", *_declaration(group)]
        if group.mix:
            lines += ["[tasks.mix]", *(f"{quoted(k)} = {v!r}" for k, v in group.mix.items())]
    return "\n".join(lines) + "\n"


def _declaration(record: Scenario | Tasks) -> list[str]:
    """Return an assignment for each field that is no table and not its default."""
    lines = []
    for entry in fields(record):
        value = getattr(record, entry.name)
        if entry.name in ("tasks", "mix") or value == entry.default:
            continue
        words = quoted(value) if isinstance(value, str) else repr(value).lower()
        lines.append(f"{entry.name} = {words}")
    return lines


def _keys(kind: type[Scenario | Tasks], **types: type) -> tuple[Schema, Schema]:
    """Return the required and the optional keys of a table that declares a `kind`.

    Scenario and Tasks check the other figures: they name the figure, its value and its range.
    """
    required: dict[str, type] = {}
    optional: dict[str, type] = {}
    for entry in fields(kind):
        needed = entry.default is MISSING and entry.default_factory is MISSING
        (required if needed else optional)[entry.name] = types.get(entry.name, object)
    return required, optional


def _scenario(source: Source) -> Scenario:
    top = source.table((), *_keys(Scenario, name=str, tasks=list, about=str))
    known = {f.name for f in fields(Scenario)} - {"tasks", "about"}
    groups = []
    for number in range(1, len(top["tasks"]) + 1):
        table = source.table(("tasks", number), *_keys(Tasks, name=str, type=str, mix=dict))
        with declared(source, ("tasks", number), {f.name for f in fields(Tasks)}):
            groups.append(Tasks(**table))
    with declared(source, (), known):
        return Scenario(**{**top, "tasks": tuple(groups)})
