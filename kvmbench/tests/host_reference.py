"""A slow, plain reference of docs/scenario.md, over the reference of the machine.

It shares no code with the host loop but the two tables of kvmbench.scenario.sampling, which have
separate tests; its random numbers are numpy's.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np

from kvmbench.model import Op
from kvmbench.scenario.sampling import FIXED, alias_table, exponential

GOLDEN = 0x9E3779B97F4A7C15


class Stream:
    """The numbers of one stream, one by one."""

    def __init__(self, seed, stream):
        self.bits = np.random.Philox(key=np.array([seed, stream], np.uint64))

    def draw(self):
        return int(self.bits.random_raw())

    def below(self, n):
        return (self.draw() >> 32) * n >> 32


class Task:
    def __init__(self, number, group, scenario, profile):
        self.number = number
        self.type = group.type
        self.table = FIXED if group.times == "fixed" else exponential()
        us = group.guest_us if group.type == "vcpu" else group.work_us
        self.mean = scenario.cycles(us or 0)
        self.run_mean, self.sleep_mean = scenario.cycles(group.run_us), scenario.cycles(
            group.sleep_us
        )  # fmt: skip
        self.kinds = [profile.kind_index(kind) for kind in group.mix]
        self.choices = alias_table(list(group.mix.values())) if group.mix else []
        self.port = group.port
        self.left = None  # cycles of the run under way
        self.kind = None
        self.burst = 2**63
        self.wake = 0

    def time(self, mean, bits):
        index, dither = bits >> 54, (bits >> 34) % 2**20
        return (mean * self.table[index] + dither) // 2**20

    def choose(self, bits):
        at = (bits % 2**32) * len(self.kinds)
        threshold, alias = self.choices[at // 2**32]
        return self.kinds[at // 2**32 if at % 2**32 < threshold else alias]


class HostReference:
    """A scenario on a Reference `model`; `ops` is the history, `costs` what EXITs cost."""

    def __init__(self, scenario, model, profile, seed):
        self.model = model
        self.profile = profile
        self.scenario = scenario
        self.ops = []
        self.costs = Counter()
        self.guest = 0
        self.streams = [Stream(seed, cpu) for cpu in range(scenario.cpus)]
        self.host_stream = Stream(seed, 2**64 - 1)
        self.queues = [[] for _ in range(scenario.cpus)]
        self.asleep = [[] for _ in range(scenario.cpus)]
        self.slice_end = [0] * scenario.cpus
        self.tasks = []
        self.holders = []
        others = 0
        for group in scenario.tasks:
            for i in range(group.count):
                task = Task(len(self.tasks), group, scenario, profile)
                holds = group.ioperm or group.type == "io"
                if not holds:
                    holds = others * GOLDEN % 2**64 < int(Fraction(scenario.ioperm_share) * 2**64)
                    others += 1
                task.port = group.port + i * group.ports
                if holds:
                    self.holders.append((task, group.ports))
                home = task.number % scenario.cpus
                if task.sleep_mean:
                    task.burst = task.time(task.run_mean, self.streams[home].draw())
                self.tasks.append(task)
                self.queues[home].append(task)

    def run(self):
        scenario = self.scenario
        for task, ports in self.holders:
            cpu = task.number % scenario.cpus
            self.switch(cpu, task.number)
            self.do(Op.IOPERM, 1, cpu, task.port, ports)
            self.switch(cpu, -1)
        end, epoch = scenario.cycles(scenario.seconds * 10**6), scenario.cycles(scenario.epoch_us)
        now = due = 0
        while now < end:
            if now:
                due += round(Fraction(scenario.migrations) * epoch)
                while due >= scenario.clock_hz:
                    due -= scenario.clock_hz
                    self.migrate()
            now = min(now + epoch, end)
            for cpu in range(scenario.cpus):
                while self.clock(cpu) < now:
                    self.act(cpu, now)

    # One CPU

    def clock(self, cpu):
        return self.model.cpus[cpu].cycles

    def do(self, code, arg, cpu, a, b=0):
        self.ops.append((code, arg, cpu, a, b, 0))
        return self.model.step(int(code), arg, cpu, a, b, 0)[1]

    def switch(self, cpu, task):
        self.do(Op.SWITCH, 0, cpu, task)
        self.slice_end[cpu] = self.clock(cpu) + self.scenario.cycles(self.scenario.timeslice_us)

    def wake(self, cpu):
        due = sorted(
            (t for t in self.asleep[cpu] if t.wake <= self.clock(cpu)), key=lambda t: t.wake
        )
        for task in due:
            self.asleep[cpu].remove(task)
            self.queues[cpu].append(task)

    def act(self, cpu, end):
        """Take one decision on a CPU."""
        current = self.model.cpus[cpu].task
        queue = self.queues[cpu]
        if current < 0:
            self.wake(cpu)
            if queue:
                self.switch(cpu, queue.pop(0).number)
            else:
                until = min([end, *(task.wake for task in self.asleep[cpu])])
                self.do(Op.ADVANCE, 0, cpu, until - self.clock(cpu))
            return
        task = self.tasks[current]
        if self.clock(cpu) >= self.slice_end[cpu]:
            self.wake(cpu)
            if queue:
                queue.append(task)
                self.switch(cpu, queue.pop(0).number)
            else:
                length = self.scenario.cycles(self.scenario.timeslice_us)
                self.slice_end[cpu] = self.clock(cpu) + length
            return
        if task.burst > 0:
            self.go_on(cpu, task, min(end, self.slice_end[cpu]))
        if task.burst == 0:
            draw = self.streams[cpu].draw
            task.wake = self.clock(cpu) + task.time(task.sleep_mean, draw())
            task.burst = task.time(task.run_mean, draw())
            self.asleep[cpu].append(task)
            self.wake(cpu)
            after = queue.pop(0).number if queue else -1
            if after != current:
                self.switch(cpu, after)

    def go_on(self, cpu, task, stop):
        """Let a task run on: to the end of the run under way, or as far as it may."""
        room = min(stop - self.clock(cpu), task.burst)
        if task.type == "plain":
            run = room
        else:
            if task.left is None:
                bits = self.streams[cpu].draw()
                task.left = task.time(task.mean, bits)
                task.kind = task.choose(bits) if task.type == "vcpu" else None
            run = min(task.left, room)
            task.left -= run
        if task.type == "vcpu":
            self.guest += run
        self.do(Op.ADVANCE, 0, cpu, run)
        task.burst -= run
        if task.left != 0:  # cut short, or a plain task, which has no runs
            return
        task.left = None
        if task.type == "io":
            self.do(Op.IO, 1, cpu, task.port)
        else:
            cost = self.do(Op.EXIT, 0, cpu, task.kind)
            if self.profile.kinds[task.kind].exits:
                self.costs[cost] += 1

    # The host

    def migrate(self):
        queued = [(cpu, i) for cpu, q in enumerate(self.queues) for i in range(len(q))]
        if not queued or len(self.queues) == 1:
            return
        cpu, i = queued[self.host_stream.below(len(queued))]
        to = self.host_stream.below(len(self.queues) - 1)
        self.queues[to + (to >= cpu)].append(self.queues[cpu].pop(i))
