"""Cost profiles from measured rows: figures of an invented CPU, from its rows and back."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from string import printable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmbench import load, simulate
from kvmbench.catalog import load_profile, profile_toml, profiles
from kvmbench.errors import FileError, ResultError
from kvmbench.live.costs import costing
from kvmbench.live.engine import BITMAP, LEFT, NO_BITMAP
from kvmbench.model import Costs, ExitKind, Profile, Provenance
from kvmbench.results import Boot, Host, Result, Run, Series, write
from kvmbench.tests.command import invoke
from kvmbench.workloads import workloads

LOOP = 2.0  # cycles of the empty loop
# The invented CPU: a store of 5, an LTR of 300, which in front of a WRMSR waits for 40 more.
FIGURES = {
    "empty": LOOP, "gdt_write": LOOP + 5, "ltr": LOOP + 305, "wr_kernel_gs_base": LOOP + 90,
    "wrmsr_gs_then_ltr": LOOP + 90 + 305 + 40, "work_400": LOOP + 100,
    "ltr_after_work_400": LOOP + 100 + 305 + 280, "cpuid": LOOP + 1200,
    "mov_from_cr8": LOOP + 12, "inl_from_kernel": LOOP + 1800, "inl_from_qemu": LOOP + 4000,
    "toggle_cr4_pge": LOOP + 2500, "hlt": 22000.0, "mov_to_cr2": LOOP + 60,
}  # fmt: skip
EXITS = {"cpuid": 1, "inl_from_kernel": 1, "inl_from_qemu": 1, "toggle_cr4_pge": 2, "hlt": 3}
ANSWERED = {"inl_from_qemu": 1}
NOISE = (-3, -2, -1, 0, 1, 2, 3, 0)  # of LTR, by run


def series(name, value, configuration="", **more):
    counts = {"exits": EXITS.get(name, 0), "answered": ANSWERED.get(name, 0), "iterations": 1000}
    return Series(
        workload=name, configuration=configuration, kind="noisy", values=[value] * 3,
        counts=counts, **more,
    )  # fmt: skip


def measured(figures=FIGURES, *, noise=NOISE, configuration="", host=None, marks=()):
    host = host or Host(kernel="6.12.1", cpu="A CPU", kvm="kvm_intel", tsc_hz=2_000_000_000)
    runs = []
    for number, more in enumerate(noise):
        listed = []
        for name, value in figures.items():
            own = list(marks) if name == "ltr" else []
            value += more if "ltr" in name else 0
            listed.append(series(name, value, configuration, marks=own))
        runs.append(Run(time=f"2026-11-26T10:00:0{number}+00:00", engine="kvm", series=listed))
    return Result(tool="a test", boots=[Boot(id="b", host=host, runs=runs)])


def test_figures():
    found = costing(measured(), "mine")
    costs, kinds = found.profile.costs, {kind.name: kind for kind in found.profile.kinds}
    assert (costs.gdt_write, costs.ltr) == (5, 300)
    assert found.profile.origin("costs.ltr").basis == "measured"
    # The interval of a median of eight at 95 % lies between the first and the last value.
    assert found.profile.origin("costs.ltr").interval == (297, 303)
    assert "A CPU, Linux 6.12.1, 2026-11-26" in found.profile.origin("costs.ltr").source
    assert kinds["cpuid"] == ExitKind("cpuid", 1200)
    assert kinds["mov_from_cr8"] == ExitKind("mov_from_cr8", 12, exits=False)
    base = profiles()["patch-2017"].costs
    put = base.host_save + base.host_restore + base.mark
    expected = ExitKind("inl_from_qemu", 1800, 4000 - 1800 - put, 40, user=True)
    assert kinds["inl_from_qemu"] == expected
    assert found.profile.tsc_hz == 2_000_000_000
    assert found.profile.origin("costs.host_save").basis == "assumed"
    assert set(found.left_out) == {"toggle_cr4_pge", "hlt"}
    assert "2.00 exits" in found.left_out["toggle_cr4_pge"]
    assert "mov_to_cr2" not in kinds
    assert "ltr" not in kinds
    assert any("280 of 400 cycles" in remark for remark in found.remarks)


def test_the_simulation_gives_the_measured_row_back():
    """The kernel measured is deferred's; eager pays 5 + 300 + 40 more, less the mark."""
    profile = costing(measured(), "mine").profile
    found = simulate(["cpuid", "inl_from_qemu"], "eager", "deferred", profile)
    cpuid, inl = found.rows
    assert inl.after.cycles == 4000
    saved = 5 + 300 + 40 - profile.costs.mark
    assert (inl.change, cpuid.change) == (-saved, 0)
    # gdt_write is exact, ltr 297..303; the overlap has no noise left in any run.
    assert inl.interval == (-saved - 3, -saved + 3)
    assert cpuid.interval == (0, 0)
    text = str(found)
    assert f"-{saved + 3}..-{saved - 3}" in text


