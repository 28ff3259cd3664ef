"""What several test modules share: a deterministic generator, so that vectors and transcripts can be replayed."""

import hashlib
from typing import final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from vfl.crypto.rng import Rng


@final
class DeterministicRng(Rng):
    """ChaCha20 keyed by a seed: for tests only, and therefore not part of the package."""

    def __init__(self, seed: int | bytes) -> None:
        raw = seed if isinstance(seed, bytes) else seed.to_bytes(8, "big")
        key = hashlib.sha256(b"vfl tests" + raw).digest()
        self._stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    def bytes(self, size: int) -> bytes:
        return self._stream.update(bytes(size))
