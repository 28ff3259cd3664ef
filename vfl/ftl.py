"""Federated transfer learning: a network at each side, aligned over the common rows; nothing of a row is opened.

Host and guest make the same estimator and call the same methods.
"""

import os
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from vfl import data, model, stored, tables
from vfl.crypto.product import LatticeBackend
from vfl.fewrows import LARGEST_COLUMNS, all_labels, all_rows, known_columns, no_labels, stated
from vfl.protocols.transfer import ftl
from vfl.protocols.transfer.ftl_terms import LARGEST_INPUT, Guest, Host, Plan
from vfl.protocols.wire import Leakage, Role
from vfl.session import Session, current
from vfl.trees import probabilities

__all__ = ["FTLClassifier", "first_weights", "standard"]

FloatArray = NDArray[np.float64]


def first_weights(columns: int, width: int, seed: int) -> FloatArray:
    """Return a network's weights before training, shape (columns, width): normal, of variance 1 / columns."""
    weights: FloatArray = np.random.default_rng(seed).normal(size=(columns, width)) / np.sqrt(columns)
    return weights


def standard(values: FloatArray, mean: FloatArray, scale: FloatArray) -> FloatArray:
    """Return a network's inputs: ones, and standardised columns cut off at five standard deviations."""
    inputs = np.clip((values - mean) / scale, -LARGEST_INPUT, LARGEST_INPUT)
    return np.column_stack([np.ones(len(inputs)), inputs])


