"""ristretto255, eight elements at a time: RFC 9496 in the arithmetic of :mod:`vfl.crypto.ristretto_field`.

Scalar products take about a sixth of libsodium's time on the processors that have the instructions, and run without
the interpreter lock. Choices are made by masks: neither branches nor addresses depend on a scalar or an element,
except that an element which is no valid encoding is marked.

Sources: de Valence et al., "The ristretto255 and decaf448 Groups", RFC 9496, sections 4.2 and 4.3. Scalar products by
signed digits of four bits and a table of the multiples 1 to 8.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vfl.crypto.ristretto_field import (
    HALF,
    LANES,
    U64,
    D,
    P,
    add_point,
    add_to,
    double,
    limbs,
    multiply,
    pick,
    prepare,
    square,
    subtract,
)

__all__ = ["check_rows", "hash_rows", "multiply_rows", "signed_digits"]

_MASK = np.uint64(2**51 - 1)
_SHIFT = np.uint64(51)
_ONE, _NINETEEN, _NONE = np.uint64(1), np.uint64(19), np.uint64(0)
_DIGITS = 64


def _root(square_: int) -> int:
    """Return the square root that is even: non-negative in the sense of RFC 9496."""
    candidate = pow(square_, (P + 3) // 8, P)
    if candidate * candidate % P != square_ % P:
        candidate = candidate * pow(2, (P - 1) // 4, P) % P
    return min(candidate, P - candidate, key=lambda root: root & 1)


def _spread(number: int) -> U64:
    return np.repeat(np.array(limbs(number % P), np.uint64)[:, None], LANES, axis=1)


_CONSTANTS = np.stack(
    [
        _spread(value)
        for value in (
            0,
            1,
            D,
            _root(-1),
            pow(_root((-1 - D) % P), -1, P),  # 1 / sqrt(a - d)
            1 - D * D,
            (D - 1) ** 2,
            -_root((-D - 1) % P),  # sqrt(a d - 1): the odd root
            P - 1,
        )
    ]
)
_C0, _C1, _CD, _CI, _CINVROOT, _CMAP1, _CMAP2, _CROOT, _CMINUS = range(9)


@njit(nogil=True, cache=True)
def _freeze(x: U64) -> None:
    """Make the limbs those of the number in [0, p)."""
    for lane in range(LANES):
        for _ in range(2):
            carry = _NONE
            for i in range(5):
                value = x[i, lane] + carry
                x[i, lane] = value & _MASK
                carry = value >> _SHIFT
            x[0, lane] += _NINETEEN * carry
        excess = x[0, lane] + _NINETEEN
        for i in range(1, 5):
            excess = x[i, lane] + (excess >> _SHIFT)
        carry = _NINETEEN * (excess >> _SHIFT)  # 19 if the number is p or more
        for i in range(5):
            value = x[i, lane] + carry
            x[i, lane] = value & _MASK
            carry = value >> _SHIFT


@njit(nogil=True, cache=True)
def _equal(x: U64, y: U64, mask: U64) -> None:
    """Set a lane of `mask` to all ones where x = y modulo p, else to zero."""
    difference = np.empty_like(x)
    subtract(difference, x, y)
    _freeze(difference)
    for lane in range(LANES):
        bits = _NONE
        for i in range(5):
            bits |= difference[i, lane]
        mask[lane] = ((bits | (~bits + _ONE)) >> np.uint64(63)) - _ONE


@njit(nogil=True, cache=True)
def _negative(x: U64, mask: U64) -> None:
    """Set a lane of `mask` to all ones where x is odd as a number below p."""
    reduced = x.copy()
    _freeze(reduced)
    for lane in range(LANES):
        mask[lane] = ~(reduced[0, lane] & _ONE) + _ONE


@njit(nogil=True, cache=True)
def _select(result: U64, other: U64, mask: U64) -> None:
    """Set result = other where the mask is set."""
    for i in range(5):
        for lane in range(LANES):
            result[i, lane] ^= (result[i, lane] ^ other[i, lane]) & mask[lane]


@njit(nogil=True, cache=True)
def _negate_if(x: U64, mask: U64, constants: U64) -> None:
    other = np.empty_like(x)
    subtract(other, constants[_C0], x)
    _select(x, other, mask)


@njit(nogil=True, cache=True)
def _absolute(x: U64, constants: U64) -> None:
    mask = np.empty(LANES, np.uint64)
    _negative(x, mask)
    _negate_if(x, mask, constants)


@njit(nogil=True, cache=True)
def _power(result: U64, x: U64) -> None:
    """Set result = x^((p - 5) / 8) = x^(2^252 - 3)."""
    work = np.empty((5, 5, LANES), np.uint64)
    x3, x31, x10, x20, x50 = work[0], work[1], work[2], work[3], work[4]
    square(x3, x, 1)
    multiply(x3, x3, x)  # 2^2 - 1
    square(x31, x3, 2)
    multiply(x31, x31, x3)  # 2^4 - 1
    square(x31, x31, 1)
    multiply(x31, x31, x)  # 2^5 - 1
    square(x10, x31, 5)
    multiply(x10, x10, x31)
    square(x20, x10, 10)
    multiply(x20, x20, x10)
    square(x50, x20, 20)
    multiply(x50, x50, x20)
    square(x50, x50, 10)
    multiply(x50, x50, x10)
    square(result, x50, 50)
    multiply(result, result, x50)  # 2^100 - 1
    square(x20, result, 100)
    multiply(result, x20, result)
    square(result, result, 50)
    multiply(result, result, x50)  # 2^250 - 1
    square(result, result, 2)
    multiply(result, result, x)


@njit(nogil=True, cache=True)
def _square_root_ratio(root: U64, u: U64, v: U64, was_square: U64, constants: U64) -> None:
    """Set root = sqrt(u / v), or sqrt(i u / v) where that is no square: RFC 9496, section 4.2."""
    work = np.empty((3, 5, LANES), np.uint64)
    v3, check, other = work[0], work[1], work[2]
    flipped, flipped_i = np.empty(LANES, np.uint64), np.empty(LANES, np.uint64)
    square(v3, v, 1)
    multiply(v3, v3, v)
    square(check, v3, 1)
    multiply(check, check, v)
    multiply(check, check, u)
    _power(root, check)
    multiply(root, root, v3)
    multiply(root, root, u)
    square(check, root, 1)
    multiply(check, check, v)
    _equal(check, u, was_square)
    subtract(other, constants[_C0], u)
    _equal(check, other, flipped)
    multiply(other, other, constants[_CI])
    _equal(check, other, flipped_i)
    multiply(other, root, constants[_CI])
    _select(root, other, flipped | flipped_i)
    _absolute(root, constants)
    for lane in range(LANES):
        was_square[lane] |= flipped[lane]


@njit(nogil=True, cache=True)
def _read(words: U64, x: U64, lane: int) -> None:
    """Read 32 bytes, without the highest bit, into a lane."""
    x[0, lane] = words[0] & _MASK
    x[1, lane] = (words[0] >> _SHIFT | words[1] << np.uint64(13)) & _MASK
    x[2, lane] = (words[1] >> np.uint64(38) | words[2] << np.uint64(26)) & _MASK
    x[3, lane] = (words[2] >> np.uint64(25) | words[3] << np.uint64(39)) & _MASK
    x[4, lane] = (words[3] >> np.uint64(12)) & _MASK


@njit(nogil=True, cache=True)
def _write(words: U64, x: U64, lane: int) -> None:
    """Write a lane of a number in [0, p) as 32 bytes."""
    words[0] = x[0, lane] | x[1, lane] << _SHIFT
    words[1] = x[1, lane] >> np.uint64(13) | x[2, lane] << np.uint64(38)
    words[2] = x[2, lane] >> np.uint64(26) | x[3, lane] << np.uint64(25)
    words[3] = x[3, lane] >> np.uint64(39) | x[4, lane] << np.uint64(12)


@njit(nogil=True, cache=True)
def _decode(point: U64, s: U64, valid: U64, constants: U64) -> None:
    """Set point and clear `valid` where s (from a canonical encoding) is none: RFC 9496, section 4.3.1."""
    work = np.empty((5, 5, LANES), np.uint64)
    u1, u2, v, w, root = work[0], work[1], work[2], work[3], work[4]
    was_square, mask = np.empty(LANES, np.uint64), np.empty(LANES, np.uint64)
    x, y, t = point[0], point[1], point[3]
    square(w, s, 1)
    subtract(u1, constants[_C1], w)
    add_to(u2, constants[_C1], w)
    square(w, u2, 1)  # u2^2
    square(v, u1, 1)
    multiply(v, v, constants[_CD])
    subtract(v, constants[_C0], v)
    subtract(v, v, w)
    multiply(w, v, w)
    _square_root_ratio(root, constants[_C1], w, was_square, constants)
    multiply(u2, root, u2)  # 1 / denominator of x
    multiply(y, root, u2)
    multiply(y, y, v)
    multiply(y, y, u1)
    add_to(x, s, s)
    multiply(x, x, u2)
    _absolute(x, constants)
    point[2] = constants[_C1]
    multiply(t, x, y)
    _negative(t, mask)
    _equal(y, constants[_C0], u1[0])
    for lane in range(LANES):
        valid[lane] &= was_square[lane] & ~mask[lane] & ~u1[0, lane]


@njit(nogil=True, cache=True)
def _encode(s: U64, point: U64, constants: U64) -> None:
    """Set s, reduced, to the canonical encoding: RFC 9496, section 4.3.2."""
    x, y, z, t = point[0].copy(), point[1].copy(), point[2], point[3]
    work = np.empty((5, 5, LANES), np.uint64)
    u1, u2, w, root, inverse = work[0], work[1], work[2], work[3], work[4]
    mask = np.empty(LANES, np.uint64)
    add_to(u1, z, y)
    subtract(w, z, y)
    multiply(u1, u1, w)
    multiply(u2, x, y)
    square(w, u2, 1)
    multiply(w, w, u1)
    _square_root_ratio(root, constants[_C1], w, mask, constants)
    multiply(u1, root, u1)
    multiply(u2, root, u2)
    multiply(inverse, u1, u2)
    multiply(inverse, inverse, t)  # 1 / Z
    multiply(w, t, inverse)
    _negative(w, mask)  # rotate
    multiply(root, x, constants[_CI])
    multiply(w, y, constants[_CI])
    _select(x, w, mask)
    _select(y, root, mask)
    multiply(w, u1, constants[_CINVROOT])
    _select(u2, w, mask)
    multiply(w, x, inverse)
    _negative(w, mask)
    _negate_if(y, mask, constants)
    subtract(w, z, y)
    multiply(s, u2, w)
    _absolute(s, constants)
    _freeze(s)


@njit(nogil=True, cache=True)
def _map(point: U64, t: U64, constants: U64) -> None:
    """Set point to the image of t: RFC 9496, section 4.3.4, MAP."""
    work = np.empty((6, 5, LANES), np.uint64)
    r, u, v, s, c, w = work[0], work[1], work[2], work[3], work[4], work[5]
    was_square = np.empty(LANES, np.uint64)
    square(r, t, 1)
    multiply(r, r, constants[_CI])
    add_to(u, r, constants[_C1])
    multiply(u, u, constants[_CMAP1])
    multiply(v, r, constants[_CD])
    subtract(v, constants[_CMINUS], v)
    add_to(w, r, constants[_CD])
    multiply(v, v, w)
    _square_root_ratio(s, u, v, was_square, constants)
    multiply(w, s, t)
    _absolute(w, constants)
    subtract(w, constants[_C0], w)
    other = ~was_square
    _select(s, w, other)
    c[:] = constants[_CMINUS]
    _select(c, r, other)
    subtract(w, r, constants[_C1])
    multiply(c, c, w)
    multiply(c, c, constants[_CMAP2])
    subtract(c, c, v)  # N
    multiply(v, s, v)
    add_to(v, v, v)  # w0
    multiply(c, c, constants[_CROOT])  # w1
    square(s, s, 1)
    subtract(u, constants[_C1], s)  # w2
    add_to(w, constants[_C1], s)  # w3
    multiply(point[0], v, w)
    multiply(point[1], u, c)
    multiply(point[2], c, w)
    multiply(point[3], v, u)


@njit(nogil=True, cache=True)
def _scale(point: U64, digits: NDArray[np.int8], table: U64, chosen: U64, constants: U64) -> None:
    """Multiply a point by the scalars with these signed digits, shape (8, 64), lowest first."""
    running = point.copy()
    prepare(table[0], running)
    for entry in range(1, HALF):
        add_point(running, table[0])
        prepare(table[entry], running)
    point[0], point[1], point[2], point[3] = constants[_C0], constants[_C1], constants[_C1], constants[_C0]
    wanted = np.empty(LANES, np.int64)
    for place in range(_DIGITS - 1, -1, -1):
        if place < _DIGITS - 1:
            double(point, 4)
        for lane in range(LANES):
            wanted[lane] = digits[lane, place]
        pick(chosen, table, wanted)
        add_point(point, chosen)


@njit(nogil=True, cache=True)
def _canonical(words: U64) -> bool:
    """Tell whether 32 bytes are an even number below p."""
    if words[0] & _ONE or words[3] >> np.uint64(63):
        return False
    top = words[3] == np.uint64(2**63 - 1) and words[2] == ~_NONE and words[1] == ~_NONE
    return not (top and words[0] >= np.uint64(2**64 - 19))


@njit(nogil=True, cache=True)
def _load(points: U64, first: int, last: int, s: U64, valid: U64) -> None:
    for lane in range(LANES):
        row = min(first + lane, last - 1)
        _read(points[row], s, lane)
        valid[lane] = ~_NONE if _canonical(points[row]) else _NONE


@njit(nogil=True, cache=True)
def _check_rows(points: U64, bad: NDArray[np.uint8], start: int, stop: int, constants: U64) -> None:
    point, s, valid = (
        np.empty((4, 5, LANES), np.uint64),
        np.empty((5, LANES), np.uint64),
        np.empty(LANES, np.uint64),
    )
    for first in range(start, stop, LANES):
        _load(points, first, stop, s, valid)
        _decode(point, s, valid, constants)
        for lane in range(min(LANES, stop - first)):
            bad[first + lane] = valid[lane] == _NONE


@njit(nogil=True, cache=True)
def _multiply_rows(
    out: U64,
    points: U64,
    digits: NDArray[np.int8],
    step: int,
    bad: NDArray[np.uint8],
    start: int,
    stop: int,
    constants: U64,
) -> None:
    point, s, valid = (
        np.empty((4, 5, LANES), np.uint64),
        np.empty((5, LANES), np.uint64),
        np.empty(LANES, np.uint64),
    )
    table, chosen = np.empty((HALF, 4, 5, LANES), np.uint64), np.empty((4, 5, LANES), np.uint64)
    own = np.empty((LANES, _DIGITS), np.int8)
    for first in range(start, stop, LANES):
        _load(points, first, stop, s, valid)
        _decode(point, s, valid, constants)
        for lane in range(LANES):
            own[lane] = digits[step * min(first + lane, stop - 1)]
        _scale(point, own, table, chosen, constants)
        _encode(s, point, constants)
        for lane in range(min(LANES, stop - first)):
            _write(out[first + lane], s, lane)
            bad[first + lane] = valid[lane] == _NONE


@njit(nogil=True, cache=True)
def _hash_rows(
    out: U64, wide: U64, digits: NDArray[np.int8], step: int, start: int, stop: int, constants: U64
) -> None:
    point, second = np.empty((4, 5, LANES), np.uint64), np.empty((4, 5, LANES), np.uint64)
    s, other = np.empty((5, LANES), np.uint64), np.empty((5, LANES), np.uint64)
    table, chosen = np.empty((HALF, 4, 5, LANES), np.uint64), np.empty((4, 5, LANES), np.uint64)
    own = np.empty((LANES, _DIGITS), np.int8)
    for first in range(start, stop, LANES):
        for lane in range(LANES):
            row = wide[min(first + lane, stop - 1)]
            _read(row[:4], s, lane)
            _read(row[4:], other, lane)
        _map(point, s, constants)
        _map(second, other, constants)
        prepare(chosen, second)
        add_point(point, chosen)
        if len(digits):
            for lane in range(LANES):
                own[lane] = digits[step * min(first + lane, stop - 1)]
            _scale(point, own, table, chosen, constants)
        _encode(s, point, constants)
        for lane in range(min(LANES, stop - first)):
            _write(out[first + lane], s, lane)


def check_rows(points: U64, bad: NDArray[np.uint8], start: int, stop: int) -> None:
    """Mark the rows in [start, stop) of `points`, shape (n, 4), that are no valid encodings, or the identity."""
    _check_rows(points, bad, start, stop, _CONSTANTS)
    bad[start:stop] |= ~points[start:stop].any(axis=1)


def multiply_rows(
    out: U64, points: U64, digits: NDArray[np.int8], bad: NDArray[np.uint8], start: int, stop: int
) -> None:
    """Set the rows of `out` to scalar products of those of `points`; mark rows that are no valid encodings.

    `digits`, from :func:`signed_digits`, has a row for every point or one for all.
    """
    _multiply_rows(out, points, digits, int(len(digits) == len(points)), bad, start, stop, _CONSTANTS)
    bad[start:stop] |= ~points[start:stop].any(axis=1)


def hash_rows(out: U64, wide: U64, digits: NDArray[np.int8], start: int, stop: int) -> None:
    """Set the rows of `out` to the elements of 64 uniform bytes each, times scalars if there are `digits`."""
    _hash_rows(out, wide, digits, int(len(digits) == len(out)), start, stop, _CONSTANTS)


def signed_digits(scalars: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Return the digits in [-8, 8] of scalars below 2^253, shape (n, 64), lowest first."""
    digits = np.empty((len(scalars), _DIGITS), np.int8)
    digits[:, 0::2], digits[:, 1::2] = scalars & 15, scalars >> 4
    carry = np.zeros(len(scalars), np.int8)
    for place in range(_DIGITS - 1):
        digits[:, place] += carry
        carry = (digits[:, place] + 8) >> 4
        digits[:, place] -= carry << 4
    digits[:, -1] += carry
    return digits
