"""A spine: both parties get the same pseudonyms for the union of their keys, and nobody learns which are common.

    guest (x_i; keys a, c, e)                           host (y_j; keys b, d)
    sizes padded to buckets  <-- SetSize -->
    U = a H(x_i), shuffled   -- Once -->
                             <-- Once --                W = b H(y_j), shuffled
                             <-- Twice --               dU' = d b a H(x_i), in the guest's order
                             <-- Loose --               b a H(x_i), in an order of the host's own
    cW' = c a b H(y_j)       -- Twice -->               in the host's order
    c (Loose) minus c a W    -- OnlyGuest -->           c a b H of the keys that the guest alone has, shuffled
    e (c a W minus c Loose)  -- OnlyHost -->            and of those that the host alone has, under one more key e
                             <-- OnlyHost --            d times each; the guest divides by e
    own pseudonyms: c d a b H(x_i);                     own: d c a b H(y_j);
    the host's: as returned                             the guest's: d times each

A pseudonym is an element a b c d H(key), whichever way a party came to it. Sorted, the pseudonyms are a common order of
the union that is random to both; each knows which of its own rows stands where, and that the other places are
the other party's alone. Padding keys are in the union too, as rows that neither has. The key e is needed because the
host has c a b H(y_j) in its own order: without it, it would recognise the rows that are not common.

Both learn the size of the padded union, hence of the intersection within the padding, and the other's size bucket; not
which rows are common. Adversary: semi-honest; the step with differences is the guest's, who sees shuffled lists only.
Rests on DDH in the random-oracle model.

Source: Buddhavarapu, Knox, Mohassel, Sengupta, Taubeneck and Vlaskin, "Private Matching for Compute", eprint 2020/599,
section 3 (Private-ID, from DDH); the padding and the key e are added.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.commutative import hide, hide_again, new_key, uncover
from vfl.crypto.group import Points
from vfl.crypto.rng import Rng
from vfl.errors import MalformedMessage
from vfl.protocols.channel import Channel
from vfl.protocols.psi.exchange import CHUNK
from vfl.protocols.psi.sets import Progress, bucket, check_keys, exchange_sizes, padded, pieces, silent
from vfl.protocols.wire import Array, Declaration, Leakage, Message, Role

__all__ = ["Spine", "guest", "host"]

_POINTS = Array("|u1", "elements", 32)
_HOW_MANY = "how many keys of the padded sets are common, not which"


class Once(Message, frozen=True, kw_only=True):
    """The sender's keys, hashed and hidden under its first key, shuffled."""

    declaration = Declaration(
        "spine.once", Role.EITHER, Leakage.UNIFORM, "nothing but the padded number of keys"
    )
    points: Annotated[NDArray[np.uint8], _POINTS]


class Twice(Message, frozen=True, kw_only=True):
    """The receiver's hidden keys under both keys of the sender, in the receiver's order."""

    declaration = Declaration(
        "spine.twice", Role.EITHER, Leakage.UNIFORM, "pseudorandom values of the receiver's own keys"
    )
    points: Annotated[NDArray[np.uint8], _POINTS]


class Loose(Message, frozen=True, kw_only=True):
    """The guest's hidden keys under the host's first key, in a new random order."""

    declaration = Declaration("spine.loose", Role.HOST, Leakage.INTERSECTION, f"{_HOW_MANY}, to the guest")
    points: Annotated[NDArray[np.uint8], _POINTS]


class Difference(Message, frozen=True, kw_only=True):
    """How many keys the guest alone has, and how many the host alone."""

    declaration = Declaration(
        "spine.difference", Role.GUEST, Leakage.INTERSECTION, f"{_HOW_MANY}, to the host"
    )
    guest_only: int
    host_only: int


class Only(Message, frozen=True, kw_only=True):
    """Pseudonyms, not finished yet, of keys that one party alone has, shuffled."""

    declaration = Declaration("spine.only", Role.EITHER, Leakage.UNIFORM, "pseudorandom elements")
    points: Annotated[NDArray[np.uint8], _POINTS]


@dataclass(frozen=True)
class Spine:
    """The union, as one party sees it.

    Attributes
    ----------
    positions : ndarray of int64, shape (union,)
        Position of each key of the union in this party's own sequence; -1 where it does not have it. The order is
        the same at both parties.
    peer_bucket : int
        The peer's padded set size.
    """

    positions: NDArray[np.int64]
    peer_bucket: int


async def _send(peer: Channel, kind: type[Once | Twice | Loose | Only], points: Points) -> None:
    for piece in pieces(len(points), CHUNK):
        await peer.send(kind(points=points[piece]))


