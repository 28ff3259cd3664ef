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
from vfl.horizontal.optimisation import Local, ServerState, Strategy, control_change, local_sgd
from vfl.horizontal.vectors import Rows, Vector, generator
from vfl.membership import member
from vfl.privacy import ClientPrivacy

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
    if hasattr(model, "get_params"):
        raise ConfigError(
            "inside vfl.join the model is vfl.horizontal.models.adapted(estimator, features, classes)"
        )
    if not isinstance(aggregation, Mean | Secure) or isinstance(aggregation, SecureGroups):
        raise PolicyRefused("aggregation: inside vfl.join it is the secure mean; take Secure(bound=...)")
    if privacy is not None and (not isinstance(privacy, ClientPrivacy) or strategy.controlled):
        raise PolicyRefused(
            "privacy: inside vfl.join clients add the noise: vfl.ClientPrivacy, no control variates"
        )
    require_sums({"strategy": strategy, "aggregation": aggregation}, len(cohort.policy.names))
    secure = aggregation if isinstance(aggregation, Secure) else Secure()
    place = cohort.policy.names.index(cohort.name)
    state = ServerState.start(model.initial(seed) if start is None else np.array(start, dtype=np.float64))
    control = np.zeros(model.size)
    records: list[RoundRecord] = []
    began = time.monotonic()
    for number in range(1, rounds + 1):
        rng = generator(seed, 30, number, place)
        correction = state.control - control if strategy.controlled else None
        end = local_sgd(model, state.vector, rows, local, rng, strategy.proximal, correction)
        update = end - state.vector
        change = control_change(control, state.control, update, local)
        whole = np.concatenate([update, change]) if strategy.controlled else update
        if privacy is None:
            cut = np.clip(whole, -secure.bound, secure.bound)
            mean = secure_mean(cut, len(rows), bound=secure.bound, largest_weight=secure.largest_weight)
        else:
            mean = secure_mean(whole, bound=secure.bound, privacy=privacy)
        part = len(cohort.survivors) / len(cohort.policy.names)
        state = strategy.step(state, mean, part)
        if strategy.controlled and cohort.name in cohort.survivors:
            control = control + change
        records.append(_record(number, time.monotonic() - began, cohort.survivors, cohort.policy.names))
        if held_out is not None:
            accuracy = model.accuracy(state.vector, held_out.X, held_out.y)
            records[-1] = replace(records[-1], accuracy=accuracy)
        if privacy is not None:
            records[-1] = replace(records[-1], epsilon=privacy.epsilon)
        if on_round is not None:
            on_round(records[-1])
    return Federation(model, state.vector, records, getattr(privacy, "delta", None))


def _record(number: int, seconds: float, present: tuple[str, ...], everybody: tuple[str, ...]) -> RoundRecord:
    """Return a record without bytes: those are in the audit log of the membership."""
    lost = tuple(name for name in everybody if name not in present)
    return RoundRecord(number, seconds, 0, 0, present, lost)
