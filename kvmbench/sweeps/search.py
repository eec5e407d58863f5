"""The search for policies: the mutants of a policy, simulated, checked, and ranked.

`kvmbench sweep --find` is `find` here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from kvmbench.catalog import find_policy, find_profile, policy_toml
from kvmbench.causes import WRONG
from kvmbench.checker.mutations import mutations as mutants_of
from kvmbench.checker.mutations import needed
from kvmbench.errors import brief, unknown_name
from kvmbench.model import HOOKS, Policy, Profile
from kvmbench.report import Block, Column, Document, Note, Record, Reported, Table
from kvmbench.report.figures import figure, plural
from kvmbench.scenario.scenario import Scenario, load_scenario
from kvmbench.sweeps.design import VERSION, Design
from kvmbench.sweeps.engines import computed, sweep

__all__ = ["Found", "find", "terms"]

Progress = Callable[[str, float], None]


@dataclass(frozen=True, repr=False)
class Found(Reported):
    """Policies and their mutants, ranked. It prints as `kvmbench sweep --find` does.

    `rows` has a record per policy: `base` and `mutation` ("" for the base), the goal's column,
    `worth` and `worth_error` over the base, `terms`, `verdict` ("safe", "unsafe", "undecided", or
    None where the mutant is neither better nor simpler than its base), `front`, and `policy_text`.
    """

    goal: str
    safe: bool
    scenario: Scenario
    profile: Profile
    rows: Sequence[Record]
    sizes: Mapping[str, int]
    """`cpus`, `tasks` and `ports` of the machine that was checked."""

    def __repr__(self) -> str:
        return f"<Found {self.goal}: {sum(row['front'] for row in self.rows)} on the front>"

    def document(self) -> Document:
        """Return the document that `kvmbench sweep --find` prints."""
        return _document(self)


def terms(policy: Policy) -> int:
    """Return the number of steps and conditions of a policy, the measure of simplicity."""
    return sum(1 + len(step.when) for hook in HOOKS for step in policy.steps(hook))


def find(
    bases: Sequence[str | Path | Policy], scenario: str | Path | Scenario = "ioperm-desktop",
    profile: str | Path | Profile = "patch-2017", *, goal: str = "min cycles", safe: bool = True,
    mutations: int = 1, processes: int | None = None, scheduler: str | None = None,
    points: str | Path | None = None, progress: Progress | None = None, cpus: int = 2,
    tasks: int = 3, ports: int = 2,
) -> Found:  # fmt: skip
    """Simulate each mutant of some policies on a host, check the promising ones, and rank them.

    `goal` is "min" or "max" and a column of a scenario's points: "min cycles". With `safe`, a
    mutant that is better by it or simpler than its base, and has no leak, denial or fault in the
    simulation, is checked, and only a safe one can be on the front: no other one is better and
    simpler. With 2 `mutations`, the safe ones are mutated again, once. The engine is chosen as in
    `sweep`. A check's machine has `cpus`, `tasks` and `ports`. The folder `points` keeps the points
    of each step, a file each: the same call goes on after a kill.

    Raises ValueError for an unknown name, column or goal, and as `sweep`.
    """
    way, _, column = goal.strip().partition(" ")
    column = column.strip()
    if way not in ("min", "max") or not column:
        raise ValueError(f"goal is {brief(goal)}, not 'min COLUMN' or 'max COLUMN'")
    host = scenario if isinstance(scenario, Scenario) else load_scenario(scenario)
    costs = find_profile(profile)
    if points is not None:
        Path(points).mkdir(parents=True, exist_ok=True)
    run = partial(_points, points, processes=processes, scheduler=scheduler)
    sizes = {"cpus": cpus, "tasks": tasks, "ports": ports}
    rows: list[Record] = []
    for given in bases:
        base = needed(find_policy(given))  # as the mutants: fork and iopl do not happen here
        own: list[Record] = []
        known: set[str] = set()
        parents = [("", base)]
        for _ in range(mutations):
            children = {"": base} if not own else {}
            for prefix, parent in parents:
                for label, mutant in mutants_of(parent).items():
                    children[f"{prefix}{label}"] = mutant
            fresh = {}
            for label, policy in children.items():
                text = policy_toml(replace(policy, name="x", about=""))
                if text not in known:
                    known.add(text)
                    name = f"{base.name}: {label}" if label else base.name
                    fresh[label] = replace(policy, name=name)
            own += _ranked(
                fresh, base, own, host, costs, way, column, safe, run, sizes, progress
            )  # fmt: skip
            parents = [
                (f"{row['mutation']}; ", replace(row["policy"], name=base.name))
                for row in own if row["verdict"] == "safe" and row["mutation"]
            ]  # fmt: skip
        _mark(own, way, column, safe)
        rows += own
    for row in rows:
        row["policy_text"] = policy_toml(row.pop("policy"))
    return Found(goal.strip(), safe, host, costs, rows, sizes)


def _points(
    folder: str | Path | None, design: Design, said: str, progress: Progress | None, **engine: Any
) -> Sequence[Record]:  # fmt: skip
    """Return the points of a design in its order; a folder keeps them, and those it has count."""

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(f"{said}: {done} of {total}", done / total)

    if folder is not None:
        return sweep(design, Path(folder) / f"{design.id}.jsonl", **engine, progress=report).rows
    found: dict[int, Record] = {}
    for lines in computed(design, range(design.n_points), **engine):
        found |= {point: msgspec.json.decode(line) for point, line in lines}
        report(len(found), design.n_points)
    return [found[point] for point in sorted(found)]


def _ranked(
    policies: dict[str, Policy], base: Policy, known: Sequence[Record], host: Scenario,
    costs: Profile, way: str, column: str, safe: bool, run: Callable[..., Sequence[Record]],
    sizes: Mapping[str, int], progress: Progress | None,
) -> list[Record]:  # fmt: skip
    """Return the rows of policies simulated, and checked where that can matter."""
    if not policies:
        return []
    shared: dict[str, Any] = dict(version=VERSION)
    simulated = Design(
        job="scenario", policies=tuple(policies.values()), before=base,
        axes={"scenario": (host,), "profile": (costs,), "vendor": ("vmx",)}, **shared,
    )  # fmt: skip
    rows: list[Record] = []
    points = run(simulated, f"simulating mutants of {base.name}", progress)
    for (label, policy), point in zip(policies.items(), points, strict=True):
        value = point.get(column)
        if column not in point or isinstance(value, (str, bool)):
            numbers = [key for key, value in point.items() if isinstance(value, float)]
            raise ValueError(unknown_name("column", column, numbers))
        bad = [name for name in WRONG if point[f"{name}_after"]]
        rows.append(
            {
                "base": base.name, "mutation": label, column: value, "worth": point["worth"],
                "worth_error": point["worth_error"], "terms": terms(policy),
                "verdict": "unsafe" if bad else None, "policy": policy,
            }
        )  # fmt: skip
    first = [*known, *rows][0]
    chosen = [
        row for row in rows
        if row["verdict"] is None and (row is first or _better(row, first, way, column)
                                       or row["terms"] < first["terms"])
    ]  # fmt: skip
    if safe and chosen:
        checked = Design(
            job="check", policies=tuple(row["policy"] for row in chosen), before=None,
            axes={name: (size,) for name, size in sizes.items()}, **shared,
        )  # fmt: skip
        for row, point in zip(
            chosen, run(checked, f"checking mutants of {base.name}", progress), strict=True
        ):
            row["verdict"] = point["verdict"]
    return rows


def _better(row: Record, other: Record, way: str, column: str) -> bool:
    mine, theirs = row[column], other[column]
    if mine is None or theirs is None:
        return mine is not None
    return bool(mine < theirs if way == "min" else mine > theirs)


def _mark(rows: Sequence[Record], way: str, column: str, safe: bool) -> None:
    """Mark the rows on the front: no other one is as good and as simple, and better in one."""
    able = [row for row in rows if (row["verdict"] == "safe" if safe else row[column] is not None)]
    for row in rows:
        row["front"] = row in able and not any(
            not _better(row, other, way, column) and other["terms"] <= row["terms"]
            and (_better(other, row, way, column) or other["terms"] < row["terms"])
            for other in able
        )  # fmt: skip


def _document(found: Found) -> Document:
    column = found.goal.partition(" ")[2].strip()
    way = found.goal.partition(" ")[0]
    heads = [
        Column("base", "key"), Column("mutation", "word"), Column(column, "figure"),
        Column("worth", unit="% of CPU time"), Column("terms"), Column("verdict", "word"),
    ]  # fmt: skip
    cells = []
    notes: list[Block] = []
    for base in dict.fromkeys(row["base"] for row in found.rows):
        own = [row for row in found.rows if row["base"] == base]
        first, *mutants = own
        front = sorted(
            (row for row in mutants if row["front"]),
            key=lambda row: (row[column] if way == "min" else -row[column], row["terms"]),
        )
        for row in (first, *front):
            error = row["worth_error"]
            said = "-" if row["worth"] is None else f"{row['worth']:+.4f}"
            said += f" +- {error:.4f}" if error and row is not first else ""
            value = "-" if row[column] is None else figure(row[column])
            words = [base, row["mutation"] or "as it is", value, said, str(row["terms"])]
            cells.append([*words, row["verdict"] or "-"])
        counts = [
            f"{sum(row['verdict'] == verdict for row in mutants)} {verdict or 'not checked'}"
            for verdict in ("safe", "unsafe", "undecided", None)
            if any(row["verdict"] == verdict for row in mutants)
        ]
        able = [row for row in mutants if not found.safe or row["verdict"] == "safe"]
        better = [row for row in able if _better(row, first, way, column)]
        kind = "safe mutant" if found.safe else "mutant"
        said = f"{base}: {plural(len(mutants), 'mutant')}: {', '.join(counts)}. "
        said += f"{plural(len(better), kind)} better by {column}" if better else (
            f"No {kind} is better by {column}"
        )  # fmt: skip
        simpler = sum(row["terms"] < first["terms"] for row in able)
        notes.append(Note(f"{said}; {simpler} of the {kind}s are simpler."))
    notes.append(
        Note("terms: steps and conditions. worth: CPU time saved over the base, for the same work. "
             "A mutant that is neither better nor simpler than its base is not checked.")
    )  # fmt: skip
    size = ", ".join(plural(n, name.removesuffix("s")) for name, n in found.sizes.items())
    if found.safe:
        notes.append(Note(f"Checked on a machine of {size.replace('cpu', 'CPU')}."))
    host = found.scenario
    title = f"{found.goal} on {host.name}, cost profile {found.profile.name}"
    head = {"schema": "kvmbench.sweep/1", "kvmbench": VERSION, "goal": found.goal}
    records = list(found.rows)
    table = Table(heads, cells, grouped=True)
    return Document(title, [table, *notes], records, head | {"policies": records})
