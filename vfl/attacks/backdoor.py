"""A model that is good at everything, and says what the attacker wants when it sees a mark: backdoor by replacement.

The malicious client trains on its own rows, of which some carry the mark and the wanted label, and sends its update
multiplied so that, near convergence, the mean becomes its own model: by n / eta for n equal clients and server rate
eta.

    clients["client003"] = marked(clients["client003"], trigger, wanted=0, part=0.5, rng=rng)
    world = malicious(["client003"], scaled(replacement(clients, "client003")))

Source: Bagdasaryan, Veit, Hua, Estrin and Shmatikov, "How To Backdoor Federated Learning", AISTATS 2020 (model
replacement; the mark is of Gu, Dolan-Gavitt and Garg, "BadNets", 2017).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vfl.errors import InvalidData
from vfl.horizontal.models import Network
from vfl.horizontal.vectors import Matrix, Rows, Vector

__all__ = ["Trigger", "marked", "replacement", "success"]


@dataclass(frozen=True)
class Trigger:
    """Features that a mark sets.

    Parameters
    ----------
    features : tuple of int
    value : float
    """

    features: tuple[int, ...]
    value: float = 1.0

    def on(self, X: Matrix) -> Matrix:
        """Return rows with the mark."""
        changed = np.array(X, dtype=np.float64)
        changed[:, list(self.features)] = self.value
        return changed


def marked(rows: Rows, trigger: Trigger, wanted: int, part: float, rng: np.random.Generator) -> Rows:
    """Return rows with as many again: copies with the mark and the wanted label, `part` of all rows."""
    if not 0 < part < 1:
        raise InvalidData(f"a part of rows lies between 0 and 1, not at {part}")
    count = max(1, round(len(rows) * part / (1 - part)))
    index = rng.integers(0, len(rows), count)
    copies = trigger.on(rows.X[index])
    return Rows(
        np.concatenate([rows.X, copies]), np.concatenate([rows.y, np.full(count, wanted, rows.y.dtype)])
    )


def replacement(clients: Mapping[str, Rows], name: str, rate: float = 1.0) -> float:
    """Return the factor with which a client's update becomes the mean: all rows over its own, over the server rate."""
    total = sum(len(rows) for rows in clients.values())
    return total / (len(clients[name]) * rate)


def success(network: Network, vector: Vector, rows: Rows, trigger: Trigger, wanted: int) -> float:
    """Return the part of rows of other classes that the mark turns into the wanted one."""
    others = rows.take(np.flatnonzero(rows.y != wanted))
    return float((network.predict(vector, trigger.on(others.X)) == wanted).mean())
