"""Exit mixes, read: text of perf kvm stat report, bcc's kvmexit and bpftrace's maps of exits.

A row is an exit reason. Its figure is exits per second where the text says for how long it
counted (kvmexit with a duration), else the share of all exits in percent. Threads of kvmexit are
summed by reason, and each table of a text is a run. Lost: the extremes, deviations and histograms
of times. (tools/perf/builtin-kvm.c of Linux 4.19 and 6.1; tools/kvmexit.py at
github.com/iovisor/bcc; bpftrace prints `@name[key]:` and buckets `[low, high) count`.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from kvmbench.errors import ResultError
from kvmbench.results import Boot, Number, Result, Run, Series

__all__ = ["LOOK", "Mix", "decode", "matches", "mixes"]

LOOK = re.compile(
    rb"^[ \t]*(?:VM-EXIT|Event name)[ \t]+Samples[ \t]+Sample"
    rb"|^[ \t]*(?:(?:PID|TGID|TID|TIDS)\b.*\b)?KVM_EXIT_REASON[ \t]+(?:COUNT|STAT)"
    rb"|^@(?=\w*exit)\w*+\[[^\]\n]*\]: *(?:\d+ *)?$",  # each name is read once: linear time
    re.MULTILINE | re.IGNORECASE,
)
"""A line that shows an exit mix."""

_PERF_OLD = re.compile(
    r"\s*(\S.*?)\s+(\d+)\s+([\d.]+)%\s+[\d.]+%\s+(?:[\d.]+us\s+)*?([\d.]+)us(?:\s*\(.*)?$"
)
_PERF_NEW = re.compile(r"\s*(\S.*?)\s+(\d+)\s+([\d.]+)%\s+\d+\s+[\d.]+%\s+(?:\d+\s+){2}(\d+)\s*$")
_KVMEXIT = re.compile(r"(?:\^C)?\s*(?:\d+\s+){0,2}([A-Za-z_]\w*)\s+(\d+)(?:\s+(\d+))?\s*$")
_SLEPT = re.compile(r"after sleeping (\d+(?:\.\d+)?) secs?")
_MAP = re.compile(r"@(\w*)\[([^\]]*)\]:\s*(\d+)?\s*$")
_BUCKET = re.compile(r"\[?\(?[-\w.]+(?:, [-\w.]+[)\]]|\])?\s+(\d+)\s*\|")


@dataclass(slots=True)
class Mix:
    """One table of exits: the program that counted, and the exits of each reason."""

    program: str
    seconds: float | None = None  # for which it counted
    exits: dict[str, int] = field(default_factory=dict)
    mean_us: dict[str, float] = field(default_factory=dict)  # of the time that an exit takes
    percent: float = 0.0  # of all exits, as perf prints it of the rows that the table shows

    @property
    def cut(self) -> bool:
        """Whether the table shows some of its exits only, as one that people post does."""
        return 0 < self.percent < 99

    @property
    def total(self) -> float:
        """The exits of all reasons, those that the table does not show included."""
        return sum(self.exits.values()) * (100 / self.percent if self.cut else 1)

    def add(self, reason: str, exits: int, mean_us: float | None = None) -> None:
        """Add exits of a reason; means of several rows are weighted."""
        reason = reason.strip().removeprefix("EXIT_REASON_")[:500] or "?"
        before = self.exits.get(reason, 0)
        self.exits[reason] = before + exits
        if mean_us is not None and before + exits:
            total = self.mean_us.get(reason, 0.0) * before + mean_us * exits
            self.mean_us[reason] = total / (before + exits)


def matches(start: bytes) -> bool:
    """Return whether a text that begins so is an exit mix."""
    return LOOK.search(start) is not None


def mixes(data: bytes, name: str) -> list[Mix]:
    """Return the tables of a text that have exits. Raises ResultError where none has."""
    text = data.decode("utf-8", "replace")
    found = [mix for mix in _tables(text) if sum(mix.exits.values())]
    if not found:
        raise ResultError(f"{name}: the table of exits has no row with exits")
    most = max(max(mix.exits.values()) for mix in found)
    if most > 2**62:
        raise ResultError(f"{name}: {most} exits of one reason: more than any host has")
    return found


def _tables(text: str) -> Iterator[Mix]:
    mix = Mix("")
    seconds: float | None = None
    key = ""
    for line in text.splitlines():
        if len(line) > 10_000:
            continue
        head = line.split()
        if slept := _SLEPT.search(line):
            seconds = _number(slept[1]) or None
        elif head[:3] == ["VM-EXIT", "Samples", "Samples%"] or head[:3] == [
            "Event", "name", "Samples",
        ]:  # fmt: skip
            yield mix
            mix = Mix("perf kvm stat")
        elif "KVM_EXIT_REASON" in head:
            yield mix
            mix, seconds = Mix("kvmexit", seconds), None
        elif found := _MAP.match(line):
            if mix.program != "bpftrace":
                yield mix
                mix = Mix("bpftrace")
            key = _last(found[2])
            mix.add(key, int((found[3] or "0")[:25]))
        elif mix.program == "bpftrace" and (found := _BUCKET.match(line)):
            mix.add(key, int(found[1][:25]))
        elif mix.program == "kvmexit" and (found := _KVMEXIT.match(line)):
            mean = _number(found[3]) / 1000 if found[3] else None  # kvmexit's are ns
            mix.add(found[1], int(found[2][:25]), mean)
        elif mix.program == "perf kvm stat" and (found := _PERF_NEW.match(line)):
            mix.add(found[1], int(found[2][:25]), _number(found[4]) / 1000)
            mix.percent += _number(found[3])
        elif mix.program == "perf kvm stat" and (found := _PERF_OLD.match(line)):
            mix.add(found[1], int(found[2][:25]), _number(found[4]))
            mix.percent += _number(found[3])
    yield mix


def _number(text: str) -> float:
    """Return the number of digits and points that perf or kvmexit printed; 0 where it is none."""
    try:
        return float(text[:25])
    except ValueError:
        return 0.0


def _last(key: str) -> str:
    """Return the reason in the key of a map: its last part that is not empty."""
    parts = [part.strip().strip('"') for part in key.split(",")]
    return next((part for part in reversed(parts) if part), "?")


def decode(data: bytes, name: str) -> Result:
    """Return the result in a text with exit mixes. Raises ResultError."""
    runs = []
    found = mixes(data, name)
    rates = all(mix.seconds for mix in found)
    for mix in found:
        scale = 1 / mix.seconds if rates and mix.seconds else 100 / mix.total
        series = []
        for reason, exits in mix.exits.items():
            counts: dict[str, Number] = {"exits": exits}
            if reason in mix.mean_us:
                counts["mean_us"] = mix.mean_us[reason]
            series.append(
                Series(
                    workload=reason, unit="exits/s" if rates else "% of exits", kind="noisy",
                    values=[exits * scale], counts=counts,
                )
            )  # fmt: skip
        runs.append(Run(engine=mix.program, series=series))
    notes = []
    if not rates:
        notes.append("the text does not say for how long it counted: figures are shares, no rates")
    notes += [f"the table shows {mix.percent:.1f} % of its exits" for mix in found if mix.cut]
    return Result(boots=[Boot(runs=runs)], notes=notes)
