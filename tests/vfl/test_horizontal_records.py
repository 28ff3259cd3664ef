"""DP-SGD of a client's own training: what clipping bounds, the noise, the chance of a record, and what it costs."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import vfl
from tests.support import DeterministicRng
from vfl.errors import ConfigError, InvalidData
from vfl.horizontal import records
from vfl.horizontal.combining import Secure, Trusted
from vfl.horizontal.optimisation import FedProx, Local, Scaffold
from vfl.horizontal.participation import Buffered, Participation
from vfl.horizontal.partitioning import dealt, quantity
from vfl.horizontal.personalisation import ditto, fine_tuned
from vfl.horizontal.privacy import Central, PrivacyLedger
from vfl.horizontal.pytorch import TorchModel
from vfl.horizontal.records import RecordPrivacy, sampled
from vfl.horizontal.vectors import Rows, generator

torch = pytest.importorskip("torch")
accountants = pytest.importorskip("opacus.accountants")
nn = torch.nn

DIGITS = load_digits()
ORDER = generator(4).permutation(len(DIGITS.data))
X, Y = DIGITS.data[ORDER] / 16.0, DIGITS.target[ORDER]
CLIENTS = dealt(X[300:], Y[300:], quantity(len(X) - 300, 4, 2.0, 1, fewest=100))
SIZES = {name: len(rows) for name, rows in CLIENTS.items()}
QUICK = RecordPrivacy(steps=3, rate=0.5, batch=40, clip=1.0, noise_multiplier=1.0, delta=1e-5)


def linear() -> Any:
    torch.manual_seed(0)
    return nn.Linear(64, 10)


train = functools.partial(
    vfl.federate, clients=CLIENTS, held_out=Rows(X[:300], Y[:300]), local=QUICK, seed=3, rounds=2
)


def under(rule: RecordPrivacy, model: TorchModel) -> Any:
    return records._Opacus(model, rule, model.initial(0), DeterministicRng(5))


ALMOST_NONE = RecordPrivacy(1, 0.1, 10, clip=2.0, noise_multiplier=1e-9)


def test_each_record_is_bounded_whatever_it_holds() -> None:
    model = TorchModel(nn.Sequential(nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 10)), range(10))
    noisy = under(ALMOST_NONE, model)
    vector = 3 * generator(1).normal(size=model.size)
    loud = Rows(np.concatenate([1e6 * X[:3], X[3:8]]), Y[:8])
    alone = [noisy.noisy_sum(vector, loud.take(np.array([i]))) for i in range(8)]
    assert all(np.linalg.norm(part) <= 2.0 * (1 + 1e-9) for part in alone)
    assert np.linalg.norm(alone[0]) > 1.9
    assert np.allclose(noisy.noisy_sum(vector, loud), np.sum(alone, axis=0), atol=1e-6)
    left_out = noisy.noisy_sum(vector, loud.take(np.arange(1, 8)))
    assert np.linalg.norm(noisy.noisy_sum(vector, loud) - left_out) <= 2.0 * (1 + 1e-6)


def test_neither_a_loss_nor_numbers_out_of_range_mix_records() -> None:
    """A weighted mean divides by the weights of all rows of a batch: of one record's gradient that must not be left."""
    weighted = nn.CrossEntropyLoss(weight=torch.arange(1.0, 11.0, dtype=torch.float64))
    model = TorchModel(linear().double(), range(10), weighted)
    noisy = under(RecordPrivacy(1, 0.1, 10, clip=0.7, noise_multiplier=1e-9), model)
    vector, rows = model.initial(0), Rows(X[:6], Y[:6])
    alone = [noisy.noisy_sum(vector, rows.take(np.array([i]))) for i in range(6)]
    assert np.allclose(noisy.noisy_sum(vector, rows), np.sum(alone, axis=0), atol=1e-6)
    huge = Rows(np.concatenate([np.full((1, 64), 1e308), X[1:6]]), Y[:6])
    assert np.allclose(noisy.noisy_sum(vector, huge), np.sum(alone[1:], axis=0), atol=1e-6)


def test_short_gradients_are_left_alone() -> None:
    model = TorchModel(linear(), range(10))
    one = under(RecordPrivacy(1, 0.1, 10, clip=1e3, noise_multiplier=1e-12), model)
    found = one.noisy_sum(model.initial(0), Rows(X[:20], Y[:20]))
    assert np.allclose(found, 20 * model.gradient(model.initial(0), X[:20], Y[:20]), atol=1e-5)


def test_the_noise_has_its_size_also_where_no_record_was_taken() -> None:
    model = TorchModel(linear(), range(10))
    rule = RecordPrivacy(1, 0.1, 10, clip=0.5, noise_multiplier=3.0)
    noise = under(rule, model).noisy_sum(model.initial(0), None)
    assert noise.std() == pytest.approx(1.5, rel=0.15)
    assert abs(noise.mean()) < 0.3


