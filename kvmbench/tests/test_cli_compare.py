"""`compare`, `self-test`, and results that `run` keeps: what is printed and refused."""

import csv
import io
import json
import re
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest
from junitparser import Failure, JUnitXml, Skipped

from kvmbench import results
from kvmbench.catalog import policies, published
from kvmbench.comparison.document import SCHEMAS
from kvmbench.results import Boot, Host, Result, Run
from kvmbench.tests import command
from kvmbench.tests.results_maker import EIGHT, of_runs, row, series, table

pytestmark = pytest.mark.usefixtures("folder")


def invoke(*arguments, **env):
    done = command.invoke(*arguments, **env)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.stderr
    return done


def ok(*arguments, **env):
    done = invoke(*arguments, **env)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def refused(code, *arguments):
    """Return the line of a command that ends with `code`: one line, and no output."""
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def keep(name, result):
    results.write(name, result)
    return name


@pytest.fixture
def two():
    """A before and an after: eight rows, six runs per side, realistic figures, one slower."""
    rng = np.random.default_rng(1)
    centres = np.array([1313, 1195, 11, 17, 6770, 6856, 2435, 1402.0])
    noise = 1 + rng.normal(0, 0.002, (2, 6, 8))
    keep("before.json", table(centres * noise[0]))
    centres[5] *= 1.1
    keep("after.json", table(centres * noise[1]))
    return "before.json", "after.json"


# Tables


def test_the_table(two):
    text = ok("compare", *two)
    assert text.startswith("before -> after: cycles/iteration, 6 runs per side, margin the larger")
    (line,) = (line for line in text.splitlines() if line.startswith("inl_from_qemu"))
    assert line.endswith("slower")
    assert [line.split()[0] for line in text.splitlines() if line.startswith(EIGHT)][:8] == list(
        EIGHT
    )


WORDS = {
    "long names": [f"{name}/deferred-at-exit+bitmap" for name in EIGHT],
    "names": EIGHT,
}


VERDICTS = ("faster", "slower", "within margin", "inconclusive")


def wrapped(name, text):
    """Return whether a name begins a line of a table: whole, or in parts of a column's width."""
    return any(
        re.search(rf"^{re.escape(name[:cut])}(  |$)", text, re.MULTILINE)
        and re.search(rf"^{re.escape(name[cut:])}(  |$)", text, re.MULTILINE)
        for cut in (len(name), 32)
    )


@pytest.mark.parametrize("names", WORDS, ids=str)
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e3])
@pytest.mark.parametrize("sd", [1e-6, 3e-3, 0.05])
def test_tables_align_and_cut_no_name(names, scale, sd):
    names = WORDS[names]
    rng = np.random.default_rng(2)
    centres = scale * np.array([1313, 1195, 11, 17, 6770, 6856, 2435, 1402.0])
    unit = "s" if scale == 1e-9 else "cycles"

    def result(factor):
        figures = factor * centres * (1 + rng.normal(0, sd, (8, 8)))
        return of_runs(
            *(
                [series(n, float(x), unit=unit) for n, x in zip(names, line, strict=True)]
                for line in figures
            )
        )

    keep("6.11.0-generic.json", result(1.0))
    keep("6.12.0-rc3-mitigations-off.json", result(0.97))
    keep("6.13.json", result(1.02))
    for more in ([], ["6.13.json"]):
        text = ok(
            "compare", "6.11.0-generic.json", "6.12.0-rc3-mitigations-off.json", *more, "--explain"
        )
        assert all(wrapped(name, text) for name in names), text
        head, *lines = "\n".join(text.split("\n\n")[:2]).splitlines()
        while "verdict" not in head:
            head = lines.pop(0)
        found = [line[head.index("verdict") :].rstrip("?") for line in lines]
        found = [words for words in found if words]  # without the units and wrapped names
        assert len(found) == 8 * (1 + len(more))
        assert set(found) <= set(VERDICTS), text


