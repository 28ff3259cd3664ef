"""The sum of a payload over the common keys: turnover of common customers, without saying who they are.

    counter (x_1 .. x_n; key a)                         owner (y_j with values v_j; key k; lattice key)
    sizes padded to buckets  <-- SetSize -->
    a H(x_i), shuffled       -- Members -->
                             <-- Remembered --          k a H(x_i), shuffled
                             <-- Listed --              k H(y_j) in a random order, padded
                             <-- PublicKey, Values --   [[v]] in the same order, one vector a column
    a k H(y_j); J = those that are remembered
    [[sum over J of v]] fresh, under a mask
                             -- Sums -->                the sums, opened

The owner learns the sums of its own values and the number of common keys; the counter learns that number. Both learn
the other's size bucket. Which keys are common stays with nobody: the counter sees which rows of the owner's random
order are, and both orders are random.

The sum is an inner product of the encrypted values with a vector of zeros and ones (:mod:`vfl.crypto.lattice`): 20 to
40 bytes a row and column in place of a Paillier ciphertext, and re-randomised, so that the owner's key tells nothing
about J. Adversary: semi-honest. Rests on DDH in the random-oracle model and ring-LWE.

Source: Ion, Kreuter, Nergiz, Patel, Raykova, Saxena, Seth, Shanahan and Yung, "On Deploying Secure Computing
Commercially: Private Intersection-Sum Protocols and their Business Applications", eprint 2019/723, figure 2 (DDH-based,
with additively homomorphic encryption; here the lattice engine).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from vfl.crypto.commutative import element_tags, hide, hide_again, new_key
from vfl.crypto.fresh import FreshCiphertexts
from vfl.crypto.rng import Rng
from vfl.errors import EncodingOverflow, MalformedMessage
from vfl.protocols.channel import Channel
from vfl.protocols.psi.exchange import CHUNK, refuse_echo
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
from vfl.protocols.wire import Array, Ciphers, Declaration, Leakage, Message, Role

__all__ = ["Sums", "counter", "owner"]

_POINTS = Array("|u1", "elements", 32)
_PUBLIC_BYTES = 200_000


class Members(Message, frozen=True, kw_only=True):
    """The counter's keys, hashed and hidden under its key, shuffled."""

    declaration = Declaration(
        "psi.members", Role.EITHER, Leakage.UNIFORM, "nothing but the padded number of keys"
    )
    points: Annotated[NDArray[np.uint8], _POINTS]


class Remembered(Message, frozen=True, kw_only=True):
    """The counter's hidden keys, hidden under the owner's key too, in a random order."""

    declaration = Declaration(
        "psi.remembered",
        Role.EITHER,
        Leakage.UNIFORM,
        "pseudorandom values of the counter's own keys, shuffled",
    )
    points: Annotated[NDArray[np.uint8], _POINTS]


class Listed(Message, frozen=True, kw_only=True):
    """The owner's keys, hashed and hidden under its key, in a random order."""

    declaration = Declaration(
        "psi.listed", Role.EITHER, Leakage.INTERSECTION, "how many keys are common, not which"
    )
    points: Annotated[NDArray[np.uint8], _POINTS]


class ValueKey(Message, frozen=True, kw_only=True):
    """The owner's public lattice key."""

    declaration = Declaration("psi.valuekey", Role.EITHER, Leakage.PUBLIC, "a fresh public key")
    key: Annotated[bytes, Meta(max_length=_PUBLIC_BYTES)]


class Values(Message, frozen=True, kw_only=True):
    """One column of the owner's values, encrypted, in the random order."""

    declaration = Declaration("psi.values", Role.EITHER, Leakage.CIPHERTEXT, "nothing but its size")
    values: Annotated[FreshCiphertexts, Ciphers("size")]


class Summed(Message, frozen=True, kw_only=True):
    """The number of common keys, and one column's sum over them: encrypted, and the mask that is on it."""

    declaration = Declaration(
        "psi.summed",
        Role.EITHER,
        Leakage.INTERSECTION,
        "how many keys are common, and the sum of the owner's values over them",
    )
    count: int
    total: Annotated[FreshCiphertexts, Ciphers("size")]
    mask: Annotated[NDArray[np.uint32], Array("<u4", 1, "limbs")]


@dataclass(frozen=True)
class Sums:
    """What one party learned.

    Attributes
    ----------
    count : int
        Number of common keys.
    totals : tuple of int
        Sum of each of the owner's columns over them; empty at the counter.
    peer_bucket : int
    """

    count: int
    totals: tuple[int, ...]
    peer_bucket: int


async def _receive(peer: Channel, kind: type[Members | Remembered | Listed], total: int) -> NDArray[np.uint8]:
    parts = [
        (await peer.recv(kind, elements=piece.stop - piece.start)).points for piece in pieces(total, CHUNK)
    ]
    return np.concatenate(parts)


