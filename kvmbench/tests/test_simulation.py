"""A simulation as text, Markdown, CSV, JSON and in the patch's own form."""

import csv
import io
import json
import re
from dataclasses import fields, replace
from itertools import pairwise

import pytest

from kvmbench import Costs, ExitKind, Policy, Profile, Workload
from kvmbench.catalog import policies, profiles, published
from kvmbench.causes import OF_EXITS
from kvmbench.errors import ResultError
from kvmbench.report import FORMS, write
from kvmbench.report.figures import count, signed
from kvmbench.results import decode
from kvmbench.simulation.simulate import Cell, Row, Simulation, simulate
from kvmbench.tests.patch_2017 import AFTER, BEFORE, NAMES
from kvmbench.workloads import BUILT_IN


def simulated(before="eager", after="deferred", ioperm="off"):
    return simulate(None, before, after, iterations=4, ioperm=ioperm)


def render(simulation, form, explain=False, against=None):
    table = published()[against] if isinstance(against, str) else against
    return write(simulation.document(explain=explain, against=table), form)


@pytest.fixture(scope="module")
def result():
    return simulated()


def made(name="cpuid", cycles=1, times=1, user=True, before="eager", after="deferred", profile="p"):
    """Return a result of one row, whose before costs `times` its after."""

    def cell(cycles):
        return Cell(cycles, 1, dict.fromkeys(OF_EXITS, 0) | dict(exit=cycles))

    row = Row(name, (ExitKind("k", 1, user=user),), cell(cycles * times), cell(cycles))
    base = replace(profiles()["patch-2017"], name=profile)
    return Simulation(base, (Policy(before), Policy(after)), "off", "vmx", 10**12, (row,))


@pytest.mark.parametrize(
    ("value", "plain", "with_sign"),
    [
        (0, "0", "0"),
        (5, "5", "+5"),
        (-5, "-5", "-5"),
        (10**12, "1000000000000", "+1000000000000"),
        (0.5, "0.5", "+0.5"),
        (-171.25, "-171.2", "-171.2"),
        (6937.0, "6937.0", "+6937.0"),
        (1e15 + 0.5, "1000000000000000.5", "+1000000000000000.5"),
        (None, "-", "-"),
    ],
)
def test_figures(value, plain, with_sign):
    assert count(value) == plain
    assert signed(value) == with_sign


@pytest.mark.parametrize("value", [0.04, -0.04, 0.0, -0.0])
def test_a_change_that_rounds_to_nothing_has_no_sign(value):
    assert signed(value) == "0.0"


def test_the_default_table(result):
    lines = render(result, "text").splitlines()
    found = [line.split() for line in lines[5:13]]
    assert [cells[0] for cells in found] == NAMES
    assert [" ".join(cells[:2]) for cells in found] == BEFORE.splitlines()
    assert [f"{cells[0]} {cells[2]}" for cells in found] == AFTER.splitlines()
    assert found[4][3:] == ["-480", "-6.9", "1", "->", "0"]  # 480 / 6937 = 6.92 %
    assert found[5][3:] == ["-480", "-7.2", "1", "->", "0"]  # 480 / 6689 = 7.18 %
    assert found[0][3:] == ["0", "0.0", "0", "->", "0"]
    assert lines[3].split() == ["workload", "before", "after", "change", "change", "TR", "reloads"]
    assert lines[4].split() == ["cycles"] * 3 + ["%"]
    about = " ".join(lines[:2])
    for word in ("eager -> deferred", "patch-2017", "4 iterations", "cycles/iteration"):
        assert word in about


@pytest.mark.parametrize("form", ["text", "markdown"])
@pytest.mark.parametrize(
    ("options", "footnote"),
    [
        (dict(), "Rows whose exits the kernel handles itself"),
        (dict(before="every-exit"), "Lightweight exits move only because every-exit acts"),
        (dict(after="every-exit"), "Lightweight exits move only because every-exit acts"),
    ],
)
def test_one_footnote_says_why_lightweight_exits_do_not_move(form, options, footnote):
    said = " ".join(render(simulated(**options), form).split())
    assert footnote in said


def test_no_footnote_without_lightweight_exits():
    assert "vcpu_put()" not in render(made(), "text")
    assert "vcpu_put()" in render(made(user=False), "text")


@pytest.mark.parametrize(
    ("ioperm", "words"),
    [
        ("off", "eager -> deferred:"),
        ("on", "eager -> deferred, the vCPU's thread holding an I/O bitmap:"),
        ("both", "deferred, the vCPU's thread without -> with an I/O bitmap:"),
    ],
)
def test_title_says_what_is_compared(ioperm, words):
    assert words in " ".join(render(simulated(ioperm=ioperm), "text").split())


