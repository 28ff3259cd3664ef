"""Arithmetic modulo the 60-bit primes of CKKS, compiled by numba without the interpreter lock.

A polynomial modulo X^N + 1 is an array of N residues per prime, uint64. Transformed, it holds its values at the odd
powers of psi, the least primitive 2N-th root of unity, in bit-reversed order: Microsoft SEAL's form. The transform is
that of Harvey, "Faster arithmetic for number-theoretic transforms", arXiv 1205.2926: residues stay in [0, 4p), and
each product takes Shoup's quotient floor(w 2^64 / p) of its constant operand. Products of two variable residues have
120 bits and are summed in pairs of words, up to LAZY of them before one reduction.

Products of 64-bit words into two words have no name in numba; two functions emit them as LLVM code, which every
64-bit processor has an instruction for.

No branch and no index depends on data, only on sizes, but in :func:`uniform`, which reads public bytes. Shapes: k
polynomials, L primes, N coefficients. Errors and ternary polynomials are int8. As in :mod:`vfl.crypto.lattice.ntt`,
all kernels stand in one file since the compiler's cache does not notice changes in the files of callees.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["LAZY", "accumulate", "add_zeros", "encrypt", "inner", "transform", "uniform"]

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

LAZY = 128  # products below 2^120 that a pair of words holds, with room to spare
TILE = 1024  # coefficients summed at a time, so that the sums stay in the first cache
_WORD, _PAIR = ir.IntType(64), ir.IntType(128)


def kernel(function: FunctionT) -> FunctionT:
    """Compile a function at its first call, to run without the interpreter lock, and keep it on disk."""
    return cast(FunctionT, njit(nogil=True, cache=True, error_model="numpy")(function))


def _product(builder: Any, x: Any, y: Any) -> Any:
    return builder.mul(builder.zext(x, _PAIR), builder.zext(y, _PAIR))


def _upper(builder: Any, pair: Any) -> Any:
    return builder.trunc(builder.lshr(pair, ir.Constant(_PAIR, 64)), _WORD)


def _emit_upper(typing: Any, x: Any, y: Any) -> Any:
    """Return the upper word of x y."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _upper(builder, _product(builder, *arguments))

    return types.uint64(types.uint64, types.uint64), generate


def _emit_add_product(typing: Any, low: Any, high: Any, x: Any, y: Any) -> Any:
    """Return the words of low + 2^64 high + x y."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        low, high, x, y = arguments
        shifted = builder.shl(builder.zext(high, _PAIR), ir.Constant(_PAIR, 64))
        total = builder.add(builder.or_(builder.zext(low, _PAIR), shifted), _product(builder, x, y))
        words = [builder.trunc(total, _WORD), _upper(builder, total)]
        return cgutils.pack_array(builder, words)  # type: ignore[no-untyped-call]

    pair = types.UniTuple(types.uint64, 2)  # type: ignore[no-untyped-call]
    return pair(*[types.uint64] * 4), generate


upper: Any = intrinsic(_emit_upper)
add_product: Any = intrinsic(_emit_add_product)


@kernel
def times(w: Any, quotient: Any, y: Any, p: Any) -> Any:
    """Return w y modulo p in [0, 2p), for any y."""
    return w * y - upper(quotient, y) * p


@kernel
def trim(x: Any, bound: Any) -> Any:
    """Return x - bound if that is not negative, else x: x below 2 bound stays below bound."""
    return min(x, x - bound)


@kernel
def reduce(low: Any, high: Any, p: Any, scale: Any) -> Any:
    """Return low + 2^64 high modulo p; `scale` holds 2^64 modulo p and Shoup's quotients of that and of 1."""
    total = times(scale[0], scale[1], high, p) + times(np.uint64(1), scale[2], low, p)
    return trim(trim(total, p + p), p)


