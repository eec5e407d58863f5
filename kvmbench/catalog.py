"""Named things from TOML: the policies, profiles and published tables, built in or a user's own.

Every reader raises `FileError`, one line with the file, the line and the key.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import date
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kvmbench.model import HOOKS, Costs, ExitKind, Policy, Profile, Provenance, unknown_name

__all__ = [
    "FileError",
    "Published",
    "PublishedRow",
    "load_policies",
    "load_profile",
    "load_published",
    "policies",
    "profiles",
    "published",
]


class FileError(ValueError):
    """A file that cannot be used: says which, where in it, and what was expected."""


def policies() -> Mapping[str, Policy]:
    """Return the built-in policies by name, the kernel's own in order of age."""
    return _built_in_policies()


def profiles() -> Mapping[str, Profile]:
    """Return the built-in profiles by name."""
    return _built_in_profiles()


def published() -> Mapping[str, Published]:
    """Return the published tables by name."""
    return _built_in_published()


def load_policies(path: str | Path) -> dict[str, Policy]:
    """Return the policies of a TOML file by name, one table each (docs/model.md, section 5).

    Raises FileError; OSError where the file cannot be read.
    """
    source = _Source(Path(path))
    if not source.data:
        raise source.error((), "no policy: expected one table a policy, such as [mine]")
    return {name: _policy(source, name) for name in source.data}


def load_profile(path: str | Path) -> Profile:
    """Return the profile of a TOML file; `extends` may name a built-in one to start from.

    Raises FileError; OSError where the file cannot be read.
    """
    return _profile(_Source(Path(path)))


def load_published(path: str | Path) -> Published:
    """Return the published table of a TOML file.

    Raises FileError; OSError where the file cannot be read.
    """
    return _published(_Source(Path(path)))


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One published figure, and the runs behind it where they were published."""

    name: str
    configuration: str
    value: float
    values: tuple[float, ...] = ()
    remark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A table that somebody published, as it stood, in one format for all of them."""

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
    order: str = ""  # of the rows' `values` in time: "kept", "lost" or "" where there are none

    def value(self, name: str, configuration: str) -> float | None:
        """Return the figure of a row, in `unit`; None where the table has none."""
        for row in self.rows:
            if (row.name, row.configuration) == (name, configuration):
                return row.value
        return None


Keys = tuple[str | int, ...]  # the path of a value in a file; entries of arrays count from 1
Schema = Mapping[str, Any]  # key -> the type of its value, as isinstance takes it
_COSTS = [entry.name for entry in fields(Costs)]
_KIND = [entry.name for entry in fields(ExitKind) if entry.name != "name"]
_DECLARED = {*HOOKS, *_COSTS, *_KIND, "io_base_at_start", "tsc_hz"}
WORDS = {
    str: "a string",
    list: "a list",
    dict: "a table",
    (int, float): "a number",
    (date, str): "a date",
}


class _Source:
    """A TOML file, and where in it each key stands."""

    def __init__(self, path: Path | Traversable) -> None:
        self.path = path
        try:
            self.text = path.read_bytes().decode()
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise FileError(f"{path}:{line}: not UTF-8: {error.reason}") from None
        try:
            self.data: dict[str, Any] = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            reason = re.sub(r" \(at (line \d+, column \d+|end of document)\)", "", str(error))
            found = re.search(r"at line (\d+)", str(error))
            line = int(found[1]) if found else self.text.count("\n") + 1
            raise FileError(f"{path}:{line}: not TOML: {reason}") from None

    def error(self, keys: Keys, reason: str) -> FileError:
        said = ""
        for key in keys:
            if isinstance(key, int):
                said += f": {'row' if said == 'rows' else 'entry'} {key}: "
            else:
                said += f"{'.' if said and not said.endswith(' ') else ''}{key}"
        said = said.removesuffix(": ")
        where = f":{self._line(keys)}: {said}" if keys else ""
        return FileError(f"{self.path}{where}: {reason}")

    def _line(self, keys: Keys) -> int:
        """Return the line of `keys`, or of the longest part of it that is written out."""
        here: Keys = ()
        table: Keys = ()
        entries: Counter[Keys] = Counter()
        best, best_line = 0, 1
        lines = self.text.splitlines()
        for number, line in enumerate(lines, 1):
            header = re.match(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]", line)
            assignment = re.match(r"""\s*([\w."'-]+|"[^"]*"|'[^']*')\s*=""", line)
            if not (header or assignment) or not _is_toml("\n".join(lines[: number - 1])):
                continue  # what looks like one may stand inside a list or a string
            if header:
                here = table = _dotted(header[2])
                if header[1] == "[[":
                    entries[table] += 1
                    here = table = (*table, entries[table])
            elif assignment:
                here = (*table, *_dotted(assignment[1]))
            if best < len(here) and here == keys[: len(here)]:
                best, best_line = len(here), number
        return best_line

    def table(self, keys: Keys, required: Schema, optional: Schema) -> dict[str, Any]:
        """Return the table at `keys`: all of `required`, nothing unknown, each of its type."""
        found: Any = self.data
        for key in keys:
            found = found[key - 1 if isinstance(key, int) else key]
        if not isinstance(found, dict):
            raise self.error(keys, f"expected a table, found {found!r}")
        known = {**required, **optional}
        for key, value in found.items():
            if key not in known:
                raise self.error((*keys, key), unknown_name("key", key, known))
            kind = known[key]
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not object):
                reason = f"expected {WORDS[kind]}, found {value!r}"
                raise self.error((*keys, key), reason)
        for key in required:
            if key not in found:
                raise self.error(keys, f"{key!r} is missing")
        return found

    def strings(self, keys: Keys, values: list[Any]) -> tuple[str, ...]:
        """Return the list at `keys`, where it holds nothing but strings."""
        for value in values:
            if not isinstance(value, str):
                raise self.error(keys, f"expected a string, found {value!r}")
        return tuple(values)


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _dotted(key: str) -> tuple[str, ...]:
    """Take a key apart at its dots, those inside quotes aside."""
    parts = re.findall(r"""\s*("[^"]*"|'[^']*'|[^."']+)\s*""", key)
    return tuple(part.strip().strip("\"'") for part in parts)


