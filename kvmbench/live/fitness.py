"""Is this host fit to measure? Each fact with what it does to a figure, and what would help."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kvmbench.errors import LiveError
from kvmbench.live.engine import held_bitmap_error, stolen
from kvmbench.live.host import host
from kvmbench.live.machine import Offer, cpus_allowed, offer
from kvmbench.results import Host

__all__ = ["Finding", "findings"]

Level = Literal["good", "mind", "bad"]
SAMPLE = 0.3  # seconds over which load and steal are looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fact: `good`, something to `mind` when figures are read, or `bad`: none can be had."""

    level: Level
    name: str
    value: str
    effect: str = ""  # on a figure
    remedy: str = ""  # a command, or where to turn


def findings(facts: Host | None = None, root: str | Path = "/") -> Iterator[Finding]:
    """Yield what was found, the device first; it takes SAMPLE seconds.

    `facts` are the host's, read from `root` where they are not given.
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
        yield Finding(
            level="bad", name="/dev/kvm", value="cannot be used", effect="nothing is measured",
            remedy=str(error),
        )  # fmt: skip
        return
    yield Finding(level="good", name="/dev/kvm", value="can be used")
    yield _vendor(facts)
    yield _counters(offered)
    if not offered.quirk_off:
        yield Finding(
            level="mind", name="hypercalls", value="patched by KVM",
            effect="a vmcall that is not the vendor's is rewritten at its first use, or retried "
            "for ever; kvmbench uses the vendor's",
            remedy="Linux 5.19 or newer can turn it off",
        )  # fmt: skip
    cpus = cpus_allowed()
    if len(cpus) < 2:
        yield Finding(
            level="mind", name="CPUs", value="1", effect="ipi, ipi_halt and ple_round_robin are "
            "skipped; everything on this host shares the CPU with the guest",
        )  # fmt: skip
    yield _ioperm(facts)


def _vendor(facts: Host) -> Finding:
    nested = facts.facts.get("hypervisor") == "yes"
    name = {"kvm_intel": "VMX", "kvm_amd": "SVM", "kvm_pvm": "PVM"}.get(facts.kvm or "")
    if name is None:
        return Finding(
            level="mind", name="KVM", value="no vendor module known",
            effect="what a figure stands for is not known",
        )  # fmt: skip
    if name == "PVM":
        return Finding(
            level="mind", name="KVM", value="PVM, without VMX or SVM",
            effect="guest code at CPL 0 is emulated, instruction by instruction: its rows are the "
            "emulator's cost, not a VM exit's; only rows at CPL 3 leave a guest that runs",
            remedy="measure on a host with VMX or SVM",
        )  # fmt: skip
    if nested:
        return Finding(
            level="mind", name="KVM", value=f"{name}, nested",
            effect="each VM exit goes through the hypervisor around this host, which costs many "
            "times its own; figures are of the two together",
            remedy="measure on bare metal",
        )  # fmt: skip
    return Finding(level="good", name="KVM", value=f"{name}, on bare metal")


def _counters(offered: Offer) -> Finding:
    if offered.capabilities["stats_fd"]:
        return Finding(level="good", name="KVM's counters", value="can be read")
    return Finding(
        level="mind", name="KVM's counters", value="no KVM_GET_STATS_FD",
        effect="a row that does not exit, or is emulated, is not seen",
        remedy="Linux 5.14 or newer",
    )  # fmt: skip


def _ioperm(facts: Host) -> Finding:
    number = held_bitmap_error()
    words = errno.errorcode.get(number, str(number))
    if number:
        helps = {
            errno.ENOSYS: "a kernel with CONFIG_X86_IOPL_IOPERM",
            errno.EPERM: "CAP_SYS_RAWIO, without lockdown",
        }
        return Finding(
            level="mind", name="ioperm()", value=words,
            effect="--ioperm on and both cannot be measured",
            remedy=helps.get(number, os.strerror(number)),
        )  # fmt: skip
    if facts.kvm != "kvm_intel":
        return Finding(
            level="mind", name="ioperm()", value="works, but this is not VMX",
            effect="no VM exit cuts TR's limit here, so --ioperm both shows the bitmap's cost at "
            "returns to userspace and no reload",
        )  # fmt: skip
    return Finding(level="good", name="ioperm()", value="works")


def _clock(facts: Host) -> Iterator[Finding]:
    have = facts.facts
    hz = f"{facts.tsc_hz / 1e6:.3f} MHz" if facts.tsc_hz else "frequency not known"
    if have.get("constant_tsc") == "yes" and have.get("nonstop_tsc") == "yes":
        yield Finding(level="good", name="TSC", value=f"constant, {hz}")
    else:
        yield Finding(
            level="mind", name="TSC", value=f"not constant, {hz}",
            effect="cycles change with the frequency, or stop in deep sleep",
        )  # fmt: skip
    source = have.get("clocksource")
    if source and source not in ("tsc", "kvm-clock"):
        yield Finding(
            level="mind", name="clocksource", value=source,
            effect="the kernel does not trust the TSC here, which is what is measured with",
            remedy="look for 'tsc' in the kernel's log",
        )  # fmt: skip


def _frequency(facts: Host) -> Iterator[Finding]:
    effect = "cycles are the TSC's, so a core that runs faster or slower changes all rows"
    if facts.governor and facts.governor != "performance":
        yield Finding(
            level="mind", name="governor", value=facts.governor, effect=effect,
            remedy="sudo cpupower frequency-set -g performance",
        )  # fmt: skip
    elif facts.governor:
        yield Finding(level="good", name="governor", value=facts.governor)
    turbo = facts.facts.get("turbo")
    if turbo == "on":
        pstate = "intel_pstate" in facts.facts.get("cpufreq_driver", "intel_pstate")
        switch = "1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"
        boost = "0 | sudo tee /sys/devices/system/cpu/cpufreq/boost"
        yield Finding(
            level="mind", name="turbo", value="on", effect=f"{effect}, with the temperature too",
            remedy=f"echo {switch if pstate else boost}",
        )  # fmt: skip
    elif turbo:
        yield Finding(level="good", name="turbo", value=turbo)
    if not facts.governor and not turbo:
        yield Finding(
            level="mind", name="frequency", value="not under this kernel's control",
            effect=f"{effect}, and nothing here can see it",
        )  # fmt: skip


def _threads(facts: Host) -> Iterator[Finding]:
    if facts.smt == "on":
        yield Finding(
            level="mind", name="SMT", value="on",
            effect="what runs on the core's other thread slows the guest, by up to a half",
            remedy="echo off | sudo tee /sys/devices/system/cpu/smt/control",
        )  # fmt: skip
    isolated = facts.facts.get("isolated_cpus")
    if isolated:
        yield Finding(level="good", name="isolated CPUs", value=isolated)
    else:
        yield Finding(
            level="mind", name="isolated CPUs", value="none",
            effect="other tasks and interrupts share the guest's CPU: single rounds are high",
            remedy="boot with isolcpus=managed_irq,domain,N nohz_full=N, and run with --cpu N",
        )  # fmt: skip


def _idle(facts: Host) -> Iterator[Finding]:
    driver = facts.facts.get("cpuidle_driver")
    if driver and driver != "none":
        yield Finding(
            level="mind", name="idle states", value=driver,
            effect="rows that halt (hlt, ipi_halt, *_hlt) hold the time to leave them",
            remedy="sudo cpupower idle-set -D 0 for the time of the measurement",
        )  # fmt: skip


def _polling(facts: Host) -> Iterator[Finding]:
    nanoseconds = facts.kvm_parameters.get("kvm.halt_poll_ns", "")
    if nanoseconds.isdecimal() and int(nanoseconds):
        yield Finding(
            level="mind", name="halt polling", value=f"{nanoseconds} ns",
            effect="a halted vCPU is polled for that long before it sleeps: rows that halt are "
            "the cost of polling",
            remedy="echo 0 | sudo tee /sys/module/kvm/parameters/halt_poll_ns",
        )  # fmt: skip
    apicv = facts.kvm_parameters.get("kvm_intel.enable_apicv")
    avic = facts.kvm_parameters.get("kvm_amd.avic")
    if "Y" in (apicv, avic) or avic == "1":
        yield Finding(
            level="mind", name="APIC virtualization", value="on",
            effect="interrupt rows (self_ipi, ipi) may not exit at all: see their exits",
        )  # fmt: skip


def _mitigations(facts: Host) -> Iterator[Finding]:
    active = [name for name, done in facts.mitigations.items() if done.startswith("Mitigation")]
    if facts.mitigations:
        yield Finding(
            level="good", name="mitigations", value=", ".join(active) or "none active",
            effect="some of them are paid at each exit; a comparison must have the same on both "
            "sides" if active else "",
        )  # fmt: skip


def _watchdog(facts: Host) -> Iterator[Finding]:
    if facts.facts.get("nmi_watchdog") == "1":
        yield Finding(
            level="mind", name="NMI watchdog", value="on",
            effect="an NMI every kernel.watchdog_thresh seconds (10 by default) exits the guest, "
            "and a counter of the PMU is taken",
            remedy="echo 0 | sudo tee /proc/sys/kernel/nmi_watchdog",
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
        yield Finding(
            level="mind", name="steal", value=f"{max(shares):.0%} of a CPU just now",
            effect="the hypervisor around this host runs others meanwhile; cycles go on counting",
        )  # fmt: skip
    elif shares:
        yield Finding(level="good", name="steal", value="none just now")
    try:
        load = float((root / "proc/loadavg").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return
    if load > LOAD * len(cpus):
        yield Finding(
            level="mind", name="load", value=f"{load:.2f} on {len(cpus)} CPUs",
            effect="others compete for the guest's CPU and its caches: medians move, not only "
            "single rounds",
        )  # fmt: skip
    else:
        yield Finding(level="good", name="load", value=f"{load:.2f}")


LOAD = 0.25  # runnable tasks for each CPU, over the last minute
