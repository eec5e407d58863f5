"""`kvmbench check`: is a policy safe? Every interleaving of a small machine."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from kvmbench.cli.common import (
    Progress,
    complete,
    known_policies,
    pick,
    policy_names,
    write_out,
)

if TYPE_CHECKING:
    from kvmbench.checker.verdict import Explorer, Verdict
    from kvmbench.model import Policy

SAFE, UNSAFE, UNDECIDED = 0, 3, 4  # exit codes
UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Size(click.ParamType[int]):
    """Bytes: a number, and K, M, G or T behind it for powers of 1,000."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+)([KMGT]?)B?", value.strip(), re.IGNORECASE)
        size = int(found[1]) * UNITS.get(found[2].upper(), 1) if found else 0
        if not 0 < size < 2**63:
            self.fail(f"{value!r} is not a size such as 500M or 8G", param, ctx)
        return size


class _States(Progress):
    """The line on stderr of a search under way."""

    def begin(self, name: str) -> None:
        self.name, self.begun = name, time.monotonic()

    def at(self, explorer: Explorer) -> None:
        now = time.monotonic()
        if now < self.next:
            return
        rate = explorer.states / (now - self.begun)
        line = (
            f"{self.name}: {explorer.states:,} states, {explorer.queued:,} queued, "
            f"{rate:,.0f}/s, {explorer.memory / 1e6:,.0f} MB"
        )
        click.echo(f"\r\033[K{line}", nl=False, err=True)
        self.shown, self.next = True, now + 0.1


def _sizes(_: click.Context, param: click.Parameter, value: int) -> int:
    from kvmbench.checker import verdict as check

    top = getattr(check, f"{str(param.name).upper()}_MAX")
    if not 1 <= value <= top:
        raise click.BadParameter(f"{value} is not in 1 to {top}.")
    return value


