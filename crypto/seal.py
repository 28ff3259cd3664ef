"""Microsoft SEAL by its residues: ring and parameters of CKKS, and the way numpy arrays enter and leave SEAL.

SEAL is reached through ``tenseal.sealapi``, which offers its objects but their numbers only as files in
SEAL's own stream format. This module writes such streams itself, uncompressed, from residues that the
caller has validated: no byte of a peer is ever parsed by the library, which malformed ones can crash.

Ring: Z_q[X]/(X^N + 1). A polynomial is stored as its N values at the primitive 2N-th roots of unity modulo
each prime of q (number-theoretic transform), in SEAL's order, which never matters here. The sum of X^k over
these roots is N for k = 0 and 0 for 0 < k < N, so the mean of the values is the constant coefficient,
without a transform.

Randomness: SEAL draws 64 bytes from the operating system (``/dev/urandom``, through ``std::random_device``)
for every key and every encryption and expands them with BLAKE2xb. It keeps no state between calls, so a
forked process repeats nothing. It can take a fixed seed, but would then use the same stream for every
encryption: never do that.

Sources: Microsoft SEAL 4, native/src/seal: serialization.h, ciphertext.cpp (streams), util/rlwe.cpp
(sampling), randomgen.cpp (entropy). RFC 8878, section 3.1.1 (Zstandard frames). Albrecht et al.,
"Homomorphic Encryption Security Standard", HomomorphicEncryption.org 2018, table 1.
"""

import math
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tenseal import sealapi

__all__ = [
    "DEGREE",
    "MODULI",
    "MODULUS",
    "PRIMES",
    "SEED_BYTES",
    "SPECIAL_PRIME",
    "FloatArray",
    "Residues",
    "ciphertext",
    "constant",
    "context",
    "encode",
    "expand",
    "inner_products",
    "limbs",
    "public_key",
    "residues",
]

FloatArray = NDArray[np.float64]
Residues = NDArray[np.uint64]

# N and q: the standard allows log2 q <= 152 at N = 8192 for 192-bit classical security, with a uniform
# ternary secret and errors of standard deviation 3.2. Keys live modulo all 150 bits, ciphertexts modulo q,
# the first 120.
DEGREE = 8192
PRIMES = (1152921504606748673, 1152921504606830593)
SPECIAL_PRIME = 1073692673
MODULUS = math.prod(PRIMES)
MODULI = np.array([*PRIMES, SPECIAL_PRIME], dtype=np.uint64)[:, None]
SEED_BYTES = 64

_HEADER = struct.Struct("<HBBBBHQ")
_MAGIC = 0xA15E
_UNCOMPRESSED, _ZSTANDARD = 0, 2
_BLAKE2XB = 1
_LIMB_BITS, _LIMBS = 20, 3  # N products of two such limbs sum to less than 2^53: exact in float64
_WEIGHTS = [1 << _LIMB_BITS * (i + j) for i in range(_LIMBS) for j in range(_LIMBS)]


@cache
def context() -> Any:
    """Return SEAL's tables for the parameters above; SEAL itself refuses less than 192-bit security."""
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(DEGREE)
    parameters.set_coeff_modulus([sealapi.Modulus(prime) for prime in (*PRIMES, SPECIAL_PRIME)])
    smaller_levels_too = True
    made = sealapi.SEALContext(parameters, smaller_levels_too, sealapi.SEC_LEVEL_TYPE.TC192)
    if not made.parameters_set():
        raise ValueError(f"SEAL refuses the CKKS parameters: {made.parameters_error_message()}")
    return made


@cache
def _encoder() -> Any:
    return sealapi.CKKSEncoder(context())


def encode(values: FloatArray, scale: float) -> Any:
    """Return the SEAL plaintext modulo q with these slots, at most DEGREE / 2; the others are zero."""
    plain = sealapi.Plaintext()
    _encoder().encode(values.tolist(), context().first_parms_id(), scale, plain)
    plain.scale = 1.0  # the caller keeps the accounts; SEAL would only refuse large products
    return plain


def residues(source: Any, polynomials: int, primes: int) -> Residues:
    """Return the numbers of a SEAL Ciphertext or Plaintext, shape (polynomials, primes, DEGREE)."""
    shape = (polynomials, primes, DEGREE)
    with _file() as path:
        source.save(path)
        with open(path, "rb") as file:
            body = _stored(file.read())
    if body is None:  # a small prime, or SEAL built with another compression: number by number, 0.2 us each
        array = source.dyn_array()
        return np.fromiter(map(array.at, range(array.size())), np.uint64, array.size()).reshape(shape)
    return np.frombuffer(body[-8 * math.prod(shape) :], "<u8").reshape(shape)


