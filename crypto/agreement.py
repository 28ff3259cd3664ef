"""Keys that two parties share: X25519 agreement, derivation of keys bound to their purpose, one-time sealing.

A shared secret is never a key itself. Every key comes from it by HKDF over a label and the facts it is bound to
(session, round, model, cohort, direction), each with its length, so that no two purposes and no two rounds have a
key in common. A sealing key encrypts one message, which is why its nonce is constant.

Sources: RFC 7748 (X25519; a shared secret of zeros is refused, section 6.1); RFC 5869 (HKDF-SHA-256, without salt);
RFC 5116 and NIST SP 800-38D (AES-256-GCM).
"""

import hashlib
from typing import final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vfl.crypto.rng import Rng
from vfl.errors import InvalidCiphertext, InvalidKey

__all__ = ["KEY_BYTES", "SEAL_BYTES", "KeyPair", "derive", "digest", "seal", "unseal"]

KEY_BYTES = 32
SEAL_BYTES = 16
"""What sealing adds to a message."""

_NONCE = bytes(12)


@final
class KeyPair:
    """An X25519 key pair. Its text form shows nothing.

    Parameters
    ----------
    secret : bytes
        32 uniform bytes.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise InvalidKey(f"an X25519 key has {KEY_BYTES} bytes, not {len(secret)}")
        self.secret = secret
        self._private = X25519PrivateKey.from_private_bytes(secret)
        self.public = self._private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, rng: Rng) -> "KeyPair":
        """Return a new pair."""
        return cls(rng.bytes(KEY_BYTES))

    def agree(self, public: bytes) -> bytes:
        """Return the secret shared with the holder of a public key, 32 bytes: input of :func:`derive` alone.

        Raises
        ------
        InvalidKey
            If the key has not 32 bytes or is a point of small order, which would fix the secret.
        """
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise InvalidKey("the peer's X25519 key is no point of large order") from None

    def __repr__(self) -> str:
        """Show the class alone."""
        return "KeyPair()"


def _framed(label: str, parts: tuple[bytes, ...]) -> bytes:
    fields = (label.encode(), *parts)
    return b"".join(len(field).to_bytes(8, "big") + field for field in fields)


def derive(secret: bytes, label: str, *parts: bytes) -> bytes:
    """Return a key of 32 bytes for the purpose `label`, bound to `parts`.

    Parameters
    ----------
    secret : bytes
        At least 256 bits of entropy, not necessarily uniform.
    label : str
    *parts : bytes
        Facts that both sides must agree on; a difference in any gives an unrelated key.
    """
    return HKDF(hashes.SHA256(), KEY_BYTES, None, _framed(label, parts)).derive(secret)


def digest(label: str, *parts: bytes) -> bytes:
    """Return SHA-256 of the label and the parts, each with its length."""
    return hashlib.sha256(_framed(label, parts)).digest()


def seal(key: bytes, message: bytes) -> bytes:
    """Encrypt and authenticate the only message under a key; returns ``len(message) + SEAL_BYTES`` bytes."""
    return AESGCM(key).encrypt(_NONCE, message, None)


def unseal(key: bytes, sealed: bytes) -> bytes:
    """Return the message.

    Raises
    ------
    InvalidCiphertext
        If it was not sealed under this key: by another party, for another purpose, or changed on the way.
    """
    try:
        return AESGCM(key).decrypt(_NONCE, sealed, None)
    except InvalidTag:
        raise InvalidCiphertext(f"{len(sealed)} bytes were not sealed under the agreed key") from None
