"""Result files of other programs, read and written: one module per format.

A reader is `decode(data, name) -> Result` and raises ResultError, one line with the file's name,
the line or the place (`$.benchmarks[0]`) and what was expected. A writer is
`encode(result) -> bytes` and raises ResultError where the format cannot carry the result. What a
format loses is in its module's docstring.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kvmbench.atomic import replace_file
from kvmbench.errors import ResultError, unknown_name
from kvmbench.results import FAMILY, Result, decode_json, read_bytes

if TYPE_CHECKING:
    from kvmbench.catalog import Published

__all__ = [
    *("ENDINGS", "READABLE", "WRITABLE", "decode", "dump", "form_of", "from_published", "load"),
    "save",
]

READABLE = {
    "kvmbench": "kvmbench's own results, JSON",
    "kut": "what vmexit of kvm-unit-tests prints, or a log of run_tests.sh",
    "pytest-benchmark": "JSON of pytest-benchmark",
    "pyperf": "JSON of pyperf",
    "go": "Go benchmark text, as benchstat takes it",
    "published": "TOML of a published table",
}
"""The formats that `load` reads: name -> description."""

WRITABLE = {
    "kvmbench": "kvmbench's own results, JSON: all of it",
    "pytest-benchmark": "JSON that pytest-benchmark compares with",
    "pyperf": "JSON that pyperf reads: every value of every run",
    "go": "Go benchmark text for benchstat: one line per run",
    "github-action": "JSON of github-action-benchmark's custom tools: one figure per row",
    "junit": "JUnit XML: one test case per row",
    "csv": "CSV: one line per value",
    "markdown": "Markdown: a table of medians",
}
"""The formats that `dump` and `save` write: name -> description."""

ENDINGS = {".json": "kvmbench", ".csv": "csv", ".md": "markdown", ".xml": "junit"}
"""A file name's ending, and the format that it asks for."""

_HOME = {"kvmbench": "kvmbench.results"}


class _Head(msgspec.Struct):
    """The keys that distinguish the JSON formats."""

    schema: Any = None
    machine_info: msgspec.Raw = msgspec.Raw()
    benchmarks: msgspec.Raw = msgspec.Raw()


_head = msgspec.json.Decoder(_Head)
_entries = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def load(source: str | Path) -> Result:
    """Return the result in a file of any readable format, or a published table by its name.

    The content of a file tells its format. Raises ResultError, and OSError.
    """
    if isinstance(source, str) and not os.path.exists(source):
        from kvmbench.catalog import published

        tables = published()
        if source in tables:
            return from_published(tables[source])
        if os.sep not in source and not os.path.splitext(source)[1]:
            raise ResultError(unknown_name("file or published table", source, tables))
    return decode(read_bytes(source), str(source))


def save(result: Result, path: str | Path, form: str | None = None) -> None:
    """Make a file of `result`, whole or not at all, of the format `form` or by the path's ending.

    Raises ValueError for an ending or a form that is none of ENDINGS and WRITABLE, ResultError
    where the format cannot carry the result, and OSError.
    """
    replace_file(path, dump(result, form or form_of(path)))


def form_of(path: str | Path) -> str:
    """Return the format that a path's ending asks for. Raises ValueError where it asks for none."""
    form = ENDINGS.get(os.path.splitext(path)[1])
    if form is None:
        raise ValueError(f"{path} does not say its format; give one of {', '.join(WRITABLE)}")
    return form


def decode(data: bytes, name: str) -> Result:
    """Return the result that `data` holds; `name` is the file's, for messages.

    Raises ResultError.
    """
    try:
        result: Result = _module(_format(data, name)).decode(data, name)
    except MemoryError:
        raise ResultError(f"{name}: larger than this machine's memory allows") from None
    return result


def dump(result: Result, form: str) -> bytes:
    """Return `result` as a file of the format `form`, one of WRITABLE.

    Raises ValueError for another form, and ResultError where the format cannot carry the result.
    """
    if form not in WRITABLE:
        raise ValueError(unknown_name("format", form, WRITABLE))
    content: bytes = _module(form).encode(result)
    return content


def from_published(table: Published) -> Result:
    """Return the figures of a published table as a result."""
    result: Result = _module("published").from_published(table)
    return result


def _module(form: str) -> Any:
    return import_module(_HOME.get(form, f"kvmbench.formats.{form.replace('-', '_')}"))


def _format(data: bytes, name: str) -> str:
    """Return the name of the format that `data` is in."""
    start = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if not start:
        raise ResultError(f"{name}: is empty")
    if start == b"{":
        return _json_format(data, name)
    if start == b"[" and _is_json(data):  # a kernel's line begins with [ too
        raise ResultError(f"{name}: JSON, but an array; {_known()}")
    if data.startswith(b"\x1f\x8b"):
        raise ResultError(f"{name}: is compressed with gzip: unpack it")
    if re.search(rb"^Unit\s+\S+\s+\w+=|^Benchmark(?![a-z])\S*\s+[-+]?\d", data, re.MULTILINE):
        return "go"
    if re.search(rb"^configurations\s*=", data, re.MULTILINE) and re.search(
        rb"^(rows\s*=|\[\[\s*rows\s*\]\])", data, re.MULTILINE
    ):
        return "published"
    return "kut"


def _json_format(data: bytes, name: str) -> str:
    head = decode_json(_head, data, name)
    if isinstance(head.schema, str) and head.schema.startswith(FAMILY):
        return "kvmbench"
    try:
        keys = {key for entry in _entries.decode(head.benchmarks) for key in entry}
    except msgspec.DecodeError:
        keys = set()
    except (UnicodeDecodeError, RecursionError) as error:
        raise ResultError(f"{name}: not JSON: {error}") from None
    if bytes(head.machine_info) or "stats" in keys:
        return "pytest-benchmark"
    if "runs" in keys:
        return "pyperf"
    raise ResultError(f"{name}: JSON of no known format; {_known()}")


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _known() -> str:
    return f"kvmbench reads {', '.join(READABLE)}"
