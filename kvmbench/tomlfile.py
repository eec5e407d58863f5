"""A user's TOML file, read so that what is wrong with it is one line: file, line, key, reason."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from kvmbench.errors import FileError, unknown_name

__all__ = ["Keys", "Schema", "Source", "declared"]

Keys = tuple[str | int, ...]  # the path of a value in a file; entries of arrays count from 1
Schema = Mapping[str, Any]  # key -> the type of its value, as isinstance takes it
WORDS = {
    str: "a string",
    list: "a list",
    dict: "a table",
    (int, float): "a number",
    (date, str): "a date",
}


class Source:
    """A TOML file, and where in it each key stands."""

    def __init__(self, path: Path | Traversable, data: bytes | None = None) -> None:
        """Read the file, or take `data` as its content."""
        self.path = path
        try:
            self.text = (path.read_bytes() if data is None else data).decode()
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
        except (ValueError, RecursionError) as error:  # a number, or nesting, beyond Python's limit
            raise FileError(f"{path}: not TOML: {error}") from None

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
                *parents, last = _dotted(header[2])
                here = ()
                for part in parents:  # one that is an array stands for its latest entry
                    here = (*here, part)
                    here = (*here, entries[here]) if here in entries else here
                here = (*here, last)
                if header[1] == "[[":
                    entries[here] += 1
                    here = (*here, entries[here])
                table = here
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
def declared(
    source: Source, keys: Keys, known: Collection[str], prefix: str = ""
) -> Iterator[None]:
    """Turn what a declaration says, which begins with `prefix` and a key, into a FileError.

    `known` are the keys that it may begin with.
    """
    try:
        yield
    except FileError:
        raise
    except (TypeError, ValueError) as error:
        said = str(error)
        key, _, reason = said.removeprefix(prefix).partition(" ")
        key = key.rstrip(":")
        if said.startswith(prefix) and key in known:
            raise source.error((*keys, key), reason.removeprefix("is ")) from None
        raise source.error(keys, said) from None
