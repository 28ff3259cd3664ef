"""CKKS inner products on generated matrices, formats and damaged bytes."""

import contextlib
import functools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from tests.support import DeterministicRng
from vfl.crypto import ckks_format
from vfl.crypto.ckks import CKKSEvaluator, CKKSKeyHolder, PreparedMatrix
from vfl.crypto.ckks_format import FLOODING_BITS, NUMBER_BYTES, Scales
from vfl.crypto.ckks_ring import DEGREE, MODULUS, SLOTS
from vfl.crypto.fresh import ReceivedCiphertexts
from vfl.crypto.innerproduct import Format
from vfl.errors import EncodingOverflow, InvalidCiphertext, InvalidKey, MalformedMessage

FORMAT = Format(max_rows=5_000, residual_bound=8.0)
PRECISION = FORMAT.max_rows * (8.0 / 2**21 + 1 / 2**25)
RNG = DeterministicRng(b"properties")

formats = st.builds(
    Format,
    max_rows=st.integers(1, 1 << 24),
    residual_bound=st.floats(2.0**-40, 2.0**40),
    residual_bits=st.integers(0, 40),
    matrix_bits=st.integers(0, 40),
)
entries = st.floats(-1, 1, width=64)
columns = st.integers(1, 3)


@functools.cache
def sides() -> tuple[CKKSKeyHolder, CKKSEvaluator, bytes, bytes, PreparedMatrix]:
    """Both sides, an encrypted vector, its masked products and the matrix they came from."""
    holder = CKKSKeyHolder(FORMAT, RNG)
    evaluator = CKKSEvaluator.from_public(FORMAT, holder.public_bytes)
    prepared = evaluator.prepare(np.ones((3, 2)))
    vector = holder.encrypt(np.ones(3), RNG)
    reply, _ = evaluator.masked_products(vector, prepared, RNG)
    return holder, evaluator, vector.to_bytes(), reply.to_bytes(), prepared


@settings(max_examples=40)
@given(data=st.data(), rows=st.one_of(st.integers(1, 40), st.integers(SLOTS - 1, SLOTS + 1)), width=columns)
def test_products_agree_with_numpy(data: st.DataObject, rows: int, width: int) -> None:
    holder, evaluator, *_ = sides()
    x: NDArray[np.float64] = data.draw(
        arrays.arrays(np.float64, (rows, width), elements=entries, fill=entries)
    )
    r = 8 * data.draw(arrays.arrays(np.float64, (rows,), elements=entries, fill=entries))
    reply, masks = evaluator.masked_products(holder.encrypt(r, RNG), evaluator.prepare(x), RNG)
    opened = evaluator.unmask(holder.open_masked(reply, width), masks)
    assert np.abs(opened - x.T @ r).max() <= PRECISION


@given(form=formats)
def test_scales_keep_their_promises_or_are_refused(form: Format) -> None:
    try:
        scales = Scales.of(form)
    except EncodingOverflow:
        return
    unit = math.ldexp(1 / SLOTS, scales.product_bits)
    residual, matrix = 0.5**form.residual_bits, 0.5**form.matrix_bits
    agreed = form.max_rows * (form.residual_bound * matrix + residual) / 2
    chunks = -(-form.max_rows // SLOTS)
    rounding = math.sqrt(DEGREE) / 2 * math.sqrt(chunks * SLOTS * form.max_rows)
    of_matrix = rounding * form.residual_bound / scales.matrix
    of_residual = rounding * 2.0**scales.shift / scales.residual
    noise = 12 * math.sqrt(10.5 * (form.max_rows / SLOTS * scales.matrix**2 + 2 * DEGREE + 1))
    assert scales.flood >= noise * 2**FLOODING_BITS
    assert of_matrix <= agreed / 2
    assert (
        scales.flood / unit + of_matrix + of_residual + form.max_rows * form.residual_bound / 2**46 <= agreed
    )
    assert (
        form.max_rows * form.residual_bound * unit + scales.flood + noise <= scales.limit <= MODULUS / 2**12
    )
    assert scales.matrix < 2**60
    assert form.residual_bound * scales.residual <= 2 ** (58 + scales.shift)
    assert scales.shift >= 0


@given(form=formats)
def test_formats_with_little_demand_are_never_refused(form: Format) -> None:
    easy = Format(
        min(form.max_rows, 100_000), form.residual_bound, form.residual_bits, min(form.matrix_bits, 20)
    )
    assert Scales.of(easy).flood > 0


@given(numbers=st.lists(st.integers(0, MODULUS - 1)))
def test_numbers_survive_the_wire(numbers: list[int]) -> None:
    raw = ckks_format.join_numbers(numbers)
    assert len(raw) == NUMBER_BYTES * len(numbers)
    assert ckks_format.split_numbers(raw, len(numbers)) == numbers


@settings(max_examples=60)
@given(data=st.data())
def test_a_flipped_bit_is_refused_or_is_another_ciphertext(data: st.DataObject) -> None:
    holder, evaluator, vector, reply, prepared = sides()
    damaged = [flip(data, raw) for raw in (vector, reply)]
    with contextlib.suppress(InvalidCiphertext, MalformedMessage):
        _, masks = evaluator.masked_products(ReceivedCiphertexts(damaged[0]), prepared, RNG)
        evaluator.unmask(holder.open_masked(ReceivedCiphertexts(damaged[1]), 2), masks)
    with contextlib.suppress(InvalidKey):
        CKKSEvaluator.from_public(FORMAT, flip(data, holder.public_bytes))


def flip(data: st.DataObject, raw: bytes) -> bytes:
    place = data.draw(st.integers(0, 8 * len(raw) - 1))
    changed = bytearray(raw)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)
