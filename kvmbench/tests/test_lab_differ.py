"""Histories of `kvmbench lab differ`: their parts, and outcomes judged, made up and recorded."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from kvmbench import Machine, policies
from kvmbench.errors import LabError
from kvmbench.guest import image
from kvmbench.lab import actors, counts, differ, histories
from kvmbench.lab.counts import Mark
from kvmbench.lab.histories import ALLOWED, DENIED, KINDS, TASKS, draw, parts, tag
from kvmbench.model import Op, Operation
from kvmbench.tests.command import invoke

OUTCOMES = sorted((Path(__file__).parent / "corpus").glob("lab-differ.*.json"))
SEEDS = st.integers(0, 10**9).map(str)
OPERATIONS = st.integers(2, 300)


# Histories and their parts


@given(SEEDS, OPERATIONS)
@settings(max_examples=60, deadline=None)
def test_a_history_is_possible_and_ends_outside_the_guest(seed, operations):
    history = draw(seed, operations)
    assert history == draw(seed, operations)
    assert operations <= len(history) <= operations + 2
    machine = Machine(1, TASKS, "deferred", differ._profile())
    machine.run([operation.row() for operation in history])  # refuses what is impossible
    current = int(machine.cpu["task"][0])
    assert current >= 0
    assert not machine.task["in_run"][current]


def test_a_history_has_all_operations():
    found = Counter(operation.op for operation in draw("0", 3000))
    assert set(found) == {Op.EXIT, Op.SWITCH, Op.IOPERM, Op.IO, Op.TASK_EXIT}
    kinds = Counter(o.a for o in draw("0", 3000) if o.op == Op.EXIT)
    assert set(kinds) == set(range(len(KINDS)))


class Puppets:
    """Processes that do their parts one after the other: an independent reading of the calls."""

    def __init__(self, lives):
        self.lives = lives
        self.calls = [iter(life.calls) for life in lives]
        self.guests = [iter(life.guest) for life in lives]
        self.inside = set()  # lives that are interrupted in their guest
        self.parked = set()  # of these, those that know it
        self.done = []  # operations
        self.marks = []
        self.begun = set()

    def play(self):
        current = 0
        self.done.append(Operation(Op.SWITCH, self.lives[0].task))
        while current is not None:
            current = self.turn(current)
        return self.done

    def turn(self, me):
        """Go on with `me` until it gives the CPU away; return the next one."""
        if me in self.inside:
            self.inside.remove(me)
            self.parked.discard(me)
            if (to := self.guest(me)) is not None:
                return to
        for word, *numbers in self.calls[me]:
            if word == "take":  # of a new process; a later one follows "give"
                assert me not in self.begun
                self.begun.add(me)
            elif word == "mark":
                self.marks.append((numbers[0], len(self.done)))
            elif word == "park":
                assert numbers[0] in self.inside
                self.parked.add(numbers[0])
            elif word == "run":
                if (to := self.guest(me)) is not None:
                    return to
            elif word in ("give", "resume"):
                assert (numbers[0] in self.parked) == (word == "resume")
                to = numbers[0]
                then = next(self.calls[me])
                assert then in (("take",), ("exit",)), then
                if then == ("exit",):
                    self.done.append(Operation(Op.TASK_EXIT))
                return self.switch(to)
            elif word == "ioperm":
                self.done.append(Operation(Op.IOPERM, *numbers))
            elif word == "port_in":
                port, width, index = numbers
                assert index == len(self.done)
                self.done.append(Operation(Op.IO, port, arg=width))
            else:
                assert word == "end"
                return None
        raise AssertionError(f"process {me} has no last call")

    def guest(self, me):
        for word, *numbers in self.guests[me]:
            if word == "user":
                self.done.append(Operation(Op.EXIT, histories.USER))
                return None
            if word == "give":
                assert numbers[0] not in self.inside
                self.inside.add(me)
                return self.switch(numbers[0])
            self.done.append(Operation(Op.EXIT, numbers[0]))
        raise AssertionError(f"the guest of {me} has no end")

    def switch(self, to):
        self.done.append(Operation(Op.SWITCH, self.lives[to].task))
        return to


@given(SEEDS, OPERATIONS)
@settings(max_examples=60, deadline=None)
def test_the_parts_together_are_the_history(seed, operations):
    history = draw(seed, operations)
    lives, cut = parts(history)
    puppets = Puppets(lives)
    assert puppets.play() == history
    assert puppets.marks == [(0, 1), *((n, segment.stop) for n, segment in enumerate(cut, 1))]
    assert [segment.start for segment in cut] == [1, *(segment.stop for segment in cut[:-1])]
    exits = sum(operation.op == Op.TASK_EXIT for operation in history)
    switches = sum(operation.op == Op.SWITCH for operation in history)
    assert sum(segment.switches for segment in cut) == switches - 1
    assert len(lives) <= TASKS + exits


def test_the_guest_of_a_process():
    """By hand, from the SDM's volume 2: xor eax, eax; cpuid; mov edx, imm32; out dx, al; hlt."""
    life = histories.Life(0, [], [("kind", 0), ("give", 3), ("user",)])
    stop = image.STOP.to_bytes(4, "little").hex()
    assert actors._program(life).hex() == f"31c0 0fa2 ba03300000 ee ba{stop} ee f4".replace(" ", "")


