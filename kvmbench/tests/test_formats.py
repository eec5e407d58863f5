"""Result files in every format: known by content, refused in one line, carried back and forth."""

import contextlib
import csv
import io
import json
import statistics
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kvmbench import catalog, formats, results
from kvmbench.errors import ResultError
from kvmbench.formats import READABLE, WRITABLE, junit
from kvmbench.results import Boot, Result, Run, Series
from kvmbench.tests.command import invoke
from kvmbench.tests.result_examples import (
    GOOGLE,
    HYPERFINE,
    NAMES,
    THREE_RUNS,
    again,
    one,
    values,
)
from kvmbench.tests.result_examples import results as any_result

# Python 3.14 goes deep enough into JSON to see its end.
TOO_DEEP = "not JSON" if sys.version_info < (3, 14) else "ends in the middle of the JSON"


# The registry


def test_many_short_runs_are_read():
    """An entry of some bytes takes more than 20 times as much: the fixed part allows for it."""
    names = ("cpuid", "vmcall", "ipi", "inl_from_qemu", "inl_from_kernel", "mov_to_cr8")
    log = "".join(f"{name} 13{run % 100:02}\n" for run in range(20_000) for name in names)
    assert len(list(formats.decode(log.encode(), "x").runs())) == 20_000
    times = ",".join(f"1.{run % 10}" for run in range(60_000))
    text = f'{{"results":[{{"command":"x","times":[{times}]}}]}}'
    assert len(list(formats.decode(text.encode(), "x").runs())) == 60_000


def test_every_format_has_its_module():
    for form in WRITABLE:
        assert formats.dump(THREE_RUNS, form)
    for form in READABLE:
        assert callable(formats._module(form).decode)
    read_only = {"kut", "published", "hyperfine", "google-benchmark", "exit-mix"}
    assert set(READABLE) - set(WRITABLE) == read_only


def test_a_module_is_loaded_when_it_is_needed():
    program = "import sys, kvmbench.formats; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = done.stdout.split()
    assert "kvmbench.formats" in loaded, done.stderr
    unwanted = {"numpy", "click", "rich", "kvmbench.simulation.document", "kvmbench.catalog"}
    assert unwanted & set(loaded) == set()
    assert [name for name in loaded if name.startswith("kvmbench.formats.")] == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf  \n", "is empty"),
        (b'{"results": []}', "JSON of no known format; kvmbench reads kvmbench, kut, pytest-b"),
        (b'{"schema": "kvmbench.plan/1"}', "$.schema: 'kvmbench.plan/1' is no result"),
        (b'{"benchmarks": 3}', "JSON of no known format"),
        (b'{"benchmarks": []}', "JSON of no known format"),
        (b'{"benchmarks": [{"real_time": 1}]}', "JSON of no known format"),
        (b'[{"n": "x", "value": 3}]', "JSON, but an array; kvmbench reads"),
        (b'{"schema": "kvmbench.result/9", "boots": []}', "kvmbench.result/9 is newer than this"),
        (b'{"benchmarks": [{"stats":', "ends in the middle of the JSON: cut off?"),
        (b'{"a": 1,}', "line 1, column 9: not JSON"),
        (b'{"schema": "\x8d"}', "not JSON"),
        (b"\x1f\x8b\x08\x00", "is compressed with gzip: unpack it"),
        (b"{" * 40_000, "not JSON"),
        (b"{" * 210_000, "for 210,000 bytes: reading them would take over 132 MB of memory"),
        (b'{"benchmarks": ' + b"[" * 50_000, TOO_DEEP),
        (b"\xff\xfe\x00", "damaged UTF-16-LE"),
        (b"\x28\xb5\x2f\xfd\x00", "is compressed with zstd: unpack it"),
    ],
)
def test_what_cannot_be_read(data, said):
    assert said in one(data)


@pytest.mark.parametrize("form", READABLE)
@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_any_bytes_are_a_result_or_an_error(form, data):
    """Bytes that begin or go on as a file of the format does, and others."""
    whole = {
        "published": b'name = "x"\nconfigurations = ["a"]\nrows = [{name = "x"}]\n',
        "kut": b"cpuid 1\n  ipi cpuid 5\n3 cpuid 4\n",
        "hyperfine": HYPERFINE.encode(),
        "google-benchmark": GOOGLE.encode(),
        "exit-mix": b"VM-EXIT Samples Samples%\n HLT 3 75.0% 99.6% 0.43us 1.00us 3.1us\n",
    }.get(form) or formats.dump(THREE_RUNS, form)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    text = whole[:start] + data.draw(st.binary(max_size=8)) + whole[end:]
    for decode in (formats.decode, formats._module(form).decode):
        with contextlib.suppress(ResultError):
            decode(text, "x")


