"""Plans of boots: balanced, reproducible, resumable, and of the right kernel."""

import errno
import json
import os
from collections import Counter
from contextlib import contextmanager, nullcontext
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from kvmbench import results
from kvmbench.cli import plan as plan_command
from kvmbench.comparison.verdicts import Side, compare
from kvmbench.errors import ResultError, WrongKernelError
from kvmbench.live import engine
from kvmbench.live import host as live_host
from kvmbench.live import plan as plans
from kvmbench.live.plan import Kernel, due, make, record
from kvmbench.results import Boot, Host, Result, Run, Series
from kvmbench.tests import command
from kvmbench.tests.results_maker import of_runs

OLD = Kernel(label="old", release="6.11", results="p-old.json")
NEW = Kernel(label="new", release="6.12", results="p-new.json")
HOSTS = (Host(kernel="6.11"), Host(kernel="6.12"))


def boot(name, value=1000.0):
    return Boot(id=name, runs=list(of_runs({"w": value}).boots[0].runs))


def orders(plan):
    sides = "".join("AB"[step.side] for step in plan.steps)
    return [sides[at : at + 2] for at in range(0, len(sides), 2)]


def test_pairs_are_balanced_and_drawn():
    plan = make((OLD, NEW), 200, seed=1)
    assert [step.block for step in plan.steps] == [b for b in range(1, 201) for _ in range(2)]
    found = Counter(orders(plan))
    assert set(found) == {"AB", "BA"}
    assert 60 < found["AB"] < 140  # 200 fair coins; the chance outside is 1e-8
    assert make((OLD, NEW), 200, seed=1) == plan
    assert orders(make((OLD, NEW), 200, seed=2)) != orders(plan)
    assert orders(plan)[:50] == orders(make((OLD, NEW), 50, seed=1))  # more pairs draw on


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
    assert [step.boot for step in after.steps] == ["a", None]


def done(path, plan, value):
    """Do all steps of a plan; `value` is of a side and a step's number."""
    for number in range(len(plan.steps)):
        assert plan.next() == number
        side = plan.steps[number].side
        plan = record(path, number, boot(f"boot {number}", value(side, number)), "2026-01-01")
    assert plan.next() is None
    sides = [Side(k.label, results.read(path.parent / k.results)) for k in plan.kernels]
    return compare(*sides)


def test_a_whole_plan_is_compared_by_pairs(tmp_path):
    """Old costs 1000 and new 990; the second boot of each pair 7 more."""
    path = tmp_path / "p.json"
    plan = make((OLD, NEW), 8, seed=3)
    plans.write(path, plan)
    comparison = done(path, plan, lambda side, number: (1000.0, 990.0)[side] + 7 * (number % 2))
    (found,) = comparison.rows
    assert (comparison.replicates.level, comparison.replicates.paired) == ("block", True)
    signs = [7 if order == "AB" else -7 for order in orders(plan)]
    assert found.units == (8, 8)
    assert found.interval == (-10 + min(signs), -10 + max(signs))
    assert "8 pairs of boots" in str(comparison)


def test_a_plan_of_abba_blocks_still_runs_and_compares(tmp_path):
    """As earlier versions wrote it. Each boot costs 7 more than the last: all of it cancels."""
    path = tmp_path / "p.json"
    order = ["ABBA", "BAAB", "BAAB", "ABBA", "BAAB", "ABBA"]
    steps = [
        {"block": block, "side": "AB".index(side)}
        for block, sides in enumerate(order, 1)
        for side in sides
    ]
    document = {"schema": "kvmbench.plan/1", "seed": 3, "arguments": [], "steps": steps}
    document["kernels"] = kernels("p-old.json", results="p-new.json")
    path.write_text(json.dumps(document))
    comparison = done(path, plans.read(path), lambda side, n: (1000.0, 990.0)[side] + 7 * n)
    (found,) = comparison.rows
    assert comparison.replicates.level == "block"
    assert (found.units, found.shift, found.interval) == ((6, 6), -10, (-10, -10))
    assert "6 blocks of alternating boots" in str(comparison)


