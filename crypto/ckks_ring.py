"""The ring of CKKS: parameters, encoding, and the products of whole batches on threads.

Ring: Z_q[X]/(X^N + 1). A polynomial is stored as its N values at the primitive 2N-th roots of unity modulo each
prime of q (number-theoretic transform), in Microsoft SEAL's order, so that keys and ciphertexts are SEAL's too
(:mod:`.seal`). The sum of X^k over these roots is N for k = 0 and 0 for 0 < k < N, so the mean of the values is the
constant coefficient, without a transform.

**Encoding.** Slot i is the value at zeta^(3^i), zeta = exp(pi i / N). These roots and their conjugates are all
primitive 2N-th roots; of each pair one is zeta^(4 j + 1), at which X^(N/2) is the imaginary unit. So with z_k = m_k + i
m_(k + N/2) the slots are sum_k z_k zeta^k exp(2 pi i j k / (N/2)), a Fourier transform of N/2 numbers.

Sources: Cheon, Kim, Kim, Song, "Homomorphic Encryption for Arithmetic of Approximate Numbers", eprint 2016/421
(encoding). Microsoft SEAL 4, native/src/seal: ckks.h (order of the slots), util/ntt.cpp (order of the values). Albrecht
et al., "Homomorphic Encryption Security Standard", HomomorphicEncryption.org 2018, table 1.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from vfl.crypto import ckks_kernels as kernels
from vfl.crypto.lattice import sampling
from vfl.crypto.rng import Rng
from vfl.crypto.threads import run

__all__ = [
    "COEFFICIENT_BITS", "DEGREE", "MODULI", "MODULUS", "PRIMES", "SEED_BYTES", "SLOTS", "SPECIAL_PRIME", "FloatArray",
    "Integers", "Residues", "add_zeros", "constants", "encode", "encrypt", "expand", "inner_products", "negated",
    "products", "transform",
]  # fmt: skip

FloatArray = NDArray[np.float64]
Integers = NDArray[np.int64]
Residues = NDArray[np.uint64]

# N and q: the standard allows log2 q <= 152 at N = 8192 for 192-bit classical security, with a uniform ternary secret
# and errors of standard deviation 3.2. Ciphertexts live modulo q, of 120 bits. Keys have SEAL's form, with one prime
# more, which nothing here needs and TenSEAL does: 150 bits.
DEGREE = 8192
SLOTS = DEGREE // 2
PRIMES = (1152921504606748673, 1152921504606830593)
SPECIAL_PRIME = 1073692673
MODULUS = math.prod(PRIMES)
MODULI = np.array([*PRIMES, SPECIAL_PRIME], dtype=np.uint64)[:, None]
SEED_BYTES = 32
COEFFICIENT_BITS = 60  # what an encoding may have

_PRIMES = np.array(PRIMES, np.uint64)


@dataclass(frozen=True)
class _Tables:
    """Constants: `roots` (L, 2, N) powers of psi and Shoup's quotients, `scale` (L, 3) as `reduce` takes it."""

    roots: Residues
    scale: Residues


