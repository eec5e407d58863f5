"""What a command says on its way: notes of one line, and a bar while it works."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

import click

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

DELAY, PERIOD = 1.0, 0.1  # seconds before the bar appears, and between two drawings


def say(text: str, *, err: bool = False) -> None:
    """Print lines that may hold a stranger's words: no control character reaches a terminal."""
    from kvmbench.report.escape import visible  # needed by few commands only

    click.echo(visible(text, keep="\n"), err=err)


def note(text: str, command: str = "kvmbench") -> None:
    """Print one line on stderr, after the command's name."""
    say(" ".join(f"{command}: {text}".splitlines()).replace("\t", ""), err=True)


@contextmanager
def naming(path: object) -> Iterator[None]:
    """Turn an OSError of the block into one line that names its file, or else `path`."""
    try:
        yield
    except OSError as error:
        raise click.ClickException(f"{error.filename or path}: {error.strerror or error}") from None


class Unbroken:
    """A context whose end Ctrl-C waits for, from `begin` on; a second Ctrl-C breaks it.

    It is for keeping and printing what was measured. SIGTERM and SIGHUP are as Ctrl-C.
    """

    def __init__(self) -> None:
        self._waits = False
        self._handlers: dict[int, Any] = {}

    def begin(self) -> None:
        """Let Ctrl-C wait from here on."""
        if threading.current_thread() is not threading.main_thread():
            return  # whose signals are another's
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if callable(handler := signal.getsignal(number)):
                self._handlers[number] = handler
                signal.signal(number, self._wait)

    def _wait(self, _: int, __: FrameType | None) -> None:
        if self._waits:
            raise KeyboardInterrupt
        self._waits = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._waits and kind is None:
            raise KeyboardInterrupt


class Progress:
    """A context in which calls show progress, where stderr is a terminal and the work is long.

    The bar is gone when the context ends.
    """

    working = False  # a context is open: Ctrl-C must leave the work its results

    def __init__(self) -> None:
        Progress.working = True
        on_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._next = time.monotonic() + DELAY if on_terminal else float("inf")
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        Progress.working = False
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, name: str, share: float | None = None) -> None:
        """Show `name`, what runs now, and the share of all work that is done, 0 to 1.

        Without a share no bar shows: the length of the work is unknown.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + PERIOD
        from kvmbench.report.escape import visible

        if self._bar is None:
            self._bar = self._begun(share)
        self._bar.update(self._bar.task_ids[0], description=visible(name), completed=share or 0)
        self._bar.refresh()

    def _begun(self, share: float | None) -> Bar:
        from rich import progress
        from rich.console import Console

        columns: list[progress.ProgressColumn]
        columns = [progress.TextColumn("{task.description}", markup=False)]
        if share is not None:
            columns += [progress.BarColumn(), progress.TaskProgressColumn()]
            columns += [progress.TimeRemainingColumn(), progress.TextColumn("left")]
        bar = progress.Progress(
            *columns, console=Console(stderr=True), auto_refresh=False, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        bar.add_task("", total=1)
        bar.start()
        return bar
