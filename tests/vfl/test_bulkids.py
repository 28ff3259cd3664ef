"""The fast way to identifiers agrees with the slow one, or leaves the case to it."""

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support import DeterministicRng
from vfl.bulkids import all_different, packed_ids
from vfl.crypto.digests import pack
from vfl.identifiers import prepare_ids
from vfl.tables import Table

TEXTS = st.lists(
    st.text(max_size=12) | st.from_regex(r"[0-9.eE+, n]{1,6}", fullmatch=True), min_size=1, max_size=6
)


def keys(table: Table) -> list[bytes] | None:
    column = packed_ids(table, "id", "bank")
    return None if column is None else [column[i] for i in range(len(column))]


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_whatever_it_takes_it_takes_as_the_slow_way_does(texts: list[str]) -> None:
    table = pl.DataFrame({"id": texts}, schema={"id": pl.String})
    fast = keys(table)
    if fast is not None:
        slow = prepare_ids(table, "id", duplicates="first", party="bank")
        assert sorted(set(fast)) == sorted(slow.keys)
        assert fast == [text.encode() for text in texts]


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.uint64])
def test_integers(dtype: type) -> None:
    values: NDArray[Any] = np.array([0, 7, 100, 255], dtype=dtype)
    for table in (pl.DataFrame({"id": values}), pd.DataFrame({"id": values})):
        assert keys(table) == prepare_ids(table, "id", party="bank").keys == [b"0", b"7", b"100", b"255"]


def test_plain_text_is_taken() -> None:
    texts = ["K-1", "a b", "4915112345678", "Nadia", "x.y@z.org", "1-2", "007", "e5x", "nil-1"]
    assert keys(pl.DataFrame({"id": texts})) == [text.encode() for text in texts]


@pytest.mark.parametrize(
    "odd",
    [
        "",
        " x",
        "x ",
        "\tx",
        "x\n",
        "é",
        "e\u0301",
        "nan",
        "NaN",
        "None",
        "<NA>",
        "NaT",
        "1.0",
        "4.9e+12",
        "1,5",
        "1E5",
    ],
)
def test_what_needs_a_second_look_is_left_to_the_slow_way(odd: str) -> None:
    assert keys(pl.DataFrame({"id": ["K-1", odd]})) is None


@pytest.mark.parametrize(
    "values",
    [[1, None], ["a", None], [1.5], [True], [2**63], []],
    ids=["null", "no text", "float", "bool", "large", "none"],
)
def test_other_columns_too(values: list[object]) -> None:
    dtype = pl.UInt64 if values == [2**63] else None
    assert keys(pl.DataFrame({"id": pl.Series(values, dtype=dtype)})) is None


def test_long_texts_and_arrays_too() -> None:
    assert keys(pl.DataFrame({"id": ["x" * 1025]})) is None
    assert keys(pl.DataFrame({"id": ["x" * 1024]})) is not None
    assert packed_ids(np.zeros((3, 1)), "x0", "bank") is None


def test_repetitions_are_found() -> None:
    texts = [str(n).encode() for n in range(5000)]
    assert all_different(pack(texts), DeterministicRng(1))
    for place in (0, 2500, 4999):
        assert not all_different(pack([*texts, texts[place]]), DeterministicRng(1))
    assert all_different(pack([]), DeterministicRng(1))
