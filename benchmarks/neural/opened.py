"""The reverse multiplication attack by the guest: on sums that are opened to it, and on what it holds on shares."""

from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

import vfl
from benchmarks.neural.sets import Tables
from vfl.attacks.sums import multiplied_back
from vfl.crypto.pads import Pads
from vfl.crypto.ring import RING
from vfl.protocols import source
from vfl.protocols.source_plan import GAIN, sylvester

Floats = NDArray[np.float64]
ROWS, UNITS, STEPS, RATE = 40, 8, 16, 0.1


def correlation(found: Floats, host: Floats) -> float:
    """Return the correlation of inner products between different rows with the host's."""
    places = np.triu_indices(len(host), 1)
    return float(np.corrcoef(found[places], (host @ host.T)[places])[0, 1])


def opened(guest: Floats, host: Floats, y: Floats) -> float:
    """Train in the clear as a source layer does that gives its sums to the guest, and multiply back."""
    rng, rate = np.random.default_rng(0), RATE
    weights = [rng.normal(size=(columns.shape[1], UNITS)) / 2 for columns in (guest, host)]
    readout = GAIN / UNITS * sylvester(UNITS, 1)
    sums, gradients = [], []
    for _ in range(STEPS):
        sums.append(guest @ weights[0] + host @ weights[1])
        residuals = expit(np.sin(sums[-1]) @ readout) - y[:, None]
        gradients.append(np.cos(sums[-1]) * (residuals @ readout.T) / len(y))
        weights = [w - rate * x.T @ gradients[-1] for w, x in zip(weights, (guest, host), strict=True)]
    return correlation(multiplied_back(np.array(sums), np.array(gradients), guest, rate), host)


def on_shares(guest: Floats, host: Floats, y: Floats) -> float:
    """Train on shares, rows in one order, and multiply back the guest's shares of sums and of their gradient."""
    angles: list[Floats] = []
    changes: list[Floats] = []
    summed, backward = source._Layer._angles, source._Layer._backward

    async def note_angles(self: Any, rows: Any, weights: Any) -> Any:
        turns = await summed(self, rows, weights)
        if self.arithmetic.party == 0:
            angles.append(2 * np.pi * turns)
        return turns

    async def note_changes(self: Any, rows: Any, shares: Any) -> Any:
        if self.arithmetic.party == 0:
            changes.append(RING.decode(shares, 0))
        return await backward(self, rows, shares)

    def make() -> vfl.NeuralClassifier:
        return vfl.NeuralClassifier(hidden_units=UNITS, epochs=STEPS, learning_rate=RATE, momentum=0.0)

    with (
        mock.patch.object(source._Layer, "_angles", note_angles),
        mock.patch.object(source._Layer, "_backward", note_changes),
        mock.patch.object(Pads, "permutation", lambda _, size: np.arange(size)),
    ):
        vfl.simulate(bank=lambda: make().fit(guest, y), shop=lambda: make().fit(host))
    unit = np.array(changes) / np.abs(changes).max()
    own = np.zeros((len(y), 1))  # taking off the guest's columns would show their own likeness to the host's
    return correlation(multiplied_back(np.array(angles), unit, own, RATE), host)


def attack(tables: Tables) -> dict[str, float]:
    """Return the correlation of what the guest finds with the host's inner products, both ways."""
    train = np.flatnonzero(~tables.test)
    y = (tables.y == tables.y.max()).astype(float)
    rows = np.concatenate([train[y[train] == label][: ROWS // 2] for label in (0, 1)])
    guest, host = (
        (columns[rows] - columns[train].mean(axis=0)) / np.maximum(columns[train].std(axis=0), 1e-9)
        for columns in (tables.guest, tables.host)
    )
    found = {"opened_sums": opened(guest, host, y[rows]), "shares": on_shares(guest, host, y[rows])}
    return {f"attack_correlation_{name}": round(value, 3) for name, value in found.items()}
