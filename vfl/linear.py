"""Linear and logistic regression over several parties' columns, with scikit-learn's shape.

All parties make the same estimator and call the same methods; the guest passes labels, the hosts do not.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import r2_score
from sklearn.utils.class_weight import compute_class_weight

from vfl import data
from vfl.errors import InvalidData
from vfl.families import IDENTITY, LOGISTIC, Family, Target
from vfl.generalised import GeneralisedLinear

__all__ = ["LinearRegression", "LogisticRegression"]

FloatArray = NDArray[np.float64]


class LogisticRegression(GeneralisedLinear):
    """Logistic regression over all parties' columns; with more than two classes one model for each against the rest.

    Parameters
    ----------
    C : float
        Inverse strength of the L2 penalty on standardised weights, as in scikit-learn.
    fit_intercept : bool
        Whether the model has an intercept, which is not penalised.
    class_weight : dict, "balanced" or None
        The guest's; a host leaves it None.
    max_iter : int or None
        Iterations at most, up to 100 with ``security="strict"``; None takes the protocol's default (strict: 40;
        exchange: 8, for each opens each host score once more).
    tol : float or None
        When training has converged; the guest's. Strict: what the scores still lack, as a root mean square over the
        rows, is estimated to be at most `tol`. Exchange: an epoch improves the loss by less than this part of it.
        None takes the protocol's default (strict: 0.002; exchange: 0.001).
    batch_size : int, "auto" or None
        For ``security="exchange"``: rows per batch; ``"auto"`` takes a sixth of the rows, 256 to 4096; None takes all.
        Strict training takes all rows at once.
    early_stopping : bool
        Hold out the last `validation_fraction` of the rows, and stop when their loss has not fallen for a while.
        Strict: the guest learns the sum of squared residuals of these rows, at each iteration.
    validation_fraction : float
        Share of the rows that early stopping holds out.
    winsorise : float or None
        Cut this party's columns off at so many standard deviations from their means, here and in predictions. 5 is a
        good choice for heavy-tailed data; parties may differ.
    security : {"strict", "exchange"}
        Strict keeps scores, residuals and gradients shared between the parties from the first to the last step.
        Exchange is the classic gradient exchange; it needs ``accept_leakage = ["score", "gradient"]`` on both sides.
    he : {"auto", "lattice", "ckks", "paillier"}
        Encryption: strict takes lattice (``"auto"``) or Paillier, exchange CKKS (``"auto"``) or Paillier.
    key_bits : int
        Paillier modulus in bits, at least 2048.
    inference : bool
        Whether standard errors are computed after training: ``summary_`` then has them with z and p values and
        confidence intervals. For a guest and one host, ``security="strict"``, 128 columns in all.

    Attributes
    ----------
    coef_ : ndarray, shape (own columns,) or (classes, own columns)
        This party's weights in the units of its own columns; for two classes those of the second.
    intercept_ : float or ndarray, shape (classes,)
        This party's part of the intercept.
    n_features_in_, feature_names_in_
        This party's columns.
    classes_ : ndarray, shape (classes,)
        At the guest.
    n_iter_ : int
        Iterations, at the guest.
    converged_ : bool
        At the guest: whether training ended before `max_iter`.
    distance_curve_ : list of float
        At the guest, strict: what was missing in the scores at each iteration, as `tol` counts it.
    loss_curve_ : list of float
        At the guest, exchange: the training loss by epoch; strict with early stopping: the mean squared residual of
        held-out rows by iteration.

    Leakage
    -------
    See :meth:`fit`, :meth:`predict_proba` and docs/leakage.md.
    """

    classes_: NDArray[Any]

    def __init__(
        self,
        *,
        C: float = 1.0,
        fit_intercept: bool = True,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        max_iter: int | None = None,
        tol: float | None = None,
        batch_size: int | Literal["auto"] | None = "auto",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        winsorise: float | None = None,
        security: Literal["strict", "exchange"] = "strict",
        he: Literal["auto", "lattice", "ckks", "paillier"] = "auto",
        key_bits: int = 3072,
        inference: bool = False,
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.winsorise = winsorise
        self.security = security
        self.he = he
        self.key_bits = key_bits
        self.inference = inference

    def predict_proba(self, X: Any) -> Any:
        """Return class probabilities, shape (rows, classes), at the guest; a host calls it too and gets None.

        Leakage
        -------
        The guest learns the hosts' part of each row's score, rounded to 2^-14.
        """
        scores = self._scores(X, "predict_proba")
        if scores is None or scores.ndim == 1:
            return None if scores is None else np.column_stack([expit(-scores), expit(scores)])
        each = np.maximum(expit(scores), np.finfo(float).tiny)
        return each / each.sum(axis=1, keepdims=True)

    def decision_function(self, X: Any) -> Any:
        """Return the joint scores, shape (rows,) or (rows, classes), at the guest; None at a host."""
        return self._scores(X, "decision_function")

    def predict(self, X: Any) -> Any:
        """Return the likeliest class of each row at the guest; None at a host."""
        return self._likeliest(self._scores(X, "predict"))

    def score(self, X: Any, y: Any = None) -> float:
        """Return the accuracy, at a host too: the guest shares it, so that a search for parameters chooses alike.

        Leakage
        -------
        That of :meth:`predict`; the hosts learn the accuracy to four decimals. A guest that does not want that calls
        :meth:`predict` instead, as the hosts do.
        """
        predicted = self._likeliest(self._scores(X, "score"))
        return self._share_figure(None if predicted is None else float(np.mean(predicted == np.asarray(y))))

    def _likeliest(self, scores: FloatArray | None) -> Any:
        if scores is None:
            return None
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)]

    @property
    def _family(self) -> Family:
        return LOGISTIC

    def _targets(self, y: Any, weights: FloatArray, offset: Any, party: str) -> tuple[Target, ...]:
        labels = data.labels(y, party, rows=len(weights), most_classes=data.LARGEST_CLASSES)
        self.classes_, places = labels.classes, labels.encoded.astype(int)
        if self.class_weight is not None:
            per_class = compute_class_weight(
                self.class_weight, classes=labels.classes, y=labels.classes[places]
            )
            weights = weights * per_class[places]
        weights = weights / weights.mean()
        positive = range(len(labels.classes)) if len(labels.classes) > 2 else [1]
        return tuple(Target(LOGISTIC, (places == place).astype(float), weights) for place in positive)

    def _regularisation(self) -> dict[str, float]:
        if not self.C > 0:
            raise ValueError("C must be positive")
        return {"C": self.C}

    def _strength(self, rows: int) -> float:
        return 1 / (self.C * rows)


class LinearRegression(GeneralisedLinear):
    """Least squares (ridge with ``alpha > 0``) over all parties' columns.

    Parameters
    ----------
    alpha : float
        Strength of the L2 penalty on standardised weights, as scikit-learn's ``Ridge``.
    batch_size : int, "auto" or None
        As for :class:`LogisticRegression`; all rows at once by default.
    fit_intercept, max_iter, tol, early_stopping, validation_fraction, winsorise, security, he, key_bits, inference
        As for :class:`LogisticRegression`; scores are in units of the target's standard deviation, and the default
        `tol` is 0.001 (exchange: 0.00001).

    Attributes
    ----------
    coef_, intercept_
        This party's part; at a host in units of the target's standard deviation, which the guest keeps to itself.
    target_mean_, target_scale_ : float
        At the guest: what training subtracts from the targets, and by what it divides them.
    n_iter_, converged_, distance_curve_, loss_curve_
        As for :class:`LogisticRegression`.

    Leakage
    -------
    See :meth:`fit`, :meth:`predict` and docs/leakage.md.
    """

    target_mean_: float
    target_scale_: float

    def __init__(
        self,
        *,
        alpha: float = 0.0,
        fit_intercept: bool = True,
        max_iter: int | None = None,
        tol: float | None = None,
        batch_size: int | Literal["auto"] | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        winsorise: float | None = None,
        security: Literal["strict", "exchange"] = "strict",
        he: Literal["auto", "lattice", "ckks", "paillier"] = "auto",
        key_bits: int = 3072,
        inference: bool = False,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.winsorise = winsorise
        self.security = security
        self.he = he
        self.key_bits = key_bits
        self.inference = inference

    def predict(self, X: Any) -> Any:
        """Return the predicted targets, shape (rows,), at the guest; a host calls it too and gets None.

        Leakage
        -------
        The guest learns the hosts' part of each row's prediction, rounded to 2^-14 of the target's standard deviation.
        """
        return self._scores(X, "predict")

    def score(self, X: Any, y: Any = None) -> float:
        """Return R^2, at a host too: see :meth:`LogisticRegression.score`."""
        predicted = self._scores(X, "score")
        return self._share_figure(None if predicted is None else float(r2_score(y, predicted)))

    def _units(self) -> tuple[float, float]:
        return getattr(self, "target_scale_", 1.0), getattr(self, "target_mean_", 0.0)

    @property
    def _family(self) -> Family:
        return IDENTITY

    def _targets(self, y: Any, weights: FloatArray, offset: Any, party: str) -> tuple[Target, ...]:
        targets = data.targets(y, party, rows=len(weights))
        weights = weights / weights.mean()
        centred = self.fit_intercept
        self.target_mean_ = float(np.average(targets, weights=weights)) if centred else 0.0
        spread = float(np.sqrt(np.average((targets - self.target_mean_) ** 2, weights=weights)))
        if spread <= 1e-14 * abs(self.target_mean_):
            raise InvalidData(f"{party}: all targets are equal; there is nothing to learn")
        self.target_scale_ = spread
        return (Target(IDENTITY, (targets - self.target_mean_) / spread, weights),)

    def _regularisation(self) -> dict[str, float]:
        if not self.alpha >= 0:
            raise ValueError("alpha must not be negative")
        return {"alpha": self.alpha}

    def _strength(self, rows: int) -> float:
        return self.alpha / rows
