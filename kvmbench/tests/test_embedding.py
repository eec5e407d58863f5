"""The core in other people's programs: pickles, pointers, and the examples, which all run."""

import importlib.util
import os
import pickle
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kvmbench
from kvmbench import Machine
from kvmbench.arrays import OP_DTYPE
from kvmbench.cli.main import main
from kvmbench.scenario.scenario import scenarios
from kvmbench.tests import histories
from kvmbench.tests.histories import History, core_state, reference_state

ROOT = Path(kvmbench.get_include())
EXAMPLES = ROOT / "examples"
in_tree = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="an installed package has no examples"
)


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Pickles


def run_all(machine, history):
    at = 0
    for stop in (*np.flatnonzero(history.refused), len(history.ops)):
        machine.run(history.ops[at:stop])
        at = stop + 1


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    policy=histories.POLICIES,
    profile=histories.profiles(),
    vendor=histories.VENDORS,
    seed=st.integers(0, 2**32),
)
def test_a_pickle_goes_on_as_the_machine_would(policy, profile, vendor, seed):
    model = histories.reference(2, 3, policy, profile, vendor)
    machine = Machine(2, 3, policy, profile, vendor)
    run_all(machine, History(model, len(profile.kinds), seed, 200))
    copy = pickle.loads(pickle.dumps(machine))
    assert core_state(copy) == core_state(machine)
    assert (copy.policy, copy.profile, copy.vendor) == (policy, profile, vendor)
    run_all(copy, History(model, len(profile.kinds), seed + 1, 200))
    assert core_state(copy) == reference_state(model)


def step_in_another_process(machine):
    machine.exit(0, "inl_from_qemu")
    return machine


def test_process_pool():
    machine = Machine(1, 1, "deferred", "patch-2017")
    machine.switch(0, 0)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        (returned,) = pool.map(step_in_another_process, [machine])
    assert machine.cpu["cycles"][0] == 2000
    assert returned.cpu["cycles"][0] == 2000 + 6209


def test_a_pickle_holds_bitmaps_only_where_there_are_any():
    machine = Machine(64, 256, "deferred", "patch-2017")
    bare = len(pickle.dumps(machine))
    assert bare < 64 * 8193 / 10
    machine.switch(0, 0)
    machine.ioperm(0, 0x378, 3)
    assert 8193 + 8192 <= len(pickle.dumps(machine)) - bare < 8193 + 8192 + 2000


# Examples in Python


@in_tree
def test_simpy_host():
    pytest.importorskip("simpy")
    host = example("simpy_host")
    for policy in ("eager", "deferred"):
        machine, exits = host.run(policy)
        counters = machine.counters
        assert counters["exits"].sum() > 1000
        # Each exit of a kind and each interrupt of a switch is a VM exit; SimPy's last event of
        # each CPU may not have come to its end, but the Machine has charged it.
        interrupts = counters["puts"].sum() - counters["user_exits"].sum()
        assert counters["exits"].sum() == sum(exits.values()) + interrupts
        assert counters["user_exits"].sum() == exits["inl_from_qemu"]
        assert counters["reloads"].sum() == (counters["puts"].sum() if policy == "eager" else 0)
        assert (machine.cpu["cycles"] <= host.DURATION + host.SLICE).all()


@in_tree
def test_numba_loop():
    pytest.importorskip("numba")
    n = 5000
    machine, total = example("numba_loop").run(n)
    ops = np.zeros(n, OP_DTYPE)
    state = 2017
    for i in range(n):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        ops["a"][i] = (state >> 33) % 8
    expected = Machine(1, 1, "deferred", "patch-2017")
    expected.switch(0, 0)
    expected.run(ops)
    assert core_state(machine) == core_state(expected)
    assert total == expected.cpu["cycles"][0] - 2000


@in_tree
@pytest.mark.parametrize("name", ["simpy_host", "numba_loop"])
def test_examples_print_what_they_found(name):
    pytest.importorskip(name.split("_")[0])
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "exits" in done.stdout
    assert done.stderr == ""


@in_tree
def test_a_policy_profile_and_workload_of_ones_own(monkeypatch):
    monkeypatch.chdir(EXAMPLES / "mine")
    command = "run --policy-file lazy.toml --before deferred --after lazy --ioperm on"
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == 0, result.output
    command = "run --profile ./mine.toml --workload-file ./mine.py rdmsr pair --format kut"
    result = CliRunner().invoke(main, command.split())
    # rdmsr as the profile says; the pair is cpuid and inl_from_qemu, eager with LTR at 900.
    assert result.output.splitlines()[:3] == ["Before:", "rdmsr 1250", f"pair {1291 + 7127}"]


