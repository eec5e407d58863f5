"""Replays: a recording's operations do what its events tell, checked by hand and by a small kernel.

The small kernel below makes random histories of vCPU threads and other tasks, and counts its own
exits, returns and puts; docs/trace.md says which events it must give.
"""

import random
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmbench import Costs, ExitKind, Machine, Policy, Profile, load_scenario, policies, profiles
from kvmbench.errors import ResultError
from kvmbench.tests import trace_dat, trace_text
from kvmbench.tests.trace_text import Line
from kvmbench.traces._history import History
from kvmbench.traces.events import EVENT_DTYPE, FIRST_NAMES, Kind
from kvmbench.traces.host import recorded_scenario, scenario_toml
from kvmbench.traces.recording import read_recording
from kvmbench.traces.replay import Kinds, replay_recording

FOLDER = Path(__file__).parent / "recordings"
PROFILE = profiles()["patch-2017"]
HAND = FOLDER / "hand-counted.txt"


def test_a_recording_of_the_lab_has_the_counts_of_its_emulator():
    """18 VM exits and 10 LTRs, counted outside the kernel while it was recorded.

    The first exit is the fault of fetching the guest's first instruction: the kernel sees it, and
    the emulator, which counts at guest instructions, does not. The one reload too many is of the
    task that holds the bitmap: it gets the CPU to die, and never returns to userspace.
    """
    replay = replay_recording(FOLDER / "lab-6.12-vmx.txt", "exit-to-user", "eager")
    assert replay.before.exits == 18 + 1
    assert replay.before.reloads == 10 + 1
    # 5 iterations and as many to warm up return for their IN, and 4 times to begin and end a round.
    assert replay.before.puts == replay.after.reloads == 2 * 5 + 4
    assert (replay.before.leaks, replay.before.denials, replay.before.faults) == (0, 0, 0)


def test_nulls_are_shown():
    """A sync of TIF without a map at each VM exit: as many nulls as exits."""
    policy = Policy("p", vm_exit=("set_tif", "sync_map"))
    replay = replay_recording(HAND, after=policy)
    assert (replay.before.nulls, replay.after.nulls) == (0, replay.after.exits)
    shown = str(replay)
    assert re.search(rf"nulls +count +0 +{replay.after.exits} ", shown)
    assert "nulls" not in str(replay_recording(HAND))


def test_hand_counted():
    """The costs of patch-2017, times the events of hand-counted.txt.

    Four entries load guest state, three puts restore the host's; six switches. Xorg's first
    ioperm() finds the limit stale under `deferred`: the one reload that is left. Its map of 992
    ports has 128 bytes: copied once, wiped once.
    """
    replay = replay_recording(HAND)
    shared = {
        "guest": 150 * 2600,  # us of guest runs, at 2.6 GHz
        "work": (3000 + 20) * 2600,  # make, Xorg
        "idle": 1000 * 2600,
        "exit": 2 * 1291 + 2339 + 2 * 1291,  # CPUID twice, IN, the interrupts of two switches
        "user": 3268,
        "host": 4 * 250 + 3 * 350,
        "switch": 6 * 2000,
        "ioperm": 400,
        "map": 2 * (30 + 2 * 2),
        "io": 0,
    }
    assert dict(replay.before.cycles) == shared | {"tr": 3 * (20 + 462)}
    assert dict(replay.after.cycles) == shared | {"tr": 3 * 2 + 2 + 20 + 462}
    assert (replay.before.reloads, replay.after.reloads) == (3, 1)
    assert replay.before.exits == replay.after.exits == 5
    assert replay.before.puts == replay.after.puts == 3
    assert replay.worth == 3 * 482 - 490
    worths = {task.comm: worth for task, worth in replay.worths}
    assert worths == {"CPU 0/KVM": 3 * 480, "Xorg": -484}
    assert replay.cpu_cycles == pytest.approx(4236e-6 * 2.6e9, abs=1)
    assert replay.worth_percent == pytest.approx(100 * 956 / (4236e-6 * 2.6e9), rel=1e-6)


