"""vfl.federate: secure and plain, lost and malicious clients, virtual time, privacy, checkpoints, members."""

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

import vfl
from vfl.errors import CohortTooSmall, ConfigError, PolicyRefused
from vfl.horizontal.combining import Distinct, Mean, Robust, Secure, SecureGroups, Trusted
from vfl.horizontal.communication import Quantised, RandomK, TopK
from vfl.horizontal.history import RoundRecord
from vfl.horizontal.models import adapted
from vfl.horizontal.optimisation import Adaptive, FedAvg, FedProx, Local, Scaffold
from vfl.horizontal.participation import Buffered, Participation
from vfl.horizontal.partitioning import dealt, iid
from vfl.horizontal.privacy import AdaptiveClip, Central, Tree
from vfl.horizontal.robustness import coordinate_median, krum
from vfl.horizontal.vectors import Rows, generator
from vfl.horizontal.world import Device, World, scaled, speeds

IRIS = load_iris()
ORDER = generator(1).permutation(150)
X, Y = ((IRIS.data - IRIS.data.mean(axis=0)) / IRIS.data.std(axis=0))[ORDER], IRIS.target[ORDER]
CLIENTS = dealt(X, Y, iid(150, 9, 1))
ALL = Rows(X, Y)
NAMES = sorted(CLIENTS)
QUICK = Local(5, 0.3, 8)
train = functools.partial(vfl.federate, LogisticRegression(), CLIENTS, local=QUICK, held_out=ALL, seed=3)


def test_one_full_step_of_each_is_a_step_on_all_rows() -> None:
    model = adapted(LogisticRegression(), 4, range(3))
    found = vfl.federate(model, CLIENTS, rounds=3, local=Local(1, 0.5, 0))
    vector = np.zeros(model.size)
    for _ in range(3):
        vector -= 0.5 * model.gradient(vector, X, Y)
    assert np.allclose(found.vector, vector, atol=1e-6)
    assert [r.number for r in found.history] == [1, 2, 3]
    assert found.history[-1].up == 3 * 9 * 4 * model.size
    assert np.allclose(found.estimator.coef_.T.ravel(), vector[:12], atol=1e-6)


@pytest.mark.parametrize(
    "strategy",
    [FedAvg(1.0, 0.5), FedProx(0.1), Scaffold(), Adaptive("yogi"), Adaptive("adagrad"), Adaptive("adam")],
)
def test_every_strategy_learns_and_composes_with_secure_aggregation(strategy: Any) -> None:
    plain = train(rounds=8, strategy=strategy)
    assert plain.history[-1].accuracy > 0.85  # type: ignore[operator]
    secure = train(rounds=2, strategy=strategy, aggregation=Secure(bound=20.0))
    short = train(rounds=2, strategy=strategy)
    assert np.allclose(secure.vector, short.vector, atol=1e-4)
    assert secure.history[-1].up > short.history[-1].up


def test_networks_and_clients_in_threads_give_the_same_bits() -> None:
    one = vfl.federate(MLPClassifier((6,)), CLIENTS, rounds=3, local=QUICK, seed=2)
    two = vfl.federate(MLPClassifier((6,)), CLIENTS, rounds=3, local=QUICK, seed=2, jobs=2)
    assert np.array_equal(one.vector, two.vector)


@pytest.mark.parametrize(
    ("codec", "per_round"), [(Quantised(1), 8 + 2), (RandomK(0.4), 6 * 4), (TopK(0.4), 6 * 6)]
)
def test_codecs_travel_with_their_bytes_and_learn(codec: Any, per_round: int) -> None:
    found = train(rounds=25, codec=codec)
    assert found.history[0].up == 9 * per_round
    assert found.history[-1].accuracy > 0.85  # type: ignore[operator]


def test_a_common_support_under_secure_aggregation_and_no_other() -> None:
    secure = train(rounds=3, codec=RandomK(0.4), aggregation=Secure(bound=20.0))
    assert np.allclose(secure.vector, train(rounds=3, codec=RandomK(0.4)).vector, atol=1e-4)
    for refused in (
        {"codec": TopK()},
        {"codec": Quantised()},
        {"participation": Participation(3, by="loss")},
    ):
        with pytest.raises(PolicyRefused, match=next(iter(refused))):
            train(rounds=1, aggregation=Secure(), **refused)
    with pytest.raises(CohortTooSmall):
        train(rounds=1, aggregation=Secure(), participation=Participation(2))


POISONED = World({NAMES[4]: Device(attack=scaled(-100.0))})


