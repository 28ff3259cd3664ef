"""A joint model in one process, as scikit-learn's tools expect one: a table goes in whole and is split between parties.

For trying out and for tests: Pipeline, GridSearchCV, cross_val_score. The parties run as threads over the same
protocols and bytes as on two machines; nothing is hidden from whoever runs the process.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils import Tags
from sklearn.utils._tags import ClassifierTags, RegressorTags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from vfl.errors import DataError
from vfl.generalised import GeneralisedLinear
from vfl.linear import LogisticRegression
from vfl.simulation import Simulation, simulate

__all__ = ["EXPECTED_FAILED_CHECKS", "Simulated"]

FloatArray = NDArray[np.float64]
_FRESH = "shares are fresh in each training: two of them differ in the fifth digit"
EXPECTED_FAILED_CHECKS = {
    "check_classifier_data_not_an_array": _FRESH,
    "check_fit_idempotent": _FRESH,
    "check_regressor_data_not_an_array": _FRESH,
    "check_sample_weight_equivalence_on_dense_data": (
        "weights count by their ratios, for hosts do not learn their sum; scikit-learn's penalty counts it"
    ),
    "check_supervised_y_2d": _FRESH,
}
"""Checks of scikit-learn's ``check_estimator`` that cannot hold, with the reason."""


def _has(method: str) -> Callable[[Any], bool]:
    return lambda adapter: hasattr(adapter._wrapped(), method)


