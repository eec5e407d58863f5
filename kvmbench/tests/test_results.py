"""The result format, and files written whole or not at all."""

import contextlib
import json
import math
import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmbench import atomic as files
from kvmbench import results
from kvmbench.atomic import replace_file
from kvmbench.errors import ResultError
from kvmbench.results import Boot, Host, Result, Run, Series
from kvmbench.tests.result_examples import results as any_result

PLAIN = """{
 "schema": "kvmbench.result/1",
 "name": "by hand",
 "boots": [
  {
   "id": "b5f1",
   "block": 0,
   "host": {"kernel": "4.10.0-rc8", "mitigations": {"meltdown": "PTI"}, "tsc_hz": 2596146000},
   "runs": [
    {
     "engine": "kvm",
     "series": [
      {"workload": "cpuid", "kind": "noisy", "values": [1313, 1290.5]},
      {"workload": "cpuid", "configuration": "deferred", "kind": "exact", "values": [1291]}
     ],
     "skipped": {"ipi": "one CPU"}
    }
   ]
  }
 ]
}
"""


def result(*values, workload="cpuid", boot="", **more):
    series = Series(workload=workload, kind="noisy", values=list(values), **more)
    return Result(boots=[Boot(id=boot, runs=[Run(series=[series])])])


def message(text, name="r.json"):
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(ResultError) as caught:
        results.decode(data, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Reading


def test_a_file_by_hand():
    found = results.decode(PLAIN.encode(), "r.json")
    ((boot, run, first), (_, _, second)) = found.series()
    assert (boot.id, boot.block, boot.host.kernel) == ("b5f1", 0, "4.10.0-rc8")
    assert (boot.host.mitigations, boot.host.tsc_hz) == ({"meltdown": "PTI"}, 2596146000)
    assert (run.engine, run.skipped) == ("kvm", {"ipi": "one CPU"})
    assert (first.values, first.unit, first.better) == ([1313, 1290.5], "cycles", "lower")
    assert (second.configuration, second.kind) == ("deferred", "exact")
    assert found.workloads() == ["cpuid"]
    assert found.configurations() == ["", "deferred"]
    assert len(list(found.runs())) == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[1313, 1290.5]", "[]", "$.boots[0].runs[0].series[0].values: Expected `array` of length"),
        ("1290.5", '"x"', "$.boots[0].runs[0].series[0].values[1]: Expected `int | float`, got"),
        ("1290.5", "true", "$.boots[0].runs[0].series[0].values[1]: Expected `int | float`, got"),
        ("1290.5", "null", "$.boots[0].runs[0].series[0].values[1]: Expected `int | float`, got"),
        ("1290.5", "1e999", "$.boots[0].runs[0].series[0].values[1]: Number out of range"),
        ("1290.5", "9" * 400, "$.boots[0].runs[0].series[0].values[1]: not a finite number"),
        ("1290.5", "NaN", "line 13, column 63: a number must be finite"),
        ("1290.5", "-Infinity", "line 13, column 64: a number must be finite"),
        ("1290.5", "12x", "line 13, column 65: not JSON"),
        ('"exact"', '"noisy "', "$.boots[0].runs[0].series[1].kind: Invalid enum value 'noisy '"),
        ('"workload": "cpuid", "kind"', '"kind"', "`workload`"),
        ('"workload": "cpuid", "kind"', '"workload": "", "kind"', "series[0].workload: Expected"),
        ('"engine"', '"motor"', "$.boots[0].runs[0]: Object contains unknown field `motor`"),
        ('"block": 0', '"block": -1', "$.boots[0].block: Expected `int` >= 0"),
        (
            '"configuration": "deferred", ',
            "",
            "$.boots[0].runs[0].series[1]: cpuid is in this run already",
        ),
        ("kvmbench.result/1", "kvmbench.result/2", "kvmbench.result/2 is newer than this kvmbench"),
        ("kvmbench.result/1", "kvmbench.result/x", "$.schema: schema 'kvmbench.result/x', expect"),
        ('"kvmbench.result/1"', "7", "$.schema: schema 7, expected 'kvmbench.result/1'"),
        ('"schema": "kvmbench.result/1",', "", "$.schema: no schema, expected"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(old, new, said):
    assert PLAIN.count(old) >= 1
    text = message(PLAIN.replace(old, new, 1))
    assert text.startswith("r.json: ")
    assert said in text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty, expected JSON"),
        (b" \n\t", "is empty, expected JSON"),
        (b"cpuid 1313\n", "line 1, column 1: not JSON"),
        (b"[1, 2]", "$.schema: no schema"),
        (b"3", "$.schema: no schema"),
        (b'{"schema": "\xff"}', "r.json: "),
        (b"[" * 100_000, "r.json: "),
        (b'{"benchmarks": []}', "$.schema: no schema"),
        (b'{"schema": "kvmbench.result/1"}', "missing required field `boots`"),
        (b'{"schema": "kvmbench.result/1", "boots": []}', "$.boots: Expected `array` of length"),
    ],
)
def test_what_is_no_result(data, said):
    assert said in message(data)


