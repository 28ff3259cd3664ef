"""Was this row in the training? From a model alone, which everybody who takes part receives.

* :func:`loss_attack`: rows that the model was trained on have a smaller loss.
* :func:`shadow_attack`: models trained on rows of the attacker's own show how outputs on trained rows differ from
  others; a classifier learns it there and judges the target's outputs.

Both give scores, larger for likelier members; :func:`auc` says what they are worth: 0.5 is a coin's toss. It is an
average over rows; single rows may be easier to recognise than the average one.

Sources: Yeom, Giacomelli, Fredrikson and Jha, "Privacy Risk in Machine Learning: Analyzing the Connection to
Overfitting", CSF 2018 (the loss against a threshold). Shokri, Stronati, Song and Shmatikov, "Membership Inference
Attacks Against Machine Learning Models", IEEE S&P 2017 (shadow models; there one attack model for each class, here one
for all, whose inputs are the sorted probabilities and that of the row's own class).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfl.errors import InvalidData
from vfl.horizontal.models import Network
from vfl.horizontal.vectors import Matrix, Rows, Vector

__all__ = ["auc", "loss_attack", "losses", "shadow_attack"]


def _probabilities(network: Network, vector: Vector, rows: Rows) -> tuple[Matrix, Vector]:
    """Return the probabilities of all classes, shape (rows, classes), and that of each row's own."""
    if network.classes is None:
        raise InvalidData("this attack takes a classifier")
    scores = network.scores(vector, rows.X)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    parts = powers / powers.sum(axis=1, keepdims=True)
    place = np.minimum(np.searchsorted(network.classes, rows.y), len(network.classes) - 1)
    if not np.array_equal(network.classes[place], rows.y):
        raise InvalidData("a row's label is none of the model's classes")
    return parts, parts[np.arange(len(rows)), place]


def losses(network: Network, vector: Vector, rows: Rows) -> Vector:
    """Return each row's log-loss, shape (rows,)."""
    return np.asarray(-np.log(np.maximum(_probabilities(network, vector, rows)[1], 1e-300)))


def loss_attack(network: Network, vector: Vector, rows: Rows) -> Vector:
    """Return scores, shape (rows,): the smaller the loss, the likelier a member."""
    return -losses(network, vector, rows)


def shadow_attack(
    network: Network,
    vector: Vector,
    rows: Rows,
    own: Rows,
    train: Callable[[Rows, int], Vector],
    count: int = 8,
    seed: int = 0,
) -> Vector:
    """Return scores, shape (rows,), by a classifier that has learned from shadow models.

    Parameters
    ----------
    network, vector : Network and ndarray of float64, shape (size,)
        The target.
    rows : Rows
        Those to judge.
    own : Rows
        The attacker's, of the same kind as the target's; each shadow model is trained on a random half.
    train : callable
        Returns the vector of a model trained on rows, from a seed: as the target was, as far as is known.
    count : int
        Shadow models.
    seed : int
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng, inputs, answers = np.random.default_rng(seed), [], []
    for number in range(count):
        order = rng.permutation(len(own))
        half = own.take(np.sort(order[: len(own) // 2]))
        shadow = train(half, seed + number)
        for part, answer in ((half, 1), (own.take(np.sort(order[len(own) // 2 :])), 0)):
            inputs.append(_outputs(network, shadow, part))
            answers += [answer] * len(part)
    scale = StandardScaler().fit(np.concatenate(inputs))
    judge = LogisticRegression(max_iter=1000).fit(scale.transform(np.concatenate(inputs)), answers)
    return np.asarray(judge.decision_function(scale.transform(_outputs(network, vector, rows))))


def _outputs(network: Network, vector: Vector, rows: Rows) -> Matrix:
    parts, own = _probabilities(network, vector, rows)
    seen = np.column_stack([np.sort(parts, axis=1)[:, ::-1][:, :3], own])
    return np.asarray(np.log(np.maximum(seen, 1e-12)))


def auc(members: NDArray[Any], others: NDArray[Any]) -> float:
    """Return the chance that a member's score is above another row's, ties counting half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, members, "left") + np.searchsorted(ordered, members, "right")
    return float(below.mean() / (2 * len(ordered)))
