"""`kvmbench list`: the names that the other commands take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kvmbench.scenario import Scenario


@click.command("list")
@click.argument(
    "what", type=click.Choice(["workloads", "scenarios", "policies", "profiles", "published"])
)
def command(what: str) -> None:
    """List the names of a kind, and what each stands for.

    \b
    Examples:
      kvmbench list policies
      kvmbench list published
    """
    from kvmbench import catalog, tables, workloads

    try:
        known = {
            "workloads": lambda: {n: w.about for n, w in workloads.workloads().items()},
            "scenarios": lambda: {n: s.about for n, s in _scenarios().items()},
            "policies": lambda: {n: p.about for n, p in catalog.policies().items()},
            "profiles": lambda: {n: p.about for n, p in catalog.profiles().items()},
            "published": lambda: {
                n: f"{t.date}: {t.title}" for n, t in catalog.published().items()
            },
        }[what]()
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    width = max(map(len, known)) + 2
    click.echo("".join(tables.fact(name, about, width) for name, about in known.items()), nl=False)


def _scenarios() -> Mapping[str, Scenario]:
    from kvmbench.scenario import scenarios

    return scenarios()
