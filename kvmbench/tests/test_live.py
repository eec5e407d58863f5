"""The live engine: its plan by hand, and measurements for real where /dev/kvm opens."""

import errno
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import pytest

from kvmbench import Workload, results
from kvmbench.errors import LiveError
from kvmbench.guest import image
from kvmbench.guest.assembler import RAX
from kvmbench.guest.programs import Program
from kvmbench.live import engine, io_check, machine, process, turns, worker
from kvmbench.live.engine import BITMAP, NO_BITMAP, Plan, measure, shortfall
from kvmbench.live.host import cpu_list, stolen
from kvmbench.live.machine import NEEDS, Offer, device_remedy, missing
from kvmbench.model import Op
from kvmbench.tests.command import HANGS
from kvmbench.tests.live import needs_kvm
from kvmbench.workloads import BUILT_IN, DEFERRAL, LIVE_ONLY, workloads

QUICK = Plan(runs=2, rounds=3, seconds=0.8)


def _of(result, name):
    return [series for _, _, series in result.series() if series.workload == name]


# The plan


def test_the_budget_holds():
    plan = Plan(runs=7, rounds=10, seconds=45)
    each = plan.round_seconds(44)
    assert 44 * each * (7 * 11 + 4) + 7 * engine.START == pytest.approx(45)
    assert Plan(seconds=0.1).round_seconds(44) == engine.SHORTEST
    assert Plan(ioperm="both").round_seconds(4) < Plan().round_seconds(4) / 1.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(runs=0), "runs is 0, not 1 or more"),
        (dict(rounds=-1), "rounds is -1"),
        (dict(seconds=0), "seconds is 0, not above 0"),
        (dict(seconds=float("nan")), "seconds is nan"),
        (dict(ioperm="maybe"), "ioperm is 'maybe', not one of off, on, both"),
    ],
)
def test_a_plan_rejects(arguments, message):
    with pytest.raises(ValueError, match=message):
        Plan(**arguments)


@pytest.mark.parametrize(
    ("choices", "rounds", "seconds"),
    [
        (dict(), 10, 45),
        (dict(fast=True), 5, 7),
        (dict(runs=3), 10, 45),  # fewer runs have longer rounds
        (dict(runs=24), 10, 135),
        (dict(runs=16, fast=True), 5, 14),
    ],
)
def test_choices(choices, rounds, seconds):
    plan = Plan.choose(**choices, cpu=1, ioperm="on", seed=7)
    assert (plan.rounds, plan.seconds) == (rounds, seconds)
    assert (plan.runs, plan.cpu, plan.ioperm, plan.seed) == (choices.get("runs", 8), 1, "on", 7)


def test_without_a_seed_the_order_is_random():
    assert len({Plan.choose().seed for _ in range(5)}) > 1


def test_measure_takes_a_plan_or_choices(monkeypatch):
    with pytest.raises(TypeError, match="either a plan or runs, fast, ioperm, cpu and seed"):
        measure("cpuid", Plan(), fast=True)
    with pytest.raises(ValueError, match="runs is 0, not 1 or more"):
        measure("cpuid", runs=0)
    with pytest.raises(ValueError, match="unknown workload 'cpiud'; did you mean 'cpuid'"):
        measure(["cpiud"])
    jobs = []

    class Kept(Script):
        def __init__(self, job):
            jobs.append(job)
            super().__init__(job)

    good = [*READY, _round(1, 1), *END]
    monkeypatch.setattr(Script, "runs", [good] * 4, raising=False)
    monkeypatch.setattr(engine, "Process", Kept)
    monkeypatch.setattr(engine, "offer", _offer)
    result = measure(["cpuid"], runs=2, fast=True, ioperm="both", cpu=1, seed=3)
    assert [run.block for _, run in result.runs()] == [1, 1, 2, 2]
    order = [name == BITMAP for name in Plan(runs=2, ioperm="both", seed=3).configurations()]
    assert [job["ioperm"] for job in jobs] == order
    assert {(job["cpu"], job["rounds"]) for job in jobs} == {(1, 5)}


def test_by_default_all_that_have_guest_code_are_measured(monkeypatch):
    def measured():
        tasks = []

        class Kept(Script):
            def __init__(self, job):
                tasks.extend(task["name"] for task in job["tasks"])
                super().__init__(job)

        monkeypatch.setattr(Script, "runs", [[*READY, _round(1, 1), *END]], raising=False)
        monkeypatch.setattr(engine, "Process", Kept)
        monkeypatch.setattr(engine, "offer", _offer)
        return tasks, measure(runs=1).boots[0].runs[0].skipped

    tasks, skipped = measured()
    assert sorted([*tasks, *skipped]) == sorted(w.name for w in (*BUILT_IN, *LIVE_ONLY))
    assert set(skipped.values()) <= {words for _, words in NEEDS.values()}


def test_both_sides_stand_in_pairs_whose_order_is_drawn():
    pairs = set()
    for seed in range(3):
        found = Plan(runs=30, ioperm="both", seed=seed).configurations()
        assert found == Plan(runs=30, ioperm="both", seed=seed).configurations()
        orders = list(zip(found[::2], found[1::2], strict=True))
        assert 5 < orders.count((NO_BITMAP, BITMAP)) < 25  # the chance outside is 3e-4
        pairs |= set(orders)
    assert pairs == {(NO_BITMAP, BITMAP), (BITMAP, NO_BITMAP)}
    assert Plan(runs=2, ioperm="on").configurations() == [BITMAP, BITMAP]
    assert Plan(runs=2).configurations() == [NO_BITMAP, NO_BITMAP]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", set()), ("\n", set()), ("3\n", {3}), ("0-2,5", {0, 1, 2, 5}), ("1,3-4\n", {1, 3, 4})],
)
def test_lists_of_cpus(text, numbers):
    assert cpu_list(text) == numbers


