"""The estimators against pooled data, their parameters, their halves on disk, and bad input."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn import linear_model
from sklearn.base import clone
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import vfl
from vfl import exchange
from vfl.errors import (
    ConfigError,
    ConfigMismatch,
    EncodingOverflow,
    InvalidData,
    LeakageWarning,
    MissingValues,
    PolicyRefused,
    SchemaMismatch,
    TrainingDiverged,
)
from vfl.protocols import gradient

ACCEPT = ["score", "gradient"]
RNG = np.random.default_rng(7)
ROWS = 700
GUEST = RNG.normal(size=(ROWS, 4)) * [1, 10, 0.01, 3] + [0, 5, 1, -2]
HOST = RNG.normal(size=(ROWS, 10))
HOST[:, 1] += 0.8 * HOST[:, 0] + 0.5 * (GUEST[:, 1] - 5) / 10
SCORE = 1.2 * GUEST[:, 0] + 0.1 * GUEST[:, 1] + HOST[:, :5] @ [1.0, -0.8, 0.5, 0.0, 1.1] - 1
LABELS = (RNG.random(ROWS) < 1 / (1 + np.exp(-SCORE))).astype(int)
TARGETS = 40 + 7 * SCORE + RNG.normal(size=ROWS)
TRAIN, TEST = slice(0, 500), slice(500, ROWS)


def fit(
    model: Any,
    y: Any = LABELS,
    guest: Any = GUEST,
    host: Any = HOST,
    host_model: Any = None,
    method: str = "predict_proba",
    **weights: Any,
) -> tuple[Any, Any, Any, vfl.Simulation]:
    """Return both fitted halves and the guest's predictions for the test rows."""

    def bank() -> Any:
        half = clone(model).fit(guest[TRAIN], y[TRAIN], **weights)
        return half, getattr(half, method)(guest[TEST])

    def shop() -> Any:
        half = clone(host_model or model).fit(host[TRAIN])
        return half, getattr(half, method)(host[TEST])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeakageWarning)
        result = vfl.simulate(bank=bank, shop=shop, accept_leakage=ACCEPT)
    assert result["shop"][1] is None
    return result["bank"][0], result["shop"][0], result["bank"][1], result


POOLED = np.hstack([GUEST, HOST])


