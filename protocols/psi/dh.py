"""Private set intersection from an oblivious pseudorandom function over ristretto255 (box 2, first row).

    guest (keys x_1 .. x_n)                             host (keys y_1 .. y_m)
                                                        k random, T = { F_k(y_j) } shuffled, padded
    sizes padded to buckets  <-- SetSize -->
                             <-- Commitment --          SHA-256(salt, T)
    blind x_i, pad           -- Blinded -->
                             <-- Evaluated --           k * each
    unblind: F_k(x_i)        <-- Tags --                T, salt
    check the commitment, match
    random common order      -- Matches -->             positions in T, in the common order

Both learn which of their own keys are common, and the size bucket of the other's set; nothing about any other key.
The host commits to its set before it sees anything of the guest's, and the guest's blinded elements fix the guest's
set before it sees the tags. The key k serves one run.

Adversary: semi-honest, both sides. A guest that guesses keys learns whether the host has them: at most as many
guesses as its padded size, which is why sizes are announced first and capped. Rests on the one-more gap
Diffie-Hellman assumption in the random-oracle model.

Sources: RFC 9497 (the OPRF); Jarecki and Liu, "Fast Secure Computation of Set Intersection", SCN 2010 (intersection
from an OPRF); Rosulek and Trieu, "Compact and Malicious Private Set Intersection for Small Sets", CCS 2021, section 2.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.oprf import blind, evaluate, evaluate_directly, finalize, random_key
from vfl.crypto.rng import Rng
from vfl.errors import AlignmentError, LocalProtocolError, MalformedMessage
from vfl.protocols.channel import Channel
from vfl.protocols.wire import Array, Bytes, Declaration, Leakage, Message, Role

__all__ = ["Intersection", "bucket", "guest", "host"]

TAG_BYTES = 16
"""n m / 2^128 is the chance that two different keys get one tag: 2^-75 for 10^8 keys a side."""

CHUNK = 1 << 15
"""Elements per message: 1 MiB."""

_POINTS = Array("|u1", "elements", 32)


class SetSize(Message, frozen=True, kw_only=True):
    """The sender's number of keys, padded to a bucket."""

    declaration = Declaration(
        "psi.size", Role.EITHER, Leakage.PUBLIC, "the size of the sender's set within 1/8, padded"
    )
    size: int


class Commitment(Message, frozen=True, kw_only=True):
    """The hash of the host's shuffled tags."""

    declaration = Declaration("psi.commitment", Role.HOST, Leakage.UNIFORM, "nothing: a salted hash")
    digest: Annotated[bytes, Bytes(32)]


class Blinded(Message, frozen=True, kw_only=True):
    """Blinded group elements, uniform whatever the keys are."""

    declaration = Declaration(
        "psi.blinded", Role.GUEST, Leakage.UNIFORM, "nothing but the padded number of keys"
    )
    points: Annotated[NDArray[np.uint8], _POINTS]


class Evaluated(Message, frozen=True, kw_only=True):
    """The blinded elements times the host's key, in the same order."""

    declaration = Declaration(
        "psi.evaluated", Role.HOST, Leakage.UNIFORM, "pseudorandom values of the guest's own keys"
    )
    points: Annotated[NDArray[np.uint8], _POINTS]


class Tags(Message, frozen=True, kw_only=True):
    """The host's pseudorandom tags, shuffled and padded with random ones."""

    declaration = Declaration(
        "psi.tags",
        Role.HOST,
        Leakage.INTERSECTION,
        "which of the guest's keys the host has too, to the guest",
    )
    tags: Annotated[NDArray[np.uint8], Array("|u1", "elements", TAG_BYTES)]


class Opening(Message, frozen=True, kw_only=True):
    """The salt of the commitment."""

    declaration = Declaration("psi.opening", Role.HOST, Leakage.UNIFORM, "nothing: a random salt")
    salt: Annotated[bytes, Bytes(32)]


class MatchCount(Message, frozen=True, kw_only=True):
    """How many keys are common."""

    declaration = Declaration(
        "psi.count", Role.GUEST, Leakage.INTERSECTION, "the number of common keys, to the host"
    )
    count: int


class Matches(Message, frozen=True, kw_only=True):
    """Positions of the common keys in the host's shuffled list, in the common random order."""

    declaration = Declaration(
        "psi.matches",
        Role.GUEST,
        Leakage.INTERSECTION,
        "which of the host's keys the guest has too, to the host",
    )
    positions: Annotated[NDArray[np.uint32], Array("<u4", "matched")]


@dataclass(frozen=True)
class Intersection:
    """What one party learned.

    Attributes
    ----------
    positions : ndarray of int64, shape (matched,)
        Positions of the common keys in this party's own sequence, in the common random order.
    peer_bucket : int
        The peer's padded set size.
    """

    positions: NDArray[np.int64]
    peer_bucket: int


Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    """Report no progress."""


