"""What speaks against a comparison, in words: a reader should hear it from us first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from kvmbench import stats
from kvmbench.comparison.verdicts import Comparison, Row
from kvmbench.results import Host, Run
from kvmbench.stats import CONFIDENCE
from kvmbench.units import Figures, Side

__all__ = ["Difference", "caveats", "caveats_of_values", "differences", "unknown_hosts"]

FREE_WORDS = ("BOOT_IMAGE=", "initrd=", "root=")  # of a command line: they name the kernel's files
UNLIKE = 3.0  # ratio of standard deviations: max-T then has 12 % false alarms at 5 %
LEAST_FOR_SPREADS = 6  # units a side: of fewer the ratio says little
DRIFT_LEVEL = 0.05  # over all rows and sides of a comparison
NAMED = 10  # rows, in a sentence
LEAST_OF_DRIFT = 4  # units in which one can be looked for


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact in which the two sides differ; `expected` of those that a comparison is about."""

    what: str
    before: str
    after: str
    expected: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.before} -> {self.after}"


def differences(comparison: Comparison) -> list[Difference]:
    """Return in what the two sides differ beside their figures.

    Of measured figures, the facts of the hosts: kernel and build (expected), CPU, microcode,
    mitigations, command line, KVM's module and parameters, governor, SMT, TSC frequency. A fact
    that one side does not know is a difference; one that neither knows is none. Of simulated
    figures, the model's version, the profile and the vendor (expected); their host is no matter.
    """
    sides = comparison.sides
    found: list[Difference] = []
    if any(row.kind == "noisy" for row in comparison.rows):
        facts = [_facts(side) for side in sides]
        for what in dict.fromkeys((*facts[0], *facts[1])):
            before, after = (side.get(what, "not known") for side in facts)
            if before != after:
                found.append(Difference(what, before, after, what in ("kernel", "build")))
    if any(row.kind == "exact" for row in comparison.rows):
        for what in ("model_version", "profile", "vendor"):
            before, after = (_of_runs(side, what) for side in sides)
            if before != after:
                found.append(Difference(what.replace("_", " "), before, after, expected=True))
    return found


def unknown_hosts(comparison: Comparison) -> bool:
    """Say whether measured figures are compared of which no side knows the host."""
    noisy = any(row.kind == "noisy" for row in comparison.rows)
    return noisy and not any(_facts(side) for side in comparison.sides)


def _of_runs(side: Side, what: str) -> str:
    found = {getattr(run, what) or "not stated" for run in side.runs.values()}
    return ", ".join(sorted(found))


def _facts(side: Side) -> dict[str, str]:
    """Return the facts of a side's hosts in words; several where its boots differ."""
    found: dict[str, list[str]] = {}
    for host in side.hosts:
        for what, value in _words(host).items():
            found.setdefault(what, []).append(value)
    return {what: " | ".join(sorted(set(values))) for what, values in found.items()}


def _words(host: Host) -> dict[str, str]:
    found = {name: getattr(host, name) for name in ("kernel", "build", "cpu", "microcode")}
    found |= {f"mitigation of {name}": value for name, value in host.mitigations.items()}
    if host.cmdline is not None:
        words = [word for word in host.cmdline.split() if not word.startswith(FREE_WORDS)]
        found["command line"] = " ".join(words) or "empty"
    found["KVM module"] = host.kvm
    found |= host.kvm_parameters
    found |= {"governor": host.governor, "SMT": host.smt}
    found["TSC frequency"] = f"{host.tsc_hz:,} Hz" if host.tsc_hz else None
    return {what: value for what, value in found.items() if value}


def caveats(comparison: Comparison) -> list[str]:
    """Return what a reader must know before believing the verdicts, one sentence or two each."""
    found: list[str] = []
    for say in (
        *(_notes, _missing, _varying, _marks, _controls, _too_few, _one_boot, _sequence),
        *(_blocks, _drift, _groups, _spreads, _narrow),
    ):
        found += say(comparison)
    return found


def caveats_of_values(comparison: Comparison) -> list[str]:
    """Return those caveats that the values alone give: too few, drifting or in two groups."""
    found = (say(comparison) for say in (_too_few, _drift, _groups))
    return [words for said in found for words in said]


def _listed(rows: Iterable[Row]) -> str:
    """Return the rows' names; of many, how many and the first few."""
    names = [row.workload for row in rows]
    if len(names) <= NAMED:
        return ", ".join(names)
    return f"{len(names)} rows ({', '.join(names[:3])} ...)"


def _notes(comparison: Comparison) -> list[str]:
    said: dict[str, list[str]] = {}  # note -> the sides that have it
    for side in comparison.sides:
        for note in dict.fromkeys(side.result.notes):
            said.setdefault(note, []).append(side.label)
    return [f"{', '.join(labels)}: {note}" for note, labels in said.items()]


def _missing(comparison: Comparison) -> list[str]:
    found: dict[str, list[str]] = {}
    for row in comparison.rows:
        if row.missing:
            found.setdefault(row.missing, []).append(row.workload)
    return [f"{why}: {', '.join(names)}." for why, names in found.items()]


