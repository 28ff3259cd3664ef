"""Notebooks run from top to bottom by their own kernel, where a warning is an error."""

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]


def read(path: Path) -> nbformat.NotebookNode:
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def execute(path: Path, figures: str, timeout: int = 120) -> nbformat.NotebookNode:
    """Return the notebook after a run, with one more cell that prints `figures`, an expression, as JSON."""
    notebook = read(path)
    first = "import warnings as w; w.simplefilter('error')"
    last = f"import json; print(json.dumps({figures}))"
    for place, source in ((0, first), (len(notebook.cells) + 1, last)):
        notebook.cells.insert(place, nbformat.v4.new_code_cell(source))  # type: ignore[no-untyped-call]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        NotebookClient(notebook, timeout=timeout, kernel_name="python3").execute(cwd=str(path.parent))
    return notebook


def figures_of(path: Path, figures: str, timeout: int = 240) -> Any:
    """Return what a notebook's own kernel has computed, without a warning."""
    notebook = execute(path, figures, timeout)
    assert complaints(notebook) == []
    return printed(notebook)


def printed(notebook: nbformat.NotebookNode) -> Any:
    """Return the figures of the last cell."""
    return json.loads(notebook.cells[-1].outputs[0].text)


def complaints(notebook: nbformat.NotebookNode) -> list[str]:
    """Return what was written to standard error."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output.text for output in outputs if output.get("name") == "stderr"]