# Outcomes that are made up


def played(policy, vendor="vmx", *, seed="1", operations=400, more=()):
    """Return a history as a machine does it; in the segments `more` the kernel switches more."""
    history = draw(seed, operations)
    machine = Machine(1, TASKS, policy, differ._profile(), vendor)
    rows = [operation.row() for operation in history]
    machine.run(rows[:1])
    answers, marks, switches = [0], [Mark(100, 7, 3)], 100
    for number, cut in enumerate(parts(history)[1], 1):
        found = machine.run(rows[cut.start : cut.stop])
        for operation, answer in zip(history[cut.start : cut.stop], found, strict=True):
            io = operation.op == Op.IO
            answers.append((ALLOWED if answer else DENIED) if io else 0)
        switches += cut.switches + 2 * (number in more)
        marks.append(Mark(switches, 7 + machine.count(0, "reloads"), 3 + machine.count(0, "exits")))
    return differ.Played(history, answers, marks)


@pytest.mark.parametrize(
    ("name", "vendor"),
    [("exit-to-user", "vmx"), ("deferred", "vmx"), ("eager", "vmx"), ("every-exit", "svm")],
)
def test_a_policy_is_told_from_every_other(name, vendor):
    own = policies()[name]
    outcome = [played(own, vendor)]
    found = differ.judge(outcome, own, vendor)
    assert (found.other_answers, found.other_reloads, found.left_out) == (0, 0, 0)
    assert found.agrees
    assert found.accesses == sum(o.op == Op.IO for o in outcome[0].history)
    assert 0 < found.allowed < found.accesses
    others = differ.controls(own, vendor)
    assert {*policies()} - {name} == {other.name for other in others} - {f"{name} {WITHOUT}"}
    for other in others:
        judged = differ.judge(outcome, other, vendor)
        assert not judged.agrees, other.name
        assert judged.first


WITHOUT = "without its mark"


def test_a_put_without_its_mark_denies():
    """The model's denial: the limit stays cut, so an entitled IN ends in SIGSEGV."""
    own = policies()["exit-to-user"]
    unmarked = next(other for other in differ.controls(own, "vmx") if WITHOUT in other.name)
    assert unmarked.vcpu_put == (("reload if tif",),)
    found = differ.judge([played(own)], unmarked, "vmx")
    assert found.other_answers > 0
    assert "was allowed, not denied" in "".join(found.first)


def test_no_reload_at_all():
    """SVM from Linux 6.5 on; `docs/model.md` has no policy for it."""
    never = replace(policies()["exit-to-user"], vcpu_put=())
    outcome = [played(never, "svm")]
    assert differ.judge(outcome, None, "svm").agrees
    assert differ.judge(outcome, None, "svm").reloads == 0
    assert [one.name for one in differ.controls(None, "svm")] == [*policies()]
    assert not differ.judge(outcome, policies()["every-exit"], "svm").agrees
    assert not differ.judge(outcome, policies()["eager"], "svm").agrees


def test_segments_with_switches_of_the_kernel_are_left_out():
    own = policies()["exit-to-user"]
    outcome = played(own, more=(3, 4, 50))
    for number in (3, 4, 50):  # what such a switch may do
        later = [mark._replace(ltr=mark.ltr + 1) for mark in outcome.marks[number:]]
        outcome = replace(outcome, marks=[*outcome.marks[:number], *later])
    found = differ.judge([outcome], own, "vmx")
    assert (found.left_out, found.other_reloads, found.agrees) == (3, 0, True)
    everywhere = played(own, more=range(1000))
    found = differ.judge([everywhere], own, "vmx")
    assert found.left_out == found.segments
    assert not found.agrees


def test_exits_of_the_kernel_leave_a_segment_out_where_the_policy_acts_at_exits():
    own = policies()["every-exit"]
    outcome = played(own, "svm")
    later = [mark._replace(ltr=mark.ltr + 1, exits=mark.exits + 1) for mark in outcome.marks[9:]]
    outcome = replace(outcome, marks=[*outcome.marks[:9], *later])
    found = differ.judge([outcome], own, "svm")
    assert (found.left_out, found.agrees) == (1, True)


