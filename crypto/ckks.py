"""Encrypted inner products X^T [[r]] with CKKS: numbers in slots, no rotations, one masked number per column.

Notation: N = 8192, R = Z[X]/(X^N + 1), q of 120 bits, P the special prime, m_0 the constant coefficient of m.

1. The key holder cuts r into chunks of N/2 numbers, encodes each as the slots of an m_r in R at a scale D_r
   and encrypts it symmetrically: c1 = a, expanded from 32 public bytes, and c0 = m_r + e - a s modulo q.
2. The evaluator has encoded the columns of X likewise, at a scale D_x. The sum over the chunks of m_x (c0,
   c1) encrypts m = sum m_x m_r. The evaluator adds a public-key encryption (z0, z1) = (u b + e_0, u A + e_1)
   of zero, where b = -(A s + e) and u is ternary,
3. and sends c1 and the one number t = c0_0 + mask modulo q, with the mask uniform in [0, q).
4. The key holder returns t + (c1 s)_0 + flood = m_0 + noise + flood + mask modulo q; the evaluator takes
   the mask away.

**The sum over slots is a coefficient.** Slots are the values of m at N/2 of the N primitive 2N-th roots of
unity, one of each conjugate pair. The sum of X^k over all these roots is N for k = 0 and 0 for 0 < k < N.
So N m_0 is the sum of m over all of them, twice the real part of its sum over the slots, and <x, r> = (N/2)
m_0 / (D_x D_r), unused slots being zero. The same holds modulo each prime for the stored transform, so m_0
= c0_0 + (c1 s)_0 takes two sums, and of c0 nothing but its sum is ever computed.

**The key holder sees** c1 = sum m_x a + z1 and t, and knows s, r, every a and e and its public key (b, A).
The uniform mask makes t uniform and independent of all that; c0 and z0, and with them the noise sum m_x e,
appear nowhere else. z1 = A u + e_1 is pseudorandom by ring-LWE with the secret u, and so hides the sum.
Without z1, c1 / a would be m_x. A must
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

from dataclasses import dataclass
from typing import Self, final

import numpy as np

from vfl.crypto import ckks_format as wire
from vfl.crypto import ckks_ring as ring
from vfl.crypto import seal
from vfl.crypto.ckks_format import CHUNK, PUBLIC_BYTES, REPLY, FreshCKKSCiphertexts, Scales
from vfl.crypto.ckks_ring import DEGREE, MODULUS, PRIMES, SEED_BYTES, FloatArray, Residues
from vfl.crypto.fresh import FreshCiphertexts
from vfl.crypto.innerproduct import Evaluator, Format, KeyHolder
from vfl.crypto.rng import Rng
from vfl.crypto.threads import run
from vfl.errors import CryptoError, InvalidCiphertext, InvalidKey, MalformedMessage

__all__ = [
    "OPENINGS_PER_KEY",
    "PUBLIC_BYTES",
    "CKKSCiphertexts",
    "CKKSEvaluator",
    "CKKSKeyHolder",
    "PreparedMatrix",
]

OPENINGS_PER_KEY = 1 << 20


@final
@dataclass(frozen=True)
class CKKSCiphertexts:
    """Encrypted products as the arithmetic leaves them: c1 shows X to the key holder, and so does the noise.

    There is no ``to_bytes``: only what :class:`CKKSEvaluator` has made fresh and masked can be sent.

    Attributes
    ----------
    sums : ndarray, shape (columns, 2)
        Sums of the values of c0.
    polynomials : ndarray, shape (columns, 2, DEGREE)
        c1.
    """

    sums: Residues
    polynomials: Residues


@final
@dataclass(frozen=True)
class PreparedMatrix:
    """A matrix as transformed polynomials, 128 KiB each: shape (columns, chunks, 2, DEGREE)."""

    rows: int
    polynomials: Residues


@final
class CKKSKeyHolder(KeyHolder):
    """The side that owns a fresh key and r.

    Parameters
    ----------
    format : Format
    rng : Rng
        For the flooding.
    keys : KeyPair, optional
        A key made elsewhere, which no other key holder has; by default SEAL draws one from the operating
        system.

    Raises
    ------
    EncodingOverflow
        If the format leaves no room for precision and flooding.
    InvalidKey
        If the halves of the given key do not belong together.
    """

    def __init__(self, format: Format, rng: Rng, keys: seal.KeyPair | None = None) -> None:
        self._format, self._rng, self._scales = format, rng, Scales.of(format)
        self._openings = 0
        pair = keys or seal.generate()
        self._secret, self._minus = pair.secret, ring.negated(pair.secret)
        self._public = wire.header(format) + pair.public.astype("<u8").tobytes()
        self._key = wire.key_id(self._public)
        b, a = wire.accept_key(format, self._public)[:, : len(PRIMES)]
        phase = ring.inner_products(b[None], np.ones_like(b)) + ring.inner_products(a[None], self._secret)
        (error,) = ring.constants(phase)
        if min(error, MODULUS - error) > wire.LARGEST_ERROR:
            raise InvalidKey("the secret and the public CKKS key do not belong together")

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
        plain = wire.encode(vector, self._scales.residual / 2.0**self._scales.shift)
        seeds = [rng.bytes(SEED_BYTES) for _ in plain]
        items = np.empty(len(plain), CHUNK)
        items["seed"] = np.frombuffer(b"".join(seeds), "u1").reshape(-1, SEED_BYTES)
        items["polynomial"] = ring.encrypt(plain, self._scales.shift, ring.expand(seeds), self._minus, rng)
        return FreshCKKSCiphertexts(self._key, items)

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
        inner = ring.constants(ring.inner_products(wire.polynomials(items), self._secret))
        return wire.join_numbers(
            [(t + i + self._flood()) % MODULUS for t, i in zip(numbers, inner, strict=True)]
        )

    def _flood(self) -> int:
        return self._rng.below(2 * self._scales.flood + 1) - self._scales.flood


@final
class CKKSEvaluator(Evaluator[PreparedMatrix, list[int]]):
    """The side that owns the matrix; made by :meth:`from_public`."""

    def __init__(self, format: Format, scales: Scales, key: bytes, public: Residues) -> None:
        self._format, self._scales, self._key, self._public = format, scales, key, public

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
        scales, polynomials = Scales.of(format), wire.accept_key(format, public_bytes)
        return cls(format, scales, wire.key_id(public_bytes), polynomials[:, : len(PRIMES)].copy())

    def prepare(self, matrix: FloatArray) -> PreparedMatrix:
        """Encode a matrix, shape (rows, columns), into 4 times its size in float64 (chunks are filled up).

        Raises
        ------
        EncodingOverflow
            If there are more rows than agreed, or entries that are not finite or beyond [-1, 1].
        """
        wire.check_values(matrix, 2, self._format.max_rows, 1.0)
        shape = (matrix.shape[1], wire.chunks(len(matrix)), len(PRIMES), DEGREE)
        polynomials = np.empty(shape, np.uint64)

        def columns(start: int, stop: int) -> None:
            for column in range(start, stop):
                plain = wire.encode(np.ascontiguousarray(matrix[:, column]), self._scales.matrix)
                polynomials[column] = ring.transform(plain)

        run(columns, len(polynomials), None)
        return PreparedMatrix(len(matrix), polynomials)

    def products(self, vector: FreshCiphertexts, prepared: PreparedMatrix) -> CKKSCiphertexts:
        """Validate [[r]] and return X^T [[r]], not yet fit to be sent. Raises InvalidCiphertext."""
        items = wire.accept(vector, CHUNK, wire.chunks(prepared.rows), self._key, "encrypted vector")
        c1 = ring.expand([seed.tobytes() for seed in items["seed"]])
        return CKKSCiphertexts(*ring.products(wire.polynomials(items), c1, prepared.polynomials))

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
        sums, c1 = ring.add_zeros(products.sums, products.polynomials, self._public, rng)
        masks = [rng.below(MODULUS) for _ in sums]
        masked = [(c0 + mask) % MODULUS for c0, mask in zip(ring.constants(sums), masks, strict=True)]
        items = np.empty(len(masks), REPLY)
        items["number"] = np.frombuffer(wire.join_numbers(masked), "u1").reshape(-1, wire.NUMBER_BYTES)
        items["polynomial"] = c1
        return FreshCKKSCiphertexts(self._key, items), masks

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
