"""The lattice engine on generated shapes, operands at their bounds, and damaged bytes."""

import functools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import DeterministicRng
from vfl.crypto.fresh import ReceivedCiphertexts
from vfl.crypto.lattice import GRADIENT, Layout, Matrix, Parameters, SecretKey, params
from vfl.crypto.lattice.params import limb_primes
from vfl.errors import InvalidCiphertext, InvalidKey

RNG = DeterministicRng(b"lattice properties")
X_BOUND, R_BOUND = 1 << 15, 1 << 23


@functools.cache
def toy_key() -> SecretKey:
    """Return a key of degree 64, which the table of secure parameters does not hold."""
    params.MAX_MODULUS_BITS[64] = 1000
    try:
        return SecretKey(Parameters.of(64, 2, 3), RNG)
    finally:
        del params.MAX_MODULUS_BITS[64]


@functools.cache
def sent() -> tuple[SecretKey, bytes, bytes]:
    """Return a real key, a vector of one ciphertext and its masked reply."""
    key = SecretKey(GRADIENT, RNG)
    vector = key.encrypt(np.ones((1, 2, GRADIENT.degree), np.uint32), RNG)
    fresh, _ = key.public.rerandomise(key.public.accept(vector, 1), np.array([0]), RNG)
    return key, vector.to_bytes(), fresh.to_bytes()


def operands(bound: int) -> st.SearchStrategy[int]:
    """Mostly extremes: the bounds, zero and their neighbours."""
    return st.sampled_from([bound, -bound, bound - 1, 1 - bound, 0, 1, -1]) | st.integers(-bound, bound)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 200), st.integers(1, 6), st.sampled_from([0, 1 << 31]))
def test_products_are_exact_at_the_bounds(data: st.DataObject, rows: int, columns: int, memory: int) -> None:
    key = toy_key()
    form = key.params
    pattern = st.lists(operands(X_BOUND), min_size=7, max_size=7)
    x = np.resize(np.array(data.draw(pattern), np.int64), (rows, columns))
    r = np.resize(np.array(data.draw(st.lists(operands(R_BOUND), min_size=5, max_size=5)), np.int64), rows)
    matrix = Matrix(form, x, X_BOUND, memory=memory)
    layout = matrix.layout
    vector = key.public.accept(key.encrypt(layout.pack_rows(form.residues(r)), RNG), layout.chunks)
    product = matrix.backward(vector)
    assert np.abs(np.asarray(key.noise(product), np.float64)).max() < form.noise_bound(product.norm)
    fresh, masks = key.public.rerandomise(product, layout.column_positions, RNG)
    opened = key.open(fresh, layout.groups, layout.column_positions)
    values = form.lift((opened.astype(np.int64) - masks) % np.array(form.plain))
    assert values.ravel()[:columns].tolist() == (x.T @ r).tolist()


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 100), st.integers(1, 40))
def test_forward_products_are_exact_in_the_whole_ring(data: st.DataObject, rows: int, columns: int) -> None:
    key = toy_key()
    form, t = key.params, key.params.plain_modulus
    x = np.resize(np.array(data.draw(st.lists(operands(X_BOUND), min_size=5, max_size=5))), (rows, columns))
    w = [data.draw(st.sampled_from([0, 1, t - 1, t // 2, t // 2 + 1])) for _ in range(columns)]
    matrix = Matrix(form, x, X_BOUND)
    layout = matrix.layout
    vector = key.public.accept(
        key.encrypt(layout.pack_columns(form.residues(np.array(w, object))), RNG), layout.groups
    )
    fresh, masks = key.public.rerandomise(matrix.forward(vector), layout.row_positions, RNG)
    opened = key.open(fresh, layout.chunks, layout.row_positions)
    values = form.lift(layout.unpack_rows((opened.astype(np.int64) - masks) % np.array(form.plain)))
    expected = [sum(int(a) * b for a, b in zip(row, w, strict=True)) % t for row in x]
    assert [int(value) % t for value in values] == expected


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 41), st.integers(1, 255))
def test_any_change_of_a_header_is_refused(place: int, change: int) -> None:
    key, vector, reply = sent()
    for raw, accept in (
        (vector, lambda received: key.public.accept(received, 1)),
        (reply, lambda received: key.open(received, 1, np.array([0]))),
    ):
        damaged = ReceivedCiphertexts(raw[:place] + bytes([raw[place] ^ change]) + raw[place + 1 :])
        try:
            accept(damaged)
        except InvalidCiphertext:
            continue
        raise AssertionError("a damaged header was accepted")


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5_000_000), st.integers(1, 500))
def test_every_layout_has_a_place_for_each_number(rows: int, columns: int) -> None:
    layout = Layout(GRADIENT, rows, columns)
    assert layout.chunks * layout.stride >= rows
    assert layout.groups * layout.columns_each >= columns
    assert layout.columns_each * layout.stride <= GRADIENT.degree
    assert len(layout.column_positions) == layout.columns_each
    assert layout.column_positions.max() + layout.stride <= GRADIENT.degree


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 16), st.integers(1, 16), st.sampled_from([1024, 2048, 4096, 8192, 16384]))
def test_parameters_follow_the_table_and_leave_room(plain: int, extra: int, degree: int) -> None:
    bits = math.prod(limb_primes(plain + extra)).bit_length()
    allowed = bits <= params.MAX_MODULUS_BITS[degree]
    try:
        form = Parameters.of(degree, plain, extra)
    except InvalidKey:
        assert not allowed
        return
    assert allowed
    # What is flooded, the noise and the rounding of the switch together stay below half a step of the message.
    step, flood = math.prod(form.extra), 1 << form.flood_log
    noise = flood >> params.FLOODING_BITS
    assert flood + noise + step // form.extra[0] * degree < step / 2
