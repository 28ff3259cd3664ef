"""The guest multiplies back: what a source layer that opens its sums gives away, and the one on shares does not.

Weng, Zhang, Xue and others, "Privacy Leakage of Real-World Vertical Federated Learning", arXiv 2011.09290 (the reverse
multiplication attack, there on logistic regression).
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit

import vfl
from vfl.attacks.sums import multiplied_back
from vfl.crypto.ring import RING
from vfl.protocols import source
from vfl.protocols.source_plan import GAIN, sylvester

Floats = NDArray[np.float64]
ROWS, UNITS, STEPS = 24, 8, 12
RNG = np.random.default_rng(17)
GUEST, HOST = RNG.normal(size=(ROWS, 2)), RNG.normal(size=(ROWS, 3))
LABELS = (GUEST[:, 0] + HOST[:, 0] > 0).astype(int)
TRUTH = HOST @ HOST.T


def similarity(found: Floats) -> float:
    """Return the correlation of inner products between different rows with the host's."""
    places = np.triu_indices(ROWS, 1)
    return float(np.corrcoef(found[places], TRUTH[places])[0, 1])


def test_control_opened_sums_give_the_hosts_inner_products() -> None:
    """As in BlindFL: weights stay hidden, but the guest sees the sums of all rows and computes their gradient."""
    weights = [RNG.normal(size=(columns.shape[1], UNITS)) for columns in (GUEST, HOST)]
    readout, rate = GAIN / UNITS * sylvester(UNITS, 1), 0.1
    sums, gradients = [], []
    for _ in range(STEPS):
        z = GUEST @ weights[0] + HOST @ weights[1]
        residuals = expit(np.sin(z) @ readout) - LABELS[:, None]
        sums.append(z)
        gradients.append(np.cos(z) * (residuals @ readout.T) / ROWS)
        weights = [w - rate * x.T @ gradients[-1] for w, x in zip(weights, (GUEST, HOST), strict=True)]
    found = multiplied_back(np.array(sums), np.array(gradients), GUEST, rate)
    assert similarity(found) > 0.99


class Seen:
    """What the guest holds of angles and of their gradient: its shares."""

    def __init__(self) -> None:
        self.angles: list[Floats] = []
        self.changes: list[Floats] = []


@pytest.fixture(scope="module")
def seen() -> Any:
    """Train on shares, and note what the guest holds."""
    found, patch = Seen(), pytest.MonkeyPatch()
    angles, backward = source._Layer._angles, source._Layer._backward

    async def note_angles(self: Any, rows: Any, weights: Any) -> Any:
        turns = await angles(self, rows, weights)
        if self.arithmetic.party == 0:
            found.angles.append(2 * np.pi * turns)
        return turns

    async def note_changes(self: Any, rows: Any, changes: Any) -> Any:
        if self.arithmetic.party == 0:
            found.changes.append(RING.decode(changes, 0))
        return await backward(self, rows, changes)

    patch.setattr(source._Layer, "_angles", note_angles)
    patch.setattr(source._Layer, "_backward", note_changes)
    # rows in their own order in each step, so that both attacks find the same rows in the same places
    patch.setattr("vfl.crypto.pads.Pads.permutation", lambda _, size: np.arange(size))

    def make() -> vfl.NeuralClassifier:
        return vfl.NeuralClassifier(hidden_units=UNITS, epochs=STEPS, momentum=0.0)

    vfl.simulate(bank=lambda: make().fit(GUEST, LABELS), shop=lambda: make().fit(HOST))
    patch.undo()
    return found


def test_shares_of_sums_and_gradients_give_nothing(seen: Seen) -> None:
    assert len(seen.angles) == STEPS
    changes = np.array(seen.changes)
    found = multiplied_back(np.array(seen.angles), changes / np.abs(changes).max(), GUEST, 0.1)
    assert abs(similarity(found)) < 0.3  # 276 pairs of rows: chance stays below 0.2
