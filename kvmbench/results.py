"""The result format `kvmbench.result/1`: boots -> runs -> values, and the host they come from.

A boot is one start of a kernel, a run one fresh process (on /dev/kvm with a fresh virtual machine),
a value one iteration of the measurement within a run. The file keeps every value; a comparison
reduces them.

Limits of every reader: LARGEST bytes, FLOOR and GROWTH times the input in memory, LONGEST
characters per name, and numbers of SMALLEST to GREATEST, so that no sum or square of them
overflows.
"""

import codecs
import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from pathlib import Path
from sys import float_info
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from kvmbench.atomic import locked, memory_left, read_bounded, replace_file
from kvmbench.errors import ResultError, brief, cut
from kvmbench.report import Document, Reported
from kvmbench.report.figures import plural

__all__ = ["SCHEMA", "SCHEMAS", "Block", "Boot", "Host", "Result", "Run", "Series", "Stopping"]
__all__ += ["append", "builtins", "check", "check_engines", "check_growth", "decode"]
__all__ += ["decode_json", "encode", "engines", "is_measured", "json_schema", "merge", "read"]
__all__ += ["read_bytes", "utf8", "write"]

FAMILY, VERSION = "kvmbench.result", 1
SCHEMA = f"{FAMILY}/{VERSION}"

LARGEST = 1e9  # bytes of a file that is read
GROWTH = 20  # times its size that a file may take of memory while it is read
FLOOR = 128e6  # bytes of memory that any file may take besides: short lines of many runs need it
LONGEST = 500  # characters of a workload's, a configuration's or a unit's name
GREATEST, SMALLEST = 1e100, 1e-100  # of a number that is not 0
LARGEST_INTEGER = 2**80 - 1  # more than the clocks of 65,536 CPUs sum to

_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_PACKED = {
    b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
}  # fmt: skip

_BARE = {  # the same of a first character of ASCII without a mark
    re.compile(rb"[^\0]\0\0\0"): "utf-32-le",
    re.compile(rb"\0\0\0[^\0]"): "utf-32-be",
    re.compile(rb"[^\0]\0[^\0]\0"): "utf-16-le",
    re.compile(rb"\0[^\0]\0[^\0]"): "utf-16-be",
}

T = TypeVar("T")
Name = Annotated[str, Meta(min_length=1)]
Number = int | float
Block = Annotated[int, Meta(ge=0, le=2**62)]
Stopping = Literal["size", "decided"]


class Host(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False
):
    """The host of a boot; None or empty where it is not known."""

    kernel: str | None = None  # uname -r
    build: str | None = None  # uname -v
    cmdline: str | None = None  # /proc/cmdline
    cpu: str | None = None  # model name of /proc/cpuinfo
    microcode: str | None = None
    mitigations: dict[str, str] = field(default_factory=dict)  # vulnerability -> mitigation
    kvm: str | None = None  # the vendor's module: kvm_intel, kvm_amd, kvm_pvm
    kvm_parameters: dict[str, str] = field(default_factory=dict)  # "kvm_intel.ept" -> "Y"
    governor: str | None = None  # of cpufreq
    smt: str | None = None  # /sys/devices/system/cpu/smt/control
    tsc_hz: int | None = None
    facts: dict[str, str] = field(default_factory=dict)  # other facts, which are not compared


class Series(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False
):
    """One workload under one configuration in one run."""

    workload: Name
    configuration: str = ""  # a policy, a kernel, a column; empty where there is only one
    unit: Name = "cycles"
    kind: Literal["exact", "noisy"]  # simulated or counted, or measured
    better: Literal["lower", "higher"] = "lower"
    values: Annotated[list[Number], Meta(min_length=1)]  # one per iteration, in order
    quantum: float | None = None  # resolution of the clock or the print-out, in `unit`
    policy: str | None = None  # that was simulated, or that the kernel is known to have
    reloads: float | None = None  # TR reloads per iteration that the model predicts
    # Per iteration: segments, KVM's counters.
    counts: dict[str, Number] = field(default_factory=dict)
    marks: list[str] = field(default_factory=list)  # remarks that a reader of this row needs


class Run(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False
):
    """One fresh process and its figures.

    `block` pairs it with the run of another configuration next to it, in the same boot.
    """

    block: Block | None = None
    time: str | None = None  # ISO 8601, when it began
    engine: str | None = None  # sim, kvm, or the program that printed it
    command: list[str] = field(default_factory=list)
    model_version: str | None = None
    profile: str | None = None
    vendor: str | None = None
    series: list[Series]
    skipped: dict[str, str] = field(default_factory=dict)  # workload -> reason


