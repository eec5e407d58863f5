"""The core's dtypes, and checks that turn arguments into the core's arrays and integers.

For _core, _ports and scenario. Each function raises TypeError or ValueError with the argument's
name, value and range.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from kvmbench.errors import brief, cut, named

__all__ = ["COUNTERS", "COUNTERS_DTYPE", "OP_DTYPE", "check_state", "cycles_array", "integer"]
__all__ += ["integers", "named", "operations", "pairs", "read_only", "record_dtype", "sound"]
__all__ += ["wrong_width"]

OP_DTYPE = np.dtype(
    [("code", "u1"), ("arg", "u1"), ("cpu", "u2"), ("a", "i4"), ("b", "i4"), ("c", "i4")]
)
"""One operation, 16 bytes; model.Op has the meaning of `arg`, `a` and `b` per code."""

COUNTERS = (
    *("exits", "user_exits", "host_saves", "puts", "reloads", "marks", "faults", "switches"),
    *("migrations", "map_copies", "bytes_copied", "map_wipes", "io_allowed", "io_denied"),
    *("leaks", "denials", "c_exit", "c_user", "c_host", "c_tr", "c_map", "c_switch", "c_call"),
    *("c_io", "c_guest", "c_work", "c_idle", "nulls"),
)
"""The counters of each CPU, in the order of docs/model.md, section 7."""

COUNTERS_DTYPE = np.dtype([(name, "u8") for name in COUNTERS])


def record_dtype(columns: Mapping[str, tuple[str, int]], itemsize: int) -> np.dtype[np.void]:
    """Return the dtype of C records of `itemsize` bytes from {field: (format, offset)}."""
    formats, offsets = zip(*columns.values(), strict=True)
    return np.dtype(
        {"names": [*columns], "formats": formats, "offsets": offsets, "itemsize": itemsize}
    )


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return `array` itself, no longer writable."""
    array.flags.writeable = False
    return array


def integer(name: str, value: object, low: int, high: int) -> int:
    """Return `value` as an int in `low` to `high`."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} is {brief(value)}, not an integer") from None
    if not low <= number <= high:
        raise ValueError(f"{name} is {number}, not in {low} to {high}")
    return number


def integers(name: str, values: ArrayLike, dtype: DTypeLike) -> NDArray[Any]:
    """Return `values` as an array of an integer `dtype`; only integers that fit will do."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} cannot be made an array: {error}") from None
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name} holds {array.dtype}, not integers")
    limit = np.iinfo(np.dtype(dtype))
    if array.size and not (limit.min <= int(array.min()) and int(array.max()) <= limit.max):
        wrong = array.min() if int(array.min()) < limit.min else array.max()
        raise ValueError(f"{name} holds {wrong}, not in {limit.min} to {limit.max}")
    return array.astype(dtype)