def _varying(comparison: Comparison) -> list[str]:
    rows = [row for row in comparison.rows if row.varies]
    if not rows:
        return []
    return [f"Called exact, but not the same in every run: {_listed(rows)}. The median is shown."]


def _marks(comparison: Comparison) -> list[str]:
    said: dict[tuple[str, str], list[str]] = {}  # rows and their mark -> the sides that have them
    for side in comparison.sides:
        marked: dict[str, list[str]] = {}
        for key, cells in side.cells.items():
            for mark in dict.fromkeys(mark for cell in cells for mark in cell.series.marks):
                marked.setdefault(mark, []).append(key.name)
        for mark, names in marked.items():
            said.setdefault((", ".join(names), mark), []).append(side.label)
    return [f"{rows} ({', '.join(labels)}): {mark}." for (rows, mark), labels in said.items()]


def _controls(comparison: Comparison) -> list[str]:
    rows = [row for row in comparison.rows if row.control and row.kind == "noisy"]
    moved = [row for row in rows if row.verdict in ("faster", "slower")]
    if moved:
        begin = f"Verdicts with ? are in doubt: {_listed(moved)} moved, "
        end = " What moved the controls can move every row."
        if comparison.named_controls:
            return [f"{begin}named as a control{'s' if len(moved) > 1 else ''}.{end}"]
        return [
            f"{begin}though no reload of TR is predicted there on either side.{end} "
            "(Where the change is not about TR's reload: --no-controls.)"
        ]
    undecided = [row for row in rows if row.verdict == "no-verdict" and row.shift]
    undecided = [row for row in undecided if abs(row.shift or 0) > row.quantum and row.percent]
    if undecided:
        worst = max(undecided, key=lambda row: abs(row.percent or 0))
        if comparison.named_controls:
            return [
                f"Named as controls, {_listed(undecided)} differ all the same, by up to "
                f"{worst.percent:+.1f} % ({worst.workload})."
            ]
        return [
            f"No reload of TR is predicted on either side of {_listed(undecided)}, and yet they "
            f"differ, by up to {worst.percent:+.1f} % ({worst.workload}): a change to TR's reload "
            "does not explain differences of that size here."
        ]
    return []


def _too_few(comparison: Comparison) -> list[str]:
    noisy = [row for row in comparison.rows if row.kind == "noisy" and row.shift is not None]
    single = [row for row in noisy if row.verdict == "no-verdict"]
    level = comparison.replicates.level
    found = []
    if single:
        which = "Every row" if len(single) == len(noisy) else _listed(single)
        found.append(
            f"{which}: one {level} on a side. Without a spread a difference cannot be told from "
            "noise, so there is no verdict."
        )
    few = [row for row in noisy if row.verdict == "inconclusive" and row.interval is None]
    if few:
        which = "Every row" if len(few) == len(noisy) else _listed(few)
        least = least_units(comparison.replicates.paired, comparison.confidence)
        found.append(
            f"{which}: too few {level}s for an interval at {100 * comparison.confidence:.4g} %; "
            f"{least}{' blocks' if comparison.replicates.paired else f' {level}s a side'} are "
            "the least that can have one."
        )
    beyond = [row for row in noisy if row.verdict == "inconclusive" and _beyond(row, row.margin)]
    if beyond:
        found.append(
            f"{_listed(beyond)}: the interval is beyond the margin, but the test of "
            f"{_looked_at(comparison)} does not confirm it (adjusted p above "
            f"{1 - comparison.confidence:.2g}, {comparison.family})."
        )
    return found


def _looked_at(comparison: Comparison) -> str:
    rows = [row for row in comparison.rows if row.p is not None]
    number = len(rows)
    said = f"the {number} rows together" if number > 1 else "the row"
    if comparison.comparisons > 1:
        said += f" in {comparison.comparisons} comparisons"
    return said


def least_units(paired: bool, confidence: float = CONFIDENCE) -> int:
    """Return the least number of units a side, or of blocks, that has an interval at all."""
    if paired:
        return next(
            n for n in range(2, 100)
            if stats.signed_rank_interval(range(1, n + 1), confidence)
        )  # fmt: skip
    return next(
        n for n in range(2, 100)
        if stats.mann_whitney_interval(range(n), range(n), confidence)
    )  # fmt: skip


def _one_boot(comparison: Comparison) -> list[str]:
    if comparison.replicates.level != "run" or not _any_verdict(comparison):
        return []
    boots = [side.result.boots[side.boots[0]] for side in comparison.sides if side.boots]
    if len(boots) == 2 and all(boot.id for boot in boots) and boots[0].id != boots[1].id:
        return [
            "Each side is one boot, and boots of one kernel differ among themselves: that "
            "difference is in the shift and not in the interval. Compare several boots a side "
            "(kvmbench plan)."
        ]
    return []


def _any_verdict(comparison: Comparison) -> bool:
    return any(
        row.verdict in ("faster", "slower", "same") for row in comparison.rows if row.p is not None
    )


