"""Bytes of the lattice scheme, and the checks of every byte that comes from a peer. Numbers are little-endian.

    public key   header (scheme, degree, primes), seed of A (32), B transformed (4 L N)
    vector       header, seed of the a (32), then per ciphertext b transformed (4 L N)
    products     header, then per product a modulo q' (4 K N) and one b modulo q' per position (4 K each)

L and K are the numbers of primes of q and q'. The header of vectors and products: key id (SHA-256 of the public key),
kind, number of primes, positions per item, items. Residues are four bytes and below their prime, so that each value has
one encoding. All sizes follow from public numbers.
"""

import hashlib
import struct
from typing import final

import numpy as np

from vfl.crypto.fresh import FreshCiphertexts
from vfl.crypto.lattice.params import Parameters
from vfl.crypto.lattice.sampling import SEED_BYTES
from vfl.crypto.lattice.tables import Words
from vfl.errors import InvalidCiphertext, InvalidKey

__all__ = [
    "FreshProducts",
    "FreshVector",
    "accept_products",
    "accept_public",
    "accept_vector",
    "key_id",
    "products_bytes",
    "public_bytes",
    "vector_bytes",
]

_HEADER = struct.Struct("<32sBBII")
_VECTOR, _PRODUCTS = 1, 2


@final
class FreshVector(FreshCiphertexts):
    """Fresh symmetric encryptions: one seed for all a, and the b, (count, L, N) transformed."""

    def __init__(self, key: bytes, seed: bytes, b: Words) -> None:
        self._key, self._seed, self._b = key, seed, b

    def to_bytes(self) -> bytes:
        """Return the canonical encoding."""
        header = _HEADER.pack(self._key, _VECTOR, self._b.shape[1], self._b.shape[2], len(self._b))
        return b"".join([header, self._seed, self._b.astype("<u4", copy=False).tobytes()])


@final
class FreshProducts(FreshCiphertexts):
    """Re-randomised, flooded, masked and switched down: a (count, K, N) and b (count, positions, K)."""

    def __init__(self, key: bytes, a: Words, b: Words) -> None:
        self._key, self._a, self._b = key, a, b

    def to_bytes(self) -> bytes:
        """Return the canonical encoding."""
        header = _HEADER.pack(self._key, _PRODUCTS, self._a.shape[1], self._b.shape[1], len(self._a))
        flat = [part.reshape(len(self._a), -1).astype("<u4", copy=False) for part in (self._a, self._b)]
        return header + np.concatenate(flat, axis=1).tobytes()


def key_id(public: bytes) -> bytes:
    """Return the SHA-256 of a public key."""
    return hashlib.sha256(public).digest()


def vector_bytes(params: Parameters, count: int) -> int:
    """Size of `count` fresh ciphertexts in bytes."""
    return _HEADER.size + SEED_BYTES + 4 * count * len(params.primes) * params.degree


def products_bytes(params: Parameters, count: int, positions: int) -> int:
    """Size of `count` products with `positions` readable coefficients each in bytes."""
    return _HEADER.size + 4 * count * params.kept * (params.degree + positions)


def _prefix(params: Parameters) -> bytes:
    counts = (params.degree, len(params.plain), len(params.extra))
    return struct.pack(f"<8sIHH{len(params.primes)}I", b"vfl.bfv1", *counts, *params.primes)


def public_bytes(params: Parameters, seed: bytes, b: Words) -> bytes:
    """Encode a public key: the seed of A, and B transformed, (L, N)."""
    return _prefix(params) + seed + b.astype("<u4", copy=False).tobytes()


