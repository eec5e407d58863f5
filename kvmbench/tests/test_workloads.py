"""The workloads: the built-in ones, a user's file, an installed package."""

import re
import sys

import pytest

from kvmbench import Workload, workloads
from kvmbench.errors import FileError
from kvmbench.guest.programs import Program
from kvmbench.live.machine import NEEDS
from kvmbench.model import Op, Operation
from kvmbench.workloads import BUILT_IN, DEFERRAL, LIVE_ONLY, load_workloads, merge

# kvm-unit-tests' x86/vmexit as the commit message of Linux b7ffc44d5b2e quotes it.
PATCH = [
    "cpuid",
    "vmcall",
    "mov_from_cr8",
    "mov_to_cr8",
    "inl_from_pmtimer",
    "inl_from_qemu",
    "inl_from_kernel",
    "outl_to_kernel",
]


def test_built_in_are_the_patchs_in_its_order():
    assert [workload.name for workload in BUILT_IN] == PATCH
    others = [workload.name for workload in (*DEFERRAL, *LIVE_ONLY)]
    assert list(workloads.workloads()) == [*PATCH, *others]
    for workload in (*BUILT_IN, *LIVE_ONLY):
        assert workload.exits == (workload.name,)
        assert workload.about


# kvm-unit-tests' x86/vmexit.c, the names of tests[] after the patch's eight; of pci-mem and pci-io
# what QEMU's pci-testdev makes of them.
VMEXIT = """
mov_dr tscdeadline_immed tscdeadline self_ipi_sti_nop self_ipi_sti_hlt self_ipi_tpr
self_ipi_tpr_sti_nop self_ipi_tpr_sti_hlt x2apic_self_ipi_sti_nop x2apic_self_ipi_sti_hlt
x2apic_self_ipi_tpr x2apic_self_ipi_tpr_sti_nop x2apic_self_ipi_tpr_sti_hlt ipi ipi_halt
ple_round_robin wr_kernel_gs_base wr_tsx_ctrl_msr wr_ibrs_msr wr_ibpb_msr wr_tsc_adjust_msr
rd_tsc_adjust_msr toggle_cr0_wp toggle_cr4_pge mmio-no-eventfd:pci-mem
mmio-wildcard-eventfd:pci-mem mmio-datamatch-eventfd:pci-mem portio-no-eventfd:pci-io
portio-wildcard-eventfd:pci-io portio-datamatch-eventfd:pci-io wbinvd invd
"""


def test_vmexits_names_are_there():
    names = {workload.name for workload in LIVE_ONLY}
    assert names >= set(VMEXIT.split())
    own = {"empty", "empty_cpl3", "inb_cpl3", "mmio_read", "hlt", "mov_to_cr2"}
    own |= {"gdt_write", "ltr", "wrmsr_gs_then_ltr"}
    own |= {f"{row}work_{cycles}" for row in ("", "ltr_after_") for cycles in (50, 100, 200, 400)}
    assert names - set(VMEXIT.split()) == own
    for workload in (*BUILT_IN, *LIVE_ONLY):
        # After a colon vmexit.c's own name for a row of QEMU's pci-testdev.
        assert (workload.name.split(":")[-1] in workload.vmexit_rows) == (workload.name not in own)


def test_what_is_measured_has_guest_code_and_known_needs():
    for workload in (*BUILT_IN, *DEFERRAL, *LIVE_ONLY):
        assert isinstance(workload.guest, Program)
        assert set(workload.needs) <= set(NEEDS)


def test_the_rows_about_the_deferral():
    """From the vCPU's thread back to it; a task that does IO there holds the port."""
    names = ["handover_plain", "handover_bitmap", "ioperm_after_exit"]
    assert [workload.name for workload in DEFERRAL] == names
    steps = [[str(one) for one in workload.userspace] for workload in DEFERRAL]
    assert steps == [
        ["SWITCH 1", "SWITCH 0"],
        ["SWITCH 1", "IO 0x378 1", "SWITCH 0"],
        ["IOPERM 0x3bc 3 on", "IO 0x3bc 1", "IOPERM 0x3bc 3 off"],
    ]
    assert [workload.others for workload in DEFERRAL] == [(None,), ((0x378, 3),), ()]
    assert [workload.needs for workload in DEFERRAL] == [(), ("ioperm",), ("ioperm",)]
    assert {workload.exits for workload in DEFERRAL} == {("inl_from_qemu",)}


