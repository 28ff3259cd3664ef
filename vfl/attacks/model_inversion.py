"""What does a class look like? A typical row of a class, from a model alone.

Where a class is one person, or one client's, its typical row is private; where it is a digit of thousands of writers,
it is what the model is for. Secure aggregation does not help: the model is its result. Differential privacy bounds what
a single client adds to the picture, not the picture.

Source: Fredrikson, Jha and Ristenpart, "Model Inversion Attacks that Exploit Confidence Information and Basic
Countermeasures", CCS 2015 (the attack on face recognition: descent on 1 - f_label(x) from a blank row, with patience).
"""

import numpy as np

from vfl.errors import InvalidData
from vfl.horizontal.models import Network
from vfl.horizontal.vectors import Vector, unflatten

__all__ = ["likeness", "typical_row"]


def typical_row(
    network: Network,
    vector: Vector,
    place: int,
    box: tuple[float, float] = (0.0, 1.0),
    steps: int = 500,
    rate: float = 0.1,
    patience: int = 50,
) -> Vector:
    """Return the row, shape (features,), of which the model is surest that it is of a class.

    Parameters
    ----------
    network, vector : Network and ndarray of float64, shape (size,)
    place : int
        Of the class among the network's classes.
    box : tuple of float
        Range of the features.
    steps, rate, patience : int, float, int
        Of the descent; it ends after `patience` steps without a better row.
    """
    if network.classes is None or not 0 <= place < len(network.classes):
        raise InvalidData("this takes a classifier and the place of one of its classes")
    arrays = unflatten(vector, network.shapes)
    row = np.full((1, network.layers[0]), box[0])
    best, found, waited = np.inf, row, 0
    for _ in range(steps):
        scores = network.scores(vector, row)[0]
        parts = np.exp(scores - scores.max())
        parts /= parts.sum()
        cost = 1.0 - float(parts[place])
        if cost < best - 1e-6:
            best, found, waited = cost, row, 0
        else:
            waited += 1
        if waited >= patience:
            break
        errors = parts[place] * (parts - np.eye(len(parts))[place])
        row = np.clip(row - rate * network.by_rows(arrays, row, errors[None, :]), *box)
    return np.asarray(found[0])


def likeness(row: Vector, other: Vector) -> float:
    """Return the correlation of two rows over their features; 0 if one of them is constant."""
    if np.ptp(row) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(row, other)[0, 1])
