"""Results to test with: one by hand, and `results()`, which draws one that may be written."""

import pytest
from hypothesis import strategies as st

from kvmbench import formats
from kvmbench import results as results_module
from kvmbench.errors import ResultError
from kvmbench.results import Boot, Host, Result, Run, Series

THREE_RUNS = Result(
    name="by hand",
    boots=[
        Boot(
            id="b0",
            block=0,
            host=Host(kernel="4.10", cpu="a CPU"),
            runs=[
                Run(
                    time="2017-02-21T10:00:00",
                    series=[
                        Series(workload="cpuid", kind="noisy", values=[1313, 1312, 1315]),
                        Series(workload="vmcall", kind="noisy", values=[1195.5]),
                    ],
                    skipped={"ipi": "one CPU"},
                ),
                Run(series=[Series(workload="cpuid", kind="noisy", values=[1311, 1310])]),
            ],
        ),
        Boot(
            id="b1",
            block=1,
            host=Host(kernel="4.10", cpu="a CPU"),
            runs=[Run(series=[Series(workload="cpuid", kind="noisy", values=[1320])])],
        ),
    ],
)
MEDIANS = {"cpuid": [1313, 1310.5, 1320], "vmcall": [1195.5]}

HYPERFINE = """{"results": [
 {"command": "sleep 0.1", "mean": 0.1, "median": 0.101, "times": [0.101, 0.102, 0.1],
  "exit_codes": [0, 0, 1]},
 {"command": "true", "mean": 0.001, "median": 0.002, "parameters": {"n": "3"}}]}"""
# The second benchmark of a file written with --benchmark_repetitions=2.
GOOGLE = """{"context": {"date": "2024-01-01T00:00:00", "host_name": "h", "num_cpus": 4},
"benchmarks": [
 {"name": "a/8", "run_name": "a/8", "run_type": "iteration", "iterations": 9, "real_time": 2.5,
  "cpu_time": 2.4, "time_unit": "us"},
 {"name": "b", "run_name": "b", "run_type": "iteration", "repetition_index": 0, "real_time": 7,
  "cpu_time": 6, "time_unit": "ns", "label": "cold"},
 {"name": "b", "run_name": "b", "run_type": "iteration", "repetition_index": 1, "real_time": 9,
  "cpu_time": 6, "time_unit": "ns", "label": "cold"},
 {"name": "b_mean", "run_name": "b", "run_type": "aggregate", "aggregate_name": "mean",
  "real_time": 8, "cpu_time": 6, "time_unit": "ns"},
 {"name": "c", "run_name": "c", "error_occurred": true, "error_message": "no file"}]}"""


def values(result):
    """Return {(workload, configuration): [values of each run]}."""
    found = {}
    for _, _, series in result.series():
        found.setdefault((series.workload, series.configuration), []).append(series.values)
    return found


def again(result, form):
    return formats.decode(formats.dump(result, form), "again")


def one(data, name="f", after=": "):
    """Return the one line that reading says, without the file's name."""
    with pytest.raises(ResultError) as caught:
        formats.decode(data if isinstance(data, bytes) else data.encode(), name)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{name}{after}")
    return text.removeprefix(f"{name}{after}")


WORDS = st.text(max_size=8) | st.sampled_from(["", "a/b", "w/o IPIv", "x-8", "50%", "Ä", "a|b"])
NAMES = WORDS.filter(bool)
FIGURES = st.integers(-(10**12), 10**12) | st.floats(-1e12, 1e12).filter(
    lambda figure: figure == 0 or abs(figure) > results_module.SMALLEST
)


@st.composite
def results(
    draw,
    names=NAMES,
    configurations=WORDS,
    units=NAMES,
    figures=FIGURES,
    better=("lower", "higher"),
    unit_decides=False,
):
    """Draw a result; with `unit_decides` all rows of one unit agree in kind and direction."""
    rows = {}
    decided = {}
    for _ in range(draw(st.integers(1, 4))):
        unit = draw(units)
        kind, direction = draw(st.sampled_from(["exact", "noisy"])), draw(st.sampled_from(better))
        if unit_decides:
            kind, direction = decided.setdefault(unit, (kind, direction))
        rows[draw(names), draw(configurations)] = (unit, kind, direction)
    boots = []
    for _ in range(draw(st.integers(1, 3))):
        runs = []
        for _ in range(draw(st.integers(1, 3))):
            chosen = draw(st.lists(st.sampled_from(list(rows)), unique=True, min_size=1))
            series = [
                Series(
                    workload=key[0],
                    configuration=key[1],
                    unit=rows[key][0],
                    kind=rows[key][1],
                    better=rows[key][2],
                    values=draw(st.lists(figures, min_size=1, max_size=4)),
                    quantum=draw(st.none() | st.floats(0.001, 10)),
                    marks=draw(st.lists(WORDS, max_size=1)),
                )
                for key in chosen
            ]
            runs.append(Run(series=series, skipped=draw(st.dictionaries(NAMES, WORDS, max_size=1))))
        host = Host(kernel=draw(st.none() | WORDS), facts=draw(st.dictionaries(NAMES, WORDS)))
        block = draw(st.none() | st.integers(0, 9))
        boots.append(Boot(id=draw(WORDS), block=block, host=host, runs=runs))
    order = draw(st.sampled_from(["time", "lost"]))
    stopping = draw(st.sampled_from(["size", "decided"]))
    return Result(
        name=draw(WORDS), source=draw(WORDS), order=order, stopping=stopping, boots=boots
    )  # fmt: skip
