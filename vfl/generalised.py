"""What the generalised linear models share: the lockstep call, local whitening, training, scoring, this party's half.

Each party standardises and whitens its own columns locally (block preconditioning, nothing is sent) and keeps its own
half of the model.
"""

import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from vfl import data, model, tables
from vfl.errors import InvalidData, LeakageWarning, MalformedMessage, SchemaMismatch, TrainingDiverged
from vfl.protocols import gradient
from vfl.protocols.wire import Leakage, Role
from vfl.session import Session, current

__all__ = ["Block", "GeneralisedLinear", "Monitor", "Side"]

FloatArray = NDArray[np.float64]
LARGEST_COLUMNS = 1_000_000
LARGEST_RESIDUAL_BITS = 16
DIVERGED = 1.05
"""A loss so many times that of the first epoch ends the training."""


@dataclass(frozen=True)
class Block:
    """One party's columns, ready to train: standardised, then whitened."""

    matrix: FloatArray
    penalty: FloatArray
    centre: FloatArray
    back: FloatArray  # whitened weights -> weights of the original columns

    @classmethod
    def of(cls, values: FloatArray, strength: float, curvature: float) -> Self:
        """Standardise and whiten; `strength` is the L2 penalty per row on standardised weights."""
        centre, spread = values.mean(axis=0), values.std(axis=0)
        varies = spread > 1e-12 * np.maximum(1.0, np.abs(centre))
        spread = np.where(varies, spread, np.inf)  # a constant column gets weight zero
        standard = (values - centre) / spread
        ridge = strength / curvature + 1e-6
        eigenvalues, vectors = np.linalg.eigh(standard.T @ standard / len(standard))
        whiten = (vectors / np.sqrt(np.maximum(eigenvalues, 0) + ridge)) @ vectors.T
        return cls(standard @ whiten, strength * whiten @ whiten, centre, whiten / spread[:, None])

    def with_intercept(self) -> tuple[FloatArray, FloatArray]:
        """Return the matrix with a leading column of ones, and the penalty that spares it."""
        penalty = np.pad(self.penalty, ((1, 0), (1, 0)))
        return np.column_stack([np.ones(len(self.matrix)), self.matrix]), penalty