@pytest.mark.parametrize("he", ["ckks", "paillier"])
def test_logistic_regression_comes_to_the_pooled_model(he: Any) -> None:
    guest, host, probabilities, _ = fit(
        vfl.LogisticRegression(he=he, key_bits=2048, max_iter=40, batch_size=None, tol=1e-6)
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
    model = vfl.LogisticRegression(max_iter=4, key_bits=2048)
    runs = [fit(clone(model).set_params(he=he))[2] for he in ("ckks", "ckks", "paillier")]
    assert np.abs(runs[0] - runs[1]).max() < 1e-4
    assert np.abs(runs[0] - runs[2]).max() < 1e-4


def test_defaults_on_small_data_are_close_to_pooled() -> None:
    guest, _, probabilities, _ = fit(vfl.LogisticRegression())
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
        *_, predicted, _ = fit(
            vfl.LinearRegression(alpha=alpha, max_iter=60, tol=1e-9), y=TARGETS, method="predict"
        )
        pooled = make_pipeline(StandardScaler(), linear_model.Ridge(alpha=alpha)).fit(
            POOLED[TRAIN], TARGETS[TRAIN]
        )
        assert np.abs(predicted - pooled.predict(POOLED[TEST])).max() < 0.02 * TARGETS.std()


def test_score_predict_and_decision_function_agree() -> None:
    *_, decision, _ = fit(vfl.LogisticRegression(), method="decision_function")
    *_, predicted, _ = fit(vfl.LogisticRegression(), method="predict")
    assert decision.shape == (200,)
    assert set(np.unique(predicted)) == {0, 1}
    assert np.mean(predicted == (decision > 0)) > 0.97

    def bank() -> Any:
        model = vfl.LogisticRegression().fit(GUEST[TRAIN], LABELS[TRAIN])
        return model.score(GUEST[TEST], LABELS[TEST])

    def shop() -> Any:
        return vfl.LogisticRegression().fit(HOST[TRAIN]).score(HOST[TEST])

    result = vfl.simulate(bank=bank, shop=shop, accept_leakage=ACCEPT)
    assert 0.7 < result["bank"] < 1
    assert result["shop"] == round(result["bank"], 4)  # shared, so that searches choose alike


@pytest.mark.parametrize("labels", [np.array(["good", "bad"]), np.array([1, 2]), np.array([False, True])])
def test_any_two_labels(labels: Any) -> None:
    guest, _, predicted, _ = fit(vfl.LogisticRegression(), y=labels[LABELS], method="predict")
    assert list(guest.classes_) == sorted(labels.tolist())
    assert np.mean(predicted == labels[LABELS][TEST]) > 0.7


def test_weights_move_the_model_like_scikit_learns() -> None:
    weights = np.where(LABELS == 1, 4.0, 1.0)[TRAIN]
    settings: dict[str, Any] = {"max_iter": 30, "tol": 1e-6, "batch_size": None}
    *_, by_sample, _ = fit(vfl.LogisticRegression(**settings), sample_weight=weights)
    *_, by_class, _ = fit(
        vfl.LogisticRegression(class_weight={0: 1.0, 1: 4.0}, **settings),
        host_model=vfl.LogisticRegression(**settings),
    )
    assert np.abs(by_sample - by_class).max() < 1e-3
    pooled = make_pipeline(StandardScaler(), linear_model.LogisticRegression(C=1e6))
    pooled.fit(POOLED[TRAIN], LABELS[TRAIN], logisticregression__sample_weight=weights)
    *_, free, _ = fit(vfl.LogisticRegression(C=1e6, **settings), sample_weight=weights)
    assert np.abs(free - pooled.predict_proba(POOLED[TEST])).max() < 0.02


def test_early_stopping_watches_held_out_rows() -> None:
    guest, _, probabilities, result = fit(
        vfl.LogisticRegression(early_stopping=True, validation_fraction=0.2, max_iter=30, tol=1e-2)
    )
    assert guest.converged_
    assert guest.n_iter_ < 30
    assert log_loss(LABELS[TEST], probabilities[:, 1]) < 0.5
    rows = [r.shape["rows"] for r in result.view("bank") if r.kind == "gradient.score"]
    assert rows.count(100) == guest.n_iter_


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame])
def test_tables_and_column_names(kind: Any) -> None:
    guest_table = kind({f"g{i}": GUEST[:, i] for i in range(4)})
    host_table = kind({f"h{i}": HOST[:, i] for i in range(10)})
    guest, host, probabilities, _ = fit(vfl.LogisticRegression(), guest=guest_table, host=host_table)
    assert list(guest.feature_names_in_) == ["g0", "g1", "g2", "g3"]
    assert host.n_features_in_ == 10
    assert probabilities.shape == (200, 2)


def test_constant_and_collinear_columns_do_no_harm() -> None:
    odd = np.column_stack([HOST, np.full(ROWS, 3.0), HOST[:, 0] * 2])
    _, host, probabilities, _ = fit(vfl.LogisticRegression(), host=odd)
    assert host.coef_[10] == 0
    *_, plain, _ = fit(vfl.LogisticRegression())
    assert np.abs(probabilities - plain).max() < 0.05


