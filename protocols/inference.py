"""Variances of a trained model's coefficients (box 5), from scores that two parties share.

    guest (matrix A, labels y)                        host (matrix B)
    1. <w> = slopes of the link at the scores, times row weights      rounds of the link
    2. <A^T W A>: rows A_j A_l times <w>    <-->      <B^T W B>       one secure product each, in slices
    3. <A^T W B> = A^T (w_H B) + (w_G A)^T B          two secure products: w_G, w_H are the parties' shares
    4. <F> = <[A B]^T W [A B]> / n + penalty          each party adds its own
    5. <V> = (a <F>)^-1                               (:mod:`vfl.protocols.inverse`)
    6. p = sum of squared Pearson residuals           opened to the guest; not for families of dispersion one
    7. <d_j> = u_j^T <V> u_j                          one secure product: u_j belong to the owner of coefficient j
    8. <v_j> = <d_j> a p/(n - k)                      one round; the factor is the guest's secret
    each party opens its own v_j

What is reported is the covariance (dispersion/n) F^-1 with the penalty inside F: without a penalty the usual one of
maximum likelihood, with one the posterior covariance under the Gaussian prior that the penalty stands for, whose
intervals count in the penalty's bias. Products of two columns of integers have 40 bits and go in two digits, so that
F is that of the rounded matrices exactly, and never indefinite by rounding.

Adversary: semi-honest, two parties.

Leakage
-------
A party learns the variances of its own coefficients, in the directions that it asks for. The guest learns the sum of
squared Pearson residuals, and what :mod:`vfl.protocols.inverse` opens to it. Scores, slopes, the information matrix
and its inverse stay shared.

Sources: McCullagh, Nelder, "Generalized Linear Models", 1989, sections 2.5 and 8.3.6 (information, dispersion); Wood,
"Generalized Additive Models", 2017, section 6.10 (posterior covariance of penalised models).
"""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.ring import RING, Share
from vfl.protocols import wide
from vfl.protocols.glm_pairs import Pair
from vfl.protocols.glm_plan import WEIGHTING_BITS, Labels, Plan
from vfl.protocols.inference_plan import DIAGONAL_BITS, FACTOR_BITS, FISHER_BITS, INVERSE_BITS, UNIT_BITS
from vfl.protocols.inverse import inverse, mirrored, upper
from vfl.protocols.product import exchange
from vfl.protocols.span import total
from vfl.protocols.wire import Array, Declaration, Leakage, Message, Role

__all__ = ["Wanted", "variances"]

FloatArray = NDArray[np.float64]
Integers = NDArray[np.int64]
Residues = NDArray[np.uint32]


class Dispersion(Message, frozen=True, kw_only=True):
    """The host's share of the sums of squared Pearson residuals."""

    declaration = Declaration(
        "inference.dispersion", Role.HOST, Leakage.AGGREGATE,
        "the sum of squared Pearson residuals over all rows, to the guest",
    )  # fmt: skip
    share: Annotated[Residues, Array("<u4", RING.limbs, "targets")]


class Variances(Message, frozen=True, kw_only=True):
    """The sender's share of the variances that the receiver wants."""

    declaration = Declaration(
        "inference.variances", Role.EITHER, Leakage.RESULT, "the variances of the receiver's own coefficients"
    )
    share: Annotated[Residues, Array("<u4", RING.limbs, "directions")]


@dataclass(frozen=True)
class Wanted:
    """What a party brings.

    Attributes
    ----------
    directions : ndarray, shape (own columns, own columns)
        Row by row the coefficients, in the coordinates of the party's matrix, of what it wants the variance of.
    penalty : ndarray, shape (own columns, own columns)
        Hessian of its penalty in these coordinates.
    """

    directions: FloatArray
    penalty: FloatArray


