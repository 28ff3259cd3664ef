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

Below the transforms stand the loops over whole batches of polynomials. Shapes there: k polynomials, L limbs (primes of
q), N coefficients. Residues are uint32 in [0, p), secrets and errors int8. The rejections of :func:`uniform` (on public
bytes) and :func:`ternary` are the only branches on data, and what a rejection tells is independent of what is kept.

All kernels stand in one file since the compiler's cache on disk notices changes of the file of a kernel, and none in
the files of those that it calls.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

__all__ = [
    "accumulate",
    "binomial",
    "encrypt",
    "finish",
    "inner",
    "multiply",
    "rerandomise",
    "ternary",
    "to_coefficients",
    "transform",
    "uniform",
]

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

LAZY = 16  # products of residues below 2^30 that fit a 64-bit sum
TILE = 2048  # coefficients summed at a time, so that the sums stay in the first cache


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


@kernel
def reduce(x: Any, p: Any, scale: Any) -> Any:
    """Return any 64-bit x modulo p: x_1 2^32 by Shoup's product, and of x_0 as many p as it has 2^30."""
    low = x & np.uint64(0xFFFFFFFF)
    low -= np.uint64(np.uint32(low >> np.uint64(30))) * np.uint64(p)
    high = times(scale[1], scale[3], x >> np.uint64(32), p)
    return trim(trim(high + low, p + p), p)


@kernel
def uniform(words: Any, prime: Any, out: Any) -> Any:
    """Keep the 30-bit words below a prime, as many as `out` takes; return how many there were."""
    filled = 0
    for word in words:
        value = word & np.uint32((1 << 30) - 1)
        if filled < out.size:
            out[filled] = value
            filled += value < prime
    return filled


@kernel
def ternary(raw: Any, out: Any) -> Any:
    """Cut bytes below 3^5 into five uniform digits -1, 0, 1; return how many digits there were."""
    filled = 0
    for byte in raw:
        if byte < 243 and filled + 5 <= out.size:
            digits = np.uint32(byte)
            for place in range(5):
                out[filled + place] = np.int8(digits % np.uint32(3)) - np.int8(1)
                digits //= np.uint32(3)
            filled += 5
    return filled


@kernel
def _ones(x: Any) -> Any:
    x = x - ((x >> np.uint32(1)) & np.uint32(0x55555555))
    x = (x & np.uint32(0x33333333)) + ((x >> np.uint32(2)) & np.uint32(0x33333333))
    x = (x + (x >> np.uint32(4))) & np.uint32(0x0F0F0F0F)
    return np.uint32(np.uint32(x * np.uint32(0x01010101)) >> np.uint32(24))


@kernel
def binomial(words: Any, out: Any) -> None:
    """Difference of the ones in 21 and in 21 more bits of two 32-bit words each: variance 10.5."""
    for j in range(out.size):
        first, second = words[j, 0] & np.uint32(0x1FFFFF), words[j, 1] & np.uint32(0x1FFFFF)
        out[j] = np.int8(np.int32(_ones(first)) - np.int32(_ones(second)))


@kernel
def transform(values: Any, out: Any, primes: Any, outer: Any, inner: Any) -> None:
    """Transform integers below 2^29 in absolute value, (k, N) int32, modulo each prime: (k, L, N)."""
    columns, rows = inner.shape[3:]
    work = np.empty(values.shape[1], np.uint32)
    for item in range(values.shape[0]):
        for limb in range(primes.size):
            p = primes[limb]
            _lift(values[item], p, work)
            target = out[item, limb].reshape((columns, rows))
            forward(work, target, outer[limb, 0], inner[limb, 0], p)


@kernel
def to_coefficients(values: Any, out: Any, primes: Any, outer: Any, inner: Any, scale: Any) -> None:
    """Undo :func:`transform`: (k, L, N) to (k, L, N)."""
    columns, rows = inner.shape[3:]
    work = np.empty((columns, rows), np.uint32)
    for item in range(values.shape[0]):
        for limb in range(primes.size):
            work[:] = values[item, limb].reshape((columns, rows))
            inverse(work, out[item, limb], outer[limb, 1], inner[limb, 1], scale[limb], primes[limb])


@kernel
def _mix(x: Any, y: Any, z: Any, out: Any, p: Any, scale: Any) -> None:
    """Compute out = x y + z modulo p; few arrays at a time, or the compiler gives up on vectors."""
    for j in range(out.size):
        out[j] = np.uint32(reduce(np.uint64(x[j]) * np.uint64(y[j]) + np.uint64(z[j]), p, scale))


@kernel
def _lift(values: Any, p: Any, out: Any) -> None:
    """Write small signed integers as residues in (0, 2p)."""
    for j in range(out.size):
        out[j] = np.uint32(np.int64(values[j]) + np.int64(p))


