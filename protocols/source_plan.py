"""Sizes and fixed-point formats of a network on shares (:mod:`vfl.protocols.source`)."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.links import LOGISTIC_20
from vfl.crypto.ring import RING, Share, failure_bits
from vfl.errors import EncodingOverflow, InvalidData

__all__ = [
    "FINE_BITS",
    "GAIN",
    "LARGEST_INPUT",
    "LARGEST_OFFSET",
    "LARGEST_START",
    "OPENED_BITS",
    "SCORE_BITS",
    "SHORT_BITS",
    "STEP_BITS",
    "TURNS",
    "WEIGHT_UNIT",
    "Labels",
    "Plan",
]

FloatArray = NDArray[np.float64]
LARGEST_INPUT = 4.0
"""Of the absolute values of inputs."""
ENTRY_BITS = 12
"""Fraction bits of inputs."""
LARGEST_ENTRY = int(LARGEST_INPUT * 2**ENTRY_BITS)
SHORT_BITS = 9
"""Bits that weights lose for products modulo the first prime of t."""
WEIGHT_UNIT = RING.primes[0] * 2.0 ** (SHORT_BITS - ENTRY_BITS) / (2 * math.pi)
"""Integer that stands for a weight of one: so that products with shortened weights are turns, as they are."""
TURNS = round(Fraction(RING.modulus, RING.primes[0] << SHORT_BITS))
"""What products with whole weights are multiplied by to be turns."""
SCORE_BITS = 20
FINE_BITS = 40
"""Fraction bits of scores that are to be opened, before they are truncated."""
OPENED_BITS = 14
"""Fraction bits of scores that are opened."""
GAIN = 16.0
"""Largest score, by the bound of the sine."""
LARGEST_OFFSET = 4.0
"""Of the absolute values of what the guest adds to all scores."""
LARGEST_START = 8.0
"""Of the absolute values of each party's part of the first weights."""
STEP_BITS = 24
GRADIENT_BITS = 24
RESIDUAL_BITS = 18
LEAST_RESIDUAL_BITS = 6  # truncation rounds up or down at random, with the right mean
FAILURE_BITS = -40
MOST_UNITS = 1024
MOST_BATCH = 4096
MOST_COLUMNS = 4096