def test_one_other_answer_and_one_other_reload_are_named():
    own = policies()["deferred"]
    outcome = played(own)
    index = outcome.answers.index(ALLOWED)
    answers = [*outcome.answers]
    answers[index] = DENIED
    later = [mark._replace(ltr=mark.ltr + 1) for mark in outcome.marks[20:]]
    wrong = replace(outcome, answers=answers, marks=[*outcome.marks[:20], *later])
    found = differ.judge([outcome, wrong], own, "vmx")
    assert (found.other_answers, found.other_reloads, found.agrees) == (1, 1, False)
    words = "\n".join(found.first)
    assert f"history 1, operation {index}: IN of " in words
    assert "was denied, not allowed" in words
    assert "history 1, segment 20, operations " in words


# Outcomes of real kernels


def recorded(path):
    data = json.loads(path.read_text())
    outcomes = [
        differ.Played(
            [Operation(*one) for one in found["history"]],
            list(map(int, found["answers"])),
            [Mark(*mark) for mark in found["marks"]],
        )
        for found in data["played"]
    ]
    return data, outcomes


@pytest.mark.parametrize("path", OUTCOMES, ids=lambda path: path.stem)
def test_recorded_outcomes(path):
    """Counted by `python -m kvmbench.tests.lab_recorder`; each file names its kernel."""
    data, outcomes = recorded(path)
    own = policies()[data["policy"]] if data["policy"] else None
    found = differ.judge(outcomes, own, data["vendor"])
    assert found.agrees, found.first
    assert found.left_out < found.segments / 10
    assert found.allowed > 10
    for other in differ.controls(own, data["vendor"]):
        assert not differ.judge(outcomes, other, data["vendor"]).agrees, other.name


# Counts


def test_marks_of_histories():
    lines = [
        "1 0 instructions=5 ltr=1 exits=0\n",
        f"{tag(0, 0)} 40 instructions=9 ltr=2 exits=1\n",
        f"{tag(3, 7)} 44 instructions=99 ltr=5 exits=8 tr_low=103\n",
        f"{tag(3, 8)} 44 instr",
    ]
    assert counts.marks(lines) == {tag(0, 0): Mark(40, 2, 1), tag(3, 7): Mark(44, 5, 8)}
    assert counts.parse("".join(lines)) == []
    with pytest.raises(LabError, match="line 1 of the emulator's counts"):
        counts.marks([f"{tag(0, 0)} 40 ltr\n"])


# The command


@pytest.fixture
def faked(monkeypatch):
    """Let the command judge outcomes that `played` makes up; the fixture's value chooses them."""
    chosen = {"policy": "exit-to-user"}

    def play(kernel, vendor, operations, seed, *_):
        return [played(chosen["policy"], vendor, seed=str(seed), operations=operations)]

    class Kernel:
        label, release = "made-up", "6.12.0"

    from kvmbench.cli import lab

    monkeypatch.setattr(lab, "_emulator", lambda: None)
    monkeypatch.setattr(lab, "_kernel", lambda *_: (Kernel, "vmx"))
    monkeypatch.setattr(differ, "play", play)
    return chosen


def test_the_command(faked):
    done = invoke("lab", "differ", "--operations", 400, "--seed", 5)
    assert done.exit_code == 0, done.output
    assert "exit-to-user" in done.stdout
    assert done.stdout.count("differs") == 4
    assert "400 operations with seed 5" in done.stdout.replace("401", "400")
    data = json.loads(invoke("lab", "differ", "--operations", 400, "--format", "json").stdout)
    assert data["schema"] == "kvmbench.lab-differ/1"
    assert [one["agrees"] for one in data["policies"]] == [True, False, False, False, False]


def test_the_command_with_another_policy(faked, tmp_path):
    done = invoke("lab", "differ", "--operations", 400, "--policy", "eager")
    assert done.exit_code == 1
    assert " LTRs, not " in done.stdout.replace("\n", " ")
    file = tmp_path / "mine.toml"
    file.write_text('[mine]\nvcpu_put = ["reload"]\n')
    faked["policy"] = "eager"
    done = invoke("lab", "differ", "--operations", 400, "--policy", "mine", "--policy-file", file)
    assert done.exit_code == 1  # its switches copy no map
    assert invoke("lab", "differ", "--operations", 400, "--policy", "eager").exit_code == 0
    assert invoke("lab", "differ", "--policy", "eagre").exit_code == 2
