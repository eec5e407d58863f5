"""`kvmbench schema`: the JSON Schema of the result format."""

from __future__ import annotations

import click


@click.command("schema")
def command() -> None:
    """Print the JSON Schema (draft 2020-12) of kvmbench's result files.

    \b
    Examples:
      kvmbench schema
      kvmbench schema > result.schema.json
    """
    from kvmbench.results import json_schema

    click.echo(json_schema(), nl=False)
