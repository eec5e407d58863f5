"""The skips that CI accepts, in sessions of pytest with this folder's hooks."""

import pytest

pytest_plugins = ["pytester"]
HOOKS = """
from kvmbench.tests.conftest import pytest_make_collect_report, pytest_runtest_makereport
"""
SKIPS = """
import pytest
def test_accepted():
    pytest.skip("benchstat is not on PATH")
def test_longer():
    pytest.skip("benchstat is not on PATH and so on")
@pytest.mark.skipif(True, reason="a Tuesday")
def test_mark():
    pass
@pytest.fixture
def none():
    pytest.importorskip("no_such_module")
def test_fixture(none):
    pass
@pytest.mark.xfail(reason="a Tuesday", strict=True)
def test_xfail():
    assert 0
"""
MODULE = """
import pytest
pytest.skip("a Tuesday", allow_module_level=True)
"""


@pytest.fixture
def session(pytester, monkeypatch):
    """Run pytest on two files whose tests skip, with CI as given; return what it found."""
    pytester.makeconftest(HOOKS)
    pytester.makepyfile(test_skips=SKIPS, test_module=MODULE)
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)

    def run(ci, *arguments):
        monkeypatch.setenv("CI", ci)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-rfE", *arguments)

    return run


def test_in_ci_a_skip_fails_unless_its_reason_is_listed(session):
    done = session("true", "-n", "1", "--continue-on-collection-errors")
    assert done.ret == 1
    names = {line.split(" - ")[0] for line in done.stdout.lines if " - " in line}
    assert names == {
        "FAILED test_skips.py::test_longer",
        "ERROR test_skips.py::test_mark",
        "ERROR test_skips.py::test_fixture",
        "ERROR test_module.py",
    }
    assert done.parseoutcomes() == dict(failed=1, errors=3, skipped=1, xfailed=1)
    done.stdout.fnmatch_lines(["*test_skips.py:*: CI accepts no skip because of: a Tuesday"])


def test_elsewhere_every_skip_is_accepted(session):
    done = session("false")
    assert done.ret == 0
    assert done.parseoutcomes() == dict(skipped=5, xfailed=1)
