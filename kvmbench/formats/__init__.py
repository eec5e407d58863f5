"""Result files of other programs, read and written: one module per format.

A reader is `decode(data, name) -> Result` and raises ResultError: one line with the file's name,
the line or the place (`$.benchmarks[0]`) and the expected form. A writer is
`encode(result) -> bytes` and raises ResultError where the format cannot carry the result. Each
module's docstring lists the facts that its format loses. `kvmbench.results` has the limits.
"""

from __future__ import annotations

import glob
import os
import re
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kvmbench.atomic import replace_file
from kvmbench.errors import ResultError, brief, unknown_name
from kvmbench.report.escape import json_text, visible, xml_text
from kvmbench.results import FAMILY, Result, check, decode_json, merge, read_bytes, utf8

if TYPE_CHECKING:
    from kvmbench.catalog import Published

__all__ = [
    *("ENDINGS", "READABLE", "WRITABLE", "decode", "dump", "form_of", "from_published"),
    *("is_many", "load", "save"),
]

READABLE = {
    "kvmbench": "kvmbench's own results, JSON",
    "kut": "what vmexit or micro-bench of kvm-unit-tests prints, as a log or as people post it",
    "pytest-benchmark": "JSON of pytest-benchmark",
    "pyperf": "JSON of pyperf",
    "hyperfine": "JSON of hyperfine --export-json",
    "google-benchmark": "JSON of Google Benchmark",
    "go": "Go benchmark text, as benchstat takes it, or go test -json",
    "exit-mix": "exits by reason of perf kvm stat report, bcc's kvmexit or bpftrace",
    "csv": "CSV that convert or run writes, or any with columns workload and value",
    "published": "TOML of a published table",
}
"""The formats that `load` reads: name -> description."""

