"""Matrix products in both orientations on the same transformed matrix, and products slot by slot.

Coefficients. Rows are cut into chunks of m, by default min(rows, N). Where several columns fit a polynomial, N/m of
them share it, m coefficients apart: with i < m the row within the chunk and f the column within the group,

    x(X) = sum over f, i of x_if X^(i + f m)     r(X) = sum_i r_i X^-i     w(X) = sum_f w_f X^(-f m)

and X^-k = -X^(N-k). Then X^T r: coefficient f m of x r is the sum over i of x_if r_i, since i' - i + (f' - f) m = 0
only for i' = i and f' = f, and what falls below 0 comes back, negative, above N - m, where no multiple of m lies that
is read. And X w: coefficient i of x w is the sum over f of x_if w_f. Chunks are added up in the first, groups in the
second, inside the ciphertexts. For m > N/2 that is the textbook case: one column a polynomial, constant w, coefficient
0. The other coefficients hold mixtures of X and are not returned.

Source: Huang, Lu, Hong, Ding, "Cheetah: Lean and Fast Secure Two-Party Deep Neural Network Inference", eprint 2022/207
(inner products as coefficients of polynomial products).
"""

import math
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.lattice import ntt
from vfl.crypto.lattice.params import GRADIENT, Parameters
from vfl.crypto.lattice.scheme import Ciphertexts, SecretKey, transform
from vfl.crypto.lattice.tables import Words, tables
from vfl.crypto.rng import Rng
from vfl.errors import EncodingOverflow

__all__ = ["Layout", "Matrix", "NoiseReport", "Slots", "noise_report"]


