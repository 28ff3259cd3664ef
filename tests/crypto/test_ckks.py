"""CKKS inner products: right within the agreed precision, masked, fresh, flooded, and deaf to malformed bytes."""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gmpy2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from tenseal import sealapi

from tests.support import DeterministicRng
from vfl.crypto import ckks, ckks_ring, seal
from vfl.crypto import ckks_format as wire
from vfl.crypto.ckks import PUBLIC_BYTES, CKKSEvaluator, CKKSKeyHolder
from vfl.crypto.ckks_format import CHUNK, FLOODING_BITS, NUMBER_BYTES, REPLY, Scales
from vfl.crypto.ckks_ring import (
    DEGREE,
    MODULUS,
    PRIMES,
    SEED_BYTES,
    SLOTS,
    SPECIAL_PRIME,
    FloatArray,
    Integers,
    Residues,
)
from vfl.crypto.fresh import FreshCiphertexts, ReceivedCiphertexts
from vfl.crypto.innerproduct import Format
from vfl.errors import CryptoError, EncodingOverflow, InvalidCiphertext, InvalidKey, MalformedMessage

FORMAT = Format(max_rows=10_000, residual_bound=1.0)
SCALES = Scales.of(FORMAT)
HEADER_BYTES = PUBLIC_BYTES - 6 * DEGREE * 8
IMPOSSIBLE = 1e-9  # SEAL's keys cannot be replayed, so a statistical test may fail this often


@pytest.fixture(scope="module")
def holder() -> CKKSKeyHolder:
    return CKKSKeyHolder(FORMAT, DeterministicRng(b"flooding"))


@pytest.fixture(scope="module")
def evaluator(holder: CKKSKeyHolder) -> CKKSEvaluator:
    return CKKSEvaluator.from_public(FORMAT, holder.public_bytes)


@pytest.fixture
def rng() -> DeterministicRng:
    return DeterministicRng(1)


def received(sent: FreshCiphertexts) -> ReceivedCiphertexts:
    return ReceivedCiphertexts(sent.to_bytes())


def precision(form: Format) -> float:
    """Worst rounding error of fixed-point products with the format's fraction bits."""
    residual, matrix = 0.5**form.residual_bits, 0.5**form.matrix_bits
    return form.max_rows * (form.residual_bound * matrix + residual) / 2


def draw(seed: int, *shape: int) -> FloatArray:
    return np.random.default_rng(seed).uniform(-1, 1, shape)


def constant_of_product(left: Integers, right: Integers) -> int:
    """Return the constant coefficient of a product modulo X^N + 1, in plain integers."""
    turned = [int(right[0]), *(-int(c) for c in right[:0:-1])]
    return sum(int(a) * b for a, b in zip(left, turned, strict=True))