def test_bitmaps_by_name_and_pid():
    """A vCPU thread that holds a bitmap reloads at each put under `deferred` too."""
    for wanted in ("6660", "CPU*"):
        replay = replay_recording(HAND, bitmaps=[wanted])
        assert replay.after.reloads >= 3
        assert [task.bitmap for task, _ in replay.worths] == [True, True]
    with pytest.raises(
        ResultError, match="no task of the recording is 'Xorgg'; did you mean 'Xorg'"
    ):
        replay_recording(HAND, bitmaps=["Xorgg"])


@pytest.mark.parametrize(
    ("reason", "info", "more", "said"),
    [
        ("IO_INSTRUCTION", 0xE90008, "", "IO_INSTRUCTION IN"),  # VMX: bit 3 of the qualification
        ("IO_INSTRUCTION", 0xE90000, "", "IO_INSTRUCTION OUT"),
        ("io", 0xE90011, "", "io IN"),  # SVM: bit 0
        ("io", 0xE90010, "", "io OUT"),
        ("IO_INSTRUCTION", 0xE90008, "kvm_pio: pio_write at 0xe9 size 1 count 1 val 0x3 ",
         "IO_INSTRUCTION OUT"),  # the event knows it better
        ("HLT", 8, "", "HLT"),
    ],
)  # fmt: skip
def test_direction_of_a_port_access(tmp_path, reason, info, more, said):
    events = ["kvm_entry: vcpu 0", f"kvm_exit: reason {reason} rip 0xff info {info:x} 0", more]
    stamped = [f"a-5 [001] .... 10.00000{i}: {event}" for i, event in enumerate(events) if event]
    path = tmp_path / "x"
    path.write_text("\n".join([*stamped, "a-5 [001] d..1 10.000009: kvm_entry: vcpu 0"]))
    kind = {"IN": "inl_from_kernel", "OU": "outl_to_kernel"}.get(said[-3:].strip()[:2])
    kinds = replay_recording(path).kinds
    assert list(kinds) == [f"{said}, in the kernel"]
    assert kind in (None, kinds[f"{said}, in the kernel"])


def test_kinds():
    kinds = Kinds(PROFILE)
    found = {
        ("CPUID", False, None): "cpuid",
        ("cpuid", False, None): "cpuid",
        ("EXIT_REASON_CPUID", False, None): "cpuid",
        ("kvm_cpuid", False, None): "cpuid",
        ("vmmcall", False, None): "vmcall",
        ("IO_INSTRUCTION", False, False): "inl_from_kernel",
        ("io", False, True): "outl_to_kernel",
        ("IO_INSTRUCTION", True, False): "inl_from_qemu",
        ("EPT_VIOLATION", False, None): "outl_to_kernel",
        ("EPT_MISCONFIG", True, None): "inl_from_qemu",
        ("", True, None): "inl_from_qemu",
    }
    for asked, name in found.items():
        assert kinds.name(*asked) == name
        assert kinds.index(*asked) == PROFILE.kind_index(name)
    assert kinds.used["IO_INSTRUCTION IN, in the kernel"] == "inl_from_kernel"
    chosen = Kinds(PROFILE, {"HLT": "vmcall", "HLT/user": "inl_from_pmtimer"})
    assert chosen.name("HLT", False, None) == "vmcall"
    assert chosen.name("EXIT_HLT", True, None) == "inl_from_pmtimer"


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"HLT": "inl_from_qemu"}, "HLT=inl_from_qemu: expected an exit kind that the kernel"),
        ({"HLT/user": "cpuid"}, "HLT/user=cpuid: expected an exit kind that returns to userspace"),
        ({"HLT": "mov_to_cr8"}, "HLT=mov_to_cr8: expected an exit kind that the kernel handles"),
        ({"HLT": "cpuidd"}, "did you mean 'cpuid'"),
    ],
)
def test_wrong_kinds(chosen, said):
    with pytest.raises(ValueError, match=said):
        Kinds(PROFILE, chosen)


def test_a_profile_without_a_way_to_userspace():
    costs = Costs(**dict.fromkeys(Costs.__slots__, 1))
    with pytest.raises(ValueError, match="'x' has no exit kind that returns to userspace"):
        Kinds(Profile("x", costs, (ExitKind("mine", 5),)))
    both = Profile("x", costs, (ExitKind("mine", 5), ExitKind("far", 5, user=True)))
    assert Kinds(both).name("HLT", True, None) == "far"


