"""What each client's data were worth, a record of it over rounds, and pay-outs from a budget.

A value function tells what a set of clients achieves together, for instance the accuracy on held-out rows of the mean
of their updates. Scores of single clients compare means with and without them, so they need updates in the clear, or
one secure sum for each set: two sums that differ in one client show that client's update, which is why the sets have
to be disjoint groups of three or more to compose with secure aggregation. Scores tell about data: who earns nothing
has, for instance, rows like everybody else's.

Sources: Shapley 1953; Castro, Gomez and Tejada, "Polynomial Calculation of the Shapley Value Based on Sampling",
2009; Ghorbani and Zou, "Data Shapley", ICML 2019 (truncated permutations); Wang et al., "A Principled Approach to Data
Valuation for Federated Learning", 2020. Josang and Ismail, "The Beta Reputation System", 2002.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vfl.errors import InvalidData

__all__ = ["Reputation", "Value", "leave_one_out", "payouts", "shapley"]

Value = Callable[[frozenset[str]], float]
"""What a set of clients achieves; the empty set included."""


def leave_one_out(clients: Sequence[str], value: Value) -> dict[str, float]:
    """Return for each client the value of all less the value of all others."""
    everybody = frozenset(clients)
    whole = value(everybody)
    return {name: whole - value(everybody - {name}) for name in clients}


def shapley(
    clients: Sequence[str],
    value: Value,
    permutations: int,
    rng: np.random.Generator,
    tolerance: float = 0.0,
) -> dict[str, float]:
    """Return the Shapley values, estimated over random orders in which the clients come.

    Each order and its reverse are used, which cancels part of the chance. The values add up to the value of all less
    that of none.

    Parameters
    ----------
    clients : sequence of str
    value : callable
        Called once for each set that occurs.
    permutations : int
        Random orders, each used in both directions.
    rng : numpy.random.Generator
    tolerance : float
        Once a prefix is so near to the value of all, the rest of the order gets nothing; 0 never truncates.
    """
    if permutations < 1 or tolerance < 0:
        raise InvalidData("Shapley sampling takes at least one permutation and no negative tolerance")
    known: dict[frozenset[str], float] = {}

    def worth(group: frozenset[str]) -> float:
        if group not in known:
            known[group] = value(group)
        return known[group]

    whole, sums = worth(frozenset(clients)), dict.fromkeys(clients, 0.0)
    for _ in range(permutations):
        order = [clients[i] for i in rng.permutation(len(clients))]
        for way in (order, order[::-1]):
            present, before = frozenset[str](), worth(frozenset())
            for name in way:
                if abs(whole - before) < tolerance:
                    break
                present |= {name}
                after = worth(present)
                sums[name] += after - before
                before = after
    return {name: total / (2 * permutations) for name, total in sums.items()}


@dataclass
class Reputation:
    """A record of good and bad rounds of each client, with forgetting: the mean of a beta distribution.

    Parameters
    ----------
    forgetting : float
        What is left of the past after each round, from 0 to 1.
    """

    forgetting: float = 0.95
    good: dict[str, float] = field(default_factory=dict)
    bad: dict[str, float] = field(default_factory=dict)

    def record(self, scores: Mapping[str, float]) -> None:
        """Note a round's contribution scores: positive ones speak for a client, others against it.

        The largest absolute score of the round counts as one.
        """
        if not all(math.isfinite(score) for score in scores.values()) or not 0 <= self.forgetting <= 1:
            raise InvalidData("scores are finite, and forgetting lies between 0 and 1")
        most = max((abs(score) for score in scores.values()), default=0.0) or 1.0
        for name, score in scores.items():
            for kept, part in ((self.good, score), (self.bad, -score)):
                kept[name] = self.forgetting * kept.get(name, 0.0) + max(0.0, part / most)

    def of(self, name: str) -> float:
        """Return a reputation between 0 and 1; 1/2 for a client without record."""
        good, bad = self.good.get(name, 0.0), self.bad.get(name, 0.0)
        return (good + 1.0) / (good + bad + 2.0)


def payouts(scores: Mapping[str, float], budget: int) -> dict[str, int]:
    """Return whole units of a budget in proportion to positive scores; they add up to the budget exactly.

    What is left by rounding down goes to the largest remainders. Without a positive score nobody is paid.
    """
    if budget < 0 or not all(math.isfinite(score) for score in scores.values()):
        raise InvalidData("a budget is not negative, and scores are finite")
    positive = {name: max(0.0, score) for name, score in scores.items()}
    total = sum(positive.values())
    if total == 0.0:
        return dict.fromkeys(scores, 0)
    exact = {name: budget * score / total for name, score in positive.items()}
    paid = {name: math.floor(amount) for name, amount in exact.items()}
    order = sorted(exact, key=lambda name: (paid[name] - exact[name], name))
    for name in order[: budget - sum(paid.values())]:
        paid[name] += 1
    return paid
