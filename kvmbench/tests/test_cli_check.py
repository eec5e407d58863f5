"""`kvmbench check`: what it prints, its exit codes, what it refuses."""

import csv
import io
import json
import re
from pathlib import Path

import jsonschema
import msgspec
import pytest

from kvmbench import load_policies
from kvmbench.checker import known
from kvmbench.checker.document import SCHEMAS
from kvmbench.checker.explorer import CPUS_MAX, PORTS_MAX, TASKS_MAX
from kvmbench.checker.promela import promela
from kvmbench.cli.options import SIZES
from kvmbench.tests import command

FILE = """\
[first-version]
vcpu_put = [["mark_stale"]]
switch = [
    ["copy_map if next.tif", "refresh if next.tif", "wipe_map if prev.tif and not next.tif"],
]
ioperm = ["alloc_map", "set_tif if first", ["refresh if first"], ["edit_map", "load_map"]]
task_exit = [["clear_tif", "wipe_own", "drop_map"]]

[twice]
vcpu_put = [["reload"]]
switch = [["copy_map if next.tif", "wipe_map if prev.tif and not next.tif"]]
ioperm = ["alloc_map", "set_tif if first", ["edit_map", "load_map"]]
exit_to_user = ["reload", "refresh if stale"]
task_exit = [["clear_tif", "wipe_own", "drop_map"]]

[bare-ltr]
vcpu_put = ["ltr"]
ioperm = [["set_tif", "edit_map", "load_map"]]
"""
STORY = """\
first-version: denial after 12 events

no.  CPU  task  event                       changes
  1    0  A     switch: A in
  2    0  A     to user mode
  3    0  A     ioperm(port 0, on)          owns {} -> {0}
  4    0  A     ioperm: alloc_map           map - -> {}
  5    0  A     ioperm: set_tif if first    tif 0 -> 1
  6    0  A     ioperm: refresh if first
  7    0  A     ioperm: edit_map, load_map  tss {} -> {0},
                                            map {} -> {0}, max 0 -> 1
  8    0  A     to user mode
  9    0  A     calls KVM_RUN
 10    0  A     enters the guest            guest 0 -> 1
 11    0  A     vcpu_put: mark_stale        limit full -> min,
                                            stale 0 -> 1, guest 1 -> 0
 12    0  A     to user mode

denial: A, in user mode on CPU 0, owns port 0; the hardware denies it

replayed: the stepper shows the denial, and Machine counts it
"""


@pytest.fixture(autouse=True)
def policy_file(folder):
    (folder / "mine.toml").write_text(FILE)


def invoke(*arguments, **env):
    return command.invoke("check", *arguments, **env)


def run(*arguments, code=0):
    done = invoke(*arguments)
    assert (done.exit_code, done.stderr) == (code, ""), done.output
    return done.stdout


def test_the_table():
    said = run("--tasks", 2, "--ports", 1)
    lines = said.splitlines()
    assert lines[0] == "every interleaving: 2 CPUs, 2 tasks, 1 port"
    assert lines[2].split() == ["policy", "verdict", "states", "transitions", "depth", "time"]
    assert lines[3].split() == ["events", "s"]
    rows = [line.split()[:-1] for line in lines[4:8]]
    # The states without symmetry are those of SPIN and of brute force; these are a fraction.
    assert rows[0] == ["eager", "safe", "1,653", "8,336", "21"]
    assert [row[0] for row in rows] == ["eager", "deferred", "exit-to-user", "every-exit"]
    assert {row[1] for row in rows} == {"safe"}
    kinds = ["none", "none", "none", "none"]
    assert lines[9].split() == ["policy", "leak", "denial", "fault", "null", "preemption", "points"]
    assert [line.split() for line in lines[10:14]] == [
        ["eager", *kinds, "3"], ["deferred", *kinds, "4"], ["exit-to-user", *kinds, "5"],
        ["every-exit", *kinds, "3"],
    ]  # fmt: skip
    assert " ".join(lines[15:]).endswith("left out: fork, iopl, exit-preemption (--events).")
    brief = run("--tasks", 2, "--ports", 1, "--brief").splitlines()
    assert len(brief) == 8


