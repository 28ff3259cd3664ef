"""Linear and logistic regression over two parties' columns, with scikit-learn's shape.

Both parties make the same estimator and call the same methods; the guest passes labels, the host does not. The training
protocol is the classic gradient exchange (:mod:`vfl.protocols.gradient`), which leaks ``score`` to the guest and
``gradient`` to the host and therefore runs only when both configurations accept that.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit
from sklearn.metrics import r2_score
from sklearn.utils.class_weight import compute_class_weight

from vfl import data
from vfl.errors import InvalidData
from vfl.generalised import GeneralisedLinear, Side

__all__ = ["LinearRegression", "LogisticRegression"]

FloatArray = NDArray[np.float64]


class LogisticRegression(GeneralisedLinear):
    """Binary logistic regression over both parties' columns.

    Parameters
    ----------
    C : float
        Inverse strength of the L2 penalty on standardised weights, as in scikit-learn.
    max_iter : int
        Epochs at most. Each epoch opens each row's host score once more: see Leakage.
    batch_size : int, "auto" or None
        Rows per batch; ``"auto"`` takes a sixth of the rows, 256 to 4096; None takes all.
    learning_rate : float
        Step in units of the inverse curvature; 0.5 is safe for two whitened blocks.
    momentum : float
        Of Nesterov's method.
    tol : float
        Relative improvement of the loss below which an epoch counts as none.
    n_iter_no_change : int
        Epochs without improvement that end the training.
    early_stopping : bool
        Watch the loss on held-out rows (the last `validation_fraction` of them) instead of the training loss.
    validation_fraction : float
    class_weight : dict, "balanced" or None
        The guest's; the host leaves it None.
    security : {"exchange"}
        The classic gradient exchange; it needs ``accept_leakage = ["score", "gradient"]`` on both sides.
    he : {"ckks", "paillier"}
        Encryption of the residuals.
    key_bits : int
        Paillier modulus in bits, at least 2048.

    Attributes
    ----------
    coef_ : ndarray, shape (own columns,)
        This party's weights in the units of its own columns.
    intercept_ : float
        This party's part of the intercept.
    classes_ : ndarray, shape (2,)
        At the guest.
    loss_curve_, n_iter_, converged_
        At the guest.

    Leakage
    -------
    See :meth:`fit` and docs/leakage.md.
    """

    _curvature = 0.25
    classes_: NDArray[Any]

    def __init__(
        self,
        *,
        C: float = 1.0,
        max_iter: int = 8,
        batch_size: int | Literal["auto"] | None = "auto",
        learning_rate: float = 0.5,
        momentum: float = 0.5,
        tol: float = 1e-3,
        n_iter_no_change: int = 1,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        security: Literal["exchange"] = "exchange",
        he: Literal["ckks", "paillier"] = "ckks",
        key_bits: int = 3072,
    ) -> None:
        self.C = C
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.class_weight = class_weight
        self.security = security
        self.he = he
        self.key_bits = key_bits

    def predict_proba(self, X: Any) -> Any:
        """Return class probabilities, shape (rows, 2), at the guest; the host calls it too and gets None.

        Leakage
        -------
        The guest learns the host's part of each row's score.
        """
        scores = self._scores(X, "predict_proba")
        return None if scores is None else np.column_stack([expit(-scores), expit(scores)])

    def decision_function(self, X: Any) -> Any:
        """Return the joint scores, shape (rows,), at the guest; None at the host."""
        return self._scores(X, "decision_function")

    def predict(self, X: Any) -> Any:
        """Return the likelier class of each row at the guest; None at the host."""
        scores = self._scores(X, "predict")
        return None if scores is None else self.classes_[(scores > 0).astype(int)]

    def score(self, X: Any, y: Any = None) -> float | None:
        """Return the accuracy at the guest; None at the host."""
        predicted = self.predict(X)
        return None if predicted is None else float(np.mean(predicted == np.asarray(y)))

    def _labelled(self, y: Any, weights: FloatArray, rows: int, party: str) -> Side:
        labels = data.labels(y, party, rows=rows)
        self.classes_ = labels.classes
        if self.class_weight is not None:
            original = labels.classes[labels.encoded.astype(int)]
            per_class = compute_class_weight(self.class_weight, classes=labels.classes, y=original)
            weights = weights * per_class[labels.encoded.astype(int)]
        weights = weights / weights.mean()
        return Side(labels.encoded, weights, expit, _log_loss, largest=float(weights.max()))

    def _regularisation(self) -> dict[str, float]:
        if not self.C > 0:
            raise ValueError("C must be positive")
        return {"C": self.C}

    def _strength(self, rows: int) -> float:
        return 1 / (self.C * rows)


class LinearRegression(GeneralisedLinear):
    """Least squares (ridge with ``alpha > 0``) over both parties' columns.

    Parameters
    ----------
    alpha : float
        Strength of the L2 penalty on standardised weights, as scikit-learn's ``Ridge``.
    max_iter, batch_size, learning_rate, momentum, tol, n_iter_no_change, early_stopping, validation_fraction
        As for :class:`LogisticRegression`; all rows at once by default.
    security, he, key_bits
        As for :class:`LogisticRegression`.

    Attributes
    ----------
    coef_, intercept_
        This party's part. The host's are in units of the target's standard deviation, which the guest keeps to itself.

    Leakage
    -------
    See :meth:`fit` and docs/leakage.md.
    """

    _curvature = 1.0
    target_mean_: float
    target_scale_: float

    def __init__(
        self,
        *,
        alpha: float = 0.0,
        max_iter: int = 30,
        batch_size: int | Literal["auto"] | None = None,
        learning_rate: float = 0.5,
        momentum: float = 0.5,
        tol: float = 1e-5,
        n_iter_no_change: int = 1,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        security: Literal["exchange"] = "exchange",
        he: Literal["ckks", "paillier"] = "ckks",
        key_bits: int = 3072,
    ) -> None:
        self.alpha = alpha
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.security = security
        self.he = he
        self.key_bits = key_bits

    def predict(self, X: Any) -> Any:
        """Return the predicted targets, shape (rows,), at the guest; the host calls it too and gets None.

        Leakage
        -------
        The guest learns the host's part of each row's prediction.
        """
        scores = self._scores(X, "predict")
        return None if scores is None else self.target_mean_ + self.target_scale_ * scores

    def score(self, X: Any, y: Any = None) -> float | None:
        """Return R^2 at the guest; None at the host."""
        predicted = self.predict(X)
        return None if predicted is None else float(r2_score(y, predicted))

    def _labelled(self, y: Any, weights: FloatArray, rows: int, party: str) -> Side:
        targets = data.targets(y, party, rows=rows)
        self.target_mean_, self.target_scale_ = float(targets.mean()), float(targets.std())
        if self.target_scale_ == 0:
            raise InvalidData(f"{party}: all targets are equal; there is nothing to learn")
        standard = (targets - self.target_mean_) / self.target_scale_
        weights = weights / weights.mean()
        largest = 2 * float(
            np.max(weights * np.abs(standard))
        )  # scores overshoot while they approach the targets
        return Side(standard, weights, lambda z: z, lambda z, t: (z - t) ** 2 / 2, largest)

    def _regularisation(self) -> dict[str, float]:
        if not self.alpha >= 0:
            raise ValueError("alpha must not be negative")
        return {"alpha": self.alpha}

    def _strength(self, rows: int) -> float:
        return self.alpha / rows


def _log_loss(scores: FloatArray, y: FloatArray) -> FloatArray:
    loss: FloatArray = -(y * log_expit(scores) + (1 - y) * log_expit(-scores))
    return loss
