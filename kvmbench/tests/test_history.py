"""`kvmbench history`: points, rows, steps, the gate, the forms and the exports."""

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta

import jsonschema
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from kvmbench import results as files
from kvmbench.comparison.history import history
from kvmbench.comparison.history_document import SCHEMAS, document
from kvmbench.comparison.history_gate import gate, since_place
from kvmbench.comparison.rows import Margin
from kvmbench.errors import IncompatibleError, ResultError
from kvmbench.formats import openmetrics, otava
from kvmbench.report import write
from kvmbench.results import Boot, Host, Result, Run, Series
from kvmbench.tests.command import invoke

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


def day(number):
    """Return the time of a day, counted from 1 January 2026, as results have it."""
    return (START + timedelta(days=number)).isoformat()


def commit(number):
    """Return the commit of a day."""
    return f"{number:02d}" * 20


def result(number, figures, *, kind="noisy", labels=None, host=None, time=True, **more):
    """Return the result of a day: {workload: value or values}."""
    series = [
        Series(workload=name, kind=kind, values=np.atleast_1d(value).tolist(), **more)
        for name, value in figures.items()
    ]
    run = Run(time=day(number) if time else None, series=series)
    labels = {"commit": commit(number)} if labels is None else labels
    boot = Boot(id=f"boot{number}", labels=labels, host=host or Host(), runs=[run])
    return f"day{number}", Result(boots=[boot])


def stepped(at=20, step=2.0, count=40, sd=0.3, base=1200.0, seed=1, **more):
    """Return the results of a row `w` with a step in percent."""
    rng = np.random.default_rng(seed)
    values = base * (1 + rng.normal(0, sd / 100, count))
    values[at:] += base * step / 100
    return [result(n, {"w": float(value)}, **more) for n, value in enumerate(values)]


def exact(*values, **more):
    """Return results of one exact row."""
    return [result(n, {"w": value}, kind="exact", **more) for n, value in enumerate(values)]


def only(found):
    """Return the only row."""
    (row,) = found.rows
    return row


# Steps


def test_a_step_has_its_commit_its_size_and_its_interval():
    (step,) = only(history(stepped())).steps
    assert (step.at, step.verdict) == (20, "slower")
    assert step.percent == pytest.approx(2, abs=0.3)
    low, high = step.interval
    assert low < 24 < high  # 2 % of 1,200
    assert step.first <= 20 <= step.last
    assert step.shift == pytest.approx(step.after - step.before, abs=3)


def test_directions():
    slower = only(history(stepped(step=-2, better="higher"))).steps
    faster = only(history(stepped(step=-2))).steps
    assert [s.verdict for s in (*slower, *faster)] == ["slower", "faster"]


def test_exact_rows_step_at_every_change():
    row = only(history(exact(1310, 1310, 1280, 1280, 1281)))
    assert [(s.at, s.before, s.after, s.shift, s.verdict) for s in row.steps] == [
        (2, 1310, 1280, -30, "changed"),
        (4, 1280, 1281, 1, "changed"),
    ]
    assert all(isinstance(value, int) for value in row.values)
    assert [s.interval for s in row.steps] == [None, None]


def test_a_step_of_an_integer_beyond_floats():
    row = only(history(exact(2**60, 2**60 + 1)))
    assert [step.shift for step in row.steps] == [1]


def test_an_exact_figure_that_varies_within_a_result():
    found = history(exact([10, 20, 30], [20, 20, 20]))
    assert only(found).varies
    assert only(found).steps == []  # the medians are the same
    assert "differs between the runs of one result" in str(found)


def test_runs_and_boots_count_once():
    """A result is the median of its boots, a boot the median of its runs."""
    one = Run(time=day(0), series=[Series(workload="w", kind="noisy", values=[1, 2, 9])])
    two = Run(series=[Series(workload="w", kind="noisy", values=[4])])
    boots = [Boot(id="a", runs=[one, two, two]), Boot(id="b", runs=[two]), Boot(id="c", runs=[one])]
    assert only(history([("r", Result(boots=boots))])).values == [4]


