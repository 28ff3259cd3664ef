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

Sets of more than PART keys are cut into parts by a hash of the key; all from Extension to Tags then happens once a
part, padded to a size that follows from those announced, and Common comes when every part has been matched.

Both learn which of their own keys are common, and the size bucket of the other's set; nothing about any other key. The
common rows are in the order of their tags, which is random to both. A + P hides P, so the sender fixes its tags without
having seen anything of the receiver's set, and the receiver's set is fixed by A + P before it sees a tag.

U is a universal hash to 128 bits under a key from both seeds; V, the store's rows and O are fixed-key hashes under
keys from both seeds. A tag has 64 + log2 m bits, rounded down: two different keys of the parties get the same one with
probability below n m / 2^(63 + log2 m) <= 2^-40 for parts of n up to 2^23. A key y that the receiver
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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

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

__all__ = ["PART", "Keys", "Link", "Sizes", "guest", "hear", "host", "link", "receive", "send", "tell"]

PART = 1 << 20
"""Keys of a part, about, of the larger set: a party then takes 400 MB beside 24 bytes a key."""

LARGEST = 1 << 23
"""Most keys of a part."""

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
        "which of the receiver's keys the sender has too",
    )
    lows: Annotated[NDArray[np.uint64], Array("<u8", "tags")]


