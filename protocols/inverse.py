"""The inverse of a positive matrix that two parties share: one round a doubling, one scalar opened in each.

    guest                                              host
    <tr F>, <tr F^2>                <-- Moments --     opened to the guest alone
    a from them, so that |1 - a F| < 1                 the guest's secret
    <E> = 1 - a <F>, <V> = 1        <-->               one round
    until the guest says stop
      <V> = <V> + <V><E>, <E> = <E>^2    <-->          one round
      <tr E>                        <-- Rest --        opened to the guest alone, to 2^-10
      Step                          -->                go on or stop

After r rounds V = (1 + E)(1 + E^2) ... (1 + E^(2^(r-1))) of the first E, so that a F V = 1 - E^(2^r): Newton's and
Schulz's iteration V (2 - F V), written so that both products of a round run at the same time. The trace of a power of
two of E bounds its norm, since its eigenvalues are not negative from the first round on. F and V commute, so products
are symmetric, and only the entries on and above the diagonal are computed.

Adversary: semi-honest, two parties.

Leakage
-------
The guest learns the trace of F and of F^2, and after each round the sum of (1 - a l)^(2^r) over the eigenvalues l of F,
to 2^-10. The host learns the number of rounds. V stays shared.

Sources: Schulz, "Iterative Berechnung der reziproken Matrix", ZAMM 13, 1933; Wolkowicz, Styan, "Bounds for eigenvalues
using traces", Linear Algebra and its Applications 29, 1980, theorem 2.1 (the largest eigenvalue).
"""

import math
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.ring import RING, Share
from vfl.protocols.arithmetic import Arithmetic
from vfl.protocols.inference_plan import (
    FISHER_BITS,
    INVERSE_BITS,
    MOMENT_BITS,
    MOST_ROUNDS,
    REST_BITS,
    SCALE_BITS,
)
from vfl.protocols.span import total
from vfl.protocols.wire import Array, Declaration, Leakage, Message, Role

__all__ = ["inverse", "mirrored", "upper"]

Residues = NDArray[np.uint32]
ENOUGH = 2.0**-9
"""Of the trace of what is missing: variances are then right to this part."""
_TRACE_BITS = 10
_REACH = 1.5  # the eigenvalues of a F lie below: 1 is safe, more is faster


class Moments(Message, frozen=True, kw_only=True):
    """The host's share of the traces of the information matrix and of its square."""

    declaration = Declaration(
        "inference.moments", Role.HOST, Leakage.AGGREGATE,
        "sum and sum of squares of the information matrix's eigenvalues, over all columns of all parties, to the guest",
    )  # fmt: skip
    share: Annotated[Residues, Array("<u4", RING.limbs, 2)]


class Rest(Message, frozen=True, kw_only=True):
    """The host's share of the trace of what the inverse still misses."""

    declaration = Declaration(
        "inference.rest", Role.HOST, Leakage.AGGREGATE,
        "how far the inverse of the information matrix has converged, to the guest",
    )  # fmt: skip
    share: Annotated[Residues, Array("<u4", RING.limbs)]


class Step(Message, frozen=True, kw_only=True):
    """Whether the inverse is good enough."""

    declaration = Declaration(
        "inference.step", Role.GUEST, Leakage.CONTROL, "how many rounds the inverse took"
    )
    stop: bool


def upper(matrix: Share) -> Share:
    """Return the entries on and above the diagonal, row by row: (L, k, k) to (L, k (k + 1) / 2)."""
    return np.ascontiguousarray(matrix[:, *np.triu_indices(matrix.shape[1])])


def mirrored(entries: Share, size: int) -> Share:
    """Return the symmetric matrix with these entries on and above the diagonal."""
    out = RING.zeros(size, size)
    rows, columns = np.triu_indices(size)
    out[:, rows, columns] = entries
    out[:, columns, rows] = entries
    return out