async def _receive(peer: Channel, kind: type[Once | Twice | Loose | Only], total: int) -> Points:
    parts = [
        (await peer.recv(kind, elements=piece.stop - piece.start)).points for piece in pieces(total, CHUNK)
    ]
    return np.concatenate(parts) if parts else np.empty((0, 32), np.uint8)


async def guest(
    host: Channel, keys: Sequence[bytes], rng: Rng, largest: int, progress: Progress = silent
) -> Spine:
    """Agree on pseudonyms for the union; the host runs :func:`host`.

    Parameters
    ----------
    host : Channel
    keys : sequence of bytes
        Distinct.
    rng : Rng
    largest : int
        Most keys the host may announce.
    progress : callable
        (elements done, elements in all).

    Returns
    -------
    Spine

    Raises
    ------
    MalformedMessage, InvalidPoint
        If the host breaks the protocol.

    Leakage
    -------
    This party learns the size of the padded union and the host's size bucket.
    """
    check_keys(keys)
    theirs, total = await exchange_sizes(host, len(keys), largest), bucket(len(keys))
    first, second, third = new_key(rng), new_key(rng), new_key(rng)
    order = rng.permutation(total)
    await _send(host, Once, hide(first, padded(keys, rng))[order])
    both = hide_again(first, await _receive(host, Once, theirs), "the host's keys")
    both = hide_again(second, both, "the host's keys")
    progress(total, 3 * total)
    own = hide_again(second, await _receive(host, Twice, total), "this party's keys")
    loose = hide_again(second, await _receive(host, Loose, total), "this party's keys")
    progress(2 * total, 3 * total)
    await _send(host, Twice, both)
    guest_only, host_only = _without(loose, both, rng), _without(both, loose, rng)
    await host.send(Difference(guest_only=len(guest_only), host_only=len(host_only)))
    await _send(host, Only, guest_only)
    await _send(host, Only, hide_again(third, host_only, "the host's keys"))
    absent = uncover(third, await _receive(host, Only, len(host_only)), "the host's keys")
    progress(total, total)
    return Spine(_ordered(own, absent, order, len(keys)), theirs)


async def host(
    guest: Channel, keys: Sequence[bytes], rng: Rng, largest: int, progress: Progress = silent
) -> Spine:
    """Agree on pseudonyms for the union; the guest runs :func:`guest`, where parameters and errors are described.

    Leakage
    -------
    This party learns the size of the padded union and the guest's size bucket.
    """
    check_keys(keys)
    theirs, total = await exchange_sizes(guest, len(keys), largest), bucket(len(keys))
    first, second = new_key(rng), new_key(rng)
    order = rng.permutation(total)
    mine = hide(first, padded(keys, rng))[order]
    members = await _receive(guest, Once, theirs)
    await _send(guest, Once, mine)
    both = hide_again(first, members, "the guest's keys")
    await _send(guest, Twice, hide_again(second, both, "the guest's keys"))
    await _send(guest, Loose, both[rng.permutation(theirs)])
    progress(total, 3 * total)
    own = hide_again(second, await _receive(guest, Twice, total), "this party's keys")
    sizes = await guest.recv(Difference)
    if not (0 <= sizes.guest_only <= theirs and theirs - sizes.guest_only == total - sizes.host_only):
        raise MalformedMessage(f"{guest.peer.name} reports differences that do not fit the sizes of the sets")
    guest_only = await _receive(guest, Only, sizes.guest_only)
    host_only = await _receive(guest, Only, sizes.host_only)
    await _send(guest, Only, hide_again(second, host_only, "keys of this party"))
    absent = hide_again(second, guest_only, "keys of the guest")
    progress(total, total)
    return Spine(_ordered(own, absent, order, len(keys)), theirs)


def _without(left: Points, right: Points, rng: Rng) -> Points:
    """Return the elements of `left` that are not in `right`, in a random order."""
    there = set(right.view("V32").ravel().tolist())
    rows = [row for row, element in enumerate(left.view("V32").ravel().tolist()) if element not in there]
    return left[np.array(rows, np.int64)[rng.permutation(len(rows))]]


def _ordered(own: Points, absent: Points, order: NDArray[np.int64], keys: int) -> NDArray[np.int64]:
    """Return own positions in the order of the pseudonyms, -1 for padding and for what this party does not have."""
    union = np.concatenate([own, absent])
    positions = np.concatenate([np.where(order < keys, order, -1), np.full(len(absent), -1)])
    ranks = np.lexsort(np.ascontiguousarray(union).view("<u8").T)
    result: NDArray[np.int64] = positions[ranks]
    return result
