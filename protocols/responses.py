"""Residuals of shared scores: the mean under a link minus the label, on shares.

Adversary and leakage are those of :mod:`vfl.protocols.arithmetic`: nothing is opened.
"""

import abc
import math
from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.links import EXPONENTIAL, LOGISTIC
from vfl.crypto.ring import RING, Share
from vfl.errors import InvalidData
from vfl.protocols.arithmetic import Arithmetic

__all__ = ["Identity", "Logarithmic", "Logistic", "Response"]

FloatArray = NDArray[np.float64]
AMOUNT_BITS = 17
LARGEST_MEAN = 2.0**4
"""Of amounts whose weighted mean is one: it bounds the sum of what is truncated, however large a single one is."""


class Response(abc.ABC):
    """How residuals follow from scores; both parties derive it from agreed parameters.

    Attributes
    ----------
    score_bits, residual_bits : int
        Fraction bits of the scores that come in and of the residuals that go out.
    reach : tuple of float or None
        The scores for which the residuals are right; None if all are.
    """

    score_bits: int
    residual_bits: int
    reach: tuple[float, float] | None

    @abc.abstractmethod
    async def residuals(self, arithmetic: Arithmetic, scores: Share, y: FloatArray | None) -> Share:
        """Return the share of each score's residual.

        Parameters
        ----------
        arithmetic : Arithmetic
        scores : Share, shape (L, rows, targets)
        y : ndarray, shape (rows, targets), or None
            The labels, at the guest.
        """

    @abc.abstractmethod
    async def slopes(self, arithmetic: Arithmetic, scores: Share) -> Share:
        """Return the share of the expected second derivative of the loss by each score, as residuals are shared."""

    async def pearson(self, arithmetic: Arithmetic, scores: Share, y: FloatArray | None) -> Share | None:
        """Return the share of (mean - y) / sqrt(variance), or None for families whose dispersion is known."""
        return None

    @abc.abstractmethod
    def truncations(self) -> Sequence[tuple[float, float]]:
        """Return (numbers a score, log2 of their bound before) of each truncation."""


@final
class Identity(Response):
    """The score itself minus the label: linear regression."""

    score_bits = residual_bits = 20
    reach = None

    async def residuals(self, arithmetic: Arithmetic, scores: Share, y: FloatArray | None) -> Share:
        """Return the share of z - y."""
        return scores if y is None else RING.subtract(scores, RING.encode(y, self.residual_bits))

    async def slopes(self, arithmetic: Arithmetic, scores: Share) -> Share:
        """Return the share of one, which takes no message."""
        return arithmetic.constant(RING.encode(np.ones(scores.shape[1:]), self.residual_bits))

    async def pearson(self, arithmetic: Arithmetic, scores: Share, y: FloatArray | None) -> Share | None:
        """Return the share of z - y."""
        return await self.residuals(arithmetic, scores, y)

    def truncations(self) -> Sequence[tuple[float, float]]:
        """Return nothing: nothing is truncated."""
        return []


@final
class Logistic(Response):
    """1 / (1 + e^-z) minus the label: a class against the rest."""

    score_bits = residual_bits = 20
    reach = LOGISTIC.reach

    async def residuals(self, arithmetic: Arithmetic, scores: Share, y: FloatArray | None) -> Share:
        """Return the share of the residuals, off by at most the link's error."""
        flat = scores.reshape(RING.limbs, -1)
        mean = await arithmetic.chain(LOGISTIC, flat, self.score_bits, self.residual_bits)
        mean = mean.reshape(scores.shape)
        return mean if y is None else RING.subtract(mean, RING.encode(y, self.residual_bits))

    async def slopes(self, arithmetic: Arithmetic, scores: Share) -> Share:
        """Return the share of m - m^2 for the mean m."""
        mean = await self.residuals(arithmetic, scores, None)
        return RING.subtract(mean, await arithmetic.square(mean, self.residual_bits))

    def truncations(self) -> Sequence[tuple[float, float]]:
        """Return that of the mean."""
        return [(1, math.log2(LOGISTIC.largest) + self.residual_bits + LOGISTIC.guard_bits)]


@final
class Logarithmic(Response):
    """e^((2 - p) z) - y e^((1 - p) z): amounts whose variance is the mean to the power p, under the log link.

    Parameters
    ----------
    power : float
        p, from 1 (Poisson) to 2 (Gamma).
    pearson : Logarithmic, optional
        For the power 1 + p/2, if Pearson residuals will be asked for: it narrows the range for p between 1 and 2.
    """

    score_bits = residual_bits = 20

    def __init__(self, power: float, pearson: "Logarithmic | None" = None) -> None:
        self._mean, self._amount, self._pearson = 2 - power, 1 - power, pearson
        low, high = EXPONENTIAL.reach
        within = [sorted((low / factor, high / factor)) for factor in (self._mean, self._amount) if factor]
        within += [list(self._pearson.reach)] if self._pearson else []
        self.reach: tuple[float, float] = max(w[0] for w in within), min(w[1] for w in within)

    async def residuals(self, arithmetic: Arithmetic, scores: Share, y: FloatArray | None) -> Share:
        """Return the share of the residuals.

        Raises
        ------
        InvalidData
            At the guest, if amounts are not in units of their mean.
        """
        flat = scores.reshape(RING.limbs, -1)
        amounts = None if y is None else self._encode(y.reshape(-1), arithmetic.peer.me.name)
        residuals = await self._power(arithmetic, flat, self._mean)
        if self._amount:
            weight = await self._power(arithmetic, flat, self._amount)
            amounts = await arithmetic.times_guest(weight, amounts, AMOUNT_BITS)
        if amounts is not None:
            residuals = RING.subtract(residuals, amounts)
        return residuals.reshape(scores.shape)

    async def slopes(self, arithmetic: Arithmetic, scores: Share) -> Share:
        """Return the share of e^((2 - p) z)."""
        flat = scores.reshape(RING.limbs, -1)
        return (await self._power(arithmetic, flat, self._mean)).reshape(scores.shape)

    async def pearson(self, arithmetic: Arithmetic, scores: Share, y: FloatArray | None) -> Share | None:
        """Return the share of (e^z - y) e^(-p z/2), which are the residuals for the power 1 + p/2."""
        return None if self._pearson is None else await self._pearson.residuals(arithmetic, scores, y)

    async def _power(self, arithmetic: Arithmetic, scores: Share, factor: float) -> Share:
        """Return the share of e^(factor z)."""
        if not factor:
            one = RING.encode(np.ones(scores.shape[1]), self.residual_bits)
            return arithmetic.constant(one)
        chain = EXPONENTIAL.stretched(factor)
        return await arithmetic.chain(chain, scores, self.score_bits, self.residual_bits)

    def _encode(self, y: FloatArray, party: str) -> Share:
        if y.mean() > LARGEST_MEAN:
            raise InvalidData(
                f"{party}: amounts are {y.mean():.0f} times their weighted mean on average: weights are too uneven"
            )
        return RING.encode(y, AMOUNT_BITS if self._amount else self.residual_bits)

    def truncations(self) -> Sequence[tuple[float, float]]:
        """Return those of both powers, and of the product with the amount, by its mean."""
        largest = math.log2(EXPONENTIAL.largest) + self.residual_bits
        powers = (2.0, largest + EXPONENTIAL.guard_bits)
        return [powers, (1.0, largest + AMOUNT_BITS + math.log2(LARGEST_MEAN))]
