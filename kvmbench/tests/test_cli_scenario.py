"""`kvmbench scenario`, and what list and show say of scenarios."""

import csv
import io
import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from kvmbench.scenario.document import SCHEMAS
from kvmbench.scenario.result import worth
from kvmbench.scenario.scenario import scenarios
from kvmbench.tests.command import interrupted, invoke

FILE = """\
name = "mine"
cpus = 2
clock_hz = 1_000_000_000
seconds = 0.002
timeslice_us = 100
tasks = [{name = "vm", type = "vcpu", count = 3, guest_us = 10, mix = {inl_from_qemu = 1}}]
"""


@pytest.fixture(autouse=True)
def scenario_file(folder):
    (folder / "mine.toml").write_text(FILE)


def run(*arguments, **env):
    done = invoke("scenario", *arguments, **env)
    assert (done.exit_code, done.stderr) == (0, ""), done.stderr
    return done.stdout


def valid(text):
    """Return a JSON document, which the schema that the package gives describes in full."""
    schema = msgspec.json.schema(SCHEMAS["scenario"])
    document = json.loads(text)
    for table in schema["$defs"].values():
        table["additionalProperties"] = False  # a key without a description is seen
    jsonschema.Draft202012Validator(schema).validate(document)
    return document


def test_the_table():
    said = run("oversubscribed", "--seconds", 0.05)
    lines = said.splitlines()
    assert "eager -> deferred, simulated host oversubscribed: 16 CPUs" in lines[0]
    assert max(map(len, lines)) <= 72
    assert lines[3].split() == ["figure", "unit", "before", "after", "change"]
    rows = {line[:10].strip(): line[10:].split() for line in lines[4:]}
    assert rows["EXIT p99"] == ["cycles", "6,687", "6,207", "-480"]
    assert rows["TR reloads"] == ["1/s", "59,340", "0", "-59,340"]
    assert rows["user"] == ["%", "of", "CPU", "time", "0.399", "0.399", "0"]
    assert "Worth: +0.06" in said
    assert said.count("cores of 1,000") == 1


@pytest.mark.parametrize("name", sorted(scenarios()))
def test_every_built_in_fits_the_page(name):
    for more in ([], ["--vary", "ioperm_share=0:1:2"]):
        assert max(map(len, run(name, "--seconds", 0.02, *more).splitlines())) <= 72


def test_the_figures_are_the_results():
    document = valid(run("io-heavy", "--seconds", 0.02, "--seed", 5, "--format", "json"))
    assert (document["scenario"], document["profile"]) == ("io-heavy", "patch-2017")
    assert document["parameter"] is None
    (document,) = document["points"]
    scenario = scenarios()["io-heavy"].with_value("seconds", 0.02)
    before, after = (scenario.run(policy, seed=5) for policy in ("eager", "deferred"))
    assert document["worth"]["percent"] == worth(before, after).percent
    assert document["before"]["share"]["tr"] == before.share("tr")
    assert sum(document["after"]["share"].values()) == pytest.approx(1)
    assert (document["seed"], document["seconds"]) == (5, 0.02)
    assert document["after"]["exit_cycles"]["p99.9"] == after.percentile("99.9")


def test_formats_agree():
    given = ["mine.toml", "--after", "exit-to-user"]
    (row,) = csv.DictReader(io.StringIO(run(*given, "--format", "csv")))
    (document,) = valid(run(*given, "--format", "json"))["points"]
    assert float(row["percent"]) == document["worth"]["percent"]
    assert row["policy_after"] == "exit-to-user"
    facts = ("scenario", "profile", "vendor", "cpus", "seconds", "seed")
    assert [row[name] for name in facts] == ["mine", "patch-2017", "vmx", "2", "0.002", "1"]
    assert int(row["operations_before"]) == document["before"]["operations"]
    assert "| TR reloads | 1/s |" in run(*given, "--format", "markdown")


def test_a_curve():
    given = ["mine.toml", "--vary", "ioperm_share=0:1:5"]
    said = run(*given)
    lines = [line.split() for line in said.splitlines()]
    assert [line[0] for line in lines if "+-" in line] == [*("0", "0.25", "0.5", "0.75", "1")]
    assert "The gain is gone" in said
    # Three tasks: from 0.62 on, all of them hold a bitmap.
    assert "ioperm_share 0.75, 1." in " ".join(said.split())
    rows = list(csv.DictReader(io.StringIO(run(*given, "--format", "csv"))))
    assert [float(row["ioperm_share"]) for row in rows] == [0, 0.25, 0.5, 0.75, 1]
    gains = [float(row["percent"]) for row in rows]
    assert gains[0] > gains[2] > gains[4]
    assert gains[4] < 0  # all tests and no skipped reload
    points = valid(run(*given, "--format", "json"))["points"]
    assert [point["value"] for point in points] == [0, 0.25, 0.5, 0.75, 1]
    assert [point["worth"]["percent"] for point in points] == gains
    assert run("mine.toml", "--vary", "ioperm_share=0:0:1").count("does not disappear") == 1
    assert run("mine.toml", "--vary", "vm.count=1:3:3", "--format", "csv").count("\n") == 4


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("before", "every-exit"),
        ("after", "exit-to-user"),
        ("profile", "patch-2017-replay"),
        ("vendor", "svm"),
        ("seed", "7"),
        ("seconds", "0.001"),
        ("vary", "cpus=1:2:2"),
        ("format", "json"),
    ],
)
def test_options_and_their_twins(option, value):
    found = run("mine.toml", f"--{option}", value)
    assert found == run("mine.toml", **{f"KVMBENCH_SCENARIO_{option.upper()}": value})
    assert found != run("mine.toml")


