"""The simulated figures that must not change unseen: results/baseline-cycles.json has them all.

`make gate` runs these tests against that file, `make baseline` writes it again. Where a figure
changes for the same input, so must model.MODEL_VERSION.
"""

import sys

import pytest

from kvmbench import Machine
from kvmbench.catalog import policies
from kvmbench.scenario.scenario import scenarios
from kvmbench.workloads import BUILT_IN

if "kvmbench.pytest_plugin" not in sys.modules:
    reason = "kvmbench's entry point for pytest is not installed: pip install it again"
    pytest.skip(reason, allow_module_level=True)

PROFILE = "patch-2017"
POLICIES = list(policies())
PORTS = (0x378, 3)

pytestmark = pytest.mark.parametrize("policy", POLICIES)


@pytest.mark.parametrize("bitmap", [False, True], ids=["plain", "bitmap"])
@pytest.mark.parametrize("workload", BUILT_IN, ids=lambda workload: workload.name)
def test_workload(cycle_benchmark, workload, bitmap, policy):
    """One iteration in the steady state, the vCPU's thread with an I/O bitmap or without."""
    machine = Machine(1, 1, policy, PROFILE)
    machine.switch(0, 0)
    if bitmap:
        machine.ioperm(0, *PORTS)

    def iteration():
        for kind in workload.exits:
            machine.exit(0, kind)

    iteration()
    cycle_benchmark(machine, iteration)


@pytest.mark.parametrize("vendor", ["vmx", "svm"])
def test_switches(cycle_benchmark, policy, vendor):
    """Three tasks and the idle loop, one of the tasks with an I/O bitmap, on two CPUs in turn."""
    machine = Machine(2, 3, policy, PROFILE, vendor)
    machine.switch(0, 2)
    machine.ioperm(0, *PORTS)
    machine.switch(0, -1)
    order = ((0, 0), (1, 1), (0, 2), (1, -1), (0, -1), (1, 2), (0, 1), (1, 0))

    def rounds():
        for cpu, task in order:
            machine.switch(cpu, task)
            if task >= 0:
                machine.exit(cpu, "cpuid")
                machine.exit(cpu, "inl_from_qemu")
                machine.advance(cpu, 1000)
        machine.switch(0, -1)
        machine.switch(1, -1)

    cycle_benchmark.pedantic(machine, rounds, rounds=2)


@pytest.mark.parametrize("vendor", ["vmx", "svm"])
def test_ioperm(cycle_benchmark, policy, vendor):
    """Ports granted, used, refused, taken back, and a task that ends with its I/O bitmap."""
    machine = Machine(1, 2, policy, PROFILE, vendor)
    machine.switch(0, 0)

    def calls():
        machine.exit(0, "inl_from_qemu")
        machine.ioperm(0, *PORTS)
        assert machine.io(0, 0x379, 1)[0]
        assert not machine.io(0, 0x37A, 2)[0]
        machine.switch(0, 1)
        assert not machine.io(0, 0x379, 1)[0]
        machine.switch(0, 0)
        machine.exit(0, "inl_from_qemu")
        machine.ioperm(0, 0x3F8, 8)
        assert machine.io(0, 0x3F8, 4)[0]
        machine.ioperm(0, 0x378, 1, False)
        machine.task_exit(0)

    cycle_benchmark(machine, calls)


@pytest.mark.parametrize("name", sorted(scenarios()))
def test_scenario(cycle_benchmark, name, policy):
    """The first operations of each built-in host, which neither leak a port nor deny one."""
    scenario = scenarios()[name]
    machine = Machine(scenario.cpus, scenario.n_tasks, policy, PROFILE)
    ops = scenario.ops(20_000, policy, PROFILE)
    cycle_benchmark(machine, machine.run, ops)
    assert int(machine.counters["leaks"].sum()) == int(machine.counters["denials"].sum()) == 0
