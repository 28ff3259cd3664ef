"""How the updates of a round become one: a plain mean, a robust one, a secure one, a robust one of secure sums.

Mean()                                       weighted by rows; the server sees every update
Robust(functools.partial(krum, byzantine=1)) any rule of :mod:`.robustness`; the server sees every update
Trusted(rows)                                FLTrust with rows of the server's own
Distinct()                                   FoolsGold
Secure(bound=10.0)                           the mean, weighted; the server sees the sum
SecureGroups(count=3)                        a rule of the means of groups; the server sees the sums of groups
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from vfl.crypto.fixedpoint import FixedPoint
from vfl.crypto.rng import SystemRng
from vfl.crypto.weighted import WeightedEncoding
from vfl.horizontal.cohort import SimulatedCohort, Traffic
from vfl.horizontal.composing import Needs
from vfl.horizontal.robustness import fltrust, foolsgold, groups
from vfl.horizontal.vectors import Matrix, Rows, Vector, weighted_mean
from vfl.privacy import ClientPrivacy

__all__ = [
    "Aggregation",
    "Combined",
    "Distinct",
    "Gathered",
    "Mean",
    "Robust",
    "Secure",
    "SecureGroups",
    "Trusted",
]

Rule = Callable[[Matrix], Vector]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Gathered:
    """What a round brought.

    Attributes
    ----------
    names : list of str
        Of the clients whose updates are here.
    updates : ndarray of float64, shape (clients, size)
    weights : ndarray of float64, shape (clients,)
        Rows of each.
    lost : set of str
        Those that would be lost while their vector is on its way.
    model : bytes
        What updates start from.
    histories : mapping of str to ndarray
        Sums of each client's updates so far, this one included; only for :class:`Distinct`.
    reference : ndarray or None
        The server's own update; only for :class:`Trusted`.
    rng : numpy.random.Generator
    cohort : SimulatedCohort
    privacy : ClientPrivacy or None
        With :class:`Secure`: clients clip and add noise, and count alike.
    """

    names: list[str]
    updates: Matrix
    weights: Vector
    lost: set[str]
    model: bytes
    histories: Mapping[str, Vector]
    reference: Vector | None
    rng: np.random.Generator
    cohort: SimulatedCohort
    privacy: ClientPrivacy | None = None

    def arrived(self) -> "tuple[list[str], Matrix, Vector]":
        """Return names, updates and weights without the lost ones."""
        kept = [i for i, name in enumerate(self.names) if name not in self.lost]
        return [self.names[i] for i in kept], self.updates[kept], self.weights[kept]


@dataclass(frozen=True, eq=False)
class Combined:
    """One update for all.

    Attributes
    ----------
    mean : ndarray of float64, shape (size,)
    names : list of str
        Whose updates are in it, or were looked at.
    traffic : Traffic
        Bytes of secure aggregation; empty where updates travel as they are.
    """

    mean: Vector
    names: list[str]
    traffic: Traffic = field(default_factory=Traffic)


@dataclass(frozen=True)
class Aggregation:
    """A way to combine; this one is the weighted mean of updates that the server sees."""

    @property
    def secure(self) -> bool:
        """Whether updates are hidden from the server."""
        return False

    @property
    def needs(self) -> Needs:
        """What the server has to see."""
        return Needs.SUM

    def combine(self, gathered: Gathered) -> Combined:
        """Return the round's one update."""
        names, updates, weights = gathered.arrived()
        return Combined(weighted_mean(updates, weights), names)


@dataclass(frozen=True)
class Mean(Aggregation):
    """The mean, weighted by rows."""


@dataclass(frozen=True)
class Robust(Aggregation):
    """A rule of :mod:`.robustness`; every client counts alike, whatever rows it claims to have."""

    rule: Rule

    @property
    def needs(self) -> Needs:
        """Updates are compared."""
        return Needs.CLEAR

    def combine(self, gathered: Gathered) -> Combined:
        """Return the rule's update."""
        names, updates, _ = gathered.arrived()
        return Combined(self.rule(updates), names)


@dataclass(frozen=True, eq=False)
class Trusted(Aggregation):
    """FLTrust with rows of the server's own."""

    rows: Rows

    @property
    def needs(self) -> Needs:
        """Updates are compared with the server's."""
        return Needs.CLEAR

    def combine(self, gathered: Gathered) -> Combined:
        """Return FLTrust's update."""
        names, updates, _ = gathered.arrived()
        reference = np.zeros(updates.shape[1]) if gathered.reference is None else gathered.reference
        return Combined(fltrust(updates, reference), names)