def test_a_file_cut_off_anywhere():
    data = results.encode(results.decode(PLAIN.encode(), "r.json"))
    whole = len(data.rstrip())
    for end in range(whole):
        text = message(data[:end])
        assert "cut off" in text if end else "is empty" in text
    assert results.decode(data[:whole], "r.json").name == "by hand"


@pytest.mark.parametrize(
    "other",
    [
        {"unit": "seconds"},
        {"better": "higher"},
        {"kind": "exact"},
    ],
)
def test_a_row_has_one_unit_kind_and_direction(other):
    row = {"workload": "cpuid", "kind": "noisy", "values": [1]}
    runs = [{"series": [row]}, {"series": [row | other]}]
    text = json.dumps({"schema": results.SCHEMA, "boots": [{"runs": runs}]})
    text = message(text)
    assert text.startswith("r.json: $.boots[0].runs[1].series[0]: ")
    assert next(iter(other.values())) in text
    assert "earlier run" in text


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_a_result_or_one_line(data):
    with contextlib.suppress(ResultError):
        results.decode(data, "x")


# Writing


@given(any_result())
@settings(deadline=None)
def test_what_is_written_is_read(found):
    data = results.encode(found)
    assert results.decode(data, "x") == found
    assert json.loads(data)["schema"] == "kvmbench.result/1"
    for boot, plain in zip(found.boots, json.loads(data)["boots"], strict=True):
        for run, plain_run in zip(boot.runs, plain["runs"], strict=True):
            values = [series["values"] for series in plain_run["series"]]
            assert values == [series.values for series in run.series]


def test_values_stand_on_one_line():
    lines = results.encode(result(1313, -2.5, 1e-09)).decode().splitlines()
    assert '       "values": [1313, -2.5, 1e-9]' in lines


def test_words_that_look_like_numbers_stay_words():
    found = msgspec.structs.replace(result(1), notes=["[\n 1,\n 2\n]", "[1, 2]"])
    assert results.decode(results.encode(found), "x") == found


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
@pytest.mark.parametrize("where", ["values", "quantum", "reloads", "counts"])
def test_no_file_is_written_that_could_not_be_read(tmp_path, value, where):
    more = {"counts": {"exits": value}} if where == "counts" else {where: value}
    found = result(value) if where == "values" else result(1, **more)
    with pytest.raises(ResultError, match=rf"\$\.boots\[0\]\.runs\[0\]\.series\[0\]\.{where}"):
        results.write(tmp_path / "r.json", found)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "found",
    [
        Result(boots=[]),
        Result(boots=[Boot(runs=[])]),
        result(),
        result(1, workload=""),
        Result(name="\udcff", boots=result(1).boots),  # an argument that was no UTF-8
    ],
)
def test_what_the_types_forbid_is_not_written(found):
    with pytest.raises(ResultError):
        results.encode(found)


# The JSON Schema


