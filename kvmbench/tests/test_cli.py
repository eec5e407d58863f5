"""The command: what it prints, what it refuses and how it ends."""

import csv
import io
import json
import os
import re
import resource
import shlex
import signal
import stat
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from msgspec import structs

import kvmbench
from kvmbench import results
from kvmbench.cli.help import COMMANDS, OPTIONS
from kvmbench.cli.main import main
from kvmbench.model import HOOKS
from kvmbench.results import Run, Series
from kvmbench.tests.command import ENV, HANGS, SCRIPT, interrupted, invoke
from kvmbench.tests.patch_2017 import AFTER, BEFORE, NAMES
from kvmbench.workloads import DEFERRAL, LIVE_ONLY

LIVE_NAMES = [workload.name for workload in (*DEFERRAL, *LIVE_ONLY)]
KUT = f"Before:\n{BEFORE}After:\n{AFTER}"
POLICIES = ["eager", "deferred", "exit-to-user", "every-exit"]
PROFILES = ["patch-2017", "patch-2017-replay"]
PUBLISHED = sorted(p.stem for p in Path(kvmbench.__file__).parent.glob("data/published/*.toml"))
pytestmark = pytest.mark.usefixtures("folder")


def run(*arguments, **env):
    """Run `kvmbench run` with few iterations; return what it prints."""
    done = invoke("run", "--iterations", 5, *arguments, **env)
    assert (done.exit_code, done.stderr) == (0, ""), done.stderr
    return done.stdout


def cycles(*arguments, **env):
    """Return {workload: (before, after)}."""
    rows = csv.DictReader(io.StringIO(run("--format", "csv", *arguments, **env)))
    return {row["workload"]: (float(row["before"]), float(row["after"])) for row in rows}


def process(*arguments, **options):
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV) | options
    return subprocess.Popen([SCRIPT, *arguments], **options)


def finished(*arguments, **options):
    """Run the command as a process; return its exit code, stdout and stderr."""
    with process(*arguments, **options) as running:
        out, err = running.communicate(timeout=HANGS)
    return running.returncode, out, err


def write(name, text):
    Path(name).write_text(text)
    return f"./{name}"


# The table


def test_default_table():
    done = invoke("run")
    assert (done.exit_code, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()[5:13]]
    assert "".join(f"{row[0]} {row[1]}\n" for row in rows) == BEFORE
    assert "".join(f"{row[0]} {row[2]}\n" for row in rows) == AFTER
    assert "eager -> deferred" in done.stdout
    assert "1,000,000 iterations" in done.stdout
    assert done.stdout.count("vcpu_put()") == 1
    assert max(map(len, done.stdout.splitlines())) <= 72


# 250 + 2339 + 350 + 3516, then a reload of 20 + 462, or a mark of 2, or both and three tests.
PUT = 250 + 2339 + 350 + 3516
RELOAD, MARK = 20 + 462, 2


@pytest.mark.parametrize(
    ("option", "value", "pmtimer"),
    [
        ("--before", "deferred", (PUT + MARK, PUT + MARK)),
        ("--before", "every-exit", (PUT + RELOAD, PUT + MARK)),
        ("--after", "eager", (PUT + RELOAD, PUT + RELOAD)),
        ("--after", "exit-to-user", (PUT + RELOAD, PUT + MARK)),
        ("--profile", "patch-2017-replay", (6770, 6457)),
        ("--vendor", "svm", (PUT + RELOAD, PUT + MARK)),
        ("--iterations", "1", (PUT + RELOAD, PUT + MARK)),
        ("--iterations", "100001", (PUT + RELOAD, PUT + MARK)),
        ("--ioperm", "off", (PUT + RELOAD, PUT + MARK)),
        ("--ioperm", "on", (PUT + RELOAD, PUT + RELOAD)),
        ("--ioperm", "both", (PUT + MARK, PUT + RELOAD)),
    ],
)
def test_options_and_their_twins(option, value, pmtimer):
    assert cycles(option, value)["inl_from_pmtimer"] == pmtimer
    if option != "--iterations":  # given above
        twin = "KVMBENCH_RUN_" + option[2:].upper()
        assert run(**{twin: value}) == run(option, value)


def test_every_option_of_every_command_has_its_twin():
    context = click.Context(main, info_name="kvmbench", auto_envvar_prefix="KVMBENCH")
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        group = command.commands.values() if isinstance(command, click.Group) else ()
        for option in (option for found in (command, *group) for option in found.params):
            if isinstance(option, click.Option):
                long = next(o for o in option.opts if o.startswith("--"))
                assert option.name == long[2:].replace("-", "_"), f"{name} {long}"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("before", "every-exit"),
        ("iterations", "7"),
        ("closed-form", "1"),
        ("explain", "1"),
        ("against", "patch-2017"),
        ("format", "markdown"),
    ],
)
def test_twins(option, value):
    given = [f"--{option}", *([value] if value != "1" else [])]
    wanted = invoke("run", *given).stdout
    found = invoke("run", **{"KVMBENCH_RUN_" + option.upper().replace("-", "_"): value})
    assert found.stdout == wanted
    assert found.stdout != invoke("run").stdout or option == "closed-form"


def test_the_command_line_beats_the_environment():
    assert run("--after", "deferred", KVMBENCH_RUN_AFTER="eager") == run()


def test_an_environment_that_is_wrong_is_one_line():
    done = invoke("run", KVMBENCH_RUN_AFTER="eagr")
    assert done.exit_code == 2
    assert done.stderr == "kvmbench run: unknown policy 'eagr'; did you mean 'eager'?\n"


def test_other_variables_do_not_turn_a_run_into_something_else():
    others = dict(KVMBENCH_MEASURE_FORMAT="csv", KVMBENCH_SCENARIO_PROFILE="./no.toml")
    assert run(KVMBENCH_VERSION="0.1.0", KVMBENCH_DEBUG="1", **others) == run()


