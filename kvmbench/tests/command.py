"""The command `kvmbench` for tests: in this process, or in a process that Ctrl-C interrupts."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from click.testing import CliRunner

from kvmbench.cli.main import main

ENV = {k: v for k, v in os.environ.items() if not k.startswith(("KVMBENCH", "_KVMBENCH", "COMP_"))}
HERE = os.path.dirname(sys.executable)
SCRIPT = shutil.which("kvmbench", path=os.pathsep.join((HERE, os.environ["PATH"])))
HANGS = 120  # seconds that only a process that hangs takes
# Ctrl-C before `main` runs is Python's to handle, so the command is imported before it says so.
PROGRAM = """
import sys
from kvmbench.__main__ import run
from kvmbench.cli.main import main
main.get_command(None, sys.argv[1])
print("ready", file=sys.stderr, flush=True)
run()
"""


def invoke(*arguments, **env):
    """Run the command in this process; return click's result."""
    return CliRunner().invoke(main, list(map(str, arguments)), prog_name="kvmbench", env=env)


def _cpu_seconds(pid):
    """Return the seconds of CPU, in user mode, that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK")


def interrupted(*arguments, cpu_seconds=0.5, by=signal.SIGINT, **options):
    """Stop the command once it has computed; return its exit code, stdout and stderr."""

    def listen():  # a test run in the background of a shell has SIGINT ignored
        signal.signal(by, signal.SIG_DFL)

    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV) | options
    with subprocess.Popen(command, preexec_fn=listen, **options) as process:
        try:
            assert process.stderr.readline() == "ready\n"
            end = _cpu_seconds(process.pid) + cpu_seconds
            while process.poll() is None and _cpu_seconds(process.pid) < end:
                time.sleep(0.01)
            process.send_signal(by)
            out, err = process.communicate(timeout=HANGS)
        finally:
            process.kill()
    return process.returncode, out, err
