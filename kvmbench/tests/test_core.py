"""The machine by hand: every expected number is a sum of costs that docs/model.md names."""

import ast
import copy
import inspect
import os
import pickle
import random
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kvmbench
from kvmbench import Machine, OperationError, _core, port_check
from kvmbench.arrays import COUNTERS, COUNTERS_DTYPE, OP_DTYPE
from kvmbench.catalog import policies, profiles
from kvmbench.model import Costs, ExitKind, Op, Policy, Profile
from kvmbench.tests.histories import core_state

FULL, MIN = 0x206F, 0x67  # TR limits
VALID, INVALID = 0x68, 0x2070  # io_bitmap_base
POLICIES = ("eager", "deferred", "exit-to-user", "every-exit")

# Every cost a different power of two, so that a sum names its terms; 128 copied lines stay
# below the first wiped one.
COSTS = Costs(
    irq_exit=1 << 0,
    host_save=1 << 1,
    host_restore=1 << 2,
    gdt_write=1 << 3,
    ltr=1 << 4,
    mark=1 << 5,
    test=1 << 6,
    switch=1 << 7,
    migrate=1 << 8,
    switch_overlap=1 << 9,
    ioperm=1 << 10,
    io=1 << 11,
    gp_fault=1 << 12,
    copy_base=1 << 13,
    wipe_base=1 << 14,
    copy_line=1 << 23,
    wipe_line=1 << 31,
)
KINDS = (
    ExitKind("cr8", 1 << 15, user_cycles=1 << 21, overlap=1 << 22, exits=False),
    ExitKind("light", 1 << 16, user_cycles=1 << 21, overlap=1 << 17),
    ExitKind("user", 1 << 18, user_cycles=1 << 19, overlap=1 << 20, user=True),
)
KIND_NAMES = [kind.name for kind in KINDS]
PROFILE = Profile("powers", COSTS, KINDS)

# What a cost is called below -> the counter it goes to, and its cycles.
WORDS = {
    **{w: ("c_exit", c) for w, c in [("cr8", 1 << 15), ("light", 1 << 16), ("user", 1 << 18)]},
    "irq_exit": ("c_exit", COSTS.irq_exit),
    "userspace": ("c_user", 1 << 19),
    **{w: ("c_host", getattr(COSTS, w)) for w in ("host_save", "host_restore")},
    **{w: ("c_tr", getattr(COSTS, w)) for w in ("gdt_write", "ltr", "mark", "switch_overlap")},
    "refresh": ("c_tr", COSTS.test),
    "light_overlap": ("c_tr", 1 << 17),
    "user_overlap": ("c_tr", 1 << 20),
    "sync": ("c_map", COSTS.test),
    "base": ("c_map", COSTS.mark),
    **{w: ("c_map", getattr(COSTS, w)) for w in ("copy_base", "copy_line")},
    **{w: ("c_map", getattr(COSTS, w)) for w in ("wipe_base", "wipe_line")},
    **{w: ("c_switch", getattr(COSTS, w)) for w in ("switch", "migrate")},
    "ioperm": ("c_call", COSTS.ioperm),
    **{w: ("c_io", getattr(COSTS, w)) for w in ("io", "gp_fault")},
    **{w: (f"c_{w}", 1000) for w in ("guest", "work", "idle")},
}


def op(name, cpu, a=0, b=0, on=True):
    """Return an operation as run() takes it, from a method's name and arguments."""
    a = KIND_NAMES.index(a) if isinstance(a, str) else a
    return (Op[name.upper()], {"io": b, "ioperm": on}.get(name, 0), cpu, a, b, 0)


def machine(policy="deferred", vendor="vmx", after=()):
    made = Machine(2, 3, policy, PROFILE, vendor)
    made.run([op(*step) for step in after])
    return made


def cycles(costs):
    """Return the sum of cost words, each `word` or `word*times`."""
    split = [word.partition("*") for word in costs.split()]
    return sum(WORDS[word][1] * int(times or 1) for word, _, times in split)


class Checked:
    """A machine, and one that is driven through run(): both must do exactly as told."""

    def __init__(self, *args, **kwargs):
        self.machine = machine(*args, **kwargs)
        self.batch = self.machine.copy()

    def do(self, name, cpu, *args, costs="", result=0, **events):
        """Do an operation that costs these words, counts these events, and nothing else."""
        counters, clock = self.machine.counters, self.machine.cpu["cycles"].copy()
        for word, _, times in (word.partition("*") for word in costs.split()):
            counters[WORDS[word][0]][cpu] += WORDS[word][1] * int(times or 1)
        for event, times in events.items():
            counters[event][cpu] += times
        clock[cpu] += cycles(costs)
        spent = getattr(self.machine, name)(cpu, *args)
        assert spent == ((bool(result), cycles(costs)) if name == "io" else cycles(costs))
        assert self.machine.counters.tolist() == counters.tolist()
        assert self.machine.cpu["cycles"].tolist() == clock.tolist()
        spent = np.zeros(1, np.uint64)
        assert self.batch.run([op(name, cpu, *args)], cycles_out=spent).tolist() == [result]
        assert spent.tolist() == [cycles(costs)]
        assert core_state(self.batch) == core_state(self.machine)

    def cpu(self, cpu, **fields):
        """Check all of a CPU but its clock: as at the start, but for these fields."""
        start = dict(tr_limit=FULL, tss_busy=1, io_base=VALID, limit_stale=0, guest_loaded=0)
        start |= dict(task=-1, map_max=0, map_seq=0)
        row = self.machine.cpu[cpu]
        assert {name: row[name] for name in start} == start | fields

    def task(self, task, tif=0, has_map=0, max=0, seq=0, last_cpu=-1, in_run=0, iopl3=0):
        found = self.machine.task[task].tolist()
        assert found == (tif, has_map, max, seq, last_cpu, in_run, iopl3)


# Its EXITs mark and clear in turn.
TOGGLE = Policy(
    "toggle",
    vm_exit=[
        *("set_tif if stale", "clear_tif if not stale"),
        *("mark_stale if not tif", "clear_stale if tif"),
    ],
)

RELOAD = dict(reloads=1)
MARK = dict(marks=1)
MAP = [("switch", 0, 0), ("ioperm", 0, 0, 8)]  # task 0 may use ports 0 to 7


# EXIT


@pytest.mark.parametrize("vendor", ["vmx", "svm"])
@pytest.mark.parametrize(
    ("policy", "kind", "tr", "events", "limit", "stale"),
    [
        ("eager", "light", "", {}, MIN, 0),
        ("eager", "user", "gdt_write ltr user_overlap", RELOAD, FULL, 0),
        ("deferred", "light", "", {}, MIN, 0),
        ("deferred", "user", "mark", MARK, MIN, 1),
        ("exit-to-user", "light", "", {}, MIN, 0),
        ("exit-to-user", "user", "mark", MARK, MIN, 1),
        ("every-exit", "light", "gdt_write ltr light_overlap", RELOAD, FULL, 0),
        ("every-exit", "user", "gdt_write ltr user_overlap", RELOAD, FULL, 0),
    ],
)
def test_exit(policy, vendor, kind, tr, events, limit, stale):
    checked = Checked(policy, vendor, after=[("switch", 0, 0)])
    user = kind == "user"
    rest = "host_restore userspace" if user else ""
    if user:
        events = events | dict(user_exits=1, puts=1)
    for first in (True, False):
        save = first or user  # a put ends the stay of the guest's state
        checked.do(
            "exit",
            *(0, kind),
            costs=f"{'host_save' if save else ''} {kind} {tr} {rest}",
            **dict(exits=1, host_saves=int(save)) | events,
        )
        checked.cpu(
            0,
            tr_limit=limit if vendor == "vmx" else FULL,
            io_base=INVALID if policy == "exit-to-user" else VALID,
            limit_stale=stale,
            guest_loaded=int(not user),
            task=0,
        )
        checked.task(0, last_cpu=0, in_run=int(not user))
    checked.cpu(1, io_base=INVALID if policy == "exit-to-user" else VALID)


@pytest.mark.parametrize("policy", POLICIES)
def test_exit_of_a_kind_that_does_not_exit(policy):
    checked = Checked(policy, after=[("switch", 0, 0)])
    checked.do("exit", 0, "cr8", costs="host_save cr8", host_saves=1)
    checked.do("exit", 0, "cr8", costs="cr8")
    base = INVALID if policy == "exit-to-user" else VALID
    checked.cpu(0, task=0, guest_loaded=1, io_base=base)


@pytest.mark.parametrize(
    ("policy", "kernel", "seen"),
    [
        ("eager", "", {}),
        ("deferred", "", {}),
        ("every-exit", "", {}),
        ("exit-to-user", "sync base refresh", dict(map_max=8, map_seq=1)),
    ],
)
def test_user_exit_with_a_bitmap(policy, kernel, seen):
    checked = Checked(policy, after=MAP)
    for _ in range(2):
        checked.do(
            "exit",
            *(0, "user"),
            costs=f"host_save user host_restore gdt_write ltr user_overlap {kernel} userspace",
            **dict(exits=1, user_exits=1, host_saves=1, puts=1, reloads=1),
        )
        checked.cpu(0, task=0, **seen)


def test_exits_of_all_kinds_interleaved():
    checked = Checked("deferred", after=[("switch", 0, 0)])
    user = dict(exits=1, user_exits=1, puts=1, marks=1)
    for _ in range(3):
        checked.do("exit", 0, "cr8", costs="host_save cr8", host_saves=1)
        checked.do("exit", 0, "light", costs="light", exits=1)
        checked.do("exit", 0, "user", costs="user host_restore mark userspace", **user)


# SWITCH


def test_a_wipe_in_an_exit_costs_by_the_maps_length():
    """The length is no part of the state that an EXIT is remembered by."""
    wiper = Policy("wiper", ioperm=["alloc_map", "edit_map"], vcpu_put=["wipe_own"])
    made = Checked(wiper, after=MAP)
    costs = f"{USER} wipe_base wipe_line"
    for _ in range(3):  # 8 bytes are one line of 64
        made.do("exit", 0, "user", costs=costs, **USER_EVENTS, map_wipes=1)
    for runner in (made.machine, made.batch):
        runner.ioperm(0, 65528, 8)
    for _ in range(2):  # 8,192 bytes are 128
        made.do("exit", 0, "user", costs=f"{costs}*128", **USER_EVENTS, map_wipes=1)


def test_more_kinds_than_transitions_that_a_machine_remembers():
    """300 of them, and it remembers fewer; ci/sanitize sees a write past the last one's effect."""
    kinds = tuple(ExitKind(f"kind{i}", 1000 + i) for i in range(300))
    made = Machine(1, 1, Policy("nothing"), Profile("many", replace(COSTS, host_save=0), kinds))
    made.switch(0, 0)
    ops = np.zeros(900, OP_DTYPE)
    ops["a"] = np.tile(np.arange(300), 3)
    for runner in (made, made.copy()):
        out = np.zeros(900, np.uint64)
        runner.run(ops, cycles_out=out)
        assert out.tolist() == [1000 + i for i in range(300)] * 3
        again = runner.copy()
        for machine_ in (runner, again):
            assert machine_.count(0, "exits") == 900
            assert machine_.count(0, "c_exit") == 3 * sum(range(1000, 1300))


