"""Paillier's homomorphism and the packing bounds, against Python integers."""

import math

import numpy as np
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.paillier_keys import private_key
from tests.support import DeterministicRng
from vfl.crypto.fresh import ReceivedCiphertexts
from vfl.crypto.innerproduct import Format
from vfl.crypto.multiexp import Buckets
from vfl.crypto.packing import PaillierEvaluator, PaillierKeyHolder
from vfl.crypto.paillier import FreshCiphertexts

KEY = private_key(512)
N, LIMIT = int(KEY.public_key.n), KEY.public_key.limit

SEEDS = st.integers(0, 2**32)
PLAINTEXTS = st.integers(-LIMIT, LIMIT)
VECTORS = st.lists(PLAINTEXTS, min_size=1, max_size=4)
SMALL = st.integers(-(2**21), 2**21)


def centred(value: int) -> int:
    return (value + LIMIT) % N - LIMIT


def encrypt(values: list[int], seed: int) -> FreshCiphertexts:
    return KEY.public_key.encrypt(values, DeterministicRng(seed))


@given(VECTORS, SEEDS)
def test_encryption_round_trip(values: list[int], seed: int) -> None:
    rng = DeterministicRng(seed)
    for fresh in (KEY.encrypt(values, rng), KEY.public_key.encrypt(values, rng)):
        received = KEY.public_key.accept(ReceivedCiphertexts(fresh.to_bytes()), len(values))
        assert KEY.decrypt(received) == values
        assert KEY.decrypt(received.rerandomise(rng)) == values


@given(st.lists(st.tuples(PLAINTEXTS, PLAINTEXTS), min_size=1, max_size=4), SEEDS)
def test_sums(pairs: list[tuple[int, int]], seed: int) -> None:
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    expected = [centred(a + b) for a, b in pairs]
    assert KEY.decrypt(encrypt(left, seed).add(encrypt(right, seed + 1))) == expected
    assert KEY.decrypt(encrypt(left, seed).add_plain(right)) == expected


@given(st.lists(st.tuples(PLAINTEXTS, PLAINTEXTS | SMALL), min_size=1, max_size=4), SEEDS)
def test_scaling(pairs: list[tuple[int, int]], seed: int) -> None:
    scaled = encrypt([a for a, _ in pairs], seed).scale([x for _, x in pairs])
    assert KEY.decrypt(scaled) == [centred(a * x) for a, x in pairs]


@given(VECTORS, st.integers(1, 3), st.integers(1, 3), st.integers(0, 200), st.data())
def test_polynomial_products(
    values: list[int], positions: int, columns: int, spacing: int, data: st.DataObject
) -> None:
    count = len(values) * positions * columns
    entries = data.draw(st.lists(SMALL, min_size=count, max_size=count))
    matrix = np.array(entries, dtype=np.int64).reshape(len(values), positions, columns)
    powers = [1 << spacing * (positions - 1 - k) for k in range(positions)]
    expected = [
        sum(
            values[i] * int(matrix[i, k, j]) * powers[k] for i in range(len(values)) for k in range(positions)
        )
        for j in range(columns)
    ]
    product = encrypt(values, 1).polynomial_product(matrix, spacing)
    assert KEY.decrypt(product) == [centred(value) for value in expected]


@given(
    st.lists(st.integers(2, 10**6), min_size=1, max_size=20),
    st.integers(1, 2**62 - 1),
    st.integers(1, 1000),
    st.data(),
)
def test_buckets_reach_every_exponent(
    bases: list[int], bound: int, vectors: int, data: st.DataObject
) -> None:
    modulus = 2**61 - 1  # a prime, so every base is a unit
    exponents = [data.draw(st.integers(-bound, bound) | st.sampled_from([-bound, bound])) for _ in bases]
    buckets = Buckets([mpz(base) for base in bases], bound, vectors, mpz(modulus))
    digits = buckets.digits(np.array(exponents, dtype=np.int64))
    powers = [pow(base, exponent, modulus) for base, exponent in zip(bases, exponents, strict=True)]
    assert buckets.product(digits.ravel().tolist()) == math.prod(powers) % modulus


def at_the_ends(seed: int, shape: tuple[int, ...], bound: float) -> NDArray[np.float64]:
    """Draw numbers of which about half lie on the bound itself."""
    generator = np.random.default_rng(seed)
    inside = generator.uniform(-bound, bound, shape)
    return np.where(generator.integers(0, 2, shape) == 1, inside, np.copysign(bound, inside))


@settings(max_examples=60)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 3),
    residual_bound=st.floats(0.01, 1000.0),
    residual_bits=st.integers(8, 30),
    matrix_bits=st.integers(4, 24),
    bits=st.sampled_from([512, 1024]),
    seed=SEEDS,
)
def test_packed_products_are_exact_up_to_the_bound(
    rows: int, columns: int, residual_bound: float, residual_bits: int, matrix_bits: int, bits: int, seed: int
) -> None:
    format = Format(rows, residual_bound, residual_bits, matrix_bits)
    key, rng = private_key(bits), DeterministicRng(seed)
    holder, evaluator = PaillierKeyHolder(format, key), PaillierEvaluator(format, key.public_key)
    matrix, residuals = (
        at_the_ends(seed, (rows, columns), 1.0),
        at_the_ends(seed + 1, (rows,), residual_bound),
    )
    reply, masks = evaluator.masked_products(holder.encrypt(residuals, rng), evaluator.prepare(matrix), rng)
    opened = holder.open_masked(reply, columns)
    r = [round(math.ldexp(value, residual_bits)) for value in residuals.tolist()]
    x = [[round(math.ldexp(value, matrix_bits)) for value in row] for row in matrix.tolist()]
    expected = [sum(r[i] * x[i][j] for i in range(rows)) for j in range(columns)]
    assert evaluator.unmask_integers(opened, masks) == expected
    assert len(opened) == evaluator.opened_bytes(columns)
