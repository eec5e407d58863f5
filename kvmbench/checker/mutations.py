"""Mutations of a policy: each of its steps dropped, moved, reordered, made unconditional.

`verdict.check` explores them for `kvmbench check --mutations`, and SPIN in the tests.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from kvmbench.model import HOOKS, Policy, Step

__all__ = ["mutations", "needed"]

Entries = list[list[str]]
PREEMPTED = ("ioperm", "vcpu_put")  # hooks with preemptions between their entries, in any search


def mutations(policy: Policy, events: Collection[str] = ()) -> dict[str, Policy]:
    """Return the mutants of a policy by mutation, without duplicates.

    `events` are those that are explored on request: a mutant has no step and no condition that
    only the others need.

    Each step is dropped; swapped with the next one of its hook; moved to the front and to the end
    of its hook; moved out of its inner list, before and after it, so that preemption is possible
    in between; and loses each of its conditions. A mutant's policy is named `HOOK: mutation`; if
    a hook has a step twice, the name of the second mutant ends in a number.
    """
    policy = needed(policy, events)
    found: dict[str, Policy] = {}
    known = {_body(policy)}
    preempted = {"task_exit"} if "exit-preemption" in events else ()
    for hook in HOOKS:
        own = [[str(step) for step in region] for region in policy.regions(hook)]
        between = hook in PREEMPTED or hook in preempted
        for mutation, entries in _of_hook(hook, own, between):
            label = f"{hook}: {mutation}"
            frozen = tuple(tuple(entry) for entry in entries if entry)
            mutant = replace(policy, name=label, about="", **{hook: frozen})  # type: ignore[arg-type]
            if _body(mutant) not in known:
                known.add(_body(mutant))
                same = sum(name.partition(" (")[0] == label for name in found)
                label += f" ({same + 1})" if same else ""
                found[label] = replace(mutant, name=label)
    return found


def needed(policy: Policy, events: Collection[str] = ()) -> Policy:
    """Return a policy of the same behaviour where `events` alone happen, without idle steps."""
    gone = {"fork": ("fork", "fork_failed"), "iopl": ("iopl", "exec")}
    empty = {hook for event, hooks in gone.items() if event not in events for hook in hooks}
    idle = {"unshare_map"} if "fork" not in events else set()  # steps that then do nothing
    idle |= {"load_iopl"} if "iopl" not in events else set()
    hooks: dict[str, tuple[tuple[str, ...], ...]] = {}
    for hook in HOOKS:
        kept: list[tuple[str, ...]] = []
        for region in policy.regions(hook) if hook not in empty else ():
            steps = [step for step in region if step.action not in idle]
            if "iopl" not in events:
                steps = [
                    step._replace(when=tuple(c for c in step.when if c[0] != "iopl"))
                    for step in steps if ("iopl", True) not in step.when
                ]  # fmt: skip
            kept.append(tuple(map(str, steps)))
        hooks[hook] = tuple(region for region in kept if region)
    return replace(policy, **hooks)  # type: ignore[arg-type]


def _body(policy: Policy) -> tuple[tuple[tuple[Step, ...], ...], ...]:
    return tuple(tuple(region for region in policy.regions(hook) if region) for hook in HOOKS)


def _of_hook(hook: str, entries: Entries, preempted: bool) -> Iterator[tuple[str, Entries]]:
    places = [(i, j) for i, entry in enumerate(entries) for j in range(len(entry))]
    for at, (i, j) in enumerate(places):
        step = entries[i][j]
        rest = [[*entry] for entry in entries]
        del rest[i][j]
        yield f"without {step!r}", rest
        for k, n in places[at + 1 : at + 2]:
            other = [[*entry] for entry in entries]
            other[i][j], other[k][n] = other[k][n], other[i][j]
            yield f"{step!r} after {entries[k][n]!r}", other
        yield f"{step!r} first", [[step], *rest]
        yield f"{step!r} last", [*rest, [step]]
        if len(entries[i]) > 1 and preempted:
            yield f"{step!r} before its list", [*rest[:i], [step], *rest[i:]]
            yield f"{step!r} after its list", [*rest[: i + 1], [step], *rest[i + 1 :]]
        parsed = Step.parse(step, hook)
        for condition in parsed.when:
            other = [[*entry] for entry in entries]
            other[i][j] = str(parsed._replace(when=tuple(c for c in parsed.when if c != condition)))
            word = condition[0] if condition[1] else f"not {condition[0]}"
            yield f"{step!r} even if not {word!r}", other
