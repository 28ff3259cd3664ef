"""The notebook on secure aggregation runs from top to bottom, and shows what it says it shows."""

from typing import Any

import pytest

from tests.notebooks import ROOT, complaints, execute, printed

NOTEBOOK = ROOT / "notebooks" / "06_secure_aggregation.ipynb"

# Runs after the notebook's own cells and prints what the assertions need.
FIGURES = """{
    "patients": [count, len(everyone)],
    "means": [[float(x) for x in means.row(0)], [float(x) for x in everyone.mean().row(0)]],
    "errors": [float(worst), float(lost_error)],
    "correlation": float(np.corrcoef(masked, vectors["Bonn"])[0, 1]),
    "spread": [float(masked.mean()), float(masked.std())],
    "survivors": list(survivors),
    "refused": {name: type(error).__name__ for name, error in refused.items()},
    "distance": float(distance),
    "losses": [loss(alone[-1]), loss(together[-1])],
    "privacy": [budgets, spent, errors],
}"""


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    """What the notebook's own kernel has computed, without a warning."""
    notebook = execute(NOTEBOOK, FIGURES)
    assert complaints(notebook) == []
    found: dict[str, Any] = printed(notebook)
    return found


def test_sums_and_means_are_right(figures: dict[str, Any]) -> None:
    assert figures["patients"][0] == figures["patients"][1]
    assert figures["means"][0] == pytest.approx(figures["means"][1], abs=1e-5)
    assert max(figures["errors"]) < 5 * 2.0**-16


def test_the_masked_vector_is_uniform(figures: dict[str, Any]) -> None:
    assert abs(figures["correlation"]) < 0.04
    assert figures["spread"] == pytest.approx([0.5, 12**-0.5], abs=0.01)


def test_one_is_lost_and_a_lie_is_refused(figures: dict[str, Any]) -> None:
    assert figures["survivors"] == ["Aachen", "Bonn", "Celle", "Erfurt"]
    assert figures["refused"] == {"Bonn": "PeerAuthenticationError"}


def test_the_model_is_that_of_all_patients(figures: dict[str, Any]) -> None:
    assert figures["distance"] < 1e-6
    assert figures["losses"][1] < figures["losses"][0]


def test_epsilon_is_within_the_budget_and_noise_falls_with_it(figures: dict[str, Any]) -> None:
    budgets, spent, errors = figures["privacy"]
    assert all(0.99 * budget < epsilon <= budget for budget, epsilon in zip(budgets, spent, strict=True))
    assert errors[0] > 4 * errors[-1]
