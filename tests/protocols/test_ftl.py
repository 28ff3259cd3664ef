"""Federated transfer learning: gradients against differences, the secure run against the clear one, what is opened."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vfl
from tests.open_backend import OpenBackend
from tests.support import DeterministicRng
from vfl.crypto.product import LatticeBackend
from vfl.errors import InvalidData, PolicyRefused, SchemaMismatch
from vfl.ftl import FTLClassifier
from vfl.protocols.channel import Party, memory_pair, run_local
from vfl.protocols.record import Transcript
from vfl.protocols.transfer import ftl
from vfl.protocols.transfer.ftl_terms import Guest, Host, Plan
from vfl.protocols.wire import OPT_IN, Leakage, Role

Floats = NDArray[np.float64]
RNG = np.random.default_rng(5)


def sides(scores: int, iterations: int = 1) -> tuple[Guest, Host]:
    plan = Plan(30, (5, 6), 4, scores, iterations, 0.5, 0.5, 0.3, 1e-3)
    inputs = RNG.normal(size=(50, 5)), RNG.normal(size=(30, 6))
    weights = RNG.normal(size=(5, 4)) / 2, RNG.normal(size=(6, 4)) / 2
    y = np.sign(RNG.normal(size=(50, scores)))
    return Guest(inputs[0], y, weights[0], plan), Host(inputs[1], weights[1], plan)


def loss(guest: Guest, host: Host) -> float:
    """Return the loss by its definition."""
    n, u, v = guest.plan.rows, np.tanh(guest.inputs @ guest.weights), np.tanh(host.inputs @ host.weights)
    f = v @ (guest.y.T @ u / len(u)).T
    taylor = np.log(2) - guest.y[:n] * f / 2 + f**2 / 8
    return float((taylor.sum() + guest.plan.gamma * ((u[:n] - v) ** 2).sum()) / n)


def multiply(operands: Floats, vectors: Floats) -> Floats:
    return np.asarray(np.einsum("jrd,rj->dj", operands, vectors))


def difference(of: Any, weights: Floats) -> Floats:
    """Return the gradient of a function of weights by central differences."""
    gradient = np.zeros_like(weights)
    for place in np.ndindex(weights.shape):
        step = np.zeros_like(weights)
        step[place] = 1e-6
        gradient[place] = (of(weights + step) - of(weights - step)) / 2e-6
    return gradient


@pytest.mark.parametrize("scores", [1, 3])
def test_gradients_and_loss(scores: int) -> None:
    guest, host = sides(scores)
    hosts = multiply(host.operands(), guest.vectors())
    guests = multiply(guest.operands(), host.vectors())
    by_guest = difference(lambda w: loss(Guest(guest.inputs, guest.y, w, guest.plan), host), guest.weights)
    by_host = difference(lambda w: loss(guest, Host(host.inputs, w, host.plan)), host.weights)
    np.testing.assert_allclose(guest.gradient(guests[:-1]), by_guest, atol=1e-7)
    np.testing.assert_allclose(host.gradient(hosts), by_host, atol=1e-7)
    assert np.isclose(guest.loss(guests[-1].sum()), loss(guest, host))


def clear(guest: Guest, host: Host) -> tuple[Guest, Host, list[float]]:
    """Train in the clear."""
    velocities, losses = [np.zeros_like(guest.weights), np.zeros_like(host.weights)], []
    for _ in range(guest.plan.iterations):
        losses.append(loss(guest, host))
        guests = multiply(guest.operands(), host.vectors())[:-1]
        hosts = multiply(host.operands(), guest.vectors())
        first = guest.plan.step(guest.weights, velocities[0], guest.gradient(guests))
        second = host.plan.step(host.weights, velocities[1], host.gradient(hosts))
        guest, host = Guest(guest.inputs, guest.y, first, guest.plan), Host(host.inputs, second, host.plan)
    return guest, host, losses


@pytest.mark.parametrize("backend", [LatticeBackend, OpenBackend])
def test_the_secure_run_equals_the_clear_one(backend: Any) -> None:
    guest, host = sides(2, iterations=3)
    transcript = Transcript()
    ends = memory_pair(Party("bank", Role.GUEST), Party("shop", Role.HOST))
    ends[0].observe(transcript)
    rngs = [DeterministicRng(seed) for seed in (1, 2)]

    def quiet(done: int, total: int) -> None:
        assert done <= total

    found = run_local(
        guest=ftl.guest(ends[0], guest, backend, rngs[0], quiet),
        host=ftl.host(ends[1], host, backend, rngs[1], quiet),
    )
    expected_guest, expected_host, losses = clear(guest, host)
    np.testing.assert_allclose(found["guest"][0].weights, expected_guest.weights, atol=1e-4)
    np.testing.assert_allclose(found["host"].weights, expected_host.weights, atol=1e-4)
    np.testing.assert_allclose(found["guest"][1], losses, atol=1e-4)
    telling = [record.kind for record in transcript.records if record.leakage in OPT_IN]
    assert sorted(telling) == ["transfer.guest_gradient"] * 3 + ["transfer.host_gradient"] * 3

    scores = run_local(
        guest=ftl.guest_scores(ends[0], expected_guest.phi, 30, backend, rngs[0]),
        host=ftl.host_scores(ends[1], expected_host.u, 2, backend, rngs[1]),
    )["guest"]
    np.testing.assert_allclose(scores, expected_host.u @ expected_guest.phi.T, atol=1e-5)


CAUSE = RNG.normal(size=(400, 2))
GUEST = np.column_stack([CAUSE @ RNG.normal(size=(2, 3)), RNG.normal(size=400)])
HOST = np.column_stack([CAUSE @ RNG.normal(size=(2, 4)), RNG.normal(size=400)])
CLASSES = np.array(["a", "b", "c"])[np.digitize(CAUSE[:, 0] + 0.2 * RNG.normal(size=400), [-0.5, 0.5])]


def train(labels: Any, accept: tuple[str, ...] = ("gradient",)) -> vfl.Simulation:
    model = {"width": 6, "max_iter": 25, "random_state": 3}

    def bank() -> Any:
        fitted = FTLClassifier(**model)
        fitted.fit(GUEST[:100], labels[:100], rest=GUEST[100:300], rest_y=labels[100:300])
        return fitted, fitted.joint_predict_proba(GUEST[300:])

    def shop() -> Any:
        fitted = FTLClassifier(**model)
        return fitted.fit(HOST[:100]).joint_predict_proba(HOST[300:])

    return vfl.simulate(accept_leakage=accept, bank=bank, shop=shop)


@pytest.mark.parametrize("labels", [CLASSES, (CAUSE[:, 0] > 0).astype(int)], ids=["three classes", "two"])
def test_the_estimator_scores_rows_of_the_host(monkeypatch: pytest.MonkeyPatch, labels: NDArray[Any]) -> None:
    monkeypatch.setattr("vfl.ftl.LatticeBackend", OpenBackend)
    result = train(labels)
    model, joint = result["bank"]
    assert result["shop"] is None
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    for found in (joint, model.predict_proba(GUEST[300:])):
        assert np.allclose(found.sum(axis=1), 1)
        assert (model.classes_[found.argmax(axis=1)] == labels[300:]).mean() > 0.6
    assert not {record.leakage for record in result.view("shop")} & {Leakage.RESULT, Leakage.SCORE}


def test_it_has_to_be_accepted_and_a_host_has_no_labels() -> None:
    with pytest.raises(PolicyRefused, match="gradient"):
        train(CLASSES, accept=())
    with pytest.raises(InvalidData, match="labels belong to the guest"):
        vfl.simulate(
            accept_leakage=["gradient"],
            bank=lambda: FTLClassifier().fit(GUEST, CLASSES),
            shop=lambda: FTLClassifier().fit(HOST, CLASSES),
        )
    with pytest.raises(ValueError, match="momentum"):
        vfl.simulate(
            accept_leakage=["gradient"],
            bank=lambda: FTLClassifier(momentum=1.0).fit(GUEST, CLASSES),
            shop=lambda: FTLClassifier(momentum=1.0).fit(HOST),
        )


@pytest.mark.parametrize("labels", [CLASSES, (CAUSE[:, 0] > 0).astype(int)], ids=["three classes", "two"])
def test_both_halves_are_kept_in_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, labels: NDArray[Any]
) -> None:
    monkeypatch.setattr("vfl.ftl.LatticeBackend", OpenBackend)
    model = {"width": 3, "max_iter": 2, "random_state": 3}
    paths = {name: tmp_path / f"{name}.json" for name in ("bank", "shop")}

    def bank() -> Any:
        fitted = FTLClassifier(**model).fit(GUEST[:100], labels[:100])
        fitted.save(paths["bank"])
        return fitted.joint_predict_proba(GUEST[300:]), vfl.load(paths["bank"]).joint_predict_proba(
            GUEST[300:]
        )

    def shop() -> None:
        fitted = FTLClassifier(**model).fit(HOST[:100])
        fitted.save(paths["shop"])
        for half in (fitted, vfl.load(paths["shop"])):
            half.joint_predict_proba(HOST[300:])

    first, again = vfl.simulate(accept_leakage=["gradient"], bank=bank, shop=shop)["bank"]
    np.testing.assert_allclose(first, again, atol=1e-9)
    assert set(vfl.load(paths["bank"]).predict(GUEST)) <= set(labels.tolist())
    for path, part in ((paths["bank"], "phi"), (paths["shop"], "weights")):
        told = json.loads(path.read_bytes())
        told[part] = told[part][:-1] or [[0.0]]
        path.write_text(json.dumps(told))
        with pytest.raises(SchemaMismatch, match="damaged"):
            vfl.load(path)
