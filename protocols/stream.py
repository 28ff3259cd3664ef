"""Frames over a stream of small messages: chunks, a window of credits, heartbeats and an orderly end.

What travels in either direction, one type byte first (numbers are 8 bytes, big-endian):

    greeting   the name and version of this format; each side's first message
    first      length of the frame, then its first chunk
    more       the frame's next chunk
    credit     so many bytes of the window of the message's sender are free again
    heartbeat  a counter that grows while the sender computes or moves data
    bye        the sender sends no more frames
    thanks     everything before the peer's bye has arrived

A side never holds more than `WINDOW` bytes of chunks that its role has not asked for, plus the one frame that
the role is asking for, whose length is known and allowed beforehand. Its outgoing queue holds at most one
frame beyond `WINDOW`, so two sides may each send one frame of any size before either receives. Nothing here
opens a socket: :mod:`vfl.protocols.grpc` moves the messages.
"""

import enum
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from vfl.errors import (
    ChannelClosed,
    ChannelTimeout,
    LocalProtocolError,
    MalformedMessage,
    MessageTooLarge,
    VFLError,
)

__all__ = ["CHUNK", "LARGEST_FRAME", "LARGEST_MESSAGE", "LEAVE_SECONDS", "WINDOW", "Stream"]

CHUNK = 1 << 20
WINDOW = 8 << 20
LARGEST_FRAME = 1 << 31
LARGEST_MESSAGE = CHUNK + 9
GREETING = b"vfl stream 1"
PER_MESSAGE = 64  # charged beside the bytes, so that a flood of tiny chunks is bounded too
BUSY = 0.05  # share of one core above which a process counts as computing; a progress bar stays below it
LEAVE_SECONDS = 2.0  # for the other side to end the stream after both are done


class Kind(enum.IntEnum):
    """The type byte."""

    GREETING = 0
    FIRST = 1
    MORE = 2
    CREDIT = 3
    HEARTBEAT = 4
    BYE = 5
    THANKS = 6


_BARE = {kind: bytes([kind]) for kind in Kind}
_NUMBERED = struct.Struct(">BQ")


def _number(message: bytes) -> int:
    return int.from_bytes(message[1:9], "big")


def _cost(message: bytes) -> int:
    return len(message) + PER_MESSAGE