def centred(number: int) -> int:
    return (number + MODULUS // 2) % MODULUS - MODULUS // 2


class TestProducts:
    @pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 5), (SLOTS, 2), (SLOTS + 1, 2), (9_999, 3)])
    def test_agree_with_numpy(
        self, rows: int, columns: int, holder: CKKSKeyHolder, evaluator: CKKSEvaluator, rng: DeterministicRng
    ) -> None:
        x, r = draw(rows, rows, columns), draw(columns, rows)
        vector = received(holder.encrypt(r, rng))
        reply, masks = evaluator.masked_products(vector, evaluator.prepare(x), rng)
        opened = holder.open_masked(received(reply), columns)
        assert np.abs(evaluator.unmask(opened, masks) - x.T @ r).max() <= precision(FORMAT)
        assert len(vector.to_bytes()) == evaluator.vector_bytes(rows)
        assert len(reply.to_bytes()) == evaluator.reply_bytes(columns)
        assert len(opened) == evaluator.opened_bytes(columns)

    @pytest.mark.parametrize(
        ("x", "r"),
        [
            (np.ones((10_000, 1)), np.ones(10_000)),
            (np.ones((10_000, 1)), -np.ones(10_000)),
            (np.ones((10_000, 2)), np.resize([1.0, -1.0], 10_000)),
            (np.zeros((5_000, 2)), np.ones(5_000)),
            (np.concatenate([np.zeros((SLOTS, 1)), np.ones((1, 1))]), np.full(SLOTS + 1, 0.5)),
            (np.full((3, 1), 2.0**-30), np.ones(3)),
            (np.ones((3, 1)), np.full(3, 5e-324)),
            (-np.eye(6), np.linspace(-1, 1, 6)),
        ],
        ids=["bound", "-bound", "alternating", "zero", "zero chunk", "small x", "denormal r", "identity"],
    )
    def test_agree_at_the_extremes(
        self,
        x: FloatArray,
        r: FloatArray,
        holder: CKKSKeyHolder,
        evaluator: CKKSEvaluator,
        rng: DeterministicRng,
    ) -> None:
        reply, masks = evaluator.masked_products(holder.encrypt(r, rng), evaluator.prepare(x), rng)
        opened = evaluator.unmask(holder.open_masked(reply, x.shape[1]), masks)
        assert np.abs(opened - x.T @ r).max() <= precision(FORMAT)

    @pytest.mark.parametrize(
        "form",
        [
            Format(1, 1.0),
            Format(4_096, 2.0**-10),
            Format(300, 1e6),
            Format(10**6, 1.0),
            Format(20, 1.0, 10, 8),
        ],
    )
    def test_agree_in_other_formats(self, form: Format, rng: DeterministicRng) -> None:
        holder = CKKSKeyHolder(form, rng)
        evaluator = CKKSEvaluator.from_public(form, holder.public_bytes)
        rows = min(form.max_rows, 5_000)
        x, r = draw(1, rows, 1), draw(2, rows) * form.residual_bound
        reply, masks = evaluator.masked_products(holder.encrypt(r, rng), evaluator.prepare(x), rng)
        error = np.abs(evaluator.unmask(holder.open_masked(reply, 1), masks) - x.T @ r).max()
        assert error <= precision(form)

    def test_a_prepared_matrix_serves_any_number_of_vectors(
        self, holder: CKKSKeyHolder, evaluator: CKKSEvaluator, rng: DeterministicRng
    ) -> None:
        x = draw(3, 50, 2)
        prepared = evaluator.prepare(x)
        for seed in range(3):
            r = draw(seed, 50)
            reply, masks = evaluator.masked_products(holder.encrypt(r, rng), prepared, rng)
            opened = evaluator.unmask(holder.open_masked(reply, 2), masks)
            assert np.abs(opened - x.T @ r).max() <= precision(FORMAT)

    @pytest.mark.parametrize("data", ["uniform", "standardised", "one in a hundred", "constant", "small"])
    def test_the_usual_error_is_far_below_the_agreed_one(self, data: str, rng: DeterministicRng) -> None:
        """With the default fraction bits the error at 100,000 rows is some 10^-4, whatever the columns."""
        generator, rows = np.random.default_rng(1), 100_000
        x = {
            "uniform": generator.uniform(-1, 1, (rows, 3)),
            "standardised": np.clip(generator.standard_normal((rows, 3)) / 6, -1, 1),
            "one in a hundred": (generator.random((rows, 3)) < 0.01).astype(np.float64),
            "constant": np.full((rows, 3), 1 / 3),
            "small": generator.uniform(-1, 1, (rows, 3)) * 1e-4,
        }[data]
        r = (generator.random(rows) < 0.3).astype(np.float64) - 0.3
        form = Format(rows, 1.0)
        holder = CKKSKeyHolder(form, rng)
        evaluator = CKKSEvaluator.from_public(form, holder.public_bytes)
        reply, masks = evaluator.masked_products(holder.encrypt(r, rng), evaluator.prepare(x), rng)
        error = np.abs(evaluator.unmask(holder.open_masked(reply, 3), masks) - x.T @ r).max()
        assert 1e-7 < error < 2e-4

    def test_the_default_precision_is_below_a_millionth(self) -> None:
        assert precision(FORMAT) <= 1e-6 * FORMAT.max_rows * FORMAT.residual_bound


