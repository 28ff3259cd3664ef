"""The reverse multiplication attack, on a first layer whose sums are opened to whoever computes their gradient."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["multiplied_back"]

FloatArray = NDArray[np.float64]


def multiplied_back(sums: FloatArray, gradients: FloatArray, own: FloatArray, rate: float) -> FloatArray:
    """Return the other party's inner products between rows, (rows, rows), as far as the gradients span them.

    A step of gradient descent changes the sums Z = A W_A + B W_B of the same rows by -rate (A A^T + B B^T) dL/dZ.
    Source: Weng, Zhang, Xue and others, "Privacy Leakage of Real-World Vertical Federated Learning", arXiv 2011.09290,
    there on logistic regression.

    Parameters
    ----------
    sums, gradients : ndarray, shape (steps, rows, units)
        Z and dL/dZ of the same rows in each step.
    own : ndarray, shape (rows, columns)
        The attacker's own columns, A.
    rate : float
    """
    known = np.concatenate(list(gradients[:-1]), axis=1)
    changes = np.concatenate(list(-np.diff(sums, axis=0) / rate), axis=1)
    others: FloatArray = (changes - own @ (own.T @ known)) @ np.linalg.pinv(known)
    return others
