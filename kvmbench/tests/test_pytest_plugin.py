"""The pytest plugin, in separate sessions: the fixture, with pytest-benchmark, and the gate."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import kvmbench._core
import kvmbench.baseline
import kvmbench.scenario.scenario  # loaded for good: sessions in this process drop their imports
from kvmbench.formats import load
from kvmbench.results import read

pytest_plugins = ["pytester"]

ROOT = Path(kvmbench.__file__).parent.parent
INSTALLED = bool(entry_points(group="pytest11", name="kvmbench"))
PLUGIN = [] if INSTALLED else ["-p", "kvmbench.pytest_plugin"]
QUICK = ["-p", "no:hypothesispytest", "-p", "no:cacheprovider"]  # it takes most of a second
BENCHMARK = bool(entry_points(group="pytest11", name="benchmark"))

# What deferred costs is in the commit message of Linux b7ffc44d5b2e; eager adds the profile's 480.
DEFERRED, EAGER = 6209, 6689
SUITE = """
import pytest
from kvmbench import Machine

@pytest.mark.parametrize("policy", ["eager", "deferred"])
def test_inl(cycle_benchmark, policy):
    machine = Machine(2, 1, policy, "patch-2017")
    machine.switch(1, 0)
    machine.exit(1, "inl_from_qemu")
    def one_more():
        machine.advance(0, 0)
        return machine.exit(1, "inl_from_qemu")
    assert cycle_benchmark(machine, one_more) == {"eager": 6689, "deferred": 6209}[policy]
"""
INL = ["test_it.py::test_inl[deferred]", "test_it.py::test_inl[eager]"]
CLOCK = """
def test_clock(cycle_benchmark):
    now = [0]
    def work(cycles):
        now[0] += cycles
    cycle_benchmark(lambda: now[0], work, 1310000)
"""
WALL = """
def test_wall(benchmark):
    benchmark.pedantic(sum, ([1, 2],), rounds=3)
"""


@pytest.fixture
def session(pytester, monkeypatch):
    """Run pytest on test_it.py in a fresh folder; `new` is another text of it."""
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)

    def run(*arguments, new=None, apart=False):
        if new is not None:
            pytester.path.joinpath("test_it.py").write_text(new)
        how = pytester.runpytest_subprocess if apart else pytester.runpytest_inprocess
        return how(*PLUGIN, *QUICK, "-W", "error", *arguments)

    pytester.syspathinsert(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run.path = pytester.path
    return run


@pytest.fixture
def gate(session):
    """Run a session under the gate, with the baseline of an earlier one."""

    def run(*arguments, before=None, **more):
        if before is not None:
            done = session("--cycles-baseline=b.json", "--cycles-update", new=before)
            assert done.ret == 0, done.stdout.str()
        return session("--cycles-baseline=b.json", *arguments, **more)

    run.file = session.path / "b.json"
    return run


def cycles_lines(done):
    return [line for line in done.stdout.lines if line.startswith("CYCLES")]


with_benchmark = pytest.mark.skipif(not BENCHMARK, reason="pytest-benchmark is not installed")


# The fixture


@with_benchmark
def test_a_table_of_its_own_beside_a_wall_time_benchmark(session):
    done = session("--benchmark-json=out.json", "--benchmark-columns=min", new=SUITE + WALL)
    assert done.ret == 0
    done.stdout.re_match_lines_random(
        [
            r"-+ benchmark: 1 tests -+",
            r"Name \(time in [mun]?s\) .*",
            r"-+ benchmark 'cycles': 2 tests -+",
            r"Name \(time in cycles\) .*",
            r"test_inl\[deferred\] +6,209\.0000 .*",
            r"test_inl\[eager\] +6,689\.0000 .*",
        ]
    )
    found = json.loads((session.path / "out.json").read_text())["benchmarks"]
    found = {bench["name"]: bench for bench in found}
    assert found["test_wall"]["extra_info"] == {}
    assert found["test_wall"]["options"]["timer"] == "perf_counter"
    for policy, cycles, reloads in (("eager", EAGER, 1), ("deferred", DEFERRED, 0)):
        bench = found[f"test_inl[{policy}]"]
        assert bench["stats"]["data"] == [cycles]
        extra = bench["extra_info"]
        segments = extra.pop("segments")
        assert sum(segments.values()) == cycles
        assert segments["tr"] == 2 + 480 * reloads
        assert extra == {
            "unit": "cycles",
            "kind": "exact",
            "cycles": cycles,
            "reloads": reloads,
            "policy": policy,
            "profile": "patch-2017",
            "vendor": "vmx",
            "model_version": "1",
        }
        assert all(type(value) is int for value in (extra["cycles"], *segments.values()))
    read_back = {
        s.workload.split("::")[1]: s for _, _, s in load(session.path / "out.json").series()
    }
    assert {name: (s.kind, s.unit) for name, s in read_back.items()} == {
        "test_wall": ("noisy", "seconds"),
        "test_inl[eager]": ("exact", "cycles"),
        "test_inl[deferred]": ("exact", "cycles"),
    }


@with_benchmark
def test_markers_and_groups(session):
    marked = """