class TestSaveAndLoad:
    def test_round_trip_predicts_the_same(self, tmp_path: Path) -> None:
        guest, host, probabilities, _ = fit(
            vfl.LogisticRegression(class_weight={0: 1.0, 1: 1.0}), host_model=vfl.LogisticRegression()
        )
        guest.save(tmp_path / "bank.model")
        host.save(tmp_path / "shop.model")
        assert (tmp_path / "bank.model").stat().st_mode & 0o777 == 0o600
        result = vfl.simulate(
            bank=lambda: vfl.load(tmp_path / "bank.model").predict_proba(GUEST[TEST]),
            shop=lambda: vfl.load(tmp_path / "shop.model").predict_proba(HOST[TEST]),
            accept_leakage=ACCEPT,
        )
        assert np.array_equal(result["bank"], probabilities)

    def test_linear(self, tmp_path: Path) -> None:
        guest, host, predicted, _ = fit(vfl.LinearRegression(), y=TARGETS, method="predict")
        guest.save(tmp_path / "g")
        host.save(tmp_path / "h")
        result = vfl.simulate(
            bank=lambda: vfl.load(tmp_path / "g").predict(GUEST[TEST]),
            shop=lambda: vfl.load(tmp_path / "h").predict(HOST[TEST]),
            accept_leakage=ACCEPT,
        )
        assert np.array_equal(result["bank"], predicted)

    def test_halves_of_different_models_do_not_mix(self) -> None:
        first, second = fit(vfl.LogisticRegression()), fit(vfl.LogisticRegression())
        with pytest.raises(ConfigMismatch, match="model"):
            vfl.simulate(
                bank=lambda: first[0].predict_proba(GUEST[TEST]),
                shop=lambda: second[1].predict_proba(HOST[TEST]),
                accept_leakage=ACCEPT,
            )

    def test_the_wrong_half_is_refused(self) -> None:
        _, host, _, _ = fit(vfl.LogisticRegression())
        with pytest.raises(SchemaMismatch, match="trained by the host"):
            vfl.simulate(
                bank=lambda: host.predict_proba(HOST),
                shop=lambda: host.predict_proba(HOST),
                accept_leakage=ACCEPT,
            )

    @pytest.mark.parametrize(
        "content",
        [b"", b"\x80\x04pickle", b"{}", b'{"kind": "vfl model"}', b"[" * 5000],
    )
    def test_files_that_are_no_model(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "broken"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="not a model"):
            vfl.load(path)

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"coef": [[1.0]]}, SchemaMismatch),
            ({"coef": [[1.0] * 4] * 2}, SchemaMismatch),
            ({"intercept": []}, SchemaMismatch),
            ({"lower": [None]}, SchemaMismatch),
            ({"classes": [1, 2, 3]}, SchemaMismatch),
            ({"estimator": "os.system"}, ConfigError),
            ({"format": 99}, ConfigError),
            ({"parameters": {"unknown": 1}}, ConfigError),
            ({"extra": 1}, ConfigError),
        ],
    )
    def test_changed_files(self, tmp_path: Path, change: dict[str, Any], error: type[Exception]) -> None:
        guest, *_ = fit(vfl.LogisticRegression())
        path = tmp_path / "model"
        guest.save(path)
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(error):
            vfl.load(path)

    def test_a_missing_file_and_an_unwritable_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot read"):
            vfl.load(tmp_path / "none")
        guest, *_ = fit(vfl.LogisticRegression())
        with pytest.raises(ConfigError, match="cannot write"):
            guest.save(tmp_path / "no folder" / "model")


def bad(column: int, value: float) -> Any:
    table = GUEST.copy()
    table[3, column] = value
    return table