@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        (["--format", "kut"], dict(KVMBENCH_RUN_EXPLAIN="1", KVMBENCH_RUN_AGAINST="patch-2017")),
        ([], dict(KVMBENCH_RUN_APPEND="1", KVMBENCH_RUN_RESULTS_DIR="elsewhere")),
    ],
)
def test_only_what_is_typed_is_refused(arguments, env):
    assert run(*arguments, **env) == run(*arguments)


def test_a_typed_append_wins_over_replace_in_the_environment():
    run("--save", "x")
    run("--save", "x", "--append", KVMBENCH_RUN_REPLACE="1")
    assert len(list(results.read("results/x.json").runs())) == 2


def test_closed_form():
    assert cycles("--closed-form", "--iterations", 10**12) == cycles()
    assert "1,000,000,000,000 iterations" in " ".join(
        run("--closed-form", "--iterations", 10**12).split()
    )


def test_names_choose_rows_in_the_given_order():
    assert list(cycles("vmcall", "inl_from_qemu", "cpuid")) == ["vmcall", "inl_from_qemu", "cpuid"]


def test_explain():
    said = run("--explain", "inl_from_qemu")
    lines = [line.split() for line in said.splitlines()]
    assert ["inl_from_qemu", "exit", "2339", "2339", "0"] in lines
    assert ["TR", "482", "2", "-480"] in lines
    assert ["sum", "6689", "6209", "-480"] in lines
    assert run("--explain", "--format", "markdown") != run("--format", "markdown")


def test_against():
    said = run("--against", "patch-2017")
    lines = [line.split() for line in said.splitlines()]
    assert ["inl_from_pmtimer", "-480", "-313", "+167", "fitted"] in lines
    assert ["inl_from_qemu", "-480", "-647", "-167", "fitted"] in lines
    assert ["cpuid", "0", "-22", "-22"] in lines


def test_formats():
    assert run("--format", "kut") == KUT
    document = json.loads(run("--format", "json"))
    assert "".join(f"{row['workload']} {row['after']}\n" for row in document["rows"]) == AFTER
    series = document["boots"][0]["runs"][0]["series"]
    values = {(one["workload"], one["configuration"]): one["values"] for one in series}
    assert values["inl_from_qemu", "deferred"] == [6209]
    rows = list(csv.DictReader(io.StringIO(run("--format", "csv"))))
    assert "".join(f"{row['workload']} {row['before']}\n" for row in rows) == BEFORE
    assert run("--format", "markdown").count("\n| ") == 2 + 8


# Files


def test_policy_file():
    file = write("mine.toml", '[mine]\nvcpu_put = ["reload"]\n[none]\n')
    assert cycles("--policy-file", file, "--before", "mine")["inl_from_qemu"] == (6689, 6209)
    # The policy none neither reloads nor marks.
    assert cycles("--policy-file", file, "--after", "none")["inl_from_qemu"] == (6689, 6209 - 2)
    assert run("--policy-file", file, "--after", "none") == run(
        "--after", "none", KVMBENCH_RUN_POLICY_FILE=file
    )


TWO = '[slow]\nvcpu_put = ["reload"]\n[none]\n'


def test_the_only_policy_of_a_file_is_the_after():
    file = write("one.toml", "[none]\n")
    assert cycles("--policy-file", file)["inl_from_qemu"] == (6689, 6207)
    assert cycles("--policy-file", file, "--before", "deferred")["inl_from_qemu"] == (6209, 6207)
    assert cycles("--policy-file", file, "--before", "none")["inl_from_qemu"] == (6207, 6209)
    assert run("--policy-file", file) == run(KVMBENCH_RUN_POLICY_FILE=file)
    # Only a typed file must be used.
    assert run("--after", "eager", KVMBENCH_RUN_POLICY_FILE=file) == run("--after", "eager")


def test_two_policies_of_a_file_are_before_and_after():
    file = write("two.toml", TWO)
    assert run("--policy-file", file) == run(
        "--policy-file", file, "--before", "slow", "--after", "none"
    )


@pytest.mark.parametrize(
    ("text", "arguments", "names"),
    [
        (TWO + "[third]\n", [], "slow, none, third"),
        (TWO, ["--before", "deferred"], "slow, none"),
        ("[none]\n", ["--after", "eager"], "none"),
    ],
)
def test_a_policy_file_is_not_ignored(text, arguments, names):
    file = write("mine.toml", text)
    words = f"./mine.toml: --before or --after must name one of its policies: {names}\n"
    one_line(invoke("run", "--policy-file", file, *arguments), 2, words)
    one_line(invoke("scenario", "oversubscribed", "--policy-file", file, *arguments), 2, words)


def test_profile_file():
    file = write("mine.toml", 'name = "mine"\nextends = "patch-2017"\n[costs]\nltr = 1462\n')
    assert cycles("--profile", file)["inl_from_pmtimer"] == (6937 + 1000, 6457)
    assert "cost profile mine" in run("--profile", file)
    assert cycles("--profile", "mine.toml") == cycles("--profile", Path(file).absolute())


WORKLOADS = """\
from kvmbench import Workload
WORKLOADS = [Workload("mine", exits=("cpuid", "inl_from_qemu")), Workload("odd")]
"""


def test_workload_file():
    file = write("mine.py", WORKLOADS)
    total = 1291 + 6209  # one save, one put, one mark
    assert cycles("--workload-file", file, "mine") == {"mine": (total + 480, total)}
    done = invoke("run", "--workload-file", file, "--format", "csv")
    assert [line.split(",")[0] for line in done.stdout.splitlines()[1:]] == [*NAMES, "mine"]
    assert done.stderr == "kvmbench: left out odd: cost profile patch-2017 has no exit kind odd\n"


