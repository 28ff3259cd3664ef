"""Discrete Gaussian noise and the noisy encoding: distributions, bounds, and what the papers say of both."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import DeterministicRng
from vfl.crypto import discrete_gaussian
from vfl.crypto.discrete_gaussian import LARGEST_SIGMA, sample
from vfl.crypto.noisy import NoisyEncoding, _hadamard
from vfl.errors import EncodingOverflow, InvalidData


def probabilities(sigma: int, reach: int) -> np.ndarray:
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    result: np.ndarray = weights / weights.sum()
    return result


class TestDiscreteGaussian:
    @pytest.mark.parametrize("sigma", [1, 2, 5])
    def test_every_value_is_as_frequent_as_it_must_be(self, sigma: int) -> None:
        size, reach = 200_000, 4 * sigma
        found = sample(DeterministicRng(sigma), sigma, size)
        expected = size * probabilities(sigma, 40 * sigma)[36 * sigma : -36 * sigma]
        counts = np.array([(found == value).sum() for value in range(-reach, reach + 1)])
        statistic = float(((counts - expected) ** 2 / expected).sum())
        degrees = 2 * reach
        assert statistic < degrees + 5 * math.sqrt(2 * degrees)

    @pytest.mark.parametrize("sigma", [30, 4097, LARGEST_SIGMA])
    def test_moments_and_tails(self, sigma: int) -> None:
        size = 100_000
        found = sample(DeterministicRng(sigma), sigma, size) / sigma
        assert abs(found.mean()) < 5 / math.sqrt(size)
        assert abs(found.var() - 1) < 5 * math.sqrt(2 / size)
        assert abs((found**4).mean() - 3) < 5 * math.sqrt(96 / size)
        for reach, part in ((1, 0.3173), (2, 0.0455), (3, 0.0027)):
            chance = (
                part
                if sigma > 30
                else (np.abs(np.arange(-1200, 1201)) > reach * 30) @ probabilities(30, 1200)
            )
            assert abs((np.abs(found) > reach).mean() - chance) < 5 * math.sqrt(chance / size)

    def test_coins_are_exact(self) -> None:
        words = np.frombuffer(DeterministicRng(3).bytes(8 * 4_000_000), "<u8").copy()
        for numerator, denominator in ((0, 7), (1, 3), (3, 3), (5, 2), (9, 2)):
            at, heads, count = 0, 0, 100_000 if denominator < 3 else 200_000
            heads = _flips(words, numerator, denominator, count)
            chance = math.exp(-numerator / denominator)
            assert abs(heads / count - chance) <= 5 * math.sqrt(chance * (1 - chance) / count), (
                numerator,
                at,
            )

    def test_samples_are_independent(self) -> None:
        found = sample(DeterministicRng(9), 50, 100_000).astype(float)
        for lag in (1, 2, 7):
            assert abs(np.corrcoef(found[:-lag], found[lag:])[0, 1]) < 5 / math.sqrt(found.size)

    def test_it_is_deterministic_under_a_generator(self) -> None:
        assert np.array_equal(sample(DeterministicRng(1), 9, 70_000), sample(DeterministicRng(1), 9, 70_000))

    @pytest.mark.parametrize("sigma", [0, -1, LARGEST_SIGMA + 1])
    def test_range(self, sigma: int) -> None:
        with pytest.raises(EncodingOverflow, match="sigma is an integer"):
            sample(DeterministicRng(1), sigma, 1)


def _flips(words: np.ndarray, numerator: int, denominator: int, count: int) -> int:
    mask = discrete_gaussian._mask(np.uint64(denominator))
    at, heads = 0, 0
    for _ in range(count):
        outcome, at = discrete_gaussian._coin(
            words, at, np.uint64(numerator), np.uint64(denominator), np.uint64(mask)
        )
        heads += outcome
    assert at < words.size
    return heads


class TestNoisyEncoding:
    @given(st.integers(1, 300), st.floats(0.01, 100), st.integers(0, 1000))
    @settings(max_examples=40, deadline=None)
    def test_rounded_vectors_keep_the_limit(self, dimension: int, clip: float, seed: int) -> None:
        encoding = NoisyEncoding(dimension, clip, 1.0, 5, 3)
        rng = DeterministicRng(seed)
        raw = np.frombuffer(rng.bytes(8 * encoding.size), "<i8") / 2.0**63
        values = raw * (encoding.clip * encoding.scale / np.linalg.norm(raw))
        rounded = encoding._rounded(values, rng)
        assert int(rounded @ rounded) <= encoding.limit
        assert np.abs(rounded - values).max() < 1
        assert encoding.limit >= (encoding.clip * encoding.scale) ** 2

    def test_rounding_keeps_means(self) -> None:
        encoding = NoisyEncoding(4, 1.0, 1.0, 3, 3)
        values = np.array([0.25, -0.25, 10.5, -3.9])
        rng = DeterministicRng(5)
        mean = np.mean([encoding._rounded(values, rng) for _ in range(20_000)], axis=0)
        np.testing.assert_allclose(mean, values, atol=0.02)

    @pytest.mark.parametrize("dimension", [1, 5, 64, 1000])
    def test_sums_are_right_but_for_the_noise_asked_for(self, dimension: int) -> None:
        encoding = NoisyEncoding(dimension, 2.0, 0.5, 20, 8)
        rng = DeterministicRng(dimension)
        rows = np.array([np.cos(np.arange(dimension) * (i + 1)) for i in range(20)])
        rows *= 1.5 / np.linalg.norm(rows, axis=1, keepdims=True)
        errors = []
        for trial in range(max(1, 400 // dimension)):
            name = b"%d" % trial
            total = sum(encoding.encode(row, name, rng).astype(np.uint64) for row in rows)
            errors.append(encoding.decode(np.asarray(total), name) - rows.sum(axis=0))
        spread = np.sqrt(np.mean(np.square(errors)))
        expected = math.sqrt(20 * (encoding.sigma**2 + 0.25)) / encoding.scale
        assert expected == pytest.approx(0.5 * 2.0 * math.sqrt(20 / 8), rel=0.02)
        assert 0.8 * expected < spread < 1.2 * expected

    def test_what_is_too_long_is_clipped(self) -> None:
        encoding = NoisyEncoding(256, 1.0, 2.0**-6, 3, 3)
        rng = DeterministicRng(1)
        found = encoding.decode(encoding.encode(np.full(256, 100.0), b"", rng).astype(np.uint64), b"")
        assert found.mean() == pytest.approx(1 / 16, rel=0.1)

    def test_no_coordinate_stands_out(self) -> None:
        encoding = NoisyEncoding(4096, 1.0, 2.0**-5, 100, 50)
        one = np.zeros(4096)
        one[17] = 1.0
        rng = DeterministicRng(2)
        total = sum(encoding.encode(one, b"same", rng).astype(np.uint64) for _ in range(100))
        error = encoding.decode(np.asarray(total), b"same") - 100 * one
        assert np.abs(error).max() < 10 * math.sqrt(100 / 50) * 2.0**-5

    def test_the_transform_is_its_own_inverse(self) -> None:
        values = np.frombuffer(DeterministicRng(1).bytes(8 * 64), "<i8") / 2.0**63
        np.testing.assert_allclose(_hadamard(_hadamard(values)), 64 * values, atol=1e-12)
        matrix = np.array([_hadamard(row) for row in np.eye(8)])
        assert np.array_equal(matrix @ matrix.T, 8 * np.eye(8))
        assert set(matrix.ravel()) == {-1.0, 1.0}

    def test_costs_are_those_of_the_paper(self) -> None:
        encoding = NoisyEncoding(10, 1.0, 2.0**-9, 4, 4)  # as little noise as is possible
        variance, d = encoding.sigma**2, encoding.size
        assert encoding.sigma == 2
        tau = 10 * sum(math.exp(-2 * math.pi**2 * variance * k / (k + 1)) for k in range(1, 4))
        sensitivity = encoding.limit / (4 * variance)
        first, second = encoding.costs(3)
        assert first == pytest.approx((3 * sensitivity / 2, 3 * tau * d))
        assert second == pytest.approx((3 * (math.sqrt(sensitivity) + math.sqrt(d) * tau) ** 2 / 2, 0.0))

    def test_the_bound_on_the_sum_of_noises_holds(self) -> None:
        """Renyi divergences of the exact distribution of a sum, shifted by its sensitivity, are within the costs."""
        one = probabilities(1, 25)
        total = np.convolve(np.convolve(one, one), one)
        tau = 10 * sum(math.exp(-2 * math.pi**2 * k / (k + 1)) for k in (1, 2))
        for shift, order in itertools.product((1, 2, 3), (2, 4, 8)):
            p, q = total[shift:], total[:-shift]
            seen = (p > 1e-200) & (q > 1e-200)
            terms = order * np.log(p[seen]) + (1 - order) * np.log(q[seen])
            divergence = float(np.logaddexp.reduce(terms)) / (order - 1)
            assert divergence > 0.99 * order * shift**2 / (2 * 3) - tau
            assert divergence <= order * shift**2 / (2 * 3) + tau

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ((0, 1.0, 1.0, 3, 3), InvalidData),
            ((5, 0.0, 1.0, 3, 3), InvalidData),
            ((5, 1.0, 0.0, 3, 3), InvalidData),
            ((5, 1.0, 1.0, 3, 4), InvalidData),
            ((5, 1.0, 1e9, 3, 3), EncodingOverflow),
        ],
    )
    def test_what_is_not_possible(
        self, arguments: tuple[int, float, float, int, int], error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            NoisyEncoding(*arguments)

    def test_numbers_have_to_be_finite(self) -> None:
        with pytest.raises(InvalidData, match="not finite"):
            NoisyEncoding(2, 1.0, 1.0, 3, 3).encode(np.array([1.0, np.nan]), b"", DeterministicRng(1))
