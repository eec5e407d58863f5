"""A million events of a recording, read, counted and replayed: `make bench`.

The target is 5 s for `trace show`, and memory that does not grow with the recording. trace-cmd
reads the same million events in the same run where it is installed (trace_dat.py makes its file).
"""

import resource
import shutil
import subprocess
import sys
import time

import pytest

from kvmbench.tests import trace_dat, trace_text
from kvmbench.tests.trace_text import Line

EVENTS = 1_000_000
REPEATED = 20_000  # events of one round, repeated with later stamps
JOB = "trace show, 10^6 events of perf script"


def round_of(start):
    """Return a round of events on 8 CPUs: entries, exits, some returns and switches."""
    lines, ns = [], start
    reasons = ("EPT_VIOLATION", "MSR_WRITE", "HLT", "EXTERNAL_INTERRUPT", "CPUID")
    number = 0
    while len(lines) < REPEATED:
        cpu = number % 8
        comm, pid = f"CPU {cpu}/KVM", 6660 + cpu
        reason = reasons[number % 5]
        lines.append(Line("kvm_entry", ns, comm, pid, cpu, (cpu,)))
        lines.append(Line("kvm_exit", ns + 3000, comm, pid, cpu, (cpu, reason, 0)))
        if number % 10 == 3:
            lines.append(Line("kvm_userspace_exit", ns + 4000, comm, pid, cpu, ("KVM_EXIT_IO", 2)))
        if number % 10 == 7:
            lines.append(
                Line("sched_switch", ns + 4000, comm, pid, cpu, ("S", f"swapper/{cpu}", 0))
            )
            idle = Line("sched_switch", ns + 6000, f"swapper/{cpu}", 0, cpu, ("R", comm, pid))
            lines.append(idle)
        ns += 7000
        number += 1
    return lines[:REPEATED], ns


@pytest.fixture(scope="module")
def million(tmp_path_factory):
    path = tmp_path_factory.mktemp("traces") / "million.txt"
    ns = 10**12
    with path.open("w") as file:
        for _ in range(EVENTS // REPEATED):
            lines, ns = round_of(ns)
            file.write("".join(trace_text.text(line, "perf", "5.10") for line in lines))
    return path


def timed(command):
    """Return (seconds of CPU, the largest memory in MB) of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, "
    program += "stdout=subprocess.DEVNULL); u = resource.getrusage(resource.RUSAGE_CHILDREN); "
    program += "print(u.ru_maxrss)"
    wall = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, command)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    wall = time.perf_counter() - wall
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall, int(done.stdout) / 1024


@pytest.mark.parametrize("command", ["show", "run", "scenario"])
def test_a_million_events(report, million, command):
    cpu, wall, memory = timed([sys.executable, "-m", "kvmbench", "trace", command, million])
    met = cpu < 5 and memory < 150
    figure = f"{cpu:.2f} s of CPU, {wall:.2f} s, {memory:.0f} MB"
    job = JOB.replace("show", command)
    report.figure(job, "-", figure, "5 s, 150 MB", met)


def test_trace_cmd(report, tmp_path_factory):
    if not shutil.which("trace-cmd"):
        pytest.skip("needs trace-cmd (Debian: apt-get install trace-cmd)")
    path = tmp_path_factory.mktemp("traces") / "trace.dat"
    ns, lines = 10**12, []
    for _ in range(EVENTS // REPEATED):
        more, ns = round_of(ns)
        lines += more
    path.write_bytes(trace_dat.trace_dat(lines))
    cpu, wall, memory = timed(["trace-cmd", "report", "-t", "-i", path])
    figure = f"{cpu:.2f} s of CPU, {wall:.2f} s, {memory:.0f} MB"
    report.figure(
        JOB.replace("perf script", "trace.dat"), "trace-cmd report alone", figure, "-", True
    )
    cpu, wall, memory = timed([sys.executable, "-m", "kvmbench", "trace", "show", path])
    figure = f"{cpu:.2f} s of CPU, {wall:.2f} s, {memory:.0f} MB"
    report.figure(JOB.replace("perf script", "trace.dat"), "-", figure, "-", True)