def test_clock():
    fast = replay_recording(HAND, clock_hz=5_200_000_000)
    assert fast.before.cycles["guest"] == 2 * 390_000
    assert fast.clock_hz == 5_200_000_000
    with pytest.raises(ValueError, match="clock_hz is 5, not in"):
        replay_recording(HAND, clock_hz=5)


def test_arm64_has_no_tr():
    with pytest.raises(ResultError, match="exits of arm64, which has no TR to reload"):
        replay_recording(FOLDER / "tracefs-arm64.txt")


# A small kernel


@dataclass
class Thread:
    pid: int
    comm: str
    vcpu: int = -1
    state: str = "user"  # guest, host
    loaded: bool = False
    opened: int | None = None
    reason: str = ""


@dataclass
class Kernel:
    """Runs threads on CPUs at random, and writes down the events and the counts."""

    seed: int
    least: int = 0  # us between two steps, which may be on two CPUs
    lines: list = field(default_factory=list)
    exits: int = 0
    returned: int = 0
    put_return: int = 0
    put_sched: int = 0
    host_ns: int = 0
    guest_ns: int = 0
    entered: dict = field(default_factory=dict)

    def __post_init__(self):
        self.rng = random.Random(self.seed)
        self.now = 10**12
        self.idle = Thread(0, "swapper")
        threads = [Thread(100 + i, f"CPU {i}/KVM", i) for i in range(3)]
        self.queue = [*threads, Thread(50, "make"), Thread(51, "Xorg")]
        self.current = [self.idle, self.idle]
        for _ in range(self.rng.randrange(200)):
            self.now += (self.least + self.rng.randrange(50)) * 1000
            cpu = self.rng.randrange(2)
            thread = self.current[cpu]
            if thread.vcpu < 0 or self.rng.random() < 0.15:
                self.switch(cpu)
            else:
                self.step(cpu, thread)

    def emit(self, cpu, what, *fields):
        thread = self.current[cpu]
        self.lines.append(Line(what, self.now, thread.comm, thread.pid, cpu, fields))

    def switch(self, cpu):
        thread = self.current[cpu]
        if thread.state == "guest":
            self.exit(cpu, thread, "EXTERNAL_INTERRUPT")
        if thread.comm == "Xorg" and self.rng.random() < 0.5:
            self.emit(cpu, "sys_enter_ioperm", 0x3C0, 32, self.rng.randrange(2))
            self.emit(cpu, "sys_exit_ioperm", 0)
        ready = [t for t in self.queue if t not in self.current]
        next_ = self.rng.choice([*ready, self.idle]) if ready else self.idle
        if next_ is thread:
            return
        state = "R" if thread.reason != "HLT" or thread is self.idle else "S"
        self.emit(cpu, "sched_switch", state, next_.comm, next_.pid)
        if thread.loaded:
            thread.loaded = False
            self.put_sched += 1
        self.current[cpu] = next_

    def exit(self, cpu, thread, reason):
        self.emit(cpu, "kvm_exit", thread.vcpu, reason, self.rng.choice([0, 8, 1]) | 0x5658 << 16)
        self.guest_ns += self.now - self.entered[thread.pid]
        thread.state, thread.opened, thread.reason = "host", self.now, reason
        self.exits += 1

    def step(self, cpu, thread):
        if thread.state == "guest":
            reasons = ["HLT", "CPUID", "IO_INSTRUCTION", "EPT_VIOLATION"]
            self.exit(cpu, thread, self.rng.choice(reasons))
        elif thread.state == "host" and self.rng.random() < 0.4:
            self.emit(cpu, "kvm_userspace_exit", "KVM_EXIT_IO", 2)
            self.returned += 1
            self.put_return += thread.loaded
            thread.loaded, thread.state = False, "user"
        else:
            self.emit(cpu, "kvm_entry", thread.vcpu)
            if thread.opened is not None:
                self.host_ns += self.now - thread.opened
            thread.opened, thread.state, thread.loaded = None, "guest", True
            self.entered[thread.pid] = self.now

    def text(self, form="tracefs", age="5.10"):
        return "".join(trace_text.text(line, form, age) for line in self.lines)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32), st.sampled_from(["tracefs", "perf", "trace-cmd"]))
