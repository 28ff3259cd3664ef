"""Many modular products and powers at once: what is needed, and how GMP does it.

:func:`arithmetic` chooses between GMP and vector registers (:mod:`vfl.crypto.lanes`), which give the same results.

Sources: Pippenger, "On the Evaluation of Powers and Related Problems", FOCS 1976, in the form with buckets, and the
precomputed powers of Brickell, Gordon, McCurley, Wilson, "Fast Exponentiation with Precomputation", Eurocrypt 1992.
Exponents of :meth:`Arithmetic.matrix_product`, bins and digits are local secrets: which buckets and entries are
touched depends on them, so a process that shares the machine with an attacker is outside the model.
"""

import abc
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar, final

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

__all__ = ["Arithmetic", "Buckets", "Gmp", "Powers", "arithmetic", "inverses", "parallel", "threads"]

S = TypeVar("S")
T = TypeVar("T")
Powers = Callable[[NDArray[np.uint8]], list[mpz]]


class Arithmetic(abc.ABC):
    """Products modulo an odd number.

    Parameters
    ----------
    modulus : mpz
        The modulus; all numbers given to the methods are below it and not negative.
    """

    def __init__(self, modulus: mpz) -> None:
        self.modulus = modulus

    @abc.abstractmethod
    def powers(self, bases: Sequence[mpz], exponent: mpz) -> list[mpz]:
        """Raise each base to one positive power, in constant time for an exponent of that length."""

    @abc.abstractmethod
    def table(self, bases: Sequence[mpz], size: int) -> Powers:
        """Compute the powers 0 .. `size` - 1 of each base, at most 256.

        The function returned takes digits below `size`, uint8 of shape (count, bases), and gives for each row of them
        the product of the bases to these powers.
        """

    @abc.abstractmethod
    def bin_products(self, numbers: Sequence[mpz], bins: NDArray[np.int16], size: int) -> list[list[mpz]]:
        """Return for each column of `bins`, shape (numbers, columns), the products of the numbers in each bin.

        Bins run from 0 to `size` - 1; a number in bin -1 is in none. An empty bin has the product 1.
        """

    @abc.abstractmethod
    def matrix_product(self, numbers: Sequence[mpz], matrix: NDArray[np.int64], spacing: int) -> list[mpz]:
        """Return for each column j the product over i of numbers[i]^E(i, j).

        E(i, j) is the sum over k of matrix[i, k, j] 2^(`spacing` (degree - k)); the matrix has the shape (numbers,
        degree + 1, columns) and entries below 2^62 in absolute value. The numbers are units.
        """


@cache
def _vectors() -> bool:
    from vfl.crypto import lanes_kernels  # compiles on first use: not before a key needs it

    return lanes_kernels.available()


def arithmetic(modulus: mpz) -> Arithmetic:
    """Return the fastest arithmetic this processor has for an odd modulus."""
    if not _vectors():
        return Gmp(modulus)
    from vfl.crypto.lanes import Lanes

    return Lanes(modulus)


