"""The README does what it says: its commands print what stands there, its examples run."""

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import kvmbench
from kvmbench import catalog
from kvmbench.cli.main import main
from kvmbench.results import Boot, Result, Run, Series, write
from kvmbench.tests import consoles, readme_pictures

README = consoles.ROOT / "README.md"
if not README.exists():
    pytest.skip("the package is installed without its README", allow_module_level=True)
TEXT = README.read_text()
EXTENDING = (README.parent / "docs" / "extending.md").read_text()
CONSOLE = [
    (page.name, *block) for page in consoles.pages() for block in consoles.blocks(page.read_text())
]
FILES = {
    name: body
    for body, name in re.findall(
        r"```(?:toml|python)\n(# (\w+\.(?:toml|py)).*?)```", EXTENDING, re.DOTALL
    )
}
INDENTED = re.compile(r"^    kvmbench (.*?)(?: +#.*)?$", re.MULTILINE)
COMMANDS = INDENTED.findall(TEXT + EXTENDING)
EXAMPLES = {
    (page.name, command)
    for page in consoles.pages()
    for command in INDENTED.findall(page.read_text().replace("\\\n", " "))
    if command not in COMMANDS and not command.startswith("-")
}


def test_readme_has_what_is_tested():
    assert len(TEXT.splitlines()) <= 130
    assert len(CONSOLE) >= 6
    assert set(FILES) == {"lazy.toml", "mine.toml", "mine.py"}
    assert len(COMMANDS) >= 9
    assert len(EXAMPLES) >= 40


def test_the_index_names_every_page():
    index = (README.parent / "docs" / "index.md").read_text()
    assert all(
        f"({page.name})" in index for page in consoles.pages()[1:] if page.name != "index.md"
    )


def test_links_lead_somewhere():
    for page in consoles.pages():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize(("page", "command", "output"), CONSOLE)
def test_console(page, command, output, monkeypatch):
    monkeypatch.chdir(README.parent)
    shown = consoles.stable(command, consoles.run(command))
    assert shown == consoles.stable(command, output), f"{page}: {command}"


def test_pictures_are_drawn_by_their_command():
    committed = {path.name: path.read_text() for path in readme_pictures.FOLDER.glob("*")}
    assert committed == readme_pictures.pictures()
    assert all(f"docs/pictures/{name})" in TEXT for name in committed)


@pytest.mark.parametrize("name", FILES)
def test_files_are_the_examples(name):
    assert (README.parent / "examples" / "mine" / name).read_text() == FILES[name]


@pytest.fixture
def examples(tmp_path, monkeypatch):
    for name, body in FILES.items():
        (tmp_path / name).write_text(body)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def measured(tmp_path):
    """The results that the README's commands take: eight runs, and what vmexit printed."""
    runs = [
        Run(
            time=f"2026-11-26T10:0{number}:00+00:00",
            series=[Series(workload="inl_from_qemu", kind="noisy", values=[6200 + number % 3])],
        )
        for number in range(8)
    ]
    result = Result(boots=[Boot(runs=runs)])
    (tmp_path / "results").mkdir()
    for name in (
        "before.json",
        "after.json",
        "main.json",
        "pr.json",
        "results/main.json",
        "results/before.json",
        "results/after.json",
    ):
        write(tmp_path / name, result)
    recording = Path(__file__).with_name("recordings") / "hand-counted.txt"
    (tmp_path / "perf.txt").write_text(recording.read_text())
    profile = catalog.profile_toml(catalog.profiles()["patch-2017"])
    (tmp_path / "cpu.toml").write_text(profile)
    for name in ("a.log", "b.log"):
        (tmp_path / name).write_text("cpuid 1291\nvmcall 1181\n")
    return tmp_path


def parsed(command):
    """Return the options and arguments that the command line has, without running it."""
    words = re.sub(r"\$\w+", "1", command.partition(" > ")[0])  # as a shell has it
    name, chosen, arguments = "kvmbench", main, shlex.split(words)
    while isinstance(chosen, click.Group):
        if name == "sweep" and arguments[0] not in chosen.commands:
            arguments.insert(0, "run")
        name, chosen, arguments = chosen.resolve_command(click.Context(chosen), arguments)
    return chosen.make_context(name, arguments).params


@pytest.mark.parametrize(("page", "command"), sorted(EXAMPLES))
def test_commands_of_the_pages_have_their_options(page, command):
    assert parsed(command), page


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command, examples, measured):
    if command.startswith(("measure", "check-io", "lab", "sweep")):  # minutes; other tests run them
        assert parsed(command)
        return
    if "--save" in command:
        (measured / "results" / "main.json").unlink()
    result = CliRunner().invoke(main, shlex.split(command))
    assert result.exit_code == 0, result.output


def test_the_example_of_a_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (README.parent / "docs" / "report.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(example, {})
    assert "-22.2 % faster" in re.sub(" +", " ", Path("moved.html").read_text())


def test_lazy_policy_neither_leaks_nor_denies(examples):
    hooks = tomllib.loads(FILES["lazy.toml"])["lazy"]
    policy = kvmbench.Policy("lazy", **hooks)
    machine = kvmbench.Machine(1, 2, policy, "patch-2017")
    for _ in range(2):
        machine.switch(0, 0)
        machine.exit(0, "inl_from_qemu")
        machine.ioperm(0, 0x378, 3)
        for _ in range(3):
            machine.exit(0, "inl_from_qemu")
            assert machine.io(0, 0x378, 1)[0]
        machine.exit(0, "cpuid")
        machine.switch(0, 1)
        assert not machine.io(0, 0x378, 1)[0]
    assert machine.counters[["leaks", "denials", "faults"]].tolist() == [(0, 0, 0)]


def test_python_example(capsys):
    (example,) = re.findall(r"```python\n(from kvmbench import Machine.*?)```", TEXT, re.DOTALL)
    (gated,) = re.findall(r"```python\n(from kvmbench import Machine.*?)```", EXTENDING, re.DOTALL)
    names = {}
    exec(example, names)
    host = names["host"]
    assert host.cpu["cycles"][0] > 10**12 * 1291
    assert names["allowed"] is True
    # 2000 for the switch, then After of the row; the delay is the IO's.
    assert names["delay"] == 500
    assert names["reloads"] == host.counters["reloads"][0]
    assert len(names["table"]) == 8
    said = capsys.readouterr().out
    assert "eager -> deferred" in said
    assert "safe" in said
    fresh = kvmbench.Machine(1, 1, "deferred", "patch-2017")
    fresh.switch(0, 0)
    assert fresh.exit(0, "inl_from_qemu") == 6209
    exec(gated, names)
    names["test_inl_from_qemu"](lambda machine, function, *given: function(*given))


@pytest.mark.parametrize("page", ["start.md", "formats.md"])
def test_python_of_the_pages(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (README.parent / "docs" / page).read_text()
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, {})
    assert capsys.readouterr().out
