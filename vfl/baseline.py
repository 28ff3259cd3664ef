"""What one table alone gives: the same model by scikit-learn, on the guest's columns or, in a demo, on all."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import linear_model
from sklearn.metrics import d2_tweedie_score, mean_tweedie_deviance, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vfl.data import Table, amounts, features, labels, targets
from vfl.linear import LinearRegression, LogisticRegression

__all__ = ["amount_figures", "one_table", "regression_figures"]


def one_table(model: Any, train: Table, y: Any, test: Table, party: str) -> NDArray[np.float64]:
    """Train scikit-learn's counterpart of a model on one table and score another.

    Parameters
    ----------
    model : estimator of this library
        Its penalty and class weights are used; it need not be fitted.
    train, test : table
        Numeric columns; standardised by those of `train`.
    y : array-like, shape (rows of `train`,)
    party : str
        For error texts.

    Returns
    -------
    ndarray, shape (rows of `test`,)
        Probabilities of the second class, or predictions.
    """
    x, new = features(train, party).values, features(test, party, minimum_rows=1).values
    if isinstance(model, LogisticRegression):
        known = labels(y, party, rows=len(x))
        counterpart = linear_model.LogisticRegression(
            C=model.C, class_weight=model.class_weight, max_iter=1000
        )
        y = known.classes[known.encoded.astype(int)]
        probabilities: NDArray[np.float64] = (
            make_pipeline(StandardScaler(), counterpart).fit(x, y).predict_proba(new)[:, 1]
        )
        return probabilities
    if isinstance(model, LinearRegression):
        ridge = linear_model.Ridge(alpha=model.alpha, solver="svd")
        fitted = make_pipeline(StandardScaler(), ridge).fit(x, targets(y, party, rows=len(x)))
        return np.asarray(fitted.predict(new))
    power = model.variance_power
    observed = amounts(y, party, "targets", rows=len(x), zero=power < 2)
    mean = float(observed.mean())
    amount = linear_model.TweedieRegressor(power=power, alpha=model.alpha, link="log", max_iter=1000)
    scaled = make_pipeline(StandardScaler(), amount).fit(x, observed / mean)
    return np.asarray(mean * scaled.predict(new))


def regression_figures(y: NDArray[np.float64], predicted: NDArray[np.float64]) -> dict[str, float]:
    """Return R2 and the root mean square error."""
    return {"r2": float(r2_score(y, predicted)), "rmse": float(np.sqrt(np.mean((y - predicted) ** 2)))}


def amount_figures(y: NDArray[np.float64], predicted: NDArray[np.float64], power: float) -> dict[str, float]:
    """Return D2 and the mean deviance of the family whose variance is the mean to a power."""
    return {
        "d2": float(d2_tweedie_score(y, predicted, power=power)),
        "deviance": float(mean_tweedie_deviance(y, predicted, power=power)),
    }