LONG = "a_workload_whose_name_is_much_longer_than_a_line_of_a_commit_message_can_be"
RESULTS = {
    "patch": lambda: simulated(),
    "every-exit": lambda: simulated("every-exit"),
    "both": lambda: simulated(ioperm="both"),
    "long name": lambda: made(LONG, 6457, 2),
    "long policies": lambda: made(before=LONG, after=f"other_{LONG}", profile=LONG),
    "long words": lambda: made(before=f"{LONG} {LONG}", user=False),
    "millions": lambda: made(LONG, 9_999_999, 2),
    "all costs at their limit": lambda: limits(),
    "a ratio of a billion": lambda: made("cpuid", 1, 10**9),
    "fractions": lambda: made(LONG, 123_456.75, 2),
}


def limits():
    """Simulate a machine whose every cost is the largest there may be."""
    most = 2**32 - 1
    kind = ExitKind("cpuid", most, most, most, user=True)
    costs = Costs(**dict.fromkeys((entry.name for entry in fields(Costs)), most))
    arguments = (policies()["eager"], policies()["exit-to-user"], Profile("limits", costs, (kind,)))
    return simulate(BUILT_IN[:1], *arguments, iterations=2, ioperm="on")


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("name", RESULTS)
def test_text_fits_a_commit_message_and_cuts_no_name(name, explain):
    found = RESULTS[name]()
    said = render(found, "text", explain=explain)
    lines = said.splitlines()
    assert all(line == line.rstrip() for line in lines)
    for row in found.rows:
        # A long name goes on in the next lines, in the column of names.
        assert row.workload in "".join(line.split()[0] for line in lines if line)
    if all(len(row.workload) <= 17 for row in found.rows):
        assert max(map(len, lines)) <= max(72, *(len(p.name) + 16 for p in found.policies))


def test_columns_are_aligned(result):
    heads, units, *lines = render(result, "text").splitlines()[3:13]
    for heading in ("before", "after"):
        end = heads.index(heading) + len(heading)
        assert all(line[end - 1].isdigit() and line[end : end + 1] == " " for line in lines)
        assert units[end - 1] == "s"
    assert len(set(map(len, lines))) == 1
    starts = [line.index(line.split()[1]) for line in lines]
    assert min(starts) > max(map(len, NAMES))


def test_kut_is_the_patchs_own_form(result):
    said = render(result, "kut")
    assert said == f"Before:\n{BEFORE}After:\n{AFTER}"
    parsed = {}
    for line in said.splitlines():
        if line in ("Before:", "After:"):
            side = parsed.setdefault(line, {})
        else:
            name, cycles = re.fullmatch(r"(\w+) (\d+)", line).groups()
            side[name] = int(cycles)
    table = published()["patch-2017"]
    assert parsed["After:"] == {name: table.value(name, "After") for name in NAMES}


def pieces(markdown):
    """Return the Markdown tables, each a list of rows of cells."""
    found = [[]]
    for line in markdown.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)
            assert cells[0] == cells[-1] == ""
            found[-1].append([cell.strip() for cell in cells[1:-1]])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def test_markdown(result):
    said = render(result, "markdown", explain=True, against="patch-2017")
    tables = pieces(said)
    assert [len(table) for table in tables] == [2 + 8, 2 + 16, 2 + 8]
    for table in tables:
        assert len({len(row) for row in table}) == 1
        assert all(re.fullmatch(r":?--+:?", cell) for cell in table[1])
    assert [" ".join((row[0], row[2])) for row in tables[0][2:]] == AFTER.splitlines()


def test_markdown_escapes_bars():
    (table,) = pieces(render(made("a|b"), "markdown"))
    assert table[2][0] == r"a\|b"
    assert len({len(row) for row in table}) == 1


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_explain_has_a_sum_that_sums(result, form):
    said = render(result, form, explain=True)
    lines = said.split("Where the cycles go")[1].splitlines()
    cells = [re.findall(r"(exit|user|host state|TR|map|sum)\W+(\d+)\W+(\d+)", x) for x in lines]
    found = [(where, int(before), int(after)) for ((where, before, after),) in filter(None, cells)]
    pmtimer = [("exit", 2339, 2339), ("user", 3516, 3516), ("host state", 600, 600)]
    pmtimer += [("TR", 482, 2), ("sum", 6937, 6457)]
    at = found.index(pmtimer[1]) - 1
    assert found[at : at + 5] == pmtimer
    assert sum(before for _, before, _ in pmtimer[:-1]) == 6937
    assert sum(after for _, _, after in pmtimer[:-1]) == 6457
    assert len(found) == 6 + 5 + 5


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_against(result, form):
    said = render(result, form, against="patch-2017")
    lines = {}
    for line in said.split("Change as predicted")[1].splitlines():
        cells = line.replace("|", " ").split()
        if cells and cells[0] in NAMES:
            lines[cells[0]] = cells[1:]
    assert lines["cpuid"] == ["0", "-22", "-22"]
    assert lines["mov_from_cr8"] == ["0", "0", "0"]
    assert lines["inl_from_pmtimer"] == ["-480", "-313", "+167", "fitted"]
    assert lines["inl_from_qemu"] == ["-480", "-647", "-167", "fitted"]
    assert "no evidence" in " ".join(said.split())
    assert "as published in patch-2017" in " ".join(said.split())