@pytest.mark.parametrize(
    "aggregation",
    [Robust(coordinate_median), Robust(functools.partial(krum, byzantine=1)), Trusted(Rows(X[:15], Y[:15]))],
)
def test_one_poisoned_client_spoils_the_mean_and_no_robust_rule(aggregation: Any) -> None:
    """Here on 16 rows a client, where one update alone is worth less than the mean: within 10 points of it."""
    longer = functools.partial(train, rounds=30, local=Local(10, 0.5, 8))
    assert longer(world=POISONED).history[-1].accuracy < 0.5  # type: ignore[operator]
    held = longer(world=POISONED, aggregation=aggregation).history[-1].accuracy
    assert held > longer().history[-1].accuracy - 0.1  # type: ignore[operator]


def test_groups_hold_under_secure_aggregation() -> None:
    longer = functools.partial(train, rounds=15, local=Local(10, 0.5, 8))
    grouped = longer(world=POISONED, aggregation=SecureGroups(bound=1e3, count=3))
    assert grouped.history[-1].accuracy > longer().history[-1].accuracy - 0.1  # type: ignore[operator]
    assert longer(world=POISONED, aggregation=Secure(bound=1e3)).history[-1].accuracy < 0.5  # type: ignore[operator]
    with pytest.raises(CohortTooSmall):
        train(rounds=1, aggregation=SecureGroups(count=4))


def test_sybils_lose_their_weight() -> None:
    def same(update: Any, rng: Any) -> Any:
        return np.full_like(update, 3.0) * np.where(np.arange(update.size) % 2, 1, -1)

    apart = dealt(
        X, Y, [np.flatnonzero(k % 3 == Y) for k in range(6)]
    )  # three clients of one class each, and Sybils
    world = World({name: Device(attack=same) for name in sorted(apart)[3:]})
    run = functools.partial(vfl.federate, LogisticRegression(), apart, rounds=8, local=QUICK, held_out=ALL)
    mean, trusted = run(world=world), run(world=world, aggregation=Distinct())
    assert trusted.history[-1].accuracy > mean.history[-1].accuracy + 0.1  # type: ignore[operator]


def test_lost_and_absent_clients_are_named_and_the_sum_is_that_of_the_others() -> None:
    world = World({NAMES[0]: Device(dropout=1.0), NAMES[1]: Device(available=0.0)})
    plain = train(rounds=3, world=world)
    secure = train(rounds=3, world=world, aggregation=Secure(bound=20.0))
    for found in (plain, secure):
        assert found.history[-1].lost == (NAMES[0], NAMES[1])
        assert found.history[-1].took_part == tuple(NAMES[2:])
    assert np.allclose(plain.vector, secure.vector, atol=1e-4)


def test_deadlines_leave_slow_clients_out_unless_they_adapt() -> None:
    world = speeds(NAMES, 10.0, 1, Device(speed=5.0, latency=0.1, bandwidth=1e9))
    free = train(rounds=2, world=world)
    assert free.history[-1].seconds == pytest.approx(2 * (0.2 + 10.0), rel=1e-3)
    cut = train(rounds=2, world=world, participation=Participation(deadline=3.0))
    assert cut.history[-1].lost
    assert cut.history[-1].seconds == pytest.approx(6.0)
    adapted_steps = train(rounds=2, world=world, participation=Participation(deadline=3.0, adapt=2.5))
    assert not adapted_steps.history[-1].lost


def test_buffers_take_less_time_for_as_many_updates() -> None:
    world = speeds(NAMES, 10.0, 1, Device(speed=5.0))
    waiting = train(rounds=4, world=world)
    buffered = train(rounds=12, world=world, participation=Buffered(size=3, concurrency=9))
    assert all(len(record.took_part) == 3 for record in buffered.history)
    assert buffered.history[-1].seconds < 0.7 * waiting.history[-1].seconds
    assert buffered.history[-1].accuracy > 0.8  # type: ignore[operator]
    with pytest.raises(PolicyRefused, match="participation"):
        train(rounds=1, participation=Buffered(), aggregation=Secure())


