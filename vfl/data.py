"""Data in: features, labels, targets and weights of one party as checked arrays.

Every refusal names the party, the columns, a count and a remedy, and never the value of a row (the classes of
labels are named: they are this party's own). Nothing here talks to a peer, so nothing is revealed to one.
The functions on tables come from :mod:`vfl.tables` and can be imported from here.
"""

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from vfl.errors import InvalidData, MissingValues, SchemaMismatch
from vfl.tables import (
    Table,
    as_frame,
    columns_of,
    like,
    listed,
    number_of_rows,
    read_table,
    schema,
    shortened,
    take_columns,
    take_rows,
    without_columns,
)

__all__ = [
    "LARGEST_CLASSES",
    "FeatureMatrix",
    "Labels",
    "Table",
    "amounts",
    "columns_of",
    "features",
    "labels",
    "like",
    "number_of_rows",
    "offsets",
    "read_table",
    "same_columns",
    "schema",
    "take_columns",
    "take_rows",
    "targets",
    "weights",
    "without_columns",
]

LARGEST = 1e100  # beyond this a value is a mark for "missing" or an error, not a measurement
EXACT_INTEGERS = 2**53  # float64 holds every integer below
LARGEST_CLASSES = 100  # more are a number rather than a class


@dataclass(frozen=True, eq=False)
class FeatureMatrix:
    """The numeric columns of one party.

    Attributes
    ----------
    values : ndarray of float64, shape (rows, columns)
        C-contiguous, finite, at most 1e100 in absolute value.
    names : tuple of str
        One name per column, all different.
    """

    values: NDArray[np.float64]
    names: tuple[str, ...]

    @property
    def constant_columns(self) -> tuple[str, ...]:
        """Names of the columns that hold a single value: allowed, but without use to a model."""
        same = (self.values == self.values[0]).all(axis=0)
        return tuple(name for name, constant in zip(self.names, same, strict=True) if constant)


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of classes, encoded.

    Attributes
    ----------
    encoded : ndarray of float64, shape (rows,)
        Place of each row's class: 0 for the first class, 1 for the second, and so on.
    classes : ndarray, shape (classes,)
        The classes, sorted as scikit-learn's ``classes_``.
    """

    encoded: NDArray[np.float64]
    classes: NDArray[Any]


def features(table: Table, party: str, *, minimum_rows: int = 2) -> FeatureMatrix:
    """Return the columns of `table` as one float64 matrix.

    Parameters
    ----------
    table : table
        Numeric and Boolean columns only, without identifiers and labels.
    party : str
        Name of this party, for error texts.
    minimum_rows : int
        Fewest rows allowed: two to fit a model, one to predict.

    Raises
    ------
    InvalidData
        No or too few rows, no columns, repeated names, columns that are not numbers, infinite values,
        values beyond 1e100, integers of 2^53 or more (they are identifiers rather than measurements).
    MissingValues
        Nulls or NaN.
    """
    names = columns_of(table, party)
    rows = number_of_rows(table, party)
    if not names:
        raise InvalidData(f"{party}: the table has no feature columns")
    if rows < minimum_rows:
        raise InvalidData(f"{party}: the table has {rows} rows; at least {minimum_rows} are needed")
    values = _array_values(table, party) if isinstance(table, np.ndarray) else _frame_values(table, party)
    _check_finite(values, names, party)
    return FeatureMatrix(values, names)


def labels(y: Any, party: str, *, rows: int | None = None, most_classes: int = 2) -> Labels:
    """Return labels of two classes, or of more, as 0, 1, ...

    Parameters
    ----------
    y : array-like, shape (rows,)
        Any values, two by default: {0, 1}, {-1, 1}, Booleans, two strings.
    party : str
        Name of this party, for error texts.
    rows : int, optional
        Number of labels expected.
    most_classes : int
        Classes at most.

    Raises
    ------
    InvalidData
        One class or too many, mixed types, another length than `rows`.
    MissingValues
        Nulls or NaN.
    """
    values = _vector(y, "labels", party, rows)
    if values.dtype.kind not in "biufUO":
        raise InvalidData(f"{party}: labels of type {values.dtype}; use two numbers, strings or Booleans")
    classes, encoded, counts = np.unique(values, return_inverse=True, return_counts=True)
    if not 2 <= len(classes) <= most_classes:
        shown = shortened([f"{name!r}: {n} rows" for name, n in zip(classes.tolist(), counts, strict=True)])
        remedy = "for a number use a regression" if len(classes) > 1 else "a model needs examples of both"
        wanted = "2" if most_classes == 2 else f"2 to {most_classes}"
        raise InvalidData(
            f"{party}: the labels have {len(classes)} classes ({shown}), not {wanted}; {remedy}"
        )
    return Labels(encoded.reshape(-1).astype(np.float64), classes)


def with_gaps(y: Any, party: str, *, rows: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return labels of which some may be null, and which are not; the errors are those of :func:`labels`."""
    values, missing = _vector_and_nulls(y, "labels", party)
    if len(values) != rows:
        raise InvalidData(f"{party}: {len(values)} labels for {rows} rows")
    return values, ~missing


