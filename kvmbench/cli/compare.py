"""`kvmbench compare`: two results or more, row by row, with a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from kvmbench.cli.common import Between, complete, load_result, result_names
from kvmbench.cli.options import Decorator, results_dir_option, together
from kvmbench.cli.output import emit, output_options
from kvmbench.cli.progress import note

if TYPE_CHECKING:
    from kvmbench.comparison.document import Sort
    from kvmbench.comparison.gates import Gate, Limit
    from kvmbench.comparison.shifts import BootSpread
    from kvmbench.comparison.verdicts import Comparison
    from kvmbench.units import Side

REGRESSION, INCONCLUSIVE, INCOMPATIBLE = 3, 4, 5


class Parsed(click.ParamType):  # type: ignore[type-arg]
    """A value that a class of kvmbench parses; the class is imported on first use."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return getattr(import_module(f"kvmbench.{self.module}"), self.name).parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


MARGIN, LIMIT = Parsed("comparison.rows", "Margin"), Parsed("comparison.gates", "Limit")
TR_CONTROLS = "rows without TR's reload, where both policies are stated"
BOOT_SD = Parsed("comparison.shifts", "BootSpread")

margin_option = click.option(
    "--margin", type=MARGIN, metavar="SHARE|NUMBER",
    show_default="the larger of 0.5% and one quantum",
    help="Largest shift that does not matter: 1% or 20.",
)  # fmt: skip
correction_option = click.option(
    "--correction", type=click.Choice(["max-t", "holm", "welch-holm", "sequence"]),
    show_default="max-t, or sequence for results that were measured until decided",
    help="Multiple-comparison correction; welch-holm is for sides that spread unlike, sequence "
    "holds however often you look.",
)  # fmt: skip


def _patterns(option: str, help: str, default: str = "") -> Decorator:
    """Return an option that takes a pattern of row names, and may be repeated."""
    shown = default or None
    return click.option(option, multiple=True, metavar="PATTERN", show_default=shown, help=help)


