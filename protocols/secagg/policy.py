"""What a client insists on: who may take part, how many may collude, what is summed.

Every party of a round holds the same :class:`Policy` and :class:`Task`, from its own configuration. The aggregator's
are compared and never adopted, and their digest is bound into every key, mask and signature of the round.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from vfl.crypto.agreement import digest
from vfl.crypto.masking import LARGEST_BITS
from vfl.crypto.signatures import fingerprint
from vfl.errors import ConfigError
from vfl.protocols.secagg.graph import GRAPH_ABOVE, Graph

__all__ = ["FEWEST", "Policy", "Task"]

FEWEST = 3
"""Clients of the smallest round: of a sum of two, each knows the other's part."""

LARGEST_COHORT = 1 << 14


@dataclass(frozen=True)
class Policy:
    """Who aggregates with whom, and against how many.

    Parameters
    ----------
    clients : mapping of str to bytes
        Names and pinned identity keys (SubjectPublicKeyInfo, DER) of all that may take part; 3 to 16,384.
    colluders : int
        Most clients that may work together with the aggregator. By default all but two thirds: the largest number
        below a third.
    dropouts : int
        Most clients that are expected to be missing or lost, in a round of more than 64: it decides how many
        neighbours each has. By default a tenth.
    minimum : int
        Fewest clients whose vectors may be summed. By default, and never less than, `quorum` and 3.

    Raises
    ------
    ConfigError
        If there are too few clients, a key appears twice, or the numbers contradict each other.
    """

    clients: Mapping[str, bytes]
    colluders: int = -1
    dropouts: int = -1
    minimum: int = 0

    def __post_init__(self) -> None:
        count = len(self.clients)
        if not FEWEST <= count <= LARGEST_COHORT:
            raise ConfigError(
                f"secure aggregation takes {FEWEST} to {LARGEST_COHORT:,} clients, not {count}: of a sum of two "
                "each knows the other's part"
            )
        if len(set(self.clients.values())) != count:
            raise ConfigError("two clients have the same identity key")
        object.__setattr__(self, "clients", MappingProxyType(dict(sorted(self.clients.items()))))
        if self.colluders == -1:
            object.__setattr__(self, "colluders", (count + 2) // 3 - 1)
        if self.dropouts == -1:
            object.__setattr__(self, "dropouts", count // 10)
        if not 0 <= self.colluders <= count - FEWEST or not 0 <= self.dropouts < count:
            raise ConfigError(
                f"of {count} clients at most {count - FEWEST} may collude and {count - 1} drop out, not "
                f"{self.colluders} and {self.dropouts}"
            )
        object.__setattr__(self, "minimum", max(self.minimum, self.quorum, FEWEST))
        if self.minimum > count:
            raise ConfigError(f"{count} clients cannot reach a minimum of {self.minimum}")

    @property
    def quorum(self) -> int:
        """Clients that must sign one set of survivors.

        Two sets would need 2 quorum signatures, but there are at most n + colluders: honest clients sign once.
        """
        return (len(self.clients) + self.colluders) // 2 + 1

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All clients, sorted: a client's number is its place here."""
        return tuple(self.clients)

    @cached_property
    def keys(self) -> tuple[bytes, ...]:
        """Their identity keys, in the same order."""
        return tuple(self.clients.values())

    @cached_property
    def degree(self) -> tuple[int, int]:
        """How many neighbours each client has, and how many shares give a secret."""
        count = len(self.clients)
        found = Graph.parameters(count, self.colluders, self.dropouts) if count > GRAPH_ABOVE else None
        return found or (count - 1, self.quorum)

    def graph(self, task: "Task", number: int) -> Graph:
        """Return who is whose neighbour in a round: known to all, and to none before the policy was agreed."""
        neighbours, threshold = self.degree
        seed = digest("secagg graph", *(name.encode() for name in self.names), task.session, _number(number))
        return Graph.of_round(len(self.clients), neighbours, threshold, seed)

    def fields(self) -> dict[str, str]:
        """Return what the aggregator has to have too, for comparison by name."""
        people = digest(
            "secagg clients", *(part for n, k in self.clients.items() for part in (n.encode(), k))
        )
        return {
            "clients": f"{len(self.clients)}, {fingerprint(people)[:24]}",
            "colluders": str(self.colluders),
            "dropouts": str(self.dropouts),
            "minimum": str(self.minimum),
        }


@dataclass(frozen=True)
class Task:
    """What one session of rounds sums.

    Parameters
    ----------
    session : bytes
        Any name of the job that its clients agreed on; 1 to 255 bytes.
    model_hash : bytes
        32 bytes: what the vectors refer to. In training, the hash of the global model that the client has received,
        so that clients with different models make masks that do not cancel.
    dimension : int
        Residues of a vector.
    bits : int
        Bits of the modulus, 1 to 64.
    encoding : str
        How numbers become residues (fraction bits, clip, weights), in words: compared, not interpreted.
    """

    session: bytes
    model_hash: bytes
    dimension: int
    bits: int
    encoding: str = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.session) <= 255 or len(self.model_hash) != 32 or len(self.encoding) > 255:
            raise ConfigError("a task has a session of 1 to 255 bytes, a model hash of 32, a short encoding")
        if not (1 <= self.dimension < 1 << 31 and 1 <= self.bits <= LARGEST_BITS):
            raise ConfigError(f"{self.dimension} residues of {self.bits} bits cannot be summed")

    @classmethod
    def of_fields(cls, fields: Mapping[str, str]) -> "Task":
        """Return the task that :meth:`fields` describes.

        Raises
        ------
        ConfigError
            If they describe none.
        """
        try:
            session, model = bytes.fromhex(fields["session"]), bytes.fromhex(fields["model"])
            task = cls(session, model, int(fields["dimension"]), int(fields["bits"]), fields["encoding"])
        except (KeyError, ValueError):
            raise ConfigError("these fields describe no task") from None
        if task.fields() != fields:
            raise ConfigError("these fields describe no task")
        return task

    def fields(self) -> dict[str, str]:
        """Return what the aggregator has to have too, for comparison by name."""
        return {
            "session": self.session.hex(),
            "model": self.model_hash.hex(),
            "dimension": str(self.dimension),
            "bits": str(self.bits),
            "encoding": self.encoding,
        }


def context(policy: Policy, task: Task, number: int) -> bytes:
    """Return the digest of everything that a round is bound to, 32 bytes."""
    fields = policy.fields() | task.fields()
    people = (part for name, key in policy.clients.items() for part in (name.encode(), key))
    texts = (text.encode() for item in sorted(fields.items()) for text in item)
    return digest("secagg round", _number(number), digest("", *people), *texts)


def _number(number: int) -> bytes:
    return number.to_bytes(8, "big")