def test_random_histories(tmp_path_factory, seed, form):
    kernel = Kernel(seed)
    if not kernel.exits:
        return
    path = tmp_path_factory.mktemp("traces", numbered=True) / "x.txt"
    path.write_text(kernel.text(form))
    recording = read_recording(path)
    assert recording.unread == {}
    assert recording.exits == kernel.exits
    assert sum(reason.returned for reason in recording.reasons) == kernel.returned
    assert (recording.put_return, recording.put_sched) == (kernel.put_return, kernel.put_sched)
    assert sum(reason.host_ns for reason in recording.reasons) == kernel.host_ns
    assert sum(task.guest_ns for task in recording.tasks) == kernel.guest_ns
    assert recording.counts["unseen"] == 0
    replay = replay_recording(path, "eager", "exit-to-user")
    puts = kernel.put_return + kernel.put_sched
    for side in (replay.before, replay.after):
        assert (side.exits, side.puts) == (kernel.exits, puts)
        assert (side.leaks, side.denials, side.faults) == (0, 0, 0)
        assert side.cycles["guest"] == pytest.approx(kernel.guest_ns * 2.6, abs=kernel.exits)
    assert replay.before.reloads == puts  # the kernel's own, under eager
    assert len(replay.worths) == len(recording.tasks)


def test_without_bitmaps_a_put_is_worth_480_cycles(tmp_path):
    """20 + 462 less the 2 of a mark: patch-2017's own saving."""
    for seed in range(20):
        kernel = Kernel(seed)
        text = "".join(
            trace_text.text(line, "perf", "6.14")
            for line in kernel.lines
            if "ioperm" not in line.what
        )
        if not kernel.exits:
            continue
        (tmp_path / "x").write_text(text)
        replay = replay_recording(tmp_path / "x")
        assert replay.worth == 480 * (kernel.put_return + kernel.put_sched)
        assert {t.pid: worth for t, worth in replay.worths} == {
            t.pid: 480 * t.puts for t in replay.recording.vcpus
        }
        assert replay.worth_of_others == 0


@pytest.mark.parametrize("seed", [1, 5, 11])
def test_trace_cmd_prints_what_is_read(tmp_path, seed):
    """The same history as a trace.dat: trace-cmd prints it, in the layouts of its plugins."""
    if not shutil.which("trace-cmd"):
        pytest.skip("needs trace-cmd (Debian: apt-get install trace-cmd)")
    kernel = Kernel(seed, least=1)
    lines = [line for line in kernel.lines if "ioperm" not in line.what]
    (tmp_path / "trace.dat").write_bytes(trace_dat.trace_dat(lines))
    recording = read_recording(tmp_path / "trace.dat")
    assert recording.events == len(lines)
    assert recording.exits == kernel.exits > 10
    assert sum(reason.returned for reason in recording.reasons) == kernel.returned
    assert (recording.put_return, recording.put_sched) == (kernel.put_return, kernel.put_sched)
    assert sum(reason.host_ns for reason in recording.reasons) == kernel.host_ns
    assert sum(task.guest_ns for task in recording.tasks) == kernel.guest_ns


# Any events


NAMES = [*FIRST_NAMES, "HLT", "IO_INSTRUCTION", "io", "KVM_EXIT_IO", "restart", "<...>", "Xorg"]


@st.composite
def any_events(draw):
    rng = random.Random(draw(st.integers(0, 2**32)))
    rows = np.zeros(draw(st.integers(0, 120)), EVENT_DTYPE)
    time = 10**6
    for row in rows:
        time = max(0, time + rng.choice([0, 10, 1000, 10**6, -500, 5, 4 * 10**12]))
        kind = rng.choice([*Kind, *[Kind.ENTRY, Kind.EXIT, Kind.USER, Kind.SWITCH] * 3])
        row["time"], row["kind"] = time, kind
        row["pid"], row["cpu"] = rng.choice([-1, 0, 1, 2, 3]), rng.choice([-1, 0, 0, 1])
        row["vcpu"], row["comm"] = rng.choice([-1, 0, 1]), rng.randrange(len(NAMES))
        row["reason"] = rng.randrange(len(NAMES) - 1) + 1
        row["flag"], row["a"] = rng.randrange(3), rng.choice([0, 1, 2, 3, 6, 8, 0x378, 70000])
        row["b"] = rng.choice([0, 1, 2, 3, 65536])
        if kind == Kind.SWITCH:
            row["a"], row["b"] = rng.randrange(4), rng.randrange(4)
    return rows


