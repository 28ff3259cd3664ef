"""What a training protocol is given and what it gives back, whichever of them it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vfl.families import Family

__all__ = ["Fit", "Task"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """What all parties know of a training.

    Attributes
    ----------
    rows : int
        Of all matrices.
    validation_rows : int
        The last of them, which do not train (0 for none).
    columns : tuple of int
        Of the guest, then of each host; the intercept not counted.
    models : int
        Linear models that are trained over the same rows: one for each class, or one.
    family : Family
    strength : float
        L2 penalty per row on the weights of standardised columns.
    intercept : bool
        Whether the model has one.
    batch_size : int, "auto" or None
    max_iter : int
    tol : float
    he : str
    key_bits : int
    inference : bool
        Whether standard errors are wanted.
    told : mapping of str to str
        What the guest said about itself.
    """

    rows: int
    validation_rows: int
    columns: tuple[int, ...]
    models: int
    family: Family
    strength: float
    intercept: bool
    batch_size: int | str | None
    max_iter: int
    tol: float
    he: str
    key_bits: int
    inference: bool
    told: Mapping[str, str]


@dataclass(frozen=True)
class Fit:
    """One party's part of a trained linear model.

    Attributes
    ----------
    coef : ndarray, shape (own columns,)
        In the units of this party's own columns.
    intercept : float
        This party's part.
    losses : list of float
        By iteration, at the guest; empty at a host, and if the protocol shows none.
    iterations : int
    converged : bool
    distances : list of float
        At the guest, by iteration: estimates of the root mean square of what is missing in the scores, if the protocol
        has them.
    errors : ndarray, shape (own columns,), or None
        Standard errors of the coefficients; NaN for constant columns.
    """

    coef: FloatArray
    intercept: float
    losses: list[float] = field(default_factory=list)
    iterations: int = 0
    converged: bool = False
    distances: list[float] = field(default_factory=list)
    errors: FloatArray | None = None
