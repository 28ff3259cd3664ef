"""Standard errors of strict models against those of the pooled data, in each party's own units."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm
from sklearn.base import clone

import vfl
from vfl.errors import InvalidData
from vfl.inference import Summary

ROWS = 1500
RNG = np.random.default_rng(11)
COMMON = RNG.normal(size=(ROWS, 2))
GUEST = (COMMON @ RNG.normal(size=(2, 3)) / 2 + RNG.normal(size=(ROWS, 3))) * [1, 20, 0.01] + [0, 5, 1]
HOST = COMMON @ RNG.normal(size=(2, 4)) / 2 + RNG.normal(size=(ROWS, 4))
HOST[:, 3] = RNG.random(ROWS) < 0.3
BOTH = np.hstack([GUEST, HOST])
SCORE = 0.7 * GUEST[:, 0] + 0.03 * GUEST[:, 1] + HOST @ [0.5, 0.0, -0.8, 0.4]
LABELS = (RNG.random(ROWS) < expit(SCORE - 2)).astype(int)
AMOUNTS = 40 + 7 * SCORE + 5 * RNG.normal(size=ROWS)
MEANS = 3 * np.exp(SCORE / 4)
WEIGHTS = RNG.uniform(0.5, 2, ROWS)


def fit(model: Any, y: Any, guest: Any = GUEST, host: Any = HOST, **given: Any) -> tuple[Any, Any]:
    result = vfl.simulate(
        bank=lambda: clone(model).fit(guest, y, **given), shop=lambda: clone(model).fit(host)
    )
    return result["bank"], result["shop"]


def pooled(y: Any, strength: float, link: str, power: float = 0.0, weights: Any = None) -> tuple[Any, Any]:
    """Return coefficients and standard errors of all columns, by Fisher scoring on standardised columns.

    `strength` is the penalty per row, `power` that of the variance under the log link.
    """
    weights = np.ones(ROWS) if weights is None else weights / weights.mean()
    spread = BOTH.std(axis=0)
    z = np.hstack([np.ones((ROWS, 1)), (BOTH - BOTH.mean(axis=0)) / spread])
    penalty = strength * ROWS * np.diag([0.0] + [1.0] * BOTH.shape[1])
    beta = np.zeros(z.shape[1])
    beta[0] = {"log": np.log(np.average(y, weights=weights))}.get(link, 0.0)
    for _ in range(60):
        score = z @ beta
        mean = {"logistic": expit(score), "identity": score, "log": np.exp(score)}[link]
        variance = {"logistic": mean * (1 - mean), "identity": np.ones(ROWS), "log": mean**power}[link]
        by_score = variance if link != "log" else mean
        slope = weights * by_score**2 / variance
        inner = (z * slope[:, None]).T @ z + penalty
        pull = z.T @ (weights * by_score / variance * (mean - y)) + penalty @ beta
        beta = beta - np.linalg.solve(inner, pull)
    known = link == "logistic" or power == 1
    dispersion = 1.0 if known else float(np.sum(weights * (y - mean) ** 2 / variance)) / (ROWS - len(beta))
    return beta[1:] / spread, np.sqrt(dispersion * np.diag(np.linalg.inv(inner)))[1:] / spread


def compare(halves: tuple[Any, Any], right: tuple[Any, Any], scale: float = 1.0) -> None:
    """`scale` is what a host's coefficients are divided by."""
    guest, host = halves
    coef = np.concatenate([guest.summary_.coef, host.summary_.coef * scale])
    errors = np.concatenate([guest.summary_.se, host.summary_.se * scale])
    np.testing.assert_allclose(errors, right[1], rtol=1e-2)
    assert (np.abs(coef - right[0]) < 0.1 * right[1]).all()


