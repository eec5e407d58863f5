"""Recordings: each layout is read as a slow reader with regular expressions reads it, and counted.

The counts of hand-counted.txt are from its lines, by hand; recordings/README.md has the origins.
"""

import gzip
import lzma
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmbench.errors import ResultError
from kvmbench.report import write
from kvmbench.tests import trace_text
from kvmbench.tests.trace_text import AGES, HEADERS, Line
from kvmbench.traces import recording as recordings
from kvmbench.traces._history import HISTOGRAM, History, bucket_value
from kvmbench.traces._reader import Reader
from kvmbench.traces.events import EVENT_DTYPE, FIRST_NAMES, Kind
from kvmbench.traces.recording import read_recording

FOLDER = Path(__file__).parent / "recordings"
LINES = [
    "trace-cmd-5.x", "tracefs-4.x", "trace_pipe-userspace", "perf-script-firecracker",
    "perf-script-pvm", "perf-script-pvm-emulated", "tracefs-arm64", "tracefs-nested",
    "hand-counted", "trace-cmd-cant-find-field",
]  # fmt: skip


def events(data):
    """Return the events of a text, each as the slow reader gives it, and the reader."""
    reader = Reader()
    found = reader.feed(data, True)
    return [
        (
            Kind(e["kind"]).name, int(e["vcpu"]), reader.names[e["reason"]], int(e["a"]),
            int(e["b"]), int(e["flag"]), int(e["time"]), reader.names[e["comm"]], int(e["pid"]),
            int(e["cpu"]),
        )
        for e in found
    ], reader  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_recordings_as_the_slow_reader_reads_them(name):
    data = (FOLDER / f"{name}.txt").read_bytes()
    found, _ = events(data)
    slow = [event for line in data.decode().splitlines() if (event := trace_text.read(line))]
    assert found == slow
    assert found


# What is known of each sample


def show(name, **options):
    return read_recording(FOLDER / f"{name}.txt", **options)


def rows(recording):
    """Return {reason: (exits, returned, put by return, put by switch, paired, host ns)}."""
    return {
        r.reason: (r.exits, r.returned, r.put_return, r.put_sched, r.paired, r.host_ns)
        for r in recording.reasons
    }


def test_hand_counted():
    """Five exits of one vCPU on one CPU, 100.000010 to 100.004246."""
    recording = show("hand-counted")
    assert rows(recording) == {
        "CPUID": (2, 0, 0, 0, 2, 2000 + 4000),  # 30 -> 32 us, 4242 -> 4246 us
        "EXTERNAL_INTERRUPT": (1, 0, 0, 1, 1, 3005_000),  # 192 -> 3197 us
        "HLT": (1, 0, 0, 1, 1, 1025_000),  # 3207 -> 4232 us
        "IO_INSTRUCTION": (1, 1, 1, 0, 1, 50_000),  # 42 -> 92 us
    }
    assert recording.seconds == pytest.approx(4236e-6, abs=1e-12)
    assert recording.cpus == (3,)
    assert recording.unread == {"(comment)": 3, "kvm_page_fault": 1}
    assert recording.lines == 25
    (vcpu,) = recording.vcpus
    assert (vcpu.label, vcpu.exits, vcpu.returned, vcpu.puts) == ("CPU 0/KVM-6660 vcpu 0", 5, 1, 3)
    # Entered 10 -> 30, 32 -> 42, 92 -> 192, 3197 -> 3207, 4232 -> 4242.
    assert vcpu.guest_ns == 150_000
    (other,) = (task for task in recording.tasks if not task.is_vcpu)
    assert (other.comm, other.bitmap) == ("Xorg", True)
    assert recording.counts["ioperms"] == 1


