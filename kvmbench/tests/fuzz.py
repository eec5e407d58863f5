"""Fuzzing of the readers: `python -m kvmbench.tests.fuzz SECONDS [SEED]`.

An input is a file of corpus/ after some edits. It must become a result that can be printed and
written, or one line of ResultError. A failure prints the reader and the seed that makes the input
again. test_formats_fuzz.py tries some hundred seeds per reader.
"""

import contextlib
import random
import re
import sys
import time
from pathlib import Path

from kvmbench import formats
from kvmbench.errors import ResultError
from kvmbench.formats import READABLE, WRITABLE

CORPUS = {
    form: [
        path.read_bytes() for path in sorted((Path(__file__).parent / "corpus").glob(f"{form}.*"))
    ]
    for form in READABLE
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
    *(b"a" * 600, b"-kernel x86/vmexit.flat", b"accel=tcg", b"99999 cpuid 1\n", b"ipi ipi 5\n"),
]


def fuzzed(form: str, seed: int) -> bytes:
    """Return an input for the reader of `form`: a file of the corpus after up to eight edits."""
    rng = random.Random(f"{form} {seed}")
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


def try_one(form: str, data: bytes) -> bool:
    """Read `data` and, if it is a result, print and write it; return whether it is one."""
    with contextlib.suppress(ResultError):
        formats._module(form).decode(data, "x")
    said = ""
    try:
        result = formats.decode(data, "x")
    except ResultError as error:
        said = str(error)
    if said:
        assert said.startswith("x"), said
        assert "\n" not in said, said
        assert len(said) < 1000, said
        return False
    assert repr(result)
    assert str(result)
    for other in WRITABLE:
        with contextlib.suppress(ResultError):
            formats.dump(result, other)
    assert formats.decode(formats.dump(result, "kvmbench"), "again") == result
    return True


def main(seconds: float, seed: int = 0) -> int:
    """Try inputs of all readers in turn, print how many each saw, and return an exit code."""
    end = time.monotonic() + seconds
    seen = {form: [0, 0, 0] for form in READABLE}
    while time.monotonic() < end:
        for form, counts in seen.items():
            counts[0] += 1
            try:
                counts[1] += try_one(form, fuzzed(form, seed))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
                counts[2] += 1
                if counts[2] <= 5:
                    print(f"{form}, seed {seed}: {type(error).__name__}: {str(error)[:200]}")
        seed += 1
    for form, (inputs, results, failures) in seen.items():
        print(f"{form}: {inputs} inputs, {results} results, {failures} failures")
    return 1 if any(failures for _, _, failures in seen.values()) else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(*sys.argv[2:3] or "0")))
