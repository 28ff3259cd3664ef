"""Two steps that several intersections share: an oblivious evaluation of many keys, and a committed list of tags.

    receiver (x_1 .. x_n)                               sender (k)
    r_i uniform              -- Blinded -->             r_i H(x_i)
                             <-- Evaluated --           k r_i H(x_i)
    F_k(x_i) from the quotient by r_i

    receiver                                            sender (T)
                             <-- Commitment --          SHA-256(salt, T)
    anything may happen in between: T is fixed
                             <-- Tags, Opening --       T, salt

Chunks are under way in both directions while others are computed: the receiver blinds what it may not send yet, and
the sender evaluates while the receiver unblinds. Either party may be the receiver. Sources: as in :mod:`.dh`.
"""

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.oprf import blind, evaluate, finalize
from vfl.crypto.rng import Rng
from vfl.errors import MalformedMessage
from vfl.protocols.channel import Channel
from vfl.protocols.psi.sets import Progress, Tags, pieces
from vfl.protocols.wire import Array, Bytes, Declaration, Leakage, Message, Role

__all__ = ["CHUNK", "Blinding", "accept_tags", "answer", "commit", "publish", "refuse_echo"]

CHUNK = 1 << 13
"""Elements per message: 256 KiB, some 50 ms of scalar products."""
AHEAD = 4  # chunks under way; both windows together hold many more, so neither side ever waits to send
EARLY = 64  # chunks blinded before the first may leave
TAGS = 1 << 16  # tags per message

Chunk = tuple[Sequence[bytes], NDArray[np.uint8], NDArray[np.uint8]]


class Commitment(Message, frozen=True, kw_only=True):
    """The hash of the sender's shuffled tags."""

    declaration = Declaration("psi.commitment", Role.EITHER, Leakage.UNIFORM, "nothing: a salted hash")
    digest: Annotated[bytes, Bytes(32)]


class Blinded(Message, frozen=True, kw_only=True):
    """Blinded group elements, uniform whatever the keys are."""

    declaration = Declaration(
        "psi.blinded", Role.EITHER, Leakage.UNIFORM, "nothing but the padded number of keys"
    )
    points: Annotated[NDArray[np.uint8], Array("|u1", "elements", 32)]


class Evaluated(Message, frozen=True, kw_only=True):
    """The blinded elements times the sender's key, in the same order."""

    declaration = Declaration(
        "psi.evaluated", Role.EITHER, Leakage.UNIFORM, "pseudorandom values of the receiver's own keys"
    )
    points: Annotated[NDArray[np.uint8], Array("|u1", "elements", 32)]


class TagList(Message, frozen=True, kw_only=True):
    """The sender's pseudorandom tags, shuffled and padded with random ones."""

    declaration = Declaration(
        "psi.tags", Role.EITHER, Leakage.INTERSECTION, "which of the receiver's keys the sender has too"
    )
    tags: Annotated[Tags, Array("|u1", "elements", "width")]


class Opening(Message, frozen=True, kw_only=True):
    """The salt of the commitment."""

    declaration = Declaration("psi.opening", Role.EITHER, Leakage.UNIFORM, "nothing: a random salt")
    salt: Annotated[bytes, Bytes(32)]


class Blinding:
    """The receiver's side of the evaluation; made early, so that blinding overlaps with the sender's work.

    Parameters
    ----------
    keys : sequence of bytes
        All that shall be evaluated, padding included.
    rng : Rng
    """

    def __init__(self, keys: Sequence[bytes], rng: Rng) -> None:
        self._keys, self._rest = keys, self._blinded(keys, rng)
        self._ready = deque(islice(self._rest, EARLY))

    @staticmethod
    def _blinded(keys: Sequence[bytes], rng: Rng) -> Iterator[Chunk]:
        for chunk in pieces(len(keys), CHUNK):
            blinds, points = blind(keys[chunk], rng)
            yield keys[chunk], blinds, points

    def _next(self) -> Chunk | None:
        return self._ready.popleft() if self._ready else next(self._rest, None)

    async def outputs(self, sender: Channel, width: int, progress: Progress) -> NDArray[np.uint8]:
        """Return F_k of the keys, cut to `width` bytes, shape (keys, width).

        Raises
        ------
        InvalidPoint
            If the answer holds the identity, a repeated or a non-canonical element.
        MalformedMessage
            If the sender echoes what it got.
        """
        outputs: list[NDArray[np.uint8]] = []
        pending: deque[Chunk] = deque()
        done = 0
        while True:
            chunk = self._next()
            if chunk is not None:
                await sender.send(Blinded(points=chunk[2]))
                pending.append(chunk)
            if chunk is None or len(pending) > AHEAD:
                if not pending:
                    return np.concatenate(outputs)
                outputs.append(await _unblinded(sender, pending.popleft(), width))
                done += len(outputs[-1])
                progress(done, len(self._keys))


