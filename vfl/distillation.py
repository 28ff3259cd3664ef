"""What the guest of a one-shot transfer learns, all of it locally: its own model, a teacher, a student.

The own model sees the guest's columns of all its labelled rows. The teacher sees the common rows with a label, and
there the hosts' representations and the own model's score: it does not learn again from few rows what the guest knows
from many. It is a weighted sum of simple models; the weights are chosen on rows that these have not seen, and are not
negative (Wolpert, "Stacked generalization", Neural Networks 1992; Breiman, "Stacked regressions", Machine Learning
1996).
The student sees the guest's columns alone: of labelled rows the label, of common rows without one the teacher's
opinion (Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", arXiv 1503.02531, section 2; Lopez-Paz
et al., "Unifying distillation and privileged information", ICLR 2016, section 4, for a teacher with columns that the
student lacks). Opinions of rows whose label is known were tried as well: they did not help.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self, final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from vfl.trees import Trees, boosted, probabilities

__all__ = ["FOLDS", "Fold", "Shift", "Teacher", "cross_fitted", "student"]

FloatArray = NDArray[np.float64]
FOLDS = 5
PENALTIES = (10.0, 40.0, 160.0)
"""Of the squared weights of representations in the shifts: the inverse variances that they are expected to have."""
SLOPE_PENALTY = 2.0
"""Of the own score's weight being away from one."""
EQUAL = 100.0
"""How strongly the weights of the teacher's models are held to be equal: as by so many rows of much information."""


def logits(scores: FloatArray) -> FloatArray:
    """Return one column for each class: of the log odds of two classes, these and zeros."""
    return scores if scores.shape[1] > 1 else np.column_stack([np.zeros(len(scores)), scores])


def _misfit(scores: FloatArray, y: NDArray[np.int64]) -> tuple[float, FloatArray]:
    """Return the sum of log losses and its derivative by the scores."""
    every = logits(scores)
    chances, rows = probabilities(scores), np.arange(len(y))
    highest = every.max(axis=1)
    total = highest + np.log(np.exp(every - highest[:, None]).sum(axis=1)) - every[rows, y]
    chances[rows, y] -= 1.0
    return float(total.sum()), chances[:, -scores.shape[1] :]


