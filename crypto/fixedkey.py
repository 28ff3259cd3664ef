"""Bulk hashing and expansion with AES-128 under few keys, for blocks of 16 bytes that are random to the adversary.

H(x) = AES_k(x) + x, the construction of Matyas, Meyer and Oseas, is correlation robust in the ideal-permutation model:
values H(x + r) and, more generally, H(x_i + d_i r) for distinct non-zero d_i look random to whoever knows every x_i and
d_i but not the 128 random bits r. :func:`tweaked` stays so when tweaks and inputs are chosen by an adversary. Neither
is collision resistant beyond that, nor a random oracle; identifiers go through :mod:`vfl.crypto.digests` first.

Keys are public and derived from the run and a label, so that no permutation has two uses and none is shared by runs.

Sources: Guo, Katz, Wang and Yu, "Efficient and Secure Multiparty Computation from Fixed-Key Block Ciphers", IEEE S&P
2020, eprint 2019/074, sections 4 and 7.
"""

import hashlib

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from vfl.crypto.gf128 import Elements

__all__ = ["BLOCK", "FixedKey", "derive", "keystream"]

BLOCK = 16
_CHUNK = 1 << 15  # blocks at a time: 512 KiB of scratch, within a second-level cache


def derive(label: str, *parts: bytes) -> bytes:
    """Return a 16-byte key: SHA-256 of a label and parts, each with its length."""
    running = hashlib.sha256(b"vfl fixed key")
    for part in (label.encode(), *parts):
        running.update(len(part).to_bytes(8, "big") + part)
    return running.digest()[:BLOCK]


def keystream(key: bytes, first: int, out: Elements) -> None:
    """Write blocks `first`, `first` + 1, ... of AES-128 in counter mode over `out`, an array of whole blocks."""
    counter = modes.CTR(first.to_bytes(BLOCK, "big"))
    raw = out.reshape(-1).view(np.uint8)
    raw[:] = 0
    Cipher(algorithms.AES(key), counter).encryptor().update_into(raw.data, raw.data)


class FixedKey:
    """One permutation of blocks. Not for use by two threads at once.

    Parameters
    ----------
    key : bytes
        16 bytes, public.
    """

    def __init__(self, key: bytes) -> None:
        # ECB is the bare permutation here: blocks are hashed, nothing is encrypted
        self._context = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
        self._scratch = np.empty((_CHUNK + 1, 2), dtype=np.uint64)  # the library asks for a block to spare

    def hash(self, x: Elements, out: Elements | None = None) -> Elements:
        """Return AES(x) + x for every row, in `out` (which may be `x`) if one is given.

        Parameters
        ----------
        x, out : ndarray of uint64, shape (n, 2), contiguous

        Returns
        -------
        ndarray of uint64, shape (n, 2)
        """
        if out is None:
            out = np.empty_like(x)
        raw, scratch = x.reshape(-1).view(np.uint8), self._scratch.reshape(-1).view(np.uint8)
        for first in range(0, len(x), _CHUNK):
            end = min(first + _CHUNK, len(x))
            self._context.update_into(raw[BLOCK * first : BLOCK * end].data, scratch.data)
            np.bitwise_xor(x[first:end], self._scratch[: end - first], out=out[first:end])
        return out

    def tweaked(self, x: Elements, tweaks: Elements) -> Elements:
        """Return AES(AES(x) + i) + AES(x) for every row x and tweak i."""
        inner: Elements = self.hash(x) ^ x
        mixed: Elements = inner ^ tweaks
        out: Elements = self.hash(mixed) ^ mixed ^ inner
        return out
