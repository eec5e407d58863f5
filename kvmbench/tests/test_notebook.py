"""The notebook in examples/ prints what it holds; ci/docs runs this with the extra `docs`.

`python -m kvmbench.tests.test_notebook` runs the notebook and writes its outputs into it.
"""

import pytest

from kvmbench.tests import consoles

NOTEBOOK = consoles.ROOT / "examples" / "own_policy.ipynb"
pytestmark = pytest.mark.skipif(
    not NOTEBOOK.exists(), reason="an installed package has no examples"
)


def executed():
    """Return the notebook as read, and as a fresh kernel leaves it."""
    import nbclient
    import nbformat

    kept = nbformat.read(NOTEBOOK, as_version=4)
    fresh = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(fresh, timeout=120, kernel_name="python3").execute()
    return kept, fresh


def printed(notebook):
    """Return the text that each code cell prints, and the kinds of what it displays."""
    return [
        (
            "".join(out.get("text", "") for out in cell.outputs if out.get("name") == "stdout"),
            [sorted(out.data) for out in cell.outputs if "data" in out],
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_the_notebook_prints_its_outputs():
    pytest.importorskip("nbclient", reason="the notebook needs nbclient")
    pytest.importorskip("ipykernel", reason="the notebook needs ipykernel")
    kept, fresh = executed()
    found = printed(fresh)
    assert found == printed(kept)
    assert [kinds for _, kinds in found if kinds] == [[["image/svg+xml", "text/plain"]]]
    assert sum(bool(text) for text, _ in found) >= 5


if __name__ == "__main__":
    import nbformat

    _, written = executed()
    for cell in written.cells:
        if cell.cell_type == "code":
            cell.metadata = {}
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    nbformat.write(written, NOTEBOOK)
