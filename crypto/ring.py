"""The ring of shares: Z_t for t = p_1 ... p_L, numbers kept as their residues modulo each prime.

A share of an array of shape S is a uint32 array of shape (L, *S), limbs first. Two shares x_0 + x_1 = x modulo t are
each uniform. Real numbers are fixed point: x stands for x 2^-f, and integers of absolute value below t/2 are centred.

**Truncation.** Both parties divide their own share by 2^s, the first one as floor(x_0 / 2^s), the second as
t - floor((t - x_1) / 2^s). The result is x / 2^s rounded down or up, at random with the right mean, unless the sum of
the shares wraps differently from what x says, which has probability |x|/t: then the result is off by about t 2^-s.
:func:`failure_bits` adds that up. (Mohassel, Zhang, "SecureML", eprint 2017/396, section 4.1, there modulo 2^l.)

The kernels have no branch and no index that depends on data, but for the sign in :meth:`Ring.decode`, which is for what
its party may know.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.lattice.ntt import kernel
from vfl.crypto.lattice.params import SHARES, lift
from vfl.crypto.rng import Rng
from vfl.crypto.threads import run
from vfl.errors import EncodingOverflow

__all__ = ["MATRIX_BITS", "RING", "FloatArray", "Ring", "Share", "failure_bits"]

Share = NDArray[np.uint32]
FloatArray = NDArray[np.float64]
_WORD = 30  # bits of a word of a lifted number
_HALF = 15  # bits of half a residue: products with matrix entries then stay exact in float64
_TILE = 512  # numbers lifted at a time, so that their words stay in the first cache
_PIECE = 1 << 15  # numbers that a thread takes at least
_BLOCK = 1 << 16  # rows of a matrix turned into float64 at a time
MATRIX_BITS = 20


@kernel
def _mod(x: Any, p: Any, inverse: Any) -> Any:
    """Return x modulo p for x below 2^60, with Barrett's floor(2^60 / p)."""
    quotient = ((x >> np.uint64(29)) * inverse) >> np.uint64(31)
    x -= quotient * p
    x = min(x, x - p)
    x = min(x, x - p)
    return min(x, x - p)


@kernel
def _add(x: Any, y: Any, primes: Any, out: Any) -> None:
    for limb in range(primes.size):
        p = np.uint32(primes[limb])
        for j in range(x.shape[1]):
            total = x[limb, j] + y[limb, j]
            out[limb, j] = min(total, np.uint32(total - p))


@kernel
def _subtract(x: Any, y: Any, primes: Any, out: Any) -> None:
    for limb in range(primes.size):
        p = np.uint32(primes[limb])
        for j in range(x.shape[1]):
            total = np.uint32(x[limb, j] - y[limb, j])
            out[limb, j] = min(total, np.uint32(total + p))


@kernel
def _multiply(x: Any, y: Any, primes: Any, inverses: Any, out: Any) -> None:
    for limb in range(primes.size):
        p, inverse = primes[limb], inverses[limb]
        for j in range(x.shape[1]):
            out[limb, j] = np.uint32(_mod(np.uint64(x[limb, j]) * np.uint64(y[limb, j]), p, inverse))


@kernel
def _scale(x: Any, factors: Any, primes: Any, inverses: Any, out: Any) -> None:
    for limb in range(primes.size):
        p, inverse, factor = primes[limb], inverses[limb], factors[limb]
        for j in range(x.shape[1]):
            out[limb, j] = np.uint32(_mod(np.uint64(x[limb, j]) * factor, p, inverse))


@kernel
def _reduce(values: Any, primes: Any, out: Any) -> None:
    """Signed 64-bit integers to residues."""
    for limb in range(primes.size):
        p = np.int64(primes[limb])
        for j in range(values.size):
            rest = values[j] % p
            out[limb, j] = np.uint32(rest)


@kernel
def _combine(low: Any, high: Any, primes: Any, out: Any) -> None:
    """Signed sums of products with the lower and upper halves of residues to residues: (L, size)."""
    for limb in range(primes.size):
        p = np.int64(primes[limb])
        for j in range(low.shape[1]):
            out[limb, j] = np.uint32((high[limb, j] % p * np.int64(1 << 15) + low[limb, j] % p) % p)


