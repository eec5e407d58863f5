"""What vmexit of kvm-unit-tests prints, read.

The texts follow x86/vmexit.c, scripts/runtime.bash and run_tests.sh of kvm-unit-tests
(gitlab.com/kvm-unit-tests/kvm-unit-tests); excerpts of published output name their source.
"""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmbench import formats
from kvmbench.errors import ResultError
from kvmbench.formats import kut

# Linux commit b7ffc44d5b2e, "x86/kvm/vmx: Defer TR reload after VM exit".
PATCH = """
    Before:

        cpuid 1313
        vmcall 1195
        mov_from_cr8 11
        mov_to_cr8 17
        inl_from_pmtimer 6770
        inl_from_qemu 6856
        inl_from_kernel 2435
        outl_to_kernel 1402

    After:

        cpuid 1291
        vmcall 1181
        mov_from_cr8 11
        mov_to_cr8 16
        inl_from_pmtimer 6457
        inl_from_qemu 6209
        inl_from_kernel 2339
        outl_to_kernel 1391
"""

# The head is that of a log in https://lore.kernel.org/r/202504071232.3c2fa7d5-lkp@intel.com, with
# vmexit's name; the rows are such as vmexit.c prints.
LOG = (
    "timeout -k 1s --foreground 90s /usr/bin/qemu-system-x86_64 --no-reboot -nodefaults "
    "-device pc-testdev -device isa-debug-exit,iobase=0xf4,iosize=0x4 -vnc none -serial stdio "
    "-device pci-testdev -machine accel=kvm -kernel x86/vmexit.flat -smp 2 "
    "# -initrd /tmp/tmp.1JDHego9zM\n"
    "enabling apic\r\n"
    "smp: waiting for 1 APs\r\n"
    "enabling apic\r\n"
    "setup: CPU 1 online\r\n"
    "paging enabled\r\n"
    "cr0 = 80010011\r\n"
    "cr3 = 1007000\r\n"
    "cr4 = 20\r\n"
    "pci-testdev at 0x10 membar febff000 iobar c000\r\n"
    "cpuid 1291\r\n"
    "vmcall 1181\r\n"
    "PM timer port is 608\r\n"
    "inl_from_pmtimer 6457\r\n"
    "[   68.348949] APIC base relocation is unsupported by KVM\r\n"
    "mov_dr 900 \r\n"
    "tscdeadline_immed (skipped)\r\n"
    "self_ipi_sti_nop 4100\r\n"
    "  ipi self_ipi_sti_nop 1800\r\n"
    "  eoi self_ipi_sti_nop 950\r\n"
    "00000000self_ipi_sti_hlt 8100\r\n"
    "  ipi self_ipi_sti_hlt 1801\r\n"
    "1x2apic_self_ipi_tpr 3300\r\n"
    "ipi 6106\r\n"
    "  ipi ipi 5000\r\n"
    "wr_tsc_adjust_msr -2147\r\n"
    "mmio-no-eventfd:pci-mem 8796\r\n"
    "portio-no-eventfd:pci-io 5287\r\n"
    "qemu-system-x86_64: terminating on signal 15 from pid 4711 (timeout)\r\n"
)


def decode(text, name="log"):
    return kut.decode(text.encode() if isinstance(text, str) else text, name)


def rows(result):
    """Return {(workload, configuration): [values of each run]}."""
    found = {}
    for _, _, series in result.series():
        found.setdefault((series.workload, series.configuration), []).append(series.values)
    return found


def test_the_patchs_own_table():
    result = decode(PATCH)
    assert result.configurations() == ["before", "after"]
    found = rows(result)
    assert len(found) == 16
    assert found["inl_from_qemu", "before"] == [[6856]]
    assert found["inl_from_qemu", "after"] == [[6209]]
    assert found["mov_to_cr8", "after"] == [[16]]
    # Two kernels are two boots.
    assert [len(boot.runs) for boot in result.boots] == [1, 1]
    assert result.order == "time"
    for _, run, series in result.series():
        assert (series.unit, series.kind, series.better) == ("cycles", "noisy", "lower")
        assert series.quantum == 1
        assert run.engine == "kvm-unit-tests"


