"""What crossed a channel, kept or only counted: a party's view, and the leakage table of a report.

One side of a channel sees everything that crosses it: what it receives is its own view, what it sends is its
peer's. So an observer here belongs to one party, and refuses the records of another: they would count twice.

    transcript = Transcript()
    channel.observe(transcript)
    ...
    transcript.view("bank")          # what the bank has seen
    transcript.leakage_table()       # rows for a report
"""

from dataclasses import dataclass
from typing import TypedDict, final

from vfl.errors import LocalProtocolError
from vfl.protocols.channel import Channel, Record
from vfl.protocols.wire import Leakage, message_types

__all__ = ["LeakageRow", "RecordingChannel", "Tally", "Total", "Transcript", "recipient", "sender"]


class LeakageRow(TypedDict):
    """All messages of one type from one party, ready for JSON; `size` is in bytes."""

    message: str
    sender: str
    recipient: str
    leakage: str
    reveals: str
    count: int
    size: int


@dataclass(frozen=True)
class Total:
    """Number of messages, and their bytes with the 16 of each frame's tag."""

    count: int = 0
    size: int = 0

    def plus(self, other: "Total") -> "Total":
        """Return the sum."""
        return Total(self.count + other.count, self.size + other.size)


def sender(record: Record) -> str:
    """Return the party that sent a message."""
    return record.party if record.direction == "sent" else record.peer


def recipient(record: Record) -> str:
    """Return the party that a message was addressed to."""
    return record.peer if record.direction == "sent" else record.party


class Tally:
    """An observer that counts messages by sender, recipient and type; it does not grow with their number."""

    def __init__(self) -> None:
        self._party: str | None = None
        self._totals: dict[tuple[str, str, str], Total] = {}  # in order of first appearance

    def __call__(self, record: Record) -> None:
        """Count one message.

        Raises
        ------
        LocalProtocolError
            If an earlier message was recorded by another party.
        """
        if self._party not in (None, record.party):
            raise LocalProtocolError(
                f"this record belongs to {self._party}; give {record.party}'s channel one of its own"
            )
        self._party = record.party
        key = sender(record), recipient(record), record.kind
        self._totals[key] = self._totals.get(key, Total()).plus(Total(1, record.size))

    def by_kind(self, party: str | None = None) -> dict[str, Total]:
        """Return totals by message type, of what `party` received or of everything."""
        totals: dict[str, Total] = {}
        for (_, to, kind), total in self._totals.items():
            if party in (None, to):
                totals[kind] = totals.get(kind, Total()).plus(total)
        return totals

    def by_leakage(self, party: str | None = None) -> dict[Leakage, Total]:
        """Return totals by leakage class, of what `party` received or of everything."""
        totals: dict[Leakage, Total] = {}
        for kind, total in self.by_kind(party).items():
            leakage = message_types()[kind].declaration.leakage
            totals[leakage] = totals.get(leakage, Total()).plus(total)
        return totals

    def leakage_table(self) -> list[LeakageRow]:
        """Return one row per sender, recipient and message type, in order of first appearance."""
        rows = []
        for (source, to, kind), total in self._totals.items():
            declaration = message_types()[kind].declaration
            rows.append(
                LeakageRow(
                    message=kind,
                    sender=source,
                    recipient=to,
                    leakage=declaration.leakage.value,
                    reveals=declaration.reveals,
                    count=total.count,
                    size=total.size,
                )
            )
        return rows


@final
class Transcript(Tally):
    """A tally that also keeps every message with its contents, in order: as large as everything that crossed.

    Attributes
    ----------
    records : list of Record
    """

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Record] = []

    def __call__(self, record: Record) -> None:
        """Count and keep one message."""
        super().__call__(record)
        self.records.append(record)

    def view(self, party: str) -> list[Record]:
        """Return everything that was addressed to a party, in order."""
        return [record for record in self.records if recipient(record) == party]

    def rows(self) -> list[dict[str, object]]:
        """Return the records without the messages' contents, ready for JSON.

        Returns
        -------
        list of dict
            Keys as the fields of :class:`~vfl.protocols.channel.Record`, without ``message``.
        """
        return [
            {
                "direction": record.direction,
                "party": record.party,
                "peer": record.peer,
                "sequence": record.sequence,
                "kind": record.kind,
                "leakage": record.leakage.value,
                "shape": dict(record.shape),
                "size": record.size,
                "digest": record.digest,
            }
            for record in self.records
        ]


@final
class RecordingChannel(Channel):
    """A channel that passes frames on to another one and keeps a transcript.

    Attributes
    ----------
    transcript : Transcript
    """

    def __init__(self, inner: Channel) -> None:
        self.transcript = Transcript()
        super().__init__(inner.me, inner.peer, (self.transcript,))
        self._inner = inner

    def _put(self, frame: bytes) -> None:
        self._inner._put(frame)

    async def _get(self, limit: int, kind: str) -> bytes:
        return await self._inner._get(limit, kind)

    def close(self) -> None:
        """Close the inner channel."""
        self._inner.close()
