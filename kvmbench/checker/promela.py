"""The checker's model of a policy in Promela, for SPIN and for readers.

`kvmbench check --promela` writes it. It follows docs/check.md and shares no code with the
explorer, so that the tests can compare their verdicts. The machine around the policy is
data/promela/machine.pml.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from string import Template

from kvmbench.model import Policy, Step
from kvmbench.tomlfile import DATA

__all__ = ["promela"]

Regions = Sequence[Sequence[Step]]

ACTIONS = {  # the others are inlines of the same name
    "mark_available": "cpu[c].busy = 0", "refresh": "reload(c)", "stop": "ended = 1",
    "mark_stale": "cpu[c].stale = 1", "clear_stale": "cpu[c].stale = 0",
    "set_tif": "task[cur].tif = 1", "clear_tif": "task[cur].tif = 0",
    "validate_base": "cpu[c].valid = 1; cpu[c].all = 0",
    "invalidate_base": "cpu[c].valid = 0; cpu[c].all = 0",
    "validate_all": "cpu[c].valid = 0; cpu[c].all = 1",
    "set_iopl": "task[cur].iopl = 1", "clear_iopl": "task[cur].iopl = 0",
    "load_iopl": "cpu[c].iopl = task[cur].iopl", "inherit_iopl": "task[nxt].iopl = task[cur].iopl",
    "share_map": "share_map()", "dup_map": "dup_map()", "unshare_map": "unshare_map()",
    "set_child_tif": "task[nxt].tif = 1", "clear_child_tif": "task[nxt].tif = 0",
    "drop_child_map": "drop_of(nxt)",
    "alloc_map": "task[cur].has_map = 1", "edit_map": "edit_map()", "drop_map": "drop_map()",
    "wipe_map": "wipe(c)", "wipe_own": "wipe(c)",
}  # fmt: skip
CONDITIONS = {
    "tif": "task[cur].tif", "prev.tif": "task[cur].tif", "next.tif": "task[nxt].tif",
    "first": "task[cur].first", "on": "task[cur].on", "empty": "task[cur].map == 0",
    "stale": "cpu[c].stale", "sched": "by_switch", "child.tif": "task[nxt].tif",
    "iopl": "task[cur].iopl",
}  # fmt: skip
CALLS = {"fork": ("fork", "fork_failed"), "iopl": ("iopl", "exec")}  # an event's hooks
WITHOUT_TASK = {  # steps that a switch takes where no task was current
    *("reload", "ltr", "mark_available", "mark_stale", "clear_stale", "stop"),
    *("validate_base", "invalidate_base", "validate_all", "load_iopl"),
}


def promela(
    policy: Policy, cpus: int = 2, tasks: int = 3, ports: int = 2, events: Sequence[str] = ()
) -> str:
    """Return the model of `policy` on a machine of that size as a Promela text.

    `events` are those of docs/check.md that are explored on request.
    """
    put, call = _regions(policy, "vcpu_put"), _regions(policy, "ioperm")
    end = _regions(policy, "task_exit") if "exit-preemption" in events else []
    before = {f"IOPERM_{k}": region for k, region in enumerate(call)}
    before |= {f"PUT_{k}": region for k, region in enumerate(put) if k}
    before |= {f"EXIT_{k}": region for k, region in enumerate(end)}
    valid = int(policy.io_base_at_start == "valid")
    model = (DATA / "promela" / "machine.pml").read_text()
    return Template(model).substitute(
        dict(cpus=cpus, tasks=tasks, ports=ports),
        name=policy.name.replace("*/", "* /"),
        places="".join(
            f"#define {name} {number}  /* before: {', '.join(map(str, region))} */\n"
            for number, (name, region) in enumerate(before.items(), 3)
        ),
        running=" || ".join(f"cpu[{c}].task == x" for c in range(cpus)),
        policy="".join(_hooks(policy, call, put, end, events)),
        start="".join(
            f"    cpu[{c}].whole = 1; cpu[{c}].busy = 1; cpu[{c}].valid = {valid}; "
            f"cpu[{c}].task = IDLE; cpu[{c}].held = NUMBER_0;\n"
            for c in range(cpus)
        ),
        events="".join(
            f"  :: d_step {{ {guard} -> {event}; forget() }}\n"
            for c in range(cpus)
            for guard, event in chain(
                _events(c, tasks, ports, len(call), len(put), len(end)),
                _more_events(c, tasks, events),
            )
        ),
    )


def _regions(policy: Policy, hook: str) -> list[tuple[Step, ...]]:
    return [region for region in policy.regions(hook) if region]


def _hooks(
    policy: Policy, call: Regions, put: Regions, end: Regions, events: Sequence[str]
) -> Iterator[str]:
    """Return the hooks as inlines; those that preemption can enter have one per entry."""
    more = [*CALLS["fork"] * ("fork" in events), *CALLS["iopl"] * ("iopl" in events)]
    for hook in ("vm_exit", "vcpu_put", "switch", "exit_to_user", "task_exit", *more):
        steps = [step for region in _regions(policy, hook) for step in region]
        yield _inline(f"hook_{hook}(c)", _steps(steps, hook))
    for k, region in enumerate(call):
        yield _inline(f"ioperm_{k}(c)", [*_steps(region, "ioperm"), *_go_on(k, call)])
    for k, region in enumerate(put or [[]]):
        place = _after(region, f"PUT_{k + 1}" if k + 1 < len(put) else "RETURNING")
        yield _inline(f"put_{k}(c)", [*_steps(region, "vcpu_put"), place])
    for k, region in enumerate(end):
        place = f"task[cur].place = EXIT_{k + 1}" if k + 1 < len(end) else "end_task(c)"
        if _stops(region) and k + 1 < len(end):
            place = f"if :: ended -> end_task(c) :: else -> {place} fi"
        yield _inline(f"exit_{k}(c)", [*_steps(region, "task_exit"), place])
    yield _inline("ioperm(c, number, grant)", _begin(call))


def _inline(head: str, lines: Iterable[str]) -> str:
    body = ";\n".join(f"  {line}" for line in lines) or "  skip"
    return f"inline {head} {{\n{body}\n}}\n"


def _stops(region: Sequence[Step]) -> bool:
    return any(step.action == "stop" for step in region)


def _steps(steps: Sequence[Step], hook: str) -> Iterator[str]:
    if _stops(steps):
        yield "ended = 0"
    for step in steps:
        terms = [CONDITIONS[name] if wanted else f"!({CONDITIONS[name]})"
                 for name, wanted in step.when]  # fmt: skip
        terms += ["!ended"] if _stops(steps) else []
        if step.action == "refresh":
            terms.append("cpu[c].stale")
        elif step.action == "copy_map":
            terms.append("nxt != IDLE")
        elif hook == "switch" and step.action not in WITHOUT_TASK:
            terms.append("cur != IDLE")
        action = ACTIONS.get(step.action, f"{step.action}(c)")
        if hook == "switch" and step.action == "load_iopl":
            action = "cpu[c].iopl = task[nxt].iopl"
        yield f"if :: {' && '.join(terms)} -> {action} :: else fi" if terms else action


def _after(region: Sequence[Step], place: str) -> str:
    """Return the assignment of the place after a region, RETURNING (0) after its `stop`."""
    stopped = "!ended * " if _stops(region) and place != "RETURNING" else ""
    return f"task[cur].place = {stopped}{place}"


def _read_from(call: Regions, k: int) -> set[str]:
    """Return which fields of the request some entry from the k-th on may read."""
    read = set()
    for step in (step for region in call[k:] for step in region):
        read |= {"port", "on"} if step.action == "edit_map" else set()
        read |= {"before"} if step.action == "load_map" else set()
        read |= {name for name, _ in step.when if name in ("first", "on")}
    return read


def _go_on(k: int, call: Regions) -> Iterator[str]:
    """Go to the next entry, and forget the parts of the request that no later entry reads."""
    yield _after(call[k], f"IOPERM_{k + 1}" if k + 1 < len(call) else "RETURNING")
    kept = _read_from(call, k + 1)
    for name in ("port", "on", "first", "before"):
        if name not in kept:
            yield f"task[cur].{name} = 0"
    if kept and _stops(call[k]):
        gone = "; ".join(f"task[cur].{name} = 0" for name in sorted(kept))
        yield f"if :: ended -> {gone} :: else fi"


def _begin(call: Regions) -> Iterator[str]:
    yield "cur = cpu[c].task"
    yield f"task[cur].place = {'IOPERM_0' if call else 'RETURNING'}"
    yield "task[cur].owns = (task[cur].owns & ~(1 << number)) | (grant << number)"
    read = _read_from(call, 0)
    for name, value in (("port", "number"), ("on", "grant"), ("first", "!task[cur].has_map")):
        if name in read:
            yield f"task[cur].{name} = {value}"


def _more_events(c: int, tasks: int, events: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return the events of a CPU that are explored on request."""
    user = f"at({c}, USER)"
    for t in range(tasks) if "fork" in events else ():
        for event in ("fork", "fork_fails"):
            yield f"{user} && !running({t}) && is_new({t})", f"{event}({c}, {t})"
    if "iopl" in events:
        yield user, f"call_iopl({c}, 0)"
        yield user, f"call_iopl({c}, 1)"
        yield user, f"call_exec({c})"