@kernel
def _butterflies(x: Any, y: Any, w: Any, quotient: Any, p: Any) -> None:
    for j in range(x.size):
        high, low = trim(x[j], p + p), times(w, quotient, y[j], p)
        x[j] = high + low
        y[j] = high - low + p + p


@kernel
def forward(x: Any, roots: Any, p: Any) -> None:
    """Transform N residues in [0, 4p) in place, into [0, p); `roots` has the shape (2, N)."""
    stride, groups = x.size // 2, 1
    while stride:
        for group in range(groups):
            start, w, quotient = 2 * group * stride, roots[0, groups + group], roots[1, groups + group]
            middle = start + stride
            if stride >= 8:
                _butterflies(x[start:middle], x[middle : middle + stride], w, quotient, p)
                continue
            for j in range(start, middle):
                high, low = trim(x[j], p + p), times(w, quotient, x[j + stride], p)
                x[j] = high + low
                x[j + stride] = high - low + p + p
        stride //= 2
        groups *= 2
    for j in range(x.size):
        x[j] = trim(trim(x[j], p + p), p)


@kernel
def _lift(values: Any, p: Any, out: Any) -> None:
    """Write signed integers below 2^60 as residues in (0, 4p)."""
    for j in range(out.size):
        out[j] = np.uint64(np.int64(values[j])) + p + p


@kernel
def transform(values: Any, out: Any, primes: Any, roots: Any) -> None:
    """Transform integers below 2^60 in absolute value, (k, N) int64, modulo each prime: (k, L, N)."""
    for item in range(values.shape[0]):
        for limb in range(primes.size):
            _lift(values[item], primes[limb], out[item, limb])
            forward(out[item, limb], roots[limb], primes[limb])


@kernel
def uniform(words: Any, prime: Any, out: Any) -> Any:
    """Keep the 60-bit words below a prime, as many as `out` takes; return how many there were."""
    filled = 0
    for word in words:
        value = word & np.uint64((1 << 60) - 1)
        if filled < out.size:
            out[filled] = value
            filled += value < prime
    return filled


@kernel
def _add_four(
    low: Any, high: Any, x0: Any, x1: Any, x2: Any, x3: Any, y0: Any, y1: Any, y2: Any, y3: Any
) -> None:
    """Four products per load and store of the sum."""
    for j in range(low.size):
        pair = add_product(low[j], high[j], x0[j], y0[j])
        pair = add_product(pair[0], pair[1], x1[j], y1[j])
        pair = add_product(pair[0], pair[1], x2[j], y2[j])
        low[j], high[j] = add_product(pair[0], pair[1], x3[j], y3[j])


@kernel
def _add_one(low: Any, high: Any, x: Any, y: Any) -> None:
    for j in range(low.size):
        low[j], high[j] = add_product(low[j], high[j], x[j], y[j])


@kernel
def _sum_products(
    values: Any, x: Any, limb: Any, start: Any, low: Any, high: Any, p: Any, scale: Any
) -> None:
    """Set a tile of sums to the sum over k of values_k x_k, reduced, in `low`: both of shape (k, L, N)."""
    stop, count = start + low.size, values.shape[0]
    low[:] = np.uint64(0)
    for first in range(0, count, LAZY):
        last = min(first + LAZY, count)
        high[:] = np.uint64(0)
        k = first
        while k + 4 <= last:
            _add_four(
                low, high,
                values[k, limb, start:stop], values[k + 1, limb, start:stop],
                values[k + 2, limb, start:stop], values[k + 3, limb, start:stop],
                x[k, limb, start:stop], x[k + 1, limb, start:stop],
                x[k + 2, limb, start:stop], x[k + 3, limb, start:stop],
            )  # fmt: skip
            k += 4
        while k < last:
            _add_one(low, high, values[k, limb, start:stop], x[k, limb, start:stop])
            k += 1
        for j in range(low.size):
            low[j] = reduce(low[j], high[j], p, scale)