def test_ticks_that_were_stolen(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu 9 9 9\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu1 0 0 0\n")
    assert stolen(0, tmp_path) == (8, 36)  # guest time is in user time already
    assert stolen(1, tmp_path) is None
    assert stolen(0, tmp_path / "nowhere") is None
    assert engine._steal_note((0, 0), (2, 100)) == [
        "The hypervisor around this host took 2.0% of the CPU's time meanwhile (steal)."
    ]
    assert engine._steal_note((0, 0), (0, 100)) == engine._steal_note(None, (1, 1)) == []


# Tasks that take turns with the vCPU's thread


def test_the_acts_of_each_task():
    plain, bitmap, own = (workload.userspace for workload in DEFERRAL)
    assert turns.acts(plain, 2) == [[("give", 1), ("take", 0)], [("take", 1), ("give", 0)]]
    there = [("take", 1), ("in", 0x378, 1), ("give", 0)]
    assert turns.acts(bitmap, 2) == [[("give", 1), ("take", 0)], there]
    assert turns.acts(own, 1) == [
        [("ioperm", 0x3BC, 3, True), ("in", 0x3BC, 1), ("ioperm", 0x3BC, 3, False)]
    ]
    around = [[Op.SWITCH, 1, 0, 0], [Op.SWITCH, 2, 0, 0], [Op.SWITCH, 0, 0, 0]]
    assert turns.acts(around, 3) == [
        [("give", 1), ("take", 0)], [("take", 1), ("give", 2)], [("take", 2), ("give", 0)],
    ]  # fmt: skip


@pytest.fixture
def three():
    """Two tasks that hand the CPU on, and back to this one."""
    around = [[Op.SWITCH, 1, 0, 0], [Op.SWITCH, 2, 0, 0], [Op.SWITCH, 0, 0, 0]]
    made = turns.Turns(around, [None, None])
    yield made
    made.end()


def test_tasks_take_turns(three):
    (give, to), (take, own) = three.acts
    assert (give, take) == ("give", "take")
    for _ in range(100):
        os.write(to, b"x")
        assert os.read(own, 10) == b"x"
    assert len(three.pids) == 2


def test_a_task_that_ends_takes_the_others_along(three):
    _, (_, own) = three.acts
    os.kill(three.pids[0], signal.SIGKILL)
    assert os.read(own, 1) == b""  # the second one's end, whose pipe closed
    assert os.waitpid(three.pids[1], 0)[1] == errno.EPIPE << 8
    assert three.explain(OSError(errno.EPIPE, "x")) == "another task of the row ended"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "the kernel denied a port that the vCPU's thread holds"),
        (errno.EPERM, "an act: Operation not permitted"),
    ],
)
def test_the_error_of_an_act(three, number, words):
    assert three.explain(OSError(number, os.strerror(number))) == words


def test_a_task_that_cannot_hold_its_ports(monkeypatch):
    from kvmbench.live import _kvm

    monkeypatch.setattr(_kvm, "ioperm", lambda *_: errno.EPERM)
    with pytest.raises(LiveError, match=r"ioperm\(\) of another task: Operation not permitted"):
        turns.Turns(DEFERRAL[1].userspace, DEFERRAL[1].others)


@needs_kvm
def test_the_row_that_hands_over():
    result = measure(["handover_plain", "inl_from_qemu"], Plan(runs=1, rounds=3, seconds=0.5))
    both = {series.workload: series for _, _, series in result.series()}
    assert both["handover_plain"].counts["answered"] == pytest.approx(1, abs=0.01)
    assert min(both["handover_plain"].values) > 0
    assert set(both) == {"handover_plain", "inl_from_qemu"}


# What the host offers


def _offer(**changes):
    plain = dict(
        module="kvm_intel", hypercall="vmx", capabilities={"stats_fd": 1}, quirk_off=True,
        cpuid={}, tsx_ctrl=False, cpus=(0, 1),
    )  # fmt: skip
    return Offer(**(plain | changes))


def _cpuid(leaf, register, bit):
    registers = [0, 0, 0, 0]
    registers[register] = 1 << bit
    return {(leaf, 0): tuple(registers)}


@pytest.mark.parametrize(
    ("need", "there"),
    [
        ("spec_ctrl", dict(cpuid=_cpuid(7, 3, 26))),  # CPUID.7:EDX.IBRS_IBPB
        ("ibpb", dict(cpuid=_cpuid(7, 3, 26))),
        ("ibpb", dict(cpuid=_cpuid(0x80000008, 1, 12))),  # AMD's IBPB
        ("tsx_ctrl", dict(tsx_ctrl=True)),
    ],
)
def test_needs(need, there):
    assert missing((need,), _offer(**there)) is None
    assert missing((need,), _offer()) == NEEDS[need][1]


def test_more_needs():
    assert "share the one CPU" in missing(("second_cpu",), _offer(cpus=(3,)))
    assert missing((), _offer()) is None
    refused = _offer(no_ioperm=machine.ioperm_reason(errno.EPERM))
    wanted = "ioperm(): EPERM: it needs CAP_SYS_RAWIO, without lockdown"
    assert missing(("ioperm",), refused) == wanted
    assert missing(("ioperm",), _offer()) is None
    assert "'magic', which is none of spec_ctrl, " in missing(("magic",), _offer())


