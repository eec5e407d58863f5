"""What x86/vmexit and arm64's micro-bench of kvm-unit-tests print: logs, and as people post it.

A row is `NAME CYCLES`: the time-stamp counter's cycles per iteration, averaged over at least
2**30 cycles and cut to an integer, so each row is one value of one run. `  ipi NAME n` and
`  eoi NAME n` below it are the parts of an iteration that sent the interrupt and ended it; they
become the row's `counts`. Rows of micro-bench are its averages in ns. Known rows may have a colon,
a unit, a time stamp, quotation marks, and several figures: `before -> after`, or a table's columns.
(x86/vmexit.c and arm/micro-bench.c at gitlab.com/kvm-unit-tests/kvm-unit-tests.)

A run ends where a row comes again, so the logs of one run_tests.sh, one virtual machine per test,
are one run. Headings `Before:` and `After:` (Linux commit b7ffc44d5b2e), and any two headings above
the same rows, name the configurations and part the boots, with the heading above them where several
have them below. Lines of `sort | uniq -c`, `COUNT NAME CYCLES`, are COUNT runs, whose order is
lost. A unit stands after the figure, or in the column's label, or in that of the names, or in a
heading above. Exit reasons, diffs and figures with two readings are refused; a note lists lines
with a row's name in another form, and columns that hold no cost. The reader ignores other text.
"""

from __future__ import annotations

import io
import itertools
import re
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from kvmbench.errors import ResultError, brief
from kvmbench.formats import posted
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

_REASON = (
    r"npf|hlt|io(?:io)?|v?intr|interrupts?|nmi|pause|shutdown|xsetbv|invlpga?|invpcid|rdpmc|rdtscp?"
    r"|smi|mwait|monitor|vmmcall|(?:rd|wr)?msr|(?:cr|dr|apic)_access|msr_(?:read|write)"
    r"|(?:read|write)_[cd]r\d|ept_(?:violation|misconfig)|preemption_timer|task_switch|apic_write"
    r"|\w+_(?:interrupt|instruction|fault|full|threshold)|interrupt_window|eoi_induced|exception_nmi"
    r"|avic_\w+|vm(?:read|write|resume)"
)
"""Exit reasons, in lower case, that no test of vmexit.c is named after."""

MOST_RUNS = 100_000  # a COUNT beyond it is a mistake, not a measurement
PER_OTHER = 400  # bytes of memory that a heading or a command line takes, at most
LONGEST_LINE = 300  # characters of a row with its heading or time stamp

NO_EXIT_COSTS = (
    "QEMU ran this without KVM (TCG): the figure is one of its emulator, no cost of a VM exit"
)
PASSED = "passed over, since their form is not known"
TOO_LONG = f"passed over, since over {LONGEST_LINE} characters long"
NO_LABELS = "passed over, since no line above names as many columns"
NO_COST = "passed over, since they look like counts or rates, not like a cost per iteration"
REFUSALS = (TOO_LONG, NO_LABELS, NO_COST)
LEFT_OUT = "columns left out, since they hold differences, spreads or counts"
UNIT_BELOW = "taken for the unit of the rows below"
BARE = "rows without a unit, between others with one, are taken for cycles"
OTHER_NAMES = "rows whose names are of no known test of vmexit"
COUNTED = "the numbers before the names are taken for counts of uniq -c, though they rise"
NUMBERED = "the numbers before the names rise by one: numbers of lines, not counts of uniq -c"
REPEATED = "rows repeat, which is taken for another run, after"
AGAIN = "headings come again, which is taken for another boot"
GLUED = "{} digits stand before its name, the first {}: self-IPIs not delivered exactly once"
NEGATIVE = "negative as printed: the time-stamp counter went back, or the figure overflowed an int"

_KNOWN = "|".join(sorted(map(re.escape, NAMES), key=len, reverse=True))
_SPELLED = _KNOWN.replace("_", "[_ -]")  # in prose
REMINDS = re.compile(
    rf"(?:(?<![\w-])|\x1b\[[0-?]*[A-Za-z])\d*(?:{_KNOWN})(?![\w-])|vmexit|\bname[\s|]+total\s+ns".encode()
)
"""A pattern that any text of this format matches."""

