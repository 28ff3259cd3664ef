"""The typed channel between two parties, and the way roles are run.

A role is a coroutine that awaits nothing but ``channel.send(message)`` and ``channel.recv(MessageType, rows=...)``.
No event loop is involved: over a network the channel blocks and the coroutine runs to its end in one ``send(None)``;
in memory it is suspended until its message is there, and :func:`run_local` steps all parties by hand.

Every frame begins with 16 bytes of the running hash of everything sent before in its direction, so a frame that was
lost, repeated, reordered, replayed from another session or changed is refused. Both sides compare the whole hashes at
checkpoints (:mod:`vfl.protocols.session`).
"""

import abc
import contextlib
import hashlib
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, final

from vfl.errors import (
    ChannelClosed,
    ChannelError,
    Deadlock,
    LocalProtocolError,
    MalformedMessage,
    MessageTooLarge,
    PeerAborted,
    UnexpectedMessage,
    VFLError,
)
from vfl.protocols.wire import Abort, Leakage, Message, Role, decode, encode, largest, shape_of, type_name

__all__ = [
    "Channel",
    "MemoryChannel",
    "Observer",
    "Party",
    "Record",
    "Waiting",
    "memory_pair",
    "run",
    "run_local",
    "until",
]

TAG_BYTES = 16
_ANY = 1 << 31  # bytes: what is read only to reach what stands behind it
MessageT = TypeVar("MessageT", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True)
class Party:
    """A party's name in messages and errors, and its role."""

    name: str
    role: Role


@dataclass(frozen=True)
class Record:
    """One message that crossed the channel, as this side saw it.

    Attributes
    ----------
    direction : {"sent", "received"}
    sequence : int
        Number of the message in its direction, from 0.
    kind : str
        The type's name on the wire.
    leakage : Leakage
    shape : dict of str to int
        Dimensions of the bulk fields.
    size : int
        Bytes of the frame.
    digest : str
        SHA-256 of the frame, hex.
    message : Message
    """

    direction: Literal["sent", "received"]
    party: str
    peer: str
    sequence: int
    kind: str
    leakage: Leakage
    shape: dict[str, int]
    size: int
    digest: str
    message: Message


Observer = Callable[[Record], None]


@dataclass(frozen=True)
class Waiting:
    """What a suspended role yields: which party waits for which message type, and whether it has come."""

    party: str
    kind: str
    ready: Callable[[], bool]


@types.coroutine
def _suspend(waiting: Waiting) -> Generator[Waiting, None, None]:
    yield waiting


async def until(party: str, what: str, ready: Callable[[], bool]) -> None:
    """Suspend a role until something other than a message has happened; `what` is named in errors."""
    while not ready():
        await _suspend(Waiting(party, what, ready))


class Channel(abc.ABC):
    """One side of an ordered, reliable, typed connection to one peer.

    Parameters
    ----------
    me, peer : Party
    observers : tuple of callables
        Called with a :class:`Record` BEFORE a message leaves and after one has been accepted; an observer that
        raises stops the message (the audit log and the leakage policy are observers).
    """

    def __init__(self, me: Party, peer: Party, observers: tuple[Observer, ...] = ()) -> None:
        self.me, self.peer = me, peer
        self._observers = list(observers)
        self._hashes = {"sent": hashlib.sha256(), "received": hashlib.sha256()}
        self._counts = {"sent": 0, "received": 0}
        self.bytes = {"sent": 0, "received": 0}

    @abc.abstractmethod
    def _put(self, frame: bytes) -> None:
        """Deliver one frame, blocking while the peer's window is full."""

    @abc.abstractmethod
    async def _get(self, limit: int, kind: str) -> bytes:
        """Return the next frame; raise MessageTooLarge if it is announced larger than `limit` bytes."""

    @abc.abstractmethod
    def close(self) -> None:
        """End the connection; the peer's next receive raises ChannelClosed."""

    def observe(self, observer: Observer) -> None:
        """Add an observer for all later messages."""
        self._observers.append(observer)

    def bind(self, context: bytes) -> None:
        """Mix a session's context into both running hashes, so that frames of other sessions do not fit."""
        for running in self._hashes.values():
            running.update(context)

    def digests(self) -> tuple[bytes, bytes]:
        """Return the running hashes of everything sent and everything received."""
        return self._hashes["sent"].digest(), self._hashes["received"].digest()

    async def send(self, message: Message) -> None:
        """Send one message.

        Raises
        ------
        LocalProtocolError
            If this party's role may not send it, or a field has not its declared type or shape.
        ChannelError
            If the connection is gone.
        """
        sender = message.declaration.sender
        if sender not in (Role.EITHER, self.me.role):
            raise LocalProtocolError(
                f"{type(message).__name__} is sent by the {sender}, {self.me.name} is the {self.me.role}"
            )
        body = encode(message)
        frame = self._hashes["sent"].digest()[:TAG_BYTES] + body
        self._note("sent", message, frame)
        try:
            self._put(frame)
        except ChannelClosed:
            await self._last_words()
            raise

    async def _last_words(self) -> None:
        """Raise PeerAborted if the peer said why it goes, behind messages that nobody will read any more."""
        with contextlib.suppress(ChannelError, MalformedMessage):
            while True:
                frame = await self._get(_ANY, Abort.declaration.name)
                tag, body = frame[:TAG_BYTES], frame[TAG_BYTES:]
                if tag != self._hashes["received"].digest()[:TAG_BYTES]:
                    return
                if type_name(body) == Abort.declaration.name:
                    reason = decode(Abort, body, {}).reason
                    raise PeerAborted(
                        f"{self.peer.name} stopped with {reason} while {self.me.name} was sending"
                    )
                self._hashes["received"].update(hashlib.sha256(frame).digest())

    async def recv(self, kind: type[MessageT], **dims: int) -> MessageT:
        """Wait for the next message, which must be a `kind` with the given dimensions.

        Raises
        ------
        UnexpectedMessage, MalformedMessage, MessageTooLarge, PeerAborted
            If the peer sends anything else.
        ChannelError
            If the connection is gone or the peer is silent for too long.
        """
        name = kind.declaration.name
        if kind.declaration.sender not in (Role.EITHER, self.peer.role):
            raise LocalProtocolError(f"{kind.__name__} does not come from the {self.peer.role}")
        limit = TAG_BYTES + max(largest(kind, dims), largest(Abort, {}))
        frame = await self._get(limit, name)
        if len(frame) > limit:
            raise MessageTooLarge(f"{self.peer.name} sent {len(frame)} bytes for {name}, at most {limit} fit")
        tag, body = frame[:TAG_BYTES], frame[TAG_BYTES:]
        if tag != self._hashes["received"].digest()[:TAG_BYTES]:
            raise MalformedMessage(
                f"{self.peer.name}'s message {self._counts['received']} does not continue the transcript: "
                "it was lost, repeated, reordered, replayed or changed on the way"
            )
        try:
            actual = type_name(body)
            message = decode(kind, body, dims) if actual == name else None
            abort = decode(Abort, body, {}) if actual == Abort.declaration.name else None
        except MalformedMessage as error:
            raise MalformedMessage(f"{self.peer.name}: {error}") from None
        if abort is not None:
            raise PeerAborted(
                f"{self.peer.name} stopped with {abort.reason} while {self.me.name} waited for {name}"
            )
        if message is None:
            raise UnexpectedMessage(f"{self.me.name} waits for {name}, {self.peer.name} sent {actual}")
        self._note("received", message, frame)
        return message

    def abort(self, error: BaseException) -> None:
        """Tell the peer the type of the error that stops this party (nothing of its text), then close."""
        stopped = "Interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "InternalError"
        reason = type(error).__name__ if type(error).__module__ == "vfl.errors" else stopped
        try:
            # gone already: nobody to tell; or the stream is broken, or an observer stopped this message too
            with contextlib.suppress(VFLError):
                run(self.send(Abort(reason=reason)))
        finally:
            self.close()

    def _note(self, direction: Literal["sent", "received"], message: Message, frame: bytes) -> None:
        digest = hashlib.sha256(frame)
        record = Record(
            direction=direction,
            party=self.me.name,
            peer=self.peer.name,
            sequence=self._counts[direction],
            kind=message.declaration.name,
            leakage=message.declaration.leakage,
            shape=shape_of(message),
            size=len(frame),
            digest=digest.hexdigest(),
            message=message,
        )
        for observer in self._observers:
            observer(record)
        self._hashes[direction].update(digest.digest())  # of the hash: bulk data is hashed once
        self._counts[direction] += 1
        self.bytes[direction] += len(frame)