def ciphertext(c0: Residues, c1: Residues) -> Any:
    """Return the SEAL ciphertext of two validated polynomials modulo q, each of shape (2, DEGREE)."""
    members = _members(context().first_parms_id(), len(PRIMES))
    return _load(sealapi.Ciphertext(), members + _array(np.stack([c0, c1])))


def expand(c0: Residues, seed: bytes) -> Any:
    """Return the SEAL ciphertext modulo q whose second polynomial is expanded from SEED_BYTES bytes."""
    members = _members(context().first_parms_id(), len(PRIMES))
    generator = _stream(struct.pack("<B", _BLAKE2XB) + seed)
    return _load(sealapi.Ciphertext(), members + _array(c0) + generator)


def public_key(polynomials: Residues) -> Any:
    """Return the SEAL public key of validated residues, shape (2, 3, DEGREE), the special prime last."""
    members = _members(context().key_parms_id(), len(MODULI))
    return _load(sealapi.PublicKey(), members + _array(polynomials))


def constant(polynomial: Residues) -> int:
    """Return the constant coefficient modulo q of a polynomial, shape (2, DEGREE)."""
    low, high = polynomial & np.uint64(0xFFFFFFFF), polynomial >> np.uint64(32)
    sums = zip(low.sum(axis=1), high.sum(axis=1), strict=True)
    return _mean([int(a) + (int(b) << 32) for a, b in sums])


def limbs(polynomials: Residues) -> FloatArray:
    """Split residues, shape (..., DEGREE), into limbs of 20 bits, shape (..., 3, DEGREE), lowest first."""
    shifts = [np.uint64(_LIMB_BITS * i) for i in range(_LIMBS)]
    mask = np.uint64((1 << _LIMB_BITS) - 1)
    return np.stack([polynomials >> shift & mask for shift in shifts], axis=-2).astype(np.float64)


def inner_products(polynomials: Residues, secret: FloatArray) -> list[int]:
    """Return the constant coefficients modulo q of products with one polynomial.

    Parameters
    ----------
    polynomials : ndarray, shape (count, 2, DEGREE)
    secret : ndarray, shape (2, 3, DEGREE)
        The other factor, in :func:`limbs`.
    """
    grams = np.matmul(limbs(polynomials), secret.swapaxes(-1, -2)).reshape(-1, len(PRIMES), len(_WEIGHTS))
    return [
        _mean([sum(int(g) * w for g, w in zip(row, _WEIGHTS, strict=True)) for row in gram]) for gram in grams
    ]


def _mean(sums: list[int]) -> int:
    """Divide a sum modulo each prime by N and return the residue modulo q (Chinese remainder theorem)."""
    (first, p), (second, r) = [(s * pow(DEGREE, -1, p) % p, p) for s, p in zip(sums, PRIMES, strict=True)]
    return first + p * ((second - first) * pow(p, -1, r) % r)


def _stored(stream: bytes) -> bytes | None:
    """Return the body of a stream that SEAL wrote, or None if any of it is really compressed.

    SEAL compresses with Zstandard, which keeps as raw blocks what does not shrink, as residues of 60 bits.
    """
    mode, frame = stream[5], memoryview(stream)[_HEADER.size :]
    if mode == _UNCOMPRESSED:
        return bytes(frame)
    if mode != _ZSTANDARD:
        return None
    single = frame[4] >> 5 & 1
    at = 5 + (1 - single) + (single, 2, 4, 8)[frame[4] >> 6]
    blocks, last = [], 0
    while not last:
        block = int.from_bytes(frame[at : at + 3], "little")
        last, kind, size = block & 1, block >> 1 & 3, block >> 3
        if kind:
            return None
        blocks.append(frame[at + 3 : at + 3 + size])
        at += 3 + size
    return b"".join(blocks)


def _stream(body: bytes) -> bytes:
    """Put SEAL's header in front: magic number, sizes, library version, no compression."""
    own = sealapi.Serialization.SEALHeader()
    head = (_MAGIC, _HEADER.size, own.version_major, own.version_minor, _UNCOMPRESSED, 0)
    return _HEADER.pack(*head, _HEADER.size + len(body)) + body


def _array(values: Residues) -> bytes:
    return _stream(struct.pack("<Q", values.size) + values.astype("<u8").tobytes())


def _members(level: list[int], primes: int) -> bytes:
    """Fields of a ciphertext: level, transformed, polynomials, N, primes, scale, correction factor."""
    return struct.pack("<4QBQQQdQ", *level, 1, 2, DEGREE, primes, 1.0, 1)


def _load(target: Any, body: bytes) -> Any:
    with _file() as path:
        with open(path, "wb") as file:
            file.write(_stream(body))
        target.load(context(), path)
    return target


@contextmanager
def _file() -> Iterator[str]:
    """Yield a path for SEAL: memory on Linux, else in a private folder, since secret keys pass through."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("vfl")
        try:
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield os.path.join(folder, "stream")
