"""The lattice engine: exact against big integers, within its bounds, fresh, flooded, and strict about bytes."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.support import DeterministicRng
from vfl.crypto.fresh import ReceivedCiphertexts
from vfl.crypto.lattice import (
    GRADIENT,
    SHARES,
    SLOTS,
    Ciphertexts,
    Layout,
    Matrix,
    Parameters,
    PublicKey,
    SecretKey,
    Slots,
    noise_report,
    ntt,
    params,
    products_bytes,
    sampling,
    scheme,
    vector_bytes,
)
from vfl.crypto.lattice.params import FLOODING_BITS, SIGMA, limb_primes
from vfl.errors import CryptoError, EncodingOverflow, InvalidCiphertext, InvalidKey, KeyMismatch

ZERO = np.array([0])


@pytest.fixture
def rng() -> DeterministicRng:
    return DeterministicRng(1)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Parameters]:
    """Parameters of small degree, which the table refuses: for exact comparisons only."""

    def make(degree: int, plain: int = 2, extra: int = 3) -> Parameters:
        monkeypatch.setitem(params.MAX_MODULUS_BITS, degree, 1000)
        return Parameters.of(degree, plain, extra)

    return make


@pytest.fixture(scope="module")
def key() -> SecretKey:
    return SecretKey(GRADIENT, DeterministicRng(b"key"))


def draw(seed: int, bound: int, *shape: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng(seed).integers(-bound, bound, shape, endpoint=True)


def schoolbook(x: list[int], y: list[int], modulus: int) -> list[int]:
    """Product modulo X^N + 1 with Python's integers."""
    out = [0] * len(x)
    for i, left in enumerate(x):
        for j, right in enumerate(y):
            sign = 1 if i + j < len(x) else -1
            out[(i + j) % len(x)] += sign * left * right
    return [value % modulus for value in out]


def received(sent: Any) -> ReceivedCiphertexts:
    return ReceivedCiphertexts(sent.to_bytes())


def open_shares(key: SecretKey, products: Ciphertexts, positions: Any, rng: DeterministicRng) -> Any:
    """Make fresh, send, open, and take the masks away: residues (count, positions, limbs of t)."""
    fresh, masks = key.public.rerandomise(products, positions, rng)
    opened = key.open(received(fresh), len(products), positions)
    return (opened.astype(np.int64) - masks) % np.array(key.params.plain)


def backward(key: SecretKey, matrix: Matrix, vector: Any, rng: DeterministicRng) -> Any:
    layout, form = matrix.layout, key.params
    sent = key.encrypt(layout.pack_rows(form.residues(vector)), rng)
    product = matrix.backward(key.public.accept(received(sent), layout.chunks))
    return form.lift(layout.unpack_columns(open_shares(key, product, layout.column_positions, rng)))


def forward(key: SecretKey, matrix: Matrix, vector: Any, rng: DeterministicRng) -> Any:
    layout, form = matrix.layout, key.params
    sent = key.encrypt(layout.pack_columns(form.residues(vector)), rng)
    product = matrix.forward(key.public.accept(received(sent), layout.groups))
    return form.lift(layout.unpack_rows(open_shares(key, product, layout.row_positions, rng)))


