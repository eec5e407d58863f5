"""Plans of boots: balanced, reproducible, resumable, and of the right kernel."""

import json
from collections import Counter
from pathlib import Path

import pytest

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

    def measure(*, names, **options):
        asked.append(options | dict(names=names))
        listed = [Series(workload=name, kind="noisy", values=[1000.0]) for name in names or ("w",)]
        return Result(boots=[Boot(runs=[Run(engine="kvm", series=listed)])])

    monkeypatch.setattr(plan_command, "measured", measure)
    return asked


def test_a_plan_from_end_to_end(folder, booted, measured):
    words = ("--", "cpuid", "inl_from_qemu", "--runs", 3, "--fast")
    text = ok("plan", "new", "old=6.11", "new=6.12", "--blocks", 2, "--seed", 7, *words)
    assert "8 boots in 2 blocks" in text
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
        assert [b.block for b in result.boots] == [1, 1, 2, 2]
        assert result.workloads() == ["cpuid", "inl_from_qemu"]
    document = json.loads(ok(*following.split()[1:], "--format", "json"))
    assert document["level"] == "block"


@pytest.mark.usefixtures("measured")
def test_an_interrupted_plan_says_what_is_left_out(folder, booted):
    ok("plan", "new", "6.11", "6.12", "--blocks", 2, "--seed", 7)
    steps = json.loads(Path("plan.json").read_text())["steps"]
    for number in range(6):
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
    monkeypatch.setattr(plan_command, "measured", lambda **_: part)
    kept = Path("plan.json").read_bytes()
    done = invoke("plan", "run")
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr.endswith("\nkvmbench: stopped\n")
    assert Path("plan.json").read_bytes() == kept
    assert [path.name for path in folder.iterdir()] == ["plan.json"]


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
        (["6.11", "6.12", "--blocks", "0"], "--blocks"),
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


def test_a_step_of_fewer_runs_is_still_due_unless_the_plan_accepts_it(folder, booted, monkeypatch):
    part = Result(
        notes=["1 of 2 runs ended with signal 9."],
        boots=[Boot(runs=[Run(series=[Series(workload="w", kind="noisy", values=[1])])])],
    )
    monkeypatch.setattr(plan_command, "measured", lambda **_: part)
    for name, arguments, code in (("a", (), 1), ("b", ("--", "--keep-going"), 0)):
        ok("plan", "new", "6.11", "6.12", "--seed", 1, "-o", f"{name}.json", *arguments)
        plan = plans.read(f"{name}.json")
        booted(plan.kernel(0).release, 1)
        assert invoke("plan", "run", f"{name}.json").exit_code == code
        assert (plans.read(f"{name}.json").next() == 0) == bool(code)


def test_seeds_give_the_plan_again(folder):
    texts = []
    for seed in (5, 5, 6):
        ok("plan", "new", "6.11", "6.12", "--blocks", 20, "--seed", seed)
        texts.append(Path("plan.json").read_text().replace(f'"seed": {seed}', ""))
        Path("plan.json").unlink()
    assert texts[0] == texts[1] != texts[2]
