"""The ring of CKKS: kernels against plain integers, encoding and products against SEAL."""

import hashlib
import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray
from tenseal import sealapi

from tests.support import DeterministicRng
from vfl.crypto import ckks_kernels as kernels
from vfl.crypto import ckks_ring as ring
from vfl.crypto import seal
from vfl.crypto.ckks_ring import DEGREE, MODULUS, PRIMES, SEED_BYTES, SLOTS, Integers, Residues
from vfl.crypto.lattice import sampling

Objects = NDArray[np.object_]
LARGEST = np.repeat(np.array(PRIMES, np.uint64)[:, None] - np.uint64(1), DEGREE, axis=1)
BIG = np.array(PRIMES, object)[:, None]


def drawn(seed: int, *shape: int) -> Residues:
    rng = DeterministicRng(seed)
    each = [rng.residues(p, math.prod(shape) * DEGREE).reshape(*shape, DEGREE) for p in PRIMES]
    return np.stack(each, axis=-2)


def whole(values: Residues) -> Objects:
    return values.astype(object)


def small(rows: NDArray[np.int8]) -> Objects:
    """Transform small polynomials, as Python's integers."""
    return whole(ring.transform(rows.astype(np.int64)))


def crt(pair: list[int]) -> int:
    p, r = PRIMES
    return int((pair[0] * r * pow(r, -1, p) + pair[1] * p * pow(p, -1, r)) % MODULUS)


def mean(values: Objects) -> int:
    """The constant coefficient modulo q of transformed values, shape (2, DEGREE)."""
    sums = values.sum(axis=1)
    return crt([int(s) * pow(DEGREE, -1, p) % p for s, p in zip(sums, PRIMES, strict=True)])


def plaintext(values: NDArray[np.float64], scale: float) -> tuple[sealapi.Plaintext, Residues]:
    plain = sealapi.Plaintext()
    sealapi.CKKSEncoder(seal.context()).encode(values.tolist(), seal.context().first_parms_id(), scale, plain)
    return plain, seal.residues(plain, 1, 2)[0]


class TestTransform:
    def test_is_evaluation_at_the_roots_of_unity(self) -> None:
        rng = np.random.default_rng(1)
        polynomial = rng.integers(-(2**59), 2**59, (1, DEGREE))
        values = ring.transform(polynomial)[0]
        for limb, p in enumerate(PRIMES):
            (psi,) = ring.transform(np.eye(1, DEGREE, 1, dtype=np.int64))[:, limb]  # X itself
            assert len(set(psi.tolist())) == DEGREE
            assert all(pow(x, DEGREE, p) == p - 1 for x in psi[:50].tolist())
            for place in (0, 1, 4095, DEGREE - 1):
                x, total = int(psi[place]), 0
                for coefficient in polynomial[0, ::-1].tolist():
                    total = (total * x + coefficient) % p
                assert total == values[limb, place]

    @pytest.mark.parametrize("bound", [2**60 - 1, -(2**60) + 1])
    def test_takes_coefficients_below_2_60(self, bound: int) -> None:
        values = ring.transform(np.full((1, DEGREE), bound, np.int64))[0]
        assert (values < np.array(PRIMES, np.uint64)[:, None]).all()
        assert mean(whole(values)) == bound % MODULUS


class TestEncoding:
    @pytest.mark.parametrize("size", [1, 100, SLOTS])
    def test_is_that_of_seal(self, size: int) -> None:
        values = np.random.default_rng(size).uniform(-1, 1, size)
        padded = np.zeros((1, SLOTS))
        padded[0, :size] = values
        assert np.array_equal(ring.transform(ring.encode(padded, 2.0**30))[0], plaintext(values, 2.0**30)[1])

    def test_the_constant_coefficient_is_the_sum_of_the_slots(self) -> None:
        values = np.random.default_rng(1).uniform(-1, 1, (3, SLOTS))
        found = ring.encode(values, 2.0**50)[:, 0]
        assert found == pytest.approx(2.0**50 * values.sum(axis=1) / SLOTS, abs=1)

    def test_coefficients_stay_within_the_largest_slot(self) -> None:
        values = np.random.default_rng(1).choice([-1.0, 1.0], (20, SLOTS))
        assert np.abs(ring.encode(values, 2.0**59)).max() <= 2**59


