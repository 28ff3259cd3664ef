"""Secure aggregation inside a Flower app: Flower's own ClientApp, strategies, messages; a grid in this process."""

import copy
import importlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vfl.cli import execute
from vfl.cohort import RoundFile
from vfl.errors import CohortTooSmall, ConfigError, MalformedMessage
from vfl.flower import RECORD, SecureGrid, SecureMod
from vfl.protocols.secagg.client import Result

try:
    flower: Any = importlib.import_module("flwr.app")
    clientapp: Any = importlib.import_module("flwr.clientapp")
    strategies: Any = importlib.import_module("flwr.serverapp.strategy")
    identity: Any = importlib.import_module("flwr.supercore.task_identity").TaskIdentity
except ImportError:
    flower = None

needs_flower = pytest.mark.skipif(flower is None, reason="Flower is not installed: pip install .[flower]")
SILOS = [f"silo{i}" for i in range(4)]
WEIGHTS = {name: 100 + 17 * i for i, name in enumerate(SILOS)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with those of an aggregator and four clients."""
    for name in [*SILOS, "aggregator"]:
        way = "--listen" if name == "aggregator" else "--connect"
        place = str(tmp_path / name)
        assert (
            execute(["cohort", "init", name, "--cohort", "c", way, "127.0.0.1:7001", "--folder", place]) == 0
        )
    for name in SILOS:
        for other in [*SILOS, "aggregator"]:
            shutil.copy(tmp_path / name / f"{name}.pem", tmp_path / other / "clients")
    return tmp_path


def change(i: int, model: Any) -> list[Any]:
    """What the training of client i adds to the model."""
    return [np.cos(np.arange(a.size) * (i + 1)).reshape(a.shape) / 4 for a in model]


def app_of(folder: Path, **options: Any) -> Any:
    """Return the one ClientApp of all clients, as in a simulation."""

    def config(context: Any) -> Path:
        name: str = SILOS[context.node_id]
        return folder / name / f"{name}.toml"

    app = clientapp.ClientApp(mods=[SecureMod(config, 1.0, **options)])

    def train(message: Any, context: Any) -> Any:
        assert RECORD not in message.content.config_records
        record = message.content["arrays"]
        model = record.to_numpy_ndarrays()
        moved = [(a + c).astype(a.dtype) for a, c in zip(model, change(context.node_id, model), strict=True)]
        arrays = {name: flower.Array(a) for name, a in zip(record, moved, strict=True)}
        metrics = flower.MetricRecord({"num-examples": WEIGHTS[SILOS[context.node_id]], "secret-loss": 0.5})
        content = {"arrays": flower.ArrayRecord(arrays), "metrics": metrics}
        return flower.Message(flower.RecordDict(content), reply_to=message)

    def evaluate(message: Any, context: Any) -> Any:
        metrics = flower.MetricRecord({"num-examples": 1, "loss": float(context.node_id)})
        return flower.Message(flower.RecordDict({"metrics": metrics}), reply_to=message)

    app.train()(train)
    app.evaluate()(evaluate)
    return app


Twist = Callable[[int, int, Any], Any]


class Grid:
    """A Flower grid within this process; `twist(node, number of the message, message)` may change or drop a message."""

    def __init__(self, app: Any, twist: Twist = lambda node, count, message: message) -> None:
        self.app, self.twist = app, twist
        self.contexts = {i: flower.Context(1, i, {}, flower.RecordDict(), {}) for i in range(len(SILOS))}
        self.counts = dict.fromkeys(self.contexts, 0)
        self.replies: list[Any] = []
        self.errors: list[Exception] = []

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> list[Any]:
        replies = []
        for message in [copy.deepcopy(message) for message in messages]:
            node = message.metadata.dst_node_id
            sent = self.twist(node, self.counts[node], message)
            self.counts[node] += 1
            if sent is None:
                continue
            try:
                replies.append(self.app(sent, self.contexts[node]))
            except Exception as error:
                self.errors.append(error)
                replies.append(flower.Message(flower.Error(0, str(error)), reply_to=message))
        self.replies += replies
        return replies


def start(
    folder: Path, twist: Twist | None = None, rounds: int = 1, **options: Any
) -> tuple[Any, Any, SecureGrid]:
    identity.run_id, identity.node_id, identity.task_id = 1, 0, 1
    inside = Grid(app_of(folder, **options), *([twist] if twist else []))
    secure = SecureGrid(inside, folder / "aggregator" / "aggregator.toml", 1.0, **options)
    arrays = {"w": flower.Array(np.zeros((3, 5), np.float32)), "b": flower.Array(np.ones(4))}
    strategy = strategies.FedAvg(
        fraction_train=1.0, min_available_nodes=2, min_train_nodes=2, min_evaluate_nodes=2
    )
    result = strategy.start(grid=secure, initial_arrays=flower.ArrayRecord(arrays), num_rounds=rounds)
    return result, inside, secure


def expected(members: list[int], rounds: int = 1) -> list[Any]:
    model: list[Any] = [np.zeros((3, 5)), np.ones(4)]
    total = sum(WEIGHTS[SILOS[i]] for i in members)
    for _ in range(rounds):
        mean = [sum(WEIGHTS[SILOS[i]] * change(i, model)[k] for i in members) / total for k in range(2)]
        model = [a + m for a, m in zip(model, mean, strict=True)]
    return model


@needs_flower
class TestRounds:
    def test_fedavg_gets_the_weighted_mean(self, folder: Path) -> None:
        result, _, secure = start(folder, rounds=2)
        for found, model in zip(result.arrays.to_numpy_ndarrays(), expected([0, 1, 2, 3], 2), strict=True):
            np.testing.assert_allclose(found, model, rtol=0, atol=1e-3)
        assert [type(r) for r in secure.results] == [Result, Result]
        assert secure.results[0].survivors == tuple(SILOS)  # type: ignore[union-attr]
        assert result.evaluate_metrics_clientapp[2]["loss"] == pytest.approx(1.5)
        assert list(result.arrays) == ["w", "b"]

    def test_no_model_and_no_metric_leaves_a_client(self, folder: Path) -> None:
        _, inside, _ = start(folder)
        training = [reply for reply in inside.replies if reply.metadata.message_type == "train"]
        assert len(training) == 5 * len(SILOS)
        for reply in training:
            assert list(reply.content) == [RECORD]
            assert not reply.content.array_records
            assert not reply.content.metric_records
        assert all(RECORD not in context.state.config_records for context in inside.contexts.values())

    @pytest.mark.parametrize("stage", range(5))
    def test_a_client_may_be_lost_at_every_stage(self, folder: Path, stage: int) -> None:
        result, _, secure = start(folder, lambda node, count, m: None if node == 2 and count == stage else m)
        members = [0, 1, 3] if stage < 3 else [0, 1, 2, 3]
        assert secure.results[0].survivors == tuple(SILOS[i] for i in members)  # type: ignore[union-attr]
        for found, model in zip(result.arrays.to_numpy_ndarrays(), expected(members), strict=True):
            np.testing.assert_allclose(found, model, rtol=0, atol=1e-3)

    def test_too_few_leave_the_model_as_it_is(self, folder: Path) -> None:
        result, _, secure = start(folder, lambda node, count, m: None if node in (1, 2) and count == 1 else m)
        assert isinstance(secure.results[0], CohortTooSmall)
        assert not result.train_metrics_clientapp

    def test_changes_are_clipped(self, folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{__name__}.change", lambda i, model: [np.full(a.shape, 7.0) for a in model])
            result, _, _ = start(folder)
        assert np.allclose(result.arrays.to_numpy_ndarrays()[0], 1.0, atol=1e-3)


@needs_flower
class TestRefusals:
    def test_a_server_that_asks_for_the_model(self, folder: Path) -> None:
        def plain(node: int, count: int, message: Any) -> Any:
            message.content.config_records.pop(RECORD, None)
            return message

        _, inside, secure = start(folder, plain)
        assert isinstance(secure.results[0], CohortTooSmall)
        assert any(isinstance(error.__cause__ or error, Exception) for error in inside.errors)
        assert "no SecureGrid" in str(inside.errors[0])
        assert all(reply.has_error() for reply in inside.replies if reply.metadata.message_type == "train")

    def test_a_server_that_sends_different_models(self, folder: Path) -> None:
        def split(node: int, count: int, message: Any) -> Any:
            if node == 0 and count == 0:
                arrays = {"w": flower.Array(np.ones((3, 5), np.float32)), "b": flower.Array(np.ones(4))}
                message.content["arrays"] = flower.ArrayRecord(arrays)
            return message

        _, inside, secure = start(folder, split)
        assert "model: silo0 has" in str(inside.errors[0])
        assert secure.results[0].survivors == ("silo1", "silo2", "silo3")  # type: ignore[union-attr]

    @pytest.mark.parametrize("stage", [1, 2, 3, 4])
    def test_a_question_is_answered_once(self, folder: Path, stage: int) -> None:
        """The second time there is no state that could answer it, or one of a later stage, which refuses for good."""
        seen: list[str] = []

        def twice(node: int, count: int, message: Any) -> Any:
            if node == 1 and count == stage:
                grid.app(copy.deepcopy(message), grid.contexts[1])
                for _ in range(2):
                    try:
                        seen.append(grid.app(copy.deepcopy(message), grid.contexts[1]).error.reason)
                    except MalformedMessage as error:
                        seen.append(str(error))
                return None
            return message

        identity.run_id, identity.node_id, identity.task_id = 1, 0, 1
        grid = Grid(app_of(folder), twice)
        secure = SecureGrid(grid, folder / "aggregator" / "aggregator.toml", 1.0)
        arrays = flower.ArrayRecord({"w": flower.Array(np.zeros((3, 5))), "b": flower.Array(np.ones(4))})
        content = flower.RecordDict({"arrays": arrays, "config": flower.ConfigRecord()})
        list(
            secure.send_and_receive(
                [flower.Message(content, dst_node_id=i, message_type="train") for i in range(4)]
            )
        )
        assert len(seen) == 2
        assert ("UnexpectedMessage" in seen[0]) == (stage < 4)
        assert "has no part in" in seen[1]

    def test_a_round_is_not_run_again(self, folder: Path) -> None:
        start(folder)
        (folder / "aggregator" / "aggregator.round").unlink()
        _, inside, secure = start(folder)
        assert isinstance(secure.results[0], CohortTooSmall)
        assert "none is answered twice" in str(inside.errors[0])

    def test_another_bound_is_named(self, folder: Path) -> None:
        identity.run_id, identity.node_id, identity.task_id = 1, 0, 1
        inside = Grid(app_of(folder))
        secure = SecureGrid(inside, folder / "aggregator" / "aggregator.toml", 2.0)
        arrays = flower.ArrayRecord({"w": flower.Array(np.zeros(3))})
        content = flower.RecordDict({"arrays": arrays, "config": flower.ConfigRecord()})
        list(secure.send_and_receive([flower.Message(content, dst_node_id=0, message_type="train")]))
        assert "changes within 1.0" in str(inside.errors[0])
        assert "changes within 2.0" in str(inside.errors[0])

    def test_a_process_at_a_time(self, folder: Path) -> None:
        held = RoundFile(folder / "silo3" / "silo3.round")
        _, inside, secure = start(folder)
        held.close()
        assert "another process" in str(inside.errors[0])
        assert secure.results[0].survivors == ("silo0", "silo1", "silo2")  # type: ignore[union-attr]


class TestWithoutFlower:
    def test_it_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from vfl.flower import _flower

        monkeypatch.setitem(__import__("sys").modules, "flwr.app", None)
        with pytest.raises(ConfigError, match=r"vfl\[flower\]"):
            _flower()

    def test_other_messages_pass(self) -> None:
        from types import SimpleNamespace

        message = SimpleNamespace(metadata=SimpleNamespace(message_type="evaluate"))
        assert SecureMod("nowhere.toml", 1.0)(message, None, lambda m, c: (m, c)) == (message, None)

    def test_training_without_the_record_is_refused(self) -> None:
        from types import SimpleNamespace

        content = SimpleNamespace(config_records={})
        message = SimpleNamespace(metadata=SimpleNamespace(message_type="train"), content=content)
        with pytest.raises(MalformedMessage, match="no SecureGrid"):
            SecureMod("nowhere.toml", 1.0)(message, None, lambda m, c: m)
