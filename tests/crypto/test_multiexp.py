"""Modular products in bulk: GMP and vector registers against Python's own integers, and against each other."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from gmpy2 import mpz

from tests.paillier_keys import primes
from tests.support import DeterministicRng
from vfl.crypto import lanes_kernels, multiexp
from vfl.crypto.lanes import Lanes
from vfl.crypto.multiexp import Arithmetic, Gmp, arithmetic, inverses

MODULI = {
    "7 bits": 121,
    "206 bits": 2**206
    - 5,  # the longest odd numbers that fit four limbs with two bits to spare, and one more
    "207 bits": 2**207 - 91,
    "512 bits": int(primes(512)[0]) ** 2,
    "all ones": 2**414 - 1,
    "2048 bits": int(primes(2048)[0]) ** 2,
    "4096 bits": int(primes(2048)[0] * primes(2048)[1]) ** 2,
}
ENGINES = [
    Gmp,
    pytest.param(
        Lanes, marks=pytest.mark.skipif(not lanes_kernels.available(), reason="no AVX-512 IFMA here")
    ),
]
Engine = Callable[[mpz], Arithmetic]


def units(modulus: int, count: int, seed: int = 1) -> list[mpz]:
    """Draw units, the largest and 1 among them."""
    rng, found = DeterministicRng(seed), [mpz(modulus - 1), mpz(1)]
    while len(found) < count:
        value = rng.below(modulus)
        if math.gcd(value, modulus) == 1:
            found.append(mpz(value))
    return found[:count]


@pytest.mark.parametrize("modulus", MODULI.values(), ids=MODULI)
@pytest.mark.parametrize("engine", ENGINES)
def test_powers(engine: Engine, modulus: int) -> None:
    values = [*units(modulus, 10), mpz(0)]
    for exponent in (1, 2, 31, 32, 33, modulus):
        assert engine(mpz(modulus)).powers(values, mpz(exponent)) == [
            pow(v, exponent, modulus) for v in values
        ]
    assert engine(mpz(modulus)).powers(values[:1], mpz(5)) == [pow(values[0], 5, modulus)]
    assert engine(mpz(modulus)).powers([], mpz(5)) == []


@pytest.mark.parametrize("modulus", MODULI.values(), ids=MODULI)
@pytest.mark.parametrize("engine", ENGINES)
def test_products_from_tables(engine: Engine, modulus: int) -> None:
    bases = units(modulus, 11)
    digits = np.random.default_rng(1).integers(0, 16, (9, 11)).astype(np.uint8)
    digits[0], digits[1] = 0, 15
    expected = [
        math.prod(pow(int(b), d, modulus) for b, d in zip(bases, row, strict=True)) % modulus
        for row in digits.tolist()
    ]
    products = engine(mpz(modulus)).table(bases, 16)
    assert products(digits) == expected
    assert products(digits[:0]) == []


@pytest.mark.parametrize("rows", [0, 1, 7, 200])
@pytest.mark.parametrize("modulus", [MODULI["7 bits"], MODULI["512 bits"]])
@pytest.mark.parametrize("engine", ENGINES)
def test_products_by_bin(engine: Engine, modulus: int, rows: int) -> None:
    values, size = units(modulus, rows), 5
    bins = np.random.default_rng(rows).integers(-1, size, (rows, 3)).astype(np.int16)
    found = engine(mpz(modulus)).bin_products(values, bins, size)
    for column, products in zip(bins.T, found, strict=True):
        for place in range(size):
            chosen = (int(v) for v, b in zip(values, column, strict=True) if b == place)
            assert products[place] == math.prod(chosen) % modulus


@pytest.mark.parametrize("top", [0, 1, 2, 3, 7, 8, 127, 128, 2**20, 2**61 - 1, 2**62 - 1])
@pytest.mark.parametrize("engine", ENGINES)
def test_products_of_powers_at_the_ends_of_the_range(engine: Engine, top: int) -> None:
    modulus, spacing = MODULI["512 bits"], 70
    values = units(modulus, 11)
    matrix = np.random.default_rng(1).integers(-top, top, (11, 2, 3), endpoint=True)
    matrix[0], matrix[1], matrix[2] = top, -top, 0
    expected = []
    for j in range(3):
        exponents = [int(high) << spacing for high in matrix[:, 0, j]]
        exponents = [e + int(low) for e, low in zip(exponents, matrix[:, 1, j], strict=True)]
        powers = (pow(int(v), e, modulus) for v, e in zip(values, exponents, strict=True))
        expected.append(math.prod(powers) % modulus)
    assert engine(mpz(modulus)).matrix_product(values, matrix, spacing) == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_an_empty_product_is_one(engine: Engine) -> None:
    none = np.zeros((0, 2, 3), np.int64)
    assert engine(mpz(121)).matrix_product([], none, 4) == [1, 1, 1]
    assert engine(mpz(121)).matrix_product(units(121, 2), np.zeros((2, 1, 0), np.int64), 4) == []


@pytest.mark.parametrize("exponents", [(2**40, 2**40 + 31), (2**64 - 1, 2**63)])
def test_the_limbs_of_a_power_do_not_depend_on_unrelated_lanes(exponents: tuple[int, int]) -> None:
    """Eight numbers share a register: one must not change another, wherever it stands."""
    if not lanes_kernels.available():
        pytest.skip("no AVX-512 IFMA here")
    modulus = MODULI["512 bits"]
    values, engine = units(modulus, 8), Lanes(mpz(modulus))
    for exponent in exponents:
        together = engine.powers(values, mpz(exponent))
        assert together == engine.powers(values[::-1], mpz(exponent))[::-1]
        assert together[3] == engine.powers([values[3], mpz(0)], mpz(exponent))[0]


def test_inverses_take_one_inversion() -> None:
    values = units(MODULI["512 bits"], 20)
    found = inverses(values, mpz(MODULI["512 bits"]))
    assert [v * i % MODULI["512 bits"] for v, i in zip(values, found, strict=True)] == [1] * 20
    assert inverses([], mpz(121)) == []
    with pytest.raises(ZeroDivisionError):
        inverses([mpz(3), mpz(11)], mpz(121))


def test_processors_without_the_instructions_use_gmp(monkeypatch: pytest.MonkeyPatch) -> None:
    multiexp._vectors.cache_clear()
    monkeypatch.setattr(lanes_kernels, "available", lambda: False)
    try:
        assert isinstance(arithmetic(mpz(121)), Gmp)
    finally:
        multiexp._vectors.cache_clear()
    monkeypatch.undo()
    assert isinstance(arithmetic(mpz(121)), Lanes) == lanes_kernels.available()