@pytest.mark.parametrize("policy", POLICIES)
def test_switch(policy):
    checked = Checked(policy)
    base = INVALID if policy == "exit-to-user" else VALID
    checked.do("switch", 0, 0, costs="switch", switches=1)
    checked.cpu(0, task=0, io_base=base)
    checked.task(0, last_cpu=0)
    checked.do("switch", 0, 0)
    checked.do("switch", 0, 1, costs="switch", switches=1)
    checked.do("switch", 0, -1, costs="switch", switches=1)
    checked.do("switch", 0, -1)
    checked.do("switch", 1, 0, costs="switch migrate", switches=1, migrations=1)
    checked.do("switch", 1, -1, costs="switch", switches=1)
    checked.do("switch", 1, 0, costs="switch", switches=1)
    checked.task(0, last_cpu=1)
    checked.cpu(0, io_base=base)


@pytest.mark.parametrize("loading", ["light", "cr8"])
@pytest.mark.parametrize("vendor", ["vmx", "svm"])
@pytest.mark.parametrize(
    ("policy", "tr", "events", "limit", "stale"),
    [
        ("eager", "gdt_write ltr switch_overlap", RELOAD, FULL, 0),
        ("deferred", "mark", MARK, MIN, 1),
        ("exit-to-user", "mark", MARK, MIN, 1),
        ("every-exit", "gdt_write ltr switch_overlap", RELOAD, FULL, 0),
    ],
)
def test_switch_with_a_loaded_guest(policy, vendor, loading, tr, events, limit, stale):
    checked = Checked(policy, vendor, after=[("switch", 0, 0), ("exit", 0, loading)])
    checked.do(
        "switch",
        *(0, 1),
        costs=f"irq_exit host_restore {tr} switch",
        **dict(exits=1, puts=1, switches=1) | events,
    )
    checked.cpu(
        0,
        task=1,
        tr_limit=limit if vendor == "vmx" else FULL,
        limit_stale=stale,
        io_base=INVALID if policy == "exit-to-user" else VALID,
    )
    checked.task(0, last_cpu=0, in_run=1)
    checked.do("switch", 0, 0, costs="switch", switches=1)
    events = events if policy == "every-exit" else {}
    reload = "gdt_write ltr light_overlap" if policy == "every-exit" else ""
    again = dict(host_saves=1, exits=1) | events
    checked.do("exit", 0, "light", costs=f"host_save light {reload}", **again)


def test_switch_within_kvm_run_skips_exit_to_user():
    checked = Checked(Policy("hook", exit_to_user=["mark_stale"]))
    away = [("switch", 0, -1)]
    checked.do("switch", 0, 0, costs="switch mark", switches=1, marks=1)
    exits = dict(exits=1, user_exits=1, host_saves=1, puts=1, marks=1)
    user = "host_save user host_restore mark userspace"
    checked.do("exit", 0, "user", costs=user, **exits)
    checked.do("exit", 0, "light", costs="host_save light", exits=1, host_saves=1)
    interrupt = dict(costs="irq_exit host_restore switch", exits=1, puts=1, switches=1)
    checked.do(*away[0], **interrupt)
    checked.do("switch", 0, 0, costs="switch", switches=1)
    checked.do("exit", 0, "user", costs=user, **exits)
    checked.do(*away[0], costs="switch", switches=1)
    checked.do("switch", 0, 0, costs="switch mark", switches=1, marks=1)


# max of task 0: port 519 is in word 8, so 8 x 9 = 72 bytes; of task 1: port 0, 8 bytes.
TWO_MAPS = [("switch", 0, 0), ("ioperm", 0, 512, 8), ("switch", 0, 1), ("ioperm", 0, 0, 1)]
COPY_72 = dict(switches=1, map_copies=1, bytes_copied=72)


@pytest.mark.parametrize(("policy", "test"), [("eager", ""), ("deferred", "refresh")])
def test_switch_copies_and_wipes(policy, test):
    checked = Checked(policy, after=TWO_MAPS)
    checked.do("switch", 0, 0, costs=f"copy_base copy_line*2 {test} switch", **COPY_72)
    assert checked.machine.tss_map[0, :66].tolist() == [255] * 64 + [0, 255]
    checked.do("switch", 0, 1, costs=f"copy_base copy_line*2 {test} switch", **COPY_72)
    assert checked.machine.tss_map[0, :66].tolist() == [254] + [255] * 65
    checked.do("switch", 0, 2, costs="wipe_base wipe_line switch", switches=1, map_wipes=1)
    assert (checked.machine.tss_map == 255).all()
    copied = dict(switches=1, map_copies=1, bytes_copied=8)
    checked.do("switch", 0, 1, costs=f"copy_base copy_line {test} switch", **copied)
    checked.do("switch", 0, 0, costs=f"copy_base copy_line*2 {test} switch", **COPY_72)
    checked.do("switch", 0, -1, costs="wipe_base wipe_line*2 switch", switches=1, map_wipes=1)
    checked.do("switch", 0, 0, costs=f"copy_base copy_line*2 {test} switch", **COPY_72)


def test_switch_refreshes_a_stale_limit():
    checked = Checked("deferred", after=[*MAP, ("switch", 0, 1), ("exit", 0, "user")])
    checked.cpu(0, task=1, tr_limit=MIN, limit_stale=1)
    checked.do(
        "switch",
        *(0, 0),
        costs="copy_base copy_line refresh gdt_write ltr switch_overlap switch",
        **dict(switches=1, map_copies=1, bytes_copied=8, reloads=1),
    )
    checked.cpu(0, task=0)


def test_switch_under_exit_to_user():
    checked = Checked("exit-to-user", after=TWO_MAPS)
    checked.cpu(0, task=1, map_max=8, map_seq=2)
    copied = "sync copy_base copy_line*2"
    checked.do("switch", 0, 0, costs=f"base switch {copied} base refresh", **COPY_72)
    checked.cpu(0, task=0, map_max=72, map_seq=1)
    checked.do("switch", 0, 2, costs="base switch", switches=1)
    checked.cpu(0, task=2, map_max=72, map_seq=1, io_base=INVALID)
    checked.do("switch", 0, 0, costs="switch sync base refresh", switches=1)
    checked.do("switch", 0, 1, costs=f"base switch {copied} base refresh", **COPY_72)
    checked.cpu(0, task=1, map_max=8, map_seq=2)


def test_steps_of_an_idle_task_do_nothing():
    steps = ["copy_map", "wipe_map", "wipe_own", "sync_map", "alloc_map", "set_tif", "drop_map"]
    checked = Checked(Policy("idle", switch=steps, exit_to_user=["mark_stale"]), after=MAP[:1])
    checked.do("switch", 0, -1, costs="sync switch", switches=1)
    checked.do("switch", 1, 1, costs="switch mark", switches=1, marks=1)
    checked.cpu(1, task=1, limit_stale=1)


# What an LTR waits for


@pytest.mark.parametrize(
    ("hook", "do", "costs", "events"),
    [
        ("vm_exit", ("exit", 0, "light"), "host_save light light_overlap", dict(exits=1)),
        ("vcpu_put", ("switch", 0, 1), "switch", {}),
        ("switch", ("switch", 0, 1), "switch switch_overlap", {}),
        ("exit_to_user", ("switch", 0, 1), "switch switch_overlap", {}),
        ("ioperm", ("ioperm", 0, 0, 1), "ioperm", {}),
        ("exit_to_user", ("ioperm", 0, 0, 1), "ioperm", {}),
        ("task_exit", ("task_exit", 0), "switch switch_overlap", {}),
    ],
)
def test_overlap(hook, do, costs, events):
    checked = Checked(Policy("reload", **{hook: ["reload"]}), after=[("switch", 0, 0)])
    if do[0] in ("switch", "task_exit"):
        events = events | dict(switches=1)
    if hook != "vcpu_put":  # nothing is loaded, so there is no put
        costs, events = f"{costs} gdt_write ltr", events | RELOAD
    checked.do(*do, costs=costs, **events | ({"host_saves": 1} if do[0] == "exit" else {}))


@pytest.mark.parametrize("hook", ["vm_exit", "vcpu_put", "exit_to_user"])
def test_overlap_of_a_user_exit(hook):
    checked = Checked(Policy("reload", **{hook: ["reload"]}), after=[("switch", 0, 0)])
    costs = "host_save user host_restore userspace gdt_write ltr user_overlap"
    events = dict(exits=1, user_exits=1, host_saves=1, puts=1, reloads=1)
    checked.do("exit", 0, "user", costs=costs, **events)


# IOPERM

PORT_REQUESTS = [
    # (first, count, on), max before -> after, bytes to copy, its started lines
    ((0, 8, True), 8, 8, 1),
    ((512, 1, True), 72, 72, 2),  # word 8: 8 x 9
    ((512, 1, False), 8, 72, 2),
    ((448, 64, True), 64, 64, 1),  # word 7: 8 x 8
    ((511, 2, True), 72, 72, 2),
    ((65535, 1, True), 8192, 8192, 128),  # word 1023
    ((8, 65528, False), 8, 8192, 128),
    ((100, 1, False), 8, 8, 1),
]


@pytest.mark.parametrize(("policy", "test"), [("eager", ""), ("deferred", "refresh")])
def test_ioperm(policy, test):
    checked = Checked(policy, after=[("switch", 0, 0)])
    for seq, (request, max_after, copied, lines) in enumerate(PORT_REQUESTS, 1):
        costs = f"ioperm {test if seq == 1 else ''} copy_base copy_line*{lines}"
        checked.do("ioperm", 0, *request, costs=costs, map_copies=1, bytes_copied=copied)
        checked.task(0, tif=1, has_map=1, max=max_after, seq=seq, last_cpu=0)
        assert checked.machine.tss_map[0, :-1].tolist() == checked.machine.task_map(0).tolist()
    assert checked.machine.task_map(0).tolist() == [0] + [255] * 8191
    checked.do("ioperm", 0, 0, 8, False, costs="ioperm copy_base copy_line", **COPY_8)
    checked.task(0, tif=1, has_map=1, max=8, seq=9, last_cpu=0)


COPY_8 = dict(map_copies=1, bytes_copied=8)


def test_ioperm_under_exit_to_user():
    checked = Checked("exit-to-user", after=[("switch", 0, 0)])
    for seq, (request, max_after, copied, lines) in enumerate(PORT_REQUESTS, 1):
        costs = f"ioperm sync copy_base copy_line*{lines} base refresh"
        checked.do("ioperm", 0, *request, costs=costs, map_copies=1, bytes_copied=copied)
        checked.task(0, tif=1, has_map=1, max=max_after, seq=seq, last_cpu=0)
        checked.cpu(0, task=0, map_max=max_after, map_seq=seq)
    checked.do("ioperm", 0, 0, 8, False, costs="ioperm base")
    checked.task(0, last_cpu=0)
    checked.cpu(0, task=0, map_max=8, map_seq=8, io_base=INVALID)
    assert checked.machine.task_map(0) is None
    checked.do("ioperm", 0, 0, 8, False, costs="ioperm")


@pytest.mark.parametrize(
    ("policy", "costs", "task"),
    [
        ("eager", "ioperm copy_base copy_line", dict(tif=1, has_map=1, max=8, seq=1)),
        ("deferred", "ioperm refresh copy_base copy_line", dict(tif=1, has_map=1, max=8, seq=1)),
        ("exit-to-user", "ioperm", {}),
    ],
)
def test_ioperm_off_first(policy, costs, task):
    checked = Checked(policy, after=[("switch", 0, 0)])
    checked.do("ioperm", 0, 0, 65536, False, costs=costs, **(COPY_8 if task else {}))
    checked.task(0, last_cpu=0, **task)


