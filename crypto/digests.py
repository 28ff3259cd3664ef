"""Digests of 128 bits of whole columns of identifiers, under a key drawn after the identifiers are fixed.

The digest is a polynomial in the key over GF(2^128), as in GHASH: an identifier's bytes in blocks of 16, padded with
zeros, then its length, are the coefficients,

    digest = b_1 k^(l+1) + ... + b_l k^2 + length k .

Two different identifiers of at most l blocks have different polynomials, whose difference has at most l + 1 roots:
they collide for at most that many of 2^128 keys, whoever chose them, without any assumption. Among 2^28 identifiers of
at most 1,024 bytes (66 coefficients) some two collide with probability below 2^55 66 / 2^128 < 2^-66. The digest hides
nothing; it is an input to a protocol, never a message.

Sources: Carter and Wegman, "Universal Classes of Hash Functions", 1979; Shoup, "On Fast and Provably Secure Message
Authentication Based on Universal Hashing", CRYPTO 1996, section 2 (evaluation hash); NIST SP 800-38D, section 6.4.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.gf128 import SHARED, Elements, set_product
from vfl.crypto.lattice.ntt import kernel
from vfl.crypto.threads import run

__all__ = ["Packed", "decimal", "digests", "pack"]


@dataclass(frozen=True, eq=False)
class Packed:
    """A column of byte strings in one array.

    Attributes
    ----------
    data : ndarray of uint8
        All strings one after the other.
    ends : ndarray of int64, shape (n + 1,)
        0, then where each string ends in `data`.
    """

    data: NDArray[np.uint8]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, row: int) -> bytes:
        """Return one string."""
        return self.data[self.ends[row] : self.ends[row + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the strings."""
        return (self[row] for row in range(len(self)))


def pack(strings: Sequence[bytes]) -> Packed:
    """Return a column of the given strings."""
    ends = np.zeros(len(strings) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, strings), dtype=np.int64, count=len(strings)), out=ends[1:])
    return Packed(np.frombuffer(b"".join(strings), dtype=np.uint8), ends)


@kernel
def _magnitude(value: Any) -> Any:
    return np.uint64(value) if value >= 0 else ~np.uint64(value) + np.uint64(1)


@kernel
def _widths(values: Any, ends: Any) -> None:
    for i in range(values.size):
        rest, width = _magnitude(values[i]), 2 if values[i] < 0 else 1
        while rest >= np.uint64(10):
            rest //= np.uint64(10)
            width += 1
        ends[i + 1] = ends[i] + width


@kernel
def _write(values: Any, ends: Any, data: Any) -> None:
    for i in range(values.size):
        rest = _magnitude(values[i])
        for at in range(ends[i + 1] - 1, ends[i] - 1, -1):
            data[at] = np.uint8(48) + np.uint8(rest % np.uint64(10))
            rest //= np.uint64(10)
        if values[i] < 0:
            data[ends[i]] = 45


def decimal(values: NDArray[np.int64]) -> Packed:
    """Return integers as decimal text, as `str` writes them."""
    ends = np.zeros(len(values) + 1, dtype=np.int64)
    _widths(values, ends)
    data = np.empty(ends[-1], dtype=np.uint8)
    _write(values, ends, data)
    return Packed(data, ends)


@kernel
def _word(data: Any, first: Any, end: Any) -> Any:
    """Return up to eight bytes as a number, little-endian."""
    word = np.uint64(0)
    for i in range(min(8, end - first)):
        word |= np.uint64(data[first + i]) << np.uint64(8 * i)
    return word


@kernel
def _evaluate(data: Any, ends: Any, key: Any, out: Any) -> None:
    sums = np.zeros((1, 2), np.uint64)
    for i in range(out.shape[0]):
        sums[0, 0] = sums[0, 1] = 0
        first, end = ends[i], ends[i + 1]
        for at in range(first, end, 16):
            sums[0, 0] ^= _word(data, at, end)
            sums[0, 1] ^= _word(data, at + 8, end)
            set_product(sums, 0, sums, 0, key, 0)
        sums[0, 0] ^= np.uint64(end - first)
        set_product(out, i, sums, 0, key, 0)


def digests(column: Packed, key: bytes) -> Elements:
    """Return the digest of every string, shape (n, 2), on all processors.

    Parameters
    ----------
    column : Packed
    key : bytes
        16 bytes, uniform and drawn after the strings were fixed; the same on both sides.
    """
    out = np.empty((len(column), 2), dtype=np.uint64)
    factor = np.frombuffer(key, dtype="<u8").reshape(1, 2)
    data, ends = column.data, column.ends
    threads = None if len(out) >= SHARED else 1
    run(lambda first, end: _evaluate(data, ends[first : end + 1], factor, out[first:end]), len(out), threads)
    return out
