"""Training on shares: against the optimum in the clear, with one host and with several."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pytest
from scipy.special import expit

from tests.support import DeterministicRng
from vfl.crypto.product import LatticeBackend
from vfl.crypto.ring import RING, Share
from vfl.errors import EncodingOverflow, InvalidData, TrainingDiverged
from vfl.protocols.arithmetic import Arithmetic
from vfl.protocols.channel import Party, memory_pair, run_local
from vfl.protocols.glm import guest, host
from vfl.protocols.glm_plan import Fit, Labels, Plan
from vfl.protocols.record import Transcript
from vfl.protocols.responses import FloatArray, Identity, Response
from vfl.protocols.wire import Leakage, Role


@final
class Cubic(Response):
    """A polynomial of the third degree in place of the sigmoid, right between -4 and 4: enough for a test."""

    score_bits = residual_bits = 16
    reach = (-4.0, 4.0)
    linear, cubic = round(0.22 * 2**16), round(-0.004 * 2**16)

    async def residuals(self, arithmetic: Arithmetic, scores: Share, y: FloatArray | None) -> Share:
        mean = await arithmetic.polynomial(scores, [0, self.linear << 32, 0, self.cubic], 48)
        return mean if y is None else RING.subtract(mean, RING.encode(y - 0.5, 16))

    def clear(self, z: FloatArray) -> FloatArray:
        return np.asarray(0.5 + 0.22 * z - 0.004 * z**3)

    async def slopes(self, arithmetic: Arithmetic, scores: Share) -> Share:
        raise NotImplementedError

    async def pearson(self, arithmetic: Arithmetic, scores: Share, y: FloatArray | None) -> Share | None:
        return None

    def truncations(self) -> Sequence[tuple[float, float]]:
        return [(1, 64)]


def whiten(values: FloatArray, strength: float, curvature: float) -> tuple[FloatArray, FloatArray]:
    centred = values - values.mean(axis=0)
    eigenvalues, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    back = (vectors / np.sqrt(eigenvalues + strength / curvature)) @ vectors.T
    return centred @ back, strength * back @ back


@dataclass
class Case:
    """Blocks of all parties, labels, and the clear optimum of the same problem."""

    matrices: list[FloatArray]
    penalties: list[FloatArray]
    y: FloatArray
    weights: FloatArray
    offset: FloatArray

    @classmethod
    def of(cls, rows: int, columns: Sequence[int], targets: int, curvature: float, seed: int = 1) -> "Case":
        rng = np.random.default_rng(seed)
        common = rng.normal(size=(rows, 2))
        values = [0.8 * common @ rng.normal(size=(2, k)) + rng.normal(size=(rows, k)) for k in columns]
        score = sum(x @ rng.normal(size=(x.shape[1], targets)) / 8 for x in values)
        y = (rng.random((rows, targets)) < expit(score)).astype(float) if curvature < 1 else np.asarray(score)
        blocks = [whiten(x, 1e-2, curvature) for x in values]
        one = np.ones((rows, 1))
        matrices = [np.hstack([one, blocks[0][0]]), *(m for m, _ in blocks[1:])]
        penalties = [np.pad(blocks[0][1], ((1, 0), (1, 0))), *(p for _, p in blocks[1:])]
        weights = rng.uniform(0.5, 2, rows)
        return cls(matrices, penalties, y, weights / weights.mean(), rng.normal(size=rows) / 4)

    @property
    def columns(self) -> tuple[int, ...]:
        return tuple(m.shape[1] for m in self.matrices)

    def optimum(self, mean: Any, slope: Any, rows: int, *, weighted: bool) -> list[FloatArray]:
        """Newton's method on the pooled data."""
        x = np.hstack(self.matrices)[:rows]
        edges = np.cumsum([0, *self.columns])
        penalty = np.zeros((edges[-1], edges[-1]))
        for i, j, p in zip(edges, edges[1:], self.penalties, strict=False):
            penalty[i:j, i:j] = p
        weights = self.weights[:rows] if weighted else np.ones(rows)
        offset = self.offset[:rows] if weighted else np.zeros(rows)
        found = []
        for y in self.y[:rows].T:
            u = np.zeros(edges[-1])
            for _ in range(20):
                z = x @ u + offset
                hessian = (x * (weights * slope(z))[:, None]).T @ x / rows + penalty
                u -= np.linalg.solve(hessian, x.T @ (weights * (mean(z) - y)) / rows + penalty @ u)
            found.append(u)
        return np.split(np.stack(found, axis=1), edges[1:-1])


