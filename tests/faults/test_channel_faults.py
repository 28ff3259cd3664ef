"""Each fault at each of the first messages: a typed error or the unchanged result, never a hang, never other data."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.channels import Blob, Pair, make_pair, threads_besides
from vfl.errors import ChannelClosed, ChannelTimeout, Deadlock, MalformedMessage, VFLError
from vfl.protocols.channel import Channel
from vfl.protocols.faults import Fault, FaultyChannel, Kind
from vfl.protocols.session import checkpoint

FIRST = [b"first message", b"second message", b"third message"]
REPLY = [b"reply"]
LAST = len(FIRST)  # number of the frame with the checkpoint
TAG_BIT, NAME_BIT, DATA_BIT = 0, 8 * 20, 8 * 30


@pytest.fixture(params=["memory", "grpc"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    before = set(threading.enumerate())
    # in memory run_local sees at once that everybody waits, over the network only time tells
    stuck = request.node.callspec.params.get("expected") is STUCK
    pair = make_pair(request.param, stall_seconds=0.4 if stuck else 10.0)
    yield pair
    pair.close()
    assert not threads_besides(before)


async def speak(channel: Channel) -> list[bytes]:
    for data in FIRST:
        await channel.send(Blob(data=data))
    heard = [(await channel.recv(Blob, size=len(data))).data for data in REPLY]
    await checkpoint(channel)
    return heard


async def listen(channel: Channel) -> list[bytes]:
    heard = [(await channel.recv(Blob, size=len(data))).data for data in FIRST]
    for data in REPLY:
        await channel.send(Blob(data=data))
    await checkpoint(channel)
    return heard


def disturbed(pair: Pair, number: int, fault: Fault) -> tuple[Any, Any]:
    """Run with the speaker's frame `number` disturbed; return the speaker's and the listener's outcome."""
    pair.guest = FaultyChannel(pair.guest, {number: fault})
    return pair.run(speak(pair.guest), listen(pair.host))


# Both wait until they give up. Over the network the first to do so says so, in a frame that does not fit either.
STUCK = (Deadlock, ChannelTimeout, MalformedMessage)
CASES = [
    *[(number, Fault(Kind.DROP), MalformedMessage) for number in (0, 1)],
    *[(number, Fault(Kind.DROP), STUCK) for number in (2, LAST)],
    *[(number, Fault(Kind.DUPLICATE), MalformedMessage) for number in (0, 1, 2)],
    *[(number, Fault(Kind.REORDER), MalformedMessage) for number in (0, 1)],
    *[(number, Fault(Kind.REORDER), STUCK) for number in (2, LAST)],
    *[
        (number, Fault(Kind.FLIP, bit), MalformedMessage)
        for number in (0, 1, 2, LAST)
        for bit in (TAG_BIT, NAME_BIT, DATA_BIT)
    ],
    *[
        (number, Fault(Kind.TRUNCATE, kept), MalformedMessage)
        for number in (0, 1, 2, LAST)
        for kept in (0, 8, 16, 27)
    ],
    *[(number, Fault(Kind.REPLAY, number - 1), MalformedMessage) for number in (1, 2, LAST)],
    (LAST, Fault(Kind.REPLAY, 0), MalformedMessage),
    *[(number, Fault(Kind.CLOSE), ChannelClosed) for number in (0, 1, 2, LAST)],
]


@pytest.mark.parametrize(
    ("number", "fault", "expected"), CASES, ids=[f"{f.kind}-{f.value}-at-{n}" for n, f, _ in CASES]
)
def test_a_fault_is_a_typed_error(
    pair: Pair, number: int, fault: Fault, expected: type[VFLError] | tuple[type[VFLError], ...]
) -> None:
    speaker, listener = disturbed(pair, number, fault)
    assert isinstance(listener, expected), listener
    # Nobody can know whether his last message arrived: a speaker that has the peer's checkpoint is done.
    at_the_end = number == LAST or fault in (Fault(Kind.FLIP, DATA_BIT), Fault(Kind.DUPLICATE))
    assert isinstance(speaker, VFLError) or (at_the_end and speaker == REPLY), speaker


@pytest.mark.parametrize("number", [0, 1, 2, LAST])
def test_a_delay_changes_nothing(pair: Pair, number: int) -> None:
    assert disturbed(pair, number, Fault(Kind.DELAY, 20)) == (REPLY, FIRST)


def test_a_repeated_last_frame_is_never_read(pair: Pair) -> None:
    assert disturbed(pair, LAST, Fault(Kind.DUPLICATE)) == (REPLY, FIRST)


def test_frames_of_an_earlier_session_are_refused() -> None:
    """A relay that recorded one session cannot play it into the next, once the handshake has bound its nonce."""
    recorded: list[bytes] = []
    for session in (b"nonce 1", b"nonce 2"):
        pair = make_pair("memory")
        pair.guest.bind(session)
        pair.host.bind(session)
        relay = Relay(pair.guest, recorded)
        outcome = pair.run(speak(relay), listen(pair.host))
        if session == b"nonce 1":
            assert outcome == (REPLY, FIRST)
        else:
            assert isinstance(outcome[1], MalformedMessage)
            assert "message 0 does not continue the transcript" in str(outcome[1])


class Relay(Channel):
    """Records what passes the first time; the second time plays the record instead."""

    def __init__(self, inner: Channel, recorded: list[bytes]) -> None:
        super().__init__(inner.me, inner.peer)
        self._inner, self._recorded, self._replay = inner, recorded, list(recorded)
        self._hashes = inner._hashes

    def _put(self, frame: bytes) -> None:
        self._recorded.append(frame)
        self._inner._put(self._replay.pop(0) if self._replay else frame)

    async def _get(self, limit: int, kind: str) -> bytes:
        return await self._inner._get(limit, kind)

    def close(self) -> None:
        self._inner.close()


@pytest.mark.parametrize("earlier", [1, 2, -1])
def test_only_an_earlier_frame_can_be_replayed(earlier: int) -> None:
    with pytest.raises(ValueError, match="name an earlier one"):
        FaultyChannel(make_pair("memory").guest, {1: Fault(Kind.REPLAY, earlier)})
