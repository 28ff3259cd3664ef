"""The encoding of messages: round trips, everything a sender may get wrong, everything a peer may send instead."""

import enum
import gzip
import pickle
import tracemalloc
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import numpy as np
import pytest
from msgspec import Meta
from numpy.typing import NDArray

from vfl.crypto.fresh import FreshCiphertexts, ReceivedCiphertexts
from vfl.errors import LocalProtocolError, MalformedMessage
from vfl.protocols.wire import (
    Abort,
    Array,
    Bounded,
    Bytes,
    Ciphers,
    Declaration,
    Leakage,
    Message,
    Role,
    decode,
    encode,
    largest,
    message_types,
    shape_of,
    type_name,
)


class Colour(enum.StrEnum):
    RED = "red"
    GREEN = "green"


class Everything(Message, frozen=True, kw_only=True):
    """One field of every kind."""

    declaration = Declaration("test.everything", Role.EITHER, Leakage.PUBLIC, "test data")
    count: int
    ratio: float
    yes: bool
    colour: Colour
    text: Annotated[str, Meta(max_length=8)]
    note: Annotated[bytes, Meta(max_length=8)]
    labels: Annotated[dict[str, str], Bounded(64)]
    tree: Annotated[list[Any], Bounded(1 << 20)]
    matrix: Annotated[NDArray[np.float64], Array("<f8", "rows", "columns")]
    residues: Annotated[NDArray[np.uint64], Array("<u8", "rows")]
    nonce: Annotated[bytes, Bytes(4)]
    points: Annotated[bytes, Bytes("point_bytes")]
    ciphers: Annotated[FreshCiphertexts, Ciphers("cipher_bytes")]


DIMS = {"rows": 2, "columns": 3, "point_bytes": 5, "cipher_bytes": 6}


def everything(**changed: Any) -> Everything:
    fields: dict[str, Any] = {
        "count": 7,
        "ratio": 0.5,
        "yes": True,
        "colour": Colour.RED,
        "text": "Grüße",
        "note": b"\x00\xff",
        "labels": {"a": "b", "c": "d"},
        "tree": [1, [2, None]],
        "matrix": np.arange(6.0).reshape(2, 3),
        "residues": np.array([1, 2**64 - 1], dtype="<u8"),
        "nonce": b"abcd",
        "points": b"12345",
        "ciphers": ReceivedCiphertexts(b"cipher"),
    }
    return Everything(**(fields | changed))


class Small(Message, frozen=True, kw_only=True):
    """A number, a float and a map, for which canonical encodings are easy to write by hand."""

    declaration = Declaration("test.small", Role.GUEST, Leakage.PUBLIC, "test data")
    count: int
    ratio: float
    labels: Annotated[dict[str, str], Bounded(64)]


def small(
    count: bytes = b"\x07", ratio: bytes = b"\xcb" + bytes(8), labels: bytes = b"\x81\xa1a\xa1b"
) -> bytes:
    return b"\x94\xaatest.small" + count + ratio + labels


def test_a_message_survives_the_wire() -> None:
    sent = everything()
    got = decode(Everything, encode(sent), DIMS)
    for name in ("count", "ratio", "yes", "colour", "text", "note", "labels", "tree", "nonce", "points"):
        assert getattr(got, name) == getattr(sent, name)
        assert type(getattr(got, name)) is type(getattr(sent, name))
    np.testing.assert_array_equal(got.matrix, sent.matrix)
    np.testing.assert_array_equal(got.residues, sent.residues)
    assert isinstance(got.ciphers, ReceivedCiphertexts)
    assert got.ciphers.to_bytes() == b"cipher"
    assert encode(got) == encode(sent)
    assert type_name(encode(sent)) == "test.everything"
    assert shape_of(sent) == DIMS


def test_the_encoding_is_messagepack_with_the_name_first() -> None:
    assert encode(Small(count=7, ratio=0.0, labels={"a": "b"})) == small()
    assert decode(Small, small(), {}) == Small(count=7, ratio=0.0, labels={"a": "b"})


def test_a_whole_number_in_a_float_field_is_sent_as_a_float() -> None:
    assert encode(Small(count=7, ratio=0, labels={"a": "b"})) == small()


def test_the_largest_encoding_is_known_beforehand() -> None:
    widest = everything(
        count=2**64 - 1,
        colour=Colour.GREEN,
        text="\N{GRINNING FACE}" * 8,
        note=bytes(8),
        labels={"k" * 28: "v" * 28},
        tree=["x" * (2**20 - 6)],
    )
    slack = len("test.everything") + 16 + 9 * 5
    assert largest(Everything, DIMS) - slack <= len(encode(widest)) <= largest(Everything, DIMS)
    assert largest(Small, {}) < 150


