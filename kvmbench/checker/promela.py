"""The checker's model of a policy in Promela, for SPIN and for readers.

`kvmbench check --promela` writes it. It follows docs/check.md and shares no code with the
explorer, so that the tests can compare their verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kvmbench.model import Policy, Step

__all__ = ["promela"]

Regions = Sequence[Sequence[Step]]

HEAD = """\
/* Policy {name}: every interleaving on {cpus} CPUs, {tasks} tasks, {ports} ports, each port in a
   separate 64-bit word. Written by `kvmbench check --promela`; docs/check.md defines the events
   and explains why the numbers of maps need no counter. An assertion that fails is a leak, a
   denial or a fault.

   spin -a FILE && gcc -O2 -DSAFETY -o pan pan.c && ./pan -m10000000
   gcc -O2 -DSAFETY -DBFS ... && ./pan && spin -t -p FILE    finds and shows a shortest history */

#define CPUS {cpus}
#define TASKS {tasks}
#define IDLE TASKS        /* no task: a record that never changes */

/* The owner of the number of a TSS's map: a task, or */
#define NUMBER_0 TASKS
#define OLD (TASKS + 1)   /* no task any more */

/* A task's place */
#define RETURNING 0       /* in the kernel, only exit_to_user to come */
#define USER 1
#define IN_RUN 2          /* inside KVM_RUN */
{places}
typedef Cpu {{
  bit whole;              /* the TR limit takes the whole bitmap in */
  bit busy;               /* the TSS descriptor is of the busy type */
  bit stale;
  bit valid;              /* io_bitmap_base points at the bitmap */
  bit guest;              /* a guest is loaded */
  unsigned tss : {ports};       /* bit p: the TSS's map lets port p through */
  unsigned map_max : 3;   /* words that the last sync copied */
  unsigned held : 4;      /* the owner of the TSS's map: a task, NUMBER_0 or OLD */
  unsigned task : 3
}}
typedef Task {{
  byte place;
  bit tif;
  bit has_map;
  bit numbered;           /* the map's sequence number is not 0 */
  unsigned map : {ports};       /* bit p: the task's own map lets port p through */
  unsigned max : 3;       /* words */
  unsigned owns : {ports};      /* bit p: the latest ioperm() of port p granted it */
  unsigned port : 2;      /* ioperm()'s request, */
  bit on;
  bit first;              /* whether there was no map when it began, */
  unsigned before : 3     /* and 1 + max before its edit, 0 where none came yet */
}}
Cpu cpu[CPUS];
Task task[TASKS + 1];

/* Scratch of one event, 0 between events: pan's -DBFS takes no hidden variables. */
byte cur;          /* the current task, prev of a switch */
byte nxt;          /* next of a switch */
byte each;
byte size;         /* words */
byte bits;
byte lets;
byte by_switch;
byte ended;

#define running(x) ({running})
#define at(c, where) (cpu[c].task != IDLE && task[cpu[c].task].place == where)

inline forget() {{ cur = 0; nxt = 0; each = 0; size = 0; bits = 0; lets = 0; ended = 0 }}
inline size_larger(a, b) {{ if :: (a) > (b) -> size = a :: else -> size = b fi }}
inline copy(c, ports) {{  /* the first `size` words */
  bits = (1 << size) - 1;
  cpu[c].tss = (cpu[c].tss & ~bits) | ((ports) & bits)
}}
inline ltr(c) {{
  assert(!cpu[c].busy);   /* else a fault: #GP */
  cpu[c].whole = 1; cpu[c].busy = 1
}}
inline reload(c) {{ cpu[c].busy = 0; ltr(c); cpu[c].stale = 0 }}
inline new_number(is_number) {{
  for (each : 0 .. CPUS - 1) {{
    if :: task[cur].numbered && cpu[each].held == cur -> cpu[each].held = OLD :: else fi
  }}
  task[cur].numbered = is_number
}}
inline drop_map() {{ task[cur].has_map = 0; task[cur].map = 0; task[cur].max = 0; new_number(0) }}
inline edit_map() {{
  task[cur].has_map = 1;
  task[cur].before = task[cur].max + 1;
  if
  :: task[cur].on -> task[cur].map = task[cur].map | (1 << task[cur].port)
  :: else -> task[cur].map = task[cur].map & ~(1 << task[cur].port)
  fi;
  task[cur].max = 1;        /* word, even where no port is open */
  do :: (task[cur].map >> task[cur].max) > 0 -> task[cur].max++ :: else -> break od;
  new_number(1)
}}
inline load_map(c) {{
  size_larger(task[cur].before, task[cur].max + 1);
  size--;                 /* the larger of max before the edit and now */
  copy(c, task[cur].map)
}}
inline copy_map(c) {{
  size_larger(task[cur].tif * task[cur].max, task[nxt].max);
  copy(c, task[nxt].map)
}}
inline wipe(c) {{ size = task[cur].max; copy(c, 0) }}
inline sync_map(c) {{
  if
  :: task[cur].numbered && cpu[c].held == cur -> skip
  :: !task[cur].numbered && cpu[c].held == NUMBER_0 -> skip
  :: else ->
     size_larger(cpu[c].map_max, task[cur].max);
     copy(c, task[cur].map);
     cpu[c].map_max = task[cur].max;
     if :: task[cur].numbered -> cpu[c].held = cur :: else -> cpu[c].held = NUMBER_0 fi
  fi
}}
"""

TAIL = """\
/* Whenever a task is in user mode, the hardware lets through exactly its own ports. Only an event
   that brings the task there need look: no event of another CPU changes this comparison. */
