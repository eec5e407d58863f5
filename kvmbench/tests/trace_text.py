"""Recordings as text for tests: a writer of each layout, and a slow reader by regular expressions.

Neither knows the product's reader. The layouts are the TP_printk formats of Linux 4.9, 5.10 and
6.14 (include/trace/events/sched.h, arch/x86/kvm/trace.h, include/trace/events/kvm.h), the headers
of kernel/trace/trace_output.c, and the forms of perf script and trace-cmd report.
"""

import re
from typing import NamedTuple


class Line(NamedTuple):
    """An event: `what` is its name, `fields` depends on it."""

    what: str
    ns: int
    comm: str
    pid: int
    cpu: int
    fields: tuple = ()


HEADERS = ("perf", "perf-ns", "perf-pid-tid", "tracefs", "tracefs-tgid", "tracefs-4", "trace-cmd",
           "trace-cmd-ns", "trace-cmd-flags")  # fmt: skip
AGES = ("4.9", "5.5", "5.10", "6.14")


def header(line, form):
    seconds, ns = divmod(line.ns, 10**9)
    micro = f"{seconds}.{ns // 1000:06d}"
    nano = f"{seconds}.{ns:09d}"
    task = f"{line.comm}-{line.pid}"
    both = f"{line.pid + 7:5d}/{line.pid:<5d}"
    return {
        "perf": f"{line.comm:>16} {line.pid:5d} [{line.cpu:03d}] {micro:>12}: ",
        "perf-ns": f"{line.comm:>16} {line.pid:5d} [{line.cpu:03d}] {nano:>15}: ",
        "perf-pid-tid": f"{line.comm:>16} {both} [{line.cpu:03d}] {micro}: ",
        "tracefs": f"{task:>22} [{line.cpu:03d}] d..1. {micro:>12}: ",
        "tracefs-4": f"{task:>22} [{line.cpu:03d}] .... {micro:>12}: ",
        "tracefs-tgid": f"{task:>22} ({line.pid:7d}) [{line.cpu:03d}] d..1. {micro:>12}: ",
        "trace-cmd": f"{task:>22} [{line.cpu:03d}] {micro:>12}: ",
        "trace-cmd-ns": f"{task:>22} [{line.cpu:03d}] {nano:>15}: ",
        "trace-cmd-flags": f"{task:>22} [{line.cpu:03d}] d..2.  {micro:>12}: ",
    }[form]


SYSTEMS = {"sched_switch": "sched", "sys_enter_ioperm": "syscalls", "sys_exit_ioperm": "syscalls"}


def body(line, form, age):
    f = line.fields
    if line.what == "kvm_entry":
        said = f"vcpu {f[0]}"
        if age in ("5.10", "6.14"):
            said += ", rip 0xffffffff81036706"
        if age == "6.14":
            said += " intr_info 0x80000b0e error_code 0x00000000[immediate exit]"
        return said
    if line.what == "kvm_exit":
        vcpu, reason, info = f
        if age == "4.9":
            return f"reason {reason} rip 0x3ff info {info:x} 80000b0e"
        if age == "5.5":
            return f"vcpu {vcpu} reason {reason} rip 0x3ff info {info:x} 80000b0e"
        more = " requests 0x0000000000000000" if age == "6.14" else ""
        return (f"vcpu {vcpu} reason {reason} rip 0x3ff info1 0x{info:016x} info2 "
                f"0x0000000080000b0e intr_info 0x00000000 error_code 0x00000000{more}")  # fmt: skip
    if line.what == "kvm_userspace_exit":
        return f"reason {f[0]} ({f[1]})"
    if line.what == "kvm_pio":
        return f"pio_{'write' if f[0] else 'read'} at 0x{f[1]:x} size {f[2]} count 1 val 0x4 "
    if line.what == "kvm_msr":
        return f"msr_{'write' if f[0] else 'read'} {f[1]:x} = 0x1fb1e5ac1f9"
    if line.what == "sched_switch":
        state, comm, pid = f
        if form == "trace-cmd":  # trace-cmd's plugin
            return f"{line.comm}:{line.pid} [120] {state} ==> {comm}:{pid} [120]"
        return (f"prev_comm={line.comm} prev_pid={line.pid} prev_prio=120 prev_state={state} ==> "
                f"next_comm={comm} next_pid={pid} next_prio=120")  # fmt: skip
    if line.what == "sys_enter_ioperm":
        first, count, on = f
        if form.startswith("tracefs"):
            return f"sys_ioperm(from: {first:x}, num: {count:x}, turn_on: {on:x})"
        return f"from: 0x{first:08x}, num: 0x{count:08x}, turn_on: 0x{on:08x}"
    assert line.what == "sys_exit_ioperm"
    if form.startswith("tracefs"):
        return f"sys_ioperm -> 0x{f[0]:x}"
    return f"0x{f[0]:x}"


def text(line, form, age):
    """Return the line of an event in a form, with a newline at its end."""
    said = body(line, form, age)
    if said.startswith("sys_ioperm"):
        return f"{header(line, form)}{said}\n"
    name = f"{SYSTEMS.get(line.what, 'kvm')}:{line.what}" if form.startswith("perf") else line.what
    gap = " " * (21 - len(name)) if form.startswith("trace-cmd") else " "
    return f"{header(line, form)}{name}:{gap}{said}\n"