def test_an_array_may_be_a_view_of_another_order() -> None:
    matrix = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    assert encode(everything(matrix=matrix)) == encode(everything())
    strided = np.arange(12.0).reshape(2, 6)[:, ::2]
    np.testing.assert_array_equal(
        decode(Everything, encode(everything(matrix=strided)), DIMS).matrix, strided
    )


def test_received_arrays_cannot_be_written() -> None:
    assert not decode(Everything, encode(everything()), DIMS).matrix.flags.writeable


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", np.int64(7)),
        ("count", 2**64),
        ("count", 7.5),
        ("count", None),
        ("ratio", np.float32(0.5)),
        ("ratio", "0.5"),
        ("yes", 1),
        ("colour", "blue"),
        ("text", "123456789"),
        ("text", b"bytes"),
        ("text", "\ud800"),
        ("note", bytes(9)),
        ("labels", {"a": 1}),
        ("labels", {"k" * 40: "v" * (1 << 21)}),
        ("tree", [object()]),
        ("matrix", [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        ("matrix", np.zeros((2, 3), dtype="<f4")),
        ("matrix", np.zeros((2, 3), dtype=">f8")),
        ("matrix", np.zeros((2, 3), dtype=object)),
        ("matrix", np.zeros((3, 3))),
        ("matrix", np.zeros(2)),
        ("residues", np.zeros(2, dtype="<i8")),
        ("residues", np.zeros((2, 1), dtype="<u8")),
        ("nonce", b"abc"),
        ("nonce", bytearray(b"abcd")),
        ("points", "12345"),
        ("ciphers", b"cipher"),
    ],
)
def test_a_sender_that_is_wrong_is_told_before_anything_leaves(field: str, value: object) -> None:
    with pytest.raises(LocalProtocolError, match=r"Everything|expected|may not be sent"):
        encode(everything(**{field: value}))


def test_computed_ciphertexts_are_refused_with_the_remedy() -> None:
    class Ciphertexts:
        def to_bytes(self) -> bytes:
            return b"cipher"

    with pytest.raises(LocalProtocolError, match=r"Ciphertexts may not be sent: call rerandomise\(\)"):
        encode(everything(ciphers=Ciphertexts()))


@pytest.mark.parametrize(
    "dims",
    [{}, DIMS | {"more": 1}, {name: size for name, size in DIMS.items() if name != "rows"}],
)
def test_a_receiver_binds_exactly_the_declared_dimensions(dims: dict[str, int]) -> None:
    with pytest.raises(LocalProtocolError, match="Everything has dimensions"):
        decode(Everything, encode(everything()), dims)
    with pytest.raises(LocalProtocolError, match="Everything has dimensions"):
        largest(Everything, dims)


@pytest.mark.parametrize(
    ("dims", "field"),
    [
        (DIMS | {"rows": 3}, "matrix"),
        (DIMS | {"columns": 2}, "matrix"),
        (DIMS | {"point_bytes": 4}, "points"),
        (DIMS | {"cipher_bytes": 7}, "ciphers"),
        (DIMS | {"cipher_bytes": 0}, "ciphers"),
    ],
)
def test_a_bulk_field_of_another_size_is_refused_by_name(dims: dict[str, int], field: str) -> None:
    with pytest.raises(MalformedMessage, match=rf"test\.everything\.{field}: \d+ bytes, expected \d+"):
        decode(Everything, encode(everything()), dims)


