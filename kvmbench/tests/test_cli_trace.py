"""`kvmbench trace`: its documents in each form, its errors, and reports of other programs."""

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest

from kvmbench import formats
from kvmbench.errors import ResultError
from kvmbench.formats import exit_mix
from kvmbench.tests.command import ENV, invoke
from kvmbench.traces.document import SCHEMAS

FOLDER = Path(__file__).parent / "recordings"
HAND = FOLDER / "hand-counted.txt"


def document(*arguments):
    """Return a JSON document, which the schema that the package gives describes in full."""
    schema = msgspec.json.schema(SCHEMAS["trace"])
    for table in schema["$defs"].values():
        table["additionalProperties"] = False
    found = json.loads(ok(*arguments, "--format", "json"))
    jsonschema.Draft202012Validator(schema).validate(found)
    return found


def ok(*arguments):
    done = invoke("trace", *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_show():
    text = ok("show", HAND)
    assert "5 VM exits in 0.004236 s, 1 CPU, 1 vCPU" in " ".join(text.split())
    line = next(line for line in text.splitlines() if line.startswith("IO_INSTRUCTION"))
    assert line.split() == ["IO_INSTRUCTION", "1", "20.00", "236", "50", "50", "0.050", *"110"]
    assert "3 vcpu_put()s, 708 per second: 1 by return to userspace, 2 by being" in text
    assert "kvm_page_fault" in text


def test_show_as_json_and_csv():
    data = document("show", HAND)
    assert data["recording"]["unread"] == {"(comment)": 3, "kvm_page_fault": 1}
    assert data["recording"]["puts"] == 3
    assert data["replay"] is None
    (cpuid,) = (row for row in data["reasons"] if row["reason"] == "CPUID")
    assert (cpuid["exits"], cpuid["share"], cpuid["host_ns"]) == (2, 0.4, 6000)
    assert cpuid["per_second"] == pytest.approx(2 / 4236e-6)
    rows = list(csv.DictReader(io.StringIO(ok("show", HAND, "--format", "csv"))))
    assert [row["exits"] for row in rows] == ["2", "1", "1", "1"]
    assert ok("show", HAND, "--format", "markdown").count("|") > 40


def test_show_by_vcpu():
    data = document("show", HAND, "--by", "vcpu")
    assert {row["task"] for row in data["reasons"]} == {"CPU 0/KVM-6660 vcpu 0"}
    assert "CPU 0/KVM-6660 vcpu 0" in ok("show", HAND, "--by", "vcpu")


def test_show_from_stdin(monkeypatch):
    command = [sys.executable, "-m", "kvmbench", "trace", "show", "-", "--format", "json"]
    with HAND.open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, env=ENV, check=True)
    found = json.loads(done.stdout)
    assert found["recording"].pop("source") == "stdin"
    same = document("show", HAND)
    del same["recording"]["source"]
    assert found == same
    done = subprocess.run(command, input=b"PERFILE2" + bytes(99), capture_output=True, env=ENV)
    assert done.returncode == 1
    assert b"a perf.data: give its file's name, or pipe `perf script" in done.stderr


def test_run():
    data = document("run", HAND)["replay"]
    assert (data["before"]["reloads"], data["after"]["reloads"]) == (3, 1)
    assert data["worth"] == 956
    assert {row["task"]: row["worth"] for row in data["tasks"]} == {
        "CPU 0/KVM-6660 vcpu 0": 1440, "Xorg-900": -484,
    }  # fmt: skip
    text = ok("run", HAND, "--after", "exit-to-user", "--explain")
    for said in ("Assumptions:", "2,600,000,000 cycles per second (assumed)", "--bitmap PID|COMM"):
        assert said in " ".join(text.split())
    assert "Assumptions" not in ok("run", HAND)
    assert "Worth to this recording: +956 cycles" in ok("run", HAND)


def test_run_with_options():
    data = document("run", HAND, "--map", "CPUID=vmcall", "--clock-hz", "1000000000")["replay"]
    assert data["kinds"]["CPUID, in the kernel"] == "vmcall"
    assert data["before"]["cycles"]["exit"] == 2 * 1181 + 2339 + 2 * 1291
    assert data["before"]["cycles"]["guest"] == 150_000
    held = document("run", HAND, "--bitmap", "CPU 0/KVM", "--vendor", "svm")["replay"]
    assert [row["bitmap"] for row in held["tasks"]] == [True, True]


