"""What x86/vmexit and arm64's micro-bench of kvm-unit-tests print: logs, and as people post it.

A row is `NAME CYCLES`: the time-stamp counter's cycles per iteration, averaged over at least
2**30 cycles and cut to an integer, so each row is one value of one run. `  ipi NAME n` and
`  eoi NAME n` below it are the parts of an iteration that sent the interrupt and ended it; they
become the row's `counts`. Rows of micro-bench are its averages in ns. Known rows may have a colon,
a unit, a time stamp, quotation marks, and several figures: `before -> after`, or a table's columns.
(x86/vmexit.c and arm/micro-bench.c at gitlab.com/kvm-unit-tests/kvm-unit-tests.)

A run ends where a row comes again, so the logs of one run_tests.sh, one virtual machine per test,
are one run. Headings `Before:` and `After:` (Linux commit b7ffc44d5b2e), and any two headings above
the same rows, name the configurations and part the boots. Lines of `sort | uniq -c`, `COUNT NAME
CYCLES`, are COUNT runs, whose order is lost. A note lists lines with a row's name in another form;
the reader ignores other text.
"""

from __future__ import annotations

import io
import itertools
import re
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sized
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from kvmbench.errors import ResultError, brief
from kvmbench.formats.rows import PER_SERIES
from kvmbench.results import Boot, Result, Run, Series, check_growth
from kvmbench.workloads import BUILT_IN, LIVE_ONLY

__all__ = ["NAMES", "REMINDS", "decode", "nothing"]

NAMES = frozenset(name for w in (*BUILT_IN, *LIVE_ONLY) for name in w.vmexit_rows)
"""The tests of vmexit.c from 2012 to 2025, under all names that they had."""

TESTS = {
    "inl_pmtimer": "inl_from_pmtimer",
    "cr0_wp": "toggle_cr0_wp",
    "cr4_pge": "toggle_cr4_pge",
}
"""The tests that x86/unittests.cfg names, after `vmexit_`, in other words than vmexit.c."""

_REASON = re.compile(
    r"npf|hlt|io(io)?|v?intr|interrupts?|nmi|pause|shutdown|xsetbv|invlpg|rdpmc|rdtscp?|smi|mwait"
    r"|monitor|vmmcall|(rd|wr)?msr|(cr|dr|apic)_access|msr_(read|write)|(read|write)_cr\d"
    r"|io_instruction|ept_(violation|misconfig)|\w*_interrupt|interrupt_window|preemption_timer"
    r"|apic_write|eoi_induced|exception_nmi|avic_\w+"
)
"""Exit reasons, in lower case, that no test of vmexit.c is named after."""

UNITS = {"cycles": r"cycles?(?:/\w+)?|cyc|clocks?|ticks?", "ns": r"ns(?:/\w+)?|nsecs?",
         "us": "[uµμ]s|usecs?", "ms": "ms|msecs?", "seconds": "s|secs?|seconds?"}  # fmt: skip
"""The unit of a series, and the words after a figure that mean it."""

MOST_RUNS = 100_000  # a COUNT beyond it is a mistake, not a measurement
PER_OTHER = 400  # bytes of memory that a heading or a command line takes, at most
LONGEST_LINE = 300  # characters of a row with its heading or time stamp

NO_EXIT_COSTS = (
    "QEMU ran this without KVM (TCG): the figure is one of its emulator, no cost of a VM exit"
)
PASSED = "passed over, since their form is not known"
REPEATED = "rows repeat, which is taken for another run, after"
GLUED = "{} digits stand before its name, the first {}: self-IPIs not delivered exactly once"
NEGATIVE = "negative as printed: the time-stamp counter went back, or the figure overflowed an int"

_KNOWN = "|".join(sorted(map(re.escape, NAMES), key=len, reverse=True))
REMINDS = re.compile(rf"(?<![\w-])\d*(?:{_KNOWN})(?![\w-])|vmexit|\bname\s+total\s+ns".encode())
"""A pattern that any text of this format matches."""

