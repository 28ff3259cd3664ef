"""Private set intersection from an oblivious pseudorandom function over ristretto255 (box 2, first row).

    receiver (keys x_1 .. x_n)                          sender (keys y_1 .. y_m)
                                                        k random, T = { F_k(y_j) } shuffled, padded
    sizes padded to buckets  <-- SetSize -->
    blind x_i, pad           <-- Commitment --          SHA-256(salt, T)
                             -- Blinded -->
                             <-- Evaluated --           k * each
    unblind: F_k(x_i)        <-- Tags, Opening --       T, salt
    check the commitment, match
    if both learn:           -- Matches -->             bits of T that matched, seed of the common order

Both learn (:func:`guest`, :func:`host`): which of their own keys are common, and the size bucket of the other's set.
One side learns (:func:`receiver`, :func:`sender`, whichever party is which): the sender gets the size bucket alone.
Nobody learns anything about any other key. The sender commits to its set before it sees anything of the receiver's, and
the
receiver's blinded elements fix its set before it sees the tags. The key k serves one run.

Adversary: semi-honest, both sides. A receiver that guesses keys learns whether the sender has them: at most as many
guesses as its padded size, which is why sizes are announced first and capped. Rests on the one-more gap
Diffie-Hellman assumption in the random-oracle model.

Sources: RFC 9497 (the OPRF); Jarecki and Liu, "Fast Secure Computation of Set Intersection", SCN 2010 (intersection
from an OPRF); Rosulek and Trieu, "Compact and Malicious Private Set Intersection for Small Sets", CCS 2021, section 2.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.oprf import evaluate_directly, random_key
from vfl.crypto.rng import Rng
from vfl.protocols.channel import Channel
from vfl.protocols.psi.exchange import Blinding, Commitment, accept_tags, answer, commit, publish
from vfl.protocols.psi.sets import (
    Intersection,
    Progress,
    bucket,
    check_keys,
    exchange_sizes,
    hear_matches,
    match,
    padded,
    require,
    silent,
    tag_bytes,
    tell_matches,
)

__all__ = ["Intersection", "bucket", "guest", "host", "receiver", "sender"]


async def guest(
    host: Channel,
    keys: Sequence[bytes],
    rng: Rng,
    minimum: int,
    largest: int,
    progress: Progress = silent,
) -> Intersection:
    """Find the common keys; the host runs :func:`host`.

    Parameters
    ----------
    host : Channel
    keys : sequence of bytes
        Distinct, at most 65,535 bytes each.
    rng : Rng
    minimum : int
        Fewest common keys that the host is told about.
    largest : int
        Most keys the host may announce.
    progress : callable
        (elements done, elements in all).

    Returns
    -------
    Intersection

    Raises
    ------
    AlignmentError
        If fewer than `minimum` keys are common (this party alone knows the number then).
    MalformedMessage, InvalidPoint
        If the host breaks the protocol.

    Leakage
    -------
    This party learns the host's size bucket and which of its own keys the host has.
    """
    theirs, pairs = await _learn(host, keys, rng, minimum, largest, progress)
    return Intersection(await tell_matches(host, pairs, theirs, rng), theirs)


async def host(
    guest: Channel,
    keys: Sequence[bytes],
    rng: Rng,
    minimum: int,
    largest: int,
    progress: Progress = silent,
) -> Intersection:
    """Find the common keys; the guest runs :func:`guest`, where parameters and errors are described.

    Leakage
    -------
    This party learns the guest's size bucket and which of its own keys the guest has.
    """
    theirs, order = await _serve(guest, keys, rng, largest, progress)
    return Intersection(await hear_matches(guest, order, len(keys), minimum), theirs)


async def receiver(
    sender: Channel,
    keys: Sequence[bytes],
    rng: Rng,
    minimum: int,
    largest: int,
    progress: Progress = silent,
) -> Intersection:
    """Find the common keys alone; the peer runs :func:`sender`. Parameters and errors as in :func:`guest`.

    Returns
    -------
    Intersection
        The positions ascend.

    Leakage
    -------
    This party learns the sender's size bucket and which of its own keys the sender has.
    """
    theirs, pairs = await _learn(sender, keys, rng, minimum, largest, progress)
    return Intersection(pairs[:, 0], theirs)


async def sender(
    receiver: Channel,
    keys: Sequence[bytes],
    rng: Rng,
    minimum: int,
    largest: int,
    progress: Progress = silent,
) -> int:
    """Let the peer find the common keys with :func:`receiver`; return its size bucket.

    `minimum` is the receiver's to keep: this party does not learn how many are common.

    Leakage
    -------
    This party learns the receiver's size bucket.
    """
    theirs, _ = await _serve(receiver, keys, rng, largest, progress)
    return theirs


async def _learn(
    sender: Channel, keys: Sequence[bytes], rng: Rng, minimum: int, largest: int, progress: Progress
) -> tuple[int, NDArray[np.int64]]:
    """Return the sender's bucket and the positions of equal tags in both lists, shape (matched, 2)."""
    check_keys(keys)
    theirs = await exchange_sizes(sender, len(keys), largest)
    width = tag_bytes(bucket(len(keys)), theirs)
    blinding = Blinding(padded(keys, rng), rng)
    commitment = (await sender.recv(Commitment)).digest
    own = await blinding.outputs(sender, width, progress)
    tags = await accept_tags(sender, theirs, width, commitment)
    pairs = match(own[: len(keys)], tags, sender.peer.name)
    require(len(pairs), minimum)
    return theirs, pairs


async def _serve(
    receiver: Channel, keys: Sequence[bytes], rng: Rng, largest: int, progress: Progress
) -> tuple[int, NDArray[np.int64]]:
    """Return the receiver's bucket and the key behind each row of the list that was sent."""
    check_keys(keys)
    theirs = await exchange_sizes(receiver, len(keys), largest)
    secret, total = random_key(rng), bucket(len(keys))
    width = tag_bytes(theirs, total)
    order = rng.permutation(total)
    padding = np.frombuffer(rng.bytes(width * (total - len(keys))), dtype=np.uint8).reshape(-1, width)
    tags = np.concatenate([evaluate_directly(secret, keys, width), padding])[order]
    salt = await commit(receiver, tags, rng)
    await answer(receiver, secret, theirs, progress)
    await publish(receiver, tags, salt)
    return theirs, order
