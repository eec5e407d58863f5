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
    """Return the command's output, without the seconds that `check` took."""
    result = CliRunner().invoke(main, shlex.split(command))
    return stable(command, result.output)


def stable(command, output):
    """Return the output with the part that changes from run to run left out."""
    return SECONDS.sub("   0.1", output) if command.startswith("check ") else output


def update():
    """Write each command's output into its block."""
    os.chdir(ROOT)
    for page in pages():
        text = page.read_text()
        new = BLOCK.sub(lambda found: found[1] + run(found[2]) + found[4], text)
        if new != text:
            page.write_text(new)
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    update()
