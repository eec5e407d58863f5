"""Labels and fleets: collected results, pairs of hosts, groups, clocks."""

import json
import platform
import re
import subprocess
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmbench import compare, labels
from kvmbench import results as files
from kvmbench.comparison.fleet import collect, in_nanoseconds, path_labels, selected
from kvmbench.errors import ResultError
from kvmbench.labels import commit_labels, label_of, labelled, parse_labels
from kvmbench.results import Boot, Host, Result, Run, Series
from kvmbench.tests.command import invoke
from kvmbench.tests.results_maker import of_boots, of_runs
from kvmbench.units import Replicates, Side

ROWS = ("cpuid", "inl_from_qemu", "outl_to_kernel")


def fleet(
    hosts,
    effect,
    seed,
    *,
    noise=0,
    sd=0.003,
    apart=0.3,
    runs=2,
    clocks=None,
    cpus=None,
    labels=True,
):
    """Return a result of `hosts`, whose levels are up to `apart` different, the same per seed."""
    levels = 1000 * (1 + np.random.default_rng(seed).uniform(-apart, apart, hosts))
    rng = np.random.default_rng((seed, noise, int(1e6 * (1 + effect))))
    boots = []
    for n, level in enumerate(levels):
        made = [
            {w: float(level * (1 + effect) * (1 + rng.normal(0, sd))) for w in ROWS}
            for _ in range(runs)
        ]
        host = Host(cpu=cpus[n] if cpus else None, tsc_hz=clocks[n] if clocks else None)
        boots.append(
            Boot(
                id=f"{noise}:{effect}-{n}",
                labels={"host": f"n{n}"} if labels else {},
                host=host,
                runs=list(of_runs(*made).boots[0].runs),
            )
        )
    return Result(boots=boots)


def between(before, after, **options):
    """Return the comparison of two results, in which any row may move."""
    return compare(Side("old", before), Side("new", after), **({"controls": ()} | options))


def verdicts(comparison):
    """Return the verdicts in a set."""
    return {row.verdict for row in comparison.rows}


def codes(comparison):
    """Return the codes of the caveats."""
    return {caveat["code"] for caveat in comparison.document().data["caveats"]}


# Pairs of hosts


@pytest.mark.parametrize("seed", range(5))
def test_paired_by_host_seven_hosts_find_a_kernels_shift(seed):
    """2.5 % among hosts that are up to 30 % apart."""
    before, after = fleet(7, 0, seed), fleet(7, 0.025, seed)
    paired = between(before, after, pair_by="host")
    assert verdicts(paired) == {"slower"}
    assert all(row.units == (7, 7) for row in paired.rows)
    assert all(1.5 < row.percent < 3.5 for row in paired.rows)
    assert verdicts(between(before, after)) == {"inconclusive"}
    assert "7 hosts, each on both sides" in " ".join(str(paired).split())


def test_pairs_of_hosts_alike_are_not_found_different():
    alarms = 0
    for seed in range(40):
        found = between(fleet(7, 0, seed), fleet(7, 0, seed, noise=1), pair_by="host", margin="0%")
        alarms += not verdicts(found) <= {"inconclusive", "within margin"}
    assert alarms <= 5  # 5 % of 40 are 2


def test_a_host_that_one_side_lacks_is_left_out():
    before, after = fleet(8, 0, 1), fleet(7, 0.025, 1)
    replicates = Replicates(Side("a", before), Side("b", after), "host")
    assert (replicates.level, replicates.paired) == ("host", True)
    assert replicates.left_out == ["n7"]
    assert "Left out as incomplete: host n7." in str(between(before, after, pair_by="host"))


def test_a_host_counts_once_with_the_median_of_its_boots():
    def side(*values):
        boots = [
            Boot(
                id=f"{n}{value}",
                labels={"host": host},
                runs=list(of_runs({"w": value}).boots[0].runs),
            )
            for n, (host, value) in enumerate(values)
        ]
        return Result(boots=boots)

    before = side(("a", 10), ("a", 90), ("a", 20), ("b", 5))
    replicates = Replicates(Side("x", before), Side("y", side(("b", 6), ("a", 21))), "host")
    (key,) = replicates.keys()
    assert [found.tolist() for found in replicates.figures(key)] == [[20, 5], [21, 6]]