class Boot(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False
):
    """One boot of one kernel; `block` pairs it with the boots of the other side of a plan."""

    id: str = ""  # /proc/sys/kernel/random/boot_id
    block: Block | None = None
    labels: dict[Name, str] = field(default_factory=dict)  # host, commit, commit_time, the user's
    host: Host = field(default_factory=Host)
    runs: Annotated[list[Run], Meta(min_length=1)]


class Result(
    Struct, Reported, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A file. `order` says whether boots, runs and values are in the order of time.

    `stopping` is the rule that ended the measurement: a size chosen before, or a look after each
    unit until the rows were decided, which `compare` must allow for.
    """

    schema: str = field(default=SCHEMA)
    name: str = ""
    tool: str = ""  # the program that wrote it: "kvmbench 0.1.0"
    source: str = ""  # URL or file that the figures come from
    order: Literal["time", "lost"] = "time"
    stopping: Stopping = "size"
    notes: list[str] = field(default_factory=list)
    boots: Annotated[list[Boot], Meta(min_length=1)]
    # The table that a command printed, for readers of its JSON; kvmbench makes it again.
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __repr__(self) -> str:
        rows = len({(series.workload, series.configuration) for _, _, series in self.series()})
        name = f" {self.name}" if self.name else ""
        counts = f"{plural(rows, 'row')}, {plural(len(list(self.runs())), 'run')}"
        return f"<Result{name}: {counts} in {plural(len(self.boots), 'boot')}>"

    def document(self, label: str = "") -> Document:
        """Return the document that `kvmbench show` prints; `label` is for a result without a name.

        Its JSON is this result.
        """
        from kvmbench.summary import document

        found = document(self, label)
        return replace(found, data=builtins(self, list(found.records)))

    def runs(self) -> Iterator[tuple[Boot, Run]]:
        """Yield every run with its boot, in order."""
        yield from ((boot, run) for boot in self.boots for run in boot.runs)

    def series(self) -> Iterator[tuple[Boot, Run, Series]]:
        """Yield every series with its boot and run, in order."""
        yield from ((boot, run, series) for boot, run in self.runs() for series in run.series)

    def configurations(self) -> list[str]:
        """Return the names of the configurations, in the order of their first use."""
        return list(dict.fromkeys(series.configuration for _, _, series in self.series()))

    def workloads(self) -> list[str]:
        """Return the names of the workloads, in the order of their first use."""
        return list(dict.fromkeys(series.workload for _, _, series in self.series()))


class _Head(Struct):
    schema: Any = None


_decoder = msgspec.json.Decoder(Result)


def decode(data: bytes, name: str) -> Result:
    """Return the result that `data` holds; `name` is the file's, for messages.

    Raises ResultError for text that is no JSON or was cut off, foreign JSON, a newer version, a
    wrong type with its place, and as `check`.
    """
    data = utf8(data, name)
    try:
        schema = msgspec.json.decode(data, type=_Head).schema
    except msgspec.ValidationError:
        schema = None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ResultError(f"{name}: {_not_json(data, error)}") from None
    if schema != SCHEMA:
        raise ResultError(f"{name}: {_other_schema(schema)}")
    result = decode_json(_decoder, data, name)
    check(result, name)
    return result


def decode_json(decoder: msgspec.json.Decoder[T], data: bytes, name: str) -> T:
    """Return the object that `decoder` makes of JSON text.

    Raises ResultError with the line that is no JSON, or the place that has a wrong type.
    """
    # At most these bytes per object, array and member, as msgspec builds them.
    taken = 700 * data.count(b"{") + 90 * data.count(b"[") + 40 * data.count(b",")
    check_growth(taken, len(data), name)
    try:
        return decoder.decode(data)
    except MemoryError:
        raise ResultError(f"{name}: larger than this machine's memory allows") from None
    except msgspec.ValidationError as error:  # "what - at `$.place`"
        what, _, place = str(error).partition(" - at `")
        parts = (name, cut(place.rstrip("`"), 100), cut(what, 200))
        raise ResultError(": ".join(filter(None, parts))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ResultError(f"{name}: {_not_json(data, error)}") from None


def encode(result: Result) -> bytes:
    """Return the file's content: UTF-8, indented, a series' values on one line.

    Raises ResultError as `decode`, so that no file is written that could not be read.
    """
    name = result.name or "result"
    check(result, name)
    try:
        encoded = msgspec.json.encode({"schema": SCHEMA, **msgspec.to_builtins(result)})
    except (TypeError, ValueError) as error:  # a string from outside that is no Unicode
        raise ResultError(f"{name}: {error}") from None
    decode(encoded, name)

    def one_line(found: re.Match[bytes]) -> bytes:
        return b"[" + re.sub(rb",\s+", b", ", found[1]) + b"]"

    text = msgspec.json.format(encoded, indent=1)
    # A line break is in no JSON string, so this meets arrays of numbers only.
    return re.sub(rb"\[\n\s+([-+.\deE]+(?:,\s+[-+.\deE]+)*)\n\s*\]", one_line, text) + b"\n"


def builtins(result: Result, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the content of a result's file as dicts and lists, with a table's `rows` in it.

    Raises ResultError as `encode`.
    """
    encode(result)
    content: dict[str, Any] = msgspec.to_builtins(result)
    return {"schema": SCHEMA} | content | {"rows": rows}


def utf8(data: bytes, name: str, *, part: bool = False) -> bytes:
    """Return text in UTF-8 without a byte order mark, whatever its Unicode encoding.

    A `part` may end within a character. Raises ResultError for damaged text, and for a compressed
    file.
    """
    for magic, program in _PACKED.items():
        if data.startswith(magic):
            raise ResultError(f"{name}: is compressed with {program}: unpack it")
    marked = (encoding for mark, encoding in _MARKS.items() if data.startswith(mark))
    bare = (encoding for start, encoding in _BARE.items() if start.match(data))
    encoding = next(marked, None) or next(bare, "utf-8")
    if encoding == "utf-8":
        return data.removeprefix(codecs.BOM_UTF8)
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(data, final=not part)
        return text.removeprefix("\ufeff").encode()
    except UnicodeError:
        raise ResultError(f"{name}: damaged {encoding.upper()}") from None


def check_growth(taken: float, size: int, name: str) -> None:
    """Raise ResultError where a file of `size` bytes would take too many bytes of memory."""
    if taken > (most := FLOOR + GROWTH * size):
        raise ResultError(
            f"{name}: too many runs, rows or other entries for {size:,} bytes: reading them would "
            f"take over {most / 1e6:.0f} MB of memory"
        )


def read_bytes(path: str | Path) -> bytes:
    """Return a file's content. Raises ResultError where memory cannot hold it, and OSError."""
    return read_bounded(path, min(LARGEST, memory_left() / GROWTH), ResultError)


def read(path: str | Path) -> Result:
    """Return the result in a file of this format. Raises ResultError as `decode`, and OSError."""
    return decode(read_bytes(path), str(path))


def write(path: str | Path, result: Result, *, over_measured: bool = True) -> None:
    """Make a file of `result`, whole or not at all; another process that appends to it waits.

    Raises ResultError as `encode`, and where the file holds measured runs unless `over_measured`;
    OSError.
    """
    with locked(path):
        if not over_measured and Path(path).exists() and is_measured(read(path)):
            raise ResultError(f"{path} holds measured runs by now")
        replace_file(path, encode(result))


def is_measured(result: Result) -> bool:
    """Return whether any of the runs was measured."""
    return any(series.kind == "noisy" for _, _, series in result.series())


def append(path: str | Path, result: Result) -> None:
    """Add the runs of `result` to the file, or make the file.

    Another process that appends waits; a kill leaves the old file or the whole new one. Raises
    ResultError where the file is no result, or one of other engines, and OSError.
    """
    with locked(path):
        if Path(path).exists():
            old = read(path)
            check_engines(path, old, engines(result))
            result = merge(old, result)
        replace_file(path, encode(result))


def engines(result: Result) -> set[str]:
    """Return the engines that the runs name."""
    return {run.engine for _, run in result.runs() if run.engine}


def check_engines(path: str | Path, old: Result, new: Set[str]) -> None:
    """Raise ResultError where runs of the engines `new` cannot be added to the file's.

    A comparison can use no file that holds both simulated and measured runs.
    """
    if new and (others := engines(old) - new):
        raise ResultError(
            f"{path} holds runs of {', '.join(sorted(others))}, and these are of "
            f"{', '.join(sorted(new))}: choose another NAME"
        )


def merge(old: Result, new: Result) -> Result:
    """Return `old` with the runs of `new` after its own; runs of one boot stay together.

    Pairs of runs stay apart: those of `new` get the next numbers of their boot.

    Raises ResultError where the two do not agree on a series' unit, kind or direction.
    """
    boots = list(old.boots)
    for boot in _other_pairs(old.boots, new.boots):
        last = boots[-1]
        if boot.id and all(
            getattr(last, what) == getattr(boot, what) for what in ("id", "block", "labels", "host")
        ):
            boots[-1] = msgspec.structs.replace(last, runs=[*last.runs, *boot.runs])
        else:
            boots.append(boot)
    order: Literal["time", "lost"] = "lost" if "lost" in (old.order, new.order) else "time"
    stopping: Stopping = "decided" if "decided" in (old.stopping, new.stopping) else "size"
    notes = list(dict.fromkeys((*old.notes, *new.notes)))
    merged = msgspec.structs.replace(
        old, boots=boots, order=order, stopping=stopping, notes=notes, rows=[]
    )
    check(merged, old.name or "result")
    return merged


def _other_pairs(old: Sequence[Boot], new: Sequence[Boot]) -> Iterator[Boot]:
    """Yield the new boots; their runs' blocks go on after those that the same boot has already."""
    for boot in new:
        past = max(
            (run.block or 0 for known in old if known.id == boot.id for run in known.runs),
            default=0,
        )
        runs = [
            msgspec.structs.replace(run, block=run.block + past) if past and run.block else run
            for run in boot.runs
        ]
        yield msgspec.structs.replace(boot, runs=runs)


def json_schema(kind: Any = Result, name: str = SCHEMA) -> bytes:
    """Return the JSON Schema (draft 2020-12) of a document whose `schema` is `name`, indented.

    `kind` is the document's type, a struct or typed dict.
    """
    schema = msgspec.json.schema(kind)
    top = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    top["properties"]["schema"] = {"const": name}
    top["required"] = list(dict.fromkeys(("schema", *top.get("required", ()))))
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": name}
    return msgspec.json.format(msgspec.json.encode(head | schema), indent=2) + b"\n"


SCHEMAS = {"result": Result}
"""The JSON document of this module by kind."""


def check(result: Result, name: str) -> None:
    """Raise ResultError for errors that types cannot express.

    They are: a number that is not finite or out of range, a name that is too long, a series twice
    in one run, and a series with another unit, kind or direction than in an earlier run.
    """
    known: dict[tuple[str, str], tuple[str, str, str]] = {}
    for b, boot in enumerate(result.boots):
        for key_, value_ in boot.labels.items():
            if max(len(key_), len(value_)) > LONGEST:
                place = f"{name}: $.boots[{b}].labels"
                raise ResultError(f"{place}: {brief(key_ + value_)} has over {LONGEST} characters")
        for r, run in enumerate(boot.runs):
            seen = set()
            for s, series in enumerate(run.series):
                place = f"{name}: $.boots[{b}].runs[{r}].series[{s}]"
                key = (series.workload, series.configuration)
                said = " ".join(map(_short, filter(None, key)))
                if key in seen:
                    raise ResultError(f"{place}: {said} is in this run already")
                seen.add(key)
                what = (series.unit, series.kind, series.better)
                if (before := known.get(key)) is None:
                    known[key] = what
                    for words in (*key, series.unit):
                        if len(words) > LONGEST:
                            long = f"{brief(words)} has over {LONGEST} characters"
                            raise ResultError(f"{place}: {long}")
                elif before != what:
                    now, then = (", ".join(map(_short, words)) for words in (what, before))
                    raise ResultError(
                        f"{place}: {said} is in {now}, where an earlier run has {then}"
                    )
                for where, value in _numbers(series):
                    most = LARGEST_INTEGER if isinstance(value, int) else GREATEST
                    if not (SMALLEST <= abs(value) <= most or value == 0):
                        raise ResultError(f"{place}.{where}: {_out_of_range(value)}")


def _short(words: str) -> str:
    return words if len(words) < 60 else brief(words)


def _out_of_range(value: Number) -> str:
    if not abs(value) <= float_info.max:  # an integer may be larger, too
        return "not a finite number"
    return f"a number must be 0 or of {SMALLEST:g} to {GREATEST:g}, an integer below 2**80"


def _numbers(series: Series) -> Iterator[tuple[str, Number]]:
    """Yield every number of a series with its place."""
    for v, value in enumerate(series.values):
        yield f"values[{v}]", value
    for name, value in series.counts.items():
        yield f"counts[{brief(name)}]", value
    for name in ("quantum", "reloads"):
        if (value := getattr(series, name)) is not None:
            yield name, value


def _other_schema(schema: object) -> str:
    words = schema if isinstance(schema, str) else ""
    found = re.fullmatch(rf"{re.escape(FAMILY)}/(\d{{1,9}})", words)
    if found and int(found[1]) > VERSION:
        return f"{schema} is newer than this kvmbench, which reads {SCHEMA}: upgrade it"
    what = "no schema" if schema is None else f"schema {brief(schema)}"
    return f"$.schema: {what}, expected {SCHEMA!r}"


def _not_json(data: bytes, error: Exception) -> str:
    if not data.strip():
        return "is empty, expected JSON"
    if "truncated" in str(error):
        return "ends in the middle of the JSON: cut off?"
    found = re.search(r"\(byte (\d+)\)", str(error))
    if not found:
        return f"not JSON: {error}"
    at = int(found[1])
    if at >= len(data.rstrip()):
        return "ends in the middle of the JSON: cut off?"
    line = data.count(b"\n", 0, at) + 1
    column = at - data.rfind(b"\n", 0, at)
    if re.match(rb"[-+]?(nan|inf)", data[at : at + 9].lstrip(b"-+ "), re.IGNORECASE):
        return f"line {line}, column {column}: a number must be finite"
    return f"line {line}, column {column}: not JSON"
