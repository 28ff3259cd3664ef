"""One suite for every channel: whatever a role may rely on holds in memory and over the network alike."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.channels import Blob, Pair, Scores, make_pair, threads_besides
from vfl.errors import (
    AlignmentError,
    ChannelClosed,
    LocalProtocolError,
    MalformedMessage,
    MessageTooLarge,
    PeerAborted,
    UnexpectedMessage,
    VFLError,
)
from vfl.protocols.channel import Channel, Record
from vfl.protocols.session import checkpoint
from vfl.protocols.stream import CHUNK, WINDOW
from vfl.protocols.wire import encode

KINDS = ["memory", "recording", "faulty", "grpc"]
SIZES = [0, 1, 1000, CHUNK - 100, CHUNK, CHUNK + 1, 3 * CHUNK, WINDOW + 5]


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    before = set(threading.enumerate())
    pair = make_pair(request.param)
    yield pair
    pair.close()
    assert not threads_besides(before)


def pattern(size: int, start: int = 0) -> bytes:
    """Return bytes in which a chunk that is lost, repeated or moved shows."""
    return (np.arange(start, start + size, dtype=np.uint32) * 2654435761 >> 24).astype(np.uint8).tobytes()


async def send(channel: Channel, *blobs: bytes) -> None:
    for data in blobs:
        await channel.send(Blob(data=data))


async def receive(channel: Channel, *sizes: int) -> list[bytes]:
    return [(await channel.recv(Blob, size=size)).data for size in sizes]


async def both(first: Any, second: Any) -> Any:
    await first
    return await second


def test_frames_of_all_sizes_arrive_in_order(pair: Pair) -> None:
    blobs = [pattern(size, start) for start, size in enumerate(SIZES)]
    guest, host = pair.run(
        both(send(pair.guest, *blobs), receive(pair.guest, *reversed(SIZES))),
        both(receive(pair.host, *SIZES), send(pair.host, *reversed(blobs))),
    )
    assert host is None
    assert guest == list(reversed(blobs))
    assert pair.guest.bytes["sent"] == pair.host.bytes["received"] == pair.guest.bytes["received"]


def test_what_arrives_is_what_was_sent(pair: Pair) -> None:
    blobs = [pattern(size, start) for start, size in enumerate(SIZES)]
    assert pair.run(send(pair.guest, *blobs), receive(pair.host, *SIZES)) == (None, blobs)


def test_many_small_frames(pair: Pair) -> None:
    count = 3000
    blobs = [number.to_bytes(2, "big") for number in range(count)]
    assert pair.run(receive(pair.guest, *[2] * count), send(pair.host, *blobs)) == (blobs, None)


@pytest.mark.parametrize("first", ["guest", "host"])
def test_either_side_may_start_first(pair: Pair, first: str) -> None:
    speaks = {"guest": pair.guest, "host": pair.host}
    other = "host" if first == "guest" else "guest"
    roles = {
        first: both(send(speaks[first], b"a"), receive(speaks[first], 1)),
        other: both(receive(speaks[other], 1), send(speaks[other], b"b")),
    }
    results = dict(zip(("guest", "host"), pair.run(roles["guest"], roles["host"]), strict=True))
    assert results == {first: [b"b"], other: None}


def test_both_directions_at_once_beyond_the_window(pair: Pair) -> None:
    size = 2 * WINDOW
    mine, theirs = pattern(size), pattern(size, 7)
    results = pair.run(
        both(send(pair.guest, mine), receive(pair.guest, size)),
        both(send(pair.host, theirs), receive(pair.host, size)),
    )
    assert results == ([theirs], [mine])


def test_arrays_keep_their_values(pair: Pair) -> None:
    values = np.array([0.0, -0.0, np.inf, 1e308, 5e-324, -1.5])

    async def host() -> None:
        await pair.host.send(Scores(z=values))

    async def guest() -> bytes:
        return (await pair.guest.recv(Scores, rows=6)).z.tobytes()

    assert pair.run(guest(), host()) == (values.tobytes(), None)


def test_digests_agree_and_checkpoints_pass(pair: Pair) -> None:
    async def role(channel: Channel) -> None:
        await send(channel, b"xyz")
        await receive(channel, 3)
        await checkpoint(channel)

    assert pair.run(role(pair.guest), role(pair.host)) == (None, None)
    sent, received = pair.guest.digests()
    assert (received, sent) == pair.host.digests()
    assert pair.guest.bytes == pair.host.bytes


@pytest.mark.parametrize("excess", [5 * CHUNK, 1000])
def test_a_larger_frame_than_computed_is_refused(pair: Pair, excess: int) -> None:
    guest, host = pair.run(
        both(send(pair.guest, bytes(10 + excess)), receive(pair.guest, 1)), receive(pair.host, 10)
    )
    assert isinstance(host, MessageTooLarge)
    assert "bank" in str(host)
    assert "test.blob" in str(host)
    assert isinstance(guest, PeerAborted)
    assert "MessageTooLarge" in str(guest)


def test_a_frame_of_another_size_within_the_limit_is_refused(pair: Pair) -> None:
    _, host = pair.run(send(pair.guest, bytes(11)), receive(pair.host, 10))
    assert isinstance(host, MalformedMessage)
    assert "test.blob.data: 11 bytes, expected 10" in str(host)


def test_another_type_is_refused(pair: Pair) -> None:
    async def host() -> None:
        await pair.host.send(Scores(z=np.zeros(1)))
        await receive(pair.host, 1)

    guest, aborted = pair.run(receive(pair.guest, 8), host())
    assert isinstance(guest, UnexpectedMessage)
    assert "bank waits for test.blob, retailer sent test.scores" in str(guest)
    assert isinstance(aborted, PeerAborted)


def test_a_role_cannot_send_or_await_what_is_not_its_own(pair: Pair) -> None:
    async def wrong_sender() -> None:
        await pair.guest.send(Scores(z=np.zeros(1)))

    async def wrong_receiver() -> None:
        await pair.host.recv(Scores, rows=1)

    guest, host = pair.run(wrong_sender(), wrong_receiver())
    assert isinstance(guest, LocalProtocolError)
    assert isinstance(host, LocalProtocolError)
    assert pair.guest.bytes["sent"] < 100  # nothing but the word that it stops


def test_an_abort_names_the_type_of_the_error_and_nothing_else(pair: Pair) -> None:
    async def guest() -> None:
        raise AlignmentError("customer 4711 is missing")

    _, host = pair.run(guest(), receive(pair.host, 1))
    assert isinstance(host, PeerAborted)
    assert "bank stopped with AlignmentError while retailer waited for test.blob" in str(host)
    assert "4711" not in str(host)


def test_an_abort_closes_even_when_an_observer_stops_its_message(pair: Pair) -> None:
    def full(record: Record) -> None:
        raise OSError("disk full")

    pair.guest.observe(full)

    async def guest() -> None:
        with pytest.raises(OSError, match="disk full"):
            pair.guest.abort(AlignmentError("x"))

    _, host = pair.run(guest(), receive(pair.host, 1))
    assert isinstance(host, ChannelClosed)


def test_closing_delivers_what_was_sent(pair: Pair) -> None:
    async def guest() -> None:
        await send(pair.guest, b"a", bytes(2 * CHUNK), b"b")
        pair.guest.close()
        pair.guest.close()

    async def host() -> list[bytes]:
        received = await receive(pair.host, 1, 2 * CHUNK, 1)
        with pytest.raises(
            ChannelClosed, match=r"bank closed the connection while retailer waited for test\.blob"
        ):
            await receive(pair.host, 1)
        with pytest.raises(ChannelClosed, match="bank"):
            await send(pair.host, b"c")
        return received

    assert pair.run(guest(), host()) == (None, [b"a", bytes(2 * CHUNK), b"b"])


def test_a_closed_channel_sends_nothing(pair: Pair) -> None:
    pair.guest.close()
    guest, host = pair.run(send(pair.guest, b"a"), receive(pair.host, 1))
    assert isinstance(guest, ChannelClosed)
    assert isinstance(host, ChannelClosed)


def test_frames_of_another_session_do_not_fit(pair: Pair) -> None:
    pair.guest.bind(b"session 1")
    pair.host.bind(b"session 2")
    _, host = pair.run(send(pair.guest, b"a"), receive(pair.host, 1))
    assert isinstance(host, MalformedMessage)
    assert "does not continue the transcript" in str(host)


@pytest.mark.parametrize(
    ("garble", "error"),
    [
        (lambda frame: frame[:16] + b"\x91\xa8test.no!", MalformedMessage),
        (lambda frame: frame[:16], MalformedMessage),
        (lambda frame: frame[:15], MalformedMessage),
        (lambda frame: b"", MalformedMessage),
        (lambda frame: bytes(16) + frame[16:], MalformedMessage),
        (lambda frame: frame + b"\0", MalformedMessage),
        (lambda frame: frame + bytes(4096), MessageTooLarge),
    ],
)
def test_garbled_frames_are_refused(
    pair: Pair, garble: Callable[[bytes], bytes], error: type[VFLError]
) -> None:
    frame = pair.guest.digests()[0][:16] + encode(Blob(data=b"abc"))

    async def guest() -> None:
        pair.guest._put(garble(frame))

    assert isinstance(pair.run(guest(), receive(pair.host, 3))[1], error)


def test_observers_see_every_message_before_it_leaves_and_after_it_was_accepted(pair: Pair) -> None:
    seen: list[Record] = []
    pair.guest.observe(seen.append)
    pair.host.observe(seen.append)
    pair.run(send(pair.guest, b"ab"), receive(pair.host, 2))
    sent, received = seen
    assert (sent.direction, sent.party, sent.peer, sent.shape) == ("sent", "bank", "retailer", {"size": 2})
    assert (received.direction, received.party, received.peer) == ("received", "retailer", "bank")
    assert sent.digest == received.digest
    assert sent.size == received.size == pair.guest.bytes["sent"]


def test_an_observer_that_objects_keeps_the_message_from_leaving(pair: Pair) -> None:
    def refuse(record: Record) -> None:
        if record.kind == "test.blob":
            raise AlignmentError("not this one")

    pair.guest.observe(refuse)
    guest, host = pair.run(send(pair.guest, b"secret"), receive(pair.host, 6))
    assert isinstance(guest, AlignmentError)
    assert isinstance(host, PeerAborted)
