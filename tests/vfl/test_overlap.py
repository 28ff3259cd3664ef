"""Every mode of intersection gives what a pooled join gives, on messy lists and under every policy."""

import datetime as dt
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

import vfl
from tests.messy import customers, pairs, reduced, shared_data
from vfl.errors import (
    AlignmentError,
    ConfigError,
    ConfigMismatch,
    InvalidData,
    InvalidIds,
    LocalProtocolError,
    PolicyRefused,
    SchemaMismatch,
)
from vfl.protocols.wire import Leakage

BANK = customers([*range(300), *range(0, 40), *range(0, 15)], 1, "a", missing=0.05)
SHOP = customers([*range(200, 460), *range(210, 225), *range(0, 30)], 2, "b", missing=0.05)
RECIPE = {"email": "email", "phone": "phone:DE"}
POLICIES = ("first", "last", "drop", "all")


def both(call: Callable[..., Any], bank: Any = BANK, shop: Any = SHOP, **options: Any) -> vfl.Simulation:
    """Run one function at both parties, with options of their own under `bank_` and `shop_`."""
    simulated = {
        name: options.pop(name) for name in ("accept_leakage", "minimum_intersection") if name in options
    }
    common = {name: value for name, value in options.items() if not name.startswith(("bank_", "shop_"))}
    own = {
        side: common | {name[5:]: value for name, value in options.items() if name.startswith(f"{side}_")}
        for side in ("bank", "shop")
    }
    return vfl.simulate(
        bank=lambda: call(bank, **own["bank"]), shop=lambda: call(shop, **own["shop"]), **simulated
    )


def joined(key: str, one: str, two: str) -> pl.DataFrame:
    """The pooled join on the truth, of the rows that have the key."""
    left = reduced(BANK.drop_nulls(key), "person", one)
    return left.join(reduced(SHOP.drop_nulls(key), "person", two), on="person", suffix="_shop")


def expected(key: str, one: str, two: str) -> list[tuple[int, int]]:
    return sorted(joined(key, one, two).select("a", "b").iter_rows())


