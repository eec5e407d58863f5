"""State and operations that somebody else writes: an error or some result, never a wild access."""

import multiprocessing
import pickle
import threading
from multiprocessing import shared_memory

import numpy as np
import pytest

from kvmbench import OP_DTYPE, Machine, Op, OperationError

OPS = 500
REFUSED = 2000


def machine():
    made = Machine(2, 3, "exit-to-user", "patch-2017")
    made.switch(0, 0)
    made.ioperm(0, 0x378, 3)
    made.io(0, 0x378, 1)
    return made


def put(part, field, value):
    def damage(state):
        state[part][field][:] = value

    return damage


def replace(part, value):
    def damage(state):
        state[part] = value(state[part])

    return damage


MAP, TSS_MAP = np.zeros(8192, np.uint8), np.full(8193, 0xFF, np.uint8)
DAMAGES = {
    **{f"task {value}": put("cpu", "task", value) for value in (-2, 3, 10**6)},
    "one task on two CPUs": put("cpu", "task", 0),
    **{f"cpu.{field}": put("cpu", field, 255) for field in ("tss_busy", "limit_stale")},
    "cpu.guest_loaded": put("cpu", "guest_loaded", 2),
    "cpu.tr_limit": put("cpu", "tr_limit", 2**32 - 1),
    "cpu.io_base": put("cpu", "io_base", 65535),
    "cpu.map_max": put("cpu", "map_max", 8193),
    "cpu.cycles": put("cpu", "cycles", 2**63 + 1),
    **{f"task.{field}": put("task", field, 2) for field in ("tif", "has_map", "in_run")},
    "task.max": put("task", "max", 8193),
    "task.last_cpu": put("task", "last_cpu", 2),
    "few counters": replace("counters", lambda old: old[:1]),
    "no counters": replace("counters", lambda old: old[:0]),
    "counters of floats": replace("counters", lambda old: np.zeros(2)),
    "a map of no task": replace("task_maps", lambda old: {**old, 10**6: MAP}),
    "a lost map": replace("task_maps", lambda old: {}),
    "a short map": replace("task_maps", lambda old: {0: MAP[:1]}),
    "a map of no CPU": replace("tss_maps", lambda old: {-1: TSS_MAP}),
    "a short TSS map": replace("tss_maps", lambda old: {0: TSS_MAP[:-1]}),
    "a TSS map without its end": replace("tss_maps", lambda old: {0: TSS_MAP * 0}),
    "a sequence below 0": replace("sequence", lambda old: -1),
    "a part too many": lambda state: state.update(more=1),
    "a part too few": lambda state: state.pop("sequence"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_pickle_is_refused(name):
    restore, (*given, state) = machine().__reduce__()
    DAMAGES[name](state)
    with pytest.raises(ValueError, match=r"damaged|sequence is -1"):
        restore(*given, state)


def test_a_sound_pickle_goes_on():
    old = machine()
    new = pickle.loads(pickle.dumps(old))
    assert new.exit(0, "inl_from_qemu") == old.exit(0, "inl_from_qemu")
    assert new.counters.tolist() == old.counters.tolist()


def scribble(ops, stop):
    """Write good and wild operations until told to stop."""
    draw = np.random.default_rng(1)
    while not stop.is_set():
        ops["a"] = 2**31 - 1
        ops["cpu"] = 65535
        ops["code"] = draw.integers(0, len(Op) + 1)
        ops["b"] = 70_000
        ops["arg"] = draw.integers(0, 6)
        ops["a"] = draw.integers(-2, 3)
        ops["cpu"] = draw.integers(0, 3)
        ops["b"] = 1


def scribble_shared(name, stop):
    memory = shared_memory.SharedMemory(name)
    scribble(np.ndarray(OPS, OP_DTYPE, memory.buf), stop)
    memory.close()


def test_operations_that_others_change_meanwhile():
    """A thread and another process write the array that run() reads."""
    context = multiprocessing.get_context("spawn")
    memory = shared_memory.SharedMemory(create=True, size=OPS * OP_DTYPE.itemsize)
    ops = np.ndarray(OPS, OP_DTYPE, memory.buf)
    ops[:] = 0
    stop, elsewhere = threading.Event(), context.Event()
    writers = [
        threading.Thread(target=scribble, args=(ops, stop)),
        context.Process(target=scribble_shared, args=(memory.name, elsewhere)),
    ]
    for writer in writers:
        writer.start()
    made, refused = machine(), 0
    try:
        while refused < REFUSED:  # the writers need a moment to begin
            try:
                made.run(ops)
            except OperationError:
                refused += 1
    finally:
        stop.set()
        elsewhere.set()
        for writer in writers:
            writer.join()
        del ops
        memory.close()
        memory.unlink()

    attributed = sum(
        int(made.counters[n].sum()) for n in made.counters.dtype.names if n[:2] == "c_"
    )
    assert attributed == int(made.cpu["cycles"].sum())