def test_a_profile_without_intervals_has_none():
    assert simulate(["cpuid"]).rows[0].interval is None


def test_few_runs_have_no_interval():
    origin = costing(measured(noise=(0, 1, 2)), "mine").profile.origin("costs.ltr")
    assert (origin.basis, origin.interval) == ("measured", None)


def test_bitmap():
    both = measured(configuration=NO_BITMAP).boots[0].runs
    dearer = FIGURES | {"inl_from_qemu": LOOP + 4500}
    both = [*both, *measured(dearer, configuration=BITMAP).boots[0].runs]
    result = measured()
    result = Result(tool="t", boots=[Boot(id="b", host=result.boots[0].host, runs=both)])
    found = costing(result, "mine")
    assert found.profile.costs.ltr == 300
    assert any("inl_from_qemu 500 (500..500)" in remark for remark in found.remarks)


def test_instructions_counted_in_the_lab():
    """Debian's 6.12 on an emulated Haswell: LTR is one instruction, the store before it another."""
    result = load(Path(__file__).parent / "corpus" / "lab-costs.json")
    found = costing(result, "lab")
    costs = found.profile.costs
    assert (costs.gdt_write, costs.ltr) == (1, 1)
    kinds = {kind.name: kind for kind in found.profile.kinds}
    assert kinds["mov_to_cr8"].cycles == 1
    assert not kinds["mov_to_cr8"].exits
    assert kinds["cpuid"].exits
    assert not kinds["cpuid"].user
    assert kinds["inl_from_qemu"].user
    assert not found.left_out
    text = str(found.document())
    assert "instructions, not cycles" in text
    assert "an emulated Intel(R) Core(TM) i7-4770" in text
    both = [msgspec.structs.replace(s, configuration="other") for _, _, s in result.series()]
    run = Run(engine="lab", series=[*(s for _, _, s in result.series()), *both])
    two = Result(tool="t", boots=[Boot(id="b", host=result.boots[0].host, runs=[run])])
    with pytest.raises(ResultError, match=r"name one, as in RESULT#6\.12: '6\.12', 'other'"):
        costing(two, "lab")
    assert costing(two, "lab", "other").profile.costs.ltr == 1


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (measured({"empty": 2.0, "cpuid": 9.0}), "no row gdt_write: measure it"),
        (measured({n: v for n, v in FIGURES.items() if n != "empty"}), "no row empty"),
        (measured(marks=[LEFT], host=Host(kernel="6.18", kvm="kvm_pvm")), "kvm_pvm): it is no"),
        (measured(host=Host(kernel="4.9.0", kvm="kvm_intel")), "before Linux 4.11"),
        (measured(host=Host(kernel="6.1.0", kvm="kvm_amd")), "before Linux 6.5"),
    ],
)
def test_refused(result, words):
    with pytest.raises(ResultError, match=re.escape(words)):
        costing(result, "mine")


def test_too_fast_for_the_assumed_put():
    found = costing(measured(FIGURES | {"inl_from_qemu": LOOP + 500}), "mine")
    assert "fewer than the 602 assumed" in found.left_out["inl_from_qemu"]


def test_no_counters():
    """A kernel without KVM_GET_STATS_FD counts no exits: the declared kinds are known."""
    result = measured()
    for _, _, one in result.series():
        for name in ("exits", "answered"):
            del one.counts[name]
    found = costing(result, "mine")
    assert {"cpuid", "inl_from_qemu", "mov_from_cr8"} <= {k.name for k in found.profile.kinds}
    assert "no counters" in found.left_out["toggle_cr4_pge"]


