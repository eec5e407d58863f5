"""`kvmbench show`: the thing that a name stands for, or the content of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvmbench.cli.common import HOMES, complete, is_file, is_result_file, known, load_result, read
from kvmbench.cli.options import results_dir_option
from kvmbench.cli.output import emit, output_options
from kvmbench.cli.store import named_results
from kvmbench.report import FORMS

if TYPE_CHECKING:
    from kvmbench.catalog import Published
    from kvmbench.model import Policy, Profile
    from kvmbench.report import Block, Document
    from kvmbench.scenario.scenario import Scenario


def _names(ctx: click.Context) -> Iterable[str]:
    kept = named_results(ctx.params.get("results_dir") or "results")
    return sorted({name for table in (*map(known, HOMES), kept) for name in table})


@click.command("show")
@click.argument("name", metavar="NAME|FILE", shell_complete=complete(_names))
@results_dir_option
@output_options(*FORMS)
def command(name: str, results_dir: str, format: str | None, output: str | None) -> None:
    """Print a workload, scenario, policy, profile, published table or result.

    By name or from a file; of results, whatever `kvmbench convert` reads, a folder of them too. A
    name that stands for several things prints them all.

    \b
    Examples:
      kvmbench show deferred
      kvmbench show patch-2017
      kvmbench show ./mine.toml
      kvmbench show logs/vmexit.log
    """
    from kvmbench.errors import unknown_name
    from kvmbench.formats import is_many
    from kvmbench.report import Document

    found: list[Document] = []
    if is_file(name) and name.endswith((".toml", ".py")):
        found = _from_file(name)
    elif is_result_file(name):
        found.append(_result(name, results_dir))
    else:
        tables = {kind: known(kind) for kind in HOMES}
        found = [_shown(kind, table[name]) for kind, table in tables.items() if name in table]
        if name in named_results(results_dir):
            found.append(_result(name, results_dir))
        if not found and is_many(name):  # stdin, a folder, a glob
            found.append(_result(name, results_dir))
    if not found:
        raise click.UsageError(unknown_name("name", name, _names(click.get_current_context())))
    blocks = [block for document in found for block in document.blocks]
    records = [record for document in found for record in document.records]
    data = found[0].data if len(found) == 1 else [document.data for document in found]
    emit(Document("", blocks, records, data), format, output)


def _from_file(path: str) -> list[Document]:
    """Return the documents of a user's file; its top level tells its kind."""
    from kvmbench import catalog
    from kvmbench.scenario import scenario
    from kvmbench.tomlfile import Source

    if path.endswith(".py"):
        words = f"{path}: only --workload-file runs Python: kvmbench run --workload-file {path}"
        raise click.UsageError(words)
    top = read(lambda name: Source(Path(name)), path).data
    if "axes" in top:
        words = f"{path}: a sweep's design: kvmbench sweep {path} -o POINTS.jsonl computes it"
        raise click.UsageError(words)
    if "tasks" in top or "cpus" in top:
        return [_scenario(read(scenario.load_scenario, path))]
    if "rows" in top or "configurations" in top:
        return [_published(read(catalog.load_published, path))]
    if "costs" in top or "kinds" in top or "extends" in top:
        return [_profile(read(catalog.load_profile, path))]
    return [_policy(found) for found in read(catalog.load_policies, path).values()]


def _shown(kind: str, thing: Any) -> Document:
    """Return the document of a thing of one of the kinds that `list` knows."""
    if kind == "workloads":
        steps = {"exits": thing.exits, "then": thing.userspace}
        facts = {what: ", ".join(map(str, listed)) for what, listed in steps.items() if listed}
        return _facts("workload", thing, dict(facts))
    known_as: dict[str, Callable[[Any], Document]] = {
        "scenarios": _scenario, "policies": _policy, "profiles": _profile,
    }  # fmt: skip
    return known_as.get(kind, _published)(thing)


def _result(name: str, results_dir: str) -> Document:
    return load_result(name, results_dir).document("stdin" if name == "-" else Path(name).name)


def _facts(kind: str, thing: object, facts: dict[str, object], *more: Block) -> Document:
    """Return the document of a thing: its kind and name, its facts, and more blocks."""
    from kvmbench.report import Document, Facts

    pairs = {kind: getattr(thing, "name"), "about": getattr(thing, "about", None)} | facts  # noqa: B009
    shown = {name: "-" if value in ("", ()) else str(value) for name, value in pairs.items()}
    record = {name: value for name, value in shown.items() if pairs[name] is not None}
    return Document("", [Facts(list(record.items())), *more], [record], record)


