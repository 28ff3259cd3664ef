"""Vector oblivious linear evaluation over GF(2^128): one party gets random A and C, the other Delta, B = C + A Delta.

Long vectors come from short ones without further messages, by the dual learning-parity-with-noise assumption: A = H e
for a public matrix H and a vector e of `trees` non-zero elements, one at a secret place of each of `trees` groups of
equal size (regular noise). B = H b, C = H c where c = b + e Delta. For each group the Delta holder grows a tree of
pseudorandom nodes with b in its leaves (Goldreich, Goldwasser and Micali); the other party learns all leaves but the
one at its secret place, by one transfer a level, and the sum of b over the group masked so that c results there.

H is the transpose of an expand-accumulate code over GF(2^128): row i of H b is the sum of WEIGHT entries, at places
drawn with a public seed, of the accumulated vector s_j = theta s_(j-1) + b_j. Accumulating with theta = x^47 instead
of 1 is the same as accumulating with 1 and drawing the expander's non-zero entries from powers of theta, b_j being
scaled too, which regular noise with uniform values does not notice. Without theta the code would be binary, thus split
into 128 binary problems with the noise at the same places and half of it missing in each.

Parameters for 128 bits, over a field as large as this one:

* A linear test with a word of H's row space of weight delta N misses all noise with probability at most
  (1 - delta)^trees, whatever groups the places form (arithmetic and geometric means). `trees` makes that 2^-128 for
  the delta at which 2^-5 words of weight below delta N are expected, for any number u of rows and any choice of
  the u coefficients, which can cancel u - 1 of the u WEIGHT intervals between places: tests/crypto/test_vole.py holds
  the formula. As every expand-accumulate code, this one has lighter words with a probability of 1/poly(size): averaged
  over the code, some single row misses all noise with probability below 2^-50. An entry of A is zero then. What
  the intersection protocol masks by A is attacked through sums of three rows or more: below 2^-100.
* Information-set decoding with N = 2 size, half of N equations and `trees` errors costs 2^trees; attacks that use the
  regular form (Briaud and Oygarden, EUROCRYPT 2023, eprint 2023/176; Esser and Santini, CRYPTO 2024, eprint 2023/1568)
  gain on few errors or low rates, far from rate 1/2 with 300 and more. See Liu, Wang, Yang and Yu, "The Hardness of LPN
  over Any Integer Ring and Field for PCG Applications", eprint 2022/712.

Silver codes are broken (eprint 2023/882) and absent.

Sources: Boyle et al., "Correlated Pseudorandomness from Expand-Accumulate Codes", CRYPTO 2022, eprint 2022/1014,
sections 3 and 4 (codes, linear tests, noise). Boyle et al., "Efficient Two-Round OT Extension and Silent
Non-Interactive Secure Computation", CCS 2019, eprint 2019/1159, figures 3 and 5 (trees, masked sums). Weng et al.,
"Wolverine", IEEE S&P 2021, eprint 2020/925 (the same over extension fields). The short vectors: Gilboa's product
through the extension of :mod:`vfl.crypto.ot`, whose Delta is the correlation's.

Adversary: semi-honest, both sides.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.fixedkey import BLOCK, FixedKey, derive, keystream
from vfl.crypto.gf128 import Elements
from vfl.crypto.lattice.ntt import kernel
from vfl.crypto.ot import COUNT, ExtendedReceiver, ExtendedSender
from vfl.crypto.rng import Rng
from vfl.crypto.threads import run

__all__ = ["WEIGHT", "DeltaHolder", "Noise", "Plan", "VectorHolder", "plan"]

WEIGHT = 11
"""Places of the expander's rows."""

NOISE = {14: 320, 16: 376, 18: 440, 20: 512, 21: 544, 22: 592, 23: 632, 24: 688, 25: 736}
"""Noise weight by the logarithm of the largest size it serves."""