class Judge:
    """A virtual machine whose guest at CPL 3 ends in some way."""

    def __init__(self, port, vector=0, rip=image.HANDLERS + 5):
        self.port, self.frame, self.rip = port, (vector, 0, image.CODE), rip

    def write(self, address, content):
        self.code = content

    def start(self, cpu, *, cpl, rip, **_):
        assert (cpu, cpl, rip) == (0, 3, image.CODE)

    def run(self, cpu, **_):
        return {"reason": "stopped", "port": self.port}

    def registers(self, cpu):
        return {"rsp": image.RSP0, "rip": self.rip}

    def read(self, address, size):
        return b"".join(word.to_bytes(8, "little") for word in self.frame)


@pytest.mark.parametrize(
    ("ended", "accepts"),
    [((image.STOP,), True), ((image.STOP + 1, 13), False), ((image.STOP + 1, 6), True)],
)
def test_a_judge_that_accepts_no_busy_tss(ended, accepts):
    """QEMU's emulation denies each port with #GP; another fault is no judgement."""
    assert machine.accepts_busy_tss(Judge(*ended)) == accepts


def test_rows_at_cpl_3_are_skipped_where_every_port_is_denied():
    mine = Workload("mine", guest=Program(body=lambda code, _: code.nop(), cpl=3))
    rows, skipped = engine._rows([*LIVE_ONLY, mine], _offer(busy_tss=False), 0)
    there, _ = engine._rows([*LIVE_ONLY, mine], _offer(), 0)
    assert there.keys() - rows.keys() == {"empty_cpl3", "inb_cpl3", "mine"}
    for name in ("empty_cpl3", "inb_cpl3", "mine"):
        assert "accepts no busy TSS. QEMU's emulation requires TSS type 9" in skipped[name]


def test_an_out_to_the_port_of_exceptions_is_no_exception():
    outcome = {"reason": "stopped", "port": image.STOP + 1}
    faulted = machine.explain(Judge(image.STOP + 1, 13), 0, outcome)
    assert faulted == "#GP (error code 0x0) at 0x60000"
    own = machine.explain(Judge(image.STOP + 1, rip=0x60012), 0, outcome)
    assert own == "its own OUT, at 0x60012, to the port by which its handlers report an exception"


def test_the_remedy_for_a_device_that_does_not_open(monkeypatch, tmp_path):
    flags = {"vmx"}
    monkeypatch.setattr(machine, "cpu_flags", lambda: flags)
    assert device_remedy(errno.ENOENT) == "there is no /dev/kvm: sudo modprobe kvm_intel"
    flags = {"svm"}
    assert device_remedy(errno.ENOENT) == "there is no /dev/kvm: sudo modprobe kvm_amd"
    flags = {"hypervisor"}
    assert "neither VMX nor SVM: turn virtualization on in the nested settings of the hyper" in (
        device_remedy(errno.ENOENT)
    )
    flags = {"fpu"}
    assert device_remedy(errno.ENOENT).endswith("turn virtualization on in the firmware")
    monkeypatch.setenv("USER", "ada")
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(0o600)
    acl = f"sudo setfacl -m u:ada:rw {device}"
    assert device_remedy(errno.EACCES, str(device)) == f"{device}: Permission denied: {acl}"
    monkeypatch.setattr(machine.grp, "getgrgid", lambda _: type("", (), {"gr_name": "kvm"}))
    found = os.stat_result((0o20660, 0, 0, 0, 0, 36, 0, 0, 0, 0))
    monkeypatch.setattr(machine.os, "stat", lambda _: found)
    assert device_remedy(errno.EACCES) == (
        "/dev/kvm: Permission denied: sudo usermod -aG kvm ada, then log in again"
    )
    assert device_remedy(errno.EBUSY).startswith("/dev/kvm: Device or resource busy")


def test_without_the_extension_one_line_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    monkeypatch.setitem(sys.modules, "kvmbench.live._kvm", None)
    assert machine.why_not().startswith("kvmbench.live._kvm was not built: it needs a C compiler")
    with pytest.raises(LiveError, match="was not built"):
        measure(BUILT_IN, QUICK)
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    assert "this is linux on aarch64" in machine.why_not()


# What becomes of the lines of a process


class Script:
    """A process that says what it is told to."""

    runs: list
    interrupted = False

    def __init__(self, job):
        self.doing = ""
        self.said = self.runs.pop(0)

    def lines(self):
        yield from self.said

    def end(self):
        return "status 0"


def scripted(monkeypatch, *runs, workload="cpuid"):
    """Measure a workload, by default `cpuid`, in processes that write these lines."""
    monkeypatch.setattr(Script, "runs", list(runs), raising=False)
    monkeypatch.setattr(engine, "Process", Script)
    monkeypatch.setattr(engine, "offer", _offer)
    monkeypatch.setattr(engine, "stolen", lambda cpu: None)
    return measure(workload, Plan(runs=len(runs), rounds=2))


def _round(cycles, in_host, **counts):
    return ["round", "cpuid", 100, cycles, in_host, counts]


READY = [["begin", "cpuid"], ["ready", "cpuid", 100]]
END = [["waited", 0.5, 10.0], ["end"]]


def test_cycles_and_counts_are_of_an_iteration(monkeypatch):
    rounds = [_round(120_000, 125_000, exits=100, answered=200)]
    rounds.append(_round(130_050, 135_000, exits=110))
    result = scripted(monkeypatch, [*READY, *rounds, *END], [*READY, *rounds, *END])
    for _, run in result.runs():
        (series,) = run.series
        assert series.values == [1200, 1300.5]
        assert series.counts == {"exits": 21 / 20, "answered": 1, "iterations": 100}
        assert (series.marks, series.reloads) == ([], None)
    assert "for 5% of the time, up to 5% in one run" in result.notes[-1]


