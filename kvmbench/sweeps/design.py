"""A design: the axes of a sweep, and each of its points by number (docs/sweep.md).

`engines` computes the points of a design, `search` makes one of a policy's mutants.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import kvmbench
from kvmbench.catalog import (
    find_policy,
    find_profile,
    load_policies,
    load_profile,
    policy_toml,
    profile_toml,
)
from kvmbench.checker.verdict import CPUS_MAX, PORTS_MAX, STATES_MAX, TASKS_MAX
from kvmbench.errors import FileError, brief, named, unknown_name
from kvmbench.model import MODEL_VERSION, Policy, Profile
from kvmbench.scenario._host import philox
from kvmbench.scenario.scenario import Scenario, load_scenario, scenario_toml, scenarios
from kvmbench.simulation.simulate import missing_kinds
from kvmbench.tomlfile import Keys, Source
from kvmbench.workloads import workloads

__all__ = ["JOBS", "VERSION", "Axis", "Design", "Range", "Value", "design_of", "find_design"]
__all__ += ["load_design", "own_values", "with_value"]

VERSION = str(kvmbench.__version__)
JOBS = ("scenario", "workload", "check")
VALUES_MAX = 1_000_000  # of an axis
POINTS_MAX = 10_000_000
TRIED = 100  # values of an axis that are tried before the work
CHECKED = {"cpus": CPUS_MAX, "tasks": TASKS_MAX, "ports": PORTS_MAX}
WORDS = {"vendor": ("vmx", "svm"), "ioperm": ("off", "on", "both")}
DEFAULTS: dict[str, dict[str, Any]] = {  # job: the axes that every point has, with their defaults
    "scenario": {"scenario": None, "profile": "patch-2017", "vendor": "vmx"},
    "workload": {"workload": None, "profile": "patch-2017", "vendor": "vmx", "ioperm": "off"},
    "check": {"cpus": 2, "tasks": 3, "ports": 2},
}

Value = int | float | str | Policy | Profile | Scenario
Fail = Callable[[Keys, str], Exception]


class Range(NamedTuple):
    """An axis whose values a sample draws, each equally likely: integers, if both ends are."""

    low: int | float
    high: int | float

    def draw(self, bits: int) -> int | float:
        """Make 64 random bits a value."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return self.low + (bits * (self.high - self.low + 1) >> 64)
        low, high = Fraction(self.low), Fraction(self.high)
        return float(low + (high - low) * Fraction(bits, 2**64))


Axis = tuple[Value, ...] | Range


