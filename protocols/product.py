"""Secure products on shares (box 4): one party's matrix or share times the other's, the result shared.

    P (operand M)                                 Q (secret v, key)
                      <-- Vector --               [[v]]_Q, fresh
    [[M v + mask]]_Q, made fresh, flooded
                      -- Masked -->               opens M v + mask
    keeps -mask                                   keeps M v + mask

M v and M^T v for a matrix of small integers (:func:`forward`, :func:`backward`), and sums of products number by number
(:func:`cross`). In each of them both parties are P and Q at the same time, for the operand of either side, so that
both compute and the wire is used both ways.

Adversary: semi-honest, two parties.

Leakage
-------
None beyond sizes. Q opens numbers that are uniform modulo t by P's mask; P sees ciphertexts. What the noise of an
opened result says about M is within statistical distance 2^-41 a number, by flooding
(:mod:`vfl.crypto.lattice.scheme`); what a ciphertext says about v rests on ring-LWE. Numbers that neither party may
know are never opened.

Sources: Gilboa, "Two Party RSA Key Generation", CRYPTO 1999, section 4 (products shared by homomorphic encryption);
Huang, Lu, Hong, Ding, "Cheetah", eprint 2022/207, section 3 (matrix products in coefficients).
"""

from typing import Annotated, Any

import numpy as np

from vfl.crypto.fresh import FreshCiphertexts
from vfl.crypto.product import Backend, Prepared, Product
from vfl.crypto.ring import RING, Share
from vfl.crypto.rng import Rng
from vfl.protocols.channel import Channel
from vfl.protocols.wire import Bytes, Ciphers, Declaration, Leakage, Message, Role

__all__ = ["backward", "cross", "exchange_keys", "forward"]


class Keys(Message, frozen=True, kw_only=True):
    """A party's public keys for this training."""

    declaration = Declaration("product.keys", Role.EITHER, Leakage.PUBLIC, "fresh public keys")
    keys: Annotated[bytes, Bytes("key_bytes")]


class Vector(Message, frozen=True, kw_only=True):
    """[[v]] under the sender's key."""

    declaration = Declaration("product.vector", Role.EITHER, Leakage.CIPHERTEXT, "nothing but its size")
    v: Annotated[FreshCiphertexts, Ciphers("vector_bytes")]


class Masked(Message, frozen=True, kw_only=True):
    """[[M v + mask]] under the receiver's key."""

    declaration = Declaration(
        "product.masked", Role.EITHER, Leakage.CIPHERTEXT, "uniform numbers, independent of the data"
    )
    v: Annotated[FreshCiphertexts, Ciphers("product_bytes")]


async def exchange_keys(peer: Channel, backend: Backend) -> None:
    """Send this party's public keys and check the peer's.

    Raises
    ------
    InvalidKey
    """
    await peer.send(Keys(keys=backend.public_bytes))
    backend.accept((await peer.recv(Keys, key_bytes=backend.key_bytes)).keys)


async def exchange(
    peer: Channel,
    held: tuple[Product, Share] | None,
    owned: tuple[Product, Any] | None,
    rng: Rng,
) -> tuple[Share | None, Share | None]:
    """Run one product as key holder and one as evaluator at the same time; either may be missing.

    Parameters
    ----------
    peer : Channel
    held : tuple of Product and Share
        What this party encrypts.
    owned : tuple of Product and operand
        What this party multiplies by.
    rng : Rng

    Returns
    -------
    tuple of Share
        This party's shares of the first and of the second product.
    """
    opened = kept = None
    if held is not None:
        await peer.send(Vector(v=held[0].encrypt(held[1], rng)))
    if owned is not None:
        product, operand = owned
        received = (await peer.recv(Vector, vector_bytes=product.vector_bytes)).v
        masked, kept = product.evaluate(received, operand, rng)
        await peer.send(Masked(v=masked))
    if held is not None:
        opened = held[0].open((await peer.recv(Masked, product_bytes=held[0].product_bytes)).v)
    return opened, kept


async def forward(
    peer: Channel,
    backend: Backend,
    own: tuple[Prepared, Share],
    other: tuple[tuple[int, int], Share],
    rng: Rng,
) -> Share:
    """Return this party's share of X_own w_own + X_other w_other, both w being shared.

    Parameters
    ----------
    peer : Channel
    backend : Backend
    own : tuple of Prepared and Share
        This party's matrix, (n, k), and its share of w_own, (L, k, m): m vectors.
    other : tuple of shape and Share
        The shape of the peer's matrix and this party's share of w_other, (L, k', m).
    rng : Rng

    Returns
    -------
    Share, shape (L, n, m)
    """
    (matrix, weights), (shape, theirs) = own, other
    (rows, columns), (_, others), vectors = matrix.integers.shape, shape, theirs.shape[2]
    held, owned = backend.forward(rows, others, vectors), backend.forward(rows, columns, vectors)
    opened, kept = await exchange(peer, (held, theirs), (owned, matrix.operand), rng)
    assert opened is not None and kept is not None  # noqa: S101, PT018  (both were asked for)
    return RING.add(RING.add(opened, kept), RING.forward(matrix.integers, weights))


async def backward(
    peer: Channel, backend: Backend, own: Prepared, other: tuple[int, int], residuals: Share, rng: Rng
) -> tuple[Share, Share]:
    """Return this party's shares of X_own^T r and X_other^T r, r being shared.

    Parameters
    ----------
    peer : Channel
    backend : Backend
    own : Prepared
        This party's matrix, (n, k).
    other : tuple of int
        The shape of the peer's matrix, (n, k').
    residuals : Share, shape (L, n, m)
    rng : Rng

    Returns
    -------
    tuple of Share, shapes (L, k, m) and (L, k', m)
    """
    (rows, columns), (_, others), vectors = own.integers.shape, other, residuals.shape[2]
    held, owned = backend.backward(rows, others, vectors), backend.backward(rows, columns, vectors)
    opened, kept = await exchange(peer, (held, residuals), (owned, own.operand), rng)
    assert opened is not None and kept is not None  # noqa: S101, PT018  (both were asked for)
    return RING.add(kept, RING.backward(own.integers, residuals)), opened


async def cross(peer: Channel, backend: Backend, factors: Share, rng: Rng) -> Share:
    """Return this party's share of sum_j A_j B_j, A_j being the guest's and B_j the host's, number by number.

    The guest encrypts the first half of the numbers, the host the second.

    Parameters
    ----------
    peer : Channel
    backend : Backend
    factors : Share, shape (J, L, n)
        A or B; fewer limbs than t has stand for numbers modulo the first primes of t.
    rng : Rng

    Returns
    -------
    Share, shape (L, n)
    """
    terms, limbs, length = factors.shape
    blocks = -(-length // backend.slot_rows)
    half = min(length, -(-blocks // 2) * backend.slot_rows)
    first, second = factors[:, :, :half], factors[:, :, half:]
    guest = peer.me.role is Role.GUEST
    mine, theirs = (first, second) if guest else (second, first)
    held = (backend.slotwise(terms, mine.shape[2], limbs), mine) if mine.shape[2] else None
    owned = (backend.slotwise(terms, theirs.shape[2], limbs), theirs) if theirs.shape[2] else None
    opened, kept = await exchange(peer, held, owned, rng)
    parts = [part for part in ((opened, kept) if guest else (kept, opened)) if part is not None]
    return np.concatenate(parts, axis=1)
