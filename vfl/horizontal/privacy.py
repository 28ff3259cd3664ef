"""Differential privacy of the training: what a client may add to a round, the noise on the sum, and one ledger.

What is protected is a client as a whole: whether it took part in the training and with what. With :class:`Central` and
:class:`Tree` the server is trusted, sees the updates or their sum, and adds the noise before it uses or shows anything;
both compose with secure aggregation if the clients clip. Noise that the clients add themselves, so that nobody need be
trusted, is :class:`vfl.ClientPrivacy` with secure aggregation. Privacy of a client's single records is another promise
with an epsilon of its own, see :mod:`.records`; one ledger holds both.

Updates count alike, without weights, and the noisy sum is divided by the number of clients that were asked, which does
not depend on who came. No amplification by sampling is claimed: who takes part in a round may be seen. A neighbour is
the same run with one client's updates replaced by zero.

The noise is the discrete Gaussian on a grid of sigma / 2^20, from :mod:`vfl.crypto.rng`; the sum is rounded to the grid
first, and what rounding adds to the sensitivity is in sigma. Its privacy is at least that of the continuous one.

Sources: McMahan et al., "Learning Differentially Private Recurrent Language Models", ICLR 2018 (fixed clipping). Andrew
et al., "Differentially Private Learning with Adaptive Clipping", NeurIPS 2021. Kairouz et al.,
"Practical and Private (Deep) Learning Without Sampling or Shuffling", ICML 2021 (DP-FTRL). Canonne, Kamath
and Steinke, "The Discrete Gaussian for Differential Privacy", NeurIPS 2020. Accounting: dp-accounting.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vfl.crypto.rng import Rng, SystemRng
from vfl.errors import InvalidData, PolicyRefused
from vfl.extras import load_opacus
from vfl.horizontal.composing import Needs
from vfl.horizontal.optimisation import RecordCost
from vfl.horizontal.robustness import clipped
from vfl.horizontal.vectors import Matrix, Vector
from vfl.privacy import accounting

__all__ = ["AdaptiveClip", "Central", "PrivacyLedger", "Tree", "TreeNoise", "noisy"]

GRID_BITS = 20


def noisy(total: Vector, clip: float, noise_multiplier: float, rng: Rng) -> Vector:
    """Return a sum of vectors of length at most `clip`, with Gaussian noise of `noise_multiplier` times the clip.

    Parameters
    ----------
    total : ndarray of float64, shape (size,)
    clip : float
    noise_multiplier : float
        Standard deviation of a coordinate's noise over the sensitivity.
    rng : Rng
        Secret.
    """
    from vfl.crypto.discrete_gaussian import sample

    if not (0 < clip < math.inf and 0 < noise_multiplier < math.inf):
        raise InvalidData("clip and noise multiplier are positive and finite")
    grid = noise_multiplier * clip / (1 << GRID_BITS)
    sigma = math.ceil((1 << GRID_BITS) + noise_multiplier * math.sqrt(total.size))
    noise = sample(rng, sigma, total.size).astype(np.float64)
    return np.asarray((np.rint(total / grid) + noise) * grid, dtype=np.float64)


@dataclass
class PrivacyLedger:
    """Everything that a training has told about its clients, and what it costs together.

    Attributes
    ----------
    gaussian : list of float
        Noise multipliers of the sums so far.
    trees : list of tuple of (float, int, int)
        Of each tree the noise multiplier, its steps so far, and the most steps a client is in.
    records : dict of str to list of tuple of (float, float, int)
        What each client's own training has told about its single records: see :class:`.records.RecordPrivacy`.
    """

    gaussian: list[float] = field(default_factory=list)
    trees: list[tuple[float, int, int]] = field(default_factory=list)
    records: dict[str, list[RecordCost]] = field(default_factory=dict)

    def charge(self, name: str, cost: RecordCost) -> None:
        """Note noisy steps of a client."""
        spent = self.records.setdefault(name, [])
        if spent and spent[-1][:2] == cost[:2]:
            cost = (*cost[:2], cost[2] + spent.pop()[2])
        spent.append(cost)

    def record_epsilon(self, name: str, delta: float) -> float:
        """Return epsilon at delta of the single records of a client, by Opacus' Renyi accountant.

        Raises
        ------
        ConfigError
            If Opacus is not installed.
        """
        if not 0 < delta < 1:
            raise InvalidData(f"delta lies between 0 and 1, not at {delta}")
        return _record_epsilon(tuple(self.records.get(name, ())), delta)

    def event(self) -> Any:
        """Return dp-accounting's event of all of it."""
        dp = accounting()
        events = [
            dp.SelfComposedDpEvent(dp.GaussianDpEvent(z), self.gaussian.count(z)) for z in set(self.gaussian)
        ]
        # a client that is in m sums is m times as far from one that is in none: a single one under 1/m of the noise
        events += [
            dp.SingleEpochTreeAggregationDpEvent(z / most, [steps]) for z, steps, most in self.trees if steps
        ]
        return dp.ComposedDpEvent(events)

    def epsilon(self, delta: float) -> float:
        """Return epsilon at delta, by dp-accounting's Renyi accountant.

        Raises
        ------
        ConfigError
            If dp-accounting is not installed.
        """
        if not 0 < delta < 1:
            raise InvalidData(f"delta lies between 0 and 1, not at {delta}")
        if not self.gaussian and not self.trees:
            return 0.0
        dp = accounting()
        accountant = dp.rdp.RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_SPECIAL)
        accountant.compose(self.event())
        return float(accountant.get_epsilon(delta))