@dataclass(frozen=True, kw_only=True)
class Design:
    """The points of a sweep: a grid of the axes, or `draws` of them; each with every policy.

    A row is one value of each of `axes`, and a point is a row under one of `policies`: the
    policies of a row run on the same host. The last axis varies first. `job` is one of JOBS.
    `iterations` are of a workload, `max_states` of a check.
    """

    job: str
    axes: Mapping[str, Axis]
    policies: tuple[Policy, ...]
    before: Policy | None
    draws: int = 0
    seed: int = 1
    iterations: int = 1000
    max_states: int = STATES_MAX
    name: str = "sweep"
    version: str = ""  # of kvmbench, which computes the points

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        if self.draws:
            return self.draws
        return prod(len(values) for values in self.axes.values())

    @property
    def n_points(self) -> int:
        """The number of points: rows times policies."""
        return self.n_rows * len(self.policies)

    def row(self, number: int) -> dict[str, Value]:
        """Return the value of each axis in a row, 0 to n_rows - 1."""
        found: dict[str, Value] = {}
        if self.draws:
            for i, (name, values) in enumerate(self.axes.items()):
                # A draw depends on its number and axis alone, so that a longer sample begins with
                # a shorter one.
                bits = philox((number, i // 4, 0, 0), (self.seed, 0))[i % 4]
                drawn = values.draw(bits) if isinstance(values, Range) else None
                found[name] = values[bits * len(values) >> 64] if drawn is None else drawn
            return found
        for name, values in reversed([*self.axes.items()]):
            number, at = divmod(number, len(values))
            found[name] = values[at]
        return {name: found[name] for name in self.axes}

    def texts(self, row: Mapping[str, Value], policy: Policy) -> dict[str, str]:
        """Return the declarations, as TOML, that make a point again with its axes' values."""
        found = {"policy_text": _text(policy)}
        if self.before is not None:
            found["before_text"] = _text(self.before)
        for name in ("profile", "scenario"):
            if name in row:
                found[f"{name}_text"] = _text(row[name])
        return found

    @cached_property
    def id(self) -> str:
        """The first 16 digits of the SHA-256 of the points' declaration and the versions."""
        axes = [
            (name, "range" if isinstance(values, Range) else "", [*map(_text, values)])
            for name, values in self.axes.items()
        ]
        parts = [
            self.version, MODEL_VERSION, self.job, axes, [*map(_text, self.policies)],
            self.before and _text(self.before), self.draws, self.seed, self.iterations,
            self.max_states,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


_texts: dict[int, tuple[object, str]] = {}  # by id, with the object that has it


def _text(value: Any) -> Any:
    """Return a thing's declaration as TOML, and a number or a word as it is."""
    if isinstance(value, (int, float, str)):
        return value
    known = _texts.get(id(value))
    if known is not None and known[0] is value:
        return known[1]
    if isinstance(value, Policy):
        text = policy_toml(replace(value, about=""))
    elif isinstance(value, Profile):
        text = profile_toml(replace(value, about="", provenance={}))
    else:
        text = scenario_toml(replace(value, about=""))
    if len(_texts) > 10_000:
        _texts.clear()
    _texts[id(value)] = (value, text)
    return text


def design_of(record: Mapping[str, Any]) -> Design:
    """Return the design of one point, made of the point's line alone.

    Raises FileError, KeyError or ValueError for a line that is not of a point.
    """
    texts: dict[str, Callable[[str, bytes], Any]] = {
        "profile": load_profile, "scenario": load_scenario,
    }  # fmt: skip
    names = [*record]
    axes: dict[str, Axis] = {}
    for name in names[names.index("job") + 1 : names.index("policy")]:
        value = record[name]
        if name in texts:
            value = texts[name](f"{name}_text", record[f"{name}_text"].encode())
        axes[name] = (value,)
    policy, before = (
        next(iter(load_policies(key, record[key].encode()).values())) if key in record else None
        for key in ("policy_text", "before_text")
    )
    if policy is None:
        raise ValueError("policy_text is missing")
    return Design(
        job=record["job"], axes=axes, policies=(policy,), before=before,
        iterations=record.get("iterations", 1000), version=record["kvmbench"],
        max_states=record.get("max_states", STATES_MAX),
    )  # fmt: skip


# From a file, or from a program's dict


def load_design(path: str | Path) -> Design:
    """Return the design of a TOML file; files that it names are sought from its folder.

    Raises FileError, one line with the file, the line and the key; OSError for a file that cannot
    be read.
    """
    source = Source(Path(path))

    def fail(keys: Keys, reason: str) -> Exception:
        return source.error(keys, reason)

    return _Reader(Path(path).parent, fail).design(source.data, Path(path).stem)


def find_design(given: str | Path | Mapping[str, Any] | Design) -> Design:
    """Return a design, given as an object, the path of a TOML file, or the content of one.

    Raises as `load_design`; of a content ValueError.
    """
    if isinstance(given, Design):
        return given
    if isinstance(given, (str, Path)):
        return load_design(given)
    if not isinstance(given, Mapping):
        raise TypeError(f"design is {brief(given)}, not a Design, a path or a dict")

    def fail(keys: Keys, reason: str) -> Exception:
        return ValueError(f"{'.'.join(map(str, keys))}: {reason}" if keys else reason)

    return _Reader(Path(), fail).design(given, "sweep")


class _Reader:
    """Makes a design of the content of its file; `fail` makes the error of a key."""

    def __init__(self, folder: Path, fail: Fail) -> None:
        self.folder = folder
        self.fail = fail

    def no(self, keys: Keys, reason: str) -> NoReturn:
        raise self.fail(keys, reason) from None

    def design(self, data: Mapping[str, Any], stem: str) -> Design:
        known = ("about", "axes", "before", "iterations", "job", "max_states", "name", "sample")
        for key in data:
            if key not in known:
                self.no((key,), unknown_name("key", key, known))
        name = data.get("name", stem)
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 100:
            self.no(("name",), f"expected 1 to 100 printable characters, found {brief(name)}")
        if not isinstance(data.get("axes"), Mapping) or not data["axes"]:
            self.no(("axes",), "expected a table of axes, such as policy = ['deferred']")
        places = dict(self._flat(data["axes"], ("axes",)))
        job = data.get("job", "workload" if "workload" in places else "scenario")
        if job not in JOBS:
            self.no(("job",), unknown_name("job", job, JOBS))
        sampled = "sample" in data
        draws, seed = self._sample(data["sample"]) if sampled else (0, 1)
        axes: dict[str, Axis] = {}
        for key, default in DEFAULTS[job].items():
            if key not in places and default is None:
                self.no(("axes",), f"{key!r} is missing, which each point simulates")
        given = {key: ((), value) for key, value in DEFAULTS[job].items() if key not in places}
        places = given | places
        policies = self._policies(*places.pop("policy", ((), "deferred")))
        for key, (keys, given) in places.items():
            axes[key] = self._axis(key, keys, given, sampled)
        self._check(job, axes, {key: keys for key, (keys, _) in places.items()})
        before = None
        if job == "check" and "before" in data:
            self.no(("before",), "a check has one policy: leave it out")
        if job != "check":
            (before, *others) = self._policies(("before",), data.get("before", "eager"))
            if others:
                self.no(("before",), f"expected one policy, found {1 + len(others)}")
        found = Design(
            job=job, axes=axes, policies=policies, before=before, draws=draws, seed=seed,
            name=name, version=VERSION,
            iterations=self._whole(data, "iterations", 1000, 10**9),
            max_states=self._whole(data, "max_states", STATES_MAX, STATES_MAX),
        )  # fmt: skip
        if not 0 < found.n_points <= POINTS_MAX:
            self.no(("axes",), f"{found.n_points:,} points, not 1 to {POINTS_MAX:,}")
        return found

    def _whole(self, data: Mapping[str, Any], key: str, default: int, most: int) -> int:
        value = data.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            self.no((key,), f"expected an integer in 1 to {most}, found {brief(value)}")
        return value

    def _sample(self, table: Any) -> tuple[int, int]:
        if not isinstance(table, Mapping) or "draws" not in table:
            self.no(("sample",), "expected draws = N, and maybe seed = N")
        for key in table:
            if key not in ("draws", "seed"):
                self.no(("sample", key), unknown_name("key", key, ("draws", "seed")))
        for key, value, low, high in (
            ("draws", table["draws"], 1, POINTS_MAX),
            ("seed", table.get("seed", 1), 0, 2**64 - 1),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                self.no(
                    ("sample", key), f"expected an integer in {low} to {high}, found {brief(value)}"
                )
        return table["draws"], table.get("seed", 1)

    def _flat(self, table: Mapping[str, Any], keys: Keys) -> Iterator[tuple[str, tuple[Keys, Any]]]:
        """Yield the axes by name: `costs.ltr = ...` is a table in a table, to TOML."""
        for key, value in table.items():
            if isinstance(value, Mapping) and not {"from", "to", "n"} & value.keys():
                yield from self._flat(value, (*keys, key))
            else:
                yield ".".join(map(str, (*keys, key)[1:])), ((*keys, key), value)

    def _policies(self, keys: Keys, given: Any) -> tuple[Policy, ...]:
        found: dict[str, Policy] = {}
        for one in self._listed(keys, given):
            several = [one]
            if isinstance(one, (str, Path)) and self._is_file(one):
                several = [*self._read(load_policies, keys, one).values()]
            for policy in several:
                made = self._made(find_policy, keys, policy)
                if found.setdefault(made.name, made) != made:
                    self.no(keys, f"two policies are named {brief(made.name)}")
        return tuple(found.values())

    def _axis(self, name: str, keys: Keys, given: Any, sampled: bool) -> Axis:
        if isinstance(given, Mapping):
            return self._span(keys, given, sampled)
        listed = self._listed(keys, given)
        things = {"profile": find_profile, "scenario": _find_scenario}
        if name in things:
            listed = [self._thing(things[name], keys, one) for one in listed]
            names = [one.name for one in listed]
            for one in names:
                if names.count(one) > 1:
                    self.no(keys, f"two of them are named {brief(one)}")
        elif name == "workload":
            known = workloads()
            for one in listed:
                if one not in known:
                    self.no(keys, unknown_name("workload", one, known))
        elif name in WORDS:
            for one in listed:
                if one not in WORDS[name]:
                    self.no(keys, unknown_name(name, one, WORDS[name]))
        else:
            for one in listed:
                self._number(keys, one)
        return tuple(listed)

    def _listed(self, keys: Keys, given: Any) -> list[Any]:
        listed = [*given] if isinstance(given, (list, tuple)) else [given]
        if not 1 <= len(listed) <= VALUES_MAX:
            self.no(keys, f"{len(listed):,} values, not 1 to {VALUES_MAX:,}")
        return listed

    def _number(self, keys: Keys, value: Any) -> Fraction:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.no(keys, f"expected a number, found {brief(value)}")
        if not abs(value) <= 1e30:
            self.no(keys, f"{brief(value)} is no number that an axis can have")
        return Fraction(repr(value))  # 0.1 is a tenth

    def _span(self, keys: Keys, table: Mapping[str, Any], sampled: bool) -> Axis:
        needed = ("from", "to") if sampled else ("from", "to", "n")
        if {*table} != {*needed}:
            words = " and ".join((", ".join(needed[:-1]), needed[-1]))
            self.no(keys, f"expected a list, or a table of {words}, found {brief(dict(table))}")
        low, high = (self._number((*keys, key), table[key]) for key in ("from", "to"))
        if sampled:
            if low > high:
                self.no(keys, f"from {table['from']} is above to {table['to']}")
            return Range(table["from"], table["to"])
        n = self._whole({"n": table["n"]}, "n", 1, VALUES_MAX)
        exact = [low + (high - low) * i / max(n - 1, 1) for i in range(n)]
        return tuple(int(x) if x.denominator == 1 else float(x) for x in exact)

    def _is_file(self, given: str | Path) -> bool:
        return isinstance(given, Path) or "/" in given or given.endswith(".toml")

    def _thing(self, find: Callable[[Any], Any], keys: Keys, given: Any) -> Any:
        if isinstance(given, (Profile, Scenario)):
            return given
        if isinstance(given, (str, Path)) and self._is_file(given):
            return self._read(find, keys, given)
        return self._made(find, keys, given)

    def _read(self, load: Callable[[Path], Any], keys: Keys, given: str | Path) -> Any:
        return self._made(load, keys, self.folder / given)

    def _made(self, make: Callable[[Any], Any], keys: Keys, given: Any) -> Any:
        try:
            return make(given)
        except FileError as error:
            if isinstance(given, Path) and given.suffix == ".toml":
                raise
            self.no(keys, str(error))
        except OSError as error:
            self.no(keys, f"{given}: {error.strerror or error}")
        except (TypeError, ValueError) as error:
            self.no(keys, str(error))

    def _check(self, job: str, axes: Mapping[str, Axis], keys: Mapping[str, Keys]) -> None:
        """Refuse an axis that the things do not have, and a value out of its range."""
        numbers = {name: axes[name] for name in axes if name not in DEFAULTS[job]}
        if job == "check":
            for name in numbers:
                self.no(keys[name], unknown_name("axis", name, ("policy", *DEFAULTS[job])))
            for name, most in CHECKED.items():
                for value in axes[name]:
                    if not isinstance(value, int) or not 1 <= value <= most:
                        self.no(keys[name], f"{brief(value)}, not in 1 to {most}")
            return
        scenarios: Sequence[Any] = axes.get("scenario", ())
        profiles: Sequence[Any] = axes["profile"]
        things = [*scenarios, *profiles]
        for name, values in numbers.items():
            owners = scenarios if all(name in s.parameters() for s in scenarios) else ()
            owners = profiles if all(name in p.figures() for p in profiles) else owners
            if not owners:
                known = [
                    *DEFAULTS[job],
                    "policy",
                    *dict.fromkeys(n for t in things for n in own_values(t)),
                ]
                self.no(keys[name], unknown_name("axis", name, known))
            others = {key: axis[0] for key, axis in numbers.items() if key in own_values(owners[0])}
            for thing in owners:
                # Of many, the least, the largest and the first: a run names a point that fails.
                some = values if isinstance(values, Range) else (*values[:TRIED], *_ends(values))
                for value in some:
                    try:
                        with_value(thing, others | {name: value})
                    except (TypeError, ValueError) as error:
                        self.no(keys[name], str(error).removeprefix(f"{name} is "))
        for profile in profiles:
            for scenario in scenarios:
                for group in scenario.tasks:
                    for kind in group.mix:
                        self._made(profile.kind_index, keys["profile"], kind)
            for workload in axes.get("workload", ()):
                for kind in missing_kinds(workloads()[str(workload)], profile):
                    self._made(profile.kind_index, keys["profile"], kind)


def _find_scenario(given: str | Path | Scenario) -> Scenario:
    if isinstance(given, Path):
        return load_scenario(given)
    return named("scenario", given, Scenario, scenarios)


def _ends(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return (min(values), max(values)) if len(values) > TRIED else ()


def own_values(thing: Any) -> Sequence[str]:
    """Return the names that `with_value` takes of a cost profile or a scenario."""
    return [*thing.figures()] if isinstance(thing, Profile) else thing.parameters()


def with_value(thing: Any, values: Mapping[str, Any]) -> Any:
    """Return a cost profile or a scenario with other values of its figures or parameters."""
    if isinstance(thing, Profile):
        return thing.with_costs(values, source="the axis of a sweep")
    return thing.with_values(values)
