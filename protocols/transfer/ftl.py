"""Federated transfer learning (box 8a): two networks, trained on the common rows, over secure products.

    guest                                              host
    each iteration
                      <-- Keys -->                     (once)
    [[-y Phi / 2 - 2 gamma u^G; Q]]_G  -- Vector -->   [[u^H; S]]_H  <-- Vector --
                      <-- Masked -->                   each multiplies by matrices of its own, masks, returns
                      -- HostGradient -->              opened, the host takes off its mask
                      <-- GuestGradient --             opened, the guest takes off its mask; and the loss
    each steps, on its own weights

    scores
    [[Phi]]_G         -- Vector -->
                      <-- Masked --                    U^H Phi + mask
                      <-- Scores --                    -mask

What is encrypted and multiplied is in :mod:`vfl.protocols.transfer.ftl_terms`. No row's representation, score, label or
gradient is opened, and neither are Phi and Q.

Adversary: semi-honest, two parties.

Leakage
-------
Each party learns the gradient of its own weights in every iteration, summed over the common rows (class `gradient`,
which both configurations have to accept), the guest also the loss. A gradient has as many numbers as its network has
weights. Over many iterations these are more numbers than there are common rows: what they tell about the other side's
rows is not bounded here beyond the paper's argument, that each iteration has fewer equations than unknowns. Scoring
gives the guest the scores; the host learns the number of rows.

Source: Liu, Kang, Xing, Chen, Yang, "A Secure Federated Transfer Learning Framework",
arXiv 1812.03337.
"""

from collections.abc import Callable
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.product import Backend
from vfl.crypto.ring import RING, Share
from vfl.crypto.rng import Rng
from vfl.protocols.channel import Channel
from vfl.protocols.product import exchange, exchange_keys
from vfl.protocols.transfer.ftl_terms import ENTRY_BITS, VECTOR_BITS, Guest, Host, Plan
from vfl.protocols.wire import Array, Declaration, Leakage, Message, Role

__all__ = ["guest", "guest_scores", "host", "host_scores"]

FloatArray = NDArray[np.float64]
Residues = NDArray[np.uint32]
Progress = Callable[[int, int], None]
MakeBackend = Callable[[Rng], Backend]
SCORE_BITS = 20
"""Fraction bits of representations and of Phi in scores."""


class HostGradient(Message, frozen=True, kw_only=True):
    """The guest's share of the products that make the host's gradient."""

    declaration = Declaration(
        "transfer.host_gradient",
        Role.GUEST,
        Leakage.GRADIENT,
        "the gradient of the host's own weights over the common rows, to the host",
    )
    share: Annotated[Residues, Array("<u4", RING.limbs, "columns", "width")]


class GuestGradient(Message, frozen=True, kw_only=True):
    """The host's share of the products that make the guest's gradient, and of the sum that makes the loss."""

    declaration = Declaration(
        "transfer.guest_gradient",
        Role.HOST,
        Leakage.GRADIENT,
        "the gradient of the guest's own weights over the common rows, and the loss, to the guest",
    )
    share: Annotated[Residues, Array("<u4", RING.limbs, "columns", "width")]
    loss: Annotated[Residues, Array("<u4", RING.limbs)]


class Scores(Message, frozen=True, kw_only=True):
    """The host's share of the scores."""

    declaration = Declaration(
        "transfer.scores", Role.HOST, Leakage.RESULT, "the score of each scored row, to the guest"
    )
    share: Annotated[Residues, Array("<u4", RING.limbs, "rows", "classes")]


async def _multiply(
    peer: Channel,
    backend: Backend,
    vectors: FloatArray,
    operands: FloatArray,
    columns: int,
    plan: Plan,
    rng: Rng,
) -> tuple[Share, Share]:
    """Return this party's shares of the peer's products, (L, columns, k), and of its own, (L, own columns, k).

    Parameters
    ----------
    peer : Channel
    backend : Backend
    vectors : ndarray, shape (n + k, k)
        What this party encrypts.
    operands : ndarray, shape (k, n + k, own columns)
    columns : int
        Columns of the peer's operands.
    plan : Plan
    rng : Rng
    """
    entries = np.rint(np.ldexp(operands, plan.entry_bits)).astype(np.int32)
    prepared = tuple(backend.prepare(matrix, 1 << ENTRY_BITS).operand for matrix in entries)
    held = backend.backward(plan.length, columns, plan.width), RING.encode(vectors, VECTOR_BITS)
    owned = backend.backward(plan.length, operands.shape[2], plan.width), prepared
    opened, kept = await exchange(peer, held, owned, rng)
    assert opened is not None and kept is not None  # noqa: S101, PT018  (both were asked for)
    return opened, kept