def rows_of(said):
    return list(csv.reader(io.StringIO(said)))


HEADINGS = ["workload", "before", "after", "change", "percent", "reloads_before", "reloads_after"]


def test_csv(result):
    heading, *rows = rows_of(render(result, "csv"))
    assert heading[:7] == HEADINGS
    assert [f"{row[0]} {row[1]}" for row in rows] == BEFORE.splitlines()
    assert [f"{row[0]} {row[2]}" for row in rows] == AFTER.splitlines()
    full = rows_of(render(result, "csv", against="patch-2017"))
    assert full[0] == [*heading, "published_change", "residual", "fitted"]
    assert len(heading) == len(HEADINGS) + 4 + 2 * len(OF_EXITS)
    by_name = dict(zip(full[0], full[5], strict=True))
    assert by_name["workload"] == "inl_from_pmtimer"
    assert (by_name["policy_before"], by_name["policy_after"]) == ("eager", "deferred")
    assert by_name["ioperm_before"] == by_name["ioperm_after"] == "off"
    before = sum(int(by_name[f"{cause}_before"]) for cause in OF_EXITS)
    assert (before, by_name["published_change"], by_name["residual"]) == (6937, "-313", "167")


def test_csv_quotes():
    assert rows_of(render(made('a,"b'), "csv"))[1][0] == 'a,"b'


def test_json_is_a_result(result):
    """A reader of results reads it, and a reader of tables finds the rows."""
    said = render(result, "json", against="patch-2017")
    found = decode(said.encode(), "x.json")
    assert found.configurations() == ["eager", "deferred"]
    values = [s.values for _, _, s in found.series() if s.configuration == "deferred"]
    assert [f"{n} {v}" for n, (v,) in zip(NAMES, values, strict=True)] == AFTER.splitlines()
    run = found.boots[0].runs[0]
    assert (run.engine, run.profile, run.model_version) == ("sim", "patch-2017", "1")
    assert (
        found.rows
        == json.loads(said)["rows"]
        == result.document(against=published()["patch-2017"]).records
    )
    row = found.rows[4]
    assert (row["published_change"], row["residual"], row["fitted"]) == (-313, 167, True)
    for row in found.rows:
        for side in ("before", "after"):
            assert sum(row[f"{cause}_{side}"] for cause in OF_EXITS) == row[side]
        assert row["change"] == row["after"] - row["before"]
        assert row["percent"] == pytest.approx(100 * row["change"] / row["before"])
        assert all(type(row[name]) is int for name in HEADINGS[1:4])


def test_a_result_that_could_not_be_read_is_not_written():
    broken = made(cycles=float("nan"))
    with pytest.raises(ResultError, match="not a finite number"):
        broken.document()


def test_it_prints_as_the_command_does(result):
    assert str(result) + "\n" == render(result, "text")
    assert repr(result) == "<Simulation eager -> deferred: 8 rows>"
    assert result.records() == result.document().records
    assert result._repr_html_().count("<tr>") == 9


def test_names_stand_for_objects():
    known = policies()
    assert (
        simulate(["cpuid"], "eager", known["deferred"], iterations=2).records()
        == simulate(
            BUILT_IN[:1], known["eager"], "deferred", profiles()["patch-2017"], iterations=2
        ).records()
    )
    for wrong in (dict(workloads=["cpuidd"]), dict(before="eagre"), dict(profile="patch-2071")):
        with pytest.raises(ValueError, match="did you mean"):
            simulate(**wrong, iterations=1)


def test_percent_of_nothing():
    free = made(cycles=0)
    assert json.loads(render(free, "json"))["rows"][0]["percent"] is None
    assert rows_of(render(free, "csv"))[1][4] == ""
    assert re.search(r"^cpuid +0 +0 +0 +- ", render(free, "text"), re.MULTILINE)


@pytest.mark.parametrize("form", [*FORMS, "kut"])
def test_every_form_ends_with_one_newline(result, form):
    said = render(result, form)
    assert said.endswith("\n")
    assert not said.endswith("\n\n")
    gaps = [line for line, after in pairwise(said.splitlines()) if line == after == ""]
    assert gaps == []


def test_a_workloads_own_names_reach_every_form():
    known = policies()
    mine = Workload("mine-2", exits=("cpuid", "vmcall"))
    arguments = (known["eager"], known["deferred"], profiles()["patch-2017"])
    result = simulate([mine], *arguments, iterations=3)
    for form in ("text", "markdown", "csv", "kut"):
        assert re.search(rf"\bmine-2\b\W+{1291 + 1181}\b", render(result, form))
    assert json.loads(render(result, "json"))["rows"][0]["workload"] == "mine-2"
