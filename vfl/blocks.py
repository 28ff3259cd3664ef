"""One party's columns, ready to train: winsorised if asked for, standardised, whitened. Nothing here is sent."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Block", "Limits", "gram"]

FloatArray = NDArray[np.float64]
RIDGE = 1e-6
_PIECE = 1 << 15


@dataclass(frozen=True)
class Limits:
    """Where each column is cut off: so many standard deviations from its mean over the training rows."""

    lower: FloatArray
    upper: FloatArray

    @classmethod
    def of(cls, values: FloatArray, deviations: float | None) -> Self:
        """Return the limits of training rows; None cuts nothing off."""
        centre = values.mean(axis=0)
        reach = np.full(len(centre), np.inf) if deviations is None else deviations * values.std(axis=0)
        return cls(centre - reach, centre + reach)

    def apply(self, values: FloatArray) -> FloatArray:
        """Return the values within the limits."""
        if np.isinf(self.upper).all():
            return values
        return np.clip(values, self.lower, self.upper)


@dataclass(frozen=True)
class Block:
    """One party's columns, standardised.

    Attributes
    ----------
    matrix : ndarray, shape (rows, columns)
        With a leading column of ones if there is one.
    penalty : ndarray, shape (columns, columns)
        Hessian of the L2 penalty in the coordinates of the matrix.
    centre, scale : ndarray, shape (own columns,)
        What was subtracted, and by what was divided then.
    back : ndarray, shape (columns, columns)
        Weights in the coordinates of the matrix to those of standardised columns.
    ones : bool
        Whether the first column is one of ones, which is not penalised.
    """

    matrix: FloatArray
    penalty: FloatArray
    centre: FloatArray
    scale: FloatArray
    back: FloatArray
    ones: bool

    @classmethod
    def standard(
        cls,
        values: FloatArray,
        strength: float,
        *,
        rows: int | None = None,
        centred: bool = True,
        ones: bool = False,
    ) -> Self:
        """Standardise.

        Parameters
        ----------
        values : ndarray, shape (rows, own columns)
        strength : float
            L2 penalty per row on the weights of standardised columns.
        rows : int, optional
            Rows that train, the first ones; all by default.
        centred : bool
            Whether means are subtracted.
        ones : bool
            Whether a column of ones is put before.
        """
        training = values[:rows]
        mean, spread = training.mean(axis=0), training.std(axis=0)
        varies = spread > 1e-12 * np.maximum(1.0, np.abs(mean))
        constant = (
            np.inf if centred else np.where(mean == 0, np.inf, np.abs(mean))
        )  # inf: it gets weight zero
        scale = np.where(varies, spread, constant)
        centre = mean if centred else np.zeros_like(mean)
        matrix = np.ones((len(values), values.shape[1] + int(ones)))
        np.subtract(values, centre, out=matrix[:, int(ones) :])
        matrix[:, int(ones) :] /= scale
        penalty = strength * np.eye(matrix.shape[1])
        penalty[: int(ones)] = 0
        return cls(matrix, penalty, centre, scale, np.eye(len(penalty)), ones)

    @classmethod
    def of(
        cls,
        values: FloatArray,
        strength: float,
        curvature: float,
        *,
        rows: int | None = None,
        centred: bool = True,
        ones: bool = False,
    ) -> Self:
        """Standardise and whiten: see :meth:`standard` and :meth:`whitened`."""
        return cls.standard(values, strength, rows=rows, centred=centred, ones=ones).whitened(
            curvature, rows=rows
        )

    def whitened(
        self, curvature: float, *, rows: int | None = None, importance: FloatArray | None = None
    ) -> Self:
        """Return the block in coordinates in which its training rows have unit covariance, the penalty included.

        Parameters
        ----------
        curvature : float
            Of the loss by the score, in whose units the penalty enters.
        rows : int, optional
            Rows that train.
        importance : ndarray, shape (rows,), optional
            Weight of each training row in the covariance, of mean one.
        """
        training = self.matrix[:rows]
        covariance = gram(training, importance) / len(training) + self.penalty / curvature
        eigenvalues, vectors = np.linalg.eigh(covariance)
        whiten = (vectors / np.sqrt(np.maximum(eigenvalues, 0) + RIDGE)) @ vectors.T
        return type(self)(
            self.matrix @ whiten, whiten @ self.penalty @ whiten, self.centre, self.scale, whiten, self.ones
        )

    def weights_and_intercept(self, weights: FloatArray) -> tuple[FloatArray, float]:
        """Return weights of the original columns, and this party's part of the intercept."""
        standard = self.back @ weights
        own = standard[int(self.ones) :] / self.scale
        return own, float(standard[0] if self.ones else 0.0) - float(self.centre @ own)

    def standard_errors(self, variances: FloatArray) -> FloatArray:
        """Return standard errors of weights of the original columns from variances of those of standardised ones."""
        own = np.sqrt(variances[int(self.ones) :])
        return np.where(np.isinf(self.scale), np.nan, own / self.scale)


def gram(matrix: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """Return matrix^T diag(weights) matrix, without a copy of the matrix."""
    total = np.zeros((matrix.shape[1], matrix.shape[1]))
    for rows in _pieces(len(matrix)):
        part = matrix[rows]
        total += part.T @ (part if weights is None else part * weights[rows, None])
    return total


def _pieces(rows: int) -> Iterator[slice]:
    for start in range(0, rows, _PIECE):
        yield slice(start, start + _PIECE)