def test_events():
    said = run("exit-to-user", "--tasks", 2, "--ports", 1, "--events", "exit-preemption, fork")
    flat = " ".join(said.split())
    assert "in every order, with fork, exit-preemption; a preemption" in flat
    assert flat.endswith("left out: iopl (--events).")
    options = ["exit-to-user", "--tasks", 1, "--ports", 1, "--format", "json", "--events"]
    (verdict,) = valid(run(*options, "all"))["verdicts"]
    assert verdict["events"] == ["fork", "iopl", "exit-preemption"]
    assert verdict["preemption_points"] == 6
    (verdict,) = valid(run(*options[:-1]))["verdicts"]
    assert (verdict["events"], verdict["preemption_points"]) == ([], 5)


def test_itf_has_the_counterexample():
    options = ["first-version", "--policy-file", "mine.toml", "--tasks", 2, "--format"]
    trace = json.loads(run(*options, "itf", code=3))
    (verdict,) = json.loads(run(*options, "json", code=3))["verdicts"]
    events = [event["event"] for event in verdict["counterexample"]["events"]]
    assert [state["event"]["code"] for state in trace["states"]] == ["start", *events]
    assert [state["#meta"]["index"] for state in trace["states"]] == list(range(13))
    assert trace["vars"] == ["event", "cpus", "tasks"]
    start, end = trace["states"][0], trace["states"][-1]
    assert start["tasks"][0]["map"] == {"there": False, "ports": {"#set": []}}
    assert end["tasks"][0]["map"] == {"there": True, "ports": {"#set": [{"#bigint": "0"}]}}
    assert end["cpus"][0]["limit"] == "min"
    assert (start["cpus"][0]["task"], end["cpus"][0]["task"]) == (
        {"#bigint": "-1"},
        {"#bigint": "0"},
    )
    shapes = {str({k: type(v) for k, v in s["cpus"][0].items()}) for s in trace["states"]}
    assert len(shapes) == 1
    done = invoke("eager", "--tasks", 1, "--format", "itf")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "no policy has one" in done.stderr


def test_known_bugs():
    said = run("--known")
    rows = [line.split() for line in said.splitlines()[4:14]]
    assert [row[3] for row in rows] == [
        "denial", "denial", "leak", "denial", "null", "null", "denial", "leak", "denial", "null",
    ]  # fmt: skip
    assert {row[5] for row in rows} == {"safe"}
    assert "No policy states these" in said
    bugs = valid(run("--known", "--format", "json"), known.SCHEMAS["known"])["bugs"]
    assert [bug["number"] for bug in bugs] == [20, 12, 13, 1, 8, 7, 5, 3, 4, 6]


def test_no_symmetry_says_so():
    said = run("eager", "--tasks", 2, "--ports", 1, "--no-symmetry")
    assert "1 port, no symmetry" in said
    assert "5,922" in said


def test_the_story():
    said = run("first-version", "--policy-file", "mine.toml", "--replay", code=3)
    assert said.endswith(STORY)


def test_a_file_alone_is_checked_whole():
    said = run("--policy-file", "mine.toml", "--tasks", 2, code=3)
    rows = [line.split()[:2] for line in said.splitlines()[4:7]]
    assert rows == [["first-version", "unsafe"], ["twice", "safe"], ["bare-ltr", "unsafe"]]
    assert "fault: CPU 0 executes LTR while the TSS descriptor is busy: #GP" in said
    flat = " ".join(said.split())
    assert "twice: cost: 'exit_to_user: reload' reloads although the limit is full" in flat
    assert "after 2 events: CPU 0 A switch: A in; CPU 0 A to user mode." in flat
    assert "twice: cost: no history takes 'exit_to_user: refresh if stale'." in flat
    assert max(map(len, said.splitlines())) <= 72


def valid(text, kind=SCHEMAS["check"]):
    """Return a JSON document, which the schema that the package gives describes in full."""
    schema = msgspec.json.schema(kind)
    document = json.loads(text)
    for table in schema["$defs"].values():
        table["additionalProperties"] = False  # a key without a description is seen
    jsonschema.Draft202012Validator(schema).validate(document)
    return document


