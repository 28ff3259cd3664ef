"""The stream without a network: the test is the peer and says what it likes, when it likes."""

import os
import queue
import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.channels import Task
from vfl.errors import (
    ChannelClosed,
    ChannelTimeout,
    LocalProtocolError,
    MalformedMessage,
    MessageTooLarge,
    VFLError,
)
from vfl.protocols.stream import CHUNK, LARGEST_FRAME, WINDOW, Kind, Stream

HELLO = bytes([Kind.GREETING]) + b"vfl stream 1"
BYE, THANKS = bytes([Kind.BYE]), bytes([Kind.THANKS])
BIG = 1 << 40


def first(total: int, chunk: bytes) -> bytes:
    return bytes([Kind.FIRST]) + total.to_bytes(8, "big") + chunk


def more(chunk: bytes) -> bytes:
    return bytes([Kind.MORE]) + chunk


def heartbeat(counter: int) -> bytes:
    return bytes([Kind.HEARTBEAT]) + counter.to_bytes(8, "big")


def credit(size: int) -> bytes:
    return bytes([Kind.CREDIT]) + size.to_bytes(8, "big")


class Peer:
    """The far end: `say` puts a message on the wire, `heard` holds what the stream has sent."""

    def __init__(self, *, silence: float = 10.0, stall: float = 10.0) -> None:
        self.stream = Stream("bank", "retailer", silence_seconds=silence, stall_seconds=stall)
        self._wire: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.heard: list[bytes] = []
        self.stream.start(iter(self._wire.get, None), self.end)
        self._sender = threading.Thread(target=self._listen, daemon=True)
        self._sender.start()

    def _listen(self) -> None:
        for message in self.stream.outgoing():
            self.heard.append(message)

    def say(self, *messages: bytes) -> None:
        for message in messages:
            self._wire.put(message)

    def end(self) -> None:
        """End the connection without a word."""
        self._wire.put(None)

    def wait_for(self, kind: Kind, count: int = 1) -> list[bytes]:
        deadline = time.monotonic() + 5
        while len(found := [m for m in self.heard if m[0] == kind]) < count:
            assert time.monotonic() < deadline, f"only {found}"
            time.sleep(0.002)
        return found

    def finish(self) -> None:
        self.end()
        self.stream.close()
        self._sender.join(5)
        assert not self._sender.is_alive()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.finish()


def test_a_frame_is_cut_and_put_together(peer: Peer) -> None:
    frame = os.urandom(2 * CHUNK + 5)
    peer.stream.put(frame)
    peer.wait_for(Kind.MORE, 2)
    chunks = [m for m in peer.heard if m[0] in (Kind.FIRST, Kind.MORE)]
    assert [len(m) for m in chunks] == [9 + CHUNK, 1 + CHUNK, 1 + 5]
    peer.say(HELLO, *chunks)
    assert peer.stream.get(len(frame), "x") == frame