async def _unblinded(sender: Channel, chunk: Chunk, width: int) -> NDArray[np.uint8]:
    inputs, blinds, sent = chunk
    answer = (await sender.recv(Evaluated, elements=len(inputs))).points
    refuse_echo(sent, answer, sender.peer.name)
    return finalize(inputs, blinds, answer, width)


def refuse_echo(sent: NDArray[np.uint8], received: NDArray[np.uint8], peer: str) -> None:
    """Refuse an answer that holds an element as it was sent, at any place: the peer's key would be one that all know.

    Parameters
    ----------
    sent, received : ndarray of uint8, shapes (n, 32) and (m, 32)
    peer : str
        For the error text.

    Raises
    ------
    MalformedMessage
    """
    words = [np.ascontiguousarray(points).view("<u8")[:, 0] for points in (sent, received)]
    alike = [points[np.isin(words[i], words[1 - i])] for i, points in enumerate((sent, received))]
    if {row.tobytes() for row in alike[0]} & {row.tobytes() for row in alike[1]}:
        raise MalformedMessage(f"{peer} sent elements back as they came")


async def answer(receiver: Channel, secret: bytes, count: int, progress: Progress) -> None:
    """Evaluate `count` blinded elements of the receiver under a key that serves nothing else.

    Raises
    ------
    InvalidPoint
        If an element is the identity, not canonical or repeated within its chunk.
    """
    for chunk in pieces(count, CHUNK):
        blinded = (await receiver.recv(Blinded, elements=chunk.stop - chunk.start)).points
        await receiver.send(Evaluated(points=evaluate(secret, blinded)))
        progress(chunk.stop, count)


async def commit(receiver: Channel, tags: NDArray[np.uint8], rng: Rng) -> bytes:
    """Commit to a list before anything of the receiver's is seen; return the salt that opens it."""
    salt = rng.bytes(32)
    await receiver.send(Commitment(digest=_digest(salt, tags)))
    return salt


async def publish(receiver: Channel, tags: Tags, salt: bytes) -> None:
    """Send the list and open the commitment."""
    for piece in pieces(len(tags), TAGS):
        await receiver.send(TagList(tags=tags[piece]))
    await receiver.send(Opening(salt=salt))


async def accept_tags(sender: Channel, total: int, width: int, commitment: bytes) -> Tags:
    """Receive `total` tags and check them against the commitment.

    Raises
    ------
    MalformedMessage
        If they are others than the sender had committed to.
    """
    parts = [
        (await sender.recv(TagList, elements=piece.stop - piece.start, width=width)).tags
        for piece in pieces(total, TAGS)
    ]
    tags = np.concatenate(parts)
    await check_opening(sender, tags, commitment)
    return tags


async def check_opening(sender: Channel, committed: NDArray[np.uint8], commitment: bytes) -> None:
    """Receive the salt and check a list against the commitment; errors as in :func:`accept_tags`."""
    salt = (await sender.recv(Opening)).salt
    if _digest(salt, committed) != commitment:
        raise MalformedMessage(f"{sender.peer.name} sent other tags than it had committed to")


def _digest(salt: bytes, tags: NDArray[np.uint8]) -> bytes:
    hashed = hashlib.sha256(salt)
    hashed.update(np.ascontiguousarray(tags).data)
    return hashed.digest()
