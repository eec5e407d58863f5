"""CSV for Apache Otava: one line per result, `time,commit` and a column per row.

Written only, by `kvmbench history`. Otava reads each cell of a metric as a number and has no sign
for a missing one, so a column is complete or is left out. Its configuration names the columns:
docs/history.md has one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from kvmbench.errors import ResultError
from kvmbench.report.escape import csv_cell

__all__ = ["complete", "document"]

FIXED = ("time", "commit")
Number = int | float


def complete(columns: Mapping[str, Sequence[Number | None]]) -> dict[str, list[Number]]:
    """Return the columns that have a figure in every line."""
    return {
        name: [value for value in values if value is not None]
        for name, values in columns.items()
        if None not in values
    }


def document(
    times: Sequence[str | None],
    commits: Sequence[str],
    columns: Mapping[str, Sequence[Number | None]],
) -> str:
    """Return the CSV of results with these times (ISO 8601), commits and figures, line by line.

    Raises ResultError for a result without its time, which Otava needs, for a row that is named
    like one of the fixed columns, and where no column is complete.
    """
    for time, commit in zip(times, commits, strict=True):
        if time is None:
            raise ResultError(
                f"{commit or 'a result'}: Otava needs the time, and its runs have none"
            )
    whole = complete(columns)
    if not whole:
        raise ResultError(
            "no row has a figure in every result, which Otava needs: name fewer files"
        )
    for name in FIXED:
        if name in whole:
            raise ResultError(f"a row named {name!r}: Otava would take it for the column {name!r}")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([csv_cell(name) for name in (*FIXED, *whole)])
    for number, (time, commit) in enumerate(zip(times, commits, strict=True)):
        writer.writerow([time, csv_cell(commit), *(values[number] for values in whole.values())])
    return out.getvalue()