def _decode(first: Share, second: Share, plan: Plan) -> FloatArray:
    return RING.decode(RING.add(first, second), VECTOR_BITS + plan.entry_bits)


def _total(share: Share) -> Share:
    """Return the share of the sum of numbers, (L, k) to (L,)."""
    primes = np.array(RING.primes, np.uint64)
    total: Share = (share.sum(axis=1, dtype=np.uint64) % primes).astype(np.uint32)
    return total


async def guest(
    peer: Channel, start: Guest, backend: MakeBackend, rng: Rng, progress: Progress
) -> tuple[Guest, list[float]]:
    """Train the guest's network.

    Parameters
    ----------
    peer : Channel
    start : Guest
        Inputs, labels and first weights.
    backend : callable
        Makes keys.
    rng : Rng
    progress : callable
        Called with the number of iterations done and of all.

    Returns
    -------
    Guest
        With the last weights.
    list of float
        The loss at each iteration, before its step.
    """
    keys, plan, side, losses = backend(rng), start.plan, start, list[float]()
    await exchange_keys(peer, keys)
    velocity = np.zeros_like(start.weights)
    for done in range(plan.iterations):
        hosts, own = await _multiply(peer, keys, side.vectors(), side.operands(), plan.columns[1], plan, rng)
        await peer.send(HostGradient(share=hosts))
        opened = await peer.recv(GuestGradient, columns=plan.columns[0], width=plan.width)
        losses.append(side.loss(float(_decode(_total(own[:, -1]), opened.loss, plan))))
        gradient = side.gradient(_decode(np.ascontiguousarray(own[:, :-1]), opened.share, plan))
        weights = plan.step(side.weights, velocity, gradient)
        side = Guest(side.inputs, side.y, weights, plan)
        progress(done + 1, plan.iterations)
    return side, losses


async def host(peer: Channel, start: Host, backend: MakeBackend, rng: Rng, progress: Progress) -> Host:
    """Train the host's network; the parameters are those of :func:`guest`."""
    keys, plan, side = backend(rng), start.plan, start
    await exchange_keys(peer, keys)
    velocity = np.zeros_like(start.weights)
    for done in range(plan.iterations):
        guests, own = await _multiply(
            peer, keys, side.vectors(), side.operands(), plan.columns[0] + 1, plan, rng
        )
        gradient = np.ascontiguousarray(guests[:, :-1])
        await peer.send(GuestGradient(share=gradient, loss=_total(guests[:, -1])))
        opened = await peer.recv(HostGradient, columns=plan.columns[1], width=plan.width)
        weights = plan.step(side.weights, velocity, side.gradient(_decode(own, opened.share, plan)))
        side = Host(side.inputs, weights, plan)
        progress(done + 1, plan.iterations)
    return side


async def guest_scores(
    peer: Channel, phi: FloatArray, rows: int, backend: MakeBackend, rng: Rng
) -> FloatArray:
    """Return the scores of rows of the host's, shape (rows, C).

    Parameters
    ----------
    peer : Channel
    phi : ndarray, shape (C, k)
    rows : int
    backend : callable
    rng : Rng
    """
    keys = backend(rng)
    await exchange_keys(peer, keys)
    product = keys.forward(rows, phi.shape[1], len(phi))
    opened, _ = await exchange(peer, (product, RING.encode(phi.T, SCORE_BITS)), None, rng)
    assert opened is not None  # noqa: S101  (it was asked for)
    share = (await peer.recv(Scores, rows=rows, classes=len(phi))).share
    return RING.decode(RING.add(opened, share), 2 * SCORE_BITS)


async def host_scores(peer: Channel, u: FloatArray, classes: int, backend: MakeBackend, rng: Rng) -> None:
    """Give the guest the scores of rows with representations u, (rows, k)."""
    keys = backend(rng)
    await exchange_keys(peer, keys)
    product = keys.forward(len(u), u.shape[1], classes)
    entries = np.rint(np.ldexp(u, SCORE_BITS)).astype(np.int32)
    _, kept = await exchange(peer, None, (product, keys.prepare(entries, 1 << SCORE_BITS).operand), rng)
    assert kept is not None  # noqa: S101  (it was asked for)
    await peer.send(Scores(share=kept))
