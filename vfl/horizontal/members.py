"""Training with every client a process of its own: :func:`vfl.federate` inside ``with vfl.join(...)``.

There is no server of models: all clients hold the same state, and step it by the same secure mean. The aggregator runs
sums and learns them; it holds no model and needs no code of this file.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from vfl.aggregation import secure_mean
from vfl.errors import ConfigError, PolicyRefused
from vfl.horizontal.combining import Aggregation, Mean, Secure, SecureGroups
from vfl.horizontal.composing import require_sums
from vfl.horizontal.history import Federation, RoundRecord
from vfl.horizontal.optimisation import Local, ServerState, Strategy, control_change
from vfl.horizontal.privacy import PrivacyLedger
from vfl.horizontal.pytorch import is_module
from vfl.horizontal.vectors import Rows, Vector, generator
from vfl.horizontal.viewing import facts_of
from vfl.membership import Membership, member
from vfl.privacy import ClientPrivacy
from vfl.protocols.horizontal import GlobalModel
from vfl.views import View

__all__ = ["federate_as_member"]


def federate_as_member(
    model: Any,
    rows: Rows,
    rounds: int,
    local: Local,
    strategy: Strategy,
    aggregation: Aggregation,
    privacy: Any,
    held_out: Rows | None,
    start: Vector | None,
    seed: int,
    on_round: Callable[[RoundRecord], None] | None,
    view: View | None = None,
) -> Federation:
    """Train as one client of the ambient cohort; see :func:`vfl.federate`.

    Raises
    ------
    PolicyRefused
        If a method does not compose with secure aggregation.
    VFLError
        If a sum fails; see :func:`vfl.secure_mean`.
    """
    cohort = member()
    secure = _checked(cohort, model, strategy, aggregation, privacy)
    begin = model.initial(seed) if start is None else np.array(start, dtype=np.float64)
    trainer = _Member(cohort, model, rows, local, strategy, secure, privacy, seed, begin)
    records: list[RoundRecord] = []
    began = time.monotonic()
    if view is not None:
        view.facts |= facts_of(model, local)
    for number in range(1, rounds + 1):
        if view is not None:
            view.add("received", "cohort", GlobalModel(number=number, vector=trainer.state.vector))
        trainer.round(number)
        record = _record(number, time.monotonic() - began, cohort.survivors, cohort.policy.names)
        if held_out is not None:
            record = replace(record, accuracy=model.accuracy(trainer.state.vector, held_out.X, held_out.y))
        if privacy is not None:
            record = replace(record, epsilon=privacy.epsilon)
        if local.delta:
            own = trainer.ledger.record_epsilon(cohort.name, local.delta)
            record = replace(record, record_epsilon={cohort.name: own})
        records.append(record)
        if on_round is not None:
            on_round(record)
    if view is not None:
        view.add("received", "cohort", GlobalModel(number=rounds + 1, vector=trainer.state.vector))
    delta = getattr(privacy, "delta", None)
    return Federation(model, trainer.state.vector, records, delta, trainer.ledger)


def _checked(
    cohort: Membership, model: Any, strategy: Strategy, aggregation: Aggregation, privacy: Any
) -> Secure:
    if hasattr(model, "get_params") or is_module(model):
        raise ConfigError(
            "inside vfl.join the model is vfl.horizontal.models.adapted(estimator, features, classes), or "
            "vfl.horizontal.pytorch.TorchModel(module, classes)"
        )
    if not isinstance(aggregation, Mean | Secure) or isinstance(aggregation, SecureGroups):
        raise PolicyRefused("aggregation: inside vfl.join it is the secure mean; take Secure(bound=...)")
    if privacy is not None and (not isinstance(privacy, ClientPrivacy) or strategy.controlled):
        raise PolicyRefused(
            "privacy: inside vfl.join clients add the noise: vfl.ClientPrivacy, no control variates"
        )
    require_sums({"strategy": strategy, "aggregation": aggregation}, len(cohort.policy.names))
    return aggregation if isinstance(aggregation, Secure) else Secure()


class _Member:
    """One client's state of the training: the server's, which all have, and its own control variate."""

    def __init__(
        self,
        cohort: Membership,
        model: Any,
        rows: Rows,
        local: Local,
        strategy: Strategy,
        secure: Secure,
        privacy: ClientPrivacy | None,
        seed: int,
        begin: Vector,
    ) -> None:
        self._cohort, self._model, self._rows, self._local = cohort, model, rows, local
        self._strategy, self._secure, self._privacy, self._seed = strategy, secure, privacy, seed
        self.state, self._control = ServerState.start(begin), np.zeros(model.size)
        self.ledger = PrivacyLedger()

    def round(self, number: int) -> None:
        """Train, sum, and step the state."""
        strategy, names = self._strategy, self._cohort.policy.names
        rng = generator(self._seed, 30, number, names.index(self._cohort.name))
        correction = self.state.control - self._control if strategy.controlled else None
        cost = self._local.cost(len(self._rows))
        if cost is not None:
            self.ledger.charge(self._cohort.name, cost)
        end = self._local.trained(
            self._model, self.state.vector, self._rows, rng, strategy.proximal, correction
        )
        update = end - self.state.vector
        change = control_change(self._control, self.state.control, update, self._local)
        mean = self._mean(np.concatenate([update, change]) if strategy.controlled else update)
        present = self._cohort.survivors
        self.state = strategy.step(self.state, mean, len(present) / len(names))
        if strategy.controlled and self._cohort.name in present:
            self._control = self._control + change

    def _mean(self, whole: Vector) -> Vector:
        bound = self._secure.bound
        if self._privacy is not None:
            return secure_mean(whole, bound=bound, privacy=self._privacy)
        cut = np.clip(whole, -bound, bound)
        return secure_mean(cut, len(self._rows), bound=bound, largest_weight=self._secure.largest_weight)


def _record(number: int, seconds: float, present: tuple[str, ...], everybody: tuple[str, ...]) -> RoundRecord:
    """Return a record without bytes: those are in the audit log of the membership."""
    lost = tuple(name for name in everybody if name not in present)
    return RoundRecord(number, seconds, 0, 0, present, lost)
