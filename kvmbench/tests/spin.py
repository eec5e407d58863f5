"""SPIN's verdict on the model that kvmbench writes: `python -m kvmbench.tests.spin` for all.

Run by hand it takes minutes: every mutant of every built-in policy on a small machine, without the
events on request and with all, the built-in policies on the machine of the command's defaults
(exit-to-user on one of fewer tasks) and with these events on smaller ones, and the public bugs.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from kvmbench import policies
from kvmbench.checker.known import known
from kvmbench.checker.mutations import mutations
from kvmbench.checker.promela import promela
from kvmbench.checker.verdict import EXTRA_EVENTS, check
from kvmbench.tests import mutants

# A sanitizer that Python runs under is not for SPIN.
ENV = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


class Spin(NamedTuple):
    bad: str | None  # "leak", "denial", "fault" or "null"
    states: float  # these two as pan prints them, to 8 digits
    transitions: float
    depth: int  # breadth-first: events of the longest of the shortest histories
    seconds: float  # of the run alone


def build(policy, sizes, folder, *flags, events=()):
    """Write a policy's model and compile SPIN's verifier of it."""
    Path(folder, "model.pml").write_text(promela(policy, *sizes, events))
    said = subprocess.run(
        ["spin", "-a", "model.pml"], cwd=folder, env=ENV, capture_output=True, text=True
    )
    assert (said.returncode, "rror" in said.stdout) == (0, False), said.stdout
    command = ["gcc", "-w", "-DSAFETY", *flags, "-o", "pan", "pan.c"]
    subprocess.run(command, cwd=folder, env=ENV, check=True)


def run(folder, *options):
    begun = time.perf_counter()
    done = subprocess.run(
        ["./pan", *options], cwd=folder, env=ENV, capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - begun
    said = done.stdout
    assert "max search depth too small" not in said
    failed = re.search(r"assertion violated (.*) \(at depth (\d+)\)", said)
    states = float(re.search(r"([\d.e+]+) states, stored", said)[1])
    transitions = float(re.search(r"([\d.e+]+) transitions", said)[1])
    depth = int(re.search(r"depth reached (\d+)", said)[1]) - 1
    if failed is None:
        assert "errors: 0" in said
        return Spin(None, states, transitions, depth, seconds)
    # Depth counts from 0, so that of the violating step is the number of events before it, the
    # first step included.
    what = {"busy": "fault", "has_map": "null", "~(mine": "leak"}
    bad = next((bad for word, bad in what.items() if word in failed[1]), "denial")
    return Spin(bad, states, transitions, int(failed[2]), seconds)


def breadth_first(policy, sizes, *flags, events=()):
    """Return SPIN's verdict by a breadth-first search: `depth` is that of a shortest history."""
    with tempfile.TemporaryDirectory() as folder:
        build(policy, sizes, folder, "-DBFS", *flags, events=events)
        return run(folder)


def disagreement(policy, sizes, *flags, events=()):
    """Return how SPIN and the explorer differ on a policy; None where they do not."""
    mine = check(policy, cpus=sizes[0], tasks=sizes[1], ports=sizes[2], symmetry=False,
                 events=events)  # fmt: skip
    theirs = breadth_first(policy, sizes, *flags, events=events)
    if mine.counterexample is not None:
        # Among shortest histories of several kinds the two may show different ones.
        same = theirs.bad is not None and len(mine.counterexample.events) == theirs.depth
    else:
        # The model's first step sets the start up: a state, two transitions and a depth more.
        states, transitions = float(f"{mine.states + 1:.8g}"), float(f"{mine.transitions + 2:.8g}")
        same = theirs[:4] == (None, states, transitions, mine.depth)
    what = mine.counterexample and (mine.counterexample.violation, len(mine.counterexample.events))
    said = f"{policy.name} at {sizes}: {what}, {mine.states} states; SPIN: {theirs}"
    return None if same else said


def main(*arguments):
    """Compare them; with `--all` the mutants of all policies, without and with every event."""
    whole = "--all" in arguments
    begun = time.monotonic()
    jobs = []  # policy, sizes, flag, events
    for bug in known().values():
        jobs += [(p, (2, 2, 1), "-O0", bug.events) for p in (bug.policy, bug.mended)]
    named = [*(policy for policy, _, _ in mutants.UNSAFE), *mutants.HARMLESS]
    jobs += [(policy, (2, 2, 1), "-O0", ()) for policy in named]
    for name, policy in policies().items():
        sizes = (2, 2, 2) if name == "exit-to-user" else (2, 3, 2)
        jobs.append((policy, sizes, "-O2", ()))
        if name == "deferred" or whole:
            jobs += [(mutant, (2, 2, 1), "-O0", ()) for mutant in mutations(policy).values()]
        jobs.append((policy, (2, 2, 1), "-O2", EXTRA_EVENTS))
        if not whole:
            continue
        jobs.append((policy, (2, 3, 1), "-O2", ("fork",)))
        more = mutations(policy, EXTRA_EVENTS).values()
        jobs += [(mutant, (1, 2, 1), "-O0", EXTRA_EVENTS) for mutant in more]
    jobs.sort(key=lambda job: job[1], reverse=True)  # the long ones first
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda job: disagreement(*job[:3], events=job[3]), jobs))
    wrong = [line for line in found if line]
    seconds = time.monotonic() - begun
    print(*wrong, sep="\n", end="\n" if wrong else "")
    print(f"{len(jobs)} policies by SPIN and by the explorer: {len(wrong)} differ, {seconds:.0f} s")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
