"""Generalised linear models on shares (box 5): weights, scores, residuals and gradients exist as shares only.

    guest (labels y, matrix A)                        host (matrix B)
    u = 0, but for the guest's own model of its own columns, which is the first point: r is the guest's
    until the guest says stop
    1. <g> = (A^T <r>, B^T <r>)                       two secure products, the penalty inside the matrices
    2. <g_k, g_j> for all earlier j                   one round; opened to the guest alone
    3. coefficients a of the next point               (:mod:`vfl.protocols.steering`)
    4. <u> = <u_0> + sum_j a_j <g_j>                  one round; the host does not learn a
    5. <z> = A <u_A> + B <u_B>                        two secure products
    6. <r> = w (link(<z>) - y)                        (:mod:`vfl.protocols.responses`)
    At the end: the sum of (z/R)^16 is opened to the guest, who goes on only if it is below 1/2; then each party opens
    its own weights to itself.

Each party hands in a matrix that it has whitened locally, with the Hessian of its penalty. With several hosts, the
first one stands for all: scores and residuals are shared between it and the guest, each further host's weights and
gradient between that host and the guest. Pads from a key that two hosts share carry shares from one pair to the other:
a further host sends the guest its share of its part of the scores plus a pad, and the first host subtracts the pad;
the first host sends the guest its share of the residuals plus a pad, of which the further host holds the negative. So
hosts need channels to the guest only, and the guest relays nothing but public keys.

Adversary: semi-honest.

Leakage
-------
The guest learns its own weights; at iteration k the k + 1 inner products of gradients, in whitened coordinates, over
all columns of all parties, to 2^-44; with validation rows the sum of their squared weighted residuals; and that all
scores are in range. A host learns its own weights and the number of iterations. Which hosts may collude with whom:
any number of hosts, without the guest, learn nothing more. The guest and the first host together learn everything but
the columns of the others, of which they learn the scores; so do the guest and any further host, because the two hold
shares of the residuals, and with the guest's labels those tell the scores, the sum of all parties' parts.

Sources: the steps, docs/decisions/0008-strict-solver.md; secret-shared weights in vertical logistic regression, Chen
and others, "When Homomorphic Encryption Marries Secret Sharing", KDD 2021, section 4.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.pads import KEY_BYTES, PadKey, Pads
from vfl.crypto.product import Backend
from vfl.crypto.ring import RING, Share
from vfl.crypto.rng import Rng
from vfl.errors import LocalProtocolError, TrainingDiverged
from vfl.protocols.arithmetic import Arithmetic
from vfl.protocols.channel import Channel
from vfl.protocols.glm_pairs import GuestSide, HostSide, Pair, Shared, pass_on
from vfl.protocols.glm_plan import WEIGHTING_BITS, Fit, Labels, Plan
from vfl.protocols.inference import Wanted, variances
from vfl.protocols.product import exchange_keys
from vfl.protocols.span import PRODUCT_BITS, WEIGHT_BITS, total
from vfl.protocols.steering import Steering
from vfl.protocols.wire import Array, Bytes, Declaration, Leakage, Message, Role

__all__ = ["guest", "host"]

FloatArray = NDArray[np.float64]
Residues = NDArray[np.uint32]
Progress = Callable[[int, int], None]
MakeBackend = Callable[[Rng], Backend]
RANGE_BITS = 4
LARGEST_RANGE = 0.5
_UNIT_BITS = 14  # of the constant that brings scores to units of the range


class HostKey(Message, frozen=True, kw_only=True):
    """A host's key for pads, for the other hosts."""

    declaration = Declaration(
        "glm.key", Role.HOST, Leakage.PUBLIC, "a fresh public key for pads between hosts"
    )
    key: Annotated[bytes, Bytes(KEY_BYTES)]


class HostKeys(Message, frozen=True, kw_only=True):
    """The keys of the others, for the first host; that of the first host, for the others."""

    declaration = Declaration("glm.keys", Role.GUEST, Leakage.PUBLIC, "other hosts' public keys for pads")
    keys: Annotated[bytes, Bytes("keys_bytes")]


class Products(Message, frozen=True, kw_only=True):
    """The host's share of the inner products of the last gradient with all."""

    declaration = Declaration(
        "glm.products", Role.HOST, Leakage.AGGREGATE,
        "inner products of the gradients so far, over all columns of all parties, to the guest",
    )  # fmt: skip
    share: Annotated[Residues, Array("<u4", RING.limbs, "gradients", "targets")]


class HeldOut(Message, frozen=True, kw_only=True):
    """The host's share of the sum of squared residuals of the validation rows."""

    declaration = Declaration(
        "glm.held_out", Role.HOST, Leakage.AGGREGATE,
        "the sum of squared residuals of all validation rows, to the guest",
    )  # fmt: skip
    share: Annotated[Residues, Array("<u4", RING.limbs, "targets")]


