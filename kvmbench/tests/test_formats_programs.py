"""pytest-benchmark, pyperf and Go: what is read of their files, and what they read of ours.

Producers and consumers are the real programs, where they are installed.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmbench import catalog, formats
from kvmbench.errors import ResultError
from kvmbench.results import Boot, Host, Result, Run, Series
from kvmbench.tests.result_examples import (
    GOOGLE,
    HYPERFINE,
    MEDIANS,
    THREE_RUNS,
    again,
    one,
    values,
)
from kvmbench.tests.result_examples import results as any_result

# pytest-benchmark

BENCHMARKS = """
import pytest

@pytest.mark.parametrize("size", [1, 20])
def test_sum(benchmark, size):
    benchmark.pedantic(sum, args=(range(size),), rounds=7, iterations=3)

def test_cycles(benchmark):
    benchmark.extra_info.update(unit="cycles", kind="exact")
    benchmark.pedantic(lambda: None, rounds=2)
"""


def run_pytest(folder, *arguments):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *arguments]
    # A session that thinks it is one of pytest-xdist's workers measures nothing.
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=env)


@pytest.fixture(scope="module")
def benchmarked(tmp_path_factory):
    """A folder in which pytest-benchmark has written out.json, and stats.json without data."""
    pytest.importorskip("pytest_benchmark")
    folder = tmp_path_factory.mktemp("benchmarked")
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(BENCHMARKS)
    done = run_pytest(folder, "--benchmark-json=out.json", "--benchmark-save=stats")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_pytest_benchmark_is_read(benchmarked):
    result = formats.load(benchmarked / "out.json")
    theirs = {
        bench["fullname"]: bench["stats"]["data"]
        for bench in json.loads((benchmarked / "out.json").read_text())["benchmarks"]
    }
    # Rounds are iterations of one run: never separate runs.
    assert {name: found for (name, _), found in values(result).items()} == {
        name: [data] for name, data in theirs.items()
    }
    assert len(theirs["test_it.py::test_sum[1]"]) == 7
    units = {s.workload: (s.unit, s.kind) for _, _, s in result.series()}
    assert units["test_it.py::test_sum[1]"] == ("seconds", "noisy")
    assert units["test_it.py::test_cycles"] == ("cycles", "exact")
    ((boot, run),) = result.runs()
    assert boot.host.kernel
    assert run.time


def test_pytest_benchmark_without_its_data(benchmarked):
    (saved,) = benchmarked.glob(".benchmarks/*/*_stats.json")
    theirs = {
        bench["fullname"]: bench["stats"]["median"]
        for bench in json.loads(saved.read_text())["benchmarks"]
    }
    result = formats.load(saved)
    assert {name: found for (name, _), found in values(result).items()} == {
        name: [[median]] for name, median in theirs.items()
    }
    marks = {s.workload: s.marks for _, _, s in result.series()}
    assert "the median of 7 rounds" in marks["test_it.py::test_sum[20]"][0]


def test_pytest_benchmark_reads_ours(benchmarked, tmp_path):
    """Both its commands: the comparison of files, and that of a session with a file."""
    (tmp_path / "ours.json").write_bytes(formats.dump(THREE_RUNS, "pytest-benchmark"))
    program = [sys.executable, "-m", "pytest_benchmark", "compare", "ours.json"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "cpuid" in done.stdout
    assert "vmcall" in done.stdout
    ours = json.loads(formats.dump(formats.load(benchmarked / "out.json"), "pytest-benchmark"))
    for bench in ours["benchmarks"]:  # so that the session finds its own names in it
        bench["fullname"] = bench["fullname"].removeprefix("kvmbench::")
    (benchmarked / "ours.json").write_text(json.dumps(ours))
    done = run_pytest(benchmarked, "--benchmark-compare=ours.json", "-k", "sum")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(ours)" in done.stdout or "0001_ours" in done.stdout or "ours" in done.stdout


def test_pytest_benchmark_says_the_same_of_the_data(benchmarked):
    theirs = json.loads((benchmarked / "out.json").read_text())["benchmarks"]
    ours = json.loads(formats.dump(formats.load(benchmarked / "out.json"), "pytest-benchmark"))
    for mine, its in zip(ours["benchmarks"], theirs, strict=True):
        for key in ("min", "max", "mean", "stddev", "median", "rounds", "ops", "total"):
            assert mine["stats"][key] == pytest.approx(its["stats"][key], rel=1e-9), key


def test_several_runs_go_to_pytest_benchmark_as_medians():
    written = json.loads(formats.dump(THREE_RUNS, "pytest-benchmark"))
    data = {bench["name"]: bench["stats"]["data"] for bench in written["benchmarks"]}
    assert data == MEDIANS
    # Read again, each median is a run's; a foreign file's data would be one run's.
    found = values(again(THREE_RUNS, "pytest-benchmark"))
    assert found == {
        ("cpuid", ""): [[1313], [1310.5], [1320]],
        ("vmcall", ""): [[1195.5]],
    }
    for bench in written["benchmarks"]:
        del bench["extra_info"]["kvmbench"]
    foreign = formats.decode(json.dumps(written).encode(), "x")
    assert values(foreign)["kvmbench::cpuid", ""] == [[1313, 1310.5, 1320]]


@pytest.mark.parametrize(
    ("bench", "said"),
    [
        ({"name": "x", "stats": {}}, "$.benchmarks[0].stats: Object missing required field `med"),
        ({"name": "x"}, "$.benchmarks[0]: Object missing required field `stats`"),
        (
            {"name": "x", "stats": {"median": 1, "data": [1, "2"]}},
            "$.benchmarks[0].stats.data[1]: Expected `int | float`, got `str`",
        ),
        ({"name": "", "stats": {"median": 1}}, "$.benchmarks[0].name: Expected `str` of length"),
    ],
)
def test_a_broken_file_of_pytest_benchmark(bench, said):
    assert said in one(json.dumps({"machine_info": {}, "benchmarks": [bench]}))


# pyperf

PYPERF = """
import pyperf
runner = pyperf.Runner(processes=3, values=4, warmups=2)
runner.timeit("a list", "list(range(10))")
runner.timeit("a tuple", "tuple(range(10))")
"""


@pytest.fixture(scope="module")
def perfed(tmp_path_factory):
    pytest.importorskip("pyperf")
    folder = tmp_path_factory.mktemp("perfed")
    (folder / "bench.py").write_text(PYPERF)
    command = [sys.executable, "bench.py", "-o", "out.json", "--fast", "-q"]
    command += ["--processes=3", "--values=4", "--min-time=0.0001"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder / "out.json"


def test_pyperf_is_read(perfed):
    import pyperf

    suite = pyperf.BenchmarkSuite.load(str(perfed))
    theirs = {
        (bench.get_name(), ""): [list(run.values) for run in bench.get_runs() if run.values]
        for bench in suite
    }
    result = formats.load(perfed)
    assert values(result) == theirs
    assert [len(runs) for runs in theirs.values()] == [3, 3]
    # A run of pyperf is a process, and so a run; the calibration's process is none.
    assert len(list(result.runs())) == 6 < sum(len(bench.get_runs()) for bench in suite)
    ((_, _, first), *_) = result.series()
    assert (first.unit, first.kind) == ("seconds", "noisy")
    loops = suite.get_benchmark("a list").get_total_loops()
    assert first.marks == [f"each value is the mean of {loops} loops"]


def test_pyperf_reads_ours(tmp_path):
    pyperf = pytest.importorskip("pyperf")
    path = tmp_path / "ours.json"
    path.write_bytes(formats.dump(THREE_RUNS, "pyperf"))
    suite = pyperf.BenchmarkSuite.load(str(path))
    assert suite.get_benchmark_names() == ["cpuid", "vmcall"]
    bench = suite.get_benchmark("cpuid")
    assert [list(run.values) for run in bench.get_runs()] == [
        [1313, 1312, 1315],
        [1311, 1310],
        [1320],
    ]
    assert bench.get_unit() == "integer"
    assert bench.median() == statistics.median([1313, 1312, 1315, 1311, 1310, 1320])
    for command in (["stats", path], ["check", path], ["compare_to", path, path, "--table"]):
        program = [sys.executable, "-m", "pyperf", *map(str, command)]
        done = subprocess.run(program, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    program = [sys.executable, "-m", "pyperf", "metadata", str(path)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert "kvmbench_unit: cycles" in done.stdout


def test_pyperf_holds_every_run():
    found = again(THREE_RUNS, "pyperf")
    assert values(found) == values(THREE_RUNS)
    assert [(boot.id, boot.block) for boot in found.boots] == [("b0", 0), ("b1", 1)]
    assert [len(run.series) for _, run in found.runs()] == [2, 1, 1]
    assert found.boots[0].host == Host(kernel="4.10", cpu="a CPU")
    assert found.boots[0].runs[0].time == "2017-02-21T10:00:00"
    twice = Result(boots=[THREE_RUNS.boots[1], THREE_RUNS.boots[1]])
    twins = Result(boots=[msgspec.structs.replace(boot, id="", block=None) for boot in twice.boots])
    assert [len(boot.runs) for boot in again(twins, "pyperf").boots] == [1, 1]


@pytest.mark.parametrize(
    ("series", "said"),
    [
        ({"unit": "us"}, "pyperf has no unit 'us'; it has seconds, bytes, integer, cyc"),
        ({"better": "higher"}, "higher is better, and pyperf takes lower for better"),
        ({"values": [3, 0]}, "0, and pyperf takes values above 0 only"),
        ({"values": [-2.5]}, "-2.5, and pyperf takes values above 0 only"),
        ({"workload": "a\nb"}, "names of one line"),
        ({"configuration": " "}, "names of one line"),
    ],
)
def test_what_pyperf_cannot_carry(series, said):
    row = msgspec.structs.replace(Series(workload="w", kind="noisy", values=[1]), **series)
    with pytest.raises(ResultError, match=r"^pyperf: 'w|^pyperf: 'a") as caught:
        formats.dump(Result(boots=[Boot(runs=[Run(series=[row])])]), "pyperf")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 6}, "$.version: 6, expected '1.0'"),
        ({"metadata": {"unit": "cycle", "name": "x"}}, "$.benchmarks[0].metadata.unit: 'cycle', e"),
        ({"metadata": {}}, "$.benchmarks[0].metadata: the benchmark has no name"),
        ({"benchmarks": [{"runs": [{"values": [None]}]}]}, "$.benchmarks[0].runs[0].values[0]: Ex"),
        (
            {"benchmarks": [{"runs": [{"warmups": [[1, 2]]}]}]},
            "no run has values, only calibration",
        ),
        ({"benchmarks": [{"runs": []}]}, "$.benchmarks[0].runs: Expected `array` of length >= 1"),
    ],
)
def test_a_broken_file_of_pyperf(change, said):
    file = {
        "version": "1.0",
        "metadata": {"name": "x"},
        "benchmarks": [{"runs": [{"values": [1]}]}],
    }
    assert values(formats.decode(json.dumps(file).encode(), "f")) == {("x", ""): [[1]]}
    assert said in one(json.dumps(file | change))


# Go benchmark text

# From the format's own description, golang.org/design/14313-benchmark-format.
GO_TEXT = """\
commit: 7cd9055
commit-time: 2016-02-11T13:25:45-0500
goos: darwin
goarch: amd64
cpu: Intel(R) Core(TM) i7-4980HQ CPU @ 2.80GHz
cpu-count: 8
os: Mac OS X 10.11.3