@settings(deadline=None, max_examples=150)
@given(any_events(), st.booleans(), st.booleans(), st.booleans())
def test_any_events_are_operations_of_a_machine(rows, infer, switches, bitmaps):
    """Whatever the order, the machine takes them, and its puts are those that are counted."""
    kinds = Kinds(PROFILE)
    history = History(
        NAMES, infer=infer, switches=switches, hz=2_600_000_000, kind=kinds.index,
        holds=(lambda pid, comm: comm == "Xorg" or pid == 3) if bitmaps else None,
    )  # fmt: skip
    machines = [Machine(64, 64, policy, kinds.extended()) for policy in policies()]

    def run():
        ops, owners = history.take()
        assert len(ops) == len(owners)
        for machine in machines:
            machine.run(ops)

    at = 0
    while at < len(rows):
        at = history.feed(rows, at)
        run()
    history.end()
    run()
    counts = history.counts()
    puts = sum(count["put_return"] + count["put_sched"] for count in counts)
    for machine in machines:
        assert machine.counters["puts"].sum() == puts
        assert machine.counters["leaks"].sum() == machine.counters["faults"].sum() == 0
    assert machines[0].counters["reloads"].sum() == puts
    assert all(count["paired"] + count["unpaired"] <= count["exits"] for count in counts)


# Scenarios


def test_the_scenario_of_hand_counted():
    """One vCPU, 150 us of guest in five runs; it slept once, make and Xorg once each."""
    scenario, recording = recorded_scenario(HAND)
    assert (scenario.cpus, scenario.clock_hz) == (1, 2_600_000_000)
    assert scenario.seconds == pytest.approx(4236e-6)
    vm, others, holders = scenario.tasks
    # Two EXITs of CPUID and one IN to userspace; the other two exits are switches.
    assert dict(vm.mix) == {"cpuid": 2, "inl_from_qemu": 1}
    assert (vm.count, vm.guest_us) == (1, 50)
    # On the CPU 10 -> 195, 3195 -> 3210, 4230 -> 4246: 216 of 4236 us.
    assert (vm.run_us, vm.sleep_us) == (150, 4236 - 216)
    assert (others.type, others.count, others.run_us, others.sleep_us) == ("plain", 1, 3000, 1236)
    assert (holders.ioperm, holders.run_us, holders.sleep_us) == (True, 20, 4216)
    assert scenario.timeslice_us == 185  # the one slice that a preemption ended
    text = scenario_toml(scenario, recording, "patch-2017")
    assert '# profile "patch-2017"' in text


def test_a_written_scenario_is_the_same_scenario(tmp_path):
    path = tmp_path / "rec.txt"
    path.write_text(Kernel(5).text("perf"))
    scenario, recording = recorded_scenario(path)
    (tmp_path / "host.toml").write_text(scenario_toml(scenario, recording, "patch-2017"))
    assert load_scenario(tmp_path / "host.toml") == scenario
    assert scenario.with_value("seconds", 0.001).compare().before.operations > 0


def test_bursts_have_the_recorded_shares(tmp_path):
    """Run and sleep are sums over the sleeps: three threads share two CPUs, so one always waits."""
    kernel = Kernel(12)
    path = tmp_path / "rec.txt"
    path.write_text(kernel.text("perf"))
    scenario, recording = recorded_scenario(path)
    vm = scenario.tasks[0]
    sleeps = sum(
        line.what == "sched_switch" and line.pid >= 100 and line.fields[0] == "S"
        for line in kernel.lines
    )
    assert sleeps == 5
    assert vm.run_us * sleeps == pytest.approx(kernel.guest_ns / 1e3, rel=1e-5)
    total = recording.seconds * 1e6
    assert total * 0.999 <= vm.sleep_us * sleeps <= 3 * total


def test_a_recording_without_guest_runs_is_no_scenario():
    with pytest.raises(ResultError, match="no guest run with a recorded entry and exit"):
        recorded_scenario(FOLDER / "perf-script-pvm.txt")