def test_a_log():
    result = decode(LOG)
    ((_, run),) = result.runs()
    series = {s.workload: s for s in run.series}
    assert {name: s.values for name, s in series.items()} == {
        "cpuid": [1291],
        "vmcall": [1181],
        "inl_from_pmtimer": [6457],
        "mov_dr": [900],
        "self_ipi_sti_nop": [4100],
        "self_ipi_sti_hlt": [8100],
        "x2apic_self_ipi_tpr": [3300],
        "ipi": [6106],
        "wr_tsc_adjust_msr": [-2147],
        "mmio-no-eventfd:pci-mem": [8796],
        "portio-no-eventfd:pci-io": [5287],
    }
    assert run.skipped == {"tscdeadline_immed": "skipped by vmexit"}
    assert series["self_ipi_sti_nop"].counts == {"ipi": 1800, "eoi": 950}
    assert series["self_ipi_sti_hlt"].counts == {"ipi": 1801}
    assert series["ipi"].counts == {"ipi": 5000}
    assert series["cpuid"].counts == {}
    assert series["cpuid"].marks == []
    assert (
        "8 digits stand before its name, the first 00000000" in series["self_ipi_sti_hlt"].marks[0]
    )
    assert "1 digits stand before its name, the first 1:" in series["x2apic_self_ipi_tpr"].marks[0]
    assert "negative as printed" in series["wr_tsc_adjust_msr"].marks[0]
    assert run.command[0] == "timeout"
    assert run.command[-2:] == ["-smp", "2"]
    assert result.notes == []


def test_a_remark_is_a_mark():
    # kvm-unit-tests commit f2665de7, "add vmexit tests for IBRS and IBPB".
    text = (
        "   wr_ibrs_msr 506     (actually ~250, because the test writes twice)\n"
        "   wr_ibpb_msr 4212\n"
    )
    result = decode(text)
    assert rows(result) == {("wr_ibrs_msr", ""): [[506]], ("wr_ibpb_msr", ""): [[4212]]}
    first, second = (series for _, _, series in result.series())
    assert first.marks == ["actually ~250, because the test writes twice"]
    assert second.marks == []


def test_a_figure_that_somebody_averaged():
    """vmexit prints whole cycles, so a fraction was not cut by its print-out."""
    whole, average = (series for _, _, series in decode("cpuid 1313\nvmcall 4780.75\n").series())
    assert (whole.values, whole.quantum) == ([1313], 1)
    assert (average.values, average.quantum) == ([4780.75], None)


def test_counted_lines_are_runs_whose_order_is_lost():
    # https://lore.kernel.org/all/Z1q4vxmEmZbkOiqC@mias.mediconcil.de/, four of its lines
    text = "      1 cpuid 1087\n      1 cpuid 1092\n      5 cpuid 1093\n     11 cpuid 1096\n"
    result = decode(text)
    assert rows(result) == {("cpuid", ""): [[1087], [1092], *[[1093]] * 5, *[[1096]] * 11]}
    assert len(list(result.runs())) == 18
    assert result.order == "lost"


@pytest.mark.parametrize("count", ["100001", "999999999999", "1" * 250])
def test_a_count_that_is_none(count):
    with pytest.raises(ResultError, match=r"^log: line 2: \d+ runs of cpuid: more than 100000$"):
        decode(f"1 vmcall 5\n{count} cpuid 1087\n")


def test_several_runs_in_one_file():
    one = "cpuid {}\nvmcall {}\nipi (skipped)\n"
    text = one.format(1, 10) + "noise\n" + one.format(2, 20) + "ipi 7\ncpuid 3\n"
    result = decode(text)
    found = [({s.workload: s.values[0] for s in r.series}, r.skipped) for _, r in result.runs()]
    assert found == [
        ({"cpuid": 1, "vmcall": 10}, {"ipi": "skipped by vmexit"}),
        ({"cpuid": 2, "vmcall": 20}, {"ipi": "skipped by vmexit"}),
        ({"ipi": 7, "cpuid": 3}, {}),
    ]


