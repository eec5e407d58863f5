"""The core next to plain C and others on the same job, in one run: `make bench`."""

import os
import random
import resource
import statistics
import subprocess
import sys
import time
import timeit

import numpy as np
import pytest

import kvmbench
from kvmbench import OP_DTYPE, Machine, port_check, profiles
from kvmbench.results import Boot, Host, Result, Run, Series
from kvmbench.tests.bench import jobs, others, plain

EXITS = 10_000_000
MIX = 2_000_000
CHECKS = 10_000_000
PROFILE = profiles()["patch-2017"]
ROUNDS = dict(rounds=7, warmup_rounds=1, iterations=1)
FEW_ROUNDS = dict(rounds=2, warmup_rounds=0, iterations=1)


def machines(cpus, tasks):
    return {
        "kvmbench": Machine(cpus, tasks, "deferred", PROFILE),
        "plain C": plain.PlainMachine(cpus, tasks, PROFILE),
    }


@pytest.fixture(scope="module")
def mixed():
    return jobs.mix(MIX, PROFILE)


@pytest.fixture(scope="module")
def checks():
    return jobs.checks(CHECKS)


@pytest.mark.parametrize("engine", ["kvmbench", "plain C"])
@pytest.mark.parametrize("kind", ["cpuid", "inl_from_qemu"])
def test_equal_exits(benchmark, report, request, engine, kind):
    benchmark.group = f"run, 10^7 equal EXITs on one CPU ({kind})"
    if engine == "kvmbench":
        report.ratio(request.config, benchmark.group, "plain C", 1)
    ops = jobs.equal_exits(EXITS, PROFILE.kind_index(kind))
    both = machines(1, 1)
    machine = both[engine]
    benchmark.pedantic(machine.run, (ops,), setup=machine.reset, **ROUNDS)
    assert machine.counters["exits"].tolist() == [EXITS]
    for other in both.values():
        other.reset()
        other.run(ops)
    assert both["kvmbench"].counters.tolist() == both["plain C"].counters.tolist()


@pytest.mark.parametrize("engine", ["kvmbench", "plain C"])
def test_mix(benchmark, report, request, engine, mixed):
    benchmark.group = "run, 2 * 10^6 mixed operations, 64 CPUs"
    if engine == "kvmbench":
        report.ratio(request.config, benchmark.group, "plain C", 1.5)
    both = machines(jobs.CPUS, jobs.TASKS)
    machine = both[engine]
    benchmark.pedantic(machine.run, (mixed,), setup=machine.reset, **ROUNDS)
    for other in both.values():
        other.reset()
        other.run(mixed)
    assert both["kvmbench"].counters.tolist() == both["plain C"].counters.tolist()


CHECKERS = {
    "kvmbench": port_check,
    "plain C": plain.port_check,
    "C, 64 KiB table": plain.port_table,
    "numba": others.numba_check,
    "numpy": others.numpy_check,
    "bitarray": others.bitarray_check,
    "pyroaring": others.pyroaring_check,
}


@pytest.mark.parametrize("engine", CHECKERS)
def test_port_check(benchmark, report, request, engine, checks):
    benchmark.group = "port_check, 10^7 random checks"
    if engine != "kvmbench":
        report.ratio(request.config, benchmark.group, engine, 1)
    tss_map, ports, widths = checks
    rounds = FEW_ROUNDS if engine in ("bitarray", "pyroaring") else ROUNDS
    arguments = (0x206F, 0x68, tss_map, ports, widths)
    allowed = benchmark.pedantic(CHECKERS[engine], arguments, **rounds)
    assert np.array_equal(allowed, plain.port_check(*arguments))


def test_repeat_exit(benchmark, report):
    machine = Machine(1, 1, "deferred", PROFILE)
    machine.switch(0, 0)
    benchmark.pedantic(machine.repeat_exit, (0, "inl_from_qemu", 10**12), rounds=50)
    assert (machine.cpu["cycles"][0] - 2000) == 50 * 6209 * 10**12
    median = statistics.median(benchmark.stats.stats.data)
    report.figure("repeat_exit, 10^12 exits", "-", f"{median * 1e6:.0f} us", "1 ms", median < 1e-3)


