"""What the guest of a one-shot transfer learns, all of it locally: its own model, a teacher, a student.

The own model sees the guest's columns of all its labelled rows. The teacher sees the common rows only, and there the
hosts' representations and the own model's score: it does not learn again from few rows what the guest knows from many.
The student sees the guest's columns of all rows, and on common rows also the teacher's opinion (Hinton, Vinyals,
Dean, "Distilling the knowledge in a neural network", arXiv 1503.02531, section 2; Lopez-Paz et al., "Unifying
distillation and privileged information", ICLR 2016, section 4, for a teacher with columns that the student lacks).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold

__all__ = ["FOLDS", "Teacher", "boosted", "cross_fitted", "score", "student"]

FloatArray = NDArray[np.float64]
FOLDS = 5
FEW_ROWS = 5_000
"""Below, trees are shallow."""
PENALTY = 40.0
"""Of the squared weights of representations: the inverse variance that they are expected to have."""
TRUST = 2.0
"""Of the own model's score having weight one in the teacher."""
HALFWAY = 1_500
"""Common rows with which the teacher's trees count as much as its shift of the own score."""
_EDGE = 1e-6


def boosted(columns: FloatArray, y: FloatArray, weights: FloatArray | None = None) -> Any:
    """Return boosted trees of a size that suits the number of rows."""
    few = len(columns) < FEW_ROWS
    model = HistGradientBoostingClassifier(
        max_iter=40 if few else 50,
        max_depth=2 if few else 5,
        l2_regularization=1.0,
        min_samples_leaf=20,
        early_stopping=False,
        random_state=0,
    )
    return model.fit(columns, y, sample_weight=weights)


def score(model: Any, columns: FloatArray) -> FloatArray:
    """Return log odds, shape (rows,)."""
    odds: FloatArray = logit(np.clip(model.predict_proba(columns)[:, 1], _EDGE, 1 - _EDGE))
    return odds


def _folds(y: FloatArray, seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    yield from StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(np.zeros((len(y), 1)), y)


def cross_fitted(columns: FloatArray, y: FloatArray, seed: int) -> FloatArray:
    """Return each row's score by boosted trees that have not seen its label, shape (rows,)."""
    scores = np.empty(len(y))
    for seen, unseen in _folds(y, seed):
        scores[unseen] = score(boosted(columns[seen], y[seen]), columns[unseen])
    return scores


def _shift(own: FloatArray, encoded: FloatArray, y: FloatArray) -> FloatArray:
    """Return the weights of (1, own score, representations) in a logistic regression, shrunk to (0, 1, 0)."""
    design = np.column_stack([np.ones(len(own)), own, encoded])
    target = np.zeros(design.shape[1])
    target[1] = 1.0
    penalty = np.full(design.shape[1], PENALTY)
    penalty[:2] = 0.0, TRUST

    def loss(weights: FloatArray) -> tuple[float, FloatArray]:
        z, far = design @ weights, weights - target
        value = np.logaddexp(0, z).sum() - y @ z + (penalty * far**2).sum() / 2
        return float(value), design.T @ (expit(z) - y) + penalty * far

    found: FloatArray = minimize(loss, target, jac=True, method="L-BFGS-B").x
    return found


@final
@dataclass(frozen=True, eq=False)
class Teacher:
    """The model of common rows: a shift of the own score, and boosted trees, whose weight grows with the rows.

    Attributes
    ----------
    shift : ndarray, shape (2 + components,)
    trees : classifier
        Over the own score, the guest's columns and the representations.
    mixture : float
        Weight of the trees' score.
    """

    shift: FloatArray
    trees: Any
    mixture: float

    @classmethod
    def fit(
        cls, own: FloatArray, columns: FloatArray, encoded: FloatArray, y: FloatArray, seed: int
    ) -> tuple[Self, FloatArray]:
        """Learn from the common rows; return the teacher and each row's score by teachers that have not seen it.

        Parameters
        ----------
        own : ndarray, shape (rows,)
            Scores by own models that have not seen the row.
        columns : ndarray, shape (rows, guest columns)
        encoded : ndarray, shape (rows, components)
        y : ndarray, shape (rows,)
            0 or 1.
        seed : int
            Of the folds.
        """
        opinions = np.empty(len(y))
        for seen, unseen in _folds(y, seed):
            fold = cls._of(own[seen], columns[seen], encoded[seen], y[seen])
            opinions[unseen] = fold.score(own[unseen], columns[unseen], encoded[unseen])
        return cls._of(own, columns, encoded, y), opinions

    @classmethod
    def _of(cls, own: FloatArray, columns: FloatArray, encoded: FloatArray, y: FloatArray) -> Self:
        trees = boosted(np.column_stack([own, columns, encoded]), y)
        return cls(_shift(own, encoded, y), trees, len(y) / (len(y) + HALFWAY))

    def score(self, own: FloatArray, columns: FloatArray, encoded: FloatArray) -> FloatArray:
        """Return log odds, shape (rows,)."""
        shifted = np.column_stack([np.ones(len(own)), own, encoded]) @ self.shift
        trees = score(self.trees, np.column_stack([own, columns, encoded]))
        scores: FloatArray = (1 - self.mixture) * shifted + self.mixture * trees
        return scores


def student(columns: FloatArray, y: FloatArray, opinions: FloatArray, trust: float) -> Any:
    """Return boosted trees of the guest's columns, taught by labels and, on common rows, by the teacher.

    Parameters
    ----------
    columns : ndarray, shape (rows, guest columns)
        The common rows first.
    y : ndarray, shape (rows,)
    opinions : ndarray, shape (common rows,)
        The teacher's scores of them, each by a teacher that has not seen the row's label.
    trust : float
        Weight of an opinion; the label has the rest.
    """
    believed = y.copy()
    common = len(opinions)
    believed[:common] = (1 - trust) * y[:common] + trust * expit(opinions)
    soft = np.flatnonzero((believed > 0) & (believed < 1))  # rows with two opinions come twice
    rows = np.concatenate([np.arange(len(y)), soft])
    labels = np.concatenate([believed >= 0.5, believed[soft] < 0.5]).astype(np.float64)
    weights = np.concatenate([np.maximum(believed, 1 - believed), np.minimum(believed, 1 - believed)[soft]])
    return boosted(columns[rows], labels, weights)