def test_logistic_regression() -> None:
    halves = fit(vfl.LogisticRegression(C=0.5, inference=True), LABELS)
    compare(halves, pooled(LABELS, 2 / ROWS, "logistic"))
    table = halves[0].summary_
    np.testing.assert_allclose(table.z, table.coef / table.se)
    np.testing.assert_allclose(table.p, 2 * norm.sf(np.abs(table.z)))
    np.testing.assert_allclose(table.upper - table.lower, 2 * 1.959964 * table.se, rtol=1e-6)
    assert table.p[1] < 1e-6


@pytest.mark.parametrize("alpha", [0.0, 300.0])
def test_linear_regression_with_weights(alpha: float) -> None:
    halves = fit(vfl.LinearRegression(alpha=alpha, inference=True), AMOUNTS, sample_weight=WEIGHTS)
    compare(halves, pooled_ridge(alpha), halves[0].target_scale_)


def pooled_ridge(alpha: float) -> tuple[Any, Any]:
    mean = np.average(AMOUNTS, weights=WEIGHTS)
    return pooled(AMOUNTS - mean, alpha / ROWS, "identity", weights=WEIGHTS)


COUNTS = RNG.poisson(MEANS)
CLAIMS = MEANS * RNG.gamma(2, 0.5, ROWS)


@pytest.mark.parametrize(
    ("model", "y", "power"),
    [
        (vfl.PoissonRegressor(inference=True), COUNTS, 1.0),
        (vfl.GammaRegressor(inference=True), CLAIMS, 2.0),
        (vfl.TweedieRegressor(power=1.5, inference=True), CLAIMS, 1.5),
    ],
)
def test_log_link(model: Any, y: Any, power: float) -> None:
    compare(fit(model, y), pooled(y, 0.0, "log", power))


def test_each_class_has_a_table_of_its_own() -> None:
    classes = np.digitize(SCORE + RNG.normal(size=ROWS), [-1, 1])
    guest, host = fit(vfl.LogisticRegression(inference=True), classes)
    assert len(guest.summary_) == len(host.summary_) == 3
    for place in range(3):
        _, errors = pooled((classes == place).astype(float), 1 / ROWS, "logistic")
        found = [half.summary_[place].se for half in (guest, host)]
        np.testing.assert_allclose(np.concatenate(found), errors, rtol=1e-2)


def test_a_half_keeps_its_standard_errors_on_disk(tmp_path: Path) -> None:
    host = np.hstack([HOST, np.full((ROWS, 1), 3.0)])
    _, shop = fit(vfl.LogisticRegression(inference=True), LABELS, host=host)
    shop.save(tmp_path / "shop.model")
    loaded = vfl.load(tmp_path / "shop.model")
    np.testing.assert_array_equal(loaded.summary_.se, shop.summary_.se)
    assert np.isnan(shop.summary_.se[-1])
    assert np.isfinite(shop.summary_.se[:-1]).all()
    assert repr(shop.summary_).count("\n") == host.shape[1]


def test_without_inference_there_are_none() -> None:
    guest, _ = fit(vfl.LogisticRegression(max_iter=30), LABELS)
    with pytest.raises(AttributeError, match="inference=True"):
        _ = guest.summary_


def test_what_cannot_have_standard_errors_says_so() -> None:
    with pytest.raises(ValueError, match="security='strict'"):
        vfl.LogisticRegression(security="exchange", inference=True).check_parameters()
    model = vfl.LinearRegression(inference=True)
    with pytest.raises(InvalidData, match="one host"):
        vfl.simulate(
            bank=lambda: clone(model).fit(GUEST, AMOUNTS),
            shop=lambda: clone(model).fit(HOST[:, :2]),
            store=lambda: clone(model).fit(HOST[:, 2:]),
        )


def test_intervals_take_a_level() -> None:
    table = Summary(["age"], np.array([1.0]), np.array([0.5]))
    np.testing.assert_allclose(table.interval(0.5), [[1 - 0.5 * 0.67449, 1 + 0.5 * 0.67449]], rtol=1e-4)
    with pytest.raises(ValueError, match="between 0 and 1"):
        table.interval(1.0)
