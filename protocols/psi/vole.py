"""Private set intersection from vector oblivious linear evaluation: millions of keys a second (box 2, second row).

    receiver R (x_1 .. x_n), the smaller set            sender S (y_1 .. y_m)
    sizes padded to buckets   <-- SetSize -->
                              -- Offer -->              a fresh seed, the base transfers' first message
                              <-- Choices --            another seed, their second one: bits of Delta
    digests h = U_seeds(x)                              h = U_seeds(y)
    P: a store with P(h) = V(h) for every own h
    A, C                      -- Extension -->          Delta, B         C = B + A Delta
                              <-- Answer --
                              -- Masked -->             A + P;  B' = B + (A + P) Delta = C + P Delta
    C(h) = B'(h) + P(h) Delta <-- Tags --               { O(B'(h) + V(h) Delta) } sorted, padded
    match { O(C(h)) }
                              -- Common -->             one bit for every tag: matched or not

Both learn which of their own keys are common, and the size bucket of the other's set; nothing about any other key. The
common rows are in the order of their tags, which is random to both. A + P hides P, so the sender fixes its tags without
having seen anything of the receiver's set, and the receiver's set is fixed by A + P before it sees a tag.

U is a universal hash to 128 bits under a key from both seeds; V, the store's rows and O are fixed-key hashes under
keys from both seeds. A tag has 64 + log2 m bits, rounded down: two different keys of the parties get the same one with
probability n m / 2^(63 + log2 m) <= 2^-40 for n up to 2^23, the largest set of the receiver. A key y that the receiver
has not decodes to P(h) = V(h) with probability 2^-128; otherwise its tag is O of a value that differs from what the
receiver knows by a known non-zero multiple of Delta, random to whoever does not know Delta. The store fails with
probability below 2^-40; the run then ends with an error and can be repeated.

Adversary: semi-honest, both sides. Rests on the dual learning-parity-with-noise assumption (:mod:`vfl.crypto.vole`),
computational Diffie-Hellman in ristretto255 (:mod:`vfl.crypto.ot`) and AES-128 as a permutation of no structure
(:mod:`vfl.crypto.fixedkey`). A receiver that guesses keys learns whether the sender has them, at most as many as its
padded size, unless it deviates; hence sizes are announced first and capped.

Sources: Raghuraman and Rindal, "Blazing Fast PSI from Improved OKVS and Subfield VOLE", CCS 2022, eprint 2022/320,
figure 4 (the fast instantiation: base field and extension are GF(2^128)); Rindal and Schoppmann, "VOLE-PSI",
EUROCRYPT 2021, eprint 2021/266. Differences: both learn, hence Common; seeds of both instead of the receiver's; tags
sorted instead of shuffled. The checks of the malicious variant are not made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.crypto import okvs, tags, vole
from vfl.crypto.digests import Packed, digests, pack
from vfl.crypto.fixedkey import FixedKey, derive
from vfl.crypto.gf128 import Elements, scale_add
from vfl.crypto.ot import COUNT, BaseReceiver, BaseSender, ExtendedReceiver, ExtendedSender
from vfl.crypto.rng import Rng
from vfl.errors import CryptoError, LocalProtocolError, MalformedMessage
from vfl.protocols.channel import Channel
from vfl.protocols.psi.sets import Intersection, Progress, bucket, exchange_sizes, require, silent
from vfl.protocols.wire import Array, Bytes, Declaration, Leakage, Message, Role

__all__ = ["LARGEST", "Link", "guest", "host", "link", "receive", "send"]

LARGEST = 1 << 23
"""Most keys of one run, padded: larger sets are cut into parts by a hash of the key."""

BINS = 2
"""Bins of the store in one message: 2.7 MB."""

TAGS = 1 << 17
"""Tags in one message: 1 MiB."""

Keys = Sequence[bytes] | Packed


class Offer(Message, frozen=True, kw_only=True):
    """The receiver's seed and its first message of the base transfers."""

    declaration = Declaration(
        "vole.offer", Role.EITHER, Leakage.PUBLIC, "nothing: a seed and a random element"
    )
    seed: Annotated[bytes, Bytes(32)]
    point: Annotated[bytes, Bytes(32)]