async def counter(
    owner: Channel,
    keys: Sequence[bytes],
    columns: int,
    rng: Rng,
    minimum: int,
    largest: int,
    progress: Progress = silent,
) -> Sums:
    """Add up the owner's encrypted values over the common keys; the peer runs :func:`owner`.

    Parameters
    ----------
    owner : Channel
    keys : sequence of bytes
        Distinct.
    columns : int
        Number of columns the owner sums.
    rng : Rng
    minimum : int
        Fewest common keys over which a sum may be told.
    largest : int
        Most keys the owner may announce.
    progress : callable
        (elements done, elements in all).

    Raises
    ------
    AlignmentError
        If fewer than `minimum` keys are common: nothing is told to the owner.
    MalformedMessage, InvalidPoint, InvalidCiphertext, InvalidKey
        If the owner breaks the protocol.

    Leakage
    -------
    This party learns the number of common keys and the owner's size bucket.
    """
    check_keys(keys)
    theirs = await exchange_sizes(owner, len(keys), largest)
    secret, total = new_key(rng), bucket(len(keys))
    hidden = hide(secret, padded(keys, rng))[rng.permutation(total)]
    for piece in pieces(total, CHUNK):
        await owner.send(Members(points=hidden[piece]))
    remembered = await _receive(owner, Remembered, total)
    refuse_echo(hidden, remembered, owner.peer.name)
    listed = hide_again(secret, await _receive(owner, Listed, theirs), "listed elements")
    progress(total, total)
    width = tag_bytes(total, theirs)
    pairs = match(element_tags(remembered, width), element_tags(listed, width), owner.peer.name)
    require(len(pairs), minimum)
    chosen = np.zeros((theirs, 1), np.int64)
    chosen[pairs[:, 1]] = 1
    await _add_up(owner, chosen, columns, len(pairs), rng)
    return Sums(len(pairs), (), theirs)


async def _add_up(owner: Channel, chosen: NDArray[np.int64], columns: int, count: int, rng: Rng) -> None:
    """Send the sum of each encrypted column over the chosen rows, fresh."""
    from vfl.crypto.lattice import GRADIENT, Matrix, PublicKey, vector_bytes

    public = PublicKey(GRADIENT, (await owner.recv(ValueKey)).key)
    matrix = Matrix(GRADIENT, chosen, 1)
    layout, size = matrix.layout, vector_bytes(GRADIENT, matrix.layout.chunks)
    for _ in range(columns):
        values = public.accept((await owner.recv(Values, size=size)).values, layout.chunks)
        fresh, masks = public.rerandomise(matrix.backward(values), layout.column_positions, rng)
        await owner.send(Summed(count=count, total=fresh, mask=masks[0].astype("<u4")))


async def owner(
    counter: Channel,
    keys: Sequence[bytes],
    values: NDArray[np.int64],
    rng: Rng,
    minimum: int,
    largest: int,
    progress: Progress = silent,
) -> Sums:
    """Learn the sums of one's own values over the common keys; the peer runs :func:`counter`.

    Parameters
    ----------
    values : ndarray of int64, shape (keys, columns)
        No sum of absolute values may reach 2^58.

    Other parameters and errors are those of :func:`counter`.

    Leakage
    -------
    This party learns the sums, the number of common keys and the counter's size bucket.
    """
    check_keys(keys)
    if float(np.abs(values.astype(np.float64)).sum(axis=0).max()) >= 2.0**58:
        raise EncodingOverflow("the absolute values of a column add up to 2^58 or more; scale them down")
    theirs = await exchange_sizes(counter, len(keys), largest)
    secret, total = new_key(rng), bucket(len(keys))
    order = rng.permutation(total)
    listed = hide(secret, padded(keys, rng))[order]
    members = await _receive(counter, Members, theirs)
    again = hide_again(secret, members, "members")[rng.permutation(theirs)]
    progress(theirs, theirs)
    for piece in pieces(theirs, CHUNK):
        await counter.send(Remembered(points=again[piece]))
    for piece in pieces(total, CHUNK):
        await counter.send(Listed(points=listed[piece]))
    filled = np.concatenate([values, np.zeros((total - len(keys), values.shape[1]), np.int64)])[order]
    count, totals = await _open(counter, filled, rng)
    if not minimum <= count <= len(keys):
        raise MalformedMessage(
            f"{counter.peer.name} reports {count} common keys, possible are {minimum} to {len(keys)}"
        )
    return Sums(count, totals, theirs)


async def _open(counter: Channel, values: NDArray[np.int64], rng: Rng) -> tuple[int, tuple[int, ...]]:
    """Send the values encrypted, one column after the other; return the count and the opened sums."""
    from vfl.crypto.lattice import GRADIENT, Layout, SecretKey, products_bytes

    secret, layout = SecretKey(GRADIENT, rng), Layout(GRADIENT, len(values), 1)
    positions, limbs = layout.column_positions, len(GRADIENT.plain)
    await counter.send(ValueKey(key=secret.public.to_bytes()))
    primes = np.array(GRADIENT.plain, np.int64)
    counts, totals = set(), []
    for column in values.T:
        message = layout.pack_rows(GRADIENT.residues(column))
        await counter.send(Values(values=secret.encrypt(message, rng)))
        size = products_bytes(GRADIENT, 1, len(positions))
        told = await counter.recv(Summed, size=size, limbs=limbs)
        opened = secret.open(told.total, 1, positions)[0].astype(np.int64)
        totals.append(int(GRADIENT.lift((opened - told.mask) % primes)[0]))
        counts.add(told.count)
    if len(counts) > 1:
        raise MalformedMessage(f"{counter.peer.name} reports several numbers of common keys")
    return counts.pop(), tuple(totals)
