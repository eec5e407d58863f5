"""Plans of boots: balanced, reproducible, resumable, and of the right kernel."""

import json
from collections import Counter

import pytest

from kvmbench import results
from kvmbench.comparison.verdicts import Side, compare
from kvmbench.errors import ResultError, WrongKernelError
from kvmbench.live import plan as plans
from kvmbench.live.plan import Kernel, due, make, record
from kvmbench.results import Boot, Host
from kvmbench.tests.results_maker import of_runs

OLD = Kernel(label="old", release="6.11", results="p-old.json")
NEW = Kernel(label="new", release="6.12", results="p-new.json")
HOSTS = (Host(kernel="6.11"), Host(kernel="6.12"))


def boot(name, value=1000.0):
    return Boot(id=name, runs=list(of_runs({"w": value}).boots[0].runs))


def orders(plan):
    sides = "".join("AB"[step.side] for step in plan.steps)
    return [sides[at : at + 4] for at in range(0, len(sides), 4)]


def test_blocks_are_balanced_and_drawn():
    plan = make((OLD, NEW), 200, seed=1)
    assert [step.block for step in plan.steps] == [b for b in range(1, 201) for _ in range(4)]
    found = Counter(orders(plan))
    assert set(found) == {"ABBA", "BAAB"}
    assert 60 < found["ABBA"] < 140  # 200 fair coins; the chance outside is 1e-8
    assert make((OLD, NEW), 200, seed=1) == plan
    assert orders(make((OLD, NEW), 200, seed=2)) != orders(plan)


def test_what_is_no_plan():
    with pytest.raises(ValueError, match=r"both kernels are 6\.11"):
        make((OLD, Kernel(label="x", release="6.11", results="x.json")), 1, 1)
    with pytest.raises(ValueError, match="both kernels are called 'old'"):
        make((OLD, Kernel(label="old", release="6.12", results="x.json")), 1, 1)


def test_the_running_kernel_must_be_the_planned_one():
    plan = make((OLD, NEW), 1, seed=1)
    first = plan.steps[0].side
    assert due(plan, HOSTS[first], "a") == 0
    with pytest.raises(WrongKernelError, match=rf"the running kernel is {HOSTS[1 - first].kernel}"):
        due(plan, HOSTS[1 - first], "a")
    with pytest.raises(WrongKernelError, match="not known"):
        due(plan, Host(), "a")


def test_words_of_the_command_line():
    on = Kernel(label="on", release="6.12", results="on.json")
    off = Kernel(label="off", release="6.12", words=["mitigations=off"], results="off.json")
    with_words = Host(kernel="6.12", cmdline="quiet mitigations=off")
    without = Host(kernel="6.12", cmdline="quiet mitigations=off,nosmt")  # another word
    for kernels in ((on, off), (off, on)):
        for seed in range(4):
            plan = make(kernels, 1, seed)
            right, wrong = (with_words, without) if plan.kernel(0) is off else (without, with_words)
            assert due(plan, right, "a") == 0
            with pytest.raises(WrongKernelError, match="mitigations=off"):
                due(plan, wrong, "a")


def test_the_same_boot_is_refused(tmp_path):
    path = tmp_path / "p.json"
    plan = make((OLD, NEW), 1, seed=1)
    plans.write(path, plan)
    plan = record(path, 0, boot("a"), "2026-01-01")
    with pytest.raises(WrongKernelError, match="this boot was step 1's: reboot"):
        due(plan, HOSTS[plan.steps[1].side], "a")


def test_a_kill_between_the_results_and_the_plan(tmp_path, monkeypatch):
    """The boot is in the results, the step is not done: doing it again adds nothing."""
    path = tmp_path / "p.json"
    plan = make((OLD, NEW), 1, seed=1)
    plans.write(path, plan)

    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(plans, "write", kill)
        with pytest.raises(KeyboardInterrupt):
            record(path, 0, boot("a", 1000.0), "2026-01-01")
    assert plans.read(path) == plan
    file = tmp_path / plan.kernel(0).results
    first = results.read(file)
    assert [b.id for b in first.boots] == ["a"]
    after = record(path, 0, boot("a", 2000.0), "2026-01-01")
    assert results.read(file) == first
    assert [step.boot for step in after.steps] == ["a", None, None, None]


def test_a_whole_plan_is_compared_by_block(tmp_path):
    """Old costs 1000 and new 990, and each boot 7 more than the last: all of it cancels."""
    path = tmp_path / "p.json"
    plan = make((OLD, NEW), 6, seed=3)
    plans.write(path, plan)
    for number in range(24):
        assert plan.next() == number
        side = plan.steps[number].side
        value = (1000.0, 990.0)[side] + 7 * number
        plan = record(path, number, boot(f"boot {number}", value), "2026-01-01")
    assert plan.next() is None
    sides = [Side(k.label, results.read(tmp_path / k.results)) for k in plan.kernels]
    comparison = compare(*sides)
    (found,) = comparison.rows
    assert comparison.replicates.level == "block"
    assert (found.units, found.shift, found.interval) == ((6, 6), -10, (-10, -10))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "kvmbench.plan/2"}, r"\$.schema: 'kvmbench.plan/2'"),
        ({"steps": []}, r"\$.steps"),
        ({"steps": [{"block": 1, "side": 2}]}, r"\$.steps\[0\].side"),
        ({"steps": [{"block": 0, "side": 1}]}, r"\$.steps\[0\].block"),
        ({"kernels": []}, r"\$.kernels"),
        ({"more": 1}, "more"),
    ],
)
def test_broken_plans(tmp_path, change, words):
    path = tmp_path / "p.json"
    plans.write(path, make((OLD, NEW), 1, seed=1))
    document = json.loads(path.read_text()) | change
    path.write_text(json.dumps(document))
    with pytest.raises(ResultError, match=words):
        plans.read(path)