def test_ioperm_first_refreshes_a_stale_limit():
    checked = Checked("deferred", after=[("switch", 0, 0), ("exit", 0, "user")])
    costs = "ioperm refresh gdt_write ltr copy_base copy_line"
    checked.do("ioperm", 0, 0, 1, costs=costs, reloads=1, **COPY_8)
    checked.cpu(0, task=0)


# In each word of 64 ports: inside one byte, across bytes, whole bytes, to the end.
@pytest.mark.parametrize("first", [0, 1, 7, 8, 63, 64, 1000, 65471, 65535])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 16, 63, 64, 65, 200, 65536])
def test_ioperm_edits_exactly_its_ports(first, count):
    count = min(count, 65536 - first)
    made = machine(after=[("switch", 0, 0), ("ioperm", 0, first, count)])
    granted = np.flatnonzero(np.unpackbits(made.task_map(0), bitorder="little") == 0)
    assert granted.tolist() == list(range(first, first + count))
    made.ioperm(0, 0, 65536)
    made.ioperm(0, first, count, False)
    denied = np.flatnonzero(np.unpackbits(made.task_map(0), bitorder="little"))
    assert denied.tolist() == list(range(first, first + count))


# IO, TASK_EXIT, ADVANCE, faults


def test_io():
    checked = Checked("eager", after=MAP)
    for port, width in ((0, 1), (7, 1), (6, 2), (4, 4)):
        checked.do("io", 0, port, width, costs="io", result=1, io_allowed=1)
    for port, width in ((8, 1), (7, 2), (5, 4), (65535, 4)):
        checked.do("io", 0, port, width, costs="gp_fault", io_denied=1)
    # The exact map in the TSS, and the limit that hides it, are what counts as leak and denial.
    leaky = Checked(Policy("leaky", ioperm=["alloc_map", "edit_map", "load_map"]), after=MAP)
    leaky.machine.switch(0, 1)
    leaky.batch.switch(0, 1)
    leaky.do("io", 0, 0, 1, costs="io", result=1, io_allowed=1, leaks=1)
    leaky.do("io", 0, 8, 1, costs="gp_fault", io_denied=1)
    denying = Checked(Policy("denying", ioperm=["edit_map"]), after=MAP)
    denying.do("io", 0, 0, 1, costs="gp_fault", io_denied=1, denials=1)
    denying.do("io", 0, 8, 1, costs="gp_fault", io_denied=1)


@pytest.mark.parametrize(
    ("policy", "bitmap"),
    [
        ("eager", "wipe_base wipe_line"),
        ("deferred", "wipe_base wipe_line"),
        ("exit-to-user", "base"),
        ("every-exit", "wipe_base wipe_line"),
    ],
)
def test_task_exit(policy, bitmap):
    wipes = {} if policy == "exit-to-user" else dict(map_wipes=1)
    left = dict(map_max=8, map_seq=1, io_base=INVALID) if policy == "exit-to-user" else {}
    checked = Checked(policy, after=MAP)
    checked.do("task_exit", 0, costs=f"{bitmap} switch", switches=1, **wipes)
    checked.cpu(0, **left)
    checked.task(0)

    checked = Checked(policy, after=[*MAP, ("exit", 0, "light")])
    reload = "gdt_write ltr switch_overlap"
    checked.do(
        "task_exit",
        *(0,),
        costs=f"irq_exit host_restore {reload} {bitmap} switch",
        **dict(exits=1, puts=1, reloads=1, switches=1) | wipes,
    )
    checked.cpu(0, **left)
    checked.task(0)
    assert checked.machine.task_map(0) is None
    assert (checked.machine.tss_map[0, 1:] == 255).all()
    checked.do("switch", 1, 0, costs="switch", switches=1)  # a new task: no migration


def test_task_exit_without_a_bitmap():
    checked = Checked("deferred", after=[("switch", 0, 0)])
    checked.do("task_exit", 0, costs="switch", switches=1)
    checked = Checked("deferred", after=[("switch", 0, 0), ("exit", 0, "light")])
    events = dict(exits=1, puts=1, marks=1, switches=1)
    checked.do("task_exit", 0, costs="irq_exit host_restore mark switch", **events)
    checked.cpu(0, tr_limit=MIN, limit_stale=1)


def test_task_exit_ends_what_the_policy_leaves():
    checked = Checked(Policy("none", ioperm=["set_tif", "edit_map"]), after=MAP)
    checked.task(0, tif=1, has_map=1, max=8, seq=1, last_cpu=0)
    checked.do("task_exit", 0, costs="switch", switches=1)
    checked.task(0)


def test_advance():
    checked = Checked()
    checked.do("advance", 0, 1000, costs="idle")
    checked.machine.switch(0, 0)
    checked.batch.switch(0, 0)
    checked.do("advance", 0, 1000, costs="work")
    checked.do("exit", 0, "light", costs="host_save light", exits=1, host_saves=1)
    checked.do("advance", 0, 1000, costs="guest")
    events = dict(exits=1, user_exits=1, puts=1, marks=1)
    checked.do("exit", 0, "user", costs="user host_restore mark userspace", **events)
    checked.do("advance", 0, 1000, costs="work")
    checked.do("advance", 1, 1000, costs="idle")
    checked.do("advance", 0, 0)
    assert checked.machine.advance(1, 2**31 - 1) == 2**31 - 1


USER = "host_save user host_restore userspace"
USER_EVENTS = dict(exits=1, user_exits=1, host_saves=1, puts=1)


def test_ltr_of_a_busy_descriptor_faults():
    checked = Checked(Policy("busy", vcpu_put=["ltr"]), after=[("switch", 0, 0)])
    for _ in range(2):
        checked.do("exit", 0, "user", costs=USER, faults=1, **USER_EVENTS)
        checked.cpu(0, task=0, tr_limit=MIN)
    late = Policy("late", vcpu_put=["ltr", "mark_available"])
    checked = Checked(late, after=[("switch", 0, 0)])
    checked.do("exit", 0, "user", costs=f"{USER} gdt_write", faults=1, **USER_EVENTS)
    checked.cpu(0, task=0, tr_limit=MIN, tss_busy=0)
    reload = f"{USER} gdt_write ltr user_overlap"
    checked.do("exit", 0, "user", costs=reload, reloads=1, **USER_EVENTS)
    checked.cpu(0, task=0, tss_busy=0)


def test_reload_in_steps_keeps_stale():
    policy = Policy("steps", vcpu_put=["mark_stale", ["mark_available", "ltr"]])
    checked = Checked(policy, after=[("switch", 0, 0)])
    costs = f"{USER} mark gdt_write ltr user_overlap"
    checked.do("exit", 0, "user", costs=costs, marks=1, reloads=1, **USER_EVENTS)
    checked.cpu(0, task=0, limit_stale=1)


# The port check


def bitmap(*granted):
    bits = np.ones(8193 * 8, np.uint8)
    for ports in granted:
        bits[ports] = 0
    return np.packbits(bits, bitorder="little")


ALL = bitmap(slice(0, 65536))


@pytest.mark.parametrize(
    ("granted", "port", "width", "allowed"),
    [
        # The last byte and the terminator after it.
        (ALL, 0xFFFF, 1, True),
        (ALL, 0xFFFF, 2, False),
        (ALL, 0xFFFF, 4, False),
        (ALL, 0xFFFE, 2, True),
        (ALL, 0xFFFE, 4, False),
        (ALL, 0xFFFD, 4, False),
        (ALL, 0xFFFC, 4, True),
        (bitmap(0xFFFF), 0xFFFF, 1, True),
        (bitmap(slice(0, 0xFFFF)), 0xFFFF, 1, False),
        # Across two bytes.
        (bitmap(7, 8), 7, 2, True),
        (bitmap(7), 7, 2, False),
        (bitmap(8), 7, 2, False),
        (bitmap(slice(5, 9)), 5, 4, True),
        (bitmap(slice(7, 11)), 7, 4, True),
        (bitmap(slice(7, 10)), 7, 4, False),
        # One set bit among four denies all.
        *((bitmap(*({8, 9, 10, 11} - {port})), 8, 4, False) for port in (8, 9, 10, 11)),
        (bitmap(8, 9, 10, 11), 8, 4, True),
        (bitmap(8), 8, 1, True),
        (bitmap(9), 8, 1, False),
    ],
)
def test_port_check(granted, port, width, allowed):
    for n in (1, 2**19):  # many checks are done in another way than few
        found = port_check(FULL, VALID, granted, np.full(n, port, np.uint16), width)
        assert (found == allowed).all()
    # 104 bytes of hardware TSS are left of the segment after a VM exit.
    assert not port_check(MIN, VALID, granted, [port], [width])[0]
    assert not port_check(FULL, INVALID, granted, [port], [width])[0]


@pytest.mark.parametrize(
    ("limit", "base", "usable"),
    [
        (0x68 + 10, 0x68, 80),  # the SDM's example: 11 bytes, the last one never usable
        (0x68 + 11, 0x68, 88),
        (0x69, 0x68, 8),  # the second byte of port 0 is the last one inside
        (0x68, 0x68, 0),
        (MIN, VALID, 0),
        (FULL, VALID, 65536),
        (0x68 + 8192, VALID, 65536),
        (0x68 + 8191, VALID, 65528),
        (FULL, INVALID, 0),
        (FULL, 0x206E, 8),
        (FULL, 0x206F, 0),
        (FULL, 65535, 0),
        (0, 0, 0),
        (1, 0, 8),
        (2**32 - 1, 65535, 65536),
        (2**32 - 1, 0, 65536),
    ],
)
def test_port_check_limit(limit, base, usable):
    ports = np.arange(65536, dtype=np.uint16)
    for checked in (ports, np.tile(ports, 8)):
        allowed = port_check(limit, base, ALL, checked, 1)
        assert allowed.dtype == np.bool_
        assert np.array_equal(allowed, checked < usable)


def test_port_check_of_every_port_and_width():
    bits = np.random.default_rng(1).random(65536 + 8) < 0.3
    bits[65536:] = True
    granted = np.packbits(bits, bitorder="little")
    widths = np.array([[1], [2], [4]])
    expected = [~np.any([bits[i : i + 65536] for i in range(width)], axis=0) for width in (1, 2, 4)]
    assert np.array_equal(port_check(FULL, VALID, granted, np.arange(65536), widths), expected)
    few = [port_check(FULL, VALID, granted, p, widths) for p in np.arange(65536).reshape(64, -1)]
    assert np.array_equal(np.concatenate(few, axis=1), expected)


def test_port_check_reads_the_terminator():
    assert port_check(FULL, VALID, np.zeros(8193, np.uint8), 65535, 4)


