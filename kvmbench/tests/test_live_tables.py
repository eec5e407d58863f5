"""Tables of what was measured, from results whose figures are known."""

import csv
import io
import json

import pytest

from kvmbench import results
from kvmbench.live.document import costs, document, host_document, io_document, live_rows
from kvmbench.live.fitness import Finding
from kvmbench.live.io_check import Access, Case, IoCheck
from kvmbench.report import Cell, Table, write
from kvmbench.results import Boot, Host, Result, Run, Series


def series(name, *values, configuration="", marks=(), **counts):
    return Series(
        workload=name, configuration=configuration, kind="noisy", values=list(values),
        counts=counts, marks=list(marks),
    )  # fmt: skip


def result(*runs, notes=(), skipped=None):
    listed = [Run(engine="kvm", series=list(run), skipped=skipped or {}) for run in runs]
    return Result(notes=list(notes), boots=[Boot(id="b", host=Host(kernel="6.9"), runs=listed)])


def seven(make):
    return result(*(make(number) for number in range(7)))


def test_rows():
    """Medians of 101..107 and 11..17 in each run, by hand."""
    found = live_rows(
        seven(
            lambda n: [
                series("empty", 9 + n, 11 + n, 50, exits=0.001),
                series("cpuid", 90, 101 + n, 500, exits=1.0, insn_emulation=0.1),
                series("inb_cpl3", 200 + n, exits=1.0, cpl=3),
                series("mov_to_cr8", 12 + n, exits=0.0),
            ]
        )
    )
    empty, cpuid, cpl3, cr8 = found
    assert (cpuid.runs, cpuid.median, cpuid.interval) == (7, 104, (101, 107))
    assert cpuid.net == 104 - 14
    assert (cpuid.exits, cpuid.marks) == (1.0, ())
    assert (empty.median, empty.net, empty.marks) == (14, None, ())
    assert cpl3.net is None  # there is no empty loop at CPL 3 in the result
    assert cr8.marks == ("KVM counted no exit",)
    assert cr8.net == 1


def test_rows_at_cpl3_are_net_of_the_loop_at_cpl3():
    found = live_rows(
        result([series("empty", 3000), series("empty_cpl3", 1, cpl=3), series("x", 500, cpl=3)])
    )
    assert found[2].net == 499
    assert found[2].exits is None  # no counters: no column of exits
    assert found[2].marks == ()
    assert found[2].interval is None  # one run has none


def test_marks():
    (row,) = live_rows(
        result(
            [series("x", 5, exits=0, insn_emulation=3.2, marks=["late"])],
            [series("x", 5, exits=0, insn_emulation=3.2, marks=["late", "lost"])],
        )
    )
    wanted = ("KVM counted no exit", "KVM emulated instructions of the loop", "late", "lost")
    assert row.marks == wanted


TEXT = """\
/dev/kvm on 6.9: per iteration, median of 6 runs of 1 round, 95 %
interval

workload                            median    interval     net  exits
                                    cycles      cycles  cycles
empty                                  2.0    1.8..2.2       -   0.00
mov_to_cr8                      a     17.0  15.5..18.5    15.0   0.00
inl_from_qemu                         6210  6207..6212    6208   1.00
mmio-datamatch-eventfd:pci-mem  bc    1400  1398..1402    1398   1.20

  a: KVM counted no exit
  b: KVM emulated instructions of the loop
  c: odd
  net: less the empty loop at the same CPL

Not measured:

  vmcall: hung: 1 iterations did not end, and this is a sentence that
  goes on until it must be broken

Said of all of it.
"""


def sample():
    def run(n):
        return [
            series("empty", 1.8 + 0.08 * n, exits=0),
            series("mov_to_cr8", 15.5 + 0.6 * n, exits=0),
            series("inl_from_qemu", 6207 + n, exits=1),
            series(
                "mmio-datamatch-eventfd:pci-mem", 1398 + 0.8 * n, exits=1.2, insn_emulation=1,
                marks=["odd"],
            ),
        ]  # fmt: skip

    why = "hung: 1 iterations did not end, and this is a sentence that goes on until it must be "
    return result(
        *(run(n) for n in range(6)),
        notes=["Said of all of it."],
        skipped={"vmcall": why + "broken"},
    )