class TestRefusedInput:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.0000001, 1e308])
    def test_numbers_beyond_the_bound(
        self, value: float, holder: CKKSKeyHolder, evaluator: CKKSEvaluator, rng: DeterministicRng
    ) -> None:
        with pytest.raises(EncodingOverflow, match="1 of 3 values"):
            holder.encrypt(np.array([0.0, value, 0.5]), rng)
        with pytest.raises(EncodingOverflow, match="1 of 3 values"):
            evaluator.prepare(np.array([[0.0], [value], [0.5]]))

    def test_more_rows_than_agreed(
        self, holder: CKKSKeyHolder, evaluator: CKKSEvaluator, rng: DeterministicRng
    ) -> None:
        with pytest.raises(EncodingOverflow, match="10001 rows"):
            holder.encrypt(np.zeros(10_001), rng)
        with pytest.raises(EncodingOverflow, match="10001 rows"):
            evaluator.prepare(np.zeros((10_001, 1)))

    def test_shapes(self, holder: CKKSKeyHolder, evaluator: CKKSEvaluator, rng: DeterministicRng) -> None:
        with pytest.raises(ValueError, match="1 dimensions"):
            holder.encrypt(np.zeros((3, 1)), rng)
        with pytest.raises(ValueError, match="at least one number"):
            evaluator.prepare(np.zeros((3, 0)))

    @pytest.mark.parametrize(
        "form",
        [
            Format(0, 1.0),
            Format(1, 0.0),
            Format(1, math.nan),
            Format(1, math.inf),
            Format(10, 1.0, residual_bits=-1),
            Format(10**12, 1.0),
            Format(10_000, 1.0, residual_bits=60, matrix_bits=40),
        ],
    )
    def test_formats_without_room(self, form: Format, rng: DeterministicRng) -> None:
        with pytest.raises(EncodingOverflow):
            CKKSKeyHolder(form, rng)
        with pytest.raises(EncodingOverflow):
            CKKSEvaluator.from_public(form, bytes(PUBLIC_BYTES))


class TestParameters:
    def test_lie_within_the_standard(self) -> None:
        # Homomorphic Encryption Security Standard (2018), table 1, uniform ternary secret: N = 8192 allows
        # log2 q <= 218 for 128 bits of classical security and <= 152 for 192.
        assert DEGREE == 8192
        assert (MODULUS * SPECIAL_PRIME).bit_length() <= 152
        parameters = seal.context().key_context_data().qualifiers()
        assert parameters.sec_level == sealapi.SEC_LEVEL_TYPE.TC192

    @pytest.mark.parametrize("prime", [*PRIMES, SPECIAL_PRIME])
    def test_primes_have_the_roots_of_unity(self, prime: int) -> None:
        assert gmpy2.is_prime(prime)
        assert prime % (2 * DEGREE) == 1

    def test_a_context_below_the_level_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        larger = sealapi.CoeffModulus.Create(DEGREE, [60])[0].value()
        monkeypatch.setattr(seal, "SPECIAL_PRIME", larger)
        with pytest.raises(ValueError, match="SEAL refuses"):
            seal.context.__wrapped__()

    @pytest.mark.parametrize("form", [FORMAT, Format(1, 1.0), Format(10**6, 1.0), Format(100_000, 100.0)])
    def test_a_number_under_a_wrong_key_is_almost_never_in_range(self, form: Format) -> None:
        assert 2 * Scales.of(form).limit / MODULUS <= 2**-12

    def test_products_at_the_bound_are_in_range(self) -> None:
        largest = FORMAT.max_rows * FORMAT.residual_bound * 2**SCALES.product_bits / SLOTS
        assert largest + SCALES.flood <= SCALES.limit


