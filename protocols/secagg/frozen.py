"""A client's part of a round as bytes, for hosts that give it a new process for every message.

The bytes hold the secrets of the round and the vector until it is masked: they stay where the client's own state
stays, and whoever keeps them replaces them at once by those that follow, so that no answer is given twice.
"""

from typing import Any

import msgspec
import numpy as np

from vfl.crypto.agreement import KeyPair
from vfl.errors import LocalProtocolError
from vfl.protocols.secagg.client import Client, Contribution
from vfl.protocols.secagg.policy import Task, context

__all__ = ["freeze", "thaw"]

SECRETS = ("_roster", "_seed", "_view", "_statement")
SETS = ("_present", "_sharers", "_alive")
BY_NEIGHBOUR = ("_sealed_by", "_held")


class _Frozen(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    answered: int
    task: dict[str, str]
    sealing: bytes
    masking: bytes
    keys: bytes
    vector: bytes
    secrets: dict[str, bytes]
    sets: dict[str, bytes]
    by_neighbour: dict[str, dict[int, bytes]]


def freeze(part: Contribution) -> bytes:
    """Return a contribution between two answers as bytes.

    Raises
    ------
    LocalProtocolError
        If it has not been accepted into a round, or has refused to go on.
    """
    if part.number < 0 or part._failed:
        raise LocalProtocolError("only a part of a round that goes on can be kept")

    def had(names: tuple[str, ...]) -> dict[str, Any]:
        return {name: getattr(part, name) for name in names if hasattr(part, name)}

    return msgspec.msgpack.encode(
        _Frozen(
            number=part.number,
            answered=part.answered,
            task=part.task.fields(),
            sealing=part._sealing.secret,
            masking=part._masking.secret,
            keys=part._keys.tobytes() if hasattr(part, "_keys") else b"",
            vector=part._vector.tobytes(),
            secrets=had(SECRETS),
            sets={name: value.tobytes() for name, value in had(SETS).items()},
            by_neighbour=had(BY_NEIGHBOUR),
        )
    )


def thaw(client: Client, raw: bytes) -> Contribution:
    """Return the contribution that :func:`freeze` has made bytes of; it goes on with the next question.

    Raises
    ------
    LocalProtocolError
        If these are not such bytes.
    """
    try:
        kept = msgspec.msgpack.decode(raw, type=_Frozen)
    except msgspec.DecodeError:
        raise LocalProtocolError("the state of the round is damaged") from None
    task = Task.of_fields(kept.task)
    words = np.dtype(np.uint32 if task.bits <= 32 else np.uint64)
    part = Contribution(client, task, np.zeros(task.dimension, words))
    part.number, part.answered = kept.number, kept.answered
    part._vector = np.frombuffer(kept.vector, words)
    part._context = context(client.policy, task, kept.number)
    graph = client.policy.graph(task, kept.number)
    part._neighbours, part._threshold = graph.neighbours[part.me], graph.threshold
    part._sealing, part._masking = KeyPair(kept.sealing), KeyPair(kept.masking)
    if kept.keys:
        part._keys = np.frombuffer(kept.keys, np.uint8).reshape(len(client.policy.names), -1)
    for name, octets in kept.sets.items():
        setattr(part, name, np.frombuffer(octets, bool))
    for name, value in (kept.secrets | kept.by_neighbour).items():
        setattr(part, name, value)
    return part
