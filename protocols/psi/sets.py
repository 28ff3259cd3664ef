"""What all intersections share: padded sizes, tags and how they are matched, and telling the peer what matched.

Sizes are announced in buckets and capped before anything else happens. A tag is cut so short that two different keys
get the same one with probability below 2^-40 per run; then rows would be matched that do not belong together.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.rng import Rng, agreed_permutation
from vfl.errors import AlignmentError, LocalProtocolError, MalformedMessage
from vfl.protocols.channel import Channel
from vfl.protocols.wire import Bytes, Declaration, Leakage, Message, Role

__all__ = [
    "Intersection",
    "Progress",
    "SetSize",
    "Tags",
    "bucket",
    "check_keys",
    "exchange_sizes",
    "hear_matches",
    "match",
    "padded",
    "pieces",
    "require",
    "silent",
    "tag_bytes",
    "tell_matches",
]

Tags = NDArray[np.uint8]
Progress = Callable[[int, int], None]
SECURITY_BITS = 40
"""Statistical security: minus the logarithm of the chance that a run matches two different keys."""


class SetSize(Message, frozen=True, kw_only=True):
    """The sender's number of keys, padded to a bucket."""

    declaration = Declaration(
        "psi.size", Role.EITHER, Leakage.PUBLIC, "the size of the sender's set within 1/8, padded"
    )
    size: int


class Matches(Message, frozen=True, kw_only=True):
    """One bit for every tag of the host's shuffled list, and the seed of the common order."""

    declaration = Declaration(
        "psi.matches",
        Role.GUEST,
        Leakage.INTERSECTION,
        "which of the host's keys the guest has too, to the host",
    )
    seed: Annotated[bytes, Bytes(32)]
    bits: Annotated[bytes, Bytes("size")]


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


def silent(done: int, total: int) -> None:
    """Report no progress."""