WRITABLE = {
    "kvmbench": "kvmbench's own results, JSON, complete",
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

SNIFF = 1 << 20  # bytes at the start of a larger text that must hold a figure
WHOLE = ("published", "google-benchmark")  # TOML, and JSON below other text

_JSON_HEAD = re.compile(
    rb'"schema"\s*:\s*"kvmbench|"(?:boots|benchmarks|results)"\s*:\s*\[\s*\{'
    rb'|"(?:context|machine_info|commit_info|metadata)"\s*:\s*\{|"Action"\s*:'
)
"""A pattern in the first SNIFF bytes of any large JSON that a reader takes."""

_REFUSED = {
    "kvmbench scenario or check, which is no result": rb"\A(?:scenario,profile|policy,cpus),",
    "kvmbench as text or Markdown: keep its result as JSON or as convert's CSV": (
        rb"^(?:\| )?workload .* after\b.*(?: shift[ |].* interval| TR reloads)"
        rb"|^(?:\| )?row[ |]+unit[ |]+(?:runs|boots)[ |]+median\b"
    ),
    "perf stat": rb'Performance counter stats for|"counter-value"\s*:'
    rb"|^(?:[^,;\n]*[,;]){0,3}(?:\d[\d.]*|<not \w+>)[,;]\w*[,;][\w.:/-]+[,;](?:[\d.]+%[,;])?"
    rb"\d+[,;]\d+\.\d\d(?:[,;]|$)",
    "criterion": rb'"confidence_interval"\s*:|"(?:group|function)_id"\s*:|"sampling_mode"\s*:'
    rb'|"reason"\s*:\s*"(?:benchmark|group)-complete"|^\S.*\stime:\s+\[[\d.]+ \S+ [\d.]+ ',
    "benchstat: use its input": rb"^[ \t]*\xe2\x94\x82.*\xe2\x94\x82|^,\S+,CI\b"
    rb"|^name\s+old \S+\s.*\sdelta|^name(?:\s+(?:(?:time|alloc|allocs)/op|speed))+\s*$",
    "asv (airspeed velocity)": rb'"result_columns"\s*:|"commit_hash"\s*:',
    "JMH": rb'"jmhVersion"\s*:|"primaryMetric"\s*:|^Benchmark\s.*\bMode\s+Cnt\s+Score'
    rb'|\A"?Benchmark"?,"?Mode"?,',
    "Bencher (BMF)": rb'\A\s*\{\s*"[^"]*"\s*:\s*\{\s*"[^"]*"\s*:\s*\{\s*"(?:lower_|upper_)?value"',
    "github-action-benchmark": rb'\A\s*\[\s*\{\s*"(?:name|unit|value)"\s*:',
    "hyperfine as text, CSV or Markdown: export JSON": rb"^Benchmark \d+: |\Acommand,mean,stddev,"
    rb"|\A\| Command +\| +Mean \[",
    "Google Benchmark as text or CSV: use --benchmark_format=json": rb"^Benchmark\s+Time\s+CPU\s"
    rb"|^name,iterations,real_time,cpu_time,",
}
"""Programs whose output no reader takes, and a pattern that shows it."""

_MAIL = re.compile(rb"[\w-]+:[ \t]|From ")
_HOME = {"kvmbench": "kvmbench.results"}
_keys = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_entries = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def is_many(source: str) -> bool:
    """Return whether `load` reads `source` from stdin, a folder or a glob instead of one file."""
    return source == "-" or os.path.isdir(source) or _is_glob(source)


def load(source: str | Path) -> Result:
    """Return the result in a file of any readable format, or a published table by its name.

    The content of a file tells its format. `-` is stdin; a folder and a glob are the results of
    all their files, one after another. Of a folder, files of no known format are passed over, with
    a note. Raises ResultError, and OSError.
    """
    name = str(source)
    if name == "-":
        return decode(read_bytes("/dev/stdin"), "stdin")
    if is_many(name):
        folder = name if os.path.isdir(name) else ""
        found = glob.glob(f"{glob.escape(name)}/*" if folder else name, recursive=True)
        return _merged(sorted(filter(os.path.isfile, found)), folder)
    if isinstance(source, str) and not os.path.exists(source):
        from kvmbench.catalog import published

        tables = published()
        if source in tables:
            return from_published(tables[source])
        if os.sep not in source and not os.path.splitext(source)[1]:
            raise ResultError(unknown_name("file or published table", source, tables))
    return _load_file(name)


def _is_glob(name: str) -> bool:
    return (
        glob.has_magic(name) and not os.path.exists(name) and bool(glob.glob(name, recursive=True))
    )


def _load_file(path: str) -> Result:
    if os.path.isfile(path) and os.path.getsize(path) > SNIFF:
        with open(path, "rb") as file:
            _check_start(file.read(SNIFF), path)
        return _decode(read_bytes(path), path)
    return decode(read_bytes(path), path)


def _check_start(start: bytes, name: str) -> None:
    """Raise ResultError where a large text shows no figure in its first bytes.

    Of JSON and TOML, a part cannot be read.
    """
    size = len(start)
    start = utf8(start, name, part=True).replace(b"\0", b"")
    if re.match(rb"\s*\{", start):
        if not _JSON_HEAD.search(start):
            raise ResultError(f"{name}: {_unknown_json(start)}")
        return
    if _format(start, name) in WHOLE:
        return
    try:
        _decode(start[: start.rfind(b"\n") + 1] or start, name)
    except ResultError as error:
        raise ResultError(f"{error} (in its first {size >> 20} MB)") from None


def _merged(paths: list[str], folder: str) -> Result:
    """Return the results of files as one; those of `folder` may be of no known format."""
    found, passed = [], []
    for path in paths:
        try:
            found.append(_load_file(path))
        except ResultError as error:
            if not folder:
                raise
            passed.append(str(error))
    if not found:
        more = f": {passed[0]}" if passed else ""
        raise ResultError(f"{folder}: no file of a known format{more}")
    result = reduce(merge, found)
    if passed:
        note = f"{len(passed)} of {len(paths)} files passed over, the first: {passed[0]}"
        result = msgspec.structs.replace(result, notes=[*result.notes, note])
    return result


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
    if len(data) > SNIFF:
        _check_start(data[:SNIFF], name)
    return _decode(data, name)


def _decode(data: bytes, name: str) -> Result:
    try:
        data = utf8(data, name).replace(b"\0", b"")  # which serial consoles add
        if _MAIL.match(data):
            data = _module("mail").plain(data)
        form = _format(data, name)
        try:
            result: Result = _module(form).decode(data, name)
        except ResultError as error:
            known = _unknown(data[:SNIFF]) if form == "kut" else ""
            raise ResultError(f"{name}: {known}") if known else error from None
        if form != "kvmbench":  # whose reader has checked it
            check(result, name)
    except MemoryError:
        raise ResultError(f"{name}: larger than this machine's memory allows") from None
    except (RecursionError, OverflowError) as error:
        raise ResultError(f"{name}: nested too deep, or a number too large: {error}") from None
    return result


def dump(result: Result, form: str) -> bytes:
    """Return `result` as a file of the format `form`, one of WRITABLE.

    Raises ValueError for another form, and ResultError where the format cannot carry the result.
    """
    if form not in WRITABLE:
        raise ValueError(unknown_name("format", form, WRITABLE))
    content: bytes = _module(form).encode(result)
    match form:  # a stranger's names can reach a terminal or a log
        case "junit":
            return xml_text(content)
        case "go":
            return visible(content.decode(), keep="\n\t").encode()
    return json_text(content) if content.startswith((b"{", b"[")) else content


def from_published(table: Published) -> Result:
    """Return the figures of a published table as a result."""
    result: Result = _module("published").from_published(table)
    return result


def _module(form: str) -> Any:
    return import_module(_HOME.get(form, f"kvmbench.formats.{form.replace('-', '_')}"))


def _format(data: bytes, name: str) -> str:
    """Return the name of the format that `data` is in."""
    start = data[:SNIFF]
    first = start.lstrip()[:1]
    if not first:
        raise ResultError(f"{name}: {'white space only' if len(data) > SNIFF else 'is empty'}")
    if b'"Action"' in start and _module("go").EVENT.search(start):
        return "go"  # go test -json
    if first == b"{":
        return _json_format(data, name)
    if b'"context"' in start and _module("google-benchmark").START.search(start):
        return "google-benchmark"
    if first == b"[" and _is_json(data):  # a kernel's line begins with [ too
        raise ResultError(f"{name}: {_unknown(start) or f'JSON, but an array; {_known()}'}")
    if re.search(rb"^Unit\s+\S+\s+\w+=|^Benchmark\S*\s+[-+]?\d+\s+\S+\s+\S", start, re.MULTILINE):
        return "go"
    if _module("csv").HEADER.match(start):
        return "csv"
    if re.search(rb"^configurations\s*=", start, re.MULTILINE) and re.search(
        rb"^(rows\s*=|\[\[\s*rows\s*\]\])", start, re.MULTILINE
    ):
        return "published"
    if _module("exit-mix").matches(start):
        return "exit-mix"
    if known := _unknown(start.lstrip().partition(b"\n")[0]):  # whose rows may have vmexit's names
        raise ResultError(f"{name}: {known}")
    kut = _module("kut")
    if not kut.REMINDS.search(start):
        known = _unknown(start) or kut.nothing(start)
        raise ResultError(f"{name}: {known}")
    return "kut"


def _json_format(data: bytes, name: str) -> str:
    try:
        head = decode_json(_keys, data, name)
    except ResultError as error:
        known = _unknown(data[:SNIFF])  # perf stat -j and others write one object per line
        raise ResultError(f"{name}: {known}") if known else error from None
    schema = decode_json(_any, bytes(head.get("schema", b"null")), name)
    if isinstance(schema, str) and schema.startswith(FAMILY):
        return "kvmbench"
    if isinstance(schema, str) and schema.startswith("kvmbench."):
        raise ResultError(f"{name}: $.schema: {brief(schema)} is no result, expected {FAMILY}")
    entries = head.get("benchmarks", head.get("results", b"null"))
    try:
        keys = {key for entry in _entries.decode(entries) for key in entry}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        keys = set()
    if "results" in head and "command" in keys:
        return "hyperfine"
    if "machine_info" in head or "stats" in keys:
        return "pytest-benchmark"
    if "runs" in keys:
        return "pyperf"
    if "time_unit" in keys or ("context" in head and "benchmarks" in head):
        return "google-benchmark"
    raise ResultError(f"{name}: {_unknown_json(data[:SNIFF])}")


def _unknown_json(start: bytes) -> str:
    return _unknown(start) or f"JSON of no known format; {_known()}"


def _is_json(data: bytes) -> bool:
    try:
        decode_json(msgspec.json.Decoder(list[msgspec.Raw]), data, "")
    except ResultError:
        return False
    return True


def _unknown(start: bytes) -> str:
    """Return a message that names the program whose output this is; empty where it is unknown."""
    for program, pattern in _REFUSED.items():
        if re.search(pattern, start, re.MULTILINE):
            return f"output of {program}; {_known()}"
    return ""


def _known() -> str:
    return f"kvmbench reads {', '.join(READABLE)}"
