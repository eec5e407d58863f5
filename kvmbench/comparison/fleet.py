"""Fleets: results of many hosts, collected, grouped, in one unit, and their clocks.

`collect`, `compare --pair-by`, `--group-by` and `--unit`, and `history` use it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from kvmbench import formats
from kvmbench.comparison.hosts import host_facts
from kvmbench.errors import ResultError, unknown_name
from kvmbench.labels import label_of, labelled
from kvmbench.results import Boot, Result, Series, check
from kvmbench.units import Replicates, Side

__all__ = ["clock_words", "collect", "grouped", "in_nanoseconds", "load_all", "mixed"]
__all__ += ["path_labels", "prepared", "selected"]

SAME_CLOCK = 1e-3  # of a frequency: one host's calibrations differ by less, two models by more
CLOCK = "TSC frequency"  # in words, as host_facts has it
NANOSECONDS = "ns"

Named = tuple[str, Result]
Loaded = tuple[str, str, Result]  # name, path


# Many files


def load_all(
    paths: Sequence[str], progress: Callable[[str, float], None] | None = None
) -> tuple[list[Loaded], list[str]]:
    """Return (name, path, result) of files and of all files of folders, and lines on the others.

    A result's name is that of its file without the ending, below the folder that was named. Files
    of a folder that are no results are passed over. Raises ResultError and OSError.
    """
    files = [found for path in paths for found in _files(path)]
    stems = [Path(file).stem for file, _, _ in files]
    results, passed = [], []
    for number, (file, name, asked) in enumerate(files):
        if progress:
            progress(file, number / len(files))
        try:
            result = formats.load(file)
        except ResultError as error:
            if asked:
                raise
            passed.append(f"passed over {error}")
            continue
        if asked and stems.count(name) > 1:
            name = os.path.splitext(file)[0]
        results.append((name, file, result))
    if not results:
        why = "; ".join(["no file of a known format", *passed[:1]])
        raise ResultError(f"{', '.join(paths)}: {why}")
    return results, passed


def _files(path: str) -> Iterable[tuple[str, str, bool]]:
    """Yield each file with its name, and whether the user named it."""
    if not os.path.isdir(path):
        yield path, Path(path).stem, True
        return
    top = Path(path)
    for file in sorted(top.rglob("*")):
        below = file.relative_to(top)
        if file.is_file() and not any(part.startswith(".") for part in below.parts):
            yield str(file), str(below.with_suffix("")), False


def path_labels(pattern: str, path: str) -> dict[str, str]:
    """Return the labels that the end of a path says: `{host}/{commit}.json`.

    Raises ValueError for a pattern without a {LABEL}, and ResultError for a path unlike it.
    """
    parts = re.split(r"\{([A-Za-z_][\w.-]*)\}", pattern)
    names = parts[1::2]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{pattern!r} names no {{LABEL}}, or one twice: {{host}}/{{commit}}.json")
    words = [re.escape(part) if n % 2 == 0 else "([^/]+)" for n, part in enumerate(parts)]
    found = re.search(rf"(?:^|/){''.join(words)}$", path)
    if not found:
        raise ResultError(f"{path}: does not end like {pattern}")
    return dict(zip(names, found.groups(), strict=True))


def collect(results: Iterable[Named]) -> tuple[Result, int]:
    """Return the results as one, and the number of runs left out because they are there already.

    Each boot keeps its labels and gets the label `result`, the name of its result, so that a
    history knows which runs belong together. Two runs are the same one where boot, time and all
    figures agree. Raises ResultError as `results.check`.
    """
    boots: list[Boot] = []
    notes: dict[str, None] = {}
    order, seen, twice = "time", set(), 0
    for name, result in results:
        for boot in labelled(result, {"result": name}, defaults=True).boots:
            runs = []
            for run in boot.runs:
                identity = msgspec.json.encode((boot.id, run))
                if run.time and identity in seen:
                    twice += 1
                    continue
                seen.add(identity)
                runs.append(run)
            if runs:
                boots.append(replace(boot, runs=runs))
        notes |= dict.fromkeys(result.notes)
        order = "lost" if result.order == "lost" else order
    if not boots:
        raise ResultError("no results to collect")
    found = Result(order="lost" if order == "lost" else "time", notes=list(notes), boots=boots)
    check(found, "collected")
    return found, twice


# Sides of a comparison


def prepared(
    before: Side, after: Side, *, pair_by: str | None, group_by: str | None, unit: str | None
) -> Replicates:
    """Return the units of replication of two sides, grouped, in `unit` and paired as asked for.

    Raises ValueError for a unit other than `ns`, and as `grouped`, `in_nanoseconds` and Replicates.
    """
    if unit not in (None, NANOSECONDS):
        raise ValueError(f"unit {unit!r}: expected {NANOSECONDS}, or none for that of the files")
    if unit:
        before, after = in_nanoseconds(before), in_nanoseconds(after)
    if group_by:
        before, after = grouped((before, after), group_by)
    return Replicates(before, after, pair_by)


def selected(result: Result, choice: str) -> Result:
    """Return the boots of a result that `LABEL=VALUE` chooses. Raises ValueError where none has it.

    A label may be a fact of the host, such as `kernel`.
    """
    key, _, value = choice.partition("=")
    boots = [boot for boot in result.boots if label_of(boot, key) == value]
    if not boots:
        known = list(dict.fromkeys(filter(None, (label_of(boot, key) for boot in result.boots))))
        raise ValueError(unknown_name(key, value, known))
    return replace(result, boots=boots)


def grouped(sides: tuple[Side, Side], by: str) -> tuple[Side, Side]:
    """Return the sides with their rows split by a label or a fact of the host.

    Each group becomes a part of the configuration, so that a comparison has a row for each and
    corrects for all of them. A group that one side lacks is left out, with a note. Raises
    ValueError where the sides have no group in common.
    """
    groups = [
        list(dict.fromkeys(label_of(side.result.boots[n], by) or "unknown" for n in side.boots))
        for side in sides
    ]
    common = [group for group in groups[0] if group in groups[1]]
    if not common:
        said = "; ".join(
            f"{side.label} has {', '.join(found)}"
            for side, found in zip(sides, groups, strict=True)
        )
        raise ValueError(f"no {by} is on both sides: {said}")
    before, after = (_in_groups(side, by, common) for side in sides)
    return before, after


def _in_groups(side: Side, by: str, common: Sequence[str]) -> Side:
    several = len(side.configurations) > 1
    boots = []
    left = set()
    for boot in side.result.boots:
        group = label_of(boot, by) or "unknown"
        if group not in common:
            left.add(group)
            continue

        def renamed(series: Series, group: str = group) -> Series:
            parts = (series.configuration if several else "", group)
            return replace(series, configuration="/".join(filter(None, parts)))

        boots.append(_with_series(boot, side, renamed))
    notes = list(side.result.notes)
    if left:
        notes.append(f"Left out by --group-by {by}, as the other side lacks it: {', '.join(left)}.")
    return Side(side.label, replace(side.result, boots=boots, notes=notes))


def in_nanoseconds(side: Side) -> Side:
    """Return the side with its measured cycles as nanoseconds, by each host's TSC frequency.

    Simulated cycles stay. Raises ResultError for a boot whose host does not know the frequency.
    """

    def converted(boot: Boot, place: int) -> Boot:
        def figures(series: Series) -> Series:
            if series.kind != "noisy" or series.unit != "cycles":
                return series
            if not boot.host.tsc_hz:
                raise ResultError(
                    f"{side.label}: boot {place} has cycles and no TSC frequency, so they are no "
                    "time: leave out --unit ns, or measure it again"
                )
            by = 1e9 / boot.host.tsc_hz
            return replace(
                series, unit=NANOSECONDS, values=[by * value for value in series.values],
                quantum=by * series.quantum if series.quantum else series.quantum,
            )  # fmt: skip

        return _with_series(boot, side, figures)

    boots = [converted(boot, place) for place, boot in enumerate(side.result.boots)]
    return Side(side.label, replace(side.result, boots=boots), side.configuration)


def _with_series(boot: Boot, side: Side, change: Callable[[Series], Series]) -> Boot:
    """Return a boot with the series of this side changed, and without the others."""
    runs = [
        replace(
            run, series=[change(s) for s in run.series if s.configuration in side.configurations]
        )
        for run in boot.runs
    ]
    return replace(boot, runs=runs)


def mixed(side: Side) -> list[str]:
    """Return the facts in which the hosts of one row of a side differ, in words.

    They are the CPU, the TSC frequency and each mitigation; a group that --group-by made has its
    own rows.
    """
    found: dict[str, None] = {}
    for boots in _boots_of_rows(side):
        facts = [host_facts(boot.host) for boot in boots]
        for what in dict.fromkeys(what for known in facts for what in known):
            values = dict.fromkeys(known[what] for known in facts if what in known)
            compared = what in ("cpu", CLOCK) or what.startswith("mitigation of ")
            if compared and len(values) > 1 and not (what == CLOCK and _one_clock(boots)):
                found[f"{what} {' | '.join(values)}"] = None
    return list(found)


def clock_words(replicates: Replicates) -> tuple[list[str], str]:
    """Return the rows whose cycles are of several lengths, and the TSC frequencies in words.

    None where all hosts of a row agree, or both hosts of each pair.
    """
    sides = replicates.sides
    pairs = [[*before, *after] for before, after in replicates.paired_boots()]
    rows = []
    names = replicates.keys()
    for key in names:
        cells = [cell for side in replicates.cells(key) for cell in side]
        if any(cell.series.unit != "cycles" or cell.series.kind != "noisy" for cell in cells):
            continue
        own = [
            sides[n].result.boots[boot]
            for n, side in enumerate(replicates.cells(key))
            for boot in dict.fromkeys(cell.boot for cell in side)
        ]
        if not all(map(_one_clock, pairs if replicates.paired else [own])):
            rows.append(key.name)
    said = []
    for side in sides:
        known = dict.fromkeys(label_of(side.result.boots[n], "clock") for n in side.boots)
        said.append(f"{side.label} {', '.join(filter(None, known)) or 'not known'}")
    return rows, "; ".join(said)


def _boots_of_rows(side: Side) -> list[list[Boot]]:
    """Return the boots of each row, those of several rows once."""
    numbers = {tuple(dict.fromkeys(cell.boot for cell in cells)) for cells in side.cells.values()}
    return [[side.result.boots[n] for n in found] for found in sorted(numbers)]


def _one_clock(boots: Sequence[Boot]) -> bool:
    known = [boot.host.tsc_hz for boot in boots if boot.host.tsc_hz]
    return not known or max(known) - min(known) <= SAME_CLOCK * max(known)
