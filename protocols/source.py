"""A neural network whose first layer spans two parties, on shares: nothing is opened before the scores.

    guest (labels y, inputs A)                        host (inputs B)
    weights W of both parties' inputs are shared from the first to the last step; neither knows its own ones
    for each batch of rows, in an order that both know:
    1. <z> = A <W_A> + B <W_B>      <-->              two secure products
    2. Factors                      <-->              sines and cosines of each one's own part of every angle z_ij
       <h> = sin <z>                <-- Masked --     made by the host, of the guest's factors and its own
    3. <o> = gain/m <h> V                             V of +1 and -1 is public: local
       <r> = logistic(<o> + c) - y  <-->              a chain of four sines, of outputs only; c is the guest's
    4. <d> = cos <z> (<r> V^T)      <-- Masked -->    the other's factors times own ones and share of r
    5. <g> = (A^T <d>, B^T <d>)     <-->              two secure products
    6. <W> moves by momentum                          local, but for truncation
    To score rows: 1, sines and o; then
       opens o at the guest         <-- Scores --

The activation is a sine because a sine of shared angles takes one round, no truncation and no comparison, and wraps
where shares do (:mod:`vfl.protocols.arithmetic`). It is bounded, so that with a readout of +1 and -1 the scores are
bounded, too, by `GAIN`, and no score can leave the range of the link. cos z needs nothing new: the angles' factors
serve again. r = r_G + r_H is shared, so r cos z = r_G cos z + r_H cos z, and each of the two is a sum of two
products of a number that one party knows and one that the other knows.

Adversary: semi-honest.

Leakage
-------
None in training beyond sizes: all that a party receives are ciphertexts and, opening them, numbers that are uniform
modulo the primes of t (:mod:`vfl.protocols.product`). The guest learns the scores of rows that it has scored, to 2^-14.
Weights are never opened; each party keeps its share.

Sources: Fu, Xue, Cheng, Tao, Cui, "BlindFL: Vertical Federated Machine Learning without Peeking into Your Data", SIGMOD
2022 (the federated source layer with shared weights; there z is opened to the guest, which docs/decisions/0009 shows to
give away the host's inner products); Sitzmann, Martel, Bergman, Lindell, Wetzstein, "Implicit Neural Representations
with Periodic Activation Functions", NeurIPS 2020 (networks of sines).
"""

from collections.abc import Callable
from typing import Annotated, final

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.links import LOGISTIC_20
from vfl.crypto.product import LatticeBackend
from vfl.crypto.ring import RING, Ring, Share
from vfl.crypto.rng import Rng
from vfl.protocols.arithmetic import Arithmetic
from vfl.protocols.channel import Channel
from vfl.protocols.product import Masked, Vector, exchange, exchange_keys
from vfl.protocols.source_plan import (
    FINE_BITS,
    LARGEST_ENTRY,
    OPENED_BITS,
    SCORE_BITS,
    SHORT_BITS,
    STEP_BITS,
    TURNS,
    Labels,
    Plan,
)
from vfl.protocols.wire import Array, Declaration, Leakage, Message, Role

__all__ = ["scores", "train"]

FloatArray = NDArray[np.float64]
Residues = NDArray[np.uint32]
Progress = Callable[[int, int], None]
_SHORT = Ring(RING.primes[:2])
"""What scores are shared modulo that only go into sines."""
_BLOCK = 1024  # rows scored at a time


class Scores(Message, frozen=True, kw_only=True):
    """The host's share of the scores."""

    declaration = Declaration(
        "source.scores", Role.HOST, Leakage.RESULT, "the scores of the rows, to 2^-14, to the guest"
    )
    share: Annotated[Residues, Array("<u4", RING.limbs, "rows", "outputs")]


async def train(
    peer: Channel,
    inputs: FloatArray,
    labels: Labels | None,
    start: FloatArray,
    plan: Plan,
    common: Rng,
    rng: Rng,
    progress: Progress,
) -> Share:
    """Train; both parties run this. Leakage: see the module.

    Parameters
    ----------
    peer : Channel
    inputs : ndarray, shape (rows, own columns)
        Within LARGEST_INPUT; the guest's first column is of ones.
    labels : Labels or None
        The guest's.
    start : ndarray, shape (columns of both, units)
        This party's part of the first weights, the guest's columns first; the weights are the sum of both parts.
    plan : Plan
    common : Rng
        A stream that both draw alike, and that needs not be secret: for the order of rows, and to make shares uniform
        before they are truncated.
    rng : Rng
    progress : callable
        Called with the number of steps done and of all.

    Returns
    -------
    Share, shape (L, columns of both, units)
        This party's share of the weights.

    Raises
    ------
    EncodingOverflow
        If inputs or first weights do not fit their formats.
    """
    integers, weights = plan.integers(inputs), plan.start(start)
    layer = _Layer(peer, LatticeBackend(rng), plan, rng)
    await exchange_keys(peer, layer.backend)
    velocity = np.zeros_like(weights)
    for step in range(plan.steps):
        if step % plan.each == 0:
            order = common.permutation(plan.rows)
        place = step % plan.each * plan.batch
        batch = order[place : place + plan.batch]
        y = None if labels is None else labels[batch]
        gradient = await layer.gradient(integers[batch], y, layer.shortened(weights, common))
        velocity = layer.move(step, weights, velocity, gradient, common)
        weights = RING.add(weights, velocity)
        progress(step + 1, plan.steps)
    return weights