def test_percentiles():
    """100 exits of 1, 2 ... 100 us: half of them take at most 50 us, 99 at most 99."""
    lines, ns = [], 10**9
    for us in random.Random(3).sample(range(1, 101), 100):
        lines += [
            Line("kvm_entry", ns, "vm", 5, 0, (0,)),
            Line("kvm_exit", ns + 1000, "vm", 5, 0, (0, "HLT", 0)),
        ]
        ns += 1000 + us * 1000
    lines.append(Line("kvm_entry", ns, "vm", 5, 0, (0,)))
    recording = read(lines)
    (row,) = recording.reasons
    assert (row.paired, row.host_ns) == (100, 5050_000)
    assert row.p50_ns == pytest.approx(50_000, rel=1 / 256)
    assert row.p99_ns == pytest.approx(99_000, rel=1 / 256)


@given(st.integers(0, 2**40))
def test_buckets(ns):
    """A time stands for at most 1 part in 256 more or less: log-linear, as in HdrHistogram."""
    shift = max(ns.bit_length() - 8, 0)
    number = 128 * shift + (ns >> shift)
    assert number < HISTOGRAM
    assert abs(bucket_value(number) - ns) <= ns / 256


def read(lines, form="tracefs", age="5.10", **options):
    """Return the recording of lines, by way of a file's text."""
    data = "".join(trace_text.text(line, form, age) for line in lines).encode()
    return of_bytes(data, **options)


def of_bytes(data, *, by_vcpu=False):
    text = type("Text", (), dict(first=data[:1], share=None, name="x"))()
    text.pieces = lambda: iter([data])

    def make(reader, infer, switches):
        return History(reader.names, infer=infer, switches=switches, by_vcpu=by_vcpu)

    return recordings._recording_of("x", *recordings._read(text, make, None, None), by_vcpu)


def test_perf_on_pvm_infers_exits():
    """PVM has no kvm_exit. By grep: 20 kvm_cpuid, 20 kvm_msr, 46 kvm_userspace_exit.

    Of 46 kvm_pio, 20 reads of 0x1234 complete a userspace exit and are no exits; the same for the
    20 `mmio read` after `mmio unsatisfied-read`. The first of 21 userspace exits of task 842 has
    no pio before it.
    """
    recording = show("perf-script-pvm")
    assert recording.inferred
    assert rows(recording) == {
        "kvm_cpuid": (20, 0, 0, 0, 0, 0),
        "kvm_msr": (20, 0, 0, 0, 0, 0),
        "kvm_mmio": (20, 20, 20, 0, 0, 0),
        "kvm_pio": (46, 26, 26, 0, 0, 0),
    }
    emulated = show("perf-script-pvm-emulated")
    assert emulated.unread == {"kvm_emulate_insn": 269}
    assert sum(reason.returned for reason in emulated.reasons) == 3


def test_arm64():
    recording = show("tracefs-arm64")
    assert rows(recording) == {
        "IRQ": (1, 0, 0, 0, 1, 10_000),
        "DABT_LOW": (1, 1, 1, 0, 1, 24_000),
        "0x0016": (1, 0, 0, 0, 0, 0),
    }


def test_nested():
    """The first line tells of an exit of L2 whose kvm_exit came before the recording."""
    recording = show("tracefs-nested")
    assert {r.reason: (r.exits, r.nested) for r in recording.reasons} == {
        "VMREAD": (1, 0),
        "EPT_VIOLATION": (1, 1),
    }
    found = {r.reason: (r.exits, r.nested) for r in show("trace-cmd-cant-find-field").reasons}
    assert found == {"npf": (2, 2)}


def test_wrapped_lines():
    found, reader = events((FOLDER / "tracefs-wrapped.txt").read_bytes())
    assert [(e[0], e[2], e[6]) for e in found] == [
        ("EXIT", "EXTERNAL_INTERRUPT", 280971121000),
        ("ENTRY", "", 280971122000),
        ("EXIT", "IO_INSTRUCTION", 280971126000),
    ]
    assert found[2][3] == 0x640008
    assert reader.unread == {"tracing_mark_write": 1, "(comment)": 1}