class TestResidues:
    def test_leave_and_enter_unchanged(self, holder: CKKSKeyHolder) -> None:
        given = np.stack([draw_residues(b"c0"), draw_residues(b"c1")])
        assert np.array_equal(seal.residues(seal.ciphertext(*given), 2, 2), given)
        public = np.frombuffer(holder.public_bytes, "<u8", offset=HEADER_BYTES).reshape(2, 3, DEGREE)
        assert np.array_equal(seal.residues(seal.public_key(public).data(), 2, 3), public)

    def test_a_compressed_stream_is_read_number_by_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given = np.stack([draw_residues(b"c0"), np.zeros_like(draw_residues(b""))])
        source = seal.ciphertext(*given)
        with seal._file() as path:
            source.save(path)
            assert seal._stored(Path(path).read_bytes()) is None  # the zeros were compressed
        assert np.array_equal(seal.residues(source, 2, 2), given)
        plain = seal_plaintext(draw(1, 10), 2.0**60)
        fast = seal.residues(plain, 1, 2)
        monkeypatch.setattr(seal, "_stored", lambda stream: None)
        assert np.array_equal(seal.residues(plain, 1, 2), fast)

    def test_streams_are_the_same_in_a_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given = np.stack([draw_residues(b"c0"), draw_residues(b"c1")])
        monkeypatch.delattr(os, "memfd_create")
        assert np.array_equal(seal.residues(seal.ciphertext(*given), 2, 2), given)


def seal_plaintext(values: FloatArray, scale: float) -> Any:
    plain = sealapi.Plaintext()
    sealapi.CKKSEncoder(seal.context()).encode(values.tolist(), seal.context().first_parms_id(), scale, plain)
    return plain


class TestKeys:
    def test_two_generated_ones_have_nothing_in_common(self) -> None:
        first, second = seal.generate(), seal.generate()
        assert not np.any(first.public[:, :2] == second.public[:, :2])
        assert np.count_nonzero(first.secret == second.secret) < 10
        assert str(first) == "KeyPair(...)"

    def test_a_given_one_is_used(self, rng: DeterministicRng) -> None:
        keys = seal.generate()
        one, two = (CKKSKeyHolder(FORMAT, rng, keys) for _ in range(2))
        assert one.public_bytes == two.public_bytes
        evaluator = CKKSEvaluator.from_public(FORMAT, one.public_bytes)
        x, r = draw(1, 20, 2), draw(2, 20)
        reply, masks = evaluator.masked_products(one.encrypt(r, rng), evaluator.prepare(x), rng)
        assert np.abs(evaluator.unmask(two.open_masked(reply, 2), masks) - x.T @ r).max() <= precision(FORMAT)

    def test_halves_of_different_keys_are_refused(self, rng: DeterministicRng) -> None:
        pair = seal.KeyPair(seal.generate().secret, seal.generate().public)
        with pytest.raises(InvalidKey, match="do not belong together"):
            CKKSKeyHolder(FORMAT, rng, pair)


class TestRandomness:
    def test_a_forked_process_draws_a_key_of_its_own(self) -> None:
        code = """
import hashlib, os
from vfl.crypto import seal
seal.context()
child = os.fork()
os.write(1, hashlib.sha256(seal.generate().secret.tobytes()).hexdigest().encode() + b"\\n")
child and os.waitpid(child, 0)
"""
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True)
        assert len(done.stdout.split()) == 2
        assert len(set(done.stdout.split())) == 2


def draw_residues(seed: bytes) -> Residues:
    rng = DeterministicRng(seed)
    return np.stack([rng.residues(p, DEGREE) for p in PRIMES])


