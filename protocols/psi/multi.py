"""The keys that one guest and several hosts all have; no two parties learn what only they have in common.

    guest (x_i)                                         host h (y_j; key k_h), one of t >= 2
    relays                   -- HostKeys -->            hosts agree on pairwise keys K_hg by X25519
    sizes padded to buckets  <-- SetSize -->            share s_h(y) = xor over the other hosts g of PRF(K_hg, y)
                             -- Blinded -->
                             <-- Evaluated --           k_h * each
    F_h(x_i)                 <-- Hint --                a store that decodes each y_j to s_h(y_j) + F_h(y_j), else at
    sum over h of (decoded + F_h(x_i)):                 random: its free entries are uniform
    zero exactly for keys that all have
    random common order      -- Everyone -->            tags of the common keys, in the common order

For a key that all hosts have, the shares of zero add up to zero. If one host lacks it, what the guest decodes from that
host is unrelated to its share, and the sum is random: a key that only some hosts have looks like one that none has.

The guest learns the keys that all have and each host's size bucket. A host learns the keys that all have, the guest's
size bucket, and that there are t hosts. Nobody learns who has anything else. The sum is zero by chance with probability
2^-128 per key; the store fails with 2^-40 (:mod:`vfl.crypto.okvs`), the run then ends with an error.

Adversary: semi-honest, in the paper's augmented sense: a guest that works together with a host learns what the guest
has in common with the other hosts' intersection, as if that host's set held everything. The hosts' key agreement runs
through the guest, which must relay what it gets; that is part of following the protocol. Rests on the one-more gap
Diffie-Hellman assumption in the random-oracle model, X25519 and BLAKE2b as a pseudorandom function.

Source: Kolesnikov, Matania, Pinkas, Rosulek and Trieu, "Practical Multi-party Private Set Intersection from
Symmetric-Key Techniques", CCS 2017, eprint 2017/799: an oblivious programmable PRF and the variant with unconditional
zero-sharing, secure in the augmented semi-honest model. The OPRF is that of :mod:`.dh`, the hint a key-value store, the
zero is shared among the hosts alone, and the hosts are told the result.
"""

import hashlib
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.crypto import okvs
from vfl.crypto.agreement import KeyPair, derive
from vfl.crypto.gf128 import Elements
from vfl.crypto.oprf import evaluate_directly, random_key
from vfl.crypto.rng import Rng
from vfl.errors import AlignmentError, InvalidKey, LocalProtocolError, MalformedMessage
from vfl.protocols.channel import Channel
from vfl.protocols.psi.exchange import Blinding, answer
from vfl.protocols.psi.sets import (
    Intersection,
    Progress,
    check_keys,
    exchange_sizes,
    padded,
    require,
    silent,
)
from vfl.protocols.wire import Array, Bytes, Declaration, Leakage, Message, Role

__all__ = ["LARGEST_HOSTS", "guest", "host"]

LARGEST_HOSTS = 64
OUTPUT_BYTES = 48  # 16 place a key in the store, 16 mask its share, 16 name it when all is done
_PIECE = 1 << 16  # elements of the store in one message: 1 MiB


class HostKey(Message, frozen=True, kw_only=True):
    """A host's public key for the other hosts."""

    declaration = Declaration("multi.hostkey", Role.HOST, Leakage.PUBLIC, "a fresh public key")
    key: Annotated[bytes, Bytes(32)]


class HostKeys(Message, frozen=True, kw_only=True):
    """The public keys of all hosts, the receiver's at the given place."""

    declaration = Declaration(
        "multi.hostkeys", Role.GUEST, Leakage.PUBLIC, "fresh public keys, hence the number of hosts"
    )
    place: int
    keys: Annotated[NDArray[np.uint8], Array("|u1", "hosts", 32)]


class Hint(Message, frozen=True, kw_only=True):
    """A part of the store: uniform to whoever does not know the other hosts' shares."""

    declaration = Declaration(
        "multi.hint",
        Role.HOST,
        Leakage.INTERSECTION,
        "together with the other hosts' hints, which of the guest's keys all hosts have, to the guest",
    )
    elements: Annotated[NDArray[np.uint64], Array("<u8", "elements", 2)]