def test_a_workload_file_that_prints_does_not_spoil_the_output():
    file = write("mine.py", f"print('hello')\n{WORKLOADS}")
    done = invoke("run", "--workload-file", file, "mine", "--format", "json")
    assert [row["workload"] for row in json.loads(done.stdout)["rows"]] == ["mine"]


def test_output(folder):
    done = invoke("run", "--format", "kut", "-o", "table.txt")
    assert (done.exit_code, done.output) == (0, "")
    assert Path("table.txt").read_text() == KUT
    invoke("run", "--format", "kut", "--after", "eager", "--output", folder / "table.txt")
    assert Path("table.txt").read_text() == f"Before:\n{BEFORE}After:\n{BEFORE}"
    assert os.listdir() == ["table.txt"]


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("x.json", '{\n  "schema": "kvmbench.result/1",'),
        ("x.csv", "workload,before,after,"),
        ("x.md", "eager"),
        ("x.txt", "eager -> deferred"),
    ],
)
def test_the_ending_of_the_output_chooses_the_format(name, begins):
    run("-o", name)
    assert Path(name).read_text().startswith(begins)
    assert ("| --: |" in Path(name).read_text()) == name.endswith(".md")
    run("-o", name, "--format", "kut")
    assert Path(name).read_text() == KUT


def test_what_run_writes_is_what_other_commands_read():
    run("-o", "out.json", "--save", "kept")
    Path("stdout.json").write_text(run("--format", "json"))
    for name in ("out.json", "stdout.json", "kept"):
        rows = json.loads(invoke("compare", name, "kept", "--format", "json").stdout)["rows"]
        assert {row["verdict"] for row in rows} == {"unchanged"}
        assert len(rows) == 16
        assert "inl_from_qemu" in invoke("show", name).stdout
        done = invoke("convert", name, f"{name}.csv")
        assert (done.exit_code, done.stderr) == (0, "")


def test_a_full_device_takes_no_output():
    done = invoke("run", "--iterations", 5, "-o", "/dev/full")
    assert (done.exit_code, done.stdout) == (1, run())
    assert "/dev/full: No space left on device" in done.stderr


def test_patterns_choose_the_rows_with_costs():
    assert list(cycles("vmcall", "inl_*", "cpu?d", "cpuid")) == [
        *("vmcall", "inl_from_pmtimer", "inl_from_qemu", "inl_from_kernel", "cpuid")
    ]
    every, default = cycles("*"), cycles()
    assert set(every) - set(default) == {workload.name for workload in DEFERRAL}
    assert {name: every[name] for name in default} == default


def test_output_goes_to_a_device_or_pipe():
    assert finished("run", "--format", "kut", "-o", "/dev/stdout") == (0, KUT, "")
    assert invoke("run", "-o", "/dev/null").exit_code == 0


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_output_has_the_permissions_of_any_new_file(umask):
    old = os.umask(umask)
    try:
        run("-o", "table.txt")
        assert os.umask(umask) == umask
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat("table.txt").st_mode) == 0o666 & ~umask


def test_output_keeps_the_permissions_of_a_file_that_is_there():
    Path("table.txt").touch()
    os.chmod("table.txt", 0o600)
    run("-o", "table.txt")
    assert stat.S_IMODE(os.stat("table.txt").st_mode) == 0o600


def test_output_follows_a_link():
    Path("real.txt").write_text("old")
    os.symlink("real.txt", "link.txt")
    run("--format", "kut", "-o", "link.txt")
    assert Path("real.txt").read_text() == KUT
    assert os.path.islink("link.txt")


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_output_is_whole_or_not_at_all(monkeypatch, call):
    def fail(*_):
        raise OSError(28, "No space left on device")

    Path("table.txt").write_text("old")
    monkeypatch.setattr(os, call, fail)
    table = run()
    done = invoke("run", "--iterations", 5, "-o", "table.txt")
    assert (done.exit_code, done.stdout) == (1, table)  # nothing is lost
    assert done.stderr == "kvmbench: table.txt: No space left on device: printed instead\n"
    assert Path("table.txt").read_text() == "old"
    assert os.listdir() == ["table.txt"]


def test_output_is_not_cut_short():
    Path("table.txt").write_text("old")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # noqa: E731
    found = finished("run", "--iterations", "5", "-o", "table.txt", preexec_fn=limit)
    assert found == (1, run(), "kvmbench: table.txt: File too large: printed instead\n")
    assert Path("table.txt").read_text() == "old"
    assert os.listdir() == ["table.txt"]


# What is wrong is one line

HEAD = 'name = "x"\nextends = "patch-2017"\n'
TABLE = """\
name = "x"
title = "t"
change = "tr-reload"
date = "2017"
hardware = "h"
source = "s"
note = "n"
unit = "cycles"
better = "lower"
configurations = ["Before", "After"]
rows = [
  { name = "cpuid", configuration = "Before", value = 1313 },
  { name = "cpuid", configuration = "After", value = 1291 },
]
"""
FULL = 'name = "x"\nkinds.odd = { cycles = 1 }\n[costs]\n' + "".join(
    f"{entry} = 1\n" for entry in kvmbench.Costs.__dataclass_fields__
)


