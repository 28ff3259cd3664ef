"""Metrics against scipy, scikit-learn and hand-made tables; bad input as typed errors."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn.calibration
import sklearn.metrics
from scipy import stats

from vfl import metrics
from vfl.errors import InvalidData

BINARY_METRICS: list[Callable[[Any, Any], Any]] = [
    metrics.roc_auc,
    metrics.roc_curve,
    metrics.ks,
    metrics.log_loss,
    metrics.brier,
    metrics.gains_table,
    metrics.calibration,
    metrics.summary,
    metrics.curves,
]


def sample(rows: int = 2000, *, seed: int = 7, decimals: int | None = None) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    p = generator.beta(1.2, 4, rows)
    y = (generator.random(rows) < p).astype(int)
    return y, p if decimals is None else p.round(decimals)


def test_auc_is_the_share_of_ordered_pairs() -> None:
    assert metrics.roc_auc([0, 1, 0, 1], [0.1, 0.4, 0.35, 0.35]) == pytest.approx(3.5 / 4)


def test_ks_equals_the_two_sample_statistic() -> None:
    y, p = sample(decimals=2)
    assert metrics.ks(y, p) == pytest.approx(stats.ks_2samp(p[y == 1], p[y == 0]).statistic)


def test_ks_of_a_reversed_score_is_the_same() -> None:
    y, p = sample()
    assert metrics.ks(y, -p) == pytest.approx(metrics.ks(y, p))


def test_log_loss_and_brier_by_hand() -> None:
    assert metrics.log_loss([1, 0], [0.8, 0.4]) == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2)
    assert metrics.brier([1, 0], [0.8, 0.4]) == pytest.approx((0.04 + 0.16) / 2)
    assert np.isfinite(metrics.log_loss([1, 0], [0.0, 1.0]))


def test_a_weight_of_two_is_the_row_twice() -> None:
    y, p = sample(300, decimals=2)
    weights = np.where(np.arange(300) % 3 == 0, 2, 1)
    twice_y, twice_p = np.repeat(y, weights), np.repeat(p, weights)
    weighted, plain = metrics.summary(y, p, weights=weights), metrics.summary(twice_y, twice_p)
    assert {k: v for k, v in weighted.items() if k != "rows"} == pytest.approx(
        {k: v for k, v in plain.items() if k != "rows"}
    )
    for ours, theirs in zip(
        metrics.gains_table(y, p, weights=weights), metrics.gains_table(twice_y, twice_p), strict=True
    ):
        assert vars(ours) == pytest.approx(vars(theirs))


def test_gains_table_by_hand() -> None:
    y = [1, 1, 0, 1, 0, 0, 0, 0]
    score = [8, 7, 6, 5, 4, 3, 2, 1]
    table = metrics.gains_table(y, score, bins=4)
    assert [row.rows for row in table] == [2, 2, 2, 2]
    assert [row.positives for row in table] == [2, 1, 0, 0]
    assert [row.gain for row in table] == pytest.approx([2 / 3, 1, 1, 1])
    assert [row.lift for row in table] == pytest.approx([8 / 3, 2, 4 / 3, 1])
    assert [row.lowest_score for row in table] == [7, 5, 3, 1]
    assert [row.band for row in table] == [1, 2, 3, 4]


def test_gains_do_not_depend_on_the_order_of_tied_rows() -> None:
    y, p = sample(500, decimals=1)
    order = np.argsort(y)
    first, second = metrics.gains_table(y, p), metrics.gains_table(y[order], p[order])
    assert [row.positives for row in first] == pytest.approx([row.positives for row in second])


def test_gains_of_a_constant_score_are_chance() -> None:
    table = metrics.gains_table([0, 1, 1, 0, 0], [0.5] * 5, bins=5)
    assert [row.lift for row in table] == pytest.approx([1] * 5)
    assert [row.positives for row in table] == pytest.approx([0.4] * 5)


@pytest.mark.parametrize("rows", [10, 11, 1003])
def test_gains_add_up(rows: int) -> None:
    y, p = sample(rows, seed=3)
    y[:2] = 0, 1
    table = metrics.gains_table(y, p)
    assert sum(row.rows for row in table) == pytest.approx(rows)
    assert sum(row.positives for row in table) == pytest.approx(y.sum())
    assert table[-1].gain == pytest.approx(1)
    assert table[-1].lowest_score == p.min()
    assert all(a.lowest_score >= b.lowest_score for a, b in itertools.pairwise(table))


def test_calibration_agrees_with_scikit_learn() -> None:
    y, p = sample(2000)
    observed, predicted = sklearn.calibration.calibration_curve(y, p, n_bins=10, strategy="quantile")
    ours = metrics.calibration(y, p)
    assert [row.observed for row in ours] == pytest.approx(list(observed))
    assert [row.predicted for row in ours] == pytest.approx(list(predicted))
    assert [row.rows for row in ours] == pytest.approx([200] * 10)


def test_summary_agrees_with_the_single_functions() -> None:
    y, p = sample()
    found = metrics.summary(y, p)
    assert found["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(y, p))
    assert found["gini"] == pytest.approx(2 * found["auc"] - 1)
    assert found["log_loss"] == pytest.approx(sklearn.metrics.log_loss(y, p))
    assert found["brier"] == pytest.approx(sklearn.metrics.brier_score_loss(y, p))
    assert found["ks"] == metrics.ks(y, p)
    assert found["base_rate"] == pytest.approx(y.mean())
    assert found["rows"] == 2000


def test_curves_are_thin_and_keep_area_and_ks() -> None:
    y, p = sample(20_000)
    drawn = metrics.curves(y, p)
    false, true = np.array(drawn.roc).T
    assert len(drawn.roc) < 210
    assert (drawn.roc[0], drawn.roc[-1]) == ((0, 0), (1, 1))
    assert sklearn.metrics.auc(false, true) == pytest.approx(metrics.roc_auc(y, p), abs=2e-4)
    assert np.max(true - false) == pytest.approx(metrics.ks(y, p))


def test_curves_of_few_rows() -> None:
    assert len(metrics.curves([0, 1, 1], [0.1, 0.8, 0.3]).gains) == 3


@pytest.mark.parametrize(
    "make",
    [
        np.array,
        list,
        pd.Series,
        lambda v: pd.Series(v).convert_dtypes(),
        lambda v: pl.Series(list(v)),
        lambda v: pa.chunked_array([list(v)]),
    ],
)
def test_every_kind_of_column(make: Callable[[Any], Any]) -> None:
    y, p = sample(50)
    assert metrics.roc_auc(make(y), make(p)) == pytest.approx(sklearn.metrics.roc_auc_score(y, p))
    assert metrics.roc_auc(make(y == 1), make(p)) == pytest.approx(sklearn.metrics.roc_auc_score(y, p))


@pytest.mark.parametrize("function", BINARY_METRICS)
@pytest.mark.parametrize(
    ("y", "p", "text"),
    [
        ([1, 1, 1], [0.1, 0.2, 0.3], "both classes, has 3 positives in 3 rows"),
        ([0, 0], [0.1, 0.2], "both classes, has 0 positives"),
        ([], [], "both classes"),
        ([1, 2, 1], [0.1, 0.2, 0.3], "1 of 3 rows hold something else"),
        (["good", "bad"], [0.1, 0.2], "y must hold numbers"),
        ([0, None], [0.1, 0.2], "y must hold numbers"),
        ([0, 1, np.nan], [0.1, 0.2, 0.3], "y holds 1 values that are NaN"),
        ([0, 1], [0.1, np.inf], "NaN or infinite"),
        ([0, 1], [0.1, 0.2, 0.3], "lengths differ"),
        ([0, 1], [[0.1, 0.9], [0.2, 0.8]], r"\[:, 1\]"),
        ([[0], [1]], [0.1, 0.2], r"y must have one dimension, has shape \(2, 1\)"),
        ([0, 1], 0.5, r"shape \(\)"),
    ],
)
def test_bad_columns(function: Callable[[Any, Any], Any], y: Any, p: Any, text: str) -> None:
    with pytest.raises(InvalidData, match=text):
        function(y, p)


@pytest.mark.parametrize(
    "function", [metrics.log_loss, metrics.brier, metrics.calibration, metrics.summary, metrics.curves]
)
@pytest.mark.parametrize("p", [[-0.1, 0.5], [0.5, 1.5]])
def test_scores_are_not_probabilities(function: Callable[[Any, Any], Any], p: list[float]) -> None:
    with pytest.raises(InvalidData, match="1 of 2 rows do not"):
        function([0, 1], p)


@pytest.mark.parametrize("weights", [[1, 0], [1, -1], [1, np.nan], [1], ["a", "b"]])
def test_bad_weights(weights: Any) -> None:
    with pytest.raises(InvalidData, match="weights"):
        metrics.roc_auc([0, 1], [0.1, 0.2], weights=weights)


@pytest.mark.parametrize("bins", [0, -1, 3])
def test_bad_bins(bins: int) -> None:
    with pytest.raises(InvalidData, match=f"number of rows \\(2\\), not {bins}"):
        metrics.gains_table([0, 1], [0.1, 0.2], bins)
