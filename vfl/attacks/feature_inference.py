"""What a guest can tell about a host's columns: from scores of a model that it knows, and from embeddings.

Sources: Luo et al., "Feature Inference Attack on Model Predictions in Vertical Federated Learning", ICDE 2021,
arXiv 2010.10152 (equality solving, generative regression; the adversary knows all weights of the model).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfl.extras import load_torch
from vfl.neural.backend import draw, perceptron
from vfl.protocols import split
from vfl.protocols.channel import Record

__all__ = [
    "contrasts",
    "equality_solving",
    "explained",
    "generative_regression",
    "received_embeddings",
    "regression_attack",
]

FloatArray = NDArray[np.float64]
Places = NDArray[np.int64]


def received_embeddings(view: Sequence[Record], host: str, plan: split.Plan) -> FloatArray:
    """Return a host's embeddings of the training rows in the guest's view, shape (epochs, rows, width)."""
    messages: list[Any] = [
        record.message for record in view if record.kind == "split.embedding" and record.peer == host
    ]
    return split.by_row([message.z for message in messages[: plan.steps]], plan).astype(np.float64)


def contrasts(probabilities: FloatArray) -> FloatArray:
    """Return what class probabilities say of linear scores: the log of each less that of the last one."""
    logs = np.log(np.maximum(probabilities, np.finfo(float).tiny))
    return np.asarray(logs[:, :-1] - logs[:, -1:])


def equality_solving(
    scores: FloatArray, own: FloatArray, own_weights: FloatArray, weights: FloatArray, intercept: FloatArray
) -> FloatArray:
    """Return the host's columns as the shortest solution of the equations that linear scores are.

    Exact if there are as many independent scores as the host has columns.

    Parameters
    ----------
    scores : ndarray, shape (rows, scores)
        Linear scores; of several classes, see :func:`contrasts`.
    own : ndarray, shape (rows, own columns)
        The adversary's columns.
    own_weights : ndarray, shape (scores, own columns)
    weights : ndarray, shape (scores, host columns)
        Those of the host, which the adversary has to know.
    intercept : ndarray, shape (scores,)

    Returns
    -------
    ndarray, shape (rows, host columns)
    """
    rest = scores - own @ own_weights.T - intercept
    return np.asarray(rest @ np.linalg.pinv(weights).T)


def generative_regression(
    probabilities: FloatArray,
    own: FloatArray,
    model: Callable[[Any, Any], Any],
    columns: int,
    *,
    epochs: int = 60,
    seed: int = 0,
) -> FloatArray:
    """Return the host's columns as a generator makes them up so that the model gives the probabilities that it gave.

    Parameters
    ----------
    probabilities : ndarray, shape (rows, classes)
        What the model said of each row.
    own : ndarray, shape (rows, own columns)
    model : callable
        The whole model in PyTorch, (own columns, host columns) -> probabilities: the adversary knows it.
    columns : int
        How many the host has; they are taken to be standardised.
    epochs, seed : int

    Returns
    -------
    ndarray, shape (rows, columns)
    """
    torch, rng = load_torch(), np.random.default_rng(seed)
    generator = perceptron(own.shape[1] + columns, (64, 32), columns)
    draw(generator, seed)
    said, known = (torch.from_numpy(np.asarray(part, np.float32)) for part in (probabilities, own))
    chance = torch.from_numpy(rng.normal(size=(len(own), columns)).astype(np.float32))
    optimiser = torch.optim.Adam(generator.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(len(own)), max(1, len(own) // 128)):
            made = generator(torch.cat([known[rows], chance[rows]], dim=1))
            loss = (model(known[rows], made) - said[rows]).square().sum(dim=1).mean()
            loss = loss + 0.01 * (made.var(dim=0) - 1).clamp(min=0).mean()  # no wider than columns are
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        return np.asarray(generator(torch.cat([known, chance], dim=1)).numpy(), np.float64)


def regression_attack(received: FloatArray, known: Places, values: FloatArray) -> FloatArray:
    """Return the host's columns as a smooth function of what was received, learned from rows of known columns.

    Parameters
    ----------
    received : ndarray, shape (rows, numbers)
        Embeddings, scores, or several of them side by side.
    known : ndarray of int, shape (known rows,)
        At most a few thousand.
    values : ndarray, shape (known rows, host columns)

    Returns
    -------
    ndarray, shape (rows, host columns)
    """
    from sklearn.kernel_ridge import KernelRidge

    deviation = received.std(axis=0)
    standard = (received - received.mean(axis=0)) / np.where(deviation > 1e-12, deviation, 1.0)
    cut = 3 * len(known) // 4
    best: tuple[float, Any] = (-np.inf, None)
    for penalty in (0.01, 0.1, 1.0, 10.0):
        for width in (0.03, 0.2):
            made = KernelRidge(kernel="rbf", gamma=width / standard.shape[1], alpha=penalty)
            centre = values[:cut].mean(axis=0)
            made.fit(standard[known[:cut]], values[:cut] - centre)
            missing = values[cut:] - made.predict(standard[known[cut:]]) - centre
            best = max(best, (-float(np.square(missing).sum()), made), key=lambda pair: pair[0])
    centre = values.mean(axis=0)
    return np.asarray(best[1].fit(standard[known], values - centre).predict(standard) + centre)


def explained(values: FloatArray, estimates: FloatArray) -> FloatArray:
    """Return the share of each column's variance that estimates explain: 1 is exact, 0 no better than its mean."""
    missing = ((values - estimates) ** 2).mean(axis=0)
    return np.asarray(1 - missing / np.maximum(values.var(axis=0), 1e-30))