def test_json_has_the_same():
    options = ["--policy-file", "mine.toml", "--tasks", 2, "--format", "json"]
    document = valid(run(*options, "--replay", code=3))
    assert list(document) == ["schema", "verdicts"]
    first, twice, fault = document["verdicts"]
    story = first["counterexample"]
    assert (story["violation"], story["port"], story["owned"], story["allowed"]) == (
        "denial", 0, True, False,
    )  # fmt: skip
    assert [event["event"] for event in story["events"]][-2:] == ["leave", "to_user"]
    assert story["events"][10]["changes"]["limit"] == ["full", "min"]
    assert story["events"][10]["text"] == "vcpu_put: mark_stale"
    assert first["replay"].startswith("replayed")
    assert (twice["counterexample"], twice["replay"]) == (None, None)
    assert twice["wasted_reloads"][0]["step"] == "exit_to_user: reload"
    assert twice["unreachable_steps"] == ["exit_to_user: refresh if stale"]
    assert fault["counterexample"]["port"] is None


def test_the_schema_refuses_what_is_not_written():
    document = valid(run("eager", "--tasks", 1, "--format", "json"))
    schema = msgspec.json.schema(SCHEMAS["check"])
    for key, value in (("verdict", "maybe"), ("states", "many"), ("counterexample", {})):
        wrong = {**document, "verdicts": [{**document["verdicts"][0], key: value}]}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_csv_is_a_row_per_verdict():
    options = ["--policy-file", "mine.toml", "--tasks", 2, "--format", "csv"]
    rows = list(csv.DictReader(io.StringIO(run(*options, code=3))))
    assert [(row["policy"], row["verdict"], row["violation"]) for row in rows] == [
        ("first-version", "unsafe", "denial"),
        ("twice", "safe", ""),
        ("bare-ltr", "unsafe", "fault"),
    ]
    assert (rows[0]["events"], rows[1]["states"], rows[1]["tasks"]) == ("12", "12090", "2")
    options = ["eager", "--mutations", "--tasks", 2, "--ports", 1, "-o", "m.csv"]
    assert run(*options) == ""
    own, *mutants = csv.DictReader(Path("m.csv").read_text().splitlines())
    assert (own["policy"], own["mutation"]) == ("eager", "")
    assert {row["policy"] for row in mutants} == {"eager"}
    assert "ioperm: without 'edit_map'" in {row["mutation"] for row in mutants}


def test_markdown_and_output_file():
    assert run("eager", "--tasks", 1, "-o", "out.md") == ""
    text = Path("out.md").read_text()
    assert "| policy | verdict | states |" in text
    story = run("--policy-file", "mine.toml", "first-version", "--format", "markdown", code=3)
    assert "| 11 | 0 | A | vcpu_put: mark_stale |" in story


@pytest.mark.parametrize(
    ("options", "reason"),
    [(["--max-states", 1000], "limit of 1,000 states"), (["--max-memory", "200K"], "limit of")],
)
def test_limits_are_not_decided(options, reason):
    said = " ".join(run("deferred", *options, code=4).split())
    assert re.search(
        r"deferred: not decided: [\d,]+ states explored, no violation \(" + reason, said
    ), said
    assert "safe" not in said


def test_unsafe_outweighs_undecided():
    options = ["--policy-file", "mine.toml", "--max-states", 8000]
    assert "not decided" in run("first-version", "deferred", *options, code=3)


