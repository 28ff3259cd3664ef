"""Tables larger than memory: the same rows as in one piece, from any source, and going on after an interruption."""

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import polars as pl
import pytest

import vfl
from tests.messy import customers, reduced
from vfl import partitions, streaming
from vfl.errors import (
    AlignmentError,
    ConfigError,
    ConfigMismatch,
    DuplicateIds,
    InvalidIds,
    MalformedMessage,
    PolicyRefused,
)

BANK = customers([*range(400), *range(40)], 1, "a", missing=0.05)
SHOP = customers([*range(250, 700), *range(260, 300)], 2, "b", missing=0.05)
RECIPE = {"normalise": "email", "nulls": "drop", "duplicates": "first"}


def run(
    folder: Path,
    *,
    bank: Any = BANK,
    shop: Any = SHOP,
    simulated: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[vfl.AlignedFiles, vfl.AlignedFiles]:
    options = {"on": "email", "partitions": 4, **RECIPE, **options}

    def act(source: Any, name: str) -> Callable[[], Any]:
        return lambda: vfl.align_files(
            source, output=folder / name / "out", work=folder / name / "work", **options
        )

    result = vfl.simulate(bank=act(bank, "bank"), shop=act(shop, "shop"), **(simulated or {}))
    return result["bank"], result["shop"]


def rows(found: vfl.AlignedFiles) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(file) for file in found.files])


def expected(policy: str = "first", key: str = "email") -> list[tuple[int, int]]:
    left, right = (reduced(table.drop_nulls(key), "person", policy) for table in (BANK, SHOP))
    return sorted(left.join(right, on="person").select("a", "b").iter_rows())


def check(one: vfl.AlignedFiles, two: vfl.AlignedFiles, truth: list[tuple[int, int]]) -> None:
    left, right = rows(one), rows(two)
    assert left["person"].to_list() == right["person"].to_list()
    assert sorted(zip(left["a"], right["b"], strict=True)) == truth
    assert one.rows == two.rows == len(truth)


@pytest.mark.parametrize("policy", ["first", "last", "drop", "all"])
def test_the_rows_are_those_of_a_pooled_join(policy: str, tmp_path: Path) -> None:
    one, two = run(tmp_path, bank=batches(BANK, 70), shop=batches(SHOP, 90), duplicates=policy)
    check(one, two, expected(policy))
    assert len(one.files) == 4


def batches(table: pl.DataFrame, size: int) -> list[pl.DataFrame]:
    return [table[first : first + size] for first in range(0, len(table), size)]


@pytest.mark.parametrize("protocol", ["fast", "dh"])
def test_each_protocol(protocol: str, tmp_path: Path) -> None:
    check(*run(tmp_path, bank=[BANK], shop=[SHOP], protocol=protocol), expected())


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "BATCH", 100)
    monkeypatch.setattr(partitions, "PIECE", 10)
    for name, table in (("bank", BANK), ("shop", SHOP)):
        path = tmp_path / f"{name}.{suffix}"
        table.write_csv(path) if suffix == "csv" else table.write_parquet(path)
    one, two = run(tmp_path, bank=tmp_path / f"bank.{suffix}", shop=str(tmp_path / f"shop.{suffix}"))
    check(one, two, expected())


def test_an_iterator_of_other_tables_and_the_wish_for_more_partitions(tmp_path: Path) -> None:
    one, two = run(tmp_path, bank=(part.to_pandas() for part in batches(BANK, 111)), shop=[SHOP.to_arrow()])
    check(one, two, expected())


def test_identifiers_in_csv_files_keep_their_zeros(tmp_path: Path) -> None:
    table = pl.DataFrame({"email": [f"{i:06d}" for i in range(500)], "person": range(500)})
    table.with_columns(a="person").write_csv(tmp_path / "bank.csv")
    shop = table.with_columns(b="person")[100:]
    one, two = run(tmp_path, bank=tmp_path / "bank.csv", shop=[shop], normalise="exact")
    check(one, two, [(i, i) for i in range(100, 500)])


def test_long_plain_columns_go_by_the_bulk_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vfl.identifiers.QUICK", 100)
    bank = pl.DataFrame({"email": range(1000), "person": range(1000), "a": range(1000)})
    shop = pl.DataFrame({"email": [str(i) for i in range(600, 1500)], "person": range(600, 1500)})
    shop = shop.with_columns(b="person")
    check(*run(tmp_path, bank=[bank], shop=[shop], normalise="exact"), [(i, i) for i in range(600, 1000)])


