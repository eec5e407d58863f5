"""The public bugs: the explorer and brute force find each, as SPIN does in ci/spin."""

from dataclasses import replace

import pytest

from kvmbench.checker.known import SIZES, known, unmodeled
from kvmbench.checker.verdict import check
from kvmbench.tests import brute

BUGS = list(known().values())
FOUND = {  # number: the violation and the events of a shortest history
    20: ("denial", 11), 12: ("denial", 7), 13: ("leak", 5), 1: ("denial", 12), 8: ("null", 6),
    7: ("null", 4), 5: ("denial", 11), 3: ("leak", 11), 4: ("denial", 9), 6: ("null", 12),
}  # fmt: skip
# Of mended forms that are one policy with other names, the last.
MENDED = list({(replace(bug.mended, name="p"), bug.events): bug for bug in BUGS}.values())


def by_name(bug):
    return bug.policy.name


def test_the_table_is_whole():
    """Each number of the list once, as a policy or with the reason why not."""
    numbers = [bug.number for bug in BUGS]
    assert sorted([*numbers, *unmodeled()]) == list(range(1, 22))
    assert {1, 3, 5, 6, 8, 12, 13, 20} <= set(numbers)
    assert [bug.year for bug in BUGS] == sorted(bug.year for bug in BUGS)
    assert all(bug.mechanism.count(". ") == 1 for bug in BUGS)


@pytest.mark.parametrize("bug", BUGS, ids=by_name)
def test_bugs_are_found_and_mended_forms_are_safe(bug):
    verdict = check(bug.policy, **SIZES, events=bug.events)
    bad = verdict.counterexample
    assert (bad.violation, len(bad.events)) == FOUND[bug.number]
    assert verdict.replay().startswith("replayed")
    assert check(bug.mended, **SIZES, events=bug.events).verdict == "safe"


@pytest.mark.parametrize("bug", BUGS, ids=by_name)
def test_brute_force_agrees(bug):
    """One CPU suffices for each; the search gives up where a history would be longer."""
    found = brute.explore(bug.policy, (1, 2, 1), most=3000, extra=bug.events)
    assert (found.bad, found.depth) == FOUND[bug.number]


@pytest.mark.parametrize("bug", MENDED, ids=by_name)
def test_brute_force_exhausts_mended_forms(bug):
    """Two tasks on one CPU, or one on two where that is 24,577 states: level 3 by a second base."""
    sizes = (2, 1, 1) if bug.number == 7 else (1, 2, 1)
    found = brute.explore(bug.mended, sizes, extra=bug.events)
    verdict = check(
        bug.mended, **dict(zip(("cpus", "tasks", "ports"), sizes, strict=True)),
        events=bug.events, symmetry=False,
    )  # fmt: skip
    assert (None, verdict.states, verdict.transitions, verdict.depth, True) == found[:5]
    assert verdict.verdict == "safe"
