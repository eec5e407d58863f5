"""`kvmbench scenario`: a whole host under two policies, at one point or along a curve."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import click

from kvmbench.cli.common import (
    Progress,
    chosen_costs,
    complete,
    is_file,
    known_policies,
    machine_options,
    pick,
    read,
    write_out,
)

if TYPE_CHECKING:
    from kvmbench.scenario.scenario import Scenario

POINTS_MAX = 10_000


def _scenario_names(_: click.Context) -> Iterable[str]:
    from kvmbench.scenario.scenario import scenarios

    return scenarios()


@click.command("scenario")
@click.argument("name", metavar="NAME|FILE", shell_complete=complete(_scenario_names))
@machine_options
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Threads that simulate; the result is the same.",
)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="Instead of the scenario's own.")
@click.option("--seconds", type=float, help="Simulated, instead of the scenario's own.")
@click.option(
    "--vary",
    metavar="PARAM=a:b:n",
    help="Print the curve over n values of a parameter, from a to b.",
)
@click.option(
    "--format",
    type=click.Choice(["text", "markdown", "csv", "json"]),
    default="text",
    show_default=True,
)
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", help="Write there instead of to stdout."
)
def command(
    name: str,
    before: str,
    after: str,
    policy_file: str | None,
    profile: str,
    vendor: Literal["vmx", "svm"],
    threads: int,
    seed: int | None,
    seconds: float | None,
    vary: str | None,
    format: str,
    output: str | None,
) -> None:
    """Simulate a host under two policies: where its CPU time goes, and what the change is worth.

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
    costs = chosen_costs(profile)
    known = known_policies(policy_file)
    policies = (pick("policy", before, known), pick("policy", after, known))
    scenario = _scenario(name)

    from kvmbench.scenario import document as scenario_tables
    from kvmbench.scenario.document import Point

    show = Progress()
    points = []
    try:
        if seconds is not None:
            scenario = scenario.with_value("seconds", seconds)
        parameter, steps = _varied(vary, scenario)
        for number, (value, varied) in enumerate(steps):
            results = []
            for side, policy in enumerate(policies):

                def report(share: float, done: int = 2 * number + side) -> None:
                    show(scenario.name, (done + share) / (2 * len(steps)))

                results.append(
                    varied.run(
                        policy, costs, threads=threads, seed=seed, vendor=vendor, progress=report
                    )
                )
            points.append(Point(value, *results))
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    finally:
        show.clear()
    write_out(scenario_tables.render(points, format, parameter), output)


def _scenario(name: str) -> Scenario:
    from kvmbench.scenario.scenario import load_scenario, scenarios

    return read(load_scenario, name) if is_file(name) else pick("scenario", name, scenarios())


def _varied(
    vary: str | None, scenario: Scenario
) -> tuple[str | None, list[tuple[float | None, Scenario]]]:
    """Return the parameter and each of its values with the scenario that has it."""
    if vary is None:
        return None, [(None, scenario)]
    parameter, _, span = vary.partition("=")
    try:
        first, last, n = span.split(":")
        low, high, points = Fraction(first), Fraction(last), int(n)
    except (ValueError, ZeroDivisionError):
        raise click.UsageError(f"--vary {vary}: expected PARAM=a:b:n") from None
    if not 1 <= points <= POINTS_MAX:
        raise click.UsageError(f"--vary {vary}: n is {points}, not in 1 to {POINTS_MAX}")
    found: list[tuple[float | None, Scenario]] = []
    for i in range(points):
        exact = low + (high - low) * i / max(points - 1, 1)
        value = int(exact) if exact.denominator == 1 else float(exact)
        try:
            found.append((value, scenario.with_value(parameter, value)))
        except ValueError as error:
            raise click.UsageError(f"--vary {vary}: {error}") from None
    return parameter, found