PORTS, WIDTHS = [[0], [7], [8]], [1, 2]
GRID = [[True, True], [True, False], [False, False]]  # ports 0 to 7 granted


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int64, ">u2", np.int32])
def test_ports_and_widths_broadcast(order, dtype):
    made = machine("eager", after=MAP)
    ports = np.array(PORTS, dtype, order=order)
    grid = np.array(np.broadcast_to(ports, (3, 2)), order=order)
    for allowed in (
        made.io_allowed(0, ports, WIDTHS),
        made.io_allowed(0, grid, np.array(WIDTHS, dtype)),
        made.io_allowed(0, grid[::-1], WIDTHS)[::-1],
        port_check(FULL, VALID, bitmap(slice(0, 8)), PORTS, WIDTHS),
        port_check(FULL, VALID, bitmap(slice(0, 8)).tolist(), grid, WIDTHS),
    ):
        assert allowed.tolist() == GRID
    assert made.io_allowed(0, 7, 1).shape == ()
    assert made.io_allowed(0, 7, 1)
    assert not made.io_allowed(1, 7, 1)


@pytest.mark.parametrize(
    ("ports", "widths", "shape"),
    [([], [], (0,)), ([], 1, (0,)), (np.zeros((0, 3), np.uint16), [1, 2, 4], (0, 3))],
)
def test_no_ports(ports, widths, shape):
    for allowed in (port_check(FULL, VALID, ALL, ports, widths),):
        assert (allowed.shape, allowed.dtype) == (shape, np.bool_)
    assert machine().io_allowed(0, ports, widths).shape == shape


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (dict(widths=[1, 3]), ValueError, "widths holds 3, not 1, 2 or 4"),
        (dict(widths=0), ValueError, "widths holds 0, not 1, 2 or 4"),
        (dict(widths=[4] * 2**19 + [7], ports=0), ValueError, "widths holds 7, not 1, 2 or 4"),
        (dict(widths=255), ValueError, "widths holds 255, not 1, 2 or 4"),
        (dict(widths=257), ValueError, "widths holds 257, not in 0 to 255"),
        (dict(widths=-1), ValueError, "widths holds -1, not in 0 to 255"),
        (dict(widths=1.0), TypeError, "widths holds float64, not integers"),
        (dict(widths=None), TypeError, "widths holds object, not integers"),
        (dict(ports=[0, 65536]), ValueError, "ports holds 65536, not in 0 to 65535"),
        (dict(ports=[-1, 0]), ValueError, "ports holds -1, not in 0 to 65535"),
        (dict(ports=[0.5]), TypeError, "ports holds float64, not integers"),
        (dict(ports=["0"]), TypeError, "ports holds <U1, not integers"),
        (dict(ports=[2**70]), TypeError, "ports holds object, not integers"),
        (dict(tss_map=ALL[:-1]), ValueError, r"tss_map has shape \(8192,\), not \(8193,\)"),
        (dict(tss_map=ALL[None]), ValueError, r"tss_map has shape \(1, 8193\), not \(8193,\)"),
        (dict(tss_map=ALL.astype(float)), TypeError, "tss_map holds float64, not integers"),
        (dict(tss_map=np.full(8193, 256)), ValueError, "tss_map holds 256, not in 0 to 255"),
        (dict(tr_limit=2**32), ValueError, "tr_limit is 4294967296, not in 0 to 4294967295"),
        (dict(tr_limit=-1), ValueError, "tr_limit is -1, not in 0"),
        (dict(tr_limit=1.0), TypeError, "tr_limit is 1.0, not an integer"),
        (dict(io_base=65536), ValueError, "io_base is 65536, not in 0 to 65535"),
        (dict(io_base=None), TypeError, "io_base is None, not an integer"),
    ],
)
def test_port_check_rejects(changed, error, message):
    arguments = dict(tr_limit=FULL, io_base=VALID, tss_map=ALL, ports=[1], widths=[1])
    with pytest.raises(error, match=message):
        port_check(**arguments | changed)
    if set(changed) <= {"ports", "widths"}:
        with pytest.raises(error, match=message):
            machine().io_allowed(0, **dict(ports=[1], widths=[1]) | changed)


# Policies with a mistake in them

P = 0x3F8
SWITCHED = [("switch", 0, 0), ("ioperm", 0, P, 1)]
LOADED = [*SWITCHED, ("io", 0, P, 1)]
LEFT = [*SWITCHED, ("switch", 0, 1), ("io", 0, P, 1)]
RETURNED = [*SWITCHED, ("exit", 0, "user"), ("io", 0, P, 1)]
AFTER_ANOTHER = [("switch", 0, 1), ("exit", 0, "user"), ("switch", 0, 0), ("io", 0, P, 1)]
AFTER_ANOTHER = [*SWITCHED, *AFTER_ANOTHER]
AFTER_PREEMPTED = [("switch", 0, 1), ("exit", 0, "light"), ("switch", 0, 0), ("io", 0, P, 1)]
AFTER_PREEMPTED = [*SWITCHED, *AFTER_PREEMPTED]
LATE = [("switch", 0, 0), ("exit", 0, "user"), ("ioperm", 0, P, 1), ("io", 0, P, 1)]
HISTORIES = [LOADED, LEFT, RETURNED, AFTER_ANOTHER, AFTER_PREEMPTED, LATE]

COPY, WIPE = "copy_map if next.tif", "wipe_map if prev.tif and not next.tif"
BY_TIF = "{} if tif", "mark_stale if not tif"
SYNC, VALIDATE, REFRESH = "sync_map if tif", "validate_base if tif", "refresh if tif"
DENIED, LEAKED, FAULTED = dict(denials=1), dict(leaks=1), dict(faults=1)

MUTANTS = {
    # (ii) no refresh on switch-in
    "ii deferred": ("deferred", dict(switch=[COPY, WIPE]), AFTER_ANOTHER, DENIED),
    "ii exit-to-user": (
        *("exit-to-user", dict(exit_to_user=[SYNC, VALIDATE]), AFTER_ANOTHER, DENIED),
    ),
    # (iii) no refresh in ioperm()
    "iii deferred": (
        "deferred",
        dict(ioperm=["alloc_map", "set_tif if first", "edit_map", "load_map"]),
        *(LATE, DENIED),
    ),
    "iii exit-to-user": ("exit-to-user", dict(exit_to_user=[SYNC, VALIDATE]), LATE, DENIED),
    # (iv) the put marks stale for everybody
    "iv deferred": ("deferred", dict(vcpu_put=["mark_stale"]), RETURNED, DENIED),
    # (v) clear_stale in place of the reload, in the put and in the refresh
    "v deferred": (
        *("deferred", dict(vcpu_put=["clear_stale if tif", BY_TIF[1]]), RETURNED, DENIED),
    ),
    "v deferred, switch": (
        *("deferred", dict(switch=[COPY, "clear_stale if next.tif", WIPE]), AFTER_ANOTHER, DENIED),
    ),
    "v exit-to-user": (
        *("exit-to-user", dict(vcpu_put=["clear_stale if tif", BY_TIF[1]]), RETURNED, DENIED),
    ),
    "v eager": ("eager", dict(vcpu_put=["clear_stale"]), RETURNED, DENIED),
    # (vi) LTR without mark_available: it faults, and does not raise the limit
    "vi eager": ("eager", dict(vcpu_put=["ltr"]), RETURNED, FAULTED | DENIED),
    "vi deferred": (
        *("deferred", dict(vcpu_put=["ltr if tif", BY_TIF[1]]), RETURNED, FAULTED | DENIED),
    ),
    "vi every-exit": ("every-exit", dict(vm_exit=["ltr"]), RETURNED, FAULTED | DENIED),
    # (vii) no wipe on switch-out
    "vii eager": ("eager", dict(switch=[COPY]), LEFT, LEAKED),
    "vii deferred": ("deferred", dict(switch=[COPY, "refresh if next.tif"]), LEFT, LEAKED),
    "vii every-exit": ("every-exit", dict(switch=[COPY]), LEFT, LEAKED),
    # (viii) no invalidate_base on switch-out
    "viii exit-to-user": ("exit-to-user", dict(switch=[]), LEFT, LEAKED),
    # (ix) the put hook left out when scheduled out, or when returning to userspace
    "ix eager, out": ("eager", dict(vcpu_put=["reload if not sched"]), AFTER_PREEMPTED, DENIED),
    "ix eager, user": ("eager", dict(vcpu_put=["reload if sched"]), RETURNED, DENIED),
    **{
        f"ix {policy}, {where}": (
            policy,
            dict(vcpu_put=[f"reload if tif and {when}", f"mark_stale if not tif and {when}"]),
            *(history, DENIED),
        )
        for policy in ("deferred", "exit-to-user")
        for where, when, history in (
            ("out", "not sched", AFTER_PREEMPTED),
            ("user", "sched", RETURNED),
            ("user, another's", "sched", AFTER_ANOTHER),
        )
    },
    # (x) no mark at all
    "x deferred": ("deferred", dict(vcpu_put=["reload if tif"]), AFTER_ANOTHER, DENIED),
    "x exit-to-user": ("exit-to-user", dict(vcpu_put=["reload if tif"]), AFTER_ANOTHER, DENIED),
    # (xi) no sync
    "xi exit-to-user": ("exit-to-user", dict(exit_to_user=[VALIDATE, REFRESH]), LOADED, DENIED),
}


def wrongs(made):
    counters = made.counters
    found = {name: int(counters[name].sum()) for name in ("faults", "leaks", "denials")}
    return {name: times for name, times in found.items() if times}


@pytest.mark.parametrize(("base", "hooks", "history", "expected"), MUTANTS.values(), ids=MUTANTS)
def test_mutant(base, hooks, history, expected):
    mutant = replace(policies()[base], name="mutant", **hooks)
    assert wrongs(machine(mutant, after=history)) == expected
    assert wrongs(machine(base, after=history)) == {}


HARMLESS = {
    "deferred, reload": ("deferred", dict(vcpu_put=["reload"])),
    "exit-to-user, reload": ("exit-to-user", dict(vcpu_put=["reload"])),
    "deferred, mark": (
        "deferred",
        dict(vcpu_put=["mark_stale if sched", "stop if sched", "reload if tif", BY_TIF[1]]),
    ),
    "exit-to-user, mark": ("exit-to-user", dict(vcpu_put=["mark_stale"])),
    **{policy: (policy, {}) for policy in POLICIES},
}


@pytest.mark.parametrize("vendor", ["vmx", "svm"])
@pytest.mark.parametrize(("base", "hooks"), HARMLESS.values(), ids=HARMLESS)
def test_harmless(base, hooks, vendor):
    policy = replace(policies()[base], name="harmless", **hooks)
    for history in HISTORIES:
        assert wrongs(machine(policy, vendor, after=history)) == {}
    made, rng = machine(policy, vendor), random.Random(1)
    for _ in range(3000):
        cpu, port = rng.randrange(2), rng.choice((0, 7, 63, 64, 65535))
        name, *args = rng.choice(
            [
                ("exit", rng.choice(KIND_NAMES)),
                ("exit", "user"),
                ("switch", rng.randrange(-1, 3)),
                ("ioperm", port, 1, rng.random() < 0.6),
                ("io", port, 1),
                ("io", port, 2),
                ("task_exit",) if rng.random() < 0.1 else ("advance", 1),
            ]
        )
        try:
            getattr(made, name)(cpu, *args)
        except OperationError:
            continue
    assert wrongs(made) == {}
    assert made.counters["io_allowed"].min() > 20


# run()

HISTORY = [
    *(("switch", 0, 0), ("io", 0, 0, 1), ("ioperm", 0, 0, 8), ("io", 0, 0, 1), ("io", 0, 7, 2)),
    *(("switch", 1, 1), ("exit", 0, "light"), ("exit", 1, "user"), ("exit", 0, "light")),
    *(("exit", 0, "light"), ("exit", 0, "user"), ("io", 0, 0, 4), ("advance", 0, 5)),
    *(("ioperm", 0, 0, 1, False), ("io", 0, 0, 1), ("task_exit", 1), ("switch", 1, 2)),
]


