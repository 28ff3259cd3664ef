"""Generalised linear models over two parties' columns, with scikit-learn's shape.

Both parties make the same estimator and call the same methods; the guest passes labels, the host does not. Each party
standardises and whitens its own columns locally (block preconditioning, nothing is sent) and keeps its own half of the model.

The training protocol is the classic gradient exchange (:mod:`vfl.protocols.gradient`), which leaks ``score`` to the guest
and ``gradient`` to the host and therefore runs only when both configurations accept that.
"""

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit
from sklearn.base import BaseEstimator
from sklearn.metrics import r2_score
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import check_is_fitted

from vfl import data, model, tables
from vfl.errors import InvalidData, LeakageWarning, MalformedMessage, SchemaMismatch
from vfl.protocols import gradient
from vfl.protocols.wire import Leakage, Role
from vfl.session import Session, current

__all__ = ["LinearRegression", "LogisticRegression"]

FloatArray = NDArray[np.float64]
_PEER_COLUMNS_LIMIT = 1_000_000


@dataclass(frozen=True)
class _Block:
    """One party's columns, ready to train: standardised, then whitened."""

    matrix: FloatArray
    penalty: FloatArray
    centre: FloatArray
    back: FloatArray  # whitened weights -> weights of the original columns

    @classmethod
    def of(cls, values: FloatArray, strength: float, curvature: float) -> Self:
        """Standardise and whiten; `strength` is the L2 penalty per row on standardised weights."""
        centre, spread = values.mean(axis=0), values.std(axis=0)
        spread = np.where(spread > 1e-12 * np.maximum(1.0, np.abs(centre)), spread, np.inf)  # constant: weight zero
        standard = (values - centre) / spread
        ridge = strength / curvature + 1e-6
        eigenvalues, vectors = np.linalg.eigh(standard.T @ standard / len(standard))
        whiten = (vectors / np.sqrt(np.maximum(eigenvalues, 0) + ridge)) @ vectors.T
        return cls(standard @ whiten, strength * whiten @ whiten, centre, whiten / spread[:, None])

    def with_intercept(self) -> tuple[FloatArray, FloatArray]:
        """Return the matrix with a leading column of ones, and the penalty that spares it."""
        penalty = np.pad(self.penalty, ((1, 0), (1, 0)))
        return np.column_stack([np.ones(len(self.matrix)), self.matrix]), penalty


