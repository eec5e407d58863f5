"""The exceptions of kvmbench: one root, so that one `except` catches all of them.

    KvmbenchError
    ├── OperationError (ValueError)     an operation whose condition does not hold
    ├── FileError (ValueError)          a TOML or Python file that cannot be used
    ├── ResultError (ValueError)        a result, plan or foreign file that cannot be used
    ├── IncompatibleError (ValueError)  two results that cannot be compared
    ├── SweepError (RuntimeError)       a point of a sweep, or a process of it, that failed
    ├── LabError (RuntimeError)         no emulated machine, or one that did not do its job
    ├── LiveError (RuntimeError)        this host cannot measure
    │   └── WrongKernelError            another kernel is running than the plan's step measures
    └── KvmError (OSError)              an ioctl of /dev/kvm failed

Each message is one line that names the thing, the place and what was expected. Arguments of the
wrong type or out of range raise TypeError, ValueError or IndexError, as elsewhere in Python.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

__all__ = [
    "FileError",
    "IncompatibleError",
    "KvmError",
    "KvmbenchError",
    "LabError",
    "LiveError",
    "OperationError",
    "ResultError",
    "SweepError",
    "WrongKernelError",
    "brief",
    "cut",
    "listed",
    "named",
    "unknown_name",
]


class KvmbenchError(Exception):
    """The root of this package's exceptions."""


class OperationError(KvmbenchError, ValueError):
    """An operation whose condition does not hold; the machine stands as those before it left it.

    `index` is its place in the sequence given (0 for a single operation; for `repeat_exit`, how
    many were done), `reason` what does not hold.
    """

    def __init__(self, reason: str, index: int = 0) -> None:
        super().__init__(reason, index)
        self.reason = reason
        self.index = index

    def __str__(self) -> str:
        return f"operation {self.index}: {self.reason}"


class FileError(KvmbenchError, ValueError):
    """A file that cannot be used: says which, where in it, and what was expected."""


class ResultError(KvmbenchError, ValueError):
    """A file that is no result, in one line with the file and the place (`$.boots[0].id`)."""


class IncompatibleError(KvmbenchError, ValueError):
    """Two sides that no statistics can compare: other units, or a simulation and a measurement."""


class SweepError(KvmbenchError, RuntimeError):
    """A point of a sweep that cannot be computed, or a process that cannot compute points."""


class LabError(KvmbenchError, RuntimeError):
    """An emulated machine cannot be had or did not do its job, in one line with what would help."""


class LiveError(KvmbenchError, RuntimeError):
    """Nothing can be measured on this host, in one line with what would help."""


class WrongKernelError(LiveError):
    """The running kernel is not the one that the plan's next step measures."""


class KvmError(KvmbenchError, OSError):
    """An ioctl of /dev/kvm failed: `filename` is the ioctl's name."""


def unknown_name(what: str, name: object, known: Iterable[str]) -> str:
    """Return the message for a name that is not among `known`, with the nearest one."""
    import difflib  # only errors need it

    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {brief(near[0])}?" if near else f"known: {listed(names)}"
    return f"unknown {what} {brief(name)}; {hint}"


LOG10_2 = 0.30102999566398120
QUOTED, LISTED = 160, 200  # characters of a value, and of a list of names, in a message


class _Brief(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        try:
            str(x)
        except ValueError:  # more digits than Python writes
            return f"an integer of about {int((x.bit_length() - 1) * LOG10_2) + 1:,} digits"
        return super().repr_int(x, level)


_brief = _Brief()
_brief.maxlevel, _brief.maxstring, _brief.maxother, _brief.maxlong = 3, 60, 60, 40


def brief(value: object) -> str:
    """Return `repr(value)` for a message: of a long or deeply nested value, a part."""
    return cut(_brief.repr(value), QUOTED)


def cut(words: str, most: int = 60) -> str:
    """Return text for a message: of one longer than `most` characters, the beginning and end."""
    half = (most - 3) // 2
    return words if len(words) <= most else f"{words[:half]}...{words[-half:]}"


def listed(names: Iterable[str]) -> str:
    """Return names for a message, separated by commas; of many, the first ones."""
    names = list(names)
    shown: list[str] = []
    for name in names:
        if sum(map(len, shown)) + min(len(name), 60) > LISTED - 2 * len(shown):
            return f"{', '.join(shown)} and {len(names) - len(shown):,} more"
        shown.append(cut(name))
    return ", ".join(shown) or "none"


def named(what: str, value: object, kind: type[T], built_in: Callable[[], Mapping[str, T]]) -> T:
    """Return `value`, or the built-in one of that name."""
    if isinstance(value, kind):
        return value
    if isinstance(value, str):
        found = built_in()
        if value not in found:
            raise ValueError(unknown_name(what, value, found))
        return found[value]
    raise TypeError(
        f"{what} is {brief(value)}, neither a {kind.__name__} nor a built-in one's name"
    )
