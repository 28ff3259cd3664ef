"""Modules of PyTorch as models: equal to our own networks, resumed with the same bits, refused with the remedy."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import vfl
from vfl.errors import ConfigError, InvalidData
from vfl.horizontal.combining import Secure
from vfl.horizontal.history import RoundRecord
from vfl.horizontal.models import adapted
from vfl.horizontal.optimisation import Local, Scaffold
from vfl.horizontal.partitioning import dealt, dirichlet, iid
from vfl.horizontal.pytorch import TorchModel
from vfl.horizontal.vectors import Rows, generator, unflatten

torch = pytest.importorskip("torch")
nn = torch.nn

DIGITS = load_digits()
ORDER = generator(4).permutation(len(DIGITS.data))
X, Y = DIGITS.data[ORDER] / 16.0, DIGITS.target[ORDER]
HELD = Rows(X[:300], Y[:300])
CLIENTS = dealt(X[300:], Y[300:], dirichlet(Y[300:], 6, 0.5, 1))
LOCAL = Local(20, 0.2, 32)
train = functools.partial(vfl.federate, clients=CLIENTS, local=LOCAL, held_out=HELD, seed=2)


def network(seed: int = 0, hidden: int = 16, **options: Any) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, hidden, **options), nn.Tanh(), nn.Linear(hidden, 10, **options))


def as_torch(vector: Any, shapes: Any) -> Any:
    """Return our vector in PyTorch's order: its weights are transposed."""
    return np.concatenate([a.T.ravel() if a.ndim == 2 else a for a in unflatten(vector, shapes)])


def test_gradient_loss_and_scores_are_those_of_our_own_network() -> None:
    ours = adapted(MLPClassifier((16,), activation="tanh"), 64, range(10))
    theirs = TorchModel(network(dtype=torch.float64), range(10))
    vector = ours.initial(3)
    turned = as_torch(vector, ours.shapes)
    some = X[:50], Y[:50]
    assert theirs.size == ours.size
    wanted = as_torch(ours.gradient(vector, *some), ours.shapes)
    assert np.allclose(theirs.gradient(turned, *some), wanted, atol=1e-12)
    assert np.allclose(theirs.scores(turned, X), ours.scores(vector, X), atol=1e-12)
    assert theirs.loss(turned, *some) == pytest.approx(ours.loss(vector, *some), abs=1e-12)
    assert theirs.accuracy(turned, X, Y) == ours.accuracy(vector, X, Y)
    single = TorchModel(network(), range(10))  # in 32 bits, as usual
    assert np.allclose(single.gradient(turned, *some), wanted, atol=1e-6)


def test_the_federation_is_that_of_our_own_network() -> None:
    ours = adapted(MLPClassifier((16,), activation="tanh"), 64, range(10))
    start = ours.initial(3)
    theirs = train(network(dtype=torch.float64), rounds=3, start=as_torch(start, ours.shapes))
    assert np.allclose(
        theirs.vector, as_torch(train(ours, rounds=3, start=start).vector, ours.shapes), atol=1e-5
    )


def test_convolutions_on_digits_reach_the_accuracy_and_a_trained_module_comes_back() -> None:
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 10),
    )
    before = [part.detach().clone() for part in module.parameters()]
    found = train(module, rounds=6)
    assert found.history[-1].accuracy > 0.9  # type: ignore[operator]
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    trained = found.estimator
    assert not trained.training
    with torch.no_grad():
        answers = trained(torch.tensor(HELD.X, dtype=torch.float32)).argmax(1).numpy()
    assert (answers == HELD.y).mean() == found.history[-1].accuracy


def test_it_goes_on_from_a_trained_module() -> None:
    trained = train(network(), rounds=6)
    on = train(trained.estimator, rounds=1)
    assert np.allclose(on.model.initial(0), trained.vector, atol=1e-6)
    assert on.history[0].accuracy > train(network(), rounds=1).history[0].accuracy + 0.1  # type: ignore[operator]


