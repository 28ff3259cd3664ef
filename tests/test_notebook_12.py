"""The notebook on transfer runs from top to bottom, and shows what it says it shows."""

from typing import Any

import pytest

from tests.notebooks import ROOT, figures_of

NOTEBOOK = ROOT / "notebooks" / "12_transfer_learning.ipynb"

# Runs after the notebook's own cells and prints what the assertions need.
FIGURES = """{
    "one": one,
    "curves": curves,
    "guest": guest_only,
    "pooled": pooled,
    "alone": alone,
    "back": back,
    "classes": {p: sorted({str(r.leakage) for r in result.view(p)}) for p in ("bank", "shop")},
    "losses": losses,
}"""


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    found: dict[str, Any] = figures_of(NOTEBOOK, FIGURES)
    return found


def test_transfer_is_ahead_of_the_bank_alone_and_of_the_overlap_alone(figures: dict[str, Any]) -> None:
    assert figures["one"]["transfer, customers of both"] > figures["one"]["the bank alone"] + 0.01
    curves = figures["curves"]
    for place in (0, 1):  # 1 and 2 %
        assert curves["transfer"][place] > max(figures["guest"], curves["overlap only"][place]) + 0.005
    assert abs(curves["transfer"][-1] - figures["pooled"]) < 0.02


def test_the_student_gains_where_labels_are_few(figures: dict[str, Any]) -> None:
    student, labels = (
        figures["alone"][n] for n in ("student, by the bank alone", "labels of the bank alone")
    )
    gains = [a - b for a, b in zip(student, labels, strict=True)]
    assert sum(gains[:3]) / 3 > 0.005


def test_what_each_side_sees(figures: dict[str, Any]) -> None:
    assert "representation" in figures["classes"]["bank"]
    assert not {"representation", "result", "score", "gradient"} & set(figures["classes"]["shop"])
    assert figures["back"][-1] > 0.99
    assert figures["back"][0] < 0.6


def test_federated_transfer_learning_descends(figures: dict[str, Any]) -> None:
    assert figures["losses"][-1] < figures["losses"][0]