def test_a_count_has_four_digits(monkeypatch):
    """801 exits in 800 iterations: not 1.0012499999999998."""
    rounds = [["round", "cpuid", 400, 9, 9, {"exits": exits}] for exits in (400, 401)]
    (series,) = scripted(monkeypatch, [*READY, *rounds, *END]).boots[0].runs[0].series
    assert json.dumps(series.counts["exits"]) == "1.001"


@pytest.mark.parametrize(("module", "noted"), [("kvm_intel", False), ("kvm_amd", True)])
def test_the_note_on_svm(module, noted):
    """Counted on 6.1 and 6.12: an LTR after each exit, and none (0d3518d2f8c3, in 6.5)."""
    words = "On SVM, Linux before 6.5 reloads TR after every VM exit, with or without a bitmap"
    notes = engine._notes(_offer(module=module), 1, 0, Plan(ioperm="both"))
    assert (words in " ".join(notes)) == noted


@pytest.mark.parametrize(
    ("counts", "reloads"),
    [
        (dict(exits=0), 0),
        (dict(exits=2), None),  # of 200 iterations
        (dict(exits=0, insn_emulation=200), None),
        (dict(), None),  # no counters: nothing is known
    ],
)
def test_what_never_exits_is_a_control(monkeypatch, counts, reloads):
    rounds = [_round(12_000, 12_500, **counts)] * 2
    result = scripted(monkeypatch, [*READY, *rounds, *END])
    assert result.boots[0].runs[0].series[0].reloads == reloads


@pytest.mark.parametrize("waits", [False, True])
def test_the_declaration_says_whether_an_iteration_waits_for_an_interrupt(monkeypatch, waits):
    """The name does not: a user's loop may begin with hlt."""
    program = workloads()["hlt"].guest
    mine = Workload("hlt_free_loop", guest=program, waits_for_interrupt=waits)
    for interrupts, marked in ((0, waits), (89, waits), (90, False)):  # in a hundred iterations
        line = ["round", "hlt_free_loop", 100, 1, 1, dict(interrupts=interrupts)]
        ready = ["ready", "hlt_free_loop", 100]
        result = scripted(monkeypatch, [ready, line, *END], workload=mine)
        marks = result.boots[0].runs[0].series[0].marks
        wanted = "not every iteration was interrupted: KVM delivers some interrupts late"
        assert marks == [wanted] * marked


def test_a_process_that_is_killed_before_any_workload(monkeypatch):
    """The first run is as the others: what was measured stays, and a note counts what died."""
    good = [*READY, _round(1, 1), *END]
    monkeypatch.setattr(Script, "end", lambda self: "status 0" if self.said else "signal 9")
    for runs in ([[], good, good], [good, [], good]):
        result = scripted(monkeypatch, *runs)
        assert len(result.boots[0].runs) == 2
        assert engine.shortfall(result) == "1 of 3 runs ended with signal 9 before any workload."
    wanted = "^nothing was measured: 2 of 2 runs ended with signal 9 before any workload$"
    with pytest.raises(LiveError, match=wanted):
        scripted(monkeypatch, [], [])
    monkeypatch.setattr(Script, "end", lambda self: "status 1")
    with pytest.raises(LiveError, match=r"ended with status 1 before it began$"):
        scripted(monkeypatch, [], good)


def test_a_fault_that_the_declaration_explains(monkeypatch):
    lost = [["lost", "x", "the guest ran into #UD (error code 0x0) at 0x60010", False], ["end"]]
    faults = (("#GP", "not this"), ("#UD", "emulated code cannot do it"))
    mine = Workload("x", guest="cpuid", faults=faults)
    wanted = r"x: the guest ran into #UD \(error code 0x0\) at 0x60010: emulated code cannot do it$"
    with pytest.raises(LiveError, match=wanted):
        scripted(monkeypatch, lost, workload=mine)
    ((fault, words),) = workloads()["vmcall"].faults
    assert (fault, "hypercalls off" in words) == ("#UD", True)


@pytest.mark.parametrize(
    ("guest_cycles", "in_host", "marked"),
    [
        (10_000_000, 10_100_000, False),
        (10_000_000, 11_500_000, False),  # entering and leaving took their time
        (10_000_000, 9_900_000, True),
        (10_000_000, 20_000_000, True),
    ],
)
def test_the_two_clocks(monkeypatch, guest_cycles, in_host, marked):
    one, good = _round(guest_cycles, in_host), _round(1_000_000, 1_000_000)
    for rounds, wanted in (([one, one, good], marked), ([one, good, good], False)):
        result = scripted(monkeypatch, [*READY, *rounds, *END])
        marks = result.boots[0].runs[0].series[0].marks
        assert marks == ["the guest's TSC and the host's do not agree"] * wanted


def test_a_hang_is_tried_in_one_more_run(monkeypatch):
    lost = ["lost", "cpuid", "hung: why", True]
    good = [*READY, _round(1, 1), *END]
    result = scripted(monkeypatch, [READY[0], lost, ["end"]], good, good)
    assert [len(run.series) for _, run in result.runs()] == [1, 1]
    hung = [READY[0], lost, ["end"]]
    with pytest.raises(LiveError, match="nothing was measured: cpuid: hung: why"):
        scripted(monkeypatch, hung, hung)


def test_a_run_that_fails_loses_no_other(monkeypatch):
    good = [*READY, _round(1, 1), *END]
    result = scripted(monkeypatch, good, [["failed", "no memory"]], good)
    assert [len(run.series) for _, run in result.runs()] == [1, 1]
    assert shortfall(result) == "1 of 3 runs failed: no memory."
    assert shortfall(scripted(monkeypatch, good, good)) is None


