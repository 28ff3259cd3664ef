"""Tables in and out: every kind gives the same arrays, every unusable table its own error."""

import datetime as dt
import gzip
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal

from vfl import data
from vfl.errors import ConfigError, InvalidData, MissingValues, SchemaMismatch

Columns = dict[str, list[Any]]
KINDS: dict[str, Callable[[Columns], Any]] = {
    "polars": lambda columns: pl.DataFrame(columns, strict=False),
    "pandas": lambda columns: pd.DataFrame(
        columns, index=range(100, 100 + len(next(iter(columns.values()))))
    ),
    "pandas-nullable": lambda columns: pd.DataFrame(columns).convert_dtypes(),
    "pandas-arrow": lambda columns: pd.DataFrame(columns).convert_dtypes(dtype_backend="pyarrow"),
    "pyarrow": pa.table,
}
GOOD: Columns = {"age": [31, 52, 40], "income": [1.5, -2.25, 1e90], "owner": [True, False, True]}


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Callable[[Columns], Any]:
    return KINDS[request.param]


def rows_of(table: Any) -> list[tuple[Any, ...]]:
    if isinstance(table, pd.DataFrame):
        return list(table.itertuples(index=False, name=None))
    rows: list[tuple[Any, ...]] = pl.DataFrame(table).rows()
    return rows