@dataclass(frozen=True)
class Distinct(Aggregation):
    """FoolsGold: the mean with weights from the clients' histories."""

    @property
    def needs(self) -> Needs:
        """Histories are compared."""
        return Needs.CLEAR

    def combine(self, gathered: Gathered) -> Combined:
        """Return FoolsGold's update; zero if every client looks like another."""
        names, updates, _ = gathered.arrived()
        trust = foolsgold(np.stack([gathered.histories[name] for name in names]))
        mean = weighted_mean(updates, trust) if trust.any() else np.zeros(updates.shape[1])
        return Combined(mean, names)


@dataclass(frozen=True)
class Secure(Aggregation):
    """Secure aggregation, :mod:`vfl.protocols.secagg`.

    Parameters
    ----------
    bound : float
        Largest absolute value of a number of an update; larger ones are cut off, also those of malicious clients: there
        is no residue for them.
    fraction_bits : int
        Of a number times its weight over `largest_weight`.
    largest_weight : int
        Most rows of a client that count.
    colluders : int
        See :class:`vfl.protocols.secagg.policy.Policy`.
    """

    bound: float = 10.0
    fraction_bits: int = 32
    largest_weight: int = 1 << 16
    colluders: int = -1

    @property
    def secure(self) -> bool:
        """Whether updates are hidden from the server: yes."""
        return True

    def encoding(self, parties: int) -> WeightedEncoding:
        """Return how updates of so many clients become residues."""
        return WeightedEncoding(FixedPoint(self.fraction_bits, self.bound), parties, self.largest_weight)

    def combine(self, gathered: Gathered) -> Combined:
        """Return the mean that one secure round gives."""
        traffic = Traffic()
        mean, names = self.mean_of(list(range(len(gathered.names))), gathered, traffic)
        return Combined(mean, names, traffic)

    def mean_of(self, which: list[int], gathered: Gathered, traffic: Traffic) -> tuple[Vector, list[str]]:
        """Return the weighted mean of some clients by a secure round, and who is in it."""
        if gathered.privacy is not None:
            return _private_mean(gathered.privacy, self.colluders, which, gathered, traffic)
        encoding = self.encoding(len(which))
        words = {
            gathered.names[i]: encoding.encode(
                np.clip(np.nan_to_num(gathered.updates[i]), -self.bound, self.bound),
                min(self.largest_weight, max(1, int(gathered.weights[i]))),
            )
            for i in which
        }
        call = f"horizontal, bound {self.bound!r}, {self.fraction_bits} fraction bits, {len(which)} clients"
        lost = gathered.lost & set(words)
        total, names = gathered.cohort.total(words, encoding.bits, call, gathered.model, lost, traffic)
        vector, weight = encoding.decode(total)
        return vector / weight, list(names)


def _private_mean(
    privacy: ClientPrivacy, colluders: int, which: list[int], gathered: Gathered, traffic: Traffic
) -> tuple[Vector, list[str]]:
    names = [gathered.names[i] for i in which]
    encoding = privacy.encoding(gathered.cohort.policy(sorted(names)), gathered.updates.shape[1])
    call = f"horizontal, clip {privacy.clip!r}, noise {privacy.noise_multiplier!r}, colluders {colluders}"
    signs, rng = call.encode() + gathered.model[:32], SystemRng()
    words = {
        name: encoding.encode(gathered.updates[i], signs, rng) for i, name in zip(which, names, strict=True)
    }
    privacy.spend(encoding)
    lost = gathered.lost & set(words)
    total, kept = gathered.cohort.total(words, encoding.bits, call, gathered.model, lost, traffic)
    return encoding.decode(total, signs) / len(kept), list(kept)


@dataclass(frozen=True)
class SecureGroups(Secure):
    """A robust rule of the means of random groups, each of which is a secure round.

    Parameters
    ----------
    count : int
        Groups; each has at least three clients. A client that is lost counts in no group.
    rule : callable, optional
        Of :mod:`.robustness`, by default the geometric median, as in its source; holds against f bad clients if it
        holds against f bad rows among `count`.
    """

    count: int = 3
    rule: Rule | None = None

    @property
    def needs(self) -> Needs:
        """Groups are compared."""
        return Needs.GROUPS

    def combine(self, gathered: Gathered) -> Combined:
        """Return the rule's update of the groups' means."""
        from vfl.horizontal.robustness import geometric_median

        traffic, means, everybody = Traffic(), [], []
        for group in groups(self.count, len(gathered.names), gathered.rng):
            mean, names = self.mean_of(group.tolist(), gathered, traffic)
            means.append(mean)
            everybody += names
        rule = geometric_median if self.rule is None else self.rule
        return Combined(rule(np.stack(means)), sorted(everybody), traffic)
