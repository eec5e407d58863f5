"""The process of one run, as the engine sees it: a job in, lines out, and its end."""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from kvmbench.interpreter import python
from kvmbench.live.worker import Job

__all__ = ["Process"]

SILENT = 30.0  # seconds beyond three rounds without a line, after which the engine ends a process
GRACE, KILLED = 0.5, 10.0  # seconds that a process has to end by itself, and once killed
WORKER = "from kvmbench.live import worker; worker.main()"


class Process:
    """A process of kvmbench.live.worker that does `job`.

    It imports the standard library and kvmbench only. `doing` is for the engine: the
    workload at hand. `interrupted` says whether a Ctrl-C came while the process ended.
    """

    def __init__(self, job: Job) -> None:
        self.doing = ""
        self.interrupted = False
        self.silence = SILENT + 3 * job["timeout"]
        self.silent = False
        self.process = subprocess.Popen(
            python(WORKER), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            process_group=0,  # so that a Ctrl-C at the terminal interrupts this process alone
        )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        try:
            self._send(json.dumps(job).encode() + b"\n")
        except BaseException:
            self.end()
            raise

    def _send(self, line: bytes) -> None:
        with suppress(BrokenPipeError):  # `lines` notices that the process is dead
            self.stdin.write(line)
            self.stdin.flush()

    def lines(self) -> Iterator[list[Any]]:
        """Yield the lines of the process until it ends, or is silent for too long.

        The process waits at the begin of each round until the caller asks for the next line, so
        that the caller does not compete with the round for a CPU.
        """
        pipe, rest = self.stdout.fileno(), b""
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while poll.poll(self.silence * 1000):
            if not (read := os.read(pipe, 1 << 16)):
                return
            *whole, rest = (rest + read).split(b"\n")
            for line in whole:
                words = json.loads(line)
                yield words
                if words[0] == "begin":
                    self._send(b"\n")
        self.silent = True

    def end(self) -> str:
        """Wait for the end of the process, kill it where it goes on, and return its status."""
        self.stdout.close()
        with suppress(OSError):
            self.stdin.close()
        for patience, then in ((GRACE, self.process.kill), (KILLED, None)):
            try:
                status = self.process.wait(timeout=patience)
                break
            except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
                self.interrupted |= isinstance(error, KeyboardInterrupt)
                if then is None:  # its thread is in the kernel and no signal reaches it
                    return "nothing: it cannot be killed"
                then()
        if self.silent:
            return f"silence: no line for {self.silence:.0f} seconds"
        return f"signal {-status}" if status < 0 else f"status {status}"
