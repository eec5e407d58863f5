"""The documents of `kvmbench lab`: what kernels did per iteration, and what the lab needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins

from kvmbench.lab.counts import EXACT, Row, exact, label_of
from kvmbench.lab.ioperm import PORT, Try
from kvmbench.lab.kernel import Kernel, Vendor
from kvmbench.lab.run import BITMAP, Counted, differs
from kvmbench.report import Cell, Column, Document, Items, Note, Table
from kvmbench.report.plots import Axis, Bar, Bars

if TYPE_CHECKING:
    from kvmbench.results import Result

__all__ = ["document", "io_document", "ioperm_document"]

SHOWN = ("instructions", "exits", "ltr")  # of one configuration; of several, and what moved
ALWAYS = ("instructions", "ltr")
PARTS = ("instructions_kernel", "instructions_user", "instructions_guest")  # of the sum
MODES = dict(zip(PARTS, ("host kernel", "host user mode", "guest"), strict=True))
TR_LIMIT = "TR limit in user mode"
SIMULATED = "LTR, simulated"
KINDS = {"vmx": "VMX (Haswell)", "svm": "SVM (Ryzen)"}
NOISE = 0.02  # of instructions, up to which timer ticks move them; `compare` decides

Line = tuple[str, list[str], str]  # count, a cell per configuration, change or mark


class _Side:
    """One configuration: a kernel, with or without an I/O bitmap held."""

    def __init__(self, counted: Counted, bitmap: bool) -> None:
        self.counted, self.bitmap = counted, bitmap
        self.label = counted.kernel.label + (BITMAP if bitmap else "")
        self.rows = {row.workload: row for row in counted.rows if row.bitmap == bitmap}

    def reloads(self, workload: str) -> float | None:
        return self.counted.reloads.get((workload, self.bitmap))


def document(counted: Sequence[Counted], result: Result, *, explain: bool = False) -> Document:
    """Return the table of what was counted per iteration; with `explain`, of all counts."""
    sides = [
        _Side(one, bitmap)
        for one in counted
        for bitmap in (False, True)
        if any(row.bitmap == bitmap for row in one.rows)
    ]
    names = list(dict.fromkeys(row.workload for side in sides for row in side.rows.values()))
    rows: list[list[str | Cell]] = []
    marked = False
    for name in names:
        for what, cells, mark in _lines(name, sides, explain):
            marked |= mark == MARK
            rows.append([name, what, *cells, Cell(mark, "mark") if mark == MARK else mark])
    columns = [Column("workload", "key"), Column("count", "word")]
    columns += [Column(side.label) for side in sides]
    columns.append(Column("change" if len(sides) == 2 else ""))
    if not any(row[-1] for row in rows):
        columns.pop()
        rows = [row[:-1] for row in rows]
    notes = [_of(one) for one in counted]
    if marked:
        notes.append(
            f"{MARK}: the kernel executed LTR another number of times than the simulation of its "
            "policy reloads TR."
        )
    notes.append(
        f"Counted outside the kernel by the emulator, as the difference of long and short rounds; "
        f"counts are exact to {EXACT}, instructions hold the host kernel's timer ticks. "
        "Instructions are no cycles."
    )
    for one in counted:
        notes += [f"{one.kernel.label}, {n}: not counted: {why}" for n, why in one.skipped.items()]
    kinds = " and ".join(dict.fromkeys(KINDS[one.vendor] for one in counted))
    return Document(
        title=f"Counted per iteration on an emulated CPU, {kinds}",
        blocks=[Table(columns, rows, grouped=True), *_bars(sides, names), Items(notes)],
        records=list(_records(sides, names)),
        data=to_builtins(result) | {"schema": result.schema},
    )


MARK = "differs"


def _bars(sides: Sequence[_Side], names: Sequence[str]) -> Iterator[Bars]:
    """Yield the instructions by the mode that they ran in, and the LTRs, of each kernel."""
    rows = [(name, side.label, side.rows[name]) for name in names for side in sides
            if name in side.rows]  # fmt: skip
    for title, counts, about in (
        ("Instructions", PARTS, "Instructions per iteration, by the mode that executed them."),
        ("Reloads of TR", ("ltr",), "LTR per iteration, as the emulator counted them."),
    ):
        bars = []
        for name, label, row in rows:
            figures = [row.figure(count) or 0 for count in counts]
            bars.append(Bar(name, label, [max(exact(figure), 0) for figure in figures]))
        if any(any(bar.parts) for bar in bars):
            yield Bars(
                title=title,
                about=about,
                axis=Axis(f"{'LTR' if 'ltr' in counts else 'instructions'}/iteration"),
                parts=[MODES.get(count, "LTR") for count in counts],
                bars=bars,
            )


def _of(one: Counted) -> str:
    policy = one.policy or "no reload of TR"
    how = "as stated" if one.stated else f"looked up from {one.kernel.release}"
    return f"{one.kernel.label}: {one.kernel.source}; policy {policy}, {how}."


def _lines(name: str, sides: Sequence[_Side], explain: bool) -> Iterator[Line]:
    found = [side.rows.get(name) for side in sides]
    counts = dict.fromkeys(n for row in found if row for n in row.values)
    several = len(sides) > 1
    for count in sorted(counts, key=_order):
        figures = [None if row is None else row.figure(count) for row in found]
        known = [figure for figure in figures if figure is not None]
        moved = _moved(count, known)
        if count in ALWAYS or (several and moved) or (not several and count in SHOWN) or (
            explain and any(abs(f) > EXACT for f in known)
        ):  # fmt: skip
            vendor = sides[0].counted.vendor
            change = _change(count, figures) if len(sides) == 2 and moved else ""
            yield label_of(count, vendor), [_figure(count, f) for f in figures], change
        if count == "ltr":
            simulated = [side.reloads(name) for side in sides]
            apart = any(row and differs(side.counted, row)
                        for side, row in zip(sides, found, strict=True))  # fmt: skip
            yield (
                SIMULATED,
                ["-" if s is None else _plain(s) for s in simulated],
                (MARK if apart else ""),
            )
    limits = [row.tr_limits if row else None for row in found]
    if explain or len(set(limits)) > 1:
        yield TR_LIMIT, [_limits(pair) for pair in limits], ""
    if explain:
        yield from _counters(name, sides)


def _order(count: str) -> tuple[int, str]:
    first = ("instructions", "instructions_kernel", "instructions_user", "instructions_guest")
    order = (*first, "returns_to_user", "exits", "entries", "ltr", "lgdt")
    return (order.index(count) if count in order else len(order), count)


def _moved(count: str, figures: Sequence[float]) -> bool:
    if len(figures) < 2 or count in PARTS:
        return False
    spread = max(figures) - min(figures)
    if count.startswith("instructions"):
        return spread > NOISE * max(map(abs, figures)) and spread > 1
    return max(map(exact, figures)) != min(map(exact, figures)) and spread > EXACT


def _change(count: str, figures: Sequence[float | None]) -> str:
    before, after = figures
    if before is None or after is None:
        return ""
    if count.startswith("instructions"):
        return f"{100 * (after - before) / before:+.1f}%" if before else ""
    return _plain(exact(after) - exact(before), "+")


def _figure(count: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{round(value):,}" if count.startswith("instructions") else _plain(exact(value))


def _plain(value: float, sign: str = "") -> str:
    return f"{value:{sign}.0f}" if value == int(value) else f"{value:{sign}.3f}"


def _limits(pair: tuple[int, int] | None) -> str:
    if pair is None:
        return "-"
    return f"{pair[0]:#x}" if pair[0] == pair[1] else f"{pair[0]:#x} to {pair[1]:#x}"


def _counters(name: str, sides: Sequence[_Side]) -> Iterator[Line]:
    own = [side.counted.counters.get((name, side.bitmap), {}) for side in sides]
    for counter in dict.fromkeys(n for counters in own for n in counters):
        cells = [f"{c[counter]:.3f}" if counter in c else "-" for c in own]
        yield f"KVM: {counter}", cells, ""


def _records(sides: Sequence[_Side], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        for side in sides:
            row = side.rows.get(name)
            if row is not None:
                yield _record(name, side, row)


def _record(name: str, side: _Side, row: Row) -> dict[str, Any]:
    one = side.counted
    record: dict[str, Any] = {
        "workload": name, "kernel": one.kernel.label, "release": one.kernel.release,
        "vendor": one.vendor, "bitmap": side.bitmap, "policy": one.policy,
        "reloads_simulated": side.reloads(name), "differs": differs(one, row),
    }  # fmt: skip
    for count, values in row.values.items():
        noisy = count.startswith("instructions")
        record[count] = median(values) if noisy else exact(median(values))
    if row.tr_limits:
        record["tr_limit_least"], record["tr_limit_greatest"] = row.tr_limits
    return record


def io_document(label: str, vendor: str, found: dict[str, Any]) -> Document:
    """Return the document of a check inside the machine."""
    agreeing = found["cases"] - found["apart_allowed"] - found["disagreeing"]
    agreeing -= found.get("levels_denied", 0)
    notes = [f"{label} on {KINDS[vendor]}: {agreeing:,} of {found['cases']:,} accesses at CPL 3 "
             f"were decided as port_check says, {found['allowed']:,} of them allowed."]  # fmt: skip
    if found["apart"]:
        notes.append(
            f"In {found['apart']:,} cases only the first of the two bytes is inside the limit; "
            f"the emulator allowed {found['apart_allowed']:,} of them."
        )
    notes += found["disagreements"]
    return Document(
        title="The port check, judged by an emulator's own code",
        blocks=[Items(notes), Note("The judge is Bochs; kvmbench's rule is docs/model.md, 3.")],
        records=[{k: v for k, v in found.items() if k != "disagreements"}],
        data=found | {"schema": "kvmbench.lab-check-io/1"},
    )


def ioperm_document(found: Sequence[tuple[Kernel, Vendor, Sequence[Try]]]) -> Document:
    """Return the document of the kernels' answers to a process's own IN."""
    answers = {True: "allowed", False: "SIGSEGV"}
    cases = [(t["ioperm"], t["kvm_run"]) for t in found[0][2]]
    columns = [Column("ioperm", "key"), Column("KVM_RUN", "key")]
    columns += [Column(one.label, "word") for one, _, _ in found]
    rows: list[list[str | Cell]] = []
    for number, (held, ran) in enumerate(cases):
        rows.append(["yes" if held else "no", "yes" if ran else "no"])
        for _, _, tries in found:
            allowed = tries[number]["allowed"]
            rows[-1].append(Cell(answers[allowed], "good" if allowed == held else "bad"))
    return Document(
        title=f"IN from port {PORT:#x} at CPL 3, by processes of the emulated machine",
        blocks=[
            Table(columns, rows),
            Items([f"{one.label}: {one.source}, on {KINDS[vendor]}." for one, vendor, _ in found]),
            Note("The kernel should allow the port to a process that holds it, and to no other."),
        ],
        records=[
            {"kernel": one.label, "release": one.release, "vendor": vendor, **t,
             "right": t["allowed"] == t["ioperm"]}
            for one, vendor, tries in found for t in tries
        ],
        data={
            "schema": "kvmbench.lab-check-ioperm/1",
            "kernels": [
                {"label": one.label, "release": one.release, "source": one.source,
                 "vendor": vendor, "tries": list(tries)}
                for one, vendor, tries in found
            ],
        },
    )  # fmt: skip
