"""Learning from each other's answers in place of each other's weights.

Clients answer the rows of a public data set; the mean of their answers teaches the others' models, whose architectures
may differ. The mean of scores is one sum, so it composes with secure aggregation. To start from a trained model, hand
its vector to ``federate(start=...)``.

Sources: Li and Wang, "FedMD: Heterogeneous Federated Learning via Model Distillation", 2019 (scores).
Lin et al., "Ensemble Distillation for Robust Model Fusion in Federated Learning", NeurIPS 2020 (FedDF:
the server distils the mean of logits). Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015
(temperature).
"""

from collections.abc import Sequence

import numpy as np

from vfl.errors import InvalidData, TrainingDiverged
from vfl.horizontal.models import Network
from vfl.horizontal.optimisation import Local
from vfl.horizontal.vectors import Matrix, Vector, unflatten

__all__ = ["consensus", "distilled", "soft_gradient", "softmax"]


def softmax(scores: Matrix, temperature: float = 1.0) -> Matrix:
    """Return probabilities, shape (rows, classes)."""
    shifted = scores / temperature
    exponents = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def consensus(answers: Sequence[Matrix], weights: Sequence[float] | None = None) -> Matrix:
    """Return the weighted mean of the clients' scores on the public rows, shape (rows, classes)."""
    if not answers or len({answer.shape for answer in answers}) != 1:
        raise InvalidData("the clients' answers are one or more tables of scores of one shape")
    return np.asarray(np.average(np.stack(answers), axis=0, weights=weights))


def soft_gradient(model: Network, vector: Vector, X: Matrix, targets: Matrix, temperature: float) -> Vector:
    """Return the gradient of the mean cross-entropy to probabilities, times temperature squared."""
    arrays = unflatten(vector, model.shapes)
    scores = model.scores(vector, X)
    errors = temperature * (softmax(scores, temperature) - targets) / len(X)
    return model.backward(arrays, X, errors)


def distilled(
    model: Network,
    start: Vector,
    X: Matrix,
    scores: Matrix,
    local: Local,
    rng: np.random.Generator,
    temperature: float = 1.0,
) -> Vector:
    """Return the vector of a student after `local.steps` steps towards the teachers' scores.

    Parameters
    ----------
    model : Network
        A classifier with as many outputs as the scores have columns.
    start : ndarray of float64, shape (size,)
    X : ndarray of float64, shape (rows, features)
        Public rows.
    scores : ndarray of float64, shape (rows, classes)
        As :func:`consensus` gives them.
    local : Local
    rng : numpy.random.Generator
    temperature : float
        Of teacher and student.

    Raises
    ------
    InvalidData
        If shapes do not fit or the temperature is not positive.
    TrainingDiverged
        If the vector is not finite any more.
    """
    if scores.shape != (len(X), model.layers[-1]) or not temperature > 0:
        raise InvalidData(f"{len(X)} rows and {model.layers[-1]} outputs do not fit scores of {scores.shape}")
    targets, vector = softmax(scores, temperature), start.copy()
    for _ in range(local.steps):
        index = rng.permutation(len(X))[: local.batch or len(X)]
        vector -= local.rate * soft_gradient(model, vector, X[index], targets[index], temperature)
    if not np.isfinite(vector).all():
        raise TrainingDiverged(f"distillation left the range of float64; take a rate below {local.rate:g}")
    return vector
