"""Baselines as files: what is written, what is refused, what a difference says."""

import json
import re

import pytest

from kvmbench.baseline import Figure, difference, read_baseline, result, rows, write_baseline
from kvmbench.errors import ResultError
from kvmbench.results import encode


def figure(*cycles, **more):
    more = {"policy": "eager", "profile": "p", "vendor": "vmx", "model_version": "1"} | more
    return Figure(cycles=list(cycles), **more)


def compared(old, new):
    return difference(rows(result({"t": old}))["t"], rows(result({"t": new}))["t"])


def test_a_file_says_nothing_but_the_figures(tmp_path):
    figures = {
        "b.py::t[a b]": figure(7, segments={"tr": [3], "map": [0], "exit": [4]}, reloads=[1]),
        "a.py::ü": figure(2**70, 2**70 + 1, reloads=[1, 2], segments={"tr": [1, 4]}),
        "c.py::clock": figure(5, policy=None, profile=None, vendor=None),
    }
    path = tmp_path / "b.json"
    assert write_baseline(path, result(figures))
    content = path.read_bytes()
    assert not write_baseline(path, result(dict(reversed(figures.items()))))
    assert path.read_bytes() == content
    found = json.loads(content)
    assert set(found) == {"schema", "notes", "boots"}
    (boot,) = found["boots"]
    assert boot["host"] == {}
    assert [set(run) for run in boot["runs"]] == [
        {"engine", "model_version", "series"},
        {"engine", "model_version", "series", "profile", "vendor"},
    ]
    assert boot["runs"][1]["series"] == [
        {
            "workload": "a.py::ü",
            "kind": "exact",
            "values": [2**70, 2**70 + 1],
            "policy": "eager",
            "reloads": 1.5,
            "counts": {"tr": 2.5},
        },
        {
            "workload": "b.py::t[a b]",
            "kind": "exact",
            "values": [7],
            "policy": "eager",
            "reloads": 1,
            "counts": {"tr": 3, "exit": 4},
        },
    ]


def test_a_file_is_the_figures(tmp_path):
    made = result({"t": figure(7, 9, reloads=[0, 1], segments={"tr": [7, 9]}), "u": figure(2**64)})
    path = tmp_path / "b.json"
    write_baseline(path, made)
    old, new = rows(read_baseline(path)), rows(made)
    assert set(old) == set(new) == {"t", "u"}
    assert [difference(old[name], new[name]) for name in old] == ["", ""]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (figure(1310000), figure(1311000), "1310000 -> 1311000 (+1000, +0.0763%)"),
        (figure(1310000), figure(1309000), "1310000 -> 1309000 (-1000, -0.0763%)"),
        (figure(10**18), figure(10**18 + 1), f"{10**18} -> {10**18 + 1} (+1, +0.0000%)"),
        (figure(0), figure(5), "0 -> 5 (+5)"),
        (figure(1, 2), figure(1, 3), "round 2: 2 -> 3 (+1, +50.0000%)"),
        (figure(1, 2), figure(1), "2 -> 1 rounds"),
        (figure(1, reloads=[1]), figure(1, reloads=[2]), "reloads 1 -> 2"),
        (figure(1, reloads=[1]), figure(1), "reloads 1 -> none"),
        (
            figure(9, segments={"tr": [5], "map": [4]}),
            figure(9, segments={"tr": [6], "io": [3]}),
            "tr 5 -> 6; map 4 -> 0; io 0 -> 3",
        ),
        (figure(1), figure(1, policy="deferred"), "policy eager -> deferred"),
        (figure(1), figure(1, profile=None), "profile p -> none"),
        (figure(1), figure(1, vendor="svm"), "vendor vmx -> svm"),
        (figure(1), figure(1, model_version="2"), ""),
        (figure(1, segments={"tr": [0]}), figure(1), ""),
    ],
)
def test_difference(old, new, said):
    assert compared(old, new) == said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"kind": "exact"', '"kind": "noisy"'), "runs[0].series[0]: noisy cycles, where"),
        (('"exact"', '"exact", "unit": "ns"'), "runs[0].series[0]: exact ns, where"),
        (("[7]", "[7.5]"), "runs[0].series[0].values[0]: 7.5 is not an integer"),
        (('"u"', '"t"'), "runs[1].series[0]: t is in this file already"),
        (("[7]", "[]"), "runs[0].series[0].values: "),
    ],
)
def test_what_is_no_baseline_is_named(tmp_path, change, said):
    path = tmp_path / "b.json"
    content = encode(result({"t": figure(7), "u": figure(8, vendor="xen")})).decode()
    assert change[0] in content
    path.write_text(content.replace(*change, 1))
    with pytest.raises(ResultError, match=re.escape(f"{path}: $.boots[0].{said}")):
        read_baseline(path)