# Colours, whose escape itself is often lost in a mail, and characters that show nothing.
_NOISE = re.compile(r"\x1b\[[\d;]*+m|\[(?:\d++(?:;\d++)*+m|m(?!\w))|[\x00\u200b\ufeff]")
# Other commands to a terminal, which may move what follows them.
_TERMINAL = re.compile(
    r"\x1b(?:\[[0-?]*+[ -/]*+[@-~]|\][^\x07\x1b\n]*+(?:\x07|\x1b\\)?|[ -/]*+[0-~])"
)
# Quotation marks, bullets and time stamps: of dmesg, of printk's levels, ISO 8601, syslog, epoch.
_STAMP = (
    r"\[\s*\d+\.\d+\](?:\[\s*[TC]\d+\])?|\[[^\]]*\d\d:\d\d:\d\d[^\]]*\]|\d+\.\d{3,}"
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|\s?[-+]\d\d:?\d\d)?|1\d{9}(?:\d{3}){0,3}"
    r"|\d\d:\d\d:\d\d(?:[.,]\d+)?|[A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d \S+ [^\s:]+:"
)
_PREFIX = re.compile(rf"(?:\s*> ?)*(?P<stamp>(?:\s*(?:<\d+>)?(?:{_STAMP})(?=\s))*)")
# A self-IPI that was not delivered once prints how often it was, before its row and without an
# end of line, per iteration; pci-mem and pci-io follow the name of QEMU's device and a colon.
_NAME = r"(?P<glued>\d*+)(?P<name>(?:[\w.+-]+:)?[A-Za-z_][\w+-]*+)"
_ROW = re.compile(
    rf"(?P<mark>[\s|*•`+<!-]*)(?:(?P<count>\d++)(?:(?P<tab>\t)|\s)\s*)?{_NAME}[*`]*(?:\s+\((?P<variant>[^)]*)\))?"
    r"(?P<colon>\s*[:=])? *(?P<by>[,|\t]?)(?P<rest>.*)"
)
_PLAIN = re.compile(r"([a-z]\w*) (\d{1,15})")  # as vmexit prints it
_PART = re.compile(r"\s*(?P<part>ipi|eoi)\s+(?P<name>\S++)\s+(?P<figure>-?\d{1,15})\s*")
_SKIP = re.compile(
    rf"\s*(?:{_NAME} (?:\(skipped\)|test skipped)"
    r"|SKIP\s+vmexit_(?P<test>\S++)\s*(?:\((?P<reason>.*)\))?)\s*"
)
_COUNT = re.compile(
    r"[\s|*•`-]*(?:\d++\s+)?(?P<reason>(?:exit_reason_|vmx_|svm_|exit_)*(?:"
    + _REASON.replace("_", "[_ -]")
    + r"))[*`]*(?:\s*[:=,|]\s*|\s+)\d(?:[\s\d.,%|()+±-]|[uµnm]s\b)*",
    re.I,
)
_NEW_NAME = re.compile(r"(?:[\w.+-]+:)?[a-z_][a-z0-9_+-]*")
# A name with a figure, wherever in a line: in lower case, perhaps with spaces in it.
_NAMED = re.compile(rf"\b(?<!-)(?:{_SPELLED})(?:\s*\([^)]{{0,60}}\))?[\s:=|,*`~<]+\d")
# Forms of 1313 in some languages, which may be other figures.
_THOUSANDS = re.compile(r"[1-9]\d{0,2}\.\d{3}")
_SPACED = re.compile(r"\s*\d{1,2}(?:\s\d{3})+\s*")
_MICRO = re.compile(r"\s*name\s+total\s+ns\s+avg(?:\s+ns)?\s*")
_MICRO_ROW = re.compile(
    r"\s*(?:(?P<name>[A-Za-z]\w*)\s+\d+(?:\.\d+)?(?:\s+(?P<average>\d+(?:\.\d+)?))?"
    r"|(?P<wrapped>\d+(?:\.\d+)?))\s*"
)
_MICRO_WHOLE = re.compile(r"\s*[A-Za-z]\w*(?:\s+\d+\.\d){2}\s*")  # as micro-bench prints it
_FRAMES = {code: "|" if chr(code) in "│┃║" else "-" for code in range(0x2500, 0x2580)}
_FRAME = re.compile("[\u2500-\u257f]")
_MARKUP = {ord(","): "", **dict.fromkeys(map(ord, "|*`"), " ")}
_DIGIT = re.compile(r"\d")
_SEPARATOR = re.compile(r"[\s|:+=*~_`-]*")
_HUNK = re.compile(r"\s*@@+ -\d|(?P<plain>\d+(?:,\d+)?[acd]\d+(?:,\d+)?)$")
_BEFORE_AFTER = re.compile(
    r"(?P<which>(?:\S.{0,60}\s)?(?:before|after))"
    r"(?:\s+(?:applying\s+)?(?:(?:the|this)\s+)?(?:patch(?:es)?|series))?",
    re.IGNORECASE,
)
_ROUND = re.compile(  # a repetition, which parts boots and no configurations
    r"(?:rounds?|runs?|boots?|pass|iterations?|tr(?:y|ial)|attempt|repetition)\W*\d+"
    r"|(?:\d+(?:st|nd|rd|th)|first|second|third) (?:round|run|boot|pass|try)",
    re.IGNORECASE,
)
_BEFORE_AND_AFTER = re.compile(r"\bbefore\b.*\bafter\b", re.I)  # of a table's header
_WIDE = re.compile(r"\||\t|\S\s\s+\S")  # between columns
_FIGURES = re.compile(r"\s*\d[\s\d.,%|()+-]*")  # of a row with an unknown name
_MAIL = re.compile(r"(?:Subject|From|To|Cc|Date|Message-Id):", re.I)
_ABOUT = re.compile(
    r"(?:all\s+)?(?:the\s+)?(?:figures|times|values|numbers|results|units?)\b", re.I
)
_KERNEL = re.compile(r"-kernel\s+(\S+)|\brun\s+((?:x86|arm)/\S+\.(?:flat|efi))")
_PROMPT = re.compile(r"(?:\S+(?: \S+)?)?[$#%] \S")  # of a shell, with a command
_NO_KVM = re.compile(
    r"-accel[= ]tcg\b|accel=tcg\b|\bACCEL=tcg\b|TCG doesn't support requested feature"
    r"|falling back to tcg|back to tcg accelerator",
    re.IGNORECASE,
)