BenchmarkDecode/text=digits/level=speed/size=1e4-8   \t     100\t    154125 ns/op\t  64.88 MB/s
BenchmarkDecode/text=digits/level=speed/size=1e4-8   \t     100\t    154126 ns/op\t  64.87 MB/s
PASS
ok  \tcompress/flate\t1.2s
"""


def test_go_is_read():
    result = formats.decode(GO_TEXT.encode(), "f")
    name = "Decode/text=digits/level=speed/size=1e4-8"
    assert values(result) == {
        (f"{name} ns/op", ""): [[154125], [154126]],
        (f"{name} MB/s", ""): [[64.88], [64.87]],
    }
    assert {s.unit: (s.better, s.kind) for _, _, s in result.series()} == {
        "ns/op": ("lower", "noisy"),
        "MB/s": ("higher", "noisy"),
    }
    host = result.boots[0].host
    assert host.cpu == "Intel(R) Core(TM) i7-4980HQ CPU @ 2.80GHz"
    assert host.facts["commit"] == "7cd9055"


def test_units_of_go_say_direction_and_kind():
    text = "Unit cycles better=lower assume=exact\nUnit exits/s better=higher\n"
    text += "BenchmarkA 1 1313 cycles\nBenchmarkB 1 5e3 exits/s\n"
    found = {s.workload: s for _, _, s in formats.decode(text.encode(), "f").series()}
    assert (found["A"].kind, found["A"].better, found["A"].unit) == ("exact", "lower", "cycles")
    assert (found["B"].kind, found["B"].better, found["B"].values) == ("noisy", "higher", [5000])


def test_configuration_lines_that_change_are_configurations():
    """Else two kernels' runs in one file would be taken for runs of one."""
    text = (
        "goos: linux\nkernel: a\nBenchmarkX 1 1 c\nBenchmarkX 1 2 c\nkernel: b\nBenchmarkX 1 3 c\n"
    )
    result = formats.decode(text.encode(), "f")
    assert values(result) == {("X", "kernel=a"): [[1], [2]], ("X", "kernel=b"): [[3]]}
    assert result.boots[0].host == Host(facts={"goos": "linux"})
    text = "order: a\nBenchmarkX 1 1 c\norder:\nBenchmarkX 1 2 c\n"
    assert values(formats.decode(text.encode(), "f")) == {("X", "order=a"): [[1]], ("X", ""): [[2]]}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("BenchmarkX 1.5 3 ns/op", "'1.5': expected a whole number of iterations"),
        ("BenchmarkX some log", "'some': expected a whole number of iterations"),
        ("BenchmarkX 10", "expected a value and its unit"),
        ("BenchmarkX 10 3", "expected a value and its unit"),
        ("BenchmarkX 10 3 ns/op 4", "expected a value and its unit"),
        ("BenchmarkX 10 NaN ns/op", "'NaN': expected a finite number"),
        ("BenchmarkX 10 +Inf ns/op", "'+Inf': expected a finite number"),
        ("BenchmarkX 10 0x1p-2 ns/op", "'0x1p-2': expected a finite number"),
        ("Unit", "expected a unit"),
        ("Unit c better", "'better': expected key=value"),
        ("Unit ok better=higher", "better of ok was 'lower' before"),
    ],
)
def test_a_broken_line_of_go(line, said):
    text = f"Unit ok better=lower\nBenchmarkOk 1 2 ok\n{line}\n"
    result = formats.decode(text.encode(), "f")
    assert values(result) == {("Ok", ""): [[2]]}
    (note,) = result.notes
    assert note.startswith(f"line 3, {line!r}, passed over: {said}")


