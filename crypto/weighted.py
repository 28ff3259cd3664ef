"""Weighted vectors as residues: what a sum over parties needs so that neither a vector nor its weight is shown.

A party's vector x with the integer weight w, 1 <= w <= W, becomes the residues of round(2^f x w / W), followed by the
digits of w. Sums of residues modulo 2^b then give the sum of w x / W, exact but for each party's rounding, and the
exact sum of weights. With W = 1 this is the plain sum, and the one digit counts the parties.

The modulus follows from the bound on x, the number of parties and nothing else: with values of 16 bits and 100 parties
b = 23. Weights relative to the largest keep it so; the price is that a party of weight w has its values rounded to
W / w units.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.fixedpoint import FixedPoint
from vfl.crypto.masking import LARGEST_BITS, Words, reduced, zeros
from vfl.errors import EncodingOverflow, InvalidData

__all__ = ["WeightedEncoding"]


@dataclass(frozen=True)
class WeightedEncoding:
    """The encoding of one summand.

    Parameters
    ----------
    values : FixedPoint
        Fraction bits and bound of each component.
    parties : int
        Most summands of one sum.
    largest_weight : int
        W, at least 1.

    Raises
    ------
    EncodingOverflow
        If a sum needs more than 64 bits.
    """

    values: FixedPoint
    parties: int
    largest_weight: int = 1

    def __post_init__(self) -> None:
        if self.parties < 1 or self.largest_weight < 1:
            raise InvalidData("there must be at least one party and a positive largest weight")
        if self.bits > LARGEST_BITS:
            raise EncodingOverflow(
                f"sums of {self.parties} numbers within {self.values.bound} and {self.values.fraction_bits} "
                f"fraction bits take {self.bits} bits, at most {LARGEST_BITS} fit; take fewer fraction bits"
            )

    @property
    def bits(self) -> int:
        """Bits b of the modulus: sums lie between -n limit and n limit."""
        return (2 * self.parties * self.values.limit).bit_length()

    @property
    def digit_bits(self) -> int:
        """Bits of a digit of the weight: as many as leave room for `parties` of them."""
        return self.bits - (self.parties - 1).bit_length()

    def size(self, dimension: int) -> int:
        """Return the number of residues of a vector with `dimension` components."""
        return dimension + -(-self.largest_weight.bit_length() // self.digit_bits)

    def encode(self, vector: NDArray[np.floating], weight: int = 1) -> Words:
        """Return the residues of a weighted vector, shape (size(dimension),).

        Raises
        ------
        EncodingOverflow
            If a component is not finite or beyond the bound.
        InvalidData
            If the weight is no integer from 1 to the largest.
        """
        if not 1 <= weight <= self.largest_weight or weight != int(weight):
            raise InvalidData(f"a weight is an integer from 1 to {self.largest_weight}")
        scaled = np.asarray(vector, dtype=np.float64)
        if self.largest_weight > 1:
            scaled = scaled * (weight / self.largest_weight)
        dimension = scaled.size
        residues = zeros(self.size(dimension), self.bits)
        residues[:dimension] = self.values.encode(scaled).astype(residues.dtype)
        for place in range(dimension, residues.size):
            residues[place] = (weight >> (place - dimension) * self.digit_bits) & (1 << self.digit_bits) - 1
        return residues

    def decode(self, total: Words) -> tuple[NDArray[np.float64], int]:
        """Return the sum of w x, shape (dimension,), and the sum of w, from a sum of residues."""
        digits = total.size - (self.size(total.size) - total.size)
        low = reduced(total, self.bits)
        weight = sum(int(d) << i * self.digit_bits for i, d in enumerate(low[digits:]))
        shift = np.uint64(64 - self.bits)  # the sign bit to the top, then back with its sign
        signed = (low[:digits] << shift).view(np.int64) >> np.int64(shift)
        return np.ldexp(signed * float(self.largest_weight), -self.values.fraction_bits), weight
