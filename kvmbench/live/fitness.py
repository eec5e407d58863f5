"""Is this host fit to measure? Each fact, its effect on a figure, and the remedy.

`kvmbench host` prints the findings.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kvmbench.errors import LiveError
from kvmbench.live.host import host, stolen
from kvmbench.live.machine import IOPERM_REMEDIES, NOT_VMX, cpus_allowed, held_bitmap_error, offer
from kvmbench.results import Host
from kvmbench.workloads import BUILT_IN, LIVE_ONLY

__all__ = ["Finding", "findings"]

SAMPLE = 0.3  # seconds over which load and steal are sampled
LOAD = 0.25  # runnable tasks per CPU over the last minute, above which a host is loaded


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact: `good`; something to `mind` when reading figures; or `bad`: no figure at all."""

    level: Literal["good", "mind", "bad"]
    name: str
    value: str
    effect: str = ""  # on a figure
    remedy: str = ""  # a command, or a requirement


def _good(name: str, value: str, effect: str = "") -> Finding:
    return Finding("good", name, value, effect)


def _mind(name: str, value: str, effect: str, remedy: str = "") -> Finding:
    return Finding("mind", name, value, effect, remedy)


def findings(facts: Host | None = None, root: str | Path = "/") -> Iterator[Finding]:
    """Yield the findings, the device first; this takes SAMPLE seconds.

    `facts` are the host's, by default those below `root`.
    """
    facts = facts or host(root)
    for find in (_device, _clock, _frequency, _sharing, _sleep, _interruptions):
        yield from find(facts)
    yield from _noise(Path(root))


def _device(facts: Host) -> Iterator[Finding]:
    try:
        offered = offer()
    except LiveError as error:
        effect = "nothing can be measured"
        yield Finding("bad", "/dev/kvm", "cannot be used", effect, str(error))
        return
    yield _good("/dev/kvm", "can be used")
    yield _vendor(facts)
    if offered.capabilities["stats_fd"]:
        yield _good("KVM's counters", "can be read")
    else:
        effect = "kvmbench cannot see that a row does not exit, or is emulated"
        yield _mind("KVM's counters", "no KVM_GET_STATS_FD", effect, "Linux 5.14 or newer")
    if not offered.quirk_off:
        effect = (
            "KVM rewrites a vmcall that is not the vendor's at its first use, or retries it for "
            "ever; kvmbench uses the vendor's"
        )
        remedy = "Linux 5.19 or newer can turn it off"
        yield _mind("hypercalls", "patched by KVM", effect, remedy)
    if len(cpus_allowed()) < 2:
        names = [w.name for w in (*BUILT_IN, *LIVE_ONLY) if "second_cpu" in w.needs]
        effect = (
            f"kvmbench skips {', '.join(names[:-1])} and {names[-1]}; everything on this host "
            "shares the CPU with the guest"
        )
        yield _mind("CPUs", "1", effect)
    if number := held_bitmap_error():
        effect = "--ioperm on and both cannot be measured"
        remedy = IOPERM_REMEDIES.get(number, os.strerror(number))
        yield _mind("ioperm()", errno.errorcode.get(number, str(number)), effect, remedy)
    else:
        vmx = facts.kvm == "kvm_intel"
        yield _good("ioperm()", "works") if vmx else _mind("ioperm()", "works", NOT_VMX)


def _vendor(facts: Host) -> Finding:
    name = {"kvm_intel": "VMX", "kvm_amd": "SVM", "kvm_pvm": "PVM"}.get(facts.kvm or "")
    if name is None:
        return _mind("KVM", "no vendor module known", "the meaning of a figure is unknown")
    if name == "PVM":
        effect = (
            "KVM emulates guest code at CPL 0 instruction by instruction: its rows are the "
            "emulator's cost, not a VM exit's; only rows at CPL 3 leave a guest that runs"
        )
        remedy = "measure on a host with VMX or SVM"
        return _mind("KVM", "PVM, without VMX or SVM", effect, remedy)
    if facts.facts.get("hypervisor") == "yes":
        effect = (
            "each VM exit goes through that hypervisor, which costs many times its own; figures "
            "are of the two together"
        )
        remedy = "measure on a host whose CPUID shows none"
        return _mind("KVM", f"{name}; CPUID shows a hypervisor", effect, remedy)
    return _good("KVM", f"{name}; CPUID shows no hypervisor")


def _clock(facts: Host) -> Iterator[Finding]:
    have = facts.facts
    hz = f"{facts.tsc_hz / 1e6:.3f} MHz" if facts.tsc_hz else "frequency not known"
    if have.get("constant_tsc") == "yes" and have.get("nonstop_tsc") == "yes":
        yield _good("TSC", f"constant, {hz}")
    else:
        effect = "cycles change with the frequency, or stop in deep sleep"
        yield _mind("TSC", f"not constant, {hz}", effect)
    source = have.get("clocksource")
    if source and source not in ("tsc", "kvm-clock"):
        effect = "the kernel does not trust the TSC here, which kvmbench measures with"
        yield _mind("clocksource", source, effect, "look for 'tsc' in the kernel's log")


