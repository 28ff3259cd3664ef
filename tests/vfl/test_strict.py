"""Strict training through the estimators: against pooled scikit-learn, with real encryption and without."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import linear_model
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import d2_tweedie_score, r2_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import vfl
from tests.joint import GUEST, HOST, LABELS, POOLED, ROWS, SCORE, TARGETS, TEST, TRAIN, fit
from vfl.errors import ConfigMismatch, InvalidData, LeakageWarning, MissingValues, TrainingDiverged
from vfl.protocols.wire import OPT_IN

Floats = NDArray[np.float64]
RNG = np.random.default_rng(8)
MEAN = np.exp(SCORE / 3)
COUNTS = RNG.poisson(MEAN).astype(float)
CLAIMS = RNG.gamma(2.0, MEAN / 2) + 1e-3
CLASSES = np.array(["bronze", "gold", "silver"])[np.digitize(SCORE + RNG.normal(size=ROWS), [-2, 1])]
EXPOSURE = RNG.uniform(0.2, 3.0, ROWS)
WEIGHTS = RNG.uniform(0.3, 3.0, ROWS)
open_products = pytest.mark.usefixtures("open_products")


def pooled(model: Any, y: Any, **given: Any) -> Any:
    """Return scikit-learn's model of standardised pooled columns; further arguments go to its fit."""
    name = type(model).__name__.lower()
    steps = make_pipeline(StandardScaler(), model)
    return steps.fit(POOLED[TRAIN], y[TRAIN], **{f"{name}__{key}": value for key, value in given.items()})


def standard(guest: Any, host: Any) -> Floats:
    """Return the parties' weights of standardised columns, in the units of the guest's target."""
    scale = getattr(guest, "target_scale_", 1.0) if isinstance(guest, vfl.LinearRegression) else 1.0
    parts = [np.atleast_2d(guest.coef_), scale * np.atleast_2d(host.coef_)]
    return np.asarray(np.hstack(parts) * POOLED[TRAIN].std(axis=0))


def assert_close(found: Floats, expected: Floats, within: float = 0.01) -> None:
    """Compare in the relative L2 norm."""
    assert np.linalg.norm(found - expected) <= within * np.linalg.norm(expected)


# --- with real encryption