def _events(
    c: int, tasks: int, ports: int, calls: int, puts: int, ends: int
) -> Iterator[tuple[str, str]]:
    """Return the events of a CPU, each with its guard."""
    for t in range(tasks):
        yield f"!running({t})", f"schedule({c}, {t})"
    yield f"cpu[{c}].task != IDLE", f"schedule({c}, IDLE)"
    yield f"at({c}, RETURNING)", f"to_user({c})"
    yield f"at({c}, USER)", f"kvm_run({c})"
    for port in range(ports):
        for grant in (0, 1):
            yield f"at({c}, USER)", f"ioperm({c}, {port}, {grant})"
    for k in range(calls):
        yield f"at({c}, IOPERM_{k})", f"cur = cpu[{c}].task; ioperm_{k}({c})"
    for k in range(1, puts):
        yield f"at({c}, PUT_{k})", f"cur = cpu[{c}].task; put_{k}({c})"
    inside = f"at({c}, IN_RUN) && "
    for event in ("enter", "return_unentered", "vm_exit", "leave"):
        loaded = "" if event in ("vm_exit", "leave") else "!"
        yield f"{inside}{loaded}cpu[{c}].guest", f"{event}({c})"
    places = " || ".join(f"at({c}, {place})" for place in ("RETURNING", "USER", "IN_RUN"))
    yield places, f"{'begin' if ends else 'task'}_exit({c})"
    for k in range(ends):
        yield f"at({c}, EXIT_{k})", f"cur = cpu[{c}].task; exit_{k}({c})"
