"""The prime-order group ristretto255: vectors of elements and scalars.

A vector of n elements or scalars is a uint8 array of shape (n, 32), a canonical encoding in every row. The
arithmetic is libsodium's, in constant time, called on the arrays' memory. Processors that multiply 52-bit integers in
vectors (AVX-512 IFMA) take long vectors eight rows at a time instead (:mod:`vfl.crypto.ristretto_lanes`), with the
same results. Blocks of rows run on all cores: neither holds the interpreter lock.

Sources: H. de Valence et al., "The ristretto255 and decaf448 Groups", RFC 9496; A. Faz-Hernandez et al.,
"Hashing to Elliptic Curves", RFC 9380, section 5.3.1 and appendix B. Why this binding:
docs/decisions/0002-ristretto-binding.md.
"""

import contextlib
import ctypes
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from rbcl import _sodium  # type: ignore[import-untyped,unused-ignore]

from vfl.crypto.rng import Rng
from vfl.errors import InvalidPoint

__all__ = [
    "ELEMENT_BYTES",
    "ORDER",
    "SCALAR_BYTES",
    "Points",
    "Scalars",
    "check_points",
    "expand_message_xmd",
    "hash_and_multiply",
    "hash_to_group",
    "invert_scalars",
    "multiply",
    "random_scalars",
]

ELEMENT_BYTES = 32
SCALAR_BYTES = 32
ORDER = 2**252 + 27742317777372353535851937790883648493

Points: TypeAlias = NDArray[np.uint8]
Scalars: TypeAlias = NDArray[np.uint8]

_WIDE_BYTES = 64  # uniform bytes behind one element or scalar
_BLOCK_ROWS = 256  # some ms of scalar products: small beside a job, large beside a thread switch
_LANES_FROM = 1024  # rows: below, loading the compiled kernels takes longer than libsodium
_ZERO_BLOCK = hashlib.sha512(bytes(128))  # what expand_message_xmd hashes first, whatever the message


def _function(name: str, pointers: int) -> Callable[..., int]:
    # A prototype of our own: setting argtypes on the binding's functions would change them for other users.
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * pointers)
    return prototype((name, _sodium))


_from_hash = _function("crypto_core_ristretto255_from_hash", 2)
_is_valid_point = _function("crypto_core_ristretto255_is_valid_point", 1)
_scalar_invert = _function("crypto_core_ristretto255_scalar_invert", 2)
_scalar_multiply = _function("crypto_core_ristretto255_scalar_mul", 3)
_scalar_reduce = _function("crypto_core_ristretto255_scalar_reduce", 2)
_scalarmult = _function("crypto_scalarmult_ristretto255", 3)

if os.path.dirname(_sodium._name) == tempfile.gettempdir():
    # The binding unpacks its shared library into a new temporary file at every import and leaves it there.
    # Once loaded the file is not needed (Windows does not let it be deleted).
    with contextlib.suppress(OSError):
        os.unlink(_sodium._name)


def random_scalars(rng: Rng, count: int) -> Scalars:
    """Return uniform scalars, shape (`count`, 32).

    Each is 512 random bits modulo the order, so its distance from uniform is below 2^-256. Zero, which
    :func:`multiply` refuses, has probability 2^-252.
    """
    wide = np.frombuffer(rng.bytes(_WIDE_BYTES * count), dtype=np.uint8)
    scalars = np.empty((count, SCALAR_BYTES), dtype=np.uint8)
    out, source = scalars.ctypes.data, wide.ctypes.data
    for row in range(count):
        _scalar_reduce(out + SCALAR_BYTES * row, source + _WIDE_BYTES * row)
    return scalars


def invert_scalars(scalars: Scalars) -> Scalars:
    """Return 1/s modulo the order for every row.

    One inversion and three products a row (P. Montgomery, "Speeding the Pollard and elliptic curve methods of
    factorization", section 10.3.1).

    Raises
    ------
    InvalidPoint
        If a scalar is zero or not below the order.
    """
    scalars = _scalar_rows(scalars)
    count, step = len(scalars), SCALAR_BYTES
    prefixes = np.zeros((count + 1, step), dtype=np.uint8)  # row i: the product of the first i scalars
    prefixes[0, 0] = 1
    inverses, suffix = np.empty_like(scalars), np.empty(step, dtype=np.uint8)
    given, before, out = scalars.ctypes.data, prefixes.ctypes.data, inverses.ctypes.data
    for at in range(0, count * step, step):
        _scalar_multiply(before + at + step, before + at, given + at)
    rest = suffix.ctypes.data  # the inverse of the product of the first i scalars, i falling
    _scalar_invert(rest, before + count * step)
    for at in range((count - 1) * step, -1, -step):
        _scalar_multiply(out + at, rest, before + at)
        _scalar_multiply(rest, rest, given + at)
    return inverses


