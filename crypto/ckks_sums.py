"""Sums of vectors under CKKS: numbers in the coefficients, a key of one holder or one that several hold together.

R = Z[X]/(X^N + 1), q a product of 30-bit primes, D a power of two. With one holder (h = 1) or several, holder i draws
a ternary s_i and publishes b_i = -(a s_i + e_i), a in R_q from a public seed. The key is s = sum s_i, and (b, a) with
b = sum b_i its public key: nobody has s unless h = 1.

    encrypt   (c0, c1) = (b u + e0 + D m, a u + e1), m the integers of a vector, N to a polynomial
    add       coefficient by coefficient, modulo q
    share     d_i = c1 s_i + F_i, F_i uniform in [-F, F): of the sum, by every holder
    open      c0 + sum d_i = D (sum m) + noise, divided by D and rounded

The noise of CKKS is an error of its numbers; here they are multiples of D, so that rounding takes it away and sums are
exact. That matters: an opened sum with its noise would be an equation in the key (Li and Micciancio, eprint
2020/1533). What leaves a holder is d_i, in which the flooding, 2^40 times as large as the noise of n ciphertexts,
hides what c1 s_i says about s_i beyond the sum that comes out.

**Bounds.** Errors are centred binomial of variance 10.5. For n summands the noise is linear in them with coefficients
of square norm n (2 N h + 1) at most, so |noise| > B = 12 sqrt(10.5 n (2 N h + 1)) has a probability below 2^-100 a
coefficient (as :mod:`.lattice.params` argues). F is the least power of two above 2^40 B, D above 4 (h F + B), and 2 D
times the largest sum below q.

**What it is not.** Who has all of s, or works with all holders, reads every ciphertext; holders cannot see of what they
open a share. So the adversary is semi-honest: the masks of :mod:`vfl.protocols.secagg` need no such trust.

Sources: Cheon, Kim, Kim and Song, eprint 2016/421 (CKKS); Asharov et al., EUROCRYPT 2012 (eprint 2011/613), and
Mouchet, Troncoso-Pastoriza, Bossuat and Hubaux, PoPETs 2021 (eprint 2020/304), for keys of several holders.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.fresh import FreshCiphertexts
from vfl.crypto.lattice import ntt, sampling
from vfl.crypto.lattice.params import MAX_MODULUS_BITS, SIGMA, TAIL, lift, limb_primes
from vfl.crypto.lattice.tables import Tables, Words, tables
from vfl.crypto.masking import pack, packed_bytes, unpack
from vfl.crypto.rng import Rng
from vfl.errors import EncodingOverflow, InvalidCiphertext, InvalidKey

__all__ = ["FreshSummand", "KeyShare", "PublicKey", "SumFormat", "Total"]

FLOODING_BITS = 40
LIMB_BITS = 30
CHOICES = (
    (4096, 3),
    (8192, 4),
    (8192, 5),
)  # N and the number of primes: 128 bits of security, see lattice.params

Integers = NDArray[np.int64]


@final
@dataclass(frozen=True)
class SumFormat:
    """What is summed, and the least parameters that it fits.

    Parameters
    ----------
    dimension : int
        Integers of a vector.
    bits : int
        A sum of all parties lies in [-2^(bits - 1), 2^(bits - 1)).
    parties, holders : int
        Most summands, and holders of a share of the key.

    Raises
    ------
    EncodingOverflow
        If no parameters are large enough.
    """

    dimension: int
    bits: int
    parties: int
    holders: int = 1

    def __post_init__(self) -> None:
        if not (self.dimension >= 1 and 1 <= self.bits <= 62 and 1 <= self.holders <= self.parties):
            raise EncodingOverflow("a format has numbers of 1 to 62 bits, and no more holders than parties")
        if self._choice is None:
            raise EncodingOverflow(
                f"sums of {self.bits} bits over {self.parties} parties have no parameters here"
            )

    @cached_property
    def _choice(self) -> tuple[int, int] | None:
        for degree, limbs in CHOICES:
            modulus = math.prod(limb_primes(limbs))
            fits = modulus.bit_length() <= MAX_MODULUS_BITS[degree] and self._flood_bits(degree) < 63
            if fits and modulus > 1 << (self._scale_bits(degree) + self.bits + 1):
                return degree, limbs
        return None

    def _noise(self, degree: int) -> float:
        return TAIL * SIGMA * math.sqrt(self.parties * (2 * degree * self.holders + 1))

    def _flood_bits(self, degree: int) -> int:
        return math.ceil(math.log2(self._noise(degree))) + FLOODING_BITS

    def _scale_bits(self, degree: int) -> int:
        return math.ceil(
            math.log2(4 * (self.holders * 2.0 ** self._flood_bits(degree) + self._noise(degree)))
        )

    @property
    def degree(self) -> int:
        """N."""
        return (self._choice or CHOICES[0])[0]

    @cached_property
    def primes(self) -> tuple[int, ...]:
        """The primes of q."""
        return limb_primes((self._choice or CHOICES[0])[1])

    @property
    def scale(self) -> int:
        """D."""
        return 1 << self._scale_bits(self.degree)

    @property
    def flood_bits(self) -> int:
        """Bits of F."""
        return self._flood_bits(self.degree)

    @property
    def chunks(self) -> int:
        """Polynomials of a vector."""
        return -(-self.dimension // self.degree)

    @property
    def tables(self) -> Tables:
        """Constants of the transforms."""
        return tables(self.degree, self.primes)

    def bytes_of(self, polynomials: int) -> int:
        """Return the size of so many polynomials modulo q."""
        return packed_bytes(polynomials * len(self.primes) * self.degree, LIMB_BITS)

    @property
    def key_bytes(self) -> int:
        """Size of a holder's public b_i."""
        return self.bytes_of(1)

    @property
    def summand_bytes(self) -> int:
        """Size of a ciphertext of a vector."""
        return self.bytes_of(2 * self.chunks)

    @property
    def half_bytes(self) -> int:
        """Size of c1, and of a holder's share of an opening."""
        return self.bytes_of(self.chunks)