def test_native_rows():
    names = {name for name, workload in workloads().items() if workload.native}
    assert {"ltr", "gdt_write", "wrmsr_gs_then_ltr", "work_50", "ltr_after_work_400"} <= names


# The file

text = st.from_regex(r"[-a-z0-9_.:#\"'*?\[\]\\é]{1,10}", fullmatch=True)
COSTS = [entry.name for entry in fields(Costs)]
figure = st.integers(0, 2**32 - 1)


@given(
    name=text, about=st.text(printable, max_size=20),
    costs=st.lists(figure, min_size=len(COSTS), max_size=len(COSTS)),
    kinds=st.dictionaries(text, st.tuples(figure, figure, figure, st.booleans()), max_size=4),
    hz=st.none() | st.integers(1, 10**12), interval=st.none() | st.tuples(figure, figure),
    source=st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip),
)  # fmt: skip
def test_toml_reads_back(tmp_path_factory, name, about, costs, kinds, hz, interval, source):
    made = tuple(ExitKind(key, *values[:3], user=values[3]) for key, values in kinds.items())
    named = dict(zip(COSTS, costs, strict=True))
    profile = Profile(name, Costs(**named), made, hz, about=about)
    interval = interval and tuple(sorted(interval))
    figures = profile.figures()
    origins = {path: Provenance("measured", source, interval) for path in list(figures)[::2]}
    profile = replace(profile, provenance=origins)
    path = tmp_path_factory.mktemp("profiles") / "p.toml"
    path.write_text(profile_toml(profile), encoding="utf-8", newline="")
    read = load_profile(path)
    assert read == profile
    assert read.provenance == profile.provenance


@pytest.mark.parametrize("interval", ["[1]", "[2, 1]", "[-1, 2]", '["a", "b"]', "[1.5, 2.5]"])
def test_bad_interval(tmp_path, interval):
    path = tmp_path / "p.toml"
    path.write_text(
        'name = "p"\nextends = "patch-2017"\n[[provenance]]\nfigures = ["costs.ltr"]\n'
        f'basis = "measured"\nsource = "s"\ninterval = {interval}\n'
    )
    with pytest.raises(FileError, match=r"p\.toml:3: .*interval is .*two ascending integers"):
        load_profile(path)


# The commands


def kept(folder, name, result):
    (folder / "results").mkdir(exist_ok=True)
    write(folder / "results" / f"{name}.json", result)


def test_profile_new(folder):
    kept(folder, "mine", measured())
    done = invoke("profile", "new", "mine", "-o", "mine.toml")
    assert done.exit_code == 0, done.output
    assert "297..303" in done.stdout
    assert "Assumed" in done.stdout
    printed = invoke("profile", "new", "mine")
    assert printed.stdout == (folder / "mine.toml").read_text()
    done = invoke("run", "--profile", "./mine.toml", "inl_from_qemu", "--format", "json")
    row = json.loads(done.stdout)["rows"][0]
    assert (row["change_low"], row["change_high"]) == (-346, -340)


def test_profile_new_refuses(folder):
    kept(folder, "pvm", measured(marks=[LEFT]))
    done = invoke("profile", "new", "pvm", "-o", "mine.toml")
    assert done.exit_code == 1
    assert "no price of LTR" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (folder / "mine.toml").exists()


def test_run_against_a_measured_bitmap(folder):
    runs = measured(configuration=NO_BITMAP).boots[0].runs
    dearer = FIGURES | {"inl_from_qemu": LOOP + 4500}
    runs = [*runs, *measured(dearer, configuration=BITMAP).boots[0].runs]
    kept(folder, "both", Result(tool="t", boots=[Boot(id="b", runs=runs)]))
    command = ("run", "--after", "exit-to-user", "--ioperm", "both", "inl_from_qemu", "cpuid")
    done = invoke(*command, "--against", "both")
    assert done.exit_code == 0, done.output
    assert "as measured in both" in done.stdout
    assert "+500" in done.stdout
    assert invoke("run", "--against", "both").exit_code == 2
    done = invoke(*command, "--against", "patch-2017")
    assert done.exit_code == 1
    assert "not a thread's I/O bitmap" in done.stderr
