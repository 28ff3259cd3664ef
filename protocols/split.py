"""Vertical split learning: hosts send embeddings of mini-batches, the guest returns a gradient for each row.

    guest (labels, own columns, top network)            hosts (own columns, bottom networks)
    order of the rows, told in the call
    per batch
    1.                            <-- Embedding --      z = what the bottom network makes of each row, clipped, noisy
       steps its own networks on the labels
    2. LabelGradient or RowGradient -->                 steps the bottom network along it

    scoring                       <-- Embedding --      z of the rows that are scored

Which of the two gradients is sent follows from the defence that all parties have agreed on
(:mod:`vfl.neural.defences`), and so does what it is; this module moves and checks them.

Adversary: semi-honest.

Leakage
-------
* The guest learns an embedding of every row in every epoch and of every row that is scored (class `representation`).
* A host learns for each row either one label that was randomised once (class `noisy_label`: the gradients are the same
  in every epoch up to what the host knows), or the gradient of the loss, from which labels follow (class
  `row_gradient`).
* Hosts learn nothing of each other. The order of the rows in the epochs is known to all.

What arrives is checked: its shape, that all numbers are finite, and that none is beyond the agreed bound.

Sources: Vepakomma, Gupta, Swedish, Raskar, "Split learning for health", arXiv 1812.00564 (vertically partitioned
data); Ceballos et al., "SplitNN-driven vertical partitioning", arXiv 2008.04137.
"""

import abc
import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.rng import agreed_permutation
from vfl.errors import InvalidData, MalformedMessage, TrainingDiverged
from vfl.protocols.channel import Channel
from vfl.protocols.wire import Array, Declaration, Leakage, Message, Role

__all__ = [
    "LARGEST",
    "Embedding",
    "GuestSide",
    "HostSide",
    "LabelGradient",
    "Plan",
    "RowGradient",
    "by_row",
    "guest",
    "guest_scores",
    "host",
    "host_scores",
]

Numbers = NDArray[np.float32]
Progress = Callable[[int, int], None]
LARGEST = 1e4
"""Bound on the components of embeddings that are not clipped, and of gradients."""
FEWEST_ROWS = 2  # embeddings are standardised over a batch
SCORED_ROWS = 4096


class Embedding(Message, frozen=True, kw_only=True):
    """A vector for each row of a batch."""

    declaration = Declaration(
        "split.embedding",
        Role.HOST,
        Leakage.REPRESENTATION,
        "a vector for each row and epoch, and for each scored row, made of the host's columns, to the guest",
    )
    z: Annotated[Numbers, Array("<f4", "rows", "width")]


class LabelGradient(Message, frozen=True, kw_only=True):
    """One of a few directions for each row, by a label that was randomised once."""

    declaration = Declaration(
        "split.label_gradient",
        Role.GUEST,
        Leakage.NOISY_LABEL,
        "a randomised label of each row, the same in every epoch, to the host",
    )
    g: Annotated[Numbers, Array("<f4", "rows", "width")]


class RowGradient(Message, frozen=True, kw_only=True):
    """The gradient of each row's loss, as it is or with noise."""

    declaration = Declaration(
        "split.row_gradient",
        Role.GUEST,
        Leakage.ROW_GRADIENT,
        "a gradient of each row's loss: its label follows unless noise hides it, to the host",
    )
    g: Annotated[Numbers, Array("<f4", "rows", "width")]


Gradient = type[LabelGradient] | type[RowGradient]