def test_batches_by_either_path_make_one_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text beyond ASCII takes the slow path, and its batch writes bytes where others write text."""
    monkeypatch.setattr("vfl.identifiers.QUICK", 100)
    names = [f"{i:04d}" for i in range(300)] + [f"Zo\u00eb {i}" for i in range(300)]
    bank = pl.DataFrame({"email": names, "person": range(600), "a": range(600)})
    shop = bank.rename({"a": "b"})[200:400].with_columns(pl.col("email").str.normalize("NFD"))
    one, two = run(
        tmp_path, bank=batches(bank, 300), shop=batches(shop, 100), normalise="exact", partitions=2
    )
    check(one, two, [(i, i) for i in range(200, 400)])


def spec(count: int) -> partitions.Spec:
    return partitions.Spec(("person",), ("exact",), "error", "first", count)


def test_more_partitions_take_larger_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "BATCH", 20)
    monkeypatch.setattr(partitions, "PIECE", 10)
    pl.DataFrame({"person": range(200)}).write_parquet(tmp_path / "bank.parquet")
    for count, files in ((1, 10), (4, 5), (20, 1)):
        folder = tmp_path / str(count)
        cut = partitions.partition(
            tmp_path / "bank.parquet", spec(count), folder, "bank", None, lambda *_: None
        )
        assert len(list((folder / "00000").iterdir())) == files
        loaded = [cut.load(number, "bank")[0]["person"].to_list() for number in range(count)]
        assert sorted(itertools.chain(*loaded)) == list(range(200))


def test_one_of_several_workers_cuts_and_the_others_wait(tmp_path: Path) -> None:
    reads = itertools.count()

    def source() -> Any:
        next(reads)
        for part in batches(BANK, 100):
            time.sleep(0.05)
            yield part

    def cut() -> partitions.Partitions:
        return partitions.partition(source(), spec(3), tmp_path / "rows", "bank", None, lambda *_: None)

    with ThreadPoolExecutor(3) as workers:
        cuts = [future.result() for future in [workers.submit(cut) for _ in range(3)]]
    assert next(reads) == 1
    assert {each.rows for each in cuts} == {len(BANK)}


def test_rows_that_cannot_be_written_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, place: int, *_: Any) -> None:
        if place == 1:
            raise OSError(28, "no space left on device")

    monkeypatch.setattr(streaming._Run, "_keep", full)
    with pytest.raises(OSError, match="no space left"):
        run(tmp_path, bank=[BANK], shop=[SHOP])


@pytest.mark.parametrize("victim", ["bank", "shop"])
def test_goes_on_where_it_was_cut_off(victim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = itertools.count()
    compare = streaming._Run._compare

    def dies(self: Any, *arguments: Any) -> Any:
        if self.session.name == victim and next(done) == 2:
            raise KeyboardInterrupt
        return compare(self, *arguments)

    monkeypatch.setattr(streaming._Run, "_compare", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, bank=[BANK], shop=[SHOP])
    compared: list[str] = []

    def counts(self: Any, *arguments: Any) -> Any:
        compared.append(self.session.name)
        return compare(self, *arguments)

    monkeypatch.setattr(streaming._Run, "_compare", counts)
    one, two = run(tmp_path, bank=[BANK], shop=[SHOP])
    check(one, two, expected())
    assert compared.count("bank") == compared.count("shop") == 2
    compared.clear()
    check(*run(tmp_path, bank=[BANK], shop=[SHOP]), expected())
    assert not compared


def test_a_partition_that_one_side_has_lost_is_compared_again(tmp_path: Path) -> None:
    first, _ = run(tmp_path, bank=[BANK], shop=[SHOP])
    first.files[1].unlink()
    check(*run(tmp_path, bank=[BANK], shop=[SHOP]), expected())


def test_workers_share_the_partitions(tmp_path: Path) -> None:
    parts = [run(tmp_path, bank=[BANK], shop=[SHOP], worker=(number, 3)) for number in range(3)]
    assert [len(one.files) for one, _ in parts] == [2, 1, 1]
    left, right = (pl.concat([rows(pair[side]) for pair in parts]) for side in (0, 1))
    assert sorted(zip(left["a"], right["b"], strict=True)) == expected()
    with pytest.raises(ConfigError, match="worker 3 of 3"):
        run(tmp_path, worker=(3, 3))


def test_processes_as_the_backend(tmp_path: Path) -> None:
    with joblib.parallel_config(backend="loky", n_jobs=2):
        check(*run(tmp_path, bank=batches(BANK, 200), shop=[SHOP]), expected())


class TestRefusals:
    def test_other_parameters_in_the_same_folder(self, tmp_path: Path) -> None:
        run(tmp_path, bank=[BANK], shop=[SHOP])
        with pytest.raises(ConfigError, match="was made with other duplicates"):
            run(tmp_path, bank=[BANK], shop=[SHOP], duplicates="last")

    def test_repeated_identifiers(self, tmp_path: Path) -> None:
        with pytest.raises(DuplicateIds, match=r"rows share \d+ identifiers"):
            run(tmp_path, bank=[BANK], shop=[SHOP], duplicates="error")

    def test_damaged_identifiers_name_the_batch(self, tmp_path: Path) -> None:
        bad = pl.DataFrame({"email": ["nobody"]})
        with pytest.raises(InvalidIds, match=r"do not read as 'email'.*begins with row 440"):
            run(tmp_path, bank=[BANK, bad], shop=[SHOP])

    def test_no_identifiers(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidIds, match="no row has an identifier"):
            run(tmp_path, bank=[BANK.with_columns(email=pl.lit(None, pl.String))], shop=[SHOP])

    def test_other_protocols(self, tmp_path: Path) -> None:
        def act(name: str, table: pl.DataFrame, protocol: Any) -> Any:
            return lambda: vfl.align_files(
                [table], "email", tmp_path / name, work=tmp_path / f"{name}.work", protocol=protocol,
                normalise="email", nulls="drop", duplicates="first", partitions=2,
            )  # fmt: skip

        with pytest.raises(ConfigMismatch, match="protocol"):
            vfl.simulate(bank=act("bank", BANK, "dh"), shop=act("shop", SHOP, "fast"))

    def test_too_few_common_rows(self, tmp_path: Path) -> None:
        with pytest.raises(AlignmentError, match="common customers"):
            run(tmp_path, bank=[BANK], shop=[SHOP], simulated={"minimum_intersection": 1000})

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no such file"):
            run(tmp_path, bank=tmp_path / "none.csv", shop=[SHOP])
        (tmp_path / "x.txt").write_text("a")
        with pytest.raises(ConfigError, match="the suffix is none of"):
            run(tmp_path, bank=tmp_path / "x.txt", shop=[SHOP])

    def test_the_ledger_compares_whole_lists(self, tmp_path: Path) -> None:
        ledger = {"ledger": tmp_path / "ledgers"}
        run(tmp_path / "one", bank=[BANK], shop=[SHOP], simulated=ledger)
        run(tmp_path / "one", bank=[BANK], shop=[SHOP], simulated=ledger)
        with pytest.raises(PolicyRefused, match="differ in about"):
            run(tmp_path / "two", bank=[BANK[3:]], shop=[SHOP], simulated=ledger)


@pytest.mark.parametrize("policy", ["first", "last", "drop", "all"])
def test_repeated_identifiers_of_plain_columns(policy: str, tmp_path: Path) -> None:
    bank = pl.DataFrame(
        {"email": [str(i % 150) for i in range(200)], "person": [i % 150 for i in range(200)]}
    )
    shop = pl.DataFrame({"email": range(120, 180), "person": range(120, 180)})
    bank, shop = bank.with_row_index("a"), shop.with_row_index("b")
    one, two = run(tmp_path, bank=batches(bank, 70), shop=[shop], normalise="exact", duplicates=policy)
    left, right = (reduced(table, "person", policy) for table in (bank, shop))
    check(one, two, sorted(left.join(right, on="person").select("a", "b").iter_rows()))


def test_repeated_identifiers_are_refused_by_default(tmp_path: Path) -> None:
    table = pl.DataFrame({"email": [1, 2, 3, 2], "person": range(4)})
    with pytest.raises(DuplicateIds, match="2 rows share 1 identifiers"):
        run(tmp_path, bank=[table], shop=[table[:2]], normalise="exact", duplicates="error", partitions=1)


@pytest.mark.parametrize("wish", [-1, 10_001])
def test_numbers_of_partitions_that_are_none(wish: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="possible are 1 to 10,000"):
        run(tmp_path, partitions=wish)


@pytest.mark.parametrize("told", ["[null]", "3", "{", "[null, null, null, null, null]"])
def test_a_peer_that_does_not_say_what_it_has_finished(told: str, tmp_path: Path) -> None:
    class Told:
        peer = type("Peer", (), {"name": "shop"})

    cut: Any = None
    one = streaming._Run(Told(), cut, tmp_path, tmp_path, "fast", (0, 1))  # type: ignore[arg-type]
    with pytest.raises(MalformedMessage, match="shop does not say"):
        one._told(told, range(4))
    assert one._told('[null, "a"]', range(1, 5, 2)) == {1: None, 3: "a"}