class TestAlign:
    @pytest.mark.parametrize("key", ["email", "phone"])
    @pytest.mark.parametrize("protocol", ["dh", "fast", "auto"])
    def test_each_protocol_gives_the_pooled_join(self, key: str, protocol: str) -> None:
        options = {"on": key, "normalise": RECIPE[key], "nulls": "drop", "duplicates": "first"}
        result = both(vfl.align, protocol=protocol, **options)
        assert pairs(result["bank"], result["shop"], "a", "b") == expected(key, "first", "first")

    @pytest.mark.parametrize("one", POLICIES)
    @pytest.mark.parametrize("two", POLICIES)
    def test_each_pair_of_policies_gives_the_pooled_join(self, one: str, two: str) -> None:
        options = {"on": "email", "normalise": "email", "nulls": "drop"}
        result = both(vfl.align, bank_duplicates=one, shop_duplicates=two, **options)
        assert pairs(result["bank"], result["shop"], "a", "b") == expected("email", one, two)
        assert result["bank"]["person"].to_list() == result["shop"]["person"].to_list()
        shown = result.transcript.by_kind()
        assert ("psi.multiplicities" in shown) == ("all" in (one, two))

    def test_rows_are_counted_for_the_report(self) -> None:
        result = both(vfl.align, on="email", normalise="email", nulls="drop", duplicates="all")
        facts = result.sessions["bank"].facts.alignment
        assert facts is not None
        assert facts.common_rows == len(expected("email", "all", "all"))
        assert facts.own_rows == len(BANK)

    @pytest.mark.parametrize("learns", ["guest", "host"])
    def test_one_side_learns(self, learns: str) -> None:
        options = {"on": "phone", "normalise": "phone:DE", "nulls": "drop", "duplicates": "first"}
        result = both(vfl.align, learns=learns, **options)
        knows, other = ("bank", "shop") if learns == "guest" else ("shop", "bank")
        assert result[other] is None
        column = "a" if learns == "guest" else "b"
        index = 0 if learns == "guest" else 1
        assert sorted(result[knows][column].to_list()) == sorted(
            row[index] for row in expected("phone", "first", "first")
        )
        assert Leakage.INTERSECTION not in {record.leakage for record in result.view(other)}

    def test_composite_keys(self) -> None:
        options = {"on": ["email", "phone"], "normalise": ["email", "phone:DE"], "nulls": "drop"}
        result = both(vfl.align, duplicates="first", **options)
        have = [table.drop_nulls(["email", "phone"]) for table in (BANK, SHOP)]
        truth = reduced(have[0], "person", "first").join(reduced(have[1], "person", "first"), on="person")
        assert sorted(result["bank"]["person"].to_list()) == sorted(truth["person"].to_list())

    def test_several_identifiers_in_order(self) -> None:
        bank = customers(list(range(200)), 3, "a", missing=0.2)
        shop = customers(list(range(100, 320)), 4, "b", missing=0.2)
        options = {"on": "email", "normalise": "email", "nulls": "drop"}
        fallback = [vfl.Key("phone", "phone:DE")]
        result = both(vfl.align, bank, shop, fallback=fallback, **options)
        left = dict(zip(bank["person"], bank.select("email", "phone").iter_rows(), strict=True))
        right = dict(zip(shop["person"], shop.select("email", "phone").iter_rows(), strict=True))
        truth = {
            person
            for person in left.keys() & right.keys()
            if any(x is not None and y is not None for x, y in zip(left[person], right[person], strict=True))
        }
        assert set(result["bank"]["person"].to_list()) == truth
        assert result["bank"]["person"].to_list() == result["shop"]["person"].to_list()
        alone = both(vfl.align, bank, shop, **options)
        assert len(alone["bank"]) < len(truth)

    def test_a_row_needs_one_of_the_identifiers(self) -> None:
        table = pl.DataFrame({"email": ["a@b.de", None, None], "phone": [None, "0151 2000001", None]})
        with pytest.raises(InvalidIds, match="1 rows have none of the identifiers"):
            both(
                vfl.align,
                table,
                table,
                on="email",
                normalise="email",
                fallback=[vfl.Key("phone", "phone:DE")],
            )

    def test_nothing_left_for_the_fallback(self) -> None:
        table = pl.DataFrame({"email": ["a@b.de", "c@d.de"], "phone": ["0151 2000001", "0151 2000002"]})
        result = both(
            vfl.align, table, table, on="email", normalise="email", fallback=[vfl.Key("phone", "phone:DE")]
        )
        assert sorted(result["bank"]["email"].to_list()) == ["a@b.de", "c@d.de"]

    def test_one_side_learning_does_not_go_with_everything(self) -> None:
        with pytest.raises(ConfigError, match="without fallback"):
            both(vfl.align, on="email", learns="guest", protocol="fast")
        with pytest.raises(ConfigError, match="learns is 'nobody'"):
            both(vfl.align, on="email", learns="nobody")

    def test_the_reason_for_the_protocol_is_in_the_report(self) -> None:
        result = both(vfl.align, on="email", normalise="email", nulls="drop", duplicates="first")
        for session in result.sessions.values():
            said = session.facts.parameters["intersection protocol"]
            assert re.match(
                r"dh: 288 and 288 padded identifiers over a \w+ link: about 0\.\d+ s by dh and", said
            )


