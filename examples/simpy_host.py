"""A host in SimPy: vCPU threads share CPUs, and pay for exits and switches through one Machine.

SimPy owns time and queues; the Machine owns what an exit or a switch costs. Time is in cycles.

    pip install kvmbench simpy
    python simpy_host.py
"""

import random

import simpy

from kvmbench import Machine

CPUS, VCPUS = 2, 5
SLICE = 4_000_000  # cycles that a thread may run on
DURATION = 40_000_000  # cycles
MIX = {"cpuid": 2, "inl_from_kernel": 5, "inl_from_qemu": 3}  # weights


def vcpu(env, machine, cpus, task, rng, exits):
    """One vCPU's thread: wait for a CPU, run guest code and exit until the slice is over."""
    while True:
        cpu = yield cpus.get()
        yield env.timeout(machine.switch(cpu, task))
        end = env.now + SLICE
        while env.now < end:
            guest = round(rng.expovariate(1 / 50_000))
            kind = rng.choices(list(MIX), MIX.values())[0]
            exits[kind] += 1
            # Guest code runs inside KVM_RUN; the exit's cycles are a delay like any other.
            yield env.timeout(machine.advance(cpu, guest) + machine.exit(cpu, kind))
        yield env.timeout(machine.switch(cpu, -1))
        yield cpus.put(cpu)


def run(policy):
    """Return the Machine after DURATION cycles under `policy`, and how often each kind exited."""
    env = simpy.Environment()
    machine = Machine(CPUS, VCPUS, policy, "patch-2017")
    cpus = simpy.Store(env)
    cpus.items = list(range(CPUS))
    exits = dict.fromkeys(MIX, 0)
    for task in range(VCPUS):
        env.process(vcpu(env, machine, cpus, task, random.Random(task), exits))
    env.run(until=DURATION)
    return machine, exits


def main():
    for policy in ("eager", "deferred"):
        machine, _ = run(policy)
        total = machine.counters
        share = total["c_tr"].sum() / machine.cpu["cycles"].sum()
        print(
            f"{policy:10}{total['exits'].sum():8} exits{total['puts'].sum():7} puts"
            f"{total['reloads'].sum():7} reloads, TR {share:.2%} of the time"
        )


if __name__ == "__main__":
    main()
