"""A sweep's CPU time next to the plain loop over the same points: `make bench`.

CPU time of this process and its children, as the cores may be shared: user and system, the start
of the other processes included. Next to n processes the plain loop runs in n forks, each with a
share of the hosts, as two cores of one CPU slow each other down. The two run in turn, and a ratio
is of one round.
"""

import json
import os
import resource
import statistics
import time
import tomllib

import msgspec
import pytest

from kvmbench import load_scenario, policies, profiles, sweep
from kvmbench.scenario.result import Comparison
from kvmbench.tests.consoles import ROOT

DESIGN = ROOT / "examples" / "sweep.toml"
ROUNDS = 3
JOB = "sweep of 1,000 points"


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


def cpu_of(work, *given, **options):
    begun = cpu_seconds()
    work(*given, **options)
    return cpu_seconds() - begun


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
    ratios = []
    for number in range(ROUNDS):
        plain = cpu_of(loops, tmp_path, processes)
        ours = cpu_of(sweep, DESIGN, tmp_path / f"{number}.jsonl", processes=processes)
        ratios.append(ours / plain)
    more = statistics.median(ratios) - 1
    names = f"plain loop, {processes} process{'es' if processes > 1 else ''}"
    report.figure(JOB, names, f"{more:+.1%} CPU", "10 %", more <= 0.1)


def test_overhead_of_dask(report, tmp_path):
    pytest.importorskip("distributed")
    from distributed import Client, LocalCluster

    # The workers' own CPU time: to start a cluster takes seconds, and is no part of a sweep.
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):

        def spent():
            return time.process_time() + sum(client.run(time.process_time).values())

        ratios = []
        for number in range(ROUNDS):
            plain = cpu_of(loops, tmp_path, 2)
            begun = spent()
            sweep(DESIGN, tmp_path / f"{number}.jsonl", scheduler=cluster.scheduler_address)
            ratios.append((spent() - begun) / plain)
    more = statistics.median(ratios) - 1
    report.figure(JOB, "plain loop, Dask", f"{more:+.1%} CPU", "-", True)
