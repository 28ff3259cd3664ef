"""Products of a party's matrix of 40-bit integers, transposed, with a vector that is shared.

    P (matrix M, n x k)                           Q (its share v_Q of v, key)
                      <-- Vector --               [[v_Q]], fresh, once
    for each slice of columns:
    [[M^T v_Q + mask]], made fresh, flooded
                      -- Masked -->               opens M^T v_Q + mask
    keeps M^T v_P - mask                          keeps M^T v_Q + mask

An entry goes in two digits of 20 bits, as two columns. One encryption of the vector serves all slices, so that a matrix
may be larger than memory; every slice has a mask and a flooding of its own. Both parties are P and Q at the same time.

Adversary and leakage are those of :mod:`vfl.protocols.product`: nothing is opened.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.product import Product
from vfl.crypto.ring import MATRIX_BITS, RING, Share
from vfl.protocols.arithmetic import Arithmetic
from vfl.protocols.glm_plan import LARGEST_ENTRY
from vfl.protocols.product import Masked, Vector

__all__ = ["SLICE_ENTRIES", "backward"]

Integers = NDArray[np.int64]
SLICE_ENTRIES = 1 << 23
"""Of a matrix that are prepared at a time, 28 bytes each."""


async def backward(
    arithmetic: Arithmetic,
    matrix: Callable[[slice], Integers],
    counts: tuple[int, int],
    vectors: tuple[Share, Share],
) -> tuple[Share, Share]:
    """Return the shares of M^T x for this party's matrix and for the peer's, of entries below 2^39, slice by slice.

    Parameters
    ----------
    arithmetic : Arithmetic
    matrix : callable
        slice of columns -> integers, shape (n, columns)
    counts : tuple of int
        Columns of this party's matrix, and of the peer's.
    vectors : tuple of Share, shapes (L, n) and (L, n')
        This party's share of what its own matrix multiplies, and of what the peer's does.
    """
    own, other = (_Slices(count, vector.shape[1]) for count, vector in zip(counts, vectors, strict=True))
    backend, rng, peer = arithmetic.backend, arithmetic.rng, arithmetic.peer
    held, owned = other.product(arithmetic), own.product(arithmetic)
    await peer.send(Vector(v=held.encrypt(vectors[1][:, :, None], rng)))
    received = (await peer.recv(Vector, vector_bytes=owned.vector_bytes)).v
    kept, opened = [], []
    for place in range(max(own.number, other.number)):
        if place < own.number:
            prepared = backend.prepare(_digits(matrix(own.part(place)), own.width), LARGEST_ENTRY)
            masked, share = owned.evaluate(received, prepared.operand, rng)
            await peer.send(Masked(v=masked))
            kept.append(RING.add(share, RING.backward(prepared.integers, vectors[0][:, :, None])))
        if place < other.number:
            opened.append(held.open((await peer.recv(Masked, product_bytes=held.product_bytes)).v))
    return own.join(kept), other.join(opened)


@dataclass(frozen=True)
class _Slices:
    """How a matrix of two digits an entry is cut: slices of equal width, so that one ciphertext serves all."""

    columns: int
    rows: int

    @property
    def width(self) -> int:
        return min(self.columns, max(1, SLICE_ENTRIES // (2 * self.rows)))

    @property
    def number(self) -> int:
        return -(-self.columns // self.width)

    def part(self, place: int) -> slice:
        return slice(place * self.width, min((place + 1) * self.width, self.columns))

    def product(self, arithmetic: Arithmetic) -> Product:
        return arithmetic.backend.backward(self.rows, 2 * self.width, 1)

    def join(self, parts: list[Share]) -> Share:
        """Put slices and digits together: (L, 2 width, 1) each to (L, columns)."""
        low, high = (
            np.concatenate([part[:, half, 0] for part in parts], axis=1)[:, : self.columns]
            for half in (slice(0, self.width), slice(self.width, None))
        )
        return RING.add(low, RING.scale(high, 1 << MATRIX_BITS))


def _digits(values: Integers, width: int) -> NDArray[np.int32]:
    """Return the lower, signed digits of integers and then the higher ones, each filled up to a width."""
    high = (values + (1 << MATRIX_BITS - 1)) >> MATRIX_BITS
    out = np.zeros((len(values), 2 * width), np.int32)
    out[:, : values.shape[1]] = values - (high << MATRIX_BITS)
    out[:, width : width + values.shape[1]] = high
    return out
