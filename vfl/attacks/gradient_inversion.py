"""From a gradient back to the rows: label recovery, exact inversion of a dense layer, and DLG.

An update of FedSGD (one local step) is minus the step size times the mean gradient over the rows, so whoever sees it
holds the gradient. Three ways back, from exact to general:

* :func:`recovered_label`: of one row the derivative by the intercepts of the last layer is softmax(z) - onehot(y),
  which is negative at the label alone (iDLG).
* :func:`dense_input`: of one row the derivative by the weights of the first layer is the row times that by its
  intercepts, so a division gives the row, exactly, after any number of local steps.
* :func:`deep_leakage`: rows and labels are moved until their gradient is the one that was seen (DLG), up to about
  :func:`capacity` rows, of however many clients.

Sources: Zhu, Liu and Han, "Deep Leakage from Gradients", NeurIPS 2019 (algorithm 1; soft labels, L-BFGS). Zhao, Mopuri
and Bilen, "iDLG: Improved Deep Leakage from Gradients", 2020 (arXiv 2001.02610). Phong et al., "Privacy-Preserving Deep
Learning via Additively Homomorphic Encryption", IEEE TIFS 2018 (the division).
"""

from dataclasses import dataclass

import numpy as np

from vfl.errors import InvalidData
from vfl.horizontal.models import Network
from vfl.horizontal.optimisation import Local
from vfl.horizontal.vectors import Matrix, Vector, flatten, unflatten

__all__ = ["Inverted", "capacity", "deep_leakage", "dense_input", "gradient_of", "psnr", "recovered_label"]

STEP = 1e-5  # of central differences, as a part of the weights' length


@dataclass(frozen=True, eq=False)
class Inverted:
    """What :func:`deep_leakage` found.

    Attributes
    ----------
    X : ndarray of float64, shape (rows, features)
    labels : ndarray of float64, shape (rows, classes)
        Parts of 1.
    mismatch : float
        Squared distance of their gradient to the one that was seen, over the latter's squared length: 0 explains
        it all.
    """

    X: Matrix
    labels: Matrix
    mismatch: float


def gradient_of(update: Vector, local: Local) -> Vector:
    """Return the mean gradient of a client's local steps, which its update gives away."""
    return np.asarray(-update / (local.rate * local.steps))


def recovered_label(network: Network, gradient: Vector) -> int:
    """Return the place among the classes of the one row's label.

    Raises
    ------
    InvalidData
        If the network is a regression.
    """
    if network.classes is None:
        raise InvalidData("a regression has no classes")
    return int(unflatten(gradient, network.shapes)[-1].argmin())


def dense_input(network: Network, gradient: Vector) -> Vector:
    """Return the one row behind a gradient, shape (features,); of several rows a mixture of them.

    The least-squares solution of weights' derivative = row times intercepts' derivative, over all units of the layer.
    """
    weights, intercepts = unflatten(gradient, network.shapes)[:2]
    length = float(intercepts @ intercepts)
    return np.asarray(weights @ intercepts / length) if length > 0 else np.zeros(len(weights))


def capacity(network: Network) -> int:
    """Return the most rows that a gradient has enough numbers for: one for each feature and each class of a row."""
    return network.size // (network.layers[0] + network.layers[-1])


def deep_leakage(
    network: Network,
    vector: Vector,
    gradient: Vector,
    rows: int,
    rng: np.random.Generator,
    box: tuple[float, float] = (0.0, 1.0),
    steps: int = 1000,
) -> Inverted:
    """Return rows and labels whose mean gradient is as near as possible to the one that was seen.

    Parameters
    ----------
    network : Network
        A classifier; twice differentiable activations ("tanh", "logistic") are the method's.
    vector : ndarray of float64, shape (size,)
        The model that the gradient was taken at.
    gradient : ndarray of float64, shape (size,)
    rows : int
        How many there are; unknown ones are tried from 1 on.
    rng : numpy.random.Generator
        Draws where the search begins.
    box : tuple of float
        Range of the features, as far as the attacker knows it.
    steps : int
        Most steps of L-BFGS.

    Notes
    -----
    The derivative of the mismatch needs one of the gradient by the rows: that of the rows' derivative along a direction
    of the weights, here by central differences (Pearlmutter, "Fast Exact Multiplication by the Hessian", 1994).
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    features, classes = network.layers[0], network.layers[-1]
    cut = rows * features
    if network.classes is None or rows < 1 or not gradient.any():
        raise InvalidData("this takes a classifier, one or more rows and a gradient that is not zero")
    middle, half = (box[0] + box[1]) / 2, min(1.0, (box[1] - box[0]) / 2)
    start = np.concatenate(
        [rng.uniform(middle - half, middle + half, cut), rng.normal(0.0, 0.1, rows * classes)]
    )
    limits = [box] * cut + [(-20.0, 20.0)] * (rows * classes)
    options = {"maxiter": steps, "maxfun": 2 * steps, "maxcor": 30, "ftol": 1e-16, "gtol": 1e-12}
    with threadpool_limits(1):  # the matrices are small: threads would wait for each other
        found = minimize(
            _cost,
            start,
            (network, vector, gradient, rows),
            jac=True,
            method="L-BFGS-B",
            bounds=limits,
            options=options,
        )
    return Inverted(
        found.x[:cut].reshape(rows, features),
        _softmax(found.x[cut:].reshape(rows, classes)),
        float(found.fun),
    )


def _cost(
    flat: Vector, network: Network, vector: Vector, gradient: Vector, rows: int
) -> tuple[float, Vector]:
    """Return the mismatch and its derivative by the rows and the logits of their labels."""
    features, classes = network.layers[0], network.layers[-1]
    X, logits = (
        flat[: rows * features].reshape(rows, features),
        flat[rows * features :].reshape(rows, classes),
    )
    apart = _gradient(network, vector, X, _softmax(logits)) - gradient
    norm, length = float(np.linalg.norm(apart)), float(gradient @ gradient)
    if norm == 0.0:
        return 0.0, np.zeros_like(flat)
    width = STEP * (1.0 + float(np.linalg.norm(vector)))
    move = width * apart / norm
    ahead, behind = (_by_rows(network, vector + sign * move, X, logits) for sign in (1.0, -1.0))
    return norm**2 / length, np.asarray(norm / width / length * (ahead - behind))


def _softmax(scores: Matrix) -> Matrix:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _gradient(network: Network, vector: Vector, X: Matrix, labels: Matrix) -> Vector:
    """Return the mean gradient with labels that are parts of 1."""
    errors = (_softmax(network.scores(vector, X)) - labels) / len(X)
    return network.backward(unflatten(vector, network.shapes), X, errors)


def _by_rows(network: Network, vector: Vector, X: Matrix, logits: Matrix) -> Vector:
    """Return the derivative of the loss by rows and label logits."""
    labels, scores = _softmax(logits), network.scores(vector, X)
    rows = network.by_rows(unflatten(vector, network.shapes), X, (_softmax(scores) - labels) / len(X))
    slope = labels * ((labels * scores).sum(axis=1, keepdims=True) - scores) / len(X)
    return flatten([rows, slope])


def psnr(found: Matrix, truth: Matrix, peak: float = 1.0) -> float:
    """Return the peak signal-to-noise ratio in dB: 10 log10(peak^2 / mean squared error), at most 100."""
    error = float(((np.asarray(found) - truth) ** 2).mean())
    return float(10 * np.log10(peak**2 / max(error, 1e-10 * peak**2)))
