"""The tables of the benchmarks: two parties' columns in the same order of rows, labels, and which rows are held out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, roc_auc_score

__all__ = ["SETS", "Tables", "load"]

Floats = NDArray[np.float64]
SETS = ["default_credit", "vehicle", "digits"]


@dataclass(frozen=True)
class Tables:
    """Columns of both parties, labels from 0 on, and which rows are held out: identifiers divisible by 5."""

    guest: Floats
    host: Floats
    y: NDArray[np.int64]
    test: NDArray[np.bool_]

    @property
    def pooled(self) -> Floats:
        """All columns."""
        return np.hstack([self.guest, self.host])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.y.max()) + 1

    @property
    def figure(self) -> str:
        """What is measured: `auc` of two classes, `accuracy` of more."""
        return "auc" if self.classes == 2 else "accuracy"

    def measure(self, probabilities: Floats) -> float:
        """Return the figure for probabilities of the held-out rows, shape (rows, classes)."""
        y = self.y[self.test]
        if self.classes == 2:
            return float(roc_auc_score(y, probabilities[:, 1]))
        return float(accuracy_score(y, probabilities.argmax(axis=1)))


def load(folder: Path, name: str) -> Tables:
    """Read a set.

    Parameters
    ----------
    folder : Path
        With guest.csv and host.csv; not read for the digits.
    name : str
        "digits", or any other name for the tables of the folder.
    """
    if name == "digits":
        images, y = load_digits(return_X_y=True)
        images = images.reshape(-1, 8, 8)
        halves = images[:, :, :4].reshape(len(y), -1), images[:, :, 4:].reshape(len(y), -1)
        return Tables(*halves, y.astype(np.int64), np.arange(len(y)) % 5 == 0)
    guest, host = (pl.read_csv(folder / f"{role}.csv") for role in ("guest", "host"))
    joined = guest.join(host, on="id", suffix="_host").sort("id")
    width = guest.width - 2
    values = joined.drop("id", "y").to_numpy().astype(np.float64)
    y = np.unique(joined["y"].to_numpy(), return_inverse=True)[1].astype(np.int64)
    return Tables(values[:, :width], values[:, width:], y, joined["id"].to_numpy() % 5 == 0)
