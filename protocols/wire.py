"""Messages and their encoding: what may cross the wire, from whom, of which leakage class and shape.

A message is a frozen msgspec struct with a :class:`Declaration`. Bulk fields are raw little-endian bytes without
any header of their own: their dtype and shape are declared, and the receiver binds the dimensions, so that it knows
the exact size of a message before the first byte arrives. Everything else is bounded by its declaration. Decoding
refuses unknown types, missing and extra fields, wrong sizes and wrong types; nothing is ever unpickled.

    class PartialScore(Message):
        declaration = Declaration("gradient.score", sender=Role.HOST, leakage=Leakage.SCORE, reveals="...")
        z: Annotated[FloatArray, Array("<f8", "rows")]
"""

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from vfl.crypto.fresh import FreshCiphertexts, ReceivedCiphertexts
from vfl.errors import LocalProtocolError, MalformedMessage

__all__ = [
    "OPT_IN",
    "Abort",
    "Array",
    "Bounded",
    "Bytes",
    "Ciphers",
    "Declaration",
    "Leakage",
    "Message",
    "Role",
    "decode",
    "encode",
    "largest",
    "message_types",
    "shape_of",
    "type_name",
]


class Role(enum.StrEnum):
    """The roles: label holder and feature holder of vertical training, aggregator and client of horizontal sums."""

    GUEST = "guest"
    HOST = "host"
    AGGREGATOR = "aggregator"
    CLIENT = "client"
    EITHER = "either"


class Leakage(enum.StrEnum):
    """What a message gives away to the party that receives it."""

    PUBLIC = "public"  # agreed parameters, sizes, keys, proofs
    CIPHERTEXT = "ciphertext"  # fresh ciphertexts: their number alone
    UNIFORM = "uniform"  # one-time-padded or blinded values: their number alone
    INTERSECTION = "intersection"  # which customers are common, or how many
    PAYLOAD = "payload"  # agreed columns of the common customers, as they are
    RESULT = "result"  # what the call was made for: the scores of the rows that are scored
    REPRESENTATION = "representation"  # vectors made of a row's columns, one for each common row
    SCORE = "score"  # a party's part of each row's score
    GRADIENT = "gradient"  # a party's own gradient, as an aggregate over a batch
    NOISY_LABEL = "noisy_label"  # each row's label behind randomised response
    ROW_GRADIENT = "row_gradient"  # a gradient for each row: its label, unless noise hides it
    AGGREGATE = "aggregate"  # sums over all rows, or over so many parties, that no part of them follows
    CONTROL = "control"  # continue, stop, done


OPT_IN = frozenset(
    {
        Leakage.PAYLOAD,
        Leakage.REPRESENTATION,
        Leakage.SCORE,
        Leakage.GRADIENT,
        Leakage.NOISY_LABEL,
        Leakage.ROW_GRADIENT,
    }
)
"""Classes that both parties' configurations must name in ``accept_leakage``."""


@dataclass(frozen=True)
class Declaration:
    """What a message type is: its name on the wire, who sends it, its class and what that means in words."""

    name: str
    sender: Role
    leakage: Leakage
    reveals: str


@dataclass(frozen=True)
class Array:
    """A numpy array of a fixed little-endian dtype; dimensions are numbers or names bound by the receiver."""

    dtype: str
    dims: tuple[str | int, ...]

    def __init__(self, dtype: str, *dims: str | int) -> None:
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "dims", dims)

    def to_bytes(self, value: Any) -> bytes:
        """Return the raw bytes of an array that has the declared dtype."""
        if not isinstance(value, np.ndarray) or value.dtype != np.dtype(self.dtype):
            raise LocalProtocolError(f"expected an array of {self.dtype}, have {type(value).__name__}")
        return np.ascontiguousarray(value).tobytes()

    def from_bytes(self, raw: bytes, shape: tuple[int, ...]) -> Any:
        """Return an array over bytes whose length was checked."""
        return np.frombuffer(raw, dtype=self.dtype).reshape(shape)

    def shape(self, value: Any) -> tuple[int, ...]:
        """Return the shape that the value has."""
        return tuple(value.shape)

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Bytes:
    """Exactly as many bytes as the named dimension says."""

    dim: str | int
    itemsize: ClassVar[int] = 1

    @property
    def dims(self) -> tuple[str | int, ...]:
        """The one dimension."""
        return (self.dim,)

    def to_bytes(self, value: Any) -> bytes:
        """Return the value itself."""
        if not isinstance(value, bytes):
            raise LocalProtocolError(f"expected bytes, have {type(value).__name__}")
        return value

    def from_bytes(self, raw: bytes, shape: tuple[int, ...]) -> Any:
        """Return the bytes."""
        return raw

    def shape(self, value: Any) -> tuple[int, ...]:
        """Return the length."""
        return (len(value),)