def _sequence(comparison: Comparison) -> list[str]:
    """Say that one side was wholly measured before the other."""
    if comparison.replicates.paired or not _any_verdict(comparison):
        return []
    times = [[_when(run) for run in side.runs.values()] for side in comparison.sides]
    first, second = ([time for time in found if time] for found in times)
    if min(len(first), len(second)) < 2 or len(first) + len(second) < sum(map(len, times)):
        return []
    if max(first) < min(second) or max(second) < min(first):
        return [
            "One side was measured wholly before the other: a drift of the host over that time "
            "is in the shift and not in the interval. Alternate the sides (kvmbench plan)."
        ]
    return []


def _when(run: Run) -> datetime | None:
    try:
        time = datetime.fromisoformat(run.time or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.astimezone()


def _blocks(comparison: Comparison) -> list[str]:
    left_out = comparison.replicates.left_out
    if not left_out:
        return []
    numbers = ", ".join(str(number) for number in left_out)
    return [f"Left out as incomplete: block{'s' if len(left_out) > 1 else ''} {numbers}."]


def _each_side(
    comparison: Comparison, look: Callable[[Row, Figures], str | None]
) -> dict[str, list[str]]:
    """Return what `look` says of each side's figures: label -> sentences."""
    found: dict[str, list[str]] = {}
    for number, side in enumerate(comparison.sides):
        for row in comparison.rows:
            if row.kind == "noisy":
                figures = comparison.figures[row.workload][number]
                said = look(row, figures[np.isfinite(figures)])
                if said:
                    found.setdefault(side.label, []).append(said)
    return found


def _drift(comparison: Comparison) -> list[str]:
    if comparison.replicates.paired:
        return []  # blocks are there to cancel it
    sides = comparison.sides
    lost = {side.label for side in sides if side.result.order == "lost"}
    tests = 2 * max(1, sum(row.kind == "noisy" for row in comparison.rows))

    def look(row: Row, figures: Figures) -> str | None:
        if len(figures) < LEAST_OF_DRIFT:
            return None
        slope, p = stats.drift(figures)
        if p * tests > DRIFT_LEVEL or not slope:
            return None
        share = f", {100 * slope / abs(centre):+.2f} %" if (centre := np.median(figures)) else ""
        return f"{row.workload} by {slope:+.3g} {row.unit}{share}"

    level = comparison.replicates.level
    advice = "Unless the sides were measured in turn, it is in the shift and not in the interval."
    found = [
        f"Drift: from {level} to {level} of {label} moves {'; '.join(said)}. {advice}"
        for label, said in _each_side(comparison, look).items()
        if label not in lost
    ]
    longest = {
        side.label: max((row.units[n] for row in comparison.rows if row.kind == "noisy"), default=0)
        for n, side in enumerate(sides)
    }
    blind = [label for label in longest if label in lost and longest[label] >= LEAST_OF_DRIFT]
    if blind:
        said = f"The order of the {level}s is lost ({', '.join(blind)}): a drift cannot be seen."
        found.append(said)
    return found


def _groups(comparison: Comparison) -> list[str]:
    def look(row: Row, figures: Figures) -> str | None:
        groups = stats.two_groups(figures) if len(figures) else None
        return f"{row.workload} near {groups[0]:.6g} and {groups[1]:.6g}" if groups else None

    return [
        f"Two groups of {comparison.replicates.level}s in {label}: {'; '.join(said)}. Something "
        "was in one of two states; a centre between them is that of neither."
        for label, said in _each_side(comparison, look).items()
    ]


def _spreads(comparison: Comparison) -> list[str]:
    """Say where the sides' spreads are too unlike for labels to be permuted between them."""
    if comparison.replicates.paired or comparison.family != "max-t":
        return []
    rows = []
    for row in comparison.rows:
        if row.verdict in ("faster", "slower") and min(row.units) >= LEAST_FOR_SPREADS:
            sides = comparison.figures[row.workload]
            low, high = sorted(stats.spread(figures[np.isfinite(figures)]) for figures in sides)
            if high > UNLIKE * low:
                rows.append(row)
    if not rows:
        return []
    return [
        f"{_listed(rows)}: one side spreads more than {UNLIKE:g} times as much as the other, where "
        "the adjustment for the table gives too many alarms; --family holm gives fewer."
    ]


def _narrow(comparison: Comparison) -> list[str]:
    """Say of which inconclusive rows the sign, if not the size, is known."""
    undecided = [row for row in comparison.rows if row.verdict == "inconclusive"]
    rows = [row for row in undecided if _beyond(row, 0) and not _beyond(row, row.margin)]
    if not rows:
        return []
    return [
        f"{_listed(rows)}: the interval is to one side of 0, but not all of it beyond the margin."
    ]


def _beyond(row: Row, limit: float) -> bool:
    """Say whether the whole interval is more than `limit` to one side of 0."""
    return row.interval is not None and (row.interval[0] > limit or row.interval[1] < -limit)