# Colours, whose escape itself is often lost in a mail, and characters that some consoles add.
_NOISE = re.compile(r"\x1b?\[\d*+(?:;\d++)*+m|[\x00-\x08\x0e-\x1f\x7f\u200b\ufeff]")
# Quotation marks, bullets and time stamps: of dmesg, of printk's levels, ISO 8601, syslog.
_STAMP = (
    r"\[\s*\d+\.\d+\](?:\[\s*[TC]\d+\])?|\[[^\]]*\d\d:\d\d:\d\d[^\]]*\]|\d+\.\d{3,}"
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|\s?[-+]\d\d:?\d\d)?"
    r"|\d\d:\d\d:\d\d(?:[.,]\d+)?|[A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d \S+ [^\s:]+:"
)
_PREFIX = re.compile(rf"(?:\s*>)*(?P<stamp>(?:\s*(?:<\d+>)?(?:{_STAMP})(?=\s))*)")
# A self-IPI that was not delivered once prints how often it was, before its row and without an
# end of line, per iteration; pci-mem and pci-io follow the name of QEMU's device and a colon.
_NAME = r"(?P<glued>\d*+)(?P<name>(?:[\w.+-]+:)?[A-Za-z_][\w+-]*+)"
_FIGURE = r"(?P<figure>-?\d{1,15}(?:\.\d{1,6})?)"
_ROW = re.compile(rf"\s*(?:(?P<count>\d++)\s+)?{_NAME}\s+{_FIGURE}(?:\s+\((?P<remark>.*)\))?\s*")
_PART = re.compile(rf"\s*(?P<part>ipi|eoi)\s+(?P<name>\S++)\s+{_FIGURE}\s*")
_SKIP = re.compile(
    rf"\s*(?:{_NAME} \(skipped\)|SKIP\s+vmexit_(?P<test>\S++)\s*(?:\((?P<reason>.*)\))?)\s*"
)
_POSTED = re.compile(
    rf"[\s|*•`-]*(?P<glued>\d*+)(?P<name>(?:[\w.+-]+:)?(?:{_KNOWN}))(?![\w+-])[*`]*"
    r"(?P<variant>\s+\([^)]*\))?\s*(?P<sign>[:=,|]?)(?P<rest>.*)"
)
_CELL = re.compile(
    r"\s*(?:[|;,/]|(?P<arrow>-+>|=+>|→|\bto\b|\bvs\.?))?\s*(?:"
    r"(?P<remark>\([^)]*\)|(?:±|\+/?-)\s*[\d.]+\s?%?)|(?P<figure>[-+]?(?:\d{1,3}(?:,\d{3})+|\d{1,15})(?:\.\d{1,6})?)"
    r"(?:\s?(?P<percent>%)|\s*(?P<unit>" + "|".join(UNITS.values()) + r")(?![\w%])|(?![\w.%])))\s*"
)
_MICRO = re.compile(r"\s*name\s+total\s+ns\s+avg(?:\s+ns)?\s*")
_MICRO_ROW = re.compile(
    r"\s*(?:(?P<name>[A-Za-z]\w*)\s+\d+(?:\.\d+)?(?:\s+(?P<average>\d+(?:\.\d+)?))?"
    r"|(?P<wrapped>\d+(?:\.\d+)?))\s*"
)
_DIGIT = re.compile(r"\d")
_SEPARATOR = re.compile(r"[\s|:+=*~_`-]*")
_BEFORE_AFTER = re.compile(
    r"(?P<which>(?:\S.{0,60}\s)?(?:before|after))(?:\s+(?:the\s+)?patch(?:es)?)?", re.IGNORECASE
)
_DIFFERENCE = re.compile(r".*(?:diff|delta|change|ratio|gain|speedup|%).*", re.I)
_KERNEL = re.compile(r"-kernel\s+(\S+)|\brun\s+((?:x86|arm)/\S+\.(?:flat|efi))")
_NO_KVM = re.compile(
    r"-accel[= ]tcg\b|accel=tcg\b|\bACCEL=tcg\b|TCG doesn't support requested feature"
    r"|falling back to tcg|back to tcg accelerator",
    re.IGNORECASE,
)


def decode(data: bytes, name: str) -> Result:
    """Return the result in a text of rows.

    Raises ResultError where no row is found, where the rows are counts of exit reasons, or where
    the COUNTs are beyond MOST_RUNS.
    """
    text = data.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    reader = _Reader()
    for number, line in enumerate(io.StringIO(_NOISE.sub("", text), "\n"), 1):
        try:
            reader.read(line.rstrip("\n"), number)
        except ResultError as error:
            raise ResultError(f"{name}: line {number}: {error}") from None
        others = len(reader.headings) + len(reader.commands)
        check_growth(PER_SERIES * len(reader.lines) + PER_OTHER * others, len(data), name)
    reasons = sorted({row.name for row in reader.lines if _REASON.fullmatch(row.name)})
    if reasons and not reader.log and not any(heading.strong for heading in reader.headings[1:]):
        raise ResultError(
            f"{name}: {', '.join(reasons[:3])} are exit reasons: the figures look like counts of "
            "exits, not cycles of kvm-unit-tests' vmexit"
        )
    boots = list(reader.boots())
    if not boots or not reader.sure:
        raise ResultError(f"{name}: {nothing(data)}")
    notes = [NO_EXIT_COSTS] if reader.without_kvm else []
    return Result(
        order="lost" if reader.counted else "time",
        notes=[*notes, *(f"{words}: {'; '.join(lines)}" for words, lines in reader.notes.items())],
        boots=boots,
    )


