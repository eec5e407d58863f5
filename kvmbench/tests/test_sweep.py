"""Sweeps: the same file from any engine and after any kill, and figures that others compute."""

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace

import jsonschema
import msgspec
import pytest

import kvmbench
from kvmbench import Policy, SweepError, load_points, load_scenario, policies, profiles, sweep
from kvmbench.catalog import policy_toml
from kvmbench.errors import FileError, ResultError
from kvmbench.sweeps import engines, search
from kvmbench.sweeps.design import Range, find_design, load_design
from kvmbench.sweeps.document import SCHEMAS, means
from kvmbench.sweeps.engines import sliced
from kvmbench.sweeps.jobs import Runner, again
from kvmbench.sweeps.points import join_points
from kvmbench.tests import consoles
from kvmbench.tests.command import ENV, interrupted, invoke

FILE = """\
before = "every-exit"

[axes]
scenario = ["oversubscribed", "io-heavy"]
seconds = 0.001
costs.ltr = {from = 100, to = 500, n = 3}
"vm.guest_us" = [20, 12.5]
policy = ["deferred", "exit-to-user"]
"""
CLASH = {  # each value is in range, and together they are not
    "axes": {"scenario": "io-heavy", "clock_hz": [10**9, 10**12], "timeslice_us": [1, 3000],
             "epoch_us": 1, "seconds": 1e-5}
}  # fmt: skip
SLOW = FILE.replace("0.001", "0.05").replace("500, n = 3", "390, n = 30")


@pytest.fixture
def design(folder):
    (folder / "design.toml").write_text(FILE)
    return folder / "design.toml"


@pytest.fixture
def whole(design, folder):
    """Return the bytes of the design's file, computed in this process alone."""
    sweep(design, folder / "whole.jsonl", processes=1)
    return (folder / "whole.jsonl").read_bytes()


# Points


def test_points_are_the_comparisons(design, whole, folder):
    points = load_points(folder / "whole.jsonl")
    assert repr(points) == "<Points whole.jsonl: 24 of 24>"
    assert len(points.rows) == 2 * 3 * 2 * 2
    assert [row["point"] for row in points.rows] == list(range(24))
    for row in random.Random(1).sample(points.rows, 5):
        host = load_scenario(row["scenario"]).with_value("seconds", 0.001)
        host = host.with_value("vm.guest_us", row["vm.guest_us"])
        costs = profiles()["patch-2017"].with_costs(ltr=row["costs.ltr"], source="here")
        found = host.compare("every-exit", row["policy"], costs)
        assert (row["worth"], row["worth_error"]) == tuple(found.worth)
        assert row["share_tr_after"] == found.after.share("tr")
        assert row["cycles"] == 10**6 * sum(found.after.acted) / sum(found.after.useful)
        assert (row["kvmbench"], row["seed"]) == (kvmbench.__version__, 1)


@pytest.mark.parametrize(
    "content",
    [
        {"axes": {"scenario": "io-heavy", "seconds": 0.001, "costs.mark": 7, "seed": 9}},
        {"axes": {"workload": "inl_from_qemu", "costs.ltr": 1000, "ioperm": "on"}},
        {"axes": {"policy": "eager", "tasks": 2, "ports": 1}, "job": "check"},
    ],
)
def test_a_line_is_all_that_a_point_needs(content, folder, monkeypatch):
    (row,) = sweep(content, folder / "a.jsonl", processes=1).rows
    line = (folder / "a.jsonl").read_text()
    for module in (engines, sys.modules["kvmbench.catalog"]):  # the built-in ones are not asked
        monkeypatch.setattr(module, "policies", dict, raising=False)
    figures = again(json.loads(line))
    assert figures
    assert {name: row[name] for name in figures} == figures


def test_jobs_other_than_scenarios(folder):
    content = {"axes": {"workload": ["cpuid", "inl_from_qemu"], "costs.ltr": [462, 562]}}
    rows = sweep(content, folder / "w.jsonl").rows
    # patch-2017: the changelog's cycles; of 100 more cycles for LTR only eager pays.
    assert [row["cycles_before"] for row in rows] == [1291, 1291, 6689, 6789]
    assert [row["change"] for row in rows] == [0, 0, -480, -580]
    content = {"job": "check", "axes": {"policy": ["eager", "deferred"], "tasks": 2, "ports": 1}}
    assert [row["verdict"] for row in sweep(content, folder / "c.jsonl").rows] == ["safe"] * 2