import pytest
pytestmark = pytest.mark.benchmark(group="of the file", min_rounds=7)

class TestInside:
    @pytest.mark.parametrize("n", [5, 6])
    def test_clock(self, cycle_benchmark, n):
        now = [0]
        cycle_benchmark(lambda: now[0], lambda: now.__setitem__(0, n))

@pytest.mark.benchmark(timer=None, group="own")
def test_own(cycle_benchmark):
    cycle_benchmark(iter([1, 5]).__next__, int)
"""
    columns = "--benchmark-columns=min"
    done = session(columns, new=marked + WALL)
    assert done.ret == 0
    done.stdout.fnmatch_lines(
        [
            "*benchmark 'of the file': 1 tests*",
            "Name (time in *s)*",
            "*benchmark 'of the file (cycles)': 2 tests*",
            "Name (time in cycles)*",
            "test_clock?5?*5.0000*",
            "*benchmark 'own': 1 tests*",
            "Name (time in cycles)*",
            "test_own*4.0000",
        ]
    )
    done = session(columns, "--benchmark-group-by=func", "--benchmark-time-unit=ns")
    done.stdout.fnmatch_lines_random(["Name (time in ns)*", "*'test_clock': 2*", "test_own*4.0000"])


@with_benchmark
def test_markers_and_fixtures_of_a_conftest(session):
    conftest = """
import pytest

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.benchmark(group="late", timer=int), append=False)

@pytest.fixture(autouse=True)
def early(benchmark):
    benchmark.extra_info["by"] = "conftest"
"""
    (session.path / "conftest.py").write_text(conftest)
    done = session("--benchmark-json=out.json", new=SUITE)
    assert done.ret == 0
    done.stdout.fnmatch_lines(["*benchmark 'late': 2 tests*", "Name (time in cycles)*"])
    for bench in json.loads((session.path / "out.json").read_text())["benchmarks"]:
        assert bench["extra_info"]["by"] == "conftest"
        assert bench["stats"]["data"] == [bench["extra_info"]["cycles"]]


@with_benchmark
@pytest.mark.parametrize(
    ("option", "outcomes"),
    [
        ("--benchmark-only", {"passed": 3, "skipped": 1}),
        ("--benchmark-skip", {"passed": 1, "skipped": 3}),
        ("--benchmark-disable", {"passed": 4}),
        ("--benchmark-cprofile=tottime", {"passed": 4}),
    ],
)
def test_pytest_benchmarks_options(gate, option, outcomes):
    text = SUITE + WALL + "def test_plain(): pass\n"
    done = gate(option, before=text)
    done.assert_outcomes(**outcomes)
    assert done.ret == (option == "--benchmark-skip")
    assert cycles_lines(done) == (
        [f"CYCLES {name}: in the baseline, skipped" for name in INL] if done.ret else []
    )


@with_benchmark
def test_a_row_of_a_test_that_fails_is_in_cycles_too(session):
    done = session(
        new="""
def test_second(cycle_benchmark):
    cycle_benchmark.pedantic(iter([0, 5, 5, 6]).__next__, iter([1]).__next__, rounds=2)
