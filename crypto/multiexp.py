"""Many modular powers at once: threads, and products of powers with small exponents by buckets.

Source: Pippenger, "On the Evaluation of Powers and Related Problems", FOCS 1976, in the form with buckets,
and the precomputed powers of Brickell, Gordon, McCurley, Wilson, "Fast Exponentiation with Precomputation",
Eurocrypt 1992. Exponents are local secrets here: which buckets are touched depends on them, so a process
that shares the machine with an attacker is outside the model.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, final

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

__all__ = ["Buckets", "parallel"]

T = TypeVar("T")


def parallel(function: Callable[[T], mpz], items: Iterable[T]) -> list[mpz]:
    """Apply `function` to each item, in threads whose GMP calls release the interpreter lock."""

    def release() -> None:
        gmpy2.set_context(gmpy2.context(allow_release_gil=True))

    with ThreadPoolExecutor(os.cpu_count(), initializer=release) as pool:
        return list(pool.map(function, items))


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
        if bound >= 1 << 62:
            raise ValueError("exponents must stay below 2^62: their digits are computed in int64")
        self._modulus = modulus
        self._digits, self._half = _radix(bound, len(bases), vectors)
        radix = 2 * self._half + 1
        levels = [list(bases)]
        for _ in range(self._digits - 1):
            levels.append(parallel(lambda value: gmpy2.powmod(value, radix, modulus), levels[-1]))
        self._powers = [power for level in levels for power in level]
        self._inverses = _inverses(self._powers, modulus)

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


def _inverses(values: Sequence[mpz], modulus: mpz) -> list[mpz]:
    """Return all inverses with a single inversion (Montgomery's trick)."""
    prefixes = [mpz(1)]
    for value in values:
        prefixes.append(prefixes[-1] * value % modulus)
    inverse = gmpy2.invert(prefixes.pop(), modulus)
    inverses = []
    for prefix, value in zip(reversed(prefixes), reversed(values), strict=True):
        inverses.append(prefix * inverse % modulus)
        inverse = inverse * value % modulus
    return inverses[::-1]