async def variances(pair: Pair, scores: Share, labels: Labels | None, wanted: Wanted) -> FloatArray:
    """Return the variances of this party's coefficients; guest and host call it at the same time.

    Parameters
    ----------
    pair : Pair
        What the two have trained with.
    scores : Share, shape (L, rows, targets)
        Of the model, at all rows.
    labels : Labels or None
        The guest's.
    wanted : Wanted

    Returns
    -------
    ndarray, shape (own columns, targets)

    Leakage
    -------
    See the module.
    """
    plan, every = pair.plan, []
    slopes = await _weigh(pair, await plan.response.slopes(pair.arithmetic, scores[:, : plan.rows]), labels)
    pearson = await plan.response.pearson(pair.arithmetic, scores[:, : plan.rows], _training(labels, plan))
    dispersions = await _dispersions(pair, pearson, labels)
    for target in range(plan.targets):
        information = await _information(pair, slopes[:, :, target], wanted.penalty)
        found, scale = await inverse(pair.arithmetic, information)
        factor = None
        if scale is not None:
            factor = scale * dispersions[target] / plan.mean
        every.append(await _own_variances(pair, found, factor, wanted.directions) / plan.rows)
    return np.stack(every, axis=1)


def _training(labels: Labels | None, plan: Plan) -> FloatArray | None:
    return None if labels is None else labels.y[: plan.rows]


async def _weigh(pair: Pair, numbers: Share, labels: Labels | None, bits: int = WEIGHTING_BITS) -> Share:
    """Return the share of numbers of training rows times the rows' weights, `bits` taken away."""
    if not pair.plan.weighted:
        return numbers
    weights = None
    if labels is not None and labels.weights is not None:
        repeated = np.repeat(labels.weights[: pair.plan.rows, None], numbers.shape[2], axis=1)
        weights = RING.encode(repeated, WEIGHTING_BITS)
    return await pair.arithmetic.times_guest(numbers, weights, bits)


async def _dispersions(pair: Pair, pearson: Share | None, labels: Labels | None) -> FloatArray:
    """Return the dispersion of each target, at the guest."""
    plan, arithmetic = pair.plan, pair.arithmetic
    if pearson is None:
        return np.full(plan.targets, labels.dispersion if labels else np.nan)
    bits = plan.response.residual_bits
    squares = await _weigh(pair, await arithmetic.square(pearson, bits), labels)
    sums, degrees = total(squares, axis=1), max(plan.rows - sum(plan.columns), 1)
    if arithmetic.party:
        await arithmetic.peer.send(Dispersion(share=sums))
        return np.full(plan.targets, np.nan)
    share = (await arithmetic.peer.recv(Dispersion, targets=plan.targets)).share
    return RING.decode(RING.add(sums, share), bits) / degrees