def qemu(test, accel="-machine accel=kvm"):
    return f"qemu-system-x86_64 -nodefaults {accel} -kernel x86/vmexit.flat -append {test}\n"


def test_logs_of_one_run_tests_are_one_run():
    text = "".join(qemu(name) + f"enabling apic\n{name} {cycles}\n" for name, cycles in [
        ("cpuid", 1), ("vmcall", 2), ("cpuid", 3), ("vmcall", 4),
    ])  # fmt: skip
    found = [{s.workload: s.values[0] for s in run.series} for _, run in decode(text).runs()]
    assert found == [{"cpuid": 1, "vmcall": 2}, {"cpuid": 3, "vmcall": 4}]


def test_before_and_after_twice_are_four_boots():
    text = "Before:\ncpuid 1\nAfter:\ncpuid 2\n" * 2
    result = decode(text)
    assert rows(result) == {("cpuid", "before"): [[1], [1]], ("cpuid", "after"): [[2], [2]]}
    assert len(result.boots) == 4


@pytest.mark.parametrize(
    ("heading", "configuration"),
    [
        ("Before:", "before"),
        ("AFTER :", "after"),
        ("Before patch:", "before"),
        ("After the patch:", "after"),
        # https://lore.kernel.org/all/1584071718-17163-1-git-send-email-wanpengli@tencent.com/
        ("v2 Before patch:", "v2 before"),
    ],
)
def test_headings(heading, configuration):
    assert decode(f"{heading}\nvmcall 1559\n").configurations() == [configuration]


def test_skips_of_run_tests():
    # ESC [33m is the colour of SKIP; a mail may have lost the escape.
    text = (
        "\x1b[32mPASS\x1b[0m vmexit_cpuid \n"
        "\x1b[33mSKIP\x1b[0m vmexit_ipi (test marked as manual run only)\n"
        "[33mSKIP[0m vmexit_inl_pmtimer (i386 only)\n"
        "SKIP access-reduced-maxphyaddr (/sys/module/kvm_intel not equal to Y)\n"
        "\x1b[1;32mcpuid 1313\x1b[m\n"
    )
    ((_, run),) = decode(text).runs()
    assert run.skipped == {"ipi": "test marked as manual run only", "inl_from_pmtimer": "i386 only"}
    assert [series.values for series in run.series] == [[1313]]


@pytest.mark.parametrize(
    "line",
    [
        qemu("cpuid", "-accel tcg"),
        qemu("cpuid", "-machine accel=tcg"),
        qemu("cpuid", "-machine q35 --accel tcg,thread=multi"),
        "TESTNAME=vmexit_cpuid TIMEOUT=90s ACCEL=tcg ./x86/run x86/vmexit.flat -smp 1\n",
        "qemu-system-x86_64: warning: TCG doesn't support requested feature: CPUID.01H:EDX.vme\n",
        "qemu-system-x86_64: falling back to tcg\n",
    ],
)
def test_without_kvm_there_are_no_exit_costs(line):
    result = decode(line + "cpuid 40\n")
    (note,) = result.notes
    assert "no cost of a VM exit" in note
    ((_, _, series),) = result.series()
    assert series.marks == [note]
    assert series.kind == "noisy"


def test_with_kvm_nothing_is_said_of_tcg():
    for accel in ("-machine accel=kvm", "-accel kvm", "-machine accel=kvm:tcg", "-enable-kvm"):
        assert decode(qemu("cpuid", accel) + "cpuid 1313\n").notes == []
    # Only the machine without KVM is marked.
    text = qemu("cpuid", "-accel tcg") + "cpuid 40\n" + qemu("cpuid") + "cpuid 1313\n"
    assert [bool(series.marks) for _, _, series in decode(text).series()] == [True, False]


