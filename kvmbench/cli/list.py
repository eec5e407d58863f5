"""`kvmbench list`: the names that the other commands take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from kvmbench.cli.options import results_dir_option
from kvmbench.cli.output import emit, output_options
from kvmbench.cli.progress import note
from kvmbench.cli.store import saved_results

if TYPE_CHECKING:
    from kvmbench.results import Result
    from kvmbench.scenario.scenario import Scenario


@click.command("list")
@click.argument(
    "what",
    type=click.Choice(["workloads", "scenarios", "policies", "profiles", "published", "results"]),
)
@results_dir_option
@output_options("text", "markdown", "csv", "json")
def command(what: str, results_dir: str, format: str | None, output: str | None) -> None:
    """List the names of a kind, each with a description.

    \b
    Examples:
      kvmbench list policies
      kvmbench list published
      kvmbench list results
    """
    from kvmbench import catalog, workloads
    from kvmbench.report import Document, Facts, Record

    try:
        known = {
            "workloads": lambda: {n: w.about for n, w in workloads.workloads().items()},
            "scenarios": lambda: {n: s.about for n, s in _scenarios().items()},
            "policies": lambda: {n: p.about for n, p in catalog.policies().items()},
            "profiles": lambda: {n: p.about for n, p in catalog.profiles().items()},
            "published": lambda: {
                n: f"{t.date}: {t.title}" for n, t in catalog.published().items()
            },
            "results": lambda: _results(results_dir),
        }[what]()
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    if not known:
        note(f"no {what} in {results_dir}: `kvmbench run --save NAME` keeps one")
        return
    records: list[Record] = [{"name": name, "about": about} for name, about in known.items()]
    emit(Document("", [Facts(list(known.items()))], records, records), format, output)


def _scenarios() -> Mapping[str, Scenario]:
    from kvmbench.scenario.scenario import scenarios

    return scenarios()


def _results(results_dir: str) -> dict[str, str]:
    """Return the results kept in a folder by name, each with a description."""
    from kvmbench import formats

    found = {}
    for name, path in saved_results(results_dir).items():
        try:
            found[name] = _about(formats.load(path))
        except (OSError, ValueError) as error:
            found[name] = f"cannot be read: {error}"
    return found


def _about(result: Result) -> str:
    runs = [run for _, run in result.runs()]
    engines = {run.engine for run in runs if run.engine}
    times = sorted(run.time for run in runs if run.time)
    parts = [
        f"{_count(len(result.workloads()), 'workload')}, {', '.join(result.configurations())}"
        if any(result.configurations())
        else _count(len(result.workloads()), "workload"),
        f"{_count(len(runs), 'run')} in {_count(len(result.boots), 'boot')}",
        *sorted(engines),
        *times[-1:],
    ]
    return "; ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