@pytest.mark.parametrize(
    "kept",
    [
        {"strategy": Scaffold(), "participation": Participation(4)},
        {"strategy": Adaptive("adam"), "codec": TopK(0.3)},
        {"aggregation": Distinct(), "world": World(other=Device(dropout=0.2))},
        {"aggregation": Secure(bound=20.0)},
    ],
    ids=["controls", "memories", "histories", "secure"],
)
def test_a_run_killed_at_round_3_of_6_ends_with_the_same_bits(kept: dict[str, Any], tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(record: RoundRecord) -> None:
        if record.number == 3:
            raise Killed

    path = tmp_path / "run.ckpt"
    with pytest.raises(Killed):
        train(rounds=6, checkpoint=path, on_round=kill, **kept)
    assert path.stat().st_mode & 0o077 == 0
    resumed, whole = train(rounds=6, checkpoint=path, **kept), train(rounds=6, **kept)
    assert np.array_equal(resumed.vector, whole.vector)
    assert [(r.number, r.took_part, r.accuracy) for r in resumed.history] == [
        (r.number, r.took_part, r.accuracy) for r in whole.history
    ]
    with pytest.raises(ConfigError, match="another call"):
        vfl.federate(LogisticRegression(), CLIENTS, rounds=6, local=Local(4), checkpoint=path)
    path.write_bytes(b"torn")
    with pytest.raises(ConfigError, match="no checkpoint"):
        train(rounds=6, checkpoint=path, **kept)


def test_every_private_round_has_its_epsilon() -> None:
    pytest.importorskip("dp_accounting")
    noisy = train(rounds=3, privacy=Central(clip=1.0, noise_multiplier=2.0, delta=1e-5))
    spent = [record.epsilon for record in noisy.history]
    assert 0 < spent[0] < spent[1] < spent[2] < 10  # type: ignore[operator]
    assert noisy.delta == 1e-5
    assert not np.array_equal(noisy.vector, train(rounds=3, privacy=Central(1.0, 2.0, 1e-5)).vector)
    tree = train(rounds=3, participation=Participation(3), privacy=Tree(1.0, 4.0, 1e-5, most_rounds=3))
    assert math.isfinite(tree.history[-1].epsilon)  # type: ignore[arg-type]
    adaptive = Central(1.0, 2.0, 1e-5, AdaptiveClip())
    assert train(rounds=1, privacy=adaptive).history[0].epsilon == pytest.approx(spent[0])


def test_the_clients_noise_under_secure_aggregation() -> None:
    pytest.importorskip("dp_accounting")
    own = vfl.ClientPrivacy(clip=1.0, noise_multiplier=0.01, delta=1e-5)
    found = train(rounds=2, privacy=own, aggregation=Secure())
    assert own.sums == 2
    assert found.history[-1].epsilon == own.epsilon > 0


def test_privacy_is_refused_where_it_would_not_hold(tmp_path: Path) -> None:
    central = Central(1.0, 1.0, 1e-5)
    wrongs: list[dict[str, Any]] = [
        {"privacy": central, "aggregation": Secure()},
        {"privacy": central, "aggregation": Robust(coordinate_median)},
        {"privacy": central, "codec": TopK()},
        {"privacy": central, "strategy": Scaffold()},
        {"privacy": vfl.ClientPrivacy(1.0, 1.0, 1e-5), "aggregation": Mean()},
    ]
    for wrong in wrongs:
        with pytest.raises(PolicyRefused, match="privacy"):
            train(rounds=1, **wrong)
    with pytest.raises(PolicyRefused, match="most_rounds"):
        train(rounds=2, privacy=Tree(1.0, 1.0, 1e-5, most_rounds=1))
    with pytest.raises(ConfigError, match="checkpoint"):
        train(rounds=1, privacy=Tree(1.0, 1.0, 1e-5, 3), checkpoint=tmp_path / "x")


@pytest.mark.parametrize("strategy", [FedAvg(), Scaffold()])
def test_members_of_a_cohort_train_what_the_simulation_trains(strategy: Any) -> None:
    """The same call by each client in a process of its own (here: a thread with a membership of its own)."""
    model = adapted(LogisticRegression(), 4, range(3))
    clients = {name: CLIENTS[name] for name in NAMES[:3]}
    secure = Secure(bound=20.0)
    run = functools.partial(
        vfl.federate,
        model,
        rounds=2,
        local=QUICK,
        strategy=strategy,
        aggregation=secure,
        seed=5,
        held_out=ALL,
    )
    cohort = vfl.simulate_cohort({name: functools.partial(run, rows) for name, rows in clients.items()})
    simulated = run(clients)
    for name in clients:
        assert np.allclose(cohort[name].vector, simulated.vector, atol=1e-5)
        assert cohort[name].history[-1].took_part == tuple(clients)
    with pytest.raises(PolicyRefused, match="aggregation"):
        vfl.simulate_cohort(
            {n: functools.partial(run, r, aggregation=Robust(coordinate_median)) for n, r in clients.items()}
        )