@pytest.fixture(scope="module")
def validator():
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(results.json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schema_takes_what_is_written(validator):
    validator.validate(json.loads(PLAIN))

    @given(any_result())
    @settings(deadline=None, max_examples=50)
    def check(found):
        validator.validate(json.loads(results.encode(found)))

    check()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[1313, 1290.5]", "[]"),
        ("1290.5", '"x"'),
        ("1290.5", "null"),
        ('"exact"', '"noisy "'),
        ('"workload": "cpuid", "kind"', '"kind"'),
        ('"workload": "cpuid", "kind"', '"workload": "", "kind"'),
        ('"engine"', '"motor"'),
        ('"block": 0', '"block": -1'),
        ("kvmbench.result/1", "kvmbench.result/2"),
        ('"schema": "kvmbench.result/1",', ""),
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(validator, old, new):
    broken = PLAIN.replace(old, new, 1)
    message(broken)
    assert not validator.is_valid(json.loads(broken))


# Merging and appending


def test_runs_of_one_boot_stay_together():
    old = msgspec.structs.replace(result(1, boot="a"), notes=["n"])
    merged = results.merge(old, result(2, boot="a"))
    assert [[r.series[0].values for r in b.runs] for b in merged.boots] == [[[1], [2]]]
    merged = results.merge(merged, result(3, boot="b"))
    merged = results.merge(merged, result(4, boot="a"))
    assert [(b.id, len(b.runs)) for b in merged.boots] == [("a", 2), ("b", 1), ("a", 1)]
    # A boot that is not named may be any.
    assert len(results.merge(result(1), result(2)).boots) == 2
    other = msgspec.structs.replace(result(5, boot="a"), notes=["n", "m"], order="lost")
    merged = results.merge(old, other)
    assert (merged.order, merged.notes) == ("lost", ["n", "m"])


def test_a_boot_whose_host_changed_is_another_entry():
    host = Host(governor="performance")
    old = result(1, boot="a")
    new = Result(boots=[Boot(id="a", host=host, runs=result(2).boots[0].runs)])
    assert [b.host.governor for b in results.merge(old, new).boots] == [None, "performance"]


def test_append_makes_the_file_then_adds_to_it(tmp_path):
    path = tmp_path / "r.json"
    results.append(path, result(1, boot="a"))
    results.append(path, result(2, 3, boot="a"))
    found = results.read(path)
    assert [series.values for _, _, series in found.series()] == [[1], [2, 3]]
    before = path.read_bytes()
    with pytest.raises(ResultError, match="earlier run has cycles, noisy, lower"):
        results.append(path, result(1, unit="seconds"))
    assert path.read_bytes() == before
    path.write_text("{}")
    with pytest.raises(ResultError, match="no schema"):
        results.append(path, result(1))
    assert path.read_text() == "{}"


APPENDER = """
import sys
from kvmbench import results
from kvmbench.results import Boot, Result, Run, Series
path, start, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for value in range(start, start + count):
    series = Series(workload="cpuid", kind="noisy", values=[value])
    results.append(path, Result(boots=[Boot(id="a", runs=[Run(series=[series])])]))
"""


def test_two_that_append_lose_nothing(tmp_path):
    path = tmp_path / "r.json"
    running = [
        subprocess.Popen([sys.executable, "-c", APPENDER, path, str(start), "25"])
        for start in (0, 1000, 2000)
    ]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    values = [series.values[0] for _, _, series in results.read(path).series()]
    assert sorted(values) == [*range(25), *range(1000, 1025), *range(2000, 2025)]
    for start in (0, 1000, 2000):
        mine = [value for value in values if start <= value < start + 1000]
        assert mine == sorted(mine)
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


WRITER = """
import sys
from kvmbench.atomic import replace_file
contents = [b"a" * 3_000_000, b"b" * 5_000_000]
print("ready", flush=True)
while True:
    for content in contents:
        replace_file(sys.argv[1], content)
"""


def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "r.json"
    path.write_bytes(b"a" * 3_000_000)
    delays = random.Random(7)
    for _ in range(12):
        with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=-1) as process:
            process.stdout.readline()
            time.sleep(delays.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
        assert path.read_bytes() in (b"a" * 3_000_000, b"b" * 5_000_000)


DYING = """
import os, signal, sys
from kvmbench.atomic import replace_file
name, after = sys.argv[2], sys.argv[3] == "after"
real = getattr(os, name)
def dying(*arguments, **more):
    if after:
        real(*arguments, **more)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, name, dying)
replace_file(sys.argv[1], b"new" * 100_000)
"""


@pytest.mark.parametrize("name", ["fdopen", "fsync", "chmod", "replace"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_each_step(tmp_path, name, when):
    path = tmp_path / "r.json"
    path.write_bytes(b"old")
    command = [sys.executable, "-c", DYING, path, name, when]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    done = (name, when) == ("replace", "after")
    assert path.read_bytes() == (b"new" * 100_000 if done else b"old")


# Files


def test_the_content_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, r=real: done.append(n) or r(*a))
    replace_file(tmp_path / "f", b"x")
    assert done == ["fsync", "replace", "fsync"]
    assert (tmp_path / "f").read_bytes() == b"x"


def test_nothing_is_left_of_a_write_that_fails(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        replace_file(path, b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("f", b"old")]


def test_a_link_stays_a_link_and_the_mode_is_kept(tmp_path):
    target = tmp_path / "there" / "target"
    target.parent.mkdir()
    target.write_bytes(b"old")
    target.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(target)
    replace_file(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    dangling = tmp_path / "dangling"
    dangling.symlink_to("made")
    replace_file(dangling, b"x")
    assert dangling.is_symlink()
    assert (tmp_path / "made").read_bytes() == b"x"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_new_file_has_the_mode_of_any_new_file(tmp_path, umask, mode):
    old = os.umask(umask)
    try:
        replace_file(tmp_path / "f", b"x")
        assert os.umask(umask) == umask
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == mode


def test_what_is_no_file(tmp_path):
    replace_file("/dev/null", b"x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OSError, match="No space left"):
        replace_file("/dev/full", b"x")
    for path in (tmp_path, f"{tmp_path}/new/"):
        with pytest.raises(IsADirectoryError):
            replace_file(path, b"x")
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "no" / "f", b"x")
    with pytest.raises(FileNotFoundError), files.locked(tmp_path / "no" / "f"):
        pass


def test_a_pipe_is_written_to(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as cat:
        replace_file(pipe, b"x")
        assert cat.communicate(timeout=20)[0] == b"x"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_lock_ends_with_its_holder(tmp_path):
    path = tmp_path / "f"
    code = "import sys\nfrom kvmbench.atomic import locked\nwith locked(sys.argv[1]):\n"
    code += "    print('held', flush=True)\n    sys.stdin.read()\n"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=-1, stdout=-1) as holder:
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    with files.locked(path):
        pass


# Sizes


def test_a_file_beyond_memory_is_one_line(tmp_path):
    path = tmp_path / "huge.json"
    with open(path, "wb") as file:
        try:
            file.truncate(1 << 40)
        except OSError as error:
            pytest.skip(f"no file of 1 TiB here: {error}")
    with pytest.raises(ResultError, match=re.escape(f"{path}: larger than ")):
        results.read(path)


def test_a_device_without_an_end_is_one_line(monkeypatch):
    monkeypatch.setattr(results, "memory_left", lambda: 4_000_000)
    with pytest.raises(ResultError, match=r"/dev/zero: larger than 200 kB, the most that is read"):
        results.read_bytes("/dev/zero")
    assert results.read_bytes("/dev/null") == b""


LIMITED = """
import resource, sys
from kvmbench import results
from kvmbench.errors import ResultError
results.memory_left = lambda: float("inf")  # the kernel's word is tried above
results.LARGEST = 2e9
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
try:
    results.read(sys.argv[1])
except ResultError as error:
    print(error)
"""


@pytest.mark.parametrize("step", ["reading", "decoding"])
def test_a_limit_on_memory_is_one_line(tmp_path, step):
    path = tmp_path / "large.json"
    if step == "reading":
        with open(path, "wb") as file:
            file.truncate(1 << 30)
    else:
        one = b'{"workload":"w","kind":"noisy","values":[' + b"1.5," * 10_000_000 + b"1]}"
        head = b'{"schema":"kvmbench.result/1","boots":[{"runs":[{"series":['
        path.write_bytes(head + one + b"]}]}]}")
    limit = str(400 << 20)
    command = [sys.executable, "-c", LIMITED, path, limit]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout == f"{path}: larger than this machine's memory allows\n"


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        results.read(tmp_path / "r.json")
    with pytest.raises(IsADirectoryError):
        results.read(tmp_path)
    assert Path(tmp_path).is_dir()
