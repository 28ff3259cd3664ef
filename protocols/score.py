"""Joint scores for the guest alone, with the weights that each party holds in the clear.

    guest                                              host
                      <-- Part --                      round(z_H 2^14), z_H = X_H w_H + its part of the intercept
    z = z_G + z_H

With several hosts the guest gets the sum of their parts alone. Each host makes a key, the guest passes all keys on,
and each two hosts derive a pad from theirs that one adds and the other subtracts (:mod:`vfl.crypto.pads`):

                      <-- PartKey --                   from each host
                      -- PartKeys -->                  to each host
                      <-- PaddedPart --                round(z_i 2^14) + pads with later hosts - pads with earlier ones

Adversary: semi-honest. Hosts have pinned no keys of each other, so a guest that broke the protocol could pass on keys
of its own and see each host's part.

Leakage
-------
The guest learns, of every row that is scored, the host's part of the score (with several hosts: the sum of all parts),
rounded to 2^-14. Nothing less would do: the score is the guest's result, and its own part it knows. The host rounds
before anything is added, so scoring a row again, with other values of the guest's columns, gives the same number again
and not a finer one. A guest and all hosts but one together learn the part of that one. The host learns how many rows.

What follows from many such numbers stands in docs/leakage.md.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.pads import KEY_BYTES, PadKey
from vfl.crypto.rng import Rng
from vfl.errors import InvalidData, MalformedMessage
from vfl.protocols.channel import Channel
from vfl.protocols.wire import Array, Bytes, Declaration, Leakage, Message, Role

__all__ = ["FRACTION_BITS", "guest", "guest_figure", "host", "host_figure"]

FloatArray = NDArray[np.float64]
FRACTION_BITS = 14
LARGEST = 2.0**40
"""Of a host's part of a score; beyond it the model is of no use."""


class Part(Message, frozen=True, kw_only=True):
    """z_H, rounded."""

    declaration = Declaration(
        "score.part",
        Role.HOST,
        Leakage.RESULT,
        "the host's part of each scored row, rounded to 2^-14, to the guest",
    )
    z: Annotated[NDArray[np.int64], Array("<i8", "rows", "models")]


class PartKey(Message, frozen=True, kw_only=True):
    """A host's key for the pads of this call."""

    declaration = Declaration(
        "score.key", Role.HOST, Leakage.PUBLIC, "a fresh public key for pads between hosts"
    )
    key: Annotated[bytes, Bytes(KEY_BYTES)]


class PartKeys(Message, frozen=True, kw_only=True):
    """The keys of all hosts."""

    declaration = Declaration("score.keys", Role.GUEST, Leakage.PUBLIC, "the public keys of all hosts")
    keys: Annotated[bytes, Bytes("key_bytes")]


class PaddedPart(Message, frozen=True, kw_only=True):
    """z_i, rounded, under pads that cancel in the sum over all hosts."""

    declaration = Declaration(
        "score.padded", Role.HOST, Leakage.RESULT,
        "with those of all hosts: the sum of their parts of each scored row, rounded to 2^-14, to the guest",
    )  # fmt: skip
    z: Annotated[NDArray[np.uint64], Array("<u8", "rows", "models")]


class Figure(Message, frozen=True, kw_only=True):
    """How good the model is on rows that were scored."""

    declaration = Declaration(
        "score.figure",
        Role.GUEST,
        Leakage.RESULT,
        "a figure of the model's quality that the guest shares, to the host",
    )
    value: Annotated[FloatArray, Array("<f8", 1)]


def rounded(scores: FloatArray, party: str) -> NDArray[np.int64]:
    """Return scores in units of 2^-14.

    Raises
    ------
    InvalidData
        If one of them is beyond 2^40.
    """
    if not (np.abs(scores) < LARGEST).all():
        raise InvalidData(
            f"{party}: {int((~(np.abs(scores) < LARGEST)).sum())} rows have scores beyond any use: their values lie "
            "far from those the model was trained on"
        )
    return np.rint(np.ldexp(scores, FRACTION_BITS)).astype(np.int64)


async def guest(hosts: Sequence[Channel], own: FloatArray) -> FloatArray:
    """Return the joint scores.

    Parameters
    ----------
    hosts : sequence of Channel
    own : ndarray, shape (rows, models)
        The guest's part, which is not rounded.

    Returns
    -------
    ndarray, shape (rows, models)

    Raises
    ------
    ChannelError
        If a host has gone.
    """
    rows, models = own.shape
    if len(hosts) == 1:
        parts = (await hosts[0].recv(Part, rows=rows, models=models)).z
        return own + np.ldexp(parts.astype(np.float64), -FRACTION_BITS)
    keys = [(await host.recv(PartKey)).key for host in hosts]
    for host in hosts:
        await host.send(PartKeys(keys=b"".join(keys)))
    total = np.zeros((rows, models), dtype=np.uint64)
    for host in hosts:
        total = total + (await host.recv(PaddedPart, rows=rows, models=models)).z
    return own + np.ldexp(total.view(np.int64).astype(np.float64), -FRACTION_BITS)


async def host(guest: Channel, own: FloatArray, hosts: int, rng: Rng) -> None:
    """Give the guest this host's part of the scores.

    Parameters
    ----------
    guest : Channel
    own : ndarray, shape (rows, models)
    hosts : int
        How many hosts take part.
    rng : Rng

    Raises
    ------
    InvalidData
        If a score is beyond any use; nothing was sent.
    """
    part = rounded(own, guest.me.name)
    if hosts == 1:
        await guest.send(Part(z=part))
        return
    key = PadKey(rng)
    await guest.send(PartKey(key=key.public_bytes))
    raw = (await guest.recv(PartKeys, key_bytes=KEY_BYTES * hosts)).keys
    keys = [raw[i : i + KEY_BYTES] for i in range(0, len(raw), KEY_BYTES)]
    await guest.send(PaddedPart(z=part.view(np.uint64) + _pads(key, keys, part.shape)))


def _pads(key: PadKey, keys: Sequence[bytes], shape: tuple[int, ...]) -> NDArray[np.uint64]:
    """Return the sum of the pads with later hosts minus that with earlier ones."""
    if keys.count(key.public_bytes) != 1:
        raise MalformedMessage("the guest passed on keys of hosts without this host's own, or with it twice")
    place, total = keys.index(key.public_bytes), np.zeros(shape, dtype=np.uint64)
    for other, public in enumerate(keys):
        if other != place:
            pad = np.frombuffer(key.agree(public).bytes(8 * total.size), dtype="<u8").reshape(shape)
            total = total + pad if place < other else total - pad
    return total


async def guest_figure(hosts: Sequence[Channel], value: float) -> None:
    """Tell every host a figure of the model's quality, rounded to four decimals, so that all choose alike by it."""
    for host in hosts:
        await host.send(Figure(value=np.array([round(value, 4)])))


async def host_figure(guest: Channel) -> float:
    """Return the figure that the guest shares.

    Raises
    ------
    MalformedMessage
        If it is infinite.
    """
    value = float((await guest.recv(Figure)).value[0])
    if np.isinf(value):
        raise MalformedMessage(f"{guest.peer.name} sent a figure that is infinite")
    return value
