"""`kvmbench convert` and `kvmbench schema`, and results as arguments."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import click
import jsonschema
import pytest

from kvmbench import catalog, formats, results
from kvmbench.cli.common import load_result
from kvmbench.cli.schema import HOMES
from kvmbench.formats import WRITABLE
from kvmbench.tests.command import invoke
from kvmbench.tests.result_examples import THREE_RUNS, values

KUT = "cpuid 1313\nvmcall 1195\n"


pytestmark = pytest.mark.usefixtures("folder")


def run(*arguments, code=0, **env):
    """Run kvmbench; return the bytes that it prints, or what it says where it fails."""
    done = invoke(*arguments, **env)
    assert done.exit_code == code, done.output
    return done.stderr if code else done.stdout_bytes


def test_schema():
    assert json.loads(run("schema", "result")) == json.loads(results.json_schema())


@pytest.mark.parametrize("kind", HOMES)
def test_schemas(kind):
    """Each is a schema, and of documents that name it."""
    schema = json.loads(run("schema", kind))
    jsonschema.Draft202012Validator.check_schema(schema)
    (top,) = [schema["$defs"][schema["$ref"].rpartition("/")[2]]]
    assert top["properties"]["schema"] == {"const": f"kvmbench.{kind}/1"}
    assert "schema" in top["required"]


def test_a_log_becomes_a_result(folder):
    (folder / "vmexit.log").write_text(KUT)
    assert run("convert", "vmexit.log", "out", "--to", "kvmbench") == b""
    assert values(results.read(folder / "out")) == {
        ("cpuid", ""): [[1313]],
        ("vmcall", ""): [[1195]],
    }


@pytest.mark.parametrize("ending", ["txt", "md"])
@pytest.mark.parametrize("command", ["show a.log", "compare a.log a.log", "run cpuid"])
def test_our_own_tables_are_named_when_refused(command, ending, folder):
    (folder / "a.log").write_text(KUT * 9)
    run(*command.split(), "-o", f"x.{ending}")
    said = run("convert", f"x.{ending}", "-", "--to", "csv", code=1)
    assert f"x.{ending}: output of kvmbench as text" in said


@pytest.mark.parametrize("form", WRITABLE)
def test_to_stdout(form):
    written = run("convert", "ipiv-2022", "-", "--to", form)
    table = formats.from_published(catalog.published()["ipiv-2022"])
    assert written == formats.dump(table, form)


@pytest.mark.parametrize(
    ("name", "form"),
    [("o.csv", "csv"), ("o.md", "markdown"), ("o.xml", "junit"), ("o.json", "kvmbench")],
)
def test_the_ending_says_the_format(folder, name, form):
    results.write("in.json", THREE_RUNS)
    run("convert", "in.json", name)
    assert (folder / name).read_bytes() == formats.dump(THREE_RUNS, form)
    run("convert", "in.json", name, "--to", "go")
    assert (folder / name).read_bytes() == formats.dump(THREE_RUNS, "go")


@pytest.mark.parametrize("name", ["o.txt", "o", "-"])
def test_else_it_is_to_be_said(folder, name):
    results.write("in.json", THREE_RUNS)
    said = run("convert", "in.json", name, code=2)
    assert said == (
        f"kvmbench convert: {name} does not say its format; give one of kvmbench, "
        "pytest-benchmark, pyperf, go, github-action, junit, csv, markdown with --to\n"
    )
    assert sorted(p.name for p in folder.iterdir()) == ["in.json"]


def test_the_file_is_replaced_whole_or_not_at_all(folder):
    (folder / "out").write_text("old")
    (folder / "out").chmod(0o600)
    said = run("convert", "cpuid-rate-zen3-2023", "out", "--to", "pyperf", code=1)
    assert "pyperf has no unit 'CPUID/s'" in said
    assert (folder / "out").read_text() == "old"
    run("convert", "cpuid-rate-zen3-2023", "out", "--to", "csv")
    assert (folder / "out").read_text().startswith("boot,")
    assert stat.S_IMODE((folder / "out").stat().st_mode) == 0o600
    assert [p.name for p in folder.iterdir()] == ["out"]


def test_what_cannot_be_written(folder):
    said = run("convert", "patch-2017", "no/out.csv", code=1)
    assert said == "kvmbench: no/out.csv: No such file or directory\n"
    said = run("convert", "patch-2017", "/dev/full", "--to", "csv", code=1)
    assert "No space left" in said


@pytest.mark.parametrize(
    ("name", "text", "code", "said"),
    [
        ("no.json", None, 2, "no.json: No such file or directory"),
        ("./no", None, 2, "./no: No such file or directory"),
        (".", None, 1, ".: no file of a known format"),
        ("*.nope", None, 2, "unknown file or result '*.nope'; known: "),
        ("./", None, 1, "./: no file of a known format"),
        ("patch-2071", None, 2, "did you mean 'patch-2017'?"),
        ("x.log", "nothing\n", 1, "x.log: of no known format"),
        ("x.json", '{"schema": "kvmbench.result/1"', 1, "x.json: ends in the middle of the JSON"),
        ("x", "{}", 1, "x: JSON of no known format; kvmbench reads kvmbench, kut,"),
    ],
)
def test_what_cannot_be_read(folder, name, text, code, said):
    if text is not None:
        (folder / name).write_text(text)
    told = run("convert", name, "-", "--to", "csv", code=code)
    assert told.startswith(("kvmbench: ", "kvmbench convert: "))
    assert said in told
    assert told.count("\n") == 1


def test_a_name_is_a_file_then_a_kept_result_then_a_published_table(folder):
    def workloads(name, *more):
        lines = run("convert", name, "-", "--to", "csv", *more).decode().splitlines()
        return {line.split(",")[3] for line in lines[1:]}

    assert workloads("kauer-cpuid-2024") == {"cpuid"}
    (folder / "results").mkdir()
    (folder / "results" / "kauer-cpuid-2024.json").write_text("mov_dr 3\n")
    assert workloads("kauer-cpuid-2024") == {"mov_dr"}
    assert workloads("kauer-cpuid-2024", "--results-dir", "elsewhere") == {"cpuid"}
    (folder / "kauer-cpuid-2024").write_text("vmcall 3\n")
    assert workloads("kauer-cpuid-2024") == {"vmcall"}
    (folder / "before").mkdir()  # a folder is no result
    (folder / "results" / "before.json").write_text("ipi 3\n")
    assert workloads("before") == {"ipi"}
    said = run("convert", "befor", "-", "--to", "csv", code=2)
    assert "did you mean 'before'?" in said


def test_several_files_become_one(folder):
    for name, cycles in (("a.log", 5), ("b.log", 6)):
        (folder / name).write_text(f"cpuid {cycles}\n")
    run("convert", "a.log", "b.log", "all.json")
    found = results.read("all.json")
    assert (values(found), len(found.boots)) == ({("cpuid", ""): [[5], [6]]}, 2)
    (folder / "s.txt").write_text("BenchmarkX 1 5 ns\n")
    said = run("convert", "a.log", "s.txt", "kauer-cpuid-2024", "-", "--to", "csv").decode()
    assert "X" in said
    (folder / "odd.csv").write_text("workload,unit,value\ncpuid,seconds,3\n")
    said = run("convert", "a.log", "odd.csv", "x.json", code=1)
    assert "cpuid is in seconds, noisy, lower, where an earlier run has cycles" in said
    assert not (folder / "x.json").exists()


@pytest.mark.parametrize("name", ["logs", "logs/*.log", "logs/**/*.log"])
def test_a_folder_and_a_glob_are_many_files(folder, name):
    (folder / "logs").mkdir()
    for number in (1, 2, 3):
        (folder / "logs" / f"{number}.log").write_text(f"cpuid {number}\n")
    run("convert", name, "all.json")
    assert values(results.read("all.json")) == {("cpuid", ""): [[1], [2], [3]]}
    (folder / "logs" / "4.log").write_text("PASS vmexit_cpuid\n")
    if "*" in name:  # the user named this file
        assert "logs/4.log: no figure" in run("convert", name, "all.json", code=1)
    else:
        run("convert", name, "all.json")
        (note,) = results.read("all.json").notes
        assert note.startswith("1 of 4 files passed over, the first: logs/4.log: no figure")


def test_stdin_is_named_in_a_table(folder):
    Path("a.log").write_text("cpuid 1313\n")
    for arguments, title in ((["compare", "a.log", "-"], "a -> stdin"), (["show", "-"], "stdin")):
        with open("a.log") as file:
            command = [sys.executable, "-m", "kvmbench", *arguments]
            done = subprocess.run(command, stdin=file, capture_output=True, text=True, check=True)
        assert title in done.stdout.splitlines()[0]


def test_stdin(folder):
    command = [sys.executable, "-m", "kvmbench", "convert", "-", "-", "--to", "csv"]
    done = subprocess.run(command, input=b"cpuid 7\n", capture_output=True)
    line = done.stdout.splitlines()[1]
    assert line.endswith(b",cpuid,,cycles,noisy,lower,time,size,0,7"), done.stderr
    done = subprocess.run(command, input=b"hello\n", capture_output=True)
    assert done.returncode == 1
    assert done.stderr.startswith(b"kvmbench: stdin: of no known format (it begins 'hello')")


def test_load_result_is_for_every_command(folder):
    results.write("r.json", THREE_RUNS)
    assert load_result("r.json", "results") == THREE_RUNS
    with pytest.raises(click.UsageError):
        load_result("r", "results")
    assert load_result("r", ".") == THREE_RUNS


def test_the_environment_names_the_folder(folder):
    (folder / "kept").mkdir()
    results.write("kept/a.json", THREE_RUNS)
    env = {"KVMBENCH_CONVERT_RESULTS_DIR": "kept", "KVMBENCH_CONVERT_TO": "csv"}
    assert run("convert", "a", "-", **env) == formats.dump(THREE_RUNS, "csv")


@pytest.mark.parametrize("name", ["logs", "logs/", "logs/*.log"])
def test_show_takes_a_folder_and_a_glob(folder, name):
    (folder / "logs").mkdir()
    for n, cycles in enumerate((1313, 1291, 1303)):
        (folder / f"logs/{n}.log").write_text(f"cpuid {cycles}\n")
    done = invoke("show", name)
    assert (done.exit_code, done.stderr) == (0, "")
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("cpuid"))
    assert row[:4] == ["cpuid", "cycles", "3", "1303"]