def test_frozen_parameters_stay_and_do_not_travel() -> None:
    module = network()
    for part in module[0].parameters():
        part.requires_grad_(False)
    found = train(module, rounds=2)
    assert found.vector.size == 170
    assert found.history[0].up == 4 * 170 * len(CLIENTS)
    assert torch.equal(found.estimator[0].weight, module[0].weight)
    assert not torch.equal(found.estimator[2].weight, module[2].weight)


def test_secure_aggregation_and_control_variates_take_it() -> None:
    plain = train(network(), rounds=2, strategy=Scaffold())
    secure = train(network(), rounds=2, strategy=Scaffold(), aggregation=Secure())
    assert np.allclose(plain.vector, secure.vector, atol=1e-4)


def test_a_killed_run_with_drop_out_ends_with_the_same_bits_also_in_threads(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(record: RoundRecord) -> None:
        if record.number == 2:
            raise Killed

    def module() -> Any:
        return nn.Sequential(*network(5), nn.Dropout(0.3))

    path = tmp_path / "run.ckpt"
    with pytest.raises(Killed):
        train(module(), rounds=4, checkpoint=path, on_round=kill)
    torch.manual_seed(77)
    resumed = train(module(), rounds=4, checkpoint=path)
    assert np.array_equal(resumed.vector, train(module(), rounds=4, jobs=2).vector)
    with pytest.raises(ConfigError, match="another call"):
        train(nn.Sequential(*network(6), nn.Dropout(0.3)), rounds=4, checkpoint=path)


def test_chance_inside_does_not_touch_the_callers_generator() -> None:
    model = TorchModel(nn.Sequential(*network(), nn.Dropout(0.5)), range(10))
    torch.manual_seed(9)
    wanted = torch.rand(3)
    torch.manual_seed(9)
    first = model.gradient(model.initial(0), X[:9], Y[:9])
    assert torch.equal(torch.rand(3), wanted)
    assert np.array_equal(first, model.gradient(model.initial(0), X[:9], Y[:9]))
    assert not np.array_equal(first, model.gradient(model.initial(0) + 1e-9, X[:9], Y[:9]))


def test_regressions_and_losses_of_ones_own() -> None:
    columns = generator(1).normal(size=(900, 5))
    numbers = columns @ np.array([1.0, -2.0, 0.5, 0.0, 3.0]) + 4.0
    clients = dealt(columns[300:], numbers[300:], iid(600, 3, 1))
    test = Rows(columns[:300], numbers[:300])
    for model in (nn.Linear(5, 1), TorchModel(nn.Linear(5, 1), loss=nn.functional.huber_loss)):
        found = vfl.federate(model, clients, rounds=5, local=LOCAL, held_out=test)
        assert found.history[-1].accuracy > 0.99  # type: ignore[operator]


def test_running_statistics_are_refused_with_the_layer_and_the_remedy() -> None:
    wrong = nn.Sequential(nn.Linear(64, 8), nn.Sequential(nn.BatchNorm1d(8)), nn.Linear(8, 10))
    with pytest.raises(ConfigError, match=r"'1\.0' \(BatchNorm1d\).*GroupNorm"):
        train(wrong, rounds=1)

    class Counting(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 10)
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, rows: Any) -> Any:
            self.seen += len(rows)
            return self.linear(rows)

    with pytest.raises(ConfigError, match="'seen'"):
        train(Counting(), rounds=1)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(InvalidData, match=r"shape \(32, 8\).*\(rows, 10\)"):
        train(nn.Linear(64, 8), rounds=1)
    with pytest.raises(InvalidData, match="two rows"):
        train(nn.Sequential(nn.Linear(64, 8), nn.Flatten(0)), rounds=1)
    with pytest.raises(ConfigError, match="trained"):
        TorchModel(nn.ReLU(), range(3))
    with pytest.raises(InvalidData, match="classes"):
        TorchModel(network(), range(1, 11)).loss(np.zeros(1210), X, Y)


def test_inside_a_cohort_the_classes_are_named() -> None:
    with pytest.raises(ConfigError, match="TorchModel"):
        vfl.simulate_cohort(
            {n: functools.partial(vfl.federate, network(), r, rounds=1) for n, r in list(CLIENTS.items())[:3]}
        )
