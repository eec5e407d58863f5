"""The kernels that an emulated machine boots: bzImages with their KVM, and the policy they follow.

`kvmbench.lab.run` boots them, `kvmbench lab` names them.
"""

from __future__ import annotations

import lzma
import re
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kvmbench.errors import LabError
from kvmbench.lab.debian import Suite
from kvmbench.lab.files import LARGEST, content

__all__ = ["KERNELS", "Kernel", "Vendor", "kernel", "policy_of", "release_of"]

Vendor = Literal["vmx", "svm"]
VENDOR_MODULE: dict[Vendor, str] = {"vmx": "kvm-intel", "svm": "kvm-amd"}
KERNELS = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie"}
"""The releases that Debian's stable suites hold; anything else is looked for in NEWER."""
SUITES = ("bullseye", "bookworm", "trixie", "forky", "sid", "experimental")
NEWER = ("sid", "experimental")
META = "linux-image-cloud-amd64"
APPEND = 1500  # characters; a kernel's command line has 2,047, the lab's own stand in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel to boot."""

    label: str
    image: Path  # a bzImage
    modules: Path | None  # the folder that KVM's modules are below; None where KVM is built in
    release: str  # as uname -r says it
    source: str  # where it came from, in words
    append: str = ""  # parameters after the lab's own on its command line
    policy: str | None = None  # that the user states for it, `none` for no reload

    def module_files(self, vendor: Vendor) -> list[tuple[str, bytes]]:
        """Return KVM's modules for `vendor`, uncompressed, each after those that it needs.

        Empty where KVM is built in. Raises LabError where the folder does not have them.
        """
        if self.modules is None:
            return []
        found = {
            re.sub(r"\.ko(\.\w+)?$", "", path.name).replace("_", "-"): path
            for path in sorted(self.modules.rglob("*.ko*"))
        }
        wanted = VENDOR_MODULE[vendor]
        if wanted not in found:
            raise LabError(f"{self.label}: no {wanted}.ko below {self.modules}")
        loaded: dict[str, bytes] = {}

        def add(name: str) -> None:
            path = found.pop(name, None)
            if path is None:  # what is not there is built in
                return
            module = _uncompressed(path)
            needs = re.search(rb"\0depends=([^\0]*)\0", b"\0" + module)
            for needed in needs[1].split(b",") if needs else ():
                add(needed.decode(errors="replace").replace("_", "-"))
            loaded[name] = module

        add(wanted)
        return list(loaded.items())

    def vendors(self) -> list[Vendor]:
        """Return the vendors whose KVM module is there, VMX first; both where KVM is built in."""
        if self.modules is None:
            return ["vmx", "svm"]
        names = {path.name.partition(".ko")[0] for path in self.modules.rglob("kvm*.ko*")}
        return [vendor for vendor, module in VENDOR_MODULE.items() if module in names]


def _uncompressed(path: Path) -> bytes:
    if path.suffix not in (".ko", ".xz", ".gz"):
        raise LabError(f"{path}: only .ko, .ko.xz and .ko.gz can be read: unpack it")
    data = content(path)
    if path.suffix == ".ko":
        return data
    xz = path.suffix == ".xz"
    stream = lzma.LZMADecompressor(memlimit=int(LARGEST)) if xz else zlib.decompressobj(wbits=31)
    try:
        unpacked = stream.decompress(data, int(LARGEST))
    except (lzma.LZMAError, zlib.error) as error:
        raise LabError(f"{path}: {error}") from None
    if not stream.eof:
        raise LabError(f"{path}: has no end, or unpacks to over {LARGEST / 1e6:g} MB")
    return unpacked


