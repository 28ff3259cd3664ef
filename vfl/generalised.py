"""What the generalised linear models share: the call in lockstep, training, scores, this party's half.

Each party standardises and whitens its own columns locally (block preconditioning, nothing is sent) and keeps its own
half of the model.
"""

import os
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from vfl import data, exchange, model, strict, tables
from vfl.blocks import Block, Limits
from vfl.errors import InvalidData, MalformedMessage
from vfl.families import Family, Target
from vfl.fewrows import stated
from vfl.inference import Summary
from vfl.protocols import score
from vfl.protocols.wire import Role
from vfl.session import Session, current
from vfl.training import Fit, Task

__all__ = ["Block", "GeneralisedLinear"]

FloatArray = NDArray[np.float64]
LARGEST_COLUMNS = 1_000_000
PROTOCOLS: dict[str, Any] = {"strict": strict, "exchange": exchange}
SCHEMES = {"strict": ("auto", "lattice", "paillier"), "exchange": ("auto", "ckks", "paillier")}


class GeneralisedLinear(BaseEstimator):  # type: ignore[misc]
    """What the models share: the call in lockstep, training, scores and this party's half.

    They are neither classifiers nor regressors by scikit-learn's tags: a guest's ``cv=5`` would else be stratified by
    labels that the hosts do not have, and the parties would hold out different rows.
    """

    _shared: tuple[str, ...] = (
        "fit_intercept",
        "max_iter",
        "batch_size",
        "early_stopping",
        "validation_fraction",
        "security",
        "he",
        "key_bits",
        "inference",
    )
    fit_intercept: bool
    max_iter: int | None
    batch_size: int | Literal["auto"] | None
    tol: float | None
    early_stopping: bool
    validation_fraction: float
    winsorise: float | None
    security: str
    he: str
    key_bits: int
    inference: bool

    coef_: FloatArray
    intercept_: float | FloatArray
    standard_errors_: FloatArray | None
    limits_: Limits
    feature_names_in_: NDArray[np.object_]
    n_features_in_: int
    n_iter_: int
    loss_curve_: list[float]
    distance_curve_: list[float]
    converged_: bool
    model_id_: str
    role_: str

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train with the peers; all parties call it with rows in the same order.

        Parameters
        ----------
        X : table, shape (rows, own columns)
            Numeric columns only.
        y : array-like, shape (rows,)
            Labels or targets: the guest's; None at a host.
        sample_weight : array-like, shape (rows,), optional
            Positive weights: the guest's. Only their ratios matter: hosts do not learn their sum, so it is taken to be
            the number of rows.

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
            If a peer trains another model, or has other parameters or another number of rows.
        TrainingDiverged
            If scores leave the range in which the link is right, or the loss rises.

        Warns
        -----
        ConvergenceWarning
            With ``security="strict"``, at the guest, if `max_iter` came before convergence.

        Leakage
        -------
        All learn each other's numbers of columns, the number of rows, of models and of iterations, and the parameters;
        hosts also whether rows are weighted. Each learns its own weights. With ``security="strict"`` the guest learns
        the inner products of the gradients, over all columns of all parties; with early stopping the sum of squared
        residuals of the rows that were held out; and that scores are within the range of the link
        (:mod:`vfl.protocols.glm`, with who may collude with whom). With ``inference=True`` each party learns the
        standard errors of its own weights, the guest also the dispersion and a few traces of powers of the information
        matrix (:mod:`vfl.protocols.inference`). With ``security="exchange"``: the guest learns the
        host's part of every row's score once per epoch, the host its own gradient of every batch and the power of two
        above the guest's largest weighted residual.
        """
        return self._fit(X, y, sample_weight, None)

    @property
    def summary_(self) -> Summary | list[Summary]:
        """This party's coefficients with standard errors, z and p values and intervals; one table for each class.

        Raises
        ------
        AttributeError
            If the model was trained without ``inference=True``.
        """
        check_is_fitted(self, "coef_")
        if self.standard_errors_ is None:
            raise AttributeError("this model has no standard errors: train with inference=True on all sides")
        names = [str(name) for name in self.feature_names_in_]
        rows = zip(np.atleast_2d(self.coef_), np.atleast_2d(self.standard_errors_), strict=True)
        tables = [Summary(names, coef, errors) for coef, errors in rows]
        return tables if self.coef_.ndim > 1 else tables[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this party's half to a file (JSON, mode 0600); :func:`vfl.load` reads it."""
        check_is_fitted(self, "coef_")
        model.save(self, path)

    def check_parameters(self) -> None:
        """Refuse parameters that cannot work.

        Raises
        ------
        ValueError
            Naming the parameter and what it may be.
        """
        link, schemes = self._family.link, SCHEMES.get(self.security, ())
        protocols = [name for name, protocol in PROTOCOLS.items() if link in protocol.MAX_ITER]
        limit = PROTOCOLS[self.security].LARGEST_MAX_ITER if self.security in PROTOCOLS else 1 << 20
        checks: Mapping[str, bool] = {
            f"security must be {' or '.join(map(repr, protocols))}": self.security in protocols,
            f"he must be {' or '.join(map(repr, schemes))}": self.he in schemes,
            "max_iter must be a positive integer": _positive_integer(self.max_iter, None),
            f"max_iter must be at most {limit} with security={self.security!r}": (self.max_iter or 1)
            <= limit,
            "tol must not be negative": self.tol is None or self.tol >= 0,
            "batch_size must be a positive integer, 'auto' or None": _positive_integer(
                self.batch_size, "auto", None
            ),
            "batch_size must be 'auto' or None with security='strict', which trains on all rows at once": (
                self.security != "strict" or self.batch_size in ("auto", None)
            ),
            "inference takes security='strict': the exchange leaves no scores to compute standard errors from": (
                self.security == "strict" or not self.inference
            ),
            "validation_fraction must lie in (0, 1)": 0 < self.validation_fraction < 1,
            "winsorise must be positive, or None": self.winsorise is None or self.winsorise > 0,
        }
        for text, fulfilled in checks.items():
            if not fulfilled:
                raise ValueError(text)
        self._regularisation()

    # --- what each model says of itself

    @property
    def _family(self) -> Family:
        raise NotImplementedError

    def _targets(self, y: Any, weights: FloatArray, offset: Any, party: str) -> tuple[Target, ...]:
        """Return the guest's targets, one for each linear model."""
        raise NotImplementedError

    def _regularisation(self) -> dict[str, float]:
        """Return the parameters of the penalty, which are to be equal everywhere."""
        raise NotImplementedError

    def _strength(self, rows: int) -> float:
        """Return the L2 penalty per row on the weights of standardised columns."""
        raise NotImplementedError

    def _units(self) -> tuple[float, float]:
        """Return what training divided this party's targets by, and what it subtracted from scores before."""
        return 1.0, 0.0

    # --- training

    def _fit(self, X: Any, y: Any, sample_weight: Any, offset: Any) -> Self:
        session = current()
        with session.joint():
            self.check_parameters()
            protocol = PROTOCOLS[self.security]
            features = data.features(X, session.name)
            session.require_columns(features.names)
            session.require_leakage(*protocol.LEAKAGE)
            rows, columns = features.values.shape
            targets = self._guest_targets(y, sample_weight, offset, rows, session)
            own: dict[str, object] = {"columns": columns, "schema": session.commitment(tables.schema(X))}
            if targets:
                own |= {
                    "model": session.rng.bytes(16).hex(),
                    "models": len(targets),
                    **protocol.told(targets),
                }
            shared = {"rows": rows, **self._regularisation()}
            shared |= {name: getattr(self, name) for name in self._shared}
            theirs = session.call(f"{type(self).__name__}.fit", shared, own)
            told = {name: str(value) for name, value in own.items()} if targets else theirs[0]
            task = self._task(rows, columns, told, theirs, session)
            limits = Limits.of(features.values, self.winsorise)
            fits = protocol.train(session, task, limits.apply(features.values), targets)
            session.checkpoint()
            self._keep(session, features, limits, told, fits)
        return self

    def _guest_targets(
        self, y: Any, sample_weight: Any, offset: Any, rows: int, session: Session
    ) -> tuple[Target, ...]:
        if session.role is Role.HOST:
            if y is not None or sample_weight is not None or offset is not None:
                raise InvalidData(
                    f"{session.name} is the host: labels and weights belong to the guest; leave them out"
                )
            return ()
        if y is None:
            raise InvalidData(f"{session.name} is the guest: pass the labels as y")
        return self._targets(y, data.weights(sample_weight, rows, session.name), offset, session.name)

    def _task(
        self,
        rows: int,
        columns: int,
        told: Mapping[str, str],
        theirs: tuple[dict[str, str], ...],
        session: Session,
    ) -> Task:
        protocol, link = PROTOCOLS[self.security], self._family.link
        return Task(
            rows=rows,
            validation_rows=max(1, round(rows * self.validation_fraction)) if self.early_stopping else 0,
            columns=_all_columns(session, columns, theirs),
            models=stated(told, "models", data.LARGEST_CLASSES, session.peers[0].name),
            family=self._family,
            strength=self._strength(rows),
            intercept=self.fit_intercept,
            batch_size=self.batch_size,
            max_iter=self.max_iter or protocol.MAX_ITER[link],
            tol=protocol.TOL[link] if self.tol is None else self.tol,
            he=self.he,
            key_bits=self.key_bits,
            inference=self.inference,
            told=told,
        )

    def _keep(
        self,
        session: Session,
        features: data.FeatureMatrix,
        limits: Limits,
        told: Mapping[str, str],
        fits: list[Fit],
    ) -> None:
        """Store this party's half."""
        several, (scale, shift) = len(fits) > 1, self._units()
        self.coef_ = scale * (np.array([fit.coef for fit in fits]) if several else fits[0].coef)
        intercepts = scale * np.array([fit.intercept for fit in fits]) + shift
        self.intercept_ = intercepts if several else float(intercepts[0])
        errors = [fit.errors for fit in fits if fit.errors is not None]
        self.standard_errors_ = None
        if errors:
            self.standard_errors_ = scale * (np.stack(errors) if several else errors[0])
        self.limits_ = limits
        self.feature_names_in_ = np.array(features.names, dtype=object)
        self.n_features_in_ = len(features.names)
        self.role_ = session.role.value
        self.model_id_ = told.get("model", "")[:32]
        if session.role is Role.GUEST:
            self.n_iter_ = max(fit.iterations for fit in fits)
            self.converged_ = all(fit.converged for fit in fits)
            self.loss_curve_ = _total([fit.losses for fit in fits])
            self.distance_curve_ = [max(each) for each in zip(*(fit.distances for fit in fits), strict=True)]
            name, curve = next((pair for pair in self._curves() if pair[1]), ("loss", []))
            session.facts.history, session.facts.history_name = list(enumerate(curve, 1)), name
        session.facts.parameters |= {name: str(value) for name, value in self.get_params().items()}

    def _curves(self) -> list[tuple[str, list[float]]]:
        """Return what the guest's report may show of the training, by name."""
        loss = "held-out residual" if self.security == "strict" else "loss"
        return [("distance", self.distance_curve_), (loss, self.loss_curve_)]

    # --- scores

    def _scores(self, X: Any, operation: str) -> FloatArray | None:
        """Return the joint linear scores, shape (rows,) or (rows, models), at the guest; None at a host."""
        check_is_fitted(self, "coef_")
        session = current()
        with session.joint():
            values = model.scored(self, session, X)
            session.call(operation, {"model": self.model_id_, "rows": len(values)}, {})
            scale, shift = self._units()
            own = self.limits_.apply(values) @ np.atleast_2d(self.coef_).T + self.intercept_
            own = (own - shift) / scale
            joint: FloatArray | None = None
            with session.phases.phase("score"):
                if session.role is Role.GUEST:
                    joint = session.run(score.guest(session.channels, own))
                else:
                    session.run(score.host(session.channel, own, len(session.hosts), session.rng))
                session.checkpoint()
        if joint is None:
            return None
        joint = shift + scale * joint
        return joint[:, 0] if self.coef_.ndim == 1 else joint

    def _share_figure(self, value: float | None) -> float:
        """Return the guest's figure to four decimals on all sides, so that a search for parameters chooses alike."""
        session = current()
        with session.joint():
            if value is None:
                return session.run(score.host_figure(session.channel))
            session.run(score.guest_figure(session.channels, value))
            return round(value, 4)


