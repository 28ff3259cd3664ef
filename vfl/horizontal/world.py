"""Devices over virtual time: how long a round would take, who is away, who is lost on the way, who lies.

Nothing sleeps. The code that runs and the bytes that are counted are the real ones; only time and chance are drawn,
from the run's seed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vfl.errors import InvalidData
from vfl.horizontal.vectors import Rows, Vector, generator

__all__ = ["Attack", "Device", "World", "label_flipped", "scaled", "speeds"]

Attack = Callable[[Vector, np.random.Generator], Vector]
"""What a malicious client makes of its honest update."""


@dataclass(frozen=True)
class Device:
    """One client's machine and manners.

    Parameters
    ----------
    speed : float
        Local steps per second.
    latency : float
        Seconds that a message takes beside its bytes, one way.
    bandwidth : float
        Bytes per second, either way.
    available : float
        Chance of being there when asked.
    dropout : float
        Chance of being lost after it has begun.
    attack : callable, optional
        Makes the client malicious.
    """

    speed: float = 10.0
    latency: float = 0.05
    bandwidth: float = 1e6
    available: float = 1.0
    dropout: float = 0.0
    attack: Attack | None = None

    def __post_init__(self) -> None:
        chances = 0 <= self.available <= 1 and 0 <= self.dropout <= 1
        if not (chances and self.speed > 0 and self.latency >= 0 and self.bandwidth > 0):
            raise InvalidData("chances lie between 0 and 1; speed and bandwidth are positive")

    def seconds(self, steps: int, down: int, up: int, exchanges: int = 1) -> float:
        """Return how long a round takes this device: download, local steps, upload, and further exchanges."""
        return 2 * exchanges * self.latency + (down + up) / self.bandwidth + steps / self.speed


@dataclass(frozen=True)
class World:
    """The devices of a federation; those without an entry are all alike."""

    devices: Mapping[str, Device] = field(default_factory=dict)
    other: Device = field(default_factory=Device)

    def device(self, name: str) -> Device:
        """Return a client's device."""
        return self.devices.get(name, self.other)

    def fate(self, name: str, seed: int, round_number: int, place: int) -> tuple[bool, bool]:
        """Return whether a client is there when asked, and whether it is lost on the way."""
        device = self.device(name)
        if device.available == 1.0 and device.dropout == 0.0:
            return True, False
        first, second = generator(seed, 20, round_number, place).random(2)
        return bool(first < device.available), bool(second < device.dropout)


def speeds(names: Sequence[str], spread: float, seed: int, like: Device | None = None) -> World:
    """Return a world whose devices differ in speed by a factor `spread`, evenly on the logarithmic scale."""
    if not spread >= 1:
        raise InvalidData(f"a spread is at least 1, not {spread}")
    device = like or Device()
    places = generator(seed, 21).permutation(len(names)) / max(1, len(names) - 1)
    factors = np.exp(-math.log(spread) * places).tolist()
    found = {n: replace(device, speed=device.speed * f) for n, f in zip(names, factors, strict=True)}
    return World(found, device)


def scaled(factor: float) -> Attack:
    """Return an attack that multiplies the update: 100 is boosting, -1 a flipped sign."""

    def attack(update: Vector, rng: np.random.Generator) -> Vector:
        return factor * update

    return attack


def label_flipped(rows: Rows, classes: int) -> Rows:
    """Return rows whose integer labels 0 to classes - 1 are mirrored."""
    return Rows(rows.X, classes - 1 - rows.y)