def expand_message_xmd(message: bytes, dst: bytes, size: int) -> bytes:
    """Return `size` uniform bytes from a message: RFC 9380, section 5.3.1, with SHA-512.

    Parameters
    ----------
    message : bytes
        What is hashed.
    dst : bytes
        Domain separation tag, at most 255 bytes.
    size : int
        Bytes wanted, at most 255 * 64.
    """
    blocks = -(-size // 64)
    if blocks > 255 or len(dst) > 255:
        raise ValueError(f"at most 16320 bytes under a tag of at most 255, not {size} under {len(dst)}")
    tag = dst + bytes([len(dst)])
    hashed = _ZERO_BLOCK.copy()
    hashed.update(message + size.to_bytes(2, "big") + b"\0" + tag)
    first = hashed.digest()
    digest = hashlib.sha512(first + b"\1" + tag).digest()
    out = digest
    for index in range(2, blocks + 1):
        mixed = int.from_bytes(first, "big") ^ int.from_bytes(digest, "big")
        digest = hashlib.sha512(mixed.to_bytes(64, "big") + bytes([index]) + tag).digest()
        out += digest
    return out[:size]


def hash_to_group(messages: Sequence[bytes], dst: bytes) -> Points:
    """Return the elements that n messages hash to, shape (n, 32): RFC 9380, appendix B.

    Nobody knows their discrete logarithms. `dst` is the domain separation tag (at most 255 bytes).
    """
    if _uses_lanes(len(messages)):
        return _hash_by_lanes(messages, dst, np.empty((0, SCALAR_BYTES), np.uint8))
    elements = np.empty((len(messages), ELEMENT_BYTES), dtype=np.uint8)
    out = elements.ctypes.data

    def block(rows: range) -> None:
        wide = _uniform(messages, dst, rows)
        source = wide.ctypes.data
        for index, row in enumerate(rows):
            _from_hash(out + ELEMENT_BYTES * row, source + _WIDE_BYTES * index)

    _in_blocks(len(messages), block)
    return elements


def hash_and_multiply(messages: Sequence[bytes], dst: bytes, scalars: Scalars | bytes) -> Points:
    """Return scalar products of what messages hash to: :func:`multiply` of :func:`hash_to_group`, in one step.

    Raises
    ------
    InvalidPoint
        If a scalar is zero or not below the order.
    """
    if not _uses_lanes(len(messages)):
        return multiply(hash_to_group(messages, dst), scalars)
    factors, _ = _factors(scalars, len(messages))
    return _hash_by_lanes(messages, dst, factors)


def _uniform(messages: Sequence[bytes], dst: bytes, rows: range) -> NDArray[np.uint8]:
    expanded = [expand_message_xmd(messages[row], dst, _WIDE_BYTES) for row in rows]
    return np.frombuffer(b"".join(expanded), dtype=np.uint8)


def _uses_lanes(rows: int) -> bool:
    if rows < _LANES_FROM:
        return False
    from vfl.crypto import ristretto_field  # numba takes a second to load

    return ristretto_field.available()


def _hash_by_lanes(messages: Sequence[bytes], dst: bytes, factors: Scalars) -> Points:
    from vfl.crypto import ristretto_lanes as lanes

    out, digits = np.empty((len(messages), 4), np.uint64), lanes.signed_digits(factors)

    def block(rows: range) -> None:
        wide = _uniform(messages, dst, rows).view("<u8").reshape(len(rows), -1)
        own = digits[rows.start : rows.stop] if len(digits) == len(out) else digits
        lanes.hash_rows(out[rows.start : rows.stop], wide, own, 0, len(rows))

    _in_blocks(len(messages), block)
    return out.view(np.uint8)


def multiply(points: Points, scalars: Scalars | bytes) -> Points:
    """Return the scalar products of every element, shape (n, 32).

    Parameters
    ----------
    points : ndarray of uint8, shape (n, 32)
        Elements.
    scalars : ndarray of uint8, shape (n, 32), or bytes
        One scalar for each element, or 32 bytes: the same scalar for all.

    Raises
    ------
    InvalidPoint
        If a row is not the canonical encoding of an element other than the identity, or a scalar is zero or
        not below the order.
    """
    points = _rows(points, "elements")
    factors, step = _factors(scalars, len(points))
    if _uses_lanes(len(points)):
        return _multiply_by_lanes(points, factors)
    products = np.empty_like(points)
    out, given, factor = products.ctypes.data, points.ctypes.data, factors.ctypes.data

    def block(rows: range) -> None:
        for row in rows:
            at = ELEMENT_BYTES * row
            if _scalarmult(out + at, factor + step * row, given + at) != 0:
                raise InvalidPoint(f"element {row} of {len(points)} is the identity or not canonical")

    _in_blocks(len(points), block)
    return products


def _factors(scalars: Scalars | bytes, count: int) -> tuple[Scalars, int]:
    """Return scalars as rows, and the bytes from the factor of one element to that of the next."""
    if isinstance(scalars, bytes):
        return _scalar_rows(np.frombuffer(scalars, dtype=np.uint8).reshape(1, -1)), 0
    factors = _scalar_rows(scalars)
    if len(factors) != count:
        raise InvalidPoint(f"{len(factors)} scalars for {count} elements")
    return factors, SCALAR_BYTES


def _multiply_by_lanes(points: Points, factors: Scalars) -> Points:
    from vfl.crypto import ristretto_lanes as lanes

    out, bad = np.empty((len(points), 4), np.uint64), np.zeros(len(points), np.uint8)
    given, digits = points.view("<u8"), lanes.signed_digits(factors)
    _in_blocks(len(points), lambda rows: lanes.multiply_rows(out, given, digits, bad, rows.start, rows.stop))
    for row in np.flatnonzero(bad):
        raise InvalidPoint(f"element {row} of {len(points)} is the identity or not canonical")
    return out.view(np.uint8)


def check_points(received: bytes | NDArray[np.uint8], what: str) -> Points:
    """Return received bytes as elements after checking every one: canonical, not the identity, all distinct.

    Parameters
    ----------
    received : bytes or ndarray of uint8
        n encodings of 32 bytes, one after the other, or an array of shape (n, 32).
    what : str
        What the elements are, for the error text, e.g. "blinded elements".

    Raises
    ------
    InvalidPoint
        Names the first offending row (counted from 0) and what is wrong with it.
    """
    if isinstance(received, bytes):
        if len(received) % ELEMENT_BYTES:
            raise InvalidPoint(f"{what}: {len(received)} bytes are not a multiple of {ELEMENT_BYTES}")
        received = np.frombuffer(received, dtype=np.uint8).reshape(-1, ELEMENT_BYTES)
    points = _rows(received, what)
    of = f"of {len(points)}"
    identities = np.flatnonzero(~points.any(axis=1))
    if len(identities):
        raise InvalidPoint(f"{what}: element {identities[0]} {of} is the identity")
    _check_distinct(points, what)
    if _uses_lanes(len(points)):
        _check_by_lanes(points, what)
        return points
    start = points.ctypes.data

    def block(rows: range) -> None:
        for row in rows:
            if not _is_valid_point(start + ELEMENT_BYTES * row):
                raise InvalidPoint(f"{what}: element {row} {of} is not a canonical encoding")

    _in_blocks(len(points), block)
    return points


def _check_by_lanes(points: Points, what: str) -> None:
    from vfl.crypto import ristretto_lanes as lanes

    given, bad = points.view("<u8"), np.zeros(len(points), np.uint8)
    _in_blocks(len(points), lambda rows: lanes.check_rows(given, bad, rows.start, rows.stop))
    for row in np.flatnonzero(bad):
        raise InvalidPoint(f"{what}: element {row} of {len(points)} is not a canonical encoding")


def _rows(array: NDArray[np.uint8], what: str) -> NDArray[np.uint8]:
    """Return the array in contiguous rows of 32 bytes: what the pointer arithmetic above relies on."""
    if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != ELEMENT_BYTES:
        raise InvalidPoint(f"{what}: uint8 of shape (n, 32) expected, not {array.dtype} of {array.shape}")
    return np.ascontiguousarray(array)


def _scalar_rows(array: Scalars) -> Scalars:
    scalars = _rows(array, "scalars")
    zeros = np.flatnonzero(~scalars.any(axis=1))
    if len(zeros):
        raise InvalidPoint(f"scalar {zeros[0]} of {len(scalars)} is zero")
    for row in np.flatnonzero(scalars[:, -1] >= 1 << 4):  # at least 2^252: nearly never a canonical scalar
        if int.from_bytes(scalars[row].tobytes(), "little") >= ORDER:
            raise InvalidPoint(f"scalar {row} of {len(scalars)} is not below the group order")
    return scalars


def _check_distinct(points: Points, what: str) -> None:
    rows = points.view(f"V{ELEMENT_BYTES}").ravel().tolist()
    if len(set(rows)) == len(rows):
        return
    seen: dict[bytes, int] = {}
    for row, encoding in enumerate(rows):
        if (first := seen.setdefault(encoding, row)) != row:
            raise InvalidPoint(f"{what}: element {row} of {len(rows)} repeats element {first}")


def _in_blocks(count: int, work: Callable[[range], None]) -> None:
    """Call `work` on blocks of rows, on all cores; of several errors the one of the lowest row is raised."""
    blocks = [range(first, min(first + _BLOCK_ROWS, count)) for first in range(0, count, _BLOCK_ROWS)]
    workers = min(os.cpu_count() or 1, len(blocks))
    if workers < 2:
        for rows in blocks:
            work(rows)
        return
    with ThreadPoolExecutor(workers) as threads:
        for _ in threads.map(work, blocks):
            pass