def test_go_text_without_a_result_names_its_first_broken_line():
    said = one("Unit c better=lower\nBenchmarkX 1 1e999 c\n")
    assert said.startswith("no line such as `BenchmarkExit 100000 1313 cycles`; line 2, 'Benchmark")
    assert "'1e999': expected a finite number" in said
    many = "BenchmarkX 1 1 c\n" + "BenchmarkX x 1 c\n" * 10
    assert formats.decode(many.encode(), "f").notes[3:] == ["7 more malformed lines passed over"]


@pytest.mark.parametrize("count", ["0", "-1", "+5"])
@pytest.mark.parametrize("name", ["", "x", "ing/size=8", "É", "_8"])
def test_names_and_counts_that_benchfmt_takes(name, count):
    # benchfmt's parseBenchmarkLine takes any field after "Benchmark", and any integer.
    text = f"Benchmark{name} {count} 5 ns/op\nBenchmark{name}\u2003 1\t6\u2003ns/op\r\n"
    assert values(formats.decode(text.encode(), "f")) == {(name or "Benchmark", ""): [[5], [6]]}


def go_json(*events):
    lines = (
        json.dumps({"Time": "t", "Action": a, "Package": p, "Output": o}) for p, a, o in events
    )
    return "\n".join(lines) + "\n"