class FTLClassifier(BaseEstimator):  # type: ignore[misc]
    """Secure federated transfer learning (Liu et al., arXiv 1812.03337) with one host, for two classes or more.

    It needs ``accept_leakage = ["gradient"]`` on both sides.

    Parameters
    ----------
    width : int
        Length of a representation.
    max_iter : int
    learning_rate, momentum : float
        Of gradient descent on the mean loss.
    gamma : float
        Weight of the squared distance between the parties' representations of a common row.
    alpha : float
        Weight of half the squared weights.
    random_state : int or None
        Of this party's first weights; None draws them secretly, as it should be between parties.

    Attributes
    ----------
    weights_ : ndarray, shape (1 + own columns, width)
        Of this party's network; the first row is of ones.
    mean_, scale_ : ndarray, shape (own columns,)
    phi_ : ndarray, shape (scores, width)
        At the guest: the direction of each score, one for two classes, else one for each class against the rest.
    classes_ : ndarray
        At the guest.
    loss_curve_ : list of float
        At the guest.
    """

    def __init__(
        self,
        *,
        width: int = 32,
        max_iter: int = 50,
        learning_rate: float = 1.0,
        momentum: float = 0.9,
        gamma: float = 0.05,
        alpha: float = 1e-4,
        random_state: int | None = None,
    ) -> None:
        self.width = width
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.gamma = gamma
        self.alpha = alpha
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, *, rest: Any = None, rest_y: Any = None) -> Self:
        """Train with the peer; both call it with the common rows in the same order.

        Parameters
        ----------
        X : table, shape (rows, own columns)
            The common rows, as :func:`vfl.align` returns them; numeric columns only.
        y : array-like, shape (rows,)
            Labels: the guest's; None at the host.
        rest : table, shape (other rows, own columns), optional
            The guest's other rows; the host's serve to standardise its columns.
        rest_y : array-like, shape (other rows,), optional
            Their labels, at the guest.

        Returns
        -------
        self

        Raises
        ------
        InvalidData, MissingValues
            If this party's tables are unusable; nothing was sent.
        PolicyRefused
            If a configuration does not accept the leakage or the columns.
        ConfigMismatch
            If the peer has other parameters or another number of rows.

        Leakage
        -------
        Each learns its own gradient, summed over the common rows, in each iteration; the guest also the loss
        (:mod:`vfl.protocols.transfer.ftl`). Both learn the numbers of columns, of common rows and of classes.
        """
        session = current()
        with session.joint():
            self._check_parameters()
            features = data.features(X, session.name)
            session.require_columns(features.names)
            session.require_leakage(Leakage.GRADIENT)
            every, rows = all_rows(features, rest, session.name), len(features.values)
            self.feature_names_in_, self.role_ = np.array(features.names, dtype=object), session.role.value
            self.mean_, deviation = every.mean(axis=0), every.std(axis=0)
            self.scale_ = np.where(deviation > 0, deviation, 1.0)
            own: dict[str, object] = {
                "columns": every.shape[1] + 1,
                "schema": session.commitment(tables.schema(X)),
            }
            if session.role is Role.HOST:
                no_labels(session.name, y, rest_y)
                self._fit_host(session, self._inputs(features.values), own)
            else:
                counts = rows, len(every) - rows
                most = data.LARGEST_CLASSES
                labels = all_labels(y, rest_y, counts, session.name, least=1, most_classes=most)
                self._fit_guest(session, self._inputs(every), labels, rows, own)
            session.checkpoint()
        return self

    def predict_proba(self, X: Any) -> FloatArray:
        """Return probabilities from the guest's own representations, at the guest alone and without a session.

        Parameters
        ----------
        X : table, shape (rows, guest columns)

        Returns
        -------
        ndarray, shape (rows, classes)
        """
        check_is_fitted(self, "phi_")
        values = known_columns(X, tuple(self.feature_names_in_), "guest")
        return probabilities(np.tanh(self._inputs(values) @ self.weights_) @ self.phi_.T)

    def joint_predict_proba(self, X: Any) -> FloatArray | None:
        """Return probabilities from the host's representations of its rows; both parties call it.

        Parameters
        ----------
        X : table, shape (rows, own columns)
            The guest's serves to agree on the number of rows alone.

        Returns
        -------
        ndarray, shape (rows, classes), or None at the host

        Leakage
        -------
        The guest learns the scores, the host the number of rows and of classes.
        """
        check_is_fitted(self, "weights_")
        session = current()
        with session.joint():
            values = model.scored(self, session, X)
            session.call(
                "FTLClassifier.joint_predict_proba", {"rows": len(values), "model": self.model_id_}, {}
            )
            with session.phases.phase("score"):
                if session.role is Role.HOST:
                    u = np.tanh(self._inputs(values) @ self.weights_)
                    role = ftl.host_scores(session.channel, u, self.scores_, LatticeBackend, session.rng)
                    session.run(role)
                    session.checkpoint()
                    return None
                scores = session.run(
                    ftl.guest_scores(session.channel, self.phi_, len(values), LatticeBackend, session.rng)
                )
                session.checkpoint()
            return probabilities(scores)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class of each row by :meth:`predict_proba`."""
        found: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this party's half to a file (JSON, mode 0600); :func:`vfl.load` reads it."""
        check_is_fitted(self, "weights_")
        model.write_private(Path(path), stored.of_ftl(self))

    # --- each role's part

    def _fit_host(self, session: Session, inputs: FloatArray, own: dict[str, object]) -> None:
        said = session.call("FTLClassifier.fit", self._shared(len(inputs)), own)[0]
        scores, theirs = (
            stated(said, name, LARGEST_COLUMNS, session.peer.name) for name in ("scores", "columns")
        )
        self.model_id_, self.scores_ = said.get("model", "")[:32], scores
        plan = self._plan(len(inputs), (theirs, inputs.shape[1]), scores)
        start = Host(inputs, self._first(session, inputs), plan)
        with session.phases.phase("train") as progress:
            found = session.run(ftl.host(session.channel, start, LatticeBackend, session.rng, progress))
        self.weights_ = found.weights

    def _fit_guest(
        self, session: Session, inputs: FloatArray, labels: data.Labels, rows: int, own: dict[str, object]
    ) -> None:
        self.model_id_ = session.rng.bytes(16).hex()
        places = np.arange(len(labels.classes)) if len(labels.classes) > 2 else np.ones(1)
        y = np.where(labels.encoded[:, None] == places, 1.0, -1.0)
        own |= {"model": self.model_id_, "scores": len(places)}
        said = session.call("FTLClassifier.fit", self._shared(rows), own)[0]
        theirs = stated(said, "columns", LARGEST_COLUMNS, session.peer.name)
        plan = self._plan(rows, (inputs.shape[1], theirs), len(places))
        start = Guest(inputs, y, self._first(session, inputs), plan)
        with session.phases.phase("train") as progress:
            found, self.loss_curve_ = session.run(
                ftl.guest(session.channel, start, LatticeBackend, session.rng, progress)
            )
        self.weights_, self.phi_, self.classes_ = found.weights, found.phi, labels.classes
        session.facts.history, session.facts.history_name = list(enumerate(self.loss_curve_, 1)), "loss"

    def _first(self, session: Session, inputs: FloatArray) -> FloatArray:
        seed = session.rng.bits(128) if self.random_state is None else self.random_state
        return first_weights(inputs.shape[1], self.width, seed)

    def _inputs(self, values: FloatArray) -> FloatArray:
        return standard(values, self.mean_, self.scale_)

    def _shared(self, rows: int) -> dict[str, object]:
        names = ("width", "max_iter", "learning_rate", "momentum", "gamma", "alpha")
        return {"rows": rows} | {name: getattr(self, name) for name in names}

    def _plan(self, rows: int, columns: tuple[int, int], scores: int) -> Plan:
        return Plan(
            rows=rows,
            columns=columns,
            width=self.width,
            classes=scores,
            iterations=self.max_iter,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            gamma=self.gamma,
            penalty=self.alpha,
        )

    def _check_parameters(self) -> None:
        checks = {
            "width and max_iter must be positive integers": self.width >= 1 and self.max_iter >= 1,
            "learning_rate must be positive": self.learning_rate > 0,
            "momentum must lie in [0, 1)": 0 <= self.momentum < 1,
            "gamma must lie in [0, 100], alpha must not be negative": 0 <= self.gamma <= 100
            and self.alpha >= 0,
        }
        for text, fulfilled in checks.items():
            if not fulfilled:
                raise ValueError(text)
