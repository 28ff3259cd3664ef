"""The guest's labels from one gradient of the host's own columns: what a host of the gradient exchange can compute.

The host's gradient of a batch is B^T (p - y) with its own matrix B. Of as many rows as columns it is solved for the
residuals, whose signs are the labels; of more rows the shortest solution still leans towards them.

Sources: Tan et al., "Residue-based Label Protection Mechanisms in Vertical Logistic Regression", 2022 (arXiv
2205.04166: residue reconstruction).
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["residue_reconstruction"]

Floats = NDArray[np.float64]


def residue_reconstruction(matrix: Floats, gradient: Floats) -> Floats:
    """Return the shortest residual that explains a gradient B^T (1/2 - y), as an estimate of the labels.

    Parameters
    ----------
    matrix : ndarray of float64, shape (rows, columns)
        B of the batch.
    gradient : ndarray of float64, shape (columns,)

    Returns
    -------
    ndarray of float64, shape (rows,)
        The larger, the likelier the label is 1.
    """
    return np.asarray(-np.linalg.lstsq(matrix.T, gradient, rcond=None)[0])
