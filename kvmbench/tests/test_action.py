"""action.yml's step and the recipes of docs/ci.md, run here as a CI would run them."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from junitparser import JUnitXml

from kvmbench.tests import consoles
from kvmbench.tests.command import ENV, SCRIPT, invoke

ACTION = consoles.ROOT / "action.yml"
if not ACTION.exists():
    pytest.skip("the package is installed without its README", allow_module_level=True)
PAGE = (consoles.ROOT / "docs" / "ci.md").read_text()


def step(tmp_path, **inputs):
    """Run the second step of action.yml; return its process, its outputs and its summary."""
    (run,) = re.findall(r"COMMAND: .*?run: \|\n(.*)\Z", ACTION.read_text(), re.DOTALL)
    files = {name: tmp_path / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for path in files.values():
        path.touch()
    path = f"{Path(SCRIPT).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", run], cwd=tmp_path, capture_output=True, text=True,
        env=ENV | {"PATH": path, "ACTION_PATH": str(consoles.ROOT)} | files | inputs,
    )  # fmt: skip
    outputs = dict(line.split("=") for line in files["GITHUB_OUTPUT"].read_text().splitlines())
    return done, outputs, files["GITHUB_STEP_SUMMARY"].read_text()


def test_a_regression_fails_the_step_and_is_in_the_summary(tmp_path):
    done, outputs, summary = step(
        tmp_path, COMMAND="run 'inl_from_q*' cpuid", BEFORE="", FOLDER="a"
    )
    assert (done.returncode, outputs["exit-code"]) == (0, "0"), done.stderr
    assert "| inl_from_qemu | 6689 | 6209 | -480 |" in summary
    # On costs with an LTR of 900 cycles, 438 more than patch-2017's, against the first run's file.
    (tmp_path / "dear.toml").write_text(
        'name = "dear"\nextends = "patch-2017"\n[costs]\nltr = 900\n'
        '[[provenance]]\nfigures = ["costs.ltr"]\nbasis = "assumed"\nsource = "this test"\n'
    )
    done, outputs, summary = step(
        tmp_path, COMMAND="run --profile ./dear.toml inl_from_qemu cpuid",
        BEFORE=outputs["result"], COMPARE="--fail-on '*:0%'", FOLDER="b",
    )  # fmt: skip
    assert (done.returncode, outputs["exit-code"]) == (3, "3"), done.stderr
    assert "| inl_from_qemu/eager | 6689 | 7127 | +438 |" in summary
    assert JUnitXml.fromfile(str(tmp_path / outputs["junit"])).failures == 1


def test_a_command_that_fails_is_the_steps_failure(tmp_path):
    done, outputs, summary = step(tmp_path, COMMAND="run no-such-row")
    assert (done.returncode, outputs, summary) == (2, {}, "")
    assert "no-such-row" in done.stderr
    assert not list(tmp_path.glob("kvmbench/*"))


@pytest.mark.parametrize("recipe", [".gitlab-ci.yml", "Jenkinsfile"])
def test_recipes(recipe, folder):
    (text,) = re.findall(rf"```\w+\n(?:#|//) {re.escape(recipe)}\n(.*?)```", PAGE, re.DOTALL)
    lazy = consoles.ROOT / "examples" / "mine" / "lazy.toml"
    (folder / "policy.toml").write_text(lazy.read_text())
    assert invoke("run", "--policy-file", "policy.toml", "-o", "baseline.json").exit_code == 0
    found = re.findall(r"kvmbench ((?:run|compare) .*?)[\"']?$", text, re.MULTILINE)
    assert [words.split()[0] for words in found] == ["run", "compare"]
    for words in found:
        done = invoke(*shlex.split(words))
        assert done.exit_code == 0, done.output
    report = JUnitXml.fromfile("junit.xml")
    assert (report.tests > 0, report.failures, report.errors) == (True, 0, 0)
