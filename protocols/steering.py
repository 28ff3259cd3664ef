"""Where to go next, from inner products of gradients alone: limited-memory BFGS for the party that steers.

Points are u_0 + sum_j a_j g_j over all gradients g_j so far, and so are the differences s of points and y of gradients
from which L-BFGS builds its inverse B of the Hessian. So B g, too, is a sum of gradients, and its coefficients follow
from the Gram matrix of the gradients: nobody needs to hold a gradient. No old pair is forgotten.

A gradient more than :data:`LONGEST` times as long as the one at the best point is not used: the step went where the
curvature is larger, or out of the range of the link. The next point is a quarter of the way there.

Sources: Nocedal, Wright, "Numerical Optimization", 2006, algorithm 7.4 (the two loops); Chen, Wang, Zhou, "Large-scale
L-BFGS using MapReduce", NIPS 2014 (inner products are enough).
"""

import math
from typing import final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Steering"]

FloatArray = NDArray[np.float64]
LONGEST = 2.0
RETREAT = 0.25
SMALLEST_ANGLE = 1e-5


@final
class Steering:
    """The way of one vector of weights.

    Parameters
    ----------
    curvature : float
        Mean curvature at the first point: its inverse is the length of the first step.

    Attributes
    ----------
    steps : int
        Gradients seen.
    distance : float
        Estimate of the root mean square of what is missing in the scores, weighted by curvature: sqrt(g' B g / c) at
        the best point.
    """

    def __init__(self, curvature: float) -> None:
        self._curvature = curvature
        self._gram = np.zeros((0, 0))
        self._point = np.zeros(0)  # where the next gradient is taken
        self._best = np.zeros(0)
        self._gradient = np.zeros(0)  # at the best point
        self._move = np.zeros(0)
        self._pairs: list[tuple[FloatArray, FloatArray]] = []
        self.distance = math.inf

    @property
    def steps(self) -> int:
        """Gradients seen."""
        return len(self._gram)

    def see(self, products: FloatArray) -> None:
        """Take the inner products of the gradient at the current point with all so far and with itself, and choose.

        Parameters
        ----------
        products : ndarray, shape (steps + 1,)
        """
        self._grow()
        last = self.steps - 1
        gradient = np.eye(self.steps)[last]
        if last and not 0 <= products[last] <= LONGEST**2 * self._product(self._gradient, self._gradient):
            self._move = RETREAT * self._move
        else:
            self._gram[last], self._gram[:, last] = products, products
            self._accept(gradient)
        self._point = self._best + self._move

    def coefficients(self) -> FloatArray:
        """Return a_j of the point where the next gradient is taken, shape (steps,)."""
        return self._point.copy()

    def end(self, *, arrived: float) -> FloatArray:
        """Return a_j of the last point: one step beyond the best if no more than `arrived` is missing, or the best."""
        return (self._best + self._move if self.distance <= arrived else self._best).copy()

    def _grow(self) -> None:
        """Make room for one gradient more."""
        self._gram = np.pad(self._gram, (0, 1))
        self._point, self._best, self._gradient, self._move = (
            np.pad(vector, (0, 1)) for vector in (self._point, self._best, self._gradient, self._move)
        )
        self._pairs = [(np.pad(s, (0, 1)), np.pad(y, (0, 1))) for s, y in self._pairs]

    def _product(self, x: FloatArray, y: FloatArray) -> float:
        return float(x @ self._gram @ y)

    def _accept(self, gradient: FloatArray) -> None:
        """Make the current point the best, learn the curvature on the way to it, and point the next move."""
        s, y = self._point - self._best, gradient - self._gradient
        lengths = self._product(s, s) * self._product(y, y)
        if self.steps > 1 and self._product(s, y) > SMALLEST_ANGLE * math.sqrt(max(lengths, 0.0)) > 0:
            self._pairs.append((s, y))
        self._best, self._gradient = self._point, gradient
        direction = self._inverse(gradient)
        self._move = -direction
        self.distance = math.sqrt(max(self._product(gradient, direction), 0.0) / self._curvature)

    def _inverse(self, gradient: FloatArray) -> FloatArray:
        """Return B g by the two loops."""
        q, weights = gradient.copy(), []
        for s, y in reversed(self._pairs):
            weights.append(self._product(s, q) / self._product(s, y))
            q = q - weights[-1] * y
        if self._pairs:
            s, y = self._pairs[-1]
            q = q * self._product(s, y) / self._product(y, y)
        else:
            q = q / self._curvature
        for (s, y), weight in zip(self._pairs, reversed(weights), strict=True):
            q = q + (weight - self._product(y, q) / self._product(s, y)) * s
        return q