def test_a_run_without_a_round_is_missing(monkeypatch):
    lost = [READY[0], ["lost", "cpuid", "hung: why", True], ["end"]]
    result = scripted(monkeypatch, [*READY, _round(1, 1), *END], lost)
    assert shortfall(result) == "1 of 2 runs measured nothing."


def test_an_early_end_is_counted_by_its_kind(monkeypatch):
    dead = [*READY, _round(1, 1)]  # without an end
    result = scripted(monkeypatch, dead, [*dead, *END])
    assert shortfall(result) == "1 of 2 runs ended with status 0."
    assert "not all of its rounds" in result.boots[0].runs[0].series[0].marks[0]
    assert "for 5% of the time, up to 5% in one run" in result.notes[-1]  # of the other run


def test_ctrl_c_in_the_last_run_keeps_its_rounds(monkeypatch):
    """It is pressed again while the result is made."""

    def stopped():
        yield from [*READY, _round(100, 100)]
        raise KeyboardInterrupt

    def again():
        pressed.append(1)
        if len(pressed) < 3:
            raise KeyboardInterrupt
        return "boot"

    pressed = []
    monkeypatch.setattr(engine, "boot_id", again)
    result = scripted(monkeypatch, [*READY, _round(1, 1), *END], stopped())
    assert [series.values for series in _of(result, "cpuid")] == [[0.01], [1]]
    assert "Stopped by Ctrl-C or a signal in run 2 of 2." in result.notes
    assert shortfall(result) is None
    assert len(pressed) == 3


@pytest.mark.parametrize(("iterations", "marked"), [(19, True), (20, False)])
def test_a_round_of_few_iterations_has_a_mark(monkeypatch, iterations, marked):
    lines = [["ready", "cpuid", iterations], ["round", "cpuid", iterations, 9, 9, {}], *END]
    marks = scripted(monkeypatch, lines).boots[0].runs[0].series[0].marks
    wanted = "fewer than 20 iterations per round, which enters and leaves the guest once"
    assert marks == [wanted] * marked


class Timed:
    """A Runner whose rounds take known times: `cold` the first, then fixed + each * iterations."""

    job = {"seconds": 1e-3}
    tsc_hz = 10**9  # a goal of a million cycles

    def __init__(self, fixed, each, cold=0, late=()):
        self.fixed, self.each, self.late, self.lengths = fixed, each, {0: cold, **dict(late)}, []

    def round(self, task, iterations):
        cycles = self.fixed + self.each * iterations + self.late.get(len(self.lengths), 0)
        self.lengths.append(iterations)
        return worker.Round(0, cycles, {})


@pytest.mark.parametrize(
    ("runner", "iterations"),
    [
        (Timed(0, 1000), 1000),
        (Timed(0, 1000, cold=10**9), 1000),
        (Timed(5_000_000, 1000), 1000),  # the entry alone is longer than a round
        (Timed(20_000, 10), 100_000),
        (Timed(0, 10**7), 1),
        (Timed(0, 1000, late={2: 10**9, 4: 10**9, 6: 10**9}), 1000),  # preempted now and then
    ],
)
def test_the_iterations_of_a_round(runner, iterations):
    assert worker.Runner.calibrate(runner, {}) == pytest.approx(iterations, rel=0.01)
    assert max(runner.lengths) <= 8 * iterations


def test_a_process_that_fails_to_begin(monkeypatch):
    with pytest.raises(LiveError, match="the measuring process ended with status 0 before it"):
        scripted(monkeypatch, [])
    with pytest.raises(LiveError, match="no such thing"):
        scripted(monkeypatch, [["failed", "no such thing"]])


# For real


@pytest.fixture(scope="module")
def measured():
    names = ("empty", "empty_cpl3", "cpuid", "inl_from_qemu", "inb_cpl3", "hlt", "ipi", "mmio_read")
    names += ("tscdeadline",)
    return measure([workloads()[name] for name in names], QUICK, command=["me"])


@needs_kvm
def test_a_result_that_can_be_kept(measured, tmp_path):
    results.write(tmp_path / "a.json", measured)
    assert results.read(tmp_path / "a.json") == measured
    (boot,) = measured.boots
    assert boot.id
    assert boot.host.kernel == os.uname().release
    assert [run.engine for run in boot.runs] == ["kvm", "kvm"]
    assert boot.runs[0].command == ["me"]
    assert all(series.kind == "noisy" for _, _, series in measured.series())


@needs_kvm
def test_each_workload_is_measured_in_each_run(measured):
    skipped = {name for _, run in measured.runs() for name in run.skipped}
    wanted = {"empty", "empty_cpl3", "cpuid", "inl_from_qemu", "inb_cpl3", "mmio_read"}
    for _, run in measured.runs():
        assert {series.workload for series in run.series} | skipped >= wanted
        assert not wanted & skipped
        assert all(3 <= len(series.values) <= QUICK.rounds for series in run.series)
        assert all(value > 0 for series in run.series for value in series.values)


@needs_kvm
def test_counts_are_what_the_guest_did(measured):
    """What was handed to userspace was counted here, not in KVM."""
    for name in ("inl_from_qemu", "inb_cpl3", "mmio_read"):
        for series in _of(measured, name):
            assert series.counts["answered"] == 1
            assert series.counts.get("exits", 1) >= 0.99
    for series in _of(measured, "cpuid") + _of(measured, "empty"):
        assert "answered" not in series.counts
    for series in _of(measured, "hlt") + _of(measured, "tscdeadline"):
        assert series.counts["interrupts"] == 1
        assert not [mark for mark in series.marks if "interrupted" in mark]
    assert {s.counts.get("cpl", 0) for s in _of(measured, "inb_cpl3")} == {3}


