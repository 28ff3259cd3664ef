"""Products of two matrices in coefficients: many vectors share a polynomial, for matrices of few rows.

X is n x k, of small integers that the evaluator knows; W, k x m, comes encrypted. A polynomial takes a tile of a rows
and b vectors, a k b <= N, with X^-e = -X^(N-e):

    x(X) = sum over i < a, l of x_il X^(k i - l)        w(X) = sum over l, j < b of w_lj X^(l + k a j)

Coefficient k (i + a j) of x w is the sum over l of x_il w_lj: the exponents k (i + a j) + l' - l of the other products
are no multiples of k, or lie below 0, from where they come back above N - k. So about n k m/N ciphertexts go out, and
few come in, where one vector a polynomial takes m both ways. The other coefficients hold mixtures and are not returned.

Source: Huang, Lu, Hong, Ding, "Cheetah: Lean and Fast Secure Two-Party Deep Neural Network Inference", eprint 2022/207
(inner products as coefficients of polynomial products).
"""

import math
from dataclasses import dataclass
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.lattice.params import Parameters
from vfl.crypto.lattice.scheme import Ciphertexts, transform
from vfl.crypto.lattice.tables import Words
from vfl.errors import EncodingOverflow

__all__ = ["Tiles"]


@final
@dataclass(frozen=True)
class Tiles:
    """Where the numbers of X W stand; both sides compute it from public sizes.

    Parameters
    ----------
    params : Parameters
    rows, columns : int
        Of X: n and k.
    vectors : int
        Columns of W, m.
    rows_each, vectors_each : int
        a and b.
    """

    params: Parameters
    rows: int
    columns: int
    vectors: int
    rows_each: int
    vectors_each: int

    @classmethod
    def fewest(cls, params: Parameters, rows: int, columns: int, vectors: int) -> Self:
        """Return the layout with the fewest ciphertexts both ways.

        Raises
        ------
        EncodingOverflow
            If a row is longer than a polynomial.
        """
        if min(rows, columns, vectors) < 1 or columns > params.degree:
            raise EncodingOverflow(
                f"{rows} x {columns} times {columns} x {vectors} numbers: sums have 1 to {params.degree} terms"
            )
        places = params.degree // columns
        sizes = {-(-vectors // parts) for parts in range(1, vectors + 1)}
        layouts = [
            cls(params, rows, columns, vectors, min(rows, places // each), each)
            for each in sorted(sizes, reverse=True)
            if each <= places
        ]
        return min(layouts, key=lambda layout: layout.inputs + layout.outputs)

    @property
    def inputs(self) -> int:
        """Ciphertexts that come in."""
        return -(-self.vectors // self.vectors_each)

    @property
    def pieces(self) -> int:
        """Polynomials of X."""
        return -(-self.rows // self.rows_each)

    @property
    def outputs(self) -> int:
        """Ciphertexts that go out."""
        return self.inputs * self.pieces

    @property
    def positions(self) -> NDArray[np.int64]:
        """Coefficients of each product that are numbers of the result."""
        return np.arange(self.rows_each * self.vectors_each) * self.columns

    def pack(self, residues: NDArray[np.uint32]) -> Words:
        """Write W, (L, k, m) residues, as polynomials: (inputs, L, N)."""
        limbs, columns, each = len(residues), self.columns, self.vectors_each
        padded = np.zeros((limbs, columns, self.inputs * each), np.uint32)
        padded[:, :, : self.vectors] = residues
        out = np.zeros((self.inputs, limbs, self.params.degree), np.uint32)
        places = np.add.outer(np.arange(columns), np.arange(each) * columns * self.rows_each)
        for part in range(self.inputs):
            out[part][:, places] = padded[:, :, part * each : (part + 1) * each]
        return out

    def operands(self, matrix: NDArray[np.int32], threads: int | None = None) -> Words:
        """Transform X: (pieces, 1, primes of q, N)."""
        each, degree = self.rows_each, self.params.degree
        padded = np.zeros((self.pieces * each, self.columns), np.int32)
        padded[: self.rows] = matrix
        places = np.subtract.outer(np.arange(each) * self.columns, np.arange(self.columns))
        signed = np.where(places < 0, np.int32(-1), np.int32(1)) * padded.reshape(self.pieces, each, -1)
        out = np.zeros((self.pieces, degree), np.int32)
        out[:, places % degree] = signed
        return transform(self.params, out, threads)[:, None]

    def multiply(self, vector: Ciphertexts, operands: Words, bound: int) -> Ciphertexts:
        """Return X [[W]], all pieces by the first ciphertext first; `bound` is that of the entries of X."""
        norm = bound * math.sqrt(self.rows_each * self.columns)
        parts = [vector[i : i + 1].sums(operands, norm) for i in range(self.inputs)]
        return parts[0] if len(parts) == 1 else Ciphertexts.join(parts)

    def unpack(self, opened: Words) -> NDArray[np.uint32]:
        """Order opened numbers, (outputs, positions, L), as (L, n, m)."""
        shape = (self.inputs, self.pieces, self.vectors_each, self.rows_each, opened.shape[-1])
        ordered = opened.reshape(shape).transpose(4, 1, 3, 0, 2)  # L, pieces, rows, inputs, vectors
        whole = ordered.reshape(opened.shape[-1], self.pieces * self.rows_each, -1)
        return np.ascontiguousarray(whole[:, : self.rows, : self.vectors])