@pytest.mark.parametrize("policy", POLICIES)
def test_run_is_the_operations_one_by_one(policy):
    one, many = machine(policy), machine(policy)
    results, spent = [], []
    for name, *args in HISTORY:
        done = getattr(one, name)(*args)
        results.append(int(done[0]) if name == "io" else 0)
        spent.append(done[1] if name == "io" else done)
    out = np.zeros(len(HISTORY), np.uint64)
    ops = np.array([op(*step) for step in HISTORY], OP_DTYPE)
    got = many.run(ops, cycles_out=out)
    assert (got.dtype, out.tolist()) == (np.uint8, spent)
    assert results == got.tolist() == [0, 0, 0, 1] + [0] * 7 + [1] + [0] * 5
    assert core_state(one) == core_state(many)


@pytest.mark.parametrize(
    "as_array",
    [
        lambda ops: ops,
        lambda ops: np.array(ops, OP_DTYPE)[::-1].copy()[::-1],
        lambda ops: np.repeat(np.array(ops, OP_DTYPE), 2)[::2],
        lambda ops: np.array(ops, OP_DTYPE).view(np.recarray),
    ],
    ids=["list", "backwards", "strided", "recarray"],
)
def test_run_takes(as_array):
    ops = as_array([op(*step) for step in HISTORY])
    made = machine()
    made.run(ops)
    assert core_state(made) == core_state(machine(after=HISTORY))


def test_run_takes_a_read_only_array():
    ops = np.array([op("advance", 0, 3)], OP_DTYPE)
    ops.flags.writeable = False
    assert machine().run(ops).tolist() == [0]


def test_run_of_nothing():
    made = machine()
    for ops in ([], np.zeros(0, OP_DTYPE)):
        got = made.run(ops, cycles_out=np.zeros(0, np.uint64))
        assert (got.shape, got.dtype) == ((0,), np.uint8)
    assert core_state(made) == core_state(machine())


def test_run_ignores_unused_fields():
    ops = np.array([op(*step) for step in HISTORY], OP_DTYPE)
    used = {"exit": "a", "switch": "a", "ioperm": "ab", "io": "a", "task_exit": "", "advance": "a"}
    for i, (name, *_) in enumerate(HISTORY):
        for field in "abc":
            if field not in used[name]:
                ops[field][i] = -7
        if name not in ("ioperm", "io"):
            ops["arg"][i] = 200
        elif name == "ioperm" and ops["arg"][i]:
            ops["arg"][i] = 255
    made = machine()
    made.run(ops)
    assert core_state(made) == core_state(machine(after=HISTORY))


def test_run_counts_equal_exits():
    """A long run of equal EXITs, one that ends at a change of CPU, kind, or of the array."""
    ops = np.zeros(30_000, OP_DTYPE)
    ops["a"] = 1
    ops["a"][10_000:10_003] = 2
    ops["cpu"][20_000:25_000] = 1
    made = machine(after=[("switch", 0, 0), ("switch", 1, 1)])
    spent = np.zeros(len(ops), np.uint64)
    made.run(ops, cycles_out=spent)
    expected = np.full(len(ops), cycles("light"), np.uint64)
    expected[[0, 10_003, 20_000]] = cycles("host_save light")
    expected[10_000] = cycles("user host_restore mark userspace")
    expected[10_001:10_003] = cycles("host_save user host_restore mark userspace")
    assert spent.tolist() == expected.tolist()
    assert made.counters["exits"].tolist() == [25_000, 5_000]
    on_cpu_1 = expected[20_000:25_000].sum()
    sums = [expected.sum() - on_cpu_1, on_cpu_1]
    assert made.cpu["cycles"].tolist() == [cycles("switch") + int(total) for total in sums]


@pytest.mark.parametrize(
    ("ops", "error", "message"),
    [
        (np.zeros(2), TypeError, "ops is an array of float64, not of OP_DTYPE"),
        (np.zeros((2, 6), np.int32), TypeError, "ops is an array of int32, not of OP_DTYPE"),
        (np.zeros(2, OP_DTYPE.newbyteorder()), TypeError, "not of OP_DTYPE"),
        (np.zeros(2, OP_DTYPE)[["code", "cpu"]], TypeError, "not of OP_DTYPE"),
        (np.zeros((2, 1), OP_DTYPE), ValueError, "ops has 2 dimensions, not 1"),
        (np.zeros((), OP_DTYPE), ValueError, "ops has 0 dimensions, not 1"),
        (7, ValueError, "ops cannot be made an array of OP_DTYPE"),
        ([1], ValueError, "ops cannot be made an array of OP_DTYPE"),
        ([(5, 0, 0, 1.7, 0, 0)], ValueError, "ops cannot be made an array of OP_DTYPE"),
        (None, ValueError, "ops cannot be made an array of OP_DTYPE"),
        ("advance", ValueError, "ops cannot be made an array of OP_DTYPE"),
        ([(5, 0, 0)], ValueError, "ops cannot be made an array of OP_DTYPE"),
        ([(5, 0, 0, 2**31, 0, 0)], ValueError, "ops cannot be made an array of OP_DTYPE"),
        ([(256, 0, 0, 0, 0, 0)], ValueError, "ops cannot be made an array of OP_DTYPE"),
        ([(5, 0, -1, 0, 0, 0)], ValueError, "ops cannot be made an array of OP_DTYPE"),
        ([(5, 0, 0, None, 0, 0)], ValueError, "ops cannot be made an array of OP_DTYPE"),
    ],
)
def test_run_rejects_ops(ops, error, message):
    made = machine()
    with pytest.raises(error, match=message):
        made.run(ops)
    assert core_state(made) == core_state(machine())


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.zeros(2, np.uint32), r"cycles_out is not an array of uint64 of shape \(2,\)"),
        (np.zeros(2, np.int64), "cycles_out is not an array of uint64"),
        (np.zeros(2, ">u8"), "cycles_out is not an array of uint64"),
        (np.zeros(3, np.uint64), r"cycles_out is not an array of uint64 of shape \(2,\)"),
        (np.zeros((2, 1), np.uint64), "cycles_out is not an array of uint64"),
        ([0, 0], "cycles_out is not an array of uint64"),
        (np.zeros(4, np.uint64)[::2], "cycles_out is not contiguous and writable"),
        (np.frombuffer(bytes(16), np.uint64), "cycles_out is not contiguous and writable"),
    ],
)
def test_run_rejects_cycles_out(out, message):
    made = machine()
    with pytest.raises(ValueError, match=message):
        made.run([op("advance", 0, 1)] * 2, cycles_out=out)
    assert core_state(made) == core_state(machine())


# CPU 0 runs task 0 in userspace, CPU 1 is idle.
IN_USE = [("switch", 0, 0), ("advance", 0, 7)]
REFUSED = {
    (9, 0, 0, 0, 0, 0): "code is 9, not in 0 to 8",
    (255, 0, 0, 0, 0, 0): "code is 255, not in 0 to 8",
    **{(code, 1, 2, 0, 1, 0): "cpu is 2, not in 0 to 1" for code in range(6)},
    (Op.EXIT, 0, 0, 3, 0, 0): "kind is 3, not in 0 to 2",
    (Op.EXIT, 0, 0, -1, 0, 0): "kind is -1, not in 0 to 2",
    (Op.EXIT, 0, 1, 0, 0, 0): "cpu 1 is idle",
    (Op.SWITCH, 0, 0, 3, 0, 0): "task is 3, not in -1 to 2",
    (Op.SWITCH, 0, 0, -2, 0, 0): "task is -2, not in -1 to 2",
    (Op.SWITCH, 0, 1, 0, 0, 0): "task 0 runs on cpu 0",
    (Op.IOPERM, 1, 0, -1, 1, 0): "first is -1, count 1: not 1 or more of ports 0 to 65535",
    (Op.IOPERM, 1, 0, 0, 0, 0): "first is 0, count 0: not 1 or more",
    (Op.IOPERM, 1, 0, 5, -1, 0): "first is 5, count -1: not 1 or more",
    (Op.IOPERM, 1, 0, 1, 65536, 0): "first is 1, count 65536: not 1 or more",
    (Op.IOPERM, 1, 0, 65536, 1, 0): "first is 65536, count 1: not 1 or more",
    (Op.IOPERM, 1, 0, 2**31 - 1, 2**31 - 1, 0): "first is 2147483647, count 2147483647: not",
    (Op.IOPERM, 1, 1, 0, 1, 0): "cpu 1 is idle",
    (Op.IO, 1, 0, -1, 0, 0): "port is -1, not in 0 to 65535",
    (Op.IO, 1, 0, 65536, 0, 0): "port is 65536, not in 0 to 65535",
    (Op.IO, 0, 0, 0, 0, 0): "width is 0, not 1, 2 or 4",
    (Op.IO, 3, 0, 0, 0, 0): "width is 3, not 1, 2 or 4",
    (Op.IO, 1, 1, 0, 0, 0): "cpu 1 is idle",
    (Op.TASK_EXIT, 0, 1, 0, 0, 0): "cpu 1 is idle",
    (Op.ADVANCE, 0, 0, -1, 0, 0): "cycles is -1, not in 0 to 2147483647",
    (Op.FORK, 0, 0, 3, 0, 0): "child is 3, not in 0 to 2",
    (Op.FORK, 0, 0, 0, 0, 0): "task 0 is not new: it runs, or has TIF",
    (Op.IOPL, 0, 0, 4, 0, 0): "level is 4, not in 0 to 3",
    (Op.EXEC, 0, 1, 0, 0, 0): "cpu 1 is idle",
}


def one_by_one(made, code, arg, cpu, a, b, c):
    """Do an operation through its own method."""
    args = {Op.IOPERM: (a, b, arg), Op.IO: (a, arg), Op.TASK_EXIT: (), Op.EXEC: ()}.get(code, (a,))
    return getattr(made, Op(code).name.lower())(cpu, *args)


@pytest.mark.parametrize(("refused", "reason"), REFUSED.items())
def test_refused(refused, reason):
    made, before = machine(), core_state(machine(after=IN_USE))
    ops = [*(op(*step) for step in IN_USE), refused, op("advance", 0, 9)]
    out = np.full(4, 99, np.uint64)
    with pytest.raises(OperationError) as caught:
        made.run(ops, cycles_out=out)
    assert caught.value.index == 2
    assert caught.value.reason.startswith(reason)
    assert str(caught.value) == f"operation 2: {caught.value.reason}"
    assert out.tolist() == [cycles("switch"), 7, 99, 99]
    assert core_state(made) == before
    if refused[0] < 6:
        with pytest.raises(OperationError) as single:
            one_by_one(made, *refused)
        assert (single.value.index, single.value.reason) == (0, caught.value.reason)
        assert core_state(made) == before
    assert made.advance(0, 9) == 9


@pytest.mark.parametrize("do", [("ioperm", 0, 0, 1), ("io", 0, 0, 1)])
def test_refused_inside_kvm_run(do):
    made = machine(after=[*IN_USE, ("exit", 0, "light")])
    before = core_state(made)
    with pytest.raises(OperationError, match="operation 1: the task on cpu 0 is inside KVM_RUN"):
        made.run([op("advance", 0, 0), op(*do)])
    with pytest.raises(OperationError, match="operation 0: the task on cpu 0 is inside KVM_RUN"):
        getattr(made, do[0])(*do[1:])
    assert core_state(made) == before


