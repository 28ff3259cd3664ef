"""How many keys are common, and nothing else: a preview before a contract is signed.

    receiver (x_1 .. x_n; key a)                        sender (y_1 .. y_m; key k)
    sizes padded to buckets  <-- SetSize -->            T = { tag(k H(y_j)) } shuffled, padded
                             <-- Commitment --          SHA-256(salt, T)
    a H(x_i), padding        -- Hidden -->
                             <-- Reordered --           k a H(x_i), in a random order
    divide by a: k H(x_i)    <-- CountTags, Opening --  T, salt
    count the tags in T

The receiver, which both declare beforehand, learns the number of common keys and the sender's size bucket; the sender
learns the receiver's size bucket. The order being random, a tag in T cannot be told to belong to one of the receiver's
keys rather than another: all carry the same factor a.

Adversary: semi-honest. A receiver whose set is one key and otherwise invented ones learns whether that key is common,
and two counts over lists that differ in one key tell the same: the run ledger (:mod:`vfl.ledger`) is there for that.
Rests on the one-more gap Diffie-Hellman assumption in the random-oracle model.

Source: De Cristofaro, Gasti and Tsudik, "Fast and Private Computation of Cardinality of Set Intersection and Union",
CANS 2012, eprint 2011/141, figure 1 (with elements of ristretto255; the commitment is added).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.commutative import element_tags, hide, hide_again, new_key, uncover
from vfl.crypto.rng import Rng
from vfl.errors import AlignmentError
from vfl.protocols.channel import Channel
from vfl.protocols.psi.exchange import CHUNK, TAGS, Commitment, Opening, check_opening, commit, refuse_echo
from vfl.protocols.psi.sets import (
    Progress,
    Tags,
    check_keys,
    exchange_sizes,
    match,
    padded,
    pieces,
    silent,
    tag_bytes,
)
from vfl.protocols.wire import Array, Declaration, Leakage, Message, Role

__all__ = ["Cardinality", "receiver", "sender"]

_POINTS = Array("|u1", "elements", 32)


class Hidden(Message, frozen=True, kw_only=True):
    """The receiver's keys, hashed and hidden under its key."""

    declaration = Declaration(
        "psi.hidden", Role.EITHER, Leakage.UNIFORM, "nothing but the padded number of keys"
    )
    points: Annotated[NDArray[np.uint8], _POINTS]


class Reordered(Message, frozen=True, kw_only=True):
    """The hidden keys, hidden under the sender's key too, in a random order."""

    declaration = Declaration(
        "psi.reordered",
        Role.EITHER,
        Leakage.UNIFORM,
        "pseudorandom values of the receiver's own keys, shuffled",
    )
    points: Annotated[NDArray[np.uint8], _POINTS]


class CountTags(Message, frozen=True, kw_only=True):
    """The sender's pseudorandom tags, shuffled and padded, of which the receiver can tell how many it shares."""

    declaration = Declaration(
        "psi.counttags", Role.EITHER, Leakage.INTERSECTION, "how many keys are common, not which"
    )
    tags: Annotated[Tags, Array("|u1", "elements", "width")]


@dataclass(frozen=True)
class Cardinality:
    """How many keys are common, and the peer's padded set size."""

    count: int
    peer_bucket: int


async def receiver(
    sender: Channel,
    keys: Sequence[bytes],
    rng: Rng,
    minimum: int,
    largest: int,
    progress: Progress = silent,
) -> Cardinality:
    """Learn how many keys are common; the peer runs :func:`sender`.

    Parameters
    ----------
    sender : Channel
    keys : sequence of bytes
        Distinct.
    rng : Rng
    minimum : int
        Fewest common keys that this party's user is told about.
    largest : int
        Most keys the sender may announce.
    progress : callable
        (elements done, elements in all).

    Raises
    ------
    AlignmentError
        If fewer than `minimum` keys are common; the text does not say how many.
    MalformedMessage, InvalidPoint
        If the sender breaks the protocol.

    Leakage
    -------
    This party learns the number of common keys and the sender's size bucket.
    """
    check_keys(keys)
    theirs = await exchange_sizes(sender, len(keys), largest)
    secret, everyone = new_key(rng), padded(keys, rng)
    hidden = hide(secret, everyone)[rng.permutation(len(everyone))]
    commitment = (await sender.recv(Commitment)).digest
    for piece in pieces(len(hidden), CHUNK):
        await sender.send(Hidden(points=hidden[piece]))
    reordered = np.concatenate(
        [
            (await sender.recv(Reordered, elements=piece.stop - piece.start)).points
            for piece in pieces(len(hidden), CHUNK)
        ]
    )
    refuse_echo(hidden, reordered, sender.peer.name)
    progress(len(hidden), 2 * len(hidden))
    width = tag_bytes(len(hidden), theirs)
    own = element_tags(uncover(secret, reordered, "reordered elements"), width)
    tags = await _tags(sender, theirs, width, commitment)
    progress(len(hidden), len(hidden))
    count = len(match(own, tags, sender.peer.name))
    if count < minimum:
        raise AlignmentError(f"fewer than {minimum} customers are common, and no smaller number may be told")
    return Cardinality(count, theirs)


async def _tags(sender: Channel, total: int, width: int, commitment: bytes) -> Tags:
    parts = [
        (await sender.recv(CountTags, elements=piece.stop - piece.start, width=width)).tags
        for piece in pieces(total, TAGS)
    ]
    tags = np.concatenate(parts)
    await check_opening(sender, tags, commitment)
    return tags


async def sender(
    receiver: Channel,
    keys: Sequence[bytes],
    rng: Rng,
    minimum: int,
    largest: int,
    progress: Progress = silent,
) -> int:
    """Let the peer learn how many keys are common with :func:`receiver`; return its size bucket.

    `minimum` is the receiver's to keep: this party does not learn the number.

    Leakage
    -------
    This party learns the receiver's size bucket.
    """
    check_keys(keys)
    theirs = await exchange_sizes(receiver, len(keys), largest)
    secret, everyone = new_key(rng), padded(keys, rng)
    tags = element_tags(hide(secret, everyone), tag_bytes(theirs, len(everyone)))
    tags = tags[rng.permutation(len(everyone))]
    salt = await commit(receiver, tags, rng)
    parts = [
        (await receiver.recv(Hidden, elements=piece.stop - piece.start)).points
        for piece in pieces(theirs, CHUNK)
    ]
    again = hide_again(secret, np.concatenate(parts), "hidden elements")[rng.permutation(theirs)]
    progress(theirs, theirs)
    for piece in pieces(theirs, CHUNK):
        await receiver.send(Reordered(points=again[piece]))
    for piece in pieces(len(tags), TAGS):
        await receiver.send(CountTags(tags=tags[piece]))
    await receiver.send(Opening(salt=salt))
    return theirs