def test_mutations():
    options = ["deferred", "--mutations", "--tasks", 2, "--ports", 1]
    said = run(*options)
    (own,) = valid(run(*options, "--format", "json"))["verdicts"]
    found = {mutant["policy"]: mutant for mutant in own["mutants"]}
    set_tif = found["ioperm: 'set_tif if first' after 'refresh if first'"]["counterexample"]
    assert (set_tif["violation"], len(set_tif["events"])) == ("denial", 13)
    assert found["ioperm: without 'edit_map'"]["counterexample"]["violation"] == "denial"
    assert found["vcpu_put: 'reload if tif' even if not 'tif'"]["verdict"] == "safe"
    assert own["verdict"] == "safe"
    assert all("mutants" not in mutant for mutant in own["mutants"])
    killed = sum(mutant["verdict"] == "unsafe" for mutant in found.values())
    end = f"deferred: {len(found)} mutants: {killed} unsafe, {len(found) - killed} survive."
    assert said.splitlines()[-1] == end
    cells = "vcpu_put: 'reload if tif' even if not 'tif'" + r"\s+survives\s+-\s+[\d,]+$"
    assert re.search(cells, said, re.MULTILINE)
    flat = " ".join(said.split())
    assert flat.index("denial") < flat.index(" survives ")
    assert max(map(len, said.splitlines())) <= 72


def test_mutants_that_are_not_decided_are_not_success():
    said = run("eager", "--mutations", "--tasks", 2, "--ports", 1, "--max-states", 1700, code=4)
    lines = said.splitlines()
    assert re.search(r"\d+ survive, \d+ not decided\.$", lines[-1])
    assert run("eager", "--tasks", 2, "--ports", 1, "--max-states", 1700)


def test_promela():
    said = run("first-version", "--policy-file", "mine.toml", "--promela", "-", "--tasks", 2)
    assert said == promela(load_policies("mine.toml")["first-version"], 2, 2, 2)
    assert run("eager", "--promela", "eager.pml") == ""
    assert Path("eager.pml").read_text().startswith("/* Policy eager")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["defered"], 2, "unknown policy 'defered'; did you mean 'deferred'?"),
        (["--cpus", 4], 2, "'4' is not a whole number of 1 to 3"),
        (["--tasks", 0], 2, "'0' is not a whole number of 1 to 6"),
        (["--ports", "x"], 2, "'x' is not a whole number of 1 to 4"),
        (["--max-memory", "8X"], 2, "'8X' is not a size such as 500M or 8G"),
        (["--max-memory", "0"], 2, "'0' is not a size"),
        (["--max-states", 0], 2, "'0' is not a whole number of 1 or more"),
        (["--promela", "x.pml"], 2, "--promela takes one POLICY, not 4"),
        (["eager", "--promela", "x", "--replay"], 2, "--promela FILE excludes"),
        (["--known", "--replay"], 2, "--known takes no policy"),
        (["--events", "forks"], 2, "unknown event 'forks'; did you mean 'fork'?"),
        (["eager", "--mutations", "--replay"], 2, "--mutations and --replay exclude each other"),
        (["--policy-file", "none.toml"], 2, "none.toml: No such file"),
        (["eager", "--promela", "no/x.pml"], 1, "no/x.pml: No such file"),
        (["eager", "--tasks", 1, "-o", "no/x"], 1, "no/x: No such file"),
    ],
)
def test_refusals(arguments, code, message):
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_options_take_every_size_of_the_explorer():
    most = {name: top for name, (_, top) in SIZES.items()}
    assert most == {"cpus": CPUS_MAX, "tasks": TASKS_MAX, "ports": PORTS_MAX}


def test_environment_sets_options():
    done = invoke("eager", KVMBENCH_CHECK_TASKS="1", KVMBENCH_CHECK_CPUS="1")
    assert "1 CPU, 1 task" in done.stdout


def test_a_policy_goes_through_check_and_run_alike():
    assert "safe" in run("twice", "--policy-file", "mine.toml", "--tasks", 2)
    arguments = ["run", "--policy-file", "mine.toml", "--after", "twice", "--iterations", "10"]
    done = command.invoke(*arguments)
    assert done.exit_code == 0
    assert "eager -> twice" in done.stdout


def test_ctrl_c_is_not_decided():
    code, out, err = command.interrupted(
        "check", "exit-to-user", "deferred", "--no-symmetry", cpu_seconds=2
    )
    assert (code, err) == (130, "kvmbench: stopped\n")
    assert "exit-to-user: not decided" in out
    assert "deferred" not in out
