"""Real numbers as integers of a plaintext ring: one scale agreed beforehand, every bound proved first.

A number x becomes the integer round(x * 2^f), ties to even, with f fraction bits. A ring Z_n holds integers
as centred residues, so negative numbers need no convention beyond the sign of the integer. The scale is
never chosen per number: an exponent on the wire would tell the magnitude of what it hides.

Scaling by a power of two and rounding are both exact in float64, so the only error of an encoded number is
its rounding, at most 2^-(f + 1). The product of two encoded numbers has the sum of their fraction bits.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.errors import EncodingOverflow

__all__ = ["FixedPoint", "decode"]

_INT64_BITS = 62  # room for one addition of two encoded numbers within int64


@dataclass(frozen=True)
class FixedPoint:
    """The encoding of one quantity.

    Parameters
    ----------
    fraction_bits : int
        Bits after the binary point, 0 to 62.
    bound : float
        Largest absolute value that may be encoded.

    Raises
    ------
    EncodingOverflow
        If `bound` is not positive and finite, encodes to zero, or needs more than 62 bits.
    """

    fraction_bits: int
    bound: float

    def __post_init__(self) -> None:
        if not 0 <= self.fraction_bits <= _INT64_BITS:
            raise EncodingOverflow(
                f"fraction bits must lie between 0 and {_INT64_BITS}, not {self.fraction_bits}"
            )
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise EncodingOverflow(f"the bound must be positive and finite, not {self.bound}")
        if self.bound >= math.ldexp(1.0, _INT64_BITS - self.fraction_bits):
            raise EncodingOverflow(
                f"the bound {self.bound} with {self.fraction_bits} fraction bits needs more than "
                f"{_INT64_BITS} bits; lower one of them"
            )
        if self.limit == 0:
            raise EncodingOverflow(
                f"with {self.fraction_bits} fraction bits the bound {self.bound} itself becomes zero; "
                "take more fraction bits"
            )

    @property
    def limit(self) -> int:
        """Largest encoded integer: rounding is monotone, so no number within the bound exceeds it."""
        return round(math.ldexp(self.bound, self.fraction_bits))

    def encode(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return round(values * 2^fraction_bits), ties to even, in the shape of `values`.

        Raises
        ------
        EncodingOverflow
            If a value is NaN, infinite or beyond the bound. The text counts them and shows none.
        """
        values = np.asarray(values, dtype=np.float64)
        outside = values.size - int(np.count_nonzero(np.abs(values) <= self.bound))  # NaN compares false
        if outside:
            raise EncodingOverflow(
                f"{outside} of {values.size} values are not finite or exceed the agreed bound {self.bound}; "
                "clean or rescale them, or agree on a larger bound"
            )
        return np.rint(np.ldexp(values, self.fraction_bits)).astype(np.int64)


def decode(integers: Iterable[int], fraction_bits: int) -> NDArray[np.float64]:
    """Return integers / 2^fraction_bits, each the float64 nearest to the exact quotient; shape (count,).

    Raises
    ------
    EncodingOverflow
        If a quotient exceeds the range of float64.
    """
    scale = 1 << fraction_bits
    try:
        return np.array([int(integer) / scale for integer in integers], dtype=np.float64)
    except OverflowError:
        raise EncodingOverflow(f"an integer exceeds float64 with {fraction_bits} fraction bits") from None