async def scores(
    peer: Channel, inputs: FloatArray, weights: Share, plan: Plan, rng: Rng
) -> FloatArray | None:
    """Return the scores of rows, without the offset, at the guest, (rows, outputs); None at the host.

    Both run this.

    Parameters
    ----------
    peer : Channel
    inputs : ndarray, shape (rows, own columns)
    weights : Share, shape (L, columns of both, units)
        As :func:`train` returns it.
    plan : Plan
    rng : Rng
    """
    integers = plan.integers(inputs)
    layer = _Layer(peer, LatticeBackend(rng), plan, rng)
    await exchange_keys(peer, layer.backend)
    shares = []
    for place in range(0, len(integers), _BLOCK):
        rows = integers[place : place + _BLOCK]
        shares.append(await layer.scores(rows, weights))
    share = np.concatenate(shares, axis=1)
    if layer.arithmetic.party:
        await peer.send(Scores(share=share))
        return None
    received = (await peer.recv(Scores, rows=len(integers), outputs=plan.outputs)).share
    return RING.decode(RING.add(share, received), OPENED_BITS)


@final
class _Layer:
    """One party's side of the steps."""

    def __init__(self, peer: Channel, backend: LatticeBackend, plan: Plan, rng: Rng) -> None:
        self.backend, self._peer, self._plan, self._rng = backend, peer, plan, rng
        self.arithmetic = Arithmetic(peer, backend, rng)
        guest, host = plan.columns
        blocks = slice(0, guest), slice(guest, guest + host)
        self._own, self._other = blocks if self.arithmetic.party == 0 else blocks[::-1]

    def shortened(self, weights: Share, common: Rng) -> Share:
        """Return the share of the weights for products modulo the first prime of t: (1, columns of both, units)."""
        return self.arithmetic.truncate(self._padded(weights, common), SHORT_BITS)[:1]

    async def gradient(self, rows: NDArray[np.int32], y: Labels | None, weights: Share) -> Share:
        """Return the share of the summed gradient for a batch of integers, (L, columns of both, units)."""
        turns = await self._angles(rows, weights)
        factors = _Factors(self._peer, self.backend, self._plan.amplitude, turns.reshape(-1), self._rng)
        await factors.exchange()
        shape = (_SHORT.limbs, *turns.shape)
        residuals = await self._residuals((await factors.sine(_SHORT.limbs)).reshape(shape), y)
        spread = RING.forward(self._plan.readout, np.ascontiguousarray(residuals.transpose(0, 2, 1)))
        spread = np.ascontiguousarray(spread.transpose(0, 2, 1))
        changes = await factors.cosine_times(spread.reshape(RING.limbs, -1))
        return await self._backward(rows, changes.reshape(spread.shape))

    async def scores(self, rows: NDArray[np.int32], weights: Share) -> Share:
        """Return the share of the scores with the fraction bits in which they are opened, (L, rows, outputs)."""
        turns = await self._angles(rows, weights)
        hidden = await self.arithmetic.sine(turns.reshape(-1), self._plan.fine_amplitude)
        summed = self._read_out(hidden.reshape(RING.limbs, *turns.shape), RING)
        return self.arithmetic.truncate(summed, FINE_BITS - OPENED_BITS)

    def move(self, step: int, weights: Share, velocity: Share, gradient: Share, common: Rng) -> Share:
        """Return the share of the next velocity."""
        momentum, rate, penalty = self._plan.rates(step)
        mean = self.arithmetic.truncate(gradient, self._plan.gradient_shift)
        moved = RING.subtract(RING.scale(velocity, momentum), RING.scale(mean, rate))
        if penalty:
            decay = RING.scale(weights, penalty)
            decay[:, 0] = 0  # the weights of the ones
            moved = RING.subtract(moved, decay)
        return self.arithmetic.truncate(self._padded(moved, common), STEP_BITS)

    def _padded(self, share: Share, common: Rng) -> Share:
        """Return another share of the same numbers, uniform: truncated ones are not, and truncation wants them so."""
        pad = RING.uniform(common, *share.shape[1:])
        return RING.subtract(share, pad) if self.arithmetic.party else RING.add(share, pad)

    async def _angles(self, rows: NDArray[np.int32], weights: Share) -> FloatArray:
        """Return this party's part of the angles, in turns: (rows, units). Weights may be whole or shortened."""
        limbs = len(weights)
        ring = Ring(RING.primes[:limbs])
        own, other = (np.ascontiguousarray(weights[:, block]) for block in (self._own, self._other))
        size, units = len(rows), weights.shape[2]
        held, owned = (
            self.backend.tiled(size, w.shape[1], units, LARGEST_ENTRY, limbs=limbs) for w in (other, own)
        )
        opened, kept = await exchange(self._peer, (held, other), (owned, owned.prepare(rows)), self._rng)
        assert opened is not None and kept is not None  # noqa: S101, PT018  (both were asked for)
        products = ring.add(ring.add(opened, kept), ring.forward(rows, own))
        return ring.turns(products, 1 if limbs == 1 else TURNS)

    async def _backward(self, rows: NDArray[np.int32], changes: Share) -> Share:
        """Return the share of both parties' inputs, transposed, times `changes`, (L, rows, units)."""
        size, units = changes.shape[1:]
        columns = [block.stop - block.start for block in (self._other, self._own)]
        held, owned = (self.backend.tiled(count, size, units, LARGEST_ENTRY) for count in columns)
        turned = np.ascontiguousarray(rows.T)
        opened, kept = await exchange(self._peer, (held, changes), (owned, owned.prepare(turned)), self._rng)
        assert opened is not None and kept is not None  # noqa: S101, PT018  (both were asked for)
        gradient = RING.zeros(sum(columns), units)
        gradient[:, self._own] = RING.add(kept, RING.forward(turned, changes))
        gradient[:, self._other] = opened
        return gradient

    def _read_out(self, hidden: Share, ring: Ring) -> Share:
        """Return the share of the scores, (L, rows, outputs), of activations, (L, rows, units)."""
        summed = ring.forward(self._plan.readout.T, np.ascontiguousarray(hidden.transpose(0, 2, 1)))
        return np.ascontiguousarray(summed.transpose(0, 2, 1))

    async def _residuals(self, hidden: Share, labels: Labels | None) -> Share:
        """Return the share of each score's residual, (L, rows, outputs)."""
        bits, summed = self._plan.residual_bits, self._read_out(hidden, _SHORT)
        if labels is not None:
            offset = np.broadcast_to(labels.offset, summed.shape[1:])
            summed = _SHORT.add(summed, _SHORT.encode(offset, SCORE_BITS))
        flat = summed.reshape(_SHORT.limbs, -1)
        mean = await self.arithmetic.chain(LOGISTIC_20, flat, SCORE_BITS, bits)
        mean = mean.reshape(RING.limbs, *summed.shape[1:])
        return mean if labels is None else RING.subtract(mean, RING.encode(labels.y, bits))


