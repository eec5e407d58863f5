"""What vmexit of kvm-unit-tests prints, read.

The texts follow x86/vmexit.c, scripts/runtime.bash and run_tests.sh of kvm-unit-tests
(gitlab.com/kvm-unit-tests/kvm-unit-tests); excerpts of published output name their source.
"""

import base64
import contextlib
import quopri
import re
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
    assert result.notes == [
        "headings come again, which is taken for another boot: line 5, 'before'; line 7, 'after'"
    ]


@pytest.mark.parametrize("pair", ["Round 1|Round 2", "Boot #1|Boot #2", "first run|2nd run"])
def test_rounds_of_headings_are_boots(pair):
    both = "6.11:\ncpuid 1\n\n6.12:\ncpuid 2\n"
    result = decode("".join(f"\n{name}\n\n{both}" for name in pair.split("|")))
    assert rows(result) == {("cpuid", "6.11"): [[1], [1]], ("cpuid", "6.12"): [[2], [2]]}


@pytest.mark.parametrize("form", ["{}:", "# {}", "{}"])
@pytest.mark.parametrize("pair", ["Before After", "v6.11 v6.12"])
def test_headings_below_another_heading(form, pair):
    names, text, expected = pair.split(), "", {}
    for host in ("A", "B"):
        text += f"\n{form.format(host)}\n\n"
        for name in names:
            cycles = len(expected) + 1
            text += f"{form.format(name)}\ncpuid {cycles}\n\n"
            name = name.lower() if name in ("Before", "After") else name
            expected["cpuid", f"{host} {name}"] = [[cycles]]
    result = decode(text)
    assert rows(result) == expected
    assert result.notes == []


