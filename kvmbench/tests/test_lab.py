"""The lab: what needs no emulator, a fake one, and one test of the real one where it is built."""

import gzip
import json
import lzma
import os
import re
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from kvmbench import workloads
from kvmbench.errors import LabError
from kvmbench.interpreter import python
from kvmbench.lab import counts, emulator, files, image, kernel, run
from kvmbench.lab.debian import Suite, cache_folder
from kvmbench.lab.doctor import findings
from kvmbench.lab.document import document
from kvmbench.lab.emulator import Emulator
from kvmbench.live.worker import mark_tag
from kvmbench.results import Boot, Host, Result, Run, Series
from kvmbench.tests.command import invoke

HERE = Path(kernel.__file__).parent
SECTION = 1 << 41


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Give each test its own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "cache" / "kvmbench" / "lab"


def bzimage(release="6.1.0-1-test", setup_sectors=4, protected=b"K" * 5000):
    """Return a bzImage by the fields of Linux's Documentation/arch/x86/boot.rst."""
    data = bytearray((setup_sectors + 1) * 512)
    data[0x1F1] = setup_sectors
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x206, 0x20F)
    data[0x211] = 1
    struct.pack_into("<H", data, 0x20E, 0x600 - 0x200)
    data[0x600 : 0x600 + 40] = f"{release} (builder) #1 SMP".encode().ljust(40, b"\0")
    return bytes(data) + protected


# Policies and kernels


@pytest.mark.parametrize(
    ("release", "vendor", "policy"),
    [  # b7ffc44d5b2e is in 4.11, the rework of ioperm in 5.5, SVM's reload is gone in 6.5
        ("4.10.0", "vmx", "eager"),
        ("4.11-rc1", "vmx", "deferred"),
        ("5.4.300", "vmx", "deferred"),
        ("5.5.0", "vmx", "exit-to-user"),
        ("6.12.117+deb13-cloud-amd64", "vmx", "exit-to-user"),
        ("6.1.0-56-cloud-amd64", "svm", "every-exit"),
        ("6.4.16", "svm", "every-exit"),
        ("6.5.0", "svm", None),
        ("7.2.1", "svm", None),
    ],
)
def test_policy_of(release, vendor, policy):
    assert kernel.policy_of(release, vendor) == policy


def test_policy_of_no_release():
    with pytest.raises(LabError, match="--policy"):
        kernel.policy_of("next", "vmx")


def test_kernel_of_a_file(tmp_path):
    file = tmp_path / "bzImage"
    file.write_bytes(bzimage())
    found = kernel.kernel(f"before={file}")
    assert (found.label, found.release, found.modules) == ("before", "6.1.0-1-test", None)
    assert kernel.kernel(str(file)).label == "bzImage"
    assert found.vendors() == ["vmx", "svm"]
    assert found.module_files("svm") == []


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "no setup header"), (b"\0" * 4096, "no setup header"), (bzimage("next"), "version")],
)
def test_kernel_of_another_file(tmp_path, content, words):
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(LabError, match=words):
        kernel.kernel(str(file))


def wide(path):
    """Make a file of some size beyond the lab's limit, without its blocks."""
    with path.open("wb") as file:
        file.truncate(int(files.LARGEST) + 1)