async def inverse(arithmetic: Arithmetic, matrix: Share) -> tuple[Share, float | None]:
    """Return the share of (a F)^-1, INVERSE_BITS after the point, and a at the guest.

    Parameters
    ----------
    arithmetic : Arithmetic
    matrix : Share, shape (L, k, k)
        F, symmetric at either party, FISHER_BITS after the point.

    Returns
    -------
    tuple of Share, shape (L, k, k), and float or None

    Leakage
    -------
    See the module.
    """
    size = matrix.shape[1]
    scale = await _scale(arithmetic, matrix)
    factor = None
    if scale is not None:
        factor = np.broadcast_to(RING.integers([scale]), upper(matrix).shape)
    scaled = await arithmetic.times_guest(upper(matrix), factor, FISHER_BITS + SCALE_BITS - REST_BITS)
    one = np.eye(size, dtype=np.int64)
    rest = RING.subtract(arithmetic.constant(RING.integers(one << REST_BITS)), mirrored(scaled, size))
    found = arithmetic.constant(RING.integers(one << INVERSE_BITS))
    for _ in range(MOST_ROUNDS):
        rest, moved = await _products(arithmetic, [(rest, rest), (found, rest)])
        found = RING.add(found, moved)
        if await _arrived(arithmetic, rest):
            break
    return found, None if scale is None else math.ldexp(scale, -SCALE_BITS)


async def _scale(arithmetic: Arithmetic, matrix: Share) -> int | None:
    """Return a 2^SCALE_BITS at the guest, from the first two moments of the eigenvalues."""
    size = matrix.shape[1]
    rough = mirrored(arithmetic.truncate(upper(matrix), FISHER_BITS - MOMENT_BITS), size)
    squares = await arithmetic.square(rough.reshape(RING.limbs, -1))
    second = arithmetic.truncate(total(squares, axis=1), MOMENT_BITS)
    own = np.stack([_trace(rough), second], axis=1)
    if arithmetic.party:
        await arithmetic.peer.send(Moments(share=own))
        return None
    share = (await arithmetic.peer.recv(Moments)).share
    first, second_moment = RING.decode(RING.add(own, share), MOMENT_BITS)
    mean = first / size
    spread = math.sqrt(max(second_moment / size - mean**2, 0.0))
    largest = max(mean + spread * math.sqrt(size - 1), math.ldexp(1.0, -_TRACE_BITS - 2))
    return max(round(math.ldexp(_REACH / largest, SCALE_BITS)), 1)


async def _arrived(arithmetic: Arithmetic, rest: Share) -> bool:
    """Return whether the guest, who alone sees the trace, finds nothing missing."""
    own = arithmetic.truncate(_trace(rest), REST_BITS - _TRACE_BITS)
    if arithmetic.party:
        await arithmetic.peer.send(Rest(share=own))
        return (await arithmetic.peer.recv(Step)).stop
    share = (await arithmetic.peer.recv(Rest)).share
    stop = abs(float(RING.decode(RING.add(own, share), _TRACE_BITS))) <= ENOUGH
    await arithmetic.peer.send(Step(stop=stop))
    return stop


def _trace(matrix: Share) -> Share:
    return total(np.diagonal(matrix, axis1=1, axis2=2), axis=1)


async def _products(arithmetic: Arithmetic, pairs: list[tuple[Share, Share]]) -> list[Share]:
    """Return the shares of the products of matrices that commute, in one round, REST_BITS taken away.

    x y = (a + b)(c + d): the guest brings in a and c, the host d and b, entry by entry of the sum over the inner index.
    """
    size = pairs[0][0].shape[1]
    rows, columns = np.triu_indices(size)
    left = np.concatenate([x[:, rows] for x, _ in pairs], axis=1)  # (L, entries, k)
    right = np.concatenate([y[:, columns] for _, y in pairs], axis=1)  # symmetric: a column is a row
    local = total(RING.multiply(left, right), axis=2)
    halves = (right, left) if arithmetic.party else (left, right)
    factors = np.concatenate(halves, axis=2).transpose(2, 0, 1)  # (2 k, L, entries)
    products = arithmetic.truncate(RING.add(local, await _folded(arithmetic, factors)), REST_BITS)
    return [mirrored(part, size) for part in np.split(products, len(pairs), axis=1)]


async def _folded(arithmetic: Arithmetic, factors: Share) -> Share:
    """Return the share of the sum over the first axis, several terms side by side in a ciphertext if they are short."""
    terms, limbs, length = factors.shape
    side = max(1, min(terms, arithmetic.backend.slot_rows // length))
    missing = -terms % side
    padded = np.concatenate([factors, np.zeros((missing, limbs, length), np.uint32)])
    folded = padded.reshape(-1, side, limbs, length).transpose(0, 2, 1, 3).reshape(-1, limbs, side * length)
    mixed = await arithmetic.cross(list(folded))
    return total(mixed.reshape(limbs, side, length), axis=1)
