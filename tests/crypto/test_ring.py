"""The ring of shares against big integers."""

import numpy as np
import pytest
from scipy import stats

from tests.support import DeterministicRng
from vfl.crypto.lattice.params import limb_primes
from vfl.crypto.ring import RING, Ring, failure_bits
from vfl.errors import EncodingOverflow


@pytest.fixture
def rng() -> DeterministicRng:
    return DeterministicRng(4)


@pytest.fixture
def numbers() -> np.ndarray:
    generator = np.random.default_rng(1)
    edges = [0, 1, -1, (1 << 50) - 1, -(1 << 50)]
    return np.concatenate([edges, generator.integers(-(1 << 50), 1 << 50, 995)])


@pytest.mark.parametrize("ring", [RING, Ring(limb_primes(2)), Ring(limb_primes(7, 3))], ids=["4", "2", "7"])
def test_arithmetic_is_that_of_integers_modulo_t(
    ring: Ring, numbers: np.ndarray, rng: DeterministicRng
) -> None:
    x = ring.lift(ring.uniform(rng, 1000)).astype(object)
    y = numbers.astype(object)
    left, right = ring.integers(x), ring.integers(numbers)

    def same(share: np.ndarray, expected: np.ndarray) -> None:
        np.testing.assert_array_equal(share, ring.integers(expected))

    same(ring.add(left, right), x + y)
    same(ring.subtract(left, right), x - y)
    same(ring.negate(left), -x)
    same(ring.multiply(left, right), x * y)
    same(ring.square(left), x * x)
    same(ring.scale(left, -(3**70)), x * -(3**70))
    np.testing.assert_array_equal(ring.lift(left).astype(object), x)


@pytest.mark.parametrize("bits", [0, 1, 15, 30, 31, 45, 59, 61])
def test_truncation_is_off_by_at_most_one(bits: int, numbers: np.ndarray, rng: DeterministicRng) -> None:
    first = RING.uniform(rng, 1000)
    second = RING.subtract(RING.integers(numbers), first)
    together = RING.lift(RING.add(RING.truncate(first, bits, 0), RING.truncate(second, bits, 1)))
    difference = together.astype(object) - np.array([value >> bits for value in numbers.tolist()], object)
    assert set(difference.tolist()) <= {0, 1}


def test_truncation_rounds_with_the_right_mean(rng: DeterministicRng) -> None:
    first = RING.uniform(rng, 40_000)
    second = RING.subtract(RING.integers(np.full(40_000, 300)), first)
    together = RING.decode(RING.add(RING.truncate(first, 10, 0), RING.truncate(second, 10, 1)), 0)
    assert set(together) == {0.0, 1.0}
    assert stats.binomtest(int(together.sum()), 40_000, 300 / 1024).pvalue > 1e-6


def test_truncation_fails_as_often_as_the_bound_says(rng: DeterministicRng) -> None:
    ring, count, value = Ring(limb_primes(1)), 40_000, 1 << 24  # |x|/t = 2^-6, visible
    first = ring.uniform(rng, count)
    second = ring.subtract(ring.integers(np.full(count, value)), first)
    together = ring.lift(ring.add(ring.truncate(first, 10, 0), ring.truncate(second, 10, 1)))
    failed = int(np.count_nonzero(np.abs(together - (value >> 10)) > 1))
    bound = 2.0 ** failure_bits([(1, 24)], ring.modulus)
    assert stats.binomtest(failed, count, value / ring.modulus).pvalue > 1e-6
    assert failed / count < bound


def test_the_bound_adds_up() -> None:
    assert failure_bits([(2**20, 50), (2**20, 50)]) == pytest.approx(72 - 120, abs=0.01)


@pytest.mark.parametrize("limit", [1, (1 << 20) - 1])
def test_products_with_matrices_are_exact(limit: int, rng: DeterministicRng) -> None:
    matrix = np.random.default_rng(2).integers(-limit, limit + 1, (300, 37), dtype=np.int32)
    wide, long = RING.uniform(rng, 37, 3), RING.uniform(rng, 300, 2)
    exact = matrix.astype(object)
    expected = exact @ RING.lift(wide).astype(object)
    np.testing.assert_array_equal(RING.forward(matrix, wide), RING.integers(expected))
    expected = exact.T @ RING.lift(long).astype(object)
    np.testing.assert_array_equal(RING.backward(matrix, long), RING.integers(expected))


def test_products_stay_exact_over_blocks_of_the_largest_numbers() -> None:
    rows = (1 << 16) + 5
    matrix = np.full((rows, 1), (1 << 20) - 1, np.int32)
    largest = (
        np.array(RING.primes, np.uint32)[:, None, None] - np.uint32(1) + np.zeros((4, rows, 1), np.uint32)
    )
    np.testing.assert_array_equal(
        RING.backward(matrix, largest)[:, 0, 0], RING.integers(np.array([-rows * ((1 << 20) - 1)]))[:, 0]
    )


def test_encoding_and_decoding() -> None:
    values = np.array([0.0, 1.5, -2.25, 1e9, -1e-9])
    np.testing.assert_allclose(RING.decode(RING.encode(values, 30), 30), values, atol=2.0**-31)
    assert RING.decode(RING.integers(np.array([2**100, -(2**100)], object)), 0).tolist() == [
        2.0**100,
        -(2.0**100),
    ]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_numbers_that_do_not_fit_are_refused(bad: float) -> None:
    with pytest.raises(EncodingOverflow, match="62 bits"):
        RING.encode(np.array([bad]), 20)


def test_shares_are_uniform(rng: DeterministicRng) -> None:
    drawn = RING.uniform(rng, 5000)
    for limb, p in enumerate(RING.primes):
        assert stats.kstest(drawn[limb] / p, "uniform").pvalue > 1e-6


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="different primes"):
        Ring([3, 5])
    with pytest.raises(ValueError, match="fit together"):
        RING.add(RING.zeros(3), RING.zeros(4))
    with pytest.raises(ValueError, match="cannot lose"):
        RING.truncate(RING.zeros(3), 120, 0)
    with pytest.raises(EncodingOverflow, match="integers"):
        RING.integers(np.array([0.5]))
