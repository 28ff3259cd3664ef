"""Constants of the number-theoretic transforms of :mod:`.ntt`, computed once per degree and primes."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Tables", "Words", "tables"]

Words = NDArray[np.uint32]


@dataclass(frozen=True)
class Tables:
    """Constants of the transforms modulo each prime.

    Attributes
    ----------
    primes : array of uint32, shape (limbs,)
    outer, inner : arrays of uint32, shapes (limbs, 2, 2, R) and (limbs, 2, 2, C, R)
        Twiddle factors of the strides from C up and below C: forward and inverse; factor and Shoup quotient.
    scale : array of uint32, shape (limbs, 4)
        1/N and 2^32 modulo p, and their Shoup quotients.
    """

    primes: Words
    outer: Words
    inner: Words
    scale: Words


def _shoup(values: NDArray[np.uint64], prime: int) -> NDArray[np.uint64]:
    return (values << np.uint64(32)) // np.uint64(prime)


def _powers(root: int, prime: int, degree: int) -> NDArray[np.uint64]:
    """Return the powers 0 to N - 1 of a root in bit-reversed order."""
    powers = np.ones(1, np.uint64)
    for _ in range(degree.bit_length() - 1):
        powers = np.concatenate(
            [powers, powers * np.uint64(pow(root, len(powers), prime)) % np.uint64(prime)]
        )
    reverse = np.zeros(1, np.int64)
    while len(reverse) < degree:
        reverse = np.concatenate([2 * reverse, 2 * reverse + 1])
    return powers[reverse]


def _root(prime: int, degree: int) -> int:
    """Return a primitive 2N-th root of unity: the first x^((p-1)/2N), x = 2, 3, ..., whose N-th power is -1."""
    candidates = (pow(x, (prime - 1) // (2 * degree), prime) for x in range(2, prime))
    return next(root for root in candidates if pow(root, degree, prime) == prime - 1)


@cache
def tables(degree: int, primes: tuple[int, ...]) -> Tables:
    """Compute the constants for a degree and its primes, once per process."""
    rows = 1 << (degree.bit_length() - 1) // 2
    columns = degree // rows
    outer = np.zeros((len(primes), 2, 2, rows), np.uint32)
    inner = np.zeros((len(primes), 2, 2, columns, rows), np.uint32)
    scale = np.zeros((len(primes), 4), np.uint32)
    block = np.arange(rows)
    for limb, prime in enumerate(primes):
        root = _root(prime, degree)
        for direction, base in enumerate((root, pow(root, -1, prime))):
            powers = _powers(base, prime, degree)
            outer[limb, direction] = powers[:rows], _shoup(powers[:rows], prime)
            groups = 1
            while groups < columns:
                for group in range(groups):
                    chosen = powers[rows * groups + block * groups + group]
                    inner[limb, direction, :, groups + group] = chosen, _shoup(chosen, prime)
                groups *= 2
        constants = np.array([pow(degree, -1, prime), (1 << 32) % prime], np.uint64)
        scale[limb] = np.concatenate([constants, _shoup(constants, prime)])
    return Tables(np.array(primes, np.uint32), outer, inner, scale)
