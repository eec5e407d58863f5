"""The lab's kernels with parameters and a policy stated, and its check of a process's own ports."""

import os
import signal
from pathlib import Path
from statistics import median

import pytest

import kvmbench
from kvmbench.cli.lab import DEFAULT
from kvmbench.errors import LabError, LiveError
from kvmbench.lab import checks, emulator, ioperm, kernel, run
from kvmbench.lab.document import ioperm_document
from kvmbench.tests.command import invoke
from kvmbench.tests.test_house import SOURCE, in_tree
from kvmbench.tests.test_lab import bzimage


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Give each test its own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def file(tmp_path):
    """Return the path of a bzImage."""
    path = tmp_path / "bzImage"
    path.write_bytes(bzimage())
    return path


# What --kernel says


@pytest.mark.parametrize(
    ("options", "append", "policy"),
    [
        ("", "", None),
        (",append=kvmbench.put=eager", "kvmbench.put=eager", None),
        (",append=lsm=a,b  quiet,policy=eager", "lsm=a,b quiet", "eager"),
        (",policy=none,append=", "", "none"),
    ],
)
def test_options_of_a_kernel(file, options, append, policy):
    found = kernel.kernel(f"k={file}{options}")
    assert (found.label, found.append, found.policy) == ("k", append, policy)
    assert found.source == str(file) + (f", append {append}" if append else "")
    assert found.modules is None


def test_the_label_of_a_file_with_options(file):
    assert kernel.kernel(f"{file},append=a=b").label == "bzImage"


def test_debian_with_options(file, monkeypatch):
    made = kernel.Kernel(label="6.12", image=file, modules=Path("m"), release="6.12", source="D")
    monkeypatch.setattr(kernel, "_debian", lambda label, wanted: made)
    assert kernel.kernel("debian:6.12,append=quiet").source == "D, append quiet"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (",append=a,append=b", "has an option twice"),
        (",append=quiet -- init", "without --"),
        (",append=é", "ASCII"),
        (f",append={'a' * 2000}", "at most 1500"),
        (",modules=", "modules=: there is no such folder"),
        (",policy=eager,modules=nowhere", "nowhere: there is no such folder"),
    ],
)
def test_options_that_are_none(file, options, words):
    with pytest.raises(LabError, match=words) as caught:
        kernel.kernel(f"k={file}{options}")
    assert "\n" not in str(caught.value)


def test_debian_has_its_own_modules():
    with pytest.raises(LabError, match="debian:RELEASE has its own modules"):
        kernel.kernel("debian:6.12,modules=x")


def test_the_kernels_parameters_stand_before_those_of_the_first_process():
    made = run.CMDLINE.format(append="kvmbench.put=none")
    assert made.index("kvmbench.put=none") < made.index(" -- ")
    assert made.index("mitigations=off") < made.index("kvmbench.put=none")  # the later one wins
    assert len(run.CMDLINE) + kernel.APPEND < 2047  # COMMAND_LINE_SIZE of x86, less its NUL


def test_a_policy_that_is_none(file):
    folder = emulator._folder(emulator.TARBALL_SHA256)
    folder.mkdir(parents=True)
    (folder / "bochs").touch()
    done = invoke("lab", "run", "--kernel", f"{file},policy=egaer", "cpuid")
    assert (done.exit_code, "Traceback" in done.output) == (2, False)
    assert "eager" in done.stderr


# A process's own ports


def test_a_process_that_holds_no_port_gets_sigsegv():
    """This test's own kernel answers, by the SDM: IOPL 0 and no bitmap deny every port."""
    assert ioperm._allowed(held=False, ran=False) is False


def test_a_process_that_may_is_allowed(monkeypatch):
    monkeypatch.setattr(ioperm, "CODE", b"\xc3")  # ret
    assert ioperm._allowed(held=False, ran=False) is True


def test_a_process_that_ends_otherwise(monkeypatch):
    monkeypatch.setattr(ioperm, "CODE", b"\x0f\x0b")  # ud2
    with pytest.raises(LiveError, match=f"ended with -{signal.SIGILL.value}"):
        ioperm._allowed(held=False, ran=False)
    monkeypatch.setattr(ioperm, "_access", lambda *_: os.stat("/nowhere"))
    with pytest.raises(LiveError, match=r"ended with 1: .*nowhere"):
        ioperm._allowed(held=False, ran=False)