def test_too_few_results_are_said():
    found = history(stepped(at=6, count=13, sd=0.01))
    assert only(found).steps == []
    assert "w: too few results to show a step: measured figures need 14 or more." in " ".join(
        str(found).split()
    )
    assert len(only(history(stepped(at=7, count=14, sd=0.01))).steps) == 1


def test_facts_that_changed_with_the_step():
    old, new = Host(microcode="0x1", kernel="6.1"), Host(microcode="0x2", kernel="6.2")
    made = stepped()
    made = [
        (name, msgspec.structs.replace(r, boots=[msgspec.structs.replace(b, host=h)]))
        for n, (name, r) in enumerate(made)
        for b, h in [(r.boots[0], old if n < 20 else new)]
    ]
    found = history(made)
    assert only(found).steps[0].changed == ["microcode: 0x1 -> 0x2"]
    assert "more than the commit changed: microcode: 0x1 -> 0x2" in " ".join(str(found).split())


def test_results_that_depend_on_each_other_are_in_doubt():
    rng = np.random.default_rng(2)
    wave = 1000 + 5 * np.sin(np.arange(80) / 6) + rng.normal(0, 0.5, 80)
    found = history([result(n, {"w": float(value)}) for n, value in enumerate(wave)])
    assert only(found).doubt
    assert not only(history(stepped())).doubt
    assert "neighbouring results are alike" in " ".join(str(found).split())
    judged = gate(found, Margin(0.0))
    assert judged.status in ("inconclusive", "ok")


# Order, points and rows


def test_order_of_time_and_of_a_release():
    made = [
        result(n, {"w": value}, kind="exact", labels={"release": release})
        for n, (release, value) in enumerate([("6.10", 3), ("6.9", 2), ("6.10-rc1", 2), ("6.2", 1)])
    ]
    by_release = history(made, order="release")
    assert [point.name for point in by_release.points] == ["6.2", "6.9", "6.10-rc1", "6.10"]
    assert only(by_release).values == [1, 2, 2, 3]
    assert only(history(made[::-1])).values == [3, 2, 2, 1]


def test_order_of_commits():
    """By commit_time; the results of one commit are one point."""
    labels = [
        {"commit": "b" * 40, "commit_time": "2026-01-02T00:00:00+01:00"},
        {"commit": "a" * 40, "commit_time": "2026-01-01T23:30:00+00:00"},
        {"commit": "b" * 40, "commit_time": "2026-01-02T00:00:00+01:00"},
    ]
    made = [result(n, {"w": n}, kind="exact", labels=found) for n, found in enumerate(labels)]
    found = history(made, order="commit")
    assert [point.name for point in found.points] == ["b" * 40, "a" * 40]  # 23:00 and 23:30 UTC
    assert only(found).values == [1, 1]
    assert only(found).varies


def test_one_file_of_many_results():
    boots = [found.boots[0] for _, found in exact(1, 2, 3)]
    one = Result(boots=boots)
    found = history([("all", one)])
    assert [point.name for point in found.points] == [f"all@{commit(n)}" for n in range(3)]
    assert only(found).values == [1, 2, 3]


def test_results_without_the_label_are_left_out():
    made = [*exact(1, 2), result(5, {"w": 9}, kind="exact", labels={})]
    found = history(made, order="commit")
    assert (found.left_out, len(found.points)) == (("day5",), 2)
    assert "without the label 'commit' are left out: day5" in str(found)
    with pytest.raises(ResultError, match="day5: no label 'commit'"):
        history(made[2:], order="commit")
    with pytest.raises(ResultError, match="no result has a time"):
        history(exact(1, 2, time=False))
    with pytest.raises(ResultError, match="no results"):
        history([])