@final
class MemoryChannel(Channel):
    """One end of a pair in the same process; the bytes are those that a network would carry."""

    def __init__(self, me: Party, peer: Party) -> None:
        super().__init__(me, peer)
        self._inbox: deque[bytes] = deque()
        self._other: MemoryChannel | None = None
        self._closed = False
        self.on_change: Callable[[], None] = lambda: None

    def connect(self, other: "MemoryChannel") -> None:
        """Make `other` the far end."""
        self._other = other

    def _put(self, frame: bytes) -> None:
        other = self._other
        if other is None or other._closed or self._closed:
            raise ChannelClosed(f"{self.peer.name} has closed the connection")
        other._inbox.append(frame)
        other.on_change()

    async def _get(self, limit: int, kind: str) -> bytes:
        while not self._inbox:
            if self._closed or self._other is None or self._other._closed:
                raise ChannelClosed(
                    f"{self.peer.name} closed the connection while {self.me.name} waited for {kind}"
                )
            await _suspend(Waiting(self.me.name, kind, self._ready))
        return self._inbox.popleft()

    def _ready(self) -> bool:
        return bool(self._inbox) or self._closed or self._other is None or self._other._closed

    def close(self) -> None:
        """End the connection on both sides; what was sent before can still be read."""
        self._closed = True
        if self._other is not None:
            self._other.on_change()


def memory_pair(a: Party, b: Party) -> tuple[MemoryChannel, MemoryChannel]:
    """Return the two ends of a connection within this process."""
    left, right = MemoryChannel(a, b), MemoryChannel(b, a)
    left.connect(right)
    right.connect(left)
    return left, right


def run(role: Coroutine[Waiting, None, T], wait: Callable[[Waiting], None] | None = None) -> T:
    """Run a role to its end over channels that block, or with `wait` called whenever it is suspended."""
    while True:
        try:
            waiting = role.send(None)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        if wait is None:
            role.close()
            raise Deadlock(f"{waiting.party} waits for {waiting.kind} and nobody else runs")
        wait(waiting)


def run_local(**roles: Coroutine[Waiting, None, Any]) -> dict[str, Any]:
    """Step several roles in turn, deterministically, until all have ended; return their results by name.

    Raises
    ------
    Deadlock
        If every role waits; the text says who waits for which message.
    """
    results: dict[str, Any] = {}
    waiting: dict[str, Waiting | None] = dict.fromkeys(roles)
    try:
        while waiting:
            runnable = [name for name, what in waiting.items() if what is None or what.ready()]
            if not runnable:
                raise Deadlock("; ".join(f"{w.party} waits for {w.kind}" for w in waiting.values() if w))
            for name in runnable:
                try:
                    waiting[name] = roles[name].send(None)
                except StopIteration as stop:
                    results[name] = stop.value
                    del waiting[name]
    finally:
        for role in roles.values():
            role.close()
    return results
