"""`kvmbench show`: what is behind a name, or in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvmbench.cli.common import (
    RESULT_ENDINGS,
    complete,
    is_file,
    load_result,
    read,
    results_dir_option,
    saved_results,
)

if TYPE_CHECKING:
    from kvmbench.catalog import Published
    from kvmbench.model import Policy, Profile
    from kvmbench.scenario.scenario import Scenario
    from kvmbench.workloads import Workload


def _names(ctx: click.Context) -> Iterable[str]:
    from kvmbench import catalog, workloads
    from kvmbench.scenario import scenario

    tables = (
        *(catalog.policies(), catalog.profiles(), catalog.published()),
        *(workloads.workloads(), scenario.scenarios()),
    )
    kept = saved_results(ctx.params.get("results_dir") or "results")
    return sorted({name for table in (*tables, kept) for name in table})


@click.command("show")
@click.argument("name", metavar="NAME|FILE", shell_complete=complete(_names))
@results_dir_option
def command(name: str, results_dir: str) -> None:
    """Print a workload, scenario, policy, profile, published table or result.

    By name or from a file; of results, any that `kvmbench convert` reads. A name that stands for
    several things prints them all.

    \b
    Examples:
      kvmbench show deferred
      kvmbench show patch-2017
      kvmbench show ./mine.toml
      kvmbench show logs/vmexit.log
    """
    from kvmbench import catalog, workloads
    from kvmbench.errors import unknown_name
    from kvmbench.scenario import scenario

    if is_file(name) and name.endswith((".toml", ".py")):
        found = _from_file(name)
    elif is_file(name) or name.endswith(RESULT_ENDINGS) or Path(name).is_file():
        found = [_result(name, results_dir)]
    else:
        try:
            groups: list[tuple[Callable[[Any], str], Any]] = [
                (_workload, workloads.workloads()),
                (_scenario, scenario.scenarios()),
                (_policy, catalog.policies()),
                (_profile, catalog.profiles()),
                (_published, catalog.published()),
            ]
        except ValueError as error:
            raise click.ClickException(str(error)) from None
        found = [show(known[name]) for show, known in groups if name in known]
        if name in saved_results(results_dir):
            found.append(_result(name, results_dir))
        if not found:
            raise click.UsageError(unknown_name("name", name, _names(click.get_current_context())))
    click.echo("\n".join(found), nl=False)


def _from_file(path: str) -> list[str]:
    """Show a user's file; what it holds is known by its top level."""
    import tomllib

    from kvmbench import catalog, workloads
    from kvmbench.scenario import scenario

    if path.endswith(".py"):
        return [_workload(found) for found in read(workloads.load_workloads, path)]
    try:
        top = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        top = {}  # the reader below says what is wrong
    if "tasks" in top or "cpus" in top:
        return [_scenario(read(scenario.load_scenario, path))]
    if "rows" in top or "configurations" in top:
        return [_published(read(catalog.load_published, path))]
    if "costs" in top or "kinds" in top or "extends" in top:
        return [_profile(read(catalog.load_profile, path))]
    return [_policy(found) for found in read(catalog.load_policies, path).values()]


def _result(name: str, results_dir: str) -> str:
    from kvmbench.summary import render_result

    return render_result(Path(name).name, load_result(name, results_dir))


def _workload(workload: Workload) -> str:
    from kvmbench.report.plain import fact

    return fact("workload", workload.name) + fact("about", workload.about) + fact(
        "exits", ", ".join(workload.exits)
    )  # fmt: skip


def _policy(policy: Policy) -> str:
    from kvmbench.model import HOOKS
    from kvmbench.report.plain import fact

    lines = fact("policy", policy.name, 14) + fact("about", policy.about, 14)
    lines += fact("io_base", f"{policy.io_base_at_start} at the start", 14)
    for hook in HOOKS:
        entries = getattr(policy, hook)
        texts = [e if isinstance(e, str) else f"[{', '.join(e)}]" for e in entries]
        lines += fact(hook, "; ".join(texts) or "-", 14)
    if any(not isinstance(e, str) for hook in HOOKS for e in getattr(policy, hook)):
        lines += "[...] runs with preemption off\n"
    return lines


