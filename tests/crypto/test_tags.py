"""Sorted lists of tags: what is sent, what is found, what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import DeterministicRng
from vfl.crypto.gf128 import Elements
from vfl.crypto.tags import find, head_bits, head_bytes, parse_heads, sort_tags


def blocks(count: int, seed: int = 1) -> Elements:
    return np.frombuffer(DeterministicRng(seed).bytes(16 * count), dtype="<u8").reshape(-1, 2).copy()


def shortened(rows: Elements) -> list[tuple[int, int]]:
    bits = head_bits(len(rows))
    return [(int(high) >> 64 - bits, int(low)) for low, high in rows]


@settings(max_examples=60, deadline=None)
@given(st.integers(64, 900), st.integers(0, 5))
def test_order_is_that_of_the_tags(count: int, seed: int) -> None:
    rows = blocks(count, seed)
    listed = sort_tags(rows)
    assert listed is not None
    keys = shortened(rows)
    assert [keys[i] for i in listed.order] == sorted(keys)
    assert listed.lows.tolist() == [low for _, low in sorted(keys)]
    assert len(listed.heads) == head_bytes(count)
    ends = parse_heads(listed.heads, count)
    assert ends is not None
    assert np.array_equal(np.diff(ends), np.bincount([h for h, _ in keys], minlength=1 << head_bits(count)))


def test_finds_what_both_have_and_nothing_else() -> None:
    theirs = blocks(3000)
    mine = np.concatenate([blocks(500, 2), theirs[1000:2000], blocks(10, 3)])
    listed = sort_tags(theirs)
    assert listed is not None
    ends = parse_heads(listed.heads, 3000)
    assert ends is not None
    found = find(mine, ends, listed.lows)
    assert found is not None
    assert np.array_equal(found >= 0, np.isin(np.arange(1510), np.arange(500, 1500)))
    assert np.array_equal(listed.order[found[500:1500]], np.arange(1000, 2000))


def test_the_low_half_alone_does_not_match() -> None:
    theirs = blocks(3000)
    mine = theirs[:50].copy()
    mine[:, 1] ^= np.uint64(1 << 63)
    listed = sort_tags(theirs)
    assert listed is not None
    ends = parse_heads(listed.heads, 3000)
    assert ends is not None
    found = find(mine, ends, listed.lows)
    assert found is not None
    assert (found == -1).all()


def test_a_repeated_tag_is_noticed() -> None:
    rows = blocks(100)
    rows[70] = rows[20]
    assert sort_tags(rows) is None


@pytest.mark.parametrize("damage", ["one more one", "one less", "beyond the end", "last is a one"])
def test_damaged_heads_are_refused(damage: str) -> None:
    listed = sort_tags(blocks(100))
    assert listed is not None
    marks = np.unpackbits(listed.heads, bitorder="little")
    total = 100 + 64
    if damage == "one more one":
        marks[np.flatnonzero(marks[:total] == 0)[5]] = 1
    elif damage == "one less":
        marks[np.flatnonzero(marks)[5]] = 0
    elif damage == "beyond the end":
        marks[total] = 1
    else:
        marks[[total - 1, np.flatnonzero(marks)[5]]] = [1, 0]
    assert parse_heads(np.packbits(marks, bitorder="little"), 100) is None


def test_a_list_that_does_not_ascend_is_refused() -> None:
    rows = blocks(1000)
    listed = sort_tags(rows)
    assert listed is not None
    ends = parse_heads(listed.heads, 1000)
    assert ends is not None
    full = int(np.flatnonzero(np.diff(ends) > 1)[0])
    lows = listed.lows.copy()
    lows[ends[full]], lows[ends[full] + 1] = lows[ends[full] + 1], lows[ends[full]]
    assert find(rows, ends, lows) is None
    lows[ends[full]] = lows[ends[full] + 1]
    assert find(rows, ends, lows) is None