def decode(data: bytes, name: str) -> Result:
    """Return the result in a text of rows.

    Raises ResultError where no row is found, where the rows are of a diff, counts of exit reasons
    or have a point that may part thousands, or where the COUNTs are beyond MOST_RUNS.
    """
    text = data.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    text = _TERMINAL.sub(" ", _NOISE.sub("", text))
    if _FRAME.search(text):
        text = text.translate(_FRAMES)
    reader, number = _Reader(), 0
    for number, line in enumerate(io.StringIO(text, "\n"), 1):
        try:
            reader.read(line.rstrip("\n"), number)
        except ResultError as error:
            raise ResultError(f"{name}: line {number}: {error}") from None
        others = len(reader.headings) + len(reader.commands)
        check_growth(PER_SERIES * len(reader.lines) + PER_OTHER * others, len(data), name)
    try:
        reader.settle(number)
    except ResultError as error:
        raise ResultError(f"{name}: {error}") from None
    boots = list(reader.boots())
    if not boots or not reader.sure:
        why = [f"{reader.notes[words][0]}: {words}" for words in REFUSALS if words in reader.notes]
        raise ResultError(f"{name}: {why[0] if why else nothing(data)}")
    notes = [NO_EXIT_COSTS] if reader.without_kvm else []
    return Result(
        order="lost" if reader.counted else "time",
        notes=[*notes, *(f"{words}: {'; '.join(lines)}" for words, lines in reader.notes.items())],
        boots=boots,
    )


class _Heading(NamedTuple):
    """A line above rows: `strong` where it says before or after, `outer` the heading above it."""

    text: str
    strong: bool
    outer: str = ""
    number: int = 0  # of its line