def test_text():
    assert write(document(sample()), "text") == TEXT


def test_a_long_name_is_never_cut():
    name = "portio-datamatch-eventfd:pci-io" * 3
    found = result([series(name, 5)], [series(name + "2", 5)])
    assert f"{name}2" in write(document(found), "markdown")
    (table,) = (block for block in document(found).blocks if isinstance(block, Table))
    assert [row[0] for row in table.rows] == [name, f"{name}2"]


def test_a_workload_that_one_run_measured_is_not_called_unmeasured():
    found = result([series("x", 1)], [series("y", 1)], skipped={"x": "hung", "z": "no"})
    assert "z: no" in write(document(found), "text")
    assert "x: hung" not in write(document(found), "text")


def test_every_form_has_the_same_figures():
    rows = list(csv.DictReader(io.StringIO(write(document(sample()), "csv"))))
    found = json.loads(write(document(sample()), "json"))
    assert [row["workload"] for row in rows] == [row["workload"] for row in found["rows"]]
    for row, other in zip(rows, found["rows"], strict=True):
        assert float(row["median"]) == other["median"]
        assert (float(row["low"]), float(row["high"])) == (other["low"], other["high"])
        assert row["marks"] == other["marks"]
    assert rows[3]["marks"] == "KVM emulated instructions of the loop; odd"
    assert rows[0]["net"] == ""
    assert found["rows"][0]["net"] is None
    assert "| empty |" in write(document(sample()), "markdown")


def test_json_is_the_result_itself():
    written = write(document(sample()), "json").encode()
    read = results.decode(written, "x")
    assert read.boots == sample().boots
    assert [row["workload"] for row in read.rows] == sample().workloads()


EXPLAINED = """\
Counters from 0.001 per iteration on, means over the runs:

workload          counter             per iteration

in        bitmap  exits                       1.001
                  host_state_reload           1.000
          plain   exits                       0.000
"""


def test_counters_are_shown_on_request():
    """Means of two runs; host_state_reload is KVM's count of vcpu_put()."""

    def run(exits):
        more = dict(host_state_reload=1, rare=0.0004)
        return [
            series("in", 5, configuration="bitmap", exits=exits, iterations=70, cpl=3, **more),
            series("in", 5, configuration="plain", exits=0, iterations=70),
        ]

    found = result(run(1.0011249999), run(1.0))
    text = write(document(found, explain=True), "text")
    assert [line.split() for line in EXPLAINED.splitlines() if line] == [
        line.split() for line in text[text.index("Counters") :].splitlines() if line
    ]
    assert "Counters" not in write(document(found), "text")
    assert "KVM has no counters" in write(document(result([series("x", 1)]), explain=True), "text")
    # The mean of a count has the digits of the counts.
    assert json.loads(write(document(found), "json"))["rows"][0]["exits"] == 1.001


# What a bitmap costs


def both(pairs=7, control=True):
    """A pair's runs: 100 without and 130 with a bitmap, 20 of which the control has too."""

    def runs():
        for n in range(pairs):
            sides = [("no bitmap", 0), ("bitmap", 30)]
            for name, more in sides if n % 2 == 0 else sides[::-1]:
                listed = [
                    series("in", 100 + n + more, configuration=name, answered=2.0),
                    series("cpuid", 50 + n, configuration=name),
                ]
                if control:
                    listed.append(series("syscall", 70 + more / 3, configuration=name))
                yield listed

    return result(*runs())


def test_costs():
    into, cpuid, control = costs(both())
    assert (into.without, into.with_bitmap, into.cost, into.interval) == (103, 133, 30, (30, 30))
    assert (into.net, into.net_interval) == (10, (10, 10))  # two returns of 10 each
    assert (cpuid.cost, cpuid.net) == (0, 0)
    assert (control.workload, control.cost, control.net) == ("syscall", 10, None)


def test_costs_without_a_control_or_with_few_pairs():
    into, *_ = costs(both(control=False))
    assert (into.cost, into.net) == (30, None)
    into, *_ = costs(both(pairs=3))
    assert into.interval is None
    assert costs(sample()) == []


