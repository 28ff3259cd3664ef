"""The families of vfl.horizontal one by one, against their papers and against properties they must have."""

import functools
import math
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.svm import SVC

from tests.support import DeterministicRng
from vfl.errors import CohortTooSmall, ConfigError, InvalidData, MalformedMessage, PolicyRefused
from vfl.horizontal import communication as com
from vfl.horizontal import incentives, partitioning, personalisation, privacy
from vfl.horizontal import robustness as robust
from vfl.horizontal.composing import Needs, require_sums
from vfl.horizontal.distillation import consensus, distilled, soft_gradient, softmax
from vfl.horizontal.models import Network, adapted
from vfl.horizontal.optimisation import (
    FedProx,
    Local,
    Scaffold,
    ServerState,
    adaptive_step,
    averaged_step,
    control_change,
    local_sgd,
)
from vfl.horizontal.participation import (
    Buffered,
    Participation,
    adaptive_local,
    by_loss,
    by_size,
    staleness_weight,
    uniform,
)
from vfl.horizontal.vectors import Rows, flatten, generator, unflatten, weighted_mean
from vfl.horizontal.world import Device, World, label_flipped, scaled, speeds

RNG = generator(1)
IRIS = load_iris()
X, Y = (IRIS.data - IRIS.data.mean(axis=0)) / IRIS.data.std(axis=0), IRIS.target


# --- vectors and models


def test_arrays_come_back_from_the_vector() -> None:
    arrays = [RNG.normal(size=shape) for shape in ((3, 2), (2,), (1, 4))]
    back = unflatten(flatten(arrays), [a.shape for a in arrays])
    assert all(np.array_equal(a, b) for a, b in zip(arrays, back, strict=True))
    with pytest.raises(InvalidData, match="12 numbers"):
        unflatten(np.zeros(11), [a.shape for a in arrays])


ESTIMATORS = [
    (LogisticRegression(), range(3)),
    (SGDClassifier(loss="log_loss"), range(3)),
    (MLPClassifier((5,), activation="tanh"), range(3)),
    (MLPClassifier((4, 3)), range(3)),
    (LinearRegression(), None),
    (MLPRegressor((5,), activation="logistic"), None),
]


@pytest.mark.parametrize(("estimator", "classes"), ESTIMATORS, ids=lambda v: type(v).__name__)
def test_gradient_is_the_derivative_of_the_loss(estimator: Any, classes: Any) -> None:
    model = adapted(estimator, 4, classes)
    vector = RNG.normal(size=model.size)
    gradient, step = model.gradient(vector, X, Y), 1e-6
    for i in range(0, model.size, 3):
        unit = np.eye(1, model.size, i)[0] * step
        slope = (model.loss(vector + unit, X, Y) - model.loss(vector - unit, X, Y)) / (2 * step)
        assert gradient[i] == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize(("estimator", "classes"), ESTIMATORS, ids=lambda v: type(v).__name__)
def test_the_fitted_estimator_predicts_the_same(estimator: Any, classes: Any) -> None:
    model = adapted(estimator, 4, classes)
    vector = RNG.normal(size=model.size)
    assert np.allclose(model.estimator(vector).predict(X), model.predict(vector, X))


@pytest.mark.parametrize("estimator", [LogisticRegression(), MLPClassifier((3,))])
def test_two_classes_have_the_probabilities_of_scikit_learn(estimator: Any) -> None:
    model = adapted(estimator, 4, ["no", "yes"])
    vector = RNG.normal(size=model.size)
    expected = softmax(model.scores(vector, X))
    assert np.allclose(model.estimator(vector).predict_proba(X), expected)


def test_models_that_cannot_be_averaged_are_refused() -> None:
    with pytest.raises(ConfigError, match="SVC"):
        adapted(SVC(), 4, range(3))
    with pytest.raises(ConfigError, match="classes"):
        adapted(LogisticRegression(), 4)
    with pytest.raises(InvalidData, match="none of the model's classes"):
        adapted(LogisticRegression(), 4, range(2)).loss(np.zeros(10), X, Y)