class Choices(Message, frozen=True, kw_only=True):
    """The sender's seed and its blinded choices of the base transfers."""

    declaration = Declaration(
        "vole.choices", Role.EITHER, Leakage.UNIFORM, "nothing: a seed, random elements"
    )
    seed: Annotated[bytes, Bytes(32)]
    points: Annotated[NDArray[np.uint8], Array("|u1", COUNT, 2, 32)]


class Extension(Message, frozen=True, kw_only=True):
    """The receiver's noise values and paths under the base transfers' keys."""

    declaration = Declaration("vole.extension", Role.EITHER, Leakage.UNIFORM, "nothing: pseudorandom bytes")
    columns: Annotated[NDArray[np.uint8], Array("|u1", COUNT, "bytes")]


class Answer(Message, frozen=True, kw_only=True):
    """Sums over the sender's trees under the transfers' pads."""

    declaration = Declaration("vole.answer", Role.EITHER, Leakage.UNIFORM, "nothing: pseudorandom elements")
    sums: Annotated[NDArray[np.uint64], Array("<u8", "depth", 2, "trees", 2)]
    totals: Annotated[NDArray[np.uint64], Array("<u8", "trees", 2)]


class Masked(Message, frozen=True, kw_only=True):
    """Some bins of the receiver's store, plus a pseudorandom vector."""

    declaration = Declaration(
        "vole.masked", Role.EITHER, Leakage.UNIFORM, "nothing but the padded number of keys"
    )
    elements: Annotated[NDArray[np.uint64], Array("<u8", "elements", 2)]


class Heads(Message, frozen=True, kw_only=True):
    """The high bits of the sender's sorted tags, padded with random ones."""

    declaration = Declaration(
        "vole.heads", Role.EITHER, Leakage.UNIFORM, "nothing without the rest of the tags that follow"
    )
    bits: Annotated[NDArray[np.uint8], Array("|u1", "bytes")]


class Tags(Message, frozen=True, kw_only=True):
    """The low halves of some of the sender's sorted tags."""

    declaration = Declaration(
        "vole.tags",
        Role.EITHER,
        Leakage.INTERSECTION,
        "which of the receiver's keys the sender has too, to the receiver",
    )
    lows: Annotated[NDArray[np.uint64], Array("<u8", "tags")]


class Common(Message, frozen=True, kw_only=True):
    """Which of the sorted tags matched."""

    declaration = Declaration(
        "vole.common",
        Role.EITHER,
        Leakage.INTERSECTION,
        "which of the sender's keys the receiver has too, to the sender",
    )
    bits: Annotated[NDArray[np.uint8], Array("|u1", "bytes")]


@dataclass
class Link:
    """What two parties share after the base transfers; serves any number of runs with the same roles.

    Attributes
    ----------
    session : bytes
        Both seeds.
    transfers : ExtendedReceiver or ExtendedSender
        Of the receiver or of the sender.
    runs : int
        Runs so far: every one has keys of its own.
    """

    session: bytes
    transfers: ExtendedReceiver | ExtendedSender
    runs: int = 0

    def key(self, label: str) -> bytes:
        """Return the public key of a hash in the current run."""
        return derive(label, self.session, self.runs.to_bytes(4, "big"))


async def link(peer: Channel, rng: Rng, receiving: bool) -> Link:  # noqa: FBT001  (chosen by sizes, not by security)
    """Run the base transfers with the peer, which has the other role.

    Raises
    ------
    InvalidPoint
        If the peer's elements are not canonical.
    """
    seed = rng.bytes(32)
    if receiving:
        base = BaseSender(rng)
        await peer.send(Offer(seed=seed, point=base.message))
        choices = await peer.recv(Choices)
        session = seed + choices.seed
        return Link(session, ExtendedReceiver(base.keys(choices.points, session)))
    offer = await peer.recv(Offer)
    session = offer.seed + seed
    bits = np.frombuffer(rng.bytes(COUNT), dtype=np.uint8) & np.uint8(1)
    chosen = BaseReceiver(bits, session, rng)
    await peer.send(Choices(seed=seed, points=chosen.message))
    return Link(session, ExtendedSender(bits, chosen.keys(offer.point)))