def test_rows_of_hosts_and_configurations():
    made = [
        result(0, {"w": 1.0}, labels={"host": "a"}),
        result(1, {"w": 2.0}, labels={"host": "b"}),
        result(2, {"w": 3.0}, labels={"host": "a"}, configuration="on"),
        result(3, {"w": 5}, kind="exact", labels={"host": "b"}, configuration="sim"),
    ]
    found = history(made)
    assert [row.name for row in found.rows] == ["w/a", "w/b", "w/on/a", "w/sim"]
    assert [row.name for row in history(made[:2], group_by="none").rows] == ["w"]
    assert [row.name for row in history(made, rows=["*/a"]).rows] == ["w/a", "w/on/a"]
    assert len(history(made, last=2).points) == 2
    with pytest.raises(ValueError, match="unknown row 'x'"):
        history(made, rows=["x"])


def test_a_row_with_another_unit_is_refused():
    made = [result(0, {"w": 1}, kind="exact"), result(1, {"w": 1}, kind="exact", unit="ns")]
    with pytest.raises(IncompatibleError, match="unit is 'cycles' in day0, 'ns' in day1"):
        history(made)


def test_rows_that_some_results_lack():
    found = history(
        [*exact(1, 1), result(2, {"v": 3}, kind="exact"), result(3, {"w": 2}, kind="exact")]
    )
    assert {row.name: row.values for row in found.rows} == {
        "w": [1, 1, None, 2],
        "v": [None, None, 3, None],
    }
    assert [(s.at, s.changed) for row in found.rows for s in row.steps] == [(3, [])]


# The gate


@pytest.mark.parametrize(
    ("results", "limit", "status"),
    [
        (exact(100, 102), "1%", "regression"),
        (exact(100, 102), "2%", "ok"),  # exactly the limit
        (exact(100, 102), "1", "regression"),
        (exact(100, 98), "0%", "ok"),
        (exact(100, 105, 100), "1%", "ok"),  # undone
        (exact(100, 105, 103), "1%", "regression"),
        (exact(100, 95, better="higher"), "1%", "regression"),
        (stepped(), "1%", "regression"),
        (stepped(), "2%", "inconclusive"),
        (stepped(), "3%", "ok"),
        (stepped(step=-2), "0%", "ok"),
        (stepped(step=0), "1%", "ok"),
        (stepped(count=10, at=5), "1%", "inconclusive"),
    ],
)
def test_gate(results, limit, status):
    assert gate(history(results), Margin.parse(limit)).status == status


def test_gate_of_a_measured_step_that_is_undone():
    """20 results at 0, 20 at +2 %, 20 at 0 again: the level of today is the one before."""
    made = stepped(count=60)
    back = [
        result(n, {"w": found.boots[0].runs[0].series[0].values[0] - (24 if n >= 40 else 0)})
        for n, (_, found) in enumerate(made)
    ]
    found = history(back)
    assert [step.verdict for step in only(found).steps] == ["slower", "faster"]
    assert gate(found, Margin.parse("0.5%")).status == "ok"


def test_gate_since():
    found = history(exact(100, 110, 110, 111))
    assert since_place(found, commit(2)) == 2
    assert since_place(found, commit(2)[:7]) == 2
    assert since_place(found, "day2") == 2
    assert since_place(found, "2026-01-03") == 2
    assert gate(found, Margin.parse("1%"), 2).status == "ok"
    assert gate(found, Margin.parse("0%"), 2).status == "regression"
    assert gate(found, Margin.parse("1%"), 1).status == "regression"
    with pytest.raises(ValueError, match="unknown result 'day9'"):
        since_place(found, "day9")


def test_gate_names_the_commit():
    (line, _) = gate(history(exact(100, 102)), Margin.parse("1%")).lines
    assert line == "failed: w is 2 cycles (2 %) worse than before 010101010101, the limit is 1 %"


# Forms


