"""Values and names in messages: short, whatever they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmbench.errors import LISTED, QUOTED, brief, cut, listed, unknown_name

LEAVES = st.one_of(st.text(), st.integers(), st.floats(), st.binary(), st.none())
VALUES = st.recursive(LEAVES, lambda one: st.lists(one) | st.dictionaries(st.text(), one))


@given(VALUES, st.integers(1, 3000))
def test_a_value_in_a_message_is_short(value, times):
    for one in (value, str(value) * times, [value] * times, {times: value}, 10**times):
        assert len(brief(one)) <= QUOTED


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("reload if tif", "'reload if tif'"),
        (["a", 1], "['a', 1]"),
        ("x" * 61, f"'{'x' * 27}...{'x' * 28}'"),
        (10**6, "1000000"),
    ],
)
def test_a_value_in_a_message(value, said):
    assert brief(value) == said


def test_an_integer_beyond_pythons_limit_is_its_number_of_digits():
    assert brief(2**100_000) == "an integer of about 30,103 digits"


@given(st.lists(st.text(max_size=200)))
def test_a_list_of_names_is_short_and_counts_the_others(names):
    said = listed(names)
    assert len(said) <= LISTED + len(" and 1,000,000 more")
    assert said.endswith(" more") or all(cut(name) in said for name in names)


def test_names_are_listed_whole_where_they_are_few():
    assert listed(["tif", "first", "on"]) == "tif, first, on"
    assert listed([]) == "none"
    said = listed(f"name{n}" for n in range(1000))
    assert said.startswith("name0, name1, ")
    assert said.endswith(f" and {1000 - said.count(',') - 1} more")


def test_an_unknown_name_suggests_the_nearest_one():
    assert unknown_name("step", "relaod", ["reload", "ltr"]) == (
        "unknown step 'relaod'; did you mean 'reload'?"
    )
    assert len(unknown_name("step", "x" * 9999, (f"{n}" * 99 for n in range(10**4)))) < 400
