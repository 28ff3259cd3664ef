"""Cohorts for the tests of secure aggregation: identities, policies, and rounds stepped by hand without a network."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support import DeterministicRng
from vfl.crypto.masking import zeros
from vfl.crypto.signatures import IdentityKey
from vfl.protocols.secagg.client import Client, Contribution
from vfl.protocols.secagg.policy import Policy, Task
from vfl.protocols.secagg.server import Round, Stage
from vfl.protocols.wire import Message, decode, encode

SESSION = b"a test"


@lru_cache
def identities(count: int) -> tuple[IdentityKey, ...]:
    return tuple(IdentityKey.generate() for _ in range(count))


def names(count: int) -> list[str]:
    return [f"silo{i:03d}" for i in range(count)]


def policy(count: int, **numbers: int) -> Policy:
    pinned = zip(names(count), identities(count), strict=True)
    return Policy({name: key.public_bytes for name, key in pinned}, **numbers)


def task(dimension: int = 5, bits: int = 20, model: bytes = bytes(32)) -> Task:
    return Task(SESSION, model, dimension, bits)


def vector(seed: int, of: Task) -> NDArray[Any]:
    residues = zeros(of.dimension, of.bits)
    raw = np.frombuffer(DeterministicRng(1000 + seed).bytes(8 * of.dimension), dtype="<u8")
    residues[:] = (raw & np.uint64((1 << of.bits) - 1)).astype(residues.dtype)
    return residues


def expected(members: Iterable[int], of: Task) -> list[int]:
    rows = [[int(x) for x in vector(i, of)] for i in members]
    return [sum(column) % (1 << of.bits) for column in zip(*rows, strict=True)]


Twist = Callable[[str, Message], Message]


@dataclass
class Cohort:
    """A round and its clients. `twist` stands for a malicious aggregator: it changes what a client is told.

    Attributes
    ----------
    refusals : dict of str to Exception
        What the clients raised.
    """

    policy: Policy
    task: Task
    number: int = 0
    twist: Twist = lambda name, message: message
    refusals: dict[str, Exception] = field(default_factory=dict)
    keys: tuple[IdentityKey, ...] = ()

    def __post_init__(self) -> None:
        keys = self.keys or identities(len(self.policy.names))
        self.round = Round(self.policy, self.task, self.number)
        self.clients = {
            name: Client(name, keys[i], self.policy, DeterministicRng(i))
            for i, name in enumerate(self.policy.names)
        }
        self.parts: dict[str, Contribution] = {
            name: client.contribution(self.task, vector(i, self.task))
            for i, (name, client) in enumerate(self.clients.items())
        }

    def answer(self, name: str) -> Message | None:
        """Let one client answer the present question; what it refuses is kept, and the client dropped."""
        part = self.parts[name]
        try:
            message = over_the_wire(self.twist(name, self.round.message(name)), part)
            if part.answered == 0:
                part.accept(message)  # type: ignore[arg-type]
                return over_the_wire(part.latest, part)  # type: ignore[arg-type]
            return over_the_wire(part.answer(message), part)
        except Exception as error:
            self.refusals[name] = error
            self.round.drop(name)
            return None

    def play(self, lose: dict[str, Stage] | None = None) -> Round:
        """Run the round; clients in `lose` are lost before they answer the stage named there."""
        gone = lose or {}
        while not self.round.over:
            stage = self.round.stage
            for name in sorted(self.round.missing()):
                if gone.get(name, Stage.DONE) <= stage and self.waits(stage):
                    self.round.drop(name)
            answers = {name: self.answer(name) for name in sorted(self.round.missing()) if self.waits(stage)}
            for name, answer in answers.items():
                if answer is not None and self.waits(stage):
                    self.round.receive(name, answer)
        return self.round

    def waits(self, stage: Stage) -> bool:
        """Tell whether the round is in a stage and not over."""
        return self.round.stage == stage and not self.round.over


def over_the_wire(message: Message, part: Contribution) -> Message:
    """Return the message as its receiver decodes it."""
    return decode(type(message), encode(message), part.dims(type(message)))