def test_scenario(tmp_path):
    path = tmp_path / "host.toml"
    done = invoke("trace", "scenario", HAND, "-o", path)
    assert done.exit_code == 0
    assert f"`kvmbench scenario {path}` simulates it" in done.stderr
    shown = invoke("show", path)
    assert "vcpu, 1 tasks; guest_us 50" in shown.stdout
    assert invoke("scenario", path, "--seconds", "0.001").exit_code == 0
    assert ok("scenario", HAND) == path.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["show", "none.txt"], 2, "none.txt: No such file or directory"),
        (["show", FOLDER], 2, "Is a directory"),
        (["show", FOLDER / "README.md"], 1, "no event in"),
        (["run", HAND, "--bitmap", "qemu"], 1, "no task of the recording is 'qemu'; known: "),
        (["run", HAND, "--map", "HLT"], 2, "HLT: expected REASON=KIND or REASON/user=KIND"),
        (["run", HAND, "--map", "HLT=x"], 1, "unknown exit kind 'x'"),
        (["run", HAND, "--clock-hz", "3"], 2, "'3' is not a whole number of 1000000 to"),
        (["run", HAND, "--after", "eagr"], 2, "did you mean 'eager'"),
        (["run", FOLDER / "perf-kvm-stat.txt"], 1, "a report of counts, without the order"),
        (["show", FOLDER / "perf-kvm-stat.txt", "--by", "vcpu"], 1, "it has no vCPUs"),
        (["sho", HAND], 2, "no command 'sho'; did you mean 'show'"),
    ],
)
def test_errors(arguments, code, said):
    done = invoke("trace", *arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 or "Usage" in done.stderr


def test_hostile_names_reach_no_terminal(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"\x1b[31mvm-1 [000] 1.000000: kvm_exit: reason \x1b[5mX rip 0x1\n"
                     b"vm-1 [000] 1.000009: kvm_entry: vcpu 0\n")  # fmt: skip
    for command in ("show", "run"):
        assert "\x1b" not in ok(command, path, *(["--by", "vcpu"] if command == "show" else []))


# Reports of other programs


@pytest.mark.parametrize(
    ("name", "program", "exits", "figures"),
    [
        # The first rows of a table: its own percentages tell the whole, 131,505 of 97.96 %.
        (
            "perf-kvm-stat",
            "perf kvm stat",
            {"HLT": 101128},
            {"HLT": 100 * 101128 / (131505 / 0.9796)},
        ),
        (
            "perf-kvm-stat-arm64",
            "perf kvm stat",
            {"HVC64": 17},
            {"DABT_LOW": 100 * 661867 / 669155},
        ),
        ("perf-kvm-stat-columns", "perf kvm stat", {"SUPERVISOR_SYSCALL": 1019}, {}),
        # 10 of 6 seconds; two threads
        ("kvmexit-threads", "kvmexit", {"MSR_WRITE": 17230}, {"HLT": 7032 / 6, "CPUID": 10 / 6}),
        ("kvmexit-pid", "kvmexit", {"HLT": 5060}, {"MSR_WRITE": 13467 / 5}),
        ("bpftrace", "bpftrace", {"VMLAUNCH": 87, "97": 1}, {"97": 100 / 88}),
    ],
)
def test_exit_mixes(name, program, exits, figures):
    result = formats.load(FOLDER / f"{name}.txt")
    ((run,),) = (boot.runs for boot in result.boots)
    assert run.engine == program
    found = {series.workload: series for series in run.series}
    assert {reason: found[reason].counts["exits"] for reason in exits} == exits
    for reason, figure in figures.items():
        assert found[reason].values == pytest.approx([figure])
    assert {s.unit for s in run.series} == {"exits/s" if program == "kvmexit" else "% of exits"}
    shown = document("show", FOLDER / f"{name}.txt")
    assert {row["reason"]: row["exits"] for row in shown["reasons"]}.items() >= exits.items()


def test_mean_times_of_a_mix():
    """HLT: 310.88 us on average; RISC-V's first reason: 74274 ns."""
    for name, reason, us in (("", "HLT", 310.88), ("-columns", "STORE_GUEST_PAGE_FAULT", 74.274)):
        mix, *_ = exit_mix.mixes((FOLDER / f"perf-kvm-stat{name}.txt").read_bytes(), "x")
        assert mix.mean_us[reason] == us
    timed = b"PID TID KVM_EXIT_REASON COUNT EXIT_TIME_AVG\n9352 9385 HLT 697 67104726\n"
    (mix,) = exit_mix.mixes(timed, "x")
    assert (mix.exits, mix.mean_us) == ({"HLT": 697}, {"HLT": 67104.726})


def test_mixes_are_compared_by_rate():
    done = invoke("compare", FOLDER / "kvmexit-threads.txt", FOLDER / "kvmexit-pid.txt")
    assert done.exit_code == 0
    line = next(line for line in done.stdout.splitlines() if line.startswith("MSR_WRITE"))
    assert line.split()[1:4] == ["2872", "2693", "-178"]  # 17230 / 6, 13467 / 5
    done = invoke("compare", FOLDER / "kvmexit-pid.txt", FOLDER / "perf-kvm-stat.txt")
    assert done.exit_code != 0
    assert "% of exits" in done.stderr


def test_several_tables_are_runs():
    data = (FOLDER / "kvmexit-pid.txt").read_bytes()
    (boot,) = formats.decode(data + b"\n" + data, "x").boots
    assert len(boot.runs) == 2
    shown = exit_mix.mixes(data * 3, "x")
    assert [mix.seconds for mix in shown] == [5, 5, 5]


@pytest.mark.parametrize(
    "text",
    [
        "VM-EXIT Samples Samples%\n",
        "KVM_EXIT_REASON COUNT\nHLT 0\n",
        "@exits[HLT]: 0\n",
        f"KVM_EXIT_REASON COUNT\nHLT {'9' * 25}\n",
    ],
)
def test_a_mix_without_exits(text):
    with pytest.raises(ResultError, match=r"x: .*exits"):
        formats.decode(text.encode(), "x")


@pytest.mark.parametrize("end", ["\n", "[x\n"])
def test_a_long_name_of_exits_is_read_in_linear_time(end):
    """Quadratic time would be over ten minutes."""
    data = b"@" + b"exit" * 250_000 + end.encode()
    assert not exit_mix.matches(data)
    assert exit_mix.matches(data[: -len(end)] + b"[HLT]: 5\n")
    with pytest.raises(ResultError):
        formats.decode(data, "x")


# The programs themselves


def test_perf_reads_its_own_file(tmp_path):
    if not shutil.which("perf"):
        pytest.skip("needs perf (Debian: apt-get install linux-perf)")
    path = tmp_path / "perf.data"
    command = ["perf", "record", "-q", "-e", "sched:sched_switch", "-o", str(path), "sleep", "0.01"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("perf may not record tracepoints here")
    done = invoke("trace", "show", path)
    assert done.exit_code == 1
    assert "no event of KVM in" in done.stderr