def _all_columns(session: Session, own: int, theirs: tuple[dict[str, str], ...]) -> tuple[int, ...]:
    """Return the numbers of columns of the guest and of each host; several hosts learn them from the guest."""
    counts = [
        stated(said, "columns", LARGEST_COLUMNS, peer.name)
        for said, peer in zip(theirs, session.peers, strict=True)
    ]
    guest = session.role is Role.GUEST
    if len(session.hosts) == 1:
        return (own, *counts) if guest else (*counts, own)
    told = session.call("columns", {}, dict(zip(session.hosts, counts, strict=True)) if guest else {})
    if guest:
        return (own, *counts)
    every = tuple(stated(told[0], name, LARGEST_COLUMNS, session.peer.name) for name in session.hosts)
    if every[session.hosts.index(session.name)] != own:
        raise MalformedMessage(
            f"{session.peer.name} states another number of columns than {session.name} has"
        )
    return (*counts, *every)


def _total(curves: list[list[float]]) -> list[float]:
    """Return the sum of several models' losses by iteration; one that has ended stays at its last loss."""
    longest = max(map(len, curves))
    return [sum(curve[min(i, len(curve) - 1)] for curve in curves) for i in range(longest)]


def _positive_integer(value: Any, *others: Any) -> bool:
    if value is None or isinstance(value, str):
        return value in others
    return bool(value >= 1 and value == int(value))
