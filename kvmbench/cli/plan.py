"""`kvmbench plan`: two kernels measured in turn, across reboots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvmbench.cli.common import Group, now, read
from kvmbench.cli.measure import leave, measured, measuring_options
from kvmbench.cli.output import try_folder
from kvmbench.cli.progress import naming, say
from kvmbench.errors import WrongKernelError, brief, cut

if TYPE_CHECKING:
    from kvmbench.live.plan import Kernel, Plan


@click.group("plan", cls=Group)
def command() -> None:
    """Plan measurements of two kernels in turn, across reboots, and do the plan's steps.

    \b
    Examples:
      kvmbench plan new 6.11.0 6.12.0    write plan.json: the boots in order
      kvmbench plan run                  after each boot: measure
    """


@click.command("measure", add_help_option=False)
@measuring_options
def step_options(**_: Any) -> None:
    """Hold the options that a step takes; a step keeps and prints as the plan says."""


def _step(arguments: Sequence[str], allow_code: bool) -> dict[str, Any]:
    """Return the options of a step, checked in the same way when a plan is made and run."""
    chosen = step_options.make_context("kvmbench measure", list(arguments)).params
    if chosen["workload_file"] is not None and not allow_code:
        raise click.UsageError("--workload-file runs Python, which only --allow-code permits")
    return chosen


allow_code_option = click.option(
    "--allow-code", is_flag=True, allow_from_autoenv=False,
    help="Accept the plan's --workload-file, which kvmbench runs as Python.",
)  # fmt: skip


@command.command("new")
@click.argument("before", metavar="BEFORE")
@click.argument("after", metavar="AFTER")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS]...")
@click.option(
    "--blocks", type=click.IntRange(1, 1000), default=8,
    help="Blocks of four boots, two of each kernel.",
)  # fmt: skip
@click.option(
    "--before-word", multiple=True, metavar="WORD",
    help="Word of BEFORE's command line, such as mitigations=off; may be repeated.",
)  # fmt: skip
@click.option(
    "--after-word", multiple=True, metavar="WORD",
    help="Word of AFTER's command line; may be repeated.",
)  # fmt: skip
@click.option("--seed", type=int, help="Of the blocks' orders. [default: random]")
@allow_code_option
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), default="plan.json", metavar="FILE",
    help="The plan; kvmbench writes the results to the same folder.",
)  # fmt: skip
def new(
    before: str, after: str, arguments: tuple[str, ...], blocks: int,
    before_word: tuple[str, ...], after_word: tuple[str, ...], seed: int | None,
    allow_code: bool, output: str,
) -> None:  # fmt: skip
    """Write a plan of boots of two kernels: BEFORE and AFTER, as `uname -r` prints them.

    LABEL=RELEASE gives a kernel a name. Each block is ABBA or BAAB, drawn at random. OPTIONS are
    those of `kvmbench measure` for each step.

    \b
    Examples:
      kvmbench plan new 6.11.0 6.12.0 --blocks 8
      kvmbench plan new 6.11.0 6.12.0 -o fast.json -- --fast cpuid
      kvmbench plan new on=6.12.0 off=6.12.0 --after-word mitigations=off
    """
    import random

    from kvmbench.live import plan as plans

    if Path(output).exists():
        raise click.UsageError(f"{output} exists: choose another file with -o")
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    _step(arguments, allow_code)
    try:
        kernels = (_kernel(before, before_word, output), _kernel(after, after_word, output))
        for kernel in kernels:
            path = Path(output).parent / kernel.results
            if path.exists():
                raise click.UsageError(f"{path} exists: the plan would add its boots to it")
        plan = plans.make(kernels, blocks, seed, arguments)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with naming(output):
        plans.write(output, plan)
    many = "s" if blocks > 1 else ""
    file = "" if output == "plan.json" else f" {output}"
    say(
        f"{output}: {len(plan.steps)} boots in {blocks} block{many}. Boot {plan.kernel(0)}, then\n"
        f"kvmbench plan run{file}"
    )


def _kernel(argument: str, words: tuple[str, ...], output: str) -> Kernel:
    from kvmbench.live.plan import Kernel

    label, equals, release = argument.partition("=")
    label, release = (label, release) if equals else (argument, argument)
    if not label or not release:
        raise click.UsageError(f"{brief(argument)} is not RELEASE or LABEL=RELEASE")
    if "/" in label or label.startswith("."):
        said = f"label {brief(label)} becomes a file's name: no / in it, no . first"
        raise click.UsageError(said)
    results = f"{Path(output).stem}-{label}.json"
    return Kernel(label=label, release=release, words=list(words), results=results)


@command.command("run")
@click.argument("path", metavar="[FILE]", default="plan.json", type=click.Path())
@allow_code_option
def run(path: str, allow_code: bool) -> None:
    """Measure the plan's next step, and name the kernel to boot next.

    FILE is plan.json by default. kvmbench refuses where another kernel runs than the step's. After
    the last step, `kvmbench compare` of the two results pairs the boots by block.

    \b
    Examples:
      kvmbench plan run
      kvmbench plan run off.json
    """
    from kvmbench.live import plan as plans
    from kvmbench.live.host import boot_id, host
    from kvmbench.results import Boot

    plan = read(plans.read, path)
    if plan.next() is None:
        say(_complete(plan, path))
        return
    this = host()
    try:
        number = plans.due(plan, this, boot_id())
    except WrongKernelError as error:
        raise click.ClickException(f"{path}: {error}") from None
    where = f"step {number + 1} of {len(plan.steps)}"
    try:
        chosen = _step(plan.arguments, allow_code)
    except click.UsageError as error:
        raise click.ClickException(
            f"{path}: $.arguments: {cut(error.format_message(), 250)}"
        ) from None
    say(f"{where}: {plan.kernel(number)}", err=True)
    keep_going = chosen.pop("keep_going")
    try_folder(Path(path).resolve().parent, path)
    result = measured(**chosen)
    leave(result, keep_going)  # the step is still due
    runs = [run for _, run in result.runs()]
    boot = Boot(id=boot_id(), labels=result.boots[0].labels, host=this, runs=runs)
    with naming(path):
        plan = plans.record(path, number, boot, now())
    following = plan.next()
    if following is None:
        say(_complete(plan, path))
    else:
        say(f"{where} done. Next: boot {plan.kernel(following)}")


def _complete(plan: Plan, path: str) -> str:
    files = " ".join(
        f"{kernel.label}={Path(path).parent / kernel.results}" for kernel in plan.kernels
    )
    return f"all {len(plan.steps)} steps are done:\nkvmbench compare {files}"