_STEP = 47  # theta = x^47; 47 is prime to the group order 2^128 - 1, so theta is primitive like x
_ROWS = 1 << 14  # rows of H at a time: their places take 720 KiB
Bits: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True)
class Plan:
    """The dimensions of a correlation; both parties derive them from its length.

    Attributes
    ----------
    size : int
        Elements of A, B and C.
    trees : int
        Noise weight.
    leaves : int
        Elements of each group of the noise vector.
    """

    size: int
    trees: int
    leaves: int

    @property
    def depth(self) -> int:
        """Levels of a tree."""
        return (self.leaves - 1).bit_length()

    @property
    def transfers(self) -> int:
        """Transfers needed, one a level of every tree."""
        return self.depth * self.trees

    @property
    def extension_bytes(self) -> int:
        """Bytes of a column of the vector holder's message."""
        return self.trees * BLOCK + -(-self.transfers // 8)


def plan(size: int) -> Plan:
    """Return the dimensions for so many elements, at most 2^25."""
    trees = next(weight for bits, weight in NOISE.items() if size <= 1 << bits)
    return Plan(size, trees, max(2, -(-2 * size // trees)))


# Nodes of equal depth of all trees form an array of shape (nodes, trees); the children of node i of n are i and n + i.
# Of the last level only the first `leaves` nodes are kept, so a node may lack its right child.


def _double(nodes: Elements, count: int, after: int, keys: tuple[FixedKey, FixedKey]) -> None:
    """Replace the first `count` rows by their left children and append right ones up to `after` rows, in place."""
    keys[1].hash(nodes[: after - count], nodes[count:after])
    keys[0].hash(nodes[:count], nodes[:count])


def _sums(nodes: Elements, count: int, after: int, trees: int) -> Elements:
    """Return the sums over left and right children of each tree, shape (2, trees, 2)."""
    sides = (nodes[:count], nodes[count:after])
    return np.stack([np.bitwise_xor.reduce(s.reshape(-1, trees, 2), axis=0) for s in sides])


def _levels(dims: Plan) -> Iterator[tuple[int, int]]:
    """Yield the number of nodes before and after each level."""
    for level in range(dims.depth):
        yield 1 << level, min(2 << level, dims.leaves)


def _tree_keys() -> tuple[FixedKey, FixedKey]:
    return FixedKey(derive("tree", b"left")), FixedKey(derive("tree", b"right"))


@kernel
def _next(low: Any, high: Any) -> Any:
    """Return theta times an element."""
    step, rest = np.uint64(_STEP), np.uint64(64 - _STEP)
    over = high >> rest
    high = (high << step) | (low >> rest)
    low = (low << step) ^ over ^ (over << np.uint64(1)) ^ (over << np.uint64(2)) ^ (over << np.uint64(7))
    return low, high


@kernel
def _accumulate(vector: Any) -> None:
    low = high = np.uint64(0)
    for j in range(vector.shape[0]):
        low, high = _next(low, high)
        low ^= vector[j, 0]
        high ^= vector[j, 1]
        vector[j, 0], vector[j, 1] = low, high


@kernel
def _accumulate_both(vector: Any, places: Any, values: Any, out: Any) -> None:
    """Accumulate a vector and one that is zero but at some places, side by side: a cache line serves both."""
    low = high = low_e = high_e = np.uint64(0)
    following = 0
    for j in range(vector.shape[0]):
        low, high = _next(low, high)
        low_e, high_e = _next(low_e, high_e)
        low ^= vector[j, 0]
        high ^= vector[j, 1]
        if following < places.size and places[following] == j:
            low_e ^= values[following, 0]
            high_e ^= values[following, 1]
            following += 1
        out[j, 0], out[j, 1], out[j, 2], out[j, 3] = low, high, low_e, high_e


@kernel
def _expand(accumulated: Any, draws: Any, out: Any) -> None:
    length = np.uint64(accumulated.shape[0])
    for i in range(out.shape[0]):
        low = high = np.uint64(0)
        for k in range(WEIGHT):
            j = (np.uint64(draws[i, k]) * length) >> np.uint64(32)
            low ^= accumulated[j, 0]
            high ^= accumulated[j, 1]
        out[i, 0], out[i, 1] = low, high


@kernel
def _expand_both(accumulated: Any, draws: Any, out: Any, out_e: Any) -> None:
    length = np.uint64(accumulated.shape[0])
    for i in range(out.shape[0]):
        low = high = low_e = high_e = np.uint64(0)
        for k in range(WEIGHT):
            j = (np.uint64(draws[i, k]) * length) >> np.uint64(32)
            low ^= accumulated[j, 0]
            high ^= accumulated[j, 1]
            low_e ^= accumulated[j, 2]
            high_e ^= accumulated[j, 3]
        out[i, 0], out[i, 1] = low, high
        out_e[i, 0], out_e[i, 1] = low_e, high_e


def _aligned(count: int) -> NDArray[np.uint64]:
    """Return room for `count` pairs of elements, two to a cache line: fetching one never takes two lines."""
    words = np.empty(4 * count + 8, dtype=np.uint64)
    first = -(words.ctypes.data // 8) % 8
    return words[first : first + 4 * count].reshape(count, 4)


class _Rows:
    """The rows of H: WEIGHT numbers of 32 bits each, from a stream under the public seed."""

    def __init__(self, seed: bytes) -> None:
        self._key = derive("expander", seed)

    def draw(self, first: int, end: int) -> NDArray[np.uint32]:
        """Return the draws of rows first .. end - 1, shape (rows, WEIGHT)."""
        start, stop = WEIGHT * first // 4, -(-WEIGHT * end // 4)  # blocks of four draws
        stream = np.empty((stop - start, 2), dtype=np.uint64)
        keystream(self._key, start, stream)
        skipped = WEIGHT * first - 4 * start
        return stream.view(np.uint32).reshape(-1)[skipped:][: WEIGHT * (end - first)].reshape(-1, WEIGHT)


@kernel
def _combine(columns: Any, total: Any) -> None:
    """Horner's rule in x."""
    one = np.uint64(1)
    for j in range(total.shape[0]):
        low = high = np.uint64(0)
        for k in range(columns.shape[0] - 1, -1, -1):
            over = high >> np.uint64(63)
            high = (high << one) ^ (low >> np.uint64(63)) ^ columns[k, j, 1]
            low = (low << one) ^ (over * np.uint64(0x87)) ^ columns[k, j, 0]
        total[j, 0], total[j, 1] = low, high


def _short(streams: Bits) -> Elements:
    """Combine COUNT streams of elements to the sum of x^k stream_k, shape (elements, 2)."""
    columns = np.ascontiguousarray(streams).view(np.uint64).reshape(COUNT, -1, 2)
    total = np.empty((columns.shape[1], 2), dtype=np.uint64)
    _combine(columns, total)
    return total


class Answer(NamedTuple):
    """The Delta holder's message.

    Attributes
    ----------
    sums : ndarray of uint64, shape (depth, 2, trees, 2)
        Sums over the left and right children of each level, each under its transfer's pad.
    totals : ndarray of uint64, shape (trees, 2)
        Sum of the leaves of each tree, plus this party's share of the noise value times Delta.
    """

    sums: Elements
    totals: Elements


class DeltaHolder:
    """The party that gets Delta and B.

    Parameters
    ----------
    transfers : ExtendedSender
        Its Delta becomes the correlation's.
    dims : Plan
    rng : Rng

    Attributes
    ----------
    delta : ndarray of uint64, shape (1, 2)
    """

    def __init__(self, transfers: ExtendedSender, dims: Plan, rng: Rng) -> None:
        self._transfers, self._dims, self.delta = transfers, dims, transfers.delta
        nodes = np.empty((dims.leaves, dims.trees, 2), dtype=np.uint64)
        nodes[0] = np.frombuffer(rng.bytes(BLOCK * dims.trees), dtype="<u8").reshape(-1, 2)
        flat, keys, sums = nodes.reshape(-1, 2), _tree_keys(), []
        for count, after in _levels(dims):
            _double(flat, count * dims.trees, after * dims.trees, keys)
            sums.append(_sums(flat, count * dims.trees, after * dims.trees, dims.trees))
        self._leaves, self._sums = flat, np.stack(sums)

    def answer(self, message: Bits, run: int) -> Answer:
        """Return the message to the vector holder, given its own, shape (COUNT, extension_bytes)."""
        dims = self._dims
        streams, pads = self._transfers.extend(message, dims.trees * BLOCK, dims.transfers, run)
        masked = self._sums ^ pads.reshape(2, dims.depth, dims.trees, 2).swapaxes(0, 1)
        return Answer(masked, self._sums[-1, 0] ^ self._sums[-1, 1] ^ _short(streams))

    def accumulate(self, seed: bytes) -> None:
        """Prepare for :meth:`vector`; `seed` is public and the same on both sides."""
        _accumulate(self._leaves)
        self._rows = _Rows(seed)

    def vector(self, first: int, end: int) -> Elements:
        """Return B[first:end], shape (end - first, 2)."""
        out = np.empty((end - first, 2), dtype=np.uint64)

        def some(start: int, stop: int) -> None:
            for at in range(start, stop, _ROWS):
                to = min(at + _ROWS, stop)
                _expand(self._leaves, self._rows.draw(first + at, first + to), out[at:to])

        run(some, end - first, None if end - first >= _ROWS else 1)
        return out


class Noise(NamedTuple):
    """The noise vector e.

    Attributes
    ----------
    nodes : ndarray of int64, shape (trees,)
        The secret place in each group.
    values : ndarray of uint64, shape (trees, 2)
        Uniform elements.
    """

    nodes: NDArray[np.int64]
    values: Elements


class VectorHolder:
    """The party that gets A and C.

    Parameters
    ----------
    transfers : ExtendedReceiver
    dims : Plan
    rng : Rng
    run : int
        Number of this correlation under the same base transfers.

    Attributes
    ----------
    plan : Plan
    message : ndarray of uint8, shape (COUNT, extension_bytes)
        For the Delta holder.
    """

    def __init__(self, transfers: ExtendedReceiver, dims: Plan, rng: Rng, run: int) -> None:
        self.plan = self._dims = dims
        values = np.frombuffer(rng.bytes(BLOCK * dims.trees), dtype="<u8").reshape(-1, 2)
        self._noise = Noise(rng.residues(dims.leaves, dims.trees).astype(np.int64), values)
        self._path = (self._noise.nodes[None, :] >> np.arange(dims.depth)[:, None]) & 1
        other = (1 - self._path).astype(np.uint8).reshape(-1)  # the child whose siblings' sum is wanted
        self.message, streams, pads = transfers.extend(values.tobytes(), other, run)
        self._pads, self._shares = pads.reshape(dims.depth, dims.trees, 2), _short(streams)

    def finish(self, answer: Answer, seed: bytes) -> None:
        """Take the Delta holder's message and prepare for :meth:`vectors`."""
        dims, trees = self._dims, np.arange(self._dims.trees)
        nodes = np.empty((dims.leaves, dims.trees, 2), dtype=np.uint64)
        nodes[0] = 0
        hole = np.zeros(dims.trees, dtype=np.int64)
        flat, keys = nodes.reshape(-1, 2), _tree_keys()
        for level, (count, after) in enumerate(_levels(dims)):
            _double(flat, count * dims.trees, after * dims.trees, keys)
            path = self._path[level]
            paired = np.flatnonzero(hole + count < after)  # the others have no right child
            nodes[hole, trees] = 0
            nodes[hole[paired] + count, paired] = 0
            sums = _sums(flat, count * dims.trees, after * dims.trees, dims.trees)
            known = answer.sums[level, 1 - path, trees] ^ self._pads[level] ^ sums[1 - path, trees]
            siblings = hole + (1 - path) * count
            nodes[siblings[paired], paired] = known[paired]
            hole = hole + path * count
        total = np.bitwise_xor.reduce(nodes, axis=0)
        nodes[hole, trees] = total ^ answer.totals ^ self._shares
        self._interleave(flat, seed)

    def _interleave(self, leaves: Elements, seed: bytes) -> None:
        """Accumulate the leaves and the noise."""
        places = self._noise.nodes * self._dims.trees + np.arange(self._dims.trees)
        order = np.argsort(places)
        self._accumulated = _aligned(len(leaves))
        _accumulate_both(leaves, places[order], self._noise.values[order], self._accumulated)
        self._rows = _Rows(seed)

    def vectors(self, first: int, end: int) -> tuple[Elements, Elements]:
        """Return A[first:end] and C[first:end], shape (end - first, 2) each."""
        a, c = np.empty((2, end - first, 2), dtype=np.uint64)

        def some(start: int, stop: int) -> None:
            for at in range(start, stop, _ROWS):
                to = min(at + _ROWS, stop)
                _expand_both(self._accumulated, self._rows.draw(first + at, first + to), c[at:to], a[at:to])

        run(some, end - first, None if end - first >= _ROWS else 1)
        return a, c
