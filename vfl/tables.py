"""Tables: their columns, rows and types, whatever the kind, and files into tables.

A table is a 2-D numpy array or an eager pandas, polars or pyarrow frame; narwhals hides the differences.
Files are read with polars. Nothing here talks to a peer.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import narwhals as nw
import numpy as np
from narwhals.exceptions import DuplicateError
from numpy.typing import NDArray

from vfl.errors import ConfigError, InvalidData, SchemaMismatch

if TYPE_CHECKING:
    import polars

__all__ = [
    "Table",
    "as_frame",
    "columns_of",
    "like",
    "listed",
    "number_of_rows",
    "read_table",
    "schema",
    "shortened",
    "take_columns",
    "take_rows",
    "without_columns",
]

Table: TypeAlias = Any  # a 2-D numpy array, or a pandas, polars or pyarrow frame
T = TypeVar("T")


def columns_of(table: Table, party: str = "this party") -> tuple[str, ...]:
    """Return the column names; those of a numpy array are x0, x1, ... as in scikit-learn."""
    if isinstance(table, np.ndarray):
        return tuple(f"x{i}" for i in range(_two_dimensional(table, party).shape[1]))
    names = tuple(str(name) for name in as_frame(table, party).columns)
    if len(set(names)) < len(names):
        raise InvalidData(f"{party}: columns share a name once written as text; rename them")
    return names


def number_of_rows(table: Table, party: str = "this party") -> int:
    """Return the number of rows."""
    if isinstance(table, np.ndarray):
        return len(_two_dimensional(table, party))
    return len(as_frame(table, party))


def schema(table: Table, party: str = "this party") -> list[tuple[str, str]]:
    """Return (column name, type name) pairs, the same for equal content in any kind of table.

    The type names are those of narwhals without parameters, so no category and no unit is in them.
    """
    names = columns_of(table, party)
    if isinstance(table, np.ndarray):
        return [(name, _array_type(table)) for name in names]
    types = [type(dtype).__name__ for dtype in as_frame(table, party).schema.values()]
    return list(zip(names, types, strict=True))


def take_rows(table: T, positions: NDArray[np.int64], party: str = "this party") -> T:
    """Return the rows at `positions`, in that order, as the same kind of table.

    The types of the columns are kept. A pandas result has a new index 0, 1, 2, ...
    """
    if isinstance(table, np.ndarray):
        return cast(T, _two_dimensional(table, party)[positions])
    taken = as_frame(table, party)[np.asarray(positions, dtype=np.int64)]
    return cast(T, nw.maybe_reset_index(taken).to_native())


def take_columns(table: T, names: Sequence[str], party: str = "this party") -> T:
    """Return the columns `names`, in that order, as the same kind of table.

    Raises
    ------
    SchemaMismatch
        `table` has no column of such a name.
    """
    present = columns_of(table, party)
    missing = [name for name in names if name not in present]
    if missing:
        raise SchemaMismatch(f"{party}: no column {listed(missing)}; the table has {listed(present)}")
    places = [present.index(name) for name in names]
    if isinstance(table, np.ndarray):
        return cast(T, table[:, places])
    return cast(T, as_frame(table, party)[:, places].to_native())


def without_columns(table: T, names: Sequence[str], party: str = "this party") -> T:
    """Return the columns other than `names`; the errors are those of :func:`take_columns`."""
    take_columns(table, names, party)
    return take_columns(table, [name for name in columns_of(table, party) if name not in names], party)


def like(table: T, values: NDArray[np.float64], names: Sequence[str]) -> T:
    """Return `values`, shape (rows, columns), as the same kind of table as `table`, with columns `names`."""
    if isinstance(table, np.ndarray):
        return cast(T, values)
    backend = as_frame(table, "this party").implementation
    columns = {name: np.ascontiguousarray(values[:, i]) for i, name in enumerate(names)}
    return cast(T, nw.from_dict(columns, backend=backend).to_native())


def read_table(
    path: str | os.PathLike[str], *, text: Sequence[str] = (), separator: str = ","
) -> "polars.DataFrame":
    """Read a CSV (also .csv.gz) or Parquet file.

    Parameters
    ----------
    path : path
        The suffix tells the format: .csv, .csv.gz or .parquet.
    text : sequence of str
        Columns of a CSV file to keep exactly as written, such as identifiers: "0049" stays "0049".
        A Parquet file stores its types.
    separator : str
        The character between two fields of a CSV file.

    Returns
    -------
    polars.DataFrame
        Empty fields are null; the types are inferred from all rows.

    Raises
    ------
    ConfigError
        No such file, or another suffix.
    InvalidData
        The content is damaged, or column names repeat.
    SchemaMismatch
        A column of `text` is not in the file.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{file}: no such file")
    if not file.name.lower().endswith((".csv", ".csv.gz", ".parquet")):
        raise ConfigError(f"{file}: the suffix is none of .csv, .csv.gz and .parquet")
    if file.suffix.lower() == ".parquet":
        return _read_parquet(file, text)
    return _read_csv(file, text, separator)


