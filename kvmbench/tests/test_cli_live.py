"""measure, save, host and check-io as commands, and the results that measure keeps."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kvmbench import results
from kvmbench.cli import measure as measure_command
from kvmbench.cli import store
from kvmbench.errors import LiveError
from kvmbench.live import engine, machine
from kvmbench.results import Boot, Result, Run, Series
from kvmbench.tests import command
from kvmbench.tests.live import needs_kvm

pytestmark = pytest.mark.usefixtures("folder")


def invoke(*arguments, **env):
    done = command.invoke(*arguments, **env)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def ok(*arguments, **env):
    done = invoke(*arguments, **env)
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


def made(value, *notes):
    """Return a result of eight runs of cpuid."""
    runs = [
        Run(engine="kvm", series=[Series(workload="cpuid", kind="noisy", values=[value + n % 3])])
        for n in range(8)
    ]
    return Result(notes=list(notes), boots=[Boot(id="b", runs=runs)])


@pytest.fixture
def measures(monkeypatch):
    """Return a function that sets the result of the next measurements, and the calls so far."""
    calls = []

    def set_(result):
        def measure(workloads, **options):
            calls.append(options | dict(workloads=[workload.name for workload in workloads]))
            return result

        monkeypatch.setattr(engine, "measure", measure)
        return calls

    return set_


def test_a_workload_without_costs_is_for_measuring():
    done = invoke("run", "cpuid", "hlt")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "kvmbench: cost profile 'patch-2017' has no costs for hlt: `kvmbench measure hlt` "
        "measures it\n"
    )


def test_where_nothing_can_be_measured_one_line_says_why(monkeypatch):
    words = "there is no /dev/kvm: sudo modprobe kvm_intel"
    monkeypatch.setattr(machine, "why_not", lambda: words)
    for name in ("measure", "check-io"):
        done = invoke(name)
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.endswith(f"{words}\n")
        assert done.stderr.count("\n") == 1
    done = invoke("host")
    assert done.exit_code == 1
    assert words in " ".join(done.stdout.split())
    assert done.stdout.endswith("Nothing can be measured here.\n")


def test_a_failure_in_the_middle_is_one_line(monkeypatch):
    def fail(*_, **__):
        raise LiveError("the guest does not start")

    monkeypatch.setattr(engine, "measure", fail)
    done = invoke("measure", "cpuid")
    assert (done.exit_code, done.stderr) == (1, "kvmbench: the guest does not start\n")
    assert not Path("state").exists()


def test_the_options_reach_the_measurement(measures):
    calls = measures(made(1000))
    ok("measure", "cpuid", "hlt", "--runs", 3, "--fast", "--cpu", 1, "--ioperm", "both")
    (call,) = calls
    assert (call["workloads"], call["runs"], call["fast"]) == (["cpuid", "hlt"], 3, True)
    assert (call["cpu"], call["ioperm"]) == (1, "both")
    assert call["command"][:3] == ["kvmbench", "measure", "cpuid"]


def test_variables_of_other_commands_change_nothing(measures):
    calls = measures(made(1000))
    ok(
        "measure",
        KVMBENCH_RUN_PROFILE="./no.toml",
        KVMBENCH_RUN_FORMAT="csv",
        KVMBENCH_RUN_IOPERM="on",
    )
    assert calls[0]["ioperm"] == "off"
    ok("measure", KVMBENCH_MEASURE_IOPERM="on")
    assert calls[1]["ioperm"] == "on"


# The results that measure keeps


def test_what_was_measured_last_is_never_lost(measures):
    for value in (1000, 2000, 3000):
        measures(made(value))
        ok("measure", "cpuid")
    assert "3001" in ok("show", "last")
    assert "1001" in ok("show", "last~2")
    rows = json.loads(ok("compare", "last~1", "last", "--format", "json"))["rows"]
    assert [row["shift"] for row in rows] == [1000]
    assert invoke("show", "last~3").exit_code == 2
    assert "known: last, cpuid-rate-zen3-2023, " in invoke("compare", "zzz", "last").stderr
    ok("save", "last~1", "main")
    assert next(results.read("results/main.json").series())[2].values == [2000]
    assert json.loads(ok("compare", "main", "last", "--format", "json"))["rows"][0]["shift"] == 1000
    # Completion offers them.
    env = dict(COMP_WORDS="kvmbench compare la", COMP_CWORD="2", _KVMBENCH_COMPLETE="bash_complete")
    assert ok(**env) == "plain,last\nplain,last~1\nplain,last~2\n"


def test_the_last_20_are_kept(measures):
    for value in range(23):
        measures(made(1000 + 10 * value))
        ok("measure")
    assert len(list(Path("state/kvmbench").iterdir())) == 20
    first = results.read(store.recent_results()["last~19"])
    assert next(first.series())[2].values == [1030]


def test_the_state_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative"):  # the specification ignores a relative path
        monkeypatch.setenv("XDG_STATE_HOME", value)
        store.keep_recent(made(1))
    assert len(list((tmp_path / "home/.local/state/kvmbench").iterdir())) == 2
    assert not Path("relative").exists()


def test_a_state_folder_that_cannot_be_written_is_a_warning(measures):
    measures(made(1000))
    Path("state").write_text("a file")
    done = invoke("measure")
    assert done.exit_code == 0
    assert "cpuid" in done.stdout
    assert done.stderr.startswith("kvmbench: not kept as 'last': ")
    assert done.stderr.count("\n") == 1


def test_a_target_that_cannot_be_written_is_refused_before_measuring(measures):
    calls = measures(made(1000))
    Path("file").write_text("")
    Path("folder").mkdir()
    for arguments in (
        ("--save", "x", "--results-dir", "file/x"),
        *(("-o", output) for output in ("nowhere/x.json", "file/x", "folder", "folder/")),
    ):
        done = invoke("measure", *arguments)
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert arguments[-1] in done.stderr
    assert calls == []


@pytest.mark.parametrize("arguments", [("--save", "x"), ("-o", "x.json"), ("-o", "x.txt")])
def test_a_table_is_printed_where_it_cannot_be_kept(measures, monkeypatch, arguments):
    """The disk is full only when the measurement is over."""
    measures(made(1000))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = invoke("measure", *arguments)
    assert done.exit_code == 1
    assert "cpuid" in done.stdout
    assert "x" in done.stderr.splitlines()[-1]
    assert done.stderr.count("No space left on device") == 2  # nor could it be kept as last


def test_measured_runs_that_came_meanwhile_are_not_replaced(monkeypatch):
    """Another command keeps its measurement under the name after this one looked."""

    def meanwhile(workloads, **_):
        results.append("results/x.json", made(2000))
        return made(1000)

    Path("results").mkdir()
    monkeypatch.setattr(engine, "measure", meanwhile)
    done = invoke("measure", "--save", "x")
    assert done.exit_code == 1
    assert "results/x.json holds measured runs by now" in done.stderr
    assert "the runs are kept as 'last': `kvmbench save last NAME` keeps them" in done.stderr
    assert "cpuid" in done.stdout
    assert next(results.read("results/x.json").series())[2].values == [2000]
    ok("measure", "--save", "x", "--replace")


def test_fewer_runs_than_asked_for_are_no_success(measures):
    note = "1 of 9 runs ended with signal 9."
    measures(made(1000, note))
    done = invoke("measure", "--save", "x")
    assert (done.exit_code, note in done.stderr) == (1, True)
    assert "cpuid" in done.stdout
    assert results.read("results/x.json").notes == [note]
    assert "cpuid" in ok("measure", "--keep-going")


def test_patterns_choose_workloads_with_guest_code(measures):
    calls = measures(made(1000))
    ok("measure", "mov_*_cr8", "hlt", "mov_to_cr8*")
    assert calls[0]["workloads"] == ["mov_from_cr8", "mov_to_cr8", "hlt"]
    assert invoke("measure", "nothing*").exit_code == 2


def test_save(measures):
    measures(made(1000))
    ok("measure", "--save", "main")
    ok("run", "--iterations", 5, "--save", "sim")
    done = invoke("save", "last", "main")
    assert (done.exit_code, "--append adds to them" in done.stderr) == (2, True)
    ok("save", "last", "main", "--append")
    assert len(list(results.read("results/main.json").runs())) == 16
    ok("save", "last", "main", "--replace")
    assert len(list(results.read("results/main.json").runs())) == 8
    assert results.read("results/main.json").name == "main"
    done = invoke("save", "sim", "main", "--append")
    words = "holds runs of kvm, and these are of sim: choose another NAME"
    assert (done.exit_code, words in done.stderr) == (2, True)
    ok("save", "ipiv-2022", "table", "--results-dir", "other")
    assert results.read("other/table.json").name == "table"
    assert invoke("save", "last", "last").exit_code == 2


def test_json_of_a_measurement_is_the_result(measures):
    measures(made(1000))
    ok("measure", "-o", "x.json", "--save", "kept")
    document = json.loads(Path("x.json").read_text())
    assert [row["workload"] for row in document["rows"]] == ["cpuid"]
    assert results.read("x.json").boots == results.read("results/kept.json").boots
    assert json.loads(ok("measure", "--format", "json")) == document
    rows = json.loads(ok("compare", "x.json", "kept", "--format", "json"))["rows"]
    assert [row["shift"] for row in rows] == [0]
    ok("self-test", "x.json")
    ok("convert", "x.json", "x.csv")


def test_a_stopped_measurement_is_printed_and_kept_and_no_success(measures):
    note = f"{engine.STOPPED} in run 2 of 8."
    measures(made(1000, note))
    done = invoke("measure", "cpuid", "--save", "part")
    assert (done.exit_code, done.stderr) == (130, "kvmbench: stopped\n")
    assert note in done.stdout
    assert results.read("results/part.json").notes == [note]
    assert note in ok("show", "last")


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_while_the_runs_are_kept_loses_none(measures, monkeypatch, times):
    """The first Ctrl-C waits for the table, a second one does not."""
    measures(made(1000))
    keep, handler = measure_command.keep_recent, signal.getsignal(signal.SIGINT)

    def pressed(result):
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
        keep(result)

    monkeypatch.setattr(measure_command, "keep_recent", pressed)
    done = invoke("measure", "cpuid", "--save", "part")
    assert (done.exit_code, done.stderr.strip()) == (130, "kvmbench: stopped")
    kept = times == 1
    assert ("1001" in done.stdout, Path("results/part.json").exists()) == (kept, kept)
    assert signal.getsignal(signal.SIGINT) is handler


def test_files_that_are_none_of_kvmbenchs_stay_in_the_state_folder(measures, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    folder = tmp_path / "s/kvmbench"
    folder.mkdir(parents=True)
    for number in range(store.KEPT + 1):
        (folder / f"mine-{number}.json").write_text("{}")
    measures(made(1000))
    ok("measure", "cpuid")
    assert len(list(folder.iterdir())) == store.KEPT + 2
    assert "1001" in ok("show", "last")


def test_a_fifo_among_the_results_is_none(measures):
    Path("results").mkdir()
    os.mkfifo("results/x.json")
    assert "no results" in invoke("list", "results").stderr


# Real ones


@pytest.fixture
def quick(monkeypatch):
    plan = engine.Plan.__init__

    def init(self, **changes):
        plan(self, **(changes | dict(rounds=3, seconds=0.6)))

    monkeypatch.setattr(engine.Plan, "__init__", init)


@needs_kvm
def test_measure_save_compare(quick, tmp_path):
    """A saved result can be read, grows with --append, and compares with itself."""
    names = ("empty_cpl3", "inb_cpl3")
    given = ["--runs", "2", "--results-dir", tmp_path, "--save", "here"]
    lines = [line.split() for line in ok("measure", *names, *given).splitlines()]
    assert {line[0] for line in lines if line} >= {"workload", *names}
    assert invoke("measure", *names, *given, "--append").exit_code == 0
    (path,) = tmp_path.glob("here*")
    kept = results.read(path)
    assert len(list(kept.runs())) == 4
    assert kept.workloads() == list(names)
    assert all(run.engine == "kvm" for _, run in kept.runs())
    ok("compare", path, path)


@needs_kvm
def test_ioperm_both_measures_or_says_why_not(quick):
    done = invoke("measure", "inb_cpl3", "--runs", "1", "--ioperm", "both")
    if done.exit_code:
        assert "ioperm(): E" in done.stderr
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
    found = ok("measure", "nops", "--runs", "1", "--workload-file", file, "--format", "json")
    assert [row["workload"] for row in json.loads(found)["rows"]] == ["nops"]


@needs_kvm
def test_check_io():
    text = ok("check-io", "--cases", "400", "--seed", "3")
    assert text.startswith("400 accesses at CPL 3, decided by ")
    assert text.endswith("None disagrees.\n")


@needs_kvm
def test_check_io_fails_where_the_rule_is_wrong(monkeypatch):
    from kvmbench.live import io_check

    monkeypatch.setattr(io_check, "port_check", lambda *_: True)
    done = invoke("check-io", "--cases", "200")
    assert done.exit_code == 1
    assert " disagree with port_check; the first 10:\n" in done.stdout


def test_host():
    done = invoke("host")
    text = done.stdout.partition("Remedies:")[0]
    assert max(map(len, text.splitlines())) <= 72
    document = json.loads(invoke("host", "--format", "json").stdout)
    assert {one["name"] for one in document["findings"]} >= {"/dev/kvm", "TSC"}
    assert document["host"]["kernel"]


# Progress

WORKS = """
import sys
from kvmbench.cli import progress
progress.DELAY = progress.PERIOD = 0
with progress.Progress() as show:
    for done in range(5):
        show("run 2 of 8: cpuid", done / 5) if sys.argv[1] == "share" else show("7 states")
print("the table")
"""


def on_terminal(*arguments):
    """Run WORKS with stderr on a terminal; return its stdout and the text on the terminal."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | dict(TERM="xterm")
    done = subprocess.run(
        [sys.executable, "-c", WORKS, *arguments], stdout=subprocess.PIPE, stderr=theirs,
        text=True, env=environment,
    )  # fmt: skip
    os.close(theirs)
    text = b""
    try:
        while block := os.read(ours, 65536):
            text += block
    except OSError:  # the terminal has no other end
        pass
    os.close(ours)
    return done.stdout, text.decode()


def test_progress_is_a_bar_on_a_terminal():
    stdout, text = on_terminal("share")
    assert stdout == "the table\n"
    assert "run 2 of 8: cpuid" in text
    assert "80%" in text
    assert "left" in text
    assert text.endswith("\x1b[2K") or text.rstrip().endswith("\x1b[2K")  # it is gone at the end
    stdout, text = on_terminal("states")
    assert "7 states" in text
    assert "%" not in text


def test_progress_is_silent_elsewhere():
    done = subprocess.run([sys.executable, "-c", WORKS, "share"], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("the table\n", "")