_Cell = tuple[str, str, str]  # configuration, figure, unit


class _Heading(NamedTuple):
    """A line above rows: `strong` where it says before or after."""

    text: str
    strong: bool


@dataclass(slots=True)
class _Line:
    """A row or a skipped test, as it was read; the indexes are of the lines above it."""

    name: str
    series: Series | None  # None where the test was skipped
    heading: int
    machine: int = 0
    count: int | None = None  # of uniq -c
    above: tuple[int, str] | None = None  # the line of text above a row, with its number
    reason: str = ""  # of a skip


@dataclass(slots=True)
class _Reader:
    """The state of the reading of a text."""

    headings: list[_Heading] = field(default_factory=lambda: [_Heading("", True)])
    lines: list[_Line] = field(default_factory=list)
    commands: list[list[str]] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)  # the first lines of each kind
    pending: str = ""  # a line that is a heading if a row follows
    header: str = ""  # the first line of a table
    above: tuple[int, str] | None = None  # the line of text above, with its number
    blank: bool = True  # the line above is blank
    micro: str | None = None  # in micro-bench's table: the name of a row that was wrapped
    ours: bool = True  # the lines are of vmexit, not of another test
    sure: bool = False  # a line has shown output of kvm-unit-tests
    log: bool = False  # with the command lines of virtual machines
    tcg: bool = False  # the virtual machine at hand runs without KVM
    without_kvm: bool = False  # so does one of them
    counted: int = 0  # runs that lines of uniq -c stand for

    def read(self, line: str, number: int) -> None:
        if ("tcg" in line or "TCG" in line) and _NO_KVM.search(line):
            self.tcg = True
        if ("-kernel" in line or "run " in line) and (found := _KERNEL.search(line)):
            self._machine(line, found[1] or found[2])
        elif len(line) <= LONGEST_LINE and (found := _PREFIX.match(line)):
            plain = line[found.end() :]
            blank = bool(_SEPARATOR.fullmatch(plain))
            stamped = bool(found["stamp"])
            if not (blank or (self.ours and self._figures(plain, number, stamped))):
                self._text(plain.strip(), number)
            self.blank = blank

    def _figures(self, line: str, number: int, stamped: bool) -> bool:
        """Read a line with figures, or of a test that was skipped; return whether it is one."""
        if self.micro is not None and self._micro_row(line):
            return True
        if self.micro is None and "total" in line and _MICRO.fullmatch(line):
            self.micro, self.sure = "", True
        elif ("skipped" in line or "SKIP" in line) and (found := _SKIP.fullmatch(line)):
            test, heading = found["test"], len(self.headings) - 1
            reason = "skipped by run_tests.sh" if test else "skipped by vmexit"
            name = TESTS.get(test, test) if test else found["name"]
            self.lines.append(_Line(name, None, heading, reason=found["reason"] or reason))
        elif not _DIGIT.search(line):
            return False
        elif found := _PART.fullmatch(line):
            above = (row.series for row in self.lines[:-41:-1] if row.name == found["name"])
            if not (series := next(filter(None, above), None)):
                return False
            series.counts[found["part"]] = _number(found["figure"])
        elif found := _ROW.fullmatch(line):
            if stamped and found["name"].split(":")[-1] not in NAMES:  # a message of the kernel?
                self._note(PASSED, number, line)
                return False
            cells = [("", found["figure"], "cycles")]
            self._row(found["name"], cells, found["remark"], found["glued"], found["count"])
        elif found := _POSTED.fullmatch(line):
            rest = found["rest"]
            cells, remark = self._cells(rest.replace(",", ";") if found["sign"] == "," else rest)
            if not cells:
                if _DIGIT.search(rest):
                    self._note(PASSED, number, line)
                return False
            self._row(found["name"] + (found["variant"] or ""), cells, remark, found["glued"])
        else:
            return False
        return True

    def _text(self, line: str, number: int) -> None:
        """Read a line that is no row: a heading, or the first line of a table, or neither."""
        if self.micro is not None and line == "ns":  # of micro-bench's heading, wrapped
            return
        self.micro, self.header, self.above = None, line, (number, line)
        if not line.endswith(":") and re.search(r"\||\t|\S\s\s+\S", line):  # a table's first line
            return
        marked = line.endswith(":") or line.startswith(("#", "**", "=="))
        words = " ".join(line.strip("#*=:_ ").split())
        few = marked or (self.blank and len(words.split()) <= 8)
        self.pending = words if few and not self.log and len(words) <= 80 else ""
        if few and (found := _BEFORE_AFTER.fullmatch(words)):
            self.headings.append(_Heading(" ".join(found["which"].split()).lower(), True))
            self.pending = ""

    def _micro_row(self, line: str) -> bool:
        found = _MICRO_ROW.fullmatch(line)
        if not found or (found["wrapped"] and not self.micro):
            return False
        name, average = found["name"] or self.micro or "", found["average"] or found["wrapped"]
        self.micro = "" if average else name
        if average:
            self._row(name, [("", average, "ns")])
        return True

    def _machine(self, line: str, kernel: str) -> None:
        """A virtual machine starts."""
        self.tcg = bool(_NO_KVM.search(line))
        mine = "vmexit" in kernel or "micro-bench" in kernel
        self.ours = mine or not kernel.endswith((".flat", ".efi"))
        self.log = True
        if self.ours:
            self.sure = self.sure or mine
            self.commands.append(_words(line))

    def _cells(self, rest: str) -> tuple[list[_Cell], str | None]:
        """Return the cells after a row's name, none where it is another text, and a remark."""
        found, remark, at, arrow = [], None, 0, False
        rest = rest.rstrip(" \t|*`;")
        while at < len(rest):
            cell = _CELL.match(rest, at)
            if not cell:
                return [], None
            at, arrow = cell.end(), arrow or bool(cell["arrow"])
            if cell["figure"]:
                found.append(cell)
            elif "%" not in cell["remark"]:
                remark = cell["remark"].strip("()")
        plain = [cell for cell in found if not cell["percent"]]
        labels, labelled = [""], plain
        if arrow and len(plain) == 2:
            labels = ["before", "after"]
        elif len(plain) != 1:
            labels = self._labels(found) or self._labels(plain)
            labelled = found if len(labels) == len(found) else plain
        if len(labels) != len(labelled):
            return [], None
        return [
            (label, cell["figure"].replace(",", ""), _unit(cell["unit"] or "cycles"))
            for label, cell in zip(labels, labelled, strict=True)
            if not cell["percent"] and not _DIFFERENCE.fullmatch(label)
        ], remark

    def _labels(self, cells: Sized) -> list[str]:
        """Return as many headings of a table's last columns; none where the table has others."""
        for pattern in (r"\s*\|\s*", r"\t+|\s{2,}", r"\s+"):
            labels = [label.strip("*`# ") for label in re.split(pattern, self.header.strip("| \t"))]
            if 1 < len(cells) <= len(labels) <= len(cells) + 1:
                return labels[-len(cells) :]
        return []

    def _row(
        self, name: str, cells: list[_Cell], remark: str | None = None, glued: str = "",
        count: str | None = None,
    ) -> None:  # fmt: skip
        """Keep a row's cells; `count` is how often uniq -c saw it."""
        self.sure = self.sure or name.split()[0].split(":")[-1] in NAMES
        self.without_kvm = self.without_kvm or self.tcg
        if self.pending:
            self.headings.append(_Heading(self.pending, False))
        if count is not None:
            self.counted += int(count[:9])
            if self.counted > MOST_RUNS or len(count) > 9:
                raise ResultError(f"{count[:12]} runs of {name}: more than {MOST_RUNS}")
        times = None if count is None else int(count)
        for configuration, figure, unit in cells:
            marks = [remark] if remark else []
            marks += [GLUED.format(len(glued), glued[:8])] if glued else []
            marks += [NEGATIVE] if figure.startswith("-") else []
            marks += [NO_EXIT_COSTS] if self.tcg else []
            series = Series(
                workload=name,
                configuration=configuration,
                unit=unit,
                kind="noisy",
                values=[_number(figure)],
                quantum=None if "." in figure else 1.0,
                marks=marks,
            )
            place = (len(self.headings) - 1, len(self.commands), times, self.above)
            self.lines.append(_Line(name, series, *place))
            self.above = None
        self.pending = ""

    def _note(self, words: str, number: int, line: str) -> None:
        """Keep the first three lines for a note."""
        lines = self.notes.setdefault(words, [])
        if len(lines) < 4:
            more = f"line {number}, {brief(line.strip())}"
            lines.append(more if len(lines) < 3 else "and more")

    def _chosen(self) -> list[int]:
        """Return for each heading the index of the one whose text names its configuration.

        A heading names one if it says before or after, or if a row below it stands below another
        text, too; else it is the heading of a section.
        """
        rows = {((at.name, at.series.configuration), at.heading) for at in self.lines if at.series}
        every = range(len(self.headings))
        keep = set(every)
        nearest: list[int] = []
        for _ in range(4):  # each time, the sections of one more level are left out
            nearest = []
            for number in every:
                nearest.append(number if number in keep else nearest[-1])
            texts = defaultdict(set)
            for key, heading in rows:
                texts[key].add(self.headings[nearest[heading]].text)
            parting = {nearest[heading] for key, heading in rows if len(texts[key]) > 1}
            weak = {nearest[heading] for _, heading in rows} - parting
            keep -= {number for number in weak if not self.headings[number].strong}
        return nearest

    def boots(self) -> Iterator[Boot]:
        """Yield a boot per heading that names a configuration, with its runs."""
        chosen = self._chosen()
        for heading, lines in itertools.groupby(self.lines, lambda line: chosen[line.heading]):
            if runs := list(self._runs(lines, self.headings[heading].text)):
                yield Boot(runs=runs)

    def _runs(self, lines: Iterable[_Line], text: str) -> Iterator[Run]:
        """Yield the runs of a heading's lines: a row that comes again begins another one."""
        rows: dict[tuple[str, str], _Line] = {}
        skipped: dict[str, str] = {}
        for line in lines:
            series = line.series
            configuration = " ".join(filter(None, (text, series.configuration if series else "")))
            if series and configuration != series.configuration:
                line.series = series = replace(series, configuration=configuration)
            if series and line.count is not None:
                yield from [self._run([line], {})] * line.count
                continue
            if (line.name, configuration) in rows or line.name in skipped:
                if series and line.above and not self.log:
                    self._note(REPEATED, *line.above)
                if rows:
                    yield self._run(rows.values(), skipped)
                rows, skipped = {}, {}
            if series:
                rows[line.name, configuration] = line
            else:
                skipped[line.name] = line.reason
        if rows:
            yield self._run(rows.values(), skipped)

    def _run(self, lines: Collection[_Line], skipped: dict[str, str]) -> Run:
        machine, *others = {line.machine for line in lines}
        return Run(
            engine="kvm-unit-tests",
            command=self.commands[machine - 1] if machine and not others else [],
            series=[line.series for line in lines if line.series],
            skipped=skipped,
        )