@pytest.mark.parametrize(
    ("userspace", "words"),
    [
        ([Operation(Op.SWITCH, 1)], "ends with task 1, not with SWITCH 0"),
        ([Operation(Op.SWITCH, 2), Operation(Op.SWITCH, 0)], "SWITCH 2 is impossible there"),
        ([Operation(Op.SWITCH, -1), Operation(Op.SWITCH, 0)], "SWITCH -1 is impossible there"),
        ([Operation(Op.TASK_EXIT)], "TASK_EXIT is impossible there"),
        ([Operation(Op.EXIT, 0)], "EXIT 0 is impossible there"),
    ],
)
def test_operations_that_userspace_does_not_have(userspace, words):
    with pytest.raises(ValueError, match=f"userspace of 'mine'.*{words}"):
        Workload("mine", userspace=userspace, others=[None])


def test_what_waits_for_an_interrupt():
    waiting = {workload.name for workload in LIVE_ONLY if workload.waits_for_interrupt}
    prefixes = ("self_ipi", "x2apic_self_ipi", "tscdeadline", "hlt")  # of vmexit.c's and ours
    assert waiting == {name for name in (*VMEXIT.split(), "hlt") if name.startswith(prefixes)}
    for workload in LIVE_ONLY:
        assert workload.waits_for_interrupt <= workload.guest.interrupts


def test_select():
    known = workloads.workloads()
    mine = Workload("mine")
    assert workloads.select() == list(known.values())
    assert workloads.select("cpuid") == workloads.select(["cpuid"]) == [known["cpuid"]]
    assert workloads.select(mine) == [mine]
    assert workloads.select(["hlt", mine, "cpuid", "hlt"]) == [known["hlt"], mine, known["cpuid"]]
    assert workloads.select([]) == []


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("cpiud", "unknown workload 'cpiud'; did you mean 'cpuid'?"),
        (["cpuid", Workload("cpuid")], "two workloads are named 'cpuid'"),
    ],
)
def test_select_rejects(chosen, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        workloads.select(chosen)
    with pytest.raises(TypeError, match=r"^workload is 3, neither a Workload nor a built-in"):
        workloads.select(["cpuid", 3])


def test_workloads_are_read_only():
    with pytest.raises(TypeError):
        workloads.workloads()["mine"] = Workload("mine")
    with pytest.raises(AttributeError):
        BUILT_IN[0].name = "mine"


@pytest.mark.parametrize(
    ("arguments", "exits"),
    [
        (dict(), ("mine",)),
        (dict(exits=()), ("mine",)),
        (dict(exits=["cpuid"]), ("cpuid",)),
        (dict(exits=("cpuid", "vmcall", "cpuid")), ("cpuid", "vmcall", "cpuid")),
    ],
)
def test_exits_default_to_the_name(arguments, exits):
    assert Workload("mine", **arguments).exits == exits


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(name=3), TypeError, "3 is not the name"),
        (dict(name=None), TypeError, "None is not the name"),
        (dict(name=""), ValueError, "'' is empty"),
        (dict(name="a b"), ValueError, "'a b'"),
        (dict(name="a\n"), ValueError, r"'a\\n'"),
        (dict(name="a\x1b[1m"), ValueError, r"a\\x1b"),
        (dict(name="a", exits="cpuid"), TypeError, "exits of 'a' is 'cpuid', not a tuple"),
        (dict(name="a", exits=(3,)), TypeError, "3 is not the name"),
        (dict(name="a", exits=("",)), ValueError, "'' is empty"),
        (dict(name="a", exits=3), TypeError, "exits of 'a' is 3"),
        (dict(name="a", guest=3), TypeError, "guest of 'a' is 3, not a Program"),
    ],
)
def test_workload_rejects(arguments, error, message):
    with pytest.raises(error, match=message):
        Workload(**arguments)


HEAD = "from kvmbench import Workload\n"


