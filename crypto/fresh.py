"""The type that may leave the building.

A result of homomorphic arithmetic still carries its operands in its randomness and noise. Every scheme
therefore has two types: ``Ciphertexts`` (anything computed) and a subclass of :class:`FreshCiphertexts`
(from ``encrypt`` or ``rerandomise``). Messages accept only the latter, so forgetting to re-randomise is a
type error.
"""

import abc
from typing import final

__all__ = ["FreshCiphertexts", "ReceivedCiphertexts"]


class FreshCiphertexts(abc.ABC):
    """A vector of ciphertexts whose randomness is independent of everything computed before."""

    @abc.abstractmethod
    def to_bytes(self) -> bytes:
        """Return the canonical fixed-width encoding: count times width bytes."""


@final
class ReceivedCiphertexts(FreshCiphertexts):
    """Bytes off the wire that a peer declared as fresh ciphertexts; nothing about them is checked yet.

    Only ``accept`` of a public key turns them into ciphertexts that can be computed with or decrypted.
    """

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def to_bytes(self) -> bytes:
        """Return the bytes as they came."""
        return self._raw
