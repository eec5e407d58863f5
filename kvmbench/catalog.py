"""Named things from TOML, built in or a user's: policies, cost profiles, published tables.

Every reader raises `FileError`, one line with the file, the line and the key.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import date
from functools import cache
from glob import escape
from pathlib import Path
from sys import float_info
from types import MappingProxyType
from typing import TypeVar

from kvmbench.errors import brief, cut, listed, named, unknown_name
from kvmbench.model import HOOKS, Costs, ExitKind, Policy, Profile, Provenance
from kvmbench.tomlfile import DATA, Schema, Source, declared

__all__ = ["Published", "PublishedRow", "built_in", "find_policy", "find_profile", "load_policies"]
__all__ += ["load_profile", "load_published", "policies", "policy_toml", "profile_toml", "profiles"]
__all__ += ["published", "quoted"]

T = TypeVar("T")


@cache
def policies() -> Mapping[str, Policy]:
    """Return the built-in policies by name, the kernel's own in order of age."""
    source = Source(DATA / "policies.toml")
    return MappingProxyType({name: _policy(source, name) for name in source.data})


@cache
def profiles() -> Mapping[str, Profile]:
    """Return the built-in profiles by name."""
    return built_in("profiles", _profile)


@cache
def published() -> Mapping[str, Published]:
    """Return the published tables by name."""
    return built_in("published", _published)


def find_policy(given: str | Path | Policy) -> Policy:
    """Return a policy, given as an object, a built-in name or a TOML file that holds one.

    Raises TypeError; ValueError for an unknown name or a file of several; FileError; OSError.
    """
    return _find("policy", given, Policy, policies, _only_policy)


def find_profile(given: str | Path | Profile) -> Profile:
    """Return a profile, given as an object, a built-in name or a TOML file.

    Raises TypeError; ValueError for an unknown name; FileError; OSError.
    """
    return _find("profile", given, Profile, profiles, load_profile)


def _find(
    what: str, given: object, kind: type[T],
    known: Callable[[], Mapping[str, T]], load: Callable[[str | Path], T],
) -> T:  # fmt: skip
    if isinstance(given, Path) or (
        isinstance(given, str) and (os.sep in given or given.endswith(".toml"))
    ):
        return load(given)
    if not isinstance(given, (kind, str)):
        words = f"not a {kind.__name__}, a built-in name or a path"
        raise TypeError(f"{what} is {brief(given)}, {words}")
    return named(what, given, kind, known)


def _only_policy(path: str | Path) -> Policy:
    found = load_policies(path)
    first, *others = found
    if others:
        raise ValueError(
            f"{path} has {len(found)} policies ({listed(found)}): choose one, such as "
            f"load_policies({str(path)!r})[{brief(first)}]"
        )
    return found[first]


def load_policies(path: str | Path, data: bytes | None = None) -> dict[str, Policy]:
    """Return the policies of a TOML file by name, one table each (docs/model.md, section 5).

    `data` is its content where it was read already. Raises FileError; OSError where the file
    cannot be read.
    """
    source = Source(Path(path), data)
    if not source.data:
        raise source.error((), "no policy: expected one table a policy, such as [mine]")
    return {name: _policy(source, name) for name in source.data}


def load_profile(path: str | Path, data: bytes | None = None) -> Profile:
    """Return the profile of a TOML file; `extends` may name a built-in one to start from.

    `data` is its content where it was read already. Raises FileError; OSError where the file
    cannot be read.
    """
    return _profile(Source(Path(path), data))


