"""Whole hosts next to plain C of the same loop and generator, in one run: `make bench`.

10^7 exits per round on 64 CPUs. The last job compares two threads with two processes of the plain
C, round by round at the same moment, since the cores may be shared with others.
"""

import multiprocessing
import statistics
import time

import pytest

from kvmbench import profiles
from kvmbench.scenario.scenario import Scenario, Tasks, load_scenario
from kvmbench.scenario.simulation import host_of, simulate
from kvmbench.tests.bench import plain

PROFILE = profiles()["patch-2017"]
MIX = {kind.name: 1 for kind in PROFILE.kinds if kind.exits}
EXITS = 10_000_000
CLOCK = 2_600_000_000
GUEST = 4  # microseconds
SECONDS = 0.8156  # for 10^7 exits, by the sum of what they take
ROUNDS = dict(rounds=10, warmup_rounds=1, iterations=1)  # 10^8 exits


def host(cpus=64):
    """Return 64 CPUs with three vCPUs each; one in eight holds an I/O bitmap."""
    vm = Tasks(name="vm", type="vcpu", count=3 * cpus, guest_us=GUEST, mix=MIX)
    return Scenario(
        name="bench", cpus=cpus, clock_hz=CLOCK, seconds=SECONDS, timeslice_us=3000, tasks=(vm,),
        migrations=1000, ioperm_share=0.125, epoch_us=10_000,
    )  # fmt: skip


def start(scenario, threads):
    return host_of(scenario, "deferred", PROFILE, "vmx", None, threads)


def plain_machine(scenario):
    return plain.PlainMachine(scenario.cpus, scenario.n_tasks, PROFILE)


def test_same_results():
    scenario = host()
    machine = plain_machine(scenario)
    machine.scenario(plain.PlainHost(scenario, PROFILE, scenario.seed))
    for threads in (1, 2):
        result = scenario.run("deferred", PROFILE, threads=threads)
        assert machine.counters.tolist() == result.machine.counters.tolist()
    assert sum(result.costs.values()) == pytest.approx(EXITS, rel=0.02)


def test_fixed_cost(report):
    """A run of a microsecond of a whole host: what a run costs besides its exits."""
    scenario = load_scenario("oversubscribed").with_value("seconds", 1e-6)
    each = []
    for _ in range(300):
        begun = time.perf_counter()
        scenario.run("deferred", PROFILE, keep_machine=False)
        each.append(time.perf_counter() - begun)
    fixed = statistics.median(each)
    report.figure("Scenario.run, fixed cost", "-", f"{fixed * 1e6:.0f} us", "60 us", fixed < 60e-6)


@pytest.mark.parametrize("engine", ["kvmbench", "plain C"])
def test_one_thread(benchmark, engine):
    benchmark.group = "scenario: 10^7 exits, 64 CPUs, one thread"
    scenario = host()
    if engine == "kvmbench":
        benchmark.pedantic(
            simulate, setup=lambda: ((start(scenario, 1), 1, None), {}), **ROUNDS
        )  # fmt: skip
    else:
        machine = plain_machine(scenario)
        tables = plain.PlainHost(scenario, PROFILE, scenario.seed)
        benchmark.pedantic(machine.scenario, (tables,), setup=machine.reset, **ROUNDS)


def plain_process(connection):
    """Simulate the host once for each message, and answer how many seconds it took."""
    scenario = host()
    machine = plain_machine(scenario)
    tables = plain.PlainHost(scenario, PROFILE, scenario.seed)
    while connection.recv():
        machine.reset()
        connection.send("ready")
        connection.recv()
        machine.scenario(tables)
        connection.send("done")


def plain_seconds(pipes):
    """Return the seconds in which each process simulates the host once, at the same time."""
    for message in (True, "go"):
        if message == "go":
            begun = time.perf_counter()
        for pipe in pipes:
            pipe.send(message)
        for pipe in pipes:
            pipe.recv()
    return time.perf_counter() - begun


def our_seconds(threads):
    ready = start(host(), threads)
    begun = time.perf_counter()
    simulate(ready, threads, None)
    return time.perf_counter() - begun


def test_two_threads(report):
    """The speed-up of two threads next to that of two processes of the plain C, in turn."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(2):
        ours, theirs = context.Pipe()
        process = context.Process(target=plain_process, args=(theirs,))
        process.start()
        pipes.append(ours)
        processes.append(process)
    plain_seconds(pipes)
    our_seconds(2)
    threads, both, ones = [], [], []
    for _ in range(15):
        one, two = our_seconds(1), our_seconds(2)
        alone, together = plain_seconds(pipes[:1]), plain_seconds(pipes)
        threads.append(one / two)
        both.append(2 * alone / together)
        ones.append(alone / one)
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(False)
        process.join()
    ratio = statistics.median(a / b for a, b in zip(threads, both, strict=True))
    job = "scenario, 10^7 exits per round, 64 CPUs"
    alone = statistics.median(ones)
    report.figure(job, "plain C, 1 thread", f"{alone:.2f} x", "1 x", alone >= 1)
    speed_ups = f"{statistics.median(threads):.2f} against {statistics.median(both):.2f}"
    report.figure(job, "2 threads, 2 C processes", speed_ups, "0.93 of it", ratio >= 0.93)