def test_memory(report):
    program = (
        "import resource; from kvmbench import Machine\n"
        "rss = lambda: int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()\n"
        "before = rss(); machine = Machine(4096, 100_000, 'deferred', 'patch-2017')\n"
        "for task in range(100):\n"
        "    machine.switch(0, task); machine.ioperm(0, 0x378, 3)\n"
        "print(rss() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    used = int(done.stdout)
    job = "memory, 4,096 CPUs, 100,000 tasks, 100 with maps"
    report.figure(job, "-", f"{used / 1e6:.0f} MB", "100 MB", used < 100e6)
    machine = Machine(1, 1, "deferred", PROFILE)
    cpu = machine.cpu.dtype.itemsize + machine.counters.dtype.itemsize
    cpu += machine.tss_map.base.nbytes + 8 * 136  # and how often each transition was made
    task = machine.task.dtype.itemsize
    report.figure("memory, a CPU and a task", "-", f"{cpu}, {task} bytes", "-", True)


def test_growth(report):
    """The same 4 * 10^6 EXITs on ever more CPUs, each on a CPU drawn at random."""
    n = 4_000_000
    rng = np.random.default_rng(2017)
    times = {}
    for cpus in (1, 64, 4096):
        machine = Machine(cpus, cpus, "deferred", PROFILE)
        for cpu in range(cpus):
            machine.switch(cpu, cpu)
        ops = np.zeros(n, OP_DTYPE)
        ops["cpu"] = rng.integers(0, cpus, n)
        ops["a"] = rng.integers(0, len(PROFILE.kinds), n)
        rounds = []
        for _ in range(5):
            start = time.perf_counter()
            machine.run(ops)
            rounds.append((time.perf_counter() - start) / n * 1e9)
        times[cpus] = statistics.median(rounds)
    figure = ", ".join(f"{t:.1f}" for t in times.values()) + " ns"
    growth = max(times.values()) / min(times.values())
    job = "growth, EXIT on 1, 64, 4,096 CPUs"
    report.figure(job, "-", figure, "2 x", growth <= 2)


@pytest.mark.parametrize("engine", others.EXITS)
def test_scale(report, engine):
    """Userspace exits in other tools, for scale: no target."""
    n, exits = others.EXITS[engine]
    kind = PROFILE.kinds[PROFILE.kind_index("inl_from_qemu")]
    exits(100, PROFILE.costs, kind)
    start = time.perf_counter()
    cycles = exits(n, PROFILE.costs, kind)
    each = (time.perf_counter() - start) / n
    assert cycles == n * 6209
    report.figure("inl_from_qemu, for scale", engine, f"{each * 1e9:,.1f} ns", "-", True)


class Plain:
    """A method that does nothing, the least that a call from Python costs."""

    def exit(self, cpu, kind):
        return 0


CALLS = {  # the call, and at most how many of an empty method's calls it may take
    "machine.exit(0, 3)": 1,
    "machine.exit(0, 'inl_from_qemu')": 1.5,
    "machine.io(0, 0x379, 1)": 2,
    "machine.cycles(0)": 1,
    "machine.count(0, 'reloads')": 1,
}


@pytest.mark.parametrize("call", CALLS)
def test_calls(report, call):
    machine = Machine(1, 1, "deferred", PROFILE)
    machine.switch(0, 0)
    machine.ioperm(0, 0x378, 3)
    names = dict(machine=machine, plain=Plain())
    machine.exit(0, 3)
    machine.exit(0, "inl_from_qemu")  # outside the guest, so that the task may do IO
    each = {"plain.exit(0, 3)": [], call: []}
    for _ in range(15):  # both in turn
        for words, found in each.items():
            found.append(min(timeit.repeat(words, globals=names, number=20_000, repeat=3)))
    ratio = statistics.median(each[call]) / statistics.median(each["plain.exit(0, 3)"])
    figure, target = f"{ratio:.2f} x its time", f"{CALLS[call]:g} x"
    report.figure(call, "an empty Python method", figure, target, ratio <= CALLS[call])


def cpu_seconds(*command):
    """Return the median CPU time of a process, user and system, of nine runs.

    A first run writes the bytecode, which an installed package has.
    """
    bytecode = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=bytecode)
    spent = []
    for _ in range(9):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=bytecode)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(spent)


@pytest.mark.parametrize(
    ("arguments", "yardstick", "target"),
    [(["--help"], "pass", 0.03), (["run"], "import numpy", 0.12)],
)
def test_start(report, arguments, yardstick, target):
    script = os.path.join(os.path.dirname(sys.executable), "kvmbench")
    more = cpu_seconds(script, *arguments) - cpu_seconds(sys.executable, "-c", yardstick)
    job = f"kvmbench {arguments[0]}, CPU time"
    report.figure(
        job,
        f"python -c '{yardstick}'",
        f"+ {more * 1e3:.0f} ms",
        f"+ {target * 1e3:.0f} ms",
        more < target,
    )


def test_compare(report, tmp_path):
    """Two results of 41 rows, 8 runs and 30 iterations, from the start of Python to its end."""
    source = random.Random(1)
    for name in ("before", "after"):
        runs = [
            Run(
                time=f"2026-11-26T10:{number:02}:00+00:00",
                series=[
                    Series(
                        workload=f"row_{row}", kind="noisy",
                        values=[1000 * row * source.gauss(1, 0.005) for _ in range(30)],
                    )
                    for row in range(1, 42)
                ],
            )
            for number in range(8)
        ]  # fmt: skip
        result = Result(tool="a benchmark", boots=[Boot(id="1", host=Host(), runs=runs)])
        kvmbench.save(result, tmp_path / f"{name}.json")
    script = os.path.join(os.path.dirname(sys.executable), "kvmbench")
    files = [str(tmp_path / f"{name}.json") for name in ("before", "after")]
    spent = cpu_seconds(script, "compare", *files)
    figure = f"{spent:.2f} s"
    report.figure("kvmbench compare, 41 rows, 8 runs: CPU time", "-", figure, "0.4 s", spent < 0.4)
