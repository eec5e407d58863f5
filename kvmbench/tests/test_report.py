"""Documents in every form: nothing cut, nothing that a terminal or a spreadsheet would obey."""

import csv
import io
import json
import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmbench.report import (
    FORMS,
    Cell,
    Code,
    Column,
    Document,
    Facts,
    Heading,
    Items,
    Note,
    Reported,
    Table,
    write,
)
from kvmbench.report.html import fragment

NAMES = Column("workload", "key")
CYCLES = Column("cycles", "figure", "cycles")


def table(*rows, columns=(NAMES, CYCLES), **options):
    return Document("title", [Table(columns, rows, **options)], data={})


def lines(document, **options):
    return write(document, "text", **options).splitlines()[2:]


def test_text_by_hand():
    found = write(
        Document(
            "one -> two",
            [
                Table(
                    (NAMES, CYCLES, Column("verdict", "word")), [("a", "1", "x"), ("bb", "10", "")]
                ),
                Heading("More:"),
                Facts([("kernel", "6.1"), ("CPU", "")]),
                Items(["first", "second"]),
                Code("kvmbench run\n"),
                Note("The end."),
            ],
        ),
        "text",
    )
    assert found == (
        "one -> two\n\n"
        "workload  cycles  verdict\n          cycles\n"
        "a              1  x\nbb            10\n\n"
        "More:\n\nkernel  6.1\nCPU     -\n\n  first\n  second\n\nkvmbench run\n\nThe end.\n"
    )  # fmt: skip


def test_a_key_is_never_cut():
    short, long = "mmio-datamatch-eventfd:pci-mem", "x" * 70
    for width in (20, 72, 200):
        found = lines(table((short, "1"), (long, "123456789")), width=width)
        assert any(line.startswith(short + " ") for line in found)
        room = max(32, min(70, width - 2 - len("123456789")))
        assert "".join(line[:room].strip() for line in found[3:]) == long


def test_a_name_that_is_longer_than_a_line_leaves_room_for_the_figures():
    found = lines(table(("cpuid", *["1313.25"] * 5), ("x" * 90, *["6.5"] * 5),
                        columns=(NAMES, *[Column("95 % MDE")] * 5)), width=72)  # fmt: skip
    assert max(map(len, found)) == 72
    room = 72 - 5 * (2 + len("95 % MDE"))
    assert "".join(line[:room].strip() for line in found if line[0] == "x") == "x" * 90


def test_words_wrap_before_keys_do():
    columns = (NAMES, CYCLES, Column("why", "word"))
    found = lines(table(("k" * 30, "12345678", "word " * 30), columns=columns), width=72)
    assert max(map(len, found)) <= 72
    assert "k" * 30 + "  12345678" in found[2]
    assert " ".join(found).count("word") == 30


def test_grouped_rows_name_their_key_once():
    rows = [("a", "1"), ("a", "2"), ("b", "2"), ("a", "2")]
    starts = [line[:1] for line in lines(table(*rows, grouped=True))[2:]]
    assert starts == ["a", " ", "b", "a"]
    assert write(table(*rows, grouped=True), "markdown").count("| a |") == 3


def test_colour_is_only_where_it_is_asked_for():
    document = table((Cell("a", "bad"), "1"))
    assert "\x1b" not in write(document, "text")
    assert "\x1b[31ma" in write(document, "text", color=True)


def test_other_forms():
    document = Document("t", records=[{"a": 1, "b": "x"}, {"a": 2, "c": 0.5}], data={"k": [1]})
    assert write(document, "csv") == "a,b,c\n1,x,\n2,,0.5\n"
    assert json.loads(write(document, "json")) == {"k": [1]}
    own = Document("t", forms={"kut": lambda: "cpuid 1\n"})
    assert write(own, "kut") == "cpuid 1\n"
    with pytest.raises(ValueError, match=r"form is 'xml', not one of text, .*, kut"):
        write(own, "xml")


def test_json_holds_no_nan():
    with pytest.raises(ValueError, match="JSON"):
        write(Document("t", data={"a": float("nan")}), "json")


class Mine(Reported):
    def document(self):
        return Document("title", [Note("note")], [{"a": 1}], {"a": 1})


def test_a_result_prints_as_its_command_does():
    assert str(Mine()) == "title\n\nnote"
    assert Mine().records() == [{"a": 1}]
    assert Mine()._repr_html_() == "<div><p>title</p><p>note</p></div>"


# A stranger's names

HOSTILE = st.text(
    st.one_of(
        st.characters(), st.sampled_from("\x1b\x07\x00\r\n\t\u202e\u2066\u200f\x9b=+-@|<>&\"'`*_[]")
    ),
    max_size=30,
)


def everywhere(name):
    """Return a document that has `name` in every place."""
    columns = (Column(name, "key", name), Column(name), Column(name, "word"))
    rows = [(name, name, Cell(name, "bad"))] * 2
    blocks = [Table(columns, rows), Heading(name), Note(name), Items([name])]
    blocks += [Facts([(name, name)]), Code(name)]
    return Document(name, blocks, [{name: name, "n": 1}], {name: name})


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = set()

    def handle_starttag(self, tag, attributes):
        self.found.add(tag)
        assert attributes == []


OURS = {"div", "p", "table", "thead", "tbody", "tr", "th", "td", "h4", "ul", "li", "dl", "dt"}
OURS |= {"dd", "pre"}


@settings(deadline=None)
@given(HOSTILE)
def test_nothing_hidden_comes_through(name):
    document = everywhere(name)
    forms = {form: write(document, form) for form in FORMS}
    forms["html"] = fragment(document)
    for said in forms.values():
        hidden = {c for c in said if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
        assert hidden <= {"\n"}
    coloured = write(document, "text", color=True)
    assert "\x1b" not in coloured.replace("\x1b[", "")
    parser = Elements()
    parser.feed(forms["html"])
    assert parser.found <= OURS
    for row in csv.reader(io.StringIO(forms["csv"])):
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)


@settings(deadline=None)
@given(HOSTILE)
def test_a_cell_adds_no_column_to_markdown(name):
    tables = [x for x in write(everywhere(name), "markdown").splitlines() if x.startswith("| ")]
    assert [x.replace("\\\\", "").replace("\\|", "").count("|") for x in tables] == [4] * 4


@settings(deadline=None)
@given(HOSTILE)
def test_json_keeps_names_as_they_are(name):
    assert json.loads(write(everywhere(name), "json")) == {name: name}


def test_words_give_way_evenly_and_no_break_spaces_hold():
    columns = (Column("event", "word"), Column("changes", "word"))
    row = (
        "a longer text of forty-four columns in all",
        "limit\xa0full\xa0->\xa0min, tif\xa00\xa0->\xa01",
    )
    said = write(table(row, columns=columns), "text", width=50).splitlines()[2:]
    assert said == [
        "event                     changes",
        "a longer text of          limit full -> min,",
        "forty-four columns in     tif 0 -> 1",
        "all",
    ]
