"""A neural network over the columns of a guest and a host, trained on shares: nothing is opened before the scores.

Host and guest make the same estimator and call the same methods.
"""

import hashlib
import os
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from vfl import data, model, tables
from vfl.crypto.pads import Pads
from vfl.crypto.ring import Share
from vfl.fewrows import LARGEST_COLUMNS, all_labels, no_labels, stated
from vfl.neural import halves
from vfl.protocols import source
from vfl.protocols.source_plan import LARGEST_INPUT, LARGEST_START, Labels, Plan
from vfl.protocols.wire import Role
from vfl.session import Session, current

__all__ = ["NeuralClassifier"]

FloatArray = NDArray[np.float64]
FREQUENCY, PHASE = 0.25, np.pi / 8
"""Of a hidden unit's angle before training, in radians: standard deviation, and largest part of a party's phase."""
STEPS = 600
"""Of a training whose number of epochs is left open, at least."""


class NeuralClassifier(BaseEstimator):  # type: ignore[misc]
    """A network with one hidden layer of sines over both parties' columns, for a guest and one host.

    Inputs are standardised locally and cut off at four standard deviations. Two classes have one score, more have one
    for each class against the rest; the loss is the logistic one. The weights are shared between the parties in
    training and afterwards: neither knows any of them, and both are needed to score rows.

    Parameters
    ----------
    hidden_units : int
        More than classes.
    epochs : int or None
        Passes over the rows; None takes as many as make 600 steps or a few more.
    batch_size : int
        Rows in a step; rows that are left over are left out of an epoch, other ones in each.
    learning_rate : float
        At the beginning; it falls to zero along half a cosine.
    momentum : float
    alpha : float
        Weight of half the squared weights.
    random_state : int or None
        Of this party's part of the first weights; None draws it secretly, as it should be between parties.

    Attributes
    ----------
    share_ : ndarray of uint32, shape (limbs, columns of both parties, hidden units)
        This party's share of the weights: uniform numbers, of no use without the peer's.
    classes_ : ndarray
        At the guest.
    offset_ : ndarray, shape (scores,)
        At the guest: the log odds of the classes in training, which it adds to scores.
    mean_, scale_ : ndarray, shape (own columns,)
    columns_ : tuple of int
        Inputs of the guest, with that of ones, and of the host.
    outputs_ : int
        Scores a row.
    n_steps_ : int
        Steps of the training.
    n_features_in_, feature_names_in_
        This party's columns.

    Leakage
    -------
    See :meth:`fit`, :meth:`predict_proba` and docs/protocols/neural.md.
    """

    share_: Share
    classes_: NDArray[Any]
    offset_: FloatArray
    mean_: FloatArray
    scale_: FloatArray
    columns_: tuple[int, int]
    outputs_: int
    n_steps_: int
    feature_names_in_: NDArray[np.object_]
    n_features_in_: int
    role_: str
    model_id_: str

    def __init__(
        self,
        *,
        hidden_units: int = 32,
        epochs: int | None = None,
        batch_size: int = 256,
        learning_rate: float = 0.1,
        momentum: float = 0.9,
        alpha: float = 0.0,
        random_state: int | None = None,
    ) -> None:
        self.hidden_units = hidden_units
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.alpha = alpha
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train with the peer; both call it with rows in the same order.

        Parameters
        ----------
        X : table, shape (rows, own columns)
            As :func:`vfl.align` returns it; numeric columns only.
        y : array-like, shape (rows,)
            Labels: the guest's; None at the host.

        Returns
        -------
        self

        Raises
        ------
        InvalidData, MissingValues
            If this party's table is unusable, or the sizes allow no bound on the rounding.
        PolicyRefused
            If the configuration does not allow the columns.
        ConfigMismatch
            If the peer has other parameters or another number of rows.
        LocalProtocolError
            If there are several hosts.

        Leakage
        -------
        Both learn the numbers of rows, of columns and of classes; nothing else (:mod:`vfl.protocols.source`).
        """
        session = current()
        with session.joint():
            self._check_parameters()
            features = data.features(X, session.name)
            session.require_columns(features.names)
            own: dict[str, object] = {
                "columns": len(features.names) + (session.role is Role.GUEST),
                "schema": session.commitment(tables.schema(X)),
            }
            labels = self._labels(session, y, len(features.values), own)
            said = session.call("NeuralClassifier.fit", self._shared(len(features.values)), own)[0]
            self._keep(session, features, own, said)
            plan = self._plan(len(features.values))
            start = self._first(session, plan)
            common = Pads(hashlib.sha256(b"vfl network: order and pads" + self.model_id_.encode()).digest())
            inputs = self._inputs(features.values)
            with session.phases.phase("train") as progress:
                self.share_ = session.run(
                    source.train(session.channel, inputs, labels, start, plan, common, session.rng, progress)
                )
            self.n_steps_ = plan.steps
            session.checkpoint()
        return self

    def predict_proba(self, X: Any) -> Any:
        """Return class probabilities, shape (rows, classes), at the guest; the host calls it too and gets None.

        Leakage
        -------
        The guest learns the scores of the rows to 2^-14, the host their number.
        """
        scores = self._scores(X, "predict_proba")
        if scores is None:
            return None
        if self.outputs_ == 1:
            return np.column_stack([expit(-scores[:, 0]), expit(scores[:, 0])])
        each: FloatArray = expit(scores)
        return each / each.sum(axis=1, keepdims=True)

    def decision_function(self, X: Any) -> Any:
        """Return the scores, shape (rows,) or (rows, classes), at the guest; None at the host."""
        scores = self._scores(X, "decision_function")
        return scores[:, 0] if scores is not None and self.outputs_ == 1 else scores

    def predict(self, X: Any) -> Any:
        """Return the likeliest class of each row at the guest; None at the host."""
        scores = self._scores(X, "predict")
        if scores is None:
            return None
        return self.classes_[(scores[:, 0] > 0).astype(int) if self.outputs_ == 1 else scores.argmax(axis=1)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this party's half to a file (JSON, mode 0600); :func:`vfl.load` reads it."""
        check_is_fitted(self, "share_")
        halves.save(self, path)

    # --- parts of the above

    def _labels(self, session: Session, y: Any, rows: int, own: dict[str, object]) -> Labels | None:
        """Return the guest's labels as 0 and 1 for each score; note what the host has to know."""
        if session.role is Role.HOST:
            no_labels(session.name, y)
            return None
        labels = all_labels(y, None, (rows, 0), session.name, least=1, most_classes=data.LARGEST_CLASSES)
        self.classes_ = labels.classes
        places = np.arange(len(labels.classes)) if len(labels.classes) > 2 else np.ones(1)
        own |= {"model": session.rng.bytes(16).hex(), "scores": len(places)}
        found = Labels.of((labels.encoded[:, None] == places).astype(np.float64))
        self.offset_ = found.offset
        return found

    def _keep(
        self, session: Session, features: data.FeatureMatrix, own: dict[str, object], said: dict[str, str]
    ) -> None:
        """Store what is known before training."""
        peer, guest = session.peer.name, session.role is Role.GUEST
        told = {name: str(value) for name, value in own.items()} if guest else said
        self.model_id_, self.outputs_ = (
            told.get("model", "")[:32],
            stated(told, "scores", LARGEST_COLUMNS, peer),
        )
        both = len(features.names) + guest, stated(said, "columns", LARGEST_COLUMNS, peer)
        self.columns_ = both if guest else both[::-1]
        self.feature_names_in_ = np.array(features.names, dtype=object)
        self.n_features_in_, self.role_ = len(features.names), session.role.value
        self.mean_, deviation = features.values.mean(axis=0), features.values.std(axis=0)
        self.scale_ = np.where(deviation > 0, deviation, 1.0)

    def _scores(self, X: Any, method: str) -> Any:
        check_is_fitted(self, "share_")
        session = current()
        with session.joint():
            values = model.scored(self, session, X)
            shared = {"rows": len(values), "model": self.model_id_}
            session.call(f"NeuralClassifier.{method}", shared, {})
            plan = self._plan(len(values))
            with session.phases.phase("score"):
                found = session.run(
                    source.scores(session.channel, self._inputs(values), self.share_, plan, session.rng)
                )
            session.checkpoint()
        return None if found is None else np.asarray(found + self.offset_)

    def _inputs(self, values: FloatArray) -> FloatArray:
        inputs: FloatArray = np.clip((values - self.mean_) / self.scale_, -LARGEST_INPUT, LARGEST_INPUT)
        if self.role_ == Role.GUEST.value:
            inputs = np.column_stack([np.ones(len(inputs)), inputs])
        return inputs

    def _first(self, session: Session, plan: Plan) -> FloatArray:
        """Return this party's part of the first weights: normal, and a phase for the ones."""
        seed = session.rng.bits(128) if self.random_state is None else self.random_state
        rng = np.random.default_rng([seed, session.role is Role.GUEST])
        size = sum(plan.columns), plan.units
        weights = rng.normal(size=size) * FREQUENCY / np.sqrt(2 * size[0])
        weights[0] = rng.uniform(-PHASE, PHASE, plan.units)
        clipped: FloatArray = np.clip(weights, -LARGEST_START, LARGEST_START)
        return clipped

    def _shared(self, rows: int) -> dict[str, object]:
        return {"rows": rows} | {
            name: getattr(self, name)
            for name in ("hidden_units", "epochs", "batch_size", "learning_rate", "momentum", "alpha")
        }

    def _plan(self, rows: int) -> Plan:
        each = rows // min(self.batch_size, rows)
        return Plan(
            rows=rows,
            columns=self.columns_,
            units=self.hidden_units,
            outputs=self.outputs_,
            epochs=-(-STEPS // each) if self.epochs is None else self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            penalty=self.alpha,
        )

    def _check_parameters(self) -> None:
        counts: dict[str, Any] = {
            "hidden_units": self.hidden_units,
            "batch_size": self.batch_size,
            "epochs": 1 if self.epochs is None else self.epochs,
        }
        checks = {
            f"{name} must be a positive integer": isinstance(value, int | np.integer) and value >= 1
            for name, value in counts.items()
        }
        checks |= {
            "learning_rate must lie in (0, 100]": 0 < self.learning_rate <= 100,
            "momentum must lie in [0, 1)": 0 <= self.momentum < 1,
            "alpha must lie in [0, 1]": 0 <= self.alpha <= 1,
        }
        for text, fulfilled in checks.items():
            if not fulfilled:
                raise ValueError(text)