# --- optimisation


class Quadratic:
    """f(w) = |w - centre|^2 / 2 whatever the rows: every step is known in closed form."""

    size = 2

    def __init__(self, centre: Any) -> None:
        self.centre = np.asarray(centre, dtype=np.float64)

    def initial(self, seed: int) -> Any:
        return np.zeros(2)

    def loss(self, vector: Any, X: Any, y: Any) -> float:
        return float(((vector - self.centre) ** 2).sum() / 2)

    def gradient(self, vector: Any, X: Any, y: Any) -> Any:
        return vector - self.centre

    def scores(self, vector: Any, X: Any) -> Any:
        return X @ vector

    accuracy = loss


ONE = Rows(np.ones((1, 1)), np.ones(1))


def test_local_steps_and_the_proximal_term_in_closed_form() -> None:
    model, local, start = Quadratic([4.0, -2.0]), Local(3, 0.5, 0), np.array([1.0, 1.0])
    plain = local_sgd(model, start, ONE, local, RNG)
    assert np.allclose(plain, model.centre + 0.5**3 * (start - model.centre))
    held = local_sgd(model, start, ONE, Local(200, 0.1, 0), RNG, proximal=3.0)
    assert np.allclose(held, (model.centre + 3.0 * start) / 4.0)
    assert np.array_equal(start, [1.0, 1.0])


def test_scaffold_stops_where_all_together_are_at_rest_and_fedavg_does_not() -> None:
    """Two clients of different curvature: FedAvg's fixed point is biased, SCAFFOLD's is the optimum."""

    class Steep(Quadratic):
        def gradient(self, vector: Any, X: Any, y: Any) -> Any:
            return 9.0 * (vector - self.centre)

    models: list[Any] = [Quadratic([1.0, 1.0]), Steep([0.0, 0.0])]
    local, optimum = Local(10, 0.05, 0), np.full(2, 0.1)
    state, controls = ServerState.start(np.zeros(2)), [np.zeros(2), np.zeros(2)]
    plain = np.zeros(2)
    for _ in range(60):
        moves = []
        for i, model in enumerate(models):
            end = local_sgd(model, state.vector, ONE, local, RNG, correction=state.control - controls[i])
            change = control_change(controls[i], state.control, end - state.vector, local)
            controls[i] = controls[i] + change
            moves.append(np.concatenate([end - state.vector, change]))
        state = Scaffold().step(state, np.mean(moves, axis=0), 1.0)
        plain = np.mean([local_sgd(model, plain, ONE, local, RNG) for model in models], axis=0)
    assert np.allclose(state.vector, optimum, atol=1e-6)
    assert np.abs(plain - optimum).max() > 0.05
    assert np.allclose(state.control, np.mean(controls, axis=0))


def test_server_steps_are_those_of_the_paper() -> None:
    start, mean = ServerState.start(np.array([1.0, 2.0])), np.array([0.5, -0.1])
    once = averaged_step(start, mean, 1.0, 0.9)
    assert np.allclose(averaged_step(once, mean, 1.0, 0.9).vector, start.vector + mean + 1.9 * mean)
    tau, square = 0.1, mean**2
    for kind, second in {
        "adagrad": tau**2 + square,
        "yogi": tau**2 - 0.01 * square * np.sign(tau**2 - square),
        "adam": 0.99 * tau**2 + 0.01 * square,
    }.items():
        stepped = adaptive_step(start, mean, kind, rate=0.3, tau=tau)  # type: ignore[arg-type]
        assert np.allclose(stepped.second, second)
        assert np.allclose(stepped.vector - start.vector, 0.3 * 0.1 * mean / (np.sqrt(second) + tau))


# --- personalisation


