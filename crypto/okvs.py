"""An oblivious key-value store: n keys with values in GF(2^128) as a vector P of about 1.3 n elements.

Every key selects a bin, three columns of the bin and a field element k; its value is the sum of P at the three columns
and k P_1 + k^2 P_2 + ... over the bin's few dense columns. Values of other keys are linear in P too, so whoever holds
a linear function of P can decode it. P hides which keys it was made from when it is masked, as in
:mod:`vfl.protocols.psi.vole`; it is not "doubly oblivious" (free columns are zero).

Encoding removes, as long as it can, a row that is alone in one of its columns; the rows are then solved for these
columns in reverse order. When no row is alone, a row of the fullest structure left (the 2-core of the hypergraph) is
put aside, and the g rows put aside are solved for the dense columns in the end.

Failure, over the keys' hash, is below 2^-40 in all:

* 2^-41: some bin gets more rows than `capacity`, by Chernoff's bound for the binomial distribution and the union bound.
* 2^-41: some bin has g > `dense`. With e = columns / capacity, section 3.2 of the paper bounds the probability that
  structures beyond repeated rows stay by 2^-lambda, lambda = slope (e - 1.223) - 9.2, log2 slope = 0.55 log2 n +
  2.331 (its equations 2 and 3 for weight 3; measured by its authors on 2^27 instances, extrapolated beyond 2^-30; their
  implementation has 0.555 log2 n + 2.336, hence fewer columns for the same lambda).
  d repeated rows stay with probability (e n)^-d, hence dense = floor(lambda / log2(e n)). lambda is 41 + log2(bins).
* 2^-70: the g equations of rows put aside are dependent (a random Vandermonde matrix plus a fixed one, lemma 2.2, on
  the 74 bits of k that the columns leave undetermined).

Source: Raghuraman and Rindal, "Blazing Fast PSI from Improved OKVS and Subfield VOLE", CCS 2022, eprint 2022/320:
figure 1, section 2.1 (clusters with separate dense columns), sections 3.1 and 3.2. Peeling with exclusive ors of row
numbers: Graf and Lemire, "Xor Filters", 2020, algorithm 3.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.gf128 import Elements, add_product, inverse, product
from vfl.crypto.lattice.ntt import kernel
from vfl.crypto.threads import run
from vfl.errors import CryptoError

__all__ = ["Grouped", "Shape", "capacity", "decode", "encode", "group", "shape"]

FAILURE_BITS = 40
BIN = 1 << 16  # rows of a bin, about: its 2 MB stay in a second-level cache; larger ones save bytes, not time
U32 = NDArray[np.uint32]


@dataclass(frozen=True)
class Shape:
    """The dimensions of a store; both parties derive them from the number of keys.

    Attributes
    ----------
    bins : int
    capacity : int
        Most rows of a bin.
    columns : int
        Sparse columns of a bin.
    dense : int
        Dense columns of a bin.
    """

    bins: int
    capacity: int
    columns: int
    dense: int

    @property
    def width(self) -> int:
        """Elements of P that belong to a bin."""
        return self.columns + self.dense

    @property
    def size(self) -> int:
        """Elements of P."""
        return self.bins * self.width


@cache
def shape(keys: int) -> Shape:
    """Return the dimensions for so many keys; see the module for their derivation."""
    bins = max(1, round(keys / BIN))
    bits = FAILURE_BITS + 1 + math.log2(bins)
    rows = max(capacity(keys, bins), 64)  # the paper measures from 2^6 rows on
    slope = 2 ** (0.55 * math.log2(rows) + 2.331)
    columns = math.ceil(rows * (1.223 + (bits + 9.2) / slope))
    return Shape(bins, rows, columns, math.floor(bits / math.log2(columns)))


def capacity(keys: int, bins: int) -> int:
    """Return the load that any of `bins` exceeds with probability below 2^-41 when keys choose one at random."""
    if bins == 1:
        return keys
    bits = FAILURE_BITS + 1 + math.log2(bins)

    def exponent(load: int) -> float:
        """Return -log2 of Chernoff's bound 2^(-keys D(load / keys || 1 / bins))."""
        q = load / keys
        return keys * (q * math.log2(q * bins) + (1 - q) * math.log2((1 - q) / (1 - 1 / bins)))

    low, high = keys // bins, keys - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if exponent(middle) >= bits else (middle, high)
    return high