@pytest.mark.parametrize(
    ("unit", "value", "shown"),
    [
        ("s", 1.5, "s 1.5"),
        ("s", 1.5e-3, "ms 1.5"),
        ("seconds", 2.5e-7, "ns 250"),
        ("s", 2.5e-6, "us 2.5"),
        ("s", 4e-10, "ns 0.4"),
        ("ns", 1500.0, "ns 1500"),
        ("cycles", 2e-7, "1e-9 cycles 200"),
        ("cycles", 4.5e9, "1e9 cycles 4.5"),
        ("cycles", -12.0, "cycles -12"),
        ("cycles", 0.0, "cycles 0"),
    ],
)
def test_figures_of_every_size(unit, value, shown):
    keep("a.json", row("w", [value] * 4, unit=unit))
    keep("b.json", row("w", [value * 1.5] * 4, unit=unit))
    shown, want = shown.rsplit(" ", 1)
    text = ok("compare", "a.json", "b.json", "--margin", "2%")
    title, _, _, line, *_ = text.splitlines()
    assert title.startswith(f"a -> b: {shown}/iteration, 4 runs per side, margin 2 %")
    assert len(re.findall(rf"\b{shown}\b", text)) == 1  # a unit is printed once
    before, after = map(float, line.removeprefix("w").split()[:2])
    assert before == pytest.approx(float(want))
    assert after == pytest.approx(1.5 * float(want), rel=0.01)


def test_sides_of_other_sizes_have_their_units():
    for name, value in (("a", 0.9e-3), ("b", 0.95e-3), ("c", 1.2e-3)):
        keep(f"{name}.json", row("w", [value] * 4, unit="s"))
    lines = ok("compare", "a.json", "b.json", "c.json").splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("w "))
    assert lines[at].split()[:5] == ["w", "us", "b", "900.0", "950.0"]
    assert lines[at + 1].split()[:4] == ["ms", "c", "0.900", "1.200"]  # the name is above it


def test_json_has_the_keys(two):
    document = json.loads(ok("compare", *two, "--format", "json"), parse_constant=pytest.fail)
    assert [entry["workload"] for entry in document["rows"]] == list(EIGHT)
    for entry in document["rows"]:
        keys = ("workload", "unit", "before", "after", "shift", "interval", "percent", "verdict")
        assert set(keys) <= set(entry)
        low, high = entry["interval"]
        assert low <= entry["shift"] <= high
        assert entry["percent"] == pytest.approx(100 * entry["shift"] / entry["before"])
    verdicts = {entry["workload"]: entry["verdict"] for entry in document["rows"]}
    assert verdicts["inl_from_qemu"] == "slower"


def valid(text, kind):
    """Return the JSON of a command that fits the schema of its kind."""
    schema = msgspec.json.schema(SCHEMAS[kind])
    found = json.loads(text, parse_constant=pytest.fail)
    jsonschema.validate(found, schema)
    assert found["schema"] == f"kvmbench.{kind}/1"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found | {"schema": "another"}, schema)
    return found


def test_json_fits_its_schema(two):
    gate = ["--fail-on", "cpuid:5%", "--format", "json"]
    found = valid(ok("compare", *two, "before.json", *gate), "comparison")
    assert found["gate"]["status"] == "ok"
    assert found["labels"] == ["before 1", "after 2", "before 3"]
    valid(ok("compare", "patch-2017", "--format", "json"), "comparison")
    valid(ok("self-test", "before.json", "--format", "json"), "self-test")


def test_caveats_are_data():
    (differ, single) = json.loads(ok("compare", "patch-2017", "--format", "json"))["caveats"]
    assert (differ["code"], single["code"]) == ("controls-differ", "one-unit")
    assert differ["rows"] == ["cpuid", "vmcall", "inl_from_kernel", "outl_to_kernel"]
    assert single["rows"] == list(EIGHT)
    assert single["words"].startswith("Every row: one run on a side")
    text = " ".join(ok("compare", "patch-2017").split())
    assert single["words"] in text
    assert differ["words"] in text