def test_oserrors_are_the_callers(tmp_path):
    with pytest.raises(FileNotFoundError):
        formats.load(tmp_path / "none")


# Published tables


def test_each_published_value_is_a_run():
    table = catalog.published()["ipiv-2022"]
    result = formats.from_published(table)
    found = values(result)
    assert found["ipi", "xAPIC w/o IPIv"][:3] == [[6106], [6244], [6165]]
    assert {key: len(runs) for key, runs in found.items()} == {
        ("ipi", name): 20 for name in table.configurations
    }
    assert (len(list(result.runs())), len(result.boots), result.order) == (80, 1, "time")
    assert result.boots[0].host.facts["hardware"] == table.hardware
    assert (result.name, result.source) == ("ipiv-2022", table.source)


def test_published_figures_that_stand_alone():
    result = formats.from_published(catalog.published()["patch-2017"])
    assert values(result)["inl_from_qemu", "After"] == [[6209]]
    assert [len(run.series) for _, run in result.runs()] == [8, 8]
    policies = {series.configuration: series.policy for _, _, series in result.series()}
    assert policies == {"Before": "eager", "After": "deferred"}
    lost = formats.from_published(catalog.published()["kauer-cpuid-2024"])
    assert (lost.order, len(list(lost.runs()))) == ("lost", 100)
    rate = formats.from_published(catalog.published()["cpuid-rate-zen3-2023"])
    ((_, _, first), *_) = rate.series()
    assert (first.unit, first.better, first.values) == ("CPUID/s", "higher", [1360250])


@pytest.mark.parametrize("name", catalog.published())
def test_every_published_table_is_a_result(name, tmp_path):
    table = catalog.published()[name]
    result = formats.from_published(table)
    assert results.decode(results.encode(result), name) == result
    file = files("kvmbench").joinpath("data", "published", f"{name}.toml")
    path = tmp_path / "table"
    path.write_bytes(file.read_bytes())
    assert formats.load(path) == result


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('configurations = ["a"]\nrows = 3\n', "rows: expected a list"),
        ('configurations = ["a"]\n[[rows]]\nname = 3\n', "'name' is missing"),
        ('configurations = ["a"\nrows = []', "not TOML"),
        (f'configurations = ["a"]\nrows = [{"9" * 5000}]', ":2: a number of over 100 characters"),
        (f'configurations = ["a"]\nrows = {"[" * 5000}', ":2: nested too deeply"),
    ],
)
def test_a_broken_published_table(text, said):
    assert said in one(text, "t.toml", "")


@pytest.mark.parametrize("value", ["1e400", "nan", "9" * 400, "true", '"1"'])
def test_a_published_value_is_a_finite_number(value):
    head = "".join(f'{key} = "x"\n' for key in (
        "name", "title", "change", "date", "hardware", "source", "note", "unit", "better",
    ))  # fmt: skip
    text = head + 'configurations = ["a"]\n[[rows]]\nname = "r"\nconfiguration = "a"\nvalue = 1\n'
    assert formats.decode(text.encode(), "t").workloads() == ["r"]
    for broken in (text.replace("value = 1", f"value = {value}"), text + f"values = [{value}]\n"):
        with pytest.raises(ResultError, match=r"^t:\d+: (rows|a number of over)"):
            formats.decode(broken.encode(), "t")


# What is written only


def test_github_action():
    text = formats.dump(THREE_RUNS, "github-action").decode()
    # src/extract.ts: JSON.parse(output).map(({name, value, unit, range, extra}) => ...), and what
    # is missing or null is coerced in silence.
    entries = json.loads(text)
    assert [(e["name"], e["value"], e["unit"]) for e in entries] == [
        ("cpuid", 1313, "cycles"),
        ("vmcall", 1195.5, "cycles"),
    ]
    assert "null" not in text
    assert entries[0]["range"] == "1310.5 to 1320"
    assert entries[0]["extra"] == "3 runs\nnoisy"
    assert "range" not in entries[1]