async def guest(
    host: Channel,
    keys: Keys,
    rng: Rng,
    minimum: int,
    largest: int,
    progress: Progress = silent,
) -> Intersection:
    """Find the common keys; the host runs :func:`host`. Whoever has the smaller set is the receiver.

    Parameters
    ----------
    host : Channel
    keys : sequence of bytes, or Packed
        Distinct, at most LARGEST when padded.
    rng : Rng
    minimum : int
        Fewest common keys that the receiver tells the sender about.
    largest : int
        Most keys the peer may announce.
    progress : callable
        (elements done, elements in all).

    Returns
    -------
    Intersection

    Raises
    ------
    AlignmentError
        If fewer than `minimum` keys are common (the receiver alone knows the number then), or the peer brings too many.
    LocalProtocolError
        If keys are repeated, none or too many.
    MalformedMessage, InvalidPoint
        If the peer breaks the protocol.

    Leakage
    -------
    This party learns the peer's size bucket and which of its own keys the peer has.
    """
    return await _either(host, keys, rng, minimum, largest, progress)


async def host(
    guest: Channel,
    keys: Keys,
    rng: Rng,
    minimum: int,
    largest: int,
    progress: Progress = silent,
) -> Intersection:
    """Find the common keys; the guest runs :func:`guest`, where parameters, errors and leakage are described."""
    return await _either(guest, keys, rng, minimum, largest, progress)


async def _either(
    peer: Channel, keys: Keys, rng: Rng, minimum: int, largest: int, progress: Progress
) -> Intersection:
    if not len(keys):
        raise LocalProtocolError("there is no key to intersect")
    own = bucket(len(keys))
    theirs = await exchange_sizes(peer, len(keys), largest)
    if max(own, theirs) > LARGEST:
        raise LocalProtocolError(
            f"one run takes {LARGEST} keys, not {max(own, theirs)}: cut the sets into parts"
        )
    receiving = own < theirs or (own == theirs and peer.me.role is Role.GUEST)
    joined = await link(peer, rng, receiving)
    run = receive if receiving else send
    return Intersection(await run(peer, joined, keys, theirs, rng, minimum, progress), theirs)


def _digests(keys: Keys, joined: Link) -> Elements:
    return digests(keys if isinstance(keys, Packed) else pack(keys), derive("digest", joined.session))


def _grouped(keys: Keys, joined: Link, dims: okvs.Shape) -> okvs.Grouped:
    hashed = _digests(keys, joined)
    return okvs.group(FixedKey(joined.key("rows")).hash(hashed), hashed, dims)


def _parts(dims: okvs.Shape) -> list[range]:
    return [range(first, min(first + BINS, dims.bins)) for first in range(0, dims.bins, BINS)]


async def receive(
    sender: Channel,
    joined: Link,
    keys: Keys,
    theirs: int,
    rng: Rng,
    minimum: int,
    progress: Progress = silent,
) -> NDArray[np.int64]:
    """Be the receiver of one run; the peer runs :func:`send`.

    Parameters
    ----------
    sender : Channel
    joined : Link
        Made with this role.
    keys : sequence of bytes, or Packed
    theirs : int
        The peer's padded size.
    rng, minimum, progress
        As for :func:`guest`.

    Returns
    -------
    ndarray of int64, shape (matched,)
        Positions of the common keys, in the common random order.
    """
    if not isinstance(joined.transfers, ExtendedReceiver):
        raise LocalProtocolError("this link was made for the sender of the intersection")
    joined.runs += 1
    dims = okvs.shape(bucket(len(keys)))
    correlation = vole.VectorHolder(joined.transfers, vole.plan(dims.size), rng, joined.runs)
    await sender.send(Extension(columns=correlation.message))
    grouped = _grouped(keys, joined, dims)
    store = _store(grouped, joined, dims)
    answer = await sender.recv(Answer, depth=correlation.plan.depth, trees=correlation.plan.trees)
    correlation.finish(vole.Answer(answer.sums, answer.totals), joined.key("code"))
    values = np.empty_like(grouped.keys)
    for bins in _parts(dims):
        place = slice(bins.start * dims.width, bins.stop * dims.width)
        a, c = correlation.vectors(place.start, place.stop)
        np.bitwise_xor(store[place], a, out=a)
        await sender.send(Masked(elements=a))
        okvs.decode(grouped, c, dims, bins, values)
        progress(int(grouped.starts[bins.stop]), len(keys))
    own = FixedKey(joined.key("tags")).hash(values, values)
    found = await _matches(sender, own, theirs)
    where = np.full(theirs, -1, dtype=np.int64)
    where[found[found >= 0]] = grouped.order[found >= 0]
    positions = where[where >= 0]
    require(len(positions), minimum)
    await sender.send(Common(bits=np.packbits(where >= 0)))
    return positions