"""
    )
    assert done.ret == 1
    done.stdout.fnmatch_lines(["Name (time in cycles)*", "test_second*5.0000*"])


@with_benchmark
def test_comparing_two_files_and_another_machine(session):
    session("--benchmark-json=a.json", new=SUITE)
    saved = json.loads((session.path / "a.json").read_text())
    saved["machine_info"]["cpu"] = {"brand_raw": "another"}
    (session.path / "a.json").write_text(json.dumps(saved))
    compare = ("--benchmark-compare=a.json", "--benchmark-compare-fail=mean:0%")
    # Its warning of another machine would be an error here.
    done = session(*compare)
    assert done.ret == 0, done.stderr.str()
    done.stdout.fnmatch_lines(["Name (time in cycles)*", "test_inl?eager? (a)*6,689.0*"])
    for bench in saved["benchmarks"]:
        bench["stats"]["mean"] -= 1
    (session.path / "a.json").write_text(json.dumps(saved))
    done = session(*compare, "--cycles-baseline=b.json", "--cycles-update", apart=True)
    assert done.ret == 1  # with a traceback, and no "2 passed"; and the gate prints its lines
    done.stdout.fnmatch_lines(["2 tests, baseline written"])
    saved["benchmarks"][0]["extra_info"] = {}
    (session.path / "a.json").write_text(json.dumps(saved))
    done = session(*compare)
    assert "machine_info is different" in done.stdout.str() + done.stderr.str()


@with_benchmark
def test_histogram_is_refused(session):
    done = session("--benchmark-histogram=h", new=SUITE)
    assert done.ret == 4
    done.stderr.fnmatch_lines(["ERROR: --benchmark-histogram knows seconds only*"])


WRONG = """
import pytest
from kvmbench import Machine

def clock(values=(0, 1)):
    return iter(values).__next__

def test_twice(cycle_benchmark):
    cycle_benchmark(clock(), int)
    with pytest.raises(RuntimeError, match="used twice .* a test has one figure"):
        cycle_benchmark(clock(), int)

@pytest.mark.parametrize(("first", "more", "error", "said"), [
    (3, {}, TypeError, "the clock is 3, neither a Machine nor callable"),
    (clock((0.5, 1)), {}, TypeError, "the clock is 0.5, not an integer"),
    (clock((5, 3)), {}, ValueError, "the clock went back by 2 while"),
    (clock(), {"rounds": 0}, ValueError, "rounds is 0, not 1 or more"),
    (clock(), {"cpu": 0}, TypeError, "cpu is 0, and the clock is no Machine"),
    (Machine(2, 1, "eager", "patch-2017"), {"cpu": 2}, IndexError, "cpu is 2, not in 0 to 1"),
    (Machine(2, 1, "eager", "patch-2017"), {"cpu": -1}, IndexError, "cpu is -1, not in 0 to 1"),
])
def test_wrong(cycle_benchmark, first, more, error, said):
    with pytest.raises(error, match=said):
        cycle_benchmark.pedantic(first, int, **more)
    if cycle_benchmark._benchmark and not cycle_benchmark._benchmark._mode:
        cycle_benchmark._benchmark.pedantic(int)  # else it warns that it was not used

def test_setup_and_rounds(cycle_benchmark):
    now, made = [0], [3, 4, 4]
    def work(a, b=0):
        now[0] += a * b
        return a
    def setup():
        now[0] += 1000
        return (made.pop(0),), {"b": 2}
    assert cycle_benchmark.pedantic(lambda: now[0], work, setup=setup, rounds=3) == 4
    assert cycle_benchmark.figure.cycles == [6, 8, 8]
    assert made == []

def test_one_cpu(cycle_benchmark):
    machine = Machine(2, 1, "eager", "patch-2017")
    def both():
        machine.advance(0, 5)
        machine.advance(1, 7)
    cycle_benchmark.pedantic(machine, both, cpu=1)
    assert cycle_benchmark.figure.cycles == [7]
    assert {k: v for k, v in cycle_benchmark.figure.segments.items() if v != [0]} == {"idle": [7]}
"""


@pytest.mark.parametrize("options", [[], ["--benchmark-disable"], ["-p", "no:benchmark"]])
def test_how_it_is_called(session, options):
    if not BENCHMARK and options[:1] == ["--benchmark-disable"]:
        pytest.skip("pytest-benchmark is not installed")
    session(*options, new=WRONG).assert_outcomes(passed=10)


@with_benchmark
def test_asked_for_too_late(session):
    late = """
def test_late(request):
    request.getfixturevalue("cycle_benchmark")