@pytest.mark.parametrize(
    ("heading", "configuration"),
    [
        ("Before:", "before"),
        ("AFTER :", "after"),
        ("Before patch:", "before"),
        ("After the patch:", "after"),
        # https://lore.kernel.org/all/1584071718-17163-1-git-send-email-wanpengli@tencent.com/
        ("v2 Before patch:", "v2 before"),
        # https://lore.kernel.org/all/ZUIwt6jWBN037XVf@monolith/
        ("Test results before applying the patch:", "test results before"),
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
    "form", ["{}:", "{} :", "# {}", "**{}**", "== {} ==", "{}\n---", "{}", "> {}:", "==> {} <=="]
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


@pytest.mark.parametrize(
    "line",
    ["$ rmmod kvm", "# rmmod kvm", "[root@host tests]# rmmod kvm", "me@host:~/kut$ rmmod kvm",
     "6.12:", "== 6.12 =="],
)  # fmt: skip
def test_commands_and_headings_between_a_logs_rows_are_noted(line):
    text = f"{qemu('cpuid')}cpuid 1\n{line}\n{qemu('cpuid')}enabling apic\ncpuid 2\n"
    result = decode(text)
    assert rows(result) == {("cpuid", ""): [[1], [2]]}
    assert result.notes == [f"rows repeat, which is taken for another run, after: line 3, '{line}'"]


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
        "      |    a |    b\n------+------+------\ncpuid | 1313 | 1291\n",
        "| test | a | b\n|---|---|---\n| cpuid | 1313 | 1291\n",
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


@pytest.mark.parametrize(
    "line",
    ["cpuid 1313-1291", "cpuid 2.6k", "1234 cpuid", "cpuid takes 1313 cycles", "cpuid 13%",
     "cpuid 1 313", "cpuid 1\u202f313", "cpuid 1313,5", "cpuid 1.313,5", "cpuid +22", "cpuid 1e3",
     "cpuid 1313 cycles/s", "cpuid 1313 hits", "cpuid 1314\b3",
     "inl from qemu 1313", "CPUID 1313", "2:cpuid 1313"],
)  # fmt: skip
def test_a_form_that_is_not_known_is_named(line):
    with pytest.raises(ResultError) as caught:
        decode(line + "\n")
    shown = repr(line)[1:-1]
    assert str(caught.value) == (
        f"log: '{shown}' names a test of vmexit, but a row is such as `cpuid 1313`"
    )
    if not line.startswith("1234"):
        result = decode(f"{line}\nvmcall 5 6\nvmcall 5\n{line}\n")
        assert rows(result) == {("vmcall", ""): [[5]]}  # and the line is no table's header
        assert result.notes[0] == (
            f"passed over, since their form is not known: line 1, '{shown}'; line 4, '{shown}'"
        )


# What other readings of a text would make its figures wrong, and the words that refuse it.
DIFF = "looks like a diff: compare the two files instead"
REASONS = ": exit reasons, so the figures look like counts of exits"
COUNTS = "they look like counts or rates"
LABELS = "since no line above names as many columns"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--- a\n+++ b\n@@ -1 +1 @@\n-cpuid 1313\n+cpuid 1291\n", f"line 4: '-cpuid 1313' {DIFF}"),
        ("1c1\n< cpuid 1313\n---\n> cpuid 1291\n", DIFF),
        ("-  cpuid 1313\n+  cpuid 1291\n", DIFF),
        ("3a4\n> cpuid 1291\n", DIFF),
        ("! cpuid 1313\n--- 1,2 ----\n! cpuid 1291\n", DIFF),
        ("> @@ -1 +1 @@\n>  cpuid 1291\n", DIFF),
        ("cpuid 20\nvmcall 4\nEPT_VIOLATION 300\n", f"EPT_VIOLATION{REASONS}"),
        ("before:\ncpuid 20\nhlt 44\nafter:\ncpuid 20\nhlt 55\n", f"hlt{REASONS}"),
        ("test  before  after\ncpuid 20 30\nhlt 44 20\n", f"hlt{REASONS}"),
        ("cpuid 20 10%\nhlt 44 90%\n", f"hlt{REASONS}"),
        ("cpuid: 20\nHLT: 44\n", f"HLT{REASONS}"),
        ("cpuid 20\nEXIT_REASON_EPT_MISCONFIG 44 3.5us\n", f"EXIT_REASON_EPT_MISCONFIG{REASONS}"),
        ("cpuid 20\n| External interrupt | 44 |\n", f"External interrupt{REASONS}"),
        ("cpuid 20 (10%)\nvmcall 180 (90%)\n", "the figures' shares"),
        ("cpuid 20 10%\nvmcall 180 90%\n", "shares, so the figures look like counts"),
        ("Reason   Samples\ncpuid 20\nvmcall 3\n", COUNTS),
        ("reason  before  after\ncpuid 20 30\n", f"'cpuid 20 30': passed over, since {COUNTS}"),
        ("exit reason counts:\ncpuid 20\nvmcall 4\n", COUNTS),
        ("exit counts:\nbefore:\ncpuid 20\nafter:\ncpuid 4\n", COUNTS),
        ("VM exit counts during boot:\ncpuid 20\n", COUNTS),
        ("# number of exits over 10 s\ncpuid 20\n", COUNTS),
        ("VM exits by reason:\ncpuid 20\n", COUNTS),
        ("test   count\ncpuid 1313\n", COUNTS),
        ("| test | kcycles |\n|--|--|\n| cpuid | 1.3 |\n", COUNTS),
        ("Cycles per second:\ncpuid 1313\n", COUNTS),
        ("exit rate:\ncpuid 1313\n", COUNTS),
        ("exit distribution\ncpuid 30\nvmcall 70\n", COUNTS),
        ("Delta:\ncpuid 22\n", COUNTS),
        ("cpuid 1 2 3\nvmcall 4 5 6\n", f"line 1, 'cpuid 1 2 3': passed over, {LABELS}"),
        ("cpuid 13\x1b[2D14\n", LABELS),
        ("cpuid 1313 ns 12\n", LABELS),
        ("Skylake test results\ncpuid 900 850\n", LABELS),
        ("test  cycles\ncpuid 900 850\n", LABELS),
        ("| test | cycles |\n|--|--|\n| cpuid | 1 313 |\n", LABELS),
        ("test    before  after\ncpuid   1313\nvmcall          1181\n", LABELS),
        ("cpuid: 1.313\nvmcall: 1.195\n", "line 1: 1.313 cycles: its point may part thousands"),
        (" " * 300 + "cpuid 3\n", "'cpuid 3': passed over, since over 300 characters long"),
    ],
)  # fmt: skip
def test_a_text_of_another_kind_is_refused(text, said):
    with pytest.raises(ResultError) as caught:
        decode(text)
    assert said in str(caught.value)