def test_pairs_by_any_label_and_none():
    before, after = fleet(3, 0, 1), fleet(3, 0.1, 1)
    with pytest.raises(ValueError, match="no rack is on both sides"):
        between(before, after, pair_by="rack")
    racks = [labelled(found, {"rack": "r1"}) for found in (before, after)]
    assert between(*racks, pair_by="rack").rows[0].units == (1, 1)


def test_blocks_of_several_hosts_are_separate():
    """Block 1 of one host is not block 1 of another."""

    def side(shift):
        boots = []
        for host, level in (("a", 1000), ("b", 2000)):
            made = of_boots(
                *(
                    (f"{host}{shift}{b}{n}", b, [{"w": level + shift + b}])
                    for b in (1, 2)
                    for n in (0, 1)
                )
            )
            boots += labelled(made, {"host": host}).boots
        return Result(boots=boots)

    replicates = Replicates(Side("x", side(0)), Side("y", side(5)))
    (key,) = replicates.keys()
    before, after = replicates.figures(key)
    assert before.tolist() == [1001, 1002, 2001, 2002]
    assert (after - before).tolist() == [5, 5, 5, 5]


# Groups


def test_groups_are_rows():
    cpus = "XXXXXYYYYY"
    before, after = fleet(10, 0, 1, apart=0, cpus=cpus), fleet(10, 0.02, 1, apart=0, cpus=cpus)
    found = between(before, after, group_by="cpu")
    assert [row.workload for row in found.rows] == [f"{w}/{cpu}" for cpu in "XY" for w in ROWS]
    assert all(row.units == (5, 5) for row in found.rows)
    assert found.tested == 6  # one correction for all of them
    assert verdicts(found) == {"slower"}
    assert "mixed-hosts" in codes(between(before, after))
    assert "mixed-hosts" not in codes(found)
    assert "mixed-hosts" not in codes(between(before, after, pair_by="host"))


def test_a_group_that_one_side_lacks():
    before, after = fleet(4, 0, 1, cpus="XXYY"), fleet(4, 0, 1, cpus="XXXZ")
    found = between(before, after, group_by="cpu")
    assert {row.units for row in found.rows} == {(2, 3)}
    text = " ".join(str(found).split())
    assert "Left out by --group-by cpu, as the other side lacks it: Y." in text
    assert "Left out by --group-by cpu, as the other side lacks it: Z." in text
    with pytest.raises(ValueError, match="no cpu is on both sides: old has X; new has Y"):
        between(fleet(2, 0, 1, cpus="XX"), fleet(2, 0, 1, cpus="YY"), group_by="cpu")


def test_groups_keep_configurations():
    host = Host(cpu="X")
    made = Result(
        boots=[
            Boot(
                host=host,
                runs=[
                    Run(
                        series=[
                            Series(workload="w", configuration=c, kind="exact", values=[n])
                            for n, c in enumerate(("eager", "deferred"))
                        ]
                    )
                ],
            )
        ]
    )
    found = between(made, made, group_by="cpu")
    assert [row.workload for row in found.rows] == ["w/eager/X", "w/deferred/X"]


def test_mixed_facts_are_said():
    hosts = [
        Host(cpu=cpu, mitigations={"spectre_v2": how, "mds": "Not affected"}, tsc_hz=hz)
        for cpu, how, hz in (("X", "IBRS", 2_000_000_000), ("X", "Retpolines", 2_000_000_100))
    ]
    run = of_runs({"w": 1000}).boots[0].runs[0]
    made = Result(boots=[Boot(id=str(n), host=host, runs=[run]) for n, host in enumerate(hosts)])
    text = " ".join(str(between(made, made)).split())
    assert (
        "The hosts of old and new differ: mitigation of spectre_v2 IBRS | Retpolines. Their" in text
    )


# Clocks and time


SLOW, FAST = 2_000_000_000, 3_000_000_000


