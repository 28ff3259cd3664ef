"""Oblivious transfer: a batch of base transfers over ristretto255, and their extension to any number.

Base transfers are those of Masny and Rindal, batched as McQuoid, Rosulek and Roy require:

    sender                                             receiver, choice bits c_i
    a random, A = a G         -- A -->                 b_i random, r_(i, 1 - c_i) a random element
                              <-- r_(i, 0), r_(i, 1)   r_(i, c_i) = b_i G - H_(i, c_i)(r_(i, 1 - c_i))
    key_(i, c) = KDF_(i, c)(a (r_(i, c) + H_(i, c)(r_(i, 1 - c))))       key_i = KDF_(i, c_i)(b_i A)

The two messages may cross. Every hash takes the session, the index and the choice, and the derivation of keys all that
was sent: reusing A over the batch without that is what the second paper attacks. "Simplest OT" (Chou and Orlandi 2015)
is cheaper, but its security proof does not hold for what an extension needs, so it is not offered.

Keys are chosen by nobody ("endemic" security: a cheating party may bias its own), which suffices here. Rests on the
computational Diffie-Hellman assumption in the random-oracle model.

The extension is that of Ishai, Kilian, Nissim and Petrank: the choice bits of the base transfers become the secret
Delta of the extension's sender; see :class:`ExtendedSender`. It is secure against parties that follow the protocol.

Sources: Masny and Rindal, "Endemic Oblivious Transfer", CCS 2019, eprint 2019/706, section 4. McQuoid, Rosulek and Roy,
"Batching Base Oblivious Transfers", ASIACRYPT 2021, eprint 2021/682. Ishai et al., "Extending Oblivious Transfers
Efficiently", CRYPTO 2003; Asharov et al., "More Efficient Oblivious Transfer", CCS 2013, eprint 2013/552, protocol 2.
"""

import ctypes
import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rbcl import _sodium  # type: ignore[import-untyped,unused-ignore]

from vfl.crypto.fixedkey import BLOCK, FixedKey, derive, keystream
from vfl.crypto.gf128 import Elements
from vfl.crypto.group import ELEMENT_BYTES, Points, hash_to_group, multiply, random_scalars
from vfl.crypto.rng import Rng
from vfl.errors import InvalidPoint

__all__ = ["COUNT", "BaseReceiver", "BaseSender", "ExtendedReceiver", "ExtendedSender"]

COUNT = 128
"""Base transfers of a batch: as many as an element of GF(2^128) has bits."""

_DOMAIN = b"vfl base OT 1 ristretto255_XMD:SHA-512"


def _function(name: str) -> Callable[..., int]:
    return ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 3)((name, _sodium))


_ADD = _function("crypto_core_ristretto255_add")
_SUBTRACT = _function("crypto_core_ristretto255_sub")
# The generator, RFC 9496, section 3.2: encodes 1 * G.
_GENERATOR = bytes.fromhex("e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76")


def _combine(operation: Callable[..., int], left: Points, right: Points) -> Points:
    """Add or subtract row by row; refuse encodings that are not canonical."""
    left, right, out = np.ascontiguousarray(left), np.ascontiguousarray(right), np.empty_like(left)
    for at in range(0, left.size, ELEMENT_BYTES):
        if operation(out.ctypes.data + at, left.ctypes.data + at, right.ctypes.data + at) != 0:
            raise InvalidPoint(f"base transfer: element {at // ELEMENT_BYTES} is not a canonical encoding")
    return out


def _base(count: int) -> Points:
    return np.tile(np.frombuffer(_GENERATOR, dtype=np.uint8), (count, 1))


def _masks(session: bytes, others: Points, choices: NDArray[np.uint8]) -> Points:
    """Return H_(i, c)(r_(i, 1 - c)) for the choice c and the other element of every transfer."""
    inputs = [
        session + index.to_bytes(4, "big") + bytes([choice]) + other.tobytes()
        for index, (other, choice) in enumerate(zip(others, choices, strict=True))
    ]
    return hash_to_group(inputs, _DOMAIN)


def _keys(
    session: bytes, first: bytes, points: NDArray[np.uint8], choices: NDArray[np.uint8], secrets: Points
) -> NDArray[np.uint8]:
    """Derive a key from each shared secret and all that was sent, shape (COUNT, 16)."""
    start = hashlib.sha256(b"vfl base OT key" + session + first + points.tobytes()).digest()
    keys = [
        hashlib.sha256(start + index.to_bytes(4, "big") + bytes([choice]) + secret.tobytes()).digest()[:BLOCK]
        for index, (choice, secret) in enumerate(zip(choices, secrets, strict=True))
    ]
    return np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, BLOCK)


class BaseSender:
    """The party that learns both keys of every base transfer.

    Attributes
    ----------
    message : bytes
        A, 32 bytes, for the receiver.
    """

    def __init__(self, rng: Rng) -> None:
        self._scalar = random_scalars(rng, 1).tobytes()
        self.message = multiply(_base(1), self._scalar).tobytes()

    def keys(self, points: NDArray[np.uint8], session: bytes) -> NDArray[np.uint8]:
        """Return both keys of every transfer, shape (COUNT, 2, 16).

        Parameters
        ----------
        points : ndarray of uint8, shape (COUNT, 2, 32)
            The receiver's message.
        session : bytes
            What both parties know of this run and of no other, of fixed length.

        Raises
        ------
        InvalidPoint
            If an element is the identity or not canonical.
        """
        both = []
        for choice in (0, 1):
            choices = np.full(COUNT, choice, dtype=np.uint8)
            masks = _masks(session, points[:, 1 - choice], choices)
            secrets = multiply(_combine(_ADD, points[:, choice], masks), self._scalar)
            both.append(_keys(session, self.message, points, choices, secrets))
        return np.stack(both, axis=1)


