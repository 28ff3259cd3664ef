"""Encrypted inner products X^T [[r]] with CKKS: numbers in slots, no rotations, one masked number per column.

Notation: N = 8192, R = Z[X]/(X^N + 1), q of 120 bits, P the special prime, m_0 the constant coefficient of m.

1. The key holder cuts r into chunks of N/2 numbers, encodes each as the slots of an m_r in R at a scale D_r
   and encrypts it symmetrically: c1 = a, expanded from 64 public bytes, and c0 = m_r + e - a s modulo q.
2. The evaluator has encoded the columns of X likewise, at a scale D_x. The sum over the chunks of m_x (c0,
   c1) encrypts m = sum m_x m_r. The evaluator adds a public-key encryption (z0, z1) of zero,
3. and sends c1 and the one number t = c0_0 + mask modulo q, with the mask uniform in [0, q).
4. The key holder returns t + (c1 s)_0 + flood = m_0 + noise + flood + mask modulo q; the evaluator takes
   the mask away.

**The sum over slots is a coefficient.** Slots are the values of m at N/2 of the N primitive 2N-th roots of
unity, one of each conjugate pair. The sum of X^k over all these roots is N for k = 0 and 0 for 0 < k < N.
So N m_0 is the sum of m over all of them, twice the real part of its sum over the slots, and <x, r> = (N/2)
m_0 / (D_x D_r), unused slots being zero. The same holds modulo each prime for the stored transform, so m_0
= c0_0 + (c1 s)_0 takes two sums.

**The key holder sees** c1 = sum m_x a + z1 and t, and knows s, r, every a and e and its public key (b, A).
The uniform mask makes t uniform and independent of all that; c0 and z0, and with them the noise sum m_x e,
appear nowhere else. z1 is A u + e1 modulo q P, with fresh u and e1, divided by P and rounded. A u + e1 is
pseudorandom by ring-LWE with the secret u (150 bits of modulus), and exactly P residues modulo q P round to
each residue modulo q, so z1 is pseudorandom too and hides the sum. Without z1, c1 / a would be m_x. A must
come from an honest key generator: a malicious key holder that sends an A of its own making is outside the
model.

**The evaluator sees** ciphertexts of r and, mask removed, m_0 + noise + flood. Without the flooding each of
these would be an exact linear equation modulo q in s, and N of them would give the key away (Li and
Micciancio, eprint 2020/1533). The flooding is uniform in [-F, F], F at least 2^40 times the noise
(:class:`~vfl.crypto.ckks_format.Scales`), and a key opens 2^20 numbers at most, so all of them together are
within statistical distance 2^-20 of what follows from X and r as encoded: X^T r to the agreed precision.
This takes entries of X in [-1, 1]; both sides are semi-honest, and a malicious evaluator could have other
functions of r and s opened.

Sources: Cheon, Kim, Kim, Song, "Homomorphic Encryption for Arithmetic of Approximate Numbers", eprint
2016/421. Li, Micciancio, Schultz, Sorrell, "Securing Approximate Homomorphic Encryption Using Differential
Privacy", eprint 2022/816 (Gaussian flooding; the uniform one here is simpler to bound). Returning one
coefficient of c0 with all of c1 is the sample extraction of Chillotti, Gama, Georgieva, Izabachene, "TFHE",
eprint 2018/421.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
from tenseal import sealapi

from vfl.crypto import ckks_format as wire
from vfl.crypto import seal
from vfl.crypto.ckks_format import CHUNK, PUBLIC_BYTES, REPLY, FreshCKKSCiphertexts, Scales
from vfl.crypto.fresh import FreshCiphertexts
from vfl.crypto.innerproduct import Evaluator, Format, KeyHolder
from vfl.crypto.rng import Rng
from vfl.crypto.seal import MODULI, MODULUS, PRIMES, SEED_BYTES, FloatArray, Residues
from vfl.errors import CryptoError, InvalidCiphertext, MalformedMessage

__all__ = [
    "OPENINGS_PER_KEY",
    "PUBLIC_BYTES",
    "CKKSCiphertexts",
    "CKKSEvaluator",
    "CKKSKeyHolder",
    "PreparedMatrix",
]

OPENINGS_PER_KEY = 1 << 20


class CKKSCiphertexts:
    """Encrypted products as the arithmetic leaves them: c1 shows X to the key holder, and so does the noise.

    There is no ``to_bytes``: only what :class:`CKKSEvaluator` has made fresh and masked can be sent.
    """

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)


@final
@dataclass(frozen=True)
class PreparedMatrix:
    """A matrix as plaintexts, 128 KiB each: for each column its chunks, None where all entries are zero."""

    rows: int
    columns: list[list[Any]]


@final
class CKKSKeyHolder(KeyHolder):
    """The side that owns a fresh key and r.

    Parameters
    ----------
    format : Format
    rng : Rng
        For the flooding. The key and the encryption errors SEAL draws from the operating system by itself.

    Raises
    ------
    EncodingOverflow
        If the format leaves no room for precision and flooding.
    """

    def __init__(self, format: Format, rng: Rng) -> None:
        self._format, self._rng, self._scales = format, rng, Scales.of(format)
        self._openings = 0
        keys, public = sealapi.KeyGenerator(seal.context()), sealapi.PublicKey()
        keys.create_public_key(public)
        secret = keys.secret_key()
        self._encryptor = sealapi.Encryptor(seal.context(), secret)
        self._decryptor = sealapi.Decryptor(seal.context(), secret)
        self._secret = seal.limbs(seal.residues(secret.data(), 1, len(MODULI))[0, : len(PRIMES)])
        polynomials = seal.residues(public.data(), 2, len(MODULI))
        self._public = wire.header(format) + polynomials.astype("<u8").tobytes()
        self._key = wire.key_id(self._public)

    @property
    def public_bytes(self) -> bytes:
        """Parameters and format, then b and A as residues: PUBLIC_BYTES in all."""
        return self._public

    def encrypt(self, vector: FloatArray, rng: Rng) -> FreshCKKSCiphertexts:
        """Encrypt r, shape (rows,).

        Raises
        ------
        EncodingOverflow
            If there are more rows than agreed, or numbers that are not finite or beyond the bound.
        """
        wire.check_values(vector, 1, self._format.max_rows, self._format.residual_bound)
        items = np.empty(wire.chunks(len(vector)), CHUNK)
        for item, plain in zip(items, wire.encode(vector, self._scales.residual), strict=True):
            seed = rng.bytes(SEED_BYTES)
            item["seed"], item["polynomial"] = np.frombuffer(seed, "u1"), self._encrypt(plain, seed)
        return FreshCKKSCiphertexts(self._key, items)

    def _encrypt(self, plain: Any, seed: bytes) -> Residues:
        """Return c0 for the c1 that `seed` expands to.

        SEAL saves its own seeded form only compressed. Its c0 + c1 s is m + e, so m + e - a s with our a is
        as good.
        """
        drawn = sealapi.Ciphertext()
        self._encryptor.encrypt_symmetric(plain, drawn)
        public = seal.expand(np.zeros((len(PRIMES), seal.DEGREE), np.uint64), seed)
        moduli = MODULI[: len(PRIMES)]
        c0: Residues = (self._phase(drawn) + (moduli - self._phase(public))) % moduli
        return c0

    def _phase(self, encrypted: Any) -> Residues:
        """Return c0 + c1 s, shape (2, DEGREE)."""
        plain = sealapi.Plaintext()
        self._decryptor.decrypt(encrypted, plain)
        phase: Residues = seal.residues(plain, 1, len(PRIMES))[0]
        return phase

    def open_masked(self, reply: FreshCiphertexts, columns: int) -> bytes:
        """Decrypt and flood `columns` masked products.

        Raises
        ------
        InvalidCiphertext
            If the reply has a wrong size, key or range, or zero or repeated polynomials.
        CryptoError
            If this key would open more than OPENINGS_PER_KEY numbers.
        """
        items = wire.accept(reply, REPLY, columns, self._key, "masked products")
        try:
            numbers = wire.split_numbers(items["number"].tobytes(), columns)
        except ValueError as error:
            raise InvalidCiphertext(f"masked products: {error}") from None
        if self._openings + columns > OPENINGS_PER_KEY:
            raise CryptoError(
                f"this CKKS key has opened {self._openings} of {OPENINGS_PER_KEY} numbers and is asked for "
                f"{columns} more; start a new session, which draws a fresh key"
            )
        self._openings += columns
        inner = seal.inner_products(items["polynomial"], self._secret)
        return wire.join_numbers(
            [(t + i + self._flood()) % MODULUS for t, i in zip(numbers, inner, strict=True)]
        )

    def _flood(self) -> int:
        return self._rng.below(2 * self._scales.flood + 1) - self._scales.flood


@final
class CKKSEvaluator(Evaluator[PreparedMatrix, list[int]]):
    """The side that owns the matrix; made by :meth:`from_public`."""

    def __init__(self, format: Format, scales: Scales, key: bytes, public_key: Any) -> None:
        self._format, self._scales, self._key = format, scales, key
        self._encryptor = sealapi.Encryptor(seal.context(), public_key)
        self._evaluator = sealapi.Evaluator(seal.context())

    @classmethod
    def from_public(cls, format: Format, public_bytes: bytes) -> Self:
        """Validate the peer's public key.

        Raises
        ------
        InvalidKey
            If its size, parameters, format or residues are not what they must be.
        EncodingOverflow
            If the format leaves no room for precision and flooding.
        """
        scales, public_key = Scales.of(format), wire.accept_key(format, public_bytes)
        return cls(format, scales, wire.key_id(public_bytes), public_key)

    def prepare(self, matrix: FloatArray) -> PreparedMatrix:
        """Encode a matrix, shape (rows, columns), into 4 times its size in float64 (chunks are filled up).

        Raises
        ------
        EncodingOverflow
            If there are more rows than agreed, or entries that are not finite or beyond [-1, 1].
        """
        wire.check_values(matrix, 2, self._format.max_rows, 1.0)
        columns = [
            [None if plain.is_zero() else plain for plain in wire.encode(column, self._scales.matrix)]
            for column in np.ascontiguousarray(matrix.T)
        ]
        return PreparedMatrix(len(matrix), columns)

    def products(self, vector: FreshCiphertexts, prepared: PreparedMatrix) -> CKKSCiphertexts:
        """Validate [[r]] and return X^T [[r]], not yet fit to be sent. Raises InvalidCiphertext."""
        items = wire.accept(vector, CHUNK, wire.chunks(prepared.rows), self._key, "encrypted vector")
        chunks = [seal.expand(item["polynomial"], item["seed"].tobytes()) for item in items]
        return CKKSCiphertexts([self._product(column, chunks) for column in prepared.columns])

    def _product(self, column: list[Any], chunks: list[Any]) -> Any:
        zero = np.zeros((len(PRIMES), seal.DEGREE), np.uint64)
        total, term = seal.ciphertext(zero, zero), sealapi.Ciphertext()
        for plain, chunk in zip(column, chunks, strict=True):
            if plain is not None:  # SEAL refuses to multiply by zero
                self._evaluator.multiply_plain(chunk, plain, term)
                self._evaluator.add_inplace(total, term)
        return total

    def masked_products(
        self, vector: FreshCiphertexts, prepared: PreparedMatrix, rng: Rng
    ) -> tuple[FreshCKKSCiphertexts, list[int]]:
        """Validate [[r]] and return the fresh, masked X^T [[r]] and its masks, uniform modulo q.

        Raises
        ------
        InvalidCiphertext
            If the vector has a wrong size, key or range, or zero or repeated polynomials.
        """
        products = self.products(vector, prepared)
        masks = [rng.below(MODULUS) for _ in prepared.columns]
        items = np.empty(len(masks), REPLY)
        for item, product, mask in zip(items, products, masks, strict=True):
            c0, c1 = self._rerandomise(product)
            masked = wire.join_numbers([(seal.constant(c0) + mask) % MODULUS])
            item["number"], item["polynomial"] = np.frombuffer(masked, "u1"), c1
        return FreshCKKSCiphertexts(self._key, items), masks

    def _rerandomise(self, product: Any) -> Residues:
        """Return the product plus a public-key encryption of zero, shape (2, 2, DEGREE)."""
        zero = sealapi.Ciphertext()
        self._encryptor.encrypt_zero(seal.context().first_parms_id(), zero)
        self._evaluator.add_inplace(zero, product)
        return seal.residues(zero, 2, len(PRIMES))

    def unmask(self, opened: bytes, masks: list[int]) -> FloatArray:
        """Remove the masks: X^T r, shape (columns,), to the precision T of :class:`Scales`.

        Raises
        ------
        MalformedMessage
            If the size is wrong, or a number lies outside the possible range (as under a wrong key).
        """
        try:
            numbers = wire.split_numbers(opened, len(masks))
        except ValueError as error:
            raise MalformedMessage(f"opened products: {error}") from None
        return np.array([self._scales.decode(*pair) for pair in zip(numbers, masks, strict=True)])

    def vector_bytes(self, rows: int) -> int:
        """Size in bytes of an encrypted vector of `rows` numbers."""
        return wire.size(CHUNK, wire.chunks(rows))

    def reply_bytes(self, columns: int) -> int:
        """Size in bytes of a reply for `columns` inner products."""
        return wire.size(REPLY, columns)

    def opened_bytes(self, columns: int) -> int:
        """Size in bytes of `columns` opened masked numbers."""
        return columns * wire.NUMBER_BYTES