def test_lost_events_drop_what_cannot_be_paired():
    """An exit on CPU 1 waits for its entry, a guest runs on CPU 2; both CPUs lose events."""
    data = (
        b" vm-1 [001] 10.000000: kvm_entry: vcpu 0\n vm-1 [001] 10.000010: kvm_exit: reason HLT\n"
        b" vm-2 [002] 10.000012: kvm_entry: vcpu 1\nCPU:1 [LOST 61264 EVENTS]\n"
        b"CPU:2 [LOST 3 EVENTS]\nCPU:7 [EVENTS DROPPED]\n"
        b" vm-1 [001] 10.000020: kvm_entry: vcpu 0\n vm-2 [002] 10.000030: kvm_exit: reason CPUID\n"
        b" vm-2 [002] 10.000033: kvm_entry: vcpu 1\n"
    )
    recording = of_bytes(data)
    assert rows(recording) == {"HLT": (1, 0, 0, 0, 0, 0), "CPUID": (1, 0, 0, 0, 1, 3000)}
    assert (recording.lost, recording.lost_marks) == (61267, 3)
    assert (recording.dropped_exits, recording.dropped_runs) == (1, 1)
    assert [task.guest_ns for task in recording.vcpus] == [10_000, 0]
    said = write(recording.document(), "text")
    assert "The tracer lost 61,267 events, 3 times." in said


def test_a_vcpu_that_changes_cpu():
    """Without sched_switch: the entry on CPU 5 tells that the thread left CPU 2."""
    lines = [
        Line("kvm_entry", 1000, "vm", 9, 2, (0,)),
        Line("kvm_exit", 2000, "vm", 9, 2, (0, "HLT", 0)),
        Line("kvm_entry", 9000, "vm", 9, 5, (0,)),
    ]
    recording = read(lines)
    assert rows(recording) == {"HLT": (1, 0, 0, 1, 1, 7000)}
    assert recording.counts["unseen"] == 1
    assert recording.cpus == (2, 5)


def test_two_vcpus_on_one_cpu():
    """Without sched_switch: the second's entry tells that the first was scheduled out."""
    lines = [
        Line("kvm_entry", 1000, "vm", 8, 0, (0,)),
        Line("kvm_exit", 2000, "vm", 8, 0, (0, "HLT", 0)),
        Line("kvm_entry", 3000, "vm", 9, 0, (1,)),
        Line("kvm_exit", 4000, "vm", 9, 0, (1, "CPUID", 0)),
        Line("kvm_entry", 9000, "vm", 9, 0, (1,)),
    ]
    assert rows(read(lines)) == {"HLT": (1, 0, 0, 1, 0, 0), "CPUID": (1, 0, 0, 0, 1, 5000)}
    found = read(lines, by_vcpu=True).reasons
    assert [(r.task.label, r.reason) for r in found] == [
        ("vm-8 vcpu 0", "HLT"),
        ("vm-9 vcpu 1", "CPUID"),
    ]


def test_fpu_tells_of_puts_where_switches_are_not_recorded():
    """Linux 4.x unloads the FPU in the put: without a return in between, the thread was out."""
    data = b""
    for stamp, event in [
        (10, "kvm_entry: vcpu 0"), (20, "kvm_exit: reason HLT rip 0x1 info 0 0"),
        (21, "kvm_fpu: unload"), (90, "kvm_fpu: load"), (91, "kvm_entry: vcpu 0"),
        (95, "kvm_exit: reason IO_INSTRUCTION rip 0xff info e90008 0"), (96, "kvm_fpu: unload"),
        (97, "kvm_userspace_exit: reason KVM_EXIT_IO (2)"), (99, "kvm_fpu: load"),
    ]:  # fmt: skip
        data += b"a.out-20024 [001] .... 2323301.%06d: %s\n" % (stamp, event.encode())
    assert rows(of_bytes(data)) == {
        "HLT": (1, 0, 0, 1, 1, 71_000),
        "IO_INSTRUCTION": (1, 1, 1, 0, 0, 0),
    }


