"""The aggregator's side of one round: five stages, each a set of answers that closes when all are in or time is up.

:class:`Round` is a state machine without channels and clocks. Whoever carries its messages calls :meth:`Round.receive`
and :meth:`Round.drop`, and :meth:`Round.expire` when a stage has lasted long enough; :meth:`Round.message` is what a
client gets next. Every order of these calls ends in a result or in a typed failure.
"""

import enum
from typing import final

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.agreement import KEY_BYTES
from vfl.crypto.masking import add_packed, pack, packed_bytes, reduced, zeros
from vfl.crypto.shamir import read_share
from vfl.crypto.signatures import SIGNATURE_BYTES, verify
from vfl.errors import CohortTooSmall, LocalProtocolError, RoundLost, UnexpectedMessage, VFLError
from vfl.protocols.secagg.client import DIMS, Result
from vfl.protocols.secagg.messages import (
    SEALED_BYTES,
    Advertise,
    Agreement,
    Bundle,
    Confirmation,
    Invitation,
    MaskedInput,
    Outcome,
    Reveal,
    Roster,
    Shares,
    Survivors,
)
from vfl.protocols.secagg.policy import Policy, Task, context
from vfl.protocols.secagg.unmask import Opening, unmask
from vfl.protocols.secagg.views import (
    KEYS,
    SURVIVORS,
    VIEW,
    keys_statement,
    roster_digest,
    survivors_digest,
    view_digest,
)
from vfl.protocols.wire import Message

__all__ = ["ANSWERS", "Round", "Stage"]

Octets = NDArray[np.uint8]


class Stage(enum.IntEnum):
    """What the round waits for; the number is that of answers that a client has given before."""

    ADVERTISE = 0
    SHARE = 1
    MASK = 2
    CONFIRM = 3
    REVEAL = 4
    DONE = 5


ANSWERS: dict[Stage, type[Message]] = {
    Stage.ADVERTISE: Advertise,
    Stage.SHARE: Shares,
    Stage.MASK: MaskedInput,
    Stage.CONFIRM: Confirmation,
    Stage.REVEAL: Reveal,
}
"""The answer that each stage takes."""


