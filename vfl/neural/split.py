"""The split network: hosts send embeddings, the guest predicts classes from them and from its own columns.

Host and guest make the same estimator and call the same methods. It needs PyTorch (``pip install 'vfl[torch]'``).
"""

import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from vfl import data, tables
from vfl.errors import InvalidData, MalformedMessage, SchemaMismatch
from vfl.extras import load_torch
from vfl.fewrows import no_labels, stated
from vfl.neural import defences, split_sides
from vfl.neural.defences import Defence, Defended, Undefended
from vfl.neural.inputs import Inputs, Values
from vfl.neural.towers import Bottom, top
from vfl.protocols import split
from vfl.protocols.wire import Leakage, Role
from vfl.session import Session, current

__all__ = ["SplitClassifier"]

FloatArray = NDArray[np.float64]
STEPS = 2400
"""Batches that `max_iter=None` aims at, over 15 to 120 epochs."""
ENOUGH_ROWS = 20_000
LARGEST_WIDTH = 4096


class SplitClassifier(BaseEstimator):  # type: ignore[misc]
    """Vertical split learning for two classes or more, with one host or several, defended by default.

    Each party has a bottom network over its own columns; the guest also has the top network over all embeddings, and
    the labels. All configurations have to accept ``["representation", "noisy_label"]``, and
    ``["representation", "row_gradient"]`` for :class:`Undefended` and :class:`Marvell`.

    Parameters
    ----------
    embedding : int
        Length of a host's embeddings; hosts may differ. At the guest, of its own.
    hidden : sequence of int
        Hidden layers of this party's bottom network.
    top : sequence of int
        Hidden layers of the top network: the guest's.
    max_iter : int or None
        Epochs; None takes 15 to 120, fewer for more rows.
    batch_size : int or None
        Rows; None takes a 32nd of all rows, 32 to 256.
    learning_rate : float or None
        Of AdamW at this party; None takes 0.002, and 0.0005 at a host that learns from 20,000 randomised labels or
        more: less from fewer, which say less.
    alpha : float
        Weight decay of this party's networks.
    categorical : sequence of str or None
        This party's columns that are categories, beside those of text.
    defence : Defended or Undefended
        The same at all parties.
    random_state : int or None
        Of this party's first weights; None draws them secretly, as it should be between parties. Defences take their
        randomness from elsewhere.

    Attributes
    ----------
    classes_ : ndarray
        At the guest.
    loss_curve_ : list of float
        At the guest, mean loss by epoch.
    plan_ : vfl.protocols.split.Plan
        What was agreed on, with the order of the rows.
    inputs_ : Inputs
    feature_names_in_ : ndarray of str
    """

    def __init__(
        self,
        *,
        embedding: int = 32,
        hidden: Sequence[int] = (64,),
        top: Sequence[int] = (64,),
        max_iter: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        alpha: float = 1e-4,
        categorical: Sequence[str] | None = None,
        defence: Defence = Defended(),  # noqa: B008 - it cannot be changed
        random_state: int | None = None,
    ) -> None:
        self.embedding = embedding
        self.hidden = hidden
        self.top = top
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.alpha = alpha
        self.categorical = categorical
        self.defence = defence
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train with the peers; all parties call it with rows in the same order.

        Parameters
        ----------
        X : table, shape (rows, own columns)
            Columns of numbers, and of text as categories.
        y : array-like, shape (rows,)
            Labels: the guest's; None at a host.

        Returns
        -------
        self

        Raises
        ------
        InvalidData, MissingValues
            If this party's table is unusable; nothing was sent.
        ConfigError
            Without PyTorch.
        PolicyRefused
            If a configuration does not accept the leakage or the columns.
        ConfigMismatch
            If a peer has other parameters or another number of rows.
        MalformedMessage
            If a peer sends numbers that are not finite or beyond the agreed bound.

        Leakage
        -------
        The guest learns each host's embedding of each row, in each epoch. A host learns a randomised label of each row
        (:class:`RandomisedLabels`), or gradients from which labels follow. All learn the number of rows and the length
        of the embeddings (docs/protocols/split.md).
        """
        session = current()
        with session.joint():
            self._check_parameters()
            load_torch()
            inputs, values = Inputs.fit(X, self.categorical, session.name)
            session.require_columns(inputs.names)
            session.require_leakage(*defences.leakage(self.defence))
            self.inputs_, self.role_ = inputs, session.role.value
            self.feature_names_in_ = np.array(inputs.names, dtype=object)
            self.n_features_in_ = len(inputs.names)
            own: dict[str, object] = {"schema": session.commitment(tables.schema(X))}
            if session.role is Role.HOST:
                no_labels(session.name, y)
                self._fit_host(session, values, own)
            else:
                self._fit_guest(session, values, y, own)
            session.checkpoint()
        return self

    def predict_proba(self, X: Any) -> FloatArray | None:
        """Return class probabilities, shape (rows, classes), at the guest; a host calls it too and gets None.

        Parameters
        ----------
        X : table, shape (rows, own columns)

        Raises
        ------
        SchemaMismatch
            If this half belongs to the other role, or the columns differ.

        Leakage
        -------
        The guest learns each host's embedding of each row, hosts the number of rows.
        """
        return self._scores(X, "predict_proba")

    def predict(self, X: Any) -> NDArray[Any] | None:
        """Return the likeliest class of each row at the guest; None at a host. Leakage as :meth:`predict_proba`."""
        found = self._scores(X, "predict")
        return None if found is None else np.asarray(self.classes_)[found.argmax(axis=1)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this party's half to a file (mode 0600, arrays and declared sizes); :func:`vfl.load` reads it."""
        from vfl.neural import split_files

        check_is_fitted(self, "model_id_")
        split_files.save(self, path)

    # --- each role's part

    def _fit_host(self, session: Session, values: Values, own: dict[str, object]) -> None:
        told = session.call(
            "SplitClassifier.fit", self._shared(len(values)), own | {"width": self.embedding}
        )[0]
        self.model_id_, self.plan_ = (
            told.get("model", "")[:32],
            self._plan(len(values), told.get("order", "")),
        )
        self.secret_ = session.rng.bytes(32)
        self._build_bottom(self._seed(session))
        side = split_sides.Host(
            self.bottom_,
            values,
            self.embedding,
            self.defence,
            self._noise(),
            session.rng,
            self._rate(),
            self.alpha,
            self.plan_.steps,
        )
        with session.phases.phase("train") as progress:
            session.run(split.host(session.channel, side, self.plan_, progress))

    def _fit_guest(self, session: Session, values: Values, y: Any, own: dict[str, object]) -> None:
        if y is None:
            raise InvalidData(f"{session.name} is the guest: pass the labels as y")
        labels = data.labels(y, session.name, rows=len(values), most_classes=data.LARGEST_CLASSES)
        if split_sides.two_classes_only(self.defence) and len(labels.classes) > 2:
            raise InvalidData(
                f"{session.name}: Marvell is for two classes, the labels have {len(labels.classes)}"
            )
        self.model_id_, order = session.rng.bytes(16).hex(), session.rng.bytes(32).hex()
        own |= {"model": self.model_id_, "order": order}
        told = session.call("SplitClassifier.fit", self._shared(len(values)), own)
        self.widths_ = tuple(
            stated(said, "width", LARGEST_WIDTH, peer.name, "length of its embeddings")
            for said, peer in zip(told, session.peers, strict=True)
        )
        self.plan_, self.classes_ = self._plan(len(values), order), labels.classes
        places, seed = labels.encoded.astype(np.int64), self._seed(session)
        self._build_bottom(seed)
        self._build_top(seed)
        protect = split_sides.protection(self.defence, places, len(self.classes_), self.widths_, session.rng)
        side = split_sides.Guest(
            self.bottom_, self.top_, values, places, protect, self._rate(), self.alpha, self.plan_.steps
        )
        with session.phases.phase("train") as progress:
            session.run(
                split.guest(session.channels, self.widths_, side, self.plan_, self._bounds(), progress)
            )
        self.loss_curve_ = side.losses
        session.facts.history, session.facts.history_name = list(enumerate(self.loss_curve_, 1)), "loss"

    def _scores(self, X: Any, operation: str) -> FloatArray | None:
        check_is_fitted(self, "model_id_")
        session = current()
        with session.joint():
            if session.role.value != self.role_:
                raise SchemaMismatch(
                    f"this half of the model was trained by the {self.role_}, {session.name} is the {session.role}"
                )
            values = self.inputs_.values(X, session.name)
            session.require_columns(self.inputs_.names)
            session.require_leakage(Leakage.REPRESENTATION)
            shared = {"rows": len(values), "model": self.model_id_}
            session.call(f"SplitClassifier.{operation}", shared, {})
            with session.phases.phase("score"):
                found: FloatArray | None = None
                if session.role is Role.HOST:
                    self._send(session, values)
                else:
                    found = self._receive(session, values)
                session.checkpoint()
        return found

    def _send(self, session: Session, values: Values) -> None:
        embedded, noise = self.bottom_.scores(values).numpy(), self._noise()
        if noise is not None:
            embedded = noise.apply(embedded, noise.of_rows(values.raw, self.embedding), session.rng)
        session.run(split.host_scores(session.channel, embedded, self._bounds((self.embedding,))[0]))

    def _receive(self, session: Session, values: Values) -> FloatArray:
        torch = load_torch()
        if len(self.widths_) != len(session.channels):
            raise SchemaMismatch(
                f"{session.name}: the model has {len(self.widths_)} hosts, {len(session.channels)} are here"
            )
        parts = session.run(split.guest_scores(session.channels, self.widths_, len(values), self._bounds()))
        with torch.no_grad():
            received = [torch.from_numpy(part.copy()) for part in parts]
            scores = self.top_(torch.cat([self.bottom_.scores(values), *received], dim=1))
            return np.asarray(scores.double().softmax(dim=1).numpy())

    # --- what both roles need

    def _build_bottom(self, seed: int) -> None:
        longest = (
            split_sides.longest(self.defence, self.embedding) if self.role_ == Role.HOST.value else np.inf
        )
        columns = len(self.inputs_.numeric), self.inputs_.sizes
        self.bottom_ = Bottom(*columns, tuple(self.hidden), self.embedding, longest, seed)

    def _build_top(self, seed: int) -> None:
        width = self.embedding + sum(self.widths_)
        self.top_ = top(width, tuple(self.top), len(self.classes_), seed + 1)

    def _networks(self) -> list[tuple[str, Any]]:
        found = [("bottom", self.bottom_.network)]
        return found + [("top", self.top_)] if self.role_ == Role.GUEST.value else found

    def _noise(self) -> defences.NoisyEmbeddings | None:
        return split_sides.noise(self.defence, self.secret_, self.embedding)

    def _bounds(self, widths: tuple[int, ...] | None = None) -> tuple[float, ...]:
        """Return the bound on each host's embeddings."""
        found = self.widths_ if widths is None else widths
        return tuple(defences.bound(self.defence, width, split.LARGEST) for width in found)

    def _seed(self, session: Session) -> int:
        return session.rng.bits(63) if self.random_state is None else int(self.random_state)

    def _rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        if self.role_ == Role.GUEST.value or Leakage.NOISY_LABEL not in defences.leakage(self.defence):
            return 2e-3
        return 5e-4 * min(1.0, self.plan_.rows / ENOUGH_ROWS)

    def _shared(self, rows: int) -> dict[str, object]:
        names = ("max_iter", "batch_size", "defence")
        return {"rows": rows} | {name: getattr(self, name) for name in names}

    def _plan(self, rows: int, order: str) -> split.Plan:
        try:
            seed = bytes.fromhex(order)
        except ValueError:
            seed = b""
        if len(seed) != 32:
            raise MalformedMessage("the guest did not state an order of the rows")
        batch = self.batch_size or min(256, max(32, rows // 32))
        epochs = self.max_iter or min(120, max(15, STEPS // max(1, rows // batch)))
        randomised = Leakage.NOISY_LABEL in defences.leakage(self.defence)
        gradient = split.LabelGradient if randomised else split.RowGradient
        return split.Plan(rows, batch, epochs, seed, gradient)

    def _check_parameters(self) -> None:
        whole = [self.embedding, *self.hidden, *self.top]
        optional = [self.max_iter, self.batch_size]
        checks = {
            "embedding, hidden and top must be positive integers": all(_positive(value) for value in whole),
            f"embedding must be at most {LARGEST_WIDTH}": self.embedding <= LARGEST_WIDTH,
            "max_iter and batch_size must be positive integers or None": all(
                value is None or _positive(value) for value in optional
            ),
            "batch_size must be 2 or more": self.batch_size is None or self.batch_size >= 2,
            "learning_rate must be positive": self.learning_rate is None or self.learning_rate > 0,
            "alpha must not be negative": self.alpha >= 0,
            "defence must be Defended(...) or Undefended()": isinstance(self.defence, Defended | Undefended),
        }
        for text, fulfilled in checks.items():
            if not fulfilled:
                raise ValueError(text)


def _positive(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1
