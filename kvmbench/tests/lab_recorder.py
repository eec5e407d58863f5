"""Record a history as a real kernel does it, for test_lab_differ.

`python -m kvmbench.tests.lab_recorder debian:6.12 vmx` boots the kernel and writes the file.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from kvmbench.lab import differ
from kvmbench.lab.emulator import build
from kvmbench.lab.kernel import Kernel, Vendor, kernel, policy_of

FOLDER = Path(__file__).parent / "corpus"
OPERATIONS, SEED = 400, 1


def write(kernel: Kernel, vendor: Vendor, played: Sequence[differ.Played]) -> Path:
    """Write outcomes to the folder of recorded ones; return the file."""
    policy = policy_of(kernel.release, vendor)
    data = {
        "source": f"{kernel.source}, under Bochs 3.0",
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
    file = FOLDER / f"lab-differ.{kernel.label}-{vendor}.json"
    file.write_text(json.dumps(data, separators=(",", ":")) + "\n")
    return file


if __name__ == "__main__":
    name, cpu = sys.argv[1:]
    found = kernel(name)
    chosen: Vendor = "vmx" if cpu == "vmx" else "svm"
    outcomes = differ.play(found, chosen, OPERATIONS, SEED, build())
    print(write(found, chosen, outcomes))
