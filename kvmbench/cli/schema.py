"""`kvmbench schema`: the JSON Schema of each kind of JSON that kvmbench writes."""

from __future__ import annotations

from importlib import import_module

import click

HOMES = {  # kind: the module whose SCHEMAS has it
    "result": "results",
    "comparison": "comparison.document",
    "self-test": "comparison.document",
    "history": "comparison.history_document",
    "scenario": "scenario.document",
    "sweep": "sweeps.document",
    "trace": "traces.document",
    "check": "checker.document",
    "known": "checker.known",
    "plan": "live.plan",
}


@click.command("schema")
@click.argument("kind", type=click.Choice(list(HOMES)))
def command(kind: str) -> None:
    """Print the JSON Schema (draft 2020-12) of the JSON that commands write.

    A result is the JSON of `run`, `measure`, `convert` and --save; a plan is that of `plan new`,
    known that of `check --known`; the other kinds are those of the commands of that name.

    \b
    Examples:
      kvmbench schema result
      kvmbench schema comparison > comparison.schema.json
    """
    from kvmbench.results import json_schema

    schemas = import_module(f"kvmbench.{HOMES[kind]}").SCHEMAS
    click.echo(json_schema(schemas[kind], f"kvmbench.{kind}/1"), nl=False)
