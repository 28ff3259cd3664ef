"""What a host can tell about labels from all gradients that it has received, in all epochs.

Every attack takes gradients as :func:`received_gradients` arranges them, shape (epochs, rows, width), and returns a
number for each row, larger or smaller for one class: :func:`attack_auc` takes the better reading. Those that need
labels of some rows say so; they are judged on the other rows.

Sources: Li et al., "Label Leakage and Protection in Two-party Split Learning", ICLR 2022, arXiv 2102.08504 (norm and
direction); Sun et al., "Label Leakage and Protection from Forward Embedding in Vertical Federated Learning",
arXiv 2203.01451 (spectral); Fu et al., "Label Inference Attacks Against Vertical Federated Learning", USENIX Security
2022 (completion).
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfl.protocols import split
from vfl.protocols.channel import Record

__all__ = [
    "attack_auc",
    "average_attack",
    "cosine_attack",
    "direction_attack",
    "gradient_attacks",
    "head_attack",
    "learned_attack",
    "norm_attack",
    "received_gradients",
]

FloatArray = NDArray[np.float64]
Places = NDArray[np.int64]
KINDS = ("split.label_gradient", "split.row_gradient")


def received_gradients(view: Sequence[Record], plan: split.Plan) -> FloatArray:
    """Return the gradients in a host's view of a training, shape (epochs, rows, width).

    Parameters
    ----------
    view : sequence of Record
        Everything the host received: ``result.view(host)`` of a simulation.
    plan : Plan
        The host's ``plan_``.
    """
    messages: list[Any] = [record.message for record in view if record.kind in KINDS]
    return split.by_row([message.g for message in messages], plan).astype(np.float64)


def norm_attack(gradients: FloatArray) -> FloatArray:
    """Return the mean length of each row's gradient: those of the rarer class are longer."""
    lengths = np.linalg.norm(gradients, axis=2)
    return np.asarray((lengths / (lengths.mean(axis=1, keepdims=True) + 1e-30)).mean(axis=0))


def direction_attack(gradients: FloatArray) -> FloatArray:
    """Return the mean, over the epochs, of each row's place along the first principal axis of the epoch's gradients."""
    total = np.zeros(gradients.shape[1])
    for epoch in gradients:
        places = _along_first_axis(epoch)
        total += (
            -places if places @ total < 0 else places
        )  # an axis has no sign: take that of the epochs before
    return total


def average_attack(gradients: FloatArray) -> FloatArray:
    """Return each row's place along the first principal axis of its mean gradient: fresh noise averages out."""
    scale = np.linalg.norm(gradients, axis=2).mean(axis=1)[:, None, None]
    return _along_first_axis((gradients / (scale + 1e-30)).mean(axis=0))


def cosine_attack(gradients: FloatArray, known: Places, labels: Places) -> FloatArray:
    """Return the mean cosine with the gradients of known rows of class 1, less that with those of class 0.

    Parameters
    ----------
    gradients : ndarray
    known : ndarray of int, shape (known rows,)
    labels : ndarray of int, shape (known rows,)
        Theirs: 0 or 1.
    """
    units = gradients / (np.linalg.norm(gradients, axis=2, keepdims=True) + 1e-30)
    difference = units[:, known[labels == 1]].mean(axis=1) - units[:, known[labels == 0]].mean(axis=1)
    return np.asarray(np.einsum("erw,ew->r", units, difference))


def learned_attack(gradients: FloatArray, known: Places, labels: Places) -> FloatArray:
    """Return scores of a logistic regression on the lengths and places of a row's gradients, learned from known rows.

    Parameters are those of :func:`cosine_attack`.
    """
    lengths = np.linalg.norm(gradients, axis=2).T
    places = np.column_stack([_along_first_axis(epoch) for epoch in gradients])
    mean = np.column_stack([average_attack(gradients), places.mean(axis=1), lengths.mean(axis=1)])
    features = np.column_stack([lengths, places, mean])
    return head_attack(features, known, labels)[:, 1]


def head_attack(columns: FloatArray, known: Places, labels: Places) -> FloatArray:
    """Return class probabilities of a head that is trained on columns of known rows and, next, on its own answers.

    Model completion: the columns are embeddings by the host's trained bottom network. With the host's columns as they
    are it is the control: what a host can learn from as many labels without any training.

    Parameters
    ----------
    columns : ndarray, shape (rows, columns)
    known : ndarray of int, shape (known rows,)
    labels : ndarray of int, shape (known rows,)

    Returns
    -------
    ndarray, shape (rows, classes)
    """
    from sklearn.linear_model import LogisticRegression

    deviation = columns.std(axis=0)
    standard = (columns - columns.mean(axis=0)) / np.where(deviation > 1e-12, deviation, 1.0)
    standard = np.clip(standard, -5, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = LogisticRegression(C=0.1, max_iter=200).fit(standard[known], labels).predict_proba(standard)
        sure = np.argsort(-found.max(axis=1))[: len(found) // 5]
        answers = np.concatenate([labels, np.unique(labels)[found[sure].argmax(axis=1)]])
        rows = np.concatenate([known, sure])
        weights = np.concatenate([np.ones(len(known)), np.full(len(sure), len(known) / len(sure))])
        head = LogisticRegression(C=0.1, max_iter=200).fit(standard[rows], answers, weights)
    return np.asarray(head.predict_proba(standard))


def attack_auc(scores: FloatArray, labels: Places) -> float:
    """Return the AUC of scores of two classes, whichever way round is better; never below 0.5."""
    from sklearn.metrics import roc_auc_score

    area = float(roc_auc_score(labels, scores))
    return max(area, 1 - area)


def gradient_attacks(gradients: FloatArray, labels: Places, known: Places) -> dict[str, float]:
    """Return the AUC of each attack on gradients.

    Parameters
    ----------
    gradients : ndarray, shape (epochs, rows, width)
    labels : ndarray of int, shape (rows,)
        0 or 1; the attacks use those of the known rows at most.
    known : ndarray of int
        Rows whose labels the host knows.
    """
    others = np.setdiff1d(np.arange(len(labels)), known)
    scores = {
        "norm": norm_attack(gradients),
        "direction": direction_attack(gradients),
        "average": average_attack(gradients),
        "cosine": cosine_attack(gradients, known, labels[known]),
        "learned": learned_attack(gradients, known, labels[known]),
    }
    return {name: attack_auc(found[others], labels[others]) for name, found in scores.items()}


def _along_first_axis(rows: FloatArray) -> FloatArray:
    """Return each row's place along the first principal axis, in standard deviations."""
    centred = rows - rows.mean(axis=0)
    axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    places = centred @ axis
    return np.asarray(places / (places.std() + 1e-30))
