"""What a training leaves behind: the model, a line for every round, and a checkpoint from which it goes on."""

import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vfl.errors import ConfigError
from vfl.horizontal.models import Model
from vfl.horizontal.optimisation import ServerState
from vfl.horizontal.privacy import PrivacyLedger
from vfl.horizontal.vectors import Vector
from vfl.model import write_private

__all__ = ["Federation", "RoundRecord", "State"]


@dataclass(frozen=True)
class RoundRecord:
    """One round.

    Attributes
    ----------
    number : int
        From 1.
    seconds : float
        Since the start, in the devices' virtual time; measured time where clients are processes.
    up, down : int
        Bytes that all clients sent and received since the start.
    took_part : tuple of str
        Whose updates are in the model.
    lost : tuple of str
        Asked, but away, lost or too late.
    accuracy : float or None
        On the rows held out by the caller.
    epsilon : float or None
        Spent since the start, if the training hides whether a client took part.
    record_epsilon : dict of str to float
        Spent since the start by each client that trained in this round, if its training hides single records: another
        promise than that of `epsilon`, see :mod:`.records`.
    """

    number: int
    seconds: float
    up: int
    down: int
    took_part: tuple[str, ...]
    lost: tuple[str, ...]
    accuracy: float | None = None
    epsilon: float | None = None
    record_epsilon: dict[str, float] = field(default_factory=dict)


@dataclass
class State:
    """Everything that a training carries from round to round.

    Attributes
    ----------
    server : ServerState
    controls, memories, histories : dict of str to ndarray
        Of clients: SCAFFOLD's control variates, what codecs left out, FoolsGold's sums.
    counts : dict of str to int
        Rounds that each client has been in.
    ledger : PrivacyLedger
    records : list of RoundRecord
    """

    server: ServerState
    controls: dict[str, Vector] = field(default_factory=dict)
    memories: dict[str, Vector] = field(default_factory=dict)
    histories: dict[str, Vector] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    ledger: PrivacyLedger = field(default_factory=PrivacyLedger)
    records: list[RoundRecord] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return self.records[-1].seconds if self.records else 0.0

    @property
    def up(self) -> int:
        """Bytes sent by clients since the start."""
        return self.records[-1].up if self.records else 0

    @property
    def down(self) -> int:
        """Bytes received by clients since the start."""
        return self.records[-1].down if self.records else 0

    def save(self, path: Path, plan: str) -> None:
        """Write everything into one file of mode 0600, whole or not at all.

        Parameters
        ----------
        path : Path
        plan : str
            Digest of the call: another call does not go on from here.
        """
        arrays: dict[str, Any] = {f"server/{name}": value for name, value in vars(self.server).items()}
        for kind in ("controls", "memories", "histories"):
            arrays |= {f"{kind}/{name}": value for name, value in getattr(self, kind).items()}
        told = {
            "plan": plan,
            "counts": self.counts,
            "ledger": asdict(self.ledger),
            "records": [asdict(record) for record in self.records],
        }
        arrays["facts"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        write_private(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path, plan: str) -> "State":
        """Read what :meth:`save` wrote.

        Raises
        ------
        ConfigError
            If the file is damaged, or is of another call.
        """
        try:
            with np.load(path, allow_pickle=False) as kept:
                arrays = {name: kept[name] for name in kept.files}
            told = json.loads(arrays.pop("facts").tobytes())
            parts: dict[str, dict[str, Vector]] = {
                k: {} for k in ("server", "controls", "memories", "histories")
            }
            for name, value in arrays.items():
                kind, _, client = name.partition("/")
                parts[kind][client] = value
            server = ServerState(**parts.pop("server"))
            lists = ("took_part", "lost")
            records = [
                RoundRecord(**record | {name: tuple(record[name]) for name in lists})
                for record in told["records"]
            ]
            trees = [(float(z), int(steps), int(most)) for z, steps, most in told["ledger"]["trees"]]
            spent = {
                name: [(float(z), float(chance), int(steps)) for z, chance, steps in costs]
                for name, costs in told["ledger"]["records"].items()
            }
            ledger = PrivacyLedger(told["ledger"]["gaussian"], trees, spent)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path} is no checkpoint that can be read: {type(error).__name__}; remove it"
            ) from None
        if told["plan"] != plan:
            raise ConfigError(f"{path} is the checkpoint of another call; name another file or remove it")
        return cls(server, **parts, counts=told["counts"], ledger=ledger, records=records)


@dataclass(frozen=True, eq=False)
class Federation:
    """What :func:`vfl.federate` returns.

    Attributes
    ----------
    model : Model
    vector : ndarray of float64, shape (size,)
        The common model.
    history : list of RoundRecord
    delta : float or None
        At which the history's epsilon holds.
    ledger : PrivacyLedger
        Everything that the training has told, of clients and of their single records.
    """

    model: Model
    vector: Vector
    history: list[RoundRecord]
    delta: float | None = None
    ledger: PrivacyLedger = field(default_factory=PrivacyLedger)

    @property
    def estimator(self) -> Any:
        """The common model as a fitted estimator of scikit-learn, or as a trained module of PyTorch.

        Raises
        ------
        ConfigError
            If it was made from neither.
        """
        make = getattr(self.model, "estimator", None)
        if make is None:
            raise ConfigError("this model is none of scikit-learn or PyTorch")
        return make(self.vector)

    def rounds_to(self, accuracy: float) -> int | None:
        """Return the first round that reached an accuracy, None if none did."""
        reached = (r.number for r in self.history if r.accuracy is not None and r.accuracy >= accuracy)
        return next(reached, None)
