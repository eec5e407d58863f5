"""`--until decided` of `measure` and `lab run`: when they end, and the table that they print."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from kvmbench import results, workloads
from kvmbench.cli import lab as lab_command
from kvmbench.comparison.verdicts import compare
from kvmbench.errors import LabError
from kvmbench.lab import repeat, run
from kvmbench.lab.counts import Row
from kvmbench.lab.kernel import Kernel
from kvmbench.live import engine
from kvmbench.results import Boot, Host, Result, Run, Series
from kvmbench.tests import command
from kvmbench.units import Side

pytestmark = pytest.mark.usefixtures("folder")


def invoke(*arguments):
    done = command.invoke(*arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def refused(*arguments):
    """Return the one line of a usage error."""
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    return done.stderr


def words(done):
    assert done.exit_code == 0, done.stderr
    return " ".join(done.stdout.split())


def runs(number, *, values=None, both=False):
    """Return runs of `cpuid` and `vmcall`, of two configurations in pairs where `both`."""
    found = []
    for n in range(number):
        for side, name in enumerate(("no bitmap", "bitmap") if both else ("",)):
            listed = [
                Series(
                    workload=row, configuration=name, kind="noisy",
                    values=[(values or 1000.0) + side * (50 if row == "cpuid" else 0)],
                )
                for row in ("cpuid", "vmcall")
            ]  # fmt: skip
            found.append(Run(block=n + 1 if both else None, engine="kvm", series=listed))
    return found


@pytest.fixture
def engine_calls(monkeypatch):
    """Stand in for the engine: ask `decided` after each unit, and keep the options asked for."""
    calls = []

    def measure(chosen, *, decided, runs: int, ioperm, **options):
        calls.append(dict(runs=runs, ioperm=ioperm))
        both = ioperm == "both"
        for number in range(1, runs + 1):
            made = Result(
                boots=[Boot(id="now", runs=_runs(number, both=both, values=1050.0))],
                stopping="decided" if decided else "size",
            )
            if number > 1 and decided and decided(made):
                break
        calls[-1]["taken"] = number
        return made

    _runs = runs
    monkeypatch.setattr(engine, "measure", measure)
    return calls


def test_measure_against_a_result(engine_calls):
    """Two rows with equal differences: four runs, see test_plan. The table says so."""
    results.write("old.json", Result(boots=[Boot(id="old", runs=runs(20))]))
    done = invoke("measure", "cpuid", "vmcall", "--until", "decided", "--against", "old.json")
    text = words(done)
    assert engine_calls == [dict(runs=20, ioperm="off", taken=4)]
    assert "old -> now: cycles/iteration, 4 runs per side" in text
    assert "Confidence sequence: the intervals of the 2 rows hold together" in text
    assert "2 of 2 rows decided after 4 of 4 pairs." in text
    found = json.loads(invoke("compare", "old.json", "last", "--format", "json").stdout)
    assert (found["correction"], found["rows"][0]["after_units"]) == ("sequence", 4)


def test_measure_of_both_configurations(engine_calls):
    done = invoke("measure", "--until", "decided", "--ioperm", "both", "--max", 9, "-o", "r.json")
    assert done.exit_code == 0, done.stderr
    assert engine_calls == [dict(runs=9, ioperm="both", taken=4)]
    assert results.read("r.json").stopping == "decided"
    text = words(invoke("compare", "r.json"))
    assert "2 of 2 rows decided after 4 of 4 pairs." in text


def test_measure_ends_at_the_most(engine_calls):
    done = invoke("measure", "--until", "decided", "--ioperm", "both", "--max", 3)
    assert engine_calls[0]["taken"] == 3
    assert "After 3 pairs no row is decided." in words(done)


def test_measurements_that_are_refused(engine_calls):
    results.write("old.json", Result(boots=[Boot(id="old", runs=runs(5))]))
    results.write("two.json", Result(boots=[Boot(id=name, runs=runs(2)) for name in "ab"]))
    until = ("measure", "--until", "decided")
    assert "either --against FILE or --ioperm both" in refused(*until)
    both = (*until, "--ioperm", "both", "--against", "old.json")
    assert "either --against FILE or --ioperm both" in refused(*both)
    assert "takes --max and no --runs" in refused(*until, "--against", "old.json", "--runs", 3)
    assert "expected one boot and one configuration" in refused(*until, "--against", "two.json")
    assert "--against needs --until decided" in refused("measure", "--against", "old.json")
    assert "--rows needs --until decided" in refused("measure", "--rows", "cpuid")
    assert not engine_calls


def test_rows_that_were_not_measured_lose_no_runs(engine_calls):
    results.write("old.json", Result(boots=[Boot(id="old", runs=runs(5))]))
    until = ("measure", "--until", "decided", "--against", "old.json", "--save", "new")
    done = invoke(*until, "--rows", "cpu")
    assert (done.exit_code, done.stdout.count("cpuid")) == (2, 2)
    assert done.stderr == "kvmbench measure: unknown row 'cpu'; did you mean 'cpuid'?\n"
    assert len(list(results.read("results/new.json").runs())) == engine_calls[0]["taken"] == 2


def test_the_engine_asks_after_each_unit(monkeypatch):
    """Of one configuration after each run from the second on; of two after each pair."""
    for ioperm, sizes in (("off", [2, 3, 4]), ("both", [4, 6, 8])):
        asked = []

        class Taken(engine._Measurement):
            def _do(self, job, own):
                own.rounds["cpuid"] = engine._Rounds(values=[1000.0])

        def decided(result, asked=asked):
            asked.append(len(list(result.runs())))
            return len(asked) == 3

        (workload,) = workloads.select(["cpuid"])
        task = dict(name="cpuid", code="", other="", cpl=0, iterations=100)
        taken = Taken(
            plan=engine.Plan(runs=20, ioperm=ioperm), offered=None, skipped={}, cpu=0,
            other_cpu=None, rows={"cpuid": engine._Row(workload, task)}, progress=None,
            decided=decided,
        )  # fmt: skip
        taken.take(Host())
        assert asked == sizes
        assert len(taken.runs) == sizes[-1]


# The lab


STOP = workloads.workloads()["vmcall"]  # that Ctrl-C stops in the third block


def named(label):
    return SimpleNamespace(label=label)


def counted(label, boot, instructions, ltr=1.0):
    values = {"instructions": [instructions, instructions + 2.0], "ltr": [ltr, ltr]}
    row = Row("cpuid", False, values=values, runs=[1, 1], tr_limits=(100 + boot, 103))
    return run.Counted(
        kernel=Kernel(label=label, image=Path("b"), modules=None, release=label, source="made up"),
        vendor="vmx", policy=None, stated=False, rows=(row,), reloads={}, counters={}, skipped={},
        host=Host(kernel=label), boot_id=f"{label}-{boot}", seconds=2.0,
    )  # fmt: skip


@pytest.fixture
def boots(monkeypatch):
    """Stand in for the emulated machine: kernel `b` takes 5 % more instructions."""
    seeds = []

    def measure(kernels, chosen, plan, emulator, **_):
        if STOP in chosen and len(seeds) == 2:
            raise KeyboardInterrupt
        seeds.append(plan.seed)
        return [
            counted(kernel.label, len(seeds), 1000.0 * (1.05 if kernel.label == "b" else 1))
            for kernel, _ in kernels
        ]

    monkeypatch.setattr(repeat, "measure", measure)
    monkeypatch.setattr(run, "measure", measure)
    monkeypatch.setattr(lab_command, "_emulator", lambda: None)

    monkeypatch.setattr(lab_command, "_kernel", lambda text, _: (named(text[0]), "vmx"))
    return seeds


def test_the_lab_boots_until_the_rows_are_decided(boots):
    """One row: decided after four blocks. Each has another seed; the counts are all boots'."""
    done = invoke(
        "lab", "run", "--kernel", "a=x", "--kernel", "b=y", "cpuid", "--until", "decided",
        "--save", "r",
    )  # fmt: skip
    text = words(done)
    assert boots == [0, 1, 2, 3]
    assert "Decided after 4 of 4 pairs." in text
    assert "a -> b:" in text
    kept = results.read("results/r.json")
    assert kept.stopping == "decided"
    assert [(boot.id, boot.block) for boot in kept.boots[:3]] == [
        ("a-1", 1), ("b-1", 1), ("a-2", 2),
    ]  # fmt: skip
    assert [s.workload for _, _, s in kept.series() if s.kind == "exact"] == ["cpuid:ltr"] * 2
    found = json.loads(invoke("compare", "results/r.json", "--format", "json").stdout)
    rows = {row["workload"]: row for row in found["rows"]}
    assert rows["cpuid"]["after_units"] == 4
    assert rows["cpuid:ltr"]["verdict"] == "unchanged"


