"""Build the Cython core; everything else is in pyproject.toml.

KVMBENCH_DEBUG=1     every check of Cython on
KVMBENCH_SANITIZE=1  AddressSanitizer and UndefinedBehaviorSanitizer
KVMBENCH_TRACE=1     line tracing, for coverage of the .pyx
KVMBENCH_ANNOTATE=1  build/cython/kvmbench/_core.html, what of it calls Python
"""

import os
import platform
import re
import sys
import tomllib
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("KVMBENCH_DEBUG") == "1"
SANITIZE = os.environ.get("KVMBENCH_SANITIZE") == "1"
TRACE = os.environ.get("KVMBENCH_TRACE") == "1"
ANNOTATE = os.environ.get("KVMBENCH_ANNOTATE") == "1"

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": DEBUG,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "overflowcheck": False,  # unsigned sums wrap on purpose where they are checked afterwards
    "cdivision": not DEBUG,
    "binding": False,  # Python calls a C function faster than Cython's function objects
    "embedsignature": True,
    "embedsignature.format": "clinic",  # what inspect.signature reads of a C function
    "linetrace": TRACE,
}

# Debug information would be two thirds of a wheel.
flags, link, macros = ["-O3", *([] if DEBUG else ["-g0"])], [], []
if SANITIZE:
    # Python's own -fwrapv hides signed overflow.
    flags = ["-O1", "-g", "-fno-wrapv", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]
    flags += ["-fsanitize=address,undefined,float-cast-overflow"]
    link = ["-fsanitize=address,undefined"]
if TRACE:
    macros = [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1")]
    macros += [("CYTHON_USE_SYS_MONITORING", "0")]

SHARED = "_cyutility"  # Cython's own code for memoryviews, once for all modules

modules = dict.fromkeys(
    (
        *("_ports", "_steps", "_core", "scenario._host", "checker.explorer"),
        *("traces._reader", "traces._history", SHARED),
    ),
    False,
)  # whether it is optional
if sys.platform == "linux" and platform.machine() == "x86_64":
    # Without it everything works but measuring on /dev/kvm, so its failure fails no installation.
    modules["live._kvm"] = True

extensions = [
    Extension(
        f"kvmbench.{name}",
        [f"kvmbench/{name.replace('.', '/')}.{'c' if name == SHARED else 'pyx'}"],
        include_dirs=[os.path.dirname(f"kvmbench/{name.replace('.', '/')}")],
        extra_compile_args=flags,
        extra_link_args=link,
        define_macros=macros,
        optional=optional,
    )
    for name, optional in modules.items()
]


def readme(project):
    """Return the README with links to this version's files: PyPI shows it without them."""
    files = f"{project['urls']['Source']}/%s/v{project['version']}/"
    text = Path("README.md").read_text()
    text = re.sub(r"(!\[[^\]]*\]\()(?!https?:)", rf"\g<1>{files % 'raw'}", text)
    return re.sub(r"(\]\()(?!https?:|#)", rf"\g<1>{files % 'blob'}", text)


if __name__ == "__main__":  # Cython's processes may import this file
    setup(
        long_description=readme(tomllib.loads(Path("pyproject.toml").read_text())["project"]),
        long_description_content_type="text/markdown",
        ext_modules=cythonize(
            extensions,
            nthreads=os.cpu_count(),
            compiler_directives=DIRECTIVES,
            annotate=ANNOTATE,
            emit_linenums=SANITIZE,
            # The coverage plugin wants the C file next to the source.
            build_dir=None if TRACE else "build/cython",
            shared_utility_qualified_name=f"kvmbench.{SHARED}",
        ),
        options={"build_ext": {"parallel": os.cpu_count()}},
    )
