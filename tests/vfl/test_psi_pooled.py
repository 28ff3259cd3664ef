"""Every mode of intersection on messy lists and repeated identifiers: the rows of a pooled join, under each policy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

import vfl
from tests.messy import customers, pairs, reduced, shared_data
from vfl.protocols.wire import Leakage, encode

POLICIES = ("first", "last", "drop")
UNTRIMMED = {"email": "email", "phone": "phone:DE"}


class Case(NamedTuple):
    """Two tables with a truth in `person`, own row numbers in `a` and `b`, values in `v`, and how to match them."""

    bank: pl.DataFrame
    shop: pl.DataFrame
    options: dict[str, Any]

    def joined(self, policy: str, other: str | None = None) -> pl.DataFrame:
        left, right = (
            reduced(table, "person", chosen)
            for table, chosen in ((self.bank, policy), (self.shop, other or policy))
        )
        return left.join(right, on="person", suffix="_shop")


def messy(key: str) -> Case:
    bank = customers([*range(120), *range(30), *range(12)], 11, "a", missing=0.06).drop_nulls(key)
    shop = customers([*range(80, 200), *range(85, 95), *range(20)], 12, "b", missing=0.06).drop_nulls(key)
    return Case(bank, shop.with_columns(v=pl.col("b") * 0.25), {"on": key, "normalise": UNTRIMMED[key]})


def repeated(folder: Path | None) -> Case:
    """Rows of the guest that stand up to eleven times, and of the host up to three."""
    if folder is None:
        draw = np.random.default_rng(5)
        bank = pl.DataFrame({"person": np.repeat(np.arange(100), draw.integers(1, 12, 100))})
        people = pl.DataFrame({"person": draw.permutation(160)[:110]})
    else:
        bank = pl.read_csv(folder / "guest_repeated_ids.csv").select(person="id")
        people = pl.read_csv(folder / "host_sample_ids.csv").select(person="id")
    shop = pl.concat([people, people[::2], people[::4]])
    bank = bank.with_columns(id=pl.col("person"), a=pl.int_range(pl.len()))
    shop = shop.with_columns(id=pl.col("person"), b=pl.int_range(pl.len()), v=pl.int_range(pl.len()) * 0.25)
    return Case(bank, shop, {"on": "id"})


@pytest.fixture(params=["email", "phone", "repeated", "breast"], scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    name: str = request.param
    if name in UNTRIMMED:
        return messy(name)
    return repeated(shared_data("breast") if name == "breast" else None)


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def both(case: Case, call: Callable[..., Any], policy: str, **options: Any) -> vfl.Simulation:
    """Run a function at both parties; options under `bank_` and `shop_` are one party's own."""
    common = case.options | {"duplicates": policy}
    common |= {name: value for name, value in options.items() if not name.startswith(("bank_", "shop_"))}
    own = {
        side: {name[5:]: value for name, value in options.items() if name.startswith(f"{side}_")}
        for side in ("bank", "shop")
    }
    return vfl.simulate(
        accept_leakage=["payload"],
        bank=lambda: call(case.bank, **(common | own["bank"])),
        shop=lambda: call(case.shop, **(common | own["shop"])),
    )


@pytest.mark.parametrize("protocol", ["dh", "fast"])
def test_rows(case: Case, policy: str, protocol: str) -> None:
    result = both(case, vfl.align, policy, protocol=protocol)
    truth = case.joined(policy)
    assert pairs(result["bank"], result["shop"], "a", "b") == sorted(truth.select("a", "b").iter_rows())
    assert result["bank"]["person"].to_list() == result["shop"]["person"].to_list()


@pytest.mark.parametrize(("one", "two"), [("all", "all"), ("all", "last"), ("drop", "all")])
def test_all_rows(case: Case, one: str, two: str) -> None:
    result = both(case, vfl.align, one, shop_duplicates=two)
    truth = case.joined(one, two)
    assert pairs(result["bank"], result["shop"], "a", "b") == sorted(truth.select("a", "b").iter_rows())


@pytest.mark.parametrize("learns", ["guest", "host"])
def test_rows_for_one_side(case: Case, policy: str, learns: str) -> None:
    result = both(case, vfl.align, policy, learns=learns)
    knows, other, column = ("bank", "shop", "a") if learns == "guest" else ("shop", "bank", "b")
    assert result[other] is None
    assert sorted(result[knows][column].to_list()) == sorted(case.joined(policy)[column].to_list())