class TestBadInput:
    @pytest.mark.parametrize(
        ("guest", "labels", "error", "text"),
        [
            (bad(1, np.nan), LABELS, MissingValues, "bank: .*x1"),
            (bad(1, np.inf), LABELS, InvalidData, "x1"),
            (bad(1, 1e308), LABELS, InvalidData, "x1"),
            (GUEST.astype(complex), LABELS, InvalidData, "complex"),
            (np.full((ROWS, 2), "a"), LABELS, InvalidData, "bank"),
            (GUEST[:, :0], LABELS, InvalidData, "no feature columns"),
            (GUEST, np.ones(ROWS), InvalidData, "1 classes"),
            (GUEST, np.arange(ROWS), InvalidData, "classes"),
            (GUEST, np.where(LABELS, np.nan, 1.0), MissingValues, "labels"),
            (GUEST[:, 0], LABELS, InvalidData, "bank"),
            (pd.DataFrame([[1, 2]] * ROWS, columns=["a", "a"]), LABELS, InvalidData, "a"),
        ],
    )
    def test_tables_and_labels(self, guest: Any, labels: Any, error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            fit(vfl.LogisticRegression(), y=labels, guest=guest)

    @pytest.mark.parametrize("weight", [0.0, -1.0, np.nan, np.inf])
    def test_weights(self, weight: float) -> None:
        weights = np.ones(500)
        weights[7] = weight
        with pytest.raises((InvalidData, MissingValues), match="weights"):
            fit(vfl.LogisticRegression(), sample_weight=weights)

    def test_labels_at_the_wrong_party(self) -> None:
        with pytest.raises(InvalidData, match="pass the labels"):
            vfl.simulate(
                bank=lambda: vfl.LogisticRegression().fit(GUEST),
                shop=lambda: vfl.LogisticRegression().fit(HOST),
                accept_leakage=ACCEPT,
            )
        with pytest.raises(InvalidData, match="belong to the guest"):
            vfl.simulate(
                bank=lambda: vfl.LogisticRegression().fit(GUEST, LABELS),
                shop=lambda: vfl.LogisticRegression().fit(HOST, LABELS),
                accept_leakage=ACCEPT,
            )

    @pytest.mark.parametrize(("rows", "needed"), [(100, 160), (159, 160)])
    def test_too_few_rows_for_the_hosts_columns(self, rows: int, needed: int) -> None:
        with pytest.raises(InvalidData, match=f"at least {needed} rows"):
            vfl.simulate(
                bank=lambda: vfl.LogisticRegression().fit(GUEST[:rows], LABELS[:rows]),
                shop=lambda: vfl.LogisticRegression().fit(HOST[:rows]),
                accept_leakage=ACCEPT,
            )

    def test_batches_below_the_floor_are_refused(self) -> None:
        assert gradient.smallest_batch(10) == 160
        with pytest.raises(InvalidData, match="a batch of 100 rows"):
            fit(vfl.LogisticRegression(batch_size=100))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"max_iter": 0},
            {"batch_size": 0},
            {"C": 0.0},
            {"he": "rot13"},
            {"security": "none"},
            {"validation_fraction": 0.0},
            {"tol": -1.0},
            {"winsorise": 0.0},
        ],
    )
    def test_parameters(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", ".")):
            fit(vfl.LogisticRegression(**wrong))

    def test_a_short_paillier_key_is_refused(self) -> None:
        with pytest.raises(vfl.errors.InvalidKey, match="2048"):
            fit(vfl.LogisticRegression(he="paillier", key_bits=1024))

    def test_other_columns_at_prediction(self) -> None:
        table = pd.DataFrame({"a": GUEST[:, 0], "b": GUEST[:, 1]})

        def bank() -> Any:
            vfl.LogisticRegression().fit(table, LABELS).predict_proba(table.rename(columns={"b": "c"}))

        with pytest.raises(SchemaMismatch, match="missing: b; unexpected: c"):
            vfl.simulate(
                bank=bank,
                shop=lambda: vfl.LogisticRegression().fit(HOST).predict_proba(HOST),
                accept_leakage=ACCEPT,
            )

    def test_a_training_that_diverges_ends_in_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exchange, "STEP", 50.0)
        with pytest.raises((EncodingOverflow, TrainingDiverged)):
            fit(vfl.LinearRegression(max_iter=200, tol=0.0), y=TARGETS, method="predict")

    def test_columns_that_the_policy_denies(self) -> None:
        def shop() -> None:
            session = vfl.current()
            session.policy = vfl.config.PolicyConfig(accept_leakage=("score", "gradient"), columns=("x0",))
            vfl.LogisticRegression().fit(HOST)

        import vfl.config

        with pytest.raises(PolicyRefused, match="does not allow x1"):
            vfl.simulate(
                bank=lambda: vfl.LogisticRegression().fit(GUEST, LABELS), shop=shop, accept_leakage=ACCEPT
            )


def test_many_epochs_warn_of_what_the_guest_can_compute() -> None:
    def act(table: Any, *labels: Any) -> None:
        vfl.LogisticRegression(max_iter=10).fit(table, *labels)

    with pytest.warns(LeakageWarning, match="10 host columns"):
        vfl.simulate(bank=lambda: act(GUEST, LABELS), shop=lambda: act(HOST), accept_leakage=ACCEPT)


def test_estimators_clone_and_print() -> None:
    model = vfl.LogisticRegression(C=3.0, he="paillier")
    assert clone(model).get_params() == model.get_params()
    assert "C=3.0" in repr(model)
