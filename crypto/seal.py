"""Microsoft SEAL: the check of the parameters, key generation, and the way numpy arrays enter and leave.

SEAL is reached through ``tenseal.sealapi``, which offers its objects but their numbers only as files in
SEAL's own stream format. This module writes such streams itself, uncompressed, from residues that the
caller has validated: no byte of a peer is ever parsed by the library, which malformed ones can crash.
Arithmetic is :mod:`.ckks_ring`'s, in the same form.

Randomness: SEAL draws 64 bytes from the operating system (``/dev/urandom``, through ``std::random_device``)
for every key and expands them with BLAKE2xb. It keeps no state between calls, so a forked process repeats
nothing. It can take a fixed seed, but would then use the same stream for every key: never do that.

Sources: Microsoft SEAL 4, native/src/seal: serialization.h, ciphertext.cpp (streams), util/rlwe.cpp
(sampling), randomgen.cpp (entropy). RFC 8878, section 3.1.1 (Zstandard frames).
"""

import math
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, final

import numpy as np
from tenseal import sealapi

from vfl.crypto.ckks_ring import DEGREE, MODULI, PRIMES, SPECIAL_PRIME, Residues

__all__ = ["KeyPair", "ciphertext", "context", "generate", "key_pair", "public_key", "residues"]

_HEADER = struct.Struct("<HBBBBHQ")
_MAGIC = 0xA15E
_UNCOMPRESSED, _ZSTANDARD = 0, 2


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


@final
@dataclass(frozen=True)
class KeyPair:
    """A key as residues: s modulo q, shape (2, DEGREE), and (b, A) modulo q and the special prime, (2, 3, DEGREE)."""

    secret: Residues
    public: Residues

    def __repr__(self) -> str:
        return "KeyPair(...)"


def generate() -> KeyPair:
    """Draw a key: s uniform with coefficients -1, 0, 1, A uniform, b = -(A s + e)."""
    keys, public = sealapi.KeyGenerator(context()), sealapi.PublicKey()
    keys.create_public_key(public)
    return key_pair(keys.secret_key(), public)


def key_pair(secret: Any, public: Any) -> KeyPair:
    """Return the residues of a SEAL SecretKey and its PublicKey."""
    polynomials = residues(public.data(), 2, len(MODULI))
    return KeyPair(residues(secret.data(), 1, len(MODULI))[0, : len(PRIMES)], polynomials)


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


def public_key(polynomials: Residues) -> Any:
    """Return the SEAL public key of validated residues, shape (2, 3, DEGREE), the special prime last."""
    members = _members(context().key_parms_id(), len(MODULI))
    return _load(sealapi.PublicKey(), members + _array(polynomials))


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