def test_count(case: Case, policy: str) -> None:
    result = both(case, vfl.intersection_size, policy)
    assert result["bank"] == len(case.joined(policy))


def test_sum(case: Case, policy: str) -> None:
    result = both(case, vfl.intersection_sum, policy, owner="host", shop_columns=["v"])
    truth = case.joined(policy)
    assert result["shop"] == {"rows": len(truth), "v": float(truth["v"].sum())}


def test_columns(case: Case, policy: str) -> None:
    result = both(case, vfl.enrich, policy, shop_columns=["b", "v"])
    truth = case.joined(policy).select("a", "b", "v")
    assert sorted(result["bank"].select("a", "b", "v").iter_rows()) == sorted(truth.iter_rows())


def test_spine(case: Case, policy: str) -> None:
    result = both(case, vfl.spine, policy)
    one, two = result["bank"], result["shop"]
    common = (one.present * two.present).astype(bool).tolist()
    truth = case.joined(policy)
    found = pairs(one.table.filter(common), two.table.filter(common), "a", "b")
    assert found == sorted(truth.select("a", "b").iter_rows())


def test_several_hosts(case: Case, policy: str) -> None:
    third = case.shop.sample(fraction=0.7, seed=3, shuffle=True).rename({"b": "c"})
    acts: dict[str, Any] = {
        name: lambda table=table: vfl.align(table, **case.options, duplicates=policy)  # type: ignore[arg-type]
        for name, table in (("bank", case.bank), ("shop", case.shop), ("telco", third))
    }
    result = vfl.simulate(**acts)
    truth = case.joined(policy).join(reduced(third, "person", policy), on="person", suffix="_third")
    rows = zip(
        *(result[name][column].to_list() for name, column in zip(acts, "abc", strict=True)), strict=True
    )
    assert sorted(rows) == sorted(truth.select("a", "b", "c").iter_rows())


def test_files(case: Case, policy: str, tmp_path: Path) -> None:
    def act(table: pl.DataFrame, name: str) -> Callable[[], Any]:
        options = {**case.options, "duplicates": policy, "partitions": 3, "work": tmp_path / f"{name} work"}
        return lambda: vfl.align_files([table], output=tmp_path / name, **options)

    result = vfl.simulate(bank=act(case.bank, "bank"), shop=act(case.shop, "shop"))
    one, two = (
        pl.concat([pl.read_parquet(file) for file in result[name].files]) for name in ("bank", "shop")
    )
    assert pairs(one, two, "a", "b") == sorted(case.joined(policy).select("a", "b").iter_rows())


DECLARED: dict[str, tuple[Callable[..., Any], dict[str, Any], set[str], set[str]]] = {
    "dh": (vfl.align, {"protocol": "dh"}, {"psi.tags"}, {"psi.matches"}),
    "fast": (vfl.align, {"protocol": "fast"}, {"vole.tags"}, {"vole.common"}),
    "guest learns": (vfl.align, {"learns": "guest"}, {"psi.tags"}, set()),
    "host learns": (vfl.align, {"learns": "host"}, set(), {"psi.tags"}),
    "count": (vfl.intersection_size, {}, {"psi.counttags"}, set()),
    "sum": (vfl.intersection_sum, {"owner": "host", "shop_columns": ["v"]}, {"psi.listed"}, {"psi.summed"}),
    "columns": (vfl.enrich, {"shop_columns": ["v"]}, {"psi.labels"}, set()),
    "spine": (vfl.spine, {}, {"spine.loose"}, {"spine.difference"}),
}


@pytest.mark.parametrize("mode", DECLARED)
def test_the_transcript_holds_nothing_undeclared(mode: str) -> None:
    """Beyond public facts and uniform values each side gets the messages that its docstring tells of, and no others."""
    call, options, to_bank, to_shop = DECLARED[mode]
    case = messy("email")
    result = both(case, call, "first", **options)
    for party, telling in (("bank", to_bank), ("shop", to_shop)):
        view = result.view(party)
        nothing = {Leakage.PUBLIC, Leakage.UNIFORM, Leakage.CIPHERTEXT, Leakage.CONTROL}
        assert {record.kind for record in view if record.leakage not in nothing} == telling
    wire = b"".join(encode(record.message) for record in result.transcript.records)
    for text in ("example.org", "exämple.org"):
        assert text.encode() not in wire