class TestFeatures:
    def test_every_kind_of_table_gives_the_same_matrix(self, make: Callable[[Columns], Any]) -> None:
        result = data.features(make(GOOD), "bank")
        assert result.names == ("age", "income", "owner")
        assert result.values.dtype == np.float64
        assert result.values.flags.c_contiguous
        assert_array_equal(result.values, [[31, 1.5, 1], [52, -2.25, 0], [40, 1e90, 1]])

    @pytest.mark.parametrize(
        "dtype", ["bool", "int8", "uint64", "float16", "float32", "float64", "longdouble"]
    )
    def test_numpy_types(self, dtype: str) -> None:
        array = np.asfortranarray(np.array([[0, 1, 1], [1, 0, 1]], dtype=dtype))
        result = data.features(array, "bank")
        assert result.names == ("x0", "x1", "x2")
        assert result.values.flags.c_contiguous
        assert_array_equal(result.values, [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])

    def test_the_users_array_is_not_shared(self) -> None:
        array = np.ones((2, 2))
        data.features(array, "bank").values[0, 0] = 5
        assert array[0, 0] == 1

    def test_decimals_are_numbers(self) -> None:
        table = pl.DataFrame({"a": [Decimal("1.25"), Decimal("-3.5")]})
        assert_array_equal(data.features(table, "bank").values, [[1.25], [-3.5]])

    def test_constant_columns_are_reported(self) -> None:
        table = pl.DataFrame({"a": [1, 1], "b": [1, 2], "c": [0.5, 0.5]})
        assert data.features(table, "bank").constant_columns == ("a", "c")

    def test_missing_values_are_counted_by_column(self, make: Callable[[Columns], Any]) -> None:
        table = make({"age": [31, None, None], "income": [1.0, float("nan"), 2.0], "id": [1, 2, 3]})
        with pytest.raises(
            MissingValues, match=r"^bank: .*'age' \(2 rows\), 'income' \(1 rows\);.*SimpleImputer"
        ):
            data.features(table, "bank")

    @pytest.mark.parametrize("dtype", ["Int64", "int64[pyarrow]", "Float64", "boolean"])
    def test_columns_without_any_value(self, dtype: str) -> None:
        with pytest.raises(MissingValues, match=r"'a' \(2 rows\)"):
            data.features(pd.DataFrame({"a": pd.array([None, None], dtype=dtype)}), "bank")  # type: ignore[call-overload]

    def test_masked_values_are_missing(self) -> None:
        table = np.ma.masked_array(np.ones((3, 2)), mask=np.array([[0, 0], [0, 1], [0, 1]], dtype=bool))
        with pytest.raises(MissingValues, match=r"'x1' \(2 rows\)"):
            data.features(table, "bank")

    @pytest.mark.parametrize("value", [float("inf"), float("-inf"), 1.01e100, -1e101])
    def test_infinite_and_huge_values(self, make: Callable[[Columns], Any], value: float) -> None:
        with pytest.raises(InvalidData, match=r"^bank: .*1e100 in 'a' \(1 rows\)"):
            data.features(make({"a": [1.0, value], "b": [1.0, 2.0]}), "bank")

    def test_the_largest_value_is_allowed(self) -> None:
        assert data.features(np.array([[1e100], [-1e100]]), "bank").values[0, 0] == 1e100

    def test_a_long_double_beyond_float64(self) -> None:
        with pytest.raises(InvalidData, match="1e100"):
            data.features(np.array([[1], [np.longdouble("1e400")]], dtype=np.longdouble), "bank")

    def test_integers_that_float64_cannot_hold(self, make: Callable[[Columns], Any]) -> None:
        with pytest.raises(InvalidData, match=r"2\^53 or more in 'customer',.*; if they are identifiers"):
            data.features(make({"customer": [2**53 + 1, 5], "b": [1, 2]}), "bank")
        with pytest.raises(InvalidData, match=r"2\^53 or more in 'x0'"):
            data.features(np.array([[2**60], [1]]), "bank")

    def test_text_is_refused_with_the_columns_named(self, make: Callable[[Columns], Any]) -> None:
        table = make({"city": ["Ulm", "Bonn"], "age": [1, 2], "job": ["a", None]})
        with pytest.raises(
            InvalidData, match=r"^bank: 2 of 3 columns .*'city' \(String\), 'job' .*OneHotEncoder"
        ) as caught:
            data.features(table, "bank")
        assert "Bonn" not in str(caught.value)

    @pytest.mark.parametrize(
        "table",
        [
            pl.DataFrame({"odd": pl.Series(["x", "y"], dtype=pl.Categorical)}),
            pl.DataFrame({"odd": pl.Series(["x", "y"], dtype=pl.Enum(["x", "y"]))}),
            pl.DataFrame({"odd": [dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 2)]}),
            pl.DataFrame({"odd": [dt.date(2020, 1, 1), dt.date(2020, 1, 2)]}),
            pl.DataFrame({"odd": [dt.timedelta(1), dt.timedelta(2)]}),
            pl.DataFrame({"odd": [[1], [2]]}),
            pl.DataFrame({"odd": [b"1", b"2"]}),
            pl.DataFrame({"odd": [None, None]}),
            pd.DataFrame({"odd": [1 + 2j, 1]}),
            pd.DataFrame({"odd": [object(), 1]}),
            pd.DataFrame({"odd": pd.Categorical(["x", "y"])}),
            pa.table({"odd": pa.array(["x", "y"]).dictionary_encode()}),
        ],
    )
    def test_odd_types_of_columns(self, table: Any) -> None:
        with pytest.raises(InvalidData, match="'odd'"):
            data.features(table, "bank")

    @pytest.mark.parametrize(
        "array",
        [
            np.array([[1 + 2j], [3]]),
            np.array([["1"], ["2"]]),
            np.array([[1.0], [None]], dtype=object),
            np.array([["2020-01-01"], ["2020-01-02"]], dtype="datetime64[D]"),
        ],
    )
    def test_odd_types_of_arrays(self, array: Any) -> None:
        with pytest.raises(InvalidData, match=r"^bank: the array is of type .*astype\(float\)"):
            data.features(array, "bank")

    @pytest.mark.parametrize(
        ("table", "text"),
        [
            (np.ones(3), "plain 2-D array"),
            (np.ones((2, 2, 2)), "plain 2-D array"),
            (np.zeros(3, dtype=[("a", "f8")]), "plain 2-D array"),
            (np.ones((0, 2)), "0 rows; at least 2"),
            (np.ones((1, 2)), "1 rows; at least 2"),
            (np.ones((3, 0)), "no feature columns"),
            (pl.DataFrame(), "no feature columns"),
            (pl.DataFrame({"a": []}), "0 rows"),
            (pd.DataFrame({"a": [1]}), "1 rows"),
            (pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]), "several columns are named 'a'"),
            (pd.DataFrame([[1, 2], [3, 4]], columns=[1, "1"]), "share a name"),
            (pa.Table.from_arrays([pa.array([1, 2])] * 2, names=["a", "a"]), "several columns are named 'a'"),
            (pl.LazyFrame({"a": [1, 2]}), r"LazyFrame is not a table.*\.collect\(\)"),
            ([[1, 2], [3, 4]], "list is not a table"),
            ({"a": [1, 2]}, "dict is not a table"),
            (pd.Series([1, 2]), "Series is not a table"),
            (None, "NoneType is not a table"),
        ],
    )
    def test_shapes_and_kinds_that_are_no_table(self, table: Any, text: str) -> None:
        with pytest.raises(InvalidData, match=rf"^bank: .*{text}"):
            data.features(table, "bank")

    def test_one_row_is_enough_to_predict(self) -> None:
        assert data.features(np.ones((1, 2)), "bank", minimum_rows=1).values.shape == (1, 2)

    def test_many_columns_are_abbreviated(self) -> None:
        with pytest.raises(InvalidData, match=r"'c9' \(String\) and 15 more;"):
            data.features(pl.DataFrame({f"c{i}": ["a", "b"] for i in range(25)}), "bank")


