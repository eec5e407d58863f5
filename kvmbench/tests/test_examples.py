"""The example programs do what their first lines say, on figures computed by hand."""

import importlib.util
import subprocess
import sys

import pytest

from kvmbench import load_scenario, profiles
from kvmbench.tests import consoles

EXAMPLES = consoles.ROOT / "examples"
pytestmark = pytest.mark.skipif(
    not EXAMPLES.exists(), reason="an installed package has no examples"
)


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ltr_sweep(tmp_path):
    pytest.importorskip("matplotlib")
    program = example("ltr_sweep")
    saved = program.sweep(costs=[0, 462])
    # Per return to userspace: a store of 20 and LTR before, a mark of 2 after.
    rest = 6689 - 20 - 462
    assert saved["inl_from_qemu"] == pytest.approx(
        [100 * 18 / (rest + 20), 100 * 480 / 6689], rel=1e-12
    )
    assert saved["inl_from_kernel"] == [0, 0]
    program.plot(saved, tmp_path / "ltr.svg", costs=[0, 462])
    assert (tmp_path / "ltr.svg").read_text().count("LTR, cycles") >= 1
    base = profiles()["patch-2017"]
    assert base.origin("costs.ltr").basis == "fitted"  # the sweep changed copies


def test_capacity_planner(monkeypatch):
    pytest.importorskip("pandas")
    program = example("capacity_planner")
    monkeypatch.setattr(program, "SECONDS", 0.001)
    found = program.plan(("io-heavy", "deferred"))
    host = load_scenario("io-heavy").with_value("seconds", 0.001)
    percent = host.compare("eager", "deferred").worth.percent
    assert percent > 0
    assert found["cores"] == pytest.approx(percent / 100 * host.cpus * program.FLEET["io-heavy"])


def test_capacity_planner_prints_its_table():
    pytest.importorskip("pandas")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "capacity_planner.py"],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["policy", "deferred", "exit-to-user"]
    hosts = ["oversubscribed", "io-heavy", "ioperm-desktop"]
    assert [line.split()[0] for line in lines[2:5]] == hosts