def pairs(ports: ArrayLike, widths: ArrayLike) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Return `ports` and `widths` as contiguous arrays of one shape."""
    ports, widths = integers("ports", ports, np.uint16), integers("widths", widths, np.uint8)
    if ports.shape != widths.shape:
        try:
            ports, widths = np.broadcast_arrays(ports, widths)
        except ValueError:
            shapes = f"ports has shape {ports.shape}, widths {widths.shape}"
            raise ValueError(f"{shapes}: they do not broadcast to one") from None
    return np.asarray(ports, order="C"), np.asarray(widths, order="C")


def wrong_width(widths: NDArray[np.uint8]) -> ValueError:
    """Return the error that names the first width that no IN or OUT has."""
    wrong = widths[(widths != 1) & (widths != 2) & (widths != 4)]
    return ValueError(f"widths holds {wrong[0]}, not 1, 2 or 4 bytes")


def operations(ops: ArrayLike) -> NDArray[np.void]:
    """Return `ops` as a contiguous array of OP_DTYPE, (n,)."""
    if hasattr(ops, "__array__"):
        array = np.asarray(ops)
        if array.dtype != OP_DTYPE:
            raise TypeError(f"ops is an array of {array.dtype}, not of OP_DTYPE")
    else:
        # Item by item: numpy would take a bare number for all six fields, and cut fractions off.
        try:
            rows: Any = ops
            array = np.array([tuple(map(operator.index, row)) for row in rows], OP_DTYPE)
        except (OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"ops cannot be made an array of OP_DTYPE: {error}") from None
    if array.ndim != 1:
        raise ValueError(f"ops has {array.ndim} dimensions, not 1")
    return np.ascontiguousarray(array)


def cycles_array(array: object, n: int) -> NDArray[np.uint64]:
    """Return `array` where it can receive the cycles of `n` operations."""
    if not isinstance(array, np.ndarray) or array.dtype != np.uint64 or array.shape != (n,):
        raise ValueError(f"cycles_out is not an array of uint64 of shape ({n},)")
    if not array.flags.c_contiguous or not array.flags.writeable:
        raise ValueError("cycles_out is not contiguous and writable")
    return array


MAP_BYTES, TSS_MAP_BYTES = 8192, 8193


@contextmanager
def sound(what: str) -> Iterator[None]:
    """Raise ValueError, in one line, for whatever a pickle's values of a wrong kind raise."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = cut(" ".join(str(error).split()), 200)
        raise ValueError(f"this pickle of a {what} is damaged: {reason}") from None


def check_state(
    state: Mapping[str, Any],
    arrays: Mapping[str, tuple[np.dtype[np.void], int]],
    ranges: Mapping[str, Mapping[str, Collection[int]]],
) -> None:
    """Raise where a pickled state is none that a Machine can have.

    `arrays` has the dtype and the length of each array of records, `ranges` the values that the
    fields may have. The core trusts each of these values: it indexes by some and copies by others.
    """

    def require(good: object, reason: str) -> None:
        if not good:
            raise ValueError(reason)

    names = {*arrays, "task_maps", "tss_maps", "shared", "sequence"}
    require(isinstance(state, dict) and state.keys() == names, "it lacks a part")
    for name, (dtype, n) in arrays.items():
        found = state[name]
        good = isinstance(found, np.ndarray) and found.dtype == dtype and found.shape == (n,)
        require(good, f"{name} is not {n} records of a Machine")
        for field, allowed in ranges.get(name, {}).items():
            values = found[field]
            if isinstance(allowed, range):
                inside = (values >= allowed.start) & (values < allowed.stop)
            else:
                inside = np.isin(values, list(allowed))
            require(inside.all(), f"{name}.{field} is out of range")
    running = state["cpu"]["task"]
    running = running[running >= 0]
    require(len(np.unique(running)) == len(running), "a task runs on two CPUs")
    with_map = np.flatnonzero(state["task"]["has_map"]).tolist()
    require(set(state["task_maps"]) == set(with_map), "task_maps are not those of the tasks")
    shared = state["shared"]
    good = isinstance(shared, dict) and shared.keys() <= set(with_map)
    good = good and set(shared.values()) <= set(with_map) - shared.keys()
    require(good, "shared names tasks without a map")
    tasks = state["task"]
    for task, first in shared.items():
        alike = all(tasks[field][task] == tasks[field][first] for field in ("max", "seq"))
        require(alike, "tasks that share a map differ in it")
    require(set(state["tss_maps"]) <= set(range(arrays["cpu"][1])), "tss_maps has no such CPU")
    for name, size in (("task_maps", MAP_BYTES), ("tss_maps", TSS_MAP_BYTES)):
        for found in state[name].values():
            good = isinstance(found, np.ndarray) and found.dtype == np.uint8
            require(good and found.shape == (size,), f"{name} holds no {size} bytes")
    require(all(found[-1] == 0xFF for found in state["tss_maps"].values()), "a map has no end")
    integer("sequence", state["sequence"], 0, 2**64 - 1)