@kernel
def _words(x: Any, primes: Any, inverses: Any, garner: Any, places: Any, digits: Any, words: Any) -> None:
    """Write numbers, (L, T), as words of 30 bits, (L, T), by Garner's mixed radix; `digits` (L, T) is for work."""
    limbs, size = x.shape
    for limb in range(limbs):
        p, inverse = primes[limb], inverses[limb]
        for j in range(size):
            digits[limb, j] = np.uint64(x[limb, j])
        for earlier in range(limb):
            factor = garner[earlier, limb]
            for j in range(size):  # a digit is below another prime, less than 2 p
                digit = _mod(digits[limb, j] + p + p - digits[earlier, j], p, inverse)
                digits[limb, j] = _mod(digit * factor, p, inverse)
    words[:] = 0
    for limb in range(limbs):
        for k in range(limb + 1):
            for j in range(size):
                words[k, j] += (digits[limb, j] * places[limb, k]) & np.uint64(0x3FFFFFFF)
                if k + 1 < limbs:
                    words[k + 1, j] += (digits[limb, j] * places[limb, k]) >> np.uint64(30)
    for k in range(limbs - 1):
        for j in range(size):
            words[k + 1, j] += words[k, j] >> np.uint64(30)
            words[k, j] &= np.uint64(0x3FFFFFFF)


@kernel
def _truncate(
    x: Any, skip: Any, shift: Any, primes: Any, inverses: Any, garner: Any, places: Any, out: Any
) -> None:
    """Divide by 2^(30 skip + shift), rounding down: (L, size)."""
    limbs, size = x.shape
    words, digits = np.empty((limbs, _TILE), np.uint64), np.empty((limbs, _TILE), np.uint64)
    rest = np.empty(_TILE, np.uint64)
    right, left = np.uint64(shift), np.uint64(30 - shift)
    for start in range(0, size, _TILE):
        stop = min(start + _TILE, size)
        count = stop - start
        _words(x[:, start:stop], primes, inverses, garner, places, digits[:, :count], words[:, :count])
        for k in range(skip, limbs):
            for j in range(count):
                word = words[k, j] >> right
                if k + 1 < limbs:
                    word |= (words[k + 1, j] << left) & np.uint64(0x3FFFFFFF)
                words[k - skip, j] = word
        for limb in range(limbs):
            p, inverse = primes[limb], inverses[limb]
            rest[:count] = 0
            for k in range(limbs - skip - 1, -1, -1):
                for j in range(count):
                    rest[j] = _mod((rest[j] << np.uint64(30)) + words[k, j], p, inverse)
            for j in range(count):
                out[limb, start + j] = np.uint32(rest[j])


@kernel
def _floats(x: Any, primes: Any, inverses: Any, garner: Any, places: Any, half: Any, out: Any) -> None:
    """Write centred numbers as float64: those above t/2 by way of their complement."""
    limbs, size = x.shape
    words, digits = np.empty((limbs, 1), np.uint64), np.empty((limbs, 1), np.uint64)
    number = np.empty((limbs, 1), np.uint32)
    for i in range(size):
        number[:, 0] = x[:, i]
        _words(number, primes, inverses, garner, places, digits, words)
        larger = False
        for k in range(limbs):  # the last difference decides
            larger = words[k, 0] > half[k] or (words[k, 0] == half[k] and larger)
        sign = 1.0
        if larger:
            sign = -1.0
            for limb in range(limbs):
                number[limb, 0] = (primes[limb] - np.uint64(number[limb, 0])) % primes[limb]
            _words(number, primes, inverses, garner, places, digits, words)
        value = 0.0
        for k in range(limbs - 1, -1, -1):
            value = value * 1073741824.0 + np.float64(words[k, 0])
        out[i] = sign * value


@kernel
def _turns(x: Any, factors: Any, primes: Any, inverses: Any, out: Any) -> None:
    """Write fractions of t: the sum of x factor / p over the primes, by the Chinese remainder theorem."""
    out[:] = 0.0
    for limb in range(primes.size):
        p, inverse, factor = primes[limb], inverses[limb], factors[limb]
        for j in range(out.size):
            out[j] += np.float64(_mod(np.uint64(x[limb, j]) * factor, p, inverse)) / np.float64(p)
    for j in range(out.size):
        out[j] -= np.floor(out[j])