def _packed(values: Words) -> bytes:
    return pack(values.reshape(-1), LIMB_BITS).tobytes()


def _unpacked(format: SumFormat, raw: bytes, polynomials: int) -> Words:
    """Return the residues of received polynomials, (polynomials, L, N), or refuse them."""
    if len(raw) != format.bytes_of(polynomials):
        raise InvalidCiphertext(
            f"{polynomials} polynomials take {format.bytes_of(polynomials)} bytes, not {len(raw)}"
        )
    shape = (polynomials, len(format.primes), format.degree)
    values: Words = unpack(np.frombuffer(raw, np.uint8), math.prod(shape), LIMB_BITS).reshape(shape)
    if (values >= _moduli(format)).any():
        raise InvalidCiphertext("a received polynomial has coefficients beyond its modulus")
    return values


def _moduli(format: SumFormat) -> NDArray[np.uint32]:
    return np.array(format.primes, np.uint32)[:, None]


def _residues(format: SumFormat, values: Integers) -> Words:
    """Return integers, (k, N), modulo each prime: (k, L, N)."""
    return (values[:, None] % _moduli(format).astype(np.int64)).astype(np.uint32)


def _transformed(format: SumFormat, values: Words) -> Words:
    """Transform residues modulo each prime, (k, L, N)."""
    out, table = np.empty_like(values), format.tables
    moduli = _moduli(format).astype(np.int64)
    centred = np.where(values > moduli // 2, values.astype(np.int64) - moduli, values).astype(np.int32)
    for limb in range(len(format.primes)):
        part = np.empty((len(values), 1, format.degree), np.uint32)
        chosen = slice(limb, limb + 1)
        ntt.transform(
            np.ascontiguousarray(centred[:, limb]),
            part,
            table.primes[chosen],
            table.outer[chosen],
            table.inner[chosen],
        )
        out[:, limb] = part[:, 0]
    return out


def _product(format: SumFormat, x: Words, y: Words) -> Words:
    """Multiply transformed polynomials, and transform back."""
    both = (x.astype(np.uint64) * y % _moduli(format)).astype(np.uint32)
    out, table = np.empty_like(both), format.tables
    ntt.to_coefficients(both, out, table.primes, table.outer, table.inner, table.scale)
    return out


def _sum(format: SumFormat, *terms: Words) -> Words:
    total = terms[0].astype(np.uint64)
    for term in terms[1:]:
        total = total + term
    return (total % _moduli(format)).astype(np.uint32)


def _common(format: SumFormat, seed: bytes) -> Words:
    """Return a, transformed, from its public seed: (1, L, N)."""
    limbs = [sampling._below(seed, limb, p, format.degree) for limb, p in enumerate(format.primes)]
    return np.stack(limbs)[None]


def _ternary(format: SumFormat, rng: Rng, count: int) -> Words:
    small = sampling.ternaries(rng, count, format.degree).astype(np.int64)
    return _transformed(format, _residues(format, small))


def _errors(format: SumFormat, rng: Rng, count: int) -> Words:
    return _residues(format, sampling.errors(rng, count, format.degree).astype(np.int64))


@final
class KeyShare:
    """A holder's secret s_i, for one sum.

    Parameters
    ----------
    format : SumFormat
    seed : bytes
        32 public bytes, which fix a: the same at all holders.
    rng : Rng
    """

    def __init__(self, format: SumFormat, seed: bytes, rng: Rng) -> None:
        self._format, self._secret, self._used = format, _ternary(format, rng, 1), False
        product = _product(format, _common(format, seed), self._secret)
        noisy = _sum(format, product, _errors(format, rng, 1))
        moduli = _moduli(format)
        self.public_bytes = _packed((moduli - noisy) % moduli)

    def __repr__(self) -> str:
        """Show nothing."""
        return "KeyShare(...)"

    def share(self, c1: bytes, rng: Rng) -> bytes:
        """Return d_i, this holder's share of the opening of one ciphertext; a second one is refused.

        Raises
        ------
        InvalidKey
            If a share was given before: the difference of two sums may be a single vector.
        InvalidCiphertext
            If the polynomials are not well-formed.
        """
        if self._used:
            raise InvalidKey("a key opens one sum")
        format = self._format
        received = _transformed(format, _unpacked(format, c1, format.chunks))
        self._used = True
        bits = format.flood_bits + 1
        drawn = np.frombuffer(rng.bytes(8 * format.chunks * format.degree), "<u8") >> np.uint64(64 - bits)
        flood = drawn.astype(np.int64).reshape(format.chunks, format.degree) - (1 << bits - 1)
        opened = _product(format, received, np.broadcast_to(self._secret, received.shape))
        return _packed(_sum(format, opened, _residues(format, flood)))


@final
class FreshSummand(FreshCiphertexts):
    """A client's encrypted vector, as it leaves."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def to_bytes(self) -> bytes:
        """Return c0 and c1 of every chunk."""
        return self._raw


@final
class PublicKey:
    """What all holders have published, added up.

    Parameters
    ----------
    format : SumFormat
    seed : bytes
    shares : list of bytes
        Of all holders.

    Raises
    ------
    InvalidKey
        If they are not as many as there are holders, or not well-formed.
    """

    def __init__(self, format: SumFormat, seed: bytes, shares: list[bytes]) -> None:
        if len(shares) != format.holders or len(set(shares)) != len(shares):
            raise InvalidKey(f"the key has {format.holders} holders with different shares, not {len(shares)}")
        try:
            parts = [_unpacked(format, raw, 1) for raw in shares]
        except InvalidCiphertext as error:
            raise InvalidKey(str(error)) from None
        self._format, self._a = format, _common(format, seed)
        self._b = _transformed(format, _sum(format, *parts))

    def encrypt(self, values: Integers, rng: Rng) -> FreshSummand:
        """Encrypt a vector of integers, shape (dimension,).

        Raises
        ------
        EncodingOverflow
            If there are not `dimension` numbers, or as many as `parties` of them could exceed the format.
        """
        format = self._format
        limit = (1 << format.bits - 1) // format.parties
        if values.shape != (format.dimension,) or int(np.abs(values).max(initial=0)) > limit:
            raise EncodingOverflow(
                f"{format.dimension} integers of at most {limit} fit, not these {values.size}"
            )
        padded = np.zeros((format.chunks, format.degree), np.int64)
        padded.reshape(-1)[: format.dimension] = values
        scales = np.array([format.scale % p for p in format.primes], np.uint64)[:, None]
        message = (_residues(format, padded) * scales % _moduli(format)).astype(np.uint32)
        u, count = _ternary(format, rng, format.chunks), format.chunks
        c0 = _sum(format, _product(format, self._b, u), _errors(format, rng, count), message)
        c1 = _sum(format, _product(format, self._a, u), _errors(format, rng, count))
        return FreshSummand(_packed(np.concatenate([c0, c1])))


@final
class Total:
    """A sum of ciphertexts.

    Attributes
    ----------
    count : int
        Of the summands.
    """

    def __init__(self, format: SumFormat) -> None:
        self._format, self.count = format, 0
        self._sum: Words = np.zeros((2 * format.chunks, len(format.primes), format.degree), np.uint32)

    def add(self, raw: bytes) -> None:
        """Add a client's ciphertext.

        Raises
        ------
        InvalidCiphertext
            If it is not well-formed, or one too many.
        """
        if self.count == self._format.parties:
            raise InvalidCiphertext(f"{self.count} parties are in the sum already")
        self._sum = _sum(self._format, self._sum, _unpacked(self._format, raw, 2 * self._format.chunks))
        self.count += 1

    @property
    def c1(self) -> bytes:
        """What the holders need to open the sum."""
        return _packed(self._sum[self._format.chunks :])

    def open(self, shares: list[bytes]) -> Integers:
        """Return the sums of the integers, shape (dimension,), from the shares of all holders.

        Raises
        ------
        InvalidCiphertext
            If a share is missing or not well-formed, or what they open is no sum.
        """
        format = self._format
        if len(shares) != format.holders:
            raise InvalidCiphertext(f"{len(shares)} of {format.holders} holders have given their shares")
        parts = [_unpacked(format, raw, format.chunks) for raw in shares]
        plain = _sum(format, self._sum[: format.chunks], *parts)
        lifted = lift(np.moveaxis(plain, 1, -1).reshape(-1, len(format.primes)), format.primes)
        numbers = (lifted[: format.dimension] + format.scale // 2) // format.scale
        if int(np.abs(numbers).max(initial=0)) > 1 << format.bits - 1:
            raise InvalidCiphertext(
                "the shares open no sum: they belong to another key or another ciphertext"
            )
        return numbers.astype(np.int64)
