"""`kvmbench compare`: two results or more, row by row, with a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Literal

import click

from kvmbench.cli.common import complete, load_result, result_names, results_dir_option, write_out

if TYPE_CHECKING:
    from kvmbench.comparison.gates import Limit
    from kvmbench.comparison.verdicts import Margin
    from kvmbench.units import Side

REGRESSION, INCONCLUSIVE, INCOMPATIBLE = 3, 4, 5


class Parsed(click.ParamType):  # type: ignore[type-arg]
    """What a class of kvmbench makes of text with its `parse`; imported when it is asked for."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        if not isinstance(value, str):
            return value
        try:
            return getattr(import_module(f"kvmbench.{self.module}"), self.name).parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


MARGIN, LIMIT = Parsed("comparison.verdicts", "Margin"), Parsed("comparison.gates", "Limit")

margin_option = click.option(
    "--margin",
    type=MARGIN,
    metavar="SHARE|NUMBER",
    help="Largest shift that does not matter: 1% or 20. [default: the larger of 1% and twice "
    "what the clock resolves]",
)
family_option = click.option(
    "--family",
    type=click.Choice(["max-t", "holm"]),
    default="max-t",
    show_default=True,
    help="How the verdicts allow for the number of rows.",
)


@click.command("compare")
@click.argument(
    "names",
    nargs=-1,
    required=True,
    metavar="BEFORE AFTER [MORE]...",
    shell_complete=complete(result_names),
)
@results_dir_option
@margin_option
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Of each interval, and of all of a table's faster and slower together.",
)
@family_option
@click.option(
    "--primary",
    multiple=True,
    metavar="ROW",
    help="Row (a pattern) that was to be decided beforehand; may be repeated.",
)
@click.option(
    "--control",
    multiple=True,
    metavar="ROW",
    help="Row (a pattern) that must not move; may be repeated. [default: those without a reload "
    "of TR on either side]",
)
@click.option("--no-controls", is_flag=True, help="No row is a control: all of them may move.")
@click.option(
    "--detect",
    type=MARGIN,
    metavar="SHARE|NUMBER",
    help="Say how many runs would see this shift. [default: the margin]",
)
@click.option(
    "--fail-on",
    type=LIMIT,
    multiple=True,
    metavar="ROW:LIMIT",
    help="Fail where a row is worse by more than 2% or 40, or not <=6500; may be repeated.",
)
@click.option(
    "--fail-on-any", is_flag=True, help="Fail where any row is slower, or exact and worse."
)
@click.option("--fail-inconclusive", is_flag=True, help="Fail where a gated row cannot be decided.")
@click.option(
    "--same-host", is_flag=True, help="Refuse where the hosts differ in more than the kernel."
)
@click.option("--explain", is_flag=True, help="Show what the spread of each row allows to see.")
@click.option(
    "--format",
    type=click.Choice(["text", "markdown", "csv", "json", "junit"]),
    default="text",
    show_default=True,
)
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", help="Write there instead of to stdout."
)
def command(
    names: tuple[str, ...],
    results_dir: str,
    margin: Margin | None,
    confidence: float,
    family: Literal["max-t", "holm"],
    primary: tuple[str, ...],
    control: tuple[str, ...],
    no_controls: bool,
    detect: Margin | None,
    fail_on: tuple[Limit, ...],
    fail_on_any: bool,
    fail_inconclusive: bool,
    same_host: bool,
    explain: bool,
    format: str,
    output: str | None,
) -> None:
    """Compare BEFORE with AFTER, and with MORE: files of any readable format, or names of results.

    FILE#CONFIGURATION is one configuration of a file, NAME=FILE gives it a name in the table. A
    single file with two configurations is compared with itself. Each run counts once, whatever
    its iterations; simulated figures are compared exactly.

    \b
    Examples:
      kvmbench compare before.json after.json
      kvmbench compare 6.11=a.json 6.12=b.json --margin 0.5%
      kvmbench compare logs/vmexit.log new/vmexit.log
      kvmbench compare main pr --fail-on 'inl_*:2%' --fail-inconclusive

    Exit codes: 0 done, 1 failed, 2 usage, 3 regression, 4 inconclusive (with
    --fail-inconclusive), 5 incompatible.
    """
    if control and no_controls:
        raise click.UsageError("--control and --no-controls exclude each other")
    if fail_inconclusive and not (fail_on or fail_on_any):
        raise click.UsageError("--fail-inconclusive needs --fail-on or --fail-on-any")
    sides = _sides(names, results_dir)

    from kvmbench.comparison import document as compare_tables
    from kvmbench.comparison import gates
    from kvmbench.comparison import verdicts as compare
    from kvmbench.errors import IncompatibleError

    try:
        comparisons = [
            compare.compare(
                sides[0], after, confidence=confidence, margin=margin, family=family,
                primary=primary, controls=() if no_controls else control or None, detect=detect,
                comparisons=len(sides) - 1,
            )
            for after in sides[1:]
        ]  # fmt: skip
        gate = gates.gate(comparisons, fail_on, fail_on_any) if fail_on or fail_on_any else None
    except IncompatibleError as error:
        raise _Incompatible(str(error)) from None
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if same_host:
        _check_hosts(comparisons)
    text = compare_tables.render_comparisons(comparisons, format, explain=explain, gate=gate)
    write_out(text, output)
    if gate is not None and gate.status == "regression":
        _leave(gate.lines, REGRESSION, format, output)
    if gate is not None and gate.status == "inconclusive" and fail_inconclusive:
        _leave(gate.lines, INCONCLUSIVE, format, output)


