"""Where in a TOML file a key stands, and hostile files."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmbench import tomlfile
from kvmbench.errors import FileError
from kvmbench.tomlfile import Source

VALUE = st.sampled_from(
    [
        "1",
        '"a # [b]"',
        "'[x]'",
        "[1, 2]",
        '[\n  "[mine]",\n  "k = 1", # ] }\n]',
        '"""\n[not]\nk = "x"\n"""',
        "'''\n[[not]]\n'''",
        "{a = [1]}",
        '"\\"] = "',
    ]
)
LINE = st.one_of(
    st.tuples(st.sampled_from(["a", "b", "k"]), VALUE).map(" = ".join),
    st.sampled_from(["[t]", "[t.u]", "[[rows]]", "# [c]", "", "  ", "[ q ] # x"]),
)


@settings(deadline=None)
@given(st.lists(LINE, max_size=8))
def test_the_statements_of_a_text(lines):
    """Each statement begins where a line of ours was put, and no other text is one."""
    text = "\n".join(lines)
    begun, number = [], 1
    for line in lines:
        if line.strip() and not line.startswith("#"):
            begun.append(number)
        number += line.count("\n") + 1
    assert [number for number, _ in tomlfile._statements(text)] == begun


def source(text):
    return Source(Path("mine.toml"), text.encode())


@pytest.mark.parametrize(
    ("text", "keys", "line"),
    [
        ("a = 1\n[t]\nb = 2\n", ("t", "b"), 3),
        ("[[rows]]\na = 1\n[[rows]]\na = 2\n", ("rows", 2, "a"), 4),
        ('a = """\n[t]\n"""\n[t]\nb = 1\n', ("t", "b"), 5),
        ('x = [\n  "[t]",\n]\n[t]\nb = 1\n', ("t", "b"), 5),
        ('["a.b"]\nc = 1\n', ("a.b", "c"), 2),
        ("a.b.c = 1\n", ("a", "b", "c"), 1),
        ("a = 1\n", ("nowhere",), 1),
    ],
)
def test_lines(text, keys, line):
    tomllib.loads(text)
    assert str(source(text).error(keys, "why")).startswith(f"mine.toml:{line}: ")


def test_an_error_at_the_end_parses_nothing_again(monkeypatch):
    text = "".join(f"[p{n}]\nabout = 'x'\n" for n in range(5000)) + "[bad]\nk = 1\n"
    found = source(text)
    monkeypatch.setattr(tomlfile.tomllib, "loads", None)
    assert str(found.error(("bad", "k"), "why")) == "mine.toml:10002: bad.k: why"


def test_a_long_file_is_not_read():
    with pytest.raises(FileError, match="/dev/zero: larger than"):
        Source(Path("/dev/zero"))


MANY = ".".join("a" * (tomlfile.MOST_PARTS + 1))


@pytest.mark.parametrize(
    "text", [f"{MANY} = 1", f"[{MANY}]", f"[[ {MANY} ]]", f"x = {{{MANY} = 1}}",
             f"x.{MANY.replace('.', ' . ')} = 1", MANY.replace("a", '"a.b"') + " = 1"]
)  # fmt: skip
def test_a_key_of_too_many_parts_is_refused_before_it_is_read(text, monkeypatch):
    monkeypatch.setattr(tomllib, "loads", lambda _: pytest.fail("read"))
    with pytest.raises(FileError, match=r"^mine.toml:2: a key has over 20 parts$"):
        source(f"# first\n{text}\n")


@pytest.mark.parametrize(
    "text", [MANY.removesuffix(".a") + " = 1", f"x = '{MANY}'", f'x = "{MANY}" # {MANY}',
             "x = [" + "1.5, " * 100 + "]", 'x = "' + "One word. Two words. " * 30 + '"']
)  # fmt: skip
def test_dots_elsewhere_are_no_parts_of_a_key(text):
    assert source(text).data


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[[a]]\n" * 10_001, 10_002),
        ("".join(f"[a{n}]\n" for n in range(10_001)), 10_002),
        ("".join(f"a{n} = {{}}\n" for n in range(10_001)), 10_002),
        ("x = [" + "{b.c = 1}, " * 5_001 + "]", 2),
        ("".join(f"a{n}" + ".b" * 10 + " = 1.5\n" for n in range(1_001)), 1_002),
        ("".join(f"[a{n}" + ".b" * 9 + "]\n" for n in range(1_001)), 1_002),
    ],
)
def test_tables_beyond_the_limit_are_refused_before_they_are_read(text, line, monkeypatch):
    monkeypatch.setattr(tomllib, "loads", lambda _: pytest.fail("read"))
    with pytest.raises(FileError) as caught:
        source(f"# first\n{text}\n")
    assert str(caught.value) == f"mine.toml:{line}: over 10,000 tables, the most that is read"


def test_as_many_tables_as_the_limit_are_read():
    assert len(source("[[a]]\n" * 10_000).data["a"]) == 10_000
    rows = "[1.5, 2.5],\n" * 20_000  # no tables
    assert len(source(f"# a.b\nx = [\n{rows}]\n").data["x"]) == 20_000


@pytest.mark.parametrize(
    "text",
    [
        "# a.b.c.d = e.f {x}\n" * 2_501,
        "".join(f"a{n} = 1.5 # = x\n" for n in range(12_000)),
        "".join(f'a{n} = "b.c=d"\n' for n in range(12_000)),
        'x = """\n' + "{x} {y}\n" * 5_001 + '"""\n',
        "x = '''\n" + "[a.b]\n" * 10_001 + "'''\n",
    ],
    ids=["comments", "after values", "strings", "multi-line", "literal"],
)
def test_comments_and_strings_hold_no_tables(text):
    assert source(text).data == tomllib.loads(text)


@pytest.mark.parametrize("header", ['[["a,b"]]', "[[a]] # ,"])
def test_a_comma_in_a_header_hides_no_table(header, monkeypatch):
    monkeypatch.setattr(tomllib, "loads", lambda _: pytest.fail("read"))
    with pytest.raises(FileError, match=r"^mine.toml:10001: over 10,000 tables"):
        source(f"{header}\n" * 10_001)


LONG = "1" * 101


@pytest.mark.parametrize(
    "number", [LONG, f"-{LONG}", f"0x{LONG}", f"0b{LONG}", f"1_{LONG}", f"1.{LONG}", f"1e{LONG}",
               "0o" + "7" * 600_000]
)  # fmt: skip
@pytest.mark.parametrize("form", ["x = {}", "x = [\n1, {}]", "x = {{y = {}}} # why", "[t]\nx={}"])
def test_a_number_beyond_the_limit_is_refused_before_it_is_read(form, number, monkeypatch):
    monkeypatch.setattr(tomllib, "loads", lambda _: pytest.fail("read"))
    line = 2 + form.count("\n")
    with pytest.raises(FileError, match=rf"^mine.toml:{line}: a number of over 100 characters$"):
        source(f"# first\n{form.format(number)}\n")


@pytest.mark.parametrize(
    "text", [f"{LONG} = 1", f"[{LONG}]", f"[[{LONG}]] # x", f"[a.{LONG}]", f"x = '{LONG}'",
             f'x = "{LONG}"', f"x = 1 # {LONG}", f"x = \"\"\"\n{LONG}\"\"\"", f"x.y{LONG} = 1",
             f"x = {LONG[1:]}", f"x = 0x{LONG[3:]}"]
)  # fmt: skip
def test_digits_elsewhere_are_no_number(text):
    assert source(text).data


def test_nesting_and_digits_beyond_pythons_limits_have_a_line():
    with pytest.raises(FileError, match=r"^mine.toml:4: nested too deeply$"):
        source("a = 1\n# [[[\nx = [\n" + "[" * 5000 + '"\\"')
    with pytest.raises(FileError, match=r"^mine.toml:3: an integer has too many digits$"):
        source(f"a = 12\nb = [\n[1{'1' * 5000}]\n]\nc = 12345\n")  # a header, at first sight


def test_a_header_with_spaces_is_found():
    assert source("\n[ a   .  b ]\nc = 1\n").error(("a", "b"), "x").args == ("mine.toml:2: a.b: x",)


def test_a_path_of_long_keys_is_cut():
    keys = ("a" * 500, "b" * 500, "c" * 500)
    said = str(source("a = 1").error(keys, "wrong"))
    assert len(said) < 130
    assert said.startswith("mine.toml:1: aaa")
    assert said.endswith("ccc: wrong")


def test_a_file_beyond_the_limit_is_refused(tmp_path):
    text = "#" * int(tomlfile.LARGEST + 1)
    path = tmp_path / "mine.toml"
    path.write_text(text)
    for refused in (lambda: source(text), lambda: Source(path)):
        with pytest.raises(FileError, match=r"mine.toml: larger than 1 MB, the most that is read$"):
            refused()
