"""Few common customers: a guest learns from a host's representations of the rows that both have.

Host and guest make the same estimator and call the same methods. Unlike the other models, this one predicts at the
guest alone; with the host's representations of the rows that are scored it predicts better.
"""

import os
import warnings
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from vfl import data, model, stored, tables
from vfl.distillation import FOLDS, Teacher, cross_fitted, student
from vfl.errors import InvalidData, LeakageWarning, LocalProtocolError, SchemaMismatch
from vfl.fewrows import all_labels, all_rows, known_columns, no_labels, stated
from vfl.protocols.transfer import oneshot
from vfl.protocols.wire import Leakage, Role
from vfl.representations import Encoder
from vfl.session import Session, current
from vfl.trees import Trees, boosted, probabilities

__all__ = ["TransferClassifier"]

FloatArray = NDArray[np.float64]
LEAST_OF_A_CLASS = 2 * FOLDS
"""Common rows of each class without which the folds of training are too small."""
LARGEST_COMPONENTS = 10_000


class TransferClassifier(BaseEstimator):  # type: ignore[misc]
    """One-shot vertical transfer for two classes or more.

    It needs ``accept_leakage = ["representation"]`` on all sides.

    Each host learns representations of its columns from its own rows and sends those of the common rows, once. The
    guest trains locally (:mod:`vfl.distillation`): its own model, a teacher over its columns and the representations,
    and a student of its columns alone. Common rows need not have a label: of those the student learns what the teacher
    thinks. If all have one, it is the own model.

    Parameters
    ----------
    components : int or None
        Length of this host's representations; None takes as many as hold 95 % of the variance of its standardised
        columns, and not all. Fewer say less of each row. A guest leaves it None; hosts may differ.
    random_state : int
        Of the guest's folds: no secret depends on it.

    Attributes
    ----------
    classes_ : ndarray, shape (classes,)
        At the guest.
    encoder_ : Encoder
        At a host.
    baselines_ : dict of str to Trees
        At the guest: ``"guest"``, a model of its own columns and of all its labelled rows, and ``"overlap"``, one of
        its columns and the representations that has seen nothing but the labelled common rows. Both are boosted trees
        with ``predict_proba(values)``, an array in and an array out.
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
            Labels: the guest's; None at a host. A null or NaN is a row without a label.
        rest : table, shape (other rows, own columns), optional
            This party's other rows, with the same columns: a host learns its representations from them, too.
        rest_y : array-like, shape (other rows,), optional
            Their labels, at the guest; none missing.

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
                labels, known = self._labels(session, y, rest_y, len(features.values), len(every))
                self._fit_guest(session, every, labels, known, len(features.values), own)
            session.checkpoint()
        return self

    def predict_proba(self, X: Any) -> FloatArray:
        """Return the student's probabilities, at the guest alone and without a session.

        Parameters
        ----------
        X : table, shape (rows, guest columns)

        Returns
        -------
        ndarray, shape (rows, classes)

        Raises
        ------
        LocalProtocolError
            At a host, which has no model of the labels.
        """
        check_is_fitted(self, "role_")
        if self.role_ != Role.GUEST.value:
            raise LocalProtocolError("a host has no model of the labels: only the guest predicts alone")
        return self.student_.predict_proba(known_columns(X, tuple(self.feature_names_in_), "guest"))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class of each row by :meth:`predict_proba`."""
        found: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return found

    def joint_predict_proba(self, X: Any) -> FloatArray | None:
        """Return the teacher's probabilities for common rows; all parties call it, in the same order of rows.

        Parameters
        ----------
        X : table, shape (rows, own columns)

        Returns
        -------
        ndarray, shape (rows, classes), or None at a host

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
            own = self.baselines_["guest"].scores(values)
            return probabilities(self.teacher_.scores(own, values, encoded))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this party's half to a file (JSON, mode 0600); :func:`vfl.load` reads it."""
        check_is_fitted(self, "role_")
        model.write_private(Path(path), stored.of_transfer(self))

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

    def _labels(
        self, session: Session, y: Any, rest_y: Any, common: int, every: int
    ) -> tuple[data.Labels, NDArray[np.bool_]]:
        """Return the labels of the rows that have one, and which rows these are."""
        known = np.ones(every, dtype=bool)
        if y is not None:
            y, known[:common] = data.with_gaps(y, session.name, rows=common)
            y = y[known[:common]]
        rows, most = (int(known[:common].sum()), every - common), data.LARGEST_CLASSES
        labels = all_labels(y, rest_y, rows, session.name, least=LEAST_OF_A_CLASS, most_classes=most)
        if rows[0] < common:
            session.facts.notes.append(f"{common - rows[0]} of {common} common rows have no label")
        return labels, known

    def _fit_guest(
        self,
        session: Session,
        every: FloatArray,
        labels: data.Labels,
        known: NDArray[np.bool_],
        rows: int,
        own: dict[str, object],
    ) -> None:
        if self.components is not None:
            raise InvalidData(
                f"{session.name} is the guest: components are each host's own choice; leave them None"
            )
        self.model_id_ = session.rng.bytes(16).hex()
        theirs = session.call("TransferClassifier.fit", {"rows": rows}, own | {"model": self.model_id_})
        self.lengths_ = tuple(
            stated(said, "components", LARGEST_COMPONENTS, peer.name)
            for said, peer in zip(theirs, session.peers, strict=True)
        )
        with session.phases.phase("train"):
            encoded = self._receive(session, rows)
            self._learn(every, labels.encoded, known, encoded)
        self.classes_ = labels.classes

    def _receive(self, session: Session, rows: int) -> FloatArray:
        """Return the representations of all hosts side by side."""
        if len(self.lengths_) != len(session.channels):
            raise SchemaMismatch(
                f"the model was trained with {len(self.lengths_)} hosts, not {len(session.channels)}"
            )
        parts = zip(session.channels, self.lengths_, strict=True)
        return np.hstack([session.run(oneshot.guest(channel, rows, length)) for channel, length in parts])

    def _learn(self, every: FloatArray, y: FloatArray, known: NDArray[np.bool_], encoded: FloatArray) -> None:
        rows, seed = len(encoded), self.random_state
        common, taught = every[:rows], known[:rows]
        own = boosted(every[known], y)
        unseen = cross_fitted(every[known], y, seed)[: taught.sum()]
        labels = y[: taught.sum()]
        self.teacher_ = Teacher.fit(unseen, common[taught], encoded[taught], labels, seed)
        self.student_, others = own, common[~taught]
        if len(others):
            opinions = self.teacher_.scores(own.scores(others), others, encoded[~taught])
            self.student_ = student(every[known], y, others, opinions)
        self.baselines_: dict[str, Trees] = {
            "guest": own,
            "overlap": boosted(np.hstack([common[taught], encoded[taught]]), labels),
        }