def _leave(lines: Sequence[str], code: int, format: str, output: str | None) -> None:
    """End with `code`; say why on stderr where stdout does not."""
    if output is not None or format not in ("text", "markdown"):
        for line in lines:
            click.echo(f"kvmbench compare: {line}", err=True)
    click.get_current_context().exit(code)


class _Incompatible(click.ClickException):
    exit_code = INCOMPATIBLE


def _check_hosts(comparisons: Sequence[object]) -> None:
    from kvmbench.comparison.caveats import differences, unknown_hosts
    from kvmbench.comparison.verdicts import Comparison

    for comparison in comparisons:
        assert isinstance(comparison, Comparison)
        found = [str(entry) for entry in differences(comparison) if not entry.expected]
        if unknown_hosts(comparison):
            found = ["neither side says what it ran on"]
        if found:
            raise _Incompatible(f"--same-host: {'; '.join(found)}")


def _sides(names: Sequence[str], results_dir: str) -> list[Side]:
    """Return the sides that the arguments name, each with the label of its column."""
    from kvmbench.units import Side

    if len(names) == 1:
        label, side = _side(names[0], results_dir)
        if side.configuration is None and len(side.configurations) == 2:
            return [Side(name, side.result, name) for name in side.configurations]
        count = len(side.configurations)
        raise click.UsageError(
            f"{label} alone has {count} configuration{'s' if count > 1 else ''}, and two are "
            "compared: name a BEFORE and an AFTER"
        )
    sides = [_side(name, results_dir) for name in names]
    labels = _labels(sides)
    return [
        Side(label, side.result, side.configuration)
        for label, (_, side) in zip(labels, sides, strict=True)
    ]


def chosen_side(argument: str, results_dir: str) -> Side:
    """Return the one side that LABEL=FILE#CONFIGURATION names."""
    from kvmbench.units import Side

    name, side = _side(argument, results_dir)
    (label,) = _labels([(name, side)])
    return Side(label, side.result, side.configuration)


def _side(argument: str, results_dir: str) -> tuple[str, Side]:
    """Return what LABEL=FILE#CONFIGURATION names, and its label."""
    import os
    from pathlib import Path

    from kvmbench.errors import unknown_name
    from kvmbench.units import Side

    label, equals, name = argument.partition("=")
    if not equals or "/" in label or "#" in label or os.path.exists(_parted(argument)[0]):
        label, name = "", argument
    name, configuration = _parted(name)
    result = load_result(name, results_dir)
    known = result.configurations()
    if not known:
        raise click.ClickException(f"{name}: holds no figures")
    if configuration is not None and configuration not in known:
        raise click.UsageError(f"{name}: {unknown_name('configuration', configuration, known)}")
    return label or Path(name).stem, Side(label, result, configuration)


def _parted(argument: str) -> tuple[str, str | None]:
    """Return the FILE and the CONFIGURATION of FILE#CONFIGURATION: either may have a # in it."""
    import os

    parts = argument.split("#")
    files = ["#".join(parts[:count]) for count in range(len(parts), 0, -1)]
    file = next(filter(os.path.isfile, files), parts[0])
    return file, argument[len(file) + 1 :] if len(file) < len(argument) else None


def _labels(sides: Sequence[tuple[str, Side]]) -> list[str]:
    """Return labels that tell the sides apart: by file, by configuration, or by number."""
    labels = [label for label, _ in sides]
    configurations = [side.configuration for _, side in sides]
    if len(set(labels)) == len(labels):
        return [
            side.label or "#".join(filter(None, (label, side.configuration)))
            for label, side in sides
        ]
    if len(set(configurations)) == len(labels) and None not in configurations:
        return [str(name) for name in configurations]
    return [f"{label} {number}" for number, label in enumerate(labels, 1)]
