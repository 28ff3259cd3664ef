"""What one party has seen of a run, in a file: the transcript that :mod:`vfl.attacks` and ``vfl audit attack`` work on.

A view holds every message that a party received, and of those that it sent what it needs to understand them, with facts
about the run that the party knows (the model's shape, how clients train). It is as secret as the party's own data.

    view = View("server")
    vfl.federate(model, clients, rounds=3, view=view)        # a simulation: what the server sees
    view.save("server.view")
    simulation.view_of("bank").save("bank.view")             # vfl.simulate
    with vfl.connect("bank.toml") as session:
        view = View.watch(session)                           # a real session, from here on

The file is one MessagePack map of fixed fields; the messages keep the bytes they have on the wire, and are decoded and
checked as a peer's when the file is read. No pickle.
"""

import importlib
import os
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from vfl.errors import AuditError, LocalProtocolError, MalformedMessage
from vfl.model import write_private
from vfl.protocols.channel import Record
from vfl.protocols.wire import Message, decode, encode, message_types, shape_of

if TYPE_CHECKING:
    from vfl.session import Session

__all__ = ["Seen", "View"]

FORMAT = "vfl view 1"
MessageT = TypeVar("MessageT", bound=Message)
Direction = Literal["sent", "received"]


@dataclass(frozen=True)
class Seen:
    """One message: whether it was sent or received, the other side's name, and the message."""

    direction: Direction
    peer: str
    message: Message


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    direction: Direction
    peer: str
    kind: str
    shape: dict[str, int]
    raw: bytes


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    party: str
    facts: dict[str, Any]
    messages: list[_Entry]


@dataclass
class View:
    """What one party has seen.

    Parameters
    ----------
    party : str
    facts : dict
        What the party knows about the run beside the messages; texts, numbers, lists and dicts.
    messages : list of Seen
        In order.
    """

    party: str
    facts: dict[str, Any] = field(default_factory=dict)
    messages: list[Seen] = field(default_factory=list)

    def add(self, direction: Direction, peer: str, message: Message) -> None:
        """Append a message."""
        self.messages.append(Seen(direction, peer, message))

    def observe(self, record: Record) -> None:
        """Append a message of this party's channel: an observer for :class:`vfl.protocols.channel.Channel`.

        Raises
        ------
        LocalProtocolError
            If the channel is another party's.
        """
        if record.party != self.party:
            raise LocalProtocolError(f"this is the view of {self.party}, not of {record.party}")
        self.add(record.direction, record.peer, record.message)

    @classmethod
    def watch(cls, session: "Session") -> "View":
        """Return a view that collects everything that a session's party sends and receives from now on."""
        view = cls(session.name)
        for channel in session.channels:
            channel.observe(view.observe)
        return view

    @classmethod
    def of_records(cls, party: str, records: Iterable[Record]) -> "View":
        """Return the view that a party's own records make."""
        view = cls(party)
        for record in records:
            view.observe(record)
        return view

    def received(self, kind: type[MessageT], peer: str | None = None) -> list[MessageT]:
        """Return the messages of a type that were received, from one peer or from all, in order."""
        return [
            seen.message
            for seen in self.messages
            if seen.direction == "received" and isinstance(seen.message, kind) and peer in (None, seen.peer)
        ]

    def sent(self, kind: type[MessageT]) -> list[MessageT]:
        """Return the messages of a type that were sent, in order."""
        return [
            seen.message
            for seen in self.messages
            if seen.direction == "sent" and isinstance(seen.message, kind)
        ]

    def counts(self) -> dict[str, int]:
        """Return how many messages of each type were received, by name."""
        found: dict[str, int] = {}
        for seen in self.messages:
            if seen.direction == "received":
                name = seen.message.declaration.name
                found[name] = found.get(name, 0) + 1
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file of mode 0600, whole or not at all.

        Raises
        ------
        ConfigError
            If it cannot be written.
        """
        entries = [
            _Entry(
                seen.direction,
                seen.peer,
                seen.message.declaration.name,
                shape_of(seen.message),
                encode(seen.message),
            )
            for seen in self.messages
        ]
        file = _File(FORMAT, self.party, self.facts, entries)
        write_private(Path(path), msgspec.msgpack.encode(file))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "View":
        """Read what :meth:`save` wrote; every message is decoded and checked.

        Raises
        ------
        AuditError
            If the file cannot be read or is no view.
        """
        try:
            file = msgspec.msgpack.decode(Path(path).read_bytes(), type=_File)
        except OSError as error:
            raise AuditError(f"{path}: cannot be read ({error.strerror})") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise AuditError(f"{path}: is no transcript of what a party has seen") from None
        if file.format != FORMAT:
            raise AuditError(f"{path}: has the format {file.format[:40]!r}, this version reads {FORMAT!r}")
        view = cls(file.party, file.facts)
        types = _types(entry.kind for entry in file.messages)
        for place, entry in enumerate(file.messages):
            view.add(entry.direction, entry.peer, _decoded(path, place, entry, types))
        return view


def _types(kinds: Iterable[str]) -> dict[str, type[Message]]:
    """Return all message types, of protocols that are not imported yet too if one of these is unknown."""
    if not set(kinds) <= set(message_types()):
        from vfl import protocols

        for module in pkgutil.walk_packages(protocols.__path__, "vfl.protocols."):
            importlib.import_module(module.name)
    return message_types()


def _decoded(path: Any, place: int, entry: _Entry, types: Mapping[str, type[Message]]) -> Message:
    kind = types.get(entry.kind)
    if kind is None:
        raise AuditError(f"{path}: message {place} is of the unknown type {entry.kind[:64]!r}")
    try:
        return decode(kind, entry.raw, entry.shape)
    except (MalformedMessage, LocalProtocolError, ValueError) as error:
        raise AuditError(f"{path}: message {place}: {error}") from None
