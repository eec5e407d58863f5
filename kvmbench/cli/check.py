"""`kvmbench check`: is a policy safe? Every interleaving of a small machine."""

from __future__ import annotations

import re
from typing import Any

import click

from kvmbench.cli.common import FilePath, Whole, complete, known_policies, pick, policy_names
from kvmbench.cli.options import policy_file_option, size_options
from kvmbench.cli.output import emit, output_options, write_out
from kvmbench.cli.progress import Progress
from kvmbench.errors import unknown_name
from kvmbench.report import FORMS

UNSAFE, UNDECIDED = 3, 4  # exit codes
UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Size(click.ParamType[int]):
    """Bytes: a number, followed by K, M, G or T for powers of 1,000."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+)([KMGT]?)B?", value.strip(), re.IGNORECASE)
        size = int(found[1]) * UNITS.get(found[2].upper(), 1) if found else 0
        if not 0 < size < 2**63:
            self.fail(f"{value!r} is not a size such as 500M or 8G", param, ctx)
        return size


class Events(click.ParamType[tuple[str, ...]]):
    """Names of events that are explored on request, separated by commas; `all` for all."""

    name = "events"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        from kvmbench.checker.verdict import EXTRA_EVENTS

        if isinstance(value, tuple):
            return value
        names = [name.strip() for name in value.split(",")]
        for name in names:
            if name not in (*EXTRA_EVENTS, "all"):
                self.fail(unknown_name("event", name, (*EXTRA_EVENTS, "all")), param, ctx)
        return tuple(name for name in EXTRA_EVENTS if name in names or "all" in names)


@click.command("check")
@click.argument("names", nargs=-1, metavar="[POLICY]...", shell_complete=complete(policy_names))
@policy_file_option
@size_options
@click.option(
    "--no-symmetry", is_flag=True,
    help="Do not merge states that differ only in names, or in maps that no task sees.",
)  # fmt: skip
@click.option(
    "--events", type=Events(), metavar="LIST", default=(),
    help="Explore these too: fork, iopl, exit-preemption, separated by commas, or all.",
)  # fmt: skip
@click.option(
    "--jobs", type=Whole(1, 2), default=1, help="Threads of a search.", show_default=True,
)  # fmt: skip
@click.option("--max-states", type=Whole(min=1), metavar="N", help="Stop undecided there.")
@click.option(
    "--max-memory", type=Size(), metavar="SIZE",
    help="Stop undecided there: 500M, 8G.  [default: 8G, or 3/4 of what is left]",
)  # fmt: skip
@click.option("--replay", is_flag=True, help="Replay counterexamples without the explorer.")
@click.option("--mutations", is_flag=True, help="Check each mutant of each policy instead.")
@click.option("--brief", is_flag=True, help="Leave out the kinds and the content of the search.")
@click.option("--known", is_flag=True, help="Check the public bugs and their mended forms instead.")
@click.option(
    "--promela", type=FilePath(), metavar="FILE",
    help="Write one policy's model for SPIN to FILE instead.",
)  # fmt: skip
@output_options(*FORMS, "itf")
@click.pass_context
def command(
    ctx: click.Context, /, names: tuple[str, ...], policy_file: str | None, no_symmetry: bool,
    events: tuple[str, ...], jobs: int, max_states: int | None, max_memory: int | None,
    replay: bool, mutations: bool, brief: bool, known: bool, promela: str | None,
    format: str | None, output: str | None, **sizes: Any,
) -> None:  # fmt: skip
    """Explore every interleaving of each POLICY, and print a verdict or a counterexample.

    Without POLICY, kvmbench checks the policies of --policy-file, or the built-in ones.

    Whenever a task is in user mode, the hardware must let it use exactly the ports that it
    owns; no LTR may find a busy descriptor, and no step the map of a task with TIF and none.
    docs/check.md defines the model. A verdict is about the model, not about a kernel.

    \b
    Examples:
      kvmbench check eager deferred
      kvmbench check --policy-file mine.toml --replay
      kvmbench check deferred --cpus 3 --tasks 4 --ports 1
      kvmbench check deferred --mutations --tasks 2
      kvmbench check --known
      kvmbench check deferred --promela deferred.pml

    Exit codes: 0 safe, 3 unsafe, 4 not decided (a limit), 2 usage, 1 failed, 130 stopped
    by Ctrl-C. With --mutations, 3 is about the POLICY itself, 4 about its mutants too; with
    --known, 3 is a bug that is not found, or a mended form that is not safe.
    """  # fmt: skip
    if promela is not None and (mutations or replay or output is not None):
        raise click.UsageError("--promela FILE excludes --mutations, --replay and --output")
    if mutations and replay:
        raise click.UsageError("--mutations and --replay exclude each other")
    if known and (names or policy_file or replay or mutations or events or promela):
        raise click.UsageError("--known takes no policy, no --events and no other form of check")
    from kvmbench.catalog import policies as built_in

    choice = known_policies(policy_file)
    own = [name for name in choice if not policy_file or name not in built_in()]
    policies = [pick("policy", name, choice) for name in names or own]
    if promela is not None:
        from kvmbench.checker.promela import promela as model

        if len(policies) != 1:
            raise click.UsageError(f"--promela takes one POLICY, not {len(policies)}")
        write_out(model(policies[0], **sizes, events=events), promela)
        return
    from kvmbench.checker.document import document
    from kvmbench.checker.known import KnownVerdict, check_known
    from kvmbench.checker.known import document as known_document
    from kvmbench.checker.verdict import STATES_MAX, Explorer, Verdict, check

    verdicts: list[Verdict] = []
    bugs: list[KnownVerdict] = []
    limits: dict[str, Any] = dict(
        symmetry=not no_symmetry, jobs=jobs, max_memory=max_memory,
        max_states=min(max_states or STATES_MAX, STATES_MAX),
    )  # fmt: skip
    try:
        with Progress() as show:

            def report(e: Explorer) -> None:
                size = f"{e.states:,} states, {e.queued:,} queued, {e.memory / 1e6:,.0f} MB"
                show(f"{e.policy.name}: {size}")

            bugs = check_known(report, **limits) if known else []
            for policy in () if known else policies:
                verdicts.append(
                    check(
                        policy, **sizes, **limits, events=events, replay=replay,
                        mutations=mutations, progress=report,
                    )
                )  # fmt: skip
                if verdicts[-1].stopped:
                    break
    except (MemoryError, RuntimeError) as error:
        raise click.ClickException(str(error) or "no memory left") from None
    if format == "itf" and not any(v.counterexample for v in verdicts):
        raise click.ClickException("itf is the form of a counterexample; no policy has one")
    emit(known_document(bugs) if known else document(verdicts, brief=brief), format, output)
    if any(v.stopped for v in (*verdicts, *(v for b in bugs for v in (b.verdict, b.mended)))):
        raise click.Abort
    if any(b.verdict.verdict != "unsafe" or b.mended.verdict != "safe" for b in bugs):
        ctx.exit(UNSAFE)
    if any(v.verdict == "unsafe" for v in verdicts):
        ctx.exit(UNSAFE)
    if any(v.verdict == "undecided" for own in verdicts for v in (own, *own.mutants.values())):
        ctx.exit(UNDECIDED)
