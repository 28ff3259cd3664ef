"""scikit-learn's tools: over the adapter with all columns in one table, and in lockstep at each party."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import linear_model
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import vfl
from tests.joint import GUEST, HOST, LABELS, POOLED, TARGETS, TEST, TRAIN
from vfl.adapter import EXPECTED_FAILED_CHECKS

pytestmark = pytest.mark.usefixtures("open_products")
ESTIMATORS = [
    vfl.LogisticRegression(),
    vfl.LinearRegression(),
    vfl.PoissonRegressor(),
    pytest.param(vfl.GammaRegressor(), marks=pytest.mark.slow),
    pytest.param(vfl.TweedieRegressor(), marks=pytest.mark.slow),
]
EXCHANGE = vfl.LogisticRegression(security="exchange")


@pytest.mark.filterwarnings("ignore")  # the checks provoke them
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda each: type(each).__name__)
def test_scikit_learns_checks(estimator: Any) -> None:
    results = check_estimator(
        vfl.Simulated(estimator), expected_failed_checks=EXPECTED_FAILED_CHECKS, on_skip=None, on_fail=None
    )
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    assert failed == {}
    assert sum(result["status"] == "passed" for result in results) > 50


@pytest.mark.parametrize("parties", [2, 3, {"bank": [0, 5], "shop": range(6, 14), "club": [1, 2, 3, 4]}])
def test_the_whole_model_is_the_pooled_one(parties: Any) -> None:
    model = vfl.Simulated(vfl.LinearRegression(tol=1e-4), parties=parties).fit(POOLED[TRAIN], TARGETS[TRAIN])
    expected = linear_model.LinearRegression().fit(POOLED[TRAIN], TARGETS[TRAIN])
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=2e-3 * np.abs(expected.coef_).max())
    assert model.intercept_ == pytest.approx(expected.intercept_, rel=1e-3)
    np.testing.assert_allclose(
        model.predict(POOLED[TEST]), POOLED[TEST] @ model.coef_ + model.intercept_, atol=1e-2
    )
    assert sorted(column for each in model.columns_.values() for column in each) == list(range(14))
    assert is_regressor(model)


def test_columns_are_chosen_by_name() -> None:
    table = pd.DataFrame(POOLED, columns=[f"c{i}" for i in range(14)])
    parties = {"bank": ["c1", "c0"], "shop": ["c7"]}
    model = vfl.Simulated(parties=parties).fit(table[TRAIN], LABELS[TRAIN])
    assert model.columns_ == {"bank": [1, 0], "shop": [7]}
    assert np.flatnonzero(model.coef_[0]).tolist() == [0, 1, 7]
    assert is_classifier(model)
    assert model.predict_proba(table[TEST]).shape == (200, 2)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(table[TEST].rename(columns={"c1": "d1"}))


@pytest.mark.parametrize(
    ("parties", "text"),
    [(1, "two or more"), ({"bank": [0]}, "two or more"), ({"a": [0], "b": []}, "column of its own"),
     ({"a": [0], "b": ["z"]}, "'z', which the table does not have"), ({"a": [0], "b": [14]}, "14")],
)  # fmt: skip
def test_parties_that_cannot_be(parties: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        vfl.Simulated(parties=parties).fit(POOLED, LABELS)


def test_errors_of_data_are_value_errors_and_others_are_not() -> None:
    with pytest.raises(ValueError, match=r"party0: .*1 classes"):
        vfl.Simulated().fit(POOLED, np.ones(len(POOLED)))
    with pytest.raises(vfl.errors.PolicyRefused, match="score"):
        vfl.Simulated(EXCHANGE).fit(POOLED, LABELS)
    with pytest.raises(NotFittedError):
        vfl.Simulated().predict(POOLED)


@pytest.mark.filterwarnings("ignore::vfl.errors.LeakageWarning")
def test_the_exchange_in_one_process() -> None:
    model = vfl.Simulated(EXCHANGE, accept_leakage=["score", "gradient"]).fit(POOLED, LABELS)
    assert model.score(POOLED, LABELS) > 0.75


def test_pipelines_searches_and_clones_over_the_adapter() -> None:
    model = make_pipeline(StandardScaler(), vfl.Simulated(vfl.LogisticRegression()))
    grid = {"simulated__estimator__C": [1e-4, 1.0]}
    search = GridSearchCV(model, grid, cv=2).fit(POOLED[TRAIN], LABELS[TRAIN])
    assert search.best_params_ == {"simulated__estimator__C": 1.0}
    pooled = make_pipeline(StandardScaler(), linear_model.LogisticRegression())
    expected = cross_val_score(pooled, POOLED, LABELS, cv=2, scoring="roc_auc")
    found = cross_val_score(search.best_estimator_, POOLED, LABELS, cv=2, scoring="roc_auc")
    np.testing.assert_allclose(found, expected, atol=1e-3)
    copy = clone(search.best_estimator_)
    assert copy.get_params()["simulated__estimator__C"] == 1.0
    assert not hasattr(copy[-1], "estimators_")


# --- in lockstep: each party has its own pipeline of local steps, and the same folds


def together(act: Callable[..., Any]) -> vfl.Simulation:
    """Run a function at both parties: with labels at the bank, without at the shop."""
    tables = [pd.DataFrame(GUEST, columns=list("abcd")), pd.DataFrame(HOST).add_prefix("h")]
    return vfl.simulate(bank=lambda: act(tables[0], LABELS), shop=lambda: act(tables[1]))


def test_a_pipeline_of_local_steps_at_each_party() -> None:
    def act(table: Any, *labels: Any) -> Any:
        local = PCA(3) if labels else StandardScaler()
        model = make_pipeline(local, vfl.LogisticRegression()).set_output(transform="pandas")
        model.fit(table[TRAIN], *(each[TRAIN] for each in labels))
        return list(model[-1].feature_names_in_), model.predict(table[TEST])

    result = together(act)
    names, predicted = result["bank"]
    assert names == ["pca0", "pca1", "pca2"]
    assert result["shop"] == ([f"h{i}" for i in range(10)], None)
    assert np.mean(predicted == LABELS[TEST]) > 0.75


@pytest.mark.parametrize("cv", [3, KFold(3, shuffle=True, random_state=5)], ids=["number", "shuffled"])
def test_a_search_chooses_the_same_parameters_everywhere(cv: Any) -> None:
    def act(table: Any, *labels: Any) -> Any:
        model = make_pipeline(StandardScaler(), vfl.LogisticRegression())
        search = GridSearchCV(model, {"logisticregression__C": [1e-4, 1e-2, 1.0]}, cv=cv)
        search.fit(table, *labels)
        return search.best_params_, search.cv_results_["mean_test_score"].tolist()

    result = together(act)
    assert result["bank"] == result["shop"]
    pooled = make_pipeline(StandardScaler(), linear_model.LogisticRegression())
    folds = cv if isinstance(cv, KFold) else KFold(cv)
    grid = {"logisticregression__C": [1e-4, 1e-2, 1.0]}
    reference = GridSearchCV(pooled, grid, cv=folds).fit(POOLED, LABELS)
    np.testing.assert_allclose(result["bank"][1], reference.cv_results_["mean_test_score"], atol=0.006)


def test_cross_validation_in_lockstep() -> None:
    def act(table: Any, *labels: Any) -> Any:
        return cross_val_score(vfl.LogisticRegression(), table, *labels, cv=3).tolist()

    result = together(act)
    assert result["bank"] == result["shop"]
    assert min(result["bank"]) > 0.7


def test_folds_of_another_size_are_noticed() -> None:
    def act(table: Any, *labels: Any) -> Any:
        return cross_val_score(
            vfl.LogisticRegression(), table, *labels, cv=3 if labels else 4, error_score="raise"
        )

    with pytest.raises(vfl.errors.ConfigMismatch, match="rows"):
        together(act)