def kernels(first, *, results):
    names = dict(zip(("old", "new"), (first, results), strict=True))
    return [dict(label=k, release=k, results=name) for k, name in names.items()]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "kvmbench.plan/2"}, r"\$.schema: 'kvmbench.plan/2'"),
        ({"steps": []}, r"\$.steps"),
        ({"steps": [{"block": 1, "side": 2}]}, r"\$.steps\[0\].side"),
        ({"steps": [{"block": 0, "side": 1}]}, r"\$.steps\[0\].block"),
        ({"kernels": []}, r"\$.kernels"),
        *(
            ({"kernels": kernels("p-old.json", results=name)}, r"\$\.kernels\[1\]: results is ")
            for name in ("/tmp/x.json", "../x.json", "a/x.json", ".x.json", "x", "\0.json", "")
        ),
        ({"kernels": kernels("x.json", results="x.json")}, "must be three files"),
        ({"kernels": kernels("p.json", results="x.json")}, "must be three files"),
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


# The commands


def invoke(*arguments):
    done = command.invoke(*arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def ok(*arguments):
    done = invoke(*arguments)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def refused(code, *arguments):
    """Return the one line on stderr of a command that ends with `code` and prints nothing."""
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
    return done.stderr


@pytest.fixture
def booted(monkeypatch):
    """Return a function that boots a kernel: of its release and the boot's number."""

    def boot(release, number):
        monkeypatch.setattr(live_host, "host", lambda: Host(kernel=release, cmdline="quiet"))
        monkeypatch.setattr(live_host, "boot_id", lambda: f"boot-{number}")

    return boot


@pytest.fixture
def measured(monkeypatch):
    """Stand in for the measurement: 1000 cycles of each workload, or those of 10 by default."""
    asked = []

    @contextmanager
    def measure(*, names, **options):
        asked.append(options | dict(names=names))
        listed = [Series(workload=name, kind="noisy", values=[1000.0]) for name in names or ("w",)]
        yield Result(boots=[Boot(runs=[Run(engine="kvm", series=listed)])])

    monkeypatch.setattr(plan_command, "measured", measure)
    return asked


def test_a_plan_from_end_to_end(folder, booted, measured):
    words = ("--", "cpuid", "inl_from_qemu", "--runs", 3, "--fast")
    text = ok("plan", "new", "old=6.11", "new=6.12", "--pairs", 4, "--seed", 7, *words)
    assert "8 boots in 4 pairs" in text
    assert text.endswith("\nkvmbench plan run\n")
    sides = [step["side"] for step in json.loads(Path("plan.json").read_text())["steps"]]
    for number, side in enumerate(sides):
        right, wrong = ("6.11", "6.12")[side], ("6.12", "6.11")[side]
        booted(wrong, number)
        assert f"step {number + 1} of 8 is for" in refused(1, "plan", "run")
        booted(right, number)
        done = invoke("plan", "run", *(["plan.json"] if number else []))
        assert done.exit_code == 0, done.stderr
        if number < 7:
            following = f"6.1{1 + sides[number + 1]}"
            assert f"step {number + 1} of 8 done. Next: boot {following}" in done.stdout
            assert invoke("plan", "run").exit_code == 1  # the same boot again does nothing
    options = dict(workload_file=None, cpu=None, runs=3, fast=True, ioperm="off", label={})
    assert measured == 8 * [options | dict(names=("cpuid", "inl_from_qemu"))]
    following = done.stdout.splitlines()[-1]
    assert following == "kvmbench compare old=plan-old.json new=plan-new.json"
    assert ok("plan", "run").splitlines()[-1] == following
    for name, side in (("old", 0), ("new", 1)):
        result = results.read(f"plan-{name}.json")
        assert [b.id for b in result.boots] == [
            f"boot-{n}" for n, s in enumerate(sides) if s == side
        ]
        assert [b.block for b in result.boots] == [1, 2, 3, 4]
        assert result.workloads() == ["cpuid", "inl_from_qemu"]
    document = json.loads(ok(*following.split()[1:], "--format", "json"))
    assert document["level"] == "block"


@pytest.mark.usefixtures("measured")
def test_an_interrupted_plan_says_what_is_left_out(folder, booted):
    ok("plan", "new", "6.11", "6.12", "--pairs", 2, "--seed", 7)
    steps = json.loads(Path("plan.json").read_text())["steps"]
    for number in range(3):
        booted(("6.11", "6.12")[steps[number]["side"]], number)
        ok("plan", "run")
    text = ok("compare", "plan-6.11.json", "plan-6.12.json")
    assert "block 2" in text


def test_a_step_that_ctrl_c_stopped_is_still_due(folder, booted, monkeypatch):
    booted("6.11", 1)
    ok("plan", "new", "6.11", "6.12", "--seed", 1)
    step = json.loads(Path("plan.json").read_text())["steps"][0]
    booted(("6.11", "6.12")[step["side"]], 1)
    part = Result(
        notes=[f"{engine.STOPPED} in run 2 of 8."],
        boots=[Boot(runs=[Run(series=[Series(workload="w", kind="noisy", values=[1])])])],
    )
    monkeypatch.setattr(plan_command, "measured", lambda **_: nullcontext(part))
    kept = Path("plan.json").read_bytes()
    done = invoke("plan", "run")
    assert done.exit_code == 130
    assert "\nw " in done.stdout  # no result of the plan has the runs, so that they are printed
    assert done.stderr.endswith("\nstep 1 of 16 is still due.\nkvmbench: stopped\n")
    assert Path("plan.json").read_bytes() == kept
    assert [path.name for path in folder.iterdir()] == ["plan.json"]


def test_a_step_that_cannot_be_kept_is_printed(folder, booted, measured, monkeypatch):
    booted("6.11", 1)
    ok("plan", "new", "6.11", "6.12", "--seed", 1)
    step = json.loads(Path("plan.json").read_text())["steps"][0]
    booted(release := ("6.11", "6.12")[step["side"]], 1)

    def full(path, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(results, "replace_file", full)
    done = invoke("plan", "run")
    assert done.exit_code == 1
    assert "\nw " in done.stdout
    assert done.stderr.endswith(f"\nkvmbench: plan-{release}.json: No space left on device\n")


@pytest.mark.parametrize("words", [["cpuid", "no_such"], ["no_*"]])
def test_workloads_that_nobody_knows_are_refused_at_once(folder, booted, measured, words):
    assert "no_" in refused(2, "plan", "new", "6.11", "6.12", "--", *words)
    ok("plan", "new", "6.11", "6.12", "--seed", 1)
    plan = json.loads(Path("plan.json").read_text())
    booted(plan["kernels"][plan["steps"][0]["side"]]["release"], 1)
    Path("plan.json").write_text(json.dumps(plan | dict(arguments=words)))
    assert "plan.json: $.arguments: " in refused(1, "plan", "run")
    assert not measured


def test_plans_that_are_refused(folder):
    for arguments, words in (
        (["6.11", "6.11"], "both kernels are 6.11"),
        (["a=6.11", "a=6.12"], "both kernels are called 'a'"),
        (["a/b=6.11", "6.12"], "becomes a file's name"),
        (["=6.11", "6.12"], "is not RELEASE or LABEL=RELEASE"),
        (["6.11", "6.12", "--", "cpuid", "--no-such"], "--no-such"),
        (["6.11", "6.12", "--", "--save", "x"], "'--save'"),
        (["6.11", "6.12", "--", "--append"], "'--append'"),
        (["6.11", "6.12", "--", "--format", "csv"], "'--format'"),
        (["6.11", "6.12", "--", "--before", "eager"], "'--before'"),
        (["6.11", "6.12", "--", "--runs", "0"], "--runs"),
        (["6.11", "6.12", "--pairs", "0"], "--pairs"),
    ):
        assert words in refused(2, "plan", "new", *arguments)
    assert "No such file" in refused(1, "plan", "new", "6.11", "6.12", "-o", "nowhere/plan.json")
    assert not list(folder.iterdir())
    ok("plan", "new", "6.11", "6.12")
    assert "choose another file" in refused(2, "plan", "new", "6.11", "6.12")
    Path("plan.json").unlink()
    results.write("plan-6.12.json", of_runs({"w": 1.0}))
    assert "would add its boots to it" in refused(2, "plan", "new", "6.11", "6.12")


def test_steps_that_are_refused(folder, booted):
    booted("6.11", 1)
    ok("plan", "new", "6.11", "6.12", "--seed", 1)
    assert "No such option '--save'" in refused(2, "plan", "run", "--save", "x")
    assert "No such file" in refused(2, "plan", "run", "nothing.json")
    Path("broken.json").write_text("{}")
    assert "broken.json" in refused(1, "plan", "run", "broken.json")
    results.write("result.json", of_runs({"w": 1.0}))
    assert "result.json" in refused(1, "plan", "run", "result.json")
    plan = json.loads(Path("plan.json").read_text()) | {"arguments": ["--engine", "kvm"]}
    Path("old.json").write_text(json.dumps(plan))
    booted(plan["kernels"][plan["steps"][0]["side"]]["release"], 1)
    assert "old.json: $.arguments: No such option '--engine'" in refused(
        1, "plan", "run", "old.json"
    )


CODE = "open('ran', 'w')\nfrom kvmbench import Workload\nWORKLOADS = [Workload('mine')]\n"


def test_a_plan_runs_code_only_where_it_was_allowed_both_times(folder, booted, measured):
    Path("mine.py").write_text(CODE)
    new = ("plan", "new", "6.11", "6.12", "--seed", 1)
    code = ("--", "--workload-file", "mine.py")
    assert "--allow-code" in refused(2, *new, *code)
    ok(*new, "--allow-code", *code)
    plan = json.loads(Path("plan.json").read_text())
    booted(plan["kernels"][plan["steps"][0]["side"]]["release"], 1)
    words = "plan.json: $.arguments: --workload-file runs Python, which only --allow-code permits"
    assert words in refused(1, "plan", "run")
    for changed in (["--workload-file=mine.py"], ["--workload-f", "mine.py"], ["--help"]):
        Path("other.json").write_text(json.dumps(plan | dict(arguments=changed)))
        assert "$.arguments" in refused(1, "plan", "run", "other.json")
    assert not measured
    assert not Path("ran").exists()
    assert invoke("plan", "run", "--allow-code").exit_code == 0
    assert measured[0]["workload_file"] == "mine.py"


def test_results_stay_in_the_folder_of_the_plan(folder, booted, measured):
    ok("plan", "new", "6.11", "6.12", "--seed", 1)
    plan = json.loads(Path("plan.json").read_text())
    kernel = plan["kernels"][plan["steps"][0]["side"]]
    booted(kernel["release"], 1)
    Path("elsewhere").mkdir()
    Path(kernel["results"]).symlink_to("elsewhere/stolen.json")
    done = invoke("plan", "run")
    assert (done.exit_code, "is a link" in done.stderr) == (1, True)
    assert not list(Path("elsewhere").iterdir())
    Path(kernel["results"]).unlink()
    os.mkfifo(kernel["results"])  # reading it would never end
    done = invoke("plan", "run")
    assert (done.exit_code, "is no regular file" in done.stderr) == (1, True)
    assert not measured


def test_a_step_of_fewer_runs_is_still_due_unless_the_plan_accepts_it(folder, booted, monkeypatch):
    part = Result(
        notes=["1 of 2 runs ended with signal 9."],
        boots=[Boot(runs=[Run(series=[Series(workload="w", kind="noisy", values=[1])])])],
    )
    monkeypatch.setattr(plan_command, "measured", lambda **_: nullcontext(part))
    for name, arguments, code in (("a", (), 1), ("b", ("--", "--keep-going"), 0)):
        ok("plan", "new", "6.11", "6.12", "--seed", 1, "-o", f"{name}.json", *arguments)
        plan = plans.read(f"{name}.json")
        booted(plan.kernel(0).release, 1)
        assert invoke("plan", "run", f"{name}.json").exit_code == code
        assert (plans.read(f"{name}.json").next() == 0) == bool(code)


def test_seeds_give_the_plan_again(folder):
    texts = []
    for seed in (5, 5, 6):
        ok("plan", "new", "6.11", "6.12", "--pairs", 40, "--seed", seed)
        texts.append(Path("plan.json").read_text().replace(f'"seed": {seed}', ""))
        Path("plan.json").unlink()
    assert texts[0] == texts[1] != texts[2]


# Until decided


@pytest.fixture
def kernels_differ(monkeypatch):
    """Stand in for the measurement: `a` and `still` of 1000 cycles, `a` 5 % more on 6.12."""
    seen = []

    @contextmanager
    def measure(*, names, **_):
        slow = live_host.host().kernel == "6.12"
        seen.append(slow)
        values = {"a": 1050.0 if slow else 1000.0, "still": 1000.0}
        listed = [Series(workload=n, kind="noisy", values=[v]) for n, v in values.items()]
        yield Result(boots=[Boot(runs=[Run(engine="kvm", series=listed)])])

    monkeypatch.setattr(plan_command, "measured", measure)
    return seen


def steps_until_the_end(booted, *arguments, most=100):
    """Do the steps of plan.json until no more are due; return their stdout."""
    texts = []
    for number in range(most):
        plan = plans.read("plan.json")
        if (due := plan.next()) is None:
            break
        booted(plan.kernel(due).release, number)
        texts.append(ok("plan", "run", *arguments))
    return texts


def test_a_plan_ends_where_its_rows_are_decided(folder, booted, kernels_differ):
    """Equal differences: (40 / sqrt(r))**(2 / n) r < 1 from n = 4 on, r = 0.2 / (n + 0.2)."""
    ok("plan", "new", "6.11", "6.12", "--seed", 7)
    booted(plans.read("plan.json").kernel(0).release, "first")
    ok("plan", "run", "--until", "decided", "--margin", "1%")  # the plan keeps the rule
    texts = steps_until_the_end(booted, most=9)
    plan = plans.read("plan.json")
    assert (plan.until.decided, plan.next(), len(plan.steps)) == (True, None, len(kernels_differ))
    assert len(kernels_differ) == 2 * 4
    assert "2 pairs: 2 rows not decided (a, still)" in "".join(texts)
    compare_line = "kvmbench compare 6.11=plan-6.11.json 6.12=plan-6.12.json --margin 1%"
    assert texts[-1].splitlines()[-2:] == ["decided after 4 pairs:", compare_line]
    found = json.loads(ok(*compare_line.split()[1:], "--format", "json"))
    assert [(row["workload"], row["after_units"]) for row in found["rows"]] == [
        ("a", 4),
        ("still", 4),
    ]
    assert results.read("plan-6.11.json").stopping == "decided"
    assert "decided after 4 pairs" in ok("plan", "run", "--until", "decided")


def test_a_plan_goes_on_until_its_rows_are_decided(folder, booted, kernels_differ):
    """Two pairs decide nothing; pairs are added, their orders drawn as in a longer plan."""
    ok("plan", "new", "6.11", "6.12", "--seed", 7, "--pairs", 2)
    steps_until_the_end(booted, "--until", "decided", "--rows", "a")
    plan = plans.read("plan.json")
    assert (plan.until.rows, plan.until.decided, plan.done) == (["a"], True, 4)
    longer = make(plan.kernels, 4, 7)
    assert [(s.block, s.side) for s in plan.steps] == [(s.block, s.side) for s in longer.steps]


def test_a_plan_ends_at_the_most_pairs(folder, booted, kernels_differ):
    ok("plan", "new", "6.11", "6.12", "--seed", 7)
    texts = steps_until_the_end(booted, "--until", "decided", "--max", 3)
    assert texts[-1].splitlines()[-2] == "not decided after 3 pairs, the most that --max allows:"
    plan = plans.read("plan.json")
    assert (plan.until.decided, len(plan.steps), plan.next()) == (False, 6, None)
    steps_until_the_end(booted)
    booted("6.11", 50)
    assert "step 7 of 8" in invoke("plan", "run", "--until", "decided", "--max", 6).stderr
    assert len(plans.read("plan.json").steps) == 8


def test_a_kill_before_the_look(folder, booted, kernels_differ):
    """All five pairs are there and no look was taken: the next call takes it, without a step."""
    ok("plan", "new", "6.11", "6.12", "--seed", 7, "--pairs", 5)
    steps_until_the_end(booted)
    measured = len(kernels_differ)
    assert "decided after 5 pairs" in ok("plan", "run", "--until", "decided")
    assert len(kernels_differ) == measured == 10


def test_rules_that_are_refused(folder, booted, kernels_differ):
    ok("plan", "new", "6.11", "6.12", "--seed", 7)
    for arguments, words in (
        (["--rows", "a"], "--rows needs --until decided"),
        (["--max", "9"], "--max needs --until decided"),
        (["--margin", "1%"], "--margin needs --until decided"),
        (["--until", "decided", "--margin", "x"], "'x' is neither a share"),
        (["--until", "decided", "--max", "1"], "--max"),
        (["--switch"], "--within-boot"),
    ):
        assert words in refused(2, "plan", "run", *arguments)
    assert plans.read("plan.json").until is None
    document = json.loads(Path("plan.json").read_text())
    document["steps"] = [{"block": 1, "side": side} for side in (0, 1, 1, 0)]
    Path("abba.json").write_text(json.dumps(document))
    assert "these are ABBA" in refused(1, "plan", "run", "abba.json", "--until", "decided")
    with pytest.raises(AssertionError, match="unknown row"):
        steps_until_the_end(booted, "--until", "decided", "--rows", "b")


# Within a boot


SETTINGS = ("--before-set", "kvm.halt_poll_ns=200000", "--after-set", "kvm.halt_poll_ns=0")


@pytest.fixture
def parameters(folder, monkeypatch):
    """Return the file of a parameter of KVM's, in a folder that stands in for /sys/module."""
    file = folder / "module" / "kvm" / "parameters" / "halt_poll_ns"
    file.parent.mkdir(parents=True)
    file.write_text("50000\n")
    monkeypatch.setattr(plans, "MODULES", folder / "module")

    def host():
        return Host(kernel="6.12", kvm_parameters={"kvm.halt_poll_ns": file.read_text().strip()})

    monkeypatch.setattr(live_host, "host", host)
    monkeypatch.setattr(live_host, "boot_id", lambda: "this-boot")
    return file


def test_settings_alternate_within_a_boot(parameters, measured):
    """`--switch` sets each step's value, does all steps, and restores the first value."""
    text = ok("plan", "new", "on=6.12", "off=6.12", "--within-boot", *SETTINGS, "--seed", 3)
    assert "16 steps in 8 pairs. Set 6.12 with kvm.halt_poll_ns=" in text
    assert "and kvm.halt_poll_ns is 50000: set it" in refused(1, "plan", "run")
    text = ok("plan", "run", "--switch")
    assert parameters.read_text() == "50000\n"
    assert len(measured) == 16
    assert text.splitlines()[-1] == "kvmbench compare on=plan-on.json off=plan-off.json"
    for name, value in (("on", "200000"), ("off", "0")):
        result = results.read(f"plan-{name}.json")
        assert [(b.id, b.block) for b in result.boots] == [("this-boot", n) for n in range(1, 9)]
        assert {b.host.kvm_parameters["kvm.halt_poll_ns"] for b in result.boots} == {value}
    found = json.loads(ok(*text.splitlines()[-1].split()[1:], "--format", "json"))
    assert (found["level"], found["rows"][0]["units"]) == ("block", [8, 8])


def test_one_step_at_a_time_within_a_boot(parameters, measured):
    ok("plan", "new", "On=6.12", "Off=6.12", "--within-boot", *SETTINGS, "--seed", 3)
    for _ in range(2):
        plan = plans.read("plan.json")
        parameters.write_text(plan.kernel(plan.next()).settings["kvm.halt_poll_ns"])
        text = ok("plan", "run")
        following = plan.kernel(plan.next() + 1)
        assert f"Next: set {following}\n" in text
    assert plans.read("plan.json").done == 1


def test_parameters_come_back_where_a_step_fails(parameters, monkeypatch):
    ok("plan", "new", "on=6.12", "off=6.12", "--within-boot", *SETTINGS, "--seed", 3)

    def stopped(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(plan_command, "measured", stopped)
    assert invoke("plan", "run", "--switch").exit_code == 130
    assert parameters.read_text() == "50000\n"
    parameters.unlink()
    assert "No such file" in refused(1, "plan", "run", "--switch")


def test_settings_that_are_refused(folder):
    for arguments, words in (
        ([], "must name the same parameters, one or more"),
        (["--before-set", "kvm.a=1"], "must name the same parameters"),
        (["--before-set", "kvm.a=1", "--after-set", "kvm.b=1"], "must name the same parameters"),
        (["--before-set", "kvm.a=1", "--after-set", "kvm.a=1"], "both kernels are 6.12"),
        (["--before-set", "kvm.a", "--after-set", "kvm.a=1"], "is not MODULE.PARAMETER=VALUE"),
        (["--before-set", "ext4.a=1", "--after-set", "ext4.a=2"], "'ext4.a=1' is not MODULE"),
        (["--before-set", "kvm.../a=1", "--after-set", "kvm.../a=2"], "is not MODULE.PARAMETER"),
        (["--before-set", "kvm.a=1\n2", "--after-set", "kvm.a=2"], "is not MODULE.PARAMETER"),
        (["--before-word", "quiet", *SETTINGS], "command line's words must be the same"),
    ):
        found = refused(2, "plan", "new", "on=6.12", "off=6.12", "--within-boot", *arguments)
        assert words in found
    assert not list(folder.iterdir())
    document = {"schema": "kvmbench.plan/1", "seed": 1, "arguments": []}
    document["kernels"] = kernels("a.json", results="b.json")
    document["kernels"][0]["settings"] = {"../../etc.x": "1"}
    document["steps"] = [{"block": 1, "side": 0}]
    Path("bad.json").write_text(json.dumps(document))
    assert "is not MODULE.PARAMETER=VALUE" in refused(1, "plan", "run", "bad.json")


# A pilot


def pilot(name, boots=6, runs=4, boot=4.0, run=3.0):
    """Write a result whose boots and runs differ by about these cycles in 1000."""
    from kvmbench.tests.results_maker import of_boots

    listed = []
    for number in range(boots):
        centre = 1000.0 + boot * (-1) ** number
        values = [{"w": centre + run * (-1) ** at} for at in range(runs)]
        listed.append((str(number), None, values))
    results.write(name, of_boots(*listed))


def test_a_pilot_and_a_budget_choose_boots_and_runs(folder):
    pilot("pilot.json")
    text = ok(
        "plan", "new", "6.11", "6.12", "--pilot", "pilot.json", "--budget", "4h", "--run-time", "5s"
    )
    plan = plans.read("plan.json")
    runs = int(plan.arguments[plan.arguments.index("--runs") + 1])
    assert runs > 1
    assert len(plan.steps) == 2 * (4 * 3600 // (2 * (180 + 5 * runs)))
    flat = " ".join(text.split())
    assert f"{runs} runs per boot, about " in flat
    assert "Expected minimum detectable effect of a verdict at 80 % power: 0." in flat


def test_pilots_that_are_refused(folder):
    pilot("pilot.json")
    new = ("plan", "new", "6.11", "6.12")
    budget = ("--pilot", "pilot.json", "--budget")
    assert "--run-time" in refused(2, *new, *budget, "4h")
    for arguments, words in (
        (["--budget", "4h"], "need --pilot"),
        (["--pilot", "pilot.json"], "--pilot needs --budget"),
        ([*budget, "4h", "--pairs", "3"], "no --pairs"),
        ([*budget, "4h", "--", "--runs", "3"], "no --runs"),
        ([*budget, "4h", "--", "--runs=3"], "no --runs"),
        ([*budget, "4x"], "'4x' is no time"),
        ([*budget, "0m"], "'0m' is no time"),
        ([*budget, "4h", "--run-time", "5s", "--boot-sd", "3"], "is not a share"),
        ([*budget, "4h", "--within-boot"], "--pilot chooses boots"),
        ([*budget, "4h", "--run-time", "5s", "--boot-sd", "x"], "--boot-sd"),
    ):
        assert words in refused(2, *new, *arguments), arguments
    assert "fewer than 6 pairs" in refused(1, *new, *budget, "10m", "--run-time", "5s")
    assert [path.name for path in folder.iterdir()] == ["pilot.json"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("4h", 14400), ("90m", 5400), ("45s", 45), ("2h30m", 9000), ("1h0m1s", 3601), (" 3m ", 180)],
)
def test_times(text, seconds):
    assert plan_command.DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "h", "3", "0h", "m3", "3m4h", "-3m", "3.5h", "1e3s", "3m3m"])
def test_what_is_no_time(text):
    with pytest.raises(click.BadParameter, match="is no time such as 4h"):
        plan_command.DURATION.convert(text, None, None)


@pytest.mark.parametrize(
    ("seconds", "words"), [(20, "1 min"), (90, "2 min"), (3600, "1 h"), (14100, "3 h 55 min")]
)
def test_a_time_in_words(seconds, words):
    assert plan_command.duration(seconds) == words


settings_ = st.dictionaries(
    st.from_regex(r"(kvm|kvm_intel|kvm_amd)\.[a-z0-9_]{1,20}", fullmatch=True),
    st.from_regex(r"[\w.:,-]{1,64}", fullmatch=True),
    max_size=3,
)
kernels_ = st.builds(
    Kernel, label=st.text(max_size=9), release=st.text(max_size=9),
    words=st.lists(st.text(), max_size=3), settings=settings_, results=st.just("a.json"),
)  # fmt: skip
untils_ = st.none() | st.builds(
    plans.Until, rows=st.lists(st.text(max_size=9), max_size=3), margin=st.none() | st.just("1%"),
    most=st.integers(2, 1000), decided=st.booleans(),
)  # fmt: skip


@given(kernels_, kernels_, untils_, st.integers(1, 9), st.integers(0, 2**32), st.booleans())
def test_plans_read_as_they_were_written(tmp_path_factory, one, other, until, pairs, seed, within):
    steps = make((OLD, NEW), pairs, seed).steps
    other = structs.replace(other, results="b.json")
    plan = plans.Plan(
        seed=seed, kernels=(one, other), arguments=["--fast"], steps=steps, until=until,
        within_boot=within,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    plans.write(path, plan)
    assert plans.read(path) == plan
