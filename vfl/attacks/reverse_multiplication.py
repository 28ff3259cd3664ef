"""The host's inner products from its successive scores: what a guest of the gradient exchange can compute.

In each epoch the guest receives z = B w of every row, with other weights w. As many different ones as the host has
columns span the columns of B: the guest knows the projector onto them, which is B (B^T B)^-1 B^T, the inner products of
the host's rows in whitened coordinates. Strict training shows no scores, and there is nothing to run this on.

Sources: Weng et al., "Privacy Leakage of Real-World Vertical Federated Learning", 2020 (arXiv 2011.09290: reverse
multiplication).
"""

import numpy as np
from numpy.typing import NDArray

from vfl.protocols.gradient import EpochEnd, PartialScore
from vfl.views import View

__all__ = ["batches_of_scores", "inner_products", "projector", "span"]

Floats = NDArray[np.float64]
SMALL = 1e-7  # of the largest singular value: what counts as zero


def span(scores: Floats) -> int:
    """Return how many directions scores, shape (rows, epochs), have."""
    values = np.linalg.svd(scores, compute_uv=False)
    return int((values > SMALL * values[0]).sum()) if values.size and values[0] > 0 else 0


def projector(scores: Floats) -> Floats:
    """Return the projector onto the span of scores, shape (rows, epochs)."""
    vectors, values, _ = np.linalg.svd(scores, full_matrices=False)
    kept: Floats = vectors[:, values > SMALL * values[0]]
    return kept @ kept.T


def inner_products(host: Floats) -> Floats:
    """Return the inner products between the host's rows, in its own whitened coordinates: what is to be found."""
    centred = host - host.mean(axis=0)
    return np.asarray(centred @ np.linalg.solve(centred.T @ centred, centred.T))


def batches_of_scores(view: View) -> list[Floats]:
    """Return, for each batch of rows, the scores that a guest received, shape (rows, epochs).

    Scores of rows that only watch the training (early stopping) count as one more batch.
    """
    epochs: list[list[Floats]] = [[]]
    for seen in view.messages:
        if isinstance(seen.message, PartialScore) and seen.direction == "received":
            epochs[-1].append(seen.message.z)
        elif isinstance(seen.message, EpochEnd) and seen.direction == "sent":
            epochs.append([])
    whole = [epoch for epoch in epochs if epoch and [len(z) for z in epoch] == [len(z) for z in epochs[0]]]
    return [np.column_stack(batch) for batch in zip(*whole, strict=True)]
