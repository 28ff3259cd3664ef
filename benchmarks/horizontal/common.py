"""What the experiments share: digits over ten clients, the model, spreads, and what it took to reach an accuracy."""

import statistics
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from vfl.horizontal.history import Federation
from vfl.horizontal.models import adapted
from vfl.horizontal.optimisation import Local
from vfl.horizontal.partitioning import dealt, dirichlet, iid
from vfl.horizontal.vectors import Rows, generator

__all__ = ["LOCAL", "MODEL", "TARGET", "Figures", "Reached", "digits", "last", "points", "spread"]

Figures = dict[str, Any]
TARGET = 0.9
MODEL = adapted(LogisticRegression(), 64, range(10))
LOCAL = Local(steps=50, rate=0.3, batch=32)


def digits(seed: int, alpha: float | None, clients: int = 10) -> tuple[dict[str, Rows], Rows]:
    """Return clients and 400 rows held out; alpha None deals rows out at random."""
    data = load_digits()
    X, y = data.data / 16.0, data.target
    order = generator(seed, 99).permutation(len(X))
    held, rest = order[:400], order[400:]
    parts = iid(len(rest), clients, seed) if alpha is None else dirichlet(y[rest], clients, alpha, seed)
    return dealt(X[rest], y[rest], parts), Rows(X[held], y[held])


def last(found: Federation, rounds: int = 5) -> float:
    """Return the mean accuracy of the last rounds: single ones swing under skew."""
    return float(np.mean([record.accuracy for record in found.history[-rounds:]]))


def spread(values: Iterable[float]) -> Figures:
    """Return median, least and largest."""
    each = list(values)
    return {"median": statistics.median(each), "least": min(each), "most": max(each), "each": each}


def points(values: Iterable[float]) -> Figures:
    """Return differences in points."""
    return spread(round(100 * value, 2) for value in values)


class Reached:
    """Rounds and bytes to an accuracy, by method and seed; a run that does not get there counts one round more."""

    def __init__(self, target: float) -> None:
        self.target = target
        self.rounds: dict[str, list[float]] = {}
        self.up: dict[str, list[float]] = {}
        self.down: dict[str, list[float]] = {}

    def add(self, name: str, found: Federation) -> None:
        """Note a run."""
        number = found.rounds_to(self.target) or len(found.history) + 1
        record = found.history[min(number, len(found.history)) - 1]
        more = number / record.number  # above 1 for a run that did not get there
        for kept, value in (
            (self.rounds, number),
            (self.up, record.up * more),
            (self.down, record.down * more),
        ):
            kept.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        """Return the median number of rounds of a method."""
        return statistics.median(self.rounds[name])

    def figures(self) -> Figures:
        """Return everything under plain names."""
        named = {"rounds": self.rounds, "bytes_up": self.up, "bytes_down": self.down}
        return {
            f"{kind}_to_target": {name: spread(values) for name, values in found.items()}
            for kind, found in named.items()
        }
