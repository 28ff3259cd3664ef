"""How the aggregator takes the masks off: seeds of survivors, masking keys of those that were lost.

A secret is first put together from as many shares as the threshold. If that is not the secret that its owner has
committed to, all shares together are searched for wrong ones; only when they cannot be found is the owner to blame.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from vfl.crypto.agreement import KeyPair
from vfl.crypto.masking import Words, add_masks
from vfl.crypto.shamir import combine, correct, read_share
from vfl.errors import CohortTooSmall, MalformedMessage
from vfl.protocols.secagg.graph import Graph
from vfl.protocols.secagg.views import commitment, mask_key, pair_key

__all__ = ["Opening", "unmask"]


@dataclass(frozen=True)
class Opening:
    """All that is known when the last stage closes.

    Attributes
    ----------
    graph : Graph
    names : tuple of str
    sharers, survivors : ndarray of bool, shape (clients,)
        Who masks among whom; whose vectors have come.
    masking_keys : ndarray of uint8, shape (clients, 32)
        Advertised public keys.
    view : bytes
    commitments : mapping of int to bytes
        Hashes of the seeds.
    seeds : mapping of int to bytes
        Of survivors that answered to the end.
    shares : mapping of int to ndarray of uint8, shape (degree, SHARE_BYTES)
        What they hold of their neighbours' secrets; zeros where they hold nothing.
    """

    graph: Graph
    names: tuple[str, ...]
    sharers: NDArray[np.bool_]
    survivors: NDArray[np.bool_]
    masking_keys: NDArray[np.uint8]
    view: bytes
    commitments: Mapping[int, bytes]
    seeds: Mapping[int, bytes]
    shares: Mapping[int, NDArray[np.uint8]]


def unmask(total: Words, known: Opening) -> None:
    """Take all masks off the sum of the survivors' masked vectors, in place.

    Raises
    ------
    CohortTooSmall
        If too few clients hold shares of a secret that is needed.
    MalformedMessage
        If a client's shares belong to no secret that it committed to.
    """
    own = [mask_key(_seed(known, i), known.view) for i in np.flatnonzero(known.survivors).tolist()]
    added, taken = list[bytes](), own  # what has to be added and subtracted
    for lost in np.flatnonzero(known.sharers & ~known.survivors).tolist():
        neighbours = known.graph.neighbours[lost]
        near = neighbours[known.survivors[neighbours]].tolist()
        if not near:
            continue  # its masks are in no vector that came
        pair = _masking_pair(known, lost)
        for other in near:
            shared = pair.agree(known.masking_keys[other].tobytes())
            key = pair_key(shared, known.view, lost, other)
            (taken if other < lost else added).append(key)  # the lower number had added it
    add_masks(total, added, taken)


def _seed(known: Opening, owner: int) -> bytes:
    told = known.seeds.get(owner)
    if told is not None and commitment(told) == known.commitments[owner]:
        return told
    return _secret(known, owner, lambda seed: commitment(seed) == known.commitments[owner])


def _masking_pair(known: Opening, owner: int) -> KeyPair:
    public = known.masking_keys[owner].tobytes()
    return KeyPair(_secret(known, owner, lambda secret: KeyPair(secret).public == public))


def _secret(known: Opening, owner: int, right: Callable[[bytes], bool]) -> bytes:
    """Return the one secret of a client that its neighbours' shares are of."""
    shares, threshold = _held(known, owner), known.graph.threshold
    if len(shares) < threshold:
        raise CohortTooSmall(
            f"{len(shares)} clients hold shares of what unmasks {known.names[owner]}, {threshold} are required"
        )
    secret = combine(shares, threshold)
    if secret is not None and right(secret):
        return secret
    found = correct(shares, threshold)
    if found is not None and right(found[0]):
        return found[0]
    raise MalformedMessage(
        f"{known.names[owner]} has shared another secret than it committed to, or more than "
        f"{(len(shares) - threshold) // 2} of {len(shares)} clients return wrong shares of it"
    )


def _held(known: Opening, owner: int) -> dict[int, mpz]:
    held = {}
    for holder in known.graph.neighbours[owner].tolist():
        if holder in known.shares:
            place = int(np.searchsorted(known.graph.neighbours[holder], owner))
            raw = known.shares[holder][place].tobytes()
            if any(raw):
                held[holder + 1] = read_share(raw)
    return held