def test_personal_models_lie_between_alone_and_common() -> None:
    model, common, local = Quadratic([4.0, 0.0]), np.array([0.0, 0.0]), Local(300, 0.05, 0)
    own = personalisation.ditto(model, np.zeros(2), common, ONE, local, 1.0, RNG)
    assert np.allclose(own, [2.0, 0.0], atol=1e-6)
    assert np.allclose(personalisation.fine_tuned(model, common, ONE, local, RNG), model.centre, atol=1e-5)
    assert personalisation.best_mix(model, common, np.array([8.0, 0.0]), ONE) == 0.5
    with pytest.raises(InvalidData):
        personalisation.interpolated(common, own, 1.5)


def test_the_last_layers_stay_at_the_client() -> None:
    model = adapted(MLPClassifier((5,)), 4, range(3))
    shared = personalisation.shared_coordinates(model, 1)
    assert shared.sum() == 4 * 5 + 5
    joined = personalisation.joined_layers(np.ones(model.size), np.zeros(model.size), shared)
    assert joined.sum() == 25
    with pytest.raises(InvalidData):
        personalisation.shared_coordinates(model, 2)


# --- participation


def test_choices_are_distinct_and_follow_size_and_loss() -> None:
    assert len(set(uniform(5, 9, RNG))) == 5
    picks = [by_size(1, [1, 1, 98], RNG)[0] for _ in range(100)]
    assert picks.count(2) > 85
    assert by_loss(2, [0.1, 5.0, 3.0], [7, 8, 9]) == [8, 9]
    assert Participation(by="loss").needs is Needs.CLEAR


def test_slow_clients_do_less_and_stale_updates_count_less() -> None:
    assert adaptive_local(Local(20, 0.1, 32), 5.0, 2.0) == Local(10, 0.1, 32)
    assert adaptive_local(Local(20, 0.1, 32), 0.25, 2.0) == Local(1, 0.1, 16)
    assert adaptive_local(Local(20, 0.1, 32), 500.0, 2.0) == Local(20, 0.1, 32)
    assert staleness_weight(3) == 0.5
    mean = Buffered(2).mean([np.ones(1), np.ones(1)], [0, 3])
    assert mean[0] == pytest.approx(0.75)


# --- communication


@pytest.mark.parametrize("bits", range(1, 9))
def test_quantisation_keeps_the_mean_and_takes_its_bits(bits: int) -> None:
    vector = np.array([-1.0, -0.3, 0.2, 0.77, 1.0])
    codec = com.Quantised(bits)
    raw = codec.encode(vector, RNG, 0)
    assert len(raw) == 8 + math.ceil(5 * bits / 8)
    decoded = np.array([codec.decode(codec.encode(vector, RNG, 0), 5, 0) for _ in range(2000)])
    step = 2.0 / (2**bits - 1)
    assert np.abs(decoded - vector).max() <= step + 1e-6
    assert np.abs(decoded.mean(axis=0) - vector).max() < 5 * step / math.sqrt(2000)


def test_coordinates_that_are_left_out_come_later() -> None:
    codecs: list[com.Codec] = [com.TopK(0.1), com.RandomK(0.1)]
    for codec in codecs:
        vector, memory, total = np.arange(1.0, 41.0), np.zeros(40), np.zeros(40)
        for seed in range(200):
            raw, memory = com.with_feedback(codec, vector, memory, RNG, seed)
            total += codec.decode(raw, 40, seed)
        assert np.allclose(total + memory, 200 * vector, rtol=1e-5)
        assert np.abs(memory).max() < 0.5 * 200 * vector.max()


def test_top_k_keeps_the_largest_and_says_where() -> None:
    vector = np.array([0.0, -9.0, 1.0, 4.0])
    codec = com.TopK(0.5)
    raw = codec.encode(vector, RNG, 0)
    assert len(raw) == 2 * (2 + 4)
    assert codec.decode(raw, 4, 0).tolist() == [0.0, -9.0, 0.0, 4.0]
    with pytest.raises(MalformedMessage):
        codec.decode(raw[:-1], 4, 0)
    with pytest.raises(MalformedMessage):
        codec.decode(b"\xff\xff" + raw[2:], 4, 0)


