"""What all test files share: a folder per test, no deadlines, and the skips that CI accepts."""

import os
import re

import pytest
from hypothesis import settings

from kvmbench.tests.command import ENV

# The skips that CI accepts: a pattern of the whole reason, and why CI may do without the test.
# With CI=true in the environment a test that skips for another reason fails.
ACCEPTED = {
    r"benchstat is not on PATH": "a program in Go; the form it reads is tested without it",
    r"there is no /dev/kvm.*": "most hosted runners have none",
    r"needs (trace-cmd|perf) .*": "programs of a distribution; the forms they print are tested",
    r"perf may not record tracepoints here": "most containers and guests refuse it",
    r"the lab's emulator or its kernel is not in the cache.*": "ci/lab builds and runs it",
    r"could not import 'polars'.*": "170 MB for one example; pandas and duckdb read the same file",
    r"the notebook needs (nbclient|ipykernel)": "ci/docs installs them and runs it",
    r"an installed package has no (examples|setup\.py)": "the run in the source tree has them",
    r"the package is installed without its README": "the run in the source tree has it",
    r"AddressSanitizer needs an address space without limit": "the other builds run the test",
}
IN_CI = os.environ.get("CI", "") not in ("", "0", "false")

# How long one example of Hypothesis takes depends on the machine's load. In CI the examples are the
# same in each run: a change fails by itself, and new examples are found where people run the tests.
settings.register_profile("ours", settings(), deadline=None, derandomize=IN_CI)
settings.load_profile("ours")


def pytest_configure(config):
    config.addinivalue_line("markers", "statistics: minutes of simulated tables: -m statistics")


def pytest_collection_modifyitems(config, items):
    """Leave out the long simulations, which `make statistics` runs, unless -m names some mark."""
    if config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("statistics")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def _refuse_a_skip(report):
    """Make a failure of a skip whose reason CI does not accept."""
    if not (IN_CI and report.skipped) or hasattr(report, "wasxfail"):
        return
    path, line, reason = report.longrepr
    reason = reason.removeprefix("Skipped: ")
    if not any(re.fullmatch(pattern, reason, re.DOTALL) for pattern in ACCEPTED):
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: CI accepts no skip because of: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    report = yield
    _refuse_a_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    report = yield
    _refuse_a_skip(report)
    return report


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Run the test in its own folder and state folder, with no KVMBENCH_* of the caller."""
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(ENV):
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path
