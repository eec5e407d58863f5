"""The causes of cycles: each one's name, the core's counter of it, and its label in a table.

Also the counters of a policy's mistakes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["CAUSES", "OF_EXITS", "OF_STEPS", "OF_USERSPACE", "WRONG", "Cause"]


class Cause(NamedTuple):
    """A cause: the counter that holds its cycles (docs/model.md, section 7), and a label."""

    counter: str
    label: str


CAUSES: Mapping[str, Cause] = MappingProxyType(
    {
        "guest": Cause("c_guest", "guest"),
        "work": Cause("c_work", "work"),
        "idle": Cause("c_idle", "idle"),
        "exit": Cause("c_exit", "exit"),
        "user": Cause("c_user", "user"),
        "host": Cause("c_host", "host state"),
        "tr": Cause("c_tr", "TR"),
        "map": Cause("c_map", "map"),
        "switch": Cause("c_switch", "switch"),
        "ioperm": Cause("c_call", "ioperm"),
        "io": Cause("c_io", "io"),
    }
)
"""Every cause by name; their counters sum to a CPU's cycles."""

OF_EXITS = ("exit", "user", "host", "tr", "map")
"""The causes of cycles in a loop of exits."""

OF_STEPS = ("tr", "map")
"""The causes of cycles of a policy's own steps."""

OF_USERSPACE = ("switch", "ioperm", "io")
"""The causes of cycles of a workload's operations in userspace."""

WRONG = ("leaks", "denials", "faults", "nulls")
"""The counters that stay 0 under a correct policy (docs/model.md, section 7)."""