def threads(function: Callable[[int], T], count: int) -> list[T]:
    """Apply `function`, which releases the interpreter lock, to range(`count`) on all processors."""
    workers = min(count, os.cpu_count() or 1)
    if workers < 2:
        return [function(i) for i in range(count)]
    ranges = [range(count * w // workers, count * (w + 1) // workers) for w in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        return [result for part in pool.map(lambda r: [function(i) for i in r], ranges) for result in part]


def parallel(function: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Apply `function` to each item, in threads whose GMP calls release the interpreter lock."""

    def release() -> None:
        gmpy2.set_context(gmpy2.context(allow_release_gil=True))

    with ThreadPoolExecutor(os.cpu_count(), initializer=release) as pool:
        return list(pool.map(function, items))


@final
class Gmp(Arithmetic):
    """Arithmetic on any processor."""

    def powers(self, bases: Sequence[mpz], exponent: mpz) -> list[mpz]:
        """Raise to one power, which may be secret."""
        return parallel(lambda base: gmpy2.powmod_sec(base, exponent, self.modulus), bases)

    def table(self, bases: Sequence[mpz], size: int) -> Powers:
        """Compute the powers 0 .. `size` - 1 of each base."""

        def row(base: mpz) -> list[mpz]:
            entries = [mpz(1)]
            for _ in range(size - 1):
                entries.append(entries[-1] * base % self.modulus)
            return entries

        rows = parallel(row, bases)

        def product(digits: list[int]) -> mpz:
            result = mpz(1)
            for entries, digit in zip(rows, digits, strict=True):
                result = result * entries[digit] % self.modulus
            return result

        return lambda digits: parallel(product, digits.tolist())

    def bin_products(self, numbers: Sequence[mpz], bins: NDArray[np.int16], size: int) -> list[list[mpz]]:
        """Multiply the numbers into bins."""

        def column(chosen: NDArray[np.int16]) -> list[mpz]:
            products = [mpz(1)] * (size + 1)
            for number, place in zip(numbers, chosen.tolist(), strict=True):
                products[place] = products[place] * number % self.modulus
            return products[:size]

        return parallel(column, bins.T)

    def matrix_product(self, numbers: Sequence[mpz], matrix: NDArray[np.int64], spacing: int) -> list[mpz]:
        """Take products of powers, by Horner's rule one multi-exponentiation for each position."""
        _, positions, columns = matrix.shape
        bound = max(int(matrix.max(initial=1)), -int(matrix.min(initial=-1)))
        buckets = Buckets(numbers, bound, positions * columns, self.modulus)
        digits = buckets.digits(matrix)

        def column(j: int) -> mpz:
            result = mpz(1)
            for k in range(positions):
                if k:
                    result = gmpy2.powmod(result, 1 << spacing, self.modulus)
                result = result * buckets.product(digits[:, :, k, j].ravel().tolist()) % self.modulus
            return result

        return parallel(column, range(columns))


@final
class Buckets:
    """Products c_1^x_1 ... c_k^x_k of the same bases to many vectors of small exponents.

    Exponents are written in an odd radix 2h + 1 with signed digits -h .. h. The powers of the bases to the
    powers of the radix, and their inverses by one inversion, are computed once, so all digits of a vector
    share h buckets.

    Parameters
    ----------
    bases : sequence of mpz
        Units modulo `modulus`.
    bound : int
        Largest absolute value of an exponent, below 2^62.
    vectors : int
        How many products will be taken: the table is made as large as pays for that many.
    modulus : mpz
        The modulus.
    """

    def __init__(self, bases: Sequence[mpz], bound: int, vectors: int, modulus: mpz) -> None:
        self._modulus = modulus
        self._digits, self._half = _radix(bound, len(bases), vectors)
        radix = 2 * self._half + 1
        levels = [list(bases)]
        for _ in range(self._digits - 1):
            levels.append(parallel(lambda value: gmpy2.powmod(value, radix, modulus), levels[-1]))
        self._powers = [power for level in levels for power in level]
        self._inverses = inverses(self._powers, modulus)

    def digits(self, exponents: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the signed digits of int64 exponents, lowest first, along a new first axis."""
        radix, rest, digits = 2 * self._half + 1, exponents, []
        for _ in range(self._digits):
            low = (rest + self._half) % radix - self._half
            digits.append(low)
            rest = (rest - low) // radix
        return np.stack(digits)

    def product(self, digits: list[int]) -> mpz:
        """Return the product for one vector, given its digits: those of all bases at digit 0 first."""
        modulus = self._modulus
        buckets = [mpz(1)] * (self._half + 1)
        for power, inverse, digit in zip(self._powers, self._inverses, digits, strict=True):
            if digit > 0:
                buckets[digit] = buckets[digit] * power % modulus
            elif digit:
                buckets[-digit] = buckets[-digit] * inverse % modulus
        running = total = mpz(1)
        for bucket in reversed(buckets[1:]):  # bucket d is taken d times
            running = running * bucket % modulus
            total = total * running % modulus
        return total


def _radix(bound: int, bases: int, vectors: int) -> tuple[int, int]:
    """Return how many digits of what half-range h reach `bound` with the fewest products."""

    def half(digits: int) -> int:
        root, exact = gmpy2.iroot(mpz(2 * bound + 1), digits)
        return max(1, int(root if exact else root + 1) // 2)

    def products(digits: int) -> float:
        table = (digits - 1) * bases * 1.2 * (2 * half(digits)).bit_length()
        return vectors * (digits * bases + 2 * half(digits)) + table

    digits = min(range(1, bound.bit_length() + 1), key=products)
    return digits, half(digits)


def inverses(values: Sequence[mpz], modulus: mpz) -> list[mpz]:
    """Return all inverses with a single inversion (Montgomery's trick)."""
    prefixes = [mpz(1)]
    for value in values:
        prefixes.append(prefixes[-1] * value % modulus)
    inverse = gmpy2.invert(prefixes.pop(), modulus)
    result = []
    for prefix, value in zip(reversed(prefixes), reversed(values), strict=True):
        result.append(prefix * inverse % modulus)
        inverse = inverse * value % modulus
    return result[::-1]