CASES: dict[str, tuple[Any, Any, Any]] = {
    "logistic": (vfl.LogisticRegression(), linear_model.LogisticRegression(), LABELS),
    "linear": (vfl.LinearRegression(alpha=5.0), linear_model.Ridge(alpha=5.0), TARGETS),
    "poisson": (vfl.PoissonRegressor(), linear_model.PoissonRegressor(alpha=0, tol=1e-8), COUNTS),
    "gamma": (vfl.GammaRegressor(), linear_model.GammaRegressor(alpha=0, tol=1e-8), CLAIMS),
    "tweedie": (
        vfl.TweedieRegressor(power=1.5),
        linear_model.TweedieRegressor(power=1.5, alpha=0, link="log", tol=1e-8),
        COUNTS,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_joint_model_is_the_pooled_one(case: str) -> None:
    model, theirs, y = CASES[case]
    guest, host, predicted, result = fit(model, y=y, method="predict")
    reference = pooled(theirs, y)
    assert_close(standard(guest, host), np.atleast_2d(reference[1].coef_))
    expected = reference.predict(POOLED[TEST])
    if case == "logistic":
        assert np.mean(predicted == expected) > 0.99
    else:
        assert_close(predicted, expected)
    assert guest.converged_
    assert guest.n_iter_ == len(guest.distance_curve_) < 15
    assert guest.distance_curve_[-1] <= 0.002 < guest.distance_curve_[0]
    assert not {record.leakage for record in result.transcript.records} & set(OPT_IN)


def test_several_classes_are_each_against_the_rest() -> None:
    guest, host, predicted, _ = fit(vfl.LogisticRegression(), y=CLASSES, method="predict_proba")
    reference = make_pipeline(StandardScaler(), OneVsRestClassifier(linear_model.LogisticRegression()))
    reference.fit(POOLED[TRAIN], CLASSES[TRAIN])
    expected = np.vstack([each.coef_ for each in reference[1].estimators_])
    assert guest.coef_.shape == (3, 4)
    assert host.coef_.shape == (3, 10)
    assert guest.intercept_.shape == (3,)
    assert_close(standard(guest, host), expected)
    assert np.abs(predicted - reference.predict_proba(POOLED[TEST])).max() < 0.01
    assert list(guest.classes_) == ["bronze", "gold", "silver"]


@open_products
def test_twenty_classes_train_with_defaults() -> None:
    classes = np.argsort(np.argsort(SCORE + np.random.default_rng(2).normal(size=ROWS))) * 20 // ROWS
    guest, _, predicted, _ = fit(vfl.LogisticRegression(), y=classes, method="predict")
    assert guest.coef_.shape == (20, 4)
    reference = make_pipeline(StandardScaler(), OneVsRestClassifier(linear_model.LogisticRegression()))
    expected = reference.fit(POOLED[TRAIN], classes[TRAIN]).predict(POOLED[TEST])
    assert np.mean(predicted == expected) > 0.95


def test_runs_with_other_keys_give_the_same_predictions() -> None:
    first, second = (fit(vfl.LogisticRegression())[2] for _ in range(2))
    assert 0 < np.abs(first - second).max() < 2e-4


@pytest.mark.slow
def test_paillier_gives_the_same_model() -> None:
    parameters: dict[str, Any] = {"max_iter": 3, "tol": 0.02}
    few = slice(0, 60)

    def train(he: Any) -> Any:
        model = vfl.LinearRegression(he=he, key_bits=2048, **parameters)
        return vfl.simulate(
            bank=lambda: clone(model).fit(GUEST[few], TARGETS[few]).coef_,
            shop=lambda: clone(model).fit(HOST[few, :3]).coef_,
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        lattice, paillier = train("lattice"), train("paillier")
    for name in ("bank", "shop"):
        assert_close(paillier[name], lattice[name], 1e-3)


# --- what training takes into account


@open_products
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_the_penalty_is_that_of_scikit_learn(strength: float) -> None:
    guest, host, *_ = fit(vfl.LogisticRegression(C=strength))
    expected = pooled(linear_model.LogisticRegression(C=strength), LABELS)[1].coef_
    assert_close(standard(guest, host), expected)
    mean = COUNTS[TRAIN].mean()
    for power in (1.0, 1.6):
        guest, host, *_ = fit(vfl.TweedieRegressor(power=power, alpha=strength), y=COUNTS, method="predict")
        alpha = strength * mean ** (2 - power)
        reference = linear_model.TweedieRegressor(power=power, alpha=alpha, link="log", tol=1e-8)
        assert_close(standard(guest, host), pooled(reference, COUNTS)[1].coef_)


@open_products
def test_sample_and_class_weights() -> None:
    weights = np.where(LABELS == 1, 4.0, 1.0)[TRAIN]
    *_, by_sample, _ = fit(vfl.LogisticRegression(), sample_weight=weights)
    *_, by_class, _ = fit(
        vfl.LogisticRegression(class_weight={0: 1.0, 1: 4.0}), host_model=vfl.LogisticRegression()
    )
    assert np.abs(by_sample - by_class).max() < 1e-3
    *_, balanced, _ = fit(
        vfl.LogisticRegression(class_weight="balanced"), host_model=vfl.LogisticRegression()
    )
    reference = pooled(linear_model.LogisticRegression(class_weight="balanced"), LABELS)
    assert np.abs(balanced - reference.predict_proba(POOLED[TEST])).max() < 5e-3


@open_products
@pytest.mark.parametrize("case", ["linear", "poisson", "gamma", "tweedie"])
def test_sample_weights_of_regressions(case: str) -> None:
    model, theirs, y = CASES[case]
    weights = WEIGHTS[TRAIN] / WEIGHTS[TRAIN].mean()
    guest, host, *_ = fit(model, y=y, method="predict", sample_weight=3 * weights)
    assert_close(standard(guest, host), pooled(theirs, y, sample_weight=weights)[1].coef_)


@open_products
def test_an_exposure_is_an_offset_and_the_weight_of_a_rate() -> None:
    counts = np.random.default_rng(3).poisson(EXPOSURE * MEAN).astype(float)
    exposure = EXPOSURE[TRAIN]
    guest, host, *_ = fit(vfl.PoissonRegressor(), y=counts, method="predict", exposure=exposure)
    same, _, *_ = fit(vfl.PoissonRegressor(), y=counts, method="predict", offset=np.log(exposure))
    rates = np.where(np.arange(ROWS) < len(exposure), counts / EXPOSURE, 0)
    reference = pooled(linear_model.PoissonRegressor(alpha=0, tol=1e-8), rates, sample_weight=exposure)
    assert_close(standard(guest, host), reference[1].coef_)
    assert_close(same.coef_, guest.coef_, 1e-3)

    def ask(model: Any, table: Any, **given: Any) -> Callable[[], Any]:
        return lambda: (model.predict(table[TEST], **given), model.predict(table[TEST]))

    result = vfl.simulate(bank=ask(guest, GUEST, exposure=EXPOSURE[TEST]), shop=ask(host, HOST))
    with_exposure, rate = result["bank"]
    np.testing.assert_allclose(with_exposure, EXPOSURE[TEST] * rate)
    assert_close(rate, reference.predict(POOLED[TEST]))


@open_products
def test_without_an_intercept_nothing_is_centred() -> None:
    guest, host, predicted, _ = fit(
        vfl.LinearRegression(fit_intercept=False, tol=1e-4), y=TARGETS, method="predict"
    )
    reference = linear_model.LinearRegression(fit_intercept=False).fit(POOLED[TRAIN], TARGETS[TRAIN])
    assert guest.intercept_ == host.intercept_ == 0
    assert_close(predicted, reference.predict(POOLED[TEST]))


@open_products
def test_early_stopping_watches_the_shared_loss_of_held_out_rows() -> None:
    noise = np.hstack([HOST, np.random.default_rng(4).normal(size=(ROWS, 150))])
    parameters: dict[str, Any] = {"C": 1e4, "tol": 0.0, "max_iter": 30}
    stopped, _, _, result = fit(
        vfl.LogisticRegression(early_stopping=True, validation_fraction=0.3, **parameters), host=noise
    )
    assert stopped.converged_
    assert 4 <= stopped.n_iter_ < 30
    assert len(stopped.loss_curve_) == stopped.n_iter_
    assert min(stopped.loss_curve_[-3:]) >= min(stopped.loss_curve_[:-3])
    opened = [record.kind for record in result.view("bank")]
    assert opened.count("glm.held_out") == stopped.n_iter_


@open_products
def test_few_rows_and_held_out_rows_far_away() -> None:
    generator = np.random.default_rng(1)  # four rows for 19 weights: some tables leave the link's range
    few, far = generator.normal(size=(10, 9)), generator.normal(size=(10, 9))
    few[-1] *= 1e3
    model = vfl.PoissonRegressor(alpha=0.1, early_stopping=True, validation_fraction=0.6)
    result = vfl.simulate(
        bank=lambda: clone(model).fit(few, np.arange(10.0)), shop=lambda: clone(model).fit(far)
    )
    assert np.isfinite(result["bank"].loss_curve_).all()


@open_products
def test_a_limit_that_comes_before_convergence_is_told() -> None:
    with pytest.warns(ConvergenceWarning, match=r"bank: .*max_iter=2 before it converged.*Raise max_iter"):
        guest, host, _, result = fit(vfl.LogisticRegression(max_iter=2))
    assert not guest.converged_
    assert guest.n_iter_ == 2
    assert not hasattr(host, "converged_")
    assert any("max_iter=2" in note for note in result.sessions["bank"].facts.notes)
    assert result.sessions["bank"].facts.history == list(enumerate(guest.distance_curve_, 1))


@open_products
def test_winsorised_columns_are_cut_off_in_training_and_in_predictions() -> None:
    heavy = HOST.copy()
    heavy[3, 0] = heavy[ROWS - 1, 0] = 1e5
    centre, spread = heavy[TRAIN, 0].mean(), heavy[TRAIN, 0].std()
    cut = heavy.copy()
    cut[:, 0] = np.clip(cut[:, 0], centre - 5 * spread, centre + 5 * spread)
    _, host, predicted, _ = fit(vfl.LogisticRegression(winsorise=5.0), host=heavy)
    assert host.limits_.upper[0] == pytest.approx(centre + 5 * spread)
    reference = make_pipeline(StandardScaler(), linear_model.LogisticRegression())
    reference.fit(np.hstack([GUEST, cut])[TRAIN], LABELS[TRAIN])
    assert np.abs(predicted - reference.predict_proba(np.hstack([GUEST, cut])[TEST])).max() < 0.01


@open_products
def test_rare_positives_and_heavy_tails_converge() -> None:
    rng = np.random.default_rng(5)
    columns = np.exp(rng.normal(size=(6000, 4))), rng.standard_t(3, size=(6000, 5))
    columns[1][:, 0] += columns[0][:, 0]
    score = 0.6 * columns[0] @ [1, -1, 0.5, 0] + 0.5 * columns[1] @ [1, 0.5, -0.5, 0.3, 0] - 9
    y = (rng.random(6000) < 1 / (1 + np.exp(-score))).astype(int)
    assert 0.01 < y.mean() < 0.03
    result = vfl.simulate(
        bank=lambda: vfl.LogisticRegression().fit(columns[0], y),
        shop=lambda: vfl.LogisticRegression().fit(columns[1]),
    )
    scaler = StandardScaler().fit(np.hstack(columns))
    expected = linear_model.LogisticRegression().fit(scaler.transform(np.hstack(columns)), y).coef_[0]
    found = np.concatenate([result["bank"].coef_, result["shop"].coef_]) * scaler.scale_
    assert result["bank"].converged_
    assert_close(found, expected, 0.05)


# --- scoring


@open_products
@pytest.mark.parametrize("case", ["classes", "linear", "poisson", "gamma", "tweedie"])
def test_halves_on_disk_predict_the_same(case: str, tmp_path: Path) -> None:
    model, _, y = CASES.get(case, (vfl.LogisticRegression(), None, CLASSES))
    guest, host, predicted, _ = fit(model, y=y, method="predict")
    guest.save(tmp_path / "guest")
    host.save(tmp_path / "host")
    loaded = vfl.load(tmp_path / "guest")
    assert loaded.get_params() == guest.get_params()
    result = vfl.simulate(
        bank=lambda: loaded.predict(GUEST[TEST]), shop=lambda: vfl.load(tmp_path / "host").predict(HOST[TEST])
    )
    np.testing.assert_array_equal(result["bank"], predicted)


@open_products
def test_scores_open_rounded_and_to_the_guest_alone() -> None:
    guest, host, probabilities, result = fit(vfl.LogisticRegression())
    parts = [record for record in result.transcript.records if record.kind == "score.part"]
    assert [(record.direction, record.shape) for record in parts] == [
        ("received", {"rows": 200, "models": 1})
    ]
    units: Any = parts[0].message
    exact = HOST[TEST] @ host.coef_ + host.intercept_
    np.testing.assert_array_equal(units.z[:, 0], np.rint(exact * 2**14))
    own = GUEST[TEST] @ guest.coef_ + guest.intercept_
    expected = 1 / (1 + np.exp(-own - units.z[:, 0] / 2**14))
    np.testing.assert_allclose(probabilities[:, 1], expected)


@open_products
def test_single_rows_score_as_in_a_batch() -> None:
    guest, host, batch, _ = fit(vfl.LogisticRegression())

    def one_by_one(model: Any, table: Any) -> Callable[[], Any]:
        return lambda: [model.predict_proba(table[[row]]) for row in (500, 501, 699)]

    result = vfl.simulate(bank=one_by_one(guest, GUEST), shop=one_by_one(host, HOST))
    np.testing.assert_allclose(np.vstack(result["bank"]), batch[[0, 1, 199]])
    assert result["shop"] == [None] * 3


@open_products
def test_a_partner_who_is_missing_is_a_typed_error() -> None:
    guest, host, *_ = fit(vfl.LogisticRegression())
    with pytest.raises(vfl.errors.ChannelClosed, match="shop"):
        vfl.simulate(bank=lambda: guest.predict_proba(GUEST[TEST]), shop=lambda: None)
    with pytest.raises(vfl.errors.ChannelClosed, match="bank"):
        vfl.simulate(bank=lambda: None, shop=lambda: host.predict_proba(HOST[TEST]))
    with pytest.raises(vfl.errors.LocalProtocolError, match="session"):
        guest.predict_proba(GUEST[TEST])


@open_products
def test_figures_of_regressions_are_shared() -> None:
    for model, y, figure in (
        (vfl.LinearRegression(), TARGETS, r2_score),
        (vfl.PoissonRegressor(), COUNTS, lambda y, p: d2_tweedie_score(y, p, power=1)),
    ):

        def bank(model: Any = model, y: Any = y) -> Any:
            half = clone(model).fit(GUEST[TRAIN], y[TRAIN])
            return half.score(GUEST[TEST], y[TEST]), half.predict(GUEST[TEST])

        def shop(model: Any = model) -> Any:
            half = clone(model).fit(HOST[TRAIN])
            return half.score(HOST[TEST]), half.predict(HOST[TEST])

        result = vfl.simulate(bank=bank, shop=shop)
        value, predicted = result["bank"]
        assert value == round(figure(y[TEST], predicted), 4)
        assert result["shop"] == (value, None)


# --- refusals


@open_products
@pytest.mark.parametrize(
    ("model", "y", "given", "error", "text"),
    [
        (vfl.PoissonRegressor(), -COUNTS - 1, {}, InvalidData, "bank: .*targets"),
        (vfl.GammaRegressor(), COUNTS, {}, InvalidData, "bank: .*targets"),
        (vfl.PoissonRegressor(), 0 * COUNTS, {}, InvalidData, "bank: .*targets"),
        (vfl.PoissonRegressor(), COUNTS, {"exposure": 0 * EXPOSURE[TRAIN]}, InvalidData, "exposures"),
        (vfl.PoissonRegressor(), COUNTS, {"exposure": EXPOSURE}, InvalidData, "exposures"),
        (vfl.PoissonRegressor(), COUNTS, {"offset": np.full(500, np.nan)}, MissingValues, "offset"),
        (vfl.PoissonRegressor(), COUNTS, {"offset": EXPOSURE[TRAIN], "exposure": EXPOSURE[TRAIN]}, ValueError,
         "not both"),
        (vfl.LinearRegression(), 0 * TARGETS, {}, InvalidData, "bank: all targets are equal"),
        (vfl.PoissonRegressor().set_params(security="exchange"), COUNTS, {}, ValueError, "security must be 'strict'"),
        (vfl.TweedieRegressor(power=2.5), COUNTS, {}, ValueError, "power must lie between 1 and 2"),
        (vfl.PoissonRegressor(alpha=-1.0), COUNTS, {}, ValueError, "alpha must not be negative"),
        (vfl.LogisticRegression(max_iter=101), LABELS, {}, ValueError, "max_iter must be at most 100"),
        (vfl.LogisticRegression(he="ckks"), LABELS, {}, ValueError, "he must be 'auto' or 'lattice'"),
        (vfl.LogisticRegression(batch_size=64), LABELS, {}, ValueError, "batch_size must be 'auto' or None"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_named(
    model: Any, y: Any, given: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        fit(model, y=y, method="predict", **given)


@open_products
def test_scores_that_leave_the_range_of_the_link_end_the_training_by_name() -> None:
    with pytest.raises(TrainingDiverged, match=r"from -6 to 10 .* winsorise"):
        fit(vfl.GammaRegressor(), y=np.exp(3 * SCORE), method="predict")


@open_products
def test_security_and_parameters_have_to_be_the_same() -> None:
    with pytest.raises(ConfigMismatch) as caught:
        fit(vfl.TweedieRegressor(power=1.2), host_model=vfl.TweedieRegressor(power=1.3), method="predict")
    assert set(caught.value.differences) == {"power"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeakageWarning)
        with pytest.raises(ConfigMismatch) as caught:
            vfl.simulate(
                bank=lambda: vfl.LogisticRegression().fit(GUEST, LABELS),
                shop=lambda: vfl.LogisticRegression(security="exchange").fit(HOST),
                accept_leakage=["score", "gradient"],
            )
    assert set(caught.value.differences) == {"security"}