def one_line(done, code, *words):
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("kvmbench")
    for word in words:
        assert word in done.stderr
    assert done.exit_code == code
    assert not isinstance(done.exception, Exception)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        # Names: the nearest.
        ("run --before eagr", 2, "unknown policy 'eagr'; did you mean 'eager'?"),
        ("run --after defered", 2, "unknown policy 'defered'; did you mean 'deferred'?"),
        (
            "run --profile patch2017",
            2,
            "unknown cost profile 'patch2017'; did you mean 'patch-2017'?",
        ),
        ("run cpuidd", 2, "unknown workload 'cpuidd'; did you mean 'cpuid'?"),
        ("run cpuid vmcal", 2, "unknown workload 'vmcal'; did you mean 'vmcall'?"),
        ("run --against patch-2018", 2, "'patch-2018'; did you mean 'patch-2017'?"),
        ("show defered", 2, "unknown name 'defered'; did you mean 'deferred'?"),
        ("show evmcs-2017", 2, "did you mean 'evmcs-2018'?"),
        ("runn", 2, "no command 'runn'; did you mean 'run'?"),
        ("lst", 2, "no command 'lst'; did you mean 'list'?"),
        ("list policys", 2, "'policies'"),
        # Names: nothing near.
        ("run --before zzz", 2, "unknown policy 'zzz'; known: eager, deferred, exit-to-user"),
        ("run zzz", 2, "unknown workload 'zzz'; known: cpuid, vmcall"),
        ("show zzz", 2, "unknown name 'zzz'; known: "),
        ("zzz", 2, "'zzz'"),
        # Options.
        ("run --iterations 0", 2, "--iterations"),
        ("run --iterations -1", 2, "--iterations"),
        ("run --iterations 1e6", 2, "'1e6'"),
        ("run --iterations 1000000000001", 2, "--iterations"),
        ("run --format xml", 2, "'xml'"),
        ("run --ioperm maybe", 2, "'maybe'"),
        ("run --vendor amd", 2, "'amd'"),
        ("run --befor eager", 2, "--before"),
        ("run --before", 2, "--before"),
        ("run -o", 2, "-o"),
        ("--nope", 2, "--nope"),
        ("show", 2, "NAME|FILE"),
        ("show cpuid vmcall", 2, "vmcall"),
        ("list", 2, "policies"),
        ("completion ksh", 2, "'ksh'"),
        # Combinations.
        ("run --engine kvm", 2, "no option --engine: `kvmbench run` simulates; `kvmbench measure`"),
        ("run --engine=sim cpuid", 2, "`kvmbench measure` measures this host"),
        ("run --plan plan.json", 2, "no option --plan: `kvmbench plan run FILE` does the step"),
        ("run --fast", 2, "`kvmbench measure` measures this host"),
        ("run --cpu 1", 2, "`kvmbench measure` measures this host"),
        ("measure --before eager", 2, "No such option '--before'"),
        ("measure --append", 2, "--append needs --save NAME"),
        ("measure --replace", 2, "--replace needs --save NAME"),
        ("run --results-dir x", 2, "--results-dir needs --save NAME"),
        ("run --ioperm both --before eager", 2, "leave out --before"),
        ("plan 6.11 6.12", 2, "no command '6.11'; known: new, run"),
        ("plan nwe 6.11 6.12", 2, "no command 'nwe'; did you mean 'new'?"),
        ("schema", 2, "result"),
        ("save last main", 2, "unknown file or result 'last'"),
        ("run --format kut --explain", 2, "kut"),
        ("run --format kut --against patch-2017", 2, "kut"),
        ("run --against evmcs-2018", 1, "'evmcs-2018' is about another change"),
        ("run --against patch-2017 --ioperm both", 1, "bitmap"),
        # Files that are not there, or no files.
        ("run --profile ./no.toml", 2, "./no.toml: No such file or directory"),
        ("run --policy-file no.toml", 2, "no.toml: No such file or directory"),
        ("run --workload-file no.py", 2, "no.py: No such file or directory"),
        ("run --against ./no.toml", 2, "./no.toml: No such file or directory"),
        ("show ./no.toml", 2, "./no.toml: No such file or directory"),
        ("show no.py", 2, "no.py: only --workload-file runs Python"),
        ("run x_*", 2, "'x_*' matches no workload; known: cpuid, "),
        ("run hlt [c]puidd", 2, "'[c]puidd' matches no workload"),
        ("run --profile ./", 2, "Is a directory"),
        ("run --policy-file .", 2, "Is a directory"),
        ("run --workload-file .", 2, "Is a directory"),
        ("run --against ./", 2, "Is a directory"),
        ("show ./", 1, "no file of a known format"),
        ("run -o .", 1, "Is a directory"),
        ("run -o no/table.txt", 1, "no/table.txt: No such file or directory"),
        ("run -o no/", 1, "no/"),
    ],
)
def test_wrong(arguments, code, words):
    one_line(invoke(*arguments.split()), code, words)
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("option", "text", "words"),
    [
        # Policies.
        ("--policy-file", "", "mine.toml: no policy"),
        ("--policy-file", "[mine\n", "mine.toml:1: not TOML"),
        ("--policy-file", "[a]\n[a]\n", "mine.toml:2: not TOML"),
        ("--policy-file", "\0\1\xff", "mine.toml"),
        ("--policy-file", "mine = 3\n", "mine.toml:1: mine: "),
        ("--policy-file", '[mine]\n\nvcpu_put = ["reloda"]\n', "mine.toml:3: mine.vcpu_put: "),
        ("--policy-file", '[mine]\nvcpu_put = ["reloda"]\n', "did you mean 'reload'?"),
        ("--policy-file", '[mine]\nvcpu_putt = ["reload"]\n', "mine.toml:2: mine.vcpu_putt: "),
        ("--policy-file", "[mine]\nvcpu_put = 3\n", "mine.toml:2: mine.vcpu_put: 3"),
        ("--policy-file", "[mine]\nvcpu_put = [3]\n", "mine.toml:2: mine.vcpu_put: 3"),
        ("--policy-file", '[mine]\nvcpu_put = ["copy_map"]\n', "mine.toml:2: mine.vcpu_put: "),
        ("--policy-file", '[mine]\nvm_exit = ["ltr if tiff"]\n', "did you mean 'tif'?"),
        ("--policy-file", '[mine]\nio_base_at_start = "x"\n', "mine.toml:2: mine.io_base_at_start"),
        ("--policy-file", "[mine]\nabout = 3\n", "mine.toml:2: mine.about"),
        ("--policy-file", "[eager]\n", "'eager' is a built-in policy"),
        # Profiles.
        ("--profile", "", "mine.toml: 'name' is missing"),
        ("--profile", "name = \n", "mine.toml:1: not TOML"),
        ("--profile", 'name = 3\nextends = "patch-2017"\n', "mine.toml:1: name"),
        ("--profile", 'name = "x"\nextends = "patch-2018"\n', "mine.toml:2: extends: "),
        ("--profile", 'name = "x"\n[costs]\nltr = 3\n', "mine.toml:2: costs: 'irq_exit' is miss"),
        ("--profile", HEAD + "bogus = 1\n", "mine.toml:3: bogus: "),
        ("--profile", HEAD + "about = 3\n", "mine.toml:3: about"),
        ("--profile", HEAD + "costs = 3\n", "mine.toml:3: costs: "),
        ("--profile", HEAD + "[costs]\nltr = 'a'\n", "mine.toml:4: costs.ltr: 'a'"),
        ("--profile", HEAD + "[costs]\nltr = -1\n", "mine.toml:4: costs.ltr: -1"),
        ("--profile", HEAD + "costs.ltr = 4294967296\n", "mine.toml:3: costs.ltr: 4294967296"),
        ("--profile", HEAD + "[costs]\nltrr = 1\n", "mine.toml:4: costs.ltrr: "),
        ("--profile", HEAD + "[kinds.cpuid]\ncycles = 4.5\n", "mine.toml:4: kinds.cpuid.cycles: "),
        ("--profile", HEAD + "[kinds.cpuid]\ncyles = 4\n", "did you mean 'cycles'?"),
        ("--profile", HEAD + "[kinds.new]\nuser = true\n", "mine.toml:3: kinds.new: 'cycles' is"),
        ("--profile", HEAD + "[kinds]\ncpuid = 3\n", "mine.toml:4: kinds.cpuid: "),
        ("--profile", HEAD + "tsc_hz = 0\n", "mine.toml:3: tsc_hz: 0"),
        ("--profile", HEAD + "[[provenance]]\nfigures = []\n", "mine.toml:3: provenance: "),
        (
            "--profile",
            HEAD + '[[provenance]]\nfigures = 3\nbasis = "fitted"\nsource = "s"\n',
            "mine.toml:4: provenance",
        ),
        (
            "--profile",
            HEAD + '[[provenance]]\nfigures = ["costs.x"]\nbasis = "fitted"\nsource = "s"\n',
            "mine.toml:3: provenance: entry 1: unknown figure 'costs.x'",
        ),
        (
            "--profile",
            HEAD + '[[provenance]]\nfigures = ["costs.ltr"]\nbasis = "fited"\nsource = "s"\n' * 2,
            "did you mean 'fitted'?",
        ),
        (
            "--profile",
            HEAD + '[[provenance]]\nfigures = ["costs.ltr"]\nbasis = "fitted"\nsource = "s"\n'
            '[[provenance]]\nfigures = ["costs.x"]\nbasis = "fitted"\nsource = "s"\n',
            "mine.toml:7: provenance: entry 2: ",
        ),
        ("--profile", FULL, "cost profile 'x' has the costs of no workload"),
        # Published tables.
        ("--against", "", "mine.toml: 'name' is missing"),
        ("--against", TABLE.replace('"tr-reload"', "3"), "mine.toml:3: change: "),
        ("--against", TABLE.replace("tr-reload", "other"), "'x' is about another change: t"),
        ("--against", TABLE.replace('"cycles"', '"ns"'), "'x' is not a before and an after"),
        ("--against", TABLE.replace('"cpuid"', '"other"'), "'x' has none of these workloads"),
        ("--against", TABLE.replace('"Before",', '"Befor",', 1), "row 1: unknown configuration"),
        ("--against", TABLE.replace("1313", '"many"'), "mine.toml:11: rows: row 1"),
        ("--against", TABLE.replace("1313", "nan"), "mine.toml:11: rows: row 1"),
        ("--against", TABLE.replace("value = 1313", "valu = 1313"), "mine.toml:11: rows: row 1"),
        ("--against", re.sub(r"rows = [^$]+", "rows = 3", TABLE), "mine.toml:11: rows: "),
        ("--against", re.sub(r"rows = [^$]+", "rows = [3]", TABLE), "mine.toml:11: rows: row 1"),
        ("--against", TABLE.replace('["Before", "After"]', "3"), "mine.toml:10: configurations"),
        ("--against", TABLE.replace('["Before", "After"]', "[1, 2]"), "mine.toml:10: configur"),
        ("--against", TABLE + "policies = 3\n", "mine.toml:15: policies"),
        # Workloads.
        ("--workload-file", "", "mine.py: assigns nothing to WORKLOADS"),
        ("--workload-file", "\na b\n", "mine.py:2: not Python: "),
        ("--workload-file", "\0\1\xff", "mine.py"),
        ("--workload-file", "\n1 / 0\n", "mine.py:2: ZeroDivisionError"),
        ("--workload-file", "WORKLOADS = 3\n", "mine.py: WORKLOADS is 3"),
        ("--workload-file", "WORKLOADS = ['cpuid']\n", "mine.py: WORKLOADS holds 'cpuid'"),
        ("--workload-file", WORKLOADS.replace("mine", "cpuid"), "a workload 'cpuid' already"),
        ("--workload-file", WORKLOADS.replace("mine", "odd"), "a workload 'odd' already"),
        ("--workload-file", "raise ValueError('one\\ntwo')\n", "mine.py:1: ValueError: one"),
        ("--workload-file", "\nraise SystemExit(3)\n", "mine.py:2: SystemExit"),
        ("--workload-file", "WORKLOADS = (1 / 0 for _ in 'x')\n", "ZeroDivisionError"),
    ],
)
def test_wrong_file(option, text, words):
    file = Path("mine.py" if option == "--workload-file" else "mine.toml")
    file.write_text(text, encoding="latin-1")
    one_line(invoke("run", option, f"./{file}"), 1, words)
    assert os.listdir() == [file.name]