def test_policies_from_files_and_objects(folder):
    (folder / "mine.toml").write_text('[a]\nvcpu_put = ["reload"]\n[b]\nvcpu_put = ["ltr"]\n')
    (folder / "design.toml").write_text(
        '[axes]\nworkload = "cpuid"\npolicy = ["mine.toml", "eager"]\n'
    )
    assert [p.name for p in load_design(folder / "design.toml").policies] == ["a", "b", "eager"]
    own = Policy("a", vm_exit=("ltr",))
    content = {"axes": {"workload": "cpuid", "policy": [own, folder / "mine.toml"]}}
    with pytest.raises(ValueError, match=r"^axes\.policy: two policies are named 'a'$"):
        find_design(content)


# The same bytes


def test_every_engine_writes_the_same_bytes(design, whole, folder, monkeypatch):
    monkeypatch.setattr(engines, "ALONE", 0)
    monkeypatch.setattr(engines, "CHUNK", 0.001)
    seen = []
    sweep(design, folder / "two.jsonl", processes=2, progress=lambda *n: seen.append(n))
    assert (folder / "two.jsonl").read_bytes() == whole
    assert seen[-1] == (24, 24)
    assert seen == sorted(seen)
    for n in (3, 7, 40):  # fewer and more than the 12 rows
        parts = [folder / f"{k}-{n}.jsonl" for k in range(1, n + 1)]
        for k, part in enumerate(parts, 1):
            sweep(design, part, processes=1, slice=(k, n))
        random.Random(n).shuffle(parts)
        assert join_points(parts, folder / "joined.jsonl") == 24
        assert (folder / "joined.jsonl").read_bytes() == whole
    with pytest.raises(ResultError, match=r"of 24 points are in these files; point \d+ is in none"):
        join_points(parts[1:], folder / "joined.jsonl")


def test_files_that_are_not_joined(whole, folder):
    (folder / "torn.jsonl").write_bytes(whole[:-5])
    (folder / "other.jsonl").write_bytes(
        Runner(find_design({"axes": {"workload": "cpuid"}})).line(0)
    )
    (folder / "empty.jsonl").touch()
    for names, message in (
        (["torn"], r"torn\.jsonl: its last line is torn"),
        (["whole", "other"], r"other\.jsonl:1: a point of another design"),
        (["empty"], r"^0 of 0 points are in these files"),
    ):
        with pytest.raises(ResultError, match=message):
            join_points([folder / f"{name}.jsonl" for name in names], folder / "joined.jsonl")
        assert not (folder / "joined.jsonl").exists()


@pytest.mark.parametrize("threads", [1, 2])
def test_forks_and_a_loaded_process(design, whole, folder, monkeypatch, threads):
    listdir = os.listdir
    monkeypatch.setattr(
        os, "listdir", lambda path: "1" * threads if "task" in str(path) else listdir(path)
    )
    monkeypatch.setattr(engines, "ALONE", 0)
    if threads == 1 and len(listdir("/proc/self/task")) > 1:
        program = "import sys, kvmbench.sweeps.engines as e\ne.ALONE = 0\n"
        program += "e.sweep(*sys.argv[1:], processes=2)"
        command = [sys.executable, "-c", program, str(design), "a.jsonl"]
        subprocess.run(command, env=ENV | {"OPENBLAS_NUM_THREADS": "1"}, check=True)
    else:
        sweep(design, "a.jsonl", processes=2)
    assert (folder / "a.jsonl").read_bytes() == whole


def test_points_in_any_order_become_the_designs(design, whole, folder, monkeypatch):
    def backwards(made, points, **_):
        runner = Runner(made)
        yield from ([(point, runner.line(point))] for point in reversed(points))

    monkeypatch.setattr(engines, "computed", backwards)
    sweep(design, folder / "back.jsonl")
    assert (folder / "back.jsonl").read_bytes() == whole