UNUSABLE = {
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is no regular file"),
    "a pipe": (os.mkfifo, "is no regular file"),
    "a folder": (os.mkdir, "is no regular file"),
    "no file": (lambda path: None, "No such file"),
    "a large file": (wide, "larger than 100 MB"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_is_no_file_of_a_kernel_is_not_read(tmp_path, kind):
    make, words = UNUSABLE[kind]
    make(tmp_path / "bzImage")
    with pytest.raises(LabError, match=f"^{tmp_path}/bzImage: {words}"):
        kernel.kernel(f"{tmp_path}/bzImage")
    if kind != "no file":
        (tmp_path / "bzImage").rename(tmp_path / "kvm-amd.ko.xz")
        (tmp_path / "bzImage").write_bytes(bzimage())
        found = kernel.kernel(f"{tmp_path}/bzImage,modules={tmp_path}")
        with pytest.raises(LabError, match=f"kvm-amd.ko.xz: {words}"):
            found.module_files("svm")
    if kind in ("a device", "a pipe", "no file"):
        with pytest.raises(LabError, match=words):
            emulator.build(tmp_path / ("kvm-amd.ko.xz" if kind != "no file" else "bzImage"))


@pytest.mark.parametrize(("suffix", "pack"), [("xz", lzma.compress), ("gz", gzip.compress)])
def test_a_module_that_unpacks_to_too_much(tmp_path, monkeypatch, suffix, pack):
    monkeypatch.setattr(kernel, "LARGEST", 20e6)
    file = tmp_path / f"kvm.ko.{suffix}"
    file.write_bytes(pack(bytes(20_000_000)))
    assert len(kernel._uncompressed(file)) == 20_000_000
    for packed in (pack(bytes(20_000_001)), pack(b"x" * 999)[:-1]):
        file.write_bytes(packed)
        with pytest.raises(LabError, match=r"has no end, or unpacks to over 20 MB$"):
            kernel._uncompressed(file)


def test_modules_that_need_each_other(tmp_path):
    for name, needs in (("kvm-amd", b"kvm,\xff"), ("kvm", b"kvm-amd")):
        (tmp_path / f"{name}.ko").write_bytes(b"depends=" + needs + b"\0")
    (tmp_path / "bzImage").write_bytes(bzimage())
    found = kernel.kernel(f"{tmp_path}/bzImage,modules={tmp_path}").module_files("svm")
    assert [name for name, _ in found] == ["kvm", "kvm-amd"]


def test_a_folder_whose_process_was_killed_goes_with_the_next(tmp_path):
    (tmp_path / "boot-old/inner").mkdir(parents=True)
    (tmp_path / "boot-file").touch()
    (tmp_path / "other").mkdir()
    program = (
        "import sys, time, pathlib\nfrom kvmbench.lab.files import scratch\n"
        "with scratch(pathlib.Path(sys.argv[1]), 'boot-') as folder:\n"
        "    print(folder, flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen(
        python(program, str(tmp_path), packages=True), stdout=subprocess.PIPE, text=True
    ) as other:
        theirs = Path(other.stdout.readline().strip())
        with files.scratch(tmp_path, "boot-") as mine, files.scratch(tmp_path, "boot-") as second:
            names = {"boot-file", "other", theirs.name, mine.name, second.name}
            assert {path.name for path in tmp_path.iterdir()} == names
        other.kill()
    assert theirs.is_dir()
    with files.scratch(tmp_path, "boot-") as mine:
        assert {p.name for p in tmp_path.iterdir()} == {"boot-file", "other", mine.name}


def test_modules_in_the_order_of_their_needs(tmp_path):
    folder = tmp_path / "lib/modules/6.12/kernel/arch/x86/kvm"
    folder.mkdir(parents=True)
    own = {"kvm-amd": b"kvm,ccp", "kvm": b"irqbypass", "irqbypass": b"", "kvm-intel": b"kvm"}
    for name, needs in own.items():
        text = b"license=GPL\0depends=" + needs + b"\0name=" + name.encode() + b"\0"
        (folder / f"{name}.ko.xz").write_bytes(lzma.compress(text))
    (tmp_path / "bzImage").write_bytes(bzimage())
    found = kernel.kernel(f"{tmp_path}/bzImage,modules={tmp_path}")
    assert found.vendors() == ["vmx", "svm"]
    names = [name for name, _ in found.module_files("svm")]
    assert names == ["irqbypass", "kvm", "kvm-amd"]  # ccp is built in
    assert dict(found.module_files("vmx"))["kvm"].startswith(b"license=GPL")
    (folder / "kvm-amd.ko.xz").unlink()
    assert found.vendors() == ["vmx"]
    with pytest.raises(LabError, match=r"no kvm-amd\.ko below"):
        found.module_files("svm")


def test_debian_release(monkeypatch, tmp_path):
    asked = []

    def versions(self, package):
        asked.append((self.name, package))
        if package == kernel.META:
            return [("6.12.1-1", ["linux-image-6.12.1-cloud-amd64"]),
                    ("6.1.192-2", ["linux-image-6.1.0-56-cloud-amd64"])]  # fmt: skip
        return [("6.1.192-2", ["kmod", "linux-modules-6.1.0-56-cloud-amd64", "initramfs-tools"])]

    def package(self, name):
        folder = tmp_path / name
        inner = folder / "usr/lib/modules/6.1.0-56/kernel/arch/x86/kvm"
        inner.mkdir(parents=True, exist_ok=True)
        (folder / "vmlinuz-6.1.0-56").write_bytes(bzimage("6.1.0-56-cloud-amd64"))
        (inner / "kvm.ko").write_bytes(b"")
        return folder

    monkeypatch.setattr(Suite, "versions", versions)
    monkeypatch.setattr(Suite, "package", package)
    found = kernel.kernel("old=debian:6.1")
    assert asked[0] == ("bookworm", "linux-image-cloud-amd64")
    assert (found.label, found.release) == ("old", "6.1.0-56-cloud-amd64")
    assert found.modules.name == "kernel"
    with pytest.raises(LabError, match="no such kernel in sid or experimental"):
        kernel.kernel("debian:5.99")
    with pytest.raises(LabError, match="expected a release"):
        kernel.kernel("debian:6.1 ; rm")


# The image


def unpacked(archive):
    """Read a newc archive as Linux's Documentation/driver-api/early-userspace has it."""
    found, at = {}, 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        begin = (at + 110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = mode, archive[begin : begin + size]
        at = (begin + size + 3) // 4 * 4


def test_cpio():
    archive = image.cpio(
        [("a/b/c", 0o100644, b"abc"), ("a/b/d", 0o120777, b"c"), ("a/b/c", 0, b"")]
    )
    found = unpacked(archive)
    assert found == {
        "a": (0o040755, b""), "a/b": (0o040755, b""),
        "a/b/c": (0o100644, b"abc"), "a/b/d": (0o120777, b"c"),
    }  # fmt: skip
    assert len(archive) % 512 == 0


def test_setup_code():
    setup, rest = image.setup_code(bzimage(), initrd=0x2000000, size=77)
    assert len(setup) == 5 * 512
    assert rest == b"K" * 5000
    assert setup[0x210] == 0xFF
    assert setup[0x211] == 0x81
    assert struct.unpack_from("<II", setup, 0x218) == (0x2000000, 77)
    assert struct.unpack_from("<I", setup, 0x228) == (image.CMDLINE,)


def test_the_marker_is_the_same_everywhere():
    source = (HERE / "instrument.cc").read_text()
    mark = int(re.search(r"MARK = (0x\w+)", source)[1], 16)
    nop = b"\x0f\x1f\x84\x00" + struct.pack("<I", mark)
    sector = image.boot_sector()
    assert len(sector) == 512
    assert sector[510:] == b"\x55\xaa"
    assert b"\x67" + nop in sector
    (extension,) = (HERE.parent / "live").glob("_kvm.*.so")
    assert nop in extension.read_bytes()
    assert re.search(r"LOAD = 1, WRITE = 2, END = 3", source)


def test_python_image_holds_what_the_worker_imports(tmp_path):
    file = image.python_image(tmp_path / "a" / "new one")
    found = unpacked(file.read_bytes())
    assert {"bin/python3", "site/kvmbench/live/worker.py", "site/msgspec/__init__.py"} <= {*found}
    assert any(re.fullmatch(r"site/kvmbench/live/__pycache__/worker\.\S+\.pyc", n) for n in found)
    assert any(name.endswith("/libc.so.6") for name in found)
    assert not any("/tests/" in name for name in found)
    assert image.python_image(file.parent) == file


# Counts


def snapshot(tag, iterations, **found):
    return f"{tag} {iterations} " + " ".join(f"{k}={v}" for k, v in found.items()) + "\n"


def section(number, iterations, rounds, *, name="cpuid", bitmap=False, start=0, **each):
    """Return the lines of rounds in which an iteration costs `each` and a round `start` more."""
    tag = mark_tag(name, bitmap)
    lines, total = [f"{SECTION + number} 0 instructions=5\n"], dict.fromkeys(each, 0)
    for round_ in range(rounds + 1):
        lines.append(snapshot(tag, iterations, **total))
        warm = 999 if round_ == 0 else 0  # the first round is dearer
        total = {k: v + start + warm + each[k] * iterations for k, v in total.items()}
        lines.append(snapshot(tag + 1, iterations, **total, tr_low=103, tr_high=103 + round_ % 2))
    return "".join(lines)


def test_figures_are_differences_of_long_and_short_rounds():
    text = section(0, 500, 2, start=7777, instructions=1034, ltr=1, wrmsr_c0000102=2)
    text += section(1, 1500, 2, start=7777, instructions=1034, ltr=1, wrmsr_c0000102=2)
    (row,) = counts.rows(counts.parse(text + "12 cut o"), ["cpuid", "vmcall"])
    assert (row.workload, row.bitmap) == ("cpuid", False)
    assert row.values == {
        "instructions": [1034, 1034], "ltr": [1, 1], "wrmsr_c0000102": [2, 2],
    }  # fmt: skip
    assert row.tr_limits == (103, 104)
    assert row.by_run("ltr") == [[1, 1]]
    assert row.figure("lgdt") == 0


def test_bitmap_and_no_bitmap_are_two_rows():
    text = "".join(
        section(n, iterations, 1, bitmap=False, ltr=0)
        + section(n, iterations, 1, bitmap=True, ltr=1).partition("\n")[2]
        for n, iterations in enumerate((500, 1500))
    )
    found = counts.rows(counts.parse(text), ["cpuid"])
    assert [(row.bitmap, row.figure("ltr")) for row in found] == [(False, 0), (True, 1)]


def test_counts_that_are_none():
    with pytest.raises(LabError, match="line 1 of the emulator's counts"):
        counts.parse("1 2 ltr\n")
    text = section(0, 1500, 1, ltr=1) + section(1, 500, 1, ltr=1)
    with pytest.raises(LabError, match="no longer than a short one"):
        counts.rows(counts.parse(text), ["cpuid"])
    assert counts.parse("") == []


@pytest.mark.parametrize(
    ("value", "shown"), [(0.9996, 1), (1.005, 1), (-0.004, 0), (1.006, 1.006), (0.1234, 0.123)]
)
def test_exact(value, shown):
    assert counts.exact(value) == shown


def test_labels():
    assert counts.label_of("wrmsr_c0000102", "vmx") == "WRMSR KERNEL_GS_BASE"
    assert counts.label_of("wrmsr_12345", "vmx") == "WRMSR 0x12345"
    assert counts.label_of("rdmsr_48", "vmx") == "RDMSR SPEC_CTRL"
    assert counts.label_of("exit_a", "vmx") == "exit CPUID"
    assert counts.label_of("exit_72", "svm") == "exit CPUID"
    assert counts.label_of("cr3_writes", "svm") == "CR3 writes"


# Results


def counted(label, release, ltr, instructions, vendor="vmx", bitmap=False, policy="eager"):
    row = counts.Row("inl_from_qemu", bitmap)
    row.values = {"instructions": instructions, "ltr": [ltr] * 3, "exits": [1.0004] * 3}
    row.runs = [len(instructions)]
    row.tr_limits = (0x67, 0x67) if not ltr else (0x206F, 0x206F)
    chosen = [workloads.workloads()["inl_from_qemu"]]
    return run.Counted(
        kernel=kernel.Kernel(label=label, image=Path("b"), modules=None, release=release,
                             source="made up"),
        vendor=vendor, policy=policy, stated=True, rows=(row,),
        reloads=run._simulated(chosen, policy, vendor, "on" if bitmap else "off"),
        counters={("inl_from_qemu", bitmap): {"exits": 1.0}}, skipped={"ipi": "one CPU"},
        host=Host(kernel=release), boot_id=label, seconds=1.0,
    )  # fmt: skip


def test_the_simulation_of_the_looked_up_policy():
    """The figures of docs/model.md, section 1: a reload per return to userspace, none else."""
    chosen = [workloads.workloads()[name] for name in ("cpuid", "inl_from_qemu", "mmio_read")]
    assert run._simulated(chosen, "eager", "vmx", "off") == {
        ("cpuid", False): 0, ("inl_from_qemu", False): 1,
    }  # fmt: skip
    assert run._simulated(chosen, "every-exit", "svm", "off")["cpuid", False] == 1
    assert run._simulated(chosen, "exit-to-user", "vmx", "both") == {
        ("cpuid", False): 0, ("inl_from_qemu", False): 0,
        ("cpuid", True): 0, ("inl_from_qemu", True): 1,
    }  # fmt: skip
    assert set(run._simulated(chosen, None, "svm", "both").values()) == {0}


def test_a_result_that_compare_reads(tmp_path):
    both = [
        counted("before", "4.10.0", 1.0, [3000.0, 3010.0, 2990.0]),
        counted("after", "4.11.0", 0.0, [2900.0, 2910.0, 2890.0], policy="deferred"),
    ]
    result = run.result_of(both, command=["kvmbench", "lab"], time="2026-11-26T12:00:00+00:00")
    found = {(s.workload, s.configuration): s for _, _, s in result.series()}
    ltr = found["inl_from_qemu:ltr", "before"]
    assert (ltr.kind, ltr.values, ltr.reloads, ltr.quantum) == ("exact", [1.0], 1.0, 0.005)
    assert (found["inl_from_qemu", "after"].kind, ltr.marks) == ("noisy", [])
    assert found["inl_from_qemu", "after"].counts["exits"] == 1
    from kvmbench import results

    results.write(tmp_path / "lab.json", result)
    done = invoke("compare", f"{tmp_path}/lab.json#before", f"{tmp_path}/lab.json#after")
    assert done.exit_code == 0, done.output
    assert re.search(r"inl_from_qemu:ltr +count +1 +0 +-1 +exact +-100.0 +changed", done.stdout), (
        done.stdout
    )


def test_table():
    both = [
        counted("6.0", "4.10.0", 1.0, [3000.0, 3010.0, 2990.0]),
        counted("6.1", "4.11.0", 0.0, [2900.0, 2910.0, 2890.0], policy="deferred"),
    ]
    made = document(both, run.result_of(both))
    text = "\n".join(" ".join(map(str, row)) for row in made.blocks[0].rows)
    assert "instructions 3,000 2,900 -3.3%" in text
    assert "LTR 1 0 -1" in text
    assert "LTR, simulated 1 0" in text
    assert "TR limit in user mode 0x206f 0x67" in text
    assert "exits" not in text  # did not move
    assert made.records[0]["ltr"] == 1
    assert made.records[0]["differs"] is False
    assert "exits" in str(document(both, run.result_of(both), explain=True).blocks[0].rows)


def test_a_kernel_that_does_not_follow_its_policy_is_marked():
    wrong = [counted("k", "4.11.0", 1.0, [3000.0], policy="deferred")]
    made = document(wrong, run.result_of(wrong))
    assert "differs" in str(made.blocks[0].rows)
    assert made.records[0]["differs"] is True
    assert run.DIFFERS in str(run.result_of(wrong).boots[0].runs[0].series[1].marks)


# A fake emulator


FAKE = """\
#!{python}
import json, os, sys, time
data, counts = (os.environ["KVMBENCH_LAB_" + name] for name in ("DATA", "COUNTS"))
assert os.environ["BXSHARE"]
def say(*words):
    with open(data, "a") as file:
        file.write(json.dumps(words) + "\\n")
{body}
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Return a function that makes an emulator of a Python body, and boots a kernel on it."""
    small = tmp_path / "image.cpio"
    small.write_bytes(bytes(512))
    monkeypatch.setattr(image, "python_image", lambda *_, **__: small)
    file = tmp_path / "bzImage"
    file.write_bytes(bzimage())

    def boot(body, **limits):
        (tmp_path / "bochs").write_text(
            FAKE.format(python=sys.executable, body=textwrap.dedent(body))
        )
        (tmp_path / "bochs").chmod(0o755)
        plan = run.Plan(**limits)
        found = kernel.kernel(f"k={file}")
        chosen = [workloads.workloads()["cpuid"]]
        return run.measure([(found, "vmx")], chosen, plan, Emulator(tmp_path))

    return boot


def test_a_fake_boot(fake, cache):
    series = Series(workload="cpuid", kind="noisy", values=[10.0], counts={"exits": 1.0})
    result = Result(boots=[Boot(id="b", host=Host(kernel="6.1"), runs=[Run(series=[series])])])
    text = section(0, 500, 1, instructions=1000, ltr=0) + section(
        1, 1500, 1, instructions=1000, ltr=0
    )
    builtins = msgspec.to_builtins(result)
    (found,) = fake(
        f"""
        say("begin", "6.1.0-1-test")
        say("kvm", True)
        open(counts, "w").write({text!r})
        say("result", 0, 0, 500, {builtins!r})
        say("result", 1, 0, 1500, {builtins!r})
        say("end")
        time.sleep(60)
        """
    )
    assert found.rows[0].figure("instructions") == 1000
    assert found.policy == "exit-to-user"
    assert found.counters["cpuid", False] == {"exits": 1.0}
    assert list((cache / "boots").iterdir()) == []


@pytest.mark.parametrize(
    ("body", "limits", "words"),
    [
        ("open('console.log', 'w').write('[1.0] Kernel panic - not syncing: VFS: no root')\n"
         "sys.exit(71)", {}, "the kernel panicked: VFS: no root"),
        ("sys.exit(71)", {}, "restarted the machine"),
        ("print('kvmbench: x: cannot be opened', flush=True)\nsys.exit(70)", {},
         "ended with 70: kvmbench: x: cannot be opened"),
        ("time.sleep(60)", {"boot_limit": 0.5}, "did not come up for 0 s|did not come up for"),
        ("say('begin', '6')\ntime.sleep(60)", {"silence_limit": 0.5}, "said nothing for"),
        ("say('begin', '6')\nfor _ in range(600):\n    time.sleep(.1)\n    say('at', 'cpuid')",
         {"limit": 1.0}, "not done after 1 s"),
        ("say('begin', '6')\nsay('module', 'kvm-intel', 'Operation not supported')\n"
         "say('kvm', False)\ntime.sleep(60)", {},
         "no /dev/kvm on an emulated vmx CPU .kvm-intel: Operation not supported"),
        ("say('begin', '6')\nsay('failed', 'nothing to measure', 'x')\ntime.sleep(60)", {},
         "nothing to measure"),
        ("say('begin', '6')\nsay('end')", {}, "ended without a result"),
    ],
)  # fmt: skip
def test_a_boot_that_fails_says_so_in_one_line(fake, cache, body, limits, words):
    with pytest.raises(LabError, match=words) as caught:
        fake(body, **limits)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("k: ")
    if "console" in message:
        assert Path(message.rpartition("console: ")[2]).exists()
    assert list((cache / "boots").iterdir()) == []


@pytest.mark.parametrize("error", [LabError("b: the kernel panicked"), KeyboardInterrupt()])
def test_kernels_that_had_finished_are_not_lost(monkeypatch, error):
    def boot(kernel, *_):
        if kernel.label == "b":
            raise error
        return kernel.label

    monkeypatch.setattr(run, "boot", boot)
    monkeypatch.setattr(run, "_counted", lambda kernel, done, *_: done)
    monkeypatch.setattr(image, "python_image", lambda *_, **__: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    both = [
        (kernel.Kernel(label=name, image=HERE, modules=None, release="6.1", source=""), "vmx")
        for name in "ab"
    ]
    left = []
    assert run.measure(both, [], run.Plan(), None, left=left) == ["a"]
    known = isinstance(error, LabError)
    words = "1 of 2 kernels failed: b: the kernel panicked." if known else "without 1 of 2 kernels."
    assert left[0].endswith(words)
    with pytest.raises(type(error)):
        run.measure(both, [], run.Plan(), None)


# The emulator's build, and the command


def test_a_cache_that_another_user_can_write_to_is_refused(cache, monkeypatch):
    """The lab would run that user's program, as root where sudo keeps HOME."""
    cache.mkdir(parents=True)
    assert cache_folder() == cache
    for place in (cache, cache.parent, cache.parents[1]):
        mode = place.stat().st_mode
        place.chmod(0o777)
        with pytest.raises(LabError, match=f"{place}: another user can write to it"):
            cache_folder()
        place.chmod(0o1777)  # sticky, as /tmp
        assert cache_folder() == cache
        place.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    if cache.stat().st_uid:
        with pytest.raises(LabError, match="another user"):
            cache_folder()
    else:  # a test of root
        os.chown(cache, 54321, -1)
        with pytest.raises(LabError, match="another user"):
            cache_folder()


def test_no_home_folder_is_one_line(monkeypatch):
    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(LabError, match="set XDG_CACHE_HOME"):
        cache_folder()


def test_the_emulator_is_named_by_its_content(monkeypatch, tmp_path):
    before = emulator._identity("0" * 64)
    assert before != emulator._identity("1" * 64)
    monkeypatch.setattr(emulator, "FLAGS", "-O3")
    assert before != emulator._identity("0" * 64)
    assert emulator.find() is None
    folder = emulator._folder(emulator.TARBALL_SHA256)
    folder.mkdir(parents=True)
    (folder / "bochs").touch()
    assert emulator.find() == Emulator(folder)
    assert emulator.build() == Emulator(folder)


def test_build_refuses_another_file(tmp_path):
    if emulator.missing_tools():
        pytest.skip("g++ or make is not installed")
    (tmp_path / "bochs.tar.xz").write_bytes(b"no archive")
    done = invoke("lab", "build", "--source", tmp_path / "bochs.tar.xz")
    assert done.exit_code == 1
    assert "cannot be unpacked" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert invoke("lab", "build", "--source", "none").stderr.count("\n") == 1


def test_build_names_what_is_missing(monkeypatch):
    monkeypatch.setattr(emulator.shutil, "which", lambda name: None)
    with pytest.raises(LabError, match=r"sudo apt-get install g\+\+ libc-bin make"):
        emulator.build()


def test_a_tarball_of_another_content_is_refused(cache):
    (cache / "source").mkdir(parents=True)
    (cache / "source" / emulator.TARBALL).write_bytes(b"other")
    with pytest.raises(LabError, match="its SHA-256 is"):
        emulator.fetch()
    assert not (cache / "source" / emulator.TARBALL).exists()


def test_doctor():
    done = invoke("lab", "doctor", "--format", "json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["ready"] is False
    remedies = {finding.name: finding.remedy for finding in findings()}
    assert remedies["emulator"].endswith("kvmbench lab build")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run"], 2, "--kernel"),
        (["run", "--kernel", "none", "nothing"], 2, "workload"),
        (["run", "--kernel", "none", "--policy", "egaer"], 2, "eager"),
        (["rum"], 2, "did you mean 'run'"),
    ],
)
def test_command_line(arguments, code, words):
    done = invoke("lab", *arguments)
    assert (done.exit_code, "Traceback" in done.output) == (code, False)
    assert words in done.stderr


def test_a_kernel_that_is_not_there():
    folder = emulator._folder(emulator.TARBALL_SHA256)
    folder.mkdir(parents=True)
    (folder / "bochs").touch()
    done = invoke("lab", "run", "--kernel", "none", "cpuid")
    assert (done.exit_code, done.stderr) == (
        1,
        "kvmbench: none: No such file or directory\n",
    )


# The real one


def test_a_real_kernel(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    built = emulator.find()
    if built is None or not list((cache_folder() / "packages").glob("linux-image-6.12*")):
        pytest.skip("the lab's emulator or its kernel is not in the cache: kvmbench lab run")
    found = kernel.kernel("debian:6.12")
    chosen = [workloads.workloads()[name] for name in ("cpuid", "inl_from_qemu")]
    (one,) = run.measure([(found, "vmx")], chosen, run.Plan(runs=1, rounds=1), built)
    assert [row.figure("ltr") for row in one.rows] == pytest.approx([0, 0], abs=0.005)
    assert [row.figure("exits") for row in one.rows] == pytest.approx([1, 1], abs=0.005)
    assert one.rows[1].tr_limits == (0x67, 0x67)
