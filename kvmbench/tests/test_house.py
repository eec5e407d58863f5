"""The house itself: public names, import floors, and lists that must agree with each other."""

import ast
import os
import re
import subprocess
import sys
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path

import pytest

import kvmbench
from kvmbench import Costs, Op, catalog
from kvmbench.arrays import COUNTERS, COUNTERS_DTYPE, OP_DTYPE
from kvmbench.model import HOOKS, STEPS
from kvmbench.scenario import scenario

PACKAGE = Path(kvmbench.__file__).parent
SOURCE = PACKAGE.parent  # the source tree, or site-packages
IN_TREE = (SOURCE / "setup.py").exists() and (SOURCE / "pyproject.toml").exists()
in_tree = pytest.mark.skipif(not IN_TREE, reason="an installed package has no setup.py")

CONTRACT = {  # names that others write against
    *("Op", "OP_DTYPE", "Costs", "ExitKind", "Profile", "Policy", "policies", "load_policies"),
    *("Machine", "OperationError", "port_check"),
}


# Public names


def test_public_names():
    names = kvmbench.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert len(names) == len(set(names))
    assert set(names) >= CONTRACT
    assert dir(kvmbench) == sorted(names)
    assert {*kvmbench._HOME, "__version__", "get_include"} == set(names)


@pytest.mark.parametrize("name", kvmbench.__all__)
def test_every_public_name_loads(name):
    assert getattr(kvmbench, name) is not None
    assert getattr(kvmbench, name) is getattr(kvmbench, name)


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'kvmbench' has no attribute 'Machin'"):
        _ = kvmbench.Machin


def test_type_checkers_see_the_same_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n))
    homes = {alias.name: node.module for node in block.body for alias in node.names}
    assert homes == {name: f"kvmbench.{home}" for name, home in kvmbench._HOME.items()}


@pytest.mark.parametrize(
    "module",
    [
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in sorted(PACKAGE.rglob("*.py"))
        if not {"cli", "tests", "__init__.py", "__main__.py"} & set(path.relative_to(PACKAGE).parts)
    ],
)
def test_every_modules_all(module):
    __import__(f"kvmbench.{module}")
    found = sys.modules[f"kvmbench.{module}"]
    assert len(set(found.__all__)) == len(found.__all__)
    assert all(hasattr(found, name) for name in found.__all__)


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import kvmbench", {"numpy", "click", "kvmbench._core", "kvmbench.model"}),
        ("import kvmbench; dir(kvmbench)", {"numpy", "click"}),
        ("from kvmbench import Policy, policies, profiles", {"numpy", "click"}),
        ("from kvmbench import Workload", {"numpy", "click"}),
        ("from kvmbench import Machine", {"click"}),
        ("import kvmbench.simulation.simulate, kvmbench.simulation.document", {"click"}),
        ("import kvmbench.live.worker", {"click", "numpy", "msgspec", "kvmbench.live._kvm"}),
        ("import kvmbench.scenario.scenario, kvmbench.scenario.document", {"click"}),
        ("import kvmbench.pytest_plugin", {"numpy", "click", "msgspec", "kvmbench.model"}),
        (
            "import kvmbench.checker.verdict, kvmbench.checker.promela, kvmbench.checker.mutations",
            {"click", "numpy"},
        ),
        ("import kvmbench.checker.document", {"click"}),
        ("import kvmbench.traces.host, kvmbench.traces.document", {"click"}),
        ("import kvmbench.sweeps.engines, kvmbench.sweeps.search", {"click", "distributed"}),
    ],
)
def test_imports_stay_light(code, unwanted):
    program = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert unwanted & set(done.stdout.split()) == set()


# Floors: imports go down only; on one floor, only inside a folder or along an arrow.

FLOORS = {
    **dict.fromkeys(("errors", "atomic", "causes", "stats", "interpreter"), 1),
    **dict.fromkeys(("arrays", "tomlfile", "model", "report", "student", "adjustment"), 2),
    **dict.fromkeys(("catalog", "planning"), 3),
    **dict.fromkeys(("_steps", "_ports", "_core", "guest"), 4),
    **dict.fromkeys(("workloads", "results", "units", "summary", "labels", "pictures"), 5),
    **dict.fromkeys(("formats",), 6),
    **dict.fromkeys(("simulation", "scenario", "live", "checker", "comparison", "baseline"), 7),
    **dict.fromkeys(("lab", "traces"), 7),
    **dict.fromkeys(("sweeps",), 8),
    **dict.fromkeys(("cli", "pytest_plugin"), 9),
    **dict.fromkeys(("__main__",), 10),
}
ARROWS = {("_core", "_steps"), ("_core", "_ports"), ("_steps", "_ports"), ("units", "results")}
ARROWS |= {("units", "labels"), ("labels", "results")}
ARROWS |= {("lab", "live"), ("lab", "simulation")}  # the same engine, inside a machine
ARROWS |= {("traces", "scenario")}  # a recording becomes a scenario
ARROWS |= {("pictures", "units"), ("summary", "pictures")}
ARROWS |= {("summary", "units"), ("summary", "results"), ("results", "summary")}
SUFFIXES = (".py", ".pyi", ".pyx", ".pxd")
MODULES = sorted(
    path
    for path in PACKAGE.rglob("*.*")
    if path.suffix in SUFFIXES and "tests" not in path.relative_to(PACKAGE).parts
)