@pytest.mark.parametrize(
    "text",
    [
        *("[mine\n", "a = 3\n", HEAD + "[costs]\nltr = -1\n", "\xff"),
        *(TABLE.replace("1313", '"many"'), TABLE.replace("1313", "nan")),
        *(re.sub(r"rows = [^$]+", "rows = 3", TABLE), re.sub(r"\n.*\n", "\n", TABLE, count=1)),
        TABLE.replace('["Before", "After"]', "[]"),
        TABLE.replace('["Before", "After"]', "3"),
    ],
)
def test_show_of_a_wrong_file(text):
    Path("mine.toml").write_text(text, encoding="latin-1")
    one_line(invoke("show", "./mine.toml"), 1, "mine.toml")


def test_named_workload_without_its_kind():
    file = write("mine.py", WORKLOADS)
    done = invoke("run", "--workload-file", file, "odd")
    one_line(done, 1, "'odd' needs exit kind 'odd', which profile 'patch-2017' does not have")


def test_closed_form_of_several_exits():
    file = write("mine.py", WORKLOADS)
    done = invoke("run", "--workload-file", file, "mine", "--closed-form")
    one_line(done, 1, "'mine' has 2 exits per iteration: no closed form")


@pytest.mark.parametrize("name", ["a\nb.toml", "\x1b[1m.toml", "\udcff.toml"])
def test_a_strange_path_is_one_line(name):
    one_line(invoke("run", "--profile", name), 2, "No such file")


