"""The network on shares as its users call it: interactions of both parties' columns, halves on disk, bad inputs."""

import base64
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

import vfl
from tests.parties import both, two_parties
from vfl.errors import (
    ConfigError,
    ConfigMismatch,
    InvalidData,
    LocalProtocolError,
    MissingValues,
    SchemaMismatch,
)
from vfl.neural.source import NeuralClassifier

RNG = np.random.default_rng(21)
GUEST, HOST = RNG.normal(size=(300, 2)), RNG.normal(size=(300, 1)) * 5 + 100
PRODUCT = GUEST[:, 0] * (HOST[:, 0] - 100)
LABELS = np.where(PRODUCT > 0, "yes", "no")
"""An interaction of both parties' columns: each side alone, and every linear model, are no better than chance."""
CLASSES = np.array(["a", "b", "c"])[np.digitize(PRODUCT, [-2.0, 2.0])]
TRAIN, TEST = slice(0, 240), slice(240, 300)
CHOSEN: dict[str, Any] = {
    "hidden_units": 8, "epochs": 8, "batch_size": 60, "learning_rate": 1.0, "momentum": 0.5, "random_state": 3,
}  # fmt: skip


def train(labels: Any, folder: Path, **parameters: Any) -> vfl.Simulation:
    """Train, and score with halves that were saved and read again."""

    def role(name: str, values: Any, y: Any) -> Any:
        NeuralClassifier(**CHOSEN | parameters).fit(values[TRAIN], y).save(folder / name)
        model = vfl.load(folder / name)
        return model, model.predict_proba(values[TEST]), model.predict(values[TEST])

    return vfl.simulate(
        bank=lambda: role("bank.json", GUEST, labels[TRAIN]), shop=lambda: role("shop.json", HOST, None)
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[vfl.Simulation, Path]:
    folder = tmp_path_factory.mktemp("halves")
    return train(LABELS, folder), folder


def test_it_learns_an_interaction_of_both(trained: tuple[vfl.Simulation, Path]) -> None:
    model, probabilities, predicted = trained[0]["bank"]
    assert (predicted == LABELS[TEST]).mean() > 0.8
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert (model.classes_[probabilities.argmax(axis=1)] == predicted).all()
    assert model.n_features_in_ == 2
    assert trained[0]["shop"][1:] == (None, None)


def test_three_classes(tmp_path: Path) -> None:
    _, probabilities, predicted = train(CLASSES, tmp_path, epochs=1)["bank"]
    assert probabilities.shape == (60, 3)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert set(predicted) <= set(CLASSES)


def test_halves_on_disk(trained: tuple[vfl.Simulation, Path], tmp_path: Path) -> None:
    result, folder = trained
    for name, party in (("bank.json", "bank"), ("shop.json", "shop")):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        assert (vfl.load(folder / name).share_ == result[party][0].share_).all()
    assert clone(result["bank"][0]).get_params() == NeuralClassifier(**CHOSEN).get_params()
    whole = json.loads((folder / "bank.json").read_text())
    assert "classes" in whole
    assert json.loads((folder / "shop.json").read_text())["classes"] is None
    damaged: list[dict[str, Any]] = [
        {"weights": whole["weights"][:-8]},
        {"weights": base64.b64encode(b"\xff" * len(base64.b64decode(whole["weights"]))).decode()},
        {"columns": [2, 2]}, {"columns": [3]}, {"scale": [0.0, 1.0]}, {"offset": None}, {"classes": ["a"]},
    ]  # fmt: skip
    for change in damaged:
        (tmp_path / "bad.json").write_text(json.dumps(whole | change))
        with pytest.raises(SchemaMismatch, match="damaged"):
            vfl.load(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text(json.dumps(whole | {"format": 2}))
    with pytest.raises(ConfigError, match="update vfl"):
        vfl.load(tmp_path / "bad.json")


def attempt(guest: Any = None, host: Any = None, y: Any = LABELS, **parameters: Any) -> None:
    """Fit with tables, or parameters of the host, of one's own."""
    values = GUEST if guest is None else guest
    vfl.simulate(
        bank=lambda: NeuralClassifier(epochs=1).fit(values, y),
        shop=lambda: NeuralClassifier(**{"epochs": 1} | parameters).fit(HOST if host is None else host),
    )


def test_bad_inputs_are_named() -> None:
    with pytest.raises(MissingValues, match="bank"):
        attempt(guest=np.full((300, 2), np.nan))
    with pytest.raises(InvalidData, match="pass labels"):
        attempt(y=None)
    with pytest.raises(InvalidData, match="1 classes"):
        attempt(y=np.zeros(300))
    with pytest.raises(ConfigMismatch, match="rows"):
        attempt(host=HOST[:299])
    with pytest.raises(ConfigMismatch, match="hidden_units"):
        attempt(hidden_units=16)
    with pytest.raises(InvalidData, match="raise hidden_units"):
        vfl.simulate(
            bank=lambda: NeuralClassifier(hidden_units=8).fit(GUEST, np.arange(300) % 9),
            shop=lambda: NeuralClassifier(hidden_units=8).fit(HOST),
        )
    with pytest.raises(InvalidData, match="labels belong to the guest"):
        vfl.simulate(
            bank=lambda: NeuralClassifier().fit(GUEST, LABELS),
            shop=lambda: NeuralClassifier().fit(HOST, LABELS),
        )


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"hidden_units": 0}, "hidden_units"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"alpha": -1.0}, "alpha"),
    ],
)
def test_bad_parameters_are_named(parameters: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        attempt(**parameters)


def test_one_host_only() -> None:
    with pytest.raises(LocalProtocolError, match="one host only"):
        vfl.simulate(
            bank=lambda: NeuralClassifier().fit(GUEST, LABELS),
            shop=lambda: NeuralClassifier().fit(HOST),
            post=lambda: NeuralClassifier().fit(HOST),
        )


@pytest.mark.slow
def test_over_the_network(tmp_path: Path) -> None:
    """Both parties in a session of their own over mutual TLS."""

    def role(config: Path, values: Any, y: Any) -> Any:
        with vfl.connect(config):
            model = NeuralClassifier(**CHOSEN).fit(values[TRAIN], y)
            return model.predict_proba(values[TEST])

    parties = two_parties(tmp_path)
    probabilities, nothing = both(
        lambda: role(parties[0].config, GUEST, LABELS[TRAIN]), lambda: role(parties[1].config, HOST, None)
    )
    assert nothing is None
    assert ((probabilities[:, 1] > 0.5) == (LABELS[TEST] == "yes")).mean() > 0.8