def profile_toml(profile: Profile) -> str:
    """Return a profile as the TOML that `load_profile` reads, every figure with its origin."""
    lines = [f"name = {quoted(profile.name)}"]
    lines += [f"about = {quoted(profile.about)}"] if profile.about else []
    lines += [f"tsc_hz = {profile.tsc_hz}"] if profile.tsc_hz else []
    lines += ["", "[costs]"]
    lines += [f"{name} = {getattr(profile.costs, name)}" for name in _COSTS]
    for kind in profile.kinds:
        lines += ["", f"[kinds.{quoted(kind.name)}]"]
        lines += [f"{name} = {str(getattr(kind, name)).lower()}" for name in _KIND]
    same: dict[Provenance, list[str]] = {}
    for figure, origin in profile.provenance.items():
        same.setdefault(origin, []).append(escape(figure))  # a figure is a pattern there
    for origin, figures in same.items():
        lines += ["", "[[provenance]]"]
        lines += ["figures = [", *(f"    {quoted(figure)}," for figure in figures), "]"]
        lines += [f"basis = {quoted(origin.basis)}", f"source = {quoted(origin.source)}"]
        lines += [f"interval = {list(origin.interval)}"] if origin.interval else []
    return "\n".join(lines) + "\n"


def policy_toml(policy: Policy) -> str:
    """Return a policy as the TOML that `load_policies` reads."""
    lines = [f"[{quoted(policy.name)}]"]
    lines += [f"about = {quoted(policy.about)}"] if policy.about else []
    if policy.io_base_at_start != "valid":
        lines.append(f"io_base_at_start = {quoted(policy.io_base_at_start)}")
    for hook in HOOKS:
        entries = [
            quoted(entry) if isinstance(entry, str) else f"[{', '.join(map(quoted, entry))}]"
            for entry in getattr(policy, hook)
        ]
        lines += [f"{hook} = [{', '.join(entries)}]"] if entries else []
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """Return a TOML basic string: JSON's escapes are TOML's, and JSON leaves DEL as it is."""
    import json

    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def load_published(path: str | Path, data: bytes | None = None) -> Published:
    """Return the published table of a TOML file, whose content `data` is where it was read already.

    Raises FileError; OSError where the file cannot be read.
    """
    return _published(Source(Path(path), data))


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One published figure, and its runs where they were published."""

    name: str
    configuration: str
    value: float
    values: tuple[float, ...] = ()
    remark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A published table, with the figures and words of its source."""

    name: str
    title: str
    change: str  # which change of the kernel it is about
    date: str  # as published: year, month and day as far as known
    hardware: str
    source: str  # URL
    note: str
    unit: str
    better: str  # "lower" or "higher"
    configurations: tuple[str, ...]  # in the table's order and words
    rows: tuple[PublishedRow, ...]
    policies: Mapping[str, str]  # configuration -> the policy it stands for; may be empty
    order: str = ""  # of the rows' `values` in time: "kept", "lost" or "" without values
    basis: str = "published"  # or "measured"

    def value(self, name: str, configuration: str) -> float | None:
        """Return the figure of a row, in `unit`; None where the table has none."""
        key = (name, configuration)
        return next((r.value for r in self.rows if (r.name, r.configuration) == key), None)


_COSTS = [entry.name for entry in fields(Costs)]
_KIND = [entry.name for entry in fields(ExitKind) if entry.name != "name"]
_DECLARED = {*HOOKS, *_COSTS, *_KIND, "io_base_at_start", "tsc_hz"}


def _policy(source: Source, name: str) -> Policy:
    # Policy checks the hooks, and names the hook, the entry and the word.
    optional = {**dict.fromkeys(HOOKS, object), "io_base_at_start": object, "about": str}
    keys, inner = [name], source.data[name]
    while isinstance(inner, dict) and (
        tables := [key for key in inner if key not in optional and isinstance(inner[key], dict)]
    ):
        keys, inner = [*keys, tables[0]], inner[tables[0]]
    if len(keys) > 1:
        name = cut(quoted(".".join(keys)), 100)
        raise source.error(tuple(keys), f"a name with a dot needs quotes: [{name}]")
    table = source.table((name,), {}, optional)
    with declared(source, (name,), _DECLARED):
        return Policy(name, **table)


