"""One-time pads that two parties draw alike without a message of the pads' size: a key agreed once, then a stream.

Both compute X25519 with the other's fresh public key, and ChaCha20 under HKDF-SHA256 of the result yields the pads,
which are pseudorandom for everybody else who follows the protocol. The public keys are not authenticated here: whoever
relays them could put its own in their place, and must be trusted not to.

Sources: RFC 7748 (X25519), RFC 5869 (HKDF), RFC 8439 (ChaCha20).
"""

from typing import final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from vfl.crypto.agreement import KEY_BYTES, KeyPair, derive
from vfl.crypto.rng import Rng
from vfl.errors import InvalidKey

__all__ = ["KEY_BYTES", "PadKey", "Pads"]

_PURPOSE = "vfl pads, version 1"


@final
class Pads(Rng):
    """A stream of random values that two parties draw in the same order.

    Parameters
    ----------
    key : bytes
        32 bytes that only the two know, for this stream alone.
    """

    def __init__(self, key: bytes) -> None:
        self._stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    def bytes(self, size: int) -> bytes:
        """Return the next `size` bytes; the cipher refuses more than 256 GiB under one key."""
        return self._stream.update(bytes(size))


@final
class PadKey:
    """A key pair for one training.

    Attributes
    ----------
    public_bytes : bytes
        32 bytes, for the other party.
    """

    def __init__(self, rng: Rng) -> None:
        self._pair = KeyPair.generate(rng)
        self.public_bytes = self._pair.public

    def agree(self, public: bytes) -> Pads:
        """Return the pads shared with the holder of another key.

        Raises
        ------
        InvalidKey
            If the key is this one, or of small order.
        """
        if public == self.public_bytes:
            raise InvalidKey("the other party's key for pads is this party's own")
        return Pads(derive(self._pair.agree(public), _PURPOSE, *sorted((public, self.public_bytes))))