def _policy(policy: Policy) -> Document:
    from kvmbench.model import HOOKS
    from kvmbench.report import Note

    facts: dict[str, object] = {"io_base": f"{policy.io_base_at_start} at the start"}
    entries = {hook: getattr(policy, hook) for hook in HOOKS}
    for hook, own in entries.items():
        facts[hook] = "; ".join(e if isinstance(e, str) else f"[{', '.join(e)}]" for e in own)
    regions = any(not isinstance(e, str) for own in entries.values() for e in own)
    note = [Note("[...] runs with preemption disabled.")] if regions else []
    return _facts("policy", policy, facts, *note)


def _scenario(scenario: Scenario) -> Document:
    facts: dict[str, object] = {}
    for name in ("cpus", "clock_hz", "seconds", "timeslice_us", "migrations", "epoch_us"):
        facts[name] = f"{getattr(scenario, name):,}"
    facts |= {name: getattr(scenario, name) for name in ("ioperm_share", "seed")}
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
        facts[f"tasks {group.name}"] = "; ".join(figures)
    return _facts("scenario", scenario, facts)


def _profile(profile: Profile) -> Document:
    from kvmbench.report import Column, Items, Table

    clock = f"{profile.tsc_hz:,} Hz" if profile.tsc_hz else "not stated"
    costs = [
        (figure.removeprefix("costs."), str(value), profile.origin(figure).basis)
        for figure, value in profile.figures().items()
        if figure.startswith("costs.")
    ]
    kinds = [
        (
            kind.name, *map(str, (kind.cycles, kind.user_cycles, kind.overlap)),
            "userspace" if kind.user else "kernel" if kind.exits else "no exit",
        )
        for kind in profile.kinds
    ]  # fmt: skip
    sources: dict[tuple[str, str], list[str]] = {}
    for figure in profile.figures():
        origin = profile.origin(figure)
        sources.setdefault((origin.basis, origin.source), []).append(figure)
    figures = [Column(name, unit="cycles") for name in ("in the kernel", "in userspace", "overlap")]
    return _facts(
        "profile", profile, {"TSC": clock},
        Table([Column("cost", "key"), Column("", unit="cycles"), Column("basis", "word")], costs),
        Table([Column("exit kind", "key"), *figures, Column("handled in", "word")], kinds),
        Items([f"{b}: {s}: {', '.join(figures)}" for (b, s), figures in sources.items()]),
    )  # fmt: skip


def _published(table: Published) -> Document:
    from kvmbench.formats import from_published
    from kvmbench.report import WIDTH, Column, Facts, Table
    from kvmbench.summary import rows
    from kvmbench.units import Side

    facts: dict[str, object] = {
        name: getattr(table, name)
        for name in ("title", "change", "date", "hardware", "note", "source")
    }
    facts["unit"] = f"{table.unit}, {table.better} is better"
    names = list(dict.fromkeys(row.name for row in table.rows))

    def cell(name: str, configuration: str) -> str:
        value = table.value(name, configuration)
        return "-" if value is None else f"{value:g}" if value % 1 else f"{value:.0f}"

    columns = [Column("name", "key"), *map(Column, table.configurations)]
    lines = [(name, *(cell(name, c) for c in table.configurations)) for name in names]
    if sum(map(len, table.configurations)) > WIDTH // 2:
        columns = [Column("configuration", "key"), Column("name", "key"), Column("figure")]
        lines = [(row.configuration, row.name, f"{row.value:.12g}") for row in table.rows]
    blocks: list[Block] = [Table(columns, lines, grouped=True)]
    said = []
    for row in table.rows:
        if row.remark:
            said.append(("remark", f"{row.name}, {row.configuration}: {row.remark}"))
        if row.values:
            order = "order in time lost" if table.order == "lost" else "in order"
            values = " ".join(f"{value:g}" for value in row.values)
            said.append(("runs", f"{row.configuration}, {len(row.values)}, {order}: {values}"))
    if said:
        blocks.append(Facts(said))
    if any(row.values for row in table.rows):
        blocks += rows(Side(table.name, from_published(table)))[0]
    return _facts("published", table, facts, *blocks)