def _profile(source: Source) -> Profile:
    optional = {"extends": str, "about": str, "tsc_hz": object}
    optional |= {"costs": dict, "kinds": dict, "provenance": list}
    top = source.table((), {"name": str}, optional)
    base = None
    if "extends" in top:
        known = _data("profiles")
        if (name := top["extends"]) not in known:
            raise source.error(("extends",), unknown_name("built-in profile", name, known))
        base = _profile(Source(known[name]))
    # Costs and ExitKind check the figures, and name the figure, its value and its range.
    any_cost = dict.fromkeys(_COSTS, object)
    stated = source.table(("costs",), {}, any_cost) if "costs" in top else {}
    for name in _COSTS if base is None else ():
        if name not in stated:
            raise source.error(("costs",), f"{name!r} is missing")
    with declared(source, ("costs",), _DECLARED, "costs."):
        costs = replace(base.costs, **stated) if base else Costs(**stated)
    kinds = {kind.name: kind for kind in base.kinds} if base else {}
    for name in top.get("kinds", {}):
        old = kinds.get(name)
        required = {} if old else {"cycles": object}
        table = source.table(("kinds", name), required, dict.fromkeys(_KIND, object))
        with declared(source, ("kinds", name), _DECLARED, f"kinds.{name}."):
            kinds[name] = replace(old, **table) if old else ExitKind(name, **table)
    hz = top.get("tsc_hz", base.tsc_hz if base else None)
    with declared(source, (), _DECLARED):
        bare = Profile(top["name"], costs, tuple(kinds.values()), hz)
    figures = bare.figures()
    # A figure that the file changes loses the origin that the base gave it.
    before, given = (base.figures(), base.provenance) if base else ({}, {})
    origins = {name: given[name] for name in given if figures.get(name) == before[name]}
    for number in range(1, len(top.get("provenance", [])) + 1):
        keys = ("provenance", number)
        needed: Schema = {"figures": list, "basis": str, "source": str}
        entry = source.table(keys, needed, {"interval": list})
        interval = entry.get("interval")
        try:
            origin = Provenance(
                entry["basis"], entry["source"], interval if interval is None else tuple(interval)
            )
        except ValueError as error:
            raise source.error(keys, str(error)) from None
        for pattern in source.strings((*keys, "figures"), entry["figures"]):
            matched = fnmatch.filter(figures, pattern)
            if not matched:
                raise source.error(keys, unknown_name("figure", pattern, figures))
            origins.update(dict.fromkeys(matched, origin))
    return replace(bare, provenance=origins, about=top.get("about", ""))


def _published(source: Source) -> Published:
    words = ("name", "title", "change", "hardware", "source", "note", "unit", "better")
    required: Schema = {**dict.fromkeys(words, str), "date": (date, str)}
    table = source.table(
        (), {**required, "configurations": list, "rows": list}, {"policies": dict, "order": str}
    )
    configurations = source.strings(("configurations",), table["configurations"])
    if not configurations or not table["rows"]:
        raise source.error(("rows" if configurations else "configurations",), "is empty")
    policies_of = table.get("policies", {})
    source.strings(("policies",), [*policies_of, *policies_of.values()])
    rows = []
    for number in range(1, len(table["rows"]) + 1):
        keys = ("rows", number)
        needed = {"name": str, "configuration": str, "value": (int, float)}
        row = source.table(keys, needed, {"values": list, "remark": str})
        for value in (row["value"], *row.get("values", ())):
            number_ = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number_ or not abs(value) <= float_info.max:
                raise source.error(keys, f"expected a finite number, found {brief(value)}")
        if row["configuration"] not in configurations:
            known = unknown_name("configuration", row["configuration"], configurations)
            raise source.error(keys, known)
        rows.append(PublishedRow(**{**row, "values": tuple(row.get("values", ()))}))
    stated = {**table, "date": str(table["date"]), "configurations": configurations}
    stated |= {"rows": tuple(rows), "policies": MappingProxyType(dict(policies_of))}
    return Published(**stated)


def _data(folder: str) -> dict[str, Path]:
    return dict(sorted((file.stem, file) for file in (DATA / folder).glob("*.toml")))


def built_in(folder: str, make: Callable[[Source], T]) -> Mapping[str, T]:
    """Return the things of a folder of package data by name; a file is named as the thing."""
    return MappingProxyType({name: make(Source(file)) for name, file in _data(folder).items()})
