"""The receiver learns which of its keys are common and gets the sender's columns for them, and for no others.

    receiver (x_1 .. x_n)                               sender (y_j with rows of bytes p_j; k random)
    sizes padded to buckets  <-- SetSize -->            (t_j, s_j) = F_k(y_j) cut in two, shuffled, padded
                             <-- Commitment --          SHA-256(salt, all t_j and p_j + pad(s_j))
    blind x_i, pad           -- Blinded -->
                             <-- Evaluated --           k * each
    (t_i, s_i) = F_k(x_i)    <-- Labels, Opening --     t_j and p_j + pad(s_j), salt
    match by t, unmask with pad(s)

The receiver learns its common keys, their columns and the sender's size bucket; the sender learns the receiver's size
bucket. The pad is SHAKE-256 of 32 bytes that only the sender and whoever evaluated that key know; it serves once, k
being fresh. So what belongs to no common key stays a one-time pad, within the limits of the hash.

Adversary: semi-honest. A receiver that guesses keys gets the columns of those it guessed: sizes are capped. Rests on
the one-more gap Diffie-Hellman assumption in the random-oracle model.

Source: as in :mod:`.dh`; Chen, Huang, Laine and Rindal, "Labeled PSI from Fully Homomorphic Encryption with Malicious
Security", CCS 2018, section 2.4 (labels under keys from an oblivious pseudorandom function).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.oprf import evaluate_directly, random_key
from vfl.crypto.rng import Rng
from vfl.errors import LocalProtocolError
from vfl.protocols.channel import Channel
from vfl.protocols.psi.exchange import Blinding, Commitment, Opening, answer, check_opening, commit
from vfl.protocols.psi.sets import (
    Progress,
    bucket,
    check_keys,
    exchange_sizes,
    match,
    padded,
    pieces,
    require,
    silent,
    tag_bytes,
)
from vfl.protocols.wire import Array, Declaration, Leakage, Message, Role

__all__ = ["LARGEST_ROW", "Labelled", "receiver", "sender"]

SEED_BYTES = 32
LARGEST_ROW = 1 << 16
_PIECE = 1 << 20  # bytes of a message, about


class Labels(Message, frozen=True, kw_only=True):
    """The sender's tags, each with its columns under a one-time pad, shuffled and padded with random ones."""

    declaration = Declaration(
        "psi.labels",
        Role.EITHER,
        Leakage.PAYLOAD,
        "which of the receiver's keys the sender has too, and the agreed columns of these",
    )
    rows: Annotated[NDArray[np.uint8], Array("|u1", "elements", "width")]


@dataclass(frozen=True)
class Labelled:
    """What the receiver learned.

    Attributes
    ----------
    positions : ndarray of int64, shape (matched,)
        Positions of the common keys in its own sequence, ascending.
    rows : ndarray of uint8, shape (matched, row bytes)
        The sender's bytes for them.
    peer_bucket : int
    """

    positions: NDArray[np.int64]
    rows: NDArray[np.uint8]
    peer_bucket: int


def _each(width: int) -> int:
    return max(1, _PIECE // width)


def _pads(seeds: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    raw = (hashlib.shake_256(seed.tobytes()).digest(width) for seed in seeds)
    return np.frombuffer(b"".join(raw), np.uint8).reshape(-1, width)


async def receiver(
    sender: Channel,
    keys: Sequence[bytes],
    row_bytes: int,
    rng: Rng,
    minimum: int,
    largest: int,
    progress: Progress = silent,
) -> Labelled:
    """Find the common keys and get the sender's rows for them; the peer runs :func:`sender`.

    Parameters
    ----------
    sender : Channel
    keys : sequence of bytes
        Distinct.
    row_bytes : int
        Bytes of each of the sender's rows, agreed beforehand.
    rng : Rng
    minimum : int
        Fewest common keys.
    largest : int
        Most keys the sender may announce.
    progress : callable
        (elements done, elements in all).

    Raises
    ------
    AlignmentError
        If fewer than `minimum` keys are common.
    MalformedMessage, InvalidPoint
        If the sender breaks the protocol.

    Leakage
    -------
    This party learns its common keys, the sender's rows for them, and the sender's size bucket.
    """
    check_keys(keys)
    theirs = await exchange_sizes(sender, len(keys), largest)
    width = tag_bytes(bucket(len(keys)), theirs)
    blinding = Blinding(padded(keys, rng), rng)
    commitment = (await sender.recv(Commitment)).digest
    own = (await blinding.outputs(sender, width + SEED_BYTES, progress))[: len(keys)]
    parts = [
        (await sender.recv(Labels, elements=piece.stop - piece.start, width=width + row_bytes)).rows
        for piece in pieces(theirs, _each(width + row_bytes))
    ]
    listed = np.concatenate(parts)
    await check_opening(sender, listed, commitment)
    pairs = match(own[:, :width], listed[:, :width], sender.peer.name)
    require(len(pairs), minimum)
    rows = listed[pairs[:, 1], width:] ^ _pads(own[pairs[:, 0], width:], row_bytes)
    return Labelled(pairs[:, 0], rows, theirs)


async def sender(
    receiver: Channel,
    keys: Sequence[bytes],
    rows: NDArray[np.uint8],
    rng: Rng,
    minimum: int,
    largest: int,
    progress: Progress = silent,
) -> int:
    """Give the peer the rows of the common keys; it runs :func:`receiver`. Returns its size bucket.

    Parameters
    ----------
    rows : ndarray of uint8, shape (keys, row bytes)
        At most 65,536 bytes each.

    Other parameters and errors are those of :func:`receiver`; `minimum` is the receiver's to keep.

    Leakage
    -------
    This party learns the receiver's size bucket.
    """
    check_keys(keys)
    if len(rows) != len(keys) or not 0 < rows.shape[1] <= LARGEST_ROW:
        raise LocalProtocolError(
            f"rows of shape {rows.shape} for {len(keys)} keys; at most {LARGEST_ROW} bytes each"
        )
    theirs = await exchange_sizes(receiver, len(keys), largest)
    secret, total = random_key(rng), bucket(len(keys))
    width = tag_bytes(theirs, total)
    outputs = evaluate_directly(secret, keys, width + SEED_BYTES)
    masked = rows ^ _pads(outputs[:, width:], rows.shape[1])
    size = width + rows.shape[1]
    padding = np.frombuffer(rng.bytes(size * (total - len(keys))), np.uint8).reshape(-1, size)
    listed = np.concatenate([np.column_stack([outputs[:, :width], masked]), padding])[rng.permutation(total)]
    salt = await commit(receiver, listed, rng)
    await answer(receiver, secret, theirs, progress)
    for piece in pieces(total, _each(size)):
        await receiver.send(Labels(rows=listed[piece]))
    await receiver.send(Opening(salt=salt))
    return theirs
