"""Fixed point: exact rounding, proved bounds, refusal of everything else."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl.crypto.fixedpoint import FixedPoint, decode
from vfl.errors import EncodingOverflow

BITS = st.integers(0, 40)
REALS = st.floats(-1000.0, 1000.0)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (-2.5, -2), (0.0, 0), (-0.0, 0), (3.0, 3)],
)
def test_ties_go_to_even(value: float, encoded: int) -> None:
    assert FixedPoint(0, 4.0).encode(np.array([value])).tolist() == [encoded]


@given(REALS, BITS)
def test_encoding_is_the_exact_rounding(value: float, bits: int) -> None:
    encoded = int(FixedPoint(bits, 1000.0).encode(np.array([value]))[0])
    assert encoded == round(Fraction(value) * 2**bits)  # Fraction rounds ties to even as well


@given(REALS, BITS)
def test_error_is_at_most_half_a_unit(value: float, bits: int) -> None:
    decoded = decode(FixedPoint(bits, 1000.0).encode(np.array([value])), bits)[0]
    assert abs(Fraction(float(decoded)) - Fraction(value)) <= Fraction(1, 2 ** (bits + 1))


@given(st.integers(-(2**200), 2**200), st.integers(0, 100))
def test_decoding_is_the_nearest_float(integer: int, bits: int) -> None:
    assert decode([integer], bits)[0] == float(Fraction(integer, 2**bits))


@given(st.floats(1e-3, 1e6), BITS.filter(lambda bits: bits >= 10))
def test_no_encoded_number_exceeds_the_limit(bound: float, bits: int) -> None:
    encoding = FixedPoint(bits, bound)
    assert encoding.encode(np.array([bound, -bound])).tolist() == [encoding.limit, -encoding.limit]


def test_shape_is_kept() -> None:
    assert FixedPoint(3, 1.0).encode(np.zeros((4, 2, 3))).shape == (4, 2, 3)


def test_an_empty_array_is_allowed() -> None:
    assert FixedPoint(3, 1.0).encode(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e308, -1.0000001, np.nextafter(1.0, 2.0)])
def test_values_beyond_the_bound_are_counted_not_shown(bad: float) -> None:
    with pytest.raises(
        EncodingOverflow, match=r"^2 of 3 values are not finite or exceed .* bound 1\.0;"
    ) as error:
        FixedPoint(20, 1.0).encode(np.array([0.25, bad, bad]))
    assert "0.25" not in str(error.value)
    assert str(bad) not in str(error.value)


@pytest.mark.parametrize(
    ("bits", "bound", "reason"),
    [
        (-1, 1.0, "fraction bits must lie between 0 and 62"),
        (63, 1.0, "fraction bits must lie between 0 and 62"),
        (20, 0.0, "positive and finite"),
        (20, -1.0, "positive and finite"),
        (20, np.nan, "positive and finite"),
        (20, np.inf, "positive and finite"),
        (20, 1e308, "needs more than 62 bits"),
        (62, 1.0, "needs more than 62 bits"),
        (20, 2.0**42, "needs more than 62 bits"),
        (20, 1e-9, "becomes zero"),
    ],
)
def test_impossible_encodings_are_refused(bits: int, bound: float, reason: str) -> None:
    with pytest.raises(EncodingOverflow, match=reason):
        FixedPoint(bits, bound)


def test_the_largest_encoding_is_exact() -> None:
    bound = float(np.nextafter(2.0**42, 0.0))
    encoding = FixedPoint(20, bound)
    assert encoding.encode(np.array([bound]))[0] == int(bound * 2**20) == encoding.limit < 2**62


def test_decoding_beyond_float64_is_refused() -> None:
    with pytest.raises(EncodingOverflow, match="exceeds float64"):
        decode([1 << 1100], 20)
