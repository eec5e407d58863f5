"""Named things from TOML: what ships, and what a user's file may and may not say."""

import re
from pathlib import Path

import pytest

import kvmbench
from kvmbench import Machine, load_policies, load_profile, policies, profiles
from kvmbench.catalog import load_published, policy_toml, published
from kvmbench.errors import FileError
from kvmbench.model import BASES, HOOKS, Policy

# The patch's table: Linux b7ffc44d5b2e.
BEFORE_AFTER = {
    "cpuid": (1313, 1291),
    "vmcall": (1195, 1181),
    "mov_from_cr8": (11, 11),
    "mov_to_cr8": (17, 16),
    "inl_from_pmtimer": (6770, 6457),
    "inl_from_qemu": (6856, 6209),
    "inl_from_kernel": (2435, 2339),
    "outl_to_kernel": (1402, 1391),
}
USER = ("inl_from_pmtimer", "inl_from_qemu")
DATA = Path(kvmbench.__file__).parent / "data"

# docs/model.md, section 5

COPY, WIPE = "copy_map if next.tif", "wipe_map if prev.tif and not next.tif"
IOPERM = ("alloc_map", "set_tif if first", ("edit_map", "load_map"))
CALLS = dict(
    fork=(("dup_map if tif", "set_child_tif if tif", "inherit_iopl"),),
    fork_failed=(("drop_child_map", "clear_child_tif"),),
    iopl=(("set_iopl if on", "clear_iopl if not on"),),
    exec=(("clear_iopl",),),
    exit_to_user=(("load_iopl",),),
)
OLD = dict(**CALLS, switch=((COPY, WIPE),), task_exit=(("clear_tif", "wipe_own", "drop_map"),))
PUT = (("reload if tif", "mark_stale if not tif"),)
BUILT_IN = {
    "eager": dict(**OLD, ioperm=IOPERM, vcpu_put=(("reload",),)),
    "deferred": dict(
        **CALLS,
        vcpu_put=PUT,
        switch=((COPY, "refresh if next.tif", WIPE),),
        ioperm=("alloc_map", "set_tif if first", ("refresh if first",), ("edit_map", "load_map")),
        task_exit=OLD["task_exit"],
    ),
    "exit-to-user": dict(
        io_base_at_start="invalid",
        vcpu_put=PUT,
        switch=(("invalidate_base if prev.tif",),),
        ioperm=(
            *("stop if first and not on", ("alloc_map", "unshare_map"), "set_tif", "edit_map"),
            (
                *("clear_tif if empty and not iopl", "drop_map if empty"),
                "invalidate_base if empty and not iopl",
            ),
        ),
        exit_to_user=(
            (
                *("sync_map if tif and not iopl", "validate_base if tif and not iopl"),
                *("validate_all if tif and iopl", "refresh if tif"),
            ),
        ),
        task_exit=(("invalidate_base if tif", "clear_tif", "drop_map"),),
        fork=(("share_map if tif", "set_child_tif if tif", "inherit_iopl"),),
        fork_failed=CALLS["fork_failed"],
        iopl=(
            (
                *("set_iopl if on", "clear_iopl if not on", "set_tif if on"),
                *("clear_tif if not on and empty", "invalidate_base if not on and empty"),
            ),
        ),
        exec=(("clear_iopl", "clear_tif if empty", "invalidate_base if empty"),),
    ),
    "every-exit": dict(**OLD, ioperm=IOPERM, vm_exit=(("reload",),)),
}


def test_policies():
    assert list(policies()) == list(BUILT_IN)
    for name, expected in BUILT_IN.items():
        found = policies()[name]
        assert (found.name, found.io_base_at_start) == (
            name,
            expected.get("io_base_at_start", "valid"),
        )
        assert {hook: getattr(found, hook) for hook in HOOKS} == {
            hook: expected.get(hook, ()) for hook in HOOKS
        }
        assert found.about


def second_exit(policy, profile, kind):
    machine = Machine(1, 1, policy, profile)
    machine.switch(0, 0)
    machine.exit(0, kind)
    return machine.exit(0, kind)