def test_a_file_torn_at_any_place_goes_on(design, whole, folder):
    path = folder / "torn.jsonl"
    rng = random.Random(7)
    end = whole.index(b"\n")
    for cut in (0, 1, 5, end, end + 1, *rng.sample(range(len(whole)), 9)):
        zeros = b"\0" * 50 if cut == end + 1 else b""
        path.write_bytes(whole[:cut] + zeros)
        done = []
        sweep(design, path, processes=1, progress=lambda n, _, done=done: done.append(n))
        assert path.read_bytes() == whole
        kept = whole[:cut].count(b"\n")
        assert (done[0] if done else 24) > kept or kept == 24
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[5:9] + lines[20:]))  # out of order, and some missing
    sweep(design, path)
    assert path.read_bytes() == whole


def test_kill_9_and_again(folder):
    (folder / "design.toml").write_text(SLOW)
    command = [sys.executable, "-m", "kvmbench", "sweep", "design.toml", "-o", "p.jsonl"]
    with subprocess.Popen([*command, "--processes", "2"], env=ENV, start_new_session=True) as run:
        end = time.monotonic() + 60
        while not (folder / "p.jsonl").exists() or (folder / "p.jsonl").stat().st_size < 50_000:
            assert run.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        os.killpg(run.pid, signal.SIGKILL)
    begun = (folder / "p.jsonl").read_bytes()
    assert 10 < begun.count(b"\n") < 240
    result = invoke("sweep", "design.toml", "-o", "p.jsonl")
    assert result.stderr == "kvmbench: 240 points are in p.jsonl\n"
    sweep(folder / "design.toml", folder / "q.jsonl", processes=1)
    assert (folder / "p.jsonl").read_bytes() == (folder / "q.jsonl").read_bytes()
    again_said = invoke("sweep", "design.toml", "-o", "p.jsonl").stderr
    assert again_said == "kvmbench: p.jsonl had all of its points\n"


def test_ctrl_c_names_the_command_that_goes_on(folder):
    (folder / "design.toml").write_text(SLOW.replace("390, n = 30", "3099, n = 3000"))
    words = ("sweep", "design.toml", "-o", "my points.jsonl", "--processes", "1")
    code, out, err = interrupted(*words, cwd=folder, cpu_seconds=0.7)
    assert (code, out) == (130, "")
    first, second = err.splitlines()
    assert first.endswith("are in my points.jsonl; go on with: kvmbench sweep design.toml "
                          "-o 'my points.jsonl' --processes 1")  # fmt: skip
    assert second == "kvmbench: stopped"
    assert (folder / "my points.jsonl").read_bytes().endswith(b"}\n")


def test_a_process_that_is_killed(design, folder, monkeypatch):
    monkeypatch.setattr(engines, "ALONE", 0)

    class Killed(engines._Workers):
        def __init__(self, *given):
            super().__init__(*given)
            for pid in self.pids:
                os.killpg(pid, signal.SIGKILL)

    monkeypatch.setattr(engines, "_Workers", Killed)
    with pytest.raises(SweepError, match="a process of the sweep has ended"):
        sweep(design, folder / "a.jsonl", processes=2)


def test_a_point_that_fails_is_named(folder, monkeypatch):
    monkeypatch.setattr(engines, "ALONE", 0)
    with pytest.raises(SweepError, match=r"^point \d \(.*clock_hz 1000000000000.*timeslice_us is"):
        sweep(CLASH, folder / "a.jsonl", processes=2)


def test_one_sweep_writes_a_file(design, folder):
    def late(*_):
        with pytest.raises(ResultError, match=r"another sweep is writing it$"):
            sweep(design, folder / "a.jsonl")

    sweep(design, folder / "a.jsonl", processes=1, progress=late)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"notes of mine\n", ":1: is no point of a sweep: choose another file"),
        (b"notes of mine", ":1: is no point of a sweep: choose another file"),
        ("other", ":1: a point of another design, or of another version of kvmbench"),
        ("damaged", ":1: a damaged line: remove it, and the sweep computes its point again"),
    ],
)
def test_files_that_a_sweep_leaves_alone(design, whole, folder, content, message):
    if content == "damaged":
        content = whole.replace(b'"job":', b'"job"', 1)
    elif content == "other":
        other = find_design({"axes": {"workload": "cpuid"}})
        content = Runner(other).line(0)
    (folder / "a.jsonl").write_bytes(content)
    with pytest.raises(ResultError, match=f"a.jsonl{message}"):
        sweep(design, folder / "a.jsonl")
    assert (folder / "a.jsonl").read_bytes() == content