def test_csv_and_markdown_say_the_same(two):
    rows = json.loads(ok("compare", *two, "--format", "json"))["rows"]
    lines = list(csv.DictReader(io.StringIO(ok("compare", *two, "--format", "csv"))))
    assert [(x["workload"], x["verdict"]) for x in lines] == [
        (x["workload"], x["verdict"]) for x in rows
    ]
    for line, entry in zip(lines, rows, strict=True):
        for name in ("before", "after", "shift", "percent"):
            assert float(line[name]) == entry[name]
        assert [float(line["low"]), float(line["high"])] == entry["interval"]
    doubts = ok("compare", *two, "--format", "markdown")
    cells = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in doubts.splitlines()
        if line.startswith("|")
    ]
    assert {len(line) for line in cells} == {7}
    assert [(line[0], line[-1].rstrip("?")) for line in cells[2:]] == [
        (x["workload"], x["verdict"]) for x in rows
    ]


def test_junit_is_read_by_junitparser(two):
    text = ok("compare", *two, "--format", "junit", "--fail-inconclusive", "--fail-on", "cpuid:50%")
    (suite,) = JUnitXml.fromstring(text.encode())
    assert [case.name for case in suite] == list(EIGHT)
    assert not any(case.result for case in suite)
    done = invoke("compare", *two, "--format", "junit", "--fail-on", "inl_from_qemu:2%")
    assert done.exit_code == 3
    (suite,) = JUnitXml.fromstring(done.stdout.encode())
    (failed,) = (case for case in suite if case.result)
    assert failed.name == "inl_from_qemu"
    (result,) = failed.result
    assert isinstance(result, Failure)
    assert "the limit is 2 %" in result.message
    assert "kvmbench compare: failed: inl_from_qemu" in done.stderr
    keep("less.json", of_runs({"cpuid": 1}))
    (suite,) = JUnitXml.fromstring(
        ok("compare", "before.json", "less.json", "--format", "junit").encode()
    )
    skipped = {case.name for case in suite if any(isinstance(r, Skipped) for r in case.result)}
    assert skipped == set(EIGHT) - {"cpuid"}


def test_hosts_come_before_the_table(two):
    for name, microcode in zip(two, ("0x1", "0x2"), strict=True):
        old = results.read(name)
        keep(name, Result(boots=[Boot(host=Host(microcode=microcode), runs=old.boots[0].runs)]))
    text = ok("compare", *two)
    assert text.index("microcode: 0x1 -> 0x2") < text.index("workload")
    assert "microcode: 0x1 -> 0x2" in refused(5, "compare", *two, "--same-host")


def test_same_host():
    def kept(name, **facts):
        return keep(name, of_runs({"w": 1}, host=Host(**facts)))

    one, other = kept("a.json", kernel="6.1", smt="on"), kept("b.json", kernel="6.2", smt="on")
    ok("compare", one, other, "--same-host")
    assert "smt" in refused(5, "compare", one, kept("c.json", smt="off"), "--same-host").lower()
    unknown = kept("d.json")
    assert "neither side names its host" in refused(5, "compare", unknown, unknown, "--same-host")
    simulated = keep("e.json", row("w", [1], kind="exact"))
    ok("compare", simulated, simulated, "--same-host")