def test_sketches_add_up_and_find_what_is_large() -> None:
    first, second = np.zeros(1000), np.zeros(1000)
    first[7], second[7], second[400] = 5.0, 5.0, -20.0
    codec = com.Sketched(rows=5, columns=60, kept=2)
    payloads = [codec.payload(codec.encode(v, RNG, 3), 1000, 3) for v in (first, second)]
    found = codec.restore(payloads[0] + payloads[1], 1000, 3)
    assert np.flatnonzero(found).tolist() == [7, 400]
    assert np.allclose(found[[7, 400]], [10.0, -20.0])


# --- robustness

HONEST = generator(5).normal(1.0, 0.1, size=(9, 20))
RULES: dict[str, Any] = {
    "krum": functools.partial(robust.krum, byzantine=1),
    "multi-krum": functools.partial(robust.krum, byzantine=1, chosen=5),
    "bulyan": functools.partial(robust.bulyan, byzantine=1),
    "trimmed": functools.partial(robust.trimmed_mean, byzantine=1),
    "median": robust.coordinate_median,
    "geometric": robust.geometric_median,
    "clipping": robust.norm_clipping,
    "centred": robust.centred_clipping,
    "fltrust": functools.partial(robust.fltrust, reference=np.ones(20)),
}


@pytest.mark.parametrize("poison", [100.0, -100.0, np.nan, np.inf])
@pytest.mark.parametrize("name", RULES)
def test_one_poisoned_update_does_not_move_a_robust_mean(name: str, poison: float) -> None:
    updates = np.vstack([HONEST, np.full((1, 20), poison)])
    found = RULES[name](updates)
    assert np.abs(found - 1.0).max() < 0.45
    if np.isfinite(poison):
        assert np.abs(updates.mean(axis=0) - 1.0).max() > 5.0


def test_krum_bulyan_and_the_geometric_median_by_definition() -> None:
    updates = generator(6).normal(size=(7, 3))
    apart = ((updates[:, None] - updates[None]) ** 2).sum(axis=2)
    scores = [np.sort(np.delete(apart[i], i))[:4].sum() for i in range(7)]  # n - f - 2 = 4 nearest
    assert np.array_equal(robust.krum(updates, 1), updates[int(np.argmin(scores))])
    assert np.allclose(robust.bulyan(updates, 0), updates.mean(axis=0))
    assert np.allclose(robust.krum(updates, 0, chosen=7), updates.mean(axis=0))
    point = robust.geometric_median(updates)
    pull = (updates - point) / np.linalg.norm(updates - point, axis=1, keepdims=True)
    assert np.abs(pull.sum(axis=0)).max() < 1e-5
    with pytest.raises(CohortTooSmall, match="Bulyan against 1"):
        robust.bulyan(updates[:6], 1)


def test_foolsgold_finds_clients_that_push_the_same_way() -> None:
    honest = generator(7).normal(size=(5, 50))
    sybils = generator(8).normal(size=(1, 50)) + 1e-3 * generator(9).normal(size=(3, 50))
    weights = robust.foolsgold(np.vstack([honest, sybils]))
    assert weights[:5].min() > 0.9
    assert weights[5:].max() < 0.01


def test_groups_hide_everybody_or_are_refused() -> None:
    found = robust.groups(3, 10, RNG)
    assert sorted(np.concatenate(found).tolist()) == list(range(10))
    assert min(len(group) for group in found) == 3
    with pytest.raises(CohortTooSmall, match="take 12 clients"):
        robust.groups(4, 10, RNG)


# --- composition


