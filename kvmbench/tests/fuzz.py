"""Fuzzing of the readers: `python -m kvmbench.tests.fuzz SECONDS [SEED [TARGET...]]`.

An input is a file of corpus/ or of data/ after some edits. It must become a thing that can be
printed and written, or one short line of an error. The pickles and operations of a machine are
bytes of its arrays after some edits. A failure prints the target and the seed that makes the input
again. test_formats_fuzz.py tries some dozen seeds per target.
"""

import contextlib
import pickle
import random
import re
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from kvmbench import OP_DTYPE, Machine, OperationError, catalog, formats
from kvmbench.cli import show
from kvmbench.errors import FileError, ResultError
from kvmbench.formats import READABLE, WRITABLE
from kvmbench.live import plan as plans
from kvmbench.report import write
from kvmbench.results import Host
from kvmbench.scenario import scenario
from kvmbench.tests import test_core_hostile

LONGEST = 400  # characters of an error, the file's name aside
HERE = Path(__file__).parent
KERNELS = tuple(plans.Kernel(label=x, release=x, results=f"{x}.json") for x in "ab")
PLAN = plans.make(KERNELS, 2, 1, ["cpuid", "--runs", "3"])


def corpus(pattern: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(HERE.parent.glob(pattern))]


CORPUS = {form: corpus(f"tests/corpus/{form}.*") for form in READABLE}
CORPUS |= {
    "policies": [*corpus("data/policies.toml"), *corpus("tests/corpus/policies.*")],
    "profile": [*corpus("data/profiles/*.toml"), *corpus("tests/corpus/profile.*")],
    "scenario": [*corpus("data/scenarios/*.toml"), *corpus("tests/corpus/scenario.*")],
    "plan": [msgspec.json.format(msgspec.json.encode(PLAN), indent=1)],
}
TOKENS = [
    *(
        b"9" * 400,
        b"9" * 30,
        b"1e308",
        b"-1e309",
        b"1e-320",
        b"NaN",
        b"-0",
        b"1_000",
        b"0x10",
        b"\xd9\xa3",
    ),
    *(b"[" * 3000, b"{" * 3000, b'{"a":' * 500, b"(" * 300, b"null", b"true", b'""', b"[]", b"{}"),
    *(b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\x1b[31m"),
    *(
        b"\n",
        b"\r",
        b"\t",
        b" ",
        b":",
        b"|",
        b"->",
        b"%",
        b"=",
        b"#",
        b">",
        b'"',
        b"'",
        b",",
        b"\\",
    ),
    *(
        b"Before:\n",
        b"After:\n",
        b"cpuid",
        b"hlt 5\n",
        b"Benchmark",
        b"Unit ",
        b"name total ns avg",
    ),
    *(b'"""', b"'''", b"[[", b"a." * 30, b"{a.b=1}", b"0x" + b"f" * 300, b"1979-05-27", b"= 1\n"),
    *(b"vm_exit", b"reload if tif", b"[costs]\n", b"[[tasks]]\n", b"extends", b"name"),
    *(b"a" * 600, b"-kernel x86/vmexit.flat", b"accel=tcg", b"99999 cpuid 1\n", b"ipi ipi 5\n"),
]


def fuzzed(form: str, seed: int) -> bytes:
    """Return an input for the reader of `form`: a file of the corpus after up to eight edits."""
    rng = random.Random(f"{form} {seed}")
    if form == "operations":
        return rng.randbytes(16)
    data = rng.choice(CORPUS[form])
    every = [text for texts in CORPUS.values() for text in texts]
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        numbers = [found.span() for found in re.finditer(rb"\d[\d.]*", data)]
        if numbers and rng.random() < 0.4:
            a, b = rng.choice(numbers)
            number = rng.choice([b"0", b"1", b"-5", b"7.25", b"1e3", b"99999999", *TOKENS[:6]])
            data = data[:a] + number + data[b:]
            continue
        if rng.random() < 0.7:
            b = min(b, a + rng.randint(0, 20))
        other = rng.choice(every)
        start = rng.randrange(len(other))
        part = rng.choice(
            [
                b"",
                data[a:b] * rng.randint(2, 9),
                rng.choice(TOKENS),
                rng.randbytes(rng.randint(1, 4)),
                other[start : start + rng.randint(1, 200)],
                data[a:b].swapcase(),
            ]
        )
        data = data[:a] + part + data[b:]
        if rng.random() < 0.02:
            data = data[:a]
    if rng.random() < 0.03:
        data = data.decode(errors="replace").encode("utf-16")
    return data


def try_one(target: str, data: bytes) -> bool:
    """Read `data` and, if it is a thing, print and write it; return whether it is one."""
    try:
        OTHERS.get(target, lambda data: try_result(target, data))(data)
    except (FileError, ResultError) as error:
        said = str(error)
        assert said.startswith("x"), said
        assert "\n" not in said, said
        assert len(said) < LONGEST, said
        return False
    return True


def try_result(form: str, data: bytes) -> None:
    with contextlib.suppress(ResultError):
        formats._module(form).decode(data, "x")
    result = formats.decode(data, "x")
    assert repr(result)
    assert str(result)
    for other in WRITABLE:
        with contextlib.suppress(ResultError):
            formats.dump(result, other)
    assert formats.decode(formats.dump(result, "kvmbench"), "again") == result


def from_file(load, use):
    """Return a target that loads a file and uses the thing that it holds."""

    def target(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            Path("x").write_bytes(data)
            use(load("x"))

    return target


def use_policies(found) -> None:
    for policy in found.values():
        assert write(show._policy(policy), "text")
        machine = Machine(1, 1, policy, "patch-2017")
        machine.switch(0, 0)
        machine.ioperm(0, 5, 3)
        machine.exit(0, "inl_from_qemu")


def use_profile(found) -> None:
    assert write(show._profile(found), "text")
    machine = Machine(1, 1, "deferred", found)
    machine.switch(0, 0)
    for kind in found.kinds[:3]:
        machine.exit(0, kind.name)


def use_scenario(found) -> None:
    assert write(show._scenario(found), "text")
    with contextlib.suppress(ValueError):  # an exit kind that the profile does not have
        if found.cpus < 100 and found.n_tasks < 1000:
            found.ops(20, "deferred")


def use_plan(found) -> None:
    if found.next() is not None:
        with contextlib.suppress(plans.WrongKernelError):
            plans.due(found, Host(kernel="a", cmdline=""), "boot")


def edited(array: np.ndarray, rng: random.Random) -> np.ndarray:
    """Return a copy with up to three bytes changed, or numbers at the edges of their type."""
    data = bytearray(np.ascontiguousarray(array).tobytes())
    for _ in range(rng.randint(0, 3) if data else 0):
        at = rng.randrange(len(data))
        part = rng.choice([rng.randbytes(1), b"\0" * 8, b"\xff" * 8, b"\xff" * 3 + b"\x7f"])
        data[at : at + len(part)] = part[: len(data) - at]
    return np.frombuffer(bytes(data), array.dtype).reshape(array.shape).copy()


def try_operations(data: bytes) -> None:
    """Run operations on a machine, whole or as it comes from an edited pickle."""
    rng = random.Random(data)
    machine = test_core_hostile.machine()
    if rng.random() < 0.7:
        restore, arguments = machine.__reduce__()
        arguments = [*arguments]
        state = arguments[-1]
        for part in rng.sample(sorted(state), rng.randint(1, 2)):
            if isinstance(state[part], dict):
                state[part] = {key: edited(array, rng) for key, array in state[part].items()}
            elif isinstance(state[part], np.ndarray):
                state[part] = edited(state[part], rng)
        if rng.random() < 0.3:
            found, key = rng.choice([*test_core_hostile.places(arguments)])
            found[key] = rng.choice(test_core_hostile.STRANGE)
        machine = test_core_hostile.restored(restore, arguments)
        if machine is None:
            return
    ops = np.zeros(40, OP_DTYPE)
    ops["code"], ops["cpu"] = np.array([[rng.randrange(6), rng.randrange(2)] for _ in ops]).T
    ops["a"], ops["b"] = np.array([[rng.randrange(4), rng.randrange(9)] for _ in ops]).T
    with contextlib.suppress(OperationError):
        machine.run(ops)
    for one in edited(ops, rng):
        with contextlib.suppress(OperationError):
            machine.run(np.array([one]))
    with contextlib.suppress(ValueError, OverflowError):
        again = pickle.loads(pickle.dumps(machine.copy()))
        assert again.counters.tolist() == machine.counters.tolist()


OTHERS = {
    "policies": from_file(catalog.load_policies, use_policies),
    "profile": from_file(catalog.load_profile, use_profile),
    "scenario": from_file(scenario.load_scenario, use_scenario),
    "plan": from_file(plans.read, use_plan),
    "operations": try_operations,
}
CORPUS["operations"] = [b"the seed of a machine"]


def main(seconds: float, seed: int = 0, targets: tuple[str, ...] = ()) -> int:
    """Try inputs of all targets in turn, print how many each saw, and return an exit code."""
    end = time.monotonic() + seconds
    seen = {target: [0, 0, 0] for target in targets or CORPUS}
    while time.monotonic() < end:
        for target, counts in seen.items():
            counts[0] += 1
            try:
                counts[1] += try_one(target, fuzzed(target, seed))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
                counts[2] += 1
                if counts[2] <= 5:
                    print(f"{target}, seed {seed}: {type(error).__name__}: {str(error)[:300]}")
        seed += 1
    for target, (inputs, things, failures) in seen.items():
        print(f"{target}: {inputs} inputs, {things} read, {failures} failures")
    return 1 if any(failures for _, _, failures in seen.values()) else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(*sys.argv[2:3] or "0"), tuple(sys.argv[3:])))