def test_a_patch_with_a_table_in_its_message_is_no_diff_of_tables():
    text = (
        PATCH
        + "---\ndiff --git a/x b/x\n@@ -1,2 +1,2 @@\n-\tcpuid 4 {2}\n+ * cpuid 0x4\n-- \n2.39\n"
    )
    result = decode(text)
    assert rows(result) == rows(decode(PATCH))
    assert result.notes == []
    assert len(rows(decode(text + "From: x\nWithout:\nwbinvd 5\n"))) == 17


NS = {"before": 300, "after": 290}


@pytest.mark.parametrize(
    "text",
    [
        "test  before (ns)  after (ns)\ncpuid 300 290\n",
        "| test | before [ns] | after, ns |\n|-|-|-|\n| cpuid | 300 | 290 |\n",
        "test before after\n[ns] [ns]\ncpuid 300 290\n",
        "|test|before|after|\n||(ns)|(ns)|\n|-|-|-|\n|cpuid|300|290|\n",
        "Times in ns:\ntest,before,after\ncpuid,300,290\n",
        "All figures in nanoseconds.\n\nBefore:\ncpuid 300\n\nAfter:\ncpuid 290\n",
        "Before (ns):\ncpuid 300\nAfter (ns):\ncpuid 290\n",
        "cpuid 300 -> 290 ns\n",
        "cpuid 300 -> 290 (ns)\n",
        "cpuid (ns): 300 -> 290\n",
        "unit: ns\ntest before after\ncpuid 300 290\n",
        "test  before  after\ncpuid 300 ± 3 ns  290 ± 4 ns\n",
        "test (ns)  before  after\ncpuid 300 290\n",
        "| Latency [ns] | before | after |\n|-|-|-|\n| cpuid | 300 | 290 |\n",
        "Name (time in ns)   before   after   Outliers\n----\ncpuid  300   290  3\n",
        "All numbers in nanoseconds, lower is better.\n\nBefore:\ncpuid 300\nAfter:\ncpuid 290\n",
        "vmexit (time per exit, ns)\n\nBefore:\ncpuid 300\nAfter:\ncpuid 290\n",
    ],
)
def test_a_unit_that_does_not_follow_the_figure(text):
    found = {s.configuration: (s.workload, *s.values, s.unit) for _, _, s in decode(text).series()}
    assert found == {name: ("cpuid", n, "ns") for name, n in NS.items()}


@pytest.mark.parametrize(
    ("text", "unit"),
    [("ns\ncpuid 3 us\n", "us"), ("test   us per exit\ncpuid 3\n", "us"),
     ("cpuid 3 ns per call\n", "ns"),
     ("test   us\ncpuid 3\n", "us"), ("test us\ncpuid 3\n", "us"), ("us\ncpuid 3\n", "us"),
     ("| test | time (s) |\n|-|-|\n| cpuid | 3 |\n", "seconds"), ("cpuid 3 [ms]\n", "ms"),
     ("Run(s) of today\n\ncpuid 3\n", "cycles"), ("Subject: poll in ns\n\ncpuid 3\n", "cycles"),
     ("As they told us:\ncpuid 3\n", "cycles"), ("halt_poll of 50 us:\ncpuid 3\n", "cycles"),
     ("Times in ns:\nipi 1\n\nCycles:\n\ncpuid 3\n", "cycles")],
)  # fmt: skip
def test_a_unit_above_the_rows(text, unit):
    (found,) = (s for _, _, s in decode(text).series() if s.workload == "cpuid")
    assert (found.unit, found.configuration, found.values) == (unit, "", [3])


def test_units_that_may_be_meant_for_other_rows_are_noted():
    assert decode("cpuid 3\n\nAll times in ns.\n").notes == [
        "taken for the unit of the rows below: line 3, 'All times in ns.'"
    ]
    assert decode("cpuid 300 ns\nvmcall 280\n").notes == [
        "rows without a unit, between others with one, are taken for cycles: line 2, 'vmcall 280'"
    ]
    assert decode("cpuid 300 cycles\nvmcall 280\n").notes == []