class Stream:
    """One side of a stream, shared by the role's thread, a reading thread and the transport's sending thread.

    Parameters
    ----------
    me, peer : str
        Names of the two parties, for the texts of errors.
    silence_seconds : float
        Raise ChannelTimeout if nothing at all came for so long; a heartbeat leaves every tenth of it.
    stall_seconds : float
        Raise ChannelTimeout if the peer lives but has neither moved data nor computed for so long.
    """

    def __init__(self, me: str, peer: str, *, silence_seconds: float, stall_seconds: float) -> None:
        self._me, self._peer = me, peer
        self._silence, self._stall, self._deadline = silence_seconds, stall_seconds, float("inf")
        self._process = os.getpid()
        self._changed = threading.Condition()
        # out
        self._frames: deque[bytes] = deque()
        self._offset, self._pending, self._credit = 0, 0, WINDOW
        self._control = deque([_BARE[Kind.GREETING] + GREETING])
        self._beat, self._cpu = time.monotonic(), time.process_time()
        self._moved, self._progress = 0, 0
        # in
        self._inbox: deque[bytes] = deque()
        self._held, self._freed, self._missing = 0, 0, 0
        self._heard = self._advanced = time.monotonic()
        self._peer_progress = 0
        # life and death
        self._greeted = self._bye = self._thanked = self._over = False  # what the peer did
        self._closed = self._ending = False  # what this side did
        self._refused: VFLError | None = None  # nothing more is taken from the peer, and why
        self.lost: Exception | None = None  # the transport's own error that ended the stream

    # --- the role's side

    def put(self, frame: bytes) -> None:
        """Queue one frame; block while more than a window of earlier ones is still to be sent."""
        if len(frame) > LARGEST_FRAME:
            raise LocalProtocolError(f"a frame has {len(frame)} bytes, at most {LARGEST_FRAME} fit")
        self._check_process()
        with self._changed:
            if self._ended or self._closed:
                raise self._gone("was sending")
            self._wait(lambda: self._pending < WINDOW, f"waited for {self._peer} to read")
            self._frames.append(frame)
            self._pending += _cost(frame)
            self._changed.notify_all()

    def get(self, limit: int, kind: str) -> bytes:
        """Return the next frame, which may have `limit` bytes; `kind` is named in errors."""
        self._check_process()
        doing = f"waited for {kind}"
        with self._changed:
            if self._refused is not None:
                raise self._refused
            self._wait(lambda: bool(self._inbox), doing)
            left = _number(self._inbox[0])
            if left > limit:
                self._refused = MessageTooLarge(
                    f"{self._peer} announced {left} bytes for {kind}, at most {limit} fit"
                )
                raise self._refused
            parts: list[memoryview] = []
            while True:
                message = self._inbox.popleft()
                parts.append(memoryview(message)[1 if parts else 9 :])
                left -= len(parts[-1])
                self._free(_cost(message))
                if not left:
                    break
                self._wait(lambda: bool(self._inbox), doing)
        return b"".join(parts)

    def greeted(self, seconds: float) -> bool:
        """Wait for the peer's greeting; return whether it came."""
        with self._changed:
            self._changed.wait_for(lambda: self._greeted or self._over, seconds)
            if self._refused is not None and not self._greeted:
                raise self._refused
            return self._greeted

    def hurry(self, seconds: float) -> None:
        """From now on wait no longer than so many seconds for anything."""
        with self._changed:
            self._deadline = time.monotonic() + seconds

    def close(self) -> None:
        """Deliver what was sent, as long as the peer makes progress, and end the stream on both sides."""
        if os.getpid() != self._process:
            return
        with self._changed:
            if self._closed:
                return
            self._closed = True
            try:
                self._wait(lambda: not self._frames, "was closing")
                self._tell(_BARE[Kind.BYE])
                self._wait(lambda: self._thanked, "was closing")
            except VFLError:
                pass  # the peer is gone: nobody is left to deliver to
            self._ending = True
            self._changed.notify_all()
        if self._thanked or self._bye:
            self._reader.join(LEAVE_SECONDS)
        self.cancel()
        self._reader.join(LEAVE_SECONDS)

    def cancel(self) -> None:
        """End the stream at once."""
        self._cancel()

    # --- the transport's side

    def start(self, messages: Iterable[bytes], cancel: Callable[[], object]) -> None:
        """Read `messages` in a thread until they end; `cancel` ends them from any thread."""
        self._cancel = cancel
        self._reader = threading.Thread(
            target=self._read, args=(messages,), name=f"vfl reads {self._peer}", daemon=True
        )
        self._reader.start()

    def outgoing(self) -> Iterator[bytes]:
        """Yield the messages to send until the stream ends; run by the transport's sending thread."""
        while (message := self._next()) is not None:
            yield message

    # --- sending

    def _next(self) -> bytes | None:
        with self._changed:
            while True:
                if self._over or (self._ending and not self._control):
                    return None
                if self._control:
                    return self._control.popleft()
                if self._frames and (chunk := self._cut()):
                    return chunk
                due = self._beat + self._silence / 10 - time.monotonic()
                if due <= 0:
                    return self._heartbeat()
                self._changed.wait(due)

    def _cut(self) -> bytes | None:
        frame = self._frames[0]
        head = _BARE[Kind.MORE] if self._offset else _NUMBERED.pack(Kind.FIRST, len(frame))
        size = min(CHUNK, len(frame) - self._offset)
        cost = len(head) + size + PER_MESSAGE
        if cost > self._credit:
            return None
        chunk = b"".join((head, memoryview(frame)[self._offset : self._offset + size]))
        self._credit -= cost
        self._moved += 1
        self._offset += size
        if self._offset == len(frame):
            self._frames.popleft()
            self._offset = 0
            self._pending -= _cost(frame)
            self._changed.notify_all()
        return chunk

    def _heartbeat(self) -> bytes:
        now, cpu = time.monotonic(), time.process_time()
        if self._moved or cpu - self._cpu > BUSY * (now - self._beat):
            self._progress += 1
        self._beat, self._cpu, self._moved = now, cpu, 0
        return _NUMBERED.pack(Kind.HEARTBEAT, self._progress)

    def _tell(self, message: bytes) -> None:
        self._control.append(message)
        self._changed.notify_all()

    def _free(self, cost: int) -> None:
        self._held -= cost
        self._freed += cost
        self._moved += 1
        if self._freed >= WINDOW // 4:
            self._tell(_NUMBERED.pack(Kind.CREDIT, self._freed))
            self._freed = 0

    # --- receiving

    def _read(self, messages: Iterable[bytes]) -> None:
        try:
            for message in messages:
                with self._changed:
                    self._heard = time.monotonic()
                    self._take(message)
                    self._changed.notify_all()
        except VFLError as error:  # the peer breaks this format: read nothing more of it
            self._refused = error
            self.cancel()
        except Exception as error:  # the transport's own: the connection is gone
            self.lost = error
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _take(self, message: bytes) -> None:
        kind = message[0] if message else -1
        if (kind == Kind.GREETING) == self._greeted:
            raise self._broken("a message out of order")
        if kind == Kind.GREETING:
            if message[1:] != GREETING:
                raise self._broken("another version of the format: install the same vfl on both sides")
            self._greeted = True
        elif kind in (Kind.FIRST, Kind.MORE):
            self._take_chunk(message, first=kind == Kind.FIRST)
        elif kind in (Kind.CREDIT, Kind.HEARTBEAT) and len(message) == _NUMBERED.size:
            self._take_number(kind, _number(message))
        elif message == _BARE[Kind.BYE] and not self._bye and not self._missing:
            self._bye = True
            self._tell(_BARE[Kind.THANKS])
        elif message == _BARE[Kind.THANKS] and self._closed:
            self._thanked = True
        else:
            raise self._broken("an unknown message")

    def _take_chunk(self, message: bytes, *, first: bool) -> None:
        if self._bye or first == bool(self._missing) or (first and len(message) < 9):
            raise self._broken("a chunk out of order")
        size = len(message) - (9 if first else 1)
        self._missing = (_number(message) if first else self._missing) - size
        if self._missing + size > LARGEST_FRAME:
            raise MessageTooLarge(f"{self._peer} announced a frame of more than {LARGEST_FRAME} bytes")
        if self._missing < 0 or (self._missing and not size):
            raise self._broken("a chunk that does not fit its frame")
        self._held += _cost(message)
        if self._held > WINDOW:
            raise self._broken("more than the window holds")
        self._inbox.append(message)
        self._advanced = self._heard

    def _take_number(self, kind: int, number: int) -> None:
        if kind == Kind.CREDIT:
            self._credit += number
            if self._credit > WINDOW:
                raise self._broken("credit for more than was sent")
            self._advanced = self._heard
        elif number != self._peer_progress:
            self._peer_progress = number
            self._advanced = self._heard

    # --- waiting and failing

    @property
    def _ended(self) -> bool:
        return self._over or self._bye

    def _wait(self, ready: Callable[[], bool], doing: str) -> None:
        # a computation here may have starved the reading thread: silence counts from the start of the wait
        start = time.monotonic()
        while not ready():
            if self._ended:
                raise self._gone(doing)
            silent = max(self._heard, start) + self._silence
            stalled = max(self._advanced, start) + self._stall
            left = min(silent, stalled, self._deadline) - time.monotonic()
            if left <= 0:
                raise self._late(doing, silent=silent <= time.monotonic())
            self._changed.wait(left)

    def _check_process(self) -> None:
        if os.getpid() != self._process:  # the threads stayed in the parent
            raise LocalProtocolError("a connection cannot be used in a forked process: open one there")

    def _late(self, doing: str, *, silent: bool) -> VFLError:
        if silent:
            self._over = True
            self._refused = ChannelTimeout(
                f"{self._peer} has been silent for {self._silence:g} s while {self._me} {doing}: its machine "
                "or the network between them is down, or its process is frozen; start both sides again"
            )
            return self._refused
        return ChannelTimeout(
            f"{self._peer} is connected but has neither computed nor moved data for {self._stall:g} s while "
            f"{self._me} {doing}: it hangs or waits for {self._me} too; look at its output, then start again"
        )

    def _gone(self, doing: str) -> VFLError:
        if self._refused is not None:
            return self._refused
        if self._closed:
            return ChannelClosed(f"{self._me} has closed the connection to {self._peer}")
        if self._bye:
            return ChannelClosed(f"{self._peer} closed the connection while {self._me} {doing}")
        error = ChannelClosed(
            f"{self._peer} went away while {self._me} {doing}: its process ended or the connection was lost; "
            f"look at {self._peer}'s output and start both sides again"
        )
        error.__cause__ = self.lost
        return error

    def _broken(self, what: str) -> VFLError:
        return MalformedMessage(f"{self._peer}'s stream carries {what}")