def test_what_cannot_be_is_refused_before_the_work():
    # An hour of iterations: the command ends within the bound only if it does none of them.
    with process("run", "--iterations", str(10**12), "--against", "evmcs-2018") as running:
        try:
            running.wait(timeout=HANGS)
        finally:
            running.kill()
    assert running.returncode == 1


# How it ends


@pytest.mark.parametrize("arguments", [["run"], ["list", "published"]])
def test_a_pipe_that_closes_ends_quietly(arguments):
    with process(*arguments) as running:
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode in (0, 1)


def test_head():
    done = subprocess.run(f"{SCRIPT} run | head -1", shell=True, capture_output=True, env=ENV)
    assert done.stdout.startswith(b"eager -> deferred")
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""


@pytest.mark.parametrize("arguments", [["run"], ["list", "policies"], ["--help"], ["run", "zzz"]])
def test_no_stdout_at_all(arguments):
    _, _, err = finished(*arguments, preexec_fn=lambda: os.close(1), stdout=None)
    assert "Traceback" not in err
    assert err.count("\n") == (1 if "zzz" in arguments else 0)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["run"], ["run", "--format", "json"], ["list", "published"], ["completion", "bash"]),
        *(["--help"], ["--version"]),
    ],
)
def test_a_full_disk_is_one_line(arguments):
    with open("/dev/full", "w") as full:
        code, _, err = finished(*arguments, stdout=full)
    assert (code, err) == (1, "kvmbench: stdout: No space left on device\n")


@pytest.mark.parametrize("more", [["--format", "json"], ["-o", "table.json"]])
def test_ctrl_c(more):
    with open("out", "w") as out:
        code, _, err = interrupted("run", "--iterations", 10**12, *more, stdout=out)
    assert (code, err.strip()) == (130, "kvmbench: stopped")
    assert Path("out").read_text() == ""
    assert os.listdir() == ["out"]


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGHUP])
def test_the_end_of_a_session_is_as_ctrl_c(by):
    code, out, err = interrupted("run", "--iterations", 10**12, by=by)
    assert (code, out, err.strip()) == (130, "", "kvmbench: stopped")


@pytest.mark.parametrize("form", [("kvmbench",), ("-m", "kvmbench")])
def test_a_folder_that_is_gone(tmp_path, form):
    gone = tmp_path / "gone"
    gone.mkdir()
    program = "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.argv[1], sys.argv[1:])"
    command = {
        ("kvmbench",): ["-c", "from kvmbench.__main__ import run; run()"],
        ("-m", "kvmbench"): ["-m", "kvmbench"],
    }[form]

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-c", program, sys.executable, *command, *arguments],
            capture_output=True, text=True, cwd=gone, env=ENV,
        )  # fmt: skip

    assert run("list", "policies").returncode == 0
    gone.mkdir()
    done = run("run", "cpuid", "-o", "x.json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "kvmbench: x.json: No such file or directory\n"


@pytest.mark.parametrize(
    "arguments",
    [("show", "a" * 300 + ".json"), ("save", "ipiv-2022", "a" * 251), ("run", "-o", "a" * 256),
     ("measure", "--save", "a" * 300), ("plan", "new", "a" * 300, "b")],
)  # fmt: skip
def test_a_name_that_is_too_long_is_named(folder, arguments):
    done = invoke(*arguments)
    assert done.exit_code == (2 if arguments[0] == "show" else 1)
    assert re.fullmatch(r"kvmbench.*: \S*aaa\S*: File name too long\n", done.stderr), done.stderr
    assert os.listdir() == []


@pytest.mark.parametrize("module", ["click", "msgspec"])
def test_ctrl_c_during_an_import(tmp_path, module):
    """The interrupt comes while Python imports `module`, before and after `main` runs."""
    (tmp_path / f"{module}.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n    raise ImportError('swallowed')\n"
    )
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from kvmbench.__main__ import run; run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "run", "--format", "json"],
        capture_output=True, text=True, env=ENV | dict(PYTHONPATH=str(tmp_path)),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nkvmbench: stopped\n")


