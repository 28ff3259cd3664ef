"""What a network reads of a party's table: standardised numbers, and categories as places in a list."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from vfl import data, tables
from vfl.blocks import Limits
from vfl.errors import InvalidData, MissingValues, SchemaMismatch

__all__ = ["Inputs", "Values"]

FloatArray = NDArray[np.float64]
CUT_OFF = 5.0
"""Standard deviations beyond which a number is cut off."""
MOST_CATEGORIES = 10_000
TEXT = (nw.String, nw.Categorical, nw.Enum)


@dataclass(frozen=True, eq=False)
class Values:
    """Rows as a network reads them.

    Attributes
    ----------
    numbers : ndarray of float32, shape (rows, numeric columns)
    codes : ndarray of int64, shape (rows, categorical columns)
        0 for a category that the training did not have.
    """

    numbers: NDArray[np.float32]
    codes: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.numbers)

    def rows(self, places: NDArray[np.int64]) -> "Values":
        """Return some of the rows."""
        return Values(self.numbers[places], self.codes[places])

    @property
    def raw(self) -> NDArray[np.uint8]:
        """The bytes of each row, shape (rows, bytes)."""
        parts = [np.ascontiguousarray(self.numbers, "<f4"), np.ascontiguousarray(self.codes, "<i8")]
        return np.hstack([part.view(np.uint8).reshape(len(self), -1) for part in parts])


@dataclass(frozen=True, eq=False)
class Inputs:
    """How a party's columns become a network's inputs; learned from the training rows.

    Attributes
    ----------
    names : tuple of str
        All columns, in their order.
    categories : dict of str to list of str
        The categories of each categorical column, as text.
    lower, upper, mean, scale : ndarray, shape (numeric columns,)
    """

    names: tuple[str, ...]
    categories: dict[str, list[str]]
    lower: FloatArray
    upper: FloatArray
    mean: FloatArray
    scale: FloatArray

    @classmethod
    def fit(cls, table: Any, categorical: Sequence[str] | None, party: str) -> tuple[Self, Values]:
        """Learn from the training rows.

        Parameters
        ----------
        table : table, shape (rows, own columns)
        categorical : sequence of str, or None
            Columns of categories, whatever their type, beside those of text.
        party : str

        Returns
        -------
        Inputs, Values

        Raises
        ------
        InvalidData, MissingValues, SchemaMismatch
        """
        names = tables.columns_of(table, party)
        unknown = [name for name in categorical or () if name not in names]
        if unknown:
            raise SchemaMismatch(f"{party}: categorical names {tables.listed(unknown)}: no such column")
        chosen = [name for name in names if name in _texts(table, party) or name in (categorical or ())]
        categories = {name: sorted(set(_category(table, name, party))) for name in chosen}
        for name, found in categories.items():
            if len(found) > MOST_CATEGORIES:
                raise InvalidData(
                    f"{party}: column {name!r} has {len(found)} categories, at most {MOST_CATEGORIES} are learned: an "
                    "identifier? Leave it out"
                )
        numbers = _numbers(table, [name for name in names if name not in categories], party, minimum_rows=2)
        limits = Limits.of(numbers, CUT_OFF)
        kept = limits.apply(numbers)
        deviation = kept.std(axis=0)
        scale = np.where(deviation > 1e-12, deviation, 1.0)
        inputs = cls(names, categories, limits.lower, limits.upper, kept.mean(axis=0), scale)
        return inputs, inputs.values(table, party)

    def values(self, table: Any, party: str) -> Values:
        """Return rows as the network reads them; the errors are those of :meth:`fit`."""
        data.same_columns(tables.columns_of(table, party), self.names, party)
        numbers = _numbers(table, self.numeric, party, minimum_rows=1)
        standard = (np.clip(numbers, self.lower, self.upper) - self.mean) / self.scale
        codes = np.zeros((len(numbers), len(self.categories)), np.int64)
        for place, (name, known) in enumerate(self.categories.items()):
            code = {category: number for number, category in enumerate(known, 1)}
            codes[:, place] = [code.get(category, 0) for category in _category(table, name, party)]
        return Values(standard.astype(np.float32), codes)

    @property
    def numeric(self) -> list[str]:
        """The columns that are not categorical."""
        return [name for name in self.names if name not in self.categories]

    @property
    def sizes(self) -> list[int]:
        """Number of categories of each categorical column, with one for all others."""
        return [len(known) + 1 for known in self.categories.values()]


def _texts(table: Any, party: str) -> set[str]:
    """Return the columns of text."""
    if isinstance(table, np.ndarray):
        return set(tables.columns_of(table, party)) if table.dtype.kind in "US" else set()
    schema = tables.as_frame(table, party).schema
    return {
        str(name) for name, kind in schema.items() if kind in TEXT or _texts_of_objects(table, name, kind)
    }


def _texts_of_objects(table: Any, name: str, kind: Any) -> bool:
    """Return whether a column of Python objects, as pandas has them, holds text."""
    if kind != nw.Object:
        return False
    column = tables.as_frame(table, "this party")[name].to_list()
    return any(isinstance(value, str) for value in column)


def _numbers(table: Any, names: Sequence[str], party: str, *, minimum_rows: int) -> FloatArray:
    if names:
        return data.features(
            tables.take_columns(table, names, party), party, minimum_rows=minimum_rows
        ).values
    rows = tables.number_of_rows(table, party)
    if rows < minimum_rows:
        raise InvalidData(f"{party}: the table has {rows} rows; at least {minimum_rows} are needed")
    return np.zeros((rows, 0))


def _category(table: Any, name: str, party: str) -> list[str]:
    """Return a column as text; whole numbers are written alike whatever their type."""
    if isinstance(table, np.ndarray):
        values = table[:, tables.columns_of(table, party).index(name)].tolist()
    else:
        values = tables.as_frame(table, party)[name].to_list()
    missing = sum(value is None or value != value for value in values)
    if missing:
        raise MissingValues(
            f"{party}: column {name!r} has {missing} missing values; give them a category of their own"
        )
    return [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in values]
