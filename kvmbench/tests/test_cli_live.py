"""run --engine kvm, host and check-io as commands."""

import json

import pytest
from click.testing import CliRunner

from kvmbench import results
from kvmbench.cli import run_live
from kvmbench.cli.main import main
from kvmbench.errors import LiveError
from kvmbench.live import engine, machine
from kvmbench.results import Boot, Result, Run, Series
from kvmbench.tests.live import needs_kvm


def invoke(*arguments):
    return CliRunner().invoke(main, [str(word) for word in arguments])


@pytest.mark.parametrize(
    ("arguments", "option", "other"),
    [
        (["--engine", "kvm", "--after", "eager"], "--after", "sim"),
        (["--engine", "kvm", "--explain"], "--explain", "sim"),
        (["--engine", "kvm", "--closed-form"], "--closed-form", "sim"),
        (["--engine", "kvm", "--iterations", "5"], "--iterations", "sim"),
        (["--engine", "kvm", "--against", "patch-2017"], "--against", "sim"),
        (["--cpu", "0"], "--cpu", "kvm"),
        (["--fast"], "--fast", "kvm"),
        (["--runs", "3"], "--runs", "kvm"),
    ],
)
def test_options_of_the_other_engine_are_refused(arguments, option, other):
    done = invoke("run", "cpuid", *arguments)
    assert done.exit_code == 2
    assert f"{option} is of --engine {other}, not of --engine" in done.stderr


def test_a_workload_without_costs_is_for_measuring():
    done = invoke("run", "cpuid", "hlt")
    assert (done.exit_code, done.stdout) == (1, "")
    wanted = "profile 'patch-2017' has no costs for hlt: measure it, with --engine kvm\n"
    assert done.stderr.endswith(wanted)


def test_a_form_of_the_other_engine_is_refused():
    done = invoke("run", "cpuid", "--engine", "kvm", "--format", "kut")
    assert (done.exit_code, "--format kut is of --engine sim only" in done.stderr) == (2, True)


def test_where_nothing_can_be_measured_one_line_says_why(monkeypatch):
    words = "there is no /dev/kvm: sudo modprobe kvm_intel"
    monkeypatch.setattr(machine, "why_not", lambda: words)
    for command in (["run", "--engine", "kvm"], ["check-io"]):
        done = invoke(*command)
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.endswith(f"{words}\n")
        assert done.stderr.count("\n") == 1
    done = invoke("host")
    assert done.exit_code == 1
    assert words in done.stdout
    assert done.stdout.endswith("Nothing can be measured here.\n")


def test_what_fails_in_the_middle_is_one_line(monkeypatch):
    def fail(*_, **__):
        raise LiveError("the guest does not start")

    monkeypatch.setattr(engine, "measure", fail)
    done = invoke("run", "--engine", "kvm", "cpuid")
    assert (done.exit_code, done.stderr) == (1, "kvmbench: the guest does not start\n")


@pytest.fixture
def quick(monkeypatch):
    plan = engine.Plan.__init__

    def init(self, **changes):
        plan(self, **(changes | dict(rounds=3, seconds=0.6)))

    monkeypatch.setattr(engine.Plan, "__init__", init)


@needs_kvm
def test_measure_save_compare(quick, tmp_path):
    """What is saved can be read, grows with --append, and compares with itself."""
    names = ("empty_cpl3", "inb_cpl3")
    given = ["--engine", "kvm", "--runs", "2", "--results-dir", tmp_path, "--save", "here"]
    done = invoke("run", *names, *given)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {line[0] for line in lines if line} >= {"workload", *names}
    assert invoke("run", *names, *given, "--append").exit_code == 0
    (path,) = tmp_path.glob("here*")
    kept = results.read(path)
    assert len(list(kept.runs())) == 4
    assert kept.workloads() == list(names)
    assert all(run.engine == "kvm" for _, run in kept.runs())
    done = invoke("compare", path, path)
    assert (done.exit_code, done.stderr) == (0, "")


@needs_kvm
def test_formats(quick):
    done = invoke("run", "empty", "--engine", "kvm", "--runs", "1", "--format", "json")
    document = json.loads(done.stdout)
    assert [row["workload"] for row in document["rows"]] == ["empty"]
    assert document["engine"] == "kvm"


@needs_kvm
def test_ioperm_both_measures_or_says_why_not(quick):
    done = invoke("run", "inb_cpl3", "--engine", "kvm", "--runs", "1", "--ioperm", "both")
    if number := engine.held_bitmap_error():
        assert done.exit_code == 1
        assert engine.errno.errorcode[number] in done.stderr
        assert done.stderr.count("\n") == 1
    else:
        assert "no bitmap" in done.stdout


@needs_kvm
def test_a_users_workload_is_measured(quick, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from kvmbench import Workload\n"
        "from kvmbench.guest.programs import Program\n"
        "def body(code, machine):\n    code.nop()\n"
        "WORKLOADS = [Workload('nops', 'a NOP at CPL 3', guest=Program(body=body, cpl=3))]\n"
    )
    arguments = ("--engine", "kvm", "--runs", "1", "--workload-file", file, "--format", "json")
    done = invoke("run", "nops", *arguments)
    assert [row["workload"] for row in json.loads(done.stdout)["rows"]] == ["nops"]


@needs_kvm
def test_check_io():
    done = invoke("check-io", "--cases", "400", "--seed", "3")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("400 accesses at CPL 3, decided by ")
    assert done.stdout.endswith("None was decided otherwise.\n")


@needs_kvm
def test_check_io_fails_where_the_rule_is_wrong(monkeypatch):
    from kvmbench.live import io_check

    monkeypatch.setattr(io_check, "port_check", lambda *_: True)
    done = invoke("check-io", "--cases", "200")
    assert done.exit_code == 1
    assert " decided otherwise, the first 10:\n" in done.stdout


def test_host():
    done = invoke("host")
    assert max(len(line) for line in done.stdout.splitlines() if "->" not in line) <= 80
    document = json.loads(invoke("host", "--format", "json").stdout)
    assert {one["name"] for one in document["findings"]} >= {"/dev/kvm", "TSC"}
    assert document["host"]["kernel"]


def test_what_was_stopped_is_printed_and_kept_and_no_success(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    row = Series(workload="cpuid", kind="noisy", values=[1])
    note = f"{engine.STOPPED} in run 2 of 8."
    found = Result(notes=[note], boots=[Boot(runs=[Run(engine="kvm", series=[row])])])
    monkeypatch.setattr(run_live, "measured", lambda *_, **__: ("the table\n", found))
    done = CliRunner().invoke(main, ["run", "--engine", "kvm", "cpuid", "--save", "part"])
    assert (done.exit_code, done.stdout) == (130, "the table\n")
    assert results.read("results/part.json").notes == [note]
