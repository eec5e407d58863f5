"""A counterexample as a trace of the Informal Trace Format, which Apalache and Quint read.

`kvmbench check --format itf` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kvmbench.checker.history import RawEvent, State

__all__ = ["itf"]

FORMAT = "https://apalache-mc.org/docs/adr/015adr-trace.html"
OWNERS = {"none": -1, "old": -2}  # of a TSS's map that is no task's


def itf(policy: str, violation: str, history: Sequence[tuple[RawEvent | None, State]]) -> str:
    """Return the history of a counterexample as JSON: variables `event`, `cpus` and `tasks`.

    Each variable has one type in all states: a task or port that is none is -1, a TSS's map with
    the number of no task (`map_of`) -2, and a task's map has the fields `there` and `ports`.
    """
    states = [
        {
            "#meta": {"index": number},
            "event": _event(event),
            **{kind: [_record(row) for row in state[kind]] for kind in ("cpus", "tasks")},
        }
        for number, (event, state) in enumerate(history)
    ]
    meta = {"format": "ITF", "format-description": FORMAT, "source": "kvmbench check"}
    meta |= {"description": f"{policy}: {violation}"}
    trace = {"#meta": meta, "params": [], "vars": ["event", "cpus", "tasks"], "states": states}
    return json.dumps(trace, indent=1) + "\n"


def _event(event: RawEvent | None) -> Mapping[str, Any]:
    """Return an event as a record; an argument that it has not is -1."""
    code, cpu, argument = event or ("start", -1, None)
    first, second = argument if isinstance(argument, tuple) else (argument, None)
    return {
        "code": code, "cpu": _number(cpu), "argument": _number(-1 if first is None else first),
        "on": bool(second),
    }  # fmt: skip


def _record(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {column: _value(column, value) for column, value in row.items()}


def _value(column: str, value: Any) -> Any:
    if column == "map":
        return {"there": value is not None, "ports": _ports(value or ())}
    if isinstance(value, tuple):
        return _ports(value)
    if column == "map_of":
        return _number(OWNERS.get(value, value))
    if isinstance(value, (bool, str)):
        return value
    return _number(-1 if value is None else value)


def _ports(ports: Sequence[int]) -> Mapping[str, Any]:
    return {"#set": [_number(port) for port in ports]}


def _number(value: int) -> Mapping[str, str]:
    return {"#bigint": str(value)}