class Simulated(BaseEstimator):  # type: ignore[misc]
    """A joint model whose parties are threads of this process.

    Parameters
    ----------
    estimator : estimator of this library
        What each party makes; its parameters are reached as ``estimator__C``. None is a LogisticRegression.
    parties : int or mapping of str to sequence
        How many parties share the columns, in equal parts from the first to the last; or each party's columns, by name
        or by number, the guest first.
    accept_leakage : sequence of str
        What all parties accept, for ``security="exchange"``.

    Attributes
    ----------
    estimators_ : dict of str to estimator
        Each party's half.
    coef_, intercept_
        The whole model, in the order of the columns.
    columns_ : dict of str to list of int
        Which columns each party had.
    classes_ : ndarray
        Of a classifier.
    n_iter_ : int

    Leakage
    -------
    That of the estimator, between the parties; all of them are in this process.

    Examples
    --------
    >>> model = make_pipeline(StandardScaler(), vfl.Simulated(vfl.PoissonRegressor(), parties=3))
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        parties: int | Mapping[str, Sequence[Any]] = 2,
        accept_leakage: Sequence[str] = (),
    ) -> None:
        self.estimator = estimator
        self.parties = parties
        self.accept_leakage = accept_leakage

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **given: Any) -> Self:
        """Split the columns and train; rows of weight zero are left out.

        Parameters
        ----------
        X : table, shape (rows, columns)
        y : array-like, shape (rows,)
        sample_weight : array-like, shape (rows,), optional
        **given
            Further arguments of the guest: ``exposure``, ``offset``.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the data cannot be used.
        """
        wrapped = self._wrapped()
        classifier = isinstance(wrapped, LogisticRegression)
        X, y = validate_data(
            self,
            X,
            y,
            dtype=np.float64,
            ensure_min_samples=2,
            ensure_min_features=2,
            y_numeric=not classifier,
        )
        if classifier:
            check_classification_targets(y)
        if sample_weight is not None:
            given["sample_weight"] = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
            kept = given["sample_weight"] > 0
            X, y, given = X[kept], y[kept], {name: np.asarray(values)[kept] for name, values in given.items()}
        self.columns_ = self._split()

        def act(name: str, values: FloatArray) -> Any:
            half = clone(wrapped)
            return half.fit(values, y, **given) if self._is_guest(name) else half.fit(values)

        self.estimators_: dict[str, Any] = dict(self._run(act, X))
        self._join()
        return self

    def predict(self, X: Any, **given: Any) -> Any:
        """Return the joint predictions; further arguments go to the guest."""
        return self._ask("predict", X, given)

    @available_if(_has("predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Any:
        """Return class probabilities, shape (rows, classes)."""
        return self._ask("predict_proba", X, {})

    @available_if(_has("decision_function"))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> Any:
        """Return the joint scores, shape (rows,) or (rows, classes)."""
        return self._ask("decision_function", X, {})

    def score(self, X: Any, y: Any, **given: Any) -> float:
        """Return the wrapped estimator's own figure: accuracy, R^2 or D^2."""
        return float(self._ask("score", X, {"y": y, **given}))

    def _wrapped(self) -> Any:
        return LogisticRegression() if self.estimator is None else self.estimator

    def _split(self) -> dict[str, list[int]]:
        """Return the numbers of each party's columns."""
        if isinstance(self.parties, Mapping):
            split = {party: [self._number(name) for name in chosen] for party, chosen in self.parties.items()}
        else:
            parts = np.array_split(np.arange(self.n_features_in_), min(self.parties, self.n_features_in_))
            split = {f"party{place}": part.tolist() for place, part in enumerate(parts)}
        if len(split) < 2 or not all(split.values()):
            raise ValueError("parties must be two or more, each with a column of its own")
        return split

    def _number(self, column: Any) -> int:
        """Return the number of a column that is given by name or by number."""
        names = list(getattr(self, "feature_names_in_", ()))
        if column in names:
            return names.index(column)
        if isinstance(column, int | np.integer) and 0 <= column < self.n_features_in_:
            return int(column)
        raise ValueError(f"parties names the column {column!r}, which the table does not have")

    def _is_guest(self, name: str) -> bool:
        return name == next(iter(self.columns_))

    def _run(self, act: Callable[[str, FloatArray], Any], X: FloatArray) -> Simulation:
        """Run a function for each party, with its columns; data that cannot be used are a ValueError as elsewhere."""

        def acts(name: str) -> Any:
            return lambda: act(name, X[:, self.columns_[name]])

        parties: dict[str, Any] = {name: acts(name) for name in self.columns_}
        try:
            return simulate(accept_leakage=tuple(self.accept_leakage), **parties)
        except DataError as error:
            raise ValueError(str(error)) from error

    def _ask(self, method: str, X: Any, given: Mapping[str, Any]) -> Any:
        check_is_fitted(self, "estimators_")
        X = validate_data(self, X, dtype=np.float64, reset=False)

        def act(name: str, values: FloatArray) -> Any:
            half = self.estimators_[name]
            return getattr(half, method)(values, **(given if self._is_guest(name) else {}))

        return next(iter(self._run(act, X).values()))

    def _join(self) -> None:
        """Put the halves together."""
        halves = list(self.estimators_.values())
        scale, _ = halves[0]._units()
        parts = [halves[0].coef_, *(scale * half.coef_ for half in halves[1:])]
        coef = np.zeros((*parts[0].shape[:-1], self.n_features_in_))
        for columns, part in zip(self.columns_.values(), parts, strict=True):
            coef[..., columns] = part
        self.coef_ = np.atleast_2d(coef) if hasattr(halves[0], "classes_") else coef
        intercept = halves[0].intercept_ + scale * sum(half.intercept_ for half in halves[1:])
        self.intercept_ = np.atleast_1d(intercept) if hasattr(halves[0], "classes_") else float(intercept)
        self.n_iter_ = halves[0].n_iter_
        if hasattr(halves[0], "classes_"):
            self.classes_ = halves[0].classes_

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        if isinstance(self._wrapped(), LogisticRegression):
            tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags()
        else:
            tags.estimator_type, tags.regressor_tags = "regressor", RegressorTags()
            positive = (
                isinstance(self._wrapped(), GeneralisedLinear) and self._wrapped()._family.link == "log"
            )
            tags.target_tags.positive_only = positive
        return tags