def _store(grouped: okvs.Grouped, joined: Link, dims: okvs.Shape) -> Elements:
    """Encode the own keys."""
    wanted = FixedKey(joined.key("values")).hash(grouped.keys)
    try:
        return okvs.encode(grouped, wanted, dims, range(dims.bins))
    except CryptoError:
        if len(np.unique(grouped.keys, axis=0)) < len(grouped.keys):
            raise LocalProtocolError("keys must be distinct: declare a duplicate policy") from None
        raise


async def _matches(sender: Channel, own: Elements, theirs: int) -> NDArray[np.int64]:
    """Return where each own tag stands in the sender's list, -1 if nowhere."""
    heads = (await sender.recv(Heads, bytes=tags.head_bytes(theirs))).bits
    lows = np.empty(theirs, dtype=np.uint64)
    for first in range(0, theirs, TAGS):
        part = lows[first : first + TAGS]
        part[:] = (await sender.recv(Tags, tags=len(part))).lows
    ends = tags.parse_heads(heads, theirs)
    found = None if ends is None else tags.find(own, ends, lows)
    if found is None:
        raise MalformedMessage(f"{sender.peer.name} sent tags that are not a sorted list without repetition")
    return found


async def send(
    receiver: Channel,
    joined: Link,
    keys: Keys,
    theirs: int,
    rng: Rng,
    minimum: int,
    progress: Progress = silent,
) -> NDArray[np.int64]:
    """Be the sender of one run; the peer runs :func:`receive`, where parameters are described."""
    if not isinstance(joined.transfers, ExtendedSender):
        raise LocalProtocolError("this link was made for the receiver of the intersection")
    joined.runs += 1
    dims = okvs.shape(theirs)
    plan = vole.plan(dims.size)
    correlation = vole.DeltaHolder(joined.transfers, plan, rng)
    message = await receiver.recv(Extension, bytes=plan.extension_bytes)
    answer = correlation.answer(message.columns, joined.runs)
    await receiver.send(Answer(sums=answer.sums, totals=answer.totals))
    correlation.accumulate(joined.key("code"))
    grouped = _grouped(keys, joined, dims)
    total = bucket(len(keys))
    padding = np.frombuffer(rng.bytes(16 * (total - len(keys))), dtype="<u8").reshape(-1, 2)
    values = np.concatenate([np.zeros_like(grouped.keys), padding])
    vector = correlation.vector(0, dims.size)
    for bins in _parts(dims):
        place = slice(bins.start * dims.width, bins.stop * dims.width)
        masked = (await receiver.recv(Masked, elements=place.stop - place.start)).elements
        scale_add(vector[place], masked, correlation.delta)
        okvs.decode(grouped, vector[place], dims, bins, values)
        progress(int(grouped.starts[bins.stop]), len(keys))
    own = values[: len(keys)]
    scale_add(own, FixedKey(joined.key("values")).hash(grouped.keys), correlation.delta)
    FixedKey(joined.key("tags")).hash(own, own)
    listed = tags.sort_tags(values)
    if listed is None:
        raise LocalProtocolError("keys must be distinct: declare a duplicate policy")
    await receiver.send(Heads(bits=listed.heads))
    for first in range(0, total, TAGS):
        await receiver.send(Tags(lows=listed.lows[first : first + TAGS]))
    return await _told(receiver, listed.order, grouped.order, minimum)


async def _told(
    receiver: Channel, listed: NDArray[np.int64], order: NDArray[np.uint32], minimum: int
) -> NDArray[np.int64]:
    """Return the positions of the own keys that the receiver says matched."""
    told = (await receiver.recv(Common, bytes=-(-len(listed) // 8))).bits
    marks = np.unpackbits(told).astype(bool)
    if marks[len(listed) :].any():
        raise MalformedMessage(f"{receiver.peer.name} reports positions outside the list")
    rows = listed[marks[: len(listed)]]
    if not minimum <= len(rows) <= len(order):
        raise MalformedMessage(
            f"{receiver.peer.name} reports {len(rows)} common keys, possible are {minimum} to {len(order)}"
        )
    if rows.max(initial=-1) >= len(order):
        raise MalformedMessage(f"{receiver.peer.name} reports a match with a padding element")
    positions: NDArray[np.int64] = order[rows].astype(np.int64)
    return positions