class Ciphers(Bytes):
    """Fresh ciphertexts, of exactly as many bytes as the named dimension says."""

    def to_bytes(self, value: Any) -> bytes:
        """Return the canonical encoding; anything but fresh ciphertexts is refused."""
        if not isinstance(value, FreshCiphertexts):
            raise LocalProtocolError(
                f"{type(value).__name__} may not be sent: call rerandomise() to make the result fresh"
            )
        return value.to_bytes()

    def from_bytes(self, raw: bytes, shape: tuple[int, ...]) -> Any:
        """Return the ciphertexts as unvalidated bytes of the peer."""
        return ReceivedCiphertexts(raw)

    def shape(self, value: Any) -> tuple[int, ...]:
        """Return the size in bytes."""
        return (len(value.to_bytes()),)


@dataclass(frozen=True)
class Bounded:
    """The largest encoding, in bytes, of a field that is neither a number nor a bulk field."""

    size: int


_TYPES: dict[str, type["Message"]] = {}


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages: a frozen struct with a declaration."""

    declaration: ClassVar[Declaration]

    @classmethod
    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        known = _TYPES.setdefault(cls.declaration.name, cls)
        if known.__qualname__ != cls.__qualname__:
            raise TypeError(f"two message types are named {cls.declaration.name!r}")


MessageT = TypeVar("MessageT", bound=Message)
BulkSpec = Array | Bytes


class Abort(Message, frozen=True, kw_only=True):
    """The sender stops; the name of its error's type and nothing about its data."""

    declaration = Declaration(
        "abort",
        sender=Role.EITHER,
        leakage=Leakage.CONTROL,
        reveals="that the sender stopped, and why by type",
    )
    reason: Annotated[str, msgspec.Meta(max_length=64, pattern="^[A-Za-z]*$")]


def message_types() -> dict[str, type[Message]]:
    """Return every declared message type by its name on the wire."""
    return dict(_TYPES)


@dataclass(frozen=True)
class _Codec:
    bulk: dict[str, BulkSpec]
    overhead: int
    names: tuple[str, ...]
    decoder: "msgspec.msgpack.Decoder[Any]"
    plain: type


@cache
def _codec(kind: type[Message]) -> _Codec:
    """Derive the encoding of a message type from its annotations, once."""
    hints = {
        k: v for k, v in get_type_hints(kind, include_extras=True).items() if get_origin(v) is not ClassVar
    }
    bulk: dict[str, BulkSpec] = {}
    fields: list[tuple[str, Any]] = []
    overhead = 16 + len(kind.declaration.name)
    for name in kind.__struct_fields__:
        hint = hints[name]
        marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        spec = next((m for m in marks if isinstance(m, Array | Bytes)), None)
        if spec is not None:
            bulk[name] = spec
            overhead += 5
        else:
            overhead += _largest_plain(kind, name, hint, marks)
        fields.append((name, bytes if spec is not None else hint))
    plain = msgspec.defstruct(
        kind.__name__,
        fields,
        tag=kind.declaration.name,
        array_like=True,
        forbid_unknown_fields=True,
        frozen=True,
    )
    return _Codec(bulk, overhead, kind.__struct_fields__, msgspec.msgpack.Decoder(plain), plain)


def _largest_plain(kind: type[Message], name: str, hint: Any, marks: tuple[Any, ...]) -> int:
    base = get_args(hint)[0] if marks else hint
    bounded = next((m.size for m in marks if isinstance(m, Bounded)), None)
    if bounded is not None:
        return int(bounded)
    if base in (int, float, bool):
        return 9
    if isinstance(base, type) and issubclass(base, enum.StrEnum):
        return 5 + max(len(member) for member in base)
    lengths = [m.max_length for m in marks if isinstance(m, msgspec.Meta) and m.max_length is not None]
    if base in (str, bytes) and lengths:
        return 5 + 4 * int(lengths[0])
    raise TypeError(f"{kind.__name__}.{name} has no bound on its size")


