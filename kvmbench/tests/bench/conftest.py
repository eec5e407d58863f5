"""The table that `make bench` prints at its end, and what the JSON says of the machine."""

import statistics

import pytest

_ROWS = []  # (job, against, ratio or figure, target, met)


class Report:
    """Collects the rows; a ratio is how many times faster the core is, medians of one run."""

    def ratio(self, config, job, against, target=None):
        """Print the ratio of two benchmarks of one group, once both have run."""
        _ROWS.append((job, against, (config, job, against), target, None))

    def figure(self, job, against, figure, target, met):
        _ROWS.append((job, against, figure, target, met))


@pytest.fixture(scope="session")
def report():
    return Report()


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.pop("node", None)  # the name of the host


def _medians(config):
    found = {}
    for bench in config._benchmarksession.benchmarks:
        name = bench.params["engine"] if bench.params else bench.name
        if bench.stats.data:  # none of one that failed
            found[bench.group, name] = statistics.median(bench.stats.data)
    return found


def pytest_terminal_summary(terminalreporter, config):
    medians = _medians(config) if _ROWS or config._benchmarksession.benchmarks else {}
    lines = []
    for job, against, value, target, met in _ROWS:
        if isinstance(value, tuple):
            mine, other = medians.get((job, "kvmbench")), medians.get((job, against))
            if mine is None or other is None:
                continue
            value = f"{other / mine:.2f} x"
            met = target is None or other / mine >= target
            target = "-" if target is None else f"{target:g} x"
        lines.append((job, against, value, target, "" if met else "missed"))
    if not lines:
        return
    terminalreporter.section("kvmbench next to others: medians of this run")
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        terminalreporter.write_line("  ".join(cells).rstrip())