@functools.lru_cache(maxsize=1 << 14)
def _record_epsilon(costs: tuple[RecordCost, ...], delta: float) -> float:
    if not costs:
        return 0.0
    accountant = load_opacus("accountants").RDPAccountant()
    accountant.history = list(costs)
    return float(accountant.get_epsilon(delta))


@dataclass(frozen=True)
class AdaptiveClip:
    """A clip that follows a quantile of the updates' lengths.

    Parameters
    ----------
    quantile : float
        The paper's gamma: the part of updates that should be no longer than the clip.
    rate : float
        The paper's eta: C <- C exp(-eta (b - gamma)).
    count_noise : float
        sigma_b, the standard deviation of the noise on the number of updates within the clip.
    """

    quantile: float = 0.5
    rate: float = 0.2
    count_noise: float = 5.0

    def __post_init__(self) -> None:
        if not (0 < self.quantile < 1 and self.rate > 0 and self.count_noise > 0):
            raise InvalidData("quantile lies between 0 and 1; rate and count_noise are positive")

    def multiplier(self, noise_multiplier: float) -> float:
        """Return the noise multiplier on the sum with which sum and count together cost that of `noise_multiplier`.

        (z^-2 - (2 sigma_b)^-2)^(-1/2): the count is of numbers 0 and 1 less 1/2, whose sensitivity is 1/2.
        """
        left = noise_multiplier**-2 - (2 * self.count_noise) ** -2
        if left <= 0:
            raise InvalidData(
                f"count_noise {self.count_noise:g} leaves nothing of noise multiplier {noise_multiplier:g}; it has to "
                f"exceed {noise_multiplier / 2:g}"
            )
        return float(left**-0.5)

    def next(self, clip: float, within: int, count: int, asked: int, rng: Rng) -> float:
        """Return the clip of the next round.

        Parameters
        ----------
        clip : float
        within, count : int
            Updates no longer than the clip, and all updates.
        asked : int
            Clients that were asked.
        rng : Rng
        """
        centred = noisy(np.array([within - count / 2]), 0.5, 2 * self.count_noise, rng)[0]
        return clip * math.exp(-self.rate * (centred / asked + 0.5 - self.quantile))


@dataclass(frozen=True)
class Central:
    """Gaussian noise on every round's sum.

    Parameters
    ----------
    clip : float
        Largest length of a client's update, or the first one if it adapts.
    noise_multiplier : float
        Of a round: with an adaptive clip that of sum and count together.
    delta : float
    adaptive : AdaptiveClip, optional
    """

    clip: float
    noise_multiplier: float
    delta: float
    adaptive: AdaptiveClip | None = None

    @property
    def needs(self) -> Needs:
        """With a fixed clip a sum is enough; counting lengths takes another, which the loop does not make."""
        return Needs.SUM if self.adaptive is None else Needs.CLEAR

    def start(self, size: int) -> "CentralNoise":
        """Return what a training carries along."""
        return CentralNoise(self, self.clip, SystemRng())