def test_go_test_json():
    # test2json splits a line where the test prints it in parts, and mixes packages.
    text = go_json(
        ("a", "start", ""), ("a", "output", "pkg: a\n"), ("a", "output", "BenchmarkX-8  \t"),
        ("b", "output", "pkg: b\n"), ("a", "output", " 100\t 5 ns/op\n"),
        ("b", "output", "BenchmarkX-8 100 6 ns/op\n"), ("a", "pass", ""),
    )  # fmt: skip
    found = formats.decode(text.encode(), "f")
    assert values(found) == {("X-8", "pkg=a"): [[5]], ("X-8", "pkg=b"): [[6]]}
    assert "no line such as" in one(go_json(("a", "output", "PASS\n")))
    bad = "go: downloading x\n" + go_json(("a", "output", "BenchmarkX 1 5 ns/op\n"))
    for line in ("{bad", '{"Action": 3}'):
        found = formats.decode(f"{bad}\n{line}\n".encode(), "f")
        assert values(found) == {("X", ""): [[5]]}
        (note,) = found.notes
        assert f"'{line}', passed over: no event of go test -json" in note


def test_nul_of_a_serial_console():
    found = formats.decode(b"\0BenchmarkX\0 1 5 ns/op\0\n", "f")
    assert [(s.workload, s.unit) for _, _, s in found.series()] == [("X", "ns/op")]