@kernel
def _bin(hashes: Any, i: Any, bins: Any) -> Any:
    return ((hashes[i, 0] & np.uint64(0xFFFFFFFF)) * np.uint64(bins)) >> np.uint64(32)


@kernel
def _columns(hashes: Any, i: Any, columns: Any) -> Any:
    """Return three different columns: numbers below columns, columns - 1 and columns - 2, moved past the others."""
    m = np.uint64(columns)
    one = np.uint64(1)
    a = ((hashes[i, 0] >> np.uint64(32)) * m) >> np.uint64(32)
    b = ((hashes[i, 1] & np.uint64(0xFFFFFFFF)) * (m - one)) >> np.uint64(32)
    c = ((hashes[i, 1] >> np.uint64(32)) * (m - one - one)) >> np.uint64(32)
    b += one if b >= a else np.uint64(0)
    c += one if c >= min(a, b) else np.uint64(0)
    c += one if c >= max(a, b) else np.uint64(0)
    return a, b, c


@kernel
def _count(hashes: Any, bins: Any, starts: Any) -> None:
    for i in range(hashes.shape[0]):
        starts[_bin(hashes, i, bins) + np.uint64(1)] += 1


@kernel
def _scatter(
    hashes: Any, keys: Any, bins: Any, places: Any, to_hashes: Any, to_keys: Any, order: Any
) -> None:
    for i in range(hashes.shape[0]):
        b = _bin(hashes, i, bins)
        place = places[b]
        places[b] = place + 1
        to_hashes[place, 0], to_hashes[place, 1] = hashes[i, 0], hashes[i, 1]
        to_keys[place, 0], to_keys[place, 1] = keys[i, 0], keys[i, 1]
        order[place] = i


class Grouped(NamedTuple):
    """Keys sorted by bin.

    Attributes
    ----------
    hashes, keys : ndarray of uint64, shape (n, 2)
    order : ndarray of uint32, shape (n,)
        Where each stood before.
    starts : ndarray of int64, shape (bins + 1,)
        The rows of bin b are starts[b] to starts[b + 1].
    """

    hashes: Elements
    keys: Elements
    order: U32
    starts: NDArray[np.int64]


def group(hashes: Elements, keys: Elements, dims: Shape) -> Grouped:
    """Sort keys by the bin that their hash selects.

    Parameters
    ----------
    hashes : ndarray of uint64, shape (n, 2)
        Pseudorandom functions of the keys, n below 2^32: they select bin and columns and are k of the dense columns.
    keys : ndarray of uint64, shape (n, 2)
    dims : Shape
    """
    starts = np.zeros(dims.bins + 1, dtype=np.int64)
    _count(hashes, dims.bins, starts)
    starts = np.cumsum(starts)
    out = Grouped(np.empty_like(hashes), np.empty_like(keys), np.empty(len(keys), dtype=np.uint32), starts)
    _scatter(hashes, keys, dims.bins, starts.copy(), out.hashes, out.keys, out.order)
    return out


@kernel
def _locate(hashes: Any, columns: Any, places: Any) -> None:
    for i in range(hashes.shape[0]):
        a, b, c = _columns(hashes, i, columns)
        places[i, 0], places[i, 1], places[i, 2] = a, b, c


@kernel
def _take(row: Any, places: Any, degree: Any, mixed: Any, queue: Any, waiting: Any) -> Any:
    """Remove a row; put columns in which only one row is left into the queue. Returns its length."""
    for j in range(3):
        column = places[row, j]
        degree[column] -= np.uint32(1)
        mixed[column] ^= row
        queue[waiting] = column
        waiting += degree[column] == 1
    return waiting


@kernel
def _stuck(places: Any, degree: Any, alive: Any) -> Any:
    """Return a row with a column of least degree above 0."""
    best = np.uint32(0xFFFFFFFF)
    chosen = np.uint32(0)
    for row in range(places.shape[0]):
        if alive[row]:
            for j in range(3):
                if degree[places[row, j]] < best:
                    best, chosen = degree[places[row, j]], np.uint32(row)
    return chosen