class Range(Message, frozen=True, kw_only=True):
    """The host's share of the sum of the sixteenth powers of the scores in units of the range."""

    declaration = Declaration(
        "glm.range",
        Role.HOST,
        Leakage.AGGREGATE,
        "that no score is near the end of the link's range, to the guest",
    )
    share: Annotated[Residues, Array("<u4", RING.limbs)]


class Step(Message, frozen=True, kw_only=True):
    """Whether the next point is the last."""

    declaration = Declaration(
        "glm.step", Role.GUEST, Leakage.CONTROL, "how many iterations the training took"
    )
    stop: bool


class Weights(Message, frozen=True, kw_only=True):
    """The sender's share of the receiver's weights."""

    declaration = Declaration("glm.weights", Role.EITHER, Leakage.RESULT, "the receiver's own weights")
    share: Annotated[Residues, Array("<u4", RING.limbs, "columns", "targets")]


def _silent(done: int, total: int) -> None:
    """Report no progress."""


async def guest(
    hosts: Sequence[Channel],
    matrix: FloatArray,
    penalty: FloatArray,
    labels: Labels,
    plan: Plan,
    backend: MakeBackend,
    rng: Rng,
    progress: Progress = _silent,
    directions: FloatArray | None = None,
) -> Fit:
    """Train the guest's block; every host runs :func:`host`. Leakage: see the module.

    Parameters
    ----------
    hosts : sequence of Channel
        In the order of the plan's columns.
    matrix : ndarray, shape (rows + validation rows, guest columns)
        Whitened; no entry larger than twice the root of the rows.
    penalty : ndarray, shape (guest columns, guest columns)
        Hessian of the penalty in the coordinates of the matrix.
    labels : Labels
    plan : Plan
    backend : callable, Rng -> Backend with fresh keys: one for each host
    rng : Rng
    progress : callable, of iterations done and at most
    directions : ndarray, shape (guest columns, guest columns), optional
        Row by row: combinations of the guest's weights of which it wants variances, if the plan says so.

    Raises
    ------
    TrainingDiverged
        If scores have left the range of the link.
    EncodingOverflow
        If the matrix or the labels do not fit their formats.
    """
    first, *others = [await _meet(channel, backend, rng) for channel in hosts]
    await _introduce(hosts)
    pair = Pair(first, plan, matrix, penalty, labels.start)
    pairs = [pair, *(GuestSide(other, plan, place, hosts[0]) for place, other in enumerate(others, 2))]
    ways = [Steering(float(curvature)) for curvature in labels.curvature]
    residuals = RING.encode(labels.first, plan.response.residual_bits)
    fit, stop = Fit(labels.start), False
    while not stop:
        await _look(pairs, residuals, ways, fit)
        progress(len(fit.distances), plan.iterations)
        stop = labels.finished(fit.distances, fit.losses) or len(fit.distances) == plan.iterations
        for channel in hosts:
            await channel.send(Step(stop=stop))
        chosen = [way.end(arrived=labels.tolerance) if stop else way.coefficients() for way in ways]
        for each in pairs:
            await each.move(np.stack(chosen, axis=1) * plan.mean)
        scores = await _guest_scores(pairs, labels, plan)
        if not stop:
            residuals = await _residuals(first, scores, plan, labels)
    await _check_range(first, scores, plan)
    fit = replace(fit, weights=await _exchange_weights(pairs, plan))
    return replace(fit, variances=await _variances(pair, scores, labels, penalty, directions))


async def _look(pairs: Sequence[Shared], residuals: Share, ways: Sequence[Steering], fit: Fit) -> None:
    """Take a gradient, and note what its inner products and the validation rows say."""
    for pair in pairs:
        await pair.gradient(residuals)
    plan = pairs[0].plan
    products = await _open_products(pairs, len(fit.distances) + 1, plan)
    for way, column in zip(ways, products.T, strict=True):
        way.see(column)
    fit.distances.append(np.array([way.distance for way in ways]))
    if plan.validation_rows:
        fit.losses.append(await _open_held_out(pairs[0].arithmetic, residuals, plan))