def test_json_is_its_schema():
    schema = msgspec.json.schema(SCHEMAS["history"])
    found = document(
        history([*stepped(), *exact(1, 2)][:40]), gate(history(stepped()), Margin(0.01))
    )
    content = json.loads(write(found, "json"))
    jsonschema.Draft202012Validator(schema).validate(content)
    assert content["schema"] == "kvmbench.history/1"
    (step,) = content["rows"][0]["steps"]
    assert step["at"] == 20
    assert len(content["rows"][0]["values"]) == len(content["points"]) == 40


def test_csv_has_a_line_per_step():
    (line,) = csv.DictReader(io.StringIO(write(history(stepped()).document(), "csv")))
    assert (line["row"], line["at"], line["commit"]) == ("w", "day20", commit(20))
    assert float(line["low"]) < float(line["shift"]) < float(line["high"])


def test_text():
    text = str(history(stepped()))
    assert text.startswith("1 step over 40 results in the order of time, 000000000000 to")
    assert re.search(
        r"^202020202020 +2026-01-21 +w +12\d\d\.\d +12\d\d\.\d +\+[12]\.\d\d", text, re.M
    )
    assert repr(history(stepped())) == "<History: 40 results, 1 rows, 1 steps>"


# Exports


def read_by_otava(text):
    """Read CSV as Otava's CsvImporter does: csv.reader, a time per line, float() of each metric."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=",", quotechar='"')
    headers = next(reader)
    rows = list(reader)
    assert all(len(row) == len(headers) for row in rows)
    times = [int(datetime.fromisoformat(row[headers.index("time")]).timestamp()) for row in rows]
    commits = [row[headers.index("commit")] for row in rows]
    names = [name for name in headers if name not in ("time", "commit")]
    return times, commits, {n: [float(row[headers.index(n)]) for row in rows] for n in names}


NAMES = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1)
NUMBERS = st.one_of(st.integers(-(2**53), 2**53), st.floats(-1e100, 1e100))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda n: st.tuples(
            st.lists(st.integers(0, 4_000), min_size=n, max_size=n),
            st.lists(st.from_regex(r"[0-9a-f]{7,40}", fullmatch=True), min_size=n, max_size=n),
            st.dictionaries(
                NAMES.filter(lambda name: name[0] not in "=+-@"),
                st.lists(NUMBERS, min_size=n, max_size=n),
                min_size=1,
                max_size=4,
            ),
        )
    )
)
def test_otava_reads_its_csv(table):
    days, commits, columns = table
    text = otava.document([day(number) for number in days], commits, columns)
    times, read, figures = read_by_otava(text)
    assert times == [int((START + timedelta(days=number)).timestamp()) for number in days]
    assert read == commits
    assert figures == columns


def test_otava_leaves_out_rows_with_gaps():
    found = history([*exact(1, 2), result(2, {"w": 3, "v": 1}, kind="exact")])
    times, commits, figures = read_by_otava(write(found.document(), "otava"))
    assert figures == {"w": [1, 2, 3]}
    assert commits == list(map(commit, range(3)))
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("times", "columns", "why"),
    [
        ([None], {"w": [1]}, "Otava needs the time"),
        ([day(0)], {"w": [None]}, "no row has a figure in every result"),
        ([day(0)], {"commit": [1]}, "would take it for the column 'commit'"),
    ],
)
def test_otava_refuses(times, columns, why):
    with pytest.raises(ResultError, match=why):
        otava.document(times, ["abc"], columns)


LABELS = st.dictionaries(
    st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True), st.text(max_size=8), max_size=3
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(LABELS, NUMBERS, st.integers(0, 2**33)), min_size=1, max_size=12))
def test_prometheus_reads_its_text(samples):
    """What stands last for a set of labels and a time is what Prometheus' parser reads."""
    family = openmetrics.Family("kvmbench_figure", "A \\ figure\nin two lines.", [
        openmetrics.Sample(*sample) for sample in samples
    ])  # fmt: skip
    (read,) = text_string_to_metric_families(openmetrics.document([family]))
    assert (read.name, read.type) == ("kvmbench_figure", "gauge")
    assert read.documentation == "A \\ figure\nin two lines."
    expected = {(frozenset(labels.items()), time): value for labels, value, time in samples}
    found = {(frozenset(s.labels.items()), float(s.timestamp)): s.value for s in read.samples}
    assert found == expected
    assert len(read.samples) == len(expected)