@click.command("check")
@click.argument("names", nargs=-1, metavar="[POLICY]...", shell_complete=complete(policy_names))
@click.option(
    "--policy-file",
    type=click.Path(),
    metavar="FILE",
    help="TOML with more policies; all of them where no POLICY is named.",
)
@click.option("--cpus", type=int, default=2, show_default=True, callback=_sizes)
@click.option("--tasks", type=int, default=3, show_default=True, callback=_sizes)
@click.option("--ports", type=int, default=2, show_default=True, callback=_sizes)
@click.option(
    "--no-symmetry",
    is_flag=True,
    help="Keep states that differ in what cannot matter: names, maps that nobody sees.",
)
@click.option("--max-states", type=click.IntRange(min=1), metavar="N", help="Give up there.")
@click.option(
    "--max-memory",
    type=Size(),
    metavar="SIZE",
    help="Give up there: 500M, 8G.  [default: 8G, or 3/4 of the machine's]",
)
@click.option("--replay", is_flag=True, help="Replay counterexamples without the explorer.")
@click.option("--mutations", is_flag=True, help="Check each mutant of each policy instead.")
@click.option(
    "--promela",
    type=click.Path(),
    metavar="FILE",
    help="Write one policy's model for SPIN there instead.",
)
@click.option(
    "--format", type=click.Choice(["text", "markdown", "json"]), default="text", show_default=True
)
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", help="Write there instead of to stdout."
)
@click.pass_context
def command(
    ctx: click.Context,
    names: tuple[str, ...],
    policy_file: str | None,
    cpus: int,
    tasks: int,
    ports: int,
    no_symmetry: bool,
    max_states: int | None,
    max_memory: int | None,
    replay: bool,
    mutations: bool,
    promela: str | None,
    format: str,
    output: str | None,
) -> None:
    """Explore every interleaving of each POLICY, and print a verdict or a counterexample.

    Wherever a task is in user mode, the hardware must let it use exactly the ports that it
    owns; and no LTR may find a busy descriptor. docs/check.md says what is explored. A verdict
    is about the model, not about a kernel.

    \b
    Examples:
      kvmbench check eager deferred
      kvmbench check --policy-file mine.toml --replay
      kvmbench check deferred --cpus 3 --tasks 4 --ports 1
      kvmbench check deferred --mutations --tasks 2
      kvmbench check deferred --promela deferred.pml

    Exit codes: 0 safe, 3 unsafe, 4 not decided (a limit or Ctrl-C), 2 usage, 1 failed.
    """  # fmt: skip
    if promela is not None and (mutations or replay or output is not None):
        raise click.UsageError("--promela FILE goes with no --mutations, --replay or --output")
    if mutations and replay:
        raise click.UsageError("--mutations goes with no --replay")
    known = known_policies(policy_file)
    policies = [pick("policy", name, known) for name in names] or _default(known, policy_file)
    if promela is not None:
        _promela(policies, promela, (cpus, tasks, ports))
        return
    from kvmbench.checker import document as check_tables
    from kvmbench.checker import verdict as check

    options: dict[str, Any] = {
        "cpus": cpus, "tasks": tasks, "ports": ports, "symmetry": not no_symmetry,
        "max_states": min(max_states or check.STATES_MAX, check.STATES_MAX),
        "max_memory": max_memory,
    }  # fmt: skip
    show = _States()
    verdicts: list[Verdict] = []
    try:
        if mutations:
            parts = []
            for policy in policies:
                found = list(_mutants(policy, options, show))
                verdicts += [verdict for _, verdict in found]
                original, *mutants = found
                said = [(name, v) for name, v in mutants]
                parts.append(check_tables.render_mutations(original[1], said, format))
                if _stopped(verdicts):
                    break
            text = _joined(parts, format)
        else:
            for policy in policies:
                verdicts.append(_checked(policy, options, show))
                if _stopped(verdicts):
                    break
            lines = [check.replay(v) if replay and v.bad else None for v in verdicts]
            text = check_tables.render(verdicts, format, lines)
    except MemoryError as error:
        raise click.ClickException(str(error) or "no memory") from None
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    finally:
        show.clear()
    write_out(text, output)
    # Of mutations, that some are unsafe is the finding: there the policies' own verdicts count.
    own = [v for v in verdicts if v.policy in policies] if mutations else verdicts
    if any(v.verdict == "unsafe" for v in own):
        ctx.exit(UNSAFE)
    if any(v.verdict == "undecided" for v in verdicts):
        ctx.exit(UNDECIDED)


def _default(known: dict[str, Policy], policy_file: str | None) -> list[Policy]:
    from kvmbench.catalog import policies

    built_in = policies()
    return [p for name, p in known.items() if not policy_file or name not in built_in]


def _checked(policy: Policy, options: dict[str, Any], show: _States) -> Verdict:
    from kvmbench.checker.verdict import check

    show.begin(policy.name)
    return check(policy, **options, progress=show.at)


def _mutants(
    policy: Policy, options: dict[str, Any], show: _States
) -> Iterator[tuple[str, Verdict]]:  # fmt: skip
    """Check a policy, then its mutants, until one is stopped."""
    from kvmbench.checker.mutations import mutations

    for name, mutant in {policy.name: policy, **mutations(policy)}.items():
        verdict = _checked(mutant, options, show)
        yield name, verdict
        if _stopped([verdict]):
            return


def _stopped(verdicts: list[Verdict]) -> bool:
    return bool(verdicts) and "Ctrl-C" in verdicts[-1].reason


def _joined(parts: list[str], format: str) -> str:
    if format != "json":
        return "\n".join(parts)
    return parts[0] if len(parts) == 1 else "[\n" + ",\n".join(p.rstrip() for p in parts) + "\n]\n"


def _promela(policies: list[Policy], path: str, sizes: tuple[int, int, int]) -> None:
    from kvmbench.checker.promela import promela

    if len(policies) != 1:
        raise click.UsageError(f"--promela takes one POLICY, not {len(policies)}")
    write_out(promela(policies[0], *sizes), None if path == "-" else path)