def test_ctrl_c_in_an_import_of_the_work_leaves_it_its_results(tmp_path):
    interrupt = "import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "late.py").write_text(interrupt)
    program = (
        "import signal; from kvmbench import __main__; from kvmbench.cli.progress import Progress\n"
        "signal.signal(signal.SIGINT, __main__._interrupt)\n"
        "try:\n    with Progress(): import late\nexcept KeyboardInterrupt: print('kept')\n"
        "import late\n"
    )
    environment = ENV | dict(PYTHONPATH=str(tmp_path), PYTHONUNBUFFERED="1")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "kept\n", "\nkvmbench: stopped\n")


@pytest.mark.parametrize("arguments", [["--version"], ["-V"], ["--help"], ["-h"], ["run", "-h"]])
def test_exit_0(arguments):
    done = invoke(*arguments)
    assert (done.exit_code, done.stderr) == (0, "")


def test_no_arguments_print_the_help_as_a_usage_error():
    done = invoke()
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Usage: kvmbench" in done.stderr


def test_version():
    assert invoke("--version").stdout == f"kvmbench {version('kvmbench')}\n"
    assert kvmbench.__version__ == version("kvmbench")


# list, show, help


@pytest.mark.parametrize(
    ("what", "names"),
    [
        *(("workloads", [*NAMES, *LIVE_NAMES]), ("policies", POLICIES), ("profiles", PROFILES)),
        ("published", PUBLISHED),
    ],
)
def test_list(what, names):
    done = invoke("list", what)
    assert (done.exit_code, done.stderr) == (0, "")
    found = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line[0] != " "]
    assert [cells[0] for cells in found] == names
    assert all(len(cells) == 2 for cells in found)  # each says what it is
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", [*NAMES, *POLICIES, *PROFILES, *PUBLISHED])
def test_show(name):
    done = invoke("show", name)
    assert (done.exit_code, done.stderr) == (0, "")
    assert name in done.stdout.splitlines()[0].split()
    lines = [line for line in done.stdout.splitlines() if "://" not in line]
    assert max(map(len, lines)) <= 80


def test_show_says_what_is_there():
    assert invoke("show", "nothing-of-the-kind").exit_code == 2
    both = invoke("show", "patch-2017").stdout
    assert re.search(r"^profile +patch-2017$", both, re.MULTILINE)
    assert re.search(r"^published +patch-2017$", both, re.MULTILINE)
    assert re.search(r"^inl_from_qemu +6856 +6209$", both, re.MULTILINE)
    assert re.search(r"^ltr +462 +fitted$", both, re.MULTILINE)
    policy = invoke("show", "deferred").stdout
    assert re.search(r"^vcpu_put +\[reload if tif, mark_stale if not tif\]$", policy, re.MULTILINE)
    assert re.search(
        r"^exits +inl_from_qemu$", invoke("show", "inl_from_qemu").stdout, re.MULTILINE
    )


def test_show_of_a_pipe_without_a_slash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_text("cpuid 1313\n"))
    writer.start()
    done = invoke("show", "pipe")
    writer.join()
    assert "1313" in done.stdout, done.stderr


def test_show_of_a_sweep_names_its_command():
    design = write("mine.toml", 'before = "eager"\n[axes]\npolicy = ["deferred"]\n')
    assert f"{design}: a sweep's design: kvmbench sweep" in invoke("show", design).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "-o", ""), ("run", "--policy-file", ""), ("run", "--workload-file", ""),
        ("convert", "a.json", ""), ("history", "--results-dir", ""), ("trace", "show", ""),
    ],
)  # fmt: skip
def test_an_empty_path_is_a_usage_error(arguments):
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert "empty, expected a path" in done.stderr


def test_a_file_that_fails_while_it_is_read_is_no_usage_error():
    one_line(invoke("show", "/proc/self/mem"), 1, "/proc/self/mem: Input/output error")


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("mine.toml", '[mine]\nvcpu_put = ["reload"]\n', "vcpu_put"),
        ("mine.toml", HEAD + "[costs]\nltr = 12345\n", "12345"),
        ("mine.toml", TABLE, "1313"),
    ],
)
def test_show_of_a_file(name, text, word):
    done = invoke("show", write(name, text))
    assert (done.exit_code, done.stderr) == (0, "")
    assert word in done.stdout


