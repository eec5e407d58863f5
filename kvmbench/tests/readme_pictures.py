"""The pictures of the README, made of committed results and of the simulation.

`python -m kvmbench.tests.readme_pictures` (`make pictures`) writes them into docs/pictures.
"""

from dataclasses import replace

from kvmbench import catalog, compare
from kvmbench.report.document import Plot
from kvmbench.report.svg import standalone
from kvmbench.scenario.scenario import scenarios
from kvmbench.tests.consoles import ROOT

FOLDER = ROOT / "docs" / "pictures"
LAB = ROOT / "results" / "lab" / "tr-2017-vmx.json"
ROWS = ("cpuid", "vmcall", "inl_from_pmtimer", "inl_from_qemu", "inl_from_kernel", "outl_to_kernel")


def plot(document):
    """Return the first plot of a document."""
    return next(block for block in document.blocks if isinstance(block, Plot))


def compared():
    """Return the shifts of the instructions of the patch's rows, on a real kernel in the lab."""
    found = compare(f"{LAB}#before", f"{LAB}#after", rows=ROWS).document()
    title = "The patch of 2017 on a real kernel: shift of the instructions per iteration"
    return replace(plot(found), title=title)


def varied():
    """Return the worth of the change over the share of tasks with an I/O bitmap."""
    policies = (catalog.policies()[name] for name in ("eager", "deferred"))
    profile = catalog.profiles()["patch-2017"]
    values = [n / 10 for n in range(11)]
    found = scenarios()["oversubscribed"].sweep("ioperm_share", values, *policies, profile=profile)
    title = "What deferring the reload of TR is worth to a host, by the share of I/O bitmap holders"
    return replace(plot(found.document()), title=title)


def pictures():
    """Return the text of each picture by the name of its file."""
    return {"compare.svg": standalone(compared()), "vary.svg": standalone(varied())}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pictures().items():
        (FOLDER / name).write_text(text)
        print(f"docs/pictures/{name}")