def test_cycles_of_two_clocks_are_in_doubt_and_times_are_not():
    """The same cycles at 2 and 3 GHz are a third less time."""
    before = fleet(6, 0, 1, apart=0, clocks=[SLOW] * 6)
    after = fleet(6, 0.0001, 1, apart=0, clocks=[FAST] * 6)
    cycles = between(before, after)
    assert "clocks-differ" in codes(cycles)
    assert abs(cycles.rows[0].percent) < 0.5
    time = between(before, after, unit="ns")
    assert "clocks-differ" not in codes(time)
    assert {row.unit for row in time.rows} == {"ns"}
    assert verdicts(time) == {"faster"}
    assert time.rows[0].percent == pytest.approx(-100 / 3, abs=0.5)
    assert time.rows[0].before == pytest.approx(500, rel=0.01)  # 1,000 cycles at 2 GHz


def test_clocks_that_differ_by_their_calibration_are_one():
    before = fleet(4, 0, 1, clocks=[SLOW, SLOW + 100_000] * 2)
    assert "clocks-differ" not in codes(between(before, before))


def test_pairs_of_equal_clocks_are_not_in_doubt():
    clocks = [SLOW, FAST] * 4
    before, after = fleet(8, 0, 1, clocks=clocks), fleet(8, 0.02, 1, clocks=clocks)
    assert "clocks-differ" in codes(between(before, after))
    assert "clocks-differ" not in codes(between(before, after, pair_by="host"))
    other = fleet(8, 0.02, 1, clocks=clocks[::-1])
    assert "clocks-differ" in codes(between(before, other, pair_by="host"))


def test_nanoseconds():
    made = Result(
        boots=[
            Boot(
                host=Host(tsc_hz=2_500_000_000),
                runs=[
                    Run(
                        series=[
                            Series(workload="a", kind="noisy", values=[1000, 500], quantum=2.0),
                            Series(workload="b", kind="exact", values=[1000]),
                            Series(workload="c", unit="ns", kind="noisy", values=[7]),
                        ]
                    )
                ],
            )
        ]
    )
    a, b, c = (s for _, _, s in in_nanoseconds(Side("x", made)).result.series())
    assert (a.unit, a.values, a.quantum) == ("ns", [400, 200], 0.8)
    assert (b.unit, b.values) == ("cycles", [1000])
    assert (c.unit, c.values) == ("ns", [7])
    with pytest.raises(ResultError, match="x: boot 0 has cycles and no TSC frequency"):
        in_nanoseconds(Side("x", of_runs({"w": 1})))
    with pytest.raises(ValueError, match="unit 'ms'"):
        between(made, made, unit="ms")


# Collected


def test_collect_keeps_every_run_once_with_its_result():
    one = of_runs(
        {"w": 1}, {"w": 2}, times=["2026-01-01T10:00:00", "2026-01-01T10:01:00"], boot_id="b"
    )
    other = of_runs({"w": 1}, times=["2026-01-02T10:00:00"], boot_id="c", order="lost")
    found, twice = collect([("one", one), ("other", other), ("again", one)])
    assert twice == 2
    assert [boot.labels for boot in found.boots] == [{"result": "one"}, {"result": "other"}]
    assert found.order == "lost"
    assert [len(boot.runs) for boot in found.boots] == [2, 1]


def test_collect_does_not_take_like_runs_without_a_time_for_one():
    one = of_runs({"w": 1}, {"w": 1})
    found, twice = collect([("one", one)])
    assert (twice, len(found.boots[0].runs)) == (0, 2)


def test_collect_refuses_rows_that_do_not_agree():
    other = Result(
        boots=[Boot(runs=[Run(series=[Series(workload="w", unit="ns", kind="noisy", values=[1])])])]
    )
    with pytest.raises(ResultError, match="where an earlier run has"):
        collect([("a", of_runs({"w": 1})), ("b", other)])
    with pytest.raises(ResultError, match="no results"):
        collect([])


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [
        ("{host}/{commit}.json", "a/node1/abc.json", {"host": "node1", "commit": "abc"}),
        ("{host}.json", "node1.json", {"host": "node1"}),
        ("run-{host}-{n}.json", "run-a-b-7.json", {"host": "a-b", "n": "7"}),
    ],
)
def test_labels_of_a_path(pattern, path, found):
    assert path_labels(pattern, path) == found