@final
class Round:
    """One round.

    Parameters
    ----------
    policy : Policy
    task : Task
    number : int
        Higher than that of every earlier round over this policy.

    Attributes
    ----------
    stage : Stage
    failure : VFLError or None
        Why there will be no sum: CohortTooSmall, or PeerError if a client's secrets were shared wrongly.
    result : Result or None
    """

    def __init__(self, policy: Policy, task: Task, number: int) -> None:
        self.policy, self.task, self.number = policy, task, number
        self.stage = Stage.ADVERTISE
        self.failure: VFLError | None = None
        self.result: Result | None = None
        self._index = {name: i for i, name in enumerate(policy.names)}
        count = len(policy.names)
        self._alive = np.ones(count, dtype=bool)  # not yet dropped
        self._in = np.zeros(count, dtype=bool)  # has answered this stage
        self._context = context(policy, task, number)
        self._graph = policy.graph(task, number)
        self._keys = np.zeros((count, 2 * KEY_BYTES), dtype=np.uint8)
        self._signatures = np.zeros((3, count, SIGNATURE_BYTES), dtype=np.uint8)  # of keys, views, survivors
        self._sealed: dict[int, Octets] = {}
        self._commitments: dict[int, bytes] = {}
        self._total = zeros(task.dimension, task.bits)
        self._seeds: dict[int, bytes] = {}
        self._shares: dict[int, Octets] = {}
        self._sets: list[NDArray[np.bool_]] = []  # who had answered each stage when it closed

    # --- what a carrier asks

    @property
    def over(self) -> bool:
        """Whether there is a result or a failure."""
        return self.failure is not None or self.stage is Stage.DONE

    def missing(self) -> set[str]:
        """Return the clients whose answers the present stage waits for."""
        waiting = np.flatnonzero(self._alive & ~self._in)
        return set() if self.over else {self.policy.names[i] for i in waiting}

    def lost(self, name: str) -> bool:
        """Tell whether the round goes on without a client."""
        return not self._alive[self._of(name)]

    def answered(self, name: str) -> int:
        """Return how many answers of a client have been taken."""
        i = self._of(name)
        return sum(bool(answers[i]) for answers in self._sets) + int(not self.over and self._in[i])

    def invitation(self, name: str) -> Invitation:
        """Return what a client is told first, and again when it has lost its connection."""
        fields = self.policy.fields() | self.task.fields()
        return Invitation(number=self.number, answered=self.answered(name), fields=fields)

    def dims(self, kind: type[Message]) -> dict[str, int]:
        """Return the dimensions that a message of a type has in this round."""
        packed = packed_bytes(self.task.dimension, self.task.bits)
        sizes = {"clients": len(self._index), "neighbours": self._graph.degree, "packed": packed}
        return {name: sizes[name] for name in DIMS.get(kind, ())}

    def _of(self, name: str) -> int:
        if name not in self._index:
            raise LocalProtocolError(f"{name} is no client of this policy")
        return self._index[name]

    # --- what happens

    def receive(self, name: str, message: Message) -> None:
        """Take a client's answer to the present stage.

        Raises
        ------
        RoundLost
            If the round goes on, or has ended, without this client.
        UnexpectedMessage
            If it is no answer to the present stage, or the second one.
        PeerError, DataError
            If the answer is not well-formed or not signed by this client. The client should be dropped then.
        """
        i = self._of(name)
        if self.over or not self._alive[i]:
            raise RoundLost(f"round {self.number} goes on or has ended without {name}")
        if self._in[i] or type(message) is not ANSWERS[self.stage]:
            raise UnexpectedMessage(
                f"{name} sent {type(message).__name__} in stage {self.stage.name.lower()} of round {self.number}"
            )
        self._take(i, message)
        self._in[i] = True
        self._advance()

    def drop(self, name: str) -> None:
        """Go on without a client; what it gave in earlier stages still counts."""
        self._alive[self._of(name)] = False
        self._advance()

    def expire(self) -> None:
        """Go on without all that the present stage still waits for."""
        if not self.over:
            self._alive &= self._in
            self._advance()

    def fail(self, error: VFLError) -> None:
        """End the round without a result."""
        if not self.over:
            self.failure = error

    # --- the stages

    def _take(self, i: int, message: Message) -> None:
        signed, key = self._signatures, self.policy.keys[i]
        if isinstance(message, Advertise):
            statement = keys_statement(self._context, i, message.sealing_key, message.masking_key)
            verify(key, KEYS, statement, message.signature)
            self._keys[i] = _octets(message.sealing_key + message.masking_key)
            signed[0, i] = _octets(message.signature)
        elif isinstance(message, Shares):
            self._sealed[i], self._commitments[i] = message.sealed, message.commitment
        elif isinstance(message, MaskedInput):
            verify(key, VIEW, self._view, message.signature)
            add_packed(self._total, message.vector, self.task.bits)
            signed[1, i] = _octets(message.signature)
        elif isinstance(message, Confirmation):
            verify(key, SURVIVORS, self._statement, message.signature)
            signed[2, i] = _octets(message.signature)
        elif isinstance(message, Reveal):
            for share in message.shares:
                read_share(share.tobytes())
            self._seeds[i], self._shares[i] = message.seed, message.shares

    def _advance(self) -> None:
        """Close the stage once nobody is left to wait for."""
        while not self.over and not (self._alive & ~self._in).any():
            self._close()

    def _close(self) -> None:
        stage, answered = self.stage, self._in.copy()
        needed = self.policy.minimum if stage <= Stage.MASK else self.policy.quorum
        if answered.sum() < needed and stage is not Stage.REVEAL:
            self.failure = CohortTooSmall(
                f"{answered.sum()} clients answered in stage {stage.name.lower()} of round {self.number}, {needed} are "
                f"required of {len(self._index)}"
            )
            return
        self._sets.append(answered)
        if stage is Stage.ADVERTISE:
            self._roster = roster_digest(self._context, answered, self._keys)
        elif stage is Stage.SHARE:
            self._view = view_digest(self._roster, answered)
        elif stage is Stage.MASK:
            self._statement = survivors_digest(self._view, answered)
        elif stage is Stage.REVEAL:
            self._open()
            if self.failure is not None:
                return
        self._in[:] = False
        self.stage = Stage(stage + 1)

    def _open(self) -> None:
        _, sharers, survivors = self._sets[:3]
        opening = Opening(
            self._graph, self.policy.names, sharers, survivors, self._keys[:, KEY_BYTES:], self._view,
            self._commitments, self._seeds, self._shares,
        )  # fmt: skip
        try:
            unmask(self._total, opening)
        except VFLError as error:
            self.failure = error
            return
        names = tuple(self.policy.names[i] for i in np.flatnonzero(survivors))
        self.result = Result(reduced(self._total, self.task.bits), names)

    # --- what a client gets

    def message(self, name: str) -> Message:
        """Return the question of the present stage to a client that has answered all earlier ones, or the outcome.

        Raises
        ------
        RoundLost
            If the round goes on without this client.
        """
        i = self._of(name)
        if self.failure is not None:
            raise self.failure
        if not self._alive[i]:
            raise RoundLost(f"round {self.number} goes on without {name}")
        if self.stage is Stage.ADVERTISE:
            return self.invitation(name)
        present = self._sets[-1].astype(np.uint8)
        if self.stage is Stage.SHARE:
            return Roster(present=present, keys=self._shown(self._keys), signatures=self._signed(0))
        if self.stage is Stage.MASK:
            return Bundle(present=present, sealed=self._bundle(i))
        if self.stage is Stage.CONFIRM:
            return Survivors(present=present, signatures=self._signed(1))
        if self.stage is Stage.REVEAL:
            return Agreement(present=present, signatures=self._signed(2))
        return self.outcome()

    def outcome(self) -> Outcome:
        """Return what all are told when the round has a result."""
        return Outcome(
            present=self._sets[Stage.MASK].astype(np.uint8), total=pack(self._total, self.task.bits)
        )

    def _shown(self, rows: Octets) -> Octets:
        return np.where(self._sets[-1][:, None], rows, np.uint8(0))

    def _signed(self, which: int) -> Octets:
        return self._shown(self._signatures[which])

    def _bundle(self, i: int) -> Octets:
        """Return what the neighbours of client i have sealed for it."""
        bundle = np.zeros((self._graph.degree, SEALED_BYTES), dtype=np.uint8)
        for row, dealer in enumerate(self._graph.neighbours[i].tolist()):
            if self._sets[Stage.SHARE][dealer]:
                place = int(np.searchsorted(self._graph.neighbours[dealer], i))
                bundle[row] = self._sealed[dealer][place]
        return bundle


def _octets(raw: bytes) -> Octets:
    return np.frombuffer(raw, dtype=np.uint8)
