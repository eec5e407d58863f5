"""kvmbench host: the findings on hosts whose facts are known."""

import errno

import pytest

from kvmbench.errors import LiveError
from kvmbench.live import fitness
from kvmbench.live.fitness import findings
from kvmbench.live.machine import Offer
from kvmbench.results import Host

QUIET = Host(
    kvm="kvm_intel",
    governor="performance",
    smt="off",
    tsc_hz=2_000_000_000,
    mitigations={"mds": "Not affected"},
    kvm_parameters={"kvm.halt_poll_ns": "0"},
    facts={
        "hypervisor": "no", "constant_tsc": "yes", "nonstop_tsc": "yes", "clocksource": "tsc",
        "turbo": "off", "isolated_cpus": "3", "nmi_watchdog": "0", "cpuidle_driver": "none",
    },
)  # fmt: skip


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine where all is well; a test spoils one thing."""
    plain = dict(
        module="kvm_intel", hypercall="vmx", capabilities={"stats_fd": 1}, quirk_off=True,
        cpuid={}, tsx_ctrl=False, cpus=(0, 1),
    )  # fmt: skip
    monkeypatch.setattr(fitness, "offer", lambda: Offer(**plain))
    monkeypatch.setattr(fitness, "held_bitmap_error", lambda: 0)
    monkeypatch.setattr(fitness, "cpus_allowed", lambda: (0, 1))
    monkeypatch.setattr(fitness, "SAMPLE", 0)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text("0.10 0.2 0.3 1/99 1\n")
    return plain


def found(facts, root):
    listed = list(findings(facts, root))
    assert all(one.effect for one in listed if one.level == "mind")
    return {one.name: one for one in listed}


def change(facts=(), parameters=(), **more):
    from msgspec.structs import replace

    return replace(
        QUIET,
        facts=QUIET.facts | dict(facts),
        kvm_parameters=QUIET.kvm_parameters | dict(parameters),
        **more,
    )


def test_a_quiet_host_has_nothing_to_mind(tmp_path):
    assert {one.level for one in findings(QUIET, tmp_path)} == {"good"}


@pytest.mark.parametrize(("kvm", "name"), [("kvm_intel", "VMX"), ("kvm_amd", "SVM")])
def test_an_emulator_that_shows_no_hypervisor_is_not_called_bare_metal(kvm, name, tmp_path):
    """Bochs shows none: only the thing that was looked at can be said."""
    value = found(change(kvm=kvm), tmp_path)["KVM"].value
    assert value == f"{name}; CPUID shows no hypervisor"


@pytest.mark.parametrize(
    ("facts", "name", "value", "remedy"),
    [
        (change(kvm="kvm_pvm"), "KVM", "PVM, without VMX or SVM", "VMX or SVM"),
        (change({"hypervisor": "yes"}), "KVM", "VMX; CPUID shows a hypervisor", "CPUID shows none"),
        (change(kvm=None), "KVM", "no vendor module known", ""),
        (change(kvm="kvm_amd"), "ioperm()", "works", ""),
        (change({"constant_tsc": "no"}), "TSC", "not constant, 2000.000 MHz", ""),
        (change({"clocksource": "hpet"}), "clocksource", "hpet", "kernel's log"),
        (change(governor="powersave"), "governor", "powersave", "-g performance"),
        (change({"turbo": "on"}), "turbo", "on", "intel_pstate/no_turbo"),
        (
            change({"turbo": "on", "cpufreq_driver": "acpi-cpufreq"}),
            *("turbo", "on", "cpufreq/boost"),
        ),
        (change({"turbo": ""}, governor=None), "frequency", "not under this kernel's control", ""),
        (change(smt="on"), "SMT", "on", "smt/control"),
        (change({"isolated_cpus": ""}), "isolated CPUs", "none", "--cpu N"),
        (change({"cpuidle_driver": "intel_idle"}), "idle states", "intel_idle", "idle-set"),
        (change((), {"kvm.halt_poll_ns": "200000"}), "halt polling", "200000 ns", "halt_poll_ns"),
        (change((), {"kvm_intel.enable_apicv": "Y"}), "APIC virtualization", "on", ""),
        (change({"nmi_watchdog": "1"}), "NMI watchdog", "on", "nmi_watchdog"),
    ],
)
def test_one_thing_to_mind(facts, name, value, remedy, tmp_path):
    listed = found(facts, tmp_path)
    minded = [one.name for one in listed.values() if one.level == "mind"]
    assert name in minded
    assert listed[name].value == value
    assert remedy in listed[name].remedy


def test_mitigations_are_named(tmp_path):
    facts = change(mitigations={"mds": "Mitigation: Clear CPU buffers", "l1tf": "Not affected"})
    assert found(facts, tmp_path)["mitigations"].value == "mds"
    assert found(QUIET, tmp_path)["mitigations"].value == "none active"


def test_a_device_that_cannot_be_used(monkeypatch, tmp_path):
    def refuse():
        raise LiveError("there is no /dev/kvm: sudo modprobe kvm_intel")

    monkeypatch.setattr(fitness, "offer", refuse)
    first, *others = findings(QUIET, tmp_path)
    assert (first.level, first.remedy) == ("bad", "there is no /dev/kvm: sudo modprobe kvm_intel")
    assert "ioperm()" not in {one.name for one in others}
    assert others  # the rest of the host is told all the same


@pytest.mark.parametrize(
    ("number", "value", "remedy"),
    [(errno.ENOSYS, "ENOSYS", "CONFIG_X86_IOPL_IOPERM"), (errno.EPERM, "EPERM", "CAP_SYS_RAWIO")],
)
def test_ioperm(monkeypatch, tmp_path, number, value, remedy):
    monkeypatch.setattr(fitness, "held_bitmap_error", lambda: number)
    one = found(QUIET, tmp_path)["ioperm()"]
    assert (one.level, one.value) == ("mind", value)
    assert remedy in one.remedy


def test_what_kvm_lacks(monkeypatch, machine, tmp_path):
    machine |= dict(capabilities={"stats_fd": 0}, quirk_off=False)
    monkeypatch.setattr(fitness, "cpus_allowed", lambda: (0,))
    listed = found(QUIET, tmp_path)
    assert listed["KVM's counters"].remedy == "Linux 5.14 or newer"
    assert listed["hypercalls"].remedy.startswith("Linux 5.19")
    assert listed["CPUs"].value == "1"
    assert listed["CPUs"].effect.startswith("kvmbench skips ipi, ipi_halt and ple_round_robin; ")


def test_noise(monkeypatch, tmp_path):
    ticks = iter([(0, 0), (0, 0), (30, 100), (10, 100)])
    monkeypatch.setattr(fitness, "stolen", lambda cpu, root: next(ticks))
    (tmp_path / "proc/loadavg").write_text("0.60 0 0 1/9 9\n")
    listed = found(QUIET, tmp_path)
    assert listed["steal"].value == "30% of a CPU just now"
    assert listed["load"].value == "0.60 on 2 CPUs"
    assert (listed["steal"].level, listed["load"].level) == ("mind", "mind")


def test_a_host_without_proc(tmp_path):
    assert {one.name for one in findings(QUIET, tmp_path / "nowhere")} >= {"/dev/kvm", "KVM"}
