"""A sweep's CPU time next to the plain loop over the same points: `make bench`.

CPU time of this process and its children, as the cores may be shared: user and system, the start
of the other processes included. Next to n processes the plain loop runs in n forks, each with a
share of the hosts, as two cores of one CPU slow each other down. The two run in turn: a ratio is of
a sweep over the mean of the loops before and after it, and the figure is the median of the ratios.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
import tomllib

import msgspec
import pytest

from kvmbench import load_scenario, policies, profiles, sweep
from kvmbench.scenario.result import Comparison
from kvmbench.sweeps import engines
from kvmbench.tests.consoles import ROOT

DESIGN = ROOT / "examples" / "sweep.toml"
ROUNDS = 5
FIXED = """
import sys, kvmbench
if __name__ == "__main__":
    kvmbench.sweep({"axes": {"workload": "cpuid"}}, sys.argv[1], processes=2, scheduler="local")
"""


def cpu_seconds():
    """Return the CPU time of this process and of its children that have ended."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, who))


def loop(path, k=0, n=1):
    """Compute every n-th host of the design's as a program would, a line of JSON per point."""
    axes = tomllib.loads(DESIGN.read_text())["axes"]
    step = (axes["costs"]["ltr"]["to"] - axes["costs"]["ltr"]["from"]) // 4
    base = profiles()["patch-2017"]
    number = 0
    with open(path, "wb") as out:
        for name in axes["scenario"]:
            shape = load_scenario(name).with_value("seconds", axes["seconds"])
            for guest in axes["vm"]["guest_us"]:
                number += 1
                if number % n != k:
                    continue
                host = shape.with_value("vm.guest_us", guest)
                for ltr in range(0, 1001, step):
                    costs = base.with_costs(ltr=ltr, source="the axis")
                    for seed in range(1, 11):
                        before = host.run("eager", costs, seed=seed, keep_machine=False)
                        for policy in axes["policy"]:
                            after = host.run(policy, costs, seed=seed, keep_machine=False)
                            record = Comparison(before, after).record()
                            record |= {"costs.ltr": ltr, "vm.guest_us": guest}
                            out.write(msgspec.json.encode(record) + b"\n")


def loops(folder, n):
    """Run the plain loop in n forks, or here if n is 1."""
    if n == 1:
        loop(folder / "loop.jsonl")
        return
    pids = []
    for k in range(n):
        if pid := os.fork():
            pids.append(pid)
            continue
        try:
            loop(folder / f"loop{k}.jsonl", k, n)
        finally:
            os._exit(0)
    for pid in pids:
        os.waitpid(pid, 0)


def overhead(plain, ours):
    """Return the median of how much more CPU `ours`, called with its round, takes than `plain`."""

    def cpu_of(work, *given):
        begun = cpu_seconds()
        work(*given)
        return cpu_seconds() - begun

    loops_taken, ratios = [cpu_of(plain)], []
    for number in range(ROUNDS):
        taken = cpu_of(ours, number)
        loops_taken.append(cpu_of(plain))
        ratios.append(taken / statistics.mean(loops_taken[-2:]))
    return statistics.median(ratios) - 1


def test_same_points(tmp_path):
    loop(tmp_path / "loop.jsonl")
    rows = sweep(DESIGN, tmp_path / "sweep.jsonl").rows
    lines = [json.loads(line) for line in (tmp_path / "loop.jsonl").read_text().splitlines()]
    assert len(rows) == 1000
    assert [row["worth"] for row in rows] == [line["percent"] for line in lines]
    assert set(policies()) >= {row["policy"] for row in rows}


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_overhead(report, tmp_path, processes):
    loop(tmp_path / "warm.jsonl")
    more = overhead(
        lambda: loops(tmp_path, processes),
        lambda number: sweep(DESIGN, tmp_path / f"{number}.jsonl", processes=processes),
    )
    names = f"plain loop, {processes} process{'es' if processes > 1 else ''}"
    report.figure("sweep of 1,000 points", names, f"{more:+.1%} CPU", "10 %", more <= 0.1)


@pytest.mark.parametrize("started", ["by kvmbench", "with Dask's defaults"])
def test_overhead_of_dask(report, tmp_path, monkeypatch, started):
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    from distributed import Client, LocalCluster

    seconds = []
    note = engines.Chunks.note

    def noted(chunks, points, taken):
        seconds.append(taken)
        note(chunks, points, taken)

    monkeypatch.setattr(engines.Chunks, "note", noted)
    content = tomllib.loads(DESIGN.read_text())
    content["axes"]["seed"] = {"from": 1, "to": 60, "n": 60}
    content["axes"]["policy"] = content["axes"].pop("policy")
    # The cluster runs already, and its workers have loaded kvmbench: `test_start_of_dask` is that.
    # What a shared host does to the CPU time of a point, it does to all: no plain loop is needed.
    with (
        dask.config.set(engines.QUIET if started == "by kvmbench" else {}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):

        def spent():
            return cpu_seconds() + sum(client.run(time.process_time).values())

        ratios = []
        for number in range(4):  # the first loads kvmbench
            seconds.clear()
            begun = spent()
            sweep(content, tmp_path / f"{number}.jsonl", scheduler=cluster.scheduler_address)
            ratios.append((spent() - begun) / sum(seconds))
    more = statistics.median(ratios[1:]) - 1
    names = f"the points' own CPU, Dask {started}"
    report.figure("sweep of 6,000 points", names, f"{more:+.1%} CPU", "10 %", more <= 0.1)


def test_start_of_dask(report, tmp_path):
    pytest.importorskip("distributed")
    (tmp_path / "program.py").write_text(FIXED)
    taken = []
    for number in range(3):
        begun = cpu_seconds()
        command = [sys.executable, "program.py", f"{number}.jsonl"]
        subprocess.run(command, cwd=tmp_path, check=True)
        taken.append(cpu_seconds() - begun)
    said = f"{statistics.median(taken):.1f} s CPU"
    report.figure("start and end of two local workers", "Dask", said, "-", True)
