"""Oblivious pseudorandom function over ristretto255 with SHA-512: RFC 9497, mode 0x00 (OPRF), in vectors.

The receiver learns F(k, x) of its own inputs x, the key holder (the sender) nothing::

    receiver (x)                                    sender (k)
    r uniform scalar, M = r * H(x)
                         ----- M ----->
                                                    Z = k * M
                         <---- Z ------
    F(k, x) = SHA-512(|x| || x || 32 || Z/r || "Finalize")

Every input gets a blind of its own, and a key serves one run. M is uniform whatever x is, so the sender
learns nothing even if it deviates; but a sender that deviates chooses what the receiver computes (mode 0x00
proves nothing about k). A receiver learns one value per evaluated element and can test a guess of a sender's
input with each, so the protocol that uses this one has to bound how many it gets.

Source: A. Davidson, A. Faz-Hernandez, N. Sullivan, C. A. Wood, "Oblivious Pseudorandom Functions (OPRFs)
Using Prime-Order Groups", RFC 9497, sections 3.1, 3.3.1 and 4.1.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.group import (
    Points,
    Scalars,
    check_points,
    hash_and_multiply,
    invert_scalars,
    multiply,
    random_scalars,
)
from vfl.crypto.rng import Rng
from vfl.errors import InvalidPoint

__all__ = [
    "CONTEXT",
    "MAX_INPUT_BYTES",
    "OUTPUT_BYTES",
    "blind",
    "blind_with",
    "evaluate",
    "evaluate_directly",
    "finalize",
    "random_key",
]

CONTEXT = b"OPRFV1-\x00-ristretto255-SHA512"
MAX_INPUT_BYTES = 2**16 - 1
OUTPUT_BYTES = 64
_HASH_TO_GROUP = b"HashToGroup-" + CONTEXT
_ELEMENT_LENGTH = (32).to_bytes(2, "big")


def random_key(rng: Rng) -> bytes:
    """Return a fresh key: a uniform scalar of 32 bytes."""
    return random_scalars(rng, 1).tobytes()


def blind(inputs: Sequence[bytes], rng: Rng) -> tuple[Scalars, Points]:
    """Return fresh blinds, to be kept secret for :func:`finalize`, and the blinded elements, to be sent.

    Parameters
    ----------
    inputs : sequence of bytes
        n inputs of at most 65,535 bytes.
    rng : Rng
        Where the blinds come from.

    Returns
    -------
    blinds, blinded : ndarray of uint8, shape (n, 32)

    Leakage
    -------
    The sender learns n.
    """
    blinds = random_scalars(rng, len(inputs))
    return blinds, blind_with(inputs, blinds)


def blind_with(inputs: Sequence[bytes], blinds: Scalars) -> Points:
    """Return the blinded elements of the inputs under given blinds: the pure half of :func:`blind`."""
    _check_inputs(inputs)
    return hash_and_multiply(inputs, _HASH_TO_GROUP, blinds)


def evaluate(key: bytes, blinded: bytes | Points) -> Points:
    """Return the product of every received element and the key, shape (n, 32).

    Raises
    ------
    InvalidPoint
        If an element is the identity, not canonical, repeated or not of 32 bytes; nothing is multiplied then.
    """
    return multiply(check_points(blinded, "blinded elements"), key)


def finalize(
    inputs: Sequence[bytes], blinds: Scalars, evaluated: bytes | Points, tag_bytes: int = OUTPUT_BYTES
) -> NDArray[np.uint8]:
    """Return F(k, x) of every input, cut to its first `tag_bytes` bytes (1 to 64), shape (n, tag_bytes).

    Parameters
    ----------
    inputs : sequence of bytes
        The n inputs that were blinded.
    blinds : ndarray of uint8, shape (n, 32)
        Their blinds.
    evaluated : bytes or ndarray of uint8, shape (n, 32)
        The sender's answer, in the same order.
    tag_bytes : int
        Bytes kept of each output: two sets of n and m unequal inputs give an equal tag with probability
        n m / 2^(8 tag_bytes).

    Raises
    ------
    InvalidPoint
        If the answer does not consist of n distinct, canonically encoded elements other than the identity.
    """
    _check_inputs(inputs)
    _check_tag_bytes(tag_bytes)
    elements = check_points(evaluated, "evaluated elements")
    if len(elements) != len(inputs):
        raise InvalidPoint(f"evaluated elements: {len(elements)} for {len(inputs)} inputs")
    return _outputs(inputs, multiply(elements, invert_scalars(blinds)), tag_bytes)


def evaluate_directly(
    key: bytes, inputs: Sequence[bytes], tag_bytes: int = OUTPUT_BYTES
) -> NDArray[np.uint8]:
    """Return F(k, x) of the key holder's own inputs, cut as in :func:`finalize`, shape (n, tag_bytes).

    Parameters
    ----------
    key : bytes
        The scalar of :func:`random_key`.
    inputs : sequence of bytes
        n inputs of at most 65,535 bytes.
    tag_bytes : int
        Bytes kept of each output, 1 to 64.
    """
    _check_inputs(inputs)
    _check_tag_bytes(tag_bytes)
    return _outputs(inputs, hash_and_multiply(inputs, _HASH_TO_GROUP, key), tag_bytes)


def _outputs(inputs: Sequence[bytes], elements: Points, tag_bytes: int) -> NDArray[np.uint8]:
    encodings = elements.view("V32").ravel().tolist()
    tags = [_output(x, element)[:tag_bytes] for x, element in zip(inputs, encodings, strict=True)]
    return np.frombuffer(b"".join(tags), dtype=np.uint8).reshape(-1, tag_bytes)


def _output(x: bytes, element: bytes) -> bytes:
    framed = len(x).to_bytes(2, "big") + x + _ELEMENT_LENGTH + element
    return hashlib.sha512(framed + b"Finalize").digest()


def _check_tag_bytes(tag_bytes: int) -> None:
    if not 1 <= tag_bytes <= OUTPUT_BYTES:
        raise ValueError(f"a tag has 1 to {OUTPUT_BYTES} bytes, not {tag_bytes}")


def _check_inputs(inputs: Sequence[bytes]) -> None:
    longest = max(map(len, inputs), default=0)
    if longest > MAX_INPUT_BYTES:
        raise ValueError(f"an input has {longest} bytes; the limit is {MAX_INPUT_BYTES}")
