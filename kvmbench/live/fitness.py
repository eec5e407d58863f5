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
from kvmbench.live.machine import (
    IOPERM_REMEDIES,
    NOT_VMX,
    Offer,
    cpus_allowed,
    held_bitmap_error,
    offer,
)
from kvmbench.results import Host
from kvmbench.workloads import BUILT_IN, LIVE_ONLY

__all__ = ["Finding", "findings"]

Level = Literal["good", "mind", "bad"]
SAMPLE = 0.3  # seconds over which load and steal are sampled
LOAD = 0.25  # runnable tasks per CPU over the last minute, above which a host is loaded


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact: `good`; something to `mind` when reading figures; or `bad`: no figure at all."""

    level: Level
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
    yield from _device(facts)
    for find in (_clock, _frequency, _threads, _idle, _polling, _mitigations, _watchdog):
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
    yield _counters(offered)
    if not offered.quirk_off:
        yield _mind(
            "hypercalls", "patched by KVM",
            "a vmcall that is not the vendor's is rewritten at its first use, or retried "
            "for ever; kvmbench uses the vendor's",
            "Linux 5.19 or newer can turn it off",
        )  # fmt: skip
    if len(cpus_allowed()) < 2:
        names = [w.name for w in (*BUILT_IN, *LIVE_ONLY) if "second_cpu" in w.needs]
        yield _mind(
            "CPUs", "1",
            f"kvmbench skips {', '.join(names[:-1])} and {names[-1]}; everything on this host "
            "shares the CPU with the guest",
        )  # fmt: skip
    yield _ioperm(facts)


def _vendor(facts: Host) -> Finding:
    name = {"kvm_intel": "VMX", "kvm_amd": "SVM", "kvm_pvm": "PVM"}.get(facts.kvm or "")
    if name is None:
        return _mind("KVM", "no vendor module known", "the meaning of a figure is unknown")
    if name == "PVM":
        return _mind(
            "KVM", "PVM, without VMX or SVM",
            "KVM emulates guest code at CPL 0 instruction by instruction: its rows are the "
            "emulator's cost, not a VM exit's; only rows at CPL 3 leave a guest that runs",
            "measure on a host with VMX or SVM",
        )  # fmt: skip
    if facts.facts.get("hypervisor") == "yes":
        return _mind(
            "KVM", f"{name}; CPUID shows a hypervisor",
            "each VM exit goes through that hypervisor, which costs many times its own; figures "
            "are of the two together",
            "measure on a host whose CPUID shows none",
        )  # fmt: skip
    return _good("KVM", f"{name}; CPUID shows no hypervisor")


def _counters(offered: Offer) -> Finding:
    if offered.capabilities["stats_fd"]:
        return _good("KVM's counters", "can be read")
    effect = "kvmbench cannot see that a row does not exit, or is emulated"
    return _mind("KVM's counters", "no KVM_GET_STATS_FD", effect, "Linux 5.14 or newer")


def _ioperm(facts: Host) -> Finding:
    if number := held_bitmap_error():
        return _mind(
            "ioperm()", errno.errorcode.get(number, str(number)),
            "--ioperm on and both cannot be measured",
            IOPERM_REMEDIES.get(number, os.strerror(number)),
        )  # fmt: skip
    if facts.kvm != "kvm_intel":
        return _mind("ioperm()", "works", NOT_VMX)
    return _good("ioperm()", "works")


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


def _threads(facts: Host) -> Iterator[Finding]:
    if facts.smt == "on":
        yield _mind(
            "SMT", "on", "a task on the core's other thread slows the guest, by up to a half",
            "echo off | sudo tee /sys/devices/system/cpu/smt/control",
        )  # fmt: skip
    if isolated := facts.facts.get("isolated_cpus"):
        yield _good("isolated CPUs", isolated)
    else:
        yield _mind(
            "isolated CPUs", "none",
            "other tasks and interrupts share the guest's CPU: single rounds are high",
            "boot with isolcpus=managed_irq,domain,N nohz_full=N, and run with --cpu N",
        )  # fmt: skip


def _idle(facts: Host) -> Iterator[Finding]:
    driver = facts.facts.get("cpuidle_driver")
    if driver and driver != "none":
        yield _mind(
            "idle states", driver,
            "rows that halt (hlt, ipi_halt, *_hlt) include the time to leave them",
            "sudo cpupower idle-set -D 0 for the time of the measurement",
        )  # fmt: skip


def _polling(facts: Host) -> Iterator[Finding]:
    nanoseconds = facts.kvm_parameters.get("kvm.halt_poll_ns", "")
    if nanoseconds.isdecimal() and int(nanoseconds):
        yield _mind(
            "halt polling", f"{nanoseconds} ns",
            "KVM polls for that long before a halted vCPU sleeps: rows that halt are the cost "
            "of polling",
            "echo 0 | sudo tee /sys/module/kvm/parameters/halt_poll_ns",
        )  # fmt: skip
    apicv = facts.kvm_parameters.get("kvm_intel.enable_apicv")
    avic = facts.kvm_parameters.get("kvm_amd.avic")
    if "Y" in (apicv, avic) or avic == "1":
        effect = "interrupt rows (self_ipi, ipi) may not exit at all: see their exits"
        yield _mind("APIC virtualization", "on", effect)


def _mitigations(facts: Host) -> Iterator[Finding]:
    active = [name for name, done in facts.mitigations.items() if done.startswith("Mitigation")]
    if active:
        effect = "some of them cost cycles at each exit; both sides of a comparison need the same"
        yield _good("mitigations", ", ".join(active), effect)
    elif facts.mitigations:
        yield _good("mitigations", "none active")


def _watchdog(facts: Host) -> Iterator[Finding]:
    if facts.facts.get("nmi_watchdog") == "1":
        yield _mind(
            "NMI watchdog", "on",
            "an NMI every kernel.watchdog_thresh seconds (10 by default) exits the guest, and "
            "the watchdog occupies a counter of the PMU",
            "echo 0 | sudo tee /proc/sys/kernel/nmi_watchdog",
        )  # fmt: skip


def _noise(root: Path) -> Iterator[Finding]:
    cpus = cpus_allowed()
    before = {cpu: stolen(cpu, root) for cpu in cpus}
    time.sleep(SAMPLE)
    shares = []
    for cpu in cpus:
        first, last = before[cpu], stolen(cpu, root)
        if first and last and last[1] > first[1]:
            shares.append((last[0] - first[0]) / (last[1] - first[1]))
    if any(shares):
        yield _mind(
            "steal", f"{max(shares):.0%} of a CPU just now",
            "the hypervisor around this host runs others meanwhile; cycles go on counting",
        )  # fmt: skip
    elif shares:
        yield _good("steal", "none just now")
    try:
        load = float((root / "proc/loadavg").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return
    if load > LOAD * len(cpus):
        yield _mind(
            "load", f"{load:.2f} on {len(cpus)} CPUs",
            "others compete for the guest's CPU and its caches: medians move, not only "
            "single rounds",
        )  # fmt: skip
    else:
        yield _good("load", f"{load:.2f}")
