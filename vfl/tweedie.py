"""Regression of counts and amounts under the log link: Poisson, Gamma and Tweedie, with scikit-learn's shape."""

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from vfl import data
from vfl.families import Family, Target, half_deviance, tweedie
from vfl.generalised import GeneralisedLinear
from vfl.session import current

__all__ = ["GammaRegressor", "PoissonRegressor", "TweedieRegressor"]

FloatArray = NDArray[np.float64]


class _LogLink(GeneralisedLinear):
    """What the three share: amounts of mean one in training, exposures and offsets."""

    batch_size: Literal["auto"] = "auto"
    alpha: float
    target_scale_: float

    def __init__(
        self,
        *,
        alpha: float = 0.0,
        fit_intercept: bool = True,
        max_iter: int | None = None,
        tol: float | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        winsorise: float | None = None,
        security: Literal["strict"] = "strict",
        he: Literal["auto", "lattice", "paillier"] = "auto",
        key_bits: int = 3072,
        inference: bool = False,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.winsorise = winsorise
        self.security = security
        self.he = he
        self.key_bits = key_bits
        self.inference = inference

    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, exposure: Any = None, offset: Any = None
    ) -> Self:
        """Train with the peers; all parties call it with rows in the same order.

        Parameters
        ----------
        X : table, shape (rows, own columns)
            Numeric columns only.
        y : array-like, shape (rows,)
            Counts or amounts: the guest's; None at a host.
        sample_weight : array-like, shape (rows,), optional
            Positive weights: the guest's.
        exposure : array-like, shape (rows,), optional
            Positive amounts of time or risk to which `y` is proportional: the guest's.
        offset : array-like, shape (rows,), optional
            Known parts of the scores, instead of the logarithm of an exposure: the guest's.

        Returns
        -------
        self

        Raises
        ------
        InvalidData, MissingValues
            If this party's table is unusable; nothing was sent.
        PolicyRefused
            If a configuration does not allow the columns.
        ConfigMismatch
            If a peer trains another model, or has other parameters or another number of rows.

        Leakage
        -------
        As that of :meth:`LogisticRegression.fit` with ``security="strict"``.
        """
        nothing = exposure is None and offset is None
        return self._fit(X, y, sample_weight, None if nothing else (exposure, offset))

    def predict(self, X: Any, *, exposure: Any = None, offset: Any = None) -> Any:
        """Return the expected counts or amounts, shape (rows,), at the guest; a host calls it too and gets None.

        Parameters
        ----------
        X : table, shape (rows, own columns)
        exposure, offset : array-like, shape (rows,), optional
            As for :meth:`fit`; without them the expectation is that of an exposure of one.

        Leakage
        -------
        The guest learns the hosts' part of each row's score, rounded to 2^-14.
        """
        return self._expected(self._scores(X, "predict"), exposure, offset)

    def score(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, exposure: Any = None, offset: Any = None
    ) -> float:
        """Return D^2, the explained share of the deviance, at a host too: see :meth:`LogisticRegression.score`."""
        expected = self._expected(self._scores(X, "score"), exposure, offset)
        return self._share_figure(None if expected is None else self._d2(expected, y, sample_weight))

    @property
    def variance_power(self) -> float:
        """The power of the mean to which the variance is proportional: 1 is Poisson's, 2 Gamma's."""
        return self._family.power

    def _expected(self, scores: FloatArray | None, exposure: Any, offset: Any) -> Any:
        if scores is None:
            return None
        known = _offset((exposure, offset), len(scores), current().name)
        return np.exp(scores if known is None else scores + known)

    def _d2(self, expected: FloatArray, y: Any, sample_weight: Any) -> float:
        party = current().name
        observed = self._amounts(y, party, len(expected))
        weights = data.weights(sample_weight, len(expected), party)
        mean = np.full(1, np.average(observed, weights=weights))
        power = self._family.power
        explained = np.average(half_deviance(np.log(expected), observed, power), weights=weights)
        total = np.average(half_deviance(np.log(mean), observed, power), weights=weights)
        return float(1 - explained / total)

    def _amounts(self, y: Any, party: str, rows: int) -> FloatArray:
        return data.amounts(y, party, "targets", rows=rows, zero=self._family.power < 2)

    def _targets(self, y: Any, weights: FloatArray, offset: Any, party: str) -> tuple[Target, ...]:
        amounts = self._amounts(y, party, len(weights))
        known = _offset(offset, len(weights), party)
        weights = weights / weights.mean()
        exposure = np.ones(1) if known is None else np.exp(known)
        self.target_scale_ = float(
            (weights * amounts).sum() / (weights * exposure * np.ones(len(weights))).sum()
        )
        family = self._family
        dispersion = 1 / self.target_scale_ if family.power == 1 else 1.0
        return (Target(family, amounts / self.target_scale_, weights, known, dispersion),)

    def _units(self) -> tuple[float, float]:
        return 1.0, float(np.log(getattr(self, "target_scale_", 1.0)))

    def _regularisation(self) -> dict[str, float]:
        if not self.alpha >= 0:
            raise ValueError("alpha must not be negative")
        return {"alpha": self.alpha, "power": self._family.power}

    def _strength(self, rows: int) -> float:
        return self.alpha


