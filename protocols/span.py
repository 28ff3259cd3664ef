"""Vectors that two parties share, and the one who steers: inner products in, coefficients out.

The two share an origin u_0 and, one after the other, vectors g_0, g_1, ... of the same shape. :meth:`Span.products`
gives shares of the inner products of the last vector with all of them, :meth:`Span.point` shares of u_0 + sum_j a_j g_j
for coefficients a_j that the guest knows and the host does not. Both are one round of
:mod:`vfl.protocols.arithmetic`, whose adversary and leakage they have; a point is computed from the origin each time,
so that its roundings do not add up.
"""

from typing import final

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.ring import RING, Share
from vfl.protocols.arithmetic import Arithmetic

__all__ = ["COEFFICIENT_BITS", "GRADIENT_BITS", "POINT_SHIFT", "PRODUCT_BITS", "WEIGHT_BITS", "Span", "total"]

FloatArray = NDArray[np.float64]
WEIGHT_BITS = 30
GRADIENT_BITS = 28
COEFFICIENT_BITS = 16
PRODUCT_BITS = 44
POINT_SHIFT = GRADIENT_BITS + COEFFICIENT_BITS - WEIGHT_BITS
_PRODUCT_SHIFT = 2 * GRADIENT_BITS - PRODUCT_BITS


def total(x: Share, axis: int) -> Share:
    """Return the sum along an axis, which is not the first; at most 2^34 numbers."""
    primes = np.array(RING.primes, np.uint64).reshape(-1, *[1] * (x.ndim - 2))
    summed: Share = (x.sum(axis=axis, dtype=np.uint64) % primes).astype(np.uint32)
    return summed


@final
class Span:
    """One party's shares of an origin and of what has been added to it.

    Parameters
    ----------
    arithmetic : Arithmetic
        With the other party.
    origin : Share, shape (L, columns, targets)
        WEIGHT_BITS after the point.
    """

    def __init__(self, arithmetic: Arithmetic, origin: Share) -> None:
        self._arithmetic, self._origin = arithmetic, origin
        self._vectors: list[Share] = []

    def add(self, vector: Share) -> None:
        """Add a vector of the origin's shape, GRADIENT_BITS after the point."""
        self._vectors.append(vector)

    async def products(self) -> Share:
        """Return the share of the inner products of the last vector with all, PRODUCT_BITS: (L, vectors, targets)."""
        every = np.stack(self._vectors, axis=1)
        last = np.broadcast_to(every[:, -1:], every.shape)
        return self._arithmetic.truncate(
            total(await self._arithmetic.multiply(every, last), axis=2), _PRODUCT_SHIFT
        )

    async def point(self, coefficients: FloatArray | None) -> Share:
        """Return the share of a point, WEIGHT_BITS: (L, columns, targets).

        Parameters
        ----------
        coefficients : ndarray, shape (vectors, targets), or None
            The guest's; None at the host.
        """
        every = np.stack(self._vectors, axis=1)
        factor = None
        if coefficients is not None:
            encoded = RING.encode(coefficients[:, None], COEFFICIENT_BITS)
            factor = np.broadcast_to(encoded, every.shape)
        moved = total(await self._arithmetic.times_guest(every, factor), axis=1)
        return RING.add(self._origin, self._arithmetic.truncate(moved, POINT_SHIFT))
