"""Debian's archive by apt: packages and sources by name, nothing installed, no source added.

`kvmbench.lab.kernel` fetches kernels with it, `kvmbench.lab.emulator` the emulator's source.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmbench.errors import LabError
from kvmbench.lab.files import scratch

__all__ = ["KEYRING", "Suite", "cache_folder"]

MIRROR = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PATIENCE = 600  # seconds for one command of apt
FRESH = 24 * 3600.0  # seconds for which a list of packages is taken as it is


def cache_folder() -> Path:
    """Return the folder below the user's cache that the lab keeps its files in.

    Raises LabError for a user without a home, and where another user could change its files: the
    lab runs the emulator from there, and root may have that user's HOME.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:  # the XDG rules: programs ignore a relative path
        top = Path(base) if base.startswith("/") else Path.home() / ".cache"
    except RuntimeError:
        raise LabError("this user has no home folder: set XDG_CACHE_HOME") from None
    folder = top / "kvmbench" / "lab"
    for place in (top.parent, top, folder.parent, folder):
        try:
            status = place.stat()
        except OSError:  # not there yet, or the lab's own use of it says more
            continue
        anyone = status.st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH
        if anyone or status.st_uid not in (0, os.geteuid()):
            raise LabError(
                f"{place}: another user can write to it, and the lab runs programs from there: "
                "set XDG_CACHE_HOME to a folder of your own"
            )
    return folder


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite of Debian's archive, with separate lists below the lab's cache.

    `kind` is `deb` for packages, `deb-src` for sources. Every method raises LabError, with apt's
    own words, where apt cannot do it.
    """

    name: str
    kind: str = "deb"

    @property
    def folder(self) -> Path:
        """The folder of this suite's lists."""
        return cache_folder() / "apt" / f"{self.name}-{self.kind}"

    def update(self) -> None:
        """Fetch the list of packages unless one of the last day exists."""
        stamp = self.folder / "updated"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < FRESH:
            return
        for inner in ("lists/partial", "cache/archives/partial"):
            (self.folder / inner).mkdir(parents=True, exist_ok=True)
        lines = [f"{self.kind} [signed-by={KEYRING}] {MIRROR} {self.name} main\n"]
        if self.kind == "deb" and self.name not in ("sid", "experimental"):
            suite = f"{self.name}-security"
            lines.append(f"{self.kind} [signed-by={KEYRING}] {SECURITY} {suite} main\n")
        if self.name == "bullseye":  # no longer in the archive itself
            del lines[0]
        (self.folder / "sources.list").write_text("".join(lines))
        self._apt("apt-get", "update")
        stamp.touch()

    def versions(self, package: str) -> list[tuple[str, list[str]]]:
        """Return the versions of a package and the packages that each needs, newest first."""
        self.update()
        try:
            text = self._apt("apt-cache", "show", package)
        except LabError:
            return []
        found = []
        for paragraph in text.split("\n\n"):
            fields = dict(re.findall(r"^([\w-]+): (.*)$", paragraph, re.MULTILINE))
            if "Version" in fields:
                needs = re.findall(r"(?:^|, )([a-z0-9][\w.+-]+)", fields.get("Depends", ""))
                found.append((fields["Version"], needs))
        return found

    def package(self, name: str) -> Path:
        """Return the folder in which a package is unpacked, fetched where it is not there."""
        target = cache_folder() / "packages" / name
        if target.is_dir():
            return target
        self.update()
        with scratch(target.parent, f"{name}.partial") as partial:
            (partial / "root").mkdir()
            self._apt("apt-get", "download", name, cwd=partial)
            (deb,) = partial.glob("*.deb")
            _run(["dpkg", "-x", str(deb), str(partial / "root")])
            try:
                (partial / "root").rename(target)
            except OSError:  # another process was quicker
                if not target.is_dir():
                    raise
        return target

    def source(self, name: str, file: str, folder: Path) -> Path:
        """Fetch a source package's tarball, named `file`, into `folder`."""
        self.update()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._apt("apt-get", "source", "--download-only", "--tar-only", name, cwd=folder)
        except LabError:
            if not (folder / file).exists():  # apt may end with an error that is about other files
                raise
        if not (folder / file).exists():
            raise LabError(f"apt-get source {name}: gives no {file}")
        return folder / file

    def _apt(self, program: str, *words: str, cwd: Path | None = None) -> str:
        here = self.folder
        options = {
            "Dir::Etc::sourcelist": here / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": here / "lists",
            "Dir::Cache": here / "cache",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        if os.geteuid() == 0:
            options["APT::Sandbox::User"] = "root"  # the cache is in root's own folder
        command = [program, "-q", *(f"-o{name}={value}" for name, value in options.items()), *words]
        return _run(command, cwd)


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    """Return a command's output. Raises LabError with its first error."""
    words = " ".join([command[0], *(word for word in command[1:] if not word.startswith("-"))])
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, check=False,
            stdin=subprocess.DEVNULL, env=os.environ | {"LC_ALL": "C"},
        )  # fmt: skip
    except FileNotFoundError:
        raise LabError(f"{command[0]} is not installed: the lab fetches packages with it") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"{words}: not done after {PATIENCE} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        why = (lines or done.stderr.splitlines() or [f"status {done.returncode}"])[0]
        raise LabError(f"{words}: {why}")
    return done.stdout
