"""A sweep's engines: this process, several processes, or the workers of a Dask cluster.

`kvmbench.sweep` is `sweep` here. Each computes chunks of points, about 50 ms each (500 ms on
Dask), and the file of points is the same for all of them.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

from kvmbench.checker.verdict import default_memory
from kvmbench.errors import KvmbenchError, SweepError, listed
from kvmbench.interpreter import environment, isolated, python
from kvmbench.sweeps.design import VERSION, Design, find_design
from kvmbench.sweeps.jobs import Runner
from kvmbench.sweeps.points import Points, PointsFile

__all__ = ["Chunks", "Lines", "computed", "cores", "serve", "sliced", "sweep"]

CHUNK = (
    0.05  # seconds of CPU of a chunk: long next to the cost of handing it out, short to wait for
)
DASK_CHUNK = 0.5  # and on Dask, which takes 6 ms of CPU per task, 14 ms where each goes alone
ALONE = 0.5  # seconds of CPU that this process does before it starts others
QUEUED = 2  # chunks that each worker has: one in work, one to go on with
DASK_QUEUED = 4  # and on Dask, half of them handed out at a time
LEAVE = 1  # seconds that a process has to end by itself
WAIT = 60  # seconds for a cluster's first worker
PROCESSES_MAX = 4096

Lines = list[tuple[int, bytes]]
Progress = Callable[[int, int], None]
LOCAL = {  # of a cluster that is started here: idle, it takes 1 % of a core rather than 7 %
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
}
LOADER = "from kvmbench.sweeps.engines import serve; serve([*map(int, sys.argv[1:])])"
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
ENDED = (
    "a process of the sweep has ended, killed or without memory: the points that are done are "
    "kept; go on with the same command, maybe with fewer --processes"
)


def sweep(
    design: str | Path | Mapping[str, Any] | Design, output: str | Path, *,
    processes: int | None = None, scheduler: str | None = None, slice: tuple[int, int] = (1, 1),
    progress: Progress | None = None,
) -> Points:  # fmt: skip
    """Compute the points of a design into the file `output`, and return them.

    `design` is a TOML file, its content as a dict, or a `Design`. Points that the file has are
    kept: the same call goes on after a kill. The finished file is the same, byte for byte, for any
    number of `processes` (one per core by default) and for the workers of Dask, whose `scheduler`
    is an address, or "local" to start them here. `slice` (k, n) computes the k-th of n parts, for
    `join_points`. `progress` is called with the points that are done, and the number of
    all.

    Raises FileError or ValueError for the design, ResultError for a file of other points,
    SweepError for a point that cannot be computed and for a worker that cannot compute; OSError.
    """
    found = find_design(design)
    k, n = slice
    with PointsFile(output, found, sliced(found, k, n)) as file:
        for lines in computed(found, file.missing(), processes=processes, scheduler=scheduler):
            file.append(lines)
            if progress is not None:
                progress(file.done, file.total)
        file.finish()
    return Points(output)


def sliced(design: Design, k: int, n: int) -> Sequence[int]:
    """Return the points of slice k of n: each n-th row, so that all slices take about as long.

    The policies of a row stay together, as they share a run, unless there are fewer rows than
    slices. Raises ValueError for a slice that is not 1 to n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"slice is {k}/{n}, not 1/N to N/N")
    if n == 1:
        return range(design.n_points)
    each = len(design.policies) if design.n_rows >= n else 1
    firsts = range((k - 1) * each, design.n_points, n * each)
    return [point for first in firsts for point in range(first, first + each)]


def computed(
    design: Design, points: Sequence[int], *, processes: int | None = None,
    scheduler: str | None = None,
) -> Iterator[Lines]:  # fmt: skip
    """Yield the lines of some points in chunks, in any order; raises as `sweep`."""
    if processes is not None and not 1 <= processes <= PROCESSES_MAX:
        raise ValueError(f"processes is {processes}, not in 1 to {PROCESSES_MAX}")
    # The policies of a row share a run, so that a chunk takes all of them, unless rows are few.
    each = len(design.policies)
    workers = processes or cores()
    chunks = Chunks(
        points, each if len(points) >= 8 * each * workers else 1,
        CHUNK if scheduler is None else DASK_CHUNK,
    )  # fmt: skip
    if scheduler is not None:
        return _in_dask(design, chunks, scheduler, processes)
    return _in_processes(design, chunks, workers)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


