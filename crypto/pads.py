"""One-time pads that two parties draw alike without a message of the pads' size: a key agreed once, then a stream.

Both compute X25519 with the other's fresh public key, and ChaCha20 under HKDF-SHA256 of the result yields the pads,
which are pseudorandom for everybody else who follows the protocol. The public keys are not authenticated here: whoever
relays them could put its own in their place, and must be trusted not to.

Sources: RFC 7748 (X25519), RFC 5869 (HKDF), RFC 8439 (ChaCha20).
"""

from typing import final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vfl.crypto.rng import Rng
from vfl.errors import InvalidKey

__all__ = ["KEY_BYTES", "PadKey", "Pads"]

KEY_BYTES = 32
_CONTEXT = b"vfl pads, version 1"


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
        self._private = X25519PrivateKey.from_private_bytes(rng.bytes(KEY_BYTES))
        self.public_bytes = self._private.public_key().public_bytes_raw()

    def agree(self, public: bytes) -> Pads:
        """Return the pads shared with the holder of another key.

        Raises
        ------
        InvalidKey
            If the key is this one, or of small order.
        """
        if public == self.public_bytes:
            raise InvalidKey("the other party's key for pads is this party's own")
        try:
            secret = self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise InvalidKey("the other party's key for pads is not a valid X25519 key") from None
        both = b"".join(sorted((public, self.public_bytes)))
        return Pads(HKDF(SHA256(), KEY_BYTES, None, _CONTEXT + both).derive(secret))