@cache
def _tables() -> _Tables:
    roots = np.zeros((len(PRIMES), 2, DEGREE), np.uint64)
    bits = DEGREE.bit_length() - 1
    for limb, prime in enumerate(PRIMES):
        powers = _odd_powers(prime)
        psi, value = min(powers), 1
        for exponent in range(DEGREE):
            place = int(f"{exponent:0{bits}b}"[::-1], 2)
            roots[limb, :, place] = value, (value << 64) // prime
            value = value * psi % prime
    scale = [(2**64 % p, ((2**64 % p) << 64) // p, 2**64 // p) for p in PRIMES]
    return _Tables(roots, np.array(scale, np.uint64))


def _odd_powers(prime: int) -> list[int]:
    """Return all primitive 2N-th roots of unity modulo a prime."""
    tried = (pow(x, (prime - 1) // (2 * DEGREE), prime) for x in range(2, prime))
    root = next(x for x in tried if pow(x, DEGREE, prime) == prime - 1)
    powers = [root]
    for _ in range(DEGREE - 1):
        powers.append(powers[-1] * root * root % prime)
    return powers


@cache
def _embedding() -> tuple[NDArray[np.int64], NDArray[np.complex128]]:
    """Return for each slot its j, and 2 zeta^-k / N for each k."""
    exponents = [pow(3, i, 2 * DEGREE) for i in range(SLOTS)]
    places = [(e if e % 4 == 1 else 2 * DEGREE - e) // 4 for e in exponents]
    return np.array(places), 2 / DEGREE * np.exp(-1j * np.pi / DEGREE * np.arange(SLOTS))


def encode(values: FloatArray, scale: float) -> Integers:
    """Return the polynomials with these real slots times a scale, rounded: (count, SLOTS) to (count, DEGREE).

    Entries of at most 2^(COEFFICIENT_BITS - 1) in absolute value, after scaling, have coefficients below twice that.
    """
    places, twist = _embedding()
    slots = np.empty(values.shape, np.complex128)
    slots[:, places] = values  # a slot and its conjugate are equal: all are real
    folded = np.fft.fft(slots) * (scale * twist)
    return np.concatenate([np.rint(folded.real), np.rint(folded.imag)], axis=1).astype(np.int64)


def transform(values: Integers) -> Residues:
    """Transform integer polynomials below 2^60, (count, DEGREE), modulo the primes of q: (count, 2, DEGREE)."""
    out = np.empty((len(values), len(PRIMES), DEGREE), np.uint64)
    kernels.transform(values, out, _PRIMES, _tables().roots)
    return out


def expand(seeds: list[bytes]) -> Residues:
    """Expand public seeds of SEED_BYTES bytes into uniform polynomials modulo q: (seeds, 2, DEGREE).

    The 60-bit words of ChaCha20 (RFC 8439) under the seed, nonce = number of the prime, that are below it. That a
    stream cipher under a public key serves as a random oracle is an assumption, as in :mod:`vfl.crypto.lattice`.
    """
    out = np.empty((len(seeds), len(PRIMES), DEGREE), np.uint64)
    for item, seed in enumerate(seeds):
        for limb, prime in enumerate(_PRIMES):
            nonce = bytes(4) + limb.to_bytes(12, "little")  # the first 4 bytes are the block counter
            stream, filled = Cipher(algorithms.ChaCha20(seed, nonce), mode=None).encryptor(), 0
            while filled < DEGREE:
                words = np.frombuffer(stream.update(bytes(8 * (DEGREE - filled))), "<u8")
                filled += kernels.uniform(words, prime, out[item, limb, filled:])
    return out


def negated(polynomial: Residues) -> Residues:
    """Return minus a polynomial modulo q, shape (2, DEGREE)."""
    moduli = MODULI[: len(PRIMES)]
    negative: Residues = (moduli - polynomial) % moduli
    return negative


def encrypt(message: Integers, shift: int, a: Residues, minus_s: Residues, rng: Rng) -> Residues:
    """Return 2^shift m + e - a s modulo q with fresh errors e: (count, 2, DEGREE).

    Parameters
    ----------
    message : array of int64, shape (count, DEGREE)
        Coefficients below 2^60 in absolute value.
    shift : int
    a : ndarray, shape (count, 2, DEGREE)
    minus_s : ndarray, shape (2, DEGREE)
    rng : Rng
    """
    factor = np.array([pow(2, shift, p) for p in PRIMES], np.uint64)
    error, out, tables = sampling.errors(rng, len(message), DEGREE), np.empty_like(a), _tables()

    def pieces(start: int, stop: int) -> None:
        m, e, c1, c0 = transform(message[start:stop]), error[start:stop], a[start:stop], out[start:stop]
        kernels.encrypt(m, factor, e, c1, minus_s, c0, _PRIMES, tables.roots, tables.scale)

    run(pieces, len(a), None)
    return out


def products(c0: Residues, c1: Residues, operands: Residues) -> tuple[Residues, Residues]:
    """Multiply ciphertexts by polynomials and add up.

    Parameters
    ----------
    c0, c1 : ndarrays, shape (count, 2, DEGREE)
    operands : ndarray, shape (results, count, 2, DEGREE)

    Returns
    -------
    sums : ndarray, shape (results, 2)
        Of the first polynomial of each result no more than the sum of its values.
    polynomials : ndarray, shape (results, 2, DEGREE)
        The second polynomial.
    """
    results, scale = len(operands), _tables().scale
    sums = np.empty((results, len(PRIMES)), np.uint64)
    out = np.empty((results, len(PRIMES), DEGREE), np.uint64)

    def pieces(start: int, stop: int) -> None:
        kernels.accumulate(c0, c1, operands[start:stop], sums[start:stop], out[start:stop], _PRIMES, scale)

    run(pieces, results, None)
    return sums, out


def add_zeros(sums: Residues, polynomials: Residues, public: Residues, rng: Rng) -> tuple[Residues, Residues]:
    """Add to each result of :func:`products` a fresh encryption of zero under a public key, in new arrays.

    With u ternary and the errors e_1 and e_0 of it drawn here, (u b + e_0, u A + e_1).

    Parameters
    ----------
    sums : ndarray, shape (results, 2)
    polynomials : ndarray, shape (results, 2, DEGREE)
    public : ndarray, shape (2, 2, DEGREE)
        b and A.
    rng : Rng
    """
    count, tables = len(sums), _tables()
    u, error = sampling.ternaries(rng, count, DEGREE), sampling.errors(rng, count, DEGREE)
    constant = sampling.errors(rng, 1, count).T.astype(
        np.int64
    )  # all that is needed of e_0; N times in the sum
    primes = _PRIMES.astype(np.int64)
    total = ((sums.astype(np.int64) + DEGREE * constant) % primes).astype(np.uint64)
    out = polynomials.copy()

    def pieces(start: int, stop: int) -> None:
        batch = (u[start:stop], error[start:stop], public, total[start:stop], out[start:stop])
        kernels.add_zeros(*batch, _PRIMES, tables.roots, tables.scale)

    run(pieces, count, None)
    return total, out


def inner_products(polynomials: Residues, factor: Residues) -> Residues:
    """Return the sums of the values of products, (count, 2): of (count, 2, DEGREE) with one polynomial, (2, DEGREE)."""
    sums = np.empty((len(polynomials), len(PRIMES)), np.uint64)
    kernels.inner(polynomials, factor, sums, _PRIMES, _tables().scale)
    return sums


def constants(sums: Residues) -> list[int]:
    """Divide sums of values by N and return the constant coefficients modulo q (Chinese remainder theorem)."""
    p, r = PRIMES
    at_p, at_r = pow(DEGREE, -1, p), pow(DEGREE, -1, r)
    inverse = pow(p, -1, r)
    pairs = [(first * at_p % p, second * at_r % r) for first, second in sums.tolist()]
    return [first + p * ((second - first) * inverse % r) for first, second in pairs]