def targets(y: Any, party: str, *, rows: int | None = None) -> NDArray[np.float64]:
    """Return the targets of a regression as float64; the errors are those of :func:`labels`."""
    return _measurements(y, "targets", party, rows)


def amounts(
    y: Any, party: str, what: str, *, rows: int | None = None, zero: bool = False
) -> NDArray[np.float64]:
    """Return positive numbers as float64: counts, amounts, exposures.

    Parameters
    ----------
    y : array-like, shape (rows,)
    party : str
    what : str
        What they are, for error texts: ``"targets"``.
    rows : int, optional
    zero : bool
        Whether zeros are allowed; they must not all be zero.

    Raises
    ------
    InvalidData
        Numbers that are negative, zero where that is not allowed, or all zero.
    """
    values = _measurements(y, what, party, rows)
    wrong = int((values < 0).sum() if zero else (values <= 0).sum())
    if wrong:
        raise InvalidData(
            f"{party}: {wrong} {what} are {'negative' if zero else 'not positive'}; this model is for "
            f"{'counts and amounts from zero up' if zero else 'positive amounts'}"
        )
    if not values.any():
        raise InvalidData(f"{party}: all {what} are zero; there is nothing to learn")
    return values


def offsets(offset: Any, rows: int, party: str) -> NDArray[np.float64]:
    """Return the known parts of scores as float64; the errors are those of :func:`labels`."""
    return _measurements(offset, "offsets", party, rows)


def weights(sample_weight: Any, rows: int, party: str) -> NDArray[np.float64]:
    """Return one positive weight per row; all ones if `sample_weight` is None.

    Raises
    ------
    InvalidData
        A weight that is not positive and finite, or another number of weights than `rows`.
    MissingValues
        Nulls or NaN.
    """
    if sample_weight is None:
        return np.ones(rows)
    values = _measurements(sample_weight, "weights", party, rows)
    if (values <= 0).any():
        count = int((values <= 0).sum())
        raise InvalidData(f"{party}: {count} weights are not positive; drop those rows instead")
    return values


def _array_values(array: NDArray[Any], party: str) -> NDArray[np.float64]:
    if array.dtype.kind not in "biuf":
        raise InvalidData(
            f"{party}: the array is of type {array.dtype}, not of numbers; convert it with astype(float) or "
            "pass a frame"
        )
    if array.dtype.kind in "iu":
        names = columns_of(array)
        _check_exact([names[i] for i in range(len(names)) if not _is_exact(array[:, i])], party)
    return _as_floats(array)


def _as_floats(array: NDArray[Any]) -> NDArray[np.float64]:
    """Convert; a masked value becomes NaN and a long double out of range an infinity, to be refused later."""
    with np.errstate(over="ignore"):
        values = np.array(np.ma.getdata(array), dtype=np.float64, order="C", subok=False)
    values[np.ma.getmaskarray(array)] = np.nan
    return values


def _frame_values(table: Table, party: str) -> NDArray[np.float64]:
    frame = as_frame(table, party)
    types = dict(zip(columns_of(table, party), frame.schema.values(), strict=True))
    refused = [
        f"{name!r} ({type(dtype).__name__})"
        for name, dtype in types.items()
        if not (dtype.is_numeric() or dtype == nw.Boolean)
    ]
    if refused:
        raise InvalidData(
            f"{party}: {len(refused)} of {len(types)} columns are not numbers: {shortened(refused)}; drop "
            "them or encode them at this party first, for instance with scikit-learn's OneHotEncoder in a "
            "ColumnTransformer"
        )
    columns = list(zip(types, frame.iter_columns(), strict=True))
    integers = [(name, column.drop_nulls()) for name, column in columns if column.dtype.is_integer()]
    _check_exact([name for name, column in integers if not _is_exact(column)], party)
    values = np.empty((len(frame), len(types)))
    for i, (_, column) in enumerate(columns):
        values[:, i] = column.cast(nw.Float64).to_numpy()
    return values


def _check_exact(large: Sequence[str], party: str) -> None:
    if large:
        raise InvalidData(
            f"{party}: integers of 2^53 or more in {listed(large)}, which float64 does not hold exactly; if they "
            "are identifiers, drop these columns"
        )