def test_what_github_action_cannot_carry():
    rows = [
        Series(workload="cost", kind="noisy", values=[1]),
        Series(workload="rate", kind="noisy", values=[1], better="higher"),
    ]
    with pytest.raises(
        ResultError, match="lower is better in cost, higher in rate: its tools take"
    ):
        formats.dump(Result(boots=[Boot(runs=[Run(series=rows)])]), "github-action")


@pytest.mark.parametrize("form", ["github-action", "pyperf", "pytest-benchmark"])
def test_two_rows_of_one_name(form):
    rows = [
        Series(workload="a/b", kind="noisy", values=[1]),
        Series(workload="a", configuration="b", kind="noisy", values=[1]),
    ]
    with pytest.raises(ResultError, match=f"^{form}: two rows would have the name 'a/b'"):
        formats.dump(Result(boots=[Boot(runs=[Run(series=rows)])]), form)


def test_junit():
    junitparser = pytest.importorskip("junitparser")
    xml = junitparser.JUnitXml.fromstring(formats.dump(THREE_RUNS, "junit"))
    (suite,) = xml
    assert (suite.name, suite.tests, suite.failures, suite.skipped) == ("by hand", 3, 0, 1)
    cases = {case.name: case for case in suite}
    assert cases["cpuid"].is_passed
    assert cases["ipi"].is_skipped
    (listed,) = cases["cpuid"].iterchildren(junitparser.Properties)
    properties = {entry.name: entry.value for entry in listed}
    assert properties["median"] == "1313"
    assert properties["runs"] == "3"
    assert properties["unit"] == "cycles"


def test_a_comparison_as_junit():
    junitparser = pytest.importorskip("junitparser")
    document = junit.document(
        "a & b",
        [
            junit.Case(name="cpuid", classname="x", properties={"shift": -22}),
            junit.Case(name="ipi", classname="x", failure="<slower> by 5.9 %\x1b[31m"),
            junit.Case(name="vmcall", classname="x", skipped="only before"),
        ],
    )
    (suite,) = junitparser.JUnitXml.fromstring(document)
    assert (suite.name, suite.tests, suite.failures, suite.skipped) == ("a & b", 3, 1, 1)
    passed, failed, skipped = suite
    assert passed.is_passed
    assert skipped.is_skipped
    (failure,) = failed.result
    assert failure.type == "regression"
    assert failure.message == "<slower> by 5.9 %\N{REPLACEMENT CHARACTER}[31m"


ROW = ("cycles", "noisy", "lower", "time", "size")


def test_csv():
    lines = list(csv.reader(io.StringIO(formats.dump(THREE_RUNS, "csv").decode())))
    assert lines == [
        [*("boot", "block", "run", "workload", "configuration"),
         *("unit", "kind", "better", "order", "stopping", "iteration", "value")],
        *(["0", "0", "0", "cpuid", "", *ROW, str(i), v] for i, v in
          enumerate(["1313", "1312", "1315"])),
        ["0", "0", "0", "vmcall", "", *ROW, "0", "1195.5"],
        ["0", "0", "1", "cpuid", "", *ROW, "0", "1311"],
        ["0", "0", "1", "cpuid", "", *ROW, "1", "1310"],
        ["1", "1", "0", "cpuid", "", *ROW, "0", "1320"],
    ]  # fmt: skip


PRINTABLE = NAMES.filter(str.isprintable)  # the rest is written out


