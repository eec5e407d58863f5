"""What x86/vmexit of kvm-unit-tests prints, and the logs of its run_tests.sh.

A row is `NAME CYCLES`: the time-stamp counter's cycles of an iteration, averaged over at least
2**30 cycles and cut to an integer, so each row is one value of one run. `  ipi NAME n` and
`  eoi NAME n` below it are the parts of an iteration that sent the interrupt and ended it; they
become the row's `counts`. (x86/vmexit.c at gitlab.com/kvm-unit-tests/kvm-unit-tests.)

A run ends where a row comes again, so the logs of one run_tests.sh, one virtual machine a test,
are one run. Headings `Before:` and `After:`, as in the message of Linux commit b7ffc44d5b2e, name
the configurations and part the boots. Lines of `sort | uniq -c`, `COUNT NAME CYCLES`, are that
many runs, whose order is lost. Anything else in the text is passed over.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

from kvmbench.errors import ResultError
from kvmbench.results import Boot, Result, Run, Series
from kvmbench.workloads import BUILT_IN, LIVE_ONLY

__all__ = ["decode"]

NAMES = frozenset(name for w in (*BUILT_IN, *LIVE_ONLY) for name in w.vmexit_rows)
"""The tests of vmexit.c from 2012 to 2025, under all names that they had."""

TESTS = {
    "inl_pmtimer": "inl_from_pmtimer",
    "cr0_wp": "toggle_cr0_wp",
    "cr4_pge": "toggle_cr4_pge",
}
"""What x86/unittests.cfg calls after `vmexit_` in other words than vmexit.c."""

MOST_RUNS = 100_000  # a COUNT beyond it is a mistake, not a measurement

NO_EXIT_COSTS = (
    "QEMU ran this without KVM (TCG): the figure is one of its emulator, no cost of a VM exit"
)
GLUED = "{} digits stand before its name, the first {}: self-IPIs not delivered exactly once"
NEGATIVE = "negative as printed: the time-stamp counter went back, or the figure overflowed an int"

_COLOUR = re.compile(r"\x1b?\[\d*+(?:;\d++)*+m")  # the escape itself is often lost in a mail
# A self-IPI that was not delivered once prints how often it was, before its row and without an
# end of line, once an iteration; pci-mem and pci-io follow the name of QEMU's device and a colon.
_NAME = r"(?P<glued>\d*+)(?P<name>(?:[\w.+-]+:)?[A-Za-z_][\w+-]*+)"
_FIGURE = r"(?P<figure>-?\d{1,15}(?:\.\d{1,6})?)"
_ROW = re.compile(rf"\s*(?:(?P<count>\d++)\s+)?{_NAME}\s+{_FIGURE}(?:\s+\((?P<remark>.*)\))?\s*")
_PART = re.compile(rf"\s*(?P<part>ipi|eoi)\s+(?P<name>\S++)\s+{_FIGURE}\s*")
_SKIPPED = re.compile(rf"\s*{_NAME} \(skipped\)\s*")
_SKIP = re.compile(r"\s*SKIP\s+vmexit_(?P<name>\S++)\s*(?:\((?P<reason>.*)\))?\s*")
_HEADING = re.compile(
    r"\s*(?P<which>(?:\S.{0,60}\s)?(?:before|after))(?:\s+(?:the\s+)?patch(?:es)?)?\s*:\s*",
    re.IGNORECASE,
)
_KERNEL = re.compile(r"-kernel\s+(\S+)|\brun\s+(x86/\S+\.(?:flat|efi))")
_NO_KVM = re.compile(
    r"-accel[= ]tcg\b|accel=tcg\b|\bACCEL=tcg\b|TCG doesn't support requested feature"
    r"|falling back to tcg|back to tcg accelerator",
    re.IGNORECASE,
)


def decode(data: bytes, name: str) -> Result:
    """Return the result in a text of vmexit's rows.

    Raises ResultError where no row is found, or the COUNTs are beyond MOST_RUNS.
    """
    text = _COLOUR.sub("", data.decode(errors="replace"))
    reader = _Reader()
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        try:
            reader.read(line)
        except ResultError as error:
            raise ResultError(f"{name}: line {number}: {error}") from None
    boots = [Boot(runs=runs) for found in reader.boots if (runs := _built(found))]
    if not boots or not reader.sure:
        raise ResultError(f"{name}: {_nothing(text)}")
    notes = [NO_EXIT_COSTS] if reader.without_kvm else []
    return Result(order="lost" if reader.counted else "time", notes=notes, boots=boots)


@dataclass(slots=True)
class _Run:
    """A run as far as it is read."""

    rows: dict[tuple[str, str], Series] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    commands: list[list[str]] = field(default_factory=list)


@dataclass(slots=True)
class _Reader:
    """Where the reading of a text stands."""

    boots: list[list[_Run]] = field(default_factory=lambda: [[_Run()]])
    configuration: str = ""
    ours: bool = True  # of vmexit is what comes now, not of another test
    sure: bool = False  # a line has shown that there is vmexit's output here
    tcg: bool = False  # the virtual machine at hand runs without KVM
    without_kvm: bool = False  # so does one of them
    counted: int = 0  # runs that lines of uniq -c stand for

    def read(self, line: str) -> None:
        if _NO_KVM.search(line):
            self.tcg = True
        if found := _KERNEL.search(line):
            self._machine(line, found[1] or found[2])
        elif found := _HEADING.fullmatch(line):
            self.configuration = " ".join(found["which"].split()).lower()
            self.boots.append([_Run()])
        elif not self.ours:
            return
        elif found := _SKIPPED.fullmatch(line):
            self._skipped(found["name"], "skipped by vmexit")
        elif found := _SKIP.fullmatch(line):
            test = found["name"]
            self._skipped(TESTS.get(test, test), found["reason"] or "skipped by run_tests.sh")
        elif found := _PART.fullmatch(line):
            row = self.boots[-1][-1].rows.get((found["name"], self.configuration))
            if row:
                row.counts[found["part"]] = _number(found["figure"])
        elif found := _ROW.fullmatch(line):
            self._row(found)

    def _machine(self, line: str, kernel: str) -> None:
        """A virtual machine starts."""
        self.tcg = bool(_NO_KVM.search(line))
        self.ours = "vmexit" in kernel or not kernel.endswith((".flat", ".efi"))
        if self.ours:
            self.sure = self.sure or "vmexit" in kernel
            self.boots[-1][-1].commands.append(_words(line))

    def _run(self, name: str) -> _Run:
        """Return the run that takes what is said of `name`: another one where it comes again."""
        run = self.boots[-1][-1]
        if (name, self.configuration) in run.rows or name in run.skipped:
            run = _Run(commands=run.commands[-1:])
            self.boots[-1].append(run)
        return run

    def _skipped(self, name: str, reason: str) -> None:
        self._run(name).skipped[name] = reason

    def _row(self, found: re.Match[str]) -> None:
        name, figure, glued = found["name"], found["figure"], found["glued"]
        marks = [found["remark"]] if found["remark"] else []
        if glued:
            marks.append(GLUED.format(len(glued), glued[:8]))
        if figure.startswith("-"):
            marks.append(NEGATIVE)
        if self.tcg:
            marks.append(NO_EXIT_COSTS)
            self.without_kvm = True
        series = Series(
            workload=name,
            configuration=self.configuration,
            kind="noisy",
            values=[_number(figure)],
            quantum=None if "." in figure else 1.0,
            marks=marks,
        )
        self.sure = self.sure or name.split(":")[-1] in NAMES
        key = (name, self.configuration)
        if found["count"] is None:
            self._run(name).rows[key] = series
            return
        count = int(found["count"][:9])
        self.counted += count
        if self.counted > MOST_RUNS or len(found["count"]) > 9:
            raise ResultError(f"{found['count'][:12]} runs of {name}: more than {MOST_RUNS}")
        self.boots[-1][-1:-1] = [_Run(rows={key: series}) for _ in range(count)]


def _built(runs: list[_Run]) -> list[Run]:
    """Return those of the runs that have rows."""
    return [
        Run(
            engine="kvm-unit-tests",
            command=run.commands[0] if len(run.commands) == 1 else [],
            series=list(run.rows.values()),
            skipped=run.skipped,
        )
        for run in runs
        if run.rows
    ]


def _number(figure: str) -> int | float:
    return float(figure) if "." in figure else int(figure)


def _words(line: str) -> list[str]:
    """Return a command line's words, without the comment that run_tests.sh puts at its end."""
    line = line.partition(" #")[0]
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def _nothing(text: str) -> str:
    if re.search(r"^\s*(?:PASS|FAIL)\s+vmexit_", text, re.MULTILINE):
        return "no figure: run_tests.sh prints verdicts only, the cycles are in logs/vmexit_*.log"
    return (
        "of no known format: neither JSON, Go benchmark text nor rows of kvm-unit-tests' vmexit, "
        "such as `cpuid 1313`"
    )
