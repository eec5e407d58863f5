"""Files: nothing torn, nothing lost between two writers, nothing read without an end."""

import fcntl
import os
import signal
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


def test_runs_of_another_engine_are_not_added_under_the_lock(tmp_path):
    """A comparison can use no file with simulated and measured runs."""
    path = tmp_path / "r.json"

    def of(engine):
        series = Series(workload="w", kind="noisy", values=[1.0])
        return Result(boots=[Boot(runs=[Run(engine=engine, series=[series])])])

    append(path, of("kvm"))
    append(path, of("kvm"))
    append(path, of(""))  # unknown
    with pytest.raises(ValueError, match="holds runs of kvm, and these are of sim: choose another"):
        append(path, of("sim"))
    assert len(list(read(path).runs())) == 3


def test_aside_files_of_a_killed_process_are_swept(tmp_path):
    """And no file of the user's, however old, nor what goes on, nor another file's."""
    path = tmp_path / "r[1].json"
    with atomic.replaced_file(path):
        (aside,) = os.listdir(tmp_path)
    with atomic.replaced_file(tmp_path / "r1.json"):
        (other,) = set(os.listdir(tmp_path)) - {path.name}
    names = (aside, aside[:-8] + "ijklmnop", other, ".r[1].json.20261101")
    old, new, other, backup = (tmp_path / name for name in names)
    for file in (old, new, other, backup):
        file.write_text("left")
    past = time.time() - 2 * atomic.STALE
    for file in (old, other, backup):
        os.utime(file, (past, past))
    atomic.replace_file(path, b"x")
    left = {old, new, other, backup, path, tmp_path / "r1.json"} - {old}
    assert sorted(os.listdir(tmp_path)) == sorted(file.name for file in left)


def test_any_writer_waits_for_the_one_that_changes_a_file(tmp_path):
    """A process that has read a file under the lock writes it back before another one does."""
    path = tmp_path / "r.json"
    order = []

    def write():
        atomic.replace_file(path, b"new")
        order.append("new")

    with atomic.locked(path):
        other = threading.Thread(target=write)
        other.start()
        other.join(0.3)
        order.append("old")
        atomic.replace_file(path, b"old")
    other.join()
    assert (order, path.read_bytes()) == (["old", "new"], b"new")


def test_a_lock_ends_although_a_process_was_forked_meanwhile(tmp_path):
    with atomic.locked(tmp_path / "r.json"):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(folder)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_file_that_cannot_be_made_is_known_before(tmp_path):
    """The longest name of Linux's file systems has 255 bytes; the file aside has a short one."""
    longest = tmp_path / ("a" * 255)
    atomic.try_replace(longest)
    atomic.replace_file(longest, b"x")
    atomic.try_replace(tmp_path / "new" / "x.json")
    assert {file.name for file in tmp_path.iterdir()} == {longest.name}
    for path in (tmp_path / ("a" * 256), tmp_path / "new" / ("a" * 256), longest / "x"):
        for make in (atomic.try_replace, lambda path: atomic.replace_file(path, b"x")):
            with pytest.raises(OSError, match=r"name too long|Not a directory|No such") as error:
                make(path)
            assert error.value.filename == str(path)


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
