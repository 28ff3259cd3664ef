"""The network on shares as its users call it: it learns what no sum of both sides' models can, in two processes' halves."""

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

import vfl
from vfl.errors import ConfigError, ConfigMismatch, InvalidData, LocalProtocolError, SchemaMismatch
from vfl.neural.source import NeuralClassifier
from vfl.protocols.wire import Leakage

RNG = np.random.default_rng(21)
ROWS, TEST = 500, slice(400, 500)
GUEST, HOST = RNG.normal(size=(ROWS, 2)), RNG.normal(size=(ROWS, 2)) * 5 + 100
PRODUCT = GUEST[:, 0] * (HOST[:, 0] - 100)
LABELS = np.where(PRODUCT > 0, "yes", "no")
CLASSES = np.array(["a", "b", "c"])[np.digitize(PRODUCT, [-2.0, 2.0])]
PARAMETERS: dict[str, Any] = {"hidden_units": 8, "epochs": 25, "batch_size": 64, "learning_rate": 0.4, "random_state": 3}
"""An interaction of both parties' columns: each side's own, and every linear model, are no better than chance."""


def train(labels: Any, folder: Path | None = None, **parameters: Any) -> vfl.Simulation:
    chosen = PARAMETERS | parameters

    def bank() -> Any:
        model = NeuralClassifier(**chosen).fit(GUEST[:400], labels[:400])
        if folder:
            model.save(folder / "bank.json")
            model = vfl.load(folder / "bank.json")
        return model, model.predict_proba(GUEST[TEST]), model.predict(GUEST[TEST])

    def shop() -> Any:
        model = NeuralClassifier(**chosen).fit(HOST[:400])
        if folder:
            model.save(folder / "shop.json")
            model = vfl.load(folder / "shop.json")
        return model, model.predict_proba(HOST[TEST]), model.predict(HOST[TEST])

    return vfl.simulate(bank=bank, shop=shop)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[vfl.Simulation, Path]:
    folder = tmp_path_factory.mktemp("halves")
    return train(LABELS, folder), folder


def test_it_learns_an_interaction_of_both(trained: tuple[vfl.Simulation, Path]) -> None:
    model, probabilities, predicted = trained[0]["bank"]
    assert (predicted == LABELS[TEST]).mean() > 0.85
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert (model.classes_[probabilities.argmax(axis=1)] == predicted).all()
    assert trained[0]["shop"][1:] == (None, None)