@needs_kvm
def test_an_exit_to_userspace_costs_more_than_the_loop(measured):
    at = {
        name: median(value for series in _of(measured, name) for value in series.values)
        for name in ("empty", "empty_cpl3", "inl_from_qemu", "inb_cpl3")
    }
    assert at["inl_from_qemu"] > at["empty"]
    assert at["inb_cpl3"] > 100 * at["empty_cpl3"]


@needs_kvm
def test_only_what_leaves_nothing_behind_is_a_control(measured):
    for series in _of(measured, "inl_from_qemu"):
        assert series.reloads is None
    for series in _of(measured, "empty_cpl3"):
        assert series.reloads in (None, 0)


def _hang(code, _):
    here = f"here {code.here}"
    code.label(here)
    code.jmp(here)


def _fault(code, _):
    code.mov_imm(RAX, 1 << 63)
    code.load(RAX, RAX)


@needs_kvm
def test_no_exit_is_not_the_same_as_no_counter():
    """A round without one exit, as a quiet host has them, tells so."""
    task = worker.Task(name="x", code="", other="", cpl=0, iterations=1)
    runner = worker.Runner(worker.Job(timeout=5, ioperm=False))
    task["code"] = workloads()["empty"].guest.assemble(image.CODE, TARGET).hex()
    try:
        if not runner.vm.counters(0):
            pytest.skip("this KVM has no KVM_GET_STATS_FD")
        runner.vm = Frozen(runner.vm)
        assert runner.round(task, 5).counts == {"exits": 0}
    finally:
        runner.vm.close()


class Frozen:
    """A Vm whose counters stand still."""

    def __init__(self, vm):
        self.vm = vm

    def counters(self, cpu):
        return dict.fromkeys(self.vm.counters(cpu), 7)

    def __getattr__(self, name):
        return getattr(self.vm, name)


@needs_kvm
def test_what_hangs_or_faults_is_named_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(engine, "TIMEOUT", 0.1)
    result = measure(
        [
            Workload("hangs", guest=Program(body=_hang)),
            Workload("faults", guest=Program(body=_fault)),
            Workload("simulated"),
            Workload("lost", guest="nowhere"),
            Workload("needy", guest="cpuid", needs=("magic",)),
            Workload("shares", guest="cpuid"),
            workloads()["cpuid"],
        ],
        Plan(runs=3, rounds=3, seconds=0.5),
    )
    assert result.workloads() == ["shares", "cpuid"]
    assert [len(run.series) for _, run in result.runs()] == [2, 2, 2]
    last = result.boots[0].runs[-1].skipped
    assert last["hangs"] == "hung: 1 iterations did not end"
    assert last["faults"].startswith("the guest ran into #GP (error code 0x0) at 0x6")
    assert last["simulated"] == "it has no guest code, only exits to simulate"
    assert last["lost"] == "there is no guest code 'nowhere'"
    assert last["needy"].startswith("needs 'magic'")


@needs_kvm
def test_a_second_vcpu_that_faults_is_named():
    program = Program(body=lambda code, _: code.pause(), other=_fault)
    with pytest.raises(LiveError, match="pair: the second vCPU ran into #GP"):
        measure([Workload("pair", guest=program)], Plan(runs=1, rounds=3, seconds=0.2))


@needs_kvm
def test_a_row_gets_no_interrupt_of_another():
    """One leaves a timer's interrupt pending; the other lets interrupts in and must see none."""

    def arm(code, _):
        code.wrmsr_imm(0x6E0, 1)

    def wait(code, _):
        code.nop()

    result = measure(
        [
            Workload("arms", guest=Program(body=arm)),
            Workload("waits", guest=Program(body=wait, interrupts=True)),
        ],
        Plan(runs=2, rounds=6, seconds=1),
    )
    for series in _of(result, "waits"):
        assert "interrupts" not in series.counts


@needs_kvm
def test_nothing_to_measure():
    with pytest.raises(LiveError, match=r"nothing to measure: x: it has no guest code"):
        measure([Workload("x")], QUICK)
    with pytest.raises(LiveError, match="nothing to measure: no workload"):
        measure([], QUICK)
    for body, words in (
        (_fault, "#GP"),
        (lambda code, _: code.stop(image.STOP + 1), "its own OUT, at"),
    ):
        with pytest.raises(LiveError, match=f"nothing was measured: x: the guest ran into {words}"):
            measure([Workload("x", guest=Program(body=body))], Plan(runs=1, rounds=1, seconds=0.1))
    with pytest.raises(LiveError, match="CPU 9999 is not one that this process may use"):
        measure([workloads()["cpuid"]], Plan(cpu=9999))


@needs_kvm
def test_ctrl_c_gives_the_rounds_so_far():
    def stop(name, share):
        if share > 0.5:
            raise KeyboardInterrupt

    result = measure(
        [workloads()["cpuid"], workloads()["empty"]],
        Plan(runs=2, rounds=50, seconds=2),
        progress=stop,
    )
    assert 1 <= len(result.boots[0].runs) <= 2
    assert any(note.startswith("Stopped by Ctrl-C or a signal in run ") for note in result.notes)
    assert all(series.values for _, _, series in result.series())


def test_ctrl_c_before_any_round_goes_on(monkeypatch):
    def interrupted(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "Process", interrupted)
    monkeypatch.setattr(engine, "offer", _offer)
    with pytest.raises(KeyboardInterrupt):
        measure("cpuid", Plan(runs=2))


