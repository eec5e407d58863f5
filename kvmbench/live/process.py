"""The process of one run, as the engine sees it: a job in, lines out, and its end."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kvmbench.live.worker import Job

__all__ = ["Process"]

SILENT = 30.0  # seconds without a line after which the engine ends a process
GRACE, KILLED = 0.5, 10.0  # seconds that a process has to end by itself, and once killed


class Process:
    """A process of kvmbench.live.worker that does `job`.

    `doing` is for the engine: the workload at hand. `interrupted` says whether a Ctrl-C came while
    the process ended.
    """

    def __init__(self, job: Job) -> None:
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self.doing = ""
        self.interrupted = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kvmbench.live.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            process_group=0,  # so that a Ctrl-C at the terminal interrupts this process alone
        )
        assert self.process.stdin is not None
        try:
            with self.process.stdin as pipe:
                pipe.write(json.dumps(job).encode())
        except BrokenPipeError:
            pass  # `lines` notices that it is dead
        except BaseException:
            self.end()
            raise

    def lines(self) -> Iterator[list[Any]]:
        """Yield the lines of the process until it ends, or is silent for too long."""
        assert self.process.stdout is not None
        pipe, rest = self.process.stdout.fileno(), b""
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while poll.poll(SILENT * 1000) and (read := os.read(pipe, 1 << 16)):
            *whole, rest = (rest + read).split(b"\n")
            yield from map(json.loads, whole)

    def end(self) -> str:
        """Wait for the end of the process, kill it where it goes on, and return its status."""
        assert self.process.stdout is not None
        self.process.stdout.close()
        for patience, then in ((GRACE, self.process.kill), (KILLED, None)):
            try:
                status = self.process.wait(timeout=patience)
                break
            except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
                self.interrupted |= isinstance(error, KeyboardInterrupt)
                if then is None:  # its thread is in the kernel and no signal reaches it
                    return "nothing: it cannot be killed"
                then()
        return f"signal {-status}" if status < 0 else f"status {status}"
