"""Variances and inverses on shares: against numpy, and what the transcript holds."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import pytest

from tests.paillier_keys import private_key
from tests.support import DeterministicRng
from vfl.crypto.product import LatticeBackend
from vfl.crypto.product_paillier import PaillierBackend
from vfl.crypto.ring import RING, Share
from vfl.errors import InvalidData
from vfl.protocols import wide
from vfl.protocols.arithmetic import Arithmetic
from vfl.protocols.channel import Channel, Party, memory_pair, run_local
from vfl.protocols.glm_pairs import Pair
from vfl.protocols.glm_plan import Labels, Plan
from vfl.protocols.inference import Wanted, variances
from vfl.protocols.inference_plan import FISHER_BITS, INVERSE_BITS
from vfl.protocols.inverse import inverse, mirrored
from vfl.protocols.product import exchange_keys
from vfl.protocols.record import Transcript
from vfl.protocols.responses import FloatArray, Identity, Response
from vfl.protocols.wire import Leakage, Role


@final
class Bell(Response):
    """Slopes of a sigmoid near zero, enough for a test: 0.22 - 0.01 z^2."""

    score_bits = residual_bits = 16
    reach = (-4.0, 4.0)

    async def residuals(self, arithmetic: Arithmetic, scores: Share, y: FloatArray | None) -> Share:
        raise NotImplementedError

    async def slopes(self, arithmetic: Arithmetic, scores: Share) -> Share:
        coefficients = [round(0.22 * 2**48), 0, -round(0.01 * 2**16)]
        return await arithmetic.polynomial(scores, coefficients, 32)

    async def pearson(self, arithmetic: Arithmetic, scores: Share, y: FloatArray | None) -> Share | None:
        return None

    def truncations(self) -> Sequence[tuple[float, float]]:
        return [(1, 52)]


class Problem:
    """Whitened blocks, scores, labels and weights of a model, and its variances in numpy."""

    def __init__(self, rows: int, columns: tuple[int, int], response: Response, **options: Any) -> None:
        rng = np.random.default_rng(options.pop("seed", 1))
        common = rng.normal(size=(rows, 2))
        values = [common @ rng.normal(size=(2, k)) / 2 + rng.normal(size=(rows, k)) for k in columns]
        self.backs = [np.linalg.inv(np.linalg.cholesky(x.T @ x / rows)).T for x in values]
        self.matrices = [x @ back for x, back in zip(values, self.backs, strict=True)]
        self.penalties = [0.05 * back.T @ back for back in self.backs]
        options = {"targets": 1, "validation_rows": 0} | options
        self.plan = Plan(
            rows - options["validation_rows"], columns=columns, response=response, inference=True, **options
        )
        self.scores = rng.normal(size=(rows, self.plan.targets))
        self.y = self.scores + 0.5 * rng.normal(size=(rows, self.plan.targets))
        weights = rng.uniform(0.5, 2, rows)
        self.weights = weights / weights.mean() if self.plan.weighted else np.ones(rows)

    def expected(self, slope: Any, *, dispersed: bool) -> list[FloatArray]:
        n, cut = self.plan.rows, self.plan.columns[0]
        x = np.hstack(self.matrices)[:n]
        penalty = np.zeros((x.shape[1], x.shape[1]))
        penalty[:cut, :cut], penalty[cut:, cut:] = self.penalties
        found: list[list[FloatArray]] = [[], []]
        for z, y in zip(self.scores[:n].T, self.y[:n].T, strict=True):
            inner = (x * (self.weights[:n] * slope(z))[:, None]).T @ x / n + penalty
            squares = float(np.sum(self.weights[:n] * (z - y) ** 2)) / (n - x.shape[1])
            covariance = np.linalg.inv(inner) / n * (squares if dispersed else 1)
            for place, block in enumerate((slice(0, cut), slice(cut, None))):
                back = self.backs[place]
                found[place].append(np.diag(back @ covariance[block, block] @ back.T))
        return [np.stack(block, axis=1) for block in found]

    def run(self, seed: int = 1, backend: Any = LatticeBackend) -> tuple[list[FloatArray], Transcript]:
        mask = RING.uniform(DeterministicRng(seed + 50), *self.scores.shape)
        whole = RING.encode(self.scores, self.plan.response.score_bits)
        shares = RING.subtract(whole, mask), mask
        labels = Labels(
            self.y, np.zeros(0), np.zeros(0), np.ones(1), lambda *_: True, 1.0,
            weights=self.weights if self.plan.weighted else None,
        )  # fmt: skip

        async def role(channel: Channel, place: int) -> FloatArray:
            arithmetic = await arithmetic_of(channel, seed + place, backend)
            block = self.matrices[place], self.penalties[place]
            start = np.zeros((self.plan.columns[0], self.plan.targets)) if place == 0 else None
            pair = Pair(arithmetic, self.plan, *block, start)
            wanted = Wanted(self.backs[place], self.penalties[place])
            return await variances(pair, shares[place], None if place else labels, wanted)

        mine, theirs, transcript = two()
        results = run_local(guest=role(mine, 0), host=role(theirs, 1))
        return [results["guest"], results["host"]], transcript


def two() -> tuple[Channel, Channel, Transcript]:
    mine, theirs = memory_pair(Party("guest", Role.GUEST), Party("host", Role.HOST))
    transcript = Transcript()
    mine.observe(transcript)
    return mine, theirs, transcript


async def arithmetic_of(channel: Channel, seed: int, make: Any = LatticeBackend) -> Arithmetic:
    rng = DeterministicRng(seed)
    backend = make(rng)
    await exchange_keys(channel, backend)
    return Arithmetic(channel, backend, rng)


def bell(z: FloatArray) -> FloatArray:
    return np.asarray(0.22 - 0.01 * z**2)


CASES = [
    pytest.param(Bell(), {}, id="slopes"),
    pytest.param(Bell(), {"weighted": True, "validation_rows": 60}, id="weights and validation rows"),
    pytest.param(Identity(), {"targets": 2}, id="dispersions of two targets"),
    pytest.param(Identity(), {"weighted": True}, id="weighted dispersion"),
]


@pytest.mark.parametrize(("response", "options"), CASES)
def test_variances_are_those_of_the_pooled_data(response: Response, options: dict[str, Any]) -> None:
    problem = Problem(400, (3, 5), response, **options)
    linear = isinstance(response, Identity)
    right = problem.expected(np.ones_like if linear else bell, dispersed=linear)
    found, _ = problem.run()
    for mine, expected in zip(found, right, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=2e-3)


@pytest.mark.slow
def test_paillier_gives_the_same() -> None:
    problem = Problem(60, (2, 2), Identity(), iterations=5)
    found, _ = problem.run(backend=lambda _: PaillierBackend(private_key(2048)))
    for mine, expected in zip(found, problem.expected(np.ones_like, dispersed=True), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=2e-3)


def test_slices_of_columns_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(300, (2, 5), Bell())
    whole, _ = problem.run()
    monkeypatch.setattr(wide, "SLICE_ENTRIES", 1300)  # two columns of digits, four vectors
    sliced, transcript = problem.run()
    np.testing.assert_allclose(np.vstack(sliced), np.vstack(whole), rtol=1e-3)
    assert len([r for r in transcript.records if r.kind == "product.masked"]) > 20


@pytest.mark.parametrize(("correlation", "rounds"), [(0.3, 5), (0.999, 16)])
def test_inverse_of_a_shared_matrix(correlation: float, rounds: int) -> None:
    mixing = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))[0] * correlation
    matrix = 0.02 * np.block([[np.eye(4), mixing], [mixing.T, np.eye(4)]])
    mask = mirrored(RING.uniform(DeterministicRng(9), 36), 8)
    shares = RING.subtract(RING.encode(matrix, FISHER_BITS), mask), mask

    async def role(channel: Channel, place: int) -> tuple[Share, float | None]:
        return await inverse(await arithmetic_of(channel, place), shares[place])

    mine, theirs, transcript = two()
    results = run_local(guest=role(mine, 0), host=role(theirs, 1))
    (first, scale), (second, nothing) = results["guest"], results["host"]
    assert scale is not None
    assert nothing is None
    found = scale * RING.decode(RING.add(first, second), INVERSE_BITS)
    np.testing.assert_allclose(np.diag(found), np.diag(np.linalg.inv(matrix)), rtol=5e-3)
    assert sum(r.kind == "inference.step" for r in transcript.records) <= rounds


def test_what_the_data_do_not_determine_has_a_large_variance_and_harms_no_other() -> None:
    problem = Problem(300, (3, 3), Bell())
    problem.penalties = [np.zeros((3, 3)), np.zeros((3, 3))]
    problem.matrices[1] = problem.matrices[1].copy()
    problem.matrices[1][:, 0] = problem.matrices[0][:, 0]
    problem.backs = [np.eye(3), np.eye(3)]
    (guest, host), _ = problem.run()
    assert min(guest[0, 0], host[0, 0]) > 100 * max(guest[1:].max(), host[1:].max())
    problem.matrices[1] = problem.matrices[1][:, 1:]
    problem.penalties[1], problem.backs[1] = np.zeros((2, 2)), np.eye(2)
    problem.plan = Plan(300, 0, (3, 2), Bell(), inference=True)
    right = problem.expected(bell, dispersed=False)
    np.testing.assert_allclose(guest[1:], right[0][1:], rtol=1e-2)
    np.testing.assert_allclose(host[1:], right[1], rtol=1e-2)


def test_the_transcript_holds_what_is_declared_and_depends_on_shapes_alone() -> None:
    shapes = []
    for seed in (1, 2):
        _, transcript = Problem(200, (2, 3), Identity(), seed=seed, weighted=True).run(seed)
        records = [r for r in transcript.records if not r.kind.startswith("inference.")]
        rounds = sum(r.kind == "inference.step" for r in transcript.records)
        before = next(i for i, r in enumerate(transcript.records) if r.kind == "inference.moments")
        shapes.append([(r.kind, r.direction, r.size) for r in transcript.records[:before]])
        assert {r.leakage for r in records} == {Leakage.PUBLIC, Leakage.CIPHERTEXT}
        to_host = {r.leakage for r in transcript.records if r.direction == "sent"}
        assert to_host == {Leakage.PUBLIC, Leakage.CIPHERTEXT, Leakage.CONTROL, Leakage.RESULT}
        opened = [r.kind for r in transcript.records if r.leakage is Leakage.AGGREGATE]
        assert opened == ["inference.dispersion", "inference.moments", *["inference.rest"] * rounds]
        assert [r.kind for r in transcript.records if r.leakage is Leakage.RESULT] == [
            "inference.variances"
        ] * 2
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("columns", "rows", "words"),
    [
        ((3, 4, 2), 100, "one host"),
        ((64, 65), 1000, "128 columns"),
        ((3, 4), 7, "fewer than rows"),
        ((3, 1), 35, "37 numbers to the guest"),
    ],
)
def test_sizes_that_cannot_have_standard_errors(columns: tuple[int, ...], rows: int, words: str) -> None:
    Plan(rows, 0, columns, Identity(), iterations=5)
    with pytest.raises(InvalidData, match=words):
        Plan(rows, 0, columns, Identity(), iterations=5, inference=True)


def test_a_million_rows_stay_within_the_bound_on_failures() -> None:
    for columns, rows in (((50, 50), 1_000_000), ((64, 64), 100_000)):
        assert Plan(rows, 0, columns, Identity(), inference=True).failure_bits < -40