# The clock's limit: above 2**62 cycles no operation begins


def test_clock_limit():
    made = machine(after=[("switch", 0, 0)])
    above = r"the clock of cpu 0 is above 2\*\*62 cycles"
    with pytest.raises(OperationError, match=above) as caught:
        made.repeat_exit(0, "light", 2**63 - 1)
    # switch and host_save are 130 cycles, so the EXIT of number 2**46 begins 2**16 - 130 below.
    assert caught.value.index == 2**46
    assert made.cpu["cycles"][0] == 2**62 + cycles("switch host_save")
    counters = made.counters[0]
    assert counters["exits"] == 2**46
    assert counters["c_exit"] == 2**46 * 2**16
    stepped = machine(after=[("switch", 0, 0)])
    stepped.repeat_exit(0, "light", 2**46)
    assert core_state(made) == core_state(stepped)

    before = core_state(made)
    for refused in (
        *(("exit", 0, "light"), ("exit", 0, "user"), ("switch", 0, 0), ("switch", 0, 1)),
        *(("switch", 0, -1), ("task_exit", 0), ("advance", 0, 0), ("advance", 0, 1)),
    ):
        with pytest.raises(OperationError, match=f"operation 0: {above}"):
            getattr(made, refused[0])(*refused[1:])
        with pytest.raises(OperationError, match=f"operation 1: {above}"):
            made.run([op("advance", 1, 0), op(*refused)])
        assert core_state(made) == before
    assert made.repeat_exit(0, "light", 0) == 0
    assert made.advance(1, 1) == 1  # each CPU has a separate clock