@pytest.mark.parametrize("encoding", [
    *("utf-8-sig", "utf-16", "utf-32"), *("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"),
])  # fmt: skip
def test_unicode_with_a_byte_order_mark_and_without(encoding):
    # PowerShell's > writes UTF-16.
    for text, key in (("BenchmarkÉ 1 5 ns/op\r\n", "É"), ("cpuid 5\r\n", "cpuid")):
        assert values(formats.decode(text.encode(encoding), "f")) == {(key, ""): [[5]]}
    ours = formats.dump(THREE_RUNS, "kvmbench").decode().encode(encoding)
    assert formats.decode(ours, "f") == THREE_RUNS


# hyperfine and Google Benchmark


def test_hyperfine():
    found = formats.decode(HYPERFINE.encode(), "f")
    assert values(found) == {
        ("sleep 0.1", ""): [[0.101], [0.102], [0.1]],
        ("true", "n=3"): [[0.002]],
    }
    marks = {s.workload: (s.unit, s.marks) for _, _, s in found.series()}
    assert marks == {
        "sleep 0.1": ("seconds", ["1 of its runs failed"]),
        "true": ("seconds", ["the median of runs that the file does not have"]),
    }
    assert one('{"results": [{"command": "x"}]}') == "$.results[0]: neither times, median nor mean"


def test_google_benchmark():
    found = formats.decode(GOOGLE.encode(), "f")
    assert values(found) == {("a/8", ""): [[2.5]], ("b", ""): [[7], [9]]}
    above = "2026-01-01T00:00:00\nRunning ./b\nRun on (8 X 4000 MHz CPU s)\n"
    assert formats.decode((above + GOOGLE).encode(), "f") == found
    first = {s.workload: s for _, _, s in found.series()}
    assert (first["a/8"].unit, first["a/8"].counts) == ("us", {"cpu_time": 2.4})
    assert (first["b"].unit, first["b"].marks) == ("ns", ["cold"])
    run = found.boots[0].runs[0]
    assert (run.time, run.skipped) == ("2024-01-01T00:00:00", {"c": "no file"})
    assert found.boots[0].host.facts == {"host_name": "h", "num_cpus": "4"}


