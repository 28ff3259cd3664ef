"""Who is whose neighbour: pairs that share a mask, and hold shares of each other's secrets.

Up to 64 clients everyone is everyone's neighbour (Bonawitz et al.). Above, clients stand on a ring in an order that
is pseudorandom in every round, and each has the k / 2 nearest on either side as neighbours: the Harary graph of Bell,
Bonawitz, Gascon, Lepoint and Raykova, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020
(eprint 2020/704), section 3.

**Choice of k and of the threshold t.** Let n be all clients, c those that collude with the aggregator, d those that
drop out. Bell et al. require of a random graph that (1) no honest client has t colluding neighbours, (2) the honest
survivors are connected, (3) every client has t surviving neighbours; for (2) they let the drop-outs be independent of
the graph. Here the aggregator may declare whom it likes dead after it has seen the graph, so (2) is had from the
threshold instead:

    t > k/2 + a,    a = most colluders on one side of an honest client.                                  (*)

Secrets of an honest survivor s come out only if t of its neighbours survive or collude: it reveals its own seed only
if it counts t survivors, and its neighbours hold t shares together only if that many answer. On its right side at most
k/2 of them stand. If no honest survivor stood there, at most the k/2 on its left and a colluders on its right were
left, fewer than t. So every honest survivor whose seed comes out has its next honest survivor within k/2 places to the
right, which is its neighbour. Following next after next around the ring, a set of survivors that is closed under
neighbourhood contains all of them: the honest survivors are connected whoever is declared dead. (1) follows too, since
at most k/2 + a colluders are neighbours at all.

(*) fails with probability at most 2 (n - c) P[H(n - 1, c, k/2) >= t - k/2], H the hypergeometric number of colluders
among k/2 of n - 1 places; t is the smallest for which that is below 2^-40. Then k is the smallest for which
n P[H(n - 1, n - 1 - d, k) < t] is below 2^-20: with drop-outs that do not depend on the graph, a round fails about
once in a million. For 10,000 clients, 5 % of which collude and 5 % drop out, k = 88; for 1,000 and 10 % each, k = 132.
Where k would be more than half of all, the graph stays complete: it survives more drop-outs at little more cost.

The order comes from the names of all clients, the session and the round: no party can try again by choosing other keys
or a smaller cohort, only by choosing other round numbers, which a client takes in ascending order and once each.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["GRAPH_ABOVE", "Graph"]

GRAPH_ABOVE = 64
PRIVACY_BITS = 40
CORRECTNESS_BITS = 20

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Graph:
    """The neighbours of every client in one round.

    Attributes
    ----------
    neighbours : ndarray of int64, shape (clients, degree)
        Numbers of each client's neighbours, ascending.
    threshold : int
        Shares that give a client's secret.
    """

    neighbours: NDArray[np.int64]
    threshold: int

    @property
    def degree(self) -> int:
        """Neighbours of each client."""
        return int(self.neighbours.shape[1])

    @staticmethod
    def parameters(clients: int, colluders: int, dropouts: int) -> tuple[int, int] | None:
        """Return degree and threshold of the ring, or None if the complete graph is the better one."""
        return _parameters(clients, colluders, dropouts)

    @classmethod
    def of_round(cls, clients: int, degree: int, threshold: int, seed: bytes) -> "Graph":
        """Return the graph that a seed gives."""
        if degree == clients - 1:
            everyone = np.arange(clients)
            rows = np.broadcast_to(everyone, (clients, clients))[~np.eye(clients, dtype=bool)]
            return cls(rows.reshape(clients, degree), threshold)
        order = _shuffled(clients, seed)
        half = degree // 2
        steps = np.r_[-half:0, 1 : half + 1]
        neighbours = np.empty((clients, degree), dtype=np.int64)
        neighbours[order] = order[(np.arange(clients)[:, None] + steps) % clients]
        return cls(np.sort(neighbours, axis=1), threshold)


def _shuffled(clients: int, seed: bytes) -> NDArray[np.int64]:
    """Return the order of distinct pseudorandom 128-bit keys."""
    keys = np.frombuffer(hashlib.shake_256(seed).digest(16 * clients), dtype="<u8").reshape(clients, 2)
    return np.lexsort((keys[:, 0], keys[:, 1])).astype(np.int64)


@lru_cache
def _parameters(clients: int, colluders: int, dropouts: int) -> tuple[int, int] | None:
    logs = np.concatenate([[0.0], np.cumsum(np.log2(np.arange(1, clients + 1)))])  # log2 of the factorials
    for degree in range(2, clients // 2 + 1, 2):
        threshold = _threshold(logs, clients, colluders, degree)
        failing = _log_hypergeometric(logs, clients - 1, clients - 1 - dropouts, degree)[:threshold]
        if threshold <= degree and math.log2(clients) + _log_sums(failing)[0] <= -CORRECTNESS_BITS:
            return degree, threshold
    return None


def _threshold(logs: Floats, clients: int, colluders: int, degree: int) -> int:
    """Return the smallest threshold under which (*) fails too rarely to matter."""
    half = degree // 2
    tails = _log_sums(_log_hypergeometric(logs, clients - 1, colluders, half))  # at least i colluders
    rare = tails + math.log2(2 * (clients - colluders)) <= -PRIVACY_BITS
    return half + (int(np.argmax(rare)) if rare.any() else half + 1)


def _log_hypergeometric(logs: Floats, total: int, marked: int, drawn: int) -> Floats:
    """Return log2 of the probabilities that 0, 1, ..., `drawn` of the drawn places are marked."""
    i = np.arange(drawn + 1)
    possible = (i <= marked) & (drawn - i <= total - marked)
    i = i[possible]
    chosen = logs[marked] - logs[i] - logs[marked - i]
    others = logs[total - marked] - logs[drawn - i] - logs[total - marked - drawn + i]
    result = np.full(drawn + 1, -np.inf)
    result[possible] = chosen + others - (logs[total] - logs[drawn] - logs[total - drawn])
    return result


def _log_sums(terms: Floats) -> Floats:
    """Return log2 of the sums of each term and all after it; terms and sums are given by their log2."""
    return np.logaddexp2.accumulate(terms[::-1])[::-1] if terms.size else np.array([-np.inf])
