"""Results as text, Markdown, CSV, JSON and in the patch's own form."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from kvmbench.report.plain import Table, count, fill, markdown, signed, text
from kvmbench.simulation.simulate import Residual, Result, Row

__all__ = ["FORMATS", "render"]

FORMATS = ("text", "kut", "markdown", "csv", "json")
SEGMENTS = {"exit": "exit", "user": "user", "host": "host state", "tr": "TR", "map": "map"}
"""What a table calls each of simulate.SEGMENTS."""

LIGHT = (
    "Light rows (no exit, or one that the kernel handles itself) do not move: they never put "
    "the vCPU, and TR is reloaded only at the put, on the way to userspace or when the vCPU's "
    "thread is scheduled out."
)
AT_EXIT = "Light rows move only because {} acts at every VM exit; what does not exit does not move."
FITTED = (
    "fitted: a cost of this row was chosen to meet a published table, so the row is no evidence "
    "for the model."
)


def render(
    result: Result,
    form: str,
    *,
    explain: bool = False,
    residuals: Sequence[Residual] | None = None,
    published: str | None = None,
) -> str:
    """Return `result` in one of FORMATS, with a newline at its end.

    `explain` adds where the cycles of each cell go, `residuals` how the rows compare with those
    of the table named `published`.
    """
    if form == "json":
        document = _document(result, residuals, published)
        return json.dumps(document, indent=2) + "\n"
    if form == "csv":
        return _csv(result, explain, residuals)
    if form == "kut":
        columns = (("Before:", "before"), ("After:", "after"))
        lines = []
        for heading, side in columns:
            lines.append(heading)
            lines += [f"{r.workload} {count(getattr(r, side).cycles)}" for r in result.rows]
        return "\n".join(lines) + "\n"
    write = {"text": text, "markdown": markdown}[form]
    parts = [fill(_title(result)), write(_main(result))]
    if any(row.light for row in result.rows):
        at_exit = " and ".join({p.name: None for p in result.policies if p.vm_exit})
        parts.append(fill(AT_EXIT.format(at_exit) if at_exit else LIGHT))
    if explain:
        parts += [fill("Where the cycles go:"), write(_segments(result))]
    if residuals is not None:
        what = f"Change in cycles as predicted, and as published in {published}"
        parts += [
            fill(f"{what}; the residual is what the model does not explain:"),
            write(_residuals(residuals)),
        ]
        if any(row.fitted for row in residuals):
            parts.append(fill(FITTED))
    return "\n".join(parts)


def _title(result: Result) -> str:
    before, after = (policy.name for policy in result.policies)
    what = {
        "off": f"{before} -> {after}",
        "on": f"{before} -> {after}, the vCPU's thread holding an I/O bitmap",
        "both": f"{after}, the vCPU's thread without -> with an I/O bitmap",
    }[result.ioperm]
    vendor = "" if result.vendor == "vmx" else f", {result.vendor}"
    return (
        f"{what}: simulated cycles per iteration, profile {result.profile.name}{vendor}, "
        f"{result.iterations:,} iterations"
    )


def _reloads(row: Row) -> str:
    return f"{count(row.before.reloads)} -> {count(row.after.reloads)}"


def _percent(row: Row) -> str:
    if row.percent is None:
        return "-"
    return f"{row.percent:+.1f}%" if row.change else "0.0%"


def _main(result: Result) -> Table:
    rows = [
        (
            row.workload,
            count(row.before.cycles),
            count(row.after.cycles),
            signed(row.change),
            _percent(row),
            _reloads(row),
        )
        for row in result.rows
    ]
    return Table(("workload", "before", "after", "change", "", "TR reloads"), rows)


def _segments(result: Result) -> Table:
    """One line for each segment that has cycles on either side, and their sum."""
    rows = []
    for row in result.rows:
        cells = {
            label: (row.before.segments[name], row.after.segments[name])
            for name, label in SEGMENTS.items()
        }
        found = {label: both for label, both in cells.items() if any(both)}
        if len(found) != 1:
            found["sum"] = (row.before.cycles, row.after.cycles)
        for label, (before, after) in found.items():
            name = row.workload if label == next(iter(found)) else ""
            rows.append((name, label, count(before), count(after), signed(after - before)))
    return Table(("workload", "where", "before", "after", "change"), rows, names=2)


def _residuals(residuals: Sequence[Residual]) -> Table:
    rows = [
        (
            row.workload,
            signed(row.predicted),
            signed(row.published),
            signed(row.residual),
            "fitted" if row.fitted else "",
        )
        for row in residuals
    ]
    return Table(("workload", "predicted", "published", "residual", ""), rows)


def _document(
    result: Result, residuals: Sequence[Residual] | None, published: str | None
) -> dict[str, Any]:
    by_name = {row.workload: row for row in residuals or ()}
    rows = []
    for row in result.rows:
        entry = {
            "workload": row.workload,
            "before": row.before.cycles,
            "after": row.after.cycles,
            "change": row.change,
            "percent": row.percent,
            "reloads_before": row.before.reloads,
            "reloads_after": row.after.reloads,
            "segments_before": row.before.segments,
            "segments_after": row.after.segments,
        }
        if found := by_name.get(row.workload):
            entry |= {
                "published_change": found.published,
                "residual": found.residual,
                "fitted": found.fitted,
            }
        rows.append(entry)
    document: dict[str, Any] = {
        "engine": "sim",
        "model_version": result.model_version,
        "unit": "cycles",
        "profile": result.profile.name,
        "policies": dict(zip(("before", "after"), (p.name for p in result.policies), strict=True)),
        "ioperm": result.ioperm,
        "vendor": result.vendor,
        "iterations": result.iterations,
    }
    if published is not None:
        document["against"] = published
    return document | {"rows": rows}


def _csv(result: Result, explain: bool, residuals: Sequence[Residual] | None) -> str:
    document = _document(result, residuals, None)
    left_out = () if explain else ("segments_before", "segments_after")
    lines = []
    for row in document["rows"]:
        flat: dict[str, Any] = {}
        for key, value in row.items():
            if isinstance(value, dict):
                side = key.removeprefix("segments_")
                if key not in left_out:
                    flat |= {f"{name}_{side}": cycles for name, cycles in value.items()}
            else:
                flat[key] = value
        lines.append(flat)
    headings = list(dict.fromkeys(key for line in lines for key in line))
    out = io.StringIO()
    writer = csv.DictWriter(out, headings, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()
