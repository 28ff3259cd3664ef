"""What a curious party computes from what it has received."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def projector(scores: Floats) -> Floats:
    """Return the projector onto the span of scores, (rows, epochs)."""
    vectors, values, _ = np.linalg.svd(scores, full_matrices=False)
    kept: Floats = vectors[:, values > 1e-7 * values[0]]
    return kept @ kept.T


def inner_products(host: Floats) -> Floats:
    """Return the inner products between the host's rows, in its own whitened coordinates."""
    centred = host - host.mean(axis=0)
    return np.asarray(centred @ np.linalg.solve(centred.T @ centred, centred.T))


def residue_reconstruction(matrix: Floats, gradient: Floats) -> Floats:
    """Return the shortest residual that explains a gradient B^T (1/2 - y), as an estimate of the labels."""
    return np.asarray(-np.linalg.lstsq(matrix.T, gradient, rcond=None)[0])


__all__ = ["inner_products", "projector", "residue_reconstruction"]
