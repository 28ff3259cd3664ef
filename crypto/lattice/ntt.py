"""Number-theoretic transforms and modular kernels over 30-bit primes, compiled by numba without the interpreter lock.

A polynomial modulo X^N + 1 is an array of N residues per prime, uint32. Transformed, it holds its values at the N
odd powers of psi, a primitive 2N-th root of unity, in an order that only :func:`forward` and :func:`inverse` know;
products are then element by element. The transforms are those of Harvey, "Faster arithmetic for number-theoretic
transforms", arXiv 1205.2926: residues stay in [0, 4p) forward and [0, 2p) backward, and each product takes Shoup's
quotient floor(w 2^32 / p) of its constant operand.

To let the compiler use vector instructions at every stage, N = R C is cut in two: the stages of stride C and more
run on the natural order, the others on the transposed C x R matrix, where butterflies of equal position in the R
blocks are neighbours. The transposed order is the transformed one, so nothing is ever put back.

No branch and no index depends on data, only on sizes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["Tables", "Words", "forward", "inverse", "kernel", "tables", "times", "trim"]

Words = NDArray[np.uint32]
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


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


def kernel(function: FunctionT) -> FunctionT:
    """Compile a function at its first call, to run without the interpreter lock, and keep it on disk."""
    return cast(FunctionT, njit(nogil=True, cache=True, error_model="numpy")(function))


@kernel
def times(w: Any, quotient: Any, y: Any, p: Any) -> Any:
    """Return w y modulo p in [0, 2p), for y below 2^32; y is uint64, the constants are uint32.

    The compiler sees from the types that 32 bits of each factor matter, and takes the short multiplication.
    """
    low = np.uint64(np.uint32((np.uint64(quotient) * y) >> np.uint64(32))) * np.uint64(p)
    return (np.uint64(w) * y - low) & np.uint64(0xFFFFFFFF)


@kernel
def trim(x: Any, bound: Any) -> Any:
    """Return x - bound if that is not negative, else x: x below 2 bound stays below bound."""
    return min(x, (x - np.uint64(bound)) & np.uint64(0xFFFFFFFF))


@kernel
def _forward_rows(x: Any, y: Any, w: Any, quotient: Any, p: Any) -> None:
    for j in range(x.size):
        high = trim(np.uint64(x[j]), p + p)
        low = times(w, quotient, np.uint64(y[j]), p)
        x[j] = np.uint32(high + low)
        y[j] = np.uint32(high - low + np.uint64(p + p))


@kernel
def _forward_columns(x: Any, y: Any, w: Any, quotient: Any, p: Any) -> None:
    for j in range(x.size):
        high = trim(np.uint64(x[j]), p + p)
        low = times(w[j], quotient[j], np.uint64(y[j]), p)
        x[j] = np.uint32(high + low)
        y[j] = np.uint32(high - low + np.uint64(p + p))


@kernel
def forward(x: Any, out: Any, outer: Any, inner: Any, p: Any) -> None:
    """Transform N residues in [0, 4p), overwritten, into N residues in [0, p).

    `x` has shape (N,), `out` (C, R), `outer` (2, R), `inner` (2, C, R).
    """
    columns, rows = out.shape
    stride, groups = x.size // 2, 1
    while groups < rows:
        for group in range(groups):
            start = 2 * group * stride
            middle = start + stride
            w, quotient = outer[0, groups + group], outer[1, groups + group]
            _forward_rows(x[start:middle], x[middle : middle + stride], w, quotient, p)
        stride //= 2
        groups *= 2
    for row in range(rows):
        for column in range(columns):
            out[column, row] = x[row * columns + column]
    stride, groups = columns // 2, 1
    while groups < columns:
        for group in range(groups):
            w, quotient = inner[0, groups + group], inner[1, groups + group]
            for column in range(2 * group * stride, 2 * group * stride + stride):
                _forward_columns(out[column], out[column + stride], w, quotient, p)
        stride //= 2
        groups *= 2
    for column in range(columns):
        for row in range(rows):
            out[column, row] = np.uint32(trim(trim(np.uint64(out[column, row]), p + p), p))


@kernel
def _inverse_rows(x: Any, y: Any, w: Any, quotient: Any, p: Any) -> None:
    for j in range(x.size):
        high, low = np.uint64(x[j]), np.uint64(y[j])
        x[j] = np.uint32(trim(high + low, p + p))
        y[j] = np.uint32(times(w, quotient, high - low + np.uint64(p + p), p))


@kernel
def _inverse_columns(x: Any, y: Any, w: Any, quotient: Any, p: Any) -> None:
    for j in range(x.size):
        high, low = np.uint64(x[j]), np.uint64(y[j])
        x[j] = np.uint32(trim(high + low, p + p))
        y[j] = np.uint32(times(w[j], quotient[j], high - low + np.uint64(p + p), p))


@kernel
def inverse(x: Any, out: Any, outer: Any, inner: Any, scale: Any, p: Any) -> None:
    """Undo :func:`forward`: `x` of shape (C, R), in [0, 2p) and overwritten, into `out` of shape (N,) in [0, p)."""
    columns, rows = x.shape
    stride, groups = 1, columns // 2
    while groups >= 1:
        for group in range(groups):
            w, quotient = inner[0, groups + group], inner[1, groups + group]
            for column in range(2 * group * stride, 2 * group * stride + stride):
                _inverse_columns(x[column], x[column + stride], w, quotient, p)
        stride *= 2
        groups //= 2
    for row in range(rows):
        for column in range(columns):
            out[row * columns + column] = x[column, row]
    stride, groups = columns, rows // 2
    while groups >= 1:
        for group in range(groups):
            start = 2 * group * stride
            middle = start + stride
            w, quotient = outer[0, groups + group], outer[1, groups + group]
            _inverse_rows(out[start:middle], out[middle : middle + stride], w, quotient, p)
        stride *= 2
        groups //= 2
    for j in range(out.size):
        out[j] = np.uint32(trim(times(scale[0], scale[2], np.uint64(out[j]), p), p))
