"""Record a history as a real kernel does it, for test_lab_differ.

`python -m kvmbench.tests.lab_recorder debian:6.12 vmx` boots the kernel and writes the file.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from kvmbench.lab import differ
from kvmbench.lab.emulator import build
from kvmbench.lab.kernel import kernel, policy_of

FOLDER = Path(__file__).parent / "corpus" / "lab-differ"
OPERATIONS, SEED = 400, 1


def write(release: str, vendor: str, policy: str | None, played: Sequence[differ.Played]) -> Path:
    """Write outcomes to the folder of recorded ones; return the file."""
    data = {
        "command": f"python -m kvmbench.tests.lab_recorder debian:{release} {vendor}",
        "vendor": vendor,
        "policy": policy,
        "played": [
            {
                "history": [list(operation) for operation in one.history],
                "answers": "".join(map(str, one.answers)),
                "marks": [list(mark) for mark in one.marks],
            }
            for one in played
        ],
    }
    file = FOLDER / f"{release}-{vendor}.json"
    file.write_text(json.dumps(data, separators=(",", ":")) + "\n")
    return file


if __name__ == "__main__":
    name, cpu = sys.argv[1:]
    found = kernel(name)
    chosen = "vmx" if cpu == "vmx" else "svm"
    outcomes = differ.play(found, chosen, OPERATIONS, SEED, build())
    print(write(found.label, chosen, policy_of(found.release, chosen), outcomes))
