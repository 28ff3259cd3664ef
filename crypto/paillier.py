"""Paillier encryption of vectors of integers, over GMP.

Source: Paillier, "Public-Key Cryptosystems Based on Composite Degree Residuosity Classes", Eurocrypt 1999,
scheme 1 with g = n + 1 and the decryption by Chinese remainders of section 7. A plaintext is an integer m
with |m| <= (n - 1) / 2, encrypted as (1 + m n) r^n mod n^2 with r uniform among the units modulo n. Sums of
plaintexts are products of ciphertexts; they wrap modulo n, so the caller proves a bound before it encrypts.

Two types keep results at home. :class:`Ciphertexts` is anything computed: its randomness is a function of the
operands (a scaled ciphertext has r^x for the secret factor x), so it cannot be serialised. Only
:class:`FreshCiphertexts`, from an ``encrypt`` or from :meth:`Ciphertexts.rerandomise`, can.

Powers with a secret exponent take a time and addresses that depend on its length alone; the rest of the
arithmetic is not constant-time, so a process that shares the machine with an attacker is outside the model. The
loops run on all processors, in vector registers where there are some: see :mod:`vfl.crypto.multiexp`.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import final

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from vfl.crypto import fresh, paillier_proof
from vfl.crypto.multiexp import Arithmetic, arithmetic, parallel
from vfl.crypto.rng import Rng
from vfl.errors import EncodingOverflow, InvalidCiphertext, InvalidKey, KeyMismatch

__all__ = ["Ciphertexts", "FreshCiphertexts", "PrivateKey", "PublicKey"]


@final
class PublicKey:
    """A modulus n with the proof that it is a Paillier modulus.

    Made by :class:`PrivateKey` or, checked, by :meth:`from_bytes`; the constructor itself checks nothing.

    Attributes
    ----------
    n : mpz
        The modulus.
    key_id : bytes
        The first 16 bytes of SHA-256 of n.
    limit : int
        Largest absolute value of a plaintext, (n - 1) / 2.
    width : int
        Bytes of one encoded ciphertext, twice those of n.
    """

    def __init__(self, n: mpz, roots: Sequence[mpz]) -> None:
        self.n = mpz(n)
        self.n_squared = self.n**2
        self._size: int = (self.n.bit_length() + 7) // 8
        self._roots = tuple(roots)
        self.key_id = hashlib.sha256(self.n.to_bytes(self._size, "big")).digest()[:16]
        self.limit = int(self.n // 2)
        self.width: int = 2 * self._size

    def __repr__(self) -> str:
        return f"PublicKey({self.n.bit_length()} bits, id {self.key_id.hex()})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and bool(self.n == other.n)

    def __hash__(self) -> int:
        return hash(self.key_id)

    def to_bytes(self) -> bytes:
        """Return n and the 11 roots of its proof, big-endian, each as wide as n (3072 bits: 4,608 bytes)."""
        numbers = (self.n, *self._roots)
        return b"".join(number.to_bytes(self._size, "big") for number in numbers)

    @classmethod
    def from_bytes(cls, raw: bytes) -> "PublicKey":
        """Decode and check a received key; takes about 0.1 s at 3072 bits.

        Raises
        ------
        InvalidKey
            Naming the reason: encoding, length, even, small factor, prime, perfect power, proof.
        """
        count = 1 + paillier_proof.CHALLENGES
        size, rest = divmod(len(raw), count)
        if rest or 8 * size > paillier_proof.MAX_BITS:
            raise InvalidKey(
                f"a Paillier key is encoded as {count} numbers of one width, of at most "
                f"{paillier_proof.MAX_BITS} bits; received {len(raw)} bytes"
            )
        n, *roots = (mpz.from_bytes(raw[size * i : size * (i + 1)], "big") for i in range(count))
        paillier_proof.check_modulus(n)
        if n.bit_length() != 8 * size:
            raise InvalidKey(f"the Paillier modulus has {n.bit_length()} bits, encoded in {8 * size}")
        paillier_proof.verify(n, roots)
        return cls(n, roots)

    def encrypt(self, values: Sequence[int], rng: Rng) -> "FreshCiphertexts":
        """Encrypt integers of at most :attr:`limit` in absolute value, without the private key.

        Raises
        ------
        EncodingOverflow
            If a value is beyond the limit.
        """
        self._check_plaintexts(values)
        return self._hide(values, self._noise(len(values), rng))

    def accept(self, received: fresh.FreshCiphertexts, count: int) -> "Ciphertexts":
        """Check received ciphertexts before anything is computed with them or decrypted.

        Whatever passes is a unit modulo n^2, so a decryption never divides by a factor of n and never shows
        one.

        Parameters
        ----------
        received : fresh.FreshCiphertexts
            What the peer sent: `count` big-endian numbers of :attr:`width` bytes.
        count : int
            How many ciphertexts this step has.

        Raises
        ------
        InvalidCiphertext
            Naming the reason: size, range, a factor shared with n, no randomness, repetition.
        KeyMismatch
            If they are known to belong to another key: bytes alone do not tell.
        """
        if isinstance(received, FreshCiphertexts):
            _same_key(self, received.key)
        raw = received.to_bytes()
        if len(raw) != count * self.width:
            raise InvalidCiphertext(
                f"expected {count} ciphertexts of {self.width} bytes, {count * self.width} bytes in all; "
                f"received {len(raw)} bytes"
            )
        chunks = (raw[start : start + self.width] for start in range(0, len(raw), self.width))
        values = [mpz.from_bytes(chunk, "big") for chunk in chunks]
        self._check(values)
        return Ciphertexts(self, values)

    def _check(self, values: Sequence[mpz]) -> None:
        count = len(values)
        outside = sum(not 0 < value < self.n_squared for value in values)
        if outside:
            raise InvalidCiphertext(f"{outside} of {count} ciphertexts lie outside the range 1 to n^2 - 1")
        # modulo n only the randomness r^n is left of a ciphertext
        noise = [value % self.n for value in values]
        product = mpz(1)
        for residue in noise:
            product = product * residue % self.n
        if gmpy2.gcd(product, self.n) != 1:
            raise InvalidCiphertext(f"one of {count} ciphertexts shares a factor with n: it is not a unit")
        if any(residue in (1, self.n - 1) for residue in noise):
            raise InvalidCiphertext(f"one of {count} ciphertexts carries no randomness: anybody can read it")
        if len(set(noise)) != count:
            raise InvalidCiphertext(f"among {count} ciphertexts some are repeated or share their randomness")

    @cached_property
    def arithmetic(self) -> Arithmetic:
        """Products modulo n^2."""
        return arithmetic(self.n_squared)

    def _embed(self, values: Sequence[int]) -> list[mpz]:
        """Return (1 + n)^m mod n^2 for each m."""
        self._check_plaintexts(values)
        return [(1 + int(value) * self.n) % self.n_squared for value in values]

    def _hide(self, values: Sequence[int], noise: Sequence[mpz]) -> "FreshCiphertexts":
        """Return (1 + n)^m s mod n^2 for each m and power s, which is s + n (m s mod n): half the products."""
        n, squared = self.n, self.n_squared
        pairs = zip(values, noise, strict=True)
        return FreshCiphertexts(self, [(s + n * (int(m) * s % n)) % squared for m, s in pairs])

    def _check_plaintexts(self, values: Sequence[int]) -> None:
        outside = sum(not -self.limit <= value <= self.limit for value in values)
        if outside:
            raise EncodingOverflow(
                f"{outside} of {len(values)} plaintexts do not fit a modulus of {self.n.bit_length()} bits"
            )

    def _noise(self, count: int, rng: Rng) -> list[mpz]:
        """Return `count` powers r^n mod n^2 with r uniform among the units modulo n."""
        return self.arithmetic.powers([self._unit(rng) for _ in range(count)], self.n)

    def _unit(self, rng: Rng) -> mpz:
        while True:
            r = mpz(rng.below(int(self.n)))
            if gmpy2.gcd(r, self.n) == 1:
                return r


@final
class PrivateKey:
    """The primes of a modulus. There is no encoding: a key lives as long as its session.

    Made by :meth:`generate`. The constructor takes primes of any length, for tests; peers refuse such a key.

    Attributes
    ----------
    public_key : PublicKey
        The modulus with its proof.
    """

    def __init__(self, p: mpz, q: mpz) -> None:
        half = p.bit_length()
        if half != q.bit_length() or gmpy2.gcd(p * q, (p - 1) * (q - 1)) != 1:
            raise InvalidKey("the primes of a Paillier key must have one length and gcd(n, phi(n)) = 1")
        if abs(p - q).bit_length() <= half - 100:  # FIPS 186-5, A.1.3: otherwise n falls to Fermat's method
            raise InvalidKey("the primes of the Paillier key are too close to each other")
        self.public_key = PublicKey(p * q, paillier_proof.prove(p, q))
        self._at_p, self._at_q = _PrimePart(p, q), _PrimePart(q, p)
        self._inverse = gmpy2.invert(p, q)
        self._square_inverse = gmpy2.invert(p * p, q * q)

    def __repr__(self) -> str:
        return f"PrivateKey({self.public_key!r})"

    @classmethod
    def generate(cls, rng: Rng, bits: int = 3072) -> "PrivateKey":
        """Draw a key; takes about a second.

        Parameters
        ----------
        rng : Rng
            Source of the candidates.
        bits : int
            Exact length of n, a multiple of 16 from 2048 to 8192. 3072 bits stand for 128-bit security
            (NIST SP 800-57 part 1, table 2), 2048 for 112.

        Raises
        ------
        InvalidKey
            If `bits` is not allowed.
        """
        if not paillier_proof.MIN_BITS <= bits <= paillier_proof.MAX_BITS or bits % 16:
            raise InvalidKey(
                f"a Paillier key of {bits} bits is not allowed: take a multiple of 16 "
                f"from {paillier_proof.MIN_BITS} to {paillier_proof.MAX_BITS}"
            )
        return cls(_prime(rng, bits // 2), _prime(rng, bits // 2))

    def encrypt(self, values: Sequence[int], rng: Rng) -> "FreshCiphertexts":
        """Encrypt as :meth:`PublicKey.encrypt` does, about four times as fast.

        The powers r^n mod p^2 are the numbers s^p mod p^2, a different one for each s modulo p, and the same
        holds for q. Drawing s modulo p and s modulo q therefore gives exactly the distribution of r^n.

        Raises
        ------
        EncodingOverflow
            If a value is beyond the limit of the public key.
        """
        self.public_key._check_plaintexts(values)
        drawn = [(self._at_p.draw(rng), self._at_q.draw(rng)) for _ in values]
        at_p = self._at_p.noise([s for s, _ in drawn])
        at_q = self._at_q.noise([s for _, s in drawn])
        return self.public_key._hide(values, self._join_noise(at_p, at_q))

    def decrypt(self, ciphertexts: "Ciphertexts") -> list[int]:
        """Return the plaintexts, each between -(n - 1) / 2 and (n - 1) / 2.

        Raises
        ------
        KeyMismatch
            If the ciphertexts belong to another key.
        """
        _same_key(self.public_key, ciphertexts.key)
        n, limit = self.public_key.n, self.public_key.limit
        p, q, inverse = self._at_p.prime, self._at_q.prime, self._inverse
        at_p, at_q = parallel(lambda part: part.plaintexts(ciphertexts._values), (self._at_p, self._at_q))
        residues = (x + p * ((y - x) * inverse % q) for x, y in zip(at_p, at_q, strict=True))
        return [int(m - n if m > limit else m) for m in residues]

    def _join_noise(self, at_p: Sequence[mpz], at_q: Sequence[mpz]) -> list[mpz]:
        """Return the numbers modulo n^2 with these residues modulo p^2 and q^2."""
        p, q, inverse = self._at_p.square, self._at_q.square, self._square_inverse
        return [x + p * ((y - x) * inverse % q) for x, y in zip(at_p, at_q, strict=True)]


@final
class _PrimePart:
    """What the key holder computes modulo one prime of n, or its square."""

    def __init__(self, prime: mpz, other: mpz) -> None:
        self.prime, self.square = prime, prime**2
        self._scale = gmpy2.invert(-other, prime)

    def draw(self, rng: Rng) -> mpz:
        return mpz(1 + rng.below(int(self.prime) - 1))

    @cached_property
    def arithmetic(self) -> Arithmetic:
        """Products modulo the square of the prime."""
        return arithmetic(self.square)

    def noise(self, drawn: Sequence[mpz]) -> list[mpz]:
        """Return s^p mod p^2 for each s."""
        return self.arithmetic.powers(drawn, self.prime)

    def plaintexts(self, ciphertexts: Sequence[mpz]) -> list[mpz]:
        """Return m mod p: c^(p-1) = (1 + m n)^(p-1) = 1 - m q p modulo p^2, as r^n vanishes."""
        powers = self.arithmetic.powers([c % self.square for c in ciphertexts], self.prime - 1)
        return [power // self.prime * self._scale % self.prime for power in powers]


class Ciphertexts:
    """Validated or computed ciphertexts of one key: they can be computed with and decrypted, not sent.

    Made by :meth:`PublicKey.accept` and by the operations below.

    Attributes
    ----------
    key : PublicKey
        The key they belong to.
    """

    def __init__(self, key: PublicKey, values: Sequence[mpz]) -> None:
        self.key = key
        self._values = tuple(values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} under {self.key!r})"

    def add(self, other: "Ciphertexts") -> "Ciphertexts":
        """Return the encrypted sums. Raises KeyMismatch if `other` belongs to another key."""
        _same_key(self.key, other.key)
        return self._times(other._values)

    def add_plain(self, values: Sequence[int]) -> "Ciphertexts":
        """Return the sums with plaintexts. Raises EncodingOverflow beyond the limit of the key."""
        return self._times(self.key._embed(values))

    def scale(self, factors: Sequence[int]) -> "Ciphertexts":
        """Return the products with one plaintext factor each."""
        pairs = list(zip(self._values, factors, strict=True))
        return Ciphertexts(
            self.key, parallel(lambda pair: gmpy2.powmod(pair[0], int(pair[1]), self.key.n_squared), pairs)
        )

    def scale_secretly(self, factors: Sequence[int]) -> "Ciphertexts":
        """Return the products with one positive factor each, in constant time for factors of one length."""
        pairs = list(zip(self._values, factors, strict=True))
        return Ciphertexts(
            self.key,
            parallel(lambda pair: gmpy2.powmod_sec(pair[0], int(pair[1]), self.key.n_squared), pairs),
        )

    def product(self, matrix: NDArray[np.int64]) -> "Ciphertexts":
        """Return the inner products of this vector with the columns of a matrix.

        Parameters
        ----------
        matrix : ndarray of int64, shape (len(self), columns)
            Small integers: the cost grows with the bits of the largest.
        """
        return self.polynomial_product(matrix[:, np.newaxis, :], 0)

    def polynomial_product(self, matrix: NDArray[np.int64], spacing: int) -> "Ciphertexts":
        """Return the inner products with columns whose entries are polynomials in 2^`spacing`.

        Entry (i, j) is the integer sum over k of matrix[i, k, j] 2^(spacing (degree - k)), highest power
        first. By Horner's rule it costs one multi-exponentiation with small exponents per power.

        Parameters
        ----------
        matrix : ndarray of int64, shape (len(self), degree + 1, columns)
            Coefficients below 2^62 in absolute value.
        spacing : int
            Bits between neighbouring coefficients.
        """
        if len(matrix) != len(self):
            raise ValueError(f"a matrix of {len(matrix)} rows cannot multiply {len(self)} ciphertexts")
        if matrix.dtype != np.int64:
            raise ValueError(f"the matrix must be of int64, not {matrix.dtype}: encode it first")
        if max(int(matrix.max(initial=0)), -int(matrix.min(initial=0))) >= 1 << 62:
            raise ValueError("entries of the matrix must stay below 2^62: their digits are computed in int64")
        return Ciphertexts(self.key, self.key.arithmetic.matrix_product(self._values, matrix, spacing))

    def bin_sums(self, bins: NDArray[np.integer], size: int) -> list["Ciphertexts"]:
        """Return for each column of `bins` the encrypted sums of this vector in its bins.

        Parameters
        ----------
        bins : ndarray of integers, shape (len(self), columns)
            The bin of each ciphertext, from 0 to `size` - 1.
        size : int
            Bins, 32,767 at most. The sum of an empty bin has the trivial ciphertext 1: re-randomise before sending.

        Raises
        ------
        ValueError
            If the shape or a bin is not as stated.
        """
        if not np.issubdtype(bins.dtype, np.integer) or bins.ndim != 2 or len(bins) != len(self):
            raise ValueError(
                f"bins must be integers, one row for each of {len(self)} ciphertexts; "
                f"received {bins.dtype} of shape {bins.shape}"
            )
        if not 1 <= size < 1 << 15 or bins.min(initial=0) < 0 or bins.max(initial=0) >= size:
            raise ValueError(f"bins must run from 0 to {size - 1}, and their number from 1 to 32767")
        products = self.key.arithmetic.bin_products(self._values, bins.astype(np.int16), size)
        return [Ciphertexts(self.key, column) for column in products]

    @classmethod
    def concatenate(cls, key: PublicKey, parts: Sequence["Ciphertexts"]) -> "Ciphertexts":
        """Return one vector. Raises KeyMismatch if a part does not belong to `key`."""
        for part in parts:
            _same_key(key, part.key)
        return Ciphertexts(key, [value for part in parts for value in part._values])

    def join(self, slots: int, spacing: int) -> "Ciphertexts":
        """Return encrypted sums over t of m[t] 2^(`spacing` t), over `slots` neighbours each, the last fewer."""
        squared, count = self.key.n_squared, -(-len(self) // slots)
        padded = [*self._values, *[mpz(1)] * (count * slots - len(self))]
        total = [mpz(1)] * count
        for t in reversed(range(slots)):
            shifted = self.key.arithmetic.powers(total, mpz(1) << spacing)
            total = [high * low % squared for high, low in zip(shifted, padded[t::slots], strict=True)]
        return Ciphertexts(self.key, total)

    def rerandomise(self, rng: Rng) -> "FreshCiphertexts":
        """Return ciphertexts of the same plaintexts that show nothing else.

        Each is multiplied by r^n, r uniform among all units modulo n, so its distribution depends on the
        plaintext alone, whoever knows the private key and the earlier ciphertexts.
        """
        return FreshCiphertexts(self.key, self._times(self.key._noise(len(self), rng))._values)

    def _times(self, factors: Sequence[mpz]) -> "Ciphertexts":
        pairs = zip(self._values, factors, strict=True)
        return Ciphertexts(self.key, [value * factor % self.key.n_squared for value, factor in pairs])


@final
class FreshCiphertexts(Ciphertexts, fresh.FreshCiphertexts):
    """Ciphertexts whose randomness was just drawn: these may be sent.

    Made by ``encrypt`` and :meth:`Ciphertexts.rerandomise`.
    """

    def to_bytes(self) -> bytes:
        """Return the ciphertexts, big-endian, :attr:`PublicKey.width` bytes each."""
        return b"".join(value.to_bytes(self.key.width, "big") for value in self._values)


def _prime(rng: Rng, bits: int) -> mpz:
    """Return a random prime whose two top bits are set, so that a product of two has 2 `bits` bits."""
    while True:
        candidate = mpz(rng.bits(bits)) | mpz(3) << bits - 2 | 1
        if gmpy2.is_prime(candidate, 40):  # Baillie-PSW and 16 Miller-Rabin rounds
            return candidate


def _same_key(mine: PublicKey, theirs: PublicKey) -> None:
    if mine != theirs:
        raise KeyMismatch(f"the ciphertexts belong to different keys: {mine!r} and {theirs!r}")