@final
@dataclass(frozen=True)
class Layout:
    """Where the numbers of a rows x columns product stand; both sides compute it from public sizes.

    Parameters
    ----------
    params : Parameters
    rows, columns : int
    stride : int
        Rows in a chunk, m; by default as many as there are and a polynomial holds.
    """

    params: Parameters
    rows: int
    columns: int
    stride: int = 0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise ValueError(
                f"a matrix needs at least one row and one column, not {self.rows} x {self.columns}"
            )

        stride = self.stride or min(self.rows, self.params.degree)
        if not 0 < stride <= min(self.rows, self.params.degree):
            raise ValueError(
                f"a chunk of {stride} rows does not fit {self.rows} rows at degree {self.params.degree}"
            )
        object.__setattr__(self, "stride", stride)

    @classmethod
    def balanced(cls, params: Parameters, rows: int, columns: int) -> Self:
        """Return the layout with the fewest ciphertexts both ways: about as many groups as chunks."""
        strides = {min(rows, params.degree >> shift) for shift in range(params.degree.bit_length() - 1)}
        layouts = [cls(params, rows, columns, stride) for stride in sorted(strides, reverse=True)]
        return min(layouts, key=lambda layout: layout.groups + layout.chunks)

    @property
    def chunks(self) -> int:
        """Ciphertexts that hold a vector over the rows, and products X w."""
        return -(-self.rows // self.stride)

    @property
    def columns_each(self) -> int:
        """Columns in a group."""
        return min(self.params.degree // self.stride, self.columns)

    @property
    def groups(self) -> int:
        """Ciphertexts that hold a vector over the columns, and products X^T r."""
        return -(-self.columns // self.columns_each)

    @property
    def row_positions(self) -> NDArray[np.int64]:
        """Coefficients of each product X w that are numbers of the result."""
        return np.arange(self.stride)

    @property
    def column_positions(self) -> NDArray[np.int64]:
        """Coefficients of each product X^T r that are numbers of the result."""
        return np.arange(self.columns_each) * self.stride

    def pack_rows(self, residues: Words) -> Words:
        """Arrange a vector over the rows, (rows, limbs of t), as r(X): (chunks, limbs of t, N)."""
        return self._pack(residues, self.rows, self.chunks, self.stride, 1)

    def pack_columns(self, residues: Words) -> Words:
        """Arrange a vector over the columns, (columns, limbs of t), as w(X): (groups, limbs of t, N)."""
        return self._pack(residues, self.columns, self.groups, self.columns_each, self.stride)

    def _pack(self, residues: Words, size: int, count: int, each: int, step: int) -> Words:
        """Write `each` numbers per polynomial at the exponents 0, -step, -2 step, ..."""
        primes, degree = np.array(self.params.plain, np.uint32), self.params.degree
        if residues.shape != (size, len(primes)):
            raise ValueError(f"expected residues of shape {(size, len(primes))}, not {residues.shape}")
        out = np.zeros((count, len(primes), degree), np.uint32)
        for limb, p in enumerate(primes):
            parts = np.zeros((count, each), np.uint32)
            parts.reshape(-1)[:size] = residues[:, limb]
            out[:, limb, 0] = parts[:, 0]
            if each > 1:  # X^-k = -X^(N-k)
                out[:, limb, degree - step :: -step][:, : each - 1] = (p - parts[:, 1:]) % p
        return out

    def unpack_rows(self, opened: Words) -> Words:
        """Return X w in order: (chunks, m, limbs of t) to (rows, limbs of t)."""
        return opened.reshape(-1, opened.shape[-1])[: self.rows]

    def unpack_columns(self, opened: Words) -> Words:
        """Return X^T r in order: (groups, columns in a group, limbs of t) to (columns, limbs of t)."""
        return opened.reshape(-1, opened.shape[-1])[: self.columns]


@final
class Matrix:
    """An integer matrix, prepared once for X [[w]] and X^T [[r]].

    Parameters
    ----------
    params : Parameters
    integers : array of int, shape (rows, columns)
    bound : int
        Public bound on the absolute values, at most 2^29 - 1; the noise bound follows from it.
    layout : Layout, optional
        Where the numbers stand; by default one chunk as long as a polynomial.
    memory : int
        Bytes that transformed polynomials may take (4 per entry and prime of q). As many groups of columns as fit are
        transformed once; the others anew for every product, some of them at a time, at about the cost of preparing.
    threads : int, optional
        For preparing and products; by default all processors.

    Raises
    ------
    EncodingOverflow
        If an entry exceeds the bound, or the flooding cannot hide the noise of a product.
    """

    def __init__(
        self,
        params: Parameters,
        integers: NDArray[Any],
        bound: int,
        *,
        layout: Layout | None = None,
        memory: int = 1 << 31,
        threads: int | None = None,
    ) -> None:
        if integers.ndim != 2 or integers.dtype.kind not in "iu":
            raise ValueError(
                f"expected a matrix of integers, not {integers.ndim} dimensions of {integers.dtype}"
            )
        self.layout = layout or Layout(params, *integers.shape)
        if (self.layout.rows, self.layout.columns) != integers.shape:
            raise ValueError(f"the layout is for another matrix than one of {integers.shape}")
        if not 0 < bound < 1 << 29 or int(integers.max()) > bound or int(integers.min()) < -bound:
            raise EncodingOverflow(f"matrix entries exceed the bound {bound}, or the bound exceeds 2^29 - 1")
        self._threads = threads
        shape = self.layout
        self._row_norm = bound * math.sqrt(shape.rows * shape.columns_each)
        self._column_norm = bound * math.sqrt(shape.stride * shape.columns)
        params.check_noise(max(self._row_norm, self._column_norm))
        each = 4 * shape.chunks * len(params.primes) * params.degree
        self._block = max(1, min(memory // 4, 1 << 27) // each)
        prepared = (
            shape.groups if shape.groups * each <= memory else max(0, memory - each * self._block) // each
        )
        values = self._arrange(integers)
        self._ready = self._transform(values[:prepared])
        self._left = values[prepared:].copy()

    def _arrange(self, integers: NDArray[Any]) -> NDArray[np.int32]:
        """Write the columns as coefficients: (groups, chunks, N)."""
        shape, degree = self.layout, self.layout.params.degree
        out = np.zeros((shape.groups, shape.columns_each, shape.chunks, shape.stride), np.int32)
        flat = out.reshape(-1, shape.chunks * shape.stride)
        for start in range(0, shape.columns, 16):  # a few columns at a time, for the cache
            flat[start : min(start + 16, shape.columns), : shape.rows] = integers[:, start : start + 16].T
        if shape.columns_each == 1 and shape.stride == degree:
            return out.reshape(shape.groups, shape.chunks, degree)
        polynomials = np.zeros((shape.groups, shape.chunks, degree), np.int32)
        used = shape.columns_each * shape.stride
        polynomials[:, :, :used] = out.transpose(0, 2, 1, 3).reshape(shape.groups, shape.chunks, used)
        return polynomials

    def _transform(self, values: NDArray[np.int32]) -> Words:
        params = self.layout.params
        flat = transform(params, values.reshape(-1, params.degree), self._threads)
        return flat.reshape(*values.shape[:2], len(params.primes), params.degree)

    def _blocks(self) -> Any:
        """Yield (first group, transformed groups): those prepared, then the others a block at a time."""
        if len(self._ready):
            yield 0, self._ready
        for start in range(0, len(self._left), self._block):
            yield len(self._ready) + start, self._transform(self._left[start : start + self._block])

    def backward(self, vector: Ciphertexts) -> Ciphertexts:
        """Return X^T [[r]], one ciphertext per group of columns, from r as packed by `layout.pack_rows`."""
        self._check(vector, self.layout.chunks)
        parts = [vector.sums(block, self._row_norm, threads=self._threads) for _, block in self._blocks()]
        return parts[0] if len(parts) == 1 else Ciphertexts.join(parts)

    def forward(self, vector: Ciphertexts) -> Ciphertexts:
        """Return X [[w]], one ciphertext per chunk of rows, from w as packed by `layout.pack_columns`."""
        self._check(vector, self.layout.groups)
        out = None
        for start, block in self._blocks():
            part = vector[start : start + len(block)]
            out = part.sums(block, self._column_norm, axis=1, out=out, threads=self._threads)
        assert out is not None  # noqa: S101  (a matrix has at least one group)
        return out

    @staticmethod
    def _check(vector: Ciphertexts, count: int) -> None:
        if len(vector) != count:
            raise ValueError(f"the product takes {count} ciphertexts, not {len(vector)}")


@final
class Slots:
    """The slots of a plaintext ring with one prime t: N numbers modulo t that multiply one by one.

    Their order is that of the transform; both sides use the same.
    """

    def __init__(self, params: Parameters) -> None:
        if len(params.plain) != 1:
            raise ValueError("slots are taken prime by prime: parameters whose t is one prime (see SLOTS)")
        self.params = params
        self._tables = tables(params.degree, params.plain)

    @property
    def norm(self) -> float:
        """Bound on the norm of one polynomial."""
        return self.params.plain_modulus / 2 * math.sqrt(self.params.degree)

    def encode(self, values: NDArray[Any]) -> Words:
        """Return the polynomials with these slots, (count, N), as residues (count, 1, N)."""
        array = np.ascontiguousarray(values, np.uint32)[:, None]
        if (array >= self.params.plain_modulus).any():
            raise EncodingOverflow(f"slots hold numbers below {self.params.plain_modulus}")
        out, table = np.empty_like(array), self._tables
        ntt.to_coefficients(array, out, table.primes, table.outer, table.inner, table.scale)
        return out

    def decode(self, residues: Words) -> Words:
        """Return the slots of polynomials given by all their coefficients, (count, N, 1), as opened: (count, N)."""
        signed = self._centred(residues[..., 0])
        out, table = np.empty((len(signed), 1, self.params.degree), np.uint32), self._tables
        ntt.transform(signed, out, table.primes, table.outer, table.inner)
        return out[:, 0]

    def _centred(self, residues: Words) -> NDArray[np.int32]:
        t = np.int32(self.params.plain_modulus)
        signed = residues.view(np.int32) if residues.flags.c_contiguous else residues.astype(np.int32)
        return signed - t * (signed > t // 2)

    def multiply(self, vector: Ciphertexts, values: NDArray[Any], threads: int | None = None) -> Ciphertexts:
        """Multiply slot by slot and add up: (blocks, J, N) values with J consecutive ciphertexts a block each."""
        blocks, terms, degree = values.shape
        if len(vector) != blocks * terms:
            raise ValueError(
                f"{blocks} sums of {terms} products take {blocks * terms} ciphertexts, not {len(vector)}"
            )
        encoded = self._centred(self.encode(values.reshape(-1, degree))[:, 0])
        operands = transform(self.params, encoded, threads).reshape(blocks, terms, -1, degree)
        return vector.block_sums(operands, self.norm * math.sqrt(terms), threads=threads)


@dataclass(frozen=True)
class NoiseReport:
    """Noise of X^T [[r]] with all entries of X at the bound: proven bound, largest measured, flooding over it."""

    rows: int
    bound_bits: float
    measured_bits: float
    flooding_bits: int


def noise_report(rows: int, rng: Rng, params: Parameters = GRADIENT, bound: int = 1 << 15) -> NoiseReport:
    """Measure the worst case for a number of rows: every entry +-`bound`, signs at random, one column.

    All N coefficients of the result are measured; each has `rows` terms, as the one that is read.
    """
    key = SecretKey(params, rng)
    signs = np.frombuffer(rng.bytes(rows), np.int8) & 1
    matrix = Matrix(params, (bound * (1 - 2 * signs.astype(np.int32)))[:, None], bound)
    numbers = rng.residues(min(params.plain), rows)
    message = matrix.layout.pack_rows(params.residues(numbers))
    product = matrix.backward(key.public.accept(key.encrypt(message, rng), matrix.layout.chunks))
    measured = max(1, int(np.abs(key.noise(product)).max()))
    return NoiseReport(
        rows,
        round(math.log2(params.noise_bound(product.norm)), 2),
        round(math.log2(measured), 2),
        params.flooding_bits(product.norm),
    )