@given(
    any_result(
        names=st.text("ab =-+@'\"|,é", min_size=1, max_size=6),
        configurations=PRINTABLE,
        units=PRINTABLE,
    )
)
@settings(deadline=None, max_examples=60)
def test_csv_reads_back(result):
    found = again(result, "csv")
    assert values(found) == values(result)
    assert (found.order, found.stopping) == (result.order, result.stopping)
    about = {(s.workload, s.configuration, s.unit, s.kind, s.better) for _, _, s in result.series()}
    assert {(s.workload, s.configuration, s.unit, s.kind, s.better)
            for _, _, s in found.series()} == about  # fmt: skip
    assert [boot.block for boot in found.boots] == [boot.block for boot in result.boots]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "workload,value\ncpuid,1\ncpuid,x\n",
            "line 3: column value: 'x', expected a finite number",
        ),
        ("workload,value\ncpuid,1,2\n", "line 2: more cells than columns"),
        ("workload,value,colour\n", "columns ['workload', 'value', 'colour'], expected boot"),
        ("workload,unit\n", "line 1: columns ['workload', 'unit'], expected boot"),
        ("workload,value,kind\na,1,odd\n", "line 2: column kind: 'odd', expected exact or noisy"),
        ("workload,value,block\na,1,-5\n", "block: '-5', expected a whole number, 0 or more"),
        (f"workload,value\na,{'9' * 400}\n", "line 2: column value: '9999"),
        ("workload,value\na,1e999\n", "'1e999', expected a finite number"),
        ("workload,value\na,1_000\n", "'1_000', expected a finite number"),
        ("workload,value\na,\n", "line 2: column value: '', expected a finite number"),
        ("workload,value\na,1\nworkload,value\n", "line 3: column value: 'value', expected"),
        (f"workload,value,block\na,1,{'9' * 5000}\n", "expected a whole number, 0 or more"),
        ("workload,value,iteration\na,1,1\na,2,x\n", "column iteration: 'x', expected a whole"),
        ("workload,value,iteration\na,1,0.5\n", "column iteration: '0.5', expected a whole"),
        ("workload,value,value\na,1,2\n", "line 1: column 'value' comes twice"),
        ("workload,value,order\na,1,sideways\n", "order: 'sideways', expected time or lost"),
        ("workload,value,stopping\na,1,soon\n", "stopping: 'soon', expected size or decided"),
        ("boot,block,workload,value\n0,1,a,1\n0,2,a,2\n", "block: 2, where boot '0' has 1"),
        ("boot,block,workload,value\n0,,a,1\n0,2,a,2\n", "block: 2, where boot '0' has none"),
        (
            "workload,unit,value\na,ns,1\na,us,2\n",
            "line 3: column unit: 'us', where line 2 has 'ns'",
        ),
        ("workload,unit,value\na,,1\na,us,2\n", "unit: 'us', where line 2 has 'cycles' for a"),
        ("workload,run,kind,value\na,0,exact,1\na,1,noisy,2\n", "where line 2 has 'exact'"),
        ("workload,better,value\na,lower,1\na,higher,2\n", "column better: 'higher', where"),
        ("workload,value\n,1\n", "line 2: column workload: empty"),
        ("# a comment\n\nworkload,value\n,1\n", "line 4: column workload: empty"),
    ],
)
def test_csv_that_is_broken(text, said):
    assert said in one(text)


@pytest.mark.parametrize("names", [["cpuid"], ["inl_from_qemu", "mov_*"], []])
def test_the_csv_that_run_prints_reads_back(names, folder):
    csv_ = formats.decode(invoke("run", *names, "--format", "csv").stdout.encode(), "x.csv")
    own = formats.decode(invoke("run", *names, "--format", "json").stdout.encode(), "x.json")
    sides = {"before": "eager", "after": "deferred"}
    found = {(s.workload, sides[s.configuration]): s.values for _, _, s in csv_.series()}
    assert found == {(s.workload, s.configuration): s.values for _, _, s in own.series()}
    assert {(s.kind, s.unit, s.better) for _, _, s in csv_.series()} == {
        ("exact", "cycles", "lower")
    }


def test_the_csv_of_run_says_its_sides(folder):
    def sides(*options):
        text = invoke("run", "cpuid", *options, "--format", "csv").stdout
        (line,) = csv.DictReader(io.StringIO(text))
        return [line[f"{what}_{side}"] for what in ("policy", "ioperm")
                for side in ("before", "after")]  # fmt: skip

    assert sides() == ["eager", "deferred", "off", "off"]
    assert sides("--ioperm", "on") == ["eager", "deferred", "on", "on"]
    assert sides("--ioperm", "both") == ["deferred", "deferred", "off", "on"]


@pytest.mark.parametrize("command", ["compare", "show"])
def test_the_csv_of_a_table_without_runs_says_which_form_to_keep(command, folder):
    results.write("a.json", THREE_RUNS)
    files = ("a.json", "a.json") if command == "compare" else ("a.json",)
    text = invoke(command, *files, "--format", "csv").stdout
    with pytest.raises(ResultError, match=r"a table .* keep the result as JSON \(-o FILE.json or"):
        formats.decode(text.encode(), "x.csv")


def test_the_csv_of_a_scenario_is_no_result(folder):
    text = "scenario,profile,vendor,cpus\nquiet,patch-2017,vmx,16\n"  # as `scenario` begins
    with pytest.raises(ResultError, match="kvmbench scenario or check, which is no result"):
        formats.decode(text.encode(), "x.csv")


