"""Arithmetic modulo an odd number on lists of integers, eight at a time: see :mod:`vfl.crypto.lanes_kernels`.

What GMP does one product at a time under the interpreter lock (:class:`vfl.crypto.multiexp.Gmp`), this does about
ten times as fast on each processor, without the lock. Every method has the same result there.
"""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar, final

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from vfl.crypto import lanes_kernels as kernels
from vfl.crypto.lanes_kernels import LANES, LIMB_BITS, ROWS, U64, WINDOW
from vfl.crypto.multiexp import Arithmetic, Gmp, Powers, inverses, threads

__all__ = ["Lanes"]

T = TypeVar("T")
DIGIT_BITS = (
    7  # 2^7 buckets of eight numbers modulo n^2 at 2048 bits fill 0.7 MB, within a second-level cache
)


@final
class Lanes(Arithmetic):
    """Products modulo an odd number in vector registers.

    Parameters
    ----------
    modulus : mpz
        Odd.
    """

    def __init__(self, modulus: mpz) -> None:
        super().__init__(modulus)
        bits = modulus.bit_length() + 2  # so that 2^(52 L) > 4 m
        self._limbs = ROWS * max(2, -(-bits // (LIMB_BITS * ROWS)))
        bits = LIMB_BITS * self._limbs
        self._m = self._transpose(self._cut([modulus] * LANES))[0]
        self._inverse = np.uint64(int(gmpy2.invert(-modulus, 1 << LIMB_BITS)))
        self._unit = self._transpose(self._cut([(mpz(1) << bits) % modulus] * LANES))[0]
        self._square, self._one = self._cut([(mpz(1) << 2 * bits) % modulus]), self._cut([mpz(1)])

    def powers(self, bases: Sequence[mpz], exponent: mpz) -> list[mpz]:
        """Raise to one power, which may be secret: time and addresses depend on its length alone."""
        if len(bases) < 2:  # eight lanes for one number: GMP is faster
            return Gmp(self.modulus).powers(bases, exponent)
        count = -(-max(1, exponent.bit_length()) // WINDOW)
        windows = [int(exponent >> WINDOW * i) & ((1 << WINDOW) - 1) for i in reversed(range(count))]
        digits = np.array(windows, np.uint8)
        groups = self._transpose(self._enter(bases))
        done = threads(lambda i: self._run(kernels.powers, groups[i], digits, self._unit), len(groups))
        return self._leave(self._flat(done, len(bases)))

    def table(self, bases: Sequence[mpz], size: int) -> Powers:
        """Compute the powers 0 .. size - 1 of each base."""
        groups = self._transpose(self._enter(bases))
        parts = threads(lambda i: self._run(kernels.window_table, groups[i], size, self._unit), len(groups))
        table = np.concatenate(parts)[: len(bases)]

        def products(digits: NDArray[np.uint8]) -> list[mpz]:
            padded = np.concatenate([digits, np.zeros((-len(digits) % LANES, len(bases)), np.uint8)])
            rows = padded.reshape(-1, LANES, len(bases))
            done = threads(lambda i: self._run(kernels.table_products, table, rows[i], self._unit), len(rows))
            return self._leave(self._flat(done, len(digits)))

        return products

    def bin_products(self, numbers: Sequence[mpz], bins: NDArray[np.int16], size: int) -> list[list[mpz]]:
        """Multiply the numbers into bins: see :meth:`vfl.crypto.multiexp.Arithmetic.bin_products`."""
        rows, vectors = bins.shape
        parts = LANES if rows >= 2 * LANES * size else 1  # lanes share a vector when it is long
        length = -(-rows // parts)
        index = np.full((vectors, parts * length), -1, np.int16)
        index[:, :rows] = bins.T
        tasks = index.reshape(vectors * parts, length)
        table = self._rows(numbers, parts * length)
        first = np.tile(np.arange(parts, dtype=np.int64) * length, vectors)
        done = self._gather(table, first, tasks, size, lambda buckets: buckets[:, :size])
        by_lane = np.concatenate(done)[: len(tasks)].reshape(vectors, parts, size, self._limbs)
        total = by_lane[:, 0].reshape(-1, self._limbs)
        for part in range(1, parts):
            total = self._times(total, by_lane[:, part].reshape(-1, self._limbs))
        values = self._leave(total)
        return [values[size * v : size * (v + 1)] for v in range(vectors)]

    def matrix_product(self, numbers: Sequence[mpz], matrix: NDArray[np.int64], spacing: int) -> list[mpz]:
        """Take products of powers: see :meth:`vfl.crypto.multiexp.Arithmetic.matrix_product`.

        Exponents are cut into signed digits of a radix 2^w. Each digit of each column is one lane, which multiplies
        the numbers into buckets by digit; the radix and the spacing follow by squaring, column by column.
        """
        rows, positions, columns = matrix.shape
        bound = max(int(matrix.max(initial=1)), -int(matrix.min(initial=-1)))
        width, levels = _radix(rows, bound)
        digits = _digits(matrix.reshape(rows, positions * columns), width, levels)
        digits = digits.reshape(levels * positions * columns, rows)
        half = 1 << width - 1
        table = self._rows(numbers, rows)
        first = np.zeros(len(digits), np.int64)

        def weighed(buckets: U64) -> U64:
            up = self._run(kernels.weigh, buckets, 0, half, self._unit)
            down = self._run(kernels.weigh, buckets, half, 2 * half, self._unit)
            return np.stack([up.T, down.T], axis=1)

        done = self._gather(table, first, digits, 2 * half, weighed)
        by_digit = np.concatenate([np.empty((0, 2, self._limbs), np.uint64), *done])[: len(digits)]
        by_level = by_digit.reshape(levels, positions * columns * 2, self._limbs)
        joined = self._horner(list(by_level[::-1]), width)
        signed = joined.reshape(positions * columns, 2, self._limbs)
        below = inverses(self._leave(signed[:, 1]), self.modulus)
        both = self._times(np.ascontiguousarray(signed[:, 0]), self._enter(below))
        return self._leave(self._horner(list(both.reshape(positions, columns, self._limbs)), spacing))

    def _gather(
        self,
        table: U64,
        first: NDArray[np.int64],
        tasks: NDArray[np.int16],
        size: int,
        finish: Callable[[U64], U64],
    ) -> list[U64]:
        """Fill the buckets of LANES tasks at a time and return what `finish` makes of them."""
        spare = -len(tasks) % LANES
        first = np.concatenate([first, np.zeros(spare, np.int64)])
        index = np.concatenate([tasks, np.full((spare, tasks.shape[1]), -1, np.int16)])

        def group(i: int) -> U64:
            lanes = slice(LANES * i, LANES * (i + 1))
            return finish(
                self._run(kernels.bin_products, table, first[lanes], index[lanes], size, self._unit)
            )

        return threads(group, len(index) // LANES)

    def _horner(self, terms: list[U64], bits: int) -> U64:
        """Return the product of the terms, the last to the power 1, each other one to 2^bits times the next's."""
        total = terms[0]
        for term in terms[1:]:
            groups = self._transpose(total)
            done = threads(lambda i, g=groups: self._run(kernels.square, g[i], bits), len(groups))  # type: ignore[misc]
            total = self._times(self._flat(done, len(term)), term)
        return total

    def _times(self, left: U64, right: U64) -> U64:
        """Return left[i] right[i] / 2^(52 L), of shape (count, L); a `right` of one row stands for all."""
        total, count = np.empty_like(left), len(left)
        pieces = min(-(-count // LANES), os.cpu_count() or 1)
        edges = [LANES * (-(-count // LANES) * piece // max(1, pieces)) for piece in range(pieces)] + [count]

        def piece(i: int) -> None:
            step = int(len(right) == count)
            self._run(kernels.multiply_rows, total, left, right, step, edges[i], edges[i + 1])

        threads(piece, pieces)
        return total

    def _run(self, kernel: Callable[..., T], *arguments: object) -> T:
        return kernel(*arguments, self._m, self._inverse)

    def _rows(self, numbers: Sequence[mpz], rows: int) -> U64:
        """Return numbers in Montgomery form, shape (rows, L), filled up with anything."""
        return np.concatenate([self._enter(numbers), np.zeros((rows - len(numbers), self._limbs), np.uint64)])

    def _enter(self, numbers: Sequence[mpz]) -> U64:
        """Return numbers in Montgomery form, shape (count, L)."""
        return self._times(self._cut(numbers), self._square)

    def _leave(self, numbers: U64) -> list[mpz]:
        """Return the integers of numbers in Montgomery form, shape (count, L)."""
        return self._join(self._times(numbers, self._one))

    def _cut(self, numbers: Sequence[mpz]) -> U64:
        """Return the limbs of non-negative integers below 2^(52 L), shape (count, L): two of them fill 13 bytes."""
        size = 13 * self._limbs // 2
        raw = b"".join(number.to_bytes(size, "little") for number in numbers)
        pairs = np.zeros((len(numbers), self._limbs // 2, 16), np.uint8)
        pairs[:, :, :13] = np.frombuffer(raw, np.uint8).reshape(len(numbers), self._limbs // 2, 13)
        words = pairs.view("<u8")
        mask = np.uint64((1 << LIMB_BITS) - 1)
        limbs = np.empty((len(numbers), self._limbs // 2, 2), np.uint64)
        limbs[:, :, 0] = words[:, :, 0] & mask
        limbs[:, :, 1] = words[:, :, 0] >> np.uint64(52) | words[:, :, 1] << np.uint64(12)
        return limbs.reshape(len(numbers), self._limbs)

    def _join(self, limbs: U64) -> list[mpz]:
        """Return the integers of limbs, shape (count, L), reduced modulo the modulus."""
        size, pairs = 13 * self._limbs // 2, limbs.reshape(len(limbs), self._limbs // 2, 2)
        words = np.empty((len(limbs), self._limbs // 2, 2), "<u8")
        words[:, :, 0] = pairs[:, :, 0] | pairs[:, :, 1] << np.uint64(52)
        words[:, :, 1] = pairs[:, :, 1] >> np.uint64(12)
        raw = np.ascontiguousarray(words.view(np.uint8)[:, :, :13]).tobytes()
        chunks = (raw[start : start + size] for start in range(0, len(raw), size))
        return [mpz.from_bytes(chunk, "little") % self.modulus for chunk in chunks]

    def _transpose(self, rows: U64) -> U64:
        """Return (groups, L, LANES) from (count, L), the last group filled with zeros."""
        padded = np.concatenate([rows, np.zeros((-len(rows) % LANES, self._limbs), np.uint64)])
        return np.ascontiguousarray(padded.reshape(-1, LANES, self._limbs).transpose(0, 2, 1))

    def _flat(self, groups: Sequence[U64], count: int) -> U64:
        """Return (count, L) from a list of (L, LANES)."""
        stacked = np.array(groups, np.uint64).reshape(-1, self._limbs, LANES)
        return np.ascontiguousarray(stacked.transpose(0, 2, 1).reshape(-1, self._limbs)[:count])


def _radix(rows: int, bound: int) -> tuple[int, int]:
    """Return the digit width w and the number of signed digits that take the fewest products."""
    bits = bound.bit_length() + 1

    def products(width: int) -> int:
        return -(-bits // width) * (rows + 2 * (1 << width))

    width = min(range(2, DIGIT_BITS + 1), key=products)
    return width, -(-bits // width)


def _digits(matrix: NDArray[np.int64], width: int, levels: int) -> NDArray[np.int16]:
    """Return the buckets of signed digits, lowest first: shape (levels, columns, rows), -1 for a digit of zero.

    A digit d in [1, 2^(w-1)] goes to bucket d - 1, one in [-2^(w-1), -1] to bucket 2^(w-1) - d - 1. With one bit to
    spare, what rounding to the nearest multiple leaves at the top is a digit of that range too.
    """
    half, rest = 1 << width - 1, matrix.T
    result = np.empty((levels, *rest.shape), np.int16)
    for level in range(levels):
        digit = rest if level == levels - 1 else ((rest + half) & (2 * half - 1)) - half
        result[level] = np.where(digit > 0, digit - 1, np.where(digit < 0, half - digit - 1, -1))
        rest = (rest - digit) >> width
    return result
