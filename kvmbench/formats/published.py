"""Published tables (`kvmbench/data/published`) as results.

A single figure is one run's one value, and the rows of a configuration are one run;
figures that were published one by one are one run each. All of them are in one boot: which boots
they came from is never published. Lost are the average that a source prints with
its runs, its remarks and its title: `kvmbench show` prints them.
"""

from __future__ import annotations

from kvmbench.catalog import Published, PublishedRow, load_published
from kvmbench.errors import FileError, ResultError
from kvmbench.results import Boot, Host, Result, Run, Series, check_growth

__all__ = ["decode", "from_published"]


def decode(data: bytes, name: str) -> Result:
    """Return the result in the TOML of a published table. Raises ResultError."""
    entries = sum(map(data.count, (b"=", b"{", b"[")))
    check_growth(150 * entries, len(data), name)
    try:
        table = load_published(name, data)
    except FileError as error:
        raise ResultError(str(error)) from None
    return from_published(table)


def from_published(table: Published) -> Result:
    """Return the figures of a published table as a result."""
    values = (value for row in table.rows for value in row.values or (row.value,))
    whole = table.unit == "cycles" and all(float(value).is_integer() for value in values)

    def run(*figures: tuple[PublishedRow, float]) -> Run:
        return Run(
            series=[
                Series(
                    workload=row.name,
                    configuration=row.configuration,
                    unit=table.unit,
                    kind="noisy",
                    better="higher" if table.better == "higher" else "lower",
                    values=[value],
                    quantum=1.0 if whole else None,  # printed without decimals
                    policy=table.policies.get(row.configuration),
                )
                for row, value in figures
            ]
        )

    runs = []
    for configuration in table.configurations:
        rows = [row for row in table.rows if row.configuration == configuration]
        if alone := [(row, row.value) for row in rows if not row.values]:
            runs.append(run(*alone))
        runs += [run((row, value)) for row in rows for value in row.values]
    return Result(
        name=table.name,
        source=table.source,
        order="lost" if table.order == "lost" else "time",
        boots=[Boot(host=Host(facts={"hardware": table.hardware, "date": table.date}), runs=runs)],
    )
