"""Boosted trees as arrays: grown by scikit-learn, evaluated and stored here.

scikit-learn's own objects can be stored by pickle alone, which runs code when it is read. Here a set of trees is eight
arrays that can be checked.
"""

from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

__all__ = ["Trees", "boosted", "probabilities"]

FloatArray = NDArray[np.float64]
Places = NDArray[np.int64]
FEW_ROWS = 5_000
"""Below, trees are shallow."""
MANY_ROWS = 50_000
"""Below, one thread grows them: several wait for each other, on busy processors a hundred times as long."""
_PIECE = 4_096


def probabilities(scores: FloatArray) -> FloatArray:
    """Return probabilities, shape (rows, classes); one column of scores is the log odds of two classes."""
    if scores.shape[1] > 1:
        return np.asarray(softmax(scores, axis=1))
    return np.column_stack([expit(-scores[:, 0]), expit(scores[:, 0])])


@final
@dataclass(frozen=True, eq=False)
class Trees:
    """Boosted trees: a score is a baseline and one leaf's value of each tree.

    Attributes
    ----------
    columns : int
    baseline : ndarray, shape (scores,)
        One score for two classes, else one for each class.
    roots : ndarray of int64, shape (trees,)
        First nodes, ascending; the trees serve the scores in turn.
    feature : ndarray of int64, shape (nodes,)
        Column that a node looks at; -1 at a leaf.
    threshold : ndarray, shape (nodes,)
        A row goes left if its value is at most this.
    left, right : ndarray of int64, shape (nodes,)
        Next nodes; a leaf's are the leaf.
    value : ndarray, shape (nodes,)
        What a leaf adds.
    """

    columns: int
    baseline: FloatArray
    roots: Places
    feature: Places
    threshold: FloatArray
    left: Places
    right: Places
    value: FloatArray

    @classmethod
    def of(cls, model: Any) -> Self:
        """Return the trees of a fitted HistGradientBoostingClassifier whose columns are numbers without gaps."""
        grown = [tree.nodes for step in model._predictors for tree in step]
        roots = np.cumsum([0] + [len(nodes) for nodes in grown[:-1]])
        nodes, offset = np.concatenate(grown), np.repeat(roots, [len(tree) for tree in grown])
        leaf, itself = nodes["is_leaf"].astype(bool), np.arange(len(nodes))
        left, right = (
            np.where(leaf, itself, nodes[side].astype(np.int64) + offset) for side in ("left", "right")
        )
        return cls(
            columns=int(model.n_features_in_),
            baseline=np.asarray(model._baseline_prediction, dtype=np.float64).ravel(),
            roots=roots,
            feature=np.where(leaf, -1, nodes["feature_idx"].astype(np.int64)),
            threshold=np.where(leaf, 0.0, nodes["num_threshold"]),
            left=left,
            right=right,
            value=np.where(leaf, nodes["value"], 0.0),
        )

    def fits(self, columns: int, scores: int) -> bool:
        """Return whether every path over rows of so many columns ends at a leaf, and there are so many scores."""
        count, itself = len(self.feature), np.arange(len(self.feature))
        lengths = {len(part) for part in (self.threshold, self.left, self.right, self.value)}
        if (
            lengths != {count}
            or not count
            or len(self.roots) < 1
            or (self.roots[0], self.columns) != (0, columns)
        ):
            return False
        sizes = np.diff(self.roots, append=count)
        if (sizes <= 0).any():
            return False
        last = np.repeat(self.roots + sizes, sizes)
        leaf = self.feature == -1
        return bool(
            len(self.baseline) == scores
            and len(self.roots) % scores == 0
            and ((self.feature >= -1) & (self.feature < columns)).all()
            and all(((side > itself) & (side < last))[~leaf].all() for side in (self.left, self.right))
            and all((side == itself)[leaf].all() for side in (self.left, self.right))
            and all(np.isfinite(part).all() for part in (self.baseline, self.threshold, self.value))
        )

    def scores(self, values: FloatArray) -> FloatArray:
        """Return log odds, shape (rows, 1), or for more classes what softmax takes, shape (rows, classes)."""
        pieces = [self._scores(values[at : at + _PIECE]) for at in range(0, len(values), _PIECE)]
        return np.vstack(pieces)

    def _scores(self, values: FloatArray) -> FloatArray:
        rows = np.arange(len(values))[:, None]
        places = np.broadcast_to(self.roots, (len(values), len(self.roots)))
        while (inner := self.feature[places] >= 0).any():
            below = values[rows, np.where(inner, self.feature[places], 0)] <= self.threshold[places]
            places = np.where(below, self.left[places], self.right[places])
        steps = self.value[places].reshape(len(values), -1, len(self.baseline))
        total: FloatArray = self.baseline + steps.sum(axis=1)
        return total if total.shape[1] == 1 else total - total.mean(axis=1, keepdims=True)

    def predict_proba(self, values: FloatArray) -> FloatArray:
        """Return probabilities, shape (rows, classes)."""
        return probabilities(self.scores(np.asarray(values, dtype=np.float64)))


def boosted(columns: FloatArray, y: FloatArray, weights: FloatArray | None = None) -> Trees:
    """Return boosted trees of a size that suits the number of rows.

    Parameters
    ----------
    columns : ndarray, shape (rows, columns)
    y : ndarray, shape (rows,)
        Places of the classes, all of which occur.
    weights : ndarray, shape (rows,), optional
    """
    few = len(columns) < FEW_ROWS
    model = HistGradientBoostingClassifier(
        max_iter=40 if few else 50,
        max_depth=2 if few else 5,
        l2_regularization=1.0,
        min_samples_leaf=20,
        early_stopping=False,
        random_state=0,
    )
    with threadpool_limits(1 if len(columns) < MANY_ROWS else None, user_api="openmp"):
        return Trees.of(model.fit(columns, y, sample_weight=weights))