@dataclass(slots=True)
class _Line:
    """A row or a skipped test, as it was read; the indexes are of the lines above it."""

    name: str
    series: Series | None  # None where the test was skipped
    heading: int
    number: int = 0  # of the line in the text
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
    pending_at: int = 0  # its number
    outer: str = ""  # the last heading that another one followed before any row
    table: posted.Table = field(default_factory=posted.Table)
    unit: str = ""  # of the rows below a heading that names one, or NO_COST
    hunk: str = ""  # in a diff: how its lines begin
    above: tuple[int, str] | None = None  # the line of text above, with its number
    blank: bool = True  # the line above is blank
    micro: str | None = None  # in micro-bench's table: the name of a row that was wrapped
    parted: bool = False  # by an empty line from the table's rows
    ours: bool = True  # the lines are of vmexit, not of another test
    sure: bool = False  # a line has shown output of kvm-unit-tests
    log: bool = False  # with the command lines of virtual machines
    tcg: bool = False  # the virtual machine at hand runs without KVM
    without_kvm: bool = False  # so does one of them
    counted: bool = False  # lines of uniq -c have counts of runs
    reasons: dict[str, bool] = field(default_factory=dict)  # with figures -> after a colon
    colons: set[bool] = field(default_factory=set)  # whether colons follow the tests' names
    shares: list[tuple[float, float]] = field(default_factory=list)  # figure and its percentage
    tabs: bool = False  # one follows the number before a name, as `cat -n` has it
    thousands: str = ""  # the first line whose point may part thousands
    decimal: bool = False  # a point of another line parts decimals
    bare: tuple[int, str] | None = None  # the first row without a unit, with its line's number

    def read(self, line: str, number: int) -> None:
        if (found := _PLAIN.fullmatch(line)) and found[1] in NAMES and self._plain():
            self.colons.add(False)
            if not self.unit:
                self.bare = self.bare or (number, line)
            self._row(found[1], [posted.Figure(found[2], self.unit or "cycles")], number)
            self.blank = False
            return
        if ("tcg" in line or "TCG" in line) and _NO_KVM.search(line):
            self.tcg = True
        if ("-kernel" in line or "run " in line) and (found := _KERNEL.search(line)):
            self._machine(line, found[1] or found[2])
        elif len(line) > LONGEST_LINE:
            if self.ours and _NAMED.search(line.lower()):
                self._note(TOO_LONG, number, line)
        elif found := _PREFIX.match(line):
            plain = line[found.end() :]
            if hunk := _HUNK.match(plain):
                self.hunk = "<>-\\" if hunk["plain"] else " \t+-\\"
            elif self.hunk and (line if "<" in self.hunk else plain)[:1] not in self.hunk:
                self.hunk = ""
            blank = bool(_SEPARATOR.fullmatch(plain))
            stamped = bool(found["stamp"])
            if not (blank or (self.ours and self._figures(plain, number, stamped))):
                self._text(plain.strip(), number)
            self.blank = blank
            if not plain.strip():
                self.table.near = False
                self._wrap_no_more(number)
                self.parted = True

    def _plain(self) -> bool:
        """Return whether no line above can change the reading of a plain row."""
        table = (self.table.header and not self.log) or self.table.units or self.micro is not None
        return self.ours and not (table or self.hunk or self.unit == NO_COST)

    def _figures(self, line: str, number: int, stamped: bool) -> bool:
        """Read a line with figures, or of a test that was skipped; return whether it is one."""
        if self.micro is not None and self._micro_row(line.translate(_MARKUP), number):
            return True
        if "total" in line and _MICRO.fullmatch(line.translate(_MARKUP)):
            self.micro, self.sure, self.table = "", True, posted.Table()
            self.parted = False
        elif ("skipped" in line or "SKIP" in line) and (found := _SKIP.fullmatch(line)):
            test, heading = found["test"], len(self.headings) - 1
            self._wrap_no_more(number)
            program = "vmexit" if self.micro is None else "micro-bench"
            reason = f"skipped by {'run_tests.sh' if test else program}"
            name = TESTS.get(test, test) if test else found["name"]
            self.lines.append(_Line(name, None, heading, reason=found["reason"] or reason))
        elif not _DIGIT.search(line):
            return False
        elif found := _PART.fullmatch(line):
            above = (row.series for row in self.lines[:-41:-1] if row.name == found["name"])
            if not (series := next(filter(None, above), None)):
                return False
            series.counts[found["part"]] = _number(found["figure"])
        elif not (self.log or self.hunk) and (found := _COUNT.fullmatch(line)):
            self.reasons.setdefault(found["reason"], bool(re.search("[:=]", line)))
            self._note(PASSED, number, line)
        elif found := _ROW.fullmatch(line):
            return self._named_row(found, number, stamped)
        else:
            return self._other_form(line, number)
        return True

    def _named_row(self, found: re.Match[str], number: int, stamped: bool) -> bool:
        """Read a line that begins with a name; return whether it is no text."""
        line, name, rest = found[0], found["name"], found["rest"]
        known = name.rpartition(":")[2] in NAMES
        figures = bool(_FIGURES.fullmatch(rest))
        if known:
            self.colons.add(bool(found["colon"]))
        cells = self._cells(found, number) if known or figures else PASSED
        if known and isinstance(cells, str):
            return bool(_DIGIT.search(rest)) and not self.hunk and self._passed(cells, number, line)
        bare = _NEW_NAME.fullmatch(name) and not (found["colon"] or found["mark"].strip(" |"))
        if isinstance(cells, str) or not (
            known or (bare and (cells[0].configuration or "." not in rest))
        ):
            return self._new_form(found, number, cells == NO_LABELS)
        if known and (self.hunk or set(found["mark"]) & set("+<!")):
            raise ResultError(f"{brief(line)} looks like a diff: compare the two files instead")
        if not known:
            self._note(PASSED if stamped else OTHER_NAMES, number, line)
            if stamped:  # a message of the kernel?
                return False
        variant = found["variant"]
        name += f" ({variant})" if variant and not posted.unit_of(variant) else ""
        self.tabs = self.tabs or bool(found["tab"])
        self._row(name, cells, number, found["glued"], found["count"])
        return True

    def _new_form(self, found: re.Match[str], number: int, several: bool) -> bool:
        """Note an unknown name's line, with `several` figures, near rows or below a header."""
        near = not self.log and self.lines and self.lines[-1].number == number - 1
        if near and _NEW_NAME.fullmatch(found["name"]) and any(_columns(found)):
            return self._passed(PASSED, number, found[0])
        header = self.log or posted.is_head(found["name"])
        if several and self.table.near and not header:
            self._note(PASSED, number, found[0])
        return self._other_form(found[0], number)

    def _other_form(self, line: str, number: int) -> bool:
        """Note a line that has a test's name and a figure; return whether it is no text."""
        if self.hunk or not _NAMED.search(line.lower()):
            return False
        return self._passed(PASSED, number, line)

    def _passed(self, words: str, number: int, line: str) -> bool:
        self._note(words, number, line)
        return not line.rstrip().endswith(":")  # a heading?

    def _text(self, line: str, number: int) -> None:
        """Read a line that is no row: a heading, or the first line of a table, or neither."""
        if self.micro is not None and line == "ns":  # of micro-bench's heading, wrapped
            return
        if self.table.add_units(line):
            return
        if line.startswith("Timer Frequency"):  # micro-bench's, whose table has its own unit
            return
        tests = not NAMES.isdisjoint(re.split(r"[\s|*`]+", line))  # in columns
        self._end_micro(number)
        self.table = posted.Table(
            "" if tests or (line[:1] != "|" and posted.is_row(line)) else line
        )
        marked = line.endswith(":") or line.startswith(("#", "**", "=="))
        if marked or not self.log or _PROMPT.match(line):  # a log has text between any two rows
            self.above = (number, line)
        if not line.endswith(":") and _WIDE.search(line):  # a table's first line
            return
        words = " ".join(line.strip("#*=:_<> ").split())
        few = marked or (self.blank and len(words.split()) <= 8)
        if not self.log and (few or _ABOUT.match(words)) and not _MAIL.match(line):
            words = self._unit_above(words, number, line)
        if self.pending:
            self.outer = "" if _ROUND.fullmatch(self.pending) else self.pending
        self.pending, self.pending_at = (words if few and len(words) <= 80 else ""), number
        found = _BEFORE_AFTER.fullmatch(words) if few else None
        if found and not _BEFORE_AND_AFTER.search(words):
            which = " ".join(found["which"].split()).lower()
            self.headings.append(_Heading(which, True, self.outer, number))
            self.pending = ""

    def _unit_above(self, words: str, number: int, line: str) -> str:
        """Keep the unit that a heading gives to the rows below; return its other words."""
        unit = posted.above(words)
        if unit is None:
            self.unit = NO_COST
        elif unit or (self.unit == NO_COST and not _BEFORE_AFTER.fullmatch(words)):
            self.unit = unit
        if unit and unit != "cycles":
            self._note(UNIT_BELOW, number, line)
        return posted.split(words)[0] or words if unit else words

    def _micro_row(self, line: str, number: int) -> bool:
        found = _MICRO_ROW.fullmatch(line)
        if not found or (found["wrapped"] and not self.micro):
            return False
        if self.parted and not _MICRO_WHOLE.fullmatch(line):
            return False
        if found["name"]:
            self._wrap_no_more(number)
        name, average = found["name"] or self.micro or "", found["average"] or found["wrapped"]
        self.micro = "" if average else name
        if average:
            self._row(name, [posted.Figure(average, "ns")], number)
        return True

    def _wrap_no_more(self, number: int) -> None:
        """Note a row of micro-bench that has no second line before this one."""
        if self.micro:
            self._note(PASSED, number - 1, self.micro)
            self.micro = ""

    def _end_micro(self, number: int) -> None:
        """Leave micro-bench's table before a line."""
        self._wrap_no_more(number)
        self.micro = None

    def _machine(self, line: str, kernel: str) -> None:
        """A virtual machine starts."""
        self.tcg = bool(_NO_KVM.search(line))
        mine = "vmexit" in kernel or "micro-bench" in kernel
        self.ours = mine or not kernel.endswith((".flat", ".efi"))
        self.log, self.unit = True, ""
        if self.ours:
            self.sure = self.sure or mine
            self.commands.append(_words(line))

    def _cells(self, found: re.Match[str], number: int) -> list[posted.Figure] | str:
        """Return the costs of a row, or why it is passed over."""
        columns = _columns(found)
        every = [figure for column in columns for figure in column]
        costs = [figure for figure in every if figure.cost]
        units = {figure.unit for figure in costs if figure.unit}
        if unit := posted.unit_of(found["variant"] or ""):
            units.add(unit)
        if not costs or (len(units) > 1 and not all(cost.unit for cost in costs)):
            return PASSED
        if len(costs) == 2 and any(figure.arrow for figure in costs):
            costs[0].configuration, costs[1].configuration = "before", "after"
        elif _SPACED.fullmatch(found["rest"]):
            return PASSED
        else:
            labelled = self.table.costs(columns, found["by"], self.log)
            if labelled is None:
                return NO_LABELS
            costs = labelled
            for label in self.table.left_out:
                self._note(LEFT_OUT, number, label)
            self.table.left_out.clear()
            if costs and costs[0].configuration and not _WIDE.search(self.table.header):
                self.pending = ""  # it was no heading
        if [figure.cost for figure in every] == [True, False] and every[1].text[0].isdigit():
            self.shares.append((float(every[0].text), float(every[1].text)))
        if not costs or (self.unit == NO_COST and not (units or all(cost.unit for cost in costs))):
            return NO_COST
        if not (units or self.unit or all(cost.unit for cost in costs)):
            self.bare = self.bare or (number, found[0])
        unit = units.pop() if len(units) == 1 else self.unit or "cycles"
        for cost in costs:
            cost.unit = cost.unit or unit
        return costs

    def _row(
        self, name: str, figures: list[posted.Figure], number: int, glued: str = "",
        count: str | None = None,
    ) -> None:  # fmt: skip
        """Keep a row's figures; `count` is how often uniq -c saw it."""
        self.sure = self.sure or name.split()[0].rpartition(":")[2] in NAMES
        self.without_kvm = self.without_kvm or self.tcg
        if self.pending and not self.log:
            self.headings.append(_Heading(self.pending, False, self.outer, self.pending_at))
        self.pending = ""
        for figure in figures:
            marks = figure.marks
            marks += [GLUED.format(len(glued), glued[:8])] if glued else []
            marks += [NEGATIVE] if figure.text.startswith("-") else []
            marks += [NO_EXIT_COSTS] if self.tcg else []
            series = Series(
                workload=name,
                configuration=figure.configuration,
                unit=figure.unit,
                kind="noisy",
                values=[_number(figure.text)],
                quantum=None if "." in figure.text else 1.0,
                marks=marks,
            )
            place = (len(self.headings) - 1, number, len(self.commands))
            times = None if count is None else int(count)
            self.lines.append(_Line(name, series, *place, times, self.above))
            self.above = None
            if figure.unit == "cycles" and _THOUSANDS.fullmatch(figure.text):
                self.thousands = self.thousands or f"line {number}: {figure.text}"
            elif "." in figure.text:
                self.decimal = True

    def settle(self, number: int) -> None:
        """Settle what a text of so many lines tells. Raises ResultError where it has no cycles."""
        self._end_micro(number + 1)
        # One in another form than the tests' rows is no row of their table.
        reasons = [name for name, colon in self.reasons.items() if colon in self.colons]
        total = sum(figure for figure, _ in self.shares)
        shares = len(self.shares) > 1 and all(
            abs(100 * figure - share * total) < total for figure, share in self.shares
        )
        if reasons or shares:
            what = "the percentages are the figures' shares"
            if reasons:
                what = f"{', '.join(reasons[:3])}: exit reasons"
            raise ResultError(
                f"{what}, so the figures look like counts of exits, not cycles of kvm-unit-tests' "
                "vmexit"
            )
        if self.thousands and not self.decimal:
            raise ResultError(
                f"{self.thousands} cycles: its point may part thousands: write it without, or with "
                "four decimals"
            )
        units = {line.series.unit for line in self.lines if line.series}
        if self.bare and len(units) > 1 and not self.log:
            self._note(BARE, *self.bare)
        counted = {line.number: line for line in self.lines if line.count is not None}
        steps = [(b.number - a.number, (b.count or 0) - (a.count or 0))
                 for a, b in itertools.pairwise(counted.values())]  # fmt: skip
        rising = all(step == 1 for _, step in steps) or all(at == step for at, step in steps)
        if steps and rising and (self.tabs or self._unlike_uniq([*counted.values()])):
            self._note(NUMBERED, *next((n, line.name) for n, line in counted.items()))
            for line in counted.values():
                line.count = None
            return
        total = 0
        for number, line in counted.items():
            total += line.count or 0
            if total > MOST_RUNS:
                count = str(line.count)[:12]
                raise ResultError(
                    f"line {number}: {count} runs of {line.name}: more than {MOST_RUNS}"
                )
        self.counted = bool(counted)
        if steps and all(step > 0 for _, step in steps):
            self._note(COUNTED, *next((n, line.name) for n, line in counted.items()))

    def _unlike_uniq(self, lines: list[_Line]) -> bool:
        """Return whether rising numbers are none of uniq -c, whose lines are sorted and differ."""
        pairs = [(a, b) for a, b in itertools.pairwise(lines) if a.name == b.name]
        if any(a.series == b.series for a, b in pairs):
            return True
        return not pairs and (lines[0].count == lines[0].number or len(lines) > 2)

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
        seen, outers = set(), defaultdict(set)
        for at in {chosen[line.heading] for line in self.lines}:
            outers[self.headings[at].text].add(self.headings[at].outer)
        for at, lines in itertools.groupby(self.lines, lambda line: chosen[line.heading]):
            text, _, outer, number = self.headings[at]
            whole = f"{outer} {text}".strip() if len(outers[text]) > 1 else text
            if runs := list(self._runs(lines, whole)):
                if whole in seen and whole:
                    self._note(AGAIN, number, text)
                seen.add(whole)
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
                if series and line.above:
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


def _columns(row: re.Match[str]) -> list[list[posted.Figure]]:
    return posted.columns(row["rest"], row["by"])


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
    text = _TERMINAL.sub(" ", _NOISE.sub("", data[: 1 << 20].decode(errors="replace")))
    lines = [line.strip()[:LONGEST_LINE] for line in text.split("\n") if line.strip()]
    if any(re.match(r"(?:PASS|FAIL)\s+vmexit_", line) for line in lines):
        return "no figure: run_tests.sh prints verdicts only, the cycles are in logs/vmexit_*.log"
    named = re.compile(rf"(?<![\w-])(?:{_KNOWN})(?![\w-])")
    seen = [line for line in lines if _NAMED.search(line.lower())]
    for line in seen or [line for line in lines if named.search(line) and _DIGIT.search(line)]:
        return f"{brief(line)} names a test of vmexit, but a row is such as `cpuid 1313`"
    begins = f" (it begins {brief(lines[0])})" if lines else ""
    return (
        f"of no known format{begins}: neither JSON, CSV, Go benchmark text nor rows of "
        "kvm-unit-tests' vmexit, such as `cpuid 1313`"
    )
