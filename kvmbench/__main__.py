"""The command `kvmbench`, also run by `python -m kvmbench`: from here on Ctrl-C is one line.

SIGTERM and SIGHUP are as Ctrl-C.
"""

import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # `python -m` puts the current folder first: its random.py is not Python's

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType


def run() -> None:
    """Run the command as a process; the console script calls this."""
    try:
        import signal
        import warnings

        # What was measured is kept at the end of a session or of a time limit too.
        stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in stops:
            if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
                signal.signal(number, _interrupt)
        # numpy's BLAS starts a thread for each core, which spins for a while: 40 ms of CPU a start.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        if not sys.warnoptions:  # a user reads one line, and no source text of numpy's
            warnings.simplefilter("ignore")
        if sys.argv[1:] in (["--help"], ["-h"]) and _helped():
            return
        from kvmbench.cli.main import main

        main(prog_name="kvmbench")
    except KeyboardInterrupt:
        _stop()
    finally:
        for number in stops:
            if signal.getsignal(number) is _interrupt:  # the output is out: end as it ended
                signal.signal(number, signal.SIG_IGN)


def _helped() -> bool:
    """Print the help without click, whose import takes longer; False where stdout cannot be."""
    from kvmbench.cli.help import help_text

    try:
        print(help_text(), end="", flush=True)
    except OSError:
        return False  # click prints it again, and says what is wrong
    return True


def _interrupt(_: int, frame: "FrameType | None") -> None:
    """Raise KeyboardInterrupt; before the work, end at once in an import, which may swallow it."""
    progress = sys.modules.get("kvmbench.cli.progress")
    if progress is None or not progress.Progress.working:
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                _stop()
            frame = frame.f_back
    raise KeyboardInterrupt


def _stop() -> None:
    try:
        os.write(2, b"\nkvmbench: stopped\n")
    finally:  # stderr may be closed or full
        os._exit(130)


if __name__ == "__main__":
    run()