def test_load_workloads(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(HEAD + "WORKLOADS = [Workload('a'), Workload('b', 'two', ('cpuid', 'vmcall'))]")
    assert load_workloads(file) == [Workload("a"), Workload("b", "two", ("cpuid", "vmcall"))]
    assert load_workloads(str(file)) == load_workloads(file)


@pytest.mark.parametrize("value", ["Workload('a')", "(Workload('a'),)", "iter([Workload('a')])"])
def test_load_workloads_takes_one_or_any_list(tmp_path, value):
    file = tmp_path / "mine.py"
    file.write_text(f"{HEAD}WORKLOADS = {value}")
    assert load_workloads(file) == [Workload("a")]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a = 1\nb = (\n", 2, "was never closed"),
        ("\n\na b\n", 3, "not Python: invalid syntax"),
        ("\n1 / 0\n", 2, "ZeroDivisionError: division by zero"),
        ("import nowhere_to_be_found\n", 1, "ModuleNotFoundError: No module named"),
        ("import json\n\njson.loads('')\n", 3, "JSONDecodeError"),
        (HEAD + "\nWORKLOADS = [Workload('a b')]\n", 3, "ValueError: name 'a b'"),
        ("def f():\n    raise KeyError('x')\n\nf()\n", 2, "KeyError: 'x'"),
        ("\n\ncompile('a b', 'elsewhere', 'exec')\n", 3, "SyntaxError"),
        ("\nraise SystemExit(3)\n", 2, "SystemExit"),
        (HEAD + "WORKLOADS = (1 / 0 for _ in 'x')\n", 2, "ZeroDivisionError"),
        ("", None, "assigns nothing to WORKLOADS"),
        ("workloads = []\n", None, "assigns nothing to WORKLOADS"),
        ("WORKLOADS = 3\n", None, "WORKLOADS is 3, not a list of kvmbench.Workload"),
        ("WORKLOADS = 'cpuid'\n", None, "WORKLOADS is 'cpuid', not a list"),
        ("WORKLOADS = ['cpuid']\n", None, "WORKLOADS holds 'cpuid', not a kvmbench.Workload"),
        (HEAD + "WORKLOADS = [Workload('a'), None]\n", None, "holds None"),
        ("raise ValueError('one\\ntwo')\n", 1, "ValueError: one"),
    ],
)
def test_load_workloads_rejects(tmp_path, text, line, message):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(FileError) as caught:
        load_workloads(file)
    said = str(caught.value)
    assert said.startswith(f"{file}:{line}: " if line else f"{file}: ")
    assert message in said
    assert "\n" not in said


def test_load_workloads_rejects_binary(tmp_path):
    file = tmp_path / "mine.py"
    file.write_bytes(b"\0\1\xff")
    with pytest.raises(FileError, match=r"^\S+mine\.py(:1)?: not Python: ") as caught:
        load_workloads(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "error"), [("no.py", FileNotFoundError), (".", OSError)])
def test_load_workloads_leaves_os_errors(tmp_path, name, error):
    with pytest.raises(error):
        load_workloads(tmp_path / name)


def test_merge():
    known = {"a": Workload("a")}
    merged = merge(known, [Workload("c"), Workload("b")], "mine.py")
    assert list(merged) == ["a", "c", "b"]
    assert list(known) == ["a"]


@pytest.mark.parametrize("more", [["a"], ["b", "b"]])
def test_merge_rejects_duplicates(more):
    known = {"a": Workload("a")}
    with pytest.raises(FileError, match=f"^mine.py: there is a workload '{more[-1]}' already$"):
        merge(known, [Workload(name) for name in more], "mine.py")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package with the module `kvmbench_fake` and entry points in our group."""

    def install(source, **entries):
        (tmp_path / "kvmbench_fake.py").write_text(HEAD + source)
        info = tmp_path / "kvmbench_fake-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kvmbench-fake\nVersion: 1.0\n")
        lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
        (info / "entry_points.txt").write_text(f"[kvmbench.workloads]\n{lines}")
        monkeypatch.syspath_prepend(str(tmp_path))

    yield install
    sys.modules.pop("kvmbench_fake", None)


def test_entry_points(installed):
    source = "one = Workload('z')\nsome = [Workload('y', exits=('cpuid',)), Workload('x')]\n"
    installed(source, more="kvmbench_fake:some", less="kvmbench_fake:one")
    found = workloads.workloads()
    assert list(found)[-3:] == ["z", "y", "x"]
    assert found["y"].exits == ("cpuid",)


@pytest.mark.parametrize(
    ("source", "value", "message"),
    [
        ("", "nowhere_at_all:one", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("", "kvmbench_fake:one", "AttributeError: "),
        ("1 / 0\n", "kvmbench_fake:one", "ZeroDivisionError: division by zero"),
        ("one = 3\n", "kvmbench_fake:one", "3, not a list of kvmbench.Workload"),
        ("one = ['cpuid']\n", "kvmbench_fake:one", "holds 'cpuid', not a kvmbench.Workload"),
        ("one = Workload('cpuid')\n", "kvmbench_fake:one", "there is a workload 'cpuid' already"),
        ("raise ValueError('one\\ntwo')\n", "kvmbench_fake:one", "ValueError: one"),
    ],
)
def test_broken_entry_point_gives_one_line(installed, source, value, message):
    installed(source, bad=value)
    with pytest.raises(FileError) as caught:
        workloads.workloads()
    said = str(caught.value)
    assert said.startswith(f"entry point bad = {value}")
    assert message in said
    assert "\n" not in said