class Chunks:
    """Points handed out in chunks of about `aim` seconds of CPU, by that of those that are done."""

    def __init__(self, points: Sequence[int], each: int = 1, aim: float = CHUNK) -> None:
        self.points = points
        self.aim = aim  # seconds of CPU
        self.each = each  # a chunk is a multiple of it
        self.at = 0
        self.seconds = 0.0
        self.done = 0

    def take(self, workers: int) -> list[int]:
        """Return the next points, none at the end; near it fewer, so that workers end together."""
        size = int(self.aim * self.done / self.seconds) if self.seconds else 1
        fair = (self.left + workers - 1) // (2 * workers)
        size = max(1, min(size, 8 * max(self.done, 1), max(fair, size // 2)))
        size = max(size // self.each, 1) * self.each
        points = [*self.points[self.at : self.at + size]]
        self.at += len(points)
        return points

    @property
    def left(self) -> int:
        """The number of points that no worker has."""
        return len(self.points) - self.at

    def note(self, points: int, seconds: float) -> None:
        """Learn how many seconds of CPU so many points took."""
        self.done += points
        self.seconds += seconds

    def worth_a_process(self) -> bool:
        """Return whether the rest takes long enough to start other processes."""
        if not self.left:
            return False
        return self.seconds >= ALONE or self.left * self.seconds > 4 * ALONE * max(self.done, 1)


# Processes here


def _in_processes(design: Design, chunks: Chunks, processes: int) -> Iterator[Lines]:
    """Compute in this process, and in as many others as are worth their start."""
    runner = Runner(design, default_memory() // processes)
    while processes == 1 or not chunks.worth_a_process():
        if not (points := chunks.take(1)):
            return
        lines, seconds = runner.chunk(points)
        chunks.note(len(points), seconds)
        yield lines
    with closing(_Workers(design, min(processes, chunks.left))) as workers:
        yield from workers.work(chunks)


class _Workers:
    """Processes that compute chunks; `close` ends them, in the middle of one too.

    They are forks of this process, which has kvmbench loaded: a load takes as long as a hundred
    points. A process with several threads must not fork: there a new process loads, and forks.
    """

    def __init__(self, design: Design, number: int) -> None:
        self.number = number
        self.pipes: list[Connection[Any, Any]] = []
        self.pids: list[int] = []
        theirs: list[socket.socket] = []
        try:
            for _ in range(number):
                ours, other = socket.socketpair()
                theirs.append(other)
                self.pipes.append(Connection(ours.detach()))
            handles = [other.fileno() for other in theirs]
            alone = len(os.listdir("/proc/self/task")) == 1
            self.pids = _forked(handles) if alone else [_loaded(handles)]
        finally:
            for other in theirs:
                other.close()
        job = pickle.dumps((design, default_memory() // number))
        try:
            for pipe in self.pipes:
                pipe.send_bytes(job)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise SweepError(ENDED) from None
            raise

    def work(self, chunks: Chunks) -> Iterator[Lines]:
        waiting = dict.fromkeys(self.pipes, 0)  # chunks that each has
        for _ in range(QUEUED):
            for pipe in waiting:
                self._give(pipe, chunks, waiting)
        while any(waiting.values()):
            ready = wait([pipe for pipe, n in waiting.items() if n])
            for pipe in cast("list[Connection[Any, Any]]", ready):
                try:
                    answer = pipe.recv()
                except (EOFError, OSError):
                    raise SweepError(ENDED) from None
                if isinstance(answer, str):
                    raise SweepError(answer)
                lines, seconds = answer
                waiting[pipe] -= 1
                chunks.note(len(lines), seconds)
                self._give(pipe, chunks, waiting)
                yield lines

    def _give(
        self, pipe: Connection[Any, Any], chunks: Chunks, waiting: dict[Connection[Any, Any], int]
    ) -> None:
        if points := chunks.take(self.number):
            try:
                pipe.send(points)
            except OSError:
                raise SweepError(ENDED) from None
            waiting[pipe] += 1

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()  # a process that waits for work ends
        end = time.monotonic() + LEAVE
        for pid in self.pids:
            while os.waitpid(pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > end:
                    with suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    break
                time.sleep(0.001)


def _forked(handles: Sequence[int]) -> list[int]:
    """Fork a process per socket, each in a session: Ctrl-C is ours to handle, and we end them."""
    pids = []
    gc.freeze()  # a child's collector need not look at, and so copy, what there is
    for handle in handles:
        if pid := os.fork():
            pids.append(pid)
            continue
        code = 1
        try:  # from here on the child, which must not return
            os.setsid()
            _keep_only(handle)
            _serve(handle)
            code = 0
        finally:
            os._exit(code)
    gc.unfreeze()
    return pids


def _loaded(handles: Sequence[int]) -> int:
    """Start a process that loads kvmbench and forks the others; return its number."""
    # No worker has use for the threads of a linear algebra library, nor may a fork have them.
    env = os.environ | dict.fromkeys(ONE_THREAD, "1")
    command = python(LOADER, *map(str, handles), packages=True)
    loader = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=handles,
        start_new_session=True,
    )  # fmt: skip
    loader.returncode = 0  # `close` waits for it
    return loader.pid


def serve(handles: Sequence[int]) -> None:
    """Compute the chunks that come through sockets, a process each, until the other end closes."""
    forked: list[int] = []
    mine = handles[0]
    for handle in handles[1:]:
        if (process := os.fork()) == 0:
            mine, forked = handle, []
            break
        forked.append(process)
    _keep_only(mine)
    _serve(mine)
    for process in forked:
        os.waitpid(process, 0)


def _keep_only(handle: int) -> None:
    """Close every file but one and stderr: a lock ends with the sweep, a socket with its peer."""
    with open(os.devnull, "r+b", buffering=0) as null:
        for standard in (0, 1):
            os.dup2(null.fileno(), standard)
    os.closerange(3, handle)
    os.closerange(handle + 1, os.sysconf("SC_OPEN_MAX"))


def _serve(handle: int) -> None:
    pipe: Connection[Any, Any] = Connection(handle)
    try:
        design, memory = pickle.loads(pipe.recv_bytes())
        runner = Runner(design, memory)
        while True:
            points = pipe.recv()
            try:
                answer: Any = runner.chunk(points)
            except KvmbenchError as error:
                answer = str(error)
            pipe.send(answer)
    except (EOFError, OSError):
        pass  # no more work, or the parent has ended


# Dask


def _in_dask(
    design: Design, chunks: Chunks, scheduler: str, processes: int | None
) -> Iterator[Lines]:  # fmt: skip
    """Compute on the workers of a Dask cluster, or of one that is started here."""
    try:
        import dask  # type: ignore[import-not-found, unused-ignore]
        from distributed import Client, LocalCluster  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise SweepError("--scheduler needs Dask: pip install 'kvmbench[dask]'") from None
    if not chunks.left:
        return
    cluster = None
    try:
        if scheduler == "local":
            again = {"distributed.nanny.pre-spawn-environ": environment()}  # for a worker's restart
            with isolated(), dask.config.set(LOCAL | again):  # its workers copy both
                cluster = LocalCluster(
                    n_workers=processes or cores(), threads_per_worker=1, dashboard_address=None,
                    memory_limit="auto",
                )  # fmt: skip
        client = Client(cluster or scheduler, timeout=WAIT)
    except (OSError, RuntimeError, ValueError) as error:
        raise SweepError(f"--scheduler {scheduler}: {error}") from None
    try:
        _check_versions(client, scheduler)
        for answer in _dask_answers(client, design, chunks, scheduler):
            if isinstance(answer, str):
                raise SweepError(answer)
            lines, seconds = answer
            chunks.note(len(lines), seconds)
            yield lines
    finally:
        client.close()
        if cluster is not None:
            cluster.close()


def _dask_answers(client: Any, design: Design, chunks: Chunks, scheduler: str) -> Iterator[Any]:
    """Yield what `_dask_chunk` returns of each chunk.

    Chunks go out, and come in, many in one message: a task that goes alone takes twice the CPU.
    """
    from distributed import as_completed

    (sent,) = client.scatter([design], broadcast=True, hash=False)
    workers = max(1, sum(client.nthreads().values()))
    pending = as_completed()
    most = DASK_QUEUED * workers
    while True:
        # The first chunks are single points, of unknown time: one per worker.
        free = most - pending.count() if chunks.done else workers
        given = [points for _ in range(free) if (points := chunks.take(workers))]
        pending.update(client.map(_dask_chunk, given, design=sent, pure=False))
        if not pending.count():
            return
        # Points that are longer than a chunk are worth a message, and go into the file at once.
        quick = chunks.seconds < chunks.aim * chunks.done
        ready: list[Any] = []
        while pending.count() and len(ready) < (most // 2 if quick else 1):
            ready += pending.next_batch()
        try:
            answers = client.gather(ready)
        except Exception as error:  # noqa: BLE001 - a worker that died, or lost its code
            raise SweepError(f"--scheduler {scheduler}: {error}") from None
        yield from answers


def _check_versions(client: Any, scheduler: str) -> None:
    """Refuse a cluster without workers, and workers of another kvmbench than this one."""
    try:
        client.wait_for_workers(1, timeout=WAIT)
    except TimeoutError:
        raise SweepError(f"--scheduler {scheduler}: no worker came in {WAIT} s") from None
    found = client.run(_version, on_error="return")
    others: dict[str, list[str]] = {}
    for worker, version in found.items():
        if version != VERSION:
            said = version if isinstance(version, str) else "none"
            others.setdefault(said, []).append(worker)
    if others:
        said = "; ".join(f"{version} on {listed(who)}" for version, who in others.items())
        raise SweepError(
            f"workers of another kvmbench than {VERSION}: {said}: install the same version there"
        )


def _version() -> str:
    return VERSION


_mine = threading.local()  # of a worker's thread: its `runner`, which no two threads share


def _dask_chunk(points: list[int], design: Design) -> tuple[Lines, float] | str:
    """Compute a chunk on a worker, or return its error: Dask cannot send each of them."""
    try:
        runner = getattr(_mine, "runner", None)
        if runner is None or runner.design.id != design.id:
            _mine.runner = runner = Runner(design, _share_of_worker())
        return runner.chunk(points)
    except Exception as error:  # noqa: BLE001
        return str(error) if isinstance(error, KvmbenchError) else f"on a worker: {error!r}"


def _share_of_worker() -> int:
    """Return the bytes that a check may take: this thread's part of its worker's free memory.

    A worker pauses at 80 % of its limit, and its nanny kills it at 95 %.
    """
    from distributed import get_worker

    worker = get_worker()
    free = default_memory()
    if limit := worker.memory_manager.memory_limit:
        free = int(limit * 3 / 4) - worker.monitor.get_process_memory()
    return max(1, free // int(worker.state.nthreads))