def _frequency(facts: Host) -> Iterator[Finding]:
    effect = "cycles are the TSC's, so a core that runs faster or slower changes all rows"
    if facts.governor and facts.governor != "performance":
        remedy = "sudo cpupower frequency-set -g performance"
        yield _mind("governor", facts.governor, effect, remedy)
    elif facts.governor:
        yield _good("governor", facts.governor)
    turbo = facts.facts.get("turbo")
    if turbo == "on":
        pstate = "intel_pstate" in facts.facts.get("cpufreq_driver", "intel_pstate")
        switch = "1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"
        boost = "0 | sudo tee /sys/devices/system/cpu/cpufreq/boost"
        remedy = f"echo {switch if pstate else boost}"
        yield _mind("turbo", "on", f"{effect}, with the temperature too", remedy)
    elif turbo:
        yield _good("turbo", turbo)
    if not facts.governor and not turbo:
        unseen = f"{effect}, and kvmbench cannot see it"
        yield _mind("frequency", "not under this kernel's control", unseen)


def _sharing(facts: Host) -> Iterator[Finding]:
    if facts.smt == "on":
        effect = "a task on the core's other thread slows the guest, by up to a half"
        yield _mind("SMT", "on", effect, "echo off | sudo tee /sys/devices/system/cpu/smt/control")
    if isolated := facts.facts.get("isolated_cpus"):
        yield _good("isolated CPUs", isolated)
    else:
        effect = "other tasks and interrupts share the guest's CPU: single rounds are high"
        remedy = "boot with isolcpus=managed_irq,domain,N nohz_full=N, and run with --cpu N"
        yield _mind("isolated CPUs", "none", effect, remedy)


def _sleep(facts: Host) -> Iterator[Finding]:
    driver = facts.facts.get("cpuidle_driver")
    if driver and driver != "none":
        effect = "rows that halt (hlt, ipi_halt, *_hlt) include the time to leave them"
        remedy = "sudo cpupower idle-set -D 0 for the time of the measurement"
        yield _mind("idle states", driver, effect, remedy)
    nanoseconds = facts.kvm_parameters.get("kvm.halt_poll_ns", "")
    if nanoseconds.isdecimal() and int(nanoseconds):
        effect = (
            "KVM polls for that long before a halted vCPU sleeps: rows that halt are the cost "
            "of polling"
        )
        remedy = "echo 0 | sudo tee /sys/module/kvm/parameters/halt_poll_ns"
        yield _mind("halt polling", f"{nanoseconds} ns", effect, remedy)


def _interruptions(facts: Host) -> Iterator[Finding]:
    apicv = facts.kvm_parameters.get("kvm_intel.enable_apicv")
    avic = facts.kvm_parameters.get("kvm_amd.avic")
    if "Y" in (apicv, avic) or avic == "1":
        effect = "interrupt rows (self_ipi, ipi) may not exit at all: see their exits"
        yield _mind("APIC virtualization", "on", effect)
    active = [name for name, done in facts.mitigations.items() if done.startswith("Mitigation")]
    if active:
        effect = "some of them cost cycles at each exit; both sides of a comparison need the same"
        yield _good("mitigations", ", ".join(active), effect)
    elif facts.mitigations:
        yield _good("mitigations", "none active")
    if facts.facts.get("nmi_watchdog") == "1":
        effect = (
            "an NMI every kernel.watchdog_thresh seconds (10 by default) exits the guest, and "
            "the watchdog occupies a counter of the PMU"
        )
        remedy = "echo 0 | sudo tee /proc/sys/kernel/nmi_watchdog"
        yield _mind("NMI watchdog", "on", effect, remedy)


def _noise(root: Path) -> Iterator[Finding]:
    cpus = cpus_allowed()
    before = [stolen(cpu, root) for cpu in cpus]
    time.sleep(SAMPLE)
    shares = [
        (last[0] - first[0]) / (last[1] - first[1])
        for first, last in zip(before, (stolen(cpu, root) for cpu in cpus), strict=True)
        if first and last and last[1] > first[1]
    ]
    if any(shares):
        effect = "the hypervisor around this host runs others meanwhile; cycles go on counting"
        yield _mind("steal", f"{max(shares):.0%} of a CPU just now", effect)
    elif shares:
        yield _good("steal", "none just now")
    try:
        load = float((root / "proc/loadavg").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return
    if load > LOAD * len(cpus):
        effect = (
            "others compete for the guest's CPU and its caches: medians move, not only single "
            "rounds"
        )
        yield _mind("load", f"{load:.2f} on {len(cpus)} CPUs", effect)
    else:
        yield _good("load", f"{load:.2f}")
