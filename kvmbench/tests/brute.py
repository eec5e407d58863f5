"""Every state of a small machine, found with the plain-Python stepper and Python's own sets.

Slow: a few thousand states a second. Sequence numbers are as large as they get; two states are
one where they differ in nothing that equality of numbers cannot tell.
"""

from itertools import permutations
from typing import NamedTuple

from kvmbench.checker.explorer import syncs_first
from kvmbench.checker.replay import VALID, Refused, Stepper

CODES = ("to_user", "kvm_run", "enter", "vm_exit", "leave", "return", "continue", "task_exit")


class Found(NamedTuple):
    bad: str | None
    states: int
    transitions: int
    depth: int
    whole: bool  # the search was not given up
    seen: frozenset


def events(cpus, tasks, ports, extra=()):
    """Return every operation, possible or not."""
    found = []
    for cpu in range(cpus):
        found += [(code, cpu, None) for code in CODES]
        found += [("schedule", cpu, task) for task in (None, *range(tasks))]
        found += [("ioperm", cpu, (port, on)) for port in range(ports) for on in (False, True)]
        if "fork" in extra:
            found += [(c, cpu, task) for c in ("fork", "fork_fails") for task in range(tasks)]
        if "iopl" in extra:
            found += [("iopl", cpu, 0), ("iopl", cpu, 3), ("exec", cpu, None)]
    return found


def readers(policy):
    """Return, for each entry of ioperm, which parts of the request it or a later one reads."""
    entries = [entry for entry in policy.regions("ioperm") if entry]
    reads = [set() for _ in entries]
    for number, entry in enumerate(entries):
        for step in entry:
            words = {"edit_map": {"port", "on"}, "load_map": {"max_before"}}.get(step.action, set())
            words = words | {name for name, _ in step.when if name in ("first", "on")}
            for earlier in reads[: number + 1]:
                earlier |= words
    return reads


def state(stepper, reads):
    """Return a stepper's state as a value; a sequence number as who has it."""
    owners = {}
    for number, task in enumerate(stepper.tasks):
        if task.seq:
            owners.setdefault(task.seq, set()).add(number)
    owners = {seq: frozenset(numbers) for seq, numbers in owners.items()}
    cpus = tuple(
        (c.tr_limit, c.busy, c.io_base, c.tss, c.stale, c.guest, c.map_max,
         owners.get(c.map_seq, "old") if c.map_seq else "none", c.task, c.iopl)
        for c in stepper.cpus
    )  # fmt: skip
    tasks = []
    for t in stepper.tasks:
        call = ()
        if t.call is not None:
            used = reads[t.call.entry] if t.call.hook == "ioperm" else ()
            call = (t.call.hook, t.call.entry, *(getattr(t.call, name) for name in sorted(used)))
        shares = frozenset(
            i for i, u in enumerate(stepper.tasks) if t.map is not None and u.map is not None
            and u.map_id == t.map_id
        )  # fmt: skip
        levels = (t.iopl, t.owns_iopl)
        tasks.append((t.place, call, t.tif, t.map, t.owns, t.max, t.seq != 0, *levels, shares))
    return cpus, tuple(tasks)


def explore(policy, sizes, most=10**9, extra=()):
    """Explore by levels until something bad is met, or more than `most` states are."""
    tried, reads = events(*sizes, extra), readers(policy)
    level = [Stepper(policy, *sizes, extra)]
    seen = {state(level[0], reads)}
    transitions = depth = 0
    while level and len(seen) <= most:
        following = []
        for stepper in level:
            after = None
            for event in tried:
                after = after or stepper.copy()
                try:
                    after.do(*event)
                except Refused:
                    continue  # it is unchanged, so the next event may have it
                transitions += 1
                if after.bad is not None:
                    bad = after.bad[0]
                    return Found(bad, len(seen), transitions, depth + 1, True, frozenset(seen))
                found = state(after, reads)
                if found not in seen:
                    seen.add(found)
                    following.append(after)
                after = None
        level = following
        depth += bool(level)
    return Found(None, len(seen), transitions, depth, not level, frozenset(seen))


def orbits(policy, seen, cpus, tasks):
    """Return how many states are left when names of CPUs and tasks do not count.

    Nor does what a TSS's map holds under an invalid base, where it is synced before it is seen.
    """
    left = set(seen)
    if syncs_first(policy):
        left = {(tuple(map(_without_hidden_map, found)), rest) for found, rest in left}
    n = 0
    while left:
        n += 1
        left -= set(_renamed(next(iter(left)), cpus, tasks))
    return n


def _without_hidden_map(cpu):
    limit, busy, base, _, stale, guest, _, _, task, iopl = cpu
    hidden = (limit, busy, base, frozenset(), stale, guest, 0, "none", task, iopl)
    return cpu if base == VALID else hidden


def _renamed(found, n_cpus, n_tasks):
    cpus, tasks = found
    for new_task in permutations(range(n_tasks)):  # new_task[old name]
        named = {**dict(enumerate(new_task)), None: None, "old": "old", "none": "none"}
        moved = tuple(
            (*tasks[new_task.index(t)][:-1], _named(tasks[new_task.index(t)][-1], named))
            for t in range(n_tasks)
        )
        for order in permutations(range(n_cpus)):
            there = tuple(
                (*cpus[c][:7], _named(cpus[c][7], named), named[cpus[c][8]], *cpus[c][9:])
                for c in order
            )
            yield there, moved


def _named(tasks, named):
    """Return the new names of a set of tasks; of "old" and "none" their own."""
    return tasks if isinstance(tasks, str) else frozenset(named[t] for t in tasks)
