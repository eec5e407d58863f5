"""Fuzzed inputs of every reader, and the limits on the memory that a reader takes.

`python -m kvmbench.tests.fuzz SECONDS` tries inputs for as long; a test run tries 60 per reader.
"""

import contextlib
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmbench import formats, results
from kvmbench.errors import ResultError
from kvmbench.tests import fuzz


@pytest.mark.parametrize("target", fuzz.CORPUS)
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_an_input_is_read_or_refused_in_one_short_line(target, seed):
    fuzz.try_one(target, fuzz.fuzzed(target, seed))


@pytest.mark.parametrize(
    ("form", "index"), [(form, i) for form, texts in fuzz.CORPUS.items() for i in range(len(texts))]
)
def test_the_corpus_is_read_by_its_reader(form, index):
    data = fuzz.CORPUS[form][index]
    assert form in fuzz.OTHERS or formats._format(data, "x") == form
    assert fuzz.try_one(form, data)


def ours(start, unit, end):
    return ('{"schema":"kvmbench.result/1","boots":[' + start, unit, end)


# Texts whose figures are as dense as their form allows: head, what repeats, tail.
DENSE = {
    "values": ours(
        '{"runs":[{"series":[{"workload":"w","kind":"noisy","values":[1', ",1", "]}]}]}]}"
    ),
    "runs": ours('{"runs":[{"series":[]}', ',{"series":[]}', "]}]}"),
    "boots": ours('{"runs":[{"series":[]}]}', ',{"runs":[{"series":[]}]}', "]}"),
    "rows": ours('{"runs":[{"series":[]}]}],"rows":[{"a":[0', ",[]", "]}]}"),
    "notes": ours('{"runs":[{"series":[]}]}],"notes":["a"', ',"a"', "]}"),
    "go": ("BenchmarkX 1 2 ns", " 1 n", "\n"),
    "go lines": ("", "Benchmark 1 1 n\n", ""),
    "go malformed": ("Benchmark 1 1 n\n", "Benchmark x\n", ""),
    "go keys": ("", "k{i}: 1\nBenchmark 1 1 n\n", ""),
    "go labels": (
        "k1: " + "a" * 400 + "\n", "k: {i}\nBenchmark 1 1 n\n", "k1: b\nBenchmark 1 1 n\n"
    ),
    "go names": ("Benchmark" + "x" * 490 + " 1 1 n", " 1 {i}", "\n"),
    "kut": ("", "ipi 1\n", ""),
    "kut headings": ("", "a{i}:\nipi 1\n", ""),
    "kut table": ("x a b c d e f g h\n", "ipi 1 1 1 1 1 1 1 1\n", ""),
    "kut skips": ("ipi 1\n", "a (skipped)\n", ""),
    "kut machines": ("ipi 1\n", "-kernel a\n", ""),
    "kut counts": ("", "9999 ipi 1\n", ""),
    "csv": ("workload,value\n", "a,1\n", ""),
    "csv blank lines": ("", "\n", "x"),
    "csv commas": ("", "1,", ""),
    "csv rows": ("workload,value\n", "{i},1\n", ""),
    "hyperfine": ('{"results":[{"command":"x","times":[1', ",1", "]}]}"),
    "google": ('{"context":{},"benchmarks":[{"name":"x","real_time":1}',
               ',{"name":"x","real_time":1}', "]}"),
    "pytest": ('{"machine_info":{},"benchmarks":[{"name":"x","extra_info":{"kvmbench":{"workload":'
               '"x","data":"runs"}},"stats":{"median":1,"data":[1', ",1", "]}}]}"),
    "pyperf": ('{"version":"1.0","benchmarks":[{"metadata":{"name":"x"},"runs":[{"values":[1]}',
               ',{"values":[1]}', "]}]}"),
    "published": ('configurations = ["a"]\nrows = [', "{},", "]\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", DENSE)
def test_memory_is_at_most_twenty_times_the_input(name, monkeypatch):
    head, repeated, tail = DENSE[name]
    count = 200_000 // len(repeated)
    middle = "".join(repeated.replace("{i}", f"{i:05x}") for i in range(count))
    data = (head + middle + tail).encode()
    floor = 1_000_000
    monkeypatch.setattr(results, "FLOOR", floor)
    for warm in (b"cpuid 1\n", b"workload,value\na,1\n", b"Benchmark 1 1 n\n"):
        formats.decode(warm, "x")
    tracemalloc.start()
    with contextlib.suppress(ResultError):
        formats.decode(data, "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < floor + 20 * len(data)


def test_of_a_large_unknown_file_only_the_start_is_read(tmp_path, monkeypatch):
    path = tmp_path / "large"
    path.write_bytes(b"some other text, 3\n" * (2 * formats.SNIFF // 18))
    monkeypatch.setattr(formats, "read_bytes", lambda _: pytest.fail("read as a whole"))
    with pytest.raises(ResultError, match=r"of no known format \(it begins 'some other text, 3'\)"):
        formats.load(path)
    path.write_bytes(b'{"results":[1' + b",1" * formats.SNIFF + b"]}")
    with pytest.raises(ResultError, match="JSON of no known format"):
        formats.load(path)
    path.write_bytes(b"[  1.5] cpuid leaf 3\n" * (2 * formats.SNIFF // 20))
    with pytest.raises(ResultError, match=r"names a test of vmexit, .* \(in its first 1 MB\)"):
        formats.load(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32-le"])
def test_of_a_large_unknown_file_in_any_unicode_only_the_start_is_read(
    tmp_path, monkeypatch, encoding
):
    path = tmp_path / "large"
    text = "x" + "\U0001f600 other text, 3\n" * (formats.SNIFF // 20)  # cut within a character
    path.write_bytes(text.encode(encoding))
    with monkeypatch.context() as patch:
        patch.setattr(formats, "read_bytes", lambda _: pytest.fail("read as a whole"))
        with pytest.raises(ResultError, match="of no known format"):
            formats.load(path)
        path.write_bytes(b"a\0" + b"some other text, 3\n" * (2 * formats.SNIFF // 18))
        with pytest.raises(ResultError, match="of no known format"):
            formats.load(path)
    path.write_bytes(f"cpuid 1313\n{text}".encode(encoding))
    assert next(formats.load(path).series())[2].values == [1313]


@pytest.mark.parametrize(
    "text", ["cpuid 1313\n", "Benchmark 1 1313 ns\n", "workload,value\nx,1313\n"]
)
def test_a_large_file_with_a_figure_at_its_start_is_read(tmp_path, text):
    path = tmp_path / "large"
    more = "x,1313\n" if "," in text else "another line\n"
    path.write_text(text + more * (2 * formats.SNIFF // len(more)))
    _, _, series = next(iter(formats.load(path).series()))
    assert series.values[0] == 1313


def test_a_megabyte_of_blank_lines_takes_no_time():
    """A pattern that looks past each line's end would take hours."""
    for text in (b"x" + b"\n" * 1_000_000 + b"y", b"PID" + b" " * 1_000_000 + b"y"):
        with pytest.raises(ResultError, match="of no known format"):
            formats.decode(text, "x")


@pytest.mark.parametrize("value", ["1e101", "-1e300", "1e-101", "9" * 200])
@pytest.mark.parametrize("text", [
    '{{"results":[{{"command":"x","times":[{}]}}]}}', "workload,value\na,{}\n",
    '{{"schema":"kvmbench.result/1","boots":[{{"runs":[{{"series":[{{"workload":"w","kind":"noisy",'
    '"values":[{}]}}]}}]}}]}}',
    '{{"version":"1.0","benchmarks":[{{"metadata":{{"name":"x"}},"runs":[{{"values":[{}]}}]}}]}}',
    "Benchmark 1 {} n\n",
])  # fmt: skip
def test_a_number_whose_square_overflows_is_refused(text, value):
    with pytest.raises(ResultError, match=r"0 or of 1e-100 to 1e\+100|expected a finite number"):
        formats.decode(text.format(value).encode(), "x")


@pytest.mark.parametrize("key", ["workload", "configuration", "unit"])
def test_a_name_of_more_than_500_characters_is_refused(key):
    assert formats.decode(
        f"workload,value,{key}2\n".replace(f",{key}2", "").encode() + b"a,1\n", "x"
    )
    row = {"workload": "a", "configuration": "b", "unit": "c", key: "x" * 501}
    text = f"value,{','.join(row)}\n1,{','.join(row.values())}\n"
    with pytest.raises(ResultError, match="has over 500 characters"):
        formats.decode(text.encode(), "x")
