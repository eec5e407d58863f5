"""The pytest plugin: the fixture `cycle_benchmark`, and a gate on the figures that it takes.

    def test_inl_deferred(cycle_benchmark):
        machine = Machine(1, 1, "deferred", "patch-2017")
        machine.switch(0, 0)
        assert cycle_benchmark(machine, machine.exit, 0, "inl_from_qemu") == 6209

The figure is the advance of the machine's clocks while the function runs. pytest-benchmark, where
it is installed, shows it in its table and JSON (`extra_info`, exact integers), in the group
"cycles" unless the test's marker names another. Its --benchmark-histogram and its command
`pytest-benchmark compare` know only seconds; `kvmbench compare` reads baselines and that JSON.

`--cycles-baseline FILE` fails the session where a figure differs from the baseline, or a test is
missing in either. `--cycles-update` writes the baseline. Every pytest session imports this file
where kvmbench is installed, so it imports little. PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from kvmbench._core import Machine
    from kvmbench.baseline import Figure
    from kvmbench.results import Result

__all__ = ["CycleBenchmark"]

T = TypeVar("T")
Clock = Callable[[], int]
Reading = dict[str, int]  # "" -> the clock, "reloads" -> LTRs, a segment -> its cycles
Bench = dict[str, Any]  # a benchmark, as pytest-benchmark's hooks and JSON have it
Groups = list[tuple[str | None, list[Bench]]]

FIXTURE, GROUP, UNIT = "cycle_benchmark", "cycles", "cycles"
FIGURE = "kvmbench_figure"  # attribute of a test's report, which pytest-xdist carries along


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kvmbench", "simulated cycles (kvmbench)")
    group.addoption(
        "--cycles-baseline", metavar="FILE",
        help="Fail where a cycle_benchmark figure is not that of FILE, or a test is missing on "
        "either side. Empty: no gate. Default: the ini value cycles_baseline.",
    )  # fmt: skip
    group.addoption(
        "--cycles-update", action="store_true",
        help="Write the baseline instead; refused where a test failed or a test of the old "
        "baseline was not run.",
    )  # fmt: skip
    parser.addini("cycles_baseline", "FILE of --cycles-baseline, relative to the ini file.")


def pytest_configure(config: pytest.Config) -> None:
    # The hooks have a specification where pytest-benchmark is, whatever its plugin is called.
    hook = getattr(config.hook, "pytest_benchmark_scale_unit", None)
    present = hook is not None and hook.has_spec()
    config.pluginmanager.register(WithBenchmark() if present else Alone(), "kvmbench-fixture")
    baseline = _baseline(config)
    update = config.getoption("cycles_update")
    if update and baseline is None:
        raise pytest.UsageError("--cycles-update: which file? Give --cycles-baseline FILE too")
    if baseline is not None:
        config.pluginmanager.register(Courier(), "kvmbench-courier")
        if not hasattr(config, "workerinput"):  # of pytest-xdist: the gate is the controller's
            config.pluginmanager.register(Gate(config, baseline, update), "kvmbench-gate")


def _baseline(config: pytest.Config) -> Path | None:
    given = config.getoption("cycles_baseline")
    if given is not None:
        return config.invocation_params.dir / given if given else None
    named = config.getini("cycles_baseline")
    return (config.inipath or config.rootpath / "ini").parent / named if named else None


# The fixture


class CycleBenchmark:
    """Takes the simulated cycles of a function, once in a test."""

    def __init__(self, benchmark: Any = None, elapsed: list[int] | None = None) -> None:
        self.figure: Figure | None = None
        self._benchmark = benchmark  # pytest-benchmark's fixture
        self._elapsed = elapsed if elapsed is not None else [0]  # cycles of all rounds so far
        self._used = False

    def __call__(
        self, clock: Machine | Clock, function: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> T:
        """Call `function` once with the other arguments and return its result.

        The figure is the advance of `clock`: a Machine, summed over its CPUs, or any callable that
        returns an integer. Raises RuntimeError when the test has its figure already, TypeError
        for another clock, ValueError where the clock goes back.
        """
        return self.pedantic(clock, function, args, kwargs)

    def pedantic(
        self, clock: Machine | Clock, function: Callable[..., T], args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None, *, setup: Callable[[], Any] | None = None,
        rounds: int = 1, cpu: int | None = None,
    ) -> T:  # fmt: skip
        """Call `function` `rounds` times, 1 or more, and return its last result.

        `setup` runs before each round, outside the figure; its result, unless None, is (args,
        kwargs) of the round. `cpu` chooses one CPU of a Machine. The figure keeps each round.
        Raises as a plain call does, and IndexError for a CPU that the machine does not have.
        """
        from kvmbench.baseline import Figure
        from kvmbench.model import MODEL_VERSION

        if self._used:
            raise RuntimeError(
                "cycle_benchmark is used twice in this test, and a test has one figure: "
                "make it two tests, parametrize it, or take several rounds with pedantic()"
            )
        self._used = True
        if rounds < 1:
            raise ValueError(f"rounds is {rounds}, not 1 or more")
        read, facts = _reader(clock, cpu)
        taken: list[Reading] = []

        def step() -> T:
            given, named = args, kwargs or {}
            made = setup() if setup else None
            if made is not None:
                given, named = made
            before = read()
            value = function(*given, **named)
            spent = {name: now - before[name] for name, now in read().items()}
            if min(spent.values()) < 0:
                back = -min(spent.values())
                raise ValueError(f"the clock went back by {back} while the function ran")
            if len(taken) < rounds:  # profiled by pytest-benchmark, it runs once more
                taken.append(spent)
            self._elapsed[0] += spent[""]
            return value

        if self._benchmark is None:
            value = step()
        else:
            # Known before the first round: a test that fails has a row in the table too.
            self._benchmark.extra_info["unit"] = UNIT
            value = self._benchmark.pedantic(step, rounds=rounds)
        while len(taken) < rounds:  # disabled, pytest-benchmark runs one
            value = step()
        lists = {name: [spent[name] for spent in taken] for name in taken[0]}
        self.figure = Figure(
            cycles=lists.pop(""), reloads=lists.pop("reloads", None), segments=lists,
            model_version=MODEL_VERSION, **facts,
        )  # fmt: skip
        if self._benchmark is not None:
            self._benchmark.extra_info.update(_extra_info(self.figure))
        return value


def _reader(
    clock: Machine | Clock, cpu: int | None
) -> tuple[Callable[[], Reading], dict[str, str]]:
    """Return the function that reads a clock, and the facts of the clock for a Figure."""
    from kvmbench._core import Machine
    from kvmbench.arrays import integer
    from kvmbench.causes import CAUSES

    if isinstance(clock, Machine):
        machine = clock  # the type that the function below sees
        if cpu is not None and not 0 <= operator.index(cpu) < len(machine.cpu):
            raise IndexError(f"cpu is {cpu}, not in 0 to {len(machine.cpu) - 1}")
        which = slice(None) if cpu is None else slice(cpu, cpu + 1)

        def read_machine() -> Reading:
            # Python's integers: a sum of numpy's over many CPUs could wrap.
            counters = machine.counters[which]
            found = {name: sum(counters[field].tolist()) for name, (field, _) in CAUSES.items()}
            found["reloads"] = sum(counters["reloads"].tolist())
            found[""] = sum(machine.cpu["cycles"][which].tolist())
            return found

        facts = {"policy": machine.policy.name, "profile": machine.profile.name}
        return read_machine, facts | {"vendor": machine.vendor}
    if not callable(clock):
        raise TypeError(f"the clock is {clock!r}, neither a Machine nor callable")
    if cpu is not None:
        raise TypeError(f"cpu is {cpu}, and the clock is no Machine")
    return lambda: {"": integer("the clock", clock(), -(2**63), 2**63 - 1)}, {}


def _extra_info(figure: Figure) -> dict[str, Any]:
    """Return a figure for pytest-benchmark's JSON: of one round numbers, of several lists."""

    def short(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: short(rounds) for name, rounds in value.items()}
        return value[0] if isinstance(value, list) and len(value) == 1 else value

    found = {name: short(value) for name, value in asdict(figure).items() if value is not None}
    return {"unit": UNIT, "kind": "exact"} | found


