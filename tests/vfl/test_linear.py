"""The estimators: labels, tables, parameters, halves on disk and bad input, with strict training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone

import vfl
from tests.joint import GUEST, HOST, LABELS, ROWS, TARGETS, TEST, TRAIN, fit
from vfl.errors import (
    ConfigError,
    ConfigMismatch,
    InvalidData,
    MissingValues,
    PolicyRefused,
    SchemaMismatch,
)

pytestmark = pytest.mark.usefixtures("open_products")


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

    result = vfl.simulate(bank=bank, shop=shop)
    assert 0.7 < result["bank"] < 1
    assert (
        result["shop"] == result["bank"] == round(result["bank"], 4)
    )  # shared, so that searches choose alike


@pytest.mark.parametrize("labels", [np.array(["good", "bad"]), np.array([1, 2]), np.array([False, True])])
def test_any_two_labels(labels: Any) -> None:
    guest, _, predicted, _ = fit(vfl.LogisticRegression(), y=labels[LABELS], method="predict")
    assert list(guest.classes_) == sorted(labels.tolist())
    assert np.mean(predicted == labels[LABELS][TEST]) > 0.7


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
        )
        assert np.array_equal(result["bank"], probabilities)

    def test_linear(self, tmp_path: Path) -> None:
        guest, host, predicted, _ = fit(vfl.LinearRegression(), y=TARGETS, method="predict")
        guest.save(tmp_path / "g")
        host.save(tmp_path / "h")
        result = vfl.simulate(
            bank=lambda: vfl.load(tmp_path / "g").predict(GUEST[TEST]),
            shop=lambda: vfl.load(tmp_path / "h").predict(HOST[TEST]),
        )
        assert np.array_equal(result["bank"], predicted)

    def test_halves_of_different_models_do_not_mix(self) -> None:
        first, second = fit(vfl.LogisticRegression()), fit(vfl.LogisticRegression())
        with pytest.raises(ConfigMismatch, match="model"):
            vfl.simulate(
                bank=lambda: first[0].predict_proba(GUEST[TEST]),
                shop=lambda: second[1].predict_proba(HOST[TEST]),
            )

    def test_the_wrong_half_is_refused(self) -> None:
        _, host, _, _ = fit(vfl.LogisticRegression())
        with pytest.raises(SchemaMismatch, match="trained by the host"):
            vfl.simulate(
                bank=lambda: host.predict_proba(HOST),
                shop=lambda: host.predict_proba(HOST),
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
            )
        with pytest.raises(InvalidData, match="belong to the guest"):
            vfl.simulate(
                bank=lambda: vfl.LogisticRegression().fit(GUEST, LABELS),
                shop=lambda: vfl.LogisticRegression().fit(HOST, LABELS),
            )

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

    def test_other_columns_at_prediction(self) -> None:
        table = pd.DataFrame({"a": GUEST[:, 0], "b": GUEST[:, 1]})

        def bank() -> Any:
            vfl.LogisticRegression().fit(table, LABELS).predict_proba(table.rename(columns={"b": "c"}))

        with pytest.raises(SchemaMismatch, match="missing: b; unexpected: c"):
            vfl.simulate(
                bank=bank,
                shop=lambda: vfl.LogisticRegression().fit(HOST).predict_proba(HOST),
            )

    def test_columns_that_the_policy_denies(self) -> None:
        def shop() -> None:
            session = vfl.current()
            session.policy = vfl.config.PolicyConfig(accept_leakage=("score", "gradient"), columns=("x0",))
            vfl.LogisticRegression().fit(HOST)

        import vfl.config

        with pytest.raises(PolicyRefused, match="does not allow x1"):
            vfl.simulate(bank=lambda: vfl.LogisticRegression().fit(GUEST, LABELS), shop=shop)


def test_estimators_clone_and_print() -> None:
    model = vfl.LogisticRegression(C=3.0, he="paillier")
    assert clone(model).get_params() == model.get_params()
    assert "C=3.0" in repr(model)