def shape_of(message: Message) -> dict[str, int]:
    """Return the dimensions of a message's bulk fields by name; refuse fields that disagree."""
    dims: dict[str, int] = {}
    for name, spec in _codec(type(message)).bulk.items():
        shape = spec.shape(getattr(message, name))
        if len(shape) != len(spec.dims):
            raise LocalProtocolError(
                f"{type(message).__name__}.{name}: declared {spec.dims}, has shape {shape}"
            )
        for dim, size in zip(spec.dims, shape, strict=True):
            if size != (dims.setdefault(dim, size) if isinstance(dim, str) else dim):
                raise LocalProtocolError(
                    f"{type(message).__name__}.{name}: {dim} is {dims.get(str(dim), dim)}, not {size}"
                )
    return dims


def _sizes(kind: type[Message], dims: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    bulk = _codec(kind).bulk
    named = {dim for spec in bulk.values() for dim in spec.dims if isinstance(dim, str)}
    if named != set(dims):
        raise LocalProtocolError(
            f"{kind.__name__} has dimensions {sorted(named)}, the receiver bound {sorted(dims)}"
        )
    return {
        name: tuple(dims[dim] if isinstance(dim, str) else dim for dim in spec.dims)
        for name, spec in bulk.items()
    }


def largest(kind: type[Message], dims: Mapping[str, int]) -> int:
    """Return the largest encoding in bytes of a message whose dimensions are known."""
    codec = _codec(kind)
    return codec.overhead + sum(
        codec.bulk[name].itemsize * math.prod(shape) for name, shape in _sizes(kind, dims).items()
    )


def encode(message: Message) -> bytes:
    """Return the canonical bytes of a message (MessagePack; bulk fields raw).

    Raises
    ------
    LocalProtocolError
        If a field does not have its declared type or shape, or holds ciphertexts that are not fresh.
    """
    codec = _codec(type(message))
    plain = _checked(message, codec)
    bulk = {name: spec.to_bytes(getattr(message, name)) for name, spec in codec.bulk.items()}
    shape_of(message)
    return msgspec.msgpack.encode(msgspec.structs.replace(plain, **bulk))


def _checked(message: Message, codec: _Codec) -> Any:
    """Return the fields with empty bulk, as a receiver would decode them; refuse what it would refuse."""
    fields = [b"" if name in codec.bulk else getattr(message, name) for name in codec.names]
    try:
        raw = msgspec.msgpack.encode(codec.plain(*fields))
        plain = codec.decoder.decode(raw)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LocalProtocolError(f"{type(message).__name__}: {error}") from None
    if len(raw) > codec.overhead:
        raise LocalProtocolError(
            f"{type(message).__name__}: {len(raw)} bytes beside bulk data, declared at most {codec.overhead}"
        )
    return plain


def type_name(raw: bytes) -> str:
    """Return the name of the message type that bytes claim to be.

    Raises
    ------
    MalformedMessage
        If the bytes do not begin like a message of a known type.
    """
    # fixarray of 1..15 elements whose first is a fixstr or str8: the tag
    if len(raw) >= 3 and 0x91 <= raw[0] <= 0x9F:
        start, size = (2, raw[1] & 0x1F) if raw[1] & 0xE0 == 0xA0 else (3, raw[2] if raw[1] == 0xD9 else 0)
        name = raw[start : start + size].decode("ascii", "replace")
        if name in _TYPES:
            return name
    raise MalformedMessage("the bytes do not begin with a known message type")


def decode(kind: type[MessageT], raw: bytes, dims: Mapping[str, int]) -> MessageT:
    """Return the message that bytes encode, if they are exactly one of type `kind` with dimensions `dims`.

    Raises
    ------
    MalformedMessage
        Naming the message type and the field.
    """
    codec = _codec(kind)
    try:
        plain = codec.decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedMessage(f"{kind.declaration.name}: {error}") from None
    if msgspec.msgpack.encode(plain) != raw:
        raise MalformedMessage(f"{kind.declaration.name}: not the canonical encoding")
    values: dict[str, Any] = {name: getattr(plain, name) for name in codec.names}
    for name, shape in _sizes(kind, dims).items():
        spec, expected = codec.bulk[name], codec.bulk[name].itemsize * math.prod(shape)
        if len(values[name]) != expected:
            raise MalformedMessage(
                f"{kind.declaration.name}.{name}: {len(values[name])} bytes, expected {expected}"
            )
        values[name] = spec.from_bytes(values[name], shape)
    return kind(**values)
