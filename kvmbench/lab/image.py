"""What the emulated machine boots from: boot sector, kernel and an initramfs with Python in it.

`kvmbench.lab.run` calls `files`. Nothing is mounted and no other program is needed but `ldd`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import py_compile
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from kvmbench.atomic import replace_file
from kvmbench.errors import LabError
from kvmbench.interpreter import interpreter, python

__all__ = ["Boot", "boot_files", "cpio", "libraries", "python_image", "setup_code"]

SITE = "site"  # where the packages stand in the machine
LEFT_OUT = re.compile(
    r"/(test|tests|config-[^/]*|idlelib|tkinter|turtledemo|ensurepip|lib2to3|site-packages|dist-packages|"
    r"__pycache__|pydoc_data|unittest|bench|data/published|_pyrepl)(/|$)|\.(a|exe|pxd|pyi|pyx|h|o)$"
)
UNUSED = re.compile(
    r"/lib-dynload/(_tkinter|_sqlite3|_curses|_test|_xx|xx|_ssl|_hashlib|_dbm|_gdbm|_codecs_|readline|"
    r"_asyncio|_elementtree|pyexpat|nis|ossaudiodev|audioop|_multiprocessing|_uuid|_lzma|_bz2)"
)
SETUP, KERNEL, CMDLINE = 0x80000, 0x100000, 0x90000  # physical addresses
INITRD_ALIGN = 0x100000
SECTOR = 512
KEPT = 4  # images in the cache: each version of kvmbench makes one, 60 to 170 MB

Entry = tuple[str, int, bytes]  # path without the first /, mode, content


class Boot(dict[int, Path]):
    """The files to load, by physical address, and the boot sector."""

    sector: Path


def cpio(entries: Iterable[Entry]) -> bytes:
    """Return an archive of the format that the kernel unpacks (newc), folders included."""
    out = bytearray()
    made: set[str] = set()
    number = 0

    def add(path: str, mode: int, content: bytes) -> None:
        nonlocal number
        number += 1
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        out.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + name)
        out.extend(bytes(-len(out) % 4))
        out.extend(content)
        out.extend(bytes(-len(out) % 4))

    for path, mode, content in entries:
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder not in made:
                made.add(folder)
                add(folder, 0o040755, b"")
        if path not in made:
            made.add(path)
            add(path, mode, content)
    add("TRAILER!!!", 0, b"")
    out.extend(bytes(-len(out) % SECTOR))
    return bytes(out)


def libraries(files: Iterable[Path]) -> list[Path]:
    """Return the shared libraries that `files` need, by the paths the dynamic linker gives.

    Raises LabError where `ldd` is missing or a library is.
    """
    listed = sorted({str(file) for file in files})
    found: dict[str, None] = {}
    try:
        done = subprocess.run(
            ["ldd", *listed], capture_output=True, text=True, timeout=120, check=False
        )
    except OSError as error:
        raise LabError(f"ldd: {error.strerror}: it comes with the C library") from None
    for line in done.stdout.splitlines():
        if "not found" in line:
            raise LabError(f"a shared library of Python is missing: {line.strip()}")
        if match := re.search(r"(?:=>\s*|^\s+)(/\S+)\s+\(0x", line):
            found[match[1]] = None
    return [Path(path) for path in found]


def _closure(modules: Iterable[str]) -> list[str]:
    """Return the source files of all modules that importing `modules` loads."""
    program = (
        f"import json, {', '.join(modules)}\n"
        "print(json.dumps([getattr(m, '__file__', None) for m in sys.modules.values()]))"
    )
    done = subprocess.run(
        python(program, packages=True), capture_output=True, text=True, timeout=120, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        raise LabError(f"the measuring process cannot be imported: {done.stderr.splitlines()[-1]}")
    return [file for file in json.loads(done.stdout) if file]


def _tree(folder: Path, below: str) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        inner = "/" + str(path.relative_to(folder))
        if path.is_file() and not LEFT_OUT.search(inner) and not UNUSED.search(inner):
            yield below + inner, path


def _python(numpy: bool) -> dict[str, Path]:
    """Return the files of Python and the measuring process: path in the machine -> file here."""
    standard = Path(os.__file__).parent
    own = interpreter()
    found = dict(_tree(standard, str(standard)[1:]))
    found[str(own)[1:]] = own
    for name in ("kvmbench", "msgspec", *(("numpy",) if numpy else ())):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise LabError(f"{name} is not installed")
        folder = Path(spec.origin).parent
        found.update(_tree(folder, f"{SITE}/{name}"))
        libs = folder.parent / f"{name}.libs"  # of a wheel
        found.update(_tree(libs, f"{SITE}/{name}.libs") if libs.is_dir() else ())
    return found


def python_image(cache: Path, *, numpy: bool = False) -> Path:
    """Return the initramfs with Python and kvmbench in it, made where the cache has none alike.

    Raises LabError where Python's files or libraries are not all there.
    """
    found = _python(numpy)
    digest = hashlib.sha256(repr((sys.version, numpy, FORMAT)).encode())
    for inner, path in sorted(found.items()):
        status = path.stat()
        digest.update(f"{inner} {path} {status.st_size} {status.st_mtime_ns}\n".encode())
    image = cache / f"python-{digest.hexdigest()[:16]}.cpio"
    if image.exists():
        os.utime(image)
        return image
    modules = ["kvmbench.lab.inside", "kvmbench.live.worker", "kvmbench.live.engine"]
    modules += ["kvmbench.workloads", "msgspec", "ctypes", "logging"]
    modules += ["kvmbench.live.io_check"] if numpy else []
    binaries = [p for p in found.values() if re.search(r"\.so(\.|$)", p.name)]
    binaries.append(interpreter())
    by_path = {str(path): inner for inner, path in found.items()}
    for library in libraries(binaries):
        if str(library) not in by_path:
            found[str(library)[1:]] = library
    entries = [(inner, 0o100755, path.read_bytes()) for inner, path in sorted(found.items())]
    entries.append(("bin/python3", 0o120777, str(interpreter()).encode()))
    version = importlib.metadata.version("kvmbench")
    metadata = f"Metadata-Version: 2.1\nName: kvmbench\nVersion: {version}\n"
    entries.append((f"{SITE}/kvmbench-{version}.dist-info/METADATA", 0o100644, metadata.encode()))
    entries += _compiled(_closure(modules), by_path)
    cache.mkdir(parents=True, exist_ok=True)
    replace_file(image, cpio(entries))
    with suppress(FileNotFoundError):  # another process removes them too
        for old in sorted(cache.glob("python-*.cpio"), key=os.path.getmtime)[:-KEPT]:
            old.unlink()
    return image


FORMAT = 3  # changes when the same files make another image


def _compiled(sources: Iterable[str], by_path: Mapping[str, str]) -> Iterator[Entry]:
    """Yield the compiled form of each source file that is in the image, without its time."""
    tag = sys.implementation.cache_tag
    with tempfile.TemporaryDirectory() as folder:
        for source in sources:
            inner = by_path.get(source)
            if inner is None or not source.endswith(".py"):
                continue
            target = f"{folder}/x.pyc"
            py_compile.compile(
                source, cfile=target, dfile="/" + inner, doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )  # fmt: skip
            parent, _, name = inner.rpartition("/")
            pyc = f"{parent}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc"
            yield pyc, 0o100644, Path(target).read_bytes()


def setup_code(kernel: bytes, *, initrd: int, size: int) -> tuple[bytes, bytes]:
    """Return a bzImage's setup code, its header filled in, and its protected-mode part.

    `initrd` and `size` are the initramfs's physical address and bytes (Linux's
    Documentation/arch/x86/boot.rst). Raises LabError for what is no bzImage of protocol 2.06 on.
    """
    if len(kernel) < 0x1000 or kernel[0x202:0x206] != b"HdrS":
        raise LabError("is no bzImage: it has no setup header")
    (version,) = struct.unpack_from("<H", kernel, 0x206)
    if version < 0x206 or not kernel[0x211] & 1:
        raise LabError(f"is a zImage, or of boot protocol {version >> 8}.{version & 255:02}")
    sectors = kernel[0x1F1] or 4
    setup = bytearray(kernel[: (sectors + 1) * SECTOR])
    setup[0x210] = 0xFF  # an unregistered boot loader
    setup[0x211] |= 0x80  # heap_end_ptr is valid
    struct.pack_into("<H", setup, 0x224, 0xDE00)
    struct.pack_into("<II", setup, 0x218, initrd, size)
    struct.pack_into("<I", setup, 0x228, CMDLINE)
    return bytes(setup), kernel[(sectors + 1) * SECTOR :]


def boot_sector() -> bytes:
    """Return a floppy disk's first sector: ask the emulator for the files, and start the kernel."""
    code = bytes.fromhex("67 0f1f8400 626d766b")  # instrument.cc's marker, in 16-bit code
    segment = SETUP >> 4
    # RDI is LOAD: mov edi, 1, before the marker; fa: cli
    code = bytes.fromhex("66bf01000000") + code + b"\xfa"
    code += b"\xb8" + struct.pack("<H", segment)  # mov ax, segment
    code += bytes.fromhex("8ed8 8ec0 8ed0 8ee0 8ee8")  # to ds, es, ss, fs, gs
    code += b"\xbc" + struct.pack("<H", 0xDFF0)  # mov sp
    code += b"\xea" + struct.pack("<HH", 0, segment + 0x20)  # jmp to the setup's second sector
    return code.ljust(510, b"\0") + b"\x55\xaa"