class TestParameters:
    @pytest.mark.parametrize(
        ("degree", "limbs"), [(2048, 2), (4096, 4), (8192, 8), (16384, 15), (1000, 2), (64, 2)]
    )
    def test_what_the_table_does_not_allow_is_refused(self, degree: int, limbs: int) -> None:
        with pytest.raises(InvalidKey):
            Parameters.of(degree, 1, limbs - 1)

    @pytest.mark.parametrize(("degree", "limbs"), [(4096, 3), (8192, 7), (16384, 14)])
    def test_the_largest_allowed_are_taken(self, degree: int, limbs: int) -> None:
        form = Parameters.of(degree, 1, limbs - 1)
        assert form.modulus.bit_length() <= {4096: 109, 8192: 218, 16384: 438}[degree]

    @pytest.mark.parametrize(
        "primes",
        [
            (1 << 29, 3),
            ((1 << 30) - 1, limb_primes(1)[0]),
            (limb_primes(1)[0],) * 2,
            (12289, limb_primes(1)[0]),
        ],
    )
    def test_unsuitable_primes_are_refused(self, primes: tuple[int, int]) -> None:
        with pytest.raises(InvalidKey):
            Parameters(8192, primes[:1], primes[1:])

    def test_no_plaintext_or_no_room_is_refused(self) -> None:
        with pytest.raises(InvalidKey):
            Parameters(8192, limb_primes(2), ())
        with pytest.raises(InvalidKey):
            Parameters(8192, (), limb_primes(2))

    def test_the_sets_offered_hold_a_million_rows(self) -> None:
        norm = 2.0**15 * math.sqrt(1e6)
        for form in (GRADIENT, SHARES):
            assert form.flooding_bits(norm) >= FLOODING_BITS
        GRADIENT.check_range(10**6, 1 << 15, 1 << 23)
        assert SHARES.plain_modulus.bit_length() == 120
        assert math.prod(form.plain_modulus for form in SLOTS) == SHARES.plain_modulus

    def test_products_that_could_wrap_are_refused(self) -> None:
        with pytest.raises(EncodingOverflow):
            GRADIENT.check_range(4 * 10**6, 1 << 15, 1 << 23)

    def test_too_little_flooding_is_refused(self, toy: Callable[..., Parameters]) -> None:
        with pytest.raises(EncodingOverflow):
            Matrix(toy(64, 2, 2), np.ones((10, 1), np.int64), 1 << 15)

    @pytest.mark.parametrize("form", [GRADIENT, SHARES, SLOTS[0]])
    def test_integers_come_back_from_residues(self, form: Parameters) -> None:
        half = form.plain_modulus // 2
        values = [0, 1, -1, half, -half, half // 3]
        assert form.lift(form.residues(np.array(values, object))).tolist() == values

    def test_floats_are_refused(self) -> None:
        with pytest.raises(EncodingOverflow):
            GRADIENT.residues(np.array([0.5]))


class TestSampling:
    def test_errors_have_the_variance_of_the_bound(self, rng: DeterministicRng) -> None:
        drawn = sampling.errors(rng, 100, 8192).astype(np.int64).ravel()
        counts = np.bincount(drawn + 21, minlength=43)
        expected = stats.binom.pmf(np.arange(43), 42, 0.5) * drawn.size
        assert drawn.var() == pytest.approx(SIGMA**2, rel=0.01)
        wide = expected > 10
        assert (
            stats.chisquare(counts[wide], expected[wide] * counts[wide].sum() / expected[wide].sum()).pvalue
            > 1e-6
        )

    def test_ternaries_are_uniform(self, rng: DeterministicRng) -> None:
        drawn = sampling.ternaries(rng, 33, 8192)
        assert stats.chisquare(np.bincount(drawn.ravel().astype(np.int64) + 1, minlength=3)).pvalue > 1e-6

    def test_expansion_is_uniform_deterministic_and_different_per_seed(self) -> None:
        seed = bytes(32)
        first = sampling.expand(GRADIENT, seed, 2)
        np.testing.assert_array_equal(first, sampling.expand(GRADIENT, seed, 2, 1))
        assert not np.array_equal(first, sampling.expand(GRADIENT, b"1" * 32, 2))
        for limb, p in enumerate(GRADIENT.primes):
            assert first[:, limb].max() < p
            assert stats.kstest(first[:, limb].ravel() / p, "uniform").pvalue > 1e-6

    def test_flooding_is_uniform_in_its_interval(self, rng: DeterministicRng) -> None:
        drawn = sampling.flooding(GRADIENT, rng, (2000,))
        flood = 1 << GRADIENT.flood_log
        assert drawn.max() < 1 << 30
        values = sum(words.astype(object) << 30 * place for place, words in enumerate(drawn)) - flood
        assert -flood <= min(values)
        assert max(values) < flood
        scaled = (values / flood).astype(np.float64)
        assert stats.kstest(scaled, "uniform", (-1, 2)).pvalue > 1e-6


class TestExactness:
    @pytest.mark.parametrize("degree", [4, 16, 32])
    def test_products_against_the_schoolbook(
        self, degree: int, toy: Callable[..., Parameters], rng: DeterministicRng
    ) -> None:
        form = toy(degree)
        key, t = SecretKey(form, rng), form.plain_modulus
        m = [rng.below(t) for _ in range(degree)]
        x = draw(degree, 1 << 15, 1, degree)
        sent = key.encrypt(form.residues(np.array([m], object)).transpose(0, 2, 1), rng)
        product = key.public.accept(received(sent), 1).sums(
            scheme.transform(form, x.astype(np.int32))[None], 2.0**15 * math.sqrt(degree)
        )
        opened = form.lift(open_shares(key, product, np.arange(degree), rng)[0])
        assert [int(v) % t for v in opened] == schoolbook(m, x[0].tolist(), t)

    @pytest.mark.parametrize(
        ("rows", "columns"), [(1, 1), (5, 7), (16, 3), (32, 4), (33, 3), (64, 2), (150, 5)]
    )
    @pytest.mark.parametrize("memory", [1 << 31, 0])
    def test_both_orientations_at_every_shape(
        self, rows: int, columns: int, memory: int, toy: Callable[..., Parameters], rng: DeterministicRng
    ) -> None:
        key = SecretKey(toy(64), rng)
        x, r, w = draw(1, 1 << 15, rows, columns), draw(2, 1 << 23, rows), draw(3, 1 << 23, columns)
        matrix = Matrix(key.params, x, 1 << 15, memory=memory)
        assert backward(key, matrix, r, rng).tolist() == (x.T @ r).tolist()
        assert forward(key, matrix, w, rng).tolist() == (x @ w).tolist()

    def test_half_of_the_matrix_prepared(self, toy: Callable[..., Parameters], rng: DeterministicRng) -> None:
        key = SecretKey(toy(64), rng)
        x, r, w = draw(1, 9, 64, 12), draw(2, 9, 64), draw(3, 9, 12)
        matrix = Matrix(key.params, x, 9, memory=4 * 64 * 5 * 8)
        assert 0 < len(matrix._ready) < 12
        assert backward(key, matrix, r, rng).tolist() == (x.T @ r).tolist()
        assert forward(key, matrix, w, rng).tolist() == (x @ w).tolist()

    def test_a_real_gradient_and_scores(self, key: SecretKey, rng: DeterministicRng) -> None:
        rows, columns = 20_000, 3
        x, r, w = draw(1, 1 << 15, rows, columns), draw(2, 1 << 23, rows), draw(3, 1 << 23, columns)
        matrix = Matrix(GRADIENT, x, 1 << 15)
        assert backward(key, matrix, r, rng).tolist() == (x.T @ r).tolist()
        assert forward(key, matrix, w, rng).tolist() == (x @ w).tolist()

    def test_shares_wrap_in_a_ring_of_120_bits(self, rng: DeterministicRng) -> None:
        key, t = SecretKey(SHARES, rng), SHARES.plain_modulus
        x = draw(1, 1 << 15, 100, 2)
        v = np.array([rng.below(t) for _ in range(100)], object)
        got = backward(key, Matrix(SHARES, x, 1 << 15), v, rng)
        assert [int(g) % t for g in got] == [
            sum(int(a) * b for a, b in zip(c, v, strict=True)) % t for c in x.T
        ]

    def test_sums_and_added_plaintexts(self, toy: Callable[..., Parameters], rng: DeterministicRng) -> None:
        form = toy(16)
        key = SecretKey(form, rng)
        first, second, third = (form.residues(draw(k, 1 << 50, 2, 16)).transpose(0, 2, 1) for k in range(3))
        left, right = (key.public.accept(received(key.encrypt(m, rng)), 2) for m in (first, second))
        total = (left + right).add_plain(np.ascontiguousarray(third))
        opened = open_shares(key, total, np.arange(16), rng)
        expected = (first.astype(np.int64) + second + third) % np.array(form.plain)[:, None]
        np.testing.assert_array_equal(opened.transpose(0, 2, 1), expected)
        assert total.norm == 2

    def test_slots_multiply_one_by_one(self, rng: DeterministicRng) -> None:
        form = SLOTS[1]
        key, slots, t = SecretKey(form, rng), Slots(form), form.plain_modulus
        x, y = (rng.residues(t, 2 * 8192).reshape(2, 8192).astype(np.uint32) for _ in range(2))
        product = slots.multiply(
            key.public.accept(received(key.encrypt(slots.encode(x), rng)), 2), y[:, None]
        )
        opened = open_shares(key, product, np.arange(8192), rng).astype(np.uint32)
        np.testing.assert_array_equal(slots.decode(opened), x.astype(np.uint64) * y % t)

    def test_matrices_beyond_their_bound_are_refused(self) -> None:
        with pytest.raises(EncodingOverflow):
            Matrix(GRADIENT, np.array([[5]]), 4)
        with pytest.raises(ValueError, match="integers"):
            Matrix(GRADIENT, np.array([[0.5]]), 4)
        with pytest.raises(ValueError, match="at least one"):
            Layout(GRADIENT, 0, 1)


class TestNoise:
    def test_the_worst_case_at_a_million_rows(self) -> None:
        report = noise_report(10**6, DeterministicRng(5))
        print(report)
        assert report.measured_bits < report.bound_bits < report.measured_bits + 4
        assert report.flooding_bits >= FLOODING_BITS

    def test_operands_along_the_errors_stay_under_the_largest_noise(
        self, toy: Callable[..., Parameters], rng: DeterministicRng
    ) -> None:
        # No evaluator knows the errors; with them it reaches the sum of their absolute values, and not more.
        form = toy(64)
        key = SecretKey(form, rng)
        vector = key.public.accept(key.encrypt(np.zeros((1, 2, 64), np.uint32), rng), 1)
        error = np.asarray(key.noise(vector)[0], np.int64)
        assert np.abs(error).max() <= 21
        aligned = np.sign(error) * (1 << 15)
        x = np.concatenate([aligned[:1], -aligned[:0:-1]])
        product = vector.sums(scheme.transform(form, x[None].astype(np.int32))[None], 2.0**15 * 8)
        assert int(key.noise(product)[0][0]) == np.abs(error).sum() << 15

    def test_switching_and_zero_add_little(
        self, key: SecretKey, rng: DeterministicRng, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Without flooding, what is opened must be right with noise far below the bound: look at it modulo p.
        def zero(form: Parameters, _: object, shape: tuple[int, ...]) -> np.ndarray:
            words = [(1 << form.flood_log) >> 30 * place & (1 << 30) - 1 for place in range(3)]
            return np.tile(np.array(words, np.uint32)[:, None, None], (1, *shape))

        monkeypatch.setattr(sampling, "flooding", zero)
        sent = key.encrypt(np.zeros((4, 2, 8192), np.uint32), rng)
        fresh, masks = key.public.rerandomise(key.public.accept(sent, 4), ZERO, rng)
        opened = key.open(fresh, 4, ZERO)
        np.testing.assert_array_equal(opened, masks)
        whole = key._times_secret(fresh._a, None)[:, 2, 0].astype(np.int64) + fresh._b[:, 0, 2]
        p = GRADIENT.extra[0]
        noise = (whole + p // 2) % p - p // 2
        assert 0 < np.abs(noise).max() < 8192


class TestWhatTheKeyHolderSees:
    def test_opened_coefficients_are_uniform(self, key: SecretKey, rng: DeterministicRng) -> None:
        # All rows zero: without masks every opening would be zero.
        matrix = Matrix(GRADIENT, np.zeros((8192, 1), np.int64), 1 << 15)
        weights = key.encrypt(matrix.layout.pack_columns(GRADIENT.residues([1])), rng)
        product = matrix.forward(key.public.accept(weights, 1))
        fresh, _ = key.public.rerandomise(product, matrix.layout.row_positions, rng)
        opened = key.open(fresh, 1, matrix.layout.row_positions)
        for limb, p in enumerate(GRADIENT.plain):
            counts, _ = np.histogram(opened[..., limb], 64, (0, p))
            assert stats.chisquare(counts).pvalue > 1e-6
        for values in (fresh._a[0], fresh._b[0].T):
            for limb, p in enumerate(GRADIENT.primes[:3]):
                counts, _ = np.histogram(values[limb], 64, (0, p))
                assert stats.chisquare(counts).pvalue > 1e-6

    def test_the_noise_is_flooding_and_not_the_operands(self, key: SecretKey, rng: DeterministicRng) -> None:
        # The key holder's view of the noise, at worst-case rows, is uniform over the flooding's interval.
        rows = 8192
        matrix = Matrix(GRADIENT, np.full((rows, 1), 1 << 15), 1 << 15)
        weights = key.encrypt(matrix.layout.pack_columns(GRADIENT.residues([1])), rng)
        fresh, _ = key.public.rerandomise(
            matrix.forward(key.public.accept(weights, 1)), matrix.layout.row_positions, rng
        )
        p = GRADIENT.extra[0]
        phase = (key._times_secret(fresh._a, None)[0, 2].astype(np.int64) + fresh._b[0, :, 2]) % p
        noise = (phase + p // 2) % p - p // 2
        scaled = noise * (math.prod(GRADIENT.extra) / p) / 2.0**GRADIENT.flood_log
        assert stats.kstest(scaled, "uniform", (-1, 2)).pvalue > 1e-6

    def test_an_unfresh_result_shows_the_matrix(self, key: SecretKey, rng: DeterministicRng) -> None:
        # Control: a' / a in the transformed order is x, exactly.
        x = draw(1, 1 << 15, 8192, 1)
        matrix = Matrix(GRADIENT, x, 1 << 15)
        vector = key.public.accept(
            key.encrypt(matrix.layout.pack_rows(GRADIENT.residues(draw(2, 9, 8192))), rng), 1
        )
        product = matrix.backward(vector)
        recovered = self._quotient(product._a, vector._a)
        np.testing.assert_array_equal(recovered, x[:, 0])
        assert not hasattr(product, "to_bytes")

    def test_a_fresh_result_shows_nothing_of_it(self, key: SecretKey, rng: DeterministicRng) -> None:
        # The same division on what is sent, 1,000 times: neither coefficients of x nor small numbers come out.
        x = draw(1, 1 << 15, 8192, 1)
        matrix = Matrix(GRADIENT, x, 1 << 15)
        vector = key.public.accept(
            key.encrypt(matrix.layout.pack_rows(GRADIENT.residues(draw(2, 9, 8192))), rng), 1
        )
        product = matrix.backward(vector)
        batch = Ciphertexts.join([product] * 25)
        quotients = []
        for _ in range(40):
            fresh, _ = key.public.rerandomise(batch, ZERO, rng)
            quotients.append(self._view(fresh._a, vector._a))
        hits = sum(int((np.abs(q) <= 1 << 15).sum()) for q in quotients)
        right = sum(int((q == x[:, 0]).sum()) for q in quotients)
        chance = 1000 * 8192 * 2**16 / GRADIENT.primes[0]
        assert abs(hits - chance) < 5 * math.sqrt(chance)
        assert right <= 5  # 0.008 expected

    def _quotient(self, products: Any, vector: Any) -> Any:
        """Divide transformed polynomials modulo the first prime: signed coefficients, (count, N)."""
        p, table = GRADIENT.primes[0], GRADIENT.tables
        inverse = np.array([pow(int(v), -1, p) for v in vector[0, 0]], np.uint64)
        values = np.ascontiguousarray((products[:, :1] * inverse % p).astype(np.uint32))
        out = np.empty_like(values)
        ntt.to_coefficients(values, out, table.primes[:1], table.outer, table.inner, table.scale)
        centred = out[:, 0].astype(np.int64)
        return np.squeeze(np.where(centred > p // 2, centred - p, centred))

    def _view(self, sent: Any, vector: Any) -> Any:
        """Scale what was sent, modulo q', back to q, and divide: the best a key holder does without the errors."""
        p = GRADIENT.primes[0]
        lifted = sent[:, 0].astype(np.uint64) * (math.prod(GRADIENT.extra[1:]) % p) % p
        signed = np.where(lifted > p // 2, lifted.astype(np.int64) - p, lifted.astype(np.int64)).astype(
            np.int32
        )
        return self._quotient(scheme.transform(GRADIENT, signed)[:, :1].astype(np.uint64), vector)

    def test_two_replies_to_the_same_product_differ_everywhere(
        self, key: SecretKey, rng: DeterministicRng
    ) -> None:
        product = key.public.accept(key.encrypt(np.zeros((1, 2, 8192), np.uint32), rng), 1)
        first, second = (key.public.rerandomise(product, ZERO, rng)[0] for _ in range(2))
        assert (first._a == second._a).mean() < 1e-3
        assert not np.array_equal(first._b, second._b)


def _vector(key: SecretKey) -> bytes:
    return key.encrypt(np.ones((2, 2, 8192), np.uint32), DeterministicRng(7)).to_bytes()


def _products(key: SecretKey) -> bytes:
    vector = key.public.accept(ReceivedCiphertexts(_vector(key)), 2)
    return key.public.rerandomise(vector, ZERO, DeterministicRng(8))[0].to_bytes()


def _word(raw: bytes, place: int, value: int) -> bytes:
    return raw[:place] + value.to_bytes(4, "little") + raw[place + 4 :]


HEADER = 42
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "header only": lambda raw: raw[:HEADER],
    "truncated": lambda raw: raw[:-1],
    "a limb short": lambda raw: raw[: -4 * 8192],
    "10x size": lambda raw: raw * 10,
    "another key": lambda raw: bytes([raw[0] ^ 1]) + raw[1:],
    "another kind": lambda raw: raw[:32] + bytes([3 - raw[32]]) + raw[33:],
    "wrong level": lambda raw: raw[:33] + bytes([raw[33] - 1]) + raw[34:],
    "wrong positions": lambda raw: _word(raw, 34, 7),
    "wrong count": lambda raw: _word(raw, 38, 3),
    "residue p": lambda raw: _word(raw, HEADER + 32, GRADIENT.primes[0]),
    "residue 2^32 - 1": lambda raw: _word(raw, HEADER + 32, 2**32 - 1),
    "residue p in the last": lambda raw: _word(raw, len(raw) - 4, 2**30),
    "all zero": lambda raw: raw[: HEADER + 32] + bytes(len(raw) - HEADER - 32),
    "repeated": lambda raw: (
        raw[: HEADER + 32] + raw[HEADER + 32 : HEADER + 32 + (len(raw) - HEADER - 32) // 2] * 2
    ),
}


class TestBytes:
    @pytest.fixture(scope="class")
    @staticmethod
    def vector(key: SecretKey) -> bytes:
        return _vector(key)

    @pytest.fixture(scope="class")
    @staticmethod
    def products(key: SecretKey) -> bytes:
        return _products(key)

    @pytest.mark.parametrize("name", DAMAGE)
    def test_damaged_vectors_are_refused(self, name: str, key: SecretKey, vector: bytes) -> None:
        with pytest.raises(InvalidCiphertext):
            key.public.accept(ReceivedCiphertexts(DAMAGE[name](vector)), 2)

    @pytest.mark.parametrize(
        "name", sorted(set(DAMAGE) - {"repeated", "all zero", "residue p", "residue 2^32 - 1"})
    )
    def test_damaged_products_are_refused(self, name: str, key: SecretKey, products: bytes) -> None:
        with pytest.raises(InvalidCiphertext):
            key.open(ReceivedCiphertexts(DAMAGE[name](products)), 2, ZERO)

    def test_bad_polynomials_in_products_are_refused(self, key: SecretKey, products: bytes) -> None:
        half = (len(products) - HEADER) // 2
        first = products[HEADER : HEADER + half]
        bad = [
            first + first,
            bytes(half) + first,
            GRADIENT.primes[0].to_bytes(4, "little") + first[4:] + products[HEADER + half :],
        ]
        for body in bad:
            with pytest.raises(InvalidCiphertext):
                key.open(ReceivedCiphertexts(products[:HEADER] + body), 2, ZERO)

    def test_a_vector_is_no_reply_and_a_reply_no_vector(
        self, key: SecretKey, vector: bytes, products: bytes
    ) -> None:
        with pytest.raises(InvalidCiphertext):
            key.open(ReceivedCiphertexts(vector), 2, ZERO)
        with pytest.raises(InvalidCiphertext):
            key.public.accept(ReceivedCiphertexts(products), 2)

    def test_another_key_is_refused(self, key: SecretKey, vector: bytes, products: bytes) -> None:
        other = SecretKey(GRADIENT, DeterministicRng(b"other"))
        with pytest.raises(InvalidCiphertext, match="expected the key"):
            other.public.accept(ReceivedCiphertexts(vector), 2)
        with pytest.raises(InvalidCiphertext, match="expected the key"):
            other.open(ReceivedCiphertexts(products), 2, ZERO)
        mine = key.public.accept(ReceivedCiphertexts(vector), 2)
        with pytest.raises(KeyMismatch):
            other.public.rerandomise(mine, ZERO, DeterministicRng(9))
        theirs = other.public.accept(other.encrypt(np.ones((2, 2, 8192), np.uint32), DeterministicRng(3)), 2)
        with pytest.raises(KeyMismatch):
            mine + theirs

    def test_a_wrong_secret_opens_to_noise(self, key: SecretKey, rng: DeterministicRng) -> None:
        other = SecretKey(GRADIENT, DeterministicRng(b"other"))
        zeros = key.public.accept(key.encrypt(np.zeros((20, 2, 8192), np.uint32), rng), 20)
        fresh, masks = key.public.rerandomise(zeros, ZERO, rng)
        forged = ReceivedCiphertexts(other.public.id + fresh.to_bytes()[32:])
        assert not (other.open(forged, 20, ZERO) == masks).any()

    def test_sizes_are_the_computed_ones(self, key: SecretKey, vector: bytes, products: bytes) -> None:
        assert len(vector) == vector_bytes(GRADIENT, 2)
        assert len(products) == products_bytes(GRADIENT, 2, 1)
        assert vector_bytes(GRADIENT, Layout(GRADIENT, 100_000, 50).chunks) <= 28 * 100_000
        assert products_bytes(GRADIENT, 50, 1) <= 100_000 * 50

    def public_damage(self, raw: bytes) -> Iterator[bytes]:
        yield b""
        yield raw[:-1]
        yield raw + b"\0"
        yield raw * 10
        yield b"x" + raw[1:]
        yield _word(raw, 8, 4096)
        yield _word(raw, 16, GRADIENT.primes[1])
        yield _word(raw, len(raw) - 4, 2**30)
        yield raw[:-32768] + bytes(32768)

    def test_damaged_public_keys_are_refused(self, key: SecretKey) -> None:
        for raw in self.public_damage(key.public.to_bytes()):
            with pytest.raises(InvalidKey):
                PublicKey(GRADIENT, raw)

    def test_a_key_for_other_parameters_is_refused(self, key: SecretKey) -> None:
        form = Parameters(8192, GRADIENT.plain[::-1], GRADIENT.extra)
        with pytest.raises(InvalidKey, match="other primes"):
            PublicKey(form, key.public.to_bytes())

    def test_random_bytes_never_pass_and_never_crash(
        self, key: SecretKey, products: bytes, rng: DeterministicRng
    ) -> None:
        for _ in range(50):
            place = HEADER + rng.below(len(products) - HEADER - 64)
            raw = products[:place] + b"\xff" * 64 + products[place + 64 :]
            with pytest.raises(CryptoError):
                key.open(ReceivedCiphertexts(raw), 2, ZERO)
