"""Is this host fit to measure? Each fact, its effect on a figure, and the remedy.

`kvmbench host` prints the findings; data/findings.toml has the words of those to mind.
"""

from __future__ import annotations

import errno
import os
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from kvmbench.errors import LiveError
from kvmbench.live.host import host, stolen, stolen_share
from kvmbench.live.machine import IOPERM_REMEDIES, NOT_VMX, cpus_allowed, held_bitmap_error, offer
from kvmbench.results import Host
from kvmbench.tomlfile import DATA
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


@cache
def _words() -> dict[str, dict[str, str]]:
    text = (DATA / "findings.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _mind(name: str, value: str, case: str = "", **fields: str) -> Finding:
    """Return a finding with the effect and the remedy of `case`, by default those of its name."""
    words = _words()[case or name]
    return Finding("mind", name, value, **{k: v.strip().format(**fields) for k, v in words.items()})


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
        yield _mind("KVM's counters", "no KVM_GET_STATS_FD")
    if not offered.quirk_off:
        yield _mind("hypercalls", "patched by KVM")
    if len(cpus_allowed()) < 2:
        *names, last = (w.name for w in (*BUILT_IN, *LIVE_ONLY) if "second_cpu" in w.needs)
        yield _mind("CPUs", "1", skipped=f"{', '.join(names)} and {last}")
    if number := held_bitmap_error():
        remedy = IOPERM_REMEDIES.get(number, os.strerror(number))
        yield _mind("ioperm()", errno.errorcode.get(number, str(number)), remedy=remedy)
    elif facts.kvm == "kvm_intel":
        yield _good("ioperm()", "works")
    else:
        yield _mind("ioperm()", "works", "not-vmx", meaning=NOT_VMX)


def _vendor(facts: Host) -> Finding:
    name = {"kvm_intel": "VMX", "kvm_amd": "SVM", "kvm_pvm": "PVM"}.get(facts.kvm or "")
    if name is None:
        return _mind("KVM", "no vendor module known", "unknown-vendor")
    if name == "PVM":
        return _mind("KVM", "PVM, without VMX or SVM", name)
    if facts.facts.get("hypervisor") == "yes":
        return _mind("KVM", f"{name}; CPUID shows a hypervisor", "hypervisor")
    return _good("KVM", f"{name}; CPUID shows no hypervisor")


def _clock(facts: Host) -> Iterator[Finding]:
    have = facts.facts
    hz = f"{facts.tsc_hz / 1e6:.3f} MHz" if facts.tsc_hz else "frequency not known"
    if have.get("constant_tsc") == "yes" and have.get("nonstop_tsc") == "yes":
        yield _good("TSC", f"constant, {hz}")
    else:
        yield _mind("TSC", f"not constant, {hz}")
    source = have.get("clocksource")
    if source and source not in ("tsc", "kvm-clock"):
        yield _mind("clocksource", source)


def _frequency(facts: Host) -> Iterator[Finding]:
    if facts.governor:
        judged = _good if facts.governor == "performance" else _mind
        yield judged("governor", facts.governor)
    turbo = facts.facts.get("turbo")
    if turbo == "on":
        pstate = "intel_pstate" in facts.facts.get("cpufreq_driver", "intel_pstate")
        switch = "1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"
        boost = "0 | sudo tee /sys/devices/system/cpu/cpufreq/boost"
        yield _mind("turbo", "on", switch=switch if pstate else boost)
    elif turbo:
        yield _good("turbo", turbo)
    if not facts.governor and not turbo:
        yield _mind("frequency", "not under this kernel's control")


def _sharing(facts: Host) -> Iterator[Finding]:
    if facts.smt == "on":
        yield _mind("SMT", "on")
    isolated = facts.facts.get("isolated_cpus")
    yield _good("isolated CPUs", isolated) if isolated else _mind("isolated CPUs", "none")


def _sleep(facts: Host) -> Iterator[Finding]:
    driver = facts.facts.get("cpuidle_driver")
    if driver and driver != "none":
        yield _mind("idle states", driver)
    nanoseconds = facts.kvm_parameters.get("kvm.halt_poll_ns", "")
    if nanoseconds.isdecimal() and int(nanoseconds):
        yield _mind("halt polling", f"{nanoseconds} ns")


def _interruptions(facts: Host) -> Iterator[Finding]:
    apicv = facts.kvm_parameters.get("kvm_intel.enable_apicv")
    avic = facts.kvm_parameters.get("kvm_amd.avic")
    if "Y" in (apicv, avic) or avic == "1":
        yield _mind("APIC virtualization", "on")
    active = [name for name, done in facts.mitigations.items() if done.startswith("Mitigation")]
    if active:
        effect = "some of them cost cycles at each exit; both sides of a comparison need the same"
        yield _good("mitigations", ", ".join(active), effect)
    elif facts.mitigations:
        yield _good("mitigations", "none active")
    if facts.facts.get("nmi_watchdog") == "1":
        yield _mind("NMI watchdog", "on")


def _noise(root: Path) -> Iterator[Finding]:
    cpus = cpus_allowed()
    before = [stolen(cpu, root) for cpu in cpus]
    time.sleep(SAMPLE)
    after = [stolen(cpu, root) for cpu in cpus]
    shares = [share for share in map(stolen_share, before, after) if share is not None]
    if any(shares):
        yield _mind("steal", f"{max(shares):.0%} of a CPU just now")
    elif shares:
        yield _good("steal", "none just now")
    try:
        load = float((root / "proc/loadavg").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return
    if load > LOAD * len(cpus):
        yield _mind("load", f"{load:.2f} on {len(cpus)} CPUs")
    else:
        yield _good("load", f"{load:.2f}")