class TestDamage:
    def test_zeros_lost_at_one_site(self) -> None:
        numbers = [f"{i:06d}" for i in range(5, 3000, 7)]
        full, short = pl.DataFrame({"id": numbers}), pl.DataFrame({"id": [int(n) for n in numbers]})
        for bank, shop, loser in ((full, short, "shop"), (short, full, "bank")):
            with pytest.raises(InvalidIds, match=f"^{loser}: .*lost the zeros; read the column as text"):
                both(vfl.align, bank, shop, on="id")
        assert len(both(vfl.align, full, full, on="id")["bank"]) == len(numbers)
        assert len(both(vfl.align, short, short, on="id")["bank"]) == len(numbers)

    def test_zeros_lost_from_numbers_of_many_lengths(self) -> None:
        numbers = [("00" if i % 50 == 0 else "") + str(i) for i in range(10, 2000)]
        full, short = pl.DataFrame({"id": numbers}), pl.DataFrame({"id": [str(int(n)) for n in numbers]})
        for bank, shop, loser in ((full, short, "shop"), (short, full, "bank")):
            with pytest.raises(InvalidIds, match=rf"^{loser}: .*lost the zeros"):
                both(vfl.align, bank, shop, on="id")

    def test_few_numbers_without_zeros_are_no_damage(self) -> None:
        """One in fifty begins with a zero: that none of 650 does is no proof."""
        numbers = [("00" if i % 50 == 0 else "") + str(i) for i in range(10, 2000)]
        some = [number for number in numbers if number[0] != "0"][::3]
        result = both(vfl.align, pl.DataFrame({"id": numbers}), pl.DataFrame({"id": some}), on="id")
        assert sorted(result["bank"]["id"].to_list()) == sorted(some)

    def test_zeros_lost_in_one_column_of_several(self) -> None:
        codes, names = [f"{i:05d}" for i in range(1000, 90_000, 111)], ["anna", "bert", "carl"] * 268
        full = pl.DataFrame({"code": codes, "name": names[: len(codes)]})
        short = full.with_columns(pl.col("code").cast(pl.Int64))
        options = {"on": ["code", "name"], "normalise": ["exact", "name"]}
        with pytest.raises(InvalidIds, match=r"^shop: .*lost the zeros"):
            both(vfl.align, full, short, **options)
        assert len(both(vfl.align, full, full, **options)["bank"]) == len(codes)

    def test_zeros_lost_at_one_of_several_hosts(self) -> None:
        full = pl.DataFrame({"id": [f"{i:06d}" for i in range(5, 3000, 7)]})
        short = full.with_columns(pl.col("id").cast(pl.Int64))
        acts: dict[str, Any] = {
            name: lambda table=table: vfl.align(table, on="id")
            for name, table in (("bank", full), ("shop", full), ("telco", short))
        }
        with pytest.raises(InvalidIds, match=r"^telco: .*lost the zeros"):
            vfl.simulate(**acts)

    @pytest.mark.parametrize(
        ("column", "text"),
        [
            ([1.0, 2.0], "holds floats"),
            (["12.0", "13.0"], "decimal point or exponent"),
            (["4.9E+12"], "decimal point or exponent"),
        ],
    )
    def test_floats(self, column: list[Any], text: str) -> None:
        with pytest.raises(InvalidIds, match=text):
            both(vfl.align, pl.DataFrame({"id": column}), pl.DataFrame({"id": ["1"]}), on="id")

    def test_mixed_types(self) -> None:
        with pytest.raises(InvalidIds, match="mixes integers and text"):
            both(vfl.align, pd.DataFrame({"id": ["a", 1]}), pd.DataFrame({"id": ["a"]}), on="id")

    def test_unicode_forms_meet(self) -> None:
        one, two = pl.DataFrame({"id": ["Jos\u00e9"]}), pl.DataFrame({"id": ["Jose\u0301"]})
        assert len(both(vfl.align, one, two, on="id")["bank"]) == 1


class TestCount:
    @pytest.mark.parametrize("learns", ["guest", "host"])
    @pytest.mark.parametrize("policy", ["first", "drop"])
    def test_is_that_of_the_pooled_join(self, learns: str, policy: str) -> None:
        options = {"on": "email", "normalise": "email", "nulls": "drop", "duplicates": policy}
        result = both(vfl.intersection_size, learns=learns, **options)
        knows, other = ("bank", "shop") if learns == "guest" else ("shop", "bank")
        assert result[knows] == len(expected("email", policy, policy))
        assert result[other] is None

    def test_parties_must_agree_on_who_learns(self) -> None:
        with pytest.raises(ConfigMismatch, match="learns"):
            both(
                vfl.intersection_size,
                on="person",
                duplicates="first",
                bank_learns="guest",
                shop_learns="host",
            )

    def test_small_numbers_are_not_told(self) -> None:
        with pytest.raises(AlignmentError, match="fewer than 400"):
            both(vfl.intersection_size, on="person", duplicates="first", minimum_intersection=400)

    def test_every_row_is_no_policy_here(self) -> None:
        with pytest.raises(ConfigError, match=r'duplicates="all" is for vfl\.align'):
            both(vfl.intersection_size, on="person", duplicates="all")