"""
    done = session(new=late)
    assert "cycle_benchmark must be an argument of the test" in done.stdout.str()


# The gate


def test_every_change_fails(gate):
    old = SUITE + CLOCK + CLOCK.replace("test_clock", "test_gone")
    done = gate(before=old)
    assert done.ret == 0
    done.stdout.fnmatch_lines(
        ["*= cycles, b.json =*", "4 tests, every figure as in the baseline", "*4 passed*"]
    )
    new = SUITE.replace("advance(0, 0)", "advance(0, policy == 'eager')")
    new += CLOCK.replace("1310000", "1309000") + CLOCK.replace("test_clock", "test_new")
    done = gate(new=new)
    assert done.ret == 1
    assert cycles_lines(done) == [
        "CYCLES test_it.py::test_clock: 1310000 -> 1309000 (-1000, -0.0763%)",
        "CYCLES test_it.py::test_gone: in the baseline, not run",
        "CYCLES test_it.py::test_inl[eager]: 6689 -> 6690 (+1, +0.0149%); idle 0 -> 1",
        "CYCLES test_it.py::test_new: run, not in the baseline",
    ]
    done.stdout.fnmatch_lines(["1 of the baseline's 4 tests not run*", "*4 passed*"])


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["-k", "eager"], [f"{INL[0]}: in the baseline, not run"]),
        (["-k", "nothing"], [f"{name}: in the baseline, not run" for name in INL]),
        ([INL[0]], [f"{INL[1]}: in the baseline, not run"]),
        (["--deselect", INL[1], "-q"], [f"{INL[1]}: in the baseline, not run"]),
    ],
)
def test_a_part_of_the_tests_does_not_pass(gate, arguments, missing):
    done = gate(*arguments, before=SUITE)
    assert done.ret == 1
    assert cycles_lines(done) == [f"CYCLES {line}" for line in missing]
    done.stdout.fnmatch_lines([f"{len(missing)} of the baseline's 2 tests not run*"])


def test_tests_that_fail(gate):
    gate(before=SUITE + CLOCK)
    failing = SUITE.replace("def one_more():", "assert policy != 'eager'\n    def one_more():")
    done = gate("-x", new=failing + CLOCK)
    assert done.ret == 1
    assert cycles_lines(done) == [
        "CYCLES test_it.py::test_clock: in the baseline, not run",
        "CYCLES test_it.py::test_inl[deferred]: in the baseline, not run",
        "CYCLES test_it.py::test_inl[eager]: in the baseline, failed",
    ]
    done.stdout.fnmatch_lines(["2 of the baseline's 3 tests not run*"])
    assert "INTERNALERROR" not in done.stdout.str() + done.stderr.str()
    unused = "def test_clock(cycle_benchmark): pass\n"
    done = gate("-W", "default", new=SUITE + unused)
    assert done.ret == 1
    assert cycles_lines(done) == [
        "CYCLES test_it.py::test_clock: in the baseline, ran without cycle_benchmark"
    ]
    done.stdout.no_fnmatch_line("*tests not run*")
    done = gate(new=SUITE + "not Python\n")
    assert done.ret == 2
    assert cycles_lines(done) == ["CYCLES not gated: the session was stopped"]


def test_another_model(gate):
    gate(before=SUITE)
    text = gate.file.read_text().replace('"model_version": "1"', '"model_version": "0"')
    gate.file.write_text(text)
    done = gate()
    assert done.ret == 0
    assert cycles_lines(done) == ["CYCLES the model's version: 0 -> 1"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "b.json: no such baseline; --cycles-update writes it"),
        ("", "b.json: is empty, expected JSON"),
        ("<<<<<<< HEAD\n", "b.json: line 1, column 1: not JSON"),
        ('{"schema": "kvmbench.result/9", "boots": []}', "b.json: * is newer than this kvmbench*"),
        ('{"benchmarks": []}', "b.json: $.schema: no schema, expected 'kvmbench.result/1'"),
    ],
)
def test_baselines_that_cannot_be_read(gate, content, said):
    if content is not None:
        gate.file.write_text(content)
    done = gate(new=SUITE)
    assert done.ret == 4
    done.stderr.fnmatch_lines([f"ERROR: {said}"])
    assert "Traceback" not in done.stderr.str()
    if content is not None:
        assert gate("--cycles-update").ret == 4
        assert gate.file.read_text() == content


def test_update(gate, session):
    done = session("--cycles-update", new=SUITE)
    assert done.ret == 4
    done.stderr.fnmatch_lines(["ERROR: --cycles-update: which file? *"])
    done = gate("--cycles-update")
    assert done.ret == 0
    done.stdout.fnmatch_lines([f"CYCLES {INL[0]}: new", "2 tests, baseline written"])
    content = gate.file.read_bytes()
    done = gate("--cycles-update", "-p", "no:randomly")
    done.stdout.fnmatch_lines(["2 tests, baseline unchanged"])
    assert gate.file.read_bytes() == content
    assert [series.values for *_, series in read(gate.file).series()] == [[DEFERRED], [EAGER]]

    for arguments, new, said in [
        (["-k", "eager"], SUITE, f"{INL[0]}: in the baseline, not run"),
        ([], SUITE + "def test_bad(): assert 0", "baseline not written: tests failed"),
        ([], "def test_it(): pass", "baseline not written: no test took a figure"),
    ]:
        done = gate("--cycles-update", *arguments, new=new)
        assert done.ret == 1
        assert cycles_lines(done)[0] == f"CYCLES {said}"
        assert gate.file.read_bytes() == content

    done = gate("--cycles-update", new=SUITE.replace("(0, 0)", "(0, 9)"))
    assert done.ret == 0
    assert cycles_lines(done)[0] == (f"CYCLES {INL[0]}: 6209 -> 6218 (+9, +0.1450%); idle 0 -> 9")
    assert gate().ret == 0
    done = session("--cycles-baseline=no/such/b.json", "--cycles-update")
    assert done.ret == 1
    assert cycles_lines(done) == ["CYCLES baseline not written: No such file or directory"]


NAMES = """
import pytest

