"""A user's TOML file, read so that what is wrong with it is one line: file, line, key, reason."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from kvmbench.atomic import read_bounded
from kvmbench.errors import FileError, brief, cut, unknown_name

__all__ = ["DATA", "Keys", "Schema", "Source", "declared"]

DATA = Path(__file__).parent / "data"
"""The folder of the package's own files."""

# Limits of a file, checked before Python's reader sees it.
LARGEST = 1e6  # bytes
MOST_TABLES = 10_000  # also those in braces and of dotted keys; Python's reader takes 1 kB for each
MOST_PARTS = 20  # names between the dots of a key: Python's reader takes the square of their number
MOST_DIGITS = 100  # characters of a number, in any base

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

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        """Read the file, or take `data` as its content: at most LARGEST bytes."""
        self.path = path
        if data is not None and len(data) > LARGEST:
            raise FileError(f"{path}: larger than {LARGEST / 1e6:g} MB, the most that is read")
        try:
            self.text = (self._bytes() if data is None else data).decode()
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise FileError(f"{path}:{line}: not UTF-8: {error.reason}") from None
        self._check_keys()
        self._check_numbers()
        try:
            self.data: dict[str, Any] = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            reason = re.sub(r" \(at (line \d+, column \d+|end of document)\)", "", str(error))
            found = re.search(r"at line (\d+)", str(error))
            line = int(found[1]) if found else self.text.count("\n") + 1
            raise FileError(f"{path}:{line}: not TOML: {cut(reason, 200)}") from None
        except RecursionError:
            raise FileError(f"{path}:{_deepest(self.text)}: nested too deeply") from None
        except ValueError:  # an integer beyond Python's limit
            lines = enumerate(self.text.split("\n"), 1)
            long = [(max(map(len, re.findall(r"[\d_]+", text)), default=0), n) for n, text in lines]
            line = max(long, key=lambda found: found[0])[1]
            raise FileError(f"{path}:{line}: an integer has too many digits") from None

    def _check_keys(self) -> None:
        lines = self.text.split("\n")
        if sum(map(self.text.count, "{[.")) > MOST_TABLES:  # at least the tables; else no need
            lines = _bare(self.text).split("\n")
        tables = 0
        for number, line in enumerate(lines, 1):
            tables += line.count("{")
            if line.lstrip().startswith("[") and "," not in line:  # else a row of an array
                tables += 1 + line.count(".")
            elif "." in line:
                tables += sum(key.count(".") for key in line.split("=")[:-1])
            if tables > MOST_TABLES:
                reason = f"over {MOST_TABLES:,} tables, the most that is read"
                raise FileError(f"{self.path}:{number}: {reason}")
            if line.count(".") >= MOST_PARTS and any(
                found[0][0] != "#" and len(re.findall(_PART, found[0])) > MOST_PARTS
                for found in re.finditer(_KEY, line)
            ):
                raise FileError(f"{self.path}:{number}: a key has over {MOST_PARTS} parts")

    def _check_numbers(self) -> None:
        if not re.search(_LONG, self.text):
            return
        for token in re.finditer(_TOKEN, self.text):
            if token[0][0] in "\"'#" or not (found := re.search(_LONG, token[0])):
                continue
            at = token.start() + found.start()
            begin = self.text.rfind("\n", 0, at) + 1
            header = self.text[begin:at].strip() in ("[", "[[")
            if not (header and self.text.startswith("]", token.end())):
                line = self.text.count("\n", 0, at) + 1
                reason = f"a number of over {MOST_DIGITS} characters"
                raise FileError(f"{self.path}:{line}: {reason}")

    def _bytes(self) -> bytes:
        return read_bounded(self.path, LARGEST, FileError)

    def error(self, keys: Keys, reason: str) -> FileError:
        said = ""
        for key in keys:
            if isinstance(key, int):
                said += f": {'row' if said == 'rows' else 'entry'} {key}: "
            else:
                said += f"{'.' if said and not said.endswith(' ') else ''}{cut(key)}"
        said = cut(said.removesuffix(": "), 100)
        where = f":{self._line(keys)}: {said}" if keys else ""
        return FileError(f"{self.path}{where}: {reason}")

    def _line(self, keys: Keys) -> int:
        """Return the line of `keys`, or of the longest part of it that is written out."""
        here: Keys = ()
        table: Keys = ()
        entries: Counter[Keys] = Counter()
        best, best_line = 0, 1
        for number, statement in _statements(self.text):
            if header := re.match(r"(\[\[?)([^\[\]]+)\]", statement):
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
            elif assignment := re.match(r"""([\w.\s"'-]+|"[^"]*"|'[^']*')=""", statement):
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
            raise self.error(keys, f"expected a table, found {brief(found)}")
        known = {**required, **optional}
        for key, value in found.items():
            if key not in known:
                raise self.error((*keys, key), unknown_name("key", key, known))
            kind = known[key]
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not object):
                reason = f"expected {WORDS[kind]}, found {brief(value)}"
                raise self.error((*keys, key), reason)
        for key in required:
            if key not in found:
                raise self.error(keys, f"{key!r} is missing")
        return found

    def strings(self, keys: Keys, values: list[Any]) -> tuple[str, ...]:
        """Return the list at `keys`, where it holds nothing but strings."""
        for value in values:
            if not isinstance(value, str):
                raise self.error(keys, f"expected a string, found {brief(value)}")
        return tuple(values)


