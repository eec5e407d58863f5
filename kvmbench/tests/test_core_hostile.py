"""State and operations that somebody else writes: an error or some result, never a wild access."""

import contextlib
import multiprocessing
import pickle
import re
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
    with pytest.raises(ValueError, match=r"^this pickle of a Machine is damaged: "):
        restore(*given, state)


STRANGE = [
    None, "x", 1.5, -1, 2**70, True, [], [1], {}, {"x": 1}, {None: None}, {0: 1, "x": 2}, (), b"x",
    float("nan"), {1.5: MAP}, {0: {}}, object, np.zeros(2), np.zeros((2, 2, 2), "O"), np.float64(1),
    np.array([], "O"), np.datetime64("NaT"), "two\nlines",
]  # fmt: skip


def places(given):
    """Yield each place of a pickle's arguments: a list or dict, and a key of it."""
    for number in range(len(given)):
        yield given, number
    state = given[-1]
    for part in state:
        yield state, part
        if isinstance(state[part], dict):
            yield from ((state[part], key) for key in state[part])


def restored(restore, given):
    """Restore a pickle that may be damaged; None where it is refused, in one line."""
    try:
        return restore(*given)
    except ValueError as error:
        said = str(error)
    assert re.fullmatch(r"this pickle of a Machine is damaged: .{1,250}", said)  # one line
    return None


def test_values_of_any_type_anywhere_in_a_pickle():
    given = list(machine().__reduce__()[1])
    refused = 0
    for number in range(len(list(places(given)))):
        for value in STRANGE:
            restore, given = machine().__reduce__()
            given = list(given)
            found, key = list(places(given))[number]
            found[key] = value
            refused += restored(restore, given) is None
            if key in ("task_maps", "tss_maps", "shared"):  # among the keys too
                restore, given = machine().__reduce__()
                with contextlib.suppress(TypeError):  # no key of any dict
                    given[-1][key][value] = MAP
                    refused += restored(restore, given) is None
    assert refused > 200


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