class _GeneralisedLinear(BaseEstimator):  # type: ignore[misc]
    """What the models share: the lockstep call, training, scoring and this party's half."""

    _curvature: float  # upper bound of the link's derivative
    _residual_bound: float  # largest weighted residual that is encoded; weights have mean one
    _shared = (
        "max_iter",
        "batch_size",
        "learning_rate",
        "momentum",
        "early_stopping",
        "validation_fraction",
        "security",
        "he",
        "key_bits",
    )
    max_iter: int
    batch_size: int | Literal["auto"] | None
    learning_rate: float
    momentum: float
    tol: float
    n_iter_no_change: int
    early_stopping: bool
    validation_fraction: float
    security: str
    he: str
    key_bits: int

    coef_: FloatArray
    intercept_: float
    feature_names_in_: NDArray[np.object_]
    n_features_in_: int
    n_iter_: int
    loss_curve_: list[float]
    converged_: bool
    model_id_: str
    role_: str

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train with the peer; both parties call it with rows in the same order.

        Parameters
        ----------
        X : table, shape (rows, own columns)
            Numeric columns only.
        y : array-like, shape (rows,)
            Labels or targets: the guest's; None at the host.
        sample_weight : array-like, shape (rows,), optional
            Positive weights: the guest's.

        Returns
        -------
        self

        Raises
        ------
        InvalidData, MissingValues
            If this party's table is unusable; nothing was sent.
        PolicyRefused
            If a configuration does not accept the leakage or the columns.
        ConfigMismatch
            If the peer trains another model, or has other parameters or another number of rows.

        Leakage
        -------
        The guest learns the host's part of every row's score once per epoch, the host its own gradient of every batch; both
        learn the number of columns, rows and epochs.
        """
        session = current()
        self._check_parameters()
        features = data.features(X, session.name)
        session.require_columns(features.names)
        session.require_leakage(Leakage.SCORE, Leakage.GRADIENT)
        rows, columns = features.values.shape
        side = self._guest_side(y, sample_weight, rows, session)
        shared = {"rows": rows, **self._regularisation(), **{name: getattr(self, name) for name in self._shared}}
        own = {"columns": columns, "schema": session.commitment(tables.schema(X))}
        theirs = session.call(f"{type(self).__name__}.fit", shared, own)
        plan = self._plan(rows, columns if session.role is Role.HOST else _columns(theirs, session))
        self._warn(plan, session)
        block = _Block.of(features.values, self._strength(plan.rows), self._curvature)
        with session.phases.phase("train") as progress:
            weights = self._train(session, block, side, plan, progress)
            session.checkpoint()
        self._keep(session, features, block, weights)
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this party's half to a file (JSON, mode 0600); :func:`vfl.load` reads it."""
        check_is_fitted(self, "coef_")
        model.save(self, path)

    def _plan(self, rows: int, host_columns: int) -> gradient.Plan:
        held_out = int(round(rows * self.validation_fraction)) if self.early_stopping else 0
        training = rows - held_out
        batch = {"auto": gradient.batch_rows(training, host_columns), None: training}
        return gradient.Plan(
            rows=training,
            validation_rows=held_out,
            batch_rows=min(training, batch.get(self.batch_size, self.batch_size)),  # type: ignore[arg-type,type-var]
            epochs=self.max_iter,
            step=self.learning_rate / self._curvature,
            momentum=self.momentum,
            host_columns=host_columns,
        )

    def _train(
        self,
        session: Session,
        block: _Block,
        side: "_Side | None",
        plan: gradient.Plan,
        progress: Callable[[int, int], None],
    ) -> FloatArray:
        scheme = gradient.scheme(self.he, gradient.make_format(plan, self._residual_bound), self.key_bits)
        if side is None:
            return session.run(gradient.host(session.channel, block.matrix, block.penalty, plan, scheme, session.rng, progress))
        matrix, penalty = block.with_intercept()
        monitor = _Monitor(side, plan, self.tol, self.n_iter_no_change, self.early_stopping)
        guest_side = gradient.GuestSide(side.residual, monitor.finished)
        weights = session.run(
            gradient.guest(session.channel, matrix, penalty, guest_side, plan, scheme, session.rng, progress)
        )
        self.loss_curve_, self.converged_ = monitor.losses, monitor.converged
        self.n_iter_ = len(monitor.losses)
        session.facts.history = list(enumerate(monitor.losses, 1))
        return weights

    def _keep(self, session: Session, features: data.FeatureMatrix, block: _Block, weights: FloatArray) -> None:
        """Store this party's half in the units of its own columns."""
        guest = session.role is Role.GUEST
        self.coef_ = block.back @ weights[int(guest) :]
        self.intercept_ = float(weights[0] if guest else 0.0) - float(block.centre @ self.coef_)
        self.feature_names_in_ = np.array(features.names, dtype=object)
        self.n_features_in_ = len(features.names)
        self.role_ = session.role.value
        self.model_id_ = session.channel.digests()[0 if guest else 1].hex()[:32]
        session.facts.parameters |= {name: str(value) for name, value in self.get_params().items()}

    def _warn(self, plan: gradient.Plan, session: Session) -> None:
        if plan.epochs >= plan.host_columns:
            text = (
                f"max_iter={plan.epochs} epochs open each row's host score up to {plan.epochs} times; with "
                f"{plan.host_columns} host columns the guest can then compute inner products between the host's rows. "
                f"Fewer epochs than host columns prevent that"
            )
            session.facts.notes.append(text)
            warnings.warn(text, LeakageWarning, stacklevel=3)

    def _scores(self, X: Any, operation: str) -> FloatArray | None:
        """Return the joint linear scores, shape (rows,), at the guest; None at the host."""
        check_is_fitted(self, "coef_")
        session = current()
        if session.role.value != self.role_:
            raise SchemaMismatch(f"this half of the model was trained by the {self.role_}, {session.name} is the {session.role}")
        features = data.features(X, session.name, minimum_rows=1)
        session.require_columns(features.names)
        session.require_leakage(Leakage.SCORE)
        _same_columns(features.names, tuple(self.feature_names_in_), session.name)
        session.call(operation, {"model": self.model_id_, "rows": len(features.values)}, {})
        own = features.values @ self.coef_ + self.intercept_
        with session.phases.phase("score"):
            if session.role is Role.GUEST:
                joint = session.run(gradient.guest_scores(session.channel, own))
            else:
                joint = session.run(gradient.host_scores(session.channel, own))
            session.checkpoint()
        return joint

    def _check_parameters(self) -> None:
        checks: Mapping[str, bool] = {
            "max_iter must be a positive integer": isinstance(self.max_iter, int) and self.max_iter >= 1,
            "batch_size must be a positive integer, 'auto' or None": self.batch_size in ("auto", None)
            or (isinstance(self.batch_size, int) and self.batch_size >= 1),
            "learning_rate must be positive": self.learning_rate > 0,
            "momentum must lie in [0, 1)": 0 <= self.momentum < 1,
            "validation_fraction must lie in (0, 1)": 0 < self.validation_fraction < 1,
            "security must be 'exchange'": self.security == "exchange",
            "he must be 'ckks' or 'paillier'": self.he in gradient.SCHEMES,
            "n_iter_no_change must be a positive integer": self.n_iter_no_change >= 1,
        }
        for text, fulfilled in checks.items():
            if not fulfilled:
                raise ValueError(text)

    def _guest_side(self, y: Any, sample_weight: Any, rows: int, session: Session) -> "_Side | None":
        if session.role is Role.HOST:
            if y is not None or sample_weight is not None:
                raise InvalidData(f"{session.name} is the host: labels and weights belong to the guest; leave them out")
            return None
        if y is None:
            raise InvalidData(f"{session.name} is the guest: pass the labels as y")
        return self._labelled(y, data.weights(sample_weight, rows, session.name), rows, session.name)

    def _labelled(self, y: Any, weights: FloatArray, rows: int, party: str) -> "_Side":
        raise NotImplementedError

    def _regularisation(self) -> dict[str, float]:
        raise NotImplementedError

    def _strength(self, rows: int) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class _Side:
    """The guest's labels under a link: residuals and losses of scores."""

    y: FloatArray
    weights: FloatArray
    inverse_link: Callable[[FloatArray], FloatArray]
    losses: Callable[[FloatArray, FloatArray], FloatArray]

    def residual(self, scores: FloatArray, rows: slice) -> FloatArray:
        return (self.inverse_link(scores) - self.y[rows]) * self.weights[rows]

    def loss(self, scores: FloatArray, rows: slice) -> float:
        return float(np.average(self.losses(scores, self.y[rows]), weights=self.weights[rows]))