def _signals():
    """Return handlers and masks of this thread, as the kernel and as Python have them."""
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    kernel = [line for line in lines if line.startswith(("SigBlk", "SigIgn", "SigCgt"))]
    numbers = signal.valid_signals()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return kernel, mask, {number: signal.getsignal(number) for number in numbers}


def _measure_and_stop():
    def stop(text, share):
        raise KeyboardInterrupt  # as the signal does, which a shell's `&` ignores

    with pytest.raises(KeyboardInterrupt):
        measure("cpuid", QUICK, progress=stop)


CALLS = {
    "measure": lambda: measure(["cpuid", "ipi"], Plan(runs=1, rounds=3, seconds=0.3)),
    "check_io": lambda: io_check.check_io(50),
    "stopped": _measure_and_stop,
}


@needs_kvm
@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize(
    ("call", "in_main"),
    [("measure", True), ("measure", False), ("check_io", True), ("check_io", False),
     ("stopped", True)],
)  # fmt: skip
def test_handlers_and_masks_are_as_before(call, in_main, blocked):
    def check():
        if blocked:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMAX - 3, signal.SIGUSR1})
        before = _signals()
        CALLS[call]()
        return before, _signals()

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        if in_main:
            before, after = check()
        else:
            with ThreadPoolExecutor(1) as pool:
                before, after = pool.submit(check).result()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert after == before


@needs_kvm
@pytest.mark.parametrize("moment", ["a run begins", "a run ends"])
def test_ctrl_c_between_runs_gives_the_runs_so_far(monkeypatch, moment):
    class Interrupted(process.Process):
        made = 0

        def __init__(self, job):
            Interrupted.made += 1
            if moment == "a run begins" and Interrupted.made == 2:
                raise KeyboardInterrupt
            super().__init__(job)
            if moment == "a run ends" and Interrupted.made == 2:
                wait, calls = self.process.wait, []

                def interrupted(timeout=None):
                    calls.append(timeout)
                    if len(calls) == 1:
                        raise KeyboardInterrupt
                    return wait(timeout)

                self.process.wait = interrupted

    monkeypatch.setattr(engine, "Process", Interrupted)
    result = measure([workloads()["cpuid"]], Plan(runs=4, rounds=3, seconds=0.2))
    assert len(result.boots[0].runs) == (1 if moment == "a run begins" else 2)
    assert "Stopped by Ctrl-C or a signal in run 2 of 4." in result.notes
    assert all(len(series.values) == 3 for _, _, series in result.series())


@needs_kvm
def test_a_process_that_dies_is_named_and_the_others_go_on(monkeypatch):
    """The first run's process is killed while it measures."""
    begun = process.Process.lines
    killed = []

    def lines(self):
        for words in begun(self):
            if words[0] == "round" and not killed:
                killed.append(self.process.pid)
                os.kill(self.process.pid, signal.SIGKILL)
            yield words

    monkeypatch.setattr(process.Process, "lines", lines)
    result = measure([workloads()["cpuid"]], Plan(runs=2, rounds=50, seconds=2))
    first, second = result.boots[0].runs
    assert len(second.series[0].values) > 1
    # On a busy host the row may have another mark, that its two clocks do not agree.
    assert "not all of its rounds: ended the process with signal 9" in first.series[0].marks
    assert shortfall(result) == "1 of 2 runs ended with signal 9."


@needs_kvm
def test_progress_reaches_the_end():
    seen = []
    measure(
        [workloads()["cpuid"]],
        Plan(runs=2, rounds=3, seconds=0.3),
        progress=lambda name, share: seen.append((name, share)),
    )
    shares = [share for _, share in seen]
    assert {text for text, _ in seen} == {"run 1 of 2: cpuid", "run 2 of 2: cpuid"}
    assert shares == sorted(shares)
    assert 0 <= shares[0] < 0.5 < shares[-1] <= 1


