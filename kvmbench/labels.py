"""Labels of a measurement: its host, its commit and the user's own, such as a branch.

A boot of a result carries them. The commands that make or keep results set them; `collect`,
`compare --pair-by` and `history` read them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvmbench.results import Boot, Result

__all__ = ["commit_labels", "label_of", "labelled", "measured_labels", "parse_labels"]

FACTS = ("cpu", "kernel", "microcode", "kvm", "governor", "smt", "clock", "mitigations")
"""The facts of a host that can be asked for as if they were labels."""

NEXT = re.compile(r",(?=[A-Za-z_][\w.-]*=)")  # a comma after which another label begins
NAME = re.compile(r"[A-Za-z_][\w.-]*")
BUILT = re.compile(r"-g([0-9a-f]{7,40})(-dirty)?\b")  # of uname -r, with CONFIG_LOCALVERSION_AUTO
COMMIT = re.compile(r"[0-9a-f]{40,64}")
COMMITTED = re.compile(r"^committer .*> (\d{1,11}) [-+]\d{4}$", re.MULTILINE)
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
    Empty where neither is known. Changes that are not committed do not show.
    """
    if kernel and (built := BUILT.search(kernel)):
        return {"commit": built[1] + (built[2] or "")}
    commit = _git("rev-parse", "--verify", "HEAD")
    if not COMMIT.fullmatch(commit):
        return {}
    found = {"commit": commit}
    if committed := COMMITTED.search(_git("cat-file", "commit", commit)):
        found["commit_time"] = datetime.fromtimestamp(int(committed[1]), UTC).isoformat()
    return found


def measured_labels(kernel: str | None = None) -> dict[str, str]:
    """Return the labels of a measurement on this host: `host`, and those of `commit_labels`."""
    return {"host": os.uname().nodename} | commit_labels(kernel)


def _git(*words: str) -> str:
    """Return the output of git; empty where it fails, or there is no git.

    Callers use plumbing that reads objects only: a repository's configuration can name programs
    (filters, fsmonitor, gpg) that other commands run.
    """
    import subprocess

    command = ["git", "--no-replace-objects", *words]
    shut = {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1"}  # no remote, no helper of one
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=PATIENCE, check=True, env=os.environ | shut
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace").strip()


def labelled(result: Result, labels: Mapping[str, str], *, defaults: bool = False) -> Result:
    """Return `result` with `labels` on every boot; an empty value removes a label.

    With `defaults` a boot keeps the labels that it has.
    """
    from msgspec.structs import replace

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