@pytest.mark.parametrize("part", [com.TopK(), com.Quantised(), Participation(by="loss"), Buffered()])
def test_what_needs_clear_updates_is_refused_under_secure_aggregation(part: Any) -> None:
    with pytest.raises(PolicyRefused, match=type(part).__name__):
        require_sums({"part": part}, 10)
    require_sums({"codec": com.RandomK(), "sketch": com.Sketched(), "strategy": FedProx()}, 3)
    with pytest.raises(CohortTooSmall):
        require_sums({}, 2)


# --- privacy


def test_central_noise_has_its_size_and_the_ledger_its_price() -> None:
    pytest.importorskip("dp_accounting")
    drawn = privacy.noisy(np.full(4000, 2.0), clip=0.5, noise_multiplier=3.0, rng=DeterministicRng(1))
    assert drawn.mean() == pytest.approx(2.0, abs=0.1)
    assert drawn.std() == pytest.approx(1.5, rel=0.05)
    ledger = privacy.PrivacyLedger()
    assert ledger.epsilon(1e-5) == 0.0
    ledger.gaussian += [4.0] * 16
    # 16 Gaussians of 4 are one of 1, whose conversion from Renyi divergences is known to be below this
    assert 3.5 < ledger.epsilon(1e-5) < 0.5 + math.sqrt(2 * math.log(1e5))
    before = ledger.epsilon(1e-5)
    ledger.trees.append((8.0, 16, 1))
    assert ledger.epsilon(1e-5) > before


def test_tree_noise_adds_as_many_nodes_as_the_step_has_ones() -> None:
    tree = privacy.TreeNoise(2000, 1.0, 1.0, DeterministicRng(2))
    deviations = [float(tree.next().std()) for _ in range(16)]
    for step, deviation in enumerate(deviations, 1):
        assert deviation == pytest.approx(math.sqrt(step.bit_count()), rel=0.12)
    again = privacy.TreeNoise(2000, 1.0, 1.0, DeterministicRng(2))
    fourth = [again.next() for _ in range(6)]
    assert np.corrcoef(fourth[3], fourth[4])[0, 1] > 0.6  # the node of 1..4 is in both prefixes


def test_the_clip_follows_the_quantile_at_the_agreed_price() -> None:
    rule = privacy.AdaptiveClip(quantile=0.5, rate=0.2, count_noise=5.0)
    noise = rule.multiplier(1.0)
    assert noise**-2 + (2 * 5.0) ** -2 == pytest.approx(1.0)
    lengths, clip, rng = generator(3).uniform(2.0, 4.0, size=1000), 0.1, DeterministicRng(3)
    for _ in range(80):
        clip = rule.next(clip, int((lengths <= clip).sum()), 1000, 1000, rng)
    assert 2.8 < clip < 3.2
    with pytest.raises(InvalidData, match="count_noise"):
        privacy.AdaptiveClip(count_noise=0.4).multiplier(1.0)


# --- distillation and incentives


def test_a_student_of_another_shape_learns_from_answers_alone() -> None:
    teacher = adapted(LogisticRegression(), 4, range(3))
    vector = local_sgd(teacher, teacher.initial(0), Rows(X, Y), Local(300, 0.5, 0), RNG)
    answers = consensus([teacher.scores(vector, X), teacher.scores(vector, X)])
    student = adapted(MLPClassifier((8,)), 4, range(3))
    taught = distilled(student, student.initial(1), X, answers, Local(400, 0.2, 32), RNG, temperature=2.0)
    assert (student.predict(taught, X) == teacher.predict(vector, X)).mean() > 0.95
    targets = softmax(answers, 2.0)
    near = taught + 1e-6 * np.eye(1, student.size, 3)[0]
    losses = [
        4.0 * -(targets * np.log(softmax(student.scores(v, X), 2.0))).sum(axis=1).mean()
        for v in (taught, near)
    ]
    gradient = soft_gradient(student, taught, X, targets, 2.0)
    assert gradient[3] == pytest.approx((losses[1] - losses[0]) / 1e-6, abs=1e-4)


