from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from typing_extensions import disjoint_base

from kvmbench.model import Policy

__all__ = ["BAD", "CPUS_MAX", "EVENTS", "PORTS_MAX", "STATES_MAX", "TASKS_MAX", "Explorer"]
__all__ += ["EXTRA_EVENTS", "syncs_first"]

EVENTS: tuple[str, ...]
EXTRA_EVENTS: tuple[str, ...]
BAD: tuple[str | None, ...]
CPUS_MAX: int
TASKS_MAX: int
PORTS_MAX: int
STATES_MAX: int

_Event = tuple[str, int, Any]
_State = Mapping[str, Sequence[Mapping[str, Any]]]
_Ended = Literal["all", "bad", "max_states", "max_memory", "memory"]
_Violation = Literal["leak", "denial", "fault", "null"]
_History = list[tuple[_Event | None, _State]]

def syncs_first(policy: Policy) -> bool: ...

@disjoint_base
class Explorer:
    @property
    def policy(self) -> Policy: ...
    @property
    def states(self) -> int: ...
    @property
    def queued(self) -> int: ...
    @property
    def transitions(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def memory(self) -> int: ...
    def __init__(
        self, policy: Policy, cpus: int, tasks: int, ports: int, *, symmetry: object = True,
        whole_calls: object = False, events: Iterable[str] = (), jobs: int = 1,
        max_states: int = ..., max_memory: int = ...,
    ) -> None: ...  # fmt: skip
    def explore(self, states: int) -> _Ended | None: ...
    def never_taken(self) -> list[tuple[str, int]]: ...
    def wasted(self) -> list[tuple[str, int, _History]]: ...
    def path(self) -> tuple[_History, _Violation, int | None]: ...
