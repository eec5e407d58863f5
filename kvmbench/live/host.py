"""The facts of this host that a measured figure depends on, from /proc and /sys.

Every result keeps them; fitness judges them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvmbench.results import Host

__all__ = ["Ticks", "boot_id", "cpu_flags", "cpu_list", "host", "loaded_vendor", "siblings"]
__all__ += ["stolen", "stolen_share"]

Ticks = tuple[int, int]  # of a CPU: those that the hypervisor around this host took, and all

VENDOR_MODULES = {"kvm_intel": "vmx", "kvm_amd": "svm", "kvm_pvm": None}
"""The modules that make KVM run guests, and the CPU flag that each needs."""

CPU_FACTS = ("constant_tsc", "nonstop_tsc", "tsc_known_freq", "tsc_deadline_timer", "x2apic")


def boot_id(root: str | Path = "/") -> str:
    """Return the kernel's id of this boot, or "" where it has none."""
    return _read(Path(root), "proc/sys/kernel/random/boot_id") or ""


def host(root: str | Path = "/") -> Host:
    """Return the facts of the host whose /proc and /sys are below `root`.

    They stay the same during a boot unless a user tunes the host, so the runs of one boot stay
    together. A file that cannot be read is left out without an error.
    """
    from kvmbench.results import Host  # msgspec: not for the measuring process

    top = Path(root)
    cpu = _cpuinfo(top)
    vendor = loaded_vendor(top)
    parameters = {}
    for module in ("kvm", *((vendor,) if vendor else ())):
        for name, value in _folder(top / "sys/module" / module / "parameters").items():
            parameters[f"{module}.{name}"] = value
    return Host(
        kernel=_read(top, "proc/sys/kernel/osrelease"),
        build=_read(top, "proc/sys/kernel/version"), cmdline=_read(top, "proc/cmdline"),
        cpu=cpu.get("model name"), microcode=cpu.get("microcode"), kvm=vendor,
        mitigations=_folder(top / "sys/devices/system/cpu/vulnerabilities"),
        kvm_parameters=parameters, governor=_of_all_cpus(top, "cpufreq/scaling_governor"),
        smt=_read(top, "sys/devices/system/cpu/smt/control"), tsc_hz=_tsc_hz(top, cpu),
        facts=_facts(top, cpu),
    )  # fmt: skip


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


def stolen(cpu: int, root: str | Path = "/") -> Ticks | None:
    """Return the ticks of a CPU since the boot, or None where /proc/stat has none."""
    for line in (_read(Path(root), "proc/stat") or "").splitlines():
        name, *ticks = line.split()
        if name == f"cpu{cpu}" and len(ticks) >= 8:
            return int(ticks[7]), sum(map(int, ticks[:8]))
    return None


def stolen_share(before: Ticks | None, after: Ticks | None) -> float | None:
    """Return the share of a CPU's time that the hypervisor took between two answers of `stolen`."""
    if before is None or after is None or after[1] <= before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])


def siblings(cpu: int) -> set[int]:
    """Return the CPUs of the core of `cpu`, itself included; empty where /sys has none."""
    path = f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    return cpu_list(_read(Path("/"), path) or "")


def cpu_list(text: str) -> set[int]:
    """Return the numbers of a kernel's list, `0-2,5`."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


SYSTEM = "sys/devices/system"
FACTS = {  # name: file below the root
    "cpus": f"{SYSTEM}/cpu/online",
    "isolated_cpus": f"{SYSTEM}/cpu/isolated",
    "nohz_full": f"{SYSTEM}/cpu/nohz_full",
    "cpuidle_driver": f"{SYSTEM}/cpu/cpuidle/current_driver",
    "cpuidle_governor": f"{SYSTEM}/cpu/cpuidle/current_governor",
    "clocksource": f"{SYSTEM}/clocksource/clocksource0/current_clocksource",
    "nmi_watchdog": "proc/sys/kernel/nmi_watchdog",
    "numa_balancing": "proc/sys/kernel/numa_balancing",
}


def _facts(top: Path, cpu: dict[str, str]) -> dict[str, str]:
    flags = set(cpu.get("flags", "").split())
    model = [f"{key} {cpu[key]}" for key in ("cpu family", "model", "stepping") if key in cpu]
    machine = (_read(top, f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))
    found = {
        "cpu_vendor": cpu.get("vendor_id"),
        "cpu_model": ", ".join(model),
        "turbo": _turbo(top),
        "cpufreq_driver": _of_all_cpus(top, "cpufreq/scaling_driver"),
        "transparent_hugepages": _chosen(_read(top, "sys/kernel/mm/transparent_hugepage/enabled")),
        "machine": " ".join(filter(None, machine)),
        **{name: _read(top, path) for name, path in FACTS.items()},
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
    """Return the value that all CPUs have, or each of the values where they differ."""
    cpus = (top / "sys/devices/system/cpu").glob("cpu[0-9]*")
    return ", ".join(sorted({value for cpu in cpus if (value := _read(cpu, name))})) or None


def _cpuinfo(top: Path) -> dict[str, str]:
    """Return the fields of the first CPU in /proc/cpuinfo."""
    first = (_read(top, "proc/cpuinfo") or "").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def _folder(path: Path) -> dict[str, str]:
    """Return the readable files of a folder: name -> content."""
    names = sorted(entry.name for entry in path.glob("*"))
    return {name: value for name in names if (value := _read(path, name)) is not None}


def _read(top: Path, name: str) -> str | None:
    """Return a file's text without the space around it; None for a file that cannot be read."""
    try:
        return (top / name).read_text(errors="replace").strip()
    except OSError:
        return None
