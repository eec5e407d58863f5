"""`kvmbench completion`: the shell's completion script."""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      kvmbench completion bash > kvmbench.bash
      eval "$(kvmbench completion zsh)"
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise click.ClickException(f"click has no completion for {shell}")
    root = click.get_current_context().find_root().command
    click.echo(found(root, {}, "kvmbench", "_KVMBENCH_COMPLETE").source())
