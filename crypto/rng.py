"""The one source of secret randomness: the operating system's generator, expanded by ChaCha20.

Every function that needs randomness takes an :class:`Rng`. The only one shipped is :class:`SystemRng`;
tests derive a deterministic one of their own to replay vectors. Source: RFC 8439 (ChaCha20).
"""

import abc
import os
from typing import final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms
from numpy.typing import NDArray

__all__ = ["Rng", "SystemRng", "agreed_permutation"]


class Rng(abc.ABC):
    """Uniform random values derived from one stream of secret bytes."""

    @abc.abstractmethod
    def bytes(self, size: int) -> bytes:
        """Return `size` uniform bytes."""

    def below(self, bound: int) -> int:
        """Return a uniform integer in [0, `bound`), by rejection."""
        if bound < 1:
            raise ValueError(f"bound must be positive, not {bound}")
        bits = (bound - 1).bit_length()
        size, excess = (bits + 7) // 8, -bits % 8
        while True:
            value = int.from_bytes(self.bytes(size), "big") >> excess
            if value < bound:
                return value

    def bits(self, count: int) -> int:
        """Return a uniform integer of `count` bits."""
        return self.below(1 << count)

    def residues(self, modulus: int, size: int) -> NDArray[np.uint64]:
        """Return `size` uniform residues modulo `modulus` (below 2^63) as uint64, by rejection."""
        if not 1 < modulus < 1 << 63:
            raise ValueError(f"modulus must lie in (1, 2^63), has {modulus.bit_length()} bits")
        mask = np.uint64((1 << (modulus - 1).bit_length()) - 1)
        values = np.empty(0, dtype=np.uint64)
        while len(values) < size:
            drawn = np.frombuffer(self.bytes(8 * 2 * size), dtype="<u8") & mask
            values = np.concatenate([values, drawn[drawn < np.uint64(modulus)]])
        return values[:size].copy()

    def permutation(self, size: int) -> NDArray[np.int64]:
        """Return a uniform permutation of range(`size`): the order of distinct 128-bit keys."""
        keys = np.frombuffer(self.bytes(16 * size), dtype="<u8").reshape(size, 2)
        return np.lexsort((keys[:, 0], keys[:, 1])).astype(np.int64)


@final
class SystemRng(Rng):
    """ChaCha20 under a key from the operating system; a forked child draws a key of its own."""

    def __init__(self) -> None:
        self._reseed()

    def _reseed(self) -> None:
        self._process = os.getpid()
        self._stream: CipherContext = Cipher(
            algorithms.ChaCha20(os.urandom(32), bytes(16)), mode=None
        ).encryptor()
        self._left = 1 << 37  # bytes under one key, half of what the 32-bit block counter allows

    def bytes(self, size: int) -> bytes:
        """Return `size` uniform bytes."""
        if self._process != os.getpid() or size > self._left:
            self._reseed()
        self._left -= size
        return self._stream.update(bytes(size))


def agreed_permutation(seed: bytes, size: int) -> NDArray[np.int64]:
    """Return the permutation of range(`size`) that a seed of 32 bytes stands for: the same for all who know it.

    The order of 64-bit words of ChaCha20 under the seed; that two words are equal has probability below `size`^2 2^-65.
    """
    stream = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None).encryptor()
    words = np.frombuffer(stream.update(bytes(8 * size)), dtype="<u8")
    return np.argsort(words, kind="stable").astype(np.int64)
