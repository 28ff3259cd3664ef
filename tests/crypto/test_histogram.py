"""Encrypted histograms against sums in the clear, at their bounds, and with bad input."""

from typing import Any

import numpy as np
import pytest

from tests.paillier_keys import private_key
from tests.support import DeterministicRng
from vfl.crypto.histogram import Histogram, HistogramFormat
from vfl.crypto.paillier import Ciphertexts, FreshCiphertexts
from vfl.errors import EncodingOverflow, InvalidCiphertext, KeyMismatch

Array = np.ndarray[Any, np.dtype[Any]]
KEY = private_key(512)
PUBLIC = KEY.public_key
FORMAT = HistogramFormat(max_rows=300, fraction_bits=20)
LAYOUT = Histogram(FORMAT, PUBLIC)


def encrypted(gradients: Array, hessians: Array) -> FreshCiphertexts:
    return KEY.encrypt(LAYOUT.encode(gradients, hessians), DeterministicRng(1))


def in_the_clear(values: Array, bins: Array, size: int) -> Array:
    rounded = np.rint(np.ldexp(values, FORMAT.fraction_bits))
    return np.array([np.bincount(column, rounded, size) for column in bins.T]) / 2.0**FORMAT.fraction_bits


@pytest.mark.parametrize(("rows", "features", "size"), [(1, 1, 1), (5, 3, 2), (300, 4, 3), (300, 2, 40)])
def test_sums_by_bin_are_exact(rows: int, features: int, size: int) -> None:
    generator = np.random.default_rng(rows + size)
    gradients, hessians = generator.uniform(-1, 1, rows), generator.uniform(0, 0.25, rows)
    bins = generator.integers(0, size, (rows, features))
    sums = LAYOUT.sums(PUBLIC.accept(encrypted(gradients, hessians), rows), bins, size)
    assert len(sums) == LAYOUT.ciphertexts(features, size) == -(-features * size // LAYOUT.slots)
    reply = sums.rerandomise(DeterministicRng(2))
    found = LAYOUT.decode(KEY.decrypt(PUBLIC.accept(reply, len(sums))), features, size)
    np.testing.assert_array_equal(found[0], in_the_clear(gradients, bins, size))
    np.testing.assert_array_equal(found[1], in_the_clear(hessians, bins, size))


@pytest.mark.parametrize("gradient", [1.0, -1.0])
@pytest.mark.parametrize("hessian", [1.0, -1.0])
def test_sums_at_the_bound_do_not_spill_into_their_neighbours(gradient: float, hessian: float) -> None:
    rows = FORMAT.max_rows
    ciphertexts = encrypted(np.full(rows, gradient), np.full(rows, hessian))
    bins = np.stack([np.zeros(rows, np.int64), np.ones(rows, np.int64)], axis=1)
    low, high = LAYOUT.decode(KEY.decrypt(LAYOUT.sums(ciphertexts, bins, 2)), 2, 2)
    assert low.tolist() == [[rows * gradient, 0], [0, rows * gradient]]
    assert high.tolist() == [[rows * hessian, 0], [0, rows * hessian]]


def test_the_digits_fill_no_more_than_the_plaintext() -> None:
    assert LAYOUT.digit_bits == (300).bit_length() + 20 + 1
    assert 2 * LAYOUT.slots * LAYOUT.digit_bits < PUBLIC.limit.bit_length()
    assert 2 * (LAYOUT.slots + 1) * LAYOUT.digit_bits >= PUBLIC.limit.bit_length()


def test_sums_are_not_fit_to_be_sent() -> None:
    sums = LAYOUT.sums(encrypted(np.ones(2), np.ones(2)), np.zeros((2, 1), np.int64), 2)
    assert type(sums) is Ciphertexts
    assert not hasattr(sums, "to_bytes")


@pytest.mark.parametrize(
    ("gradients", "hessians"),
    [
        (np.array([1.1]), np.array([0.0])),
        (np.array([0.0]), np.array([np.nan])),
        (np.array([np.inf]), np.array([0.0])),
        (np.zeros(2), np.zeros(3)),
        (np.zeros((2, 2)), np.zeros((2, 2))),
        (np.zeros(301), np.zeros(301)),
    ],
    ids=["beyond the bound", "nan", "inf", "lengths", "matrix", "too many rows"],
)
def test_rows_that_do_not_fit_are_refused(gradients: Array, hessians: Array) -> None:
    with pytest.raises(EncodingOverflow):
        LAYOUT.encode(gradients, hessians)


@pytest.mark.parametrize(
    "format",
    [
        HistogramFormat(0),
        HistogramFormat(10, fraction_bits=63),
        HistogramFormat(10, gradient_bound=0.0),
        HistogramFormat(10, hessian_bound=float("inf")),
        HistogramFormat(2**300, fraction_bits=20),
    ],
)
def test_a_format_that_does_not_fit_is_refused(format: HistogramFormat) -> None:
    with pytest.raises(EncodingOverflow):
        Histogram(format, PUBLIC)


@pytest.mark.parametrize(
    ("bins", "size", "reason"),
    [
        (np.zeros((2, 1)), 2, "must be integers"),
        (np.zeros(2, np.int64), 2, "one row for each of 2"),
        (np.zeros((3, 1), np.int64), 2, "one row for each of 2"),
        (np.array([[0], [2]]), 2, "from 0 to 1"),
        (np.array([[0], [-1]]), 2, "from 0 to 1"),
        (np.array([[0], [65536]]), 2, "from 0 to 1"),
        (np.zeros((2, 1), np.int64), 0, "their number from 1"),
        (np.zeros((2, 1), np.int64), 1 << 15, "their number from 1"),
    ],
)
def test_bad_bins_are_refused(bins: Array, size: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        LAYOUT.sums(encrypted(np.ones(2), np.ones(2)), bins, size)


def test_more_rows_than_agreed_are_refused() -> None:
    one = encrypted(np.ones(1), np.ones(1))
    many = Ciphertexts.concatenate(PUBLIC, [one] * 301)
    with pytest.raises(EncodingOverflow, match="301 rows, but the agreed bound covers 300"):
        LAYOUT.sums(many, np.zeros((301, 1), np.int64), 1)


def test_parts_of_another_key_are_refused() -> None:
    other = private_key(1024).encrypt([1], DeterministicRng(1))
    with pytest.raises(KeyMismatch):
        Ciphertexts.concatenate(PUBLIC, [other])


@pytest.mark.parametrize(
    "plaintexts",
    [
        [],
        [0, 0],
        [1 << 2 * LAYOUT.slots * LAYOUT.digit_bits],
        [PUBLIC.limit],
        [(300 << 20) + 1],
        [-(300 << 20) - 1 << LAYOUT.digit_bits],
    ],
    ids=["none", "too many", "too long", "largest", "gradient beyond", "second derivative beyond"],
)
def test_sums_out_of_range_are_refused(plaintexts: list[int]) -> None:
    with pytest.raises(InvalidCiphertext):
        LAYOUT.decode(plaintexts, 1, 2)


def test_joining_puts_neighbours_side_by_side() -> None:
    values = [1, -2, 3, 4, -5]
    joined = KEY.decrypt(KEY.encrypt(values, DeterministicRng(1)).join(2, 30))
    assert joined == [1 - (2 << 30), 3 + (4 << 30), -5]