def test_labels_of_a_path_refuse():
    with pytest.raises(ResultError, match=r"x\.json: does not end like \{host\}/\{commit\}\.json"):
        path_labels("{host}/{commit}.json", "x.json")
    for pattern in ("x.json", "{a}{a}", "{}"):
        with pytest.raises(ValueError, match="or one twice"):
            path_labels(pattern, "x")


def test_selected_boots():
    made = fleet(3, 0, 1, cpus="XYX")
    assert len(selected(made, "cpu=X").boots) == 2
    assert len(selected(made, "host=n1").boots) == 1
    with pytest.raises(ValueError, match="unknown host 'n9'"):
        selected(made, "host=n9")


# Labels


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("commit=abc,host=n1", {"commit": "abc", "host": "n1"}),
        ("note=a, b=c", {"note": "a, b=c"}),
        ("note=one,two", {"note": "one,two"}),
        ("host=", {"host": ""}),
        ("a.b-c=x=y", {"a.b-c": "x=y"}),
    ],
)
def test_labels_parse(text, found):
    assert parse_labels(text) == found


@pytest.mark.parametrize("text", ["host", "=x", "a b=c", "", "1a=x", "a=b\x1b"])
def test_labels_refuse(text):
    with pytest.raises(ValueError, match="is not KEY=VALUE"):
        parse_labels(text)


KEYS = st.from_regex(r"[A-Za-z_][\w.-]{0,9}", fullmatch=True)
VALUES = st.text(st.characters(codec="ascii", exclude_characters=",=", exclude_categories=["Cc"]))


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=5))
def test_labels_round_trip(found):
    assert parse_labels(",".join(f"{key}={value}" for key, value in found.items())) == found


def test_labelled():
    made = of_runs({"w": 1})
    one = labelled(made, {"host": "a", "commit": "x"})
    assert one.boots[0].labels == {"host": "a", "commit": "x"}
    assert labelled(one, {"host": "b"}, defaults=True).boots[0].labels["host"] == "a"
    assert labelled(one, {"host": ""}).boots[0].labels == {"commit": "x"}


def test_facts_as_labels():
    host = Host(cpu="X", tsc_hz=2_400_000_000, mitigations={"b": "2", "a": "1"})
    boot = Boot(host=host, labels={"rack": "r"}, runs=[Run(series=[])])
    assert [
        label_of(boot, by) for by in ("cpu", "clock", "mitigations", "rack", "kernel", "x")
    ] == [*("X", "2400 MHz", "a: 1; b: 2", "r", "", "")]


def git(*words):
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)


def test_the_commit_of_a_kernel_and_of_git(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_labels() == {}
    assert commit_labels("6.12.0-rc1-00123-gabcdef123456") == {"commit": "abcdef123456"}
    assert commit_labels("6.12.0-gabcdef1-dirty") == {"commit": "abcdef1-dirty"}
    assert commit_labels("6.12.0-generic") == {}
    git("init", "-q")
    (tmp_path / "file").write_text("1\n")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    found = commit_labels("6.12.0-generic")
    assert re.fullmatch("[0-9a-f]{40}", found["commit"])
    shown = subprocess.run(["git", "show", "-s", "--format=%H %ct"], capture_output=True, text=True)
    commit, seconds = shown.stdout.split()
    assert found["commit"] == commit
    assert datetime.fromisoformat(found["commit_time"]).timestamp() == int(seconds)
    assert labels.measured_labels()["host"] == platform.node()


def test_git_runs_no_program_of_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    (tmp_path / "hook").write_text("#!/bin/sh\ntouch ran\n")
    (tmp_path / "hook").chmod(0o755)
    git("add", "hook")
    git("commit", "-q", "-m", "one")
    for key in ("core.fsmonitor", "filter.x.clean", "gpg.program", "core.sshCommand"):
        git("config", key, str(tmp_path / "hook"))
    git("config", "log.showSignature", "true")
    (tmp_path / ".gitattributes").write_text("* filter=x\n")
    (tmp_path / "ran").unlink(missing_ok=True)
    assert commit_labels()["commit"]
    assert not (tmp_path / "ran").exists()


def test_no_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit_labels() == {}


# Files


def test_labels_are_written_and_old_files_are_read(tmp_path):
    made = labelled(of_runs({"w": 1}), {"host": "a"})
    files.write(tmp_path / "x.json", made)
    assert files.read(tmp_path / "x.json") == made
    assert b"labels" not in files.encode(of_runs({"w": 1}))  # as before they were known
    long = labelled(of_runs({"w": 1}), {"host": "a" * 501})
    with pytest.raises(ResultError, match=r"\$\.boots\[0\]\.labels: .* has over 500 characters"):
        files.encode(long)


def test_runs_of_two_labels_stay_apart_when_they_are_appended():
    one, two = (labelled(of_runs({"w": 1}, boot_id="b"), {"commit": c}) for c in "xy")
    assert len(files.merge(one, two).boots) == 2
    assert len(files.merge(one, one).boots) == 1


# The commands


@pytest.fixture(autouse=True)
def in_a_folder(request, tmp_path, monkeypatch):
    if request.function.__name__.startswith("test_command"):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))


