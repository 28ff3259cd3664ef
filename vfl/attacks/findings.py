"""What an attack has reached, and what the one who tries it knows beside the transcript."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vfl.errors import ConfigError, InvalidData
from vfl.horizontal.vectors import Rows

__all__ = ["Finding", "Known", "Verdict", "judged"]

Verdict = Literal["succeeds", "partly", "fails", "open", "nothing"]
"""`open`: it gave something whose worth only the true rows show. `nothing`: there was no message for it."""


@dataclass(frozen=True)
class Finding:
    """One attack on one message or on the whole transcript.

    Attributes
    ----------
    attack, target : str
    measure : str
        What `reached` and `chance` count.
    reached, chance : float or None
        `chance` is what somebody without the transcript gets.
    verdict : Verdict
    note : str
    """

    attack: str
    target: str
    measure: str
    reached: float | None
    chance: float | None
    verdict: Verdict
    note: str = ""

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def judged(reached: float, succeeds_from: float, fails_up_to: float) -> Verdict:
    """Return the verdict on a figure that is better for the attacker the larger it is."""
    return "succeeds" if reached >= succeeds_from else "fails" if reached <= fails_up_to else "partly"


@dataclass(frozen=True, eq=False)
class Known:
    """The truth to compare with, which an auditor has and an attacker has not.

    Parameters
    ----------
    X : ndarray of float64, shape (rows, features), optional
    y : ndarray, shape (rows,), optional
    owner : ndarray of str, shape (rows,), optional
        The client that trained on each row; "" for rows that nobody trained on.
    host : ndarray of float64, shape (rows, columns), optional
        The host's columns, in the order of training.
    matrix, gradient, labels : ndarray of float64, optional
        At a host: its matrix of a batch, the opened gradient without its mask, and the true labels.
    """

    X: NDArray[np.float64] | None = None
    y: NDArray[Any] | None = None
    owner: NDArray[Any] | None = None
    host: NDArray[np.float64] | None = None
    matrix: NDArray[np.float64] | None = None
    gradient: NDArray[np.float64] | None = None
    labels: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        own = (self.X, self.y, self.owner)
        if any(part is None for part in own) and any(part is not None for part in own):
            raise InvalidData("known rows take all three of X, y and owner")
        if self.X is not None and (self.X.ndim != 2 or {len(self.X)} != {len(part) for part in own}):  # type: ignore[arg-type]
            raise InvalidData("known rows take as many labels and owners as rows")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Known":
        """Read an NPZ file with some of these arrays, without pickles.

        Raises
        ------
        ConfigError
            If it is no such file.
        """
        try:
            with np.load(Path(path), allow_pickle=False) as kept:
                arrays = {name: kept[name] for name in kept.files}
            unknown = sorted(set(arrays) - set(cls.__dataclass_fields__))
            if unknown:
                raise ConfigError(f"{path}: no attack knows what {', '.join(unknown)} is")
            numbers = ("X", "host", "matrix", "gradient")
            return cls(**{n: a.astype(np.float64) if n in numbers else a for n, a in arrays.items()})
        except (OSError, ValueError, TypeError, EOFError, InvalidData) as error:
            raise ConfigError(f"{path}: is no file of known rows ({error})") from None

    @property
    def box(self) -> tuple[float, float] | None:
        """Range of the known rows' features."""
        return None if self.X is None else (float(self.X.min()), float(self.X.max()))

    def rows_of(self, owner: str | None) -> Rows | None:
        """Return the rows of a client, of nobody for "", or of all clients for None; None if there are none."""
        if self.X is None or self.y is None or self.owner is None:
            return None
        which = np.flatnonzero(self.owner != "" if owner is None else self.owner == owner)
        return Rows(self.X[which], self.y[which]) if len(which) else None