def test_csv_needs_a_name_and_a_value_only():
    assert formats.decode(b"value,workload\n5,a\n", "x").workloads() == ["a"]

    found = formats.decode(b"workload,configuration,value\na,x,1\na,y,2.5\n", "f")
    assert values(found) == {("a", "x"): [[1]], ("a", "y"): [[2.5]]}


@pytest.mark.parametrize(
    "text",
    [
        "workload\trun\tvalue\ncpuid\t0\t1313\ncpuid\t1\t0.5\n",
        "workload;run;value\ncpuid;0;1313\ncpuid;1;0.5\n",
        ' workload, run , "value"\ncpuid,0, 1313\ncpuid,1,+.5\n',
        "sep=;\n# of a lab\n\nworkload;run;value\ncpuid;0;1313\ncpuid;1;0.5\n",
        "Run,Value,Workload\r\n0,1313,cpuid\r\n1,5e-1,cpuid\r\n",
    ],
)
def test_csv_of_other_programs(text):
    found = formats.decode(text.encode(), "f")
    assert values(found) == {("cpuid", ""): [[1313], [0.5]]}


def test_csv_with_spaces_around_the_cells():
    text = b'workload, configuration, value, unit\ncpuid, before , 1313, ns\ncpuid, "a, b", 7 ,us\n'
    result = formats.decode(text, "f")
    assert values(result) == {("cpuid", "before"): [[1313]], ("cpuid", "a, b"): [[7]]}
    assert [(s.unit, type(s.values[0])) for _, _, s in result.series()] == [
        ("ns", int),
        ("us", int),
    ]


def test_each_block_of_a_csv_without_boots_is_a_boot():
    text = b"workload,block,configuration,value\ncpuid,0,a,1\ncpuid,0,b,2\ncpuid,1.0,a,1\n"
    found = formats.decode(text, "f")
    assert values(found) == {("cpuid", "a"): [[1], [1]], ("cpuid", "b"): [[2]]}
    assert [(boot.block, len(boot.runs)) for boot in found.boots] == [(0, 1), (1, 1)]
    (boot,) = formats.decode(b"boot,block,workload,value\nx,3,a,1\nx,,a,2\n", "f").boots
    assert boot.block == 3


def test_an_empty_cell_of_a_csv_has_what_its_row_has():
    text = b"workload,run,unit,kind,better,value\na,0,ns,exact,higher,1\na,0,,,,2\na,1,,,,3\n"
    found = formats.decode(text, "f")
    assert values(found) == {("a", ""): [[1, 2], [3]]}
    assert {(s.unit, s.kind, s.better) for _, _, s in found.series()} == {("ns", "exact", "higher")}


@pytest.mark.parametrize("iterations", ["0101", "3210", "0000", ("0.0", "1.0", "2.0", "")])
def test_csv_values_are_in_the_order_of_the_file(iterations):
    lines = "".join(f"a,{iteration},{n}\n" for n, iteration in enumerate(iterations))
    found = formats.decode(f"workload,iteration,value\n{lines}".encode(), "f")
    assert values(found) == {("a", ""): [[0, 1, 2, 3]]}


def test_csv_that_would_take_too_much_memory(monkeypatch):
    monkeypatch.setattr(results, "FLOOR", 0)
    with pytest.raises(ResultError, match=r"^f: line 2: the table: too many runs, rows or other"):
        formats.decode(b"workload,value\na,1\n", "f")


def test_csv_names_keep_their_outer_spaces():
    odd = Series(workload=" a ", configuration="'b ", kind="noisy", values=[1])
    found = again(Result(boots=[Boot(runs=[Run(series=[odd])])]), "csv")
    assert values(found) == {(" a ", "'b "): [[1]]}


def test_markdown():
    table = formats.from_published(catalog.published()["ipiv-2022"])
    text = formats.dump(table, "markdown").decode()
    medians = [statistics.median(row.values) for row in catalog.published()["ipiv-2022"].rows]
    assert medians == [6041, 4691.5, 4311.5, 3684]
    cells = " | ".join(f"{median:g} (n=20)" for median in medians)
    assert text.splitlines()[2] == f"| ipi | cycles | {cells} |"
    odd = Series(workload="a|b\nc", kind="noisy", values=[1.5e-06], unit="seconds")
    text = formats.dump(Result(boots=[Boot(runs=[Run(series=[odd])])]), "markdown").decode()
    assert text.splitlines()[2] == r"| a\|b c | seconds | 1.5e-06 (n=1) |"


