"""The plots that the subjects make: the figures in them are those of the tables, by hand."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kvmbench import catalog, compare, simulate
from kvmbench.checker.document import document as check_document
from kvmbench.checker.explorer import Explorer
from kvmbench.checker.history import CPU_COLUMNS, Counterexample, Event
from kvmbench.checker.verdict import check
from kvmbench.comparison.history import history
from kvmbench.lab.document import document as lab_document
from kvmbench.pictures import run_marks
from kvmbench.report.document import Plot, Table
from kvmbench.report.plots import Bars, Curves, Dots, Group, Marks
from kvmbench.results import Boot, Result, Run, Series
from kvmbench.scenario.scenario import scenarios
from kvmbench.tests import mutants, pages
from kvmbench.tests.results_maker import of_runs, sides
from kvmbench.traces.recording import read_recording
from kvmbench.traces.replay import replay_recording

START = datetime(2026, 11, 26, 12, tzinfo=UTC)


def minute(number):
    return (START + timedelta(minutes=number)).isoformat()


def plots(document, kind=Plot):
    return [block for block in document.blocks if isinstance(block, kind)]


def timed(values, minutes, *, block=None):
    """Return a boot with a run of row `w` for each value."""
    runs = [
        Run(time=minute(at), series=[Series(workload="w", kind="noisy", values=[value])])
        for value, at in zip(values, minutes, strict=True)
    ]
    return Boot(id=f"boot{minutes[0]}", block=block, runs=runs)


def test_shifts_are_those_of_the_table():
    # All runs of a side alike but for 1: the shift is 60 of 1000, the margin 0.5 % of it.
    before = of_runs(*({"w": value} for value in (1000, 1000, 1000, 1001, 999, 1000, 1000, 1000)))
    after = of_runs(*({"w": value} for value in (1060, 1060, 1060, 1061, 1059, 1060, 1060, 1060)))
    found = compare(*sides(before, after))
    (row,) = found.rows
    (shown,) = plots(found.document(), Dots)
    (dot,) = shown.dots
    assert (dot.label, dot.value, dot.start, dot.margin) == ("w", 6.0, 0, 0.5)
    assert dot.interval == pytest.approx([end / 10 for end in row.interval])
    assert dot.words.split() == ["+6.0", "%", *row.said.split()]
    assert (shown.start, shown.end, shown.reference) == ("before", "after", 0)


def test_runs_stand_in_the_order_of_time():
    before = Result(boots=[timed([10, 12, 14], [0, 2, 4])])
    after = Result(boots=[timed([11, 13, 15], [1, 3, 5])])
    (found,) = run_marks(sides(before, after))
    assert [place.series for place in found.places] == [0, 1, 0, 1, 0, 1]
    assert found.panels[0].values == [10, 11, 12, 13, 14, 15]
    assert found.groups == []
    assert "in the order of time" in found.about


def test_blocks_and_boots_are_bands():
    blocks = [(10, 0, 11, 1), (12, 3, 13, 2), (14, 4, 15, 5)]
    before = Result(boots=[timed([b], [at], block=n) for n, (b, at, _, _) in enumerate(blocks)])
    after = Result(boots=[timed([a], [at], block=n) for n, (_, _, a, at) in enumerate(blocks)])
    (found,) = run_marks(sides(before, after))
    assert found.panels[0].values == [10, 11, 13, 12, 14, 15]
    assert found.groups == [Group(0, 1, "0"), Group(2, 3, "1"), Group(4, 5, "2")]
    alone = Result(boots=[timed([1, 2], [0, 1]), timed([3], [2])])
    (found,) = run_marks([sides(alone, alone)[0]])
    assert found.groups == [Group(0, 1, "1"), Group(2, 2, "2")]


def test_runs_without_times_stand_side_by_side():
    before, after = of_runs({"w": 1}, {"w": 2}), of_runs({"w": 3}, {"v": 4}, order="lost")
    (found,) = run_marks(sides(before, after))
    assert [panel.values for panel in found.panels] == [[1, 2, 3, None], [None, None, None, 4]]
    assert found.groups == [Group(0, 1, "before"), Group(2, 3, "after")]
    assert "in the order of each file, in which the order of time is lost" in found.about
    assert run_marks(sides(of_runs({"w": 1}), of_runs())) == []  # one run is no order


def test_pairs_show_their_differences():
    before = Result(boots=[timed([10.0 + n], [3 * n], block=n) for n in range(8)])
    after = Result(boots=[timed([11.5 + 2 * n], [3 * n + 1], block=n) for n in range(8)])
    shown = plots(compare(*sides(before, after)).document(), Marks)
    assert [plot.title for plot in shown] == [
        "Every run", "Differences of pairs, one per block of boots"
    ]  # fmt: skip
    assert shown[1].panels[0].values == [1.5 + n for n in range(8)]
    assert shown[1].reference == 0


def test_exact_figures_have_no_picture_of_their_runs():
    document = compare(simulate(["cpuid", "inl_from_qemu"]).result()).document()
    assert plots(document, Marks) == []
    (dots,) = plots(document, Dots)
    # README: 6689 -> 6209 cycles.
    assert [(dot.label, dot.value, dot.interval) for dot in dots.dots] == [
        ("cpuid", 0, None), ("inl_from_qemu", pytest.approx(-100 * 480 / 6689), None)
    ]  # fmt: skip


def test_the_bars_of_a_workload_are_its_figure():
    (bars,) = plots(simulate(["inl_from_qemu"]).document(), Bars)
    # docs/model.md, section 8: 482 cycles of TR under eager, 2 under deferred.
    assert bars.parts[-1] == "TR"
    assert [(bar.side, sum(bar.parts), bar.parts[-1]) for bar in bars.bars] == [
        ("eager", 6689, 482), ("deferred", 6209, 2)
    ]  # fmt: skip


def test_levels_of_a_history_begin_at_its_steps():
    figures = [100, 100, 90, 90, 90, 120]
    found = history(
        [(f"day{n}", Result(boots=[Boot(id=str(n), labels={"commit": f"c{n}"}, runs=[
            Run(time=minute(n), series=[Series(workload="w", kind="exact", values=[value])])])]))
         for n, value in enumerate(figures)]
    )  # fmt: skip
    (shown,) = plots(found.document())
    (panel,) = shown.panels
    assert panel.values == figures
    assert [(level.first, level.last, level.value) for level in panel.levels] == [
        (0, 1, 100), (2, 4, 90), (5, 5, 120)
    ]  # fmt: skip
    assert [level.words for level in panel.levels] == [
        "", "c2 -10.00 % changed", "c5 +33.33 % changed"
    ]  # fmt: skip


def test_a_curve_rises_in_x_and_marks_the_end_of_the_gain():
    policies = (catalog.policies()[name] for name in ("eager", "deferred"))
    host = scenarios()["oversubscribed"].with_value("seconds", 0.005)
    swept = host.sweep("ioperm_share", [1, 0.5, 0], *policies, catalog.profiles()["patch-2017"])
    worth, reloads = plots(swept.document(), Curves)
    assert worth.at == reloads.at == [0, 0.5, 1]
    assert worth.curves[0].values == [point.worth.percent for point in swept.comparisons[::-1]]
    # Where every task holds a bitmap, a reload is deferred to no place where it is saved.
    (end,) = worth.points
    assert (end.x, end.y) == (1, worth.curves[0].values[-1])
    assert [curve.name for curve in reloads.curves] == ["eager", "deferred"]


def test_recordings():
    # As test_traces.py counts by hand: 2 CPUID; 3 puts, of which 1 by return.
    exits, _ = plots(read_recording(pages.RECORDING).document(), Bars)
    found = {bar.label: list(bar.parts) for bar in exits.bars}
    assert exits.parts == ["without a put", "put by return", "put by switch"]
    assert found["CPUID"] == [2, 0, 0]
    assert [sum(column) for column in zip(*found.values(), strict=True)] == [2, 1, 2]
    policies = (catalog.policies()[name] for name in ("eager", "deferred"))
    replay = replay_recording(pages.RECORDING, *policies, catalog.profiles()["patch-2017"])
    whole, own = plots(replay.document(), Bars)
    assert [sum(bar.parts) for bar in whole.bars] == [
        sum(side.cycles.values()) for side in (replay.before, replay.after)
    ]
    assert sum(own.bars[0].parts) - sum(own.bars[1].parts) == replay.worth


def test_the_lab_counts_before_and_after():
    instructions, reloads = plots(lab_document(*pages.counted()))
    assert [list(bar.parts) for bar in instructions.bars[2:]] == [[2990, 640, 3], [2900, 640, 3]]
    assert [(bar.label, bar.side, *bar.parts) for bar in reloads.bars] == [
        ("cpuid", "4.10", 0), ("cpuid", "4.11", 0),
        ("inl_from_qemu", "4.10", 1), ("inl_from_qemu", "4.11", 0),
    ]  # fmt: skip


def test_columns_of_a_cpu_are_the_explorers():
    explorer = Explorer(mutants.UNSAFE[3][0], 2, 2, 2)
    assert explorer.explore(10**6) == "bad"
    path, *_ = explorer.path()
    state = path[0][1]
    assert tuple(state["cpus"][0]) == CPU_COLUMNS
    assert not set(state["tasks"][0]) & set(CPU_COLUMNS)


def test_states_of_a_counterexample_by_hand():
    events = (
        Event(0, "A", "schedule", "switch: A in", {"task": ("-", "A"), "limit": ("full", "min")}),
        Event(1, "B", "to_user", "to user mode", {"tif": ("0", "1"), "CPU 0 limit": ("min", "full"),
                                                  "A map": ("-", "{0}")}),
    )  # fmt: skip
    verdict = check("eager", cpus=1, tasks=1, ports=1)
    bad = Counterexample(violation="leak", port=0, owned=False, allowed=True, events=events)
    found = check_document([replace(verdict, verdict="unsafe", counterexample=bad)])
    wide = next(b.wide for b in found.blocks if isinstance(b, Table) and b.wide)
    assert [(c.heading, c.unit) for c in wide.columns[4:]] == [
        ("limit", "CPU 0"), ("map", "task A"), ("tif", "task B")
    ]  # fmt: skip
    shown = [[getattr(cell, "text", cell) for cell in row[4:]] for row in wide.rows]
    assert shown == [["full", "-", "0"], ["full -> min", "-", "0"],
                     ["min -> full", "- -> {0}", "0 -> 1"]]  # fmt: skip
    marked = [[getattr(cell, "tone", "") for cell in row[4:]] for row in wide.rows]
    assert marked == [["", "", ""], ["mark", "", ""], ["mark"] * 3]