@kernel
def _peel(places: Any, columns: Any, rows: Any, pivots: Any, aside: Any) -> Any:
    """Order the rows; return how many are ordered and how many were put aside, one more than fit if too many."""
    n = places.shape[0]
    degree = np.zeros(columns, np.uint32)
    mixed = np.zeros(columns, np.uint32)
    queue = np.empty(columns + 3 * n + 3, np.uint32)
    for row in range(n):
        for j in range(3):
            degree[places[row, j]] += np.uint32(1)
            mixed[places[row, j]] ^= np.uint32(row)
    waiting = 0
    for column in range(columns):
        queue[waiting] = column
        waiting += degree[column] == 1
    done, gaps = 0, 0
    while True:
        while waiting:
            waiting -= 1
            column = queue[waiting]
            if degree[column] == 1:
                row = mixed[column]
                rows[done], pivots[done] = row, column
                done += 1
                waiting = _take(row, places, degree, mixed, queue, waiting)
        if done + gaps == n:
            return done, gaps
        if gaps == aside.size:
            return done, gaps + 1
        alive = np.ones(n, np.uint8)
        alive[rows[:done]] = 0
        alive[aside[:gaps]] = 0
        row = _stuck(places, degree, alive)
        aside[gaps] = row
        gaps += 1
        waiting = _take(row, places, degree, mixed, queue, waiting)


@kernel
def _substitute(places: Any, rows: Any, pivots: Any, values: Any, vector: Any) -> None:
    """Solve the ordered rows for their pivots; every other column of `vector` must be set before."""
    for i in range(rows.size - 1, -1, -1):
        row = rows[i]
        a, b, c = places[row, 0], places[row, 1], places[row, 2]
        low = values[row, 0] ^ vector[a, 0] ^ vector[b, 0] ^ vector[c, 0]
        high = values[row, 1] ^ vector[a, 1] ^ vector[b, 1] ^ vector[c, 1]
        vector[pivots[i], 0], vector[pivots[i], 1] = low, high


@kernel
def _multiply_rows(out: Any, x: Any, y: Any, step: Any) -> None:
    """Add x[i] y[step i] to out[i]; step is 1 or 0."""
    for i in range(out.shape[0]):
        add_product(out, i, x, i, y, step * i)


@kernel
def _decode(hashes: Any, vector: Any, columns: Any, dense: Any, out: Any) -> None:
    """Decode within one bin: Horner's rule in k over the dense columns, then the three sparse ones."""
    sums = np.empty((2, 2), np.uint64)
    for i in range(hashes.shape[0]):
        sums[0, 0] = sums[0, 1] = 0
        for j in range(columns + dense - 1, columns - 1, -1):
            sums[1, 0], sums[1, 1] = sums[0, 0] ^ vector[j, 0], sums[0, 1] ^ vector[j, 1]
            sums[0, 0] = sums[0, 1] = 0
            add_product(sums, 0, sums, 1, hashes, i)
        a, b, c = _columns(hashes, i, columns)
        out[i, 0] = sums[0, 0] ^ vector[a, 0] ^ vector[b, 0] ^ vector[c, 0]
        out[i, 1] = sums[0, 1] ^ vector[a, 1] ^ vector[b, 1] ^ vector[c, 1]


def encode(grouped: Grouped, values: Elements, dims: Shape, bins: range) -> Elements:
    """Return P over some bins, shape (len(bins) * width, 2): it decodes each key to its value.

    Parameters
    ----------
    grouped : Grouped
    values : ndarray of uint64, shape (n, 2)
        In the order of `grouped`.
    dims : Shape
    bins : range
        Consecutive.

    Raises
    ------
    CryptoError
        If a bin overflows or its rows depend on each other: with probability 2^-40, or because a key is repeated.
    """
    vector = np.zeros((len(bins) * dims.width, 2), dtype=np.uint64)

    def some(first: int, end: int) -> None:
        for place in range(first, end):
            rows = slice(grouped.starts[bins[place]], grouped.starts[bins[place] + 1])
            part = vector[place * dims.width : (place + 1) * dims.width]
            _encode_bin(grouped.hashes[rows], values[rows], dims, part)

    run(some, len(bins), None)
    return vector


