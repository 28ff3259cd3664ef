"""Sorted lists of pseudorandom tags in two bits less than their length plus what sorting saves.

A tag is `head_bits` high bits and 64 low bits of a pseudorandom block. A list of n tags in ascending order is sent as
the low halves and, for the high ones, for each value in turn as many ones as tags have it, then a zero (Elias,
"Efficient Storage and Retrieval by Content and Address of Static Files", 1974): 64 + 2 bits a tag instead of
64 + log2 n. The ascending order of pseudorandom tags says nothing about whose they are.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.gf128 import SHARED, Elements
from vfl.crypto.lattice.ntt import kernel
from vfl.crypto.threads import run

__all__ = ["TagList", "find", "head_bits", "head_bytes", "parse_heads", "sort_tags"]


def head_bits(tags: int) -> int:
    """Return the number of high bits that make buckets of one to two tags."""
    return tags.bit_length() - 1


def head_bytes(tags: int) -> int:
    """Return the bytes that the high bits of so many tags take."""
    return -(-(tags + (1 << head_bits(tags))) // 8)


class TagList(NamedTuple):
    """A sorted list.

    Attributes
    ----------
    heads : ndarray of uint8, shape (head_bytes,)
        The high bits, packed, least significant bit first.
    lows : ndarray of uint64, shape (tags,)
    order : ndarray of int64, shape (tags,)
        Which tag stands where.
    """

    heads: NDArray[np.uint8]
    lows: NDArray[np.uint64]
    order: NDArray[np.int64]


@kernel
def _sort(blocks: Any, shift: Any, ends: Any, lows: Any, order: Any) -> Any:
    """Sort by counting the high bits, then by insertion; return whether all tags differ."""
    for i in range(blocks.shape[0]):
        ends[(blocks[i, 1] >> shift) + np.uint64(1)] += 1
    for bucket in range(1, ends.size):
        ends[bucket] += ends[bucket - 1]
    filled = ends.copy()
    different = True
    for i in range(blocks.shape[0]):
        bucket, low = blocks[i, 1] >> shift, blocks[i, 0]
        at = filled[bucket]
        filled[bucket] = at + 1
        while at > ends[bucket] and lows[at - 1] >= low:
            different = different and lows[at - 1] != low
            lows[at], order[at] = lows[at - 1], order[at - 1]
            at -= 1
        lows[at], order[at] = low, i
    return different


def sort_tags(blocks: Elements) -> TagList | None:
    """Return the tags of pseudorandom blocks, shape (n, 2), as a sorted list; None if two are equal."""
    bits = head_bits(len(blocks))
    ends = np.zeros((1 << bits) + 1, dtype=np.int64)
    lows, order = np.empty(len(blocks), dtype=np.uint64), np.empty(len(blocks), dtype=np.int64)
    if not _sort(blocks, np.uint64(64 - bits), ends, lows, order):
        return None
    marks = np.ones(len(blocks) + (1 << bits), dtype=np.uint8)
    marks[ends[1:] + np.arange(1 << bits)] = 0
    return TagList(np.packbits(marks, bitorder="little"), lows, order)


def parse_heads(heads: NDArray[np.uint8], tags: int) -> NDArray[np.int64] | None:
    """Return where the tags of each bucket end, after a leading 0, or None if these are no such heads."""
    buckets = 1 << head_bits(tags)
    marks = np.unpackbits(heads, bitorder="little")
    zeros = np.flatnonzero(marks[: tags + buckets] == 0)
    if len(zeros) != buckets or marks[tags + buckets :].any() or zeros[-1] != tags + buckets - 1:
        return None
    ends = np.zeros(buckets + 1, dtype=np.int64)
    ends[1:] = zeros - np.arange(buckets)
    return ends


@kernel
def _ascending(lows: Any, ends: Any) -> Any:
    for bucket in range(ends.size - 1):
        for at in range(ends[bucket] + 1, ends[bucket + 1]):
            if lows[at] <= lows[at - 1]:
                return False
    return True


@kernel
def _find(blocks: Any, shift: Any, ends: Any, lows: Any, found: Any) -> None:
    for i in range(blocks.shape[0]):
        bucket = blocks[i, 1] >> shift
        found[i] = -1
        for at in range(ends[bucket], ends[bucket + np.uint64(1)]):
            if lows[at] == blocks[i, 0]:
                found[i] = at


def find(blocks: Elements, ends: NDArray[np.int64], lows: NDArray[np.uint64]) -> NDArray[np.int64] | None:
    """Return where each of own blocks' tags stands in a received list, -1 if nowhere.

    Returns
    -------
    ndarray of int64, shape (n,), or None
        None if the list does not ascend strictly.
    """
    if not _ascending(lows, ends):
        return None
    found = np.empty(len(blocks), dtype=np.int64)
    shift = np.uint64(64 - head_bits(len(lows)))
    threads = None if len(blocks) >= SHARED else 1
    run(
        lambda first, end: _find(blocks[first:end], shift, ends, lows, found[first:end]), len(blocks), threads
    )
    return found
