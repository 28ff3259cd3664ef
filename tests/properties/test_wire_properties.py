"""The encoding, searched: every message survives it, and no other bytes pass for one."""

from typing import Annotated, Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Meta
from numpy.typing import NDArray

from vfl.errors import ChannelClosed, MalformedMessage, MessageTooLarge, VFLError
from vfl.protocols.stream import Stream
from vfl.protocols.wire import (
    Abort,
    Array,
    Bounded,
    Bytes,
    Declaration,
    Leakage,
    Message,
    Role,
    decode,
    encode,
    largest,
    type_name,
)


class Mixed(Message, frozen=True, kw_only=True):
    declaration = Declaration("test.mixed", Role.EITHER, Leakage.PUBLIC, "test data")
    count: int
    ratio: float
    yes: bool
    text: Annotated[str, Meta(max_length=20)]
    note: Annotated[bytes, Meta(max_length=20)]
    labels: Annotated[dict[str, str], Bounded(4096)]
    matrix: Annotated[NDArray[np.float64], Array("<f8", "rows", 2)]
    raw: Annotated[bytes, Bytes("size")]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
DOUBLES = st.floats(allow_nan=True, allow_infinity=True, width=64)
FIELDS = st.fixed_dictionaries(
    {
        "count": st.integers(-(2**63), 2**64 - 1),
        "ratio": DOUBLES,
        "yes": st.booleans(),
        "text": TEXT,
        "note": st.binary(max_size=20),
        "labels": st.dictionaries(TEXT, TEXT, max_size=5),
        "matrix": st.lists(st.tuples(DOUBLES, DOUBLES), max_size=5),
        "raw": st.binary(max_size=40),
    }
)


def message(fields: dict[str, Any]) -> tuple[Mixed, dict[str, int]]:
    matrix = np.array(fields["matrix"], dtype="<f8").reshape(-1, 2)
    return Mixed(**(fields | {"matrix": matrix})), {"rows": len(matrix), "size": len(fields["raw"])}


@given(FIELDS)
def test_every_message_survives(fields: dict[str, Any]) -> None:
    sent, dims = message(fields)
    raw = encode(sent)
    got = decode(Mixed, raw, dims)
    assert encode(got) == raw
    assert got.matrix.tobytes() == sent.matrix.tobytes()
    for name in ("count", "yes", "text", "note", "labels", "raw"):
        assert getattr(got, name) == fields[name]
    assert type_name(raw) == "test.mixed"
    assert len(raw) <= largest(Mixed, dims)


@given(st.binary(max_size=400))
def test_random_bytes_are_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(Mixed, raw, {"rows": 1, "size": 1})
    with pytest.raises(MalformedMessage):
        type_name(raw)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | DOUBLES | TEXT | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(VALUES, min_size=8, max_size=8))
@example([0, 0.0, False, "", b"", {}, bytes(16), b"a"])
def test_what_decodes_at_all_is_canonical(values: list[object]) -> None:
    """Well-formed MessagePack under the right name is refused, or is exactly what a sender would send."""
    raw = msgspec.msgpack.encode(["test.mixed", *values])
    try:
        got = decode(Mixed, raw, {"rows": 1, "size": 1})
    except MalformedMessage:
        return
    assert encode(got) == raw


@given(FIELDS, st.data())
def test_a_changed_byte_is_refused_or_is_another_canonical_message(
    fields: dict[str, Any], data: st.DataObject
) -> None:
    sent, dims = message(fields)
    raw = bytearray(encode(sent))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        got = decode(Mixed, bytes(raw), dims)
    except MalformedMessage:
        return
    assert encode(got) == bytes(raw)


@given(FIELDS, st.data())
def test_a_cut_or_extended_message_is_refused(fields: dict[str, Any], data: st.DataObject) -> None:
    sent, dims = message(fields)
    raw = encode(sent)
    with pytest.raises(MalformedMessage):
        decode(Mixed, raw[: data.draw(st.integers(0, len(raw) - 1))], dims)
    with pytest.raises(MalformedMessage):
        decode(Mixed, raw + data.draw(st.binary(min_size=1, max_size=20)), dims)


@given(st.text(max_size=80))
def test_an_abort_is_an_identifier_or_refused(reason: str) -> None:
    raw = msgspec.msgpack.encode(["abort", "".join(c for c in reason if not "\ud800" <= c <= "\udfff")])
    try:
        got = decode(Abort, raw, {})
    except MalformedMessage:
        return
    assert got.reason == "" or (got.reason.isascii() and got.reason.isalpha())
    assert len(got.reason) <= 64


GREETING = b"\x00vfl stream 1"
FIRST = st.builds(
    lambda total, data: b"\x01" + total.to_bytes(8, "big") + data, st.integers(0, 12), st.binary(max_size=12)
)
MORE = st.builds(lambda data: b"\x02" + data, st.binary(min_size=1, max_size=12))


def frames_of(messages: list[bytes]) -> list[bytes] | None:
    """Put chunks together, naively; None if they break the rules."""
    frames: list[bytes] = []
    total, frame = 0, b""
    for message in messages:
        if (message[0] == 1) == (len(frame) < total):
            return None
        if message[0] == 1:
            total, frame = int.from_bytes(message[1:9], "big"), b""
        chunk = message[9:] if message[0] == 1 else message[1:]
        frame += chunk
        if len(frame) > total or (not chunk and total):
            return None
        if len(frame) == total:
            frames.append(frame)
            total, frame = 0, b""
    return frames


def received(messages: list[bytes]) -> tuple[list[bytes], VFLError]:
    """Return the frames that a stream of these messages yields, and the error that ends it."""
    stream = Stream("bank", "retailer", silence_seconds=60, stall_seconds=60)
    stream.start([GREETING, *messages], lambda: None)
    stream._reader.join()
    frames: list[bytes] = []
    while True:
        try:
            frames.append(stream.get(1 << 20, "x"))
        except VFLError as error:
            return frames, error


@given(st.lists(FIRST | MORE, max_size=8))
def test_chunks_are_frames_or_refused(messages: list[bytes]) -> None:
    expected = frames_of(messages)
    frames, error = received(messages)
    if expected is None:
        assert isinstance(error, MalformedMessage)
    else:
        assert frames == expected
        assert isinstance(error, ChannelClosed)


@given(st.lists(st.binary(max_size=20) | FIRST, max_size=8))
def test_whatever_is_streamed_ends_in_a_typed_error(messages: list[bytes]) -> None:
    assert isinstance(received(messages)[1], MalformedMessage | MessageTooLarge | ChannelClosed)