VIOLATIONS: dict[str, tuple[list[bytes], type[VFLError]]] = {
    "no greeting": ([first(1, b"a")], MalformedMessage),
    "another version": ([bytes([Kind.GREETING]) + b"vfl stream 2"], MalformedMessage),
    "HTTP": ([b"GET / HTTP/1.1\r\n"], MalformedMessage),
    "two greetings": ([HELLO, HELLO], MalformedMessage),
    "empty message": ([HELLO, b""], MalformedMessage),
    "unknown type": ([HELLO, bytes([7])], MalformedMessage),
    "short first chunk": ([HELLO, bytes([Kind.FIRST]) + bytes(7)], MalformedMessage),
    "more without first": ([HELLO, more(b"a")], MalformedMessage),
    "first within a frame": ([HELLO, first(2, b"a"), first(1, b"a")], MalformedMessage),
    "first chunk too long": ([HELLO, first(1, b"ab")], MalformedMessage),
    "later chunk too long": ([HELLO, first(2, b"a"), more(b"bc")], MalformedMessage),
    "first chunk empty": ([HELLO, first(2, b"")], MalformedMessage),
    "later chunk empty": ([HELLO, first(2, b"a"), more(b"")], MalformedMessage),
    "2^63 bytes announced": ([HELLO, first(1 << 63, b"a")], MessageTooLarge),
    "above the absolute limit": ([HELLO, first(LARGEST_FRAME + 1, b"a")], MessageTooLarge),
    "more than the window": (
        [HELLO, first(BIG >> 10, bytes(CHUNK)), *[more(bytes(CHUNK))] * 8],
        MalformedMessage,
    ),
    "a flood of tiny frames": ([HELLO, *[first(1, b"a")] * (WINDOW // 74 + 1)], MalformedMessage),
    "credit for nothing": ([HELLO, credit(1)], MalformedMessage),
    "2^63 bytes of credit": ([HELLO, credit(1 << 63)], MalformedMessage),
    "short credit": ([HELLO, credit(1)[:-1]], MalformedMessage),
    "long heartbeat": ([HELLO, heartbeat(1) + b"\0"], MalformedMessage),
    "bye within a frame": ([HELLO, first(2, b"a"), BYE], MalformedMessage),
    "two byes": ([HELLO, BYE, BYE], MalformedMessage),
    "a frame after bye": ([HELLO, BYE, first(1, b"a")], MalformedMessage),
    "thanks for nothing": ([HELLO, THANKS], MalformedMessage),
}


@pytest.mark.parametrize(("messages", "error"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_a_peer_that_breaks_the_format_is_refused(
    peer: Peer, messages: list[bytes], error: type[VFLError]
) -> None:
    peer.say(*messages)
    peer.stream._reader.join(5)  # the violation ends the reading thread
    assert not peer.stream._reader.is_alive()
    with pytest.raises(error, match="retailer"):
        peer.stream.get(BIG, "gradient.score")
    with pytest.raises(VFLError):
        peer.stream.put(b"anything")


def test_an_announced_length_beyond_the_limit_is_refused_before_it_arrives(peer: Peer) -> None:
    peer.say(HELLO, first(LARGEST_FRAME, b"a"))
    with pytest.raises(MessageTooLarge, match="retailer announced 2147483648 bytes for x, at most 10 fit"):
        peer.stream.get(10, "x")
    with pytest.raises(MessageTooLarge):
        peer.stream.get(BIG, "x")
    peer.stream.put(b"abort")  # the peer can still be told
    assert peer.wait_for(Kind.FIRST) == [first(5, b"abort")]


def test_a_sender_respects_the_window(peer: Peer) -> None:
    peer.say(HELLO)
    peer.stream.put(bytes(12 * CHUNK))  # one frame beyond the window may be queued
    putting = Task(lambda: peer.stream.put(b"next"))
    peer.wait_for(Kind.MORE, 6)
    time.sleep(0.05)
    sent = [m for m in peer.heard if m[0] in (Kind.FIRST, Kind.MORE)]
    assert sum(map(len, sent)) <= WINDOW
    assert len(sent) == 7
    peer.say(credit(4 * CHUNK))
    peer.wait_for(Kind.MORE, 10)
    peer.say(credit(4 * CHUNK))
    peer.wait_for(Kind.FIRST, 2)
    putting.result()


def test_a_reader_gives_credit_as_it_reads(peer: Peer) -> None:
    peer.say(HELLO, first(7 * CHUNK, bytes(CHUNK)), *[more(bytes(CHUNK))] * 6)
    time.sleep(0.05)
    assert not any(m[0] == Kind.CREDIT for m in peer.heard)
    assert len(peer.stream.get(7 * CHUNK, "x")) == 7 * CHUNK
    granted = sum(int.from_bytes(m[1:], "big") for m in peer.wait_for(Kind.CREDIT, 3))
    assert 6 * CHUNK < granted < WINDOW


def test_silence_is_told_from_a_closed_connection() -> None:
    peer = Peer(silence=0.2)
    peer.say(HELLO)
    with pytest.raises(
        ChannelTimeout, match=r"retailer has been silent for 0\.2 s while bank waited for psi\.reply"
    ):
        peer.stream.get(10, "psi.reply")
    with pytest.raises(ChannelTimeout):
        peer.stream.put(b"x")
    started = time.monotonic()
    peer.stream.close()
    assert time.monotonic() - started < 1  # nobody is waited for
    peer.finish()


def test_heartbeats_without_progress_are_a_stall() -> None:
    peer = Peer(stall=0.3)
    peer.say(HELLO)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.02):
            peer.say(heartbeat(1))

    beating = Task(beat)
    with pytest.raises(
        ChannelTimeout, match=r"retailer is connected but has neither computed nor moved data for 0\.3 s"
    ):
        peer.stream.get(10, "psi.reply")
    stop.set()
    beating.result()
    peer.finish()


def test_heartbeats_with_progress_are_waited_for() -> None:
    peer = Peer(stall=0.5)

    def compute() -> None:
        for counter in range(1, 21):
            time.sleep(0.05)
            peer.say(heartbeat(counter))
        peer.say(first(4, b"done"))

    peer.say(HELLO)
    computing = Task(compute)
    assert peer.stream.get(4, "x") == b"done"
    computing.result()
    peer.finish()


def test_a_computation_that_starved_the_reader_is_not_the_peers_silence() -> None:
    peer = Peer(silence=0.3)
    peer.say(HELLO)
    time.sleep(0.5)  # as long as nobody waits, nobody is late
    threading.Timer(0.1, lambda: peer.say(first(4, b"late"))).start()
    assert peer.stream.get(4, "x") == b"late"
    peer.finish()


def beats(peer: Peer, seconds: float, *, busy: bool) -> int:
    """Return by how much the heartbeats' counter grew while this process computed, or did nothing."""
    start = len(peer.heard)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not busy:
            time.sleep(0.05)
    counters = [int.from_bytes(m[1:], "big") for m in peer.heard[start:] if m[0] == Kind.HEARTBEAT]
    assert len(counters) >= 3
    assert all(a <= b for a, b in pairwise(counters))
    return counters[-1] - counters[0]


def test_heartbeats_tell_a_busy_process_from_an_idle_one() -> None:
    peer = Peer(silence=1.0)
    assert beats(peer, 0.8, busy=True) >= 3
    assert beats(peer, 0.8, busy=False) <= 1
    peer.finish()


def test_bye_is_answered_and_ends_what_waits(peer: Peer) -> None:
    peer.say(HELLO, first(1, b"a"), BYE)
    peer.wait_for(Kind.THANKS)
    assert peer.stream.get(1, "x") == b"a"
    with pytest.raises(ChannelClosed, match="retailer closed the connection while bank waited for x"):
        peer.stream.get(1, "x")
    with pytest.raises(ChannelClosed, match="retailer closed the connection"):
        peer.stream.put(b"b")


def test_a_connection_that_ends_without_bye_is_lost(peer: Peer) -> None:
    peer.say(HELLO, first(1, b"a"), first(2, b"b"))
    peer.end()
    assert peer.stream.get(1, "x") == b"a"
    with pytest.raises(ChannelClosed, match="retailer went away while bank waited for x"):
        peer.stream.get(2, "x")


def test_close_waits_until_everything_has_arrived(peer: Peer) -> None:
    peer.say(HELLO)
    peer.stream.put(b"last words")
    closing = Task(peer.stream.close)
    peer.wait_for(Kind.BYE)
    assert [m for m in peer.heard if m[0] in (Kind.FIRST, Kind.BYE)] == [first(10, b"last words"), BYE]
    time.sleep(0.05)
    assert closing._thread.is_alive()
    peer.say(THANKS)
    peer.end()
    closing.result()


def test_in_a_hurry_close_gives_up() -> None:
    peer = Peer(silence=30.0, stall=30.0)
    peer.say(HELLO)
    peer.stream.put(bytes(12 * CHUNK))  # nobody reads it
    peer.stream.hurry(0.1)
    started = time.monotonic()
    with pytest.raises(ChannelTimeout):
        peer.stream.put(b"abort")
    peer.stream.close()
    assert time.monotonic() - started < 5
    peer.finish()


def test_a_frame_above_the_absolute_limit_is_not_sent(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vfl.protocols.stream.LARGEST_FRAME", 10)
    with pytest.raises(LocalProtocolError, match="a frame has 11 bytes, at most 10 fit"):
        peer.stream.put(bytes(11))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_cannot_use_the_connection(peer: Peer) -> None:
    child = os.fork()
    if child == 0:
        refused = 0
        for use in (lambda: peer.stream.put(b"x"), lambda: peer.stream.get(1, "x")):
            try:
                use()
            except LocalProtocolError:
                refused += 1
        peer.stream.close()
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    peer.say(HELLO, first(1, b"a"))
    assert peer.stream.get(1, "x") == b"a"