def test_threads_change_nothing():
    assert run("mine.toml", "--threads", 3) == run("mine.toml")


def test_policy_file_and_output():
    Path("p.toml").write_text('[mine]\nvcpu_put = ["reload", "reload"]\n')
    assert run("mine.toml", "--policy-file", "p.toml", "--before", "mine", "-o", "out") == ""
    assert "mine -> deferred" in Path("out").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["oversubscribd"], 2, "unknown scenario 'oversubscribd'; did you mean 'oversubscribed'?"),
        (["mine.toml", "--after", "x"], 2, "unknown policy 'x'; known: "),
        (["none.toml"], 2, "none.toml: No such file or directory"),
        (
            ["mine.toml", "--threads", "0"],
            2,
            "Invalid value for '--threads': '0' is not a whole",
        ),
        (
            ["mine.toml", "--threads", "nan"],
            2,
            "Invalid value for '--threads': 'nan' is not a whole",
        ),
        (["mine.toml", "--seconds", "0"], 2, "--seconds is 0 cycles, not in 1 to"),
        (["mine.toml", "--seconds", "nan"], 2, "--seconds is nan, not in 0 to"),
        (["mine.toml", "--vary", "cpus"], 2, "--vary cpus: expected PARAM=a:b:n"),
        (["mine.toml", "--vary", "cpus=1:2:0"], 2, "--vary cpus=1:2:0: n is 0, not in 1 to"),
        (["mine.toml", "--vary", "cpu=1:2:2"], 2, "--vary cpu=1:2:2: unknown parameter 'cpu'"),
        (["mine.toml", "--vary", "cpus=1:2:3"], 2, "--vary cpus=1:2:3: cpus is 1.5, not an int"),
        (["mine.toml", "--vary", "cpus=0/0:2:3"], 2, "--vary cpus=0/0:2:3: expected PARAM"),
        (
            ["mine.toml", "--vary", "cpus=1e999999999:2:3"],
            2,
            "--vary cpus=1e999999999:2:3: expected",
        ),
        (["mine.toml", "--vary", "cpus=1:1e-999999999:3"], 2, "--vary cpus=1:1e-999999999:3: exp"),
        (["mine.toml", "--vary", "cpus=nan:2:3"], 2, "--vary cpus=nan:2:3: expected PARAM"),
    ],
)
def test_errors_are_one_line(arguments, code, message):
    done = invoke("scenario", *arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.startswith(("kvmbench scenario: ", "kvmbench: "))
    assert done.stderr.partition(": ")[2].startswith(message)
    assert done.stderr.count("\n") == 1


def test_errors_in_a_file():
    Path("bad.toml").write_text(FILE.replace("100", "0"))
    done = invoke("scenario", "./bad.toml")
    assert done.exit_code == 1
    assert done.stderr == ("kvmbench: bad.toml:5: timeslice_us: 0 cycles, not in 1 to 2147483647\n")
    Path("bad.toml").write_text(FILE.replace("inl_from_qemu", "hlt"))
    done = invoke("scenario", "./bad.toml")
    assert done.stderr == (
        "kvmbench: task group 'vm' needs exit kind 'hlt', which profile 'patch-2017' "
        "does not have\n"
    )


def test_a_long_name_is_kept_whole_and_leaves_room_for_the_figures():
    name = "g" * 100
    Path("long.toml").write_text(FILE.replace('"vm"', f'"{name}"').replace('"mine"', f'"{name}"'))
    for more in ([], ["--vary", f"{name}.count=1:2:2"]):
        said = run("long.toml", *more)
        assert "".join(said.split()).count("g" * 100) == 1 + bool(more)
        assert max(map(len, said.splitlines())) <= 110


def test_list_and_show():
    listed = invoke("list", "scenarios").stdout
    for name, scenario in scenarios().items():
        assert f"\n{name} " in f"\n{listed}"
        shown = invoke("show", name)
        assert shown.exit_code == 0
        assert all(group.name in shown.stdout for group in scenario.tasks)
    assert "vcpu, 3 tasks; guest_us 10" in invoke("show", "mine.toml").stdout


def test_ctrl_c():
    code, _, said = interrupted("scenario", "oversubscribed", "--seconds", 100000, "--threads", 2)
    assert (code, said.strip()) == (130, "kvmbench: stopped")