def test_shapley_values_of_a_game_that_is_known() -> None:
    """Glove game: one left and two right gloves; the values are 2/3, 1/6, 1/6."""

    def value(group: frozenset[str]) -> float:
        return float("left" in group and len(group) > 1)

    found = incentives.shapley(["left", "right1", "right2"], value, 3000, RNG)
    assert sum(found.values()) == pytest.approx(1.0)
    assert found["left"] == pytest.approx(2 / 3, abs=0.03)
    assert incentives.leave_one_out(["left", "right1", "right2"], value) == {
        "left": 1.0,
        "right1": 0.0,
        "right2": 0.0,
    }


def test_reputation_and_payouts() -> None:
    record = incentives.Reputation()
    for _ in range(10):
        record.record({"good": 0.3, "bad": -0.3, "idle": 0.0})
    assert record.of("good") > 0.8 > record.of("idle") == 0.5 > record.of("bad")
    paid = incentives.payouts({"a": 1.0, "b": 1.0, "c": 1.0, "d": -5.0}, 100)
    assert sum(paid.values()) == 100
    assert paid["d"] == 0
    assert max(paid.values()) - min(paid[n] for n in "abc") == 1
    assert incentives.payouts({"a": -1.0}, 100) == {"a": 0}


# --- partitions and devices


def test_partitions_deal_every_row_once_and_are_seeded() -> None:
    labels = generator(4).integers(10, size=1000)
    deals: list[Any] = [
        lambda seed: partitioning.iid(1000, 10, seed),
        lambda seed: partitioning.dirichlet(labels, 10, 0.1, seed),
        lambda seed: partitioning.shards(labels, 10, seed),
        lambda seed: partitioning.quantity(1000, 10, 0.5, seed, 5),
        lambda seed: partitioning.natural(labels),
        lambda seed: partitioning.by_columns(1000, 3, seed),
    ]
    for deal in deals:
        parts = deal(1)
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1000))
        assert all(np.array_equal(a, b) for a, b in zip(parts, deal(1), strict=True))
    kinds = [len(np.unique(labels[part])) for part in partitioning.shards(labels, 10, 1)]
    assert max(kinds) <= 4
    assert np.median(kinds) <= 3
    tops = [np.bincount(labels[p]).max() / len(p) for p in partitioning.dirichlet(labels, 10, 0.1, 1)]
    assert np.mean(tops) > 0.45
    with pytest.raises(InvalidData):
        partitioning.dirichlet(labels, 200, 0.1, 1)


def test_devices_take_time_and_lie() -> None:
    device = Device(speed=10.0, latency=0.1, bandwidth=1000.0)
    assert device.seconds(20, 500, 500) == pytest.approx(0.2 + 1.0 + 2.0)
    names = [f"c{i}" for i in range(5)]
    world = speeds(names, 10.0, 1)
    found = sorted(world.device(name).speed for name in names)
    assert found[-1] / found[0] == pytest.approx(10.0)
    shaky = World(other=Device(available=0.5, dropout=0.25))
    fates = [shaky.fate("x", 1, i, 0) for i in range(1000)]
    assert np.mean([there for there, _ in fates]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([lost for _, lost in fates]) == pytest.approx(0.25, abs=0.05)
    assert scaled(-2.0)(np.ones(2), RNG).tolist() == [-2.0, -2.0]
    assert label_flipped(Rows(np.ones((2, 1)), np.array([0, 9])), 10).y.tolist() == [9, 0]


def test_weighted_mean_and_networks_refuse_what_makes_no_sense() -> None:
    with pytest.raises(InvalidData):
        weighted_mean(np.ones((2, 2)), np.array([1.0, -1.0]))
    with pytest.raises(InvalidData):
        Network((4, 2), np.arange(3))
    with pytest.raises(InvalidData):
        Rows(np.full((1, 1), np.nan), np.ones(1))
