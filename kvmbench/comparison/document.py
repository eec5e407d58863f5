"""Comparisons as text, Markdown, CSV, JSON and JUnit XML."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from math import floor, log10
from typing import Any, NamedTuple

from kvmbench.comparison.caveats import caveats, caveats_of_values, differences
from kvmbench.comparison.gates import Gate
from kvmbench.comparison.self_test import Split
from kvmbench.comparison.verdicts import Comparison, Row, share_words
from kvmbench.report.plain import Table, fill, markdown, text
from kvmbench.stats import POWER

__all__ = ["COMPARE_FORMATS", "render_comparisons", "render_splits"]

COMPARE_FORMATS = ("text", "markdown", "csv", "json", "junit")
WIDTH = 75  # columns that checkpatch.pl allows a line of a commit message
TABLE_WIDTH = 80  # a table's, before its names get lines of their own
LEAST_NAME = 12  # columns; names get lines of their own rather than less
DIGITS = 6  # of a figure, where the interval would have more
SCALES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
SECONDS = ("s", "sec", "second", "seconds", "sec/op")


def render_comparisons(
    comparisons: Sequence[Comparison],
    form: str,
    *,
    explain: bool = False,
    gate: Gate | None = None,
) -> str:
    """Return comparisons of one before with one after or more, in one of COMPARE_FORMATS.

    `explain` adds what the spread of each row allows to see; `gate` what was asked of the rows.
    """
    if form == "json":
        return json.dumps(_document(comparisons, gate), indent=2, allow_nan=False) + "\n"
    if form == "csv":
        return _csv(comparisons)
    if form == "junit":
        return _junit(comparisons, gate)
    write = markdown if form == "markdown" else _text
    parts = [fill(_title(comparisons))]
    for comparison in comparisons:
        parts += _differences(comparison, form == "markdown")
    parts.append(write(_main(comparisons)))
    parts += [fill(words) for words in _below(comparisons)]
    if explain and any(row.spread is not None for c in comparisons for row in c.rows):
        parts += [fill("What the spread allows to see:"), write(_explained(comparisons))]
    if gate is not None:
        parts.append("".join(fill(line) for line in gate.lines))
    return "\n".join(parts)


def render_splits(label: str, splits: Sequence[Split], form: str) -> str:
    """Return what a comparison says of the parts of a result, as text, markdown or json."""
    if form == "json":
        document = {
            "label": label,
            "splits": [
                {
                    "name": split.name,
                    "false_alarms": split.false_alarms,
                    "undecided": split.undecided,
                    **_document([split.comparison], None),
                }
                for split in splits
            ],
        }
        return json.dumps(document, indent=2, allow_nan=False) + "\n"
    write = markdown if form == "markdown" else _text
    parts = [fill(f"{label} against itself: nothing changed, so whatever moved is noise")]
    for split in splits:
        parts += [fill(f"{split.name}:"), write(_main([split.comparison]))]
        said = [*caveats_of_values(split.comparison), _alarms(split)]
        parts += [fill(words) for words in said]
    alarms = sum(bool(split.false_alarms) for split in splits)
    reach: dict[str, float] = {}  # row -> the farthest of all splits
    for row in (row for split in splits for row in split.comparison.rows):
        reach[row.workload] = max(reach.get(row.workload, 0.0), _reach(row))
    found = sorted((share, name) for name, share in reach.items() if share)
    if found:
        what = f"{splits[0].comparison.replicates.level}s"
        parts.append(
            fill(
                f"The intervals reach {_range(found)}: with as many {what} a side as here, a shift "
                f"within that {'of its row ' if len(found) > 1 else ''}may be noise.",
            )
        )
    parts.append(
        fill(
            f"False alarms in {alarms} of {len(splits)} splits. At "
            f"{100 * splits[0].comparison.confidence:.4g} % one split in "
            f"{1 / (1 - splits[0].comparison.confidence):.0f} may have one."
        )
    )
    return "\n".join(parts)


def _range(shares: Sequence[tuple[float, str]]) -> str:
    """Return the first and the last of sorted shares in percent, each with its row."""
    (low, first), (high, last) = shares[0], shares[-1]
    said = f"{share_words(100 * low)} %"
    return said if len(shares) == 1 else f"{said} ({first}) to {share_words(100 * high)} % ({last})"


def _reach(row: Row) -> float:
    """Return how far the interval goes from 0, as a share of before."""
    if row.interval is None or not row.before:
        return 0.0
    return max(map(abs, row.interval)) / abs(row.before)


def _alarms(split: Split) -> str:
    said = "False alarm" if split.false_alarms else "No false alarm"
    rows = f": {', '.join(split.false_alarms)}" if split.false_alarms else ""
    number = len(split.undecided)
    undecided = f"; {number} row{'' if number == 1 else 's'} undecided" if number else ""
    return f"{said}{rows}{undecided}."


def _text(table: Table) -> str:
    """Return a table; a name that would make it too wide has a line of its own, and none is cut.

    So have all names, of a table whose other columns leave no room for them.
    """
    others = [text(_without_names(table, names), 10**6) for names in range(table.names + 1)]
    if _width(others[0]) <= TABLE_WIDTH:
        return others[0]
    first = others[1].splitlines()
    room = TABLE_WIDTH - _width(others[1]) - 2
    if room >= LEAST_NAME:
        names = [row[0] for row in table.rows]
        width = max((len(name) for name in names if len(name) <= room), default=LEAST_NAME)
        width = max(width, len(table.headings[0]))
        lines = [f"{table.headings[0]:{width}}  {first[0]}"]
        for name, line in zip(names, first[1:], strict=True):
            if len(name) > width:
                lines.append(name)
            lines.append(f"{name if len(name) <= width else '':{width}}  {line}")
        return "\n".join(lines) + "\n"
    names_out = next(
        (n for n in range(1, table.names) if _width(others[n]) + 2 <= TABLE_WIDTH), table.names
    )
    heads, *lines = others[names_out].splitlines()
    found = ["  ".join(table.headings[:names_out]), f"  {heads}"]
    for row, line in zip(table.rows, lines, strict=True):
        if any(row[:names_out]):
            found.append("  ".join(filter(None, row[:names_out])))
        found.append(f"  {line}")
    return "\n".join(found) + "\n"


def _without_names(table: Table, names: int) -> Table:
    """Return the table without its first `names` columns."""
    rows = [row[names:] for row in table.rows]
    return Table(table.headings[names:], rows, table.names - names)


def _width(lines: str) -> int:
    return max(map(len, lines.splitlines()))


def _title(comparisons: Sequence[Comparison]) -> str:
    first = comparisons[0]
    before = first.sides[0].label
    afters = ", ".join(comparison.sides[1].label for comparison in comparisons)
    units = _units(comparisons)
    parts = [f"{before} -> {afters}: {units}{'' if '/' in units else ' an iteration'}"]
    noisy = [
        row for c in comparisons for row in c.rows if row.kind == "noisy" and row.shift is not None
    ]
    if noisy:
        found = (_replicates(comparison) for comparison in comparisons)
        parts.append(" or ".join(dict.fromkeys(filter(None, found))))
        margin = first.margin or "the larger of 1 % and two quanta of the clock"
        parts.append(f"margin {margin}")
    return ", ".join(parts)


def _units(comparisons: Sequence[Comparison]) -> str:
    units = {_scale(row).unit for comparison in comparisons for row in comparison.rows}
    return units.pop() if len(units) == 1 else "figures"


def _replicates(comparison: Comparison) -> str:
    level = comparison.replicates.level
    rows = [row for row in comparison.rows if row.kind == "noisy" and row.shift is not None]
    counts = sorted({count for row in rows for count in row.units})
    if not counts:
        return ""
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    many = "" if counts == [1] else "s"
    if level == "block":
        return f"{number} block{many} of boots in turn"
    return f"{number} {level}{many} a side"


def _differences(comparison: Comparison, marked_up: bool) -> list[str]:
    found = differences(comparison)
    if not found:
        return []
    after = comparison.sides[1].label
    lines = [f"{comparison.sides[0].label} and {after} differ in"]
    bullet = "- " if marked_up else "  "
    lines += [fill(str(entry), indent=bullet).rstrip("\n") for entry in found]
    return ["\n".join(lines) + "\n"]


class _Scale(NamedTuple):
    """How the figures of a row are printed: divided by `by`, in `unit`, to `places` places."""

    by: float
    unit: str
    places: int

    def __call__(self, value: float | None, sign: bool = False) -> str:
        if value is None:
            return "-"
        figure = f"{value / self.by:{'+' if sign else ''}.{self.places}f}"
        return figure.lstrip("+-") if not figure.strip("+-0.") else figure


def _scale(row: Row) -> _Scale:
    by, unit = 1.0, row.unit
    figures = [value for value in (row.before, row.after) if value is not None]
    if row.unit in SECONDS and figures:
        size = max(map(abs, figures))
        by, unit = next((scale for scale in SCALES if size >= scale[0]), SCALES[-1])
    elif row.kind == "noisy" and figures:
        size = max(map(abs, figures))
        if size and not 1e-3 <= size < 1e9:
            power = max(3 * floor(log10(size) / 3), -300)
            by, unit = 10.0**power, f"1e{power} {unit}"
    shown = [value / by for value in (*figures, *([row.shift] if row.shift is not None else ()))]
    if all(float(value).is_integer() for value in shown):
        return _Scale(by, unit, 0)
    if row.interval is not None and row.interval[0] < row.interval[1]:
        half = (row.interval[1] - row.interval[0]) / 2 / by
    else:
        half = max(map(abs, shown)) / 100  # three to four figures where no interval says more
    size = max(map(abs, shown))
    if not half or not size:
        return _Scale(by, unit, 0)
    most = max(DIGITS - 1 - floor(log10(size)), 0)
    return _Scale(by, unit, min(max(1 - floor(log10(half)), 0), most))


def _interval(row: Row, scale: _Scale) -> str:
    if row.kind == "exact":
        return "exact" if row.shift is not None else "-"
    if row.interval is None:
        return "-"
    low, high = (scale(end, sign=True) for end in row.interval)
    return f"[{low}, {high}]"


def _percent(row: Row) -> str:
    if row.percent is None:
        return "-"
    if not row.shift:
        return "0.0%"
    figure = f"{row.percent:+.{1 if abs(row.percent) >= 1 else 2}f}%"
    return figure.lstrip("+-") if not figure.strip("+-0.%") else figure


def _verdict(row: Row) -> str:
    return (row.verdict or "missing") + ("?" if row.marked else "")


def _main(comparisons: Sequence[Comparison]) -> Table:
    several = len(comparisons) > 1
    mixed = len({row.unit for comparison in comparisons for row in comparison.rows}) > 1
    noisy = any(row.kind == "noisy" for comparison in comparisons for row in comparison.rows)
    level = f"{100 * comparisons[0].confidence:.4g} % interval" if noisy else "interval"
    names = list(dict.fromkeys(row.workload for c in comparisons for row in c.rows))
    lines = []
    for name in names:
        last = None
        for comparison in comparisons:
            row = next((row for row in comparison.rows if row.workload == name), None)
            if row is None:
                continue
            scale = _scale(row)
            shown = f"{name}, {scale.unit}" if mixed or scale.unit != row.unit else name
            line = ["" if shown == last else shown]
            last = shown
            if several:
                line.append(comparison.sides[1].label)
            line += [scale(row.before), scale(row.after), scale(row.shift, sign=True)]
            lines.append((*line, _interval(row, scale), _percent(row), _verdict(row)))
    heads = ["workload", "side"] if several else ["workload"]
    sides = ["before", "after"]
    labels = [side.label for side in comparisons[0].sides]
    if not several and max(map(len, labels)) <= 8:
        sides = labels
    return Table((*heads, *sides, "shift", level, "", "verdict"), lines, names=len(heads))


def _below(comparisons: Sequence[Comparison]) -> list[str]:
    """Return what stands under the table: controls, what could be seen, and the caveats."""
    words = []
    several = len(comparisons) > 1
    rows = [row for comparison in comparisons for row in comparison.rows]
    if not all(row.primary for row in rows):
        primary = dict.fromkeys(row.workload for row in rows if row.primary)
        words.append(f"Named beforehand, and adjusted among themselves: {', '.join(primary)}.")
    controls = dict.fromkeys(row.workload for row in rows if row.control and row.p is not None)
    if controls:
        named = any(comparison.named_controls for comparison in comparisons)
        why = "named as such" if named else "which a change to TR's reload cannot move"
        words.append(f"Controls, {why}: {', '.join(controls)}.")
    for comparison in comparisons:
        able = [row for row in comparison.rows if row.detectable is not None and row.before]
        if able:
            begin = f"Of {comparison.sides[1].label}, the minimum" if several else "Minimum"
            words.append(f"{begin} {_detectable(able, comparison)}")
    return list(dict.fromkeys((*words, *(said for c in comparisons for said in caveats(c)))))


def _detectable(rows: Sequence[Row], comparison: Comparison) -> str:
    shares = sorted(((row.detectable or 0) / abs(row.before or 1), row.workload) for row in rows)
    words = (
        f"detectable effect, told from 0 with power {100 * POWER:.0f} %, a row by itself: "
        f"{_range(shares)}. To be called faster or slower, a shift must exceed the margin by as "
        "much."
    )
    wanted = sorted(row.wanted for row in rows if row.wanted is not None)
    if wanted:
        wish = comparison.detect or comparison.margin
        what = f"a shift of {wish}" if wish else "a shift as large as the margin"
        unit = (
            "blocks" if comparison.replicates.paired else f"{comparison.replicates.level}s a side"
        )
        number = " to ".join(dict.fromkeys(f"{count:,}" for count in (wanted[0], wanted[-1])))
        words += f" To tell {what} from 0 takes {number} {unit}."
    return words


def _explained(comparisons: Sequence[Comparison]) -> Table:
    lines = []
    for comparison in comparisons:
        for row in comparison.rows:
            if row.spread is None:
                continue
            scale = _scale(row)
            share = [
                "-" if value is None or not row.before else f"{100 * value / abs(row.before):.2f}%"
                for value in (row.spread, row.detectable, row.margin)
            ]
            number, other = row.units
            units = str(number) if number == other else f"{number}, {other}"
            p = "-" if row.p is None else f"{row.p:.2g}"
            wanted = "-" if row.wanted is None else str(row.wanted)
            name = (
                row.workload
                if len(comparisons) == 1
                else f"{row.workload} {comparison.sides[1].label}"
            )
            lines.append(
                (name, units, share[0], share[1], scale(row.detectable), share[2], wanted, p)
            )
    level = comparisons[0].replicates.level
    headings = (
        *("workload", f"{level}s", "spread", "detectable", "", "margin"),
        *("runs wanted" if level == "run" else f"{level}s wanted", "p adjusted"),
    )
    return Table(headings, lines)


def _entry(row: Row, comparison: Comparison) -> dict[str, Any]:
    return {
        "workload": row.workload,
        "unit": row.unit,
        "kind": row.kind,
        "better": row.better,
        "from": comparison.sides[0].label,
        "to": comparison.sides[1].label,
        "before": row.before,
        "after": row.after,
        "shift": row.shift,
        "interval": None if row.interval is None else list(row.interval),
        "percent": row.percent,
        "verdict": row.verdict,
        "marked": row.marked,
        "margin": row.margin if row.kind == "noisy" else None,
        "p_adjusted": row.p,
        "units": list(row.units),
        "spread": row.spread,
        "detectable": row.detectable,
        "wanted": row.wanted,
        "control": row.control,
        "primary": row.primary,
        "missing": row.missing,
    }


def _document(comparisons: Sequence[Comparison], gate: Gate | None) -> dict[str, Any]:
    first = comparisons[0]
    document: dict[str, Any] = {
        "schema": "kvmbench.comparison/1",
        "labels": [first.sides[0].label, *(c.sides[1].label for c in comparisons)],
        "level": first.replicates.level,
        "confidence": first.confidence,
        "power": POWER,
        "family": first.family,
        "differences": [
            {"what": d.what, "before": d.before, "after": d.after, "to": c.sides[1].label}
            for c in comparisons
            for d in differences(c)
        ],
        "caveats": list(dict.fromkeys(words for c in comparisons for words in caveats(c))),
        "rows": [_entry(row, c) for c in comparisons for row in c.rows],
    }
    if gate is not None:
        document["gate"] = {"status": gate.status, "lines": list(gate.lines)}
    return document


def _junit(comparisons: Sequence[Comparison], gate: Gate | None) -> str:
    """One test case a row: a failure where the gate says so, else the verdict as a property."""
    from kvmbench.formats.junit import Case, document

    grave = {"regression": 2, "inconclusive": 1, "ok": 0}
    cases = []
    for comparison in comparisons:
        after = comparison.sides[1].label
        for row in comparison.rows:
            entry = _entry(row, comparison)
            found = [
                finding
                for finding in (gate.findings if gate else ())
                if (finding.workload, finding.to) == (row.workload, after)
            ]
            found.sort(key=lambda finding: -grave[finding.status])
            failed = found[0].words if found and found[0].status == "regression" else None
            skipped = found[0].words if found and found[0].status == "inconclusive" else None
            properties = {
                name: value if isinstance(value, str) else json.dumps(value)
                for name, value in entry.items()
                if value is not None and name != "workload"
            }
            cases.append(
                Case(
                    name=row.workload, classname=f"{entry['from']} -> {after}",
                    properties=properties, failure=failed, skipped=skipped or row.missing,
                )
            )  # fmt: skip
    return document("kvmbench compare", cases).decode()


def _csv(comparisons: Sequence[Comparison]) -> str:
    lines = []
    for comparison in comparisons:
        for row in comparison.rows:
            entry = _entry(row, comparison)
            low, high = entry.pop("interval") or (None, None)
            before, after = entry.pop("units")
            entry |= {"low": low, "high": high, "units_before": before, "units_after": after}
            lines.append(entry)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()