class Alone:
    """The fixture without pytest-benchmark."""

    @pytest.fixture
    def cycle_benchmark(self, request: pytest.FixtureRequest) -> CycleBenchmark:
        """Take the simulated cycles of a function: cycle_benchmark(machine, function, *args)."""
        found = request.node.stash[TAKEN] = CycleBenchmark()
        return found


TAKEN = pytest.StashKey[CycleBenchmark]()
ELAPSED = pytest.StashKey[list[int]]()


class WithBenchmark:
    """The fixture on top of pytest-benchmark's, and the hooks that pytest-benchmark calls.

    pytest-benchmark takes a test's timer from its first marker when it sets `benchmark` up. So
    this plugin adds a marker before the test's own, with a timer that returns the cycles of the
    rounds so far: the difference over a round is the figure, exact below 2**53. It uses
    pedantic(), because benchmark() calibrates with a clock that moves by itself. The fixture asks
    for `benchmark`, so that --benchmark-only and -skip see its tests.
    """

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if FIXTURE not in getattr(item, "fixturenames", ()):
            return
        elapsed = item.stash[ELAPSED] = [0]

        def simulated_cycles() -> int:  # pytest-benchmark prints the name
            return elapsed[0]

        own = item.get_closest_marker("benchmark")
        options = {"group": GROUP, **(own.kwargs if own else {}), "timer": simulated_cycles}
        item.add_marker(pytest.mark.benchmark(**options), append=False)

    @pytest.fixture
    def cycle_benchmark(self, request: pytest.FixtureRequest, benchmark: Any) -> CycleBenchmark:
        """Take the simulated cycles of a function: cycle_benchmark(machine, function, *args)."""
        elapsed = request.node.stash.get(ELAPSED, None)
        if elapsed is None:
            raise RuntimeError(
                "cycle_benchmark must be an argument of the test or of one of its fixtures: "
                "pytest-benchmark takes its timer before getfixturevalue() is called"
            )
        found = request.node.stash[TAKEN] = CycleBenchmark(benchmark, elapsed)
        return found

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_scale_unit(
        self, unit: str, benchmarks: list[Bench]
    ) -> tuple[str, float] | None:
        if not all(map(_in_cycles, benchmarks)):
            return None
        return ("cycle" if unit == "seconds" else "", 1.0)

    @pytest.hookimpl(wrapper=True)
    def pytest_benchmark_group_stats(self) -> Generator[None, Groups, Groups]:
        """Split a group of two units, which no table can hold."""
        groups = yield
        found: Groups = []
        for name, benchmarks in groups:
            cycles = [bench for bench in benchmarks if _in_cycles(bench)]
            others = [bench for bench in benchmarks if not _in_cycles(bench)]
            both = [(name, others), (f"{name or ''} ({UNIT})".strip(), cycles)]
            found += both if cycles and others else [(name, benchmarks)]
        return found

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_compare_machine_info(
        self, machine_info: object, compared_benchmark: Bench
    ) -> None:
        """Avoid pytest-benchmark's warning of another machine, which changes no cycle."""
        benchmarks = compared_benchmark.get("benchmarks")
        if benchmarks and all(map(_in_cycles, benchmarks)):
            compared_benchmark["machine_info"] = machine_info

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        if config.getoption("benchmark_histogram", None) and any(
            FIXTURE in getattr(item, "fixturenames", ()) for item in items
        ):
            raise pytest.UsageError(
                "--benchmark-histogram knows seconds only: deselect the tests of cycle_benchmark"
            )