class TestProducts:
    def test_are_those_of_seal(self) -> None:
        evaluator, count, results = sealapi.Evaluator(seal.context()), 5, 3
        c0, c1 = drawn(1, count), drawn(2, count)
        values = np.random.default_rng(3).uniform(-1, 1, (results, count, SLOTS))
        operands = np.stack([ring.transform(ring.encode(v, 2.0**30)) for v in values])
        sums, polynomials = ring.products(c0, c1, operands)
        for result in range(results):
            total = seal.ciphertext(np.zeros_like(c0[0]), np.zeros_like(c0[0]))
            for k in range(count):
                plain, _ = plaintext(values[result, k], 2.0**30)
                plain.scale, term = 1.0, sealapi.Ciphertext()
                evaluator.multiply_plain(seal.ciphertext(c0[k], c1[k]), plain, term)
                evaluator.add_inplace(total, term)
            expected = seal.residues(total, 2, 2)
            assert np.array_equal(polynomials[result], expected[1])
            assert ring.constants(sums[result : result + 1]) == [mean(whole(expected[0]))]

    @pytest.mark.parametrize("count", [1, 3, 4, kernels.LAZY, 2 * kernels.LAZY + 5])
    def test_sums_of_any_length_are_exact(self, count: int) -> None:
        primes = np.array(PRIMES, np.uint64)
        scale = ring._tables().scale
        values = np.empty((count, 2, 8), np.uint64)
        values[:] = primes[:, None] - np.uint64(1)
        values[:, :, 1:] -= drawn(count, 1)[0, :, :7] >> np.uint64(30)
        sums, out = np.ones((1, 2), np.uint64), np.empty((1, 2, 8), np.uint64)
        kernels.accumulate(values, values, values[None], sums, out, primes, scale)
        exact = (whole(values) ** 2).sum(axis=0) % BIG
        assert (out[0] == exact).all()
        assert sums[0].tolist() == (exact.sum(axis=1) % BIG[:, 0]).tolist()

    def test_inner_products_are_exact(self) -> None:
        left = np.concatenate([drawn(1, 1), LARGEST[None]])
        for right in (drawn(2, 1)[0], LARGEST):
            found = ring.constants(ring.inner_products(left, right))
            assert found == [mean(whole(one) * whole(right)) for one in left]

    def test_reduction_takes_all_pairs_of_words(self) -> None:
        for p, scale in zip(PRIMES, ring._tables().scale, strict=True):
            for low in (0, 1, p, 2**64 - 1):
                for high in (0, 1, p - 1, p, 2**64 - 1):
                    found = kernels.reduce(np.uint64(low), np.uint64(high), np.uint64(p), scale)
                    assert found == (low + (high << 64)) % p


class TestEncryption:
    SECRET = sampling.ternaries(DeterministicRng(b"secret"), 1, DEGREE)

    @pytest.mark.parametrize("shift", [0, 16, 100])
    def test_is_the_message_and_an_error_under_the_secret(self, shift: int) -> None:
        message: Integers = np.random.default_rng(shift).integers(-(2**59), 2**59, (3, DEGREE))
        a, s = drawn(4, 3), ring.transform(self.SECRET.astype(np.int64))[0]
        c0 = ring.encrypt(message, shift, a, ring.negated(s), DeterministicRng(5))
        error = sampling.errors(DeterministicRng(5), 3, DEGREE)
        rest = whole(c0) + whole(a) * whole(s) - whole(ring.transform(message)) * 2**shift - small(error)
        assert not (rest % BIG).any()

    def test_of_zero_is_fresh_randomness_under_the_public_key(self) -> None:
        public, sums, c1 = drawn(6, 2), drawn(7, 1)[0, :, :4].T.copy(), drawn(8, 4)
        found, polynomials = ring.add_zeros(sums, c1, public, DeterministicRng(9))
        rng = DeterministicRng(9)
        u, error = sampling.ternaries(rng, 4, DEGREE), sampling.errors(rng, 4, DEGREE)
        (constant,) = sampling.errors(rng, 1, 4)
        b, a = whole(public)
        assert not ((whole(c1) + a * small(u) + small(error) - whole(polynomials)) % BIG).any()
        expected = whole(sums) + (b * small(u)).sum(axis=2) + DEGREE * constant.astype(object)[:, None]
        assert not ((expected - whole(found)) % BIG[:, 0]).any()
        assert len({row.tobytes() for row in u}) == 4

    def test_of_zero_decrypts_to_a_small_number(self) -> None:
        keys, rng = seal.generate(), DeterministicRng(10)
        sums, c1 = ring.add_zeros(
            np.zeros((50, 2), np.uint64), np.zeros((50, 2, DEGREE), np.uint64), keys.public[:, :2].copy(), rng
        )
        inner = ring.constants(ring.inner_products(c1, keys.secret))
        phase = [(c0 + i) % MODULUS for c0, i in zip(ring.constants(sums), inner, strict=True)]
        noise = np.array([x - MODULUS * (x > MODULUS // 2) for x in phase], np.float64)
        norm = math.sqrt(10.5 * (2 * DEGREE * 2 / 3 + 1))  # u and s are ternary: two thirds of their digits
        assert 0.6 * norm < noise.std() < 1.5 * norm
        assert np.abs(noise).max() < 12 * math.sqrt(10.5 * (2 * DEGREE + 1))


class TestExpansion:
    def test_is_a_function_of_the_seed(self) -> None:
        first, again, other = ring.expand([bytes(SEED_BYTES), bytes(SEED_BYTES), b"\x01" * SEED_BYTES])
        assert np.array_equal(first, again)
        assert not np.any(first == other)
        assert not np.any(first[0] == first[1])

    def test_is_frozen(self) -> None:
        seed = bytes(range(SEED_BYTES))
        (values,) = ring.expand([seed])
        stream = Cipher(algorithms.ChaCha20(seed, bytes(4) + (1).to_bytes(12, "little")), None).encryptor()
        words = [int.from_bytes(stream.update(bytes(8)), "little") % 2**60 for _ in range(50)]
        assert values[1, :50].tolist() == words
        assert (values < np.array(PRIMES, np.uint64)[:, None]).all()
        digest = hashlib.sha256(values.astype("<u8").tobytes()).hexdigest()
        assert digest == "d6bb9b4ce0fad29311eeb83a21040e711112a8aca78a0242613a528ba34c827a"

    def test_leaves_out_what_is_not_below_the_prime(self) -> None:
        p = PRIMES[0]
        words = np.array([p, 5, 2**60 - 1, 2**63 + 7, p - 1, 9], np.uint64)
        out = np.zeros(3, np.uint64)
        assert kernels.uniform(words, np.uint64(p), out) == 3
        assert out.tolist() == [5, 7, p - 1]
        assert kernels.uniform(words[:2], np.uint64(p), out) == 1