def answers(denied):
    return [
        ioperm.Try(ioperm=held, kvm_run=ran, allowed=held and not (ran and denied))
        for ran in (False, True)
        for held in (False, True)
    ]


def test_the_answers_of_two_kernels(file, monkeypatch):
    found = {"good": answers(False), "bad": answers(True)}
    monkeypatch.setattr(checks, "check_ioperm", lambda kernel, *_: found[kernel.label])
    monkeypatch.setattr("kvmbench.cli.lab._emulator", lambda: None)
    good, bad = f"good={file}", f"bad={file},append=kvmbench.put=none"
    assert invoke("lab", "check-ioperm", "--kernel", good).exit_code == 0
    done = invoke("lab", "check-ioperm", "--kernel", good, "--kernel", bad)
    assert done.exit_code == 1
    assert "\nyes     yes      allowed  SIGSEGV\n" in done.stdout
    assert "\nno      yes      SIGSEGV  SIGSEGV\n" in done.stdout
    assert "kvmbench.put=none" in done.stdout


def test_the_records_of_the_answers(file):
    one = kernel.kernel(f"k={file}")
    made = ioperm_document([(one, "vmx", answers(True))])
    assert [record["right"] for record in made.records] == [True, True, True, False]
    assert made.data["kernels"][0]["tries"] == answers(True)


# The committed results


@in_tree
def test_the_patch_on_a_real_kernel():
    """The reload belongs to the put: a row that returns to userspace pays it, no other does.

    Expected from the patch (b7ffc44d5b2e) and the SDM: a VM exit leaves TR's limit at 0x67, LTR
    loads the TSS's own, 0x4087 from Linux 5.5 on.
    """
    result = kvmbench.load(str(SOURCE / "results" / "lab" / "tr-2017-vmx.json"))
    found = {(s.workload, s.configuration): s for _, _, s in result.series()}
    assert {name for _, name in found} == {"before", "before+bitmap", "after", "after+bitmap"}
    for name in DEFAULT:
        for configuration in ("before", "before+bitmap", "after", "after+bitmap"):
            reloads = configuration != "after"
            ltr = found[f"{name}:ltr", configuration]
            pays = int(reloads and name in ("inl_from_pmtimer", "inl_from_qemu"))
            assert ltr.values == ltr.values[:1] == [pytest.approx(pays, abs=0.005)]
            assert (ltr.reloads, ltr.marks) == (pays, [])
            counts = found[name, configuration].counts
            limits = counts["tr_limit_least"], counts["tr_limit_greatest"]
            assert limits == ((0x4087, 0x4087) if reloads else (0x67, 0x67))


@in_tree
@pytest.mark.parametrize("vendor", ["vmx", "svm"])
def test_releases(vendor):
    """LTR of each exit on SVM up to 6.4 and never from 6.5 on; none on VMX without a bitmap."""
    result = kvmbench.load(str(SOURCE / "results" / "lab" / f"releases-{vendor}.json"))
    found = {(s.workload, s.configuration): s for _, _, s in result.series()}
    for name in DEFAULT:
        exits = 0 if "cr8" in name else 1
        for release in ("5.10", "6.1", "6.12", "7.2"):
            counts = found[name, release].counts
            assert counts.get("exits", 0) == exits
            pays = exits if vendor == "svm" and release in ("5.10", "6.1") else 0
            assert found[f"{name}:ltr", release].values == [pytest.approx(pays, abs=0.005)]
            to_user = name in ("inl_from_pmtimer", "inl_from_qemu")
            assert counts.get("lgdt", 0) == (2 * pays if vendor == "svm" else to_user)
    # The page shows them: a row's figures are the medians of the result.
    page = (SOURCE / "docs" / "releases.md").read_text().partition(f"<!-- {vendor}")[2]
    lines = [line.strip("| ").split(" | ") for line in page.partition("<!-- end")[0].splitlines()]
    shown = {(line[0], line[1]): line[2:] for line in lines if line[0].startswith("`")}
    for name in DEFAULT:
        medians = [median(found[name, r].values) for r in ("5.10", "6.1", "6.12", "7.2")]
        assert shown[f"`{name}`", "instructions"] == [f"{round(m):,}" for m in medians]
        if "from_q" in name and vendor == "svm":
            assert shown[f"`{name}`", "LTR"] == ["1", "1", "0", "0"]
            assert shown[f"`{name}`", "WRMSR"] == ["13", "0", "0", "0"]