def test_equal_time_stamps_keep_the_order():
    lines = [
        Line("kvm_entry", 5000, "vm", 9, 2, (0,)),
        Line("kvm_exit", 5000, "vm", 9, 2, (0, "CPUID", 0)),
        Line("kvm_entry", 5000, "vm", 9, 2, (0,)),
        Line("kvm_exit", 5000, "vm", 9, 2, (0, "HLT", 0)),
    ]
    assert rows(read(lines)) == {"CPUID": (1, 0, 0, 0, 1, 0), "HLT": (1, 0, 0, 0, 0, 0)}


@pytest.mark.parametrize(
    ("events", "said"),
    [
        # A return by a thread that was scheduled out meanwhile, and one without an entry.
        (
            [
                (1, "kvm_entry: vcpu 0"), (2, "kvm_exit: reason EPT_VIOLATION"),
                (3, "sched_switch: prev_comm=vm prev_pid=1 prev_prio=1 prev_state=D ==> "
                    "next_comm=swapper/1 next_pid=0 next_prio=1"),
                (4, "sched_switch: prev_comm=swapper/1 prev_pid=0 prev_prio=1 prev_state=R ==> "
                    "next_comm=vm next_pid=1 next_prio=1"),
                (5, "kvm_userspace_exit: reason KVM_EXIT_MMIO (6)"),
                (6, "kvm_userspace_exit: reason restart (4)"),
            ],
            ["1 return to userspace after the vCPU had been scheduled out: no second put.",
             "1 return to userspace without an entry: no put.",
             "1 exit without a recorded entry: counted, but not in the host times.",
             "1 vcpu_put(), 200,000 per second: 0 by return to userspace, 1 by being"],
        ),
        ([(1, "kvm_exit: reason HLT"), (2, "kvm_exit: reason HLT")],
         ["It has no kvm_entry: host and guest times are unknown.", "It has no sched_switch"]),
        ([(9, "kvm_entry: vcpu 0"), (1, "kvm_exit: reason HLT"), (2, "kvm_entry: vcpu 0"),
          (3, "kvm_entry: vcpu 0")],
         ["1 time out of order or above an hour: dropped.",
          "1 guest run without a recorded exit: dropped."]),
        ([(1, "kvm_entry: vcpu 0"), (2, "kvm_exit: reason HLT"), (1, "kvm_entry: vcpu 0")],
         ["1 exit without a recorded entry"]),
        ([(1, "kvm_nested_vmrun: rip: 0x1"), (2, "kvm_cpuid: func 1"), (3, "kvm_hypercall: nr 1"),
          (4, "kvm_mmio: mmio write len 4 gpa 0x3 val 0x0")],
         ["It has no kvm_exit: exits are inferred from", "3 VM exits"]),
    ],
)  # fmt: skip
def test_limits_are_said(events, said):
    lines = "".join(f"  vm-1 [001] d..1. 10.{us:06d}: {event}\n" for us, event in events)
    text = " ".join(write(of_bytes(lines.encode()).document(), "text").split())
    for words in said:
        assert words in text


def test_kvm_in_the_idle_task_is_dropped():
    data = b"<idle>-0 [001] 1.000000: kvm_entry: vcpu 0\nvm-1 [001] 1.000001: kvm_entry: vcpu 0\n"
    assert of_bytes(data).counts["strange"] == 1


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("# tracer: nop", "(comment)"),
        ("version = 6", "(no time stamp)"),
        ("\tffffffff81036706 vmx_vcpu_run+0x1 ([kvm_intel])", "(call chain)"),
        (" => vmx_vcpu_run", "(call chain)"),
        (" vm-1 [001] 1.000000: kvm_exit: rip 0x3", "kvm_exit, not understood"),
        (" vm-1 [001] 1.000000: kvm_pio: pio_poke at 0x3", "kvm_pio, not understood"),
        (" vm-1 [001] 1.000000: sched_switch: a ==> b", "sched_switch, not understood"),
        (" vm-1 [001] 1.000000: sys_ioperm(x)", "sys_ioperm, not understood"),
        (" vm-1 [001] 1.000000: kvm_apic: apic_read", "kvm_apic"),
        (" vm-1 [001] 1.000000: irq_handler_entry: irq=1", "irq_handler_entry"),
        (" vm-1 [001] 1.000000: words without a name", "(no event after the time stamp)"),
        (" vm-1 [001] 1.000000:", "(time stamp without an event)"),
        (" vm-1 [001] 123456: kvm_entry: vcpu 0", "(no time stamp)"),
        ("x" * 70_000, "(longer than 65,536 bytes)"),
    ],
)
def test_unread_lines_are_counted_by_kind(line, kind):
    found, reader = events(f"{line}\n".encode())
    assert found == []
    assert reader.unread == {kind: 1}


