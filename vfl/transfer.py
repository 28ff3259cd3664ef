"""Few common customers: a guest learns from a host's representations of the rows that both have.

Host and guest make the same estimator and call the same methods. Unlike the other models, this one predicts at the
guest alone; with the host's representations of the rows that are scored it predicts better.
"""

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from vfl import data, model, tables
from vfl.distillation import FOLDS, Teacher, boosted, cross_fitted, score, student
from vfl.errors import InvalidData, LeakageWarning, LocalProtocolError, MalformedMessage
from vfl.fewrows import all_labels, all_rows, known_columns, no_labels
from vfl.protocols.transfer import oneshot
from vfl.protocols.wire import Leakage, Role
from vfl.representations import Encoder
from vfl.session import Session, current

__all__ = ["TransferClassifier"]

FloatArray = NDArray[np.float64]
LEAST_OF_A_CLASS = 2 * FOLDS
"""Common rows of each class without which the folds of training are too small."""
LARGEST_COMPONENTS = 10_000


class TransferClassifier(BaseEstimator):  # type: ignore[misc]
    """One-shot vertical transfer for two classes; it needs ``accept_leakage = ["representation"]`` on all sides.

    Each host learns representations of its columns from its own rows and sends those of the common rows, once. The
    guest trains three models locally (:mod:`vfl.distillation`): its own one, a teacher over its columns and the
    representations, and a student of its columns alone.

    Parameters
    ----------
    components : int or None
        Length of this host's representations; None takes three quarters of its columns. Fewer say less of each row. A
        guest leaves it None; hosts may differ.
    random_state : int
        Of the guest's folds: no secret depends on it.

    Attributes
    ----------
    classes_ : ndarray, shape (2,)
        At the guest.
    encoder_ : Encoder
        At a host.
    baselines_ : dict of str to Any
        At the guest: ``"guest"``, a model of its own columns, and ``"overlap"``, one of its columns and the
        representations that has seen nothing but the common rows; both by boosted trees.
    feature_names_in_ : ndarray of str
    """

    def __init__(self, *, components: int | None = None, random_state: int = 0) -> None:
        self.components = components
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, *, rest: Any = None, rest_y: Any = None) -> Self:
        """Train with the peers; all parties call it with the common rows in the same order.

        Parameters
        ----------
        X : table, shape (rows, own columns)
            The common rows, as :func:`vfl.align` returns them; numeric columns only.
        y : array-like, shape (rows,)
            Labels of two classes: the guest's; None at a host.
        rest : table, shape (other rows, own columns), optional
            This party's other rows, with the same columns: a host learns its representations from them, too.
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
            If a peer trains another model or has another number of rows.

        Warns
        -----
        LeakageWarning
            At a host whose representations are as long as it has columns.

        Leakage
        -------
        The guest learns every host's representations of the common rows (:mod:`vfl.protocols.transfer.oneshot`). All
        learn the number of common rows, and the guest the length of the representations. Nobody learns how many other
        rows a party has.
        """
        session = current()
        with session.joint():
            features = data.features(X, session.name)
            session.require_columns(features.names)
            session.require_leakage(Leakage.REPRESENTATION)
            every = all_rows(features, rest, session.name)
            own: dict[str, object] = {"schema": session.commitment(tables.schema(X))}
            self.role_ = session.role.value
            self.feature_names_in_ = np.array(features.names, dtype=object)
            if session.role is Role.HOST:
                no_labels(session.name, y, rest_y)
                self._fit_host(session, every, len(features.values), own)
            else:
                rows = len(features.values), len(every) - len(features.values)
                labels = all_labels(y, rest_y, rows, session.name, least=LEAST_OF_A_CLASS)
                self._fit_guest(session, every, labels, len(features.values), own)
            session.checkpoint()
        return self

    def predict_proba(self, X: Any) -> FloatArray:
        """Return the student's probabilities of both classes, at the guest alone and without a session.

        Parameters
        ----------
        X : table, shape (rows, guest columns)

        Returns
        -------
        ndarray, shape (rows, 2)

        Raises
        ------
        LocalProtocolError
            At a host, which has no model of the labels.
        """
        check_is_fitted(self, "role_")
        if self.role_ != Role.GUEST.value:
            raise LocalProtocolError("a host has no model of the labels: only the guest predicts alone")
        return _probabilities(score(self.student_, known_columns(X, tuple(self.feature_names_in_), "guest")))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the more probable class of each row by :meth:`predict_proba`."""
        more: NDArray[np.int64] = (self.predict_proba(X)[:, 1] > 0.5).astype(np.int64)
        return np.asarray(self.classes_)[more]

    def joint_predict_proba(self, X: Any) -> FloatArray | None:
        """Return the teacher's probabilities for common rows; all parties call it, in the same order of rows.

        Parameters
        ----------
        X : table, shape (rows, own columns)

        Returns
        -------
        ndarray, shape (rows, 2), or None at a host

        Raises
        ------
        SchemaMismatch
            If this half belongs to the other role, or the columns differ.

        Leakage
        -------
        The guest learns the hosts' representations of these rows.
        """
        check_is_fitted(self, "role_")
        session = current()
        with session.joint():
            values = model.scored(self, session, X)
            session.require_leakage(Leakage.REPRESENTATION)
            session.call(
                "TransferClassifier.joint_predict_proba", {"rows": len(values), "model": self.model_id_}, {}
            )
            with session.phases.phase("score"):
                if session.role is Role.HOST:
                    session.run(oneshot.host(session.channel, self.encoder_.transform(values)))
                    session.checkpoint()
                    return None
                encoded = self._receive(session, len(values))
                session.checkpoint()
            return _probabilities(
                self.teacher_.score(score(self.baselines_["guest"], values), values, encoded)
            )

    # --- each role's part

    def _fit_host(self, session: Session, every: FloatArray, rows: int, own: dict[str, object]) -> None:
        encoder = Encoder.fit(every, self.components)
        if encoder.components == every.shape[1]:
            text = (
                f"{session.name}: representations of {encoder.components} numbers hold all {every.shape[1]} columns: "
                "the guest can solve for them; choose fewer components"
            )
            session.facts.notes.append(text)
            warnings.warn(text, LeakageWarning, stacklevel=4)
        told = session.call(
            "TransferClassifier.fit", {"rows": rows}, own | {"components": encoder.components}
        )
        with session.phases.phase("train"):
            session.run(oneshot.host(session.channel, encoder.transform(every[:rows])))
        self.encoder_, self.model_id_ = encoder, told[0].get("model", "")[:32]

    def _fit_guest(
        self, session: Session, every: FloatArray, labels: data.Labels, rows: int, own: dict[str, object]
    ) -> None:
        if self.components is not None:
            raise InvalidData(
                f"{session.name} is the guest: components are each host's own choice; leave them None"
            )
        self.model_id_ = session.rng.bytes(16).hex()
        theirs = session.call("TransferClassifier.fit", {"rows": rows}, own | {"model": self.model_id_})
        self._lengths = tuple(
            _length(said.get("components", ""), peer.name)
            for said, peer in zip(theirs, session.peers, strict=True)
        )
        with session.phases.phase("train"):
            encoded = self._receive(session, rows)
            self._learn(every, labels.encoded, encoded)
        self.classes_ = labels.classes

    def _receive(self, session: Session, rows: int) -> FloatArray:
        """Return the representations of all hosts side by side."""
        parts = zip(session.channels, self._lengths, strict=True)
        return np.hstack([session.run(oneshot.guest(channel, rows, length)) for channel, length in parts])

    def _learn(self, every: FloatArray, y: FloatArray, encoded: FloatArray) -> None:
        rows, seed = len(encoded), self.random_state
        common = every[:rows]
        unseen = cross_fitted(every, y, seed)[:rows]
        self.teacher_, opinions = Teacher.fit(unseen, common, encoded, y[:rows], seed)
        self.student_ = student(every, y, opinions, self.teacher_.mixture)
        self.baselines_ = {
            "guest": boosted(every, y),
            "overlap": boosted(np.column_stack([common, encoded]), y[:rows]),
        }


def _probabilities(scores: FloatArray) -> FloatArray:
    return np.column_stack([expit(-scores), expit(scores)])


def _length(text: str, party: str) -> int:
    """Return a stated number of components, if it is plausible."""
    if (
        not text.isascii()
        or not text.isdecimal()
        or len(text) > 6
        or not 1 <= int(text) <= LARGEST_COMPONENTS
    ):
        raise MalformedMessage(f"{party} did not state a plausible number of components")
    return int(text)