@contextmanager
def _declared(source: _Source, keys: Keys, prefix: str = "") -> Iterator[None]:
    """Turn what a declaration says, which begins with `prefix` and a key, into a FileError."""
    try:
        yield
    except FileError:
        raise
    except (TypeError, ValueError) as error:
        said = str(error)
        key, _, reason = said.removeprefix(prefix).partition(" ")
        key = key.rstrip(":")
        if said.startswith(prefix) and key in _DECLARED:
            raise source.error((*keys, key), reason.removeprefix("is ")) from None
        raise source.error(keys, said) from None


def _policy(source: _Source, name: str) -> Policy:
    # The hooks are left to Policy, which names the hook, the entry and the word.
    optional = {**dict.fromkeys(HOOKS, object), "io_base_at_start": object, "about": str}
    table = source.table((name,), {}, optional)
    with _declared(source, (name,)):
        return Policy(name, **table)


def _profile(source: _Source) -> Profile:
    optional = {"extends": str, "about": str, "tsc_hz": object}
    optional |= {"costs": dict, "kinds": dict, "provenance": list}
    top = source.table((), {"name": str}, optional)
    base = _base(source, top["extends"]) if "extends" in top else None
    return _built_profile(source, top, base)


def _base(source: _Source, name: str) -> Profile:
    known = {path.name[:-5]: path for path in _data("profiles")}
    if name not in known:
        raise source.error(("extends",), unknown_name("built-in profile", name, known))
    return _profile(_Source(known[name]))


def _built_profile(source: _Source, top: dict[str, Any], base: Profile | None) -> Profile:
    # Figures are left to Costs and ExitKind, which name the figure, its value and its range.
    stated = {}
    if "costs" in top:
        stated = source.table(("costs",), {}, dict.fromkeys(_COSTS, object))
    for name in _COSTS if base is None else ():
        if name not in stated:
            raise source.error(("costs",), f"{name!r} is missing")
    with _declared(source, ("costs",), "costs."):
        costs = replace(base.costs, **stated) if base else Costs(**stated)
    kinds = {kind.name: kind for kind in base.kinds} if base else {}
    for name in top.get("kinds", {}):
        known = kinds.get(name)
        required = {} if known else {"cycles": object}
        table = source.table(("kinds", name), required, dict.fromkeys(_KIND, object))
        with _declared(source, ("kinds", name), f"kinds.{name}."):
            kinds[name] = replace(known, **table) if known else ExitKind(name, **table)
    hz = top.get("tsc_hz", base.tsc_hz if base else None)
    with _declared(source, ()):
        bare = Profile(top["name"], costs, tuple(kinds.values()), hz)
    figures = bare.figures()
    # A figure that the file changes no longer has the origin that the base gave it.
    old = base.figures() if base else {}
    origins = {
        figure: origin
        for figure, origin in (base.provenance.items() if base else ())
        if figures.get(figure) == old[figure]
    }
    for number in range(1, len(top.get("provenance", [])) + 1):
        keys = ("provenance", number)
        entry = source.table(keys, {"figures": list, "basis": str, "source": str}, {})
        try:
            origin = Provenance(entry["basis"], entry["source"])
        except ValueError as error:
            raise source.error(keys, str(error)) from None
        for pattern in source.strings((*keys, "figures"), entry["figures"]):
            matched = [figure for figure in figures if fnmatchcase(figure, pattern)]
            if not matched:
                raise source.error(keys, unknown_name("figure", pattern, figures))
            origins.update(dict.fromkeys(matched, origin))
    return replace(bare, provenance=origins, about=top.get("about", ""))


def _published(source: _Source) -> Published:
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
            if not isinstance(value, (int, float)) or not isfinite(value):
                raise source.error(keys, f"expected a finite number, found {value!r}")
        if row["configuration"] not in configurations:
            known = unknown_name("configuration", row["configuration"], configurations)
            raise source.error(keys, known)
        rows.append(PublishedRow(**{**row, "values": tuple(row.get("values", ()))}))
    stated = {**table, "date": str(table["date"]), "configurations": configurations}
    stated |= {"rows": tuple(rows), "policies": MappingProxyType(dict(policies_of))}
    return Published(**stated)


def _data(folder: str) -> list[Traversable]:
    found = files("kvmbench").joinpath("data", folder).iterdir()
    return sorted((f for f in found if f.name.endswith(".toml")), key=lambda f: f.name[:-5])


@cache
def _built_in_policies() -> Mapping[str, Policy]:
    source = _Source(files("kvmbench").joinpath("data", "policies.toml"))
    return MappingProxyType({name: _policy(source, name) for name in source.data})


@cache
def _built_in_profiles() -> Mapping[str, Profile]:
    found = [_profile(_Source(path)) for path in _data("profiles")]
    return MappingProxyType({profile.name: profile for profile in found})


@cache
def _built_in_published() -> Mapping[str, Published]:
    found = [_published(_Source(path)) for path in _data("published")]
    return MappingProxyType({table.name: table for table in found})
