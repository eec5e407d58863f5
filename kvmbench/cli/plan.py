"""`kvmbench plan`, and a step of it: two kernels in turn, across reboots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kvmbench.live.plan import Kernel, Plan


@click.command("plan", context_settings={"ignore_unknown_options": True})
@click.argument("before", metavar="BEFORE")
@click.argument("after", metavar="AFTER")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- RUN-OPTIONS]...")
@click.option(
    "--blocks",
    type=click.IntRange(1, 1000),
    default=8,
    show_default=True,
    help="Blocks of four boots, two of each kernel.",
)
@click.option(
    "--before-word",
    multiple=True,
    metavar="WORD",
    help="What BEFORE's command line must have, such as mitigations=off; may be repeated.",
)
@click.option(
    "--after-word",
    multiple=True,
    metavar="WORD",
    help="What AFTER's must have; may be repeated.",
)
@click.option("--seed", type=int, default=None, help="Of the blocks' orders. [default: drawn]")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    default="plan.json",
    show_default=True,
    metavar="FILE",
    help="The plan; the results go beside it.",
)
def command(
    before: str,
    after: str,
    arguments: tuple[str, ...],
    blocks: int,
    before_word: tuple[str, ...],
    after_word: tuple[str, ...],
    seed: int | None,
    output: str,
) -> None:
    """Write a plan that boots two kernels in turn: BEFORE and AFTER, each as `uname -r` says it.

    LABEL=RELEASE gives a kernel a name. Each block is ABBA or BAAB, drawn for each. After each
    boot, `kvmbench run --plan FILE` does the step that is due, and refuses where another kernel
    runs; `kvmbench compare` of the two results pairs by block. What follows -- is handed to
    `kvmbench run`, which measures (--engine kvm) unless it says otherwise.

    \b
    Examples:
      kvmbench plan 6.11.0 6.12.0 --blocks 8
      kvmbench plan on=6.12.0 off=6.12.0 --after-word mitigations=off -o off.json
    """
    import random

    from kvmbench.live import plan as plans

    if Path(output).exists():
        raise click.UsageError(f"{output} exists: a plan is not replaced; choose another file, -o")
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    kernels = (
        _kernel(before, before_word, output),
        _kernel(after, after_word, output),
    )
    for kernel in kernels:
        if (Path(output).parent / kernel.results).exists():
            path = Path(output).parent / kernel.results
            raise click.UsageError(f"{path} exists: its boots would be taken for the plan's")
    if not any(word == "--engine" or word.startswith("--engine=") for word in arguments):
        arguments = ("--engine", "kvm", *arguments)
    try:
        plan = plans.make(kernels, blocks, seed, arguments)
        _check_arguments(plan.arguments)
        plans.write(output, plan)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{output}: {error.strerror or error}") from None
    many = "s" if blocks > 1 else ""
    click.echo(
        f"{output}: {len(plan.steps)} boots in {blocks} block{many}. Boot {plan.kernel(0)}, then\n"
        f"kvmbench run --plan {output}"
    )


def _kernel(argument: str, words: tuple[str, ...], output: str) -> Kernel:
    from kvmbench.live.plan import Kernel

    label, equals, release = argument.partition("=")
    label, release = (label, release) if equals else (argument, argument)
    if not label or not release:
        raise click.UsageError(f"{argument!r} is not RELEASE or LABEL=RELEASE")
    if "/" in label or label.startswith("."):
        raise click.UsageError(f"label {label!r} becomes a file's name: no / in it, no . first")
    results = f"{Path(output).stem}-{label}.json"
    return Kernel(label=label, release=release, words=list(words), results=results)


def _check_arguments(arguments: list[str]) -> None:
    """Refuse now what `kvmbench run` would refuse after the first boot."""
    from kvmbench.cli.run import command as run

    context = run.make_context("run", list(arguments), resilient_parsing=False)
    for name in ("plan", "save", "append", "replace", "output", "against"):
        if context.params.get(name):
            raise click.UsageError(f"--{name} of `run` is not for a plan's steps")


def run_step(path: str) -> None:
    """Do the plan's step that is due in this boot."""
    from datetime import UTC, datetime

    from kvmbench.cli.common import read
    from kvmbench.cli.run import command as run
    from kvmbench.cli.run import measured
    from kvmbench.errors import ResultError, WrongKernelError
    from kvmbench.live import plan as plans
    from kvmbench.live.host import boot_id, host
    from kvmbench.results import Boot

    plan = read(plans.read, path)
    if plan.next() is None:
        click.echo(_complete(plan, path))
        return
    this = host()
    try:
        number = plans.due(plan, this, boot_id())
    except WrongKernelError as error:
        raise click.ClickException(f"{path}: {error}") from None
    click.echo(f"step {number + 1} of {len(plan.steps)}: {plan.kernel(number)}", err=True)
    context = run.make_context("run", list(plan.arguments), parent=click.get_current_context())
    _, result = measured(**context.params)
    boot = Boot(id=boot_id(), host=this, runs=[run for _, run in result.runs()])
    try:
        plan = plans.record(path, number, boot, datetime.now(UTC).isoformat(timespec="seconds"))
    except ResultError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror or error}") from None
    following = plan.next()
    if following is None:
        click.echo(_complete(plan, path))
    else:
        click.echo(
            f"step {number + 1} of {len(plan.steps)} done. Next: boot {plan.kernel(following)}"
        )


def _complete(plan: Plan, path: str) -> str:
    files = " ".join(
        f"{kernel.label}={Path(path).parent / kernel.results}" for kernel in plan.kernels
    )
    return f"all {len(plan.steps)} steps are done:\nkvmbench compare {files}"
