"""Who takes part in a round, how long it is waited for them, and how much they do.

The server learns who was chosen, and of a choice by loss every candidate's loss: that one needs clear numbers of the
clients and does not compose with secure aggregation. Choice by chance and by size, deadlines and local steps do.
Buffered asynchronous aggregation composes in the form in which its paper proposes it, with a secure sum of each buffer;
here the updates of one buffer start from different models, which the round of :mod:`vfl.protocols.secagg` does not
allow (it binds the model into the masks), so it is refused.

Sources: McMahan et al. 2017 (uniform). Cho, Wang and Joshi, "Towards Understanding Biased Client Selection in
Federated Learning", AISTATS 2022 (power-of-choice, by loss). Bonawitz et al., "Towards Federated Learning at Scale",
MLSys 2019 (deadlines, over-selection). Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020
(different numbers of local steps). Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation",
AISTATS 2022 (FedBuff: staleness weight 1 / sqrt(1 + tau)).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from vfl.errors import InvalidData
from vfl.horizontal.composing import Needs
from vfl.horizontal.optimisation import Local
from vfl.horizontal.vectors import Vector

__all__ = ["Buffered", "Participation", "adaptive_local", "by_loss", "by_size", "staleness_weight", "uniform"]


def uniform(count: int, clients: int, rng: np.random.Generator) -> list[int]:
    """Return `count` distinct clients, each as likely as any other."""
    return sorted(rng.choice(clients, size=min(count, clients), replace=False).tolist())


def by_size(count: int, sizes: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Return `count` distinct clients, drawn one after the other with chances in proportion to their rows."""
    chances = np.asarray(sizes, dtype=np.float64)
    return sorted(
        rng.choice(len(sizes), size=min(count, len(sizes)), replace=False, p=chances / chances.sum()).tolist()
    )


def by_loss(count: int, losses: Sequence[float], candidates: Sequence[int]) -> list[int]:
    """Return the `count` candidates with the largest loss of the present model."""
    order = np.argsort(-np.asarray(losses), kind="stable")[:count]
    return sorted(int(candidates[i]) for i in order)


def adaptive_local(local: Local, speed: float, seconds: float) -> Local:
    """Return local training that a client finishes in time: fewer steps, and below one step fewer rows.

    Parameters
    ----------
    local : Local
        What it would do at most.
    speed : float
        Measured, in steps of `local.batch` rows per second.
    seconds : float
        That it has.
    """
    if not (speed > 0 and seconds > 0):
        raise InvalidData("speed and seconds are positive")
    steps = speed * seconds
    if steps >= 1 or local.batch == 0:
        return replace(local, steps=max(1, min(local.steps, math.floor(steps))))
    return replace(local, steps=1, batch=max(1, math.floor(local.batch * steps)))


def staleness_weight(staleness: int, exponent: float = 0.5) -> float:
    """Return 1 / (1 + tau)^exponent for an update that is tau server steps old."""
    return float((1.0 + staleness) ** -exponent)


@dataclass(frozen=True)
class Participation:
    """Synchronous rounds.

    Parameters
    ----------
    count : int
        Clients asked in a round; 0 asks all.
    by : {"chance", "size", "loss"}
    deadline : float
        Seconds after which a round goes on without those that are missing.
    adapt : float
        Seconds of computing that each client fits its steps into, by its measured speed; infinite lets all do the same.
    """

    count: int = 0
    by: Literal["chance", "size", "loss"] = "chance"
    deadline: float = math.inf
    adapt: float = math.inf

    def __post_init__(self) -> None:
        if self.count < 0 or not (self.deadline > 0 and self.adapt > 0):
            raise InvalidData("participation takes no negative count, and positive seconds")

    @property
    def needs(self) -> Needs:
        """What the server has to see."""
        return Needs.CLEAR if self.by == "loss" else Needs.SUM

    def local(self, local: Local, speed: float) -> Local:
        """Return how a client of this speed trains."""
        return local if math.isinf(self.adapt) else adaptive_local(local, speed, self.adapt)


@dataclass(frozen=True)
class Buffered:
    """FedBuff: a server step whenever `size` updates have come; `concurrency` clients are at work at any time."""

    size: int = 5
    concurrency: int = 10
    exponent: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 1 or self.concurrency < 1:
            raise InvalidData("a buffer and the clients at work are at least one")

    @property
    def needs(self) -> Needs:
        """Updates of a buffer start from different models."""
        return Needs.CLEAR

    def mean(self, updates: Sequence[Vector], staleness: Sequence[int]) -> Vector:
        """Return the buffer's sum over its size, with weights for staleness."""
        weights = [staleness_weight(age, self.exponent) for age in staleness]
        total: Vector = np.sum([w * u for w, u in zip(weights, updates, strict=True)], axis=0)
        return total / len(updates)
