"""Alignment of tables: every kind of table, the policies, and a split that both sides make alike."""

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import vfl
from vfl.datasets import german_credit
from vfl.errors import AlignmentError, ConfigMismatch, DuplicateIds, InvalidData, InvalidIds


def both(left: Any, right: Any, **options: Any) -> vfl.Simulation:
    return vfl.simulate(
        bank=lambda: vfl.align(left, on="id", **options), shop=lambda: vfl.align(right, on="id", **options)
    )


LEFT = {"id": [f"c{i}" for i in range(40)], "a": list(range(40))}
IDS = pd.DataFrame({"id": [f"c{i}" for i in range(50)]})
RIGHT = {"id": [f"c{i}" for i in range(59, 19, -1)], "b": [float(i) for i in range(59, 19, -1)]}


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame, pa.table])
def test_rows_match_and_the_kind_of_table_is_kept(kind: Any) -> None:
    result = both(kind(LEFT), kind(RIGHT))
    left, right = result["bank"], result["shop"]
    assert type(left) is type(kind(LEFT))
    assert list(left["id"]) == list(right["id"])
    assert sorted(str(i) for i in left["id"]) == sorted(f"c{i}" for i in range(20, 40))


def test_kinds_may_differ_between_the_parties() -> None:
    result = both(pd.DataFrame(LEFT), pl.DataFrame(RIGHT))
    assert list(result["bank"]["id"]) == result["shop"]["id"].to_list()


def test_numpy() -> None:
    left = np.array([[1, 10], [2, 20], [3, 30]])
    result = vfl.simulate(bank=lambda: vfl.align(left, on="x0"), shop=lambda: vfl.align(left[::-1], on="x0"))
    assert np.array_equal(result["bank"], result["shop"])
    assert sorted(result["bank"][:, 1]) == [10, 20, 30]


def test_column_names_may_differ() -> None:
    result = vfl.simulate(
        bank=lambda: vfl.align(pd.DataFrame({"phone": ["0151 1", "0151 2"]}), on="phone"),
        shop=lambda: vfl.align(pd.DataFrame({"number": ["0151 2", "0151 3"]}), on="number"),
    )
    assert list(result["shop"]["number"]) == ["0151 2"]


def test_messy_phone_numbers_of_the_credit_data_all_match() -> None:
    parties = german_credit()
    result = vfl.simulate(
        bank=lambda: vfl.align(parties.bank, on="phone", normalise="phone:DE"),
        shop=lambda: vfl.align(parties.retailer, on="phone", normalise="phone:DE"),
    )
    truth = parties.common
    expected = sorted(parties.bank["phone"][row] for row in truth[:, 0].tolist())
    assert sorted(result["bank"]["phone"].to_list()) == expected


def test_other_recipes_are_a_mismatch_that_names_them() -> None:
    with pytest.raises(ConfigMismatch, match="recipe"):
        vfl.simulate(
            bank=lambda: vfl.align(pd.DataFrame(LEFT), on="id"),
            shop=lambda: vfl.align(pd.DataFrame(RIGHT), on="id", normalise="casefold"),
        )


def test_duplicates_and_nulls_need_a_declared_policy() -> None:
    repeated = pd.DataFrame({"id": ["a", "b", "b", "c", None], "v": range(5)})
    with pytest.raises(InvalidIds, match="1 identifiers are empty"):
        both(repeated, repeated)
    with pytest.raises(DuplicateIds, match="bank"):
        both(repeated, pd.DataFrame(LEFT), nulls="drop")
    result = both(repeated, repeated, nulls="drop", duplicates="first")
    assert sorted(result["bank"]["v"]) == [0, 1, 3]
    assert "1 rows without an identifier and 1 with a repeated one" in result.sessions["bank"].facts.notes[0]


def test_an_error_of_one_side_leaves_nothing_sent() -> None:
    transcripts: list[Any] = []

    def guest() -> None:
        transcripts.append(vfl.current().tally)
        vfl.align(pd.DataFrame({"id": [1.5, 2.5]}), on="id")

    with pytest.raises(InvalidIds):
        vfl.simulate(bank=guest, shop=lambda: vfl.align(pd.DataFrame(LEFT), on="id"))
    assert not any(kind.startswith("psi") for kind in transcripts[0].by_kind())


def test_minimum_intersection() -> None:
    with pytest.raises(AlignmentError, match="20 common customers, at least 21"):
        vfl.simulate(
            bank=lambda: vfl.align(pd.DataFrame(LEFT), on="id"),
            shop=lambda: vfl.align(pd.DataFrame(RIGHT), on="id"),
            minimum_intersection=21,
        )


def test_facts_for_the_report() -> None:
    alignment = both(pd.DataFrame(LEFT), pd.DataFrame(RIGHT)).sessions["bank"].facts.alignment
    assert alignment is not None
    assert (alignment.own_rows, alignment.peer_bucket, alignment.common_rows) == (40, 64, 20)


def test_split_is_the_same_on_both_sides_and_in_every_run() -> None:
    def act(table: Any) -> Any:
        return vfl.train_test_split(vfl.align(table, on="id"), on="id", test_size=0.25)

    tests = []
    for _ in range(2):
        result = vfl.simulate(bank=lambda: act(pd.DataFrame(LEFT)), shop=lambda: act(pl.DataFrame(RIGHT)))
        for mine, theirs in zip(result["bank"], result["shop"], strict=True):
            assert list(mine["id"]) == theirs["id"].to_list()
        train, test = result["bank"]
        assert sorted([*train["id"], *test["id"]]) == sorted(f"c{i}" for i in range(20, 40))
        tests.append(set(test["id"]))
    assert tests[0] == tests[1]


def split(size: float = 0.5, salt: str = "", rows: Any = IDS) -> Any:
    return vfl.train_test_split(rows, on="id", test_size=size, salt=salt)


@pytest.mark.parametrize("other", [{"size": 0.4}, {"salt": "x"}, {"rows": IDS[:40]}, {"rows": IDS[::-1]}])
def test_split_refuses_whatever_differs(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigMismatch, match=r"test_size|salt|rows|held out"):
        vfl.simulate(bank=split, shop=lambda: split(**other))


@pytest.mark.parametrize("size", [1e-9, 1.0])
def test_split_refuses_an_empty_part(size: float) -> None:
    with pytest.raises(InvalidData, match="test_size"):
        vfl.simulate(bank=lambda: split(size), shop=lambda: split(size))
