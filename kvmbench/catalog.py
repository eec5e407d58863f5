"""Named things from TOML: the policies, profiles and published tables, built in or a user's own.

Every reader raises `FileError`, one line with the file, the line and the key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
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


class _Source:
    """A TOML file, and where in it each key stands."""

    def __init__(self, path: Path | Traversable) -> None:
        self.path = path
        try:
            self.text = path.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise FileError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None
        try:
            self.data: dict[str, Any] = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            reason = re.sub(r" \(at (line \d+, column \d+|end of document)\)", "", str(error))
            found = re.search(r"at line (\d+)", str(error))
            line = int(found[1]) if found else self.text.count("\n") + 1
            raise FileError(f"{path}:{line}: not TOML: {reason}") from None

    def error(self, keys: tuple[str, ...], reason: str) -> FileError:
        where = f":{self._line(keys)}" if keys else ""
        key = ".".join(keys)
        return FileError(f"{self.path}{where}: {key + ': ' if key else ''}{reason}")

    def _line(self, keys: tuple[str, ...]) -> int:
        """Return the line of `keys`, or of the longest part of it that is written out."""
        table: tuple[str, ...] = ()
        best, best_line = 0, 1
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line):
                here = table = _dotted(header[1])
            elif assignment := re.match(r"""\s*([\w."'-]+)\s*=""", line):
                here = (*table, *_dotted(assignment[1]))
            else:
                continue
            if len(here) > best and here == keys[: len(here)]:
                best, best_line = len(here), number
        return best_line

    def table(
        self, keys: tuple[str, ...], required: Collection[str] = (), optional: Collection[str] = ()
    ) -> dict[str, Any]:
        """Return the table at `keys`, with all of `required` and nothing unknown."""
        found: Any = self.data
        for key in keys:
            found = found.get(key, {})
        if not isinstance(found, dict):
            raise self.error(keys, f"expected a table, found {found!r}")
        known = [*required, *optional]
        for key in found:
            if known and key not in known:
                raise self.error((*keys, key), unknown_name("key", key, known))
        for key in required:
            if key not in found:
                raise self.error(keys, f"{key!r} is missing")
        return found


def _dotted(key: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in key.split("."))


def _policy(source: _Source, name: str) -> Policy:
    table = source.table((name,), optional=(*HOOKS, "io_base_at_start", "about"))
    try:
        return Policy(name, **table)
    except (TypeError, ValueError) as error:
        raise _built_wrong(source, (name,), error) from None


def _built_wrong(source: _Source, keys: tuple[str, ...], error: Exception) -> FileError:
    """Turn the message of a declaration, which begins with a key's path, into a FileError."""
    path, _, rest = str(error).partition(" ")
    if path.rstrip(":").split(".")[0] in (*HOOKS, "io_base_at_start", "costs", "kinds", "tsc_hz"):
        return source.error((*keys, *path.rstrip(":").split(".")), rest.removeprefix("is "))
    return source.error(keys, str(error))


def _profile(source: _Source) -> Profile:
    top = source.table(
        (), optional=("name", "extends", "about", "tsc_hz", "costs", "kinds", "provenance")
    )
    if "name" not in top:
        raise source.error((), "'name' is missing")
    base = _base(source, top["extends"]) if "extends" in top else None
    try:
        return _built_profile(source, top, base)
    except FileError:
        raise
    except (TypeError, ValueError) as error:
        raise _built_wrong(source, (), error) from None


def _base(source: _Source, name: object) -> Profile:
    for path in _data("profiles"):
        if path.name == f"{name}.toml":
            return _profile(_Source(path))
    known = [path.name.removesuffix(".toml") for path in _data("profiles")]
    raise source.error(("extends",), unknown_name("built-in profile", name, known))


def _built_profile(source: _Source, top: dict[str, Any], base: Profile | None) -> Profile:
    cost_names = [entry.name for entry in fields(Costs)]
    required = () if base else cost_names
    stated = source.table(("costs",), required=required, optional=cost_names)
    costs = replace(base.costs, **stated) if base else Costs(**stated)
    kinds = {kind.name: kind for kind in base.kinds} if base else {}
    for name in source.table(("kinds",)):
        what = [entry.name for entry in fields(ExitKind) if entry.name != "name"]
        needed = () if name in kinds else ("cycles",)
        table = source.table(("kinds", name), required=needed, optional=what)
        known = kinds.get(name)
        kinds[name] = replace(known, **table) if known else ExitKind(name, **table)
    bare = Profile(top["name"], costs, tuple(kinds.values()), top.get("tsc_hz"))
    figures = bare.figures()
    # A figure that the file changes no longer has the origin that the base gave it.
    old = base.figures() if base else {}
    origins = {
        figure: origin
        for figure, origin in (base.provenance.items() if base else ())
        if figures.get(figure) == old[figure]
    }
    entries = top.get("provenance", [])
    if not isinstance(entries, list):
        raise source.error(("provenance",), "expected [[provenance]] tables")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or set(entry) != {"figures", "basis", "source"}:
            reason = f"entry {number}: expected figures, basis and source"
            raise source.error(("provenance",), reason)
        for pattern in entry["figures"]:
            matched = [figure for figure in figures if fnmatchcase(figure, str(pattern))]
            if not matched:
                reason = f"entry {number}: {unknown_name('figure', pattern, figures)}"
                raise source.error(("provenance",), reason)
            try:
                origin = Provenance(entry["basis"], entry["source"])
            except ValueError as error:
                raise source.error(("provenance",), f"entry {number}: {error}") from None
            origins.update(dict.fromkeys(matched, origin))
    return replace(bare, provenance=origins, about=top.get("about", ""))


def _published(source: _Source) -> Published:
    names = [entry.name for entry in fields(Published)]
    optional = ("policies", "order")
    table = source.table((), [name for name in names if name not in optional], optional)
    for key in ("name", "title", "change", "hardware", "source", "note", "unit", "better"):
        if not isinstance(table[key], str):
            raise source.error((key,), f"expected a string, found {table[key]!r}")
    rows = []
    for number, row in enumerate(table["rows"], 1):
        try:
            row = PublishedRow(**{**row, "values": tuple(row.get("values", ()))})
        except TypeError as error:
            raise source.error(("rows",), f"row {number}: {error}") from None
        if row.configuration not in table["configurations"]:
            known = unknown_name("configuration", row.configuration, table["configurations"])
            raise source.error(("rows",), f"row {number}: {known}")
        rows.append(row)
    return Published(
        **{
            **table,
            "date": str(table["date"]),
            "configurations": tuple(table["configurations"]),
            "rows": tuple(rows),
            "policies": MappingProxyType(dict(table.get("policies", {}))),
        }
    )


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
