"""Keyed hashing into ristretto255 that commutes: hiding under two keys gives the same, whichever comes first.

k H(x) is pseudorandom to whoever does not know k, if the decisional Diffie-Hellman assumption holds and H is a random
oracle. One key serves many inputs, unlike the blinds of :mod:`vfl.crypto.oprf`, so equal inputs give equal elements:
lists have to be free of repetitions and shuffled where the order would tell something.

Source: Meadows, "A More Efficient Cryptographic Matchmaking Protocol", IEEE S&P 1986; Huberman, Franklin and Hogg,
"Enhancing Privacy and Trust in Electronic Communities", EC 1999.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.group import (
    Points,
    check_points,
    hash_and_multiply,
    invert_scalars,
    multiply,
    random_scalars,
)
from vfl.crypto.rng import Rng

__all__ = ["element_tags", "hide", "hide_again", "new_key", "uncover"]

_DOMAIN = b"vfl commutative hashing 1"


def new_key(rng: Rng) -> bytes:
    """Return a fresh key: a uniform scalar of 32 bytes."""
    return random_scalars(rng, 1).tobytes()


def hide(key: bytes, inputs: Sequence[bytes]) -> Points:
    """Return k H(x) of every input, shape (n, 32)."""
    return hash_and_multiply(inputs, _DOMAIN, key)


def hide_again(key: bytes, received: Points, what: str) -> Points:
    """Return k P of every element of the peer's, shape (n, 32), after checking them.

    Raises
    ------
    InvalidPoint
        If an element is the identity, not canonical or repeated.
    """
    return multiply(check_points(received, what), key)


def uncover(key: bytes, received: Points, what: str) -> Points:
    """Return P / k of every element of the peer's: what :func:`hide` under this key is undone by; errors as there."""
    inverse = invert_scalars(np.frombuffer(key, np.uint8).reshape(1, -1)).tobytes()
    return hide_again(inverse, received, what)


def element_tags(points: Points, width: int) -> NDArray[np.uint8]:
    """Return the first `width` bytes of SHA-512 of every element, shape (n, width)."""
    start = hashlib.sha512(_DOMAIN + b" tag")

    def tag(encoding: bytes) -> bytes:
        hashed = start.copy()
        hashed.update(encoding)
        return hashed.digest()[:width]

    tags = b"".join(map(tag, points.view("V32").ravel().tolist()))
    return np.frombuffer(tags, np.uint8).reshape(-1, width)