LABELS = [
    ([0, 1, 1], [0, 1]),
    ([2, 1, 2], [1, 2]),
    ([-1, 1, 1], [-1, 1]),
    ([0.0, 1.0, 0.0], [0.0, 1.0]),
    ([True, False, True], [False, True]),
    (["good", "bad", "good"], ["bad", "good"]),
]


class TestLabels:
    @pytest.mark.parametrize(("values", "classes"), LABELS)
    @pytest.mark.parametrize(
        "kind",
        [list, np.array, pd.Series, pl.Series, pa.array, lambda v: pd.Series(v).convert_dtypes(),
         lambda v: np.array(v, dtype=object), lambda v: np.array(v)[:, None], lambda v: pl.DataFrame({"y": v}),
         lambda v: pa.chunked_array([v[:1], v[1:]])],
    )  # fmt: skip
    def test_two_classes_in_any_kind(
        self, values: list[Any], classes: list[Any], kind: Callable[..., Any]
    ) -> None:
        y = kind(values)
        if isinstance(y, pa.Array):
            y = pa.chunked_array([y])
        result = data.labels(y, "bank", rows=3)
        assert result.classes.tolist() == classes
        assert result.encoded.dtype == np.float64
        assert_array_equal(result.encoded, [classes.index(value) for value in values])

    def test_classes_are_those_of_scikit_learn(self) -> None:
        from sklearn.linear_model import LogisticRegression

        for values, _ in LABELS:
            fitted = LogisticRegression().fit(np.arange(3.0)[:, None], values)
            assert data.labels(values, "bank").classes.tolist() == fitted.classes_.tolist()

    def test_categorical_labels(self) -> None:
        assert data.labels(pd.Series(["b", "a"], dtype="category"), "bank").classes.tolist() == ["a", "b"]
        assert data.labels(pl.Series(["b", "a"], dtype=pl.Categorical), "bank").classes.tolist() == ["a", "b"]

    @pytest.mark.parametrize(
        ("values", "text"),
        [
            ([1, 1, 1], r"1 classes \(1: 3 rows\), not 2; a model needs examples of both"),
            (
                ["a", "b", "c", "a"],
                r"3 classes \('a': 2 rows, 'b': 1 rows, 'c': 1 rows\), not 2; for a number",
            ),
            (list(range(50)), r"50 classes .* and 40 more\)"),
            ([], r"0 classes"),
            ([0, "1"], "types 'int', 'str'"),
            ([b"a", b"b"], "types 'bytes'"),
            (np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[D]"), "type datetime64"),
            (np.array([1j, 2]), "type complex"),
            (np.ones((2, 2)), r"one column, these have shape \(2, 2\)"),
            (pl.DataFrame({"a": [0, 1], "b": [0, 1]}), "one column, not DataFrame"),
            ("01", "one column, not str"),
            (None, "one column, not NoneType"),
        ],
    )
    def test_unusable_labels(self, values: Any, text: str) -> None:
        with pytest.raises(InvalidData, match=rf"^bank: .*{text}"):
            data.labels(values, "bank")

    @pytest.mark.parametrize(
        "values",
        [
            [0, None, 1],
            [0.0, float("nan"), 1.0],
            ["a", None, "b"],
            np.array([0.0, np.nan, 1.0]),
            np.ma.masked_array([0, 1, 1], mask=[False, True, False]),
            pd.Series([0, None, 1]),
            pd.Series(["a", None, "b"]),
            pd.Series([0, None, 1], dtype="Int64"),
            pl.Series([0, None, 1]),
            pl.Series([0.0, float("nan"), 1.0]),
            pa.chunked_array([[0, None, 1]]),
        ],
    )
    def test_missing_labels(self, values: Any) -> None:
        with pytest.raises(MissingValues, match=r"^bank: 1 of 3 labels are null or NaN"):
            data.labels(values, "bank")

    def test_another_number_of_rows(self) -> None:
        with pytest.raises(InvalidData, match=r"^bank: 2 labels for 3 rows"):
            data.labels([0, 1], "bank", rows=3)


class TestTargetsAndWeights:
    def test_targets_are_floats(self) -> None:
        assert_array_equal(data.targets(pl.Series([1, 2]), "bank", rows=2), [1.0, 2.0])
        assert data.targets([1, 2.5], "bank").dtype == np.float64

    @pytest.mark.parametrize(
        ("values", "error", "text"),
        [
            (["a", "b"], InvalidData, "targets are of type"),
            ([1.0, float("inf")], InvalidData, r"1e100 in 'targets' \(1 rows\)"),
            ([1.0, None], MissingValues, "1 of 2 targets"),
            ([1.0], InvalidData, "1 targets for 2 rows"),
        ],
    )
    def test_unusable_targets(self, values: Any, error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=f"^bank: .*{text}|^bank: {text}"):
            data.targets(values, "bank", rows=2)

    def test_weights(self) -> None:
        assert_array_equal(data.weights(None, 3, "bank"), [1.0, 1.0, 1.0])
        assert_array_equal(data.weights([1, 2], 2, "bank"), [1.0, 2.0])

    @pytest.mark.parametrize(
        ("values", "error", "text"),
        [
            ([1, 0, -1], InvalidData, "2 weights are not positive"),
            ([1, 1, float("inf")], InvalidData, "1e100"),
            ([1, 1, float("nan")], MissingValues, "1 of 3 weights"),
            ([1, 1], InvalidData, "2 weights for 3 rows"),
            (np.ones((2, 3)), InvalidData, "must be one column"),
        ],
    )
    def test_unusable_weights(self, values: Any, error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            data.weights(values, 3, "bank")


MIXED: Columns = {"id": ["a", "b", None], "n": [1, 2, 3], "f": [0.5, None, 2.5]}


class TestTables:
    def test_rows_in_the_given_order_and_the_same_kind(self, make: Callable[[Columns], Any]) -> None:
        table = make(MIXED)
        taken = data.take_rows(table, np.array([2, 0, 2]))
        assert type(taken) is type(table)
        assert data.schema(taken) == data.schema(table)
        assert [row[1] for row in rows_of(taken)] == [3, 1, 3]
        assert data.number_of_rows(taken) == 3

    def test_no_rows(self, make: Callable[[Columns], Any]) -> None:
        taken = data.take_rows(make(MIXED), np.array([], dtype=np.int64))
        assert data.number_of_rows(taken) == 0
        assert data.columns_of(taken) == ("id", "n", "f")

    def test_pandas_keeps_its_types_and_counts_its_rows_anew(self) -> None:
        table = pd.DataFrame(
            {"c": pd.Categorical(["x", "y"]), "n": pd.array([1, None], dtype="Int8"), "t": pd.Timestamp(0)},
            index=[7, 7],
        )
        taken = data.take_rows(table, np.array([1, 0]))
        assert taken.dtypes.tolist() == table.dtypes.tolist()
        assert isinstance(taken.index, pd.RangeIndex)
        assert table.index.tolist() == [7, 7]

    def test_numpy(self) -> None:
        array = np.arange(6, dtype=np.int16).reshape(3, 2)
        taken = data.take_rows(array, np.array([2, 1]))
        assert taken.dtype == np.int16
        assert_array_equal(taken, [[4, 5], [2, 3]])
        assert_array_equal(data.without_columns(array, ["x0"]), [[1], [3], [5]])

    def test_columns(self, make: Callable[[Columns], Any]) -> None:
        table = make(MIXED)
        assert data.columns_of(data.take_columns(table, ["f", "id"])) == ("f", "id")
        kept = data.without_columns(table, ["id"])
        assert type(kept) is type(table)
        assert data.columns_of(kept) == ("n", "f")

    def test_columns_that_are_not_there(self, make: Callable[[Columns], Any]) -> None:
        for change in (data.take_columns, data.without_columns):
            with pytest.raises(
                SchemaMismatch, match=r"^bank: no column 'phone'; the table has 'id', 'n', 'f'"
            ):
                change(make(MIXED), ["phone"], "bank")

    def test_pandas_columns_named_by_numbers(self) -> None:
        table = pd.DataFrame([[1.0, 2.0], [3.0, 5.0]])
        assert data.features(table, "bank").names == ("0", "1")
        assert_array_equal(data.take_columns(table, ["1"]).to_numpy(), [[2.0], [5.0]])

    def test_results_as_the_same_kind(self, make: Callable[[Columns], Any]) -> None:
        values = np.array([[0.25, 0.75], [0.5, 0.5]])
        result = data.like(make(MIXED), values, ["p0", "p1"])
        assert type(result) is type(make(MIXED))
        assert data.columns_of(result) == ("p0", "p1")
        assert rows_of(result) == [(0.25, 0.75), (0.5, 0.5)]
        assert data.like(np.ones((1, 1)), values, ["p0", "p1"]) is values

    def test_the_schema_is_the_same_for_every_kind(self) -> None:
        expected = [("id", "String"), ("n", "Int64"), ("f", "Float64"), ("b", "Boolean")]
        columns: Columns = {"id": ["a"], "n": [1], "f": [0.5], "b": [True]}
        assert all(data.schema(make(columns)) == expected for make in KINDS.values())

    def test_the_schema_holds_no_values(self) -> None:
        table = pl.DataFrame({"e": pl.Series(["secret"], dtype=pl.Enum(["secret"]))})
        assert data.schema(table) == [("e", "Enum")]

    @pytest.mark.parametrize(
        ("dtype", "name"),
        [("f4", "Float32"), ("u1", "UInt8"), ("?", "Boolean"), ("U3", "String"), ("O", "Object")],
    )
    def test_the_schema_of_an_array(self, dtype: str, name: str) -> None:
        assert data.schema(np.zeros((1, 2), dtype=dtype)) == [("x0", name), ("x1", name)]


class TestFiles:
    TEXT = "phone,age,income\n0049,31,1.5\n+49,52,\n,40,2\n"

    @pytest.mark.parametrize("name", ["t.csv", "t.CSV", "t.csv.gz"])
    def test_csv(self, tmp_path: Path, name: str) -> None:
        raw = self.TEXT.encode()
        (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
        table = data.read_table(tmp_path / name, text=["phone"])
        assert table["phone"].to_list() == ["0049", "+49", None]
        assert table["age"].to_list() == [31, 52, 40]
        assert table["income"].to_list() == [1.5, None, 2.0]

    def test_types_are_inferred_from_all_rows(self, tmp_path: Path) -> None:
        path = tmp_path / "t.csv"
        path.write_text("a\n" + "1\n" * 5000 + "2.5\n")
        assert data.read_table(path)["a"].dtype == pl.Float64

    def test_byte_order_mark_and_another_separator(self, tmp_path: Path) -> None:
        path = tmp_path / "t.csv"
        path.write_bytes("\ufeffid;n\n01;2\n".encode())
        assert data.read_table(path, text=["id"], separator=";").rows() == [("01", 2)]

    def test_parquet(self, tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        pl.DataFrame({"phone": ["0049"], "n": [1]}).write_parquet(path)
        assert data.read_table(path, text=["phone"]).rows() == [("0049", 1)]

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (b"", "not readable as CSV"),
            (b"\n\n", "not readable as CSV"),
            (b"a,b\n1,2,3\n", "not readable as CSV"),
            (b"a,b\nM\xfcller,2\n", "UTF-8"),
            (b'a,b\n"4711-0815,2\n', "closed quotes"),
            (b"\x00\xff\xfe", "not readable as CSV"),
            (b"a,b,a\n1,2,3\n", "several columns are named 'a'"),
            (b"id;n\n1;2\n", "seem to be separated by ';'; pass separator=';'"),
        ],
    )
    def test_damaged_csv(self, tmp_path: Path, content: bytes, text: str) -> None:
        path = tmp_path / "t.csv"
        path.write_bytes(content)
        with pytest.raises(InvalidData, match=f"{path.name}: .*{text}") as caught:
            data.read_table(path)
        assert "4711" not in str(caught.value).replace(str(path), "")
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    @pytest.mark.parametrize("content", [b"", b"PAR1 and nothing else"])
    def test_damaged_parquet(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "t.parquet"
        path.write_bytes(content)
        with pytest.raises(InvalidData, match="not a complete Parquet file"):
            data.read_table(path)

    def test_a_text_column_that_is_not_there(self, tmp_path: Path) -> None:
        csv, parquet = tmp_path / "t.csv", tmp_path / "t.parquet"
        csv.write_text(self.TEXT)
        pl.read_csv(csv).write_parquet(parquet)
        for path in (csv, parquet):
            with pytest.raises(
                SchemaMismatch, match="no column 'fone'; the file has 'phone', 'age', 'income'"
            ):
                data.read_table(path, text=["fone"])

    def test_no_such_file_and_no_such_format(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"missing\.csv: no such file"):
            data.read_table(tmp_path / "missing.csv")
        with pytest.raises(ConfigError, match="no such file"):
            data.read_table(tmp_path)
        other = tmp_path / "t.xlsx"
        other.write_bytes(b"")
        with pytest.raises(ConfigError, match=r"none of \.csv, \.csv\.gz and \.parquet"):
            data.read_table(other)