async def host(
    guest: Channel,
    matrix: FloatArray,
    penalty: FloatArray,
    plan: Plan,
    place: int,
    backend: MakeBackend,
    rng: Rng,
    progress: Progress = _silent,
    directions: FloatArray | None = None,
) -> Fit:
    """Train a host's block; the guest runs :func:`guest`. Leakage: see the module.

    Parameters
    ----------
    guest : Channel
    matrix : ndarray, shape (rows + validation rows, host columns)
    penalty : ndarray, shape (host columns, host columns)
    plan : Plan
    place : int
        Of this host in the plan's columns: 1 for the first.
    backend : callable
    rng : Rng
    progress : callable
    directions : ndarray, shape (host columns, host columns), optional
    """
    arithmetic = await _meet(guest, backend, rng)
    pads = await _agree(guest, plan, place, rng)
    if place > 1:
        return await _further_host(arithmetic, matrix, penalty, plan, place, pads[0], progress)
    pair = Pair(arithmetic, plan, matrix, penalty, None)
    residuals = RING.zeros(plan.scored, plan.targets)
    stop, done = False, 0
    while not stop:
        await pair.gradient(residuals)
        for pad in pads:
            await pass_on(guest, residuals[:, : plan.rows], pad)
        await _give_products(pair, [RING.negate(_pad(pad, done + 1, plan)) for pad in pads])
        if plan.validation_rows:
            await guest.send(HeldOut(share=await _held_out(arithmetic, residuals, plan)))
        stop, done = (await guest.recv(Step)).stop, done + 1
        progress(done, plan.iterations)
        await pair.move(None)
        scores = await pair.scores()
        for pad in pads:
            scores = RING.subtract(scores, RING.uniform(pad, *scores.shape[1:]))
        scores = arithmetic.truncate(scores, plan.score_shift)
        if not stop:
            residuals = await _residuals(arithmetic, scores, plan, None)
    if plan.response.reach:
        await guest.send(Range(share=await _range(arithmetic, scores, plan)))
    weights = await _own_weights(pair, plan, place)
    return Fit(weights, variances=await _variances(pair, scores, None, penalty, directions))


async def _further_host(
    arithmetic: Arithmetic,
    matrix: FloatArray,
    penalty: FloatArray,
    plan: Plan,
    place: int,
    pads: Pads,
    progress: Progress,
) -> Fit:
    """Train the block of a host after the first."""
    pair = HostSide(arithmetic, plan, matrix, penalty, place, pads)
    nothing = RING.zeros(plan.rows, plan.targets)
    stop, done = False, 0
    while not stop:
        await pair.gradient(nothing)
        await _give_products(pair, [_pad(pads, done + 1, plan)])
        stop, done = (await arithmetic.peer.recv(Step)).stop, done + 1
        progress(done, plan.iterations)
        await pair.move(None)
        await pair.scores()
    return Fit(await _own_weights(pair, plan, place))


async def _meet(peer: Channel, backend: MakeBackend, rng: Rng) -> Arithmetic:
    """Exchange keys for products."""
    made = backend(rng)
    await exchange_keys(peer, made)
    return Arithmetic(peer, made, rng)


async def _introduce(hosts: Sequence[Channel]) -> None:
    """Give the first host the keys of the others, and them its key."""
    if len(hosts) > 1:
        first, *others = [(await channel.recv(HostKey)).key for channel in hosts]
        await hosts[0].send(HostKeys(keys=b"".join(others)))
        for channel in hosts[1:]:
            await channel.send(HostKeys(keys=first))


async def _agree(guest: Channel, plan: Plan, place: int, rng: Rng) -> list[Pads]:
    """Return the pads that this host shares: the first one with each other host, another one with the first."""
    hosts = len(plan.columns) - 1
    if hosts == 1:
        return []
    key = PadKey(rng)
    await guest.send(HostKey(key=key.public_bytes))
    others = hosts - 1 if place == 1 else 1
    keys = (await guest.recv(HostKeys, keys_bytes=others * KEY_BYTES)).keys
    return [key.agree(keys[i : i + KEY_BYTES]) for i in range(0, len(keys), KEY_BYTES)]


def _pad(pads: Pads, gradients: int, plan: Plan) -> Share:
    """Draw a pad for inner products."""
    return RING.uniform(pads, gradients, plan.targets)


async def _give_products(pair: Shared, pads: Sequence[Share]) -> None:
    """Give the guest a host's share of its pair's inner products; pads let the guest see the sum over hosts alone."""
    share = await pair.span.products()
    for pad in pads:
        share = RING.add(share, pad)
    await pair.arithmetic.peer.send(Products(share=share))


async def _open_products(pairs: Sequence[Shared], gradients: int, plan: Plan) -> FloatArray:
    """Return the inner products of the last mean gradient with all: (gradients, targets)."""
    opened = RING.zeros(gradients, plan.targets)
    for pair in pairs:
        opened = RING.add(opened, await pair.span.products())
        share = await pair.arithmetic.peer.recv(Products, gradients=gradients, targets=plan.targets)
        opened = RING.add(opened, share.share)
    return RING.decode(opened, PRODUCT_BITS) * plan.mean**2