def bucket(size: int) -> int:
    """Return the padded size: the next multiple of an eighth of the power of two below, at least 64."""
    step = max(8, (1 << max(size - 1, 1).bit_length()) // 16)
    return max(64, -(-size // step) * step)


def tag_bytes(own: int, theirs: int) -> int:
    """Return the bytes of a tag: two sets of these sizes give equal tags by chance with at most 2^-40."""
    return max(8, -(-(SECURITY_BITS + (own - 1).bit_length() + (theirs - 1).bit_length()) // 8))


def pieces(total: int, size: int) -> Iterator[slice]:
    """Cut range(`total`) into slices of `size`, the last one shorter."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def padded(keys: Sequence[bytes], rng: Rng) -> list[bytes]:
    """Return the keys filled up to their bucket with random ones of 32 bytes, which nobody else has."""
    return [*keys, *(rng.bytes(32) for _ in range(bucket(len(keys)) - len(keys)))]


def check_keys(keys: Sequence[bytes]) -> None:
    """Refuse repeated keys, and none.

    Raises
    ------
    LocalProtocolError
    """
    if len(set(keys)) != len(keys):
        raise LocalProtocolError("keys must be distinct: declare a duplicate policy")
    if not keys:
        raise LocalProtocolError("there is no key to intersect")


async def exchange_sizes(peer: Channel, own: int, largest: int) -> int:
    """Exchange padded sizes; refuse a peer that brings more than `largest` keys.

    Raises
    ------
    AlignmentError
        If the peer brings too many.
    MalformedMessage
        If what it says is no bucket.
    """
    await peer.send(SetSize(size=bucket(own)))
    size = (await peer.recv(SetSize)).size
    if size < 1 or size != bucket(size):
        raise MalformedMessage(f"{peer.peer.name} announced {size} keys, which is no size bucket")
    if size > max(largest, 64):
        raise AlignmentError(
            f"{peer.peer.name} announced {size} keys; {peer.me.name} allows at most {largest} here: so many keys could "
            "enumerate an identifier's whole domain; raise max_peer_keys or max_size_ratio if that is agreed"
        )
    return size


def match(own: Tags, theirs: Tags, peer: str) -> NDArray[np.int64]:
    """Return positions of equal tags in both lists, shape (matched, 2), in the order of `own`.

    Raises
    ------
    MalformedMessage
        If `theirs` holds a tag twice.
    """
    prefixes = _prefixes(theirs)
    order = np.argsort(prefixes, kind="stable")
    ordered = prefixes[order]
    if (ordered[1:] == ordered[:-1]).any():
        return _match_slowly(own, theirs, peer)
    wanted = _prefixes(own)
    place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    where = order[place]
    mine = np.flatnonzero((ordered[place] == wanted) & (theirs[where] == own).all(axis=1))
    return np.column_stack([mine, where[mine]]).astype(np.int64)


def _prefixes(tags: Tags) -> NDArray[np.uint64]:
    return np.ascontiguousarray(tags[:, :8]).view("<u8").ravel()


def _match_slowly(own: Tags, theirs: Tags, peer: str) -> NDArray[np.int64]:
    """Match when two tags begin alike, by chance or because the peer repeats one."""
    where = {tag.tobytes(): position for position, tag in enumerate(theirs)}
    if len(where) != len(theirs):
        raise MalformedMessage(f"{peer} sent {len(theirs) - len(where)} tags twice")
    matched = [(i, where[tag.tobytes()]) for i, tag in enumerate(own) if tag.tobytes() in where]
    return np.array(matched, dtype=np.int64).reshape(-1, 2)


def require(common: int, minimum: int) -> None:
    """Refuse too few common keys, before the peer is told anything.

    Raises
    ------
    AlignmentError
    """
    if common < minimum:
        raise AlignmentError(
            f"{common} common customers, at least {minimum} are required: check that both sides use the same kind "
            "of identifier and recipe; nothing was told to the peer"
        )


async def tell_matches(host: Channel, pairs: NDArray[np.int64], theirs: int, rng: Rng) -> NDArray[np.int64]:
    """Tell the host which tags of its list matched; return this party's positions in the common random order.

    Parameters
    ----------
    host : Channel
    pairs : ndarray of int64, shape (matched, 2)
        Positions of equal tags in both lists.
    theirs : int
        Length of the host's list.
    rng : Rng
    """
    marks = np.zeros(theirs, np.bool_)
    marks[pairs[:, 1]] = True
    seed = rng.bytes(32)
    await host.send(Matches(seed=seed, bits=np.packbits(marks).tobytes()))
    listed = pairs[np.argsort(pairs[:, 1], kind="stable")]
    positions: NDArray[np.int64] = listed[agreed_permutation(seed, len(listed)), 0]
    return positions


async def hear_matches(guest: Channel, order: NDArray[np.int64], own: int, minimum: int) -> NDArray[np.int64]:
    """Learn which of this party's keys matched: their positions in the common random order.

    Parameters
    ----------
    guest : Channel
    order : ndarray of int64, shape (total,)
        The key behind each tag of the list that was sent; `own` and above are padding.
    own : int
        Number of keys.
    minimum : int
        Fewest matches allowed.

    Raises
    ------
    MalformedMessage
        If too few matched, or padding did.
    """
    total = len(order)
    told = await guest.recv(Matches, size=-(-total // 8))
    marks = np.unpackbits(np.frombuffer(told.bits, np.uint8))
    found = np.flatnonzero(marks)
    name = guest.peer.name
    if not minimum <= len(found) <= own:
        raise MalformedMessage(f"{name} reports {len(found)} common keys, possible are {minimum} to {own}")
    if found.max(initial=0) >= total:
        raise MalformedMessage(f"{name} reports positions outside the list")
    positions = order[found]
    if positions.max(initial=0) >= own:
        raise MalformedMessage(f"{name} reports a match with a padding element")
    return positions[agreed_permutation(told.seed, len(positions))]