def _is_exact(column: Any) -> bool:
    """Tell whether float64 holds every integer of a narwhals series without nulls, or of an array."""
    return len(column) == 0 or -EXACT_INTEGERS < int(column.min()) <= int(column.max()) < EXACT_INTEGERS


def _check_finite(values: NDArray[np.float64], names: Sequence[str], party: str) -> None:
    missing = np.isnan(values).sum(axis=0)
    if missing.any():
        raise MissingValues(
            f"{party}: nulls or NaN in {_counted(names, missing)}; impute them at this party first, for "
            "instance with scikit-learn's SimpleImputer, or drop those rows before the alignment"
        )
    large = (np.abs(values) > LARGEST).sum(axis=0)
    if large.any():
        raise InvalidData(
            f"{party}: infinite values or values beyond 1e100 in {_counted(names, large)}; correct those rows"
        )


def _counted(names: Sequence[str], counts: NDArray[np.int64]) -> str:
    pairs = zip(names, counts.tolist(), strict=True)
    return shortened([f"{name!r} ({count} rows)" for name, count in pairs if count])


def _measurements(y: Any, what: str, party: str, rows: int | None) -> NDArray[np.float64]:
    values = _vector(y, what, party, rows)
    if values.dtype.kind not in "biuf":
        raise InvalidData(f"{party}: the {what} are of type {values.dtype}, not numbers")
    numbers = _as_floats(values)
    _check_finite(numbers[:, None], [what], party)
    return numbers


def _vector(y: Any, what: str, party: str, rows: int | None) -> NDArray[Any]:
    """Return `y` as a 1-D array without missing values, of one type of its own."""
    values, missing = _vector_and_nulls(y, what, party)
    if rows is not None and len(values) != rows:
        raise InvalidData(f"{party}: {len(values)} {what} for {rows} rows")
    if missing.any():
        raise MissingValues(
            f"{party}: {int(missing.sum())} of {len(values)} {what} are null or NaN; drop those rows before "
            "the alignment"
        )
    return _of_one_type(values, what, party) if values.dtype.kind == "O" else values


def _of_one_type(values: NDArray[Any], what: str, party: str) -> NDArray[Any]:
    """Return an array of Python objects as strings, Booleans or numbers; anything else is refused."""
    kinds: tuple[tuple[Any, Any], ...] = ((str, object), ((bool, np.bool_), bool), (numbers.Real, None))
    for kind, dtype in kinds:
        if all(isinstance(value, kind) for value in values):
            converted = np.array(values.tolist(), dtype=dtype)
            if converted.dtype.kind in "biuf" or kind is str:
                return converted
    names = sorted({type(value).__name__ for value in values})
    raise InvalidData(f"{party}: the {what} are of types {listed(names)}; use one type, numbers or strings")


def _vector_and_nulls(y: Any, what: str, party: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    if isinstance(y, list | tuple):
        y = np.fromiter(y, dtype=object, count=len(y))
    if isinstance(y, np.ndarray):
        column = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        if column.ndim != 1:
            raise InvalidData(f"{party}: the {what} must be one column, these have shape {column.shape}")
        return np.ma.getdata(column), _nulls(column)
    native = nw.from_native(y, allow_series=True, pass_through=True)
    if isinstance(native, nw.DataFrame) and len(native.columns) == 1:
        native = native[native.columns[0]]
    if not isinstance(native, nw.Series):
        raise InvalidData(f"{party}: the {what} must be one column, not {type(y).__name__}")
    values = native.to_numpy()
    return values, native.is_null().to_numpy() | _nulls(values)


def _nulls(values: NDArray[Any]) -> NDArray[np.bool_]:
    missing: NDArray[np.bool_] = np.ma.getmaskarray(values).copy()
    if values.dtype.kind == "O":
        missing |= np.array([v is None or (isinstance(v, float) and v != v) for v in values], dtype=bool)
    elif values.dtype.kind in "fc":
        missing |= np.isnan(np.ma.getdata(values))
    return missing


def same_columns(have: tuple[str, ...], expected: tuple[str, ...], party: str) -> None:
    """Check that a table has the columns of the training in their order.

    Raises
    ------
    SchemaMismatch
    """
    if have != expected:
        missing, extra = sorted(set(expected) - set(have)), sorted(set(have) - set(expected))
        raise SchemaMismatch(
            f"{party}: the training has {len(expected)} columns in a fixed order; "
            f"missing: {', '.join(missing) or 'none'}; "
            f"unexpected: {', '.join(extra) or 'none'}; select the training columns in the same order"
        )
