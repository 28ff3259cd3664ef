"""The facts of one run, as its report shows them: plain values, the same on the page and in JSON."""

from dataclasses import dataclass, field
from datetime import datetime

from vfl.errors import InvalidData
from vfl.metrics import ModelCurves
from vfl.progress import PhaseCost
from vfl.protocols.wire import Leakage

__all__ = [
    "GUEST_ONLY",
    "JOINT",
    "POOLED",
    "Alignment",
    "AuditTrace",
    "MessageTotal",
    "RunFacts",
]

GUEST_ONLY, JOINT, POOLED = "guest only", "joint", "pooled"
"""Names of the models that the page compares; others may stand beside them."""


@dataclass(frozen=True, kw_only=True)
class MessageTotal:
    """All messages of one type from one party.

    Attributes
    ----------
    message : str
        Name of the type on the wire.
    sender, recipient : str
        Names of the parties.
    leakage : str
        Leakage class, a value of :class:`vfl.protocols.wire.Leakage`.
    reveals : str
        What the recipient learns from it, in words.
    count : int
    size : int
        Bytes.
    """

    message: str
    sender: str
    recipient: str
    leakage: str
    reveals: str
    count: int
    size: int

    def __post_init__(self) -> None:
        """Refuse a leakage class for which the report has no words."""
        if self.leakage not in list(Leakage):
            raise InvalidData(
                f"report: message {self.message} has the unknown leakage class {self.leakage!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How many rows this party has, the padded size it saw of the peer's list, and how many are common."""

    own_rows: int
    peer_bucket: int
    common_rows: int


@dataclass(frozen=True, kw_only=True)
class AuditTrace:
    """Where the audit log lies and the hash of its last line (hex), which stands for all of it."""

    path: str
    head: str


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Everything that a report says.

    Attributes
    ----------
    title : str
    session : str
        Identifier of the session, equal on both sides.
    party, peer, role : str
        This party, the other one, and this party's role ("guest" or "host").
    started : datetime
        With a time zone; shown in UTC.
    versions : dict of str to str
        Software to version.
    fingerprints : dict of str to str
        Party to the fingerprint of its identity key.
    parameters : dict
        Name to number, text, truth value, list of texts or None.
    metrics : dict of str to (dict of str to float)
        Model to metric to value, as :func:`vfl.metrics.summary` gives them; the first metric is the headline.
        Empty for the host, which has no labels.
    curves : dict of str to ModelCurves
    history : list of (int, float)
        Iteration and what training watched: a loss by epoch, or the distance from the optimum.
    history_name : str
        What that is, in one or two words.
    messages : list of MessageTotal
        Both directions.
    phases : list of PhaseCost
        Seconds and bytes.
    alignment : Alignment or None
    audit : AuditTrace or None
    notes : list of str
        What the reader has to know before the figures: warnings, accepted leakage.
    """

    title: str
    session: str
    party: str
    peer: str
    role: str
    started: datetime
    versions: dict[str, str]
    fingerprints: dict[str, str]
    parameters: dict[str, str | int | float | bool | list[str] | None]
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, ModelCurves] = field(default_factory=dict)
    history: list[tuple[int, float]] = field(default_factory=list)
    history_name: str = "loss"
    messages: list[MessageTotal] = field(default_factory=list)
    phases: list[PhaseCost] = field(default_factory=list)
    alignment: Alignment | None = None
    audit: AuditTrace | None = None
    notes: list[str] = field(default_factory=list)