def _unit(words: str) -> str:
    return next(unit for unit, known in UNITS.items() if re.fullmatch(known, words))


def _number(figure: str) -> int | float:
    return float(figure) if "." in figure else int(figure)


def _words(line: str) -> list[str]:
    """Return a command line's words, without the comment that run_tests.sh puts at its end."""
    line = line.partition(" #")[0]
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def nothing(data: bytes) -> str:
    """Return the message for text without a row: it names the nearest form that was seen."""
    text = _NOISE.sub("", data[: 1 << 20].decode(errors="replace"))
    lines = [line.strip()[:LONGEST_LINE] for line in text.split("\n") if line.strip()]
    if any(re.match(r"(?:PASS|FAIL)\s+vmexit_", line) for line in lines):
        return "no figure: run_tests.sh prints verdicts only, the cycles are in logs/vmexit_*.log"
    named = re.compile(rf"(?<![\w-])(?:{_KNOWN})(?![\w-])")
    for line in lines:
        if named.search(line) and re.search(r"\d", line):
            return f"{brief(line)} names a test of vmexit, but a row is such as `cpuid 1313`"
    begins = f" (it begins {brief(lines[0])})" if lines else ""
    return (
        f"of no known format{begins}: neither JSON, CSV, Go benchmark text nor rows of "
        "kvm-unit-tests' vmexit, such as `cpuid 1313`"
    )