def test_the_counts_of_all_boots_are_one_row(boots):
    both = [(named("a"), "vmx"), (named("b"), "vmx")]
    found, _ = repeat.measure_until(both, [], run.Plan(), None, lambda _: False, most=3)
    row = found[1].rows[0]
    assert row.values["instructions"] == [1050.0, 1052.0] * 3
    assert row.runs == [1, 1] * 3
    assert row.tr_limits == (101, 103)
    assert found[0].seconds == 6


def test_a_run_with_both_configurations_is_a_pair():
    """Each run is slower by 100 than the one before; with a bitmap by 50 than without."""
    values = [[1000.0 + 100 * n for n in range(6)], [1050.0 + 100 * n for n in range(6)]]
    rows = tuple(
        Row("cpuid", bool(number), values={"instructions": own, "ltr": [1.0]}, runs=[1] * 6)
        for number, own in enumerate(values)
    )
    made = run.result_of([replace(counted("a", 1, 1.0), rows=rows)])
    found = compare(*(Side(name, made, name) for name in made.configurations()))
    row = next(row for row in found.rows if row.workload == "cpuid")
    assert (row.units, row.interval) == ((6, 6), (50, 50))


def test_ctrl_c_keeps_the_blocks_so_far(boots):
    done = invoke(
        "lab", "run", "--kernel", "a=x", "--kernel", "b=y", "vmcall", "--until", "decided",
        "--save", "r",
    )  # fmt: skip
    assert done.exit_code == 130
    kept = results.read("results/r.json")
    assert max(boot.block for boot in kept.boots) == 2
    assert kept.notes[-1] == "Stopped by Ctrl-C or a signal in block 3."


def test_a_failure_keeps_the_blocks_so_far(boots, monkeypatch):
    measure = repeat.measure

    def fails(*words, **more):
        if len(boots) == 2:
            raise LabError("b: the kernel panicked")
        return measure(*words, **more)

    monkeypatch.setattr(repeat, "measure", fails)
    two = ("lab", "run", "--kernel", "a=x", "--kernel", "b=y", "cpuid")
    done = invoke(*two, "--until", "decided", "--save", "r")
    note = "1 of 3 blocks failed: b: the kernel panicked."
    assert (done.exit_code, done.stderr) == (1, f"kvmbench: {note}\n")
    assert "a -> b" in done.stdout
    kept = results.read("results/r.json")
    assert (max(boot.block for boot in kept.boots), kept.notes[-1]) == (2, note)


def test_lab_runs_that_are_refused(boots):
    assert "needs two kernels" in refused("lab", "run", "--kernel", "a=x", "--until", "decided")
    assert "--max needs" in refused("lab", "run", "--kernel", "a=x", "--max", 3)
    assert not boots