def boot_files(
    folder: Path, kernel: bytes, image: Path, extra: bytes, cmdline: str, memory: int
) -> Boot:
    """Write what the emulator loads to `folder`; return it by address.

    `extra` is a second archive, which the kernel unpacks after `image`; `memory` is the
    machine's, in bytes.
    """
    size = image.stat().st_size + len(extra)
    initrd = (memory - size - 4 * INITRD_ALIGN) // INITRD_ALIGN * INITRD_ALIGN
    setup, rest = setup_code(kernel, initrd=initrd, size=size)
    if initrd < KERNEL + 4 * len(rest) + 64 * INITRD_ALIGN:
        raise LabError(f"{memory >> 20} MiB of memory are too few for this kernel and the image")
    made = Boot()
    parts = {SETUP: setup, KERNEL: rest, CMDLINE: cmdline.encode() + b"\0"}
    for address, content in parts.items():
        made[address] = folder / f"load-{address:x}"
        made[address].write_bytes(content)
    made[initrd] = image
    made[initrd + image.stat().st_size] = folder / "extra.cpio"
    (folder / "extra.cpio").write_bytes(extra)
    made.sector = folder / "floppy.img"
    made.sector.write_bytes(boot_sector().ljust(1440 * 1024, b"\0"))
    return made