def _scenario(scenario: Scenario) -> str:
    from kvmbench.report.plain import fact

    lines = fact("scenario", scenario.name, 14) + fact("about", scenario.about, 14)
    for name in ("cpus", "clock_hz", "seconds", "timeslice_us", "migrations", "epoch_us"):
        lines += fact(name, f"{getattr(scenario, name):,}", 14)
    for name in ("ioperm_share", "seed"):
        lines += fact(name, getattr(scenario, name), 14)
    for group in scenario.tasks:
        figures = [f"{group.type}, {group.count} tasks"]
        for name in ("guest_us", "work_us", "run_us", "sleep_us"):
            if getattr(group, name):
                figures.append(f"{name} {getattr(group, name):g}")
        figures.append(group.times)
        if group.ioperm or group.type == "io":
            figures.append(f"I/O bitmap: {group.ports} ports each from {group.port:#x}")
        if group.mix:
            figures.append("mix " + ", ".join(f"{k} {w:g}" for k, w in group.mix.items()))
        lines += fact(group.name, "; ".join(figures), max(14, len(group.name) + 2))
    return lines


def _profile(profile: Profile) -> str:
    from kvmbench.report.plain import Table, fact, text

    lines = fact("profile", profile.name) + fact("about", profile.about)
    clock = f"{profile.tsc_hz:,} Hz" if profile.tsc_hz else "not stated"
    lines += fact("TSC", clock) + "\n"
    costs = [
        (figure.removeprefix("costs."), str(value), profile.origin(figure).basis)
        for figure, value in profile.figures().items()
        if figure.startswith("costs.")
    ]
    kinds = [
        (
            kind.name,
            *(str(value) for value in (kind.cycles, kind.user_cycles, kind.overlap)),
            "userspace" if kind.user else "kernel" if kind.exits else "no exit",
        )
        for kind in profile.kinds
    ]
    lines += text(Table(("cost, cycles", "", "basis"), costs)) + "\n"
    lines += text(Table(("exit kind", "cycles", "user", "overlap", "handled in"), kinds)) + "\n"
    sources: dict[tuple[str, str], list[str]] = {}
    for figure in profile.figures():
        origin = profile.origin(figure)
        sources.setdefault((origin.basis, origin.source), []).append(figure)
    for (basis, source), figures in sources.items():
        lines += fact(basis, f"{source}: {', '.join(figures)}")
    return lines


def _published(table: Published) -> str:
    from kvmbench.formats import from_published
    from kvmbench.report.plain import Table, fact, text
    from kvmbench.summary import render_rows
    from kvmbench.units import Side

    lines = fact("published", table.name)
    for name in ("title", "change", "date", "hardware", "note", "source"):
        lines += fact(name, getattr(table, name))
    lines += fact("unit", f"{table.unit}, {table.better} is better") + "\n"
    names = list(dict.fromkeys(row.name for row in table.rows))

    def cell(name: str, configuration: str) -> str:
        value = table.value(name, configuration)
        return "-" if value is None else f"{value:g}" if value % 1 else f"{value:.0f}"

    if len(table.configurations) <= 4 and max(map(len, table.configurations)) <= 14:
        rows = [(name, *(cell(name, c) for c in table.configurations)) for name in names]
        lines += text(Table(("name", *table.configurations), rows))
    else:
        for configuration in table.configurations:
            here = [name for name in names if table.value(name, configuration) is not None]
            rows = [(name, cell(name, configuration)) for name in here]
            lines += text(Table((configuration, ""), rows))
    for row in table.rows:
        if row.remark:
            lines += fact("remark", f"{row.name}, {row.configuration}: {row.remark}")
        if row.values:
            order = "order in time lost" if table.order == "lost" else "in order"
            values = " ".join(f"{value:g}" for value in row.values)
            lines += fact("runs", f"{row.configuration}, {len(row.values)}, {order}: {values}")
    if any(row.values for row in table.rows):
        lines += "\n" + render_rows(Side(table.name, from_published(table)))
    return lines