# Exit codes


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 0),
        (["--fail-on", "inl_from_qemu:2%"], 3),
        (["--fail-on", "inl_*:2%"], 3),
        (["--fail-on", "inl_from_qemu:20%"], 0),
        (["--fail-on", "inl_from_qemu:20%", "--fail-inconclusive"], 0),
        (["--fail-on", "inl_from_qemu:10%"], 0),
        (["--fail-on", "inl_from_qemu:10%", "--fail-inconclusive"], 4),
        (["--fail-on", "inl_from_qemu:10%", "--fail-on", "inl_from_qemu:2%"], 3),
        (["--fail-on", "inl_from_qemu:<=7000"], 3),
        (["--fail-on", "inl_from_qemu:>=7000"], 0),
        (["--fail-on-any"], 3),
        (["--fail-on", "cpuid:5%", "--fail-inconclusive"], 0),
        (["--fail-on", "nothing:2%"], 2),
        (["--fail-on", "cpuid"], 2),
        (["--fail-on", "cpuid:-1%"], 2),
        (["--fail-inconclusive"], 2),
        (["--control", "cpuid", "--no-controls"], 2),
        (["--control", "nothing"], 2),
        (["--primary", "nothing"], 2),
        (["--margin", "lots"], 2),
        (["--margin", "-1%"], 2),
        (["--confidence", "1"], 2),
        (["--confidence", "0.99999999"], 0),
        (["--format", "xml"], 2),
        (["--output", "."], 1),
        (["--output", "nowhere/x.txt"], 1),
    ],
    ids=str,
)
def test_exit_codes(two, arguments, code):
    assert invoke("compare", *two, *arguments).exit_code == code


def test_options_have_twins(two):
    done = invoke("compare", *two, KVMBENCH_COMPARE_FAIL_ON="inl_from_qemu:2%")
    assert done.exit_code == 3
    assert "margin 3 %" in ok("compare", *two, KVMBENCH_COMPARE_MARGIN="3%")


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("o.csv", "csv"),
        ("o.md", "markdown"),
        ("o.json", "json"),
        ("o.txt", "text"),
        ("o", "text"),
        ("o.xml", "junit"),
    ],
)
def test_the_ending_decides_the_form(two, name, form):
    ok("compare", *two, "-o", name)
    assert Path(name).read_text() == ok("compare", *two, "--format", form)
    ok("compare", *two, "-o", name, "--format", "markdown")
    assert Path(name).read_text() == ok("compare", *two, "--format", "markdown")
    ok("self-test", "before.json", "-o", name)
    form = "text" if form == "junit" else form  # which an A/A test has not
    assert Path(name).read_text() == ok("self-test", "before.json", "--format", form)


def test_verdicts_have_colours_on_a_terminal(two):
    text = ok("compare", *two, "--no-controls", CLICOLOR_FORCE="1")
    assert "\x1b[31mslower" in text
    plain = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    assert plain == ok("compare", *two, "--no-controls").splitlines()
    assert "\x1b[33mslower?" in ok("compare", *two, "--control", "inl_from_qemu",
                                  CLICOLOR_FORCE="1")  # fmt: skip


def test_output_is_whole_or_not_there(two, folder):
    ok("compare", *two, "-o", "out.txt")
    assert Path("out.txt").read_text() == ok("compare", *two)
    before = sorted(folder.rglob("*"))
    assert "nowhere/out.txt" in refused(1, "compare", *two, "-o", "nowhere/out.txt")
    assert sorted(folder.rglob("*")) == before


def test_controls_by_option(two):
    assert "?" not in re.sub("Verdicts with .*", "", ok("compare", *two, "--no-controls"))
    text = ok("compare", *two, "--control", "inl_from_qemu")
    assert "slower?" in text
    assert "Verdicts with ? are in doubt: inl_from_qemu moved" in text


# Rows


def names_of(*arguments):
    found = json.loads(ok("compare", *arguments, "--format", "json"))
    return [entry["workload"] for entry in found["rows"]], found


def test_rows_are_chosen_and_the_correction_stays(two):
    every = names_of(*two)[1]["rows"]
    names, found = names_of(*two, "--rows", "inl_*", "--rows", "cpuid")
    assert names == [name for name in EIGHT if name.startswith(("inl_", "cpuid"))]
    assert found["rows"] == [entry for entry in every if entry["workload"] in names]
    assert "unknown row 'nothing'" in refused(2, "compare", *two, "--rows", "nothing")
    gate = ("--fail-on-any", "--rows", "cpuid")
    assert invoke("compare", *two, *gate).exit_code == 0
    # A control that moved is named though its row is not asked for.
    text = ok("compare", *two, "--control", "inl_from_qemu", "--rows", "cpuid")
    assert "within margin?" in text
    assert "in doubt: inl_from_qemu moved" in text