class Common(Message, frozen=True, kw_only=True):
    """Which of the sorted tags matched."""

    declaration = Declaration(
        "vole.common",
        Role.EITHER,
        Leakage.INTERSECTION,
        "which of the receiver's keys the sender has too",
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


class Sizes(NamedTuple):
    """Padded sizes of one run: the sender of a message does not choose its size.

    Attributes
    ----------
    receiver, sender : int
        At most 2^23 each, see the module.
    """

    receiver: int
    sender: int


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
        Distinct.
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
        If keys are repeated, or none.
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
    receiving = own < theirs or (own == theirs and peer.me.role is Role.GUEST)
    joined = await link(peer, rng, receiving)
    column = keys if isinstance(keys, Packed) else pack(keys)
    hashed = digests(column, derive("digest", joined.session))
    parts = -(-max(own, theirs) // PART)
    mine, peers = (max(64, okvs.capacity(size, parts)) for size in (own, theirs))
    sizes = Sizes(mine, peers) if receiving else Sizes(peers, mine)
    role, done, lists, rows = receive if receiving else send, 0, [], []
    for part, places in _cut(hashed, parts, joined):

        def told(new: int, total: int, before: int = done) -> None:
            progress(before + new, len(keys))

        lists.append(await role(peer, joined, part, sizes, rng, told))
        rows.append(places)
        done += len(part)
    found = await (tell if receiving else hear)(peer, lists, rows, minimum)
    return Intersection(found, theirs)


def _cut(hashed: Elements, parts: int, joined: Link) -> Iterator[tuple[Elements, NDArray[np.uint32]]]:
    """Yield digests of each part, chosen by a hash of the digest, and where they stood."""
    chosen = FixedKey(derive("parts", joined.session)).hash(hashed)
    cut = okvs.group(chosen, hashed, okvs.Shape(parts, 0, 0, 0))
    for first, end in zip(cut.starts[:-1], cut.starts[1:], strict=True):
        yield cut.keys[first:end], cut.order[first:end]


def _parts(dims: okvs.Shape) -> list[range]:
    return [range(first, min(first + BINS, dims.bins)) for first in range(0, dims.bins, BINS)]


def _check_run(joined: Link, own: int, padded: int, sizes: Sizes) -> None:
    if own > padded or max(sizes) > LARGEST:
        raise CryptoError(f"{own} keys for a part of {padded}, at most {LARGEST}: cut the sets otherwise")
    joined.runs += 1


async def receive(
    sender: Channel, joined: Link, hashed: Elements, sizes: Sizes, rng: Rng, progress: Progress = silent
) -> NDArray[np.int64]:
    """Be the receiver of one run up to the tags; the peer runs :func:`send`.

    Parameters
    ----------
    sender : Channel
    joined : Link
        Made with this role.
    hashed : ndarray of uint64, shape (n, 2)
        Digests of distinct keys.
    sizes : Sizes
    rng : Rng
    progress : callable

    Returns
    -------
    ndarray of int64, shape (sizes.sender,)
        For each of the sender's tags in ascending order the row of `hashed` that has it, -1 if none. The sender
        does not know it before :func:`tell`.
    """
    if not isinstance(joined.transfers, ExtendedReceiver):
        raise LocalProtocolError("this link was made for the sender of the intersection")
    _check_run(joined, len(hashed), sizes.receiver, sizes)
    dims = okvs.shape(sizes.receiver)
    correlation = vole.VectorHolder(joined.transfers, vole.plan(dims.size), rng, joined.runs)
    await sender.send(Extension(columns=correlation.message))
    grouped = okvs.group(FixedKey(joined.key("rows")).hash(hashed), hashed, dims)
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
        progress(int(grouped.starts[bins.stop]), len(hashed))
    found = await _matches(sender, FixedKey(joined.key("tags")).hash(values, values), sizes.sender)
    where = np.full(sizes.sender, -1, dtype=np.int64)
    where[found[found >= 0]] = grouped.order[found >= 0]
    return where


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
    receiver: Channel, joined: Link, hashed: Elements, sizes: Sizes, rng: Rng, progress: Progress = silent
) -> NDArray[np.int64]:
    """Be the sender of one run up to the tags; the peer runs :func:`receive`, where parameters are described.

    Returns
    -------
    ndarray of int64, shape (sizes.sender,)
        For each tag in ascending order the row of `hashed` that it belongs to, -1 for padding.
    """
    if not isinstance(joined.transfers, ExtendedSender):
        raise LocalProtocolError("this link was made for the receiver of the intersection")
    _check_run(joined, len(hashed), sizes.sender, sizes)
    dims = okvs.shape(sizes.receiver)
    plan = vole.plan(dims.size)
    correlation = vole.DeltaHolder(joined.transfers, plan, rng)
    message = await receiver.recv(Extension, bytes=plan.extension_bytes)
    answer = correlation.answer(message.columns, joined.runs)
    await receiver.send(Answer(sums=answer.sums, totals=answer.totals))
    correlation.accumulate(joined.key("code"))
    grouped = okvs.group(FixedKey(joined.key("rows")).hash(hashed), hashed, dims)
    padding = np.frombuffer(rng.bytes(16 * (sizes.sender - len(hashed))), dtype="<u8").reshape(-1, 2)
    values = np.concatenate([np.zeros_like(grouped.keys), padding])
    vector = correlation.vector(0, dims.size)
    for bins in _parts(dims):
        place = slice(bins.start * dims.width, bins.stop * dims.width)
        masked = (await receiver.recv(Masked, elements=place.stop - place.start)).elements
        scale_add(vector[place], masked, correlation.delta)
        okvs.decode(grouped, vector[place], dims, bins, values)
        progress(int(grouped.starts[bins.stop]), len(hashed))
    own = values[: len(hashed)]
    scale_add(own, FixedKey(joined.key("values")).hash(grouped.keys), correlation.delta)
    FixedKey(joined.key("tags")).hash(own, own)
    listed = tags.sort_tags(values)
    if listed is None:
        raise LocalProtocolError("keys must be distinct: declare a duplicate policy")
    await receiver.send(Heads(bits=listed.heads))
    for first in range(0, sizes.sender, TAGS):
        await receiver.send(Tags(lows=listed.lows[first : first + TAGS]))
    rows = np.concatenate([grouped.order.astype(np.int64), np.full(len(padding), -1)])
    return rows[listed.order]


Lists = Sequence[NDArray[np.int64]]
Rows = Sequence[NDArray[np.uint32]]


async def tell(sender: Channel, lists: Lists, rows: Rows, minimum: int) -> NDArray[np.int64]:
    """Tell the sender what matched in all runs; return the positions of the common keys, in the common order.

    Parameters
    ----------
    sender : Channel
    lists : sequence of ndarray of int64
        What :func:`receive` returned, run by run.
    rows : sequence of ndarray of uint32
        The position of each row of each run's digests.
    minimum : int
        Fewest matches that are told.

    Raises
    ------
    AlignmentError
    """
    found = [places[where[where >= 0]] for where, places in zip(lists, rows, strict=True)]
    require(sum(map(len, found)), minimum)
    for where in lists:
        await sender.send(Common(bits=np.packbits(where >= 0)))
    return np.concatenate(found).astype(np.int64)


async def hear(receiver: Channel, lists: Lists, rows: Rows, minimum: int) -> NDArray[np.int64]:
    """Learn what matched in all runs: the sender's side of :func:`tell`.

    Raises
    ------
    MalformedMessage
        If too few matched, or padding did.
    """
    name, found = receiver.peer.name, []
    for listed, places in zip(lists, rows, strict=True):
        told = await receiver.recv(Common, bytes=-(-len(listed) // 8))
        marks = np.unpackbits(told.bits).astype(bool)
        if marks[len(listed) :].any():
            raise MalformedMessage(f"{name} reports positions outside the list")
        chosen = listed[marks[: len(listed)]]
        if (chosen < 0).any():
            raise MalformedMessage(f"{name} reports a match with a padding element")
        found.append(places[chosen])
    total = sum(map(len, found))
    if total < minimum:
        raise MalformedMessage(f"{name} reports {total} common keys, fewer than {minimum}")
    return np.concatenate(found).astype(np.int64)
