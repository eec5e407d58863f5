"""Benchmarking of KVM's VM exits: exact simulation, real measurement, honest comparison.

Names load on first use, so that `import kvmbench` and `kvmbench --help` stay quick.

PYTEST_DONT_REWRITE: pytest rewrites the asserts of a package with a plugin, and warns where that
was imported before pytest was.
"""

from importlib import import_module

TYPE_CHECKING = False  # for type checkers it is True; the import of typing would delay Ctrl-C
if TYPE_CHECKING:
    from kvmbench._core import Machine
    from kvmbench._ports import port_check
    from kvmbench.arrays import COUNTERS_DTYPE, OP_DTYPE
    from kvmbench.catalog import load_policies, load_profile, policies, profiles
    from kvmbench.checker.verdict import check
    from kvmbench.comparison.verdicts import compare
    from kvmbench.errors import (
        FileError,
        IncompatibleError,
        KvmbenchError,
        KvmError,
        LiveError,
        OperationError,
        ResultError,
        SweepError,
        WrongKernelError,
    )
    from kvmbench.formats import load, save
    from kvmbench.live.engine import measure
    from kvmbench.model import Costs, ExitKind, Op, Policy, Profile, Provenance, Workload
    from kvmbench.scenario.scenario import Scenario, load_scenario
    from kvmbench.simulation.simulate import simulate
    from kvmbench.sweeps.engines import sweep
    from kvmbench.sweeps.points import load_points

_HOME = {  # public name: its module
    "Machine": "_core",
    "Scenario": "scenario.scenario",
    "check": "checker.verdict",
    "compare": "comparison.verdicts",
    "load_points": "sweeps.points",
    "load_scenario": "scenario.scenario",
    "measure": "live.engine",
    "port_check": "_ports",
    "simulate": "simulation.simulate",
    "sweep": "sweeps.engines",
    **dict.fromkeys(("COUNTERS_DTYPE", "OP_DTYPE"), "arrays"),
    **dict.fromkeys(("load_policies", "load_profile", "policies", "profiles"), "catalog"),
    **dict.fromkeys(("FileError", "IncompatibleError", "KvmError", "KvmbenchError"), "errors"),
    **dict.fromkeys(("LiveError", "OperationError", "ResultError", "SweepError"), "errors"),
    "WrongKernelError": "errors",
    **dict.fromkeys(("load", "save"), "formats"),
    **dict.fromkeys(("Costs", "ExitKind", "Op", "Policy", "Profile"), "model"),
    **dict.fromkeys(("Provenance", "Workload"), "model"),
}

__all__ = ["COUNTERS_DTYPE", "OP_DTYPE", "Costs", "ExitKind", "FileError", "IncompatibleError"]
__all__ += ["KvmError", "KvmbenchError", "LiveError", "Machine", "Op", "OperationError", "Policy"]
__all__ += ["Profile", "Provenance", "ResultError", "Scenario", "SweepError", "Workload"]
__all__ += ["WrongKernelError", "__version__", "check", "compare", "get_include", "load"]
__all__ += ["load_points", "load_policies", "load_profile", "load_scenario", "measure"]
__all__ += ["policies", "port_check", "profiles", "save", "simulate", "sweep"]


def get_include() -> str:
    """Return the folder that Cython needs as an include path to `cimport kvmbench`.

    A normal installation is found without it, an editable one is not.
    """
    from pathlib import Path

    return str(Path(__file__).parent.parent)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("kvmbench")
    elif name in _HOME:
        value = getattr(import_module(f"kvmbench.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'kvmbench' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