@pytest.mark.parametrize(
    ("profile", "kind", "eager", "deferred"),
    [
        # gdt_write + ltr - mark = 20 + 462 - 2 = 480 for both userspace rows
        ("patch-2017", "inl_from_pmtimer", 6937, 6457),
        ("patch-2017", "inl_from_qemu", 6689, 6209),
        ("patch-2017-replay", "inl_from_pmtimer", 6770, 6457),
        ("patch-2017-replay", "inl_from_qemu", 6856, 6209),
    ],
)
def test_userspace_rows(profile, kind, eager, deferred):
    assert second_exit("eager", profile, kind) == eager
    assert second_exit("deferred", profile, kind) == deferred
    assert second_exit("exit-to-user", profile, kind) == deferred


@pytest.mark.parametrize("policy", ["eager", "deferred", "exit-to-user"])
@pytest.mark.parametrize("kind", [kind for kind in BEFORE_AFTER if kind not in USER])
@pytest.mark.parametrize("profile", ["patch-2017", "patch-2017-replay"])
def test_light_rows_are_after(profile, kind, policy):
    assert second_exit(policy, profile, kind) == BEFORE_AFTER[kind][1]


@pytest.mark.parametrize("profile", profiles().values(), ids=profiles())
def test_every_figure_says_where_it_comes_from(profile):
    assert {*profile.provenance} == {*profile.figures()}
    for origin in profile.provenance.values():
        assert origin.basis in BASES
        assert len(origin.source) > 10
    assert profile.about


def test_profiles_and_their_files():
    assert {*profiles()} >= {"patch-2017", "patch-2017-replay"}
    for name, profile in profiles().items():
        assert profile.name == name
        assert load_profile(DATA / "profiles" / f"{name}.toml") == profile
    assert [kind.name for kind in profiles()["patch-2017"].kinds] == list(BEFORE_AFTER)
    assert load_policies(DATA / "policies.toml") == policies()


def test_provenance_of_the_patch():
    profile = profiles()["patch-2017"]
    found = {figure: origin.basis for figure, origin in profile.provenance.items()}
    light = [f"kinds.{kind}.cycles" for kind in BEFORE_AFTER if kind not in USER]
    fitted = ["costs.ltr", *(f"kinds.{kind}.user_cycles" for kind in USER)]
    assert {figure for figure, basis in found.items() if basis == "published"} == set(light)
    assert {figure for figure, basis in found.items() if basis == "fitted"} == set(fitted)


# Published tables