class TestSum:
    @pytest.mark.parametrize("owner", ["guest", "host"])
    def test_is_that_of_the_pooled_join(self, owner: str) -> None:
        options = {
            "on": "email",
            "normalise": "email",
            "nulls": "drop",
            "duplicates": "first",
            "owner": owner,
        }
        bank = BANK.with_columns(amount=pl.col("a") * -1.25)
        shop = SHOP.with_columns(amount=pl.col("b") * 0.37, visits=pl.col("b") % 7)
        columns = {"guest": "bank", "host": "shop"}
        named = ["amount"] if owner == "guest" else ["amount", "visits"]
        result = both(vfl.intersection_sum, bank, shop, **{f"{columns[owner]}_columns": named}, **options)
        truth = joined("email", "first", "first")
        if owner == "guest":
            totals = {"amount": float((truth["a"] * -1.25).sum())}
        else:
            totals = {"amount": float((truth["b"] * 0.37).sum()), "visits": float((truth["b"] % 7).sum())}
        owning = columns[owner]
        assert result[owning]["rows"] == len(truth)
        for name, total in totals.items():
            assert result[owning][name] == pytest.approx(total, abs=len(truth) * 2**-20)
        other = "shop" if owning == "bank" else "bank"
        assert result[other] == {"rows": float(len(truth))}

    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({}, ConfigError, "columns are named by the owner"),
            ({"bank_columns": ["a"], "shop_columns": ["b"]}, ConfigError, "columns are named by the owner"),
            ({"shop_columns": ["no"]}, SchemaMismatch, "no column 'no'"),
            ({"shop_columns": ["email"]}, InvalidData, "not numbers"),
        ],
    )
    def test_mistakes(self, options: dict[str, Any], error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            both(vfl.intersection_sum, on="person", duplicates="first", owner="host", **options)

    def test_values_that_are_too_large(self) -> None:
        shop = SHOP.with_columns(huge=pl.lit(2.0**36))
        with pytest.raises(InvalidData, match=r"2\^38"):
            both(
                vfl.intersection_sum, BANK, shop, on="person", duplicates="first", owner="host",
                shop_columns=["huge"],
            )  # fmt: skip


class TestEnrich:
    def test_brings_every_kind_of_column(self) -> None:
        shop = SHOP.with_columns(
            amount=pl.col("b") * 0.5,
            member=pl.col("b") % 2 == 0,
            since=pl.date(2020, 1, 1) + pl.duration(days=pl.col("b")),
            town=pl.when(pl.col("b") % 5 == 0).then(None).otherwise(pl.format("Üb{}", pl.col("b"))),
        )
        names = ["b", "amount", "member", "since", "town"]
        result = both(
            vfl.enrich, BANK, shop, on="email", normalise="email", nulls="drop", duplicates="first",
            shop_columns=names, accept_leakage=["payload"],
        )  # fmt: skip
        truth = joined("email", "first", "first").select("a", "person")
        rows = shop.unique("b").select(names).rows_by_key("b", unique=True, include_key=False)
        enriched = result["bank"]
        assert result["shop"] is None
        assert sorted(enriched["a"].to_list()) == sorted(truth["a"].to_list())
        assert pairs(enriched, enriched, "a", "b") == expected("email", "first", "first")
        for row in enriched.iter_rows(named=True):
            assert tuple(row[name] for name in names[1:]) == rows[row["b"]]
        assert isinstance(enriched["since"][0], dt.date)

    @pytest.mark.parametrize("kind", ["pandas", "pyarrow", "numpy"])
    def test_the_kind_of_table_is_kept(self, kind: str) -> None:
        bank, shop = BANK.select("person", "a"), SHOP.select("person", "b")
        tables = {
            "pandas": (bank.to_pandas(), shop.to_pandas()),
            "pyarrow": (bank.to_arrow(), shop.to_arrow()),
            "numpy": (bank.to_numpy(), shop.to_numpy()),
        }[kind]
        on, name = ("x0", "x1") if kind == "numpy" else ("person", "b")
        result = both(
            vfl.enrich, *tables, on=on, duplicates="first", shop_columns=[name], accept_leakage=["payload"]
        )
        assert type(result["bank"]) is type(tables[0])
        truth = reduced(BANK, "person", "first").join(reduced(SHOP, "person", "first"), on="person")
        assert len(result["bank"]) == len(truth)

    def test_equal_names_get_the_other_party_as_suffix(self) -> None:
        result = both(
            vfl.enrich,
            BANK,
            BANK,
            on="person",
            duplicates="first",
            shop_columns=["a"],
            accept_leakage=["payload"],
        )
        assert "a_shop" in result["bank"].columns

    def test_needs_consent(self) -> None:
        with pytest.raises(PolicyRefused, match="payload"):
            both(vfl.enrich, on="person", duplicates="first", shop_columns=["b"])

    def test_mistakes(self) -> None:
        with pytest.raises(ConfigError, match="named by the party that gives"):
            both(vfl.enrich, on="person", bank_columns=["a"], accept_leakage=["payload"])
        wrong = SHOP.to_pandas()
        wrong["things"] = [[1]] * len(wrong)
        with pytest.raises(InvalidData, match="'things' cannot be handed over"):
            both(
                vfl.enrich, BANK, wrong, on="person", duplicates="first", shop_columns=["things"],
                accept_leakage=["payload"],
            )  # fmt: skip


class TestSpine:
    def test_lines_up_the_union(self) -> None:
        options = {"on": "email", "normalise": "email", "nulls": "drop", "duplicates": "first"}
        result = both(vfl.spine, **options)
        one, two = result["bank"], result["shop"]
        assert len(one.table) == len(two.table) == len(one.present)
        common = (one.present * two.present).astype(bool)
        left, right = one.table.filter(common.tolist()), two.table.filter(common.tolist())
        assert pairs(left, right, "a", "b") == expected("email", "first", "first")
        absent = one.table.filter((one.present == 0).tolist())
        assert absent["a"].sum() == absent["person"].sum() == 0
        assert set(absent["email"].to_list()) == {""}
        assert one.present.sum() == len(reduced(BANK.drop_nulls("email"), "person", "first"))

    def test_numpy_and_pandas(self) -> None:
        bank, shop = BANK.select("person", "a").to_numpy(), SHOP.select("person", "b").to_pandas()
        result = vfl.simulate(
            bank=lambda: vfl.spine(bank, on="x0", duplicates="first"),
            shop=lambda: vfl.spine(shop, on="person", duplicates="first"),
        )
        one, two = result["bank"], result["shop"]
        common = (one.present * two.present).astype(bool)
        assert one.table[common][:, 0].tolist() == two.table["person"][common].tolist()
        assert not one.table[one.present == 0].any()

    def test_a_weighted_sum_over_the_union_is_that_over_the_join(self) -> None:
        result = both(vfl.spine, on="person", duplicates="first")
        one, two = result["bank"], result["shop"]
        weight = one.present * two.present
        product = float((weight * one.table["a"].to_numpy() * two.table["b"].to_numpy()).sum())
        left, right = (reduced(table, "person", "first") for table in (BANK, SHOP))
        truth = left.join(right, on="person")
        assert product == float((truth["a"] * truth["b"]).sum())


class TestSeveralHosts:
    TELCO = customers([*range(100, 350), *range(120, 140)], 9, "c", missing=0.05)

    def align(self, table: pl.DataFrame, **options: Any) -> Any:
        given = {"nulls": "drop", "duplicates": "first"} | options
        return vfl.align(table, on="email", normalise="email", **given)

    @pytest.mark.parametrize("policy", ["first", "last", "drop"])
    def test_the_rows_are_those_of_a_pooled_join(self, policy: str) -> None:
        tables = {"bank": BANK, "shop": SHOP, "telco": self.TELCO}
        result = vfl.simulate(
            bank=lambda: self.align(BANK, duplicates=policy),
            shop=lambda: self.align(SHOP, duplicates=policy),
            telco=lambda: self.align(self.TELCO, duplicates=policy),
        )
        left, *others = (reduced(table.drop_nulls("email"), "person", policy) for table in tables.values())
        for other in others:
            left = left.join(other.select("person"), on="person")
        assert sorted(result["bank"]["person"].to_list()) == sorted(left["person"].to_list())
        for name in ("shop", "telco"):
            assert result[name]["person"].to_list() == result["bank"]["person"].to_list()
        shown = {record.leakage for record in result.view("telco")}
        assert shown == {Leakage.PUBLIC, Leakage.UNIFORM, Leakage.INTERSECTION}

    @pytest.mark.parametrize(
        "option",
        [
            {"duplicates": "all"},
            {"learns": "guest"},
            {"protocol": "fast"},
            {"fallback": [vfl.Key("person")]},
        ],
    )
    def test_what_is_for_one_host_only(self, option: dict[str, Any]) -> None:
        acts: dict[str, Any] = {
            name: lambda: self.align(BANK, **option) for name in ("bank", "shop", "telco")
        }
        with pytest.raises(ConfigError, match=r"with several hosts vfl\.align takes no fallback"):
            vfl.simulate(**acts)

    def test_other_modes_refuse_several_hosts(self) -> None:
        acts: dict[str, Any] = {
            name: lambda: vfl.spine(BANK, on="person", duplicates="first") for name in ("b", "s", "t")
        }
        with pytest.raises(LocalProtocolError, match="b has 2 hosts"):
            vfl.simulate(**acts)

    def test_the_ledger_remembers_each_host(self, tmp_path: Path) -> None:
        def together(table: pl.DataFrame) -> Any:
            acts: dict[str, Any] = {name: lambda: vfl.align(BANK, on="a") for name in ("shop", "telco")}
            return vfl.simulate(ledger=tmp_path, bank=lambda: vfl.align(table, on="a"), **acts)

        assert len(together(BANK)["bank"]) == len(BANK)
        with pytest.raises(PolicyRefused, match="differ in about 1 rows"):
            together(BANK[1:])


def repeated_data() -> tuple[pl.DataFrame, pl.DataFrame]:
    """The guest's rows repeat up to eleven times, as in the data set of the same shape."""
    draw = np.random.default_rng(5)
    times = draw.integers(1, 12, 150)
    guest = pl.DataFrame({"id": np.repeat(np.arange(150), times), "a": np.arange(times.sum())})
    return guest, pl.DataFrame({"id": draw.permutation(250)[:180], "b": np.arange(180)})


def check_repeated(guest: pl.DataFrame, host: pl.DataFrame) -> None:
    for policy in POLICIES:
        result = vfl.simulate(
            bank=lambda policy=policy: vfl.align(guest, on="id", duplicates=policy),  # type: ignore[misc]
            shop=lambda: vfl.align(host, on="id"),
        )
        truth = reduced(guest, "id", policy).join(host, on="id")
        assert pairs(result["bank"], result["shop"], "a", "b") == sorted(truth.select("a", "b").iter_rows())
        if policy != "all":
            size = vfl.simulate(
                bank=lambda policy=policy: vfl.intersection_size(guest, on="id", duplicates=policy),  # type: ignore[misc]
                shop=lambda: vfl.intersection_size(host, on="id"),
            )
            assert size["bank"] == len(truth)


def test_rows_that_repeat_up_to_eleven_times() -> None:
    check_repeated(*repeated_data())


def test_the_breast_files_with_repeated_identifiers() -> None:
    folder = shared_data("breast")
    guest = pl.read_csv(folder / "guest_repeated_ids.csv").select("id", a=pl.int_range(pl.len()))
    host = pl.read_csv(folder / "host_sample_ids.csv").select("id", b=pl.int_range(pl.len()))
    check_repeated(guest, host.unique("id", keep="first", maintain_order=True))