@pytest.mark.parametrize(
    ("header", "comm", "pid", "cpu"),
    [
        ("  qemu-system-x86-6660  [007]   398.691475:", "qemu-system-x86", 6660, 7),
        ("CPU 0/KVM 1234 [012] 398.691475:", "CPU 0/KVM", 1234, 12),
        ("CPU 0/KVM 1230/1234 [012] 398.691475:", "CPU 0/KVM", 1234, 12),
        ("   CPU 0/KVM-82557 [002] ... 398.691475:", "CPU 0/KVM", 82557, 2),
        ("kworker/33:0-eve 9 [033] 398.691475:", "kworker/33:0-eve", 9, 33),
        ("<idle>-0 (-------) [000] d..2. 398.691475:", "<idle>", 0, 0),
        (":-1 -1 [000] 398.691475:", ":-1", -1, 0),
        ("preempt_test 398.691475:", "preempt_test", -1, -1),
        ("[001]   398.691475:", "", -1, 1),
        ("qemu 77 398.691475:", "qemu", 77, -1),
        (">> vm-1 [001] d.... 398.691475:", "vm", 1, 1),
        ("a 1.2: b-7 [001] 398.691475:", "a", -1, -1),  # a stamp in the name: the first one counts
    ],
)
def test_headers(header, comm, pid, cpu):
    found, reader = events(f"{header} kvm:kvm_entry: vcpu 0, rip 0x1\n".encode())
    if header.startswith("a 1.2"):
        assert found == []
        assert reader.unread == {"(no event after the time stamp)": 1}
        return
    ((*_, ns, found_comm, found_pid, found_cpu),) = found
    assert (ns, found_comm, found_pid, found_cpu) == (398691475000, comm, pid, cpu)


def test_perf_prints_a_period():
    found, _ = events(b"vm 7 [001] 1.000000:          1        kvm:kvm_entry: vcpu 3\n")
    assert found[0][:2] == ("ENTRY", 3)


# Every layout, read back


COMMS = st.sampled_from(["CPU 0/KVM", "fc_vcpu 1", "qemu-system-x86", "a", "kworker/3:1", "x:y-z"])
PIDS = st.integers(1, 4_000_000)
REASONS = st.sampled_from(["HLT", "IO_INSTRUCTION", "EPT_VIOLATION", "npf", "io", "0x4c"])
FIELDS = {
    "kvm_entry": st.tuples(st.integers(0, 255)),
    "kvm_exit": st.tuples(st.integers(0, 255), REASONS, st.integers(0, 2**63 - 1)),
    "kvm_userspace_exit": st.sampled_from([("KVM_EXIT_IO", 2), ("restart", 4), ("error", 22)]),
    "kvm_pio": st.tuples(st.booleans(), st.integers(0, 65535), st.sampled_from([1, 2, 4])),
    "kvm_msr": st.tuples(st.booleans(), st.integers(0, 2**32 - 1)),
    "sched_switch": st.tuples(st.sampled_from(["R", "R+", "S", "D|W", "X", "Z"]), COMMS, PIDS),
    "sys_enter_ioperm": st.tuples(
        st.integers(0, 65535), st.integers(1, 65536), st.sampled_from([0, 1])
    ),
    "sys_exit_ioperm": st.sampled_from([(0,), (2**64 - 22,)]),
}


