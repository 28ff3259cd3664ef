"""The notebooks run from top to bottom, without a warning, and show what they say they show."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

from tests.notebooks import ROOT, complaints, execute, printed, read

ALL = sorted((ROOT / "notebooks").glob("*.ipynb"))

# Runs after a notebook's own cells and prints what the assertions need.
FIGURES = {
    "01_bank_and_retailer": "{name: values['auc'] for name, values in figures.items()}",
    "03_credit_scorecard_glm": (
        "{name: values['auc'] for name, values in figures.items()} | "
        "{'distance': float(distance), 'counts': float(np.abs(counts - clear.coef_).max())}"
    ),
}
NOTEBOOKS = [path for path in ALL if path.stem in FIGURES]  # the other has tests of its own


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def executed(request: pytest.FixtureRequest) -> tuple[str, nbformat.NotebookNode]:
    """A notebook after a run of its own kernel, with one more cell."""
    path: Path = request.param
    notebook = execute(path, FIGURES[path.stem], timeout=60)
    return path.stem, notebook


def only(stem: str) -> pytest.MarkDecorator:
    """Run a test on one notebook."""
    return pytest.mark.parametrize(
        "executed", [path for path in NOTEBOOKS if path.stem == stem], indirect=True, ids=[stem]
    )


def test_no_cell_complains(executed: tuple[str, nbformat.NotebookNode]) -> None:
    _, notebook = executed
    assert complaints(notebook) == []


def test_the_joint_model_gains(executed: tuple[str, nbformat.NotebookNode]) -> None:
    _, notebook = executed
    auc = printed(notebook)
    assert auc["joint"] > auc["guest only"] + 0.02
    assert abs(auc["joint"] - auc["pooled"]) < 0.005


@only("03_credit_scorecard_glm")
def test_the_weights_are_those_of_pooled_data(executed: tuple[str, nbformat.NotebookNode]) -> None:
    _, notebook = executed
    found = printed(notebook)
    assert found["distance"] < 0.01
    assert found["counts"] < 0.005


@only("01_bank_and_retailer")
def test_the_attack_is_shown_and_warned_of(executed: tuple[str, nbformat.NotebookNode]) -> None:
    _, notebook = executed
    printed = "".join(
        output.text
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.get("name") == "stdout"
    )
    shares = re.findall(r"(\d+) epochs, \d+ host columns: (\d+)% of the values right; warned: (\w+)", printed)
    assert [(epochs, warned) for epochs, _, warned in shares] == [("8", "False"), ("16", "True")]
    assert int(shares[1][1]) >= 90 > int(shares[0][1])


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_outputs_are_committed_and_plots_described(path: Path) -> None:
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells), "run the notebook and save it"
    kinds = [kind for cell in cells for output in cell.outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") >= 3
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    text = path.read_text(encoding="utf-8")
    assert str(ROOT) not in text
    assert sys.prefix not in text