def test_the_table_of_costs():
    text = write(document(both()), "text")
    assert "in              103     133    30.0  30.0..30.0    10.0  10.0..10.0" in text
    assert "median of 7 runs per side" in " ".join(text.split())
    assert "It is not the cost of LTR" in " ".join(text.split())
    rows = json.loads(write(document(both()), "json"))["rows"]
    assert [row["workload"] for row in rows] == ["in", "cpuid", "syscall"]
    assert (rows[0]["cost"], rows[0]["low"], rows[0]["net_high"]) == (30, 30, 10)


# The port check


def access(**changes):
    plain = dict(limit=0x2087, base=0x68, port=0x1238, width=2, out=False, word=0x12)
    return Access(**(plain | changes))


def test_a_check_that_agrees():
    text = write(io_document(IoCheck(judge="the processor (VMX)", emulated=False, cases=10_000,
                                     allowed=4000, apart=30)), "text")  # fmt: skip
    assert text == (
        "10,000 accesses at CPL 3, decided by the processor (VMX)\n\n"
        "10,000 agree with port_check: 4,000 allowed, 6,000 denied.\n\n"
        "In 30 the first of the two bytes that the SDM requires is the last\n"
        "inside TR's limit. All of them were denied, as the SDM says.\n\n"
        "None disagrees.\n"
    )


def test_a_check_that_does_not():
    one = Case(number=7, access=access(), word=0x34, expected=False, found=True)
    found = IoCheck(
        judge="x", emulated=True, cases=100, allowed=50, apart=9, apart_allowed=5, disagreeing=11,
        disagreements=[one],
    )  # fmt: skip
    text = " ".join(write(io_document(found), "text").split())
    assert "84 agree with port_check: 50 allowed, 34 denied." in text
    assert "5 of them were allowed, which port_check and the SDM deny" in text
    assert text.endswith(
        "11 disagree with port_check; the first 1: case 7: IN of 2 bytes at 0x1238, TR limit "
        "0x2087, bitmap at 0x68, bytes 0x34 0x00: port_check says denied, it was allowed"
    )
    data = json.loads(write(io_document(found), "json"))
    assert (data["schema"], data["disagreeing"]) == ("kvmbench.check-io/1", 11)
    assert data["disagreements"][0]["access"]["port"] == 0x1238


# The host


def finding(level, name, **more):
    return Finding(level=level, name=name, value="v", **more)


@pytest.mark.parametrize(
    ("found", "closing"),
    [
        ([finding("good", "a")], "Fit to measure."),
        ([finding("mind", "a"), finding("good", "b")], "Fit to measure, with 1 fact to mind, "),
        ([finding("mind", "a"), finding("mind", "b")], "Fit to measure, with 2 facts to mind, "),
        ([finding("bad", "a"), finding("mind", "b")], "Nothing can be measured here."),
    ],
)
def test_host(found, closing):
    text = write(host_document(Host(kernel="6.9"), found), "text")
    assert text.split("\n\n")[-1].startswith(closing)


def test_findings_have_their_sign_and_tone():
    found = [finding("good", "a"), finding("mind", "b", effect="e"), finding("bad", "c")]
    blocks = host_document(Host(), found).blocks
    (table,) = (block for block in blocks if isinstance(block, Table))
    signs = [Cell("a"), Cell("? b", "doubt"), Cell("! c", "bad")]
    assert table.rows == [(signs[0], "v"), (signs[1], "v: e"), (signs[2], "v")]


def test_a_remedy_is_one_line():
    command = "echo 0 | sudo tee /sys/module/kvm/parameters/halt_poll_ns  # and a word more"
    found = [finding("mind", "a", effect="e", remedy=command)]
    assert f"\na: {command}\n" in write(host_document(Host(), found), "text")


def test_host_as_json():
    found = host_document(Host(kernel="6.9"), [finding("good", "a")])
    document = json.loads(write(found, "json"))
    assert document["host"] == {"kernel": "6.9"}
    assert document["findings"][0] == {
        "level": "good", "name": "a", "value": "v", "effect": "", "remedy": "",
    }  # fmt: skip