# Compiled against an installed kvmbench


class Environment:
    """A virtual environment with this tree's package in its site-packages, as its wheel puts it.

    ci/package builds the wheel itself. All other packages are those of the running interpreter.
    """

    def __init__(self, home):
        self.home = home
        venv.create(home)
        self.python = home / "bin" / "python"
        (site,) = home.glob("lib/python*/site-packages")
        left_out = shutil.ignore_patterns("tests", "__pycache__")
        shutil.copytree(ROOT / "kvmbench", site / "kvmbench", ignore=left_out)
        paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (site / "others.pth").write_text("".join(f"{path}\n" for path in sorted(paths)))

    def run(self, *command, **options):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "KVMBENCH"))}
        clean["CFLAGS"] = "-O0"  # the compiler takes half as long
        options = dict(capture_output=True, text=True, cwd=self.home, env=clean) | options
        return subprocess.run([str(part) for part in command], **options)

    def build(self, source):
        return self.run(self.python, "setup.py", "-q", "build_ext", "--inplace", cwd=source)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("downstream"))


def sources(environment, name):
    copy = environment.home / name
    shutil.copytree(EXAMPLES / "cython_host", copy)
    return copy


@in_tree
def test_cython_host(environment):
    source = sources(environment, "host")
    done = environment.build(source)
    assert done.returncode == 0, done.stderr[-3000:]
    program = (
        "import host, kvmbench\n"
        "machine = kvmbench.Machine(1, 3, 'deferred', 'patch-2017')\n"
        "machine.switch(0, 0); machine.ioperm(0, 0x80, 1); machine.switch(0, -1)\n"
        "print(kvmbench.__file__)\n"
        "print(*host.round_robin(machine, 3, 10, 300_000, 7))\n"
    )
    done = environment.run(environment.python, "-c", program, cwd=source)
    assert done.returncode == 0, done.stderr[-3000:]
    where, found = done.stdout.splitlines()
    assert where.startswith(str(environment.home))

    machine = Machine(1, 3, "deferred", "patch-2017")
    machine.switch(0, 0)
    machine.ioperm(0, 0x80, 1)
    machine.switch(0, -1)
    state = 7
    for i in range(10):
        end = int(machine.cpu["cycles"][0]) + 300_000
        machine.switch(0, i % 3)
        while machine.cpu["cycles"][0] < end:
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            machine.advance(0, state >> 50)
            machine.exit(0, (state >> 33) % 8)
    exits, cycles = machine.counters["exits"][0], machine.cpu["cycles"][0]
    # Task 0 holds the port, ran last and lies inside the guest: a full limit only after a put.
    allowed = bool(machine.io_allowed(0, 0x80, 1))
    assert found == f"{exits} {cycles} {allowed}"