@final
class Ring:
    """Arithmetic on arrays of residues.

    Parameters
    ----------
    primes : sequence of int
        Between 2^29 and 2^30, all different; at most eight.
    """

    def __init__(self, primes: Sequence[int]) -> None:
        if not all(1 << 29 < p < 1 << 30 for p in primes) or len(set(primes)) < len(primes):
            raise ValueError("a ring of shares takes different primes between 2^29 and 2^30")
        self.primes = tuple(primes)
        self.modulus = math.prod(primes)
        self._primes = np.array(primes, np.uint64)
        self._inverses = np.array([(1 << 60) // p for p in primes], np.uint64)

    @property
    def limbs(self) -> int:
        """Number of primes, L."""
        return len(self.primes)

    @cached_property
    def _garner(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Inverse of each prime modulo each later one, and the 30-bit words of the products of the first ones."""
        size = self.limbs
        inverses, places = np.zeros((size, size), np.uint64), np.zeros((size, size), np.uint64)
        product = 1
        for limb, p in enumerate(self.primes):
            places[limb] = [(product >> _WORD * k) & ((1 << _WORD) - 1) for k in range(size)]
            product *= p
            inverses[limb, limb + 1 :] = [pow(p, -1, q) for q in self.primes[limb + 1 :]]
        return inverses, places

    def zeros(self, *shape: int) -> Share:
        """Return zeros of a shape."""
        return np.zeros((self.limbs, *shape), np.uint32)

    def uniform(self, rng: Rng, *shape: int) -> Share:
        """Draw uniform numbers of a shape."""
        drawn = [rng.residues(p, math.prod(shape)).astype(np.uint32).reshape(shape) for p in self.primes]
        return np.stack(drawn)

    def integers(self, values: NDArray[Any] | Sequence[int] | int) -> Share:
        """Return the residues of integers of any shape, or of any size as Python's."""
        array = np.asarray(values)
        if array.dtype.kind == "O":
            return np.stack([(array % p).astype(np.uint32) for p in self.primes])
        if array.dtype.kind not in "iu":
            raise EncodingOverflow(f"integers are needed, not {array.dtype}")
        flat = np.ascontiguousarray(array.reshape(-1), np.int64)
        out = np.empty((self.limbs, len(flat)), np.uint32)
        run(lambda i, j: _reduce(flat[i:j], self._primes, out[:, i:j]), len(flat), self._threads(len(flat)))
        return out.reshape(self.limbs, *array.shape)

    def encode(self, values: FloatArray, fraction_bits: int) -> Share:
        """Return round(values 2^fraction_bits), ties to even.

        Raises
        ------
        EncodingOverflow
            If a value is not finite or needs more than 62 bits.
        """
        scaled = np.rint(np.ldexp(np.asarray(values, np.float64), fraction_bits))
        if not (np.abs(scaled) < 2.0**62).all():
            raise EncodingOverflow(
                f"a value is not finite or needs more than 62 bits with {fraction_bits} after the point"
            )
        return self.integers(scaled.astype(np.int64))

    def decode(self, values: Share, fraction_bits: int) -> FloatArray:
        """Return centred numbers times 2^-fraction_bits, float64 of the same shape."""
        flat = np.ascontiguousarray(values.reshape(self.limbs, -1))
        out = np.empty(flat.shape[1])
        half = self.modulus // 2
        words = np.array([(half >> _WORD * k) & ((1 << _WORD) - 1) for k in range(self.limbs)], np.uint64)
        _floats(flat, self._primes, self._inverses, *self._garner, words, out)
        return np.ldexp(out, -fraction_bits).reshape(values.shape[1:])

    def turns(self, values: Share, multiplier: int) -> FloatArray:
        """Return (multiplier x modulo t) / t in [0, 1): a share's part of the angle 2 pi multiplier x/t."""
        others = [self.modulus // p for p in self.primes]
        factors = [multiplier * pow(q, -1, p) % p for p, q in zip(self.primes, others, strict=True)]
        flat = np.ascontiguousarray(values).reshape(self.limbs, -1)
        constants = np.array(factors, np.uint64), self._primes, self._inverses
        out = np.empty(flat.shape[1])
        run(
            lambda i, j: _turns(flat[:, i:j], *constants, out[i:j]),
            len(out),
            self._threads(len(out)),
        )
        return out.reshape(values.shape[1:])

    def lift(self, values: Share) -> NDArray[Any]:
        """Return centred integers exactly: int64 or Python's."""
        return lift(np.moveaxis(values, 0, -1), self.primes)

    def add(self, x: Share, y: Share) -> Share:
        """Return x + y."""
        return self._binary(_add, x, y)

    def subtract(self, x: Share, y: Share) -> Share:
        """Return x - y."""
        return self._binary(_subtract, x, y)

    def negate(self, x: Share) -> Share:
        """Return -x."""
        return self.subtract(np.zeros_like(x), x)

    def multiply(self, x: Share, y: Share) -> Share:
        """Return x y, number by number."""
        return self._binary(_multiply, x, y, self._inverses)

    def square(self, x: Share) -> Share:
        """Return x^2, number by number."""
        return self.multiply(x, x)

    def scale(self, x: Share, factor: int) -> Share:
        """Return x times one integer of any size."""
        factors = np.array([factor % p for p in self.primes], np.uint64)
        return self._unary(lambda i, o: _scale(i, factors, self._primes, self._inverses, o), x)

    def truncate(self, x: Share, bits: int, party: int) -> Share:
        """Return this party's share of the number divided by 2^bits; `party` is 0 or 1.

        The result is rounded down or up; it is wrong with probability |x|/t: see the module.
        """
        if not 0 <= bits < _WORD * self.limbs:
            raise ValueError(f"a number of {self.limbs} limbs cannot lose {bits} bits")
        skip, shift = divmod(bits, _WORD)
        constants = (skip, shift, self._primes, self._inverses, *self._garner)
        if party:
            x = self.negate(x)
        divided = self._unary(lambda i, o: _truncate(i, *constants, o), x)
        return self.negate(divided) if party else divided

    def forward(self, matrix: NDArray[Any], vectors: Share) -> Share:
        """Return M v for integers M, (n, k), below 2^20, and vectors (L, k, m): (L, n, m)."""
        halves = self._halves(vectors)  # (k, 2 L m)
        out = np.empty((self.limbs, len(matrix), vectors.shape[2]), np.uint32)
        for start in range(0, len(matrix), _BLOCK):
            block = slice(start, min(start + _BLOCK, len(matrix)))
            out[:, block] = self._join(matrix[block].astype(np.float64) @ halves, vectors.shape[2])
        return out

    def backward(self, matrix: NDArray[Any], vectors: Share) -> Share:
        """Return M^T r for integers M, (n, k), below 2^20, and vectors (L, n, m): (L, k, m)."""
        total = np.zeros((matrix.shape[1], 2 * self.limbs * vectors.shape[2]), np.int64)
        for start in range(0, len(matrix), _BLOCK):
            block = slice(start, start + _BLOCK)
            product = matrix[block].T.astype(np.float64) @ self._halves(vectors[:, block])
            total += product.astype(np.int64)
        return self._join(total, vectors.shape[2])

    def _halves(self, vectors: Share) -> FloatArray:
        """Cut residues, (L, k, m), in two halves of 15 bits: (k, 2 L m)."""
        low, high = vectors & np.uint32((1 << _HALF) - 1), vectors >> np.uint32(_HALF)
        both = np.stack([low, high]).astype(np.float64)
        return np.ascontiguousarray(both.transpose(2, 0, 1, 3).reshape(vectors.shape[1], -1))

    def _join(self, products: NDArray[Any], vectors: int) -> Share:
        """Put products with halves together: (n, 2 L m) to (L, n, m)."""
        rows = len(products)
        parts = products.astype(np.int64).reshape(rows, 2, self.limbs, vectors).transpose(1, 2, 0, 3)
        low, high = np.ascontiguousarray(parts).reshape(2, self.limbs, rows * vectors)
        out = np.empty((self.limbs, rows * vectors), np.uint32)
        _combine(low, high, self._primes, out)
        return out.reshape(self.limbs, rows, vectors)

    def _binary(self, operation: Any, x: Share, y: Share, *constants: Any) -> Share:
        if x.shape != y.shape or len(x) != self.limbs:
            raise ValueError(f"shares of shapes {x.shape} and {y.shape} do not fit together")
        left, right = (np.ascontiguousarray(part).reshape(self.limbs, -1) for part in (x, y))
        out = np.empty_like(left)

        def piece(i: int, j: int) -> None:
            operation(left[:, i:j], right[:, i:j], self._primes, *constants, out[:, i:j])

        run(piece, left.shape[1], self._threads(left.shape[1]))
        return out.reshape(x.shape)

    def _unary(self, operation: Any, x: Share) -> Share:
        flat = np.ascontiguousarray(x).reshape(self.limbs, -1)
        out = np.empty_like(flat)

        def piece(i: int, j: int) -> None:
            operation(flat[:, i:j], out[:, i:j])

        run(piece, flat.shape[1], self._threads(flat.shape[1]))
        return out.reshape(x.shape)

    @staticmethod
    def _threads(size: int) -> int | None:
        """Return 1 for work that is too small to share."""
        return 1 if size < _PIECE else None


RING = Ring(SHARES.plain)


def failure_bits(truncations: Sequence[tuple[float, float]], modulus: int = RING.modulus) -> float:
    """Return log2 of the bound on the probability that any truncation fails.

    Parameters
    ----------
    truncations : sequence of (count, bits)
        How many numbers are truncated, and log2 of a bound on their absolute value before.
    modulus : int
        t.
    """
    total = sum(count * 2.0 ** (bits + 1) for count, bits in truncations)
    return math.log2(total) - math.log2(modulus)
