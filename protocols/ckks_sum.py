"""Sums under CKKS: the second back end, for parties that trust the aggregator to follow the protocol.

    holder i (a client)         client u                     aggregator
    b_i = -(a s_i + e_i)                     -- KeyPart -->         signed with i's pinned identity
                                             <-- JointKey --        all b_i and signatures
                                c = Enc(x_u) -- Summand -->         C = sum of the c that have come
                                             <-- Opening --         C's second half, to the holders
    d_i = C1 s_i + flooding                  -- Opened -->          sum of the x from C0 + sum of the d_i
                                             <-- Sum --

There is one holder, or several: all clients may be holders, and every holder is needed in the end. Clients that hold
nothing may be lost before their ciphertexts have come.

Adversary: semi-honest. The aggregator, the clients and all holders but one may put together what they have seen: they
learn the sum of the others. **All holders together with the aggregator read every vector**, with one holder these are
two. An aggregator that cheats can have one client's ciphertext opened in place of the sum, since holders cannot see of
what they open a share: :mod:`vfl.protocols.secagg` is the back end without that trust, and takes a tenth of the bytes.

Leakage
-------
Aggregator and clients learn the sum and whose vectors are in it, exactly and without the noise of CKKS
(:mod:`vfl.crypto.ckks_sums`). A ciphertext shows nothing but its size to whoever has not all shares of the key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.agreement import digest
from vfl.crypto.ckks_sums import KeyShare, PublicKey, SumFormat, Total
from vfl.crypto.fresh import FreshCiphertexts
from vfl.crypto.rng import Rng
from vfl.crypto.signatures import SIGNATURE_BYTES, IdentityKey, verify
from vfl.errors import ChannelError, CohortTooSmall, ConfigError, InconsistentView, PeerAborted
from vfl.protocols.channel import Channel
from vfl.protocols.secagg.policy import Policy
from vfl.protocols.wire import Array, Bytes, Ciphers, Declaration, Leakage, Message, Role

__all__ = ["Sums", "aggregator", "client"]

KEY = "vfl ckks sum key"
Integers = NDArray[np.int64]


class KeyPart(Message, frozen=True, kw_only=True):
    """A holder's part of the public key, signed."""

    declaration = Declaration("ckks.part", Role.CLIENT, Leakage.PUBLIC, "a part of a fresh public key")
    part: Annotated[bytes, Bytes("key")]
    signature: Annotated[bytes, Bytes(SIGNATURE_BYTES)]


class JointKey(Message, frozen=True, kw_only=True):
    """All holders' parts, in the order of their names."""

    declaration = Declaration("ckks.key", Role.AGGREGATOR, Leakage.PUBLIC, "a fresh public key")
    parts: Annotated[NDArray[np.uint8], Array("|u1", "holders", "key")]
    signatures: Annotated[NDArray[np.uint8], Array("|u1", "holders", SIGNATURE_BYTES)]


class Summand(Message, frozen=True, kw_only=True):
    """A client's encrypted vector."""

    declaration = Declaration("ckks.summand", Role.CLIENT, Leakage.CIPHERTEXT, "nothing but its size")
    vector: Annotated[FreshCiphertexts, Ciphers("summand")]


class Opening(Message, frozen=True, kw_only=True):
    """The second half of the sum of ciphertexts, for the holders, and of whose it is."""

    declaration = Declaration(
        "ckks.opening",
        Role.AGGREGATOR,
        Leakage.CIPHERTEXT,
        "whose vectors are summed; with a whole key the noise",
    )
    present: Annotated[NDArray[np.uint8], Array("|u1", "clients")]
    half: Annotated[bytes, Bytes("half")]


class Opened(Message, frozen=True, kw_only=True):
    """A holder's share of the sum."""

    declaration = Declaration(
        "ckks.opened", Role.CLIENT, Leakage.AGGREGATE, "with those of all holders, the sum, and no part of it"
    )
    half: Annotated[bytes, Bytes("half")]


class Sum(Message, frozen=True, kw_only=True):
    """The sum, and of whose vectors."""

    declaration = Declaration("ckks.sum", Role.AGGREGATOR, Leakage.AGGREGATE, "the sum of the vectors")
    present: Annotated[NDArray[np.uint8], Array("|u1", "clients")]
    total: Annotated[NDArray[np.int64], Array("<i8", "dimension")]