@pytest.mark.parametrize(
    "text",
    [
        "| test | a | b |\n|--|--|--|\n| cpuid | 1313 | |\n| vmcall | | 1181 |\n",
        "|test|a|b|\n|-|-|-|\n|cpuid|1313||\n|vmcall|-|1181|\n",
        "test\ta\tb\ncpuid\t1313\t\nvmcall\t\t1181\n",
        "test,a,b\ncpuid,1313,\nvmcall,,1181\n",
        "| test | a |\n|-|-|\n| cpuid | 1313 |\n\n| test | b |\n|-|-|\n| vmcall | 1181 |\n",
    ],
)
def test_empty_cells(text):
    assert rows(decode(text)) == {("cpuid", "a"): [[1313]], ("vmcall", "b"): [[1181]]}


def test_a_row_with_fewer_figures_than_the_header_has_columns_is_noted():
    result = decode("          before   after\ncpuid     1313    1291\nvmcall            1195\n")
    assert list(rows(result)) == [("cpuid", "before"), ("cpuid", "after")]
    assert result.notes == [f"passed over, {LABELS}: line 3, 'vmcall            1195'"]


@pytest.mark.parametrize(
    ("first", "second"),
    [("first", "again"), ("base", "different config"), ("v1", "v2-exchange"), ("x", "y"),
     ("before migration", "after migration"), ("w/ old", "w/ new"), ("no change", "with change")],
)  # fmt: skip
def test_labels_are_known_by_whole_words(first, second):
    result = decode(f"test   {first}   {second}\ncpuid 1 2\n".replace("x", "x1"))
    assert list(rows(result)) == [
        ("cpuid", first.replace("x", "x1")),
        ("cpuid", second.replace("x", "x1")),
    ]
    assert result.notes == []


@pytest.mark.parametrize(
    "label",
    ["Improvement", "saved", "stddev", "sd", "a sd", "n", "Δ", "% of a", "b/a", "vs a", "runs",
     "iterations", "std. dev.", "exits", "change (%)", "samples", "speed-up", "a / b", "b - a",
     "shift", "relative", "norm", "normalized", "p-value", "IQR", "Rounds", "ops",
     "(higher is better)"],
)  # fmt: skip
def test_columns_without_costs_are_left_out_and_noted(label):
    label = {"b/a": "new/old", "a / b": "a/b"}.get(label, label)
    result = decode(f"test   a   b   {label}\ncpuid 1313 1291 22\n")
    assert rows(result) == BOTH
    assert result.notes == [
        f"columns left out, since they hold differences, spreads or counts: line 2, '{label}'"
    ]


@pytest.mark.parametrize(
    ("one", "two"),
    [("kvm-base", "kvm-patched"), ("v5-old", "v5-new"), ("linux/before", "linux/after"),
     ("x", "y"), ("quiet", "noise"), ("with error path", "without"), ("overhead", "none"),
     ("kernel number 1", "kernel number 2")],
)  # fmt: skip
def test_names_of_configurations_are_no_differences(one, two):
    for text in (
        f"| test | {one} | {two} |\n|---|---|---|\n| cpuid | 1313 | 1291 |\n",
        f"test   {one}   {two}\ncpuid   1313   1291\n",
    ):
        assert list(rows(decode(text))) == [("cpuid", one), ("cpuid", two)]


@pytest.mark.parametrize(
    "heading",
    ["This helps us:", "Numbers from Intel US", "# uptime: 300 (seconds)", "vmexit in ms kernel",
     "Number of vmexits per second went up. Cost per exit:", "vmexit, 10 x 1000 iterations:",
     "On a 2.6 GHz Skylake, vmexit reports, with 1000 wakeups/s of load:",
     "Host: 2.6 GHz, 10 runs per second", "Latency (not throughput)", "Cost by exit reason:",
     "With the kvm_exit tracepoint:", "Higher tick rate:", "# histogram in attachment",
     "# tsc: 2.6 Gcyc/s", "== throughput governor ==", "SMI: 12", "Interrupts: 3", "Monitor = 1",
     "npf=1", "preemption timer: 1", "io = 4 ns",
     "Timer Frequency 24000000 Hz (Output in microseconds)"],
)  # fmt: skip
def test_words_about_rows_are_no_units_and_no_counts(heading):
    result = decode(f"{heading}\n\ncpuid 1313\nvmcall 1195\n")
    assert [(s.workload, s.unit, s.values) for _, _, s in result.series()] == [
        ("cpuid", "cycles", [1313]),
        ("vmcall", "cycles", [1195]),
    ]