def folds(y: FloatArray, seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return places of seen and of unseen rows, with like parts of each class."""
    yield from StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(np.zeros((len(y), 1)), y)


def cross_fitted(columns: FloatArray, y: FloatArray, seed: int) -> FloatArray:
    """Return each row's scores by boosted trees that have not seen its label, shape (rows, scores)."""
    found = [
        (unseen, boosted(columns[seen], y[seen]).scores(columns[unseen])) for seen, unseen in folds(y, seed)
    ]
    scores = np.empty((len(y), found[0][1].shape[1]))
    for unseen, part in found:
        scores[unseen] = part
    return scores


@final
@dataclass(frozen=True, eq=False)
class Shift:
    """A logistic regression over own scores and representations, shrunk to the own scores as they are.

    Attributes
    ----------
    bias : ndarray, shape (scores,)
    slope : float
        Of the own scores.
    weights : ndarray, shape (components, scores)
    """

    bias: FloatArray
    slope: float
    weights: FloatArray

    @classmethod
    def fit(cls, own: FloatArray, encoded: FloatArray, y: NDArray[np.int64], penalty: float) -> Self:
        """Learn from rows whose own scores are by models that have not seen them."""
        count, shape = own.shape[1], (encoded.shape[1], own.shape[1])
        start = np.zeros(count + 1 + encoded.shape[1] * count)
        start[count] = 1.0
        held = np.full(len(start), penalty)
        held[: count + 1] = [0.0] * count + [SLOPE_PENALTY]

        def loss(numbers: FloatArray) -> tuple[float, FloatArray]:
            parts, far = (
                cls(numbers[:count], float(numbers[count]), numbers[count + 1 :].reshape(shape)),
                numbers - start,
            )
            value, by_score = _misfit(parts.scores(own, encoded), y)
            back = [by_score.sum(axis=0), [(by_score * own).sum()], (encoded.T @ by_score).ravel()]
            return value + float((held * far**2).sum()) / 2, np.concatenate(back) + held * far

        found: FloatArray = minimize(loss, start, jac=True, method="L-BFGS-B").x
        return cls(found[:count], float(found[count]), found[count + 1 :].reshape(shape))

    def scores(self, own: FloatArray, encoded: FloatArray) -> FloatArray:
        """Return scores, shape (rows, scores)."""
        shifted: FloatArray = self.bias + self.slope * own + encoded @ self.weights
        return shifted


@final
@dataclass(frozen=True, eq=False)
class Fold:
    """The simple models of some of the common rows.

    Attributes
    ----------
    shifts : tuple of Shift
        One for each penalty.
    trees : tuple of Trees
        Over own scores, guest's columns and representations; without the columns; without the own scores.
    """

    shifts: tuple[Shift, ...]
    trees: tuple[Trees, ...]

    @classmethod
    def fit(cls, own: FloatArray, columns: FloatArray, encoded: FloatArray, y: FloatArray) -> Self:
        """Learn all of them."""
        places = y.astype(np.int64)
        shifts = tuple(Shift.fit(own, encoded, places, penalty) for penalty in PENALTIES)
        return cls(shifts, tuple(boosted(part, y) for part in cls.inputs(own, columns, encoded)))

    @staticmethod
    def inputs(own: FloatArray, columns: FloatArray, encoded: FloatArray) -> list[FloatArray]:
        """Return what each set of trees sees."""
        return [np.hstack(parts) for parts in ((own, columns, encoded), (own, encoded), (columns, encoded))]

    def opinions(self, own: FloatArray, columns: FloatArray, encoded: FloatArray) -> FloatArray:
        """Return the scores of every model, and the own ones last, shape (models, rows, scores)."""
        by_trees = zip(self.trees, self.inputs(own, columns, encoded), strict=True)
        shifted = [shift.scores(own, encoded) for shift in self.shifts]
        return np.stack([*shifted, *(trees.scores(part) for trees, part in by_trees), own])


MODELS = len(PENALTIES) + 4
"""Models of a fold, the own one included."""


@final
@dataclass(frozen=True, eq=False)
class Teacher:
    """The model of common rows: the weighted sum of simple models, in the mean over folds.

    Attributes
    ----------
    folds : tuple of Fold
    weights : ndarray, shape (models,)
        Not negative.
    """

    folds: tuple[Fold, ...]
    weights: FloatArray

    @classmethod
    def fit(cls, own: FloatArray, columns: FloatArray, encoded: FloatArray, y: FloatArray, seed: int) -> Self:
        """Learn from the common rows.

        Parameters
        ----------
        own : ndarray, shape (rows, scores)
            By own models that have not seen the row.
        columns : ndarray, shape (rows, guest columns)
        encoded : ndarray, shape (rows, components)
        y : ndarray, shape (rows,)
            Places of the classes.
        seed : int
            Of the folds.
        """
        with threadpool_limits(1, user_api="blas"):  # for so few numbers several threads wait for each other
            opinions, parts = np.empty((MODELS, *own.shape)), []
            for seen, unseen in folds(y, seed):
                parts.append(Fold.fit(own[seen], columns[seen], encoded[seen], y[seen]))
                opinions[:, unseen] = parts[-1].opinions(own[unseen], columns[unseen], encoded[unseen])
            weights = _stacked(opinions, y.astype(np.int64))
        return cls(tuple(parts), weights)

    def scores(self, own: FloatArray, columns: FloatArray, encoded: FloatArray) -> FloatArray:
        """Return scores, shape (rows, scores)."""
        every = [
            np.tensordot(self.weights, fold.opinions(own, columns, encoded), axes=1) for fold in self.folds
        ]
        mean: FloatArray = np.mean(every, axis=0)
        return mean


def _stacked(opinions: FloatArray, y: NDArray[np.int64]) -> FloatArray:
    """Return the weights with the least log loss on unseen rows, held to be equal."""
    equal = np.full(len(opinions), 1 / len(opinions))

    def loss(weights: FloatArray) -> tuple[float, FloatArray]:
        value, by_score = _misfit(np.tensordot(weights, opinions, axes=1), y)
        far = weights - equal
        return value + EQUAL / 2 * float(far @ far), np.tensordot(opinions, by_score, axes=2) + EQUAL * far

    bounds = [(0.0, None)] * len(equal)
    return np.asarray(minimize(loss, equal, jac=True, method="L-BFGS-B", bounds=bounds).x)


def student(columns: FloatArray, y: FloatArray, more: FloatArray, opinions: FloatArray) -> Trees:
    """Return boosted trees of the guest's columns, taught by labels and by the teacher.

    Parameters
    ----------
    columns : ndarray, shape (rows, guest columns)
    y : ndarray, shape (rows,)
        Places of the classes.
    more : ndarray, shape (other rows, guest columns)
    opinions : ndarray, shape (other rows, scores)
        What the teacher thinks of these: each comes once for each class, with the class's probability as weight.
    """
    chances = probabilities(opinions)
    classes = chances.shape[1]
    places = np.concatenate([y, np.repeat(np.arange(classes, dtype=np.float64), len(more))])
    weights = np.concatenate([np.ones(len(y)), chances.T.ravel()])
    return boosted(np.vstack([columns, *[more] * classes]), places, weights)
