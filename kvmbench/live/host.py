"""What this host is: the facts that a measured figure depends on, from /proc and /sys."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from kvmbench.results import Host

__all__ = ["boot_id", "cpu_flags", "host", "loaded_vendor"]

VENDOR_MODULES = {"kvm_intel": "vmx", "kvm_amd": "svm", "kvm_pvm": None}
"""The modules that make KVM run guests, and the CPU flag without which one cannot."""

CPU_FACTS = ("constant_tsc", "nonstop_tsc", "tsc_known_freq", "tsc_deadline_timer", "x2apic")


def boot_id(root: str | Path = "/") -> str:
    """Return the kernel's id of this boot, or "" where it has none."""
    return _read(Path(root), "proc/sys/kernel/random/boot_id") or ""


def host(root: str | Path = "/") -> Host:
    """Return the facts of the host whose /proc and /sys are below `root`.

    Nothing in it changes while a boot lasts unless somebody tunes the host, so that the runs of
    one boot stay together. What cannot be read is left out; nothing is raised.
    """
    top = Path(root)
    cpu = _cpuinfo(top)
    vendor = loaded_vendor(top)
    parameters = {}
    for module in ("kvm", *((vendor,) if vendor else ())):
        for name, value in _folder(top / "sys/module" / module / "parameters").items():
            parameters[f"{module}.{name}"] = value
    return Host(
        kernel=_read(top, "proc/sys/kernel/osrelease"),
        build=_read(top, "proc/sys/kernel/version"),
        cmdline=_read(top, "proc/cmdline"),
        cpu=cpu.get("model name"),
        microcode=cpu.get("microcode"),
        mitigations=_folder(top / "sys/devices/system/cpu/vulnerabilities"),
        kvm=vendor,
        kvm_parameters=parameters,
        governor=_of_all_cpus(top, "cpufreq/scaling_governor"),
        smt=_read(top, "sys/devices/system/cpu/smt/control"),
        tsc_hz=_tsc_hz(top, cpu),
        facts=_facts(top, cpu),
    )


def loaded_vendor(root: str | Path = "/") -> str | None:
    """Return the module that runs KVM's guests: kvm_intel, kvm_amd, kvm_pvm, or None.

    A module that is built in has its folder in /sys/module on any CPU, so the CPU must be able
    to use it too.
    """
    top = Path(root)
    flags = cpu_flags(top)
    for module, flag in VENDOR_MODULES.items():
        if (top / "sys/module" / module).is_dir() and (flag is None or flag in flags):
            return module
    return None


def cpu_flags(root: str | Path = "/") -> frozenset[str]:
    """Return the flags of the first CPU in /proc/cpuinfo."""
    return frozenset(_cpuinfo(Path(root)).get("flags", "").split())


def _facts(top: Path, cpu: dict[str, str]) -> dict[str, str]:
    flags = set(cpu.get("flags", "").split())
    system = "sys/devices/system/cpu"
    model = [f"{key} {cpu[key]}" for key in ("cpu family", "model", "stepping") if key in cpu]
    machine = (_read(top, f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))
    clocksource = "sys/devices/system/clocksource/clocksource0/current_clocksource"
    found = {
        "cpu_vendor": cpu.get("vendor_id"),
        "cpu_model": ", ".join(model),
        "cpus": _read(top, f"{system}/online"),
        "isolated_cpus": _read(top, f"{system}/isolated"),
        "nohz_full": _read(top, f"{system}/nohz_full"),
        "turbo": _turbo(top),
        "cpufreq_driver": _of_all_cpus(top, "cpufreq/scaling_driver"),
        "cpuidle_driver": _read(top, f"{system}/cpuidle/current_driver"),
        "cpuidle_governor": _read(top, f"{system}/cpuidle/current_governor"),
        "clocksource": _read(top, clocksource),
        "transparent_hugepages": _chosen(_read(top, "sys/kernel/mm/transparent_hugepage/enabled")),
        "nmi_watchdog": _read(top, "proc/sys/kernel/nmi_watchdog"),
        "numa_balancing": _read(top, "proc/sys/kernel/numa_balancing"),
        "machine": " ".join(filter(None, machine)),
    }
    if flags:
        found["hypervisor"] = "yes" if "hypervisor" in flags else "no"
        found["cpu_virtualization"] = next((f for f in ("vmx", "svm") if f in flags), "none")
        found |= {name: "yes" if name in flags else "no" for name in CPU_FACTS}
    return {name: value for name, value in found.items() if value}


def _tsc_hz(top: Path, cpu: dict[str, str]) -> int | None:
    """Return the TSC's frequency as the kernel knows it.

    tsc_freq_khz is there on some kernels only. Bogomips are 2 * tsc_khz / 1000, cut off at two
    places, wherever the kernel did not have to time its delay loop (arch/x86/kernel/tsc.c,
    tsc_init: lpj_fine = tsc_khz * 1000 / HZ), which with constant_tsc is everywhere.
    """
    khz = _read(top, "sys/devices/system/cpu/cpu0/tsc_freq_khz")
    if khz and khz.isdecimal():
        return int(khz) * 1000
    found = re.fullmatch(r"(\d+)\.(\d\d)", cpu.get("bogomips", ""))
    if found and "constant_tsc" in cpu.get("flags", "").split():
        return int(found[1] + found[2]) * 5000
    return None


def _turbo(top: Path) -> str | None:
    off = _read(top, "sys/devices/system/cpu/intel_pstate/no_turbo")
    if off in ("0", "1"):
        return "on" if off == "0" else "off"
    boost = _read(top, "sys/devices/system/cpu/cpufreq/boost")
    return {"1": "on", "0": "off"}.get(boost or "")


def _chosen(words: str | None) -> str | None:
    """Return the word in brackets of `always [madvise] never`."""
    found = re.search(r"\[(\w+)\]", words or "")
    return found[1] if found else words


def _of_all_cpus(top: Path, name: str) -> str | None:
    """Return the value that all CPUs have, or all of them where they differ."""
    try:
        cpus = sorted((top / "sys/devices/system/cpu").glob("cpu[0-9]*"))
    except OSError:
        return None
    return _joined(_read(cpu, name) for cpu in cpus)


def _joined(values: Iterable[str | None]) -> str | None:
    return ", ".join(sorted({value for value in values if value})) or None


def _cpuinfo(top: Path) -> dict[str, str]:
    """Return what /proc/cpuinfo says of its first CPU."""
    first = (_read(top, "proc/cpuinfo") or "").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def _folder(path: Path) -> dict[str, str]:
    """Return the readable files of a folder: name -> content."""
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError:
        return {}
    values = ((name, _read(path, name)) for name in names)
    return {name: value for name, value in values if value is not None}


def _read(top: Path, name: str) -> str | None:
    """Return a file's text without the space around it, or None."""
    try:
        return (top / name).read_text(errors="replace").strip()
    except OSError:
        return None
