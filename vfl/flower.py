"""Secure aggregation inside a Flower app: a mod for its ClientApp, and a grid around that of its ServerApp.

    # client_app.py
    app = ClientApp(mods=[vfl.flower.SecureMod("silo1.toml", bound=1.0)])

    # server_app.py
    @app.main()
    def main(grid, context):
        secure = vfl.flower.SecureGrid(grid, "aggregator.toml", bound=1.0)
        FedAvg(fraction_train=1.0).start(grid=secure, initial_arrays=arrays, num_rounds=3)

Training code stays as it is. The mod sends no model: it takes the difference to the model that came, clips it to
`bound` element by element, weights it by the number of examples, and answers the five questions of
:mod:`vfl.protocols.secagg`, each in a message of its own. The grid asks them, and gives the strategy one reply with
the mean model of those that remained; so strategies that average, FedAvg and its kin, work unchanged, and those that
look at single models cannot. Metrics of single clients are not sent either.

Configurations are those of :mod:`vfl.cohort` (``vfl cohort init``); addresses in them are not used, since messages
travel over Flower's own connections. Identities, policy and the file that keeps the number of the latest round are.
The model that a client has received is bound into its masks: a server that sends different models to different clients
gets no sum.

Between two messages the secrets of a round are in the context's state, which Flower keeps at the client, as for its own
SecAgg+. The extra ``[flower]`` installs Flower; 1.41 is the version that this was tested with.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfl.cohort import CohortConfig, RoundFile, load_cohort
from vfl.crypto.fixedpoint import FixedPoint
from vfl.crypto.rng import SystemRng
from vfl.crypto.weighted import WeightedEncoding
from vfl.errors import InvalidData, MalformedMessage, VFLError
from vfl.extras import load
from vfl.protocols.secagg.client import QUESTIONS, Client, Result
from vfl.protocols.secagg.frozen import freeze, thaw
from vfl.protocols.secagg.messages import Invitation
from vfl.protocols.secagg.policy import Policy, Task
from vfl.protocols.secagg.server import ANSWERS, Round, Stage
from vfl.protocols.wire import Role, decode, encode

__all__ = ["SecureGrid", "SecureMod"]

RECORD = "vfl.secagg"
PRECONDITION = 6  # Flower's code of a mod that cannot go on
Path = str | os.PathLike[str]
Floats = NDArray[np.float64]


def _flower() -> Any:
    return load("flwr.app", "this takes Flower: pip install vfl[flower]")


class _Agreed:
    """What mod and grid have to agree on beside the cohort.

    Parameters
    ----------
    bound : float
        Largest change of a number of the model in one round; larger ones are clipped.
    fraction_bits : int
        Of a change times weight over `largest_weight`.
    largest_weight : int
        Most examples of a client.
    weight_key : str
        Metric with the number of examples, as the strategy's ``weighted_by_key``.
    """

    def __init__(
        self,
        bound: float,
        fraction_bits: int = 24,
        largest_weight: int = 1 << 20,
        weight_key: str = "num-examples",
    ) -> None:
        self.values, self.largest_weight, self.weight_key = (
            FixedPoint(fraction_bits, bound),
            largest_weight,
            weight_key,
        )

    def encoding(self, policy: Policy) -> WeightedEncoding:
        return WeightedEncoding(self.values, len(policy.names), self.largest_weight)

    def task(self, cohort: str, policy: Policy, model: Any) -> Task:
        encoding = self.encoding(policy)
        arrays = model.to_numpy_ndarrays()
        size = encoding.size(sum(int(array.size) for array in arrays))
        text = (
            f"Flower, changes within {self.values.bound!r}, {self.values.fraction_bits} fraction bits, "
            f"weights to {self.largest_weight}"
        )
        return Task(f"{cohort}/flower".encode(), _digest(model), size, encoding.bits, text)


def _digest(model: Any) -> bytes:
    """Return the hash of a model: names, types, shapes and numbers."""
    running = hashlib.sha256()
    for name, array in model.items():
        numbers = array.numpy()
        for part in (name, str(numbers.dtype), str(numbers.shape)):
            running.update(len(part.encode()).to_bytes(4, "big") + part.encode())
        running.update(np.ascontiguousarray(numbers).tobytes())
    return running.digest()


def _flat(model: Any) -> Floats:
    arrays = [np.asarray(array, dtype=np.float64).ravel() for array in model.to_numpy_ndarrays()]
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _only_model(content: Any, whose: str) -> Any:
    models = list(content.array_records.values())
    if len(models) != 1:
        raise InvalidData(f"{whose} has {len(models)} array records; secure aggregation takes one")
    return models[0]


class SecureMod:
    """A mod of Flower's ClientApp that sends masked changes of the model in place of the model.

    Parameters
    ----------
    config : path or callable
        The client's configuration of the cohort, or what returns it for a context: in a simulation all clients share
        one app, for instance ``lambda context: f"silo{context.node_config['partition-id']}.toml"``.
    bound, fraction_bits, largest_weight, weight_key
        See :class:`_Agreed`; the same as at the grid.

    Raises
    ------
    VFLError
        From the mod, at the start of a round: Flower reports it to the server as a failure of this client, which is
        then left out. What is refused later in a round is a reply with an error.
    """

    def __init__(self, config: Path | Callable[[Any], Path], bound: float, **agreed: Any) -> None:
        self._config, self._agreed = config, _Agreed(bound, **agreed)

    def __call__(self, message: Any, context: Any, call_next: Callable[[Any, Any], Any]) -> Any:
        """Answer a message of the grid; others go on to the app."""
        if message.metadata.message_type != "train":
            return call_next(message, context)
        asked = message.content.config_records.pop(RECORD, None)
        if asked is None:
            raise MalformedMessage(
                "a training message without secure aggregation: the server has no SecureGrid"
            )
        path = self._config(context) if callable(self._config) else self._config
        with self._client(load_cohort(path, Role.CLIENT)) as (cohort, client):
            raw = asked["message"]
            if asked["stage"] == int(Stage.ADVERTISE):
                return self._begin(message, context, call_next, cohort, client, raw)
            return self._go_on(message, context, client, int(asked["stage"]), raw)

    @contextlib.contextmanager
    def _client(self, config: CohortConfig) -> Iterator[tuple[str, Client]]:
        with contextlib.closing(RoundFile(config.own.path(f"{config.name}.round"))) as ledger:
            keys = config.own.identity()
            yield (
                config.cohort.name,
                Client(config.name, keys, config.policy(), SystemRng(), ledger.last, ledger.keep),
            )

    def _begin(
        self, message: Any, context: Any, call_next: Any, cohort: str, client: Client, raw: bytes
    ) -> Any:
        """Train, and take part in the round."""
        received = _only_model(message.content, "the server's message")
        task, before = self._agreed.task(cohort, client.policy, received), _flat(received)
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        after = _flat(_only_model(reply.content, "the app's reply"))
        if after.shape != before.shape or not np.isfinite(after).all():
            raise InvalidData("the trained model has another size than the one received, or is not finite")
        weight = self._weight(reply)
        limit = self._agreed.values.bound
        words = self._agreed.encoding(client.policy).encode(np.clip(after - before, -limit, limit), weight)
        part = client.contribution(task, words)
        part.accept(decode(Invitation, raw, {}))
        return self._reply(message, context, client, part)

    def _weight(self, reply: Any) -> int:
        metrics = [m for m in reply.content.metric_records.values() if self._agreed.weight_key in m]
        if len(metrics) != 1:
            raise InvalidData(f"the app's reply has no metric {self._agreed.weight_key}, which is its weight")
        return int(metrics[0][self._agreed.weight_key])

    def _go_on(self, message: Any, context: Any, client: Client, stage: int, raw: bytes) -> Any:
        kept = context.state.config_records.pop(RECORD, None)  # used up, whatever comes of it
        if kept is None or not 0 < stage <= len(QUESTIONS):
            raise MalformedMessage(
                f"a question of stage {stage} of a round that {client.name} has no part in"
            )
        try:
            part = thaw(client, kept["part"])
            kind = QUESTIONS[stage - 1]
            part.answer(decode(kind, raw, part.dims(kind)))
        except VFLError as error:  # a reply, so that Flower keeps the state without the part
            flower = _flower()
            reason = f"{type(error).__name__}: {error}"
            return flower.Message(flower.Error(PRECONDITION, reason), reply_to=message)
        return self._reply(message, context, client, part)

    def _reply(self, message: Any, context: Any, client: Client, part: Any) -> Any:
        flower = _flower()
        if part.answered <= len(QUESTIONS):
            context.state.config_records[RECORD] = flower.ConfigRecord({"part": freeze(part)})
        answer = flower.ConfigRecord({"name": client.name, "message": encode(part.latest)})
        return flower.Message(flower.RecordDict({RECORD: answer}), reply_to=message)


class SecureGrid:
    """A Flower grid whose training messages become a round of secure aggregation; everything else passes.

    Parameters
    ----------
    grid : flwr.serverapp.Grid
    config : path
        The aggregator's configuration of the cohort.
    bound, fraction_bits, largest_weight, weight_key
        See :class:`_Agreed`; the same as at the mods.

    Attributes
    ----------
    results : list of (Result or VFLError)
        Of the rounds so far. After a failure the strategy gets no reply and keeps its model.
    """

    def __init__(self, grid: Any, config: Path, bound: float, **agreed: Any) -> None:
        self._grid, self._config, self._agreed = (
            grid,
            load_cohort(config, Role.AGGREGATOR),
            _Agreed(bound, **agreed),
        )
        self.results: list[Result | VFLError] = []

    def __getattr__(self, name: str) -> Any:
        """Return what the grid inside has."""
        return getattr(self._grid, name)

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Iterable[Any]:
        """Send messages and return the replies; of training messages one reply, with the mean model.

        Parameters
        ----------
        messages : iterable of flwr.app.Message
        timeout : float, optional
            Seconds for the training, and again for each of the four questions after it.
        """
        asked = list(messages)
        if not asked or asked[0].metadata.message_type != "train":
            replies: Iterable[Any] = self._grid.send_and_receive(asked, timeout=timeout)
            return replies
        policy = self._config.policy()
        model = _only_model(asked[0].content, "the strategy's message")
        task = self._agreed.task(self._config.cohort.name, policy, model)
        with contextlib.closing(RoundFile(self._config.own.path(f"{self._config.name}.round"))) as ledger:
            ours = Round(policy, task, ledger.next())
        self._run(ours, asked, timeout)
        if ours.result is None:
            failure = ours.failure or VFLError("the round has neither a result nor a failure")
            logging.getLogger("vfl").warning("round %d: %s: %s", ours.number, type(failure).__name__, failure)
            self.results.append(failure)
            return []
        self.results.append(ours.result)
        return [self._mean(ours.result, policy, model, asked[0])]

    def _run(self, ours: Round, asked: list[Any], timeout: float | None) -> None:
        flower = _flower()
        first = encode(ours.invitation(ours.policy.names[0]))  # the same for all: nobody has answered
        for message in asked:
            message.content.config_records[RECORD] = flower.ConfigRecord({"stage": 0, "message": first})
        replies = self._grid.send_and_receive(asked, timeout=timeout)
        nodes: dict[str, int] = {}
        while True:
            stage = ours.stage
            self._take(ours, replies, nodes)
            if ours.stage is stage:
                ours.expire()
            if ours.over:
                return
            questions = [
                flower.Message(
                    flower.RecordDict({RECORD: self._question(ours, name)}),
                    dst_node_id=node,
                    message_type="train",
                )
                for name, node in nodes.items()
                if not ours.lost(name)
            ]
            replies = self._grid.send_and_receive(questions, timeout=timeout)

    def _question(self, ours: Round, name: str) -> Any:
        return _flower().ConfigRecord({"stage": int(ours.stage), "message": encode(ours.message(name))})

    def _take(self, ours: Round, replies: Iterable[Any], nodes: dict[str, int]) -> None:
        """Hand the replies to the round; a client that answers wrongly, or for another one, is left out."""
        stage = ours.stage
        for reply in replies:
            if reply.has_error() or RECORD not in reply.content.config_records or ours.over:
                continue
            record, node = reply.content.config_records[RECORD], reply.metadata.src_node_id
            name = str(record["name"])
            if (
                name not in ours.policy.clients
                or nodes.setdefault(name, node) != node
                or ours.stage is not stage
            ):
                continue
            try:
                kind = ANSWERS[stage]
                ours.receive(name, decode(kind, record["message"], ours.dims(kind)))
            except VFLError as error:
                logging.getLogger("vfl").warning("round %d: %s: %s", ours.number, name, error)
                if stage is Stage.ADVERTISE:  # somebody else may have taken the name
                    del nodes[name]
                elif not ours.over:
                    ours.drop(name)

    def _mean(self, result: Result, policy: Policy, model: Any, message: Any) -> Any:
        """Return a reply with the model that came out, and all the weight."""
        flower = _flower()
        total, weight = self._agreed.encoding(policy).decode(result.total.copy())
        moved, at, arrays = total / weight, 0, {}
        for name, array in model.items():
            numbers = array.numpy()
            change = moved[at : at + numbers.size].reshape(numbers.shape)
            arrays[name] = flower.Array((numbers + change).astype(numbers.dtype))
            at += numbers.size
        key = next(name for name, record in message.content.array_records.items() if record is model)
        metrics = flower.MetricRecord({self._agreed.weight_key: weight})
        content = flower.RecordDict({key: flower.ArrayRecord(arrays), "metrics": metrics})
        return flower.Message(content, reply_to=message)