def train(
    case: Case,
    response: Response,
    mean: Any,
    validation: int = 0,
    *,
    weighted: bool = False,
    seed: int = 1,
    iterations: int = 30,
) -> tuple[Fit, list[FloatArray], list[Transcript]]:
    rows = len(case.y) - validation
    bits = 2 if response.reach else 0
    plan = Plan(
        rows, validation, case.columns, response, iterations, case.y.shape[1], bits, weighted=weighted
    )
    start = np.zeros((case.columns[0], case.y.shape[1]))
    start[0] = 0.1
    z = case.matrices[0] @ start + (case.offset[:, None] if weighted else 0)
    roots = np.concatenate([case.weights[:rows], np.sqrt(case.weights[rows:])])
    labels = Labels(
        y=case.y,
        start=start,
        first=(mean(z) - case.y) * (roots[:, None] if weighted else 1),
        curvature=np.full(case.y.shape[1], 0.2 if response.reach else 1.0),
        finished=lambda distances, _: bool((distances[-1] < 1e-3).all()),
        tolerance=1e-3,
        weights=roots if weighted else None,
        offset=case.offset if weighted else None,
    )
    names = [f"host{i}" for i in range(1, len(case.columns))]
    pairs = [memory_pair(Party("guest", Role.GUEST), Party(name, Role.HOST)) for name in names]
    transcripts = [Transcript() for _ in pairs]
    for (mine, _), transcript in zip(pairs, transcripts, strict=True):
        mine.observe(transcript)
    roles: dict[str, Any] = {
        "guest": guest(
            [mine for mine, _ in pairs], case.matrices[0], case.penalties[0], labels, plan, LatticeBackend,
            DeterministicRng(seed),
        )
    }  # fmt: skip
    for place, ((_, theirs), name) in enumerate(zip(pairs, names, strict=True), 1):
        block = case.matrices[place], case.penalties[place]
        rng = DeterministicRng(100 * seed + place)
        roles[name] = host(theirs, *block, plan, place, LatticeBackend, rng)
    results = run_local(**roles)
    return results["guest"], [results[name].weights for name in ("guest", *names)], transcripts


@pytest.mark.parametrize("columns", [(3, 4), (2, 3, 2), (1, 1, 2, 3)])
def test_linear_regression_of_several_parties(columns: tuple[int, ...]) -> None:
    case = Case.of(300, columns, 2, 1.0)
    fit, weights, _ = train(case, Identity(), lambda z: z)
    best = case.optimum(lambda z: z, np.ones_like, 300, weighted=False)
    for found, right in zip(weights, best, strict=True):
        np.testing.assert_allclose(found, right, atol=2e-3)
    assert len(fit.distances) < 15


CUBIC = Cubic()


def slope(z: FloatArray) -> FloatArray:
    return np.asarray(0.22 - 0.012 * z**2)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_link_on_shares_and_validation_rows(weighted: bool) -> None:
    case = Case.of(400, (4, 5), 1, 0.25)
    fit, weights, _ = train(case, CUBIC, CUBIC.clear, 80, weighted=weighted)
    best = case.optimum(CUBIC.clear, slope, 320, weighted=weighted)
    for found, right in zip(weights, best, strict=True):
        np.testing.assert_allclose(found, right, atol=3e-3)
    z = np.hstack(case.matrices)[320:] @ np.vstack(weights)
    z = z + (case.offset[320:, None] if weighted else 0)
    squares = (CUBIC.clear(z) - case.y[320:]) ** 2 * (case.weights[320:, None] if weighted else 1)
    assert fit.losses[-1] == pytest.approx(squares.mean(axis=0), abs=1e-3)
    assert fit.losses[-1] < fit.losses[0]
    assert fit.distances[-1] < 1e-3


def test_other_keys_give_the_same_model() -> None:
    case = Case.of(400, (3, 3), 1, 0.25)
    runs = [np.vstack(train(case, CUBIC, CUBIC.clear, seed=seed)[1]) for seed in (1, 2)]
    assert 0 < np.abs(runs[0] - runs[1]).max() < 1e-4


def test_scores_out_of_range_end_the_training_by_name() -> None:
    case = Case.of(200, (3, 3), 1, 0.25)
    case.matrices[1] = case.matrices[1].copy()
    case.matrices[1][0] = 13.0  # one row whose score is then out of range
    with pytest.raises(TrainingDiverged, match="winsorise"):
        train(case, CUBIC, CUBIC.clear, iterations=2)


def test_too_large_entries_are_refused() -> None:
    case = Case.of(200, (3, 3), 1, 0.25)
    case.matrices[1] = case.matrices[1] * 100
    with pytest.raises(EncodingOverflow, match="whiten"):
        train(case, CUBIC, CUBIC.clear)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": 0}, "rows"),
        ({"columns": (3,)}, "each host"),
        ({"iterations": 101}, "between 1 and 100"),
        ({"iterations": 29}, "no more than 27 are taken"),
        ({"rows": 1 << 40, "validation_rows": 0}, "truncation fails"),
    ],
)
def test_plans_that_cannot_work(change: dict[str, Any], words: str) -> None:
    sizes: dict[str, Any] = {"rows": 100, "validation_rows": 10, "columns": (3, 4), "response": CUBIC}
    Plan(**sizes)
    with pytest.raises(InvalidData, match=words):
        Plan(**(sizes | change))


def test_the_transcript_holds_what_is_declared_and_depends_on_shapes_alone() -> None:
    shapes = []
    for seed in (1, 2):
        case = Case.of(200, (2, 3, 2), 1, 1.0, seed=seed)
        _, _, (first, second) = train(case, Identity(), lambda z: z, seed=seed, iterations=2)
        shapes.append([(r.kind, r.direction, r.size) for r in [*first.records, *second.records]])
        received = {r.leakage for r in first.records if r.direction == "sent"}
        common = {Leakage.PUBLIC, Leakage.CIPHERTEXT, Leakage.RESULT}
        assert received == common | {Leakage.CONTROL}
        assert {r.leakage for r in first.records} == received | {Leakage.UNIFORM, Leakage.AGGREGATE}
    assert shapes[0] == shapes[1]