def test_the_collector_frees_a_machine_before_its_records():
    """Of a dict, which Python 3.14 always tracks, it may free the arrays before the machine."""
    program = """if True:
        import gc
        from kvmbench import Machine
        class Box: pass
        box = Box()
        made = Machine(1, 200_000, "deferred", "patch-2017")  # unmapped when it is freed
        held = gc.get_referents(made)
        print([sorted(held_by) for held_by in held if isinstance(held_by, dict) and
               any(hasattr(value, "dtype") for value in held_by.values())])
        later = Box()
        later.made, later.box, box.later = made, box, later
        del made, held, box, later
        gc.collect()
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def at_clock(clock):
    """Return a machine whose CPU 0 is at `clock`; task 0 may use ports 0 to 7."""
    made = machine("eager", after=MAP)
    made.repeat_exit(0, "user", (clock - 2**33) // cycles(f"{USER} gdt_write ltr user_overlap"))
    while rest := clock - int(made.cpu["cycles"][0]):
        made.advance(0, min(rest, 2**31 - 1))
    return made


@pytest.mark.parametrize(
    ("do", "costs"),
    [
        (("exit", 0, "light"), "host_save light"),
        (("exit", 0, "user"), f"{USER} gdt_write ltr user_overlap"),
        (("switch", 0, 0), ""),
        (("switch", 0, 1), "wipe_base wipe_line switch"),
        (("switch", 0, -1), "wipe_base wipe_line switch"),
        (("ioperm", 0, 65535, 1), "ioperm copy_base copy_line*128"),
        (("ioperm", 0, 0, 1, False), "ioperm copy_base copy_line"),
        (("io", 0, 0, 1), "io"),
        (("io", 0, 8, 1), "gp_fault"),
        (("task_exit", 0), "wipe_base wipe_line switch"),
        (("advance", 0, 0), ""),
        (("advance", 0, 1000), "work"),
    ],
)
def test_last_operation_of_a_clock(do, costs):
    made = at_clock(2**62)
    made.run([op(*do)])
    assert made.cpu["cycles"][0] == 2**62 + cycles(costs)
    made = at_clock(2**62 + 1)
    before = core_state(made)
    for refuse in (lambda: made.run([op(*do)]), lambda: getattr(made, do[0])(*do[1:])):
        with pytest.raises(OperationError, match=r"the clock of cpu 0 is above 2\*\*62 cycles"):
            refuse()
        assert core_state(made) == before
    made.run([op("switch", 1, 1), op("ioperm", 1, 0, 1)])
    assert made.task["seq"].tolist() == [1, 2, 0]  # a refused ioperm() takes no number


@pytest.mark.parametrize("short", [0, 1, 2**16 - 1, 2**16, 2**16 + 1, 9 * 2**16, 10 * 2**16])
def test_equal_exits_up_to_the_clock_limit(short):
    """Of equal EXITs in one run(), as many are done as begin at 2**62 or below."""
    done = short // 2**16 + 1
    made = at_clock(2**62 - short - cycles("host_save light"))
    made.exit(0, "light")
    counters = made.counters["c_exit"][0]
    out = np.zeros(20, np.uint64)
    with pytest.raises(OperationError, match="above") as caught:
        made.run([op("exit", 0, "light")] * 20, cycles_out=out)
    assert caught.value.index == done
    assert out.tolist() == [2**16] * done + [0] * (20 - done)
    assert made.cycles(0) == 2**62 - short + done * 2**16
    assert made.counters["c_exit"][0] == counters + done * 2**16


@pytest.mark.parametrize("short", [0, 1, 2**16, 5000 * 2**16])
def test_equal_exits_past_half_the_clock_limit(short):
    """Above 2**61 cycles equal EXITs are done one by one; nothing else changes."""
    made = at_clock(2**61 - short - cycles("host_save light"))
    made.exit(0, "light")
    out = np.zeros(10_000, np.uint64)
    made.run([op("exit", 0, "light")] * 10_000, cycles_out=out)
    assert out.tolist() == [2**16] * 10_000
    assert made.cycles(0) == 2**61 - short + 10_000 * 2**16


@pytest.mark.parametrize("short", [0, 1, 2**16, 2**17 + 2**5, 2**17 + 2**5 - 1, 3 * 2**17, 10**7])
def test_rounds_up_to_the_clock_limit(short):
    """repeat_exit() of a round of two EXITs that cost 2**16 + 2**5 and 2**16, in turn."""
    made = machine(TOGGLE, after=[("switch", 0, 0), ("exit", 0, "light")])
    while rest := 2**62 - short - made.cycles(0):
        made.repeat_exit(0, "light", rest // 2**17)
        made.advance(0, min(2**62 - short - made.cycles(0), 2**31 - 1))
    clock, done = 2**62 - short, 0
    marks, stale = made.count(0, "marks"), bool(made.cpu["limit_stale"][0])
    while clock <= 2**62:
        clock += 2**16 if (done % 2 == 0) == stale else 2**16 + 2**5
        done += 1
    with pytest.raises(OperationError, match="above") as caught:
        made.repeat_exit(0, "light", 10**15)
    assert caught.value.index == done
    assert made.cycles(0) == clock
    assert made.count(0, "marks") == marks + (done + (not stale)) // 2


# repeat_exit()


@pytest.mark.parametrize("n", [0, 1, 2, 3, 1000, 10**12])
def test_repeat_exit(n):
    made = machine("deferred", after=[("switch", 0, 0)])
    each = cycles("host_save user host_restore mark userspace")
    assert made.repeat_exit(0, "user", n) == n * each
    assert made.cpu["cycles"][0] == cycles("switch") + n * each
    counters = made.counters[0]
    events = dict(exits=n, user_exits=n, host_saves=n, puts=n, marks=n, switches=1)
    causes = dict(c_exit=2**18, c_user=2**19, c_host=2 + 4, c_tr=2**5)
    expected = events | {cause: n * cost for cause, cost in causes.items()} | dict(c_switch=2**7)
    assert {name: counters[name] for name in COUNTERS if counters[name]} == {
        name: times for name, times in expected.items() if times
    }


def test_repeat_exit_saves_once():
    made = machine("every-exit", after=[("switch", 0, 0)])
    each = cycles("light gdt_write ltr light_overlap")
    assert made.repeat_exit(0, 1, 10**12) == cycles("host_save") + 10**12 * each
    assert made.repeat_exit(0, 1, 10**12) == 10**12 * each
    assert made.counters["reloads"][0] == 2 * 10**12


@pytest.mark.parametrize("policy", ["eager", "deferred", "every-exit"])
def test_repeat_exit_with_a_bitmap(policy):
    made = machine(policy, after=MAP)
    each = cycles("host_save user host_restore gdt_write ltr user_overlap userspace")
    assert made.repeat_exit(0, "user", 10**12) == 10**12 * each
    assert made.counters["reloads"][0] == 10**12
    assert made.io(0, 0, 1) == (True, COSTS.io)


def test_repeat_exit_copies_once():
    # The task migrates inside KVM_RUN, so that its first return to userspace brings the bitmap.
    moved = [*MAP, ("exit", 0, "light"), ("switch", 0, -1), ("switch", 1, 0)]
    made = machine("exit-to-user", after=moved)
    each = cycles("host_save user host_restore gdt_write ltr user_overlap")
    each += cycles("sync base refresh userspace")
    assert made.repeat_exit(1, "user", 10**12) == 10**12 * each + cycles("copy_base copy_line")
    counters = made.counters[1]
    assert (counters["map_copies"], counters["bytes_copied"]) == (1, 8)
    assert made.io(1, 0, 1) == (True, COSTS.io)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 10**12, 10**12 + 1])
def test_repeat_exit_of_alternating_states(n):
    """One EXIT marks and one clears, in turn; marks on the first."""
    made = machine(TOGGLE, after=[("switch", 0, 0)])
    marks = (n + 1) // 2
    expected = cycles("host_save") + n * cycles("light") + marks * cycles("mark")
    assert made.repeat_exit(0, "light", n) == expected
    assert made.counters["marks"][0] == marks
    assert (made.cpu["limit_stale"][0], made.task["tif"][0]) == (n % 2, 1 - n % 2)


def test_repeat_exit_that_costs_nothing():
    free = Profile("free", replace(COSTS, host_save=0), (ExitKind("free", 0),))
    made = Machine(1, 1, "deferred", free)
    made.switch(0, 0)
    assert made.repeat_exit(0, "free", 2**63 - 1) == 0
    assert made.counters["exits"][0] == 2**63 - 1


def test_repeat_exit_refused():
    made = machine(after=IN_USE)
    for args, reason in (
        ((1, 0, 5), "operation 0: cpu 1 is idle"),
        ((2, 0, 5), "operation 0: cpu is 2, not in 0 to 1"),
        ((0, 3, 5), "operation 0: kind is 3, not in 0 to 2"),
    ):
        with pytest.raises(OperationError, match=reason):
            made.repeat_exit(*args)
    assert core_state(made) == core_state(machine(after=IN_USE))


# Arguments


@pytest.mark.parametrize("index", range(3))
def test_kinds_by_name_or_index(index):
    by_name, by_index = machine(after=IN_USE), machine(after=IN_USE)
    by_name.exit(0, KIND_NAMES[index])
    by_name.repeat_exit(0, KIND_NAMES[index], 5)
    by_index.exit(0, index)
    by_index.repeat_exit(0, index, 5)
    assert core_state(by_name) == core_state(by_index)


@pytest.mark.parametrize("method", ["exit", "repeat_exit"])
def test_unknown_kind(method):
    args = (0, "lihgt", *([5] if method == "repeat_exit" else []))
    with pytest.raises(ValueError, match="unknown exit kind 'lihgt'; did you mean 'light'"):
        getattr(machine(after=IN_USE), method)(*args)


CALLS = {
    "exit": dict(cpu=0, kind=1),
    "switch": dict(cpu=0, task=1),
    "ioperm": dict(cpu=0, first=0, count=1),
    "io": dict(cpu=0, port=0, width=1),
    "task_exit": dict(cpu=0),
    "advance": dict(cpu=0, cycles=1),
    "repeat_exit": dict(cpu=0, kind=1, n=1),
    "task_map": dict(task=0),
    "io_allowed": dict(cpu=0, ports=0, widths=1),
    "cycles": dict(cpu=0),
    "count": dict(cpu=0, counter="exits"),
}
NO_INTEGERS = ("ports", "widths", "counter")
ARGUMENTS = [(m, a) for m, args in CALLS.items() for a in args if a not in NO_INTEGERS]


@pytest.mark.parametrize("value", [2**63, 2**64, 10**30, -(2**63) - 1, -(10**30), -2])
@pytest.mark.parametrize(("method", "argument"), ARGUMENTS)
def test_integers_out_of_range(method, argument, value):
    made = machine(after=IN_USE)
    with pytest.raises(ValueError, match=rf"{argument} (is )?{value}\b"):
        getattr(made, method)(**CALLS[method] | {argument: value})
    assert core_state(made) == core_state(machine(after=IN_USE))


@pytest.mark.parametrize("value", [None, 1.0, np.float64(1), [1], b"1"])
@pytest.mark.parametrize(("method", "argument"), ARGUMENTS)
def test_not_integers(method, argument, value):
    made = machine(after=IN_USE)
    with pytest.raises(TypeError) as caught:
        getattr(made, method)(**CALLS[method] | {argument: value})
    assert str(caught.value) == f"{argument} is {value!r}, not an integer"
    assert core_state(made) == core_state(machine(after=IN_USE))


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32, np.uint64, np.array])
@pytest.mark.parametrize("method", CALLS)
def test_numpy_integers(method, kind):
    plain, numpy = machine(after=IN_USE), machine(after=IN_USE)
    getattr(plain, method)(**CALLS[method])
    arguments = {k: v if k == "counter" else kind(v) for k, v in CALLS[method].items()}
    getattr(numpy, method)(**arguments)
    assert core_state(plain) == core_state(numpy)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (dict(cpus=0), ValueError, "cpus is 0, not in 1 to 65536"),
        (dict(cpus=65537), ValueError, "cpus is 65537, not in 1 to 65536"),
        (dict(cpus=2.0), TypeError, "cpus is 2.0, not an integer"),
        (dict(tasks=-1), ValueError, "tasks is -1, not in 0 to 2147483647"),
        (dict(tasks=2**31), ValueError, "tasks is 2147483648, not in 0 to 2147483647"),
        (dict(tasks=None), TypeError, "tasks is None, not an integer"),
        (dict(policy="defered"), ValueError, "unknown policy 'defered'; did you mean 'deferred'"),
        (dict(policy=None), TypeError, "policy is None, neither a Policy nor a built-in"),
        (dict(profile="patch2017"), ValueError, "unknown profile 'patch2017'; did you mean"),
        (dict(profile=COSTS), TypeError, r"profile is Costs\(.*, neither a Profile nor"),
        (dict(vendor="amd"), ValueError, "vendor is 'amd', not 'vmx' or 'svm'"),
        (dict(vendor=None), ValueError, "vendor is None, not 'vmx' or 'svm'"),
    ],
)
def test_machine_rejects(changed, error, message):
    good = dict(cpus=1, tasks=1, policy="eager", profile=PROFILE, vendor="vmx")
    with pytest.raises(error, match=message):
        Machine(**good | changed)


def test_machine_is_made_once():
    made = machine(after=MAP)
    with pytest.raises(TypeError, match="a Machine is made once"):
        made.__init__(2, 3, "eager", PROFILE)
    assert core_state(made) == core_state(machine(after=MAP))


def test_machine_by_names():
    by_name = Machine(1, 0, "deferred", "patch-2017")
    assert by_name.policy is policies()["deferred"]
    assert by_name.profile is profiles()["patch-2017"]
    assert by_name.vendor == "vmx"
    assert repr(by_name) == "Machine(1, 0, 'deferred', 'patch-2017', vendor='vmx')"
    assert by_name.task.shape == (0,)


# fork, iopl, exec


def after(policy, *ops):
    """Return a machine of 1 CPU and 3 tasks, task 0 on it with port 8, after these operations."""
    made = Machine(1, 3, policy, PROFILE)
    made.switch(0, 0)
    made.ioperm(0, 8, 1)
    for name, *args in ops:
        getattr(made, name)(0, *args)
    return made


def test_a_child_shares_the_map_until_one_edits_it():
    made = after("exit-to-user", ("fork", 1))
    assert made.task[1].tolist() == (1, 1, 8, 1, -1, 0, 0)
    twins = [made, made.copy(), pickle.loads(pickle.dumps(made))]
    for one in twins:
        one.switch(0, 1)
        assert one.io(0, 8, 1)[0]
        assert one.count(0, "map_copies") == 1  # the number is the same: nothing to copy
        one.ioperm(0, 9, 1)  # of a copy
        assert [one.task[t]["seq"] for t in (0, 1)] == [1, 3]
        assert (one.task_map(0)[1], one.task_map(1)[1]) == (0xFE, 0xFC)
        one.switch(0, 0)
        assert not one.io(0, 9, 1)[0]
        one.task_exit(0)
    assert len({str(core_state(one)) for one in twins}) == 1


def test_a_shared_map_edited_in_place_is_everyones():
    to_user = policies()["exit-to-user"]
    calls = tuple("alloc_map" if e == ("alloc_map", "unshare_map") else e for e in to_user.ioperm)
    made = after(replace(to_user, ioperm=calls), ("fork", 1), ("ioperm", 9, 1))
    assert made.task_map(1)[1] == 0xFC
    assert [made.task[t]["seq"] for t in (0, 1)] == [2, 2]


TAKEN = ("drop_map", "clear_tif", "invalidate_base")


def test_a_failed_fork_leaves_the_parent_its_map():
    made = after("exit-to-user", ("fork", 1, True))
    assert made.task[1].tolist() == (0, 0, 0, 0, -1, 0, 0)
    assert made.io(0, 8, 1)[0]
    # 4bfe6cce133c: the clean-up took the parent's.
    wrong = replace(policies()["exit-to-user"], fork_failed=(TAKEN,))
    made = after(wrong, ("fork", 1, True))
    assert not made.io(0, 8, 1)[0]
    assert made.count(0, "denials") == 0  # Machine goes by the map, which is gone


def test_a_copied_map_costs_its_lines():
    cost = COSTS.copy_base + 128 * COSTS.copy_line
    made = after("deferred")
    assert made.fork(0, 1) == cost
    assert made.task[1].tolist() == (1, 1, 8, 2, -1, 0, 0)
    assert made.count(0, "map_copies") == 1


@pytest.mark.parametrize(
    ("policy", "edge"), [("eager", True), ("deferred", True), ("exit-to-user", False)]
)
def test_level_3_is_every_port(policy, edge):
    made = after(policy, ("iopl", 3))
    assert made.io(0, 0x1234, 4)[0]
    # EFLAGS skips the bitmap; the map of all ports has its end.
    assert made.io(0, 65535, 2)[0] == edge
    assert made.io_allowed(0, [0, 65535], [1, 2]).tolist() == [True, edge]
    made.fork(0, 1)
    made.exec(0)
    assert not made.io(0, 0x1234, 1)[0]
    assert made.io(0, 8, 1)[0]
    made.switch(0, 1)
    assert made.io(0, 0x1234, 1)[0]
    made.switch(0, 2)
    assert not made.io(0, 0x1234, 1)[0]
    assert (made.count(0, "leaks"), made.count(0, "denials")) == (0, 0)


def test_a_level_that_stays_behind_leaks():
    """The kind of XSA-171 (the level) and XSA-329 (the base)."""
    stays = replace(policies()["exit-to-user"], switch=())
    for policy in (replace(policies()["eager"], exit_to_user=("load_iopl if iopl",)), stays):
        made = after(policy, ("iopl", 3), ("switch", 1))
        assert made.io(0, 0x1234, 1)[0]
        assert made.count(0, "leaks") == 1


def test_port_check_at_level_3():
    arguments = (MIN, INVALID, np.full(8193, 0xFF, np.uint8), [0, 65535], [1, 4])
    assert port_check(*arguments, iopl=3).tolist() == [True, True]
    assert port_check(*arguments, 2).tolist() == [False, False]
    with pytest.raises(ValueError, match="iopl is 4, not in 0 to 3"):
        port_check(*arguments, 4)


def test_a_null_is_counted():
    """Steps that a kernel cannot take: TIF and no map."""
    policy = Policy("p", ioperm=("set_tif", "load_map", "sync_map"), switch=("copy_map",))
    made = Machine(1, 2, policy, PROFILE)
    made.switch(0, 0)
    made.ioperm(0, 0, 1)
    assert made.count(0, "nulls") == 2
    made.switch(0, 1)
    made.switch(0, 0)
    assert made.count(0, "nulls") == 3


# State

CPU_FIELDS = dict(
    **dict(cycles="u8", tr_limit="u4", tss_busy="u1", io_base="u2", limit_stale="u1"),
    **dict(guest_loaded="u1", task="i4", map_max="u4", map_seq="u8", iopl3="u1"),
)
TASK_FIELDS = dict(tif="u1", has_map="u1", max="u4", seq="u8", last_cpu="i4", in_run="u1")
TASK_FIELDS |= dict(iopl3="u1")
COUNTER_NAMES = (
    *("exits", "user_exits", "host_saves", "puts", "reloads", "marks", "faults", "switches"),
    *("migrations", "map_copies", "bytes_copied", "map_wipes", "io_allowed", "io_denied"),
    *("leaks", "denials", "c_exit", "c_user", "c_host", "c_tr", "c_map", "c_switch", "c_call"),
    *("c_io", "c_guest", "c_work", "c_idle", "nulls"),
)


def test_fields():
    made = machine()
    for view, shape, expected in (
        (made.cpu, (2,), CPU_FIELDS),
        (made.task, (3,), TASK_FIELDS),
        (made.counters, (2,), dict.fromkeys(COUNTER_NAMES, "u8")),
    ):
        assert view.shape == shape
        assert list(view.dtype.names) == list(expected)
        assert [view.dtype[name] for name in expected] == list(map(np.dtype, expected.values()))
    assert (made.tss_map.shape, made.tss_map.dtype) == ((2, 8193), np.uint8)
    assert made.counters.dtype == COUNTERS_DTYPE


def test_views_show_the_machine_itself():
    made = machine()
    cpu, task, tss_map = made.cpu, made.task, made.tss_map
    where = [array.ctypes.data for array in (cpu, task, tss_map)]
    made.run([op(*step) for step in MAP])
    assert (cpu["task"].tolist(), task["has_map"].tolist()) == ([0, -1], [1, 0, 0])
    assert tss_map[0, 0] == 0
    assert where == [array.ctypes.data for array in (made.cpu, made.task, made.tss_map)]
    made.reset()
    assert (cpu["cycles"].tolist(), task["max"].tolist(), tss_map[0, 0]) == ([0, 0], [0] * 3, 255)
    for array in (cpu, task):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]
    for array in (cpu["cycles"], task["tif"], tss_map[0]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_views_outlive_the_machine():
    made = machine(after=MAP)
    cpu, task, tss_map = made.cpu, made.task, made.tss_map
    expected = [array.tolist() for array in (cpu, task, tss_map)]
    del made
    others = [machine("eager", after=TWO_MAPS) for _ in range(20)]  # memory used again, if freed
    assert [array.tolist() for array in (cpu, task, tss_map)] == expected
    del others


def test_counters_and_task_map_are_copies():
    made = machine(after=MAP)
    counters, task_map = made.counters, made.task_map(0)
    assert (task_map.shape, task_map.dtype, task_map[0]) == ((8192,), np.uint8, 0)
    before = core_state(made)
    counters[:] = 0
    task_map[:] = 0
    assert core_state(made) == before
    assert made.task_map(1) is None


def test_cycles_and_counts_of_a_cpu():
    made = machine("eager", after=[("switch", 0, 0), ("exit", 0, "user"), ("advance", 1, 9)])
    spent = cycles(f"switch {USER} gdt_write ltr user_overlap")
    assert (made.cycles(0), made.cycles(1)) == (spent, 9)
    events = dict(switches=1, exits=1, user_exits=1, host_saves=1, puts=1, reloads=1)
    causes = dict(c_switch=2**7, c_exit=2**18, c_host=2 + 4, c_tr=2**3 + 2**4 + 2**20, c_user=2**19)
    expected = dict.fromkeys(COUNTERS, 0) | events | causes
    assert {name: made.count(0, name) for name in COUNTERS} == expected
    assert {name: made.count(1, name) for name in COUNTERS} == dict.fromkeys(COUNTERS, 0) | {
        "c_idle": 9
    }
    assert type(made.cycles(0)) is type(made.count(0, "exits")) is int


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda made: made.cycles(2), "cpu is 2, not in 0 to 1"),
        (lambda made: made.count(-1, "exits"), "cpu is -1, not in 0 to 1"),
        (lambda made: made.count(0, "reload"), "unknown counter 'reload'; did you mean 'reloads'?"),
        (lambda made: made.count(0, 4), "unknown counter 4; known: exits, user_exits"),
    ],
)
def test_cycles_and_counts_name_the_argument(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        call(machine())


def test_signatures():
    """What editors and help() show, as _core.pyi declares it."""
    assert str(inspect.signature(Machine)) == "(cpus, tasks, policy, profile, vendor='vmx')"
    stub = ast.parse((Path(kvmbench.__file__).parent / "_core.pyi").read_text())
    (declared,) = (node for node in stub.body if isinstance(node, ast.ClassDef))
    checked = 0
    for method in (node for node in declared.body if isinstance(node, ast.FunctionDef)):
        if method.decorator_list:
            continue
        names = [argument.arg for argument in method.args.args]
        made_of = Machine if method.name == "__init__" else getattr(Machine, method.name)
        found = inspect.signature(made_of).parameters
        assert list(found) == names[len(names) - len(found) :], method.name
        defaults = [value.default for value in found.values() if value.default is not value.empty]
        assert len(defaults) == len(method.args.defaults), method.name
        checked += 1
    assert checked == 18


@pytest.mark.parametrize("policy", POLICIES)
def test_reset_is_a_new_machine(policy):
    made = machine(policy, after=HISTORY)
    made.reset()
    assert core_state(made) == core_state(machine(policy))
    made.run([op(*step) for step in HISTORY])
    assert core_state(made) == core_state(machine(policy, after=HISTORY))


@pytest.mark.parametrize("value", [PROFILE, *profiles().values(), *policies().values()])
def test_declarations_pickle(value):
    assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == value


def test_operation_error_pickles():
    with pytest.raises(OperationError) as caught:
        machine().run([op("advance", 0, 1), op("task_exit", 0)])
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, ValueError)
    assert (again.index, again.reason) == (1, "cpu 0 is idle")
    assert str(again) == "operation 1: cpu 0 is idle"


GOING_ON = [
    *(("exit", 0, "user"), ("exit", 0, "user"), ("io", 0, 519, 1), ("switch", 0, 1)),
    *(
        ("exit", 0, "user"),
        ("io", 0, 0, 1),
        ("ioperm", 0, 0, 1, False),
        ("io", 0, 0, 1),
        ("switch", 1, 0),
    ),
    *(("io", 1, 512, 4), ("switch", 0, 2), ("ioperm", 0, 70, 3), ("task_exit", 1)),
]


@pytest.mark.parametrize("again", [pickle.dumps, copy.copy, copy.deepcopy, Machine.copy])
@pytest.mark.parametrize("policy", [*POLICIES, Policy("own", ioperm=["edit_map", "load_map"])])
def test_machine_in_other_hands(policy, again):
    """What a pickle or a copy holds is the whole machine: it goes on in the same way."""
    back = pickle.loads if again is pickle.dumps else lambda made: made
    started = [*TWO_MAPS, ("exit", 0, "light"), ("switch", 0, 0), ("exit", 0, "light")]
    made = machine(policy, "vmx", after=started)
    other = back(again(made))
    before = core_state(made)
    assert core_state(other) == before
    assert (other.policy, other.profile, other.vendor) == (made.policy, made.profile, made.vendor)
    other.run([op(*step) for step in GOING_ON])
    assert core_state(made) == before
    made.run([op(*step) for step in GOING_ON])
    assert core_state(other) == core_state(made)
    del made
    other.reset()
    assert core_state(other) == core_state(machine(policy))


# Threads

LONG = np.zeros(400_000, OP_DTYPE)  # EXITs on CPU 0, no two equal ones in a row
LONG["a"][1::2] = 1
LONG[0] = op("switch", 0, 0)


class Running:
    """A thread that keeps a machine inside run(); entered once it is there."""

    def __init__(self, made):
        self.machine, self.over = made, threading.Event()
        self.thread = threading.Thread(target=self._work)

    def _work(self):
        while not self.over.is_set():
            try:
                self.machine.run(LONG)
            except (OperationError, RuntimeError):  # another thread had the machine just now
                continue

    def __enter__(self):
        self.thread.start()
        self.wait()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def wait(self):
        for _ in range(100_000):
            try:
                self.machine.run([])
            except RuntimeError:
                return
        self.over.set()
        pytest.fail("never found the machine inside run()")


def refuses(call, *args):
    """Whether a call is refused; where it is not, run() may have ended just before."""
    try:
        call(*args)
    except RuntimeError as error:
        return str(error) == "this Machine is running in another thread"
    except OperationError:
        return False
    return False


CALLS_ON_CPU_1 = {  # each takes a machine, and what makes its last argument
    "run": lambda m, late: m.run(late([op("advance", 1, 1)] * 3)),
    "exit": lambda m, late: m.exit(1, late(1)),
    "switch": lambda m, late: m.switch(1, late(-1)),
    "ioperm": lambda m, late: m.ioperm(1, 0, late(1)),
    "io": lambda m, late: m.io(1, 0, late(1)),
    "task_exit": lambda m, late: m.task_exit(late(1)),
    "advance": lambda m, late: m.advance(1, late(1)),
    "repeat_exit": lambda m, late: m.repeat_exit(1, late(1), 5),
    "task_map": lambda m, late: m.task_map(late(1)),
    "io_allowed": lambda m, late: m.io_allowed(late(1), 0, 1),
    "cycles": lambda m, late: m.cycles(late(1)),
    "count": lambda m, late: m.count(late(1), "exits"),
    "copy": lambda m, _: m.copy(),
    "reset": lambda m, _: m.reset(),
}


@pytest.mark.parametrize("call", CALLS_ON_CPU_1.values(), ids=CALLS_ON_CPU_1)
def test_call_while_running(call):
    made = machine()
    with Running(made) as running:
        for _ in range(50):
            if refuses(call, made, lambda value: value):
                return
            running.wait()
    pytest.fail("never refused")


class Late:
    """An argument that becomes integers only after another thread began to run()."""

    def __init__(self, running, value):
        self.running, self.value = running, value

    def __index__(self):
        self.running.__enter__()
        return self.value

    def __array__(self, dtype=None, copy=None):
        self.running.__enter__()
        return np.array(self.value, OP_DTYPE)


def overtaken(call):
    """Whether a call is refused where another thread begins to run() while it looks at its own
    arguments."""
    made = machine()
    running = Running(made)
    try:
        return refuses(call, made, lambda value: Late(running, value))
    finally:
        running.__exit__()


@pytest.mark.parametrize("call", list(CALLS_ON_CPU_1.values())[:-2], ids=list(CALLS_ON_CPU_1)[:-2])
def test_call_overtaken_by_a_run(call):
    assert any(overtaken(call) for _ in range(20))


def test_copy_overtaken_by_a_run(monkeypatch):
    """A run() that begins while the copy's policy is compiled."""
    compiled = _core._compiled
    for _ in range(20):
        made = machine()
        running = Running(made)

        def late(policy, running=running):
            running.__enter__()
            return compiled(policy)

        with monkeypatch.context() as patch:
            patch.setattr(_core, "_compiled", late)
            try:
                refused = refuses(made.copy)
            finally:
                running.__exit__()
        if refused:
            return
    pytest.fail("never refused")