# The slow reader

_STAMP = re.compile(r"(?<!\S)(\d{1,10})\.(\d{1,9}):(?=\s|$)")
_TASKS = (
    re.compile(r"^\s*(?P<comm>.*?)\s+(?:\d+/)?(?P<pid>-?\d+)\s+\[(?P<cpu>\d+)\]\s*$"),  # perf
    re.compile(
        r"^\s*(?P<comm>.*)-(?P<pid>\d+)\s+(?:\(\s*[-\d]+\)\s+)?\[(?P<cpu>\d+)\](?:\s+\S+)?\s*$"
    ),
)


def read(line):
    """Return (what, ns, comm, pid, cpu, fields) of a line, or None; fields as the product's."""
    stamp = _STAMP.search(line)
    if not stamp:
        return None
    ns = int(stamp[1]) * 10**9 + int(stamp[2].ljust(9, "0"))
    task = next(filter(None, (pattern.match(line[: stamp.start()]) for pattern in _TASKS)), None)
    event = re.match(r"\s*(?:\w+:)?(\w+):\s*(.*?)\s*$", line[stamp.end() :])
    syscall = re.match(r"\s*sys_ioperm(.*?)\s*$", line[stamp.end() :])
    if not task or not (event or syscall):
        return None
    what, said = (event[1], event[2]) if event else ("sys_ioperm", syscall[1])
    fields = _fields(what, said)
    if fields is None:
        return None
    return (*fields, ns, task["comm"], int(task["pid"]), int(task["cpu"]))


def _fields(what, said):
    """Return (kind, vcpu, reason or next's name, a, b, flag)."""
    vcpu = re.search(r"\bvcpu (\d+)", said)
    vcpu = int(vcpu[1]) if vcpu else -1
    if what == "kvm_entry":
        return "ENTRY", vcpu, "", 0, 0, 0
    if what in ("kvm_exit", "kvm_nested_vmexit"):
        kind = "EXIT" if what == "kvm_exit" else "NESTED_EXIT"
        if x86 := re.search(r"\breason:? (\S+)", said):
            info = re.search(r"\binfo1 0x([0-9a-f]+)(?: info2 0x([0-9a-f]+))?", said)
            info = info or re.search(r"\binfo ([0-9a-f]+) ([0-9a-f]+)", said)
            a, b = (int(n or "0", 16) for n in info.groups()) if info else (0, 0)
            return kind, vcpu, x86[1], a, b, 0
        arm = re.match(r"(\w+): HSR_EC: (0x[0-9a-f]+)(?: \((\w+)\))?", said)
        if not arm:
            return None
        reason = arm[1] if arm[1] != "TRAP" else arm[3] or arm[2]
        return kind, vcpu, reason, int(arm[2], 16) if arm[1] == "TRAP" else 0, 0, 0
    if what == "kvm_userspace_exit":
        found = re.match(r"reason (\S+) \((\d+)\)", said)
        return "USER", -1, found[1], int(found[2]), 0, 0
    if what == "kvm_pio":
        found = re.match(r"pio_(\w+) at 0x([0-9a-f]+) size (\d+)", said)
        return "PIO", -1, "", int(found[2], 16), int(found[3]), int(found[1] == "write")
    if what == "kvm_mmio":
        found = re.match(r"mmio (unsatisfied-read|read|write) .*gpa 0x([0-9a-f]+)", said)
        flag = ("read", "write", "unsatisfied-read").index(found[1])
        return "MMIO", -1, "", int(found[2], 16), 0, flag
    if what == "kvm_msr":
        found = re.match(r"msr_(\w+) ([0-9a-f]+)", said)
        return "MSR", -1, "", int(found[2], 16), 0, int(found[1] == "write")
    if what == "kvm_cpuid":
        return "CPUID", -1, "", int(re.match(r"func ([0-9a-f]+)", said)[1], 16), 0, 0
    if what == "kvm_fpu":
        return "FPU", -1, "", 0, 0, int(said == "load")
    if what.startswith("kvm_nested_"):
        return "NESTED", vcpu, "", 0, 0, 0
    if what == "sched_switch":
        found = re.match(
            r"prev_comm=.* prev_pid=(\d+) .*prev_state=(\S+) ==> next_comm=(.*) next_pid=(\d+)",
            said,
        )
        if found:
            prev, state, comm, pid = found.groups()
        else:
            found = re.match(r".*:(\d+) \[\d+\] (\S+) ==> (.*):(\d+) \[\d+\]", said)
            prev, state, comm, pid = found.groups()
        flag = 0 if state[0] == "R" else 2 if state[0] in "XZ" else 1
        return "SWITCH", -1, comm, int(prev), int(pid), flag
    if what in ("sys_enter_ioperm", "sys_ioperm", "sys_exit_ioperm"):
        asked = re.search(r"from: (\w+), num: (\w+), turn_on: (\w+)", said)
        if asked:
            first, count, on = (int(n, 16) for n in asked.groups())
            return "IOPERM", -1, "", first, count, int(on != 0)
        return "IOPERM_END", -1, "", int(said.removeprefix(" ->").strip(), 16), 0, 0
    return None
