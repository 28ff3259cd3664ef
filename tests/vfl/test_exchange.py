"""Training by the gradient exchange: against pooled data, its parameters, its refusals and warnings."""

from typing import Any

import numpy as np
import pytest
from sklearn import linear_model
from sklearn.base import clone
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import vfl
from tests.joint import ACCEPT, GUEST, HOST, LABELS, POOLED, TARGETS, TEST, TRAIN, fit
from vfl import exchange
from vfl.errors import EncodingOverflow, InvalidData, LeakageWarning, TrainingDiverged
from vfl.protocols import gradient


def logistic(**parameters: Any) -> vfl.LogisticRegression:
    return vfl.LogisticRegression(security="exchange", **parameters)


def linear(**parameters: Any) -> vfl.LinearRegression:
    return vfl.LinearRegression(security="exchange", **parameters)


@pytest.mark.parametrize("he", ["ckks", "paillier"])
def test_logistic_regression_comes_to_the_pooled_model(he: Any) -> None:
    guest, host, probabilities, _ = fit(
        logistic(he=he, key_bits=2048, max_iter=40, batch_size=None, tol=1e-6)
    )
    pooled = make_pipeline(StandardScaler(), linear_model.LogisticRegression(C=1.0)).fit(
        POOLED[TRAIN], LABELS[TRAIN]
    )
    expected = pooled.predict_proba(POOLED[TEST])
    assert np.abs(probabilities - expected).max() < 5e-3
    scaled = np.concatenate([guest.coef_, host.coef_]) * POOLED[TRAIN].std(axis=0)
    reference = pooled[1].coef_[0]
    assert np.linalg.norm(scaled - reference) < 0.01 * np.linalg.norm(reference)
    assert guest.intercept_ + host.intercept_ == pytest.approx(
        float(pooled[1].intercept_[0]) - float(pooled[0].mean_ @ (reference / pooled[0].scale_)), abs=0.02
    )


def test_both_schemes_and_repeated_runs_agree() -> None:
    model = logistic(max_iter=4, key_bits=2048)
    runs = [fit(clone(model).set_params(he=he))[2] for he in ("ckks", "ckks", "paillier")]
    assert np.abs(runs[0] - runs[1]).max() < 1e-4
    assert np.abs(runs[0] - runs[2]).max() < 1e-4


def test_defaults_on_small_data_are_close_to_pooled() -> None:
    guest, _, probabilities, _ = fit(logistic())
    pooled = make_pipeline(StandardScaler(), linear_model.LogisticRegression()).fit(
        POOLED[TRAIN], LABELS[TRAIN]
    )
    assert roc_auc_score(LABELS[TEST], probabilities[:, 1]) > (
        roc_auc_score(LABELS[TEST], pooled.predict_proba(POOLED[TEST])[:, 1]) - 0.005
    )
    assert guest.loss_curve_[0] == pytest.approx(np.log(2))
    assert guest.loss_curve_[-1] < 0.7 * guest.loss_curve_[0]
    assert guest.n_iter_ == len(guest.loss_curve_) <= 8


def test_linear_regression_comes_to_least_squares_and_ridge() -> None:
    for alpha in (0.0, 50.0):
        *_, predicted, _ = fit(linear(alpha=alpha, max_iter=60, tol=1e-9), y=TARGETS, method="predict")
        pooled = make_pipeline(StandardScaler(), linear_model.Ridge(alpha=alpha)).fit(
            POOLED[TRAIN], TARGETS[TRAIN]
        )
        assert np.abs(predicted - pooled.predict(POOLED[TEST])).max() < 0.02 * TARGETS.std()


def test_weights_move_the_model_like_scikit_learns() -> None:
    weights = np.where(LABELS == 1, 4.0, 1.0)[TRAIN]
    settings: dict[str, Any] = {"max_iter": 30, "tol": 1e-6, "batch_size": None}
    *_, by_sample, _ = fit(logistic(**settings), sample_weight=weights)
    *_, by_class, _ = fit(
        logistic(class_weight={0: 1.0, 1: 4.0}, **settings),
        host_model=logistic(**settings),
    )
    assert np.abs(by_sample - by_class).max() < 1e-3
    pooled = make_pipeline(StandardScaler(), linear_model.LogisticRegression(C=1e6))
    pooled.fit(POOLED[TRAIN], LABELS[TRAIN], logisticregression__sample_weight=weights)
    *_, free, _ = fit(logistic(C=1e6, **settings), sample_weight=weights)
    assert np.abs(free - pooled.predict_proba(POOLED[TEST])).max() < 0.02


def test_early_stopping_watches_held_out_rows() -> None:
    guest, _, probabilities, result = fit(
        logistic(early_stopping=True, validation_fraction=0.2, max_iter=30, tol=1e-2)
    )
    assert guest.converged_
    assert guest.n_iter_ < 30
    assert log_loss(LABELS[TEST], probabilities[:, 1]) < 0.5
    rows = [r.shape["rows"] for r in result.view("bank") if r.kind == "gradient.score"]
    assert rows.count(100) == guest.n_iter_


@pytest.mark.parametrize(("rows", "needed"), [(100, 160), (159, 160)])
def test_too_few_rows_for_the_hosts_columns(rows: int, needed: int) -> None:
    with pytest.raises(InvalidData, match=f"at least {needed} rows"):
        vfl.simulate(
            bank=lambda: logistic().fit(GUEST[:rows], LABELS[:rows]),
            shop=lambda: logistic().fit(HOST[:rows]),
            accept_leakage=ACCEPT,
        )


def test_batches_below_the_floor_are_refused() -> None:
    assert gradient.smallest_batch(10) == 160
    with pytest.raises(InvalidData, match="a batch of 100 rows"):
        fit(logistic(batch_size=100))


def test_a_short_paillier_key_is_refused() -> None:
    with pytest.raises(vfl.errors.InvalidKey, match="2048"):
        fit(logistic(he="paillier", key_bits=1024))


def test_a_training_that_diverges_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "STEP", 50.0)
    with pytest.raises((EncodingOverflow, TrainingDiverged)):
        fit(linear(max_iter=200, tol=0.0), y=TARGETS, method="predict")


def test_many_epochs_warn_of_what_the_guest_can_compute() -> None:
    def act(table: Any, *labels: Any) -> None:
        logistic(max_iter=10).fit(table, *labels)

    with pytest.warns(LeakageWarning, match="10 host columns"):
        vfl.simulate(bank=lambda: act(GUEST, LABELS), shop=lambda: act(HOST), accept_leakage=ACCEPT)
