"""Encrypted histograms: sums of gradients and second derivatives by bin, under Paillier, both in one plaintext.

The key holder encrypts for each row the integer g + h 2^K, g and h in fixed point. The other side multiplies the
ciphertexts of the rows in each bin of each of its features, and joins the sums of many bins to one ciphertext as
digits of 2 K bits, so that re-randomising, sending and decrypting are paid once for many bins.

A digit is a sum over at most `max_rows` rows, below 2^(K - 1) in absolute value, so signed digits are read off
without a carry. The key holder learns the sums by bin of features it does not see: that is what split finding
needs, and it is the caller's duty to name the features so that nothing else is learnt. The other side learns
nothing. What it returns must be made fresh first (:meth:`vfl.crypto.paillier.Ciphertexts.rerandomise`).

Source: gradients and second derivatives of a row in one plaintext and the joining of sums: Chen, Ma, Fan, Kang, Xu,
Yang, "SecureBoost+: A High Performance Gradient Boosting Tree Framework for Large Scale Vertical Federated
Learning", arXiv 2110.10927.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.fixedpoint import FixedPoint, decode
from vfl.crypto.paillier import Ciphertexts, PublicKey
from vfl.errors import EncodingOverflow, InvalidCiphertext

__all__ = ["Histogram", "HistogramFormat"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class HistogramFormat:
    """What both sides agree on beforehand.

    Attributes
    ----------
    max_rows : int
        Most rows that will be summed.
    gradient_bound, hessian_bound : float
        Largest absolute values.
    fraction_bits : int
        Fraction bits of both.
    """

    max_rows: int
    gradient_bound: float = 1.0
    hessian_bound: float = 1.0
    fraction_bits: int = 24


class Histogram:
    """How rows and sums lie in plaintexts: a function of the format and the length of n alone.

    Parameters
    ----------
    format : HistogramFormat
        The agreed numbers.
    key : PublicKey
        The key of the holder of the gradients.

    Attributes
    ----------
    digit_bits : int
        K, the bits of one sum.
    slots : int
        Bins joined in one ciphertext.

    Raises
    ------
    EncodingOverflow
        If a bound cannot be encoded, or not even one bin fits the key.
    """

    def __init__(self, format: HistogramFormat, key: PublicKey) -> None:
        if format.max_rows < 1:
            raise EncodingOverflow(f"the largest number of rows must be positive, not {format.max_rows}")
        self._max_rows = format.max_rows
        self._gradients = FixedPoint(format.fraction_bits, format.gradient_bound)
        self._hessians = FixedPoint(format.fraction_bits, format.hessian_bound)
        self._bounds = [format.max_rows * each.limit for each in (self._gradients, self._hessians)]
        self.digit_bits = max(self._bounds).bit_length() + 1
        self.slots = (key.limit.bit_length() - 1) // (2 * self.digit_bits)
        if self.slots < 1:
            raise EncodingOverflow(
                f"sums over {format.max_rows} rows need 2 x {self.digit_bits} bits, the plaintext has "
                f"{key.limit.bit_length() - 1}: take fewer rows, fewer fraction bits or a longer key"
            )

    def encode(self, gradients: FloatArray, hessians: FloatArray) -> list[int]:
        """Return one plaintext per row, to be encrypted by the key holder; both arrays of shape (rows,).

        Raises
        ------
        EncodingOverflow
            If a number is not finite or beyond its bound, or there are more rows than agreed.
        """
        low, high = self._gradients.encode(gradients), self._hessians.encode(hessians)
        if low.ndim != 1 or low.shape != high.shape or len(low) > self._max_rows:
            raise EncodingOverflow(
                f"gradients of shape {low.shape} and second derivatives of shape {high.shape}: they must be vectors of "
                f"one length, of at most {self._max_rows} rows"
            )
        pairs = zip(low.tolist(), high.tolist(), strict=True)
        return [g + (h << self.digit_bits) for g, h in pairs]

    def ciphertexts(self, features: int, size: int) -> int:
        """Return how many ciphertexts the sums of `features` with `size` bins each fill."""
        return -(-features * size // self.slots)

    def sums(self, rows: Ciphertexts, bins: NDArray[np.integer], size: int) -> Ciphertexts:
        """Return the joined sums by bin, not yet fit to be sent: :meth:`ciphertexts` of them.

        Parameters
        ----------
        rows : Ciphertexts
            One accepted ciphertext per row.
        bins : ndarray of integers, shape (rows, features)
            The bin of each row, from 0 to `size` - 1.
        size : int
            Bins per feature.

        Raises
        ------
        EncodingOverflow
            If there are more rows than agreed.
        ValueError
            If the shape or a bin is not as stated.
        """
        if len(rows) > self._max_rows:
            raise EncodingOverflow(f"{len(rows)} rows, but the agreed bound covers {self._max_rows}")
        columns = rows.bin_sums(bins, size)
        return Ciphertexts.concatenate(rows.key, columns).join(self.slots, 2 * self.digit_bits)

    def decode(self, plaintexts: list[int], features: int, size: int) -> tuple[FloatArray, FloatArray]:
        """Return the sums of gradients and of second derivatives, each of shape (features, size).

        Raises
        ------
        InvalidCiphertext
            If the number of plaintexts is wrong, or one of them holds no sums of the agreed range.
        """
        expected = self.ciphertexts(features, size)
        if len(plaintexts) != expected:
            raise InvalidCiphertext(
                f"{features} x {size} bins fill {expected} ciphertexts; received {len(plaintexts)}"
            )
        digits = np.array([self._split(plaintext) for plaintext in plaintexts], dtype=object)
        sums = digits.reshape(-1, 2)[: features * size]
        for column, bound in zip(sums.T, self._bounds, strict=True):
            outside = sum(abs(number) > bound for number in column)
            if outside:
                raise InvalidCiphertext(
                    f"{outside} of {len(column)} sums are beyond what {self._max_rows} rows can give: the peer "
                    "computed them under another key or another format"
                )
        low, high = (decode(column, self._gradients.fraction_bits) for column in sums.T)
        return low.reshape(features, size), high.reshape(features, size)

    def _split(self, plaintext: int) -> list[int]:
        half, digits = 1 << self.digit_bits - 1, []
        for _ in range(2 * self.slots):
            low = ((plaintext + half) & (2 * half - 1)) - half
            digits.append(low)
            plaintext = (plaintext - low) >> self.digit_bits
        if plaintext:
            raise InvalidCiphertext(
                f"a ciphertext does not decrypt to {2 * self.slots} sums of {self.digit_bits} bits: the peer "
                "computed it under another key or another format"
            )
        return digits
