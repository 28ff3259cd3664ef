"""Models as lists of arrays, lists of arrays as flat vectors, and a client's rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfl.errors import InvalidData

__all__ = ["Matrix", "Rows", "Vector", "flatten", "generator", "stacked", "unflatten", "weighted_mean"]

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rows:
    """One client's rows.

    Parameters
    ----------
    X : ndarray of float64, shape (rows, features)
    y : ndarray, shape (rows,)

    Raises
    ------
    InvalidData
        If there are no rows, the lengths differ or a feature is not finite.
    """

    X: Matrix
    y: NDArray[Any]

    def __post_init__(self) -> None:
        if self.X.ndim != 2 or len(self.X) == 0 or len(self.X) != len(self.y):
            raise InvalidData(
                f"a client has one or more rows and as many labels, not {self.X.shape} and {self.y.shape}"
            )
        if not np.isfinite(self.X).all():
            raise InvalidData("features are finite numbers; fill or drop the rows that are not")

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.X)

    def take(self, index: NDArray[np.int64]) -> "Rows":
        """Return some of the rows."""
        return Rows(self.X[index], self.y[index])


def flatten(arrays: Sequence[NDArray[Any]]) -> Vector:
    """Return all numbers of a list of arrays one after the other, as float64."""
    if not arrays:
        return np.zeros(0)
    return np.concatenate([np.asarray(array, dtype=np.float64).ravel() for array in arrays])


def unflatten(vector: Vector, shapes: Sequence[tuple[int, ...]]) -> list[NDArray[np.float64]]:
    """Return the arrays of these shapes that a vector holds; views, not copies.

    Raises
    ------
    InvalidData
        If the vector has another length than the shapes take.
    """
    sizes = [math.prod(shape) for shape in shapes]
    if vector.shape != (sum(sizes),):
        raise InvalidData(f"these arrays take {sum(sizes)} numbers, the vector has shape {vector.shape}")
    parts, at = [], 0
    for size, shape in zip(sizes, shapes, strict=True):
        parts.append(vector[at : at + size].reshape(shape))
        at += size
    return parts


def stacked(updates: Sequence[Vector]) -> Matrix:
    """Return updates as rows of a matrix.

    Raises
    ------
    InvalidData
        If there are none or their lengths differ.
    """
    if not updates or len({update.shape for update in updates}) != 1:
        raise InvalidData("updates are one or more vectors of one length")
    return np.stack([np.asarray(update, dtype=np.float64) for update in updates])


def weighted_mean(rows: Matrix, weights: Vector) -> Vector:
    """Return the mean of rows with weights.

    Raises
    ------
    InvalidData
        If the weights are not as many non-negative numbers with a positive sum.
    """
    weights = np.asarray(weights, dtype=np.float64)
    total = float(weights.sum())
    if weights.shape != (len(rows),) or (weights < 0).any() or not 0 < total < math.inf:
        raise InvalidData(f"{len(rows)} updates take as many weights, none negative and not all zero")
    mean: Vector = (weights / total) @ rows
    return mean


def generator(*numbers: int) -> np.random.Generator:
    """Return the generator that a seed, a round, a client and a purpose stand for.

    A generator of its own for each place makes a run independent of the order of work, and a resumed run equal to one
    without a break. Simulation and sampling of rows only: secrets and noise for privacy come from
    :mod:`vfl.crypto.rng`.
    """
    return np.random.default_rng([abs(number) for number in numbers])