# Patterns that only errors need, and that re compiles then.
_LONG = rf"(?<![\w.+-])[+-]?\d[\w.+-]{{{MOST_DIGITS},}}+(?![ \t]*=)"
_PART = r"""[\w-]+|"(?:[^"\\]|\\.)*+"|'[^']*+'"""
_KEY = rf"#.*|(?:{_PART})(?:[ \t]*+\.[ \t]*+(?:{_PART}))*+"

# A string that is not closed goes on to its line's or the file's end, so that this stays linear.
_TOKEN = (
    r"""(?s)\"\"\"(?:[^"\\]|\\.|"{1,2}(?!"))*+(?:"{3,5})?|\'\'\'.*?(?:'{3,5}|\Z)"""
    r"""|"(?:[^"\\\n]|\\.)*+"?|'[^'\n]*+'?|#[^\n]*|[\[\]{}\n]|[^"'#\[\]{}\n]+"""
)


def _bare(text: str) -> str:
    """Return a TOML text with the same lines, its strings empty and its comments left out."""

    def emptied(found: re.Match[str]) -> str:
        token = found[0]
        if token[0] not in "\"'#":
            return token
        return "" if token[0] == "#" else '""' + "\n" * token.count("\n")

    return re.sub(_TOKEN, emptied, text)


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield each header and assignment of a TOML text with the line that it begins in."""
    depth, line, begun, words = 0, 1, 1, ""
    for found in re.finditer(_TOKEN, text + "\n"):
        token = found[0]
        depth += (token in "[{") - (token in "]}") if len(token) == 1 else 0
        if token == "\n" and depth == 0:
            if words.strip():
                yield begun, words.strip()
            begun, words = line + 1, ""
        elif depth == 0 or len(words) < 200:  # of a long value the beginning says enough
            words += "" if token.startswith("#") else token
        line += token.count("\n")


def _deepest(text: str) -> int:
    """Return the line of the deepest nesting in a TOML text."""
    depth = most = 0
    line = deepest = 1
    for found in re.finditer(_TOKEN, text):
        token = found[0]
        depth += (token in "[{") - (token in "]}") if len(token) == 1 else 0
        if depth > most:
            most, deepest = depth, line
        line += token.count("\n")
    return deepest


def _dotted(key: str) -> tuple[str, ...]:
    """Take a key apart at its dots, those inside quotes aside."""
    parts = re.findall(r"""("[^"]*"|'[^']*'|[^."']+)""", key)
    return tuple(part.strip().strip("\"'") for part in parts if part.strip())


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