@dataclass
class _Monitor:
    """Decides at the guest when training ends; the losses are those of the rows as they were scored in the epoch."""

    side: _Side
    plan: gradient.Plan
    tol: float
    patience: int
    early: bool

    def __post_init__(self) -> None:
        self.losses: list[float] = []
        self.converged = False
        self._best, self._stale = np.inf, 0

    def finished(self, epoch: int, training: FloatArray, validation: FloatArray) -> bool:
        """Return whether the loss has not improved by `tol` (relative) for `patience` epochs."""
        rows = slice(0, self.plan.rows)
        self.losses.append(self.side.loss(training, rows))
        loss = self.side.loss(validation, self.plan.validation) if self.early else self.losses[-1]
        self._stale = 0 if loss < self._best - self.tol * abs(self._best if np.isfinite(self._best) else 0) else self._stale + 1
        self._best = min(self._best, loss)
        self.converged = self._stale >= self.patience
        return self.converged


class LogisticRegression(_GeneralisedLinear):
    """Binary logistic regression over both parties' columns.

    Parameters
    ----------
    C : float
        Inverse strength of the L2 penalty on standardised weights, as in scikit-learn.
    max_iter : int
        Epochs at most. Each epoch opens each row's host score once more: see Leakage.
    batch_size : int, "auto" or None
        Rows per batch; ``"auto"`` takes an eighth of the rows, at most 4096; None takes all.
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
    _residual_bound = 64.0
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

    def predict_proba(self, X: Any) -> FloatArray | None:
        """Return class probabilities, shape (rows, 2), at the guest; the host calls it too and gets None.

        Leakage
        -------
        The guest learns the host's part of each row's score.
        """
        scores = self._scores(X, "predict_proba")
        return None if scores is None else np.column_stack([expit(-scores), expit(scores)])

    def decision_function(self, X: Any) -> FloatArray | None:
        """Return the joint scores, shape (rows,), at the guest; None at the host."""
        return self._scores(X, "decision_function")

    def predict(self, X: Any) -> NDArray[Any] | None:
        """Return the likelier class of each row at the guest; None at the host."""
        scores = self._scores(X, "predict")
        return None if scores is None else self.classes_[(scores > 0).astype(int)]

    def score(self, X: Any, y: Any = None) -> float | None:
        """Return the accuracy at the guest; None at the host."""
        predicted = self.predict(X)
        return None if predicted is None else float(np.mean(predicted == np.asarray(y)))

    def _labelled(self, y: Any, weights: FloatArray, rows: int, party: str) -> _Side:
        labels = data.labels(y, party, rows=rows)
        self.classes_ = labels.classes
        if self.class_weight is not None:
            original = labels.classes[labels.encoded.astype(int)]
            per_class = compute_class_weight(self.class_weight, classes=labels.classes, y=original)
            weights = weights * per_class[labels.encoded.astype(int)]
        return _Side(labels.encoded, weights / weights.mean(), expit, _log_loss)

    def _regularisation(self) -> dict[str, float]:
        if not self.C > 0:
            raise ValueError("C must be positive")
        return {"C": self.C}

    def _strength(self, rows: int) -> float:
        return 1 / (self.C * rows)


class LinearRegression(_GeneralisedLinear):
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
    _residual_bound = 1024.0
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

    def predict(self, X: Any) -> FloatArray | None:
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

    def _labelled(self, y: Any, weights: FloatArray, rows: int, party: str) -> _Side:
        targets = data.targets(y, party, rows=rows)
        self.target_mean_, self.target_scale_ = float(targets.mean()), float(targets.std())
        if self.target_scale_ == 0:
            raise InvalidData(f"{party}: all targets are equal; there is nothing to learn")
        standard = (targets - self.target_mean_) / self.target_scale_
        return _Side(standard, weights / weights.mean(), lambda z: z, lambda z, t: (z - t) ** 2 / 2)

    def _regularisation(self) -> dict[str, float]:
        if not self.alpha >= 0:
            raise ValueError("alpha must not be negative")
        return {"alpha": self.alpha}

    def _strength(self, rows: int) -> float:
        return self.alpha / rows


def _log_loss(scores: FloatArray, y: FloatArray) -> FloatArray:
    loss: FloatArray = -(y * log_expit(scores) + (1 - y) * log_expit(-scores))
    return loss


def _columns(own: Mapping[str, str], session: Session) -> int:
    text = own.get("columns", "")
    if not text.isdecimal() or not 1 <= int(text[:9]) <= _PEER_COLUMNS_LIMIT:
        raise MalformedMessage(f"{session.peer.name} did not state a plausible number of columns")
    return int(text)


def _same_columns(have: tuple[str, ...], expected: tuple[str, ...], party: str) -> None:
    if have != expected:
        missing, extra = sorted(set(expected) - set(have)), sorted(set(have) - set(expected))
        raise SchemaMismatch(
            f"{party}: the model was trained on {len(expected)} columns in a fixed order; missing: {', '.join(missing) or 'none'}; "
            f"unexpected: {', '.join(extra) or 'none'}; select the training columns in the same order"
        )
