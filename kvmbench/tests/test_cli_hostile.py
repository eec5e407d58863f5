"""Words of strangers in every command and form: none reaches a terminal or a spreadsheet raw.

Names, notes and paths are drawn from escape sequences, bidirectional controls, formulas and markup.
"""

import csv
import io
import json
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from kvmbench import results
from kvmbench.formats import WRITABLE
from kvmbench.live import engine
from kvmbench.live import plan as plans
from kvmbench.results import Boot, Host, Result, Run, Series
from kvmbench.tests.command import ENV, invoke

pytestmark = pytest.mark.usefixtures("folder")

# Python's table, not kvmbench's: controls and formats (bidirectional ones too), and separators.
RAW = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)
PIECES = (
    *("\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\r", "\b", "\n", "\t", "\x7f", "\0"),
    *("\u202e", "\u2066", "\u200f", "\u2028", "\u200b", "\ufeff", "\xad", "\u061c"),
    *("=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "<script>", "![x](y)", "|", "`", "&", "a", "7", " "),
    *("\uff1d1", "\uff20a", "## a", ">a", "---", "==="),
)
HOSTILE = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join)
SOME = settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def no_raw(done, separator=""):
    """Check both streams of a command, which ended without an exception of Python.

    `separator` is a control character that the form itself has.
    """
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    for text in (done.stdout.replace(separator, "") if separator else done.stdout, done.stderr):
        assert not RAW.search(text), RAW.search(text)
        hidden = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")}
        assert hidden <= {"\n"}
    return done


def hostile_result(words):
    """Return a result with `words` wherever a file can have them."""
    series = [
        Series(workload=f"{words}{n}", configuration=words, kind="noisy", values=[n + 1.0],
               marks=[words], policy=words)
        for n in range(2)
    ]  # fmt: skip
    run = Run(engine="kvm", command=[words], time=words, skipped={words: words}, series=series)
    host = Host(kernel=words, cpu=words, governor=words, facts={words: words})
    return Result(
        name=words, tool=words, source=words, notes=[words],
        boots=[Boot(id=f"{words}{n}", host=host, runs=[run]) for n in range(3)],
    )  # fmt: skip


FORMS = ("text", "markdown", "csv", "json", "html")


@SOME
@given(HOSTILE)
def test_results(words):
    results.write("a.json", hostile_result(words))
    Path("results").mkdir(exist_ok=True)
    results.write("results/kept.json", hostile_result(words))
    commands = [("show", "a.json"), ("compare", "a.json", "a.json"), ("self-test", "a.json")]
    for command in (*commands, ("list", "results")):
        for form in FORMS:
            text = no_raw(invoke(*command, "--format", form)).stdout
            if form == "json" and text:
                json.loads(text)
            if form == "csv":
                cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
                for cell in cells:
                    assert not cell.startswith(("=", "@", "\n", *"\uff1d\uff0b\uff0d\uff20")), cell
                    assert not cell.startswith(("+", "-")) or float(cell) is not None, cell
            if form == "html":
                assert not re.search(r"<script|<img", text)
            if form == "markdown":
                assert not re.search(r"(?<!\\)<script|(?<!\\)\[x\]", text), text
                tokens = MarkdownIt("commonmark").enable("table").parse(text)
                assert not {token.type for token in tokens} & {"blockquote_open", "html_block"}
                assert {t.markup for t in tokens if t.type == "heading_open"} <= {"###"}, text
    no_raw(invoke("compare", "a.json", "a.json", "--format", "junit"))
    no_raw(invoke("compare", f"{words}=a.json", "a.json"))
    for form in WRITABLE:
        no_raw(invoke("convert", "a.json", "-", "--to", form), "\t")
    html = results.read("a.json")._repr_html_()
    assert not RAW.search(html)
    assert "<script>" not in html


@SOME
@given(HOSTILE.map(lambda words: words.replace("\0", "")))  # no argument can have one
def test_names_on_the_command_line(words):
    for arguments in (
        *(("run", words), ("measure", words), ("show", words), ("list", words), (words,)),
        *(("run", "--before", words), ("run", "--profile", words), ("run", "--against", words)),
        *(("run", "--policy-file", words), ("run", "--workload-file", words)),
        *(("run", "--save", words, "--iterations", words), ("run", f"--{words}")),
        *(("run", "-o", f"nowhere/{words}"), ("scenario", words), ("compare", words, words)),
        *(("scenario", "oversubscribed", "--vary", words), ("check", words), ("convert", words)),
        *(("self-test", words), ("save", words, words), ("schema", words), ("completion", words)),
        *(("plan", words), ("plan", "run", words), ("plan", "new", f"{words}=", "b")),
        *(("list", "results", "--results-dir", f"nowhere/{words}"), ("convert", "ipiv-2022", "-")),
    ):
        done = no_raw(invoke(*arguments))
        assert done.stderr.count("\n") <= 1


@SOME
@given(HOSTILE)
def test_files_that_are_wrong(words):
    quoted = json.dumps(words)
    files = {
        "x.toml": f"[{quoted}]\n{quoted} = {quoted}\n",
        "y.toml": f"name = {quoted}\nextends = {quoted}\n",
        "z.toml": f"[x]\nvcpu_put = [{quoted}]\nabout = {quoted}\n",
        "w.py": f"raise ValueError({words!r})\n",
        "x.json": json.dumps({"schema": words, words: words}),
        "p.json": json.dumps(
            {"schema": plans.SCHEMA, "seed": 1, "arguments": [words], "steps": [], words: 1}
        ),
    }
    for name, text in files.items():
        Path(name).write_text(text)
    for arguments in (
        *(("run", "--policy-file", f"{name}.toml") for name in "xyz"),
        *(("show", f"./{name}") for name in files), ("run", "--profile", "./y.toml"),
        *(("check", "--policy-file", f"{name}.toml") for name in "xz"),
        *(("scenario", "./x.toml"), ("run", "--workload-file", "w.py"), ("plan", "run", "p.json")),
        *(("compare", "x.json", "x.json"), ("convert", "x.json", "-"), ("save", "x.json", "new")),
    ):  # fmt: skip
        done = no_raw(invoke(*arguments))
        assert done.stderr.count("\n") <= 1


@SOME
@given(HOSTILE)
def test_measurements_and_plans(words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "measure", lambda *_, **__: hostile_result(words))
        for form in FORMS:
            no_raw(invoke("measure", "--format", form))
    for file in Path().glob("plan*"):
        file.unlink()
    no_raw(invoke("plan", "new", f"a={words}x", f"b={words}y", "--", "cpuid"))
    no_raw(invoke("plan", "run"))


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (RecursionError("maximum recursion"), "nested too deeply"),
        (MemoryError(), "memory"),
        (OverflowError("int too large"), "too large"),
    ],
)
def test_inputs_beyond_pythons_limits_are_one_line(monkeypatch, raised, words):
    def fail(*_, **__):
        raise raised

    monkeypatch.setattr("kvmbench.simulation.simulate.simulate", fail)
    done = invoke("run")
    assert (done.exit_code, done.stdout) == (1, "")
    assert (done.stderr.count("\n"), words in done.stderr) == (1, True)


def test_warnings_of_libraries_do_not_reach_a_user():
    program = (
        "import sys, warnings; from kvmbench import __main__\n"
        "import kvmbench.cli.main as command\n"
        "command.main = lambda **_: warnings.warn('overflow', RuntimeWarning, stacklevel=1)\n"
        "__main__.run()"
    )
    for more, shown in (((), False), (("-W", "default"), True)):
        done = subprocess.run(
            [sys.executable, *more, "-c", program], capture_output=True, text=True, env=ENV
        )
        assert (done.returncode, "overflow" in done.stderr) == (0, shown), done.stderr


def test_no_module_comes_from_the_current_folder():
    # `python -m` itself imports runpy and warnings first, before any line of kvmbench.
    for name in ("random", "signal", "tempfile", "click", "numpy", "msgspec"):
        Path(f"{name}.py").write_text(f"raise SystemExit('a stranger: {name}')\n")
    done = subprocess.run(
        [sys.executable, "-m", "kvmbench", "run", "cpuid"], capture_output=True, text=True, env=ENV
    )
    assert (done.returncode, done.stderr) == (0, "")


DEEP = "[" * 3000
HUGE = "9" * 400
HOST = 'name = "x"\nclock_hz = 1000\nseconds = 1\ntimeslice_us = 100\n'
TASK = '[[tasks]]\nname = "a"\ntype = "vcpu"\ncount = 1\nguest_us = 5\n'


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("check", "--policy-file", "./x.toml"), f"[mine]\nvm_exit = {DEEP}\n"),
        (("show", "./x.toml"), f"[mine]\nvm_exit = {DEEP}\n"),
        (("scenario", "./x.toml"), f"{HOST}cpus = {HUGE}\n{TASK}mix = {{ cpuid = 1 }}\n"),
        (("scenario", "./x.toml"), f"{HOST}cpus = 1\n{TASK}mix = {{ cpuid = {HUGE} }}\n"),
        (("run", "--profile", "./x.toml"), f'name="x"\nextends="patch-2017"\ncosts.ltr={HUGE}\n'),
        (("run", "--against", "./x.toml"), f"rows = {DEEP}"),
        (("run", "--workload-file", "x.toml"), "(" * 3000),
        (("run", "--workload-file", "x.toml"), "-" * 200_000 + "1"),
        (("run", "--workload-file", "x.toml"), "raise ValueError('x' * 100_000)"),
        (("run", "--workload-file", "x.toml"), "#" * 10_000_001),
        (("show", "x.json"), DEEP),
    ],
)
def test_deep_and_large_files_are_one_short_line(arguments, text):
    Path(arguments[-1]).write_text(text)
    done = no_raw(invoke(*arguments))
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert len(done.stderr) < 1000


TASKS = f"{HOST}cpus = 1\n[[tasks]]\nname = 'a'\ntype = 'vcpu'\ncount = 1\nguest_us = 5\n"
WORDS = ("name", "title", "change", "hardware", "source", "note", "unit", "date")
ROWS = "".join(f"{word} = 'a'\n" for word in WORDS)
KERNEL = '{"label":"a","release":"a","results":"a.json"}'
SERIES = '{"workload":"w","kind":"noisy","values":[1]}'


OTHER = KERNEL.replace('"a', '"b')


def ours(series, more=""):
    runs = f'[{{"series":[{series}]}}]'
    return f'{{"schema":"kvmbench.result/1",{more}"boots":[{{"runs":{runs}}}]}}'


def plan(schema=plans.SCHEMA, first=KERNEL, second=OTHER, arguments=""):
    return (
        f'{{"schema":"{schema}","seed":1,"arguments":[{arguments}],"kernels":[{first},{second}],'
        '"steps":[{"block":1,"side":0}]}'
    )


def published(row, more=""):
    return f"{ROWS}configurations = ['@']\nbetter = 'lower'\n{more}\nrows = [{row}]"


LONG = ("x" * 5000, "word " * 1000, "\u4e2d" * 3000, "a.b-" * 1500)
STRANGE = {  # command: files in which @ stands for a long text, and # for a long number
    "check --policy-file ./x.toml": (
        *("['@']\nvm_exit = 1", "[p]\n'@' = 1", "[p]\nvm_exit = ['@']", "['@'.'@']\na = 1"),
        *("[p]\nvm_exit = ['reload if @']", "[p]\nvm_exit = ['reload @']", "[p]\nvm_exit = '@'"),
        *("[p]\nswitch = [['@', 1]]", "[p]\nio_base_at_start = '@'", "[p]\nabout = ['@']"),
        *("[p]\nvm_exit = [#]", "@", "a = @", "'@' = 1", "[p]\nvm_exit = ['edit_map if @ and @']"),
    ),
    "run cpuid --policy-file ./x.toml": ("['@1']\n['@2']\n['@3']",),
    "run --profile ./x.toml": (
        *("name = '@'", "name = 'x'\nextends = '@'", "name = 'x'\n'@' = 1"),
        *(f"name = 'x'\nextends = 'patch-2017'\n{more}" for more in (
            "costs.'@' = 1", "costs.ltr = '@'", "costs.ltr = #", "kinds.'@'.cycles = '@'",
            "kinds.'@' = {cycles = 1, user = true, exits = false}", "kinds.'@' = {cycles = #}",
            "kinds.'@'.'@' = 1", "tsc_hz = #", "tsc_hz = '@'", "provenance = ['@']",
            "provenance = [{figures = ['@'], basis = 'measured', source = 's'}]",
            "provenance = [{figures = ['*'], basis = '@', source = 's'}]",
        )),
    ),
    "scenario ./x.toml": (
        *(f"{HOST}cpus = {value}\ntasks = []" for value in ("'@'", "#", "['@', '@']")),
        *(f"{TASKS}{more}" for more in (
            "mix = {'@' = 1}", "mix = {'@' = -1}", "mix = {cpuid = '@'}", "mix = '@'", "'@' = 1",
            "mix = {cpuid = 1}\nrun_us = #", "mix = {cpuid = #}", "times = '@'", "ioperm = '@'",
        )),
        TASKS.replace("'a'", "'@'"), TASKS.replace("'vcpu'", "'@'"), HOST.replace('"x"', "'@'"),
    ),
    "run --against ./x.toml": (
        published("{name = '@', configuration = 'b@', value = 1}"),
        published("{name = '@', configuration = '@', value = '@'}"),
        published("{name = '@', configuration = '@', value = 1}"),
        published("{name = '@', configuration = '@', value = #}"),
        published("{name = '@', configuration = '@', value = 1}", "'@' = 1"),
        published("{'@' = 1}"), published("1"), published("", "policies = {'@' = 1}"),
    ),
    "plan run x.json": (
        *(plan(schema="@"), plan(first=KERNEL.replace("a.json", "@")), plan(second=KERNEL)),
        *(plan(first=KERNEL.replace('l":"a"', 'l":"@"').replace('e":"a"', 'e":"@"')), plan("#")),
        *(plan(arguments='"--@"'), plan(arguments='"@"'), plan(arguments='"--runs","@"')),
        *(plan().replace('"seed"', '"@"'), plan().replace(":1,", ":#,")),
    ),
    "compare x.json x.json": (
        *(ours(SERIES.replace("noisy", "@")), ours(SERIES.replace("workload", "@"))),
        *(ours(SERIES, '"@":1,'), ours(SERIES).replace("result/1", "@"), '{"schema":"@"}'),
        ours(f"{SERIES},{SERIES}".replace('"w"', '"@"')), ours(SERIES.replace("[1]", '["@"]')),
        ours(SERIES.replace("[1]", '[1],"counts":{"@":1e300}')), ours(SERIES.replace("[1]", "[#]")),
        '{"schema":"kvmbench.result/#"}',
        *('{"@":1}', '["@"]', '{"benchmarks":[{"name":"@","stats":{"median":"@"}}]}'),
        *(f'{{"version":"{version}","benchmarks":[{{"metadata":{{"unit":"@","name":"a"}},'
          '"runs":[{"values":[1]}]}]}' for version in ("@", "1.0")),
        *('{"results":[{"command":"@"}]}', '{"results":[{"command":"a","times":["@"]}]}'),
        *("Benchmark@ x 1 ns", "Benchmark 1 @ ns", "Benchmark 1 1 ns\nUnit @ a=b\nUnit @ a=c"),
        *("workload,value,@\na,1,2", "workload,value\na,@", "workload,value\n@,1", "cpuid @", "@"),
        *("workload,value,kind\na,1,@", "workload,value,block\na,1,@", "npf@ 5\nnpf 5\ncpuid 1"),
    ),
    "show ./x.toml": ("'@' = 1", "[p]\n'@' = 1", "tasks = '@'", "rows = ['@']"),
    "run --workload-file x.py": (
        *("raise ValueError('@')", "WORKLOADS = ['@']", "WORKLOADS = '@'", "x = '@", "@"),
        "from kvmbench import Workload\nWORKLOADS = [Workload('@ ')]",
        "from kvmbench import Workload\nWORKLOADS = [Workload('a', exits=('@',))]",
        "from kvmbench import Workload\nWORKLOADS = [Workload('a', guest=['@'])]",
        "from kvmbench import Workload\nWORKLOADS = [Workload('a')] * 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", STRANGE)
def test_a_line_about_a_file_is_short_whatever_the_file_quotes(command):
    for text in STRANGE[command]:
        for words in LONG:
            for number in ("9" * 4000, "0x" + "f" * 4000, "-" + "9" * 400):
                arguments = command.split()
                Path(arguments[-1]).write_text(text.replace("@", words).replace("#", number))
                done = no_raw(invoke(*arguments))
                if done.exit_code:  # some of them are not wrong
                    assert done.stderr.count("\n") == 1, (text, done.stderr[:500])
                    assert len(done.stderr) <= 400, (text, len(done.stderr), done.stderr[:500])
                if "#" not in text:
                    break
