"""The emulator: Bochs, built from its source with the lab's instrumentation, cached by content.

`kvmbench lab build` builds it, `kvmbench.lab.run` starts it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmbench.errors import LabError
from kvmbench.lab.debian import KEYRING, Suite, cache_folder
from kvmbench.lab.files import regular, scratch
from kvmbench.lab.kernel import Vendor

__all__ = ["MODELS", "TARBALL", "TARBALL_SHA256", "Emulator", "build", "find", "missing_tools"]

TARBALL = "bochs_3.0+dfsg.orig.tar.xz"
TARBALL_SHA256 = "78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b"
SUITE = "trixie"
HERE = Path(__file__).parent
SOURCES = ("instrument.cc", "instrument.h")
OPTIONS = (
    "--enable-x86-64",
    "--enable-cpu-level=6",
    "--enable-vmx=2",
    "--enable-svm",
    "--enable-avx",
    "--enable-evex",  # without it the models from Haswell on are refused
    "--enable-all-optimizations",
    "--enable-pci",
    "--enable-instrumentation=instrument/kvmbench",
    "--with-nogui",  # opens no window and no port
    "--disable-docbook",
)
FLAGS = "-O2 -D_FILE_OFFSET_BITS=64 -D_LARGE_FILES"
BIOS, VGA_BIOS = "bios.bin-1.13.0", "vgabios-cirrus.bin-1.13.0"  # SeaBIOS, of the same tarball
MODELS: dict[Vendor, str] = {"vmx": "corei7_haswell_4770", "svm": "ryzen"}
"""The CPU model of each vendor."""
PATIENCE = 1800.0  # seconds for the build
TOOLS = {"g++": "g++", "make": "make", "ldd": "libc-bin"}
"""The programs that building needs, and Debian's package of each."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Emulator:
    """A built emulator: its program and the firmware it boots, in one folder."""

    folder: Path

    @property
    def program(self) -> Path:
        """The program."""
        return self.folder / "bochs"

    def command(self, folder: Path, vendor: Vendor, memory: int, floppy: Path) -> list[str]:
        """Write the emulator's configuration to `folder`; return the command that runs it.

        `memory` is in MiB. The machine's console goes to `console.log` there.
        """
        lines = (
            "config_interface: textconfig",
            "display_library: nogui",
            "plugin_ctrl: unmapped=0, biosdev=0, speaker=0, extfpuirq=0, parallel=0, serial=1",
            f"cpu: model={MODELS[vendor]}, count=1, ips={IPS}, reset_on_triple_fault=1",
            f"memory: guest={memory}, host={memory}",
            f"romimage: file={self.folder / BIOS}, options=fastboot",
            f"vgaromimage: file={self.folder / VGA_BIOS}",
            "vga: extension=none",
            f"floppya: 1_44={floppy}, status=inserted",
            "boot: floppy",
            f"com1: enabled=1, mode=file, dev={folder / 'console.log'}",
            "clock: sync=none",  # the machine's clock counts instructions
            f"log: {folder / 'emulator.log'}",
            "panic: action=fatal",
            "error: action=ignore",
            "info: action=ignore",
        )
        file = folder / "machine.conf"
        file.write_text("".join(f"{line}\n" for line in lines))
        return [str(self.program), "-q", "-f", str(file)]


IPS = 100_000_000  # instructions per second of the machine's clock: a tick each 400,000 at 250 Hz


def _identity(tarball_sha256: str) -> str:
    digest = hashlib.sha256(repr((tarball_sha256, OPTIONS, FLAGS)).encode())
    for name in SOURCES:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:16]


def _folder(tarball_sha256: str) -> Path:
    return cache_folder() / "emulator" / f"bochs-{_identity(tarball_sha256)}"


def find() -> Emulator | None:
    """Return the emulator that was built from this kvmbench's instrumentation, or None."""
    known = [_folder(TARBALL_SHA256)]
    other = cache_folder() / "emulator" / "source.sha256"  # of --source
    if other.exists():
        known.insert(0, _folder(other.read_text().strip()))
    return next((Emulator(folder) for folder in known if (folder / "bochs").exists()), None)


def missing_tools() -> list[str]:
    """Return Debian's packages of the programs that building needs and that are not here."""
    return sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})