def _read_parquet(file: Path, text: Sequence[str]) -> "polars.DataFrame":
    import polars as pl

    try:
        table = pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError):
        raise InvalidData(f"{file}: not a complete Parquet file") from None
    _check_present(text, table.columns, file)
    return table


def _read_csv(file: Path, text: Sequence[str], separator: str) -> "polars.DataFrame":
    import polars as pl

    try:
        # Read apart, because polars renames repeated columns silently.
        header = pl.read_csv(file, has_header=False, n_rows=1, infer_schema=False, separator=separator)
        names = [name or "" for name in header.row(0)]
        _check_header(names, text, separator, file)
        return pl.read_csv(
            file,
            schema_overrides=dict.fromkeys(text, pl.String),
            infer_schema_length=None,
            separator=separator,
        )
    except (pl.exceptions.PolarsError, OSError):  # their texts quote the field at fault
        raise InvalidData(
            f"{file}: not readable as CSV; it must be UTF-8 with a header, as many fields in every row as "
            "the header has, and closed quotes"
        ) from None


def _check_header(names: list[str], text: Sequence[str], separator: str, file: Path) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InvalidData(f"{file}: several columns are named {listed(repeated)}; rename them")
    other = next((mark for mark in ";\t|," if mark != separator and mark in names[0]), None)
    if len(names) == 1 and other:
        raise InvalidData(f"{file}: the fields seem to be separated by {other!r}; pass separator={other!r}")
    _check_present(text, names, file)


def _check_present(wanted: Sequence[str], names: Sequence[str], file: Path) -> None:
    missing = [name for name in wanted if name not in names]
    if missing:
        raise SchemaMismatch(f"{file}: no column {listed(missing)}; the file has {listed(names)}")


def as_frame(table: Table, party: str) -> nw.DataFrame[Any]:
    """Return a pandas, polars or pyarrow table behind narwhals' interface.

    Raises
    ------
    InvalidData
        `table` is something else, or lazy, or has repeated column names.
    """
    try:
        return nw.from_native(table, eager_only=True)
    except DuplicateError:
        names = [str(name) for name in getattr(table, "column_names", table.columns)]
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise InvalidData(f"{party}: several columns are named {listed(repeated)}; rename them") from None
    except TypeError:
        lazy = "; call .collect() on it first" if hasattr(table, "collect") else ""
        raise InvalidData(
            f"{party}: {type(table).__name__} is not a table; use a 2-D numpy array or a pandas, polars or "
            f"pyarrow frame{lazy}"
        ) from None


def _two_dimensional(array: NDArray[Any], party: str) -> NDArray[Any]:
    if array.ndim != 2 or array.dtype.names:
        raise InvalidData(f"{party}: a numpy table must be a plain 2-D array, not of shape {array.shape}")
    return array


def _array_type(array: NDArray[Any]) -> str:
    kinds = {"b": "Boolean", "U": "String", "S": "Binary", "O": "Object", "M": "Datetime", "m": "Duration"}
    stems = {"f": "Float", "i": "Int", "u": "UInt", "c": "Complex"}
    kind = array.dtype.kind
    return f"{stems[kind]}{8 * array.dtype.itemsize}" if kind in stems else kinds.get(kind, "Unknown")


def listed(names: Sequence[str]) -> str:
    """Return names for an error text, quoted, at most ten."""
    return shortened([repr(name) for name in names])


def shortened(items: Sequence[str]) -> str:
    """Return items for an error text, at most ten."""
    return ", ".join(items[:10]) + (f" and {len(items) - 10} more" if len(items) > 10 else "")