@dataclass(frozen=True)
class Plan:
    """What all parties have agreed on before the first batch.

    Attributes
    ----------
    rows, batch_rows, epochs : int
        The last batch of an epoch takes what is left, so that none is smaller.
    seed : bytes
        32 bytes of the guest, known to all, from which the order of the rows in each epoch follows.
    gradient : type
        Which message carries the gradients.
    """

    rows: int
    batch_rows: int
    epochs: int
    seed: bytes
    gradient: Gradient

    def __post_init__(self) -> None:
        if min(self.rows, self.batch_rows) < FEWEST_ROWS:
            raise InvalidData(
                f"a batch has {FEWEST_ROWS} rows or more: pass more rows, or a larger batch_size"
            )

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the rows of each batch of an epoch."""
        order = agreed_permutation(hashlib.sha256(self.seed + epoch.to_bytes(4, "big")).digest(), self.rows)
        count = max(1, self.rows // self.batch_rows)
        cuts = [number * self.batch_rows for number in range(count)] + [self.rows]
        return [order[start:stop] for start, stop in itertools.pairwise(cuts)]

    @property
    def steps(self) -> int:
        """Number of batches of all epochs."""
        return self.epochs * max(1, self.rows // self.batch_rows)


class GuestSide(abc.ABC):
    """What the guest brings: its networks."""

    @abc.abstractmethod
    def step(self, rows: NDArray[np.int64], embeddings: list[Numbers]) -> list[Numbers]:
        """Train on a batch; return a gradient for each host, of the shape of its embeddings."""

    @abc.abstractmethod
    def end(self) -> None:
        """Take note of the end of an epoch."""


class HostSide(abc.ABC):
    """What a host brings: its bottom network."""

    @abc.abstractmethod
    def embed(self, rows: NDArray[np.int64]) -> Numbers:
        """Return the embeddings of a batch of training rows, shape (rows, width)."""

    @abc.abstractmethod
    def step(self, gradient: Numbers) -> None:
        """Train on the batch embedded last."""


async def guest(
    hosts: Sequence[Channel],
    widths: Sequence[int],
    side: GuestSide,
    plan: Plan,
    bounds: Sequence[float],
    progress: Progress,
) -> None:
    """Train the guest's networks; each host runs :func:`host`.

    Parameters
    ----------
    hosts : sequence of Channel
    widths : sequence of int
        Length of each host's embeddings.
    side : GuestSide
    plan : Plan
    bounds : sequence of float
        Largest absolute component of each host's embeddings.
    progress : callable
        (batches done, batches in all).

    Raises
    ------
    MalformedMessage
        If an embedding is not finite or beyond the bound.
    TrainingDiverged
        If an own gradient is.
    """
    numbers = itertools.count(1)
    for epoch in range(plan.epochs):
        for rows in plan.batches(epoch):
            embeddings = [
                checked((await channel.recv(Embedding, rows=len(rows), width=width)).z, bound, channel)
                for channel, width, bound in zip(hosts, widths, bounds, strict=True)
            ]
            for channel, gradient in zip(hosts, side.step(rows, embeddings), strict=True):
                await channel.send(plan.gradient(g=_own(gradient, LARGEST, channel)))
            progress(next(numbers), plan.steps)
        side.end()


async def host(guest: Channel, side: HostSide, plan: Plan, progress: Progress) -> None:
    """Train a host's bottom network; parameters and errors are those of :func:`guest`, which checks the bound."""
    numbers = itertools.count(1)
    for epoch in range(plan.epochs):
        for rows in plan.batches(epoch):
            z = _own(side.embed(rows), LARGEST, guest)
            await guest.send(Embedding(z=z))
            received = await guest.recv(plan.gradient, rows=len(rows), width=z.shape[1])
            side.step(checked(received.g, LARGEST, guest))
            progress(next(numbers), plan.steps)


async def guest_scores(
    hosts: Sequence[Channel], widths: Sequence[int], rows: int, bounds: Sequence[float]
) -> list[Numbers]:
    """Return each host's embeddings of rows to be scored, shape (rows, width)."""
    found: list[list[Numbers]] = [[] for _ in hosts]
    for start in range(0, rows, SCORED_ROWS):
        size = min(SCORED_ROWS, rows - start)
        for channel, width, bound, parts in zip(hosts, widths, bounds, found, strict=True):
            parts.append(checked((await channel.recv(Embedding, rows=size, width=width)).z, bound, channel))
    return [np.concatenate(parts) for parts in found]


async def host_scores(guest: Channel, embeddings: Numbers, bound: float) -> None:
    """Send the embeddings of rows to be scored, shape (rows, width)."""
    _own(embeddings, bound, guest)
    for start in range(0, len(embeddings), SCORED_ROWS):
        await guest.send(Embedding(z=embeddings[start : start + SCORED_ROWS]))


def by_row(received: Sequence[Numbers], plan: Plan) -> Numbers:
    """Return what was sent for each row, shape (epochs, rows, width), from the batches in the order of the training."""
    batches = [rows for epoch in range(plan.epochs) for rows in plan.batches(epoch)]
    whole = np.zeros((plan.epochs, plan.rows, received[0].shape[1]), np.float32)
    for number, (rows, values) in enumerate(zip(batches, received, strict=True)):
        whole[number * plan.epochs // len(batches), rows] = values
    return whole


def checked(received: Numbers, bound: float, peer: Channel) -> Numbers:
    """Return numbers of a peer within a bound.

    Raises
    ------
    MalformedMessage
    """
    within = np.abs(received) <= np.float32(bound)  # false for NaN
    if not within.all():
        raise MalformedMessage(
            f"{peer.peer.name} sent {int((~within).sum())} numbers that are not finite or beyond {bound:g}"
        )
    return received


def _own(values: Numbers, bound: float, channel: Channel) -> Numbers:
    """Return this party's own numbers, which the peer would refuse beyond the bound."""
    if not (np.abs(values) <= np.float32(bound)).all():
        raise TrainingDiverged(
            f"{channel.me.name}: numbers for {channel.peer.name} are not finite or beyond {bound:g}; lower the "
            "learning rate"
        )
    return values
