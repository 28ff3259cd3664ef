"""The notebook on horizontal learning runs from top to bottom, and shows what it says it shows."""

from typing import Any

import pytest

from tests.notebooks import ROOT, figures_of

NOTEBOOK = ROOT / "notebooks" / "07_horizontal_learning.ipynb"

# Runs after the notebook's own cells and prints what the assertions need.
FIGURES = """{
    "rounds": {name: run.rounds_to(0.85) for name, run in runs.items()},
    "score": [float(result.estimator.score(X_test, y_test)), result.history[-1].accuracy],
    "codecs": {name: [run.history[-1].up, run.history[-1].accuracy] for name, run in codecs.items()},
    "paces": {name: [run.history[-1].seconds, run.history[-1].accuracy] for name, run in paces.items()},
    "means": means,
    "apart": apart,
    "epsilons": {str(noise): [r.epsilon for r in run.history] for noise, run in private.items()},
}"""


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    found: dict[str, Any] = figures_of(NOTEBOOK, FIGURES)
    return found


def test_scaffold_takes_fewer_rounds_and_the_estimator_is_of_scikit_learn(figures: dict[str, Any]) -> None:
    assert figures["rounds"]["SCAFFOLD"] < figures["rounds"]["FedAvg"]
    assert figures["score"][0] == pytest.approx(figures["score"][1])


def test_fewer_bytes_cost_little(figures: dict[str, Any]) -> None:
    whole, two, largest = (figures["codecs"][n] for n in ("32-bit numbers", "2 bits", "largest 1/48"))
    assert two[0] < whole[0] / 15
    assert largest[0] < whole[0] / 30
    assert two[1] > whole[1] - 0.03


def test_nobody_waits_for_the_slowest(figures: dict[str, Any]) -> None:
    paces = figures["paces"]
    assert max(paces["buffered"][0], paces["as many steps as fit"][0]) < paces["synchronous"][0] / 2


def test_own_models_are_ahead_and_sums_are_those_of_the_clear(figures: dict[str, Any]) -> None:
    assert min(figures["means"]["Ditto"], figures["means"]["fine-tuned"]) > figures["means"]["common"] + 0.02
    assert figures["apart"] < 1e-5


def test_epsilon_grows_with_rounds_and_falls_with_noise(figures: dict[str, Any]) -> None:
    spent = [figures["epsilons"][noise] for noise in ("1.0", "2.0", "4.0")]
    assert all(epsilons == sorted(epsilons) for epsilons in spent)
    assert spent[0][-1] > spent[1][-1] > spent[2][-1]
