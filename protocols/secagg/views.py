"""What clients sign and what their keys are bound to: digests of a round as one party sees it.

Each digest contains the one before: context (policy, task, number of the round), roster (who takes part, with which
keys), view (who has shared secrets), survivors (whose vectors have come). Parties with different views at any point
derive unrelated masks and sign different statements.
"""

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.agreement import derive, digest

__all__ = [
    "KEYS", "SURVIVORS", "VIEW", "commitment", "keys_statement", "mask_key", "pair_key", "roster_digest",
    "sealing_key", "survivors_digest", "view_digest",
]  # fmt: skip

KEYS, VIEW, SURVIVORS = "vfl secagg keys", "vfl secagg view", "vfl secagg survivors"
"""Contexts of the three signatures."""


def _number(client: int) -> bytes:
    return client.to_bytes(4, "big")


def keys_statement(context: bytes, client: int, sealing: bytes, masking: bytes) -> bytes:
    """Return what a client signs when it advertises its public keys."""
    return digest("keys", context, _number(client), sealing, masking)


def roster_digest(context: bytes, present: NDArray[np.bool_], keys: NDArray[np.uint8]) -> bytes:
    """Return the digest of who takes part with which keys."""
    return digest("roster", context, np.packbits(present).tobytes(), keys[present].tobytes())


def view_digest(roster: bytes, sharers: NDArray[np.bool_]) -> bytes:
    """Return the digest of among whom vectors are masked."""
    return digest("view", roster, np.packbits(sharers).tobytes())


def survivors_digest(view: bytes, alive: NDArray[np.bool_]) -> bytes:
    """Return the digest of whose vectors are summed."""
    return digest("survivors", view, np.packbits(alive).tobytes())


def sealing_key(shared: bytes, roster: bytes, dealer: int, holder: int) -> bytes:
    """Return the key under which `dealer` seals its shares for `holder`."""
    return derive(shared, "shares", roster, _number(dealer), _number(holder))


def pair_key(shared: bytes, view: bytes, one: int, other: int) -> bytes:
    """Return the key of the mask that two clients share: the lower number adds it, the other subtracts it."""
    return derive(shared, "pair mask", view, _number(min(one, other)), _number(max(one, other)))


def mask_key(seed: bytes, view: bytes) -> bytes:
    """Return the key of a client's own mask."""
    return derive(seed, "own mask", view)


def commitment(seed: bytes) -> bytes:
    """Return the hash by which the aggregator recognises a seed."""
    return digest("seed", seed)
