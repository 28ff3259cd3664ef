"""Masks over Z_2^b: key streams added to vectors of residues, and residues packed into b bits each.

A residue lives in a word of 32 bits (b <= 32) or 64 bits; words wrap around, and only their low b bits mean anything,
so sums need no reduction before :func:`pack`. The mask of a key is the AES-256-CTR key stream from counter zero, read
as little-endian words. A key masks one vector and is never used again.

Where the processor has AES instructions, :mod:`vfl.crypto.keystream` adds streams without writing them anywhere.
Elsewhere vectors go through the cache in tiles: every key's stream for a tile is made in one small buffer and added at
once. Both give the same residues.

Source: NIST SP 800-38A, section 6.5 (CTR). That a key stream is indistinguishable from uniform words is the assumption
that AES is a pseudorandom permutation.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numba import njit
from numpy.typing import NDArray

from vfl.crypto import keystream
from vfl.crypto.threads import run
from vfl.errors import EncodingOverflow, InvalidData

__all__ = [
    "LARGEST_BITS",
    "Words",
    "add_masks",
    "add_packed",
    "pack",
    "packed_bytes",
    "reduced",
    "unpack",
    "zeros",
]

LARGEST_BITS = 64
TILE_BYTES = 1 << 17  # with its stream and the zeros that the cipher reads, well within a second-level cache
PIECE_BYTES = 1 << 16  # least work of a thread

Words = NDArray[Any]
"""uint32 or uint64, shape (size,): residues modulo 2^b, their higher bits without meaning."""

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def _kernel(function: FunctionT) -> FunctionT:
    return cast(FunctionT, njit(nogil=True, cache=True)(function))


def zeros(size: int, bits: int) -> Words:
    """Return `size` zero residues in words wide enough for `bits` bits."""
    _check_bits(bits)
    return np.zeros(size, dtype=np.uint32 if bits <= 32 else np.uint64)


def reduced(total: Words, bits: int) -> NDArray[np.uint64]:
    """Return the residues modulo 2^bits as uint64."""
    return total.astype(np.uint64) & np.uint64((1 << bits) - 1)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= LARGEST_BITS:
        raise EncodingOverflow(f"a residue has 1 to {LARGEST_BITS} bits, not {bits}")


def packed_bytes(size: int, bits: int) -> int:
    """Return the bytes of `size` packed residues."""
    _check_bits(bits)
    return (size * bits + 7) // 8


# --- masks


@_kernel
def _add(total: Any, stream: Any) -> None:
    for i in range(total.size):
        total[i] += stream[i]


@_kernel
def _subtract(total: Any, stream: Any) -> None:
    for i in range(total.size):
        total[i] -= stream[i]


def add_masks(
    total: Words, plus: Sequence[bytes], minus: Sequence[bytes], threads: int | None = None
) -> None:
    """Add to `total`, in place, the masks of the keys `plus`, and subtract those of `minus`.

    Parameters
    ----------
    total : ndarray of uint32 or uint64, shape (size,), contiguous
    plus, minus : sequences of bytes
        Keys of 32 bytes.
    threads : int, optional
        Among which the vector is divided; all processors by default. Without the AES instructions there is one, since
        the library's cipher holds the interpreter lock.
    """
    if not total.size or not (plus or minus):
        return
    if keystream.available():
        schedule, pieces = keystream.schedules([*plus, *minus]), -(-total.nbytes // PIECE_BYTES)
        words = PIECE_BYTES // total.itemsize

        def work(start: int, stop: int) -> None:
            part = total[start * words : stop * words]
            keystream.add_streams(part, schedule, len(plus), start * words)

        run(work, pieces, threads)
    else:
        _add_masks_portably(total, plus, minus)


def _add_masks_portably(total: Words, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    streams = [(_stream(key), _add) for key in plus] + [(_stream(key), _subtract) for key in minus]
    tile = TILE_BYTES // total.itemsize
    nothing, buffer = memoryview(bytes(TILE_BYTES)), bytearray(TILE_BYTES)
    words = np.frombuffer(buffer, dtype=total.dtype.newbyteorder("<")).view(total.dtype)
    for start in range(0, total.size, tile):
        part = total[start : start + tile]
        plain, mask = nothing[: part.nbytes], words[: part.size]
        for update, apply in streams:
            update(plain, buffer)
            apply(part, mask)


def _stream(key: bytes) -> Callable[[memoryview, bytearray], int]:
    """Return what writes the next bytes of a key's stream into a buffer."""
    return Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update_into


# --- packing


@_kernel
def _pack(values: Any, bits: Any, packed: Any) -> None:
    """Write the low `bits` bits of the values one after the other into words of 64 bits, lowest bits first."""
    mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - bits)
    held, room, at = np.uint64(0), 64, 0
    for i in range(values.size):
        value = np.uint64(values[i]) & mask
        held |= value << np.uint64(64 - room)
        room -= bits
        if room <= 0:
            packed[at] = held
            at += 1
            left = bits + room  # bits of the value that went into the word
            held = value >> np.uint64(left) if left < 64 else np.uint64(0)
            room += 64
    if room < 64:
        packed[at] = held


@_kernel
def _add_packed(total: Any, packed: Any, bits: Any) -> None:
    mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - bits)
    for i in range(total.size):
        position = i * bits
        word, shift = position >> 6, position & 63
        value = packed[word] >> np.uint64(shift)
        if shift + bits > 64:
            value |= packed[word + 1] << np.uint64(64 - shift)
        total[i] += total.dtype.type(value & mask)


def pack(values: Words, bits: int) -> NDArray[np.uint8]:
    """Return the low `bits` bits of each residue, packed; shape (packed_bytes(size, bits),)."""
    size = packed_bytes(values.size, bits)
    words = np.zeros((size + 7) // 8, dtype=np.uint64)
    _pack(values, bits, words)
    return words.astype("<u8", copy=False).view(np.uint8)[:size]


def add_packed(total: Words, packed: NDArray[np.uint8], bits: int) -> None:
    """Add packed residues to `total` in place.

    Raises
    ------
    InvalidData
        If the bytes are not as many as `total` needs, or bits beyond the last residue are set.
    """
    size = packed_bytes(total.size, bits)
    if packed.shape != (size,):
        raise InvalidData(f"{total.size} residues of {bits} bits take {size} bytes, not {packed.size}")
    if size and int(packed[-1]) >> (8 - (-total.size * bits) % 8):
        raise InvalidData(f"the last of {size} bytes has bits beyond {total.size} residues")
    words = np.zeros((size + 7) // 8 * 8, dtype=np.uint8)
    words[:size] = packed
    _add_packed(total, words.view("<u8").astype(np.uint64, copy=False), bits)


def unpack(packed: NDArray[np.uint8], size: int, bits: int) -> Words:
    """Return `size` residues from their packed form; errors as in :func:`add_packed`."""
    total = zeros(size, bits)
    add_packed(total, packed, bits)
    return total
