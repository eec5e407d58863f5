"""JSON of github-action-benchmark's custom tools: an array of one figure per row.

The figure is the median of the runs' medians, `range` the lowest and the highest of them. The
tool is `customSmallerIsBetter`, or `customBiggerIsBetter` where higher is better, which the file
itself does not say; so one file holds rows of one direction only. Lost: the runs.
(`BenchmarkResult` in src/extract.ts at github.com/benchmark-action/github-action-benchmark.)
"""

from __future__ import annotations

import msgspec

from kvmbench.errors import ResultError, cut
from kvmbench.formats.rows import check_labels, rows
from kvmbench.report.figures import figure
from kvmbench.results import Result

__all__ = ["encode"]


def encode(result: Result) -> bytes:
    """Return the array.

    Raises ResultError where lower is better in one row and higher in another, or two rows would
    have one name.
    """
    found = rows(result)
    check_labels(found, "github-action")
    first = found[0].first
    for row in found:
        if row.first.better != first.better:
            raise ResultError(
                f"github-action: {first.better} is better in {cut(first.workload)}, "
                f"{row.first.better} in {cut(row.first.workload)}: its tools take one direction "
                "per file"
            )
    entries = []
    for row in found:
        medians = row.medians
        entry = {"name": row.label, "unit": row.first.unit, "value": row.centre}
        if len(medians) > 1:
            entry["range"] = f"{figure(min(medians))} to {figure(max(medians))}"
        runs = f"{len(medians)} run{'s' * (len(medians) != 1)}"
        entry["extra"] = "\n".join((runs, row.first.kind, *row.first.marks))
        entries.append(entry)
    return msgspec.json.format(msgspec.json.encode(entries), indent=1) + b"\n"