@in_tree
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("KB_API = 3 ", "KB_API = 4 ", "compiled for kvmbench C API 4, found 3: rebuild"),
        (
            "    uint64_t map_seq              # sequence of the map that tss_map holds\n",
            "    uint64_t more\n    uint64_t map_seq\n",
            "compiled for other records than kvmbench's: rebuild",
        ),
        (
            "    int32_t task                  # -1 = idle\n    uint32_t map_max",
            "    uint32_t map_max\n    int32_t task\n    uint32_t _was_map_max",
            "compiled for other records than kvmbench's: rebuild",
        ),
        (  # two of equal size change places
            "    uint64_t exits, user_exits, host_saves,",
            "    uint64_t exits, host_saves, user_exits,",
            "compiled for other records than kvmbench's: rebuild",
        ),
    ],
)
def test_other_records_fail_at_import(environment, old, new, message):
    source = sources(environment, f"drift{abs(hash(new))}")
    drifted = source / "kvmbench"
    drifted.mkdir()
    for path in (ROOT / "kvmbench").glob("*.pxd"):
        text = path.read_text()
        if path.name == "_steps.pxd":
            assert old in text
            text = text.replace(old, new)
        (drifted / path.name).write_text(text)
    (drifted / "__init__.py").touch()
    done = environment.run(
        *(environment.python, "-m", "cython", "-3", "-I", source, source / "host.pyx"), cwd=source
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shutil.rmtree(drifted)
    setup = "from setuptools import Extension, setup\n"
    setup += "host = Extension('host', ['host.c'], extra_compile_args=['-O0'])\n"
    setup += "setup(name='host', ext_modules=[host])\n"
    (source / "setup.py").write_text(setup)
    done = environment.build(source)
    assert done.returncode == 0, done.stderr[-3000:]
    done = environment.run(environment.python, "-W", "ignore", "-c", "import host", cwd=source)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"ImportError: {message}"


STEPS_PXD = (Path(kvmbench.__file__).parent / "_steps.pxd").read_text()


def test_layout_holds_every_field():
    """kb_layout_here() looks at each field of each record, so two of them cannot change places."""
    body = STEPS_PXD[STEPS_PXD.index("kb_layout_here() noexcept") :]
    body = body[: body.index("return mixed")]
    pointers = dict(re.findall(r"cdef (Kb\w+)\* (\w+) = &", body))
    structs = re.findall(r"^cdef struct (Kb\w+):.*\n((?:    .*\n)+)", STEPS_PXD, re.MULTILINE)
    fields = {name: re.sub(r"#.*", "", text) for name, text in structs if name != "KbRecords"}
    assert fields.keys() == pointers.keys()
    looked_at = set(re.findall(r"&(\w+\.\w+)", body))
    expected = {
        f"{pointers[name]}.{field}"
        for name, text in fields.items()
        for line in text.split("\n")
        for field in re.findall(r"(\w+)(?:\[.*?\])?(?:,|$)", line.strip())
        if field != "_unused"
    }
    assert {place for place in looked_at if not place.startswith("r.")} == expected
    assert len(expected) > 100


def test_the_row_of_a_cpu_is_found_in_one_place():
    """Machine and Host hold rows of counts and bitmaps, all as far apart as _steps.pxd says."""
    sources = [p for kind in ("*.pyx", "*.pxd") for p in Path(kvmbench.__file__).parent.rglob(kind)]
    found = [
        (path.name, words)
        for path in sources
        for words in re.findall(r"\bcpu \* (\w+)", path.read_text())
        if words != "sizeof"
    ]
    assert sorted(found) == [("_steps.pxd", "KB_TIMES_STRIDE"), ("_steps.pyx", "KB_MAP_STRIDE")]


def test_rows_lie_as_far_apart_after_a_scenario():
    """An odd number of cache lines, or random CPUs would share few of the cache's sets."""
    fresh = Machine(4, 0, "deferred", "patch-2017")
    used = scenarios()["ioperm-desktop"].with_value("seconds", 0.01).run("deferred").machine
    for machine in (fresh, used):
        rows = machine.cpu.view(np.uint64).reshape(-1, 8)[:, 7]  # KbCpu.times, its last 8 bytes
        assert set(np.diff(rows).tolist()) == {17 * 64}


@in_tree
def test_docs_include_the_examples():
    text = (ROOT / "docs" / "embedding.md").read_text()
    included = re.findall(r"<!-- (examples/\S+) -->\n```\w+\n(.*?)```", text, re.DOTALL)
    names = {name for name, _ in included}
    assert names == {
        *("examples/simpy_host.py", "examples/numba_loop.py"),
        *("examples/cython_host/host.pyx", "examples/cython_host/setup.py"),
    }
    for name, body in included:
        assert body == (ROOT / name).read_text(), name


@in_tree
def test_the_page_of_the_c_api_has_every_name_and_signature():
    page = (ROOT / "docs" / "c-api.md").read_text()
    public = (Path(kvmbench.__file__).parent / "__init__.pxd").read_text()
    names = set(re.findall(r"\b(?:KB_|Kb|kb_)\w+", public))
    assert names - set(re.findall(r"\w+", page)) == set()
    declared = "".join(
        (Path(kvmbench.__file__).parent / f"{name}.pxd").read_text()
        for name in ("_steps", "_ports")
    )
    declared = re.sub(r"cdef (?:inline )?", "", " ".join(declared.split()))
    blocks = re.findall(r"```cython\n(.*?)```", page, re.DOTALL)
    signatures = [" ".join(s.split()) for s in re.split(r"\n(?! )", "".join(blocks)) if s]
    assert len(signatures) == len([name for name in names if name.startswith("kb_")])
    assert [s for s in signatures if s not in declared] == []