@st.composite
def lines(draw):
    what = draw(st.sampled_from(sorted(FIELDS)))
    ns = draw(st.integers(0, 9 * 10**15 - 1)) * 1000
    return Line(what, ns, draw(COMMS), draw(PIDS), draw(st.integers(0, 999)), draw(FIELDS[what]))


def expected(line, age):
    """Return the event of a line: kind, vCPU, reason, a, b, flag."""
    match line.what, line.fields:
        case "kvm_entry", (vcpu,):
            return "ENTRY", vcpu, "", 0, 0, 0
        case "kvm_exit", (vcpu, reason, info):
            return "EXIT", vcpu if age != "4.9" else -1, reason, info, 0x80000B0E, 0
        case "kvm_userspace_exit", (reason, number):
            return "USER", -1, reason, number, 0, 0
        case "kvm_pio", (writes, port, size):
            return "PIO", -1, "", port, size, int(writes)
        case "kvm_msr", (writes, index):
            return "MSR", -1, "", index, 0, int(writes)
        case "sched_switch", (state, comm, pid):
            flag = {"R": 0, "X": 2, "Z": 2}.get(state[0], 1)
            return "SWITCH", -1, comm, line.pid, pid, flag
        case "sys_enter_ioperm", (first, count, on):
            return "IOPERM", -1, "", first, count, on
        case "sys_exit_ioperm", (result,):
            return "IOPERM_END", -1, "", result if result < 2**63 else result - 2**64, 0, 0
    raise AssertionError(line)


@settings(deadline=None)
@given(st.lists(lines(), max_size=8), st.sampled_from(HEADERS), st.sampled_from(AGES), st.data())
def test_every_layout_is_read_back(written, form, age, data):
    text = "".join(trace_text.text(line, form, age) for line in written).encode()
    found, reader = events(text)
    assert reader.unread == {}
    assert found == [(*expected(x, age), x.ns, x.comm, x.pid, x.cpu) for x in written]
    # The pieces in which the text comes change nothing.
    reader, pieces = Reader(), []
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        pieces.append(reader.feed(text[start:end], end == len(text) and start == ([0, *cuts][-1])))
    whole = Reader()
    assert np.concatenate(pieces).tobytes() == whole.feed(text, True).tobytes()


# Hostile input

SAMPLES = b"".join((FOLDER / f"{name}.txt").read_bytes()[:3000] for name in LINES)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_hostile_lines_never_raise(data):
    """Cut, doubled and spoilt lines: each is an event, a wrapped header or counted as unread."""
    parts = []
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(SAMPLES)))
        parts.append(SAMPLES[start : start + data.draw(st.integers(0, 200))])
        parts.append(data.draw(st.binary(max_size=12)))
    text = b"".join(parts)
    found, reader = events(text)
    filled = sum(bool(line.strip(b" \t\r").lstrip(b"> \t")) for line in text.split(b"\n"))
    assert len(found) + sum(reader.unread.values()) <= filled
    if not any(line.rstrip().endswith(b":") for line in text.split(b"\n")):
        assert len(found) + sum(reader.unread.values()) == filled
    if any(event[0] in ("ENTRY", "EXIT", "USER", "PIO", "MSR", "CPUID") for event in found):
        recording = of_bytes(text)
        assert write(recording.document(), "json")
        assert write(recording.document(), "text")


def test_names_have_a_limit():
    """65,000 names: the later ones become one, and nothing else happens."""
    data = b"".join(b"t%d-1 [000] 1.000000: kvm_entry: vcpu 0\n" % i for i in range(61_000))
    reader = Reader()
    found = reader.feed(data, True)
    assert len(reader.names) == 60_000
    assert reader.names[found[-1]["comm"]] == "(other)"
    unknown = b"".join(b"t-1 [000] 1.000000: event_%d: x\n" % i for i in range(2000))
    reader.feed(unknown, True)
    assert len(reader.unread) <= 1001
    assert sum(reader.unread.values()) == 2000