class EveryoneCount(Message, frozen=True, kw_only=True):
    """How many keys all parties have."""

    declaration = Declaration(
        "multi.count", Role.GUEST, Leakage.INTERSECTION, "the number of keys that all have, to the host"
    )
    count: int


class Everyone(Message, frozen=True, kw_only=True):
    """The names, under the host's own key, of the keys that all parties have, in the common order."""

    declaration = Declaration(
        "multi.everyone",
        Role.GUEST,
        Leakage.INTERSECTION,
        "which of the host's keys all others have too, to the host",
    )
    names: Annotated[NDArray[np.uint8], Array("|u1", "matched", 16)]


async def guest(
    hosts: Sequence[Channel],
    keys: Sequence[bytes],
    rng: Rng,
    minimum: int,
    largest: int,
    progress: Progress = silent,
) -> Intersection:
    """Find the keys that all have; every host runs :func:`host`.

    Parameters
    ----------
    hosts : sequence of Channel
        At least two.
    keys : sequence of bytes
        Distinct.
    minimum, largest : int
        Fewest common keys that the hosts are told about; most keys a host may announce.
    progress : callable
        (elements done, elements in all).

    Returns
    -------
    Intersection
        `peer_bucket` is the largest of the hosts'.

    Raises
    ------
    AlignmentError
        If fewer than `minimum` keys are common.
    MalformedMessage, InvalidPoint
        A host breaks the protocol.

    Leakage
    -------
    This party learns the keys that all have, and each host's size bucket.
    """
    check_keys(keys)
    if not 2 <= len(hosts) <= LARGEST_HOSTS:
        raise LocalProtocolError(
            f"two to {LARGEST_HOSTS} hosts are needed, not {len(hosts)}; for one there is dh"
        )
    public = np.stack([np.frombuffer((await host.recv(HostKey)).key, np.uint8) for host in hosts])
    for place, host in enumerate(hosts):
        await host.send(HostKeys(place=place, keys=public))
    sizes, everyone = [await exchange_sizes(host, len(keys), largest) for host in hosts], padded(keys, rng)
    sums = np.zeros((len(keys), 2), np.uint64)
    names = list[NDArray[np.uint8]]()
    for turn, (host, size) in enumerate(zip(hosts, sizes, strict=True)):
        told = _part_of(progress, turn, len(hosts))
        outputs = (await Blinding(everyone, rng).outputs(host, OUTPUT_BYTES, told))[: len(keys)]
        sums ^= _decoded(outputs, await _hint(host, size), size)
        names.append(outputs[:, 32:])
    common = np.flatnonzero(~sums.any(axis=1))
    require(len(common), minimum)
    common = common[rng.permutation(len(common))]
    for host, own in zip(hosts, names, strict=True):
        await host.send(EveryoneCount(count=len(common)))
        await host.send(Everyone(names=np.ascontiguousarray(own[common])))
    return Intersection(common.astype(np.int64), max(sizes))


def _part_of(progress: Progress, turn: int, turns: int) -> Progress:
    return lambda done, total: progress(turn * total + done, turns * total)


async def _hint(host: Channel, size: int) -> Elements:
    total = okvs.shape(size).size
    parts = [
        (await host.recv(Hint, elements=min(_PIECE, total - first))).elements
        for first in range(0, total, _PIECE)
    ]
    return np.concatenate(parts)


def _decoded(outputs: NDArray[np.uint8], hint: Elements, size: int) -> Elements:
    """Return what the store says of each key, without its mask, shape (keys, 2)."""
    dims, words = okvs.shape(size), np.ascontiguousarray(outputs).view("<u8")
    grouped = okvs.group(np.ascontiguousarray(words[:, :2]), np.ascontiguousarray(words[:, 2:4]), dims)
    found = np.empty((len(outputs), 2), np.uint64)
    okvs.decode(grouped, hint, dims, range(dims.bins), found)
    result = np.empty_like(found)
    result[grouped.order] = found ^ grouped.keys
    return result


