"""`kvmbench plan`: two kernels measured in turn, across reboots."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvmbench.cli.common import (
    FilePath,
    Group,
    Whole,
    chosen_workloads,
    known_workloads,
    now,
    read,
    typed,
)
from kvmbench.cli.compare import BOOT_SD, chosen_sides
from kvmbench.cli.measure import leave, measurable, measured, measuring_options
from kvmbench.cli.options import Decorator
from kvmbench.cli.output import emit, try_file
from kvmbench.cli.progress import naming, say
from kvmbench.cli.until import MOST, check_until, until_options
from kvmbench.errors import ResultError, WrongKernelError, brief, cut
from kvmbench.report.figures import plural, share_range

if TYPE_CHECKING:
    from kvmbench.comparison.shifts import BootSpread
    from kvmbench.comparison.variance import Size
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
    if chosen["workload_file"] is None:
        chosen_workloads(chosen["names"], known_workloads(None), measurable)
    return chosen


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A time such as 4h, 90m, 45s or 2h30m, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, float):
            return value
        parts = re.fullmatch(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s)?", value.strip())
        hours, minutes, seconds = (
            (int(part or 0) for part in parts.groups()) if parts else (0, 0, 0)
        )
        if not (found := float(3600 * hours + 60 * minutes + seconds)):
            self.fail(f"{brief(value)} is no time such as 4h, 90m, 45s or 2h30m", param, ctx)
        return found


DURATION = Duration()


def duration(seconds: float) -> str:
    """Return a time in hours and minutes, at least one minute."""
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    return " ".join([*([f"{hours} h"] if hours else []), *([f"{minutes} min"] if minutes else [])])


allow_code_option = click.option(
    "--allow-code", is_flag=True, allow_from_autoenv=False,
    help="Accept the plan's --workload-file, which kvmbench runs as Python.",
)  # fmt: skip


def _settings(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise click.BadParameter(f"{brief(name)} is not MODULE.PARAMETER=VALUE")
    return {name: value for name, _, value in pairs}


def _setting(option: str, kernel: str) -> Decorator:
    return click.option(
        option, multiple=True, metavar="MODULE.PARAMETER=VALUE", callback=_settings,
        help=f"Parameter of KVM's modules that {kernel} has, such as kvm.halt_poll_ns=0.",
    )  # fmt: skip


@command.command("new")
@click.argument("before", metavar="BEFORE")
@click.argument("after", metavar="AFTER")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS]...")
@click.option(
    "--pairs", type=Whole(1, 1000), default=8,
    help="Pairs of boots, one of each kernel, in drawn order.",
)  # fmt: skip
@click.option(
    "--within-boot",
    is_flag=True,
    help="Alternate settings that change at run time, without a reboot.",
)
@click.option(
    "--before-word", multiple=True, metavar="WORD",
    help="Word of BEFORE's command line, such as mitigations=off; may be repeated.",
)  # fmt: skip
@click.option(
    "--after-word", multiple=True, metavar="WORD",
    help="Word of AFTER's command line; may be repeated.",
)  # fmt: skip
@_setting("--before-set", "BEFORE")
@_setting("--after-set", "AFTER")
@click.option("--seed", type=int, help="Of the pairs' orders. [default: random]")
@click.option(
    "--pilot",
    metavar="FILE",
    help="Result of several boots; its spreads and --budget choose --pairs, and --runs of a boot.",
)
@click.option(
    "--budget", type=DURATION, metavar="TIME", help="Time for all boots, such as 4h or 90m."
)
@click.option(
    "--boot-time",
    type=DURATION,
    metavar="TIME",
    default="3m",
    help="Time to boot a kernel, for --budget.",
)
@click.option(
    "--run-time",
    type=DURATION,
    metavar="TIME",
    show_default="the pilot's",
    help="Time of a run, for --budget.",
)
@click.option(
    "--boot-sd",
    type=BOOT_SD,
    metavar="SHARE",
    help="Deviation between boots, for a --pilot of one: 0.4%.",
)
@allow_code_option
@click.option(
    "-o", "--output", type=FilePath(dir_okay=False), default="plan.json", metavar="FILE",
    help="The plan; kvmbench writes the results to the same folder.",
)  # fmt: skip
def new(
    before: str, after: str, arguments: tuple[str, ...], pairs: int, within_boot: bool,
    before_word: tuple[str, ...], after_word: tuple[str, ...], before_set: dict[str, str],
    after_set: dict[str, str], seed: int | None, pilot: str | None, budget: float | None,
    boot_time: float, run_time: float | None, boot_sd: BootSpread | None, allow_code: bool,
    output: str,
) -> None:  # fmt: skip
    """Write a plan of boots of two kernels: BEFORE and AFTER, as `uname -r` prints them.

    LABEL=RELEASE gives a kernel a name. The order of each pair is drawn at random. OPTIONS are
    those of `kvmbench measure` for each step. With --pilot and --budget kvmbench chooses the
    numbers of boots and of runs that detect the least.

    \b
    Examples:
      kvmbench plan new 6.11.0 6.12.0
      kvmbench plan new 6.11.0 6.12.0 -o fast.json -- --fast cpuid
      kvmbench plan new on=6.12.0 off=6.12.0 --after-word mitigations=off
      kvmbench plan new 6.11.0 6.12.0 --pilot pilot.json --budget 4h
    """
    import random

    from kvmbench.live import plan as plans

    if Path(output).exists():
        raise click.UsageError(f"{output} exists: choose another file with -o")
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    if pilot is None and any(map(typed, ("budget", "boot_time", "run_time", "boot_sd"))):
        raise click.UsageError("--budget and its times need --pilot FILE")
    if pilot is not None and within_boot:
        raise click.UsageError("--pilot chooses boots, and --within-boot needs one")
    _step(arguments, allow_code)
    expected = ""
    if pilot is not None:
        if budget is None or typed("pairs") or any(word.startswith("--runs") for word in arguments):
            raise click.UsageError("--pilot needs --budget, and no --pairs and no --runs")
        found = _size(pilot, budget, boot_time, run_time, boot_sd)
        pairs, arguments = found.pairs, (*arguments, "--runs", str(found.runs))
        expected = _expected(found)
    try:
        kernels = (
            _kernel(before, before_word, before_set, output),
            _kernel(after, after_word, after_set, output),
        )
        for kernel in kernels:
            path = Path(output).parent / kernel.results
            if path.exists():
                raise click.UsageError(f"{path} exists: the plan would add its boots to it")
        plan = plans.make(kernels, pairs, seed, arguments, within_boot=within_boot)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with naming(output):
        plans.write(output, plan)
    what = "steps" if within_boot else "boots"
    file = "" if output == "plan.json" else f" {output}"
    say(
        f"{output}: {len(plan.steps)} {what} in {plural(pairs, 'pair')}. "
        f"{_next(plan, 0)}, then\nkvmbench plan run{file}{expected}"
    )


def _size(
    pilot: str,
    budget: float,
    boot_time: float,
    run_time: float | None,
    boot_sd: BootSpread | None,
) -> Size:
    from kvmbench.comparison import variance

    (side,) = chosen_sides([pilot], "results")
    run_time = run_time or variance.run_seconds(side.result)
    if run_time is None:
        raise click.UsageError(f"{pilot}: its runs have no times: state --run-time")
    return variance.size(
        side, budget=budget, boot_seconds=boot_time, run_seconds=run_time,
        boot_sd=boot_sd.other if boot_sd else None,
    )  # fmt: skip


def _expected(found: Size) -> str:
    from kvmbench.stats import POWER

    reach = "none"
    if found.detectable:
        reach = share_range(sorted((part, row) for row, part in found.detectable.items()))
    return (
        f"\n{plural(found.runs, 'run')} per boot, about {duration(found.seconds)} in all. Expected "
        f"minimum detectable effect of a verdict at {100 * POWER:.0f} % power: {reach}."
    )


def _next(plan: Plan, number: int, verb: tuple[str, str] = ("Boot", "Set")) -> str:
    return f"{verb[plan.within_boot]} {plan.kernel(number)}"


def _kernel(argument: str, words: tuple[str, ...], settings: dict[str, str], output: str) -> Kernel:
    from kvmbench.live.plan import Kernel

    label, equals, release = argument.partition("=")
    label, release = (label, release) if equals else (argument, argument)
    if not label or not release:
        raise click.UsageError(f"{brief(argument)} is not RELEASE or LABEL=RELEASE")
    if "/" in label or label.startswith("."):
        said = f"label {brief(label)} becomes a file's name: no / in it, no . first"
        raise click.UsageError(said)
    results = f"{Path(output).stem}-{label}.json"
    return Kernel(
        label=label, release=release, words=list(words), settings=settings, results=results
    )


@command.command("run")
@click.argument("path", metavar="[FILE]", default="plan.json", type=FilePath())
@click.option(
    "--switch",
    is_flag=True,
    allow_from_autoenv=False,
    help="Set the parameters of each step, which needs root, and do every step of this boot.",
)
@until_options
@allow_code_option
def run(
    path: str, switch: bool, until: str | None, rows: tuple[str, ...], max: int | None,
    margin: str | None, allow_code: bool,
) -> None:  # fmt: skip
    """Measure the plan's next step, and name the kernel to boot next.

    FILE is plan.json by default. kvmbench refuses where another kernel runs than the step's. After
    the last step, `kvmbench compare` of the two results takes the boots in pairs.

    With --until decided kvmbench looks at the rows after each pair, by intervals that hold however
    often one looks; it ends the plan where they are decided, and adds pairs where they are not, up
    to --max (64 by default). The plan keeps the rule, for the later steps too.

    \b
    Examples:
      kvmbench plan run
      kvmbench plan run off.json
      kvmbench plan run --until decided --rows 'inl_*' --max 40
    """
    from kvmbench.live import plan as plans

    check_until(until, rows, max, margin)
    plan = read(plans.read, path)
    if switch and not plan.within_boot:
        raise click.UsageError("--switch needs a plan that was made with --within-boot")
    if until is not None:
        rule = plans.Until(rows=list(rows), margin=margin, most=max or MOST)
        with naming(path):
            plan = plans.look_until(path, rule)
    plan = _looked(plan, path, quiet=True)  # a kill may have come before the look
    with naming(path), plans.restored(plan) if switch else nullcontext():
        while (number := plan.next()) is not None:
            if switch:
                plans.switch(plan.kernel(number).settings)
            plan = _step_done(plan, path, allow_code)
            if not switch:
                break
    if plan.next() is None:
        say(_complete(plan, path))


def _step_done(plan: Plan, path: str, allow_code: bool) -> Plan:
    """Measure the step that is due, and return the plan after it."""
    from kvmbench.live import plan as plans
    from kvmbench.live.host import boot_id, host
    from kvmbench.results import Boot

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
    for file in (path, plans.results_file(path, plan.kernel(number))):
        try_file(file)
    with measured(**chosen) as result:
        runs = [run for _, run in result.runs()]
        boot = Boot(id=boot_id(), labels=result.boots[0].labels, host=this, runs=runs)
        try:
            leave(result, keep_going)
            plan = plans.record(path, number, boot, now())
        except (click.Abort, click.ClickException, OSError, ResultError):
            from kvmbench.live.document import document

            emit(document(result), None, None)  # the step is due: these runs are not in it
            say(f"{where} is still due.", err=True)
            raise
    plan = _looked(plan, path)
    if (following := plan.next()) is not None:
        say(f"{where} done. Next: {_next(plan, following, verb=('boot', 'set'))}")
    return plan


def _looked(plan: Plan, path: str, *, quiet: bool = False) -> Plan:
    """Return the plan after a look at its rows, where it ends by one and a pair is complete."""
    from kvmbench.live import plan as plans

    if plan.until is None or plan.until.decided or plan.done < 2 or not plan.between:
        return plan
    from kvmbench.comparison.sequence import undecided
    from kvmbench.comparison.verdicts import compare

    files = [Path(path).parent / kernel.results for kernel in plan.kernels]
    try:
        found = compare(*files, correction="sequence", margin=plan.until.margin).rows
        left = undecided(found, plan.until.rows)
    except ValueError as error:
        raise click.ClickException(f"{path}: {error}") from None
    with naming(path):
        after = plans.looked(path, not left)
    if left and not quiet:
        names = ", ".join(left[:3]) + (" ..." if left[3:] else "")
        say(f"{plural(plan.done, 'pair')}: {plural(len(left), 'row')} not decided ({names})")
    return after


def _complete(plan: Plan, path: str) -> str:
    files = " ".join(
        f"{kernel.label}={Path(path).parent / kernel.results}" for kernel in plan.kernels
    )
    end = f"all {len(plan.steps)} steps are done"
    if plan.until is not None:
        files += f" --margin {plan.until.margin}" if plan.until.margin else ""
        end = f"decided after {plural(plan.done, 'pair')}" if plan.until.decided else (
            f"not decided after {plural(plan.done, 'pair')}, the most that --max allows"
        )  # fmt: skip
    return f"{end}:\nkvmbench compare {files}"