def test_a_line_without_an_end():
    reader = Reader()
    for _ in range(40):
        assert len(reader.feed(b"x" * 10_000)) == 0
    found = reader.feed(b"\nvm-1 [000] 1.000000: kvm_entry: vcpu 0\n", True)
    assert len(found) == 1
    assert reader.unread == {"(longer than 65,536 bytes)": 1}


def test_more_tasks_than_a_machine_has():
    """70,000 short-lived tasks: their places are used again; 70,000 vCPUs are refused."""
    names = list(FIRST_NAMES)
    rows = np.zeros(70_000, EVENT_DTYPE)
    rows["time"], rows["kind"], rows["flag"] = np.arange(70_000), Kind.SWITCH, 1
    rows["a"] = rows["pid"] = np.arange(1, 70_001)
    rows["b"] = np.arange(2, 70_002)
    rows["vcpu"] = -1
    history = History(names, infer=False, switches=True)
    assert history.feed(rows) == 70_000
    history.end()
    assert history.plain["tasks"] >= 70_000
    rows["kind"], rows["cpu"] = Kind.ENTRY, 0
    history = History(names, infer=False, switches=False)
    with pytest.raises(ResultError, match="more than 65,536 vCPUs"):
        history.feed(rows)
    rows["cpu"] = np.arange(70_000)
    with pytest.raises(ResultError, match="more than 1,024 CPUs"):
        History(names, infer=False, switches=False).feed(rows)


def test_history_takes_events_only():
    history = History(list(FIRST_NAMES), infer=False, switches=False)
    with pytest.raises(TypeError, match="EVENT_DTYPE"):
        history.feed(np.zeros(3))
    with pytest.raises(ValueError, match="start is 4, not in 0 to 3"):
        history.feed(np.zeros(3, EVENT_DTYPE), 4)


# Files


def test_packed_files(tmp_path):
    data = (FOLDER / "hand-counted.txt").read_bytes()
    for name, pack in (("a.gz", gzip.compress), ("a.xz", lzma.compress)):
        (tmp_path / name).write_bytes(pack(data))
        assert rows(read_recording(tmp_path / name)) == rows(show("hand-counted"))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(data)[:-9])
    with pytest.raises(ResultError, match=r"cut\.gz: damaged"):
        read_recording(tmp_path / "cut.gz")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"no trace at all\n", "no event in 1 lines; kvmbench reads the text of perf script"),
        (b"\x7fELF\x02\0\0\0", "a binary file, neither a trace.dat nor a perf.data"),
        (
            b"a 1 [000] 1.000000: sched:sched_switch: prev_comm=a prev_pid=1 prev_prio=1 "
            b"prev_state=S ==> next_comm=b next_pid=2 next_prio=1\n",
            "no event of KVM in 1 lines: record with `perf record -a -e 'kvm:*,sched:sched",
        ),
    ],
)
def test_files_without_a_recording(tmp_path, content, said):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(ResultError) as error:
        read_recording(path)
    assert said in str(error.value)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("magic", "said"),
    [
        (b"\x17\x08\x44tracing6\0", "trace-cmd report -t -i"),
        (b"PERFILE2\0\0", "perf script --show-lost-events"),
    ],
)
def test_binary_recordings_name_the_command(tmp_path, monkeypatch, magic, said):
    path = tmp_path / "x.dat"
    path.write_bytes(magic)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResultError, match="is not installed: run `") as error:
        read_recording(path)
    assert said in str(error.value)
    assert "| kvmbench trace show -`" in str(error.value)
    program = tmp_path / said.split()[0]
    program.write_text("#!/bin/sh\necho broken header >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(ResultError, match="failed: broken header"):
        read_recording(path)
    program.write_text(f"#!/bin/sh\n/bin/cat {FOLDER / 'hand-counted.txt'}\n")
    assert rows(read_recording(path)) == rows(show("hand-counted"))