def even_spread(numbers: list[int], bound: int) -> float:
    """P value of a chi-squared test of numbers in [0, bound) against uniform."""
    counts = np.bincount([16 * n // bound for n in numbers], minlength=16)
    return float(stats.chisquare(counts).pvalue)


class TestWhatTheKeyHolderSees:
    @staticmethod
    def numbers(reply: FreshCiphertexts, columns: int) -> list[int]:
        items = np.frombuffer(reply.to_bytes(), REPLY, columns, 32)
        return [int.from_bytes(number.tobytes(), "little") for number in items["number"]]

    @pytest.fixture
    def views(
        self, holder: CKKSKeyHolder, evaluator: CKKSEvaluator, rng: DeterministicRng
    ) -> Callable[[], Iterator[tuple[int, int]]]:
        vector, prepared = holder.encrypt(np.ones(4), rng), evaluator.prepare(np.ones((4, 40)))

        def run() -> Iterator[tuple[int, int]]:
            for _ in range(5):
                reply, _ = evaluator.masked_products(vector, prepared, rng)
                opened = holder.open_masked(reply, 40)
                starts = range(0, len(opened), NUMBER_BYTES)
                decrypted = [int.from_bytes(opened[i : i + NUMBER_BYTES], "little") for i in starts]
                yield from zip(self.numbers(reply, 40), decrypted, strict=True)

        return run

    def test_masked_numbers_are_uniform(self, views: Callable[[], Iterator[tuple[int, int]]]) -> None:
        sent, decrypted = zip(*views(), strict=True)
        assert even_spread(list(sent), MODULUS) > IMPOSSIBLE
        assert even_spread(list(decrypted), MODULUS) > IMPOSSIBLE
        assert len(set(decrypted)) == len(decrypted)

    def test_unmasked_numbers_would_not_be(
        self, views: Callable[[], Iterator[tuple[int, int]]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(DeterministicRng, "below", lambda self, bound: 0)  # masks, and the flooding, gone
        assert even_spread([decrypted for _, decrypted in views()], MODULUS) < IMPOSSIBLE

    def test_polynomials_are_uniform_and_fresh(
        self, holder: CKKSKeyHolder, evaluator: CKKSEvaluator, rng: DeterministicRng
    ) -> None:
        vector, prepared = holder.encrypt(np.ones(4), rng), evaluator.prepare(np.ones((4, 1)))
        replies = [evaluator.masked_products(vector, prepared, rng)[0].to_bytes() for _ in range(2)]
        first, second = (np.frombuffer(raw, REPLY, 1, 32)["polynomial"][0] for raw in replies)
        assert not np.any(first == second)
        for values, prime in zip(np.concatenate([first, second]), PRIMES * 2, strict=True):
            assert even_spread([int(v) for v in values], prime) > IMPOSSIBLE

    def test_features_are_recovered_from_products_that_are_not_fresh_and_only_from_those(
        self, holder: CKKSKeyHolder, evaluator: CKKSEvaluator, rng: DeterministicRng
    ) -> None:
        x = draw(1, SLOTS, 1)
        vector, prepared = holder.encrypt(draw(2, SLOTS), rng), evaluator.prepare(x)
        item = np.frombuffer(vector.to_bytes(), CHUNK, 1, 32)[0]
        (a,) = ckks_ring.expand([item["seed"].tobytes()])

        unfresh = evaluator.products(vector, prepared).polynomials[0]
        assert np.abs(divide(unfresh, a) - x[:, 0]).max() < 1e-6

        reply, _ = evaluator.masked_products(vector, prepared, rng)
        fresh = np.frombuffer(reply.to_bytes(), REPLY, 1, 32)["polynomial"][0]
        assert np.count_nonzero(np.abs(divide(fresh, a) - x[:, 0]) < 0.01) == 0

    def test_products_that_are_not_fresh_cannot_be_sent(
        self, holder: CKKSKeyHolder, evaluator: CKKSEvaluator, rng: DeterministicRng
    ) -> None:
        products = evaluator.products(holder.encrypt(np.ones(4), rng), evaluator.prepare(np.ones((4, 1))))
        assert not isinstance(products, FreshCiphertexts)
        with pytest.raises(AttributeError, match="to_bytes"):
            holder.open_masked(products, 1)  # type: ignore[arg-type]


def divide(product: Residues, factor: Residues) -> FloatArray:
    """Attack: divide transformed polynomials and decode the quotient as a column of X."""
    quotient = [
        [int(a) * pow(int(b), -1, p) % p for a, b in zip(*pair, strict=True)]
        for *pair, p in zip(product, factor, PRIMES, strict=True)
    ]
    nothing, plain = np.zeros((2, DEGREE), np.uint64), sealapi.Plaintext()
    secret = sealapi.KeyGenerator(seal.context()).secret_key()
    carrier = seal.ciphertext(np.array(quotient, np.uint64), nothing)
    sealapi.Decryptor(seal.context(), secret).decrypt(carrier, plain)  # c0 + 0 s, whatever s is
    plain.scale = SCALES.matrix
    decoded: NDArray[np.float64] = np.array(
        sealapi.CKKSEncoder(seal.context()).decode_double(plain), dtype=np.float64
    )
    return decoded


class TestWhatTheEvaluatorSees:
    """Opened numbers must not be exact: (c1 s)_0 would be a linear equation in the secret key."""

    ROWS, COLUMNS = 3_000, 40

    @pytest.fixture
    def deviations(
        self, holder: CKKSKeyHolder, evaluator: CKKSEvaluator, rng: DeterministicRng
    ) -> Callable[[], list[int]]:
        """Opened numbers minus masks minus the exact coefficients of the encoded X and r."""
        x, r = draw(1, self.ROWS, self.COLUMNS), draw(2, self.ROWS)
        coarse = wire.encode(r, SCALES.residual / 2.0**SCALES.shift)
        encoded = [wire.encode(column, SCALES.matrix)[0] for column in x.T]
        exact = [constant_of_product(column, coarse[0]) << SCALES.shift for column in encoded]

        def run() -> list[int]:
            reply, masks = evaluator.masked_products(holder.encrypt(r, rng), evaluator.prepare(x), rng)
            opened = holder.open_masked(reply, self.COLUMNS)
            numbers = [int.from_bytes(opened[NUMBER_BYTES * i :][:NUMBER_BYTES], "little") for i in range(40)]
            return [centred(n - m - e) for n, m, e in zip(numbers, masks, exact, strict=True)]

        return run

    def test_noise_is_what_the_bound_says(
        self, deviations: Callable[[], list[int]], holder: CKKSKeyHolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(holder, "_flood", lambda: 0)
        noise = np.array(deviations(), dtype=np.float64)
        expected = math.sqrt(10.5 * self.ROWS / 3 / SLOTS) * SCALES.matrix  # E x^2 = 1/3
        assert 0.5 * expected < noise.std() < 1.7 * expected
        assert np.abs(noise).max() * 2**FLOODING_BITS < SCALES.flood

    def test_flooding_covers_it(self, deviations: Callable[[], list[int]]) -> None:
        shifted = [d + SCALES.flood for _ in range(5) for d in deviations()]
        assert min(shifted) > -(SCALES.flood >> FLOODING_BITS)
        assert max(shifted) < 2 * SCALES.flood + (SCALES.flood >> FLOODING_BITS)
        inside = [min(max(s, 0), 2 * SCALES.flood) for s in shifted]
        assert even_spread(inside, 2 * SCALES.flood + 1) > IMPOSSIBLE

    def test_a_key_opens_a_limited_number(
        self, evaluator: CKKSEvaluator, rng: DeterministicRng, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        holder = CKKSKeyHolder(FORMAT, rng)
        evaluator = CKKSEvaluator.from_public(FORMAT, holder.public_bytes)
        monkeypatch.setattr(ckks, "OPENINGS_PER_KEY", 5)
        vector, prepared = holder.encrypt(np.ones(4), rng), evaluator.prepare(np.ones((4, 3)))
        reply, _ = evaluator.masked_products(vector, prepared, rng)
        holder.open_masked(reply, 3)
        with pytest.raises(CryptoError, match="fresh key"):
            holder.open_masked(reply, 3)


def with_residue(raw: bytes, offset: int, value: int) -> bytes:
    return raw[:offset] + value.to_bytes(8, "little") + raw[offset + 8 :]


class TestMalformedKeys:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda raw: b"", "has 0"),
            (lambda raw: raw[:-1], "bytes"),
            (lambda raw: raw + raw[-3 * DEGREE * 8 :], "bytes"),
            (lambda raw: raw * 10, "bytes"),
            (lambda raw: b"vfl.ckkz" + raw[8:], "other parameters"),
            (lambda raw: raw[:8] + (4096).to_bytes(4, "little") + raw[12:], "other parameters"),
            (lambda raw: with_residue(raw, 12, PRIMES[1]), "other parameters"),
            (lambda raw: with_residue(raw, 36, FORMAT.max_rows + 1), "other parameters"),
            (lambda raw: with_residue(raw, HEADER_BYTES, PRIMES[0]), "residues"),
            (lambda raw: with_residue(raw, PUBLIC_BYTES - 8, SPECIAL_PRIME), "residues"),
            (lambda raw: raw[:HEADER_BYTES] + b"\xff" * (6 * DEGREE * 8), "residues"),
            (lambda raw: raw[:HEADER_BYTES] + bytes(6 * DEGREE * 8), "zero"),
            (lambda raw: raw[: -3 * DEGREE * 8] + bytes(3 * DEGREE * 8), "zero"),
        ],
        ids=[
            "empty",
            "truncated",
            "secret key included",
            "10x size",
            "other scheme",
            "other degree",
            "other prime",
            "other format",
            "residue is the prime",
            "residue is the special prime",
            "residues out of range",
            "zero",
            "transparent",
        ],
    )
    def test_are_refused(self, change: Callable[[bytes], bytes], reason: str, holder: CKKSKeyHolder) -> None:
        with pytest.raises(InvalidKey, match=reason):
            CKKSEvaluator.from_public(FORMAT, change(holder.public_bytes))

    def test_random_bytes_are_refused(self, holder: CKKSKeyHolder, rng: DeterministicRng) -> None:
        head = holder.public_bytes[:HEADER_BYTES]
        for size in (1, 16, 1_000, PUBLIC_BYTES, PUBLIC_BYTES + 1):
            for raw in (rng.bytes(size), (head + rng.bytes(size))[:size]):
                with pytest.raises(InvalidKey):
                    CKKSEvaluator.from_public(FORMAT, raw)


POLYNOMIAL_BYTES = 2 * DEGREE * 8
CIPHERTEXT_CHANGES = [
    pytest.param(lambda raw, head: b"", "received 0", id="empty"),
    pytest.param(lambda raw, head: raw[:-1], "received", id="truncated"),
    pytest.param(lambda raw, head: raw[:-POLYNOMIAL_BYTES], "received", id="polynomial missing"),
    pytest.param(lambda raw, head: raw[: -POLYNOMIAL_BYTES // 2], "received", id="lower level"),
    pytest.param(lambda raw, head: raw + raw[-POLYNOMIAL_BYTES // 2 :], "received", id="higher level"),
    pytest.param(lambda raw, head: raw[:32] + 2 * raw[32:], "received", id="twice as many"),
    pytest.param(lambda raw, head: raw * 10, "received", id="10x size"),
    pytest.param(lambda raw, head: bytes(32) + raw[32:], "expected the key", id="other key"),
    pytest.param(
        lambda raw, head: with_residue(raw, head, PRIMES[0]), "1 numbers", id="residue is the prime"
    ),
    pytest.param(
        lambda raw, head: with_residue(raw, len(raw) - 8, 2**64 - 1), "1 numbers", id="residue 2^64 - 1"
    ),
    pytest.param(lambda raw, head: raw[:head] + bytes(len(raw) - head), "zero", id="transparent"),
]


class TestMalformedCiphertexts:
    @pytest.mark.parametrize(("change", "reason"), CIPHERTEXT_CHANGES)
    def test_vectors_are_refused(
        self,
        change: Callable[[bytes, int], bytes],
        reason: str,
        holder: CKKSKeyHolder,
        evaluator: CKKSEvaluator,
        rng: DeterministicRng,
    ) -> None:
        raw = change(holder.encrypt(np.ones(3), rng).to_bytes(), 32 + SEED_BYTES)
        with pytest.raises(InvalidCiphertext, match=reason):
            evaluator.masked_products(ReceivedCiphertexts(raw), evaluator.prepare(np.ones((3, 1))), rng)

    @pytest.mark.parametrize(("change", "reason"), CIPHERTEXT_CHANGES)
    def test_replies_are_refused(
        self,
        change: Callable[[bytes, int], bytes],
        reason: str,
        holder: CKKSKeyHolder,
        evaluator: CKKSEvaluator,
        rng: DeterministicRng,
    ) -> None:
        reply, _ = evaluator.masked_products(
            holder.encrypt(np.ones(3), rng), evaluator.prepare(np.ones((3, 1))), rng
        )
        with pytest.raises(InvalidCiphertext, match=reason):
            holder.open_masked(ReceivedCiphertexts(change(reply.to_bytes(), 32 + NUMBER_BYTES)), 1)

    def test_repeated_ciphertexts_are_refused(
        self, holder: CKKSKeyHolder, evaluator: CKKSEvaluator, rng: DeterministicRng
    ) -> None:
        rows = 2 * SLOTS
        raw = holder.encrypt(np.ones(rows), rng).to_bytes()
        twice = raw[:32] + 2 * raw[32 : 32 + CHUNK.itemsize]
        prepared = evaluator.prepare(np.ones((rows, 1)))
        with pytest.raises(InvalidCiphertext, match="repeated"):
            evaluator.masked_products(ReceivedCiphertexts(twice), prepared, rng)

    def test_a_masked_number_beyond_the_modulus_is_refused(
        self, holder: CKKSKeyHolder, evaluator: CKKSEvaluator, rng: DeterministicRng
    ) -> None:
        raw = evaluator.masked_products(
            holder.encrypt(np.ones(3), rng), evaluator.prepare(np.ones((3, 1))), rng
        )[0].to_bytes()
        too_large = raw[:32] + MODULUS.to_bytes(NUMBER_BYTES, "little") + raw[32 + NUMBER_BYTES :]
        with pytest.raises(InvalidCiphertext, match="not below the modulus"):
            holder.open_masked(ReceivedCiphertexts(too_large), 1)

    def test_a_vector_under_another_key_is_refused(
        self, evaluator: CKKSEvaluator, rng: DeterministicRng
    ) -> None:
        other = CKKSKeyHolder(FORMAT, rng)
        with pytest.raises(InvalidCiphertext, match="expected the key"):
            evaluator.products(other.encrypt(np.ones(3), rng), evaluator.prepare(np.ones((3, 1))))

    def test_random_bytes_are_refused(
        self, holder: CKKSKeyHolder, evaluator: CKKSEvaluator, rng: DeterministicRng
    ) -> None:
        prepared, key = evaluator.prepare(np.ones((3, 1))), holder.encrypt(np.ones(3), rng).to_bytes()[:32]
        for size in (0, 1, 31, 32, 1_000, evaluator.vector_bytes(3), evaluator.reply_bytes(1)):
            for raw in (rng.bytes(size), (key + rng.bytes(size))[:size]):
                with pytest.raises(InvalidCiphertext):
                    evaluator.masked_products(ReceivedCiphertexts(raw), prepared, rng)
                with pytest.raises(InvalidCiphertext):
                    holder.open_masked(ReceivedCiphertexts(raw), 1)

    def test_random_residues_are_caught_when_unmasked(
        self, holder: CKKSKeyHolder, evaluator: CKKSEvaluator, rng: DeterministicRng
    ) -> None:
        key = holder.encrypt(np.ones(3), rng).to_bytes()[:32]
        raw = key + rng.bytes(SEED_BYTES) + draw_residues(b"garbage").tobytes()
        reply, masks = evaluator.masked_products(
            ReceivedCiphertexts(raw), evaluator.prepare(draw(1, 3, 4)), rng
        )
        with pytest.raises(MalformedMessage, match="outside the possible range"):
            evaluator.unmask(holder.open_masked(reply, 4), masks)


class TestMalformedOpenings:
    @pytest.mark.parametrize(
        ("opened", "reason"),
        [
            (b"", "received 0"),
            (bytes(NUMBER_BYTES - 1), "received 14"),
            (bytes(10 * NUMBER_BYTES), "received 150"),
            (MODULUS.to_bytes(NUMBER_BYTES, "little"), "not below the modulus"),
            (b"\xff" * NUMBER_BYTES, "not below the modulus"),
            (((MODULUS // 2 + 7) % MODULUS).to_bytes(NUMBER_BYTES, "little"), "possible range"),
            ((7 + SCALES.limit + 1).to_bytes(NUMBER_BYTES, "little"), "possible range"),
            (((7 - SCALES.limit - 1) % MODULUS).to_bytes(NUMBER_BYTES, "little"), "possible range"),
        ],
    )
    def test_are_refused(self, opened: bytes, reason: str, evaluator: CKKSEvaluator) -> None:
        with pytest.raises(MalformedMessage, match=reason):
            evaluator.unmask(opened, [7])

    def test_the_limit_itself_is_accepted(self, evaluator: CKKSEvaluator) -> None:
        opened = evaluator.unmask((7 + SCALES.limit).to_bytes(NUMBER_BYTES, "little"), [7])
        assert abs(opened[0]) >= FORMAT.max_rows