def bucket(size: int) -> int:
    """Return the padded size: the next multiple of an eighth of the power of two below, at least 64."""
    step = max(8, (1 << max(size - 1, 1).bit_length()) // 16)
    return max(64, -(-size // step) * step)


def _chunks(total: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK))


def _check_keys(keys: Sequence[bytes]) -> None:
    if len(set(keys)) != len(keys):
        raise LocalProtocolError("keys must be distinct: declare a duplicate policy")
    if not keys:
        raise LocalProtocolError("there is no key to intersect")


async def _sizes(peer: Channel, own: int, largest: int) -> int:
    """Exchange padded sizes; refuse a peer that asks for more than `largest`."""
    await peer.send(SetSize(size=bucket(own)))
    size = (await peer.recv(SetSize)).size
    if size < 1 or size != bucket(size):
        raise MalformedMessage(f"{peer.peer.name} announced {size} keys, which is no size bucket")
    if size > largest:
        raise AlignmentError(
            f"{peer.peer.name} announced {size} keys; {peer.me.name} allows at most {largest}: so many keys could "
            "enumerate an identifier's whole domain; raise max_peer_keys if that is agreed"
        )
    return size


async def guest(
    host: Channel,
    keys: Sequence[bytes],
    rng: Rng,
    minimum: int,
    largest: int,
    progress: Progress = _silent,
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
    _check_keys(keys)
    theirs = await _sizes(host, len(keys), largest)
    commitment = (await host.recv(Commitment)).digest
    padded = [*keys, *(rng.bytes(32) for _ in range(bucket(len(keys)) - len(keys)))]
    own = await _evaluate(host, padded, rng, progress)
    tags = np.concatenate([(await host.recv(Tags, elements=c.stop - c.start)).tags for c in _chunks(theirs)])
    salt = (await host.recv(Opening)).salt
    if hashlib.sha256(salt + tags.tobytes()).digest() != commitment:
        raise MalformedMessage(f"{host.peer.name} sent other tags than it had committed to")
    pairs = _match(own[: len(keys)], tags, host.peer.name)
    if len(pairs) < minimum:
        raise AlignmentError(
            f"{len(pairs)} common customers, at least {minimum} are required: check that both sides use the same kind "
            "of identifier and recipe; nothing was told to the peer"
        )
    pairs = pairs[rng.permutation(len(pairs))]
    await host.send(MatchCount(count=len(pairs)))
    await host.send(Matches(positions=pairs[:, 1].astype("<u4")))
    return Intersection(pairs[:, 0], theirs)


def _match(own: NDArray[np.uint8], theirs: NDArray[np.uint8], peer: str) -> NDArray[np.int64]:
    """Return the positions of equal tags in both lists, shape (matched, 2)."""
    where = {tag: position for position, tag in enumerate(_rows(theirs))}
    if len(where) != len(theirs):
        raise MalformedMessage(f"{peer} sent {len(theirs) - len(where)} tags twice")
    matched = [(i, where[tag]) for i, tag in enumerate(_rows(own)) if tag in where]
    return np.array(matched, dtype=np.int64).reshape(-1, 2)


async def _evaluate(host: Channel, keys: Sequence[bytes], rng: Rng, progress: Progress) -> NDArray[np.uint8]:
    """Return F_k of the keys, shape (keys, TAG_BYTES): one chunk is under way while the next is blinded."""
    tags: list[NDArray[np.uint8]] = []
    pending: list[tuple[Sequence[bytes], NDArray[np.uint8], NDArray[np.uint8]]] = []

    async def take() -> None:
        inputs, blinds, sent = pending.pop(0)
        answer = (await host.recv(Evaluated, elements=len(inputs))).points
        if np.array_equal(answer, sent):
            raise MalformedMessage(f"{host.peer.name} sent the blinded elements back as they came")
        tags.append(finalize(inputs, blinds, answer, TAG_BYTES))
        progress(sum(map(len, tags)), len(keys))

    for chunk in _chunks(len(keys)):
        blinds, points = blind(keys[chunk], rng)
        await host.send(Blinded(points=points))
        pending.append((keys[chunk], blinds, points))
        if len(pending) > 1:
            await take()
    while pending:
        await take()
    return np.concatenate(tags)


async def host(
    guest: Channel,
    keys: Sequence[bytes],
    rng: Rng,
    minimum: int,
    largest: int,
    progress: Progress = _silent,
) -> Intersection:
    """Find the common keys; the guest runs :func:`guest`, where parameters and errors are described.

    Leakage
    -------
    This party learns the guest's size bucket and which of its own keys the guest has.
    """
    _check_keys(keys)
    theirs = await _sizes(guest, len(keys), largest)
    secret, total = random_key(rng), bucket(len(keys))
    order = rng.permutation(total)  # row of the sent list -> row of (own keys, padding)
    padding = np.frombuffer(rng.bytes(TAG_BYTES * (total - len(keys))), dtype=np.uint8).reshape(-1, TAG_BYTES)
    tags = np.concatenate([evaluate_directly(secret, keys, TAG_BYTES), padding])[order]
    salt = rng.bytes(32)
    await guest.send(Commitment(digest=hashlib.sha256(salt + tags.tobytes()).digest()))
    for chunk in _chunks(theirs):
        blinded = (await guest.recv(Blinded, elements=chunk.stop - chunk.start)).points
        await guest.send(Evaluated(points=evaluate(secret, blinded)))
        progress(chunk.stop, theirs)
    for chunk in _chunks(total):
        await guest.send(Tags(tags=tags[chunk]))
    await guest.send(Opening(salt=salt))
    count = (await guest.recv(MatchCount)).count
    if not minimum <= count <= len(keys):
        raise MalformedMessage(
            f"{guest.peer.name} reports {count} common keys, possible are {minimum} to {len(keys)}"
        )
    found = (await guest.recv(Matches, matched=count)).positions
    if found.max(initial=0) >= total or len(np.unique(found)) != count:
        raise MalformedMessage(f"{guest.peer.name} reports positions that are repeated or outside the list")
    positions = order[found]
    if positions.max(initial=0) >= len(keys):
        raise MalformedMessage(f"{guest.peer.name} reports a match with a padding element")
    return Intersection(positions, theirs)


def _rows(tags: NDArray[np.uint8]) -> list[bytes]:
    raw = np.ascontiguousarray(tags).tobytes()
    return [raw[i : i + TAG_BYTES] for i in range(0, len(raw), TAG_BYTES)]