@pytest.mark.parametrize(
    "arguments", [[], *([name] for name in COMMANDS), ["plan", "new"], ["plan", "run"]]
)
def test_help(arguments):
    done = invoke(*arguments, "--help")
    assert (done.exit_code, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "Examples:\n" in done.stdout
    assert "\b" not in done.stdout


def test_the_examples_of_the_help_work():
    hooks = {hook: getattr(kvmbench.policies()["eager"], hook) for hook in HOOKS}
    write("mine.toml", "[mine]\n" + "".join(f"{h} = {json.dumps(e)}\n" for h, e in hooks.items()))
    work = "[[tasks]]\nname = 'work'\ntype = 'plain'\ncount = 1\n"
    write("myhost.toml", f"name='h'\ncpus=1\nclock_hz=1000\nseconds=1\ntimeslice_us=1e4\n{work}")
    runs = [
        Run(
            time=f"2026-11-0{n + 1}T12:00:00+00:00",
            series=[
                Series(workload="inl_from_qemu", kind="noisy", values=[6200 + n % 3]),
                Series(workload="cpuid", kind="noisy", values=[1290 + n % 3]),
            ],
        )
        for n in range(8)
    ]
    for folder in ("results", "logs", "old", "new", "nightly"):
        Path(folder).mkdir()
    boots = [
        results.Boot(
            runs=[
                structs.replace(run, time=f"2026-01-01T00:{boot:02}:{5 * n:02}+00:00")
                for n, run in enumerate(runs[boot:])
            ]
        )
        for boot in range(3)
    ]
    results.write("pilot.json", results.Result(boots=boots))
    names = ("before", "after", "a", "b", "node1", "node2", "fleet", "nightly/1", "nightly/2")
    for name in (*names, "results/main", "results/pr"):
        labels = {"host": "node1", "commit": name, "commit_time": "2026-11-01"}
        results.write(
            f"{name}.json", results.Result(boots=[results.Boot(labels=labels, runs=runs)])
        )
    rows = {"empty": 2.0, "gdt_write": 7.0, "ltr": 307.0, "cpuid": 1202.0}
    listed = [Series(workload=name, kind="noisy", values=[value]) for name, value in rows.items()]
    made = results.Result(boots=[results.Boot(runs=[Run(series=listed)])])
    results.write("results/mine.json", made)
    for name in ("vmexit", "boot1", "boot2", "boot3"):
        write(f"{name}.log", "inl_from_qemu 6209\n")
    for folder in ("logs", "old", "new"):
        write(f"{folder}/vmexit.log", "inl_from_qemu 6209\n")
    recorded = Path(__file__).parent / "recordings" / "hand-counted.txt"
    write("perf.data", recorded.read_text())  # the content tells that it is text
    axes = "scenario = './myhost.toml'\nseconds = 0.001\ncosts.ltr = [1, 2]\nseed = [3, 4]\n"
    write("design.toml", f"[axes]\n{axes}")
    found = []
    for arguments in ([], *([name] for name in COMMANDS), ["plan", "new"]):
        lines = invoke(*arguments, "--help").stdout.splitlines()
        found += [line.strip() for line in lines if line.startswith("    kvmbench ")]
    assert len(found) >= 12
    for line in found:
        command = shlex.split(re.split(r"  +| >+ ", line)[0])
        # The checker's own tests explore more, those of the live engine measure.
        light = dict(KVMBENCH_CHECK_CPUS="1", KVMBENCH_CHECK_TASKS="2")
        if {"measure", "check-io", "last", "lab"} & {*command} or command[1:3] == ["plan", "run"]:
            continue
        if {"--scheduler", "--find", "join"} & {*command}:  # test_sweep has them
            continue
        Path("plan.json").unlink(missing_ok=True)
        assert invoke(*command[1:], **light).exit_code == 0, line


def test_help_is_light():
    program = "import sys; before = {*sys.modules}\nfrom kvmbench.__main__ import run\n"
    program += "sys.argv[1:] = ['--help']\nrun()\nprint(*{*sys.modules} - before, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENV)
    found = set(done.stderr.split())
    assert done.stdout == invoke("--help").stdout
    assert "kvmbench.cli.help" in found
    assert found & {"numpy", "rich", "click", "re", "kvmbench._core"} == set()


def test_help_names_each_option():
    with click.Context(main) as context:
        records = [option.get_help_record(context) for option in main.get_params(context)]
    assert dict(filter(None, records)) == OPTIONS


# Completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell):
    done = invoke("completion", shell)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "_KVMBENCH_COMPLETE" in done.stdout
    assert f"{shell}_complete" in done.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)


def completing(words):
    cword = str(words.count(" "))
    return dict(COMP_WORDS=words, COMP_CWORD=cword, _KVMBENCH_COMPLETE="bash_complete")


def completed(words):
    done = invoke(**completing(words))
    assert (done.exit_code, done.stderr) == (0, "")
    return [line.split(",", 1)[1] for line in done.stdout.splitlines()]


def test_completion_as_bash_runs_it():
    script = invoke("completion", "bash").stdout
    program = (
        "complete() { :; }\ncompopt() { :; }\n" + script + "\n"
        "COMP_WORDS=(kvmbench run --after '')\nCOMP_CWORD=3\n"
        f'_kvmbench_completion {SCRIPT}\necho "${{COMPREPLY[@]}}"\n'
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, env=ENV)
    assert (done.stdout, done.stderr) == (" ".join(POLICIES) + "\n", "")
    env = ENV | completing("kvmbench run --after ")
    lines = "".join(f"plain,{name}\n" for name in POLICIES)
    assert finished(env=env) == (0, lines, "")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("kvmbench ", [*COMMANDS]),
        ("kvmbench sh", ["show"]),
        ("kvmbench run --after ", POLICIES),
        ("kvmbench run --before e", ["eager", "exit-to-user", "every-exit"]),
        ("kvmbench run --profile patch-2017-", ["patch-2017-replay"]),
        ("kvmbench run --format ", ["text", "kut", "markdown", "csv", "json", "html"]),
        ("kvmbench run --against ", ["patch-2017"]),
        ("kvmbench run inl_", ["inl_from_pmtimer", "inl_from_qemu", "inl_from_kernel"]),
        ("kvmbench list p", ["policies", "profiles", "published"]),
        ("kvmbench show every", ["every-exit"]),
        ("kvmbench run --profile ./m", ["./m"]),  # the shell completes files
        ("kvmbench run --policy-file m", ["m"]),
        ("kvmbench run -o m", ["m"]),
    ],
)
def test_completion(words, found):
    assert completed(words) == found


# An installed package that is broken


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Put a package with a broken entry point on the path."""
    info = tmp_path / "kvmbench_fake-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kvmbench-fake\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kvmbench.workloads]\nbad = nowhere_at_all:x\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    "arguments", [["run"], ["list", "workloads"], ["show", "cpuid"], ["show", "zzz"]]
)
def test_broken_entry_point(arguments):
    reason = "ModuleNotFoundError: No module named 'nowhere_at_all'"
    one_line(invoke(*arguments), 1, f"entry point bad = nowhere_at_all:x: {reason}\n")


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("words", ["kvmbench run c", "kvmbench show c"])
def test_broken_entry_point_does_not_reach_the_shell(words):
    done = invoke(**completing(words))
    assert (done.exception, done.stderr) == (None, "")