def test_command_collect_and_compare(tmp_path):
    for name, effect in (("old", 0), ("new", 0.025)):
        for boot in fleet(7, effect, 3, labels=False, cpus="XXXXYYY").boots:
            folder = tmp_path / name / boot.id.partition("-")[2]
            folder.mkdir(parents=True)
            files.write(folder / "r.json", Result(boots=[boot]))
    for name in ("old", "new"):
        done = invoke(
            "collect", name, "--labels-from", "{kernel}/{host}/r.json", "-o", f"{name}.json"
        )
        assert done.exit_code == 0, done.stderr
    done = invoke("collect", "old.json", "new.json")
    assert done.stdout.startswith("14 boots of 7 hosts\n")
    assert "2 CPU models" in done.stdout
    assert invoke("collect", "old.json", "new.json", "-o", "fleet.json").exit_code == 0
    done = invoke(
        "compare", "fleet.json#kernel=old", "fleet.json#kernel=new", "--pair-by", "host",
        "--no-controls",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("old -> new: cycles/iteration, 7 hosts, each on both sides")
    assert done.stdout.count("slower") >= 3
    same = invoke("compare", "old.json", "new.json", "--pair-by", "host", "--no-controls")
    assert same.stdout == done.stdout
    done = invoke("compare", "old.json", "new.json", "--group-by", "cpu", "--format", "json")
    assert len(json.loads(done.stdout)["rows"]) == 6


def test_command_labels(tmp_path):
    files.write(tmp_path / "x.json", of_runs({"cpuid": 1}))
    done = invoke("save", "x.json", "kept", "--label", "commit=abc,host=n1", "--label", "b=c")
    assert done.exit_code == 0, done.stderr
    kept = files.read(tmp_path / "results" / "kept.json")
    assert kept.boots[0].labels == {"commit": "abc", "host": "n1", "b": "c"}
    assert invoke("run", "cpuid", "--save", "sim", "--label", "branch=main").exit_code == 0
    made = files.read(tmp_path / "results" / "sim.json")
    assert made.boots[0].labels == {"branch": "main"}  # no host: simulated figures have none


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["save", "x.json", "y", "--label", "host"], 2, "'host' is not KEY=VALUE"),
        (["collect", "none.json"], 2, "none.json: No such file"),
        (["collect", "x.json", "--labels-from", "x"], 2, "names no {LABEL}"),
        (["collect", "x.json", "--labels-from", "{a}/{b}/{c}.json"], 1, "does not end like"),
        (["collect", "empty"], 1, "empty: no file"),
        (["compare", "x.json", "x.json", "--pair-by", "host"], 2, "no host is on both sides"),
        (["compare", "x.json#host=a", "x.json"], 2, "unknown host 'a'"),
        (["compare", "x.json", "x.json", "--unit", "ns"], 1, "no TSC frequency"),
    ],
)
def test_command_refuses(arguments, code, why, tmp_path):
    files.write(tmp_path / "x.json", of_runs({"w": 1}))
    (tmp_path / "empty").mkdir()
    done = invoke(*arguments)
    assert done.exit_code == code, done.stderr
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