class PoissonRegressor(_LogLink):
    """Poisson regression of counts over all parties' columns, under the log link.

    Parameters
    ----------
    alpha : float
        Strength of the L2 penalty on standardised weights, per row, for a target whose mean is one: scikit-learn's
        alpha divided by the target's mean to the power of 2 - p, which is the mean for Poisson and 1 for Gamma.
    fit_intercept, max_iter, tol, early_stopping, validation_fraction, winsorise, security, he, key_bits,
    inference
        As for :class:`LogisticRegression`, with ``security="strict"`` only.

    Attributes
    ----------
    coef_, intercept_
        This party's part.
    target_scale_ : float
        At the guest: its mean per exposure, to which training scales the targets.

    Leakage
    -------
    See :meth:`fit`, :meth:`predict` and docs/leakage.md.
    """

    @property
    def _family(self) -> Family:
        return tweedie(1.0)


class GammaRegressor(PoissonRegressor):
    """Gamma regression of positive amounts; parameters and attributes are those of :class:`PoissonRegressor`."""

    @property
    def _family(self) -> Family:
        return tweedie(2.0)


class TweedieRegressor(_LogLink):
    """Regression of amounts that may be zero, with variance proportional to a power of the mean, under the log link.

    Parameters
    ----------
    power : float
        Of the variance, from 1 (Poisson) to 2 (Gamma); between them the amounts of compound Poisson claims.
    alpha : float
        Strength of the L2 penalty on standardised weights, per row, for a target whose mean is one.
    fit_intercept, max_iter, tol, early_stopping, validation_fraction, winsorise, security, he, key_bits,
    inference
        As for :class:`PoissonRegressor`, and so are the attributes.

    Leakage
    -------
    See :meth:`fit`, :meth:`predict` and docs/leakage.md.
    """

    def __init__(
        self,
        *,
        power: float = 1.5,
        alpha: float = 0.0,
        fit_intercept: bool = True,
        max_iter: int | None = None,
        tol: float | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        winsorise: float | None = None,
        security: Literal["strict"] = "strict",
        he: Literal["auto", "lattice", "paillier"] = "auto",
        key_bits: int = 3072,
        inference: bool = False,
    ) -> None:
        super().__init__(
            alpha=alpha,
            fit_intercept=fit_intercept,
            max_iter=max_iter,
            tol=tol,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            winsorise=winsorise,
            security=security,
            he=he,
            key_bits=key_bits,
            inference=inference,
        )
        self.power = power

    @property
    def _family(self) -> Family:
        return tweedie(self.power)

    def _regularisation(self) -> dict[str, float]:
        if not 1 <= self.power <= 2:
            raise ValueError("power must lie between 1 and 2")
        return super()._regularisation()


def _offset(given: Any, rows: int, party: str) -> FloatArray | None:
    """Return the known part of each score: an offset, or the logarithm of an exposure."""
    exposure, offset = given or (None, None)
    if exposure is not None and offset is not None:
        raise ValueError("give an exposure or an offset, not both")
    if exposure is not None:
        return np.log(data.amounts(exposure, party, "exposures", rows=rows))
    return None if offset is None else data.offsets(offset, rows, party)