class TestA:
    @pytest.mark.parametrize("x", ["a b", "ü", "::", "[]"])
    def test_b(self, cycle_benchmark, x):
        cycle_benchmark(iter([0, 1]).__next__, int)
"""


def test_names(gate):
    assert gate(before=NAMES).ret == 0
    names = [series.workload for *_, series in read(gate.file).series()]
    odd = ("::", "[]", r"\xfc", "a b")
    assert names == [f"test_it.py::TestA::test_b[{x}]" for x in odd]


def test_where_it_runs(gate, session):
    folder = session.path / "inner"
    folder.mkdir()
    (session.path / "pytest.ini").write_text("[pytest]\ncycles_baseline = kept/b.json\n")
    (session.path / "kept").mkdir()
    (folder / "test_inner.py").write_text(CLOCK)
    assert session("--cycles-update", new=SUITE).ret == 0
    names = [series.workload for *_, series in read(session.path / "kept/b.json").series()]
    assert names == ["inner/test_inner.py::test_clock", *INL]
    os.chdir(folder)
    done = session("..", "--durations=3")
    assert done.ret == 0
    done.stdout.fnmatch_lines(["*= cycles, ../kept/b.json =*", "3 tests, every figure as in*"])
    assert session().ret == 1  # this folder's only
    assert session("--cycles-baseline=").ret == 0
    assert session("--collect-only").ret == 0
    assert session("--fixtures").ret == 0
    (session.path / "kept/b.json").unlink()
    for options in (["--co"], ["--help"], ["--fixtures"], ["--markers"]):
        assert session(*options).ret == 0
    assert session().ret == 4


def test_without_a_terminal(gate):
    assert gate("-p", "no:terminal", before=SUITE).ret == 0
    assert gate("-p", "no:terminal", "-k", "eager").ret == 1


def test_under_xdist(gate):
    pytest.importorskip("xdist")
    done = gate("-n", "2", before=SUITE + CLOCK, apart=True)
    assert done.ret == 0
    done.stdout.fnmatch_lines(["3 tests, every figure as in the baseline", "*3 passed*"])
    failing = CLOCK.replace("1310000", "1311000") + "def test_dies():\n    import os; os._exit(1)\n"
    done = gate("-n", "1", new=SUITE + failing, apart=True)
    assert done.ret == 1
    # The figures of a worker that dies were sent before.
    assert cycles_lines(done) == [
        "CYCLES test_it.py::test_clock: 1310000 -> 1311000 (+1000, +0.0763%)"
    ]


# Where it is only installed


def test_without_pytest_benchmark(gate):
    done = gate("-p", "no:benchmark", before=SUITE + CLOCK)
    assert done.ret == 0
    done = gate("-p", "no:benchmark", new=SUITE + CLOCK.replace("1310000", "1"))
    assert done.ret == 1
    assert len(cycles_lines(done)) == 1


def python(code, folder, **env):
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | env
    env["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env)


def test_where_pytest_benchmark_cannot_be_imported(tmp_path):
    (tmp_path / "test_it.py").write_text(SUITE)
    code = """
import sys, pytest
sys.modules["pytest_benchmark"] = None
sys.exit(pytest.main(["-q", "-W", "error", "-p", "kvmbench.pytest_plugin"]))
"""
    done = python(code, tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_a_session_that_does_not_use_it_pays_nothing(tmp_path):
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    # kvmbench is there before pytest is: pytest would warn that it cannot rewrite its asserts.
    code = f"""
import sys, kvmbench, pytest
code = pytest.main(["-q", "-W", "error", *{PLUGIN}])
found = set(sys.modules) & {{"numpy", "msgspec", "kvmbench._core", "kvmbench.model"}}
assert "kvmbench.pytest_plugin" in sys.modules
sys.exit(code or " ".join(found) or 0)
"""
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
