"""The network on shares against the same training in the clear; what its transcript holds; bounds of its formats."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from tests.support import DeterministicRng
from vfl.crypto.ring import RING
from vfl.errors import EncodingOverflow, InvalidData
from vfl.protocols import source
from vfl.protocols.channel import Party, memory_pair, run_local
from vfl.protocols.record import Transcript
from vfl.protocols.source_plan import GAIN, WEIGHT_BITS, Labels, Plan, sylvester
from vfl.protocols.wire import Leakage, Role

Floats = NDArray[np.float64]


def generated(plan: Plan, seed: int = 1) -> tuple[Floats, Floats, Labels, tuple[Floats, Floats]]:
    """Return inputs of both parties, labels, and both parts of the first weights."""
    rng = np.random.default_rng(seed)
    guest, host = (np.clip(rng.normal(size=(plan.rows, k)), -4, 4) for k in plan.columns)
    guest[:, 0] = 1
    cause = guest[:, 1:2] * host[:, :1] + host[:, 1:2]
    labels = (cause + np.linspace(-1, 1, plan.outputs) + 0.3 * rng.normal(size=(plan.rows, 1)) > 0).astype(
        float
    )
    start = [rng.normal(size=(sum(plan.columns), plan.units)) / 4 for _ in range(2)]
    return guest, host, Labels.of(labels), (start[0], start[1])


def clear(plan: Plan, inputs: Floats, labels: Labels, weights: Floats, common: Any) -> Floats:
    """Train in the clear by the definition: the gradient of the mean logistic loss, units/gain times."""
    velocity, readout = np.zeros_like(weights), plan.readout
    for step in range(plan.steps):
        if step % plan.each == 0:
            order = common.permutation(plan.rows)
        place = step % plan.each * plan.batch
        batch = order[place : place + plan.batch]
        z = inputs[batch] @ weights
        residuals = expit(GAIN / plan.units * np.sin(z) @ readout + labels.offset) - labels.y[batch]
        gradient = inputs[batch].T @ (np.cos(z) * (residuals @ readout.T)) / plan.batch
        rate = plan.learning_rate * (0.5 + 0.5 * np.cos(np.pi * step / plan.steps))
        decay = plan.penalty * weights
        decay[0] = 0
        velocity = plan.momentum * velocity - rate * (gradient + decay)
        weights = weights + velocity
        RING.uniform(common, *weights.shape)  # the stream goes on as on shares
    return weights


def quiet(done: int, total: int) -> None:
    assert done <= total


def on_shares(plan: Plan, transcript: Transcript | None = None) -> tuple[Floats, Floats]:
    """Return the weights of a training on shares, and the scores of all rows."""
    guest, host, labels, starts = generated(plan)
    ends = memory_pair(Party("bank", Role.GUEST), Party("shop", Role.HOST))
    if transcript is not None:
        ends[0].observe(transcript)
    rngs = [DeterministicRng(seed) for seed in (1, 2)]
    both = [
        source.train(end, inputs, y, start, plan, DeterministicRng(9), rng, quiet)
        for end, inputs, y, start, rng in zip(ends, (guest, host), (labels, None), starts, rngs, strict=True)
    ]
    found = run_local(guest=both[0], host=both[1])
    shares = found["guest"], found["host"]
    scored = run_local(
        guest=source.scores(ends[0], guest, shares[0], plan, rngs[0]),
        host=source.scores(ends[1], host, shares[1], plan, rngs[1]),
    )
    assert scored["host"] is None
    return RING.decode(RING.add(*shares), WEIGHT_BITS), scored["guest"]


PLANS = [
    Plan(90, (3, 4), 8, 1, 6, 32, 0.2, 0.9, 1e-3),
    Plan(40, (4, 2), 12, 3, 4, 64, 0.1, 0.5, 0.0),
]


@pytest.mark.parametrize("plan", PLANS, ids=["two classes", "three"])
def test_weights_and_scores_are_those_of_the_clear(plan: Plan) -> None:
    weights, scores = on_shares(plan)
    guest, host, labels, starts = generated(plan)
    inputs = np.hstack([guest, host])
    expected = clear(plan, inputs, labels, starts[0] + starts[1], DeterministicRng(9))
    assert np.abs(expected - starts[0] - starts[1]).max() > 0.1
    np.testing.assert_allclose(weights, expected, atol=1e-3)
    np.testing.assert_allclose(
        scores, GAIN / plan.units * np.sin(inputs @ expected) @ plan.readout, atol=5e-3
    )