def kernel(text: str) -> Kernel:
    """Return the kernel that `[LABEL=]FILE[,OPTION=VALUE...]` names.

    FILE may be `debian:RELEASE`, where RELEASE is `6.1` or a suite, `bookworm`; what Debian has
    of it is fetched without installing. The options are `modules=FOLDER` (of a file only),
    `append=PARAMETERS`, which may hold spaces and commas, and `policy=NAME`.
    Raises LabError, in one line with what was expected.
    """
    label, equals, rest = text.partition("=")
    if not equals or "/" in label or "," in label or ":" in label:
        label, rest = "", text
    name, *given = re.split(r",(?=(?:modules|append|policy)=)", rest)
    options = dict(option.split("=", 1) for option in given)
    if len(options) < len(given):
        raise LabError(f"{text}: has an option twice")
    if name.startswith("debian:"):
        if "modules" in options:
            raise LabError(f"{text}: debian:RELEASE has its own modules")
        wanted = name.removeprefix("debian:")
        found = _debian(label or wanted, wanted)
    else:
        found = _file(label, name, options.get("modules"))
    append = " ".join(options.get("append", "").split())
    if len(append) > APPEND or not append.isascii() or "--" in append.split():
        raise LabError(
            f"append={append[:40]}: expected parameters of the kernel, at most {APPEND} "
            "characters of ASCII, without --"
        )
    source = f"{found.source}, append {append}" if append else found.source
    return replace(found, append=append, policy=options.get("policy"), source=source)


def _file(label: str, name: str, modules: str | None) -> Kernel:
    image = Path(name)
    data = content(image)
    try:
        release = release_of(data)
    except LabError as error:
        raise LabError(f"{name}: {error}") from None
    if modules is not None and (not modules or not Path(modules).is_dir()):
        raise LabError(f"modules={modules}: there is no such folder of modules")
    return Kernel(
        label=label or image.name,
        image=image,
        modules=None if modules is None else Path(modules),
        release=release,
        source=name,
    )


def release_of(image: bytes) -> str:
    """Return a bzImage's release, as uname -r says it. Raises LabError for anything else."""
    if len(image) < 0x210 or image[0x202:0x206] != b"HdrS":
        raise LabError("is no bzImage: it has no setup header")
    (offset,) = struct.unpack_from("<H", image, 0x20E)
    text = image[offset + 0x200 :].split(b"\0", 1)[0][:200].decode(errors="replace")
    if not re.match(r"\d+\.\d+", text):
        raise LabError("is a bzImage without a version")
    return text.split()[0]


def _debian(label: str, wanted: str) -> Kernel:
    if not re.fullmatch(r"[\w.+-]+", wanted):
        raise LabError(f"debian:{wanted}: expected a release such as 6.1, or a suite")
    suites = (KERNELS[wanted],) if wanted in KERNELS else (wanted,) if wanted in SUITES else NEWER
    for name in suites:
        suite = Suite(name)
        for version, needs in suite.versions(META):
            if wanted in SUITES or version.startswith((f"{wanted}.", f"{wanted}~")):
                packages = [need for need in needs if need.startswith("linux-image-")]
                if packages:
                    return _packaged(label, suite, packages[0], version)
    known = ", ".join((*KERNELS, *SUITES))
    raise LabError(f"debian:{wanted}: no such kernel in {' or '.join(suites)}; known are {known}")


def _packaged(label: str, suite: Suite, package: str, version: str) -> Kernel:
    """Return the kernel of a package; newer ones are in several, which need each other."""
    folders, todo = [], [package]
    while todo:
        name = todo.pop()
        folders.append(suite.package(name))
        (_, needs), *_ = suite.versions(name) or [("", [])]
        todo += [n for n in needs if re.match(r"linux-(binary|modules|image)-", n)]
        if len(folders) > 4:
            break
    images = [p for folder in folders for p in folder.rglob("vmlinuz*") if p.is_file()]
    modules = [p for folder in folders for p in folder.rglob("kvm.ko*")]
    if not images or not modules:
        raise LabError(f"{package}: has no vmlinuz or no kvm.ko in it")
    return Kernel(
        label=label,
        image=images[0],
        modules=modules[0].parents[3],  # .../kernel/arch/x86/kvm
        release=release_of(content(images[0])),
        source=f"Debian {suite.name}, {package} {version}",
    )


def policy_of(release: str, vendor: Vendor) -> str | None:
    """Return the policy that a kernel of `release` follows on `vendor`; None for no reload at all.

    Sources: docs/model.md, and for SVM arch/x86/kvm/svm/svm.c: 6.5 no longer reloads TR after
    each exit. Raises LabError for a release without two numbers.
    """
    found = re.match(r"(\d+)\.(\d+)", release)
    if not found:
        raise LabError(f"release {release!r} is no kernel's: state the policy with --policy")
    number = int(found[1]), int(found[2])
    if vendor == "svm":
        return "every-exit" if number < (6, 5) else None
    return "eager" if number < (4, 11) else "deferred" if number < (5, 5) else "exit-to-user"
