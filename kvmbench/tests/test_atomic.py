"""Files: nothing torn, nothing lost between two writers, nothing read without an end."""

import os
import threading
import time

import pytest

from kvmbench import atomic
from kvmbench.results import Boot, Result, Run, Series, append, read, write


def result(name, kind="noisy"):
    series = Series(workload="w", kind=kind, values=[1.0] * 2000)
    return Result(boots=[Boot(id=name, runs=[Run(series=[series])])])


def test_a_write_waits_for_an_append(tmp_path):
    """No writer comes between the reading and the writing of another one."""
    path = tmp_path / "r.json"
    write(path, result("first"))
    reached, go = threading.Event(), threading.Event()

    def appender():
        with atomic.locked(path):
            old = read(path)
            reached.set()
            go.wait(60)
            append(path, result("second"))
            assert [boot.id for boot in old.boots] == ["first"]

    threads = [threading.Thread(target=appender)]
    threads[0].start()
    assert reached.wait(60)
    threads.append(threading.Thread(target=write, args=(path, result("third"))))
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join(60)
    assert [boot.id for boot in read(path).boots] == ["third"]


def test_measured_runs_are_not_replaced_under_the_lock(tmp_path):
    path = tmp_path / "r.json"
    write(path, result("simulated", "exact"), over_measured=False)
    write(path, result("measured"), over_measured=False)
    with pytest.raises(ValueError, match="holds measured runs by now"):
        write(path, result("other"), over_measured=False)
    assert read(path).boots[0].id == "measured"
    write(path, result("other"))
    assert read(path).boots[0].id == "other"


def test_aside_files_of_a_killed_process_are_swept(tmp_path):
    path = tmp_path / "r[1].json"
    old, new, other = (
        tmp_path / name
        for name in (".r[1].json.abcdefgh", ".r[1].json.ijklmnop", ".r1.json.abcdefgh")
    )
    for file in (old, new, other):
        file.write_text("left")
    past = time.time() - 2 * atomic.STALE
    os.utime(old, (past, past))
    os.utime(other, (past, past))
    atomic.replace_file(path, b"x")
    assert sorted(os.listdir(tmp_path)) == sorted(p.name for p in (new, other, path))


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"/proc/meminfo": "MemAvailable:   100 kB\n"}, 102400),
        ({}, float("inf")),
        (
            {
                "/proc/meminfo": "MemAvailable:   100 kB\n",
                "/proc/self/cgroup": "0::/a/b\n",
                "/sys/fs/cgroup/a/memory.max": "5000\n",
                "/sys/fs/cgroup/a/memory.current": "1000\n",
                "/sys/fs/cgroup/a/b/memory.max": "max\n",
            },
            4000,
        ),
    ],
)
def test_memory_left(monkeypatch, files, left):
    monkeypatch.setattr(atomic, "_text", lambda path: files.get(str(path), ""))
    assert atomic.memory_left() == left


def test_a_pipe_is_read_to_its_bound(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def feed():
        try:
            with open(pipe, "wb") as file:
                file.write(b"x" * 3_000_000)
        except BrokenPipeError:
            pass

    thread = threading.Thread(target=feed)
    thread.start()
    with pytest.raises(ValueError, match="pipe: larger than 2 MB, the most that is read"):
        atomic.read_bounded(pipe, 2_000_000, ValueError)
    thread.join(60)