def test_another_test_in_the_same_log():
    text = (
        "qemu-kvm -kernel x86/tsc.flat -smp 2\nlatency 26\nPASS 3\n"
        + qemu("cpuid") + "cpuid 1313\nnew_test 77\n"
        + "qemu-kvm -kernel x86/pmu.flat\nmask 7\n"
    )  # fmt: skip
    assert rows(decode(text)) == {("cpuid", ""): [[1313]], ("new_test", ""): [[77]]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "log: of no known format"),
        ("Port 22\nMaxSessions 10\n", "such as `cpuid 1313`"),
        (qemu("cpuid") + "enabling apic\n", "such as `cpuid 1313`"),
        ("cpuid (skipped)\n", "such as `cpuid 1313`"),
        ("  ipi cpuid 5\n", "such as `cpuid 1313`"),
        ("\0\1\2", "such as `cpuid 1313`"),
        # The summary of run_tests.sh has no figures.
        ("PASS vmexit_cpuid \nFAIL vmexit_vmcall \n", "the cycles are in logs/vmexit_*.log"),
        ("\x1b[32mPASS\x1b[0m vmexit_cpuid\n", "the cycles are in logs/vmexit_*.log"),
    ],
)
def test_no_row(text, said):
    with pytest.raises(ResultError) as caught:
        decode(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_of_a_stamped_console_of_an_unknown_name_are_noted():
    result = decode("[ 1.5] cpuid 5\n[ 1.6] nr_irqs 456\n")
    assert rows(result) == {("cpuid", ""): [[5]]}
    assert result.notes == ["passed over, since their form is not known: line 2, 'nr_irqs 456'"]


BOTH = {("cpuid", "a"): [[1313]], ("cpuid", "b"): [[1291]]}


@pytest.mark.parametrize(
    "line",
    [
        "cpuid 1313 cycles", "cpuid: 1313", "cpuid = 1313 cyc", "cpuid\t1313", "- cpuid: 1313",
        "* `cpuid` 1313", "| cpuid | 1313 |", "cpuid, 1,313"[:5] + " 1,313", "cpuid 1313\0",
        "> cpuid 1313", "> > cpuid 1313 cycles", "[   68.348949] cpuid 1313",
        "[   68.348949][    T1] cpuid 1313", "<6>[    1.000000] cpuid 1313",
        "[Mon Feb 24 12:34:56 2020] cpuid 1313", "2020-02-24T12:34:56.123 cpuid 1313",
        "2020-02-24T12:34:56.1234567Z cpuid 1313", "12:34:56.123 cpuid 1313",
        "Feb 24 12:34:56 host kernel: cpuid 1313", "\x1b[32mcpuid 1313\x1b[0m", "cpuid 1313\u200b",
        "cpuid,1313", "cpuid 1313 (+0.4%)", "\ufeffcpuid 1313", "cpuid 1313   ",
    ],
)  # fmt: skip
def test_a_row_as_people_post_it(line):
    result = decode(f"noise\n{line}\nmore noise\n")
    assert rows(result) == {("cpuid", ""): [[1313]]}
    assert {series.unit for _, _, series in result.series()} == {"cycles"}
    assert result.notes == []


@pytest.mark.parametrize(
    ("words", "unit"),
    [("cycles/iteration", "cycles"), ("clocks", "cycles"), ("ns", "ns"), ("µs", "us"), ("us", "us"),
     ("ms", "ms"), ("s", "seconds"), ("ns/op", "ns")],
)  # fmt: skip
def test_a_unit_after_the_figure(words, unit):
    ((_, _, series),) = decode(f"cpuid 1.5 {words}\n").series()
    assert (series.unit, series.values) == (unit, [1.5])


@pytest.mark.parametrize(
    "pair",
    [("Baseline", "Patched"), ("old", "new"), ("w/o patch", "w/ patch"), ("6.1", "6.2-rc1"),
     ("base", "series applied"), ("IPIv off", "IPIv on"), ("mitigations=off", "mitigations=auto")],
)  # fmt: skip
@pytest.mark.parametrize(
    "form", ["{}:", "{} :", "# {}", "**{}**", "== {} ==", "{}\n---", "{}", "> {}:"]
)
def test_any_pair_of_headings_parts_configurations(pair, form):
    text = "".join(
        f"\n{form.format(name)}\n\ncpuid {n}\nvmcall {n}\n" for n, name in enumerate(pair)
    )
    result = decode(text)
    assert rows(result) == {
        (row, name): [[n]] for n, name in enumerate(pair) for row in ("cpuid", "vmcall")
    }
    assert len(result.boots) == 2


def test_headings_of_sections_are_no_configurations():
    text = "Timer:\ntscdeadline {0}\nIPI:\nipi {0}\n"
    assert rows(decode(text.format(1))) == {("tscdeadline", ""): [[1]], ("ipi", ""): [[1]]}
    both = "Before:\n" + text.format(1) + "After:\n" + text.format(2)
    assert rows(decode(both)) == {
        (row, name): [[n]]
        for row in ("tscdeadline", "ipi")
        for n, name in ((1, "before"), (2, "after"))
    }


def test_rows_that_repeat_after_text_are_noted():
    result = decode("cpuid 1\nand then again\ncpuid 2\n")
    assert rows(result) == {("cpuid", ""): [[1], [2]]}
    assert result.notes == [
        "rows repeat, which is taken for another run, after: line 2, 'and then again'"
    ]
    assert decode("cpuid 1\ncpuid 2\n").notes == []


def test_a_half_quoted_mail_is_read_whole():
    text = "X wrote:\n> Before:\n> cpuid 1313\n> vmcall 1195\n\nMine:\n\ncpuid 1401\nvmcall 1210\n"
    assert rows(decode(text)) == {
        ("cpuid", "before"): [[1313]], ("vmcall", "before"): [[1195]],
        ("cpuid", "Mine"): [[1401]], ("vmcall", "Mine"): [[1210]],
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "| test | a | b |\n|---|--:|--:|\n| cpuid | 1313 | 1291 |\n",
        "| test | a | b | change |\n|:--|---|---|---|\n|`cpuid`| 1,313 | 1,291 cycles|-1.7% |\n",
        "name  a  b\ncpuid 1313 1291\n",
        "name\ta\tb\tdiff\ncpuid\t1313\t1291\t-22\n",
        "name      a       b\n------------------\ncpuid     1313    1291  (-1.7%)\n",
        "test,a,b\ncpuid,1313,1291\n".replace(",", "  "),
    ],
)
def test_tables(text):
    assert rows(decode(text)) == BOTH