def test_google_benchmark_with_aggregates_only():
    entries = [
        {"name": f"x_{kind}", "real_time": value, "time_unit": "s"}
        for kind, value in (("mean", 3), ("median", 2), ("stddev", 1))
    ]
    found = formats.decode(json.dumps({"context": {}, "benchmarks": entries}).encode(), "f")
    ((_, _, series),) = found.series()
    assert (series.workload, series.values, series.unit) == ("x", [2], "seconds")
    assert series.marks == ["the median of repetitions"]
    text = json.dumps({"context": {}, "benchmarks": entries[2:]})
    assert one(text) == "$.benchmarks: no real_time of a benchmark that ran"


@pytest.mark.parametrize(
    ("text", "program"),
    [
        # criterion's estimates.json, benchmark.json; `cargo bench`
        ('{"mean": {"confidence_interval": {"confidence_level": 0.95}}}', "criterion"),
        ('{"group_id": "fib", "function_id": null}', "criterion"),
        ("fib 20                  time:   [26.029 us 26.251 us 26.505 us]\n", "criterion"),
        ('{"commit_hash": "ab", "result_columns": ["result"], "results": {}}', "asv"),
        ('[{"jmhVersion": "1.37", "benchmark": "a.B.c"}]', "JMH"),
        ("Benchmark   Mode  Cnt  Score   Error  Units\nB.c  avgt  5  1.2\n", "JMH"),
        ('"Benchmark","Mode","Threads","Samples","Score"\n"a.b","avgt",1,5,1.0\n', "JMH"),
        ('{"reason":"benchmark-complete","id":"x"}\n{"reason":"group-complete"}\n', "criterion"),
        ("1234,,cycles,100,100.00,,\n", "perf stat"),
        ("# started on Fri\n\n5.1,msec,task-clock,100,100.00,0.9,CPUs utilized\n", "perf stat"),
        ("     1.000;CPU0;1234;;cycles:u;0.50%;100;100.00;;\n", "perf stat"),
        ("<not supported>,,cycles,0,100.00,,\n", "perf stat"),
        ("name      old time/op  new time/op  delta\nEnc-8  1.7ms ± 1%  1.4ms ± 1%\n", "benchstat"),
        ("name   time/op\nEnc-8  1.7ms ± 1%\n", "benchstat"),
        ("goos: linux\n      │ old.txt │ new.txt │\n      │ sec/op  │ sec/op │\n", "benchstat"),
        (",old.txt,,new.txt\n,sec/op,CI,sec/op,CI,vs base,P\nEnc,1e-6,1%,1e-6,1%\n", "benchstat"),
        ('{"a": {"latency": {"value": 88.0, "lower_value": 87.42}}}', "Bencher (BMF)"),
        ('[{"name": "a", "unit": "ns", "value": 3}]', "github-action-benchmark"),
        (" Performance counter stats for 'true':\n\n 1.2 msec task-clock\n", "perf stat"),
        ('{"counter-value" : "3", "event" : "cycles"}\n{"counter-value" : "4"}\n', "perf stat"),
        ("Benchmark 1: sleep 0.1\n  Time (mean):  100 ms\n", "hyperfine as text"),
        ("command,mean,stddev,median\nsleep 0.1,0.1,0,0.1\n", "hyperfine as text"),
        # whose rows have names of vmexit
        ("\ncommand,mean,stddev,median\ncpuid,0.1,0,0.1\n", "hyperfine as text"),
        (
            "| Command |  Mean [ms] | Relative |\n|:--|--:|--:|\n| `cpuid` | 1.3 ± 0.1 | 1 |\n",
            "hyper",
        ),
        ('name,iterations,real_time,cpu_time,time_unit\n"cpuid",9,1,1,ns\n', "Google Benchmark as"),
        (
            "Benchmark          Time   CPU  Iterations\nfib  25 ns  25 ns  1\n",
            "Google Benchmark as",
        ),
    ],
)
def test_programs_that_are_named_when_refused(text, program):
    assert one(text).startswith(f"output of {program}")