async def _guest_scores(pairs: Sequence[Shared], labels: Labels, plan: Plan) -> Share:
    """Return the guest's share of the scores, with the offset."""
    scores = await pairs[0].scores()
    for pair in pairs[1:]:
        scores = RING.add(scores, await pair.scores())
    scores = pairs[0].arithmetic.truncate(scores, plan.score_shift)
    if labels.offset is None:
        return scores
    offset = np.repeat(labels.offset[:, None], plan.targets, axis=1)
    return RING.add(scores, RING.encode(offset, plan.response.score_bits))


async def _residuals(arithmetic: Arithmetic, scores: Share, plan: Plan, labels: Labels | None) -> Share:
    """Return the share of the weighted residuals."""
    residuals = await plan.response.residuals(arithmetic, scores, labels.y if labels else None)
    if not plan.weighted:
        return residuals
    weights = None
    if labels is not None and labels.weights is not None:
        repeated = np.repeat(labels.weights[:, None], plan.targets, axis=1)
        weights = RING.encode(repeated, WEIGHTING_BITS)
    return await arithmetic.times_guest(residuals, weights, WEIGHTING_BITS)


async def _held_out(arithmetic: Arithmetic, residuals: Share, plan: Plan) -> Share:
    """Return the share of the sum of squared residuals of the validation rows: (L, targets)."""
    squares = await arithmetic.square(residuals[:, plan.rows :], plan.response.residual_bits)
    return total(squares, axis=1)


async def _open_held_out(first: Arithmetic, residuals: Share, plan: Plan) -> FloatArray:
    """Return the mean squared residual of the validation rows: (targets,)."""
    own = await _held_out(first, residuals, plan)
    share = (await first.peer.recv(HeldOut, targets=plan.targets)).share
    return RING.decode(RING.add(own, share), plan.response.residual_bits) / plan.validation_rows


async def _range(arithmetic: Arithmetic, scores: Share, plan: Plan) -> Share:
    """Return the share of the sum of (z/R)^16 over all scores: (L,). R is half the range, z counted from its middle."""
    assert plan.response.reach is not None  # noqa: S101  (the caller has looked)
    low, high = plan.response.reach
    bits = plan.response.score_bits
    middle = arithmetic.constant(RING.encode(np.full(scores.shape[1:], (low + high) / 2), bits))
    unit = RING.scale(RING.subtract(scores, middle), round(2**_UNIT_BITS * 2 / (high - low)))
    power = arithmetic.truncate(unit, _UNIT_BITS)
    for _ in range(4):
        power = await arithmetic.square(power, bits)
    summed = total(power.reshape(RING.limbs, 1, -1), axis=2)
    return arithmetic.truncate(summed, bits - RANGE_BITS)[:, 0]


async def _check_range(first: Arithmetic, scores: Share, plan: Plan) -> None:
    """Refuse a model some of whose training scores are near the end of the link's range, or beyond."""
    if plan.response.reach is None:
        return
    own = await _range(first, scores, plan)
    share = (await first.peer.recv(Range)).share
    if not abs(float(RING.decode(RING.add(own, share), RANGE_BITS))) <= LARGEST_RANGE:
        low, high = plan.response.reach
        raise TrainingDiverged(
            f"scores of training rows come near the end of the range from {low:.0f} to {high:.0f} in which the link is "
            "right, or leave it: cut extreme values off with winsorise on all sides, or penalise more"
        )


async def _variances(
    pair: Pair, scores: Share, labels: Labels | None, penalty: FloatArray, directions: FloatArray | None
) -> FloatArray | None:
    """Return the variances that this party wants, if the plan says so."""
    if not pair.plan.inference:
        return None
    if directions is None:
        raise LocalProtocolError("a plan with variances takes the directions in which they are wanted")
    return await variances(pair, scores, labels, Wanted(directions, penalty))


async def _exchange_weights(pairs: Sequence[Shared], plan: Plan) -> FloatArray:
    """Give every host the guest's share of its weights, and return the guest's own weights."""
    cut = plan.columns[0]
    own, hosts = pairs[0].point[:, :cut], pairs[0].point[:, cut:]
    for pair, share in zip(pairs, [hosts, *(pair.point for pair in pairs[1:])], strict=True):
        await pair.arithmetic.peer.send(Weights(share=share))
    share = (await pairs[0].arithmetic.peer.recv(Weights, columns=cut, targets=plan.targets)).share
    return RING.decode(RING.add(own, share), WEIGHT_BITS)


async def _own_weights(pair: Shared, plan: Plan, place: int) -> FloatArray:
    """Return this host's weights; the first host gives the guest its share of the guest's."""
    own, guest = pair.point, pair.arithmetic.peer
    share = (await guest.recv(Weights, columns=plan.columns[place], targets=plan.targets)).share
    if place == 1:
        own, guests = own[:, plan.columns[0] :], own[:, : plan.columns[0]]
        await guest.send(Weights(share=guests))
    return RING.decode(RING.add(own, share), WEIGHT_BITS)