@pytest.mark.parametrize("arrow", ["->", "-->", "=>", "→", "to", "vs.", "vs"])
@pytest.mark.parametrize("after", ["", " (-1.7%)", "  -1.7%", " cycles"])
def test_arrows(arrow, after):
    found = rows(decode(f"cpuid: 1313 {arrow} 1291{after}\n"))
    assert found == {("cpuid", "before"): [[1313]], ("cpuid", "after"): [[1291]]}


# The excerpt is of https://lore.kernel.org/all/1587468026-15753-1-git-send-email-wanpengli@tencent.com/
def test_arrows_under_headings():
    text = (
        "w/o APICv:\ntscdeadline_immed: 4780.75 -> 3851    19.4%\n\n"
        "w/ APICv:\ntscdeadline_immed: 2919    -> 2467.75 15.5%\n"
    )
    assert rows(decode(text)) == {
        ("tscdeadline_immed", "w/o APICv before"): [[4780.75]],
        ("tscdeadline_immed", "w/o APICv after"): [[3851]],
        ("tscdeadline_immed", "w/ APICv before"): [[2919]],
        ("tscdeadline_immed", "w/ APICv after"): [[2467.75]],
    }


@pytest.mark.parametrize("line", ["cpuid 1313 1291", "cpuid 1313-1291", "cpuid 2.6k", "1234 cpuid",
                                  "cpuid takes 1313 cycles", "cpuid 13%"])  # fmt: skip