# As in the description of github.com/google/gvisor/pull/7370.
@pytest.mark.parametrize(
    "pair", [("Before:", "After:"), ("before:", "after:"), ("# Before", "# After")]
)
def test_headings_in_go_text_are_noted(pair):
    text = "".join(f"{name}\nBenchmarkX-6 {n} {n} ns/op\n" for n, name in enumerate(pair, 1))
    (note,) = formats.decode(text.encode(), "f").notes
    assert note.startswith(
        f"'{pair[0]}', '{pair[1]}': headings part no configurations in Go's text"
    )
    assert formats.decode(b"before: 1\nBenchmarkX 1 1 ns/op\nafter: 2\n", "f").notes == []


def test_ours_as_go():
    text = formats.dump(THREE_RUNS, "go").decode()
    assert text.splitlines() == [
        "Unit cycles better=lower assume=nothing",
        "result: by hand",
        "kernel: 4.10",
        "cpu: a CPU",
        "BenchmarkKvmbench/workload=cpuid\t3\t1313 cycles",
        "BenchmarkKvmbench/workload=cpuid\t2\t1310.5 cycles",
        "BenchmarkKvmbench/workload=cpuid\t1\t1320 cycles",
        "BenchmarkKvmbench/workload=vmcall\t1\t1195.5 cycles",
    ]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"unit": "two words"}], "unit 'two words' has a space in it"),
        ([{}, {"kind": "exact"}], "the text gives both once per unit"),
        ([{}, {"better": "higher"}], "the text gives both once per unit"),
    ],
)
def test_what_go_cannot_carry(rows, said):
    plain = {"kind": "noisy", "values": [1]}
    series = [Series(workload=f"w{i}", **plain | row) for i, row in enumerate(rows)]
    with pytest.raises(ResultError, match=r"^go: ") as caught:
        formats.dump(Result(boots=[Boot(runs=[Run(series=series)])]), "go")
    assert said in str(caught.value)


def go_lines(text):
    """Read text by the grammar of golang.org/x/perf/benchfmt, without kvmbench's reader."""
    for line in text.splitlines():
        assert line == line.strip()
        word = line.split()[0]
        if word == "Unit":
            assert all("=" in entry for entry in line.split()[2:])
        elif word.startswith("Benchmark"):
            name, count, value, unit = line.split()
            assert int(count) >= 1
            yield name, float(value), unit
        else:
            key, _, _ = line.partition(": ")
            assert key.islower()
            assert " " not in key


@given(any_result(units=st.sampled_from(["cycles", "µs", "a/b"]), unit_decides=True))
@settings(deadline=None, max_examples=40)
def test_ours_as_go_is_in_the_grammar(result):
    found = list(go_lines(formats.dump(result, "go").decode()))
    assert len(found) == len(list(result.series()))
    for name, _, _ in found:
        base, *parts = name.split("/")
        assert base == "BenchmarkKvmbench"
        assert [part.split("=")[0] for part in parts] in (
            ["workload"],
            ["workload", "configuration"],
        )


def test_names_hold_nothing_that_go_reads_into_them():
    series = Series(workload="a b/c-8", configuration="50%-16", kind="noisy", values=[1])
    result = Result(boots=[Boot(runs=[Run(series=[series])])])
    line = formats.dump(result, "go").decode().splitlines()[-1]
    # A number after a dash at the end of a name is GOMAXPROCS.
    assert line == "BenchmarkKvmbench/workload=a%20b%2Fc%2D8/configuration=50%25%2D16\t1\t1 cycles"
    assert values(again(result, "go")) == {("a b/c-8", "50%-16"): [[1]]}


@pytest.mark.skipif(not shutil.which("benchstat"), reason="benchstat is not on PATH")
def test_benchstat_reads_ours(tmp_path):
    table = formats.from_published(catalog.published()["ipiv-2022"])
    (tmp_path / "ipi.txt").write_bytes(formats.dump(table, "go"))
    command = ["benchstat", "-col", "/configuration", "ipi.txt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "n=20" in done.stdout
    assert "workload=ipi" in done.stdout