async def host(
    guest: Channel,
    keys: Sequence[bytes],
    hosts: int,
    rng: Rng,
    minimum: int,
    largest: int,
    progress: Progress = silent,
) -> Intersection:
    """Find the keys that all have; the guest runs :func:`guest`, where parameters and errors are described.

    Parameters
    ----------
    hosts : int
        Number of hosts, agreed beforehand.

    Leakage
    -------
    This party learns the keys that all have, and the guest's size bucket.
    """
    check_keys(keys)
    pairwise = await _agree(guest, hosts, rng)
    theirs = await exchange_sizes(guest, len(keys), largest)
    secret, everyone = random_key(rng), padded(keys, rng)
    outputs = evaluate_directly(secret, everyone, OUTPUT_BYTES)
    hint = _programmed(outputs, _shares(everyone, pairwise), rng)
    await answer(guest, secret, theirs, progress)
    for first in range(0, len(hint), _PIECE):
        await guest.send(Hint(elements=hint[first : first + _PIECE]))
    count = (await guest.recv(EveryoneCount)).count
    if not minimum <= count <= len(keys):
        raise MalformedMessage(
            f"{guest.peer.name} reports {count} common keys, possible are {minimum} to {len(keys)}"
        )
    told = (await guest.recv(Everyone, matched=count)).names
    where = {outputs[row, 32:].tobytes(): row for row in range(len(keys))}
    found = [where.get(name.tobytes(), -1) for name in told]
    if -1 in found or len(set(found)) != count:
        raise MalformedMessage(
            f"{guest.peer.name} reports common keys that are repeated or none of this party's"
        )
    return Intersection(np.array(found, np.int64), theirs)


async def _agree(guest: Channel, hosts: int, rng: Rng) -> list[bytes]:
    """Return a key with every other host."""
    own = KeyPair.generate(rng)
    public = own.public
    await guest.send(HostKey(key=public))
    told = await guest.recv(HostKeys, hosts=hosts)
    listed = [row.tobytes() for row in told.keys]
    if len(set(listed)) != hosts or not 0 <= told.place < hosts or listed[told.place] != public:
        raise AlignmentError(
            f"{guest.peer.name} passed on keys of hosts that are repeated, or not this party's"
        )
    pairwise = []
    for place, theirs in enumerate(listed):
        if place != told.place:
            try:
                shared = own.agree(theirs)
            except InvalidKey:
                raise MalformedMessage(
                    f"{guest.peer.name} passed on a host's key that is no valid one"
                ) from None
            pairwise.append(derive(shared, "vfl multi", *sorted((public, theirs))))
    return pairwise


def _shares(keys: Sequence[bytes], pairwise: list[bytes]) -> Elements:
    """Return this host's share of zero for every key, shape (keys, 2)."""
    total = np.zeros((len(keys), 2), np.uint64)
    for shared in pairwise:
        raw = b"".join(hashlib.blake2b(key, key=shared, digest_size=16).digest() for key in keys)
        total ^= np.frombuffer(raw, "<u8").reshape(-1, 2)
    return total


def _programmed(outputs: NDArray[np.uint8], shares: Elements, rng: Rng) -> Elements:
    """Return a store that decodes every key to its masked share, uniform among all that do."""
    dims, words = okvs.shape(len(outputs)), outputs.view("<u8")
    wanted = shares ^ words[:, 2:4]
    grouped = okvs.group(np.ascontiguousarray(words[:, :2]), np.ascontiguousarray(wanted), dims)
    free = np.frombuffer(rng.bytes(16 * dims.size), "<u8").reshape(-1, 2).copy()
    already = np.empty_like(wanted)
    okvs.decode(grouped, free, dims, range(dims.bins), already)
    return free ^ okvs.encode(grouped, grouped.keys ^ already, dims, range(dims.bins))
