"""Results for the tests of comparisons, from the figures that the tests name."""

import numpy as np

from kvmbench.results import Boot, Host, Result, Run, Series
from kvmbench.units import Side

EIGHT = (
    *("cpuid", "vmcall", "mov_from_cr8", "mov_to_cr8"),
    *("inl_from_pmtimer", "inl_from_qemu", "inl_from_kernel", "outl_to_kernel"),
)


def series(workload, *values, kind="noisy", **more):
    """Return one series of one run."""
    return Series(workload=workload, kind=kind, values=list(values), **more)


def of_runs(*runs, host=None, times=None, boot_id="", order="time", **more):
    """Return a result of one boot; a run is {workload: value or values}, or a list of series."""
    found = []
    for number, run in enumerate(runs):
        if isinstance(run, dict):
            run = [series(name, *np.atleast_1d(value).tolist()) for name, value in run.items()]
        found.append(Run(series=list(run), time=times[number] if times else None))
    boot = Boot(id=boot_id, host=host or Host(), runs=found)
    return Result(boots=[boot], order=order, **more)


def of_boots(*boots):
    """Return a result of boots, each (id, block, [{workload: value}, ...])."""
    return Result(
        boots=[
            Boot(id=name, block=block, runs=list(of_runs(*runs).boots[0].runs))
            for name, block, runs in boots
        ]
    )


def row(name, values, **more):
    """Return a result of one row: one run a value."""
    return of_runs(*([series(name, value, **more)] for value in np.asarray(values).tolist()))


def table(figures, names=EIGHT):
    """Return a result of figures [runs, rows]: one run a line."""
    return of_runs(*({n: float(x) for n, x in zip(names, line, strict=True)} for line in figures))


def sides(before, after):
    """Return two results as the sides `before` and `after`."""
    return Side("before", before), Side("after", after)
