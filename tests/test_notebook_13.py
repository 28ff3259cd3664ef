"""The notebook on neural networks runs from top to bottom, and shows what it says it shows."""

from typing import Any

import pytest

from tests.notebooks import ROOT, figures_of

NOTEBOOK = ROOT / "notebooks" / "13_vertical_neural_network.ipynb"

# Runs after the notebook's own cells and prints what the assertions need.
FIGURES = """{
    "auc": auc,
    "classes": classes,
    "attacks": attacks,
    "areas": areas,
    "accuracy": accuracy,
}"""


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    found: dict[str, Any] = figures_of(NOTEBOOK, FIGURES)
    return found


def test_networks_find_what_no_linear_model_and_no_table_alone_holds(figures: dict[str, Any]) -> None:
    auc = figures["auc"]
    for name in ("strict network", "split network, defended"):
        assert auc[name] > max(auc["linear, strict"], auc["the bank alone"]) + 0.05
        assert auc[name] > auc["pooled network"] - 0.06


def test_the_strict_network_opens_scores_alone(figures: dict[str, Any]) -> None:
    assert set(figures["classes"]["strict"]) == {"public", "ciphertext", "result"}
    assert {"representation", "noisy_label"} <= set(figures["classes"]["split"])


def test_labels_are_read_off_gradients_unless_they_are_defended(figures: dict[str, Any]) -> None:
    assert max(figures["attacks"]["undefended"].values()) > 0.9
    assert max(figures["attacks"]["defended"].values()) < 0.6
    undefended, defended = figures["areas"]
    assert defended > undefended - 0.03


def test_halves_of_digits(figures: dict[str, Any]) -> None:
    accuracy = figures["accuracy"]
    assert accuracy["split network"] > max(accuracy["left half"], accuracy["right half"]) + 0.03
    assert accuracy["split network"] > accuracy["pooled"] - 0.03