def repacked(change: Callable[[list[Any]], object]) -> bytes:
    """Return the encoding of a message whose fields, the type's name first, were changed by hand."""
    fields = msgspec.msgpack.decode(encode(everything()))
    change(fields)
    return msgspec.msgpack.encode(fields)


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "unknown type": repacked(lambda fields: fields.__setitem__(0, "test.unknown")),
    "another known type": repacked(lambda fields: fields.__setitem__(0, "abort")),
    "type's name a number": repacked(lambda fields: fields.__setitem__(0, 1)),
    "a field missing": repacked(lambda fields: fields.pop()),
    "a field too many": repacked(lambda fields: fields.append(1)),
    "a map instead of an array": msgspec.msgpack.encode({"type": "test.everything", "count": 7}),
    "a number as text": repacked(lambda fields: fields.__setitem__(1, "7")),
    "a number as a float": repacked(lambda fields: fields.__setitem__(1, 7.0)),
    "no number": repacked(lambda fields: fields.__setitem__(1, None)),
    "a flag as a number": repacked(lambda fields: fields.__setitem__(3, 1)),
    "an unknown choice": repacked(lambda fields: fields.__setitem__(4, "blue")),
    "text too long": repacked(lambda fields: fields.__setitem__(5, "x" * 9)),
    "bytes too long": repacked(lambda fields: fields.__setitem__(6, bytes(9))),
    "a map of numbers": repacked(lambda fields: fields.__setitem__(7, {"a": 1})),
    "bulk data as text": repacked(lambda fields: fields.__setitem__(9, "x" * 48)),
    "bulk data as a list": repacked(lambda fields: fields.__setitem__(9, [0.0] * 6)),
    "trailing bytes": encode(everything()) + b"\0",
    "cut short": encode(everything())[:-1],
    "2^32 bytes announced": b"\x94\xaatest.small\xc6\xff\xff\xff\xff",
    "2^32 elements announced": b"\xdd\xff\xff\xff\xff\xaatest.small",
    "2^32 pairs announced": small(labels=b"\xdf\xff\xff\xff\xff"),
    "extension type": small(count=b"\xc7\x04\x01abcd"),
    "timestamp": small(count=b"\xd6\xff\x00\x00\x00\x00"),
    "invalid UTF-8": small(labels=b"\x81\xa1\xff\xa1b"),
    "invalid byte": small(count=b"\xc1"),
    "deep nesting": b"\x91" * 100_000,
    "deep nesting in a field": repacked(lambda fields: fields.__setitem__(8, None)).replace(
        b"\xc0", b"\x91" * 100_000 + b"\xc0"
    ),
    "duplicate keys": small(labels=b"\x82\xa1a\xa1x\xa1a\xa1b"),
    "a long form of a number": small(count=b"\xcc\x07"),
    "a signed form of a number": small(count=b"\xd1\x01\x2c"),
    "a short form of a float": small(ratio=b"\xca" + bytes(4)),
    "a whole number for a float": small(ratio=b"\x00"),
    "a long form of a length": small(labels=b"\xde\x00\x01\xa1a\xa1b"),
    "a long form of the array": b"\xdc\x00\x04" + small()[1:],
    "pickle": pickle.dumps({"count": 7}),
    "pickle that would run": b"cbuiltins\nexec\n(S'raise SystemExit'\ntR.",
    "compressed": gzip.compress(bytes(50_000_000)),
    "HTTP": b"GET / HTTP/1.1\r\nHost: bank\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "JSON": b'["test.small", 7, 0.0, {"a": "b"}]',
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_a_peer_may_not_send(raw: bytes) -> None:
    tracemalloc.start()
    try:
        for kind, dims in ((Everything, DIMS), (Small, {}), (Abort, {})):
            with pytest.raises(MalformedMessage):
                decode(kind, raw, dims)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000  # nothing was unpacked or allocated on its word
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x91",
        b"\x91\xa5",
        b"\x91\xd9",
        b"\x91\xd9\xff",
        b"\x81\xa5abort",
        b"\x91\xa5abort"[:-1],
        b"\x91\xa6abort\xff",
        b"\x91\xc4\x05abort",
    ],
)
def test_bytes_that_name_no_type(raw: bytes) -> None:
    with pytest.raises(MalformedMessage, match="known message type"):
        type_name(raw)


@pytest.mark.parametrize("reason", ["has spaces", "x" * 65, "Umläut", "line\nbreak", "{format}"])
def test_an_abort_carries_the_name_of_a_type_alone(reason: str) -> None:
    with pytest.raises(LocalProtocolError):
        encode(Abort(reason=reason))
    with pytest.raises(MalformedMessage):
        decode(Abort, msgspec.msgpack.encode(["abort", reason]), {})


def test_an_error_names_the_type_and_the_field_and_not_the_value() -> None:
    raw = repacked(lambda fields: fields.__setitem__(5, "4711 is secret"))
    with pytest.raises(MalformedMessage, match=r"test\.everything: .*length <= 8 - at `\$\[5\]`") as caught:
        decode(Everything, raw, DIMS)
    assert "4711" not in str(caught.value)


def test_a_declaration_without_a_bound_is_refused() -> None:
    class Unbounded(Message, frozen=True, kw_only=True):
        declaration = Declaration("test.unbounded", Role.EITHER, Leakage.PUBLIC, "test data")
        text: str

    del Unbounded
    with pytest.raises(TypeError, match=r"Unbounded\.text has no bound on its size"):
        largest(message_types()["test.unbounded"], {})


def test_two_types_of_one_name_are_refused() -> None:
    with pytest.raises(TypeError, match=r"two message types are named 'test\.small'"):

        class Other(Message, frozen=True, kw_only=True):
            declaration = Declaration("test.small", Role.EITHER, Leakage.PUBLIC, "test data")