@dataclass
class CentralNoise:
    """A training under :class:`Central`: its clip and its secret generator."""

    rule: Central
    clip: float
    rng: Rng

    def total(self, updates: Matrix, asked: int, ledger: PrivacyLedger) -> Vector:
        """Return the noisy sum of clipped updates; the ledger is charged before noise is drawn."""
        ledger.gaussian.append(self.rule.noise_multiplier)
        lengths = np.linalg.norm(updates, axis=1)
        exact = np.sum([clipped(update, self.clip) for update in updates], axis=0)
        adaptive, multiplier = self.rule.adaptive, self.rule.noise_multiplier
        if adaptive is None:
            return noisy(exact, self.clip, multiplier, self.rng)
        total = noisy(exact, self.clip, adaptive.multiplier(multiplier), self.rng)
        within = int((lengths <= self.clip).sum())
        self.clip = adaptive.next(self.clip, within, len(updates), asked, self.rng)
        return total


class TreeNoise:
    """Noise of prefix sums: that of step t is the sum of the noises of the nodes that make up 1..t in a binary tree.

    Parameters
    ----------
    size : int
    clip, noise_multiplier : float
        Of each node.
    rng : Rng

    Notes
    -----
    After t steps as many nodes count as t has ones in binary, so the noise on the sum of T rounds grows with log T
    instead of the root of T.
    """

    def __init__(self, size: int, clip: float, noise_multiplier: float, rng: Rng) -> None:
        self._size, self._clip, self._noise, self._rng = size, clip, noise_multiplier, rng
        self.steps = 0
        self._nodes: dict[int, Vector] = {}  # by level, those on the way to the present prefix

    def next(self) -> Vector:
        """Return the noise of the next prefix, shape (size,)."""
        self.steps += 1
        level = (self.steps & -self.steps).bit_length() - 1
        for below in range(level):
            self._nodes.pop(below, None)
        self._nodes[level] = noisy(np.zeros(self._size), self._clip, self._noise, self._rng)
        return np.asarray(np.sum(list(self._nodes.values()), axis=0))


@dataclass(frozen=True)
class Tree:
    """DP-FTRL's tree noise on the sum of all rounds so far.

    Parameters
    ----------
    clip, noise_multiplier : float
        Of each node of the tree.
    delta : float
    most_rounds : int
        Rounds that a client is in at most; the loop refuses more. The fewer, the smaller epsilon.
    """

    clip: float
    noise_multiplier: float
    delta: float
    most_rounds: int

    @property
    def needs(self) -> Needs:
        """What the server has to see."""
        return Needs.SUM

    def start(self, size: int) -> "TreeTotals":
        """Return what a training carries along."""
        return TreeTotals(
            self, TreeNoise(size, self.clip, self.noise_multiplier, SystemRng()), np.zeros(size)
        )


@dataclass
class TreeTotals:
    """A training under :class:`Tree`."""

    rule: Tree
    noise: TreeNoise
    before: Vector

    def total(self, updates: Matrix, asked: int, ledger: PrivacyLedger) -> Vector:
        """Return the sum of clipped updates plus what the prefix's noise has changed by."""
        steps = self.noise.steps + 1
        ledger.trees[:] = [(self.rule.noise_multiplier, steps, self.rule.most_rounds)]
        exact = np.sum([clipped(update, self.rule.clip) for update in updates], axis=0)
        now = self.noise.next()
        change = now - self.before
        self.before = now
        return np.asarray(exact + change)

    def check(self, rounds: dict[str, int]) -> None:
        """Refuse clients that have been in as many rounds as the ledger counts on."""
        over = [name for name, count in rounds.items() if count > self.rule.most_rounds]
        if over:
            raise PolicyRefused(
                f"{len(over)} clients would be in more than most_rounds = {self.rule.most_rounds} rounds of the tree"
            )
