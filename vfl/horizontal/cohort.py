"""Secure aggregation inside a simulation: the real clients and rounds, message by message, their bytes counted."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from vfl.crypto.masking import Words
from vfl.crypto.rng import SystemRng
from vfl.crypto.signatures import IdentityKey
from vfl.errors import VFLError
from vfl.protocols.secagg.client import Client, Contribution
from vfl.protocols.secagg.messages import Invitation
from vfl.protocols.secagg.policy import Policy, Task
from vfl.protocols.secagg.server import Round, Stage
from vfl.protocols.wire import Message, decode, encode
from vfl.views import View

__all__ = ["SimulatedCohort", "Traffic"]

EXCHANGES = 5
"""Messages that each client sends in a round."""


@dataclass
class Traffic:
    """Bytes of one round, by client."""

    up: dict[str, int] = field(default_factory=dict)
    down: dict[str, int] = field(default_factory=dict)


class SimulatedCohort:
    """Clients with identities, and rounds over any three or more of them.

    Parameters
    ----------
    session : str
        Name of the training.
    colluders : int
        As in :class:`vfl.protocols.secagg.policy.Policy`.
    view : View, optional
        Collects what the aggregator receives, and each round's invitations and outcome.
    """

    def __init__(self, session: str, colluders: int = -1, view: View | None = None) -> None:
        self.view = view
        self._session, self._colluders, self._rng = session.encode(), colluders, SystemRng()
        self._keys: dict[str, IdentityKey] = {}
        self._number = -1

    def policy(self, names: list[str]) -> Policy:
        """Return the policy of a round over these clients."""
        for name in names:
            self._keys.setdefault(name, IdentityKey.generate())
        return Policy({name: self._keys[name].public_bytes for name in names}, self._colluders)

    def total(
        self, words: Mapping[str, Words], bits: int, call: str, model: bytes, lost: set[str], traffic: Traffic
    ) -> tuple[Words, tuple[str, ...]]:
        """Return the sum modulo 2^bits over the clients that remain, and their names.

        Parameters
        ----------
        words : mapping of str to ndarray
            Each client's residues.
        bits : int
        call, model : str, bytes
            What is summed, and the vector that updates start from: bound into the masks.
        lost : set of str
            Clients that are lost after their secrets are shared, before their vector is sent.
        traffic : Traffic
            Counts what is sent.

        Raises
        ------
        CohortTooSmall, VFLError
            If there is no sum.
        """
        policy = self.policy(sorted(words))
        self._number += 1
        size = next(iter(words.values())).size
        task = Task(self._session, hashlib.sha256(model).digest(), size, bits, call[:255])
        going = Round(policy, task, self._number)
        parts = {
            name: Client(name, self._keys[name], policy, self._rng).contribution(task, vector)
            for name, vector in words.items()
        }
        while not going.over:
            stage = going.stage
            for name in sorted(going.missing()):
                if name in lost and stage is Stage.MASK:
                    going.drop(name)
                elif _waits(going, stage):
                    _answer(going, name, parts[name], traffic, self.view)
        if going.failure is not None or going.result is None:
            raise going.failure or VFLError("the round has ended without a result")
        outcome = encode(going.outcome())
        if self.view is not None:
            self.view.add("sent", "all", going.outcome())
        for name in going.result.survivors:
            traffic.down[name] = traffic.down.get(name, 0) + len(outcome)
        return np.array(going.result.total), going.result.survivors


def _waits(going: Round, stage: Stage) -> bool:
    return going.stage is stage and not going.over


def _answer(going: Round, name: str, part: Contribution, traffic: Traffic, view: View | None) -> None:
    question = encode(asked := going.message(name))
    answer: Message | None
    if isinstance(asked, Invitation):
        part.accept(decode(Invitation, question, {}))
        answer = part.latest
    else:
        answer = part.answer(decode(type(asked), question, part.dims(type(asked))))
    if answer is None:
        raise VFLError(f"{name} has no answer to {type(asked).__name__}")
    raw = encode(answer)
    traffic.down[name] = traffic.down.get(name, 0) + len(question)
    traffic.up[name] = traffic.up.get(name, 0) + len(raw)
    received = decode(type(answer), raw, going.dims(type(answer)))
    if view is not None:
        if isinstance(asked, Invitation):
            view.add("sent", name, asked)
        view.add("received", name, received)
    going.receive(name, received)
