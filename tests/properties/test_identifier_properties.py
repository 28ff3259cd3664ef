"""Laws that every recipe obeys, on generated text."""

import string
import unicodedata

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vfl.identifiers import prepare_ids, recipe
from vfl.recipes import canonical_value, joined

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
FICTITIOUS = st.sampled_from(["3023125", "6990009", "4066969", "2214710", "8999998"])


def once(name: str, text: str) -> bytes:
    try:
        return canonical_value(name, text)
    except ValueError:
        assume(False)
        raise


@given(st.sampled_from(["exact", "casefold"]), TEXT)
def test_normalising_twice_changes_nothing(name: str, text: str) -> None:
    key = once(name, text)
    assume(key.decode() not in ("nan", "none"))  # "NAN" is a name; the "nan" it folds to is a null
    assert canonical_value(name, key.decode()) == key


@given(TEXT, st.sampled_from(["NFC", "NFD"]), st.sampled_from(["", " ", "\t", "\u00a0\n"]))
def test_equivalent_text_has_one_key(text: str, form: str, space: str) -> None:
    other = space + unicodedata.normalize(form, text) + space  # type: ignore[arg-type]
    assert canonical_value("exact", other) == canonical_value("exact", text)


@given(st.text(string.ascii_letters + "äöüéß", min_size=4, max_size=30))
def test_letter_case_does_not_matter(text: str) -> None:
    assert canonical_value("casefold", text.upper()) == canonical_value("casefold", text.lower())


@given(
    st.text(string.ascii_letters + string.digits + "-_", min_size=1),
    st.text(string.ascii_lowercase, min_size=1),
)
def test_plus_tags_and_local_parts_stay_apart(local: str, tag: str) -> None:
    keys = {canonical_value("email", f"{name}@example.org") for name in (local, f"{local}+{tag}")}
    assert len(keys) == 2


@given(FICTITIOUS, st.integers(0, 999), st.data())
def test_every_notation_of_a_number_has_one_key(start: str, last: int, data: st.DataObject) -> None:
    number = f"{start}{last:03d}"
    prefix = data.draw(st.sampled_from(["+49", "0049", "0", "+49(0)", "0049 (0) "]))
    marks = [data.draw(st.sampled_from(["", "", " ", "-", "/", "."])) for _ in number]
    written = prefix + "".join(digit + mark for digit, mark in zip(number, marks, strict=True)).rstrip("-/. ")
    assert canonical_value("phone:DE", written) == f"+49{number}".encode()


@given(FICTITIOUS, st.integers(0, 999), st.sampled_from(["phone:DE", "phone:US", "phone:GB", "phone"]))
def test_international_numbers_do_not_depend_on_the_country(start: str, last: int, name: str) -> None:
    assert canonical_value(name, f"+49 {start} {last:03d}") == f"+49{start}{last:03d}".encode()


@given(st.dates())
def test_every_order_of_a_date_has_one_key(date: object) -> None:
    iso = str(date)
    year, month, day = iso.split("-")
    assert canonical_value("date", iso) == iso.encode()
    assert canonical_value("date:day-first", f"{int(day)}.{int(month)}.{year}") == iso.encode()
    assert canonical_value("date:month-first", f"{month}/{day}/{year}") == iso.encode()


@given(st.lists(st.binary(max_size=8), max_size=4), st.lists(st.binary(max_size=8), max_size=4))
def test_joining_is_one_to_one(first: list[bytes], second: list[bytes]) -> None:
    assert (joined(first) == joined(second)) == (first == second)


@settings(max_examples=50)
@given(st.lists(st.one_of(st.none(), st.sampled_from(["a", " a", "A", "b", "", "é", "e\u0301"])), min_size=1))
def test_prepared_identifiers_are_unique_and_point_to_their_rows(values: list[str | None]) -> None:
    import polars as pl

    assume(any(value and value.strip() for value in values))
    table = pl.DataFrame({"id": pl.Series(values, dtype=pl.String)})
    ids = prepare_ids(table, "id", nulls="drop", duplicates="first", party="bank")
    assert len(set(ids.keys)) == len(ids.keys) == len(ids.rows)
    assert len(ids.keys) + ids.empty + ids.repeated == len(values)
    assert ids.rows.tolist() == sorted(ids.rows.tolist())
    for key, row in zip(ids.keys, ids.rows.tolist(), strict=True):
        written = [recipe("exact").canonical(value) if value else b"" for value in values]
        assert written.index(key) == row
