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
from vfl.protocols.source_plan import GAIN, WEIGHT_UNIT, Labels, Plan, sylvester
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
        RING.uniform(common, *weights.shape)  # the stream goes on as on shares
        z = inputs[batch] @ weights
        residuals = expit(GAIN / plan.units * np.sin(z) @ readout + labels.offset) - labels.y[batch]
        gradient = inputs[batch].T @ (np.cos(z) * (residuals @ readout.T)) / plan.batch
        rate = plan.learning_rate * (0.5 + 0.5 * np.cos(np.pi * step / plan.steps))
        decay = plan.penalty * weights
        decay[0] = 0
        velocity = plan.momentum * velocity - rate * (gradient + decay)
        weights = weights + velocity
        RING.uniform(common, *weights.shape)
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
    return RING.decode(RING.add(*shares), 0) / WEIGHT_UNIT, scored["guest"]


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


def test_what_crosses() -> None:
    """Keys, ciphertexts, and the host's share of the scores at the end: as often and as large as the module says."""
    transcript, plan = Transcript(), PLANS[1]
    on_shares(plan, transcript)
    kinds = [record.kind for record in transcript.records]
    assert {kind.split(".")[0] for kind in kinds} == {"product", "source"}
    assert [
        r.kind for r in transcript.records if r.leakage is not Leakage.CIPHERTEXT and "keys" not in r.kind
    ] == ["source.scores"]
    products, angles, chain, cosines = 2 * 4, 3, 4 * 2, 2
    scoring = 2 + 4 + 2  # keys, a product, and the sines, which the guest encrypts alone
    assert len(kinds) == 2 + plan.steps * (products + angles + chain + cosines) + scoring + 1
    assert kinds.count("source.scores") == 1


def test_formats_follow_the_sizes() -> None:
    small, large = (
        Plan(1000, (14, 10), 32, 1, 3, 256, 0.1, 0.9, 0.0),
        Plan(10**6, (26, 25), 32, 1, 5, 256, 0.1, 0.9, 0.0),
    )
    assert small.residual_bits > large.residual_bits
    assert max(small.failure_bits, large.failure_bits) <= -40
    assert (small.batch, small.each, small.steps) == (256, 3, 9)
    assert Plan(100, (2, 1), 32, 1, 3, 256, 0.1, 0.9, 0.0).steps == 3


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ((100, (2, 0), 32, 1, 1, 10), "columns of both parties"),
        ((100, (2, 1), 2000, 1, 1, 10), "1024 units"),
        ((100, (2, 5000), 32, 1, 1, 10), "4096 columns"),
        ((10**5, (2, 1), 32, 1, 1, 8192), "batches of 4096"),
        ((100, (2, 1), 8, 8, 1, 10), "raise hidden_units"),
        ((10**9, (1000, 1000), 1024, 100, 1000, 4096), "a truncation fails"),
    ],
)
def test_sizes_out_of_bounds_are_refused(sizes: Any, text: str) -> None:
    with pytest.raises(InvalidData, match=text):
        Plan(*sizes, 0.1, 0.9, 0.0)  # type: ignore[call-arg]


def test_inputs_and_first_weights_have_to_fit() -> None:
    plan = PLANS[0]
    for value in (4.1, np.nan, np.inf):
        with pytest.raises(EncodingOverflow, match="exceeds 4"):
            plan.integers(np.full((2, 3), value))
    with pytest.raises(EncodingOverflow, match="7 x 8"):
        plan.start(np.full((7, 8), 8.1))
    with pytest.raises(EncodingOverflow, match="7 x 8"):
        plan.start(np.zeros((6, 8)))


@pytest.mark.parametrize(("rows", "columns"), [(32, 10), (8, 1), (5, 3), (100, 40)])
def test_the_readout_tells_classes_apart(rows: int, columns: int) -> None:
    matrix = sylvester(rows, columns)
    assert matrix.shape == (rows, columns)
    assert (np.abs(matrix) == 1).all()
    assert len(np.unique(matrix, axis=1).T) == columns
    if rows == 32:
        assert (matrix.T @ matrix == 32 * np.eye(columns)).all()
        assert len(np.unique(matrix, axis=0)) == rows