class GeneralisedLinear(BaseEstimator):  # type: ignore[misc]
    """What the models share: the lockstep call, training, scoring and this party's half."""

    _curvature: float  # upper bound of the link's derivative
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
        The guest learns the host's part of every row's score once per epoch, the host its own gradient of every batch
        and the power of two above the guest's largest weighted residual; both learn the number of columns, rows and
        epochs.
        """
        session = current()
        self.check_parameters()
        features = data.features(X, session.name)
        session.require_columns(features.names)
        session.require_leakage(Leakage.SCORE, Leakage.GRADIENT)
        rows, columns = features.values.shape
        side = self._guest_side(y, sample_weight, rows, session)
        shared = {
            "rows": rows,
            **self._regularisation(),
            **{name: getattr(self, name) for name in self._shared},
        }
        own = {"columns": columns, "schema": session.commitment(tables.schema(X))}
        own |= {"residual_bits": side.bits} if side else {}
        (theirs,) = session.call(f"{type(self).__name__}.fit", shared, own)
        plan = self._plan(rows, columns, side, theirs, session)
        self._warn(plan, session)
        block = Block.of(features.values, self._strength(plan.rows), self._curvature)
        with session.phases.phase("train") as progress:
            weights = self._train(session, block, side, plan, progress)
            session.checkpoint()
        self._keep(session, features, block, weights)
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this party's half to a file (JSON, mode 0600); :func:`vfl.load` reads it."""
        check_is_fitted(self, "coef_")
        model.save(self, path)

    def _plan(
        self, rows: int, columns: int, side: "Side | None", theirs: Mapping[str, str], session: Session
    ) -> gradient.Plan:
        host_columns = columns if side is None else _stated(theirs, "columns", 1, LARGEST_COLUMNS, session)
        bits = side.bits if side else _stated(theirs, "residual_bits", 0, LARGEST_RESIDUAL_BITS, session)
        validation = round(rows * self.validation_fraction) if self.early_stopping else 0
        training = rows - validation
        batch = {"auto": gradient.batch_rows(training, host_columns), None: training}
        return gradient.Plan(
            rows=training,
            validation_rows=validation,
            batch_rows=min(training, batch.get(self.batch_size, self.batch_size)),  # type: ignore[arg-type,type-var]
            epochs=self.max_iter,
            step=self.learning_rate / self._curvature,
            momentum=self.momentum,
            host_columns=host_columns,
            residual_bound=2.0**bits,
        )

    def _train(
        self,
        session: Session,
        block: Block,
        side: "Side | None",
        plan: gradient.Plan,
        progress: Callable[[int, int], None],
    ) -> FloatArray:
        scheme = gradient.scheme(self.he, gradient.make_format(plan), self.key_bits)
        if side is None:
            return session.run(
                gradient.host(
                    session.channel, block.matrix, block.penalty, plan, scheme, session.rng, progress
                )
            )
        matrix, penalty = block.with_intercept()
        monitor = Monitor(side, plan, self.tol, self.n_iter_no_change, self.early_stopping)
        guest_side = gradient.GuestSide(side.residual, monitor.finished)
        weights = session.run(
            gradient.guest(session.channel, matrix, penalty, guest_side, plan, scheme, session.rng, progress)
        )
        self.loss_curve_, self.converged_ = monitor.losses, monitor.converged
        self.n_iter_ = len(monitor.losses)
        session.facts.history = list(enumerate(monitor.losses, 1))
        return weights

    def _keep(
        self, session: Session, features: data.FeatureMatrix, block: Block, weights: FloatArray
    ) -> None:
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
            raise SchemaMismatch(
                f"this half of the model was trained by the {self.role_}, {session.name} is the {session.role}"
            )
        features = data.features(X, session.name, minimum_rows=1)
        session.require_columns(features.names)
        session.require_leakage(Leakage.SCORE)
        _same_columns(features.names, tuple(self.feature_names_in_), session.name)
        session.call(operation, {"model": self.model_id_, "rows": len(features.values)}, {})
        own = features.values @ self.coef_ + self.intercept_
        with session.phases.phase("score"):
            joint: FloatArray | None
            if session.role is Role.GUEST:
                joint = session.run(gradient.guest_scores(session.channel, own))
            else:
                joint = session.run(gradient.host_scores(session.channel, own))
            session.checkpoint()
        return joint

    def check_parameters(self) -> None:
        """Refuse parameters that cannot work.

        Raises
        ------
        ValueError
            Naming the parameter and what it may be.
        """
        checks: Mapping[str, bool] = {
            "max_iter must be a positive integer": self.max_iter >= 1 and self.max_iter == int(self.max_iter),
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
        self._regularisation()

    def _guest_side(self, y: Any, sample_weight: Any, rows: int, session: Session) -> "Side | None":
        if session.role is Role.HOST:
            if y is not None or sample_weight is not None:
                raise InvalidData(
                    f"{session.name} is the host: labels and weights belong to the guest; leave them out"
                )
            return None
        if y is None:
            raise InvalidData(f"{session.name} is the guest: pass the labels as y")
        return self._labelled(y, data.weights(sample_weight, rows, session.name), rows, session.name)

    def _labelled(self, y: Any, weights: FloatArray, rows: int, party: str) -> "Side":
        raise NotImplementedError

    def _regularisation(self) -> dict[str, float]:
        raise NotImplementedError

    def _strength(self, rows: int) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class Side:
    """The guest's labels under a link: residuals and losses of scores.

    Attributes
    ----------
    y, weights : ndarray, shape (rows,)
        The weights have mean one.
    largest : float
        Bound of the weighted residuals; the power of two above it is told to the host.
    """

    y: FloatArray
    weights: FloatArray
    inverse_link: Callable[[FloatArray], FloatArray]
    losses: Callable[[FloatArray, FloatArray], FloatArray]
    largest: float

    @property
    def bits(self) -> int:
        """Bits before the binary point of an encoded residual."""
        bits = max(0, math.ceil(math.log2(self.largest)))
        if bits > LARGEST_RESIDUAL_BITS:
            raise InvalidData(
                f"the largest weighted residual is {self.largest:.0f} times the typical one: limit the extreme "
                "targets or weights"
            )
        return bits

    def residual(self, scores: FloatArray, rows: slice) -> FloatArray:
        """Return prediction minus label times weight of some rows."""
        return (self.inverse_link(scores) - self.y[rows]) * self.weights[rows]

    def loss(self, scores: FloatArray, rows: slice) -> float:
        """Return the weighted mean loss of some rows."""
        return float(np.average(self.losses(scores, self.y[rows]), weights=self.weights[rows]))


@dataclass
class Monitor:
    """Decides at the guest when training ends; the losses are those of the rows as they were scored in the epoch."""

    side: Side
    plan: gradient.Plan
    tol: float
    patience: int
    early: bool

    def __post_init__(self) -> None:
        self.losses: list[float] = []
        self.converged = False
        self._last, self._stale = sys.float_info.max, 0

    def finished(self, epoch: int, training: FloatArray, validation: FloatArray) -> bool:
        """Return whether the training loss stands still, or the validation loss does not fall, within `tol`."""
        loss = self.side.loss(training, slice(0, self.plan.rows))
        self.losses.append(loss)
        if loss > DIVERGED * self.losses[0] or not np.isfinite(loss):
            raise TrainingDiverged(
                f"the loss rose from {self.losses[0]:.4g} to {loss:.4g} in epoch {epoch + 1}: the step is too large "
                "for these data; lower learning_rate on both sides"
            )
        if self.early:
            loss = self.side.loss(validation, self.plan.validation)
        fell = self._last - loss if self.early else abs(self._last - loss)
        self._stale = 0 if fell > self.tol * self._last else self._stale + 1
        self._last = min(self._last, loss) if self.early else loss
        self.converged = self._stale >= self.patience
        return self.converged


def _stated(own: Mapping[str, str], name: str, low: int, high: int, session: Session) -> int:
    """Return a number that the peer stated about itself, if it is plausible."""
    text = own.get(name, "")
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or not low <= int(text) <= high:
        raise MalformedMessage(f"{session.peer.name} did not state a plausible number of {name}")
    return int(text)


def _same_columns(have: tuple[str, ...], expected: tuple[str, ...], party: str) -> None:
    if have != expected:
        missing, extra = sorted(set(expected) - set(have)), sorted(set(have) - set(expected))
        raise SchemaMismatch(
            f"{party}: the model was trained on {len(expected)} columns in a fixed order; "
            f"missing: {', '.join(missing) or 'none'}; "
            f"unexpected: {', '.join(extra) or 'none'}; select the training columns in the same order"
        )
