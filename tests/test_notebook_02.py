"""The notebook on encrypted arithmetic runs from top to bottom, and its products and attacks are what it says."""

import sys
from typing import Any

import nbformat
import pytest

from tests.notebooks import ROOT, complaints, execute, printed, read

NOTEBOOK = ROOT / "notebooks" / "02_encrypted_arithmetic.ipynb"

# Runs after the notebook's own cells and prints what the assertions need.
FIGURES = """{
    "decrypted": small,
    "exact": [paillier_exact, lattice_exact, forward_exact],
    "ckks": [ckks_error, precision],
    "correlation": correlation,
    "features_found": {"unfresh": [paillier_unfresh, lattice_unfresh], "fresh": [paillier_fresh, lattice_fresh]},
    "guess_confirmed": {"stuck": confirm_stuck, "fresh": confirm_fresh},
}"""


@pytest.fixture(scope="module")
def executed() -> nbformat.NotebookNode:
    return execute(NOTEBOOK, FIGURES)


@pytest.fixture(scope="module")
def figures(executed: nbformat.NotebookNode) -> dict[str, Any]:
    found: dict[str, Any] = printed(executed)
    return found


def test_no_cell_of_the_encrypted_arithmetic_complains(executed: nbformat.NotebookNode) -> None:
    assert complaints(executed) == []


def test_products_are_exact_or_within_the_agreed_precision(figures: dict[str, Any]) -> None:
    assert figures["decrypted"] == [-3]
    assert figures["exact"] == [True, True, True]
    error, precision = figures["ckks"]
    assert 0 < error < precision


def test_masked_numbers_do_not_follow_the_scores(figures: dict[str, Any]) -> None:
    # 8,192 independent numbers: the standard deviation of the correlation is 0.011.
    assert abs(figures["correlation"]) < 0.07


def test_the_attack_finds_all_in_unfresh_results_and_nothing_in_fresh_ones(figures: dict[str, Any]) -> None:
    assert figures["features_found"]["unfresh"] == [20, 8192]
    by_table, by_division = figures["features_found"]["fresh"]
    assert by_table == 0
    assert by_division <= 2  # a uniform residue of 30 bits meets a feature in 8,192 trials once in 10^5 runs


def test_a_right_guess_is_confirmed_only_without_the_encryption_of_zero(figures: dict[str, Any]) -> None:
    assert figures["guess_confirmed"]["stuck"] == 8192
    assert figures["guess_confirmed"]["fresh"] <= 2  # 4 10^-5 expected by chance


def test_the_arithmetic_notebook_is_committed_with_outputs() -> None:
    cells = [cell for cell in read(NOTEBOOK).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells), "run the notebook and save it"
    kinds = [kind for cell in cells for output in cell.outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") >= 3
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert str(ROOT) not in text
    assert sys.prefix not in text