@kernel
def encrypt(
    message: Any,
    error: Any,
    a: Any,
    minus_s: Any,
    delta: Any,
    out: Any,
    primes: Any,
    outer: Any,
    inner: Any,
    scale: Any,
) -> None:
    """Compute b = -a s + e + delta m, transformed, (k, L, N).

    `message` (k, limbs of t, N), `error` (k, N) int8, `a` (k, L, N) and `minus_s` (L, N) transformed, `delta` (limbs
    of t, 2): q/t modulo the primes of t, and its Shoup quotient.
    """
    columns, rows = inner.shape[3:]
    work, spread = np.empty(error.shape[1], np.uint32), np.empty((columns, rows), np.uint32)
    for item in range(error.shape[0]):
        for limb in range(primes.size):
            p = primes[limb]
            _lift(error[item], p, work)
            if limb < delta.shape[0]:
                w, quotient = delta[limb, 0], delta[limb, 1]
                for j in range(work.size):
                    scaled = times(w, quotient, np.uint64(message[item, limb, j]), p)
                    work[j] = np.uint32(np.uint64(work[j]) + trim(scaled, p))
            forward(work, spread, outer[limb, 0], inner[limb, 0], p)
            flat = spread.reshape(work.size)
            _mix(a[item, limb], minus_s[limb], flat, out[item, limb], p, scale[limb])


@kernel
def _add_one(total: Any, x: Any, y: Any) -> None:
    for j in range(total.size):
        total[j] += np.uint64(x[j]) * np.uint64(y[j])


@kernel
def _add_four(total: Any, x0: Any, x1: Any, x2: Any, x3: Any, y0: Any, y1: Any, y2: Any, y3: Any) -> None:
    """Four products per load and store of the sum; one sum at a time, or the compiler gives up on vectors."""
    for j in range(total.size):
        left = np.uint64(x0[j]) * np.uint64(y0[j]) + np.uint64(x1[j]) * np.uint64(y1[j])
        right = np.uint64(x2[j]) * np.uint64(y2[j]) + np.uint64(x3[j]) * np.uint64(y3[j])
        total[j] += left + right


@kernel
def _row(x: Any, item: Any, k: Any, axis: Any) -> Any:
    return x[k, item] if axis else x[item, k]


@kernel
def _sum_products(
    values: Any, x: Any, item: Any, axis: Any, limb: Any, start: Any, total: Any, p: Any, scale: Any
) -> None:
    """Add the sum over k of values_k x_ik to a tile of sums, reduced: `values` (k, L, N), `x` (i, k, L, N)."""
    stop, count = start + total.size, values.shape[0]
    for first in range(0, count, LAZY):
        last = min(first + LAZY, count)
        k = first
        while k + 4 <= last:
            _add_four(
                total,
                values[k, limb, start:stop], values[k + 1, limb, start:stop],
                values[k + 2, limb, start:stop], values[k + 3, limb, start:stop],
                _row(x, item, k, axis)[limb, start:stop], _row(x, item, k + 1, axis)[limb, start:stop],
                _row(x, item, k + 2, axis)[limb, start:stop], _row(x, item, k + 3, axis)[limb, start:stop],
            )  # fmt: skip
            k += 4
        while k < last:
            _add_one(total, values[k, limb, start:stop], _row(x, item, k, axis)[limb, start:stop])
            k += 1
        for j in range(total.size):
            total[j] = reduce(total[j], p, scale)


@kernel
def accumulate(
    a: Any, b: Any, x: Any, first: Any, axis: Any, out_a: Any, out_b: Any, primes: Any, scale: Any
) -> None:
    """Add the sums over k of (a_k, b_k) x_ik to (out_a_i, out_b_i), everything transformed, i from `first` on.

    `x` has shape (i, k, L, N), or (k, i, L, N) where `axis` is 1.
    """
    size = min(TILE, a.shape[2])
    total = np.empty(size, np.uint64)
    for item in range(out_a.shape[0]):
        for limb in range(primes.size):
            for start in range(0, a.shape[2], size):
                for values, out in ((a, out_a), (b, out_b)):  # b at once after a: x is in the cache
                    target = out[item, limb, start : start + size]
                    total[:] = target
                    _sum_products(
                        values, x, first + item, axis, limb, start, total, primes[limb], scale[limb]
                    )
                    for j in range(size):
                        target[j] = np.uint32(total[j])


@kernel
def _add_small(x: Any, error: Any, p: Any) -> None:
    """Add signed integers below p in absolute value to residues, in place."""
    for j in range(x.size):
        total = np.uint64(np.int64(x[j]) + np.int64(error[j]) + np.int64(p))
        x[j] = np.uint32(trim(trim(total, p + p), p))


@kernel
def _divide(x: Any, last: Any, half: Any, prime: Any, inverse_: Any, quotient: Any, p: Any) -> None:
    for j in range(x.size):
        rest = trim(np.uint64(last[j]) + np.uint64(half), prime)
        shifted = np.uint64(x[j]) + np.uint64(half) + np.uint64(p + p) - rest
        x[j] = np.uint32(trim(times(inverse_, quotient, shifted, p), p))


@kernel
def _switch(x: Any, kept: Any, primes: Any, inverses: Any, half: Any) -> None:
    """Divide by the primes after the first `kept`, rounding: (L, N) in place.

    `inverses` (L, L, 2): the prime of the first index inverted modulo that of the second, and its Shoup quotient.
    `half` (L,): (p - 1)/2. round(c/p) is (c + h - ((c + h) mod p)) / p.
    """
    for last in range(primes.size - 1, kept - 1, -1):
        for limb in range(last):
            w, quotient = inverses[last, limb, 0], inverses[last, limb, 1]
            _divide(x[limb], x[last], half[last], primes[last], w, quotient, primes[limb])


