"""Identifiers: what the recipes make of them, and the errors on those that are damaged."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import phonenumbers
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal

from vfl import recipes
from vfl.errors import ConfigError, DuplicateIds, InvalidIds, SchemaMismatch
from vfl.identifiers import PreparedIds, held_out, prepare_ids, recipe

KINDS: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "polars": pl.DataFrame,
    "pandas": pd.DataFrame,
    "pandas-nullable": lambda columns: pd.DataFrame(columns).convert_dtypes(),
    "pyarrow": pa.table,
}


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Callable[[dict[str, list[Any]]], Any]:
    return KINDS[request.param]


def prepare(values: Any, **options: Any) -> PreparedIds:
    return prepare_ids(pl.DataFrame({"id": values}), "id", party="bank", **options)


class TestRecipes:
    @pytest.mark.parametrize(
        ("name", "text", "expected"),
        [
            ("exact", "  A-1\t", "A-1"),
            ("exact", "007", "007"),
            ("exact", "\u00a0x\u2003", "x"),
            ("exact", "e\u0301", "\u00e9"),
            ("exact", "a B", "a B"),
            ("casefold", " STRASSE ", "strasse"),
            ("casefold", "Straße", "strasse"),
            ("casefold", "É", "é"),
            ("email", " Anna.Lind+News@Example.ORG ", "anna.lind+news@example.org"),
            ("email", "jürgen@MÜNCHEN.example", "jürgen@münchen.example"),
            ("email:untagged", "Anna+News@Example.org", "anna@example.org"),
            ("email:untagged", "anna@example.org", "anna@example.org"),
            ("name", " Müller ", "muller"),
            ("name", "Mu\u0308ller", "muller"),
            ("name:de", "Mu\u0308ller", "mueller"),
            ("name:de", "Mueller", "mueller"),
            ("name", "LIND,  Anna", "anna lind"),
            ("name", "O'Brien", "obrien"),
            ("name", "O\u2019Brien", "obrien"),
            ("name", "Jean-Luc", "jean luc"),
            ("name", "Dr. J. Straße", "dr j strasse"),
            ("name", "Ærøskøbing", "aeroeskoebing"),
            ("name", "Łódź", "lodz"),
            ("name", "Þórður", "thordur"),
            ("name", "Щукин Юрий", "shchukin iurii"),
            ("name", "Ёлкин", "elkin"),
            ("name", "Γιώργος", "giorgos"),
            ("name", "山田", "山田"),
            ("phone:DE", "+49 30 23125123", "+493023125123"),
            ("phone:DE", "0049-30-23125-123", "+493023125123"),
            ("phone:DE", "030/23125123", "+493023125123"),
            ("phone:DE", "(030) 23125.123", "+493023125123"),
            ("phone:DE", "+49 (0)30 23125 123", "+493023125123"),
            ("phone:DE", "tel:+49-30-23125123", "+493023125123"),
            ("phone:DE", "030\u201323125123", "+493023125123"),
            ("phone:DE", "0151 1234567", "+491511234567"),
            ("phone:DE", "+1 202 555 0123", "+12025550123"),
            ("phone:DE", "0044 20 7946 0018", "+442079460018"),
            ("phone:de", "030 23125123", "+493023125123"),
            ("phone:US", "(202) 555-0123", "+12025550123"),
            ("phone:US", "1 202 555 0123", "+12025550123"),
            ("phone:US", "011 49 30 23125123", "+493023125123"),
            ("phone:GB", "020 7946 0018", "+442079460018"),
            ("phone:IT", "06 5555 1234", "+390655551234"),
            ("phone", "+49 30 23125123", "+493023125123"),
            ("date", "1990-12-31", "1990-12-31"),
            ("date:day-first", "31.12.1990", "1990-12-31"),
            ("date:day-first", "1/2/1990", "1990-02-01"),
            ("date:day-first", "1990-12-31", "1990-12-31"),
            ("date:month-first", "12/31/1990", "1990-12-31"),
            ("date:month-first", "1-2-1990", "1990-01-02"),
        ],
    )
    def test_canonical_text(self, name: str, text: str, expected: str) -> None:
        assert recipe(name).canonical(text) == expected.encode()

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("exact", ""),
            ("exact", " \t"),
            ("exact", "nan"),
            ("exact", "None"),
            ("exact", "\ud800"),
            ("exact", "x" * 1025),
            ("exact", "é" * 513),
            ("email", "anna"),
            ("email", "@example.org"),
            ("email", "anna@"),
            ("email", "anna@localhost"),
            ("email", "anna@example..org"),
            ("email", "an na@example.org"),
            ("email", "a@b@example.org"),
            ("email", "Anna <anna@example.org>"),
            ("email:untagged", "+news@example.org"),
            ("name", "a, b, c"),
            ("name", ".."),
            ("phone:DE", "none given"),
            ("phone:DE", "Anna 030 23125123"),
            ("phone:DE", "030 CALLME12"),
            ("phone:DE", "030 23125123 x12"),
            ("phone:DE", "030 23125123 oder 030 23125124"),
            ("phone:DE", "49 30 23125123"),
            ("phone:DE", "30 23125123"),
            ("phone:DE", "110"),
            ("phone:DE", "+49"),
            ("phone:DE", "٠٣٠ ٢٣١٢٥ ١٢٣"),
            ("phone:DE", "0"),
            ("phone:DE", "+999 123456"),
            ("phone:DE", "030 23125123 030 23125124"),
            ("phone:US", "555 0123"),
            ("phone", "030 23125123"),
            ("phone", "0049 30 23125123"),
            ("date", "31.12.1990"),
            ("date", "19901231"),
            ("date", "1990-02-30"),
            ("date", "1990-W01-1"),
            ("date:day-first", "12/31/1990"),
            ("date:day-first", "31.12.90"),
            ("date:day-first", "31.12/1990"),
            ("date:month-first", "31.12.1990"),
        ],
    )
    def test_text_that_does_not_read(self, name: str, text: str) -> None:
        with pytest.raises(ValueError, match=r"\w"):
            recipe(name).canonical(text)

    def test_the_longest_identifier(self) -> None:
        assert len(recipe("exact").canonical("x" * 1024)) == 1024

    def test_several_columns_are_joined_without_ambiguity(self) -> None:
        both = recipe("exact", 2)
        assert both.canonical("ab", "c") == b"\0\0\0\2ab\0\0\0\1c"
        assert both.canonical("a", "bc") != both.canonical("ab", "c")
        assert str(recipe(["email", "date"], 2)) == "email and date"

    @pytest.mark.parametrize(
        ("name", "columns", "text"),
        [
            ("exakt", 1, "did you mean 'exact'"),
            ("zzz", 1, "there are 'exact', 'casefold'"),
            ("exact:DE", 1, "no identifier recipe is named"),
            ("date:iso", 1, "no identifier recipe is named"),
            ("phone:UK", 1, "'UK' is not the ISO 3166 code"),
            ("phone:", 1, "'' is not the ISO 3166 code"),
            (["email"], 2, "1 recipes for 2 identifier columns"),
            ([], 0, "0 recipes"),
        ],
    )
    def test_unknown_recipes(self, name: Any, columns: int, text: str) -> None:
        with pytest.raises(ConfigError, match=text):
            recipe(name, columns)


class TestDigest:
    def test_known_values(self) -> None:
        # Made by this code: a change of them is a change of how identifiers are normalised.
        assert {
            name: recipe(name).digest().hex()[:16] for name in ("exact", "casefold", "email", "date")
        } == {
            "exact": "beba7f87dc4f387f",
            "casefold": "b0321c4a09fa5264",
            "email": "db37466f6371af8b",
            "date": "62f4012428c95c95",
        }

    def test_every_recipe_has_its_own(self) -> None:
        made = [recipe(name).digest() for name in (*recipes.RECIPES, "phone:FR")]
        made += [recipe("exact", 2).digest(), recipe(["exact", "email"], 2).digest()]
        made += [recipe(["email", "exact"], 2).digest()]
        assert len({*made}) == len(made) == 15
        assert all(len(digest) == 32 for digest in made)

    def test_the_case_of_a_country_does_not_matter(self) -> None:
        assert recipe("phone:de").digest() == recipe("phone:DE").digest()

    @pytest.mark.parametrize(
        "name", ["exact", "casefold", "name", "email", "date:day-first", "phone:DE", "phone"]
    )
    def test_the_samples_tell_something(self, name: str) -> None:
        made = []
        for sample in recipes.SAMPLES:
            try:
                made.append(recipes.canonical_value(name, sample))
            except ValueError:
                continue
        assert len(set(made)) >= 2

    def test_another_numbering_plan_shows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = {name: recipe(name).digest() for name in ("phone:DE", "phone:FR", "exact")}
        current: Any = phonenumbers.PhoneMetadata.metadata_for_region

        class Later:
            """The plan of a region, with one prefix more to dial abroad: no sample of the recipe has it."""

            def __init__(self, region: str, default: None = None) -> None:
                self.plan = current(region, default)
                self.international_prefix = "00|099" if region == "DE" else self.plan.international_prefix

            def __getattr__(self, name: str) -> Any:
                return getattr(self.plan, name)

        monkeypatch.setattr(phonenumbers.PhoneMetadata, "metadata_for_region", Later)
        after = {name: recipe(name).digest() for name in before}
        assert [name for name in before if before[name] != after[name]] == ["phone:DE"]

    def test_another_behaviour_of_the_library_shows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = recipe("phone").digest()
        parse = phonenumbers.parse

        def later_version(text: str, region: str | None) -> phonenumbers.PhoneNumber:
            number = parse(text, region)
            if number.country_code == 44:
                number.national_number = int(f"{number.national_number}"[-7:])
            return number

        monkeypatch.setattr(phonenumbers, "parse", later_version)
        assert recipe("phone").digest() != before


class TestPreparing:
    def test_keys_and_rows(self, make: Callable[[dict[str, list[Any]]], Any]) -> None:
        table = make({"n": [1, 2, 3], "id": [" b", "a ", "c"]})
        ids = prepare_ids(table, "id", party="bank")
        assert ids.keys == [b"b", b"a", b"c"]
        assert ids.rows.dtype == np.int64
        assert_array_equal(ids.rows, [0, 1, 2])
        assert (ids.empty, ids.repeated, str(ids.recipe)) == (0, 0, "exact")

    def test_integers_are_written_in_decimal(self, make: Callable[[dict[str, list[Any]]], Any]) -> None:
        table = make({"id": [7, 2**62, -5]})
        assert prepare_ids(table, "id", party="bank").keys == [b"7", str(2**62).encode(), b"-5"]
        assert prepare_ids(np.array([[1, 2], [3, 4]]), "x1", party="bank").keys == [b"2", b"4"]
        assert prepare_ids(np.array([["a", "b"]]), ["x1", "x0"], party="bank").rows.tolist() == [0]

    def test_integers_meet_text(self) -> None:
        assert prepare([7, 12]).keys == prepare(["7", " 12"]).keys

    def test_several_columns(self, make: Callable[[dict[str, list[Any]]], Any]) -> None:
        table = make({"mail": ["A@B.de", "c@d.de"], "born": ["31.12.1990", "1.2.1980"]})
        ids = prepare_ids(table, ["mail", "born"], normalise=["email", "date:day-first"], party="bank")
        assert ids.keys[0] == b"\0\0\0\6a@b.de\0\0\0\x0a1990-12-31"

    @pytest.mark.parametrize(
        "column",
        [
            pl.Series([dt.date(1990, 12, 31)]),
            pl.Series([dt.datetime(1990, 12, 31)]),
            pl.Series(["1990-12-31"], dtype=pl.Categorical),
        ],
    )
    def test_dates_of_any_type(self, column: pl.Series) -> None:
        assert prepare(column, normalise="date").keys == [b"1990-12-31"]
        frame = pd.DataFrame({"id": pd.to_datetime(pd.Series(["1990-12-31", None]))})
        ids = prepare_ids(frame, "id", normalise="date:day-first", nulls="drop", party="bank")
        assert ids.keys == [b"1990-12-31"]

    def test_empty_identifiers(self, make: Callable[[dict[str, list[Any]]], Any]) -> None:
        table = make({"id": ["a", None, "", " ", "nan", "b"]})
        with pytest.raises(
            InvalidIds,
            match=r'^bank: 4 identifiers are empty \(rows 1, 2, 3, 4, counted from 0\).*nulls="drop"',
        ):
            prepare_ids(table, "id", party="bank")
        ids = prepare_ids(table, "id", nulls="drop", party="bank")
        assert ids.keys == [b"a", b"b"]
        assert_array_equal(ids.rows, [0, 5])
        assert ids.empty == 4

    def test_a_null_in_any_column_makes_the_identifier_empty(self) -> None:
        table = pl.DataFrame({"a": ["x", None, "y"], "b": ["1", "2", ""]})
        ids = prepare_ids(table, ["a", "b"], nulls="drop", party="bank")
        assert ids.rows.tolist() == [0]

    def test_masked_numpy_identifiers_are_empty(self) -> None:
        table = np.ma.masked_array([[1], [2]], mask=[[False], [True]])
        assert prepare_ids(table, "x0", nulls="drop", party="bank").keys == [b"1"]

    def test_duplicates(self, make: Callable[[dict[str, list[Any]]], Any]) -> None:
        table = make({"id": ["030 23125123", "+49 30 23125124", "0049 30 23125123", "030/23125-123"]})
        with pytest.raises(
            DuplicateIds,
            match=r"^bank: 3 rows share 1 identifiers after normalisation as phone:DE \(.*rows 2, 3,",
        ) as caught:
            prepare_ids(table, "id", normalise="phone:DE", party="bank")
        assert "23125" not in str(caught.value)
        ids = prepare_ids(table, "id", normalise="phone:DE", duplicates="first", party="bank")
        assert ids.keys == [b"+493023125123", b"+493023125124"]
        assert_array_equal(ids.rows, [0, 1])
        assert ids.repeated == 2

    @pytest.mark.parametrize(
        ("policy", "rows", "members", "counts", "left_out"),
        [
            ("first", [0, 1, 4], [0, 1, 4], [1, 1, 1], [2, 3]),
            ("last", [3, 1, 4], [3, 1, 4], [1, 1, 1], [0, 2]),
            ("drop", [1, 4], [1, 4], [1, 1], [0, 2, 3]),
            ("all", [0, 1, 4], [0, 2, 3, 1, 4], [3, 1, 1], []),
        ],
    )
    def test_policies_on_rows_that_share_an_identifier(
        self, policy: Any, rows: list[int], members: list[int], counts: list[int], left_out: list[int]
    ) -> None:
        ids = prepare(["a", "b", "a", " a", "c"], duplicates=policy)
        assert ids.rows.tolist() == rows
        assert ids.members.tolist() == members
        assert ids.counts.tolist() == counts
        assert ids.left_out.tolist() == left_out

    def test_nothing_may_be_left_of_the_repeated_ones(self) -> None:
        with pytest.raises(InvalidIds, match="every identifier in 'id' is repeated"):
            prepare(["a", "a"], duplicates="drop")

    def test_all_pairs_of_rows(self) -> None:
        ids = prepare(["a", "b", "a", "c"], duplicates="all")
        chosen, theirs = np.array([2, 0]), np.array([1, 2])
        assert ids.expanded(chosen, theirs, outer=True).tolist() == [3, 0, 0, 2, 2]
        assert ids.expanded(chosen, theirs, outer=False).tolist() == [3, 0, 2, 0, 2]

    @pytest.mark.parametrize(
        ("column", "options", "text"),
        [
            ([1.0, 2.0], {}, r"column 'id' holds floats.*read_table\(path, text=\['id'\]\)"),
            ([True, False], {}, "holds Booleans; identifiers are text or integers"),
            ([b"1"], {}, "holds bytes values"),
            ([[1]], {}, "holds list values"),
            ([dt.date(1990, 1, 1)], {}, "holds dates, which recipe 'exact' does not take"),
            (
                [dt.datetime(1990, 1, 1, 3)],
                {"normalise": "date"},
                "holds datetime values, which recipe 'date'",
            ),
            (["a", "123.0", "5.00"], {}, r"2 values of 'id' .* decimal point or exponent \(rows 1, 2,"),
            (["4.91511E+12"], {}, "decimal point or exponent"),
            (["4,9e12"], {}, "decimal point or exponent"),
            (["1E+5"], {"normalise": "phone:DE"}, "decimal point or exponent"),
            ([4930], {"normalise": "phone:DE"}, "holds integers, so a leading zero or plus is lost"),
            ([4930], {"normalise": "email"}, "holds integers"),
            ([19901231], {"normalise": "date"}, "holds integers"),
            (["a" * 1025], {}, "exceed 1024 bytes"),
            (
                ["Ünlesbar", "030 23125123"],
                {"normalise": "phone:DE"},
                r"1 values of 'id' do not read as 'phone:DE'",
            ),
            (["x"] * 9, {"normalise": "email"}, r"9 values .*\(rows 0, 1, 2, 3, 4, \.\.\., counted from 0\)"),
            (["x"], {"normalise": "date"}, r"do not read as 'date' .*\(row 0, counted from 0\)"),
            ([None, ""], {"nulls": "drop"}, "no row has an identifier in 'id'"),
            ([], {}, "no row has an identifier in 'id'"),
        ],
    )
    def test_damaged_identifiers(self, column: list[Any], options: dict[str, Any], text: str) -> None:
        with pytest.raises(InvalidIds, match=rf"^bank: .*{text}") as caught:
            prepare(column, **options)
        assert "Ünlesbar" not in str(caught.value)
        assert caught.value.__context__ is None

    @pytest.mark.parametrize(
        ("column", "text"),
        [
            (["a", 1], "mixes integers and text"),
            ([1, 2.5, None], "mixes floats and integers"),
            ([dt.date(1990, 1, 1), "1990-01-01"], "mixes dates and text"),
        ],
    )
    def test_mixed_types(self, column: list[Any], text: str) -> None:
        table = pd.DataFrame({"id": pd.Series(column, dtype=object)})
        with pytest.raises(InvalidIds, match=rf"^bank: column 'id' {text}"):
            prepare_ids(table, "id", party="bank")

    def test_integers_that_a_null_made_floats(self) -> None:
        with pytest.raises(InvalidIds, match="nulls turn integers into floats"):
            prepare_ids(pd.DataFrame({"id": [1, None, 3]}), "id", nulls="drop", party="bank")

    def test_two_long_columns(self) -> None:
        table = pl.DataFrame({"a": ["x" * 600, "y"], "b": ["x" * 600, "y"]})
        with pytest.raises(InvalidIds, match=r"^bank: 1 identifiers exceed 1024 bytes \(row 0,"):
            prepare_ids(table, ["a", "b"], party="bank")

    def test_columns_that_are_not_there(self) -> None:
        with pytest.raises(SchemaMismatch, match=r"^bank: no column 'phone'; the table has 'id'"):
            prepare_ids(pl.DataFrame({"id": ["a"]}), "phone", party="bank")

    @pytest.mark.parametrize(
        "options", [{"nulls": "ignore"}, {"duplicates": "largest"}, {"normalise": "none"}]
    )
    def test_unknown_policies(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(options.values()))):
            prepare(["a"], **options)


class TestHeldOut:
    def choose(self, values: list[str], **options: Any) -> list[bool]:
        chosen: list[bool] = held_out(pl.DataFrame({"id": values}), "id", party="bank", **options).tolist()
        return chosen

    def test_both_parties_choose_the_same_customers(self) -> None:
        ids = [f"c{i}" for i in range(200)]
        bank = dict(zip(ids, self.choose(ids, share=0.3), strict=True))
        others = [f"d{i}" for i in range(50)] + ids[::-1][:100]
        retailer = dict(zip(others, self.choose(others, share=0.3), strict=True))
        assert all(bank[name] == retailer[name] for name in ids[100:])

    def test_the_share_is_about_right(self) -> None:
        ids = [f"c{i}" for i in range(5000)]
        assert abs(np.mean(self.choose(ids, share=0.3)) - 0.3) < 0.03
        assert not any(self.choose(ids, share=0))
        assert all(self.choose(ids, share=1))

    def test_a_smaller_share_is_part_of_a_larger(self) -> None:
        ids = [f"c{i}" for i in range(300)]
        small, large = self.choose(ids, share=0.2), self.choose(ids, share=0.5)
        assert all(in_large for in_small, in_large in zip(small, large, strict=True) if in_small)

    def test_another_salt_is_another_choice(self) -> None:
        ids = [f"c{i}" for i in range(100)]
        assert self.choose(ids, share=0.5) != self.choose(ids, share=0.5, salt="second")

    def test_notations_do_not_matter_and_a_customer_keeps_together(self) -> None:
        chosen = self.choose(["030 23125123", "+493023125123"] * 2, share=0.5, normalise="phone:DE")
        assert len(set(chosen)) == 1

    def test_errors(self) -> None:
        with pytest.raises(ConfigError, match="between 0 and 1"):
            self.choose(["a"], share=1.5)
        with pytest.raises(InvalidIds, match=r"^bank: 1 identifiers are empty \(row 1,"):
            self.choose(["a", ""], share=0.5)
