"""The explorer next to SPIN on one model, in one run: `make bench`.

SPIN's verifier is built with -O2 and given a hash table of the right size, and the run alone is
timed. Its depth-first search is its faster one.
"""

import shutil
import subprocess

import pytest

from kvmbench import policies
from kvmbench.checker.verdict import check
from kvmbench.tests import spin

SIZES = (2, 3, 2)
GROUP = "check deferred, 2 CPUs x 3 tasks x 2 ports"
ONCE = dict(rounds=1, warmup_rounds=0, iterations=1)
MINUTES, MEMORY = 5, 8e9


def options(sizes, **more):
    return dict(zip(("cpus", "tasks", "ports"), sizes, strict=True), **more)


@pytest.fixture(scope="module")
def pan(tmp_path_factory):
    if not (shutil.which("spin") and shutil.which("gcc")):
        pytest.skip("needs spin and gcc (Debian: apt-get install spin gcc)")
    folder = tmp_path_factory.mktemp("spin")
    spin.build(policies()["deferred"], SIZES, folder, "-O2")
    return folder


@pytest.mark.parametrize("engine", ["kvmbench", "no symmetry", "SPIN"])
def test_deferred(benchmark, report, request, engine, pan):
    benchmark.group = GROUP
    if engine == "SPIN":
        report.ratio(request.config, GROUP, "SPIN", 3)
        found = benchmark.pedantic(spin.run, (pan, "-m10000000", "-w26"), **ONCE)
        states = int(found.states)
    else:
        chosen = options(SIZES, symmetry=engine == "kvmbench")
        found = benchmark.pedantic(check, (policies()["deferred"],), chosen, **ONCE)
        assert found.verdict == "safe"
        states = int(found.states)
    rate = states / benchmark.stats.stats.min
    report.figure(f"{GROUP}: {states:,} states", engine, f"{rate / 1e6:.2f} M/s", "-", True)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [*((name, SIZES) for name in policies()), ("eager", (3, 4, 1)), ("deferred", (3, 4, 1))],
    ids=lambda value: value if isinstance(value, str) else "x".join(map(str, value)),
)
def test_decided(report, name, sizes):
    verdict = check(policies()[name], **options(sizes))
    assert verdict.verdict == "safe"
    memory = f"{verdict.memory_bytes / 1e6:.0f} MB"
    figure = f"{verdict.states:,} states, {verdict.seconds:.1f} s, {memory}"
    met = verdict.seconds <= 60 * MINUTES and verdict.memory_bytes <= MEMORY
    report.figure(f"check {name}, {'x'.join(map(str, sizes))}", "-", figure, "5 min, 8 GB", met)


def test_spin_is_the_debian_one(pan):
    said = subprocess.run(["spin", "-V"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("Spin Version 6.")