def _in_cycles(bench: Bench) -> bool:
    extra: Mapping[str, object] = bench.get("extra_info") or {}
    return extra.get("unit") == UNIT


# The gate


class Courier:
    """Puts each test's figure on its report, which reaches the gate from any process."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        taken = item.stash.get(TAKEN, None)
        if call.when == "call" and taken is not None and taken.figure is not None:
            setattr(report, FIGURE, asdict(taken.figure))
        return report


class Gate:
    """Compares the session's figures with the baseline, or writes it; fails the session."""

    def __init__(self, config: pytest.Config, path: Path, update: bool) -> None:
        self.path, self.update = path, update
        self.shown = os.path.relpath(path, config.invocation_params.dir)
        self.old: Result | None = None
        self.figures: dict[str, Figure] = {}
        self.outcomes: dict[str, str] = {}  # test -> its outcome
        self.began = False
        self.lines: list[str] = []
        self.failed = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        if session.config.getoption("collectonly"):
            return
        from kvmbench.baseline import read_baseline
        from kvmbench.errors import ResultError

        try:
            self.old = read_baseline(self.path)
        except FileNotFoundError:
            if not self.update:
                words = f"{self.shown}: no such baseline; --cycles-update writes it"
                raise pytest.UsageError(words) from None
        except OSError as error:
            raise pytest.UsageError(f"{self.shown}: {error.strerror or error}") from None
        except ResultError as error:
            raise pytest.UsageError(str(error).replace(str(self.path), self.shown)) from None
        self.began = True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if found := getattr(report, FIGURE, None):
            from kvmbench.baseline import Figure

            self.figures[report.nodeid] = Figure(**found)
        if report.when == "call" or not report.passed:
            self.outcomes[report.nodeid] = report.outcome

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not self.began:
            return
        passed = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if session.exitstatus not in (*passed, pytest.ExitCode.TESTS_FAILED):
            what = "baseline not written" if self.update else "not gated"
            self._fail(f"{what}: the session was stopped")
        elif self.update:
            self._write(session.exitstatus in passed)
        else:
            self._compare()
        if self.failed and session.exitstatus in passed:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(wrapper=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> Generator[None, None, None]:
        try:
            return (yield)
        finally:  # pytest-benchmark's own gate raises here
            if self.lines:
                terminalreporter.ensure_newline()
                terminalreporter.section(f"cycles, {self.shown}")
                for line in self.lines:
                    terminalreporter.write_line(line, red=self.failed)

    def _fail(self, line: str) -> None:
        self.failed = True
        self.lines.append(f"CYCLES {line}")

    def _compare(self) -> None:
        from kvmbench.baseline import difference, result, rows
        from kvmbench.report.figures import plural

        assert self.old is not None
        old, new = rows(self.old), rows(result(self.figures))
        for name in old:
            if name not in new:
                self._fail(f"{name}: in the baseline, {self._missing(name)}")
            elif changed := difference(old[name], new[name]):
                self._fail(f"{name}: {changed}")
        for name in sorted(new.keys() - old.keys()):
            self._fail(f"{name}: run, not in the baseline")
        self._say_version()
        left_out = sum(name not in new and name not in self.outcomes for name in old)
        if left_out:
            part = f"{left_out} of the baseline's {plural(len(old), 'test')} not run"
            off = "the gate is for whole runs; --cycles-baseline= switches it off"
            self.lines.append(f"{part}: {off}")
        elif not self.failed:
            self.lines.append(f"{plural(len(new), 'test')}, every figure as in the baseline")

    def _write(self, passed: bool) -> None:
        from kvmbench.baseline import difference, result, rows, write_baseline
        from kvmbench.report.figures import plural

        made = result(self.figures)
        old, new = rows(self.old) if self.old else {}, rows(made)
        if not passed or not new:
            reason = "no test took a figure" if passed else "tests failed"
            self._fail(f"baseline not written: {reason}")
            return
        for name in old:
            if name not in new:
                self._fail(f"{name}: in the baseline, {self._missing(name)}")
        if self.failed:
            self.lines.append(
                "CYCLES baseline not written, it would lose tests: run them too, or delete it first"
            )
            return
        try:
            changed = write_baseline(self.path, made)
        except (OSError, ValueError) as error:  # a test's id may be no UTF-8
            self._fail(f"baseline not written: {getattr(error, 'strerror', None) or error}")
            return
        for name, row in new.items():
            if text := difference(old[name], row) if name in old else "new":
                self.lines.append(f"CYCLES {name}: {text}")
        self._say_version()
        done = "written" if changed else "unchanged"
        self.lines.append(f"{plural(len(new), 'test')}, baseline {done}")

    def _missing(self, name: str) -> str:
        """Return the reason that a test has no figure."""
        found = self.outcomes.get(name, "not run")
        return "ran without cycle_benchmark" if found == "passed" else found

    def _say_version(self) -> None:
        old = {run.model_version for _, run in self.old.runs()} if self.old else set()
        new = {figure.model_version for figure in self.figures.values()}
        if old and new and old != new:
            was, now = (", ".join(sorted(map(str, found))) for found in (old, new))
            self.lines.append(f"CYCLES the model's version: {was} -> {now}")