class BaseReceiver:
    """The party that learns one key of every base transfer.

    Parameters
    ----------
    choices : ndarray of uint8, shape (COUNT,)
        Bits, secret.
    session : bytes
        As for :meth:`BaseSender.keys`.

    Attributes
    ----------
    message : ndarray of uint8, shape (COUNT, 2, 32)
        For the sender; the same distribution whatever the choices are.
    """

    def __init__(self, choices: NDArray[np.uint8], session: bytes, rng: Rng) -> None:
        self._choices, self._session = choices, session
        self._scalars = random_scalars(rng, COUNT)
        others = hash_to_group([rng.bytes(64) for _ in range(COUNT)], _DOMAIN + b" other")
        chosen = _combine(_SUBTRACT, multiply(_base(COUNT), self._scalars), _masks(session, others, choices))
        pick = choices[:, None].astype(bool)
        self.message = np.stack([np.where(pick, others, chosen), np.where(pick, chosen, others)], axis=1)

    def keys(self, first: bytes) -> NDArray[np.uint8]:
        """Return the chosen key of every transfer, shape (COUNT, 16), given the sender's message."""
        points = np.tile(np.frombuffer(first, dtype=np.uint8), (COUNT, 1))
        secrets = multiply(points, self._scalars)
        return _keys(self._session, first, self.message, self._choices, secrets)


def _streams(keys: NDArray[np.uint8], run: int, size: int) -> NDArray[np.uint8]:
    """Expand keys of shape (COUNT, 16) to streams of `size` bytes each; another `run` gives others."""
    out = np.empty((COUNT, -(-size // BLOCK), 2), dtype=np.uint64)
    for key, stream in zip(keys, out, strict=True):
        keystream(key.tobytes(), run << 64, stream)
    return out.view(np.uint8).reshape(COUNT, -1)[:, :size]


def _rows(columns: NDArray[np.uint8], count: int) -> Elements:
    """Transpose COUNT columns of packed bits into `count` elements."""
    bits = np.unpackbits(columns, axis=1, count=count, bitorder="little")
    packed = np.packbits(bits.T, axis=1, bitorder="little")
    return np.ascontiguousarray(packed).view(np.uint64)


def _pads(rows: Elements, run: int) -> Elements:
    tweaks = np.zeros_like(rows)
    tweaks[:, 0], tweaks[:, 1] = np.arange(len(rows)), run
    return FixedKey(derive("OT extension")).tweaked(np.ascontiguousarray(rows), tweaks)


class ExtendedReceiver:
    """The receiver of extended transfers, which was the sender of the base transfers.

    Parameters
    ----------
    keys : ndarray of uint8, shape (COUNT, 2, 16)
    """

    def __init__(self, keys: NDArray[np.uint8]) -> None:
        self._keys = keys

    def extend(
        self, multipliers: bytes, choices: NDArray[np.uint8], run: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Elements]:
        """Return the message to the sender and this party's outputs.

        Column k of the message is G(key_(k, 0)) + G(key_(k, 1)) + (multipliers, choices): it tells the sender, who
        knows one of the two, nothing; what it makes of it differs from G(key_(k, 0)) by Delta_k times the last term.

        Parameters
        ----------
        multipliers : bytes
            Any data, the same in every column: see :class:`ExtendedSender`.
        choices : ndarray of uint8, shape (n,)
            Bits.
        run : int
            Number of this extension under the same keys, below 2^32, never used twice.

        Returns
        -------
        message : ndarray of uint8, shape (COUNT, len(multipliers) + n / 8 rounded up)
        streams : ndarray of uint8, shape (COUNT, len(multipliers))
            G(key_(k, 0)) over the multipliers.
        pads : ndarray of uint64, shape (n, 2)
            The pad of the chosen side of every transfer.
        """
        data = np.frombuffer(multipliers + np.packbits(choices, bitorder="little").tobytes(), dtype=np.uint8)
        zero = _streams(self._keys[:, 0], run, len(data))
        message = zero ^ _streams(self._keys[:, 1], run, len(data)) ^ data
        rows = _rows(zero[:, len(multipliers) :], len(choices))
        return message, zero[:, : len(multipliers)], _pads(rows, run)


class ExtendedSender:
    """The sender of extended transfers, which was the receiver of the base transfers.

    Parameters
    ----------
    delta : ndarray of uint8, shape (COUNT,)
        Its choice bits.
    keys : ndarray of uint8, shape (COUNT, 16)
    """

    def __init__(self, delta: NDArray[np.uint8], keys: NDArray[np.uint8]) -> None:
        self._bits, self._keys = delta, keys
        self.delta = np.packbits(delta, bitorder="little").view(np.uint64).reshape(1, 2)

    def extend(
        self, message: NDArray[np.uint8], multipliers: int, count: int, run: int
    ) -> tuple[NDArray[np.uint8], Elements]:
        """Return this party's outputs, given the receiver's message.

        Returns
        -------
        streams : ndarray of uint8, shape (COUNT, multipliers)
            G(key_(k, 0)) + Delta_k * (the receiver's multipliers).
        pads : ndarray of uint64, shape (2, count, 2)
            Both pads of every transfer.
        """
        streams = _streams(self._keys, run, message.shape[1]) ^ (message * self._bits[:, None])
        rows = _rows(streams[:, multipliers:], count)
        return streams[:, :multipliers], np.stack([_pads(rows, run), _pads(rows ^ self.delta, run)])