def test_columns_of_two_units_keep_their_whole_labels():
    text = "test   before (cycles)   before (ns)\ncpuid   1313   438\n"
    assert {(s.configuration, *s.values, s.unit) for _, _, s in decode(text).series()} == {
        ("before (cycles)", 1313, "cycles"), ("before (ns)", 438, "ns"),
    }  # fmt: skip


def test_a_frame_of_line_drawing_characters():
    text = "┌──────┬───┬───┐\n│ test │ a │ b │\n├──────┼───┼───┤\n│ cpuid │ 1313 │ 1291 │\n└──┘\n"
    assert rows(formats.decode(text.encode(), "log")) == BOTH


def test_percentages_that_are_no_shares_are_marks_of_costs():
    result = decode("cpuid 1313 (60%)\nvmcall 1181 (40%)\n")
    assert result.workloads() == ["cpuid", "vmcall"]


def test_counts_of_a_row_that_rise_by_one_are_counts():
    result = decode("      2 cpuid 1313\n      3 cpuid 1314\n")
    assert rows(result) == {("cpuid", ""): [[1313]] * 2 + [[1314]] * 3}
    assert result.order == "lost"


def test_a_spread_belongs_to_its_figure():
    for text in (
        "test  a  b\ncpuid 1313 ± 3  1291 +/- 4\n",
        "|test|a|b|\n|cpuid|1313 ± 3|1291 +/- 4|\n",
    ):
        result = decode(text)
        assert rows(result) == BOTH
        assert [s.marks for _, _, s in result.series()] == [["± 3"], ["+/- 4"]]


def test_a_header_is_no_heading():
    text = "test before after\ncpuid 1313 1291\n\ntest old new\n\ncpuid 1 2\n"
    assert list(rows(decode(text))) == [
        ("cpuid", name) for name in ("before", "after", "old", "new")
    ]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("     1\tcpuid 1313\n     2\tcpuid 1195\n     3\tcpuid 1\n", [1313, 1195, 1]),
        ("     7\tcpuid 1313\n     8\n     9\tcpuid 1195\n", [1313, 1195]),
        ("".join(f"{n} cpuid 7\n" for n in range(1, 601)), [7] * 600),
        ("1680350000 cpuid 1313\n1680350001 cpuid 1195\n", [1313, 1195]),
        ("1680350000123 cpuid 1313\n", [1313]),
    ],
)
def test_numbers_of_lines_and_times_are_no_counts(text, values):
    result = decode(text)
    assert rows(result) == {("cpuid", ""): [[value] for value in values]}
    assert result.order == "time"
    if not text.startswith("168"):
        assert "the numbers before the names rise by one: numbers of lines" in result.notes[0]


def test_counts_that_rise_are_noted():
    result = decode("      2 cpuid 1087\n      4 cpuid 1092\n")
    assert rows(result) == {("cpuid", ""): [[1087]] * 2 + [[1092]] * 4}
    assert "are taken for counts of uniq -c, though they rise" in result.notes[0]


def test_points_are_decimal_where_one_figure_shows_it():
    found = rows(decode("cpuid 4780.750\nmov_to_cr8 11.125\n"))
    assert found == {("cpuid", ""): [[4780.75]], ("mov_to_cr8", ""): [[11.125]]}
    ((_, _, series),) = decode("cpuid 1.313 us\n").series()
    assert (series.values, series.unit) == ([1.313], "us")