def _codes(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the codes of options with several, separated by commas."""
    return tuple(code.strip() for value in values for code in value.split(",") if code.strip())


@click.command("compare")
@click.argument(
    "names",
    nargs=-1,
    required=True,
    metavar="BEFORE AFTER [MORE]...",
    shell_complete=complete(result_names),
)
@together(
    results_dir_option,
    margin_option,
    click.option(
        "--confidence", type=Between(0.5, 1, min_open=True, max_open=True), default=0.95,
        help="Of each interval, and of all verdicts of a table together.",
    ),
    correction_option,
    _patterns("--primary", "Rows chosen before the measurement; may be repeated."),
    _patterns("--control", "Rows that must not move; may be repeated.", TR_CONTROLS),
    click.option(
        "--tr-controls", is_flag=True, help="Rows without TR's reload are controls in any case."
    ),
    click.option("--no-controls", is_flag=True, help="No row is a control: all of them may move."),
    click.option(
        "--detect", type=MARGIN, metavar="SHARE|NUMBER",
        help="Print how many runs the verdict on this shift takes.",
    ),
    click.option(
        "--boot-sd", type=BOOT_SD, metavar="SHARE",
        help="Deviation from boot to boot, such as 0.4%, where each side is one boot.",
    ),
    click.option(
        "--boot-sd-from", metavar="FILE|NAME", shell_complete=complete(result_names),
        help="Take it from a result with several boots of one kernel.",
    ),
    _patterns("--rows", "Rows to print and gate, may be repeated; the correction counts all."),
    click.option("--only", type=click.Choice(["changed"]), help="Print only what changed."),
    click.option("--sort", type=click.Choice(["name", "shift", "verdict"]), help="Order of rows."),
    click.option(
        "--fail-on", type=LIMIT, multiple=True, metavar="PATTERN:LIMIT",
        help="Fail where a row is worse by more than 2% or 40, or not <=6500; may be repeated.",
    ),
    click.option(
        "--fail-on-any", is_flag=True, help="Fail where any row is slower, or exact and worse."
    ),
    click.option(
        "--fail-inconclusive", is_flag=True, help="Fail where a gated row is inconclusive."
    ),
    click.option(
        "--accept-doubt", multiple=True, metavar="all|CODE,...", callback=_codes,
        help="Reasons for doubt that you accept, such as one-boot; the output records them.",
    ),
    click.option(
        "--same-host", is_flag=True, help="Refuse hosts that differ in more than the kernel."
    ),
    click.option(
        "--pair-by", metavar="host|block|LABEL", help="Pair the boots of both sides by this label."
    ),
    click.option(
        "--group-by", metavar="cpu|LABEL", help="Split the rows by a label or a host's fact."
    ),
    click.option(
        "--unit", type=click.Choice(["ns"]),
        help="Compare times: measured cycles by each host's TSC frequency.",
    ),
    click.option("--explain", is_flag=True, help="Show the spread and MDE of each row."),
    output_options("text", "markdown", "csv", "json", "html", "junit"),
)  # fmt: skip
def command(
    names: tuple[str, ...],
    results_dir: str,
    control: tuple[str, ...],
    tr_controls: bool,
    no_controls: bool,
    boot_sd: BootSpread | None,
    boot_sd_from: str | None,
    only: str | None,
    sort: Sort | None,
    fail_on: tuple[Limit, ...],
    fail_on_any: bool,
    fail_inconclusive: bool,
    same_host: bool,
    explain: bool,
    format: str | None,
    output: str | None,
    **options: Any,
) -> None:
    """Compare BEFORE with AFTER and MORE: files of any readable format, or names of results.

    FILE#CONFIGURATION is one configuration of a file, FILE#kernel=6.12 the boots with that label or
    fact of the host; NAME=FILE names it in the table. A single
    file with two configurations is compared with itself; bounds such as <=6500 need no BEFORE.
    Each run counts once, whatever its iterations; simulated figures are compared exactly.

    \b
    Verdicts, each at 95 % for the table as a whole:
      faster, slower                    by more than the margin
      slightly faster, slightly slower  moved, but not surely by more than it
      within margin                     no more than it, and perhaps not at all
      inconclusive                      none of these
    A question mark after one: the design puts it in doubt, a note says why, and
    a gate calls it inconclusive.

    \b
    Examples:
      kvmbench compare before.json after.json
      kvmbench compare 6.11=a.json 6.12=b.json --margin 0.5%
      kvmbench compare old/vmexit.log new/vmexit.log --rows 'inl_*' --sort shift
      kvmbench compare main pr --fail-on 'inl_*:2%' --fail-inconclusive
      kvmbench compare pr --fail-on 'cpuid:<=1400'
      kvmbench compare before.json after.json --pair-by host

    Exit codes: 0 done, 1 failed, 2 usage, 3 regression, 4 inconclusive (with
    --fail-inconclusive), 5 incompatible.
    """
    if bool(control) + tr_controls + no_controls > 1:
        raise click.UsageError("--control, --tr-controls and --no-controls exclude each other")
    if boot_sd and boot_sd_from:
        raise click.UsageError("--boot-sd and --boot-sd-from exclude each other")
    if fail_inconclusive and not (fail_on or fail_on_any):
        raise click.UsageError("--fail-inconclusive needs --fail-on or --fail-on-any")

    from kvmbench.comparison.document import document
    from kvmbench.comparison.verdicts import alone, compare

    bounds = fail_on and not fail_on_any and all(limit.worse is None for limit in fail_on)
    sides = chosen_sides(names, results_dir, lone=bool(bounds))
    with usage():
        if len(sides) == 1:
            chosen = {name: options[name] for name in ("confidence", "rows")}
            comparisons = [alone(sides[0], **chosen)]
        else:
            options["controls"] = () if no_controls else "tr" if tr_controls else control or None
            options["boot_sd"] = boot_sd
            if boot_sd_from:
                (options["boot_sd"],) = chosen_sides([boot_sd_from], results_dir)
            options["comparisons"] = len(sides) - 1
            comparisons = [compare(sides[0], after, **options) for after in sides[1:]]
        gate = None
        if fail_on or fail_on_any:
            from kvmbench.comparison import gates

            gate = gates.gate(comparisons, fail_on, fail_on_any)
    if same_host:
        _check_hosts(comparisons)
    found = document(
        comparisons, explain=explain, gate=gate, only_changed=only is not None, sort=sort
    )
    emit(found, format, output)
    if gate is not None:
        end_gated(gate, fail_inconclusive, format, output)


def end_gated(gate: Gate, fail_inconclusive: bool, form: str | None, output: str | None) -> None:
    """End with the code of a gate that failed; its lines go to stderr unless stdout has them."""
    context = click.get_current_context()
    code = {"regression": REGRESSION, "inconclusive": INCONCLUSIVE if fail_inconclusive else 0}
    if status := code.get(gate.status):
        if output is not None or form not in (None, "text", "markdown"):
            for line in gate.lines:
                note(line, context.command_path)
        context.exit(status)


class _Incompatible(click.ClickException):
    exit_code = INCOMPATIBLE


@contextmanager
def usage() -> Iterator[None]:
    """Turn the error of an argument into a usage error; that of a file's content stays."""
    from kvmbench.errors import IncompatibleError, KvmbenchError

    try:
        yield
    except IncompatibleError as error:
        raise _Incompatible(str(error)) from None
    except KvmbenchError:
        raise
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _check_hosts(comparisons: Sequence[Comparison]) -> None:
    from kvmbench.comparison.hosts import differences, unknown_hosts

    for comparison in comparisons:
        found = [str(entry) for entry in differences(comparison) if not entry.expected]
        if unknown_hosts(comparison):
            found = ["neither side names its host"]
        if found:
            raise _Incompatible(f"--same-host: {'; '.join(found)}")


def chosen_sides(arguments: Sequence[str], results_dir: str, *, lone: bool = True) -> list[Side]:
    """Return the sides that arguments name, `[LABEL=]FILE[#CONFIGURATION]`.

    A single one with two configurations is both, and another one is refused; with `lone`, it is
    returned.
    """
    from kvmbench.comparison.sides import compared_sides, load_sides

    with usage():
        sides = load_sides(arguments, lambda name: load_result(name, results_dir))
        return sides if lone and len(sides) == 1 else compared_sides(sides)
