"""Every Python that this package starts, in a folder and with a PYTHONPATH of strange modules."""

import os
import subprocess
import sys

import pytest

from kvmbench.interpreter import environment, isolated, python
from kvmbench.lab import image
from kvmbench.live.process import Process
from kvmbench.sweeps import engines

STRANGERS = ("json", "multiprocessing", "numpy", "msgspec", "random", "sitecustomize", "socket")
DESIGN = {"axes": {"workload": "cpuid", "costs.ltr": [1, 2, 3, 4], "policy": ["eager"]}}


@pytest.fixture(autouse=True)
def no_stranger_runs(tmp_path, monkeypatch):
    """Modules that leave a mark when they run, where no Python of ours may look for them."""
    mark = tmp_path / "mark"
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in STRANGERS:
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write('{name} ran')\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(sys, "path", [*sys.path, "", str(folder)])
    subprocess.run([sys.executable, "-c", "import json"], check=True)
    assert mark.read_text().endswith("json ran")  # they do run elsewhere
    mark.unlink()
    yield
    assert not mark.exists(), mark.read_text()


@pytest.mark.parametrize("packages", [False, True])
def test_the_command(packages):
    os.symlink(".", "../link")
    sys.path.insert(0, os.path.abspath("../link/hostile"))  # the current folder all the same
    program = f"import sys, {', '.join(STRANGERS[:-2] if packages else STRANGERS[:2])}\n"
    command = python(program + "print(sys.argv[1:])", "a b", packages=packages)
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("['a b']\n", "")


def test_the_labs_closure():
    found = image._closure(["kvmbench.lab.inside", "msgspec", "numpy"])
    assert os.getcwd() not in map(os.path.dirname, found)
    assert any(file.endswith("/json/__init__.py") for file in found)


def test_the_process_of_a_run():
    job = dict(cpu=0, other_cpu=None, tasks=[], rounds=1, limit=1, seconds=1, timeout=1, seed=1)
    process = Process(job | {"ioperm": False, "control": False})
    words = [line[0] for line in process.lines()]
    process.end()
    assert words[-1:] in (["end"], ["failed"])  # with /dev/kvm and without


def test_a_sweeps_loaded_process(monkeypatch, tmp_path):
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda at: "12" if "task" in str(at) else listdir(at))
    monkeypatch.setattr(engines, "ALONE", 0)
    monkeypatch.setattr(engines, "_forked", None)
    assert len(engines.sweep(DESIGN, tmp_path / "p.jsonl", processes=2).rows) == 4


def test_a_sweeps_own_cluster(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    path = [entry for entry in sys.path if entry not in ("", os.getcwd())]
    program = (
        f"import sys\nsys.path += {path}\nif __name__ == '__main__':\n"
        "    from kvmbench.sweeps import engines\n"
        f"    engines.sweep({DESIGN}, 'p.jsonl', scheduler='local', processes=1)\n"
    )
    (tmp_path / "start.py").write_text(program)
    monkeypatch.delenv("PYTHONPATH")  # for this process, which is no process of ours
    command = [sys.executable, str(tmp_path / "start.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_environment_comes_back(monkeypatch, tmp_path):
    """And what a user has on PYTHONPATH elsewhere is found meanwhile."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", os.getcwd(), str(tmp_path)]))
    before = dict(os.environ)
    with isolated():
        assert os.environ["PYTHONSAFEPATH"] == "1"
        assert os.environ["PYTHONPATH"] == environment()["PYTHONPATH"] == str(tmp_path)
    assert dict(os.environ) == before