@final
class _Factors:
    """Sines and cosines of each party's part of angles, encrypted once for two products.

    Parameters
    ----------
    peer : Channel
    backend : LatticeBackend
    amplitude : float
        Integer that stands for one in the products: each factor has its root.
    turns : ndarray, shape (n,)
        This party's parts.
    rng : Rng
    """

    def __init__(
        self, peer: Channel, backend: LatticeBackend, amplitude: float, turns: FloatArray, rng: Rng
    ) -> None:
        self._peer, self._rng, self._guest = peer, rng, peer.me.role is Role.GUEST
        root = np.sqrt(amplitude)
        self._sine, self._cosine = (
            RING.encode(root * wave(2 * np.pi * turns), 0) for wave in (np.sin, np.cos)
        )
        self._product = backend.slotwise(2, len(turns))

    async def exchange(self) -> None:
        """Send this party's factors and take the peer's."""
        own = np.stack([self._sine, self._cosine])
        await self._peer.send(Vector(v=self._product.encrypt(own, self._rng)))
        received = await self._peer.recv(Vector, vector_bytes=self._product.vector_bytes)
        self._theirs = self._product.accept(received.v)

    async def sine(self, limbs: int) -> Share:
        """Return the share of the sines, modulo the first primes of t: (limbs, n)."""
        size = self._product.bytes_of(limbs)
        if self._guest:
            received = await self._peer.recv(Masked, product_bytes=size)
            return self._product.open_limbs(received.v, limbs)
        operand = np.stack([self._cosine, self._sine])[:, :limbs]
        masked, kept = self._product.multiply(self._theirs, operand, self._rng)
        await self._peer.send(Masked(v=masked))
        return kept

    async def cosine_times(self, numbers: Share) -> Share:
        """Return the share of the cosines times shared numbers, (L, n)."""
        minus = RING.negate(RING.multiply(numbers, self._sine))
        operand = np.stack([minus, RING.multiply(numbers, self._cosine)])
        masked, kept = self._product.multiply(self._theirs, operand, self._rng)
        await self._peer.send(Masked(v=masked))
        received = await self._peer.recv(Masked, product_bytes=self._product.bytes_of(RING.limbs))
        return RING.add(kept, self._product.open(received.v))