def test_a_form_that_is_not_known_is_named(line):
    with pytest.raises(ResultError) as caught:
        decode(line + "\n")
    assert str(caught.value) == (
        f"log: '{line}' names a test of vmexit, but a row is such as `cpuid 1313`"
    )
    if not line.startswith("1234"):
        (note,) = decode(f"vmcall 5\n{line}\n").notes
        assert note == f"passed over, since their form is not known: line 2, '{line}'"


# The columns of arm/micro-bench.c, whole and as a mail wraps them.
@pytest.mark.parametrize("gap", ["   ", "\n"])
def test_micro_bench(gap):
    table = f"name      total ns      avg{gap}ns\n-----------\nhvc  20095360.0{gap}306.5\n"
    text = f"Baseline:\n\n{table}ipi 126236640.0{gap}1926.0\n\nPatch:\n\n{table}"
    result = decode(text)
    assert rows(result) == {
        ("hvc", "Baseline"): [[306.5]], ("ipi", "Baseline"): [[1926]], ("hvc", "Patch"): [[306.5]],
    }  # fmt: skip
    assert {series.unit for _, _, series in result.series()} == {"ns"}
    assert result.notes == []


@pytest.mark.parametrize(
    "reason", ["npf", "hlt", "msr_write", "ept_violation", "external_interrupt"]
)
def test_counts_of_exit_reasons_are_no_cycles(reason):
    text = f"cpuid 1234\n{reason} 88\nwbinvd 2\n"
    with pytest.raises(ResultError, match=rf"^log: {reason} are exit reasons: .* counts of exits"):
        decode(text)
    assert len(rows(decode("Before:\n" + text))) == 3  # as its author says


NAMES = sorted(kut.NAMES)
NOISE = ["enabling apic", "cr0 = 80010011", "PM timer port is 608", "[  1.5] kvm: 3", "", "a b c"]


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.integers(-(2**31), 2**31 - 1)), min_size=1),
    st.lists(st.sampled_from(NOISE)),
    st.sampled_from(["\n", "\r\n"]),
    st.randoms(use_true_random=False),
)
def test_every_row_is_read_in_order_and_noise_is_not(printed, noise, end, order):
    lines = [f"{name} {cycles}" for name, cycles in printed]
    for line in noise:
        lines.insert(order.randrange(len(lines) + 1), line)
    result = decode(end.join(lines))
    assert [(s.workload, s.values) for _, _, s in result.series()] == [(n, [c]) for n, c in printed]
    for _, run in result.runs():
        assert len({s.workload for s in run.series}) == len(run.series)


@given(st.binary() | st.text("cpuid 0123-:()[]m\r\n\x1bipeoSK_").map(str.encode))
@settings(max_examples=300)
def test_any_bytes(data):
    with contextlib.suppress(ResultError):
        kut.decode(data, "x")


@pytest.mark.parametrize(
    "text",
    [
        "0" * 300_000,
        " " * 300_000,
        "\r" * 300_000,
        "a" * 300_000,
        "a:" * 150_000,
        "cpuid 1 (" + ")" * 300_000 + "x",
        "cpuid" + " " * 300_000 + "x",
        "[" * 300_000,
        "\x1b[" + "1;" * 150_000,
        "-kernel " * 40_000,
        "x before" * 40_000,
        "SKIP vmexit_" + "a" * 300_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_long_lines_take_no_square_time(text):
    """A pattern that goes back over itself would not end within the test's patience."""
    with contextlib.suppress(ResultError):
        decode(text)


def test_known_by_content(tmp_path):
    for name in ("patch.json", "notes.toml", "log"):
        path = Path(tmp_path / name)
        path.write_text(PATCH)
        assert len(rows(formats.load(path))) == 16
    path.write_text("[    0.1] kernel\ncpuid 1313\n")
    assert rows(formats.load(path)) == {("cpuid", ""): [[1313]]}