def test_order_and_only_changed(two):
    assert names_of(*two, "--sort", "name")[0] == sorted(EIGHT)
    assert names_of(*two, "--sort", "shift")[0][0] == "inl_from_qemu"
    assert names_of(*two, "--sort", "verdict")[0][0] == "inl_from_qemu"
    assert names_of(*two, "--only", "changed")[0] == ["inl_from_qemu"]
    same = (two[0], two[0], "--format", "csv")
    header = ok("compare", *same).splitlines()[0]
    assert ok("compare", *same, "--only", "changed").splitlines() == [header]
    assert "Rows that did not change: 7 within margin." in ok("compare", *two, "--only", "changed")


def test_names_that_one_side_lacks_are_one_paragraph(two):
    keep("other.json", of_runs({f"w{n}": n for n in range(40)} | {"cpuid": 1313}))
    text = ok("compare", "before.json", "other.json")
    assert (
        sum(line.startswith("w") for line in text.split("Not in")[0].splitlines()) == 1
    )  # heading
    paragraphs = [part for part in text.split("\n\n") if part.startswith("Not in")]
    assert [part.split(":")[0] for part in paragraphs] == ["Not in other", "Not in before"]
    assert "Not in before: w0, w1, w2 and 37 more." in paragraphs[1]
    keep("none.json", of_runs({"x": 1}))
    assert ok("compare", "other.json", "none.json").startswith("other -> none: cycles/iteration")


def test_bounds_without_a_before(two):
    assert "Gate passed: 1 check." in ok("compare", two[1], "--fail-on", "cpuid:<=1400")
    assert invoke("compare", two[1], "--fail-on", "cpuid:<=1200").exit_code == 3
    assert invoke("compare", two[1], "--fail-on", "cpuid:<=1200", "--format", "json").exit_code == 3
    valid(ok("compare", two[1], "--fail-on", "cpuid:<=1400", "--format", "json"), "comparison")
    assert "alone has 1 configuration" in refused(2, "compare", two[1], "--fail-on", "cpuid:2%")
    assert invoke("compare", two[1], "--fail-on", "cpuid:<=1400", "--fail-on-any").exit_code == 2


# Arguments


def test_figures_beyond_floats_are_one_line():
    series_text = '{"workload": "w", "kind": "noisy", "values": [1.7e308, 1.6e308]}'
    boots = ", ".join([f'{{"runs": [{{"series": [{series_text}]}}]}}'] * 4)
    Path("huge.json").write_text(f'{{"schema": "kvmbench.result/1", "boots": [{boots}]}}')
    for arguments in (("show",), ("self-test",), ("compare", "huge.json")):
        assert "1e+100" in refused(1, *arguments, "huge.json")


def test_long_names_and_blank_notes(two):
    keep("blank.json", of_runs({"w": 1}, notes=[" "]))
    assert "note" not in ok("show", "blank.json")
    assert ": \n" not in ok("compare", "blank.json", "blank.json")
    Path("results").mkdir()
    keep(f"results/{'n' * 85}.json", of_runs({"w": 1}))
    assert ok("list", "results").splitlines() == ["n" * 85, "  1 workload; 1 run in 1 boot"]