def module(path):
    """Return the dotted name of a file's module, below kvmbench: `live.engine`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


NAMES = {module(path) for path in MODULES}


def room(name):
    """Return the folder, or the file at the top, that a module stands in."""
    return name.split(".")[0]


def import_statements(path, typing=True):
    """Return the import nodes of a file; of Cython, its import and cimport statements.

    Without `typing`, those under `if TYPE_CHECKING` are left out.
    """
    text = path.read_text()
    if path.suffix in (".pyx", ".pxd"):
        pattern = r"^[ \t]*((?:from[ \t]+[\w.]+[ \t]+)?c?import[ \t]+(?:\([^)]*\)|[^(\n#]+))"
        found = re.findall(pattern, text, re.MULTILINE)
        text = "\n".join(re.sub(r"\bcimport\b", "import", statement) for statement in found)
    tree = ast.parse(text)
    blocks = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    ]
    unwanted = {id(child) for block in blocks for child in ast.walk(block)} if not typing else ()
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in unwanted
    ]


def imported(path, typing=True):
    """Return the modules of kvmbench that a file imports, dotted, below kvmbench."""
    names = set()
    for node in import_statements(path, typing):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            assert not node.level, f"{path.name}:{node.lineno}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    found = set()
    for name in names:
        parts = name.split(".")[1:]
        if name.split(".")[0] != "kvmbench":
            continue
        if parts and parts[0] in kvmbench._HOME:
            parts = kvmbench._HOME[parts[0]].split(".")
        while parts and ".".join(parts) not in NAMES:
            parts.pop()
        found.add(".".join(parts))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_floors(path):
    here = room(module(path))
    if not here:  # the names of kvmbench/__init__.py load on first use
        return
    assert here in FLOORS, f"{here} has no floor: give it one above"
    for name in imported(path):
        there = room(name)
        if not there:
            continue
        assert there in FLOORS, f"{here} imports {there}, which has no floor"
        allowed = here == there or (here, there) in ARROWS
        assert FLOORS[there] < FLOORS[here] or allowed, f"{here} imports {there}"


def test_no_circle():
    """No module imports itself through others, inside a folder or out."""
    edges = {name: set() for name in NAMES if name}
    for path in MODULES:
        if name := module(path):
            edges[name] |= imported(path, typing=False) - {name, ""}
    while True:
        leaves = {name for name, below in edges.items() if not below & edges.keys()}
        if not leaves:
            break
        edges = {name: below for name, below in edges.items() if name not in leaves}
    assert edges == {}, f"a circle among {sorted(edges)}"


def test_floors_see_every_kind_of_import(tmp_path):
    file = tmp_path / "seen.pyx"
    file.write_text(
        "from libc.stdint cimport int64_t\ncimport cython\n"
        "from kvmbench._steps cimport (\n    KbMachine,\n    KbOp,\n)\n"
        "def f():\n    from kvmbench import stats, Machine\n"
        "    import kvmbench.simulation.simulate as s\n"
    )
    assert imported(file) == {"_steps", "stats", "_core", "simulation.simulate"}
    file = tmp_path / "seen.py"
    file.write_text("if TYPE_CHECKING:\n    from kvmbench.cli.common import read\n")
    assert imported(file) == {"cli.common"}
    assert imported(file, typing=False) == set()


def test_click_lives_in_cli_only():
    users = set()
    for path in MODULES:
        for node in import_statements(path):
            names = [alias.name for alias in node.names]
            names = [node.module] if isinstance(node, ast.ImportFrom) else names
            if "click" in {name.split(".")[0] for name in names}:
                users.add(room(module(path)))
    assert users == {"cli"}


def test_one_module_starts_pythons():
    """What a Python of ours imports is decided in one place, where no folder of a user counts."""
    starts = re.compile(r"sys\.executable|multiprocessing.*Process|ProcessPool|[\"']-[cm][\"']")
    users = {module(path) for path in MODULES if starts.search(path.read_text())}
    assert users == {"interpreter"}


# Cython


CYTHON = [path for path in MODULES if path.suffix in (".pyx", ".pxd")]


def bare_nogil(text):
    """Return the signatures that say nogil and neither noexcept nor except."""
    text = re.sub(r"#.*", "", text)
    found = re.findall(r"\)([^()\n:]*)\bnogil\b", text)
    return [words for words in found if not re.search(r"\b(noexcept|except)\b", words)]


@pytest.mark.parametrize("path", CYTHON, ids=lambda path: path.name)
def test_every_nogil_says_what_of_exceptions(path):
    text = path.read_text()
    assert bare_nogil(text) == []
    assert "nogil" in text or path.stem != "_steps"


@pytest.mark.parametrize(
    ("line", "bare"),
    [
        ("cdef int f(int a) noexcept nogil", False),
        ("cdef int f(int a,\n           int b) except -1 nogil:", False),
        ("cdef int f(int a) except? -1 nogil:", False),
        ("    with nogil:", False),
        ("cdef int f(int a) nogil:", True),
        ("cdef void f(int a,\n    int b) nogil", True),
    ],
)
def test_bare_nogil_is_seen(line, bare):
    assert bool(bare_nogil(line)) == bare


def test_directives_stand_in_setup_only():
    switches = r"(?:boundscheck|wraparound|initializedcheck|nonecheck|overflowcheck|cdivision)"
    for path in CYTHON:
        assert re.findall(rf"cython\.{switches}|#\s*cython:", path.read_text()) == []


@in_tree
def test_setup_builds_each_module_once():
    built = sorted(module(path) for path in PACKAGE.rglob("*.pyx"))
    tree = ast.parse((SOURCE / "setup.py").read_text())
    words = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert sorted(word for word in words if word in built) == built


# Lists that are written down twice

STEPS_PXD = (PACKAGE / "_steps.pxd").read_text()


def enum(prefix):
    """Return the names of the enum with `prefix`, which counts from 0."""
    found = re.findall(rf"^    {prefix}_(\w+)(?: = (\d+))?", STEPS_PXD, re.MULTILINE)
    assert [number for _, number in found] == ["0", *[""] * (len(found) - 1)]
    return [name.lower() for name, _ in found]


def struct(name):
    """Return the fields of a C struct in order."""
    body = re.search(rf"cdef struct {name}:.*\n((?:    .*\n|\n)+)", STEPS_PXD)[1]
    lines = [line.split("#")[0] for line in body.splitlines()]
    return [
        field.strip(" *").split("[")[0]
        for line in lines
        if line.strip()
        for field in line.strip().split(" ", 1)[1].split(",")
    ]


def test_enums_are_the_models():
    assert enum("DO") == list(STEPS)
    assert enum("HOOK") == list(HOOKS)


def test_codes_are_the_models():
    body = re.search(r"cdef enum KbCode:.*\n((?:    .*\n)+)", STEPS_PXD)[1]
    found = re.findall(r"KB_(\w+) = (\d+)", body)
    assert [(name, int(number)) for name, number in found] == [(op.name, op) for op in Op]


def test_op_dtype_is_the_structs():
    assert struct("KbOp") == list(OP_DTYPE.names)
    assert OP_DTYPE.itemsize == 16


def test_costs_are_the_structs():
    found = [name.removesuffix("_") for name in struct("KbCosts")]
    assert found == [entry.name for entry in fields(Costs)]


def test_counters_are_the_structs():
    assert struct("KbCounters") == list(COUNTERS) == list(COUNTERS_DTYPE.names)


# Data and the tree

READERS = {
    "profiles": catalog.load_profile,
    "published": catalog.load_published,
    "scenarios": scenario.load_scenario,
    "data": catalog.load_policies,
}
WORDS = {PACKAGE / "data" / name for name in ("caveats.toml", "findings.toml")}  # of messages
KNOWN = PACKAGE / "data" / "known.toml"  # test_known.py reads it
DATA = sorted({*(PACKAGE / "data").rglob("*.toml")} - WORDS - {KNOWN})


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.stem)
def test_data_parses(path):
    found = READERS[path.parent.name](path)
    if path.parent.name != "data":
        assert found.name == path.stem
        lists = scenario if path.parent.name == "scenarios" else catalog
        listed = getattr(lists, path.parent.name)()
        assert listed[path.stem] == found


def test_data_is_there():
    assert {path.stem for path in DATA} >= {"policies", "patch-2017", "patch-2017-replay"}
    assert list(catalog.policies()) == ["eager", "deferred", "exit-to-user", "every-exit"]


def tracked():
    """Return the text files of the tree that .gitignore does not name."""
    ignored = [".git", "*.pyc", "*.so"]
    if IN_TREE:
        ignored += (SOURCE / ".gitignore").read_text().split()
    ignored = [pattern.strip("/") for pattern in ignored]
    root = SOURCE if IN_TREE else PACKAGE
    for folder, folders, names in os.walk(root):
        here = Path(folder).relative_to(root)
        skip = {
            name
            for name in (*folders, *names)
            if any(fnmatch(name, i) or fnmatch(str(here / name), i) for i in ignored)
        }
        folders[:] = sorted(set(folders) - skip)
        yield from (Path(folder) / name for name in sorted(set(names) - skip))


PRIVATE = [r"(?<![\w.])/" + r"(home|root|Users)/"]  # in parts, so that this file passes


def test_nothing_names_this_machine():
    root = re.escape(str(SOURCE))
    pattern = re.compile("|".join([*PRIVATE, *([rf"{root}\b"] if IN_TREE else [])]))
    found, seen = [], 0
    for path in tracked():
        seen += 1
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path}:{number}: {line.strip()[:60]}")
    assert found == []
    assert seen > 30
