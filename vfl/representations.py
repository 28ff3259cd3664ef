"""Self-supervised representations of one party's columns: what reconstructs its own rows best in few numbers."""

from dataclasses import dataclass
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

from vfl.blocks import Limits
from vfl.errors import InvalidData

__all__ = ["Encoder", "default_components"]

FloatArray = NDArray[np.float64]
VARIANCE = 0.95
"""Part of the variance of standardised columns that representations hold by default."""
CUT_OFF = 5.0
"""Standard deviations beyond which a column is cut off."""


def default_components(sizes: FloatArray) -> int:
    """Return the fewest axes with 95 % of the variance, at most one less than columns, but for a single one.

    Parameters
    ----------
    sizes : ndarray, shape (columns,)
        Variances along the axes, descending.
    """
    enough = int(np.searchsorted(np.cumsum(sizes), VARIANCE * sizes.sum())) + 1
    return max(1, min(len(sizes) - 1, enough))


@final
@dataclass(frozen=True, eq=False)
class Encoder:
    """The linear autoencoder of standardised columns, cut off at five standard deviations.

    The best linear reconstruction from k numbers is that by the first k principal axes (Baldi, Hornik, "Neural networks
    and principal component analysis", Neural Networks 1989), so it is computed rather than trained.

    Attributes
    ----------
    limits : Limits
    mean, scale : ndarray, shape (columns,)
    axes : ndarray, shape (columns, components)
        In units in which the first component has variance one.
    """

    limits: Limits
    mean: FloatArray
    scale: FloatArray
    axes: FloatArray

    @classmethod
    def fit(cls, values: FloatArray, components: int | None = None) -> Self:
        """Learn from a party's own rows, labelled or not, common or not.

        Parameters
        ----------
        values : ndarray, shape (rows, columns)
        components : int, optional
            Length of a representation; None takes :func:`default_components`.

        Raises
        ------
        InvalidData
            If there are more components than columns, or all columns are constant.
        """
        columns = values.shape[1]
        if components is not None and not 1 <= components <= columns:
            raise InvalidData(f"{components} components cannot be made of {columns} columns")
        limits = Limits.of(values, CUT_OFF)
        kept = limits.apply(values)
        mean, deviation = kept.mean(axis=0), kept.std(axis=0)
        scale = np.where(deviation > 0, deviation, 1.0)
        standard = (kept - mean) / scale
        sizes, axes = np.linalg.eigh(standard.T @ standard / len(standard))
        if not sizes[-1] > 0:
            raise InvalidData("all columns are constant: there is nothing to represent")
        wanted = components or default_components(sizes[::-1])
        return cls(limits, mean, scale, axes[:, ::-1][:, :wanted] / np.sqrt(sizes[-1]))

    @property
    def components(self) -> int:
        """Length of a representation."""
        return int(self.axes.shape[1])

    def transform(self, values: FloatArray) -> FloatArray:
        """Return representations, shape (rows, components)."""
        encoded: FloatArray = (self.limits.apply(values) - self.mean) / self.scale @ self.axes
        return encoded