@needs_kvm
def test_the_seed_makes_the_order():
    def order(seed):
        tasks = [
            worker.Task(
                name=name, code=workloads()[name].guest.assemble(image.CODE, TARGET).hex(),
                other="", cpl=0, iterations=5,
            )
            for name in ("empty", "cpuid", "mov_dr", "wbinvd", "invd")
        ]  # fmt: skip
        job = worker.Job(
            cpu=machine.cpus_allowed()[0], other_cpu=None,
            tasks=tasks, rounds=6, limit=60, seconds=1e-3, timeout=5, seed=seed, ioperm=False,
            control=False,
        )  # fmt: skip
        done = subprocess.run(
            WORKER, input=json.dumps(job) + 1000 * "\n", capture_output=True, text=True
        )
        assert done.stderr == ""
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert lines[-1] == ["end"]
        return [words[1] for words in lines if words[0] == "round"]

    first = order(1)
    assert first == order(1) != order(2)
    rounds = [first[n : n + 5] for n in range(0, 30, 5)]
    assert all(sorted(names) == sorted(first[:5]) for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1


TARGET = image.Target(vendor="vmx")
WORKER = [sys.executable, "-c", process.WORKER, str(Path(engine.__file__).parents[2])]


@needs_kvm
def test_where_ioperm_is_not_to_be_had_one_line_says_so(monkeypatch):
    for number, words in (
        (errno.ENOSYS, "ENOSYS: it needs a kernel with CONFIG_X86_IOPL_IOPERM; so no"),
        (errno.EPERM, "EPERM: it needs CAP_SYS_RAWIO"),
        (errno.EBUSY, "EBUSY: Device or resource busy; so no"),
    ):
        monkeypatch.setattr(machine, "held_bitmap_error", lambda number=number: number)
        with pytest.raises(LiveError, match=words):
            measure([workloads()["cpuid"]], Plan(ioperm="both", seconds=0.1))


@needs_kvm
def test_both_sides_with_their_control(monkeypatch):
    """As where ioperm() works; the process that measures must do without it here."""
    monkeypatch.setattr(machine, "held_bitmap_error", lambda: 0)
    asked = []
    begun = process.Process.__init__

    def init(self, job):
        asked.append(job["ioperm"])
        job["ioperm"] = False
        begun(self, job)

    monkeypatch.setattr(process.Process, "__init__", init)
    result = measure([workloads()["cpuid"]], Plan(runs=2, rounds=3, seconds=0.8, ioperm="both"))
    assert asked == [False, True, True, False]
    not_vmx = [note for note in result.notes if note.startswith("This is not VMX: ")]
    assert len(not_vmx) == (result.boots[0].host.kvm != "kvm_intel")
    assert result.configurations() == [NO_BITMAP, BITMAP]
    assert result.workloads() == ["cpuid", "syscall"]
    assert all(value > 0 for series in _of(result, "syscall") for value in series.values)


@needs_kvm
@pytest.mark.parametrize("closed", ["stdin", "stdout", "before the job"])
def test_a_worker_whose_engine_is_gone_ends_quietly(closed):
    code = workloads()["cpuid"].guest.assemble(image.CODE, TARGET).hex()
    job = worker.Job(
        cpu=machine.cpus_allowed()[0], other_cpu=None,
        tasks=[worker.Task(name="cpuid", code=code, other="", cpl=0, iterations=5)],
        rounds=10**6, limit=60, seconds=1e-3, timeout=5, seed=0, ioperm=False, control=False,
    )  # fmt: skip
    with subprocess.Popen(
        WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        if closed != "before the job":
            process.stdin.write(json.dumps(job) + "\n\n\n")
            process.stdin.flush()
            assert process.stdout.readline()
        (process.stdout if closed == "stdout" else process.stdin).close()
        if closed == "stdout":
            process.stdin.write(100 * "\n")
            process.stdin.flush()
        assert process.wait(timeout=HANGS) == 1
        assert process.stderr.read() == ""


@needs_kvm
def test_the_process_imports_no_strange_module(monkeypatch, tmp_path):
    """Neither from the current folder nor from PYTHONPATH or the user's site-packages."""
    user = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    (tmp_path / user).mkdir(parents=True)
    for folder in (tmp_path, tmp_path / user):
        for name in ("random", "json", "zlib", "sitecustomize", "usercustomize", "kvmbench"):
            (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONUSERBASE", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "random.py"))
    assert measure("cpuid", Plan(runs=1, rounds=3, seconds=0.1)).workloads() == ["cpuid"]
    assert not (tmp_path / "ran").exists()


@needs_kvm
def test_no_round_begins_before_the_engine_asks_for_it():
    job = worker.Job(
        cpu=machine.cpus_allowed()[0], other_cpu=None,
        tasks=[], rounds=0, limit=60, seconds=1e-3, timeout=5, seed=0, ioperm=False, control=False,
    )  # fmt: skip
    code = workloads()["cpuid"].guest.assemble(image.CODE, TARGET).hex()
    job["tasks"].append(worker.Task(name="cpuid", code=code, other="", cpl=0, iterations=5))
    job["rounds"] = 2
    run = process.Process(job)
    lines = run.lines()
    assert next(lines) == ["begin", "cpuid"]
    assert select.select([run.process.stdout], [], [], 0.3)[0] == []
    rest = [words[0] for words in lines]
    assert rest == ["ready", "begin", "round", "waited", "begin", "round", "waited", "end"]
    assert run.end() == "status 0"


def test_a_silent_process_is_ended(monkeypatch):
    monkeypatch.setattr(process, "SILENT", 0.1)
    monkeypatch.setattr(process, "WORKER", "import time; time.sleep(1000)")
    run = process.Process({"timeout": 0})
    assert list(run.lines()) == []
    assert run.end() == "silence: no line for 0 seconds"
    assert run.process.returncode == -signal.SIGKILL


@needs_kvm
def test_a_guest_that_stops_by_itself_is_no_row():
    early = Workload("early", guest=Program(body=lambda code, _: code.stop()))
    other = Workload("pair", guest=Program(body=_hang, other=lambda code, _: code.stop()))
    result = measure([early, "cpuid", other], Plan(runs=1, rounds=3, seconds=0.2))
    assert result.workloads() == ["cpuid"]
    skipped = result.boots[0].runs[0].skipped
    assert skipped["early"] == "the guest stopped by itself before its loop ended"


@needs_kvm
def test_no_process_and_no_thread_is_left(measured):
    def children():
        return {
            child
            for task in Path("/proc/self/task").iterdir()
            for child in (task / "children").read_text().split()
        }

    threads, before = threading.active_count(), children()
    measure([workloads()["ipi"], workloads()["cpuid"]], Plan(runs=1, rounds=3, seconds=0.3))
    deadline = time.monotonic() + HANGS
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == threads
    assert children() == before


@needs_kvm
def test_every_workload_is_measured_or_skipped_with_a_reason():
    every = (*BUILT_IN, *LIVE_ONLY)
    result = measure(every, Plan(runs=1, rounds=3, seconds=2))
    skipped = result.boots[0].runs[0].skipped
    assert sorted([*result.workloads(), *skipped]) == sorted(w.name for w in every)
    assert all(why for why in skipped.values())
