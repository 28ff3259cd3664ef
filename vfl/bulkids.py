"""Identifiers of a whole column at a time, where nothing about them needs a second look.

:func:`packed_ids` gives the same keys as :func:`vfl.identifiers.prepare_ids` a hundred times as fast, or None where it
cannot: then the slow way finds out what is wrong, or normalises what needs it. It serves one column of integers or of
plain ASCII text under the recipe "exact", without nulls or anything to trim. Repetitions are the caller's business.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from vfl.crypto.digests import Packed, decimal, digests
from vfl.crypto.lattice.ntt import kernel
from vfl.crypto.rng import Rng
from vfl.recipes import LONGEST
from vfl.tables import Table, as_frame

if TYPE_CHECKING:
    import polars

__all__ = ["all_different", "packed_ids", "packed_text"]


@kernel
def _suspicious(data: Any, first: Any, end: Any) -> Any:
    """Tell whether a string could be empty, a null in words, a float, or not plain ASCII without outer spaces."""
    if end - first < 1 or end - first > LONGEST or data[first] == 32 or data[end - 1] == 32:
        return True
    numeric, marks = True, False
    for at in range(first, end):
        c = data[at]
        if c < 32 or c > 126:
            return True
        mark = c == 43 or c == 44 or c == 46 or c == 69 or c == 101  # + , . E e
        numeric = numeric and (mark or 48 <= c <= 57)
        marks = marks or mark
    # nan, NaN, NaT, None and <NA> begin with n, N or <; floats consist of digits and marks
    begin = data[first]
    return (numeric and marks) or (end - first <= 4 and (begin == 110 or begin == 78 or begin == 60))


@kernel
def _plain(data: Any, ends: Any) -> Any:
    good = True
    for i in range(ends.size - 1):
        good = good and not _suspicious(data, ends[i], ends[i + 1])
    return good


@kernel
def _all_different(blocks: Any, table: Any) -> Any:
    """Put the low halves of digests into a table with open addressing; its length is a power of two."""
    mask = np.uint64(table.size - 1)
    for i in range(blocks.shape[0]):
        low = blocks[i, 0] | np.uint64(1)  # zero marks a free place
        at = blocks[i, 1] & mask
        while table[at] != 0:
            if table[at] == low:
                return False
            at = (at + np.uint64(1)) & mask
        table[at] = low
    return True


def packed_ids(table: Table, on: str, party: str) -> Packed | None:
    """Return the identifiers of a column in the order of the rows, or None where this is no case for the fast way.

    Parameters
    ----------
    table : table
        Has the column.
    on : str
        Its name.
    party : str
        For error texts.
    """
    if isinstance(table, np.ndarray):
        return None
    series = as_frame(table, party)[on].to_polars()
    if not len(series) or series.null_count():
        return None
    if series.dtype.is_integer():
        if series.dtype.is_unsigned_integer() and series.max() > np.iinfo(np.int64).max:  # type: ignore[operator]
            return None
        return decimal(series.to_numpy().astype(np.int64))
    if str(series.dtype) != "String":
        return None
    packed = packed_text(series)
    return packed if _plain(packed.data, packed.ends) else None


def packed_text(series: "polars.Series") -> Packed:
    """Return a polars column of text without nulls as bytes in UTF-8."""
    ends = np.zeros(len(series) + 1, dtype=np.int64)
    np.cumsum(series.str.len_bytes().to_numpy(), out=ends[1:])
    data = np.frombuffer(series.str.join("").item().encode(), dtype=np.uint8)
    return Packed(data, ends)


def all_different(column: Packed, rng: Rng) -> bool:
    """Tell whether no string stands twice in a column.

    Parameters
    ----------
    column : Packed
    rng : Rng
        Of the key of the digests that are compared; two different strings of 10^8 look alike with probability 2^-10.
    """
    size = 1 << (2 * len(column)).bit_length()
    return bool(_all_different(digests(column, rng.bytes(16)), np.zeros(size, dtype=np.uint64)))