def test_openmetrics_of_a_history():
    families = list(
        text_string_to_metric_families(write(history(stepped()).document(), "openmetrics"))
    )
    figures, steps = families
    assert [family.name for family in families] == ["kvmbench_figure", "kvmbench_step_ratio"]
    assert len(figures.samples) == 40
    assert {tuple(sample.labels.items()) for sample in figures.samples} == {
        (("row", "w"), ("unit", "cycles"))
    }
    (step,) = steps.samples
    assert step.value == pytest.approx(1.02, abs=0.005)
    assert step.labels["commit"] == commit(20)
    assert float(step.timestamp) == (START + timedelta(days=20)).timestamp()


def test_openmetrics_needs_times():
    made = [
        result(n, {"w": n}, kind="exact", labels={"release": str(n)}, time=False) for n in range(2)
    ]
    with pytest.raises(ResultError, match="OpenMetrics needs the time"):
        write(history(made, order="release").document(), "openmetrics")


# The command


def kept(results, folder):
    """Write results to a folder."""
    folder.mkdir(parents=True)
    for name, found in results:
        files.write(folder / f"{name}.json", found)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_command_over_the_results_folder(tmp_path):
    kept(stepped(), tmp_path / "results")
    done = invoke("history", "w", "--fail-on-step", "1%", "--since", "2026-01-10")
    assert done.exit_code == 3
    assert "slower" in done.stdout
    assert "Gate failed: 1 failed of 1 check." in done.stdout
    assert invoke("history", "--fail-on-step", "2%").exit_code == 0
    assert invoke("history", "--fail-on-step", "2%", "--fail-inconclusive").exit_code == 4
    assert invoke("history", "--fail-on-step", "1%", "--since", "2026-02-01").exit_code == 0
    done = invoke("history", "--fail-on-step", "1%", "-o", "h.json")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "kvmbench history: Gate failed" in done.stderr
    assert json.loads((tmp_path / "h.json").read_text())["gate"]["status"] == "regression"


def test_command_over_files_folders_and_a_collected_file(tmp_path):
    kept(stepped(), tmp_path / "nightly" / "n1")
    (tmp_path / "nightly" / "README").write_text("no figures here\n")
    done = invoke("history", "nightly")
    assert done.exit_code == 0
    assert "passed over nightly/README" in done.stderr
    assert invoke("collect", "nightly", "-o", "all.json").exit_code == 0
    again = invoke("history", "all.json")
    assert again.stdout == done.stdout
    assert invoke("history", "nightly", "--format", "otava").stdout.startswith("time,commit,w\n")


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        ([], 2, "results holds no results"),
        (["none.json"], 2, "none.json"),
        (["--since", "x"], 2, "need --fail-on-step"),
        (["nightly", "x"], 2, "unknown row 'x'"),
        (["nightly", "--fail-on-step", "x"], 2, "neither a share"),
        (["nightly", "--fail-on-step", "1%", "--since", "zzz"], 2, "unknown result 'zzz'"),
        (["nightly", "--order", "branch"], 1, "no label 'branch'"),
        (["empty"], 1, "no file of a known format"),
    ],
)
def test_command_refuses(arguments, code, why, tmp_path):
    kept(exact(1, 2), tmp_path / "nightly")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.txt").write_text("nothing\n")
    done = invoke("history", *arguments)
    assert done.exit_code == code, done.stderr
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_paths_are_results_too(tmp_path):
    kept(exact(1, 2), tmp_path / "nightly")
    assert only(history(["nightly"])).values == [1, 2]
    assert only(history([tmp_path / "nightly" / "day1.json"])).values == [2]
