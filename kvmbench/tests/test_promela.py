"""The model for SPIN, and SPIN's verdicts: another explorer of the same model, in every state.

Of small machines; `python -m kvmbench.tests.spin`, which ci/spin runs, has larger ones and mutants.
"""

import shutil
import tempfile

import pytest

from kvmbench import Policy, policies
from kvmbench.checker.promela import promela
from kvmbench.tests import mutants, spin

needs_spin = pytest.mark.skipif(
    not (shutil.which("spin") and shutil.which("gcc")),
    reason="needs spin and gcc (Debian: apt-get install spin gcc)",
)
SIZES = (2, 2, 1)
BAD = {"denial": 3, "fault": 5, "leak": 8}  # of mutants.UNSAFE
KNOWN = [*(mutants.UNSAFE[index][0] for index in BAD.values()), mutants.HARMLESS[0]]


@needs_spin
@pytest.mark.parametrize("policy", [*policies().values(), *KNOWN], ids=lambda p: p.name)
def test_spin_agrees(policy):
    """Same verdict; where safe the very numbers of states, transitions and events."""
    assert spin.disagreement(policy, SIZES, "-O0") is None


@needs_spin
@pytest.mark.parametrize("what", BAD)
def test_spin_names_what_is_bad(what):
    """The assertion that fails says it; so does a depth-first search, on a longer way."""
    policy = mutants.UNSAFE[BAD[what]][0]
    assert spin.breadth_first(policy, SIZES, "-O0").bad == what
    with tempfile.TemporaryDirectory() as folder:
        spin.build(policy, SIZES, folder, "-O0")
        assert spin.run(folder, "-m1000000").bad is not None


@needs_spin
def test_spin_takes_every_step_and_condition():
    """A policy of all words: SPIN parses it, and agrees on what it leads to."""
    policy = Policy(
        "all",
        vm_exit=("mark_available if stale and not tif", "ltr if not tif and stale", "clear_stale"),
        vcpu_put=("reload if sched", ("stop if not tif and not sched", "mark_stale"), "refresh"),
        switch=("copy_map if next.tif", "wipe_map if prev.tif and not next.tif", "refresh"),
        ioperm=(
            "stop if first and not on", "alloc_map if on", "set_tif", ("edit_map",),
            ("load_map if not empty", "drop_map if empty", "clear_tif if empty"),
        ),
        exit_to_user=("sync_map if tif", "validate_base if tif", "invalidate_base if not tif"),
        task_exit=("wipe_own", "drop_map"),
    )  # fmt: skip
    for sizes in ((1, 1, 1), (1, 2, 2), (2, 2, 1)):
        assert spin.disagreement(policy, sizes, "-O0") is None


def test_the_model_is_readable():
    text = promela(policies()["deferred"], 2, 3, 2)
    assert text.startswith("/* Policy deferred: every interleaving on 2 CPUs, 3 tasks, 2 ports")
    assert max(map(len, text.splitlines())) <= 100
    assert "inline ioperm_2(c) {\n  if :: task[cur].first && cpu[c].stale -> reload(c)" in text
    assert "#define IOPERM_3 6  /* before: edit_map, load_map */" in text
    assert "at(1, USER) -> ioperm(1, 1, 1)" in text
    assert "IOPERM_4" not in text


def test_a_name_cannot_end_the_comment():
    text = promela(Policy("*/ bad"), 1, 1, 1)
    assert text.splitlines()[0].startswith("/* Policy * / bad")
