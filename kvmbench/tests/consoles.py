"""The console blocks of the README and of docs/: each is the output of its command.

`python -m kvmbench.tests.consoles` runs the commands and writes their output into the pages.
"""

import os
import re
import shlex
from pathlib import Path

from click.testing import CliRunner

import kvmbench
from kvmbench.cli.main import main

ROOT = Path(kvmbench.__file__).parent.parent
BLOCK = re.compile(r"(```console\n\$ kvmbench (.*?)\n)(.*?)(```)", re.DOTALL)
SECONDS = re.compile(r" +\d+\.\d$", re.MULTILINE)  # the last column of `check`


def pages():
    """Return the README and the pages of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text):
    """Return (command, output) for each console block."""
    return [(command, output) for _, command, output, _ in BLOCK.findall(text)]


def run(command):
    """Return the command's output."""
    return CliRunner().invoke(main, shlex.split(command)).output


def stable(command, output):
    """Return the output without the seconds that `check` took, which differ from run to run."""
    return SECONDS.sub("", output) if command.startswith("check ") else output


def _shown(found):
    """Return a block with its command's output; one that differs in seconds alone stays."""
    begin, command, old, end = found.groups()
    new = run(command)
    return begin + (old if stable(command, new) == stable(command, old) else new) + end


def update():
    """Write each command's output into its block."""
    os.chdir(ROOT)
    for page in pages():
        text = page.read_text()
        new = BLOCK.sub(_shown, text)
        if new != text:
            page.write_text(new)
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    update()