def test_rows_of_unknown_names_are_read_and_named():
    result = decode("chapter 7\ncpuid 1313\nnew_test 6\nother: 5\nKernel 6\n\nkernel 6.1\n")
    assert list(rows(result)) == [("chapter", ""), ("cpuid", ""), ("new_test", "")]
    assert result.notes == [
        "rows whose names are of no known test of vmexit: line 1, 'chapter 7'; "
        "line 3, 'new_test 6'",
        "passed over, since their form is not known: line 4, 'other: 5'",
    ]
    result = decode("test  a  b\nnew_test 1.5 2\ncpuid 1313 1291\n")
    assert rows(result) == {("new_test", "a"): [[1.5]], ("new_test", "b"): [[2]], **BOTH}


def test_tests_in_columns_are_no_configurations():
    result = decode("        cpuid  vmcall\nbefore   1313   1195\n\nipi 5\n")
    assert rows(result) == {("ipi", ""): [[5]]}
    assert result.notes == [
        "passed over, since their form is not known: line 2, 'before   1313   1195'"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[2J\x1b[Hcpuid 1313\n",
        "\x1b]0;title\x07cpuid 1313\x1b[K\n",
        "section_start:1560896352:x\r\x1b[0Kcpuid 1313\nsection_end:1560896352:x\r\x1b[0K\n",
    ],
)
def test_commands_to_a_terminal(text):
    assert rows(formats.decode(text.encode(), "log")) == {("cpuid", ""): [[1313]]}


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
    "table",
    [
        "| name | total ns | avg ns |\n|---|---:|---:|\n| `hvc` | 20,095,360.0 | 1,306.5 |\n",
        "name    total ns   avg ns\nhvc   20,095,360.0   1,306.5\n",
    ],
)
def test_micro_bench_as_people_post_it(table):
    result = decode(f"{table}\ncpuid 7\n")
    assert rows(result) == {("hvc", ""): [[1306.5]], ("cpuid", ""): [[7]]}
    assert [s.unit for _, _, s in result.series()] == ["ns", "cycles"]


# https://lore.kernel.org/all/ZUIwt6jWBN037XVf@monolith/: a mail with two empty lines after each.
@pytest.mark.parametrize("between", ["\n", "\n> \n> \n"])
def test_micro_bench_with_a_test_that_was_skipped(between):
    text = between.join([
        "> Timer Frequency 100000000 Hz (Output in microseconds)",
        "> name                                    total ns                         avg ns",
        "> ------------------------------------------------------------------------------",
        "> hvc                                      26774980.0                      408.0",
        "> mmio_read_user                 151183350.0                    2306.0",
        "> ipi_hw test skipped",
        "> lpi                                        142124570.0                   2168.0",
        "> timer_10ms                          466660.0                        1822.0",
        "> EXIT: STATUS=1\n",
    ])  # fmt: skip
    result = decode(text)
    assert {(s.workload, *s.values, s.unit) for _, _, s in result.series()} == {
        ("hvc", 408, "ns"), ("mmio_read_user", 2306, "ns"), ("lpi", 2168, "ns"),
        ("timer_10ms", 1822, "ns"),
    }  # fmt: skip
    assert result.boots[0].runs[0].skipped == {"ipi_hw": "skipped by micro-bench"}
    assert result.notes == []


def test_figures_are_no_labels_of_columns():
    two = "ipi       151183350.0      1926.0\n"
    with pytest.raises(ResultError, match=r"^log: line 2, 'ipi .*no line above names as many"):
        decode(f"mmio_read_user   26774980.0   408.0\n{two}")
    for head in ("test", "kernel", "vCPUs", "      "):
        result = decode(f"{head}   6.11   6.12\ncpuid   1313   1291\n")
        assert list(rows(result)) == [("cpuid", "6.11"), ("cpuid", "6.12")]
        assert result.notes == []


def test_a_row_of_micro_bench_without_its_second_line_is_noted():
    result = decode("name  total ns  avg\nns\nhvc 20.0\neoi 30.0\n306.5\nipi 5.0\n")
    assert rows(result) == {("eoi", ""): [[306.5]]}
    assert result.notes == [
        "passed over, since their form is not known: line 3, 'hvc'; line 6, 'ipi'"
    ]


