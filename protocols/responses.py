"""Residuals of shared scores: the mean under a link minus the label, on shares.

Adversary and leakage are those of :mod:`vfl.protocols.arithmetic`: nothing is opened.
"""

import abc
from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.ring import RING, Share
from vfl.protocols.arithmetic import Arithmetic

__all__ = ["Identity", "Response"]

FloatArray = NDArray[np.float64]


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

    @abc.abstractmethod
    async def pearson(self, arithmetic: Arithmetic, scores: Share, y: FloatArray | None) -> Share | None:
        """Return the share of (y - mean) / sqrt(variance), or None for families whose dispersion is one."""

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