FILES = sorted((DATA / "published").glob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_published_files(path):
    table = load_published(path)
    assert table == published()[path.stem]
    assert table.name == path.stem
    assert table.better in ("lower", "higher")
    assert table.order in ("kept", "lost", "")
    assert table.source.startswith("https://")
    assert re.match(r"\d{4}(-\d\d(-\d\d)?)?$", table.date)
    assert table.rows
    assert {row.configuration for row in table.rows} == set(table.configurations)
    assert set(table.policies) <= set(table.configurations)
    assert set(table.policies.values()) <= set(policies())
    assert bool(table.order) == any(row.values for row in table.rows)
    keys = [(row.name, row.configuration) for row in table.rows]
    assert len(set(keys)) == len(keys)
    for row in table.rows:
        assert row.value > 0
        assert table.value(row.name, row.configuration) == row.value
        assert not row.values or min(row.values) <= row.value <= max(row.values)


def test_published_patch():
    table = published()["patch-2017"]
    assert {(row.name, row.configuration): row.value for row in table.rows} == {
        (name, configuration): value
        for name, values in BEFORE_AFTER.items()
        for configuration, value in zip(("Before", "After"), values, strict=True)
    }
    assert table.configurations == ("Before", "After")
    assert table.policies == {"Before": "eager", "After": "deferred"}
    assert (table.unit, table.better, table.date) == ("cycles", "lower", "2017-02-21")
    assert table.value("cpuid", "Before") == 1313
    assert table.value("cpuid", "before") is None
    assert table.value("cpuidd", "Before") is None


# A user's file


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "mine.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_load_policies(file):
    path = file(
        """
        [mine]
        about = "a reload on the way out"
        io_base_at_start = "invalid"
        vcpu_put = [
            ["reload if tif", "mark_stale"],    # a region
            "stop",
        ]
        ["mine-too"]
        """
    )
    assert load_policies(path) == load_policies(str(path))
    assert load_policies(path) == {
        "mine": Policy(
            "mine",
            vcpu_put=[["reload if tif", "mark_stale"], "stop"],
            io_base_at_start="invalid",
            about="a reload on the way out",
        ),
        "mine-too": Policy("mine-too"),
    }


BASE = profiles()["patch-2017"]
EXTENDS = 'name = "mine"\nextends = "patch-2017"\n'


def test_extends_keeps_everything(file):
    mine = load_profile(file(EXTENDS))
    assert (mine.name, mine.costs, mine.kinds) == ("mine", BASE.costs, BASE.kinds)
    assert mine.provenance == BASE.provenance


def test_extends_changes_figures_and_their_provenance(file):
    mine = load_profile(
        file(
            EXTENDS
            + """
            tsc_hz = 2_600_000_000
            about = "mine"
            [costs]
            ltr = 300
            mark = 2
            [kinds.cpuid]
            cycles = 1000
            [kinds.vmcall]
            overlap = 7
            [kinds.rdmsr]
            cycles = 1500
            [[provenance]]
            figures = ["costs.ltr", "kinds.r*.cycles"]
            basis = "measured"
            source = "on my desk"
            """
        )
    )
    changed = {
        "costs.ltr": 300,
        "kinds.cpuid.cycles": 1000,
        "kinds.vmcall.overlap": 7,
        "kinds.rdmsr.cycles": 1500,
        "kinds.rdmsr.user_cycles": 0,
        "kinds.rdmsr.overlap": 0,
    }
    assert mine.figures() == BASE.figures() | changed
    assert [kind.name for kind in mine.kinds] == [*BEFORE_AFTER, "rdmsr"]
    assert not mine.kinds[2].exits
    assert mine.kinds[4].user
    assert (mine.tsc_hz, mine.about) == (2_600_000_000, "mine")
    stated = {"costs.ltr", "kinds.rdmsr.cycles"}
    for figure in mine.figures():
        origin = mine.origin(figure)
        if figure in stated:
            assert (origin.basis, origin.source) == ("measured", "on my desk")
        elif figure in changed:
            assert figure not in mine.provenance
            assert origin.basis == "assumed"
        else:
            assert origin == BASE.provenance[figure]


def test_later_provenance_wins(file):
    mine = load_profile(
        file(
            EXTENDS
            + """
            [[provenance]]
            figures = ["costs.*"]
            basis = "measured"
            source = "all of them"
            [[provenance]]
            figures = ["costs.l?r"]
            basis = "fitted"
            source = "but this one"
            """
        )
    )
    bases = {figure: mine.origin(figure).basis for figure in mine.figures()}
    assert bases["costs.ltr"] == "fitted"
    assert bases["costs.mark"] == "measured"
    assert bases["kinds.cpuid.cycles"] == "published"


COSTS = "[costs]\n" + "".join(
    f"{figure.removeprefix('costs.')} = 1\n" for figure in BASE.figures() if "costs" in figure
)


def test_a_profile_of_its_own(file):
    mine = load_profile(file(f'name = "mine"\n{COSTS}[kinds.cpuid]\ncycles = 5\nexits = false\n'))
    assert {value for figure, value in mine.figures().items() if "costs" in figure} == {1}
    assert [(kind.name, kind.cycles, kind.exits) for kind in mine.kinds] == [("cpuid", 5, False)]
    assert (mine.tsc_hz, mine.about, dict(mine.provenance)) == (None, "", {})
    assert load_profile(file(f'name = "mine"\n{COSTS}')).kinds == ()


# What is wrong with a file, and where

POLICY_ERRORS = {
    "table": ("[mine\n", 1, "", "not TOML: Expected ']' at the end of a table declaration"),
    "value": ("[mine]\nswitch = \n", 2, "", "not TOML: Invalid value"),
    "end": ("[mine]\nswitch = [\n", 3, "", "not TOML: "),
    "twice": ("[mine]\nswitch = []\nswitch = []\n", 3, "", "not TOML: Cannot overwrite a value"),
    "key": (
        "[mine]\n\nvcpu_putt = []\n",
        *(3, "mine.vcpu_putt", "unknown key 'vcpu_putt'; did you mean 'vcpu_put'?"),
    ),
    "step": (
        '[mine]\nvm_exit = []\nvcpu_put = ["stop", ["relod"]]\n',
        *(3, "mine.vcpu_put", "'relod': unknown step 'relod'; did you mean 'reload'?"),
    ),
    "condition": (
        '[mine]\nvm_exit = ["reload if tiff"]\n',
        *(2, "mine.vm_exit", "'reload if tiff': unknown condition 'tiff'; did you mean 'tif'?"),
    ),
    "place": (
        '[mine]\nvm_exit = ["edit_map"]\n',
        *(2, "mine.vm_exit", "step 'edit_map' makes sense in ioperm only"),
    ),
    "second table": (
        '[mine]\nvm_exit = []\n\n[yours]\nvm_exit = ["edit_map"]\n',
        *(5, "yours.vm_exit", "makes sense in ioperm only"),
    ),
    "inline table": (
        'mine = { vm_exit = ["edit_map"] }\n',
        *(1, "mine.vm_exit", "makes sense in ioperm only"),
    ),
    "dotted key": ('mine.vm_exit = ["ltrr"]\n', 1, "mine.vm_exit", "unknown step 'ltrr'"),
    "quoted table": ('\n["mine"]\nvm_exit = ["x"]\n', 3, "mine.vm_exit", "unknown step 'x'"),
    "after lines that look like tables": (
        '[mine]\nswitch = [\n    ["refresh"],\n]\nioperm = ["x"]\n',
        *(5, "mine.ioperm", "unknown step 'x'"),
    ),
    "number": ("[mine]\nswitch = 5\n", 2, "mine.switch", "5, not a list of steps"),
    "string": ('[mine]\nswitch = "stop"\n', 2, "mine.switch", "'stop', not a list of steps"),
    "entry": ("[mine]\nswitch = [5]\n", 2, "mine.switch", "5 is neither a step nor a list"),
    "nested": ('[mine]\nswitch = [[["stop"]]]\n', 2, "mine.switch", "is neither a step nor a"),
    "base": (
        '[mine]\n\nio_base_at_start = "vlid"\n',
        *(3, "mine.io_base_at_start", "'vlid', not 'valid' or 'invalid'"),
    ),
    "dot in a name": (
        "\n[linux-5.5]\nvcpu_put = []\n",
        *(2, "linux-5.5", 'a name with a dot needs quotes: ["linux-5.5"]'),
    ),
    "dots in a name": (
        "[v5.5.1]\nvcpu_put = []\n",
        *(1, "v5.5.1", 'a name with a dot needs quotes: ["v5.5.1"]'),
    ),
    "no table": ("mine = 5\n", 1, "mine", "expected a table, found 5"),
    "about": ("[mine]\nabout = 5\n", 2, "mine.about", ""),
    "name": ('\n[""]\n', 2, "", "policy name is '', not a printable, non-empty string"),
}

PROVENANCE = '\n[[provenance]]\nfigures = ["costs.ltr"]\nbasis = "measured"\nsource = "me"\n'
PROFILE_ERRORS = {
    "not TOML": ("name = mine\n", 1, "", "not TOML: Invalid value"),
    "name": ("\nname = 5\n" + COSTS, 2, "name", "expected a string, found 5"),
    "key": (EXTENDS + "tcs_hz = 1\n", 3, "tcs_hz", "unknown key 'tcs_hz'; did you mean 'tsc_hz'?"),
    "extends": (
        'name = "mine"\n\nextends = "patch-2071"\n',
        *(3, "extends", "unknown built-in profile 'patch-2071'; did you mean 'patch-2017'?"),
    ),
    "extends a number": (
        'name = "mine"\nextends = 5\n',
        2,
        "extends",
        "expected a string, found 5",
    ),
    "no costs": ('name = "mine"\n', 1, "costs", "'irq_exit' is missing"),
    "missing cost": (
        '\nname = "mine"\n' + COSTS.replace("ltr = 1\n", ""),
        *(3, "costs", "'ltr' is missing"),
    ),
    "unknown cost": (
        EXTENDS + "[costs]\nlrt = 1\n",
        *(4, "costs.lrt", "unknown key 'lrt'; did you mean 'ltr'?"),
    ),
    "string": (EXTENDS + '[costs]\nltr = "1"\n', 4, "costs.ltr", "'1', not an integer"),
    "float": (EXTENDS + "[costs]\n\nltr = 1.0\n", 5, "costs.ltr", "1.0, not an integer"),
    "flag": (EXTENDS + "[costs]\nltr = true\n", 4, "costs.ltr", "True, not an integer"),
    "negative": (EXTENDS + "costs.ltr = -1\n", 3, "costs.ltr", "-1, not in 0 to 4294967295"),
    "huge": (EXTENDS + "costs.ltr = 4294967296\n", 3, "costs.ltr", "4294967296, not in 0 to"),
    "costs": (EXTENDS + "costs = 5\n", 3, "costs", "expected a table, found 5"),
    "kinds": (EXTENDS + "kinds = []\n", 3, "kinds", "expected a table, found []"),
    "kind": (EXTENDS + "[kinds]\ncpuid = 5\n", 4, "kinds.cpuid", "expected a table, found 5"),
    "kind's key": (
        EXTENDS + "[kinds.cpuid]\ncycels = 5\n",
        *(4, "kinds.cpuid.cycels", "unknown key 'cycels'; did you mean 'cycles'?"),
    ),
    "kind's cycles": (
        EXTENDS + "[kinds.cpuid]\ncycles = 5\n[kinds.rdmsr]\nuser = true\n",
        *(5, "kinds.rdmsr", "'cycles' is missing"),
    ),
    "kind's figure": (
        EXTENDS + "[kinds.rdmsr]\ncycles = -5\n",
        *(4, "kinds.rdmsr.cycles", "-5, not in 0 to 4294967295"),
    ),
    "kind's flag": (
        EXTENDS + "[kinds.cpuid]\nexits = 1\n",
        *(4, "kinds.cpuid.exits", "1, not true or false"),
    ),
    "kind's flags": (
        EXTENDS + "[kinds.mov_to_cr8]\nuser = true\n",
        *(3, "kinds.mov_to_cr8", "user needs exits"),
    ),
    "kind of two words": (
        EXTENDS + '[kinds."rdmsr TSC"]\ncycles = -5\n',
        *(4, "kinds.rdmsr TSC.cycles", "-5, not in 0 to 4294967295"),
    ),
    "kind without a name": (EXTENDS + '[kinds.""]\ncycles = 5\n', 3, "", "kind name is ''"),
    "tsc_hz": (EXTENDS + 'tsc_hz = "2 GHz"\n', 3, "tsc_hz", "'2 GHz', not an integer"),
    "about": (EXTENDS + "about = 5\n", 3, "about", ""),
    "provenance": (EXTENDS + "provenance = 5\n", 3, "provenance", "expected a list, found 5"),
    "provenance table": (
        EXTENDS + PROVENANCE.replace("[[provenance]]", "[provenance]"),
        *(4, "provenance", "expected a list, found {"),
    ),
    "provenance's key": (
        EXTENDS + PROVENANCE.replace("source", "sauce"),
        *(7, "provenance", "entry 1: sauce: unknown key 'sauce'; did you mean 'source'?"),
    ),
    "basis": (
        EXTENDS + PROVENANCE.replace("measured", "mesured"),
        *(4, "provenance", "entry 1: unknown basis 'mesured'; did you mean 'measured'?"),
    ),
    "source": (
        EXTENDS + PROVENANCE.replace('"me"', '" "'),
        *(4, "provenance", "entry 1: source is empty"),
    ),
    "figure": (
        EXTENDS + PROVENANCE.replace("ltr", "lrt"),
        *(4, "provenance", "entry 1: unknown figure 'costs.lrt'; did you mean 'costs.ltr'?"),
    ),
    "figures": (
        EXTENDS + PROVENANCE.replace('["costs.ltr"]', "5"),
        *(5, "provenance", "entry 1: figures: expected a list, found 5"),
    ),
    "second provenance": (
        EXTENDS + PROVENANCE + PROVENANCE.replace("costs.ltr", "kinds.x"),
        *(9, "provenance", "entry 2: unknown figure 'kinds.x'"),
    ),
}


@pytest.mark.parametrize(
    ("load", "text", "line", "key", "message"),
    [
        pytest.param(load, *case, id=f"{load.__name__} {name}")
        for load, cases in ((load_policies, POLICY_ERRORS), (load_profile, PROFILE_ERRORS))
        for name, case in cases.items()
    ],
)
def test_file_errors(file, load, text, line, key, message):
    path = file(text)
    with pytest.raises(FileError) as caught:
        load(path)
    found = str(caught.value)
    assert found.startswith(f"{path}:{line}: {key + ': ' if key else ''}")
    assert message in found
    assert "\n" not in found


@pytest.mark.parametrize("load", [load_policies, load_profile, load_published])
def test_not_utf8(file, load):
    path = file(b'name = "x"\nabout = "\xff"\n')
    with pytest.raises(FileError, match=re.escape(f"{path}:2: not UTF-8: invalid start byte")):
        load(path)


@pytest.mark.parametrize(
    ("load", "text", "message"),
    [
        (load_policies, "", "no policy: expected one table a policy"),
        (load_policies, "# nothing\n", "no policy: expected one table a policy"),
        (load_profile, "", "'name' is missing"),
        (load_profile, COSTS, "'name' is missing"),
        (load_published, "", "'name' is missing"),
    ],
)
def test_errors_of_a_whole_file(file, load, text, message):
    path = file(text)
    with pytest.raises(FileError, match=rf"^{re.escape(str(path))}(:1)?: {message}"):
        load(path)


@pytest.mark.parametrize("load", [load_policies, load_profile, load_published])
def test_no_file(tmp_path, load):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.toml")
    with pytest.raises(OSError, match="directory"):
        load(tmp_path)


PUBLISHED = """\
name = "mine"
title = "a table"
change = "none"
date = 2020-02
hardware = "a desk"
source = "https://example.org"
note = ""
unit = "cycles"
better = "lower"
configurations = ["old", "new"]
rows = [{ name = "cpuid", configuration = "old", value = 5 }]
""".replace("2020-02", '"2020-02"')


def test_load_published(file):
    table = load_published(file(PUBLISHED))
    assert (table.name, table.date, table.order, dict(table.policies)) == (
        "mine",
        "2020-02",
        "",
        {},
    )
    assert (table.value("cpuid", "old"), table.value("cpuid", "new")) == (5, None)


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "message"),
    [
        ('note = ""', "note = 5", 7, "note", "expected a string, found 5"),
        ('note = ""', 'notes = ""', 7, "notes", "unknown key 'notes'; did you mean 'note'?"),
        ('"old", v', '"odl", v', 11, "rows", "row 1: unknown configuration 'odl'; did you mean"),
        ("value", "valeu", 11, "rows", "row 1: "),
        ("rows = [{", "rows = [{}, {", 11, "rows", "row 1: "),
        (
            'rows = [{ name = "cpuid", configuration = "old", value = 5 }]',
            "rows = 5",
            11,
            "rows",
            "",
        ),
        ('["old", "new"]', "5", 10, "configurations", ""),
        ('date = "2020-02"', "policies = 5\ndate = 2020", 4, "policies", ""),
    ],
)
def test_published_errors(file, old, new, line, key, message):
    assert old in PUBLISHED
    path = file(PUBLISHED.replace(old, new))
    with pytest.raises(FileError) as caught:
        load_published(path)
    assert str(caught.value).startswith(f"{path}:{line}: {key}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", [*policies(), "odd"])
def test_a_policy_as_its_file(name, tmp_path):
    odd = Policy('a "b".c', ioperm=("alloc_map", ("edit_map if on and not first",)), about="\n\\é")
    policy = policies().get(name, odd)
    path = tmp_path / "again.toml"
    path.write_text(policy_toml(policy))
    assert load_policies(path) == {policy.name: policy}