async def _information(pair: Pair, slopes: Share, penalty: FloatArray) -> Share:
    """Return the share of the information matrix times 1/plan.mean: (L, k, k)."""
    plan, party, (own, other) = pair.plan, pair.arithmetic.party, _columns(pair)
    integers = pair.matrix.integers[: plan.rows].astype(np.int64)
    rows, columns = np.triu_indices(own)

    def pairs(part: slice) -> Integers:
        return integers[:, rows[part]] * integers[:, columns[part]]

    counts = (own * (own + 1) // 2, other * (other + 1) // 2)
    mine, theirs = await wide.backward(pair.arithmetic, pairs, counts, (slopes, slopes))
    guests, hosts = (theirs, mine) if party else (mine, theirs)
    matrix = RING.zeros(sum(plan.columns), sum(plan.columns))
    cut = plan.columns[0]
    matrix[:, :cut, :cut] = mirrored(guests, cut)
    matrix[:, cut:, cut:] = mirrored(hosts, len(matrix[0]) - cut)
    matrix[:, :cut, cut:] = await _between(pair, slopes)
    shift = plan.response.residual_bits + 2 * plan.matrix_bits + math.ceil(math.log2(plan.rows)) - FISHER_BITS
    entries = pair.arithmetic.truncate(upper(matrix), shift)
    added = np.zeros((sum(plan.columns), sum(plan.columns)))
    block = slice(cut, None) if party else slice(0, cut)
    added[block, block] = penalty / plan.mean
    return mirrored(RING.add(entries, upper(RING.encode(added, FISHER_BITS))), len(added))


def _columns(pair: Pair) -> tuple[int, int]:
    """Return the numbers of columns of this party and of the peer."""
    guest, host = pair.plan.columns
    return (host, guest) if pair.arithmetic.party else (guest, host)


async def _between(pair: Pair, slopes: Share) -> Share:
    """Return the share of A^T W B, not truncated: (L, guest columns, host columns)."""
    own, other = _columns(pair)
    height, width = pair.plan.height(0), max(1, wide.SLICE_ENTRIES // pair.plan.rows)
    arithmetic, backend = pair.arithmetic, pair.arithmetic.backend
    opened, kept = [], []
    for start in range(0, max(own, other), width):
        held = owned = None
        mine, theirs = (max(0, min(count - start, width)) for count in (own, other))
        if mine:
            held = backend.backward(height, other, mine), _times(pair, slopes, slice(start, start + mine))
        if theirs:
            owned = backend.backward(height, own, theirs), pair.matrix.operand
        first, second = await exchange(arithmetic.peer, held, owned, arithmetic.rng)
        opened += [] if first is None else [first]
        kept += [] if second is None else [second]
    # of the guest's vectors: (host columns, guest columns); of the host's: (guest columns, host columns)
    guests, hosts = (kept, opened) if arithmetic.party else (opened, kept)
    return RING.add(np.concatenate(guests, axis=2).transpose(0, 2, 1), np.concatenate(hosts, axis=2))


def _times(pair: Pair, slopes: Share, part: slice) -> Share:
    """Return this party's share of the slopes times some of its columns, in the rows of a prepared matrix."""
    rows = pair.plan.rows
    columns = RING.integers(pair.matrix.integers[:rows, part])
    out = RING.zeros(pair.plan.height(0), columns.shape[2])
    out[:, :rows] = RING.multiply(np.repeat(slopes[:, :, None], columns.shape[2], axis=2), columns)
    return out


async def _own_variances(
    pair: Pair, found: Share, factor: float | None, directions: FloatArray
) -> FloatArray:
    """Return u^T V u times the guest's factor, for each of this party's directions u."""
    arithmetic, (own, other), cut = pair.arithmetic, _columns(pair), pair.plan.columns[0]
    blocks = upper(found[:, :cut, :cut]), upper(found[:, cut:, cut:])
    lengths = np.linalg.norm(directions, axis=1)
    unit = directions / np.where(lengths > 0, lengths, 1.0)[:, None]
    units = np.rint(np.ldexp(unit, UNIT_BITS)).astype(np.int64)
    rows, columns = np.triu_indices(own)
    squares = np.where(rows == columns, 1, 2)[:, None] * units.T[rows] * units.T[columns]
    vectors = (blocks[1], blocks[0]) if arithmetic.party else blocks
    mine, theirs = await wide.backward(arithmetic, lambda part: squares[:, part], (own, other), vectors)
    diagonals = np.concatenate((theirs, mine) if arithmetic.party else (mine, theirs), axis=1)
    diagonals = arithmetic.truncate(diagonals, 2 * UNIT_BITS + INVERSE_BITS - DIAGONAL_BITS)
    encoded = None
    if factor is not None:
        encoded = np.broadcast_to(RING.encode(np.array([factor]), FACTOR_BITS), diagonals.shape)
    results = await arithmetic.times_guest(diagonals, encoded, DIAGONAL_BITS)
    guests, hosts = results[:, :cut], results[:, cut:]
    share, send = (hosts, guests) if arithmetic.party else (guests, hosts)
    await arithmetic.peer.send(Variances(share=np.ascontiguousarray(send)))
    received = (await arithmetic.peer.recv(Variances, directions=own)).share
    opened = RING.decode(RING.add(np.ascontiguousarray(share), received), FACTOR_BITS)
    return np.asarray(np.maximum(opened, 0.0) * lengths**2)
