"""Labels of a measurement: its host, its commit and the user's own, such as a branch.

A boot of a result carries them. The commands that make or keep results set them; `collect`,
`compare --pair-by` and `history` read them.
"""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

if TYPE_CHECKING:
    from kvmbench.results import Boot, Result

__all__ = ["commit_labels", "label_of", "labelled", "measured_labels", "parse_labels"]

FACTS = ("cpu", "kernel", "microcode", "kvm", "governor", "smt", "clock", "mitigations")
"""The facts of a host that can be asked for as if they were labels."""

NEXT = re.compile(r",(?=[A-Za-z_][\w.-]*=)")  # a comma after which another label begins
NAME = re.compile(r"[A-Za-z_][\w.-]*")
BUILT = re.compile(r"-g([0-9a-f]{7,40})(-dirty)?\b")  # of uname -r, with CONFIG_LOCALVERSION_AUTO
PATIENCE = 10  # seconds for git


def parse_labels(text: str) -> dict[str, str]:
    """Return the labels that `KEY=VALUE[,KEY=VALUE]...` says; an empty value removes a label.

    Raises ValueError for text of another form.
    """
    found = {}
    for part in NEXT.split(text):
        key, equals, value = part.partition("=")
        if not equals or not NAME.fullmatch(key) or not value.isprintable():
            raise ValueError(
                f"{part!r} is not KEY=VALUE, the key of letters, digits, '_', '.' and '-'"
            )
        found[key] = value
    return found


def commit_labels(kernel: str | None = None) -> dict[str, str]:
    """Return the labels `commit` and `commit_time` of the current folder's git repository.

    Where the release `kernel` names its commit (6.12.0-rc1-00123-gabcdef123456), that is `commit`.
    A commit with changes that are not committed ends in -dirty. Empty where neither is known.
    """
    if kernel and (built := BUILT.search(kernel)):
        return {"commit": built[1] + (built[2] or "")}
    commit = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    if not commit or not re.fullmatch(r"[0-9a-f]{40,64}(-dirty)?", commit):
        return {}
    time = _git("show", "--no-patch", "--format=%cI", "HEAD")
    return {"commit": commit} | ({"commit_time": time} if time else {})


def measured_labels(kernel: str | None = None) -> dict[str, str]:
    """Return the labels of a measurement on this host: `host`, and those of `commit_labels`."""
    return {"host": platform.node()} | commit_labels(kernel)


def _git(*words: str) -> str:
    """Return the line that git prints; empty where it fails, or there is no git."""
    # A repository's configuration can name a program for fsmonitor, and git would run it.
    command = ["git", "-c", "core.fsmonitor=false", *words]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace").strip()


def labelled(result: Result, labels: Mapping[str, str], *, defaults: bool = False) -> Result:
    """Return `result` with `labels` on every boot; an empty value removes a label.

    With `defaults` a boot keeps the labels that it has.
    """
    boots = []
    for boot in result.boots:
        merged = {**labels, **boot.labels} if defaults else {**boot.labels, **labels}
        boots.append(replace(boot, labels={key: value for key, value in merged.items() if value}))
    return replace(result, boots=boots)


def label_of(boot: Boot, by: str) -> str:
    """Return a boot's label `by`, or that fact of its host (FACTS); empty where it is unknown.

    `clock` is the frequency of the TSC in MHz, `mitigations` all of them.
    """
    if by in boot.labels or by not in FACTS:
        return boot.labels.get(by, "")
    if by == "clock":
        return f"{boot.host.tsc_hz / 1e6:.0f} MHz" if boot.host.tsc_hz else ""
    if by == "mitigations":
        return "; ".join(f"{name}: {how}" for name, how in sorted(boot.host.mitigations.items()))
    found: str | None = getattr(boot.host, by)
    return found or ""