def test_load_takes_a_path_or_a_published_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = formats.from_published(catalog.published()["patch-2017"])
    assert formats.load("patch-2017") == table
    Path("patch-2017").write_text("cpuid 7\n")  # a file goes first
    assert values(formats.load("patch-2017")) == {("cpuid", ""): [[7]]}
    assert formats.load(Path("patch-2017")) == formats.load("./patch-2017")
    with pytest.raises(ResultError, match="did you mean 'ipiv-2022'"):
        formats.load("ipiv-2021")
    for missing in ("no.json", "no/ipiv-2022"):
        with pytest.raises(FileNotFoundError, match=missing):
            formats.load(missing)


def test_save_goes_by_the_ending_or_the_form(tmp_path):
    for name, form in (("a.json", "kvmbench"), ("a.csv", "csv"), ("a.md", "markdown"),
                       ("a.xml", "junit")):  # fmt: skip
        formats.save(THREE_RUNS, tmp_path / name)
        assert (tmp_path / name).read_bytes() == formats.dump(THREE_RUNS, form)
    assert formats.load(tmp_path / "a.json") == THREE_RUNS
    formats.save(THREE_RUNS, tmp_path / "a.json", "go")
    assert (tmp_path / "a.json").read_bytes() == formats.dump(THREE_RUNS, "go")
    with pytest.raises(ValueError, match=r"a\.txt does not say its format"):
        formats.save(THREE_RUNS, tmp_path / "a.txt")
    with pytest.raises(ValueError, match="unknown format 'goo'; did you mean 'go'"):
        formats.save(THREE_RUNS, tmp_path / "a.txt", "goo")
    assert not (tmp_path / "a.txt").exists()


# Round trips

POSITIVE = st.integers(1, 10**12) | st.floats(1e-9, 1e12)
PLAIN_NAMES = st.text("abcxyz_+()%=:.-8", min_size=1, max_size=8)


@given(
    any_result(
        names=PLAIN_NAMES,
        configurations=st.just("") | PLAIN_NAMES,
        units=st.sampled_from(["cycles", "seconds", "bytes"]),
        figures=POSITIVE,
        better=("lower",),
    )
)
@settings(deadline=None, max_examples=40)
def test_pyperf_loses_no_value(result):
    found = again(result, "pyperf")
    assert values(found) == values(result)
    assert found.order == result.order
    runs = [{(s.workload, s.configuration) for s in run.series} for _, run in result.runs()]
    assert [{(s.workload, s.configuration) for s in r.series} for _, r in found.runs()] == runs
    assert [len(boot.runs) for boot in found.boots] == [len(boot.runs) for boot in result.boots]
    kinds = {(s.workload, s.configuration): (s.unit, s.kind) for _, _, s in result.series()}
    assert {(s.workload, s.configuration): (s.unit, s.kind) for _, _, s in found.series()} == kinds


@pytest.mark.parametrize("form", ["go", "pytest-benchmark"])
@settings(deadline=None, max_examples=40)
@given(result=any_result(units=st.sampled_from(["cycles", "seconds", "a/b"]), unit_decides=True))
def test_runs_stay_apart(form, result):
    """What has one level only keeps each run's median as a run."""
    labels = ["/".join(filter(None, key)) for key in values(result)]
    assume(len(labels) == len(set(labels)))  # else pytest-benchmark's file is refused
    found = again(result, form)
    medians = {
        key: [statistics.median(run) for run in runs] for key, runs in values(result).items()
    }
    back = {key: [statistics.median(run) for run in runs] for key, runs in values(found).items()}
    assert back == medians
    assert found.order == result.order
    about = {(s.workload, s.configuration): (s.unit, s.kind, s.better)
             for _, _, s in result.series()}  # fmt: skip
    assert {(s.workload, s.configuration): (s.unit, s.kind, s.better)
            for _, _, s in found.series()} == about  # fmt: skip


@given(any_result(), st.sampled_from(sorted(WRITABLE)))
@settings(deadline=None, max_examples=60)
def test_every_result_is_written_or_refused(result, form):
    with contextlib.suppress(ResultError):
        formats.dump(result, form)