def _encode_bin(hashes: Elements, values: Elements, dims: Shape, vector: Elements) -> None:
    if len(hashes) > dims.capacity:
        raise CryptoError(f"a bin of the store overflows ({len(hashes)} of {dims.capacity}): run it again")
    places = np.empty((len(hashes), 3), dtype=np.uint32)
    _locate(hashes, dims.columns, places)
    rows, pivots = np.empty(len(hashes), dtype=np.uint32), np.empty(len(hashes), dtype=np.uint32)
    aside = np.empty(dims.dense, dtype=np.uint32)
    done, gaps = _peel(places, dims.columns, rows, pivots, aside)
    if gaps > dims.dense:
        raise CryptoError(
            "the keys' equations depend on each other: keys must be distinct; if so, run it again"
        )
    rows, pivots, aside = rows[:done], pivots[:done], aside[:gaps]
    if gaps:
        values = _solve_dense(hashes, values, (places, rows, pivots, aside), dims, vector)
    _substitute(places, rows, pivots, values, vector)


def _solve_dense(
    hashes: Elements, values: Elements, order: tuple[U32, U32, U32, U32], dims: Shape, vector: Elements
) -> Elements:
    """Set as many dense columns as rows were put aside; return the values less what these contribute."""
    places, rows, pivots, aside = order

    def rest(values: Elements) -> list[Elements]:
        """Return what the rows put aside still lack once all others have these values."""
        trial = np.zeros((dims.columns, 2), dtype=np.uint64)
        _substitute(places, rows, pivots, values, trial)
        sums = values[aside] ^ np.bitwise_xor.reduce(trial[places[aside]], axis=1)
        return [row.reshape(1, 2).copy() for row in sums]

    powers = [hashes]
    while len(powers) < len(aside):
        powers.append(np.zeros_like(hashes))
        _multiply_rows(powers[-1], powers[-2], hashes, 1)
    matrix = [list(row) for row in zip(*(rest(power) for power in powers), strict=True)]
    values = values.copy()
    for j, coefficient in enumerate(_solve(matrix, rest(values))):
        vector[dims.columns + j] = coefficient[0]
        _multiply_rows(values, powers[j], coefficient, 0)
    return values


def _solve(matrix: list[list[Elements]], right: list[Elements]) -> list[Elements]:
    """Solve a small linear system by Gauss and Jordan's elimination."""
    size = len(right)
    for i in range(size):
        pivot = next((r for r in range(i, size) if matrix[r][i].any()), None)
        if pivot is None:
            raise CryptoError(
                "the keys' equations depend on each other: keys must be distinct; if so, run it again"
            )
        matrix[i], matrix[pivot], right[i], right[pivot] = matrix[pivot], matrix[i], right[pivot], right[i]
        scale = inverse(matrix[i][i])
        matrix[i], right[i] = [product(x, scale) for x in matrix[i]], product(right[i], scale)
        for r in range(size):
            if r != i and matrix[r][i].any():
                factor = matrix[r][i]
                matrix[r] = [x ^ product(y, factor) for x, y in zip(matrix[r], matrix[i], strict=True)]
                right[r] = right[r] ^ product(right[i], factor)
    return right


def decode(grouped: Grouped, vector: Elements, dims: Shape, bins: range, out: Elements) -> None:
    """Decode all keys of some bins into `out`, in the order of `grouped`.

    Parameters
    ----------
    grouped : Grouped
    vector : ndarray of uint64, shape (len(bins) * width, 2)
        P over these bins, or a linear function of it.
    dims : Shape
    bins : range
    out : ndarray of uint64, shape (n, 2)
        Only the rows of these bins are written.
    """

    def some(first: int, end: int) -> None:
        for place in range(first, end):
            rows = slice(grouped.starts[bins[place]], grouped.starts[bins[place] + 1])
            part = vector[place * dims.width : (place + 1) * dims.width]
            _decode(grouped.hashes[rows], part, dims.columns, dims.dense, out[rows])

    run(some, len(bins), None)