@kernel
def rerandomise(
    a: Any, b: Any, public: Any, u: Any, error: Any, kept: Any, inverses: Any, half: Any,
    out_a: Any, out_b: Any, primes: Any, outer: Any, inner: Any, scale: Any,
) -> None:  # fmt: skip
    """Add u (A, B) + (e1, 0); switch a down into `out_a`, (k, kept, N); write b's coefficients to `out_b`.

    `a`, `b` (k, L, N) and `public` (2, L, N: A, B) transformed; `u`, `error` (k, N) int8. `out_b` is (k, L, N), or
    (k, L, 1) for the constant coefficients alone: 1/N times the sum of the values.
    """
    columns, rows = inner.shape[3:]
    degree = columns * rows
    work, spread = np.empty(degree, np.uint32), np.empty((columns, rows), np.uint32)
    mixed = np.empty((columns, rows), np.uint32)
    flat, total_flat = spread.reshape(degree), mixed.reshape(degree)
    switched = np.empty((primes.size, degree), np.uint32)
    for item in range(u.shape[0]):
        for limb in range(primes.size):
            p, constants = primes[limb], scale[limb]
            _lift(u[item], p, work)
            forward(work, spread, outer[limb, 0], inner[limb, 0], p)
            _mix(flat, public[0, limb], a[item, limb], total_flat, p, constants)
            inverse(mixed, switched[limb], outer[limb, 1], inner[limb, 1], constants, p)
            _add_small(switched[limb], error[item], p)
            _mix(flat, public[1, limb], b[item, limb], total_flat, p, constants)
            if out_b.shape[2] == 1:
                total = np.uint64(0)
                for j in range(degree):
                    total += np.uint64(total_flat[j])
                total = times(constants[0], constants[2], reduce(total, p, constants), p)
                out_b[item, limb, 0] = np.uint32(trim(total, p))
            else:
                inverse(mixed, out_b[item, limb], outer[limb, 1], inner[limb, 1], constants, p)
        _switch(switched, kept, primes, inverses, half)
        out_a[item] = switched[:kept]


@kernel
def finish(
    b: Any, masks: Any, flood: Any, error: Any, offset: Any, powers: Any, delta: Any, kept: Any, inverses: Any,
    half: Any, out: Any, primes: Any, scale: Any,
) -> None:  # fmt: skip
    """Add e_0, flooding and Delta mask to coefficients of b and switch them down.

    `b` (k, L, P) coefficients; `masks` (k, limbs of t, P); `flood` (W, k, P) words of 30 bits, whose number less
    `offset` (L,) is the flooding; `powers` (W, L) of 2^30; `error` (k, P) int8; `out` (k, kept, P).
    """
    total = np.empty(b.shape[1:], np.uint32)
    for item in range(b.shape[0]):
        for limb in range(primes.size):
            p, constants = primes[limb], scale[limb]
            start = np.int64(offset[limb]) + np.int64(p)
            for j in range(b.shape[2]):
                x = np.uint64(np.int64(b[item, limb, j]) + np.int64(error[item, j]) + start)
                for word in range(powers.shape[0]):
                    x += np.uint64(flood[word, item, j]) * powers[word, limb]
                if limb < delta.shape[0]:
                    x += np.uint64(masks[item, limb, j]) * np.uint64(delta[limb, 0])
                total[limb, j] = np.uint32(reduce(x, p, constants))
        _switch(total, kept, primes, inverses, half)
        out[item] = total[:kept]


@kernel
def inner(a: Any, secret: Any, out: Any) -> None:
    """Inner products of (k, limbs, N) residues and N digits -1, 0, 1: (k, limbs) int64, not reduced."""
    for item in range(a.shape[0]):
        for limb in range(a.shape[1]):
            total = np.int64(0)
            for j in range(secret.size):
                total += np.int64(np.int32(a[item, limb, j]) * np.int32(secret[j]))
            out[item, limb] = total


@kernel
def multiply(a: Any, s: Any, out: Any, primes: Any, outer: Any, inner: Any, scale: Any) -> None:
    """Products of (k, limbs, N) polynomials in coefficients with one transformed (L, N): coefficients again."""
    columns, rows = inner.shape[3:]
    work, spread = np.empty(a.shape[2], np.uint32), np.empty((columns, rows), np.uint32)
    product, zero = np.empty((columns, rows), np.uint32), np.zeros(a.shape[2], np.uint32)
    for item in range(a.shape[0]):
        for limb in range(a.shape[1]):
            p = primes[limb]
            work[:] = a[item, limb]
            forward(work, spread, outer[limb, 0], inner[limb, 0], p)
            _mix(spread.reshape(work.size), s[limb], zero, product.reshape(work.size), p, scale[limb])
            inverse(product, out[item, limb], outer[limb, 1], inner[limb, 1], scale[limb], p)