@dataclass(frozen=True)
class Sums:
    """What all parties of one sum agree on.

    Parameters
    ----------
    policy : Policy
        Clients, their identity keys, and how many a sum has at least.
    holders : tuple of str
        The clients that hold the key together; one, or several, or all.
    session : bytes
        Names this sum and no other: a key opens one.
    dimension, bits : int
        Of the vectors, and of a sum: see :class:`~vfl.crypto.ckks_sums.SumFormat`.

    Raises
    ------
    ConfigError
        If a holder is no client, or is named twice.
    EncodingOverflow
        If no parameters fit.
    """

    policy: Policy
    holders: tuple[str, ...]
    session: bytes
    dimension: int
    bits: int

    def __post_init__(self) -> None:
        if not self.holders or len(set(self.holders)) != len(self.holders):
            raise ConfigError("a key has at least one holder, and each only once")
        if not set(self.holders) <= set(self.policy.names):
            raise ConfigError("every holder is one of the policy's clients")
        object.__setattr__(self, "holders", tuple(sorted(self.holders)))
        _ = self.format

    @cached_property
    def format(self) -> SumFormat:
        """Parameters of the encryption."""
        return SumFormat(self.dimension, self.bits, len(self.policy.names), len(self.holders))

    @property
    def seed(self) -> bytes:
        """What fixes a: nobody chooses it."""
        facts = self.policy.fields() | {"dimension": str(self.dimension), "bits": str(self.bits)}
        texts = [text.encode() for item in sorted(facts.items()) for text in item]
        return digest("ckks sum", self.session, *(name.encode() for name in self.holders), *texts)

    def statement(self, holder: str, part: bytes) -> bytes:
        """Return what a holder signs."""
        return digest("ckks key", self.seed, holder.encode(), part)

    @property
    def sizes(self) -> dict[str, int]:
        """Dimensions of the messages."""
        format = self.format
        return {
            "holders": len(self.holders), "clients": len(self.policy.names), "key": format.key_bytes,
            "summand": format.summand_bytes, "half": format.half_bytes, "dimension": self.dimension,
        }  # fmt: skip

    def dims(self, *names: str) -> dict[str, int]:
        """Return some of them."""
        return {name: self.sizes[name] for name in names}

    def joint_key(self, message: JointKey) -> PublicKey:
        """Return the public key that all holders have signed.

        Raises
        ------
        PeerAuthenticationError
            If one has not.
        """
        parts = [row.tobytes() for row in message.parts]
        for holder, part, signature in zip(self.holders, parts, message.signatures, strict=True):
            verify(self.policy.clients[holder], KEY, self.statement(holder, part), signature.tobytes())
        return PublicKey(self.format, self.seed, parts)

    def check(self, present: NDArray[np.uint8]) -> None:
        """Refuse a sum over too few clients.

        Raises
        ------
        CohortTooSmall
        """
        count = int((present == 1).sum())
        if count < self.policy.minimum:
            raise CohortTooSmall(f"a sum over {count} clients, {self.policy.minimum} are required")


async def client(
    aggregator: Channel, sums: Sums, values: Integers, identity: IdentityKey, rng: Rng
) -> tuple[Integers, tuple[str, ...]]:
    """Take part in one sum; return it, shape (dimension,), and whose vectors are in it.

    Parameters
    ----------
    aggregator : Channel
    sums : Sums
    values : ndarray of int64, shape (dimension,)
        Each at most 2^(bits - 1) over the number of clients in absolute value.
    identity : IdentityKey
        The one that the policy pins for this client.
    rng : Rng

    Raises
    ------
    CohortTooSmall
        If too few clients are in the sum.
    PeerAuthenticationError, InvalidKey, InconsistentView, ChannelError
    """
    me, key = aggregator.me.name, None
    if me in sums.holders:
        key = KeyShare(sums.format, sums.seed, rng)
        signature = identity.sign(KEY, sums.statement(me, key.public_bytes))
        await aggregator.send(KeyPart(part=key.public_bytes, signature=signature))
    public = sums.joint_key(await aggregator.recv(JointKey, **sums.dims("holders", "key")))
    await aggregator.send(Summand(vector=public.encrypt(values, rng)))
    opening = None
    if key is not None:
        opening = await aggregator.recv(Opening, **sums.dims("clients", "half"))
        sums.check(opening.present)
        await aggregator.send(Opened(half=key.share(opening.half, rng)))
    result = await aggregator.recv(Sum, **sums.dims("clients", "dimension"))
    sums.check(result.present)
    if opening is not None and not np.array_equal(opening.present, result.present):
        raise InconsistentView("the aggregator names other clients than those of the sum that was opened")
    return result.total, tuple(n for n, there in zip(sums.policy.names, result.present, strict=True) if there)


async def aggregator(clients: Mapping[str, Channel], sums: Sums) -> tuple[Integers, tuple[str, ...]]:
    """Add up what the clients send; return the sum and whose vectors are in it.

    Clients that are no holders may be lost before their ciphertexts have come.

    Parameters
    ----------
    clients : mapping of str to Channel
        All of the policy's.
    sums : Sums

    Raises
    ------
    CohortTooSmall
        If too few clients remain.
    ChannelError
        If a holder is lost.
    InvalidCiphertext
        If what a client sends is not well-formed, or the shares open no sum.
    """
    parts = [await clients[name].recv(KeyPart, **sums.dims("key")) for name in sums.holders]
    joint = JointKey(
        parts=_rows([part.part for part in parts]), signatures=_rows([part.signature for part in parts])
    )
    total, present = Total(sums.format), np.zeros(len(sums.policy.names), np.uint8)
    alive = [name for name in sums.policy.names if await _delivered(clients[name], joint)]
    for name in alive:
        try:
            summand = await clients[name].recv(Summand, **sums.dims("summand"))
        except (ChannelError, PeerAborted):
            continue
        total.add(summand.vector.to_bytes())
        present[sums.policy.names.index(name)] = 1
    sums.check(present)
    opening = Opening(present=present, half=total.c1)
    for name in sums.holders:
        await clients[name].send(opening)
    opened = [await clients[name].recv(Opened, **sums.dims("half")) for name in sums.holders]
    result = Sum(present=present, total=total.open([share.half for share in opened]))
    names = tuple(name for name, there in zip(sums.policy.names, present, strict=True) if there)
    for name in names:
        await _delivered(clients[name], result)
    return result.total, names


async def _delivered(channel: Channel, message: Message) -> bool:
    try:
        await channel.send(message)
    except ChannelError:
        return False
    return True


def _rows(items: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.stack([np.frombuffer(item, np.uint8) for item in items])
