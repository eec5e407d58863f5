"""Host facts, from fake trees with known contents and from the machine that runs the tests."""

import os
from pathlib import Path

import msgspec
import pytest

from kvmbench.live.host import boot_id, cpu_flags, host, loaded_vendor
from kvmbench.results import Host

CPU = "sys/devices/system/cpu"
CPUINFO = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 85
model name\t: Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz
stepping\t: 4
microcode\t: 0x2006e05
flags\t\t: fpu constant_tsc nonstop_tsc vmx x2apic tsc_deadline_timer
bogomips\t: 4199.98

processor\t: 1
model name\t: another
flags\t\t: svm
"""


def tree(root, **files):
    """Write files below `root`; `__` stands for a slash in a name given as a keyword."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def put(root, files):
    return tree(root, **{name.replace("/", "__"): text for name, text in files.items()})


@pytest.fixture
def intel(tmp_path):
    return put(
        tmp_path,
        {
            "proc/cpuinfo": CPUINFO,
            "proc/cmdline": "root=/dev/sda ro isolcpus=2-3\n",
            "proc/sys/kernel/osrelease": "6.12.9\n",
            "proc/sys/kernel/version": "#7 SMP PREEMPT_DYNAMIC Tue\n",
            "proc/sys/kernel/random/boot_id": "0b0c\n",
            "proc/sys/kernel/nmi_watchdog": "1\n",
            f"{CPU}/vulnerabilities/mds": "Mitigation: Clear CPU buffers; SMT vulnerable\n",
            f"{CPU}/vulnerabilities/l1tf": "Not affected\n",
            f"{CPU}/smt/control": "on\n",
            f"{CPU}/online": "0-7\n",
            f"{CPU}/isolated": "2-3\n",
            f"{CPU}/nohz_full": "\n",
            f"{CPU}/intel_pstate/no_turbo": "0\n",
            f"{CPU}/cpu0/cpufreq/scaling_governor": "performance\n",
            f"{CPU}/cpu1/cpufreq/scaling_governor": "performance\n",
            f"{CPU}/cpu0/cpufreq/scaling_driver": "intel_pstate\n",
            "sys/module/kvm/parameters/halt_poll_ns": "200000\n",
            "sys/module/kvm_intel/parameters/ept": "Y\n",
            "sys/module/kvm_amd/parameters/npt": "Y\n",  # built in, on a CPU that cannot use it
            "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
            "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        },
    )


def test_facts_of_a_tree(intel):
    found = host(intel)
    assert found.kernel == "6.12.9"
    assert found.build == "#7 SMP PREEMPT_DYNAMIC Tue"
    assert found.cmdline == "root=/dev/sda ro isolcpus=2-3"
    assert found.cpu == "Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz"
    assert found.microcode == "0x2006e05"
    assert found.mitigations == {
        "l1tf": "Not affected",
        "mds": "Mitigation: Clear CPU buffers; SMT vulnerable",
    }
    assert found.kvm == "kvm_intel"
    assert found.kvm_parameters == {"kvm.halt_poll_ns": "200000", "kvm_intel.ept": "Y"}
    assert (found.governor, found.smt) == ("performance", "on")
    assert found.tsc_hz == 2_099_990_000  # 4199.98 / 2 MHz
    assert found.facts == {
        "cpu_vendor": "GenuineIntel",
        "cpu_model": "cpu family 6, model 85, stepping 4",
        "cpus": "0-7",
        "isolated_cpus": "2-3",
        "turbo": "on",
        "cpufreq_driver": "intel_pstate",
        "clocksource": "tsc",
        "transparent_hugepages": "madvise",
        "nmi_watchdog": "1",
        "hypervisor": "no",
        "cpu_virtualization": "vmx",
        "constant_tsc": "yes",
        "nonstop_tsc": "yes",
        "tsc_known_freq": "no",
        "tsc_deadline_timer": "yes",
        "x2apic": "yes",
    }
    assert boot_id(intel) == "0b0c"


def test_nothing_is_there(tmp_path):
    assert host(tmp_path) == host(tmp_path / "nowhere") == Host()
    assert boot_id(tmp_path) == ""
    assert loaded_vendor(tmp_path) is None
    assert cpu_flags(tmp_path) == frozenset()


def test_nothing_can_be_read(intel):
    for path in (intel / "proc/cpuinfo", intel / CPU / "vulnerabilities"):
        path.rename(path.with_name("aside"))
    (intel / "proc/cpuinfo").mkdir()  # a folder where a file is expected
    (intel / CPU / "vulnerabilities").write_text("a file where a folder is expected")
    found = host(intel)
    assert (found.cpu, found.mitigations, found.tsc_hz, found.kvm) == (None, {}, None, None)
    assert found.kernel == "6.12.9"


def test_bytes_that_are_no_text(intel):
    (intel / "proc/cmdline").write_bytes(b"a=\xff b")
    assert host(intel).cmdline == "a=\ufffd b"


@pytest.mark.parametrize(
    ("flags", "modules", "vendor"),
    [
        ("svm", ["kvm_amd"], "kvm_amd"),
        ("svm", ["kvm_amd", "kvm_intel"], "kvm_amd"),
        ("vmx", ["kvm_amd", "kvm_intel"], "kvm_intel"),
        ("fpu", ["kvm_pvm"], "kvm_pvm"),
        ("fpu", ["kvm_intel"], None),
        ("fpu", ["kvm"], None),
    ],
)
def test_vendor(tmp_path, flags, modules, vendor):
    put(tmp_path, {"proc/cpuinfo": f"flags : {flags}\n"})
    for module in modules:
        (tmp_path / "sys/module" / module).mkdir(parents=True)
    assert loaded_vendor(tmp_path) == host(tmp_path).kvm == vendor


@pytest.mark.parametrize(
    ("files", "hz"),
    [
        ({f"{CPU}/cpu0/tsc_freq_khz": "2100001\n"}, 2_100_001_000),
        ({f"{CPU}/cpu0/tsc_freq_khz": "no\n"}, 2_099_990_000),
        ({"proc/cpuinfo": CPUINFO.replace("constant_tsc", "")}, None),
        ({"proc/cpuinfo": CPUINFO.replace("4199.98", "48.00")}, 24_000_000),
        ({"proc/cpuinfo": CPUINFO.replace("4199.98", "4199")}, None),
    ],
)
def test_tsc_frequency(intel, files, hz):
    assert host(put(intel, files)).tsc_hz == hz


@pytest.mark.parametrize(
    ("files", "turbo"),
    [
        ({f"{CPU}/intel_pstate/no_turbo": "1\n"}, "off"),
        ({f"{CPU}/intel_pstate/no_turbo": "", f"{CPU}/cpufreq/boost": "1\n"}, "on"),
        ({f"{CPU}/intel_pstate/no_turbo": "", f"{CPU}/cpufreq/boost": "0\n"}, "off"),
        ({f"{CPU}/intel_pstate/no_turbo": ""}, None),
    ],
)
def test_turbo(intel, files, turbo):
    assert host(put(intel, files)).facts.get("turbo") == turbo


def test_cpus_that_differ(intel):
    put(intel, {f"{CPU}/cpu1/cpufreq/scaling_governor": "powersave\n"})
    assert host(intel).governor == "performance, powersave"


@pytest.mark.skipif(not Path("/proc/sys/kernel/osrelease").exists(), reason="not Linux")
def test_this_host():
    found = host()
    assert found.kernel == os.uname().release
    assert found.build == os.uname().version
    assert host() == found  # facts hold for as long as the boot does
    assert msgspec.convert(msgspec.to_builtins(found), Host) == found
    assert len(boot_id()) == 36
