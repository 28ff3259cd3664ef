"""A training as it was asked for, checked before anything runs, and one client's work in it."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfl.errors import ConfigError, InvalidData, PolicyRefused
from vfl.horizontal.combining import Aggregation, Mean, SecureGroups, Trusted
from vfl.horizontal.communication import Codec, Full, with_feedback
from vfl.horizontal.composing import FEWEST, require_sums
from vfl.horizontal.models import Model, adapted
from vfl.horizontal.optimisation import Local, ServerState, Strategy, control_change
from vfl.horizontal.participation import Buffered, Participation
from vfl.horizontal.privacy import Central, PrivacyLedger, Tree
from vfl.horizontal.pytorch import TorchModel, is_module, outputs
from vfl.horizontal.robustness import clipped
from vfl.horizontal.vectors import Rows, Vector, generator
from vfl.horizontal.world import World
from vfl.privacy import ClientPrivacy

__all__ = ["Plan", "Work", "as_model"]

Privacy = Central | Tree | ClientPrivacy


def as_model(model: Any, clients: Mapping[str, Rows]) -> Model:
    """Return a model as it is, or that of an estimator of scikit-learn or of a module of PyTorch.

    Features and labels are those of the clients; a module with one output is a regression.
    """
    module = is_module(model)
    if not module and not hasattr(model, "get_params"):
        found: Model = model
        return found
    first = next(iter(clients.values()))
    if module:
        return TorchModel(model, None if outputs(model, first.X) == 1 else _labels(clients))
    regression = not hasattr(model, "predict_proba") and not type(model).__name__.endswith("Classifier")
    return adapted(model, first.X.shape[1], None if regression else _labels(clients))


def _labels(clients: Mapping[str, Rows]) -> NDArray[Any]:
    return np.unique(np.concatenate([rows.y for rows in clients.values()]))


@dataclass(frozen=True, eq=False)
class Work:
    """What one client did in a round.

    Attributes
    ----------
    update : ndarray of float64
        As the server decodes it; twice the model's size with control variates.
    raw : bytes
        As it travels; empty where secure aggregation carries it.
    memory : ndarray or None
        What the codec left out.
    control : ndarray or None
        Change of the control variate.
    """

    update: Vector
    raw: bytes
    memory: Vector | None
    control: Vector | None

    @property
    def up(self) -> int:
        """Bytes of the update, 0 where secure aggregation carries it."""
        return len(self.raw)


@dataclass(frozen=True, eq=False)
class Plan:
    """The arguments of :func:`vfl.federate`, see there."""

    model: Model
    clients: Mapping[str, Rows]
    rounds: int
    local: Local
    strategy: Strategy
    participation: Participation | Buffered
    aggregation: Aggregation
    codec: Codec
    privacy: Privacy | None
    world: World
    held_out: Rows | None
    start: Vector
    seed: int

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.clients:
            raise InvalidData("a training takes at least one client and one round")
        if self.start.shape != (self.model.size,):
            raise InvalidData(
                f"the model has {self.model.size} numbers, the start has shape {self.start.shape}"
            )
        if self.strategy.controlled and self.codec.feedback:
            raise PolicyRefused("codec: control variates need whole updates; take Full() or Quantised()")
        self._check_privacy()
        if self.aggregation.secure:
            parts = {"participation": self.participation, "strategy": self.strategy, "codec": self.codec}
            require_sums(parts, self.asked)
            if isinstance(self.aggregation, SecureGroups) and self.asked < FEWEST * self.aggregation.count:
                require_sums({}, self.asked // self.aggregation.count)
        if isinstance(self.participation, Buffered) and (
            self.strategy.controlled or self.privacy is not None or not isinstance(self.aggregation, Mean)
        ):
            raise PolicyRefused(
                "participation: buffered updates start from different models; they take the plain mean, no privacy and "
                "no control variates"
            )

    def _check_privacy(self) -> None:
        if self.privacy is None:
            return
        if type(self.codec) is not Full or self.strategy.controlled:
            raise PolicyRefused(
                "privacy: the clip is for whole updates; take codec=Full() and no control variates"
            )
        if isinstance(self.privacy, ClientPrivacy) != self.aggregation.secure:
            raise PolicyRefused(
                "privacy: with secure aggregation the clients add the noise (vfl.ClientPrivacy), without it the server "
                "does (Central, Tree)"
            )
        if not self.aggregation.secure and not isinstance(self.aggregation, Mean):
            raise PolicyRefused(
                "privacy: the noise is sized for a mean of clipped updates; take aggregation=Mean()"
            )

    @property
    def asked(self) -> int:
        """Clients of a round."""
        count = self.participation.count if isinstance(self.participation, Participation) else 0
        return min(count or len(self.clients), len(self.clients))

    @cached_property
    def names(self) -> list[str]:
        """The clients' names, sorted."""
        return sorted(self.clients)

    @cached_property
    def places(self) -> dict[str, int]:
        """The number of each client: its generators depend on it."""
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def digest(self) -> str:
        """Name of the call for checkpoints; the number of rounds is not in it, so a training may go on for more."""
        kept = [f for f in fields(self) if f.name not in ("clients", "rounds", "held_out", "start")]
        text = "; ".join(f"{f.name}={getattr(self, f.name)!r}" for f in kept)
        running = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", text).encode())
        running.update(self.start.tobytes())
        for name in self.names:
            running.update(f"{name} {self.clients[name].X.shape}".encode())
            running.update(np.ascontiguousarray(self.clients[name].X).tobytes())
            running.update(repr(self.clients[name].y.tolist()).encode())
        return running.hexdigest()

    def check_checkpoint(self) -> None:
        """Refuse a checkpoint of what a file cannot hold.

        Raises
        ------
        ConfigError
        """
        carried = isinstance(self.privacy, Tree | ClientPrivacy) or (
            isinstance(self.privacy, Central) and self.privacy.adaptive is not None
        )
        if carried or isinstance(self.participation, Buffered):
            raise ConfigError(
                "checkpoint: training with tree noise, an adaptive clip, the clients' own noise or a buffer carries "
                "more than a checkpoint holds"
            )

    @property
    def down(self) -> int:
        """Bytes of the model on its way to a client, with the server's control variate where there is one."""
        return 4 * self.model.size * (2 if self.strategy.controlled else 1)

    def steps(self, name: str) -> Local:
        """Return how a client trains."""
        if isinstance(self.participation, Buffered):
            return self.local
        return self.participation.local(self.local, self.world.device(name).speed)

    def trained(
        self, rows: Rows, state: ServerState, control: Vector | None, local: Local, rng: np.random.Generator
    ) -> tuple[Vector, Vector | None]:
        """Return a client's update and the change of its control variate."""
        correction = None if control is None else state.control - control
        end = local.trained(self.model, state.vector, rows, rng, self.strategy.proximal, correction)
        update = end - state.vector
        if control is None:
            return update, None
        return update, control_change(control, state.control, update, local)

    def work(
        self, name: str, state: ServerState, number: int, control: Vector | None, memory: Vector | None
    ) -> Work:
        """Run one client's round: training, attack if it is malicious, clip, codec.

        Parameters
        ----------
        name : str
        state : ServerState
        number : int
            Of the round.
        control, memory : ndarray or None
            What the client has kept.
        """
        rng = generator(self.seed, 30, number, self.places[name])
        if self.strategy.controlled and control is None:
            control = np.zeros(self.model.size)
        update, change = self.trained(self.clients[name], state, control, self.steps(name), rng)
        attack = self.world.device(name).attack
        if attack is not None:
            update = attack(update, rng)
        elif self.privacy is not None and not isinstance(self.privacy, Central):
            update = clipped(update, self.privacy.clip)
        whole = update if change is None else np.concatenate([update, change])
        if self.aggregation.secure and type(self.codec) is Full:
            return Work(whole, b"", None, change)
        return self._coded(whole, memory, change, rng, self.common_seed(number))

    def common_seed(self, number: int) -> int:
        """Return the round's seed of codecs."""
        return int(generator(self.seed, 31, number).integers(1 << 62))

    def _coded(
        self,
        whole: Vector,
        memory: Vector | None,
        change: Vector | None,
        rng: np.random.Generator,
        seed: int,
    ) -> Work:
        if self.codec.feedback:
            memory = np.zeros_like(whole) if memory is None else memory
            raw, memory = with_feedback(self.codec, whole, memory, rng, seed)
        else:
            raw = self.codec.encode(whole, rng, seed)
        payload = self.codec.payload(raw, whole.size, seed)
        return Work(payload, b"" if self.aggregation.secure else raw, memory, change)

    def restored(self, mean: Vector, number: int) -> Vector:
        """Return the update that a mean of payloads stands for."""
        size = self.model.size * (2 if self.strategy.controlled else 1)
        return self.codec.restore(mean, size, self.common_seed(number))

    def reference(self, state: ServerState, number: int) -> Vector | None:
        """Return the server's own update for FLTrust."""
        if not isinstance(self.aggregation, Trusted):
            return None
        rng = generator(self.seed, 32, number)
        plain = Local(self.local.steps, self.local.rate, self.local.batch)
        update, _ = self.trained(self.aggregation.rows, state, None, plain, rng)
        return update

    def charge(self, name: str, ledger: PrivacyLedger) -> None:
        """Note what a client's next training costs its single records."""
        cost = self.steps(name).cost(len(self.clients[name]))
        if cost is not None:
            ledger.charge(name, cost)

    def record_epsilon(self, names: Iterable[str], ledger: PrivacyLedger) -> dict[str, float]:
        """Return what clients have spent of the privacy of their single records; empty if there is none."""
        if not self.local.delta:
            return {}
        return {name: ledger.record_epsilon(name, self.local.delta) for name in sorted(set(names))}

    def accuracy(self, vector: Vector) -> float | None:
        """Return the accuracy on the rows held out."""
        if self.held_out is None:
            return None
        return self.model.accuracy(vector, self.held_out.X, self.held_out.y)