def test_files_that_cannot_be_read(two, folder):
    Path("broken.json").write_text(Path("before.json").read_text()[:-40])
    Path("text.txt").write_text("hello\n")
    Path("folder.json").mkdir()
    keep("none.json", of_runs([]))
    for name, code, words in (
        ("missing.json", 2, "missing.json: No such file"),
        ("missing", 2, "unknown file or result 'missing'"),
        ("folder.json", 1, "folder.json: no file of a known format"),
        ("", 2, "unknown file or result"),
        ("broken.json", 1, "broken.json: ends in the middle"),
        ("text.txt", 1, "text.txt"),
        ("none.json", 1, "none.json: holds no figures"),
        ("before.json#nothing", 2, "unknown configuration 'nothing'"),
        ("ipiv-2022#", 2, "unknown configuration ''"),
        ("a=b=c.json", 2, "b=c.json: No such file"),
        ("a/b=before.json", 2, "a/b=before.json: No such file"),
        ("x" * 5000, 2, "unknown file or result"),
        ("x" * 5000 + ".json", 2, "File name too long"),
    ):
        for pair in ((name, "after.json"), ("after.json", name)):
            assert words in refused(code, "compare", *pair)
        if "=" not in name:
            assert words in refused(code, "self-test", name)


def test_labels_and_odd_names(two, folder):
    def title(*names):
        return ok("compare", *names).split(":")[0]

    assert title("6.1=before.json", "6.2=after.json") == "6.1 -> 6.2"
    assert title("before.json", "before.json") == "before 1 -> before 2"
    for path in ("old/x.log", "new/x.log", "a/old/x.log", "a/new/x.log", "x.log", "x.txt", "6.11"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("cpuid 1313\n")
    assert title("old/x.log", "new/x.log") == "old -> new"
    assert title("a/old/x.log", "a/new/x.log") == "old -> new"
    assert title("a/old/x.log", "old/x.log") == "a/old/x.log -> old/x.log"
    assert title("old/x.log", "x.log") == "old/x.log -> x.log"
    assert title("old/x.log", "new/x.log", "./6.11") == "old -> new, 6.11"
    assert title("a/old/x.log", "x.txt", "a/new/x.log") == "old -> x.txt, new"
    assert title("before.json", "x.log", "old/x.log") == "before.json -> x.log, old/x.log"
    assert title("x.log", "x.txt") == "x.log -> x.txt"
    assert title("mine=old/x.log", "new/x.log") == "mine -> x"
    assert title("6.11", "x.log") == "6.11 -> x"
    assert title("=before.json", "after.json") == "before -> after"
    assert title("a/old/*.log", "x.log") == "old/*.log -> x"
    Path("old#1").mkdir()
    Path("old#1/x.log").write_text("cpuid 1313\n")
    for odd in ("old#1", "old#1/*.log"):
        assert title(odd, "6.11") == f"{odd} -> 6.11"
    for odd in ("a#b.json", "a=b.json", "a#b=c.json", "a=b#c.json"):
        Path("before.json").rename(odd)
        assert title(odd, "after.json") == f"{odd[:-5]} -> after"
        assert title(f"x={odd}", "after.json") == "x -> after"
        Path(odd).rename("before.json")


@pytest.mark.parametrize("file", ["plain.json", "a#b.json", "a=b.json"])
def test_configurations_with_any_sign(file):
    names = ("mitigations=off", "a#b", "w/o IPIv", "ключ")
    keep(file, of_runs([series("w", n, configuration=c) for n, c in enumerate(names)]))
    for number, name in enumerate(names):
        for label in ("", "x="):
            text = ok("compare", f"{label}{file}#{name}", f"{file}#{names[0]}", "--format", "json")
            (entry,) = json.loads(text)["rows"]
            assert (entry["before"], entry["after"]) == (number, 0)
            assert not label or entry["from"] == "x"
    keep("other.json", row("w", [5]))
    text = ok("compare", f"{file}#w/o IPIv", "other.json", "--format", "json")
    assert json.loads(text)["labels"] == [f"{file[:-5]}#w/o IPIv", "other"]


def test_self_test_names_the_configuration():
    text = ok("self-test", "ipiv-2022#xAPIC w/ IPIv")
    assert text.startswith("A/A test of ipiv-2022#xAPIC w/ IPIv: nothing changed")
    assert ok("self-test", "mine=ipiv-2022#xAPIC w/ IPIv").startswith("A/A test of mine:")


def test_configurations_of_a_kept_result(folder):
    Path("results").mkdir()
    both = [series("w", 1, configuration="a=on"), series("w", 2, configuration="a=off")]
    keep("results/main.json", of_runs(both))
    (entry,) = json.loads(ok("compare", "main#a=on", "main#a=off", "--format", "json"))["rows"]
    assert (entry["before"], entry["after"]) == (1, 2)


def test_one_file_with_two_configurations():
    keep(
        "a.json", of_runs([series("w", 1, configuration="on"), series("w", 2, configuration="off")])
    )
    assert ok("compare", "a.json").startswith("on -> off")
    keep("b.json", row("w", [1]))
    assert "alone has 1 configuration" in refused(2, "compare", "b.json")
    said = refused(2, "compare", "ipiv-2022")
    assert "alone has 4 configurations" in said
    assert "FILE#NAME with one of 'xAPIC w/o IPIv', " in said


def test_several_sides(two):
    keep("third.json", results.read("before.json"))
    text = ok("compare", *two, "third.json", "--fail-on", "cpuid:50%")
    assert text.startswith("before -> after, third: cycles")
    entries = json.loads(ok("compare", *two, "third.json", "--format", "json"))["rows"]
    assert [e["to"] for e in entries if e["workload"] == "inl_from_qemu"] == ["after", "third"]
    assert [e["verdict"] for e in entries if e["to"] == "third"] == ["within margin"] * 8


@pytest.mark.parametrize(
    "more",
    [{"unit": "ns"}, {"kind": "exact"}, {"better": "higher"}],
    ids=lambda more: next(iter(more)),
)
def test_incompatible(more):
    keep("a.json", row("w", [1]))
    keep("b.json", row("w", [1], **more))
    assert f"w: {next(iter(more))} is" in refused(5, "compare", "a.json", "b.json")


# Published data


def test_ipiv_2022():
    names = published()["ipiv-2022"].configurations
    text = ok("compare", f"ipiv-2022#{names[0]}", f"ipiv-2022#{names[1]}", "--format", "json")
    (entry,) = json.loads(text)["rows"]
    assert entry["verdict"] == "faster"
    assert entry["units"] == [20, 20]


@pytest.mark.parametrize("name", ["patch-2017", "no-pmu-vmcall-2020"])
def test_one_run_a_side(name):
    first, second = published()[name].configurations[:2]
    text = ok("compare", f"{name}#{first}", f"{name}#{second}", "--format", "json")
    verdicts = {entry["verdict"] for entry in json.loads(text)["rows"]}
    assert verdicts == {"no-verdict"}
    done = invoke("compare", f"{name}#{first}", f"{name}#{second}", "--fail-on", "*:90%",
                  "--fail-inconclusive")  # fmt: skip
    assert done.exit_code == 4


def test_kauer_2024_has_no_order_to_take_it_apart():
    assert "the order of its runs is lost" in refused(1, "self-test", "kauer-cpuid-2024")


# Self-test


def test_self_test():
    rng = np.random.default_rng(1)
    drift = np.linspace(0, 0.1, 16)
    keep("a.json", row("w", 1000 * (1 + drift + rng.normal(0, 0.001, 16))))
    text = ok("self-test", "a.json")
    assert "False alarms in 1 of 3 splits." in text
    assert max(map(len, text.splitlines())) <= 80
    splits = json.loads(ok("self-test", "a.json", "--format", "json"))["splits"]
    assert [split["false_alarms"] for split in splits] == [["w"], [], []]
    assert "exact figures" in refused(
        1, "self-test", keep("b.json", row("w", [1] * 9, kind="exact"))
    )
    assert "3 runs, expected 4" in refused(1, "self-test", keep("c.json", row("w", [1] * 3)))
    assert refused(1, "self-test", "a.json", "-o", "nowhere/x")


# Kept results


def test_results_are_kept_listed_and_compared(folder):
    ok("run", "--iterations", 5, "--save", "main")
    ok("run", "--iterations", 5, "--save", "main", "--append")
    ok("run", "--iterations", 5, "--save", "main", "--append")
    assert len(list(results.read("results/main.json").runs())) == 3
    assert "8 workloads, eager, deferred; 3 runs in 1 boot; sim" in ok("list", "results")
    entries = json.loads(ok("compare", "main", "--format", "json"))["rows"]
    assert {e["workload"]: e["shift"] for e in entries if e["shift"]} == {
        "inl_from_pmtimer": -480,
        "inl_from_qemu": -480,
    }
    # A measured file keeps what is measured.
    keep(
        "results/live.json", Result(boots=[Boot(runs=[Run(engine="kvm", series=[series("w", 1)])])])
    )
    kept = Path("results/live.json").read_bytes()
    words = "live.json holds runs of kvm, and these are of sim"
    assert words in refused(2, "run", "--save", "live", "--append")
    assert Path("results/live.json").read_bytes() == kept
    # Simulated once more: it replaces what is exact, and is the same.
    ok("run", "--iterations", 5, "--save", "main")
    assert len(list(results.read("results/main.json").runs())) == 1
    ok("run", "--iterations", 5, "--save", "pr", "--results-dir", "other")
    assert "pr " in ok("list", "results", "--results-dir", "other")
    verdicts = {
        entry["verdict"]
        for entry in json.loads(ok("compare", "main", "other/pr.json", "--format", "json"))["rows"]
    }
    assert verdicts == {"unchanged"}


def test_list_and_show_have_every_form(two):
    names = [entry["name"] for entry in json.loads(ok("list", "published", "--format", "json"))]
    assert names == list(published())
    lines = list(csv.DictReader(io.StringIO(ok("list", "policies", "--format", "csv"))))
    assert [line["name"] for line in lines] == list(policies())
    assert ok("list", "profiles", "--format", "markdown").startswith("- ")
    shown = json.loads(ok("show", "deferred", "--format", "json"))
    assert shown["policy"] == "deferred"
    assert shown["vcpu_put"] == "[reload if tif, mark_stale if not tif]"
    ok("show", "before.json", "-o", "again.json")
    assert msgspec.structs.replace(results.read("again.json"), rows=[]) == results.read(two[0])
    ok("show", "before.json", "-o", "rows.csv")
    lines = list(csv.DictReader(io.StringIO(Path("rows.csv").read_text())))
    assert [line["workload"] for line in lines] == list(EIGHT)


def test_measured_runs_are_not_overwritten(folder):
    Path("results").mkdir()
    keep("results/main.json", table(np.ones((2, 8))))
    old = Path("results/main.json").read_bytes()
    assert "holds measured runs" in refused(2, "run", "--iterations", 5, "--save", "main")
    assert Path("results/main.json").read_bytes() == old
    ok("run", "--iterations", 5, "--save", "main", "--replace")
    assert Path("results/main.json").read_bytes() != old


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", ".x", "a/b", "x.json", "a\nb", "a#b", "a=b", "x.log", "last", "last~1"],
)
def test_names_that_nothing_is_kept_by(name, folder):
    assert "expected a name" in refused(2, "run", "--iterations", 5, "--save", name)
    assert not list(folder.iterdir())


def test_what_cannot_be_kept(folder):
    assert "--append needs --save" in refused(2, "run", "--append")
    assert "exclude each other" in refused(2, "run", "--save", "x", "--append", "--replace")
    Path("results").mkdir()
    Path("results/x.json").write_text("{")
    assert "results/x.json" in refused(1, "run", "--iterations", 5, "--save", "x")
    assert Path("results/x.json").read_text() == "{"
    assert "cannot be read" in ok("list", "results")
    Path("file").write_text("")
    assert invoke("run", "--iterations", 5, "--save", "x", "--results-dir", "file").exit_code == 2
    assert invoke("run", "--iterations", 5, "--save", "x", "--results-dir", "file/x").exit_code == 1