def test_records_are_taken_independently_with_their_chance() -> None:
    rng = DeterministicRng(1)
    counts = [len(sampled(1000, 0.1, rng)) for _ in range(200)]
    assert np.mean(counts) == pytest.approx(100, abs=4)
    assert np.std(counts) == pytest.approx(np.sqrt(90), rel=0.25)
    assert len(sampled(77, 1.0, rng)) == 77
    for wrong in (0.0, 1.5):
        with pytest.raises(InvalidData, match="chance"):
            sampled(10, wrong, rng)


def test_epsilon_is_that_of_opacus_own_accountant_for_every_client() -> None:
    found = train(linear(), rounds=3)
    assert set(found.ledger.records) == set(CLIENTS)
    for name, rows in CLIENTS.items():
        theirs = accountants.RDPAccountant()
        for number, record in enumerate(found.history, 1):
            for _ in range(QUICK.steps):
                theirs.step(noise_multiplier=1.0, sample_rate=min(1.0, 40 / len(rows)))
            assert record.record_epsilon[name] == pytest.approx(theirs.get_epsilon(1e-5), rel=1e-9)
            assert found.ledger.records[name] == [(1.0, 40 / len(rows), 3 * number)] or number < 3
    assert found.history[0].epsilon is None


def test_who_was_not_asked_has_spent_nothing() -> None:
    found = train(linear(), participation=Participation(1), rounds=1)
    (name,) = found.history[0].took_part
    assert set(found.history[0].record_epsilon) == {name}
    others = [other for other in CLIENTS if other != name]
    assert [found.ledger.record_epsilon(other, 1e-5) for other in others] == [0.0] * 3
    with pytest.raises(InvalidData, match="delta"):
        PrivacyLedger().record_epsilon(name, 1.0)


def test_it_learns_under_noise() -> None:
    local = RecordPrivacy(steps=10, rate=2.0, batch=40, clip=0.5, noise_multiplier=1.2)
    found = train(linear(), local=local, rounds=5)
    assert found.history[-1].accuracy > 0.7  # type: ignore[operator]
    assert 1 < max(found.history[-1].record_epsilon.values()) < 20


@pytest.mark.parametrize(
    "how",
    [
        {"strategy": Scaffold(), "aggregation": Secure(20.0)},
        {"strategy": FedProx(0.1), "participation": Buffered(2, 3)},
        {"aggregation": Trusted(Rows(X[:50], Y[:50]))},
    ],
    ids=["secure", "buffered", "trusted"],
)
def test_every_way_to_combine_has_the_ledger(how: dict[str, Any]) -> None:
    found = train(linear(), **how)
    assert all(epsilon > 0 for epsilon in found.history[-1].record_epsilon.values())
    assert set(found.history[-1].took_part) <= set(found.history[-1].record_epsilon)
    assert np.isfinite(found.vector).all()


def test_clients_and_records_have_epsilons_of_their_own() -> None:
    pytest.importorskip("dp_accounting")
    found = train(linear(), privacy=Central(1.0, 2.0, 1e-5), rounds=1)
    assert found.history[0].epsilon != max(found.history[0].record_epsilon.values())
    alone = train(linear(), local=Local(3, 0.5, 40), privacy=Central(1.0, 2.0, 1e-5), rounds=1)
    assert alone.history[0].epsilon == found.history[0].epsilon
    assert alone.history[0].record_epsilon == {}


def test_a_checkpoint_keeps_what_was_spent(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    train(linear(), rounds=1, checkpoint=path)
    resumed = train(linear(), rounds=2, checkpoint=path)
    assert resumed.history[-1].record_epsilon == train(linear(), rounds=2).history[-1].record_epsilon


def test_members_of_a_cohort_tell_their_own() -> None:
    model = TorchModel(linear(), range(10))
    three = list(CLIENTS.items())[:3]
    run = functools.partial(vfl.federate, model, rounds=2, local=QUICK, seed=3)
    cohort = vfl.simulate_cohort({name: functools.partial(run, rows) for name, rows in three})
    for name, rows in three:
        ledger = PrivacyLedger()
        ledger.charge(name, (1.0, 40 / len(rows), 6))
        assert cohort[name].history[-1].record_epsilon == {name: ledger.record_epsilon(name, 1e-5)}


def test_one_s_own_models_are_private_too_or_refused() -> None:
    model, rows = TorchModel(linear(), range(10)), Rows(X[:90], Y[:90])
    start = model.initial(0)
    one, two = (fine_tuned(model, start, rows, QUICK, generator(1)) for _ in range(2))
    assert not np.array_equal(one, two)  # the noise is secret, whatever the generator of rows
    with pytest.raises(ConfigError, match="PyTorch"):
        ditto(model, start, start, rows, QUICK, 0.1, generator(1))


def test_what_cannot_be_private_is_refused() -> None:
    with pytest.raises(ConfigError, match="module of PyTorch, not Network"):
        train(LogisticRegression())
    mixing = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 10))
    with pytest.raises(ConfigError, match=r"single records.*BatchNorm"):
        train(mixing)
    wrongs: list[dict[str, Any]] = [{"batch": 0}, {"clip": 0.0}, {"noise_multiplier": np.inf}, {"delta": 1.0}]
    for wrong in wrongs:
        with pytest.raises(InvalidData):
            RecordPrivacy(**wrong)