def accept_public(params: Parameters, raw: bytes) -> tuple[bytes, Words]:
    """Parse a public key into the seed of A and B.

    Raises
    ------
    InvalidKey
        If size or parameters are not the agreed ones, or numbers are not residues, or all of them zero.
    """
    prefix = _prefix(params)
    expected = len(prefix) + SEED_BYTES + 4 * len(params.primes) * params.degree
    if len(raw) != expected:
        raise InvalidKey(f"a lattice public key has {expected} bytes, the peer's has {len(raw)}")
    if raw[: len(prefix)] != prefix:
        raise InvalidKey("the peer's lattice key is for another degree or other primes than agreed")
    seed, start = raw[len(prefix) : len(prefix) + SEED_BYTES], len(prefix) + SEED_BYTES
    b = np.frombuffer(raw, "<u4", offset=start).reshape(len(params.primes), params.degree)
    problem = _problem(b[None], params)
    if problem:
        raise InvalidKey(f"the peer's lattice key: {problem}")
    return seed, b.astype(np.uint32)


def _problem(values: Words, params: Parameters) -> str | None:
    """Say what is wrong with (count, limbs, N) residues."""
    largest = np.array(params.primes[: values.shape[1]], np.uint32)
    outside = np.count_nonzero(values.max(axis=2) >= largest)
    if outside:
        return f"{outside} polynomials have numbers that are not residues of their primes"
    if not values.any(axis=2).all():
        return "a polynomial is zero, so that its ciphertext hides nothing"
    if len({item[0, :16].tobytes() for item in values}) < len(values):  # 480 bits repeat in no honest message
        return "a ciphertext is repeated"
    return None


def _check(raw: bytes, size: int, header: tuple[bytes, int, int, int, int]) -> None:
    key, kind, count = header[0], header[1], header[4]
    what = "lattice vector" if kind == _VECTOR else "lattice products"
    if len(raw) != size:
        raise InvalidCiphertext(f"{what}: expected {size} bytes for {count} items, received {len(raw)}")
    actual = _HEADER.unpack_from(raw)
    if actual[0] != key:
        raise InvalidCiphertext(f"{what}: expected the key {key.hex()[:16]}, received {raw.hex()[:16]}")
    if actual[1:] != header[1:]:
        raise InvalidCiphertext(
            f"{what}: expected kind, level, positions and count {header[1:]}, received {actual[1:]}"
        )


def accept_vector(params: Parameters, key: bytes, raw: bytes, count: int) -> tuple[bytes, Words]:
    """Parse `count` fresh ciphertexts under a key into the seed and the b.

    Raises
    ------
    InvalidCiphertext
        If size, key, kind, level, count or range are wrong, a polynomial is zero or repeated.
    """
    level = len(params.primes)
    _check(raw, vector_bytes(params, count), (key, _VECTOR, level, params.degree, count))
    start = _HEADER.size + SEED_BYTES
    b = np.frombuffer(raw, "<u4", offset=start).reshape(count, level, params.degree)
    problem = _problem(b, params)
    if problem:
        raise InvalidCiphertext(f"lattice vector: {problem}")
    return raw[_HEADER.size : start], b.astype(np.uint32)


def accept_products(
    params: Parameters, key: bytes, raw: bytes, count: int, positions: int
) -> tuple[Words, Words]:
    """Parse `count` products under a key into a, (count, K, N), and b, (count, positions, K).

    Raises
    ------
    InvalidCiphertext
        As for :func:`accept_vector`.
    """
    level, degree = params.kept, params.degree
    _check(raw, products_bytes(params, count, positions), (key, _PRODUCTS, level, positions, count))
    items = np.frombuffer(raw, "<u4", offset=_HEADER.size).reshape(count, level * (degree + positions))
    a = items[:, : level * degree].astype(np.uint32).reshape(count, level, degree)
    b = items[:, level * degree :].reshape(count, positions, level)
    problem = _problem(a, params)
    if problem is None and (b >= np.array(params.primes[:level], np.uint32)).any():
        problem = "a coefficient is not a residue of its prime"
    if problem:
        raise InvalidCiphertext(f"lattice products: {problem}")
    return a, b.astype(np.uint32)