@pytest.mark.parametrize(
    "reason", ["npf", "hlt", "msr_write", "ept_violation", "external_interrupt"]
)
def test_counts_of_exit_reasons_are_no_cycles(reason):
    text = f"cpuid 1234\n{reason} 88\nwbinvd 2\n"
    with pytest.raises(ResultError, match=rf"^log: {reason}: exit reasons, .* counts of exits"):
        decode(text)
    with pytest.raises(ResultError, match=r"EPT_MISCONFIG: exit reasons"):
        decode("Before:\ncpuid 1234\nEPT_MISCONFIG 88\n")
    # In a log, a name of another test that vmexit may get.
    assert len(rows(decode(qemu("cpuid") + text))) == 3


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
        "cpuid (" * 40_000,
        "cpuid" + " (" * 150_000 + "1",
        "\x1b]" * 150_000,
        "test" + "  %" * 98 + "\ncpuid" + " 1" * 98,
        "test" + "  rel" * 59 + "\ncpuid" + " 1" * 59,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_long_lines_take_no_square_time(text):
    """A pattern that goes back over itself would not end within the test's patience."""
    with contextlib.suppress(ResultError):
        decode(text)


AROUND = [
    "Before:", "6.12:", "", "test   a   b", "| test | a | b |", "| - | - | - |", "ns",
    "Times in ns:", "exit rates:", "name  total ns  avg ns", "hvc 26774980.0 408.0",
    "-kernel x86/vmexit.flat",
    "-kernel x86/apic.flat", "@@ -1 +1 @@", "some words before the rows", "cpuid 3 us", "cpuid: 7",
    "vmcall 1 -> 2", "| cpuid | 4 | 5 |", "  ipi ipi 2", "ipi (skipped)", "hlt 5", "> cpuid 8",
    "falling back to tcg", "2 cpuid 9", "odd 12",
]  # fmt: skip


@given(st.lists(st.sampled_from([*AROUND, "cpuid 1313", "vmcall 9", "ipi 0", "eoi 5"]), max_size=9))
def test_plain_rows_are_read_as_others(lines):
    def read(text):
        try:
            return decode(text)
        except ResultError as error:
            return str(error)

    text = "\n".join(lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kut, "_PLAIN", re.compile("(?!)"))
        slow = read(text)
    assert read(text) == slow


@pytest.mark.parametrize("name", sorted(kut.NAMES))
def test_plain_rows_of_every_name(name):
    assert rows(decode(f"{name} 1313\n")) == {(name, ""): [[1313]]}


# https://lore.kernel.org/all/CAJHc60xQNeTwSBuPhrKO_JBuikqZ7R=BM5rkWht3YwieVXwkHg@mail.gmail.com/
@pytest.mark.parametrize("encoding", ["quoted-printable", "Base64"])
@pytest.mark.parametrize("first", ["From mboxrd@z Thu Jan  1 00:00:00 1970\n", ""])
def test_mails_as_archives_store_them(encoding, first):
    body = (
        "Baseline=3D:\n\nname         total ns                         av=\ng ns\n"
        "hvc          20095360.0                          30=\n6.0\n"
    )
    if encoding == "Base64":
        body = base64.encodebytes(quopri.decodestring(body.encode())).decode()
    text = f"{first}Subject: x\nContent-Transfer-Encoding: {encoding}\n\n{body}"
    result = formats.decode(text.encode(), "log")
    assert [(s.workload, *s.values, s.unit) for _, _, s in result.series()] == [("hvc", 306, "ns")]
    following = "From a@b Thu Jan  1 00:00:00 1970\nSubject: y\n\ncpuid =1313\n"
    result = formats.decode(f"{text}{following}".encode(), "log")
    assert [s.values for _, _, s in result.series()] == [[306], [1313]]


def test_known_by_content(tmp_path):
    for name in ("patch.json", "notes.toml", "log"):
        path = Path(tmp_path / name)
        path.write_text(PATCH)
        assert len(rows(formats.load(path))) == 16
    path.write_text("[    0.1] kernel\ncpuid 1313\n")
    assert rows(formats.load(path)) == {("cpuid", ""): [[1313]]}