@kernel
def accumulate(c0: Any, c1: Any, x: Any, sums: Any, out: Any, primes: Any, scale: Any) -> None:
    """Compute for each i the sums over k of c0_k x_ik, added up over all values, and of c1_k x_ik.

    `c0` and `c1` (k, L, N), `x` (i, k, L, N), `sums` (i, L), `out` (i, L, N).
    """
    size = min(TILE, c0.shape[2])
    low, high = np.empty(size, np.uint64), np.empty(size, np.uint64)
    sums[:] = np.uint64(0)
    for limb in range(primes.size):
        p = primes[limb]
        for start in range(0, c0.shape[2], size):  # a tile of c0 and c1 stays in the cache for all i
            for item in range(x.shape[0]):
                _sum_products(c1, x[item], limb, start, low, high, p, scale[limb])
                out[item, limb, start : start + size] = low
                _sum_products(c0, x[item], limb, start, low, high, p, scale[limb])
                total = sums[item, limb]
                for j in range(size):
                    total = trim(total + low[j], p)
                sums[item, limb] = total


@kernel
def encrypt(
    message: Any,
    factor: Any,
    error: Any,
    a: Any,
    minus_s: Any,
    out: Any,
    primes: Any,
    roots: Any,
    scale: Any,
) -> None:
    """Compute factor m + e - a s.

    `message`, `a` and `out` (k, L, N) and `minus_s` (L, N) transformed, `factor` (L,), `error` (k, N) int8.
    """
    work = np.empty(error.shape[1], np.uint64)
    for item in range(error.shape[0]):
        for limb in range(primes.size):
            p, target = primes[limb], out[item, limb]
            _lift(error[item], p, work)
            forward(work, roots[limb], p)
            m, x, y, f = message[item, limb], a[item, limb], minus_s[limb], factor[limb]
            for j in range(work.size):
                pair = add_product(work[j], np.uint64(0), x[j], y[j])
                pair = add_product(pair[0], pair[1], m[j], f)
                target[j] = reduce(pair[0], pair[1], p, scale[limb])


@kernel
def add_zeros(
    u: Any, error: Any, public: Any, sums: Any, c1: Any, primes: Any, roots: Any, scale: Any
) -> None:
    """Add u b, added up over all values, to `sums` and u A + e_1 to `c1`.

    `u` and `error` (k, N) int8, `public` (2, L, N): b and A, transformed, `sums` (k, L), `c1` (k, L, N).
    """
    work, noise = np.empty(u.shape[1], np.uint64), np.empty(u.shape[1], np.uint64)
    for item in range(u.shape[0]):
        for limb in range(primes.size):
            p, target, x = primes[limb], c1[item, limb], public[1, limb]
            _lift(u[item], p, work)
            forward(work, roots[limb], p)
            sums[item, limb] = trim(sums[item, limb] + _dot(work, public[0, limb], p, scale[limb]), p)
            _lift(error[item], p, noise)
            forward(noise, roots[limb], p)
            for j in range(work.size):
                pair = add_product(target[j] + noise[j], np.uint64(0), x[j], work[j])
                target[j] = reduce(pair[0], pair[1], p, scale[limb])


@kernel
def _dot(x: Any, y: Any, p: Any, scale: Any) -> Any:
    total = np.uint64(0)
    for first in range(0, x.size, LAZY):
        low, high = total, np.uint64(0)
        for j in range(first, min(first + LAZY, x.size)):
            low, high = add_product(low, high, x[j], y[j])
        total = reduce(low, high, p, scale)
    return total


@kernel
def inner(x: Any, y: Any, sums: Any, primes: Any, scale: Any) -> None:
    """Compute inner products with one polynomial: `x` (k, L, N), `y` (L, N), `sums` (k, L)."""
    for item in range(x.shape[0]):
        for limb in range(primes.size):
            sums[item, limb] = _dot(x[item, limb], y[limb], primes[limb], scale[limb])
