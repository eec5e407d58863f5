"""`kvmbench scenario`: a whole host under two policies, at one point or along a curve."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from kvmbench.cli.common import Whole, chosen, chosen_policies, complete
from kvmbench.cli.options import machine_options
from kvmbench.cli.output import emit, output_options
from kvmbench.cli.progress import Progress
from kvmbench.report import FORMS

if TYPE_CHECKING:
    from kvmbench.scenario.scenario import Scenario

POINTS_MAX = 10_000


@click.command("scenario")
@click.argument("name", metavar="NAME|FILE", shell_complete=complete("scenarios"))
@machine_options
@click.option(
    "--threads", type=Whole(1, 256), default=1,
    help="Threads that simulate; the result is the same.",
)  # fmt: skip
@click.option("--seed", type=Whole(0, 2**64 - 1), help="Instead of the scenario's.")
@click.option("--seconds", type=float, help="Simulated, instead of the scenario's.")
@click.option(
    "--vary", metavar="PARAM=a:b:n",
    help="Print the curve over n values of a parameter, from a to b.",
)  # fmt: skip
@output_options(*FORMS)
def command(
    name: str, before: str, after: str, policy_file: str | None, profile: str,
    seconds: float | None, vary: str | None, format: str | None, output: str | None,
    **options: Any,
) -> None:  # fmt: skip
    """Simulate a host under two policies: its CPU time by cause, and the worth of the change.

    A parameter of --vary is one of the scenario (ioperm_share, timeslice_us, migrations, cpus) or
    of a group of its tasks (vm.guest_us, vm.count); `kvmbench show NAME` prints them.

    \b
    Examples:
      kvmbench scenario oversubscribed
      kvmbench scenario io-heavy --after exit-to-user --threads 2
      kvmbench scenario oversubscribed --vary ioperm_share=0:1:6
      kvmbench scenario oversubscribed --vary timeslice_us=100:3000:5 --format csv
      kvmbench scenario ./myhost.toml --seconds 0.1 -o myhost.txt
    """
    costs = chosen("profiles", profile)
    policies = chosen_policies(before, after, policy_file)
    scenario: Scenario = chosen("scenarios", name)
    if seconds is not None:
        try:
            scenario = scenario.with_value("seconds", seconds)
        except ValueError as error:
            raise click.UsageError(f"--{error}") from None
    try:
        parameter, values = _varied(vary, scenario) if vary is not None else ("", [])
        runs = 2 * max(len(values), 1)
        with Progress() as show:

            def report(share: float) -> None:
                run = min(int(share * runs) + 1, runs)
                show(f"run {run} of {runs}: {scenario.name}", share)

            options |= dict(profile=costs, progress=report)
            if vary is None:
                document = scenario.compare(*policies, **options).document()
            else:
                document = scenario.sweep(parameter, values, *policies, **options).document()
    except (ValueError, MemoryError) as error:
        raise click.ClickException(str(error) or "no memory left") from None
    emit(document, format, output)


def _exact(text: str) -> Fraction:
    """Return a decimal number of a size that a scenario can have, without rounding."""
    value = Decimal(text)
    if not value.is_finite() or abs(value.adjusted()) > 30 or len(text) > 60:
        raise ValueError(text)
    return Fraction(value)


def _varied(vary: str, scenario: Scenario) -> tuple[str, list[float]]:
    """Return the parameter and the values of --vary, each of which the scenario can have."""
    from kvmbench.errors import brief

    parameter, _, span = vary.partition("=")
    try:
        first, last, n = span.split(":")
        low, high, points = _exact(first), _exact(last), int(n)
    except (ValueError, ArithmeticError):
        raise click.UsageError(f"--vary {vary}: expected PARAM=a:b:n") from None
    if not 1 <= points <= POINTS_MAX:
        raise click.UsageError(f"--vary {vary}: n is {brief(points)}, not in 1 to {POINTS_MAX}")
    exact = [low + (high - low) * i / max(points - 1, 1) for i in range(points)]
    values = [int(value) if value.denominator == 1 else float(value) for value in exact]
    try:
        for value in values:
            scenario.with_value(parameter, value)
    except ValueError as error:
        raise click.UsageError(f"--vary {vary}: {error}") from None
    return parameter, values
