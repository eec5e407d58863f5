"""What the lab needs and has on this machine, each with the command that helps."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass

from kvmbench.lab.debian import KEYRING, cache_folder
from kvmbench.lab.emulator import TARBALL, find, missing_tools
from kvmbench.report import Cell, Column, Document, Table

__all__ = ["Finding", "findings", "findings_document"]

ROOM = 2 << 30  # bytes: the emulator's build, two kernels, an image and a boot


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the lab needs."""

    name: str
    good: bool
    found: str
    remedy: str = ""  # a command, where there is one


def findings() -> list[Finding]:
    """Return the needs of the lab, found or not, in the order of its use."""
    linux = sys.platform == "linux" and platform.machine() == "x86_64"
    found = [
        Finding("machine", linux, f"{sys.platform} on {platform.machine()}",
                "" if linux else "use Linux on x86-64"),
        _measuring(),
    ]  # fmt: skip
    emulator = find()
    if emulator is not None:
        found.append(Finding("emulator", True, str(emulator.program)))
    else:
        tools = missing_tools()
        install = f"sudo apt-get install {' '.join(tools)} && " if tools else ""
        found.append(Finding("emulator", False, "not built", f"{install}kvmbench lab build"))
        kept = cache_folder() / "source" / TARBALL
        found.append(Finding("its source", True, str(kept) if kept.exists() else "by apt"))
    apt = all(shutil.which(name) for name in ("apt-get", "apt-cache", "dpkg"))
    able = apt and KEYRING.exists()
    found.append(
        Finding(
            "debian:RELEASE",
            True,
            "by apt, nothing installed"
            if able
            else "not to be had here: name bzImages, and a TARBALL to build",
            "" if able or not apt else "sudo apt-get install debian-archive-keyring",
        )
    )
    top = cache_folder()
    while not top.exists():
        top = top.parent
    free = shutil.disk_usage(top).free
    writable = os.access(top, os.W_OK)
    found.append(
        Finding(
            "cache",
            free >= ROOM and writable,
            f"{cache_folder()}, {free >> 30} GiB free" + ("" if writable else ", not writable"),
            "" if free >= ROOM and writable else "set XDG_CACHE_HOME to a folder with 2 GiB",
        )
    )
    fetched = sorted(p.name for p in (cache_folder() / "packages").glob("linux-*"))
    if fetched:
        found.append(Finding("kernels fetched", True, ", ".join(fetched)))
    return found


def _measuring() -> Finding:
    try:
        from kvmbench.live import _kvm
    except ImportError:
        return Finding("measuring process", False, "kvmbench.live._kvm was not built",
                       "install linux-libc-dev and a C compiler, then kvmbench again")  # fmt: skip
    return Finding("measuring process", True, _kvm.__name__)


def findings_document(found: list[Finding]) -> Document:
    """Return the document of `kvmbench lab doctor`."""
    columns = (Column("what", "key"), Column("", "word"), Column("found", "word"),
               Column("what helps", "word"))  # fmt: skip
    rows = [
        (f.name, Cell("ok", "good") if f.good else Cell("missing", "bad"), f.found, f.remedy)
        for f in found
    ]
    ready = all(f.good for f in found)
    records = [{"what": f.name, "good": f.good, "found": f.found, "remedy": f.remedy}
               for f in found]  # fmt: skip
    return Document(
        title="The lab is ready" if ready else "The lab is not ready",
        blocks=[Table(columns, rows)],
        records=records,
        data={"schema": "kvmbench.lab-doctor/1", "ready": ready, "findings": records},
    )
