"""Random polynomials: public ones expanded from a seed, secret ones from an :class:`~vfl.crypto.rng.Rng`."""

import math

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from vfl.crypto.lattice import ntt
from vfl.crypto.lattice.params import Parameters
from vfl.crypto.lattice.tables import Words
from vfl.crypto.rng import Rng
from vfl.crypto.threads import run

__all__ = ["SEED_BYTES", "Small", "errors", "expand", "flooding", "masks", "ternaries"]

Small = NDArray[np.int8]
SEED_BYTES = 32


def expand(params: Parameters, seed: bytes, count: int, threads: int | None = None) -> Words:
    """Expand a public seed into `count` uniform polynomials, transformed: (count, L, N).

    The 30-bit words of ChaCha20 (RFC 8439) under the seed, nonce = limb number, that are below the prime. That a stream
    cipher under a public key serves as a random oracle is an assumption, as for Kyber-90s, which expands its matrix
    with AES in counter mode.
    """
    out = np.empty((count, len(params.primes), params.degree), np.uint32)

    def limbs(start: int, stop: int) -> None:
        for limb in range(start, stop):
            words = _below(seed, limb, params.primes[limb], count * params.degree)
            out[:, limb] = words.reshape(count, params.degree)

    run(limbs, len(params.primes), threads)
    return out


def _below(seed: bytes, limb: int, prime: int, size: int) -> Words:
    nonce = bytes(4) + limb.to_bytes(12, "little")  # of the 16 bytes the first 4 are the block counter
    stream = Cipher(algorithms.ChaCha20(seed, nonce), mode=None).encryptor()
    out = np.empty(size, np.uint32)
    filled = 0
    while filled < size:
        left = size - filled
        words = np.frombuffer(stream.update(bytes(4 * (left + left // 64 + 64))), "<u4")
        filled += ntt.uniform(words, np.uint32(prime), out[filled:])
    return out


def ternaries(rng: Rng, count: int, degree: int) -> Small:
    """Draw polynomials with uniform coefficients -1, 0, 1: (count, N)."""
    size = -(-count * degree // 5) * 5
    out = np.empty(size, np.int8)
    filled = 0
    while filled < size:
        raw = np.frombuffer(rng.bytes((size - filled) // 4 + 64), np.uint8)
        filled += ntt.ternary(raw, out[filled:])
    return out[: count * degree].reshape(count, degree)


def errors(rng: Rng, count: int, degree: int) -> Small:
    """Draw centred binomial polynomials of variance 10.5: (count, N)."""
    words = np.frombuffer(rng.bytes(8 * count * degree), "<u4").reshape(count * degree, 2)
    out = np.empty(count * degree, np.int8)
    ntt.binomial(words, out)
    return out.reshape(count, degree)


def flooding(params: Parameters, rng: Rng, shape: tuple[int, ...]) -> Words:
    """Draw numbers uniform in [0, 2 F) as words of 30 bits, the lowest first: shape (words, *shape)."""
    bits = params.flood_log + 1
    count = -(-bits // 30)
    words = np.frombuffer(rng.bytes(4 * math.prod(shape) * count), "<u4") & np.uint32((1 << 30) - 1)
    words = words.reshape(count, *shape)
    words[-1] &= np.uint32((1 << (bits - 1) % 30 + 1) - 1)
    return words


def masks(params: Parameters, rng: Rng, shape: tuple[int, ...]) -> Words:
    """Draw numbers uniform modulo t, as residues: shape (limbs of t, *shape)."""
    drawn = [rng.residues(p, math.prod(shape)).astype(np.uint32).reshape(shape) for p in params.plain]
    return np.stack(drawn)
