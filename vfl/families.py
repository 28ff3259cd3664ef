"""The families of generalised linear models: link, loss and residual, as the label holder computes them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit

__all__ = ["IDENTITY", "LOGISTIC", "Family", "Target", "tweedie"]

FloatArray = NDArray[np.float64]
Function = Callable[[FloatArray, FloatArray], FloatArray]


@dataclass(frozen=True)
class Family:
    """One family under one link.

    Attributes
    ----------
    link : {"identity", "logistic", "log"}
        What the protocol evaluates: the mean as a function of the score is z, 1 / (1 + e^-z) or e^z.
    power : float
        The variance is the mean to this power (under the log link): 1 is Poisson's, 2 Gamma's.
    curvature : float
        Upper bound of the second derivative of the loss by the score; under the log link its value at z = 0.
    mean : callable
        Score -> mean.
    slope : callable
        Score -> expected second derivative of the loss by the score.
    residual, loss : callable
        (score, y) -> derivative of the loss by the score, and the loss, row by row.
    """

    link: Literal["identity", "logistic", "log"]
    power: float
    curvature: float
    mean: Callable[[FloatArray], FloatArray]
    slope: Callable[[FloatArray], FloatArray]
    residual: Function
    loss: Function


@dataclass(frozen=True)
class Target:
    """What the guest brings to the training of one linear model.

    Attributes
    ----------
    family : Family
    y : ndarray, shape (rows,)
        0 and 1 for a class; of mean 0 and variance 1 under the identity link, of weighted mean 1 under the log link.
    weights : ndarray, shape (rows,)
        Positive, of mean one.
    offset : ndarray, shape (rows,), or None
        Known part of each score.
    dispersion : float
        Variance over that of the family, where it is not estimated: counts divided by their mean have its inverse.
    """

    family: Family
    y: FloatArray
    weights: FloatArray
    offset: FloatArray | None = None
    dispersion: float = 1.0

    def residual(self, scores: FloatArray, rows: slice) -> FloatArray:
        """Return prediction minus label times weight of some rows."""
        return self.family.residual(scores, self.y[rows]) * self.weights[rows]

    def loss(self, scores: FloatArray, rows: slice) -> float:
        """Return the weighted mean loss of some rows."""
        return float(np.average(self.family.loss(scores, self.y[rows]), weights=self.weights[rows]))


def _log_loss(scores: FloatArray, y: FloatArray) -> FloatArray:
    loss: FloatArray = -(y * log_expit(scores) + (1 - y) * log_expit(-scores))
    return loss


LOGISTIC = Family(
    "logistic", 1.0, 0.25, expit, lambda z: expit(z) * expit(-z), lambda z, y: expit(z) - y, _log_loss
)
IDENTITY = Family(
    "identity", 0.0, 1.0, lambda z: z, np.ones_like, lambda z, y: z - y, lambda z, y: (z - y) ** 2 / 2
)


def tweedie(power: float) -> Family:
    """Return the family whose variance is the mean to a power, under the log link; the loss is half the deviance.

    Source: Jørgensen, "The Theory of Dispersion Models", 1997, chapter 4.
    """

    def residual(z: FloatArray, y: FloatArray) -> FloatArray:
        return np.exp((2 - power) * z) - y * np.exp((1 - power) * z)

    def slope(z: FloatArray) -> FloatArray:
        return np.exp((2 - power) * z)

    return Family("log", power, 1.0, np.exp, slope, residual, lambda z, y: half_deviance(z, y, power))


def half_deviance(z: FloatArray, y: FloatArray, power: float) -> FloatArray:
    """Return half the deviance of each row for the mean e^z."""
    if power == 1:
        saturated = np.where(y > 0, y * np.log(np.where(y > 0, y, 1.0)) - y, 0.0)
        return saturated - (y * z - np.exp(z))
    if power == 2:
        return np.asarray(y * np.exp(-z) - np.log(y) + z - 1)
    first = np.where(y > 0, y, 0.0) ** (2 - power) / ((1 - power) * (2 - power))
    return np.asarray(
        first - y * np.exp((1 - power) * z) / (1 - power) + np.exp((2 - power) * z) / (2 - power)
    )