def test_a_check_is_bounded_by_its_share_of_memory(folder, monkeypatch):
    content = {"job": "check", "axes": {"policy": ["deferred", "exit-to-user"]}}
    monkeypatch.setattr(engines, "default_memory", lambda: 40_000_000)
    for alone in (0, engines.ALONE):  # two processes; this one, before it starts others
        monkeypatch.setattr(engines, "ALONE", alone)
        with pytest.raises(SweepError, match=r"limit of 0\.02 GB at .* use fewer processes"):
            sweep(content, folder / "a.jsonl", processes=2)
    few = find_design({"job": "check", "max_states": 1000, "axes": {"policy": "deferred"}})
    assert json.loads(Runner(few).line(0))["verdict"] == "undecided"


# Dask


def test_dask_writes_the_same_bytes(design, whole, folder):
    pytest.importorskip("distributed", reason="Dask is not installed")
    program = (
        "import sys, kvmbench\n"
        "if __name__ == '__main__':\n"
        "    kvmbench.sweep(*sys.argv[1:], scheduler='local', processes=2)\n"
    )
    (folder / "program.py").write_text(program)
    command = [sys.executable, "program.py", str(design), "dask.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "dask.jsonl").read_bytes() == whole


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Yield the address of a scheduler with two workers, and a function that starts one more."""
    pytest.importorskip("distributed", reason="Dask is not installed")
    where = tmp_path_factory.mktemp("cluster")
    place = ["--scheduler-file", "scheduler.json"]
    local = ["--host", "127.0.0.1", "--no-dashboard"]
    running = []

    def start(program, *options):
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *place, *local]
        with open(where / "log", "a") as log:
            running.append(
                subprocess.Popen([*command, *options], env=ENV, cwd=where, stdout=log, stderr=log)
            )

    def worker(*options):
        start("worker", "--no-nanny", *options)

    try:
        start("scheduler", "--port", "0")
        for _ in range(2):
            worker("--nthreads", "4", "--memory-limit", "400MB")
        end = time.monotonic() + 60
        while not (where / "scheduler.json").exists() or not (where / "scheduler.json").read_text():
            assert time.monotonic() < end, (where / "log").read_text()
            time.sleep(0.05)
        yield json.loads((where / "scheduler.json").read_text())["address"], worker
    finally:
        for process in running:
            process.kill()
            process.wait()


def joined(address, workers):
    """Wait until a cluster has so many workers."""
    from distributed import Client

    with Client(address) as client:
        client.wait_for_workers(workers, timeout=60)


def test_a_cluster_started_elsewhere_writes_the_same_bytes(cluster, design, whole, folder):
    address, _ = cluster
    joined(address, 2)
    result = invoke("sweep", "design.toml", "-o", "c.jsonl", "--scheduler", address)
    assert result.exit_code == 0, result.stderr
    assert (folder / "c.jsonl").read_bytes() == whole


def test_errors_of_a_clusters_workers(cluster, folder):
    address, _ = cluster
    with pytest.raises(SweepError, match=r"^point \d \(.*timeslice_us is"):
        sweep(CLASH, folder / "a.jsonl", scheduler=address)
    # A quarter of 300 MB, which are 3/4 of the limit, less a quarter of the worker's own memory.
    large = {"job": "check", "axes": {"policy": "exit-to-user", "cpus": 3, "tasks": 6, "ports": 4}}
    with pytest.raises(SweepError, match=r"limit of 0\.0[2-7]\d* GB at .* use fewer processes"):
        sweep(large, folder / "b.jsonl", scheduler=address)


def test_a_clusters_worker_of_another_version_is_refused(cluster, design, folder):
    address, worker = cluster
    (folder / "old.py").write_text("import kvmbench\nkvmbench.__version__ = '0.0.9'\n")
    (folder / "none.py").write_text("import sys\nsys.modules['kvmbench'] = None\n")
    for preload in ("old.py", "none.py"):
        worker("--nthreads", "1", "--preload", str(folder / preload))
    joined(address, 4)
    result = invoke("sweep", design, "-o", "v.jsonl", "--scheduler", address)
    assert result.exit_code == 1
    assert f"workers of another kvmbench than {kvmbench.__version__}: " in result.stderr
    for version in ("0.0.9", "none"):
        assert f"{version} on tcp://127.0.0.1:" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (folder / "v.jsonl").exists()
    old = replace(find_design({"axes": {"workload": "cpuid"}}), version="0.0.9")
    with pytest.raises(SweepError, match=r"^this process has kvmbench .*, and the design is of"):
        Runner(old)


# Designs


def test_grid_and_values():
    found = find_design({"axes": {"scenario": "io-heavy", "costs.ltr": {"from": 0, "to": 1, "n": 2},
                                  "seconds": {"from": 0.1, "to": 0.4, "n": 4}}})  # fmt: skip
    rows = [found.row(i) for i in range(found.n_rows)]
    assert [row["seconds"] for row in rows] == [0.1, 0.2, 0.3, 0.4] * 2
    assert [row["costs.ltr"] for row in rows] == [0] * 4 + [1] * 4


def test_a_sample():
    content = {
        "axes": {"scenario": ["io-heavy", "oversubscribed"], "costs.ltr": {"from": 3, "to": 6},
                 "vm.guest_us": {"from": 1.0, "to": 2.0}, "policy": ["eager", "deferred"]},
        "sample": {"draws": 400, "seed": 5},
    }  # fmt: skip
    found = find_design(content)
    assert (found.n_rows, found.n_points) == (400, 800)
    rows = [found.row(i) for i in range(400)]
    for value in (3, 4, 5, 6):  # 4 equally likely integers: 100 +- 5 standard deviations of 8.7
        assert abs(sum(row["costs.ltr"] == value for row in rows) - 100) < 44
    assert abs(sum(row["scenario"].name == "io-heavy" for row in rows) - 200) < 50
    times = [row["vm.guest_us"] for row in rows]
    assert abs(sum(times) / 400 - 1.5) < 5 * 0.289 / 20
    assert min(times) >= 1
    assert max(times) < 2
    few = find_design(content | {"sample": {"draws": 9, "seed": 5}})
    assert [few.row(i) for i in range(9)] == rows[:9]
    other = find_design(content | {"sample": {"draws": 9, "seed": 6}})
    assert [other.row(i) for i in range(9)] != rows[:9]
    assert Range(0, 9).draw(2**64 - 1) == 9


def test_the_slices_of_a_design_are_its_points():
    found = find_design({"axes": {"scenario": "io-heavy", "seed": [1, 2, 3],
                                  "policy": ["eager", "deferred"]}})  # fmt: skip
    for n in (1, 2, 3, 4, 9):
        parts = [list(sliced(found, k, n)) for k in range(1, n + 1)]
        assert sorted(point for part in parts for point in part) == list(range(6))
    assert list(sliced(found, 2, 3)) == [2, 3]  # the policies of a host stay together
    with pytest.raises(ValueError, match=r"^slice is 4/3, not 1/N to N/N$"):
        sliced(found, 4, 3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[axes]", "[axis]", ":3: axis: unknown key 'axis'; did you mean 'axes'?"),
        ("costs.ltr", "costs.lrt", ":6: axes.costs.lrt: unknown axis 'costs.lrt'; did you mean "
                                   "'costs.ltr'?"),
        ("n = 3", "n = 2", None),
        ("n = 3", "n = 4", ":6: axes.costs.ltr: 233.33333333333334, not an integer"),
        (", n = 3", "", ":6: axes.costs.ltr: expected a list, or a table of from, to and n, found "
                        "{'from': 100, 'to': 500}"),
        ("0.001", "0", ":5: axes.seconds: 0 cycles, not in 1 to 2305843009213693952"),
        ("0.001", "'a'", ":5: axes.seconds: expected a number, found 'a'"),
        ('"vm.guest_us"', '"v.guest_us"', ":7: axes.v.guest_us: unknown axis 'v.guest_us'; did you "
                                          "mean 'vm.guest_us'?"),
        ('"deferred", ', '"defered", ', ":8: axes.policy: unknown policy 'defered'; did you mean "
                                        "'deferred'?"),
        ('"io-heavy"]', '"io-havy"]', ":4: axes.scenario: unknown scenario 'io-havy'; did you mean "
                                      "'io-heavy'?"),
        ('"io-heavy"]', '"./io.toml"]', ":4: axes.scenario: io.toml: No such file or directory"),
        ('"every-exit"', "[]", ":1: before: 0 values, not 1 to 1,000,000"),
        ("\n[axes]", "job = 'walk'\n[axes]", ":2: job: unknown job 'walk'; known: scenario, "
                                             "workload, check"),
        ("\n[axes]", "sample.draws = 0\n[axes]", None),
        ("seconds", "workload", None),
    ],
)  # fmt: skip
def test_designs_that_are_refused(folder, old, new, message):
    path = folder / "design.toml"
    assert old in FILE
    path.write_text(FILE.replace(old, new))
    if new == "n = 2":
        assert load_design(path).n_points == 16
        return
    with pytest.raises(FileError) as caught:
        load_design(path)
    assert message is None or str(caught.value).replace(f"{folder}/", "") == f"design.toml{message}"
    result = invoke("sweep", path, "-o", "a.jsonl")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert not (folder / "a.jsonl").exists()


# Shown


def rows(**changes):
    head = {"design": "0" * 16, "point": 0, "points": 8, "kvmbench": "1", "model_version": "1",
            "job": "scenario"}  # fmt: skip
    return [
        head | {"costs.ltr": ltr, "seed": seed, "policy": policy, "worth": ltr * seed / 100 + at,
                "verdict": "safe", "policy_text": "[x]\n"} | changes
        for ltr in (20, 10) for seed in (1, 3) for at, policy in enumerate(("p", "q"))
    ]  # fmt: skip


def test_means():
    p, q = means(rows(), "costs.ltr", "worth", "policy")
    assert (p.label, p.x, p.y, p.counts) == ("p", [10, 20], [0.2, 0.4], [2, 2])
    assert q.y == pytest.approx([1.2, 1.4])
    (alone,) = means(rows(), "policy", "worth", None)
    assert (alone.x, alone.y) == (["p", "q"], [pytest.approx(0.3), pytest.approx(1.3)])
    (none,) = means(rows(worth=None), "seed", "worth", None)
    assert none.y == [None, None]
    with pytest.raises(ValueError, match=r"^verdict is 'safe', not a number"):
        means(rows(), "seed", "verdict", None)


def test_show(folder, design, whole):
    result = invoke("sweep", "show", "whole.jsonl", "--x", "costs.ltr", "--by", "policy",
                    "--where", "scenario=io-heavy", "--where", "vm.guest_us=20")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert [line.split() for line in result.stdout.splitlines()[3:8]] == [
        ["costs.ltr", "deferred", "exit-to-user"], ["worth", "worth"],
        *([str(ltr), *2 * [f"{load(folder, ltr):.4g}"]] for ltr in (100, 300, 500)),
    ]  # fmt: skip
    made = json.loads(
        invoke("sweep", "show", "whole.jsonl", "--x", "seed", "--format", "json").stdout
    )
    jsonschema.validate(made, msgspec.json.schema(SCHEMAS["sweep"]))
    assert made["schema"] == "kvmbench.sweep/1"
    assert made["curves"][0]["points"] == 24
    page = invoke("sweep", "show", "whole.jsonl", "--x", "costs.ltr", "--by", "policy",
                  "--format", "html").stdout  # fmt: skip
    assert page.count("<svg") == 2  # the curves and the heat map
    said = invoke("sweep", "show", "whole.jsonl").stdout
    assert "costs.ltr    3  100, 300, 500" in said
    (folder / "part.jsonl").write_bytes(whole[: len(whole) // 2])
    assert "of 24: the sweep has not finished" in invoke("sweep", "show", "part.jsonl").stdout
    for words, message in (
        (["--x", "cost.ltr"], "unknown column 'cost.ltr'; did you mean 'costs.ltr'?"),
        (["--y", "worth"], "--y and --by need --x"),
        (["--x", "seed", "--where", "seed=4"], "no point has seed=4"),
        (["--x", "seed", "--y", "policy"], "policy is 'deferred', not a number"),
    ):
        result = invoke("sweep", "show", "whole.jsonl", *words)
        assert result.exit_code == 2
        assert message in result.stderr
    (folder / "no.jsonl").write_text("{}\n")
    assert "no.jsonl:1: is no point of a sweep" in invoke("sweep", "show", "no.jsonl").stderr


def load(folder, ltr):
    host = load_scenario("io-heavy").with_value("seconds", 0.001).with_value("vm.guest_us", 20)
    costs = profiles()["patch-2017"].with_costs(ltr=ltr, source="here")
    return host.compare("every-exit", "deferred", costs).worth.percent


def test_usage(folder, design):
    for words, code, message in (
        ([], 2, "Usage: kvmbench sweep"),
        (["design.toml"], 2, "expected DESIGN and -o FILE, or --find"),
        (["design.toml", "-o", "a", "--slice", "3/2"], 2, "'3/2' is not K/N, 1/N to N/N"),
        (["none.toml", "-o", "a"], 2, "none.toml: No such file or directory"),
        (["design.toml", "-o", "none/a"], 1, "none/a: No such file or directory"),
        (["design.toml", "-o", "/dev/null"], 1, "is no regular file"),
        (["--find", "least"], 2, "expected min or max, and a column"),
        (["join", "none", "-o", "a"], 1, "none: No such file or directory"),
    ):
        result = invoke("sweep", *words)
        assert result.exit_code == code, result.stderr
        assert message in result.stderr + result.stdout


# The search


def test_find_drops_the_step_that_is_not_needed():
    good = policies()["deferred"]
    (region,) = good.vcpu_put
    wasteful = replace(good, name="wasteful", vcpu_put=(("reload", *region),))
    host = load_scenario("ioperm-desktop").with_value("seconds", 0.02)
    found = search.find([wasteful], host, processes=1, cpus=1, tasks=2, ports=1)
    assert str(found).endswith("Checked on a machine of 1 CPU, 2 tasks, 1 port.")
    first, *others = found.rows
    assert (first["mutation"], first["verdict"], first["worth"]) == ("", "safe", 0)
    best = min((row for row in others if row["front"]), key=lambda row: row["cycles"])
    assert (best["mutation"], best["verdict"]) == ("vcpu_put: without 'reload'", "safe")
    saved = host.compare(wasteful, good)
    assert (best["worth"], best["worth_error"]) == tuple(saved.worth)
    assert (first["terms"], best["terms"]) == (22, 21)
    unsafe = {row["mutation"] for row in others if row["verdict"] == "unsafe"}
    assert "vcpu_put: without 'mark_stale if not tif'" not in unsafe  # the reload covers it
    assert "ioperm: without 'set_tif if first'" in unsafe
    cheaper = sum(row["verdict"] == "safe" and row["cycles"] < first["cycles"] for row in others)
    assert f"{cheaper} safe mutant" in " ".join(str(found).split())
    with pytest.raises(ValueError, match=r"^unknown column 'cycle'; did you mean 'cycles'\?"):
        search.find(["eager"], host, goal="min cycle", processes=1)


def test_find_as_a_command(folder, monkeypatch):
    twice = replace(policies()["eager"], name="mine", vcpu_put=("reload", "reload"))
    (folder / "mine.toml").write_text(policy_toml(twice))
    words = ("sweep", "--find", "min cycles", "--where", "safe", "--policy-file", "mine.toml",
             "--base", "mine", "--scenario", "quiet-host", "--processes", "1",
             "--cpus", "1", "--tasks", "2", "--ports", "1")  # fmt: skip
    made = json.loads(invoke(*words, "--format", "json").stdout)
    jsonschema.validate(made, msgspec.json.schema(SCHEMAS["sweep"]))
    # One reload is as safe as two, and half of the cycles.
    by_mutation = {row["mutation"]: row for row in made["policies"]}
    once = by_mutation["vcpu_put: without 'reload'"]
    assert (once["verdict"], once["front"]) == ("safe", True)
    assert once["cycles"] == pytest.approx(by_mutation[""]["cycles"] / 2, rel=0.01)
    result = invoke(*words, "--points", "found")
    assert result.exit_code == 0, result.stderr
    kept = {path: path.read_bytes() for path in (folder / "found").iterdir()}
    assert len(kept) == 2  # those simulated, those checked
    for path, content in kept.items():  # a kill, in the middle of a line
        path.write_bytes(content[:-100])
    assert invoke(*words, "--points", "found").stdout == result.stdout
    assert {path: path.read_bytes() for path in (folder / "found").iterdir()} == kept
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "line", None)  # whole files are not computed again
        assert invoke(*words, "--points", "found").stdout == result.stdout
    assert re.search(r"^mine: \d+ mutants?: \d+ safe", result.stdout, re.MULTILINE)
    for wrong in (("design.toml",), ("--base", "yours"), ("--find", "min nothing")):
        result = invoke(*words, *wrong)
        assert result.exit_code in (1, 2)
        assert result.stderr.count("\n") == 1 or "Usage" in result.stderr


def test_terms_are_steps_and_conditions():
    policy = Policy("a", vcpu_put=("reload if tif and not stale", ("ltr",)), switch=("ltr",))
    assert search.terms(policy) == 5


# The page


PAGE = consoles.ROOT / "docs" / "sweep.md"
needs_page = pytest.mark.skipif(
    not PAGE.exists(), reason="the package is installed without its README"
)


@needs_page
def test_the_pages_designs(folder):
    text = PAGE.read_text()
    blocks = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert blocks[0] == (consoles.ROOT / "examples" / "sweep.toml").read_text()
    (folder / "mine.toml").write_text("[mine]\nvcpu_put = ['reload']\n")
    for block, points in zip(blocks, (1000, 1000), strict=True):
        (folder / "design.toml").write_text(block)
        assert load_design(folder / "design.toml").n_points == points


@pytest.fixture
def few(folder):
    """Make points.jsonl of the page's design, with 100 points of a hundredth of the time."""
    text = (consoles.ROOT / "examples" / "sweep.toml").read_text()
    (folder / "examples").mkdir()
    (folder / "examples" / "sweep.toml").write_text(
        text.replace("seconds = 0.1", "seconds = 0.001").replace("to = 10, n = 10", "to = 1, n = 1")
    )
    return sweep("examples/sweep.toml", "points.jsonl")


@needs_page
@pytest.mark.parametrize("library", ["pandas", "polars", "duckdb"])
def test_the_points_load_as_they_are(few, library):
    pytest.importorskip(library)
    code = re.search(rf"<!-- {library} -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    names = {}
    exec(code, names)
    assert invoke("sweep", "show", "points.jsonl", "-o", "points.csv").exit_code == 0
    (read,) = re.findall(rf"`({library}\.[^`]*points\.csv[^`]*)`", PAGE.read_text())
    table = eval(read, names)
    worth = table.fetchnumpy()["worth"] if library == "duckdb" else table["worth"]
    assert [*worth] == pytest.approx([row["worth"] for row in few.rows], rel=1e-6)
    expected = [
        row["worth"] for row in few.rows if (row["costs.ltr"], row["policy"]) == (250, "deferred")
    ]
    expected = sum(expected) / len(expected)
    found = names["worth"]
    if library == "pandas":
        value = found.loc[250, "deferred"]
    elif library == "polars":
        value = found.filter(found["costs.ltr"] == 250)["deferred"].item()
    else:
        value = next(mean for ltr, policy, mean in found if (ltr, policy) == (250, "deferred"))
    assert value == pytest.approx(expected)


@needs_page
def test_the_pages_python(few):
    code = re.search(
        r"```python\n(from kvmbench import load_points.*?)```", PAGE.read_text(), re.DOTALL
    )
    names = {}
    exec(code[1].replace("processes=4", "processes=1"), names)
    assert len(names["rows"]) == 100


@needs_page
def test_the_pages_commands(few):
    commands = re.findall(
        r"^    (?:parallel )?kvmbench (sweep .*?)(?: +#.*)?$", PAGE.read_text(), re.M
    )
    assert len(commands) >= 5
    for command in commands:
        words = shlex.split(command.replace(" ::: $(seq 16)", "").replace("{}", "3"))
        if "--scheduler" in words or "part-*.jsonl" in words or "$SLURM_ARRAY_TASK_ID/16" in words:
            continue  # what needs a cluster or its jobs
        words = [word.replace("design.toml", "examples/sweep.toml") for word in words]
        result = invoke(*words)
        assert result.exit_code == 0, result.output