def test_two_machines_in_two_threads():
    made = [machine("deferred"), machine("every-exit", "svm")]
    barrier = threading.Barrier(2)

    def work(mine):
        barrier.wait()
        for _ in range(20):
            mine.run(LONG[:50_000])

    threads = [threading.Thread(target=work, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = [machine("deferred"), machine("every-exit", "svm")]
    for mine in alone:
        for _ in range(20):
            mine.run(LONG[:50_000])
    assert list(map(core_state, made)) == list(map(core_state, alone))


# Memory

MEASURE = """
import os
from kvmbench import Machine

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

def use(cpus, tasks, mapped):
    machine = Machine(cpus, tasks, "deferred", "patch-2017")
    for task in range(mapped):
        cpu = task % cpus
        machine.switch(cpu, task)
        machine.ioperm(cpu, 0, 65536)
        machine.exit(cpu, task % 8)
    return machine

use(2, 3, 3)
"""


def measured(script):
    """Run a script in a fresh Python; return the megabytes that it prints."""
    paths = [str(Path(kvmbench.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    asan = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=0"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "ASAN_OPTIONS": asan}
    command = [sys.executable, "-P", "-c", MEASURE + script]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return float(done.stdout)


def test_memory_of_a_big_machine():
    script = """
before = resident()
machine = use(4096, 100_000, 100)
machine.counters, machine.cpu.sum, machine.tss_map.max(), machine.task["max"].sum()
assert machine.task["has_map"].sum() == 100
for cpu in range(4096):
    machine.switch(cpu, 1000 + cpu)
    machine.exit(cpu, 4)
print(resident() - before)
"""
    assert measured(script) < 100


def test_machines_leave_no_memory_behind():
    script = """
def used():
    machine = use(2, 6, 6)
    machine.task_exit(0)
    other = machine.copy()
    other.reset()
    use(2, 3, 3).reset()

for _ in range(200):
    used()
before = resident()
for _ in range(10_000):
    used()
machine = use(1, 1, 1)
for _ in range(200):
    machine.io_allowed(0, [0] * 2**16, 1)
print(resident() - before)
"""
    assert measured(script) < 5