def build(source: str | Path | None = None, report: Report = lambda _: None) -> Emulator:
    """Return the emulator, built where the cache has none of the same content.

    `source` is a tarball of Bochs; by default Debian's of 3.0 is fetched by apt and its hash
    checked. `report` is called with what is under way. Raises LabError.
    """
    tarball = Path(source) if source is not None else None
    sha256 = TARBALL_SHA256 if tarball is None else _sha256(tarball)
    folder = _folder(sha256)
    if (folder / "bochs").exists():
        return Emulator(folder)
    if packages := missing_tools():
        raise LabError(f"building the emulator needs {' '.join(packages)}: sudo apt-get install "
                       f"{' '.join(packages)}")  # fmt: skip
    if tarball is None:
        report("fetching the source of Bochs 3.0")
        tarball = fetch()
    with scratch(folder.parent, "build-") as work:
        report("building Bochs")
        made = _compile(tarball, work)
        try:
            made.rename(folder)
        except OSError:  # another process was quicker
            if not (folder / "bochs").exists():
                raise
    if source is not None:
        (folder.parent / "source.sha256").write_text(sha256)
    return Emulator(folder)


def fetch() -> Path:
    """Return the tarball of Debian's source package, fetched where it is not there yet."""
    folder = cache_folder() / "source"
    kept = folder / TARBALL
    if not kept.exists():
        if not KEYRING.exists():
            raise LabError(
                f"{KEYRING} is not there (package debian-archive-keyring), so apt cannot fetch the "
                "source of Bochs: name its tarball with `kvmbench lab build --source TARBALL`"
            )
        try:
            Suite(SUITE, "deb-src").source("bochs", TARBALL, folder)
        except LabError as error:
            raise LabError(
                f"{error}; where you have {TARBALL}: kvmbench lab build --source TARBALL"
            ) from None
    if (found := _sha256(kept)) != TARBALL_SHA256:
        kept.unlink()
        raise LabError(f"{TARBALL}: its SHA-256 is {found}, not {TARBALL_SHA256}")
    return kept


def _sha256(path: Path) -> str:
    try:
        with regular(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LabError(f"{path}: {error.strerror or error}") from None


def _compile(tarball: Path, work: Path) -> Path:
    """Unpack, configure and make below `work`; return the folder of what is kept."""
    try:
        with tarfile.open(tarball) as archive:
            archive.extractall(work, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise LabError(f"{tarball}: cannot be unpacked: {error}") from None
    tops = [path.parent for path in work.glob("*/configure")]
    if not tops or not (tops[0] / "instrument/stubs/Makefile.in").exists():
        raise LabError(f"{tarball}: is no source of Bochs")
    top = tops[0]
    if not (top / "bios" / BIOS).exists():
        raise LabError(f"{tarball}: is not Bochs 3.0: it has no bios/{BIOS}")
    ours = top / "instrument/kvmbench"
    ours.mkdir()
    shutil.copy(top / "instrument/stubs/Makefile.in", ours)
    for name in SOURCES:
        shutil.copy(HERE / name, ours)
    begun = time.monotonic()
    _step(["./configure", *OPTIONS, f"CXXFLAGS={FLAGS}", f"CFLAGS={FLAGS}"], top, begun)
    _step(["make", f"-j{len(os.sched_getaffinity(0))}"], top, begun)
    kept = work / "kept"
    kept.mkdir()
    for path in (top / "bochs", top / "bios" / BIOS, top / "bios" / VGA_BIOS):
        shutil.copy(path, kept)
    return kept


def _step(command: Sequence[str], folder: Path, begun: float) -> None:
    """Run one step of the build; its output is kept in the cache where it fails."""
    log = cache_folder() / "build.log"
    left = PATIENCE - (time.monotonic() - begun)
    try:
        with log.open("w") as out:
            done = subprocess.run(
                command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, timeout=max(left, 1),
                check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise LabError(f"building Bochs took more than {PATIENCE:.0f} s; see {log}") from None
    except OSError as error:
        raise LabError(f"{command[0]}: {error.strerror or error}") from None
    if done.returncode:
        raise LabError(f"building Bochs: {command[0]} ended with {done.returncode}; see {log}")
