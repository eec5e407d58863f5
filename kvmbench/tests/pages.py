"""A page of each kind of report, made of figures by hand or by the simulation, for the browser."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from kvmbench import catalog, check, simulate, workloads
from kvmbench.checker.document import document as check_document
from kvmbench.comparison.document import document as comparison_document
from kvmbench.comparison.history import history
from kvmbench.comparison.self_test import self_test
from kvmbench.comparison.verdicts import compare
from kvmbench.lab import counts, kernel, run
from kvmbench.lab.document import document as lab_document
from kvmbench.live.document import document as live_document
from kvmbench.live.engine import BITMAP, NO_BITMAP
from kvmbench.report import Document
from kvmbench.report.plots import Axis, Curve, Curves, HeatMap, Point
from kvmbench.results import Boot, Host, Result, Run, Series
from kvmbench.scenario.scenario import scenarios
from kvmbench.tests import mutants
from kvmbench.tests.results_maker import EIGHT
from kvmbench.traces.recording import read_recording
from kvmbench.traces.replay import replay_recording
from kvmbench.units import Side

START = datetime(2026, 11, 20, 8, tzinfo=UTC)
RECORDING = os.path.relpath(Path(__file__).with_name("recordings") / "hand-counted.txt")
CYCLES = (1313, 1195, 12.4, 16.9, 6937, 6689, 2339, 1391)
MOVES = (0, 0, 0, 0, -0.07, -0.072, 0.001, 0.012)  # shares, by which the after differs


def measured(names, kernels=("6.11.0", "6.12.0"), *, boots=1, runs=8, seed=1, in_turn=True,
             block=False):  # fmt: skip
    """Return two results that a host might have measured: (before, after)."""
    rng = np.random.default_rng(seed)
    sides = []
    for side, name in enumerate(kernels):
        made = []
        for boot in range(boots):
            shift = rng.normal(0, 0.001)
            found = []
            for number in range(runs):
                place = 2 * number + side if in_turn else number + side * runs
                when = START + timedelta(hours=3 * boot, minutes=5 * place)
                series = [
                    Series(
                        workload=row, kind="noisy", quantum=0.1,
                        values=[
                            round(CYCLES[n % 8] * (1 + n // 8) * (1 + side * MOVES[n % 8] + shift)
                                  * (1 + rng.normal(0, 0.002)), 1)
                        ],
                    )
                    for n, row in enumerate(names)
                ]  # fmt: skip
                found.append(Run(time=when.isoformat(), engine="kvm", series=series))
            made.append(
                Boot(id=f"{name}-{boot}", block=boot if block else None, runs=found,
                     host=Host(kernel=name, cpu="Xeon E5-2680 v4"))
            )  # fmt: skip
        sides.append(Result(name=name, boots=made))
    return sides


def thirty():
    """Return the names of 30 rows."""
    return [f"{name}{'' if not n // 8 else f'_{n // 8 + 1}'}" for n, name in
            enumerate((EIGHT * 4)[:30])]  # fmt: skip


def stepped():
    """Return a history of 40 results with steps in two of three rows."""
    rng = np.random.default_rng(3)
    found = []
    for day in range(40):
        figures = {
            "cpuid": 1291 * (1 + (0.03 if day >= 25 else 0) + rng.normal(0, 0.003)),
            "inl_from_qemu": 6689 - (480 if day >= 12 else 0) + (90 if day >= 30 else 0)
            + rng.normal(0, 12),
            "vmcall": 1181 + rng.normal(0, 3),
        }  # fmt: skip
        series = [Series(workload=n, kind="noisy", values=[float(v)]) for n, v in figures.items()]
        labels = {"commit": f"{day * 2654435761 % 2**32:08x}" * 5}
        time = (START + timedelta(days=day)).isoformat()
        boot = Boot(id=f"b{day}", labels=labels, runs=[Run(time=time, series=series)])
        found.append((f"night{day}", Result(boots=[boot])))
    return history(found)


def counted():
    """Return the counts of two kernels in the lab, and their result."""
    made = []
    for label, release, policy, ltr in (("4.10", "4.10.0", "eager", 1.0),
                                        ("4.11", "4.11.0", "deferred", 0.0)):  # fmt: skip
        rows = []
        for name, kernel_part, user, guest in (("cpuid", 1500.0, 0.0, 4.0),
                                               ("inl_from_qemu", 2900.0, 640.0, 3.0)):  # fmt: skip
            row = counts.Row(name, False)
            reloads = ltr if user else 0.0
            kernel_part += 90 * reloads
            row.values = {
                "instructions": [kernel_part + user + guest], "instructions_kernel": [kernel_part],
                "instructions_user": [user], "instructions_guest": [guest],
                "ltr": [reloads], "exits": [1.0],
            }  # fmt: skip
            row.runs, row.tr_limits = [1], (0x67, 0x67)
            rows.append(row)
        chosen = [workloads.workloads()[row.workload] for row in rows]
        made.append(
            run.Counted(
                kernel=kernel.Kernel(label=label, image=Path("b"), modules=None, release=release,
                                     source="made up"),
                vendor="vmx", policy=policy, stated=True, rows=tuple(rows),
                reloads=run._simulated(chosen, policy, "vmx", "off"), counters={}, skipped={},
                host=Host(kernel=release), boot_id=label, seconds=1.0,
            )
        )  # fmt: skip
    return made, run.result_of(made)


def with_bitmap():
    """Return a result of `measure --ioperm both`."""
    rng = np.random.default_rng(5)
    runs = []
    for number in range(8):
        for name, more in ((NO_BITMAP, 0.0), (BITMAP, 1.0)):
            series = [
                Series(workload=row, configuration=name, kind="noisy", counts={"answered": back},
                       values=[round(cycles + 700 * back * more + rng.normal(0, 9), 1)])
                for row, cycles, back in (("cpuid", 1290, 0), ("inl_from_qemu", 6689, 1),
                                          ("syscall", 210, 0.3))
            ]  # fmt: skip
            time = (START + timedelta(minutes=len(runs))).isoformat()
            runs.append(Run(block=number, time=time, engine="kvm", series=series))
    return Result(boots=[Boot(id="b", host=Host(kernel="6.12.0"), runs=runs)])


def documents():
    """Return a document of each kind by name."""
    costs = catalog.profiles()["patch-2017"]
    eager, deferred = (catalog.policies()[name] for name in ("eager", "deferred"))
    host = scenarios()["oversubscribed"].with_value("seconds", 0.01)
    before, after = measured(EIGHT, in_turn=False)
    blocks = measured(EIGHT[:6], boots=6, runs=3, block=True)
    unsafe = check(mutants.UNSAFE[3][0], tasks=2, replay=True)
    return {
        "run": simulate(None, "eager", "deferred").document(explain=True),
        "measure": live_document(before),
        "measure-ioperm": live_document(with_bitmap()),
        "compare": compare(before, after).document(),
        "compare-30-rows": compare(*measured(thirty())).document(),
        "compare-blocks": compare(*blocks).document(),
        "compare-three": comparison_document(
            [compare(before, other, comparisons=2) for other in
             (after, measured(EIGHT, ("x", "6.13.0"), seed=9)[1])], explain=True
        ),
        "self-test": self_test(Side("main", before)).document(),
        "scenario": host.compare(eager, deferred, profile=costs).document(),
        "scenario-vary": host.sweep(
            "ioperm_share", [0, 0.2, 0.4, 0.6, 0.8, 1], eager, deferred, profile=costs
        ).document(),
        "check": check_document([check("deferred", tasks=2), unsafe]),
        "history": stepped().document(),
        "trace-show": read_recording(RECORDING).document(),
        "trace-run": replay_recording(RECORDING, eager, deferred, costs).document(
            explain=True
        ),
        "lab": lab_document(*counted()),
        "plots": plots(),
    }  # fmt: skip


def plots():
    """Return a document of the plots that no command above has."""
    at = [1, 10, 100, 1000, 10_000]
    return Document(
        "Curves and a heat map",
        [
            Curves(
                title="Cycles over the cost of LTR", about="Three policies; they meet twice.",
                x=Axis("cost of LTR", "cycles", log=True), y=Axis("cycles/iteration", log=True),
                at=at,
                curves=[
                    Curve("eager", [10, 30, 200, 1900, 20_000]),
                    Curve("deferred", [60, 60, 62, 70, 160]),
                    Curve("exit-to-user", [45, None, 90, 150, 900]),
                ],
                points=[Point(20, 58, "eager = deferred")],
            ),
            HeatMap(
                title="Worth over two parameters", about="Cells with a frame lose.",
                x=Axis("tasks"), y=Axis("time slice", "us"), z=Axis("worth", "% of CPU time"),
                xs=["1", "2", "4", "8", "16"], ys=["100", "1000", "3000"],
                values=[[2.1, 1.4, 0.7, 0.1, -0.2], [1.2, 0.8, None, 0.05, -0.01],
                        [0.4, 0.2, 0.1, 0, 0]],
                marked=frozenset({(0, 4), (1, 4)}), mark="the change costs",
            ),
            HeatMap(
                title="Worth over more values", about="A minus stands where the change costs.",
                x=Axis("tasks"), y=Axis("share"), z=Axis("worth", "% of CPU time"),
                xs=[str(n) for n in range(1, 31)], ys=["0.5", "1"],
                values=[[(20 - n) / 10 for n in range(30)], [(5 - n) / 10 for n in range(30)]],
            ),
        ],
        data={},
    )  # fmt: skip