inline look(c) {
  lets = cpu[c].whole * cpu[c].valid * cpu[c].tss;
  assert(!(lets & ~task[cur].owns));   /* else a leak */
  assert(!(task[cur].owns & ~lets))    /* else a denial */
}
inline leave_guest(c) { cpu[c].whole = 0; hook_vm_exit(c) }
inline interrupt(c) {
  if
  :: cpu[c].guest ->
     leave_guest(c); cpu[c].guest = 0; by_switch = 1; hook_vcpu_put(c); by_switch = 0
  :: else
  fi
}
inline switch_to(c) {
  hook_switch(c);
  if :: cur != IDLE && task[cur].place == USER -> task[cur].place = RETURNING :: else fi;
  cpu[c].task = nxt
}

/* Events */
inline schedule(c, next) { cur = cpu[c].task; nxt = next; interrupt(c); switch_to(c) }
inline to_user(c) { cur = cpu[c].task; hook_exit_to_user(c); task[cur].place = USER; look(c) }
inline kvm_run(c) { task[cpu[c].task].place = IN_RUN }
inline enter(c) { cpu[c].guest = 1 }
inline vm_exit(c) { cur = cpu[c].task; leave_guest(c) }
inline leave(c) { cur = cpu[c].task; leave_guest(c); cpu[c].guest = 0; put_0(c) }
inline return_unentered(c) { task[cpu[c].task].place = RETURNING }
inline task_exit(c) {
  cur = cpu[c].task; nxt = IDLE;
  interrupt(c);
  hook_task_exit(c);
  task[cur].tif = 0; task[cur].owns = 0; drop_map();    /* it may run again, as a new one */
  task[cur].place = RETURNING;
  switch_to(c)
}
"""


def promela(policy: Policy, cpus: int = 2, tasks: int = 3, ports: int = 2) -> str:
    """Return the model of `policy` on a machine of that size as a Promela text."""
    put = _regions(policy, "vcpu_put")
    call = _regions(policy, "ioperm")
    names = [f"IOPERM_{k}" for k in range(len(call))] + [f"PUT_{k}" for k in range(1, len(put))]
    places = "".join(
        f"#define {name} {number}  {_comment(name, call, put)}\n"
        for number, name in enumerate(names, 3)
    )
    parts = [
        HEAD.format(
            name=policy.name.replace("*/", "* /"), cpus=cpus, tasks=tasks, ports=ports,
            places=places, running=" || ".join(f"cpu[{c}].task == x" for c in range(cpus)),
        ),
        "\n/* The policy: a hook with the current task in cur, a switch's next in nxt */\n",
    ]  # fmt: skip
    for hook in ("vm_exit", "vcpu_put", "switch", "exit_to_user", "task_exit"):
        steps = [step for region in _regions(policy, hook) for step in region]
        parts.append(_inline(f"hook_{hook}(c)", _steps(steps, hook)))
    parts += [
        _inline(f"ioperm_{k}(c)", [*_steps(region, "ioperm"), *_go_on(k, call)])
        for k, region in enumerate(call)
    ]
    for k, region in enumerate(put or [[]]):
        after = f"PUT_{k + 1}" if k + 1 < len(put) else "RETURNING"
        place = f"task[cur].place = {_or_stopped(region, after)}"
        parts.append(_inline(f"put_{k}(c)", [*_steps(region, "vcpu_put"), place]))
    parts += [_begin(call), TAIL, _machine(policy, cpus, tasks, ports, len(call), len(put))]
    return "".join(parts)


def _regions(policy: Policy, hook: str) -> list[tuple[Step, ...]]:
    return [region for region in policy.regions(hook) if region]


def _comment(name: str, call: Regions, put: Regions) -> str:
    hook, _, k = name.partition("_")
    region = (call if hook == "IOPERM" else put)[int(k)]
    return f"/* before: {', '.join(map(str, region))} */"


def _inline(head: str, lines: Iterable[str]) -> str:
    body = ";\n".join(f"  {line}" for line in lines) or "  skip"
    return f"inline {head} {{\n{body}\n}}\n"


def _steps(steps: Sequence[Step], hook: str) -> list[str]:
    lines = []
    stops = any(step.action == "stop" for step in steps)
    if stops:
        lines.append("ended = 0")
    for step in steps:
        terms = [_condition(name, wanted) for name, wanted in step.when]
        terms += ["!ended"] if stops else []
        terms += _needs(step.action, hook)
        action = _action(step.action)
        lines.append(f"if :: {' && '.join(terms)} -> {action} :: else fi" if terms else action)
    return lines


def _needs(action: str, hook: str) -> list[str]:
    """Return the guards of a step without its conditions; only a switch may lack a current task."""
    if action == "refresh":
        return ["cpu[c].stale"]
    if action == "copy_map":
        return ["nxt != IDLE"]
    anywhere = ("reload", "ltr", "mark_available", "mark_stale", "clear_stale", "stop")
    bases = ("validate_base", "invalidate_base")
    return ["cur != IDLE"] if hook == "switch" and action not in (*anywhere, *bases) else []


def _action(action: str) -> str:
    return {
        "mark_available": "cpu[c].busy = 0",
        "ltr": "ltr(c)",
        "clear_stale": "cpu[c].stale = 0",
        "reload": "reload(c)",
        "mark_stale": "cpu[c].stale = 1",
        "refresh": "reload(c)",
        "set_tif": "task[cur].tif = 1",
        "clear_tif": "task[cur].tif = 0",
        "alloc_map": "task[cur].has_map = 1",
        "edit_map": "edit_map()",
        "load_map": "load_map(c)",
        "copy_map": "copy_map(c)",
        "wipe_map": "wipe(c)",
        "wipe_own": "wipe(c)",
        "sync_map": "sync_map(c)",
        "validate_base": "cpu[c].valid = 1",
        "invalidate_base": "cpu[c].valid = 0",
        "drop_map": "drop_map()",
        "stop": "ended = 1",
    }[action]


def _condition(name: str, wanted: bool) -> str:
    holds = {
        "tif": "task[cur].tif",
        "prev.tif": "task[cur].tif",
        "next.tif": "task[nxt].tif",
        "first": "task[cur].first",
        "on": "task[cur].on",
        "empty": "task[cur].map == 0",
        "stale": "cpu[c].stale",
        "sched": "by_switch",
    }[name]
    return holds if wanted else f"!({holds})"


def _or_stopped(region: Sequence[Step], place: str) -> str:
    stops = any(step.action == "stop" for step in region)
    return f"!ended * {place}" if stops and place != "RETURNING" else place


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
    after = f"IOPERM_{k + 1}" if k + 1 < len(call) else "RETURNING"
    yield f"task[cur].place = {_or_stopped(call[k], after)}"
    kept = _read_from(call, k + 1)
    forgotten = [name for name in ("port", "on", "first", "before") if name not in kept]
    for name in forgotten:
        yield f"task[cur].{name} = 0"
    if kept and any(step.action == "stop" for step in call[k]):
        gone = "; ".join(f"task[cur].{name} = 0" for name in sorted(kept))
        yield f"if :: ended -> {gone} :: else fi"


def _begin(call: Regions) -> str:
    read = _read_from(call, 0)
    lines = ["cur = cpu[c].task", f"task[cur].place = {'IOPERM_0' if call else 'RETURNING'}"]
    lines.append("task[cur].owns = (task[cur].owns & ~(1 << number)) | (grant << number)")
    lines += [f"task[cur].{name} = {value}" for name, value in
              (("port", "number"), ("on", "grant"), ("first", "!task[cur].has_map"))
              if name in read]  # fmt: skip
    return _inline("ioperm(c, number, grant)", lines)


def _machine(
    policy: Policy, cpus: int, tasks: int, ports: int, calls: int, puts: int
) -> str:  # fmt: skip
    lines = ["\nactive proctype machine() {", "  d_step {"]
    valid = int(policy.io_base_at_start == "valid")
    for c in range(cpus):
        lines.append(
            f"    cpu[{c}].whole = 1; cpu[{c}].busy = 1; cpu[{c}].valid = {valid}; "
            f"cpu[{c}].task = IDLE; cpu[{c}].held = NUMBER_0;"
        )
    lines += ["    forget()", "  }", "  do"]
    for c in range(cpus):
        lines += [
            f"  :: d_step {{ {guard} -> {event}; forget() }}" for guard, event in
            _events(c, tasks, ports, calls, puts)
        ]  # fmt: skip
    return "\n".join([*lines, "  od", "}", ""])


def _events(c: int, tasks: int, ports: int, calls: int, puts: int) -> Iterator[tuple[str, str]]:
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
    yield f"at({c}, IN_RUN) && !cpu[{c}].guest", f"enter({c})"
    yield f"at({c}, IN_RUN) && !cpu[{c}].guest", f"return_unentered({c})"
    yield f"at({c}, IN_RUN) && cpu[{c}].guest", f"vm_exit({c})"
    yield f"at({c}, IN_RUN) && cpu[{c}].guest", f"leave({c})"
    places = " || ".join(f"at({c}, {place})" for place in ("RETURNING", "USER", "IN_RUN"))
    yield places, f"task_exit({c})"
