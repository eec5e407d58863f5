"""The core beside the plain C of the same job, in one run: `make bench`.

Each group of the printed table is one job; the figures in brackets are the ratio to its fastest.
"""

import numpy as np
import pytest

from kvmbench import Machine, port_check, profiles
from kvmbench.tests.bench import jobs, plain

EXITS = 10_000_000
MIX = 2_000_000
CHECKS = 10_000_000
PROFILE = profiles()["patch-2017"]
ROUNDS = dict(rounds=7, warmup_rounds=1, iterations=1)


def machines(cpus, tasks):
    return {
        "kvmbench": Machine(cpus, tasks, "deferred", PROFILE),
        "plain C": plain.PlainMachine(cpus, tasks, PROFILE),
    }


@pytest.fixture(scope="module")
def mixed():
    return jobs.mix(MIX, PROFILE)


@pytest.mark.parametrize("engine", ["kvmbench", "plain C"])
@pytest.mark.parametrize("kind", ["cpuid", "inl_from_qemu"])
def test_equal_exits(benchmark, engine, kind):
    benchmark.group = f"run: 10^7 equal EXITs on one CPU ({kind})"
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
def test_mix(benchmark, engine, mixed):
    benchmark.group = "run: 2 * 10^6 mixed operations, 64 CPUs, 256 tasks"
    both = machines(jobs.CPUS, jobs.TASKS)
    machine = both[engine]
    benchmark.pedantic(machine.run, (mixed,), setup=machine.reset, **ROUNDS)
    for other in both.values():
        other.reset()
        other.run(mixed)
    assert both["kvmbench"].counters.tolist() == both["plain C"].counters.tolist()


@pytest.mark.parametrize("engine", ["kvmbench", "plain C"])
def test_port_check(benchmark, engine):
    benchmark.group = "port_check: 10^7 random checks"
    tss_map, ports, widths = jobs.checks(CHECKS)
    check = {"kvmbench": port_check, "plain C": plain.port_check}[engine]
    allowed = benchmark.pedantic(check, (0x206F, 0x68, tss_map, ports, widths), **ROUNDS)
    assert np.array_equal(allowed, plain.port_check(0x206F, 0x68, tss_map, ports, widths))