@dataclass(frozen=True)
class Plan:
    """What both parties have agreed on before the first step.

    Attributes
    ----------
    rows : int
    columns : tuple of int
        Inputs of the guest, the column of ones first, and of the host.
    units : int
        Hidden units, m.
    outputs : int
        Scores a row, C: one for two classes, else one for each class.
    epochs : int
    batch_size : int
        Rows in a step; all, if there are fewer. Rows left over are left out of an epoch, others in each.
    learning_rate, momentum : float
        The rate falls to zero along half a cosine.
    penalty : float
        Weight of half the squared weights, but for those of the ones.

    Raises
    ------
    InvalidData
        If sizes are out of bounds, or leave no bound of 2^-40 on the probability that a truncation fails.
    """

    rows: int
    columns: tuple[int, int]
    units: int
    outputs: int
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    penalty: float

    def __post_init__(self) -> None:
        if min(self.rows, self.units, self.outputs, self.epochs, self.batch_size, *self.columns) < 1:
            raise InvalidData("a network needs rows, columns of both parties, units, epochs and a batch size")
        if self.units > MOST_UNITS or self.batch > MOST_BATCH or max(self.columns) > MOST_COLUMNS:
            raise InvalidData(
                f"a network takes at most {MOST_UNITS} units, batches of {MOST_BATCH} rows and {MOST_COLUMNS} columns "
                "of each party"
            )
        if self.outputs > 1 and self.outputs >= self.units:
            raise InvalidData(f"{self.outputs} classes take more than {self.units} units: raise hidden_units")
        if self.failure_bits > FAILURE_BITS:
            raise InvalidData(
                f"{self.steps} steps of {self.batch} rows, {sum(self.columns)} columns and {self.units} units: a "
                f"truncation fails with a probability of up to 2^{self.failure_bits:.0f}; lower one of them"
            )

    @property
    def batch(self) -> int:
        """Rows of a step, n."""
        return min(self.batch_size, self.rows)

    @property
    def each(self) -> int:
        """Steps of an epoch."""
        return self.rows // self.batch

    @property
    def steps(self) -> int:
        """Steps of the training."""
        return self.epochs * self.each

    @cached_property
    def readout(self) -> NDArray[np.int32]:
        """The last layer, of +1 and -1, shape (units, outputs): columns of Sylvester's matrix."""
        return sylvester(self.units, self.outputs)

    @property
    def amplitude(self) -> float:
        """Integer that stands for a unit's activation of one; the sum over units then has SCORE_BITS."""
        return GAIN / self.units * 2.0**SCORE_BITS

    @property
    def fine_amplitude(self) -> float:
        """The same for FINE_BITS."""
        return GAIN / self.units * 2.0**FINE_BITS

    @cached_property
    def residual_bits(self) -> int:
        """Fraction bits of residuals: as many as the bound on truncations allows."""
        numbers = math.log2(2 * self.steps * sum(self.columns) * self.units)
        room = math.log2(RING.modulus) + FAILURE_BITS - 2 - numbers
        return min(RESIDUAL_BITS, math.floor(room - math.log2(self._gradient / 2.0**RESIDUAL_BITS)))

    @property
    def _gradient(self) -> float:
        """Bound of an integer gradient, if residuals had RESIDUAL_BITS."""
        return math.ldexp(self.batch * LARGEST_ENTRY * self.outputs * self.amplitude, RESIDUAL_BITS) * 1.01

    @property
    def gradient_shift(self) -> int:
        """Bits that gradients lose: what is left of them has GRADIENT_BITS of a mean, or one more."""
        return math.floor(math.log2(self._unit)) - GRADIENT_BITS

    @property
    def _unit(self) -> float:
        """Integer that stands for a mean gradient of one, before truncation."""
        return math.ldexp(self.batch * self.amplitude, ENTRY_BITS + self.residual_bits)

    def rates(self, step: int) -> tuple[int, int, int]:
        """Return the integers of momentum, of the rate and of the penalty for a step."""
        rate = self.learning_rate * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))
        scale = self._unit / 2.0**self.gradient_shift
        by_gradient = rate * WEIGHT_UNIT * 2.0**STEP_BITS / scale
        return tuple(  # type: ignore[return-value]
            round(value)
            for value in (self.momentum * 2**STEP_BITS, by_gradient, rate * self.penalty * 2**STEP_BITS)
        )

    def integers(self, inputs: FloatArray) -> NDArray[np.int32]:
        """Return inputs as integers.

        Raises
        ------
        EncodingOverflow
            If one is not finite or larger than LARGEST_INPUT.
        """
        scaled = np.rint(np.ldexp(inputs, ENTRY_BITS))
        if not (np.abs(scaled) <= LARGEST_ENTRY).all():
            raise EncodingOverflow(f"an input of the network is not finite or exceeds {LARGEST_INPUT:.0f}")
        return scaled.astype(np.int32)

    def start(self, weights: FloatArray) -> Share:
        """Return a party's part of the first weights, (columns of both, units), as its share."""
        if weights.shape != (sum(self.columns), self.units) or not (np.abs(weights) <= LARGEST_START).all():
            raise EncodingOverflow(f"first weights are {sum(self.columns)} x {self.units} numbers of up to 8")
        return RING.encode(weights * WEIGHT_UNIT, 0)

    @property
    def failure_bits(self) -> float:
        """log2 of the bound on the probability that any truncation fails."""
        if self.residual_bits < LEAST_RESIDUAL_BITS:
            return 0.0
        weights = self.steps * sum(self.columns) * self.units
        gradient = math.log2(self._gradient) + self.residual_bits - RESIDUAL_BITS
        speed = self.learning_rate * LARGEST_INPUT * self.outputs / (1 - self.momentum)
        largest = 2 * LARGEST_START + self.steps * speed  # of the weights
        moves = STEP_BITS + math.log2(WEIGHT_UNIT * (2 * speed + self.learning_rate * self.penalty * largest))
        short = math.log2(WEIGHT_UNIT * largest)
        residual = self.residual_bits + LOGISTIC_20.guard_bits + 1
        return failure_bits(
            [
                (weights, gradient),
                (weights, moves),
                (weights, short),
                (self.steps * self.batch * self.outputs, residual),
            ]
        )


@dataclass(frozen=True)
class Labels:
    """What the guest alone knows.

    Attributes
    ----------
    y : ndarray, shape (rows, outputs)
        0 and 1.
    offset : ndarray, shape (outputs,)
        What it adds to all scores, of an absolute value of at most LARGEST_OFFSET: the log odds of the classes.
    """

    y: FloatArray
    offset: FloatArray

    @classmethod
    def of(cls, y: FloatArray) -> Self:
        """Take the log odds of the classes among the rows."""
        odds = np.log(y.sum(axis=0) / (len(y) - y.sum(axis=0)))
        return cls(y, np.clip(odds, -LARGEST_OFFSET, LARGEST_OFFSET))

    def __getitem__(self, rows: NDArray[np.int64]) -> Self:
        return replace(self, y=self.y[rows])


def sylvester(rows: int, columns: int) -> NDArray[np.int32]:
    """Return columns of Sylvester's matrix of +1 and -1: (-1) to the number of bits that i and j have in common.

    First those whose number j has few bits, and an odd number of them: so no two rows are equal as long as can be.
    """
    places = sorted(range(1, max(2, 1 << (rows - 1).bit_length())), key=_parity_and_bits)[:columns]
    common = np.bitwise_and.outer(np.arange(rows), places)
    parity = np.zeros_like(common)
    while common.any():
        parity ^= common & 1
        common >>= 1
    return (1 - 2 * parity).astype(np.int32)


def _parity_and_bits(number: int) -> tuple[bool, int, int]:
    bits = number.bit_count()
    return bits % 2 == 0, bits, number
